"""Notebooks from their sources: `python tests/pages.py` writes each notebooks/NAME.ipynb anew from notebooks/NAME.py.

A source is a Python file in the percent format (https://jupytext.readthedocs.io/en/latest/formats-scripts.html): a line
`# %%` begins a cell of code, a line `# %% [markdown]` one of text, whose lines are comments.  A notebook is stored
without outputs, so that its source is all that it is.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class Cell(NamedTuple):
    """A cell of a notebook."""

    kind: str  # "code" or "markdown"
    text: str


def cells_of_source(source: str) -> list[Cell]:
    """The cells of a source; what stands before the first is none.

    >>> cells_of_source("# %% [markdown]\\n# A title\\n#\\n# and text\\n\\n# %%\\nx = 1\\n\\n\\n# %%\\nx\\n")
    [Cell(kind='markdown', text='A title\\n\\nand text'), Cell(kind='code', text='x = 1'), Cell(kind='code', text='x')]
    """
    parts = [part.partition("\n") for part in re.split(r"^# %%", source, flags=re.M)[1:]]
    uncommented = lambda text: re.sub(r"^# ?", "", text, flags=re.M)
    return [
        Cell("markdown", uncommented(text.strip("\n"))) if "[markdown]" in head else Cell("code", text.strip("\n"))
        for head, _, text in parts
    ]


def cells_of_notebook(content: str) -> list[Cell]:
    """The cells of a notebook."""
    return [Cell(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(content)["cells"]]


def notebook(cells: list[Cell]) -> str:
    """A notebook without outputs, as the content of its file."""
    page = {
        "cells": [_stored(number, cell) for number, cell in enumerate(cells)],
        "metadata": {"kernelspec": KERNEL, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(page, indent=1, ensure_ascii=False) + "\n"


def _stored(number: int, cell: Cell) -> dict[str, object]:
    stored = {"id": f"c{number:02}", "metadata": {}, "source": cell.text.splitlines(keepends=True)}
    unrun = {"execution_count": None, "outputs": []} if cell.kind == "code" else {}
    return dict(sorted({"cell_type": cell.kind, **stored, **unrun}.items()))


if __name__ == "__main__":
    for path in sorted(NOTEBOOKS.glob("*.py")):
        path.with_suffix(".ipynb").write_text(notebook(cells_of_source(path.read_text("utf-8"))), "utf-8")

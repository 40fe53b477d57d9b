"""What the pages say is true: README and notebooks are run, the tree is the tree, the links lead somewhere.

A notebook is what its source says, cell by cell: `pages.py`.

A `console` or `python` block of the README is run, in order, in one folder that holds the experiments.  A comment
before a block that is not run says why: `<!-- not run: ... -->`.  A `python` block that begins with `# name.py` becomes
that file.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from pages import Cell, cells_of_notebook, cells_of_source, notebook
from test_house import ROOT, tracked

from genjax.cli import main

README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAIN = "import sys; from genjax.cli import main; sys.exit(main())"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    not_run: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = re.findall(r"(?:<!-- not run: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", page, re.M | re.S)
    return [Block(language, text, why) for why, language, text in found]


def commands(block: Block) -> list[list[str]]:
    """The commands of a console block: one a line, `\\` continues a line, `#` begins a remark."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def run_here(words: list[str], folder: Path) -> None:
    """Runs one command of the README; `genjax` and `python` are those under test."""
    own = {"genjax": [sys.executable, "-c", MAIN], "python": [sys.executable]}
    name = Path(words[0]).name
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(
        [*own.get(name, [words[0]]), *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def run_page(page: str, folder: Path) -> None:
    """Runs every block of a page that is not excused."""
    for number, block in enumerate(blocks(page)):
        if block.not_run:
            continue
        if block.language == "python":
            file = folder / (re.match(r"# (\w+\.py)\n", block.text) or [None, f"block_{number}.py"])[1]
            file.write_text(block.text, encoding="utf-8")
            run_here(["python", file.name], folder)
        elif block.language == "console":
            for words in commands(block):
                run_here(words, folder)


@pytest.mark.slow
def test_the_readme_runs(tmp_path):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    run_here(["genjax", "train", "experiments/vae_digits.py"], tmp_path)  # the first block, after its set-up
    run_page(README, tmp_path)


def test_a_page_that_lies_is_found(tmp_path):
    with pytest.raises(AssertionError):
        run_page("```python\nassert 1 == 2\n```\n", tmp_path)
    with pytest.raises(AssertionError):
        run_page("```console\npython -c 'import sys; sys.exit(2)'  # a remark\n```\n", tmp_path)
    run_page("<!-- not run: on purpose -->\n```console\nfalse\n```\n```text\nfalse\n```\n", tmp_path)


def test_the_main_job_is_the_first_command():
    """The set-up cannot run inside a test: its words are compared, and what follows it is run by name."""
    setup, gate = [block for block in blocks(README) if block.language == "console"][:2]
    assert setup.text.split() == [
        *("python -m venv .venv && .venv/bin/pip install -c requirements/lock.txt -e '.[dev]'").split(),
        *("&& .venv/bin/genjax train experiments/vae_digits.py").split(),
    ]
    assert gate.text.split() == ["bash", ".ci/run"]


def test_the_overview_is_what_the_command_prints(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    assert printed in [block.text for block in blocks(README)]
    assert all(
        f"genjax {name}" in printed
        for block in blocks(README)
        for name in re.findall(r"^genjax (\w+)", block.text, re.M)
    )


def test_there_is_a_notebook_for_every_source():
    assert NOTEBOOKS, "notebooks/ is empty"
    assert {path.stem for path in NOTEBOOKS} == {path.stem for path in (ROOT / "notebooks").glob("*.py")}


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_source(page):
    content, source = (page.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".ipynb", ".py"))
    assert cells_of_notebook(content) == cells_of_source(source), "python tests/pages.py writes it anew"
    assert content == notebook(cells_of_source(source)), "outputs are stored, or another layout"
    assert "What to change next" in cells_of_source(source)[-1].text


def test_a_notebook_that_differs_is_found():
    source = "# %% [markdown]\n# # One\n#\n# $x$\n\n# %%\nx = 1\n\n# %%\nprint(x)\n"
    cells = cells_of_source(source)
    assert cells == [Cell("markdown", "# One\n\n$x$"), Cell("code", "x = 1"), Cell("code", "print(x)")]
    assert cells_of_notebook(notebook(cells)) == cells
    for old, new in (("x = 1", "x = 2"), ("# %%\nprint", "print"), ("# %% [markdown]", "# %%"), ("# $x$", "# $y$")):
        assert cells_of_notebook(notebook(cells_of_source(source.replace(old, new)))) != cells
    ran = notebook(cells).replace('"outputs": []', '"outputs": [{"output_type": "stream"}]', 1)
    assert ran != notebook(cells) and cells_of_notebook(ran) == cells


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    for folder in ("experiments", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    page = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path / "notebooks")}}
    NotebookClient(page, timeout=600, kernel_name="python3", resources=where).execute()


def tree_of(page: str) -> dict[str, str]:
    """The files of the tree in a page, each with its line."""
    [block] = [
        block for block in blocks(page) if re.search(r"^ *genjax/", block.text, re.M) and block.language == "text"
    ]
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in block.text.splitlines():
        if entry := re.match(r"( *)([\w.\-]+/?) *(.*)$", line):
            depth, name, about = len(entry[1]), entry[2], entry[3]
            above = [(indent, folder) for indent, folder in above if indent < depth]
            path = "".join(folder for _, folder in above) + name
            assert path not in found, f"{path} has two lines"
            found[path] = about
            above += [(depth, name)] if name.endswith("/") else []
    return found


def test_the_tree_of_the_readme_is_the_tree():
    listed = tree_of(README)
    library = {path for path in tracked() if path.startswith("genjax/") and path.endswith(".py")}
    shown = {path for path in library if not path.endswith("/__init__.py") or path == "genjax/__init__.py"}
    assert {path for path in listed if path.startswith("genjax/") and path.endswith(".py")} == shown
    assert [path for path, about in listed.items() if len(about) < 8] == []
    assert [path for path in listed if not (ROOT / path).exists()] == []


def test_a_missing_line_in_the_tree_is_found():
    page = "```text\ngenjax/\n  types.py     the vocabulary of shapes\n  losses/      one family\n    a.py  x\n```\n"
    assert set(tree_of(page)) == {"genjax/", "genjax/types.py", "genjax/losses/", "genjax/losses/a.py"}
    with pytest.raises(AssertionError, match=r"a\.py has two lines"):
        tree_of(page.replace("    a.py  x\n", "    a.py  x\n    a.py  y\n"))


def test_pictures_stand_beside_the_commands_that_made_them():
    made = r"(`genjax [^`]+`|\[[\w ]+\]\(notebooks/\w+\.ipynb\))"
    rows = re.findall(rf"^\| !\[[^\]]+\]\((docs/pictures/\w+\.png)\) \| {made}", README, re.M)
    assert rows and sorted(path for path, _ in rows) == sorted(p for p in tracked() if p.startswith("docs/pictures/"))
    files = [re.findall(r"(?:experiments|notebooks)/\w+\.\w+", command) for _, command in rows]
    assert all(found and (ROOT / found[0]).is_file() for found in files)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/architecture.md", *(f"notebooks/{path.name}" for path in NOTEBOOKS)]
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    local = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in local if not ((ROOT / page).parent / link).exists()] == []
    assert "<!-- measured" not in text, "a measured number is missing"

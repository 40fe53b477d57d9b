"""Fitness landscapes of proteins: variants of equal length, each with a measured fitness, from a CSV file."""

import csv
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genjax.data.files import read_utf8
from genjax.errors import BadInput

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


class Landscape(NamedTuple):
    """Variants and what was measured of each."""

    tokens: np.ndarray  # uint8 [N, L], 0 .. 19, the place of each residue in RESIDUES
    fitness: np.ndarray  # float32 [N]
    about: str


def landscape(path: str | Path, variant: str = "Variants", fitness: str = "Fitness") -> Landscape:
    """Read a landscape.

    Args:
      path: a CSV file in UTF-8 with a header, such as that of GB1's four sites (Wu et al., 2016).
      variant: the column of the residues, in one-letter code, all of one length.
      fitness: the column of the measured numbers.

    Returns:
      Landscape; a variant that stands twice is kept twice.

    Raises:
      BadInput: no such file or column, no rows, a letter that is no residue, another length, a fitness that is no
        finite number: named by line.

    Source of GB1's: Wu, Dai, Olson, Lloyd-Smith and Sun, Adaptation in protein fitness landscapes is facilitated by
    indirect paths, 2016, https://doi.org/10.7554/eLife.16965; Dallago et al., FLIP, 2021.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     _ = file.write("Variants,Fitness\\nVD,1.0\\nAC,0.25\\n")
    ...     _ = file.flush()
    ...     found = landscape(file.name)
    >>> found.tokens.tolist(), found.fitness.tolist()
    ([[17, 2], [0, 1]], [1.0, 0.25])
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadInput(
            f"{path} does not exist.", "A landscape is a CSV file with a header.", "Unpack an archive first."
        )
    rows = csv.reader(io.StringIO(read_utf8(path), newline=""))
    header = next(rows, [])
    places = []
    for name in (variant, fitness):
        if name not in header:
            raise BadInput(f"{path} has no column {name!r}.", f"It has: {', '.join(header)}"[:200])
        places.append(header.index(name))
    read = [_row(path, rows.line_num, cells, places) for cells in rows if cells]
    if not read:
        raise BadInput(f"{path} holds no variant.", "A landscape has one at least.")
    length = len(read[0][0])
    odd = next((i for i, (letters, _) in enumerate(read) if len(letters) != length), None)
    if odd is not None:
        raise BadInput(f"{path}: variant {odd + 1} has {len(read[odd][0])} residues.", f"The first has {length}.")
    tokens = np.array([[RESIDUES.index(letter) for letter in letters] for letters, _ in read], np.uint8)
    about = f"The user's own {path.name}: {len(read):,} variants of {length} residues."
    return Landscape(tokens, np.array([value for _, value in read], np.float32), about)


def _row(path: Path, line: int, cells: list[str], places: list[int]) -> tuple[str, float]:
    if len(cells) <= max(places):
        raise BadInput(f"{path}, line {line}: {len(cells)} cells.", "Every line is as wide as the header.")
    letters, text = (cells[place].strip() for place in places)
    wrong = [letter for letter in letters if letter not in RESIDUES]
    if wrong or not letters:
        raise BadInput(f"{path}, line {line}: {letters[:40]!r} is no variant.", f"Residues are {RESIDUES}.")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{path}, line {line}: {text[:40]!r} is no fitness.", "Allowed are finite numbers.")
    return letters, value

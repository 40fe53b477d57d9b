"""Music as piano rolls: which of 88 keys sound in each frame.

The form of the files, JSON: {"train": pieces, "valid": pieces, "test": pieces}; a piece is a list of frames, a frame a
list of MIDI pitches, from 21 (A0, the lowest key of a piano) to 108 (C8); an empty frame is a rest. A frame says what
sounds, not what is struck: a held note and a repeated one look alike.

Boulanger-Lewandowski, Bengio and Vincent (2012), "Modeling temporal dependencies in high-dimensional sequences",
https://arxiv.org/abs/1206.6392, whose division into train, validation and test this is.
"""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genjax.data.files import read_utf8
from genjax.data.originals import JSB_CHORALES_FILES, Original, gather
from genjax.data.prepared import Recipe, load_arrays
from genjax.data.split import Arrays, Dataset, Split, make_dataset, unchanged
from genjax.errors import BadInput

LOWEST, KEYS = 21, 88  # MIDI pitch of the first column, columns
SPLITS = {"train": "train", "valid": "validation", "test": "test"}
FORM = (
    'It is {"train": pieces, "valid": pieces, "test": pieces}, a piece is a list of frames, a frame a list of pitches.'
)


def read_chorales(
    name: str, originals: Sequence[Original], folder: Path | None, downloads: Path, tell: Callable[[str], None]
) -> dict[str, Arrays]:
    """The rolls of one file of chorales."""
    return {**read_rolls(gather(name, originals, folder, downloads, tell)[originals[0].file])}


def _recipe(grid: str, original: Original, name: str) -> Recipe:
    return Recipe(
        name=name,
        read=functools.partial(read_chorales, name, (original,)),
        rows={"train": 229, "validation": 76, "test": 77},
        classes=None,
        levels=2,
        licence="none stated",
        about=f"382 four-part chorales by J. S. Bach on a grid of {grid} notes: Boulanger-Lewandowski, Bengio and "
        "Vincent (2012), https://arxiv.org/abs/1206.6392; files: https://github.com/czhuang/JSB-Chorales-dataset",
    )


JSB_CHORALES = _recipe("quarter", JSB_CHORALES_FILES[0], "jsb_chorales")
JSB_CHORALES_16TH = _recipe("16th", JSB_CHORALES_FILES[1], "jsb_chorales_16th")
GRIDS = {"quarter": JSB_CHORALES, "16th": JSB_CHORALES_16TH}


def jsb_chorales(grid: str = "quarter", data_dir: str | Path | None = None) -> Dataset:
    """Chorales by J. S. Bach: 229 to train, 76 to validate, 77 to test.

    Args:
      grid: "quarter", the grid of the published likelihoods, 13,807 + 4,602 + 4,725 frames; or "16th", about four times
        as many, pitches 36 to 81 and not 43 to 96; prepared by itself, as `jsb_chorales_16th`.
      data_dir: folder of prepared sets; None: $GENJAX_DATA_DIR, else ~/.cache/genjax/data.
    Returns:
      `roll` uint8 0 or 1 [N, T, 88], column p is MIDI pitch 21 + p, zeros after the end of a piece; `length` int32 [N],
      the frames of each piece.
    Raises:
      BadInput: another grid, or not prepared; the message has the command.
      Damaged: the files are not what was prepared.

    Boulanger-Lewandowski, Bengio and Vincent (2012), https://arxiv.org/abs/1206.6392.
    """
    if grid not in GRIDS:
        raise BadInput(f"jsb_chorales: grid = {grid!r}.", f"Allowed are {', '.join(GRIDS)}.")
    return rolls_of(GRIDS[grid], data_dir)


def rolls_of(recipe: Recipe, data_dir: str | Path | None) -> Dataset:
    """The rolls of a prepared set."""
    about = f"{recipe.about}. Licence: {recipe.licence}."
    splits = {split: Split(arrays, unchanged) for split, arrays in load_arrays(recipe, data_dir).items()}
    return make_dataset(recipe.name, splits, levels=2, about=about)


def rolls_file(path: str | Path) -> Dataset:
    """The user's own pieces, from a JSON file of the form above; fields as `jsb_chorales`.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     _ = file.write('{"train": [[[60, 64], []]], "valid": [[[62]]], "test": [[[60]]]}')
    ...     _ = file.flush()
    ...     data = rolls_file(file.name)
    >>> data.train.arrays["length"].tolist(), np.argwhere(data.train.arrays["roll"]).tolist()
    ([2], [[0, 0, 39], [0, 0, 43]])
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise BadInput(f"{path} does not exist.", FORM)
    splits = {split: Split(arrays, unchanged) for split, arrays in read_rolls(path).items()}
    return make_dataset(path.stem, splits, levels=2, about=f"The user's own {path.name}.")


def read_rolls(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The pieces of a file as rolls, all padded to the longest piece of the three splits.

    Returns:
      Split -> `roll` uint8 [N, T, 88] and `length` int32 [N].
    Raises:
      BadInput: not JSON, JSON of another form, no pieces, a piece without frames, or a pitch that no key has; named by
        split, piece and frame, which are counted from 0.
    """
    try:
        found = json.loads(read_utf8(path))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}.", "It is empty, cut, damaged or another file.", FORM) from error
    if not isinstance(found, dict) or not set(SPLITS) <= set(found):
        said = f"an object with {', '.join(map(str, found)) or 'nothing'}" if isinstance(found, dict) else _kind(found)
        raise BadInput(f"{path} holds {said}."[:200], FORM)
    longest = max((len(piece) for split in SPLITS for piece in _listed(path, found[split], split)), default=0)
    return {SPLITS[split]: _rolls(path, split, found[split], longest) for split in SPLITS}


def _listed(path: Path, pieces: Any, split: str) -> list[list[Any]]:
    """The pieces of a split, once each is known to be a list that is not empty."""
    if not isinstance(pieces, list) or not pieces:
        raise BadInput(f"{path}, {split}: {_kind(pieces)}, where pieces should be.", FORM)
    for number, piece in enumerate(pieces):
        if not isinstance(piece, list) or not piece:
            raise BadInput(f"{path}, {split}, piece {number}: {_kind(piece)}, where frames should be.", FORM)
    return pieces


def _rolls(path: Path, split: str, pieces: list[list[Any]], longest: int) -> dict[str, np.ndarray]:
    rolls = np.zeros([len(pieces), longest, KEYS], np.uint8)
    for number, piece in enumerate(pieces):
        for time, frame in enumerate(piece):
            if not isinstance(frame, list):
                what = f"{path}, {split}, piece {number}, frame {time}: {_kind(frame)}, where pitches should be."
                raise BadInput(what, FORM)
            for pitch in frame:
                if type(pitch) not in (int, float) or pitch not in range(LOWEST, LOWEST + KEYS):  # 60.0 is in it
                    what = f"{path}, {split}, piece {number}, frame {time}: {pitch!r} is not a pitch."[:300]
                    raise BadInput(what, f"Allowed are the MIDI numbers {LOWEST} .. {LOWEST + KEYS - 1} of a piano.")
                rolls[number, time, int(pitch) - LOWEST] = 1
    return {"roll": rolls, "length": np.array([len(piece) for piece in pieces], np.int32)}


def _kind(found: Any) -> str:
    return (
        f"an empty {type(found).__name__}" if isinstance(found, list | dict | str) and not found else repr(found)[:60]
    )

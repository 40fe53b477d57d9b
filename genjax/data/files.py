"""The user's own data: arrays, a folder of images, a table, a text; three splits carved from one path.

.npy, .npz       uint8 [N, H, W, C] or [N, H, W]: images; floats [N, H, W, C]: images in [0, 1];
                 floats [N, D]: a table; integers [N, L]: tokens. An .npz names its fields, a .npy has one.
a folder         every image file in it is a row, or, in subfolders, a row of the class that its subfolder is
.csv             numbers, one row a line, with or without a header; a column `label` is the class
anything else    a text in UTF-8: its characters are the tokens
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genjax.data.checks import check_arrays
from genjax.data.images import read_images
from genjax.data.split import Dataset, Prepare, Split, carve, make_dataset, scaled, take, unchanged
from genjax.errors import BadInput

FIELDS = ("image", "x", "tokens", "label")
FRACTIONS = (0.8, 0.1, 0.1)


def from_file(path: str | Path, fractions: Sequence[float] = FRACTIONS, length: int = 256) -> Dataset:
    """A data set from the user's own file or folder.

    Rows are assigned to the splits by a fixed pseudo-random order, the same on every machine; a text is cut where it
    stands (train first, test last), because neighbouring pieces of one text are nearly copies.

    Args:
      path: `.npy`, `.npz`, `.csv`, a folder of images, or a text.
      fractions: of train, validation and test; they sum to 1.
      length: L, characters of a row of text.
    Returns:
      A checked data set with one of the fields `image` [N, H, W, C], `x` [N, D] or `tokens` [N, L], and `label` [N]
      where there are classes. Stored bytes are prepared as float32 level / 255 (or 0 and 1 where nothing is above 1).
    Raises:
      BadInput: anything that cannot be used, named by row and field, by file, by line and column, or by byte.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as table:
    ...     _ = table.write("height,label\\n" + "1.5,0\\n2.5,1\\n" * 5)
    ...     _ = table.flush()
    ...     data = from_file(table.name)
    >>> data.train.arrays["x"].shape, data.classes
    ((8, 1), 2)
    """
    path = Path(path).expanduser()
    if not path.exists():
        allowed = "Allowed are .npy, .npz, .csv, a folder of images, or a text."
        raise BadInput(f"{path} does not exist.", allowed, "Name yours, such as --data FILE.")
    if path.is_dir():
        return _from_arrays(path, read_images(path), fractions)
    if path.suffix in (".npy", ".npz"):
        return _from_arrays(path, read_numpy(path), fractions)
    if path.suffix == ".csv":
        return _from_arrays(path, read_csv(path), fractions)
    return from_text(path, fractions, length)


def _from_arrays(path: Path, arrays: Mapping[str, np.ndarray], fractions: Sequence[float]) -> Dataset:
    """Checks the whole, so that messages count rows as the file does, then carves it."""
    levels, prepare = _levels(arrays)
    classes = int(arrays["label"].max()) + 1 if "label" in arrays and len(arrays["label"]) else None
    check_arrays(arrays, str(path), classes, levels)
    if "tokens" in arrays and arrays["tokens"].ndim == 1:
        what = f"{path}, field tokens: its shape {arrays['tokens'].shape} is one long stream."
        raise BadInput(
            what, "Rows of tokens are [rows, length].", "Use genjax.data.windows(np.load(path), length, ...)"
        )
    parts = carve(len(next(iter(arrays.values()))), fractions)
    splits = {
        split: Split(take(arrays, rows), prepare)
        for split, rows in zip(("train", "validation", "test"), parts, strict=True)
    }
    return make_dataset(path.stem, splits, classes, levels, f"The user's own {path.name}.")


def _levels(arrays: Mapping[str, np.ndarray]) -> tuple[int, Prepare]:
    """How many values a pixel or token takes (0: real numbers), and the preparation that follows from it."""
    if "tokens" in arrays and arrays["tokens"].size:
        return int(arrays["tokens"].max()) + 1, unchanged
    if "image" not in arrays or arrays["image"].dtype.kind == "f":
        return 0, unchanged
    levels = 2 if arrays["image"].size and arrays["image"].max() <= 1 else 256
    return levels, scaled(levels)


def read_numpy(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npy` or `.npz`, by field; pickled objects are refused."""
    try:
        with open(path, "rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            named = {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except Exception as error:  # NumPy raises ValueError, EOFError, BadZipFile, zlib.error, by what is broken
        what = f"{path} cannot be read: {error}"
        raise BadInput(
            what, "Allowed are arrays of numbers; pickled objects never are.", "Save: np.save(path, array)"
        ) from error
    unknown = [name for name in named if name and name not in FIELDS]
    if unknown or not named:
        what = f"{path} holds the arrays {', '.join(named) or '(none)'}."
        raise BadInput(what, f"Allowed are {', '.join(FIELDS)}.", "Save: np.savez(path, image=..., label=...)")
    return dict(_field(name, array, path) for name, array in named.items())


def _field(name: str, array: np.ndarray, path: Path) -> tuple[str, np.ndarray]:
    """The field that an array is, by its type and axes where it has no name, in its stored type."""
    if not name:
        name = "image" if array.ndim >= 3 else "tokens" if array.dtype.kind in "iub" else "x"
    if name == "image" and array.ndim == 3:
        array = array[..., None]
    if name in ("label", "tokens"):
        return name, _narrow(array, np.int32)
    if name == "x" or array.dtype.kind == "f":
        return name, _float32(array) if array.dtype.kind in "fiub" else array
    return name, _narrow(array, np.uint8)


def _float32(array: np.ndarray) -> np.ndarray:
    """In single precision; what it cannot hold becomes infinite, for the check to name."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _narrow(array: np.ndarray, to: type[np.integer]) -> np.ndarray:
    """Integers in a smaller type where they fit; else as they are, for the check to name the first that does not."""
    if array.dtype.kind not in "iub" or array.size == 0:
        return array
    limit = np.iinfo(to)
    return array.astype(to) if limit.min <= array.min() and array.max() <= limit.max else array


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """The numbers of a table: `x` float32 [N, D], and `label` int32 [N] where a column has that name."""
    lines = list(csv.reader(io.StringIO(read_utf8(path).removeprefix("\ufeff"), newline="")))
    numbered = [(number, cells) for number, cells in enumerate(lines, 1) if cells]
    header: list[str] = []
    if numbered and not any(_number(cell) is not None for cell in numbered[0][1]):
        header = [cell.strip() for cell in numbered.pop(0)[1]]
    if not numbered:
        raise BadInput(f"{path} has no rows of numbers.", "One row a line, numbers with commas between.")
    width = len(header) or len(numbered[0][1])
    table = np.array([_row(path, number, cells, width, header) for number, cells in numbered], np.float64)
    if "label" not in header:
        return {"x": _float32(table)}
    column = header.index("label")
    labels = table[:, column]
    if (bad := (labels != np.round(labels)) | (np.abs(labels) >= 2**31)).any():
        line = numbered[int(np.argmax(bad))][0]
        raise BadInput(
            f"{path}, line {line}, column label: {labels[bad][0]:g} is not a class.", "Classes are 0, 1, 2, ..."
        )
    return {"x": _float32(np.delete(table, column, axis=1)), "label": labels.astype(np.int32)}


def _row(path: Path, number: int, cells: list[str], width: int, header: list[str]) -> list[float]:
    """One line of a table; raises BadInput that names line and column."""
    if len(cells) != width:
        raise BadInput(
            f"{path}, line {number}: {len(cells)} cells.", f"The first line has {width}.", "Repair this line."
        )
    values = [_number(cell) for cell in cells]
    for column, (cell, value) in enumerate(zip(cells, values, strict=True)):
        if value is None or not math.isfinite(value):
            named = header[column] if header else column + 1
            what = f"{path}, line {number}, column {named}: {cell[:40]!r} is not a finite number."
            raise BadInput(what, "Allowed are numbers such as 3, -0.5 and 1e-3.", "Repair or remove this line.")
    return [value for value in values if value is not None]


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def read_utf8(path: Path) -> str:
    """The text of a file; raises BadInput that names the first byte which is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}."
        raise BadInput(what, "Allowed is text in UTF-8.", "Convert it: iconv -f latin1 -t utf-8 IN > OUT") from error
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}.", "", "Check the path and its permissions."
        ) from error


def from_text(path: Path, fractions: Sequence[float] = FRACTIONS, length: int = 256) -> Dataset:
    """A text as rows of `length` characters; the tokens number the characters that occur, in the order of Unicode.

    The rest after the last whole row of the text is left out.
    """
    text = read_utf8(path)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1 or len(text) < 3 * length:
        what = f"length = {length!r} does not fit {path}, which has {len(text)} characters."
        raise BadInput(what, "Three rows are needed, one for each split.", f"Use a length from 1 to {len(text) // 3}.")
    vocabulary = "".join(sorted(set(text)))
    number = {character: token for token, character in enumerate(vocabulary)}
    rows = len(text) // length
    tokens = np.array([number[character] for character in text[: rows * length]], np.int32).reshape(rows, length)
    ends = np.cumsum([len(part) for part in carve(rows, fractions)])[:-1]
    parts = zip(("train", "validation", "test"), np.split(tokens, ends), strict=True)
    splits = {split: Split({"tokens": part}, unchanged) for split, part in parts}
    about = f"The user's own {path.name}."
    return make_dataset(path.stem, splits, levels=len(vocabulary), about=about, vocabulary=vocabulary)

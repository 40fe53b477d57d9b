"""Bad data, one line a case: at most three lines that name field, value and remedy; nothing but BadInput."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genjax.data import Split, carve, commands, digits, from_file, make_dataset, sets, unchanged
from genjax.data.formats import read_amat, read_idx, read_packed
from genjax.data.originals import BINARIZED_MNIST_FILES
from genjax.errors import BadInput

Case = tuple[Callable[[Path], object], tuple[str, ...]]
IMAGE = np.zeros([6, 4, 4, 1], np.uint8)
LABEL = np.zeros([6], np.int32)


def make(classes: int | None = 10, levels: int = 256, validation: dict | None = None, **arrays: np.ndarray) -> None:
    """A data set whose training arrays are those given."""
    good = Split({"image": IMAGE, "label": LABEL} if classes else {"image": IMAGE}, unchanged)
    train = Split(arrays, unchanged)
    make_dataset(
        "mine", {"train": train, "validation": train if validation is None else good, "test": good}, classes, levels
    )


def put(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    changed = array.copy()
    changed[place] = value
    return changed


def mine(name: str, content: str | bytes | np.ndarray | dict, **settings: object) -> Callable[[Path], object]:
    """Writes a file of the user's and reads it."""

    def call(folder: Path) -> object:
        path = folder / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        elif isinstance(content, dict):
            np.savez(path, **content)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return from_file(path, **settings)

    return call


def pictures(**images: bytes | np.ndarray) -> Callable[[Path], object]:
    """Writes a folder of images and reads it; `a__b` is the file b.png in the subfolder a."""

    def call(folder: Path) -> object:
        for name, image in images.items():
            path = folder.joinpath(*name.split("__")).with_suffix(".png")
            path.parent.mkdir(exist_ok=True)
            if isinstance(image, bytes):
                path.write_bytes(image)
            else:
                Image.fromarray(image).save(path)
        return from_file(folder)

    return call


def packed(**arrays: np.ndarray) -> Callable[[Path], object]:
    def call(folder: Path) -> object:
        np.savez(folder / "bits.npz", **arrays)
        return read_packed(folder / "bits.npz", {"train": BINARIZED_MNIST_FILES[0]})

    return call


def original(content: bytes, axes: int = 1, pack: bool = True) -> Callable[[Path], object]:
    def call(folder: Path) -> object:
        (folder / "a.gz").write_bytes(gzip.compress(content) if pack else content)
        return read_idx(folder / "a.gz", axes, most=1_000)

    return call


def amat(content: bytes) -> Callable[[Path], object]:
    def call(folder: Path) -> object:
        (folder / "a.amat").write_bytes(content)
        return read_amat(folder / "a.amat", 3)

    return call


def _huge_png() -> bytes:
    """A picture of 65,536 x 65,536 pixels that says so in its head."""
    chunk = b"IHDR" + (2**16).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + zlib.crc32(chunk).to_bytes(4, "big")


class _Opens:
    """What unpickling would run."""

    def __reduce__(self) -> tuple:
        return (Path("/nonexistent/never").touch, ())


X = np.zeros([6, 3], np.float32)
GREY = np.zeros([4, 4], np.uint8)
FRACTIONS = (0.4, 0.3, 0.3)

CASES: dict[str, Case] = {
    # entry checks
    "no field": (lambda _: make(), ("mine, split train", "no field")),
    "empty split": (lambda _: make(image=IMAGE[:0], label=LABEL[:0]), ("split train", "field image", "(0, 4, 4, 1)")),
    "a scalar": (lambda _: make(image=np.uint8(3)), ("field image", "shape ()")),
    "row counts": (lambda _: make(image=IMAGE, label=LABEL[:5]), ("image 6", "label 5")),
    "NaN": (
        lambda _: make(None, 0, x=put(X, (4, 2), np.nan), image=IMAGE.astype(np.float32)),
        ("field x", "nan", "row 4", "index (2,)", "1 rows"),
    ),
    "infinite": (lambda _: make(None, 0, x=put(X, (1, 0), -np.inf)), ("field x", "-inf", "row 1")),
    "text": (lambda _: make(None, 0, x=np.array(["a", "b"])), ("field x", "not numeric")),
    "objects": (lambda _: make(None, 0, x=np.array([None, 1])), ("field x", "object")),
    "pixel too large": (
        lambda _: make(levels=17, image=put(IMAGE, (3, 1, 2, 0), 17), label=LABEL),
        ("field image", "17 in row 3", "0 .. 16"),
    ),
    "pixel negative": (
        lambda _: make(image=put(IMAGE.astype(np.int32), (5, 0, 0, 0), -1), label=LABEL),
        ("field image", "-1 in row 5", "0 .. 255"),
    ),
    "pixels in [-1, 1]": (
        lambda _: make(None, 0, image=put(IMAGE.astype(np.float32), (2, 0, 0, 0), -1)),
        ("field image", "-1.0 in row 2", "[0, 1]"),
    ),
    "floats for bytes": (lambda _: make(image=IMAGE.astype(np.float32), label=LABEL), ("field image", "float32")),
    "no channels": (
        lambda _: make(image=IMAGE[..., 0], label=LABEL),
        ("(6, 4, 4)", "3 axes", "height, width, channels"),
    ),
    "channels first": (
        lambda _: make(image=np.zeros([6, 3, 8, 8], np.uint8), label=LABEL),
        ("(6, 3, 8, 8)", "8 channels", "np.moveaxis(image, 1, 3)"),
    ),
    "label too large": (
        lambda _: make(image=IMAGE, label=put(LABEL, (4,), 10)),
        ("field label", "10 in row 4", "0 .. 9"),
    ),
    "label negative": (lambda _: make(image=IMAGE, label=put(LABEL, (0,), -1)), ("field label", "-1 in row 0")),
    "label not whole": (lambda _: make(image=IMAGE, label=LABEL + 0.5), ("field label", "float64", "astype(np.int32)")),
    "label on two axes": (lambda _: make(image=IMAGE, label=LABEL[:, None]), ("field label", "(6, 1)")),
    "label without classes": (lambda _: make(None, image=IMAGE, label=LABEL), ("field label", "classes is None")),
    "token too large": (lambda _: make(None, 5, tokens=np.full([3, 2], 5)), ("field tokens", "5 in row 0", "0 .. 4")),
    "second split": (
        lambda _: make_dataset(
            "mine",
            {
                s: Split({"image": put(IMAGE, (1, 0, 0, 0), 2 * (s == "test"))}, unchanged)
                for s in ("train", "validation", "test")
            },
            levels=2,
        ),
        ("split test", "2 in row 1"),
    ),
    # splits
    "fractions": (lambda _: carve(10, (0.8, 0.3, 0.1)), ("fractions = (0.8, 0.3, 0.1)", "sum to 1")),
    "fraction of nothing": (lambda _: carve(10, (0.9, 0.1, 0.0)), ("fractions", "positive")),
    "two fractions": (lambda _: carve(10, (0.9, 0.1)), ("fractions", "three")),
    "a fraction that is NaN": (lambda _: carve(10, (0.9, 0.1, float("nan"))), ("fractions", "positive")),
    "too few rows": (lambda _: carve(4), ("rows = 4", "one row each")),
    # the user's files
    "no such file": (lambda folder: from_file(folder / "mine.npy"), ("mine.npy", "does not exist")),
    "pickled": (
        mine("a.npy", b"cbuiltins\nopen\n(S'/nonexistent/never'\nS'w'\ntR."),
        ("a.npy", "cannot be read", "pickled"),
    ),
    "array of objects": (mine("a.npz", {"image": np.array([None, _Opens()])}), ("a.npz", "cannot be read", "pickled")),
    "not an array": (mine("a.npy", "hello"), ("a.npy", "cannot be read", "np.save")),
    "empty .npy": (mine("a.npy", b""), ("a.npy", "cannot be read")),
    "cut .npz": (mine("a.npz", b"PK\x03\x04" + b"0" * 99), ("a.npz", "cannot be read")),
    "unknown field": (mine("a.npz", {"picture": IMAGE}), ("picture", "Allowed are image", "np.savez")),
    "no rows": (mine("a.npy", IMAGE[:0]), ("field image", "(0, 4, 4, 1)")),
    "rows differ": (mine("a.npz", {"image": IMAGE, "label": LABEL[:3]}), ("image 6", "label 3")),
    "NaN in .npy": (mine("a.npy", put(X, (5, 1), np.nan)), ("a.npy", "field x", "row 5")),
    "16 bits": (mine("a.npy", IMAGE.astype(np.uint16) + 999), ("field image", "999 in row 0", "0 .. 255")),
    "complex": (mine("a.npy", X.astype(np.complex64)), ("field x", "complex64")),
    "channels first in .npy": (mine("a.npy", np.zeros([9, 3, 8, 8], np.uint8)), ("(9, 3, 8, 8)", "moveaxis")),
    "negative token": (mine("a.npy", np.full([9, 3], -2)), ("field tokens", "-2 in row 0")),
    "bad cell": (mine("a.csv", "h,w\n1,2\n3,tall\n"), ("a.csv", "line 3", "column w", "'tall'")),
    "bad cell without a header": (mine("a.csv", "1,2\n3,tall\n"), ("line 2", "column 2", "'tall'")),
    "NaN in a table": (mine("a.csv", "1,2\nnan,4\n"), ("line 2", "column 1", "'nan'")),
    "too large for float32": (mine("a.csv", "1,2\n1e300,4\n"), ("field x", "inf in row 1")),
    "ragged table": (mine("a.csv", "1,2\n3\n"), ("line 2", "1 cells", "2")),
    "header only": (mine("a.csv", "h,w\n"), ("a.csv", "no rows")),
    "label 1.5": (mine("a.csv", "h,label\n1,0\n2,1.5\n"), ("line 3", "column label", "1.5")),
    "label -1": (mine("a.csv", "h,label\n1,0\n2,-1\n"), ("field label", "-1 in row 1")),
    "table not UTF-8": (mine("a.csv", b"h\xe9,w\n1,2\n"), ("a.csv", "0xe9", "offset 1")),
    "text not UTF-8": (mine("a.txt", b"caf\xe9" * 99), ("a.txt", "0xe9", "offset 3", "iconv")),
    "text too short": (mine("a.txt", "hello"), ("length = 256", "5 characters", "1 to 1")),
    "length 0": (mine("a.txt", "hello", length=0), ("length = 0",)),
    "length 2.5": (mine("a.txt", "hello", length=2.5), ("length = 2.5",)),
    "fractions of a file": (mine("a.npy", X, fractions=(1, 0, 0)), ("fractions = (1, 0, 0)",)),
    # folders of images
    "no images": (lambda folder: from_file(folder), ("holds no images", ".png")),
    "corrupt picture": (pictures(a=GREY, b=b"\x89PNG\r\n\x1a\nnothing", c=GREY), ("b.png", "cannot be read")),
    "cut picture": (pictures(a=GREY, b=b""), ("b.png", "cannot be read")),
    "sizes differ": (pictures(a=GREY, b=GREY[:, :3]), ("b.png", "3x4", "a.png", "4x4")),
    "channels differ": (pictures(a=GREY, b=np.zeros([4, 4, 3], np.uint8)), ("b.png", "3 channels", "1 channels")),
    "16-bit picture": (pictures(a=np.zeros([4, 4], np.uint16)), ("a.png", "8 bits")),
    "decompression bomb": (pictures(a=_huge_png()), ("a.png", "cannot be read")),
    "beside subfolders": (pictures(a=GREY, cats__b=GREY), ("a.png", "beside", "cats")),
    # published sets
    "unknown set": (lambda _: commands.prepare("mnits"), ("'mnits'", "mnist", "genjax data list")),
    "unknown set to check": (lambda _: commands.check("fashion"), ("'fashion'", "fashion_mnist")),
    "not prepared": (sets.mnist, ("mnist is not prepared", "--from FOLDER", "genjax data prepare mnist")),
    "not prepared, dynamic": (sets.fashion_mnist_dynamic, ("genjax data prepare fashion_mnist",)),
    "not prepared, to check": (lambda folder: commands.check("mnist", folder), ("genjax data prepare mnist",)),
    "no such folder": (lambda folder: commands.prepare("mnist", folder / "no", folder), ("--from", "not a folder")),
    "files missing": (
        lambda folder: commands.prepare("mnist", folder, folder),
        ("lacks train-images", "cvdf-datasets"),
    ),
    "data directory is a file": (lambda _: commands.prepare("mnist", None, __file__), ("data directory", "--data-dir")),
    "digits without scikit-learn": (lambda _: digits(), ("scikit-learn", "pip install scikit-learn")),
    # published files
    "idx: not gzip": (original(b"hello", pack=False), ("a.gz", "gzip")),
    "idx: cut gzip": (original(gzip.compress(b"\0\0\x08\x01" + b"0" * 99)[:-9], pack=False), ("a.gz", "gzip")),
    "idx: magic number": (original(b"\0\0\x0d\x01\0\0\0\x02ab"), ("00000d01", "00000801")),
    "idx: axes": (original(b"\0\0\x08\x01\0\0\0\x02ab", axes=3), ("00000801", "00000803")),
    "idx: too short": (original(b"\0\0\x08\x01\0\0\0\x03ab"), ("shape (3,)", "holds 2")),
    "idx: trailing bytes": (original(b"\0\0\x08\x01\0\0\0\x01ab"), ("shape (1,)", "more than 1")),
    "idx: a bomb": (original(b"\0\0\x08\x01\0\1\0\0" + bytes(65_536)), ("65,536 bytes", "1,000")),
    "idx: empty": (original(b""), ("a.gz", "00000801")),
    "amat: a two": (amat(b"0 1 1\n0 2 1\n"), ("line 2",)),
    "amat: a tab": (amat(b"0 1 1\n0\t1 1\n"), ("line 2",)),
    "amat: cut": (amat(b"0 1 1\n0 1"), ("9 bytes",)),
    "packed: no such array": (packed(valid=np.zeros([2, 98], np.uint8)), ("bits.npz", "train")),
    "packed: columns": (packed(train=np.zeros([2, 97], np.uint8)), ("array train", "(2, 97)")),
    "packed: other bits": (packed(train=np.zeros([2, 98], np.uint8)), ("array train", "sha256", "ad693b29")),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call, said = CASES[name]
    if "without" in name and "scikit" in name:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput) as caught:
        call(tmp_path)
    lines = caught.value.lines
    assert 2 <= len(lines) <= 3 and all(len(line) < 400 for line in lines), lines
    for text in said:
        assert text in str(caught.value), f"{text!r} is not in: {caught.value}"

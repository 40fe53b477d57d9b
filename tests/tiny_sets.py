"""Tiny editions of the published data sets, with facts of their own: what the tests of preparation prepare."""

import functools
import gzip
import hashlib
from pathlib import Path

import numpy as np

from genjax.data import sets
from genjax.data.commands import Entry
from genjax.data.formats import amat_text
from genjax.data.originals import Original
from genjax.data.prepared import Recipe

RANDOM = np.random.default_rng(0)
IMAGES = {split: RANDOM.integers(0, 256, (rows, 28, 28), np.uint8) for split, rows in (("train", 30), ("test", 12))}
LABELS = {split: RANDOM.integers(0, 10, len(images), np.uint8) for split, images in IMAGES.items()}
BITS = {
    split: RANDOM.integers(0, 2, (rows, 784), np.uint8) for split, rows in (("train", 9), ("valid", 4), ("test", 5))
}


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes(), mtime=0)


def scans_files() -> dict[str, bytes]:
    names = {"train": "train", "test": "t10k"}
    return {
        file: idx(arrays[split])
        for split in ("train", "test")
        for file, arrays in (
            (f"{names[split]}-images-idx3-ubyte.gz", IMAGES),
            (f"{names[split]}-labels-idx1-ubyte.gz", LABELS),
        )
    }


def bits_files() -> dict[str, bytes]:
    return {f"binarized_mnist_{split}.amat": amat_text(bits).tobytes() for split, bits in BITS.items()}


def facts(files: dict[str, bytes], address: str = "http://127.0.0.1:9/") -> tuple[Original, ...]:
    return tuple(
        Original(file, address + file, len(data), hashlib.sha256(data).hexdigest()) for file, data in files.items()
    )


def scans(files: dict[str, bytes], address: str = "http://127.0.0.1:9/") -> Recipe:
    read = functools.partial(sets.read_scans, "mnist", facts(files, address))
    return sets.MNIST._replace(read=read, rows={"train": 30, "test": 12})


def bits(files: dict[str, bytes]) -> Recipe:
    read = functools.partial(sets.read_bits, "binarized_mnist", facts(files))
    return sets.BINARIZED_MNIST._replace(read=read, rows={"train": 9, "validation": 4, "test": 5})


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return folder


def known(*recipes: Recipe) -> dict[str, Entry]:
    return {recipe.name: Entry(sets.mnist, recipe) for recipe in recipes}

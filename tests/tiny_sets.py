"""Tiny editions of the published data sets, with facts of their own: what the tests of preparation prepare."""

import functools
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np

from genjax.data import rolls, sets, texts
from genjax.data.commands import Entry
from genjax.data.formats import amat_text
from genjax.data.originals import Original
from genjax.data.prepared import Recipe
from genjax.data.tokenizers import byte_symbols

RANDOM = np.random.default_rng(0)
IMAGES = {split: RANDOM.integers(0, 256, (rows, 28, 28), np.uint8) for split, rows in (("train", 30), ("test", 12))}
LABELS = {split: RANDOM.integers(0, 10, len(images), np.uint8) for split, images in IMAGES.items()}
BITS = {
    split: RANDOM.integers(0, 2, (rows, 784), np.uint8) for split, rows in (("train", 9), ("valid", 4), ("test", 5))
}
CIFAR_ROWS = 4  # of each of the five files to train, and of the one to test
PHOTOGRAPHS = RANDOM.integers(0, 256, (6 * CIFAR_ROWS, 32, 32, 3), np.uint8)
THINGS = RANDOM.integers(0, 10, 6 * CIFAR_ROWS, np.uint8)
CIFAR_NAMES = [f"cifar-10-batches-bin/{name}.bin" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]

TEXT = (
    "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 3
    + "The rest is silence."
)
NAMES = ["emma", "olivia", "ava", "isabella", "li", "maximilianjames", "emma", "x", "zoe", "noah"]
CHORALES = {
    "train": [[[60, 64, 67, 72], [60, 64], []], [[108, 21]]],
    "valid": [[[43], [43], [43], [96]]],
    "test": [[[], [61.0]]],
}

MERGES = [
    ("t", "h"),
    ("Ġ", "th"),
    ("h", "e"),
    ("Ġth", "e"),
    ("a", "n"),
    ("an", "d"),
    ("Ġ", "and"),
    ("e", "r"),
    ("th", "e"),
]


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


def cifar_members() -> dict[str, bytes]:
    """The six files: a byte of label, then red, green and blue, each row by row."""
    records = [
        bytes([thing]) + b"".join(photograph[..., colour].tobytes() for colour in range(3))
        for photograph, thing in zip(PHOTOGRAPHS, THINGS, strict=True)
    ]
    parts = [b"".join(records[i * CIFAR_ROWS : (i + 1) * CIFAR_ROWS]) for i in range(6)]
    return {"cifar-10-batches-bin/readme.html": b"<html>", **dict(zip(CIFAR_NAMES, parts, strict=True))}


def tar_gz(members: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(content.getvalue(), mtime=0)


def cifar_files() -> dict[str, bytes]:
    return {"cifar-10-binary.tar.gz": tar_gz([*cifar_members().items()])}


def cifar(files: dict[str, bytes]) -> Recipe:
    read = functools.partial(sets.read_cifar10, facts(files), CIFAR_ROWS)
    return sets.CIFAR10._replace(read=read, rows={"train": 5 * CIFAR_ROWS, "test": CIFAR_ROWS})


def texts_files() -> dict[str, bytes]:
    lists = {"input.txt": TEXT, "names.txt": "\n".join(NAMES), "jsb-chorales-quarter.json": json.dumps(CHORALES)}
    return {file: content.encode() for file, content in lists.items()}


def text() -> Recipe:
    originals = facts({"input.txt": texts_files()["input.txt"]})
    read = functools.partial(texts.read_whole, "tiny_shakespeare", originals)
    return texts.TINY_SHAKESPEARE._replace(read=read)


def names() -> Recipe:
    originals = facts({"names.txt": texts_files()["names.txt"]})
    read = functools.partial(texts.read_names, "names", originals)
    return texts.NAMES._replace(read=read, rows={"train": len(NAMES)})


def chorales() -> Recipe:
    file = "jsb-chorales-quarter.json"
    read = functools.partial(rolls.read_chorales, "jsb_chorales", facts({file: texts_files()[file]}))
    return rolls.JSB_CHORALES._replace(read=read, rows={"train": 2, "validation": 1, "test": 1})


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return folder


def known(*recipes: Recipe) -> dict[str, Entry]:
    return {recipe.name: Entry(sets.mnist, recipe) for recipe in recipes}


def pair_files(folder: Path, merges: list[tuple[str, str]], end: bool = True) -> Path:
    """Files in GPT-2's form: bytes, joined pairs in order, and the mark."""
    tokens = [*sorted(byte_symbols()), *("".join(pair) for pair in merges), *(["<|endoftext|>"] if end else [])]
    folder.mkdir(exist_ok=True)
    (folder / "encoder.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    return folder

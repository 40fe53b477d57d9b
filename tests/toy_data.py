"""Toy data in place of those that need a download; drawn by NumPy, alike on every machine."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

import genjax.data
import genjax.data.moving
import genjax.feature_net
from genjax.data import Dataset, Split, make_dataset, resampled, scaled, unchanged, wide_tokens
from genjax.data.landscape import RESIDUES
from genjax.data.texts import LETTERS, divide, name_rows
from genjax.metrics.features import Features
from genjax.report.wav import wav_file

SPLITS = ("train", "validation", "test")
TEXT = "".join(np.random.default_rng(0).choice(["to be, ", "or not\n", "to be; "], 400))  # 10 characters
NAMES = ["ann", "bo", "annabo", "boann"] * 30
CYCLE = "ACDW" * 12  # each residue says the next
PROTEINS = [CYCLE[start : start + length] for length in range(8, 38) for start in range(4)]
FRAMES, RATE = 7, 8_000  # of a roll; samples a second


def bars(levels: int = 2, dynamic: bool = False) -> Dataset:
    """Four patterns of bars, 28x28, with their numbers as labels; `dynamic`: binary, drawn anew for training."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (4, 28, 1, 1)).astype(np.uint8) * np.ones((1, 1, 28, 1), np.uint8) * (levels - 1)
    numbers = rng.integers(0, 4, 300)
    rows = {"train": slice(0, 200), "validation": slice(200, 250), "test": slice(250, 300)}
    splits = {
        name: Split({"image": patterns[numbers[part]], "label": numbers[part].astype(np.int32)}, scaled(levels))
        for name, part in rows.items()
    }
    if not dynamic:
        return make_dataset("toy", splits, classes=4, levels=levels)
    train = Split({**splits["train"].arrays, "image": 255 * splits["train"].arrays["image"]}, resampled(256))
    return make_dataset("toy", {**splits, "train": train}, classes=4, levels=2, stored=256)


def colours() -> Dataset:
    """32x32 of one brightness a colour, brighter on the left, of ten classes."""
    draw, splits = np.random.default_rng(0), {}
    for name, rows in zip(SPLITS, (180, 20, 40), strict=True):
        levels = draw.integers(0, 256, (rows, 1, 1, 3))
        image = np.broadcast_to(levels, (rows, 32, 32, 3)).astype(np.uint8).copy()
        image[:, :, :16] //= 2
        splits[name] = Split({"image": image, "label": (np.arange(rows) % 10).astype(np.int32)}, scaled(256))
    return make_dataset("cifar10", splits, 10)


def rolls(fill: int = 0) -> Dataset:
    """Twelve rolls a split, of 3 to 7 frames of few notes; behind the end of a roll stands `fill`."""
    splits = {}
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng(number)
        lengths = rng.integers(3, FRAMES + 1, 12).astype(np.int32)
        inside = np.arange(FRAMES)[None, :, None] < lengths[:, None, None]
        notes = np.where(inside, rng.random((12, FRAMES, 88)) < np.linspace(0.02, 0.2, 88), fill).astype(np.uint8)
        splits[split] = Split({"roll": notes, "length": lengths}, unchanged)
    return make_dataset("toy", splits, levels=2)


def text() -> Dataset:
    """Three phrases in any order."""
    return divide("toy", TEXT, "toy")


def names() -> Dataset:
    """Four names, again and again."""
    rows = name_rows(NAMES, "toy")
    split = lambda part: Split({field: array[part] for field, array in rows.items()}, wide_tokens)
    parts = {"train": split(slice(0, 80)), "validation": split(slice(80, 100)), "test": split(slice(100, 120))}
    return make_dataset("toy", parts, levels=len(LETTERS), vocabulary=LETTERS)


def tone(digit: int, take: int) -> np.ndarray:
    """A loud tone, higher for each digit."""
    return np.sin(2 * np.pi * (200 + 200 * digit) / RATE * np.arange(900) + take)


def write_digits(folder: Path) -> None:
    """Tones as spoken digits: four takes train, two validate, two test."""
    for digit in range(10):
        for take in (0, 1, 5, 6, 10, 11, 12, 13):
            (folder / f"{digit}_ann_{take}.wav").write_bytes(wav_file(tone(digit, take)))


def write_proteins(path: Path) -> None:
    """Proteins whose residues follow each other in a circle, the first of them twice."""
    path.write_text("".join(f">p{i}\n{protein}\n" for i, protein in enumerate([*PROTEINS, PROTEINS[0]])))


def write_family(path: Path) -> None:
    """Aligned rows of six residues, the first two of which agree."""
    rows = np.random.default_rng(0).integers(0, 20, (60, 6))
    rows[:, 1] = rows[:, 0]
    path.write_text("".join(f">p{i}\n{''.join(RESIDUES[k] for k in row)}\n" for i, row in enumerate(rows)))


def write_landscape(path: Path) -> None:
    """Two sites that must agree in their group of residues: no site alone tells what is fit."""
    group = lambda letter: RESIDUES.index(letter) % 2
    rng = np.random.default_rng(0)
    fitness = lambda a, b: float(group(a) == group(b)) + rng.uniform(0, 0.1)
    rows = [(a + b, fitness(a, b)) for a, b in itertools.product(RESIDUES, repeat=2)]
    path.write_text("Variants,Fitness\n" + "".join(f"{v},{f}\n" for v, f in rows))


def write_series(path: Path) -> None:
    """Ten seasons of twelve months, rising, with noise."""
    rng, t = np.random.default_rng(0), np.arange(120)
    values = np.exp(5 + 0.01 * t + 0.2 * np.sin(2 * np.pi * t / 12) + 0.05 * rng.normal(size=120).cumsum())
    lines = [f"{1949 + i // 12}-{i % 12 + 1:02},{value:.1f}\n" for i, value in enumerate(values)]
    path.write_text("month,passengers\n" + "".join(lines))


def write_pictures(path: Path) -> None:
    """Colours again, as an array of bytes, 8x8."""
    np.save(path, colours().train.arrays["image"][:, 12:20, 12:20])


SETS = {
    "mnist": lambda: bars(256),
    "fashion_mnist": lambda: bars(256),
    "mnist_dynamic": lambda: bars(dynamic=True),
    "fashion_mnist_dynamic": lambda: bars(dynamic=True),
    "binarized_mnist": bars,
    "mnist_thresholded": bars,
    "cifar10": colours,
    "jsb_chorales": rolls,
    "tiny_shakespeare": text,
    "names": names,
}


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Toy data under the names of the sets, toy files in the working directory, no classifier of digits."""
    labels = Features("labels by a rule", lambda grey: np.round(9 * grey.mean(axis=(1, 2))))
    with contextlib.ExitStack() as stack:
        for name, toy in SETS.items():
            stack.enter_context(mock.patch.object(genjax.data, name, toy))
        stack.enter_context(mock.patch.object(genjax.data.moving, "mnist", lambda data_dir=None: bars(256)))
        stack.enter_context(mock.patch.object(genjax.data.moving, "HELD_OUT", 8))
        stack.enter_context(mock.patch.object(genjax.feature_net, "classifier_labels", lambda path, data: labels))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(contextlib.chdir(folder))
        (folder / "spoken").mkdir()
        write_digits(folder / "spoken")
        write_proteins(folder / "proteins.fasta")
        write_family(folder / "family.fasta")
        write_landscape(folder / "gb1.csv")
        write_series(folder / "airline.csv")
        write_series(folder / "sunspots.csv")
        write_pictures(folder / "pictures.npy")
        yield

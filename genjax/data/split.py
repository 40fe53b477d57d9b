"""Named splits of a data set: what is stored (small, raw), and what turns stored rows into what a loss sees.

A `Split` holds whole arrays of one row count in their smallest faithful type, and one traced function that prepares a
batch of them. Grey levels and their dynamic binarization are therefore two data sets over the same training rows, which
differ in `prepare`.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.data.checks import check_arrays
from genjax.data.permutation import ROUNDS, permute
from genjax.errors import BadInput
from genjax.types import Batch, Key

Arrays = Mapping[str, np.ndarray]
Prepare = Callable[[Batch, Key], Batch]


class Split(NamedTuple):
    """Rows of a data set and their preparation."""

    # {"image": uint8 [N, H, W, C], "label": int32 [N], "x": float32 [N, D], "roll": uint8 [N, T, D];
    #  "tokens": integers [N, L], or [T], a stream; "length": int32 [N], what is real of a padded row}
    arrays: Arrays
    prepare: Prepare  # traced: raw rows [B, ...] and a key -> what a loss sees, image float32 in [0, 1]


class Dataset(NamedTuple):
    """Three splits under one name."""

    name: str
    train: Split
    validation: Split
    test: Split
    fingerprint: str  # sha256 over the arrays of the three splits and the names of their preparations
    classes: int | None  # labels lie in [0, classes); None: no labels
    levels: int  # values that a prepared pixel, or a token, takes: 2 binary, 17 digits, 256 bytes; 0: real numbers
    about: str  # source and licence, for the report
    vocabulary: str = ""  # the character of each token, for text


def make_dataset(
    name: str,
    splits: Mapping[str, Split],
    classes: int | None = None,
    levels: int = 256,
    about: str = "",
    stored: int | None = None,
    vocabulary: str = "",
) -> Dataset:
    """The checked data set of three splits.

    Args:
      name: what reports call it.
      splits: `train`, `validation` and `test`.
      classes: number of classes, where there is a field `label`.
      levels: values that a prepared pixel, or a token, takes; 0: real numbers.
      about: source and licence.
      stored: values that a stored pixel takes, where there are more than `levels`.
      vocabulary: the character of each token, for text.
    Returns:
      The data set with its fingerprint.
    Raises:
      BadInput: an empty split, unequal row counts, a wrong type, range or label, a value that is not finite.

    >>> rows = Split({"image": np.zeros([4, 2, 2, 1], np.uint8)}, scaled(2))
    >>> make_dataset("blank", {"train": rows, "validation": rows, "test": rows}, levels=2).levels
    2
    """
    for split in ("train", "validation", "test"):
        check_arrays(splits[split].arrays, f"{name}, split {split}", classes, stored or levels)
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        digest.update(f"{split}:{fingerprint(splits[split])};".encode())
    parts = (splits["train"], splits["validation"], splits["test"])
    return Dataset(name, *parts, digest.hexdigest(), classes, levels, about, vocabulary)


def fingerprint(split: Split) -> str:
    """The sha256 digest (hexadecimal) of a split's arrays and of the name of its preparation."""
    digest = hashlib.sha256(f"prepare {described(split.prepare)};".encode())
    for field in sorted(split.arrays):
        array = np.ascontiguousarray(split.arrays[field])
        digest.update(f"{field} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()


def described(prepare: Prepare) -> str:
    """The name of a preparation, with the arguments that `functools.partial` bound."""
    if isinstance(prepare, functools.partial):
        return f"{described(prepare.func)}{prepare.args}{sorted(prepare.keywords.items())}"
    return getattr(prepare, "__qualname__", type(prepare).__qualname__)


def carve(rows: int, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of train, validation and test: the same on every machine, disjoint, and together all rows.

    Args:
      rows: N.
      fractions: of train, validation and test, each positive; they sum to 1.
    Returns:
      Three sorted arrays of row numbers, drawn without order from the whole set.
    Raises:
      BadInput: fractions that do not fit, or too few rows for one in each split.

    >>> [len(part) for part in carve(1_797, (0.7, 0.15, 0.15))]
    [1257, 270, 270]
    """
    if len(fractions) != 3 or not all(f > 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        allowed = "Allowed are three positive fractions that sum to 1, for train, validation and test."
        raise BadInput(f"fractions = {tuple(fractions)} do not divide a set.", allowed, "For example (0.8, 0.1, 0.1).")
    validation, test = (round(rows * fraction) for fraction in fractions[1:])
    train = rows - validation - test
    if min(train, validation, test) < 1:
        what = f"rows = {rows}: fractions {tuple(fractions)} give {train}, {validation} and {test} rows."
        raise BadInput(what, "Train, validation and test need one row each.", "Give more rows or other fractions.")
    order = permute(np.arange(rows, dtype=np.uint32), rows, np.arange(ROUNDS, dtype=np.uint32))
    parts = np.split(order.astype(np.int64), [train, train + validation])
    return np.sort(parts[0]), np.sort(parts[1]), np.sort(parts[2])


def take(arrays: Arrays, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
    """The named rows of every array."""
    return {field: array[rows] for field, array in arrays.items()}


def joined(first: Split, second: Split) -> Split:
    """The rows of two splits, one after the other, under the preparation of the first.

    >>> rows = Split({"x": np.zeros([2, 1])}, unchanged)
    >>> joined(rows, rows).arrays["x"].shape
    (4, 1)
    """
    pairs = {field: (array, second.arrays[field]) for field, array in first.arrays.items()}
    return first._replace(arrays={field: np.concatenate(pair) for field, pair in pairs.items()})


def unchanged(batch: Batch, key: Key) -> Batch:
    """Rows as they are stored: tokens, tables."""
    del key
    return batch


def wide_tokens(batch: Batch, key: Key) -> Batch:
    """Tokens, stored in the smallest type that holds them, as int32; other fields are left alone."""
    del key
    return {**batch, "tokens": batch["tokens"].astype(jnp.int32)}


def scaled(levels: int) -> Prepare:
    """The preparation image = level / (levels - 1), float32 in [0, 1]; other fields are left alone."""
    return functools.partial(_scale, levels=levels)


def _scale(batch: Batch, key: Key, *, levels: int) -> Batch:
    del key
    image = batch["image"]  # pixels in one axis: see _resample
    rows = image.reshape(len(image), -1).astype(jnp.float32) / (levels - 1)
    return {**batch, "image": rows.reshape(image.shape)}


def resampled(levels: int) -> Prepare:
    """The preparation image ~ Bernoulli(level / (levels - 1)), drawn anew for every batch; float32, 0 or 1.

    Dynamic binarization, as in Burda, Grosse and Salakhutdinov (2015), https://arxiv.org/abs/1509.00519, section 5.
    """
    return functools.partial(_resample, levels=levels)


def _resample(batch: Batch, key: Key, *, levels: int) -> Batch:
    # 16 random bits a pixel, two pixels of a row share a word: half the generator's work, each probability within
    # 2^-16, black and white exact.  Pixels in one axis: XLA's CPU code is not vectorised over a last axis of size one
    image = batch["image"]
    rows = image.reshape(len(image), -1)
    words = jax.random.bits(key, (len(image), 1, -(-rows.shape[1] // 2)), "uint32")
    halves = (words >> jnp.array([0, 16], jnp.uint32).reshape(1, 2, 1)) & jnp.uint32(2**16 - 1)
    noise = halves.reshape(len(image), -1)[:, : rows.shape[1]] * (levels - 1)
    drawn = noise < rows.astype(jnp.uint32) * 2**16
    return {**batch, "image": drawn.astype(jnp.float32).reshape(image.shape)}

"""A few labelled examples of a set, and batches that bring unlabelled ones along, for semi-supervised learning."""

from collections.abc import Sequence

import jax
import numpy as np

from genjax.data.batches import batches
from genjax.data.split import Split, take
from genjax.errors import BadInput
from genjax.types import Batch, Key, Source

UNLABELLED = 2**32 - 4  # no step's number, as ORDER and NOISE in batches.py
FIELD = "unlabelled"


def few_labels(label: Sequence[int] | np.ndarray, count: int, choice: int = 0) -> np.ndarray:
    """The rows whose labels are known, as many of each class: what results of few labels depend on most.

    Args:
      label: of all rows, 0 .. K-1.
      count: how many are known, a multiple of K; 0: all.
      choice: which; 0: the first of each class, any other number: a draw of its own, the same on every machine.

    Returns:
      Their numbers, sorted.

    Raises:
      BadInput: a count that is no multiple of K, or more than the rarest class allows; a negative choice.

    >>> few_labels([0, 1, 0, 1, 1], 2).tolist(), len(few_labels([0, 1, 0, 1, 1], 0))
    ([0, 1], 5)
    """
    label = np.asarray(label)
    classes = int(label.max()) + 1
    most = classes * int(np.bincount(label, minlength=classes).min())
    if not 0 <= count <= most or count % classes:
        raise BadInput(f"labels = {count}", f"allowed: 0 for all, or multiples of {classes} up to {most:,}")
    if choice < 0:
        raise BadInput(f"choice = {choice}", "allowed: whole numbers from 0")
    if not count:
        return np.arange(len(label))
    order = np.random.default_rng(choice).permutation(len(label)) if choice else np.arange(len(label))
    rows = [order[label[order] == each][: count // classes] for each in range(classes)]
    return np.sort(np.concatenate(rows))


def with_unlabelled(split: Split, rows: np.ndarray, batch_size: int, ratio: int = 1) -> Source:
    """Batches of labelled examples, each with `ratio` times as many examples of the whole set without labels.

    Args:
      split: arrays and their preparation; fields `image` and `label`.
      rows: whose labels are known, see `few_labels`.
      batch_size: B; of fewer labelled rows than that, all of them.
      ratio: unlabelled examples for a labelled one, at least 1.

    Returns:
      A source of {"image": [B, H, W, C], "label": [B], "unlabelled": [ratio * B, H, W, C]}.  The unlabelled are drawn
      from all rows, the labelled ones among them, in an order of their own.

    Raises:
      BadInput: no rows, a ratio below 1, batches larger than the set.

    >>> from genjax.data import digits
    >>> train = digits().train
    >>> source = with_unlabelled(train, few_labels(train.arrays["label"], 100), 50, ratio=2)
    >>> batch = source.batch(source.resident, jax.random.key(0), 3)
    >>> {name: array.shape for name, array in sorted(batch.items())}
    {'image': (50, 8, 8, 1), 'label': (50,), 'unlabelled': (100, 8, 8, 1)}
    """
    if ratio < 1 or not len(rows):
        raise BadInput(f"ratio = {ratio}, {len(rows)} labelled rows", "allowed: at least 1 of both")
    known = batches(split._replace(arrays=take(split.arrays, rows)), min(batch_size, len(rows)))
    others = batches(Split({"image": split.arrays["image"]}, split.prepare), ratio * known.batch_size)

    def batch(feed: Batch, key: Key, step: jax.Array) -> Batch:
        drawn = others.batch(feed["others"], jax.random.fold_in(key, UNLABELLED), step)["image"]
        return {**known.batch(feed["known"], key, step), FIELD: drawn}

    resident = {"known": known.resident, "others": others.resident}
    fingerprint = f"{known.fingerprint}+{others.fingerprint}"
    return Source(batch, known.batch_size, resident, rows=known.rows, fingerprint=fingerprint)

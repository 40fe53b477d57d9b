"""Batches that bring random rows of the training set along, for priors made of training examples."""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.data.batches import batches, rows_of_batch
from genjax.data.split import Split
from genjax.errors import BadInput
from genjax.types import Batch, Key, Source

EXEMPLARS = 2**32 - 3  # no step's number, as ORDER and NOISE in batches.py


def with_exemplars(split: Split, batch_size: int, count: int, levels: int = 256) -> Source:
    """The batches of `batches`, each with M other images of the set, at random and each at most once.

    Args:
      split: arrays and their preparation; the field `image` holds stored grey levels.
      batch_size: B.
      count: M, from 2 to the number of rows; on several devices a multiple of their number.
      levels: grey levels of the stored images.

    Returns:
      A source whose batches also have `row` [B], the numbers of the examples in the set, `exemplar` [M, H, W, C],
      stored grey levels in [0, 1] (not binarized: an exemplar is the image as it is), and `exemplar_row` [M].

    Raises:
      BadInput: as `batches`; fewer than two exemplars, or more than there are rows.

    >>> split = Split({"image": np.zeros((10, 2, 2, 1), np.uint8)}, lambda batch, key: batch)
    >>> source = with_exemplars(split, 3, 5)
    >>> batch = source.batch(source.resident, jax.random.key(0), 0)
    >>> {name: array.shape for name, array in sorted(batch.items())}
    {'exemplar': (5, 2, 2, 1), 'exemplar_row': (5,), 'image': (3, 2, 2, 1), 'row': (3,)}
    """
    rows = len(split.arrays["image"])
    if not 2 <= count <= rows:
        raise BadInput(
            f"exemplars = {count}", f"allowed: whole numbers from 2 to {rows}, the images of the training set"
        )
    numbered = Split({**split.arrays, "row": np.arange(rows, dtype=np.int32)}, split.prepare)
    source = batches(numbered, batch_size)

    def batch(feed: Batch, key: Key, step: jax.Array) -> Batch:
        chosen = rows_of_batch(jax.random.fold_in(key, EXEMPLARS), step, rows, count)
        images = jnp.asarray(feed["image"]).at[chosen].get(mode="promise_in_bounds").astype(jnp.float32) / (levels - 1)
        drawn = source.batch(feed, key, step)
        return {**drawn, "exemplar": images, "exemplar_row": chosen.astype(jnp.int32)}

    return source._replace(batch=batch)

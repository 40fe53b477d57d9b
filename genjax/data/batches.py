"""Batches by random access: batch t is a pure function of (key, t), so a restart is exact on any number of hosts."""

import jax
import jax.numpy as jnp

from genjax.data.checks import check_finite, check_rows
from genjax.data.permutation import ROUNDS, permute
from genjax.data.split import Arrays, Split, fingerprint
from genjax.errors import BadInput
from genjax.types import Batch, Key, Source

# Steps are int32, so these numbers are no step's: the order of an epoch and the noise of a batch share no bits with
# each other, nor with a caller who folds the step into the same key.
ORDER, NOISE = 2**32 - 1, 2**32 - 2


def batches(split: Split, batch_size: int) -> Source:
    """Shuffled batches of a split that stays resident on the devices.

    With N rows an epoch has floor(N / B) batches. Each epoch is a new pseudo-random order of all N rows, and the
    N mod B rows that come last in it are left out of that epoch. The same (key, step) gives the same batch on any
    number of devices and processes.

    Args:
      split: arrays and their preparation.
      batch_size: B, from 1 to the number of rows.
    Returns:
      A source whose `batch(feed, key, step)` is traced: `feed` is `resident`, the arrays, placed on the devices;
      `key` is a typed key, `step` an integer in [0, 2**31).
    Raises:
      BadInput: a batch size that is not an integer from 1 to N; an empty split, or one that is not finite.

    >>> from genjax.data import digits
    >>> source = batches(digits().train, 100)
    >>> feed = jax.device_put(source.resident)  # once: else each compiled call would carry all arrays over
    >>> batch = jax.jit(source.batch)(feed, jax.random.key(0), 3)
    >>> batch["image"].shape, float(batch["image"].max())
    ((100, 8, 8, 1), 1.0)
    """
    check_rows(split.arrays, "batches")
    for field, array in split.arrays.items():
        check_finite(array, field, "batches")
    rows = check_batch_size(split.arrays, batch_size)

    def batch(feed: Batch, key: Key, step: jax.Array) -> Batch:
        chosen = rows_of_batch(key, step, rows, batch_size)
        raw = {field: jnp.asarray(array).at[chosen].get(mode="promise_in_bounds") for field, array in feed.items()}
        return split.prepare(raw, noise_key(key, step))

    return Source(batch, batch_size, dict(split.arrays), rows=rows, fingerprint=fingerprint(split))


def rows_of_batch(key: Key, step: jax.Array, rows: int, batch_size: int) -> jax.Array:
    """The row numbers [B], uint32, of batch t: slice t mod floor(N / B) of the order of epoch t // floor(N / B)."""
    step = jnp.asarray(step).astype(jnp.uint32)
    per_epoch = jnp.uint32(rows // batch_size)
    words = jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, ORDER), step // per_epoch), (ROUNDS,), "uint32")
    positions = (step % per_epoch) * jnp.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
    # without a barrier XLA may fuse the rounds into the gather that reads the rows, where each use of a word computes
    # it again, and what that word uses: a compiler that does not come back (jaxlib 0.12.0, CPU, inside vmap)
    return jax.lax.optimization_barrier(jnp.asarray(permute(positions, rows, words)))


def noise_key(key: Key, step: jax.Array) -> Key:
    """The key of a batch's preparation."""
    return jax.random.fold_in(jax.random.fold_in(key, NOISE), step)


def check_batch_size(arrays: Arrays, batch_size: int) -> int:
    """The number of rows N; raises BadInput unless 1 <= batch_size <= N."""
    rows = min(len(array) for array in arrays.values())
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= rows:
        what = f"batch_size = {batch_size!r} does not fit a split of {rows} rows."
        raise BadInput(what, f"Allowed are whole numbers from 1 to {rows}.", f"Use --batch-size {min(rows, 100)}.")
    return rows

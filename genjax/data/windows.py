r"""Windows of a long stream of tokens: random ones to train on, neighbouring ones to evaluate on.

Of T tokens x_0 ... x_{T-1} a network reads L and predicts the next of each, so a window holds L + 1 tokens,

    x_s ... x_{s+L},      inputs x_s ... x_{s+L-1},      targets x_{s+1} ... x_{s+L}.

To train, s is drawn uniformly from 0 ... T-L-1, with replacement. To evaluate, s = 0, L, 2L, ...: neighbours share one
token, the last target of one and the first input of the next, hence every token is predicted once, but the first and
the last (T - 1) mod L.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.data.batches import ORDER, noise_key
from genjax.data.checks import check_integers
from genjax.data.split import Split, fingerprint, wide_tokens
from genjax.errors import BadInput
from genjax.types import Batch, Key, Source


def windows(stream: Split | np.ndarray, length: int, batch_size: int) -> Source:
    """Random windows of a stream that stays resident on the devices.

    The same (key, step) gives the same windows, on any number of devices and processes.

    Args:
      stream: a split with the field `tokens` [T], or the tokens [T] themselves, integers from 0.
      length: L, inputs of a window: from 1 to T - 1.
      batch_size: B, windows of a batch, at least 1.
    Returns:
      A source whose batches are {"tokens": int32 [B, L + 1]}: read `tokens[:, :-1]`, predict `tokens[:, 1:]`.
    Raises:
      BadInput: no stream, one that is shorter than a window, or a batch size below 1.

    >>> source = windows(np.arange(100), length=8, batch_size=4)
    >>> tokens = source.batch(source.resident, jax.random.key(0), 0)["tokens"]
    >>> tokens.shape, bool((tokens[:, 1:] - tokens[:, :-1] == 1).all())
    ((4, 9), True)
    """
    split = _as_split(stream, length)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise BadInput(f"batch_size = {batch_size!r} windows.", "Allowed are whole numbers from 1.")
    total = len(split.arrays["tokens"])

    def batch(feed: Batch, key: Key, step: jax.Array) -> Batch:
        first = starts(key, step, total, length, batch_size)
        # a gather of B slices; of B (L + 1) single tokens it would be slower
        cut = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(jnp.asarray(feed["tokens"]), start, length + 1))
        return split.prepare({"tokens": cut(first)}, noise_key(key, step))

    return Source(batch, batch_size, {"tokens": split.arrays["tokens"]}, fingerprint=fingerprint(split))


def starts(key: Key, step: jax.Array, total: int, length: int, batch_size: int) -> jax.Array:
    """The first positions [B], int32, of the windows of batch t: uniform on 0 .. T-L-1."""
    return jax.random.randint(
        jax.random.fold_in(jax.random.fold_in(key, ORDER), step), (batch_size,), 0, total - length
    )


def pieces(stream: Split | np.ndarray, length: int) -> Split:
    """The stream as rows that predict each token once, for evaluation.

    Args:
      stream: a split with the field `tokens` [T], or the tokens [T] themselves.
      length: L, predictions of a row: from 1 to T - 1.
    Returns:
      `tokens` [N, L + 1], N = floor((T - 1) / L), prepared as int32. The last (T - 1) mod L tokens are left out.
    Raises:
      BadInput: no stream, or one that is shorter than a window.

    >>> pieces(np.arange(10), length=4).arrays["tokens"]
    array([[0, 1, 2, 3, 4],
           [4, 5, 6, 7, 8]])
    """
    split = _as_split(stream, length)
    tokens = split.arrays["tokens"]
    first = np.arange((len(tokens) - 1) // length) * length
    return Split({"tokens": tokens[first[:, None] + np.arange(length + 1)]}, split.prepare)


def _as_split(stream: Split | np.ndarray, length: int) -> Split:
    """The stream as a split, checked: one axis, integers from 0, L + 1 of them at least."""
    split = stream if isinstance(stream, Split) else Split({"tokens": np.asarray(stream)}, wide_tokens)
    if "tokens" not in split.arrays or np.ndim(split.arrays["tokens"]) != 1:
        shapes = ", ".join(f"{field} {np.shape(array)}" for field, array in split.arrays.items())
        what = f"windows: the split holds {shapes or 'nothing'}, no stream."
        raise BadInput(
            what, "A stream is one field `tokens` on one axis.", "Rows of tokens are for genjax.data.batches."
        )
    total = len(split.arrays["tokens"])
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length < total:
        what = f"length = {length!r} does not fit a text of {total} tokens."
        raise BadInput(
            what, "A window has length + 1 tokens.", f"Use a length from 1 to {total - 1}, or a longer text."
        )
    check_integers(split.arrays["tokens"], "tokens", "windows", 1, 2**31)
    return split

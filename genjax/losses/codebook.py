"""Code vectors as moving averages of the vectors that chose them, and the revival of those that nothing chooses.

With n_k of a batch's vectors choosing code k, and s_k the sum of these,

    N_k <- g N_k + (1 - g) n_k,    m_k <- g m_k + (1 - g) s_k,    e_k = m_k / N_k

which is k-means on a moving target (van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning,
2017, appendix A.1, https://arxiv.org/abs/1711.00937).  No gradient touches (N, m): they stand in `State.carry`.

A code that is far from all vectors is never chosen, and so never moves.  Its vector is then replaced by one of the
batch (Dhariwal et al., Jukebox, 2020, section 3, https://arxiv.org/abs/2005.00341).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array, Key

SMOOTHING = 1e-5  # pseudo-counts of every code


class Codebook(NamedTuple):
    """Moving averages, per batch, of what chose each code; its shapes never change."""

    counts: jax.Array  # type: ignore[assignment]  # N [K] float32, vectors
    sums: jax.Array  # m [K, D] float32, their sum


def first_codebook(vectors: Array, size: int, key: Key) -> Codebook:
    """A codebook whose code vectors are different rows of a batch, each with the weight of one vector.

    Args:
      vectors: z [..., D], M of them, such as the encoder's of the first batch.
      size: K, from 2 to M.
      key: chooses the rows.

    Returns:
      N [K] ones, m [K, D] float32.

    Raises:
      BadInput: K outside 2 .. M: with more codes than a batch has vectors some could never be in use together.

    >>> first_codebook(jnp.arange(3.0)[:, None], 3, jax.random.key(0)).sums.sort(axis=0).tolist()
    [[0.0], [1.0], [2.0]]
    """
    rows = upcast(vectors).reshape(-1, vectors.shape[-1])
    if not 2 <= size <= len(rows):
        raise BadInput(
            f"codes = {size}: a batch has {len(rows)} vectors",
            f"allowed: whole numbers from 2 to {len(rows)}, so that a batch can use every code",
            "fewer codes, or a larger batch_size" if size > len(rows) else "more codes",
        )
    chosen = jax.random.choice(key, len(rows), (size,), replace=False)
    return Codebook(jnp.ones(size, jnp.float32), rows[chosen].astype(jnp.float32))


def code_vectors(book: Codebook) -> jax.Array:
    """e_k = m_k / N'_k,  N'_k = (N_k + c) / (n + K c) n,  n = sum_k N_k: Laplace smoothing with c = 1e-5.

    Args:
      book: N and m.

    Returns:
      [K, D]; finite for codes that nothing has chosen for long.

    >>> code_vectors(Codebook(jnp.array([2.0, 2.0]), jnp.array([[2.0], [6.0]]))).round(4).tolist()
    [[1.0], [3.0]]
    """
    total, size = jnp.sum(book.counts), len(book.counts)
    smooth = (book.counts + SMOOTHING) / (total + size * SMOOTHING) * total
    return book.sums / smooth[:, None]


def moved(book: Codebook, vectors: Array, codes: Array, decay: float) -> Codebook:
    """N <- g N + (1 - g) n,  m <- g m + (1 - g) s: one step of the moving averages.

    Args:
      book: N, m.
      vectors: z [..., D] of a batch; no gradient reaches them.
      codes: [...] integers, what they chose.
      decay: g in [0, 1).

    Returns:
      The new codebook, of the same shapes and dtypes.

    Raises:
      BadInput: a decay outside [0, 1), shapes that do not fit.

    >>> book = Codebook(jnp.array([1.0, 1.0]), jnp.array([[0.0], [4.0]]))
    >>> new = moved(book, jnp.array([[1.0], [2.0]]), jnp.array([0, 0]), 0.5)
    >>> new.counts.tolist(), new.sums.tolist()
    ([1.5, 0.5], [[1.5], [2.0]])
    """
    if not 0 <= decay < 1:
        raise BadInput(f"decay = {decay}", "allowed: at least 0, below 1")
    if jnp.shape(codes) != jnp.shape(vectors)[:-1] or jnp.shape(vectors)[-1] != book.sums.shape[1]:
        raise BadInput(
            f"vectors {list(jnp.shape(vectors))}, codes {list(jnp.shape(codes))}, sums {list(book.sums.shape)}",
            "allowed: [..., D], [...] and [K, D]",
        )
    rows = jax.lax.stop_gradient(upcast(vectors)).reshape(-1, vectors.shape[-1])
    # a product with one-hot rows: XLA's GPU backend adds rows at repeated indices one after the other
    chosen = jax.nn.one_hot(jnp.reshape(codes, -1), len(book.counts), dtype=jnp.float32)
    batch = jnp.sum(chosen, axis=0), jnp.matmul(chosen.T, rows, precision="highest")
    counts, sums = (decay * old + (1.0 - decay) * new for old, new in zip(book, batch, strict=True))
    return Codebook(counts, sums.astype(jnp.float32))


def revived(book: Codebook, vectors: Array, key: Key, least: float) -> tuple[Codebook, jax.Array]:
    """Codes with N_k < least begin again as random vectors of the batch, with the weight of one vector.

    Args:
      book: after `moved`.
      vectors: z [..., D] of the batch; no gradient reaches them.
      key: chooses the vectors.
      least: vectors a batch below which a code counts as dead, in [0, 1); 0: codes are never revived.

    Returns:
      (codebook, [K] which codes were revived); the numbers of all others are left as they are.

    Raises:
      BadInput: a limit outside [0, 1): from 1 on a revived code would be dead at once.

    >>> book = Codebook(jnp.array([5.0, 0.01]), jnp.array([[10.0], [0.0]]))
    >>> new, dead = revived(book, jnp.array([[7.0]]), jax.random.key(0), 0.1)
    >>> new.counts.tolist(), new.sums.tolist(), dead.tolist()
    ([5.0, 1.0], [[10.0], [7.0]], [False, True])
    """
    if not 0 <= least < 1:
        raise BadInput(f"least = {least}", "allowed: vectors a batch, at least 0, below 1; 0: never revive")
    rows = jax.lax.stop_gradient(upcast(vectors)).reshape(-1, vectors.shape[-1])
    drawn = rows[jax.random.randint(key, book.counts.shape, 0, len(rows))].astype(jnp.float32)
    dead = book.counts < least
    counts, sums = jnp.where(dead, 1.0, book.counts), jnp.where(dead[:, None], drawn, book.sums)
    return Codebook(counts, sums), dead

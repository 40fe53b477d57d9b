"""Attention: causal, within documents, over a cache, with rotary positions and grouped heads; or of all to all.

With queries q, keys k and values v of one head, D numbers a token,

    o_t = sum_s a_ts v_s,    a_ts = softmax over s of q_t . k_s / sqrt(D),    start_t <= s <= t

`start_t` is the first token of the document that token t belongs to, 0 where a row is one document; several documents
can so be packed into a row.  Masked scores are the most negative number, so that their weights, and every derivative
with respect to what they hide, are exactly 0.  H query heads share K <= H heads of keys and values, H / K each
(Ainslie et al. 2023, arXiv:2305.13245).  Attention is that of Vaswani et al. 2017, arXiv:1706.03762, section 3.2.

On a GPU `jax.nn.dot_product_attention` does the work, by cuDNN in half precision, unless weights are dropped.  On CPU
it takes twice as long as the products written here, whose batch is (B, K), and which leave out most of what the mask
would hide: 2.2 and 0.95 ms for 48 heads of 64 tokens, with gradient; 128 and 78 ms for 96 heads of 256 (one core,
jaxlib 0.10.2).
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from genjax.distributions.arrays import upcast
from genjax.models.dropout import dropped
from genjax.types import Array, Key

BLOCK = 128  # queries


def documents(segments: Array) -> tuple[jax.Array, jax.Array]:
    """Where each token stands in its document, and where that document starts.

    A document is a run of equal numbers; the numbers themselves do not matter.

    Args:
      segments: [B, T] integers.

    Returns:
      (position from 0, start), [B, T] int32 each.

    >>> position, start = documents(jnp.array([[7, 7, 7, 9, 9, 7]]))
    >>> position.tolist(), start.tolist()
    ([[0, 1, 2, 0, 1, 0]], [[0, 0, 0, 3, 3, 5]])
    """
    segments = jnp.asarray(segments)
    index = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    first = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    start = jax.lax.cummax(jnp.where(first, index, 0), axis=1)
    return index - start, start


def rotary_table(positions: int, dims: int) -> np.ndarray:
    """cos and sin of t theta_i, theta_i = 10000^(-2 i / D): how far position t turns the i-th pair of a head.

    Su et al., RoFormer, 2021, https://arxiv.org/abs/2104.09864, section 3.2.2.  In float64 first: the angle of a late
    position has many turns.

    Args:
      positions: of the context.
      dims: D, even: numbers a head.

    Returns:
      [positions, D] float32: D / 2 cosines, then D / 2 sines.

    >>> [[round(float(x), 4) for x in row] for row in rotary_table(2, 2)]  # 0 and 1 radian
    [[1.0, 0.0], [0.5403, 0.8415]]
    """
    theta = 10_000.0 ** (-np.arange(0, dims, 2) / dims)
    angle = np.arange(positions)[:, None] * theta
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def rotate(x: Array, turns: Array) -> jax.Array:
    """Each pair (x_i, x_{i + D/2}) of a head turned by its angle: q_t . k_s then depends on t - s alone.

    Turned in float32 at least: at a late position the angle's cosine in bfloat16 would be that of other positions.

    Args:
      x: [B, T, heads, D] queries or keys.
      turns: [T, D] or [B, T, D], rows of `rotary_table`.

    Returns:
      [B, T, heads, D] in the dtype of `x`.

    >>> quarter = jnp.array([[0.0, 1.0]])  # cos, sin of 90 degrees
    >>> rotate(jnp.array([[[[1.0, 0.0]]]]), quarter)[0, 0, 0].tolist()
    [0.0, 1.0]
    """
    x, turns = jnp.asarray(x), jnp.expand_dims(upcast(turns), axis=-2)
    turns = turns if turns.ndim == 4 else turns[None]
    cos, sin = jnp.split(turns, 2, axis=-1)
    left, right = jnp.split(upcast(x), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, start: Array | None = None, rate: float = 0.0, key: Key | None = None
) -> jax.Array:
    """Every token attends to itself and what stands before it in its document.

    Args:
      q: [B, T, H, D]
      k, v: [B, T, K, D], K divides H.
      start: [B, T] from `documents`; None: a row is one document.
      rate: of dropout on the weights.
      key: of that dropout; None: no dropout.

    Returns:
      [B, T, H, D].

    >>> v = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    >>> attend(0 * v, 0 * v, v).ravel().tolist(), attend(0 * v, 0 * v, v, jnp.array([[0, 1]])).ravel().tolist()
    ([1.0, 2.0], [1.0, 3.0])
    """
    index = jnp.arange(q.shape[1])
    seen = (index[None, :] <= index[:, None])[None]
    if start is not None:
        seen = seen & (index[None, None, :] >= jnp.asarray(start)[:, :, None])
    if jax.default_backend() == "cpu" or (key is not None and rate > 0.0):
        return _in_blocks(q, k, v, seen, rate, key)
    mask = None if start is None else seen[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation=_implementation(q))


def attend_all(q: jax.Array, k: jax.Array, v: jax.Array, rate: float = 0.0, key: Key | None = None) -> jax.Array:
    """Every token attends to every token.

    Args:
      q: [B, T, H, D].
      k, v: [B, T, K, D], K divides H.
      rate: of dropout on the weights.
      key: of that dropout; None: no dropout.

    Returns:
      [B, T, H, D].

    >>> v = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    >>> attend_all(0 * v, 0 * v, v).ravel().tolist()
    [2.0, 2.0]
    """
    if jax.default_backend() == "cpu" or (key is not None and rate > 0.0):
        return _weighted(q, k.swapaxes(1, 2), v.swapaxes(1, 2), jnp.ones((1, 1, 1), bool), rate, key)
    return jax.nn.dot_product_attention(q, k, v, implementation=_implementation(q))


def attend_cached(q: jax.Array, k: jax.Array, v: jax.Array, position: Array) -> jax.Array:
    """T tokens at positions position .. position + T - 1 attend to a cache that holds them already.

    Args:
      q: [B, T, H, D].
      k, v: [B K, L, D], the cache: what lies beyond a token's own position is not looked at.
      position: int32 scalar.

    Returns:
      [B, T, H, D].

    >>> v = jnp.array([1.0, 3.0, 1e9]).reshape(1, 3, 1)
    >>> float(attend_cached(jnp.zeros((1, 1, 1, 1)), 0 * v, v, jnp.int32(1))[0, 0, 0, 0])
    2.0
    """
    rows, length, heads, dims = q.shape
    shared = k.shape[0] // rows
    own = jnp.tile(position + jnp.arange(length), heads // shared)
    seen = (jnp.arange(k.shape[1])[None, :] <= own[:, None])[None]
    grouped = q.reshape(rows, length, shared, heads // shared, dims).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(rows * shared, -1, dims) * jnp.asarray(1.0 / math.sqrt(dims), q.dtype)
    # the cache goes into both products as it lies: reshaped, it would be copied for every token
    scores = jnp.einsum("bqd,bsd->bqs", grouped, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(jnp.float32).min), axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bqs,bsd->bqd", weights, v).reshape(rows, shared, heads // shared, length, dims)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(rows, length, heads, dims)


def written(cache: jax.Array, new: jax.Array, position: Array) -> jax.Array:
    """The cache with the keys, or values, of new tokens at `position` and after.

    Rows and heads are one axis of the cache, as they are in the product that reads it: the CPU compiler then writes in
    place, where a cache of four axes is copied for every token of a batch of one.

    Args:
      cache: [B K, L, D].
      new: [B, T, K, D].
      position: int32 scalar, position + T <= L.

    Returns:
      [B K, L, D].

    >>> written(jnp.zeros((1, 3, 1)), jnp.ones((1, 1, 1, 1)), jnp.int32(1)).ravel().tolist()
    [0.0, 1.0, 0.0]
    """
    rows = new.swapaxes(1, 2).reshape(cache.shape[0], -1, cache.shape[2])
    return jax.lax.dynamic_update_slice_in_dim(cache, rows.astype(cache.dtype), position, axis=1)


def _implementation(q: jax.Array) -> Literal["cudnn", "xla"]:
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    fused = jax.default_backend() == "gpu" and half and q.shape[-1] <= 128 and q.shape[-1] % 8 == 0
    return "cudnn" if fused else "xla"


def _in_blocks(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array, rate: float, key: Key | None) -> jax.Array:
    """A block of queries looks at keys up to its own end: about half of all products."""
    k, v, length, mixed = k.swapaxes(1, 2), v.swapaxes(1, 2), q.shape[1], []
    for number, begin in enumerate(range(0, length, BLOCK)):
        end, own = min(begin + BLOCK, length), None if key is None else jax.random.fold_in(key, number)
        mixed.append(_weighted(q[:, begin:end], k[:, :, :end], v[:, :, :end], seen[:, begin:end, :end], rate, own))
    return jnp.concatenate(mixed, axis=1)


def _weighted(
    q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array, rate: float = 0.0, key: Key | None = None
) -> jax.Array:
    """q [B, T, H, D], k and v [B, K, S, D], seen [1 or B, T, S] -> [B, T, H, D]; scores and softmax in float32."""
    rows, length, heads, dims = q.shape
    shared, seen = k.shape[1], seen[:, None, None]
    grouped = q.reshape(rows, length, shared, heads // shared, dims).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(rows, shared, -1, dims) * jnp.asarray(1.0 / math.sqrt(dims), q.dtype)
    scores = jnp.einsum("bkqd,bksd->bkqs", grouped, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(rows, shared, heads // shared, length, -1)
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(jnp.float32).min), axis=-1)
    weights = dropped(weights, rate, key).astype(v.dtype).reshape(rows, shared, -1, k.shape[2])
    mixed = jnp.einsum("bkqs,bksd->bkqd", weights, v).reshape(rows, shared, heads // shared, length, dims)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(rows, length, heads, dims)

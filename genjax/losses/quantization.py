"""Vector quantisation: a vector becomes the nearest of K others, and training goes on through it.

With an encoder's vectors z_1 .. z_P of an example, code vectors e_1 .. e_K and sg the stop of gradients,

    c_p = argmin_k |z_p - e_k|,   q_p = e_{c_p}
    loss = -log p(x | q) + sum_p |sg(z_p) - q_p|^2 + beta sum_p |z_p - sg(q_p)|^2                             (eq. 3)

The first term reaches the encoder as if q were z (straight through), the second moves the code vectors, the third
keeps z near them.  The paper averages the last two over the P vectors of an example; here they are sums, as the first
term is one over pixels, so that beta means the same whatever the size of the grid.  Code vectors that are moving
averages, without the second term, stand in codebook.py.

With P(c) a probability of codes, -log p(x | c) - log P(c) is an upper bound of -log p(x) = -log sum_c P(c) p(x | c) for
every x, and not only in expectation: the sum has this term and none is negative.

Source: van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017,
https://arxiv.org/abs/1711.00937.
"""

import jax
import jax.numpy as jnp

from genjax.distributions import event_sum, upcast
from genjax.errors import BadInput
from genjax.types import Array


def nearest_code(vectors: Array, code_vectors: Array) -> jax.Array:
    """c = argmin_k |z - e_k|, the first of several.

    Computed as argmin_k |e_k|^2 / 2 - z e_k, a matrix product, with all vectors seen from the mean of the code vectors:
    far from the origin the products would cancel each other.

    Args:
      vectors: z [..., D].
      code_vectors: e [K, D].

    Returns:
      [...] int32 in 0 .. K-1.

    Raises:
      BadInput: dimensions that differ, fewer than two code vectors.

    >>> nearest_code(jnp.array([[0.1, 0.0], [0.9, 1.2]]), jnp.array([[0.0, 0.0], [1.0, 1.0]])).tolist()
    [0, 1]
    """
    z, e = upcast(vectors), upcast(code_vectors)
    if e.ndim != 2 or len(e) < 2 or z.shape[-1:] != e.shape[1:]:
        raise BadInput(
            f"vectors {list(z.shape)}, code vectors {list(e.shape)}", "allowed: [..., D] and [K, D], K at least 2"
        )
    middle = jnp.mean(e, axis=0, keepdims=True)
    rows, e = z.reshape(-1, z.shape[-1]) - middle, e - middle
    half = 0.5 * jnp.sum(jnp.square(e), axis=1)
    scores = half[None] - jnp.matmul(rows, e.T, precision="highest")
    # argmin as two reductions: on CPU, XLA's own carries value and index through one, and takes eight times as long
    least, number = jnp.min(scores, axis=1, keepdims=True), jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    first = jnp.min(jnp.where(scores <= least, number, len(e) - 1), axis=1)
    return first.reshape(z.shape[:-1])


def straight_through(vectors: Array, quantized: Array) -> jax.Array:
    """q forwards, to the last bit; backwards z: dq/dz is taken to be the identity.

    Args:
      vectors: z [..., D].
      quantized: q [..., D]; no gradient reaches it.

    Returns:
      [..., D] in the dtype of `vectors`.

    >>> square = lambda z: straight_through(z, jnp.array(2.0)) ** 2
    >>> [float(value) for value in jax.value_and_grad(square)(1.75)]  # 2^2, and d/dq of q^2 at 2
    [4.0, 4.0]
    """
    z, q = _same(vectors, quantized)
    # z - sg(z) is an exact zero; z + sg(q - z) would return q up to rounding only
    return jax.lax.stop_gradient(q.astype(z.dtype)) + (z - jax.lax.stop_gradient(z))


def commitment(vectors: Array, quantized: Array) -> jax.Array:
    """sum |z - sg(q)|^2: pulls the encoder's vectors to their codes.

    Args:
      vectors: z [B, ..., D].
      quantized: q [B, ..., D], of the same shape.

    Returns:
      [B] squared units of z; its gradient is 2 (z - q) in z and 0 in q.

    >>> commitment(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])).tolist()
    [5.0]
    """
    z, q = _same(vectors, quantized)
    return event_sum(jnp.square(upcast(z) - jax.lax.stop_gradient(upcast(q))))


def codebook_loss(vectors: Array, quantized: Array) -> jax.Array:
    """sum |sg(z) - q|^2: pulls code vectors to what chose them, where they are parameters and no moving averages.

    Args:
      vectors: z [B, ..., D].
      quantized: q [B, ..., D], e[c], differentiable in e.

    Returns:
      [B] squared units of z; its gradient is 2 (q - z) in q and 0 in z.

    >>> jax.grad(lambda e: codebook_loss(jnp.array([[1.0]]), e).sum())(jnp.array([[3.0]])).tolist()
    [[4.0]]
    """
    return commitment(quantized, vectors)


def usage(codes: Array, size: int) -> jax.Array:
    """n_k: how often each code stands in an array of codes.

    Args:
      codes: [...] integers.
      size: K.

    Returns:
      [K] float32; codes outside 0 .. K-1 are not counted.

    >>> usage(jnp.array([[0, 2], [2, 2]]), 4).tolist()
    [1.0, 0.0, 3.0, 0.0]
    """
    return jnp.sum(jax.nn.one_hot(jnp.reshape(codes, -1), size, dtype=jnp.float32), axis=0)


def code_perplexity(counts: Array) -> jax.Array:
    """exp(-sum_k p_k log p_k), p = counts / sum: how many codes, used equally often, would be as various.

    Args:
      counts: [K], at least 0, such as `usage` or the N of a codebook.

    Returns:
      Scalar in [1, K]; K where all are used alike, 1 where one code is used or none.

    >>> round(float(code_perplexity(jnp.array([3.0, 3.0, 3.0, 0.0]))), 4)
    3.0
    """
    counts = upcast(counts)
    total = jnp.sum(counts)
    share = counts / jnp.where(total > 0, total, 1.0)
    return jnp.exp(-jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1.0))))


def _same(vectors: Array, quantized: Array) -> tuple[jax.Array, jax.Array]:
    z, q = jnp.asarray(vectors), jnp.asarray(quantized)
    if z.shape != q.shape:
        raise BadInput(f"vectors {list(z.shape)}, quantized {list(q.shape)}", "allowed: one shape for both")
    return z, q

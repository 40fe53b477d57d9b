r"""Retrieval: of what class are the nearest neighbours of an example, by whatever features.

Precision at k is the share of the k nearest examples of a gallery that have the query's class; the error of k nearest
neighbours is how often their most frequent class is another one.  Distances are Euclidean.

Source: Salakhutdinov and Hinton, Semantic hashing, 2009, https://doi.org/10.1016/j.ijar.2008.11.006 (retrieval by the
features of deep belief networks).
"""

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.types import Array


def neighbour_labels(queries: Array, gallery: Array, labels: Array, k: int) -> jax.Array:
    """Labels of the k nearest of a gallery, the nearest first.

    Args:
      queries: [B, F].
      gallery: [N, F].
      labels: [N] whole numbers.
      k: from 1 to N.

    Returns:
      [B, k].

    Raises:
      BadInput: shapes that do not fit, a k outside 1 to N.

    Source: this file's head.

    >>> gallery = jnp.array([[0.0], [1.0], [5.0]])
    >>> neighbour_labels(jnp.array([[0.9]]), gallery, jnp.array([7, 8, 9]), 2).tolist()
    [[8, 7]]
    """
    if jnp.ndim(queries) != 2 or jnp.ndim(gallery) != 2 or queries.shape[1] != gallery.shape[1]:
        told = f"queries {list(jnp.shape(queries))}, gallery {list(jnp.shape(gallery))}"
        raise BadInput(told, "allowed: [B, F] and [N, F]")
    if not 1 <= k <= len(gallery) or jnp.shape(labels) != (len(gallery),):
        raise BadInput(f"k = {k}, {jnp.shape(labels)} labels of {len(gallery)} examples", "allowed: k from 1 to N")
    x, y = jnp.asarray(queries), jnp.asarray(gallery)
    closeness = x @ y.T - 0.5 * jnp.sum(y * y, axis=-1)[None]  # the square of x is the same for all of a row
    return jnp.asarray(labels)[jax.lax.top_k(closeness, k)[1]]


def precision_at_k(neighbours: Array, own: Array) -> jax.Array:
    """The share of neighbours of the query's own class.

    Args:
      neighbours: labels [B, k].
      own: labels [B].

    Returns:
      [B] in [0, 1].

    Source: this file's head.

    >>> precision_at_k(jnp.array([[1, 1, 2, 1]]), jnp.array([1])).tolist()
    [0.75]
    """
    return jnp.mean(jnp.asarray(neighbours) == jnp.asarray(own)[:, None], axis=-1)


def neighbour_error(neighbours: Array, own: Array, classes: int) -> jax.Array:
    """1 where the most frequent class of the neighbours is another one; of classes as frequent, the nearest counts.

    Args:
      neighbours: labels [B, k], the nearest first.
      own: labels [B].
      classes: how many there are; labels lie in 0 .. classes - 1.

    Returns:
      [B] zeros and ones.

    Source: Cover and Hart, Nearest Neighbor Pattern Classification, 1967, https://doi.org/10.1109/TIT.1967.1053964.

    >>> neighbour_error(jnp.array([[2, 1, 1], [0, 1, 2]]), jnp.array([1, 1]), 3).tolist()
    [0.0, 1.0]
    """
    near = jnp.asarray(neighbours)
    hot, rank = jax.nn.one_hot(near, classes), jnp.arange(near.shape[1], dtype=jnp.float32)
    first = jnp.min(jnp.where(hot > 0, rank[None, :, None], near.shape[1]), axis=1)
    votes = jnp.sum(hot, axis=1) - first / (2 * near.shape[1])  # the rank of the nearest is less than a vote
    return (jnp.argmax(votes, axis=-1) != jnp.asarray(own)).astype(jnp.float32)

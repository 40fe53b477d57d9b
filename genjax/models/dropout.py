"""Dropout, with random words that cost little on CPU.

Source: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014,
https://jmlr.org/papers/v15/srivastava14a.html.
"""

import jax
import jax.numpy as jnp

from genjax.distributions.words import random_words
from genjax.types import Key


def dropped(x: jax.Array, rate: float, key: Key | None) -> jax.Array:
    """0 with probability `rate`, else x / (1 - rate).

    Args:
      x: any array of less than 2^32 elements.
      rate: in [0, 1).
      key: None: x as it is.

    >>> kept = dropped(jnp.ones(10_000), 0.25, jax.random.key(0))
    >>> sorted({round(float(v), 4) for v in kept}), abs(float(kept.mean()) - 1) < 0.02
    ([0.0, 1.3333], True)
    """
    if key is None or rate == 0.0:
        return x
    keep = random_words(key, x.shape) < jnp.uint32(min(round((1.0 - rate) * 2**32), 2**32 - 1))
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))

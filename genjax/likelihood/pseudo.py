r"""Pseudo-likelihood of binary units: a monitor of training, and nothing else.

    log PL(v) = sum_i log p(v_i | v_{-i}) = sum_i log s(F(v^i) - F(v)),     v^i is v with unit i turned

needs no log Z, as each conditional has two states.  It is no likelihood and no bound of one: machines are not compared
by it.  Here it is estimated by one unit an example, drawn anew, times their number.

Source: Besag, Statistical Analysis of Non-Lattice Data, 1975, https://doi.org/10.2307/2987782.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.types import Array, Key


def log_pseudo_likelihood(free_energy: Callable[[jax.Array], jax.Array], v: Array, key: Key) -> jax.Array:
    """D log s(F(v^i) - F(v)), i uniform: unbiased for log PL(v).  Kind: a MONITOR, no likelihood.

    Args:
      free_energy: v [B, D] -> F(v) [B] nats.
      v: [B, D] zeros and ones.
      key: of the units that are turned.

    Returns:
      [B] nats.

    Source: Besag, 1975.

    >>> b = jnp.array([1.0, 1.0])  # independent units: PL is the likelihood
    >>> found = log_pseudo_likelihood(lambda v: -v @ b, jnp.ones((1, 2)), jax.random.key(0))
    >>> round(float(found[0]), 4), round(float(2 * jax.nn.log_sigmoid(1.0)), 4)
    (-0.6265, -0.6265)
    """
    v = jnp.asarray(v)
    unit = jax.random.randint(key, (len(v), 1), 0, v.shape[1])
    turned = jnp.where(jnp.arange(v.shape[1])[None] == unit, 1 - v, v)
    return v.shape[1] * jax.nn.log_sigmoid(free_energy(turned) - free_energy(v))

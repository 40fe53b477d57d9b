r"""Losses of models p(v) = exp(-F(v)) / Z whose log Z is not known: the gradient as a difference of two phases.

    d -log p(v) / d theta  =  d F(v) / d theta  -  E_{v' ~ p} d F(v') / d theta

The second term, the negative phase, is estimated by samples v' of the model, which count as constants.  Where they come
from names the method:

    CD-k    k steps of a chain that starts at the data (Hinton 2002)
    PCD-k   k steps of chains that live on from update to update (Tieleman 2008)

CD is biased, the less the larger k; PCD follows the model as long as the learning rate lets its chains keep up.

Sources: Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002,
https://doi.org/10.1162/089976602760128018; Tieleman, Training Restricted Boltzmann Machines using Approximations to the
Likelihood Gradient, 2008, https://doi.org/10.1145/1390156.1390290.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.types import Array


def phase_difference(free_energy: Callable[[jax.Array], jax.Array], data: Array, samples: Array) -> jax.Array:
    """F(v) - 1/M sum_m F(v'_m): its gradient is that of -log p(v), up to what the samples miss.

    Both phases go through F at once, so that each of its products is done once.

    Args:
      free_energy: v [N, D] -> F(v) [N] nats, differentiable in the parameters.
      data: v [B, D].
      samples: v' [M, D] of the model; they count as constants.

    Returns:
      [B] nats.  Kind: none, its value is no likelihood and no bound; only its gradient means something.

    Raises:
      BadInput: shapes that do not fit, no samples.

    Source: Hinton, 2002, eq. 3.

    >>> slope = jax.grad(lambda b: phase_difference(lambda v: -v @ b, jnp.ones((1, 1)), jnp.zeros((4, 1))).sum())
    >>> slope(jnp.zeros(1)).tolist()  # more of what the data have and the samples lack
    [-1.0]
    """
    if jnp.ndim(data) != 2 or jnp.ndim(samples) != 2 or data.shape[1] != samples.shape[1] or not len(samples):
        raise BadInput(
            f"data {list(jnp.shape(data))}, samples {list(jnp.shape(samples))}",
            "allowed: [B, D] and [M, D] with at least one sample",
        )
    both = jax.lax.stop_gradient(jnp.concatenate([jnp.asarray(data), jnp.asarray(samples, data.dtype)]))
    seen, drawn = jnp.split(free_energy(both), [len(data)])
    return seen - jnp.mean(drawn)


def sparsity(activity: Array, target: float) -> jax.Array:
    """sum_j KL(target || q_j), q_j the mean activity of hidden unit j over the batch: a penalty on busy units.

    Args:
      activity: [B, H] probabilities of hidden units.
      target: in (0, 1), the share of examples that a unit should answer to.

    Returns:
      Scalar nats, >= 0; weigh it, and add it to the loss.

    Raises:
      BadInput: a target outside (0, 1).

    Source: Lee, Ekanadham and Ng, Sparse deep belief net model for visual area V2, 2008; Hinton, A Practical Guide to
    Training Restricted Boltzmann Machines, 2012, section 11, https://doi.org/10.1007/978-3-642-35289-8_32.

    >>> round(float(sparsity(jnp.full((4, 2), 0.1), 0.1)), 6)
    0.0
    """
    if not 0 < target < 1:
        raise BadInput(f"target = {target}", "allowed: numbers between 0 and 1, both excluded")
    q = jnp.clip(jnp.mean(activity, axis=0), 1e-6, 1 - 1e-6)
    return jnp.sum(target * jnp.log(target / q) + (1 - target) * jnp.log((1 - target) / (1 - q)))

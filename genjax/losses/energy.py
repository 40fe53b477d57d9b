r"""Losses of models p(v) = exp(-F(v)) / Z whose log Z is not known: the gradient as a difference of two phases.

    d -log p(v) / d theta  =  d F(v) / d theta  -  E_{v' ~ p} d F(v') / d theta

The second term, the negative phase, is estimated by samples v' of the model, which count as constants.  Where they come
from names the method:

    CD-k    k steps of a chain that starts at the data (Hinton 2002)
    PCD-k   k steps of chains that live on from update to update (Tieleman 2008)
    FPCD    the same, of a machine whose parameters have fast ones added (Tieleman and Hinton 2009)

CD is biased, the less the larger k; PCD follows the model as long as the learning rate lets its chains keep up; fast
weights raise the energy of where the chains are, so that they leave.  Chains of several temperatures that swap their
places (samplers/tempering.py) serve as well.  Weight decay is optax's: `optax.add_decayed_weights`, on W alone.

Sources: Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002,
https://doi.org/10.1162/089976602760128018; Tieleman, Training Restricted Boltzmann Machines using Approximations to the
Likelihood Gradient, 2008, https://doi.org/10.1145/1390156.1390290; Tieleman and Hinton, Using Fast Weights to Improve
Persistent Contrastive Divergence, 2009, https://doi.org/10.1145/1553374.1553506.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array, Params


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
    both = jax.lax.stop_gradient(jnp.concatenate([upcast(data), upcast(samples)]))
    seen, drawn = jnp.split(free_energy(both), [len(data)])
    return seen - jnp.mean(drawn)


def paired_phases(free_energy: Callable[[jax.Array], jax.Array], data: Array, samples: Array) -> jax.Array:
    """F_i(v_i) - F_i(v'_i): the phases where each example has a law of its own, p(v | y_i), and one sample of it.

    Args:
      free_energy: v [B, D] -> F_i(v_i) [B] nats, row i that of law i, differentiable in the parameters.
      data: v [B, D].
      samples: v' [B, D], row i of law i; they count as constants.

    Returns:
      [B] nats; rows may be left out, which leaves out both of their phases.  Kind: none, as `phase_difference`.

    Raises:
      BadInput: shapes that differ.

    Source: Mnih, Larochelle and Hinton, Conditional Restricted Boltzmann Machines for Structured Output Prediction,
    2011, https://arxiv.org/abs/1202.3748, section 3.

    >>> moved = lambda b: paired_phases(lambda v: -jnp.sum(v * b, axis=1), jnp.ones((2, 1)), jnp.eye(2)[:, :1])
    >>> jax.grad(lambda b: moved(b).sum())(jnp.zeros((2, 1))).tolist()  # where the sample lacks what the data have
    [[0.0], [-1.0]]
    """
    if jnp.ndim(data) != 2 or jnp.shape(data) != jnp.shape(samples):
        told = f"data {list(jnp.shape(data))}, samples {list(jnp.shape(samples))}"
        raise BadInput(told, "allowed: [B, D] and [B, D], a sample for each example")
    seen, drawn = jax.lax.stop_gradient((upcast(data), upcast(samples)))
    return free_energy(seen) - free_energy(drawn)


def fast_weights(
    loss: Callable[[Params], jax.Array], params: Params, fast: Params, rate: float, decay: float = 0.95
) -> Any:
    """phi <- decay phi - rate grad loss(theta): what is added to theta where the chains run.

    Args:
      loss: theta -> scalar nats: the mean of `phase_difference` of this update, whose gradient theta follows too.
      params: theta.
      fast: phi, of the structure of theta; zeros at the start.
      rate: learning rate, > 0; it does not fall with that of theta.
      decay: in [0, 1); the paper's is 19/20.

    Returns:
      The new phi.

    Raises:
      BadInput: a rate that is not above zero, a decay outside [0, 1).

    Source: Tieleman and Hinton, 2009, section 5.

    >>> float(fast_weights(lambda theta: 2.0 * theta, jnp.array(1.0), jnp.array(0.5), 0.25, decay=0.5))
    -0.25
    """
    if not rate > 0 or not 0 <= decay < 1:
        raise BadInput(f"fast weights of rate {rate}, decay {decay}", "allowed: a rate above 0, a decay in [0, 1)")
    grads = jax.grad(loss)(params)
    return jax.tree.map(lambda phi, g: decay * phi - rate * g, fast, grads)


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

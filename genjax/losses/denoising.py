r"""Losses of denoising diffusion: one squared error, under the weight that a paper gives it.

With z = alpha x + sigma eps at a time t, and x' what the network makes of z (whatever it predicts), every loss here is

    (1)  L = w(t) ||x - x'(z, t)||^2

summed over the dimensions of an example, and the papers differ in w and in how t is drawn:

    data error        w = 1
    simple            w = SNR                                         = ||eps - eps'||^2      (Ho 2020, eq. 14)
    v error           w = (alpha^2 + sigma^2)^2 / sigma^2             = ||v - v'||^2          (Salimans 2022)
    flow matching     w = ((alpha' sigma - sigma' alpha) / sigma)^2   = ||u - u'||^2          (Lipman 2023, eq. 14)
    min-SNR           w = min(SNR, gamma)                                                     (Hang 2023, section 3.4)
    EDM               w = (s^2 + d^2) / (s d)^2,  s = sigma / alpha, d of the data            (Karras 2022, section 5)
    likelihood        w = -SNR'(t) / 2 = alpha (sigma' alpha - alpha' sigma) / sigma^3        (Kingma 2021, eq. 17)

The last, times the length of the range that t is uniform in, is the variational bound of -log p in nats, but for the
constant terms at both ends (`likelihood/`); any other weight that falls along with the noise is a bound of a
noise-augmented likelihood (Kingma and Gao 2023).

The error is taken in what the network predicts, and w is divided by what one unit of it is worth, so that nothing
cancels at little noise.  Where there is none, their product is its limit at little noise: infinity times zero is none.

Sources: Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239; Salimans and Ho, 2022,
https://arxiv.org/abs/2202.00512; Lipman et al., 2023, https://arxiv.org/abs/2210.02747; Hang et al., Efficient
Diffusion Training via Min-SNR Weighting Strategy, 2023, https://arxiv.org/abs/2303.09556; Karras et al., 2022,
https://arxiv.org/abs/2206.00364; Kingma et al., 2021, https://arxiv.org/abs/2107.00630; Kingma and Gao, Understanding
Diffusion Objectives as the ELBO, 2023, https://arxiv.org/abs/2303.00848.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.corruption.gaussian import Point, Process, corrupt, point
from genjax.corruption.predictions import Prediction, check_prediction
from genjax.distributions import event_sum
from genjax.errors import BadInput
from genjax.types import Array

Network = Callable[[jax.Array, jax.Array], jax.Array]
"""(z [B, ...], t [B]) -> what is predicted, of z's shape."""
LITTLE = 1e-6  # noise in the place of none
Weight = Callable[[Point], jax.Array]
"""w of eq. 1 at the times of a Point."""


def denoising_loss(
    process: Process, prediction: Prediction, weight: Weight, network: Network, x: Array, t: Array, noise: Array
) -> jax.Array:
    """w(t) ||x - x'(alpha_t x + sigma_t eps, t)||^2, eq. 1.

    Args:
      process: of the corruption.
      prediction: what the network predicts.
      weight: w, one of this file's or any function of a Point.
      network: to be trained.
      x: data [B, ...], of about unit deviation.
      t: times [B], from the process's first to its last.
      noise: eps, of x's shape.

    Returns:
      [B], summed over dimensions; with `likelihood_weight` nats per unit of time.

    Raises:
      BadInput: shapes that do not fit, the output's too; a prediction that says nothing of the data at the end of
        this process.

    Example: a network that says the truth of a flow, and one that says nothing.
      >>> from genjax.corruption.predictions import velocity
      >>> from genjax.corruption.schedules import rectified_flow
      >>> x, eps, t = jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.array([0.5])
      >>> loss = lambda network: denoising_loss(rectified_flow(), velocity, flow_matching, network, x, t, eps)
      >>> loss(lambda z, t: z / 0.5).tolist(), loss(lambda z, t: 0 * z).tolist()
      ([0.0], [2.0])
    """
    check_prediction(process, prediction)
    at = point(process, t, x)
    output = network(corrupt(process, x, noise, t), jnp.asarray(t))
    if output.shape != jnp.shape(x):
        raise BadInput(
            f"the network's output is {list(output.shape)}, its data {list(jnp.shape(x))}",
            "allowed: one shape; a network for these data predicts something for each of their numbers",
        )
    at = at._replace(sigma=jnp.where(at.sigma == 0, LITTLE, at.sigma))
    error = prediction.target(at, jnp.asarray(x), jnp.asarray(noise)) - output
    return event_sum(weight(at) * prediction.factor(at) * error**2)


def data_error(at: Point) -> jax.Array:
    """w = 1: the plain error of the data.

    Args:
      at: the process at the times.

    Returns:
      Of their shape.

    >>> data_error(Point(jnp.ones(2), jnp.ones(2), jnp.ones(2), jnp.ones(2))).tolist()
    [1.0, 1.0]
    """
    return jnp.ones_like(at.alpha)


def simple(at: Point) -> jax.Array:
    """w = SNR: the error of the noise.

    Args:
      at: the process at the times.

    Returns:
      Of their shape.

    >>> float(simple(Point(jnp.array(0.8), jnp.array(0.4), jnp.array(0.0), jnp.array(0.0))))
    4.0
    """
    return (at.alpha / at.sigma) ** 2


def v_error(at: Point) -> jax.Array:
    """w = (alpha^2 + sigma^2)^2 / sigma^2, which is SNR + 1 where variance is preserved: the error of v.

    Args:
      at: the process at the times.

    Returns:
      Of their shape.

    >>> float(v_error(Point(jnp.array(0.0), jnp.array(1.0), jnp.array(0.0), jnp.array(0.0))))
    1.0
    """
    return ((at.alpha**2 + at.sigma**2) / at.sigma) ** 2


def flow_matching(at: Point) -> jax.Array:
    """w = ((alpha' sigma - sigma' alpha) / sigma)^2: the error of the velocity.

    Args:
      at: the process at the times.

    Returns:
      Of their shape.

    >>> float(flow_matching(Point(jnp.array(0.5), jnp.array(0.5), jnp.array(-1.0), jnp.array(1.0))))
    4.0
    """
    return ((at.alpha_rate * at.sigma - at.sigma_rate * at.alpha) / at.sigma) ** 2


def min_snr(gamma: float = 5.0) -> Weight:
    """w = min(SNR, gamma): the data's error, but no more of it than the noise's where there is much noise.

    Args:
      gamma: > 0; 5 in the paper.

    Returns:
      Weight.

    Raises:
      BadInput: gamma <= 0.

    >>> at = Point(jnp.array([0.5, 4.0]), jnp.ones(2), jnp.ones(2), jnp.ones(2))
    >>> min_snr(5.0)(at).tolist()
    [0.25, 5.0]
    """
    if not gamma > 0:
        raise BadInput(f"gamma = {gamma} of min-SNR", "allowed: a number above 0; 5 is usual")
    return lambda at: jnp.minimum(simple(at), gamma)


def edm_weight(deviation: float = 0.5) -> Weight:
    """w = (s^2 + d^2) / (s d)^2 = 1 / d^2 + SNR: at the start of training every level of noise has the same loss.

    Args:
      deviation: d, of one dimension of the data; > 0.

    Returns:
      Weight.

    Raises:
      BadInput: a deviation that is not positive.

    >>> at = Point(jnp.ones(1), jnp.full(1, 0.5), jnp.zeros(1), jnp.ones(1))
    >>> edm_weight(0.5)(at).tolist()
    [8.0]
    """
    if not deviation > 0:
        raise BadInput(f"deviation of the data = {deviation}", "allowed: a number above 0")

    return lambda at: deviation**-2.0 + simple(at)


def likelihood_weight(at: Point) -> jax.Array:
    """w = -SNR'(t) / 2: with t uniform over a range of length 1 the bound of -log p, in nats.

    Args:
      at: the process at the times.

    Returns:
      Of their shape.

    >>> float(likelihood_weight(Point(jnp.array(0.5), jnp.array(0.5), jnp.array(-1.0), jnp.array(1.0))))
    4.0
    """
    fall = at.sigma_rate * at.alpha - at.alpha_rate * at.sigma
    return at.alpha * fall / at.sigma**3

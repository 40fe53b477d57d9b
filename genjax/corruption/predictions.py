r"""What a network may be asked for: five predictions that say the same.

Of z = alpha x + sigma eps any of these gives x, because z is known (no need that alpha^2 + sigma^2 = 1):

                target                                  x                          ||x - x'||^2 / error
    data        x                                       itself                     1
    noise       eps                                     (z - sigma eps) / alpha    (sigma / alpha)^2
    v           v = alpha eps - sigma x                 (alpha z - sigma v) / n    (sigma / n)^2
    velocity    u = alpha' x + sigma' eps               (sigma u - sigma' z) / r   (sigma / r)^2
    score       s = -eps / sigma = grad log q(z | x)    (z + sigma^2 s) / alpha    (sigma^2 / alpha)^2

with n = alpha^2 + sigma^2 and r = alpha' sigma - sigma' alpha.

A network that is trained by squared error gives the conditional expectation of its target, and the same lines turn it
into E[x | z] (Tweedie's formula in the last).  Noise and score say nothing of x where alpha = 0.

Sources: Ho et al., 2020, https://arxiv.org/abs/2006.11239, eq. 12 (noise); Salimans and Ho, Progressive Distillation,
2022, https://arxiv.org/abs/2202.00512, appendix D (v); Lipman et al., Flow Matching, 2023,
https://arxiv.org/abs/2210.02747, eq. 13 (velocity); Vincent, A Connection Between Score Matching and Denoising
Autoencoders, 2011, https://doi.org/10.1162/NECO_a_00142 (score).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Point, Process, check_process, point
from genjax.errors import BadInput
from genjax.types import Array

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
"""(z [B, ...], t [B]) -> E[x | z_t = z], of z's shape: how samplers and likelihoods see a trained network."""


class Prediction(NamedTuple):
    """A target, the data that it stands for, and how much an error of it is one of the data; of arrays at a Point."""

    target: Callable[[Point, jax.Array, jax.Array], jax.Array]  # (point, x, eps) -> target
    data: Callable[[Point, jax.Array, jax.Array], jax.Array]  # (point, z, output) -> x
    factor: Callable[[Point], jax.Array]  # ||x - x'||^2 = factor * ||target - output||^2


def _turn(at: Point) -> jax.Array:
    return at.alpha_rate * at.sigma - at.sigma_rate * at.alpha


def _norm(at: Point) -> jax.Array:
    return at.alpha**2 + at.sigma**2


data = Prediction(lambda at, x, eps: x, lambda at, z, out: out, lambda at: jnp.ones_like(at.alpha))
noise = Prediction(
    lambda at, x, eps: eps,
    lambda at, z, out: (z - at.sigma * out) / at.alpha,
    lambda at: (at.sigma / at.alpha) ** 2,
)
v = Prediction(
    lambda at, x, eps: at.alpha * eps - at.sigma * x,
    lambda at, z, out: (at.alpha * z - at.sigma * out) / _norm(at),
    lambda at: (at.sigma / _norm(at)) ** 2,
)
velocity = Prediction(
    lambda at, x, eps: at.alpha_rate * x + at.sigma_rate * eps,
    lambda at, z, out: (at.sigma * out - at.sigma_rate * z) / _turn(at),
    lambda at: (at.sigma / _turn(at)) ** 2,
)
score = Prediction(
    lambda at, x, eps: -eps / at.sigma,
    lambda at, z, out: (z + at.sigma**2 * out) / at.alpha,
    lambda at: (at.sigma**2 / at.alpha) ** 2,
)


def preconditioned(deviation: float = 0.5) -> Prediction:
    """EDM's: x = c_skip y + c_out output, y = z / alpha, so that the target has unit variance at every level of noise.

    With s = sigma / alpha and d the deviation of the data, c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2);
    where no signal is left the output says x / d.
    The network should see c_in y = y / sqrt(s^2 + d^2), and c_noise = log(s) / 4 as its level.

    Args:
      deviation: d, of one dimension of the data; > 0.

    Returns:
      Prediction.

    Raises:
      BadInput: a deviation that is not positive.

    Source: Karras et al., 2022, https://arxiv.org/abs/2206.00364, eq. 7 and table 1.

    >>> at = Point(*(jnp.array([part]) for part in (1.0, 0.5, 0.0, 1.0)))
    >>> preconditioned(0.5).data(at, jnp.array([2.0]), jnp.array([0.0])).tolist()
    [1.0]
    """
    if not deviation > 0:
        raise BadInput(f"deviation of the data = {deviation}", "allowed: a number above 0")

    def norm(at: Point) -> jax.Array:
        return jnp.sqrt(at.sigma**2 + (deviation * at.alpha) ** 2)

    return Prediction(
        lambda at, x, eps: (at.sigma * x / deviation - deviation * at.alpha * eps) / norm(at),
        lambda at, z, output: deviation * (deviation * at.alpha * z / norm(at) + at.sigma * output) / norm(at),
        lambda at: (at.sigma * deviation / norm(at)) ** 2,
    )


def noise_of(at: Point, z: Array, x: Array) -> jax.Array:
    """eps = (z - alpha x) / sigma: the noise that goes with some data.

    Args:
      at: the process at the times of z, broadcast to its axes.
      z: z_t.
      x: data, or their expectation.

    Returns:
      Of z's shape.

    >>> at = Point(*(jnp.array([part]) for part in (0.5, 0.5, 0.0, 0.0)))
    >>> noise_of(at, jnp.array([1.0]), jnp.array([1.0])).tolist()
    [1.0]
    """
    return (jnp.asarray(z) - at.alpha * x) / at.sigma


def convert(source: Prediction, target: Prediction, at: Point, z: Array, output: Array) -> jax.Array:
    """One prediction as another, exactly, by way of x.

    Args:
      source: what `output` is.
      target: what is wanted.
      at: the process at the times of z, broadcast to its axes.
      z: z_t.
      output: of the network.

    Returns:
      Of z's shape.

    >>> at = Point(*(jnp.array([part]) for part in (0.5, 0.5, 0.0, 0.0)))
    >>> convert(data, noise, at, jnp.array([1.0]), jnp.array([1.0])).tolist()
    [1.0]
    """
    x = source.data(at, jnp.asarray(z), jnp.asarray(output))
    return target.target(at, x, noise_of(at, z, x))


def denoiser(process: Process, prediction: Prediction, network: Callable[[jax.Array, jax.Array], jax.Array]) -> Denoise:
    """A network's outputs as expectations of the data.

    Args:
      process: that it was trained on.
      prediction: what it was trained to predict.
      network: (z [B, ...], t [B]) -> output of z's shape.

    Returns:
      Denoise.

    Raises:
      BadInput: a prediction that says nothing of x at the end of this process, a process that is none.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> still = denoiser(rectified_flow(), velocity, lambda z, t: jnp.zeros_like(z))
    >>> still(jnp.ones((1, 1)), jnp.array([0.5])).tolist()  # what does not move is there already
    [[1.0]]
    """
    prediction = check_prediction(process, prediction)
    return lambda z, t: prediction.data(point(process, t, z), z, network(z, t))


def checked(denoise: Denoise) -> Denoise:
    """The same denoiser, its output in z's dtype; one of another shape is refused: it would be stretched to fit.

    Args:
      denoise: (z [B, ...], t [B]) -> E[x | z_t = z].

    Returns:
      Denoise.

    Raises:
      BadInput: when used: an output of another shape than z.

    >>> checked(lambda z, t: z.astype(jnp.bfloat16))(jnp.ones((1, 2)), jnp.ones(1)).dtype
    dtype('float32')
    """

    def of_one_shape(z: jax.Array, t: jax.Array) -> jax.Array:
        x = jnp.asarray(denoise(z, t))
        if x.shape != jnp.shape(z):
            raise BadInput(
                f"the denoiser's output is {list(x.shape)}, the data {list(jnp.shape(z))}",
                "allowed: one shape; E[x | z] has a number for each of theirs",
            )
        return x.astype(z.dtype)  # of a network in half precision

    return of_one_shape


def check_prediction(process: Process, prediction: Prediction) -> Prediction:
    """The same prediction, if it is worth something at all times of a process whose signal falls all the way.

    Args:
      process: of the data.
      prediction: of the network.

    Returns:
      `prediction`.

    Raises:
      BadInput: where no signal is left noise and score say nothing of the data; a process that is none.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> check_prediction(rectified_flow(), velocity) is velocity
    True
    """
    alpha, sigma = (part(np.array(process.last)) for part in (process.alpha, process.sigma))
    if isinstance(alpha, jax.core.Tracer):  # a learned schedule: its ends are not known yet
        return prediction
    check_process(process)
    with jax.ensure_compile_time_eval(), np.errstate(all="ignore"):
        factor = prediction.factor(Point(*(jnp.asarray(part) for part in (alpha, sigma, -1.0, 1.0))))
        says_nothing = not bool(jnp.isfinite(factor))
    if says_nothing:
        raise BadInput(
            "noise, or the score, is predicted where nothing of the data is left",
            "allowed: data, v or velocity; or a process whose `last` is below the time of zero signal",
        )
    return prediction

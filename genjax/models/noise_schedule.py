r"""The learned noise schedule of variational diffusion models, and the Fourier features of their networks.

    (1)  gamma~(t) = w t + sum_j u_j sigmoid(v_j t + b_j),    w, u, v > 0, so that gamma~ rises
    (2)  s(t) = (gamma~(t) - gamma~(0)) / (gamma~(1) - gamma~(0)),    gamma(t) = gamma_0 + (gamma_1 - gamma_0) s(t)

The paper's gamma~ = l_1(t) + l_3(sigmoid(l_2(l_1(t)))) is the same family.  Positive weights are softplus of the
parameters, and so is gamma_1 - gamma_0.  It begins nearly straight: the sigmoids stand evenly along [0, 1].

    (3)  features of z: z, sin(2^n pi z), cos(2^n pi z),    n = first .. last

Grey levels (2 k + 1) / L - 1 of k = 0 .. L - 1 stand a distance 2 / L apart, so that n = log2 L makes them all one
phase: what a feature then says of z is the noise alone, as far as it is small.

Source: Kingma, Salimans, Poole and Ho, Variational Diffusion Models, 2021, https://arxiv.org/abs/2107.00630, appendix
H (the monotone network, its ends) and C (Fourier features).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.likelihood.learned_schedule import Schedule
from genjax.models.level import Condition
from genjax.types import Array

STEEP = 8.0  # v at first


class NoiseSchedule(nn.Module):
    """t [B] in [0, 1] -> s(t), eq. 2; parameters `ends` (read by `schedule_of`) and those of s.

    Args:
      width: sigmoids; 1,024 in the paper.
      gamma_0: -log SNR at t = 0 before training.
      gamma_1: at t = 1, above it.

    Raises:
      BadInput: ends that do not rise.

    >>> net = NoiseSchedule(16)
    >>> params = net.init(jax.random.key(0), jnp.zeros(1))
    >>> net.apply(params, jnp.array([0.0, 1.0])).tolist()
    [0.0, 1.0]
    """

    width: int = 1024
    gamma_0: float = -13.3
    gamma_1: float = 5.0

    @nn.compact
    def __call__(self, t: Array) -> jax.Array:
        if not self.gamma_0 < self.gamma_1:
            raise BadInput(f"gamma from {self.gamma_0} to {self.gamma_1}", "allowed: gamma_0 < gamma_1; -13.3 and 5")
        ends = np.array([self.gamma_0, _inverse(self.gamma_1 - self.gamma_0)], np.float32)
        self.param("ends", lambda key: jnp.asarray(ends))
        places = np.linspace(0.0, 1.0, self.width)
        w = nn.softplus(self.param("w", nn.initializers.constant(_inverse(1.0)), ()))
        u = nn.softplus(self.param("u", nn.initializers.constant(_inverse(2.0 / self.width)), (self.width,)))
        v = nn.softplus(self.param("v", nn.initializers.constant(_inverse(STEEP)), (self.width,)))
        b = self.param("b", lambda key: jnp.asarray(-STEEP * places, jnp.float32))
        rising = lambda t: w * t + jnp.sum(u[None] * nn.sigmoid(v[None] * t[:, None] + b[None]), axis=1)
        low, high = jnp.split(rising(jnp.array([0.0, 1.0], jnp.result_type(float))), 2)
        return (rising(jnp.asarray(t)) - low) / (high - low)


def schedule_of(net: NoiseSchedule, params: dict) -> Schedule:
    """The schedule of a network with these parameters, as the bound takes it.

    Args:
      net: of eq. 1.
      params: of `net.init`.

    Returns:
      Schedule.

    >>> net = NoiseSchedule(16)
    >>> made = schedule_of(net, net.init(jax.random.key(0), jnp.zeros(1)))
    >>> round(float(made.gamma_0), 4), round(float(made.gamma_1), 4)
    (-13.3, 5.0)
    """
    first, length = params["params"]["ends"]
    return Schedule(first, first + nn.softplus(length), lambda t: jnp.asarray(net.apply(params, t)))


def fourier_features(z: Array, first: int = 7, last: int = 8) -> jax.Array:
    """z beside sin(2^n pi z) and cos(2^n pi z), eq. 3.

    Args:
      z: [..., C].
      first: least n.
      last: greatest n.

    Returns:
      [..., C (1 + 2 (last - first + 1))], z itself first.

    >>> jnp.abs(fourier_features(jnp.array([[0.5]]), 0, 0)).round(4).tolist()
    [[0.5, 1.0, 0.0]]
    """
    angles = [2.0**n * np.pi * jnp.asarray(z) for n in range(first, last + 1)]
    return jnp.concatenate([jnp.asarray(z), *map(jnp.sin, angles), *map(jnp.cos, angles)], axis=-1)


class NoisePredictor(nn.Module):
    """(z [B, H, W, C], gamma [B]) -> eps' [B, H, W, C]: any network of pictures that sees Fourier features.

    To what the network says of the noise each pixel adds its own features, with weights that are linear in silu(c): a
    small network has no room to carry every pixel's noise through.

    Args:
      network: (picture, level [B]) -> a picture of as many channels, such as a U-Net or a DiT.
      first, last: of the features.
      width: of c.

    >>> from genjax.models.dit import DiT
    >>> net, z, gamma = NoisePredictor(DiT(1, 8, 2)), jnp.ones((2, 4, 4, 1)), jnp.zeros(2)
    >>> net.init_with_output(jax.random.key(0), z, gamma)[0].shape
    (2, 4, 4, 1)
    """

    network: nn.Module
    first: int = 7
    last: int = 8
    width: int = 64

    @nn.compact
    def __call__(self, z: Array, gamma: Array) -> jax.Array:
        features, channels = fourier_features(z, self.first, self.last), jnp.shape(z)[-1]
        level = 10.0 * jnp.asarray(gamma)
        c = nn.silu(Condition(self.width, name="condition")(level))
        dense = nn.Dense(features.shape[-1] * channels, kernel_init=nn.initializers.zeros, name="own")
        own = jnp.einsum("bhwf,bfc->bhwc", features, dense(c).reshape(len(c), features.shape[-1], channels))
        return own + self.network(features, level)[..., :channels]


def _inverse(positive: float) -> float:
    """softplus(_inverse(x)) = x."""
    return float(positive + np.log(-np.expm1(-positive)))

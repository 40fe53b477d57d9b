"""A very deep variational autoencoder: features of the image bottom-up, then many layers of latents top-down.

The state x of the way down starts as a learned constant of the smallest grid.  Each block draws latents z on its grid
and adds what they say; between grids x is enlarged by nearest neighbours.  With features f of the image on that grid,

    p(z_l | z_<l) = N(m_p, exp(v_p)),          (m_p, v_p, r) = prior(x)
    q(z_l | image, z_<l) = N(m_q, exp(v_q)),   (m_q, v_q) = posterior(x, f)
    x <- x + r + W z_l,    x <- x + resnet(x)

    log p(image) >= E_q[log p(image | z)] - sum_l E_q KL(q(z_l | image, z_<l) || p(z_l | z_<l))

The KL of a layer, given the layers above it, is that of two diagonal normals, so it is exact on the path that was
drawn.  What keeps dozens of layers stable is how they start (Child 2021, section 3): the prior's last convolution is
zero, so that every prior starts as N(0, 1) and r as 0, and what blocks add to x is scaled by sqrt(1 / L), L the number
of blocks.

Source: Child, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images, 2021,
https://arxiv.org/abs/2011.10650; after Sonderby et al., Ladder Variational Autoencoders, 2016,
https://arxiv.org/abs/1602.02282.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.distributions import event_sum, kl_normal, normal_log_prob, sample_normal
from genjax.errors import BadInput
from genjax.models.blocks import Initializer
from genjax.models.convolution import Conv
from genjax.models.vae import ImageShape, check_images
from genjax.types import Array, Key

Mix = Callable[[jax.Array], jax.Array]  # the latents of all rows of a layer -> what goes on in their place


def unmixed(z: jax.Array) -> jax.Array:
    """Every row keeps its own latents."""
    return z


class Descent(NamedTuple):
    """What a way down leaves, with R rows (images, or n copies of each)."""

    out: jax.Array  # [R, H, W, C, m] params_out of p(x | z)
    rate: jax.Array  # [L, R] nats: KL(q || p) of each layer given the layers above; 0 where z came from the prior
    log_ratio: jax.Array  # [L, R] nats: log p(z) - log q(z) of each layer; 0 where z came from the prior
    mean: tuple[jax.Array, ...]  # of each layer, [R, side, side, latents]: of the law that its z was drawn from


def uniform(gain: float = 1.0) -> Initializer:
    """Weights uniform in +-gain / sqrt(fan in); a gain of 0: zeros."""
    if gain == 0.0:
        return nn.initializers.zeros
    return nn.initializers.variance_scaling(gain * gain / 3.0, "fan_in", "uniform")


class Bottleneck(nn.Module):
    """Four convolutions, each behind a GELU: 1x1 to few channels, two 3x3 of them, 1x1 out.

    Args:
      middle: channels inside.
      out: channels that come out.
      gain: of the last convolution's initial weights.

    Called with x [R, H, W, C]; returns [R, H, W, out].  On grids of one or two pixels a side the 3x3 are 1x1.

    >>> Bottleneck(2, 5).init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 3)))[0].shape
    (1, 4, 4, 5)
    """

    middle: int
    out: int
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        inner = (3, 3) if min(x.shape[1:3]) > 2 else (1, 1)
        sizes = ((1, 1), inner, inner, (1, 1))
        for i, size in enumerate(sizes):
            channels, gain = (self.out, self.gain) if i == 3 else (self.middle, 1.0)
            x = Conv(channels, size, kernel_init=uniform(gain), name=f"conv_{i}")(nn.gelu(x))
        return jnp.asarray(x)


class TopDownBlock(nn.Module):
    """One layer of latents: prior, posterior, and what they add to the state.

    Args:
      width: channels of the state.
      middle: channels inside of the bottlenecks.
      latents: channels of z.
      gain: of what is added to the state: sqrt(1 / L).

    Called with the state x [R, H, W, width], features [R, H, W, width] or None (z is then drawn from the prior), a key,
    the temperature, by which the prior's standard deviations are multiplied, and what is made of z [R, H, W, latents]
    before it is added.  Returns (x, rate [R], log_ratio [R], mean [R, H, W, latents]).

    >>> block = TopDownBlock(4, 2, 3, gain=0.5)
    >>> x = jnp.ones((2, 7, 7, 4))
    >>> (new, rate, *_), params = block.init_with_output(jax.random.key(0), x, x, jax.random.key(1))
    >>> new.shape, rate.shape
    ((2, 7, 7, 4), (2,))
    """

    width: int
    middle: int
    latents: int
    gain: float = 1.0

    @nn.compact
    def __call__(
        self, x: jax.Array, features: Array | None, key: Key, temperature: float = 1.0, mix: Mix = unmixed
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        known = Bottleneck(self.middle, 2 * self.latents + self.width, gain=0.0, name="prior")(x)
        mean_p, scale_p = known[..., : self.latents], known[..., self.latents : 2 * self.latents]
        prior = (mean_p, 2.0 * scale_p)  # the networks give logarithms of standard deviations
        rate = log_ratio = jnp.zeros(x.shape[0])
        mean = mean_p
        if features is None:
            z = sample_normal(mean_p, 2.0 * (scale_p + jnp.log(temperature)), key)
        else:
            both = Bottleneck(self.middle, 2 * self.latents, name="posterior")(jnp.concatenate([x, features], axis=-1))
            posterior = (both[..., : self.latents], 2.0 * both[..., self.latents :])
            z = sample_normal(*posterior, key)
            mean, rate = posterior[0], event_sum(kl_normal(*posterior, *prior))
            log_ratio = event_sum(normal_log_prob(z, *prior)) - event_sum(normal_log_prob(z, *posterior))
        x = x + known[..., 2 * self.latents :]
        x = x + Conv(self.width, (1, 1), kernel_init=uniform(self.gain), name="latents")(mix(z))
        return x + Bottleneck(self.middle, self.width, self.gain, name="resnet")(x), rate, log_ratio, mean


class VeryDeepVAE(nn.Module):
    """Features bottom-up, latents top-down, over grids from the smallest to that of the image.

    Args:
      image_shape: (H, W, C), H = W.
      multiplier: m, numbers a pixel and channel (`Likelihood.multiplier`).
      sides: of the grids, ascending; each divides the next, and the last is H.
      blocks: layers of latents on each grid, at least 1; on the way up half as many, rounded up.
      width: channels of state and features.
      latents: channels of z.
      compression: the bottlenecks have width / compression channels inside.

    `model.apply(params, x, method="ascend")` gives the features of each grid; `method="descend"` takes them down:
    (features or None, key, rows, informed, temperature, mix) -> Descent.  The first `informed` layers are drawn from
    the posterior (None: all where there are features), the others from the prior.  `mix` is what is made of the z of an
    informed layer, such as the first row's z for all rows; rates are those of z before.  The call is one of each.

    Raises:
      BadInput: when first called, if sides, blocks or images do not fit.

    >>> model = VeryDeepVAE((4, 4, 1), 1, sides=(1, 4), blocks=(2, 1), width=8, latents=2)
    >>> x = jnp.ones((3, 4, 4, 1))
    >>> down, params = model.init_with_output(jax.random.key(0), x, jax.random.key(1))
    >>> down.out.shape, down.rate.shape
    ((3, 4, 4, 1, 1), (3, 3))
    >>> model.apply(params, None, jax.random.key(2), 5, method="descend").out.shape
    (5, 4, 4, 1, 1)
    """

    image_shape: ImageShape
    multiplier: int
    sides: Sequence[int]
    blocks: Sequence[int]
    width: int = 32
    latents: int = 8
    compression: int = 2

    def setup(self) -> None:
        self._check()
        layers, middle = sum(self.blocks), max(1, self.width // self.compression)
        upwards = [-(-count // 2) for count in self.blocks]
        gain_up, gain_down = sum(upwards) ** -0.5, layers**-0.5
        self.first = Conv(self.width, (3, 3), kernel_init=uniform())
        self.up = [Bottleneck(middle, self.width, gain_up) for _ in range(sum(upwards))]
        self.down = [TopDownBlock(self.width, middle, self.latents, gain_down) for _ in range(layers)]
        shapes = {side: (side, side, self.width) for side in self.sides}
        self.start = {str(side): self.param(f"start_{side}", nn.initializers.zeros, s) for side, s in shapes.items()}
        self.gain = self.param("gain", nn.initializers.ones, (self.width,))
        self.bias = self.param("bias", nn.initializers.zeros, (self.width,))
        self.output = Conv(self.image_shape[-1] * self.multiplier, (1, 1), kernel_init=uniform())

    def ascend(self, x: Array) -> tuple[jax.Array, ...]:
        """Features [B, side, side, width] of each grid, in the order of `sides`."""
        check_images(x, self.image_shape)
        h, found, block = self.first(x), [], iter(self.up)
        for number in reversed(range(len(self.sides))):
            for _ in range(-(-self.blocks[number] // 2)):
                h = h + next(block)(h)
            found.append(h)
            if number:
                step = self.sides[number] // self.sides[number - 1]
                h = nn.avg_pool(h, (step, step), strides=(step, step))
        return tuple(reversed(found))

    def descend(
        self,
        features: Sequence[Array] | None,
        key: Key,
        rows: int,
        informed: int | None = None,
        temperature: float = 1.0,
        mix: Mix = unmixed,
    ) -> Descent:
        """One draw of all layers, for `rows` rows: those of the features, or so many from the prior."""
        informed = (0 if features is None else len(self.down)) if informed is None else informed
        found, block = [], iter(enumerate(self.down))
        x = jnp.zeros((rows, self.sides[0], self.sides[0], self.width))
        for number, side in enumerate(self.sides):
            step = side // x.shape[1]
            start = self.start[str(side)]
            x = x.repeat(step, axis=1).repeat(step, axis=2)
            x = x.astype(start.dtype) + jnp.broadcast_to(start, x.shape)
            for _ in range(self.blocks[number]):
                index, layer = next(block)
                seen = features[number] if features is not None and index < informed else None
                own = jax.random.fold_in(key, index)
                x, *law = layer(x, seen, own, temperature, unmixed if seen is None else mix)
                found.append(law)
        x = x * self.gain.reshape(1, 1, 1, -1) + self.bias.reshape(1, 1, 1, -1)
        out = self.output(x).reshape(rows, *self.image_shape, self.multiplier)
        rates, ratios, means = zip(*found, strict=True)
        return Descent(out, jnp.stack(rates), jnp.stack(ratios), means)

    def __call__(self, x: Array, key: Key) -> Descent:
        """Up and down once."""
        return self.descend(self.ascend(x), key, len(x))

    def _check(self) -> None:
        sides, blocks = tuple(self.sides), tuple(self.blocks)
        fits = all(b > a > 0 and b % a == 0 for a, b in itertools.pairwise(sides))
        if not sides or not fits or tuple(self.image_shape[:2]) != (sides[-1], sides[-1]):
            height, width = self.image_shape[:2]
            raise BadInput(
                f"sides = {sides} for images of {height}x{width} pixels",
                "allowed: ascending, each a divisor of the next, the last the side of square images",
            )
        if len(blocks) != len(sides) or min(blocks) < 1:
            raise BadInput(f"blocks = {blocks}", f"allowed: {len(sides)} whole numbers from 1, one a grid {sides}")

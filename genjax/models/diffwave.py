r"""DiffWave: a waveform and its level of noise -> a waveform, by dilated convolutions that see both sides.

    h_0 = relu(W_in x),      c = silu(condition(level, label)),      in layer i = 0 .. L-1, with d = 2^(i mod cycle):
    y = W_i *_d (h + M_i c),    (y *_d W)_t = sum_{j=-1}^{1} W_j y_{t + j d},    zeros outside of the sound
    u = tanh(y_1) sigmoid(y_2),    y = (y_1, y_2);      (r, s_i) = V_i u;      h <- (h + r) / sqrt(2)
    output = W_out relu(W_mid sum_i s_i / sqrt(L))

x is a step of p samples: p = 1 in the paper.  Steps of more samples are of one's own here: a second of sound is then
p times fewer matrix rows, at the price that the network hears time in steps.  A step of the output depends on as many
on either side as all dilations together, and on none beyond.

The label is added to the level's vector, and both pass M_i; the paper has a map of its own for labels, to what is
gated.  Levels are the 512 sinusoids of `genjax.models.level`, where the paper has 128 of other frequencies; the mel
spectrogram of its vocoder is left out.  W_out starts at zero: the untrained network says 0.

Source: Kong, Ping, Huang, Zhao and Catanzaro, DiffWave: A Versatile Diffusion Model for Audio Synthesis, 2021,
https://arxiv.org/abs/2009.09761, section 3 and figure 2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from genjax.errors import BadInput
from genjax.models.blocks import flat
from genjax.models.level import Condition
from genjax.models.tcn import causal_convolve
from genjax.types import Array

TAPS = 3
ZEROS, LECUN = nn.initializers.zeros, nn.initializers.lecun_normal()


def convolve_both_ways(x: Array, kernel: Array, dilation: int = 1) -> jax.Array:
    """y_t = sum_j w_j x_{t + (j - (k-1)/2) d}: as many steps as x, with zeros outside of it.

    One matrix product, as `causal_convolve`.

    Args:
      x: [B, T, C].
      kernel: w, [k, C, D], k odd.
      dilation: d, steps between two taps.

    Returns:
      [B, T, D].

    >>> kernel = jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    >>> convolve_both_ways(jnp.arange(1.0, 5.0).reshape(1, 4, 1), kernel, 2).ravel().tolist()
    [310.0, 420.0, 31.0, 42.0]
    """
    side = (kernel.shape[0] - 1) // 2 * dilation
    return causal_convolve(jnp.pad(x, ((0, 0), (side, side), (0, 0))), kernel, dilation)


def reach(layers: int, cycle: int) -> int:
    """sum_i 2^(i mod cycle): on so many steps before, and after, a step of the output depends.

    >>> 2 * reach(30, 10) + 1  # the receptive field that the paper tells
    6139
    """
    return sum(2 ** (i % cycle) for i in range(layers))


class DiffWaveLayer(nn.Module):
    """One layer: see the head of this file.

    Args:
      dilation: d.
      dtype: of the computation.

    Called with (h [B, T, C], c [B, F]); returns the next h and what is skipped to the end, [B, T, C] each.

    >>> layer, h = DiffWaveLayer(2), jnp.ones((1, 5, 4))
    >>> params = layer.init(jax.random.key(0), h, jnp.ones((1, 3)))
    >>> [part.shape for part in layer.apply(params, h, jnp.ones((1, 3)))]
    [(1, 5, 4), (1, 5, 4)]
    """

    dilation: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, h: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        width = h.shape[-1]
        told = h + nn.Dense(width, dtype=self.dtype, name="condition")(c)[:, None, :]
        kernel = self.param("kernel", LECUN, (TAPS, width, 2 * width))
        bias = self.param("bias", ZEROS, (2 * width,))
        told, kernel, bias = promote_dtype(told, kernel, bias, dtype=self.dtype)
        y = convolve_both_ways(told, kernel, self.dilation) + bias.reshape(1, 1, -1)
        gated = jnp.tanh(y[..., :width]) * nn.sigmoid(y[..., width:])
        out = flat(nn.Dense(2 * width, dtype=self.dtype, name="out"), gated)
        return (h + out[..., :width]) * 0.5**0.5, out[..., width:]


class DiffWave(nn.Module):
    """(z [B, T], level [B], label) -> [B, T].

    Args:
      channels: C, of h.
      layers: L.
      cycle: layers after which dilations start again at 1.
      patch: p, samples of a step.
      classes: K labels; 0: none.
      features: of the condition.
      dtype: of the computation; parameters, and what is returned, are float32.

    The defaults are the paper's BASE.  Called with (z, level, label or None).

    Raises:
      BadInput: anything but [B, T] with T divisible by p; no layers, no cycle.

    >>> net = DiffWave(4, layers=2, cycle=2, patch=2, features=8)
    >>> z, level = jnp.ones((2, 10)), jnp.zeros(2)
    >>> float(jnp.abs(net.apply(net.init(jax.random.key(0), z, level), z, level)).max())
    0.0
    """

    channels: int = 64
    layers: int = 30
    cycle: int = 10
    patch: int = 1
    classes: int = 0
    features: int = 512
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, z: Array, level: Array, label: Array | None = None) -> jax.Array:
        self._check(z)
        dense = lambda width, name: nn.Dense(width, dtype=self.dtype, name=name)
        c = nn.silu(Condition(self.features, self.classes, name="condition")(level, label))
        steps = jnp.asarray(z, self.dtype).reshape(len(z), -1, self.patch)
        h, skipped = nn.relu(flat(dense(self.channels, "in"), steps)), []
        for i in range(self.layers):
            h, skip = DiffWaveLayer(2 ** (i % self.cycle), self.dtype, name=f"layer_{i}")(h, c)
            skipped.append(skip)
        middle = nn.relu(flat(dense(self.channels, "middle"), sum(skipped[1:], skipped[0]) * self.layers**-0.5))
        out = nn.Dense(self.patch, kernel_init=ZEROS, dtype=self.dtype, name="out")
        return flat(out, middle).reshape(jnp.shape(z)).astype(jnp.float32)

    def _check(self, z: Array) -> None:
        if self.layers < 1 or self.cycle < 1 or self.patch < 1:
            raise BadInput(
                f"layers = {self.layers}, cycle = {self.cycle}, patch = {self.patch}", "allowed: whole numbers from 1"
            )
        if jnp.ndim(z) != 2 or not jnp.size(z) or z.shape[1] % self.patch:
            raise BadInput(
                f"sounds {list(jnp.shape(z))} in steps of {self.patch} samples",
                f"allowed: [B, T], T divisible by {self.patch}",
                "another patch, or another length",
            )

"""A denoising network for points: a residual multilayer perceptron that sees the level of noise in every layer.

    h_0 = W z,    h_{i+1} = h_i + U_i silu(V_i (norm(h_i) (1 + s_i) + b_i)),    output = W' norm(h),   W' = 0 at first

with (s_i, b_i) linear in silu(c), c the condition of `genjax.models.level`.

Source: the residual blocks of the U-Net without its convolutions: Dhariwal and Nichol, Diffusion Models Beat GANs on
Image Synthesis, 2021, https://arxiv.org/abs/2105.05233, section 3.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.level import Condition
from genjax.types import Array


class PointDenoiser(nn.Module):
    """(z [B, D], level [B], label) -> [B, D].

    Args:
      width: of the hidden layers.
      blocks: residual blocks.
      classes: K labels; 0: none.

    Called with (z, level, label or None).

    Raises:
      BadInput: z that is no [B, D].

    >>> net = PointDenoiser(8)
    >>> z, level = jnp.ones((2, 3)), jnp.zeros(2)
    >>> net.init_with_output(jax.random.key(0), z, level)[0].tolist()  # an untrained one says 0
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    width: int
    blocks: int = 3
    classes: int = 0

    @nn.compact
    def __call__(self, z: Array, level: Array, label: Array | None = None) -> jax.Array:
        if jnp.ndim(z) != 2:
            raise BadInput(f"points of shape {list(jnp.shape(z))}", "allowed: [B, D]")
        c = nn.silu(Condition(self.width, self.classes, name="condition")(level, label))
        h = nn.Dense(self.width, name="in")(z)
        for i in range(self.blocks):
            scale, shift = jnp.split(nn.Dense(2 * self.width, name=f"modulation_{i}")(c), 2, axis=1)
            y = nn.LayerNorm(name=f"norm_{i}")(h) * (1 + scale) + shift
            y = nn.silu(nn.Dense(2 * self.width, name=f"wide_{i}")(y))
            h = h + nn.Dense(self.width, name=f"narrow_{i}")(y)
        return nn.Dense(z.shape[1], kernel_init=nn.initializers.zeros, name="out")(nn.LayerNorm(name="norm_out")(h))

"""Two layers of dense latents: bottom-up, as in the importance-weighted autoencoder, and top-down, as in the HVAE.

Bottom-up (Burda, Grosse and Salakhutdinov, 2016, section 5)      posterior q(z1 | x) q(z2 | z1)
                                                                  model     p(z2) p(z1 | z2) p(x | z1)
Top-down (Tomczak and Welling, 2018, section 4.2)                 posterior q(z2 | x) q(z1 | x, z2)
                                                                  model     p(z2) p(z1 | z2) p(x | z1, z2)

z2 is the top layer.  Bottom-up, the posterior of z2 sees the image through z1 only, so that a z1 that says everything
leaves z2 with nothing to say; top-down, z2 is drawn first, from the image.  The modules give means and log-variances;
`genjax.distributions.latent` makes laws of them, and paths and log weights of the laws:

    normal = lambda method: lambda *z: diagonal_normal(*model.apply(params, *z, method=method))
    latents, log_q = draw_path([lambda: normal("encode")(x), normal("encode_top")], key, k)            # z1, z2
    log_p = path_log_probs([lambda: standard_normal(50), normal("decode_top")], latents[::-1])[::-1]

Sources: https://arxiv.org/abs/1509.00519; https://arxiv.org/abs/1705.07120.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.models.blocks import GatedDense, Initializer, flat
from genjax.models.vae import check_images
from genjax.types import Array


class DenseNormal(nn.Module):
    """N(mean, exp(log_var)) from a vector: hidden layers, then two linear heads.

    Args:
      latents: D.
      hidden: [..., E] -> [..., width].
      log_var_range: (least, greatest) to which log_var is clipped; None: free.
      kernel_init: of the heads.

    Called with h [..., E]; returns (mean, log_var), [..., D] each.

    >>> from genjax.models.blocks import MLP
    >>> (mean, log_var), _ = DenseNormal(3, MLP((16,))).init_with_output(jax.random.key(0), jnp.ones((2, 5)))
    >>> mean.shape, log_var.shape
    ((2, 3), (2, 3))
    """

    latents: int
    hidden: nn.Module
    log_var_range: tuple[float, float] | None = None
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, h: Array) -> tuple[jax.Array, jax.Array]:
        h = self.hidden(h)
        mean = flat(nn.Dense(self.latents, kernel_init=self.kernel_init, name="mean"), h)
        log_var = flat(nn.Dense(self.latents, kernel_init=self.kernel_init, name="log_var"), h)
        return mean, log_var if self.log_var_range is None else jnp.clip(log_var, *self.log_var_range)


class Joined(nn.Module):
    """Two vectors as one: a gated layer of each, and one of both together.

    Args:
      width: units of each of the three layers.
      kernel_init: of their weights.

    Called with a [..., B, E] and b [..., B, F], of which one may lack leading axes; returns [..., B, width].

    >>> joined = Joined(4)
    >>> joined.init_with_output(jax.random.key(0), jnp.ones((3, 5)), jnp.ones((7, 3, 2)))[0].shape
    (7, 3, 4)
    """

    width: int
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, a: Array, b: Array) -> jax.Array:
        layer = lambda name: GatedDense(self.width, self.kernel_init, name=name)
        a, b = layer("first")(a), layer("second")(b)
        leading = jnp.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        both = [jnp.broadcast_to(h, (*leading, self.width)) for h in (a, b)]
        return layer("both")(jnp.concatenate(both, axis=-1))


class BottomUpVAE(nn.Module):
    """The two-layer model of Burda et al.: `encode`, `encode_top`, `decode_top`, `decode` are its four conditionals.

    Args:
      encoder: x [..., H, W, C] -> (mean, log_var) of q(z1 | x).
      top_encoder: z1 -> (mean, log_var) of q(z2 | z1).
      top_decoder: z2 -> (mean, log_var) of p(z1 | z2).
      decoder: z1 -> params_out of p(x | z1); its `image_shape` is what the model accepts.

    >>> from genjax.models.blocks import MLP
    >>> from genjax.models.vae import DenseDecoder, DenseEncoder
    >>> down, up = DenseNormal(4, MLP((8,))), DenseNormal(2, MLP((8,)))
    >>> model = BottomUpVAE(DenseEncoder(4, MLP((8,))), up, down, DenseDecoder((8, 8, 1), 1, MLP((8,))))
    >>> params = jax.jit(model.init)(jax.random.key(0), jnp.ones((2, 8, 8, 1)))
    >>> [part.shape for part in model.apply(params, jnp.ones((3, 2, 4)), method="encode_top")]
    [(3, 2, 2), (3, 2, 2)]
    """

    encoder: nn.Module
    top_encoder: nn.Module
    top_decoder: nn.Module
    decoder: nn.Module

    def encode(self, x: Array) -> tuple[jax.Array, jax.Array]:
        """(mean, log_var) of q(z1 | x)."""
        check_images(x, self.decoder.image_shape)
        return self.encoder(x)

    def encode_top(self, z1: Array) -> tuple[jax.Array, jax.Array]:
        """(mean, log_var) of q(z2 | z1)."""
        return self.top_encoder(z1)

    def decode_top(self, z2: Array) -> tuple[jax.Array, jax.Array]:
        """(mean, log_var) of p(z1 | z2)."""
        return self.top_decoder(z2)

    def decode(self, z1: Array) -> jax.Array:
        """params_out of p(x | z1)."""
        return self.decoder(z1)

    def __call__(self, x: Array) -> jax.Array:
        """params_out at the posterior mean of z1; `init` traces all four."""
        z1, _ = self.encode(x)
        z2, _ = self.encode_top(z1)
        self.decode_top(z2)
        return self.decode(z1)


class TopDownVAE(nn.Module):
    """The HVAE of Tomczak and Welling: `encode`, `encode_low`, `decode_top`, `decode` are its four conditionals.

    Args:
      encoder: x [..., H, W, C] -> (mean, log_var) of q(z2 | x).
      low_encoder: vectors -> (mean, log_var) of q(z1 | x, z2), from what `Joined` makes of image and z2.
      top_decoder: z2 -> (mean, log_var) of p(z1 | z2).
      decoder: vectors -> params_out of p(x | z1, z2), from what `Joined` makes of z1 and z2.
      width: units of the layers that join.
      kernel_init: of these.

    >>> from genjax.models.blocks import GatedMLP
    >>> from genjax.models.vae import DenseDecoder, DenseEncoder
    >>> nothing = GatedMLP(())
    >>> low, top = DenseNormal(4, nothing), DenseNormal(4, GatedMLP((8,)))
    >>> model = TopDownVAE(DenseEncoder(2, GatedMLP((8,))), low, top, DenseDecoder((8, 8, 1), 1, nothing), width=8)
    >>> params = jax.jit(model.init)(jax.random.key(0), jnp.ones((5, 8, 8, 1)))
    >>> [part.shape for part in model.apply(params, jnp.ones((5, 8, 8, 1)), jnp.ones((3, 5, 2)), method="encode_low")]
    [(3, 5, 4), (3, 5, 4)]
    """

    encoder: nn.Module
    low_encoder: nn.Module
    top_decoder: nn.Module
    decoder: nn.Module
    width: int
    kernel_init: Initializer = nn.initializers.lecun_normal()

    def setup(self) -> None:
        self.image_and_top = Joined(self.width, self.kernel_init)
        self.low_and_top = Joined(self.width, self.kernel_init)

    def encode(self, x: Array) -> tuple[jax.Array, jax.Array]:
        """(mean, log_var) of q(z2 | x)."""
        check_images(x, self.decoder.image_shape)
        return self.encoder(x)

    def encode_low(self, x: Array, z2: Array) -> tuple[jax.Array, jax.Array]:
        """(mean, log_var) of q(z1 | x, z2)."""
        pixels = x.reshape(*x.shape[:-3], -1)
        return self.low_encoder(self.image_and_top(pixels, z2))

    def decode_top(self, z2: Array) -> tuple[jax.Array, jax.Array]:
        """(mean, log_var) of p(z1 | z2)."""
        return self.top_decoder(z2)

    def decode(self, z2: Array, z1: Array) -> jax.Array:
        """params_out of p(x | z1, z2)."""
        return self.decoder(self.low_and_top(z1, z2))

    def __call__(self, x: Array) -> jax.Array:
        """params_out at the posterior means; `init` traces all four."""
        z2, _ = self.encode(x)
        z1, _ = self.encode_low(x, z2)
        self.decode_top(z2)
        return self.decode(z2, z1)

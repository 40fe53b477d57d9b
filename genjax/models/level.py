r"""What a denoising network is told beside its picture: how much noise there is, and the label.

    sinusoids   e(l)_j = cos(l w_j), e(l)_{F/2 + j} = sin(l w_j),   w_j = period^(-2 j / F),   j = 0 .. F/2 - 1
    condition   c = W_2 silu(W_1 e(l)) + label's vector

l is any measure of noise that suits the process: 1000 t, the log-SNR, log(sigma) / 4.  A label K, one more than the
last class, stands for none, and has a vector of its own.

Sources: Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, 2020, https://arxiv.org/abs/2006.11239,
appendix B; Vaswani et al., Attention Is All You Need, 2017, https://arxiv.org/abs/1706.03762, section 3.5.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.models.embedding import looked_up
from genjax.types import Array


def sinusoids(level: Array, features: int, period: float = 10_000.0) -> jax.Array:
    """e(l): a level as cosines and sines of geometrically spaced frequencies.

    Args:
      level: l [B].
      features: F, even, at least 2.
      period: the longest wave is nearly 2 pi times this.

    Returns:
      [B, F] in [-1, 1].

    Raises:
      BadInput: an odd number of features, or levels that are no vector.

    >>> sinusoids(jnp.zeros(1), 4).tolist()
    [[1.0, 1.0, 0.0, 0.0]]
    """
    if features < 2 or features % 2 or jnp.ndim(level) != 1:
        raise BadInput(
            f"{features} sinusoids of levels {list(jnp.shape(level))}", "allowed: an even number of them, levels [B]"
        )
    frequencies = period ** (-np.arange(features // 2) / (features // 2))
    angles = jnp.asarray(level, jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


class Condition(nn.Module):
    """c of the level and the label.

    Args:
      features: of c.
      classes: K; 0: no labels.

    Called with (level [B], label [B] integers 0 .. K, or None where K = 0); returns [B, features].

    Raises:
      BadInput: a label without classes, or classes without a label.

    >>> net = Condition(8, classes=3)
    >>> params = net.init(jax.random.key(0), jnp.ones(2), jnp.array([0, 3]))
    >>> params["params"]["labels"].shape
    (4, 8)
    """

    features: int
    classes: int = 0

    @nn.compact
    def __call__(self, level: Array, label: Array | None = None) -> jax.Array:
        if (label is None) != (self.classes == 0):
            raise BadInput(
                "a label for a network without classes" if self.classes == 0 else "no label for a network with classes",
                f"classes = {self.classes}; label = {self.classes} stands for none" if self.classes else "leave it out",
            )
        hidden = nn.silu(nn.Dense(self.features, name="first")(sinusoids(level, self.features - self.features % 2)))
        c = nn.Dense(self.features, name="second")(hidden)
        if label is None:
            return c
        table = self.param("labels", nn.initializers.normal(self.features**-0.5), (self.classes + 1, self.features))
        return c + looked_up(table, jnp.asarray(label)[:, None])[:, 0]

"""A small convolutional classifier of images, and the features that sets of images are compared by.

    image -> [3x3 convolution, rectifier] x 2 a width, halved by the largest of 2x2 pixels -> mean and largest of each
    channel over the image -> dense rectifiers: the features -> logits

The features of a set of images are those of the layer before the logits, as in the Inception score's and the Frechet
distance's usual network, only smaller; a distance in them carries this network's name and training.

Sources: Simonyan and Zisserman, Very Deep Convolutional Networks, 2015, https://arxiv.org/abs/1409.1556 (the blocks);
Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, https://arxiv.org/abs/1706.08500 (features).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.convolution import Conv
from genjax.types import Array, Params


class Classifier(nn.Module):
    """Images [B, H, W, C] -> logits [B, K].

    Args:
      classes: K, at least 2.
      widths: channels of the blocks; every block but the last halves the image.
      features: units of the layer before the logits.

    `model.apply(params, x, method="features_of")` gives the features [B, features].

    Raises:
      BadInput: fewer than two classes, images that are no [B, H, W, C] or too small to be halved.

    >>> model = Classifier(10, (8, 16), 32)
    >>> params = model.init(jax.random.key(0), jnp.ones((2, 8, 8, 1)))
    >>> model.apply(params, jnp.ones((2, 8, 8, 1))).shape
    (2, 10)
    >>> model.apply(params, jnp.ones((2, 8, 8, 1)), method="features_of").shape
    (2, 32)
    """

    classes: int
    widths: Sequence[int] = (32, 64)
    features: int = 128

    def setup(self) -> None:
        if self.classes < 2:
            raise BadInput(f"classes = {self.classes}", "allowed: whole numbers from 2")
        self.convolutions = [[Conv(width, (3, 3)) for _ in range(2)] for width in self.widths]
        self.dense, self.last = nn.Dense(self.features), nn.Dense(self.classes)

    def __call__(self, x: Array) -> jax.Array:
        return self.last(self.features_of(x))

    def features_of(self, x: Array) -> jax.Array:
        """The layer before the logits, >= 0."""
        h = jnp.asarray(x)
        if h.ndim != 4 or min(h.shape[1:3]) < 2 ** (len(self.widths) - 1):
            raise BadInput(f"images have shape {list(h.shape)}", "allowed: [B, H, W, C], large enough to be halved")
        for number, block in enumerate(self.convolutions):
            h = nn.max_pool(h, (2, 2), (2, 2)) if number else h
            for convolution in block:
                h = nn.relu(convolution(h))
        return nn.relu(self.dense(jnp.concatenate([jnp.mean(h, axis=(1, 2)), jnp.max(h, axis=(1, 2))], axis=-1)))


def classifier_of(params: Params) -> Classifier:
    """The classifier that parameters belong to, read off their shapes.

    Args:
      params: of a `Classifier`.

    Returns:
      The module.

    Raises:
      BadInput: parameters of another network.

    >>> model = Classifier(3, (4, 8), 16)
    >>> classifier_of(model.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))) == model
    True
    """
    shapes = {"/".join(k.key for k in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    widths: list[int] = []
    while (bias := f"params/convolutions_{len(widths)}_0/bias") in shapes:
        widths.append(shapes[bias][0])
    dense, last = (shapes.get(f"params/{name}/bias") for name in ("dense", "last"))
    if not widths or dense is None or last is None:
        raise BadInput(f"parameters {', '.join(shapes)[:80]}", "allowed: those of a Classifier", "classifier_mnist.py")
    return Classifier(last[0], tuple(widths), dense[0])

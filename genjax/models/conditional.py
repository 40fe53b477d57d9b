"""A variational autoencoder of images given their class: log p(x | y), with the label in encoder and decoder.

    log p(x | y) >= E_q[log p(x | z, y)] - KL(q(z | x, y) || p(z))

The label is a vector of zeros and a one.  The encoder sees it as further channels, constant over the image; the decoder
as further latents.  So any encoder and any decoder of genjax.models.vae can be conditional.

Source: Sohn, Lee and Yan, Learning Structured Output Representation using Deep Conditional Generative Models, 2015,
https://papers.nips.cc/paper/5775; Kingma et al., Semi-supervised Learning with Deep Generative Models, 2014,
https://arxiv.org/abs/1406.5298.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.models.vae import check_images
from genjax.types import Array


class ConditionalVAE(nn.Module):
    """q(z | x, y) and p(x | z, y).

    `model.apply(params, x, y, method="encode")` gives (mean, log_var), `model.apply(params, z, y, method="decode")`
    params_out; the call itself decodes the posterior mean.

    Args:
      encoder: x [..., H, W, C + classes] -> (mean, log_var).
      decoder: z [..., D + classes] -> params_out [..., H, W, C, m]; its `image_shape` is what the model accepts.
      classes: labels are 0 .. classes-1.

    Called with x [B, H, W, C] and y [B] integers; `decode` with z [..., B, D] and y [B].

    Raises:
      BadInput: images of another shape; labels that are no integers or, outside of compiled functions, out of range.
        Inside of them a label out of range gives NaN.

    >>> from genjax.models.blocks import MLP
    >>> from genjax.models.vae import DenseDecoder, DenseEncoder
    >>> model = ConditionalVAE(DenseEncoder(3, MLP((16,))), DenseDecoder((8, 8, 1), 1, MLP((16,))), classes=10)
    >>> images, labels = jnp.ones((2, 8, 8, 1)), jnp.array([3, 7])
    >>> params = jax.jit(model.init)(jax.random.key(0), images, labels)
    >>> model.apply(params, jnp.zeros((5, 2, 3)), labels, method="decode").shape
    (5, 2, 8, 8, 1, 1)
    """

    encoder: nn.Module
    decoder: nn.Module
    classes: int

    def encode(self, x: Array, label: Array) -> tuple[jax.Array, jax.Array]:
        """(mean, log_var) of q(z | x, y)."""
        check_images(x, self.decoder.image_shape)
        planes = one_hot(label, self.classes)[:, None, None, :]
        planes = jnp.broadcast_to(planes, (*x.shape[:-1], self.classes)).astype(x.dtype)
        return self.encoder(jnp.concatenate([x, planes], axis=-1))

    def decode(self, z: Array, label: Array) -> jax.Array:
        """params_out of p(x | z, y)."""
        rows = one_hot(label, self.classes).reshape(*[1] * (z.ndim - 2), len(label), self.classes)
        rows = jnp.broadcast_to(rows, (*z.shape[:-1], self.classes)).astype(z.dtype)
        return self.decoder(jnp.concatenate([z, rows], axis=-1))

    def __call__(self, x: Array, label: Array) -> jax.Array:
        """params_out at the posterior mean."""
        mean, _ = self.encode(x, label)
        return self.decode(mean, label)


def one_hot(label: Array, classes: int) -> jax.Array:
    """Labels [B] as rows of zeros and a one, [B, classes]; NaN for a label out of range in compiled functions.

    >>> one_hot(jnp.array([1, 0]), 2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    >>> one_hot(jnp.array([1, 2]), 2)
    Traceback (most recent call last):
    genjax.errors.BadInput: label 2 in row 1
    allowed: 0 to 1, the numbers of the classes
    """
    label = jnp.asarray(label)
    if label.ndim != 1 or not jnp.issubdtype(label.dtype, jnp.integer):
        raise BadInput(f"labels are {label.dtype} {list(label.shape)}", "allowed: integers [B], one for each image")
    if not isinstance(label, jax.core.Tracer):
        wrong = np.flatnonzero((np.asarray(label) < 0) | (np.asarray(label) >= classes))
        if len(wrong):
            told = f"label {label[wrong[0]]} in row {wrong[0]}"
            raise BadInput(told, f"allowed: 0 to {classes - 1}, the numbers of the classes")
    known = (label >= 0) & (label < classes)
    return jnp.where(known[:, None], jax.nn.one_hot(label, classes), jnp.nan)


def check_labels(dataset: Any) -> int:
    """The number of classes of a data set; stops where it has no labels.

    Args:
      dataset: a `genjax.data.Dataset`: its name, its classes and its training split.

    Raises:
      BadInput: no labels, or fewer than two classes.

    >>> from genjax.data import digits
    >>> check_labels(digits())
    10
    """
    classes = dataset.classes
    if classes is not None and classes >= 2 and "label" in dataset.train.arrays:
        return classes
    raise BadInput(
        f"data set {dataset.name}: " + ("no labels" if not classes else f"classes = {classes}"),
        "allowed: a set of images in at least two classes, with a field label",
        "digits, mnist and fashion_mnist have labels: genjax data list",
    )

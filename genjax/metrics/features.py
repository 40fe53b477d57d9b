"""What samples are compared by: a function from images to vectors, with a name that every number carries.

A distance of two sets of images means nothing without the features that it is taken in, nor without what was done to
the images before: a resize alone moves a Frechet distance by more than models differ (Parmar, Zhang and Zhu, On Aliased
Resizing and Surprising Subtleties in GAN Evaluation, 2022, https://arxiv.org/abs/2104.11222).  So `Features` holds all
three, and `about` is how a result line tells them.  Any function fits: a network of one's own, an Inception or DINOv2
model of another library, or a look-up of features that were saved.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.types import Array

ROWS = 500  # images at a time


class Features(NamedTuple):
    """A feature network."""

    name: str  # of the network and its weights; "": the samples themselves
    apply: Callable[[np.ndarray], np.ndarray]  # on the host: images [N, H, W, C] in [0, 1] -> [N, F]
    resize: str = "none"  # what is done to the images before


def pixels() -> Features:
    """The pixels as they are, flattened: the only features that need no network.

    Returns:
      Features from [N, ...] to [N, F]; F is the number of pixels and channels.

    Source: Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016, section 3.3, on how
    little a Euclidean distance of pixels says of what is seen.

    >>> pixels().apply(np.ones((5, 8, 8, 1))).shape
    (5, 64)
    """
    return Features("pixels", lambda images: np.reshape(images, (len(images), -1)))


def unchanged() -> Features:
    """The samples as they are, of any shape: for points, and for measures that look at images themselves.

    Returns:
      Features that return what they are given.

    >>> unchanged().apply(np.ones((5, 8, 8, 1))).shape
    (5, 8, 8, 1)
    """
    return Features("", np.asarray)


def resized(features: Features, shape: Sequence[int]) -> Features:
    """The same network on images of another size: bilinear, with antialiasing where they shrink.

    Args:
      features: of images of the height and width `shape`.
      shape: (height, width).

    Returns:
      Features of images of any size, which say so.

    Raises:
      BadInput: when applied to anything but [N, H, W, C].

    Source: Parmar, Zhang and Zhu, 2022, section 3: resizing without antialiasing changes the features.

    >>> small = resized(pixels(), (4, 4))
    >>> small.apply(np.ones((5, 8, 8, 1))).shape, small.resize
    ((5, 16), 'bilinear with antialiasing to 4x4')
    """
    height, width = shape
    resize = jax.jit(lambda x: jax.image.resize(x, (len(x), height, width, x.shape[-1]), "bilinear", antialias=True))

    def apply(images: np.ndarray) -> np.ndarray:
        if np.ndim(images) != 4:
            raise BadInput(f"images have shape {list(np.shape(images))}", "allowed: [N, H, W, C]")
        return features.apply(batched(resize, images))

    return Features(features.name, apply, f"bilinear with antialiasing to {height}x{width}")


def batched(function: Callable[[jax.Array], jax.Array], images: Array, rows: int = ROWS) -> np.ndarray:
    """A function of a batch over many images; the last batch is padded, so that one compilation serves all.

    Args:
      function: [rows, ...] float32 -> [rows, ...], such as `jax.jit` returns; it treats every image alone.
      images: [N, ...], N at least 1.
      rows: of a batch.

    Returns:
      [N, ...] on the host.

    Raises:
      BadInput: no images.

    >>> batched(lambda x: 2 * x, np.arange(5.0), rows=2).tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    images = np.asarray(images, np.float32)
    if not images.ndim or not len(images):
        raise BadInput(f"images have shape {list(images.shape)}", "allowed: at least one image")
    rows, parts = min(rows, len(images)), []
    for first in range(0, len(images), rows):
        part = images[first : first + rows]
        padded = np.concatenate([part, np.repeat(part[:1], rows - len(part), axis=0)])
        parts.append(np.asarray(function(jnp.asarray(padded)))[: len(part)])
    return np.concatenate(parts)


def about(features: Features) -> str:
    """How a result line tells the features.

    Args:
      features: any.

    Returns:
      A few words; none for the samples themselves.

    >>> about(pixels()), about(unchanged())
    ('features pixels, resize none', '')
    """
    return f"features {features.name}, resize {features.resize}" if features.name else ""


def checked(*sets: Array, least: int = 1) -> tuple[np.ndarray, ...]:
    """Sets of features in float64, if they can be compared.

    Args:
      sets: [N, F] each, with one F.
      least: rows of each, at least.

    Returns:
      The sets as float64 on the host.

    Raises:
      BadInput: other shapes, too few rows, numbers that are not finite.

    >>> [part.dtype.name for part in checked(np.ones((2, 3), np.float32), np.zeros((4, 3)))]
    ['float64', 'float64']
    """
    found = tuple(np.asarray(part, np.float64) for part in sets)
    shapes = ", ".join(str(list(part.shape)) for part in found)
    if any(part.ndim != 2 or part.shape[1:] != found[0].shape[1:] or 0 in part.shape for part in found):
        raise BadInput(f"features of shape {shapes}", "allowed: [N, F], with the same F for all")
    if min(map(len, found)) < least:
        raise BadInput(f"features of shape {shapes}", f"allowed: at least {least} rows of each", "draw more samples")
    if not all(np.isfinite(part).all() for part in found):
        raise BadInput("features that are not finite", "allowed: finite numbers", "look at the samples")
    return found

r"""The sliced Wasserstein distance of the patches of two sets of images, at every scale of a Laplacian pyramid.

On a line the Wasserstein distance of two sets of n numbers is (1/n) sum_i |a_(i) - b_(i)|, both sorted.  Sliced, it is
the mean of that over directions theta, uniform on the sphere, of the projections theta x (Rabin et al. 2011).

The pyramid of an image: g_0 is the image, g_(l+1) is g_l smoothed by w = [1 4 6 4 1] / 16 in both directions, every
second pixel kept; level l holds g_l less g_(l+1) spread out again, and the last level is g itself.  So each level has
the detail of one scale, and the last one all that is coarser (Burt and Adelson 1983).

As in Karras et al.: 128 patches of 7x7 pixels from each of 16,384 images, each channel of a level's patches normalised
by its mean and standard deviation, of either set by its own; 4 x 128 directions.  So a change of brightness or contrast
alone is not seen.  The paper prints 1,000 times the distance, and levels down to 16 pixels.

Sources: Karras, Aila, Laine and Lehtinen, Progressive Growing of GANs for Improved Quality, Stability, and Variation,
2018, section 5, https://arxiv.org/abs/1710.10196; Rabin, Peyre, Delon and Bernot, Wasserstein Barycenter and its
Application to Texture Mixing, 2011, https://doi.org/10.1007/978-3-642-24785-9_37; Burt and Adelson, The Laplacian
Pyramid as a Compact Image Code, 1983, https://doi.org/10.1109/TCOM.1983.1095851.
"""

import numpy as np

from genjax.errors import BadInput
from genjax.types import Array

SIDE = 7  # pixels of a patch
AT_ONCE = 16  # directions whose projections are held at a time
WEIGHTS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def pyramid_distances(
    real: Array, fake: Array, rng: np.random.Generator, smallest: int = 16, patches: int = 128
) -> dict[int, float]:
    """The sliced Wasserstein distance at every level of the pyramid.

    Args:
      real, fake: [N, H, W, C], as many of each; 16,384 in the paper.
      rng: of the places of the patches and the directions.
      smallest: pixels of the smaller side of the coarsest level, at least 7; H and W halve evenly down to it.
      patches: of each image and level.

    Returns:
      {height of the level in pixels: distance}, the finest first; 1,000 times it is what the paper prints.

    Raises:
      BadInput: images of other shapes, or smaller than a patch.

    Source: Karras et al., 2018, section 5.

    >>> rng = np.random.default_rng(0)
    >>> noise, other = rng.normal(size=(2, 50, 32, 32, 1))
    >>> {side: distance < 0.2 for side, distance in pyramid_distances(noise, other, rng).items()}
    {32: True, 16: True}
    """
    real, fake = _checked(real, fake, smallest)
    found = {}
    for ours, theirs in zip(laplacian_pyramid(real, smallest), laplacian_pyramid(fake, smallest), strict=True):
        a, b = (normalised_patches(level, rng, patches) for level in (ours, theirs))
        found[ours.shape[1]] = sliced_wasserstein(a, b, rng)
    return found


def sliced_wasserstein(a: Array, b: Array, rng: np.random.Generator, directions: int = 512) -> float:
    """The mean over random directions of the Wasserstein distance of projections.

    Args:
      a, b: [n, D], as many rows of each; float32 is computed in float32, all else in float64.
      rng: of the directions, uniform on the sphere.
      directions: 4 x 128 in Karras et al.

    Returns:
      A distance >= 0, in the units of a.  Kind: estimate, by the directions; exact for these rows where D is 1.

    Raises:
      BadInput: shapes that differ.

    Source: Rabin et al., 2011, eq. 10, with |.| for its square.

    >>> sliced_wasserstein(np.zeros((3, 1)), np.array([[1.0], [2.0], [6.0]]), np.random.default_rng(0))
    3.0
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or a.shape != b.shape or not a.size:
        raise BadInput(f"rows of shape {list(a.shape)} and {list(b.shape)}", "allowed: [n, D], one shape for both")
    single = a.dtype == b.dtype == np.float32
    theta = rng.normal(size=(a.shape[1], directions))
    theta = (theta / np.linalg.norm(theta, axis=0)).astype(np.float32 if single else np.float64)
    total = 0.0
    for first in range(0, directions, AT_ONCE):
        part = theta[:, first : first + AT_ONCE]
        ours, theirs = (np.sort(part.T @ rows.T, axis=1) for rows in (a, b))
        total += float(np.abs(ours - theirs).mean(axis=1, dtype=np.float64).sum())
    return total / directions


def laplacian_pyramid(images: Array, smallest: int = 16) -> list[np.ndarray]:
    """The levels of the pyramid: see the head of this file.

    Args:
      images: [N, H, W, C].
      smallest: no side of a level is smaller; H and W halve evenly down to it.

    Returns:
      Arrays [N, H / 2^l, W / 2^l, C] in the images' dtype, the finest first.  Spread out and added up they are the
      images again.

    Raises:
      BadInput: a side that is odd where it has to be halved.

    Source: Burt and Adelson, 1983.

    >>> [level.shape[1:3] for level in laplacian_pyramid(np.zeros((2, 64, 32, 1)))]
    [(64, 32), (32, 16)]
    """
    levels = [np.asarray(images)]
    while min(levels[-1].shape[1:3]) // 2 >= smallest:
        height, width = levels[-1].shape[1:3]
        if height % 2 or width % 2:
            raise BadInput(f"a level of {height}x{width} pixels", "allowed: sides that halve evenly", "pad the images")
        below = _smoothed(levels[-1])[:, ::2, ::2]
        levels[-1] = levels[-1] - spread_out(below)
        levels.append(below)
    return levels


def spread_out(images: Array) -> np.ndarray:
    """Twice as many pixels each way: zeros between them, smoothed by 2 w each way.

    Args:
      images: [N, H, W, C].

    Returns:
      [N, 2 H, 2 W, C].

    Source: Burt and Adelson, 1983, EXPAND.

    >>> spread_out(np.ones((1, 2, 2, 1)))[0, :, :, 0].round(6).tolist()[0]
    [1.0, 1.0, 1.0, 1.0]
    """
    images = np.asarray(images)
    rows, height, width, channels = images.shape
    wide = np.zeros((rows, 2 * height, 2 * width, channels), images.dtype)
    wide[:, ::2, ::2] = images
    return 4 * _smoothed(wide)


def normalised_patches(images: Array, rng: np.random.Generator, patches: int = 128) -> np.ndarray:
    """Patches of 7x7 pixels at random places, each channel of mean 0 and variance 1 over all of them.

    Args:
      images: [N, H, W, C], no side below 7.
      rng: of the places, uniform over those where the patch lies within the image.
      patches: of each image.

    Returns:
      [N patches, 49 C] float32; zero for a channel that is constant.

    Raises:
      BadInput: images smaller than a patch.

    Source: Karras et al., 2018, section 5.

    >>> normalised_patches(np.random.default_rng(0).normal(size=(3, 8, 8, 2)), np.random.default_rng(0), 5).shape
    (15, 98)
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or min(images.shape[1:3]) < SIDE:
        raise BadInput(f"images of shape {list(images.shape)}", f"allowed: [N, H, W, C], H and W at least {SIDE}")
    windows = np.lib.stride_tricks.sliding_window_view(images, (SIDE, SIDE), axis=(1, 2))  # [N, h, w, C, 7, 7]
    number = np.repeat(np.arange(len(images)), patches)
    rows, columns = (rng.integers(0, size, len(number)) for size in windows.shape[1:3])
    found = windows[number, rows, columns]
    mean = found.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    found -= mean
    deviation = np.sqrt(np.square(found).mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64))
    found /= np.where(deviation > 0, deviation, 1.0).astype(np.float32)
    return found.reshape(len(found), -1)


def _smoothed(images: np.ndarray) -> np.ndarray:
    """By w in both directions; beyond its edge an image goes on mirrored, the edge itself standing once."""
    for axis in (1, 2):
        pad = [(2, 2) if number == axis else (0, 0) for number in range(4)]
        wide, size = np.pad(images, pad, mode="reflect"), images.shape[axis]
        shifted = (np.take(wide, range(i, i + size), axis=axis) for i in range(5))
        images = sum(np.asarray(w, images.dtype) * part for w, part in zip(WEIGHTS, shifted, strict=True))
    return images


def _checked(real: Array, fake: Array, smallest: int) -> tuple[np.ndarray, np.ndarray]:
    ours, theirs = np.asarray(real, np.float32), np.asarray(fake, np.float32)
    if ours.ndim != 4 or ours.shape != theirs.shape or not ours.size:
        told = f"images of shape {list(ours.shape)} and {list(theirs.shape)}"
        raise BadInput(told, "allowed: [N, H, W, C], one shape for both", "take as many real images as samples")
    if not (SIDE <= smallest <= min(ours.shape[1:3])):
        told = f"smallest = {smallest} for images of {ours.shape[1]}x{ours.shape[2]} pixels"
        raise BadInput(told, f"allowed: {SIDE} to {min(ours.shape[1:3])}")
    return ours, theirs

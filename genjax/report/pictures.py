"""Pictures of samples, reconstructions and point clouds, as plain uint8 arrays [h, w, 3].

Every function takes NumPy or JAX arrays, images as [n, H, W, C] (C is 1, 3 or 4), either uint8 in 0..255 or floats
in [0, 1].  Floats outside that range are clipped; a value that is not finite is painted in `MARK`, because a run that
diverges should be seen and not crash.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from genjax.errors import BadInput
from genjax.report.files import write_whole
from genjax.types import Array

GAP = (61, 61, 66)  # between the images: a grey that is seen beside black and beside white pixels
MARK = (255, 0, 200)  # a value that is not finite
SMALL = 44  # images are enlarged to at least this many pixels
CANVAS = 400  # side of a scatter picture, in pixels


def draw(values: Array) -> np.ndarray:
    """The picture of what a sampler returned, chosen by its shape.

    Args:
      values: [n, H, W, C] images -> `grid`; [2, n, H, W, C] pairs -> `side_by_side`; [n, 2] points -> `scatter`.

    Returns:
      uint8 [h, w, 3].

    Raises:
      BadInput: another shape or dtype.

    >>> draw(np.zeros([4, 8, 8, 1])).shape  # 2 x 2 images of 48 pixels, 2 pixels around each
    (102, 102, 3)
    """
    shape = np.shape(values)
    if len(shape) == 5 and shape[0] == 2:
        return side_by_side(values)
    if len(shape) == 2 and shape[1] == 2:
        return scatter(values)
    return grid(values)


def grid(images: Array, columns: int | None = None, pad: int = 2, scale: int | None = None) -> np.ndarray:
    """Images in rows, from left to right and from top to bottom.

    Args:
      images: [n, H, W, C], uint8 or floats in [0, 1]; a fourth channel is opacity.
      columns: images in a row; None: as many as make the picture nearly square.
      pad: pixels of `GAP` around every image.
      scale: whole factor of enlargement (nearest neighbour); None: at least `SMALL` pixels.

    Returns:
      uint8 [h, w, 3].

    Raises:
      BadInput: not images, or none.

    >>> grid(np.ones([2, 1, 1, 1]), columns=2, pad=1, scale=1)[1, :, 0].tolist()
    [61, 255, 61, 255, 61]
    """
    tiles = _enlarge(_pixels(images), scale)
    n, height, width, _ = tiles.shape
    columns = columns or _columns(n, math.sqrt(n * height / width))
    rows = -(-n // columns)
    blank = np.full((rows * columns, height + pad, width + pad, 3), GAP, np.uint8)
    blank[:n, :height, :width] = tiles
    table = blank.reshape(rows, columns, height + pad, width + pad, 3).swapaxes(1, 2)
    table = table.reshape(rows * (height + pad), columns * (width + pad), 3)
    return _frame(table, pad, 0)


def side_by_side(pairs: Array, columns: int | None = None, pad: int = 6, scale: int | None = None) -> np.ndarray:
    """Originals, each with its reconstruction right below.

    Args:
      pairs: [2, n, H, W, C]: the originals, then the reconstructions; see `grid`.
      columns: pairs in a row; None: as many as make the picture nearly square.
      pad: pixels of `GAP` around every pair; a third of it between original and reconstruction.
      scale: whole factor of enlargement; None: at least `SMALL` pixels.

    Returns:
      uint8 [h, w, 3].

    Raises:
      BadInput: not two equal sets of images.

    >>> side_by_side(np.array([0.0, 1.0]).reshape(2, 1, 1, 1, 1), pad=1, scale=1)[:, 1, 0].tolist()
    [61, 0, 255, 61]
    """
    if np.ndim(pairs) != 5 or np.shape(pairs)[0] != 2:
        raise _wrong(pairs, "pairs are [2, n, H, W, C]: the originals, then the reconstructions")
    first, second = (_enlarge(_pixels(images), scale) for images in np.asarray(pairs))
    seam = np.full((len(first), pad // 3, first.shape[2], 3), GAP, np.uint8)
    return grid(np.concatenate([first, seam, second], axis=1), columns, pad, scale=1)


def scatter(points: Array) -> np.ndarray:
    """A point cloud in the plane; crowded places are darker.

    The frame is |x|, |y| <= r with r the smallest of 1, 2, 5, 10, ... that holds 99 % of the points, so that
    pictures of several steps can be compared.  Points outside are left out; a border in `MARK` says that some
    coordinates were not finite.

    Args:
      points: [n, 2].

    Returns:
      uint8 [CANVAS, CANVAS, 3].

    Raises:
      BadInput: not points in the plane, or none.
    """
    points = np.asarray(points).astype(np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise _wrong(points, "a point cloud is [n, 2]")
    finite = points[np.isfinite(points).all(axis=1)]
    radius = _round_up(np.quantile(np.abs(finite), 0.99)) if len(finite) else 1.0
    edges = np.linspace(-radius, radius, CANVAS - 1)
    counts = np.zeros((CANVAS, CANVAS))
    counts[1:-1, 1:-1] = np.histogram2d(-finite[:, 1], finite[:, 0], bins=[edges, edges])[0]
    dots = np.sum([np.roll(counts, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)  # 3 x 3 pixels
    ink = np.where(dots > 0, 0.35 + 0.65 * np.log1p(dots) / np.log1p(max(dots.max(), 8.0)), 0.0)[..., None]
    picture = np.rint((1 - ink) * (250, 250, 248) + ink * (16, 62, 82)).astype(np.uint8)
    return picture if len(finite) == len(points) else _frame(picture[4:-4, 4:-4], 4, 4, MARK)


def save_png(path: str | Path, picture: np.ndarray, about: Mapping[str, object] | None = None) -> Path:
    """Writes a picture, whole or not at all.

    Args:
      path: the file, ending in `.png`.
      picture: uint8 [h, w, 3].
      about: text kept inside the file, such as {"stage": "vae", "step": 2000}.

    Returns:
      The path.

    Raises:
      Damaged: the file cannot be written.

    >>> import tempfile, PIL.Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_png(f"{folder}/a.png", np.zeros([3, 4, 3], np.uint8), {"step": 20})
    ...     with PIL.Image.open(path) as image:
    ...         image.size, image.text
    ((4, 3), {'step': '20'})
    """
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    for name, value in (about or {}).items():
        text.add_itxt(name, str(value))
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, format="png", pnginfo=text)
    return write_whole(path, file.getvalue())


def _pixels(images: Array) -> np.ndarray:
    """[n, H, W, C] of any accepted kind -> uint8 [n, H, W, 3]."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        raise _wrong(images, "images are [n, H, W, C] with n at least 1 and C = 1, 3 or 4")
    if images.dtype == np.uint8:
        values = images / np.float32(255)
    elif images.dtype == bool or images.dtype.kind in "fV":  # V: bfloat16 and its kin
        values = images.astype(np.float32)
    else:
        raise _wrong(images, "images are uint8 in 0..255 or floats in [0, 1]")
    bad = ~np.isfinite(values).all(axis=-1)
    values = np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), 0.0, 1.0)
    if values.shape[-1] == 4:
        colour, opacity = values[..., :3], values[..., 3:]
        values = opacity * colour + (1 - opacity) * np.float32(np.array(GAP) / 255)
    pixels = np.broadcast_to(np.rint(255 * values).astype(np.uint8), (*values.shape[:3], 3)).copy()
    pixels[bad] = MARK
    return pixels


def _enlarge(tiles: np.ndarray, scale: int | None) -> np.ndarray:
    scale = scale or max(1, -(-SMALL // max(tiles.shape[1:3])))
    return tiles.repeat(scale, axis=1).repeat(scale, axis=2)


def _columns(n: int, square: float) -> int:
    """At least as many columns as make a square, and a few more where that leaves fewer places empty."""
    least = min(n, math.ceil(square))
    return min(range(least, min(n, least + 2) + 1), key=lambda columns: (-n % columns, columns))


def _frame(picture: np.ndarray, before: int, after: int, colour: tuple[int, int, int] = GAP) -> np.ndarray:
    """Adds rows and columns of one colour on all sides."""
    height, width, _ = picture.shape
    framed = np.full((height + before + after, width + before + after, 3), colour, np.uint8)
    framed[before : before + height, before : before + width] = picture
    return framed


def _round_up(value: float) -> float:
    """The smallest of ..., 0.5, 1, 2, 5, 10, ... that is not below `value`."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= value * (1 - 1e-9))


def _wrong(values: Array, allowed: str) -> BadInput:
    values = np.asarray(values)
    return BadInput(
        f"cannot draw an array of shape {list(values.shape)} and type {values.dtype}",
        allowed,
        "change what the experiment's sample or reconstruct function returns",
    )

"""Moving pictures as .gif files: a host function of NumPy arrays, with Pillow."""

import io

import numpy as np

from genjax.errors import BadInput
from genjax.types import Array


def gif_file(frames: Array, seconds: float = 0.1, scale: int = 1, back: bool = True) -> bytes:
    """A .gif file that repeats.

    Args:
      frames: [T, H, W, C] numbers in [0, 1], others are cut to it; C of 1 or 3; T at least 2.
      seconds: a frame, 0.02 to 10.
      scale: whole factor of enlargement, at least 1.
      back: whether each repetition goes forwards and then backwards; a film goes only forwards.

    Returns:
      The bytes of the file, of 2 T - 2 frames or of T, or of fewer where neighbours are alike.

    Raises:
      BadInput: an array of another shape or with numbers that are not finite; a time or scale that is not allowed.

    >>> file = gif_file(np.linspace(0, 1, 24).reshape(2, 2, 2, 3))
    >>> file[:6]
    b'GIF89a'
    """
    from PIL import Image

    frames = np.asarray(frames)
    if frames.ndim != 4 or len(frames) < 2 or frames.shape[-1] not in (1, 3) or not frames.size:
        told = "allowed: [T, H, W, C], T at least 2, C of 1 or 3"
        raise BadInput(f"cannot write an array of shape {list(frames.shape)} as a moving picture", told)
    if not np.isfinite(frames).all():
        raise BadInput(f"{int(np.sum(~np.isfinite(frames))):,} levels are not finite", "allowed: numbers in [0, 1]")
    if not 0.02 <= seconds <= 10 or scale < 1:
        raise BadInput(f"seconds = {seconds}, scale = {scale}", "allowed: 0.02 to 10 seconds a frame, a scale from 1")
    levels = np.rint(255 * np.clip(frames, 0, 1)).astype(np.uint8).repeat(scale, axis=1).repeat(scale, axis=2)
    pictures = [Image.fromarray(level[..., 0] if level.shape[-1] == 1 else level) for level in levels]
    pictures += pictures[-2:0:-1] if back else []
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=round(1_000 * seconds), loop=0)
    return content.getvalue()

r"""Moving MNIST, generated: scans of digits that go straight on at one speed and bounce at the edges of the picture.

Of n digits of a clip, each starts anywhere in the picture and goes in any direction, both uniform, one step a frame:

    p_t = fold(p_0 + t s (sin a, cos a)),   p_0 ~ U[0, L]^2,   a ~ U[0, 2 pi),   t = 0 .. T-1
    fold(u) = L - | u mod 2L  -  L |                      the position of a point that is reflected at 0 and at L

with L = S - h, the room that a digit of h pixels has in a picture of S, and s = L / 10.  The corner of a digit stands
on the pixel nearest to p_t; where digits overlap the brighter pixel is seen.  A picture of 64 pixels has MNIST's scans
as they are, of 28; one of 32 has means of two by two of their pixels: the same film at half the size.

Nothing is downloaded but MNIST.  A training clip is made inside the compiled update, as the images of one batch: clip i
shows images i, i + 1, .. of the batch, so that each digit of an epoch is in n clips, and the motion is drawn anew every
time.  Clips to validate and to test are drawn once, of digits that no clip of another split shows, by
`numpy.random.default_rng(777)` and in float64, and so are one set of clips on every machine.

In the authors' program a digit that meets an edge waits there for the rest of its step; here it is reflected within the
step, and its path is as long in every frame.

Source: Srivastava, Mansimov and Salakhutdinov, Unsupervised Learning of Video Representations using LSTMs, 2015,
section 4.2, https://arxiv.org/abs/1502.04681.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.data.sets import Where, mnist
from genjax.data.split import Dataset, Split, make_dataset
from genjax.errors import BadInput
from genjax.types import Array, Batch, Key

SIDES = (32, 64)
HELD_OUT = 2_000  # clips to validate, and to test
SEED = 777
STEP = 0.1  # of a digit's room, a frame


def moving_mnist(side: int = 32, digits: int = 2, frames: int = 16, data_dir: Where = None) -> Dataset:
    """Clips of moving digits; the head of this file has how they are generated.

    Args:
      side: S, 32 or 64 pixels.
      digits: n of a clip, at least 1; batches hold no fewer.
      frames: T of a clip, at least 1.
      data_dir: folder of prepared sets; None: $GENJAX_DATA_DIR, else ~/.cache/genjax/data.
    Returns:
      Prepared: `clip` float32 [B, T, S, S, 1] in [0, 1].  50,000 digits train, 2,000 clips of 10,000 digits validate,
      2,000 clips of MNIST's 10,000 test digits test.
    Raises:
      BadInput: another side, no digits, no frames; MNIST not prepared: the message has the command.
      Damaged: the files are not what was prepared.
    """
    if side not in SIDES or digits < 1 or frames < 1:
        told = f"moving_mnist: side = {side}, digits = {digits}, frames = {frames}."
        raise BadInput(told, "Allowed are sides of 32 and 64 pixels, a digit or more, a frame or more.")
    source = mnist(data_dir)
    scans = {name: _sized(getattr(source, name).arrays["image"], side) for name in ("train", "validation", "test")}
    prepare = functools.partial(_moving, side=side, digits=digits, frames=frames)
    splits = {"train": Split({"image": scans["train"]}, prepare)}
    rng = np.random.default_rng(SEED)
    for name in ("validation", "test"):
        splits[name] = Split({"clip": held_out(scans[name], rng, HELD_OUT, side, digits, frames)}, _scaled)
    about = f"Generated: digits that move and bounce, after Srivastava et al. (2015); scans: {source.about}"
    return make_dataset(f"moving_mnist_{side}", splits, about=about)


def fold(position: Any, room: float) -> Any:
    """Where a point is that would have come to `position` [...], had it not been reflected at 0 and at `room`.

    >>> fold(np.array([3.0, 12.0, -4.0, 23.0]), 10.0).tolist()
    [3.0, 8.0, 4.0, 3.0]
    """
    return room - abs(position % (2 * room) - room)


def paths(start: Any, angle: Any, room: float, frames: int) -> Any:
    """Corners of digits in each frame, NumPy or JAX as the arguments are.

    Args:
      start: p_0 [..., 2], row and column in [0, room].
      angle: a [...], radians.
      room: L.
      frames: T.
    Returns:
      p [..., T, 2] in [0, room].
    """
    xp = jnp if isinstance(angle, jax.Array) else np
    direction = xp.stack([xp.sin(angle), xp.cos(angle)], axis=-1)
    time = np.arange(frames, dtype=angle.dtype).reshape(*[1] * (start.ndim - 1), frames, 1)
    return fold(start[..., None, :] + STEP * room * time * direction[..., None, :], room)


def laid(digits: Array, corners: Array, side: int) -> jax.Array:
    """Pictures with digits at their places, the brighter where they overlap.

    A digit D at (r, c) is R D C, with R[y, i] = 1 where y = r + i and C[j, x] = 1 where x = c + j: two products for all
    pictures, exact for 256 grey levels in any floating point.

    Args:
      digits: grey levels [B, n, h, h].
      corners: [B, n, T, 2], the nearest whole numbers of which lie in [0, side - h].
      side: S.
    Returns:
      float32 [B, T, S, S, 1], whole grey levels.

    >>> digit = np.full((1, 1, 1, 1), 9)
    >>> laid(digit, np.array([0.6, 0.0]).reshape(1, 1, 1, 2), 2)[0, 0, :, :, 0].tolist()
    [[0.0, 0.0], [9.0, 0.0]]
    """
    digits, corners = jnp.asarray(digits, jnp.float32), jnp.rint(jnp.asarray(corners)).astype(jnp.int32)
    own = jnp.arange(side).reshape(1, 1, 1, side, 1) - jnp.arange(digits.shape[-1]).reshape(1, 1, 1, 1, -1)
    rows, columns = ((own == corners[..., axis, None, None]).astype(jnp.float32) for axis in (0, 1))
    pictures = jnp.einsum("bntyi,bnij,bntxj->bntyx", rows, digits, columns)
    return jnp.max(pictures, axis=1)[..., None]


def held_out(
    scans: np.ndarray, rng: np.random.Generator, clips: int, side: int, digits: int, frames: int
) -> np.ndarray:
    """Clips that are drawn once, uint8 [clips, T, S, S, 1], of grey levels `scans` uint8 [N, h, h, 1]."""
    room = float(side - scans.shape[1])
    chosen = rng.integers(0, len(scans), (clips, digits))
    start, angle = room * rng.random((clips, digits, 2)), 2 * np.pi * rng.random((clips, digits))
    corners = np.rint(paths(start, angle, room, frames)).astype(np.int32)
    lay = jax.jit(lambda shown, corners: laid(shown, corners, side).astype(jnp.uint8))
    cut = range(0, clips, 500)
    return np.concatenate([lay(scans[chosen[i : i + 500], ..., 0], corners[i : i + 500]) for i in cut])


def _moving(batch: Batch, key: Key, *, side: int, digits: int, frames: int) -> Batch:
    scans = jnp.asarray(batch["image"])[..., 0]
    if len(scans) < digits:
        raise BadInput(f"batch_size = {len(scans)} for clips of {digits} digits", "allowed: at least as many")
    room, (start_key, angle_key) = float(side - scans.shape[1]), jax.random.split(key)
    start = room * jax.random.uniform(start_key, (len(scans), digits, 2))
    angle = 2 * np.pi * jax.random.uniform(angle_key, (len(scans), digits))
    shown = jnp.stack([jnp.roll(scans, -number, axis=0) for number in range(digits)], axis=1)
    return {"clip": laid(shown, paths(start, angle, room, frames), side) / 255}


def _scaled(batch: Batch, key: Key) -> Mapping[str, jax.Array]:
    del key
    return {**batch, "clip": jnp.asarray(batch["clip"]).astype(jnp.float32) / 255}


def _sized(scans: np.ndarray, side: int) -> np.ndarray:
    """Scans of 28 pixels for pictures of 64; for those of 32 the means of two by two."""
    if side == 64:
        return scans
    n, height, width, channels = scans.shape
    means = scans.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    return np.rint(means).astype(np.uint8)

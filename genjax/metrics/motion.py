r"""How clips move, and how far drawn clips are from real ones in that: distances of laws of a few numbers.

A clip's frames have brightness m_t, the sum of its levels, and a centre c_t, the mean place of its brightness.  Of real
and of drawn clips three laws are compared, by the Kolmogorov-Smirnov distance sup_u |F(u) - G(u)| in [0, 1]:

    speed      |c_{t+1} - c_t|, in pixels a frame
    turn       |c_{t+2} - 2 c_{t+1} + c_t|, in pixels a frame squared: 0 while a thing goes straight on
    flicker    the standard deviation over t of m_t, by its mean: 0 where a thing neither grows nor fades

A film of frames that are each perfect and have nothing to do with each other is far away in all three.  Steps of one
clip are not independent, so that no p-value goes with the distance.

What is darker than `DARK` counts as nothing: a haze over the whole picture, too faint to see, would draw every centre
to the picture's middle.  A frame without brightness has its centre there.

Source: Massey, The Kolmogorov-Smirnov Test for Goodness of Fit, 1951, https://doi.org/10.2307/2280095, for the
distance; the three numbers are our own.
"""

from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput
from genjax.types import Array

DARK = 0.25


class Motion(NamedTuple):
    """Numbers of clips."""

    speed: np.ndarray  # [N, T - 1]
    turn: np.ndarray  # [N, T - 2]
    flicker: np.ndarray  # [N]


class MotionDistances(NamedTuple):
    """Kolmogorov-Smirnov distances in [0, 1]."""

    speed: float
    turn: float
    flicker: float


def motion(clips: Array) -> Motion:
    """Speed, turn and flicker.

    Args:
      clips: [N, T, H, W, C] in [0, 1], T at least 3.

    Returns:
      Motion in float64, to 1e-6.

    Raises:
      BadInput: what is no clip of three frames, or not finite.

    Source: the head of this file; 2026.

    >>> clip = np.zeros((1, 4, 3, 9, 1))
    >>> clip[0, np.arange(4), 1, [0, 2, 4, 4]] = 1.0
    >>> found = motion(clip)
    >>> found.speed.tolist(), found.turn.tolist(), found.flicker.tolist()
    ([[2.0, 2.0, 0.0]], [[0.0, 2.0]], [0.0])
    """
    clips = np.asarray(clips)
    if clips.ndim != 5 or clips.shape[1] < 3 or not clips.size or not np.isfinite(clips).all():
        raise BadInput(f"clips {list(clips.shape)}", "allowed: finite [N, T, H, W, C], T at least 3")
    levels = np.where(clips < DARK, 0, clips).sum(axis=-1, dtype=np.float64)  # [N, T, H, W]
    mass, (height, width) = levels.sum(axis=(2, 3)), levels.shape[2:]
    row, column = levels.sum(axis=3) @ np.arange(height), levels.sum(axis=2) @ np.arange(width)
    lit, middle = mass[..., None] > 0, np.array([height - 1, width - 1]) / 2
    centre = np.where(lit, np.stack([row, column], axis=-1) / np.where(lit, mass[..., None], 1), middle)
    steps = np.diff(centre, axis=1)
    mean = mass.mean(axis=1)
    flicker = mass.std(axis=1) / np.where(mean > 0, mean, 1)
    found = np.linalg.norm(steps, axis=-1), np.linalg.norm(np.diff(steps, axis=1), axis=-1), flicker
    return Motion(*(np.round(part, 6) for part in found))  # a law of rounding errors around 0 is none of motion


def motion_distances(real: Array, drawn: Array) -> MotionDistances:
    """How far the laws of speed, turn and flicker are apart.

    Args:
      real, drawn: clips [N, T, H, W, C] in [0, 1], T at least 3.

    Returns:
      MotionDistances.  Kind: estimates, biased upwards: of two sets of one law they are not 0.

    Raises:
      BadInput: as `motion`.

    Source: Massey, 1951, for the distance.

    >>> clips = np.random.default_rng(0).random((2, 20, 4, 3, 3, 1))
    >>> motion_distances(clips[0], clips[0]).speed, motion_distances(clips[0], 0 * clips[1]).speed
    (0.0, 1.0)
    """
    from scipy.stats import ks_2samp

    pairs = zip(motion(real), motion(drawn), strict=True)
    return MotionDistances(*(float(ks_2samp(x.ravel(), y.ravel()).statistic) for x, y in pairs))

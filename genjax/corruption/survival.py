r"""How long a token survives: alpha_t, the probability that it is not lost until time t, from 1 at t = 0 to 0 at t = 1.

    linear        1 - alpha = t
    polynomial    1 - alpha = t^w
    cosine        1 - alpha = sin(pi t / 2)

The bound of masked diffusion does not depend on the schedule; its variance does, and so does a sample in few steps.

Sources: Shi et al., Simplified and Generalized Masked Diffusion for Discrete Data, 2024,
https://arxiv.org/abs/2406.04329; Chang et al., MaskGIT, 2022, https://arxiv.org/abs/2202.04200, section 3.3.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Function
from genjax.errors import BadInput
from genjax.types import Array


class Schedule(NamedTuple):
    """alpha and 1 - alpha of t in [0, 1], each by a formula of its own: near t = 0 the difference would cancel."""

    kept: Function
    lost: Function


def linear() -> Schedule:
    """1 - alpha = t.

    Returns:
      Schedule.

    >>> float(linear().kept(np.array(0.25)))
    0.75
    """
    return Schedule(lambda t: 1.0 - t, lambda t: 1.0 * t)


def polynomial(power: float) -> Schedule:
    """1 - alpha = t^w.

    Args:
      power: w > 0.

    Returns:
      Schedule.

    Raises:
      BadInput: w <= 0.

    >>> float(polynomial(2.0).lost(np.array(0.5)))
    0.25
    """
    if not (0 < power < math.inf):
        raise BadInput(f"power = {power} of a schedule", "allowed: numbers above 0")
    return Schedule(lambda t: 1.0 - t**power, lambda t: t**power)


def cosine() -> Schedule:
    """1 - alpha = sin(pi t / 2): the last tokens of a sample are drawn in smaller steps than by `linear`.

    Returns:
      Schedule.

    Source: Chang et al., 2022, section 3.3.

    >>> round(float(cosine().lost(np.array(1 / 3))), 6)
    0.5
    """

    def kept(t):  # 1 - cos(y) = 2 sin(y / 2)^2, with y what is left of a quarter turn
        return 2.0 * t.__array_namespace__().sin(0.25 * math.pi * (1.0 - t)) ** 2

    return Schedule(kept, lambda t: t.__array_namespace__().sin(0.5 * math.pi * t))


def check_schedule(schedule: Schedule, points: int = 257) -> Schedule:
    """The same schedule, if alpha falls from 1 to 0 all the way and `lost` is the rest.

    Args:
      schedule: to be looked at, on a grid of times.
      points: of the grid.

    Returns:
      `schedule`.

    Raises:
      BadInput: an alpha that does not begin at 1, end at 0, or that rises, and where.

    >>> check_schedule(Schedule(lambda t: t, lambda t: 1 - t))
    Traceback (most recent call last):
    genjax.errors.BadInput: a schedule keeps a token with probability 0 at t = 0 and 1 at t = 1
    allowed: ...
    """
    t = np.linspace(0.0, 1.0, points)
    with np.errstate(all="ignore"):
        kept, lost = np.asarray(schedule.kept(t)), np.asarray(schedule.lost(t))
    if not (np.isclose(kept[0], 1.0) and np.isclose(kept[-1], 0.0, atol=1e-8)):
        raise BadInput(
            f"a schedule keeps a token with probability {kept[0]:.4g} at t = 0 and {kept[-1]:.4g} at t = 1",
            "allowed: an alpha that falls from 1, all data, to 0, none",
        )
    rises = np.flatnonzero(~(np.diff(lost) > 0))
    if len(rises):
        raise BadInput(f"alpha of a schedule rises at t = {t[rises[0] + 1]:.6g}, or stays", "allowed: one that falls")
    if not np.allclose(kept + lost, 1.0, atol=1e-6):
        raise BadInput("kept and lost of a schedule do not add up to 1", "allowed: lost(t) = 1 - kept(t)")
    return schedule


def hazard(schedule: Schedule, t: Array) -> jax.Array:
    """-alpha'(t) / (1 - alpha(t)): the rate at which a masked token is revealed, backwards in time.

    Args:
      schedule: whose.
      t: times in (0, 1], of any shape.

    Returns:
      Of t's shape.

    >>> hazard(linear(), jnp.array([0.5, 1.0])).tolist()
    [2.0, 1.0]
    """
    t = jnp.asarray(t, jnp.result_type(float))
    lost, rate = jax.jvp(schedule.lost, (t,), (jnp.ones_like(t),))
    return rate / lost

r"""Averages of the parameters whose width is chosen after training: two are kept, any other is solved for.

A power-function average of theta_1 .. theta_t with exponent g weighs theta_tau by the integral of (g + 1) s^g / t^(g+1)
from tau - 1 to tau.  It grows with t, so that its shape is the same at all times, and forgets the start:

    (1)  a_t = b_t a_{t-1} + (1 - b_t) theta_t,    b_t = (1 - 1/t)^(g + 1)
    (2)  width = sqrt(g + 1) / ((g + 2) sqrt(g + 3)),  the deviation of s / t under that weight; at most 1 / sqrt(12)

Averages of two widths are kept and copied now and then.  Copies at times t_i of exponents g_i have the profiles
p_i(s) = (g_i + 1) s^(g_i) / t_i^(g_i + 1) on [0, t_i], whose inner products are closed:

    (3)  <p_i, p_j> = (g_i + 1) (g_j + 1) (t_i / t_j)^(g_j) / ((g_i + g_j + 1) t_j)    where t_i <= t_j

An average p of another width is then nearly sum_i w_i p_i with the w of least ||p - sum_i w_i p_i||^2; here, other than
in the paper, under sum w = 1, so that parameters which did not move are given back as they are.

Source: Karras, Aittala, Lehtinen, Hellsten, Aila and Laine, Analyzing and Improving the Training Dynamics of Diffusion
Models, 2024, https://arxiv.org/abs/2312.02696, sections 3.1 and 3.2, appendix C.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax.errors import BadInput
from genjax.types import Params

WIDEST = 1 / math.sqrt(12.0)  # the plain mean


class PowerState(NamedTuple):
    """Two averages and their latest copies, in float32; a checkpoint holds them with the optimizer's state."""

    count: jax.Array  # type: ignore[assignment]  # int32 scalar
    widths: jax.Array  # [2] float32
    averages: Params  # each [2, ...]
    copies: Params  # each [K, 2, ...], a ring
    times: jax.Array  # [K] int32: updates done when a copy was made; 0: none yet


def exponent(width: float) -> float:
    """The g of a width, eq. 2.

    Args:
      width: relative to the length of training, in (0, 1 / sqrt(12)); 0.05 and 0.1 in the paper.

    Returns:
      g > 0.

    Raises:
      BadInput: a width outside.

    >>> round(exponent(0.1), 3), round(exponent(0.05), 2)
    (6.937, 16.97)
    """
    if not 0 < width < WIDEST:
        raise BadInput(f"width = {width} of a power-function average", f"allowed: above 0, below {WIDEST:.4f}")
    low, high = 0.0, 1.0 / width
    for _ in range(200):
        middle = 0.5 * (low + high)
        wide = math.sqrt(middle + 1) / ((middle + 2) * math.sqrt(middle + 3)) > width
        low, high = (middle, high) if wide else (low, middle)
    return 0.5 * (low + high)


def power_averages(every: int, copies: int, widths: Sequence[float] = (0.05, 0.1)) -> optax.GradientTransformation:
    """Two averages of the parameters by eq. 1, copied every so often into a ring; the last link of a chain.

    The first update replaces the start entirely (b_1 = 0), so no debiasing is needed.

    Args:
      every: updates between copies.
      copies: K that are kept, the latest; each costs twice the parameters' memory.  All of training is covered where
        K times `every` is its length.
      widths: two, of which those that may be asked for lie between or near.

    Returns:
      An optax transformation that passes updates through unchanged.

    Raises:
      BadInput: no copies, other widths than two different ones.

    Example: of theta = 1, 2, 3 with exponents of about 1 / 3 updates' width.
      >>> tx = optax.chain(optax.sgd(1.0), power_averages(1, 3, (0.1, 0.2)))
      >>> theta, state = jnp.array(0.0), tx.init(jnp.array(0.0))
      >>> for _ in range(3):
      ...     updates, state = tx.update(jnp.array(-1.0), state, theta)
      ...     theta = theta + updates
      >>> state[1].times.tolist(), bool(2.5 < state[1].averages[0] < 3), bool(2 < state[1].averages[1] < 2.9)
      ([1, 2, 3], True, True)
    """
    if every < 1 or copies < 1:
        raise BadInput(f"{copies} copies of averages, every {every} updates", "allowed: whole numbers from 1")
    if len(set(widths)) != 2 or len(widths) != 2:
        raise BadInput(f"widths = {list(widths)} of averages", "allowed: two different ones, such as 0.05 and 0.1")
    powers = jnp.asarray([exponent(width) + 1.0 for width in widths], jnp.float32)

    def init(params: Params) -> PowerState:
        zeros = lambda *lead: jax.tree.map(lambda p: jnp.zeros((*lead, *jnp.shape(p)), jnp.float32), params)
        times = jnp.zeros(copies, jnp.int32)
        return PowerState(jnp.zeros((), jnp.int32), jnp.float32(np.array(widths)), zeros(2), zeros(copies, 2), times)

    def update(updates: Any, state: PowerState, params: Params | None = None) -> tuple[Any, PowerState]:
        if params is None:
            raise BadInput("power_averages: update without params", "", "call tx.update(grads, opt_state, params)")
        count = state.count + 1
        keep = jnp.exp(powers * jnp.log1p(-1.0 / count.astype(jnp.float32)))  # b_t; of the first update 0
        averages = jax.tree.map(
            lambda a, p, u: a + _lead(1 - keep, a) * ((p + u).astype(jnp.float32)[None] - a),
            state.averages,
            params,
            updates,
        )
        slot = jnp.where(count % every == 0, (count // every - 1) % copies, copies)  # outside: dropped
        kept = jax.tree.map(lambda ring, a: ring.at[slot].set(a, mode="drop"), state.copies, averages)
        return updates, PowerState(count, state.widths, averages, kept, state.times.at[slot].set(count, mode="drop"))

    return optax.GradientTransformation(init, update)


def profile_weights(exponents: np.ndarray, times: np.ndarray, g: float, t: float) -> np.ndarray:
    """w of the copies whose mixture is nearest to an average of another exponent, in float64 on the host.

    Args:
      exponents: g_i [n] of the copies.
      times: t_i [n], > 0; equal pairs of both are not allowed.
      g: of the average that is wanted.
      t: its time.

    Returns:
      w [n], which add up to 1.

    >>> np.abs(profile_weights(np.array([6.0, 16.0]), np.array([10.0, 10.0]), 16.0, 10.0)).round(6).tolist()
    [0.0, 1.0]
    """
    exponents, times = np.asarray(exponents, np.float64), np.asarray(times, np.float64)
    products = _product(exponents[:, None], times[:, None], exponents[None], times[None])
    wanted = _product(exponents, times, np.float64(g), np.float64(t))
    unit = np.sqrt(np.diag(products))  # profiles of unit length: their system is better conditioned
    n = len(times)
    system = np.zeros((n + 1, n + 1))
    system[:n, :n] = products / (unit[:, None] * unit[None])
    system[:n, n] = system[n, :n] = 1.0 / unit * unit.mean()
    right = np.append(wanted / unit, unit.mean())
    return np.linalg.lstsq(system, right, rcond=1e-13)[0][:n] / unit


def reconstructed(opt_state: Any, width: float, time: int | None = None) -> Params:
    """The average of any width, from the copies and the two averages that an optimizer's state holds.

    Args:
      opt_state: with one `power_averages`, its numbers at hand: not while tracing.
      width: as of `exponent`; far below the narrower of the two kept it is not well determined.
      time: updates of training that it is of; default: all so far.

    Returns:
      Parameters, float32.

    Raises:
      BadInput: a state without such averages, or before the first update; a width or time that cannot be, or that the
        copies do not tell: no mixture of them is nearer to the average's profile than half of that profile's norm.

    Example: a width that was kept is given back, and others lie between.
      >>> tx, theta = power_averages(20, 5), jnp.array(0.0)
      >>> state = tx.init(theta)
      >>> for step in range(100):
      ...     _, state = tx.update(jnp.array(1.0), state, jnp.float32(step))
      >>> bool(jnp.abs(reconstructed(state, 0.05) - state.averages[0]) < 1e-3)
      True
      >>> bool(state.averages[1] < reconstructed(state, 0.07) < state.averages[0])
      True
    """
    state = _state_of(opt_state)
    count, times = int(state.count), np.asarray(state.times)
    time = count if time is None else time
    if count == 0 or not 0 < time <= count:
        raise BadInput(f"an average after {time} of {count} updates", "allowed: from 1 to the updates done")
    held = np.flatnonzero((times > 0) & (times < count))  # a copy made just now is the averages themselves
    at = np.append(times[held], count)
    two = np.array([exponent(float(kept)) for kept in np.asarray(state.widths, np.float64)])
    g, t, wanted = np.tile(two, len(at)), np.repeat(at, 2), exponent(width)
    w = profile_weights(g, t, wanted, time)
    if _missed(w, g, t, wanted, time) > 0.5:
        raise BadInput(
            f"an average of width {width:g} after {time:,} updates, from copies after {at.min():,} to {count:,}",
            "allowed: times of copies, and widths near those kept that the copies reach back far enough for",
            "more copies, power_averages(every, copies), would tell it",
        )
    w = w.reshape(len(at), 2)
    wide, last = jnp.asarray(w[:-1], jnp.float32), jnp.asarray(w[-1], jnp.float32)
    mixed = lambda a, ring: jnp.tensordot(last, a, 1) + jnp.tensordot(wide, ring[held], 2)
    return jax.tree.map(mixed, state.averages, state.copies)


def _product(g: Any, t: Any, other_g: Any, other_t: Any) -> np.ndarray:
    """Eq. 3, in whatever order the times stand."""
    later = np.maximum(t, other_t)
    power = np.where(t <= other_t, other_g, g)
    ratio = np.minimum(t, other_t) / later
    return (g + 1) * (other_g + 1) * ratio**power / ((g + other_g + 1) * later)


def _missed(w: np.ndarray, g: np.ndarray, t: np.ndarray, wanted: float, time: int) -> float:
    """||p - sum_i w_i p_i|| / ||p||."""
    products = _product(g[:, None], t[:, None], g[None], t[None])
    square = float(_product(wanted, time, wanted, time))
    rest = square - 2.0 * w @ _product(g, t, wanted, time) + w @ products @ w
    return math.sqrt(max(float(rest), 0.0) / square)


def _lead(values: jax.Array, like: jax.Array) -> jax.Array:
    return values.reshape((-1,) + (1,) * (like.ndim - 1))


def _state_of(opt_state: Any) -> PowerState:
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, PowerState))
    found = [leaf for leaf in leaves if isinstance(leaf, PowerState)]
    if len(found) != 1:
        raise BadInput(f"{len(found)} `power_averages` in an optimizer's state", "allowed: one, the last of its chain")
    return found[0]

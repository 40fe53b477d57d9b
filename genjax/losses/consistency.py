r"""Consistency distillation: a network that goes from any noise to data at once, taught by one that goes in steps.

In y = z / alpha and s = sigma / alpha the probability-flow equation of every process is dy / ds = (y - x') / s, with
x' = E[x | z_t].  Along each of its paths a consistency function has one value, the path's point where the process
begins, at s_0 = s(first):

    (1)  f(z_t, t) = f(z_t', t') on one path,    f(z_first, first) = z_first / alpha_first
    (2)  f(z, t) = c_skip y + c_out F(z, t)
         c_skip = d^2 / ((s - s_0)^2 + d^2),   c_out = d (s - s_0) / sqrt(s^2 + d^2)

F a network and d the deviation of the data: by (2) the second half of (1) holds whatever F says.  The first half is
learned.  Of a grid of times t' < t are neighbours, z_t = alpha x + sigma eps is noised data, and z^_t' is where one
step of the teacher's equation leads from there:

    (3)  L = distance(f(z_t, t), f^-(z^_t', t'))
    (4)  theta^- <- m theta^- + (1 - m) theta

No gradient goes through f^-, whose parameters follow those of f.  At the smallest t the target is exact by (2), and
what is right there is handed on, time by time, to the largest.

A teacher that says x' = x, the example itself, makes z^_t' the same example with the same noise, less of it: that is
consistency training, without a teacher (Song et al., 2023, section 5), by `euler_step`.

Sources: Song, Dhariwal, Chen and Sutskever, Consistency Models, 2023, https://arxiv.org/abs/2303.01469, sections 3 to
5, algorithm 2 and appendix C; Song and Dhariwal, Improved Techniques for Training Consistency Models, 2024,
https://arxiv.org/abs/2310.14189, section 3.3 (pseudo-Huber).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process, corrupt, point
from genjax.corruption.predictions import Denoise
from genjax.distributions import event_sum
from genjax.errors import BadInput
from genjax.types import Array, Key, Params

Consistent = Callable[[jax.Array, jax.Array], jax.Array]
"""(z [B, ...], t [B]) -> f(z, t), of z's shape."""
Walk = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(z_t, t [B], t' [B]) -> z at t': one step of the teacher's equation."""
Metric = Callable[[jax.Array, jax.Array], jax.Array]
"""Two arrays [B, ...] -> their distances [B]."""


def consistency_function(process: Process, deviation: float, network: Consistent) -> Consistent:
    """f of eq. 2: at the first time z / alpha itself, whatever the network says.

    Args:
      process: of the noise; with signal left at its last time.
      deviation: d, of one dimension of the data; > 0.
      network: F, (z [B, ...], t [B]) -> z's shape.  What predicts by `preconditioned(d)` is nearly f already.

    Returns:
      Consistent.

    Raises:
      BadInput: a deviation that is not positive; a process without signal at its last time.

    Source: Song et al., 2023, eq. 5 and appendix C.

    >>> from genjax.corruption.schedules import edm
    >>> f = consistency_function(edm(0.5), 0.5, lambda z, t: 100.0 * z)
    >>> f(jnp.ones((1, 2)), jnp.array([0.5])).tolist()
    [[1.0, 1.0]]
    """
    if not deviation > 0:
        raise BadInput(f"deviation of the data = {deviation}", "allowed: a number above 0")
    if process.alpha(np.array(process.last)) == 0:
        raise BadInput(
            "a consistency function of a process that ends at zero signal",
            "allowed: a process whose `last` stops before",
        )

    def f(z: jax.Array, t: jax.Array) -> jax.Array:
        at, begin = point(process, t, z), point(process, jnp.full_like(t, process.first), z)
        s = at.sigma / at.alpha
        beyond = jnp.where(_like(t, z) <= process.first, 0.0, s - begin.sigma / begin.alpha)
        skip = deviation**2 / (beyond**2 + deviation**2)
        return skip * z / at.alpha + deviation * beyond / jnp.sqrt(s**2 + deviation**2) * network(z, t)

    return f


def euler_step(process: Process, denoise: Denoise, z: Array, t: Array, earlier: Array) -> jax.Array:
    """One Euler step of dy / ds = (y - x') / s, which is DDIM's; each row at its own times.

    Args:
      process: that the teacher knows.
      denoise: the teacher, (z, t [B]) -> E[x | z_t = z].
      z: z_t [B, ...].
      t: [B], noise at all of them.
      earlier: t' [B], t' < t.

    Returns:
      z at t', of z's shape; an error of the step's square.

    Source: Song et al., 2023, section 4.

    >>> from genjax.corruption.schedules import edm
    >>> euler_step(edm(), lambda z, t: 0 * z, jnp.ones((1, 1)), jnp.array([2.0]), jnp.array([1.0])).tolist()
    [[0.5]]
    """
    y, s, there, slope = _slope(process, denoise, z, t, earlier)
    return there.alpha * (y + (there.sigma / there.alpha - s) * slope)


def heun_step(process: Process, denoise: Denoise, z: Array, t: Array, earlier: Array) -> jax.Array:
    """One step along the mean of the slopes at both ends; to the data themselves Euler's.

    Args:
      process, denoise, z, t, earlier: as of `euler_step`; the teacher is asked twice.

    Returns:
      z at t', of z's shape; an error of the step's third power.

    Source: Song et al., 2023, section 6.1; Karras et al., 2022, https://arxiv.org/abs/2206.00364, algorithm 1.

    >>> from genjax.corruption.schedules import edm
    >>> heun_step(edm(), lambda z, t: 0 * z, jnp.ones((1, 1)), jnp.array([2.0]), jnp.array([1.0])).tolist()
    [[0.5]]
    """
    y, s, there, slope = _slope(process, denoise, z, t, earlier)
    next_s = there.sigma / there.alpha
    ahead = y + (next_s - s) * slope
    noisy = next_s > 0
    after = (ahead - denoise(there.alpha * ahead, jnp.asarray(earlier))) / jnp.where(noisy, next_s, 1.0)
    return there.alpha * (y + (next_s - s) * 0.5 * (slope + jnp.where(noisy, after, slope)))


def distillation_loss(
    process: Process,
    walk: Walk,
    student: Consistent,
    target: Consistent,
    metric: Metric,
    x: Array,
    t: Array,
    earlier: Array,
    noise: Array,
) -> jax.Array:
    """distance(f(z_t, t), f^-(z^_t', t')), eq. 3.

    Args:
      process: of the noise.
      walk: one step of the teacher's equation.
      student: f.
      target: f^-; no gradient goes through it.
      metric: the distance.
      x: data [B, ...].
      t: [B].
      earlier: t' [B], the neighbours of t: both from `adjacent_times`.
      noise: eps, of x's shape.

    Returns:
      [B].

    Raises:
      BadInput: shapes that do not fit.

    Source: Song et al., 2023, algorithm 2, of weight 1.

    Example: a function that is 0 everywhere is consistent with itself, but for the boundary condition.
      >>> from genjax.corruption.schedules import edm
      >>> zero, stay = lambda z, t: 0 * z, lambda z, t, earlier: z
      >>> x, t = jnp.ones((1, 2)), jnp.array([2.0])
      >>> distillation_loss(edm(), stay, zero, zero, squared_distance, x, t, t / 2, 0 * x).tolist()
      [0.0]
    """
    z = corrupt(process, x, noise, t)
    t, earlier = jnp.asarray(t), jnp.asarray(earlier)
    wanted = jax.lax.stop_gradient(target(walk(z, t, earlier), earlier))
    return metric(student(z, t), wanted)


def squared_distance(a: Array, b: Array) -> jax.Array:
    """||a - b||^2.

    Args:
      a, b: [B, ...].

    Returns:
      [B].

    Source: Song et al., 2023, section 4.

    >>> squared_distance(jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2))).tolist()
    [5.0]
    """
    return event_sum((jnp.asarray(a) - jnp.asarray(b)) ** 2)


def pseudo_huber(c: float) -> Metric:
    """sqrt(||a - b||^2 + c^2) - c: squares where it is small, the distance itself where it is large.

    Args:
      c: where the two meet, > 0; 0.00054 sqrt(D) for D pixels in [-1, 1] in the paper.

    Returns:
      Metric.

    Raises:
      BadInput: c that is not positive.

    Source: Song and Dhariwal, 2024, eq. 8.

    >>> pseudo_huber(3.0)(jnp.array([[4.0]]), jnp.zeros((1, 1))).tolist()
    [2.0]
    """
    if not c > 0:
        raise BadInput(f"c = {c} of pseudo-Huber", "allowed: a number above 0; 0.00054 sqrt(D) is usual")
    return lambda a, b: jnp.sqrt(squared_distance(a, b) + c**2) - c


def adjacent_times(process: Process, grid: np.ndarray, key: Key, n: int) -> tuple[jax.Array, jax.Array]:
    """Neighbours on a grid, each pair as likely as any other.

    Args:
      process: whose first time the grid must end with: there the target is known.
      grid: times [N] that fall, N at least 2.
      key: of the draw.
      n: how many pairs.

    Returns:
      t and t' [n], t' < t.

    Raises:
      BadInput: a grid that does not fall, or does not end with the process's first time.

    Source: Song et al., 2023, algorithm 2.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> t, earlier = adjacent_times(rectified_flow(0.0), np.array([1.0, 0.5, 0.0]), jax.random.key(0), 100)
    >>> sorted({float(gap) for gap in t - earlier}), float(earlier.min())
    ([0.5], 0.0)
    """
    grid = np.asarray(grid, np.float64)
    if grid.ndim != 1 or len(grid) < 2 or not (np.diff(grid) < 0).all() or not np.isclose(grid[-1], process.first):
        raise BadInput(
            f"a grid of {grid.size} times down to {grid.flat[-1] if grid.size else 'nothing'}",
            f"allowed: two times or more that fall to the first of the process, {process.first}",
            "there the consistency function is known; elsewhere it is learned from there",
        )
    i = jax.random.randint(key, (n,), 0, len(grid) - 1)
    times = jnp.asarray(grid, jnp.float32).at[-1].set(process.first)
    return times[i], times[i + 1]


def follow(target: Params, params: Params, decay: float) -> Params:
    """theta^- one update on, eq. 4; kept in `carry`, and called before the loss, with the newest parameters.

    Args:
      target: theta^-.
      params: theta.
      decay: m in [0, 1); 0: the target is the student itself, a step behind in nothing.

    Returns:
      Of target's structure and dtypes, without gradient.

    Source: Song et al., 2023, algorithm 2.

    >>> float(follow(jnp.array(1.0), jnp.array(2.0), 0.75))
    1.25
    """
    mixed = lambda old, new: decay * old + (1.0 - decay) * jnp.asarray(jax.lax.stop_gradient(new), old.dtype)
    return jax.tree.map(mixed, target, params)


def _slope(process: Process, denoise: Denoise, z: Array, t: Array, earlier: Array) -> tuple:
    z, t = jnp.asarray(z), jnp.asarray(t)
    here, there = point(process, t, z), point(process, earlier, z)
    y, s = z / here.alpha, here.sigma / here.alpha
    return y, s, there, (y - denoise(z, t)) / s


def _like(t: jax.Array, z: jax.Array) -> jax.Array:
    return t.reshape(t.shape + (1,) * (z.ndim - t.ndim))

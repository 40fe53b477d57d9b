r"""The density of a diffusion model by its probability-flow equation: a continuous normalizing flow.

In y = z / alpha and r = log s, s = sigma / alpha, the equation dy / dr = y - x' is the same for every process (Karras
et al., 2022, eq. 1), and so is the change of the density along it (Chen et al., 2018, theorem 1; Song et al., 2021,
eq. 39).  Here it is followed in w = y / c, c^2 = 1 + s^2, which keeps its size where y grows with s:

    (1)  dw / dr = (w - c x') / c^2
    (2)  log p(y_first) = log N(y_last; 0, s_last^2 I) + D log(c_last / c_first)
                          + integral from r_first to r_last of (D / c^2 - div_w x' / c) dr

By Heun's steps on a grid, w and the integral together.  The divergence is exact (one forward derivative a dimension) or
Hutchinson's estimate, p^T (dx' / dy) p with signs p = +-1 that stay the same along the path: unbiased, D times cheaper,
and by a backward derivative, which the convolutions of `models/` have on every machine.

Kind: an ESTIMATE of log p of the model that the deterministic samplers draw from, off by the steps' error (order 2),
and by Hutchinson's noise; it is no bound.  The data are y at the grid's last time, where the model has noise s left.

Grey levels are dequantised: with u uniform in [0, 1)^D and v = 2 (x + (u - 1/2) / (L - 1)) - 1, x on the grid of levels
in [0, 1], a level is a bin of width 2 / (L - 1), and by Jensen's inequality

    (3)  -log P(x) <= E_u -log p(v) + D log((L - 1) / 2)

which for 256 levels adds log2(127.5) bits a dimension.

Sources: Song et al., 2021, https://arxiv.org/abs/2011.13456, section 4.3 and appendix D.2; Chen et al., Neural Ordinary
Differential Equations, 2018, https://arxiv.org/abs/1806.07366; Grathwohl et al., FFJORD, 2019,
https://arxiv.org/abs/1810.01367, section 3.1; Theis, van den Oord and Bethge, 2016, https://arxiv.org/abs/1511.01844,
section 3.1.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process
from genjax.corruption.predictions import Denoise, checked
from genjax.distributions import event_sum, normal_log_prob, upcast
from genjax.errors import BadInput
from genjax.samplers.grids import path
from genjax.types import Array, Key

Divergence = Callable[[Callable[[jax.Array], jax.Array], jax.Array], tuple[jax.Array, jax.Array]]
"""(f, y [B, ...]) -> (f(y), div f [B]), f acting on every row by itself."""


def log_density(process: Process, denoise: Denoise, grid: np.ndarray, divergence: Divergence, x: Array) -> jax.Array:
    """log p(x), eq. 2.

    Args:
      process: that `denoise` knows.
      denoise: (z, t [B]) -> E[x | z_t = z], each row by itself.
      grid: times [N], falling, N at least 2, with signal at the first and noise at the last of them.
      divergence: `exact_divergence` or `hutchinson(key, ...)`.
      x: data [B, ...].

    Returns:
      [B] nats; 2 (N - 1) calls of the network and of its derivative.

    Raises:
      BadInput: a grid of one time, or one that reaches zero signal or zero noise; a denoiser's output of another shape
        than x.

    Example: of the data 0 with probability 1 the noise that is left is the density.
      >>> from genjax.corruption.schedules import edm
      >>> from genjax.samplers.grids import karras
      >>> nothing, process = lambda z, t: 0 * z, edm(0.1)
      >>> found = log_density(process, nothing, karras(process, 200), exact_divergence, jnp.zeros((1, 1)))
      >>> round(float(found[0]), 2)  # -log(0.1 sqrt(2 pi))
      1.38
    """
    at = path(process, grid)
    if len(grid) < 2 or (at["alpha"] == 0).any() or (at["sigma"] == 0).any():
        raise BadInput(
            "a density along a grid of one time, or one that reaches zero signal or zero noise",
            "allowed: two times or more, such as uniform_log_snr of rectified_flow(0.001, 0.999)",
        )
    x, denoise, s = upcast(x), checked(denoise), at["sigma"] / at["alpha"]
    rows = {"t": at["t"], "c": np.sqrt(1.0 + s**2), "scale": at["alpha"] * np.sqrt(1.0 + s**2)}
    upwards = {name: jnp.asarray(values[::-1], x.dtype) for name, values in rows.items()}
    below, above = ({name: v[part] for name, v in upwards.items()} for part in (slice(None, -1), slice(1, None)))
    length = jnp.asarray(np.diff(np.log(s[::-1])), x.dtype)
    dims = math.prod(x.shape[1:])

    def rate(w: jax.Array, at: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        times = jnp.full(len(w), at["t"], w.dtype)
        data, spread = divergence(lambda w: denoise(at["scale"] * w, times), w)
        return (w / at["c"] - data) / at["c"], (dims / at["c"] - spread) / at["c"]

    def step(carried: tuple[jax.Array, jax.Array], row: tuple) -> tuple[tuple[jax.Array, jax.Array], None]:
        (w, gained), (below, above, h) = carried, row
        slope, growth = rate(w, below)
        next_slope, next_growth = rate(w + h * slope, above)
        return (w + 0.5 * h * (slope + next_slope), gained + 0.5 * h * (growth + next_growth)), None

    begin = (x / float(rows["c"][-1]), jnp.zeros(len(x), x.dtype))
    (w, gained), _ = jax.lax.scan(step, begin, (below, above, length))
    stretch = math.log(rows["c"][0] / rows["c"][-1])
    prior = normal_log_prob(float(rows["c"][0]) * w, jnp.zeros_like(w), jnp.full_like(w, 2.0 * math.log(s[0])))
    return event_sum(prior) + dims * stretch + gained


def exact_divergence(f: Callable[[jax.Array], jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """f(y) and the trace of its derivative, by one forward derivative a dimension.

    Args:
      f: of [B, ...], each row by itself.
      y: [B, ...], of D dimensions an example.

    Returns:
      f(y), and its divergence [B].

    >>> exact_divergence(lambda y: y**2, jnp.array([[1.0, 2.0]]))[1].tolist()
    [6.0]
    """
    dims = math.prod(y.shape[1:])

    def along(i: jax.Array) -> jax.Array:
        tangent = jnp.zeros((len(y), dims), y.dtype).at[:, i].set(1.0)
        moved = jax.jvp(f, (y,), (tangent.reshape(y.shape),))[1]
        return moved.reshape(len(y), dims)[:, i]

    return f(y), jax.lax.fori_loop(0, dims, lambda i, total: total + along(i), jnp.zeros(len(y), y.dtype))


def hutchinson(key: Key, probes: int = 1) -> Divergence:
    """An unbiased estimate of the divergence: the mean of p^T (df / dy) p.

    Args:
      key: of the signs, the same at every call: along a path they do not change.
      probes: at least 1; as many backward derivatives.

    Returns:
      Divergence.

    Raises:
      BadInput: no probes.

    Source: Grathwohl et al., 2019, eq. 7.

    >>> round(float(hutchinson(jax.random.key(0))(lambda y: 3.0 * y, jnp.ones((1, 5)))[1][0]), 3)  # exact if diagonal
    15.0
    """
    if probes < 1:
        raise BadInput(f"probes = {probes} of a divergence", "allowed: whole numbers from 1")

    def divergence(f: Callable[[jax.Array], jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = jnp.zeros(len(y), y.dtype)
        for i in range(probes):
            signs = jax.random.rademacher(jax.random.fold_in(key, i), y.shape, y.dtype)
            value, back = jax.vjp(f, y)
            total += event_sum(signs * back(signs)[0]) / probes
        return value, total

    return divergence


def dequantized(x: Array, levels: int, key: Key) -> tuple[jax.Array, float]:
    """Grey levels as real numbers in about [-1, 1], and what eq. 3 adds for it.

    Args:
      x: [B, ...] on the grid level / (L - 1) in [0, 1].
      levels: L, at least 2.
      key: of u.

    Returns:
      v of x's shape, and D log((L - 1) / 2) nats, to be added to -log p(v).

    Raises:
      BadInput: fewer than two levels.

    >>> v, added = dequantized(jnp.zeros((1, 3)), 256, jax.random.key(0))
    >>> bool(jnp.abs(v + 1).max() <= 1 / 255), round(added / 3 / math.log(2), 4)  # log2(127.5)
    (True, 6.9944)
    """
    if levels < 2:
        raise BadInput(f"levels = {levels}", "allowed: the number of grey levels of the data, at least 2")
    x = upcast(x)
    u = jax.random.uniform(key, x.shape, x.dtype)
    return 2.0 * (x + (u - 0.5) / (levels - 1)) - 1.0, math.prod(x.shape[1:]) * math.log((levels - 1) / 2)

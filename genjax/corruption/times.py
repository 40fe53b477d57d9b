r"""How times are drawn for training: one a row of a batch.

    low discrepancy    u_i = (u_0 + i / n) mod 1: each uniform, together spread evenly    (Kingma 2021, appendix I.1)
    uniform            t = first + (last - first) u
    log-normal         log t ~ N(P_mean, P_std^2), t = sigma of EDM                       (Karras 2022, table 1)
    logit-normal       logit of t's place in its range ~ N(m, s^2), of a flow             (Esser 2024, section 3.1)

Sources: Kingma et al., Variational Diffusion Models, 2021, https://arxiv.org/abs/2107.00630; Karras et al., 2022,
https://arxiv.org/abs/2206.00364; Esser et al., Scaling Rectified Flow Transformers, 2024,
https://arxiv.org/abs/2403.03206.
"""

import jax
import jax.numpy as jnp

from genjax.corruption.gaussian import Process
from genjax.types import Key


def low_discrepancy(key: Key, n: int) -> jax.Array:
    """n numbers in [0, 1), one in each n-th of it, in a random order: t, each uniform, with little variance together.

    Args:
      key: of one shift and of the order.
      n: how many.

    Returns:
      [n] float32.

    Source: Kingma et al., 2021, appendix I.1, which has no order.

    >>> (jnp.sort(low_discrepancy(jax.random.key(0), 4)) * 4).astype(int).tolist()
    [0, 1, 2, 3]
    """
    shift_key, order_key = jax.random.split(key)
    u = (jax.random.uniform(shift_key) + jnp.arange(n) / n) % 1.0
    return jax.random.permutation(order_key, u)


def uniform_times(process: Process, key: Key, n: int) -> jax.Array:
    """t uniform over the range of a process, by `low_discrepancy`.

    Args:
      process: whose range.
      key: of the draw.
      n: how many.

    Returns:
      [n].

    >>> from genjax.corruption.schedules import variance_exploding
    >>> t = uniform_times(variance_exploding(), jax.random.key(0), 100)
    >>> bool(t.min() >= 0 and t.max() <= 1)
    True
    """
    return process.first + (process.last - process.first) * low_discrepancy(key, n)


def lognormal_times(process: Process, key: Key, n: int, mean: float = -1.2, deviation: float = 1.2) -> jax.Array:
    """log t normal, kept inside the range of a process: EDM's levels of noise, t = sigma.

    Args:
      process: whose range; `edm`.
      key: of the draw.
      n: how many.
      mean: P_mean.
      deviation: P_std.

    Returns:
      [n].

    Source: Karras et al., 2022, table 1.

    >>> from genjax.corruption import schedules
    >>> t = lognormal_times(schedules.edm(), jax.random.key(0), 1000)
    >>> bool(abs(jnp.median(t) - 0.3) < 0.02)  # exp(-1.2)
    True
    """
    normal = jax.scipy.stats.norm.ppf(jnp.clip(low_discrepancy(key, n), 1e-6, 1 - 1e-6))
    return jnp.clip(jnp.exp(mean + deviation * normal), process.first, process.last)


def logit_normal_times(process: Process, key: Key, n: int, mean: float = 0.0, deviation: float = 1.0) -> jax.Array:
    """logit of t's place in its range normal: more of the middle, where a flow is hard.

    Args:
      process: whose range; `rectified_flow`.
      key: of the draw.
      n: how many.
      mean: > 0: towards noise.
      deviation: 1 in the paper.

    Returns:
      [n].

    Source: Esser et al., Scaling Rectified Flow Transformers, 2024, https://arxiv.org/abs/2403.03206, section 3.1.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> t = logit_normal_times(rectified_flow(), jax.random.key(0), 1000)
    >>> bool(abs(jnp.quantile(t, 0.8413) - 0.7311) < 0.01)  # the logistic function of one deviation
    True
    """
    normal = jax.scipy.stats.norm.ppf(jnp.clip(low_discrepancy(key, n), 1e-6, 1 - 1e-6))
    return process.first + (process.last - process.first) * jax.nn.sigmoid(mean + deviation * normal)

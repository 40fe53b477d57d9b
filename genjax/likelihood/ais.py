r"""log Z of a model p(v) = exp(-F(v)) / Z: exactly by enumeration, or by annealed importance sampling and its reverse.

Between a base p_0 whose log Z_0 is known and the model p_1 stand laws p_beta(v) = exp(-F_beta(v)) / Z_beta.  A chain
starts at v_1 ~ p_0 and meets the temperatures 0 = beta_0 < beta_1 < ... < beta_K = 1: at each, the weight takes a
factor, then the chain takes a step that leaves p_{beta_k} invariant,

    log w = sum_k [F_{beta_{k-1}}(v_k) - F_{beta_k}(v_k)],      E w = Z_1 / Z_0          (Neal 2001)

so that log Z_0 + log mean w is, by Jensen, IN EXPECTATION A LOWER BOUND of log Z_1.  The same path walked back from
samples of the model has E 1/w = Z_0 / Z_1, and log Z_0 - log mean (1/w) is in expectation an upper bound (Burda, Grosse
and Salakhutdinov 2015; Grosse et al. 2015) — where the walk starts from exact samples.  Samples of a chain that has
not mixed make it an estimate only.  Neither is ever reported without the other.

Sources: Neal, Annealed Importance Sampling, 2001, https://doi.org/10.1023/A:1008923215028; Salakhutdinov and Murray, On
the Quantitative Analysis of Deep Belief Networks, 2008, https://doi.org/10.1145/1390156.1390266; Burda, Grosse and
Salakhutdinov, Accurate and Conservative Estimates of MRF Log-likelihood using Reverse Annealing, 2015,
https://arxiv.org/abs/1412.8566; Grosse, Ghahramani and Adams, Sandwiching the marginal likelihood using bidirectional
Monte Carlo, 2015, https://arxiv.org/abs/1511.02543.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.distributions import log_mean_exp, upcast
from genjax.errors import BadInput
from genjax.samplers.gibbs import FreeEnergy, Transition
from genjax.types import Array, Key

MOST_UNITS = 25  # of an enumeration
CHUNK_UNITS = 12  # 2^12 states are looked at together


class LogPartition(NamedTuple):
    """An estimate of log Z, and how far it can be trusted."""

    value: jax.Array  # nats
    log_weights: jax.Array  # [B] nats, of each chain
    effective: jax.Array  # (sum w)^2 / sum w^2, in [1, B]
    standard_error: jax.Array  # of `value`, nats: that of the mean weight over the mean weight


def enumerated_log_partition(free_energy: Callable[[jax.Array], jax.Array], units: int) -> jax.Array:
    """log Z = log sum over all 2^n states of exp(-F).  Kind: EXACT.

    Args:
      free_energy: states [B, n] of zeros and ones -> F [B] nats, of the side of a machine that is enumerated.
      units: n, from 1 to 25.

    Returns:
      Scalar nats.

    Raises:
      BadInput: more units, with the estimate to use.

    Source: by definition.

    >>> round(float(enumerated_log_partition(lambda h: jnp.zeros(len(h)), 14)), 4)  # 14 log 2
    9.7041
    """
    if not 1 <= units <= MOST_UNITS:
        raise BadInput(
            f"log Z by enumeration of {units} units",
            f"allowed: 1 to {MOST_UNITS}, which are {2**MOST_UNITS:,} states",
            "enumerate the smaller side, or estimate: annealed_importance_sampling and its reverse",
        )
    inner = min(units, CHUNK_UNITS)
    low = _bits(jnp.arange(2**inner), inner)

    def part(number: jax.Array) -> jax.Array:
        high = jnp.broadcast_to(_bits(number[None], units - inner), (len(low), units - inner))
        return jax.nn.logsumexp(-upcast(free_energy(jnp.concatenate([low, high], axis=1))))

    # all parts at once at the end: a running float32 sum of thousands of them would lose the small ones
    return jax.nn.logsumexp(jax.lax.map(part, jnp.arange(2 ** (units - inner))))


def temperatures(*parts: tuple[int, float]) -> np.ndarray:
    """beta_0 = 0 < ... < beta_K = 1, evenly within each part.

    Args:
      parts: (how many, up to which beta), the betas rising to 1.  The paper's 14,500 are (500, 0.5), (4000, 0.9) and
        (10000, 1.0).

    Returns:
      [1 + sum of the counts] float32.

    Raises:
      BadInput: a part without temperatures, betas that do not rise to 1.

    Source: Salakhutdinov and Murray, 2008, section 6.

    >>> temperatures((2, 0.5), (1, 1.0)).tolist()
    [0.0, 0.25, 0.5, 1.0]
    """
    ends = [0.0, *(float(end) for _, end in parts)]
    whole = all(isinstance(count, int) and count >= 1 for count, _ in parts)
    if not whole or not (np.diff(ends) > 0).all() or ends[-1] != 1.0:
        raise BadInput(f"temperatures {parts}", "allowed: parts (count from 1, beta), the betas rising to 1")
    pieces = [np.linspace(a, b, count + 1)[1:] for (count, _), a, b in zip(parts, ends[:-1], ends[1:], strict=True)]
    return np.concatenate([[0.0], *pieces]).astype(np.float32)


def published_temperatures(count: int) -> np.ndarray:
    """So many temperatures in the proportions of the paper: 1 of 29 up to 0.5, 8 up to 0.9, 20 up to 1.

    Args:
      count: K, at least 3; the paper's is 14,500.

    Returns:
      [K + 1] float32.

    Raises:
      BadInput: fewer than 3.

    Source: Salakhutdinov and Murray, 2008, section 6.

    >>> len(published_temperatures(14_500)), float(published_temperatures(14_500)[500])
    (14501, 0.5)
    """
    if count < 3:
        raise BadInput(f"temperatures: {count}", "allowed: whole numbers from 3")
    first, second = max(count // 29, 1), max(8 * count // 29, 1)
    return temperatures((first, 0.5), (second, 0.9), (count - first - second, 1.0))


def annealed_importance_sampling(
    free_energy: FreeEnergy, transition: Transition, start: Array, base: Array, betas: Array, key: Key
) -> LogPartition:
    """log Z from chains that walk from the base to the model.  Kind: in expectation a LOWER BOUND of log Z.

    Args:
      free_energy: (v [B, D], beta) -> [B] nats.
      transition: (v, beta, key) -> v.
      start: v [B, D] drawn from the base, independently.
      base: log Z_0, nats.
      betas: [K + 1] from 0 to 1, see `temperatures`.
      key: of the walk.

    Returns:
      LogPartition of B chains.

    Raises:
      BadInput: no chains, betas that do not go from 0 to 1.

    Source: Neal, 2001; Salakhutdinov and Murray, 2008, section 4.1.

    >>> steps = temperatures((10, 1.0))  # F_beta(v) = -beta v of one binary unit: Z goes from 2 to 1 + e
    >>> flip = lambda v, beta, key: jax.random.bernoulli(key, jax.nn.sigmoid(beta), v.shape).astype(v.dtype)
    >>> start = jnp.tile(jnp.array([[0.0], [1.0]]), (500, 1))
    >>> energy = lambda v, beta: -beta * v[:, 0]
    >>> found = annealed_importance_sampling(energy, flip, start, jnp.log(2.0), steps, jax.random.key(0))
    >>> round(float(found.value), 1), round(float(jnp.log1p(jnp.e)), 1)
    (1.3, 1.3)
    """
    betas = _checked(start, betas)

    def step(i: jax.Array, carried: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        v, log_w, lost = carried
        log_w, lost = _added(log_w, lost, free_energy(v, betas[i - 1]) - free_energy(v, betas[i]))
        return transition(v, betas[i], jax.random.fold_in(key, i)), log_w, lost

    log_w = jax.lax.fori_loop(1, len(betas), step, _first(start))[1]
    return _pooled(log_w, base, 1.0)


def reverse_annealing(
    free_energy: FreeEnergy, transition: Transition, start: Array, base: Array, betas: Array, key: Key
) -> LogPartition:
    """log Z from chains that walk from the model back to the base.

    Kind: in expectation an UPPER BOUND of log Z where `start` are exact samples of the model, else an estimate.

    Args:
      free_energy, base, betas, key: as in `annealed_importance_sampling`.
      transition: (v, beta, key) -> v, p_beta invariant.  The walk back takes the steps of the walk there in reverse,
        which for v -> h -> v is the step itself.
      start: v [B, D] drawn from the model.

    Returns:
      LogPartition of B chains; `log_weights` are log 1/w.

    Raises:
      BadInput: as `annealed_importance_sampling`.

    Source: Burda, Grosse and Salakhutdinov, 2015; Grosse et al., 2015.

    >>> energy = lambda v, beta: -beta * v[:, 0]
    >>> flip = lambda v, beta, key: jax.random.bernoulli(key, jax.nn.sigmoid(beta), v.shape).astype(v.dtype)
    >>> start = jax.random.bernoulli(jax.random.key(1), jax.nn.sigmoid(1.0), (1000, 1)).astype(jnp.float32)
    >>> found = reverse_annealing(energy, flip, start, jnp.log(2.0), temperatures((10, 1.0)), jax.random.key(0))
    >>> round(float(found.value), 1)
    1.3
    """
    betas = _checked(start, betas)
    count = len(betas)

    def step(i: jax.Array, carried: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        v, log_w, lost = carried
        k = count - i
        v = transition(v, betas[k], jax.random.fold_in(key, i))
        return v, *_added(log_w, lost, free_energy(v, betas[k]) - free_energy(v, betas[k - 1]))

    log_w = jax.lax.fori_loop(1, count, step, _first(start))[1]
    return _pooled(log_w, base, -1.0)


def _first(start: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    v, zero = jnp.asarray(start), jnp.zeros(len(start), jnp.float32)
    return v, zero, zero


def _added(total: jax.Array, lost: jax.Array, term: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Kahan's sum: 14,500 small terms in float32 would be off by hundredths of a nat
    term = term - lost
    new = total + term
    return new, (new - total) - term


def _pooled(log_w: jax.Array, base: Array, sign: float) -> LogPartition:
    mean = log_mean_exp(log_w, axis=0)
    w = jnp.exp(log_w - jnp.max(log_w))
    effective = jnp.sum(w) ** 2 / jnp.sum(w**2)
    error = jnp.std(w, ddof=1) / jnp.mean(w) / jnp.sqrt(len(w)) if len(w) > 1 else jnp.array(jnp.nan)
    return LogPartition(upcast(base) + sign * mean, log_w, effective, error)


def _bits(numbers: jax.Array, count: int) -> jax.Array:
    return ((numbers[:, None] >> jnp.arange(count)[None]) & 1).astype(jnp.float32)


def _checked(start: Array, betas: Array) -> jax.Array:
    if jnp.ndim(start) != 2 or not len(start):
        raise BadInput(f"chains of shape {list(jnp.shape(start))}", "allowed: [B, D], at least one chain")
    known = np.asarray(betas)
    if known.ndim != 1 or len(known) < 2 or known[0] != 0 or known[-1] != 1 or not (np.diff(known) > 0).all():
        raise BadInput("betas that do not rise from 0 to 1", "temperatures((500, 0.5), (4000, 0.9), (10000, 1.0))")
    return jnp.asarray(known, jnp.float32)

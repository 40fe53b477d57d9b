r"""What the latents of a VAE carry: rate of each latent, active units, information about x, and a word for collapse.

Over N examples with the posteriors q(z | x_i) = N(mean_i, exp(log_var_i)), under the prior N(0, 1),

    rate                 1/N sum_i KL(q(z | x_i) || p(z)) = I(x; z) + KL(q(z) || p(z)),    q(z) = 1/N sum_i q(z | x_i)
    active units         latents j with Var_x E_q[z_j | x] > 0.01
    lower                1/N sum_i [log q(z_i | x_i) - log 1/N sum_j q(z_i | x_j)],        z_i ~ q(z | x_i)
    upper                the same with 1/(N - 1) sum over j other than i

The examples stand for the whole distribution of x, and the sign of what that costs is known: `lower` is in expectation
below I(x; z), and never above log N, however much z tells; `upper` is in expectation above it, and far above where the
posteriors of few examples overlap.  So is the rate, which needs no samples: I(x; z) <= rate.

A decoder that models x well without z leaves q(z | x) = p(z): the rate is zero and no unit is active.  That is called
posterior collapse, and a good bound does not show it.  Nor does a rate above zero show the opposite: a posterior that
differs from the prior in the same way for every x has one, and tells nothing of x.

Of several layers, q(z_l | x, above), or of a chain, the means are compared with what stands above held: else a layer
that only hands on what it gets from above would seem to be active.

Sources: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016, section 5.2 (active units),
https://arxiv.org/abs/1509.00519; Hoffman and Johnson, ELBO surgery, 2016,
http://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf; Poole et al., On Variational Bounds of Mutual
Information, 2019, https://arxiv.org/abs/1905.06922; Bowman et al. 2016, https://arxiv.org/abs/1511.06349 (collapse).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput
from genjax.types import Array

ACTIVE = 0.01  # the variance of the posterior mean above which a latent is active
LISTED = 10  # variances of a layer in its diagnosis
ROWS = 256  # of the matrix of log q(z_i | x_j) that is held at a time


class Bracket(NamedTuple):
    """Two estimates with signs that are known: in expectation lower <= what is meant <= upper."""

    lower: float
    upper: float


class Layer(NamedTuple):
    """What was found of one layer of latents, whatever its prior."""

    spread: Array  # [D] variance over x of the posterior mean
    rate: Array  # [N] nats of each example: log q - log p of one draw, or the mean of that
    posterior: tuple[Array, ...] = ()  # mean, log_var, noise as for `mutual_information`: where q(z | x) is normal


def kl_of_each(mean: Array, log_var: Array) -> np.ndarray:
    """1/N sum_i KL(q(z_j | x_i) || N(0, 1)) of each latent j.  Kind: exact, of these examples.

    Args:
      mean, log_var: [N, D] of the posteriors.

    Returns:
      [D] nats, >= 0; their sum is the rate.

    Raises:
      BadInput: shapes that do not fit, no examples.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2014, appendix B.

    >>> kl_of_each([[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]).tolist()
    [1.0, 0.0]
    """
    mean, log_var = _posteriors(mean, log_var)
    return np.mean(0.5 * (np.expm1(log_var) - log_var + np.square(mean)), axis=0)


def active_units(mean: Array, threshold: float = ACTIVE) -> np.ndarray:
    """Which latents move with x: Var_x E_q[z_j | x] > threshold.

    Args:
      mean: [N, D] posterior means.
      threshold: of the variance over the examples, 0.01 in the paper.

    Returns:
      [D] booleans.

    Raises:
      BadInput: anything but [N, D] with at least two examples.

    Source: Burda, Grosse and Salakhutdinov, 2016, section 5.2.

    >>> active_units([[1.0, 0.0, 0.05], [-1.0, 0.0, -0.05]]).tolist()
    [True, False, False]
    """
    return _variance_of_mean(mean) > threshold


def mutual_information(mean: Array, log_var: Array, noise: Array) -> Bracket:
    """I(x; z) in nats between two estimates: see the head of this file.

    Args:
      mean, log_var: [N, D] of the posteriors.
      noise: [N, D], standard normal: of the one sample z_i of each example.

    Returns:
      Bracket.  Kinds: in expectation a lower bound, at most log N, and an upper bound, of I(x; z) under q(z | x) and
      the distribution that the examples were drawn from.

    Raises:
      BadInput: shapes that do not fit, fewer than two examples.

    Source: Poole et al., 2019, section 2; Hoffman and Johnson, 2016.

    >>> prior = np.zeros((4, 1))
    >>> mutual_information(prior, prior, np.array([[1.0], [-1.0], [0.5], [0.0]]))  # z knows nothing of x
    Bracket(lower=0.0, upper=0.0)
    >>> apart = mutual_information(100 * np.arange(4.0)[:, None], prior, prior)  # z tells which x it was
    >>> round(apart.lower, 3), round(math.log(4), 3), apart.upper > 1000
    (1.386, 1.386, True)
    """
    mean, log_var = _posteriors(mean, log_var, least=2)
    noise = np.asarray(noise, np.float64)
    if noise.shape != mean.shape:
        raise BadInput(f"mean {list(mean.shape)}, noise {list(noise.shape)}", "allowed: [N, D], one sample an example")
    z, count = mean + np.exp(0.5 * log_var) * noise, len(mean)
    sums = np.zeros(2)
    for first in range(0, count, ROWS):
        rows = np.arange(first, min(first + ROWS, count))
        log_q = _log_density(z[rows], mean, log_var)
        place = np.arange(len(rows)), rows
        own = log_q[place].copy()
        whole = _log_sum_exp(log_q) - math.log(count)
        log_q[place] = -np.inf
        others = _log_sum_exp(log_q) - math.log(count - 1)
        sums += [np.sum(own - whole), np.sum(own - others)]
    lower, upper = sums / count
    return Bracket(float(lower), float(upper))


def collapse(active: Array) -> str:
    """Posterior collapse in words.

    Args:
      active: [D] booleans: whether each latent carries something.

    Returns:
      One line: a warning that names the latents that carry nothing, or that there are none.

    Raises:
      BadInput: anything but [D].

    Source: Bowman et al., 2016, section 3.1.

    >>> collapse([True, False, True])
    'warning: partial posterior collapse: 1 of 3 latents carries nothing of x: 2'
    >>> collapse([True, True])
    'no posterior collapse: every latent carries something of x'
    """
    active = np.asarray(active, bool)
    if active.ndim != 1 or not active.size:
        raise BadInput(f"active has shape {list(active.shape)}", "allowed: [D], one boolean a latent")
    idle, total = [int(j) + 1 for j in np.flatnonzero(~active)], len(active)
    if not idle:
        return "no posterior collapse: every latent carries something of x"
    if len(idle) == total:
        return (
            f"warning: posterior collapse: none of {total} latents carries anything of x, and the decoder does without "
            "z; a warm-up of the rate, free bits, or a decoder that sees less of x may prevent it"
        )
    named = ", ".join(map(str, idle[:20])) + (", ..." if len(idle) > 20 else "")
    verb = "carries" if len(idle) == 1 else "carry"
    return f"warning: partial posterior collapse: {len(idle)} of {total} latents {verb} nothing of x: {named}"


def diagnosis(mean: Array, log_var: Array, noise: Array) -> str:
    """The numbers of this file as a table of text, the word about collapse first: for a run's `diagnostics.txt`.

    Args:
      mean, log_var: [N, D] of the posteriors of held-out examples.
      noise: [N, D], standard normal.

    Returns:
      Lines of text; latents are numbered from 1.

    Raises:
      BadInput: shapes that do not fit, fewer than two examples.

    Source: Burda et al., 2016; Hoffman and Johnson, 2016.

    >>> print(diagnosis([[1.0, 0.0], [-1.0, 0.0]], np.zeros((2, 2)), [[-0.5, 0.0], [0.5, 0.0]]), end="")
    warning: partial posterior collapse: 1 of 2 latents carries nothing of x: 2
    active_units 1 of 2: variance over x of the posterior mean above 0.01
    rate 0.500 nats, exact over 2 examples
    information about x: at least 0.380 nats (estimate of a lower bound, never above log N = 0.693),
    at most 0.500 (the rate) and 1.000 (estimate of an upper bound)
    <BLANKLINE>
    latent  KL, nats  variance of mean
         1     0.500            1.0000
         2     0.000            0.0000
    """
    mean, log_var = _posteriors(mean, log_var, least=2)
    each, spread, active = kl_of_each(mean, log_var), _variance_of_mean(mean), active_units(mean)
    lines = [
        collapse(active),
        _activity(active),
        f"rate {each.sum():.3f} nats, exact over {len(mean):,} examples",
        *_information(mean, log_var, noise, bound=f"{each.sum():.3f} (the rate) and "),
        "",
        f"{'latent':>6}  {'KL, nats':>8}  {'variance of mean':>16}",
    ]
    lines += [f"{j:6}  {kl:8.3f}  {var:16.4f}" for j, (kl, var) in enumerate(zip(each, spread, strict=True), 1)]
    return "\n".join(lines) + "\n"


def diagnoses(layers: Mapping[str, Layer]) -> str:
    """The word about collapse and the numbers of every layer of latents, for any prior: `diagnostics.txt` again.

    Args:
      layers: by name, such as z1.

    Returns:
      Lines of text, first a word for each layer, then its numbers; latents are numbered from 1.

    Raises:
      BadInput: numbers that are not finite; anything but spread [D] and rate [N], at least one of each.

    Source: Burda et al., 2016, section 5.2, which counts active units of both layers.

    >>> print(diagnoses({"z2": Layer(np.array([0.0, 1.5]), np.array([0.25, 0.75]))}), end="")
    z2: warning: partial posterior collapse: 1 of 2 latents carries nothing of x: 1
    <BLANKLINE>
    z2: active_units 1 of 2: variance over x of the posterior mean above 0.01
    largest variances: 1.5000 (2), 0.0000 (1)
    rate 0.500 nats, a mean over 2 examples of log q - log p
    """
    found = {name: (_checked(spread), _checked(rate), of) for name, (spread, rate, of) in layers.items()}
    lines = [f"{name}: {collapse(spread > ACTIVE)}" for name, (spread, _, _) in found.items()]
    for name, (spread, rate, posterior) in found.items():
        largest = ", ".join(f"{spread[j]:.4f} ({j + 1})" for j in np.argsort(-spread, kind="stable")[:LISTED])
        lines += ["", f"{name}: {_activity(spread > ACTIVE)}", f"largest variances: {largest}"]
        lines += [f"rate {rate.mean():.3f} nats, a mean over {len(rate):,} examples of log q - log p"]
        lines += _information(*posterior) if posterior else []  # bottom-up, one layer's rate alone bounds nothing
    return "\n".join(lines) + "\n"


def _activity(active: np.ndarray) -> str:
    return f"active_units {int(active.sum())} of {len(active)}: variance over x of the posterior mean above {ACTIVE}"


def _information(mean: Array, log_var: Array, noise: Array, *, bound: str = "") -> list[str]:
    told, most = mutual_information(mean, log_var, noise), math.log(len(mean))
    return [
        f"information about x: at least {told.lower:.3f} nats (estimate of a lower bound, never above log N = "
        f"{most:.3f}),",
        f"at most {bound}{told.upper:.3f} (estimate of an upper bound)",
    ]


def _checked(values: Array) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        told = f"of a layer: {list(values.shape)}" + (", not finite" if not np.isfinite(values).all() else "")
        raise BadInput(told, "allowed: spread [D] and rate [N], finite numbers")
    return values


def _variance_of_mean(mean: Array) -> np.ndarray:
    mean = np.asarray(mean, np.float64)
    if mean.ndim != 2 or len(mean) < 2 or not mean.size:
        raise BadInput(f"mean has shape {list(mean.shape)}", "allowed: [N, D], posterior means of at least 2 examples")
    if not np.isfinite(mean).all():
        raise BadInput("posterior means that are not finite", "they say nothing about what the latents carry")
    return np.var(mean, axis=0)


def _log_density(z: np.ndarray, mean: np.ndarray, log_var: np.ndarray) -> np.ndarray:
    """log q(z_i | x_j), [n, N]: the square is multiplied out, so that there is no array of n N D."""
    precision = np.exp(-log_var)
    square = np.square(z) @ precision.T - 2.0 * z @ (mean * precision).T + np.sum(np.square(mean) * precision, axis=1)
    return -0.5 * (square + np.sum(log_var, axis=1) + z.shape[1] * math.log(2.0 * math.pi))


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    most = values.max(axis=1)
    return most + np.log(np.exp(values - most[:, None]).sum(axis=1))


def _posteriors(mean: Array, log_var: Array, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    mean, log_var = np.asarray(mean, np.float64), np.asarray(log_var, np.float64)
    if mean.shape != log_var.shape or mean.ndim != 2 or len(mean) < least or not mean.size:
        raise BadInput(
            f"mean {list(mean.shape)}, log_var {list(log_var.shape)}",
            f"allowed: [N, D] both, of at least {least} example{'s' * (least > 1)}",
        )
    if not (np.isfinite(mean).all() and np.isfinite(log_var).all()):
        raise BadInput("posteriors that are not finite", "they say nothing about what the latents carry")
    return mean, log_var

"""Gumbel, Concrete and relaxed Bernoulli variables: integrals, laws of samples, bounds; planted bugs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from binary_images import ROWS
from planted import rejects

from genjax import distributions as d
from genjax.errors import BadInput
from genjax.losses.discrete_latents import concrete_log_weights
from genjax.losses.variational import negative_iwae

KEY = jax.random.key(0)
SAMPLES = 20_000


# -- Gumbel ------------------------------------------------------------------------------------------------------------


def check_gumbel(log_prob, sample):
    """The density is SciPy's; 20,000 samples by Kolmogorov and Smirnov, p > 1e-4."""
    x = np.linspace(-2, 6, 33)
    exact = scipy.stats.gumbel_r.logpdf(x, loc=0.7)
    np.testing.assert_allclose(log_prob(np.float32(x), 0.7), exact, rtol=1e-5, atol=1e-5)
    drawn = np.float64(sample(jnp.full(SAMPLES, 0.7), KEY))
    assert scipy.stats.kstest(drawn, scipy.stats.gumbel_r(loc=0.7).cdf).pvalue > 1e-4


def test_gumbel():
    check_gumbel(d.gumbel_log_prob, d.sample_gumbel)
    rejects(check_gumbel, lambda x, l: d.gumbel_log_prob(-x, -l), d.sample_gumbel)
    rejects(check_gumbel, d.gumbel_log_prob, lambda l, key: 2 * l - d.sample_gumbel(l, key))
    rejects(check_gumbel, d.gumbel_log_prob, lambda l, key: l + jax.random.logistic(key, l.shape))


# -- Concrete ----------------------------------------------------------------------------------------------------------

CASES = [(0.4, (0.3, -1.0)), (1.0, (0.0, 0.7)), (2.5, (1.0, -0.5)), (0.7, (0.5, -0.3, 1.0)), (1.7, (0.0, 0.4, -0.6))]


def simplex(categories, half_width=30.0, step=0.1):
    """Points of the simplex by softmax of (a_1, .. a_{K-1}, 0): log y [n, K] and log |dy/da| + log of the step [n]."""
    a = np.arange(-half_width, half_width + step / 2, step)
    grid = np.stack(np.meshgrid(*[a] * (categories - 1), indexing="ij"), -1).reshape(-1, categories - 1)
    log_y = scipy.special.log_softmax(np.concatenate([grid, np.zeros((len(grid), 1))], -1), axis=-1)
    return log_y, log_y.sum(-1) + (categories - 1) * math.log(step)  # |dy/da| is the product of all coordinates


def check_concrete_density(log_prob):
    """The integral over the simplex is 1 within 1e-6, at low and high temperature, K = 2 and 3."""
    with jax.enable_x64(True):
        for temperature, logits in CASES:
            width = 17.0 if len(logits) == 3 else 30.0
            log_y, log_volume = simplex(len(logits), width / min(temperature, 1.0), 0.2 / max(temperature, 1.0))
            logits = np.broadcast_to(np.float64(logits), log_y.shape)
            density = jax.jit(lambda y, l, t=temperature: log_prob(y, l, t))(log_y, logits)
            total = np.exp(np.asarray(density) + log_volume).sum()
            assert abs(total - 1.0) < 1e-6


def test_concrete_density():
    check_concrete_density(d.concrete_log_prob)


CONCRETE_MUTANTS = {
    "no factorial": lambda y, l, t: d.concrete_log_prob(y, l, t) - math.lgamma(l.shape[-1]),
    "K log t": lambda y, l, t: d.concrete_log_prob(y, l, t) + math.log(t),
    "density of log y": lambda y, l, t: d.concrete_log_prob(y, l, t) + y.sum(-1),
    "temperature inverted": lambda y, l, t: d.concrete_log_prob(y, l, 1 / t),
    "logits over temperature": lambda y, l, t: d.concrete_log_prob(y, l, t) - (1 - 1 / t) * l.sum(-1),
    "one category less": lambda y, l, t: d.concrete_log_prob(y, l, t) + jax.nn.logsumexp(l - t * y, axis=-1),
}


@pytest.mark.parametrize("mutant", CONCRETE_MUTANTS.values(), ids=CONCRETE_MUTANTS)
def test_concrete_density_rejects(mutant):
    rejects(check_concrete_density, mutant)


def concrete_cdf(y, logits, temperature):
    """P(y_1 <= y), K = 2: log-odds of y_1 are (l_1 - l_2 + L) / t with L logistic."""
    return scipy.special.expit(temperature * scipy.special.logit(y) - (logits[0] - logits[1]))


def check_concrete_samples(sample):
    """K = 2: Kolmogorov and Smirnov; K = 4: the largest coordinate is categorical, chi-square; p > 1e-4."""
    for temperature, logits in CASES[:3]:
        log_y = sample(jnp.broadcast_to(jnp.float32(logits), (SAMPLES, 2)), temperature, KEY)
        np.testing.assert_allclose(np.exp(np.float64(log_y)).sum(-1), 1.0, atol=1e-5)
        first = np.clip(np.exp(np.float64(log_y[:, 0])), 1e-12, 1 - 1e-7)
        assert scipy.stats.kstest(first, lambda y, a=logits, t=temperature: concrete_cdf(y, a, t)).pvalue > 1e-4
    four = np.array([0.5, -0.4, 1.2, 0.0])
    for temperature in (1e-3, 0.5, 5.0):
        y = np.exp(np.float64(sample(jnp.broadcast_to(jnp.float32(four), (SAMPLES, 4)), temperature, KEY)))
        counts = np.bincount(y.argmax(-1), minlength=4)
        assert scipy.stats.chisquare(counts, scipy.special.softmax(four) * SAMPLES).pvalue > 1e-4
        corners = (y.max(-1) > 0.999).mean()
        assert corners > 0.98 if temperature == 1e-3 else corners < 0.9  # towards 0 a sample is one-hot


def test_concrete_samples():
    check_concrete_samples(d.sample_concrete)


SAMPLE_MUTANTS = {
    "normal noise": lambda l, t, key: jax.nn.log_softmax((l + jax.random.normal(key, l.shape)) / t, axis=-1),
    "no noise": lambda l, t, key: jax.nn.log_softmax(l / t, axis=-1),
    "one noise for all": lambda l, t, key: jax.nn.log_softmax((l + jax.random.gumbel(key, l.shape[:1])[:, None]) / t),
    "noise not heated": lambda l, t, key: jax.nn.log_softmax(l / t + jax.random.gumbel(key, l.shape), axis=-1),
    "logits not heated": lambda l, t, key: jax.nn.log_softmax(l + jax.random.gumbel(key, l.shape) / t, axis=-1),
    "not normalised": lambda l, t, key: (l + jax.random.gumbel(key, l.shape)) / t,
    "sign of the noise": lambda l, t, key: jax.nn.log_softmax((l - jax.random.gumbel(key, l.shape)) / t, axis=-1),
    "softmax twice": lambda l, t, key: jax.nn.log_softmax(jnp.exp(d.sample_concrete(l, t, key)), axis=-1),
}


@pytest.mark.parametrize("mutant", SAMPLE_MUTANTS.values(), ids=SAMPLE_MUTANTS)
def test_concrete_samples_reject(mutant):
    rejects(check_concrete_samples, mutant)


def test_samples_are_differentiable():
    """Against a difference quotient on the same noise, in float64."""
    with jax.enable_x64(True):
        value = lambda l, t: jnp.sum(jnp.exp(d.sample_concrete(l, t, KEY)) * jnp.arange(3.0))
        at, step = jnp.array([0.3, -0.2, 0.1]), 1e-6
        slope = jax.grad(value)(at, 0.7)
        quotient = [(value(at + e, 0.7) - value(at - e, 0.7)) / (2 * step) for e in np.eye(3) * step]
        np.testing.assert_allclose(slope, quotient, rtol=1e-6)


# -- relaxed Bernoulli -------------------------------------------------------------------------------------------------


def check_relaxed_bernoulli(log_prob, sample):
    """Integral 1; the law of samples; and y is a Concrete variable of two categories."""
    with jax.enable_x64(True):
        for temperature, (logit, _) in CASES[:3]:
            odds = np.arange(-120.0, 120.0, 0.05)
            density = np.exp(np.asarray(log_prob(odds, np.full_like(odds, logit), temperature)))
            assert abs(density.sum() * 0.05 - 1.0) < 1e-9
            log_y = np.stack([-np.logaddexp(0, -odds), -np.logaddexp(0, odds)], -1)[1800:3000]
            two = np.broadcast_to(np.array([logit, 0.0]), log_y.shape)
            same = np.asarray(d.concrete_log_prob(log_y, two, temperature)) + log_y.sum(-1)
            np.testing.assert_allclose(np.log(density[1800:3000]), same, rtol=1e-8, atol=1e-8)
    for temperature, (logit, _) in CASES[:3]:
        drawn = np.float64(sample(jnp.full(SAMPLES, logit, jnp.float32), temperature, KEY))
        law = scipy.stats.logistic(loc=logit / temperature, scale=1 / temperature)
        assert scipy.stats.kstest(drawn, law.cdf).pvalue > 1e-4


def test_relaxed_bernoulli():
    check_relaxed_bernoulli(d.relaxed_bernoulli_log_prob, d.sample_relaxed_bernoulli)


BERNOULLI_MUTANTS = {
    "no log t": (lambda x, l, t: d.relaxed_bernoulli_log_prob(x, l, t) - math.log(t), d.sample_relaxed_bernoulli),
    "sign of the logit": (lambda x, l, t: d.relaxed_bernoulli_log_prob(x, -l, t), d.sample_relaxed_bernoulli),
    "density of y": (
        lambda x, l, t: d.relaxed_bernoulli_log_prob(x, l, t) - jax.nn.log_sigmoid(x) - jax.nn.log_sigmoid(-x),
        d.sample_relaxed_bernoulli,
    ),
    "noise not heated": (d.relaxed_bernoulli_log_prob, lambda l, t, k: l / t + jax.random.logistic(k, l.shape)),
    "gumbel noise": (d.relaxed_bernoulli_log_prob, lambda l, t, k: (l + jax.random.gumbel(k, l.shape)) / t),
    "y itself": (d.relaxed_bernoulli_log_prob, lambda l, t, k: jax.nn.sigmoid(d.sample_relaxed_bernoulli(l, t, k))),
}


@pytest.mark.parametrize("mutant", BERNOULLI_MUTANTS.values(), ids=BERNOULLI_MUTANTS)
def test_relaxed_bernoulli_rejects(mutant):
    rejects(check_relaxed_bernoulli, *mutant)


# -- the bound of the relaxed model ------------------------------------------------------------------------------------

RNG = np.random.default_rng(4)
WEIGHTS, OFFSET, PRIOR = RNG.normal(size=6) * 3, RNG.normal(size=6), np.array([[0.4, -0.2]])
LOGITS = np.stack([ROWS @ RNG.normal(size=6), np.zeros(64)], -1)[:, None] * 0.7  # [64, 1, 2]
T_PRIOR, T_POSTERIOR = 0.7, 0.9
REPEATS = 1_000


def relaxed_fit(first):
    """log p(x | y) [..., 64] of y's first coordinate [..., 64]."""
    logits = first[..., None] * WEIGHTS.astype(first.dtype).reshape(*(1,) * first.ndim, 6)
    logits = logits + OFFSET.astype(first.dtype).reshape(*(1,) * first.ndim, 6)
    x = jnp.broadcast_to(jnp.asarray(ROWS, first.dtype), logits.shape)
    return d.event_sum(d.bernoulli_log_prob(x, logits), leading=first.ndim)


@pytest.fixture(scope="module")
def relaxed():
    """log p(x) of the relaxed model and its ELBO, by quadrature over the simplex of two categories: [64] each."""
    with jax.enable_x64(True):
        log_y, log_volume = simplex(2, 60.0, 0.1)
        density = lambda logits, t: np.asarray(d.concrete_log_prob(log_y, np.broadcast_to(logits, log_y.shape), t))
        fit = np.asarray(relaxed_fit(jnp.broadcast_to(jnp.exp(log_y[:, :1]), (len(log_y), 64))))
        log_q = np.stack([density(logits, T_POSTERIOR) for logits in LOGITS], -1)
        log_joint = fit + density(PRIOR, T_PRIOR)[:, None]
    volume = np.exp(log_volume)[:, None]
    log_p = np.log((np.exp(log_joint) * volume).sum(0))
    return log_p, (np.exp(log_q) * volume * (log_joint - log_q)).sum(0)


def check_relaxed_bound(relaxed, log_weights):
    """1,000 repeats, k = 1: the ELBO within 4 standard errors; k = 8: above it, and at most log p(x).

    The sum over x of exp(E bound) is at most 1.
    """
    log_p, elbo = relaxed
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-6) and np.exp(elbo).sum() < 0.9

    def bounds(key):
        fit = lambda y: relaxed_fit(y[:, :, 0, 0])
        log_w = log_weights(fit, jnp.float32(LOGITS), jnp.float32(PRIOR), T_POSTERIOR, T_PRIOR, key, 8)
        return -jnp.stack([negative_iwae(log_w[:1]), negative_iwae(log_w)])

    values = np.float64(jax.jit(jax.vmap(bounds))(jax.random.split(KEY, REPEATS)))
    (one, eight), (error, slack) = values.mean(0), values.std(0) / math.sqrt(REPEATS)
    assert np.all(np.abs(one - elbo) < 4 * error)
    assert np.all(eight > one - 4 * error) and np.all(eight < log_p + 4 * slack)
    assert np.exp(eight).sum() <= 1.0


def test_the_relaxed_bound_is_one(relaxed):
    check_relaxed_bound(relaxed, concrete_log_weights)


def discrete_kl(fit, logits, prior, t, s, key, k):
    """The KL of the discrete variables beside a relaxed sample: no bound."""
    y = jnp.exp(d.sample_concrete(jnp.broadcast_to(logits, (k, *logits.shape)), t, key))
    rate = d.kl_categorical(logits, jnp.broadcast_to(prior, logits.shape)).sum(1)
    return fit(y) - rate[None]


def altered(**changes):
    def log_weights(fit, q, p, t, s, key, k):
        args = {"q": q, "p": p, "t": t, "s": s} | {name: change(q, p, t, s) for name, change in changes.items()}
        return concrete_log_weights(fit, args["q"], args["p"], args["t"], args["s"], key, k)

    return log_weights


def exchanged(fit, q, p, t, s, key, k):
    """log q - log p in place of log p - log q."""
    log_w = concrete_log_weights(lambda y: 0 * fit(y), q, p, t, s, key, k)
    return concrete_log_weights(fit, q, p, t, s, key, k) - 2 * log_w


RELAXED_MUTANTS = {
    "KL of the discrete variables": discrete_kl,
    "prior at the posterior's temperature": altered(s=lambda q, p, t, s: t),
    "prior's temperature inverted": altered(s=lambda q, p, t, s: 1 / s),
    "prior's logits negated": altered(p=lambda q, p, t, s: -p),
    "log q - log p": exchanged,
    "no densities": lambda fit, q, p, t, s, key, k: (
        concrete_log_weights(fit, q, p, t, s, key, k) - concrete_log_weights(lambda y: 0 * fit(y), q, p, t, s, key, k)
    ),
}


@pytest.mark.parametrize("mutant", RELAXED_MUTANTS.values(), ids=RELAXED_MUTANTS)
def test_the_relaxed_bound_rejects(relaxed, mutant):
    rejects(check_relaxed_bound, relaxed, mutant)


def test_low_temperatures_stay_finite():
    logits = jnp.float32([[[3.0, -40.0, 0.0]]])
    weights = lambda q: concrete_log_weights(lambda y: y.sum((2, 3)), q, 0 * q, 1e-3, 1e-3, KEY, 4).sum()
    value, slope = jax.jit(jax.value_and_grad(weights))(logits)
    assert np.isfinite(value) and np.all(np.isfinite(slope))
    odds = d.sample_relaxed_bernoulli(jnp.float32([50.0, -50.0]), 1e-3, KEY)
    assert np.all(np.isfinite(d.relaxed_bernoulli_log_prob(odds, jnp.float32([50.0, -50.0]), 1e-3)))


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan, math.inf])
def test_bad_temperature(temperature):
    logits = jnp.zeros(2)
    for call in (
        lambda: d.sample_concrete(logits, temperature, KEY),
        lambda: d.concrete_log_prob(logits, logits, temperature),
        lambda: d.sample_relaxed_bernoulli(logits, temperature, KEY),
        lambda: d.relaxed_bernoulli_log_prob(logits, logits, temperature),
    ):
        with pytest.raises(BadInput, match=f"temperature = {temperature}") as error:
            call()
        assert len(error.value.lines) == 3

"""Log-probabilities against sums, integrals and frequencies; every check must reject its planted bugs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from planted import check_frequencies, rejects

from genjax import distributions as d
from genjax.errors import BadInput

KEY = jax.random.key(0)


# -- normal ------------------------------------------------------------------------------------------------------------


def check_normal_density(log_prob):
    x = np.linspace(-3, 4, 29)
    for mean, log_var in [(0.3, 0.0), (-1.0, 1.4), (0.5, -3.0)]:
        exact = scipy.stats.norm.logpdf(x, mean, math.exp(log_var / 2))
        np.testing.assert_allclose(log_prob(np.float32(x), mean, log_var), exact, rtol=2e-5, atol=2e-5)


def test_normal_density():
    check_normal_density(d.normal_log_prob)


NORMAL_MUTANTS = {
    "log_var taken for the standard deviation": lambda x, m, v: d.normal_log_prob(x, m, 2 * v),
    "log_var not exponentiated": lambda x, m, v: -0.5 * (math.log(2 * math.pi) + v + (x - m) ** 2 / (abs(v) + 1e-9)),
    "no log(2 pi)": lambda x, m, v: d.normal_log_prob(x, m, v) + 0.9189385,
    "log_var without its half": lambda x, m, v: d.normal_log_prob(x, m, v) - 0.5 * v,
}


@pytest.mark.parametrize("mutant", NORMAL_MUTANTS.values(), ids=NORMAL_MUTANTS)
def test_normal_density_rejects(mutant):
    rejects(check_normal_density, mutant)


def check_kl_normal(kl):
    """Against the mean of log q - log p over 200,000 samples, within five standard errors."""
    for mean_q, log_var_q, mean_p, log_var_p in [(0.5, -0.7, 0.0, 0.0), (-1.0, 0.4, 0.3, 0.9), (2.0, -2.0, 1.5, -1.0)]:
        q, p = (mean_q, math.exp(log_var_q / 2)), (mean_p, math.exp(log_var_p / 2))
        z = np.random.default_rng(0).normal(*q, size=200_000)
        difference = scipy.stats.norm.logpdf(z, *q) - scipy.stats.norm.logpdf(z, *p)
        error = difference.std() / math.sqrt(z.size)
        assert abs(float(kl(mean_q, log_var_q, mean_p, log_var_p)) - difference.mean()) < 5 * error


def test_kl_normal_is_its_monte_carlo_mean():
    check_kl_normal(d.kl_normal)


KL_MUTANTS = {
    "sign": lambda *a: -d.kl_normal(*a),
    "q and p exchanged": lambda a, b, c, e: d.kl_normal(c, e, a, b),
    "log standard deviations": lambda a, b, c, e: d.kl_normal(a, 2 * b, c, 2 * e),
    "no mean term": lambda a, b, c, e: d.kl_normal(a, b, a, e),
    "without the -1": lambda *a: d.kl_normal(*a) + 0.5,
}


@pytest.mark.parametrize("mutant", KL_MUTANTS.values(), ids=KL_MUTANTS)
def test_kl_normal_rejects(mutant):
    rejects(check_kl_normal, mutant)


def test_kl_normal_standard_is_accurate_near_zero():
    """expm1: log_var = 1e-4 gives log_var^2 / 4 = 2.5e-9, which a difference of float32 numbers near 1 rounds away."""
    assert float(d.kl_normal_standard(jnp.float32(0.0), jnp.float32(1e-3))) == pytest.approx(2.5e-7, rel=0.05)
    assert float(d.kl_normal_standard(1.0, -200.0)) == pytest.approx(0.5 * (1.0 - 1.0 + 200.0))


def check_sample_normal(sample):
    """Means and variances of 100,000 samples within five standard errors; two latents are uncorrelated."""
    mean, log_var, n = jnp.array([1.0, -2.0]), jnp.array([math.log(4.0), math.log(0.25)]), 100_000
    z = np.asarray(sample(jnp.broadcast_to(mean, (n, 2)), jnp.broadcast_to(log_var, (n, 2)), KEY), np.float64)
    variance = np.exp(np.asarray(log_var))
    assert np.all(np.abs(z.mean(0) - np.asarray(mean)) < 5 * np.sqrt(variance / n))
    assert np.all(np.abs(z.var(0) - variance) < 5 * variance * math.sqrt(2 / n))
    assert abs(np.corrcoef(z.T)[0, 1]) < 5 / math.sqrt(n)


def test_sample_normal():
    check_sample_normal(d.sample_normal)


SAMPLE_MUTANTS = {
    "standard deviation taken for the variance": lambda m, v, key: d.sample_normal(m, 2 * v, key),
    "one noise for all latents": lambda m, v, key: m + jnp.exp(v / 2) * jax.random.normal(key, (m.shape[0], 1)),
    "one noise for all rows": lambda m, v, key: m + jnp.exp(v / 2) * jax.random.normal(key, (1, 2)),
    "the mean only": lambda m, v, key: m,
}


@pytest.mark.parametrize("mutant", SAMPLE_MUTANTS.values(), ids=SAMPLE_MUTANTS)
def test_sample_normal_rejects(mutant):
    rejects(check_sample_normal, mutant)


def test_reparameterisation_gradient():
    """d/d mean of E[z^2] = 2 mean and d/d log_var = var, through the sample: within five standard errors."""

    def second_moment(theta, n):
        mean, log_var = (jnp.full(n, t) for t in theta)
        return jnp.square(d.sample_normal(mean, log_var, KEY))

    n = 100_000
    rows = jax.jacfwd(lambda theta: second_moment(theta, n))((jnp.float32(0.8), jnp.float32(-0.5)))
    for row, exact in zip(rows, (1.6, math.exp(-0.5)), strict=True):
        assert abs(float(row.mean()) - exact) < 5 * float(row.std()) / math.sqrt(n)


# -- Bernoulli and categorical -----------------------------------------------------------------------------------------

LOGITS = np.float32([-80.0, -20.0, -3.0, -0.1, 0.0, 0.1, 3.0, 20.0, 80.0])


def check_bernoulli(log_prob):
    """Against float64, relative: also where the probability is within 1e-9 of 1; sums to 1."""
    for x in (0.0, 1.0):
        exact = scipy.special.log_expit((2 * x - 1) * np.float64(LOGITS))
        np.testing.assert_allclose(log_prob(jnp.full(LOGITS.shape, x), LOGITS), exact, rtol=1e-5)
    total = sum(np.exp(np.float64(log_prob(jnp.full(LOGITS.shape, x), LOGITS))) for x in (0.0, 1.0))
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)


def test_bernoulli():
    check_bernoulli(d.bernoulli_log_prob)


BERNOULLI_MUTANTS = {
    "logarithm of a probability": lambda x, logits: jnp.log(jnp.abs(1.0 - x - jax.nn.sigmoid(logits))),
    "clipped probability": lambda x, logits: jnp.log(jnp.clip(jax.nn.sigmoid((2 * x - 1) * logits), 1e-6, 1 - 1e-6)),
    "sign of the logits": lambda x, logits: d.bernoulli_log_prob(x, -logits),
    "only the ones": lambda x, logits: x * jax.nn.log_sigmoid(logits),
}


@pytest.mark.parametrize("mutant", BERNOULLI_MUTANTS.values(), ids=BERNOULLI_MUTANTS)
def test_bernoulli_rejects(mutant):
    rejects(check_bernoulli, mutant)


def test_bernoulli_gradient_is_x_minus_probability():
    logits = jnp.array([-90.0, -1.0, 0.0, 2.0, 90.0])  # 0 is where maximum and abs have a corner
    for x in (0.0, 1.0):
        slope = jax.grad(lambda logits, x=x: d.bernoulli_log_prob(jnp.full(5, x), logits).sum())(logits)
        np.testing.assert_allclose(slope, x - scipy.special.expit(np.float64(logits)), atol=1e-6)


def check_categorical(log_prob):
    logits = jax.random.normal(KEY, (3, 17)) * 8.0
    total = sum(jnp.exp(log_prob(jnp.full(3, level), logits)) for level in range(17))
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    exact = scipy.special.log_softmax(np.float64(logits), axis=-1)
    np.testing.assert_allclose(log_prob(jnp.array([0, 5, 16]), logits), exact[[0, 1, 2], [0, 5, 16]], rtol=1e-4)


def test_categorical():
    check_categorical(d.categorical_log_prob)


CATEGORICAL_MUTANTS = {
    "not normalised": lambda level, logits: jnp.take_along_axis(logits, level[..., None], -1)[..., 0],
    "next level": lambda level, logits: d.categorical_log_prob((level + 1) % 17, logits),
    "normalised over rows": lambda level, logits: jnp.take_along_axis(
        jax.nn.log_softmax(logits, axis=0), level[..., None], -1
    )[..., 0],
}


@pytest.mark.parametrize("mutant", CATEGORICAL_MUTANTS.values(), ids=CATEGORICAL_MUTANTS)
def test_categorical_rejects(mutant):
    rejects(check_categorical, mutant)


def check_kl_discrete(kl_bernoulli, kl_categorical):
    """Against the sum over outcomes in float64."""
    q, p = np.float32([-4.0, 0.2, 25.0, 1.0]), np.float32([1.0, 0.2, 20.0, -30.0])
    exact = sum(
        scipy.special.expit(s * np.float64(q)) * (scipy.special.log_expit(s * q) - scipy.special.log_expit(s * p))
        for s in (1, -1)
    )
    np.testing.assert_allclose(kl_bernoulli(q, p), exact, rtol=1e-4, atol=1e-7)
    q, p = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32) * 4
    log_q, log_p = (scipy.special.log_softmax(np.float64(a), -1) for a in (q, p))
    np.testing.assert_allclose(kl_categorical(q, p), (np.exp(log_q) * (log_q - log_p)).sum(-1), rtol=1e-4)


def test_kl_discrete():
    check_kl_discrete(d.kl_bernoulli, d.kl_categorical)


def test_kl_discrete_rejects():
    rejects(check_kl_discrete, lambda q, p: d.kl_bernoulli(p, q), d.kl_categorical)
    rejects(check_kl_discrete, lambda q, p: -d.kl_bernoulli(q, p), d.kl_categorical)
    rejects(check_kl_discrete, d.kl_bernoulli, lambda q, p: d.kl_categorical(p, q))
    rejects(check_kl_discrete, d.kl_bernoulli, lambda q, p: d.kl_categorical(q, p) / q.shape[-1])


def test_frequencies_of_discrete_samples():
    logits = jnp.array([-1.0, 0.0, 2.0])
    check_frequencies(
        lambda n, key: d.sample_bernoulli(jnp.broadcast_to(logits, (n, 3)), key),
        lambda x: d.bernoulli_log_prob(jnp.full(3, x), logits),
        (0.0, 1.0),
    )
    rejects(
        check_frequencies,
        lambda n, key: d.sample_bernoulli(jnp.broadcast_to(logits - 0.1, (n, 3)), key),
        lambda x: d.bernoulli_log_prob(jnp.full(3, x), logits),
        (0.0, 1.0),
    )
    table = jax.random.normal(KEY, (3, 5))
    check_frequencies(
        lambda n, key: d.sample_categorical(jnp.broadcast_to(table, (n, 3, 5)), key),
        lambda level: d.categorical_log_prob(jnp.full(3, level), table),
        range(5),
    )


# -- units, sums, precision --------------------------------------------------------------------------------------------


def check_uniform_bits(bits_per_dim, event_sum):
    """The uniform model over 256 levels costs exactly 8.000 bits a dimension, whatever the image's shape."""
    for shape in [(2, 28, 28, 1), (3, 32, 32, 3), (2, 5)]:
        nats = -event_sum(d.categorical_log_prob(jnp.zeros(shape, jnp.int32), jnp.zeros((*shape, 256))))
        np.testing.assert_allclose(bits_per_dim(nats, math.prod(shape[1:])), 8.0, atol=5e-6)


def test_uniform_bits():
    check_uniform_bits(d.bits_per_dim, d.event_sum)


def test_uniform_bits_rejects():
    rejects(check_uniform_bits, lambda nats, dims: nats / dims, d.event_sum)
    rejects(check_uniform_bits, lambda nats, dims: nats / math.log(2), d.event_sum)
    rejects(check_uniform_bits, lambda nats, dims: nats * math.log(2) / dims, d.event_sum)
    rejects(check_uniform_bits, d.bits_per_dim, lambda v: v.mean(axis=tuple(range(1, v.ndim))))
    rejects(check_uniform_bits, d.bits_per_dim, lambda v: v.sum())


def test_log_mean_exp():
    values = np.random.default_rng(0).normal(size=(7, 3)) * 300
    exact = scipy.special.logsumexp(values, axis=0) - math.log(7)
    np.testing.assert_allclose(d.log_mean_exp(np.float32(values)), exact, rtol=1e-6)
    np.testing.assert_allclose(d.log_mean_exp(np.float32(values).T, axis=1), exact, rtol=1e-6)
    assert np.all(d.log_mean_exp(jnp.full((3, 2), -jnp.inf)) == -jnp.inf)


def check_softplus(softplus):
    """log (1 + exp(x)) and its slope, the logistic function, within 2e-7 of float64, relative where they are large."""
    x = np.float32(np.linspace(-30, 30, 601))
    np.testing.assert_allclose(softplus(x), np.logaddexp(0, np.float64(x)), rtol=2e-7, atol=2e-7)
    slopes = jax.vmap(jax.grad(softplus))(x)
    np.testing.assert_allclose(slopes, scipy.special.expit(np.float64(x)), rtol=2e-6, atol=2e-7)
    assert softplus(jnp.float32(1e30)) == np.float32(1e30) and softplus(jnp.float32(-1e30)) == 0


def test_softplus():
    check_softplus(d.softplus)
    rejects(check_softplus, lambda x: jnp.log(1 + jnp.exp(x)))
    rejects(check_softplus, jax.nn.relu)
    rejects(check_softplus, lambda x: d.softplus(jax.lax.stop_gradient(x)) + 0 * x)


HALF = {
    "normal": lambda dtype: d.normal_log_prob(jnp.ones(3, dtype), jnp.zeros(3, dtype), jnp.zeros(3, dtype)),
    "Bernoulli": lambda dtype: d.bernoulli_log_prob(jnp.ones(3, dtype), jnp.ones(3, dtype)),
    "categorical": lambda dtype: d.categorical_log_prob(jnp.ones(3, jnp.int32), jnp.ones((3, 4), dtype)),
    "logistic": lambda dtype: d.discretized_logistic_log_prob(
        jnp.ones(3, dtype), jnp.ones(3, dtype), jnp.zeros(3, dtype), 4
    ),
    "sum": lambda dtype: d.event_sum(jnp.full((2, 1000), 1.0, dtype)),  # bfloat16 would stop counting at 256
    "mean": lambda dtype: d.log_mean_exp(jnp.ones((3, 2), dtype)),
    "softplus": lambda dtype: d.softplus(jnp.ones(3, dtype)),
}


@pytest.mark.parametrize("log_prob", HALF.values(), ids=HALF)
def test_half_precision_is_converted_on_entry(log_prob):
    half, full = log_prob(jnp.bfloat16), log_prob(jnp.float32)
    assert half.dtype == jnp.float32
    np.testing.assert_array_equal(half, full)


def test_samples_keep_the_dtype_of_the_network():
    half = jnp.zeros(3, jnp.bfloat16)
    assert d.sample_normal(half, half, KEY).dtype == jnp.bfloat16
    assert d.sample_bernoulli(half, KEY).dtype == jnp.bfloat16
    assert d.sample_discretized_logistic(half, half, 4, KEY).dtype == jnp.bfloat16


def test_bad_input():
    with pytest.raises(BadInput, match="levels = 1"):
        d.discretized_logistic_log_prob(jnp.zeros(2), 0.0, 0.0, 1)
    with pytest.raises(BadInput, match="dims = 0"):
        d.bits_per_dim(1.0, 0)
    with pytest.raises(ValueError, match="rank_promotion"):  # [B, D] against [D]: broadcast explicitly
        d.normal_log_prob(jnp.zeros((2, 3)), jnp.zeros(3), jnp.zeros(3))

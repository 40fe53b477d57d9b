"""VAEs whose log p(x) is known exactly: linear-Gaussian, and images so small that all of them can be enumerated."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from planted import rejects

from genjax.distributions import event_sum, kl_normal, kl_normal_standard, log_mean_exp, normal_log_prob, sample_normal
from genjax.likelihood.iwae import importance_sampling, iwae_bound, normal_log_weights
from genjax.losses.variational import negative_elbo, negative_iwae
from genjax.models.blocks import MLP, GatedMLP
from genjax.models.observation import bernoulli, categorical, discretized_logistic
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder

KEY = jax.random.key(0)


def nodes(dims, count):
    """Gauss-Hermite quadrature of E[f(eps)], eps ~ N(0, 1)^dims, in float64: [count^dims, dims], [count^dims]."""
    x, w = np.polynomial.hermite_e.hermegauss(count)
    grid = np.stack(np.meshgrid(*[x] * dims, indexing="ij"), -1).reshape(-1, dims)
    weight = np.stack(np.meshgrid(*[w / w.sum()] * dims, indexing="ij"), -1).reshape(-1, dims).prod(-1)
    return grid, weight


# -- linear-Gaussian: p(z) = N(0, I), p(x | z) = N(W z, I / 4), three pixels, two latents ------------------------------

W = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 2)))[0] * np.array([1.5, 0.6])  # orthogonal columns:
NOISE = 0.25  # the posterior is then a product, which a diagonal q reaches
X = np.random.default_rng(2).normal(size=(4, 3))
POSTERIOR_VARIANCE = 1.0 / (1.0 + np.square(W).sum(0) / NOISE)
POSTERIOR_MEAN = X @ W / NOISE * POSTERIOR_VARIANCE
POSTERIOR_LOG_VAR = np.broadcast_to(np.log(POSTERIOR_VARIANCE), (4, 2))
LOG_P = scipy.stats.multivariate_normal.logpdf(X, np.zeros(3), W @ W.T + NOISE * np.eye(3))


def linear_log_likelihood(z, x=X):
    """log p(x | z): z [..., B, 2] -> [..., B]."""
    mean = jnp.einsum("...l,pl->...p", z, jnp.asarray(W, z.dtype))
    x = jnp.broadcast_to(jnp.asarray(x, z.dtype), mean.shape)
    return event_sum(normal_log_prob(x, mean, math.log(NOISE)), leading=z.ndim - 1)


def expected_elbo(mean, log_var, kl, elbo, std):
    """The ELBO averaged exactly over the noise: the integrand is a quadratic polynomial of it."""
    eps, weight = nodes(2, 3)
    z = mean[None] + std(log_var)[None] * eps[:, None, :]
    value = jax.vmap(lambda z: -elbo(linear_log_likelihood(z), kl(mean, log_var)))(z)
    return jnp.tensordot(weight, value, axes=1)


def check_linear_gaussian(kl, elbo=negative_elbo, std=lambda log_var: jnp.exp(0.5 * log_var)):
    """At the exact posterior the ELBO is log p(x); elsewhere the gap is KL(q || posterior): float64, within 1e-9."""
    with jax.enable_x64(True):
        exact = jnp.asarray(POSTERIOR_MEAN), jnp.asarray(POSTERIOR_LOG_VAR)
        np.testing.assert_allclose(expected_elbo(*exact, kl, elbo, std), LOG_P, rtol=1e-10)
        other = exact[0] + 0.3, exact[1] - 0.5
        gap = event_sum(kl_normal(*other, *exact))
        np.testing.assert_allclose(LOG_P - expected_elbo(*other, kl, elbo, std), gap, rtol=1e-9)


def rate(mean, log_var):
    return event_sum(kl_normal_standard(mean, log_var))


def test_linear_gaussian_elbo():
    check_linear_gaussian(rate)


LINEAR_MUTANTS = {
    "sign of the rate": (lambda m, v: -rate(m, v),),
    "rate averaged over latents": (lambda m, v: rate(m, v) / 2,),
    "rate of exchanged arguments": (lambda m, v: event_sum(kl_normal(0.0 * m, 0.0 * v, m, v)),),
    "rate of standard deviations": (lambda m, v: rate(m, 2 * v),),
    "beta of 0.9": (rate, lambda fit, rate: negative_elbo(fit, rate, 0.9)),
    "fit averaged over pixels": (rate, lambda fit, rate: negative_elbo(fit / 3, rate)),
    "log_var taken for the standard deviation": (rate, negative_elbo, jnp.exp),
}


@pytest.mark.parametrize("mutant", LINEAR_MUTANTS.values(), ids=LINEAR_MUTANTS)
def test_linear_gaussian_elbo_rejects(mutant):
    rejects(check_linear_gaussian, *mutant)


def test_every_weight_is_p_of_x_at_the_exact_posterior():
    """w = p(x, z) / p(z | x) = p(x) whatever z: each of 20 weights in float32, within 1e-4 nats."""
    log_w = normal_log_weights(
        linear_log_likelihood, np.float32(POSTERIOR_MEAN), np.float32(POSTERIOR_LOG_VAR), KEY, 20
    )
    np.testing.assert_allclose(log_w, np.broadcast_to(LOG_P, (20, 4)), atol=1e-4)


REPEATS, LADDER = 20_000, (1, 4, 16, 64)


def check_iwae_ladder(bound):
    """L_k of a poor q rises with k, by more than three standard errors a rung, and stays below log p(x).

    The mean of L_1 is the ELBO, known exactly; L_64 is within 0.02 nats of log p(x).
    """
    mean, log_var = jnp.float32(POSTERIOR_MEAN[:1] + 0.3), jnp.float32(POSTERIOR_LOG_VAR[:1] + 0.5)
    rows = [jnp.broadcast_to(a, (REPEATS, 2)) for a in (mean, log_var)]
    fit = lambda z: linear_log_likelihood(z, np.broadcast_to(X[:1], (REPEATS, 3)))
    log_w = jax.jit(lambda key: normal_log_weights(fit, *rows, key, LADDER[-1]))(KEY)
    values = np.stack([np.float64(bound(log_w[:k])) for k in LADDER])
    means, errors = values.mean(1), values.std(1) / math.sqrt(REPEATS)
    assert np.all(np.diff(means) > 3 * np.hypot(errors[1:], errors[:-1])), "does not rise"
    assert np.all(means < LOG_P[0] + 3 * errors), "above log p(x)"
    assert means[-1] > LOG_P[0] - 0.02, "does not reach log p(x)"
    gap = float(event_sum(kl_normal(mean, log_var, POSTERIOR_MEAN[:1], POSTERIOR_LOG_VAR[:1]))[0])
    assert abs(means[0] - (LOG_P[0] - gap)) < 4 * errors[0], "L_1 is not the ELBO"


def test_iwae_rises_to_log_p():
    check_iwae_ladder(iwae_bound)
    check_iwae_ladder(lambda log_w: -negative_iwae(log_w))


LADDER_MUTANTS = {
    "no log k": lambda w: log_mean_exp(w) + math.log(w.shape[0]),
    "log k twice": lambda w: log_mean_exp(w) - math.log(w.shape[0]),
    "mean of logarithms": lambda w: w.mean(0),
    "reused noise": lambda w: log_mean_exp(jnp.broadcast_to(w[:1], w.shape)),
    "the best sample": lambda w: w.max(0),
    "sign": lambda w: -log_mean_exp(w),
}


@pytest.mark.parametrize("mutant", LADDER_MUTANTS.values(), ids=LADDER_MUTANTS)
def test_iwae_ladder_rejects(mutant):
    rejects(check_iwae_ladder, mutant)


def test_five_thousand_samples_reach_log_p():
    """The estimator of the final evaluations, k = 5,000 in chunks, within 0.02 nats, and its effective sample size.

    (sum w)^2 / sum w^2 tends to k / E_q[(w / p(x))^2], here a Gaussian integral, known exactly by quadrature.
    """
    mean, log_var = np.float32(POSTERIOR_MEAN + 0.2), np.float32(POSTERIOR_LOG_VAR + 0.5)
    estimate = importance_sampling(
        lambda key, n: normal_log_weights(linear_log_likelihood, mean, log_var, key, n), KEY, k=5_000, chunk=100
    )
    np.testing.assert_allclose(estimate.bound, LOG_P, atol=0.02)
    ratio = np.exp(np.float64(log_var)) / POSTERIOR_VARIANCE  # of the variances of q and posterior, 1.65
    shift = np.square(np.float64(mean) - POSTERIOR_MEAN) / POSTERIOR_VARIANCE
    second = (ratio / np.sqrt(2 * ratio - 1) * np.exp(shift / (2 * ratio - 1))).prod(-1)
    np.testing.assert_allclose(estimate.effective / 5_000, 1 / second, rtol=0.05)


# -- all images: every bound, on every pair of a model and a likelihood ------------------------------------------------


def every_image(levels, shape):
    """All images with the values level / (levels - 1): [levels^(H W C), H, W, C]."""
    pixels = itertools.product(range(levels), repeat=math.prod(shape))
    return np.float32(list(pixels)).reshape(-1, *shape) / (levels - 1)


tanh_layer = lambda: MLP((8,), nn.tanh)  # smooth in z: the corners of a relu would spoil the quadrature
gated_layer = lambda: GatedMLP((8,))

FAMILIES = {
    "six binary pixels": (bernoulli(), every_image(2, (2, 3, 1)), tanh_layer),
    "six binary pixels, gated": (bernoulli(), every_image(2, (2, 3, 1)), gated_layer),
    "three pixels of four levels": (categorical(4), every_image(4, (1, 3, 1)), tanh_layer),
    "two logistic pixels of eight levels": (discretized_logistic(8), every_image(8, (2, 1, 1)), tanh_layer),
}


def small_vae(likelihood, images, hidden):
    """A VAE with one latent, trained for 300 steps on a few of the images: q is informed and p is far from uniform."""
    shape = images.shape[1:]
    model = VAE(DenseEncoder(1, hidden()), DenseDecoder(shape, likelihood.multiplier, hidden()))
    data = jnp.asarray(images[np.random.default_rng(0).choice(len(images), 40) % (len(images) // 2)])

    def loss(params, key):
        mean, log_var = model.apply(params, data, method="encode")
        fit = likelihood.log_prob(model.apply(params, sample_normal(mean, log_var, key), method="decode"), data)
        return negative_elbo(fit, rate(mean, log_var), 0.5).mean()

    def step(state, key):
        updates, moments = tx.update(jax.grad(loss)(state[0], key), state[1])
        return (optax.apply_updates(state[0], updates), moments), None

    tx, params = optax.adam(0.02), model.init(KEY, data)
    train = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), jax.random.split(KEY, 300)))
    return model, train(params)[0][0]


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def enumerated(request):
    """The posterior of every image, log p(x | z) as a function, and log p(x) by quadrature over z."""
    likelihood, images, hidden = FAMILIES[request.param]
    model, params = small_vae(likelihood, images, hidden)

    def fit(z):  # [n, B or 1] one latent each -> log p(x | z) [n, B]
        out = model.apply(params, jnp.asarray(z, jnp.float32)[..., None], method="decode")
        return likelihood.log_prob(jnp.broadcast_to(out, (z.shape[0], len(images), *out.shape[2:])), images)

    mean, log_var = (np.float64(a[:, 0]) for a in model.apply(params, images, method="encode"))
    z, weight = nodes(1, 100)
    log_p = np.log(weight @ np.exp(np.float64(jax.jit(fit)(z))))
    return jax.jit(fit), mean, log_var, log_p


def test_the_exact_model_is_normalised(enumerated):
    *_, log_p = enumerated
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)
    assert log_p.max() - log_p.min() > 1.0  # the bounds below are tested on a model that has learnt something


def expected_bound(fit, mean, log_var, k, bound, std):
    """E over the noise of a bound with k samples, by quadrature: no sampling error, so that its sign is certain."""
    eps = np.linspace(-7.0, 7.0, 141)  # the trapezoidal rule: exact to 1e-9 for a smooth function times a Gaussian
    weight = scipy.stats.norm.pdf(eps) * (eps[1] - eps[0])
    z = mean[None] + std(log_var)[None] * eps[:, None]
    log_q = -0.5 * (math.log(2 * math.pi) + log_var[None] + (z - mean[None]) ** 2 * np.exp(-log_var[None]))
    log_prior = -0.5 * (math.log(2 * math.pi) + z**2)
    log_w = np.float64(fit(z)) + log_prior - log_q
    rows = np.stack(np.meshgrid(*[np.arange(141)] * k, indexing="ij")).reshape(k, -1)  # every k-tuple of nodes
    return weight[rows].prod(0) @ np.asarray(bound(log_w[rows]))


def iwae(log_w):
    """The library's bound on [k, nodes, B]."""
    return np.float64(-negative_iwae(log_w.reshape(len(log_w), -1))).reshape(log_w.shape[1:])


def analytic_elbo(fit, mean, log_var, elbo=negative_elbo, kl=rate):
    """E over the noise of log p(x | z), by quadrature, with the analytic rate."""
    eps, weight = nodes(1, 60)
    expected = weight @ np.float64(fit(mean[None] + np.exp(0.5 * log_var)[None] * eps))
    return -np.float64(elbo(np.float32(expected), kl(np.float32(mean)[:, None], np.float32(log_var)[:, None])))


def check_bounds(enumerated, elbo, iwae_1, iwae_2):
    """sum over x of exp(bound) <= 1; bound <= log p(x) for every x; ELBO = L_1 <= L_2, and not equal on average."""
    *_, log_p = enumerated
    for bound in (elbo, iwae_1, iwae_2):
        assert np.exp(bound).sum() <= 1.0 + 1e-5
        assert np.all(bound <= log_p + 1e-5)
        assert np.exp(log_p) @ (log_p - bound) < 2.0  # a bound of minus infinity would be no achievement
    np.testing.assert_allclose(iwae_1, elbo, atol=1e-4)
    assert np.all(iwae_2 >= iwae_1 - 1e-5) and (iwae_2 - iwae_1).mean() > 1e-4


def bounds(fit, mean, log_var, elbo=analytic_elbo, bound=iwae, std=lambda log_var: np.exp(0.5 * log_var)):
    ladder = [expected_bound(fit, mean, log_var, k, bound, std) for k in (1, 2)]
    return elbo(fit, mean, log_var), *ladder


def test_every_bound_is_one(enumerated):
    check_bounds(enumerated, *bounds(*enumerated[:3]))


def without(**changes):
    return lambda *args: analytic_elbo(*args, **changes)


BOUND_MUTANTS = {
    "sign of the rate": {"elbo": without(kl=lambda m, v: -rate(m, v))},
    "no rate": {"elbo": without(kl=lambda m, v: 0 * rate(m, v))},
    "beta of 0.5": {"elbo": without(elbo=lambda fit, kl: negative_elbo(fit, kl, 0.5))},
    "rate of standard deviations": {"elbo": without(kl=lambda m, v: rate(m, 2 * v))},
    "fit averaged over pixels": {"elbo": without(elbo=lambda fit, kl: negative_elbo(fit / 6, kl))},
    "no log k": {"bound": lambda w: iwae(w) + math.log(len(w))},
    "mean of logarithms": {"bound": lambda w: w.mean(0)},
    "reused noise": {"bound": lambda w: iwae(np.broadcast_to(w[:1], w.shape))},
    "log_var taken for the standard deviation": {"std": np.exp},
}


@pytest.mark.parametrize("mutant", BOUND_MUTANTS.values(), ids=BOUND_MUTANTS)
def test_every_bound_rejects(enumerated, mutant):
    rejects(check_bounds, enumerated, *bounds(*enumerated[:3], **mutant))

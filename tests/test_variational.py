"""Variational objectives and importance sampling against their equations; every check must reject its planted bugs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from planted import rejects

from genjax.distributions import event_sum, kl_normal_standard, normal_log_prob, sample_normal
from genjax.errors import BadInput
from genjax.likelihood import iwae
from genjax.losses import variational

KEY = jax.random.key(0)


# -- the ELBO ----------------------------------------------------------------------------------------------------------


def check_negative_elbo(negative_elbo):
    log_likelihood, rate = jnp.array([-90.0, -80.0]), jnp.array([20.0, 5.0])
    np.testing.assert_allclose(negative_elbo(log_likelihood, rate, 1.0), [110.0, 85.0])
    np.testing.assert_allclose(negative_elbo(log_likelihood, rate, 4.0), [170.0, 100.0])
    np.testing.assert_allclose(negative_elbo(log_likelihood, rate, jnp.float32(0.0)), [90.0, 80.0])


def test_negative_elbo():
    check_negative_elbo(variational.negative_elbo)
    assert variational.negative_elbo(jnp.zeros(2), jnp.ones(2)).tolist() == [1.0, 1.0]


ELBO_MUTANTS = {
    "sign of the rate": lambda ll, rate, beta: -ll - beta * rate,
    "sign of the likelihood": lambda ll, rate, beta: ll + beta * rate,
    "beta on the likelihood": lambda ll, rate, beta: rate - beta * ll,
    "mean over the batch": lambda ll, rate, beta: jnp.full(2, (beta * rate - ll).mean()),
}


@pytest.mark.parametrize("mutant", ELBO_MUTANTS.values(), ids=ELBO_MUTANTS)
def test_negative_elbo_rejects(mutant):
    rejects(check_negative_elbo, mutant)


RATE = np.float32([[0.1, 2.0, 0.4], [0.3, 4.0, 0.8], [0.2, 0.0, 0.3]])  # group means 0.2, 2.0, 0.5


def check_free_bits(free_bits):
    """The mean over the batch is eq. 15, sum_j max(lambda, mean_B KL_j), and so is its gradient."""
    for floor in (0.0, 0.3, 1.0, 10.0):
        paper = lambda rate, floor=floor: jnp.maximum(rate.mean(0), floor).sum()
        ours = lambda rate, floor=floor: free_bits(rate, floor).mean()
        np.testing.assert_allclose(ours(RATE), paper(RATE), rtol=1e-6)
        np.testing.assert_allclose(jax.grad(ours)(RATE), jax.grad(paper)(RATE), rtol=1e-6, atol=1e-8)


def test_free_bits():
    check_free_bits(variational.free_bits)
    assert np.isnan(variational.free_bits(jnp.asarray(RATE).at[0, 0].set(jnp.nan), 0.1)).tolist()[0]  # it hides nothing
    slope = jax.grad(lambda rate: variational.free_bits(rate, 0.45).sum())(RATE)
    assert slope.tolist() == [[0.0, 1.0, 1.0]] * 3  # no pressure on the group below the floor


FREE_BITS_MUTANTS = {
    "maximum for each example": lambda rate, floor: jnp.maximum(rate, floor).sum(1),
    "one floor for the sum": lambda rate, floor: jnp.maximum(rate.sum(1), floor),
    "minimum": lambda rate, floor: jnp.where(rate.mean(0, keepdims=True) < floor, rate, floor).sum(1),
    "floor added": lambda rate, floor: (rate + floor).sum(1),
    "mean over groups": lambda rate, floor: variational.free_bits(rate, floor) / rate.shape[1],
}


@pytest.mark.parametrize("mutant", FREE_BITS_MUTANTS.values(), ids=FREE_BITS_MUTANTS)
def test_free_bits_rejects(mutant):
    rejects(check_free_bits, mutant)


# -- the importance-weighted bound -------------------------------------------------------------------------------------

MEAN, LOG_VAR = jnp.array([[0.5, -1.0], [0.1, 0.3]]), jnp.array([[-0.4, 0.2], [-1.0, 0.0]])


def log_likelihood(weight, z):
    """A smooth log p(x | z), [..., 2] -> [...]."""
    return jnp.sum(jnp.tanh(weight * z) - 0.3 * jnp.square(z - 0.5), axis=-1) - 3.0


def weights(theta, k, key=KEY):
    mean, log_var, weight = theta
    return iwae.normal_log_weights(lambda z: log_likelihood(weight, z), mean, log_var, key, k)


THETA = (MEAN, LOG_VAR, jnp.float32(0.7))


def check_value(negative_iwae):
    log_w = np.random.default_rng(0).normal(size=(50, 4)) * 20 - 500
    exact = -(scipy.special.logsumexp(log_w, axis=0) - math.log(50))
    np.testing.assert_allclose(negative_iwae(jnp.float32(log_w)), exact, rtol=1e-5)


def check_gradient(negative_iwae):
    """Autodiff gives eq. 14: path gradients of log w_i weighted by w_i / sum_j w_j."""
    k = 5
    ours = jax.jacrev(lambda theta: negative_iwae(weights(theta, k)))(THETA)
    paths = jax.jacrev(lambda theta: weights(theta, k))(THETA)
    share = jax.nn.softmax(weights(THETA, k), axis=0)
    paper = jax.tree.map(lambda path: -jnp.einsum("kb,kb...->b...", share, path), paths)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, paper)


def test_negative_iwae():
    check_value(variational.negative_iwae)
    check_gradient(variational.negative_iwae)


IWAE_MUTANTS = {
    "no log k": (check_value, lambda w: -jax.nn.logsumexp(w, axis=0)),
    "mean of logarithms": (check_value, lambda w: -w.mean(0)),
    "sign": (check_value, lambda w: -variational.negative_iwae(w)),
    "over the batch": (check_value, lambda w: -(jax.nn.logsumexp(w, axis=1)[:4] - math.log(4))),
    "overflow": (check_value, lambda w: -jnp.log(jnp.exp(w).mean(0))),
    "equal shares": (check_gradient, lambda w: -w.mean(0)),
    "gradient stopped": (check_gradient, lambda w: variational.negative_iwae(jax.lax.stop_gradient(w))),
    "unnormalised shares": (check_gradient, lambda w: -jnp.exp(w).mean(0)),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("check", "mutant"), IWAE_MUTANTS.values(), ids=IWAE_MUTANTS)
def test_negative_iwae_rejects(check, mutant):
    rejects(check, mutant)


def test_one_sample_is_the_elbo_with_the_same_noise():
    """k = 1: value and gradient of log q - log p of the sample that `sample_normal` draws from the same key."""

    def sampled(theta):
        mean, log_var, weight = theta
        z = sample_normal(mean[None], log_var[None], KEY)[0]
        rate = event_sum(normal_log_prob(z, mean, log_var) - normal_log_prob(z, 0.0, 0.0))
        return variational.negative_elbo(log_likelihood(weight, z), rate)

    one = lambda theta: variational.negative_iwae(weights(theta, 1))
    np.testing.assert_allclose(one(THETA), sampled(THETA), rtol=1e-5)
    for a, b in zip(jax.tree.leaves(jax.jacrev(one)(THETA)), jax.tree.leaves(jax.jacrev(sampled)(THETA)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def quadrature(dims, nodes):
    """Gauss-Hermite nodes and weights of E[f(eps)], eps ~ N(0, 1)^dims: [nodes^dims, dims] and [nodes^dims]."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*[x] * dims, indexing="ij"), -1).reshape(-1, dims)
    weight = np.stack(np.meshgrid(*[w / w.sum()] * dims, indexing="ij"), -1).reshape(-1, dims).prod(-1)
    return np.float32(grid), np.float32(weight)


def check_expected_gradient(rate):
    """The path gradient, averaged over the noise, is the gradient of the analytic ELBO E_q[-(z - 1)^2] - KL.

    E_q[-(z - 1)^2] = -(mean - 1)^2 - var, so its gradient is known in closed form; the quadrature over eps is exact
    for polynomials.
    """
    eps, weight = quadrature(1, 20)

    def path(theta):
        z = theta[0] + jnp.exp(0.5 * theta[1]) * eps[:, 0]
        log_joint = -jnp.square(z - 1.0) - rate(z, *theta)
        return jnp.sum(weight * log_joint)

    mean, log_var = 0.4, -0.6
    exact = (-2 * (mean - 1) - mean, -math.exp(log_var) - 0.5 * (math.exp(log_var) - 1))
    np.testing.assert_allclose(jax.grad(path)((mean, log_var)), exact, rtol=1e-4)


def test_reparameterised_gradient_is_the_analytic_one():
    spread = lambda z, mean, log_var: jnp.broadcast_to(kl_normal_standard(mean, log_var), z.shape)
    check_expected_gradient(lambda z, m, v: normal_log_prob(z, m, v) - normal_log_prob(z, 0.0, 0.0))
    check_expected_gradient(spread)
    rejects(check_expected_gradient, lambda z, m, v: -spread(z, m, v))
    rejects(check_expected_gradient, lambda z, m, v: spread(z, m, 2 * v))
    rejects(check_expected_gradient, lambda z, m, v: normal_log_prob(z, m, v))
    rejects(check_expected_gradient, lambda z, m, v: spread(jax.lax.stop_gradient(z), jax.lax.stop_gradient(m), v))


def test_effective_sample_size():
    log_w = np.random.default_rng(0).normal(size=(30, 3)) * 2 - 500
    w = np.exp(log_w + 500)
    np.testing.assert_allclose(iwae.effective_sample_size(jnp.float32(log_w)), w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-3)
    np.testing.assert_allclose(iwae.effective_sample_size(jnp.full((30, 2), -700.0)), 30.0, rtol=1e-6)


# -- many samples in constant memory -----------------------------------------------------------------------------------


def check_chunks(importance_sampling):
    """The scan over chunks equals the one-shot formula on the same samples, also with a smaller last chunk."""
    log_weight_of = lambda key, n: weights(THETA, n, key)
    for k, chunk in [(12, 4), (11, 4), (3, 50), (1, 1), (64, 16)]:
        sizes = [min(chunk, k)] * (k // min(chunk, k)) + [k % min(chunk, k)] * (k % min(chunk, k) > 0)
        log_w = jnp.concatenate([log_weight_of(jax.random.fold_in(KEY, i), n) for i, n in enumerate(sizes)])
        ours = importance_sampling(log_weight_of, KEY, k, chunk)
        np.testing.assert_allclose(ours.bound, iwae.iwae_bound(log_w), rtol=1e-5)
        np.testing.assert_allclose(ours.effective, iwae.effective_sample_size(log_w), rtol=1e-4)


def test_chunks_equal_one_shot():
    check_chunks(iwae.importance_sampling)


def altered(**changes):
    """Importance sampling whose samples or result are tampered with."""

    def importance_sampling(log_weight_of, key, k, chunk):
        source = changes.get("source", lambda f: f)(log_weight_of)
        count = changes.get("count", lambda k, chunk: k)(k, chunk)
        estimate = iwae.importance_sampling(source, key, count, chunk)
        return changes.get("result", lambda e, k: e)(estimate, k)

    return importance_sampling


CHUNK_MUTANTS = {
    "the same noise in every chunk": altered(source=lambda f: lambda key, n: f(KEY, n)),
    "the rest dropped": altered(count=lambda k, chunk: max(k // chunk * chunk, 1)),
    "no log k": altered(result=lambda e, k: e._replace(bound=e.bound + math.log(k))),
    "first chunk only": altered(count=lambda k, chunk: min(k, chunk)),
    "effective size of squares": altered(result=lambda e, k: e._replace(effective=1 / e.effective)),
}


@pytest.mark.parametrize("mutant", CHUNK_MUTANTS.values(), ids=CHUNK_MUTANTS)
def test_chunks_reject(mutant):
    rejects(check_chunks, mutant)


def test_memory_does_not_grow_with_k():
    def memory(k):
        estimate = lambda key: iwae.importance_sampling(lambda key, n: weights(THETA, n, key), key, k, chunk=100)
        return jax.jit(estimate).lower(KEY).compile().memory_analysis().temp_size_in_bytes

    assert memory(5_000) <= 1.1 * memory(200)


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD = {
    "k = 0": lambda: weights(THETA, 0),
    "k = 0, chunk = 5": lambda: iwae.importance_sampling(lambda key, n: jnp.zeros((n, 2)), KEY, 0, 5),
    "chunk = 0": lambda: iwae.importance_sampling(lambda key, n: jnp.zeros((n, 2)), KEY, 5, 0),
    "floor = -1": lambda: variational.free_bits(RATE, -1.0),
    r"rate has shape \[3\]": lambda: variational.free_bits(RATE[:, 0], 0.1),
    r"log_weights has shape \[4\]": lambda: variational.negative_iwae(jnp.zeros(4)),
    r"log_likelihood \[2\], rate \[2, 3\]": lambda: variational.negative_elbo(jnp.zeros(2), jnp.zeros((2, 3))),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_input(message, call):
    with pytest.raises(BadInput, match=message) as error:
        call()
    assert 2 <= len(error.value.lines) <= 3


def test_half_precision_is_converted_on_entry():
    half = jnp.full((3, 2), -91.0, jnp.bfloat16)
    assert variational.negative_iwae(half).dtype == jnp.float32
    assert variational.negative_elbo(half[0], half[0]).dtype == jnp.float32
    assert variational.free_bits(-half, 1.0).dtype == jnp.float32
    assert iwae.log_weights(half, half).dtype == jnp.float32

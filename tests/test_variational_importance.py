"""Gradients of importance-weighted bounds against exact ones; MIWAE, CIWAE, PIWAE; every check kills planted bugs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from binary_images import ROWS
from planted import rejects

from genjax.distributions import bernoulli_log_prob, event_sum, log_mean_exp, normal_log_prob, sample_normal
from genjax.errors import BadInput
from genjax.losses.importance import (
    doubly_reparameterized,
    negative_ciwae,
    negative_miwae,
    negative_piwae,
    reparameterized,
    sticking_the_landing,
)
from genjax.losses.variational import negative_iwae

stop = jax.lax.stop_gradient


def trapezoid(dims, half_width, step):
    """E[f(eps)], eps ~ N(0, 1)^dims, by the trapezoidal rule, whose error falls exponentially.

    [n^dims, dims] and [n^dims] in float64, the weights normalised.
    """
    x = np.arange(-half_width, half_width + step / 2, step)
    grid = np.stack(np.meshgrid(*[x] * dims, indexing="ij"), -1).reshape(-1, dims)
    weight = np.exp(-0.5 * np.square(grid).sum(-1))
    return grid, weight / weight.sum()


# -- six binary pixels and one Gaussian latent: every expectation by quadrature ----------------------------------------

RNG = np.random.default_rng(0)
THETA = {"slope": RNG.normal(size=6) * 1.5, "offset": RNG.normal(size=6)}
PHI = {"mean": RNG.normal(size=6) * 0.6, "log_var": RNG.normal(size=6) * 0.3}
FEW = np.float64(ROWS[[3, 12, 22, 41, 63, 0]])
IMPORTANCE = np.array([0.3, 1.0, 0.7, 0.2, 0.5, 0.0])  # weights of the examples in the loss; the last is padding


def log_joint(theta, x, z):
    """log p(x | z) + log N(z; 0, 1): x [..., 6], z [...] -> [...]."""
    logits = jnp.tanh(z)[..., None] * theta["slope"].reshape(*(1,) * z.ndim, 6)
    logits = logits + theta["offset"].reshape(*(1,) * z.ndim, 6)
    return event_sum(bernoulli_log_prob(x, logits), leading=z.ndim) + normal_log_prob(z, 0.0, 0.0)


def posterior_of(phi, x):
    return x @ phi["mean"] - 0.5, 0.5 * jnp.tanh(x @ phi["log_var"])


def expected(bound, theta, phi, x, k, step=0.25):
    """[X] E of the bound over the noise of k samples; rows of the batch are the pairs (point of the grid, x)."""
    eps, weight = trapezoid(k, 6.0, step)
    rows = lambda a: jnp.tile(a, len(eps))  # [X] -> [n X]
    noise = jnp.repeat(jnp.asarray(eps.T), len(x), axis=1)  # [k, n X]
    every = jnp.tile(x, (len(eps), 1))
    posterior = tuple(jnp.broadcast_to(rows(a), noise.shape) for a in posterior_of(phi, x))
    z = posterior[0] + jnp.exp(0.5 * posterior[1]) * noise

    def log_weight(posterior, z):
        images = jnp.broadcast_to(every, (*z.shape, 6))
        return log_joint(theta, images, z) - normal_log_prob(z, *posterior)

    values = bound(log_weight, posterior, z).reshape(len(eps), len(x))
    return jnp.tensordot(weight, values, axes=1)


def exact(theta, phi, x, k):
    """[X] E of -log 1/k sum w for k = 1, 2 on a fixed grid of z: phi enters by the density of q, never by a sample."""
    z = jnp.arange(-10.0, 10.01, 0.1)
    grid = jnp.broadcast_to(z[:, None], (z.size, len(x)))
    log_q = normal_log_prob(grid, *(jnp.broadcast_to(a, grid.shape) for a in posterior_of(phi, x)))
    log_w = log_joint(theta, jnp.broadcast_to(x, (*grid.shape, 6)), grid) - log_q
    q = jnp.exp(log_q) * 0.1
    if k == 1:
        return -jnp.sum(q * log_w, axis=0)
    pairs = jnp.logaddexp(log_w[:, None], log_w[None]) - math.log(2.0)
    return -jnp.sum(q[:, None] * q[None] * pairs, axis=(0, 1))


def gradients(mean_of):
    loss = lambda params: jnp.sum(IMPORTANCE * mean_of(*params, FEW))
    return jax.tree.map(np.asarray, jax.jit(jax.grad(loss))((THETA, PHI)))


def differs(ours, theirs):
    """The largest difference of two gradients, relative to the largest component."""
    leaves = [jax.tree.leaves(tree) for tree in (ours, theirs)]
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves[0]), "not finite"
    gap = max(np.max(np.abs(np.subtract(a, b))) for a, b in zip(*leaves, strict=True))
    return gap / max(np.max(np.abs(b)) for b in leaves[1])


@pytest.fixture(scope="module")
def exact_gradients():
    with jax.enable_x64(True):
        return {k: gradients(lambda theta, phi, x, k=k: exact(theta, phi, x, k)) for k in (1, 2)}


def check_mean_gradient(exact_gradients, bound, ladder=(1, 2)):
    """The expected gradient is that of the expected bound, for theta and phi: float64, within 1e-6."""
    with jax.enable_x64(True):
        for k in ladder:
            ours = gradients(lambda theta, phi, x, k=k: expected(bound, theta, phi, x, k))
            assert differs(ours, exact_gradients[k]) < 1e-6


def test_plain_and_doubly_reparameterized_gradients_are_unbiased(exact_gradients):
    check_mean_gradient(exact_gradients, reparameterized)
    check_mean_gradient(exact_gradients, doubly_reparameterized)


def test_sticking_the_landing_is_unbiased_for_one_sample_and_biased_for_two(exact_gradients):
    check_mean_gradient(exact_gradients, sticking_the_landing, (1,))
    rejects(check_mean_gradient, exact_gradients, sticking_the_landing, (2,))
    with jax.enable_x64(True):  # of phi alone
        theta, phi = gradients(lambda theta, phi, x: expected(sticking_the_landing, theta, phi, x, 2))
    assert differs(theta, exact_gradients[2][0]) < 1e-6 and differs(phi, exact_gradients[2][1]) > 1e-2


def surrogate(weigh, fixed=True):
    """-L_k whose gradient weighs each sample as told."""

    def bound(log_weight, posterior, z):
        log_w = log_weight(stop(posterior) if fixed else posterior, z)
        return -jnp.sum(stop(weigh(jax.nn.softmax(log_w, axis=0))) * log_w, axis=0)

    return bound


GRADIENT_MUTANTS = {
    "theta squared too": surrogate(lambda v: v**2),
    "the score kept": surrogate(lambda v: v**2, fixed=False),
    "equal shares": surrogate(lambda v: jnp.full_like(v, 1 / v.shape[0])),
    "samples stopped": lambda f, q, z: reparameterized(f, q, stop(z)),
    "squared twice": lambda f, q, z: doubly_reparameterized(lambda q, z: doubled(f, q, z), q, z),
    "sign": lambda f, q, z: -doubly_reparameterized(f, q, z),
    "twice": lambda f, q, z: 2 * doubly_reparameterized(f, q, z),
}


def doubled(log_weight, posterior, z):
    """Log weights whose path counts twice."""
    log_w = log_weight(posterior, z)
    return log_w + log_w - log_weight(posterior, stop(z))


@pytest.mark.parametrize("mutant", GRADIENT_MUTANTS.values(), ids=GRADIENT_MUTANTS)
def test_mean_gradient_rejects(exact_gradients, mutant):
    rejects(check_mean_gradient, exact_gradients, mutant, (2,))


def check_is_a_bound(bound):
    """k = 2: sum over all 64 x of exp(E bound) <= 1, E bound <= log p(x), and the value by densities alone."""
    with jax.enable_x64(True):
        x = np.float64(ROWS)
        value = -jax.jit(lambda: expected(bound, THETA, PHI, x, 2))()
        nodes, weight = trapezoid(1, 8.0, 0.1)
        z = np.broadcast_to(nodes, (len(nodes), 64))
        joint = log_joint(THETA, np.broadcast_to(x, (*z.shape, 6)), z) - normal_log_prob(z, 0.0, 0.0)
        log_p = scipy.special.logsumexp(np.asarray(joint), axis=0, b=weight[:, None])
        assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-9)
        assert np.exp(value).sum() <= 1.0 and np.all(value <= log_p)
        np.testing.assert_allclose(-value, jax.jit(lambda: exact(THETA, PHI, x, 2))(), rtol=1e-7)


def test_the_three_values_are_the_same_bound():
    for bound in (reparameterized, sticking_the_landing, doubly_reparameterized):
        check_is_a_bound(bound)


@pytest.mark.parametrize("mutant", ["no log k", "mean of logarithms", "best sample", "q of z with its sign lost"])
def test_bound_rejects(mutant):
    planted = {
        "no log k": lambda f, q, z: negative_iwae(f(q, z)) - math.log(len(z)),
        "mean of logarithms": lambda f, q, z: -f(q, z).mean(0),
        "best sample": lambda f, q, z: -f(q, z).max(0),
        "q of z with its sign lost": lambda f, q, z: negative_iwae(f(q, z) + 2 * normal_log_prob(z, *q)),
    }
    rejects(check_is_a_bound, planted[mutant])


# -- two layers of latents: the square belongs to the joint sample -----------------------------------------------------


def layered(bound, phi):
    """E of the bound, k = 2: z1 ~ N(a, e^b), z2 | z1 ~ N(c tanh z1, 1/2); p(z1) p(z2 | z1) p(x | z2) all Gaussian."""
    eps, weight = trapezoid(4, 5.0, 0.5)
    one, two = eps.T[:2], eps.T[2:]  # [k, n]
    spread = math.log(0.5)

    def log_weight(phi, z):
        one, two = z
        log_q = normal_log_prob(one, phi["a"], phi["b"]) + normal_log_prob(two, phi["c"] * jnp.tanh(one), spread)
        log_p = normal_log_prob(one, 0.0, 0.0) + normal_log_prob(two, 0.5 * one, 0.0) + normal_log_prob(0.7, two, 0.0)
        return log_p - log_q

    first = phi["a"] + jnp.exp(0.5 * phi["b"]) * one
    second = phi["c"] * jnp.tanh(first) + math.sqrt(0.5) * two
    return jnp.sum(weight * bound(log_weight, phi, (first, second)))


@functools.cache
def layered_gradient(bound):
    with jax.enable_x64(True):
        phi = {name: jnp.float64(value) for name, value in (("a", 0.4), ("b", -0.5), ("c", 0.8))}
        return jax.tree.map(np.asarray, jax.jit(jax.grad(lambda phi: layered(bound, phi)))(phi))


def check_layers(bound):
    """The expected gradient equals that of the plain estimator: float64, within 1e-4 (the error of the grid)."""
    assert differs(layered_gradient(bound), layered_gradient(reparameterized)) < 1e-4


def test_doubly_reparameterized_through_two_layers():
    check_layers(doubly_reparameterized)
    rejects(check_layers, sticking_the_landing)
    # one layer of the two left out of the square
    half = lambda f, q, z: doubly_reparameterized(lambda q, one: f(q, (one, z[1])), q, z[0])
    rejects(check_layers, half)
    # the first layer's score kept: the second's mean depends on it
    rejects(check_layers, lambda f, q, z: doubly_reparameterized(lambda q, z: f(q, (stop(z[0]), z[1])), q, z))


# -- linear-Gaussian: variance, and exact zero at the exact posterior --------------------------------------------------

SLOPE, NOISE, PIXELS = np.array([1.2, -0.7, 0.4]), 0.25, np.array([[0.9, -0.1, 0.5]])
PRECISION = 1.0 + float(SLOPE @ SLOPE) / NOISE
BEST = np.float64([(PIXELS @ SLOPE)[0] / NOISE / PRECISION, -math.log(PRECISION)])  # mean and log_var of p(z | x)

POOR = np.float32(BEST) + np.float32([0.25, 0.4])


def linear_gradients(bound, phi, k, seeds):
    """[seeds, 2] gradients in (mean, log_var) of one latent."""

    def one(phi, key):
        posterior = tuple(jnp.broadcast_to(a, (k, 1)) for a in phi)
        z = sample_normal(*posterior, key)

        def log_weight(posterior, z):
            mean = z[..., None] * jnp.asarray(SLOPE, z.dtype).reshape(1, 1, 3)
            x = jnp.broadcast_to(jnp.asarray(PIXELS, z.dtype), mean.shape)
            fit = event_sum(normal_log_prob(x, mean, math.log(NOISE)), leading=2)
            return fit + normal_log_prob(z, 0.0, 0.0) - normal_log_prob(z, *posterior)

        return bound(log_weight, posterior, z)[0]

    keys = jax.random.split(jax.random.key(0), seeds)
    return np.float64(jax.jit(jax.vmap(jax.grad(one), (None, 0)))(jnp.asarray(phi), keys))


SEEDS = 20_000


@pytest.fixture(scope="module")
def plain_gradients():
    return linear_gradients(reparameterized, POOR, 16, SEEDS)


def check_variance(plain, bound):
    """k = 16, a poor q: the mean of the plain gradient within four standard errors, at most half of its variance."""
    ours = linear_gradients(bound, POOR, 16, SEEDS)
    error = np.sqrt((ours.var(0) + plain.var(0)) / SEEDS)
    assert np.all(np.abs(ours.mean(0) - plain.mean(0)) < 4 * error), "biased"
    assert np.all(ours.var(0) < 0.5 * plain.var(0)), "no less variance"


def test_doubly_reparameterized_has_less_variance(plain_gradients):
    check_variance(plain_gradients, doubly_reparameterized)
    rejects(check_variance, plain_gradients, reparameterized)
    rejects(check_variance, plain_gradients, lambda f, q, z: doubly_reparameterized(f, q, stop(z)))


def test_sticking_the_landing_has_less_variance_and_a_bias(plain_gradients):
    ours = linear_gradients(sticking_the_landing, POOR, 16, SEEDS)
    assert np.all(ours.var(0) < plain_gradients.var(0))
    error = np.sqrt((ours.var(0) + plain_gradients.var(0)) / SEEDS)
    assert np.any(np.abs(ours.mean(0) - plain_gradients.mean(0)) > 8 * error)


def check_exact_zero(bound, k):
    """At the exact posterior every single gradient is zero: float64, within 1e-10; that of a plain one is about 1."""
    with jax.enable_x64(True):
        assert np.abs(linear_gradients(bound, BEST, k, 100)).max() < 1e-10


def test_no_variance_at_the_exact_posterior():
    check_exact_zero(sticking_the_landing, 1)
    check_exact_zero(sticking_the_landing, 16)
    check_exact_zero(doubly_reparameterized, 16)
    rejects(check_exact_zero, reparameterized, 16)


# -- combinations of bounds: arrays against their formulas -------------------------------------------------------------

GROUPS = RNG.normal(size=(3, 4, 5)) * 20 - 500  # [m, k, B]


def check_miwae(negative):
    negative = jax.jit(negative)
    exact = -(scipy.special.logsumexp(GROUPS, axis=1) - math.log(4)).mean(0)
    np.testing.assert_allclose(negative(jnp.float32(GROUPS)), exact, rtol=1e-5)
    one_group, one_sample = jnp.float32(GROUPS[:1]), jnp.float32(GROUPS[:, :1])
    np.testing.assert_allclose(negative(one_group), negative_iwae(one_group[0]), rtol=1e-6)
    np.testing.assert_allclose(negative(one_sample), -one_sample[:, 0].mean(0), rtol=1e-6)


def check_ciwae(negative):
    negative = jax.jit(negative)
    log_w = jnp.float32(GROUPS[0])
    np.testing.assert_allclose(negative(log_w, 0.0), negative_iwae(log_w), rtol=1e-6)
    np.testing.assert_allclose(negative(log_w, 1.0), -log_w.mean(0), rtol=1e-6)
    exact = -0.3 * GROUPS[0].mean(0) - 0.7 * (scipy.special.logsumexp(GROUPS[0], axis=0) - math.log(4))
    np.testing.assert_allclose(negative(log_w, jnp.float32(0.3)), exact, rtol=1e-5)


def check_piwae(negative):
    """Value and theta's gradient are IWAE's on all samples, phi's gradient is MIWAE's."""
    noise = jnp.float32(GROUPS / 20)
    weigh = lambda theta, phi: -jnp.square(noise - theta) + 0.3 * jnp.sin(noise * phi)
    flat = lambda theta, phi: negative_iwae(weigh(theta, phi).reshape(12, 5))
    ours = lambda theta, phi: negative(weigh(theta, stop(phi)), weigh(stop(theta), phi))
    grouped = lambda theta, phi: negative_miwae(weigh(theta, phi))
    both = lambda f: jax.jit(lambda at: (f(*at), *jax.jacrev(f, (0, 1))(*at)))((jnp.float32(0.4), jnp.float32(1.3)))
    value, theta, phi = both(ours)
    np.testing.assert_allclose(value, both(flat)[0], rtol=1e-6)
    np.testing.assert_allclose(theta, both(flat)[1], rtol=1e-5)
    np.testing.assert_allclose(phi, both(grouped)[2], rtol=1e-5)


def test_combinations():
    check_miwae(negative_miwae)
    check_ciwae(negative_ciwae)
    check_piwae(negative_piwae)


COMBINATION_MUTANTS = {
    "MIWAE over groups": (check_miwae, lambda w: negative_miwae(jnp.swapaxes(w, 0, 1))),
    "MIWAE: sum of groups": (check_miwae, lambda w: negative_miwae(w) * len(w)),
    "MIWAE: one large group": (check_miwae, lambda w: negative_iwae(w.reshape(-1, 5))),
    "CIWAE reversed": (check_ciwae, lambda w, beta: negative_ciwae(w, 1 - beta)),
    "CIWAE: mean inside": (
        check_ciwae,
        lambda w, beta: -log_mean_exp(beta * w.mean(0, keepdims=True) + (1 - beta) * w),
    ),
    "PIWAE: values of both": (check_piwae, lambda a, b: negative_piwae(a, b) + negative_miwae(stop(b))),
    "PIWAE exchanged": (check_piwae, lambda a, b: negative_piwae(b, a)),
    "PIWAE: phi as IWAE": (check_piwae, lambda a, b: negative_iwae((a + b - stop(b)).reshape(12, 5))),
    "PIWAE: phi not at all": (check_piwae, lambda a, b: negative_piwae(a, stop(b))),
}


@pytest.mark.parametrize(("check", "mutant"), COMBINATION_MUTANTS.values(), ids=COMBINATION_MUTANTS)
def test_combinations_reject(check, mutant):
    rejects(check, mutant)


# -- bad input ---------------------------------------------------------------------------------------------------------

two = jnp.zeros((2, 3))
BAD = {
    r"log_weights has shape \[0, 3\]": lambda: negative_iwae(jnp.zeros((0, 3))),
    r"log_weights has shape \[2, 3\]": lambda: negative_miwae(two),
    r"log_weights has shape \[0, 4, 3\]": lambda: negative_miwae(jnp.zeros((0, 4, 3))),
    r"log_weights has shape \[4, 0, 3\]": lambda: negative_miwae(jnp.zeros((4, 0, 3))),
    "beta = -0.1": lambda: negative_ciwae(two, -0.1),
    "beta = 1.5": lambda: negative_ciwae(two, 1.5),
    "beta = nan": lambda: negative_ciwae(two, math.nan),
    r"log_weights has shape \[3\]": lambda: negative_ciwae(two[0], 0.5),
    "model_log_weights .*posterior_log_weights": lambda: negative_piwae(jnp.zeros((2, 2, 3)), jnp.zeros((2, 3, 3))),
    r"log_weights \[2\], samples \[2, 3\]": lambda: doubly_reparameterized(lambda q, z: z.sum(1), two, two),
    r"z\[0\] \[2, 3\], z\[1\] \[3, 3\]": lambda: doubly_reparameterized(
        lambda q, z: z[0], two, (two, jnp.zeros((3, 3)))
    ),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_input(message, call):
    with pytest.raises(BadInput, match=message) as error:
        call()
    assert 2 <= len(error.value.lines) <= 3


def test_half_precision_is_converted_on_entry():
    half = jnp.full((2, 2, 3), -91.0, jnp.bfloat16)
    first = lambda posterior, z: z[..., 0]
    values = jax.jit(lambda w: (negative_miwae(w), negative_ciwae(w[0], 0.5), negative_piwae(w, w)))(half)
    for value in values:
        assert value.dtype == jnp.float32 and value.tolist() == [91.0] * 3
    slope = jax.jit(jax.grad(lambda z: doubly_reparameterized(first, z, z).sum()))(half)
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(slope), np.broadcast_to(np.float32([-0.25, 0.0, 0.0]), (2, 2, 3)))

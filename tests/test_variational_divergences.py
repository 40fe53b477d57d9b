"""beta-TC's decomposition, maximum mean discrepancy and warm-up: enumeration, quadrature, laws; planted bugs."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.distributions import kl_normal_standard, normal_log_prob
from genjax.errors import BadInput
from genjax.losses import discrepancy as mmd
from genjax.losses import total_correlation as tc
from genjax.losses import variational
from genjax.losses.warm_up import cyclical_warm_up, linear_warm_up

KEY = jax.random.key(0)

# -- log q(z) from a batch ---------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
ROWS, BATCH = 6, 3
DENSITY = np.exp(-np.square(RNG.normal(size=(ROWS, 1)) - RNG.normal(size=(1, ROWS))))  # q(z_i | j)


def mean_over_batches(estimate):
    """[N] the mean of exp(estimate_i) over all batches that hold i, without replacement: every subset, in float64."""
    total, count = np.zeros(ROWS), math.comb(ROWS - 1, BATCH - 1)
    with jax.enable_x64(True):
        of_batch = jax.jit(lambda density: jnp.exp(estimate(jnp.log(density), ROWS)))
        for chosen in itertools.combinations(range(ROWS), BATCH):
            rows = np.array(chosen)
            total[rows] += np.asarray(of_batch(DENSITY[np.ix_(rows, rows)]))
    return total / count


def check_stratified(estimate):
    """Unbiased for q(z_i) over all batches, exact for the whole set: within 1e-12."""
    np.testing.assert_allclose(mean_over_batches(estimate), DENSITY.mean(1), rtol=1e-12)
    with jax.enable_x64(True):
        np.testing.assert_allclose(estimate(jnp.log(DENSITY), ROWS), np.log(DENSITY.mean(1)), rtol=1e-12)


def check_weighted(estimate):
    """Its mean over all batches by hand: the own posterior in every batch, each other in (B-1)/(N-1) of them."""
    own, others = np.diag(DENSITY), DENSITY.sum(1) - np.diag(DENSITY)
    exact = (own + others * (BATCH - 1) / (ROWS - 1)) / (ROWS * BATCH)
    np.testing.assert_allclose(mean_over_batches(estimate), exact, rtol=1e-12)


def stratified(own, other):
    """The estimate with other shares."""

    def estimate(log_density, rows):
        batch = len(log_density)
        share = jnp.where(jnp.eye(batch, dtype=bool), own(rows, batch), other(rows, batch))
        return jnp.log((jnp.exp(log_density) * share).sum(1))

    return estimate


OTHER = lambda n, b: (n - 1) / (n * (b - 1))
ESTIMATE_MUTANTS = {
    "mean of the batch": (check_stratified, stratified(lambda n, b: 1 / b, lambda n, b: 1 / b)),
    "own posterior left out": (check_stratified, stratified(lambda n, b: 0.0, OTHER)),
    "own share 1/B": (check_stratified, stratified(lambda n, b: 1 / b, OTHER)),
    "others 1/(B-1)": (check_stratified, stratified(lambda n, b: 1 / n, lambda n, b: 1 / (b - 1))),
    "others (N-B)/(N (B-1))": (check_stratified, stratified(lambda n, b: 1 / n, lambda n, b: (n - b) / (n * (b - 1)))),
    "weighted": (check_stratified, tc.minibatch_weighted),
    "over samples": (check_stratified, lambda log_density, rows: tc.minibatch_stratified(log_density.T, rows)),
    "the set's size forgotten": (
        check_stratified,
        lambda log_density, rows: tc.minibatch_stratified(log_density, BATCH),
    ),
    "weighted without N": (check_weighted, lambda log_density, rows: tc.minibatch_weighted(log_density, BATCH)),
    "weighted over samples": (check_weighted, lambda log_density, rows: tc.minibatch_weighted(log_density.T, rows)),
}


def test_estimates_of_the_aggregate_posterior():
    check_stratified(tc.minibatch_stratified)
    check_weighted(tc.minibatch_weighted)


@pytest.mark.parametrize(("check", "mutant"), ESTIMATE_MUTANTS.values(), ids=ESTIMATE_MUTANTS)
def test_estimates_reject(check, mutant):
    rejects(check, mutant)


# -- the three terms ---------------------------------------------------------------------------------------------------

MEANS = np.array([[1.2, 0.9], [-0.8, -1.1], [0.1, 0.4], [-0.9, 0.3]])  # four posteriors, their means correlated
LOG_VARS = np.array([[-0.9, -0.4], [-0.3, -1.2], [0.1, -0.6], [-0.5, -0.2]])


def normal_densities(z, means, log_vars):
    """log q(z_{i,d} | x_j) [B, B, D]."""
    shape = (len(z), len(means), z.shape[1])
    return normal_log_prob(*(jnp.broadcast_to(a, shape) for a in (z[:, None], means[None], log_vars[None])))


@pytest.fixture(scope="module")
def exact_terms():
    """Mutual information, total correlation, dimension-wise KL by sums over a grid of z, in NumPy alone."""
    x = np.arange(-8.0, 8.01, 0.1)
    one = scipy.stats.norm.pdf(x[:, None, None], MEANS, np.exp(LOG_VARS / 2))  # [n, 4, 2]
    each = one[:, None, :, 0] * one[None, :, :, 1]  # [n, n, 4]
    joint, margins = each.mean(-1), one.mean(1)
    product = margins[:, None, 0] * margins[None, :, 1]
    prior = scipy.stats.norm.pdf(x)
    floor = lambda a: np.log(np.maximum(a, 1e-300))
    information = (each * (floor(each) - floor(joint)[..., None])).sum() * 0.01 / 4
    correlation = (joint * (floor(joint) - floor(product))).sum() * 0.01
    dimension_wise = (margins * (floor(margins) - floor(prior)[:, None])).sum() * 0.1
    return np.array([information, correlation, dimension_wise])


def check_decomposition(exact_terms, decompose):
    """The expectation of each term over the noise, B = N, by quadrature: within 1e-6; their sum is the KL."""
    assert np.all(exact_terms > 0.02)
    x = np.arange(-6.0, 6.01, 0.3)
    eps = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    weight = np.exp(-0.5 * np.square(eps).sum(-1))
    with jax.enable_x64(True):

        def terms(eps):
            z = MEANS + np.exp(LOG_VARS / 2) * eps[None]
            return jnp.stack(decompose(normal_densities(z, MEANS, LOG_VARS), normal_log_prob(z, 0.0, 0.0), 4))

        ours = np.asarray(jax.jit(jax.vmap(terms))(eps))  # [n, 3, 4]
        kl = np.asarray(kl_normal_standard(MEANS, LOG_VARS)).sum(1)
    ours = np.tensordot(weight / weight.sum(), ours, axes=1)
    np.testing.assert_allclose(ours.mean(1), exact_terms, atol=1e-6)
    np.testing.assert_allclose(ours.sum(0), kl, atol=1e-6)


def test_decomposition(exact_terms):
    check_decomposition(exact_terms, tc.kl_decomposition)


def joint_by_margins(log_density, log_prior, rows):
    """log q(z) taken for the sum of its margins."""
    parts = tc.kl_decomposition(log_density, log_prior, rows)
    moved = parts.total_correlation
    return parts._replace(mutual_information=parts.mutual_information + moved, total_correlation=0 * moved)


TERM_MUTANTS = {
    "margins for the joint": joint_by_margins,
    "terms exchanged": lambda q, p, n: tc.kl_decomposition(q, p, n)[::-1],
    "sign of the prior": lambda q, p, n: tc.kl_decomposition(q, -p, n),
    "sign of the correlation": lambda q, p, n: (lambda a, b, c: (a, -b, c))(*tc.kl_decomposition(q, p, n)),
    "weighted": lambda q, p, n: tc.kl_decomposition(q, p, n, tc.minibatch_weighted),
    "posteriors by samples": lambda q, p, n: tc.kl_decomposition(jnp.swapaxes(q, 0, 1), p, n),
    "another set's size": lambda q, p, n: tc.kl_decomposition(q, p, 2 * n),
    "latents averaged": lambda q, p, n: [term / 2 for term in tc.kl_decomposition(q, p, n)],
}


@pytest.mark.parametrize("mutant", TERM_MUTANTS.values(), ids=TERM_MUTANTS)
def test_decomposition_rejects(exact_terms, mutant):
    rejects(check_decomposition, exact_terms, mutant)


@pytest.mark.parametrize("estimate", [tc.minibatch_stratified, tc.minibatch_weighted])
def test_terms_sum_to_the_sampled_rate(estimate):
    """Whatever the estimate of log q(z) and the size of the set; weights of 1 give the ELBO of the sample."""

    @jax.jit
    def both(z, fit):
        densities, prior = normal_densities(z, MEANS, LOG_VARS), normal_log_prob(z, 0.0, 0.0)
        rate = (normal_log_prob(z, jnp.float32(MEANS), jnp.float32(LOG_VARS)) - prior).sum(1)
        parts = tc.kl_decomposition(densities, prior, 1_000, estimate)
        losses = tc.negative_beta_tc(fit, parts, 1.0), variational.negative_elbo(fit, rate)
        return (sum(parts), rate), losses

    for ours, exact in both(jnp.float32(RNG.normal(size=(4, 2))), jnp.arange(-4.0, 0.0)):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4)


def check_weights(negative):
    parts = tc.Decomposition(*jnp.float32([[3.0, 1.0], [0.5, 0.2], [2.0, 4.0]]))
    value = negative(jnp.float32([-10.0, -20.0]), parts, beta=jnp.float32(6.0), alpha=0.0, gamma=2.0)
    np.testing.assert_allclose(value, [10 + 3.0 + 4.0, 20 + 1.2 + 8.0], rtol=1e-6)


def test_weights_of_beta_tc():
    check_weights(tc.negative_beta_tc)
    rejects(check_weights, lambda fit, parts, beta, alpha, gamma: tc.negative_beta_tc(fit, parts, beta, gamma, alpha))
    rejects(check_weights, lambda fit, parts, beta, alpha, gamma: tc.negative_beta_tc(-fit, parts, beta, alpha, gamma))
    rejects(check_weights, lambda fit, parts, beta, alpha, gamma: tc.negative_beta_tc(fit, parts, alpha, beta, gamma))


# -- maximum mean discrepancy ------------------------------------------------------------------------------------------


def test_kernels():
    """Values, and no negative eigenvalue of a matrix of kernels: a Gaussian of width w, and C / (C + d^2)."""
    squared = np.float32([0.0, 0.5, 4.0, 100.0])
    np.testing.assert_allclose(mmd.gaussian_kernel(1.5)(squared), np.exp(-squared / 4.5), rtol=1e-6)
    np.testing.assert_allclose(mmd.inverse_multiquadratic_kernel(2.0)(squared), 2 / (2 + squared), rtol=1e-6)
    x = RNG.normal(size=(12, 3))
    distances = np.square(x[:, None] - x[None]).sum(-1)
    for kernel in (mmd.gaussian_kernel(0.7), mmd.inverse_multiquadratic_kernel(6.0)):
        assert np.linalg.eigvalsh(np.float64(kernel(distances))).min() > -1e-5


KERNELS = (mmd.gaussian_kernel(1.3), mmd.inverse_multiquadratic_kernel(6.0))


def check_double_loop(estimate, diagonal):
    """Against the sums of the paper, written as loops: 5 and 7 samples."""
    x, y = RNG.normal(size=(5, 3)), RNG.normal(size=(7, 3)) + 0.5
    ours = jax.jit(lambda x, y: [estimate(x, y, kernel) for kernel in KERNELS])(jnp.float32(x), jnp.float32(y))
    squares = lambda a, b: np.float32([np.square(u - v).sum() for u, v in itertools.product(a, b)])
    apart = lambda a: np.float32([np.square(u - v).sum() for u, v in itertools.permutations(a, 2)])
    own = (lambda a: squares(a, a)) if diagonal else apart
    for value, kernel in zip(ours, KERNELS, strict=True):
        exact = np.mean(kernel(own(x))) + np.mean(kernel(own(y))) - 2 * np.mean(kernel(squares(x, y)))
        np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-6)


WIDTH, DIMS, SHIFT, N, M = 1.2, 2, np.array([0.6, -0.3]), 10, 15


def expected_kernel(variance, shift=0.0):
    """E k(u), u ~ N(shift, variance I): (w^2 / (w^2 + v))^{D/2} exp(-|shift|^2 / (2 (w^2 + v)))."""
    wide = WIDTH**2 + variance
    return (WIDTH**2 / wide) ** (DIMS / 2) * math.exp(-np.square(shift).sum() / (2 * wide))


def check_gaussians(estimate, biased):
    """N(0, I) against N(shift, 2 I) and itself, 4,000 pairs of small samples: the mean within 4 standard errors.

    Against itself the mean is 0: two-sided p > 1e-4.
    """
    kernel = mmd.gaussian_kernel(WIDTH)

    def one(key, scale, shift):
        first, second = jax.random.split(key)
        y = shift[None] + scale * jax.random.normal(second, (M, DIMS))
        return estimate(jax.random.normal(first, (N, DIMS)), y, kernel)

    many = jax.jit(jax.vmap(one, (0, None, None)))
    for scale, shift in ((math.sqrt(2.0), SHIFT), (1.0, 0 * SHIFT)):
        values = np.float64(many(jax.random.split(KEY, 4_000), np.float32(scale), np.float32(shift)))
        own, other = expected_kernel(2.0), expected_kernel(2 * scale**2)
        exact = own + other - 2 * expected_kernel(1.0 + scale**2, shift)
        exact += ((1 - own) / N + (1 - other) / M) if biased else 0.0
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - exact) < 4 * error
        if not biased and scale == 1.0:
            assert abs(exact) < 1e-12 and scipy.stats.ttest_1samp(values, 0.0).pvalue > 1e-4


def test_discrepancy():
    check_double_loop(mmd.mmd_unbiased, False)
    check_double_loop(mmd.mmd_biased, True)
    check_gaussians(mmd.mmd_unbiased, False)
    check_gaussians(mmd.mmd_biased, True)


def scaled(**changes):
    """MMD^2 from its three means, tampered with."""

    def estimate(x, y, kernel):
        gram = lambda a, b: kernel(jnp.square(a[:, None] - b[None]).sum(-1))
        off = lambda a: (gram(a, a).sum() - len(a)) / (len(a) * (len(a) - changes.get("less", 1)))
        return off(x) + off(y) - changes.get("cross", 2.0) * gram(x, y).mean()

    return estimate


DISCREPANCY_MUTANTS = {
    "biased for unbiased": (mmd.mmd_biased, False),
    "unbiased for biased": (mmd.mmd_unbiased, True),
    "n^2 pairs without the diagonal": (scaled(less=0), False),
    "cross term once": (scaled(cross=1.0), False),
    "sign of the cross term": (scaled(cross=-2.0), False),
    "distances not squared": (lambda x, y, k: mmd.mmd_unbiased(x, y, lambda d: k(jnp.sqrt(d + 1e-12))), False),
    "first sample twice": (lambda x, y, k: mmd.mmd_unbiased(x, x, k), False),
    "root of the square": (lambda x, y, k: jnp.sqrt(mmd.mmd_biased(x, y, k)), True),
}


@pytest.mark.parametrize(("mutant", "biased"), DISCREPANCY_MUTANTS.values(), ids=DISCREPANCY_MUTANTS)
def test_discrepancy_rejects(mutant, biased):
    rejects(check_double_loop, mutant, biased)
    rejects(check_gaussians, mutant, biased)


def test_gradient_pulls_codes_towards_the_prior():
    """Codes that are too far right move left; at equal samples the gradient of the biased estimate is 0."""
    prior = jax.random.normal(KEY, (64, 2))
    heavy = mmd.inverse_multiquadratic_kernel(4.0)
    slope = jax.jit(jax.grad(lambda x: mmd.mmd_unbiased(x, prior, heavy)))(prior + 0.5)
    assert float(slope.sum(0).min()) > 0
    still = jax.jit(jax.grad(lambda x: mmd.mmd_biased(x, prior, mmd.gaussian_kernel(1.0))))(prior)
    np.testing.assert_allclose(still, 0.0, atol=1e-6)


def check_info_vae(negative):
    fit, rate, divergence = jnp.float32([-10.0, -20.0]), jnp.float32([3.0, 5.0]), jnp.float32(0.25)
    np.testing.assert_allclose(negative(fit, rate, divergence, 0.0, 1.0), [13.0, 25.0])  # the ELBO
    np.testing.assert_allclose(negative(fit, rate, divergence, 1.0, 8.0), [12.0, 22.0])  # WAE
    np.testing.assert_allclose(negative(fit, rate, divergence, 0.5, 8.5), [13.5, 24.5])


def test_info_vae():
    check_info_vae(mmd.negative_info_vae)
    rejects(check_info_vae, lambda fit, rate, d, a, w: -fit + (1 - a) * rate + w * d)
    rejects(check_info_vae, lambda fit, rate, d, a, w: -fit + a * rate + (a + w - 1) * d)


# -- warm-up -----------------------------------------------------------------------------------------------------------


def check_warm_up(linear, cyclical):
    steps = np.arange(0, 41)
    each = lambda schedule: np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(41)))
    np.testing.assert_allclose(each(lambda step: linear(step, 16)), np.minimum(1, steps / 16), rtol=1e-6)
    np.testing.assert_allclose(each(lambda step: linear(step, 0)), 1.0)
    for period, rising in ((10, 0.5), (7, 1.0), (1, 0.5)):
        exact = np.minimum(1, (steps % period) / (period * rising))
        np.testing.assert_allclose(each(lambda step, p=period, r=rising: cyclical(step, p, r)), exact, rtol=1e-5)


def test_warm_up():
    check_warm_up(linear_warm_up, cyclical_warm_up)
    rejects(check_warm_up, lambda step, n: linear_warm_up(step + 1, n), cyclical_warm_up)
    rejects(check_warm_up, lambda step, n: linear_warm_up(step, 1000 * n), cyclical_warm_up)
    rejects(check_warm_up, lambda step, n: jnp.asarray(step, jnp.float32) / max(n, 1), cyclical_warm_up)
    rejects(check_warm_up, linear_warm_up, lambda step, p, r: linear_warm_up(step, int(p * r)))
    rejects(check_warm_up, linear_warm_up, lambda step, p, r: cyclical_warm_up(step, p, 1.0))


# -- bad input ---------------------------------------------------------------------------------------------------------

two, square, cube = jnp.zeros((2, 3)), jnp.zeros((4, 4)), jnp.zeros((4, 4, 2))
parts = tc.Decomposition(two[0], two[0], two[0])
gauss = mmd.gaussian_kernel(1.0)
BAD = {
    "beta = -1": lambda: variational.negative_elbo(two[0], two[0], -1.0),
    "beta = nan": lambda: variational.negative_elbo(two[0], two[0], math.nan),
    r"log_density has shape \[2, 3\]": lambda: tc.minibatch_weighted(two, 10),
    r"log_density has shape \[0, 0\]": lambda: tc.minibatch_weighted(square[:0, :0], 10),
    "rows = 3, a batch of 4": lambda: tc.minibatch_stratified(square, 3),
    "a batch of 1": lambda: tc.minibatch_stratified(square[:1, :1], 3),
    r"log_density has shape \[4, 4, 2\], log_prior \[4, 3\]": lambda: tc.kl_decomposition(cube, jnp.zeros((4, 3)), 9),
    r"log_density has shape \[4, 4\], log_prior": lambda: tc.kl_decomposition(square, square, 9),
    "beta = -2": lambda: tc.negative_beta_tc(two[0], parts, -2.0),
    "gamma = -1": lambda: tc.negative_beta_tc(two[0], parts, 1.0, gamma=-1.0),
    r"log_likelihood \[2\], mutual_information \[3\]": lambda: tc.negative_beta_tc(jnp.zeros(2), parts, 1.0),
    "width = 0": lambda: mmd.gaussian_kernel(0.0),
    "scale = -1": lambda: mmd.inverse_multiquadratic_kernel(-1.0),
    r"shapes \[1, 3\] and \[2, 3\]": lambda: mmd.mmd_unbiased(two[:1], two, gauss),
    r"shapes \[0, 3\] and \[2, 3\]": lambda: mmd.mmd_biased(two[:0], two, gauss),
    r"shapes \[2, 3\] and \[2, 2\]": lambda: mmd.mmd_biased(two, two[:, :2], gauss),
    r"shapes \[3\] and": lambda: mmd.mmd_biased(two[0], two, gauss),
    "alpha = 1.5": lambda: mmd.negative_info_vae(two[0], two[0], jnp.float32(0), 1.5, 1.0),
    "alpha = 0.0, weight = 0.5": lambda: mmd.negative_info_vae(two[0], two[0], jnp.float32(0), 0.0, 0.5),
    r"divergence has shape \[3\]": lambda: mmd.negative_info_vae(two[0], two[0], two[0], 0.0, 1.5),
    "a warm-up of -1 steps": lambda: linear_warm_up(0, -1),
    "period = 0": lambda: cyclical_warm_up(0, 0),
    "rising = 0": lambda: cyclical_warm_up(0, 5, 0.0),
    "rising = 1.5": lambda: cyclical_warm_up(0, 5, 1.5),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_input(message, call):
    with pytest.raises(BadInput, match=message) as error:
        call()
    assert 2 <= len(error.value.lines) <= 3

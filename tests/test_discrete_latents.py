"""Score-function gradients and bounds of discrete latents against sums over all paths; planted bugs."""

import math

import binary_latents as model
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import rejects

from genjax.distributions import log_mean_exp, normal_log_prob, sample_normal
from genjax.errors import BadInput
from genjax.learners import minimize
from genjax.losses import discrete_latents as discrete
from genjax.losses.importance import negative_ciwae, negative_miwae, negative_piwae
from genjax.losses.variational import negative_elbo, negative_iwae
from genjax.types import Out

KEY = jax.random.key(0)
stop = jax.lax.stop_gradient
reinforce, vimco = discrete.negative_elbo_reinforce, discrete.negative_vimco


# -- every objective that claims to be a bound is one ------------------------------------------------------------------

THIRD = np.linspace(0.1, 0.9, 64)  # a baseline for each image


def grouped(negative):
    """A loss of [2, 2, B] log weights as one of four samples."""
    return lambda joint, log_q: negative((joint - log_q).reshape(2, 2, -1))


BOUNDS = {  # name: (samples, loss, the smallest k whose exact bound it is)
    "ELBO": (1, lambda joint, log_q: negative_elbo(joint[0], log_q[0]), 1),
    "IWAE 1": (1, lambda joint, log_q: negative_iwae(joint - log_q), 1),
    "IWAE 2": (2, lambda joint, log_q: negative_iwae(joint - log_q), 2),
    "IWAE 3": (3, lambda joint, log_q: negative_iwae(joint - log_q), 3),
    "MIWAE 2 x 2": (4, grouped(negative_miwae), 2),
    "PIWAE 2 x 2": (4, grouped(lambda log_w: negative_piwae(log_w, log_w)), 4),
    "CIWAE": (2, lambda joint, log_q: negative_ciwae(joint - log_q, 0.5), None),
    "REINFORCE 1": (1, lambda joint, log_q: reinforce(joint, log_q, -4.0), 1),
    "REINFORCE 3": (3, lambda joint, log_q: reinforce(joint, log_q, discrete.leave_one_out(joint - log_q)), 1),
    "VIMCO 2": (2, vimco, 2),
    "VIMCO 3": (3, vimco, 3),
}


@pytest.fixture(scope="module")
def paths():
    """log p(x), and E log 1/k sum w for k = 1 .. 4 by a sum over all tuples of paths, in NumPy alone."""
    with jax.enable_x64(True):
        joint, log_q = np.asarray(model.log_joint(model.THETA)), np.asarray(model.log_posterior(model.PHI))
    ladder = {}
    for k in (1, 2, 3, 4):
        rows = model.tuples(k)
        mean = np.log(np.mean([np.exp(joint[row] - log_q[row]) for row in rows], axis=0))
        ladder[k] = (np.exp(sum(log_q[row] for row in rows)) * mean).sum(0)
    return np.log(np.exp(joint).sum(0)), ladder


def check_bound(paths, samples, loss, k):
    """Sum over all 64 x of exp(E bound) <= 1; E bound <= log p(x); E bound = the sum over all paths.

    At q(z | x) = p(z | x) it is log p(x).
    """
    log_p, ladder = paths
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-12)
    with jax.enable_x64(True):
        bound = -np.asarray(jax.jit(lambda: model.expected(loss, model.THETA, model.PHI, samples))())
        joint = model.log_joint(model.THETA)
        tight = -loss(joint[:samples], joint[:samples] - log_p[None])  # q(z | x) = p(z | x)
    assert np.exp(bound).sum() <= 1.0 and np.all(bound <= log_p)
    np.testing.assert_allclose(bound, (ladder[1] + ladder[2]) / 2 if k is None else ladder[k], rtol=1e-9)
    np.testing.assert_allclose(tight, log_p, rtol=1e-9)


@pytest.mark.parametrize(("samples", "loss", "k"), BOUNDS.values(), ids=BOUNDS)
def test_bound(paths, samples, loss, k):
    check_bound(paths, samples, loss, k)


def test_the_model_is_worth_testing(paths):
    """p is far from uniform, the posterior is poor, and the bounds rise by more than rounding."""
    log_p, ladder = paths
    assert log_p.max() - log_p.min() > 3.0
    gaps = [np.exp(log_p) @ (log_p - ladder[k]) for k in (1, 2, 3, 4)]
    assert 3.0 > gaps[0] > 0.1 and np.all(np.diff(gaps) < -0.01)


BOUND_MUTANTS = {
    "ELBO without q": (1, lambda joint, log_q: -joint[0], 1),
    "ELBO: sign of q": (1, lambda joint, log_q: negative_elbo(joint[0], -log_q[0]), 1),
    "ELBO: beta of a half": (1, lambda joint, log_q: negative_elbo(joint[0], log_q[0], 0.5), 1),
    "IWAE without log k": (2, lambda joint, log_q: negative_iwae(joint - log_q) - math.log(2), 2),
    "IWAE: best sample": (2, lambda joint, log_q: -(joint - log_q).max(0), 2),
    "IWAE: reused sample": (2, lambda joint, log_q: negative_iwae((joint - log_q)[:1]), 2),
    "MIWAE as one group": (4, grouped(lambda log_w: negative_iwae(log_w.reshape(4, -1))), 2),
    "PIWAE as MIWAE": (4, grouped(negative_miwae), 4),
    "CIWAE of another beta": (2, lambda joint, log_q: negative_ciwae(joint - log_q, 0.4), None),
    "REINFORCE: value of the surrogate": (1, lambda joint, log_q: -joint[0] - (joint - log_q + 4.0)[0] * log_q[0], 1),
    "REINFORCE: value less baseline": (1, lambda joint, log_q: reinforce(joint, log_q) - 4.0, 1),
    "VIMCO: value of the surrogate": (2, lambda joint, log_q: vimco(joint, log_q) - log_q.mean(0), 2),
}


@pytest.mark.parametrize("mutant", BOUND_MUTANTS.values(), ids=BOUND_MUTANTS)
def test_bound_rejects(paths, mutant):
    rejects(check_bound, paths, *mutant)


def test_a_beta_above_one_is_a_looser_bound(paths):
    """E log p(x | z) - 2 KL, by the sum over paths: below the ELBO for every x; with a half it exceeds log p(x)."""
    log_p, ladder = paths
    with jax.enable_x64(True):
        log_q = model.log_posterior(model.PHI)
        rate = jnp.sum(jnp.exp(log_q) * (log_q - model.log_prior(model.THETA)[:, None]), axis=0)
        fit = jnp.sum(jnp.exp(log_q) * model.log_fit(model.THETA), axis=0)
        one, two, half = (-np.asarray(negative_elbo(fit, rate, beta)) for beta in (1.0, 2.0, 0.5))
    np.testing.assert_allclose(one, ladder[1], rtol=1e-9)
    assert np.all(two < one) and np.exp(two).sum() < 1.0
    assert np.any(half > log_p)


# -- expected gradients are gradients of expectations ------------------------------------------------------------------


def gradients(loss, k, exact=False):
    total = lambda params: jnp.sum(THIRD * model.expected(loss, *params, k, differentiate_samples=exact))
    return jax.tree.map(np.asarray, jax.jit(jax.grad(total))((model.THETA, model.PHI)))


@pytest.fixture(scope="module")
def exact():
    """Gradients of E[-log 1/k sum w], the probabilities of the paths differentiated too."""
    plain = lambda joint, log_q: -log_mean_exp(joint - log_q, axis=0)
    with jax.enable_x64(True):
        return {k: gradients(plain, k, exact=True) for k in (1, 2, 3)}


def check_gradient(exact, loss, samples, k):
    """The expectation of the estimator equals the gradient of the expectation: float64, within 1e-9."""
    with jax.enable_x64(True):
        ours = gradients(loss, samples)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact[k]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def with_leave_one_out(joint, log_q):
    return reinforce(joint, log_q, discrete.leave_one_out(joint - log_q))


def test_reinforce_against_enumeration(exact):
    check_gradient(exact, reinforce, 1, 1)
    check_gradient(exact, lambda joint, log_q: reinforce(joint, log_q, -7.5), 1, 1)
    check_gradient(exact, lambda joint, log_q: reinforce(joint, log_q, jnp.resize(THIRD, joint.shape[1:])), 2, 1)
    check_gradient(exact, with_leave_one_out, 2, 1)
    check_gradient(exact, with_leave_one_out, 3, 1)


@pytest.mark.parametrize("k", [2, 3])
def test_vimco_against_enumeration(exact, k):
    check_gradient(exact, vimco, k, k)


def vimco_with(own, log_q_too=True, without=None):
    """VIMCO with its parts exchanged: what stands for the own weight, whether v_i d log q counts."""

    def loss(joint, log_q):
        log_w = joint - (log_q if log_q_too else stop(log_q))
        k, others = len(log_w), discrete.leave_one_out(log_w)
        replaced = jnp.where(jnp.eye(k, dtype=bool)[:, :, None], own(others, log_w)[:, None], log_w[None])
        signal = stop(log_mean_exp(log_w, axis=0)[None] - log_mean_exp(replaced, axis=1))
        return -log_mean_exp(log_w, axis=0) - jnp.sum(signal * log_q, axis=0)

    return loss


GRADIENT_MUTANTS = {
    "REINFORCE: own sample in the baseline": (lambda j, q: reinforce(j, q, (j - q).mean(0)), 2, 1),
    "REINFORCE: own sample as baseline": (lambda j, q: reinforce(j, q, j - q), 1, 1),
    "REINFORCE: sign of the score": (lambda j, q: -(j + stop(q - j) * q)[0], 1, 1),
    "REINFORCE: signal without q": (lambda j, q: -(j + stop(j) * q)[0], 1, 1),
    "REINFORCE: signal not stopped": (lambda j, q: -(j + (j - q) * q)[0], 1, 1),
    "REINFORCE: no score": (lambda j, q: -(j - q)[0], 1, 1),
    "REINFORCE: sum of samples": (lambda j, q: 2 * reinforce(j, q), 2, 1),
    "REINFORCE: theta stopped": (lambda j, q: reinforce(stop(j), q), 1, 1),
    "REINFORCE as a gradient of two samples' bound": (with_leave_one_out, 2, 2),
    "VIMCO: own weight in the baseline": (vimco_with(lambda others, log_w: log_w), 2, 2),
    "VIMCO: v_i d log q forgotten": (vimco_with(lambda others, log_w: others, log_q_too=False), 2, 2),
    "VIMCO: baseline with a sixth of its own weight": (vimco_with(lambda o, w: o + w / 6), 2, 2),
    "VIMCO: signs": (lambda j, q: -vimco(j, q), 2, 2),
    "VIMCO as a gradient of the ELBO": (vimco, 2, 1),
}


@pytest.mark.parametrize("mutant", GRADIENT_MUTANTS.values(), ids=GRADIENT_MUTANTS)
def test_gradient_rejects(exact, mutant):
    rejects(check_gradient, exact, *mutant)


def check_vimco_is_the_papers(negative):
    """Any function of the other samples would be unbiased: the signals are those of the geometric mean."""
    joint, log_q = np.random.default_rng(0).normal(size=(2, 4, 3)) * 3
    slope = np.asarray(jax.jit(jax.grad(lambda q: negative(jnp.float32(joint), q).sum()))(jnp.float32(log_q)))
    w = np.exp(joint - log_q)
    for i in range(4):
        others = np.delete(w, i, axis=0)
        signal = np.log(w.mean(0)) - np.log((others.sum(0) + others.prod(0) ** (1 / 3)) / 4)
        np.testing.assert_allclose(slope[i], w[i] / w.sum(0) - signal, rtol=1e-4, atol=1e-5)


def test_vimco_is_the_papers():
    check_vimco_is_the_papers(vimco)
    arithmetic = lambda others, log_w: jnp.log(jnp.exp(log_w).sum(0)[None] - jnp.exp(log_w)) - math.log(3)
    rejects(check_vimco_is_the_papers, vimco_with(arithmetic))
    rejects(check_vimco_is_the_papers, vimco_with(lambda others, log_w: 0 * others - 1e9))


def variance(loss, k):
    """The summed variance of phi's gradient at one image, over all tuples of paths, exactly."""
    with jax.enable_x64(True):
        rows, joint = model.tuples(k), model.log_joint(model.THETA)[:, 21]

        def slope(row):
            one = lambda phi: loss(joint[row][:, None], model.log_posterior(phi)[row, 21][:, None])[0]
            return jax.tree.leaves(jax.grad(one)(model.PHI))

        slopes = jax.jit(jax.vmap(slope))(jnp.asarray(rows.T))
        weight = np.exp(np.asarray(model.log_posterior(model.PHI))[rows, 21].sum(0))
        flat = np.concatenate([np.asarray(slope).reshape(len(weight), -1) for slope in slopes], axis=1)
    return float((weight @ flat**2 - (weight @ flat) ** 2).sum())


def test_baselines_take_variance_out():
    """The best constant, the other sample and VIMCO's signals against none, at the same number of samples."""
    none = variance(reinforce, 2)
    level = lambda joint, log_q: reinforce(joint, log_q, -5.0)
    assert variance(level, 2) < 0.8 * none
    assert variance(with_leave_one_out, 2) < 0.8 * none
    plain = lambda j, q: negative_iwae(j - q) - jnp.sum(stop(log_mean_exp(j - q, axis=0))[None] * q, axis=0)
    assert variance(vimco, 2) < 0.5 * variance(plain, 2)


PHI, NOISES = (np.float32(0.4), np.float32(-0.6)), 40_000
EXACT = -np.array([-2 * (0.4 - 1.0), 0.5 - math.exp(-0.6)])  # of -E[-(z - 1)^2 - log q] in mean and log_var
fit = lambda z: -jnp.square(z - 1.0)


def slopes(loss):
    """[NOISES, 2] gradients of a loss of one key."""
    keys = jax.random.split(jax.random.key(1), NOISES)
    return np.stack(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(PHI, keys), -1)


@pytest.fixture(scope="module")
def path_slopes():
    def path(phi, key):
        z = sample_normal(*phi, key)
        return -(fit(z) - normal_log_prob(z, *phi))

    return slopes(path)


def check_score_is_path(path_slopes, score):
    """A Gaussian latent: both estimators have the exact mean, within 4 standard errors; the path has less variance."""

    def scored(phi, key):
        z = stop(sample_normal(*phi, key))
        return score(fit(z)[None, None], normal_log_prob(z, *phi)[None, None], -1.0)[0]

    ours = slopes(scored)
    for each in (path_slopes, ours):
        assert np.all(np.abs(each.mean(0) - EXACT) < 4 * each.std(0) / math.sqrt(NOISES))
    assert np.all(path_slopes.var(0) < ours.var(0))  # why one reparameterises where one can


def test_score_function_and_reparameterised_gradients_agree(path_slopes):
    check_score_is_path(path_slopes, reinforce)
    rejects(check_score_is_path, path_slopes, lambda j, q, b: reinforce(j, q, j - q))
    rejects(check_score_is_path, path_slopes, lambda j, q, b: reinforce(j, 2 * q, b))
    rejects(check_score_is_path, path_slopes, lambda j, q, b: -(j - q)[0])


# -- baselines ---------------------------------------------------------------------------------------------------------


def test_leave_one_out():
    log_w = np.random.default_rng(0).normal(size=(5, 3))
    exact = np.stack([np.delete(log_w, i, axis=0).mean(0) for i in range(5)])
    np.testing.assert_allclose(discrete.leave_one_out(jnp.float32(log_w)), exact, rtol=1e-5)


def test_running_baseline_is_a_weighted_sum_of_the_past():
    means, b = np.float32([-10.0, -8.0, -9.0]), jnp.float32(0.0)
    for mean in means:
        b = discrete.running_baseline(b, jnp.full((2, 4), mean), 0.75)
    np.testing.assert_allclose(b, 0.25 * (means @ [0.75**2, 0.75, 1.0]), rtol=1e-6)
    assert float(jax.grad(lambda w: discrete.running_baseline(b, w, 0.75))(jnp.ones((2, 4))).sum()) == 0.0


def test_learned_baseline_follows_the_weights_and_moves_nothing_else():
    log_w = jnp.float32(np.random.default_rng(0).normal(size=(5, 3)))
    loss = lambda log_w, b: discrete.baseline_error(log_w, b).sum()
    of_weights, of_baseline = jax.grad(loss, (0, 1))(log_w, log_w.mean(0) + 1.0)
    assert not of_weights.any()
    np.testing.assert_allclose(of_baseline, 2.0, rtol=1e-5)
    through = jax.grad(lambda b: reinforce(log_w, 0 * log_w, b).sum())(log_w[0])
    assert not through.any()  # the loss of the model does not teach the baseline


def test_straight_through():
    soft, hard = jnp.float32([0.2, 0.7, 0.1]), jnp.float32([0.0, 1.0, 0.0])
    out, pull = jax.vjp(discrete.straight_through, hard, soft)
    assert out.tolist() == hard.tolist()
    assert [slope.tolist() for slope in pull(jnp.float32([1.0, 2.0, 3.0]))] == [[0.0] * 3, [1.0, 2.0, 3.0]]


# -- learning ----------------------------------------------------------------------------------------------------------

SEEN = np.flatnonzero((model.IMAGES[:, ::2] == model.IMAGES[:, 1::2]).all(1))  # the 8 images of three equal pairs


def learn(objective, baseline, steps=400, k=4):
    """Mean exact ELBO of the images before and after training by `minimize`, and the last carry.

    Args:
      objective: (log_joint, log_posterior, carried baseline) -> [B].
      baseline: (carried, log weights) -> the next one.
    """
    small = lambda tree: jax.tree.map(lambda a: jnp.float32(0.3 * a), tree)
    z, x = np.float32(model.PATHS), np.float32(model.IMAGES[SEEN])

    def tables(params):
        theta, phi = params
        return model.log_joint(theta, z, x), model.log_posterior(phi, z, x)

    def loss(params, state, batch, key):
        joint, log_q = tables(params)
        path = jax.random.categorical(key, log_q.T, shape=(k, len(SEEN)))
        chosen = lambda table: jnp.take_along_axis(table, path, axis=0)
        joint, log_q = chosen(joint), chosen(log_q)
        return Out(objective(joint, log_q, state.carry), {}, baseline(state.carry, joint - log_q))

    def elbo(params):
        joint, log_q = tables(params)
        return jnp.sum(jnp.exp(log_q) * (joint - log_q), axis=0).mean()

    first = lambda *_: jnp.zeros(())
    learner = minimize(loss, optax.adam(0.03), lambda key, batch: (small(model.THETA), small(model.PHI)), first)
    batch = {"row": jnp.arange(len(SEEN))}

    @jax.jit
    def run(state):
        step = lambda state, _: (learner.update(state, batch, KEY)[0], None)
        last, _ = jax.lax.scan(step, state, length=steps)
        return elbo(state.params), elbo(last.params), last.carry

    return [float(value) for value in run(learner.init(KEY, batch))]


def test_a_baseline_in_the_carry_learns():
    """The score teaches phi: 0.1 nats better than theta alone, whose posterior stays as it is; the carry follows."""
    running = lambda carried, log_w: discrete.running_baseline(carried, log_w, 0.9)
    before, after, carried = learn(reinforce, running)
    assert abs(carried - after) < 0.2
    _, unscored, _ = learn(lambda joint, log_q, _: -(joint - log_q).mean(0), running)
    assert after > unscored + 0.1 > before + 0.3


# -- bad input ---------------------------------------------------------------------------------------------------------

two, cube = jnp.zeros((2, 3)), jnp.zeros((2, 1, 4))
relaxed = lambda t=0.5, s=0.5, k=1, q=cube, p=cube: discrete.concrete_log_weights(
    lambda y: y.sum((2, 3)), q, p, t, s, jax.random.key(0), k
)
BAD = {
    r"log_joint has shape \[0, 3\]": lambda: reinforce(jnp.zeros((0, 3)), jnp.zeros((0, 3))),
    r"log_joint \[2, 3\], log_posterior \[2, 1\]": lambda: reinforce(two, two[:, :1]),
    r"baseline \[2\], log weights \[2, 3\]": lambda: reinforce(two, two, jnp.zeros(2)),
    r"log_joint \[2, 3\], log_posterior \[1, 3\]": lambda: vimco(two, two[:1]),
    r"log_joint has shape \[1, 3\]\n.*k at least 2": lambda: vimco(two[:1], two[:1]),
    r"log_weights has shape \[1, 3\]\n.*k at least 2": lambda: discrete.leave_one_out(two[:1]),
    "decay = 1": lambda: discrete.running_baseline(0.0, two, 1.0),
    "decay = -0.1": lambda: discrete.running_baseline(0.0, two, -0.1),
    r"baseline has shape \[2\]": lambda: discrete.baseline_error(two, two[:, 0]),
    r"hard \[2, 3\], soft \[3\]": lambda: discrete.straight_through(two, two[0]),
    "k = 0": lambda: relaxed(k=0),
    "temperature = 0": lambda: relaxed(t=0.0),
    "temperature = -1": lambda: relaxed(s=-1),
    r"logits have shape \[2, 4\]": lambda: relaxed(q=cube[:, 0]),
    r"prior_logits \[2, 4\]": lambda: relaxed(p=cube[:, 0]),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_input(message, call):
    with pytest.raises(BadInput, match=message) as error:
        call()
    assert 2 <= len(error.value.lines) <= 3

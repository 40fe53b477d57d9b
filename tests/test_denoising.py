"""Denoising losses by hand, in all predictions, as likelihoods of Gaussian data; times by their laws; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from planted import rejects

from genjax.corruption import predictions, schedules, times
from genjax.corruption.gaussian import log_snr, point
from genjax.errors import BadInput
from genjax.losses import couplings, denoising

KEY = jax.random.key(0)
FLOW = schedules.rectified_flow(0.01, 0.99)
PROCESSES = {"linear": schedules.linear(), "cosine": schedules.cosine(), "edm": schedules.edm(0.01, 20.0), "flow": FLOW}
PREDICTIONS = {name: getattr(predictions, name) for name in ("data", "noise", "v", "velocity", "score")}
WEIGHTS = {
    "data": denoising.data_error,
    "simple": denoising.simple,
    "v": denoising.v_error,
    "flow": denoising.flow_matching,
    "min_snr": denoising.min_snr(),
    "edm": denoising.edm_weight(),
    "likelihood": denoising.likelihood_weight,
}


def setting(process, rows=16):
    keys = jax.random.split(KEY, 3)
    x, eps = jax.random.normal(keys[0], (2, rows, 2, 3))
    return x, process.first + (process.last - process.first) * jax.random.uniform(keys[1], (rows,), maxval=0.95), eps


# -- the error of each prediction is its own paper's loss --------------------------------------------------------------

PLAIN = [("data", "data"), ("noise", "simple"), ("v", "v"), ("velocity", "flow")]


def check_plain(loss, prediction, weight, process):
    x, t, eps = setting(process)
    at, network = point(process, t, x), lambda z, t: jnp.sin(z) + 0.1
    output = network(at.alpha * x + at.sigma * eps, t)
    plain = jnp.sum((prediction.target(at, x, eps) - output) ** 2, axis=(1, 2))
    np.testing.assert_allclose(loss(process, prediction, weight, network, x, t, eps), plain, rtol=1e-4)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("prediction", "weight"), PLAIN)
def test_plain_errors(process, prediction, weight):
    case = (PREDICTIONS[prediction], WEIGHTS[weight], PROCESSES[process])
    check_plain(denoising.denoising_loss, *case)
    rejects(check_plain, lambda *args: 0.5 * denoising.denoising_loss(*args), *case)
    swapped = lambda p, out, w, net, x, t, eps: denoising.denoising_loss(p, out, w, net, eps, t, x)
    rejects(check_plain, swapped, *case)
    other = denoising.edm_weight() if weight != "edm" else denoising.simple
    rejects(check_plain, denoising.denoising_loss, case[0], other, case[2])


ENDS = {"flow": schedules.rectified_flow(), "cosine": schedules.cosine(0.0, 1.0)}  # no noise, and no signal


def check_ends(loss, name, network):
    """A time without noise has the loss of one with next to none, a time without signal that of next to none."""
    process, (x, _, eps) = ENDS[name], setting(FLOW, 4)
    nets = {"v": ("v", "v"), "velocity": ("velocity", "flow"), "data": ("data", "min_snr"), "edm": (None, "edm")}
    for target, weight in nets.values():
        prediction = predictions.preconditioned(0.5) if target is None else PREDICTIONS[target]
        for t, near in ((0.0, 1e-4), (1.0, 1 - 1e-4)):
            at = lambda t, p=prediction, w=weight: loss(process, p, WEIGHTS[w], network, x, jnp.full(4, t), eps)
            np.testing.assert_allclose(at(t), at(near), rtol=0.01, atol=1e-5)


@pytest.mark.parametrize("name", ENDS)
def test_losses_at_both_ends(name):
    """Times are drawn from a range with its first, and in float32 the first is drawn now and then."""
    network = lambda z, t: jnp.sin(z) + 0.1
    check_ends(denoising.denoising_loss, name, network)
    slope = jax.grad(
        lambda a: denoising.denoising_loss(
            ENDS[name],
            predictions.v,
            denoising.v_error,
            lambda z, t: a * z,
            jnp.ones((1, 2)),
            jnp.zeros(1),
            jnp.ones((1, 2)),
        )[0]
    )(1.0)
    assert np.isfinite(slope)

    def planted(process, prediction, weight, network, x, t, eps):
        at = point(process, t, x)
        error = prediction.target(at, x, eps) - network(at.alpha * x + at.sigma * eps, t)
        return jnp.sum(weight(at) * prediction.factor(at) * error**2, axis=(1, 2))

    rejects(check_ends, planted, name, network)


def check_invariant(weights, process):
    """What a network thinks of x is weighed alike, in whatever form it says it."""
    x, t, eps = setting(process)
    t = process.first + 0.2 * (process.last - process.first) + 0.5 * (t - process.first)  # nothing ill-conditioned
    at, thinks = point(process, t, x), lambda z: jnp.sin(z)
    for weight in weights.values():
        found = []
        for prediction in PREDICTIONS.values():
            says = lambda z, t, p=prediction: predictions.convert(predictions.data, p, at, z, thinks(z))
            found.append(denoising.denoising_loss(process, prediction, weight, says, x, t, eps))
        for one in found[1:]:
            np.testing.assert_allclose(one, found[0], rtol=2e-3)


@pytest.mark.parametrize("process", ["cosine", "flow"])
def test_weights_hold_in_every_prediction(process):
    check_invariant(WEIGHTS, PROCESSES[process])


# -- weights -----------------------------------------------------------------------------------------------------------


def check_likelihood_weight(weight, process):
    t, h = np.linspace(process.first, process.last, 9)[1:-1], 1e-6
    snr = lambda t: np.exp(log_snr(process, t))
    np.testing.assert_allclose(weight(point(process, t)), -(snr(t + h) - snr(t - h)) / (4 * h), rtol=2e-4)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_likelihood_weighs_by_the_fall_of_the_ratio(process):
    check_likelihood_weight(denoising.likelihood_weight, PROCESSES[process])
    rejects(check_likelihood_weight, lambda at: 2 * denoising.likelihood_weight(at), PROCESSES[process])
    rejects(check_likelihood_weight, denoising.simple, PROCESSES[process])


def check_gaussian_bound(loss, process):
    """Data N(0, 1) and the best denoiser: the integral is log((1 + SNR_first) / (1 + SNR_last)) / 2, by I-MMSE."""
    n, keys = 40_000, jax.random.split(KEY, 3)
    x, eps = jax.random.normal(keys[0], (2, n, 1))
    u = times.low_discrepancy(keys[1], n)
    process = process._replace(first=max(process.first, 0.05), last=min(process.last, 0.95))  # few heavy tails
    span = process.last - process.first
    t = process.first + span * u
    best = lambda z, t: (lambda at: at.alpha * z / (at.alpha**2 + at.sigma**2))(point(process, t, z))
    found = span * np.asarray(loss(process, predictions.data, denoising.likelihood_weight, best, x, t, eps))
    ends = log_snr(process, np.array([process.first, process.last]))
    exact = 0.5 * (np.logaddexp(0, ends[0]) - np.logaddexp(0, ends[1]))
    assert abs(found.mean() - exact) < 4 * found.std() / n**0.5


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_the_bound_of_gaussian_data_by_any_schedule(name):
    check_gaussian_bound(denoising.denoising_loss, PROCESSES[name])
    rejects(check_gaussian_bound, lambda *args: 1.2 * denoising.denoising_loss(*args), PROCESSES[name])
    noisier = lambda p, out, w, net, x, t, eps: denoising.denoising_loss(p, out, w, net, x, t, 1.2 * eps)
    rejects(check_gaussian_bound, noisier, PROCESSES[name])


def test_weights_by_hand():
    process = schedules.edm(0.01, 20.0)
    at = point(process, jnp.array([0.1, 1.0, 10.0]))
    np.testing.assert_allclose(denoising.min_snr(5.0)(at), [5.0, 1.0, 0.01], rtol=1e-6)
    s = np.array([0.1, 1.0, 10.0])
    np.testing.assert_allclose(denoising.edm_weight(0.5)(at), (s**2 + 0.25) / (s * 0.5) ** 2, rtol=1e-6)
    scaled = at._replace(alpha=0.3 * at.alpha, sigma=0.3 * at.sigma)
    np.testing.assert_allclose(denoising.edm_weight(0.5)(scaled), denoising.edm_weight(0.5)(at), rtol=1e-5)


# -- times -------------------------------------------------------------------------------------------------------------


def check_spread(draw):
    """One in each n-th, in no order, and each row uniform over keys."""
    u = np.asarray(draw(KEY, 64))
    assert sorted((u * 64).astype(int)) == list(range(64))
    assert abs(scipy.stats.spearmanr(u, np.arange(64)).statistic) < 0.4
    row = np.asarray(jax.vmap(lambda key: draw(key, 8)[3])(jax.random.split(KEY, 4000)))
    assert scipy.stats.kstest(row, "uniform").pvalue > 1e-3


def test_times_of_low_discrepancy():
    check_spread(times.low_discrepancy)
    rejects(check_spread, lambda key, n: jax.random.uniform(key, (n,)))
    rejects(check_spread, lambda key, n: (jax.random.uniform(key) + jnp.arange(n) / n) % 1.0)
    rejects(check_spread, lambda key, n: jax.random.permutation(key, (0.5 + jnp.arange(n)) / n))


TIMES = {
    "uniform": (times.uniform_times, FLOW, scipy.stats.uniform(0.01, 0.98)),
    "lognormal": (times.lognormal_times, schedules.edm(1e-6, 1e6), scipy.stats.lognorm(1.2, scale=np.exp(-1.2))),
}


def check_law(draw, process, law):
    t = np.asarray(jax.vmap(lambda key: draw(process, key, 5)[0])(jax.random.split(KEY, 40_000)))
    assert scipy.stats.kstest(t, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", TIMES)
def test_times_have_their_law(name):
    draw, process, law = TIMES[name]
    check_law(draw, process, law)
    rejects(check_law, lambda *args: 0.9 * draw(*args), process, law)


def test_logit_normal_times():
    law = scipy.stats.norm(0.5, 1.5)
    draw = lambda key: times.logit_normal_times(schedules.rectified_flow(), key, 5, 0.5, 1.5)[0]
    t = np.asarray(jax.vmap(draw)(jax.random.split(KEY, 40_000)), np.float64)
    assert scipy.stats.kstest(np.log(t / (1 - t)), law.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(np.log(t / (1 - t)), scipy.stats.norm(0.0, 1.5).cdf).pvalue < 1e-6


def test_times_stay_in_range():
    t = times.lognormal_times(schedules.edm(0.2, 0.5), KEY, 512)
    assert float(t.min()) >= 0.2 and float(t.max()) <= 0.5


# -- what goes in ------------------------------------------------------------------------------------------------------


def check_pairs(pair):
    x, eps = jax.random.normal(KEY, (2, 24, 2, 2))
    paired = np.asarray(pair(x, eps))
    assert sorted(map(tuple, paired.reshape(24, 4))) == sorted(map(tuple, np.asarray(eps).reshape(24, 4)))
    cost = ((np.asarray(x)[:, None] - np.asarray(eps)[None]) ** 2).sum((2, 3))
    best = cost[scipy.optimize.linear_sum_assignment(cost)].sum()
    assert ((np.asarray(x) - paired) ** 2).sum() == pytest.approx(best, rel=1e-5)


def test_noise_is_paired_by_optimal_transport():
    check_pairs(couplings.paired_noise)
    check_pairs(jax.jit(couplings.paired_noise))
    rejects(check_pairs, lambda x, eps: eps)
    rejects(check_pairs, lambda x, eps: couplings.paired_noise(-x, eps))
    rejects(check_pairs, lambda x, eps: eps[jnp.argmax(x.reshape(24, 4) @ eps.reshape(24, 4).T, axis=1)])


def check_dropped(drop):
    label = jnp.arange(20_000) % 10
    found = np.asarray(drop(label, 10, 0.15, KEY))
    gone = found == 10
    assert scipy.stats.binomtest(int(gone.sum()), len(found), 0.15).pvalue > 1e-3
    assert (found[~gone] == np.asarray(label)[~gone]).all()


def test_labels_are_left_out():
    check_dropped(couplings.drop_labels)
    rejects(check_dropped, lambda label, classes, rate, key: couplings.drop_labels(label, classes, 0.5, key))
    rejects(check_dropped, lambda label, classes, rate, key: couplings.drop_labels(label, 0, rate, key))


def check_guess(guess):
    """Half of the rows see an estimate, and no gradient comes back through it."""
    estimate = lambda w: lambda seen: seen + w
    rows = np.asarray(guess(estimate(3.0), jnp.zeros((4000, 2)), KEY))
    assert set(rows.ravel()) == {0.0, 3.0} and (rows[:, 0] == rows[:, 1]).all()
    assert scipy.stats.binomtest(int((rows[:, 0] == 3).sum()), 4000, 0.5).pvalue > 1e-3
    assert float(jax.grad(lambda w: guess(estimate(w), jnp.zeros((64, 2)), KEY).sum())(3.0)) == 0


def test_first_guesses():
    check_guess(couplings.first_guess)
    leaky = lambda estimate, like, key: jnp.where(jax.random.bernoulli(key, 0.5, (len(like), 1)), estimate(like), 0.0)
    rejects(check_guess, leaky)
    rejects(check_guess, lambda estimate, like, key: couplings.first_guess(estimate, like, key, 1.0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: denoising.min_snr(0.0), "gamma = 0.0"),
        (lambda: denoising.edm_weight(-1.0), "deviation"),
        (lambda: couplings.drop_labels(jnp.zeros(2, int), 10, 1.5, KEY), "rate = 1.5"),
        (lambda: couplings.paired_noise(jnp.zeros((2, 3)), jnp.zeros((3, 3))), "one shape"),
        (lambda: couplings.first_guess(lambda x: x, jnp.zeros((2, 3)), KEY, -1.0), "rate = -1.0"),
        (
            lambda: denoising.denoising_loss(
                FLOW, predictions.v, denoising.simple, lambda z, t: z[:, :1], *setting(FLOW)
            ),
            "output is [16, 1, 3]",
        ),
        (
            lambda: denoising.denoising_loss(
                schedules.rectified_flow(), predictions.noise, denoising.simple, lambda z, t: z, *setting(FLOW)
            ),
            "nothing of the data",
        ),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3

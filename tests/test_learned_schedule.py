"""A learned schedule: Gaussian closed forms, a bound that does not depend on its shape, a variance that falls; mutants.

With data N(m, d^2) in n dimensions and the best predictor, eps - eps' ~ N(0, v I) at every time, v = d^2 / (d^2 +
e^gamma), so that L_gamma = v chi^2_n / 2: its first two moments are n v / 2 and n (n + 2) v^2 / 4.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from planted import rejects
from test_diffusion_experiments import toy
from test_gan_experiments import function, trained
from test_train import digests, go

import genjax.data
from genjax import parallel
from genjax.corruption.times import low_discrepancy
from genjax.denoised import sample_function
from genjax.errors import BadInput, Preempted
from genjax.evaluate import evaluator
from genjax.learners import minimize
from genjax.likelihood import learned_schedule
from genjax.likelihood.diffusion import Bound, of_levels, of_reals
from genjax.likelihood.learned_schedule import Schedule, gamma_and_rate, learned_bound, trained_bound
from genjax.models.noise_schedule import NoiseSchedule, fourier_features, schedule_of
from genjax.saved import SampleOptions
from genjax.train import Options
from genjax.types import Out

KEY = jax.random.key(0)
MEAN, DEVIATION, DIMS, ROWS = 0.3, 0.6, 2, 200_000
GAMMA_0, GAMMA_1 = -5.0, 3.0
D2 = DEVIATION**2
NET = NoiseSchedule(16, GAMMA_0, GAMMA_1)


def best(z, gamma):
    """E[eps | z] of the Gaussian data."""
    alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(sign * gamma))[:, None] for sign in (-1.0, 1.0))
    gain = alpha * D2 / (alpha**2 * D2 + sigma**2)
    return (z - alpha * (MEAN + gain * (z - alpha * MEAN))) / sigma


def odd(z, gamma):
    """Not the best, and it depends on gamma."""
    return best(z, gamma) + 0.3 * gamma[:, None]


def data(rows=ROWS, key=1):
    return MEAN + DEVIATION * jax.random.normal(jax.random.key(key), (rows, DIMS))


def random_params(seed, scale=1.5):
    params = NET.init(KEY, jnp.zeros(1))["params"]
    keys = dict(zip(params, jax.random.split(jax.random.key(seed), len(params)), strict=True))
    moved = {name: value + scale * jax.random.normal(keys[name], value.shape) for name, value in params.items()}
    return {"params": {**moved, "ends": params["ends"]}}


def wild(seed):
    return schedule_of(NET, random_params(seed))


SCHEDULES = {
    "straight": Schedule(GAMMA_0, GAMMA_1, lambda t: t),
    "late": Schedule(GAMMA_0, GAMMA_1, lambda t: 0.1 * t + 0.9 * t**4),
    "early": Schedule(GAMMA_0, GAMMA_1, lambda t: 1 - (0.1 * (1 - t) + 0.9 * (1 - t) ** 3)),
    "network": wild(3),
}


def terms_by_hand(gamma_0=GAMMA_0, gamma_1=GAMMA_1):
    """Expected terms of `best`."""
    snr_0, snr_1 = math.exp(-gamma_0), math.exp(-gamma_1)
    prior = 0.5 * snr_1 * (MEAN**2 + D2)
    falling = 0.5 * math.log((1 + D2 * snr_0) / (1 + D2 * snr_1))
    return DIMS * np.array([prior, falling, 0.5 * math.log(2 * math.pi * math.e / snr_0)])


def estimated(bound, schedule, network=best, reconstruction=of_reals):
    """Three means, and their standard errors."""

    @jax.jit
    def run():
        t = jax.random.uniform(jax.random.key(2), (ROWS,))
        return jnp.stack(bound(schedule, network, reconstruction, data(), t, KEY))

    terms = np.float64(run())
    return terms.mean(axis=1), terms.std(axis=1) / ROWS**0.5


# -- the number --------------------------------------------------------------------------------------------------------


def check_terms(bound, schedule):
    found, errors = estimated(bound, schedule)
    wanted = terms_by_hand(float(schedule.gamma_0), float(schedule.gamma_1))
    assert (np.abs(found - wanted) < 4 * errors + 1e-5).all(), (found, wanted)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("bound", [learned_bound, trained_bound])
def test_every_shape_has_the_closed_form(bound, schedule):
    check_terms(bound, SCHEDULES[schedule])


def test_planted_terms_are_caught(monkeypatch):
    term, moved = learned_schedule.diffusion_term, SCHEDULES["late"]
    changed = lambda change: lambda *args: change(learned_bound(*args))
    rejects(check_terms, changed(lambda found: found._replace(prior=2 * found.prior)), moved)
    rejects(check_terms, changed(lambda found: found._replace(reconstruction=found.reconstruction + 0.05)), moved)
    for planted in (
        lambda net, x, eps, gamma, rate: -term(net, x, eps, gamma, rate),  # the sign of gamma'
        lambda net, x, eps, gamma, rate: 2 * term(net, x, eps, gamma, rate),  # without 1/2
        lambda net, x, eps, gamma, rate: term(net, x, eps, gamma, jnp.full_like(rate, GAMMA_1 - GAMMA_0)),
        lambda net, x, eps, gamma, rate: term(net, x, eps, -gamma, rate),
        lambda net, x, eps, gamma, rate: term(lambda z, g: net(z, g + 2.0), x, eps, gamma, rate),
    ):
        monkeypatch.setattr(learned_schedule, "diffusion_term", planted)
        rejects(check_terms, learned_bound, moved)


def check_invariance(bound, network):
    """Of any network the expected diffusion term is the same by every shape: differences within four errors."""
    first, *others = (estimated(bound, SCHEDULES[name], network) for name in SCHEDULES)
    for found, errors in others:
        assert abs(found[1] - first[0][1]) < 4 * math.hypot(errors[1], first[1][1])


def test_the_shape_changes_nothing_of_a_wrong_network_either():
    check_invariance(learned_bound, odd)


def test_a_network_that_is_told_the_time_by_another_clock_is_caught():
    """Told where on the line t stands instead of gamma, it is another model under every shape."""

    def by_time(schedule, network, reconstruction, x, t, key):
        told = lambda z, gamma: network(z, GAMMA_0 + (GAMMA_1 - GAMMA_0) * t)
        return learned_bound(schedule, told, reconstruction, x, t, key)

    rejects(check_invariance, by_time, odd)


# -- gradients ---------------------------------------------------------------------------------------------------------


def slopes_of(bound, path, network=odd, rows=40_000):
    """Per-row derivatives of the bound along a direction of the schedule's parameters, by forward differentiation."""
    params = random_params(5, 0.7)
    direction = jax.tree.map(lambda value: jnp.zeros_like(value), params)
    direction["params"][path] = jax.random.normal(jax.random.key(7), params["params"][path].shape)
    x, t = data(rows), jax.random.uniform(jax.random.key(2), (rows,))
    total = lambda params: bound(schedule_of(NET, params), network, of_reals, x, t, KEY).total()
    return np.float64(jax.jit(lambda: jax.jvp(total, (params,), (direction,))[1])())


def check_no_slope(bound):
    """The mean is zero by a t-test: p > 1e-3 along four directions, one of each kind of parameter."""
    for path in ("w", "u", "v", "b"):
        slopes = slopes_of(bound, path)
        assert slopes.std() > 1e-3, "a direction along which nothing changes proves nothing"
        assert scipy.stats.ttest_1samp(slopes, 0.0).pvalue > 1e-3, path


def test_the_bound_has_no_slope_along_the_shape():
    check_no_slope(learned_bound)


def test_planted_slopes_are_caught(monkeypatch):
    term, still = learned_schedule.diffusion_term, jax.lax.stop_gradient
    for planted in (
        lambda net, x, eps, gamma, rate: term(net, x, eps, gamma, still(rate)),
        lambda net, x, eps, gamma, rate: term(net, x, eps, still(gamma), rate),
        lambda net, x, eps, gamma, rate: term(lambda z, g: net(z, still(g)), x, eps, gamma, rate),
    ):
        monkeypatch.setattr(learned_schedule, "diffusion_term", planted)
        rejects(check_no_slope, learned_bound)


def check_ends(bound):
    """The ends' gradient is that of the closed form, by differences of it."""
    x, t = data(), jax.random.uniform(jax.random.key(2), (ROWS,))

    def total(ends):
        return bound(Schedule(ends[0], ends[1], SCHEDULES["late"].shape), best, of_reals, x, t, KEY).total()

    ends, step = (GAMMA_0, GAMMA_1), 1e-4
    for i in range(2):
        along = jnp.eye(2)[i]
        slopes = np.float64(jax.jit(lambda along: jax.jvp(total, (jnp.array(ends),), (along,))[1])(along))
        up, down = (terms_by_hand(*(np.array(ends) + sign * step * np.eye(2)[i])).sum() for sign in (1, -1))
        wanted = (up - down) / (2 * step)
        assert abs(slopes.mean() - wanted) < 4 * slopes.std() / ROWS**0.5, (i, slopes.mean(), wanted)


@pytest.mark.parametrize("bound", [learned_bound])
def test_gradients_of_the_ends(bound):
    check_ends(bound)


def test_ends_left_out_of_a_term_are_caught():
    def without(name):
        def bound(schedule, network, reconstruction, x, t, key):
            found = learned_bound(schedule, network, reconstruction, x, t, key)
            return found._replace(**{name: jax.lax.stop_gradient(getattr(found, name))})

        return bound

    for name in ("prior", "reconstruction", "diffusion"):
        rejects(check_ends, without(name))


def gradients(bound, square=False):
    """Of the mean over rows, in the schedule's parameters and in one of the network's."""
    x, t = data(64), low_discrepancy(KEY, 64)

    def total(params, shift):
        network = lambda z, gamma: odd(z, gamma) + shift
        found = bound(schedule_of(NET, params), network, of_reals, x, t, KEY)
        return (found.diffusion**2 if square else found.total()).mean()

    return jax.jit(jax.grad(total, (0, 1)))(random_params(5, 0.7), 0.1)


def check_trained(bound):
    """The shape's gradient is that of L^2, everything else's that of the bound."""
    (found, network), (plain, wanted), (square, _) = (
        gradients(bound),
        gradients(learned_bound),
        gradients(learned_bound, True),
    )
    found, plain, square = (part["params"] for part in (found, plain, square))
    np.testing.assert_allclose(network, wanted, rtol=1e-4)
    np.testing.assert_allclose(found["ends"], plain["ends"], rtol=1e-4)
    for name in ("w", "u", "v", "b"):
        size = float(jnp.abs(square[name]).max())
        assert size > 1e-2
        np.testing.assert_allclose(found[name], square[name], rtol=1e-3, atol=1e-3 * size)


def test_training_descends_the_bound_and_its_variance():
    check_trained(trained_bound)
    rejects(check_trained, learned_bound)
    half = lambda *args: Bound(
        *(0.5 * (a + b) for a, b in zip(trained_bound(*args), learned_bound(*args), strict=True))
    )
    rejects(check_trained, half)


# -- what training does ------------------------------------------------------------------------------------------------


def second_moment(schedule):
    """E L^2 by quadrature over t of the exact moments of the best predictor."""
    t = (np.arange(20_000) + 0.5) / 20_000
    gamma, rate = (np.float64(part) for part in gamma_and_rate(schedule, t))
    return DIMS * (DIMS + 2) / 4 * float(np.mean((rate * D2 / (D2 + np.exp(gamma))) ** 2))


def least_second_moment(gamma_0=GAMMA_0, gamma_1=GAMMA_1):
    """Of all shapes, eq. 4: (1 + 2 / n) (E L)^2."""
    return (1 + 2 / DIMS) * terms_by_hand(gamma_0, gamma_1)[1] ** 2


def trained_schedule(bound, updates=400):
    tx = optax.partition(
        {"shape": optax.adam(0.1), "ends": optax.set_to_zero()},
        {"params": {name: "ends" if name == "ends" else "shape" for name in ("ends", "w", "u", "v", "b")}},
    )

    def loss(params, state, batch, key):
        keys = jax.random.split(key, 3)
        x = MEAN + DEVIATION * jax.random.normal(keys[0], (256, DIMS))
        return Out(bound(schedule_of(NET, params), best, of_reals, x, low_discrepancy(keys[1], 256), keys[2]).total())

    learner = minimize(loss, tx, lambda key, batch: NET.init(key, jnp.zeros(1)))
    update = lambda state, _: (learner.update(state, {}, KEY)[0], None)
    run = jax.jit(lambda: jax.lax.scan(update, learner.init(KEY, {}), None, updates)[0])
    return schedule_of(NET, run().params)


def check_variance_falls(bound):
    """Training takes away nine tenths of what a straight schedule has above the least second moment."""
    least, straight = least_second_moment(), second_moment(SCHEDULES["straight"])
    found = second_moment(trained_schedule(bound))
    assert least * (1 - 1e-3) < found, "below what Cauchy and Schwarz allow"
    assert found - least < 0.1 * (straight - least), (found, least, straight)


def test_training_the_shape_lowers_the_variance():
    for schedule in SCHEDULES.values():
        assert second_moment(schedule) > least_second_moment()
    check_variance_falls(trained_bound)
    rejects(check_variance_falls, learned_bound)  # noise without a slope


def test_the_second_moment_is_that_of_the_estimate():
    """The exact moments above are those of what `learned_bound` returns."""
    late = SCHEDULES["late"]
    t = jax.random.uniform(jax.random.key(2), (ROWS,))
    squares = np.float64(learned_bound(late, best, of_reals, data(), t, KEY).diffusion) ** 2
    assert abs(squares.mean() - second_moment(late)) < 4 * squares.std() / ROWS**0.5


# -- the network of the schedule, and features -------------------------------------------------------------------------


def check_rising(schedule):
    t = jnp.linspace(0.0, 1.0, 501)
    gamma, rate = (np.float64(part) for part in gamma_and_rate(schedule, t))
    assert (rate > 0).all() and (np.diff(gamma) > 0).all()
    np.testing.assert_allclose(gamma[[0, -1]], [GAMMA_0, GAMMA_1], atol=1e-5)
    np.testing.assert_allclose(np.trapezoid(rate, t), GAMMA_1 - GAMMA_0, rtol=5e-3)


@pytest.mark.parametrize("seed", range(10))
def test_the_schedule_rises_at_random_parameters(seed):
    check_rising(wild(seed))


def test_planted_schedules_are_caught():
    wave = lambda t: t + 0.3 * jnp.sin(2 * jnp.pi * t)
    rejects(check_rising, Schedule(GAMMA_0, GAMMA_1, wave))
    rejects(check_rising, Schedule(GAMMA_0, GAMMA_1, lambda t: 0.9 * t))
    rejects(check_rising, Schedule(GAMMA_0, GAMMA_1, lambda t: 1 - t))


def test_grey_levels_are_one_phase_of_the_last_feature():
    """With 256 levels 2 / 256 apart, at n = 8; at n = 7 they alternate; at n = 6 there are four phases."""
    levels = (2.0 * np.arange(256) + 1.0) / 256 - 1.0
    phases = [len(np.unique(np.round(fourier_features(levels[:, None], n, n), 2)[:, 1:], axis=0)) for n in (8, 7, 6)]
    assert phases == [1, 2, 4]


def test_levels_of_traced_ends_are_those_of_the_host():
    """`of_levels`, `of_reals` and the prior of a schedule under a trace give the numbers of one that is fixed."""
    x = jnp.array([[0.25, -0.75]])
    values = jnp.linspace(-1.0, 1.0, 9)

    def total(ends):
        made = Schedule(ends[0], ends[1], lambda t: t)
        found = [
            learned_bound(made, best, kind, x, jnp.array([0.5]), KEY)
            for kind in (of_reals, lambda process: of_levels(process, values))
        ]
        return jnp.stack([part[0] for each in found for part in each])

    ends = jnp.array([GAMMA_0, GAMMA_1])
    np.testing.assert_allclose(jax.jit(total)(ends), total((GAMMA_0, GAMMA_1)), rtol=1e-5)
    slopes = jax.jit(jax.jacfwd(total))(ends)
    assert bool((slopes[2, 0] != 0) & (slopes[5, 0] != 0) & (slopes[0, 1] != 0))


def check_falling(bound):
    """A schedule that falls anywhere bounds nothing: rows whose times lie there are not finite, the others are."""
    t, wave = jnp.linspace(0.0, 1.0, 101), lambda t: t + 0.3 * jnp.sin(2 * jnp.pi * t)
    falls = np.asarray(gamma_and_rate(Schedule(GAMMA_0, GAMMA_1, wave), t)[1] < 0)
    assert 20 < falls.sum() < 60
    for schedule, wanted in (
        (Schedule(GAMMA_0, GAMMA_1, wave), falls),
        (Schedule(GAMMA_1, GAMMA_0, lambda t: t), np.ones(101, bool)),
        (SCHEDULES["late"], np.zeros(101, bool)),
    ):
        found = bound(schedule, best, of_reals, data(101), t, KEY).total()
        np.testing.assert_array_equal(~np.isfinite(found), wanted)  # NaN where it would train


@pytest.mark.parametrize("bound", [learned_bound, trained_bound])
def test_a_schedule_that_falls_is_no_bound(bound, monkeypatch):
    check_falling(bound)
    term = learned_schedule.diffusion_term
    unlooked = lambda net, x, eps, gamma, rate: jnp.sign(rate) * term(net, x, eps, gamma, jnp.abs(rate))
    monkeypatch.setattr(learned_schedule, "diffusion_term", unlooked)
    rejects(check_falling, bound)


def test_bad_input():
    with pytest.raises(BadInput, match=r"gamma from 2\.0 to 1\.0"):
        NoiseSchedule(4, 2.0, 1.0).init(KEY, jnp.zeros(1))
    with pytest.raises(BadInput, match="the network's output is"):
        learned_bound(SCHEDULES["late"], lambda z, gamma: z[:, :1], of_reals, data(4), jnp.zeros(4), KEY)


# -- the experiment ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(genjax.data, "mnist", lambda data_dir=None: toy())
    sys.modules.pop("experiment_vdm_mnist", None)
    sizes = {"width": 8, "layers": 1, "frequencies": 2, "sigmoids": 8, "batch_size": 8, "sampling_steps": 4, "k": 2}
    return lambda **fields: function("vdm_mnist")(**sizes | {"average": 0.5} | fields)


@pytest.mark.slow
def test_the_experiment_learns_and_goes_on_exactly(small, tmp_path):
    """The bound of noise falls, and is no less than its 8 bits; a run in two parts is that in one, bit for bit."""
    experiment = small(steps=200)
    measure = evaluator(experiment.evaluations["validation"], parallel.mesh(1))
    begun, done = (trained(experiment, updates) for updates in (0, 200))
    first, last = (measure(state, KEY) for state in (begun, done))
    assert 8.0 < last["bits"].value < first["bits"].value - 1.0
    names = ("prior", "diffusion", "reconstruction")
    assert sum(last[name].value for name in names) == pytest.approx(last["bits"].value, rel=1e-4)
    for name in ("ends", "w", "u", "v", "b"):
        moved = done.params["schedule"]["params"][name] - begun.params["schedule"]["params"][name]
        assert float(jnp.abs(moved).max()) > 1e-3, name
    sample = sample_function(experiment.denoising, "run", SampleOptions(sampler="2m", steps=3))
    images = np.asarray(jax.jit(sample, static_argnums=2)(done, KEY, 2))
    assert images.shape == (2, 28, 28, 1) and np.isfinite(images).all()
    every = Options(checkpoint_every=2, log_every=2, evaluate_every=6)
    with pytest.raises(Preempted):
        go(small(steps=6), tmp_path / "parts", every, 3)
    go(small(steps=6), tmp_path / "parts", every)
    go(small(steps=6), tmp_path / "whole", every)
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert len(whole) > 1 and {place: parts[place] for place in whole} == whole

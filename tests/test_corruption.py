"""Forward processes of diffusion against the papers' formulas in float64, Bayes' rule and differences; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.corruption import gaussian, predictions, schedules
from genjax.corruption.gaussian import Point, Process
from genjax.errors import BadInput

LINE = lambda t: 13.0 - 18.0 * t
PROCESSES = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "line": schedules.by_log_snr(LINE),
    "exploding": schedules.variance_exploding(),
    "edm": schedules.edm(),
    "flow": schedules.rectified_flow(0.001, 0.999),
    "zero": schedules.zero_terminal(schedules.linear()),
    "shifted": schedules.shifted(schedules.cosine(), -1.5),
}
PREDICTIONS = {name: getattr(predictions, name) for name in ("data", "noise", "v", "velocity", "score")}
PREDICTIONS["edm"] = predictions.preconditioned(0.7)
KEY = jax.random.key(0)
FLOW = schedules.rectified_flow()  # to the end, where nothing is left of the data


def times(process, n=9, open_end=True):
    return np.linspace(process.first, process.last, n + 2)[1:-1] if open_end else np.linspace(*process[2:], n)


# -- schedules ---------------------------------------------------------------------------------------------------------

BY_HAND = {
    "linear": lambda t: (np.exp(-0.05 * t - 4.975 * t**2), np.sqrt(1 - np.exp(-0.1 * t - 9.95 * t**2))),
    "cosine": lambda t: (np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)),
    "line": lambda t: (np.sqrt(1 / (1 + np.exp(-LINE(t)))), np.sqrt(1 / (1 + np.exp(LINE(t))))),
    "exploding": lambda t: (1 + 0 * t, 0.01 * 5000**t),
    "edm": lambda t: (1 + 0 * t, t),
    "flow": lambda t: (1 - t, t),
}


def check_schedule(name, process):
    t = times(process)
    alpha, sigma = BY_HAND[name](t)
    np.testing.assert_allclose(process.alpha(t), alpha, rtol=1e-10)
    np.testing.assert_allclose(process.sigma(t), sigma, rtol=1e-10)
    at = jax.jit(lambda t: gaussian.point(process, t))(jnp.float32(t))
    np.testing.assert_allclose(at.alpha, alpha, rtol=1e-5)
    np.testing.assert_allclose(at.sigma, sigma, rtol=1e-5)


@pytest.mark.parametrize("name", BY_HAND)
def test_schedules_are_the_papers(name):
    process = PROCESSES[name]
    check_schedule(name, process)
    rejects(check_schedule, name, process._replace(sigma=lambda t: 1.001 * process.sigma(t)))
    rejects(check_schedule, name, process._replace(alpha=lambda t: process.alpha(t) ** 1.01 + 0.001))
    rejects(check_schedule, name, process._replace(alpha=process.sigma, sigma=process.alpha))


def test_linear_is_the_limit_of_a_thousand_steps():
    """prod(1 - beta_i), beta from 1e-4 to 0.02, against the continuous schedule: a step of a hundred is 1 % of it."""
    product, steps = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), np.arange(100, 1001)
    far = lambda process: np.abs(np.log(process.alpha(steps / 1000) ** 2) / np.log(product[steps - 1]) - 1).max()
    assert far(schedules.linear()) < 0.012
    assert far(schedules.linear(0.1, 19.0)) > 0.03
    assert far(schedules.linear(0.2, 20.0)) > 0.03


def check_log_snr(process):
    """Float32 keeps the log-SNR to 1e-4 up to both ends."""
    t = np.float32(np.linspace(process.first, process.last, 33))
    exact = gaussian.log_snr(process, np.float64(t))
    kept = np.isfinite(exact)
    single = jax.jit(lambda t: gaussian.log_snr(process, t))(jnp.asarray(t))
    np.testing.assert_allclose(np.asarray(single)[kept], exact[kept], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["linear", "cosine", "line", "exploding", "edm", "shifted"])
def test_single_precision_keeps_the_log_snr(name):
    check_log_snr(PROCESSES[name])


def test_a_deviation_by_subtraction_is_caught():
    process = schedules.linear(first=1e-4)
    check_log_snr(process)
    rejects(check_log_snr, process._replace(sigma=lambda t: (1 - process.alpha(t) ** 2) ** 0.5))


def check_zero_terminal(process, before):
    for t in (np.array(1.0), jnp.float32(1.0)):
        assert float(process.alpha(t)) == 0 and float(process.sigma(t)) == 1
    assert process.alpha(np.array(1e-3)) == pytest.approx(before.alpha(np.array(1e-3)), rel=1e-12)
    t = times(process)
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, rtol=1e-12)
    ratio = np.diff(process.alpha(t)) / np.diff(before.alpha(t))  # moved and stretched: one factor for all
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)


def test_no_signal_is_left_at_the_end():
    before = schedules.linear()
    process = schedules.zero_terminal(before)
    check_zero_terminal(process, before)
    rejects(check_zero_terminal, before, before)
    rejects(check_zero_terminal, process._replace(alpha=lambda t: before.alpha(t) - 0.0065714), before)
    cut = process._replace(alpha=lambda t: before.alpha(t) * (1 - (t - 1e-3) / 0.999))
    rejects(check_zero_terminal, cut, before)


def test_a_shift_moves_the_log_snr():
    t = times(PROCESSES["shifted"])
    moved = gaussian.log_snr(PROCESSES["shifted"], t) - gaussian.log_snr(PROCESSES["cosine"], t)
    np.testing.assert_allclose(moved, -1.5, rtol=1e-9)


# -- a process between two times ---------------------------------------------------------------------------------------


def check_rates(process, at_times):
    t, h = times(process), 1e-5
    found = at_times(process, t)
    for rate, value in ((found.alpha_rate, process.alpha), (found.sigma_rate, process.sigma)):
        np.testing.assert_allclose(rate, (value(t + h) - value(t - h)) / (2 * h), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
def test_rates_of_change(name):
    check_rates(PROCESSES[name], gaussian.point)
    swapped = lambda process, t: (lambda at: Point(at.alpha, at.sigma, at.sigma_rate, at.alpha_rate))(
        gaussian.point(process, t)
    )
    rejects(check_rates, PROCESSES[name], swapped)


def check_between(process, posterior):
    """q(z_s | z_t, x) by conditioning the Gaussian of (z_s, z_t) given x: z_t = a z_s + noise, eq. 3."""
    t = times(process)
    s, t, x, z_t = t[:-1], t[1:], 0.7, -0.4
    a = process.alpha(t) / process.alpha(s)
    mean_s, mean_t, covariance = process.alpha(s) * x, process.alpha(t) * x, a * process.sigma(s) ** 2
    gain = covariance / process.sigma(t) ** 2
    found = posterior(process, s, t)
    np.testing.assert_allclose(found.keep * z_t + found.pull * x, mean_s + gain * (z_t - mean_t), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.variance, process.sigma(s) ** 2 - gain * covariance, rtol=1e-6)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_posterior_of_an_earlier_time(name):
    process, posterior = PROCESSES[name], gaussian.between
    check_between(process, posterior)
    rejects(check_between, process, lambda p, s, t: posterior(p, s, t)._replace(variance=p.sigma(s) ** 2))
    rejects(check_between, process, lambda p, s, t: posterior(p, s, t)._replace(keep=p.alpha(t) / p.alpha(s)))
    rejects(check_between, process, lambda p, s, t: posterior(p, t, t))


def test_the_posterior_where_no_signal_is_left():
    """From alpha = 0 the past is known by x alone, and is q(z_s | x)."""
    process = schedules.rectified_flow()
    found = gaussian.between(process, np.array(0.5), np.array(1.0))
    assert [float(part) for part in found] == [0.0, 0.5, 0.25]


def test_corrupted_data_have_the_law():
    process, n = schedules.cosine(), 40_000
    noise = jax.random.normal(KEY, (n, 1))
    z = gaussian.corrupt(process, jnp.full((n, 1), 2.0), noise, jnp.full(n, 0.4))
    mean, deviation = 2 * np.cos(0.2 * np.pi), np.sin(0.2 * np.pi)
    assert abs(z.mean() - mean) < 4 * deviation / n**0.5
    assert abs(z.std() / deviation - 1) < 4 / (2 * n) ** 0.5


def test_where_sampling_begins():
    z = gaussian.draw_last(schedules.edm(), KEY, (40_000,))
    assert abs(z.std() / 80 - 1) < 4 / 80_000**0.5


# -- predictions -------------------------------------------------------------------------------------------------------


def setting(process):
    t = jnp.float32(times(process))
    x, eps = jax.random.normal(KEY, (2, 9, 3))
    at = gaussian.point(process, t, x)
    return at, x, eps, at.alpha * x + at.sigma * eps


def check_prediction(prediction, process):
    """x comes back from the target, and an error of the target is one of x by the factor."""
    at, x, eps, z = setting(process)
    target = prediction.target(at, x, eps)
    scale = 1 + jnp.abs(z / jnp.minimum(at.alpha, 1))  # float32 keeps a 1e-6 of what is subtracted
    assert float((jnp.abs(prediction.data(at, z, target) - x) / scale).max()) < 1e-5
    moved = prediction.data(at, z, target + 1.0) - prediction.data(at, z, target)
    worth = jnp.broadcast_to(prediction.factor(at), x.shape)
    np.testing.assert_allclose(moved**2, worth, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("process", ["linear", "cosine", "flow", "exploding"])
def test_every_prediction_gives_the_data(name, process):
    given, process = PREDICTIONS[name], PROCESSES[process]
    check_prediction(given, process)
    rejects(check_prediction, given._replace(data=lambda at, z, out: given.data(at, z, -out)), process)
    rejects(check_prediction, given._replace(factor=lambda at: 2 * given.factor(at)), process)


def test_predictions_of_the_papers():
    """DDPM's eps, Salimans and Ho's v where variance is preserved, the straight line's eps - x, Vincent's score."""
    at, x, eps, z = setting(PROCESSES["cosine"])
    np.testing.assert_allclose(predictions.v.data(at, z, at.alpha * eps - at.sigma * x), x, atol=1e-5)
    flow, x, eps, z = setting(PROCESSES["flow"])
    np.testing.assert_allclose(predictions.velocity.target(flow, x, eps), eps - x, atol=1e-6)
    log_q = lambda z: jnp.sum(-0.5 * ((z - at.alpha * x) / at.sigma) ** 2)
    at, x, eps, z = setting(PROCESSES["linear"])
    np.testing.assert_allclose(predictions.score.target(at, x, eps), jax.grad(log_q)(z), rtol=1e-4, atol=1e-4)


def check_preconditioning(prediction):
    """Of data N(0, 0.7^2) the target has unit variance at every level, and the factor is the paper's c_out^2."""
    t = jnp.geomspace(0.01, 50.0, 7)
    x, eps = jax.random.normal(KEY, (2, 7, 20_000)) * jnp.array([0.7, 1.0]).reshape(2, 1, 1)
    at = gaussian.point(PROCESSES["edm"], t, x)
    np.testing.assert_allclose(prediction.target(at, x, eps).std(axis=1), 1, atol=0.02)
    s, d = np.float64(t), 0.7
    np.testing.assert_allclose(prediction.factor(at)[:, 0], (s * d) ** 2 / (s**2 + d**2), rtol=1e-5)
    np.testing.assert_allclose(
        prediction.data(at, jnp.ones((7, 1)), jnp.zeros((7, 1)))[:, 0], d**2 / (s**2 + d**2), rtol=1e-5
    )


def test_edm_has_targets_of_unit_variance():
    check_preconditioning(predictions.preconditioned(0.7))
    rejects(check_preconditioning, predictions.preconditioned(0.5))
    rejects(check_preconditioning, predictions.noise)


def check_without_signal(prediction):
    """Where nothing is left of x but what the network says, that is x."""
    z, t = jax.random.normal(KEY, (3, 2)), jnp.ones(3)
    told = lambda z, t: prediction.target(gaussian.point(FLOW, t, z), jnp.full((3, 2), 0.3), z)
    np.testing.assert_allclose(predictions.denoiser(FLOW, prediction, told)(z, t), 0.3, atol=1e-6)


def test_preconditioning_where_no_signal_is_left():
    check_without_signal(predictions.preconditioned(0.7))
    divided = predictions.preconditioned(0.7)._replace(data=lambda at, z, out: (at.alpha / at.alpha) * out)
    rejects(check_without_signal, divided)


def check_conversion(convert):
    """Any prediction as any other, where nothing is ill-conditioned: what the same x and eps give directly."""
    at, x, eps, z = setting(Process(lambda t: 1 - t, lambda t: t, 0.3, 0.7))
    for source in PREDICTIONS.values():
        for target in PREDICTIONS.values():
            output = source.target(at, x, eps)
            np.testing.assert_allclose(convert(source, target, at, z, output), target.target(at, x, eps), atol=1e-4)


def test_conversions_go_both_ways():
    check_conversion(predictions.convert)
    rejects(check_conversion, lambda source, target, at, z, out: predictions.convert(source, source, at, z, out))
    forgetful = lambda source, target, at, z, out: target.target(at, source.data(at, z, out), z)
    rejects(check_conversion, forgetful)


def test_a_trained_network_as_a_denoiser():
    """Of data N(0, I) the expectation of x is alpha z / (alpha^2 + sigma^2), whatever the network predicts."""
    process = schedules.linear()
    t, z = jnp.float32(times(process)), jax.random.normal(KEY, (9, 3))
    at = gaussian.point(process, t, z)
    exact = at.alpha * z / (at.alpha**2 + at.sigma**2)
    for prediction in PREDICTIONS.values():
        network = lambda z, t, p=prediction: predictions.convert(predictions.data, p, at, z, exact)
        found = predictions.denoiser(process, prediction, network)(z, t)
        np.testing.assert_allclose(found, exact, atol=2e-4)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: gaussian.check_process(Process(lambda t: 1 - t + 0.2 * np.sin(9 * t), lambda t: t, 0.0, 1.0)),
            "rises",
        ),
        (lambda: gaussian.check_process(Process(lambda t: 1 + 0 * t, lambda t: 1 + 0 * t, 0.0, 1.0)), "stays"),
        (lambda: gaussian.check_process(Process(lambda t: 1 - t, lambda t: t, 1.0, 0.0)), "first < last"),
        (lambda: gaussian.check_process(Process(lambda t: -t, lambda t: t, 0.1, 1.0)), "negative"),
        (lambda: schedules.linear(b_0=-1.0), "no number"),
        (lambda: schedules.linear(first=1.0), "first < last"),
        (lambda: schedules.cosine(first=-0.1), "first = -0.1"),
        (lambda: schedules.variance_exploding(2.0, 1.0), "sigma_min = 2.0"),
        (lambda: schedules.edm(0.0), "sigma_min = 0.0"),
        (lambda: schedules.rectified_flow(last=1.5), "last = 1.5"),
        (lambda: schedules.zero_terminal(schedules.edm()), "is not 1"),
        (lambda: schedules.shifted(schedules.cosine(), float("nan")), "shift = nan"),
        (lambda: predictions.denoiser(schedules.rectified_flow(), predictions.noise, None), "nothing of the data"),
        (lambda: predictions.denoiser(PROCESSES["zero"], predictions.score, None), "nothing of the data"),
        (lambda: predictions.preconditioned(0.0), "deviation of the data = 0.0"),
        (lambda: gaussian.corrupt(schedules.edm(), jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones(3)), "times [3]"),
    ],
)
def test_refusals_name_what_is_wrong(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value)
    assert len(str(refusal.value).splitlines()) <= 3

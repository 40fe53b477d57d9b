"""Solvers of diffusion: orders of convergence, exact recursions of Gaussian data, laws of mixtures; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.corruption import predictions, schedules
from genjax.corruption.gaussian import Process, between, log_snr, point
from genjax.errors import BadInput
from genjax.likelihood import diffusion as likelihood
from genjax.losses.denoising import denoising_loss, v_error
from genjax.samplers import ddim, diffusion, grids, ode

KEY = jax.random.key(0)
MEAN, DEVIATION = 0.7, 0.4  # of Gaussian data
PROCESSES = {
    "linear": schedules.linear(first=0.01),
    "cosine": schedules.cosine(0.01, 0.99),
    "edm": schedules.edm(0.02, 10.0),
    "flow": schedules.rectified_flow(),
    "zero": schedules.zero_terminal(schedules.linear(first=0.01)),
}


def best(process):
    """E[x | z] of data N(MEAN, DEVIATION^2)."""

    def denoise(z, t):
        at = point(process, t, z)
        variance = at.alpha**2 * DEVIATION**2 + at.sigma**2
        return MEAN + at.alpha * DEVIATION**2 / variance * (z - at.alpha * MEAN)

    return denoise


def exact_flow(process, z, t):
    """Where eq. 5 takes z_t at t = first: quantiles keep their place, all laws being normal."""
    place = lambda t: (process.alpha(t) * MEAN, np.sqrt((process.alpha(t) * DEVIATION) ** 2 + process.sigma(t) ** 2))
    (mean_t, deviation_t), (mean, deviation) = place(np.array(t)), place(np.array(process.first))
    return mean + deviation * (z - mean_t) / deviation_t


# -- order of convergence ----------------------------------------------------------------------------------------------

GRIDS = {name: grids.uniform for name in PROCESSES} | {"edm": grids.karras, "linear": grids.uniform_log_snr}
SOLVERS = {
    "ddim": (ddim.ddim(), 1),
    "2m": (ddim.dpm_solver_2m(), 2),
    "euler": (ode.euler(), 1),
    "heun": (ode.heun(), 2),
}


def errors(process, solver, grid, steps):
    """Of z where the last step begins, against the exact flow: the step to the data is the same for all."""
    z = jnp.array([[-1.3], [0.2], [2.1]]) * float(process.sigma(np.array(process.last)))

    def at_first(n):
        times = grid(process, n)
        plan = {name: jnp.asarray(rows) for name, rows in solver.plan(process, times).items()}
        walked, memory = z, solver.init(z)
        step = jax.jit(lambda at, z, memory: solver.step(best(process), at, z, memory, KEY))
        for i in range(n - 1):
            walked, memory, _ = step({name: rows[i] for name, rows in plan.items()}, walked, memory)
        return np.asarray(walked), times[-1]

    found = []
    for n in steps:
        walked, t = at_first(n)
        exact = exact_flow(process._replace(first=t), np.asarray(z), process.last)
        found.append(np.abs(walked - exact).max())
    return np.array(found)


def check_order(process, solver, grid, order):
    steps = (32, 64, 128)
    with jax.enable_x64(True):
        found = errors(process, solver, grid, steps)
    slopes = np.log2(found[:-1] / found[1:])
    assert abs(slopes[-1] - order) < 0.25, slopes
    assert found[-1] < (0.1 if order == 1 else 0.01)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("process", ["linear", "cosine", "edm", "flow"])
def test_errors_fall_by_the_order(name, process):
    solver, order = SOLVERS[name]
    ends = {"first": 0.02} if (name, process) == ("2m", "flow") else {}  # 2M nears order 2 slowly down to the data
    check_order(PROCESSES[process]._replace(**ends), solver, GRIDS[process], order)


@pytest.mark.parametrize("name", SOLVERS)
def test_from_zero_signal_on(name):
    solver, order = SOLVERS[name]
    check_order(PROCESSES["zero"], solver, grids.uniform, order)


def test_planted_solvers_lose_their_order():
    process, grid = PROCESSES["cosine"], grids.uniform
    two, heun = ddim.dpm_solver_2m(), ode.heun()
    rejects(check_order, process, ode.euler(), grid, 2)
    rejects(check_order, process, two._replace(plan=lambda p, g: two.plan(p, g) | {"line": 0.7 + 0 * g}), grid, 2)
    late = lambda denoise, at, z, memory, key: (two.step(denoise, at, z, memory, key)[0], memory, z)
    rejects(check_order, process, two._replace(step=late), grid, 2)
    longer = lambda p, g: heun.plan(p, g) | {"length": 1.02 * heun.plan(p, g)["length"]}
    rejects(check_order, process, heun._replace(plan=longer), grid, 2)
    stale = lambda p, g: heun.plan(p, g) | {"next_t": heun.plan(p, g)["t"]}
    rejects(check_order, process, heun._replace(plan=stale), grid, 2)


# -- laws --------------------------------------------------------------------------------------------------------------


def recursion(process, grid, variance):
    """Mean and deviation of z along DDPM's steps with the best denoiser of Gaussian data, in closed form."""
    m, v = 0.0, float(process.sigma(grid[0])) ** 2
    for i, t in enumerate(grid):
        a, s2 = process.alpha(t), process.sigma(t) ** 2
        gain = a * DEVIATION**2 / (a**2 * DEVIATION**2 + s2)
        offset = MEAN - gain * a * MEAN
        if i == len(grid) - 1:
            return offset + gain * m, np.sqrt(gain**2 * v)
        s = grid[i + 1]
        keep, pull, small = between(process, s, t)
        large = s2 - (a / process.alpha(s)) ** 2 * process.sigma(s) ** 2
        slope = keep + pull * gain
        m, v = slope * m + pull * offset, slope**2 * v + small ** (1 - variance) * large**variance
    raise AssertionError


def check_recursion(solver, variance, process=PROCESSES["cosine"], n=40_000):
    grid = grids.uniform(process, 12)
    x = np.asarray(diffusion.sample(process, best(process), solver, grid, KEY, (n, 1)))
    mean, deviation = recursion(process, grid, variance)
    assert abs(x.mean() - mean) < 4 * deviation / n**0.5
    assert abs(x.std() / deviation - 1) < 4 / (2 * n) ** 0.5


@pytest.mark.parametrize("variance", [0.0, 0.3, 1.0])
def test_ancestral_steps_have_the_exact_law(variance):
    solver = ddim.ancestral(variance)
    check_recursion(solver, variance)
    rejects(check_recursion, solver, 1.0 if variance < 1 else 0.0)
    same = lambda denoise, at, z, memory, key: solver.step(denoise, at, z, memory, KEY)  # one key for all steps
    rejects(check_recursion, solver._replace(step=same), variance)
    rejects(check_recursion, ddim.ddim(), variance)


def check_same_steps(one, other):
    process = PROCESSES["linear"]
    grid = grids.uniform(process, 20)
    drawn = [diffusion.sample(process, best(process), solver, grid, KEY, (64, 2)) for solver in (one, other)]
    np.testing.assert_allclose(*drawn, atol=2e-5)


def test_ddim_with_all_noise_is_ddpm():
    check_same_steps(ddim.ddim(1.0), ddim.ancestral(0.0))
    rejects(check_same_steps, ddim.ddim(0.9), ddim.ancestral(0.0))
    rejects(check_same_steps, ddim.ddim(1.0), ddim.ancestral(0.1))


def test_churn_without_noise_is_heun():
    check_edm = lambda one, other: np.testing.assert_allclose(
        *(
            diffusion.sample(
                PROCESSES["edm"], best(PROCESSES["edm"]), solver, GRIDS["edm"](PROCESSES["edm"], 15), KEY, (8, 2)
            )
            for solver in (one, other)
        ),
        atol=1e-4,
    )
    check_edm(ode.churn(0.0), ode.heun())
    rejects(check_edm, ode.churn(5.0), ode.heun())


MODES = np.array([-2.0, 1.0, 3.0])
SHARES = np.array([0.2, 0.5, 0.3])
WIDTH = 0.2


def mixture(process):
    """E[x | z] of a mixture of three normals."""

    def denoise(z, t):
        at = point(process, t, z)
        variance = at.alpha**2 * WIDTH**2 + at.sigma**2
        means = jnp.float32(MODES)[None, :]
        away = z - at.alpha * means
        share = jax.nn.softmax(jnp.log(jnp.float32(SHARES))[None, :] - 0.5 * away**2 / variance, axis=1)
        each = means + at.alpha * WIDTH**2 / variance * away
        return jnp.sum(share * each, axis=1, keepdims=True)

    return denoise


def check_mixture(solver, process, grid, n=20_000):
    x = np.asarray(diffusion.sample(process, mixture(process), solver, grid, KEY, (n, 1)))[:, 0]
    near = np.argmin(np.abs(x[:, None] - MODES[None, :]), axis=1)
    assert scipy.stats.chisquare(np.bincount(near, minlength=3), n * SHARES).pvalue > 1e-3
    law = lambda x: sum(s * scipy.stats.norm.cdf(x, m, WIDTH) for s, m in zip(SHARES, MODES, strict=True))
    assert scipy.stats.kstest(x, law).pvalue > 1e-3


MIXTURES = {
    "ddim": (ddim.ddim(), "cosine", 400),
    "ddpm": (ddim.ancestral(), "cosine", 800),
    "2m": (ddim.dpm_solver_2m(), "cosine", 400),
    "heun": (ode.heun(), "wide", 60),
    "churn": (ode.churn(20.0, 0.1, 5.0, 1.0), "wide", 100),
    "flow": (ode.heun(), "flow", 200),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_of_a_mixture_have_its_law(name):
    solver, process, steps = MIXTURES[name]
    process = (PROCESSES | {"cosine": schedules.cosine(), "wide": schedules.edm(0.01, 300.0)})[process]
    grid = grids.uniform(process, steps) if name != "heun" and name != "churn" else grids.karras(process, steps)
    check_mixture(solver, process, grid)
    few = grids.uniform(process, 5)
    rejects(check_mixture, solver, process, few)


# -- the frame ---------------------------------------------------------------------------------------------------------


def test_grids():
    edm = PROCESSES["edm"]
    s = np.linspace(10.0 ** (1 / 7), 0.02 ** (1 / 7), 9) ** 7
    np.testing.assert_allclose(grids.karras(edm, 9), s, rtol=1e-9)
    even = np.diff(log_snr(PROCESSES["linear"], grids.uniform_log_snr(PROCESSES["linear"], 9)))
    np.testing.assert_allclose(even, even[0], rtol=1e-9)
    assert grids.uniform(edm, 1).tolist() == [10.0]
    for grid in (grids.karras, grids.uniform_log_snr, grids.uniform):
        assert grid(PROCESSES["linear"], 7)[[0, -1]].tolist() == [1.0, 0.01]


def test_a_trajectory_ends_with_the_sample():
    process = PROCESSES["cosine"]
    arguments = (process, best(process), ddim.ancestral(), grids.uniform(process, 9), KEY, (4, 2))
    seen = diffusion.trajectory(*arguments)
    np.testing.assert_allclose(seen[-1], diffusion.sample(*arguments), atol=1e-6)
    assert float(jnp.abs(seen[0] - MEAN).max()) < 0.1  # at first only the mean of the data is known
    for frames, rows in ((1, [8]), (3, [0, 4, 8]), (9, range(9))):
        np.testing.assert_allclose(diffusion.trajectory(*arguments, frames), seen[np.array(rows)], atol=1e-6)


def preview(frames):
    process = PROCESSES["cosine"]
    grid = grids.uniform(process, 9)
    return diffusion.trajectory(process, best(process), ddim.ddim(), grid, KEY, (4, 2), frames)


ALL = {**{name: solver for name, (solver, _) in SOLVERS.items()}, "ddpm": ddim.ancestral(), "churn": ode.churn(5.0)}


@pytest.mark.parametrize("name", ALL)
def test_sampling_compiles_once_whatever_the_number_of_steps(name):
    """The network is traced as often for 500 steps as for 5, and a compiled sample is the one that is not compiled."""
    process, calls = PROCESSES["cosine"], []

    def counted(z, t):
        calls.append(1)
        return best(process)(z, t)

    draw = lambda key, n: diffusion.sample(process, counted, ALL[name], grids.uniform(process, n), key, (4, 2))
    compiled = jax.jit(draw, static_argnums=1)
    counts = [len(calls) for n in (5, 500) if compiled(KEY, n) is not None]
    assert counts[1] == 2 * counts[0] and counts[0] <= 2
    np.testing.assert_allclose(compiled(KEY, 5), draw(KEY, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: grids.uniform(PROCESSES["flow"], 0), "steps = 0"),
        (lambda: grids.karras(PROCESSES["flow"], 5), "karras"),
        (lambda: grids.uniform_log_snr(PROCESSES["zero"], 5), "uniform_log_snr"),
        (lambda: grids.karras(PROCESSES["edm"], 5, rho=0.0), "rho = 0.0"),
        (lambda: ode.churn().plan(PROCESSES["flow"], np.array([1.0, 0.5])), "ddim, dpm_solver_2m, euler and heun fit"),
        (lambda: ode.churn(1.0, 5.0, 1.0), "from 5.0 to 1.0"),
        (lambda: ddim.ddim().plan(PROCESSES["flow"], np.array([0.5, 0.7])), "2 times from 0.5"),
        (lambda: ddim.ddim().plan(PROCESSES["flow"], np.array([1.5, 0.7])), "from 1.5"),
        (lambda: ddim.ddim().plan(PROCESSES["flow"], np.array([])), "0 times"),
        (lambda: ddim.ddim().plan(PROCESSES["flow"], np.array([1.0, np.nan, 0.5])), "3 times from 1.0"),
        (lambda: ode.heun().plan(PROCESSES["flow"], np.array([1.0, 0.5, 0.0])), "no noise is left"),
        (lambda: grids.uniform(PROCESSES["flow"], 2.5), "steps = 2.5"),
        (lambda: preview(0), "frames = 0 of 9 steps"),
        (lambda: preview(10), "frames = 10 of 9 steps"),
        (lambda: ddim.ddim(-0.1), "eta = -0.1"),
        (lambda: ddim.ancestral(1.1), "variance = 1.1"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3


# -- what is given -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_half_precision_and_whole_numbers_are_computed_in_float32(dtype):
    """Of what is begun with, and of what a network says: 2M carries it from step to step."""
    process, z = PROCESSES["cosine"], jnp.array([[0.0], [1.0]])
    grid, half = grids.uniform(process, 3), lambda z, t: best(process)(z, t).astype(jnp.bfloat16)
    draw = lambda z, denoise: diffusion.sample_from(process, denoise, ddim.dpm_solver_2m(), grid, KEY, z)
    assert draw(z.astype(dtype), half).dtype == jnp.float32
    np.testing.assert_array_equal(draw(z.astype(dtype), best(process)), draw(z, best(process)))
    np.testing.assert_allclose(draw(z, half), draw(z, best(process)), atol=0.02)


@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (3,)])
def test_a_denoiser_of_another_shape_is_refused(shape):
    """It would be stretched to fit."""
    process, grid = PROCESSES["cosine"], grids.uniform(PROCESSES["cosine"], 3)
    other = lambda z, t: jnp.ones(shape)
    for solver in (ddim.ddim(), ode.heun()):
        with pytest.raises(BadInput, match=r"output is \[.*\], the data \[2, 3\]"):
            diffusion.sample(process, other, solver, grid, KEY, (2, 3))


RISING = schedules.by_log_snr(lambda t: 18.0 * t - 5.0)
BUMPY = schedules.by_log_snr(lambda t: 5.0 - 10.0 * t + 3.0 * np.sin(9.0 * t), 0.01)


@pytest.mark.parametrize("process", [RISING, BUMPY])
def test_a_schedule_that_rises_is_refused_wherever_it_is_used(process):
    """One of a user's own, that nobody has looked at before."""
    x, t, one = jnp.ones((2, 3)), jnp.array([0.3, 0.6]), lambda z, t: z
    grid, reals = grids.uniform(process, 5), likelihood.of_reals(process)
    loss = lambda a: denoising_loss(process, predictions.v, v_error, one, a * x, t, x).sum()
    for use in (
        lambda: diffusion.sample(process, one, ddim.ddim(), grid, KEY, (2, 3)),
        lambda: predictions.denoiser(process, predictions.v, one),
        lambda: jax.jit(jax.grad(loss))(1.0),
        lambda: likelihood.stepwise_bound(process, one, reals, grid, x, KEY),
        lambda: likelihood.continuous_bound(process, one, reals, 2, x, KEY),
    ):
        with pytest.raises(BadInput, match="signal-to-noise ratio of a process rises"):
            use()


def test_a_process_of_ones_own():
    """Any falling pair of functions will do: a flow along a circle, sampled with nothing else defined."""
    process = Process(lambda t: t.__array_namespace__().cos(t), lambda t: t.__array_namespace__().sin(t), 0.01, 1.5)
    x = diffusion.sample(process, best(process), ddim.dpm_solver_2m(), grids.uniform(process, 50), KEY, (20_000, 1))
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.03) and float(x.std()) == pytest.approx(DEVIATION, abs=0.02)

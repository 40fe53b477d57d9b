"""Consistency distillation against Gaussian data, whose consistency function is known; its sampler's laws; mutants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from planted import rejects
from test_diffusion_samplers import DEVIATION, MEAN, MODES, SHARES, WIDTH, best, mixture

from genjax.corruption import schedules
from genjax.corruption.gaussian import corrupt, point
from genjax.corruption.predictions import denoiser, preconditioned
from genjax.errors import BadInput
from genjax.learners import minimize
from genjax.losses import consistency
from genjax.samplers import ddim, diffusion, grids, ode
from genjax.samplers.consistency import multistep
from genjax.types import Out

KEY = jax.random.key(0)
PROCESSES = {
    "cosine": schedules.cosine(0.01, 0.995),
    "edm": schedules.edm(0.3, 300.0),
    "flow": schedules.rectified_flow(0.02, 0.995),
}
every_process = pytest.mark.parametrize("name", PROCESSES)


def noise_levels(process, t):
    t = np.asarray(t, np.float64)
    return process.sigma(t) / process.alpha(t)


def exact(process):
    """Quantiles of y = z / alpha keep their place, all laws being normal."""
    begin = noise_levels(process, process.first)

    def f(z, t):
        at = point(process, t, z)
        shrunk = jnp.sqrt((DEVIATION**2 + begin**2) / (DEVIATION**2 + (at.sigma / at.alpha) ** 2))
        return MEAN + shrunk * (z / at.alpha - MEAN)

    return f


def walk(process, step=consistency.heun_step):
    return lambda z, t, earlier: step(process, best(process), z, t, earlier)


# -- the function ------------------------------------------------------------------------------------------------------


def check_boundary(make, process):
    f = make(process, 0.4, lambda z, t: 1e6 * jnp.cos(z))
    z, t = jax.random.normal(KEY, (1_000, 3)), jnp.full(1_000, process.first)
    for run in (f, jax.jit(f)):
        np.testing.assert_allclose(run(z, t), z / process.alpha(np.array(process.first)), rtol=1e-6)


@every_process
def test_at_the_first_time_the_network_has_no_say(name):
    check_boundary(consistency.consistency_function, PROCESSES[name])
    rejects(check_boundary, lambda p, d, net: denoiser(p, preconditioned(d), net), PROCESSES[name])


def check_scales(make, process):
    """c_skip and c_out of eq. 2 from a network that says 0, and one that says 1."""
    t, d = np.linspace(process.first, process.last, 7), 0.4
    s, begin, z = noise_levels(process, t), noise_levels(process, process.first), np.ones((7, 1), np.float32)
    said = [np.asarray(make(process, d, lambda z, t, v=v: v + 0 * z)(z, jnp.float32(t)))[:, 0] for v in (0.0, 1.0)]
    skip = d**2 / ((s - begin) ** 2 + d**2) / process.alpha(t)
    np.testing.assert_allclose(said[0], skip, rtol=1e-3)
    np.testing.assert_allclose((said[1] - said[0])[1:], (d * (s - begin) / np.sqrt(s**2 + d**2))[1:], rtol=1e-3)


@every_process
def test_scales_are_those_of_the_paper(name):
    make = consistency.consistency_function
    check_scales(make, PROCESSES[name])
    rejects(check_scales, lambda p, d, net: make(p, 2 * d, net), PROCESSES[name])
    rejects(check_scales, lambda p, d, net: make(p._replace(first=p.first / 2), d, net), PROCESSES[name])


# -- the teacher's steps -----------------------------------------------------------------------------------------------


def check_order(step, order, process):
    """The error of one step along the path of Gaussian data, halved and halved again; each row at its own times."""
    with jax.enable_x64(True):
        t = jnp.linspace(0.3, 0.8, 5) * (process.last if process.last > 1 else 1.0)
        z, errors = jnp.linspace(-1.0, 2.0, 5)[:, None] * process.sigma(t)[:, None], []
        for length in (0.1, 0.05, 0.025):
            earlier = t * (1 - length)
            y = lambda t: jnp.sqrt(DEVIATION**2 + (process.sigma(t) / process.alpha(t)) ** 2)[:, None]
            place = (z / process.alpha(t)[:, None] - MEAN) / y(t)
            path = process.alpha(earlier)[:, None] * (MEAN + place * y(earlier))
            errors.append(np.abs(step(process, best(process), z, t, earlier) - path).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert abs(slopes[-1] - order) < 0.25, slopes


@every_process
def test_steps_have_their_order(name):
    process = PROCESSES[name]
    check_order(consistency.euler_step, 2, process)
    check_order(consistency.heun_step, 3, process)
    rejects(check_order, consistency.euler_step, 3, process)
    late = lambda p, f, z, t, e: consistency.heun_step(p, lambda z, s: f(z, t), z, t, e)
    rejects(check_order, late, 3, process)


def check_chain(step, solver, process):
    """Steps one by one are the solver's on the same grid, but for its last, to the data."""
    grid, z = grids.uniform(process, 7), jax.random.normal(KEY, (4, 2))
    walked = z
    for t, earlier in itertools.pairwise(grid):
        walked = step(process, best(process), walked, jnp.full(4, t), jnp.full(4, earlier))
    final = best(process)(walked, jnp.full(4, grid[-1]))
    solved = diffusion.sample_from(process, best(process), solver, grid, KEY, z)
    np.testing.assert_allclose(final, solved, atol=2e-4)


def test_euler_steps_are_ddim():
    check_chain(consistency.euler_step, ddim.ddim(), PROCESSES["cosine"])
    check_chain(consistency.heun_step, ode.heun(), PROCESSES["edm"])
    rejects(check_chain, consistency.euler_step, ode.euler(), PROCESSES["cosine"])
    rejects(check_chain, consistency.heun_step, ode.euler(), PROCESSES["edm"])


def test_a_step_to_the_data_themselves():
    process = schedules.rectified_flow()
    z, t = jnp.array([[0.5]]), jnp.array([0.4])
    x = best(process)(z, t)
    for step in (consistency.euler_step, consistency.heun_step):
        np.testing.assert_allclose(step(process, best(process), z, t, 0 * t), x, atol=1e-6)


# -- the loss ----------------------------------------------------------------------------------------------------------


def drawn(process, n=2_000, levels=60):
    keys = jax.random.split(KEY, 3)
    x = MEAN + DEVIATION * jax.random.normal(keys[0], (n, 1))
    t, earlier = consistency.adjacent_times(process, grids.uniform_log_snr(process, levels), keys[1], n)
    return x, t, earlier, jax.random.normal(keys[2], (n, 1))


def check_exact_function(loss, process):
    """The exact function is consistent along the exact teacher's steps, in the mean and at every pair of times."""
    f, (x, t, earlier, noise) = exact(process), drawn(process)
    found = loss(process, walk(process), f, f, consistency.squared_distance, x, t, earlier, noise)
    assert found.shape == (2_000,) and float(found.max()) < 1e-4 * DEVIATION**2


def with_target_at_t(p, walk, f, g, metric, x, t, earlier, noise):
    return consistency.distillation_loss(p, walk, f, lambda z, s: g(z, t), metric, x, t, earlier, noise)


def with_student_earlier(p, walk, f, g, metric, x, t, earlier, noise):
    return consistency.distillation_loss(p, walk, lambda z, s: f(z, earlier), g, metric, x, t, earlier, noise)


def without_a_step(p, walk, *rest):
    return consistency.distillation_loss(p, lambda z, t, earlier: z, *rest)


@every_process
def test_the_exact_function_has_no_loss(name):
    check_exact_function(consistency.distillation_loss, PROCESSES[name])
    for planted in (with_target_at_t, with_student_earlier, without_a_step):
        rejects(check_exact_function, planted, PROCESSES[name])


def check_value(loss):
    """A student that says z and a target that says 0: ||alpha x + sigma eps||^2, by hand."""
    process = PROCESSES["cosine"]
    x, t, earlier, noise = drawn(process, 50)
    say, zero, metric = lambda z, t: z, lambda z, t: 0 * z, consistency.squared_distance
    by_hand = (process.alpha(np.asarray(t)) * x[:, 0] + process.sigma(np.asarray(t)) * noise[:, 0]) ** 2
    np.testing.assert_allclose(
        loss(process, walk(process), say, zero, metric, x, t, earlier, noise), by_hand, rtol=1e-4
    )


def test_the_student_sees_noised_data():
    check_value(consistency.distillation_loss)
    swapped = lambda p, w, f, g, m, x, t, e, noise: consistency.distillation_loss(p, w, f, g, m, x, e, t, noise)
    rejects(check_value, swapped)
    rejects(check_value, lambda p, w, f, g, m, x, t, e, n: consistency.distillation_loss(p, w, f, g, m, n, t, e, x))


def with_gradient_through_the_target(p, walk, f, g, metric, x, t, earlier, noise):
    z = corrupt(p, x, noise, t)
    return metric(f(z, t), g(walk(z, t, earlier), earlier))


def check_gradient(loss):
    """f = exact + a t: the mean of 2 a (t - t') t for both sides sharing a, and of 2 a (t - t')^2 were both moved."""
    process = PROCESSES["cosine"]
    x, t, earlier, noise = drawn(process)

    def mean(a):
        f = lambda z, t: exact(process)(z, t) + a * t[:, None]
        return loss(process, walk(process), f, f, consistency.squared_distance, x, t, earlier, noise).mean()

    assert float(jax.grad(mean)(2.0)) == pytest.approx(float((4 * (t - earlier) * t).mean()), rel=0.02)


def test_no_gradient_goes_through_the_target():
    check_gradient(consistency.distillation_loss)
    rejects(check_gradient, with_gradient_through_the_target)


def check_metric(make):
    metric, a = make(0.3), np.array([[0.6, -0.8], [0.0, 0.0], [0.003, 0.004]])
    np.testing.assert_allclose(metric(a, 0 * a), [1.09**0.5 - 0.3, 0.0, 0.005**2 / 0.6], atol=1e-6)


def test_pseudo_huber_by_hand():
    check_metric(consistency.pseudo_huber)
    rejects(check_metric, lambda c: lambda a, b: consistency.pseudo_huber(c)(a, b) + c)
    rejects(check_metric, lambda c: consistency.pseudo_huber(c**2))
    rejects(check_metric, lambda c: consistency.squared_distance)


def check_pairs(draw, process):
    grid = grids.uniform(process, 9)
    t, earlier = (np.asarray(part) for part in draw(process, grid, KEY, 8_000))
    number = np.abs(t[:, None] - grid[None]).argmin(1)
    np.testing.assert_allclose(t, grid[number], rtol=1e-6)
    np.testing.assert_allclose(earlier, grid[np.minimum(number + 1, 8)], rtol=1e-6)
    assert (earlier < t).all() and earlier.min() == np.float32(process.first)
    assert scipy.stats.chisquare(np.bincount(number, minlength=9)[:8]).pvalue > 1e-4


def test_pairs_are_neighbours_each_as_likely():
    process = PROCESSES["cosine"]
    check_pairs(consistency.adjacent_times, process)
    rejects(check_pairs, lambda *given: consistency.adjacent_times(*given)[::-1], process)
    coarse = lambda p, grid, key, n: consistency.adjacent_times(p, grid[::2], key, n)
    rejects(check_pairs, coarse, process)

    def early(p, grid, key, n):
        i = jnp.minimum(jax.random.randint(key, (n,), 0, 9), 7)
        return jnp.float32(grid)[i], jnp.float32(grid)[i + 1]

    rejects(check_pairs, early, process)


def check_follow(follow):
    """Three updates: the weighted sum of what the student was, of the newest weight 1 - m."""
    target = {"w": jnp.float32(8.0)}
    for theta in (1.0, 2.0, 4.0):
        target = follow(target, {"w": jnp.asarray(theta, jnp.bfloat16)}, 0.5)
    assert float(target["w"]) == 8 / 8 + 1 / 8 + 2 / 4 + 4 / 2 and target["w"].dtype == jnp.float32
    assert float(jax.grad(lambda theta: follow(jnp.float32(0.0), theta, 0.5))(1.0)) == 0


def test_the_target_follows():
    check_follow(consistency.follow)
    rejects(check_follow, lambda target, params, m: consistency.follow(params, target, m))
    rejects(check_follow, lambda target, params, m: jax.tree.map(lambda a, b: m * a + (1 - m) * b, target, params))


# -- learning ----------------------------------------------------------------------------------------------------------

GRID_PROCESS = schedules.edm(0.05, 10.0)
GRID = grids.karras(GRID_PROCESS, 10)


def linear(params):
    """F linear in z, with numbers of its own at every time of the grid."""

    def network(z, t):
        i = jnp.abs(jnp.log(t)[:, None] - jnp.float32(np.log(GRID))[None]).argmin(1)
        seen = z / jnp.sqrt(t**2 + DEVIATION**2)[:, None]
        return params["w"][i][:, None] * seen + params["b"][i][:, None]

    return consistency.consistency_function(GRID_PROCESS, DEVIATION, network)


def learned(loss, step=consistency.heun_step, follow=consistency.follow):
    """What distillation of the best denoiser comes to."""

    def objective(params, state, batch, key):
        keys = jax.random.split(key, 3)
        x = MEAN + DEVIATION * jax.random.normal(keys[0], (256, 1))
        t, earlier = consistency.adjacent_times(GRID_PROCESS, GRID, keys[1], 256)
        target, noise = follow(state.carry, params, 0.9), jax.random.normal(keys[2], (256, 1))
        metric = consistency.squared_distance
        found = loss(
            GRID_PROCESS, walk(GRID_PROCESS, step), linear(params), linear(target), metric, x, t, earlier, noise
        )
        return Out(found, carry=target)

    zeros = lambda key, batch: {"w": jnp.zeros(10), "b": jnp.zeros(10)}
    tx = optax.adam(optax.cosine_decay_schedule(0.03, 3_000))
    learner = minimize(objective, tx, zeros, lambda key, params, batch: params)
    update = lambda state, _: (learner.update(state, {}, KEY)[0], None)
    state = jax.jit(lambda: jax.lax.scan(update, learner.init(KEY, {}), None, 3_000)[0])()
    return linear(state.params)


def check_learned(*how):
    """From every time of the grid the function goes where the teacher's Heun steps lead, one after the other."""
    f = learned(*how)
    for begin in (3, 0):
        z = MEAN + jnp.array([[-1.0], [0.0], [1.5]]) * float(np.hypot(GRID[begin], DEVIATION))
        end = z
        for t, earlier in itertools.pairwise(GRID[begin:]):
            end = walk(GRID_PROCESS)(end, jnp.full(3, t), jnp.full(3, earlier))
        np.testing.assert_allclose(f(z, jnp.full(3, GRID[begin])), end, atol=0.02)


def test_distillation_comes_to_the_teachers_walk():
    check_learned(consistency.distillation_loss)
    rejects(check_learned, with_target_at_t)
    rejects(check_learned, consistency.distillation_loss, consistency.euler_step)
    rejects(check_learned, consistency.distillation_loss, consistency.heun_step, lambda target, params, m: target)


# -- sampling ----------------------------------------------------------------------------------------------------------


def check_normal(solver, process, f, grid, n=20_000):
    """Samples by the exact function have the law of y at the first time: the data's, and what noise is left."""
    x = np.asarray(diffusion.sample(process, f, solver, grid, KEY, (n, 1)))[:, 0]
    deviation = float(np.hypot(DEVIATION, noise_levels(process, process.first)))
    assert scipy.stats.kstest(x, scipy.stats.norm(MEAN, deviation).cdf).pvalue > 1e-3


def with_all_noise(process, grid):
    return multistep().plan(process, grid) | {"added": np.append(noise_levels(process, grid[1:]), 0.0)}


@every_process
@pytest.mark.parametrize("calls", [1, 2, 4])
def test_samples_have_the_law_of_the_data(name, calls):
    process = PROCESSES[name]
    grid = grids.uniform_log_snr(process, calls + 1)[:-1]
    check_normal(multistep(), process, exact(process), grid)
    rejects(check_normal, multistep(), process, best(process), grid)
    if calls == 4:
        same = lambda f, at, z, memory, key: multistep().step(f, at, z, memory, KEY)  # one key for all steps
        rejects(check_normal, multistep()._replace(step=same), process, exact(process), grid)


def test_noise_that_is_left_counts():
    process, grid = PROCESSES["edm"], np.array([300.0, 0.4])
    check_normal(multistep(), process, exact(process), grid)
    rejects(check_normal, multistep()._replace(plan=with_all_noise), process, exact(process), grid)


def walked_to_the_end(process, denoise, steps=60):
    """A consistency function by many Heun steps, each row from its own time."""

    def f(z, t):
        share = jnp.linspace(0.0, 1.0, steps + 1)

        def one(z, pair):
            earlier = jnp.exp((1 - pair[1]) * jnp.log(t) + pair[1] * jnp.log(process.first))
            now = jnp.exp((1 - pair[0]) * jnp.log(t) + pair[0] * jnp.log(process.first))
            return consistency.heun_step(process, denoise, z, now, earlier), None

        return jax.lax.scan(one, z, jnp.stack([share[:-1], share[1:]], 1))[0]

    return f


def check_mixture(f, process, grid, n=20_000):
    x = np.asarray(diffusion.sample(process, f, multistep(), grid, KEY, (n, 1)))[:, 0]
    near = np.argmin(np.abs(x[:, None] - MODES[None, :]), axis=1)
    assert scipy.stats.chisquare(np.bincount(near, minlength=3), n * SHARES).pvalue > 1e-3
    spread = np.hypot(WIDTH, process.first)
    law = lambda x: sum(s * scipy.stats.norm.cdf(x, m, spread) for s, m in zip(SHARES, MODES, strict=True))
    assert scipy.stats.kstest(x, law).pvalue > 1e-3


@pytest.mark.parametrize("grid", [[300.0], [300.0, 1.5], [300.0, 3.0, 0.4]])
def test_samples_of_a_mixture_have_its_law(grid):
    process = schedules.edm(0.05, 300.0)
    check_mixture(walked_to_the_end(process, mixture(process)), process, np.array(grid))
    rejects(check_mixture, walked_to_the_end(process, mixture(process), 4), process, np.array(grid))
    rejects(check_mixture, mixture(process), process, np.array(grid))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: consistency.consistency_function(PROCESSES["edm"], 0.0, None), "deviation of the data = 0.0"),
        (lambda: consistency.consistency_function(schedules.rectified_flow(), 1.0, None), "zero signal"),
        (lambda: consistency.pseudo_huber(0.0), "c = 0.0"),
        (lambda: consistency.adjacent_times(PROCESSES["edm"], np.array([1.0]), KEY, 3), "a grid of 1 times"),
        (lambda: consistency.adjacent_times(PROCESSES["edm"], np.array([0.3, 1.0]), KEY, 3), "down to 1.0"),
        (lambda: consistency.adjacent_times(PROCESSES["edm"], np.array([9.0, 1.0]), KEY, 3), "down to 1.0"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3

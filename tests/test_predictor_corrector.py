"""Solvers that draw: their means and variances along Gaussian data in closed form; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.corruption import schedules
from genjax.corruption.gaussian import between, point
from genjax.errors import BadInput
from genjax.samplers import ddim, diffusion, grids, ode
from genjax.samplers.predictor_corrector import corrected, reverse_diffusion

KEY = jax.random.key(0)
N = 40_000
MEAN, DEVIATION = 0.7, 0.4  # of Gaussian data
PROCESSES = {
    "linear": schedules.linear(first=0.01),
    "cosine": schedules.cosine(0.01, 0.99),
    "exploding": schedules.variance_exploding(0.05, 10.0),
    "edm": schedules.edm(0.05, 10.0),
    "flow": schedules.rectified_flow(),
}


def best(process):
    """E[x | z] of data N(MEAN, DEVIATION^2)."""

    def denoise(z, t):
        at = point(process, t, z)
        gain, offset = affine(at.alpha, at.sigma)
        return gain * z + offset

    return denoise


def affine(a, s):
    gain = a * DEVIATION**2 / (a**2 * DEVIATION**2 + s**2)
    return gain, MEAN - gain * a * MEAN


class Law:
    """The mean and the variance of z under affine steps with normal noise, in float64."""

    def __init__(self, process, grid):
        self.process, self.grid = process, grid
        self.mean, self.variance = 0.0, float(process.sigma(grid[0])) ** 2

    def move(self, slope, offset, added):
        self.mean, self.variance = slope * self.mean + offset, slope**2 * self.variance + added

    def of(self, *steps):
        """Of x after all steps, each a function (law, t, s), and one to E[x | z]."""
        for t, s in zip(self.grid[:-1], self.grid[1:], strict=True):
            for step in steps:
                step(self, t, s)
        for step in steps[:-1]:
            step(self, self.grid[-1], None)
        gain, offset = affine(*self.at(self.grid[-1]))
        self.move(gain, offset, 0.0)
        return self.mean, np.sqrt(self.variance)

    def at(self, t):
        return float(self.process.alpha(t)), float(self.process.sigma(t))


def backwards(law, t, s):
    """Eq. 1."""
    (a, b), (next_a, next_b) = law.at(t), law.at(s)
    forward, (gain, offset) = a / next_a, affine(a, b)
    variance = b**2 - forward**2 * next_b**2
    pull = variance * a / b**2
    law.move(2 - forward - variance / b**2 + pull * gain, pull * offset, variance)


def langevin(ratio, repeats):
    def step(law, t, s):
        a, b = law.at(t)
        gain, offset = affine(a, b)
        e = 2 * (ratio * b) ** 2
        for _ in range(repeats):
            law.move(1 + e * (a * gain - 1) / b**2, e * a * offset / b**2, 2 * e)

    return step


def ddpm(variance):
    def step(law, t, s):
        a, b = law.at(t)
        (next_a, next_b), (gain, offset) = law.at(s), affine(a, b)
        keep, pull, small = between(law.process, s, t)
        large = b**2 - (a / next_a * next_b) ** 2
        law.move(keep + pull * gain, pull * offset, small ** (1 - variance) * large**variance)

    return step


def implicit(eta):
    """DDIM's step: eqs. 12 and 16 of its paper."""

    def step(law, t, s):
        (a, b), (next_a, next_b) = law.at(t), law.at(s)
        gain, offset = affine(a, b)
        drawn = eta**2 * next_b**2 / b**2 * (b**2 - (a / next_a * next_b) ** 2)
        keep = np.sqrt(next_b**2 - drawn) / b
        law.move(keep + (next_a - keep * a) * gain, (next_a - keep * a) * offset, drawn)

    return step


def churned(amount, lowest, highest, inflate):
    """EDM's algorithm 2, where alpha = 1 and sigma = t."""

    def step(law, t, s):
        gamma = min(amount / len(law.grid), np.sqrt(2) - 1) if lowest <= t <= highest else 0.0
        more = min(t * (1 + gamma), law.process.last)
        law.move(1.0, 0.0, inflate**2 * (more**2 - t**2))
        slopes = []
        for level in (more, s):
            gain, offset = affine(1.0, level)
            slopes.append(((1 - gain) / level, -offset / level))
        (a, b), (c, d) = slopes
        h = s - more  # y + h (f(y) + g(y + h f(y))) / 2, f(y) = a y + b, g(y) = c y + d
        law.move(1 + 0.5 * h * (a + c * (1 + h * a)), 0.5 * h * (b + d + c * h * b), 0.0)

    return step


def check_law(solver, steps, process, n=15):
    grid = grids.karras(process, n, 3.0) if process.last > 1 else grids.uniform(process, n)
    x = np.asarray(diffusion.sample(process, best(process), solver, grid, KEY, (N, 1)))
    mean, deviation = Law(process, grid).of(*steps)
    assert abs(x.mean() - mean) < 4 * deviation / N**0.5
    assert abs(x.std() / deviation - 1) < 4 / (2 * N) ** 0.5


LAWS = {
    "reverse diffusion, linear": (reverse_diffusion(), (backwards,), "linear", 40),
    "reverse diffusion, exploding": (reverse_diffusion(), (backwards,), "exploding", 40),
    "corrected, exploding": (corrected(reverse_diffusion(), 0.3, 2), (langevin(0.3, 2), backwards), "exploding", 20),
    "corrected, cosine": (corrected(ddim.ancestral(1.0), 0.2), (langevin(0.2, 1), ddpm(1.0)), "cosine", 15),
    "corrected, flow": (corrected(ddim.ancestral(), 0.4, 3), (langevin(0.4, 3), ddpm(0.0)), "flow", 15),
    "ddim half": (ddim.ddim(0.5), (implicit(0.5),), "cosine", 15),
    "ddim half, flow": (ddim.ddim(0.5), (implicit(0.5),), "flow", 15),
}


def one_key(solver):
    """The same noise in every step."""
    return solver._replace(step=lambda denoise, at, z, memory, key: solver.step(denoise, at, z, memory, KEY))


@pytest.mark.parametrize("name", LAWS)
def test_steps_have_the_exact_law(name):
    solver, steps, process, n = LAWS[name]
    check_law(solver, steps, PROCESSES[process], n)
    rejects(check_law, one_key(solver), steps, PROCESSES[process], n)


@pytest.mark.parametrize("amount", [3.0, 40.0])
def test_churn_has_the_exact_law(amount):
    """In the widest interval the first step, at sigma_max, cannot go further up; the last one is not churned."""
    process, arguments = PROCESSES["edm"], (amount, 0.08, 5.0, 1.05)
    check_law(ode.churn(*arguments), (churned(*arguments),), process)
    rejects(check_law, one_key(ode.churn(*arguments)), (churned(*arguments),), process)
    rejects(check_law, ode.churn(amount, 0.08, 5.0, 1.5), (churned(*arguments),), process)
    rejects(check_law, ode.churn(*arguments), (churned(0.0, *arguments[1:]),), process)


def test_planted_correctors():
    process, (solver, steps, _, n) = PROCESSES["exploding"], LAWS["corrected, exploding"]
    rejects(check_law, corrected(reverse_diffusion(), 0.2, 2), steps, process, n)
    rejects(check_law, corrected(reverse_diffusion(), 0.3, 1), steps, process, n)
    rejects(check_law, reverse_diffusion(), steps, process, n)
    rejects(check_law, ddim.ancestral(1.0), (backwards,), PROCESSES["linear"], n)
    half = lambda p, g: solver.plan(p, g) | {"corrector_sigma": solver.plan(p, g)["corrector_sigma"] / 2**0.5}
    rejects(check_law, solver._replace(plan=half), steps, process, n)


def distance(solver, n):
    """Of the deviation of exact samples, in the closed form of the steps."""
    process = PROCESSES["cosine"]
    grid = grids.uniform(process, n)
    return abs(Law(process, grid).of(*solver)[1] - DEVIATION)


def check_closer(repeats):
    assert distance((langevin(0.2, repeats), implicit(0.0)), 6) < distance((implicit(0.0),), 6)


def test_what_the_chain_is_for():
    """A coarse predictor that draws too little is corrected; the chain's own stationary law is off by 1 / (1 - r^2)."""
    check_closer(10)
    rejects(check_closer, 0)
    law = Law(PROCESSES["exploding"], np.array([1.0]))
    for _ in range(200):
        law.move(1 - 2 * 0.16**2, 0.0, (2 * 0.16 * 10.0) ** 2)
    assert law.variance == pytest.approx(100.0 / (1 - 0.16**2))


def check_kept(solver, ratio):
    """z_t of the exploding process at its end, under the library's own chain, against its stationary variance."""
    process = PROCESSES["exploding"]
    plan = {name: jnp.float32(rows[0]) for name, rows in solver.plan(process, np.array([1.0])).items()}
    passed = []

    def seen(denoise, at, z, memory, key):
        passed.append(z)
        return z, memory, z

    chain = corrected(ddim.ddim()._replace(step=seen), ratio, 300)
    chain.step(lambda z, t: jnp.zeros_like(z), plan, jnp.zeros((N, 1)), (), KEY)
    assert abs(float(passed[0].var()) / (100.0 / (1 - ratio**2)) - 1) < 4 * (2 / N) ** 0.5


def test_the_chain_alone_keeps_pure_noise():
    check_kept(corrected(ddim.ddim()), 0.16)
    check_kept(corrected(ddim.ddim()), 0.5)
    wide = corrected(ddim.ddim())
    planted = wide._replace(plan=lambda p, g: wide.plan(p, g) | {"corrector_sigma": np.array([9.5])})
    rejects(check_kept, planted, 0.16)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: reverse_diffusion().plan(PROCESSES["flow"], np.array([1.0, 0.5])), "ancestral, ddim, euler and heun"),
        (lambda: corrected(reverse_diffusion()).plan(PROCESSES["flow"], np.array([1.0, 0.5])), "zero signal"),
        (lambda: corrected(ddim.ddim(), 0.0), "ratio = 0.0"),
        (lambda: corrected(ddim.ddim(), 0.1, 0), "repeats = 0"),
        (lambda: corrected(ddim.ddim(), float("nan")), "ratio = nan"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3

"""Pictures known through a linear map: what is known is kept, the rest has the exact law; recursions; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from test_guidance import RHO, check_inpainted, joint

from genjax.corruption import schedules
from genjax.corruption.gaussian import between, point
from genjax.errors import BadInput
from genjax.samplers import ddim, diffusion, grids, ode
from genjax.samplers.predictor_corrector import corrected
from genjax.samplers.projection import masked, projected, repeated, shrunk

KEY = jax.random.key(0)
ENDS = schedules.cosine(0.01, 0.99)
SOLVERS = {
    "ddim": ddim.ddim(),
    "ddpm": ddim.ancestral(),
    "2m": ddim.dpm_solver_2m(),
    "euler": ode.euler(),
    "heun": ode.heun(),
    "churn": ode.churn(),
    "repeated": repeated(ddim.ancestral(), 2),
}
MAPS = {"shrunk": shrunk(2), "masked": masked(jax.random.bernoulli(KEY, 0.4, (4, 6, 2)))}


# -- the maps ----------------------------------------------------------------------------------------------------------


def check_inverse(seen):
    """A A^+ A = A, A^+ A A^+ = A^+, and A^+ A is symmetric, by its matrix over the pictures."""
    shape, size = (4, 6, 2), 48
    flat = lambda back: np.asarray(back(jnp.eye(size).reshape(size, *shape)), np.float64).reshape(size, -1)
    both = flat(lambda x: seen.back(seen.measure(x)))
    np.testing.assert_allclose(both, both.T, atol=1e-6)
    np.testing.assert_allclose(both @ both, both, atol=1e-6)
    once = flat(seen.measure)
    np.testing.assert_allclose(flat(lambda x: seen.measure(seen.back(seen.measure(x)))), once, atol=1e-6)
    assert 5 < np.trace(both) < 43  # something is known, not all


@pytest.mark.parametrize("name", MAPS)
def test_maps_and_their_inverses(name):
    seen = MAPS[name]
    check_inverse(seen)
    rejects(check_inverse, seen._replace(back=lambda y: 0.25 * seen.back(y)))
    rejects(check_inverse, seen._replace(back=lambda y: seen.back(jnp.flip(y, 1))))
    rejects(check_inverse, seen._replace(measure=lambda x: seen.measure(jnp.roll(x, 1, axis=1))))


def test_pixels_are_means_of_squares():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
    found = np.asarray(shrunk(2).measure(jnp.asarray(x)))
    for row, column in np.ndindex(2, 3):
        square = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_allclose(found[:, row, column], square.mean(axis=(1, 2)), atol=1e-6)


# -- what is known is kept ---------------------------------------------------------------------------------------------


def odd(z, t):
    """A denoiser that mixes all pixels of a picture and knows nothing of what is known."""
    return jnp.tanh(2.0 * z - jnp.roll(z, 1, axis=2) + t[:, None, None, None]) + 0.3 * z.mean(axis=1, keepdims=True)


def check_kept(fix, name, seen, atol):
    y = seen.measure(jax.random.normal(KEY, (3, 4, 6, 2)))
    x = diffusion.sample(ENDS, fix(odd, seen, y), SOLVERS[name], grids.uniform(ENDS, 9), KEY, (3, 4, 6, 2))
    np.testing.assert_allclose(seen.measure(x), y, atol=atol)
    assert float(jnp.abs(x - seen.back(seen.measure(x))).max()) > 0.1  # the rest is drawn


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_ends_with_what_is_known(name):
    check_kept(projected, name, MAPS["masked"], 0)
    check_kept(projected, name, MAPS["shrunk"], 2e-6)


def test_planted_projections_lose_what_is_known():
    seen = MAPS["shrunk"]
    for planted in (
        lambda denoise, seen, y: denoise,
        lambda denoise, seen, y: projected(denoise, seen, 1.01 * y),
        lambda denoise, seen, y: lambda z, t: denoise(z, t) + seen.back(y),
        lambda denoise, seen, y: lambda z, t: seen.back(y),
        lambda denoise, seen, y: lambda z, t: denoise(z + seen.back(y - seen.measure(z)), t),
    ):
        rejects(check_kept, planted, "heun", seen, 2e-6)


def test_it_fits_a_predictor_and_corrector_and_zero_signal():
    flow, seen = schedules.rectified_flow(), MAPS["shrunk"]
    y = seen.measure(jax.random.normal(KEY, (3, 4, 6, 2)))
    for process, solver in ((flow, ode.heun()), (flow, repeated(ode.euler(), 3)), (ENDS, corrected(ode.euler()))):
        x = diffusion.sample(process, projected(odd, seen, y), solver, grids.uniform(process, 9), KEY, (3, 4, 6, 2))
        np.testing.assert_allclose(seen.measure(x), y, atol=2e-6)


# -- the law of the rest -----------------------------------------------------------------------------------------------


def check_untouched(fix, name):
    """Pixels that are independent: those outside the mask are those of the same key without it, number by number."""
    mask = jax.random.bernoulli(KEY, 0.4, (5, 30))
    y = jnp.where(mask, 7.0, 0.0)
    alone = lambda z, t: jnp.sin(3.0 * z) * t[:, None]
    draw = lambda model: diffusion.sample(ENDS, model, SOLVERS[name], grids.uniform(ENDS, 9), KEY, mask.shape)
    np.testing.assert_allclose(draw(fix(alone, masked(mask), y)), jnp.where(mask, 7.0, draw(alone)), atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_independent_pixels_are_drawn_as_without_a_mask(name):
    check_untouched(projected, name)
    rejects(check_untouched, lambda denoise, seen, y: projected(lambda z, t: denoise(z + y, t) + 0.01, seen, y), name)


MEAN = np.random.default_rng(1).normal(size=(2, 4, 1))
DEVIATION, N = 0.4, 20_000


def independent(process):
    """E[x | z] of pixels that are N(MEAN, DEVIATION^2), independent."""

    def denoise(z, t):
        at = point(process, t, z)
        mean = jnp.asarray(MEAN, jnp.float32)[None]
        gain = at.alpha * DEVIATION**2 / (at.alpha**2 * DEVIATION**2 + at.sigma**2)
        return mean + gain * (z - at.alpha * mean)

    return denoise


def check_law(fix, seen, solver):
    """Given means of squares the rest is normal: mean A^+ y + (I - P) MEAN, covariance DEVIATION^2 (I - P)."""
    y = np.tile(np.float32([0.9, -1.5]).reshape(1, 1, 2, 1), (N, 1, 1, 1))
    model = fix(independent(ENDS), seen, y)
    x = np.asarray(diffusion.sample(ENDS, model, solver, grids.uniform_log_snr(ENDS, 60), KEY, (N, 2, 4, 1)))
    squares = np.kron(np.ones((2, 2)), np.kron(np.eye(2), np.ones((2, 2))))  # 1 for two pixels of one square
    keep = np.eye(8) - 0.25 * squares
    mean = np.float64([0.9, 0.9, -1.5, -1.5] * 2) + keep @ MEAN.ravel()
    flat = np.float64(x.reshape(N, 8))
    np.testing.assert_allclose(flat.mean(axis=0), mean, atol=4 * DEVIATION / N**0.5 + 0.01)
    np.testing.assert_allclose(np.cov(flat.T), DEVIATION**2 * keep, atol=0.008)


def test_the_law_given_means_of_squares():
    seen = shrunk(2)
    check_law(projected, seen, ode.heun())
    rejects(check_law, projected, seen._replace(back=lambda y: seen.back(jnp.flip(y, 2))), ode.heun())
    rejects(check_law, lambda d, o, y: projected(lambda z, t: 1.05 * d(z, t), o, y), seen, ode.heun())
    rejects(check_law, lambda d, o, y: projected(lambda z, t: d(z + 0.1, t), o, y), seen, ddim.ddim())
    doubled = lambda d, o, y: lambda z, t: 2 * projected(d, o, y)(z, t) - o.back(y)  # (I - P) x' counted twice
    rejects(check_law, doubled, seen, ode.heun())


def recursion(process, grid, repeats, known):
    """Mean and covariance of two correlated normals, the first known, along repeated DDPM steps, float64."""
    data, unknown = np.array([[1.0, RHO], [RHO, 1.0]]), np.diag([0.0, 1.0])
    mean, cov = np.zeros(2), np.eye(2) * float(process.sigma(grid[0])) ** 2
    for i, t in enumerate(grid):
        a, s2 = process.alpha(t), process.sigma(t) ** 2
        gain = a * data @ np.linalg.inv(a**2 * data + s2 * np.eye(2))
        last = i == len(grid) - 1
        keep, pull, drawn = (0.0, 1.0, 0.0) if last else between(process, grid[i + 1], t)
        a_s, s2_s = (1.0, 0.0) if last else (process.alpha(grid[i + 1]), process.sigma(grid[i + 1]) ** 2)
        slope, offset = keep * np.eye(2) + pull * unknown @ gain, pull * np.array([known, 0.0])
        for again in range(repeats):
            mean, cov = slope @ mean + offset, slope @ cov @ slope.T + drawn * np.eye(2)
            if again < repeats - 1:
                back = a / a_s
                mean, cov = back * mean, back**2 * cov + (s2 - back**2 * s2_s) * np.eye(2)
    return mean, cov


def check_recursion(again, fix=projected, n=40_000):
    grid, mask = grids.uniform(ENDS, 15), jnp.array([[True, False]])
    model = fix(joint(ENDS), masked(mask), jnp.tile(jnp.array([[1.5, 0.0]]), (n, 1)))
    x = np.asarray(diffusion.sample(ENDS, model, again(ddim.ancestral(), 3), grid, KEY, (n, 2)))
    mean, cov = recursion(ENDS, grid, 3, 1.5)
    assert (x[:, 0] == 1.5).all() and cov[0, 0] == 0
    assert abs(x[:, 1].mean() - mean[1]) < 4 * (cov[1, 1] / n) ** 0.5
    assert abs(x[:, 1].var() / cov[1, 1] - 1) < 4 * (2 / n) ** 0.5


def test_repeated_steps_have_the_exact_law():
    check_recursion(repeated)
    rejects(check_recursion, lambda solver, r: repeated(solver, r - 1))
    rejects(check_recursion, lambda solver, r: solver)

    def replanned(change):
        def again(solver, r):
            inner = repeated(solver, r)
            return inner._replace(plan=lambda p, g: change(inner.plan(p, g)))

        return again

    rejects(check_recursion, replanned(lambda plan: plan | {"again_spread": 0.0 * plan["again_spread"]}))
    rejects(check_recursion, replanned(lambda plan: plan | {"again_keep": np.ones_like(plan["again_keep"])}))
    fixed = lambda solver: solver._replace(step=lambda d, at, z, m, key: solver.step(d, at, z, m, KEY))
    rejects(check_recursion, lambda solver, r: repeated(fixed(solver), r))


def test_repeats_bring_the_mean_and_small_steps_the_spread():
    """By recursion: 0.8 times the known number, 1, is neared as repeats grow, the deviation of 0.6 as steps shrink."""
    means = [recursion(ENDS, grids.uniform(ENDS, 100), repeats, 1.0)[0][1] for repeats in (1, 4, 16, 64)]
    off = RHO - np.array(means)
    assert off[0] > 0.2 and (off[1:] < off[:-1] / 3).all() and off[-1] < 0.01
    spreads = [recursion(ENDS, grids.uniform(ENDS, n), 16, 1.0)[1][1, 1] ** 0.5 for n in (50, 100, 200, 400)]
    narrow = 0.6 - np.array(spreads)
    assert (narrow > 0).all() and (narrow[1:] < 0.6 * narrow[:-1]).all()


def by_projection(solver):
    def fill(process, denoise, grid, key, x, mask, repeats):
        model = projected(denoise, masked(mask), masked(mask).measure(x))
        return diffusion.sample(process, model, repeated(solver, repeats), grid, key, x.shape)

    return fill


def test_it_fills_in_as_repaint_does():
    check_inpainted(by_projection(ddim.ancestral()))
    rejects(check_inpainted, by_projection(ddim.ancestral()), 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: shrunk(0), "factor = 0"),
        (lambda: shrunk(3).measure(jnp.zeros((1, 4, 6, 1))), "[1, 4, 6, 1] made 3 times smaller"),
        (lambda: masked(jnp.ones(3)), "a mask of float32"),
        (lambda: repeated(ddim.ddim(), 0), "repeats = 0"),
        (lambda: repeated(ddim.dpm_solver_2m(), 2).init(jnp.zeros(1)), "looks back"),
        (
            lambda: projected(odd, shrunk(2), jnp.zeros((1, 2, 3, 1)))(jnp.zeros((1, 4, 6, 2)), jnp.zeros(1)),
            "[1, 2, 3, 1]",
        ),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3

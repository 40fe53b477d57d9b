"""Guidance by hand; inpainting, redrawing and encoding against what is exact for Gaussian data; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.corruption import schedules
from genjax.corruption.gaussian import point
from genjax.errors import BadInput
from genjax.samplers import diffusion, grids, guidance, restoring
from genjax.samplers.ddim import ancestral, ddim, dpm_solver_2m
from genjax.samplers.ode import heun

KEY = jax.random.key(0)
COSINE = schedules.cosine()
Z, T = jax.random.normal(KEY, (5, 3)), jnp.linspace(0.1, 0.9, 5)
LABEL, NONE = lambda z, t: jnp.sin(z) + t[:, None], lambda z, t: jnp.cos(2 * z)


# -- guidance ----------------------------------------------------------------------------------------------------------


def check_guided(guide):
    np.testing.assert_allclose(guide(LABEL, NONE, 1.0)(Z, T), LABEL(Z, T), atol=1e-6)
    np.testing.assert_allclose(guide(LABEL, NONE, 0.0)(Z, T), NONE(Z, T), atol=1e-6)
    np.testing.assert_allclose(guide(LABEL, NONE, 3.0)(Z, T), 3 * LABEL(Z, T) - 2 * NONE(Z, T), atol=1e-5)


def test_guidance_is_an_extrapolation():
    check_guided(guidance.guided)
    rejects(check_guided, lambda better, worse, w: guidance.guided(worse, better, w))
    rejects(check_guided, lambda better, worse, w: guidance.guided(better, worse, w + 1))


def check_labelled(guide):
    """One call of twice the rows, each half with its own labels, as `guided` with two networks."""
    calls, label = [], jnp.arange(1.0, 6.0)

    def network(z, t, label):
        calls.append(len(z))
        return jnp.sin(z) * label[:, None] + t[:, None]

    at = lambda label: lambda z, t: jnp.sin(z) * label[:, None] + t[:, None]
    for weight in (0.0, 1.0, 2.5):
        wanted = guidance.guided(at(label), at(jnp.full(5, 9.0)), weight)(Z, T)
        np.testing.assert_allclose(guide(network, label, jnp.array(9.0), weight)(Z, T), wanted, atol=1e-5)
    assert calls == [10, 10, 10]


def test_labels_and_their_absence_in_one_call():
    check_labelled(guidance.labelled)
    rejects(check_labelled, lambda network, label, none, w: guidance.labelled(network, label[::-1], none, w))
    rejects(check_labelled, lambda network, label, none, w: guidance.labelled(network, label, 0 * none, w))
    twice = lambda network, label, none, w: guidance.guided(
        lambda z, t: network(z, t, label), lambda z, t: network(z, t, jnp.full(len(z), none)), w
    )
    rejects(check_labelled, twice)


def check_rescaled(rescale):
    """At 1 an example has the deviation of the conditional x', at 0 guidance's, between them the mean of both."""
    label = lambda z, t: LABEL(z, t) * jnp.arange(1.0, 6.0)[:, None]
    far = guidance.guided(label, NONE, 3.0)(Z, T)
    whole = rescale(label, NONE, 3.0, 1.0)(Z, T)
    np.testing.assert_allclose(jnp.std(whole, axis=1), jnp.std(label(Z, T), axis=1), rtol=1e-5)
    np.testing.assert_allclose(whole / norms(whole), far / norms(far), atol=1e-5)
    np.testing.assert_allclose(rescale(label, NONE, 3.0, 0.0)(Z, T), far, atol=1e-5)
    np.testing.assert_allclose(rescale(label, NONE, 3.0, 0.5)(Z, T), 0.5 * (far + whole), rtol=1e-4, atol=1e-5)


def norms(x):
    return jnp.linalg.norm(x, axis=1, keepdims=True)


def test_rescaled_guidance_keeps_the_contrast():
    check_rescaled(guidance.rescaled)
    rejects(check_rescaled, lambda better, worse, w, share: guidance.rescaled(better, worse, w, 1 - share))

    def planted(of_label, axis):
        def rescale(better, worse, w, share):
            far, kept = guidance.guided(better, worse, w)(Z, T), (better if of_label else worse)(Z, T)
            deviation = lambda x: jnp.std(x, axis=axis, keepdims=True)
            return lambda z, t: far * (share * deviation(kept) / deviation(far) + 1 - share)

        return rescale

    check_rescaled(planted(True, 1))
    rejects(check_rescaled, planted(False, 1))  # of the network without a label
    rejects(check_rescaled, planted(True, (0, 1)))  # of the whole batch
    same = guidance.rescaled(lambda z, t: 0 * z + 2.0, lambda z, t: 0 * z + 1.0, 3.0, 1.0)(Z, T)  # no contrast at all
    np.testing.assert_allclose(same, 4.0)


def recursion(process, grid, classes, weight):
    """Mean and deviation of DDIM's samples when x' = (1 - w) x'_crowd + w x'_class of normals: all steps are linear."""
    mean, deviation = 0.0, float(process.sigma(grid[0]))
    for i, t in enumerate(grid):
        a, s = process.alpha(t), process.sigma(t)
        gains = [a * d**2 / (a**2 * d**2 + s**2) for _, d in classes]
        offsets = [m - gain * a * m for gain, (m, _) in zip(gains, classes, strict=True)]
        gain, offset = (low + weight * (high - low) for high, low in (gains, offsets))
        next_a, next_s = (process.alpha(grid[i + 1]), process.sigma(grid[i + 1])) if i + 1 < len(grid) else (1.0, 0.0)
        slope = next_a * gain + next_s / s * (1 - a * gain)
        mean = slope * mean + (next_a - a * next_s / s) * offset
        deviation *= slope
    return mean, deviation


def check_guided_samples(guide, weight):
    """A class N(1, 1/4) in a crowd N(0, 1), against the recursion."""
    process, n = schedules.cosine(0.005, 0.995), 20_000
    classes, grid = ((1.0, 0.5), (0.0, 1.0)), grids.uniform(process, 60)

    def normal(mean, deviation):
        def denoise(z, t):
            at = point(process, t, z)
            gain = at.alpha * deviation**2 / (at.alpha**2 * deviation**2 + at.sigma**2)
            return mean + gain * (z - at.alpha * mean)

        return denoise

    denoise = guide(*(normal(*one) for one in classes), weight)
    x = np.asarray(diffusion.sample(process, denoise, ddim(), grid, KEY, (n, 1)))
    mean, deviation = recursion(process, grid, classes, weight)
    assert abs(x.mean() - mean) < 4 * deviation / n**0.5
    assert abs(x.std() / deviation - 1) < 4 / (2 * n) ** 0.5


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_guided_samples_of_gaussians(weight):
    check_guided_samples(guidance.guided, weight)
    rejects(check_guided_samples, lambda better, worse, w: guidance.guided(better, worse, w + 0.2), weight)
    rejects(check_guided_samples, lambda better, worse, w: guidance.guided(worse, better, w), weight)


def check_interval(limit):
    edm = schedules.edm()
    t = jnp.array([0.1, 0.2, 0.21, 5.0, 5.1])
    inside = np.asarray(limit(edm, lambda z, t: z + 1, lambda z, t: z, 0.2, 5.0)(jnp.zeros((5, 2)), t))
    assert inside.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]]


def test_an_interval_of_guidance():
    check_interval(guidance.in_interval)
    rejects(check_interval, lambda p, a, b, low, high: guidance.in_interval(p, b, a, low, high))
    rejects(check_interval, lambda p, a, b, low, high: guidance.in_interval(p, a, b, low**2, high**2))


def check_threshold(bound):
    x = np.random.default_rng(0).normal(size=(3, 10, 10)) * np.array([0.1, 1.0, 5.0])[:, None, None]
    q = np.maximum(np.quantile(np.abs(x).reshape(3, -1), 0.9, axis=1), 1.0)[:, None, None]
    np.testing.assert_allclose(
        bound(lambda z, t: z, 0.9)(jnp.float32(x), jnp.zeros(3)), np.clip(x, -q, q) / q, rtol=1e-5
    )


def test_a_threshold_of_each_examples_own():
    check_threshold(guidance.dynamic_threshold)
    rejects(check_threshold, lambda denoise, share: guidance.clipped(denoise))
    rejects(check_threshold, lambda denoise, share: guidance.dynamic_threshold(denoise, 0.99))


# -- restoring ---------------------------------------------------------------------------------------------------------

RHO = 0.8  # correlation of two numbers with unit deviation


def joint(process):
    """E[x | z] of two correlated normals."""
    covariance = jnp.array([[1.0, RHO], [RHO, 1.0]])

    def denoise(z, t):
        at = point(process, t[:1], z)
        a, s = at.alpha[0, 0], at.sigma[0, 0]  # one time for all rows
        return z @ jnp.linalg.solve(a**2 * covariance + s**2 * jnp.eye(2), a * covariance)

    return denoise


def check_inpainted(fill, repeats=10, n=8000):
    """The unknown number given the known one, 1: mean 0.8, deviation 0.6, by the paper's scheme to 0.05."""
    grid = grids.uniform(COSINE, 200)
    known, mask = jnp.array([[1.0, jnp.nan]] * n), jnp.array([[True, False]] * n)
    x = np.asarray(fill(COSINE, joint(COSINE), grid, KEY, jnp.nan_to_num(known, nan=9.0), mask, repeats))
    assert (x[:, 0] == 1).all()
    assert abs(x[:, 1].mean() - RHO) < 0.05 and abs(x[:, 1].std() - 0.6) < 0.05


def test_what_is_unknown_goes_with_what_is_known():
    check_inpainted(restoring.inpaint)
    rejects(check_inpainted, restoring.inpaint, 1)  # without repeats it fits less well
    ignorant = lambda p, d, g, k, x, m, r: jnp.where(m, x, diffusion.sample(p, d, ddim(), g, k, x.shape))
    rejects(check_inpainted, ignorant)
    inverse = lambda p, d, g, k, x, m, r: restoring.inpaint(p, d, g, k, x, ~m, r)
    rejects(check_inpainted, inverse)


def check_redrawn(redrawn):
    """Of two clusters at -1 and 1 a sketch at 0.6 keeps its side at little strength, and any at full strength."""

    def clusters(z, t):
        at = point(COSINE, t, z)
        return jnp.tanh(at.alpha * z / at.sigma**2)

    grid = grids.uniform(COSINE, 50)
    draw = lambda strength: np.asarray(redrawn(COSINE, clusters, ddim(), grid, KEY, jnp.full((2000, 1), 0.6), strength))
    assert (draw(0.1) > 0.9).mean() > 0.99
    assert 0.4 < (draw(1.0) > 0.9).mean() < 0.6


def test_a_sketch_is_kept_by_as_much_as_is_asked():
    check_redrawn(restoring.redraw)
    rejects(check_redrawn, lambda *args: restoring.redraw(*args[:-1], 1.0))
    rejects(check_redrawn, lambda p, d, s, g, k, x, w: restoring.redraw(p, d, s, g, k, -x, w))


def check_cleaned(clean):
    """Of y = x + n / 2 the law of x given y, in closed form."""
    y, precision = np.array([1.0, -0.5]), np.linalg.inv([[1.0, RHO], [RHO, 1.0]]) + 4.0 * np.eye(2)
    covariance = np.linalg.inv(precision)
    noisy, grid = jnp.full((8000, 2), jnp.float32(y)[None]), grids.uniform(COSINE, 200)
    x = np.asarray(clean(COSINE, joint(COSINE), ancestral(), grid, KEY, noisy, 0.5))
    np.testing.assert_allclose(x.mean(axis=0), covariance @ y * 4.0, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.02)


def test_a_noisy_picture_is_freed_of_its_noise():
    check_cleaned(restoring.cleaned)
    rejects(check_cleaned, lambda *args: restoring.cleaned(*args[:-1], 0.4))
    rejects(check_cleaned, lambda p, d, s, *rest: restoring.cleaned(p, d, ddim(), *rest))  # it draws no x given y
    again = lambda p, d, s, g, k, y, w: restoring.redraw(p, d, s, g, k, y, 0.3)  # noise is added to noise
    rejects(check_cleaned, again)
    larger = lambda p, d, s, g, k, y, w: restoring.cleaned(p, d, s, g, k, y / p.alpha(np.float64(0.295)), w)
    rejects(check_cleaned, larger)  # y itself for z_t


def test_a_deviation_of_a_time_of_the_grid_begins_there():
    """Or next to it: a first step of next to no length is none from which 2M could draw a line."""
    grid, y = grids.uniform(COSINE, 12), jnp.array([[1.0, -0.5], [0.3, 2.0]])
    for k in (3, 9):
        alpha, sigma = COSINE.alpha(grid[k]), COSINE.sigma(grid[k])
        z = jnp.float32(alpha) * y
        wanted = diffusion.sample_from(COSINE, joint(COSINE), dpm_solver_2m(), grid[k:], KEY, z)
        for near in (1.0, 1 + 1e-6):
            found = restoring.cleaned(COSINE, joint(COSINE), dpm_solver_2m(), grid, KEY, y, near * sigma / alpha)
            np.testing.assert_allclose(found, wanted, atol=1e-4)


def check_walked(walk):
    """Of normal data noise is a linear map of x: what lies between two is known."""
    process, n = schedules.edm(0.02, 20.0), 5
    x, (values, vectors) = np.array([[1.0, 0.6], [-0.9, 1.1]]), np.linalg.eigh([[1.0, RHO], [RHO, 1.0]])
    up = (vectors * np.sqrt((values + 400.0) / (values + 0.0004))) @ vectors.T
    z, share = x @ up, np.linspace(0.0, 1.0, n)[:, None]
    size = np.linalg.norm(z, axis=1, keepdims=True)
    angle = np.arccos((z[0] @ z[1]) / size.prod())
    ends = np.sin((1 - share) * angle) * (z / size)[:1] + np.sin(share * angle) * (z / size)[1:]
    arc = ends / np.sin(angle) * ((1 - share) * size[0] + share * size[1])
    found = walk(process, joint(process), heun(), grids.karras(process, 60), KEY, *jnp.float32(x), n)
    np.testing.assert_allclose(found, arc @ np.linalg.inv(up), atol=0.02)


def test_a_walk_leads_from_one_picture_to_another():
    check_walked(restoring.walked)
    swapped = lambda p, d, s, g, k, first, last, n: restoring.walked(p, d, s, g, k, last, first, n)
    rejects(check_walked, swapped)
    rows = []
    restoring.walked(
        COSINE, lambda z, t: rows.append(len(z)) or z, ddim(), grids.uniform(COSINE, 3), KEY, Z[0], Z[1], 4
    )
    assert set(rows) == {4}  # a model may hold as many labels
    straight = lambda p, d, s, g, k, first, last, n: jnp.linspace(first, last, n)
    rejects(check_walked, straight)


def check_encoded(upwards):
    """Up by the flow and down again is where one was."""
    process = schedules.edm(0.02, 20.0)
    grid, x = (
        grids.karras(process, 60),
        jax.random.multivariate_normal(KEY, jnp.zeros(2), jnp.array([[1.0, RHO], [RHO, 1.0]]), (50,)),
    )
    z = upwards(process, joint(process), grid, x)
    assert 15 < float(z.std()) < 25
    back = diffusion.sample_from(process, joint(process), heun(), grid, KEY, z)
    np.testing.assert_allclose(back, x, atol=0.02)


def test_data_are_encoded_and_come_back():
    check_encoded(restoring.encode)
    noisy = lambda p, d, g, x: x + 20.0 * jax.random.normal(KEY, x.shape)
    rejects(check_encoded, noisy)
    rejects(check_encoded, lambda p, d, g, x: restoring.encode(p, d, g, 1.05 * x))


def test_pictures_of_whole_numbers_and_denoisers_of_another_shape():
    grid, x, mask = grids.uniform(COSINE, 3), jnp.array([[0, 1], [1, 1]]), jnp.array([[True, False]] * 2)
    for edit in (
        lambda denoise, x: restoring.inpaint(COSINE, denoise, grid, KEY, x, mask, 2),
        lambda denoise, x: restoring.redraw(COSINE, denoise, ddim(), grid, KEY, x, 0.7),
        lambda denoise, x: restoring.encode(COSINE, denoise, grid, x),
    ):
        for dtype in (jnp.int32, jnp.float16):
            np.testing.assert_array_equal(edit(joint(COSINE), x.astype(dtype)), edit(joint(COSINE), 1.0 * x))
        with pytest.raises(BadInput, match=r"output is \[2, 1\], the data \[2, 2\]"):
            edit(lambda z, t: z[:, :1], x)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: guidance.guided(LABEL, NONE, -1.0), "guidance = -1.0"),
        (lambda: guidance.guided(LABEL, lambda z, t: z[:, :1], 2.0)(Z, T), "output is [5, 1], the data [5, 3]"),
        (lambda: guidance.rescaled(LABEL, NONE, -1.0), "guidance = -1.0"),
        (lambda: guidance.rescaled(LABEL, NONE, 2.0, 1.1), "share = 1.1"),
        (lambda: guidance.labelled(LABEL, jnp.zeros(3, int), jnp.array(9), -1.0), "guidance = -1.0"),
        (lambda: guidance.labelled(LABEL, jnp.zeros(3, int), jnp.zeros(2, int), 1.0), "the label of none [2]"),
        (lambda: guidance.labelled(LABEL, jnp.array(3), jnp.array(9), 1.0), "labels []"),
        (lambda: guidance.in_interval(COSINE, LABEL, NONE, 2.0, 1.0), "2.0 and 1.0"),
        (lambda: guidance.clipped(LABEL, 1.0, 1.0), "low < high"),
        (lambda: guidance.dynamic_threshold(LABEL, 0.0), "share = 0.0"),
        (
            lambda: restoring.inpaint(COSINE, LABEL, np.array([0.5]), KEY, jnp.zeros((2, 3)), jnp.ones((2, 2), bool)),
            "a mask [2, 2] of bool for pictures [2, 3]",
        ),
        (
            lambda: restoring.inpaint(COSINE, LABEL, np.array([0.5]), KEY, jnp.zeros((2, 3)), jnp.ones((2, 3))),
            "of float32",
        ),
        (
            lambda: restoring.inpaint(
                COSINE, LABEL, np.array([0.5]), KEY, jnp.zeros((2, 3)), jnp.ones((2, 3), bool), 0
            ),
            "repeats = 0",
        ),
        (lambda: restoring.redraw(COSINE, LABEL, ddim(), np.array([0.5]), KEY, Z, 0.0), "strength = 0.0"),
        (lambda: restoring.cleaned(COSINE, LABEL, ddim(), np.array([0.5]), KEY, Z, -1.0), "noise of deviation -1"),
        (
            lambda: restoring.walked(COSINE, LABEL, ddim(), np.array([0.9, 0.5]), KEY, Z[0], Z[0, :2], 4),
            "from [3] to [2]",
        ),
        (lambda: restoring.encode(COSINE, LABEL, np.array([0.5]), Z), "one time"),
        (lambda: restoring.encode(schedules.rectified_flow(), LABEL, np.array([1.0, 0.5]), Z), "zero signal"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3

"""The sliced Wasserstein distance: exact on a line and for shifts, and the pyramid and patches by their definitions."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics import sliced_wasserstein as module
from genjax.metrics.sliced_wasserstein import (
    laplacian_pyramid,
    normalised_patches,
    pyramid_distances,
    sliced_wasserstein,
    spread_out,
)

RNG = np.random.default_rng(0)


def check_distance(distance):
    """SciPy's on a line; a shift c in D dimensions: |c| E|theta_1|, by the moments of the sphere; scaled normals."""
    for size in (1, 7, 400):
        a, b = RNG.normal(size=size), 2 + 3 * RNG.exponential(size=size)
        exact = scipy.stats.wasserstein_distance(a, b)
        assert distance(a[:, None], b[:, None], np.random.default_rng(1), 3) == pytest.approx(exact, rel=1e-9)
    for dims in (2, 10, 147):
        cloud, shift = RNG.normal(size=(50, dims)), RNG.normal(size=dims)
        mean = math.exp(math.lgamma(dims / 2) - math.lgamma((dims + 1) / 2)) / math.sqrt(math.pi)  # E|theta_1|
        found = distance(cloud, cloud + shift, np.random.default_rng(2), 4_000)
        deviation = np.linalg.norm(shift) * math.sqrt(1 / dims - mean**2)
        assert abs(found - np.linalg.norm(shift) * mean) < 4 * deviation / math.sqrt(4_000)
    quantiles = scipy.stats.norm.ppf((np.arange(1_000) + 0.5) / 1_000)
    wide = np.column_stack([quantiles, RNG.permutation(quantiles)])
    assert distance(wide, 3 * wide, RNG, 200) == pytest.approx(2 * math.sqrt(2 / math.pi), rel=0.05)
    assert distance(wide, wide[::-1], RNG, 20) < 1e-12


def test_distance():
    check_distance(sliced_wasserstein)


def test_single_precision_is_close():
    a, b = RNG.normal(size=(2, 500, 49))
    exact = sliced_wasserstein(a, b, np.random.default_rng(3))
    single = sliced_wasserstein(np.float32(a), np.float32(b), np.random.default_rng(3))
    assert single == pytest.approx(exact, rel=1e-5)


def by(a, b, rng, directions, unit=True, power=1, sort=True, spread=None):
    theta = (spread or rng.normal)(size=(a.shape[1], directions))
    theta = theta / np.linalg.norm(theta, axis=0) if unit else theta
    ours, theirs = ((np.sort(z @ theta, axis=0) if sort else z @ theta) for z in (a, b))
    return float(np.mean(np.abs(ours - theirs) ** power) ** (1 / power))


DISTANCES = {
    "directions of any length": lambda *a: by(*a, unit=False),
    "squared": lambda *a: by(*a, power=2),
    "not sorted": lambda *a: by(*a, sort=False),
    "directions of one quadrant": lambda *a: by(*a, spread=a[2].exponential),
    "along the axes": lambda a, b, rng, n: np.mean([by(a[:, [i]], b[:, [i]], rng, 1) for i in range(a.shape[1])]),
    "the largest": lambda a, b, rng, n: max(by(a, b, rng, 1) for _ in range(50)),
    "of the means": lambda a, b, rng, n: by(a.mean(0, keepdims=True), b.mean(0, keepdims=True), rng, n),
    "times the dimensions": lambda a, *b: by(a, *b) * a.shape[1],
}


@pytest.mark.parametrize("mutant", DISTANCES.values(), ids=DISTANCES)
def test_distance_rejects(mutant):
    rejects(check_distance, mutant)


def check_pyramid(pyramid):
    """SciPy's convolution with the outer product of [1 4 6 4 1] / 16, mirrored at edges; added up it is the image."""
    weights = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, :, :, None] / 256
    blur = lambda x: scipy.ndimage.convolve(x, weights, mode="mirror")
    images = RNG.normal(size=(2, 32, 48, 3))
    levels = pyramid(images, 8)
    assert [level.shape for level in levels] == [(2, 32, 48, 3), (2, 16, 24, 3), (2, 8, 12, 3)]
    below = images
    for level in levels[:-1]:
        above, below = below, blur(below)[:, ::2, ::2]
        wide = np.zeros_like(above)
        wide[:, ::2, ::2] = below
        np.testing.assert_allclose(level, above - blur(wide) * 4, atol=1e-12)
    np.testing.assert_allclose(levels[-1], below, atol=1e-12)
    np.testing.assert_allclose(levels[0] + spread_out(levels[1] + spread_out(levels[2])), images, atol=1e-12)


def test_pyramid(monkeypatch):
    check_pyramid(laplacian_pyramid)
    assert [len(laplacian_pyramid(np.zeros((1, n, n, 1)), s)) for n, s in ((28, 16), (32, 16), (64, 16), (32, 8))] == [
        *(1, 2, 3, 3)
    ]
    other = {
        "WEIGHTS": [(1 / 16, 4 / 16, 6 / 16, 3 / 16, 2 / 16), (0.05, 0.25, 0.4, 0.25, 0.05), (0, 0.25, 0.5, 0.25, 0)],
        "spread_out": [lambda x: np.repeat(np.repeat(x, 2, axis=1), 2, axis=2), lambda x: 2 * spread_out(x)],
    }
    for name, planted in other.items():
        for value in planted:
            with monkeypatch.context() as patch:
                patch.setattr(module, name, value)
                rejects(check_pyramid, laplacian_pyramid)
    rejects(check_pyramid, lambda x, s: [x, *laplacian_pyramid(x, s)[1:]])
    rejects(check_pyramid, lambda x, s: laplacian_pyramid(x, 2 * s))
    edge = np.pad
    monkeypatch.setattr(module.np, "pad", lambda x, p, mode: edge(x, p, mode="symmetric"))
    rejects(check_pyramid, laplacian_pyramid)


def check_patches(patches):
    """Every patch is one of the image's, each place is as likely as another, each channel has mean 0 and variance 1."""
    codes = np.arange(3 * 9 * 10 * 2, dtype=np.float32).reshape(3, 9, 10, 2)
    found = np.asarray(patches(codes, np.random.default_rng(4), 4_000), np.float64).reshape(12_000, 2, 7, 7)
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), 0.0, atol=1e-4)
    np.testing.assert_allclose(found.var(axis=(0, 2, 3)), 1.0, atol=1e-4)
    steps = np.diff(found[:, :, 0, :2], axis=-1)[..., 0]  # from a pixel to the next: 2 in the codes
    below = found[:, :, 1, 0] - found[:, :, 0, 0]  # to the row below: 20
    np.testing.assert_allclose(below / steps, 10.0, rtol=1e-3)
    place = np.round(2 * (found[:, 0, 0, 0] / steps[:, 0])).astype(int)
    place = (place - place[:4_000].min()) % 180
    seen = np.bincount(place, minlength=180)
    rows, columns = np.divmod(np.flatnonzero(seen), 20)
    assert rows.max() == 2 and columns.max() == 6 and len(rows) == 12  # 3 rows of 4 places, 2 apart
    assert scipy.stats.chisquare(seen[seen > 0]).pvalue > 1e-4


def test_patches():
    check_patches(normalised_patches)
    flat = normalised_patches(np.ones((2, 8, 8, 1)), RNG, 3)
    assert flat.dtype == np.float32 and not flat.any()


def _patches(x, rng, patches, side=7, most=0, per_patch=False, both=True):
    windows = np.lib.stride_tricks.sliding_window_view(np.float32(x), (side, side), axis=(1, 2))
    number = np.repeat(np.arange(len(x)), patches)
    found = windows[number, *(rng.integers(0, n - most, len(number)) for n in windows.shape[1:3])].astype(np.float64)
    axes = (2, 3) if per_patch else (0, 2, 3)
    found = found - found.mean(axis=axes, keepdims=True)
    return (found / found.std(axis=axes, keepdims=True) if both else found).reshape(len(found), -1)


PATCHES = {
    "the last place is left out": lambda *a: _patches(*a, most=1),
    "each patch by its own mean": lambda *a: _patches(*a, per_patch=True),
    "not divided": lambda *a: _patches(*a, both=False),
    "all channels as one": lambda x, r, n: normalised_patches(x, r, n) * [*(49 * [1.0]), *(49 * [1.1])],
    "one place an image": lambda x, r, n: np.repeat(normalised_patches(x, r, 1), n, axis=0),
    "turned": lambda x, r, n: normalised_patches(np.swapaxes(x, 1, 2), r, n),
}


@pytest.mark.parametrize("mutant", PATCHES.values(), ids=PATCHES)
def test_patches_reject(mutant):
    rejects(check_patches, mutant)


def check_levels(distances):
    """A change of one scale shows at that scale, brightness and contrast at none."""
    rng = np.random.default_rng(5)
    real, other = rng.normal(size=(2, 60, 32, 32, 1))
    board = 2 * (-1.0) ** np.add.outer(np.arange(32), np.arange(32))[None, :, :, None]  # the filter leaves none of it
    chance, finest = (distances(real, z, np.random.default_rng(6)) for z in (other, other + board))
    assert [*chance] == [*finest] == [32, 16]
    assert finest[32] > 3 * chance[32] and finest[16] == pytest.approx(chance[16], rel=1e-3)
    assert max(distances(real, 0.5 * other + 3.0, np.random.default_rng(6)).values()) < 1.2 * max(chance.values())
    coarse = other + 4 * scipy.ndimage.zoom(rng.normal(size=(60, 4, 4, 1)), (1, 8, 8, 1), order=1)
    found = distances(real, coarse, np.random.default_rng(6))
    assert found[16] > 3 * chance[16] and found[32] < 0.6 * found[16]


def test_levels_tell_scales():
    check_levels(pyramid_distances)
    rejects(
        check_levels, lambda a, b, rng: dict(zip((32, 16), [*pyramid_distances(a, b, rng).values()][::-1], strict=True))
    )
    flat = lambda z: z.reshape(len(z), -1)
    rejects(check_levels, lambda a, b, rng: dict.fromkeys((32, 16), sliced_wasserstein(flat(a), flat(b), rng)))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: pyramid_distances(np.zeros((4, 32, 32, 1)), np.zeros((5, 32, 32, 1)), RNG), "one shape for both"),
        (lambda: pyramid_distances(np.zeros((4, 32, 32, 1)), np.zeros((4, 32, 32, 3)), RNG), "one shape for both"),
        (lambda: pyramid_distances(*2 * [np.zeros((4, 8, 8, 1))], RNG), "smallest = 16"),
        (lambda: pyramid_distances(*2 * [np.zeros((4, 8, 8, 1))], RNG, smallest=4), "7 to 8"),
        (lambda: pyramid_distances(*2 * [np.zeros((4, 30, 30, 1))], RNG, smallest=7), "15x15"),
        (lambda: sliced_wasserstein(np.zeros((4, 2)), np.zeros((5, 2)), RNG), r"\[n, D\]"),
        (lambda: normalised_patches(np.zeros((4, 6, 9, 1)), RNG), "at least 7"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(BadInput, match=told):
        call()

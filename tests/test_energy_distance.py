"""The energy distance against normals, whose distances are known; without bias where laws are one; planted bugs."""

import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics import energy_distance as energy

RNG = np.random.default_rng(0)


def mean_length(shift, deviation):
    """E|N(shift, deviation^2)|."""
    a = shift / deviation
    return deviation * np.sqrt(2 / np.pi) * np.exp(-0.5 * a**2) + shift * (1 - 2 * scipy.stats.norm.cdf(-a))


def check_normals(distance):
    """N(0, 1) and N(1, 4); and in three dimensions, where E|N(0, 2 I)| is 4 / sqrt(pi)."""
    x, y = RNG.normal(size=(20_000, 1)), 1 + 2 * RNG.normal(size=(20_000, 1))
    exact = 2 * mean_length(1.0, 5**0.5) - 2 / np.pi**0.5 - 4 / np.pi**0.5
    value, error = distance(x, y, 500)
    assert abs(value - exact) < 4 * error and 0 < error < 0.1 * exact
    far = distance(RNG.normal(size=(4_000, 3)), np.full((4_000, 3), 0.0), 200)  # all mass at the mean of the other
    assert abs(far[0] - (4 / np.pi**0.5) * (2**0.5 - 1)) < 4 * far[1]


def check_no_bias(distance):
    """Small subsets of one law: zero on average, where pairs of a point with itself would add E|x - x'| / 20."""
    value, error = distance(RNG.normal(size=(20_000, 2)), RNG.normal(size=(20_000, 2)), 20)
    assert abs(value) < 4 * error < 0.02


def with_pairs_of_one_point(x, y, size):
    cut = lambda points: points[: len(points) // size * size].reshape(-1, size, points.shape[1])
    every = lambda a, b: np.sqrt(((a[:, None] - b[None]) ** 2).sum(2)).mean()
    found = [2 * every(a, b) - every(a, a) - every(b, b) for a, b in zip(cut(x), cut(y), strict=True)]
    return np.mean(found), np.std(found) / len(found) ** 0.5


def squared(x, y, size):
    value, error = energy.energy_distance(x, y, size)
    return value**2, 2 * abs(value) * error


def test_known_distances():
    check_normals(energy.energy_distance)
    rejects(check_normals, squared)
    rejects(check_normals, lambda x, y, size: energy.energy_distance(x, x[::-1], size))


def test_no_bias():
    check_no_bias(energy.energy_distance)
    rejects(check_no_bias, with_pairs_of_one_point)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((np.zeros((9, 2)), np.zeros((9, 3)), 2), "points [9, 2] and [9, 3]"),
        ((np.zeros((9, 2)), np.zeros((9, 2)), 5), "subsets of 5 of 9"),
        ((np.zeros((9, 2)), np.zeros((9, 2)), 1), "subsets of 1"),
        ((np.zeros((0, 2)), np.zeros((9, 2)), 2), "subsets of 2 of 0"),
    ],
)
def test_refusals(given, said):
    with pytest.raises(BadInput) as refusal:
        energy.energy_distance(*given)
    assert said in str(refusal.value)

"""Nearest neighbours against all pairs; the memorisation score against SciPy's test, its law, and planted copies."""

import math

import numpy as np
import pytest
import scipy.spatial.distance as distances
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics.neighbours import (
    Memorisation,
    Neighbours,
    memorisation,
    nearest,
    nearest_others,
    squared_radii,
)

RNG = np.random.default_rng(0)
SETS = [
    (RNG.normal(size=(30, 4)), RNG.normal(size=(50, 4))),
    (RNG.integers(0, 3, size=(40, 2)).astype(float), RNG.integers(0, 3, size=(30, 2)).astype(float)),  # many ties
    (np.zeros((5, 3)), np.ones((6, 3))),
]


def check_nearest(near, near_others):
    """Sorted by distance, then by row; a row is not its own neighbour, an equal row is."""
    for points, reference in SETS:
        for k in (1, 2, 5):
            apart = distances.cdist(points, reference)
            order = np.argsort(apart, axis=1, kind="stable")[:, :k]
            found = near(points, reference, k)
            np.testing.assert_allclose(found.distance, np.take_along_axis(apart, order, axis=1), atol=1e-9)
            np.testing.assert_array_equal(found.index, order)
        apart = distances.cdist(reference, reference)
        np.fill_diagonal(apart, np.inf)
        order = np.argsort(apart, axis=1, kind="stable")[:, :4]
        found = near_others(reference, 4)
        np.testing.assert_array_equal(found.index, order)
        np.testing.assert_allclose(squared_radii(reference, 4), np.sort(apart, axis=1)[:, 3] ** 2, atol=1e-9)


def test_nearest_of_all_pairs(monkeypatch):
    check_nearest(nearest, nearest_others)
    monkeypatch.setattr("genjax.metrics.neighbours.BLOCK", 64)
    check_nearest(nearest, nearest_others)


def test_a_copy_far_from_the_origin_is_at_no_distance():
    points = 1e5 + RNG.normal(size=(20, 300))
    found = nearest(points, points[::-1])
    assert not found.distance.any() and found.index[:, 0].tolist() == [*range(19, -1, -1)]


def changed(**how):
    def near(points, reference, k):
        found = nearest(points, reference, k)
        return Neighbours(how.get("distance", np.asarray)(found.distance), how.get("index", np.asarray)(found.index))

    return near, nearest_others


NEAREST = {
    "squared": changed(distance=np.square),
    "the farthest first": changed(distance=lambda d: d[:, ::-1], index=lambda i: i[:, ::-1]),
    "not in order": changed(index=lambda i: np.sort(i, axis=1)),
    "of one more": changed(index=lambda i: i + 1),
    "itself among the others": (nearest, lambda z, k: nearest(z, z, k)),
    "the last of equal rows": (
        lambda p, r, k: (n := nearest(p, r[::-1], k))._replace(index=len(r) - 1 - n.index),
        nearest_others,
    ),
    "by cosine": (
        lambda p, r, k: nearest(*(z / np.maximum(np.linalg.norm(z, axis=1)[:, None], 1e-9) for z in (p, r)), k),
        nearest_others,
    ),
}


@pytest.mark.parametrize("mutant", NEAREST.values(), ids=NEAREST)
def test_nearest_rejects(mutant):
    rejects(check_nearest, *mutant)


CASES = [
    (RNG.exponential(size=30), RNG.exponential(size=50)),
    (RNG.exponential(size=30) * 0.3, RNG.exponential(size=20)),
    (RNG.integers(0, 4, 30).astype(float), RNG.integers(0, 4, 60).astype(float)),
    (RNG.integers(1, 4, 25).astype(float), RNG.integers(0, 3, 30).astype(float)),
    (np.ones(4), np.ones(5)),
    (np.zeros(8), np.ones(5)),
]


def check_memorisation(score):
    """The share of all pairs, and SciPy's Mann-Whitney test with ties, without its correction of 1/2."""
    for near, far in CASES:
        found = score(near, far)
        pairs = np.mean(near[:, None] < far) + 0.5 * np.mean(near[:, None] == far)
        assert found.score == pytest.approx(pairs, abs=1e-12)
        assert found.copies == np.mean(near == 0)
        told = scipy.stats.mannwhitneyu(near, far, alternative="less", method="asymptotic", use_continuity=False)
        exact = 1.0 if math.isnan(told.pvalue) else told.pvalue
        assert found.p_value == pytest.approx(exact, rel=1e-6, abs=1e-12)


def test_memorisation():
    check_memorisation(memorisation)
    assert memorisation(np.ones(4), np.ones(5)) == Memorisation(0.5, 1.0, 0.0)


def by(change):
    return lambda near, far: change(memorisation(near, far), np.asarray(near), np.asarray(far))


MEMORISATION = {
    "ties count fully": by(lambda m, a, b: m._replace(score=np.mean(a[:, None] <= b))),
    "ties do not count": by(lambda m, a, b: m._replace(score=np.mean(a[:, None] < b))),
    "farther": by(lambda m, a, b: m._replace(score=1 - m.score)),
    "exchanged": lambda near, far: memorisation(far, near),
    "two-sided": by(lambda m, a, b: m._replace(p_value=2 * min(m.p_value, 1 - m.p_value))),
    "the other side": by(lambda m, a, b: m._replace(p_value=1 - m.p_value)),
    "ties left out of the spread": by(
        lambda m, a, b: m._replace(
            p_value=scipy.stats.norm.sf((m.score - 0.5) * math.sqrt(12 * len(a) * len(b) / (len(a) + len(b) + 1)))
        )
    ),
    "copies of held-out rows": by(lambda m, a, b: m._replace(copies=np.mean(b == 0))),
}


@pytest.mark.parametrize("mutant", MEMORISATION.values(), ids=MEMORISATION)
def test_memorisation_rejects(mutant):
    rejects(check_memorisation, mutant)


def check_model(score_of):
    """A model that draws anew has a score of a half, one that copies with noise near 1, one that is off below 1/2."""
    rng = np.random.default_rng(4)
    train, held, new = rng.normal(size=(3, 300, 5))
    copies = train[rng.choice(300, 300)] + 0.05 * rng.normal(size=(300, 5))
    fresh, copied, off = (score_of(z, train, held) for z in (new, copies, 3 * new))
    assert abs(fresh.score - 0.5) < 4 * math.sqrt(601 / (12 * 300 * 300)) and fresh.p_value > 1e-4
    assert copied.score > 0.95 and copied.p_value < 1e-20 and copied.copies == 0
    assert off.score < 0.2 and off.p_value > 0.99
    assert score_of(train, train, held).copies == 1.0


def score(samples, train, held):
    return memorisation(*(nearest(z, train).distance[:, 0] for z in (samples, held)))


def test_models_that_copy():
    check_model(score)
    rejects(check_model, lambda s, t, h: score(s, h, t))
    rejects(check_model, lambda s, t, h: memorisation(*(nearest(z, s).distance[:, 0] for z in (t, h))))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: memorisation([], [1.0]), r"\[0\]"),
        (lambda: memorisation([1.0], [-1.0]), "not negative"),
        (lambda: memorisation([np.nan], [1.0]), "finite"),
        (lambda: memorisation([[1.0]], [1.0]), r"\[1, 1\]"),
        (lambda: nearest(np.zeros((3, 2)), np.zeros((4, 2)), 5), "allowed: 1 to 4"),
        (lambda: nearest_others(np.zeros((3, 2)), 3), "allowed: 1 to 2"),
        (lambda: nearest(np.zeros((3, 2)), np.zeros((4, 3))), "the same F"),
        (lambda: nearest(np.zeros((0, 2)), np.zeros((4, 2))), r"\[0, 2\]"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(BadInput, match=told):
        call()

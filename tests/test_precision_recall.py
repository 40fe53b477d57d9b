"""Precision, recall, density and coverage: hand-made sets, all pairs by brute force, laws that hold for any data."""

import numpy as np
import pytest
import scipy.spatial.distance as distances
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics import precision_recall as module
from genjax.metrics.precision_recall import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    expected_coverage,
    precision_recall,
)

RNG = np.random.default_rng(0)
LINE = np.arange(6.0)[:, None]
SETS = [
    (RNG.normal(size=(40, 3)), RNG.normal(size=(30, 3)) + 0.7),
    (RNG.normal(size=(25, 2)), 0.3 * RNG.normal(size=(60, 2))),
    (
        RNG.integers(0, 4, size=(50, 2)).astype(float),
        RNG.integers(0, 5, size=(45, 2)).astype(float),
    ),  # ties, equal rows
    (1e3 + RNG.normal(size=(30, 4)), 1e3 + RNG.normal(size=(30, 4))),
]


def balls(points, k):
    """The k-th smallest distance to another row."""
    apart = distances.cdist(points, points, "sqeuclidean")
    np.fill_diagonal(apart, np.inf)
    return np.sort(apart, axis=1)[:, k - 1]


def brute(real, fake, k, strict=False, own=True, itself=False):
    """All four by their definitions."""
    inside = np.less if strict else np.less_equal
    apart = distances.cdist(real, fake, "sqeuclidean")
    ours, theirs = (balls(z, max(k - itself, 1)) for z in ((real, fake) if own else (fake[: len(real)], real)))
    real_has = inside(apart, ours[:, None])
    return (
        PrecisionRecall(real_has.any(axis=0).mean(), inside(apart, theirs).any(axis=1).mean()),
        DensityCoverage(real_has.sum() / (k * len(fake)), real_has.any(axis=1).mean()),
    )


def check_all_pairs(first, second):
    for real, fake in SETS:
        for k in (1, 3, 5):
            exact = brute(real, fake, k)
            np.testing.assert_allclose(first(real, fake, k), exact[0], atol=1e-12)
            np.testing.assert_allclose(second(real, fake, k), exact[1], atol=1e-12)


def check_known(first, second):
    """Identical sets, disjoint sets, one outlier, a collapsed model, samples at the edge of a ball."""
    assert first(LINE, LINE, 2) == (1.0, 1.0) and second(LINE, LINE, 2)[1] == 1.0
    assert first(LINE, LINE + 100, 2) == (0.0, 0.0) and second(LINE, LINE + 100, 2) == (0.0, 0.0)
    assert first(np.append(LINE, [[1000.0]], axis=0), LINE + 100, 2)[0] == 1.0  # its ball reaches them all
    assert second(np.append(LINE, [[1000.0]], axis=0), LINE + 100, 2)[0] == 0.5
    collapsed = np.full((6, 1), 2.0)
    assert first(LINE, collapsed, 2) == (1.0, 1 / 6) and second(LINE, collapsed, 2) == (2.0, 4 / 6)
    assert first(LINE, LINE[:3] - 1.0, 1)[0] == 1.0  # -1 is at the distance 1 of 0
    assert second(LINE, [[-1.0], [-1.5]], 1) == (0.5, 1 / 6)


def test_all_pairs():
    check_all_pairs(precision_recall, density_coverage)


def test_known_sets():
    check_known(precision_recall, density_coverage)


def test_pairs_in_blocks(monkeypatch):
    monkeypatch.setattr("genjax.metrics.neighbours.BLOCK", 100)
    check_all_pairs(precision_recall, density_coverage)


def varied(**how):
    return tuple(lambda r, f, k, i=i: brute(np.asarray(r), np.asarray(f), k, **how)[i] for i in (0, 1))


def swapped(r, f, k):
    return PrecisionRecall(*precision_recall(r, f, k)[::-1])


MUTANTS = {
    "open balls": varied(strict=True),
    "a row is its own neighbour": varied(itself=True),
    "exchanged": (swapped, density_coverage),
    "sets exchanged": (precision_recall, lambda r, f, k: density_coverage(f, r, min(k, len(f) - 1))),
    "another k": (lambda r, f, k: precision_recall(r, f, min(k + 1, len(f) - 1)), density_coverage),
    "density without k": (
        precision_recall,
        lambda r, f, k: (d := density_coverage(r, f, k))._replace(density=d.density * k),
    ),
    "density as a share": (
        precision_recall,
        lambda r, f, k: (d := density_coverage(r, f, k))._replace(density=min(d.density, 1.0)),
    ),
    "coverage for recall": (
        lambda r, f, k: PrecisionRecall(precision_recall(r, f, k)[0], density_coverage(r, f, k)[1]),
        density_coverage,
    ),
    "radii of the mean": (lambda r, f, k: PrecisionRecall(*_with_one_radius(r, f, k)), density_coverage),
}


def _with_one_radius(real, fake, k):
    real, fake = np.asarray(real), np.asarray(fake)
    apart = distances.cdist(real, fake, "sqeuclidean")
    return (apart <= balls(real, k).mean()).any(axis=0).mean(), (apart <= balls(fake, k).mean()).any(axis=1).mean()


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_all_pairs_reject(mutant):
    rejects(check_all_pairs, *mutant)


KNOWN = ("open balls", "exchanged", "density as a share", "coverage for recall", "density without k")


@pytest.mark.parametrize("name", KNOWN)
def test_known_sets_reject(name):
    rejects(check_known, *MUTANTS[name])


def check_law(measure, expected):
    """Whatever the law, the mean density is 1 and the mean coverage is known: 1,500 pairs of sets, 4 errors."""
    rng = np.random.default_rng(3)
    for real, fake, k in ((12, 7, 2), (8, 20, 5)):
        for draw in (lambda n: rng.normal(size=(n, 2)), lambda n: rng.exponential(size=(n, 1)) ** 3):
            found = np.array([measure(draw(real), draw(fake), k) for _ in range(1_500)])
            error = found.std(axis=0) / np.sqrt(1_500)
            assert np.all(np.abs(found.mean(axis=0) - [1.0, expected(real, fake, k)]) < 4 * error)


def test_density_and_coverage_of_a_perfect_model():
    check_law(density_coverage, expected_coverage)
    assert expected_coverage(10**6, 10**6, 3) == pytest.approx(1 - 2.0**-3, abs=1e-5)


LAWS = {
    "k among others": (density_coverage, lambda n, m, k: expected_coverage(n + 1, m, k)),
    "one step less": (density_coverage, lambda n, m, k: expected_coverage(n, m, k - 1)),
    "of infinitely many": (density_coverage, lambda n, m, k: 1 - 2.0**-k),
    "a row is its own neighbour": (lambda r, f, k: brute(r, f, k, itself=True)[1], expected_coverage),
    "density over N": (
        lambda r, f, k: (d := density_coverage(r, f, k))._replace(density=d.density * len(f) / len(r)),
        expected_coverage,
    ),
    "never above 1": (
        lambda r, f, k: (d := density_coverage(r, f, k))._replace(density=min(1.0, d.density)),
        expected_coverage,
    ),
}


@pytest.mark.parametrize("mutant", LAWS.values(), ids=LAWS)
def test_the_law_rejects(mutant):
    rejects(check_law, *mutant)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: module.precision_recall(LINE, LINE[:3], 3), "allowed: 1 to 2"),
        (lambda: module.density_coverage(LINE, LINE[:3], 6), "allowed: 1 to 5"),
        (lambda: module.density_coverage(LINE, LINE, 0), "k = 0"),
        (lambda: module.precision_recall(LINE, np.zeros((6, 2))), "the same F"),
        (lambda: module.precision_recall(LINE, np.full((6, 1), np.nan)), "not finite"),
        (lambda: module.expected_coverage(3, 3, 3), "allowed: 1 to 2"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(BadInput, match=told):
        call()

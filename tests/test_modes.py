"""Mode counts and the reverse KL on samples whose modes are known: 25 normals, stacked digits."""

import math

import numpy as np
import pytest
import scipy.special
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics.modes import Modes, class_modes, gaussian_modes, reverse_kl, stacked_labels

RNG = np.random.default_rng(0)
GRID = np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], float)
SD = 0.05


def around(modes, count, spread=1.0):
    return np.repeat(GRID[modes], count, axis=0) + SD * spread * RNG.normal(size=(len(modes) * count, 2))


def check_gaussian(modes):
    """The share within 3 deviations in two dimensions is 1 - exp(-9/2); far ones count in no mode but in the KL."""
    all_of = modes(around(range(25), 4_000), GRID, SD)
    inside = 1 - math.exp(-4.5)
    assert all_of[0] == 25 and abs(all_of[1] - inside) < 4 * math.sqrt(inside * (1 - inside) / 100_000)
    assert all_of[2] == 0.0
    three = modes(np.concatenate([around([0], 300, 0.1), around([7, 24], 50, 0.1)]), GRID, SD)
    assert three[:2] == (3, 1.0)
    share = np.array([0.75, 0.125, 0.125])
    assert three[2] == pytest.approx(np.sum(scipy.special.rel_entr(share, 1 / 25)), rel=1e-12)
    lost = modes(
        np.concatenate([around([3], 60, 0.0), around([4], 20, 0.0) + 0.2, GRID[:1] + np.array([0.0, 0.151])]), GRID, SD
    )
    assert lost[0] == 1 and lost[1] == 60 / 81 and 0 < lost[2] < math.log(25)
    assert modes(np.array([[0.0, 0.1499]]), GRID, SD)[:2] == (1, 1.0)
    assert modes(np.full((9, 2), 50.0), GRID, SD) == (0, 0.0, pytest.approx(math.log(25)))


def test_gaussian_modes():
    check_gaussian(gaussian_modes)


def changed(**how):
    def modes(samples, centres, deviation):
        given = {"within": how.get("within", 3.0)}
        found = gaussian_modes(samples, centres, how.get("deviation", lambda d: d)(deviation), **given)
        return how.get("then", lambda m, s, c, d: m)(found, samples, centres, deviation)

    return modes


def _good_alone(found, samples, centres, deviation):
    apart = np.linalg.norm(samples[:, None] - centres, axis=-1)
    good = apart.min(axis=1) < 3 * deviation
    counts = np.bincount(apart.argmin(axis=1)[good], minlength=len(centres))
    return found._replace(reverse_kl=reverse_kl(counts, np.ones(len(centres))) if counts.any() else 0.0)


GAUSSIAN = {
    "two deviations": changed(within=2.0),
    "the variance": changed(deviation=lambda d: d**2),
    "a square": changed(
        then=lambda m, s, c, d: m._replace(
            high_quality=float((np.abs(s[:, None] - c).max(axis=-1).min(axis=1) < 3 * d).mean())
        )
    ),
    "every nearest mode counts": changed(
        then=lambda m, s, c, d: m._replace(count=len(np.unique(np.linalg.norm(s[:, None] - c, axis=-1).argmin(axis=1))))
    ),
    "good samples alone in the KL": changed(then=_good_alone),
    "forward KL": changed(
        then=lambda m, s, c, d: m._replace(
            reverse_kl=scipy.special.rel_entr(
                1 / 25,
                np.bincount(np.linalg.norm(s[:, None] - c, axis=-1).argmin(axis=1), minlength=25) / len(s) + 1e-9,
            ).sum()
        )
    ),
    "bits": changed(then=lambda m, s, c, d: m._replace(reverse_kl=m.reverse_kl / math.log(2))),
}


@pytest.mark.parametrize("mutant", GAUSSIAN.values(), ids=GAUSSIAN)
def test_gaussian_modes_reject(mutant):
    rejects(check_gaussian, mutant)


def check_stacked(modes, labels):
    """26,000 even triples, whose KL is that of chance; one digit in all channels; data that are not even."""
    triples = RNG.integers(0, 10, size=(26_000, 3))
    found = modes(labels(triples), 1_000)
    assert found[:2] == (1_000, 1.0) and 0.012 < found[2] < 0.027  # (K - 1) / 2N = 0.0192 by chance
    assert labels([[1, 2, 3], [0, 0, 7]]).tolist() == [123, 7]
    same = np.repeat(triples[:, :1], 3, axis=1)
    assert modes(labels(same), 1_000)[0] == 10
    assert modes(labels(same), 1_000)[2] == pytest.approx(math.log(100), abs=0.01)
    known = np.repeat([0, 1, 2], [50, 30, 20])
    assert modes(known[::-1], 4, known)[2] == 0.0 and modes(known, 4)[0] == 3
    assert modes([0, 0, 1], 4, known)[2] == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(10 / 9))
    assert modes([3], 4, known)[2] == math.inf


def test_stacked_digits():
    check_stacked(class_modes, stacked_labels)


STACKED = {
    "real classes are even": (lambda n, k, real=None: class_modes(n, k), stacked_labels),
    "the other direction": (
        lambda n, k, real=None: (
            class_modes(n, k, real)
            if real is None
            else class_modes(n, k)._replace(reverse_kl=class_modes(real, k, n).reverse_kl)
        ),
        stacked_labels,
    ),
    "the last channel first": (class_modes, lambda d: stacked_labels(np.asarray(d)[:, ::-1])),
    "a sum": (class_modes, lambda d: np.asarray(d).sum(axis=1)),
    "base 9": (class_modes, lambda d: np.asarray(d) @ [81, 9, 1]),
    "classes that could be": (lambda n, k, real=None: class_modes(n, k, real)._replace(count=k), stacked_labels),
}


@pytest.mark.parametrize("mutant", STACKED.values(), ids=STACKED)
def test_stacked_digits_reject(mutant):
    rejects(check_stacked, *mutant)


def test_shares_are_what_counts():
    assert reverse_kl([2, 6], [1, 3]) == 0.0
    assert reverse_kl([0.0, 5.0], [1.0, 1.0]) == pytest.approx(math.log(2))
    assert class_modes(np.array([1, 1]), 2) == Modes(1, 1.0, pytest.approx(math.log(2)))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: gaussian_modes(GRID, GRID, 0.0), "deviation = 0.0"),
        (lambda: gaussian_modes(GRID, GRID[:, :1], SD), "the same F"),
        (lambda: class_modes([0.5], 2), "integers"),
        (lambda: class_modes([], 2), "integers"),
        (lambda: class_modes([2], 2), "0 to 1"),
        (lambda: class_modes([-1], 2), "0 to 1"),
        (lambda: stacked_labels([[1, 2]]), r"\[N, 3\]"),
        (lambda: stacked_labels([[1, 2, 10]]), "0 to 9"),
        (lambda: reverse_kl([1, 2], [1, 2, 3]), r"\[K\]"),
        (lambda: reverse_kl([0, 0], [1, 2]), "not all zero"),
        (lambda: reverse_kl([-1, 2], [1, 2]), "not negative"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(BadInput, match=told):
        call()

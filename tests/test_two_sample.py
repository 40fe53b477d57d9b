"""Two-sample tests: accuracies by hand, p-values by all orders, levels that hold and differences that are seen."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial.distance as distances
import scipy.stats
from planted import rejects
from sklearn.linear_model import LogisticRegression

from genjax.errors import BadInput
from genjax.metrics.two_sample import logistic_test, neighbour_test

RNG = np.random.default_rng(0)


def brute(real, fake):
    """Leave-one-out accuracies, and the share of all orders of the labels that are as accurate."""
    union = np.concatenate([real, fake])
    apart = distances.cdist(union, union)
    np.fill_diagonal(apart, np.inf)
    neighbour, label = apart.argmin(axis=1), np.repeat([0, 1], [len(real), len(fake)])
    right = label[neighbour] == label
    orders = [np.isin(np.arange(len(union)), chosen) for chosen in itertools.combinations(range(len(union)), len(fake))]
    as_good = [np.sum(order[neighbour] == order) >= right.sum() for order in orders]
    return right.mean(), right[: len(real)].mean(), right[len(real) :].mean(), np.mean(as_good)


def check_neighbours(test):
    for shift in (0.0, 0.6, 1.5):
        real, fake = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 2)) + shift
        exact, found = brute(real, fake), test(real, fake, np.random.default_rng(1), 4_000)
        np.testing.assert_allclose(found[:3], exact[:3], atol=1e-12)
        assert abs(found[3] - exact[3]) < 4 * np.sqrt(0.25 / 4_000) + 1e-3
    collapsed = test(np.arange(6.0)[:, None], np.full((6, 1), 2.5) + 1e-3 * np.arange(6)[:, None], RNG, 200)
    assert collapsed.fake == 1.0 and collapsed.real == 4 / 6
    copied = test(np.arange(6.0)[:, None], np.arange(6.0)[:, None] + 0.01, RNG, 200)
    assert copied[:3] == (0.0, 0.0, 0.0) and copied.p_value > 0.99


def test_neighbours_by_all_orders():
    check_neighbours(neighbour_test)


def by(change):
    return lambda real, fake, rng, orders: change(neighbour_test(real, fake, rng, orders), np.asarray(real), fake)


NEIGHBOURS = {
    "a row is its own neighbour": by(lambda t, r, f: t._replace(accuracy=1.0, real=1.0, fake=1.0)),
    "real and fake exchanged": by(lambda t, r, f: t._replace(real=t.fake, fake=t.real)),
    "the error": by(lambda t, r, f: t._replace(accuracy=1 - t.accuracy)),
    "the other side": by(lambda t, r, f: t._replace(p_value=1 - t.p_value)),
    "of the accuracy alone": by(lambda t, r, f: t._replace(p_value=1 - t.accuracy)),
    "none is as good": by(lambda t, r, f: t._replace(p_value=t.p_value / 2)),
}


@pytest.mark.parametrize("mutant", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_neighbours_reject(mutant):
    rejects(check_neighbours, mutant)


def by_hand(real, fake, rng, penalty):
    """The same halves, the minimum of the penalised sum by BFGS, and the binomial tail by its terms."""
    half, orders = len(real) // 2, [rng.permutation(len(real)) for _ in range(2)]
    real, fake = (part[order] for part, order in zip((real, fake), orders, strict=True))
    seen, new = np.concatenate([real[:half], fake[:half]]), np.concatenate([real[half:], fake[half:]])
    x, label = (seen - seen.mean(0)) / seen.std(0), np.repeat([0.0, 1.0], half)

    def nats(w):
        logits = x @ w[:-1] + w[-1]
        return np.sum(np.logaddexp(0, logits) - label * logits) + penalty / 2 * np.sum(w[:-1] ** 2)

    w = scipy.optimize.minimize(nats, np.zeros(x.shape[1] + 1), method="BFGS", options={"gtol": 1e-7}).x
    right = ((new - seen.mean(0)) / seen.std(0) @ w[:-1] + w[-1] > 0) == np.repeat([False, True], len(new) // 2)
    n, k = len(new), int(right.sum())
    return right.mean(), sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n


def check_logistic(test):
    """Accuracy and p-value of three pairs of sets: by hand."""
    for rows, width, penalty, gap in ((40, 3, 1.0, 0.5), (20, 2, 0.1, 4.0), (30, 30, 2.0, 0.3)):
        real, fake = RNG.normal(size=(rows, width)), RNG.normal(size=(rows, width)) + gap
        found = test(real, fake, np.random.default_rng(3), penalty)
        np.testing.assert_allclose(found, by_hand(real, fake, np.random.default_rng(3), penalty), rtol=1e-9)


def test_the_logistic_test_by_hand():
    check_logistic(logistic_test)
    rejects(check_logistic, lambda real, fake, rng, penalty: logistic_test(real, fake, rng, 100 * penalty))
    rejects(check_logistic, lambda real, fake, rng, penalty: logistic_test(fake, real, rng, penalty))
    two_sided = lambda found: found._replace(p_value=min(1.0, 2 * found.p_value))
    rejects(check_logistic, lambda *given: two_sided(logistic_test(*given)))


def check_level(test):
    """Where both sets have one law a p-value is below a only with the probability a, or less; 400 pairs."""
    rng = np.random.default_rng(7)
    found = np.array([test(*rng.normal(size=(2, 40, 3)), rng) for _ in range(400)])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(found <= level) < level + 4 * np.sqrt(level * (1 - level) / 400)


def check_power(test):
    """A shift of a deviation in one of three dimensions is seen in 200 rows."""
    rng = np.random.default_rng(8)
    real, fake = rng.normal(size=(2, 200, 3))
    assert test(real, fake + np.eye(3)[0], rng) < 2e-3


def neighbours_p(real, fake, rng):
    return neighbour_test(real, fake, rng, 999).p_value


def logistic_p(real, fake, rng):
    return logistic_test(real, fake, rng).p_value


@pytest.mark.parametrize("test", [lambda *a: neighbour_test(*a, 99).p_value, logistic_p])
def test_levels_hold(test):
    check_level(test)


@pytest.mark.parametrize("test", [neighbours_p, logistic_p])
def test_differences_are_seen(test):
    check_power(test)


def on_its_own_rows(real, fake, rng):
    x, label = np.concatenate([real, fake]), np.repeat([0, 1], len(real))
    right = LogisticRegression().fit(x, label).predict(x) == label
    return scipy.stats.binom.sf(right.sum() - 1, len(x), 0.5)


def test_levels_and_power_reject():
    rejects(check_level, on_its_own_rows)
    rejects(check_level, lambda *a: logistic_p(*a) / 2)
    rejects(check_level, lambda *a: neighbours_p(*a) ** 2)
    rejects(check_power, lambda *a: 1 - logistic_p(*a))
    rejects(check_power, lambda r, f, rng: logistic_p(r - r.mean(axis=0), f - f.mean(axis=0), rng))
    rejects(
        check_power, lambda r, f, rng: neighbours_p(*rng.permutation(np.concatenate([r, f])).reshape(2, 200, 3), rng)
    )


def test_spread_alone_is_seen_by_neighbours_and_not_by_a_line():
    real, fake = RNG.normal(size=(2, 300, 3))
    assert neighbours_p(real, 3 * fake, RNG) == 0.001
    assert logistic_test(real, 3 * fake, RNG).accuracy < 0.65


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: neighbour_test(np.zeros((3, 2)), np.zeros((4, 2)), RNG), "as many of each"),
        (lambda: logistic_test(np.zeros((8, 2)), np.zeros((9, 2)), RNG), "as many of each"),
        (lambda: logistic_test(np.zeros((3, 2)), np.zeros((3, 2)), RNG), "at least 4 rows"),
        (lambda: logistic_test(np.zeros((8, 2)), np.zeros((8, 2)), RNG, 0.0), "penalty = 0.0"),
        (lambda: neighbour_test(np.zeros((3, 2)), np.zeros((3, 1)), RNG), "the same F"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(BadInput, match=told):
        call()

"""Two-sample tests: accuracies by hand, p-values by all orders, levels that hold and differences that are seen."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial.distance as distances
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics.two_sample import (
    binomial_tail,
    logistic_fit,
    logistic_test,
    neighbour_test,
)

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


def check_fit(fit):
    """SciPy's minimum of the same sum; rows that are apart, whose weights only the penalty holds; many features."""
    for rows, width, penalty, gap in ((40, 3, 1.0, 0.5), (20, 2, 0.1, 8.0), (10, 30, 2.0, 0.3)):
        label = np.repeat([0.0, 1.0], rows)
        x = RNG.normal(size=(2 * rows, width)) + gap * label[:, None]

        def nats(w, x=x, label=label, penalty=penalty):
            logits = x @ w[:-1] + w[-1]
            return np.sum(np.logaddexp(0, logits) - label * logits) + penalty / 2 * np.sum(w[:-1] ** 2)

        exact = scipy.optimize.minimize(nats, np.zeros(width + 1), method="BFGS", options={"gtol": 1e-7}).x
        w, b = fit(x, label, penalty)
        np.testing.assert_allclose([*w, b], exact, atol=2e-4, rtol=2e-4)


def test_the_fit_is_the_minimum():
    check_fit(logistic_fit)
    rejects(check_fit, lambda x, y, p: logistic_fit(x, y, 2 * p))
    rejects(check_fit, lambda x, y, p: logistic_fit(x, 1 - y, p))
    rejects(check_fit, lambda x, y, p: (logistic_fit(x, y, p)[0], 0.0))
    rejects(check_fit, lambda x, y, p: logistic_fit(x / x.std(axis=0), y, p))


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
    x, label = np.concatenate([real, fake]), np.repeat([0.0, 1.0], len(real))
    w, b = logistic_fit(x, label)
    return scipy.stats.binom.sf(np.sum((x @ w + b > 0) == label) - 1, len(x), 0.5)


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


def check_tail(tail):
    for trials in (1, 2, 7, 100, 20_000):
        for successes in {0, 1, trials // 2, trials // 2 + 1, int(0.51 * trials), trials}:
            exact = scipy.stats.binom.sf(successes - 1, trials, 0.5)
            assert tail(successes, trials) == pytest.approx(exact, rel=1e-8)


def test_binomial_tail():
    check_tail(binomial_tail)
    rejects(check_tail, lambda k, n: scipy.stats.binom.sf(k, n, 0.5))
    rejects(check_tail, lambda k, n: scipy.stats.norm.sf((k - n / 2) / np.sqrt(n / 4)))
    rejects(check_tail, lambda k, n: min(1.0, 2 * binomial_tail(k, n)))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: neighbour_test(np.zeros((3, 2)), np.zeros((4, 2)), RNG), "as many of each"),
        (lambda: logistic_test(np.zeros((8, 2)), np.zeros((9, 2)), RNG), "as many of each"),
        (lambda: logistic_test(np.zeros((3, 2)), np.zeros((3, 2)), RNG), "at least 4 rows"),
        (lambda: logistic_test(np.zeros((8, 2)), np.zeros((8, 2)), RNG, 0.0), "penalty = 0.0"),
        (lambda: neighbour_test(np.zeros((3, 2)), np.zeros((3, 1)), RNG), "the same F"),
        (lambda: binomial_tail(4, 3), "4 of 3"),
        (lambda: binomial_tail(-1, 3), "-1 of 3"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(BadInput, match=told):
        call()

"""Ridge regression on a few examples, with a density beside: against refits, and what each part must not change."""

import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics.few_shot import STRENGTHS, best_ridge, few_shot, ridge

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(12, 5))
Y = X @ RANDOM.normal(size=5) + 0.5 * RANDOM.normal(size=12) + 3.0


def refitted(x, y, strength):
    """By least squares of augmented rows, an intercept that nothing penalises among the weights."""
    rows = np.concatenate([np.c_[x, np.ones(len(x))], np.sqrt(strength) * np.eye(x.shape[1], x.shape[1] + 1)])
    return np.linalg.lstsq(rows, np.r_[y, np.zeros(x.shape[1])], rcond=None)[0]


def is_ridge(of):
    for strength in STRENGTHS:
        fit, known = of(X, Y, strength), refitted(X, Y, strength)
        assert np.allclose(np.r_[fit.weights, fit.intercept], known, atol=1e-8)
        for i in range(len(Y)):
            others = np.arange(len(Y)) != i
            by_others = refitted(X[others], Y[others], strength)
            assert fit.left_out[i] == pytest.approx(Y[i] - np.r_[X[i], 1.0] @ by_others, abs=1e-8)


def test_ridge_is_least_squares_of_augmented_rows_and_leaves_each_example_out():
    is_ridge(ridge)


@pytest.mark.parametrize(
    "bug",
    [
        lambda x, y, strength: ridge(x, y, strength**2 + 0.1),
        lambda x, y, strength: ridge(x, y, strength)._replace(intercept=float(y.mean())),
        lambda x, y, strength: ridge(x, y, strength)._replace(
            left_out=y - x @ ridge(x, y, strength).weights - y.mean()
        ),
    ],
)
def test_planted_bugs_of_ridge(bug):
    rejects(is_ridge, bug)


def free_of_scale(of):
    """What nothing penalises may be measured in any unit."""
    one, other = (of(np.c_[X, scale * Y**3], Y, 10.0, 1) for scale in (1.0, 1e-3))
    assert np.allclose(one.left_out, other.left_out, atol=1e-6)


def test_a_score_may_be_in_any_unit():
    free_of_scale(ridge)
    rejects(free_of_scale, lambda x, y, strength, free: ridge(x, y, strength))


def landscape(noise):
    random = np.random.default_rng(1)
    sites = random.integers(0, 4, (600, 3))
    x = np.eye(4)[sites].reshape(600, -1)
    effects = random.normal(size=12)
    fitness = np.exp(x @ effects)  # what is additive is its logarithm
    return x, fitness, np.log(fitness) + noise * random.normal(size=600)


def test_more_examples_order_better_and_a_good_density_is_worth_many():
    x, fitness, score = landscape(noise=0.3)
    alone = [few_shot(x, fitness, count, 10).value for count in (8, 24, 96)]
    beside = [few_shot(x, fitness, count, 10, score).value for count in (8, 24, 96)]
    assert alone[0] < alone[1] < alone[2] and beside[0] > alone[0] + 0.1
    assert beside[2] > alone[2] - 0.02

    def takes_it(found):
        assert found > alone[0] + 0.1

    takes_it(beside[0])
    rejects(takes_it, few_shot(x, fitness, 8, 10, np.random.default_rng(2).normal(size=600)).value)  # noise as a score


def test_a_perfect_score_is_a_perfect_order_and_draws_are_those_of_the_seed():
    x, fitness, _ = landscape(0.0)
    assert few_shot(x, fitness, 24, 3, fitness).value > 0.999
    assert few_shot(x, fitness, 24, 3) == few_shot(x, fitness, 24, 3) != few_shot(x, fitness, 24, 3, seed=1)


def test_the_best_strength_is_that_of_the_least_errors():
    noise = np.random.default_rng(3).normal(size=12)
    errors = [float((ridge(X, noise, one).left_out ** 2).sum()) for one in STRENGTHS]
    assert float((best_ridge(X, noise).left_out ** 2).sum()) == min(errors) == errors[-1]  # nothing to learn


@pytest.mark.parametrize(
    "call",
    [
        lambda: ridge(X, Y[1:], 1.0),
        lambda: ridge(X[:1], Y[:1], 1.0),
        lambda: ridge(X, Y, 0.0),
        lambda: ridge(X, Y, np.nan),
        lambda: ridge(X, Y, 1.0, 6),
        lambda: few_shot(X, Y, 9, 3),
        lambda: few_shot(X, Y, 1, 3),
        lambda: few_shot(X, Y, 4, 1),
    ],
)
def test_counts_and_shapes_outside_their_range(call):
    with pytest.raises(BadInput):
        call()

"""The area under the ROC curve against scikit-learn and all pairs; PSNR; a digit held out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from sklearn.metrics import roc_auc_score

from genjax.errors import BadInput
from genjax.metrics.anomaly import auroc, placements
from genjax.metrics.psnr import mean_squared_error, psnr

RNG = np.random.default_rng(0)
NORMAL, ANOMALOUS = RNG.normal(size=150), RNG.normal(size=40) + 0.7
CASES = {
    "continuous": (NORMAL, ANOMALOUS),
    "tied": (NORMAL.round(), ANOMALOUS.round()),  # six values
    "one value": (np.ones(5), np.ones(3)),
    "separated": (NORMAL, ANOMALOUS + 20),
    "the wrong way": (NORMAL, ANOMALOUS - 20),
    "one of each": (np.array([2.0]), np.array([2.5])),
    "large": (1e6 + NORMAL.round(), 1e6 + ANOMALOUS.round()),
}


def check_auroc(area):
    """scikit-learn's area, within 1e-6."""
    for normal, anomalous in CASES.values():
        labels = np.repeat([0, 1], [len(normal), len(anomalous)])
        exact = roc_auc_score(labels, np.concatenate([normal, anomalous]))
        assert float(area(jnp.float32(normal), jnp.float32(anomalous))) == pytest.approx(exact, abs=1e-6)


def test_auroc_is_that_of_scikit_learn():
    check_auroc(auroc)
    check_auroc(jax.jit(auroc))


def ranked(side):
    return lambda n, a: jnp.mean(jnp.searchsorted(jnp.sort(n), a, side=side) / len(n))


def without_sorting(n, a):
    return jnp.mean((jnp.searchsorted(n, a) + jnp.searchsorted(n, a, side="right")) / (2 * len(n)))


AUROC_MUTANTS = {
    "ties do not count": ranked("left"),
    "ties count fully": ranked("right"),
    "exchanged": lambda n, a: auroc(a, n),
    "the complement": lambda n, a: 1 - auroc(n, a),
    "not sorted": without_sorting,
    "divided by the anomalies": lambda n, a: auroc(n, a) * len(n) / len(a),
    "a share above the median": lambda n, a: jnp.mean(a > jnp.median(n)),
}


@pytest.mark.parametrize("mutant", AUROC_MUTANTS.values(), ids=AUROC_MUTANTS)
def test_auroc_rejects(mutant):
    rejects(check_auroc, mutant)


def check_placements(placed):
    """Each anomaly against all normal scores, one pair after the other."""
    for normal, anomalous in CASES.values():
        exact = [(np.mean(normal < one) + np.mean(normal <= one)) / 2 for one in anomalous]
        np.testing.assert_allclose(placed(jnp.float32(normal), jnp.float32(anomalous)), exact, atol=1e-6)


def test_placements_are_those_of_all_pairs():
    check_placements(placements)
    rejects(check_placements, lambda n, a: placements(n, a)[::-1])
    rejects(check_placements, lambda n, a: jnp.broadcast_to(auroc(n, a), a.shape))


def test_scores_that_are_no_numbers_are_no_success():
    assert np.isnan(auroc(jnp.array([0.0, jnp.nan]), jnp.ones(2)))
    assert np.isnan(placements(jnp.zeros(2), jnp.array([jnp.nan, 1.0]))).tolist() == [True, False]


@pytest.mark.parametrize(("normal", "anomalous"), [((0,), (3,)), ((3, 1), (3,)), ((3,), (3, 1))])
def test_what_are_no_scores(normal, anomalous):
    with pytest.raises(BadInput, match=r"allowed: \[N\] and \[M\]"):
        placements(jnp.zeros(normal), jnp.zeros(anomalous))


def test_no_anomalies():
    with pytest.raises(BadInput, match="at least one"):
        auroc(jnp.zeros(3), jnp.zeros(0))


# -- PSNR --------------------------------------------------------------------------------------------------------------


def check_psnr(ratio):
    """In float64, and by its definition for one number: an error of 0.1 everywhere is 20 dB."""
    x, y = RNG.uniform(size=(2, 4, 5, 3, 1))
    exact = [10 * np.log10(1 / np.mean(np.square(a - b))) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ratio(jnp.float32(x), jnp.float32(y)), exact, rtol=1e-5)
    assert float(ratio(jnp.zeros((1, 2, 2, 3)), jnp.full((1, 2, 2, 3), 0.1))[0]) == pytest.approx(20.0, abs=1e-4)
    assert ratio(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1))).tolist() == [100.0]


def test_psnr():
    check_psnr(psnr)
    with pytest.raises(BadInput, match="one shape for both"):
        mean_squared_error(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 3)))


PSNR_MUTANTS = {
    "of the root": lambda x, y: psnr(x, y) / 2,
    "of the sum": lambda x, y: psnr(x, y) - 10 * jnp.log10(x[0].size),
    "natural logarithm": lambda x, y: psnr(x, y) * jnp.log(10.0),
    "of the batch": lambda x, y: jnp.broadcast_to(psnr(x, y).mean(), len(x)),
    "no limit": lambda x, y: -10 * jnp.log10(mean_squared_error(x, y)),
}


@pytest.mark.parametrize("mutant", PSNR_MUTANTS.values(), ids=PSNR_MUTANTS)
def test_psnr_rejects(mutant):
    rejects(check_psnr, mutant)

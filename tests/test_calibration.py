"""Confusion and calibration error against scikit-learn and a loop over bins."""

import numpy as np
import pytest
from planted import rejects
from sklearn.metrics import accuracy_score, confusion_matrix

from genjax.errors import BadInput
from genjax.metrics.calibration import Reliability, reliability, reliability_text

RNG = np.random.default_rng(0)
CASES = [(scale * RNG.normal(size=(400, 4)), RNG.integers(0, 4, 400)) for scale in (0.1, 1.0, 10.0)]
CASES.append((np.array([[0.0, 800.0], [800.0, 0.0], [0.0, 0.0]]), np.array([1, 1, 0])))  # sure, wrong, a tie


def check(reliability):
    for logits, label in CASES:
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        sure = (shares / shares.sum(axis=1, keepdims=True)).max(axis=1)
        called = logits.argmax(axis=1)
        error = 0.0
        for b in range(15):
            inside = (sure > b / 15) & (sure <= (b + 1) / 15)
            if inside.any():
                error += inside.mean() * abs((called == label)[inside].mean() - sure[inside].mean())
        found = reliability(logits, label)
        np.testing.assert_array_equal(found.confusion, confusion_matrix(label, called, labels=range(logits.shape[1])))
        assert found.accuracy == pytest.approx(accuracy_score(label, called))
        assert found.calibration_error == pytest.approx(error, abs=1e-12)


def check_law(reliability):
    """Labels drawn from the stated probabilities: what is left of the error is chance."""
    logits = 2 * RNG.normal(size=(40_000, 3))
    label = np.argmax(logits + RNG.gumbel(size=logits.shape), axis=1)
    assert reliability(logits, label).calibration_error < 0.012
    assert reliability(3 * logits, label).calibration_error > 0.1


def by(change):
    return lambda logits, label: change(reliability(logits, label), logits, label)


MUTANTS = {
    "transposed": by(lambda r, x, y: r._replace(confusion=r.confusion.T)),
    "signs cancel": by(lambda r, x, y: r._replace(calibration_error=abs(r.accuracy - _sure(x).mean()))),
    "ten bins": lambda x, y: reliability(x, y, 10),
    "bins weigh alike": by(lambda r, x, y: r._replace(calibration_error=r.calibration_error * 2)),
    "scores for probabilities": by(lambda r, x, y: reliability(np.log(np.maximum(_sure(x), 1e-9))[:, None] * x, y)),
    "the first class": by(lambda r, x, y: r._replace(accuracy=float(np.mean(y == 0)))),
}


def _sure(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return 1 / shares.sum(axis=1)


def test_reliability():
    check(reliability)
    check_law(reliability)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_reliability_rejects(mutant):
    rejects(check, mutant)


def test_a_law_rejects():
    rejects(check_law, lambda x, y: reliability(1.5 * x, y))
    rejects(check_law, lambda x, y: reliability(x, np.roll(y, 1)))


def test_the_table_has_every_count():
    text = reliability_text(Reliability(np.array([[12_345, 1], [0, 4]]), 0.5, 0.25)).splitlines()
    assert text[0] == "accuracy 0.5000, expected calibration error 0.2500 (15 bins), 12,350 rows"
    assert [line.split() for line in text[3:]] == [["0", "1"], ["0", "12345", "1"], ["1", "0", "4"]]


@pytest.mark.parametrize(
    ("logits", "label"), [((3, 2), [0, 1]), ((2,), [0, 1]), ((2, 2), [0.5, 1.0]), ((2, 2), [0, 2]), ((2, 2), [-1, 0])]
)
def test_bad_input(logits, label):
    with pytest.raises(BadInput, match="allowed"):
        reliability(np.zeros(logits), label)

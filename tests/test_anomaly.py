"""The area under the ROC curve against scikit-learn and all pairs; slopes of normal laws; PSNR."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from sklearn.metrics import roc_auc_score

from genjax.corruption.schedules import cosine, rectified_flow
from genjax.errors import BadInput
from genjax.metrics.anomaly import auroc, diffusion_score_norm, nearest_square, placements, score_norm
from genjax.metrics.neighbours import nearest
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


# -- slopes ------------------------------------------------------------------------------------------------------------

PROCESS, X, SPREAD = cosine(), np.random.default_rng(2).normal(size=(50, 2, 3)), np.array([[0.5, 1.0, 2.0]])


def check_slope(norm):
    """Of N(1, SPREAD^2) the slope is (x - 1) / SPREAD^2; a constant and the sign do not matter."""
    exact = np.sqrt(np.square((X - 1) / SPREAD**2).sum(axis=(1, 2)))
    for sign in (-1.0, 1.0):
        energy = lambda x, sign=sign: 7.0 + sign * jnp.sum(((x - 1) / jnp.float32(SPREAD)[None]) ** 2, axis=(1, 2)) / 2
        np.testing.assert_allclose(norm(energy, jnp.float32(X)), exact, rtol=1e-5)


def check_nearest(far):
    """Against the search in float64."""
    known, x = RNG.normal(size=(40, 5)), RNG.normal(size=(7, 5))
    wanted = nearest(x, known).distance[:, 0] ** 2
    np.testing.assert_allclose(far(jnp.float32(known), jnp.float32(x)), wanted, rtol=1e-5)


def test_the_nearest_example():
    check_nearest(nearest_square)
    rejects(check_nearest, lambda known, x: nearest_square(x, known)[: len(x)])
    rejects(check_nearest, lambda known, x: jnp.sqrt(nearest_square(known, x)))
    rejects(check_nearest, lambda known, x: nearest_square(known[:20], x))
    with pytest.raises(BadInput, match=r"\[0, 2\] and \[1, 2\]"):
        nearest_square(jnp.zeros((0, 2)), jnp.zeros((1, 2)))


def test_slopes_of_an_energy():
    check_slope(score_norm)
    rejects(check_slope, lambda e, x: score_norm(e, x) ** 2)
    rejects(check_slope, lambda e, x: score_norm(lambda x: jnp.broadcast_to(e(x).mean(), len(x)), x) / len(x))
    rejects(check_slope, lambda e, x: jnp.abs(jax.vmap(jax.grad(lambda r: e(r[None])[0]))(x)).sum((1, 2)))


def check_noised_slope(norm):
    """Of noised N(0, SPREAD^2), by its own E[x | z]: at alpha x it is alpha x / (alpha^2 SPREAD^2 + sigma^2)."""
    for t in (0.1, 0.5, 0.9):
        a, s = float(PROCESS.alpha(np.array(t))), float(PROCESS.sigma(np.array(t)))
        share = jnp.float32(a * SPREAD**2 / (a**2 * SPREAD**2 + s**2))
        found = norm(PROCESS, lambda z, time, share=share: share[None] * z, t, jnp.float32(X))
        exact = np.sqrt(np.square(a * X / (a**2 * SPREAD**2 + s**2)).sum(axis=(1, 2)))
        np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_slopes_of_a_diffusion_model():
    check_noised_slope(diffusion_score_norm)
    rejects(check_noised_slope, lambda p, d, t, x: diffusion_score_norm(p, d, 1 - t, x))
    rejects(check_noised_slope, lambda p, d, t, x: diffusion_score_norm(p, lambda z, t: 0 * z, t, x))
    rejects(check_noised_slope, lambda p, d, t, x: float(p.sigma(np.array(t))) * diffusion_score_norm(p, d, t, x))
    rejects(check_noised_slope, lambda p, d, t, x: diffusion_score_norm(p, d, t, x / float(p.alpha(np.array(t)))))
    with pytest.raises(BadInput, match="no noise at t = 0"):
        diffusion_score_norm(rectified_flow(), lambda z, t: z, 0.0, X)


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

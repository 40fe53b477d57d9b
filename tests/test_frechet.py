"""The Frechet distance against closed forms of normals, and against its definition by a root of a product."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics.frechet import Moments, frechet_distance, moments

RNG = np.random.default_rng(0)


def covariance(size, rank=None):
    root = RNG.normal(size=(size, rank or size))
    return root @ root.T


NORMALS = [
    (Moments(RNG.normal(size=4), covariance(4)), Moments(RNG.normal(size=4), covariance(4))),
    (Moments(np.zeros(6), covariance(6, 3)), Moments(np.ones(6), covariance(6, 2))),  # singular, not commuting
    (Moments(np.zeros(3), np.zeros((3, 3))), Moments(np.ones(3), covariance(3))),  # a point
    (Moments(np.zeros(2), 1e8 * covariance(2)), Moments(np.zeros(2), 1e-4 * covariance(2))),
]


def check_distance(distance):
    """Closed forms: one dimension, commuting covariances, a rotation; the definition by SciPy's root elsewhere."""
    one = distance(Moments(np.array([1.0]), np.array([[4.0]])), Moments(np.array([-2.0]), np.array([[0.25]])))
    assert one == pytest.approx(9.0 + (2.0 - 0.5) ** 2, rel=1e-12)
    a, b, m = RNG.uniform(0.1, 3.0, size=(3, 5))
    turn = scipy.stats.ortho_group.rvs(5, random_state=1)
    of = lambda mean, values: Moments(turn @ mean, turn @ np.diag(values) @ turn.T)
    exact = np.sum(m**2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert distance(of(m, a), of(np.zeros(5), b)) == pytest.approx(exact, rel=1e-10)
    for first, second in NORMALS:
        roots = np.sqrt(np.linalg.eigvals(first.covariance @ second.covariance).astype(complex)).real.sum()
        whole = np.sum((first.mean - second.mean) ** 2) + np.trace(first.covariance) + np.trace(second.covariance)
        found = distance(first, second)
        assert found == pytest.approx(whole - 2 * roots, rel=1e-6, abs=1e-6)
        assert found == pytest.approx(distance(second, first), rel=1e-9, abs=1e-9)
        assert abs(distance(first, first)) < 1e-12 * (1.0 + np.trace(first.covariance))
    first, second = NORMALS[0]
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance).real
    assert whole_distance(first, second, np.trace(root)) == pytest.approx(distance(first, second), rel=1e-9)


def whole_distance(first, second, shared):
    shift = first.mean - second.mean
    return shift @ shift + np.trace(first.covariance) + np.trace(second.covariance) - 2 * shared


def test_distance_is_the_closed_form():
    check_distance(frechet_distance)


DISTANCES = {
    "the mean is not squared": lambda a, b: frechet_distance(a, b) - (s := np.sum((a.mean - b.mean) ** 2)) + s**0.5,
    "its root": lambda a, b: np.sqrt(np.abs(frechet_distance(a, b))),
    "without the mean": lambda a, b: frechet_distance(a._replace(mean=b.mean), b),
    "no root of the product": lambda a, b: whole_distance(a, b, np.trace(a.covariance @ b.covariance)),
    "the product's root by element": lambda a, b: whole_distance(
        a, b, np.trace(np.sqrt(np.abs(a.covariance @ b.covariance)))
    ),
    "variances alone": lambda a, b: whole_distance(a, b, np.sqrt(np.diag(a.covariance) * np.diag(b.covariance)).sum()),
    "the shared part once": lambda a, b: whole_distance(
        a, b, 0.5 * np.sqrt(np.linalg.eigvals(a.covariance @ b.covariance).astype(complex)).real.sum()
    ),
    "the distance of the roots": lambda a, b: (
        np.sum((a.mean - b.mean) ** 2)
        + np.sum(np.abs(scipy.linalg.sqrtm(a.covariance) - scipy.linalg.sqrtm(b.covariance)) ** 2)
    ),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize("mutant", DISTANCES.values(), ids=DISTANCES)
def test_distance_rejects(mutant):
    rejects(check_distance, mutant)


def check_moments(found):
    """NumPy's, of few rows and of a mean that is large beside the deviation."""
    for features in (RNG.normal(size=(5, 3)), 1e6 + RNG.normal(size=(200, 4)), RNG.normal(size=(3, 8))):
        mean, spread = found(features.astype(np.float32))
        exact = features.astype(np.float32).astype(np.float64)
        np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(spread, np.cov(exact, rowvar=False), rtol=1e-6, atol=1e-8)


def test_moments_are_numpys():
    check_moments(moments)


MOMENTS = {
    "by N": lambda x: Moments(x.mean(axis=0, dtype=np.float64), np.cov(x, rowvar=False, bias=True)),
    "not centred": lambda x: Moments(x.mean(axis=0, dtype=np.float64), x.T @ x / (len(x) - 1)),
    "in float32": lambda x: Moments(
        x.mean(axis=0), (x.T @ x - len(x) * np.outer(*2 * [x.mean(axis=0)])) / (len(x) - 1)
    ),
    "of the columns": lambda x: moments(x.T),
}


@pytest.mark.parametrize("mutant", MOMENTS.values(), ids=MOMENTS)
def test_moments_reject(mutant):
    rejects(check_moments, mutant)


def test_samples_of_known_normals():
    """The estimate from samples, less its bias at this N, which Binkowski et al. give the sign of: above the truth."""
    root, shift = np.linalg.cholesky(NORMALS[0][0].covariance), np.ones(4)
    exact = frechet_distance(Moments(np.zeros(4), np.eye(4)), Moments(shift, root @ root.T))
    errors = []
    for size in (400, 40_000):
        x, y = RNG.normal(size=(2, size, 4))
        errors.append(abs(frechet_distance(moments(x), moments(y @ root.T + shift)) - exact))
    assert errors[1] < 0.03 * exact and errors[1] < errors[0]
    biased = [frechet_distance(*map(moments, RNG.normal(size=(2, 50, 10)))) for _ in range(20)]
    assert min(biased) > 0


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: moments(np.zeros((1, 3))), "at least 2 rows"),
        (lambda: moments(np.zeros(3)), r"\[N, F\]"),
        (lambda: moments([[0.0], [np.nan]]), "not finite"),
        (lambda: frechet_distance(Moments(np.zeros(2), np.eye(2)), Moments(np.zeros(3), np.eye(3))), "2 and of 3"),
        (lambda: frechet_distance(Moments(np.zeros(2), np.eye(3)), Moments(np.zeros(2), np.eye(2))), r"\[F, F\]"),
        (lambda: frechet_distance(*2 * [Moments(np.zeros(2), np.full((2, 2), np.inf))]), "not finite"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(BadInput, match=told):
        call()

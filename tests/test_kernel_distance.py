"""The kernel distance is unbiased by enumeration, is its definition, and its standard error is one."""

import itertools

import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics.kernel import Estimate, kernel_distance, squared_mmd

POINTS = np.array([[-1.0, 0.5], [0.0, 2.0], [1.5, -1.0]])
P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
RNG = np.random.default_rng(0)


def kernel(x, y):
    return (np.dot(x, y) / len(x) + 1.0) ** 3


def exact_mmd(p, q):
    """E k(x, x') + E k(y, y') - 2 E k(x, y) over three points."""
    gram = np.array([[kernel(a, b) for b in POINTS] for a in POINTS])
    return p @ gram @ p + q @ gram @ q - 2 * p @ gram @ q


def check_unbiased(mmd, sizes=((2, 2), (2, 3), (3, 2))):
    """The mean over all samples of both laws, each with its probability."""
    for m, n in sizes:
        total = 0.0
        for x in itertools.product(range(3), repeat=m):
            for y in itertools.product(range(3), repeat=n):
                total += np.prod(P[list(x)]) * np.prod(Q[list(y)]) * mmd(POINTS[list(x)], POINTS[list(y)])
        assert total == pytest.approx(exact_mmd(P, Q), rel=1e-10)


def check_definition(mmd):
    """Two loops over all pairs, of features of several widths."""
    for width in (1, 3, 7):
        x, y = RNG.normal(size=(6, width)), 1 + RNG.normal(size=(4, width))
        within = lambda z: np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])
        across = np.mean([kernel(a, b) for a in x for b in y])
        assert mmd(x, y) == pytest.approx(within(x) + within(y) - 2 * across, rel=1e-10)


def test_the_estimate_is_unbiased():
    check_unbiased(squared_mmd)


def test_the_estimate_is_its_definition():
    check_definition(squared_mmd)


def by(x, y, degree=3, one=1.0, width=None, diagonal=False, twice=2.0):
    k = lambda a, b: (a @ b.T / (width or a.shape[1]) + one) ** degree
    inner = lambda z: k(z, z).mean() if diagonal else (k(z, z).sum() - np.trace(k(z, z))) / (len(z) * (len(z) - 1))
    return inner(x) + inner(y) - twice * k(x, y).mean()


MUTANTS = {
    "the diagonal counts": lambda x, y: by(x, y, diagonal=True),
    "divided by m squared": lambda x, y: (
        by(x, y)
        - sum((np.sum((z @ z.T / 2 + 1) ** 3) - np.trace((z @ z.T / 2 + 1) ** 3)) / len(z) ** 3 for z in (x, y))
    ),
    "squared": lambda x, y: by(x, y, degree=2),
    "no one": lambda x, y: by(x, y, one=0.0),
    "not by the width": lambda x, y: by(x, y, width=1),
    "across once": lambda x, y: by(x, y, twice=1.0),
    "never negative": lambda x, y: max(0.0, by(x, y)),
    "its root": lambda x, y: np.sign(by(x, y)) * abs(by(x, y)) ** 0.5,
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_unbiasedness_rejects(mutant):
    rejects(check_unbiased, mutant)


def test_the_definition_rejects():
    for name, mutant in MUTANTS.items():
        if name != "divided by m squared":  # written for two features
            rejects(check_definition, mutant)


def check_standard_error(distance):
    """Over 300 pairs of sets from two laws: the mean is the truth, and the squared errors have the mean spread."""
    rng = np.random.default_rng(5)
    draw = lambda law: POINTS[rng.choice(3, 60, p=law)]
    found = [distance(draw(P), draw(Q), rng, 6) for _ in range(300)]
    values, errors = (np.array(part) for part in zip(*found, strict=True))
    assert abs(values.mean() - exact_mmd(P, Q)) < 4 * values.std() / np.sqrt(300)
    assert np.mean(errors**2) == pytest.approx(values.var(), rel=0.3)  # 4 sd of a variance from 300


def test_the_standard_error_is_one():
    check_standard_error(kernel_distance)


def overlapping(real, fake, rng, size, subsets=100):
    """The usual program: subsets that overlap, and their standard deviation."""
    pick = lambda z: z[rng.choice(len(z), size, replace=False)]
    found = [squared_mmd(pick(real), pick(fake)) for _ in range(subsets)]
    return Estimate(np.mean(found), np.std(found))


ERRORS = {
    "the deviation over subsets": overlapping,
    "as if overlapping ones were independent": lambda *a: (e := overlapping(*a))._replace(
        standard_error=e.standard_error / 10
    ),
    "not divided": lambda *a: (e := kernel_distance(*a))._replace(standard_error=e.standard_error * np.sqrt(10)),
    "one subset": lambda r, f, g, m: kernel_distance(r, f, g, m)._replace(value=squared_mmd(r[:m], f[:m])),
    "the same rows twice": lambda r, f, g, m: kernel_distance(np.repeat(r, 2, axis=0), np.repeat(f, 2, axis=0), g, m),
}


@pytest.mark.parametrize("mutant", ERRORS.values(), ids=ERRORS)
def test_the_standard_error_rejects(mutant):
    rejects(check_standard_error, mutant)


def test_every_row_is_used_once():
    """Ten rows of each make two pairs of five: both kernel sums within are those of a partition."""
    real, fake = RNG.normal(size=(2, 10, 1))
    found = kernel_distance(real, fake, np.random.default_rng(2), 5)
    rng = np.random.default_rng(2)
    parts = [rng.permutation(10).reshape(2, 5) for _ in range(2)]
    pairs = [squared_mmd(real[a], fake[b]) for a, b in zip(*parts, strict=True)]
    assert found.value == pytest.approx(np.mean(pairs)) and sorted(parts[0].ravel()) == [*range(10)]
    assert found.standard_error == pytest.approx(abs(pairs[0] - pairs[1]) / 2)


@pytest.mark.parametrize(
    ("rows", "size", "told"), [(19, 10, "2 to 9"), (19, 1, "2 to 9"), (19, 0, "2 to 9"), (3, 2, "2 to 1")]
)
def test_too_few_rows(rows, size, told):
    with pytest.raises(BadInput, match=told):
        kernel_distance(np.zeros((rows, 2)), np.zeros((40, 2)), RNG, size)


def test_sets_that_do_not_compare():
    with pytest.raises(BadInput, match="the same F"):
        squared_mmd(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(BadInput, match="at least 2 rows"):
        squared_mmd(np.zeros((1, 2)), np.zeros((4, 2)))

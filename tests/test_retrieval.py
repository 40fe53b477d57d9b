"""Neighbours by brute force in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics.retrieval import neighbour_error, neighbour_labels, precision_at_k

DRAW = np.random.default_rng(0)
X, Y, LABELS = DRAW.normal(size=(20, 5)), DRAW.normal(size=(50, 5)) + 0.5, DRAW.integers(0, 3, size=50)


def check_neighbours(neighbour_labels):
    distance = np.linalg.norm(X[:, None] - Y[None], axis=-1)
    wanted = LABELS[np.argsort(distance, axis=1)[:, :7]]
    np.testing.assert_array_equal(neighbour_labels(jnp.float32(X), jnp.float32(Y), LABELS, 7), wanted)


def test_neighbours():
    check_neighbours(neighbour_labels)
    rejects(
        check_neighbours,
        lambda x, y, labels, k: neighbour_labels(x, y / jnp.linalg.norm(y, axis=1)[:, None], labels, k),
    )
    rejects(check_neighbours, lambda x, y, labels, k: neighbour_labels(-x, y, labels, k))


def check_error(neighbour_error):
    near = DRAW.integers(0, 3, size=(200, 5))
    wanted = []
    for row in near:
        counts = np.bincount(row, minlength=3)
        tied = [label for label in row if counts[label] == counts.max()]
        wanted.append(float(tied[0] != 1))
    wrong = np.asarray(neighbour_error(near, np.ones(200, int), 3))
    np.testing.assert_array_equal(wrong, wanted)
    assert neighbour_error(jnp.array([[0, 1, 1, 2, 3, 0]]), jnp.array([0]), 4).tolist() == [0.0]
    assert neighbour_error(jnp.array([[2, 1]]), jnp.array([2]), 3).tolist() == [0.0]


def test_error_and_precision():
    check_error(neighbour_error)
    rejects(check_error, lambda near, own, classes: neighbour_error(near[:, :1], own, classes))
    np.testing.assert_allclose(precision_at_k(np.array([[0, 1, 1], [2, 2, 0]]), np.array([1, 1])), [2 / 3, 0.0])


@pytest.mark.parametrize("k", [0, 51])
def test_bad_input(k):
    with pytest.raises(BadInput, match="k ="):
        neighbour_labels(jnp.float32(X), jnp.float32(Y), LABELS, k)
    with pytest.raises(BadInput, match="queries"):
        neighbour_labels(jnp.float32(X[:, :2]), jnp.float32(Y), LABELS, 1)

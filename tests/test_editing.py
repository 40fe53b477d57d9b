"""Inversion and directions where the answer is known: linear generators, by NumPy's least squares and eigenvectors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.samplers.editing import inverted, label_direction, principal_directions

KEY, RNG = jax.random.key(0), np.random.default_rng(0)
A = RNG.normal(size=(3, 7)).astype(np.float32)
X = RNG.normal(size=(5, 7)).astype(np.float32)


def check_inversion(invert):
    """Of images z A: ridge regression, for two weights of the penalty; and the smaller of two valleys."""
    for weight in (0.0, 3.0):
        exact = np.linalg.solve(A @ A.T + 0.5 * weight * np.eye(3), A @ X.T).T
        found = invert(lambda z: z @ A, X, 3, KEY, optax.adam(0.05), 1_500, 2, weight)
        np.testing.assert_allclose(found.z, exact, atol=2e-3)
        np.testing.assert_allclose(found.error, np.sum((exact @ A - X) ** 2, axis=1), rtol=1e-3)
    valleys = lambda z: jnp.stack([z[:, 0] ** 2, 0.3 * z[:, 0]], axis=-1)  # 1 is met at z = 1, and nearly at -1
    found = invert(valleys, jnp.broadcast_to(jnp.array([[1.0, 0.3]]), (4, 2)), 1, KEY, optax.adam(0.05), 500, 8)
    np.testing.assert_allclose(found.z, 1.0, atol=1e-2)


def check_best_start(invert):
    """Two exact answers, z = 1/3 and, steeper, 1: with a penalty the smaller counts, though its error is larger."""
    make = lambda z: (3 * z - 1) * (3 * z - 3) * jnp.exp(3 * z)
    found = invert(make, jnp.zeros((3, 1)), 1, KEY, optax.adam(0.01), 1_500, 16, 1.0)
    assert np.all(np.abs(found.z - 1 / 3) < 0.1)


def least_error(make, images, latents, key, tx, steps, starts, weight):
    found = [inverted(make, images, latents, k, tx, steps, 1, weight) for k in jax.random.split(key, starts)]
    best = np.argmin([one.error for one in found], axis=0)
    return found[0]._replace(z=np.stack([one.z for one in found])[best, np.arange(len(images))])


def test_the_best_start_is_told_by_error_and_penalty():
    check_best_start(inverted)
    rejects(check_best_start, least_error)


def one_start(make, images, latents, key, tx, steps, starts, weight=0.0):
    return inverted(make, images, latents, key, tx, steps, 1, weight)


def no_penalty(make, images, latents, key, tx, steps, starts, weight=0.0):
    return inverted(make, images, latents, key, tx, steps, starts)


def too_short(make, images, latents, key, tx, steps, starts, weight=0.0):
    return inverted(make, images, latents, key, tx, 20, starts, weight)


def test_inversion():
    check_inversion(inverted)
    for mutant in (one_start, no_penalty, too_short):
        rejects(check_inversion, mutant)


def check_directions(of):
    """h = z A + c: directions that, moved along, move h along its eigenvectors; shares are those of the eigenvalues."""
    z = RNG.normal(size=(4_000, 3)).astype(np.float32) @ np.diag([1.0, 2.0, 0.5]).astype(np.float32)
    h = z @ A + 3.0
    found = of(z, h, 3)
    values, vectors = np.linalg.eigh(np.cov(np.float64(h.T)))
    np.testing.assert_allclose(found.share, values[::-1][:3] / values.sum(), rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found.z, axis=1), 1.0, rtol=1e-5)
    moved = np.float64(found.z) @ A
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(np.sum(moved * vectors.T[::-1][:3], axis=1)), 1.0, atol=1e-3)


def test_principal_directions():
    check_directions(principal_directions)
    rejects(check_directions, lambda z, h, k: principal_directions(z, z, k))
    rejects(check_directions, lambda z, h, k: principal_directions(z, h + 10.0 * (np.arange(len(h)) % 2)[:, None], k))
    rejects(check_directions, lambda z, h, k: principal_directions(z[::-1], h, k))


def test_label_direction():
    """Of two normals it is the direction between their means, whatever the numbers of each."""
    step = np.array([1.0, 2.0, -2.0]) / 3
    label = (np.arange(3_000) < 500).astype(int)
    z = RNG.normal(size=(3_000, 3)) + 4.0 * label[:, None] * step
    np.testing.assert_allclose(label_direction(z, label), step, atol=0.05)
    np.testing.assert_allclose(label_direction(z, 1 - label), -step, atol=0.05)


@pytest.mark.parametrize(
    ("told", "call"),
    [
        ("starts = 0", lambda: inverted(lambda z: z, X, 7, KEY, optax.sgd(0.1), starts=0)),
        ("weight = -1", lambda: inverted(lambda z: z, X, 7, KEY, optax.sgd(0.1), weight=-1)),
        ("drawn ones", lambda: inverted(lambda z: z, X, 3, KEY, optax.sgd(0.1))),
        ("count = 8", lambda: principal_directions(np.ones((9, 3)), np.ones((9, 7)), 8)),
        ("labels .0.0.", lambda: label_direction(X, np.zeros(5))),
        ("labels .0.0, 1.0, 7.0.", lambda: label_direction(X, np.array([0, 1, 7, 0, 1]))),
        ("labels", lambda: label_direction(X, np.zeros(4))),
    ],
)
def test_bad_input(told, call):
    with pytest.raises(BadInput, match=told):
        call()

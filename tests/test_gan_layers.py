"""Layers of adversarial networks against NumPy, each with planted bugs; a set's measures in an evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.models.gan_layers import (
    EqualConv,
    EqualDense,
    doubled,
    halved,
    minibatch_stddev,
    pixel_norm,
)

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)


def check_equal(dense, conv):
    """Unit variance in, variance 2 out at the start, of any width; values by hand; the gradient is c times as large."""
    for width in (16, 512):
        x = jax.random.normal(KEY, (2_000, width))
        y, params = dense.init_with_output(jax.random.key(1), x)
        kernel = np.asarray(params["params"]["kernel"], np.float64)
        assert abs(kernel.std() - 1) < 0.05
        np.testing.assert_allclose(y, np.asarray(x, np.float64) @ kernel * np.sqrt(2 / width), rtol=1e-4, atol=1e-4)
    y, params = conv.init_with_output(jax.random.key(1), X)
    kernel = np.asarray(params["params"]["kernel"], np.float64)
    planes = [
        sum(scipy.signal.correlate2d(X[0, :, :, c], kernel[:, :, c, d], "same") for c in range(3)) for d in range(5)
    ]
    np.testing.assert_allclose(y[0], np.stack(planes, axis=-1) * np.sqrt(2 / 27), rtol=1e-4, atol=1e-4)


def test_equal_layers():
    check_equal(EqualDense(64), EqualConv(5))


@pytest.mark.parametrize(
    "planted",
    [
        (EqualDense(64, gain=1.0), EqualConv(5)),
        (EqualDense(64), EqualConv(5, gain=1.0)),
        (EqualDense(64), EqualConv(5, size=1)),
    ],
)
def test_equal_layers_reject(planted):
    rejects(check_equal, *planted)


def check_stddev(layer):
    """By NumPy, groups of 4 that stride through the batch; 0 for a collapsed one."""
    out = np.asarray(layer(X, 4))
    np.testing.assert_array_equal(out[..., :3], X)
    for first in range(2):
        own = X[first::2].astype(np.float64)
        np.testing.assert_allclose(out[first::2, ..., 3], own.std(axis=0).mean(), rtol=1e-5)
    alike = np.broadcast_to(X[:1], X.shape)
    np.testing.assert_allclose(layer(alike, 4)[..., 3], 0, atol=2e-4)


def all_of_the_batch(x, n):
    return minibatch_stddev(x, len(x))


def neighbours(x, n):
    order = np.arange(8).reshape(2, 4).T.ravel()
    return minibatch_stddev(jnp.asarray(x)[order], n)[np.argsort(order)]


def of_means(x, n):
    plain = minibatch_stddev(jnp.mean(jnp.asarray(x), axis=(1, 2), keepdims=True), n)[..., -1:]
    return jnp.concatenate([jnp.asarray(x), jnp.broadcast_to(plain, (*x.shape[:3], 1))], axis=-1)


def test_stddev():
    check_stddev(minibatch_stddev)
    for mutant in (all_of_the_batch, neighbours, of_means):
        rejects(check_stddev, mutant)


def check_pixel_norm(norm):
    exact = X.astype(np.float64) / np.sqrt((X.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(norm(X), exact, rtol=1e-5)


def test_pixel_norm():
    check_pixel_norm(pixel_norm)
    rejects(check_pixel_norm, lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True))
    rejects(check_pixel_norm, lambda x: x / jnp.sqrt(jnp.mean(jnp.square(x), axis=(1, 2), keepdims=True)))


def test_sizes():
    np.testing.assert_array_equal(doubled(X), np.kron(X, np.ones((1, 2, 2, 1), np.float32)))
    np.testing.assert_allclose(halved(doubled(X)), X, rtol=1e-6)
    by_hand = (X[:, ::2, ::2] + X[:, 1::2, ::2] + X[:, ::2, 1::2] + X[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(halved(X), by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("told", "call"),
    [
        ("groups of 3 in a batch of 8", lambda: minibatch_stddev(X, 3)),
        ("cannot be halved", lambda: halved(X[:, :3])),
    ],
)
def test_bad_input(told, call):
    with pytest.raises(BadInput, match=told):
        call()

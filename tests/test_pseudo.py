"""Pseudo-likelihood and fast weights: by enumeration and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from planted import rejects
from small_machines import D, V, law, lively, machine

from genjax.errors import BadInput
from genjax.likelihood.pseudo import log_pseudo_likelihood
from genjax.losses.energy import fast_weights, phase_difference


def check_pseudo(log_pseudo_likelihood):
    """The mean over 4,000 keys is sum_i log p(v_i | rest), from the table of p(v), within 5 standard errors."""
    model, variables = lively()
    log_p = np.log(law(variables)[0])
    turned = lambda i: np.arange(16) ^ (8 >> i)
    exact = sum(log_p - np.logaddexp(log_p, log_p[turned(i)]) for i in range(D))
    free_energy = machine(model, variables).free_energy
    one = jax.jit(jax.vmap(lambda key: log_pseudo_likelihood(free_energy, jnp.float32(V), key)))
    found = np.float64(one(jax.random.split(jax.random.key(0), 4_000)))
    assert np.all(np.abs(found.mean(0) - exact) < 5 * found.std(0) / np.sqrt(4_000) + 1e-4)


def test_pseudo_likelihood():
    check_pseudo(log_pseudo_likelihood)
    rejects(check_pseudo, lambda f, v, key: log_pseudo_likelihood(lambda v: -f(v), v, key))
    rejects(check_pseudo, lambda f, v, key: log_pseudo_likelihood(f, v, key) / D)
    rejects(check_pseudo, lambda f, v, key: log_pseudo_likelihood(f, v, jax.random.key(0)))


def check_fast(fast_weights):
    """Three updates by hand: phi decays by 0.95 and goes down the gradient at theta, not at theta + phi."""
    model, variables = lively(centred=False)
    data, samples = jnp.float32(V[[3, 9]]), jnp.float32(V[[1, 8, 12]])

    def loss(params):
        return jnp.mean(phase_difference(machine(model, {"params": params}).free_energy, data, samples))

    theta = variables["params"]
    h = lambda v: scipy.special.expit(v @ np.float64(theta["weight"]) + np.float64(theta["hidden"]))
    phase = lambda v: np.float64(v).T @ h(np.float64(v)) / len(v)
    gradient = phase(samples) - phase(data)
    phi, wanted = jax.tree.map(jnp.zeros_like, theta), np.zeros((D, 3))
    for _ in range(3):
        phi, wanted = fast_weights(loss, theta, phi, 0.2), 0.95 * wanted - 0.2 * gradient
    np.testing.assert_allclose(phi["weight"], wanted, atol=1e-5)
    assert np.abs(wanted).max() > 0.05


def test_fast_weights():
    check_fast(fast_weights)
    add = lambda theta, phi: jax.tree.map(jnp.add, theta, phi)
    rejects(check_fast, lambda loss, theta, phi, rate: fast_weights(loss, add(theta, phi), phi, rate))
    rejects(check_fast, lambda loss, theta, phi, rate: fast_weights(loss, theta, phi, -rate if rate < 0 else rate, 0.9))
    rejects(check_fast, lambda loss, theta, phi, rate: fast_weights(lambda p: -loss(p), theta, phi, rate))


@pytest.mark.parametrize("bad", [{"rate": 0.0}, {"rate": 0.1, "decay": 1.0}])
def test_bad_input(bad):
    with pytest.raises(BadInput, match="fast weights of rate"):
        fast_weights(lambda x: x, jnp.zeros(()), jnp.zeros(()), **bad)

"""A classifier as a model of images and labels: against the enumeration of a small world; Bayes' rule of normals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.corruption.schedules import cosine
from genjax.errors import BadInput
from genjax.likelihood.by_label import of_each_label
from genjax.likelihood.diffusion import continuous_bound, of_reals
from genjax.losses.energy import phase_difference
from genjax.losses.joint_energy import bounded_phases, joint_energy
from genjax.losses.semi_supervised import log_posterior

COUNTS = np.array([[1, 2, 3], [4, 1, 1], [2, 2, 8], [5, 3, 0.5]])  # of 4 images and 3 labels, p(x, y) in proportion
IMAGES = np.repeat(np.arange(4), (2 * COUNTS.sum(axis=1)).astype(int))  # images as often as p(x) has them


def check_energy(energy):
    """exp(-E) is the sum over labels, also where every logit is far from zero; shifts of the logits shift E."""
    logits = np.log(COUNTS)
    p = np.exp(-np.asarray(energy(jnp.float32(logits)), np.float64))
    np.testing.assert_allclose(p, COUNTS.sum(axis=1), rtol=1e-5)
    for shift in (-500.0, 500.0):
        moved = np.asarray(energy(jnp.float32(logits + shift)))
        np.testing.assert_allclose(moved, -np.log(COUNTS.sum(axis=1)) - shift, rtol=1e-6)


def test_the_energy_of_an_image_is_that_of_all_its_labels():
    check_energy(joint_energy)
    rejects(check_energy, lambda f: -joint_energy(f))
    rejects(check_energy, lambda f: -jnp.max(f, axis=1))
    rejects(check_energy, lambda f: -jnp.log(jnp.sum(jnp.exp(f), axis=1)))
    rejects(check_energy, lambda f: joint_energy(f) + jnp.log(3.0))
    with pytest.raises(BadInput, match=r"allowed: \[B, K\]"):
        joint_energy(jnp.zeros(3))


def of_table(table):
    """E of images that are numbers 0 to 3, one a row."""
    return lambda v: joint_energy(table[v[:, 0].astype(int)])


def check_gradient(phases):
    """With samples of the model itself the two losses have the gradient of -log p(x, y), by enumeration."""
    table = jnp.log(jnp.float32(COUNTS))
    x, y = jnp.array([0, 3, 2, 2, 1]), jnp.array([2, 0, 1, 2, 0])

    def exact(table):
        return -jnp.mean(table[x, y] - jax.nn.logsumexp(table))

    def parts(table):
        cross_entropy = -jnp.mean(jax.nn.log_softmax(table[x])[jnp.arange(5), y])
        samples = jnp.float32(IMAGES)[:, None]
        return cross_entropy + jnp.mean(phases(of_table(table), jnp.float32(x)[:, None], samples))

    np.testing.assert_allclose(jax.grad(parts)(table), jax.grad(exact)(table), atol=1e-5)


PHASES = {
    "exchanged": lambda e, x, s: bounded_phases(e, s, x),
    "no samples": lambda e, x, s: e(x),
    "their sum": lambda e, x, s: e(x) - jnp.sum(e(s)),
    "a penalty": lambda e, x, s: bounded_phases(e, x, s, 0.1),
    "samples of every image alike": lambda e, x, s: bounded_phases(e, x, jnp.arange(4.0)[:, None]),
}


def test_its_phases_and_the_cross_entropy_are_the_joint_likelihood():
    check_gradient(bounded_phases)


@pytest.mark.parametrize("mutant", PHASES.values(), ids=PHASES)
def test_the_joint_likelihood_rejects(mutant):
    rejects(check_gradient, mutant)


def test_the_penalty_is_that_of_both_sides_and_samples_are_constants():
    rng = np.random.default_rng(0)
    x, s, b = (jnp.float32(rng.normal(size=shape)) for shape in ((6, 2), (4, 2), 2))
    energy = lambda b: lambda v: v @ b
    found, plain = bounded_phases(energy(b), x, s, 0.3), phase_difference(energy(b), x, s)
    square = 0.3 * (np.asarray(x @ b) ** 2 + np.mean(np.asarray(s @ b) ** 2))
    np.testing.assert_allclose(found - plain, square, rtol=1e-5)
    assert not np.any(jax.grad(lambda s: bounded_phases(energy(b), x, s, 0.3).sum())(s))
    for bad in (((6, 2), (4, 3), 0.0), ((6, 2), (0, 2), 0.0), ((6, 2), (4, 2), -1.0)):
        with pytest.raises(BadInput):
            bounded_phases(energy(b), jnp.zeros(bad[0]), jnp.zeros(bad[1]), bad[2])


# -- Bayes' rule by bounds ---------------------------------------------------------------------------------------------

CENTRES, DEVIATION, TIMES = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]]), 0.7, 400
PROCESS, PRIOR, KEY = cosine(0.01, 0.995), np.log([0.5, 0.3, 0.2]), jax.random.key(3)
X = np.random.default_rng(1).normal(size=(200, 2)).astype(np.float32)


def diffusion(x, label, key):
    """The bound of a diffusion model whose denoiser is E[x | z] of N(centre, deviation^2)."""
    centre = jnp.float32(CENTRES)[label]

    def denoise(z, t):
        alpha, sigma = (part(t)[:, None] for part in (PROCESS.alpha, PROCESS.sigma))
        share = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        return centre + share * (z - alpha * centre)

    return -continuous_bound(PROCESS, denoise, of_reals(PROCESS), TIMES, x, key).total()


def check_bayes(bounds):
    """p(y | x) of normals with their exact denoisers is the known one, to a mean error of 0.04, from 400 times."""
    found = np.exp(np.asarray(log_posterior(bounds, PRIOR)))
    fit = -((X[:, None] - CENTRES[None]) ** 2).sum(axis=2) / (2 * DEVIATION**2) + PRIOR
    exact = np.exp(fit - np.logaddexp.reduce(fit, axis=1, keepdims=True))
    assert np.abs(found - exact).mean() < 0.04


def own_numbers(x, label, key):
    return diffusion(x, label, jax.random.fold_in(key, label[0]))


def test_a_diffusion_model_classifies_as_its_densities_do():
    bounds, own = (jax.jit(lambda key, one=one: of_each_label(one, 3, X, key))(KEY) for one in (diffusion, own_numbers))
    check_bayes(bounds)
    rejects(check_bayes, own)  # random numbers of their own for each label do not cancel
    rejects(check_bayes, bounds[:, ::-1])
    rejects(check_bayes, bounds[::-1])
    rejects(check_bayes, -bounds)
    rejects(check_bayes, bounds + PRIOR[None])


def test_labels_that_are_none():
    with pytest.raises(BadInput, match="classes = 0"):
        of_each_label(diffusion, 0, X, jax.random.key(0))
    with pytest.raises(BadInput, match=r"allowed: \[B\]"):
        of_each_label(lambda x, label, key: x, 2, X, jax.random.key(0))

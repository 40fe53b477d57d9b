"""rbm_labels: the classifier against a sum over all hidden states, labels that are held, and the sparsity penalty."""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from planted import rejects

from genjax.errors import BadInput
from genjax.fields import load
from genjax.losses.energy import sparsity
from genjax.models.rbm import Weights, machine
from genjax.models.visible import bernoulli_units, categorical_units, joined_units

PATH = Path(__file__).parent.parent / "experiments" / "rbm_labels.py"
KEY = jax.random.key(0)


def module():
    return sys.modules[load(PATH).function.__module__]


def small():
    """A machine of 3 pixels, a label of ten levels and 4 hidden units, its weights large."""
    keys = jax.random.split(KEY, 3)
    normal = lambda key, *shape: 2.0 * jax.random.normal(key, shape)
    weights = Weights(normal(keys[0], 13, 4), normal(keys[1], 13), normal(keys[2], 4))
    return weights, machine(weights, joined_units(bernoulli_units(3), categorical_units(1, 10)))


def check_posterior(log_posterior):
    """log p(y | x) of all x: exp(v b + h c + v W h) summed over the 16 hidden states in float64."""
    weights, of = small()
    w, b, c = (np.asarray(part, np.float64) for part in (weights.w, weights.b, weights.c))
    x = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    h = np.array(list(itertools.product([0.0, 1.0], repeat=4)))
    v = np.concatenate([np.repeat(x, 10, axis=0), np.tile(np.eye(10), (8, 1))], axis=1)
    joint = scipy.special.logsumexp((v @ b)[:, None] + h @ c + v @ w @ h.T, axis=1).reshape(8, 10)
    exact = joint - scipy.special.logsumexp(joint, axis=1, keepdims=True)
    np.testing.assert_allclose(log_posterior(of.free_energy, jnp.asarray(x, jnp.float32)), exact, atol=2e-5)


def test_posterior_is_exact():
    check_posterior(module().log_posterior)


def signs(free_energy, x):
    return module().log_posterior(lambda v: -free_energy(v), x)


def no_hidden(free_energy, x):
    b = small()[0].b
    return module().log_posterior(lambda v: -jnp.sum(v * b[None], axis=1), x)


def not_normalised(free_energy, x):
    return module().log_posterior(free_energy, x) + 0.01


@pytest.mark.parametrize("mutant", [signs, no_hidden, not_normalised])
def test_posterior_rejects(mutant):
    rejects(check_posterior, mutant)


def check_sparsity(penalty):
    """Two units by hand: t log(t / q) + (1 - t) log((1 - t) / (1 - q)), q over the batch; steeper where q is wrong."""
    activity = jnp.array([[0.1, 0.9], [0.3, 0.5], [0.2, 0.7]])  # q = 0.2, 0.7
    by_hand = sum(0.1 * np.log(0.1 / q) + 0.9 * np.log(0.9 / (1 - q)) for q in (0.2, 0.7))
    np.testing.assert_allclose(penalty(activity, 0.1), by_hand, rtol=1e-5)
    slopes = jax.grad(lambda activity: penalty(activity, 0.1))(activity)  # (q - t) / (q (1 - q)) / B
    np.testing.assert_allclose(slopes, np.tile([0.1 / 0.16 / 3, 0.6 / 0.21 / 3], (3, 1)), rtol=1e-5)


def test_sparsity():
    check_sparsity(sparsity)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda a, t: jnp.sum(jax.vmap(lambda row: sparsity(row[None], t))(a)) / len(a),  # of each row, not their mean
        lambda a, t: sparsity(a, t) / a.shape[1],
        lambda a, t: sparsity(jnp.full_like(a, t), float(t) + 0.1),
        lambda a, t: sparsity(1 - a, t),
    ],
)
def test_sparsity_rejects(mutant):
    rejects(check_sparsity, mutant)


def measured(**options):
    """Means of the measures of 250 validation images after 1,000 updates of a machine of 30 units."""
    experiment = load(PATH).function(hidden=30, steps=1_000, learning_rate=1.0, **options)
    stage, evaluation = experiment.stages[0], experiment.evaluations["validation"]
    batch = lambda step: stage.data.batch(stage.data.resident, KEY, step)
    update = lambda state, _: (stage.learner.update(state, batch(state.step), KEY)[0], None)
    state = jax.jit(lambda: jax.lax.scan(update, stage.learner.init(KEY, batch(0)), None, 1_000)[0])()
    split = evaluation.split
    found = evaluation.measure(state, split.prepare(jax.tree.map(jnp.asarray, split.arrays), KEY), KEY)
    return {name: float(jnp.mean(part)) for name, part in found.items()}


def test_labels_are_learned_and_units_made_sparse():
    plain, sparse = measured(), measured(sparse=0.05)
    assert plain["error"] < 25 and plain["nll"] < 1.0  # chance: 90 and 2.303
    assert sparse["activity"] < plain["activity"] - 10 and sparse["error"] < 25
    drawn = measured(labelled=0.0, generative=1.0)
    assert drawn["error"] < 40  # by the difference of phases alone


def test_both_weights_zero_are_refused():
    with pytest.raises(BadInput, match="generative"):
        load(PATH).function(generative=0.0, labelled=0.0)

"""Conditional RBMs of 4 x 3 units: every state of every condition enumerated in float64, and log Z row by row."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from planted import rejects
from small_machines import HIDDEN, KEY, D, H, V, chi_square

from genjax.errors import BadInput
from genjax.likelihood.ais import temperatures
from genjax.losses.energy import paired_phases
from genjax.models.conditional_rbm import ConditionalRBM, each_row, exact_rows, rows_back, rows_there
from genjax.models.rbm import gibbs_step, machine
from genjax.models.visible import bernoulli_units, one_hot
from genjax.samplers.gibbs import run_chain

LABELS = 3
UNITS = bernoulli_units(D)
MODEL = ConditionalRBM(UNITS, H)
Y = np.concatenate([np.eye(LABELS), [[0.0, 0.0, 0.0], [0.5, -1.0, 2.0]]]).astype(np.float32)  # a row is a condition


def lively(scale=1.0):
    """Parameters of size `scale`, by the shapes of the model."""
    draw = np.random.default_rng(3)
    shapes = jax.eval_shape(MODEL.init, KEY, jnp.zeros((1, D)), Y[:1])
    return jax.tree.map(lambda leaf: np.float32(scale * draw.normal(size=leaf.shape)), shapes)


VARIABLES, ROUGH = lively(), lively(2.0)


def table(y, variables=VARIABLES):
    """E(v, h | y) of all states, [16, 8], by the definition."""
    own = jax.tree.map(np.float64, variables["params"])
    b, c = (own[side]["bias"] + y @ own[side]["kernel"] for side in "bc")
    return -(V @ b)[:, None] - (HIDDEN @ c)[None] - V @ own["weight"] @ HIDDEN.T


def laws(variables=VARIABLES, conditions=Y):
    """p(v | y) [B, 16] of every condition, and log Z(y) [B]."""
    log_p = np.stack([scipy.special.logsumexp(-table(y, variables), axis=1) for y in conditions])
    log_z = scipy.special.logsumexp(log_p, axis=1)
    return np.exp(log_p - log_z[:, None]), log_z


def weights_of(y, variables=VARIABLES):
    return MODEL.apply(variables, y, method="weights")


def exact_samples(probability, count, seed=0):
    """v [B, count, 4] from the law of each row."""
    draw = np.random.default_rng(seed)
    return jnp.float32(np.stack([V[draw.choice(16, size=count, p=p)] for p in probability]))


MUTANTS = {
    "y moves no hidden bias": lambda y: weights_of(y)._replace(c=weights_of(0 * y).c),
    "y moves no visible bias": lambda y: weights_of(y)._replace(b=weights_of(0 * y).b),
    "the biases of the row before": lambda y: weights_of(jnp.roll(y, 1, axis=0)),
    "the biases of the first row for all": lambda y: weights_of(0 * y + y[:1]),
    "the biases are those of y alone": lambda y: weights_of(y)._replace(
        c=weights_of(y).c - VARIABLES["params"]["c"]["bias"][None]
    ),
}


# -- energies ----------------------------------------------------------------------------------------------------------


def check_energies(weights_of):
    """Energies, free energies, conditionals of all states of all conditions, a row each, and every log Z(y)."""
    y, v, h = (jnp.float32(np.stack(part)) for part in zip(*itertools.product(Y, V, HIDDEN), strict=True))
    exact, log_z = np.stack([table(each) for each in Y]), laws()[1]
    of = machine(weights_of(y), UNITS)
    np.testing.assert_allclose(of.energy(v, h), exact.ravel(), atol=1e-5)
    free = -scipy.special.logsumexp(-exact, axis=2)[:, :, None] + 0 * exact
    np.testing.assert_allclose(of.free_energy(v), free.ravel(), atol=1e-5)
    hidden_free = -scipy.special.logsumexp(-exact, axis=1)[:, None, :] + 0 * exact
    np.testing.assert_allclose(of.hidden_free_energy(h), hidden_free.ravel(), atol=1e-5)
    joint = np.exp(-exact - log_z[:, None, None])
    given_v = (joint / joint.sum(2, keepdims=True)) @ HIDDEN
    np.testing.assert_allclose(jax.nn.sigmoid(of.hidden_logits(v)), given_v.repeat(8, axis=1).reshape(-1, H), atol=1e-5)
    given_h = np.swapaxes(joint / joint.sum(1, keepdims=True), 1, 2) @ V
    found = of.visible_mean(h).reshape(len(Y), 16, 8, D)
    np.testing.assert_allclose(found, np.broadcast_to(given_h[:, None], found.shape), atol=1e-5)
    np.testing.assert_allclose(exact_rows(weights_of(Y), UNITS), log_z, rtol=1e-5)
    assert np.ptp(log_z) > 1.0


def test_energies():
    check_energies(weights_of)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_energies_reject(mutant):
    rejects(check_energies, mutant)


def check_normalised(log_z):
    """sum_v p(v | y) = 1 for each y; of labels, too."""
    for y in (Y, np.asarray(one_hot(jnp.arange(LABELS)[:, None], LABELS))):
        rows, v = jnp.repeat(jnp.asarray(y), 16, axis=0), jnp.tile(jnp.float32(V), (len(y), 1))
        log_p = -MODEL.apply(VARIABLES, v, rows).reshape(-1, 16) - log_z(weights_of(y))[:, None]
        np.testing.assert_allclose(np.exp(np.float64(log_p)).sum(axis=1), 1.0, atol=1e-5)


def test_every_condition_has_its_own_law():
    check_normalised(lambda weights: exact_rows(weights, UNITS))
    rejects(check_normalised, lambda weights: exact_rows(weights, UNITS)[:1] + 0 * exact_rows(weights, UNITS))
    rejects(check_normalised, lambda weights: exact_rows(weights._replace(c=0 * weights.c), UNITS))


def check_more_rows_than_a_chunk(exact_rows):
    """77 conditions, more than are taken together and no multiple of that."""
    y = np.random.default_rng(1).normal(size=(77, LABELS)).astype(np.float32)
    np.testing.assert_allclose(exact_rows(weights_of(y), UNITS), laws(conditions=y)[1], rtol=1e-5)


def test_more_rows_than_a_chunk():
    check_more_rows_than_a_chunk(exact_rows)
    rejects(check_more_rows_than_a_chunk, lambda *given: jnp.sort(exact_rows(*given)))


# -- annealing, row by row ---------------------------------------------------------------------------------------------

WALKS = 2_000


def check_rows(there, back):
    """E w = Z / Z_0 and E 1/w = Z_0 / Z of every row, within 5 standard errors of 2,000 walks; both estimates of every
    row within 5 of theirs of its own log Z."""
    weights, betas = weights_of(Y, ROUGH), temperatures((6, 1.0))
    probability, log_z = laws(ROUGH)
    base = np.logaddexp(0, np.float64(weights.b)).sum(axis=1) + H * np.log(2)
    low = jax.jit(lambda key: there(weights, UNITS, WALKS, betas, key))(KEY)
    high = jax.jit(lambda v: back(weights, UNITS, v, betas, KEY))(exact_samples(probability, WALKS))
    for found, ratio in ((low, log_z - base), (high, base - log_z)):
        assert found.value.shape == found.standard_error.shape == (len(Y),)
        w = np.exp(np.float64(found.log_weights) - ratio[:, None])
        assert np.all(np.abs(w.mean(axis=1) - 1) < 5 * w.std(axis=1) / np.sqrt(WALKS))
        assert np.all(np.abs(found.value - log_z) < 5 * found.standard_error) and np.all(found.standard_error < 0.2)
        spread = np.abs(np.corrcoef(np.asarray(found.log_weights)) - np.eye(len(Y)))
        assert spread.max() < 5 / np.sqrt(WALKS)  # the rows' walks have nothing in common


def test_rows():
    check_rows(rows_there, rows_back)


def shared_key(weights, units, chains, betas, key):
    one = lambda own: rows_there(own._replace(b=own.b[None], c=own.c[None]), units, chains, betas, key)
    return jax.tree.map(lambda x: x[:, 0], each_row(one, weights))


ROW_MUTANTS = {
    "one estimate for all": (
        lambda *given: rows_there(*given)._replace(value=jnp.full(len(Y), rows_there(*given).value.mean())),
        rows_back,
    ),
    "one key for all rows": (shared_key, rows_back),
    "no hidden biases": (
        lambda weights, *rest: rows_there(weights._replace(c=0 * weights.c), *rest),
        rows_back,
    ),
    "the machine of another row": (
        rows_there,
        lambda weights, *rest: rows_back(weights._replace(c=jnp.roll(weights.c, 1, axis=0)), *rest),
    ),
    "back from samples of another row": (
        rows_there,
        lambda weights, units, v, *rest: rows_back(weights, units, jnp.roll(v, 1, axis=0), *rest),
    ),
}


@pytest.mark.parametrize("mutant", ROW_MUTANTS.values(), ids=ROW_MUTANTS)
def test_rows_reject(mutant):
    rejects(check_rows, *mutant)


# -- chains and gradients ----------------------------------------------------------------------------------------------


def check_chains(weights_of):
    """20,000 chains a condition, side by side, that start at p(v | y) are there after three steps: chi-square."""
    probability, _ = laws()
    start, y = exact_samples(probability, 20_000), jnp.repeat(jnp.asarray(Y), 20_000, axis=0)
    step = gibbs_step(machine(weights_of(y), UNITS))
    end = jax.jit(lambda v: run_chain(step, v, KEY, 3))(start.reshape(-1, D)).reshape(start.shape)
    assert float(jnp.mean(jnp.abs(end - start))) > 0.1
    assert min(chi_square(v, p) for v, p in zip(end, probability, strict=True)) > 1e-4


def test_chains():
    check_chains(weights_of)


@pytest.mark.parametrize("mutant", [*MUTANTS][:2])
def test_chains_reject(mutant):
    rejects(check_chains, MUTANTS[mutant])


def check_gradient(phases):
    """With 40,000 exact samples a row, its gradient is that of the exact -log p(v | y): within 5 standard errors."""
    count, v = 40_000, jnp.float32(V[[3, 9, 14, 6, 0]])
    samples = exact_samples(laws()[0], count).reshape(-1, D)
    repeated = lambda rows: jnp.repeat(jnp.asarray(rows), count, axis=0)

    def exact(params):
        weights = weights_of(Y, params)
        return jnp.mean(machine(weights, UNITS).free_energy(v) + exact_rows(weights, UNITS))

    def sampled(params):
        of = machine(weights_of(repeated(Y), params), UNITS)
        return jnp.mean(phases(of.free_energy, repeated(v), samples))

    expected, found = jax.grad(exact)(VARIABLES), jax.jit(jax.grad(sampled))(VARIABLES)
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected)) > 0.05
    size = float(np.abs(Y).max()) / np.sqrt(5 * count)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=5 * size), expected, found)


def test_the_gradient_is_the_difference_of_phases():
    check_gradient(paired_phases)
    rejects(check_gradient, lambda free, data, samples: free(data))
    rejects(check_gradient, lambda free, data, samples: paired_phases(free, samples, data))
    rejects(check_gradient, lambda free, data, samples: paired_phases(free, data, jnp.roll(samples, 40_000, axis=0)))
    rejects(check_gradient, lambda free, data, samples: paired_phases(free, data, samples[:, ::-1]))


BAD = {
    r"conditions of shape \[3\]": lambda: weights_of(jnp.zeros(3)),
    "hidden = 0": lambda: ConditionalRBM(UNITS, 0).init(KEY, jnp.zeros((1, D)), Y[:1]),
    r"v has shape \[5, 3\]": lambda: MODEL.apply(VARIABLES, jnp.zeros((5, 3)), Y),
    r"data \[2, 4\], samples \[1, 4\]": lambda: paired_phases(lambda v: v[:, 0], jnp.zeros((2, 4)), jnp.zeros((1, 4))),
    r"chains of shape \[0, 4\]": lambda: rows_there(weights_of(Y), UNITS, 0, temperatures((2, 1.0)), KEY),
    "enumeration of 30 units": lambda: exact_rows(
        ConditionalRBM(UNITS, 30).init_with_output(KEY, Y, method="weights")[0], UNITS
    ),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_input(message, call):
    with pytest.raises(BadInput, match=message) as error:
        call()
    assert 2 <= len(error.value.lines) <= 3

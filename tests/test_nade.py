"""NADE: its fast form is the naive loop, its probabilities sum to 1 in every order; checks must find planted bugs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from binary_images import KEY, ROWS, bernoulli_sum, check_is_a_density, check_samples, dependence, wild
from planted import rejects

from genjax.errors import BadInput
from genjax.models.nade import NADE, nade_logits, sample_nade

ORDERS = {"as they stand": None, "another order": (3, 5, 0, 1, 4, 2)}


def numbers(dims, units, rows, seed=0):
    """x, w, v, b, c with biases of their own for each row."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (rows, dims))
    shapes = [(dims, units), (dims, units), (rows, dims), (rows, units)]
    return tuple(np.float32(a) for a in (x, *(rng.normal(size=shape) for shape in shapes)))


def naive(x, w, v, b, c):
    """Each conditional from its definition, in float64: O(D^2 H)."""
    x, w, v, b, c = (np.float64(a) for a in (x, w, v, b, c))
    logits = np.zeros_like(b)
    for d in range(x.shape[1]):
        hidden = scipy.special.expit(c + x[:, :d] @ w[:d])
        logits[:, d] = b[:, d] + hidden @ v[d]
    return logits


def check_fast_form(logits):
    """Equal to the naive loop within 1e-5 for chunks that divide D, that do not, of one, and longer than D."""
    for dims, chunk in ((6, 1), (6, 3), (7, 3), (10, 4), (5, 28)):
        parts = numbers(dims, 9, 4)
        np.testing.assert_allclose(logits(*parts, chunk), naive(*parts), atol=1e-5)


def test_fast_form_is_the_naive_loop():
    check_fast_form(nade_logits)


def shifted(x, w, v, b, c, chunk):
    """The activation is updated before the output: x_d reaches its own logit."""
    return nade_logits(jnp.pad(x[:, 1:], ((0, 0), (0, 1))), np.roll(w, -1, 0), v, b, c + x[:, :1] * w[:1], chunk)


def forgetful(x, w, v, b, c, chunk):
    """The activation is not carried from chunk to chunk."""
    pieces = [slice(start, start + chunk) for start in range(0, x.shape[1], chunk)]
    return jnp.concatenate([nade_logits(x[:, p], w[p], v[p], b[:, p], c, chunk) for p in pieces], axis=1)


FAST_MUTANTS = {
    "output after the update": shifted,
    "chunks forget": forgetful,
    "one row of hidden biases for all": lambda x, w, v, b, c, n: nade_logits(x, w, v, b, 0 * c + c[:1], n),
    "weights exchanged": lambda x, w, v, b, c, n: nade_logits(x, v, w, b, c, n),
}


@pytest.mark.parametrize("mutant", FAST_MUTANTS.values(), ids=FAST_MUTANTS)
def test_fast_form_rejects(mutant):
    rejects(check_fast_form, mutant)


def test_gradients_are_those_of_the_naive_loop():
    """All five gradients, through the recomputed chunks, within 1e-5 of central differences' place: the loop in JAX."""

    def loop(x, w, v, b, c):
        activation, logits = c, []
        for d in range(x.shape[1]):
            logits.append(b[:, d] + (jax.nn.sigmoid(activation) * v[d][None]).sum(-1))
            activation = activation + x[:, d, None] * w[d][None]
        return jnp.stack(logits, axis=1)

    parts = numbers(7, 5, 3)
    weight = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    gradients = lambda f: jax.jit(jax.grad(lambda *parts: (weight * f(*parts)).sum(), argnums=(0, 1, 2, 3, 4)))(*parts)
    ours, theirs = gradients(functools.partial(nade_logits, chunk=3)), gradients(loop)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_gradient_does_not_keep_every_activation():
    """At the published size the compiled gradient's buffers are less than the activations alone: B D H float32."""
    shapes = [(100, 784), (784, 500), (784, 500), (100, 784), (100, 500)]
    parts = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def needed(chunk):
        gradient = jax.jit(jax.grad(lambda x, w, v, b, c: nade_logits(x, w, v, b, c, chunk).sum(), argnums=(1, 2)))
        return gradient.lower(*parts).compile().memory_analysis().temp_size_in_bytes

    everything = 100 * 784 * 500 * 4
    assert needed(14) < 0.25 * everything
    assert needed(784) > everything  # one chunk keeps them all: the measure sees it


# -- the module --------------------------------------------------------------------------------------------------------


def built(order):
    model = NADE(6, 7, order, chunk=4)
    params = wild(model, ROWS)
    return model, params, jax.jit(lambda x: model.apply(params, x))


MODELS = {name: built(order) for name, order in ORDERS.items()}


def check_density(logits):
    check_is_a_density(bernoulli_sum(logits(ROWS), ROWS))


def check_dependence(logits, order):
    """Output d depends on exactly the dimensions at positions before its own."""
    order = np.arange(6) if order is None else np.array(order)
    np.testing.assert_array_equal(dependence(logits, (6,)), order[None, :] < order[:, None])


@pytest.mark.parametrize("name", ORDERS)
def test_density_and_order(name):
    _, _, logits = MODELS[name]
    check_density(logits)
    check_dependence(logits, ORDERS[name])


def test_density_and_order_reject():
    order = ORDERS["another order"]
    _, _, logits = MODELS["another order"]
    sequence = np.argsort(order)
    for mutant in (
        lambda x: logits(x)[:, sequence],  # given back in the model's order
        lambda x: logits(x[:, sequence]),  # the data permuted twice
        lambda x: logits(x) + 0.5 * x,  # x_d reaches its own logit
    ):
        rejects(check_dependence, mutant, order)
        rejects(check_density, mutant)
    rejects(check_dependence, MODELS["as they stand"][2], order)  # the order ignored: still a density
    rejects(check_dependence, lambda x: logits(x) * 0.0, order)


@pytest.mark.parametrize("name", ORDERS)
def test_samples(name):
    model, params, logits = MODELS[name]
    sample = lambda n, key: jax.jit(lambda key: model.apply(params, key, n, method="sample"))(key)
    log_p = bernoulli_sum(logits(ROWS), ROWS)
    check_samples(sample, log_p)
    if name == "another order":
        rejects(check_samples, lambda n, key: sample(n, key)[:, np.argsort(ORDERS[name])], log_p)


def test_biases_of_each_sample():
    """With biases of its own, each sample has its own distribution: rows of alternating biases, each half tested."""
    _, w, v, b, c = numbers(6, 5, 2, seed=4)
    logits = [nade_logits(ROWS, w, v, *(np.broadcast_to(a[i], (64, a.shape[1])) for a in (b, c))) for i in (0, 1)]
    rows = np.arange(40_000) % 2
    drawn = np.asarray(jax.jit(sample_nade)(w, v, b[rows], c[rows], KEY))
    for i in (0, 1):
        check_samples(lambda n, key, i=i: drawn[i::2], bernoulli_sum(logits[i], ROWS))
    rejects(check_samples, lambda n, key: drawn[1::2], bernoulli_sum(logits[0], ROWS))


def test_refusals():
    with pytest.raises(BadInput, match="no permutation"):
        NADE(6, 2, (0, 1, 2, 3, 4, 4)).init(KEY, ROWS)
    with pytest.raises(BadInput, match=r"the model takes \[B, 5\]"):
        NADE(5, 2).init(KEY, ROWS)

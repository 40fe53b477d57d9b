"""Deep belief networks: everything against enumeration of all states of 4-3-3 units in float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from planted import rejects
from small_machines import HIDDEN, KEY, V, law, lively

from genjax.errors import BadInput
from genjax.likelihood.ais import enumerated_log_partition
from genjax.losses.wake_sleep import layers_nll, wake_sleep
from genjax.models.centering import uncentred
from genjax.models.dbn import (
    DBN,
    Layer,
    draw_down,
    draw_up,
    features,
    log_weights,
    logits_of,
    stacked,
    top_machine,
    upside_down,
)
from genjax.models.rbm import Weights

s = scipy.special.expit
TOP = np.array([*itertools.product((0.0, 1.0), repeat=3)])


def bottom(seed=0, scale=1.0):
    """The small machine without offsets, 4 x 3."""
    model, variables = lively(True, seed, scale)
    return uncentred(model.apply(variables, method="weights"))


def above(seed=5):
    draw = np.random.default_rng(seed)
    real = lambda *shape: draw.normal(size=shape).astype(np.float32)
    return Weights(real(3, 3), real(3), real(3))


def network():
    """Untied: generation and recognition differ."""
    plain = stacked(bottom(), above())
    return plain._replace(generation=tuple(Layer(1.5 * layer.w, layer.bias - 0.3) for layer in plain.generation))


def bernoulli(x, logits):
    """log p of every x [m, d] given every row of logits [n, d]: [n, m]."""
    return x @ logits.T * 1.0 - np.log1p(np.exp(logits)).sum(axis=1)[None]


def enumerated(dbn):
    """log p(h) [8], log p(v | h) [16, 8], log q(h | v) [16, 8], by the definitions, in float64."""
    w, b, c = (np.float64(x) for x in dbn.top[:3])
    joint = HIDDEN @ b[:, None] + (TOP @ c)[None] + HIDDEN @ w @ TOP.T
    log_h = scipy.special.logsumexp(joint, axis=1)
    down, up = ([np.float64(x) for x in layer] for layer in (dbn.generation[0], dbn.recognition[0]))
    given_h = bernoulli(V, HIDDEN @ down[0] + down[1])
    given_v = bernoulli(HIDDEN, V @ up[0] + up[1]).T
    return log_h - scipy.special.logsumexp(log_h), given_h, given_v, scipy.special.logsumexp(log_h)


def exact(dbn):
    log_h, given_h, _, _ = enumerated(dbn)
    return scipy.special.logsumexp(log_h[None] + given_h, axis=1)


def test_uncentred_is_the_same_law():
    model, variables = lively(True)
    of = uncentred(model.apply(variables, method="weights"))
    log_p = scipy.special.logsumexp(V @ of.b[:, None] + (HIDDEN @ of.c)[None] + V @ of.w @ HIDDEN.T, axis=1)
    np.testing.assert_allclose(np.exp(log_p - scipy.special.logsumexp(log_p)), law(variables)[0], atol=1e-6)


def check_tied(upside_down):
    """A machine under itself turned upside down has the law of the machine, whatever units are to spare."""
    _, variables = lively(True)
    for hidden in (4, 6):
        tied = upside_down(bottom(), hidden)
        w, b, c = (np.float64(x) for x in tied[:3])
        tops = np.array([*itertools.product((0.0, 1.0), repeat=hidden)])
        log_h = scipy.special.logsumexp(HIDDEN @ b[:, None] + (tops @ c)[None] + HIDDEN @ w @ tops.T, axis=1)
        log_h -= scipy.special.logsumexp(log_h)
        dbn = stacked(bottom(), tied)
        down = [np.float64(x) for x in dbn.generation[0]]
        given_h = bernoulli(V, HIDDEN @ down[0] + down[1])
        np.testing.assert_allclose(
            np.exp(scipy.special.logsumexp(log_h[None] + given_h, axis=1)), law(variables)[0], atol=1e-6
        )
        log_z = enumerated_log_partition(top_machine(dbn).free_energy, 3)
        bound = np.mean([log_weights(dbn, jnp.float32(V), jax.random.key(i)) for i in range(3)], axis=0) - log_z
        np.testing.assert_allclose(bound, np.log(law(variables)[0]), atol=1e-4)  # tight, without any noise


def test_a_tied_network_is_its_machine():
    check_tied(upside_down)
    rejects(check_tied, lambda below, hidden: upside_down(below, hidden)._replace(c=jnp.zeros(hidden)))
    rejects(check_tied, lambda below, hidden: upside_down(below._replace(w=-below.w), hidden))
    rejects(check_tied, lambda below, hidden: upside_down(below._replace(c=0 * below.c), hidden))


def check_bound(log_weights):
    """20,000 draws for each of all 16 v: E w = Z p(v), E log w is the enumerated bound and below log p (5 errors)."""
    dbn = network()
    log_h, given_h, given_v, log_z = enumerated(dbn)
    paths = log_h[None] + given_h - given_v
    wanted = np.sum(np.exp(given_v) * paths, axis=1)
    found = np.float64(jax.jit(lambda v: log_weights(dbn, v, KEY))(jnp.tile(jnp.float32(V), (20_000, 1))))
    log_w = found.reshape(20_000, 16) - log_z
    error = lambda x: 5 * x.std(axis=0) / np.sqrt(len(x)) + 1e-4
    assert np.all(np.abs(log_w.mean(axis=0) - wanted) < error(log_w))
    w = np.exp(log_w - exact(dbn)[None])
    assert np.all(np.abs(w.mean(axis=0) - 1) < error(w))
    assert np.all(wanted < exact(dbn)) and np.exp(wanted).sum() < 1
    five = scipy.special.logsumexp(log_w.reshape(-1, 5, 16), axis=1) - np.log(5)
    assert np.all(five.mean(axis=0) > wanted) and np.all(five.mean(axis=0) < exact(dbn) + error(five))


def test_the_bound():
    check_bound(log_weights)
    rejects(
        check_bound,
        lambda dbn, v, key: log_weights(dbn, v, key) - top_machine(dbn).free_energy(draw_up(dbn, v, key)[-1]),
    )
    rejects(
        check_bound,
        lambda dbn, v, key: log_weights(dbn._replace(generation=stacked(bottom(), above()).generation), v, key),
    )
    rejects(
        check_bound,
        lambda dbn, v, key: log_weights(dbn, v, key) + layers_nll(draw_up(dbn, v, key), logits_of(dbn.recognition)),
    )
    other_units = lambda dbn, v, key: log_weights(dbn, v[:, ::-1], key)
    rejects(check_bound, other_units)


def check_samples(draw_down):
    """40,000 exact states of the top layer, drawn down: chi-square against the exact p(v), p > 1e-4."""
    dbn = network()
    log_h, *_ = enumerated(dbn)
    h = jnp.float32(HIDDEN[np.random.default_rng(0).choice(8, size=40_000, p=np.exp(log_h))])
    units = draw_down(dbn, h, KEY)
    np.testing.assert_array_equal(units[-1], h)
    counts = np.bincount(np.asarray(units[0], int) @ [8, 4, 2, 1], minlength=16)
    assert scipy.stats.chisquare(counts, np.exp(exact(dbn)) * 40_000).pvalue > 1e-4


def test_samples():
    check_samples(draw_down)
    swapped = lambda dbn: dbn._replace(
        generation=tuple(Layer(l.w.T, r.bias) for l, r in zip(dbn.recognition, dbn.generation, strict=True))
    )
    rejects(check_samples, lambda dbn, h, key: draw_down(swapped(dbn), h, key))


def check_gradients(wake_sleep):
    """The delta rules by hand: of G (v - s(G h + g)) h', of R (h - s(R v' + r)) v' in the dream."""
    dbn = network()
    awake = draw_up(dbn, jnp.float32(V[:3]), KEY)
    dreamt = draw_down(dbn, jnp.float32(HIDDEN[2:7]), KEY)

    def loss(dbn):
        return jnp.mean(wake_sleep(awake, dreamt, logits_of(dbn.generation), logits_of(dbn.recognition)))

    found = jax.grad(loss)(dbn)
    (v, h), (dream_v, dream_h) = ([np.float64(x) for x in units] for units in (awake, dreamt))
    arrays = lambda layer: Layer(*map(np.float64, layer))
    down, up = arrays(dbn.generation[0]), arrays(dbn.recognition[0])
    of_down, of_up = v - s(h @ down.w + down.bias), dream_h - s(dream_v @ up.w + up.bias)
    np.testing.assert_allclose(found.generation[0].w, -h.T @ of_down / 3, atol=1e-6)
    np.testing.assert_allclose(found.generation[0].bias, -of_down.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.recognition[0].w, -dream_v.T @ of_up / 5, atol=1e-6)
    np.testing.assert_allclose(found.recognition[0].bias, -of_up.mean(axis=0), atol=1e-6)
    assert all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(found.top))


def test_wake_sleep():
    check_gradients(wake_sleep)
    rejects(check_gradients, lambda awake, dreamt, down, up: wake_sleep(dreamt, awake, down, up))
    rejects(check_gradients, lambda awake, dreamt, down, up: -wake_sleep(awake, dreamt, down, up))


def test_features_are_the_means_of_each_layer():
    dbn = stacked(bottom(), above())
    first = s(V @ np.float64(bottom().w) + np.float64(bottom().c))
    found = features(dbn, jnp.float32(V))
    np.testing.assert_allclose(found[0], first, atol=1e-6)
    np.testing.assert_allclose(found[1], s(first @ above().w + above().c), atol=1e-6)


def test_bad_input():
    with pytest.raises(BadInput, match="layer 2 has 4 visible units, the layer below 3 hidden ones"):
        stacked(bottom(), bottom())
    with pytest.raises(BadInput, match="no machines"):
        stacked()
    with pytest.raises(BadInput, match="hidden = 2 above 4"):
        upside_down(bottom(), 2)
    with pytest.raises(BadInput, match="2 layers of units, 2 functions"):
        layers_nll([jnp.zeros((1, 2))] * 2, [lambda x: x] * 2)
    assert isinstance(stacked(bottom()), DBN) and stacked(bottom()).recognition == ()

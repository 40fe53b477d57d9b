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
    """4-3-3-3, untied: generation and recognition differ, and so do the two directed layers."""
    plain = stacked(bottom(), above(6), above())
    return plain._replace(generation=tuple(Layer(1.5 * layer.w, layer.bias - 0.3) for layer in plain.generation))


def tied(dbn):
    """Generation by the weights of recognition."""
    return dbn._replace(generation=stacked(bottom(), above(6), above()).generation)


def bernoulli(x, logits):
    """log p of every x [m, d] given every row of logits [n, d]: [n, m]."""
    return x @ logits.T * 1.0 - np.log1p(np.exp(logits)).sum(axis=1)[None]


def enumerated(dbn):
    """log p(v, h1, h2) and log q(h1, h2 | v), [16, 8, 8], log p(h2) [8] and log Z, by the definitions, in float64."""
    w, b, c = (np.float64(x) for x in dbn.top[:3])
    log_h = scipy.special.logsumexp(HIDDEN @ b[:, None] + (TOP @ c)[None] + HIDDEN @ w @ TOP.T, axis=1)
    log_z = scipy.special.logsumexp(log_h)
    (g1, g2), (r1, r2) = (
        [[np.float64(x) for x in layer] for layer in side] for side in (dbn.generation, dbn.recognition)
    )
    v_given_h, h_given_g = bernoulli(V, HIDDEN @ g1[0] + g1[1]), bernoulli(HIDDEN, HIDDEN @ g2[0] + g2[1])
    h_given_v, g_given_h = bernoulli(HIDDEN, V @ r1[0] + r1[1]).T, bernoulli(HIDDEN, HIDDEN @ r2[0] + r2[1]).T
    joint = v_given_h[:, :, None] + h_given_g[None] + (log_h - log_z)[None, None]
    return joint, h_given_v[:, :, None] + g_given_h[None], log_h - log_z, log_z


def exact(dbn):
    return scipy.special.logsumexp(enumerated(dbn)[0], axis=(1, 2))


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
    joint, log_q, _, log_z = enumerated(dbn)
    wanted = np.sum(np.exp(log_q) * (joint - log_q), axis=(1, 2))
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
        lambda dbn, v, key: log_weights(
            dbn._replace(generation=stacked(bottom(), above(6), above()).generation), v, key
        ),
    )
    rejects(
        check_bound,
        lambda dbn, v, key: log_weights(dbn, v, key) + layers_nll(draw_up(dbn, v, key), logits_of(dbn.recognition)),
    )
    other_units = lambda dbn, v, key: log_weights(dbn, v[:, ::-1], key)
    rejects(check_bound, other_units)


def one_key(layers, first, key):
    """Every layer drawn with the same key."""
    units = [first]
    for of in logits_of(layers):
        uniform = jax.random.uniform(key, (len(first), 4))
        logits = of(units[-1])
        units.append((uniform[:, : logits.shape[1]] < jax.nn.sigmoid(logits)).astype(jnp.float32))
    return units


def weights_by_one_key(dbn, v, key):
    units = one_key(dbn.recognition, v, key)
    log_q, log_p = (
        -layers_nll(units, logits_of(dbn.recognition)),
        -layers_nll(units[::-1], logits_of(dbn.generation[::-1])),
    )
    return log_p - top_machine(dbn).free_energy(units[-1]) - log_q


def test_a_key_for_each_layer():
    rejects(check_bound, weights_by_one_key)
    rejects(check_samples, lambda dbn, h, key: one_key(dbn.generation[::-1], h, key)[::-1])
    other_order = lambda dbn: dbn._replace(
        generation=(dbn.generation[0], dbn.generation[1]._replace(w=dbn.generation[1].w.T))
    )
    rejects(check_samples, lambda dbn, h, key: draw_down(other_order(dbn), h, key))


def check_samples(draw_down):
    """40,000 exact states of the top layer, drawn down: chi-square against the exact p(v), p > 1e-4."""
    dbn = network()
    _, _, log_h, _ = enumerated(dbn)
    h = jnp.float32(HIDDEN[np.random.default_rng(0).choice(8, size=40_000, p=np.exp(log_h))])
    units = draw_down(dbn, h, KEY)
    np.testing.assert_array_equal(units[-1], h)
    counts = np.bincount(np.asarray(units[0], int) @ [8, 4, 2, 1], minlength=16)
    assert scipy.stats.chisquare(counts, np.exp(exact(dbn)) * 40_000).pvalue > 1e-4


def test_samples():
    check_samples(draw_down)
    rejects(check_samples, lambda dbn, h, key: draw_down(tied(dbn), h, key))


def check_gradients(wake_sleep):
    """The delta rules by hand: of G (v - s(G h + g)) h', of R (h - s(R v' + r)) v' in the dream."""
    dbn = network()
    awake = draw_up(dbn, jnp.float32(V[:3]), KEY)
    dreamt = draw_down(dbn, jnp.float32(HIDDEN[2:7]), KEY)

    def loss(dbn):
        return jnp.mean(wake_sleep(awake, dreamt, logits_of(dbn.generation), logits_of(dbn.recognition)))

    found = jax.grad(loss)(dbn)
    arrays = lambda layer: Layer(*map(np.float64, layer))
    awake, dreamt = ([np.float64(x) for x in units] for units in (awake, dreamt))
    for number in range(2):
        down, up = arrays(dbn.generation[number]), arrays(dbn.recognition[number])
        low, high, dream_low, dream_high = awake[number], awake[number + 1], dreamt[number], dreamt[number + 1]
        of_down, of_up = low - s(high @ down.w + down.bias), dream_high - s(dream_low @ up.w + up.bias)
        np.testing.assert_allclose(found.generation[number].w, -high.T @ of_down / 3, atol=1e-6)
        np.testing.assert_allclose(found.generation[number].bias, -of_down.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(found.recognition[number].w, -dream_low.T @ of_up / 5, atol=1e-6)
        np.testing.assert_allclose(found.recognition[number].bias, -of_up.mean(axis=0), atol=1e-6)
    assert all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(found.top))


def test_wake_sleep():
    check_gradients(wake_sleep)
    rejects(check_gradients, lambda awake, dreamt, down, up: wake_sleep(dreamt, awake, down, up))
    rejects(check_gradients, lambda awake, dreamt, down, up: -wake_sleep(awake, dreamt, down, up))


def check_features(of):
    dbn = stacked(bottom(), above())
    first = s(V @ np.float64(bottom().w) + np.float64(bottom().c))
    found = of(dbn, jnp.float32(V))
    np.testing.assert_allclose(found[0], first, atol=1e-6)
    np.testing.assert_allclose(found[1], s(first @ above().w + above().c), atol=1e-6)


def test_features_are_the_means_of_each_layer():
    check_features(features)
    rejects(check_features, lambda dbn, v: [jnp.round(h) for h in features(dbn, v)])  # states
    rejects(check_features, lambda dbn, v: [features(dbn, v)[0], features(dbn, jnp.round(v * 0.9))[1] * 0.99])
    rejects(check_features, lambda dbn, v: features(dbn._replace(top=dbn.top._replace(c=0 * dbn.top.c)), v))


def test_bad_input():
    with pytest.raises(BadInput, match="layer 2 has 4 visible units, the layer below 3 hidden ones"):
        stacked(bottom(), bottom())
    with pytest.raises(BadInput, match="offsets or deviations"):
        stacked(bottom()._replace(mu=jnp.zeros(4)))
    with pytest.raises(BadInput, match="no machines"):
        stacked()
    with pytest.raises(BadInput, match="hidden = 2 above 4"):
        upside_down(bottom(), 2)
    with pytest.raises(BadInput, match="2 layers of units, 2 functions"):
        layers_nll([jnp.zeros((1, 2))] * 2, [lambda x: x] * 2)
    assert isinstance(stacked(bottom()), DBN) and stacked(bottom()).recognition == ()

"""The temporal convolutional network against loops, the reach of its outputs, its state, weight normalisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.models import tcn
from genjax.models.tcn import TCN, CausalConv, causal_convolve, receptive_field, weight_norm

KEY = jax.random.key(0)
B, T, D = 2, 9, 3
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
NET = TCN((4, 4, 5), taps=2)


@functools.cache
def parameters():
    """Random numbers for all, so that no norm is that of its V and no bias is zero."""
    rng, shapes = np.random.default_rng(1), jax.eval_shape(NET.init, KEY, X)
    return jax.tree.map(lambda leaf: np.float32(0.5 * rng.normal(size=leaf.shape)), shapes)


def apply(x, state=None):
    return NET.apply(parameters(), x, state)


# -- the convolution ---------------------------------------------------------------------------------------------------


def loops(x, kernel, dilation):
    """y_t = sum_j w_j x_{t - (k-1-j) d} in float64, with zeros before the start."""
    taps, y = len(kernel), np.zeros((*x.shape[:2], kernel.shape[-1]))
    for t in range(x.shape[1]):
        for j in range(taps):
            source = t - (taps - 1 - j) * dilation
            if source >= 0:
                y[:, t] += np.float64(x[:, source]) @ np.float64(kernel[j])
    return y


def padded(x, kernel, dilation):
    return causal_convolve(np.pad(x, [(0, 0), ((len(kernel) - 1) * dilation, 0), (0, 0)]), kernel, dilation)


def check_convolution(convolve):
    for taps, dilation in [(1, 1), (2, 1), (3, 1), (3, 2), (2, 4), (4, 3)]:
        kernel = np.random.default_rng(taps).normal(size=(taps, D, 5)).astype(np.float32)
        np.testing.assert_allclose(convolve(X, kernel, dilation), loops(X, kernel, dilation), atol=1e-5)


def test_convolution():
    check_convolution(padded)


def centred(x, kernel, dilation):
    span = (len(kernel) - 1) * dilation
    return causal_convolve(np.pad(x, [(0, 0), (span - span // 2, span // 2), (0, 0)]), kernel, dilation)


CONVOLUTIONS = {
    "taps reversed": lambda x, kernel, dilation: padded(x, kernel[::-1], dilation),
    "not dilated": lambda x, kernel, dilation: padded(x, kernel, 1),
    "padding on both sides": centred,
    "one step late": lambda x, kernel, dilation: padded(np.pad(x, [(0, 0), (1, 0), (0, 0)])[:, :-1], kernel, dilation),
}


@pytest.mark.parametrize("planted", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution_rejects(planted):
    rejects(check_convolution, planted)


def check_weight_norm(normalise):
    """Norms g over taps and inputs, the direction of V, and a gradient in V that is orthogonal to it: float64."""
    with jax.enable_x64(True):
        v, g = np.random.default_rng(1).normal(size=(3, 4, 5)), np.array([1.0, -2.0, 0.5, 3.0, 0.1])
        expected = g * v / np.sqrt(np.einsum("kcd,kcd->d", v, v))
        np.testing.assert_allclose(normalise(v, g), expected, rtol=1e-12)
        gradient = jax.grad(lambda v: jnp.sum(jnp.sin(normalise(v, g))))(v)
        assert np.abs(np.einsum("kcd,kcd->d", v, gradient)).max() < 1e-12 < np.abs(gradient).max()


def test_weight_norm():
    check_weight_norm(weight_norm)


def test_weight_norm_rejects():
    norm = lambda v, axis: jnp.sqrt(jnp.sum(v * v, axis=axis, keepdims=True))
    rejects(check_weight_norm, lambda v, g: v * g.reshape(1, 1, -1))
    rejects(check_weight_norm, lambda v, g: v * g.reshape(1, 1, -1) / norm(v, (0, 1, 2)))
    rejects(check_weight_norm, lambda v, g: v * g.reshape(1, 1, -1) / norm(v, (0,)))
    rejects(check_weight_norm, lambda v, g: v * g.reshape(1, 1, -1) / norm(v, (0, 1)) ** 2)
    rejects(check_weight_norm, lambda v, g: v * g.reshape(1, 1, -1) / jax.lax.stop_gradient(norm(v, (0, 1))))


# -- the network -------------------------------------------------------------------------------------------------------


def reference(x, params):
    """The blocks of Figure 1 in float64."""
    get = lambda *names: np.float64(functools.reduce(lambda tree, name: tree[name], names, params["params"]))
    x = np.float64(x)
    for level, width in enumerate(NET.widths):
        h = x
        for number in (0, 1):
            v, g = get(f"level_{level}_{number}", "direction"), get(f"level_{level}_{number}", "scale")
            kernel = v * g / np.sqrt(np.square(v).sum(axis=(0, 1)))
            h = np.maximum(loops(h, kernel, 2**level) + get(f"level_{level}_{number}", "bias"), 0)
        if x.shape[-1] != width:
            x = x @ get(f"level_{level}_skip", "kernel") + get(f"level_{level}_skip", "bias")
        x = np.maximum(x + h, 0)
    return x


def check_network(network):
    """float32 through three blocks, outputs of a few units: 1e-4."""
    expected = reference(X, parameters())
    assert 0.2 < np.mean(expected > 0) < 0.98 and expected.max() > 0.5
    np.testing.assert_allclose(network(X)[0], expected, atol=1e-4)


def test_network():
    check_network(apply)


CONVOLVE = tcn.causal_convolve
NETWORKS = {
    "no dilation": (
        "causal_convolve",
        lambda x, kernel, dilation: CONVOLVE(x[:, (len(kernel) - 1) * (dilation - 1) :], kernel, 1),
    ),
    "one step ahead": (
        "causal_convolve",
        lambda x, kernel, dilation: CONVOLVE(jnp.concatenate([x[:, 1:], x[:, :1]], axis=1), kernel, dilation),
    ),
    "one step late": (
        "causal_convolve",
        lambda x, kernel, dilation: CONVOLVE(jnp.concatenate([0 * x[:, :1], x[:, :-1]], axis=1), kernel, dilation),
    ),
    "no weight norm": ("weight_norm", lambda direction, scale: direction),
}


@pytest.mark.parametrize("name, planted", NETWORKS.values(), ids=NETWORKS)
def test_network_rejects(monkeypatch, name, planted):
    monkeypatch.setattr(tcn, name, planted)
    rejects(check_network, apply)


def reach(levels, taps):
    """For the last output, whether it depends on each input: steps back from the present, [T]."""
    net, steps = TCN((1,) * levels, taps, kernel_init=jax.nn.initializers.ones), 2 * (taps - 1) * 2**levels + 3
    x = jnp.ones((1, steps, 1))
    params = net.init(KEY, x)  # positive weights and inputs: no relu is closed, nothing cancels
    return np.asarray(jax.jacrev(lambda x: net.apply(params, x)[0][0, -1, 0])(x))[0, ::-1, 0] != 0


def check_receptive_field(formula=receptive_field):
    """The last 1 + 2 (k-1) (2^L - 1) steps are seen, each of them, and none before, exactly."""
    for levels, taps in [(1, 2), (3, 2), (2, 3), (2, 5)]:
        seen = reach(levels, taps)
        np.testing.assert_array_equal(seen, np.arange(len(seen)) < formula(levels, taps))


def test_receptive_field():
    check_receptive_field()
    assert receptive_field(4, 5) == 121


def test_receptive_field_rejects(monkeypatch):
    rejects(check_receptive_field, lambda levels, taps: 1 + (taps - 1) * (2**levels - 1))
    rejects(check_receptive_field, lambda levels, taps: 2 * (taps - 1) * (2**levels - 1))
    rejects(check_receptive_field, lambda levels, taps: 1 + 2 * (taps - 1) * 2 ** (levels - 1))
    for name in ("no dilation", "one step ahead", "one step late"):
        monkeypatch.setattr(tcn, *NETWORKS[name])
        rejects(check_receptive_field)


def check_causality(network):
    """dy_t / dx_s is exactly 0 for s > t, and not on the diagonal; so padding behind a sequence changes nothing."""
    jacobian = np.asarray(jax.jit(jax.jacrev(lambda x: network(x)[0]))(X[:1]))[0, :, :, 0]  # [T, 5, T, D]
    seen = np.abs(jacobian).max(axis=(1, 3)) > 0
    assert not np.triu(seen, 1).any() and np.diag(seen).all()
    other = np.concatenate([X[:, :5], np.full((B, T - 5, D), 100.0, np.float32)], axis=1)
    np.testing.assert_array_equal(network(other)[0][:, :5], network(X)[0][:, :5])
    np.testing.assert_allclose(network(X[:, :5])[0], network(X)[0][:, :5], atol=1e-6)


def test_causality():
    check_causality(apply)


def test_causality_rejects(monkeypatch):
    monkeypatch.setattr(tcn, *NETWORKS["one step ahead"])
    rejects(check_causality, apply)


def check_pieces(network):
    """A sequence in pieces, each given the state after the one before, is the sequence as a whole: 1e-5."""
    whole, last = network(X)
    parts, state = [], NET.start(B, D)
    for piece in np.split(X, [1, 2, 6], axis=1):
        y, state = network(piece, state)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)
    for one, other in zip(state, last, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_pieces():
    check_pieces(apply)


def test_pieces_reject():
    rejects(check_pieces, lambda x, state=None: apply(x))
    rejects(check_pieces, lambda x, state=None: apply(x, state and (*state[:-1], 0 * state[-1])))
    rejects(check_pieces, lambda x, state=None: apply(x, state and tuple(jnp.roll(past, 1, axis=1) for past in state)))


# -- dropout, initial values, bad input -------------------------------------------------------------------------------


def check_dropout(draw):
    """A number is dropped with probability 1/4, on its own in time and channel (within five standard deviations)."""
    y = np.asarray(draw(jnp.ones((400, 6, 8)), jax.random.key(3)))
    off = (y == 0).astype(float) - 0.25
    for pairs in (off, off[:, 1:] * off[:, :-1], off[..., 1:] * off[..., :-1], off[1:] * off[:-1]):
        assert abs(pairs.mean()) < 5 * pairs.std() / np.sqrt(pairs.size)


def block(net, x, key):
    """The last layer of a block alone: the first convolution and the skip are zero, the second has a bias of 1."""
    params = jax.tree.map(jnp.zeros_like, net.init(KEY, x))
    params["params"]["level_0_1"]["bias"] += 1.0
    for conv in ("level_0_0", "level_0_1"):
        params["params"][conv]["direction"] += 1.0  # a zero has no direction
    return net.apply(params, x, rngs=None if key is None else {"dropout": key})[0]


def test_dropout():
    net = TCN((5,), dropout=0.25)
    check_dropout(lambda x, key: block(net, x, key))
    np.testing.assert_array_equal(block(net, jnp.ones((2, 3, 8)), None), 1.0)
    kept = np.unique(block(net, jnp.ones((20, 3, 8)), KEY))
    np.testing.assert_allclose(kept, [0.0, 1 / 0.75], rtol=1e-6)


def test_dropout_rejects(monkeypatch):
    net = TCN((5,), dropout=0.25)
    rejects(check_dropout, lambda x, key: block(TCN((5,), dropout=0.75), x, key))
    rejects(check_dropout, lambda x, key: block(net, x, None))
    whole_channels = functools.partial(tcn.nn.Dropout, broadcast_dims=(1,))
    monkeypatch.setattr(tcn.nn, "Dropout", whole_channels)
    rejects(check_dropout, lambda x, key: block(net, x, key))


def check_initial_values(layer):
    """V is uniform in +-1 / sqrt(k C) (variance within five standard errors), g = |V|, the bias 0: W starts as V."""
    params = layer.init(KEY, jnp.ones((1, 1, 40)), jnp.ones((1, 4, 40)))["params"]
    v = np.float64(params["direction"]) * np.sqrt(5 * 40)
    assert np.abs(v).max() <= 1 and abs(v.var() * 3 - 1) < 5 * np.sqrt(0.8 / v.size)
    assert abs(v.mean()) < 5 * np.sqrt(1 / 3 / v.size)
    np.testing.assert_allclose(weight_norm(params["direction"], params["scale"]), params["direction"], rtol=1e-5)
    np.testing.assert_array_equal(params["bias"], 0)


def test_initial_values():
    check_initial_values(CausalConv(30, 5))


def test_initial_values_reject():
    rejects(check_initial_values, CausalConv(30, 5, kernel_init=jax.nn.initializers.lecun_normal()))
    rejects(
        check_initial_values,
        CausalConv(30, 5, kernel_init=jax.nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")),
    )


def test_bad_input():
    with pytest.raises(BadInput, match="taps = 1"):
        TCN((4,), taps=1).init(KEY, jnp.ones((1, 2, 3)))
    with pytest.raises(BadInput, match=r"x has shape \[2, 3\]"):
        TCN((4,)).init(KEY, jnp.ones((2, 3)))

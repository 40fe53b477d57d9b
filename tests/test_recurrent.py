"""Recurrent networks against a few lines of NumPy, step by step, under masks, and their hand-written gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.models import recurrent
from genjax.models.frames import SILENT, NextFrame
from genjax.models.recurrent import GRU, LSTM, RNN, gatewise, gru_cell, lstm_cell, rnn_cell, unroll
from genjax.samplers.decode import Decoder, generate

KEY = jax.random.key(0)
B, T, D, H = 3, 6, 4, 5
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
NETWORKS = {"rnn": RNN(H), "gru": GRU(H), "lstm": LSTM(H)}
CELLS = {"rnn": rnn_cell, "gru": gru_cell, "lstm": lstm_cell}


@functools.cache
def parameters(name):
    """Initial values, with biases that tell the gates apart."""
    params = jax.jit(NETWORKS[name].init)(KEY, X)["params"]
    bias = params["input"]["bias"]
    params["input"]["bias"] = bias + 0.5 * jax.random.normal(KEY, bias.shape)
    return {"params": params}


def network(name):
    """(x, state, mask) -> (h, state), with fixed parameters; traced anew for every test, with what is planted."""
    params = parameters(name)
    return jax.jit(lambda x, state=None, mask=None: NETWORKS[name].apply(params, x, state, mask))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(name, x, params):
    """h [B, T, H] in float64, from the equations."""
    w, b, u = (np.float64(a) for a in (params["input"]["kernel"], params["input"]["bias"], params["recurrent"]))
    out, h, c = [], np.zeros((len(x), H)), np.zeros((len(x), H))
    for v in np.float64(x).swapaxes(0, 1):
        now, past = np.split(v @ w + b, w.shape[1] // H, axis=1), np.split(h @ u, w.shape[1] // H, axis=1)
        if name == "rnn":
            h = np.tanh(now[0] + past[0])
        elif name == "gru":
            r, z = sigmoid(now[0] + past[0]), sigmoid(now[1] + past[1])
            h = (1 - z) * np.tanh(now[2] + r * past[2]) + z * h
        else:
            i, f, g, o = (a + b for a, b in zip(now, past, strict=True))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.stack(out, axis=1)


def check_equations(name):
    """float32 against float64 over six steps: 1e-5."""
    expected = reference(name, X, parameters(name)["params"])
    np.testing.assert_allclose(network(name)(X)[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_equations(name):
    check_equations(name)


def exchanged(cell, gates, first, second):
    """A cell that takes the columns of one gate for those of another."""
    order = list(range(gates))
    order[first], order[second] = second, first
    swap = lambda a: jnp.concatenate([jnp.split(a, gates, axis=-1)[i] for i in order], axis=-1)
    return lambda x, a, state: cell(swap(x), swap(a), state)


def started_anew(cell):
    return lambda x, a, state: cell(x, 0 * a, tuple(0 * part for part in state))


def gru_forgetting_with_z(x, a, state):
    (xr, xz, xn), (ar, az, an) = jnp.split(x, 3, axis=-1), jnp.split(a, 3, axis=-1)
    z = jax.nn.sigmoid(xz + az)
    return (z * jnp.tanh(xn + jax.nn.sigmoid(xr + ar) * an) + (1 - z) * state[0],)


def gru_reset_on_inputs(x, a, state):
    (xr, xz, xn), (ar, az, an) = jnp.split(x, 3, axis=-1), jnp.split(a, 3, axis=-1)
    z = jax.nn.sigmoid(xz + az)
    return ((1 - z) * jnp.tanh(jax.nn.sigmoid(xr + ar) * (xn + an)) + z * state[0],)


def lstm_without_output_tanh(x, a, state):
    h, c = lstm_cell(x, a, state)
    return h / jnp.tanh(c) * c, c


PLANTED = {
    "gru: r and z exchanged": ("gru", exchanged(gru_cell, 3, 0, 1)),
    "gru: z and 1 - z exchanged": ("gru", gru_forgetting_with_z),
    "gru: reset of the inputs": ("gru", gru_reset_on_inputs),
    "lstm: i and f exchanged": ("lstm", exchanged(lstm_cell, 4, 0, 1)),
    "lstm: f and o exchanged": ("lstm", exchanged(lstm_cell, 4, 1, 3)),
    "lstm: h and c exchanged": ("lstm", lambda x, a, state: lstm_cell(x, a, state)[::-1]),
    "lstm: no tanh of c": ("lstm", lstm_without_output_tanh),
    **{f"{name}: the state not carried": (name, started_anew(cell)) for name, cell in CELLS.items()},
}


@pytest.mark.parametrize("name, cell", PLANTED.values(), ids=PLANTED)
def test_equations_reject(monkeypatch, name, cell):
    monkeypatch.setattr(recurrent, f"{name}_cell", cell)
    rejects(check_equations, name)


# -- steps, masks, causality -----------------------------------------------------------------------------------------


def check_steps(apply):
    """Step by step, each given the state after the one before, is the sequence as a whole: 1e-6."""
    whole, last = apply(X)
    parts, state = [], None
    for piece in np.split(X, T, axis=1):
        h, state = apply(piece, state)
        parts.append(h)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)
    for one, other in zip(state, last, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_steps(name):
    check_steps(network(name))


STEPS_PLANTED = {
    "the state not carried": ("gru", lambda apply: lambda x, state=None: apply(x)),
    "the state before the last step": (
        "gru",
        lambda apply: lambda x, state=None: (apply(x, state)[0], apply(x[:, :-1], state)[1]),
    ),
    "c not carried": ("lstm", lambda apply: lambda x, state=None: apply(x, state and (state[0], 0 * state[1]))),
    "h not carried": ("lstm", lambda apply: lambda x, state=None: apply(x, state and (0 * state[0], state[1]))),
}


@pytest.mark.parametrize("name, planted", STEPS_PLANTED.values(), ids=STEPS_PLANTED)
def test_steps_reject(name, planted):
    rejects(check_steps, planted(network(name)))


LENGTHS = np.array([2, 6, 2])


def check_padding(apply):
    """Whatever stands behind a sequence changes neither its outputs nor the state after it, to the bit."""
    mask = np.arange(T)[None] < LENGTHS[:, None]
    other = np.where(mask[..., None], X, 100.0).astype(np.float32)
    (h, state), (again, same) = apply(X, None, mask), apply(other, None, mask)
    np.testing.assert_array_equal(np.where(mask[..., None], h, 0), np.where(mask[..., None], again, 0))
    for row, length in enumerate(LENGTHS):
        alone, last = apply(X[row : row + 1, :length])
        np.testing.assert_allclose(h[row, :length], alone[0], atol=1e-6)
        for part, repeated, expected in zip(state, same, last, strict=True):
            np.testing.assert_array_equal(part[row], repeated[row])
            np.testing.assert_allclose(part[row], expected[0], atol=1e-6)
    held = np.array([1, 0, 1, 1, 0, 1], bool)  # steps left out in the middle
    skipped, _ = apply(X, None, np.broadcast_to(held, (B, T)))
    np.testing.assert_allclose(skipped[:, held], apply(X[:, held])[0], atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_padding(name):
    check_padding(network(name))


def through_padding(cell, keep, x, a, state):
    return cell(x, a, state)


def half_held(cell, keep, x, a, state):
    new = cell(x, a, state)
    return (jnp.where(keep > 0, new[0], state[0]), *new[1:])


def forgotten_at_padding(cell, keep, x, a, state):
    return tuple(jnp.where(keep > 0, part, 0) for part in cell(x, a, state))


@pytest.mark.parametrize("planted", [through_padding, half_held, forgotten_at_padding])
def test_padding_rejects(monkeypatch, planted):
    monkeypatch.setattr(recurrent, "_held", planted)
    rejects(check_padding, network("lstm"))


def check_causality(apply):
    """dh_t / dx_s is exactly 0 for s > t, and not for s <= t."""
    jacobian = jax.jit(jax.jacrev(lambda x: apply(x)[0]))(X[:1])[0, :, :, 0]  # [T, H, T, D]
    reach = np.abs(jacobian).max(axis=(1, 3))
    np.testing.assert_array_equal(reach > 0, np.tril(np.ones((T, T), bool)))


@pytest.mark.parametrize("name", NETWORKS)
def test_causality(name):
    check_causality(network(name))


def test_causality_rejects():
    apply = network("gru")
    rejects(check_causality, lambda x: (apply(x[:, ::-1])[0][:, ::-1], None))
    rejects(check_causality, lambda x: apply(jnp.concatenate([x[:, 1:], x[:, :1]], axis=1)))
    rejects(check_causality, lambda x: (apply(x)[0] + 1e-3 * jnp.mean(x), None))


def check_decoding(step):
    """The state as a decoder's cache: greedy tokens are those of the full forward pass, prompts of two lengths."""
    net = NextFrame(GRU(H), notes=D)
    params = jax.tree.map(lambda leaf: 3.0 * leaf, net.init(KEY, jnp.zeros((1, 1, D))))
    decoder = Decoder(
        lambda rows, positions: net.start(rows),
        lambda cache, tokens, position: step(lambda x, state: net.apply(params, x, state), tokens, cache),
    )
    greedy = lambda logits, counts, key: jnp.argmax(logits)
    prompts, lengths = np.array([[1, 2, 0], [3, 0, 0]]), np.array([3, 1])
    tokens, _ = jax.jit(lambda: generate(decoder, prompts, lengths, KEY, 8, greedy))()
    logits, _ = net.apply(params, jax.nn.one_hot(tokens, D))
    best = np.asarray(logits).argmax(axis=-1)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(tokens[row, :length], prompts[row, :length])
        np.testing.assert_array_equal(tokens[row, length:], best[row, length - 1 : -1])
    assert len(np.unique(tokens)) > 2


def test_decoding():
    check_decoding(lambda apply, tokens, cache: apply(jax.nn.one_hot(tokens, D), cache))


def test_decoding_rejects():
    forgetful = lambda apply, tokens, cache: (apply(jax.nn.one_hot(tokens, D), cache)[0], cache)
    rejects(check_decoding, forgetful)


# -- the gradient -----------------------------------------------------------------------------------------------------


def plain(cell, x, keep, kernel, state):
    """The same recurrence without a gradient of its own."""

    def step(state, now):
        new = cell(now[0], state[0] @ kernel, state)
        state = tuple(jnp.where(now[1] > 0, a, b) for a, b in zip(new, state, strict=True))
        return state, state[0]

    last, h = jax.lax.scan(step, state, (x, keep))
    return h, last


def gradients(function, cell):
    """Of a sum over outputs and last state, weighted at random, in inputs, matrix and first state."""
    rng = np.random.default_rng(1)
    gates, parts = {rnn_cell: (1, 1), gru_cell: (3, 1), lstm_cell: (4, 2)}[cell]
    x, kernel = rng.normal(size=(T, B, gates * H)), rng.normal(size=(H, gates * H))
    state = tuple(rng.normal(size=(B, H)) for _ in range(parts))
    keep = (rng.random((T, B, 1)) < 0.7).astype(np.float64)
    shape = jax.eval_shape(lambda: plain(cell, x, keep, kernel, state))
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shape)

    def value(x, kernel, state):
        return sum(
            jax.tree.leaves(jax.tree.map(lambda a, w: jnp.sum(w * a), function(cell, x, keep, kernel, state), weights))
        )

    first = jax.grad(value, argnums=(0, 1, 2))
    second = jax.grad(
        lambda *args: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(first(*args))), argnums=(0, 1, 2)
    )
    return jax.jit(lambda *args: (first(*args), second(*args)))(x, kernel, state)


def check_gradient(function, cell):
    """First and second derivatives in float64: 1e-9 of those of the plain scan."""
    with jax.enable_x64(True):
        for mine, theirs in zip(
            jax.tree.leaves(gradients(function, cell)), jax.tree.leaves(gradients(plain, cell)), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_gradient(cell):
    check_gradient(unroll, cell)


def with_backward(change):
    """`unroll` with a changed gradient."""
    function = jax.custom_vjp(lambda cell, *args: recurrent.unroll.fun(cell, *args), nondiff_argnums=(0,))
    function.defvjp(recurrent._forward, change)
    return function


def without_last(cell, saved, cotangents):
    return recurrent._backward(cell, saved, (cotangents[0], tuple(0 * part for part in cotangents[1])))


def states_after(cell, saved, cotangents):
    d_x, d_keep, _, d_state = recurrent._backward(cell, saved, cotangents)
    return (
        d_x,
        d_keep,
        jnp.einsum("tbh,tbg->hg", saved[-1][0], d_x),
        d_state,
    )  # of this cell, the gradients of x and a agree


def no_gradient_of_start(cell, saved, cotangents):
    *others, d_state = recurrent._backward(cell, saved, cotangents)
    return (*others, tuple(0 * part for part in d_state))


@pytest.mark.parametrize("change", [without_last, states_after, no_gradient_of_start])
def test_gradient_rejects(change):
    rejects(check_gradient, with_backward(change), rnn_cell)


# -- initial values and bad input --------------------------------------------------------------------------------------


def check_initial_values(init):
    """W of variance 1 / D (chi-square within five standard deviations), each gate's U orthogonal, the forget bias 1."""
    params = jax.jit(init)(KEY, np.zeros((1, 1, 64)))["params"]
    kernel, recurrent_kernel = np.float64(params["input"]["kernel"]), np.float64(params["recurrent"])
    assert abs(kernel.var() * 64 - 1) < 5 * np.sqrt(2 / kernel.size)
    blocks = recurrent_kernel.reshape(32, 4, 32).swapaxes(0, 1)
    np.testing.assert_allclose(blocks @ blocks.swapaxes(1, 2), np.broadcast_to(np.eye(32), (4, 32, 32)), atol=1e-5)
    assert np.abs(blocks[0] - blocks[1]).max() > 0.1
    np.testing.assert_array_equal(params["input"]["bias"].reshape(4, 32), np.repeat([[0], [1], [0], [0]], 32, axis=1))


def test_initial_values():
    check_initial_values(LSTM(32).init)


def test_initial_values_reject():
    changed = lambda **changes: lambda key, x: {"params": LSTM(32).init(key, x)["params"] | changes}
    rejects(check_initial_values, LSTM(32, recurrent_init=jax.nn.initializers.lecun_normal()).init)
    rejects(check_initial_values, LSTM(32, kernel_init=jax.nn.initializers.glorot_normal()).init)
    one_square = gatewise(lambda key, shape, dtype: jax.nn.initializers.orthogonal()(KEY, shape, dtype), 4)
    rejects(check_initial_values, changed(recurrent=one_square(KEY, (32, 128), jnp.float32)))


@pytest.mark.parametrize("x, mask", [((3, 4), None), ((3, 6, 4), (3, 5)), ((3, 6, 4), (6, 3))])
def test_bad_input(x, mask):
    with pytest.raises(BadInput, match="allowed: x"):
        GRU(4).init(KEY, jnp.zeros(x), None, None if mask is None else jnp.zeros(mask))


def test_next_frame_starts_nearly_silent():
    """With h = 0 the log-odds of every note are SILENT; a network of frames is the body and one linear layer."""
    net, frames = NextFrame(LSTM(H), notes=D), jnp.zeros((2, 3, D))
    params = net.init(KEY, frames)
    logits, _ = net.apply(params, frames, net.start(2))
    assert np.abs(logits - SILENT).max() < 0.5
    body = {"params": params["params"]["body"]}
    h, _ = LSTM(H).apply(body, frames)
    head = params["params"]["notes"]
    np.testing.assert_allclose(logits, h @ head["kernel"] + head["bias"].reshape(1, 1, -1), atol=1e-6)

"""Entropy coding by autoregressive models: what comes back, how long it is, and planted bugs that must show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.errors import BadInput
from genjax.likelihood import coding
from genjax.likelihood.coding import Autoregression, chances, counts, decode, encode, rows_at_once, softmax
from genjax.likelihood.coding_models import cached, full_pass, in_rows, joined, streams
from genjax.likelihood.masked import order_log_prob
from genjax.models.observation import categorical, discretized_logistic, level_log_probs, logistic_mixture
from genjax.models.pixelcnn import GatedPixelCNN
from genjax.models.transformer import GPT

LOG2 = np.log(2)


def chain(symbols, sharp=2.0, seed=0):
    """x_t depends on x_{t-1}, by a random table, which is the parameters."""
    table = sharp * np.random.default_rng(seed).normal(size=(symbols, symbols)).astype(np.float32)
    return Autoregression(symbols, lambda params, rows: (), lambda params, c, x, t: (params[x], c)), jnp.asarray(table)


def sampled(table, rows, length, seed=1):
    """Rows of the chain, and their exact -log p in float64."""
    p, rng = softmax(table), np.random.default_rng(seed)
    x, nats, before = np.zeros((rows, length), np.int32), 0.0, np.zeros(rows, np.int32)
    for t in range(length):
        u = rng.random((rows, 1))
        before_new = np.minimum((p[before].cumsum(-1) < u).sum(-1), len(p) - 1)
        nats -= np.log(p[before, before_new]).sum()
        x[:, t] = before = before_new
    return x, nats


def fits(coded, nats):
    """The length that is wanted, fixed beforehand."""
    return 32 * len(coded.words) <= 1.005 * nats / LOG2 + 64


@pytest.mark.parametrize("symbols", [2, 3, 17, 256, 1000])
@pytest.mark.parametrize("sharp", [0.0, 1.0, 30.0])
def test_what_is_coded_comes_back_at_its_length(symbols, sharp):
    model, table = chain(symbols, sharp)
    for seed, (rows, length) in enumerate([(1, 1), (3, 50), (300, 5)]):
        x, nats = sampled(table, rows, length, seed)
        coded = encode(model, table, x)
        np.testing.assert_array_equal(decode(model, table, coded.words, x.shape), x)
        assert abs(coded.nats - nats) <= 1e-9 * nats + 1e-9
        assert fits(coded, nats) and 32 * len(coded.words) >= nats / LOG2 - 1


def test_impossible_symbols_are_coded_too():
    model, x = chain(5, 1000.0)[0], np.random.default_rng(0).integers(0, 5, (7, 9)).astype(np.int32)
    table = chain(5, 1000.0)[1]
    np.testing.assert_array_equal(decode(model, table, encode(model, table, x).words, x.shape), x)


def test_a_uniform_model_takes_eight_bits_a_byte():
    model, table = chain(256, 0.0)
    x = np.random.default_rng(0).integers(0, 256, (4, 500)).astype(np.int32)
    coded = encode(model, table, x)
    assert abs(coded.nats / LOG2 - 8 * x.size) < 1e-6
    assert 8 * x.size <= 32 * len(coded.words) <= 8 * x.size + 64


def test_counts_add_up_and_none_is_zero():
    rng = np.random.default_rng(0)
    for width in (2, 17, 300, 50_000):
        p = rng.dirichlet(np.full(width, 0.05), 20)
        found = counts(p)
        assert (found.sum(-1) == 2**24).all() and (found >= 1).all()
        assert np.abs(chances(found) - p).max() <= 2 * width / 2**24
    for bad in ([np.nan, 1.0], [-0.1, 1.1], [0.0, 0.0], [np.inf, 1.0]):
        with pytest.raises(BadInput, match="not finite"):
            counts(np.array(bad))


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels", [categorical(5), discretized_logistic(5), logistic_mixture(5, 2)], ids=["free", "logistic", "mixture"]
)
def test_a_pixelcnn_codes_its_own_likelihood(pixels):
    net = GatedPixelCNN(pixels.multiplier, 1, 4, first=3)
    x = np.random.default_rng(0).integers(0, 5, (6, 3, 4, 1)).astype(np.int32)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 3, 4, 1)))
    model = full_pass(
        lambda params, rows: level_log_probs(pixels, net.apply(params, rows.reshape(-1, 3, 4, 1) / 4.0)), 5, range(12)
    )
    coded = encode(model, params, x.reshape(6, 12))
    nll = -float(pixels.log_prob(net.apply(params, x / 4.0), jnp.asarray(x / 4.0, jnp.float32)).sum())
    assert abs(coded.nats - nll) < 1e-4 * nll and fits(coded, nll)
    np.testing.assert_array_equal(decode(model, params, coded.words, (6, 12)), x.reshape(6, 12))


def linear(order, seed=0):
    """Logits that are linear in the symbols before, in an order."""
    size, rank = len(order), np.argsort(order)
    weights = np.random.default_rng(seed).normal(size=(size, size, 3)).astype(np.float32)
    weights *= (rank[:, None] < rank[None])[..., None]
    return full_pass(lambda params, x: jnp.einsum("bi,ijv->bjv", x.astype(jnp.float32), params), 3, order), weights


def test_a_masked_model_in_one_order():
    """The exact likelihood of the order, from the file that knows it."""
    order, weights = np.random.default_rng(3).permutation(8), np.random.default_rng(0).normal(size=(8, 8, 3))
    logits = lambda params, z: jnp.einsum("bi,ijv->bjv", jnp.where(z == 3, -1.0, z), params)
    model, params = full_pass(logits, 3, order, blank=3), jnp.asarray(weights, jnp.float32)
    x = np.random.default_rng(1).integers(0, 3, (5, 8)).astype(np.int32)
    coded = encode(model, params, x[:, order])
    nats = order_log_prob(lambda z: logits(params, z), 3, x, order)
    assert abs(coded.nats + float(nats.sum())) < 1e-4 * coded.nats
    np.testing.assert_array_equal(decode(model, params, coded.words, x.shape), x[:, order])


@pytest.mark.parametrize("at_once", [2, 3, 8])
def test_a_few_positions_at_once(at_once):
    """Each given what was known when its group began, the rest masked; the last group may be a smaller one."""
    order, weights = np.random.default_rng(3).permutation(8), np.random.default_rng(0).normal(size=(8, 8, 3))
    logits = lambda params, z: jnp.einsum("bi,ijv->bjv", jnp.where(z == 3, -1.0, z), params)
    x, params = np.random.default_rng(1).integers(0, 3, (5, 8)).astype(np.int32), jnp.asarray(weights, jnp.float32)
    coded = encode(model := full_pass(logits, 3, order, 3, at_once), params, x[:, order])
    expected = 0.0
    for t in range(8):
        seen = np.full((5, 8), -1.0)
        known = order[: t - t % at_once]
        seen[:, known] = x[:, known]
        expected -= np.log(softmax(seen @ weights[:, order[t]])[np.arange(5), x[:, order[t]]]).sum()
    assert abs(coded.nats - expected) < 1e-4 * expected
    np.testing.assert_array_equal(decode(model, params, coded.words, x.shape), x[:, order])
    assert abs(encode(full_pass(logits, 3, order, 3), params, x[:, order]).nats - expected) > 1e-3 * expected
    with pytest.raises(BadInput, match="at_once"):
        full_pass(logits, 3, order, 3, 0)


def test_another_order():
    order = np.random.default_rng(3).permutation(10)
    model, weights = linear(order)
    x = np.random.default_rng(1).integers(0, 3, (9, 10)).astype(np.int32)
    coded = encode(model, weights, x[:, order])
    p = softmax(np.einsum("bi,ijv->bjv", x.astype(np.float32), weights))
    nll = -np.log(np.take_along_axis(p, x[..., None], -1)).sum()
    assert abs(coded.nats - nll) < 1e-4 * nll
    np.testing.assert_array_equal(decode(model, weights, coded.words, x.shape), x[:, order])
    assert abs(encode(model, weights, x).nats - nll) > 0.01 * nll  # a wrong order does not go unseen


@pytest.mark.parametrize("context", [4, 5])
def test_a_gpt_beyond_its_context(context):
    """What the window reads, by full passes over the tokens that it should have read; rows of two lengths."""
    net, first = GPT(7, context, 1, 2, 8), 3
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, context), jnp.int32))
    params = jax.tree.map(lambda x: 4 * x, params)
    model = cached(net.decoder, 7, context, first)
    x = np.random.default_rng(0).integers(0, 7, (4, 14)).astype(np.int32)
    coded = encode(model, params, x, last=3)
    expected, half, begin = 0.0, context // 2, 0
    forward = jax.jit(net.apply)
    for t in range(14):
        if t - begin == context:  # full: its newest half, with the token that is read now, begins another
            begin = t - half + 1
        read = np.concatenate([np.full((4, 1), first), x], axis=1)[:, begin : t + 1]
        padded = np.pad(read, ((0, 0), (0, context - read.shape[1])))
        p = softmax(forward(params, padded)[:, t - begin])
        rows = 3 if t == 13 else 4
        expected -= np.log(p[np.arange(rows), x[:rows, t]]).sum()
    assert abs(coded.nats - expected) < 1e-4 * expected
    found = decode(model, params, coded.words, x.shape, last=3)
    np.testing.assert_array_equal(found[:, :13], x[:, :13])
    np.testing.assert_array_equal(found[:3, 13], x[:3, 13])


@pytest.mark.parametrize("count", [0, 1, 511, 1024, 1025, 70_001])
def test_a_text_in_rows(count):
    tokens = np.arange(count) % 91
    rows, length, last = streams(count)
    assert rows * (length - 1) + last == count and (count == 0 or 1 <= last <= rows) and rows_at_once(rows) == rows
    np.testing.assert_array_equal(joined(in_rows(tokens), count), tokens)


def test_nothing_is_coded_as_nothing():
    model, table = chain(4)
    coded = encode(model, table, np.zeros((1, 0), np.int32))
    assert coded.nats == 0 and len(coded.words) <= 2
    assert decode(model, table, coded.words, (1, 0)).shape == (1, 0)


@pytest.mark.parametrize("bad", [np.full((2, 2), 4), np.full((2, 2), -1), np.zeros(3, int), np.zeros((2, 2))])
def test_symbols_that_are_refused(bad):
    model, table = chain(4)
    with pytest.raises(BadInput, match="symbols"):
        encode(model, table, bad)


# --- planted bugs ----------------------------------------------------------------------------------------------------


def comes_back(model, params, x, decoder=None, patch=None):
    """Whether a decoder, perhaps another one than the coder's, gives x."""
    words = encode(model, params, x).words
    with pytest.MonkeyPatch.context() as context:
        if patch is not None:
            context.setattr(coding, *patch)
        try:
            return np.array_equal(decode(decoder or model, params, words, x.shape), x)
        except BadInput:
            return False


def off_by_one(p):
    """One count of 2^24 too many for the first symbol."""
    found = counts(p)
    found[..., 0] += 1
    found[..., 1] -= 1
    return found


@pytest.mark.parametrize(
    "patch",
    [
        ("counts", off_by_one),
        ("counts", lambda p: p * 2**24),  # not rounded to whole counts
        ("softmax", lambda logits: softmax(np.asarray(logits).astype(np.float16))),
        ("rows_at_once", lambda count: 2),  # other rows at once: another order of the symbols
    ],
    ids=["off by one", "floats", "half precision", "rows"],
)
def test_a_decoder_with_other_tables_is_caught(patch):
    model, table = chain(200, 3.0)
    x, _ = sampled(table, 5, 2_000)
    assert comes_back(model, table, x)
    assert not comes_back(model, table, x, patch=patch)


def dense(columns):
    """A network that reads the last 64 symbols, which it sums in one order or another."""
    embed = lambda window: jax.nn.one_hot(window, 30).reshape(len(window), -1)

    def step(params, window, previous, t):
        window = jnp.concatenate([window[:, 1:], previous[:, None]], axis=1)
        hidden = jnp.zeros((len(window), 30))
        for part in np.array_split(columns, 8):  # eight products, added one after the other
            hidden = hidden + embed(window)[:, part] @ params[part]
        return 3 * jnp.tanh(hidden), window

    return Autoregression(30, lambda params, rows: jnp.zeros((rows, 64), jnp.int32), step)


def test_another_order_of_summation_is_noise():
    """Why both sides run the same program: the same numbers, added in another order, decode to something else."""
    columns = np.arange(64 * 30)
    weights = jax.random.normal(jax.random.key(0), (64 * 30, 30)) / 8
    one, other = dense(columns), dense(columns[::-1])
    x = np.random.default_rng(0).integers(0, 30, (4, 400)).astype(np.int32)
    assert abs(encode(one, weights, x).nats - encode(other, weights, x).nats) < 1e-5 * x.size  # the same model
    assert comes_back(one, weights, x) and comes_back(other, weights, x)
    assert not comes_back(one, weights, x, decoder=other)


def test_a_step_that_looks_ahead_is_caught():
    """It knows the symbol that it is to predict while it codes; the decoder does not."""
    x = np.random.default_rng(0).integers(0, 3, (5, 40)).astype(np.int32)
    ahead = Autoregression(3, chain(3)[0].start, lambda params, c, y, t: (9.0 * jax.nn.one_hot(params[:, t], 3), c))
    padded = np.zeros((8, 40), np.int32)
    padded[:5] = x
    words = encode(ahead, jnp.asarray(padded), x).words
    assert 32 * len(words) < 64  # too good
    assert not comes_back(
        ahead, jnp.asarray(padded), x, decoder=ahead._replace(step=lambda params, c, y, t: (jnp.zeros((8, 3)), c))
    )

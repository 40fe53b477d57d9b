"""The likelihood of sequences against NumPy in float64, and the units in which it is told."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from planted import rejects

import genjax.distributions as d
from genjax.errors import BadInput
from genjax.losses.likelihood import sequence_nll, token_nll

KEY = jax.random.key(0)
LOGITS = 5 * np.random.default_rng(0).normal(size=(4, 6, 7))
TOKENS = np.random.default_rng(1).integers(0, 7, (4, 6))
MASK = np.arange(6) < np.array([[6], [3], [1], [0]])


def check_nats(nll):
    """Each token's number is log sum exp - the logit of the token, in float32 within 1e-5; padding gives exactly 0."""
    exact = scipy.special.logsumexp(LOGITS, axis=-1) - np.take_along_axis(LOGITS, TOKENS[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll(np.float32(LOGITS), TOKENS, None), exact, rtol=1e-5, atol=1e-5)
    masked = np.asarray(nll(np.float32(LOGITS), np.where(MASK, TOKENS, -1), MASK))
    np.testing.assert_allclose(masked, np.where(MASK, exact, 0.0), rtol=1e-5, atol=1e-5)
    assert np.all(masked[~MASK] == 0.0)


def test_nats():
    check_nats(token_nll)


def test_nats_rejects():
    rejects(check_nats, lambda logits, tokens, mask: token_nll(logits, tokens, None))  # no mask
    rejects(check_nats, lambda logits, tokens, mask: token_nll(logits, np.roll(tokens, 1, 1), mask))  # shifted twice
    rejects(check_nats, lambda logits, tokens, mask: token_nll(logits, tokens, mask) / math.log(2))
    rejects(check_nats, lambda logits, tokens, mask: token_nll(logits / 7, tokens, mask))
    raw = lambda logits, tokens, mask: -np.take_along_axis(logits, tokens[..., None], -1)[..., 0]
    rejects(check_nats, raw)  # not normalised


def check_sums(nll):
    """Padding adds nothing: a padded row is its shorter self; and rows are sums, not means."""
    whole = np.asarray(nll(np.float32(LOGITS), TOKENS, MASK))
    assert whole.shape == (4,) and whole[3] == 0.0
    alone = nll(np.float32(LOGITS[1:2, :3]), TOKENS[1:2, :3], None)
    np.testing.assert_allclose(whole[1], alone[0], rtol=1e-6)
    tokens = np.asarray(token_nll(np.float32(LOGITS), TOKENS, MASK), np.float64)
    np.testing.assert_allclose(whole, tokens.sum(1), rtol=1e-6)


def test_sums():
    check_sums(sequence_nll)


def test_sums_rejects():
    rejects(check_sums, lambda logits, tokens, mask: token_nll(logits, tokens, mask).mean(1))
    rejects(check_sums, lambda logits, tokens, mask: token_nll(logits, tokens, None).sum(1))
    rejects(check_sums, lambda logits, tokens, mask: token_nll(logits, tokens, mask).sum(0)[:4])


def test_probabilities_of_all_tokens_sum_to_one():
    """Also where logits are so large that exp of them is infinite."""
    logits = np.float32(np.concatenate([LOGITS, 1e4 * LOGITS]))
    total = sum(np.exp(-np.asarray(token_nll(logits, np.full((8, 6), token)), np.float64)) for token in range(7))
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_gradient_is_softmax_minus_token():
    grads = jax.grad(lambda logits: sequence_nll(logits, TOKENS, MASK).sum())(jnp.float32(LOGITS))
    exact = (scipy.special.softmax(LOGITS, -1) - np.eye(7)[TOKENS]) * MASK[..., None]
    np.testing.assert_allclose(grads, exact, atol=1e-6)


def test_a_token_outside_of_the_vocabulary_is_not_a_number():
    """Compiled code cannot refuse it; it must not be another token's probability either."""
    nats = np.asarray(jax.jit(token_nll)(jnp.zeros((1, 4, 7)), jnp.array([[-1, 0, 6, 7]])))
    assert np.isnan(nats[0]).tolist() == [True, False, False, True]


def test_half_precision_is_converted_on_entry():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    nats = token_nll(half, TOKENS)
    assert nats.dtype == jnp.float32
    np.testing.assert_array_equal(nats, token_nll(half.astype(jnp.float32), TOKENS))


BAD = {
    "tokens not shifted": (np.zeros((2, 5, 3)), np.zeros((2, 6), int), None, r"tokens \[2, 6\]"),
    "mask of rows": (np.zeros((2, 5, 3)), np.zeros((2, 5), int), np.ones(2), r"mask \[2\]"),
    "no rows": (np.zeros((5, 3)), np.zeros(5, int), None, r"logits \[5, 3\]"),
    "one-hot tokens": (np.zeros((2, 5, 3)), np.zeros((2, 5)), None, "tokens are float"),
}


@pytest.mark.parametrize("logits, tokens, mask, told", BAD.values(), ids=BAD)
def test_bad_input(logits, tokens, mask, told):
    with pytest.raises(BadInput, match=told) as caught:
        token_nll(np.float32(logits), tokens, mask)
    assert len(caught.value.lines) <= 3


# -- units -------------------------------------------------------------------------------------------------------------


def check_units(units):
    """Uniform models, whose numbers everybody knows: log2 of the number of choices, whatever the length."""
    rows = np.array([1, 10, 1000])
    np.testing.assert_allclose(units["bits"](rows * math.log(2)), rows, rtol=1e-6)
    np.testing.assert_allclose(units["bits_per_byte"](rows * math.log(256), rows), 8.0, rtol=1e-6)
    np.testing.assert_allclose(units["bits_per_dim"](rows * math.log(256), rows), 8.0, rtol=1e-6)
    np.testing.assert_allclose(units["bits_per_residue"](rows * math.log(20), rows), math.log2(20), rtol=1e-6)
    np.testing.assert_allclose(units["nats_per_frame"](rows * 88 * math.log(2), rows), 88 * math.log(2), rtol=1e-6)
    np.testing.assert_allclose(units["perplexity"](rows * math.log(65), rows), 65.0, rtol=1e-5)


UNITS = {
    name: getattr(d, name)
    for name in ("bits", "bits_per_byte", "bits_per_dim", "bits_per_residue", "nats_per_frame", "perplexity")
}


def test_units():
    check_units(UNITS)


def test_units_rejects():
    for name in ("bits_per_byte", "bits_per_dim", "bits_per_residue"):
        rejects(check_units, UNITS | {name: lambda nats, count: nats / count})  # nats
    rejects(check_units, UNITS | {"bits": lambda nats: nats * math.log(2)})
    rejects(check_units, UNITS | {"nats_per_frame": lambda nats, count: nats / count / math.log(2)})
    rejects(check_units, UNITS | {"nats_per_frame": lambda nats, count: nats / count / 88})  # a pitch, not a frame
    rejects(check_units, UNITS | {"perplexity": lambda nats, count: 2.0 ** (nats / count)})  # 2 to the power of nats
    rejects(check_units, UNITS | {"perplexity": lambda nats, count: np.exp(nats / count) / math.log(2)})


@pytest.mark.parametrize("name", [name for name in UNITS if name != "bits"])
def test_nothing_has_no_unit(name):
    with pytest.raises(BadInput, match=" = 0"):
        UNITS[name](1.0, 0)

"""RNN-NADE on rolls so small that all of them can be enumerated: 3 notes, 2 frames."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.distributions import bernoulli_log_prob, event_sum
from genjax.errors import BadInput
from genjax.models import rnn_nade
from genjax.models.recurrent import GRU
from genjax.models.rnn_nade import RNNNADE
from genjax.samplers.frames import sample_frames

KEY = jax.random.key(0)
NOTES, FRAMES, UNITS = 3, 2, 4
ROLLS = np.float32([*itertools.product((0, 1), repeat=NOTES * FRAMES)]).reshape(-1, FRAMES, NOTES)
MODEL = RNNNADE(GRU(5), UNITS, NOTES)


@functools.cache
def parameters():
    """Large weights: far from independent notes."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(MODEL.init, KEY, ROLLS)
    return jax.tree.map(lambda leaf: np.float32(1.5 * rng.normal(size=leaf.shape)), shapes)


def log_prob(rolls):
    """log p of whole rolls, [B]."""
    rolls = jnp.asarray(rolls)
    return event_sum(bernoulli_log_prob(rolls, MODEL.apply(parameters(), rolls)))


def reference(rolls):
    """log p in float64: note by note, each hidden layer anew; the GRU's outputs are taken from the library."""
    params = jax.tree.map(np.float64, parameters()["params"])
    before = np.concatenate([np.zeros((len(rolls), 1, NOTES), np.float32), rolls[:, :-1]], axis=1)
    u = np.float64(GRU(5).apply({"params": parameters()["params"]["body"]}, before)[0])
    total, sigmoid = np.zeros(len(rolls)), lambda x: 1 / (1 + np.exp(-x))
    for t, i in itertools.product(range(rolls.shape[1]), range(NOTES)):
        c = u[:, t] @ params["c"]["kernel"] + params["c"]["bias"]
        hidden = sigmoid(c + rolls[:, t, :i] @ params["w"][:i])
        odds = (u[:, t] @ params["b"]["kernel"] + params["b"]["bias"])[:, i] + hidden @ params["v"][i]
        total += np.log(sigmoid(np.where(rolls[:, t, i] > 0, odds, -odds)))
    return total


def check_probabilities(log_prob):
    """The probabilities of all 64 rolls sum to 1, those of the 8 first frames too, and each is the definition's."""
    found = np.float64(jax.jit(log_prob)(ROLLS))
    np.testing.assert_allclose(np.exp(found).sum(), 1.0, atol=1e-5)
    np.testing.assert_allclose(found, reference(ROLLS), atol=1e-4)
    firsts = np.exp(np.float64(log_prob(ROLLS[::8, :1])))
    np.testing.assert_allclose(firsts, np.exp(found).reshape(8, 8).sum(axis=1), rtol=1e-4)
    assert np.std(found) > 1.0  # far from uniform


def test_probabilities():
    check_probabilities(log_prob)


NADE_LOGITS = rnn_nade.nade_logits
PLANTED = {
    "a note sees itself": lambda x, w, v, b, c, _: NADE_LOGITS(x, w, v, b, c) + x,
    "a note sees the next one": lambda x, w, v, b, c, _: NADE_LOGITS(x, w, v, b + jnp.roll(x, -1, axis=1), c),
    "no biases of the hidden layer": lambda x, w, v, b, c, _: NADE_LOGITS(x, w, v, b, 0 * c),
    "W and V exchanged": lambda x, w, v, b, c, _: NADE_LOGITS(x, v, w, b, c),
    "the biases of one frame for all": lambda x, w, v, b, c, _: NADE_LOGITS(x, w, v, b - b + b[:1], c),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_probabilities_reject(monkeypatch, planted):
    monkeypatch.setattr(rnn_nade, "nade_logits", planted)
    rejects(check_probabilities, lambda rolls: log_prob(rolls))


def test_probabilities_reject_a_frame_that_sees_itself():
    def seeing(rolls):
        later = jnp.concatenate([rolls[:, 1:], rolls[:, -1:]], axis=1)
        return event_sum(bernoulli_log_prob(rolls, MODEL.apply(parameters(), later)))

    rejects(check_probabilities, seeing)


def after(state, frame, key):
    return MODEL.apply(parameters(), state, frame, key, method="after")


def sample(n, key, step=after, start=MODEL.start):
    return sample_frames(step, start(n), jnp.zeros((n, NOTES)), FRAMES + 1, key)[:, 1:]


def check_samples(sample):
    """Chi-square of 20,000 rolls against the 64 probabilities: p > 1e-4."""
    probability = np.exp(reference(ROLLS))
    drawn = np.asarray(jax.jit(sample, static_argnums=0)(20_000, jax.random.key(1)))
    numbers = drawn.reshape(len(drawn), -1) @ (2 ** np.arange(NOTES * FRAMES)[::-1])
    counts, likely = np.bincount(numbers.astype(int), minlength=64), probability > 3e-4
    seen = np.append(counts[likely], counts[~likely].sum())
    expected = np.append(probability[likely], probability[~likely].sum())
    assert scipy.stats.chisquare(seen, expected / expected.sum() * 20_000).pvalue > 1e-4


def test_samples():
    check_samples(sample)


SAMPLERS = {
    "one key for all frames": lambda n, key: sample(n, key, lambda state, frame, _: after(state, frame, key)),
    "the state not carried": lambda n, key: sample(
        n, key, lambda state, frame, key: (after(state, frame, key)[0], state)
    ),
    "the last frame not read": lambda n, key: sample(n, key, lambda state, frame, key: after(state, 0 * frame, key)),
    "a sounding frame before the first": lambda n, key: sample_frames(
        after, MODEL.start(n), jnp.ones((n, NOTES)), FRAMES + 1, key
    )[:, 1:],
    "the frame before the first taken for it": lambda n, key: sample_frames(
        after, MODEL.start(n), jnp.zeros((n, NOTES)), FRAMES, key
    ),
}


@pytest.mark.parametrize("planted", SAMPLERS.values(), ids=SAMPLERS)
def test_samples_reject(planted):
    rejects(check_samples, planted)


def test_a_longer_sequence_begins_like_a_shorter_one():
    long = sample_frames(after, MODEL.start(4), jnp.zeros((4, NOTES)), 9, KEY)
    short = sample_frames(after, MODEL.start(4), jnp.zeros((4, NOTES)), 5, KEY)
    np.testing.assert_array_equal(long[:, :5], short)
    assert short.shape == (4, 5, NOTES) and not short[:, 0].any()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_bad_input(shape):
    with pytest.raises(BadInput, match=r"allowed: \[B, T, 3\]"):
        MODEL.init(KEY, jnp.zeros(shape))

"""The text VAE on a language so small that all its texts can be enumerated and z can be integrated over."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from planted import rejects

from genjax.distributions import kl_normal_standard, sample_normal
from genjax.errors import BadInput
from genjax.losses.likelihood import sequence_nll
from genjax.losses.markov import inside
from genjax.models.text_vae import TextVAE, dropped_words
from genjax.samplers.decode import Decoder, generate

KEY = jax.random.key(0)
LETTERS, LONGEST = 3, 3  # token 0 ends a text
MODEL = TextVAE(LETTERS, latents=1, embedding=4, width=6)


def texts():
    """Every text that has ended or is full: one of them is drawn, so their probabilities sum to 1."""
    found = []
    for row in itertools.product(range(LETTERS), repeat=LONGEST):
        length = row.index(0) + 1 if 0 in row else LONGEST
        found.append((*row[:length], *[0] * (LONGEST - length), length))
    return np.array(sorted(set(found)), np.int32)


AFTER, LENGTH = texts()[:, :-1], texts()[:, -1]
BEFORE = np.pad(AFTER, ((0, 0), (1, 0)))[:, :-1]
MASK = inside(LENGTH, LONGEST)


def encode(params, after=AFTER, mask=MASK):
    return MODEL.apply(params, after, mask, method="encode")


def log_likelihood(params, z, before=BEFORE, mask=MASK):
    """log p(x | z) of every text, z [15, 1] -> [15]."""
    return -sequence_nll(MODEL.apply(params, z, before, method="decode"), AFTER, mask)


log_likelihoods = jax.jit(jax.vmap(log_likelihood, (None, 0, None, None)))


@pytest.fixture(scope="module")
def params():
    """After 300 steps on six of the texts, half of the letters dropped: z is used, p is far from uniform."""
    rows, tx = jnp.array([1, 4, 7, 8, 10, 13]), optax.adam(0.02)

    def loss(params, key):
        word_key, key = jax.random.split(key)
        mean, log_var = encode(params)
        before = dropped_words(BEFORE, 0.5, LETTERS, word_key)
        fit = log_likelihood(params, sample_normal(mean, log_var, key), before)
        return (0.5 * kl_normal_standard(mean, log_var).sum(-1) - fit)[rows].mean()

    def step(state, key):
        updates, moments = tx.update(jax.grad(loss)(state[0], key), state[1])
        return (optax.apply_updates(state[0], updates), moments), None

    start = jax.jit(MODEL.init)(KEY, BEFORE)
    train = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), jax.random.split(KEY, 300)))
    return train(start)[0][0]


# -- bound and exact probability --------------------------------------------------------------------------------------


# the four ways to drop some of three tokens, a half each; the first is never dropped
DROPS = np.array([[[False, a, b]] for a in (False, True) for b in (False, True)])


def check_bounds(params, before=BEFORE, mask=MASK, share=1.0, dropping=DROPS[:1]):
    """sum p = 1, sum exp(bound) <= 1, bound <= log p for each text; z by 80 nodes, all ways of dropping letters."""
    eps, weight = np.polynomial.hermite_e.hermegauss(80)
    weight = weight / weight.sum()
    mean, log_var = (np.float64(a) for a in encode(params))
    rate = np.float64(kl_normal_standard(mean, log_var)).sum(-1)
    z = np.float32(eps.reshape(-1, 1, 1)), np.ones((1, len(AFTER), 1), np.float32)
    fits = lambda z, seen: np.float64(log_likelihoods(params, z, seen, mask))  # [80, 15]
    shown = [np.where(drop, LETTERS, before) for drop in dropping]
    p = np.mean([weight @ np.exp(fits(z[0] * z[1], seen)) for seen in shown], axis=0)
    moved = np.float32(mean + np.exp(0.5 * log_var) * eps.reshape(-1, 1, 1))
    bound = np.mean([weight @ fits(moved, seen) for seen in shown], axis=0) - share * rate
    assert p.sum() == pytest.approx(1.0, abs=1e-4)
    assert np.exp(bound).sum() <= 1.0 + 1e-4
    assert np.all(bound <= np.log(p) + 1e-4)
    assert p @ (np.log(p) - bound) < 1.0  # no bound of minus infinity
    return p, rate


def test_every_bound_is_one(params):
    p, rate = check_bounds(params)
    assert np.ptp(np.log(p)) > 1.0 and rate.max() > 0.3  # it has learnt something, and has not collapsed
    check_bounds(params, dropping=DROPS)  # with half of the letters dropped: a bound on the mixture


MUTANTS = {
    "no rate": {"share": 0.0},
    "sign of the rate": {"share": -1.0},
    "the decoder sees the letter that it predicts": {"before": AFTER},
    "padding counts": {"mask": jnp.ones_like(MASK)},
    "the end does not count": {"mask": inside(LENGTH - 1, LONGEST)},
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_bounds_reject(params, mutant):
    rejects(lambda given: check_bounds(params, **given), mutant)


# -- word dropout -----------------------------------------------------------------------------------------------------


def check_dropout(drop):
    """The first token stays; of 20,000 others a third is replaced, p > 1e-4, the rest as they were; 0 and 1 exactly."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 27, (4_000, 6)))
    seen = np.asarray(drop(tokens, 1 / 3, 27, KEY))
    np.testing.assert_array_equal(seen[:, 0], tokens[:, 0])
    replaced = seen[:, 1:] == 27
    np.testing.assert_array_equal(seen[:, 1:][~replaced], tokens[:, 1:][~replaced])
    assert scipy.stats.binomtest(int(replaced.sum()), replaced.size, 1 / 3).pvalue > 1e-4
    pairs = int((replaced[:, :-1] & replaced[:, 1:]).sum())  # neighbours are dropped independently
    assert abs(pairs / 16_000 - 1 / 9) < 0.015
    np.testing.assert_array_equal(drop(tokens, 0.0, 27, KEY), tokens)
    assert np.all(np.asarray(drop(tokens, 1.0, 27, KEY))[:, 1:] == 27)


def test_word_dropout():
    check_dropout(dropped_words)
    rejects(check_dropout, lambda tokens, rate, *rest: dropped_words(tokens, 1 - rate, *rest))
    whole_rows = lambda tokens, rate, unknown, key: jnp.where(
        jnp.broadcast_to(jax.random.bernoulli(key, rate, (len(tokens), 1)), tokens.shape).at[:, 0].set(False),
        unknown,
        tokens,
    )
    rejects(check_dropout, whole_rows)
    rejects(check_dropout, lambda tokens, rate, unknown, key: dropped_words(tokens, rate, 0, key))
    also_first = lambda tokens, *rest: dropped_words(jnp.pad(tokens, ((0, 0), (1, 0))), *rest)[:, 1:]
    rejects(check_dropout, also_first)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_word_dropout_out_of_range(rate):
    with pytest.raises(BadInput, match=rf"word dropout = {rate}\nallowed: a probability, from 0"):
        dropped_words(BEFORE, rate, LETTERS, KEY)


def test_tokens_out_of_range():
    with pytest.raises(BadInput, match="token 4 at row 0, position 1"):
        MODEL.init(KEY, np.array([[0, 4]]))


# -- padding, and decoding step by step -------------------------------------------------------------------------------


def check_padding(params, mask):
    """What stands after the end of a text changes nothing."""
    rubbish = np.where(MASK, AFTER, 2)
    for a, b in zip(encode(params, rubbish, mask), encode(params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_padding_changes_nothing(params):
    check_padding(params, MASK)
    rejects(check_padding, params, jnp.ones_like(MASK))


def check_decoder(params, decoder):
    """Letter by letter, with the state in between, the logits of the whole text: 1e-5; and the same likely text."""
    z = jnp.linspace(-2.0, 2.0, len(AFTER))[:, None]
    whole, made = MODEL.apply(params, z, BEFORE, method="decode"), decoder(params, z)
    cache, found = made.start(len(z), LONGEST), []
    for t in range(LONGEST):
        logits, cache = made.step(cache, BEFORE[:, t : t + 1], jnp.int32(t))
        found.append(logits[:, 0])
    np.testing.assert_allclose(np.stack(found, axis=1), whole, atol=1e-5)
    likely = lambda logits, counts, key: jnp.argmax(logits)
    start = np.zeros((len(z), 1), np.int32)
    tokens, _ = generate(made, start, np.ones(len(z), np.int32), KEY, LONGEST + 1, likely, stop=(0,))
    again = MODEL.apply(params, z, tokens[:, :-1], method="decode").argmax(-1)
    ended = np.cumsum(np.asarray(tokens[:, 1:]) == 0, axis=1) > 1
    np.testing.assert_array_equal(np.where(ended, 0, again), tokens[:, 1:])


def test_decoding_by_steps(params):
    check_decoder(params, MODEL.decoder)
    rejects(check_decoder, params, lambda params, z: MODEL.decoder(params, 0 * z))

    def forgetful(params, z):
        made = MODEL.decoder(params, z)
        return Decoder(made.start, lambda cache, *rest: (made.step(cache, *rest)[0], cache))

    rejects(check_decoder, params, forgetful)

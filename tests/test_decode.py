"""Generation with a cache: the exact law of a tiny model, and a slow generation without any cache, token by token."""

import functools
import itertools
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.samplers import choosing, decode
from genjax.samplers.choosing import draw, repetition_penalty, temperature, top_k, top_p
from genjax.samplers.decode import Decoder, advance, begin, generate, stream

KEY = jax.random.key(0)
greedy = lambda logits, counts, key: jnp.argmax(logits)

# -- a model of three tokens: p(next | position, last two tokens), whose cache is the token before ---------------------

V, TOTAL, STOP = 3, 4, 2
TABLE = 1.5 * np.random.default_rng(0).normal(size=(TOTAL, V, V, V)).astype(np.float32)


def _read(cache, tokens, position):
    before = jnp.concatenate([cache[:, None], tokens[:, :-1]], axis=1)
    at = position + jnp.arange(tokens.shape[1])[None]
    return jnp.asarray(TABLE)[at, before, tokens], tokens[:, -1]


RECURRENT = Decoder(lambda rows, positions: jnp.zeros((rows,), jnp.int32), _read)


def law(prompt):
    """{sequence: probability} of all that may come of a prompt, by enumeration in float64."""
    found = {}
    for rest in itertools.product(range(V), repeat=TOTAL - len(prompt)):
        row, probability = [*prompt], 1.0
        for token in rest:
            logits = np.float64(TABLE[len(row) - 1, row[-2] if len(row) > 1 else 0, row[-1]])
            probability *= np.exp(logits[token]) / np.exp(logits).sum()
            row.append(token)
            if token == STOP:
                break
        found[tuple(row)] = probability  # sequences that stop early are met several times, with the same number
    return found


PROMPTS = [(1,), (2, 0)]  # of two lengths, and one holds the stop token, which stops nothing there


def check_law(generate):
    """20,000 rows of each prompt, all in one batch: chi-square against the exact law, p > 1e-4."""
    prompts = np.tile(np.array([[1, 1], [2, 0]]), (20_000, 1))
    run = jax.jit(lambda lengths, key: generate(RECURRENT, prompts, lengths, key, TOTAL, draw, (STOP,)))
    tokens, lengths = map(np.asarray, run(np.tile([1, 2], 20_000).astype(np.int32), KEY))
    inside = np.arange(TOTAL)[None] < lengths[:, None]
    assert np.all(inside | (tokens == 0)), "something behind the end"
    numbers = np.where(inside, tokens + 1, 0) @ 4 ** np.arange(TOTAL)
    for row, prompt in enumerate(PROMPTS):
        exact = law(prompt)
        seen = Counter(numbers[row::2].tolist())
        counts = [seen.pop(sum((token + 1) * 4**i for i, token in enumerate(one)), 0) for one in exact]
        assert not seen, "a sequence that cannot be"
        expected = 20_000 * np.array([*exact.values()])
        assert expected.min() > 1 and scipy.stats.chisquare(counts, expected).pvalue > 1e-4


def test_frequencies_are_the_law():
    assert sum(law((1,)).values()) == pytest.approx(1.0)
    check_law(generate)


def altered(**changes):
    """`generate` with another argument in place of its own: decoder, lengths, stop, choose."""

    def mutant(decoder, prompts, lengths, key, total, choose, stop):
        given = {"decoder": decoder, "lengths": lengths, "stop": stop, "choose": choose}
        new = {name: change(given[name]) for name, change in changes.items()}
        return generate(prompts=prompts, key=key, total=total, **{**given, **new})

    return mutant


shifted = lambda by: lambda d: d._replace(step=lambda cache, tokens, t: d.step(cache, tokens, t + by))
forgetful = lambda d: d._replace(step=lambda cache, tokens, t: (d.step(cache, tokens, t)[0], cache))

LAW_MUTANTS = {
    "position one too far": altered(decoder=shifted(1)),
    "position one behind": altered(decoder=shifted(-1)),
    "cache not kept": altered(decoder=forgetful),
    "prompt overwritten by samples": altered(lengths=jnp.ones_like),
    "padding taken for the prompt": altered(lengths=lambda lengths: jnp.full_like(lengths, 2)),
    "stop tokens ignored": altered(stop=lambda stop: ()),
    "temperature of 1.1": altered(choose=lambda choose: lambda logits, *rest: choose(logits / 1.1, *rest)),
}


@pytest.mark.parametrize("mutant", LAW_MUTANTS.values(), ids=LAW_MUTANTS)
def test_the_law_rejects(mutant):
    rejects(check_law, mutant)


def check_independent(generate):
    """2,000 rows of 20 coins of three sides: neighbours by row, position or both agree in a third, p > 1e-4."""
    coin = Decoder(lambda rows, positions: (), lambda cache, tokens, position: (jnp.zeros((*tokens.shape, 3)), cache))
    run = jax.jit(lambda prompts, key: generate(coin, prompts, np.ones(2_000, np.int32), key, 21, draw)[0])
    tokens = np.asarray(run(np.zeros((2_000, 1), np.int32), KEY))[:, 1:]
    for rows, positions in [(1, 0), (0, 1), (1, 1), (1, -1), (2, -2), (1, -3)]:
        ahead = np.roll(tokens, (rows, positions), axis=(0, 1))
        assert scipy.stats.binomtest(int(np.sum(ahead == tokens)), tokens.size, 1 / 3).pvalue > 1e-4


KEY_MUTANTS = {
    "the same key at every position": lambda rows, position: rows,
    "the same key in every row": lambda rows, position: jax.vmap(lambda _: jax.random.fold_in(rows[0], position))(rows),
    "row and position added": lambda rows, position: jax.vmap(jax.random.fold_in, (None, 0))(
        KEY, position + jnp.arange(rows.shape[0])
    ),
}


def test_draws_are_independent():
    check_independent(generate)


@pytest.mark.parametrize("mutant", KEY_MUTANTS.values(), ids=KEY_MUTANTS)
def test_independence_rejects(mutant, monkeypatch):
    monkeypatch.setattr(decode, "_keys", mutant)
    rejects(check_independent, generate)


def test_the_law_rejects_one_key(monkeypatch):
    monkeypatch.setattr(decode, "_keys", KEY_MUTANTS["the same key at every position"])
    rejects(check_law, generate)


# -- a model that looks at all tokens, with a cache of L positions, against a slow loop without a cache ----------------

LONG, W = 12, 6
WEIGHT = np.random.default_rng(1).normal(size=(LONG, W, W)).astype(np.float32)


def _attend(cache, tokens, position):
    cache = jax.lax.dynamic_update_slice(cache, tokens, (jnp.int32(0), position))
    distance = position + jnp.arange(tokens.shape[1])[:, None] - jnp.arange(cache.shape[1])[None]
    seen = jnp.asarray(WEIGHT)[jnp.clip(distance, 0)[None], cache[:, None]]  # [B, T, L, W]
    return jnp.sum(jnp.where((distance >= 0)[None, :, :, None], seen, 0.0), axis=2), cache


ATTENTIVE = Decoder(lambda rows, positions: jnp.full((rows, positions), 5, jnp.int32), _attend)


def forward(row):
    """The logits of the token after `row`, without a cache."""
    return WEIGHT[np.arange(len(row))[::-1], row].sum(0)


compiled = functools.cache(jax.jit)


def slow(prompts, key, total, choose, stop=(), forward=forward):
    """One row after another, each token from the whole sequence before it."""
    rows, choose = [], compiled(choose)
    for i, prompt in enumerate(prompts):
        row, row_key = list(prompt), jax.random.fold_in(key, i)
        while len(row) < total and not (len(row) > len(prompt) and row[-1] in stop):
            logits, counts = forward(row), np.bincount(row, minlength=W).astype(np.int32)
            row.append(int(choose(logits, counts, jax.random.fold_in(row_key, len(row)))))
        rows.append(row)
    return rows


def padded(prompts):
    width = max(map(len, prompts))
    return np.array([[*p, *[3] * (width - len(p))] for p in prompts]), np.array([*map(len, prompts)], np.int32)


@functools.cache
def generator(decoder, total, choose, stop, prefix):
    return jax.jit(lambda b, n, key: generate(decoder, b, n, key, total, choose, stop, prefix))


def fast(prompts, key, total, choose, stop=(), decoder=ATTENTIVE, prefix=1):
    batch, lengths = padded(prompts)
    tokens, ends = generator(decoder, total, choose, stop, prefix)(batch, lengths, key)
    return [row[:end] for row, end in zip(np.asarray(tokens).tolist(), ends, strict=True)]


def penalised(logits, counts, key):
    return draw(top_p(repetition_penalty(logits, counts, 1.5), 0.95), counts, key)


MANY = [[0], [1, 2, 3, 4, 5, 0, 1], [4, 4, 4]]


@pytest.fixture(autouse=True, scope="module")
def small_stages():
    """Caches of 4, 8 and 12 positions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "FIRST_STAGE", 4)
        yield


@pytest.mark.parametrize("choose", [greedy, penalised], ids=["greedy", "penalised"])
def test_a_batch_is_its_rows_one_by_one(choose):
    assert decode._stages(ATTENTIVE, 3, LONG, 1) == [4, 8, LONG]
    assert decode._stages(ATTENTIVE, 3, LONG, 5) == [8, LONG]
    assert decode._stages(RECURRENT, 3, LONG, 1) == [LONG]
    assert fast(MANY, KEY, LONG, choose) == slow(MANY, KEY, LONG, choose)


def test_a_prefix_in_one_pass_changes_nothing():
    same = [[1, 2, 3, 4, 5, 0, 1], [1, 2, 3, 4, 5, 4, 4, 2], [0, 2, 3, 4, 5, 0]]
    assert fast(same, KEY, LONG, penalised, prefix=6) == slow(same, KEY, LONG, penalised)
    assert fast([[2] * LONG], KEY, LONG, greedy, prefix=LONG) == [[2] * LONG]


def test_stop_tokens_end_each_row_and_then_the_loop():
    expected = slow(MANY, KEY, LONG, penalised, stop=(2, 5))
    assert len({*map(len, expected)}) > 1 and max(map(len, expected)) < LONG
    assert fast(MANY, KEY, LONG, penalised, stop=(2, 5)) == expected
    state = advance(ATTENTIVE, begin(ATTENTIVE, *padded(MANY), LONG), KEY, LONG, penalised, (2, 5))
    assert int(state.position) == max(map(len, expected)) - 1


def test_counts_are_those_of_the_row_so_far():
    """A choice that is nothing but its counts."""
    by_counts = lambda logits, counts, key: jnp.sum(counts * jnp.array([1, 2, 3, 5, 8, 13])) % W
    assert fast(MANY, KEY, LONG, by_counts) == slow(MANY, KEY, LONG, by_counts)


def test_rows_do_not_depend_on_one_another():
    batch, others = fast(MANY, KEY, LONG, penalised), fast([[5, 5], MANY[1], [0, 1, 2]], KEY, LONG, penalised)
    assert others[1] == batch[1] and others[0] != batch[0] and others[2] != batch[2]
    copies = fast([MANY[1]] * 3, KEY, LONG, penalised)
    assert copies[1] == batch[1] and len({tuple(row) for row in copies}) == 3  # each with draws of its own


@pytest.mark.parametrize(("piece", "stop"), [(1, ()), (3, (2, 5)), (50, (2, 5))])
def test_a_stream_is_the_whole_in_pieces(piece, stop):
    prompts = np.array([[1, 2, 3], [4, 4, 4]])
    expected = slow(prompts.tolist(), KEY, LONG, penalised, stop)
    pieces = list(stream(lambda params: ATTENTIVE, LONG, penalised, stop, piece)((), prompts, KEY))
    assert all(0 < p.shape[1] <= piece for p in pieces)
    whole = np.concatenate([prompts, *pieces], axis=1)
    assert whole.shape[1] == max(map(len, expected))
    assert [row[: len(e)] for row, e in zip(whole.tolist(), expected, strict=True)] == expected


def test_one_trace_serves_many_calls():
    traces = []

    def step(cache, tokens, position):
        traces.append(tokens.shape)
        return _read(cache, tokens, position)

    decoder = RECURRENT._replace(step=step)
    run = jax.jit(lambda prompts, lengths, key: generate(decoder, prompts, lengths, key, TOTAL, draw, (STOP,)))
    counts = []
    for seed in range(4):
        run(np.full((2, 2), seed % V), np.array([1 + seed % 2, 2], np.int32), jax.random.key(seed))
        counts.append(len(traces))
    assert counts[0] == counts[-1] <= 3  # for the shape of the logits, and for the loop
    whole = stream(lambda params: decoder, TOTAL, draw, piece=1)
    for seed in range(4):
        assert len(list(whole((), np.array([[seed % V]]), jax.random.key(seed)))) == TOTAL - 1
        counts.append(len(traces))
    assert counts[4] == counts[-1]


def test_an_lstm_is_a_decoder():
    """Its state is the cache: read one by one and in one pass it gives the same logits, and the same tokens."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens, carry):
            layer = nn.RNN(nn.LSTMCell(8), return_carry=True)
            carry, hidden = layer(nn.one_hot(tokens, W), initial_carry=carry)
            return 5.0 * nn.Dense(W)(hidden), carry

    net, start = Net(), lambda rows, positions: (jnp.zeros((rows, 8)), jnp.zeros((rows, 8)))
    params = jax.jit(net.init)(KEY, jnp.zeros((1, 2), jnp.int32), start(1, 0))
    decoder = Decoder(start, lambda cache, tokens, position: net.apply(params, tokens, cache))
    whole = jax.jit(lambda row: decoder.step(start(1, 0), row, 0)[0][0])
    forward = lambda row: np.asarray(whole(jnp.array([[*row, *[0] * (LONG - len(row))]])))[len(row) - 1]
    assert fast(MANY, KEY, LONG, draw, decoder=decoder) == slow(MANY, KEY, LONG, draw, forward=forward)
    same = [[1, 2, 3, 4], [1, 2, 0]]
    assert fast(same, KEY, LONG, greedy, decoder=decoder, prefix=3) == slow(same, KEY, LONG, greedy, forward=forward)


def test_what_cannot_be_generated_is_refused():
    for prompts, lengths, total, prefix, told in [
        (np.zeros((1, 0), int), [0], 4, 1, "prompts of 0 tokens"),
        (np.zeros((1, 5), int), [5], 4, 1, "prompts of 5 tokens"),
        (np.zeros((2, 3), int), [0, 3], 4, 1, "from 0 to 3"),
        (np.zeros((2, 3), int), [1, 4], 4, 1, "from 1 to 4"),
        (np.zeros((2, 3), int), [2, 3], 4, 3, "prefix = 3"),
        (np.zeros((2, 3), int), [2, 3], 4, 0, "prefix = 0"),
    ]:
        with pytest.raises(BadInput, match=told):
            begin(RECURRENT, prompts, np.array(lengths), total, prefix)
    within = begin(
        RECURRENT, np.array([[1, V]]), np.array([1]), 4
    )  # what stands behind a row's length is not looked at
    assert within.tokens.tolist() == [[1, 0, 0, 0]]
    for prompts, stop, told in [
        ([[0, -1]], (), "token -1 in a prompt"),
        ([[0, V]], (), "token 3 in a prompt"),
        ([[0, 1]], (STOP, V), "token 3 in stop"),
    ]:
        prompts = np.array(prompts)
        with pytest.raises(BadInput, match=told):
            jax.jit(lambda prompts=prompts, stop=stop: generate(RECURRENT, prompts, [2], KEY, 4, draw, stop))()
        with pytest.raises(BadInput, match=told):
            next(stream(lambda params: RECURRENT, 4, draw, stop)((), prompts, KEY))


# -- logits -> logits --------------------------------------------------------------------------------------------------

P = np.array([0.1, 0.4, 0.2, 0.2, 0.1])  # with equals, in no order


def check_kept(function, cases):
    """The set that stays, and the renormalised probabilities, by hand; alone and as a row of a batch."""
    for setting, kept in cases.items():
        expected = np.where(np.isin(np.arange(5), kept), P, 0.0)
        expected = expected / expected.sum()
        alone = function(jnp.log(jnp.asarray(P, jnp.float32)), setting)
        rows = function(jnp.log(jnp.asarray([P[::-1], P], jnp.float32)), setting)
        for logits, probability in [(alone, expected), (rows[1], expected), (rows[0], expected[::-1])]:
            assert np.array_equal(np.isfinite(logits), probability > 0)
            np.testing.assert_allclose(jax.nn.softmax(logits), probability, atol=1e-6)


LIKELY, ALL = [1, 2, 3], [0, 1, 2, 3, 4]
TOP_K = {1: [1], 2: LIKELY, 3: LIKELY, 4: ALL, 5: ALL, 9: ALL}
TOP_P = {1e-9: [1], 0.3: [1], 0.39: [1], 0.41: LIKELY, 0.59: LIKELY, 0.7: LIKELY, 0.79: LIKELY, 0.85: ALL, 1.0: ALL}


def _nucleus(kept):
    """A nucleus that keeps by another rule: (probabilities in falling order, p) -> which of them stay."""

    def mutant(logits, p):
        falling = -jnp.sort(-logits, axis=-1)
        stays = kept(jax.nn.softmax(falling, axis=-1), p)
        least = jnp.min(jnp.where(stays, falling, jnp.inf), axis=-1, keepdims=True)
        return jnp.where(logits >= least, logits, -jnp.inf)

    return mutant


def _exactly(k):
    return lambda logits, _: jnp.where(jnp.argsort(jnp.argsort(-logits, axis=-1), axis=-1) < k, logits, -jnp.inf)


KEPT_MUTANTS = {
    "drops the token that crosses p": (_nucleus(lambda q, p: jnp.cumsum(q, -1) <= p), TOP_P),
    "keeps one more than the crossing": (_nucleus(lambda q, p: jnp.cumsum(q, -1) - 2 * q < p - 0.1), TOP_P),
    "probabilities above p": (_nucleus(lambda q, p: q >= 1 - p), TOP_P),
    "from the least likely": (lambda logits, p: -top_p(-logits, p), TOP_P),
    "not of logits but of probabilities": (lambda logits, p: top_p(jax.nn.softmax(logits, axis=-1), p), TOP_P),
    "k + 1": (lambda logits, k: top_k(logits, k + 1), TOP_K),
    "breaks ties by the number": (lambda logits, k: _exactly(k)(logits, k), TOP_K),
    "zero in place of -inf": (lambda logits, k: jnp.maximum(top_k(logits, k), -1e4), TOP_K),
}


def test_truncations_keep_what_they_say():
    check_kept(top_k, TOP_K)
    check_kept(top_p, TOP_P)
    assert top_p(jnp.zeros((2, 50_000)), 1.0).min() == 0  # all stay, whatever the rounding of the sum


@pytest.mark.parametrize("mutant", KEPT_MUTANTS.values(), ids=KEPT_MUTANTS)
def test_truncations_reject(mutant):
    rejects(check_kept, *mutant)


def check_penalty(penalty):
    """Tokens in the row: positive logits divided by theta, negative ones multiplied, however often they stand there."""
    logits, counts = jnp.array([[3.0, -3.0, 3.0, -3.0, 0.0]]), jnp.array([[1, 2, 0, 0, 1]])
    np.testing.assert_allclose(penalty(logits, counts, 1.5), [[2.0, -4.5, 3.0, -3.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(penalty(logits, counts, 1.0), logits)


PENALTY_MUTANTS = {
    "division of negative logits": lambda l, c, v: jnp.where(c > 0, l / v, l),
    "multiplication of positive logits": lambda l, c, v: jnp.where(c > 0, l * v, l),
    "for each time again": lambda l, c, v: jnp.where(l > 0, l / v**c, l * v**c),
    "of tokens that are not there": lambda l, c, v: repetition_penalty(l, 1 - jnp.minimum(c, 1), v),
    "of every token": lambda l, c, v: repetition_penalty(l, c + 1, v),
    "only of tokens that stand once": lambda l, c, v: repetition_penalty(l, c == 1, v),
}


def test_repetition_penalty():
    check_penalty(repetition_penalty)


@pytest.mark.parametrize("mutant", PENALTY_MUTANTS.values(), ids=PENALTY_MUTANTS)
def test_repetition_penalty_rejects(mutant):
    rejects(check_penalty, mutant)


def test_temperature():
    logits = jnp.array([[0.0, 1.0, -2.0]])
    for value in (0.5, 1.0, 2.0):
        expected = np.exp(np.float64(logits)) ** (1 / value)
        np.testing.assert_allclose(jax.nn.softmax(temperature(logits, value)), expected / expected.sum(), rtol=1e-6)
    tied = temperature(jnp.array([[1.0, 2.0, 2.0], [5.0, 0.0, 0.0]]), 0.0)
    assert np.isfinite(tied).tolist() == [[False, True, False], [True, False, False]]  # the first, as argmax
    cold = lambda logits, counts, key: draw(temperature(logits, 0.0), counts, key)
    assert fast(MANY, KEY, LONG, cold) == fast(MANY, jax.random.key(7), LONG, greedy)


NAN, INF = float("nan"), float("inf")
OUTSIDE = {
    "temperature": (-0.1, NAN, INF),
    "top_k": (0, -1),
    "top_p": (0.0, 1.1, NAN),
    "repetition_penalty": (0.0, INF),
}


@pytest.mark.parametrize(("function", "setting"), [(name, value) for name in OUTSIDE for value in OUTSIDE[name]])
def test_settings_outside_their_ranges_are_refused(function, setting):
    counts = (jnp.zeros(3),) if function == "repetition_penalty" else ()
    with pytest.raises(BadInput, match=f"{function} = {setting}"):
        getattr(choosing, function)(jnp.zeros(3), *counts, setting)

"""GPT: causality by derivatives that are exactly 0, probabilities by enumeration, the cache against the full pass.

Networks here have random parameters of a size at which attention is far from uniform: at its initial values a
transformer hardly looks at its context, and nothing would be tested.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.losses.likelihood import sequence_nll, token_nll
from genjax.models import attention, transformer
from genjax.models.attention import attend, documents, rotate, written
from genjax.models.transformer import GPT, decay_mask

KEY = jax.random.key(0)
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # it compiles twice as fast
SIZES = {"vocabulary": 5, "context": 8, "layers": 2, "heads": 4, "width": 16}
KINDS = {
    "learned": GPT(**SIZES),
    "learned, grouped": GPT(**SIZES, kv_heads=2),
    "rotary": GPT(**SIZES, positions="rotary"),
    "rotary, one head of keys, no bias": GPT(**SIZES, positions="rotary", kv_heads=1, bias=False),
}
TOKENS = np.random.default_rng(0).integers(0, 5, (3, 8)).astype(np.int32)
SEGMENTS = np.array([[3, 3, 3, 1, 1, 3, 3, 3]])  # three documents, of 3, 2 and 3 tokens


def lively(net, scale=0.4):
    """Random parameters, biases and gains included."""
    shapes = jax.eval_shape(net.init, KEY, TOKENS[:, :1])
    leaves, tree = jax.tree.flatten(shapes)
    draw = np.random.default_rng(1)
    return tree.unflatten([jnp.asarray(scale * draw.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


# -- what looks at what ------------------------------------------------------------------------------------------------


def late(q, k, v, start=None, rate=0.0, key=None):  # attends to the token after its own, which it is to predict
    return jnp.roll(attend(jnp.roll(q, 1, 1), k, v, start, rate, key), -1, 1)


def check_dependence(net, several=(True, False)):
    """Logits depend on all that they may see, in a row of three documents or one; other derivatives are exactly 0."""
    params, index = lively(net), np.arange(8)

    @quick
    def jacobian(segments):  # max |d logits_t / d embedding_s|, [T, T], of one row
        logits = lambda h: net.apply(params, h[None], segments, method="continued")[0]
        h = net.apply(params, jnp.asarray(TOKENS[:1]), method="embedded")[0]
        return jnp.abs(jax.jacrev(logits)(h)).max(axis=(1, 3))

    for packed in several:
        found = np.asarray(jacobian(SEGMENTS if packed else np.zeros_like(SEGMENTS)))
        start = np.array([0, 0, 0, 3, 3, 5, 5, 5]) if packed else np.zeros(8)
        may = (index[None] <= index[:, None]) & (start[:, None] <= index[None])
        assert np.all(found[~may] == 0.0), "looks where it must not"
        assert np.all(found[may] > 1e-5), "does not look where it may"


@pytest.mark.parametrize("kind", ["learned, grouped", "rotary, one head of keys, no bias"])
def test_what_logits_depend_on(kind):
    check_dependence(KINDS[kind])


def test_both_ways():
    """Without causality every position depends on all of its row, itself too; nothing else is added."""
    net = GPT(**SIZES, kv_heads=2, causal=False)
    params = lively(net)
    logits = lambda h: net.apply(params, h[None], method="continued")[0]
    h = net.apply(params, jnp.asarray(TOKENS[:1]), method="embedded")[0]
    found = np.abs(np.asarray(quick(jax.jacrev(logits))(h))).max(axis=(1, 3))
    assert (found > 1e-6).all()
    one = GPT(**SIZES | {"layers": 1}, kv_heads=2)
    params = lively(one)
    np.testing.assert_allclose(  # of one layer the last token sees the same in both
        one.apply(params, TOKENS[:1])[0, -1], one.clone(causal=False).apply(params, TOKENS[:1])[0, -1], rtol=1e-5
    )


DEPENDENCE_MUTANTS = {
    "sees the next token": ("attend", late, False),
    "sees nothing but itself": ("attend", lambda q, k, v, *rest: v.repeat(q.shape[2] // v.shape[2], 2), False),
    "documents ignored": ("attend", lambda q, k, v, *rest: attend(q, k, v), True),
    "documents overlap by one": ("documents", lambda x: (documents(x)[0], documents(x)[1] - 1), True),
    "equal numbers are one document": ("documents", lambda x: (0 * x, jnp.array([[0, 0, 0, 3, 3, 0, 0, 0]])), True),
}


@pytest.mark.parametrize("mutant", DEPENDENCE_MUTANTS.values(), ids=DEPENDENCE_MUTANTS)
def test_what_logits_depend_on_rejects(mutant, monkeypatch):
    name, planted, packed = mutant
    monkeypatch.setattr(transformer, name, planted)
    rejects(check_dependence, GPT(**SIZES | {"layers": 1}, kv_heads=2), (packed,))


def check_packing(net):
    """A row of three documents gives each one's own logits, within 1e-5."""
    params, run = lively(net), quick(net.apply)
    packed = run(params, TOKENS[:1], SEGMENTS)
    for start, end in ((0, 3), (3, 5), (5, 8)):
        padded = np.zeros((1, 8), np.int32)
        padded[:, : end - start] = TOKENS[:1, start:end]
        alone = run(params, padded, np.zeros((1, 8), np.int32))
        np.testing.assert_allclose(packed[:, start:end], alone[:, : end - start], atol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "rotary"])
def test_packing(kind):
    check_packing(KINDS[kind])


def test_packing_rejects(monkeypatch):
    through = lambda segments: (jnp.arange(8)[None], documents(segments)[1])  # positions that do not restart
    monkeypatch.setattr(transformer, "documents", through)
    rejects(check_packing, KINDS["learned"])
    monkeypatch.setattr(transformer, "documents", lambda segments: (documents(segments)[0], 0 * segments))
    rejects(check_packing, KINDS["learned"])


def check_sum(net, read=lambda rows: rows[:, :-1]):
    """After a first token, the probabilities of all 27 sequences of three of three tokens sum to 1, within 1e-5."""
    rows = np.array([(0, *rest) for rest in itertools.product(range(3), repeat=3)], np.int32)
    logits = quick(net.apply)(lively(net, 0.8), read(rows))
    nats = np.float64(sequence_nll(logits, rows[:, 1:]))
    assert np.ptp(nats) > 2.0  # of a model that prefers some
    np.testing.assert_allclose(np.exp(-nats).sum(), 1.0, atol=1e-5)


SMALL = GPT(vocabulary=3, context=3, layers=1, heads=2, width=8)


@pytest.mark.parametrize("net", [SMALL, SMALL.clone(positions="rotary", kv_heads=1)], ids=["learned", "rotary"])
def test_all_sequences_sum_to_one(net):
    check_sum(net)


def test_all_sequences_sum_to_one_rejects(monkeypatch):
    rejects(check_sum, SMALL, lambda rows: rows[:, 1:])  # targets not shifted
    monkeypatch.setattr(transformer, "attend", late)
    rejects(check_sum, SMALL)


# -- decoding ----------------------------------------------------------------------------------------------------------


def cached(net, params, chunks, apart=True):
    """Logits of TOKENS in chunks of these sizes, over a cache, under jit with a traced position."""
    decoder = net.decoder(params)
    step = (
        decoder.step if apart else lambda cache, *given: net.apply(params, given[0], cache, given[1], method="decode")
    )
    step, cache, position, found = quick(step), decoder.start(3, 8), 0, []
    for size in chunks:
        logits, cache = step(cache, TOKENS[:, position : position + size], jnp.int32(position))
        found.append(logits)
        position += size
    return np.concatenate(found, axis=1)


def check_cache(net, chunks=((1,) * 8, (4, 4))):
    """Within 1e-5 of the full pass."""
    params = lively(net)
    full = quick(net.apply)(params, TOKENS)
    for sizes in chunks:
        np.testing.assert_allclose(cached(net, params, sizes), full, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["learned, grouped", "rotary", "rotary, one head of keys, no bias"])
def test_decoding_is_the_full_pass(kind):
    check_cache(KINDS[kind])


def test_layers_are_taken_apart_outside_of_the_loop_or_inside():
    net = KINDS["rotary"]
    params = lively(net)
    np.testing.assert_allclose(cached(net, params, (4, 4)), cached(net, params, (4, 4), apart=False), atol=1e-6)


CACHE_MUTANTS = {
    "written one late": ("written", lambda cache, new, position: written(cache, new, position + 1)),
    "written at the start": ("written", lambda cache, new, position: written(cache, new, 0 * position)),
    "looks one short": ("attend_cached", lambda q, k, v, at: attention.attend_cached(q, k, v, jnp.maximum(at - 1, 0))),
    "looks one too far": ("attend_cached", lambda q, k, v, at: attention.attend_cached(q, k, v, at + 1)),
    "keys not turned": ("rotate", lambda x, turns: x if x.shape[1] == 1 else rotate(x, turns)),
}


@pytest.mark.parametrize("mutant", CACHE_MUTANTS.values(), ids=CACHE_MUTANTS)
def test_decoding_rejects(mutant, monkeypatch):
    monkeypatch.setattr(transformer, *mutant)
    rejects(check_cache, KINDS["rotary"], ((1,) * 8,))


def test_a_cache_that_is_full_gives_no_numbers():
    net = KINDS["learned"]
    params = lively(net)
    step, cache = net.decoder(params).step, net.cache(3, 4)
    with pytest.raises(BadInput, match="position 4"):
        step(cache, TOKENS[:, :1], 4)
    with pytest.raises(BadInput, match="9 tokens"):
        net.cache(1, 9)
    logits, _ = quick(step)(cache, TOKENS[:, :2], jnp.int32(3))
    assert np.all(np.isnan(logits))


# -- training ----------------------------------------------------------------------------------------------------------


def gradient(net, params):
    def loss(params):
        logits = net.apply(params, TOKENS[:, :-1], deterministic=False, rngs={"dropout": KEY})
        return sequence_nll(logits, TOKENS[:, 1:]).mean()

    return quick(jax.value_and_grad(loss))(params)


def test_scan_and_remat_are_choices_of_speed():
    """The same parameters give the same loss and gradient, dropout included: within 1e-5 of the largest entry."""
    nets = [KINDS["rotary"].clone(dropout=0.3, scan=scan, remat=remat) for scan, remat in ((1, 0), (0, 0), (1, 1))]
    params = lively(nets[0])
    (loss, grads), *others = (gradient(net, params) for net in nets)
    size = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
    for other_loss, other in others:
        np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * size), grads, other)


def test_half_precision_stays_half():
    """Of parameters in bfloat16, as `--precision bfloat16` gives them: activations too, and finite logits."""
    net = KINDS["rotary"].clone(dropout=0.1)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), lively(net, 0.1))
    run = quick(lambda: net.apply(half, TOKENS, deterministic=False, rngs={"dropout": KEY}))
    assert run().dtype == jnp.bfloat16 and bool(jnp.isfinite(run()).all())
    cache = net.decoder(half).start(2, 4)
    assert {array.dtype for array in jax.tree.leaves(cache)} == {jnp.dtype(jnp.bfloat16)}


def test_dropout():
    """None without being asked for; with it, another key, another loss; and its mean is right."""
    net = KINDS["learned"].clone(dropout=0.5)
    params = lively(net)
    run = quick(lambda key: net.apply(params, TOKENS, deterministic=False, rngs={"dropout": key}))
    off = lambda net: quick(lambda: net.apply(params, TOKENS))()
    np.testing.assert_array_equal(off(net), off(KINDS["learned"]))
    assert not np.allclose(run(KEY), run(jax.random.key(1)), atol=1e-2)


NANO = GPT(vocabulary=65, context=64, layers=4, heads=4, width=128)


@pytest.fixture(scope="module")
def fresh():
    rows = np.random.default_rng(2).integers(0, 65, (4, 65)).astype(np.int32)
    return rows, quick(NANO.init)(KEY, rows[:, :-1])


def test_first_loss_is_that_of_a_guess(fresh):
    """log 65 = 4.174 nats a token within 0.1; a tied output layer prefers the token it has just read a little."""
    rows, params = fresh
    loss = float(token_nll(quick(NANO.apply)(params, rows[:, :-1]), rows[:, 1:]).mean())
    assert abs(loss - math.log(65)) < 0.1


def check_initial_values(params):
    """Standard deviations within 3 %: 0.02, and 0.02 / sqrt(8) of what is added; gains 1, biases 0."""
    found = {path[-2].key + "/" + path[-1].key: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for name, values in found.items():
        if name.endswith(("bias", "scale")):
            assert np.all(np.asarray(values) == name.endswith("scale")), name
        else:
            deviation = 0.02 / math.sqrt(8) if name in ("mix/kernel", "down/kernel") else 0.02
            np.testing.assert_allclose(np.std(np.asarray(values, np.float64)), deviation, rtol=0.03, err_msg=name)
            assert abs(np.mean(values)) < 0.03 * deviation, name


def test_initial_values(fresh):
    check_initial_values(fresh[1])
    layers = fresh[1]["params"]["blocks"]["qkv"]["kernel"]
    assert not np.allclose(layers[0], layers[1], atol=0.01)  # every layer has its own key


def test_initial_values_rejects(fresh):
    twice = lambda name: jax.tree_util.tree_map_with_path(
        lambda path, x: 2.0 * x if name in [part.key for part in path] else x, fresh[1]
    )
    for name in ("mix", "down", "qkv", "token", "place", "scale"):
        rejects(check_initial_values, twice(name))


def test_decay():
    """With zero gradients AdamW at rate 0.1 and decay 0.5 takes 5 % of matrices and embeddings, nothing of the rest."""
    params = jax.tree.map(lambda x: x + 3.0, lively(KINDS["learned"]))
    tx = optax.adamw(0.1, weight_decay=0.5, mask=decay_mask)
    updates = quick(lambda: tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0])()
    shrunk = {
        path[-2].key: float((u / x).mean())
        for (path, u), x in zip(jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(params), strict=True)
        if path[-1].key in ("kernel", "embedding")
    }
    assert set(shrunk) == {"qkv", "mix", "up", "down", "token", "place"}
    np.testing.assert_allclose(list(shrunk.values()), -0.05, rtol=1e-4)
    mask = decay_mask(params)
    assert sum(jax.tree.leaves(mask)) == 6 and len(jax.tree.leaves(mask)) == 16
    assert all(np.all(u == 0) for u, m in zip(jax.tree.leaves(updates), jax.tree.leaves(mask), strict=True) if not m)


BAD = {
    "width": (GPT(**SIZES | {"width": 18}), TOKENS, "width = 18, heads = 4"),
    "kv_heads": (GPT(**SIZES, kv_heads=3), TOKENS, "kv_heads = 3, heads = 4"),
    "no kv_heads": (GPT(**SIZES, kv_heads=0), TOKENS, "kv_heads = 0"),
    "odd heads": (GPT(**SIZES | {"width": 12}, positions="rotary"), TOKENS, "3 numbers a head"),
    "positions": (GPT(**SIZES, positions="sine"), TOKENS, "positions = 'sine'"),
    "dropout": (GPT(**SIZES, dropout=1.0), TOKENS, "dropout = 1.0"),
    "layers": (GPT(**SIZES | {"layers": 0}), TOKENS, "layers = 0"),
    "long row": (GPT(**SIZES), np.zeros((1, 9), int), "9 tokens"),
    "token": (GPT(**SIZES), np.array([[0, 5]]), "token 5 at row 0, position 1"),
    "negative token": (GPT(**SIZES), np.array([[0, 1], [-1, 0]]), "token -1 at row 1, position 0"),
    "characters": (GPT(**SIZES), np.zeros((1, 3)), "tokens are float"),
    "one row": (GPT(**SIZES), np.zeros(3, int), "shape"),
}


def test_what_needs_a_direction():
    net = GPT(**SIZES, causal=False)
    params = lively(net)
    with pytest.raises(BadInput, match="segments with causal = False"):
        net.apply(params, TOKENS, SEGMENTS)
    with pytest.raises(BadInput, match="decoding with causal = False"):
        net.apply(params, TOKENS[:, :1], net.cache(len(TOKENS), 4), 0, method="decode")


@pytest.mark.parametrize("net, tokens, told", BAD.values(), ids=BAD)
def test_bad_input(net, tokens, told):
    with pytest.raises(BadInput, match=told) as caught:
        net.init(KEY, tokens)
    assert len(caught.value.lines) <= 3

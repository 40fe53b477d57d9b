"""What a transformer is made of, each against its formula: attention, rotary positions, dropout, lookups."""

import math

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.distributions.words import threefry
from genjax.models import attention
from genjax.models.attention import attend, rotary_table, rotate
from genjax.models.dropout import dropped
from genjax.models.embedding import looked_up

KEY = jax.random.key(0)

# -- attention, against NumPy in float64 -------------------------------------------------------------------------------

Q, K, V = (np.random.default_rng(i).normal(size=(2, 6, heads, 4)) * 1.5 for i, heads in enumerate((6, 2, 2)))
STARTS = np.array([[0, 0, 2, 2, 2, 5], [0, 1, 2, 3, 3, 3]])


def exact_attention(start):
    """One query, one head at a time: query head h reads head h // (H / K) of keys and values."""
    out = np.zeros(Q.shape)
    for b, t, h in np.ndindex(*Q.shape[:3]):
        seen = slice(start[b, t], t + 1)
        weight = np.exp(K[b, seen, h // 3] @ Q[b, t, h] / np.sqrt(4))
        out[b, t, h] = weight @ V[b, seen, h // 3] / weight.sum()
    return out


def check_attention(attend):
    rows = [np.float32(x) for x in (Q, K, V)]
    np.testing.assert_allclose(attend(*map(jnp.asarray, rows)), exact_attention(0 * STARTS), atol=1e-5)
    np.testing.assert_allclose(attend(*map(jnp.asarray, rows), STARTS), exact_attention(STARTS), atol=1e-5)


ATTENTION_MUTANTS = {
    "no 1 / sqrt(D)": lambda q, k, v, start=None: attend(q * 2.0, k, v, start),
    "1 / D": lambda q, k, v, start=None: attend(q / 2.0, k, v, start),
    "documents ignored": lambda q, k, v, start=None: attend(q, k, v),
    "document starts one early": lambda q, k, v, start=None: attend(q, k, v, None if start is None else start - 1),
    "sees the next token": lambda q, k, v, start=None: jnp.roll(attend(jnp.roll(q, 1, 1), k, v, start), -1, 1),
    "keys for values": lambda q, k, v, start=None: attend(q, k, k, start),
    "heads of keys exchanged": lambda q, k, v, start=None: attend(q, k[:, :, ::-1], v[:, :, ::-1], start),
    "heads grouped the other way": lambda q, k, v, start=None: attend(
        q.reshape(2, 6, 3, 2, 4).swapaxes(2, 3).reshape(q.shape), k, v, start
    ),
}


@pytest.mark.parametrize("block", [128, 4, 1])
def test_attention(block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)  # of queries: 6 tokens in one block, in two, in six
    check_attention(attend)


def test_attention_of_other_backends(monkeypatch):
    """What is called where the backend is no CPU, by XLA: the same numbers."""
    monkeypatch.setattr(attention.jax, "default_backend", lambda: "tpu")
    check_attention(attend)


@pytest.mark.parametrize("mutant", ATTENTION_MUTANTS.values(), ids=ATTENTION_MUTANTS)
def test_attention_rejects(mutant):
    rejects(check_attention, mutant)


def check_rotary(rotate):
    """Pair i of a head at position t, as a complex number, is multiplied by exp(i t theta_i)."""
    x, table = np.random.default_rng(0).normal(size=(2, 7, 3, 6)), rotary_table(40, 6)
    turned = np.asarray(rotate(jnp.float32(x), table[10:17]))
    angle = np.arange(10, 17)[:, None] * 10_000.0 ** (-np.arange(3) / 3)
    exact = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angle)[:, None]
    np.testing.assert_allclose(turned, np.concatenate([exact.real, exact.imag], -1), atol=1e-5)


def test_rotary():
    check_rotary(rotate)


def test_rotary_rejects():
    swapped = lambda table: np.concatenate([table[:, 3:], table[:, :3]], 1)
    backwards = lambda table: np.concatenate([table[:, :3], -table[:, 3:]], 1)
    rejects(check_rotary, lambda x, table: rotate(x, swapped(table)))
    rejects(check_rotary, lambda x, table: rotate(x, backwards(table)))
    rejects(check_rotary, lambda x, table: rotate(x, np.roll(table, 1, 0)))


def check_half(rotate):
    """Of bfloat16 at late positions: what float32 gives, rounded once."""
    x, table = jnp.bfloat16(np.random.default_rng(0).normal(size=(1, 9, 4, 8))), rotary_table(1000, 8)[-9:]
    turned, exact = rotate(x, table), rotate(jnp.float32(x), table)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, exact.astype(jnp.bfloat16))


def test_rotary_in_half_precision():
    check_half(rotate)
    rejects(check_half, lambda x, table: rotate(x, jnp.asarray(table, x.dtype)))


def check_relative(rotate):
    """q_t . k_s depends on t - s alone: the same for positions 0.. and 23..; and it does depend on it."""
    q, k = (jnp.float32(np.random.default_rng(i).normal(size=(1, 1, 1, 8))) for i in (0, 1))
    table = rotary_table(64, 8)
    score = lambda t, s: float(jnp.sum(rotate(q, table[t : t + 1]) * rotate(k, table[s : s + 1])))
    scores = np.array([[score(t + shift, t) for t in (0, 5, 23, 60)] for shift in (0, 1, 3)])
    np.testing.assert_allclose(scores, np.broadcast_to(scores[:, :1], scores.shape), atol=1e-4)
    assert np.ptp(scores[:, 0]) > 0.1


def test_rotary_is_relative():
    check_relative(rotate)


def test_rotary_is_relative_rejects():
    rejects(check_relative, lambda x, turns: x)
    rejects(check_relative, lambda x, turns: rotate(x, turns * np.repeat([1.0, 1.1], 4)))  # no rotation
    signs = iter([1.0, -1.0] * 100)  # keys turned the other way than queries
    rejects(check_relative, lambda x, turns: rotate(x, turns * np.repeat([1.0, next(signs)], 4)))


# -- dropout and lookups -----------------------------------------------------------------------------------------------


def check_dropped(dropped):
    """Of 100,000 ones: zeros as often as the rate within 5 standard errors, the mean 1."""
    x = np.asarray(dropped(jnp.ones(100_000), 0.2, KEY))
    error = math.sqrt(0.2 * 0.8 / 100_000)
    assert abs((x == 0).mean() - 0.2) < 5 * error
    assert abs(x.mean() - 1.0) < 5 * error / 0.8


def test_dropped():
    check_dropped(dropped)
    assert dropped(jnp.ones(3), 0.5, None).tolist() == [1.0, 1.0, 1.0]


def test_words_of_dropout_are_those_of_jax():
    key, counter = jnp.uint32([7, 11]), jnp.arange(8, dtype=jnp.uint32)
    own = jnp.concatenate(threefry(key[0], key[1], counter[:4], counter[4:]))
    np.testing.assert_array_equal(own, jax.extend.random.threefry_2x32(tuple(key), counter))


def test_dropped_rejects():
    rejects(check_dropped, lambda x, rate, key: dropped(x, 1 - rate, key))
    rejects(check_dropped, lambda x, rate, key: dropped(x, rate, key) * (1 - rate))


def test_looked_up():
    """By a product or by a gather: the same rows and the same gradient, within 1e-6."""
    table = jnp.float32(np.random.default_rng(0).normal(size=(7, 3)))
    index, weight = np.random.default_rng(1).integers(0, 7, (4, 5)), np.random.default_rng(2).normal(size=(4, 5, 3))
    assert index.size > len(table)
    np.testing.assert_array_equal(looked_up(table, index), np.asarray(table)[index])
    np.testing.assert_array_equal(looked_up(table, index[:1, :2]), np.asarray(table)[index[:1, :2]])
    grads = jax.grad(lambda table: jnp.sum(looked_up(table, index) * np.float32(weight)))(table)
    exact = np.zeros((7, 3))
    np.add.at(exact, index, weight)
    np.testing.assert_allclose(grads, exact, atol=1e-6)
    assert np.isnan(jax.jit(looked_up)(table, jnp.array([[7, -1]]))).all()

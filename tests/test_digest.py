"""Digests see every change of bits, whatever the dtype, and are blind to where an array lies.  With planted bugs."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import digest

DTYPES = (
    *("float32", "bfloat16", "float16", "int32", "int16", "int8", "uint32", "uint8", "bool", "complex64"),
    *("int4", "uint4", "float8_e4m3fn"),
)


def by_hand(x):
    """The definition at the head of digest.py, word by word, in Python's integers."""

    def f(w):
        w = (w ^ w >> 16) * 0x85EBCA6B % 2**32
        w = (w ^ w >> 13) * 0xC2B2AE35 % 2**32
        return w ^ w >> 16

    words = np.ascontiguousarray(x).reshape(-1).view(np.uint32).tolist()
    lanes = zip(digest.A.tolist(), digest.B.tolist(), strict=True)
    return [sum(f(w ^ (a + b * i) % 2**32) for i, w in enumerate(words)) % 2**32 for a, b in lanes]


def example(dtype, shape=(5, 6)):
    values = jax.random.randint(jax.random.key(0), shape, -4, 4)
    return (values > 0) if dtype == "bool" else values.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_lanes_are_the_sums_of_the_definition(dtype):
    x = example(dtype)
    assert np.asarray(digest.lanes(x)).tolist() == by_hand(x)


SHAPES = [(), (0, 3), (7,), (digest.SMALL,), (digest.SMALL + 1,), (digest.CHUNK + 17,), (2, digest.CHUNK)]


@pytest.mark.parametrize(("dtype", "shape"), [(d, (3, 4, 5)) for d in DTYPES] + [("float32", s) for s in SHAPES])
def test_host_and_device_agree(dtype, shape):
    x = example(dtype, shape)
    assert digest._on_host(x).tolist() == np.asarray(digest._on_devices(x)).tolist()
    assert digest._on_host(np.asarray(x)).tolist() == digest._on_host(x).tolist()


def test_64_bit_elements_and_typed_keys():
    keys = jax.random.split(jax.random.key(3), 4)
    assert digest._on_host(keys).tolist() == np.asarray(digest._on_devices(keys)).tolist()
    with jax.enable_x64(True):
        for dtype in ("float64", "int64", "complex128"):
            x = example(dtype)
            assert digest._on_host(x).tolist() == np.asarray(digest._on_devices(x)).tolist()
            assert digest.digests(x) != digest.digests(x + x.dtype.type(2**-30 if dtype != "int64" else 2**40))


def every_flip_is_seen(lanes):
    """Flip each bit of one element, at the start, in the middle and at the end; no lane may stay as it was."""
    x = np.asarray(jax.random.normal(jax.random.key(1), (9, 11)))
    whole = np.asarray(lanes(jnp.asarray(x)))
    for index in (0, 50, 98):
        for bit in range(32):
            y = x.copy()
            y.reshape(-1).view(np.uint32)[index] ^= np.uint32(1 << bit)
            assert (np.asarray(lanes(jnp.asarray(y))) != whole).all(), (index, bit)


def every_move_is_seen(lanes):
    """Swap two elements, transpose, roll, reverse; change two elements such that their sum stays."""
    x = np.arange(64, dtype=np.int32).reshape(8, 8)
    swapped, balanced = x.copy(), x.copy()
    swapped[2, 5], swapped[5, 2] = x[5, 2], x[2, 5]
    balanced[0, 0], balanced[0, 1] = 1, 0
    shifted = x + np.int32(1)
    for y in (swapped, balanced, x.T, np.roll(x, 1), x[::-1], shifted):
        assert (np.asarray(lanes(jnp.asarray(y))) != np.asarray(lanes(jnp.asarray(x)))).all()


def lanes_are_independent(lanes):
    """Four lanes must be worth 128 bits: no two are equal over many arrays, nor differ by a constant."""
    found = np.stack([np.asarray(lanes(jnp.full((3,), value, jnp.int32))) for value in range(16)])
    for one in range(4):
        for two in range(one):
            assert len(set((found[:, one] - found[:, two]).tolist())) == 16


CHECKS = (every_flip_is_seen, every_move_is_seen, lanes_are_independent)


def without_positions(x):
    return jnp.stack([jnp.sum(digest.finalise(digest.words(x) ^ a), dtype=jnp.uint32) for a in digest.A])


def with_one_index_for_all_axes(x):
    index = sum(jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) for axis in range(x.ndim))
    return digest._sums(digest.words(x), index)


def without_mixing(x):
    word, index = digest.words(x), jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    return jnp.stack(
        [jnp.sum(word + (index * b + a), dtype=jnp.uint32) for a, b in zip(digest.A, digest.B, strict=True)]
    )


def of_rounded_values(x):
    return digest.lanes(x.astype(jnp.bfloat16))


def of_values_not_bits(x):
    return digest.lanes(jnp.abs(x))


def with_equal_lanes(x):
    return jnp.full((4,), digest.lanes(x)[0])


def combined_by_or(x):
    word, index = digest.words(x), jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    terms = [digest.finalise(word ^ (index * b + a)) for a, b in zip(digest.A, digest.B, strict=True)]
    return jnp.stack([jnp.bitwise_or.reduce(term, axis=None) for term in terms])


@pytest.mark.parametrize("check", CHECKS)
def test_every_change_is_seen(check):
    check(jax.jit(digest.lanes))


@pytest.mark.parametrize(
    ("mutant", "killer"),
    [
        (without_positions, every_move_is_seen),
        (with_one_index_for_all_axes, every_move_is_seen),
        (without_mixing, every_move_is_seen),
        (of_rounded_values, every_flip_is_seen),
        (of_values_not_bits, every_flip_is_seen),
        (combined_by_or, every_flip_is_seen),
        (with_equal_lanes, lanes_are_independent),
    ],
)
def test_planted_bugs_are_found(mutant, killer):
    with pytest.raises(AssertionError):
        killer(jax.jit(mutant))


def test_shape_dtype_and_path_count():
    x = jnp.zeros((2, 3), jnp.int32)
    found = {
        *digest.digests(x).values(),
        *digest.digests(x.T).values(),
        *digest.digests(x.astype(jnp.uint32)).values(),
        *digest.digests(x.astype(jnp.float32)).values(),
    }
    assert len(found) == 4


def test_signed_zero_and_nan_payloads_are_bits():
    quiet = np.array([0x7FC00000, 0x7FC00001, 0x80000000, 0], np.uint32).view(np.float32)
    assert len({digest.digests(value)[""] for value in quiet}) == 4


def test_names_do_not_collide():
    tree = {"a": {"b": 0, "b/c": 0}, "a/b": 0, "a.b": 0, "a~1b": 0, "t": (1, [2, None], ())}
    assert list(digest.named(tree)) == ["a/b", "a/b~1c", "a.b", "a~1b", "a~01b", "t/0", "t/1/0"]


@jax.tree_util.register_pytree_with_keys_class
class Twins(tuple):
    """A custom node that gives both children one key."""

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("twin"), child) for child in self], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(children)


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same key"):
        digest.named(Twins((1, 2)))


SHARDED = """
import json, jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from genjax import digest, parallel
mesh = parallel.mesh()
x = jax.random.normal(jax.random.key(0), (8, 12, 16))
tree = {"bits": x, "half": x.astype(jnp.bfloat16), "flag": x > 0, "byte": (x * 40).astype(jnp.int8)}
found = []
for spec in (None, P(), P("data"), P(None, "data"), P(None, None, "data")):
    placed = tree if spec is None else jax.device_put(tree, NamedSharding(mesh, spec))
    found.append(digest.digests(placed))
print(json.dumps([len(jax.devices()), found]))
"""


def test_four_devices_find_the_digest_of_one():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, check=True)
    devices, found = json.loads(done.stdout)
    assert devices == 4
    x = jax.random.normal(jax.random.key(0), (8, 12, 16))
    here = digest.digests({"bits": x, "half": x.astype(jnp.bfloat16), "flag": x > 0, "byte": (x * 40).astype(jnp.int8)})
    assert found == [here] * 5

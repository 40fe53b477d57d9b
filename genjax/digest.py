"""Digests of arrays, computed where the arrays lie, whatever their sharding.

An array x is read as 32-bit words w_0, ..., w_(n-1) in row-major order; an element of one or two bytes is one word, a
longer one several.  With odd pseudo-random constants a_k and b_k, lane k of its digest is

    L_k(x) = sum_i  f(w_i XOR p_k(i))  mod 2^32,      p_k(i) = a_k + b_k i  mod 2^32,      k = 1, ..., 4,

where f is the finaliser of MurmurHash3 (Appleby 2011, public domain): two odd multiplications between shifted XORs,
hence a bijection of words, in which every bit of the input flips every bit of the output with probability near 1/2.

* A change confined to one word changes every lane, with certainty: f is a bijection, so exactly one term differs.
* Several changed words, words that changed places, or swapped axes leave all four lanes equal with probability about
  2^-128: each i has its own p_k(i), and no linear relation between words survives f.  (From 2^32 words on, 16 GiB in
  one leaf, positions come again: a word and the one exactly 2^32 later could change places unseen.)
* Integer sums commute: each device sums what it holds, and 1 or 4,096 devices on any number of hosts arrive at the same
  number, which sums of floating-point numbers do not promise.

It detects accidents (flipped bits, cut files, mixed up arrays), not an adversary, who can compute digests himself.
"""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from genjax.types import Array

LANES = 4
SMALL, CHUNK = 2**10, 2**16  # words: what NumPy digests on the host, and what one compiled call does


def finalise(word: Any) -> Any:
    """MurmurHash3's 32-bit finaliser f: a bijection of uint32 words.

    Args:
      word: uint32 array of any shape, of NumPy or JAX.

    >>> f"{int(finalise(jnp.uint32(1))):08x}"
    '514e28b7'
    """
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return word ^ (word >> np.uint32(16))


A, B = finalise(np.arange(1, 1 + 2 * LANES, dtype=np.uint32)).reshape(2, LANES) | np.uint32(1)


def lanes(x: jax.Array) -> jax.Array:
    """The four sums L_k(x), by one reduction over x as it lies: uint32 [LANES].

    >>> lanes(jnp.arange(3)).tolist() == lanes(jnp.arange(3)[::-1]).tolist()
    False
    """
    word, stride = words(x), 1
    position = jnp.zeros(word.shape, jnp.uint32)
    for axis in reversed(range(word.ndim)):
        position += lax.broadcasted_iota(jnp.uint32, word.shape, axis) * np.uint32(stride % 2**32)
        stride *= word.shape[axis]
    return _sums(word, position)


def words(x: jax.Array) -> jax.Array:
    """The bits of an array as uint32: its shape, and more axes at the end where an element has several words.

    >>> [hex(word) for word in words(jnp.array([1.0, -0.0])).tolist()]
    ['0x3f800000', '0x80000000']
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return words(jnp.stack([x.real, x.imag], axis=-1))
    if x.dtype in (jnp.bool_, jnp.uint4):
        return x.astype(jnp.uint32)
    x = x.astype(jnp.int8) if x.dtype == jnp.int4 else x
    narrow = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return lax.bitcast_convert_type(x, narrow).astype(jnp.uint32)


def measure(leaves: Mapping[str, Array]) -> dict[str, Array]:
    """The lanes of every leaf: on accelerators and across devices they are only started, and not waited for.

    Args:
      leaves: arrays by path, as `named` returns them.

    Returns:
      The lanes of each, uint32 [LANES], readable on every process.
    """
    return {path: _on_host(leaf) if _lies_on_host(leaf) else _on_devices(leaf) for path, leaf in leaves.items()}


def text(lane: Array, shape: tuple[int, ...], dtype: str) -> str:
    """The digest of one leaf, from its lanes, shape and dtype: 32 hexadecimal digits."""
    bits = np.asarray(lane).astype("<u4").tobytes()
    return hashlib.sha256(f"{dtype} {list(shape)} ".encode() + bits).hexdigest()[:32]


def digests(tree: Any) -> dict[str, str]:
    """The digest of every leaf of a tree, by path: equal if and only if all bits are (but for 1 in 2^128).

    >>> one, two = digests({"w": jnp.zeros((2, 3))}), digests({"w": jnp.zeros((3, 2))})
    >>> one.keys() == two.keys(), one == two
    (True, False)
    """
    leaves = named(jax.tree.map(jnp.asarray, tree))
    return {path: text(lane, leaves[path].shape, str(leaves[path].dtype)) for path, lane in measure(leaves).items()}


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, in the order of `jax.tree.leaves`; trees without leaves have none.

    A "/" within a key is written "~1" and a "~" is written "~0" (RFC 6901), so that no two paths collide.

    >>> list(named({"a": {"b": 1}, "a/b": 2, "c": ((), None, [3])}))
    ['a/b', 'a~1b', 'c/2/0']
    """
    flat = jax.tree.leaves_with_path(tree)
    leaves = {"/".join(_key(key) for key in path): leaf for path, leaf in flat}
    if len(leaves) != len(flat):
        raise ValueError("a custom pytree node gives two of its children the same key")
    return leaves


def _sums(word: jax.Array, position: jax.Array, count: Any = None) -> jax.Array:
    terms = [finalise(word ^ (position * b + a)) for a, b in zip(A, B, strict=True)]
    if count is not None:
        terms = [jnp.where(lax.iota(jnp.uint32, word.size) < count, term, np.uint32(0)) for term in terms]
    zeros = (np.uint32(0),) * LANES  # one reduction of four operands reads the array once: 6 times faster than four
    add = lambda left, right: tuple(x + y for x, y in zip(left, right, strict=True))
    return jnp.stack(lax.reduce(tuple(terms), zeros, add, tuple(range(word.ndim))))


def _key(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True).replace("~", "~0").replace("/", "~1")


def _on_devices(x: Any) -> jax.Array:
    everywhere = NamedSharding(x.sharding.mesh, P()) if isinstance(x.sharding, NamedSharding) else None
    return _compiled(everywhere)(x)


@functools.cache
def _compiled(sharding: Any) -> Any:
    return jax.jit(lanes, out_shardings=sharding)


def _lies_on_host(x: Array) -> bool:
    if isinstance(x, np.ndarray):
        return True
    devices: set[Any] = x.sharding.device_set
    return len(devices) == 1 and x.is_fully_addressable and next(iter(devices)).platform == "cpu"


def _on_host(x: Array) -> np.ndarray:
    """The same sums by chunks of one size: one compilation for all shapes, where one each would cost 70 ms each."""
    word, total = _words_on_host(x).astype(np.uint32), np.zeros(LANES, np.uint32)
    if word.size <= SMALL:  # a bias or a counter: dearer to send through a compiled program than to compute
        position = np.arange(word.size, dtype=np.uint32)
        return finalise(word ^ (position * B[:, None] + A[:, None])).sum(axis=1, dtype=np.uint32)
    with jax.default_device(_host_device()):
        for start in range(0, word.size, CHUNK):
            chunk = word[start : start + CHUNK]
            padded = chunk if chunk.size == CHUNK else np.pad(chunk, (0, CHUNK - chunk.size))
            total += np.asarray(_chunk_sums(padded, np.uint32(start % 2**32), np.uint32(chunk.size)))
    return total


@jax.jit
def _chunk_sums(word: jax.Array, start: jax.Array, count: jax.Array) -> jax.Array:
    return _sums(word, start + lax.iota(jnp.uint32, CHUNK), count)


def _words_on_host(x: Array) -> np.ndarray:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    x = np.ascontiguousarray(x)
    x = x.astype({"int4": np.int8, "uint4": np.uint8}.get(str(x.dtype), x.dtype), copy=False)
    return x.reshape(-1).view({1: np.uint8, 2: np.uint16}.get(x.dtype.itemsize, np.uint32))


def _host_device() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to use nothing but accelerators
        return jax.local_devices()[0]

r"""A pseudo-random permutation of 0 .. N-1, one element at a time.

Shuffling by a sort needs all N positions at once. A Feistel network gives the row at any position alone, so batch t is
computed inside the compiled update from (key, t), on any number of hosts, with nothing to store.

Write x in [0, ab) as the pair l = x // b in Z_a, r = x mod b in Z_b. Round i adds to one half a hash of the other,

    l <- l + F(r, k_i) mod a   (i even),        r <- r + F(l, k_i) mod b   (i odd),

which is undone by subtracting it: every round, hence the network, is a bijection of Z_a x Z_b whatever F is. Where
ab > N, walk on: apply the network again until the result is below N; that is a bijection of 0 .. N-1.

Black and Rogaway (2002), "Ciphers with arbitrary finite domains", https://doi.org/10.1007/3-540-45760-7_9.
"""

from collections.abc import Callable
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.types import Array

ROUNDS = 24  # small sets mix slowest: of 400,000 orders of 5 to 7 rows a chi-square rejects 12 and 16 rounds, not 24


def permute(positions: Array, rows: int, keys: Array) -> Array:
    """The rows at given positions of a pseudo-random permutation.

    Args:
      positions: unsigned 32-bit integers in [0, rows), any shape; NumPy or JAX, which is also what is returned.
      rows: N in [1, 2**31).
      keys: [ROUNDS, ...] unsigned 32-bit random words, each `keys[i]` a scalar or of a shape that fits `positions`.
    Returns:
      uint32 of the shape of `positions`: distinct positions have distinct rows, all below N.

    >>> keys = np.arange(ROUNDS, dtype=np.uint32)
    >>> sorted(permute(np.arange(5, dtype=np.uint32), 5, keys).tolist())
    [0, 1, 2, 3, 4]
    """
    a, b = factors(rows)
    once = network(positions, a, b, keys)
    if a * b == rows:
        return once
    numpy = isinstance(once, np.ndarray)
    xp: Any = np if numpy else jnp
    loop = _while if numpy else jax.lax.while_loop
    return loop(lambda x: xp.any(x >= rows), lambda x: xp.where(x < rows, x, network(x, a, b, keys)), once)


def factors(rows: int) -> tuple[int, int]:
    """(a, b) with ab >= rows and a > sqrt(rows) / 2: the fewest positions are walked over; then, nearly square."""
    root = isqrt(rows - 1) + 1
    a = min(range(root, root // 2, -1), key=lambda a: a * -(-rows // a) - rows)
    return a, -(-rows // a)


def network(x: Array, a: int, b: int, keys: Array) -> Array:
    """The Feistel network on Z_a x Z_b, a bijection of [0, ab); nothing overflows 32 bits while ab < 2**32."""
    left, right = x // np.uint32(b), x % np.uint32(b)
    for i in range(ROUNDS):
        if i % 2 == 0:
            left = (left + mix(right ^ keys[i]) % np.uint32(a)) % np.uint32(a)
        else:
            right = (right + mix(left ^ keys[i]) % np.uint32(b)) % np.uint32(b)
    return left * np.uint32(b) + right


def mix(x: Array) -> Array:
    """A bijective hash of 32-bit words: each input bit flips each output bit with a probability near 1/2.

    The constants are those of Wellons' `lowbias32` (public domain), https://nullprogram.com/blog/2018/07/31/.
    """
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _while(condition: Callable[[Any], Any], body: Callable[[Any], Any], x: Any) -> Any:
    while condition(x):
        x = body(x)
    return x

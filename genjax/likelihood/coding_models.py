"""Networks as the entropy coder sees them: by full passes, or by a cache that remembers; texts as rows.

What `genjax.likelihood.coding` needs is a step: the symbol at t - 1 goes in, the logits of the symbol at t come out,
and what is computed depends on the symbols before t alone, in both directions alike.

A text longer than the context is coded in a window that jumps: where it is full, its newest half is read again as its
first half, so that every token but the first ones has at least half a context before it.  To code many tokens at once
it is cut into rows, which begin without a context; each of them costs what its first tokens cost more.

Sources: the chain rule; Germain et al., MADE, 2015, https://arxiv.org/abs/1502.03509; Shazeer, Fast Transformer
Decoding, 2019, https://arxiv.org/abs/1911.02150 (the cache).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from genjax.errors import BadInput
from genjax.likelihood.coding import Autoregression
from genjax.samplers.decode import Decoder
from genjax.types import Array, Params

STREAMS, LEAST = 64, 512  # rows of a text, at most; tokens of a row, about at least


def full_pass(
    logits: Callable[[Params, jax.Array], jax.Array],
    symbols: int,
    order: Sequence[int],
    blank: int = 0,
    at_once: int = 1,
) -> Autoregression:
    """A network that gives all conditionals at once: a full pass a position, or a few, over symbols that are known.

    It is autoregressive by its masks (MADE, PixelCNN), or takes a mask for what is not known yet (masked diffusion, in
    one of its orders).

    Args:
      logits: (parameters, symbols [B, T]) -> logits [B, T, V]; those of a position do not look at it or what follows.
      symbols: V.
      order: [T] the position that is coded first, second, ...; symbols are given and returned in this order.
      blank: what stands where a symbol is not known: of a masked model the mask.
      at_once: positions that one pass serves, as if they were independent given those before: fewer passes, more bits.

    Returns:
      `Autoregression`, of rows of T symbols.

    Raises:
      BadInput: no position at once.

    Source: the chain rule; Germain et al., 2015; Uria, Murray and Larochelle, 2014, https://arxiv.org/abs/1310.1757;
    Hoogeboom et al., 2022, https://arxiv.org/abs/2110.02037, section 3.1 (several positions at once).

    >>> model = full_pass(lambda params, x: jnp.zeros((*x.shape, 2)), 2, range(3))
    >>> model.step(None, model.start(None, 4), jnp.zeros(4, int), jnp.array(0))[0].shape
    (4, 2)
    """
    if at_once < 1:
        raise BadInput(f"at_once = {at_once}", "allowed: whole numbers from 1")
    places = jnp.asarray(np.asarray(order, np.int32))

    def start(params: Params, rows: int) -> tuple[jax.Array, ...]:
        x = jnp.full((rows, len(places)), blank, jnp.int32)
        return (x,) if at_once == 1 else (x, jnp.zeros((*x.shape, symbols)))

    def step(params: Params, carry: Any, previous: jax.Array, t: jax.Array) -> tuple[jax.Array, Any]:
        x = jnp.where(t > 0, carry[0].at[:, places[t - 1]].set(previous), carry[0])
        if at_once == 1:
            return jnp.take(logits(params, x), places[t], axis=1), (x,)
        found = lax.cond(t % at_once == 0, lambda: logits(params, x).astype(jnp.float32), lambda: carry[1])
        return jnp.take(found, places[t], axis=1), (x, found)

    return Autoregression(symbols, start, step, at_once)


def cached(decoder: Callable[[Params], Decoder], symbols: int, context: int, first: int = 0) -> Autoregression:
    """A network that reads from left to right with a cache, of rows of any length.

    Args:
      decoder: parameters -> the network as generation sees it.
      symbols: V.
      context: tokens that it can hold, C >= 2.
      first: the token that stands before the first symbol.

    Returns:
      `Autoregression`: the law of x_t given `first` and x_1 .. x_{t-1} while they fit into the context, and later given
      the newest C / 2 to C - 1 of them.

    Raises:
      BadInput: a context of less than two tokens.

    Source: the file's head; Shazeer, 2019.

    >>> copy = lambda params: Decoder(lambda rows, positions: (), lambda c, x, position: (jax.nn.one_hot(x, 3), c))
    >>> model = cached(copy, 3, context=4, first=2)
    >>> model.step(None, model.start(None, 1), jnp.array([0]), jnp.array(0))[0].tolist()  # given the first
    [[0.0, 0.0, 1.0]]
    >>> model.step(None, model.start(None, 1), jnp.array([0]), jnp.array(1))[0].tolist()
    [[1.0, 0.0, 0.0]]
    """
    if context < 2:
        raise BadInput(f"a context of {context}", "allowed: from 2 tokens on")
    half = max(1, context // 2)

    def start(params: Params, rows: int) -> Any:
        return decoder(params).start(rows, context), jnp.full((rows, half), first, jnp.int32)

    def step(params: Params, carry: Any, previous: jax.Array, t: jax.Array) -> tuple[jax.Array, Any]:
        network, (cache, newest) = decoder(params), carry
        read = jnp.where(t > 0, previous, first).astype(jnp.int32)
        newest = jnp.concatenate([newest[:, 1:], read[:, None]], axis=1)
        turn = jnp.maximum(t - context, 0) % (context - half + 1)  # since the window jumped

        def again(_: Any) -> Any:
            empty = network.start(len(read), context)
            return empty if half == 1 else network.step(empty, newest[:, :-1], jnp.int32(0))[1]

        cache = lax.cond((t >= context) & (turn == 0), again, lambda kept: kept, cache)
        place = jnp.where(t < context, t, half - 1 + turn).astype(jnp.int32)
        logits, cache = network.step(cache, newest[:, -1:], place)
        return logits[:, 0], (cache, newest)

    return Autoregression(symbols, start, step)


def streams(count: int) -> tuple[int, int, int]:
    """How a text is laid out: rows, tokens of a row, and how many rows have a token at the last position.

    Args:
      count: tokens, from 0 on.

    Returns:
      (R, T, last): R a power of two up to 64 with about 512 tokens a row or more, and R (T - 1) + last = count.

    Source: the file's head, 2019.

    >>> streams(100), streams(1_601), streams(100_000)
    ((1, 100, 1), (2, 801, 1), (64, 1563, 32))
    """
    rows = 1
    while rows < STREAMS and count >= 2 * rows * LEAST:
        rows *= 2
    length = -(-count // rows)
    return rows, length, count - rows * (length - 1)


def in_rows(tokens: Array) -> np.ndarray:
    """A text as rows, one after the other, with 0 at the end of those that are a token shorter.

    Args:
      tokens: [n] integers.

    Returns:
      [R, T] int32.

    Source: the file's head, 2019.

    >>> in_rows(np.arange(1_601))[:, [0, -1]].tolist()
    [[0, 800], [801, 0]]
    """
    tokens = np.asarray(tokens)
    rows, length, last = streams(len(tokens))
    found = np.zeros((rows, length), np.int32)
    for row, part in zip(found, np.split(tokens, _cuts(rows, length, last)), strict=True):
        row[: len(part)] = part
    return found


def joined(rows: Array, count: int) -> np.ndarray:
    """The text of rows: what `in_rows` was given.

    Args:
      rows: [R, T].
      count: n, tokens.

    Returns:
      [n] int32.

    Source: the file's head, 2019.

    >>> joined(in_rows(np.arange(1_601)), 1_601).tolist() == [*range(1_601)]
    True
    """
    found = np.asarray(rows, np.int32)
    _, length, last = streams(count)
    return np.concatenate([row[: length - (i >= last)] for i, row in enumerate(found)])


def _cuts(rows: int, length: int, last: int) -> np.ndarray:
    return np.cumsum([length - (i >= last) for i in range(rows)])[:-1]

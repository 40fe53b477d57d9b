"""Autoregressive generation with a cache: one compiled loop, for any network that reads from left to right.

    x_t ~ p(x_t | x_<t),   t = n, n+1, ..., T-1,   from a prompt x_0 .. x_{n-1}

A network is a `Decoder`: `start` makes an empty cache, `step` reads tokens at a position and returns the logits of the
token after each of them, and the cache with the tokens in it.  The cache is any tree of arrays: keys and values of
attention [B, L, ...], or the state of a recurrent network, which has no L.  Nothing here looks into it.

All rows of a batch stand at the same position.  Prompts of different length are padded on the right, and while a row's
prompt lasts its next token is the prompt's own: one cache, no masks, and the numbers of the full forward pass.  The key
of the token at position t of row i is fold_in(fold_in(key, i), t), so a row's tokens do not depend on the other rows,
and generation in pieces gives the tokens of generation as a whole.

With a cache a token costs one position's work (Shazeer, Fast Transformer Decoding, 2019,
https://arxiv.org/abs/1911.02150), but an attention over a cache of L positions reads all L, however few are filled.
The loop therefore runs in stages whose cache holds 64, 128, 256, ... positions, each begun with a copy of the one
before.

`begin`, `advance` and `generate` are pure: jit them with the parameters as an argument,

    jax.jit(lambda params, prompts, lengths, key: generate(decoder(params), prompts, lengths, key, 256, choose))

and one compilation serves all prompts of one padded width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.types import Array, Key, Params

FIRST_STAGE = 64  # positions of the smallest cache

Cache = Any  # a tree of arrays whose shapes depend on rows and positions alone
Choose = Callable[[jax.Array, jax.Array, Key], jax.Array]  # of one row: logits [V], counts [V], key -> token


class Decoder(NamedTuple):
    """A network as generation sees it."""

    start: Callable[[int, int], Cache]  # (rows B, positions L) -> an empty cache for L positions
    step: Callable[[Cache, jax.Array, jax.Array], tuple[jax.Array, Cache]]
    """(cache, tokens [B, T], position of the first of them) -> (logits [B, T, V] of the token after each, cache)."""


class Decoding(NamedTuple):
    """A generation under way."""

    tokens: jax.Array  # [B, total] int32: prompts and what was drawn; 0 where a row has ended or is not yet there
    prompt: jax.Array  # [B] tokens of each prompt
    ends: jax.Array  # [B] tokens of each row: total, unless a stop token was drawn before
    counts: jax.Array  # [B, V] how often each token stands in the row, up to `position`
    position: jax.Array  # int32: the last position whose token is known in every row; it has not been read
    cache: Cache


def begin(
    decoder: Decoder, prompts: Array, lengths: Array, total: int, prefix: int = 1, positions: int | None = None
) -> Decoding:
    """Read the first `prefix` tokens of the prompts in one pass, but for the last of them.

    Args:
      decoder: the network.
      prompts: [B, P] integers; what stands behind a row's length is not looked at.
      lengths: [B] tokens of each prompt, 1 .. P.
      total: tokens of a whole row, prompt included, at least P.
      prefix: how many tokens every prompt has at least.  A new value is a new compilation.
      positions: that the cache holds; None: total.

    Returns:
      A `Decoding` at position prefix - 1.

    Raises:
      BadInput: no prompt, a prompt longer than total; and, where these are known while tracing: lengths outside 1 .. P,
        a prefix longer than one of them, a token outside of the vocabulary.  A traced length below `prefix` counts as
        `prefix`.

    >>> copy = Decoder(lambda rows, positions: (), lambda cache, tokens, position: (jax.nn.one_hot(tokens, 3), cache))
    >>> state = begin(copy, jnp.array([[1, 2], [2, 0]]), jnp.array([2, 1]), total=4)
    >>> state.tokens.tolist(), int(state.position)
    ([[1, 2, 0, 0], [2, 0, 0, 0]], 0)
    """
    rows, width = _check_prompts(prompts, lengths, total, prefix)
    length = jnp.maximum(jnp.asarray(lengths, jnp.int32), prefix)
    inside = jnp.arange(width)[None] < length[:, None]
    tokens = jnp.pad(jnp.where(inside, jnp.asarray(prompts, jnp.int32), 0), ((0, 0), (0, total - width)))
    cache, first = decoder.start(rows, positions or total), jnp.zeros((), jnp.int32)
    categories = jax.eval_shape(decoder.step, cache, tokens[:, :1], first)[0].shape[-1]
    _check_tokens("a prompt", prompts, categories, lengths)
    counts = jnp.zeros((rows, categories), jnp.int32).at[jnp.arange(rows)[:, None], tokens[:, :prefix]].add(1)
    if prefix > 1:
        _, cache = decoder.step(cache, tokens[:, : prefix - 1], first)
    return Decoding(tokens, length, jnp.full((rows,), total, jnp.int32), counts, first + (prefix - 1), cache)


def advance(
    decoder: Decoder, state: Decoding, key: Key, until: Array | int, choose: Choose, stop: Sequence[int] = ()
) -> Decoding:
    """Draw tokens until position `until` is known in every row, or every row has ended.

    Args:
      decoder: the network.
      state: of `begin` or `advance`.
      key: of the whole generation, the same in every call.
      until: position, below the number of positions of the cache plus 1; it may be traced.
      choose: (logits [V], counts [V], key) -> token, of one row.
      stop: tokens that end a row when they are drawn; they count to it.

    Returns:
      The state at position `until`, or where the last row ended.

    Raises:
      BadInput: a stop token outside of the vocabulary.

    >>> copy = Decoder(lambda rows, positions: (), lambda cache, tokens, position: (jax.nn.one_hot(tokens, 3), cache))
    >>> greedy = lambda logits, counts, key: jnp.argmax(logits)
    >>> state = begin(copy, jnp.array([[1, 2], [2, 0]]), jnp.array([2, 1]), total=4)
    >>> advance(copy, state, jax.random.key(0), 2, greedy).tokens.tolist()
    [[1, 2, 2, 0], [2, 2, 2, 0]]
    """
    number = jnp.arange(state.tokens.shape[0])
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, number)
    stops = jnp.asarray(tuple(stop), jnp.int32)
    _check_tokens("stop", tuple(stop), state.counts.shape[1])

    def unfinished(state: Decoding) -> jax.Array:
        return (state.position < until) & jnp.any(state.ends > state.position + 1)

    def one(state: Decoding) -> Decoding:
        here, there = state.position, state.position + 1
        read = jax.lax.dynamic_slice_in_dim(state.tokens, here, 1, axis=1)
        logits, cache = decoder.step(state.cache, read, here)
        drawn = jax.vmap(choose)(logits[:, -1], state.counts, _keys(row_keys, there)).astype(jnp.int32)
        given = jax.lax.dynamic_slice_in_dim(state.tokens, there, 1, axis=1)[:, 0]
        own = there < state.prompt
        token = jnp.where(own, given, jnp.where(there < state.ends, drawn, 0))
        stopped = ~own & (there < state.ends) & jnp.any(token[:, None] == stops[None], axis=1)
        return state._replace(
            tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, token[:, None], there, axis=1),
            ends=jnp.where(stopped, there + 1, state.ends),
            counts=state.counts.at[number, token].add(1),
            position=there,
            cache=cache,
        )

    return jax.lax.while_loop(unfinished, one, state)


def generate(
    decoder: Decoder,
    prompts: Array,
    lengths: Array,
    key: Key,
    total: int,
    choose: Choose,
    stop: Sequence[int] = (),
    prefix: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Rows of `total` tokens that go on from prompts.

    Args:
      decoder: the network.
      prompts: [B, P] integers, padded on the right.
      lengths: [B] tokens of each prompt, 1 .. P.
      key: of the generation; row i draws its token t with fold_in(fold_in(key, i), t).
      total: tokens of a whole row, prompt included, at least P.
      choose: (logits [V], counts [V], key) -> token, of one row; see choosing.py.
      stop: tokens that end a row when they are drawn; the loop ends when every row has.
      prefix: how many tokens every prompt has at least: these are read in one pass.

    Returns:
      (tokens [B, total] int32, 0 behind the end of a row; lengths [B], prompt and stop token included).

    Raises:
      BadInput: as `begin`.

    >>> copy = Decoder(lambda rows, positions: (), lambda cache, tokens, position: (jax.nn.one_hot(tokens, 3), cache))
    >>> greedy = lambda logits, counts, key: jnp.argmax(logits)
    >>> tokens, lengths = generate(copy, jnp.array([[1, 2], [2, 0]]), [2, 1], jax.random.key(0), 4, greedy, stop=[2])
    >>> tokens.tolist(), lengths.tolist()
    ([[1, 2, 2, 0], [2, 2, 0, 0]], [3, 2])
    """
    sizes = _stages(decoder, len(prompts), total, prefix)
    state = begin(decoder, prompts, lengths, total, prefix, sizes[0])
    for size in sizes:
        state = state if size == sizes[0] else _grown(decoder, state, size)
        state = advance(decoder, state, key, size, choose, stop)
    return state.tokens, state.ends


def stream(
    decoder: Callable[[Params], Decoder], total: int, choose: Choose, stop: Sequence[int] = (), piece: int = 8
) -> Callable[[Params, np.ndarray, Key], Iterator[np.ndarray]]:
    """The tokens of `generate`, piece by piece as they are drawn, for prompts of one length.

    Args:
      decoder: params -> Decoder.
      total: tokens of a whole row, prompt included.
      choose: as for `generate`.
      stop: as for `generate`.
      piece: tokens at a time, at least 1.

    Returns:
      A function (params, prompts [B, P], key) -> an iterator over [B, n] int32, n <= piece, 0 behind the end of a row;
      it ends when every row has.  It compiles once for all calls with prompts of one shape.

    Raises:
      BadInput: as `begin`, when the first piece is asked for.

    >>> copy = Decoder(lambda rows, positions: (), lambda cache, tokens, position: (jax.nn.one_hot(tokens, 3), cache))
    >>> greedy = lambda logits, counts, key: jnp.argmax(logits)
    >>> run = stream(lambda params: copy, 7, greedy, piece=3)
    >>> [tokens.tolist() for tokens in run((), np.array([[2, 1]]), jax.random.key(0))]
    [[[1, 1, 1]], [[1, 1]]]
    """

    @partial(jax.jit, static_argnums=2)
    def first(params: Params, prompts: jax.Array, size: int) -> Decoding:
        rows, prefix = prompts.shape
        return begin(decoder(params), prompts, np.full(rows, prefix), total, prefix, size)

    @partial(jax.jit, static_argnums=2)
    def grow(params: Params, state: Decoding, size: int) -> Decoding:
        return _grown(decoder(params), state, size)

    @jax.jit
    def more(params: Params, state: Decoding, key: Key, until: int) -> Decoding:
        return advance(decoder(params), state, key, until, choose, stop)

    def run(params: Params, prompts: np.ndarray, key: Key) -> Iterator[np.ndarray]:
        rows, prefix = np.shape(prompts)
        sizes = _stages(decoder(params), rows, total, prefix)
        state, known = first(params, jnp.asarray(prompts, jnp.int32), sizes[0]), prefix - 1
        _check_tokens("a prompt", prompts, state.counts.shape[1])
        for size in sizes:
            state = state if size == sizes[0] else grow(params, state, size)
            while known < min(size, total - 1) and np.any(np.asarray(state.ends) > known + 1):
                state = more(params, state, key, min(known + piece, size, total - 1))
                before, known = known, int(state.position)
                yield np.asarray(state.tokens[:, before + 1 : known + 1])

    return run


def _stages(decoder: Decoder, rows: int, total: int, prefix: int) -> list[int]:
    """Positions that the cache holds, stage by stage; `total` alone where it does not grow with its positions."""
    small, large = (jax.eval_shape(lambda n=n: decoder.start(rows, n)) for n in (1, 2))
    if small == large:
        return [total]
    doubled = [FIRST_STAGE << i for i in range(total.bit_length())]
    return [*(size for size in doubled if prefix <= size < total), total]


def _grown(decoder: Decoder, state: Decoding, positions: int) -> Decoding:
    """The same generation with a cache of so many positions: an empty one, the old one copied to its beginning."""
    empty = decoder.start(state.tokens.shape[0], positions)
    copy = lambda new, old: jax.lax.dynamic_update_slice(new, old.astype(new.dtype), (0,) * new.ndim)
    return state._replace(cache=jax.tree.map(copy, empty, state.cache))


def _keys(row_keys: Key, position: jax.Array) -> Key:
    """The keys of the rows at one position."""
    return jax.vmap(jax.random.fold_in, (0, None))(row_keys, position)


def _check_prompts(prompts: Array, lengths: Array, total: int, prefix: int) -> tuple[int, int]:
    rows, width = np.shape(prompts)
    if width < 1 or width > total:
        raise BadInput(f"prompts of {width} tokens", f"allowed: 1 to {total} tokens, as many as a whole row has")
    known = None if isinstance(lengths, jax.core.Tracer) else np.asarray(lengths)
    least, most = (1, width) if known is None else (int(known.min()), int(known.max()))
    if least < 1 or most > width:
        raise BadInput(f"lengths of prompts from {least} to {most}", f"allowed: 1 to {width}, the width of the prompts")
    if not 1 <= prefix <= (width if known is None else least):
        raise BadInput(f"prefix = {prefix}", "allowed: from 1 to the length of the shortest prompt")
    return rows, width


def _check_tokens(name: str, tokens: Array | Sequence[int], categories: int, lengths: Array | None = None) -> None:
    """Refuse tokens outside of 0 .. V-1 that are known while tracing: the network would read another token for them."""
    if isinstance(tokens, jax.core.Tracer) or isinstance(lengths, jax.core.Tracer):
        return
    known = np.asarray(tokens)
    counted = True if lengths is None else np.arange(known.shape[1])[None] < np.asarray(lengths)[:, None]
    outside = known[counted & ((known < 0) | (known >= categories))]
    if outside.size:
        raise BadInput(f"token {outside[0]} in {name}", f"allowed: 0 to {categories - 1}, the vocabulary")

r"""Entropy coding with an autoregressive model: -log2 p(x), proved in bytes.

A range coder (Martin 1979) turns symbols x_1 .. x_T into a number of

    L  <=  sum_t -log2 P_t(x_t) + O(1)  bits,        P_t = the model's p(. | x_1 .. x_{t-1}), rounded to whole counts

    c_t(v) = 1 + floor(p(v) (2^24 - V)),  the remainder to the likeliest symbol,        P_t(v) = c_t(v) / 2^24

Every symbol keeps at least one count, so that everything can be coded; V counts in 2^24 cost at most V 2^-24 / log 2
bits a symbol, and the coder's own rounding as much again.  Counts are whole numbers: what is rounded on both sides in
the same way cannot differ in its last bit.

Both sides must know the same P_t, bit for bit, and that is the danger.  A network's sums depend on the order in which
they are made, which XLA chooses by the shapes: the logits of one row, of a batch of 256, of a prefix and of the whole
sequence differ in their last bits (between 1 and 8 rows of `pixelcnn_digits.py`, on a processor, half of all tables
have another count), and one count that differs turns all that follows into noise.  So nothing is computed at once that
the decoder cannot compute at once: both sides run `_walk`, the same compiled step on the same shapes, one position
after the other, and differ only in where a symbol comes from.  That still asks for the same program: another version of
jaxlib, kind of device or number of threads may sum in another order.  A stream therefore belongs into a container that
knows a checksum of its content (`genjax.compress.archive`), by which a wrong result is refused.

Sources: Martin, Range encoding: an algorithm for removing redundancy from a digitised message, 1979; Rissanen and
Langdon, Arithmetic coding, 1979; the coder itself is Bamler's constriction (2022), https://arxiv.org/abs/2201.01741.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax.errors import BadInput
from genjax.types import Array, Params

PRECISION = 24  # bits of a probability, the coder's own
ROWS = 256  # sequences that the network sees at once, at most

Carry = Any  # a tree of arrays: what the model knows of the symbols before
Step = Callable[[Params, Carry, jax.Array, jax.Array], tuple[jax.Array, Carry]]


class Autoregression(NamedTuple):
    """p(x_t | x_1 .. x_{t-1}) of rows of symbols, one position after the other; pure functions, not yet compiled."""

    symbols: int  # V
    start: Callable[[Params, int], Carry]  # (parameters, rows) -> what is known before the first symbol
    step: Step  # (parameters, carry, x_{t-1} [B], t) -> (logits of x_t [B, V], carry); at t = 0 x_{t-1} is 0
    at_once: int = 1  # positions that one pass serves; `step` knows, this is for those who ask the model


class Coded(NamedTuple):
    """A stream, and what the model says of it."""

    words: np.ndarray  # uint32
    nats: float  # -log p(x), or the bound, of the unrounded probabilities
    initial_bits: int = 0  # bits back: what stood on the stack before, and is got back


def coder() -> Any:
    """The library of entropy coders, or what to do without it.

    Returns:
      `constriction.stream`.

    Raises:
      BadInput: it is not installed.

    >>> hasattr(coder().queue, "RangeEncoder")
    True
    """
    try:
        import constriction
    except ImportError as error:
        told = "entropy coding needs the package constriction, which is not installed"
        raise BadInput(told, "it is the extra `coding` of genjax-research", "pip install constriction") from error
    return constriction.stream


def counts(probabilities: Array) -> np.ndarray:
    """Probabilities as whole numbers that add up to 2^24, none of them 0.

    Args:
      probabilities: [..., V], at least 0, finite, not all 0; they need not add up to 1.

    Returns:
      [..., V] int64.

    Raises:
      BadInput: what is no probability.

    Source: the file's head; leaky quantisation as in Bamler, 2022, section 2.3.

    >>> counts(np.array([0.5, 0.5, 0.0])).tolist()
    [8388608, 8388607, 1]
    """
    p = np.asarray(probabilities, np.float64)
    total = p.sum(axis=-1, keepdims=True)
    if not (np.isfinite(total).all() and (p >= 0).all() and (total > 0).all()):
        raise BadInput("the model's probabilities are not finite", "allowed: finite logits", "take an earlier --step")
    found = 1 + np.floor(p / total * (2**PRECISION - p.shape[-1])).astype(np.int64)
    likeliest = np.argmax(found, axis=-1, keepdims=True)
    rest = 2**PRECISION - found.sum(axis=-1, keepdims=True)
    np.put_along_axis(found, likeliest, np.take_along_axis(found, likeliest, -1) + rest, axis=-1)
    return found


def softmax(logits: Array) -> np.ndarray:
    """Probabilities of logits in float64 on the host, where one machine gives one answer.

    Args:
      logits: [..., V].

    Returns:
      [..., V] float64.

    Source: the file's head, 1979.

    >>> softmax(np.zeros(4)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def chances(table: np.ndarray) -> np.ndarray:
    """Whole counts as the coder takes them: fractions of 2^24, which float64 holds exactly.

    Args:
      table: [..., V] of `counts`.

    Returns:
      [..., V] float64.

    Source: the file's head, 1979.

    >>> chances(counts(np.array([3.0, 1.0]))).tolist()[1] * 2**24 % 1
    0.0
    """
    return table / np.float64(2**PRECISION)


def encode(model: Autoregression, params: Params, symbols: Array, last: int | None = None) -> Coded:
    """The stream of rows of symbols.

    Args:
      model: an autoregressive model.
      params: its parameters.
      symbols: [N, T] integers in 0 .. V-1.
      last: how many rows, the first ones, have a symbol at the last position; None: all.

    Returns:
      `Coded`: about nats / log 2 bits, in words of 32.

    Raises:
      BadInput: a symbol that the model does not know; probabilities that are not finite.

    Source: Martin, 1979; Bamler, 2022.

    >>> flat = Autoregression(256, lambda params, rows: (), lambda params, c, x, t: (np.zeros((len(x), 256)), c))
    >>> stream = encode(flat, None, np.arange(1024).reshape(4, 256) % 256)
    >>> 1024 <= stream.words.nbytes <= 1024 + 8, round(float(stream.nats / np.log(2) / 8), 3)
    (True, 1024.0)
    """
    symbols = check_symbols(symbols, model.symbols)
    stream, total = coder(), np.zeros(1)
    encoder, family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)

    def take(p: np.ndarray, rows: slice, t: int) -> np.ndarray:
        here = symbols[rows, t]
        encoder.encode(here, family, chances(counts(p)))
        total[0] -= np.log(np.maximum(np.take_along_axis(p, here[:, None], 1), 1e-300)).sum()
        return here

    _walk(model, params, symbols.shape, last, take)
    return Coded(encoder.get_compressed(), float(total[0]))


def decode(
    model: Autoregression, params: Params, words: np.ndarray, shape: Sequence[int], last: int | None = None
) -> np.ndarray:
    """The symbols of a stream.

    Args:
      model, params: those that it was made with.
      words: of `encode`.
      shape: (N, T).
      last: as it was given to `encode`.

    Returns:
      [N, T] int32; 0 at the last position of the rows that have none.

    Raises:
      BadInput: a stream that this model cannot have made.  Most foreign streams decode to something, however: only a
        checksum of the content tells.

    Source: Martin, 1979; Bamler, 2022.

    >>> flat = Autoregression(9, lambda params, rows: (), lambda params, c, x, t: (np.zeros((len(x), 9)), c))
    >>> symbols = np.arange(12).reshape(3, 4) % 9
    >>> decode(flat, None, encode(flat, None, symbols).words, (3, 4)).tolist() == symbols.tolist()
    True
    """
    stream, found = coder(), np.zeros(shape, np.int32)
    decoder, family = stream.queue.RangeDecoder(np.asarray(words, np.uint32)), stream.model.Categorical(perfect=False)

    def take(p: np.ndarray, rows: slice, t: int) -> np.ndarray:
        try:
            found[rows, t] = decoder.decode(family, chances(counts(p)))
        except (AssertionError, ValueError) as error:  # how it says that no encoder ends up here
            raise BadInput("the stream does not fit the model", "it is damaged, or of another model") from error
        return found[rows, t]

    _walk(model, params, shape, last, take)
    if not decoder.maybe_exhausted():
        raise BadInput("the stream goes on where its symbols end", "it is damaged, or of another model")
    return found


def rows_at_once(count: int) -> int:
    """How many rows the network sees at once: a power of two, so that few programs are compiled.

    Args:
      count: N rows.

    Returns:
      From N on, at most ROWS.

    Source: the file's head, 1979.

    >>> rows_at_once(5), rows_at_once(10_000)
    (8, 256)
    """
    return min(ROWS, 1 << max(0, count - 1).bit_length())


def check_symbols(symbols: Array, known: int) -> np.ndarray:
    """Rows of symbols as the coder takes them.

    Args:
      symbols: [N, T] integers.
      known: V.

    Returns:
      [N, T] int32.

    Raises:
      BadInput: another shape or type, a symbol outside of 0 .. V-1.

    Source: the file's head, 1979.

    >>> check_symbols([[0, 1]], 2).dtype
    dtype('int32')
    """
    found = np.asarray(symbols)
    if found.ndim != 2 or found.dtype.kind not in "iu":
        raise BadInput(f"symbols of shape {found.shape}, {found.dtype}", "allowed: whole numbers [N, T]")
    if found.size and not (0 <= found.min() and found.max() < known):
        raise BadInput(f"symbols from {found.min()} to {found.max()}", f"allowed: 0 to {known - 1}")
    return np.ascontiguousarray(found, np.int32)


def _walk(model: Autoregression, params: Params, shape: Sequence[int], last: int | None, take: Callable) -> None:
    """Both directions: `take` gets the probabilities [n, V] of rows at a position, and returns their symbols."""
    count, length = shape
    width, step = rows_at_once(count), _compiled(model.step)
    with jax.default_matmul_precision("highest"):
        for begin in range(0, count, width):
            carry, previous = model.start(params, width), np.zeros(width, np.int32)
            for t in range(length):
                logits, carry = step(params, carry, previous, np.int32(t))
                there = count if last is None or t < length - 1 else last
                rows = slice(begin, max(begin, min(there, begin + width)))
                previous = np.zeros(width, np.int32)
                if rows.stop > begin:
                    previous[: rows.stop - begin] = take(softmax(logits)[: rows.stop - begin], rows, t)


@functools.lru_cache(maxsize=4)
def _compiled(step: Step) -> Any:
    return jax.jit(step, donate_argnums=1)

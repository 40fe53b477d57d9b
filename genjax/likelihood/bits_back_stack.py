"""The stack that bits back coders share: the bits that it begins with, its ends, and what both sides compute alike.

`genjax.likelihood.bits_back` says why there are initial bits and shifts; here is how both sides come to the same ones.

Source: Townsend, Bird and Barber, Practical lossless compression with latent variables using bits back coding, 2019,
https://arxiv.org/abs/1901.04866, section 3.2 (the initial bits).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from genjax.errors import BadInput
from genjax.likelihood.coding import PRECISION, coder

WORD = 32  # bits


def initial_words(symbols: int) -> np.ndarray:
    """The bits that the first row draws from: any would do; these are NumPy's of seed 0.

    Args:
      symbols: that the first row pops at most before it pushes any; each takes at most 24 bits, the coder's precision,
        so that the words never run out.

    Returns:
      [ceil(24 symbols / 32) + 1] uint32.

    Source: the file's head.

    >>> len(initial_words(40))
    31
    """
    return np.random.default_rng(0).integers(0, 2**WORD, -(-PRECISION * symbols // WORD) + 1, np.uint32)


def begun(seed: np.ndarray) -> Any:
    """A stack that holds initial bits and nothing else.

    Args:
      seed: [W] uint32 of `initial_words`.

    Returns:
      The entropy coder's stack.

    >>> begun(initial_words(3)).num_bits() >= 24 * 3
    True
    """
    return coder().stack.AnsCoder(seed, True)


def opened(words: np.ndarray) -> Any:
    """The stack of a stream.

    Args:
      words: [W] uint32.

    Returns:
      The entropy coder's stack.

    Raises:
      BadInput: no words, or a last word that no stack has.

    >>> opened(np.array([7, 0], np.uint32))
    Traceback (most recent call last):
    genjax.errors.BadInput: the stream is no stack
    it is damaged
    """
    words = np.asarray(words, np.uint32)
    if not len(words) or not words[-1]:
        raise BadInput("the stream is no stack", "it is damaged")  # whose last word never is 0
    return coder().stack.AnsCoder(words)


def check_returned(stack: Any, seed: np.ndarray) -> None:
    """Refuse a stack that does not hold, after the last row, the initial bits and nothing else.

    Args:
      stack: of the entropy coder.
      seed: of `initial_words`.

    Returns:
      Nothing.

    Raises:
      BadInput: it holds something else.

    >>> check_returned(begun(initial_words(3)), initial_words(3))
    """
    if not np.array_equal(stack.get_compressed(), begun(seed).get_compressed()):
        raise BadInput("the initial bits did not come back", "the stream is damaged, or of another model")


def shifts(count: int, latents: int, precision: int) -> np.ndarray:
    """r of each row, which makes its latents fair bits for the next row whatever the model is.

    Args:
      count: N rows.
      latents: D.
      precision: k.

    Returns:
      [N, D] int32 in 0 .. 2^k - 1, NumPy's of seed 1.

    >>> shifts(2, 3, 10).shape
    (2, 3)
    """
    return np.random.default_rng(1).integers(0, 2**precision, (count, latents), np.int32)


def run(function: Callable[..., Any], *given: Any) -> Any:
    """A pure function of a model, compiled once, with exact products: the same numbers on both sides.

    Args:
      function: of arrays; one object a model, as it is what the compiled program is kept by.
      given: its arguments, of the same shapes at every call.

    Returns:
      What it returns, of `jax.Array`.

    >>> run(lambda x: 2.0 * x, np.float32(1.5)).tolist()
    3.0
    """
    with jax.default_matmul_precision("highest"):
        return _compiled(function)(*given)


def log_probability(p: np.ndarray, symbols: np.ndarray) -> float:
    """sum_i log p_i(s_i), of independent symbols.

    Args:
      p: [T, V] probabilities.
      symbols: s [T] integers in 0 .. V-1.

    Returns:
      Nats, at most 0; what has no probability counts as 1e-300.

    >>> bool(np.isclose(log_probability(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 0])), np.log(0.125)))
    True
    """
    chosen = np.take_along_axis(p, np.asarray(symbols)[:, None], 1)
    return float(np.log(np.maximum(chosen, 1e-300)).sum())


@functools.lru_cache(maxsize=256)  # each layer of a long chain may have three functions of its own
def _compiled(function: Callable[..., Any]) -> Any:
    return jax.jit(function)

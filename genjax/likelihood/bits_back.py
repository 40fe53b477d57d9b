r"""Bits back coding with asymmetric numeral systems (BB-ANS): the ELBO of a variational autoencoder, proved in bytes.

A stack of bits is pushed to and popped from: pushing a symbol of probability P adds -log2 P bits, popping one takes
them, and the two are exact inverses.  An image x joins the stack by

    1.  pop  z ~ q(z | x)      - log2 1 / q(z | x)   the noise that draws z is what the stack holds already
    2.  push x ~ p(x | z)      + log2 1 / p(x | z)
    3.  push z ~ p(z)          + log2 1 / p(z)

so that it adds -log2 p(x, z) / q(z | x), on average -ELBO / log 2 bits.  The receiver pops z, pops x, computes q(z | x)
and pushes z back: the stack is what it was before, the last image comes out first, and the bits that drew its z are
those of the images before it.  The first image draws its z from `initial` bits that were not worth anything: they are
counted apart, and after the last image they are there again, which is checked.

Latents are real numbers, and are coded as one of K = 2^k intervals that all have the prior's probability 1 / K:

    edges e_j = Phi^{-1}(j / K),   z_j = Phi^{-1}((j + 1/2) / K),   Q(j) = Phi((e_{j+1} - mu) / s) - Phi((e_j - mu) / s)

The prior costs k bits a latent exactly, and what a finer grid costs more there is got back from Q.  Probabilities
become whole counts as in `genjax.likelihood.coding`, so that Q keeps 2^-24 for every interval: with k = 10 and 40
latents one image in 400 draws a latent from there and is coded badly.  As there, both sides run the same compiled
functions on the same shapes: one image at a time.

The next image draws its z from what the last one left on top, its own z.  Where the posteriors of all images together
are not the prior, those bits are not fair, and the draw no draw from Q: in a test that costs a third more.  So the
number j of an interval is pushed as j + r mod K, with r from a generator that both sides know: then the bits of z are
fair whatever the model is.

Source: Townsend, Bird and Barber, Practical lossless compression with latent variables using bits back coding, 2019,
https://arxiv.org/abs/1901.04866 (section 2.5: the intervals); Hinton and van Camp, 1993; Wallace, 1990.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax.likelihood.bits_back_stack import (
    WORD,
    begun,
    check_returned,
    initial_words,
    log_probability,
    opened,
    run,
    shifts,
)
from genjax.likelihood.coding import Coded, chances, check_symbols, coder, counts, softmax
from genjax.types import Array, Params


class Autoencoder(NamedTuple):
    """A variational autoencoder with prior N(0, 1), of rows of symbols; pure functions, not yet compiled."""

    symbols: int  # V
    latents: int  # D
    posterior: Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]  # x [1, T] -> mean, log variance [1, D]
    logits: Callable[[Params, jax.Array], jax.Array]  # z [1, D] -> [1, T, V], of independent symbols
    precision: int = 10  # k: bits of a latent


def centres(bits: int) -> np.ndarray:
    """The medians of 2^k intervals of equal probability under N(0, 1).

    Args:
      bits: k, from 1 to 16.

    Returns:
      [2^k] float64, increasing.

    Source: Townsend, Bird and Barber, 2019, section 2.5.

    >>> centres(2).round(3).tolist()
    [-1.15, -0.319, 0.319, 1.15]
    """
    from scipy.special import ndtri

    return ndtri((np.arange(2**bits) + 0.5) / 2**bits)


def interval_probabilities(mean: Array, log_var: Array, bits: int) -> np.ndarray:
    """Q(j): what N(mean, exp(log_var)) gives to each interval.

    Each probability is taken from the tail on its own side, so that none is a difference of two numbers near 1.

    Args:
      mean, log_var: [D].
      bits: k.

    Returns:
      [D, 2^k] float64, which add up to 1 a row.

    Source: Townsend, Bird and Barber, 2019, section 2.5.

    >>> interval_probabilities(np.zeros(1), np.zeros(1), 2).round(6).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    from scipy.special import ndtr

    mean, scale = np.asarray(mean, np.float64), np.exp(0.5 * np.asarray(log_var, np.float64))
    at = (_edges(bits)[None] - mean[:, None]) / scale[:, None]
    tail = ndtr(-np.abs(at))
    left, right, low, high = at[:, :-1], at[:, 1:], tail[:, :-1], tail[:, 1:]
    return np.where(right <= 0, high - low, np.where(left >= 0, low - high, 1 - low - high))


def encode(model: Autoencoder, params: Params, symbols: Array) -> Coded:
    """The stack after all rows have joined it.

    Args:
      model: a variational autoencoder.
      params: its parameters.
      symbols: [N, T] integers in 0 .. V-1.

    Returns:
      `Coded`: its nats are -log p(x, z) / Q(z | x) at the z that were drawn, Q of whole counts, whose mean is the
      negative ELBO of this Q; the stream has about nats / log 2 bits and the initial ones.

    Raises:
      BadInput: a symbol that the model does not know; probabilities that are not finite.

    Source: Townsend, Bird and Barber, 2019, section 2.

    >>> flat = Autoencoder(2, 3, lambda params, x: (np.zeros((1, 3)), np.zeros((1, 3))),
    ...                    lambda params, z: np.zeros((1, 64, 2)))
    >>> found = encode(flat, None, np.ones((10, 64), int))
    >>> round(found.nats / math.log(2)), abs(8 * found.words.nbytes - found.initial_bits - 640) <= 64
    (640, True)
    """
    symbols, seed = check_symbols(symbols, model.symbols), initial(model)
    stack, nats = begun(seed), 0.0
    for x, shift, posterior, likelihood, families in _links(model, params, symbols):
        q = chances(counts(posterior(x)))
        z = stack.decode(families[0], q)
        p = softmax(likelihood(z))
        stack.encode_reverse(x, families[0], chances(counts(p)))
        stack.encode_reverse((z + shift) % 2**model.precision, families[1])
        nats += log_probability(q, z) - log_probability(p, x) + model.latents * model.precision * math.log(2)
    return Coded(stack.get_compressed(), nats, WORD * len(seed))


def decode(model: Autoencoder, params: Params, words: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The rows of a stack, the last one first, and the check that nothing but the initial bits remains.

    Args:
      model, params: those that it was made with.
      words: of `encode`.
      shape: (N, T).

    Returns:
      [N, T] int32.

    Raises:
      BadInput: the initial bits do not come back: the stream is damaged, or of another model.

    Source: Townsend, Bird and Barber, 2019, section 2.

    >>> flat = Autoencoder(2, 3, lambda params, x: (np.zeros((1, 3)), np.zeros((1, 3))),
    ...                    lambda params, z: np.zeros((1, 64, 2)))
    >>> x = np.arange(128).reshape(2, 64) % 2
    >>> decode(flat, None, encode(flat, None, x).words, (2, 64)).tolist() == x.tolist()
    True
    """
    stack, found, seed = opened(words), np.zeros(shape, np.int32), initial(model)
    for x, shift, posterior, likelihood, families in [*_links(model, params, found)][::-1]:
        z = (stack.decode(families[1], model.latents) - shift) % 2**model.precision
        x[:] = stack.decode(families[0], chances(counts(softmax(likelihood(z)))))
        stack.encode_reverse(z, families[0], chances(counts(posterior(x))))
    check_returned(stack, seed)
    return found


def initial(model: Autoencoder) -> np.ndarray:
    """The bits that the first row draws its latents from.

    Args:
      model: a variational autoencoder.

    Returns:
      [ceil(24 D / 32) + 1] uint32.

    Source: Townsend, Bird and Barber, 2019, section 3.2.

    >>> len(initial(Autoencoder(2, 40, None, None)))
    31
    """
    return initial_words(model.latents)


def _links(
    model: Autoencoder, params: Params, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, Any, Any, Any]]:
    """Each row, r [D], x -> Q [D, K], z's intervals -> logits [T, V], and the coder's two families of laws."""
    laws, grid = coder().model, centres(model.precision).astype(np.float32)
    families = laws.Categorical(perfect=False), laws.Uniform(2**model.precision)

    def posterior(x: np.ndarray) -> np.ndarray:
        mean, log_var = run(model.posterior, params, x[None])
        return interval_probabilities(np.asarray(mean)[0], np.asarray(log_var)[0], model.precision)

    def likelihood(z: np.ndarray) -> np.ndarray:
        return np.asarray(run(model.logits, params, grid[z][None]))[0]

    fair = shifts(len(rows), model.latents, model.precision)
    return ((x, shift, posterior, likelihood, families) for x, shift in zip(rows, fair, strict=True))


@functools.lru_cache(maxsize=4)
def _edges(bits: int) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(np.arange(2**bits + 1) / 2**bits)

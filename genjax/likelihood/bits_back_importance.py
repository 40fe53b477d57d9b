r"""Bits back with several samples: the importance-weighted bound of an autoencoder, proved in bytes.

As `genjax.likelihood.bits_back`, but S latents are drawn for an image x, and one of them is used:

    1.  pop  z_1 .. z_S ~ Q(z | x), then j with probability w_j / sum_i w_i,    w_i = p(x | z_i) P(z_i) / Q(z_i | x)
    2.  push z_i for i != j by Q(. | x),  x by p(x | z_j),  z_j by P,  j by 1 / S

so that the stack grows by

    -log [ p(x | z_j) P(z_j) prod_{i != j} Q(z_i | x) / S ] + log [ prod_i Q(z_i | x) w_j / sum_i w_i ]
        = -log (1 / S) sum_i w_i                                                         whichever j was drawn

on average the bound of Burda, Grosse and Salakhutdinov, which falls from the ELBO's length towards -log p(x).  The
receiver pops j, z_j and x, can then compute Q, pops the other latents, computes all weights, and pushes back j and
z_1 .. z_S.  The price is S calls of the decoder, one more on the way back, and S times as many initial bits.

The decoder network sees one z at a time, in both directions: among others in a batch its sums may be made in another
order (`genjax.likelihood.coding`).

Sources: Ruan, Ullrich, Severo, Townsend, Khisti, Doucet, Makhzani and Maddison, Improving lossless compression rates
via Monte Carlo bits-back coding, 2021, https://arxiv.org/abs/2102.11086, section 3.1; Burda, Grosse and Salakhutdinov,
Importance weighted autoencoders, 2016, https://arxiv.org/abs/1509.00519.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax.errors import BadInput
from genjax.likelihood.bits_back import centres, interval_probabilities
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


class Ensemble(NamedTuple):
    """A variational autoencoder with prior N(0, 1) and several samples of its posterior; pure functions."""

    symbols: int  # V
    latents: int  # D
    posterior: Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]  # x [1, T] -> mean, log variance [1, D]
    logits: Callable[[Params, jax.Array], jax.Array]  # z [1, D] -> [1, T, V], of independent symbols
    samples: int  # S >= 2
    precision: int = 10  # k: bits of a latent


def encode(model: Ensemble, params: Params, symbols: Array) -> Coded:
    """The stack after all rows have joined it.

    Args:
      model: an autoencoder with S samples.
      params: its parameters.
      symbols: [N, T] integers in 0 .. V-1.

    Returns:
      `Coded`: its nats are -log (1 / S) sum_i w_i at the z that were drawn, whose mean is the negative bound.

    Raises:
      BadInput: fewer than two samples; a symbol that the model does not know; probabilities that are not finite.

    Source: Ruan et al., 2021, section 3.1.

    >>> flat = Ensemble(2, 3, lambda params, x: (np.zeros((1, 3)), np.zeros((1, 3))),
    ...                 lambda params, z: np.zeros((1, 64, 2)), samples=4)
    >>> found = encode(flat, None, np.ones((10, 64), int))
    >>> round(found.nats / math.log(2)), abs(8 * found.words.nbytes - found.initial_bits - 640) <= 64
    (640, True)
    """
    symbols, seed, nats = check_symbols(symbols, model.symbols), initial(model), 0.0
    stack, (law, even, index) = begun(seed), _laws(model)
    for x, shift in zip(symbols, shifts(len(symbols), model.latents, model.precision), strict=True):
        q = _posterior(model, params, x)
        z = stack.decode(law, np.tile(q, (model.samples, 1))).reshape(model.samples, model.latents)
        p, log_w = _weights(model, params, x, z, q)
        j = int(stack.decode(law, _odds(log_w))[0])
        others = np.delete(z, j, axis=0).reshape(-1)
        stack.encode_reverse(others, law, np.tile(q, (model.samples - 1, 1)))
        stack.encode_reverse(x, law, p[j])
        stack.encode_reverse((z[j] + shift) % 2**model.precision, even)
        stack.encode_reverse(np.array([j], np.int32), index)
        nats -= float(np.logaddexp.reduce(log_w)) - math.log(model.samples)
    return Coded(stack.get_compressed(), nats, WORD * len(seed))


def decode(model: Ensemble, params: Params, words: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The rows of a stack, the last one first, and the check that nothing but the initial bits remains.

    Args:
      model, params: those that it was made with.
      words: of `encode`.
      shape: (N, T).

    Returns:
      [N, T] int32.

    Raises:
      BadInput: fewer than two samples; the initial bits do not come back: the stream is damaged, or of another model.

    Source: Ruan et al., 2021, section 3.1.

    >>> flat = Ensemble(2, 3, lambda params, x: (np.zeros((1, 3)), np.zeros((1, 3))),
    ...                 lambda params, z: np.zeros((1, 64, 2)), samples=4)
    >>> x = np.arange(128).reshape(2, 64) % 2
    >>> decode(flat, None, encode(flat, None, x).words, (2, 64)).tolist() == x.tolist()
    True
    """
    found, seed, stack = np.zeros(shape, np.int32), initial(model), opened(words)
    law, even, index = _laws(model)
    for x, shift in [*zip(found, shifts(len(found), model.latents, model.precision), strict=True)][::-1]:
        j = int(stack.decode(index, 1)[0])
        chosen = (stack.decode(even, model.latents) - shift) % 2**model.precision
        x[:] = stack.decode(law, _pixels(model, params, chosen))
        q = _posterior(model, params, x)
        others = stack.decode(law, np.tile(q, (model.samples - 1, 1))).reshape(-1, model.latents)
        z = np.insert(others, j, chosen, axis=0).astype(np.int32)
        stack.encode_reverse(np.array([j], np.int32), law, _odds(_weights(model, params, x, z, q)[1]))
        stack.encode_reverse(z.reshape(-1), law, np.tile(q, (model.samples, 1)))
    check_returned(stack, seed)
    return found


def initial(model: Ensemble) -> np.ndarray:
    """The bits that the first row draws its latents and j from.

    Args:
      model: an autoencoder with S samples.

    Returns:
      [ceil(24 (S D + 1) / 32) + 1] uint32.

    Raises:
      BadInput: fewer than two samples.

    Source: Ruan et al., 2021, section 3.1.

    >>> len(initial(Ensemble(2, 40, None, None, samples=2)))
    62
    """
    if model.samples < 2:
        raise BadInput(f"samples = {model.samples}", "allowed: from 2 on; one is `genjax.likelihood.bits_back`")
    return initial_words(model.samples * model.latents + 1)


def _posterior(model: Ensemble, params: Params, x: np.ndarray) -> np.ndarray:
    """Q(j), [D, K], of whole counts."""
    mean, log_var = run(model.posterior, params, x[None])
    return chances(counts(interval_probabilities(np.asarray(mean)[0], np.asarray(log_var)[0], model.precision)))


def _pixels(model: Ensemble, params: Params, z: np.ndarray) -> np.ndarray:
    """p(x | z) of the intervals z [D], [T, V], of whole counts."""
    at = centres(model.precision).astype(np.float32)[z]
    return chances(counts(softmax(np.asarray(run(model.logits, params, at[None]))[0])))


def _weights(
    model: Ensemble, params: Params, x: np.ndarray, z: np.ndarray, q: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """p(x | z_i) of each sample, and log w_i [S], of whole counts as they are coded."""
    p = [_pixels(model, params, one) for one in z]
    prior = -model.latents * model.precision * math.log(2)
    log_p, log_q = [log_probability(own, x) for own in p], [log_probability(q, one) for one in z]
    return p, np.array(log_p) + prior - np.array(log_q)


def _odds(log_w: np.ndarray) -> np.ndarray:
    return chances(counts(softmax(log_w[None])))


def _laws(model: Ensemble) -> tuple[Any, Any, Any]:
    laws = coder().model
    return laws.Categorical(perfect=False), laws.Uniform(2**model.precision), laws.Uniform(model.samples)

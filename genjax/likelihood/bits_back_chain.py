r"""Bits back through a chain of latents, from the top down: hierarchical autoencoders and diffusion models in bytes.

    p(x, z) = p(x | z) prod_l p(z_l | z_<l),    q(z | x) = prod_l q(z_l | z_<l, x),    l = 1 .. L from the top

An image x joins a stack of bits as in `genjax.likelihood.bits_back`, with all layers in the place of one:

    1.  pop  z_1 ~ q(z_1 | x), then z_2 ~ q(z_2 | z_1, x), .. z_L
    2.  push x ~ p(x | z)
    3.  push z_L, .. z_1 ~ p

so that it adds -log2 p(x, z) / q(z | x), on average the negative bound in bits.  Every layer's law is normal, and what
is coded is e = (z_l - m_p) / s_p, which is N(0, 1) under the prior: its K = 2^k intervals have the prior's probability
1 / K each, whatever the layers above say, and q's are those of N((m_q - m_p) / s_p, s_q^2 / s_p^2).  So the prior
costs k bits a latent exactly, and pushing needs no network.  Coarse intervals cost nothing by themselves, since
the divergence of a partition is at most that of the densities; they only make z the medians, a little less spread.

The receiver pops the intervals of all layers, walks down by the same compiled functions on the same shapes, pops x,
and pushes back what the posteriors say of the intervals.

The first image draws from `initial` bits; of these the stream holds those that were used: k bits a latent less the
divergence, which for a long chain is more than an image takes.  From the second image on they are the image before.

Sources: Townsend, Bird and Barber, Practical lossless compression with latent variables using bits back coding, 2019,
https://arxiv.org/abs/1901.04866; Townsend et al., HiLLoC, 2020, https://arxiv.org/abs/1912.09953, section 3.1 (several
layers, top-down, in intervals that depend on the layers above); Kingma et al., 2021, https://arxiv.org/abs/2107.00630,
section 5.3 (diffusion).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

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

HEAD = 2  # words that the coder has at hand, of which a push changes no others
State = Any  # a tree of arrays: what is known on the way down
Normal = tuple[jax.Array, jax.Array]  # mean and log variance, [1, D_l] each


class Layer(NamedTuple):
    """Latents given those above them; its functions get the number of the layer last, from 0 at the top."""

    latents: int  # D_l
    prior: Callable[[Params, State, jax.Array], Normal]
    posterior: Callable[[Params, Any, State, jax.Array], Normal]  # of what `observe` made of x
    follow: Callable[[Params, State, jax.Array, jax.Array], State]  # the state once z [1, D_l] is known


class Chain(NamedTuple):
    """A model with normal latents in layers, of rows of symbols; pure functions, not yet compiled."""

    symbols: int  # V
    layers: Sequence[Layer]
    start: Callable[[Params], State]
    observe: Callable[[Params, jax.Array], Any]  # x [1, T] -> what posteriors see of it
    logits: Callable[[Params, State], jax.Array]  # after the last layer -> [1, T, V], of independent symbols
    precision: int = 10  # k: bits of a latent; posteriors as wide as the priors do with 5


def encode(model: Chain, params: Params, symbols: Array) -> Coded:
    """The stack after all rows have joined it.

    Args:
      model: a chain.
      params: its parameters.
      symbols: [N, T] integers in 0 .. V-1.

    Returns:
      `Coded`: its nats are -log p(x, z) / Q(z | x) at the z that were drawn.  The words of the initial bits that were
      not used are left out, and their number is pushed last.

    Raises:
      BadInput: a symbol that the model does not know; probabilities that are not finite.

    Source: the file's head; Townsend et al., 2020.

    >>> normal = lambda params, *given: (np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32))
    >>> layers = 2 * [Layer(3, normal, normal, lambda params, state, z, i: state)]
    >>> flat = Chain(2, layers, lambda params: (), lambda params, x: x, lambda params, state: np.zeros((1, 64, 2)))
    >>> found = encode(flat, None, np.ones((10, 64), int))
    >>> round(found.nats / math.log(2)), abs(8 * found.words.nbytes - found.initial_bits - 640) <= 64
    (640, True)
    """
    symbols, seed = check_symbols(symbols, model.symbols), initial(model)
    stack, nats = begun(seed), 0.0
    for x, shift in zip(symbols, shifts(len(symbols), _latents(model), model.precision), strict=True):
        drawn, state = _draw(model, params, x, stack)
        p = softmax(_pixels(model, params, state))
        stack.encode_reverse(x, _law(), chances(counts(p)))
        stack.encode_reverse((np.concatenate([z for _, z in drawn]) + shift) % 2**model.precision, _even(model))
        log_q = sum(log_probability(q, z) for q, z in drawn)
        nats += log_q - log_probability(p, x) + len(shift) * model.precision * math.log(2)
    words = stack.get_compressed()
    untouched = np.cumprod(words[: len(seed)] == seed[: len(words)]).sum()
    kept = int(min(untouched, max(0, len(words) - HEAD)))
    stack.encode_reverse(np.array([kept], np.int32), coder().model.Uniform(len(seed) + 1))
    return Coded(stack.get_compressed()[kept:], nats, WORD * (len(seed) - kept))


def decode(model: Chain, params: Params, words: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The rows of a stack, the last one first, and the check that nothing but the initial bits remains.

    Args:
      model, params: those that it was made with.
      words: of `encode`.
      shape: (N, T).

    Returns:
      [N, T] int32.

    Raises:
      BadInput: the initial bits do not come back: the stream is damaged, or of another model.

    Source: the file's head; Townsend et al., 2020.

    >>> normal = lambda params, *given: (np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32))
    >>> layers = 2 * [Layer(3, normal, normal, lambda params, state, z, i: state)]
    >>> flat = Chain(2, layers, lambda params: (), lambda params, x: x, lambda params, state: np.zeros((1, 64, 2)))
    >>> x = np.arange(128).reshape(2, 64) % 2
    >>> decode(flat, None, encode(flat, None, x).words, (2, 64)).tolist() == x.tolist()
    True
    """
    top, found, seed = opened(words), np.zeros(shape, np.int32), initial(model)
    kept = int(top.decode(coder().model.Uniform(len(seed) + 1), 1)[0])
    stack = opened(np.append(seed[:kept], top.get_compressed()))
    ends = np.cumsum([layer.latents for layer in model.layers])
    for x, shift in [*zip(found, shifts(len(found), _latents(model), model.precision), strict=True)][::-1]:
        chosen = np.split((stack.decode(_even(model), len(shift)) - shift) % 2**model.precision, ends[:-1])
        way, state = _down(model, params, _told(chosen))
        x[:] = stack.decode(_law(), chances(counts(softmax(_pixels(model, params, state)))))
        seen = _observed(model, params, x)
        for given, z in zip(way[::-1], chosen[::-1], strict=True):
            stack.encode_reverse(z, _law(), chances(counts(_intervals(model, params, seen, given))))
    check_returned(stack, seed)
    return found


def initial(model: Chain) -> np.ndarray:
    """The bits that the first row draws its latents from, as many as it can use at most.

    Args:
      model: a chain.

    Returns:
      [ceil(24 sum D / 32) + 1] uint32.

    Source: Townsend, Bird and Barber, 2019, section 3.2.

    >>> len(initial(Chain(2, 3 * [Layer(40, None, None, None)], None, None, None)))
    91
    """
    return initial_words(_latents(model))


class Given(NamedTuple):
    """What both sides know before a layer is drawn: the layers above, and its prior."""

    layer: int
    state: State
    mean: np.ndarray  # [D_l]
    log_var: np.ndarray


def _down(model: Chain, params: Params, choose: Callable[[Given], np.ndarray]) -> tuple[list[Given], State]:
    """The way down, by the intervals [D_l] that are chosen, and the state at its end."""
    grid, way = centres(model.precision).astype(np.float32), []
    state = run(model.start, params)
    for i, layer in enumerate(model.layers):
        mean, log_var = (np.asarray(part)[0] for part in run(layer.prior, params, state, np.int32(i)))
        way.append(Given(i, state, mean, log_var))
        z = mean + np.exp(0.5 * log_var) * grid[choose(way[-1])]
        state = run(layer.follow, params, state, z.astype(np.float32)[None], np.int32(i))
    return way, state


def _draw(model: Chain, params: Params, x: np.ndarray, stack: Any) -> tuple[list[tuple[Any, Any]], State]:
    """Q and z of every layer, z popped from a stack, and the state at the end."""
    seen, found = _observed(model, params, x), []

    def pop(given: Given) -> np.ndarray:
        q = chances(counts(_intervals(model, params, seen, given)))
        found.append((q, stack.decode(_law(), q)))
        return found[-1][1]

    _, state = _down(model, params, pop)
    return found, state


def _told(z: Sequence[np.ndarray]) -> Callable[[Given], np.ndarray]:
    return lambda given: z[given.layer]


def _intervals(model: Chain, params: Params, seen: Any, given: Given) -> np.ndarray:
    """Q of a layer, [D_l, K]."""
    layer = model.layers[given.layer]
    found = run(layer.posterior, params, seen, given.state, np.int32(given.layer))
    mean, log_var = (np.asarray(part, np.float64)[0] for part in found)
    place = (mean - given.mean) / np.exp(0.5 * given.log_var.astype(np.float64))
    return interval_probabilities(place, log_var - given.log_var, model.precision)


def _observed(model: Chain, params: Params, x: np.ndarray) -> Any:
    return run(model.observe, params, x[None])


def _pixels(model: Chain, params: Params, state: State) -> np.ndarray:
    return np.asarray(run(model.logits, params, state))[0]


def _latents(model: Chain) -> int:
    return sum(layer.latents for layer in model.layers)


def _law() -> Any:
    return coder().model.Categorical(perfect=False)


def _even(model: Chain) -> Any:
    return coder().model.Uniform(2**model.precision)

"""A prior over grids of codes: a GPT that reads them row by row, from the left.

    log P(c) = sum_p log P(c_p | c_1 .. c_{p-1}),   p in raster order

The network's vocabulary has one token more, which stands before the first code and is never predicted: its logit is
left out of the softmax, so that the probabilities of all grids sum to 1.

Source: the second stage of van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017,
section 3.3, https://arxiv.org/abs/1711.00937, there with a PixelCNN.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.losses.likelihood import sequence_nll
from genjax.models.transformer import GPT
from genjax.samplers.choosing import draw
from genjax.samplers.decode import generate
from genjax.types import Array, Key, Params


class CodePrior(NamedTuple):
    """P(c) over grids [h, w] of codes 0 .. K-1."""

    init: Callable[[Key], Params]
    nll: Callable[..., jax.Array]  # (params, codes [B, h, w], key=None) -> [B] nats, exact; a key: with dropout
    sample: Callable[[Params, Key, int], jax.Array]  # (params, key, n) -> [n, h, w] int32


def gpt_prior(
    size: int, grid: tuple[int, int], layers: int = 4, heads: int = 4, width: int = 128, dropout: float = 0.0
) -> CodePrior:
    """The prior by a GPT with learned positions.

    Args:
      size: K, codes.
      grid: (h, w).
      layers, heads, width, dropout: of the network.

    Returns:
      Its three functions.

    >>> prior = gpt_prior(3, (2, 2), layers=1, heads=1, width=4)
    >>> params = prior.init(jax.random.key(0))
    >>> prior.nll(params, jnp.zeros((5, 2, 2), jnp.int32)).shape
    (5,)
    >>> prior.sample(params, jax.random.key(1), 7).shape
    (7, 2, 2)
    """
    places, begin = math.prod(grid), size
    net = GPT(size + 1, places + 1, layers, heads, width, dropout=dropout)

    def init(key: Key) -> Params:
        return net.init(key, jnp.full((1, places), begin))

    def nll(params: Params, codes: Array, key: Key | None = None) -> jax.Array:
        tokens = jnp.reshape(codes, (-1, places))
        before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=begin)
        rngs = None if key is None else {"dropout": key}
        logits: Any = net.apply(params, before, deterministic=key is None, rngs=rngs)
        return sequence_nll(logits[..., :size], tokens)

    def sample(params: Params, key: Key, n: int) -> jax.Array:
        choose = lambda logits, counts, key: draw(logits[:size], counts, key)
        start, length = jnp.full((n, 1), begin), np.ones(n, np.int32)
        tokens, _ = generate(net.decoder(params), start, length, key, places + 1, choose)
        return tokens[:, 1:].reshape(n, *grid)

    return CodePrior(init, nll, sample)

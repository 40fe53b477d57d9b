r"""Text VAE: a recurrent encoder, one vector z for a whole text, and a recurrent decoder that sees z at every step.

    encoder    h = GRU(x_1 .. x_L),   q(z | x) = N(W h, exp(V h))
    decoder    s_0 = tanh(U z),   s_t = GRU(s_{t-1}, [embedding of x_{t-1}, z]),   p(x_t | x_<t, z) = softmax(O s_t)

x_0 is the token that begins a text.  The decoder alone can model text well, and then learns to do without z (posterior
collapse).  Word dropout weakens it: while training, each token before t is replaced, with a fixed probability, by one
that means "unknown".  For given replacements p(x | z) is still a distribution over texts, since what replaces a token
does not depend on the tokens after it; so the bound with word dropout remains a bound, on the mixture of these.
Evaluation and sampling drop nothing.

Source: Bowman et al., Generating Sentences from a Continuous Space, 2016, https://arxiv.org/abs/1511.06349 (with GRUs
in place of LSTMs).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.blocks import flat
from genjax.models.embedding import check_tokens, looked_up
from genjax.models.recurrent import GRU, Memory
from genjax.samplers.decode import Cache, Decoder
from genjax.types import Array, Key, Params


def dropped_words(tokens: Array, rate: float, unknown: int, key: Key) -> jax.Array:
    """Each token but the first of a row is replaced by `unknown` with probability `rate`, all independently.

    Args:
      tokens: [B, T] integers: what the decoder reads; the first begins the text, and is known anyway.
      rate: in [0, 1]; at 1 the decoder sees nothing but z and the position.
      unknown: the token that stands for what was dropped.
      key: of this batch.

    Raises:
      BadInput: a rate outside of [0, 1].

    >>> dropped_words(jnp.array([[0, 5, 6]]), 1.0, 27, jax.random.key(0)).tolist()
    [[0, 27, 27]]
    """
    if not 0 <= rate <= 1:
        raise BadInput(f"word dropout = {rate}", "allowed: a probability, from 0 (read all) to 1 (read nothing)")
    tokens = jnp.asarray(tokens)
    drop = jax.random.bernoulli(key, rate, tokens.shape).at[:, 0].set(False)
    return jnp.where(drop, jnp.asarray(unknown, tokens.dtype), tokens)


class TextVAE(nn.Module):
    """Encoder and decoder under one set of parameters; see the head of this file.

    Args:
      vocabulary: V, tokens 0 .. V-1; the token V, which is read but never predicted, stands for what was dropped.
      latents: D.
      embedding: numbers a token.
      width: units of each GRU.

    `model.apply(params, tokens [B, L], mask [B, L], method="encode")` gives (mean, log_var), [B, D] each;
    `model.apply(params, z [B, D], before [B, T], method="decode")` the logits [B, T, V] of the token after each of
    `before`, x_0 .. x_{T-1}.  The call itself, with tokens [B, T] as the decoder reads them, decodes the posterior
    mean; it is what `model.init(key, tokens)` traces.

    Raises:
      BadInput: tokens that are no integers or, where they are known, outside of the vocabulary.

    >>> model, tokens = TextVAE(vocabulary=27, latents=2, embedding=4, width=8), jnp.array([[0, 5, 6]])
    >>> params = model.init(jax.random.key(0), tokens)
    >>> model.apply(params, jnp.zeros((1, 2)), tokens, method="decode").shape
    (1, 3, 27)
    """

    vocabulary: int
    latents: int
    embedding: int
    width: int

    def setup(self) -> None:
        self.table = self.param("table", nn.initializers.normal(1.0), (self.vocabulary + 1, self.embedding))
        self.reader, self.writer = GRU(self.width), GRU(self.width)
        self.mean, self.log_var = nn.Dense(self.latents), nn.Dense(self.latents)
        self.first = nn.Dense(self.width)
        self.output = nn.Dense(self.vocabulary)

    def encode(self, tokens: Array, mask: Array) -> tuple[jax.Array, jax.Array]:
        """Tokens [B, L] and the mask of those that are no padding -> mean and log_var of q(z | x), [B, D] each."""
        _, (h,) = self.reader(self._embedded(tokens), None, mask)
        return self.mean(h), self.log_var(h)

    def decode(self, z: Array, before: Array) -> jax.Array:
        """z [B, D] and x_0 .. x_{T-1} [B, T] -> logits [B, T, V] of x_1 .. x_T."""
        return self.write(self.begin(z), z, before)[0]

    def begin(self, z: Array) -> Memory:
        """The state of the decoder before its first token."""
        return (jnp.tanh(self.first(z)),)

    def write(self, state: Memory, z: Array, tokens: Array) -> tuple[jax.Array, Memory]:
        """(state, z [B, D], tokens [B, T]) -> (logits [B, T, V] of the token after each, state)."""
        embedded = self._embedded(tokens)
        beside = jnp.broadcast_to(z[:, None], (*embedded.shape[:2], z.shape[-1])).astype(embedded.dtype)
        s, state = self.writer(jnp.concatenate([embedded, beside], axis=-1), state)
        return flat(self.output, s), state

    def __call__(self, tokens: Array) -> jax.Array:
        mean, _ = self.encode(tokens, jnp.ones(tokens.shape))
        return self.decode(mean, tokens)

    @nn.nowrap
    def decoder(self, params: Params, z: Array) -> Decoder:
        """The network as generation sees it (genjax.samplers.decode), for one z a row; its cache is s_t and z."""

        def start(rows: int, positions: int) -> Cache:
            del rows, positions
            return self.apply(params, z, method="begin"), z

        def step(cache: Cache, tokens: jax.Array, position: jax.Array) -> tuple[jax.Array, Cache]:
            del position
            logits, state = self.apply(params, *cache, tokens, method="write")
            return logits, (state, cache[1])

        return Decoder(start, step)

    def _embedded(self, tokens: Array) -> jax.Array:
        tokens = jnp.asarray(tokens)
        check_tokens(tokens, self.vocabulary + 1)
        return looked_up(self.table, tokens)

"""GPT: a decoder-only transformer, trained on whole rows at once and decoded token by token.

    h_0 = E[tokens] (+ P[position]);   h <- h + attention(norm(h)), h <- h + MLP(norm(h)) in every layer;
    logits = E norm(h)

E is the table of token embeddings, which is also the output layer (Press and Wolf 2017, arXiv:1608.05859).  The norm
stands before each part and again at the end, and initial values are those of Radford et al., Language Models are
Unsupervised Multitask Learners, 2019, section 2.3: normal with standard deviation 0.02, the two layers that write into
the residual stream of each block divided by sqrt(2 layers), biases 0.

The parameters of all layers lie in arrays with one leading axis of layers, so that compiling takes the same time for 2
layers and for 48.  Decoding takes them apart again, outside of its loop: `decoder`.
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.attention import attend, attend_all, attend_cached, documents, rotary_table, rotate, written
from genjax.models.blocks import flat
from genjax.models.dropout import dropped
from genjax.models.embedding import check_tokens, looked_up
from genjax.samplers.decode import Decoder
from genjax.types import Array, Params

Cache = tuple[tuple[jax.Array, jax.Array], ...]  # (keys, values) [B kv_heads, L, D] of each layer
DEVIATION = 0.02  # of initial weights


class Block(nn.Module):
    """One layer: attention, then a multilayer perceptron of four times the width, each added to its input.

    Args:
      width: C.
      heads, kv_heads: of queries; of keys and values.
      layers: of the whole network, for the initial values.
      bias: of every linear layer and norm.
      dropout: rate, on attention weights and on what is added.
      causal: whether tokens see those before them only.
    """

    width: int
    heads: int
    kv_heads: int
    layers: int
    bias: bool
    dropout: float
    causal: bool = True

    def setup(self) -> None:
        dense = lambda features, deviation: nn.Dense(
            features, use_bias=self.bias, kernel_init=nn.initializers.normal(deviation)
        )
        added, dims = DEVIATION / math.sqrt(2 * self.layers), self.width // self.heads
        self.attention_norm = nn.LayerNorm(epsilon=1e-5, use_bias=self.bias)
        self.qkv = dense((self.heads + 2 * self.kv_heads) * dims, DEVIATION)
        self.mix = dense(self.width, added)
        self.mlp_norm = nn.LayerNorm(epsilon=1e-5, use_bias=self.bias)
        self.up = dense(4 * self.width, DEVIATION)
        self.down = dense(self.width, added)

    def __call__(self, h: Array, turns: Array | None, start: Array | None, deterministic: bool) -> tuple[Any, None]:
        """h [B, T, C] -> h; `turns` of rotary positions, `start` of documents (genjax.models.attention)."""
        key = lambda: None if deterministic or self.dropout == 0.0 else self.make_rng("dropout")
        q, k, v = self._heads(h, turns)
        one_way = lambda: attend(q, k, v, start, self.dropout, key())
        mixed = one_way() if self.causal else attend_all(q, k, v, self.dropout, key())
        h = h + dropped(flat(self.mix, mixed.reshape(h.shape)), self.dropout, key())
        return h + dropped(self._mlp(h), self.dropout, key()), None

    def decode(self, h: jax.Array, cache: Any, position: Array, turns: Array | None) -> tuple[jax.Array, Any]:
        """h [B, T, C] of the tokens at `position` and after -> h, with their keys and values in the cache."""
        q, k, v = self._heads(h, turns)
        keys, values = written(cache[0], k, position), written(cache[1], v, position)
        h = h + flat(self.mix, attend_cached(q, keys, values, position).reshape(h.shape))
        return h + self._mlp(h), (keys, values)

    def _heads(self, h: Array, turns: Array | None) -> list[jax.Array]:
        x = flat(lambda rows: self.qkv(self.attention_norm(rows)), h)
        x = x.reshape(*h.shape[:2], self.heads + 2 * self.kv_heads, self.width // self.heads)
        q, k, v = jnp.split(x, [self.heads, self.heads + self.kv_heads], axis=2)
        return [q, k, v] if turns is None else [rotate(q, turns), rotate(k, turns), v]

    def _mlp(self, h: Array) -> jax.Array:
        return flat(lambda rows: self.down(nn.gelu(self.up(self.mlp_norm(rows)))), h)


class GPT(nn.Module):
    """log p(x) = sum_t log p(x_t | x_<t) of rows of tokens, by a transformer.

    Args:
      vocabulary: V, tokens are 0 .. V-1.
      context: positions that a row may have.
      layers: of attention and MLP.
      heads: of queries; they divide the width.
      width: C, numbers a token.
      kv_heads: of keys and values; they divide `heads`. None: as many as `heads`.
      positions: "learned" vectors added to the embeddings, or "rotary" turns of queries and keys in every layer.
      bias: of linear layers and norms.
      dropout: rate in [0, 1), on embeddings, attention weights and what each part adds.
      scan: compile one layer and loop over it; False: write all layers out, which compiles longer and may run faster.
      remat: keep only the input of every layer for the backward pass and compute the rest again: less memory.

      causal: False: every token sees its whole row, and the logits at a position are of the token that stands there, as
        masked diffusion wants them; without segments and decoding.

    Called with tokens [B, T] integers and `segments` [B, T] (several documents in a row: see `documents`; tokens
    attend within their own, and positions restart in each); returns logits [B, T, V] of the NEXT token.  Dropout needs
    `deterministic=False` and `rngs={"dropout": key}`.

    Raises:
      BadInput: sizes that do not divide, a row longer than the context, and, outside of compiled functions, tokens
        outside of the vocabulary; inside of them these give NaN.

    >>> net = GPT(vocabulary=65, context=16, layers=2, heads=4, width=32)
    >>> logits, params = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.array([[1, 2, 3]]))
    >>> logits.shape, params["params"]["blocks"]["qkv"]["kernel"].shape
    ((1, 3, 65), (2, 32, 96))
    """

    vocabulary: int
    context: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    kv_heads: int | None = None
    positions: Literal["learned", "rotary"] = "learned"
    bias: bool = True
    dropout: float = 0.0
    scan: bool = True
    remat: bool = False
    causal: bool = True

    def setup(self) -> None:
        self._check()
        table = lambda rows: nn.Embed(rows, self.width, embedding_init=nn.initializers.normal(DEVIATION))
        self.token = table(self.vocabulary)
        if self.positions == "learned":
            self.place = table(self.context)
        block: Any = nn.remat(Block, prevent_cse=not self.scan, static_argnums=(4,)) if self.remat else Block
        self.blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.layers,
            unroll=1 if self.scan else self.layers,
            check_constancy_invariants=False,
        )(**self._block())
        self.norm = nn.LayerNorm(epsilon=1e-5, use_bias=self.bias)

    def __call__(self, tokens: Array, segments: Array | None = None, deterministic: bool = True) -> jax.Array:
        return self.continued(self.embedded(tokens), segments, deterministic)

    def embedded(self, tokens: Array) -> jax.Array:
        """E[tokens], [B, T] -> [B, T, C], without positions."""
        tokens = jnp.asarray(tokens)
        check_tokens(tokens, self.vocabulary)
        return looked_up(self.token.embedding, tokens)

    def continued(self, h: Array, segments: Array | None = None, deterministic: bool = True) -> jax.Array:
        """Logits [B, T, V] from embeddings [B, T, C], of tokens or of whatever else the network is to read."""
        self._check_length(h.shape[1])
        self._check_causal("segments" if segments is not None else None)
        index, start = (jnp.arange(h.shape[1])[None], None) if segments is None else documents(segments)
        x, turns = self._placed(h, index)
        if self.dropout > 0.0 and not deterministic:
            x = dropped(x, self.dropout, self.make_rng("dropout"))
        return self._logits(self.blocks(x, turns, start, deterministic)[0])

    def decode(self, tokens: Array, cache: Cache, position: Array | int, layers: Any = None) -> tuple[jax.Array, Cache]:
        """Logits of the next token after each of `tokens`, which stand at `position` and after.

        Args:
          tokens: [B, T].
          cache: from `cache`, or from the call before.
          position: int32 scalar, traced or not; position + T <= L, else the logits are NaN.
          layers: the parameters of each layer, as `decoder` takes them apart; None: take them apart here.

        Returns:
          (logits [B, T, V], cache).
        """
        self._check_causal("decoding")
        length, size = cache[0][0].shape[1], tokens.shape[1]
        if isinstance(position, int) and not 0 <= position <= length - size:
            raise BadInput(f"{size} tokens at position {position}", f"the cache has {length} positions")
        index = position + jnp.arange(size)
        h, turns = self._placed(self.embedded(tokens), index[None])
        h = jnp.where((index < length)[None, :, None], h, jnp.nan)  # a write past the end would land on other tokens
        layers = self.apart(self.variables) if layers is None else layers
        block, filled = Block(**self._block(), parent=None), list[Any]()
        for layer, held in zip(layers, cache, strict=True):
            h, new = block.apply({"params": layer}, h, held, position, turns, method="decode")
            filled.append(new)
        return self._logits(h), tuple(filled)

    @nn.nowrap
    def cache(self, rows: int, length: int, dtype: Any = jnp.float32) -> Cache:
        """An empty cache for `rows` sequences of up to `length` positions: keys and values of each layer.

        >>> [keys.shape for keys, values in GPT(65, 16, layers=2, heads=4, width=32, kv_heads=2).cache(3, 8)]
        [(6, 8, 8), (6, 8, 8)]
        """
        self._check_length(length)
        shape = (rows * self._shared(), length, self.width // self.heads)
        return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(self.layers))

    @nn.nowrap
    def decoder(self, params: Params) -> Decoder:
        """The network as generation sees it (genjax.samplers.decode); its cache has the dtype of the parameters."""
        layers = self.apart(params)
        start = lambda rows, length: self.cache(rows, length, layers[0]["qkv"]["kernel"].dtype)
        step = lambda cache, tokens, position: self.apply(params, tokens, cache, position, layers, method="decode")
        return Decoder(start, step)

    @nn.nowrap
    def apart(self, params: Params) -> list[Params]:
        """The parameters of each layer."""
        return [jax.tree.map(lambda x, i=i: x[i], params["params"]["blocks"]) for i in range(self.layers)]

    def _placed(self, h: Array, index: Array) -> tuple[jax.Array, jax.Array | None]:
        if self.positions == "learned":
            return jnp.asarray(h) + looked_up(self.place.embedding, index).astype(h.dtype), None
        return jnp.asarray(h), jnp.asarray(rotary_table(self.context, self.width // self.heads))[index]

    def _logits(self, h: jax.Array) -> jax.Array:
        return flat(lambda rows: self.token.attend(self.norm(rows)), h)

    def _block(self) -> dict[str, Any]:
        shared = {"width": self.width, "heads": self.heads, "kv_heads": self._shared()}
        return shared | {"layers": self.layers, "bias": self.bias, "dropout": self.dropout, "causal": self.causal}

    @nn.nowrap
    def _shared(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @nn.nowrap
    def _check_length(self, length: int) -> None:
        if length > self.context:
            raise BadInput(
                f"a sequence of {length} tokens",
                f"the context has {self.context} positions",
                "cut it, or raise context",
            )

    @nn.nowrap
    def _check_causal(self, what: str | None) -> None:
        if what and not self.causal:
            raise BadInput(f"{what} with causal = False", "allowed: causal = True, or whole rows of one document")

    def _check(self) -> None:
        shared = self._shared()
        for name in ("vocabulary", "context", "layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} = {getattr(self, name)}", "allowed: whole numbers from 1")
        if self.width % self.heads:
            raise BadInput(f"width = {self.width}, heads = {self.heads}", "heads divide the width")
        if shared < 1 or self.heads % shared:
            raise BadInput(f"kv_heads = {shared}, heads = {self.heads}", "kv_heads divide heads")
        if self.positions not in ("learned", "rotary"):
            raise BadInput(f"positions = {self.positions!r}", "allowed: 'learned', 'rotary'")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise BadInput(
                f"rotary positions with {self.width // self.heads} numbers a head", "pairs are turned: an even number"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise BadInput(f"dropout = {self.dropout}", "allowed: at least 0, below 1")


def decay_mask(params: Params) -> Params:
    """Which parameters decay: matrices and embeddings; gains and biases do not.

    By name, because the parameters of all layers lie in one array, where a bias is a matrix too:
    `optax.adamw(1e-3, weight_decay=0.1, mask=decay_mask)`.

    >>> layer = {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))}
    >>> decay_mask({"up": layer, "norm": {"scale": jnp.ones(3)}, "token": {"embedding": jnp.ones((5, 3))}})
    {'norm': {'scale': False}, 'token': {'embedding': True}, 'up': {'bias': False, 'kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)

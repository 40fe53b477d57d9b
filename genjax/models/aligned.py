r"""Densities of aligned sequences, x in {0 .. K-1}^L: families behind one set of functions.

    independent columns    p(x) = prod_i p_i(x_i), see columns.py                                           exact
    autoregressive         p(x) = prod_i p(x_i | x_<i), a transformer with learned positions                exact
    masked diffusion       -log p(x) <= the sum over all L numbers of masked letters, a perceptron;         upper bound,
                           or the average of the densities of given orders                                  or exact
    variational            -log p(x) <= -log 1/k sum_j p(x, z_j) / q(z_j | x)                               upper bound
    Potts RBM              log p(x) = -F(x) - log Z, see potts.py                                exact, or estimates

All that is trained begins at a profile: what it learns is how columns depend on each other.

Source: Riesselman, Ingraham and Marks, Deep generative models of genetic variation capture the effects of mutations,
2018, https://doi.org/10.1038/s41592-018-0138-4 (VAEs of families); the networks' own stand with them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.distributions import kl_normal_standard, sample_normal
from genjax.likelihood.iwae import importance_sampling, normal_log_weights
from genjax.likelihood.masked import masked_bound, over_orders
from genjax.losses.likelihood import sequence_nll
from genjax.losses.masked import masked_counts, order_agnostic_loss
from genjax.losses.variational import negative_elbo
from genjax.losses.warm_up import linear_warm_up
from genjax.models.blocks import MLP
from genjax.models.transformer import GPT
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder
from genjax.samplers.choosing import draw
from genjax.samplers.decode import Decoder, generate
from genjax.samplers.unmasking import one_at_a_time, unmask
from genjax.types import Array, Key, Out, Params, State


class Density(NamedTuple):
    """A family as training and evaluation see it: pure functions of tokens [B, L]."""

    init: Callable[[Key], Params]
    loss: Callable[[Params, State, jax.Array, Key], Out]  # nats
    nats: Callable[[State, jax.Array, Key], jax.Array]  # -log p(x) [B], of the kind below
    kind: str  # "exact -log p(x)", "upper bound of -log p(x), k=1,000", ...
    sample: Callable[[State, Key, int], jax.Array]  # tokens [n, L]
    carry: Callable[[Key, Params], Any] = lambda key, params: ()  # what no gradient touches


def autoregressive(log_p: Array, layers: int, heads: int, width: int, dropout: float) -> Density:
    """A transformer that reads from the first column to the last, its logits added to those of a profile.

    Args:
      log_p: [L, K] nats, where it begins.
      layers, heads, width, dropout: of the transformer.

    Returns:
      Density.  Kind: exact.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (the network).

    >>> autoregressive(jnp.zeros((3, 4)), 1, 1, 8, 0.0).kind
    'exact -log p(x)'
    """
    (length, levels), known = np.shape(log_p), jnp.asarray(log_p, jnp.float32)
    net: Any = GPT(
        levels + 1, length + 1, layers, heads, width, bias=False, dropout=dropout
    )  # generation holds the start
    beside = jnp.pad(jnp.pad(known, ((0, 0), (0, 1)), constant_values=-jnp.inf), ((0, 1), (0, 0)))

    def nats(params: Params, tokens: jax.Array, **options: Any) -> jax.Array:
        before = jnp.concatenate([jnp.full((len(tokens), 1), levels), tokens[:, :-1]], axis=1)
        return sequence_nll(net.apply(params, before, **options)[..., :levels] + known[None], tokens)

    def decoder(params: Params) -> Decoder:
        plain = net.decoder(params)

        def step(cache: Any, tokens: jax.Array, position: Any) -> tuple[jax.Array, Any]:
            logits, cache = plain.step(cache, tokens, position)
            return logits + jax.lax.dynamic_slice_in_dim(beside, position, tokens.shape[1])[None], cache

        return plain._replace(step=step)

    def sample(state: State, key: Key, n: int) -> jax.Array:
        start = jnp.full((n, 1), levels)
        return generate(decoder(state.params), start, np.ones(n, np.int32), key, length + 1, draw)[0][:, 1:]

    return Density(
        lambda key: net.init(key, jnp.zeros((1, length), jnp.int32)),
        lambda params, state, tokens, key: Out(nats(params, tokens, deterministic=False, rngs={"dropout": key})),
        lambda state, tokens, key: nats(state.params, tokens),
        "exact -log p(x)",
        sample,
    )


class Filler(nn.Module):
    """Letters [B, L], K where one is masked -> logits [B, L, K]: a perceptron of whole rows, as columns never move.

    Args:
      levels: K.
      widths: units of each hidden layer.

    >>> net = Filler(4, (8,))
    >>> net.init_with_output(jax.random.key(0), jnp.zeros((2, 3), jnp.int32))[0].shape
    (2, 3, 4)
    """

    levels: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, tokens: Array) -> jax.Array:
        seen = jax.nn.one_hot(tokens, self.levels + 1).reshape(len(tokens), -1)
        out = nn.Dense(tokens.shape[1] * self.levels)(MLP(self.widths, nn.relu)(seen))
        return out.reshape(*tokens.shape, self.levels)


def masked(log_p: Array, width: int, orders: np.ndarray | None = None) -> Density:
    """Masked diffusion by a perceptron, its logits added to those of a profile.

    Args:
      log_p: [L, K] nats, where it begins.
      width: units of each hidden layer.
      orders: [M, L], such as `every_order(L)`: M L passes tell the density that draws in one of them, without noise.

    Returns:
      Density.  Kind: upper bound, its sum over the number of masked letters exact; with `orders` exact.

    Source: Hoogeboom et al., Autoregressive Diffusion Models, 2022, https://arxiv.org/abs/2110.02037.

    >>> masked(jnp.zeros((3, 4)), 8).kind
    'upper bound of -log p(x), all 3 numbers of masked letters'
    """
    (length, levels), known = np.shape(log_p), jnp.asarray(log_p, jnp.float32)
    net: Any = Filler(levels, (width, width))

    def logits(params: Params) -> Callable[[jax.Array], jax.Array]:
        return lambda z: net.apply(params, z) + known[None]

    def loss(params: Params, state: State, tokens: jax.Array, key: Key) -> Out:
        count_key, mask_key = jax.random.split(key)
        count = masked_counts(count_key, *tokens.shape)
        return Out(order_agnostic_loss(logits(params), levels, tokens, count, mask_key))

    def sample(state: State, key: Key, n: int) -> jax.Array:
        blank = jnp.full((n, length), levels)
        return unmask(logits(state.params), blank, levels, one_at_a_time(length), key).tokens

    def bound(state: State, tokens: jax.Array, key: Key) -> jax.Array:
        return masked_bound(logits(state.params), levels, tokens, key, length)

    def averaged(state: State, tokens: jax.Array, key: Key) -> jax.Array:
        return over_orders(logits(state.params), levels, tokens, jnp.asarray(orders)).nll

    upper = f"upper bound of -log p(x), all {length} numbers of masked letters"
    exact = f"exact -log p(x) of the average over {0 if orders is None else len(orders)} orders"
    init = lambda key: net.init(key, jnp.zeros((1, length), jnp.int32))
    told = (bound, upper) if orders is None else (averaged, exact)
    return Density(init, loss, *told, sample)


def variational(log_p: Array, latents: int, width: int, samples: int, warm_up: int = 0) -> Density:
    """A VAE whose decoder gives every column its own logits and begins at a profile.

    Args:
      log_p: [L, K] nats, first biases of the decoder.
      latents: dimensions of z.
      width: units of the two hidden layers of encoder and decoder.
      samples: k, importance samples of the bound.
      warm_up: updates in which the weight of the rate rises to one.  Without them a decoder that begins at a profile
        stays there, and z says nothing.

    Returns:
      Density.  Kind: upper bound.

    Source: Riesselman, Ingraham and Marks, 2018; Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders,
    2016, https://arxiv.org/abs/1509.00519 (the bound).

    >>> variational(jnp.zeros((3, 4)), 2, 8, 1_000).kind
    'upper bound of -log p(x), k=1,000'
    """
    (length, levels), hidden = np.shape(log_p), lambda: MLP((width, width), nn.relu)
    bias = nn.initializers.constant(jnp.asarray(log_p, jnp.float32).reshape(-1))
    decoder = DenseDecoder((length, levels, 1), 1, hidden(), bias_init=bias)
    model: Any = VAE(DenseEncoder(latents, hidden()), decoder)

    def encoded(params: Params, tokens: jax.Array) -> Any:
        return model.apply(params, jax.nn.one_hot(tokens, levels)[..., None], method="encode")

    def logits(params: Params, z: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(model.apply(params, z, method="decode")[..., 0, 0])

    def loss(params: Params, state: State, tokens: jax.Array, key: Key) -> Out:
        mean, log_var = encoded(params, tokens)
        fit = picked(logits(params, sample_normal(mean, log_var, key)), tokens)
        rate = kl_normal_standard(mean, log_var).sum(axis=-1)
        return Out(negative_elbo(fit, rate, linear_warm_up(state.step, warm_up)), {"rate": rate})

    def nats(state: State, tokens: jax.Array, key: Key) -> jax.Array:
        mean, log_var = encoded(state.params, tokens)
        fit = lambda z: picked(logits(state.params, z), tokens)
        weights = lambda key, n: normal_log_weights(fit, mean, log_var, key, n)
        return -importance_sampling(weights, key, samples).bound

    def sample(state: State, key: Key, n: int) -> jax.Array:
        code_key, key = jax.random.split(key)
        z = jax.random.normal(code_key, (n, latents))
        return jax.random.categorical(key, logits(state.params, z), axis=-1)

    return Density(
        lambda key: model.init(key, jnp.zeros((1, length, levels, 1))),
        loss,
        nats,
        f"upper bound of -log p(x), k={samples:,}",
        sample,
    )


def picked(log_p: jax.Array, tokens: jax.Array) -> jax.Array:
    """sum_i log p_i(x_i).

    Args:
      log_p: [..., L, K] nats; of [B, L, K] a row each, of [k, B, L, K] as many for each of k samples.
      tokens: [B, L] in 0 .. K-1.

    Returns:
      [B] nats, or [k, B].

    >>> picked(jnp.array([[-1.0, -2.0], [-3.0, -4.0]]), jnp.array([[0, 1]])).tolist()
    [-5.0]
    """
    hot = jax.nn.one_hot(tokens, log_p.shape[-1], dtype=log_p.dtype)
    rank = max(3, log_p.ndim)
    alike = [a.reshape((1,) * (rank - a.ndim) + a.shape) for a in (hot, log_p)]
    return jnp.sum(alike[0] * alike[1], axis=(-2, -1))

"""Exact likelihood of sequences: the chain rule, log p(x) = sum_t log p(x_t | x_1 .. x_{t-1}).

`logits[b, t]` are a model's scores of the categories of `tokens[b, t]`, computed from what stands before it; the
caller does the shift, for instance with rows of L + 1 tokens:

    logits = model(rows[:, :-1]);  token_nll(logits, rows[:, 1:])

The sum over t is an exact negative log-likelihood, no bound.  Padding has mask 0 and weighs nothing.  A token outside
of the vocabulary cannot be refused inside a compiled function: its number is NaN, which stops a training run, where a
gather would silently have read another token's.

Source of the chain rule as a training objective: Bengio et al., A Neural Probabilistic Language Model, 2003, section 2,
https://www.jmlr.org/papers/v3/bengio03a.html.
"""

import jax
import jax.numpy as jnp

from genjax.distributions import categorical_log_prob, event_sum
from genjax.errors import BadInput
from genjax.types import Array


def token_nll(logits: Array, tokens: Array, mask: Array | None = None) -> jax.Array:
    """-log p(x_t | x_<t) of every token.

    Args:
      logits: [B, T, V], any real numbers; half precision is converted to float32 first.
      tokens: [B, T] integers in 0 .. V-1, where the mask is not 0.
      mask: [B, T], 1 for tokens that count, 0 for padding; None: all count.

    Returns:
      [B, T] nats, >= 0; 0 where the mask is 0, NaN where a token that counts is not in the vocabulary.

    Raises:
      BadInput: shapes that do not fit, tokens that are no integers.

    >>> nats = token_nll(jnp.zeros((1, 3, 4)), jnp.array([[0, 3, -1]]), jnp.array([[1, 1, 0]]))
    >>> [round(float(n), 4) for n in nats[0]]  # log 4
    [1.3863, 1.3863, 0.0]
    """
    logits, tokens = jnp.asarray(logits), jnp.asarray(tokens)
    _check(logits, tokens, mask)
    known = (tokens >= 0) & (tokens < logits.shape[-1])
    nats = jnp.where(known, -categorical_log_prob(tokens, logits), jnp.nan)
    return nats if mask is None else jnp.where(jnp.asarray(mask) > 0, nats, 0.0)


def sequence_nll(logits: Array, tokens: Array, mask: Array | None = None) -> jax.Array:
    """-log p(x) = -sum_t log p(x_t | x_<t): what a language model minimises, of whole sequences.

    Args:
      logits, tokens, mask: as `token_nll`.

    Returns:
      [B] nats, summed over the tokens that count; divide by their number for nats per token.

    Raises:
      BadInput: as `token_nll`.

    >>> round(float(sequence_nll(jnp.zeros((1, 3, 4)), jnp.array([[0, 3, 2]]))[0]), 4)  # 3 log 4
    4.1589
    """
    return event_sum(token_nll(logits, tokens, mask))


def _check(logits: jax.Array, tokens: jax.Array, mask: Array | None) -> None:
    if logits.ndim != 3 or tokens.shape != logits.shape[:2] or (mask is not None and jnp.shape(mask) != tokens.shape):
        told = "" if mask is None else f", mask {list(jnp.shape(mask))}"
        raise BadInput(
            f"logits {list(logits.shape)}, tokens {list(tokens.shape)}{told}",
            "allowed: logits [B, T, V], tokens [B, T], mask [B, T]",
            "the logits of a position predict the token of the same position: model(rows[:, :-1]), rows[:, 1:]",
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise BadInput(f"tokens are {tokens.dtype}", "allowed: integers, the numbers of categories")

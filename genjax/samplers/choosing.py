"""From logits to the next token: temperature, truncation, a penalty on repetition; each a function logits -> logits.

An autoregressive model gives p(x_t = i | x_<t) = softmax(l)_i, and drawing from it is `draw`.  The functions below
change l first.  A token that is left out gets the logit -inf, and the softmax over the rest is the renormalised
distribution.  They compose, in an order that is the caller's to say; the usual one is

    def choose(logits, counts, key):
        logits = repetition_penalty(logits, counts, 1.2)
        return draw(top_p(top_k(temperature(logits, 0.8), 40), 0.95), counts, key)

and such a `choose`, a function of one row's logits [V], of how often each token stands in the row so far [V], and of a
key, is what decoding takes (decode.py).  Settings are Python numbers, checked while tracing.
"""

import math

import jax
import jax.numpy as jnp

from genjax.distributions import sample_categorical, upcast
from genjax.errors import BadInput
from genjax.types import Array, Key


def draw(logits: Array, counts: Array, key: Key) -> jax.Array:
    """x ~ softmax(l): a draw from the model itself.

    Args:
      logits: [..., V].
      counts: not used; it stands here so that this function is a `choose`.
      key: of the draw.

    Returns:
      [...] int32 in 0 .. V-1.

    Source: Bishop, Pattern Recognition and Machine Learning, 2006, section 8.1.2.

    >>> int(draw(jnp.array([-200.0, 0.0, -200.0]), jnp.zeros(3, jnp.int32), jax.random.key(0)))
    1
    """
    return sample_categorical(logits, key)


def temperature(logits: Array, value: float) -> jax.Array:
    """l_i / T: sharper for T < 1, flatter for T > 1; T = 0 leaves the most likely token alone.

    The limit T -> 0 is exact: one token stays, the first where several are equally likely.

    Args:
      logits: [..., V].
      value: T in [0, inf).

    Returns:
      [..., V].

    Raises:
      BadInput: T is negative or not finite.

    Source: Ackley, Hinton and Sejnowski, A Learning Algorithm for Boltzmann Machines, 1985,
    https://doi.org/10.1207/s15516709cog0901_7.

    >>> temperature(jnp.array([1.0, 2.0]), 0.5).tolist(), temperature(jnp.array([1.0, 2.0]), 0.0).tolist()
    ([2.0, 4.0], [-inf, 0.0])
    """
    if not (math.isfinite(value) and value >= 0):
        raise BadInput(f"temperature = {value}", "allowed: numbers from 0, which takes the most likely token")
    logits = upcast(logits)
    if value > 0:
        return logits / value
    token = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.where(token == jnp.argmax(logits, axis=-1, keepdims=True), 0.0, -jnp.inf).astype(logits.dtype)


def top_k(logits: Array, k: int) -> jax.Array:
    """The k most likely tokens; where the k-th has equals, these too, so that no token is preferred for its number.

    Args:
      logits: [..., V].
      k: at least 1; from V on, all tokens stay.

    Returns:
      [..., V], -inf at the tokens left out.

    Raises:
      BadInput: k < 1.

    Source: Fan, Lewis and Dauphin, Hierarchical Neural Story Generation, 2018,
    https://arxiv.org/abs/1805.04833.

    >>> top_k(jnp.array([0.0, 3.0, 1.0, 1.0]), 2).tolist()
    [-inf, 3.0, 1.0, 1.0]
    """
    if k < 1:
        raise BadInput(f"top_k = {k}", "allowed: whole numbers from 1")
    logits = upcast(logits)
    if k >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= least, logits, -jnp.inf)


def top_p(logits: Array, p: float) -> jax.Array:
    """The nucleus: the smallest set of most likely tokens whose probability is at least p.

    In the order of falling probability a token stays if those before it hold less than p.  The token that crosses p
    therefore stays, and the first always does.  Equals of the last one that stays do too, as in `top_k`.

    Args:
      logits: [..., V].
      p: in (0, 1]; 1 leaves all tokens.

    Returns:
      [..., V], -inf at the tokens left out.

    Raises:
      BadInput: p outside (0, 1].

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration, 2020, eq. 2 and 3,
    https://arxiv.org/abs/1904.09751.

    >>> logits = jnp.log(jnp.array([0.1, 0.5, 0.4]))
    >>> [jnp.isfinite(top_p(logits, p)).tolist() for p in (0.2, 0.6)]
    [[False, True, False], [False, True, True]]
    """
    if not 0 < p <= 1:
        raise BadInput(f"top_p = {p}", "allowed: numbers in (0, 1]")
    logits = upcast(logits)
    if p == 1:  # not left to rounding: the sum of the others may come out as 1
        return logits
    falling = -jnp.sort(-logits, axis=-1)
    probability = jax.nn.softmax(falling, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    least = jnp.min(jnp.where(before < p, falling, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def repetition_penalty(logits: Array, counts: Array, value: float) -> jax.Array:
    """l_i / theta where l_i > 0 and l_i theta where l_i < 0, for tokens i that already stand in the row.

    The paper divides, which makes a token with a negative logit more likely; its authors' program multiplies there,
    and so does this function: theta > 1 makes every repeated token less likely.  The result depends on the zero of the
    logits, which the softmax does not: the penalty belongs before whatever shifts them.

    Args:
      logits: [..., V].
      counts: [..., V] how often each token stands in the row, the prompt included.
      value: theta in (0, inf); 1 changes nothing, the paper recommends 1.2.

    Returns:
      [..., V].

    Raises:
      BadInput: theta is not positive and finite.

    Source: Keskar et al., CTRL, 2019, eq. 13, https://arxiv.org/abs/1909.05858.

    >>> repetition_penalty(jnp.array([2.0, 2.0, -2.0]), jnp.array([0, 3, 1]), 2.0).tolist()
    [2.0, 1.0, -4.0]
    """
    if not (math.isfinite(value) and value > 0):
        raise BadInput(f"repetition_penalty = {value}", "allowed: positive numbers; 1 changes nothing")
    logits = upcast(logits)
    if value == 1:
        return logits
    return jnp.where(jnp.asarray(counts) > 0, jnp.where(logits > 0, logits / value, logits * value), logits)

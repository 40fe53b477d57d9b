"""Gumbel, Concrete and relaxed Bernoulli variables: discrete variables through which gradients flow.

If G_1 .. G_K are standard Gumbel, argmax_j (l_j + G_j) is categorical with logits l.  A Concrete (Gumbel-softmax)
variable replaces the argmax by a softmax of temperature t,

    y = softmax((l + G) / t),

a point of the simplex that tends to a corner as t falls to 0; its largest coordinate is categorical with logits l at
every t.  With two categories it is y = sigmoid((l + L) / t), L logistic: the relaxed Bernoulli variable.

Points are handled as logarithms (log y), or as log-odds, because y itself rounds to 0 and 1 at low temperatures.  The
densities are with respect to the measures that are named; in a ratio p / q the measure cancels.

Sources: Maddison, Mnih and Teh, The Concrete Distribution, 2017, definition 1, https://arxiv.org/abs/1611.00712; Jang,
Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, 2017, section 2, https://arxiv.org/abs/1611.01144.
"""

import math

import jax
import jax.numpy as jnp

from genjax.distributions.arrays import upcast
from genjax.errors import BadInput
from genjax.types import Array, Key


def gumbel_log_prob(x: Array, location: Array | float) -> jax.Array:
    """log of exp(-(x - l) - exp(-(x - l))), the density of l + G.

    Args:
      x, location: [...] one shape, or scalars.

    Returns:
      [...] nats per element.

    >>> float(gumbel_log_prob(2.0, 2.0))
    -1.0
    """
    above = upcast(x) - upcast(location)
    return -above - jnp.exp(-above)


def sample_gumbel(location: Array, key: Key) -> jax.Array:
    """l + G, G = -log(-log U), U uniform.

    Args:
      location: [...].
      key: the key of G.

    Returns:
      [...] in the dtype of `location`; the arithmetic is float32.

    >>> bool(jnp.argmax(sample_gumbel(jnp.array([0.0, 200.0]), jax.random.key(0))) == 1)
    True
    """
    location = jnp.asarray(location)
    centre = upcast(location)
    return (centre + jax.random.gumbel(key, centre.shape, centre.dtype)).astype(location.dtype)


def sample_concrete(logits: Array, temperature: Array | float, key: Key) -> jax.Array:
    """log y, y = softmax((l + G) / t): differentiable in logits and temperature.

    Args:
      logits: [..., K], any real numbers.
      temperature: scalar t > 0; an array if it is annealed by `state.step`.
      key: the key of G.

    Returns:
      [..., K] log y in the dtype of `logits`; its exponentials sum to 1.

    Raises:
      BadInput: a temperature that is not positive.

    >>> jnp.exp(sample_concrete(jnp.array([0.0, 500.0]), 0.5, jax.random.key(0))).tolist()
    [0.0, 1.0]
    """
    logits = jnp.asarray(logits)
    scores = sample_gumbel(upcast(logits), key) / _positive(temperature)
    return jax.nn.log_softmax(scores, axis=-1).astype(logits.dtype)


def concrete_log_prob(log_y: Array, logits: Array, temperature: Array | float) -> jax.Array:
    """log (K-1)! + (K-1) log t + sum_j (l_j - (t + 1) log y_j) - K log sum_j exp(l_j - t log y_j).

    The density of y with respect to the first K-1 coordinates of the simplex.

    Args:
      log_y: [..., K] logarithms of points of the simplex.
      logits: [..., K], the shape of `log_y`.
      temperature: scalar t > 0.

    Returns:
      [...] nats.

    Raises:
      BadInput: a temperature that is not positive.

    >>> centre = jnp.log(jnp.array([0.5, 0.5]))
    >>> float(concrete_log_prob(centre, jnp.zeros(2), 1.0))  # K = 2, t = 1: uniform on [0, 1]
    0.0
    """
    log_y, logits, temperature = upcast(log_y), upcast(logits), _positive(temperature)
    categories = logits.shape[-1]
    constant = math.lgamma(categories) + (categories - 1) * jnp.log(temperature)
    heights = jnp.sum(logits - (temperature + 1.0) * log_y, axis=-1)
    return constant + heights - categories * jax.nn.logsumexp(logits - temperature * log_y, axis=-1)


def sample_relaxed_bernoulli(logits: Array, temperature: Array | float, key: Key) -> jax.Array:
    """The log-odds (l + L) / t of y, L logistic: y = sigmoid of it, differentiable in logits and temperature.

    Args:
      logits: [...] log-odds of 1.
      temperature: scalar t > 0.
      key: the key of L.

    Returns:
      [...] log-odds of y in the dtype of `logits`.

    Raises:
      BadInput: a temperature that is not positive.

    >>> float(jax.nn.sigmoid(sample_relaxed_bernoulli(jnp.float32(-500.0), 0.5, jax.random.key(0))))
    0.0
    """
    logits = jnp.asarray(logits)
    centre = upcast(logits)
    noise = jax.random.logistic(key, centre.shape, centre.dtype)
    return ((centre + noise) / _positive(temperature)).astype(logits.dtype)


def relaxed_bernoulli_log_prob(log_odds: Array, logits: Array, temperature: Array | float) -> jax.Array:
    """log t + u - 2 log(1 + exp(u)), u = l - t log_odds: the density of the log-odds on the real line.

    Args:
      log_odds: [...] of y.
      logits: [...], the shape of `log_odds`.
      temperature: scalar t > 0.

    Returns:
      [...] nats per element.

    Raises:
      BadInput: a temperature that is not positive.

    >>> round(float(relaxed_bernoulli_log_prob(0.0, 0.0, 1.0)), 4)  # the logistic density at 0 is 1/4
    -1.3863
    """
    temperature = _positive(temperature)
    u = upcast(logits) - temperature * upcast(log_odds)
    return jnp.log(temperature) + jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u)


def _positive(temperature: Array | float) -> jax.Array:
    if isinstance(temperature, int | float) and not 0 < temperature < math.inf:
        raise BadInput(
            f"temperature = {temperature}",
            "allowed: above 0 and finite; towards 0 the variable becomes discrete",
            "for discrete samples: sample_categorical or sample_bernoulli",
        )
    return upcast(temperature)

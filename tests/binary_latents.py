"""A model of six binary pixels with three binary latents: every expectation is a finite sum over paths, in float64.

p(z) and q(z | x) are independent Bernoulli variables, p(x | z) has a hidden layer, so that latents interact.  Run what
uses it under `jax.enable_x64(True)`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from binary_images import ROWS

from genjax.distributions import bernoulli_log_prob, event_sum

LATENTS = 3
PATHS = np.float64(list(itertools.product((0, 1), repeat=LATENTS)))  # [8, 3]
IMAGES = np.float64(ROWS)  # [64, 6]
_RNG = np.random.default_rng(5)
THETA = {
    "prior": _RNG.normal(size=LATENTS),
    "hidden": _RNG.normal(size=(LATENTS, 4)) * 1.5,
    "pixels": _RNG.normal(size=(4, 6)) * 1.3,
}
PHI = {"weights": _RNG.normal(size=(6, LATENTS)) * 0.8, "offset": _RNG.normal(size=LATENTS)}


def log_fit(theta, z=PATHS, x=IMAGES):
    """log p(x | z) of every path and image: [Z, X]."""
    logits = jnp.tanh(z @ theta["hidden"] - 0.5) @ theta["pixels"]
    shape = (len(z), *x.shape)
    return event_sum(
        bernoulli_log_prob(jnp.broadcast_to(x, shape), jnp.broadcast_to(logits[:, None], shape)), leading=2
    )


def log_prior(theta, z=PATHS):
    """log p(z) of every path: [Z]."""
    return event_sum(bernoulli_log_prob(z, jnp.broadcast_to(theta["prior"], z.shape)))


def log_joint(theta, z=PATHS, x=IMAGES):
    """log p(z) + log p(x | z) of every path and image: [Z, X]."""
    return log_fit(theta, z, x) + log_prior(theta, z)[:, None]


def log_posterior(phi, z=PATHS, x=IMAGES):
    """log q(z | x) of every path and image: [Z, X]."""
    logits = jnp.tanh(x @ phi["weights"]) * 1.5 + phi["offset"][None]
    shape = (len(z), *logits.shape)
    return event_sum(
        bernoulli_log_prob(jnp.broadcast_to(z[:, None], shape), jnp.broadcast_to(logits, shape)), leading=2
    )


def tuples(k):
    """Every k-tuple of paths, as k arrays of indices: [k, 8^k]."""
    return np.stack(np.meshgrid(*[np.arange(len(PATHS))] * k, indexing="ij")).reshape(k, -1)


def expected(loss, theta, phi, k, differentiate_samples=False):
    """[X] E of a loss of k samples, by the sum over all 8^k tuples.

    Args:
      loss: (log_joint [k, B], log_posterior [k, B]) -> [B]; a row of B is a pair (tuple of paths, image).
      differentiate_samples: whether the probabilities of the tuples are differentiated too: with the plain loss this
        gives the exact gradient of its expectation; without it, the expectation of the gradient that `loss` defines.
    """
    rows, joint, log_q = tuples(k), log_joint(theta), log_posterior(phi)
    values = loss(joint[rows].reshape(k, -1), log_q[rows].reshape(k, -1)).reshape(rows.shape[1], -1)
    probability = jnp.exp(jnp.sum(log_q[rows], axis=0))
    return jnp.sum((probability if differentiate_samples else jax.lax.stop_gradient(probability)) * values, axis=0)

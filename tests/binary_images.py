"""All binary images of 2x3 pixels, and what every autoregressive model of them must satisfy."""

import itertools

import jax
import numpy as np
from planted import check_frequencies

ROWS = np.float32(list(itertools.product((0, 1), repeat=6)))  # [64, 6]
IMAGES = ROWS.reshape(64, 2, 3, 1)
KEY = jax.random.key(0)


def wild(model, *example, scale=1.5):
    """Parameters far from their small initial values: normal, of one scale, so that p is far from uniform."""
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(model.init, KEY, *example)
    return jax.tree.map(lambda leaf: np.float32(scale * rng.normal(size=leaf.shape)), shapes)


def scattered(params, scale):
    """As `wild`, of parameters that are there already, by JAX's own generator."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    values = [scale * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, values)


def check_is_a_density(log_p):
    """The 64 probabilities sum to 1 within 1e-5, and are far from equal: a uniform model would prove nothing."""
    log_p = np.float64(log_p)
    assert log_p.shape == (64,)
    assert abs(np.exp(log_p).sum() - 1.0) < 1e-5
    assert log_p.max() - log_p.min() > 3.0


def check_samples(sample, log_p):
    """20,000 samples against the 64 probabilities: chi-square, p > 1e-4."""
    codes = 2 ** np.arange(5, -1, -1)
    drawn = lambda n, key: (np.asarray(sample(n, key)).reshape(n, 6) @ codes)[:, None]
    check_frequencies(drawn, lambda code: np.asarray(log_p)[code : code + 1], range(64))


def dependence(outputs, inputs, points=8, scale=1.0):
    """Whether output i depends on input j: a Jacobian that is not exactly 0 at one of a few random points.

    Args:
      outputs: x [B, *inputs] -> [B, ...]; examples do not mix.
      inputs: shape of one example.

    Returns:
      [outputs, inputs] booleans, both flattened.
    """
    x = scale * jax.random.normal(jax.random.key(3), (points, *inputs))
    one = lambda x: outputs(x[None])[0].reshape(-1)
    jacobian = jax.jit(jax.vmap(jax.jacrev(one)))(x)
    return np.any(np.asarray(jacobian).reshape(points, -1, int(np.prod(inputs))) != 0.0, axis=0)


def bernoulli_sum(logits, x):
    """log p(x) [B] in float64 NumPy, written anew."""
    logits = np.float64(logits).reshape(len(x), -1)
    x = np.float64(x).reshape(len(x), -1)
    return -np.logaddexp(0.0, np.where(x == 1.0, -logits, logits)).sum(-1)

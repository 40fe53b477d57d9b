r"""What goes into a denoising loss beside data and time: noise that suits the data, labels left out, a first guess.

Noise paired with data (minibatch optimal transport).  Rows of noise are permuted so that the sum of squared distances
to the rows of data is least; each row of noise is still a standard normal draw, but the pairs are not independent, and
the lines from noise to data of a flow cross less (Tong et al., 2024; Pooladian et al., 2023).

Labels left out (classifier-free guidance).  A network that sees a label, and a stand-in for none at a rate of its own,
learns the conditional and the unconditional expectation at once (Ho and Salimans, 2022).

Self-conditioning.  The network also sees an estimate of x: at half of the rows its own from a first pass, through which
no gradient runs, otherwise zeros (Chen, Zhang and Hinton, 2023).

Sources: Tong et al., Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport, 2024,
https://arxiv.org/abs/2302.00482, section 3.2; Pooladian et al., Multisample Flow Matching, 2023,
https://arxiv.org/abs/2304.14772; Ho and Salimans, Classifier-Free Diffusion Guidance, 2022,
https://arxiv.org/abs/2207.12598, algorithm 1; Chen, Zhang and Hinton, Analog Bits, 2023,
https://arxiv.org/abs/2208.04202, section 3.2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from genjax.errors import BadInput
from genjax.types import Array, Key


def paired_noise(x: Array, noise: Array) -> jax.Array:
    """The same rows of noise, each beside the data that it is sent to by optimal transport of the batch.

    Args:
      x: data [B, ...].
      noise: eps, of x's shape.

    Returns:
      A permutation of the rows of `noise`.

    Raises:
      BadInput: other shapes.

    >>> paired_noise(jnp.array([[0.0], [5.0]]), jnp.array([[2.0], [1.0]])).ravel().tolist()
    [1.0, 2.0]
    """
    if jnp.shape(x) != jnp.shape(noise):
        raise BadInput(f"data {list(jnp.shape(x))}, noise {list(jnp.shape(noise))}", "allowed: one shape")
    rows = lambda a: jnp.asarray(a).reshape(len(a), -1)
    cost = -rows(x) @ rows(noise).T  # of the squared distances all that depends on the pairs, halved
    i, j = optax.assignment.hungarian_algorithm(cost)
    return jnp.asarray(noise)[jnp.zeros_like(j).at[i].set(j)]


def drop_labels(label: Array, classes: int, rate: float, key: Key) -> jax.Array:
    """Labels, some of them replaced by `classes`, which stands for none.

    Args:
      label: [B] integers, 0 .. classes - 1.
      classes: K.
      rate: the share that is left out, in [0, 1]; 0.1 to 0.2 in the paper.
      key: which.

    Returns:
      [B] integers, 0 .. K.

    Raises:
      BadInput: a rate outside [0, 1].

    >>> drop_labels(jnp.array([3, 1]), 10, 1.0, jax.random.key(0)).tolist()
    [10, 10]
    """
    if not 0 <= rate <= 1:
        raise BadInput(f"rate = {rate} of labels left out", "allowed: shares from 0 to 1")
    return jnp.where(jax.random.bernoulli(key, rate, jnp.shape(label)), classes, jnp.asarray(label))


def first_guess(estimate: Callable[[jax.Array], jax.Array], like: Array, key: Key, rate: float = 0.5) -> jax.Array:
    """What a self-conditioned network sees of x: its own estimate made of nothing, or nothing.

    Args:
      estimate: guess -> x', the network at the same z and t; called once, with zeros.
      like: of the guess's shape [B, ...].
      key: which rows get an estimate.
      rate: the share of those rows, in [0, 1].

    Returns:
      [B, ...], constant for the gradient.

    Raises:
      BadInput: a rate outside [0, 1].

    >>> first_guess(lambda guess: guess + 1.0, jnp.zeros((1, 2)), jax.random.key(0), 1.0).tolist()
    [[1.0, 1.0]]
    """
    if not 0 <= rate <= 1:
        raise BadInput(f"rate = {rate} of guesses", "allowed: shares from 0 to 1")
    nothing = jnp.zeros_like(like)
    rows = jax.random.bernoulli(key, rate, (len(like),) + (1,) * (jnp.ndim(like) - 1))
    return jnp.where(rows, jax.lax.stop_gradient(estimate(nothing)), nothing)

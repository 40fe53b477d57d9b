r"""Wake-sleep: generative weights learn from what recognition says of data, recognition weights from what is dreamt.

A directed model p(v | h_1) p(h_1 | h_2) ... and its recognition q(h_1 | v) q(h_2 | h_1) ... are both given layer by
layer.  In the wake phase units are drawn upwards by q, and each p of a layer descends its -log p; in the sleep phase
they are drawn downwards by p, and each q descends its -log q.  All drawn units count as constants:

    wake   sum_l -log p(h_{l-1} | h_l),  h ~ q(h | v)           sleep   sum_l -log q(h_l | h_{l-1}),  (v, h) ~ p

The wake phase is the gradient of the variational bound in p; the sleep phase descends KL(p || q), which is the wrong
way round, as the authors say.  Contrastive wake-sleep, or up-down, puts a Boltzmann machine on top: it takes a few
Gibbs steps from where the wake phase arrived, and dreams start there (Hinton, Osindero and Teh 2006, appendix B).

Sources: Hinton, Dayan, Frey and Neal, The wake-sleep algorithm for unsupervised neural networks, 1995,
https://doi.org/10.1126/science.7761831; Hinton, Osindero and Teh, A Fast Learning Algorithm for Deep Belief Nets, 2006,
https://doi.org/10.1162/neco.2006.18.7.1527.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from genjax.distributions import bernoulli_log_prob
from genjax.errors import BadInput
from genjax.types import Array

Logits = Callable[[jax.Array], jax.Array]  # units of one layer [B, n] -> log-odds of the next one's [B, m]


def layers_nll(units: Sequence[Array], logits: Sequence[Logits]) -> jax.Array:
    """sum_l -log p(units_{l+1} | units_l): binary layers, each given the one before it in the sequence.

    Args:
      units: L + 1 arrays [B, n_l] of zeros and ones; they count as constants.
      logits: L functions, units_l -> log-odds of units_{l+1}.

    Returns:
      [B] nats; zero for one layer.

    Raises:
      BadInput: not one function between each pair of layers.

    Source: Hinton et al., 1995, eq. 2.

    >>> found = layers_nll([jnp.zeros((1, 3)), jnp.ones((1, 2))], [lambda x: jnp.zeros((1, 2))])
    >>> round(float(found[0]), 4)  # 2 log 2
    1.3863
    """
    if len(units) != len(logits) + 1:
        raise BadInput(
            f"{len(units)} layers of units, {len(logits)} functions", "allowed: one function between two layers"
        )
    fixed = [jax.lax.stop_gradient(jnp.asarray(layer)) for layer in units]
    terms = zip(fixed[:-1], fixed[1:], logits, strict=True)
    parts = [jnp.sum(bernoulli_log_prob(after, of(before)), axis=-1) for before, after, of in terms]
    return -sum(parts, jnp.zeros(len(fixed[0])))


def wake_sleep(
    awake: Sequence[Array], dreamt: Sequence[Array], generation: Sequence[Logits], recognition: Sequence[Logits]
) -> jax.Array:
    """Both phases as one loss.

    Args:
      awake: v, h_1, ..., h_L [B, n_l], drawn upwards from data by the recognition.
      dreamt: v, h_1, ..., h_L [M, n_l], drawn downwards by the model.
      generation: L functions, h_l -> log-odds of h_{l-1}, from the lowest on.
      recognition: L functions, h_{l-1} -> log-odds of h_l, from the lowest on.

    Returns:
      [B] nats: the wake term of each example and the mean of the sleep terms.  Kind: none, its gradient counts.

    Raises:
      BadInput: as `layers_nll`.

    Source: Hinton et al., 1995.

    >>> v, h = jnp.zeros((2, 3)), jnp.zeros((2, 1))
    >>> even = lambda m: lambda x: jnp.zeros((len(x), m))
    >>> round(float(wake_sleep([v, h], [v, h], [even(3)], [even(1)])[0]), 4)  # 4 log 2
    2.7726
    """
    wake = layers_nll([*reversed(list(awake))], [*reversed(list(generation))])
    return wake + jnp.mean(layers_nll(dreamt, recognition))

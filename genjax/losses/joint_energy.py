r"""A classifier as a model of images and labels: its K outputs f(x) are negative energies of the pairs (x, y).

    p(x, y) = exp(f(x)[y]) / Z     =>     p(x) = exp(-E(x)) / Z,    E(x) = -log sum_y exp(f(x)[y])              (1)
                                          p(y | x) = softmax(f(x))[y],  as of any classifier

so that log p(x, y) = log p(y | x) + log p(x), and each part learns from what it can: the first, the cross-entropy, from
images whose label is known, the second, by the difference of phases of losses/energy.py, from all.  To add a constant
to all of f(x) changes no p(y | x): it is this freedom that p(x) uses.

log p(x) has no scale either: E and E + c are one law, and with cold or short chains the two phases push the energies
further and further apart.  A penalty holds them near zero (Du and Mordatch, 2019, section 3):

    E(x) - E(x') + a (E(x)^2 + E(x')^2)                                                                         (2)

with x' the ends of chains.  It moves the minimum: with a > 0 the law that is learned is no longer the data's own.

Sources: Grathwohl, Wang, Jacobsen, Duvenaud, Norouzi and Swersky, Your Classifier is Secretly an Energy Based Model and
You Should Treat it Like One, 2020, https://arxiv.org/abs/1912.03263, section 3; Du and Mordatch, Implicit Generation
and Modeling with Energy Based Models, 2019, https://arxiv.org/abs/1903.08689.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array


def joint_energy(logits: Array) -> jax.Array:
    """E(x) = -log sum_y exp(f(x)[y]): eq. 1.

    Args:
      logits: f(x) [B, K].

    Returns:
      [B] nats: -log p(x) but for log Z, which all x share.

    Raises:
      BadInput: logits that are no [B, K].

    Source: Grathwohl et al., 2020, section 3.

    >>> round(float(joint_energy(jnp.log(jnp.array([[1.0, 2.0, 5.0]])))[0]), 4)  # -log 8
    -2.0794
    """
    logits = upcast(logits)
    if logits.ndim != 2:
        raise BadInput(f"logits of shape {list(logits.shape)}", "allowed: [B, K]")
    return -jax.nn.logsumexp(logits, axis=-1)


def bounded_phases(
    energy: Callable[[jax.Array], jax.Array], data: Array, samples: Array, weight: float = 0.0
) -> jax.Array:
    """E(x) - mean E(x') + a (E(x)^2 + mean E(x')^2): the difference of phases with energies near zero, eq. 2.

    Args:
      energy: x [N, D] -> E(x) [N] nats, differentiable in the parameters.
      data: x [B, D].
      samples: x' [M, D], ends of chains; they count as constants.
      weight: a, at least 0; 0 is `phase_difference` of losses/energy.py.

    Returns:
      [B] nats.  Kind: none, its value is no likelihood and no bound.

    Raises:
      BadInput: shapes that do not fit, no samples, a negative weight.

    Source: Du and Mordatch, 2019, section 3.

    >>> found = bounded_phases(lambda x: x[:, 0], jnp.array([[3.0]]), jnp.array([[1.0], [2.0]]), weight=1.0)
    >>> found.tolist()  # 3 - 1.5 + 9 + 2.5
    [13.0]
    """
    if jnp.ndim(data) != 2 or jnp.ndim(samples) != 2 or data.shape[1] != samples.shape[1] or not len(samples):
        told = f"data {list(jnp.shape(data))}, samples {list(jnp.shape(samples))}"
        raise BadInput(told, "allowed: [B, D] and [M, D] with at least one sample")
    if not weight >= 0:
        raise BadInput(f"weight = {weight} of the penalty", "allowed: numbers from 0")
    both = jax.lax.stop_gradient(jnp.concatenate([upcast(data), upcast(samples)]))
    seen, drawn = jnp.split(energy(both), [len(data)])
    return seen - jnp.mean(drawn) + weight * (seen**2 + jnp.mean(drawn**2))

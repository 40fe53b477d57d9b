r"""Deep Boltzmann machines of two hidden layers: an RBM whose visible side is v and h2 together, and mean field.

    E(v, h1, h2) = e(v) - (v - mu) . b - (h1 - lambda) . c - (h2 - mu2) . b2
                   - (v - mu) W1 (h1 - lambda) - (h1 - lambda) W2 (h2 - mu2)

Layers touch only their neighbours, so that v and h2 are independent given h1, and h1 given both: with x = [v, h2] and
W = [W1; W2'] this is the RBM of rbm.py, `RBM(joined_units(those of v, bernoulli_units(H2)), H1, centred=True)`.  Gibbs
chains of x, log Z by enumeration or annealing, offsets and F(x) = -log sum_h1 exp(-E) are those of an RBM.  New is that
h2 is not seen.  Given v the two hidden layers are an RBM again (`posterior`), whose law is approached by independent
units of means m1, m2.  For any of them, H the entropy of independent binary units,

    F(v) = -log sum_{h1, h2} exp(-E(v, h1, h2))  <=  E(v, m1, m2) - H(m1) - H(m2) = G

and at the best m1 = s(c + (v - mu) W1 + W2 (m2 - mu2)), s the logistic function, G is F([v, m2]) - H(m2), because E is
linear in each layer.  Mean field minimises over m1, then over m2 = s(b2 + (m1 - lambda) W2), and so on: G falls with
every sweep.  In training m2 counts as a constant, so that learning is that of an RBM whose data are [v, m2]:
`phase_difference(F, [v, m2], chains of x)`, and its offsets follow [v, m2].

Sources: Salakhutdinov and Hinton, Deep Boltzmann Machines, 2009, https://proceedings.mlr.press/v5/salakhutdinov09a.html;
Montavon and Mueller, Deep Boltzmann Machines and the Centering Trick, 2012,
https://doi.org/10.1007/978-3-642-35289-8_33; Melchior, Fischer and Wiskott, How to Center Deep Boltzmann Machines,
2016, https://jmlr.org/papers/v17/14-237.html.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.rbm import Machine, Weights, machine
from genjax.models.visible import bernoulli_units
from genjax.types import Array


def posterior(weights: Weights, v: Array) -> Machine:
    """p(h1, h2 | v), an RBM of visible side h2 and hidden side h1, with biases c + (v - mu) W1 of their own for each v.

    Args:
      weights: of the machine of x = [v, h2], [D + H2, H1].
      v: [B, D].

    Returns:
      A Machine of h2 [B, H2] and h1 [B, H1].

    Raises:
      BadInput: v so wide that no h2 is left; learned deviations.

    Source: Salakhutdinov and Hinton, 2009, eqs. 9-12.

    >>> zeros = Weights(jnp.zeros((3, 1)), jnp.zeros(3), jnp.zeros(1))
    >>> posterior(zeros, jnp.ones((4, 2))).visible_mean(jnp.ones((4, 1))).tolist()
    [[0.5], [0.5], [0.5], [0.5]]
    """
    w, b, mu = jnp.asarray(weights.w), jnp.asarray(weights.b), _offsets(weights)
    if jnp.ndim(v) != 2 or not 0 < v.shape[1] < len(w):
        raise BadInput(f"v has shape {list(jnp.shape(v))}", f"allowed: [B, D], D below the {len(w)} units of [v, h2]")
    if weights.deviation is not None:
        raise BadInput("a deep machine with deviations", "allowed: units without", "standardise the data")
    below = v.shape[1]
    c = jnp.asarray(weights.c)[None] + (jnp.asarray(v) - mu[None, :below]) @ w[:below]
    return machine(Weights(w[below:], b[below:], c, mu[below:], weights.mean_h), bernoulli_units(len(w) - below))


def mean_field(weights: Weights, v: Array, sweeps: int) -> jax.Array:
    """m2, the means of h2 under the independent units that are nearest to p(h1, h2 | v).

    It starts where h2 tells h1 nothing, at the offsets mu2.

    Args:
      weights: of the machine of x = [v, h2].
      v: [B, D].
      sweeps: updates of m1 and then of m2, at least 1.

    Returns:
      m2 [B, H2] in [0, 1].

    Raises:
      BadInput: no sweeps; v so wide that no h2 is left.

    Source: Salakhutdinov and Hinton, 2009, eqs. 17-18.

    >>> ones = Weights(jnp.ones((3, 1)), jnp.zeros(3), jnp.zeros(1))
    >>> round(float(mean_field(ones, jnp.zeros((1, 2)), 100)[0, 0]), 3)  # m2 = s(s(m2))
    0.659
    """
    if sweeps < 1:
        raise BadInput(f"sweeps = {sweeps}", "allowed: sweeps of mean field, at least 1")
    of, offsets = posterior(weights, v), _offsets(weights)[v.shape[1] :]
    sweep = lambda _, h2: of.visible_mean(jax.nn.sigmoid(of.hidden_logits(h2)))
    return jax.lax.fori_loop(0, sweeps, sweep, jnp.broadcast_to(offsets[None], (len(v), len(offsets))))


def variational_free_energy(free_energy: Callable[[Array], jax.Array], v: Array, h2: Array) -> jax.Array:
    """G(v) = F([v, m2]) - H(m2) >= F(v).  Kind: UPPER BOUND of F, so that -log p(v) <= G(v) + log Z.

    Args:
      free_energy: F of x = [v, h2].
      v: [B, D].
      h2: m2 [B, H2], any means in [0, 1]; mean field gives good ones.

    Returns:
      [B] nats.

    Source: Salakhutdinov and Hinton, 2009, eq. 16, at the best m1.

    >>> linear = lambda x: -x[:, 1]  # F(v) = -log(1 + e) for one free unit h2 of log-odds 1
    >>> at = lambda m: round(float(variational_free_energy(linear, jnp.zeros((1, 1)), jnp.array([[m]]))[0]), 4)
    >>> at(0.5), at(0.7311)  # -1.3133 at its mean
    (-1.1931, -1.3133)
    """
    entropy = jax.scipy.special.entr(h2) + jax.scipy.special.entr(1 - jnp.asarray(h2))
    return free_energy(jnp.concatenate([v, h2], axis=1)) - jnp.sum(entropy, axis=1)


def _offsets(weights: Weights) -> jax.Array:
    return jnp.zeros(len(weights.b)) if weights.mu is None else jnp.asarray(weights.mu)

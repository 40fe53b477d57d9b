r"""Parallel tempering: chains at several temperatures that swap their states, so that cold ones leave their modes.

R replicas follow the laws p_r(v) = exp(-F_{beta_r}(v)) / Z_r, beta_1 < ... < beta_R = 1, independently.  A step moves
every replica by a transition of its own law, then offers neighbours r, r + 1 to swap their states v, v', which happens
with probability

    min(1, p_r(v') p_{r+1}(v) / (p_r(v) p_{r+1}(v'))),  log of the ratio:  F_r(v) + F_{r+1}(v') - F_r(v') - F_{r+1}(v)

Every step draws whether pairs begin at the first or at the second replica, so that no pair overlaps another.  Both
parts leave the product of all laws invariant; the last replica is a chain of the model.

Sources: Swendsen and Wang, Replica Monte Carlo Simulation of Spin-Glasses, 1986,
https://doi.org/10.1103/PhysRevLett.57.2607; Desjardins et al., Tempered Markov Chain Monte Carlo for training of
Restricted Boltzmann Machines, 2010, https://proceedings.mlr.press/v9/desjardins10a.html.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.samplers.gibbs import FreeEnergy, Step, Transition
from genjax.types import Array, Key


def tempered(free_energy: FreeEnergy, transition: Transition, betas: Array) -> Step:
    """One step of B chains at R temperatures each: moves, then swaps.

    Args:
      free_energy: (v [B, D], beta) -> [B] nats.
      transition: (v [B, D], beta, key) -> v.
      betas: [R] rising to 1, at least 2, each in [0, 1].

    Returns:
      (v [R, B, D], key) -> v [R, B, D]; v[-1] is of the model.

    Raises:
      BadInput: betas that do not rise to 1; while calling, another number of replicas.

    Source: this file's head.

    >>> energy = lambda v, beta: -beta * v[:, 0]
    >>> flip = lambda v, beta, key: jax.random.bernoulli(key, jax.nn.sigmoid(beta), v.shape).astype(v.dtype)
    >>> step = tempered(energy, flip, jnp.array([0.0, 0.5, 1.0]))
    >>> step(jnp.zeros((3, 5, 1)), jax.random.key(0)).shape
    (3, 5, 1)
    """
    known = np.asarray(betas, np.float32)
    if known.ndim != 1 or len(known) < 2 or not (np.diff(known) > 0).all() or known[0] < 0 or known[-1] != 1:
        raise BadInput(f"betas {known.tolist()}"[:100], "allowed: at least 2 numbers in [0, 1] that rise to 1")
    count = len(known)

    def step(v: jax.Array, key: Key) -> jax.Array:
        if jnp.ndim(v) != 3 or len(v) != count:
            raise BadInput(f"replicas of shape {list(jnp.shape(v))}", f"allowed: [{count}, B, D], one a temperature")
        move_key, swap_key = jax.random.split(key)
        moved = jax.vmap(transition)(v, jnp.asarray(known), jax.random.split(move_key, count))
        return swapped(free_energy, moved, known, swap_key)

    return step


def swapped(free_energy: FreeEnergy, v: jax.Array, betas: Array, key: Key) -> jax.Array:
    """Replicas after neighbours were offered to swap: detailed balance holds for the product of their laws.

    Args:
      free_energy: (v [B, D], beta) -> [B] nats.
      v: [R, B, D].
      betas: [R].
      key: of the choice of pairs and of the acceptances.

    Returns:
      [R, B, D]: every column b is a permutation of what it was.

    Source: this file's head.

    >>> same = lambda v, beta: jnp.zeros(len(v))  # equal laws: every offered swap happens
    >>> swapped(same, jnp.array([[[0.0]], [[1.0]]]), jnp.array([0.5, 1.0]), jax.random.key(0)).ravel().tolist()
    [1.0, 0.0]
    """
    parity_key, accept_key = jax.random.split(key)
    count, betas = len(v), jnp.asarray(betas, jnp.float32)
    own = jax.vmap(free_energy)(v, betas)  # F_r(v_r)
    up = jax.vmap(free_energy)(v[:-1], betas[1:])  # F_{r+1}(v_r)
    down = jax.vmap(free_energy)(v[1:], betas[:-1])  # F_r(v_{r+1})
    log_ratio = own[:-1] + own[1:] - up - down
    first = jax.random.bernoulli(parity_key).astype(jnp.int32) if count > 2 else 0
    offered = (jnp.arange(count - 1) % 2 == first)[:, None]
    accepted = offered & (jnp.log(jax.random.uniform(accept_key, log_ratio.shape)) < log_ratio)
    never = jnp.zeros_like(accepted[:1])
    with_next, with_last = (jnp.concatenate(pair)[..., None] for pair in ((accepted, never), (never, accepted)))
    return jnp.where(with_next, jnp.roll(v, -1, axis=0), jnp.where(with_last, jnp.roll(v, 1, axis=0), v))

"""Block Gibbs sampling of two sides that are each independent given the other: v -> h -> v, again and again.

A chain is a function of arrays and a key.  `step` draws all hidden units given the visible ones, then all visible ones
given those; each half-step has a key of its own.  The law p(v, h) is invariant: a v drawn from p(v) stays so.

Source: Geman and Geman, Stochastic Relaxation, Gibbs Distributions, and the Bayesian Restoration of Images, 1984,
https://doi.org/10.1109/TPAMI.1984.4767596.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.types import Array, Key

Draw = Callable[[jax.Array, Key], jax.Array]  # units of one side, key -> units of the other
Step = Callable[[jax.Array, Key], jax.Array]  # v, key -> v
FreeEnergy = Callable[[jax.Array, jax.Array], jax.Array]  # (v [B, D], beta) -> F_beta(v) [B] nats
Transition = Callable[[jax.Array, jax.Array, Key], jax.Array]  # (v, beta, key) -> v, p_beta invariant


def block_gibbs(draw_hidden: Draw, draw_visible: Draw) -> Step:
    """One step of the chain, v -> h -> v.

    Args:
      draw_hidden: (v [B, D], key) -> h [B, H].
      draw_visible: (h [B, H], key) -> v [B, D].

    Returns:
      (v, key) -> v.

    >>> step = block_gibbs(lambda v, key: 1 - v, lambda h, key: h)
    >>> step(jnp.array([[0.0, 1.0]]), jax.random.key(0)).tolist()
    [[1.0, 0.0]]
    """

    def step(v: jax.Array, key: Key) -> jax.Array:
        hidden_key, visible_key = jax.random.split(key)
        return draw_visible(draw_hidden(v, hidden_key), visible_key)

    return step


def clamped(step: Step, known: Array, mask: Array) -> Step:
    """A step after which the units under `mask` have their known values again: sampling from p(v_rest | v_known).

    Args:
      step: of the free chain, whose visible units are independent given the hidden ones.
      known: [B, D]; only what is under the mask is looked at.
      mask: [B, D] or [D] booleans, True where a unit is known.

    Returns:
      (v, key) -> v.

    >>> step = clamped(lambda v, key: 1 - v, jnp.array([[1.0, 1.0]]), jnp.array([True, False]))
    >>> step(jnp.array([[1.0, 1.0]]), jax.random.key(0)).tolist()
    [[1.0, 0.0]]
    """
    return lambda v, key: jnp.where(mask, known, step(v, key))


def run_chain(step: Step, v: Array, key: Key, steps: int) -> jax.Array:
    """The state after some steps; the i-th has the key fold_in(key, i).

    Args:
      step: (v, key) -> v.
      v: where the chains begin, [B, D], or [R, B, D] of several temperatures.
      key: of the run.
      steps: k, at least 1.

    Returns:
      The shape of v.

    Raises:
      BadInput: no steps, or no chains.

    >>> run_chain(lambda v, key: v + 1, jnp.zeros((1, 2)), jax.random.key(0), 3).tolist()
    [[3.0, 3.0]]
    """
    if steps < 1:
        raise BadInput(f"k = {steps}", "allowed: Gibbs steps, at least 1")
    if jnp.ndim(v) not in (2, 3) or not jnp.size(v):
        raise BadInput(f"chains of shape {list(jnp.shape(v))}", "allowed: [B, D] or [R, B, D], at least one chain")
    v = jnp.asarray(v)
    if steps == 1:
        return step(v, jax.random.fold_in(key, 0))
    return jax.lax.fori_loop(0, steps, lambda i, v: step(v, jax.random.fold_in(key, i)), v)


def run_on(step: Step, chains: Array, n: int, key: Key, steps: int) -> jax.Array:
    """States of a model: chains, chosen with replacement, that go on for some steps.

    Args:
      step: (v, key) -> v.
      chains: v [M, D], where persistent chains stand.
      n: how many, at least 1.
      key: of the choice and of the steps.
      steps: k, at least 1.

    Returns:
      [n, D].

    Raises:
      BadInput: as `run_chain`; no chains to choose from.

    >>> run_on(lambda v, key: v + 1, jnp.zeros((2, 1)), 3, jax.random.key(0), 4).ravel().tolist()
    [4.0, 4.0, 4.0]
    """
    if jnp.ndim(chains) != 2 or not len(chains):
        raise BadInput(f"chains of shape {list(jnp.shape(chains))}", "allowed: [M, D], at least one chain")
    choice_key, key = jax.random.split(key)
    chosen = jax.random.randint(choice_key, (n,), 0, len(chains))
    return run_chain(step, jnp.asarray(chains)[chosen], key, steps)


def along_chain(step: Step, v: Array, key: Key, looks: int, between: int) -> jax.Array:
    """What the chains look like every `between` steps: for a picture of how they mix.

    Args:
      step, v, key: as in `run_chain`.
      looks: how many times, at least 1.
      between: steps before each look, at least 1.

    Returns:
      [looks, B, D].

    Raises:
      BadInput: as `run_chain`; no looks.

    >>> along_chain(lambda v, key: v + 1, jnp.zeros((1, 1)), jax.random.key(0), 3, 2).ravel().tolist()
    [2.0, 4.0, 6.0]
    """
    if looks < 1:
        raise BadInput(f"looks = {looks}", "allowed: whole numbers from 1")

    def look(v: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        v = run_chain(step, v, jax.random.fold_in(key, i), between)
        return v, v

    return jax.lax.scan(look, jnp.asarray(v), jnp.arange(looks))[1]

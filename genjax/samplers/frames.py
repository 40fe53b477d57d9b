"""Ancestral sampling of sequences whose steps are vectors: music as frames of notes.

    v_t ~ p(v_t | v_1 .. v_{t-1}),   t = 2 .. T,   with what the model remembers of v_1 .. v_{t-1} in a state

Sampling step by step is exact: the product of the conditionals is the joint probability.  Source: Boulanger-Lewandowski
et al., Modeling Temporal Dependencies in High-Dimensional Sequences, 2012, https://arxiv.org/abs/1206.6392.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax.types import Array, Key


def sample_frames(
    step: Callable[[Any, jax.Array, Key], tuple[jax.Array, Any]], state: Any, first: Array, length: int, key: Key
) -> jax.Array:
    """`length` frames, the first of which is given.

    Args:
      step: (state, v_t [B, D], key) -> (v_{t+1} [B, D], state).
      state: before the first frame; a tree of arrays of fixed shapes.
      first: v_1, [B, D].
      length: T, at least 1.
      key: of all frames; frame t is drawn with fold_in(key, t), so that a longer sequence begins like a shorter one.

    Returns:
      [B, T, D], v_1 .. v_T.

    >>> count = lambda state, frame, key: (frame + state, state)
    >>> sample_frames(count, jnp.ones(()), jnp.zeros((2, 1)), 4, jax.random.key(0))[0].ravel().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """

    def one(carry: tuple[Any, jax.Array], t: jax.Array) -> tuple[tuple[Any, jax.Array], jax.Array]:
        frame, state = step(*carry, jax.random.fold_in(key, t))
        return (state, frame), frame

    first = jnp.asarray(first)
    _, rest = jax.lax.scan(one, (state, first), jnp.arange(1, length))
    return jnp.concatenate([first[:, None], jnp.swapaxes(rest, 0, 1)], axis=1)

r"""Games whose critic sees changed images only, and a probability of change that follows how sure the critic is.

With a random change T(x; key) of images, any game of score becomes one of score(T(.)), in both of its losses, so that
the gradient that the generator gets passes T:

    critic      loss of r = score(T(x)), f = score(T(y))         generator   loss of f = score(T(y))

The key of T is drawn anew at every update, from the key of the update: row i of real and of drawn images is changed
alike, and penalties are taken at the images that the losses see.  In the adaptive game p, the probability of each
change, is no parameter but part of `state.carry`; after each update of the critic

    r_t = mean of sign(r),     p <- p + sign(r_t - target) B / horizon,    in [0, 0.8]

where a critic that knows its images by heart has r_t near 1, and one that has seen enough of them is near 0.

Sources: Karras, Aittala, Hellsten, Laine, Lehtinen and Aila, Training Generative Adversarial Networks with Limited
Data, 2020, https://arxiv.org/abs/2006.06676, sections 2 and 3; Zhao et al., Differentiable Augmentation for
Data-Efficient GAN Training, 2020, https://arxiv.org/abs/2006.10738, section 3.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.losses.augmentation import adapted, augmented
from genjax.losses.games import Game, Score
from genjax.types import Array, Batch, Key, Out, Params, State


def changed_game(
    play: Callable[[Score], Game], score: Score, change: Callable[[State, jax.Array, Key], jax.Array]
) -> Game:
    """A game in which the critic sees changed images, real and drawn.

    Args:
      play: the game of a score, such as `lambda score: logistic_game(draw, score, real)`.
      score: of images as they are.
      change: T; (state, images, key) -> images of that shape, differentiable in them.

    Returns:
      Game.

    Source: Zhao et al., 2020, section 3.

    >>> from genjax.losses.games import wasserstein_game
    >>> game = changed_game(
    ...     lambda score: wasserstein_game(
    ...         lambda g, state, batch, key: jnp.full((2, 1), g), score, lambda state, batch: batch["x"]
    ...     ),
    ...     lambda c, state, batch, x: c * x[:, 0],
    ...     lambda state, x, key: -x,
    ... )
    >>> state = State(0, {"critic": jnp.array(3.0), "generator": jnp.array(0.5)})
    >>> game.generator(jnp.array(0.5), state, {}, jax.random.key(0)).loss.tolist()
    [1.5, 1.5]
    """

    def playing(key: Key) -> tuple[Game, Key]:
        own, rest = jax.random.split(key)
        return play(lambda params, state, batch, x: score(params, state, batch, change(state, x, own))), rest

    def critic(params: Params, state: State, batch: Batch, key: Key) -> Out:
        game, rest = playing(key)
        return game.critic(params, state, batch, rest)

    def generator(params: Params, state: State, batch: Batch, key: Key) -> Out:
        game, rest = playing(key)
        return game.generator(params, state, batch, rest)

    return Game(critic, generator)


def adaptive_game(
    play: Callable[[Score], Game],
    score: Score,
    target: float = 0.6,
    horizon: float = 500_000.0,
    change: Callable[[jax.Array, Key, Array], jax.Array] = augmented,
) -> Game:
    """Adaptive discriminator augmentation: `state.carry` is p, a float32 scalar, which every critic's update moves.

    Args:
      play: the game of a score, whose critic logs `real`, its logits of real images, as `logistic_game` does.
      score: of images as they are.
      target: of r_t, in [-1, 1]; 0.6 in the paper.
      horizon: images over which p could go from 0 to 1; 500,000 in the paper.
      change: (images, key, p) -> images, each changed with probability p.

    Returns:
      Game for an `alternate` with `carry=unchanged_at_first`.  The critic logs `probability`, p before the update, and
      `sign`, whose mean is r_t.

    Raises:
      BadInput: a game that does not log `real`; a target or a horizon out of range.

    Source: Karras et al., 2020, sections 2.2 and 3.

    >>> from genjax.losses.games import logistic_game
    >>> game = adaptive_game(
    ...     lambda score: logistic_game(
    ...         lambda g, state, batch, key: g + jnp.zeros((2, 4, 4, 1)), score, lambda state, batch: batch["x"]
    ...     ),
    ...     lambda c, state, batch, x: c + x[:, 0, 0, 0],
    ...     horizon=10.0,
    ... )
    >>> state = State(0, {"critic": jnp.array(9.0), "generator": jnp.array(0.0)}, carry=jnp.zeros(()))
    >>> out = game.critic(jnp.array(9.0), state, {"x": jnp.ones((2, 4, 4, 1))}, jax.random.key(0))
    >>> round(float(out.carry), 3)  # the critic is sure of both real images: up by 2 of 10
    0.2
    """
    adapted(jnp.zeros(()), jnp.zeros(1), target, horizon)  # refuses what is out of range
    game = changed_game(play, score, lambda state, x, key: change(x, key, state.carry))

    def critic(params: Params, state: State, batch: Batch, key: Key) -> Out:
        out = game.critic(params, state, batch, key)
        if "real" not in out.metrics:
            raise BadInput(
                f"an adaptive game of a critic that logs {sorted(out.metrics)}",
                "allowed: a game that logs `real`, logits of real images, as logistic_game does",
            )
        told = {"probability": state.carry, "sign": jnp.sign(out.metrics["real"])}
        return out._replace(
            metrics={**out.metrics, **told}, carry=adapted(state.carry, out.metrics["real"], target, horizon)
        )

    return Game(critic, game.generator)


def unchanged_at_first(key: Key, params: Params, batch: Batch) -> jax.Array:
    """p = 0: the first carry of an adaptive game.

    Args:
      key, params, batch: as `alternate` gives them.

    Returns:
      float32 scalar.

    Source: Karras et al., 2020, section 3.

    >>> float(unchanged_at_first(None, {}, {}))
    0.0
    """
    del key, params, batch
    return jnp.zeros((), jnp.float32)

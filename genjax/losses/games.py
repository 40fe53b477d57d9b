r"""Whole games of a critic and a generator, as the two losses that `alternate` takes.

Both losses see the networks as functions only: `draw` makes images of the generator's parameters, `score` gives each
image one number, `real` takes the images of a batch to what the critic should see.  All three get the state, so that a
level may fade in by `state.step`.

    WGAN-GP    critic      f - r + lambda (|grad score(u)| - 1)^2 + epsilon r^2,   u between a real and a drawn image
               generator   -f

    logistic   critic      softplus(-r) + softplus(f) + gamma |grad score(x)|^2 / 2
               generator   softplus(-f)
    R3GAN      critic      softplus(f - r) + gamma (|grad score(x)|^2 + |grad score(y)|^2) / 2,  pairs (x_i, y_i)
               generator   softplus(r - f)

The drift term with a small epsilon keeps the scores, which are known up to a constant, near zero.

Sources: Goodfellow et al., Generative Adversarial Networks, 2014, https://arxiv.org/abs/1406.2661; Mescheder, Geiger
and Nowozin, Which Training Methods for GANs do actually Converge?, 2018, https://arxiv.org/abs/1801.04406; Gulrajani et
al., Improved Training of Wasserstein GANs, 2017, https://arxiv.org/abs/1704.00028, algorithm 1; Karras et al.,
Progressive Growing of GANs, 2018, https://arxiv.org/abs/1710.10196, appendix A.1 (the drift); Huang et al., The GAN is
dead; long live the GAN!, 2024, https://arxiv.org/abs/2501.05441, eqs. 2 to 5.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.losses.adversarial import (
    minimax_discriminator,
    non_saturating_generator,
    relativistic_discriminator,
    relativistic_generator,
    wasserstein_discriminator,
    wasserstein_generator,
)
from genjax.losses.penalties import gradient_penalty, r1, r2
from genjax.types import Batch, Key, Loss, Out, Params, State

Draw = Callable[[Params, State, Batch, Key], jax.Array]
"""The generator's parameters -> as many images as the batch has rows."""
Score = Callable[[Params, State, Batch, jax.Array], jax.Array]
"""The critic's parameters, images -> [B]; the batch holds the labels of these images, real or drawn."""
Real = Callable[[State, Batch], jax.Array]
"""The images of a batch, of the shape and range that the generator draws."""


class Game(NamedTuple):
    """Losses for `Player`s of these names in `alternate`."""

    critic: Loss
    generator: Loss


def wasserstein_game(draw: Draw, score: Score, real: Real, penalty: float = 10.0, drift: float = 0.0) -> Game:
    """WGAN-GP of any two networks.

    Args:
      draw: images of the generator's parameters.
      score: of images, by the critic's parameters; rows are treated alike.
      real: images of a batch.
      penalty: lambda, >= 0.
      drift: epsilon, >= 0; 0.001 in Karras et al.

    Returns:
      Game; parameters stand in `state.params` under "critic" and "generator".  The critic logs `distance`, the mean of
      r - f: an estimate of the Wasserstein distance as far as the penalty keeps the slope at 1; and `slope`, the
      penalty before its weight.

    Raises:
      BadInput: weights below 0.

    Source: Gulrajani et al., 2017, algorithm 1.

    >>> game = wasserstein_game(
    ...     lambda g, state, batch, key: jnp.full((2, 1), g),
    ...     lambda c, state, batch, x: c * x[:, 0],
    ...     lambda state, batch: batch["x"],
    ... )
    >>> state = State(0, {"critic": jnp.array(3.0), "generator": jnp.array(0.5)})
    >>> out = game.critic(jnp.array(3.0), state, {"x": jnp.ones((2, 1))}, jax.random.key(0))
    >>> out.loss.tolist()  # 3 (0.5 - 1) + 10 (3 - 1)^2
    [38.5, 38.5]
    """
    _check_weights(penalty=penalty, drift=drift)

    def critic(params: Params, state: State, batch: Batch, key: Key) -> Out:
        draw_key, place_key = jax.random.split(key)
        x = real(state, batch)
        y = jax.lax.stop_gradient(draw(state.params["generator"], state, batch, draw_key))
        r, f = score(params, state, batch, x), score(params, state, batch, y)
        slope = gradient_penalty(lambda u: score(params, state, batch, u), x, y, place_key)
        loss = wasserstein_discriminator(r, f) + penalty * slope + drift * jnp.square(r)
        return Out(loss, {"distance": r - f, "slope": slope})

    def generator(params: Params, state: State, batch: Batch, key: Key) -> Out:
        return Out(wasserstein_generator(score(state.params["critic"], state, batch, draw(params, state, batch, key))))

    return Game(critic, generator)


def logistic_game(draw: Draw, score: Score, real: Real, gamma: float = 0.0) -> Game:
    """The non-saturating game of any two networks, with R1 where gamma is above 0.

    Args:
      draw, score, real: as for `wasserstein_game`; scores are logits.
      gamma: weight of R1, >= 0; of images in [-1, 1].

    Returns:
      Game.  The critic logs `real` and `drawn`, its mean logits, and `slope` where there is a penalty.

    Raises:
      BadInput: a weight below 0.

    Source: Goodfellow et al., 2014, section 3; Mescheder, Geiger and Nowozin, 2018, eq. 9.

    >>> game = logistic_game(
    ...     lambda g, state, batch, key: jnp.full((1, 1), g),
    ...     lambda c, state, batch, x: c * x[:, 0],
    ...     lambda state, batch: batch["x"],
    ... )
    >>> state = State(0, {"critic": jnp.array(0.0), "generator": jnp.array(1.0)})
    >>> out = game.critic(jnp.array(0.0), state, {"x": jnp.ones((1, 1))}, jax.random.key(0))
    >>> round(float(out.loss[0]), 4)  # log 4
    1.3863
    """
    _check_weights(gamma=gamma)

    def critic(params: Params, state: State, batch: Batch, key: Key) -> Out:
        x, y = real(state, batch), jax.lax.stop_gradient(draw(state.params["generator"], state, batch, key))
        of = lambda images: score(params, state, batch, images)
        r, f = of(x), of(y)
        told, loss = {"real": r, "drawn": f}, minimax_discriminator(r, f)
        if isinstance(gamma, int | float) and gamma == 0:
            return Out(loss, told)
        slope = r1(of, x)
        return Out(loss + gamma * slope, {**told, "slope": slope})

    def generator(params: Params, state: State, batch: Batch, key: Key) -> Out:
        return Out(
            non_saturating_generator(score(state.params["critic"], state, batch, draw(params, state, batch, key)))
        )

    return Game(critic, generator)


def relativistic_game(draw: Draw, score: Score, real: Real, gamma: float = 1.0) -> Game:
    """R3GAN of any two networks: each drawn image is compared with a real one, slopes are kept small at both.

    Args:
      draw, score, real: as for `wasserstein_game`.
      gamma: weight of R1 and R2, >= 0; of images in [-1, 1].

    Returns:
      Game.  The critic logs `distance`, the mean of r - f in nats, and `slope`, R1 + R2 before their weight.

    Raises:
      BadInput: a weight below 0.

    Source: Huang et al., 2024, eqs. 2 to 5.

    >>> game = relativistic_game(
    ...     lambda g, state, batch, key: jnp.full((2, 1), g),
    ...     lambda c, state, batch, x: c * x[:, 0],
    ...     lambda state, batch: batch["x"],
    ...     gamma=2.0,
    ... )
    >>> state = State(0, {"critic": jnp.array(3.0), "generator": jnp.array(1.0)})
    >>> out = game.critic(jnp.array(3.0), state, {"x": jnp.ones((2, 1))}, jax.random.key(0))
    >>> [round(v, 4) for v in out.loss.tolist()]  # log 2 + 2 (9 + 9) / 2
    [18.6931, 18.6931]
    """
    _check_weights(gamma=gamma)

    def critic(params: Params, state: State, batch: Batch, key: Key) -> Out:
        x, y = real(state, batch), jax.lax.stop_gradient(draw(state.params["generator"], state, batch, key))
        of = lambda images: score(params, state, batch, images)
        r, f = of(x), of(y)
        slope = r1(of, x) + r2(of, y)
        return Out(relativistic_discriminator(r, f) + gamma * slope, {"distance": r - f, "slope": slope})

    def generator(params: Params, state: State, batch: Batch, key: Key) -> Out:
        of = lambda images: score(state.params["critic"], state, batch, images)
        return Out(relativistic_generator(of(real(state, batch)), of(draw(params, state, batch, key))))

    return Game(critic, generator)


def _check_weights(**weights: float) -> None:
    for name, value in weights.items():
        if isinstance(value, int | float) and not value >= 0:  # a traced weight was checked before it was traced
            raise BadInput(f"a game with {name} = {value}", "allowed: weights from 0")

"""Progressive growing: the ends of a fade are the levels below and above; the WGAN-GP game by hand; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.losses.games import logistic_game, relativistic_game, wasserstein_game
from genjax.models.gan_layers import doubled, halved
from genjax.models.progressive import Discriminator, Generator, faded, inherited, side
from genjax.types import State

KEY, WIDTHS = jax.random.key(0), (8, 6, 4)
Z = jax.random.normal(KEY, (8, 5))
IMAGES = {level: jax.random.normal(jax.random.key(level), (8, side(level), side(level), 2)) for level in range(3)}


def networks(level):
    generator, critic = Generator(WIDTHS, level, 2), Discriminator(WIDTHS, level)
    g = generator.init(jax.random.key(10 + level), Z, 1.0)
    return generator, g, critic, critic.init(jax.random.key(20 + level), IMAGES[level], 1.0)


def check_growth(inherit, fade=lambda alpha: alpha):
    """At alpha = 0 the grown networks are the small ones, doubled and halved; at 1 the old colours are out of use."""
    for level in (1, 2):
        _, low_g, _, low_c = networks(level - 1)
        low = Generator(WIDTHS, level - 1, 2), Discriminator(WIDTHS, level - 1)
        generator, g, critic, c = networks(level)
        g, c = inherit(low_g, g), inherit(low_c, c)
        x = IMAGES[level]
        at_0 = generator.apply(g, Z, fade(0.0)), critic.apply(c, x, fade(0.0))
        np.testing.assert_allclose(at_0[0], doubled(low[0].apply(low_g, Z, 1.0)), atol=1e-5)
        np.testing.assert_allclose(at_0[1], low[1].apply(low_c, halved(x), 1.0), atol=1e-5)
        at_1 = generator.apply(g, Z, fade(1.0)), critic.apply(c, x, fade(1.0))
        without = lambda params, name: {
            "params": {**params["params"], name: {k: v + 1.0 for k, v in params["params"][name].items()}}
        }
        np.testing.assert_array_equal(generator.apply(without(g, f"rgb_{level - 1}"), Z, fade(1.0)), at_1[0])
        np.testing.assert_array_equal(critic.apply(without(c, f"from_{level - 1}"), x, fade(1.0)), at_1[1])
        half = generator.apply(g, Z, fade(0.5))
        np.testing.assert_allclose(half, 0.5 * at_0[0] + 0.5 * at_1[0], atol=1e-5)
        assert np.abs(at_1[0] - at_0[0]).max() > 0.1 and np.abs(at_1[1] - at_0[1]).max() > 1e-3


def test_a_new_level_begins_as_the_one_below():
    check_growth(inherited)


@pytest.mark.parametrize(
    "planted",
    [
        (lambda previous, fresh: fresh,),
        (
            lambda previous, fresh: inherited(
                {"params": {k: v for k, v in previous["params"].items() if k != "block_0"}}, fresh
            ),
        ),
        (lambda previous, fresh: inherited(jax.tree.map(lambda p: 1.01 * p, previous), fresh),),
        (inherited, lambda alpha: 1.0 - alpha),
        (inherited, lambda alpha: 1.0),
        (inherited, lambda alpha: alpha**2),
    ],
)
def test_growth_rejects(planted):
    rejects(check_growth, *planted)


def test_real_images_fade_alike():
    x = IMAGES[2]
    np.testing.assert_allclose(faded(x, 0.0), doubled(halved(x)), atol=1e-6)
    np.testing.assert_array_equal(faded(x, 1.0), x)
    np.testing.assert_allclose(halved(faded(x, 0.3)), halved(x), atol=1e-6)  # what the level below sees stays


def test_what_the_generator_draws_has_the_size_of_its_activations():
    """Latents of any length draw the same: they are brought to one length."""
    generator, g, _, _ = networks(2)
    np.testing.assert_allclose(generator.apply(g, 3.0 * Z), generator.apply(g, Z), atol=1e-4)


def check_game(game_of):
    """Linear networks: scores c x, drawn images g z; both losses and their gradients by hand in NumPy."""
    draw = lambda g, state, batch, key: g * jax.random.normal(key, (6, 1))
    score = lambda c, state, batch, x: c * x[:, 0]
    real = lambda state, batch: batch["x"]
    x = jnp.arange(6.0)[:, None]
    state, key = State(jnp.int32(0), {"critic": jnp.array(3.0), "generator": jnp.array(0.5)}), jax.random.key(4)
    game = game_of(draw, score, real, 10.0, 0.1)
    drawn = lambda: np.asarray(jax.random.normal(jax.random.split(key)[0], (6, 1)), np.float64)[:, 0] * 0.5
    found = game.critic(jnp.array(3.0), state, {"x": x}, key)
    r, f = 3.0 * np.arange(6.0), 3.0 * drawn()
    np.testing.assert_allclose(found.loss, f - r + 10 * 4.0 + 0.1 * r**2, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["distance"], r - f, rtol=1e-5)
    slope = jax.grad(lambda c: jnp.mean(game.critic(c, state, {"x": x}, key).loss))(jnp.array(3.0))
    np.testing.assert_allclose(slope, np.mean(f - r) / 3 + 40.0 + 0.2 * 3 * np.mean(np.arange(6.0) ** 2), rtol=1e-5)
    other = jax.grad(lambda s: jnp.mean(game.critic(jnp.array(3.0), state._replace(params=s), {"x": x}, key).loss))
    assert float(other(state.params)["generator"]) == 0.0
    z = np.asarray(jax.random.normal(key, (6, 1)), np.float64)[:, 0]
    np.testing.assert_allclose(game.generator(jnp.array(0.5), state, {"x": x}, key).loss, -1.5 * z, rtol=1e-5)


def swapped(draw, score, real, penalty, drift):
    return wasserstein_game(draw, lambda c, state, batch, x: -score(c, state, batch, x), real, penalty, drift)


def no_drift(draw, score, real, penalty, drift):
    return wasserstein_game(draw, score, real, penalty, 0.0)


def half_penalty(draw, score, real, penalty, drift):
    return wasserstein_game(draw, score, real, penalty / 2, drift)


def test_game():
    check_game(wasserstein_game)
    for mutant in (swapped, no_drift, half_penalty):
        rejects(check_game, mutant)


def check_pairs(game_of):
    """Scores c x^2 of one pixel: r - f of pairs, slopes 2 c x at both ends, by hand."""
    draw = lambda g, state, batch, key: g * jnp.arange(1.0, 7.0)[:, None]
    score = lambda c, state, batch, x: c * x[:, 0] ** 2
    game, x = game_of(draw, score, lambda state, batch: batch["x"], 0.7), np.linspace(-1, 2, 6)
    state, batch = State(jnp.int32(0), {"critic": jnp.array(0.3), "generator": jnp.array(0.5)}), {"x": x[:, None]}
    batch = jax.tree.map(jnp.float32, batch)
    y = 0.5 * np.arange(1.0, 7.0)
    r, f, soft = 0.3 * x**2, 0.3 * y**2, lambda a: np.log1p(np.exp(a))
    found = game.critic(jnp.array(0.3), state, batch, KEY)
    slope = 0.5 * (0.6 * x) ** 2 + 0.5 * (0.6 * y) ** 2
    np.testing.assert_allclose(found.loss, soft(f - r) + 0.7 * slope, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["slope"], slope, rtol=1e-5)
    other = jax.grad(lambda s: jnp.mean(game.critic(jnp.array(0.3), state._replace(params=s), batch, KEY).loss))
    assert float(other(state.params)["generator"]) == 0.0
    np.testing.assert_allclose(game.generator(jnp.array(0.5), state, batch, KEY).loss, soft(r - f), rtol=1e-5)


def test_relativistic_game():
    check_pairs(relativistic_game)
    rejects(check_pairs, lambda draw, score, real, gamma: relativistic_game(draw, score, real, 2 * gamma))
    rejects(
        check_pairs,
        lambda draw, score, real, gamma: relativistic_game(draw, score, lambda s, b: -real(s, b)[::-1], gamma),
    )
    rejects(
        check_pairs, lambda draw, score, real, gamma: relativistic_game(lambda *a: draw(*a)[::-1], score, real, gamma)
    )
    negative = lambda score: lambda c, state, batch, x: -score(c, state, batch, x)
    rejects(check_pairs, lambda draw, score, real, gamma: relativistic_game(draw, negative(score), real, gamma))


def check_logistic(game_of):
    """The same networks: softplus(-r) + softplus(f) + gamma R1 by hand, and softplus(-f)."""
    draw = lambda g, state, batch, key: g * jnp.arange(1.0, 7.0)[:, None]
    score = lambda c, state, batch, x: c * x[:, 0] ** 2
    x, y, soft = np.linspace(-1, 2, 6), 0.5 * np.arange(1.0, 7.0), lambda a: np.log1p(np.exp(a))
    state = State(jnp.int32(0), {"critic": jnp.array(0.3), "generator": jnp.array(0.5)})
    batch, r, f = {"x": jnp.float32(x[:, None])}, 0.3 * x**2, 0.3 * y**2
    for gamma in (0.0, 0.7):
        game = game_of(draw, score, lambda state, batch: batch["x"], gamma)
        found = game.critic(jnp.array(0.3), state, batch, KEY)
        np.testing.assert_allclose(found.loss, soft(-r) + soft(f) + gamma * 0.5 * (0.6 * x) ** 2, rtol=1e-5)
        np.testing.assert_allclose(found.metrics["real"], r, atol=1e-6)
        np.testing.assert_allclose(game.generator(jnp.array(0.5), state, batch, KEY).loss, soft(-f), rtol=1e-5)


def test_logistic_game():
    check_logistic(logistic_game)
    rejects(check_logistic, lambda draw, score, real, gamma: logistic_game(draw, score, real, gamma / 2))
    negative = lambda score: lambda c, state, batch, x: -score(c, state, batch, x)
    rejects(check_logistic, lambda draw, score, real, gamma: logistic_game(draw, negative(score), real, gamma))
    rejects(check_logistic, lambda draw, score, real, gamma: relativistic_game(draw, score, real, gamma))


@pytest.mark.parametrize(
    ("told", "call"),
    [
        ("level 3 of networks", lambda: Generator(WIDTHS, 3, 1).init(KEY, Z, 1.0)),
        ("at level 1", lambda: Discriminator(WIDTHS, 1).init(KEY, IMAGES[2], 1.0)),
        ("gamma = -1", lambda: relativistic_game(None, None, None, -1)),
        ("penalty = -1", lambda: wasserstein_game(None, None, None, -1)),
    ],
)
def test_bad_input(told, call):
    with pytest.raises(BadInput, match=told):
        call()

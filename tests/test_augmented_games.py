"""Games of changed images: where the probability settles, what a key decides, exact resume; each with planted bugs."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import rejects
from resumed import stopped_and_whole

import genjax.data
from genjax import Player, alternate
from genjax.checkpoint import seals
from genjax.data import Split, make_dataset, scaled
from genjax.errors import BadInput
from genjax.fields import load
from genjax.losses.augmentation import adapted
from genjax.losses.augmented_games import adaptive_game, changed_game, unchanged_at_first
from genjax.losses.games import logistic_game, wasserstein_game
from genjax.train import Options
from genjax.types import State

EXPERIMENTS, KEY = Path(__file__).parent.parent / "experiments", jax.random.key(0)
ROWS = 64


def turned(x, key, p):
    """Each number changes its sign with probability p."""
    return jnp.where(jax.random.bernoulli(key, p, x.shape), -x, x)


def game_of(make, **more):
    """Real numbers are 1, drawn ones the generator's parameter, and the score is the number itself."""
    draw = lambda g, state, batch, key: jnp.full((ROWS,), g)
    play = lambda score: logistic_game(draw, score, lambda state, batch: batch["x"])
    return make(play, lambda c, state, batch, x: c * x, **more)


def steered(make, target, updates=3_000, horizon=16_000.0):
    """p after each update of a critic that does not learn."""
    game = game_of(make, target=target, horizon=horizon, change=turned)
    players = {name: Player(getattr(game, name), optax.sgd(0.0)) for name in ("critic", "generator")}
    learner = alternate(players, lambda key, batch: {"critic": jnp.ones(()), "generator": jnp.zeros(())}, carry)
    batch = {"x": jnp.ones(ROWS)}
    update = lambda state, _: (lambda new: (new, new.carry))(learner.update(state, batch, KEY)[0])
    return np.asarray(jax.lax.scan(update, learner.init(KEY, batch), None, updates)[1], np.float64)


carry = unchanged_at_first


def check_steering(make):
    """With signs turned at p, r_t = 1 - 2 p: p rises by B / horizon to (1 - target) / 2, and stays there."""
    for target in (0.6, 0.2):
        path, step = steered(make, target), ROWS / 16_000.0
        np.testing.assert_allclose(path[:20], step * np.arange(1, 21), rtol=1e-4)
        assert abs(path[1_000:].mean() - (1 - target) / 2) < 0.02
        assert path[1_000:].std() < 0.1 and len(np.unique(path[-50:].round(6))) > 1


def with_critic(of_critic):
    """`adaptive_game` whose critic's `Out` passes a planted function of (state, out)."""

    def make(play, score, **more):
        game = adaptive_game(play, score, **more)
        return game._replace(critic=lambda params, state, *rest: of_critic(state, game.critic(params, state, *rest)))

    return make


def test_steering():
    check_steering(adaptive_game)
    rejects(check_steering, with_critic(lambda state, out: out._replace(carry=state.carry)))  # frozen
    rejects(check_steering, with_critic(lambda state, out: out._replace(carry=2 * state.carry - out.carry)))  # away
    rejects(check_steering, lambda play, score, target, **more: adaptive_game(play, score, target / 2, **more))
    unused = lambda x, key, p: turned(x, key, 0.0)
    rejects(check_steering, lambda play, score, change, **more: adaptive_game(play, score, change=unused, **more))
    always = lambda x, key, p: turned(x, jax.random.key(0), p)  # one key for all updates
    rejects(check_steering, lambda play, score, change, **more: adaptive_game(play, score, change=always, **more))


def check_changes(make):
    """Both players see changed images, by the update's key; gradients pass; with T = 1 it is the plain game."""
    flip = lambda state, x, key: jnp.where(jax.random.bernoulli(key, 0.5, x.shape), -x, x)
    game, plain = game_of(make, change=flip), game_of(lambda play, score: play(score))
    state = State(0, {"critic": jnp.array(2.0), "generator": jnp.array(0.5)})
    batch = {"x": jnp.ones(ROWS)}
    signs = []
    for seed in (0, 1):
        out = game.critic(jnp.array(2.0), state, batch, jax.random.key(seed))
        assert set(np.unique(out.metrics["real"])) == {-2.0, 2.0} and set(np.unique(out.metrics["drawn"])) == {
            -1.0,
            1.0,
        }
        signs.append(np.sign(out.metrics["real"]))
        again = game.critic(jnp.array(2.0), state, batch, jax.random.key(seed))
        np.testing.assert_array_equal(again.loss, out.loss)
    assert 10 < np.sum(signs[0] != signs[1]) < ROWS - 10
    np.testing.assert_allclose(
        out.loss, np.logaddexp(0, -out.metrics["real"]) + np.logaddexp(0, out.metrics["drawn"]), rtol=1e-5
    )
    told = lambda g: game.generator(g, state, batch, KEY).loss
    values = np.unique(np.asarray(told(jnp.array(0.5))).round(4))
    np.testing.assert_allclose(values, np.log1p(np.exp([-1.0, 1.0])), atol=1e-4)
    slopes = np.unique(np.asarray(jax.jacrev(told)(jnp.array(0.5))).round(4))
    np.testing.assert_allclose(slopes, [-2 / (1 + np.exp(1)), 2 / (1 + np.exp(-1))], atol=1e-4)
    same = game_of(make, change=lambda state, x, key: x).generator(jnp.array(0.5), state, batch, KEY).loss
    np.testing.assert_array_equal(same, plain.generator(jnp.array(0.5), state, batch, KEY).loss)


def test_changes():
    check_changes(changed_game)
    fixed = lambda play, score, change: changed_game(play, score, lambda state, x, key: change(state, x, KEY))
    halted = lambda play, score, change: changed_game(play, score, lambda *given: jax.lax.stop_gradient(change(*given)))
    one_side = lambda play, score, change: play(score)._replace(critic=changed_game(play, score, change).critic)
    other_side = lambda play, score, change: play(score)._replace(generator=changed_game(play, score, change).generator)
    for planted in (fixed, halted, one_side, other_side):
        rejects(check_changes, planted)


def test_penalties_see_the_same_change():
    """R1 of score(-x) is that of the slope of the whole, not of the score alone."""
    draw, real = lambda g, state, batch, key: jnp.full((ROWS,), g), lambda state, batch: batch["x"]
    game = changed_game(
        lambda score: logistic_game(draw, score, real, gamma=1.0),
        lambda c, state, batch, x: c * x,
        lambda state, x, key: 3.0 * x,
    )
    state = State(0, {"critic": jnp.array(2.0), "generator": jnp.array(0.0)})
    slope = game.critic(jnp.array(2.0), state, {"x": jnp.ones(ROWS)}, KEY).metrics["slope"]
    np.testing.assert_allclose(slope, 0.5 * 36.0)


def test_bad_input():
    with pytest.raises(BadInput, match="target = 2"):
        game_of(adaptive_game, target=2.0)
    with pytest.raises(BadInput, match="horizon = 0"):
        game_of(adaptive_game, horizon=0.0)
    draw = lambda g, state, batch, key: jnp.full((ROWS, 1), g)
    other = adaptive_game(
        lambda score: wasserstein_game(draw, score, lambda state, batch: batch["x"]),
        lambda c, state, batch, x: c * x[:, 0],
        change=turned,
    )
    state = State(0, {"critic": jnp.ones(()), "generator": jnp.ones(())}, carry=jnp.zeros(()))
    with pytest.raises(BadInput, match="logs `real`"):
        other.critic(jnp.ones(()), state, {"x": jnp.ones((ROWS, 1))}, KEY)


def distances_by_key(file, augment, seeds):
    """The critic's `distance` under keys; a generator that draws grey alone leaves the augmentation to hang on them."""
    learner = file.learner(0, 4, 0.0, 0.0, 0.0, 0.9, augment, 8)
    batch = {"image": jax.random.uniform(KEY, (4, 64, 64, 3))}
    shapes, rng = jax.eval_shape(learner.init, KEY, batch), np.random.default_rng(0)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    drawn = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)
    state = state._replace(params={**state.params, "critic": jax.tree.map(drawn, shapes.params["critic"])})
    update = jax.jit(learner.update)
    return [float(update(state, batch, jax.random.key(seed))[1]["critic/distance"]) for seed in seeds]


def check_seed(file):
    first, again, *others = distances_by_key(file, 1.0, (0, 0, 1, 2))
    assert first == again and len({first, *others}) == 3


def test_the_augmentation_of_emoji_follows_the_seed(monkeypatch):
    file = sys.modules[load(EXPERIMENTS / "progressive_emoji.py").function.__module__]
    monkeypatch.setattr(file, "WIDTHS", (8,))
    check_seed(file)
    plain = distances_by_key(file, 0.0, (0, 1))
    assert plain[0] == pytest.approx(plain[1], rel=1e-5)

    def of_the_step(play, score, change):  # as it was: a key of the level and the step alone
        key = lambda state: jax.random.fold_in(jax.random.key(0), state.step)
        return play(lambda params, state, batch, x: score(params, state, batch, change(state, x, key(state))))

    monkeypatch.setattr(file, "changed_game", of_the_step)
    rejects(check_seed, file)


@pytest.fixture
def few(monkeypatch):
    """The experiment on squares of different brightness in place of Fashion-MNIST."""
    levels = np.random.default_rng(0).integers(100, 255, (60, 1, 1, 1)).astype(np.uint8)
    split = Split({"image": np.broadcast_to(levels, (60, 28, 28, 1)).copy()}, scaled(256))
    squares = make_dataset("squares", {name: split for name in ("train", "validation", "test")})
    monkeypatch.setattr(genjax.data, "fashion_mnist", lambda data_dir=None: squares)
    sys.modules.pop("experiment_few_images_fashion", None)
    return load(EXPERIMENTS / "few_images_fashion.py").function


@pytest.mark.slow
def test_few_images_resume_exactly(few, monkeypatch, tmp_path):
    """Stopped between checkpoints and begun again: p, both networks and optimizers are those of the whole run."""
    file = sys.modules[few.__module__]
    monkeypatch.setattr(file, "DISTANCES", {})
    monkeypatch.setattr(file, "distances", lambda x, y: {})
    monkeypatch.setattr(file, "unchanged_at_first", lambda key, params, batch: jnp.float32(0.5))  # free to go both ways
    make = lambda: few(examples=24, horizon=400.0, latents=3, width=2, steps=8, batch_size=8)
    every = Options(checkpoint_every=3, log_every=4, evaluate_every=8)
    assert stopped_and_whole(make, tmp_path, every, 5) >= 1
    carried = [leaf["digest"] for seal in seals(tmp_path / "whole") for n, leaf in seal.leaves.items() if "carry" in n]
    assert len(set(carried)) == len(carried) >= 2  # p moved, and stands in the checkpoints


def test_few_images_are_few(few):
    """The critic sees the first images alone; p is in the carry of the adaptive run only."""
    for adaptive in (True, False):
        experiment = few(examples=24, adaptive=adaptive, latents=3, width=2, batch_size=8)
        [stage] = experiment.stages
        assert stage.data.rows == 24
        batch = stage.data.batch(stage.data.resident, KEY, 0)
        state = jax.eval_shape(stage.learner.init, KEY, batch)
        assert len(jax.tree.leaves(state.carry)) == adaptive
    with pytest.raises(BadInput, match="examples = 61"):
        few(examples=61, batch_size=8)
    with pytest.raises(BadInput, match="examples = 4"):
        few(examples=4, batch_size=8)


def test_adapted_is_what_the_game_uses():
    """p of one update by hand, of critics that are sure of 3 in 4 images."""
    game = game_of(adaptive_game, horizon=640.0, change=lambda x, key, p: x)
    state = State(0, {"critic": jnp.ones(()), "generator": jnp.zeros(())}, carry=jnp.float32(0.3))
    x = jnp.where(jnp.arange(ROWS) % 4 == 0, -1.0, 1.0)
    out = game.critic(jnp.ones(()), state, {"x": x}, KEY)
    assert float(out.carry) == pytest.approx(0.2) == float(adapted(0.3, x, 0.6, 640.0))
    assert float(out.metrics["sign"].mean()) == 0.5 and float(out.metrics["probability"]) == pytest.approx(0.3)

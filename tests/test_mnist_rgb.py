"""Stacked digits, the networks of the test of discrete modes, and the experiment in small; planted bugs."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

import genjax.data
import genjax.feature_net
from genjax.data import Split, batches, digits, make_dataset, scaled, stacked
from genjax.errors import BadInput
from genjax.fields import load
from genjax.metrics.features import Features
from genjax.metrics.modes import stacked_modes
from genjax.models.gan_layers import doubled, halved
from genjax.models.progressive import inherited, side
from genjax.models.small_progressive import CrippledCritic, SmallGenerator, level_of

KEY, Z = jax.random.key(0), jax.random.normal(jax.random.key(1), (8, 64))
FILE = Path(__file__).parent.parent / "experiments" / "progressive_mnist_rgb.py"


def check_stacked(source_of):
    """Channels of triple i are rows 3 i, 3 i + 1, 3 i + 2 of a grey batch, framed; an epoch repeats none."""
    split = digits().train
    source, plain = source_of(split, 5, 2), batches(Split({"image": split.arrays["image"]}, split.prepare), 15)
    seen = np.asarray(source.batch(source.resident, KEY, 7)["image"])
    grey = np.asarray(plain.batch(plain.resident, KEY, 7)["image"])
    assert seen.shape == (5, 12, 12, 3) and np.abs(seen).sum() == np.abs(seen[:, 2:-2, 2:-2]).sum()
    for triple in range(5):
        for c in range(3):
            np.testing.assert_array_equal(seen[triple, 2:-2, 2:-2, c], grey[3 * triple + c, ..., 0])


def changed(change):
    def source_of(split, batch_size, frame):
        source = stacked(split, batch_size, frame)
        batch = lambda feed, key, step: {"image": change(source.batch(feed, key, step)["image"])}
        return source._replace(batch=batch)

    return source_of


def test_stacked():
    check_stacked(stacked)
    for mutant in (lambda x: x[..., ::-1], lambda x: x[::-1], lambda x: jnp.roll(x, 1, axis=1)):
        rejects(check_stacked, changed(mutant))
    rejects(check_stacked, changed(lambda x: jnp.repeat(x[..., :1], 3, axis=-1)))


def check_modes(modes_of):
    """Grey levels 0 to 9 as digits: two of three samples of mode 123, one of 321; the reverse KL by hand."""
    images = np.zeros((3, 2, 2, 3), np.uint8) + np.array([[1, 2, 3], [1, 2, 3], [3, 2, 1]], np.uint8)[:, None, None]
    found = modes_of(images, lambda grey: np.round(255 * grey[:, 0, 0, :]))
    assert found.count == 2
    np.testing.assert_allclose(found.reverse_kl, 2 / 3 * np.log(2000 / 3) + 1 / 3 * np.log(1000 / 3))


def test_modes():
    check_modes(stacked_modes)
    rejects(check_modes, lambda images, digit: stacked_modes(np.sort(images, axis=-1), digit))
    rejects(check_modes, lambda images, digit: stacked_modes(images[:2], digit))
    rejects(check_modes, lambda images, digit: stacked_modes(images[..., :1].repeat(3, -1)[[0, 0, 2]][:2], digit))


def networks(level, normalised):
    generator = SmallGenerator(level, normalised=normalised)
    critic = CrippledCritic(level, 2, 4, 3, normalised)
    alpha, x = (1.0 if level else None), jnp.ones((8, side(level), side(level), 3))
    return generator, generator.init(jax.random.key(level), Z, alpha), critic, critic.init(KEY, x, alpha)


def check_growth(inherit, normalised, fade=lambda alpha: alpha):
    """At alpha = 0 the grown networks are those below, doubled (inside tanh) and halved; at 1 those without a fade."""
    for level in (1, 2):
        low, low_g, judge, low_c = networks(level - 1, normalised)
        generator, g, critic, c = networks(level, normalised)
        g, c = inherit(low_g, g), inherit(low_c, c)
        x = jax.random.normal(KEY, (8, side(level), side(level), 3))
        np.testing.assert_allclose(generator.apply(g, Z, fade(0.0)), doubled(low.apply(low_g, Z)), atol=1e-5)
        np.testing.assert_allclose(critic.apply(c, x, fade(0.0)), judge.apply(low_c, halved(x)), atol=1e-5)
        np.testing.assert_allclose(generator.apply(g, Z, fade(1.0)), generator.apply(g, Z), atol=1e-6)
        np.testing.assert_allclose(critic.apply(c, x, fade(1.0)), critic.apply(c, x), atol=1e-6)


@pytest.mark.parametrize("normalised", [True, False])
def test_growth(normalised):
    check_growth(inherited, normalised)
    rejects(check_growth, lambda previous, fresh: fresh, normalised)
    rejects(
        check_growth, lambda previous, fresh: inherited(jax.tree.map(lambda p: 1.01 * p, previous), fresh), normalised
    )
    rejects(check_growth, inherited, normalised, lambda alpha: 1.0 - alpha)


@pytest.mark.parametrize(("divisor", "count"), [(4, 557), (2, 1_833)])
def test_the_critic_is_crippled(divisor, count):
    """Parameters counted by hand: 3x3 kernels and biases, one number from 4x4 places; about 500 and 2,000."""
    params = CrippledCritic(3, 3, divisor).init(KEY, jnp.ones((4, 32, 32, 3)))
    assert sum(p.size for p in jax.tree.leaves(params)) == count
    told = CrippledCritic(3, 3, divisor, stddev=True).init(KEY, jnp.ones((4, 32, 32, 3)))
    assert sum(p.size for p in jax.tree.leaves(told)) == count + 16


@pytest.fixture
def small(monkeypatch):
    grey = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1)).astype(np.uint8)
    split = Split({"image": grey}, scaled(256))
    toy = make_dataset("toy", dict.fromkeys(("train", "validation", "test"), split))
    monkeypatch.setattr(genjax.data, "mnist", lambda data_dir=None: toy)
    named = Features("labels by a rule", lambda grey: np.round(9 * grey.mean(axis=(1, 2))))
    monkeypatch.setattr(genjax.feature_net, "classifier_labels", lambda path, name: named)
    sys.modules.pop("experiment_progressive_mnist_rgb", None)
    function = load(FILE).function
    return SimpleNamespace(function=function, module=sys.modules[function.__module__])


@pytest.mark.parametrize("training", ["baseline", "normalised", "stddev", "progressive"])
def test_experiment(small, training):
    """Stages, their lengths, one update of each level that starts from the one below; samples are counted."""
    sizes = {"resolution": 8, "batch_size": 4, "critic_steps": 2, "steps": 100, "samples": 8}
    experiment = small.function("RUN", training, **sizes)
    lengths = {stage.name: stage.steps for stage in experiment.stages}
    assert lengths == ({"pixels_4": 4, "pixels_8": 96} if training == "progressive" else {"pixels_8": 100})
    state = None
    for stage in experiment.stages:
        batch = stage.data.batch(stage.data.resident, KEY, 0)
        fresh = jax.jit(stage.learner.init)(KEY, batch)
        state = fresh if state is None else stage.inherit(state, fresh)
        state, metrics = jax.jit(stage.learner.update)(state, batch, KEY)
        assert all(bool(jnp.isfinite(value)) for value in metrics.values())
    drawn = experiment.evaluations["modes"].measure(state, {"number": np.arange(8)}, KEY)
    found = experiment.evaluations["modes"].of_all(jax.tree.map(np.asarray, drawn))
    assert drawn["drawn"].shape == (8, 28, 28, 3) and 1 <= found["count"] <= 8
    assert found["reverse_kl"] >= np.log(1000 / 8) - 1e-6


@pytest.mark.parametrize(
    ("told", "call"),
    [
        ("for a critic of level 1 and 3 channels", lambda: CrippledCritic(1, 1).init(KEY, jnp.ones((2, 8, 8, 1)))),
        ("divisor 64", lambda: CrippledCritic(1, 1, 64).init(KEY, jnp.ones((2, 8, 8, 3)))),
        ("resolution of 28 pixels", lambda: level_of(28)),
        ("resolution of 0 pixels", lambda: level_of(0)),
        ("to be stacked", lambda: stacked(Split({"image": np.zeros((9, 8, 8, 3), np.uint8)}, scaled(256)), 2)),
        ("frame = -1", lambda: stacked(digits().train, 2, -1)),
        ("images float64", lambda: stacked_modes(np.zeros((2, 4, 4, 3)), lambda grey: grey)),
    ],
)
def test_bad_input(told, call):
    with pytest.raises(BadInput, match=told):
        call()


@pytest.mark.parametrize(("field", "value"), [("resolution", 24), ("resolution", 64), ("features", "")])
def test_fields_that_do_not_fit(small, field, value):
    with pytest.raises(BadInput, match=field):
        small.function(**{"features": "RUN", field: value})

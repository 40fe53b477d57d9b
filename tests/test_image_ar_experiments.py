"""MADE, NADE and PixelCNN as experiments, on toy pictures of the published size: objective, measures, samples."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick
from toy_data import bars

import genjax.data
from genjax.errors import BadInput
from genjax.fields import load

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
KEY = jax.random.key(0)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(genjax.data, "binarized_mnist", bars)


def function(name):
    return load(EXPERIMENTS / f"{name}.py").function


def trained(experiment, updates):
    """The first and the last loss of a few updates, and the state."""
    stage = experiment.stages[0]

    @quick
    def update(state):
        return stage.learner.update(state, stage.data.batch(stage.data.resident, KEY, state.step), KEY)

    state = quick(lambda: stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0)))()
    losses = []
    for _ in range(updates):
        state, metrics = update(state)
        losses.append(float(metrics["loss"]))
    return losses[0], losses[-1], state


def check(experiment, updates, fall, levels=2):
    """The loss falls, the measure is exact and one number an example, and samples lie on the grid."""
    first, last, state = trained(experiment, updates)
    assert last < first - fall
    test = experiment.evaluations["test"]
    batch = test.split.prepare({"image": jnp.asarray(test.split.arrays["image"][:20])}, KEY)
    found = jax.jit(test.measure)(state, batch, KEY)
    assert set(found) == set(test.quantities) and found["nll"].shape == (20,)
    assert all(quantity.kind.startswith("exact") for quantity in test.quantities.values())
    images = np.asarray(jax.jit(experiment.sample, static_argnums=2)(state, KEY, 3))
    assert images.shape == (3, *batch["image"].shape[1:])
    np.testing.assert_allclose(images * (levels - 1), np.rint(images * (levels - 1)), atol=1e-5)
    return found


def test_made(offline):
    experiment = function("made_mnist")(hidden=(16,), steps=1_000, learning_rate=1e-2, batch_size=20)
    check(experiment, 30, 50.0)


def test_made_ensemble(offline):
    """Three maskings, two a step, two hidden layers, direct connections; parts of unequal size are refused."""
    build = function("made_mnist")
    experiment = build(hidden=(16, 12), maskings=3, per_step=2, direct=True, steps=1_000, batch_size=20)
    check(experiment, 30, 50.0)
    with pytest.raises(BadInput, match="a divisor of batch_size = 20"):
        build(per_step=3, batch_size=20)


def test_nade(offline):
    check(function("nade_mnist")(units=8, steps=1_000, learning_rate=1e-2, batch_size=20), 30, 100.0)


@pytest.mark.slow
def test_pixelcnn(offline):
    check(function("pixelcnn_mnist")(blocks=1, channels=4, learning_rate=1e-2, steps=100, batch_size=20), 30, 100.0)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["categorical", "mixture"])
def test_pixelcnn_digits(likelihood):
    experiment = function("pixelcnn_digits")(likelihood=likelihood, layers=1, channels=8, steps=60, batch_size=20)
    found = check(experiment, 40, 30.0, levels=17)
    np.testing.assert_allclose(found["bits"], found["nll"] / (64 * np.log(2.0)), rtol=1e-5)

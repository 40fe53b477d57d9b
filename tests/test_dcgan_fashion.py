"""Pictures of dcgan_fashion.py with a linear generator, whose edits and truncation are known."""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

import genjax.data
from genjax.data import Split, make_dataset, scaled
from genjax.errors import BadInput
from genjax.fields import load
from genjax.metrics.features import pixels
from genjax.models.gan import ConvCritic
from genjax.types import State

FILE, KEY = Path(__file__).parent.parent / "experiments" / "dcgan_fashion.py", jax.random.key(0)
LEVELS = np.array([[100, 150], [200, 100], [120, 80]], np.uint8)  # of the upper and lower half, a row a class


class Halves(nn.Module):
    """z [B, 2] -> images whose upper half is z_0 / 8 and whose lower half is z_1 / 8."""

    shape: tuple[int, ...]
    classes: int = 0

    @nn.compact
    def __call__(self, z, *label):
        scale = self.param("scale", nn.initializers.constant(0.125), ())
        return scale * jnp.repeat(jnp.repeat(z[:, :, None, None], 14, axis=1), 28, axis=2)


def halves():
    """Images of three classes; the third class is none that the classifier ever calls."""
    label = np.array([1, 0, 2] * 30)
    images = np.repeat(np.repeat(LEVELS[label][:, :, None, None], 14, axis=1), 28, axis=2)
    split = Split({"image": images, "label": label.astype(np.int32)}, scaled(256))
    return make_dataset("halves", dict.fromkeys(("train", "validation", "test"), split), classes=3)


@pytest.fixture
def opened(monkeypatch):
    """The experiment and its module: a linear generator, a classifier that calls by the upper half."""
    monkeypatch.setattr(genjax.data, "fashion_mnist", lambda data_dir=None: halves())
    sys.modules.pop("experiment_dcgan_fashion", None)
    function = load(FILE).function
    module = sys.modules[function.__module__]
    monkeypatch.setattr(module, "NETWORKS", {"convolutional": (Halves, ConvCritic)})
    monkeypatch.setattr(module, "features_of", lambda path, data: pixels())
    monkeypatch.setattr(module, "classifier_label", lambda path, data: lambda x: (x[:, 0, 0, 0] > 0.5).astype(int))
    return function, module


def drawn(experiment, name, columns):
    """The levels of the upper and lower halves of a picture's tiles, [rows, columns, 2]."""
    params = {"generator": Halves((28, 28, 1)).init(KEY, jnp.ones((1, 2)))}
    picture = np.asarray(jax.jit(experiment.pictures[name])(State(0, params, None), KEY))
    height, width = picture.shape[1:3]
    tiles = picture.reshape(height // 28, 28, columns, width // columns, -1)
    levels = tiles.mean(axis=(1, 3, 4)).reshape(-1, 2, columns)
    return levels.swapaxes(1, 2)


def check_edits(experiment):
    """Class 0 is 5 / 16 darker above, class 1 as much brighter; the class that nothing is called by changes nothing."""
    found = drawn(experiment, "edits", 5)
    np.testing.assert_allclose(found[:, 0], LEVELS / 255, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], LEVELS / 255, atol=0.01)  # the penalty on z takes a little
    for column, change in ((2, [-0.3125, 0.0]), (3, [0.3125, 0.0]), (4, [0.0, 0.0])):
        np.testing.assert_allclose(found[:, column] - found[:, 1], [change] * 3, atol=0.02)


def test_edits(opened):
    function, _ = opened
    check_edits(function(features="run", latents=2))


def test_edits_by_a_classifier_that_knows_one_class(opened, monkeypatch):
    """As of untrained networks: there is no direction, and nothing moves."""
    function, module = opened
    monkeypatch.setattr(module, "classifier_label", lambda *_: lambda x: jnp.ones(len(x), int))
    found = drawn(function(features="run", latents=2), "edits", 5)
    np.testing.assert_allclose(found[:, 2:], found[:, 1:2].repeat(3, axis=1), atol=1e-6)


MUTANTS = {
    "the other way": ("label_direction", lambda right: lambda z, y: -right(z, y)),
    "latents of other samples": ("label_direction", lambda right: lambda z, y: right(z[::-1], y)),
    "another strength": ("STRENGTH", lambda right: right / 4),
    "the lower half's classes": ("classifier_label", lambda _: lambda *_: lambda x: (x[:, 14, 0, 0] > 0.5) * 1),
    "other images": ("inverted", lambda right: lambda make, x, *more, **how: right(make, x[::-1], *more, **how)),
}


@pytest.mark.parametrize(("name", "planted"), MUTANTS.values(), ids=MUTANTS)
def test_edits_reject(opened, monkeypatch, name, planted):
    function, module = opened
    monkeypatch.setattr(module, name, planted(getattr(module, name)))
    rejects(check_edits, function(features="run", latents=2))


def test_truncation(opened):
    """Rows of psi = 0.3, 0.5, 0.7 and 1 of the same latents, whose mean draws grey."""
    function, module = opened
    levels = drawn(function(latents=2), "truncation", 10)
    np.testing.assert_allclose(levels - 0.5, np.array(module.LADDER)[:, None, None] * (levels[-1:] - 0.5), atol=1e-5)
    assert module.LADDER[-1] == 1.0 and levels[-1].std() > 0.03


def test_which_pictures(opened):
    """Edits need a classifier that knows the classes, and a generator that is told none."""
    function, _ = opened
    names = lambda **fields: {*function(latents=2, **fields).pictures}
    assert names() == {"walk", "truncation"} == names(features="weights.pth")
    assert names(features="run") == {"walk", "truncation", "edits"}
    assert names(features="run", conditional=True) == {"walk", "truncation", "classes"}


def test_no_such_features(monkeypatch):
    monkeypatch.setattr(genjax.data, "fashion_mnist", lambda data_dir=None: halves())
    sys.modules.pop("experiment_dcgan_fashion", None)
    with pytest.raises(BadInput, match="cannot be read as PyTorch weights: there is no such file"):
        load(FILE).function(features="none.pth")

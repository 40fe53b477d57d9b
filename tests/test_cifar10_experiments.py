"""The recipes of CIFAR-10 in small, on generated pictures: what they train on, their first loss, that they learn."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from quick import quick
from test_gan_experiments import EXPERIMENTS
from toy_data import colours

import genjax.data
from genjax.errors import BadInput
from genjax.experiment import check_experiment
from genjax.fields import load
from genjax.losses.augmentation import mirrored

KEY = jax.random.key(0)


def made(monkeypatch, name, **settings):
    monkeypatch.setattr(genjax.data, "cifar10", colours)
    sys.modules.pop(f"experiment_{name}", None)
    return load(EXPERIMENTS / f"{name}.py").function(**settings)


DDPM = {"width": 8, "dropout": 0.0, "sampling_steps": 2, "warm_up": 1, "learning_rate": 3e-3, "average": 0.5}
DIT = {"layers": 1, "width": 32, "heads": 2, "sampling_steps": 2, "learning_rate": 3e-3, "average": 0.5}
RECIPES = {
    "ddpm": ("ddpm_cifar10", {**DDPM, "batch_size": 40}),
    "edm": ("ddpm_cifar10", {**DDPM, "recipe": "edm", "batch_size": 40, "compute": "float32"}),
    "dit": ("dit_cifar10", {**DIT, "batch_size": 40}),
}


def check_first_loss(loss):
    """A network that says 0: the mean square of its target eps - x is 1 plus that of x = 2 image - 1.

    Of 400 pictures of few colours the mean square of a batch is known to a few per cent.
    """
    data = colours()
    pixels = np.concatenate([split.arrays["image"] for split in (data.train, data.validation)]) / 127.5 - 1
    assert loss == pytest.approx(1.0 + float((pixels**2).mean()), rel=0.06)


@pytest.mark.slow
def test_a_transformer_trains(monkeypatch):
    """Its first losses are those of a network that says 0; after 30 updates it has learnt; all else can be drawn.

    The U-Net's, which compiles for longer, are in test_diffusion_experiments.py.
    """
    name, settings = RECIPES["dit"]
    experiment = made(monkeypatch, name, **settings)
    check_experiment(experiment)
    [stage] = experiment.stages
    batch = lambda step: stage.data.batch(stage.data.resident, KEY, step)
    state = quick(lambda: stage.learner.init(KEY, batch(0)))()
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    update, losses = quick(lambda state, batch: stage.learner.update(state, batch, KEY)), []
    begun = [float(update(state, batch(step))[1]["loss"]) for step in range(10)]
    check_first_loss(np.mean(begun))
    rejects(check_first_loss, np.mean(begun) * 1.3)
    for step in range(30):
        state, metrics = update(state, batch(step))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(begun) and np.isfinite(losses).all()
    drawn = quick(experiment.sample, static_argnums=2)(state, KEY, 3)
    assert drawn.shape == (3, 32, 32, 3) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    rows = {"image": jnp.full((2, 32, 32, 3), 128 / 255), "label": jnp.arange(2)}
    bound = quick(experiment.evaluations["test"].measure)(state, rows, KEY)
    assert np.isfinite(bound["bits"]).all()
    np.testing.assert_allclose(bound["bits"] * np.log(2) * 3_072, bound["bound"], rtol=1e-5)


@pytest.mark.parametrize("which", RECIPES)
def test_what_a_recipe_is(monkeypatch, which):
    """All published training images, none of the test's; the papers' sizes at the defaults, without training them."""
    name, settings = RECIPES[which]
    experiment = made(monkeypatch, name, **settings)
    images = np.asarray(experiment.stages[0].data.resident["image"])
    data = colours()
    known = np.concatenate([data.train.arrays["image"], data.validation.arrays["image"]])
    np.testing.assert_array_equal(images, known)
    full = made(monkeypatch, name, batch_size=40, **({"recipe": "edm"} if which == "edm" else {}))
    assert full.stages[0].steps == 800_000
    example = {"image": jnp.zeros((1, 32, 32, 3)), "label": jnp.zeros(1, int)}
    shapes = jax.eval_shape(full.stages[0].learner.init, KEY, example)
    count = sum(x.size for x in jax.tree.leaves(shapes.params))
    assert count == pytest.approx(32.5e6 if which == "dit" else 38.5e6, rel=0.01)


# -- mirrors -----------------------------------------------------------------------------------------------------------


def check_mirrors(mirror):
    """Each picture is itself or its mirror image, half of 2,000 are (within four deviations), each for itself."""
    x = jax.random.normal(KEY, (2_000, 2, 3, 2))
    y, flipped = np.asarray(mirror(x, jax.random.key(1))), np.asarray(x)[:, :, ::-1]
    same, other = ((y == np.asarray(z)).all(axis=(1, 2, 3)) for z in (x, flipped))
    assert (same ^ other).all()
    assert abs(other.mean() - 0.5) < 4 * 0.5 / np.sqrt(2_000)
    pairs = (other[1:] != other[:-1]).mean()
    assert abs(pairs - 0.5) < 4 * 0.5 / np.sqrt(2_000)
    np.testing.assert_array_equal(mirror(x, jax.random.key(1)), y)
    assert (np.asarray(mirror(x, jax.random.key(2))) != y).any()


def test_mirrors():
    check_mirrors(mirrored)
    rejects(check_mirrors, lambda x, key: x)
    rejects(check_mirrors, lambda x, key: mirrored(x, key, 0.4))
    rejects(check_mirrors, lambda x, key: mirrored(x.swapaxes(1, 2), key).swapaxes(1, 2))  # upside down
    rejects(check_mirrors, lambda x, key: jnp.where(jax.random.bernoulli(key), x[:, :, ::-1], x))  # all or none
    rejects(check_mirrors, lambda x, key: mirrored(x, KEY))
    rejects(check_mirrors, lambda x, key: mirrored(x[..., ::-1], key))
    for wrong in ((jnp.zeros((2, 3)), 0.5), (jnp.zeros((2, 3, 3, 1)), 1.5)):
        with pytest.raises(BadInput, match="allowed"):
            mirrored(wrong[0], KEY, wrong[1])

"""The experiments that declare how they code: rows of their test sets come back, as long as their own measure says."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax.data
from genjax import parallel
from genjax.compress.command import Model, decode, encode
from genjax.data import Split, make_dataset, scaled
from genjax.data.texts import divide
from genjax.evaluate import averaged_state, evaluator
from genjax.fields import load
from genjax.likelihood.bits_back_importance import Ensemble

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
KEY = jax.random.key(0)
LOG2 = np.log(2)


def bars():
    """Binary pictures of bars, 28x28."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (60, 28, 1, 1)).astype(np.uint8) * np.ones((1, 1, 28, 1), np.uint8)
    parts = {"train": images[:40], "validation": images[40:50], "test": images[50:]}
    return make_dataset("toy", {name: Split({"image": rows}, scaled(2)) for name, rows in parts.items()}, levels=2)


@pytest.fixture
def offline(monkeypatch):
    for name in ("binarized_mnist", "fashion_mnist_dynamic", "mnist_dynamic", "mnist"):
        monkeypatch.setattr(genjax.data, name, lambda data_dir=None: bars())
    text = "".join(np.random.default_rng(0).choice(["to be, ", "or not\n", "to be; "], 400))
    monkeypatch.setattr(genjax.data, "tiny_shakespeare", lambda: divide("toy", text, "toy"))


def opened(name, updates=20, **fields):
    """The experiment after a few updates, its model as `genjax compress` uses it, and its state."""
    experiment = load(EXPERIMENTS / f"{name}.py").function(**fields)
    stage = experiment.stages[0]
    draw = lambda step: stage.data.batch(stage.data.resident, KEY, step)
    update = jax.jit(lambda state: stage.learner.update(state, draw(state.step), KEY)[0])
    state = jax.jit(lambda: stage.learner.init(KEY, draw(0)))()
    for _ in range(updates):
        state = update(state)
    return experiment, Model(experiment.coding, experiment.text, averaged_state(state).params, updates, ""), state


def coded(model, symbols):
    """What is coded, once it came back."""
    found = encode(model, symbols)
    np.testing.assert_array_equal(decode(model, found.words, [(symbols.size,)]), symbols)
    assert 32 * len(found.words) - found.initial_bits <= 1.005 * found.nats / LOG2 + 64
    return found


def rows_of(experiment, count):
    """Test images in the model's order."""
    images = experiment.evaluations["test"].split.arrays["image"][:count]
    rows = np.asarray(images).reshape(count, -1).astype(np.int32)
    order = experiment.coding.order
    return rows[:, list(order)] if len(order) else rows


def measured(experiment, state, count, name):
    """The sum of the experiment's own measure over the same images."""
    test = experiment.evaluations["test"]
    batch = test.split.prepare({"image": jnp.asarray(test.split.arrays["image"][:count])}, KEY)
    with jax.default_matmul_precision("highest"):
        one = jax.jit(lambda *given: test.measure(*given)[name])  # the others are not computed
        return float(one(averaged_state(state), batch, KEY).sum())


def test_made(offline):
    experiment, model, state = opened("made_mnist", hidden=(16,), batch_size=20, learning_rate=1e-2)
    found = coded(model, rows_of(experiment, 5))
    assert abs(found.nats / measured(experiment, state, 5, "nll") - 1) < 1e-4


def test_masked_mnist(offline):
    """One order costs about as much as the bound, which is the average over all of them; so do two pixels at once."""
    sizes = {"hidden": (16,), "batch_size": 20, "learning_rate": 1e-2, "k": 4}
    experiment, model, state = opened("masked_mnist", at_once=2, **sizes)
    found = coded(model, rows_of(experiment, 5))
    assert abs(found.nats / measured(experiment, state, 5, "neg_elbo") - 1) < 0.1


def test_an_ensemble_of_orders_is_not_coded(offline):
    """Its members see different pixels first: no order shows what all of them need."""
    assert load(EXPERIMENTS / "made_mnist.py").function(hidden=(16,), maskings=2, batch_size=20).coding is None


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["categorical", "mixture"])
def test_pixelcnn_digits(likelihood):
    """Every test example."""
    experiment, model, state = opened("pixelcnn_digits", likelihood=likelihood, layers=1, channels=8, batch_size=20)
    found = coded(model, rows_of(experiment, 250))
    assert abs(found.nats / measured(experiment, state, 250, "nll") - 1) < 1e-4


def test_vae_digits():
    experiment, model, state = opened("vae_digits", 200, width=16, latents=4, samples=1)
    found = coded(model, rows_of(experiment, 250))
    assert abs(found.nats / measured(experiment, state, 250, "neg_elbo") - 1) < 0.01


@pytest.mark.slow
def test_diffusion_digits():
    """As long as the bound in as many steps, within three deviations of a draw: 1.5 % of 60 rows."""
    experiment, model, state = opened("diffusion_digits", 60, width=8, batch_size=32)
    found = coded(model, rows_of(experiment, 60))
    assert abs(found.nats / measured(experiment, state, 60, "few") - 1) < 0.05


def test_bits_back_mnist(offline):
    experiment, model, state = opened("bits_back_mnist", 60, width=16, latents=4, batch_size=20)
    found = coded(model, rows_of(experiment, 10))
    assert abs(found.nats / measured(experiment, state, 10, "neg_elbo") - 1) < 0.1  # ten images, one draw each


def test_vae_fashion(offline):
    """Two layers, top-down; a mixture as the prior of the top one is not coded."""
    sizes = {"width": 16, "latents": 3, "batch_size": 20, "warm_up": 1, "epochs": 40}
    experiment, model, state = opened("vae_fashion", 60, layers=2, **sizes)
    found = coded(model, rows_of(experiment, 10))
    assert abs(found.nats / measured(experiment, state, 10, "neg_elbo") - 1) < 0.1  # ten images, one draw each
    assert load(EXPERIMENTS / "vae_fashion.py").function(prior="vamp", pseudo_inputs=5, **sizes).coding is None


def test_iwae_mnist(offline):
    """The bound of as many samples as training had; of its other measures 50."""
    sizes = {"width": 16, "latents": 3, "batch_size": 20, "passes": 2, "held_out": 5, "samples": 50}
    experiment, model, state = opened("iwae_mnist", 60, k=5, **sizes)
    found = coded(model, rows_of(experiment, 10))
    assert isinstance(experiment.coding.model, Ensemble)
    one, fifty = (measured(experiment, state, 10, name) for name in ("neg_elbo", "neg_iwae_50"))
    assert 0.98 * fifty < found.nats < one
    assert load(EXPERIMENTS / "iwae_mnist.py").function(layers=2, **sizes).coding is None


def test_gpt_shakespeare(offline):
    """Windows that jump read more than the measure's, which begin anew: here the same law, so that both agree."""
    sizes = {"layers": 1, "heads": 2, "width": 16, "batch_size": 8, "learning_rate": 1e-2, "context": 16}
    experiment, model, state = opened("gpt_shakespeare", **sizes)
    tokens = np.asarray(genjax.data.tiny_shakespeare().test.arrays["tokens"]).reshape(-1)
    found = coded(model, tokens)
    test = experiment.evaluations["test"]
    own = evaluator(test, parallel.mesh(1))(state, KEY)["nats"].value
    assert abs(found.nats / len(tokens) / own - 1) < 0.1

"""The VAE experiments on toy pictures of the published size: objective, schedule, warm-up, measures."""

import doctest
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import genjax.data
from genjax.data import Split, make_dataset, resampled, scaled
from genjax.fields import load
from genjax.types import State

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
KEY = jax.random.key(0)


def toy(levels):
    """Four patterns of dark and bright bars in 256 levels, or their dynamic binarization."""
    rng = np.random.default_rng(0)
    patterns = np.uint8([5, 250])[rng.integers(0, 2, (4, 1, 28, 1))]
    images = np.broadcast_to(patterns[rng.integers(0, 4, 400)], (400, 28, 28, 1)).copy()
    if levels == 256:
        split = lambda rows: Split({"image": images[rows]}, scaled(256))
    else:
        split = lambda rows: Split({"image": (images[rows] > 127).astype(np.uint8)}, scaled(2))
    parts = {"train": split(slice(0, 200)), "validation": split(slice(200, 300)), "test": split(slice(300, 400))}
    if levels == 2:
        parts["train"] = Split({"image": images[:200]}, resampled(256))
    return make_dataset("toy", parts, levels=levels, stored=256)


@pytest.fixture
def offline(monkeypatch):
    for name, levels in [("mnist", 256), ("mnist_dynamic", 2), ("fashion_mnist_dynamic", 2)]:
        monkeypatch.setattr(genjax.data, name, lambda data_dir=None, levels=levels: toy(levels))


def loaded(name):
    return load(EXPERIMENTS / f"{name}.py"), sys.modules[f"experiment_{name}"]


def trained(stage, updates):
    """The first and the last metrics of a few updates, and the state."""

    @jax.jit
    def update(state):
        batch = stage.data.batch(stage.data.resident, KEY, state.step)
        return stage.learner.update(state, batch, KEY)

    batch = stage.data.batch(stage.data.resident, KEY, 0)
    state = jax.jit(stage.learner.init)(KEY, batch)
    state, first = update(state)
    for _ in range(updates - 1):
        state, last = update(state)
    return first, last, state


@pytest.mark.parametrize("name", ["vae_mnist", "vae_fashion"])
def test_examples_in_the_files(offline, name):
    _, module = loaded(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0 and result.failed == 0


def test_schedule_of_the_paper(offline):
    """3,280 passes; 0.001 * 10^(-i/7) in leg i, to float32, at the first and the last step of every leg."""
    _, module = loaded("vae_mnist")
    schedule, steps = module.legs(1e-3, 8, 2_980)  # 59,600 rows, batches of 20
    assert steps == 3_280 * 2_980
    start = 0
    for i in range(8):
        rate = np.float32(1e-3 * 10 ** (-i / 7))
        end = start + 3**i * 2_980
        assert float(jax.jit(schedule)(start)) == float(jax.jit(schedule)(end - 1)) == rate
        start = end


@pytest.mark.parametrize("k", [1, 5])
def test_vae_mnist(offline, k):
    file, _ = loaded("vae_mnist")
    experiment = file.function(
        k=k, latents=4, width=16, learning_rate=5e-3, passes=3, batch_size=20, held_out=50, samples=300
    )
    stage = experiment.stages[0]
    assert stage.steps == 13 * (250 // 20)  # 300 published rows less 50, three legs of 1 + 3 + 9 passes
    assert len(experiment.evaluations["validation"].split.arrays["image"]) == 50
    first, last, state = trained(stage, 150)
    assert last["loss"] < first["loss"] - 100.0
    assert 1.0 - 1e-4 <= last["effective"] <= k + 1e-4
    test = experiment.evaluations["test"]
    batch = test.split.prepare({"image": jnp.asarray(test.split.arrays["image"][:100])}, KEY)
    found = {name: float(values.mean()) for name, values in jax.jit(test.measure)(state, batch, KEY).items()}
    assert set(found) == set(test.quantities)
    assert found["neg_iwae"] < found["neg_iwae_50"] < found["neg_elbo"]
    assert 1.0 < found["effective"] < 300.0
    pictures = experiment.pictures["reconstructions"](state, KEY)
    assert pictures.shape == (2, 32, 28, 28, 1)
    images = experiment.sample(state, KEY, 3)
    assert images.shape == (3, 28, 28, 1) and 0.0 <= float(images.min()) <= float(images.max()) <= 1.0


def test_vae_mnist_starts_at_the_mean_image(offline):
    """Before the first update the samples have the data's mean brightness: the output bias is its logit."""
    file, _ = loaded("vae_mnist")
    experiment = file.function(passes=1, held_out=50)
    stage = experiment.stages[0]
    state = stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0))
    mean = toy(256).train.arrays["image"].mean() / 255
    assert float(experiment.sample(state, KEY, 200).mean()) == pytest.approx(mean, abs=0.05)


def test_vae_fashion_warms_up(offline):
    """beta is 1 / warm_up in the first epoch and rises each epoch; the validation bound always has beta = 1."""
    file, _ = loaded("vae_fashion")
    experiment = file.function(latents=4, width=16, warm_up=4, epochs=3, batch_size=20, samples=20)
    stage = experiment.stages[0]
    assert stage.steps == 3 * 10
    first, last, state = trained(stage, 25)  # the 25th update is in the third epoch of ten
    for metrics, beta in ((first, 0.25), (last, 0.75)):
        assert float(metrics["loss"]) == pytest.approx(float(metrics["distortion"] + beta * metrics["rate"]), rel=1e-5)
    validation = experiment.evaluations["validation"]
    batch = validation.split.prepare({"image": jnp.asarray(validation.split.arrays["image"])}, KEY)
    found = jax.jit(validation.measure)(state, batch, KEY)
    np.testing.assert_allclose(found["neg_elbo"], found["rate"] + found["distortion"], rtol=1e-6)
    assert experiment.select == "validation/neg_elbo"


def test_vae_fashion_normalises_each_tensor(offline):
    """The first update of every tensor is Adam's of g / |g|, in five lines of NumPy."""
    _, module = loaded("vae_fashion")
    rng = np.random.default_rng(0)
    gradients = [{"a": rng.normal(size=(3, 2)) * 1e3, "b": rng.normal(size=4) * 1e-3} for _ in range(3)]
    tx = optax.chain(module.by_its_norm(), optax.adam(0.1))
    state = tx.init(jax.tree.map(jnp.float32, gradients[0]))
    m = v = dict.fromkeys("ab", 0.0)
    for t, gradient in enumerate(gradients, 1):
        updates, state = tx.update(jax.tree.map(jnp.float32, gradient), state)
        unit = {name: g / np.linalg.norm(g) for name, g in gradient.items()}
        m = {name: 0.9 * m[name] + 0.1 * unit[name] for name in unit}
        v = {name: 0.999 * v[name] + 0.001 * unit[name] ** 2 for name in unit}
        for name in unit:
            exact = -0.1 * m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
            np.testing.assert_allclose(updates[name], exact, rtol=1e-3)


def test_log_variances_of_vae_fashion_stay_in_their_range(offline):
    file, _ = loaded("vae_fashion")
    experiment = file.function(latents=4, width=16, epochs=1, batch_size=20)
    stage = experiment.stages[0]
    state = stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0))
    pushed = jax.tree.map(lambda a: a * 30.0, state.params)
    measured = experiment.evaluations["validation"].measure(
        State(state.step, pushed), {"image": jnp.ones((2, 28, 28, 1))}, KEY
    )
    assert np.all(np.isfinite(measured["rate"]))

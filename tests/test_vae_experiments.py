"""The VAE experiments on toy pictures of the published size: objective, schedule, warm-up, measures."""

import doctest
import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import rejects

import genjax.data
from genjax.data import Split, make_dataset, resampled, scaled
from genjax.errors import BadInput
from genjax.experiment import parameter_count
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
    for name, levels in [("mnist", 256), ("mnist_dynamic", 2), ("fashion_mnist_dynamic", 2), ("binarized_mnist", 2)]:
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


@pytest.mark.parametrize("name", ["iwae_mnist", "vae_fashion"])
def test_examples_in_the_files(offline, name):
    _, module = loaded(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0 and result.failed == 0


def test_schedule_of_the_paper(offline):
    """3,280 passes; 0.001 * 10^(-i/7) in leg i, to float32, at the first and the last step of every leg."""
    _, module = loaded("iwae_mnist")
    schedule, steps = module.legs(1e-3, 8, 2_980)  # 59,600 rows, batches of 20
    assert steps == 3_280 * 2_980
    start = 0
    for i in range(8):
        rate = np.float32(1e-3 * 10 ** (-i / 7))
        end = start + 3**i * 2_980
        assert float(jax.jit(schedule)(start)) == float(jax.jit(schedule)(end - 1)) == rate
        start = end


def measured(experiment, name, state, rows=100):
    """The means of an evaluation over the first rows of its split."""
    evaluation = experiment.evaluations[name]
    batch = evaluation.split.prepare({"image": jnp.asarray(evaluation.split.arrays["image"][:rows])}, KEY)
    found = {name: float(values.mean()) for name, values in jax.jit(evaluation.measure)(state, batch, KEY).items()}
    assert set(found) == set(evaluation.quantities)
    return found


def check_pictures(experiment, state, more):
    """Pairs, walks between images and along latents, samples: all in [0, 1]."""
    drawn = {name: jax.jit(picture)(state, KEY) for name, picture in experiment.pictures.items()}
    drawn["samples"] = experiment.sample(state, KEY, 3)
    shapes = {
        "reconstructions": (2, 32, 28, 28, 1),
        "interpolation": (64, 28, 28, 1),
        "samples": (3, 28, 28, 1),
        **more,
    }
    for name, images in drawn.items():
        assert images.shape == shapes.pop(name)
        assert 0.0 <= float(images.min()) <= float(images.max()) <= 1.0
    assert not shapes
    for name, file in experiment.files.items():
        assert b"active_units" in file.encode(file.draw(state, KEY)), name


IWAE = [(1, 1, "iwae"), (5, 1, "iwae"), (5, 1, "dreg"), (5, 2, "iwae"), (5, 2, "stl")]


@pytest.mark.parametrize(("k", "layers", "gradient"), IWAE)
def test_iwae_mnist(offline, k, layers, gradient):
    file, _ = loaded("iwae_mnist")
    small = {"latents": 4, "width": 16, "learning_rate": 5e-3, "passes": 3, "held_out": 50, "samples": 300}
    experiment = file.function(k=k, layers=layers, gradient=gradient, batch_size=20, **small)
    stage = experiment.stages[0]
    assert stage.steps == 13 * (250 // 20)  # 300 published rows less 50, three legs of 1 + 3 + 9 passes
    assert len(experiment.evaluations["validation"].split.arrays["image"]) == 50
    first, last, state = trained(stage, 150)
    assert last["loss"] < first["loss"] - 100.0
    assert 1.0 - 1e-4 <= last["effective"] <= k + 1e-4
    found = measured(experiment, "test", state)
    assert found["neg_iwae"] < found["neg_iwae_50"] < found["neg_elbo"]
    assert 1.0 < found["effective"] < 300.0
    assert sum(found[f"rate_{i + 1}"] for i in range(layers)) > 0.1
    check_pictures(experiment, state, {"traversal": (1, min(10, 4 * layers) * 28, 9 * 28, 1)})


def diagnosed(experiment, state):
    file = experiment.files["diagnostics.txt"]
    return file.encode(jax.device_get(jax.jit(file.draw)(state, KEY))).decode()


def check_blind_layer(told, blind, layer, other):
    """A layer whose law sees nothing of x is named as collapsed, and the other has active units."""
    assert f"{layer}: warning: posterior collapse: none of" in told(blind)
    assert f"{layer}: active_units 0 of" in told(blind)
    assert f"{other}: active_units" in told(blind) and f"{other}: active_units 0 of" not in told(blind)


def zeroed(params, scope, factor=0.0):
    """Parameters of which all are zero, or multiplied, that have the scope in their path."""
    path_of = lambda path: "/".join(entry.key for entry in path)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (factor if scope in path_of(path) else 1.0), params
    )


BLIND = [
    ("iwae_mnist", {"layers": 2, "passes": 1, "held_out": 50}, "params/top_encoder/mean", "z2", "z1"),
    (
        "vae_fashion",
        {"layers": 2, "epochs": 1, "warm_up": 1, "batch_size": 20},
        "vae/params/image_and_top/first",
        "z1",
        "z2",
    ),
]


@pytest.mark.parametrize(("name", "fields", "scope", "layer", "other"), BLIND, ids=["iwae", "hvae"])
def test_a_blind_layer_is_a_collapse(offline, name, fields, scope, layer, other):
    experiment = loaded(name)[0].function(latents=4, width=16, **fields)
    _, _, state = trained(experiment.stages[0], 10)
    blind = state._replace(params=zeroed(state.params, scope))
    told = lambda state: diagnosed(experiment, state)
    check_blind_layer(told, blind, layer, other)
    rejects(check_blind_layer, told, state, layer, other)  # trained, it is active
    rejects(check_blind_layer, lambda state: told(state).replace("z1", "z_").replace("z2", "z1"), blind, layer, other)


def test_a_layer_that_hands_on_what_is_above_it_is_no_sign_of_x(offline):
    """z1 of a blind q(z1 | x, z2) moves with z2, and z2 with x: held z2 shows it, the drawn one would not."""
    experiment = loaded("vae_fashion")[0].function(layers=2, latents=4, width=16, epochs=1, warm_up=1, batch_size=20)
    _, module = loaded("vae_fashion")
    _, _, state = trained(experiment.stages[0], 10)
    blind = zeroed(state.params, "vae/params/image_and_top/first")["vae"]
    model, x = module.network(2, 4, 16), jnp.asarray(toy(2).validation.arrays["image"], jnp.float32)
    z2 = model.apply(blind, x, method="encode")[0]
    means = model.apply(blind, x, z2, method="encode_low")[0]
    assert float(means.var(axis=0).max()) > 0.01


@pytest.mark.parametrize("layers", [1, 2])
def test_iwae_mnist_starts_at_the_mean_image(offline, layers):
    """Before the first update the samples have the data's mean brightness: the output bias is its logit."""
    file, _ = loaded("iwae_mnist")
    experiment = file.function(passes=1, held_out=50, layers=layers)
    stage = experiment.stages[0]
    state = jax.jit(stage.learner.init)(KEY, stage.data.batch(stage.data.resident, KEY, 0))
    mean = toy(256).train.arrays["image"].mean() / 255
    assert float(experiment.sample(state, KEY, 200).mean()) == pytest.approx(mean, abs=0.05)


def test_sizes_of_the_papers(offline):
    """Parameters of the published networks, counted by hand: weights and biases of each linear layer."""
    linear = lambda *widths: sum((a + 1) * b for a, b in itertools.pairwise(widths))
    heads = lambda width, latents: 2 * linear(width, latents)
    gated = lambda *widths: 2 * linear(*widths)
    one = linear(784, 200, 200) + heads(200, 50) + linear(50, 200, 200, 784)
    two = linear(784, 200, 200) + heads(200, 100) + linear(100, 100, 100) + heads(100, 50)
    two += linear(50, 100, 100) + heads(100, 100) + linear(100, 200, 200, 784)
    vae = gated(784, 300, 300) + heads(300, 40) + gated(40, 300, 300) + linear(300, 784)
    hvae = gated(784, 300, 300) + heads(300, 40)  # q(z2 | x)
    hvae += gated(784, 300) + gated(40, 300) + gated(600, 300) + heads(300, 40)  # q(z1 | x, z2)
    hvae += gated(40, 300, 300) + heads(300, 40)  # p(z1 | z2)
    hvae += 2 * gated(40, 300) + gated(600, 300) + linear(300, 784)  # p(x | z1, z2)
    expected = [
        ("iwae_mnist", {"passes": 1, "held_out": 50}, one),
        ("iwae_mnist", {"passes": 1, "held_out": 50, "layers": 2}, two),
        ("vae_fashion", {}, vae),
        ("vae_fashion", {"layers": 2}, hvae),
        ("vae_fashion", {"layers": 2, "prior": "vamp", "pseudo_inputs": 200}, hvae + 200 * 784),
        ("vae_fashion", {"prior": "exemplar", "exemplars": 100}, vae + 1),
    ]
    for name, fields, count in expected:
        stage = loaded(name)[0].function(**fields).stages[0]
        batch = jax.eval_shape(lambda source=stage.data: source.batch(source.resident, KEY, 0))
        assert parameter_count(jax.eval_shape(stage.learner.init, KEY, batch).params) == count, (name, fields)


def test_vae_fashion_warms_up(offline):
    """beta is 1 / warm_up in the first epoch and rises each epoch; the validation bound always has beta = 1."""
    file, _ = loaded("vae_fashion")
    experiment = file.function(latents=4, width=16, warm_up=4, epochs=4, batch_size=20, samples=20)
    stage = experiment.stages[0]
    assert stage.steps == 4 * 10
    first, last, state = trained(stage, 25)  # the 25th update is in the third epoch of ten
    for metrics, beta in ((first, 0.25), (last, 0.75)):
        assert float(metrics["loss"]) == pytest.approx(float(metrics["distortion"] + beta * metrics["rate"]), rel=1e-5)
    found = measured(experiment, "validation", state)
    assert found["neg_elbo"] == pytest.approx(found["rate"] + found["distortion"], rel=1e-6)
    assert experiment.select == "validation/neg_elbo"


FASHION = [("normal", 1), ("vamp", 1), ("normal", 2), ("vamp", 2), ("exemplar", 1), ("exemplar", 2)]


@pytest.mark.parametrize(("prior", "layers"), FASHION)
def test_vae_fashion(offline, prior, layers):
    """Every model learns, its bounds are ordered, and its parts add up."""
    file, _ = loaded("vae_fashion")
    small = {"latents": 4, "width": 16, "learning_rate": 5e-3, "warm_up": 2, "epochs": 20, "samples": 200}
    experiment = file.function(prior, layers, pseudo_inputs=10, exemplars=50, batch_size=20, **small)
    first, last, state = trained(experiment.stages[0], 150)
    assert last["loss"] < first["loss"] - 100.0
    found = measured(experiment, "test", state)
    assert found["neg_iwae"] < found["neg_elbo"] - 0.1
    assert found["neg_elbo"] == pytest.approx(found["rate"] + found["distortion"], rel=1e-5)
    if layers == 2:
        assert found["rate"] == pytest.approx(found["rate_1"] + found["rate_2"], rel=1e-4)
    learned = {"pseudo_inputs": (10, 28, 28, 1)} if prior == "vamp" else {}
    check_pictures(experiment, state, {"traversal": (1, 4 * 28, 9 * 28, 1), **learned})


def test_exemplars_are_remembered(offline):
    """The carry holds the mean of every training image that was an exemplar, as the encoder saw it then."""
    file, _ = loaded("vae_fashion")
    stage = file.function("exemplar", latents=4, width=16, exemplars=150, batch_size=20).stages[0]
    batch = jax.jit(stage.data.batch)(stage.data.resident, KEY, 0)
    state = jax.jit(stage.learner.init)(KEY, batch)
    assert state.carry.shape == (200, 4) and np.all(np.isfinite(state.carry))
    new, _ = jax.jit(stage.learner.update)(state, batch, KEY)
    changed = np.any(np.asarray(new.carry != state.carry), axis=1)
    seen = np.isin(np.arange(200), batch["exemplar_row"])
    assert not np.any(changed & ~seen) and changed.sum() > 100
    # the first carry repeats the first exemplars' means, in their order: what is remembered of row r must be its own
    order = np.asarray(batch["exemplar_row"])
    np.testing.assert_allclose(new.carry[order], state.carry[:150], atol=1e-5)


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
    experiment = file.function(latents=4, width=16, warm_up=1, epochs=1, batch_size=20)
    stage = experiment.stages[0]
    state = stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0))
    pushed = jax.tree.map(lambda a: a * 30.0, state.params)
    measured = experiment.evaluations["validation"].measure(
        State(state.step, pushed), {"image": jnp.ones((2, 28, 28, 1))}, KEY
    )
    assert np.all(np.isfinite(measured["rate"]))


def test_iaf_digits():
    """The flow's posterior learns, and its bounds are ordered."""
    file, _ = loaded("iaf_digits")
    experiment = file.function(2, latents=4, width=16, learning_rate=5e-3, steps=200, samples=100)
    first, last, state = trained(experiment.stages[0], 100)
    assert len(state.params["flow"]) == 2 and last["loss"] < first["loss"] - 20.0
    test = experiment.evaluations["test"]
    batch = test.split.prepare({"image": jnp.asarray(test.split.arrays["image"])}, KEY)
    found = {name: float(values.mean()) for name, values in jax.jit(test.measure)(state, batch, KEY).items()}
    assert found["neg_iwae"] < found["neg_elbo"] == pytest.approx(found["rate"] + found["distortion"], rel=1e-5)
    drawn = {name: jax.jit(picture)(state, KEY).shape for name, picture in experiment.pictures.items()}
    assert drawn == {"reconstructions": (2, 32, 8, 8, 1), "traversal": (1, 128, 288, 1), "interpolation": (64, 8, 8, 1)}
    assert "z: active_units 0 of" not in diagnosed(experiment, state)
    blind = {"vae": zeroed(state.params["vae"], "encoder"), "flow": state.params["flow"]}
    assert diagnosed(experiment, state._replace(params=blind)).startswith("z: warning: posterior collapse: none of 4")
    for field, message in ({"flows": -1}, "flows = -1"), ({"latents": 1}, "dims = 1"):
        with pytest.raises(BadInput, match=message):
            stage = file.function(**field).stages[0]
            stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0))


@pytest.mark.slow
def test_vdvae_mnist(offline):
    """A tiny one learns; the rates of its grids add up; layers beyond the informed ones come from the prior."""
    file, _ = loaded("vdvae_mnist")
    experiment = file.function(
        4, 1, (1, 1, 1, 1), learning_rate=1e-2, average=0.5, steps=100, batch_size=20, samples=10
    )
    first, last, state = trained(experiment.stages[0], 60)
    assert last["loss"] < first["loss"] - 50.0
    found = measured(experiment, "test", state, rows=20)
    assert found["rate"] == pytest.approx(sum(found[f"rate_{side}x{side}"] for side in (1, 7, 14, 28)), rel=1e-4)
    assert found["neg_iwae"] < found["neg_elbo"] == pytest.approx(found["rate"] + found["distortion"], rel=1e-4)
    assert experiment.sample(state, KEY, 3).shape == (3, 28, 28, 1)
    assert experiment.pictures["interpolation"](state, KEY).shape == (64, 28, 28, 1)
    told = diagnosed(experiment, state)
    assert told.startswith("layer  1 (1x1): ") and "layer  4 (28x28): active_units" in told
    loud = zeroed(state.params, "down_1/posterior", 10.0)
    idle = "layer  2 (7x7): active_units 0 of 49"
    assert idle not in diagnosed(experiment, state._replace(params=loud))
    assert idle in diagnosed(experiment, state._replace(params=zeroed(loud, "down_1/posterior/conv_0")))


def test_bad_input(offline):
    iwae, fashion = loaded("iwae_mnist")[0].function, loaded("vae_fashion")[0].function
    with pytest.raises(BadInput, match="layers = 3\nallowed: 1, 2"):
        iwae(layers=3, held_out=50)
    with pytest.raises(BadInput, match="layers = 3\nallowed: 1, 2"):
        fashion(layers=3)
    with pytest.raises(BadInput, match="warm_up = 4\nallowed: 0 to 3"):
        fashion(warm_up=4, epochs=3)
    with pytest.raises(BadInput, match="held_out = 101\nallowed: 1 to 100"):
        iwae(held_out=101)
    with pytest.raises(BadInput, match="exemplars = 201\nallowed: whole numbers from 2 to 200"):
        fashion("exemplar", exemplars=201)
    for count in (0, 201):
        with pytest.raises(BadInput, match=f"pseudo-inputs = {count}\nallowed: whole numbers from 1 to 200"):
            fashion("vamp", pseudo_inputs=count)
    stage = iwae(k=0, held_out=50).stages[0]
    batch = stage.data.batch(stage.data.resident, KEY, 0)
    state = stage.learner.init(KEY, batch)
    with pytest.raises(BadInput, match="k at least 1"):
        stage.learner.update(state, batch, KEY)

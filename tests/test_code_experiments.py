"""VQ-VAE in two stages, conditional, denoising and anomaly VAEs as experiments: what they measure, keep and refuse."""

import doctest
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from planted import rejects
from test_train import digests, go

import genjax.data
from genjax.checkpoint import seals
from genjax.data import Split, digits, make_dataset, scaled
from genjax.errors import BadInput, Preempted
from genjax.fields import load
from genjax.models.blocks import MLP
from genjax.models.conditional import ConditionalVAE, check_labels, one_hot
from genjax.models.vae import DenseDecoder, DenseEncoder
from genjax.train import Options

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
KEY = jax.random.key(0)
TINY = {
    **{"data": "digits", "codes": 16, "dims": 4, "channels": 8, "blocks": 1, "steps": 60, "batch_size": 20},
    **{"learning_rate": 5e-3, "prior_layers": 1, "prior_heads": 1, "prior_width": 8, "prior_steps": 20},
}
SMALL = {"latents": 4, "width": 16, "learning_rate": 5e-3, "batch_size": 50}


def function(name):
    return load(EXPERIMENTS / f"{name}.py").function


def module(name):
    load(EXPERIMENTS / f"{name}.py")
    return sys.modules[f"experiment_{name}"]


def updates(stage, count, state=None):
    """The first and the last metrics of a few updates, and the state after them."""

    @jax.jit
    def update(state):
        return stage.learner.update(state, stage.data.batch(stage.data.resident, KEY, state.step), KEY)

    fresh = jax.jit(lambda: stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0)))()
    state, told = fresh if state is None else stage.inherit(state, fresh), []
    for _ in range(count):
        state, metrics = update(state)
        told.append({name: float(value) for name, value in metrics.items()})
    return told[0], told[-1], state


def measured(evaluation, state, rows=40):
    """What an evaluation says of the first rows of its split, which are all its quantities."""
    arrays = {name: jnp.asarray(values[:rows]) for name, values in evaluation.split.arrays.items()}
    found = jax.jit(evaluation.measure)(state, evaluation.split.prepare(arrays, KEY), KEY)
    assert set(found) == set(evaluation.quantities)
    return {name: np.float64(values) for name, values in found.items()}


def same(left, right):
    kinds = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)
    assert kinds(left) == kinds(right)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


# -- VQ-VAE ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_stages():
    """A tiny VQ-VAE after both stages: the experiment, the state of each, the metrics of the first."""
    experiment = function("vq_vae_fashion")(**TINY)
    vq, prior = experiment.stages
    first, last, trained = updates(vq, 60)
    _, _, whole = updates(prior, 20, trained)
    return experiment, trained, whole, (first, last)


def test_the_autoencoder_learns_and_keeps_its_codes_alive(two_stages):
    experiment, trained, _, (first, last) = two_stages
    assert last["distortion"] < first["distortion"] - 20.0
    assert 1.0 < last["perplexity"] <= 16.0 and 0.0 < last["used"] <= 1.0
    found = measured(experiment.evaluations["reconstruction"], trained)
    np.testing.assert_allclose(found["neg_elbo"], found["distortion"] + 16 * np.log(16), rtol=1e-6)  # 4x4 of 16 codes
    assert np.all(found["perplexity"] == found["perplexity"][0])


def check_frozen(trained, whole):
    """The second stage leaves encoder, decoder and codebook as they are, to the last bit."""
    same(whole.carry["vae"], trained.params)
    same(whole.carry["book"], trained.carry)


def test_the_prior_leaves_the_autoencoder_alone(two_stages):
    experiment, trained, whole, _ = two_stages
    check_frozen(trained, whole)
    stage = experiment.stages[1]
    fresh = stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0))
    assert set(jax.tree.leaves(jax.tree.map(jnp.shape, fresh.params))) == set(
        jax.tree.leaves(jax.tree.map(jnp.shape, whole.params))
    )
    rejects(check_frozen, trained, whole._replace(carry=fresh.carry))  # an inherit that forgets
    drift = jax.tree.map(lambda a: a + 1e-6, trained.params)
    rejects(check_frozen, trained, whole._replace(carry={**whole.carry, "vae": drift}))
    late = trained.carry._replace(counts=trained.carry.counts * 0.99)
    rejects(check_frozen, trained, whole._replace(carry={**whole.carry, "book": late}))


def test_the_bound_is_what_codes_and_image_cost(two_stages):
    experiment, _, whole, _ = two_stages
    found = measured(experiment.evaluations["test"], whole)
    np.testing.assert_allclose(found["neg_elbo"], found["distortion"] + found["rate"], rtol=1e-6)
    np.testing.assert_allclose(found["bits_per_code"], found["rate"] / (16 * np.log(2)), rtol=1e-5)
    np.testing.assert_allclose(found["bits_per_dim"], found["neg_elbo"] / (64 * np.log(2)), rtol=1e-5)
    kinds = {name: quantity.kind for name, quantity in experiment.evaluations["test"].quantities.items()}
    assert kinds["neg_elbo"] == kinds["bits_per_dim"] == "upper bound of -log p(x)"
    images = jax.jit(experiment.sample, static_argnums=2)(whole, KEY, 3)
    assert images.shape == (3, 8, 8, 1) and 0.0 <= float(images.min()) <= float(images.max()) <= 1.0
    assert experiment.pictures["reconstructions"](whole, KEY).shape == (2, 32, 8, 8, 1)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"codes": 1}, "codes = 1"), ({"codes": 321}, "a batch has 320 vectors"), ({"least": 1.0}, "least = 1.0")],
)
def test_impossible_codebooks(change, told):
    stage = function("vq_vae_fashion")(**{**TINY, **change}).stages[0]
    batch = jax.eval_shape(lambda: stage.data.batch(stage.data.resident, KEY, 0))
    with pytest.raises(BadInput, match=told):
        state = jax.eval_shape(stage.learner.init, KEY, batch)
        jax.eval_shape(stage.learner.update, state, batch, KEY)


def test_an_impossible_prior_is_refused_before_anything_is_trained():
    with pytest.raises(BadInput, match="prior_width = 8, prior_heads = 3"):
        function("vq_vae_fashion")(**{**TINY, "prior_width": 8, "prior_heads": 3})


@pytest.mark.slow
def test_a_run_of_two_stages_goes_on_bit_for_bit(tmp_path):
    """Stopped in either stage: every checkpoint has the digests of the uninterrupted run, codebook and prior too."""
    make = lambda: function("vq_vae_fashion")(**{**TINY, "steps": 12, "prior_steps": 12, "batch_size": 10})
    options = Options(checkpoint_every=4, log_every=4, evaluate_every=12)
    go(make(), tmp_path / "whole", options)
    for stop_after in (7, 14):  # evaluations ask too whether to stop
        with pytest.raises(Preempted):
            go(make(), tmp_path / "parts", options, stop_after)
    go(make(), tmp_path / "parts", options)
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert {place: parts[place] for place in whole} == whole
    assert {stage for stage, step in parts.keys() - whole.keys()} == {0, 1}  # where it was stopped
    ends = {seal.stage_index: seal.leaves for seal in seals(tmp_path / "parts") if seal.step == 12}
    digest = lambda stage, path: ends[stage][path]["digest"]
    held = [path for path in ends[1] if path.startswith("carry/")]
    assert len(held) > 10
    for path in held:
        before = path.replace("carry/vae/", "params/").replace("carry/book/", "carry/")
        assert digest(1, path) == digest(0, before)


# -- conditional VAE ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_conditional_vae():
    experiment = function("conditional_vae")(**SMALL, steps=1_000, samples=50)
    first, last, state = updates(experiment.stages[0], 300)
    assert last["loss"] < first["loss"] - 40.0
    found = measured(experiment.evaluations["test"], state)
    assert found["neg_iwae"].mean() < found["neg_elbo"].mean()
    assert set(np.unique(found["nearest"])) <= {0.0, 1.0} and found["nearest"].mean() > 0.9
    assert all("label" in experiment.evaluations["test"].quantities[name].kind for name in ("neg_iwae", "neg_elbo"))
    by_bayes, rows = experiment.evaluations["bayes"], {name: a[:40] for name, a in digits().test.arrays.items()}
    answers = jax.jit(by_bayes.measure)(state, by_bayes.split.prepare(rows, KEY), KEY)
    assert by_bayes.of_all(jax.device_get(answers))["error"][0] < 40.0  # by chance: 90
    images = np.asarray(experiment.sample(state, KEY, 100)).reshape(10, 10, 64)
    real, label = (digits().train.arrays[name] for name in ("image", "label"))
    means = np.stack([real[label == digit].mean(axis=0).reshape(64) / 16 for digit in range(10)])
    nearest = np.square(images.mean(axis=1)[:, None] - means[None]).sum(-1).argmin(-1)
    assert (nearest == np.arange(10)).sum() >= 8  # a row is of its class: chance would be right once
    assert experiment.pictures["styles"](state, KEY).shape == (100, 8, 8, 1)
    check_conditional_looks(experiment, state)
    rejects(check_conditional_looks, experiment, state._replace(params=jax.tree.map(jnp.zeros_like, state.params)))


def check_conditional_looks(experiment, state):
    """Reconstructions are nearer to their own image than to others; a walk stays with its class, its ends apart."""
    shown, made = np.asarray(experiment.pictures["reconstructions"](state, KEY)).reshape(2, 32, 64)
    apart = np.square(made[:, None] - shown[None]).sum(-1)
    assert (np.diag(apart) < 0.9 * apart.mean(axis=1)).sum() > 28
    walks = np.asarray(experiment.pictures["interpolation"](state, KEY)).reshape(8, 8, 64)
    real, label = (digits().train.arrays[name] for name in ("image", "label"))
    means = np.stack([real[label == digit].mean(axis=0).reshape(64) / 16 for digit in range(10)])
    classes = np.square(walks.mean(axis=1)[:, None] - means[None]).sum(-1).argmin(-1)
    assert (classes == np.arange(8)).sum() >= 7 and np.abs(walks[:, 0] - walks[:, -1]).max() > 1e-3


def test_what_the_label_says_is_no_work_of_z():
    """An encoder that sees the label and nothing of the image is a collapse, though its means move over the set."""
    experiment = function("conditional_vae")(**SMALL, steps=1_000)
    _, _, state = updates(experiment.stages[0], 50)

    def changed(path, leaf, image):  # channel 0 of 11 is the image
        first = "/".join(entry.key for entry in path) == "params/encoder/hidden/layer_0/kernel"
        return 5.0 * leaf.reshape(64, 11, -1).at[:, 0].multiply(image).reshape(leaf.shape) if first else leaf

    of = lambda image: jax.tree_util.tree_map_with_path(lambda path, leaf: changed(path, leaf, image), state.params)
    seeing, blind = (state._replace(params=of(image)) for image in (1.0, 0.0))
    hidden = MLP((16, 16), nn.relu)
    model = ConditionalVAE(DenseEncoder(4, hidden), DenseDecoder((8, 8, 1), 2, MLP((16, 16), nn.relu)), 10)
    rows = {name: jnp.asarray(array) for name, array in digits().validation.arrays.items()}
    means = model.apply(blind.params, rows["image"] / 16.0, rows["label"], method="encode")[0]
    assert float(means.var(axis=0).max()) > 0.01
    assert "z given the label: active_units 0 of" not in diagnosed(experiment, seeing)
    told = diagnosed(experiment, blind)
    assert told.startswith("z given the label: warning: posterior collapse: none of 4 latents")


def diagnosed(experiment, state):
    file = experiment.files["diagnostics.txt"]
    return file.encode(jax.device_get(jax.jit(file.draw)(state, KEY))).decode()


def test_the_label_reaches_encoder_and_decoder():
    model = ConditionalVAE(DenseEncoder(3, MLP((8,))), DenseDecoder((2, 2, 1), 1, MLP((8,))), 4)
    x, labels = jnp.ones((4, 2, 2, 1)), jnp.arange(4)
    params = model.init(KEY, x, labels)

    def check(encoded, decoded):
        means = np.asarray(model.apply(params, x, encoded, method="encode")[0])
        outs = np.asarray(model.apply(params, jnp.zeros((5, 4, 3)), decoded, method="decode"))
        assert len(np.unique(means.round(5), axis=0)) == 4 and len(np.unique(outs[0].round(5), axis=0)) == 4
        np.testing.assert_array_equal(outs[0], outs[4])

    check(labels, labels)
    rejects(check, 0 * labels, labels)
    rejects(check, labels, 0 * labels)
    late = jax.jit(lambda label: model.apply(params, x, label, method="encode")[0])(labels.at[2].set(4))
    assert np.isnan(late).any(axis=1).tolist() == [False, False, True, False]  # training stops at a NaN
    for wrong, told in ((labels.at[2].set(4), "label 4 in row 2"), (labels - 1, "label -1 in row 0")):
        with pytest.raises(BadInput, match=told):
            model.apply(params, x, wrong)
    with pytest.raises(BadInput, match="labels are float32"):
        one_hot(jnp.zeros(3), 4)


def unlabelled():
    split = Split({"image": np.zeros((60, 8, 8, 1), np.uint8)}, scaled(17))
    return make_dataset("bare", {"train": split, "validation": split, "test": split}, levels=17)


def test_sets_without_labels_are_refused(monkeypatch):
    for name in ("conditional_vae", "vae_anomaly"):
        monkeypatch.setattr(genjax.data, "digits", unlabelled)
        with pytest.raises(BadInput, match="data set bare: no labels"):
            function(name)()
    with pytest.raises(BadInput, match="no labels"):
        check_labels(unlabelled())


@pytest.mark.parametrize("name", ["denoising_vae", "vae_anomaly"])
def test_data_outside_of_the_decoders_support(monkeypatch, name):
    binary = digits()._replace(name="bits", levels=2)
    monkeypatch.setattr(genjax.data, "digits", lambda: binary)
    with pytest.raises(BadInput, match="2 grey levels"):
        function(name)()


@pytest.mark.parametrize("name", ["conditional_vae", "vq_vae_fashion"])
def test_real_numbers_have_no_decoder_here(monkeypatch, name):
    real = digits()._replace(name="real", levels=0)
    monkeypatch.setattr(genjax.data, "digits", lambda: real)
    with pytest.raises(BadInput, match="levels = 0"):
        function(name)(data="digits")


# -- anomalies, damages ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_vae_anomaly():
    experiment = function("vae_anomaly")(held_out=0, **SMALL, steps=1_000, samples=20)
    _, last, state = updates(experiment.stages[0], 150)
    sets = {name: evaluation.split.arrays["label"] for name, evaluation in experiment.evaluations.items()}
    assert set(sets["auroc"]) == {0} and all(0 not in sets[name] for name in ("validation", "normal"))
    assert 0 not in experiment.stages[0].data.resident["label"]
    assert len(sets["auroc"]) == 178  # all zeros of the set
    areas = {name: values.mean() for name, values in measured(experiment.evaluations["auroc"], state, 178).items()}
    assert set(areas) == {"neg_elbo", "neg_iwae", "reconstruction", "rate"}
    assert "active_units" in diagnosed(experiment, state)
    assert areas["neg_elbo"] > 0.8 and areas["neg_iwae"] > 0.8  # chance is 0.5
    assert np.isfinite(last["loss"])


@pytest.mark.parametrize("held_out", [-1, 10])
def test_a_digit_that_does_not_exist(held_out):
    with pytest.raises(BadInput, match=f"held_out = {held_out}"):
        function("vae_anomaly")(held_out=held_out)


@pytest.mark.slow
def test_denoising_vae():
    experiment = function("denoising_vae")(**SMALL, steps=1_000, samples=8)
    first, last, state = updates(experiment.stages[0], 200)
    assert last["loss"] < first["loss"] - 30.0
    for kind in ("noise", "mask", "low"):
        found = measured(experiment.evaluations[kind], state)
        np.testing.assert_allclose(found["gain"], found["restored"] - found["filter"], atol=1e-4)
        assert found["filter"].mean() > found["damaged"].mean()  # the filter is worth comparing with
        assert experiment.pictures[kind](state, KEY).shape == (2, 32, 8, 8, 1)
    assert experiment.sample(state, KEY, 3).shape == (3, 8, 8, 1)
    loud = {**state.params, "encoder": jax.tree.map(lambda leaf: 2.0 * leaf, state.params["encoder"])}
    told = diagnosed(experiment, state._replace(params=loud))
    assert told.startswith("low: ") and all(f"{kind}: active_units" in told for kind in ("noise", "mask", "low"))
    assert "noise: active_units 0 of" not in told
    blind = {**state.params, "encoder": jax.tree.map(jnp.zeros_like, state.params["encoder"])}
    assert diagnosed(experiment, state._replace(params=blind)).count("warning: posterior collapse: none of 4") == 3


def check_damages(damaged):
    """The noise has its deviation, the mask its share and hides what it hides, the blocks have the image's means."""
    x = jnp.float32(np.random.default_rng(0).uniform(size=(400, 8, 8, 1)))
    found = {kind: np.float64(images) for kind, images in damaged(x, KEY, 0.25, 0.7).items()}
    error = found["noise"][..., :1] - x
    assert abs(error.mean()) < 0.01 and error.std() == pytest.approx(0.25, abs=0.01)
    values, measured = found["mask"][..., :1], found["mask"][..., 1:]
    assert set(np.unique(measured)) == {0.0, 1.0} and measured.mean() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(values, x * measured)
    blocks = np.float64(x).reshape(400, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(found["low"][..., 0], blocks.repeat(2, 1).repeat(2, 2), atol=1e-6)
    assert np.all(found["noise"][..., 1] == 1) and np.all(found["low"][..., 1] == 1)


def test_damages():
    damaged = module("denoising_vae").damaged
    check_damages(damaged)
    changed = lambda kind, change: lambda *a: (lambda found: {**found, kind: change(found[kind])})(damaged(*a))
    for planted in (
        lambda x, key, noise, hidden: damaged(x, key, noise**2, hidden),
        lambda x, key, noise, hidden: damaged(x, key, noise, 1 - hidden),
        changed("mask", lambda seen: seen.at[..., 1].set(1 - seen[..., 1])),
        changed("low", lambda seen: seen.transpose(0, 2, 1, 3)),
        changed("low", lambda seen: jnp.roll(seen, 1, axis=1)),
    ):
        rejects(check_damages, planted)


def test_filters_are_those_of_scipy():
    file, seen = module("denoising_vae"), np.float32(np.random.default_rng(1).uniform(size=(20, 8, 8, 2)))
    exact = np.stack([scipy.signal.wiener(np.float64(image), 3, 0.25**2) for image in seen[..., 0]])
    np.testing.assert_allclose(file.wiener(seen, 0.25)[..., 0], np.clip(exact, 0, 1), atol=1e-6)
    holes = np.where(seen[..., 1:] > 0.6, np.float32([1, 1]), np.float32([0, 0])) * np.stack(
        [seen[..., 0]] * 2, axis=-1
    )
    holes[..., 1] = holes[..., 1] > 0
    nan = np.where(holes[..., 1] > 0, holes[..., 0], np.nan)
    middle = lambda near: near[4] if near[4] == near[4] else np.nanmedian(near) if (near == near).any() else 0.0
    for image, found in zip(nan, file.median(holes)[..., 0], strict=True):
        exact = scipy.ndimage.generic_filter(image, middle, 3, mode="constant", cval=np.nan)
        np.testing.assert_allclose(found, exact, atol=1e-6)


def test_examples_in_the_files():
    result = doctest.testmod(module("denoising_vae"), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0 and result.failed == 0

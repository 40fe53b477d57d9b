"""GAN experiments in small: what they learn and measure; a growing run goes on in the middle of a fade, bit for bit."""

import io
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from PIL import ImageSequence
from quick import quick
from resumed import stopped_and_whole
from test_train import EVERY, Recorder

import genjax.data
from genjax import Picture, parallel
from genjax.checkpoint import seals
from genjax.data import Split, make_dataset, scaled
from genjax.data.images import read_images
from genjax.errors import BadInput
from genjax.evaluate import evaluator
from genjax.experiment import check_experiment
from genjax.fields import load
from genjax.models.gan_layers import doubled
from genjax.report.gif import gif_file
from genjax.train import Options, train

EXPERIMENTS, KEY = Path(__file__).parent.parent / "experiments", jax.random.key(0)


def function(name):
    return load(EXPERIMENTS / f"{name}.py").function


def module(name):
    return sys.modules[function(name).__module__]


def toy():
    """Squares of one brightness, 28x28."""
    levels = np.random.default_rng(0).integers(100, 255, (60, 1, 1, 1)).astype(np.uint8)
    images = np.broadcast_to(levels, (60, 28, 28, 1)).copy()
    rows = {"train": slice(0, 40), "validation": slice(40, 50), "test": slice(50, 60)}
    return make_dataset("toy", {name: Split({"image": images[part]}, scaled(256)) for name, part in rows.items()})


def trained(experiment, updates, chunk=50):
    """The state of the only stage after some updates."""
    [stage] = experiment.stages
    batch = lambda step: stage.data.batch(stage.data.resident, KEY, step)
    update = lambda state, _: (stage.learner.update(state, batch(state.step), KEY)[0], None)
    begin = quick(lambda: stage.learner.init(KEY, batch(0)))
    run = jax.jit(lambda state: jax.lax.scan(update, state, None, chunk)[0])
    state = begin()
    for _ in range(updates // chunk):
        state = run(state)
    return state


def test_gan_digits_learns():
    """By 4,000 updates samples are among the digits: random networks draw none that is, and cover nothing."""
    experiment = function("gan_digits")(width=64, steps=4_000)
    test = experiment.evaluations["test"]
    measure = evaluator(test, parallel.mesh(1))
    assert test.quantities["neighbour"].better == "" and test.quantities["recall_psi_0.3"].better == "higher"
    begun, done = (measure(trained(experiment, updates), KEY) for updates in (0, 4_000))
    assert begun["precision"].value < 0.05 and begun["coverage"].value < 0.2
    assert done["precision"].value > 0.5 and done["coverage"].value > 0.4
    assert done["precision_of_training_images"] == begun["precision_of_training_images"]
    assert begun["neighbour"].value > 0.95 > done["neighbour"].value
    ladder = [done[f"recall{rung}"].value for rung in ("_psi_0.3", "_psi_0.5", "_psi_0.7", "")]
    assert ladder == sorted(ladder) and ladder[0] < 0.5 * ladder[-1]  # nearer to the mean, fewer kinds
    assert done["precision_of_training_images"].value > 0.8 and done["neighbour_of_training_images"].value < 0.6


@pytest.mark.parametrize("pack", [1, 2])
def test_gan_gaussians_sees_packs(pack):
    """Packs are points of the data side by side; samples come nearer to the ring than those of random networks."""
    experiment = function("gan_gaussians")("ring", pack, width=32, units=16, learning_rate=2e-3, batch_size=20)
    [stage] = experiment.stages
    x = np.asarray(stage.data.batch(stage.data.resident, KEY, 0)["x"])
    assert x.shape == (20, 2 * pack)
    np.testing.assert_allclose(np.hypot(*x.reshape(-1, 2).T), 1.0, atol=0.06)
    radius = lambda state: np.hypot(*np.asarray(experiment.sample(state, KEY, 500)).T)
    error = lambda state: np.abs(radius(state) - 1).mean()
    assert error(trained(experiment, 1_000)) < 0.5 * error(trained(experiment, 0))


def test_modes_of_the_data_themselves():
    """All 25 are found, and 98.9 % of two normals lie within 3 deviations: exp(-9/2) do not."""
    file = module("gan_gaussians")
    centres, deviation = file.places("grid")
    found = file.gaussian_modes(file.mixture(centres, deviation, 20_000), centres, deviation)
    assert found.count == 25 and found.high_quality == pytest.approx(1 - np.exp(-4.5), abs=0.004)


@pytest.fixture
def squares(monkeypatch):
    monkeypatch.setattr(genjax.data, "fashion_mnist", lambda data_dir=None: toy())
    sys.modules.pop("experiment_progressive_fashion", None)


@pytest.mark.slow
def test_a_growing_run_goes_on_in_the_middle_of_a_fade(squares, tmp_path):
    make = lambda: function("progressive_fashion")(levels=2, latents=4, steps=8, batch_size=8, keep_moments=True)
    every = Options(checkpoint_every=3, log_every=4, evaluate_every=8)
    assert stopped_and_whole(make, tmp_path, every, 5) >= 2
    inside = {seal.step for seal in seals(tmp_path / "parts") if seal.stage == "pixels_8"}
    assert inside & {1, 2, 3}  # of a fade of 4 updates


def test_what_a_level_keeps(squares):
    """Layers of both levels go on, Adam's moments only where they are asked to; the average begins anew."""
    file = module("progressive_fashion")
    experiment = function("progressive_fashion")(levels=2, latents=4, steps=8, batch_size=8)
    low, high = experiment.stages
    batch = low.data.batch(low.data.resident, KEY, 0)
    state = low.learner.init(KEY, batch)
    state, _ = jax.jit(low.learner.update)(state, batch, KEY)
    fresh = high.learner.init(jax.random.key(5), batch)
    for keep in (False, True):
        begun = file.grown(keep, state, fresh)
        for name in ("generator", "critic"):
            own, before, new = (s.params[name]["params"] for s in (begun, state, fresh))
            np.testing.assert_array_equal(own["block_0"]["kernel"], before["block_0"]["kernel"])
            np.testing.assert_array_equal(own["block_1a"]["kernel"], new["block_1a"]["kernel"])
        moments = begun.opt_state["critic"][0].nu["params"]["block_0"]["kernel"]
        assert bool(jnp.any(moments != 0)) == keep
        assert int(begun.opt_state["generator"][1].count) == 0
    assert jax.tree.structure(begun) == jax.tree.structure(fresh)


def looked_at(pictures):
    """(name, stage) of the pictures that a run of three stages draws, and those names with their first level."""
    seen = []
    growing = toys.growing()._replace(pictures=pictures)
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder(Path(directory))
        draw = lambda name, stage, index, step, images: seen.append((name, index, float(np.ravel(images)[0])))
        try:
            train(growing, Path(directory), EVERY, recorder.outlets()._replace(picture=draw))
        finally:
            recorder.store.close()
    return seen


def test_a_picture_of_an_earlier_stage():
    """Each is drawn of its own stage's state, whose width tells the stage; a plain one of the last."""
    first = toys.growing().stages[0].name
    width = lambda state, key: jnp.full((1, 2, 2, 1), state.params["w"].shape[1] / 100.0)
    seen = looked_at({"early": Picture(width, first), "late": width})
    widths = {index: value for name, index, value in seen}
    assert {(name, index) for name, index, _ in seen} == {("early", 0), ("late", 2)} and widths[0] < widths[2]
    with pytest.raises(BadInput, match="stage of"):
        check_experiment(toys.growing()._replace(pictures={"early": Picture(width, "nowhere")}))


def test_a_moving_picture_goes_there_and_back():
    from PIL import Image

    frames = np.linspace(0, 1, 5)[:, None, None, None] * np.ones((1, 4, 6, 1))
    with Image.open(io.BytesIO(gif_file(frames, 0.05, scale=3))) as picture:
        levels = [np.asarray(frame.convert("L"))[0, 0] for frame in ImageSequence.Iterator(picture)]
        assert picture.size == (18, 12) and picture.info["loop"] == 0
    np.testing.assert_allclose(levels, np.array([0, 64, 128, 191, 255, 191, 128, 64]), atol=2)
    for wrong in (frames[:1], frames[..., 0], frames * np.nan):
        with pytest.raises(BadInput):
            gif_file(wrong)


@pytest.mark.parametrize(("field", "value"), [("levels", 5), ("batch_size", 6)])
def test_fields_of_a_growing_run_that_do_not_fit(squares, field, value):
    with pytest.raises(BadInput, match=f"{field} = {value}"):
        function("progressive_fashion")(**{field: value})


@pytest.mark.parametrize("shift", [-1, 5])
def test_shifts_that_leave_no_image(shift):
    with pytest.raises(BadInput, match=f"shift = {shift}"):
        function("classifier_mnist")("digits", shift=shift)


def test_what_is_drawn_in_the_middle_of_a_fade(squares):
    """A checkpoint within a fade draws with the alpha that it was trained at; a finished level with its new block."""
    experiment = function("progressive_fashion")(levels=2, latents=4, steps=8, batch_size=8)
    low, high = experiment.stages
    batch = low.data.batch(low.data.resident, KEY, 0)
    state = high.inherit(low.learner.init(KEY, batch), high.learner.init(jax.random.key(5), batch))
    begun, half, faded = (experiment.sample(state._replace(step=jnp.int32(step)), KEY, 3) for step in (0, 2, 4))
    done = experiment.sample(state._replace(step=jnp.int32(8)), KEY, 3)
    np.testing.assert_allclose(begun, doubled(begun[:, ::2, ::2]), atol=1e-6)  # the level below, doubled
    np.testing.assert_array_equal(faded, done)
    inside = (begun > 0.01) & (begun < 0.99) & (done > 0.01) & (done < 0.99)
    np.testing.assert_allclose(half[inside], 0.5 * (begun + done)[inside], atol=1e-5)
    assert inside.mean() > 0.2 and float(jnp.abs(done - begun).max()) > 0.1


def test_arrays_that_are_no_pictures_in_bytes(tmp_path):
    """Levels in [0, 1] would be divided by 255 once more."""
    rng = np.random.default_rng(0)
    wrong = {
        "real": rng.random((20, 64, 64, 3)).astype(np.float32),
        "binary": rng.integers(0, 2, (20, 64, 64, 3)).astype(np.uint8),
        "rows": rng.random((20, 64)).astype(np.float32),
    }
    for name, array in wrong.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(BadInput, match=f"{name}.npy holds"):
            function("progressive_emoji")(str(tmp_path / f"{name}.npy"))


def test_levels_are_halved(squares):
    file = module("progressive_fashion")
    x = jax.random.uniform(KEY, (2, 8, 8, 1))
    np.testing.assert_allclose(file.at_level(doubled(doubled(x)), 1), x, atol=1e-6)
    framed = file.framed(toy())["train"].arrays["image"]
    assert framed.shape == (40, 32, 32, 1) and framed[:, :2].max() == 0 == framed[:, :, -2:].max()


def test_pictures_with_and_without_transparency(tmp_path):
    """A folder that mixes them: opaque where nothing else is told; emoji are laid on white."""
    from PIL import Image

    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGBA", (64, 64), (0, 0, 255, 0)).save(tmp_path / "b.png")
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([0, 255, 0] * 256)
    palette.save(tmp_path / "c.png", transparency=0)
    images = read_images(tmp_path)["image"]
    assert images[:, 0, 0].tolist() == [[255, 0, 0, 255], [0, 0, 255, 0], [0, 255, 0, 0]]
    white = module("progressive_emoji").on_white(images)
    assert white[:, 0, 0].tolist() == [[255, 0, 0], [255] * 3, [255] * 3] * 2
    with pytest.raises(BadInput, match="pictures of 32x32"):
        module("progressive_emoji").on_white(np.zeros((1, 32, 32, 3), np.uint8))

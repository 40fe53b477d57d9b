"""`genjax sample RUN --sampler`, `genjax edit RUN`: what a diffusion of two grey levels draws; what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from genjax.cli import main
from genjax.corruption.schedules import rectified_flow
from genjax.denoised import STEPS, grid_of, sample_function
from genjax.errors import BadInput
from genjax.experiment import Denoising
from genjax.saved import SampleOptions

EXPERIMENT = '''
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Denoising, Experiment, Out, Stage, minimize
from genjax.corruption.gaussian import point
from genjax.corruption.schedules import cosine
from genjax.data import Split, batches, unchanged

PROCESS = cosine(0.01, 0.99)


def experiment(steps: int = 2):
    """Pictures that are all -1 or all 1; of class 0 all -1, of class 1 all 1: a denoiser that is known."""
    def denoise(params, label):
        def best(z, t):
            at = point(PROCESS, t, z)
            both = jnp.tanh(at.alpha * z.mean(axis=(1, 2, 3), keepdims=True) * 16 / at.sigma**2)
            sign = jnp.where(label == 2, 0.0, 2.0 * label - 1.0).reshape(-1, 1, 1, 1)
            return jnp.where(sign == 0, both, sign) * jnp.ones_like(z)
        return best

    loss = lambda params, state, batch, key: Out(jnp.full(len(batch["x"]), jnp.sum(params**2)))
    data = Split({"x": np.zeros((8, 1), np.float32)}, unchanged)
    learner = minimize(loss, optax.sgd(0.1), lambda key, batch: jnp.ones(2))
    told = Denoising(PROCESS, denoise, (4, 4, 1), lambda x: 2 * x - 1, lambda x: x / 2 + 0.5, 2)
    return Experiment([Stage("one", learner, batches(data, 4), steps)], denoising=told)
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denoised")
    (folder / "levels.py").write_text(EXPERIMENT)
    assert main(["train", str(folder / "levels.py"), "--workdir", str(folder / "run")]) == 0
    for name, pixels in {
        "dark": np.full((4, 4), 40),
        "half": np.repeat([[0], [0], [255], [255]], 4, axis=1),
        "black": np.zeros((4, 4)),
        "bright": np.full((4, 4), 255),
        "wide": np.zeros((4, 5)),
        "small": np.array([[0, 85], [170, 255]]),
    }.items():
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    grey = np.full((4, 4, 1), 255, np.uint8)
    for name, seen in (("clear", 50), ("opaque", 255)):
        Image.fromarray(np.concatenate([grey, grey, grey, grey // 255 * seen], axis=2), "RGBA").save(
            folder / f"{name}.png"
        )
    return folder


def drawn(run, *options):
    out = run / "drawn.npz"
    assert main(["sample", str(run / "run"), "--out", str(out), *options]) == 0
    return np.load(out)["samples"]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "2m", "euler", "heun", "churn"])
def test_samplers_draw_the_label(run, sampler):
    x = drawn(run, "--n", "6", "--sampler", sampler, "--steps", "12", "--label", "1")
    assert x.shape == (6, 4, 4, 1)
    np.testing.assert_allclose(x, 1.0, atol=0.05)


def test_classes_in_turn_and_guidance(run):
    x = drawn(run, "--n", "4", "--steps", "20")
    assert x[:, 0, 0, 0].round(1).tolist() == [0.0, 1.0, 0.0, 1.0]
    free = drawn(run, "--n", "400", "--guidance", "0", "--label", "1", "--steps", "40")[:, 0, 0, 0]
    assert 0.4 < (free > 0.5).mean() < 0.6  # without the label both levels are drawn
    half = drawn(run, "--n", "400", "--guidance", "0.5", "--label", "1", "--steps", "40")[:, 0, 0, 0]
    assert (half > 0.5).mean() > 0.8


def test_a_picture_is_finished(run, capsys):
    """Its upper half is known and dark, so the lower one is drawn dark too."""
    options = [
        "--image",
        str(run / "dark.png"),
        "--mask",
        str(run / "half.png"),
        "--n",
        "3",
        "--out",
        str(run / "e.png"),
    ]
    assert main(["edit", str(run / "run"), *options]) == 0
    assert "3 results of step 2" in capsys.readouterr().out
    with Image.open(run / "e.png") as picture:
        assert np.asarray(picture).min() == 0 and np.asarray(picture).max() < 100  # dark as drawn, nothing bright


def test_a_picture_is_redrawn(run):
    options = ["--image", str(run / "dark.png"), "--strength", "0.3", "--n", "2", "--out", str(run / "r.png")]
    assert main(["edit", str(run / "run"), *options, "--label", "0"]) == 0
    with Image.open(run / "r.png") as picture:
        assert np.asarray(picture).min() < 5


def test_what_is_not_finite_is_not_written(run, capsys):
    options = ["--image", str(run / "dark.png"), "--label", "1", "--guidance", "3e38"]
    options += ["--sampler", "churn", "--strength", "1", "--steps", "9", "--out", str(run / "wild.png")]
    assert main(["edit", str(run / "run"), *options]) == 4
    assert "not finite" in capsys.readouterr().err and not (run / "wild.png").exists()


@pytest.mark.parametrize("command", [["sample", "--out", "many.npz"], ["edit", "--image", "dark.png"]])
def test_more_samples_than_memory_holds(run, capsys, monkeypatch, command):
    """60 terabytes: the process lives, and says how many it was asked for."""
    monkeypatch.chdir(run)
    options = ["--label", "1", "--steps", "1", "--n", "1000000000000"]
    assert main([command[0], "run", *command[1:], *options]) == 2
    told = capsys.readouterr().err
    assert "out of memory" in told and "--n 500000000000" in told and len(told.strip().splitlines()) == 3


def test_an_opaque_alpha_channel_is_no_matter(run):
    options = ["--image", str(run / "opaque.png"), "--mask", str(run / "opaque.png"), "--n", "1", "--steps", "2"]
    assert main(["edit", str(run / "run"), *options, "--out", str(run / "o.png")]) == 0


def results(run, *options):
    """What `genjax edit` drew, one picture after the other, the given one first: [n, 4, 4]."""
    out = run / "results.png"
    assert main(["edit", str(run / "run"), *options, "--n", "3", "--steps", "20", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        pixels = np.asarray(picture)[..., 0]
    side = pixels.shape[0] // 2  # 2 x 2 pictures, each magnified
    tiles = pixels.reshape(2, side, 2, side).swapaxes(1, 2).reshape(4, side, side)
    places = (np.arange(4) * (side - 2) // 4) + side // 8
    return tiles[:, places][:, :, places]


@pytest.mark.parametrize("sampler", [None, "heun"])
def test_a_picture_is_enlarged(run, sampler):
    """Of pictures that are even, given the means of four squares, each square is drawn even."""
    found = results(
        run, "--image", str(run / "small.png"), "--enlarge", "2", *(["--sampler", sampler] if sampler else [])
    )
    wanted = np.kron([[0, 85], [170, 255]], np.ones((2, 2)))
    assert np.abs(found - wanted[None]).max() <= 1


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "heun", "churn"])
def test_a_picture_is_finished_by_any_sampler(run, sampler):
    options = ["--image", str(run / "dark.png"), "--mask", str(run / "half.png"), "--sampler", sampler]
    found = results(run, *options)
    assert (found[:, :2] == 40).all() and (found[0] == 40).all()
    assert (found[1:, 2:] < 60).all()


def test_a_picture_is_freed_of_noise_and_led_to_another(run):
    """A noisy dark one is dark; a walk begins and ends with the pictures."""
    found = results(run, "--image", str(run / "dark.png"), "--noise", "0.2")
    assert (found[0] == 40).all() and (found[1:] < 3).all()
    found = results(run, "--image", str(run / "black.png"), "--to", str(run / "bright.png"))
    assert (found[1] < 3).all() and (found[3] > 252).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["sample", "--steps", "0"], "--steps 0"),
        (["sample", "--guidance", "-1"], "--guidance -1.0"),
        (["sample", "--label", "7"], "allowed: 0 to 1"),
        (["sample", "--sampler", "magic"], "allowed: ddim, ddpm, 2m, euler, heun, churn"),
        (["sample", "--sampler", "huen"], "did you mean heun?"),
        (["edit"], "no picture to edit"),
        (["edit", "--image", "dark.png", "--guidance", "2"], "without --label"),
        (["edit", "--image", "wide.png"], "5x4 with 1 channel"),
        (["edit", "--image", "none.png"], "--image: no picture at"),
        (["edit", "--image", "dark.png", "--mask", "none.png"], "--mask: no picture at"),
        (["edit", "--image", "dark.png", "--out", "dark.png"], "--out dark.png is the picture of --image"),
        (["edit", "--image", "dark.png", "--mask", "wide.png"], "wide.png is 5x4"),
        (["edit", "--image", "dark.png", "--strength", "0"], "--strength 0.0"),
        (["edit", "--image", "dark.png", "--mask", "half.png", "--strength", "0.5"], "--strength 0.5 with --mask"),
        (["edit", "--image", "small.png", "--enlarge", "2", "--strength", "1"], "--strength 1.0 with --enlarge"),
        (["edit", "--image", "clear.png"], "clear.png is 4x4 with 4 channels"),
        (["edit", "--image", "dark.png", "--mask", "clear.png"], "transparent in places"),
        (["edit", "--image", "dark.png", "--n", "0"], "--n 0"),
        (["edit", "--image", "dark.png", "--out", "x.jpg"], ".png"),
        (["edit", "--image", "dark.png", "--enlarge", "2"], "2 times enlarged from 2x2"),
        (["edit", "--image", "dark.png", "--enlarge", "3"], "allowed: 2, 4, which divide"),
        (["edit", "--image", "dark.png", "--enlarge", "1"], "--enlarge 1"),
        (["edit", "--image", "small.png", "--enlarge", "-2"], "--enlarge -2"),
        (["edit", "--image", "small.png", "--enlarge", "2", "--mask", "half.png"], "--mask with --enlarge"),
        (["edit", "--image", "dark.png", "--noise", "0.1", "--to", "half.png"], "--noise with --to"),
        (["edit", "--image", "dark.png", "--noise", "0.001"], "allowed: from 0.00785 to 1"),
        (["edit", "--image", "dark.png", "--noise", "nan"], "--noise nan"),
        (["edit", "--image", "dark.png", "--to", "wide.png"], "wide.png is 5x4"),
        (["edit", "--image", "dark.png", "--to", "half.png", "--n", "1"], "--n 1 with --to"),
        (["edit", "--image", "dark.png", "--to", "half.png", "--steps", "1"], "--steps 1 with --to"),
        (["sample", "--steps", "1000000000000"], "allowed: 1 to 100,000"),
        (["sample", "--prompt", "text", "--guidance", "2"], "--guidance 2.0 with --prompt"),
        (["edit", "--image", "small.png", "--enlarge", "2", "--steps", "0"], "--steps 0"),
        (["edit", "--image", "small.png", "--enlarge", "2", "--sampler", "2m"], "allowed: ddim, ddpm, euler"),
    ],
)
def test_refusals(run, capsys, monkeypatch, options, said):
    monkeypatch.chdir(run)
    assert main([options[0], "run", *options[1:]]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.strip().splitlines()) <= 3


def test_models_that_do_not_denoise_or_have_no_labels():
    with pytest.raises(BadInput, match="takes no --sampler"):
        sample_function(None, "run", SampleOptions(steps=5))
    plain = Denoising(rectified_flow(), lambda params, label: None, (2,), jnp.asarray, jnp.asarray)
    with pytest.raises(BadInput, match="without labels"):
        sample_function(plain, "run", SampleOptions(guidance=2.0))
    with pytest.raises(BadInput, match="fit this one"):
        sample_function(plain, "run", SampleOptions(sampler="churn"))
    assert len(grid_of(plain, STEPS)) == STEPS

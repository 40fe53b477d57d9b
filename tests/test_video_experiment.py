"""The film experiment in small: its two games, what it measures of known films, and exact resume."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from resumed import stopped_and_whole

import genjax.data.moving as moving
from genjax import Out
from genjax.data import Split, make_dataset, scaled
from genjax.fields import load
from genjax.metrics.features import pixels
from genjax.train import Options
from genjax.types import State

FILE, KEY = Path(__file__).parent.parent / "experiments" / "video_moving_mnist.py", jax.random.key(0)


@pytest.fixture
def function(monkeypatch):
    """The experiment on squares of different brightness in place of digits, 48 clips held out."""
    rng = np.random.default_rng(0)
    image = np.broadcast_to(rng.integers(100, 255, (40, 1, 1, 1)).astype(np.uint8), (40, 28, 28, 1)).copy()
    squares = make_dataset(
        "squares", {n: Split({"image": image}, scaled(256)) for n in ("train", "validation", "test")}
    )
    monkeypatch.setattr(moving, "mnist", lambda data_dir=None: squares)
    monkeypatch.setattr(moving, "HELD_OUT", 48)
    return load(FILE).function


@pytest.fixture
def file(function):
    return sys.modules[function.__module__]


def check_both(both):
    """Losses are added row by row, each game has its own key, and what is logged keeps its game's name."""

    def told(factor):
        return lambda params, state, batch, key: Out(factor * params * batch["x"], {"noise": jax.random.uniform(key)})

    out = both(told(2.0), told(5.0))(jnp.array(3.0), State(0, {}), {"x": jnp.array([1.0, 2.0])}, KEY)
    assert out.loss.tolist() == [21.0, 42.0]
    assert set(out.metrics) == {"frames_noise", "clips_noise"}
    assert out.metrics["frames_noise"] != out.metrics["clips_noise"]


def test_both(file):
    check_both(file.both)
    rejects(check_both, lambda frames, clips: frames)
    rejects(check_both, lambda frames, clips: file.both(frames, frames))


def test_frames_and_smaller_clips(file):
    x = jax.random.normal(KEY, (3, 5, 4, 4, 1))
    times = jnp.array([4, 0, 2])
    np.testing.assert_array_equal(file.at(x, times), np.stack([x[0, 4], x[1, 0], x[2, 2]]))
    np.testing.assert_array_equal(file.at(x[..., 0, 0, 0], times), np.stack([x[0, 4], x[1, 0], x[2, 2]])[:, 0, 0, 0])
    np.testing.assert_allclose(file.smaller(x)[1, 3, 1, 0, 0], x[1, 3, 2:4, 0:2, 0].mean(), rtol=1e-6)


def check_measures(against, clips):
    """Real clips are near; shuffled frames are as real as before, but do not move so; still ones and grey are far."""
    half, other = clips[::2], clips[1::2]
    near = against(half, other, pixels())
    order = np.random.default_rng(1).permuted(np.broadcast_to(np.arange(16), (len(other), 16)), axis=1)
    shuffled = against(half, np.take_along_axis(other, order[..., None, None, None], axis=1), pixels())
    still = against(half, other[:, :1].repeat(16, axis=1), pixels())
    grey = against(half, np.full_like(other, 0.5), pixels())
    assert near["speed"] < 0.1 and near["turn"] < 0.1
    assert shuffled["speed"] > 0.5 and shuffled["turn"] > 0.5 and shuffled["flicker"] == near["flicker"]
    assert shuffled["frechet"] < 1.5 * near["frechet"]
    assert still["speed"] > 0.9 and grey["frechet"] > 2 * near["frechet"]


def test_what_is_measured_of_known_films(file, monkeypatch):
    monkeypatch.setattr(moving, "HELD_OUT", 400)
    clips = np.asarray(moving.moving_mnist(digits=1).test.arrays["clip"]) / 255
    check_measures(file.against, clips)
    rejects(check_measures, lambda x, y, net: file.against(x, x, net), clips)
    rejects(check_measures, lambda x, y, net: file.against(x[:, ::2], y, net), clips)
    rejects(check_measures, lambda x, y, net: file.against(x, np.sort(y, axis=1), net), clips)


@pytest.mark.slow
def test_exact_resume_and_results(function, file, monkeypatch, tmp_path):
    """A run that is stopped twice is the whole one, bit for bit, with two critics, an average and moving data."""
    monkeypatch.setattr(file, "JUDGED", 48)
    make = lambda: function(content=3, motion_units=4, width=4, steps=6, batch_size=4)
    every = Options(checkpoint_every=3, log_every=6, evaluate_every=6)
    assert stopped_and_whole(make, tmp_path, every, 5) >= 1
    experiment = make()
    [stage] = experiment.stages
    state = stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0))
    film = experiment.files["clips.gif"]
    assert film.encode(np.asarray(film.draw(state, KEY)))[:6] == b"GIF89a"
    assert experiment.sample(state, KEY, 2).shape == (2, 33, 16 * 33, 1)

"""The experiments on chorales, on toy rolls: what is counted, what padding does, what a sample is."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from toy_data import FRAMES, rolls

import genjax.data
from genjax.errors import BadInput
from genjax.fields import load
from genjax.types import State

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
KEY = jax.random.key(0)


def loaded(monkeypatch, name, fill=0, **options):
    monkeypatch.setattr(genjax.data, "jsb_chorales", lambda: rolls(fill))
    load(EXPERIMENTS / f"{name}.py")
    return sys.modules[f"experiment_{name}"].experiment(**options)


OPTIONS = {
    "music_chorales": {"network": "tcn", "levels": 1, "taps": 2, "steps": 30, "frames": 5, "learning_rate": 0.005},
    "rnn_nade_chorales": {"width": 8, "units": 4, "steps": 30, "frames": 5, "batch_size": 4, "learning_rate": 0.02},
    "rnn_rbm_chorales": {
        "width": 8,
        "hidden": 3,
        "k": 2,
        "steps": 30,
        "frames": 5,
        "batch_size": 4,
        "learning_rate": 0.02,
    },
}


def started(experiment):
    stage = experiment.stages[0]
    batch = stage.data.batch(stage.data.resident, KEY, 0)
    return jax.jit(stage.learner.init)(KEY, batch)


def measured(experiment, state, change=lambda measures, batch: measures):
    evaluation = experiment.evaluations["test"]
    batch = {field: jnp.asarray(array) for field, array in evaluation.split.arrays.items()}
    return {name: np.float64(x) for name, x in change(jax.jit(evaluation.measure)(state, batch, KEY), batch).items()}


def check_measures(monkeypatch, name, change=lambda measures, batch: measures):
    """Frames are counted without padding, and what stands behind the end of a roll changes no number."""
    experiment = loaded(monkeypatch, name, **OPTIONS[name])
    state = started(experiment)
    found = measured(experiment, state, change)
    other = loaded(monkeypatch, name, fill=1, **OPTIONS[name])
    again = measured(other, state, change)
    lengths = rolls().test.arrays["length"]
    np.testing.assert_array_equal(found["frames"], lengths - (1 if name == "music_chorales" else 0))
    np.testing.assert_allclose(found["nll"], again["nll"], rtol=1e-5)
    per_frame = found["nll"] / found["frames"]
    assert 5 < per_frame.min() and per_frame.max() < 60  # untrained, about 88 notes that sound once in 21 frames


@pytest.mark.parametrize("name", OPTIONS)
def test_measures(monkeypatch, name):
    check_measures(monkeypatch, name)


def test_measures_reject(monkeypatch):
    all_frames = lambda measures, batch: {**measures, "frames": 0 * batch["length"] + FRAMES}
    played = lambda measures, batch: {**measures, "nll": measures["nll"] + batch["roll"].sum((1, 2))}
    for planted in (all_frames, played):
        rejects(check_measures, monkeypatch, "rnn_nade_chorales", planted)


def test_factorised_baseline(monkeypatch):
    """Marginals of the training frames, one added to both counts, over frames 2, 3, ...: in float64 by loops."""
    experiment = loaded(monkeypatch, "music_chorales", **OPTIONS["music_chorales"])
    data, found = rolls(), measured(experiment, started(experiment))
    rows = lambda split: zip(split.arrays["roll"], split.arrays["length"], strict=True)
    frames = np.concatenate([roll[:length] for roll, length in rows(data.train)])
    p = (frames.sum(0) + 1) / (len(frames) + 2)
    expected = [-np.log(np.where(roll[1:length], p, 1 - p)).sum() for roll, length in rows(data.test)]
    np.testing.assert_allclose(found["factorised"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_training_and_samples(monkeypatch, name):
    """Thirty updates lower the loss; samples are rolls; in music_chorales they begin as training pieces do."""
    experiment = loaded(monkeypatch, name, **OPTIONS[name])
    stage, state = experiment.stages[0], started(experiment)
    before = measured(experiment, state)

    @jax.jit
    def update(state):
        return stage.learner.update(state, stage.data.batch(stage.data.resident, KEY, state.step), KEY)[0]

    for _ in range(stage.steps):
        state = update(state)
    assert measured(experiment, state)["nll"].sum() < 0.98 * before["nll"].sum()
    drawn = np.asarray(jax.jit(experiment.sample, static_argnums=2)(state, KEY, 3))
    assert drawn.shape == (3, 5, 88) and drawn.dtype == np.uint8 and set(np.unique(drawn)) == {0, 1}
    if name == "music_chorales":
        firsts = {first.tobytes() for first in rolls().train.arrays["roll"][:, 0]}
        assert {roll[0].tobytes() for roll in drawn} <= firsts
    assert experiment.formats[".mid"](drawn)[:4] == b"MThd"
    (draw,) = experiment.pictures.values()
    pictures = jax.eval_shape(draw, state, KEY)
    assert pictures.shape == (2, 6, 2 * 88, 2 * 5, 1)


SIZES = [("tcn", 269_938), ("rnn", 297_512), ("gru", 295_188), ("lstm", 295_792)]


@pytest.mark.parametrize("network, parameters", SIZES)
def test_parameters(monkeypatch, network, parameters):
    """Each network has 270,000 to 300,000 parameters, as in the paper's comparison."""
    experiment = loaded(monkeypatch, "music_chorales", network=network)
    stage = experiment.stages[0]
    batch = jax.eval_shape(stage.data.batch, stage.data.resident, KEY, 0)
    state = jax.eval_shape(stage.learner.init, KEY, batch)
    assert isinstance(state, State) and sum(leaf.size for leaf in jax.tree.leaves(state.params)) == parameters


def test_independent_notes_on_the_chorales():
    """The published split, where it is prepared: 11.09 nats a frame of the test split, 4,725 frames but for 77."""
    try:
        data = genjax.data.jsb_chorales()
    except BadInput:
        pytest.skip("jsb_chorales is not prepared")
    rows = lambda split: zip(split.arrays["roll"], split.arrays["length"], strict=True)
    frames = np.concatenate([roll[:length] for roll, length in rows(data.train)])
    p = (frames.sum(0) + 1) / (len(frames) + 2)
    later = np.concatenate([roll[1:length] for roll, length in rows(data.test)])
    assert (len(frames), len(later)) == (13_807, 4_725 - 77)
    assert round(-np.log(np.where(later, p, 1 - p)).sum() / len(later), 2) == 11.09

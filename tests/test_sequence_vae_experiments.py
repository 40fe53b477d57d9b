"""The experiments of sequence VAEs on toy data: what is counted, what padding does, what is drawn and written."""

import io
import sys
import wave
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from toy_data import FRAMES, rolls

import genjax.data
from genjax.data import Split, make_dataset, wide_tokens
from genjax.data.texts import LETTERS, name_rows
from genjax.errors import BadInput
from genjax.fields import load
from genjax.report.wav import wav_file

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
KEY = jax.random.key(0)


def names(fill):
    """Thirty names; behind the token that ends a name stands `fill`."""
    rows = name_rows([("anna", "bo", "maximilian")[i % 3] + LETTERS[1 + i % 5] for i in range(30)], "toy")
    behind = np.arange(17)[None] > rows["length"][:, None]
    split = Split({**rows, "tokens": np.where(behind, fill, rows["tokens"]).astype(np.uint8)}, wide_tokens)
    return make_dataset("toy", dict.fromkeys(("train", "validation", "test"), split), levels=27, vocabulary=LETTERS)


TOYS = {
    "dmm_chorales": (
        "jsb_chorales",
        rolls,
        1,
        "frames",
        {"transition": 4, "emission": 4, "frames": 5, "batch_size": 4},
    ),
    "vae_text": ("names", names, 26, "letters", {"embedding": 4, "batch_size": 8}),
}


def loaded(monkeypatch, name, fill=0, **options):
    reader, toy, _, _, own = TOYS[name]
    monkeypatch.setattr(genjax.data, reader, lambda: toy(fill))
    load(EXPERIMENTS / f"{name}.py")
    small = {"latents": 2, "width": 8, "warm_up": 5, "steps": 20, "samples": 20, "learning_rate": 0.01, **own}
    return sys.modules[f"experiment_{name}"].experiment(**{**small, **options})


def started(experiment):
    stage = experiment.stages[0]
    return jax.jit(stage.learner.init)(KEY, stage.data.batch(stage.data.resident, KEY, 0))


def measured(experiment, state):
    evaluation = experiment.evaluations["test"]
    arrays = {field: jnp.asarray(array) for field, array in evaluation.split.arrays.items()}
    prepared = evaluation.split.prepare(arrays, KEY)
    return {name: np.float64(x) for name, x in jax.jit(evaluation.measure)(state, prepared, KEY).items()}


def check_measures(found, again, count, lengths):
    """Steps are counted without padding, whose content changes nothing; more samples make the bound no looser."""
    np.testing.assert_array_equal(found[count], lengths)
    for name in found:
        np.testing.assert_allclose(found[name], again[name], rtol=1e-4, atol=1e-4)
    assert np.all(found["rate"] > 0)
    assert found["neg_iwae"].mean() < found["neg_elbo"].mean()


@pytest.mark.parametrize("name", TOYS)
def test_measures_training_and_files(monkeypatch, name):
    _, toy, rubbish, count, _ = TOYS[name]
    experiment = loaded(monkeypatch, name)
    stage, state = experiment.stages[0], started(experiment)
    found = measured(experiment, state)
    again = measured(loaded(monkeypatch, name, fill=rubbish), state)
    lengths = toy(0).test.arrays["length"]
    check_measures(found, again, count, lengths)
    rejects(check_measures, {**found, count: 0 * lengths + FRAMES}, again, count, lengths)
    rejects(check_measures, {**found, "neg_iwae": found["neg_elbo"] + 1.0}, again, count, lengths)
    rejects(check_measures, found, {**again, "rate": 2.0 * again["rate"]}, count, lengths)

    @jax.jit
    def update(state):
        return stage.learner.update(state, stage.data.batch(stage.data.resident, KEY, state.step), KEY)[0]

    for _ in range(stage.steps):
        state = update(state)
    assert measured(experiment, state)["neg_elbo"].sum() < found["neg_elbo"].sum()
    samples = np.asarray(jax.jit(experiment.sample, static_argnums=2)(state, KEY, 3))
    assert samples.shape == ((3, 5, 88) if name == "dmm_chorales" else (3, 17))
    for encode in experiment.formats.values():
        assert encode(samples)
    for file in experiment.files.values():
        told = file.encode(jax.device_get(jax.jit(file.draw)(state, KEY))).decode()
        assert "collapse" in told.splitlines()[0] or " -> " in told.splitlines()[0]


def check_collapse(experiment, told):
    """A posterior that cannot see x is a collapse, however far from the prior; one that can is none."""
    file, state = experiment.files["diagnostics.txt"], started(experiment)
    blind = {
        "params": {**state.params["params"], "reader": jax.tree.map(jnp.zeros_like, state.params["params"]["reader"])}
    }
    seeing = jax.device_get(jax.jit(file.draw)(state, KEY))
    nothing = jax.device_get(jax.jit(file.draw)(state._replace(params=blind), KEY))
    assert nothing[1].min() > 0.01  # the rate of every latent does not show it
    assert told(*seeing).startswith(b"no posterior collapse")
    assert told(*nothing).startswith(b"warning: posterior collapse: none of 2 latents")
    assert b"active_units 0 of 2" in told(*nothing)
    np.testing.assert_allclose(nothing[0], 0.0, atol=1e-9)


def test_a_blind_posterior_is_a_collapse(monkeypatch):
    experiment = loaded(monkeypatch, "dmm_chorales")
    told = sys.modules["experiment_dmm_chorales"].told
    check_collapse(experiment, told)
    rejects(check_collapse, experiment, lambda spread, rates: told(rates, rates))  # the rate for the activity


def check_spread(spread):
    """The variance of what is read, frame by frame, without padding and without what z_{t-1} adds to the mean."""
    rng = np.random.default_rng(0)
    read, before = rng.normal(size=(40, 6, 2)), 5.0 * rng.normal(size=(6, 2))
    mask = np.arange(6)[None] < rng.integers(1, 6, 40)[:, None]  # the last frame is padding in all
    read[:, :, 1] += 10.0 * np.arange(6)  # moves from frame to frame, which tells nothing of x
    each = [mask[:, t].sum() * read[mask[:, t], t].var(axis=0) for t in range(5)]
    found = spread(
        lambda z, r: (z + r, None), jnp.float32(before), jnp.float32(np.where(mask[..., None], read, 99.0)), mask
    )
    np.testing.assert_allclose(found, np.sum(each, axis=0) / mask.sum(), rtol=1e-4)


def test_spread_of_the_chain(monkeypatch):
    loaded(monkeypatch, "dmm_chorales")
    spread = sys.modules["experiment_dmm_chorales"].spread
    check_spread(spread)
    rejects(check_spread, lambda posterior, z, r, mask: spread(posterior, z, r, np.ones_like(mask)))
    over_time = lambda posterior, z, r, mask: jnp.var(posterior(z[None], r)[0], axis=(0, 1), where=mask[..., None])
    rejects(check_spread, over_time)  # over frames too


def test_word_dropout_out_of_range(monkeypatch):
    experiment = loaded(monkeypatch, "vae_text", word_dropout=1.5)
    stage = experiment.stages[0]
    with pytest.raises(BadInput, match=r"word dropout = 1\.5"):
        batch = jax.eval_shape(stage.data.batch, stage.data.resident, KEY, 0)
        state = jax.eval_shape(stage.learner.init, KEY, batch)
        jax.eval_shape(stage.learner.update, state, batch, KEY)


@pytest.mark.parametrize("name", ["vae_text", "dmm_chorales"])
def test_warm_up_longer_than_training(monkeypatch, name):
    with pytest.raises(BadInput, match="warm_up = 30\nallowed: 0 to 20"):
        loaded(monkeypatch, name, warm_up=30)
    loaded(monkeypatch, name, warm_up=30, steps=0)  # nothing is trained


def check_pairs(draw):
    """Every held-out name, and what the decoder makes of its mean: a step of training away from another state's."""
    given, found = draw()
    assert given.shape[0] == found.shape[0] == 24
    assert [row.tolist() for row in given] == names(0).validation.arrays["tokens"][:24].tolist()
    assert np.ptp(found, axis=0).max() > 0  # names of different means differ


def test_reconstructed_names(monkeypatch):
    experiment = loaded(monkeypatch, "vae_text")
    file, state = experiment.files["reconstructions.txt"], started(experiment)
    loud = jax.tree.map(lambda leaf: 3.0 * leaf, state.params)
    draw = lambda params: jax.device_get(jax.jit(file.draw)(state._replace(params=params), KEY))
    arrays = draw(loud)
    check_pairs(lambda: arrays)
    rejects(check_pairs, lambda: arrays[::-1])
    rejects(check_pairs, lambda: (arrays[0], draw(jax.tree.map(jnp.zeros_like, loud))[1]))
    lines = file.encode(arrays).decode().splitlines()
    assert len(lines) == 24 and lines[0].startswith("annaa -> ")
    walks = experiment.files["walks.txt"]
    starts = jax.device_get(jax.jit(walks.draw)(state._replace(params=loud), KEY))[1][::8]
    np.testing.assert_array_equal(starts, arrays[1][:12])  # each walk starts where its name is reconstructed


def test_spoken_digits(tmp_path):
    """Every file of the experiment is written from its untrained state; the sounds are as long as they should be."""
    for digit in range(10):
        for take in (0, 5, 10, 11):
            sine = np.sin(2 * np.pi * (300 + 100 * digit + take) / 8_000 * np.arange(1_000))
            (tmp_path / f"{digit}_ann_{take}.wav").write_bytes(wav_file(sine))
    load(EXPERIMENTS / "vae_audio.py")
    module = sys.modules["experiment_vae_audio"]
    small = {"latents": 2, "channels": 2, "width": 4, "frames": 16, "batch_size": 4, "steps": 5, "warm_up": 2}
    experiment = module.experiment(str(tmp_path), **small)
    state = started(experiment)
    for name, count in (("samples.wav", 8), ("reconstructions.wav", 16), ("interpolation.wav", 8)):
        file = experiment.files[name]
        with wave.open(io.BytesIO(file.encode(jax.device_get(jax.jit(file.draw)(state, KEY))))) as sound:
            assert sound.getparams()[:3] == (1, 2, 8_000)
            assert sound.getnframes() == count * 16 * 64 + (count - 1) * 2_000
    walk = np.asarray(jax.jit(experiment.pictures["interpolation"])(state, KEY))
    pairs = np.asarray(jax.jit(experiment.pictures["reconstructions"])(state, KEY))[1]
    np.testing.assert_allclose(
        walk.reshape(4, 8, *walk.shape[1:])[:, [0, -1]].swapaxes(0, 1).reshape(pairs.shape), pairs, atol=1e-5
    )
    found = measured(experiment, state)
    np.testing.assert_allclose(found["bits"] * np.log(2), found["neg_elbo"], rtol=1e-5)
    np.testing.assert_array_equal(found["pixels"], np.full(10, 128 * 16))
    with pytest.raises(BadInput, match="does not exist"):
        module.experiment(str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="frames = 81"):
        module.experiment(str(tmp_path), frames=81)
    with pytest.raises(BadInput, match="warm_up = 6\nallowed: 0 to 5"):
        module.experiment(str(tmp_path), warm_up=6, steps=5)

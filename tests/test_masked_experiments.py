"""Masked diffusion of pixels and of characters, as experiments on toy data: objective, measures, samples."""

import math

import jax
import numpy as np
import pytest
from test_gpt_experiments import blank
from test_gpt_experiments import small as small_text
from test_gpt_experiments import trained as trained_text
from test_image_ar_experiments import function, trained
from toy_data import TEXT, bars, text

import genjax.data
from genjax import parallel
from genjax.evaluate import evaluator

KEY = jax.random.key(0)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(genjax.data, "binarized_mnist", bars)
    monkeypatch.setattr(genjax.data, "tiny_shakespeare", text)


def test_pixels(offline):
    """The loss falls, the three estimates of the bound agree, samples are binary, the upper half stays."""
    experiment = function("masked_mnist")(hidden=(32,), steps=300, batch_size=20, k=16, summed=20, average=0.9)
    first, last, state = trained(experiment, 150)
    assert last < first - 50
    mean = parallel.mesh(1)
    found = {name: evaluator(experiment.evaluations[name], mean)(state, KEY) for name in ("test", "summed")}
    test = found["test"]
    error = math.hypot(test["neg_elbo"].standard_error, test["neg_elbo_time"].standard_error)
    assert abs(test["neg_elbo"].value - test["neg_elbo_time"].value) < 4 * error
    assert found["summed"]["neg_elbo"].count == 25 and test["neg_elbo"].count == 50
    assert abs(found["summed"]["neg_elbo"].value - test["neg_elbo"].value) < 4 * (
        error + found["summed"]["neg_elbo"].standard_error
    )
    images = np.asarray(jax.jit(experiment.sample, static_argnums=2)(state, KEY, 2))
    assert images.shape == (2, 28, 28, 1) and np.isin(images, (0, 1)).all()
    start, done = np.asarray(jax.jit(experiment.pictures["lower_half"])(state, KEY))
    np.testing.assert_array_equal(start[:, :14], done[:, :14])
    assert (start[:, 14:] == 0.5).all() and np.isin(done, (0, 1)).all()
    moments = np.asarray(jax.jit(experiment.pictures["trajectory"])(state, KEY)).reshape(8, 8, -1)
    assert ((moments == 0.5).sum(axis=2) == 784 - np.array([49, 98, 196, 294, 392, 490, 588, 784])).all()


def test_a_convolutional_network(offline):
    experiment = function("masked_mnist")(network="unet", width=4, steps=10, batch_size=2)
    first, last, _ = trained(experiment, 2)
    assert np.isfinite([first, last]).all()
    assert first == pytest.approx(785 * math.log(2), rel=1e-4)  # its untrained output is 0: (D + 1) log 2


def test_characters(offline):
    """An untrained network's bound is log 10 a character; every window is measured; what is known stays."""
    experiment = small_text("masked_text", context=8, k=8, average=0.9, batch_size=32, width=32)
    first, last, state = trained_text(experiment, 400)
    shares = np.unique(list(TEXT), return_counts=True)[1] / len(TEXT)
    alone = -np.sum(shares * np.log(shares))  # of characters without their neighbours
    assert abs(first - math.log(10)) < 0.3 and last < alone - 0.3
    measure = evaluator(experiment.evaluations["validation"], parallel.mesh(1))
    guess = measure(blank(state), KEY)
    assert guess["nats"].value == pytest.approx(math.log(10), rel=1e-5)
    assert guess["bits"].value == pytest.approx(math.log2(10), rel=1e-5)
    assert guess["nats"].count == (len(TEXT) // 10 - 1) // 8
    assert measure(state, KEY)["nats"].value < alone - 0.3
    rows = np.asarray(jax.jit(experiment.sample, static_argnums=2)(state, KEY, 4))
    assert rows.shape == (4, 9) and rows.min() >= 0 and rows.max() < 10
    true, start, filled = np.asarray(jax.jit(experiment.files["completed.txt"].draw)(state, KEY))
    known = start < 10
    assert known.any() and not known.all() and (true[known] == filled[known]).all() and filled.max() < 10
    trail = experiment.files["trajectory.txt"].encode(np.asarray(experiment.files["trajectory.txt"].draw(state, KEY)))
    assert trail.decode().splitlines()[0].count("_") == 8 and trail.decode().splitlines()[6].count("_") == 0

"""Two sets against each other: which rows are normal, the area by counting pairs, a case that most scores solve."""

import numpy as np
import pytest

from genjax.averages import averaged
from genjax.data import Split, make_dataset, scaled
from genjax.errors import BadInput
from genjax.fields import build, load

RNG = np.random.default_rng(0)


def squares(rows):  # one grey square in a corner, in all images
    images = np.zeros((rows, 28, 28, 1), np.uint8)
    images[:, 4:12, 4:12] = 120
    return images + RNG.integers(0, 4, images.shape, np.uint8)


def noise(rows):
    return RNG.integers(0, 256, (rows, 28, 28, 1)).astype(np.uint8)


@pytest.fixture
def loaded(request, monkeypatch):
    found = load(request.config.rootpath / "experiments" / "anomaly_mnist.py")
    names = found.function.__globals__
    for name, images in (("fashion_mnist", squares), ("mnist", noise)):
        splits = {
            part: Split({"image": images(rows)}, scaled(256))
            for part, rows in (("train", 60), ("validation", 30), ("test", 40))
        }
        monkeypatch.setitem(names, name, lambda name=name, splits=splits: make_dataset(name, splits))
    return found


def made(loaded, **change):
    values = {field.name: field.default for field in loaded.fields}
    small = {"width": 32, "latents": 4, "steps": 40, "batch_size": 20, "judged": 20, "samples": 4, "fitting": 5}
    return build(loaded, {**values, **small, **change})


def test_the_area_is_the_share_of_pairs(loaded):
    area = loaded.function.__globals__["area"]
    normal, anomalous = RNG.normal(size=30).round(1), (0.5 + RNG.normal(size=40)).round(1)
    pairs = (anomalous[:, None] > normal[None]) + 0.5 * (anomalous[:, None] == normal[None])
    assert area(normal, anomalous)[0] == pytest.approx(pairs.mean(), abs=1e-6)
    assert area(anomalous, normal)[0] == pytest.approx(1 - pairs.mean(), abs=1e-6)


def test_one_anomaly_has_no_error_and_more_than_there_are_are_not_promised(loaded):
    for judged in (1, 10_001):
        with pytest.raises(BadInput, match="--judged"):
            made(loaded, judged=judged)


def test_rows_are_normal_anomalous_or_for_the_mean(loaded):
    split = made(loaded).evaluations["auroc"].split
    assert np.bincount(split.arrays["set"]).tolist() == [20, 20, 30]
    means = [split.arrays["image"][split.arrays["set"] == i].mean() for i in range(3)]
    assert means[1] > 100 > 20 > means[0] and abs(means[2] - means[0]) < 1
    swapped = made(loaded, normal="mnist").evaluations["auroc"].split
    assert swapped.arrays["image"][swapped.arrays["set"] == 0].mean() > 100


@pytest.mark.slow
def test_noise_is_found_among_squares_by_every_score_that_looks_at_it(loaded):
    import jax

    experiment = made(loaded, steps=150)
    stage, one = experiment.stages[0], experiment.evaluations["auroc"]
    feed, key = stage.data.resident, jax.random.key(0)
    state = jax.jit(stage.learner.init)(key, stage.data.batch(feed, key, 0))
    update = jax.jit(lambda state, step: stage.learner.update(state, stage.data.batch(feed, key, step), key)[0])
    for step in range(150):
        state = update(state, step)
    seen = state._replace(params=averaged(state.params, state.opt_state))
    batch = one.split.prepare({name: array for name, array in one.split.arrays.items()}, key)
    rows = {name: np.asarray(array) for name, array in jax.jit(one.measure)(seen, batch, key).items()}
    found = {name: value for name, (value, _) in one.of_all(rows).items()}
    assert min(found[name] for name in ("neg_iwae", "typicality", "reconstruction", "complexity")) > 0.99
    assert found["size"] < 0.01  # noise is the largest PNG: the size knows its own simplicity only
    assert rows["regret"].mean() > 0  # its own q(z | x) suits an image better than the encoder's
    swapped = {**rows, "set": np.array([1, 0, 2])[rows["set"]]}
    assert one.of_all(swapped)["neg_iwae"][0] < 0.01  # normal and anomalous exchanged

"""Evaluation is the mean over the examples of a split, whatever the batch size, and its error is the standard one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import rejects

from genjax import BadInput, Evaluation, Out, Quantity, State, ema, minimize, parallel
from genjax.data import Split
from genjax.errors import NonFinite
from genjax.evaluate import evaluator

VALUES = np.random.default_rng(3).normal(80.0, 5.0, size=37).astype(np.float32)
SPLIT = Split({"x": VALUES}, lambda rows, key: rows)
STATE = State(jnp.int32(0), {"shift": jnp.float32(1.0)})


def shifted(state, batch, key):
    return {"value": batch["x"] + state.params["shift"]}


def run(measure, batch_size, state=STATE, split=SPLIT):
    evaluation = Evaluation(measure, split, batch_size, {"value": Quantity("exact")})
    return evaluator(evaluation, parallel.mesh(1))(state, jax.random.key(0))


@pytest.mark.parametrize("batch_size", [1, 5, 36, 37, 1000])
def test_the_mean_and_its_error_are_numpys(batch_size):
    measured = run(shifted, batch_size)["value"]
    exact = VALUES.astype(np.float64) + 1.0
    np.testing.assert_allclose(measured.value, exact.mean(), rtol=1e-6)
    np.testing.assert_allclose(measured.standard_error, exact.std(ddof=1) / np.sqrt(37), rtol=1e-4)
    assert measured.count == 37


def test_a_mean_of_batch_means_would_be_seen():
    """The planted bug of a ragged last batch: 8 batches of 5, the last of 2, weighed alike."""
    wrong = np.mean([VALUES[i : i + 5].mean() for i in range(0, 37, 5)]) + 1.0
    assert abs(run(shifted, 5)["value"].value - wrong) > 1e-3


def test_what_padding_rows_measure_does_not_count():
    def poisoned(state, batch, key):
        first = jnp.arange(batch["x"].shape[0]) == 0
        return {"value": jnp.where((batch["x"] == VALUES[30]) & ~first, jnp.inf, batch["x"])}

    # the last batch of 10 holds rows 30..36 and pads with row 30, whose copies measure infinity
    np.testing.assert_allclose(run(poisoned, 10)["value"].value, VALUES.mean(dtype=np.float64), rtol=1e-6)


def test_the_average_is_what_is_measured():
    tx = ema(0.5)
    learner = minimize(
        lambda p, s, b, k: Out(p["shift"] ** 2),
        optax.chain(optax.sgd(0.1), tx),
        lambda k, b: {"shift": jnp.float32(1.0)},
    )
    batch = {"x": jnp.zeros(2)}
    state = learner.init(jax.random.key(0), batch)
    for _ in range(2):
        state, _ = learner.update(state, batch, jax.random.key(0))
    visited = 0.8, 0.64
    average = (0.5 * visited[0] + visited[1]) / 1.5
    np.testing.assert_allclose(
        run(shifted, 37, state)["value"].value, VALUES.mean(dtype=np.float64) + average, rtol=1e-6
    )


def test_noise_of_an_evaluation_repeats():
    noisy = lambda state, batch, key: {"value": batch["x"] + jax.random.normal(key, batch["x"].shape)}
    assert run(noisy, 10) == run(noisy, 10)
    assert run(noisy, 10)["value"].value != run(shifted, 10)["value"].value


def test_a_mean_instead_of_one_number_per_example_is_refused():
    with pytest.raises(BadInput, match="one number per example"):
        run(lambda state, batch, key: {"value": jnp.mean(batch["x"])}, 10)


def test_a_mean_that_is_not_finite_is_named():
    with pytest.raises(NonFinite, match="value is nan"):
        run(lambda state, batch, key: {"value": jnp.where(batch["x"] == VALUES[3], jnp.nan, batch["x"])}, 10)


# --- a value per frame: the ratio of two sums ------------------------------------------------------------------------

FRAMES = np.random.default_rng(4).integers(1, 60, size=37).astype(np.float32)
SONGS = Split({"nats": FRAMES * 8.0 + np.sqrt(FRAMES) * (VALUES - 80.0), "frames": FRAMES}, lambda rows, key: rows)


def per_frame(state, batch, key):
    return {"value": batch["nats"], "frames": batch["frames"]}


def measure_songs(batch_size, measure=per_frame, per="frames"):
    evaluation = Evaluation(measure, SONGS, batch_size, {"value": Quantity("exact", "nats/frame", per=per)})
    return evaluator(evaluation, parallel.mesh(1))(STATE, jax.random.key(0))["value"]


@pytest.mark.parametrize("batch_size", [1, 5, 37, 100])
def test_a_value_per_frame_is_a_ratio_of_sums_with_its_error(batch_size):
    nats, frames = (np.asarray(SONGS.arrays[name], np.float64) for name in ("nats", "frames"))
    ratio = nats.sum() / frames.sum()
    residuals = nats - ratio * frames
    error = np.sqrt(np.sum(residuals**2) / (37 * 36)) / frames.mean()
    measured = measure_songs(batch_size)
    np.testing.assert_allclose(measured.value, ratio, rtol=1e-6)
    np.testing.assert_allclose(measured.standard_error, error, rtol=1e-4)
    assert measured.count == 37
    means = (nats / frames).mean()
    assert abs(measured.value - means) > 1e-2, "the planted bug, a mean of the songs' own means, would not be seen"


def test_the_error_of_a_ratio_is_that_of_its_jackknife():
    """An independent estimate: leave one song out (Quenouille 1956); equal to order 1/N."""
    nats, frames = (np.asarray(SONGS.arrays[name], np.float64) for name in ("nats", "frames"))
    left = (nats.sum() - nats) / (frames.sum() - frames)
    jackknife = np.sqrt(36 / 37 * np.sum((left - left.mean()) ** 2))
    np.testing.assert_allclose(measure_songs(10).standard_error, jackknife, rtol=0.1)


def test_a_count_that_is_not_measured_is_named():
    with pytest.raises(BadInput, match="frames"):
        measure_songs(10, measure=lambda state, batch, key: {"value": batch["nats"]})


def test_a_ratio_to_nothing_is_no_number():
    with pytest.raises(NonFinite, match="value"):
        measure_songs(10, measure=lambda s, batch, k: {"value": batch["nats"], "frames": 0.0 * batch["frames"]})


def test_an_error_that_all_examples_share_is_added_in_squares():
    """log Z + x with log Z known within 3: sqrt(error of the mean of x squared + 9)."""
    shared = lambda s, batch, k: shifted(s, batch, k) | {"sure": jnp.full_like(batch["x"], 3.0)}
    alone = run(shifted, 10)["value"].standard_error
    evaluation = Evaluation(shared, SPLIT, 10, {"value": Quantity("estimate", error="sure")})
    found = evaluator(evaluation, parallel.mesh(1))(STATE, jax.random.key(0))["value"]
    assert found.standard_error == pytest.approx(np.hypot(alone, 3.0), rel=1e-6) and alone > 0
    with pytest.raises(BadInput, match="sure"):
        evaluator(evaluation._replace(measure=shifted), parallel.mesh(1))(STATE, jax.random.key(0))


def check_set(collect):
    """The median of all rows and none of the padding, whatever the batch size; a told error; noise that repeats."""
    rows = lambda state, batch, key: {"x": batch["x"][:, None] + state.params["shift"]}
    for size in (1, 10, 37, 64):
        named = {"value": Quantity("median"), "spread": Quantity("range", "")}
        evaluation = Evaluation(rows, SPLIT, size, named, of_all=collect)
        found = evaluator(evaluation, parallel.mesh(1))(STATE, jax.random.key(0))
        np.testing.assert_allclose(found["value"].value, np.median(VALUES) + 1.0, rtol=1e-6)
        np.testing.assert_allclose(found["spread"].value, np.ptp(VALUES), rtol=1e-5)
        assert (found["value"].standard_error, found["spread"].standard_error) == (0.25, 0.0)
        assert [*found] == ["value", "spread"] and found["value"].count == 37


def collect(rows):
    assert rows["x"].shape == (37, 1)
    return {"spread": np.ptp(rows["x"]), "value": (np.median(rows["x"]), 0.25)}


def test_a_measure_of_a_set():
    check_set(collect)
    rejects(check_set, lambda rows: collect(rows) | {"value": np.median(rows["x"])})  # no error
    rejects(check_set, lambda rows: collect({"x": rows["x"][::-1][:30]}))
    rejects(check_set, lambda rows: collect(rows) | {"spread": rows["x"].std()})


@pytest.mark.parametrize(
    ("told", "measure", "of_all"),
    [
        ("a row for each of the 10", lambda s, batch, k: {"x": jnp.mean(batch["x"])}, collect),
        ("with every name", shifted, lambda rows: {"other": 1.0}),
    ],
)
def test_a_measure_of_a_set_that_does_not_fit_is_refused(told, measure, of_all):
    evaluation = Evaluation(measure, SPLIT, 10, {"value": Quantity("median")}, of_all=of_all)
    with pytest.raises(BadInput, match=told):
        evaluator(evaluation, parallel.mesh(1))(STATE, jax.random.key(0))


def test_a_measure_of_a_set_that_is_not_finite_is_named():
    evaluation = Evaluation(shifted, SPLIT, 10, {"value": Quantity("x")}, of_all=lambda rows: {"value": np.nan})
    with pytest.raises(NonFinite, match="value is nan"):
        evaluator(evaluation, parallel.mesh(1))(STATE, jax.random.key(0))

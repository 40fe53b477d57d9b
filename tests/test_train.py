"""The loop: exact resume of every kind of run, one compilation a stage, and what ends a run early."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from planted import rejects

from genjax import Experiment, Out, Stage, compilation, minimize, repeat
from genjax.checkpoint import Identity, open_store, seals
from genjax.errors import BadInput, NonFinite, Preempted
from genjax.train import Options, Outlets, train

RUNS = {
    "plain": (toys.plain, {}),
    "several updates a call": (toys.plain, {"steps_per_call": 7}),
    "adversarial": (toys.adversarial, {}),
    "persistent chains": (toys.persistent, {}),
    "growing": (toys.growing, {}),
    "synthetic": (toys.synthetic, {}),
    "fetched": (toys.fetched, {}),
}
EVERY = Options(checkpoint_every=10, log_every=5, evaluate_every=20)


class Recorder:
    """The outlets of a run: what it said, and a request to stop after so many calls."""

    def __init__(self, directory, stop_after=None):
        directory.mkdir(exist_ok=True)
        self.rows, self.sealed, self.calls, self.stop_after = [], [], 0, stop_after
        self.begun, self.costs = [], []
        identity = Identity("run", {}, "code", "data", "threefry")
        self.store = open_store(directory, identity, keep=100)

    def stop(self):
        self.calls += 1
        return self.stop_after is not None and self.calls >= self.stop_after

    def outlets(self):
        nowhere = lambda *args: None
        begin, spent = lambda *place: self.begun.append(place), self.costs.append
        seen = (self.rows.append, nowhere, nowhere, nowhere)
        return Outlets(*seen, self.store, self.sealed.append, self.stop, begin, spent)


def go(experiment, directory, options=EVERY, stop_after=None):
    recorder = Recorder(directory, stop_after)
    try:
        return train(experiment, directory, options, recorder.outlets()), recorder
    finally:
        recorder.store.close()


def digests(directory):
    return {
        (s.stage_index, s.step): {path: leaf["digest"] for path, leaf in s.leaves.items()} for s in seals(directory)
    }


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("stop_after", [3, 11])
def test_an_interrupted_run_is_the_uninterrupted_one_bit_for_bit(name, stop_after, tmp_path):
    make, arguments = RUNS[name]
    go(make(**arguments), tmp_path / "whole")
    with pytest.raises(Preempted):
        go(
            make(**arguments),
            tmp_path / "parts",
            stop_after=min(stop_after, 5) if "steps_per_call" in arguments else stop_after,
        )
    for _ in range(2):
        try:
            go(make(**arguments), tmp_path / "parts", stop_after=9)
        except Preempted:
            continue
    go(make(**arguments), tmp_path / "parts")
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert len(whole) >= 2
    assert {place: parts[place] for place in whole} == whole


def test_interruption_in_the_middle_of_a_later_stage(tmp_path):
    go(toys.growing(), tmp_path / "whole")
    for stop_after in (27, 18):  # in the fade-in of the second stage, then in the third
        with pytest.raises(Preempted):
            go(toys.growing(), tmp_path / "parts", stop_after=stop_after)
    go(toys.growing(), tmp_path / "parts")
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert {place: parts[place] for place in whole} == whole
    assert {index for index, _ in parts} == {0, 1, 2}


def test_a_damaged_stage_begins_again_where_the_one_before_ended(tmp_path):
    go(toys.growing(), tmp_path / "run")
    expected = digests(tmp_path / "run")
    for place in (tmp_path / "run" / "checkpoints").glob("02-*"):
        (place / "SEAL.json").write_text("{}")
    go(toys.growing(), tmp_path / "run")
    assert digests(tmp_path / "run") == expected


def test_another_seed_is_another_run(tmp_path):
    go(toys.plain(), tmp_path / "a")
    go(toys.plain(), tmp_path / "b", EVERY._replace(seed=1))
    assert digests(tmp_path / "a") != digests(tmp_path / "b")


def test_several_updates_a_call_are_single_updates(tmp_path):
    one, _ = go(toys.plain(), tmp_path / "one")
    seven, _ = go(toys.plain(steps_per_call=7), tmp_path / "seven")
    np.testing.assert_allclose(one.state.params["mean"], seven.state.params["mean"], rtol=1e-5)
    assert one.step == seven.step


@pytest.mark.parametrize("name", RUNS)
def test_one_compilation_a_stage(name, tmp_path, monkeypatch):
    make, arguments = RUNS[name]
    experiment, traces = make(**arguments), []

    def counting(stage):
        def update(state, batch, key):
            traces.append(stage.name)
            return stage.learner.update(state, batch, key)

        return stage._replace(learner=stage.learner._replace(update=update))

    go(experiment._replace(stages=[counting(stage) for stage in experiment.stages]), tmp_path / "run")
    # one trace to check the contract, one to compile
    assert traces == [stage.name for stage in experiment.stages for _ in range(2)]


def test_a_repeated_learner_sees_every_row_of_an_epoch_once(tmp_path):
    """64 rows in two calls of four updates of 8 rows: the sum of the rows seen in an epoch is that of all rows."""

    def loss(params, state, batch, key):
        return Out(-jnp.sum(batch["x"] * params["mean"], axis=-1))

    once = minimize(loss, toys.optax.sgd(1.0), lambda key, batch: {"mean": jnp.zeros((1, 2))})
    stage = Stage("sum", repeat(once, 4), toys.batches(toys.SPLIT, 32), 2)
    outcome, _ = go(Experiment([stage]), tmp_path / "run")
    np.testing.assert_allclose(outcome.state.params["mean"][0] * 8, toys.ROWS.sum(axis=0), rtol=1e-4, atol=1e-4)
    assert int(outcome.state.step) == outcome.step == 2


def test_a_request_to_stop_ends_an_evaluation(tmp_path):
    """Asked in the middle of an evaluation, the run saves the state it evaluated and goes on exactly."""
    go(toys.plain(), tmp_path / "whole")
    calls_before = 2 + 20 + 2 + 1  # batches of the evaluation at 0, calls to 20, an evaluation at 10, one batch at 20
    with pytest.raises(Preempted):
        go(toys.plain(), tmp_path / "parts", stop_after=calls_before)
    assert [seal.step for seal in seals(tmp_path / "parts")] == [20, 10]
    go(toys.plain(), tmp_path / "parts")
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")


def test_no_host_round_trip_a_step(tmp_path, monkeypatch):
    """Between two log lines nothing is read back: device_get is called once a log line, not once an update."""
    reads, device_get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: reads.append(1) or device_get(x))
    experiment = toys.synthetic(steps=100)
    go(experiment, tmp_path / "run", Options(checkpoint_every=100, log_every=25, evaluate_every=100))
    assert len(reads) <= 4 + 8  # four log lines; the checkpoint's own


def test_rows_hold_the_means_of_their_interval(tmp_path):
    _, every = go(toys.plain(), tmp_path / "one", EVERY._replace(log_every=1))
    _, fifth = go(toys.plain(), tmp_path / "five", EVERY)
    ones = [row["loss"] for row in every.rows if row["kind"] == "train"]
    fives = [row["loss"] for row in fifth.rows if row["kind"] == "train"]
    np.testing.assert_allclose(fives, np.mean(np.reshape(ones, (8, 5)), axis=1), rtol=1e-5)


def test_evaluation_comes_before_the_first_update(tmp_path):
    _, recorder = go(toys.plain(), tmp_path / "run")
    rows = recorder.rows
    assert (rows[0]["kind"], rows[0]["step"]) == ("evaluation", 0)
    np.testing.assert_allclose(rows[0]["validation/distance"], np.mean(np.sum(toys.ROWS**2, axis=1)), rtol=1e-5)
    assert [r["step"] for r in rows if r["kind"] == "evaluation"] == [0, 10, 20, 30, 40]
    assert rows[-1]["kind"] == "final"


def test_the_final_measurement_is_of_the_selected_checkpoint(tmp_path):
    outcome, recorder = go(toys.plain(steps=60, learning_rate=0.3), tmp_path / "run")
    rows = [r for r in recorder.rows if r["kind"] == "evaluation" and r["step"]]
    best = min(rows, key=lambda row: row["validation/distance"])
    assert outcome.step == best["step"]
    np.testing.assert_allclose(outcome.results["validation/distance"].value, best["validation/distance"], rtol=1e-6)


@pytest.mark.parametrize(("what", "leaf"), [("loss", "loss"), ("gradient", "params/mean")])
@pytest.mark.parametrize("log_every", [1, 5, 40])
def test_what_is_not_finite_stops_before_it_is_kept(what, leaf, log_every, tmp_path):
    options = EVERY._replace(log_every=log_every)
    with pytest.raises(NonFinite) as error:
        go(toys.exploding(what=what), tmp_path / "run", options)
    assert "step 17" in str(error.value)
    if what == "gradient":
        assert leaf in str(error.value)
    assert [seal.step for seal in seals(tmp_path / "run")] == [10]
    with pytest.raises(NonFinite, match="step 17"):  # a resume meets it again, from the last good checkpoint
        go(toys.exploding(what=what), tmp_path / "run", options)


def test_nothing_to_do_is_no_error(tmp_path):
    outcome, recorder = go(toys.plain(steps=0), tmp_path / "run")
    (seal,) = seals(tmp_path / "run")
    measured = recorder.rows[0]["validation/distance"]
    assert (outcome.step, seal.step, seal.final, seal.score) == (0, 0, True, pytest.approx(measured))
    assert [(row["kind"], row["step"]) for row in recorder.rows] == [("evaluation", 0), ("final", 0)]


def test_a_run_of_no_steps_goes_on_to_more(tmp_path):
    """What was seen at step 0 is dropped from the log and seen again, once."""
    go(toys.plain(), tmp_path / "whole")
    go(toys.plain(steps=0), tmp_path / "grown")
    _, recorder = go(toys.plain(), tmp_path / "grown")
    assert recorder.begun == [(0, -1)]
    whole, grown = digests(tmp_path / "whole"), digests(tmp_path / "grown")
    assert {place: grown[place] for place in whole} == whole


def test_a_stage_of_no_steps_hands_on_what_it_inherits(tmp_path):
    experiment = toys.growing()
    experiment = experiment._replace(
        stages=[s._replace(steps=0) if s.name == "width-2" else s for s in experiment.stages]
    )
    go(experiment, tmp_path / "parts")
    for place in (tmp_path / "parts" / "checkpoints").glob("02-*"):  # killed before the third stage has saved
        shutil.rmtree(place)
    go(experiment, tmp_path / "parts")
    go(experiment, tmp_path / "whole")
    assert [seal.step for seal in seals(tmp_path / "whole") if seal.stage_index == 1] == [0]
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert {place: parts[place] for place in whole} == whole


def test_every_update_that_is_kept_is_counted_once(tmp_path):
    first = Recorder(tmp_path / "run", stop_after=13)
    with pytest.raises(Preempted):
        train(toys.plain(), tmp_path / "run", EVERY, first.outlets())
    first.store.close()
    _, second = go(toys.plain(), tmp_path / "run")
    costs = [cost for cost in (*first.costs, *second.costs) if not cost.evaluate_seconds]
    assert sum(cost.updates for cost in costs) == 40 and sum(cost.examples for cost in costs) == 40 * 8
    assert all((cost.seconds > 0) == (cost.updates > 0) == (cost.compile_seconds == 0) for cost in costs)
    assert sum(cost.compile_seconds > 0 for cost in costs) == 2


def test_an_update_that_is_not_kept_is_not_counted(tmp_path):
    recorder = Recorder(tmp_path / "run")
    with pytest.raises(NonFinite):
        train(toys.exploding(), tmp_path / "run", EVERY, recorder.outlets())
    recorder.store.close()
    assert sum(cost.updates for cost in recorder.costs) == 17


REFUSED = {
    "negative steps": (lambda: toys.plain(steps=-1), {}, "steps = -1"),
    "no update a call": (lambda: toys.plain(steps_per_call=0), {}, "steps_per_call = 0"),
    "no stage": (lambda: toys.plain()._replace(stages=[]), {}, "no stages"),
    "one name twice": (lambda: toys.plain()._replace(stages=[*toys.plain().stages] * 2), {}, "share a name"),
    "an unknown measure": (lambda: toys.plain()._replace(select="test/x"), {}, "validation/distance"),
    "no interval": (lambda: toys.plain(), {"log_every": 0}, "--log-every 0"),
    "several updates a call of fetched rows": (
        lambda: toys.fetched()._replace(stages=[toys.fetched().stages[0]._replace(steps_per_call=2)]), {}, "resident"
    ),
    "more devices than there are": (lambda: toys.plain(), {"devices": 64}, "64"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused_before_it_runs(case, tmp_path):
    make, options, told = REFUSED[case]
    with pytest.raises(BadInput) as error:
        go(make(), tmp_path / "run", EVERY._replace(**options))
    assert told in str(error.value)
    assert seals(tmp_path / "run") == []


def test_a_stage_whose_carry_changes_shape_is_named(tmp_path):
    experiment = toys.persistent()
    learner = experiment.stages[0].learner

    def update(state, batch, key):
        new, metrics = learner.update(state, batch, key)
        return new._replace(carry=new.carry[:3]), metrics

    stage = experiment.stages[0]._replace(learner=learner._replace(update=update))
    with pytest.raises(BadInput, match="changes the state"):
        go(experiment._replace(stages=[stage]), tmp_path / "run")


def test_numpy_on_a_traced_value_is_explained_with_its_line(tmp_path):
    def loss(params, state, batch, key):
        return Out(np.sum(np.asarray(batch["x"])) * params["mean"][0, 0])

    stage = toys.plain().stages[0]
    learner = minimize(loss, toys.optax.sgd(0.1), lambda key, batch: {"mean": np.zeros((1, 2), np.float32)})
    with pytest.raises(BadInput, match="traced value") as error:
        go(toys.plain()._replace(stages=[stage._replace(learner=learner)]), tmp_path / "run")
    assert "test_train.py" in error.value.lines[0] and "in loss" in error.value.lines[0]


def test_keys_of_stages_and_uses_differ():
    keys = [*compilation.stage_keys(0, 0), *compilation.stage_keys(0, 1), *compilation.stage_keys(1, 0)]
    data = {tuple(jax.random.key_data(key).tolist()) for key in keys}
    assert len(data) == 12
    assert json.dumps(sorted(data)) == json.dumps(sorted({tuple(jax.random.key_data(k).tolist()) for k in keys}))


def check_guard(first_bad):
    """The first leaf that holds a NaN or an infinity, in every precision; the largest finite numbers are none."""
    found = jax.jit(first_bad)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        largest = jnp.full((784, 30), jnp.finfo(dtype).max, dtype)
        leaves = {"a": largest, "b": jnp.arange(3), "c": -largest, "d": jnp.zeros((), dtype)}
        assert found(leaves) == -1
        with jax.debug_nans(False):
            for bad in (jnp.nan, jnp.inf, -jnp.inf):
                assert found(leaves | {"c": largest.at[700, 3].set(bad), "d": jnp.asarray(bad, dtype)}) == 2


def test_the_guard():
    check_guard(compilation._first_bad)
    rejects(check_guard, lambda tree: jnp.int32(-1))
    rejects(check_guard, lambda tree: compilation._first_bad(jax.tree.map(jnp.sum, tree)))  # sums overflow
    no_infinities = lambda x: jnp.where(jnp.isinf(x), 0, x)
    rejects(check_guard, lambda tree: compilation._first_bad(jax.tree.map(no_infinities, tree)))
    rejects(check_guard, lambda tree: compilation._first_bad({"d": tree["d"]}) + 2)

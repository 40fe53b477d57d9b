"""Sweeps in one program: every lane is the plain run of its point, and what lanes cannot do is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cloud import CLOUD, grid_of, written

from genjax import cli, parallel
from genjax.checkpoint import restore, seals
from genjax.compilation import compile_stage, stage_keys
from genjax.errors import BadInput
from genjax.evaluate import averaged_state
from genjax.listing import is_locked
from genjax.sweep import lanes
from genjax.sweep.lane_runs import by_lanes


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return written(CLOUD)


def plain_run(loaded, point):
    """The losses and the last state of a plain run, by its own compiled program, one log line an update."""
    stage = loaded.function(**point.values).stages[0]
    program = compile_stage(stage, stage_keys(point.seed, 0), point.seed, parallel.mesh(1), "float32", "jit")
    state, losses = program.fresh(), []
    for step in range(stage.steps):
        state, (totals, _) = program.call(state, program.zero(), program.feed(step), np.int32(1))
        losses.append(float(totals.sums["loss"]))
    return np.array(losses), state


def all_lanes(loaded, grid):
    """The losses and the last states of all lanes."""
    experiment = lanes.check_lanes(loaded, grid, grid.points)
    stage, mesh, count = experiment.stages[0], parallel.mesh(1), len(grid.points)
    feed = parallel.place(stage.data.resident, parallel.replicated(mesh))
    program = lanes.compile_lanes(loaded, grid.points, experiment, mesh, feed, "float32")
    states, losses = program.start(feed), []
    for _ in range(stage.steps):
        states, (totals, _) = program.call(states, program.zero(jnp.full(count, -1, jnp.int32)), feed, np.int32(1))
        losses.append(np.asarray(totals.sums["loss"]))
    return np.stack(losses, axis=1), states


def check_every_lane_is_its_plain_run(loaded, grid):
    losses, states = all_lanes(loaded, grid)
    for number, point in enumerate(grid.points):
        wanted, state = plain_run(loaded, point)
        np.testing.assert_allclose(losses[number], wanted, rtol=1e-5, atol=1e-5)  # the order of the data, and the noise
        own = jax.tree.map(lambda leaf, number=number: leaf[number], states)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), own, state)


POINTS = ("shift=0.0,0.3", "seed=0,7")


@pytest.mark.parametrize("arguments", [POINTS, ("learning_rate=0.05,0.2", "seed=0,7", "--per-call", "7")])
def test_every_lane_is_its_plain_run(cloud, arguments):
    check_every_lane_is_its_plain_run(cloud, grid_of(cloud, *arguments, "--vmap"))


MUTANTS = {
    "the next seed's keys": ("stage_keys", lambda true: lambda seed, index: true(seed + 1, index)),
    "another stage's keys": ("stage_keys", lambda true: lambda seed, index: true(seed, 1)),
    "one seed for all": ("stage_keys", lambda true: lambda seed, index: true(0, index)),
    "data by the update's key": (
        "stage_keys", lambda true: lambda seed, index: true(seed, index)._replace(data=true(seed, index).update)
    ),
    "another lane's fields": ("_traced", lambda true: lambda points, lane: true(points[::-1], lane)),
    "the first lane's fields": ("_traced", lambda true: lambda points, lane: dict(points[0].values)),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_lane_that_is_not_its_plain_run_is_found(cloud, mutant, monkeypatch):
    name, change = MUTANTS[mutant]
    monkeypatch.setattr(lanes, name, change(getattr(lanes, name)))
    with pytest.raises(AssertionError):
        check_every_lane_is_its_plain_run(cloud, grid_of(cloud, *POINTS, "--vmap"))


def test_a_field_stays_weakly_typed_as_a_python_number(cloud):
    points = grid_of(cloud, "shift=0.0,0.3,0.7", "--vmap").points
    told = []

    def look(lane):
        shift = lanes._traced(points, lane)["shift"]
        told.append(jnp.ones((), jnp.bfloat16) * shift)
        return shift

    np.testing.assert_allclose(jax.vmap(look)(jnp.arange(3)), [0.0, 0.3, 0.7], rtol=1e-7)
    assert told[0].dtype == jnp.bfloat16


def test_a_lane_that_is_not_finite_is_frozen_and_the_others_go_on(cloud, tmp_path):
    said, locks = [], []
    grid = grid_of(cloud, "learning_rate=0.05,1e30,0.2", "--vmap", "--log-every", "5")
    held = lambda: [is_locked(tmp_path / point.name) for point in grid.points]
    ended = by_lanes(cloud, grid, grid.points, tmp_path, lambda text: said.append(text) or locks.append(held()))
    assert locks == [[False] * 3, [True] * 3] and held() == [False] * 3
    assert [end.code for end in ended.values()] == [0, 3, 0]
    frozen = json.loads((tmp_path / grid.points[1].name / "results.json").read_text())
    assert frozen["state"] == "non-finite" and frozen["message"].startswith("step 1: ")
    assert said[1].startswith("learning_rate=1e+30: frozen at step 1: ")
    for point in (grid.points[0], grid.points[2]):
        rows = [json.loads(line) for line in (tmp_path / point.name / "metrics.jsonl").read_text().splitlines()]
        assert [(r["kind"], r["step"]) for r in rows] == [*(("train", s) for s in (5, 10, 15, 20)), ("final", 20)]
        wanted = plain_run(cloud, point)[0].reshape(4, 5).mean(axis=1)
        np.testing.assert_allclose([r["loss"] for r in rows[:4]], wanted, rtol=1e-5)


SAMPLED = CLOUD.replace(
    'data="cloud")', 'data="cloud", sample=lambda state, key, n: jnp.full((n, 1), jnp.sum(state.params["mean"])))'
)
# the loss of one lane is infinite at step 6, and only there
EXPLODING = SAMPLED.replace("shift - centre)", "jnp.where(state.step == 6, shift, 0.0) - centre)").replace(
    "noise + shift - jnp.sum", "noise - jnp.sum"
)


def used(run, capsys):
    """What the commands for finished runs say of a lane: its samples, and the measured value."""
    for command in (["show", run], ["sample", run, "--n", "3", "--out", "out.npz"], ["evaluate", run]):
        assert cli.main([*map(str, command)]) == 0, capsys.readouterr().err
    line = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    return np.load("out.npz")["samples"], line


def test_a_lane_can_be_used_like_any_finished_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    loaded = written(SAMPLED)
    grid = grid_of(loaded, "shift=0.1,0.2", "--seed", "4", "--vmap")
    by_lanes(loaded, grid, grid.points, tmp_path, print)
    for point in grid.points:
        run, (_, state) = tmp_path / point.name, plain_run(loaded, point)
        (seal,) = seals(run)
        assert (seal.step, seal.final, seal.stage) == (20, True, "mean")
        restored, _ = restore(run, jax.eval_shape(lambda state=state: state))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), restored, state)
        samples, line = used(run, capsys)
        np.testing.assert_allclose(samples, np.sum(averaged_state(state).params["mean"]), rtol=1e-5)
        (known,) = json.loads((run / "results.json").read_text())["results"]
        assert line["value"] == pytest.approx(known["value"], rel=1e-5) and line["step"] == known["step"] == 20
        assert cli.main(["resume", str(run)]) == 0 and "is finished" in capsys.readouterr().out


def test_a_frozen_lane_leaves_its_last_good_state(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    loaded = written(EXPLODING)
    for finished in (0, 1):  # the second sweep trains the frozen lane again, as it is not finished
        assert cli.main(["sweep", "cloud.py", "shift=0.0,1e30", "--vmap", "--workdir", "all"]) == 3
        assert f"{finished} of 2 finished" in capsys.readouterr().out
    good, frozen = sorted(path for path in Path("all").glob("shift_*") if path.is_dir())
    (seal,) = seals(frozen)
    assert (seal.step, seal.final) == (6, False) and not (frozen / "quarantine").exists()
    samples, line = used(frozen, capsys)
    point = grid_of(loaded, "shift=0.0", "--steps", "6").points[0]
    wanted = averaged_state(plain_run(loaded, point)[1]).params["mean"]
    np.testing.assert_allclose(samples, np.sum(wanted), rtol=1e-5)
    assert line["step"] == 6 and seals(good)[0].step == 20


def test_a_run_that_a_process_began_is_not_begun_again(cloud, tmp_path):
    grid = grid_of(cloud, "seed=0,1", "--vmap")
    (tmp_path / "seed_1" / "checkpoints" / "00-mean-000000005").mkdir(parents=True)
    with pytest.raises(BadInput, match="seed_1 was begun by a process"):
        by_lanes(cloud, grid, grid.points, tmp_path, print)


def test_a_frozen_lane_keeps_the_state_before_its_bad_update(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = written(CLOUD.replace("shift - centre)", "jnp.where(state.step == 6, shift, 0.0) - centre)"))
    grid = grid_of(loaded, "shift=0.0,1e30", "--vmap")
    experiment, mesh = lanes.check_lanes(loaded, grid, grid.points), parallel.mesh(1)
    feed = experiment.stages[0].data.resident
    program = lanes.compile_lanes(loaded, grid.points, experiment, mesh, feed, "float32")
    totals, states, history = program.zero(jnp.full(2, -1, jnp.int32)), program.start(feed), []
    for _ in range(10):
        states, (totals, _) = program.call(states, totals, feed, np.int32(1))
        history.append(np.asarray(states.params["mean"]))
    assert np.asarray(states.step).tolist() == [10, 6] and np.asarray(totals.count).tolist() == [10, 6]
    np.testing.assert_array_equal(history[-1][1], history[5][1])
    np.testing.assert_array_equal(history[5][0], history[5][1])  # the same run until then
    assert not np.allclose(history[-1][0], history[5][0])


CONTROL = CLOUD.replace("    tx =", '    if shift > 1:\n        raise ValueError("too far")\n    tx =')
TWO_STAGES = CLOUD.replace("Experiment([stage]", 'Experiment([stage, stage._replace(name="again")]')
DATA = CLOUD.replace("batches(SPLIT,", 'batches(SPLIT._replace(arrays={"x": SPLIT.arrays["x"] + np.float32(shift)}),')
REFUSED = [
    (CLOUD, ("width=1,2",), "field 'width' cannot be swept with --vmap"),
    (CLOUD, ("seed=0,1", "flag=true,false"), "field 'flag' cannot be swept with --vmap"),
    (CONTROL, ("shift=0,0.5",), "field 'shift' cannot be swept with --vmap: cloud: NumPy or Python control"),
    (CONTROL, ("shift=0,0.5",), "(cloud.py, line "),
    (CONTROL, ("shift=0,2.0",), "too far"),
    (TWO_STAGES, ("seed=0,1",), "2 stages"),
    (DATA, ("shift=0,0.5",), "the swept fields (shift) change the data"),
    (CLOUD, ("seed=0,1", "--jobs", "2"), "--vmap with --jobs"),
    (CLOUD, ("seed=0,1", "--log-every", "0"), "--log-every 0"),
]


@pytest.mark.parametrize(("text", "arguments", "told"), REFUSED)
def test_what_lanes_cannot_do_is_refused(text, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = written(text)
    grid = grid_of(loaded, *arguments, "--vmap")
    with pytest.raises(BadInput) as error:
        lanes.check_lanes(loaded, grid, grid.points)
    assert told in error.value.lines[0]


def test_a_field_that_is_not_swept_may_steer_control_flow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = written(CONTROL)
    grid = grid_of(loaded, "learning_rate=0.1,0.2", "seed=0,1", "--vmap")
    assert lanes.check_lanes(loaded, grid, grid.points).stages[0].steps == 20


def test_a_finished_sweep_of_lanes_is_a_no_op_and_grows(cloud, capsys):
    assert cli.main(["sweep", "cloud.py", "seed=0:2", "--vmap"]) == 0
    (directory,) = Path("runs").iterdir()
    first = (directory / "seed_1" / "metrics.jsonl").read_bytes()
    assert "0 of 2 finished" in capsys.readouterr().out
    assert cli.main(["sweep", "cloud.py", "seed=0:3", "--vmap"]) == 0
    told = capsys.readouterr().out
    assert "2 of 3 finished" in told and "lanes    1 in one program" in told
    assert [path.name for path in Path("runs").iterdir()] == [directory.name]
    assert (directory / "seed_1" / "metrics.jsonl").read_bytes() == first
    said = json.loads((directory / "sweep.json").read_text())
    values = [point["result"]["value"] for point in said["points"]]
    assert said["ranking"][0]["value"] == pytest.approx(np.mean(values))
    assert said["ranking"][0]["deviation"] == pytest.approx(np.std(values, ddof=1))
    page = (directory / "sweep.html").read_text()
    assert all(f"{directory}/seed_{seed}</code>" in page for seed in range(3))
    assert f"next     genjax sample {directory}/seed_" in told


@pytest.mark.slow
def test_a_lane_measures_what_train_measures(cloud, capsys):
    assert cli.main(["sweep", "cloud.py", "seed=3,4", "shift=0.1,0.2", "--vmap", "--workdir", "lanes"]) == 0
    assert cli.main(["train", "cloud.py", "--seed", "4", "--shift", "0.2", "--workdir", "plain"]) == 0
    wanted, found = (
        json.loads(Path(name, "results.json").read_text())["results"] for name in ("plain", "lanes/seed_4-shift_0.2")
    )
    assert [line["name"] for line in found] == [line["name"] for line in wanted] == ["test/distance"]
    assert found[0]["value"] == pytest.approx(wanted[0]["value"], rel=1e-5)
    assert {**found[0], "value": 0, "standard_error": 0} == {**wanted[0], "value": 0, "standard_error": 0}

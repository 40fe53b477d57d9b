"""The points of a sweep as lanes of one program: the loop over all of them, and the run directory of each."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax import parallel
from genjax.checkpoint import lock, open_store
from genjax.checkpoint.places import places
from genjax.directory import settle
from genjax.errors import BadInput
from genjax.evaluate import Measured
from genjax.experiment import Experiment, parameter_count
from genjax.fields import Loaded
from genjax.record import identity_of, read_config, read_results, result_lines, write_results
from genjax.report import Log, open_log, write_report
from genjax.run import TrainOptions, identified
from genjax.sweep.grid import Grid, Point, described
from genjax.sweep.lanes import Lanes, check_lanes, compile_lanes, measure_lanes
from genjax.sweep.ranking import Ended
from genjax.types import Stage, State


class Frozen(NamedTuple):
    """A lane that stopped before an update that was not finite."""

    step: int
    leaf: str

    def __str__(self) -> str:
        return f"step {self.step:,}: {self.leaf} is not finite; the update that made it was not kept"


def by_lanes(
    loaded: Loaded, grid: Grid, points: Sequence[Point], directory: Path, tell: Callable[[str], None]
) -> dict[str, Ended]:
    """Train points in one program; each leaves a run directory with one checkpoint, of its last good state.

    Raises:
      BadInput: a swept field is neither a float nor the seed, or is used where a traced number cannot be; several
        stages, data that are read step by step, or that the swept fields change; an option for processes; a point's
        directory is in use, or was begun by a process.
    """
    if not points:
        return {}
    began, experiment = time.perf_counter(), check_lanes(loaded, grid, points)
    mesh = parallel.mesh(1)
    feed = parallel.place(experiment.stages[0].data.resident, parallel.replicated(mesh))
    lanes = compile_lanes(loaded, points, experiment, mesh, feed, grid.options.precision)
    tell(f"lanes    {len(points)} in one program, compiled in {lanes.seconds:.1f} s; a checkpoint of each at its end")
    with ExitStack() as held:
        for point in points:
            held.enter_context(lock(directory / point.name))
        logs: list[Log] = []
        for point in points:
            logs.append(_open(loaded, grid, point, directory / point.name, experiment))
            held.callback(logs[-1].close)
        states, frozen = _train(experiment.stages[0], lanes, feed, points, logs, grid.options.log_every, tell)
        results = measure_lanes(
            experiment, lanes, states, mesh, [number not in frozen for number in range(len(points))]
        )
        for number, (point, log) in enumerate(zip(points, logs, strict=True)):
            state = jax.tree.map(lambda leaf, number=number: leaf[number], states)
            values = {name: measured.value for name, measured in results[number].items()}
            if values:
                log.write(_about(experiment.stages[0], int(state.step), "final") | values)
            _end(directory / point.name, experiment, state, results[number], frozen.get(number))
    share = (time.perf_counter() - began) / len(points)
    ends = [
        Ended(3, str(frozen[number]), share) if number in frozen else Ended(0, "", share)
        for number in range(len(points))
    ]
    return {point.name: end for point, end in zip(points, ends, strict=True)}


def _train(
    stage: Stage, lanes: Lanes, feed: Any, points: Sequence[Point], logs: Sequence[Log], every: int | None, tell: Any
) -> tuple[State, dict[int, Frozen]]:
    """The states at the end, and the lanes that were frozen."""
    every, step = every or min(max(1, stage.steps // 100), 1000), 0
    states, frozen = lanes.start(feed), dict[int, Frozen]()
    totals = lanes.zero(jnp.full(len(points), -1, jnp.int32))
    while step < stage.steps and len(frozen) < len(points):
        count = min(stage.steps_per_call, (step // every + 1) * every - step, stage.steps - step)
        states, (totals, _) = lanes.call(states, totals, feed, np.int32(count))
        step += count
        if step % every and step < stage.steps:
            continue
        read = jax.device_get(totals)
        for number in (number for number in range(len(points)) if number not in frozen):
            if read.bad[number] < 0:
                means = {name: float(value[number]) / int(read.count[number]) for name, value in read.sums.items()}
                logs[number].write({**_about(stage, step, "train"), **means})
            else:
                frozen[number] = Frozen(int(states.step[number]), lanes.leaves[read.bad[number]])
                tell(f"{described(points[number].swept)}: frozen at {frozen[number]}")
        totals = lanes.zero(totals.bad)
    return states, frozen


def _open(loaded: Loaded, grid: Grid, point: Point, run: Path, experiment: Experiment) -> Log:
    options = TrainOptions(
        seed=point.seed, devices=1, log_every=grid.options.log_every, precision=grid.options.precision
    )
    if places(run) and not read_results(run).get("lane"):
        raise BadInput(f"{run} was begun by a process", "a lane begins at step 0", "leave --vmap out to go on")
    settle(run, loaded, *identified(loaded, point.values, options, experiment))
    write_results(run, True, {"state": "running", "lane": True})
    (run / "metrics.jsonl").unlink(missing_ok=True)
    return open_log(run, [experiment.stages[0].steps])


def _end(
    run: Path, experiment: Experiment, state: State, results: Mapping[str, Measured], frozen: Frozen | None
) -> None:
    step, metrics = int(state.step), {name: measured.value for name, measured in results.items()}
    store = open_store(run, identity_of(run, experiment))
    score = metrics.get(experiment.select or "")
    about = {"stage": experiment.stages[0].name, "stage_index": 0, "step": step, "metrics": metrics, "score": score}
    store.save(state, final=frozen is None, **about)
    store.close()
    told: dict[str, Any] = {"state": "non-finite", "message": str(frozen)}
    if frozen is None:
        lines = result_lines(experiment, results, state, step, read_config(run))
        told = {"state": "finished", "results": lines, "parameters": parameter_count(state.params)}
    write_results(run, True, {**told, "lane": True})
    write_report(run)


def _about(stage: Stage, step: int, kind: str) -> dict[str, Any]:
    return {"stage": stage.name, "stage_index": 0, "step": step, "kind": kind}

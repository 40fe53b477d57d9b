"""THE loop.  Every family runs through it, and it knows only stages.

Its order, for each stage: compile; take the state up from a checkpoint, or make it fresh and let it inherit; then
evaluate (before the first update too), update, log, evaluate, checkpoint, and stop if asked to.  The host never waits
for a single update: metrics are summed on the devices and read one log interval late, and few calls are in flight, so
that a request to stop is answered soon.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from genjax import parallel
from genjax.checkpoint import Ruined, Seal, Store, restore, seals
from genjax.checkpoint.places import places
from genjax.compilation import Program, Totals, compile_stage, stage_keys
from genjax.errors import BadInput, NonFinite, Preempted
from genjax.evaluate import Measured, averaged_state
from genjax.experiment import Experiment, check_experiment, parameter_count
from genjax.explaining import explained, within_memory
from genjax.types import Stage, State
from genjax.view import View, open_view

AHEAD = 16  # updates in flight, two calls at least: enough to hide dispatch, few enough to stop soon


class Options(NamedTuple):
    """What the command decides, not the experiment; intervals are in updates, None is chosen from the stage."""

    seed: int = 0
    devices: int | None = None
    checkpoint_every: int | None = None  # a fifth of the stage, at most 5,000
    log_every: int | None = None  # a hundredth of the stage, at most 1,000
    evaluate_every: int | None = None  # a tenth of the stage
    precision: str = "float32"
    parallel: str = "jit"


class Cost(NamedTuple):
    """What a run has cost, without its pictures, files and checkpoints."""

    seconds: float = 0.0  # spent on updates
    compile_seconds: float = 0.0
    updates: int = 0
    examples: int = 0
    evaluate_seconds: float = 0.0  # measuring, compilation included


class Outlets(NamedTuple):
    """Where the loop speaks to: the run directory's log, the terminal, the checkpoint store."""

    row: Callable[[Mapping[str, Any]], None]  # one log row
    picture: Callable[[str, str, int, int, np.ndarray], Any]  # (name, stage, stage index, step, images)
    file: Callable[[str, int, int, Callable[[], bytes]], Any]  # (name, stage index, step, content)
    progress: Callable[[Stage, int, Mapping[str, float]], None]  # (stage, step, mean metrics)
    store: Store
    saved: Callable[[Seal], None]  # called after a seal, in the commit thread
    stop: Callable[[], bool]  # asked to stop? called once a compiled call, answered alike by all processes
    begin: Callable[[int, int], None] = lambda stage_index, step: None  # what is taken up; step -1: nothing
    spent: Callable[[Cost], None] = lambda cost: None  # after each compilation and log interval: what it took


class Outcome(NamedTuple):
    """What training ended with."""

    state: State  # of the last stage
    step: int  # of that state: the last, or the one that the experiment selects
    results: Mapping[str, Measured]  # "test/neg_elbo" -> its mean and standard error
    parameters: int


class _Interval(NamedTuple):
    """The totals of one log interval, read when the next one ends."""

    first: int
    last: int
    totals: Totals


def train(experiment: Experiment, directory: Path, options: Options, outlets: Outlets) -> Outcome:
    """Run all stages of an experiment, from the newest sound checkpoint or from the start.

    Args:
      experiment: stages, evaluations, pictures.
      directory: the run directory, already locked.
      options: seed, devices, intervals, precision.
      outlets: where rows, pictures, progress and checkpoints go.

    Returns:
      The last state and the final measurements.

    Raises:
      BadInput: the experiment or an option cannot be used.
      NonFinite: a loss, gradient or parameter is not finite; the update that made it was not kept.
      Damaged: checkpoints exist, but none can be read.
      Preempted: asked to stop; the state is saved.
    """
    check_experiment(experiment)
    check_intervals(options)
    mesh = parallel.mesh(options.devices)
    state: Any = None
    program: Any = None
    step, index = 0, _resume_stage(directory)
    while index < len(experiment.stages):
        stage = experiment.stages[index]
        with within_memory(f"stage {stage.name!r}", stage.data.batch_size):
            keys = stage_keys(options.seed, index)
            program = compile_stage(stage, keys, options.seed, mesh, options.precision, options.parallel)
            outlets.spent(Cost(compile_seconds=program.seconds))
            found = restore(directory, program.abstract, stage_index=index) if state is None else None
            if found is None and state is None and index > 0:
                index -= 1  # every checkpoint of this stage is damaged: it begins again where the stage before it ended
                continue
            if found is not None and found[1].step > stage.steps:
                raise BadInput(
                    f"stage {stage.name!r}: steps = {stage.steps:,}, and the run is at step {found[1].step:,}",
                    "a run goes on to more steps, never back",
                    "give more steps, or start in a new directory",
                )
            if state is None:
                outlets.begin(index, (found[1].step if found else 0) or -1)  # what is seen at step 0 is seen again
            state, step = (found[0], found[1].step) if found else (_start(stage, program, state), 0)
            took = lambda seconds: outlets.spent(Cost(evaluate_seconds=seconds))
            seen = (outlets.row, outlets.picture, outlets.file, outlets.stop, took)
            view = open_view(experiment, index, mesh, keys.evaluate, program.abstract, *seen)
            state, step = _run_stage(stage, index, program, state, step, options, outlets, view)
            index += 1
    state, step = restore_selected(experiment, directory, program.abstract, have=step) or (state, step)
    results = view.measure(state, step, final=True)
    view.look(state, step)
    size = parameter_count(averaged_state(state).params)
    return Outcome(state, step, results, size)


def _run_stage(
    stage: Stage, index: int, program: Program, state: State, step: int, options: Options, outlets: Outlets, view: View
) -> tuple[State, int]:
    save_every, log_every, look_every = _intervals(stage, options)
    totals, start, clock = program.zero(), step, time.perf_counter()
    pending: deque[_Interval] = deque()
    ticks: deque[Any] = deque()

    def save(measured: Mapping[str, Measured], final: bool) -> None:
        metrics = {name: value.value for name, value in measured.items()}
        outlets.store.save(
            state, stage=stage.name, stage_index=index, step=step, metrics=metrics, score=view.score(metrics),
            final=final, on_saved=outlets.saved,
        )  # fmt: skip

    if step == 0:
        measured = view.measure(state, step)
        view.look(state, step)
        if stage.steps == 0:  # it ends as it began, and can be sampled and evaluated like any other
            save(measured, final=True)
        clock = time.perf_counter()
    while step < stage.steps:
        boundary = min(stage.steps, *(_next(step, every) for every in (save_every, log_every, look_every)))
        count = min(stage.steps_per_call, boundary - step)
        state, (totals, tick) = program.call(state, totals, program.feed(step), np.int32(count))
        step += count
        ticks.append(tick)
        if len(ticks) > max(1, AHEAD // stage.steps_per_call):
            ticks.popleft().block_until_ready()
        done = step == stage.steps
        stopping = outlets.stop() and not done
        looking, saving = step % look_every == 0 or done, step % save_every == 0 or done or stopping
        looking = looking or (saving and view.selects and not stopping)
        if step % log_every == 0 or looking or saving:
            pending.append(_Interval(start, step, totals))
            totals, start = program.zero(), step
        while len(pending) > (0 if looking or saving else 1):
            clock = _log(pending.popleft(), clock, stage, index, program, outlets)
        measured = {}
        try:
            if looking and not stopping:
                measured = view.measure(state, step)
                view.look(state, step)
        except Preempted:  # asked to stop between two batches: what was trained is saved, the measure is given up
            saving, stopping = True, not done
        if saving:
            save(measured, final=done)
        if looking or saving:
            clock = time.perf_counter()
        if stopping:
            outlets.store.wait()
            told = f"stopped at step {step:,} of {stage.steps:,} of stage {stage.name!r}"
            raise Preempted(told, "the state is saved")
    outlets.store.wait()
    return state, step


def _log(interval: _Interval, clock: float, stage: Stage, index: int, program: Program, outlets: Outlets) -> float:
    totals = jax.device_get(interval.totals)  # waits for an interval that is over, or nearly so
    now, kept = time.perf_counter(), int(totals.count)
    outlets.spent(Cost(seconds=now - clock, updates=kept, examples=kept * stage.data.batch_size))
    if totals.bad >= 0:
        raise NonFinite(
            f"stage {stage.name!r}, step {interval.first + kept:,}: {program.leaves[int(totals.bad)]} is not finite",
            "the update that made it was not kept; the last good checkpoint stands",
            "lower the learning rate, clip gradients (optax.clip_by_global_norm), or look at the data of that step",
        )
    means = {name: float(value) / max(kept, 1) for name, value in totals.sums.items()}
    rate = (interval.last - interval.first) / max(now - clock, 1e-9)
    row = {"stage": stage.name, "stage_index": index, "step": interval.last, "kind": "train"}
    outlets.row({**row, **means, "updates_per_second": rate})
    outlets.progress(stage, interval.last, means)
    return now


def restore_selected(
    experiment: Experiment, directory: Path, abstract: State, have: int | None = None
) -> tuple[State, int] | None:
    """The best checkpoint of the last stage by `experiment.select` that is sound, in place of early stopping.

    Args:
      experiment, directory: of the run.
      abstract: shapes, dtypes and shardings of the last stage's state.
      have: the step of a state that need not be read.

    Returns:
      (state, step).  None: nothing selects, no kept checkpoint is sound, or the best is the step `have`.
    """
    for step in _best_first(experiment, directory):
        if step == have:
            return None
        try:
            found = restore(directory, abstract, step=step, stage_index=len(experiment.stages) - 1)
            return (found[0], step) if found else None
        except Ruined:
            continue  # the next best
    return None


def _best_first(experiment: Experiment, directory: Path) -> list[int]:
    """The steps of the last stage's kept checkpoints that were measured, the best first; none if nothing selects."""
    if experiment.select is None:
        return []
    split, _, measure = experiment.select.partition("/")
    sign = 1.0 if experiment.evaluations[split].quantities[measure].better == "lower" else -1.0
    kept = [seal for seal in seals(directory) if seal.stage_index == len(experiment.stages) - 1]
    measured = [(seal.metrics.get(experiment.select), seal.step) for seal in kept]
    return [step for _, step in sorted((sign * value, step) for value, step in measured if value is not None)]


def _start(stage: Stage, program: Program, previous: State | None) -> State:
    fresh = program.fresh()
    if stage.inherit is None or previous is None:
        return fresh
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract)
    with explained(f"stage {stage.name!r}, inherit"):
        state = jax.jit(stage.inherit, out_shardings=shardings)(previous, fresh)
    try:
        chex.assert_trees_all_equal_shapes_and_dtypes(state, program.abstract)
    except AssertionError as error:
        raise BadInput(
            f"stage {stage.name!r}: inherit returned a state of another structure, shape or dtype",
            "inherit(previous, fresh) returns `fresh` with some of its arrays replaced",
            "start from `fresh` and copy in what survives, by name",
        ) from error
    return state


def _resume_stage(directory: Path) -> int:
    """The stage to take up: the newest that has a checkpoint, 0 for a new run."""
    found = places(directory)
    return found[0][0] if found else 0


def _intervals(stage: Stage, options: Options) -> tuple[int, int, int]:
    tenth = max(1, stage.steps // 10)
    return (
        options.checkpoint_every or min(max(1, stage.steps // 5), 5000),
        options.log_every or min(max(1, stage.steps // 100), 1000),
        options.evaluate_every or tenth,
    )


def _next(step: int, every: int) -> int:
    return (step // every + 1) * every


def check_intervals(options: Any) -> None:
    """Refuse intervals below one update.

    Args:
      options: `Options`, or the command's own.
    """
    for name in ("checkpoint_every", "log_every", "evaluate_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise BadInput(f"--{name.replace('_', '-')} {value}", "allowed: whole numbers of updates from 1")

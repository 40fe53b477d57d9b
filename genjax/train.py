"""THE loop.  Every family runs through it, and it knows only stages.

Its order, for each stage: compile; take the state up from a checkpoint, or make it fresh and let it inherit; then
evaluate (before the first update too), update, log, evaluate, checkpoint, and stop if asked to.  The host never waits
for a single update: metrics are summed on the devices and read one log interval late, and at most `AHEAD` calls are in
flight, so that a request to stop is answered within a few calls.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax import parallel
from genjax.checkpoint import Store, restore, seals
from genjax.compilation import Program, Totals, compile_stage, explained, stage_keys
from genjax.errors import BadInput, Damaged, NonFinite, Preempted
from genjax.evaluate import Evaluation, Measured, averaged_state, evaluator
from genjax.experiment import Experiment
from genjax.types import Stage, State

AHEAD = 16  # calls in flight: enough to hide dispatch, few enough to stop soon
SHOWN = 64  # samples in a picture


class Options(NamedTuple):
    """What the command decides, not the experiment; intervals are in updates, None is chosen from the stage."""

    seed: int = 0
    devices: int | None = None
    checkpoint_every: int | None = None  # a tenth of the stage, at most 5,000
    log_every: int | None = None  # a hundredth of the stage, at most 1,000
    evaluate_every: int | None = None  # a tenth of the stage
    precision: str = "float32"
    parallel: str = "jit"


class Outlets(NamedTuple):
    """Where the loop speaks to: the run directory's log, the terminal, the checkpoint store."""

    row: Callable[[Mapping[str, Any]], None]  # one log row
    picture: Callable[[str, str, int, int, np.ndarray], Any]  # (name, stage, stage index, step, images)
    progress: Callable[[Stage, int, Mapping[str, float]], None]  # (stage, step, mean metrics)
    store: Store
    stop: Callable[[], bool]  # asked to stop? called once a compiled call, answered alike by all processes


class Outcome(NamedTuple):
    """What training ended with."""

    state: State  # of the last stage
    step: int
    results: Mapping[str, Measured]  # "test/neg_elbo" -> its mean and standard error
    parameters: int
    seconds: float  # in the loop, without compilation
    compile_seconds: float
    examples: int  # seen in this process's life


class _Interval(NamedTuple):
    """The totals of one log interval, read when the next one ends."""

    first: int
    last: int
    totals: Totals
    seconds: float


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
    _check(experiment, options)
    mesh = parallel.mesh(options.devices)
    began, compiling, examples, state, program = time.perf_counter(), 0.0, 0, None, None
    first = _resume_stage(directory)
    for index in range(first, len(experiment.stages)):
        stage = experiment.stages[index]
        keys = stage_keys(options.seed, index)
        program = compile_stage(stage, keys, options.seed, mesh, options.precision, options.parallel)
        compiling += program.seconds
        found = restore(directory, program.abstract, stage_index=index) if index == first else None
        if found is None and index > 0 and state is None:
            raise Damaged(f"stage {index} has no checkpoint", "the stage before it has none either", "start a new run")
        state, step = (found[0], found[1].step) if found else (_start(stage, program, state), 0)
        view = _view(experiment, index, mesh, keys.evaluate, outlets)
        state, step, seen = _run_stage(stage, index, program, state, step, options, outlets, view)
        examples += seen
    results = view.measure(state, step, final=True)
    view.look(state, step)
    seconds = time.perf_counter() - began - compiling
    return Outcome(state, step, results, _size(averaged_state(state).params), seconds, compiling, examples)


def _run_stage(
    stage: Stage, index: int, program: Program, state: State, step: int, options: Options, outlets: Outlets, view: Any
) -> tuple[State, int, int]:
    save_every, log_every, look_every = _intervals(stage, options)
    totals, interval_start, first_step = program.zero(), step, step
    pending: deque[_Interval] = deque()
    ticks: deque[Any] = deque()
    clock = time.perf_counter()
    score = view.measure(state, step) if step == 0 else {}
    if step == 0:
        view.look(state, step)
    while step < stage.steps:
        boundary = min(_next(step, every) for every in (save_every, log_every, look_every))
        count = min(stage.steps_per_call, boundary - step, stage.steps - step)
        state, (totals, tick) = program.call(state, totals, program.feed(step), np.int32(count))
        step += count
        ticks.append(tick)
        if len(ticks) > AHEAD:
            ticks.popleft().block_until_ready()
        done = step == stage.steps
        stopping = outlets.stop() and not done
        looking, saving = step % look_every == 0 or done, step % save_every == 0 or done or stopping
        if step % log_every == 0 or looking or saving:
            pending.append(_Interval(interval_start, step, totals, clock))
            totals, interval_start, clock = program.zero(), step, time.perf_counter()
            while len(pending) > (0 if looking or saving else 1):
                _log(pending.popleft(), stage, index, program, outlets)
        if looking or (saving and view.selects):
            score = view.measure(state, step)
            view.look(state, step)
            clock = time.perf_counter()
        if saving:
            metrics = {name: measured.value for name, measured in score.items()} if looking or view.selects else {}
            outlets.store.save(
                state, stage=stage.name, stage_index=index, step=step, metrics=metrics,
                score=view.score(metrics), final=done,
            )  # fmt: skip
        if stopping:
            outlets.store.wait()
            raise Preempted(
                f"stopped at step {step:,} of {stage.steps:,} of stage {stage.name!r}", "the state is saved"
            )
    outlets.store.wait()
    return state, step, (step - first_step) * stage.data.batch_size


def _log(interval: _Interval, stage: Stage, index: int, program: Program, outlets: Outlets) -> None:
    totals = jax.device_get(interval.totals)
    if totals.bad >= 0:
        raise NonFinite(
            f"stage {stage.name!r}, step {interval.first + int(totals.count):,}: "
            f"{program.leaves[int(totals.bad)]} is not finite",
            "the update that made it was not kept; the last good checkpoint stands",
            "lower the learning rate, clip gradients (optax.clip_by_global_norm), or look at the data of that step",
        )
    means = {name: float(value) / max(int(totals.count), 1) for name, value in totals.sums.items()}
    rate = (interval.last - interval.first) / max(time.perf_counter() - interval.seconds, 1e-9)
    row = {"stage": stage.name, "stage_index": index, "step": interval.last, "kind": "train"}
    outlets.row({**row, **means, "updates_per_second": rate})
    outlets.progress(stage, interval.last, means)


def _start(stage: Stage, program: Program, previous: State | None) -> State:
    fresh = program.fresh()
    if stage.inherit is None or previous is None:
        return fresh
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract)
    with explained(stage.name):
        state = jax.jit(stage.inherit, out_shardings=shardings)(previous, fresh)
    wrong = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, state, program.abstract)
    if not all(jax.tree.leaves(wrong)):
        raise BadInput(f"stage {stage.name!r}: inherit changes shapes or dtypes", "start from the fresh state")
    return state


def _resume_stage(directory: Path) -> int:
    """The stage to take up: the newest that has a sealed checkpoint, 0 for a new run."""
    found = seals(directory)
    return found[0].stage_index if found else 0


def _intervals(stage: Stage, options: Options) -> tuple[int, int, int]:
    tenth = max(1, stage.steps // 10)
    return (
        options.checkpoint_every or min(tenth, 5000),
        options.log_every or min(max(1, stage.steps // 100), 1000),
        options.evaluate_every or tenth,
    )


def _next(step: int, every: int) -> int:
    return (step // every + 1) * every


def _size(params: Any) -> int:
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))


class _View(NamedTuple):
    """The evaluations and pictures of one stage."""

    measure: Callable[..., dict[str, Measured]]
    look: Callable[[State, int], None]
    score: Callable[[Mapping[str, float]], float | None]
    selects: bool


def _view(experiment: Experiment, index: int, mesh: Any, key: Any, outlets: Outlets) -> _View:
    stage, last = experiment.stages[index], index == len(experiment.stages) - 1
    mine = {n: e for n, e in experiment.evaluations.items() if e.stage == stage.name or (last and e.stage is None)}
    compiled: dict[str, Callable[..., dict[str, Measured]]] = {}
    row = {"stage": stage.name, "stage_index": index}
    pictures = dict(experiment.pictures)
    if experiment.sample is not None:
        pictures = {"samples": lambda state, key: experiment.sample(state, key, SHOWN), **pictures}
    drawn = {name: jax.jit(draw, out_shardings=parallel.replicated(mesh)) for name, draw in pictures.items()}

    def run(name: str, evaluation: Evaluation, state: State) -> dict[str, Measured]:
        if name not in compiled:
            compiled[name] = evaluator(evaluation, mesh)
        with explained(f"evaluation {name}"):
            measured = compiled[name](state, jax.random.fold_in(key, sorted(experiment.evaluations).index(name)))
        return {f"{name}/{measure}": value for measure, value in measured.items()}

    def measure(state: State, step: int, final: bool = False) -> dict[str, Measured]:
        results: dict[str, Measured] = {}
        for name, evaluation in mine.items():
            if final or not evaluation.final:
                results |= run(name, evaluation, state)
        kind = "final" if final else "evaluation"
        errors = {f"{name}_standard_error": value.standard_error for name, value in results.items()}
        if results:
            outlets.row({**row, "step": step, "kind": kind, **{n: v.value for n, v in results.items()}, **errors})
        return results

    def look(state: State, step: int) -> None:
        if not last:
            return
        seen = averaged_state(state)
        for name, draw in drawn.items():
            with explained(f"picture {name}"):
                images = jax.device_get(draw(seen, jax.random.fold_in(key, 2**31)))
            outlets.picture(name, stage.name, index, step, images)

    chosen = experiment.select
    return _View(measure, look, lambda metrics: metrics.get(chosen) if chosen else None, bool(chosen) and last)


def _check(experiment: Experiment, options: Options) -> None:
    if not experiment.stages:
        raise BadInput("the experiment has no stages", "at least one Stage(name, learner, data, steps)")
    names = [stage.name for stage in experiment.stages]
    if len(set(names)) != len(names):
        raise BadInput(f"stages share a name: {names}", "every stage needs its own name")
    for stage in experiment.stages:
        if stage.steps < 0 or int(stage.steps) != stage.steps:
            raise BadInput(f"stage {stage.name!r}: steps = {stage.steps}", "allowed: whole numbers from 0")
        if stage.steps_per_call < 1:
            raise BadInput(f"stage {stage.name!r}: steps_per_call = {stage.steps_per_call}", "allowed: from 1")
    if experiment.select is not None:
        _check_select(experiment)
    for name in ("checkpoint_every", "log_every", "evaluate_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise BadInput(f"--{name.replace('_', '-')} {value}", "allowed: whole numbers of updates from 1")


def _check_select(experiment: Experiment) -> None:
    split, _, measure = (experiment.select or "").partition("/")
    evaluation = experiment.evaluations.get(split)
    if evaluation is None or measure not in evaluation.quantities or evaluation.final:
        known = [f"{n}/{q}" for n, e in experiment.evaluations.items() if not e.final for q in e.quantities]
        raise BadInput(f"select = {experiment.select!r}", f"measured during training: {', '.join(known) or 'nothing'}")

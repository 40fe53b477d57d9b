"""A run: its directory, its configuration, its beginning and its end.

    RUN/config.json  environment.json  experiment.py  metrics.jsonl  results.json  report.html
    RUN/checkpoints/  pictures/  tensorboard/  quarantine/  LOCK

`config.json` and the copy of the experiment file are written first and say what the run is; a later start in the same
directory goes on with the same run or refuses, field by field.
"""

import contextlib
import itertools
import sys
import typing
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from genjax import hosts, parallel
from genjax.arguments import CheckpointEvery, Devices, EvaluateEvery, LogEvery, Parallel, Precision
from genjax.checkpoint import Seal, lock, open_store, seals
from genjax.compilation import PRECISIONS, check_seed
from genjax.directory import check_allowed, check_run, run_directory, settle
from genjax.errors import BadInput, Damaged, Preempted
from genjax.experiment import Experiment
from genjax.fields import Loaded, build, load
from genjax.kinds import fits, kind_name
from genjax.record import (
    Results,
    configuration,
    evaluation_line,
    facts_of,
    finished,
    identity_of,
    open_results,
    peak_bytes,
    read_config,
    result_lines,
    result_text,
    shared_facts,
)
from genjax.report import Log, draw, open_log, open_progress, write_report
from genjax.stopping import stop_requests
from genjax.train import Options, Outcome, Outlets, check_intervals, train
from genjax.types import Stage


class TrainOptions(NamedTuple):
    """Options of the command; every other option is a field of the experiment."""

    workdir: str | None = None
    """The run's own directory; default: runs/EXPERIMENT-DATE-TIME. A directory that holds this run is gone on with."""
    seed: int = 0
    """From 0 to 2^32 - 1; parameters, batches and noise are pure functions of it."""
    devices: Devices = None
    checkpoint_every: CheckpointEvery = None
    log_every: LogEvery = None
    evaluate_every: EvaluateEvery = None
    precision: Precision = "float32"
    parallel: Parallel = "jit"
    keep: int = 3
    """Newest checkpoints to keep; the best one and the last of each stage are kept besides."""
    allow_change: tuple[str, ...] = ()
    """Fields that may differ from the run that is gone on with, for example: steps."""
    coordinator: str | None = None
    """Several hosts: HOST:PORT of process 0; default: detected (Slurm, Open MPI, GKE, Cloud TPU)."""
    processes: int | None = None
    """Several hosts: number of processes; default: detected."""
    process: int | None = None
    """Several hosts: number of this process, from 0; default: detected."""
    debug: bool = False
    """Whole tracebacks instead of three lines, and a check for NaN after every operation."""


def start_run(loaded: Loaded, values: Mapping[str, Any], options: TrainOptions) -> int:
    """Train an experiment in its run directory, from the beginning or from where it stopped.

    Args:
      loaded: the experiment file.
      values: its fields.
      options: the command's.

    Returns:
      0: the run is finished, now or already before; whatever else happens is a GenjaxError with its exit code.
    """
    _check_options(options)
    hosts.start(options.coordinator, options.processes, options.process)
    mesh, leader = parallel.mesh(options.devices), jax.process_index() == 0
    if options.workdir is None and jax.process_count() > 1:
        raise BadInput("several processes without --workdir", "all must write to one place", "add --workdir RUN")
    directory, experiment = run_directory(options.workdir, loaded.name), build(loaded, values)
    for stage in experiment.stages:
        parallel.check_batch(stage.data.batch_size, mesh.size)
    config, facts = identified(loaded, values, options, experiment)
    check_allowed(options.allow_change, facts)
    with lock(directory) if leader else contextlib.nullcontext():
        if leader:
            check_run(directory, facts, options.allow_change)
        hosts.agree({**facts, **shared_facts(config)})
        if finished(directory, facts):
            _say(f"{directory} is finished: nothing to do", leader)
            return 0
        if leader:
            settle(directory, loaded, config, facts, options.allow_change)
        hosts.meet("settled")  # the others read what the leader has written
        with stop_requests(hosts.stop_signals()) as asked:
            calls = itertools.count()
            told: list[bool] = []  # once all have agreed to stop, they stop: JAX says so at one call only

            def stop() -> bool:
                if not told and hosts.agree_to_stop(next(calls), asked()):
                    told.append(True)
                return bool(told)

            return _train(experiment, directory, loaded, options, stop, leader)


def identified(
    loaded: Loaded, values: Mapping[str, Any], options: TrainOptions, experiment: Experiment
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run directory says its run is: its configuration, and the facts that must not change when it goes on."""
    chosen = {"select": experiment.select, "better": _better(experiment)}  # by what sweeps and lists rank runs
    config = {**configuration(loaded, values, options._asdict()), **chosen}
    return config, facts_of(config, experiment)


def resume_arguments(directory: Path) -> tuple[Loaded, dict[str, Any]]:
    """The experiment of a run directory, its fields' defaults replaced by the run's values, and its options."""
    config = read_config(directory)
    told = config["experiment"]
    if not (directory / "experiment.py").exists():
        raise BadInput(
            f"{directory} has lost its copy of the experiment file, experiment.py",
            f"it was a copy of {told['file']}",
            f"put it back, or run: genjax train {told['file']} --workdir {directory}",
        )
    loaded = load(directory / "experiment.py", Path(told["folder"]))._replace(name=told["name"])
    fields = [f._replace(default=_kept(directory, f.name, f.type, told["fields"], f.default)) for f in loaded.fields]
    types = typing.get_type_hints(TrainOptions)
    kept = {name: _kept(directory, name, types[name], config) for name in TrainOptions._fields if name in config}
    return loaded._replace(fields=tuple(fields)), {**kept, "workdir": str(directory)}


def _kept(directory: Path, name: str, kind: Any, values: Mapping[str, Any], default: Any = None) -> Any:
    """A value of `config.json` as it was before JSON made lists of tuples."""
    if name not in values:
        return default
    value = tuple(values[name]) if isinstance(values[name], list) else values[name]
    if not fits(value, kind):
        raise Damaged(
            f"{directory / 'config.json'}: {name} is {value!r}",
            f"it is of type {kind_name(kind)}",
            "put back its value",
        )
    return value


def _train(
    experiment: Experiment, directory: Path, loaded: Loaded, options: TrainOptions, stop: Callable[[], bool],
    leader: bool,
) -> int:  # fmt: skip
    progress, better = open_progress(sys.stderr), _better(experiment)
    store = open_store(directory, identity_of(directory, experiment), keep=options.keep, better=better)
    results = open_results(directory, leader)
    logs: list[Log] = []  # of the first process, one
    scores: list[float] = []

    def begin(stage_index: int, step: int) -> None:
        if leader:  # what was logged later is logged again
            logs.append(open_log(directory, [stage.steps for stage in experiment.stages], after=(stage_index, step)))
            scores.extend(seal.score for seal in seals(directory) if seal.score is not None)

    def row(values: Mapping[str, Any]) -> None:
        for log in logs:
            log.write(values)
            if values["kind"] != "train":
                progress.say(evaluation_line(values, experiment))
            chosen = values.get(experiment.select or "")
            if values["kind"] == "evaluation" and chosen is not None:
                scores.append(chosen)

    sealed: deque[Seal] = deque()  # filled by the commit thread, told by this one

    def tell_saved() -> None:
        while leader and sealed:
            seal = sealed.popleft()
            progress.say(f"{seal.stage} step {seal.step:,}: saved")

    def show(stage: Stage, step: int, metrics: Mapping[str, float]) -> None:
        tell_saved()
        if leader:
            best = {"lower": min, "higher": max}[better](scores, default=None)
            batch_size = stage.data.batch_size
            progress.step(stage.name, step, stage.steps, loss=metrics.get("loss"), best=best, batch_size=batch_size)

    def picture(name: str, stage: str, index: int, step: int, images: Any) -> None:
        for log in logs:
            log.picture(name, stage, index, step, draw(images))

    file = lambda name, index, step, content: [log.file(name, index, step, content()) for log in logs]
    outlets = Outlets(row, picture, file, show, store, sealed.append, stop, begin, results.spend)
    chosen = Options(*(getattr(options, name) for name in Options._fields))
    _say(_headline(loaded, directory, experiment, options), leader)
    results.write({"state": "running"})
    try:
        outcome = train(experiment, directory, chosen, outlets)
    except BaseException as error:
        tell_saved()
        progress.close()
        state = {2: "refused", 3: "non-finite", 4: "damaged", 75: "preempted"}.get(getattr(error, "exit_code", 1))
        ended = {"state": state or "failed", "message": str(error)}
        _close(store.close, lambda: results.write(ended))
        if leader:
            _close(*(log.close for log in logs), lambda: write_report(directory))
        if isinstance(error, Preempted):
            raise Preempted(error.lines[0], error.lines[1], f"go on with: genjax resume {directory}") from None
        raise
    tell_saved()
    progress.close()
    store.close()
    for log in logs:
        log.close()
        _finish(experiment, directory, loaded, outcome, results)
    return 0


def _close(*acts: Callable[[], Any]) -> None:
    """After an error: whatever of this fails too, perhaps for the same reason, must not hide the error."""
    for act in acts:
        with contextlib.suppress(Exception):
            act()


def _finish(experiment: Experiment, directory: Path, loaded: Loaded, outcome: Outcome, results: Results) -> None:
    lines = result_lines(experiment, outcome.results, outcome.state, outcome.step, read_config(directory))
    ended = {"results": lines, "parameters": outcome.parameters, "peak_bytes": peak_bytes()}
    told = results.write({"state": "finished", **ended})
    report = write_report(directory)
    _say("", True)
    for line in lines:
        _say(result_text(line), True)
    cost = f"{told['updates']:,} updates in {told['seconds']:.1f} s, {told['compile_seconds']:.1f} s compiling"
    cost += f", {told['evaluate_seconds']:.1f} s evaluating" if lines else ""
    cost += f", in {told['processes']} processes one after the other" if told["processes"] > 1 else ""
    _say("\n".join([f"cost     {cost}", f"report   {report}", *_next_steps(directory, loaded, experiment)]), True)


def _next_steps(directory: Path, loaded: Loaded, experiment: Experiment) -> list[str]:
    fields = {field.name: field for field in loaded.fields}
    out = next((f"--n 8 --out samples{suffix}" for suffix in experiment.formats), "--n 64 --out grid.png")
    commands = [f"sample {directory} {out}"] if experiment.sample else []
    commands += [f'sample {directory} --prompt "..."'] if experiment.text else []
    commands += [f"evaluate {directory}"] if experiment.evaluations else []
    more = 2 * (read_config(directory)["experiment"]["fields"].get("steps") or 0)
    if more:
        commands.append(f"resume {directory} --steps {more} --allow-change steps")
    if "learning_rate" in fields:
        commands.append(f"sweep {loaded.path} learning_rate=3e-4,1e-3,3e-3 seed=0:3")
    return [f"{'next' if number == 0 else '':8} genjax {command}" for number, command in enumerate(commands)]


def _headline(loaded: Loaded, directory: Path, experiment: Experiment, options: TrainOptions) -> str:
    device = jax.devices()[0]
    count = options.devices or jax.device_count()
    stages = ", ".join(f"{stage.name} {stage.steps:,} updates" for stage in experiment.stages)
    return (
        f"{loaded.title}\nrun      {directory}\nstages   {stages}\n"
        f"device   {count} x {device.device_kind}, {options.precision}, {options.parallel}"
    )


def _check_options(options: TrainOptions) -> None:
    check_seed(options.seed)
    if options.precision not in PRECISIONS:
        raise BadInput(f"--precision {options.precision}", f"allowed: {', '.join(PRECISIONS)}")
    check_intervals(options)
    if options.keep < 1:
        raise BadInput(f"--keep {options.keep}", "allowed: whole numbers from 1")
    if options.debug:
        jax.config.update("jax_debug_nans", True)


def _better(experiment: Experiment) -> Literal["lower", "higher"]:
    split, _, measure = (experiment.select or "").partition("/")
    higher = experiment.select is not None and experiment.evaluations[split].quantities[measure].better == "higher"
    return "higher" if higher else "lower"


def _say(text: str, leader: bool) -> None:
    if leader:
        print(text, flush=True)

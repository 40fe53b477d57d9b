"""What is done with a run that has checkpoints: evaluate, sample."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from genjax import parallel
from genjax.checkpoint import restore
from genjax.compilation import Keys, check_seed, stage_keys
from genjax.errors import BadInput, Damaged
from genjax.evaluate import Measured, averaged_state, evaluator
from genjax.experiment import Experiment, evaluations_of
from genjax.explaining import explained
from genjax.fields import build
from genjax.power_averages import reconstructed
from genjax.record import read_config, result_lines, result_text, source_digest
from genjax.report import draw, save_png, write_whole
from genjax.run import resume_arguments
from genjax.train import restore_selected
from genjax.types import Key, State
from genjax.view import encoded


class EvaluateOptions(NamedTuple):
    """Options of `genjax evaluate RUN`."""

    step: int | None = None
    """The checkpoint of this step; default: the best where the experiment selects one, else the newest."""
    seed: int | None = None
    """Of the measures' noise; default: the run's own, which repeats its numbers."""
    widths: tuple[float, ...] = ()
    """Of averages that are solved for now, from the two that `power_averages` kept; default: the run's own average."""
    devices: int | None = None
    """How many devices to use; default: all."""
    debug: bool = False
    """Whole tracebacks."""


class SampleOptions(NamedTuple):
    """Options of `genjax sample RUN`."""

    n: int | None = None
    """How many samples; default: 64, or one text that goes on from --prompt."""
    out: str | None = None
    """A picture (.png), the numbers (.npz), or a format of the experiment's; default: samples.png, or its first."""
    prompt: str | None = None
    """A text that the model goes on with, written to the terminal as it is drawn; only for models of text."""
    tokens: int = 256
    """After the prompt, at most."""
    temperature: float = 1.0
    """Of the tokens after the prompt: below 1 the likely ones are drawn more often, 0 takes the most likely."""
    top_k: int | None = None
    """Only the k most likely tokens are drawn."""
    top_p: float = 1.0
    """Only the fewest tokens are drawn whose probability is at least p."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that stand in the text already are drawn less often."""
    sampler: Literal["ddim", "ddpm", "2m", "euler", "heun", "churn"] | None = None
    """Of a diffusion model; default: as the experiment draws, or 2m where one of the next three is given."""
    steps: int | None = None
    """Of that sampler; default: 50."""
    guidance: float | None = None
    """w of a diffusion model with labels: 0 without the label, 1 the label alone, above 1 beyond it."""
    label: int | None = None
    """Of a diffusion model with labels: which class; default: one after the other."""
    width: float | None = None
    """Of the average that is sampled from, where the run kept `power_averages`; default: the run's own average."""
    step: int | None = None
    """The checkpoint of this step; default: the best where the experiment selects one, else the newest."""
    seed: int = 0
    """Of the samples."""
    devices: int | None = None
    """How many devices to use; default: all."""
    debug: bool = False
    """Whole tracebacks."""


class Opened(NamedTuple):
    """A run whose last stage's state has been restored."""

    experiment: Experiment
    state: State  # raw parameters
    step: int
    mesh: Any
    keys: Keys

    @property
    def sampling(self) -> Key:
        """The key of what is drawn; no evaluation has that number."""
        return jax.random.fold_in(self.keys.evaluate, 2**30)


def open_run(path: str, step: int | None, devices: int | None, seed: int | None) -> Opened:
    """Restore a checkpoint of a run's last stage, by the run's own copy of its experiment file.

    Args:
      path: the run directory.
      step: of the checkpoint; None: the best where the experiment selects one, else the newest.
      devices: how many; None: all.
      seed: of the keys for evaluation and sampling; None: the run's.

    Raises:
      BadInput: no run directory, no checkpoint of the last stage yet, the step is not kept.
      Damaged: no checkpoint can be read.
    """
    directory = Path(path)
    if seed is not None:
        check_seed(seed)
    loaded, options = resume_arguments(directory)
    if source_digest(loaded) != read_config(directory)["source"]:
        print(f"{directory / 'experiment.py'} was edited since the run began", file=sys.stderr)
    experiment = build(loaded, {field.name: field.default for field in loaded.fields})
    mesh, index = parallel.mesh(devices), len(experiment.stages) - 1
    stage = experiment.stages[index]
    keys = stage_keys(options["seed"], index)
    with explained(f"stage {stage.name!r}"):
        example = jax.eval_shape(lambda feed, key: stage.data.batch(feed, key, 0), _example(stage), keys.data)
        shapes = jax.eval_shape(stage.learner.init, keys.init, example)
    shardings = parallel.state_shardings(mesh, shapes)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    found = restore_selected(experiment, directory, abstract) if step is None else None
    if found is None:
        newest = restore(directory, abstract, step=step, stage_index=index)
        found = (newest[0], newest[1].step) if newest else None
    if found is None:
        raise BadInput(
            f"{directory} has no checkpoint of its last stage {stage.name!r} yet",
            "a checkpoint is written after a fifth of the stage, or --checkpoint-every",
            f"genjax resume {directory}",
        )
    keys = stage_keys(options["seed"] if seed is None else seed, index)
    return Opened(experiment, *found, mesh, keys)


def evaluate_run(path: str, options: EvaluateOptions) -> int:
    """Measure a checkpoint on every evaluation of the experiment, print the lines, add them to evaluations.jsonl."""
    run = open_run(path, options.step, options.devices, options.seed)
    if not run.experiment.evaluations:
        raise BadInput(f"the experiment of {path} has no evaluations", "Experiment(evaluations={...}) defines them")
    clock, lines = time.perf_counter(), _measured(run, options.widths, read_config(Path(path)))
    print(
        "\n".join([*(result_text(line) for line in lines), f"cost     {time.perf_counter() - clock:.1f} s evaluating"])
    )
    with open(Path(path) / "evaluations.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps({**line, "seed": options.seed}) + "\n" for line in lines)
    return 0


def of_width(state: State, width: float) -> State:
    """A state with the average of a width in place of its parameters, and no other average.

    Args:
      state: whose optimizer keeps `power_averages`.
      width: relative to the training so far, as of `power_averages.exponent`.

    Raises:
      BadInput: as `reconstructed`.
    """
    return state._replace(params=reconstructed(state.opt_state, width), opt_state=())


def _measured(run: Opened, widths: tuple[float, ...], config: Any) -> list[dict[str, Any]]:
    """The result lines of a run's last stage: of its own average, or of each width's."""
    states = {f"average of width {width}": of_width(run.state, width) for width in widths} or {"": run.state}
    found: dict[str, dict[str, Measured]] = {weights: {} for weights in states}
    own = evaluations_of(run.experiment, len(run.experiment.stages) - 1)
    for number, (name, evaluation) in enumerate(sorted(run.experiment.evaluations.items())):
        if name not in own:
            continue  # it measures an earlier stage
        with explained(f"evaluation {name!r}"):
            measure, key = evaluator(evaluation, run.mesh), jax.random.fold_in(run.keys.evaluate, number)
            for weights, state in states.items():
                found[weights] |= {f"{name}/{measured}": value for measured, value in measure(state, key).items()}
    lines = []
    for weights, state in states.items():
        for line in result_lines(run.experiment, found[weights], state, run.step, config):
            lines.append({**line, "weights": weights or line["weights"]})
    return lines


Draw = Callable[[State, Key, int], Any]  # (state, key, n) -> samples


def sample_run(path: str, options: SampleOptions, drawing: Callable[[Experiment], Draw | None] | None = None) -> int:
    """Draw n samples from a checkpoint into a file: a picture, the numbers, or a format of the experiment's own.

    Args:
      path: the run directory.
      options: as given.
      drawing: of the experiment, how samples are drawn; default: the experiment's own `sample`.

    Raises:
      BadInput: a setting out of its range, no sample function, a file that cannot be written.
    """
    n = _check_sampling(options)
    run = open_run(path, options.step, options.devices, options.seed)
    if options.width is not None:
        run = run._replace(state=of_width(run.state, options.width))
    experiment = run.experiment
    chosen = experiment.sample if drawing is None else drawing(experiment)
    if chosen is None:
        raise BadInput(f"the experiment of {path} defines no sample function", "Experiment(sample=f) defines it")
    suffixes = [*(experiment.formats or [".png"]), ".npz"]
    out = Path(f"samples{suffixes[0]}" if options.out is None else options.out)
    if out.suffix not in suffixes:
        told = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise BadInput(f"--out {options.out}", f"allowed: a file ending in {told}", f"--out samples{suffixes[0]}")
    drawn = samples_of(run, chosen, n)
    if out.suffix in experiment.formats:
        write_whole(out, encoded(out.name, experiment.formats[out.suffix], drawn))
    elif out.suffix == ".png":
        save_png(out, draw(drawn))
    else:
        np.savez(out, samples=drawn)
    print(f"{n} samples of step {run.step:,} in {out}")
    return 0


def samples_of(run: Opened, drawing: Draw, n: int) -> np.ndarray:
    """What is drawn from a run's averaged parameters.

    Raises:
      Damaged: samples that are not finite.
    """
    with explained("sample", n=n):
        drawn = arrays_of(jax.jit(drawing, static_argnums=2)(averaged_state(run.state), run.sampling, n))
    if not np.isfinite(drawn).all():
        raise Damaged("the samples are not finite", "", "sample an earlier checkpoint with --step")
    return drawn


def arrays_of(drawn: jax.Array) -> np.ndarray:
    """Its numbers on the host, once it is computed: without waiting, what found no memory ends the process.

    >>> arrays_of(jax.numpy.ones(2)).tolist()
    [1.0, 1.0]
    """
    return np.asarray(jax.block_until_ready(drawn))


def _check_sampling(options: SampleOptions) -> int:
    n, out = 64 if options.n is None else options.n, Path("samples.png" if options.out is None else options.out)
    if n < 1:
        raise BadInput(f"--n {n}", "allowed: whole numbers from 1", "for example --n 64")
    for name in ("tokens", "temperature", "top_k", "top_p", "repetition_penalty"):
        if getattr(options, name) != SampleOptions._field_defaults[name]:
            told = f"--{name.replace('_', '-')} {getattr(options, name)} without --prompt"
            raise BadInput(told, "it says how a text goes on", 'add --prompt "..."')
    check_out(out, [out.suffix])
    return n


def check_out(out: Path, suffixes: list[str]) -> None:
    """That a file may be written.

    Raises:
      BadInput: another ending, a folder that is not there or cannot be written, a folder of that name.
    """
    if out.suffix not in suffixes:
        raise BadInput(f"--out {out}", f"allowed: a file ending in {', '.join(suffixes)}")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK) or out.is_dir():
        raise BadInput(f"--out {out} cannot be written", "its folder must exist and be writable")


def _example(stage: Any) -> Any:
    source = stage.data
    return source.resident if source.fetch is None else source.fetch(0, 0)

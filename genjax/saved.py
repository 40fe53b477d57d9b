"""What is done with a run that has checkpoints: evaluate, sample."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

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
from genjax.record import read_config, result_lines, result_text, source_digest
from genjax.report import draw, save_png
from genjax.run import resume_arguments
from genjax.train import restore_selected
from genjax.types import State


class EvaluateOptions(NamedTuple):
    """Options of `genjax evaluate RUN`."""

    step: int | None = None
    """The checkpoint of this step; default: the best where the experiment selects one, else the newest."""
    seed: int | None = None
    """Of the measures' noise; default: the run's own, which repeats its numbers."""
    devices: int | None = None
    """How many devices to use; default: all."""
    debug: bool = False
    """Whole tracebacks."""


class SampleOptions(NamedTuple):
    """Options of `genjax sample RUN`."""

    n: int = 64
    """How many samples."""
    out: str = "samples.png"
    """A picture (.png), or the numbers themselves (.npz)."""
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
            "a checkpoint is written after a tenth of the stage, or --checkpoint-every",
            f"genjax resume {directory}",
        )
    keys = stage_keys(options["seed"] if seed is None else seed, index)
    return Opened(experiment, *found, mesh, keys)


def evaluate_run(path: str, options: EvaluateOptions) -> int:
    """Measure a checkpoint on every evaluation of the experiment, print the lines, add them to evaluations.jsonl."""
    run = open_run(path, options.step, options.devices, options.seed)
    if not run.experiment.evaluations:
        raise BadInput(f"the experiment of {path} has no evaluations", "Experiment(evaluations={...}) defines them")
    results: dict[str, Measured] = {}
    for number, (name, evaluation) in enumerate(sorted(run.experiment.evaluations.items())):
        if name not in evaluations_of(run.experiment, len(run.experiment.stages) - 1):
            continue  # it measures an earlier stage
        with explained(f"evaluation {name!r}"):
            measured = evaluator(evaluation, run.mesh)(run.state, jax.random.fold_in(run.keys.evaluate, number))
        results |= {f"{name}/{measure}": value for measure, value in measured.items()}
    lines = result_lines(run.experiment, results, run.state, run.step, read_config(Path(path)))
    print("\n".join(result_text(line) for line in lines))
    with open(Path(path) / "evaluations.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps({**line, "seed": options.seed}) + "\n" for line in lines)
    return 0


def sample_run(path: str, options: SampleOptions) -> int:
    """Draw n samples from a checkpoint into a picture or an .npz file."""
    out = Path(options.out)
    if options.n < 1:
        raise BadInput(f"--n {options.n}", "allowed: whole numbers from 1", "for example --n 64")
    if out.suffix not in (".png", ".npz"):
        raise BadInput(f"--out {options.out}", "allowed: a file ending in .png or .npz", "--out samples.png")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK) or out.is_dir():
        raise BadInput(f"--out {options.out} cannot be written", "its folder must exist and be writable")
    run = open_run(path, options.step, options.devices, options.seed)
    if run.experiment.sample is None:
        raise BadInput(f"the experiment of {path} defines no sample function", "Experiment(sample=f) defines it")
    sample = jax.jit(run.experiment.sample, static_argnums=2)
    with explained("sample"):
        images = np.asarray(sample(averaged_state(run.state), jax.random.fold_in(run.keys.evaluate, 2**30), options.n))
    if not np.isfinite(images).all():
        raise Damaged("the samples are not finite", "", "sample an earlier checkpoint with --step")
    if out.suffix == ".png":
        save_png(out, draw(images))
    else:
        np.savez(out, samples=images)
    print(f"{options.n} samples of step {run.step:,} in {out}")
    return 0


def _example(stage: Any) -> Any:
    source = stage.data
    return source.resident if source.fetch is None else source.fetch(0, 0)

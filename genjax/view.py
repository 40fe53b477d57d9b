"""What is seen of a stage while it trains: its evaluations, its pictures, the score that selects a checkpoint."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax

from genjax import parallel
from genjax.errors import BadInput, NonFinite
from genjax.evaluate import Evaluation, Measured, averaged_state, check_measure, evaluator
from genjax.experiment import Experiment, Picture, evaluations_of
from genjax.explaining import explained
from genjax.types import Key, State

Encoders = Mapping[str, Callable[[Any], bytes]]  # file name -> content; none: a picture


class View(NamedTuple):
    """The evaluations and pictures of one stage."""

    measure: Callable[..., dict[str, Measured]]  # (state, step, final=False)
    look: Callable[[State, int], None]  # draws and writes the pictures
    score: Callable[[Mapping[str, float]], float | None]  # of the measured values: what selects a checkpoint
    selects: bool


def open_view(
    experiment: Experiment,
    index: int,
    mesh: Any,
    key: Key,
    abstract: State,
    row: Any,
    picture: Any,
    file: Any,
    stop: Any,
    took: Any,
) -> View:
    """The evaluations and pictures of stage `index`; each is compiled when it is first used.

    Args:
      experiment: whose evaluations name this stage, or none and this is the last.
      index: of the stage.
      mesh: the devices.
      key: of the evaluations of this stage; the same noise at every step, so that curves compare.
      abstract: shapes and dtypes of the stage's state.
      row: writes a log row.
      picture: (name, stage, stage index, step, images) writes a picture.
      file: (name, stage index, step, content) writes a file; content() -> bytes.
      stop: asked between batches; True ends an evaluation with Preempted.
      took: told the seconds of an evaluation, compilation included.
    """
    stage, last = experiment.stages[index], index == len(experiment.stages) - 1
    mine = evaluations_of(experiment, index)
    for name, evaluation in mine.items():
        if evaluation.final:
            with explained(f"evaluation {name!r}"):
                check_measure(evaluation, abstract)
    compiled: dict[str, Callable[..., dict[str, Measured]]] = {}
    about = {"stage": stage.name, "stage_index": index}
    drawn = _drawn(experiment, stage.name, last, mesh)

    def run(name: str, evaluation: Evaluation, state: State, step: int) -> dict[str, Measured]:
        if name not in compiled:
            compiled[name] = evaluator(evaluation, mesh, stop)
        try:
            with explained(f"evaluation {name!r}"):
                measured = compiled[name](state, jax.random.fold_in(key, sorted(experiment.evaluations).index(name)))
        except NonFinite as error:
            raise NonFinite(
                f"stage {stage.name!r}, step {step:,}: {name}/{error.lines[0]}", *error.lines[1:]
            ) from error
        return {f"{name}/{measure}": value for measure, value in measured.items()}

    def measure(state: State, step: int, final: bool = False) -> dict[str, Measured]:
        results: dict[str, Measured] = {}
        clock = time.perf_counter()
        try:
            for name, evaluation in mine.items():
                if final or not evaluation.final:
                    results |= run(name, evaluation, state, step)
        finally:  # also of one that was asked to stop
            took(time.perf_counter() - clock)
        kind = "final" if final else "evaluation"
        errors = {f"{name}_standard_error": value.standard_error for name, value in results.items()}
        if results:
            row({**about, "step": step, "kind": kind, **{n: v.value for n, v in results.items()}, **errors})
        return results

    def look(state: State, step: int) -> None:
        if not drawn:
            return
        seen = averaged_state(state)
        for name, (draw, encoders) in drawn.items():
            with explained(f"picture {name!r}"):
                arrays = jax.device_get(draw(seen, jax.random.fold_in(key, 2**31)))
            if not encoders:
                picture(name, stage.name, index, step, arrays)
            for written, encode in encoders.items():
                file(written, index, step, partial(encoded, written, encode, arrays))

    chosen = experiment.select
    return View(measure, look, lambda metrics: metrics.get(chosen) if chosen else None, bool(chosen) and last)


def _drawn(
    experiment: Experiment, stage: str, last: bool, mesh: Any
) -> dict[str, tuple[Callable[[State, Key], Any], Encoders]]:
    """What is drawn at every look at a stage, compiled when first used, by name, and how it is written."""
    sample, shown = experiment.sample, experiment.shown
    found: dict[str, tuple[Callable[[State, Key], Any], Encoders]] = {}
    if last and sample is not None:
        named = {f"samples{suffix}": encode for suffix, encode in experiment.formats.items()}
        found["samples"] = (lambda state, key: sample(state, key, shown)), named
    for name, picture in experiment.pictures.items():
        of = picture if isinstance(picture, Picture) else Picture(picture, experiment.stages[-1].name)
        found |= {name: (of.draw, {})} if of.stage == stage else {}
    found |= {name: (file.draw, {name: file.encode}) for name, file in experiment.files.items() if last}
    whole = parallel.replicated(mesh)
    return {name: (jax.jit(draw, out_shardings=whole), encoders) for name, (draw, encoders) in found.items()}


def encoded(name: str, encode: Callable[[Any], bytes], arrays: Any) -> bytes:
    """The content of a file; what goes wrong in the user's function is told by the file's name.

    >>> encoded("a.txt", lambda numbers: str(numbers).encode(), [1, 2])
    b'[1, 2]'
    """
    with explained(f"file {name!r}"):
        content = encode(arrays)
    if not isinstance(content, bytes):
        raise BadInput(f"file {name!r}: its function returned {type(content).__name__}", "the content as bytes")
    return content

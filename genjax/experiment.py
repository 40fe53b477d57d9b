"""An experiment: what one small Python file defines, and what the commands need of it."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax.checkpoint.seal import STAGE_NAME
from genjax.corruption.gaussian import Process
from genjax.corruption.predictions import Denoise
from genjax.data.checks import check_rows
from genjax.errors import BadInput
from genjax.evaluate import Evaluation, Quantity
from genjax.likelihood.bits_back import Autoencoder
from genjax.likelihood.bits_back_chain import Chain
from genjax.likelihood.bits_back_importance import Ensemble
from genjax.likelihood.coding import Autoregression
from genjax.types import Key, Learner, Params, Source, Stage, State

Images = Any  # float32 in [0, 1]: [n, H, W, C], or [2, n, H, W, C] for pairs shown one above the other
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,63}\.[a-z0-9]{1,8}")


class File(NamedTuple):
    """A file that a run leaves at every look, such as `forecast.svg` or `table.txt`."""

    draw: Callable[[State, Key], Any]  # traced: arrays
    encode: Callable[[Any], bytes]  # on the host: NumPy arrays -> the file's content


class Picture(NamedTuple):
    """A picture of an earlier stage, as of each level of a growing run."""

    draw: Callable[[State, Key], Images]
    stage: str


class Text(NamedTuple):
    """How a model of tokens reads and writes: what `genjax sample RUN --prompt` needs."""

    encode: Callable[[str], Sequence[int]]  # text -> tokens; raises BadInput for what it cannot read
    decode: Callable[[Sequence[int]], str]
    decoder: Callable[[Params], Any]  # parameters -> genjax.samplers.decode.Decoder
    context: int  # tokens that it can hold
    stop: tuple[int, ...] = ()  # tokens that end a text


class Denoising(NamedTuple):
    """How a diffusion model denoises: what `genjax sample --sampler` and `genjax edit` need."""

    process: Process
    denoise: Callable[[Params, Any], Denoise]  # (parameters, labels [n] or None) -> E[x | z]; label K stands for none
    shape: tuple[int, ...]  # of an example
    encode: Callable[[Any], Any]  # pictures in [0, 1] -> the data that the model knows
    decode: Callable[[Any], Any]  # back
    classes: int = 0  # K; 0: no labels


class Coding(NamedTuple):
    """How a model codes its data without loss: what `genjax compress` and `decompress` need."""

    model: Autoregression | Autoencoder | Ensemble | Chain  # of rows: grey levels 0 .. L-1, or tokens of `text`
    shape: tuple[int, ...] = ()  # (H, W, C) of a picture, whose numbers are a row of symbols; (): text
    order: Sequence[int] = ()  # the pixels in the order in which the model has them; (): row by row
    first: int = 0  # of text: the token that stands before it


class Experiment(NamedTuple):
    """Stages of training, and how their result is measured and looked at.

    Every function gets a `State` whose params are the moving average where the optimizer keeps one (`ema`).
    """

    stages: Sequence[Stage]
    evaluations: Mapping[str, Evaluation] = {}  # split name -> what is measured on it
    sample: Callable[[State, Key, int], Any] | None = None  # of the last stage's state: Images, or what `formats` write
    pictures: Mapping[str, Callable[[State, Key], Images] | Picture] = {}  # reconstructions, ...; of the last stage
    select: str | None = None  # "validation/neg_elbo": the measure by which the best checkpoint is kept
    data: str = ""  # the data set's name, for the result lines
    shown: int = 64  # samples that are drawn at every look
    formats: Mapping[str, Callable[[np.ndarray], bytes]] = {}  # ".txt": how samples are written that are no pictures
    files: Mapping[str, File] = {}  # further files, by name
    text: Text | None = None
    denoising: Denoising | None = None
    coding: Coding | None = None


def evaluations_of(experiment: Experiment, index: int) -> dict[str, Evaluation]:
    """The evaluations of stage `index`: those that name it, and for the last stage those that name none."""
    name, last = experiment.stages[index].name, index == len(experiment.stages) - 1
    return {n: e for n, e in experiment.evaluations.items() if e.stage == name or (last and e.stage is None)}


def parameter_count(params: Any) -> int:
    """The number of parameters of a pytree of arrays or of their shapes."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))


def check_experiment(experiment: Experiment) -> None:
    """Refuse what no command can run, before anything is compiled or written.

    Raises:
      BadInput: names the part, its value, and what it may be.

    >>> check_experiment(Experiment([]))
    Traceback (most recent call last):
    genjax.errors.BadInput: the experiment has no stages
    at least one Stage(name, learner, data, steps)
    """
    stages = experiment.stages
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        raise BadInput(f"Experiment(stages={stages!r})"[:200], "a list of Stage(name, learner, data, steps)")
    if not stages:
        raise BadInput("the experiment has no stages", "at least one Stage(name, learner, data, steps)")
    for stage in stages:
        _check_stage(stage)
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise BadInput(f"stages share a name: {names}", "every stage needs its own name")
    _check_parts(
        "Experiment",
        (
            f"sample={experiment.sample!r}",
            _function(experiment.sample),
            "a function (state, key, n) -> images, or None",
        ),
        (
            f"pictures={experiment.pictures!r}",
            isinstance(experiment.pictures, Mapping)
            and all(_is_picture(p, names) for p in experiment.pictures.values()),
            f"{{name: function (state, key) -> images, or Picture(function, stage)}}, stage of {', '.join(names)}",
        ),
        (f"evaluations={experiment.evaluations!r}", isinstance(experiment.evaluations, Mapping), "{name: Evaluation}"),
        (f"shown={experiment.shown!r}", _whole(experiment.shown, 1), "whole numbers from 1"),
    )
    _check_written(experiment)
    for name, evaluation in experiment.evaluations.items():
        _check_evaluation(name, evaluation, names)
    if experiment.select is not None:
        _check_select(experiment)


def _is_picture(picture: Any, stages: Sequence[str]) -> bool:
    return picture.stage in stages and callable(picture.draw) if isinstance(picture, Picture) else callable(picture)


def _check_written(experiment: Experiment) -> None:
    formats, files, text = experiment.formats, experiment.files, experiment.text
    _check_parts(
        "Experiment",
        (
            f"formats={formats!r}",
            isinstance(formats, Mapping)
            and all(isinstance(s, str) and FILE_NAME.fullmatch(f"a{s}") and callable(f) for s, f in formats.items()),
            "{'.txt': function of the array of samples -> bytes}",
        ),
        (f"formats={[*formats]}, and no sample", not formats or experiment.sample is not None, "formats of `sample`"),
        (
            f"files={files!r}",
            isinstance(files, Mapping)
            and all(isinstance(n, str) and FILE_NAME.fullmatch(n) and _is_file(f) for n, f in files.items()),
            "{'name.suffix': File(draw, encode)}, both functions",
        ),
        (
            f"denoising={experiment.denoising!r}",
            experiment.denoising is None or isinstance(experiment.denoising, Denoising),
            "Denoising(process, denoise, shape, encode, decode, classes), or None",
        ),
        (
            f"coding={experiment.coding!r}",
            experiment.coding is None or isinstance(experiment.coding, Coding),
            "Coding(model, shape), or None",
        ),
        (f"text={text!r}", text is None or isinstance(text, Text), "Text(encode, decode, decoder, context), or None"),
    )


def _check_stage(stage: Stage) -> None:
    _check_parts(
        f"stage {stage.name!r}",
        (
            f"name = {stage.name!r}",
            isinstance(stage.name, str) and STAGE_NAME.fullmatch(stage.name),
            "1 to 100 letters, digits, '.', '_', '-'; a letter or digit first",
        ),
        (f"learner = {stage.learner!r}", isinstance(stage.learner, Learner), "what minimize, alternate, repeat return"),
        (f"data = {stage.data!r}", isinstance(stage.data, Source), "a Source, such as batches(split, batch_size)"),
        (
            f"steps = {stage.steps!r}",
            _whole(stage.steps, 0) and stage.steps < 2**31,
            "whole numbers from 0 to 2^31 - 1",
        ),
        (f"inherit = {stage.inherit!r}", _function(stage.inherit), "a function (previous, fresh) -> state, or None"),
        (f"steps_per_call = {stage.steps_per_call!r}", _whole(stage.steps_per_call, 1), "whole numbers from 1"),
    )


def _check_evaluation(name: str, evaluation: Any, stages: Sequence[str]) -> None:
    where = f"evaluation {name!r}"
    _check_parts(
        where,
        ("its name", isinstance(name, str) and name and "/" not in name, "a name without '/'"),
        (f"it is {evaluation!r}", isinstance(evaluation, Evaluation), "Evaluation(measure, split, batch_size, ...)"),
    )
    arrays, quantities = getattr(evaluation.split, "arrays", None), evaluation.quantities
    _check_parts(
        where,
        (
            f"measure = {evaluation.measure!r}",
            callable(evaluation.measure),
            "a function (state, batch, key) -> {name: [B]}",
        ),
        (f"split = {evaluation.split!r}", isinstance(arrays, Mapping), "a Split, such as data.validation"),
        (f"batch_size = {evaluation.batch_size!r}", _whole(evaluation.batch_size, 1), "whole numbers from 1"),
        (
            f"quantities = {quantities!r}",
            isinstance(quantities, Mapping) and all(isinstance(one, Quantity) for one in quantities.values()),
            "{measure: Quantity(kind, unit, better)}",
        ),
        (f"stage = {evaluation.stage!r}", evaluation.stage in (None, *stages), f"None, {', '.join(stages)}"),
        (
            f"final = {evaluation.final!r}, stage = {evaluation.stage!r}",
            not evaluation.final or evaluation.stage in (None, stages[-1]),
            f"final of the last stage alone, {stages[-1]}: the others are measured while they train",
        ),
    )
    check_rows(evaluation.split.arrays, where)


def _check_select(experiment: Experiment) -> None:
    mine = evaluations_of(experiment, len(experiment.stages) - 1)  # the last stage's checkpoints are chosen among
    during = {n: e.quantities for n, e in mine.items() if not e.final}
    known = [f"{n}/{q}" for n, quantities in during.items() for q, quantity in quantities.items() if quantity.better]
    if experiment.select not in known:
        raise BadInput(f"select = {experiment.select!r}", f"measured during training: {', '.join(known) or 'nothing'}")


def _check_parts(where: str, *parts: tuple[str, Any, str]) -> None:
    for what, fits, allowed in parts:
        if not fits:
            raise BadInput(f"{where}: {what}"[:200], f"allowed: {allowed}")


def _is_file(value: Any) -> bool:
    return isinstance(value, File) and callable(value.draw) and callable(value.encode)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least


def _function(value: Any) -> bool:
    return value is None or callable(value)

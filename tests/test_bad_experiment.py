"""What may be wrong inside an experiment file, told in three lines: the function, the line, the contract."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
from refusals import EXPERIMENT, Case, case, run_case

from genjax.checkpoint import seals
from genjax.cli import main
from genjax.fields import load
from genjax.report import read_log

TRAIN = "train {file} --workdir new"
LOSS = EXPERIMENT.partition("def loss(params, state, batch, key):\n")[2].partition("\n")[0]
MEASURE = EXPERIMENT.partition("def measure(state, batch, key):\n")[2].partition("\n")[0]
FUNCTION = EXPERIMENT[EXPERIMENT.index("def experiment(") :]
INIT, SAMPLE = '{"mean": jnp.zeros((1, 2))}', "jax.random.uniform(key, (n, 4, 4, 1))"
STAGE, PREPARE = 'Stage("mean", learner, batches(split, batch_size), steps)', "lambda rows, key: rows"
EVALUATION = 'Evaluation(measure, split, 32, {"distance": Quantity("exact", "squares")})'
SQUARES = '(batch["x"] - params["mean"]) ** 2'


def whole(text: str, *said: str, code: int = 2) -> Case:
    """The file holds this and nothing else."""
    return case(TRAIN, *said, code=code, edits=(EXPERIMENT, text))


def instead(old: str, new: str, *said: str, code: int = 2) -> Case:
    return case(TRAIN, *said, code=code, edits=(old, new))


def early(final: bool) -> str:
    """The file with a second stage, and the first one measured."""
    measured = f'{EVALUATION[:-1]}, {final}, stage="mean")'
    return EXPERIMENT.replace(STAGE, f"{STAGE}, {STAGE.replace('mean', 'next')}").replace(EVALUATION, measured)


def loss(body: str, *said: str, code: int = 2) -> Case:
    return instead(LOSS, f"    {body}", *said, code=code)


def split(arrays: str, *said: str, code: int = 2) -> Case:
    return instead('Split({"x": ROWS}', f"Split({arrays}", *said, code=code)


# A VAE on pixels, whose data come from a file and whose likelihood and shape are chosen by their text.
VAE = """import flax.linen as nn
import jax
import optax
from genjax import Experiment, Out, Stage, minimize
from genjax.data import batches, digits, from_file, mnist
from genjax.models.blocks import MLP
from genjax.models.observation import bernoulli, categorical, check_support
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder


def experiment(steps: int = 2) -> Experiment:
    data, likelihood = DATA, LIKELIHOOD
    check_support(data, likelihood)
    model = VAE(DenseEncoder(2, MLP((4,))), DenseDecoder(SHAPE, likelihood.multiplier, MLP((4,))))

    def loss(params, state, batch, key):
        return Out(-likelihood.log_prob(model.apply(params, batch["image"]), batch["image"]))

    learner = minimize(loss, optax.sgd(0.1), lambda key, batch: model.init(key, batch["image"]))
    return Experiment([Stage("vae", learner, batches(data.train, 4), steps)])
"""


def images(arrays: object, *said: str, code: int = 2, likelihood: str = "categorical(256)") -> Case:
    """A VAE of 8 x 8 grey pixels on the user's own arrays."""
    text = VAE.replace("DATA", 'from_file("a.npz")').replace("LIKELIHOOD", likelihood).replace("SHAPE", "(8, 8, 1)")
    named = arrays if isinstance(arrays, dict) else {"image": arrays}
    return whole(text, *said, code=code)._replace(prepare=lambda folder: np.savez(folder / "a.npz", **named))


def published(data: str, *said: str, code: int = 2, likelihood: str = "categorical(17)") -> Case:
    return whole(
        VAE.replace("DATA", data).replace("LIKELIHOOD", likelihood).replace("SHAPE", "(8, 8, 1)"), *said, code=code
    )


def damaged_set(folder: Path) -> None:
    """A prepared set whose seal is gone."""
    (folder / "sets" / "published" / "mnist" / "1.0.0").mkdir(parents=True)


GREY = np.zeros([20, 8, 8, 1], np.uint8)
LABELS = np.arange(20) % 3

# fmt: off
FILES = {
    "not Python": whole("def experiment(:\n", "tiny.py, line 1", "invalid syntax"),
    "binary": whole("\0\1\2", "tiny.py", "null bytes"),
    "an import that fails": whole("import nothing_of_that_name\n", "tiny.py, line 1", "nothing_of_that_name"),
    "an error on import": whole("x = 1\ny = 1 / 0\n", "tiny.py, line 2", "ZeroDivisionError"),
    "it leaves": whole("import sys\nsys.exit(3)\n", "tiny.py, line 2", "SystemExit: 3"),
    "no entry point": whole("x = 1\n", "no function named 'experiment'"),
    "entry point mistyped": whole("def experment(): pass\n", "did you mean 'experment'?"),
    "entry point is no function": whole("experiment = 3\n", "no function named 'experiment'"),
    "an empty file": whole("", "no function named 'experiment'"),
    "it returns None": whole("def experiment(a: int = 1): pass\n", "returned NoneType", "Experiment"),
    "it raises": whole("def experiment(a: int = 1):\n    raise ValueError('too few')\n", "line 2", "too few", "a=1"),
    "it never ends": whole("def experiment(a: int = 1): return experiment(a)\n", "RecursionError"),
    "it takes all memory": whole("import numpy as np\ndef experiment(a: int = 1): np.zeros(10**15)\n", "out of memory"),
}
SIGNATURES = {
    "a field without a type": whole("def experiment(width=3): pass\n", "'width'", "no type"),
    "fields without names": whole("def experiment(*sizes: int): pass\n", "*sizes: int"),
    "fields of any name": whole("def experiment(**fields: int): pass\n", "**fields: int"),
    "a field without a name to give": whole("def experiment(a: int = 1, /): pass\n", "positional-only", "a: int = 1"),
    "a field named like an option": whole("def experiment(seed: int = 1): pass\n", "'seed'", "reserved"),
    "a field named help": whole("def experiment(help: int = 1): pass\n", "'help'", "rename"),
    "a type of nothing": whole("def experiment(a: 'Nothing' = 1): pass\n", "Nothing", "types: int"),
    "a type that no command line gives": whole("def experiment(a: dict = {}): pass\n", "'a'", "dict", "allowed: int"),
    "a list": whole("def experiment(a: list[int] = [1]): pass\n", "'a'", "list[int]"),
    "a default of another type": whole("def experiment(a: int = 'x'): pass\n", "'a'", "int", "'x'"),
    "a default of none": whole("def experiment(a: float = None): pass\n", "'a'", "float", "None"),
    "a required field": whole("def experiment(width: int): pass\n", "--width"),
}
PARTS = {
    "no stages": instead(f"[{STAGE}]", "[]", "no stages"),
    "stages of None": instead(f"[{STAGE}]", "None", "stages=None"),
    "stages of something": instead(f"[{STAGE}]", "[3]", "stages=[3]"),
    "two stages of a name": instead(f"[{STAGE}]", f"[{STAGE}] * 2", "share a name", "mean"),
    "a stage with a path for a name": instead('Stage("mean"', 'Stage("a/b"', "'a/b'", "letters"),
    "steps a fraction": instead(", steps)]", ", 2.5)]", "stage 'mean'", "steps = 2.5", "whole numbers from 0"),
    "steps None": instead(", steps)]", ", None)]", "steps = None"),
    "no update a call": instead(", steps)]", ", steps, steps_per_call=0)]", "steps_per_call = 0"),
    "no learner": instead("learner, batches", "None, batches", "learner = None", "minimize"),
    "no data": instead("batches(split, batch_size)", "split", "data = Split", "batches(split, batch_size)"),
    "an evaluation of None": instead(EVALUATION, "None", "evaluation 'validation'", "None"),
    "an evaluation on nothing": instead("Evaluation(measure, split", "Evaluation(measure, None", "split = None"),
    "an evaluation by 0": instead("split, 32", "split, 0", "evaluation 'validation'", "batch_size = 0"),
    "an evaluation of another stage": instead('"squares")}', '"squares")}, stage="b"', "stage = 'b'", "None, mean"),
    "a quantity of text": instead('Quantity("exact", "squares")', '"exact"', "quantities", "'exact'", "Quantity"),
    "a name with a slash": instead('{"validation":', '{"a/b":', "evaluation 'a/b'", "without '/'"),
    "select of nothing": instead('select="validation/distance"', 'select="test/x"', "test/x", "validation/distance"),
    "select of what has no better": instead('"exact", "squares"', '"exact", "squares", ""', "during training: nothing"),
    "a last measure of a stage before": whole(early(final=True), "final = True, stage = 'mean'", "alone, next"),
    "select of a stage before": whole(early(final=False), "select = 'validation/distance'", "training: nothing"),
    "sample is no function": instead(f"sample=lambda state, key, n: {SAMPLE}", "sample=3", "sample=3", "images"),
    "pictures are no functions": instead("select=", "pictures={'a': 1}, select=", "pictures={'a': 1}"),
}
LOSSES = {
    "a loss of None": loss("return None", "loss (line 17) returned NoneType", "Out"),
    "a loss without Out": loss('return jnp.sum(batch["x"])', "loss (line 17)", "Out"),
    "a loss of int": loss("return Out(3)", "loss is int"),
    "a loss of float": loss("return Out(3.0)", "loss is float"),
    "a loss of integers": loss("return Out(jnp.zeros(8, jnp.int32))", "loss is int32"),
    "a loss of the wrong length": loss("return Out(jnp.zeros(3))", "shape (3,)", "[8] rows", "[B]"),
    "a loss of pixels": loss(f"return Out({SQUARES})", "shape (8, 2)", "sum over pixels"),
    "NaN": loss(f"return Out(jnp.nan * jnp.sum({SQUARES}))", "stage 'mean', step 0: loss is not finite", code=3),
    "NumPy": loss(f"return Out(np.sum(np.asarray({SQUARES})))", "NumPy", "tiny.py, line 18, in loss"),
    "a float of an array": loss(f"return Out(float(jnp.sum({SQUARES})))", "traced value", "line 18"),
    "Python's if": loss(f"return Out(jnp.sum({SQUARES})) if params['mean'][0, 0] > 0 else None", "traced", "line 18"),
    "a field that is not there": loss('return Out(batch["image"])', "KeyError: 'image'", "tiny.py, line 18, in loss"),
    "shapes that do not fit": loss('return Out(batch["x"] @ params["mean"])', "(2,)", "tiny.py, line 18, in loss"),
    "an error of one's own": loss("raise ValueError('not yet')", "ValueError: not yet", "line 18"),
    "too few arguments": instead("def loss(params, state, batch, key)", "def loss(params, state)", "2 positional"),
    "a metric of 3 rows": loss(f"return Out(jnp.sum({SQUARES}), {{'a': jnp.zeros(3)}})", "metrics['a']", "(3,)"),
    "a metric of int": loss(f"return Out(jnp.sum({SQUARES}), {{'a': 1}})", "metrics['a'] is int"),
    "a metric named step": loss(f"return Out(jnp.sum({SQUARES}), {{'step': jnp.zeros(8)}})", "metric 'step'", "kind"),
    "a metric named time": loss(f"return Out(jnp.sum({SQUARES}), {{'time': jnp.zeros(8)}})", "metric 'time'"),
    "a metric named stage": loss(f"return Out(jnp.sum({SQUARES}), {{'stage': jnp.zeros(8)}})", "metric 'stage'"),
    "a metric named kind": loss(f"return Out(jnp.sum({SQUARES}), {{'kind': jnp.zeros(8)}})", "metric 'kind'"),
    "a metric named loss": loss(f"return Out(jnp.sum({SQUARES}), {{'loss': jnp.zeros(8)}})", "'loss'", "another_name"),
    "a metric named 3": loss(f"return Out(jnp.sum({SQUARES}), {{3: jnp.zeros(8)}})", "metrics hold 3"),
    "metrics in a list": loss(f"return Out(jnp.sum({SQUARES}), [1])", "metrics hold [1]"),
    "a carry from nowhere": loss(f"return Out(jnp.sum({SQUARES}), carry=jnp.zeros(3))", "carry absent -> float32[3]"),
}
FUNCTIONS = {
    "parameters of integers": instead(INIT, '{"mean": jnp.zeros((1, 2), jnp.int32)}', "stage 'mean'", "int32"),
    "parameters of text": instead(INIT, '{"mean": "x"}', "stage 'mean'", "'x'"),
    "parameters of NaN": instead(INIT, '{"mean": jnp.full((1, 2), jnp.nan)}', "step 0", "validation/distance", code=3),
    "parameters beyond all memory": instead(
        INIT, '{"mean": jnp.zeros((1, 2)), "more": jnp.zeros((2**30, 2**20))}', "out of memory", "--batch-size 4"),
    "an init of one argument": instead(f"lambda key, batch: {INIT}", f"lambda key: {INIT}", "1 positional"),
    "a measure of None": instead(MEASURE, "    return None", "NoneType", "distance"),
    "a measure of a mean": instead(MEASURE, '    return {"distance": jnp.zeros(())}', "'distance'", "()", "(32,)"),
    "a measure of 3": instead(MEASURE, '    return {"distance": jnp.zeros(3)}', "'distance'", "(3,)", "(32,)"),
    "a measure of another name": instead(MEASURE, '    return {"gap": jnp.zeros(32)}', "['gap']", "distance"),
    "a measure of NaN": instead(MEASURE, '    return {"distance": jnp.full(32, jnp.nan)}', "distance is nan", code=3),
    "a measure that raises": instead(MEASURE, "    raise ValueError('no')", "ValueError: no", "line 22, in measure"),
    "samples of one axis": instead(SAMPLE, "jnp.zeros(n)", "[64]", "[n, H, W, C]"),
    "a sample that raises": instead(SAMPLE, "1 / 0", "picture 'samples'", "ZeroDivisionError", "tiny.py"),
    "rows prepared to None": instead(PREPARE, "lambda rows, key: None", "stage 'mean'", "NoneType"),
    "rows prepared by None": instead(PREPARE, "None", "stage 'mean'", "NoneType"),
}
DATA = {
    "an empty split": split('{"x": ROWS[:0]}', "field x", "(0, 2)"),
    "a split of nothing": split("{}", "no field"),
    "NaN in the data": split('{"x": np.where(ROWS == ROWS[5, 1], np.nan, ROWS)}', "field x", "nan in row 5", "(1,)"),
    "text for data": split('{"x": ROWS.astype(str)}', "field x", "<U32"),
    "rows that differ": split('{"x": ROWS, "y": ROWS[:3]}', "x 64, y 3"),
    "a set that is not prepared": published("mnist('sets')", "mnist is not prepared", "genjax data prepare mnist"),
    "a set that is damaged": published("mnist('sets')", "damaged", code=4)._replace(prepare=damaged_set),
    "no split of that name": published("digits()._replace(train=digits().training)", "training", "tiny.py, line 12"),
    "grey levels for a Bernoulli": published("digits()", "Bernoulli", "17 grey levels", likelihood="bernoulli()"),
    "levels of another decoder": published("digits()", "categorical(256)", "17", likelihood="categorical(256)"),
    "pixels of 300": images(GREY.astype(np.int32) + 300, "field image", "300 in row 0", "0 .. 255"),
    "pixels below 0": images(np.full([20, 8, 8, 1], -1.0, np.float32), "field image", "-1.0 in row 0", "[0, 1]"),
    "pixels of NaN": images(np.full([20, 8, 8, 1], np.nan, np.float32), "field image", "nan in row 0"),
    "channels first": images(np.ones([20, 1, 8, 8], np.uint8), "(20, 1, 8, 8)", "moveaxis"),
    "another size": images(np.full([20, 9, 9, 1], 9, np.uint8), "[4, 9, 9, 1]", "[..., 8, 8, 1]"),
    "another number of channels": images(np.full([20, 8, 8, 3], 9, np.uint8), "[4, 8, 8, 3]", "[..., 8, 8, 1]"),
    "labels below 0": images({"image": GREY + 9, "label": LABELS - 1}, "field label", "-1 in row 0"),
    "labels of halves": images({"image": GREY + 9, "label": LABELS + 0.5}, "field label", "float64"),
    "too few labels": images({"image": GREY + 9, "label": LABELS[:3]}, "image 20", "label 3"),
}
# fmt: on
CASES = {**FILES, **SIGNATURES, **PARTS, **LOSSES, **FUNCTIONS, **DATA}


@pytest.mark.parametrize("name", CASES)
def test_bad_experiment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_case(CASES[name], tmp_path, lambda: capsys.readouterr().err) == []


def test_a_mistake_in_a_last_measure_shows_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    last = f'{EVALUATION}, "test": Evaluation(lambda state, batch, key: 1 / 0, split, 32, {{}}, final=True)'
    one = instead(EVALUATION, last, "evaluation 'test'", "ZeroDivisionError")
    assert run_case(one, tmp_path, lambda: capsys.readouterr().err) == []
    assert seals(tmp_path / "new") == [] and read_log(tmp_path / "new") == []


def test_what_was_refused_can_be_mended_in_the_same_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_case(LOSSES["a loss of int"], tmp_path, lambda: capsys.readouterr().err) == []
    (tmp_path / "tiny.py").write_text(EXPERIMENT)
    assert main(["train", "tiny.py", "--workdir", "new", "--steps", "2"]) == 0


def test_no_name_is_used_twice() -> None:
    assert len(CASES) == sum(map(len, (FILES, SIGNATURES, PARTS, LOSSES, FUNCTIONS, DATA)))


BESIDE = """from parts import VALUE

def experiment(steps: int = VALUE):
    pass
"""


def test_files_beside_an_experiment_hide_no_library_and_are_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    for value, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        folder.mkdir()
        (folder / "mine.py").write_text(BESIDE)
        (folder / "parts.py").write_text(f"VALUE = {value}\n")
        (folder / "numbers.py").write_text("raise RuntimeError\n")
    told = [load(tmp_path / folder / "mine.py").fields[0].default for folder in ("a", "b", "a")]
    assert told == [0, 1, 0]
    assert str(tmp_path) not in PathFinder.find_spec("numbers").origin

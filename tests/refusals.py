"""Cases of bad input: how one is written, how it is run, and the judge of what the command says and leaves."""

import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from genjax.cli import main

LONGEST = 400  # characters of a line

# The mean of some numbers: everything an experiment has, trained in a blink.
EXPERIMENT = '''"""The mean of some numbers, learnt by gradient descent."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Evaluation, Experiment, Out, Quantity, Stage, ema, minimize
from genjax.data import Split, batches
from genjax.fields import Limits

ROWS = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)


def loss(params, state, batch, key):
    return Out(jnp.sum((batch["x"] - params["mean"]) ** 2, axis=-1), {"first": batch["x"][:, 0]})


def measure(state, batch, key):
    return {"distance": jnp.sum((batch["x"] - state.params["mean"]) ** 2, axis=-1)}


def experiment(
    learning_rate: float = 0.05,
    steps: int = 6,
    batch_size: int = 8,
    b1: float = 0.9,
    kind: Literal["mean", "median"] = "mean",
    sizes: tuple[int, ...] = (2,),
    fast: bool = False,
) -> Experiment:
    """Fields of all types.

    Args:
      steps: updates.
    """
    split = Split({"x": ROWS}, lambda rows, key: rows)
    tx = optax.chain(optax.adam(learning_rate, b1), ema(0.9))
    learner = minimize(loss, tx, lambda key, batch: {"mean": jnp.zeros((1, 2))})
    return Experiment(
        [Stage("mean", learner, batches(split, batch_size), steps)],
        {"validation": Evaluation(measure, split, 32, {"distance": Quantity("exact", "squares")})},
        sample=lambda state, key, n: jax.random.uniform(key, (n, 4, 4, 1)),
        select="validation/distance",
        data="rows",
    )
'''


class Case(NamedTuple):
    """One thing that a user may do wrong."""

    arguments: str  # {file}: the experiment; {run}: a finished run of it; new: a run directory that is not there
    said: tuple[str, ...]
    code: int
    edits: tuple[str, str] | None  # of the experiment file: this instead of that
    prepare: Callable[[Path], object] | None  # what is done before, in the folder where the command runs
    changes: tuple[str, ...]  # what the command may change, besides a new run

    def text(self) -> str:
        return EXPERIMENT.replace(*self.edits) if self.edits else EXPERIMENT


def case(
    arguments: str, *said: str, code: int = 2, edits: tuple[str, str] | None = None,
    prepare: Callable[[Path], object] | None = None, changes: tuple[str, ...] = (),
) -> Case:  # fmt: skip
    assert edits is None or edits[0] in EXPERIMENT, edits
    return Case(arguments, said, code, edits, prepare, changes)


def run_case(one: Case, folder: Path, err: Callable[[], str]) -> list[str]:
    """Run the command in `folder`, the current directory; what is wrong with what it did and said."""
    (folder / "tiny.py").write_text(one.text())
    if one.prepare is not None:
        one.prepare(folder)
    before = tree(folder)
    code = main(shlex.split(one.arguments.format(file="tiny.py", run="run")))
    return judge(one, code, err(), before, tree(folder))


def tree(folder: Path) -> dict[str, str]:
    """The digests of all files, but the locks: each process that asks for one writes its number into it."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "LOCK"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def judge(one: Case, code: int, err: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What is wrong: the exit code, the lines, a name or value that is not told, a file that was touched."""
    told = err[err.index("error: ") :].strip().splitlines() if "error: " in err else []
    found = [f"exit code {code}, expected {one.code}: {err[-500:]}"] if code != one.code else []
    found += ["nothing is told"] if one.code and not told else []
    found += [f"{len(told)} lines"] if len(told) > 3 else []
    found += [f"a line of {len(line)} characters: {line}" for line in told if len(line) > LONGEST]
    found += ["a traceback"] if "Traceback" in err or 'File "' in err else []
    words = err if one.code == 0 else "\n".join(told)
    found += [f"{text!r} is not told: {words[:600]}" for text in one.said if text not in words]
    found += [f"{name} was changed" for name in touched(before, after) if not _may_change(name, one.changes)]
    return found


def touched(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _may_change(name: str, changes: Sequence[str]) -> bool:
    return name.startswith(("new/", "runs/", "__pycache__/", *changes))

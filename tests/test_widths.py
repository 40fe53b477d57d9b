"""`genjax evaluate RUN --widths` and `genjax sample RUN --width`: averages of the path that the log of a run tells."""

import json

import numpy as np
import pytest
from planted import rejects

from genjax.cli import main
from genjax.power_averages import exponent

STEPS, WIDTHS = 400, (0.05, 0.07, 0.12, 0.1200001)  # each a line, two that are nearly one too
WANDERING = '''
"""A number that wanders up from 3."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
from genjax import Evaluation, Experiment, Out, Quantity, Stage, minimize
from genjax.data import Split, batches
from genjax.power_averages import power_averages

SPLIT = Split({"x": np.zeros((8, 1), np.float32)}, lambda rows, key: rows)


def experiment(steps: int = 400, copies: int = 20):
    """A walk.

    Args:
      copies: of averages; 0: no averages.
    """
    def loss(params, state, batch, key):
        slope = -0.1 + jax.random.normal(key)
        return Out(params["theta"] * slope + 0.0 * batch["x"][:, 0], {"theta": params["theta"]})

    here = lambda state, batch, key: {"theta": jnp.full(8, state.params["theta"])}
    tx = optax.chain(optax.sgd(1.0), power_averages(20, copies)) if copies else optax.sgd(1.0)
    learner = minimize(loss, tx, lambda key, batch: {"theta": jnp.float32(3.0)})
    return Experiment(
        [Stage("walk", learner, batches(SPLIT, 8), steps)],
        {"test": Evaluation(here, SPLIT, 8, {"theta": Quantity("exact", "")})},
        lambda state, key, n: jnp.full((n, 1), state.params["theta"]),
        formats={".txt": lambda rows: b""},
    )
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("widths")
    (folder / "walk.py").write_text(WANDERING.lstrip())
    rare = ("--log-every", "1", "--evaluate-every", "400", "--checkpoint-every", "400")
    assert main(["train", str(folder / "walk.py"), "--workdir", str(folder / "run"), *rare]) == 0
    assert (
        main(["train", str(folder / "walk.py"), "--copies", "0", "--steps", "2", "--workdir", str(folder / "bare")])
        == 0
    )
    return folder


def went(run):
    """theta_1 .. theta_STEPS: each as the next update's loss logged it, and the last as it was measured."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {row["step"]: row["theta"] for row in rows if row["kind"] == "train"}
    assert sorted(logged) == list(range(1, STEPS + 1)) and logged[1] == 3.0
    return np.array([*(logged[step] for step in range(2, STEPS + 1)), rows[-1]["test/theta"]])


def directly(path, width):
    weights = np.diff((np.arange(STEPS + 1) / STEPS) ** (exponent(width) + 1))
    return weights @ path


def check_widths(lines, path):
    for width, line in zip(WIDTHS, lines, strict=True):
        assert line["weights"] == f"average of width {width}" and line["step"] == STEPS
        wanted = directly(path, width)
        assert abs(line["value"] - wanted) < 0.02 * abs(path[-1] - wanted), (width, line["value"], wanted)


def test_any_width_is_measured_and_sampled(runs, capsys):
    run, path = str(runs / "run"), went(runs / "run")
    assert main(["evaluate", run]) == 0
    assert main(["evaluate", run, "--widths", *map(str, WIDTHS)]) == 0
    told = capsys.readouterr().out
    assert all(f"average of width {width}" in told for width in WIDTHS) and "raw" in told
    own, *lines = (json.loads(line) for line in (runs / "run" / "evaluations.jsonl").read_text().splitlines())
    assert own["weights"] == "raw" and own["value"] == pytest.approx(path[-1])
    check_widths(lines, path)
    rejects(check_widths, lines[1:] + lines[:1], path)
    rejects(check_widths, [{**line, "value": own["value"]} for line in lines], path)
    rejects(check_widths, lines, path[::-1])
    assert main(["sample", run, "--n", "2", "--width", "0.07", "--out", str(runs / "two.npz")]) == 0
    np.testing.assert_allclose(np.load(runs / "two.npz")["samples"], lines[1]["value"], rtol=1e-6)


@pytest.mark.parametrize(
    ("of", "asked", "said"),
    [
        ("bare", ["evaluate", "--widths", "0.07"], "0 `power_averages`"),
        ("bare", ["sample", "--width", "0.07"], "0 `power_averages`"),
        ("run", ["evaluate", "--widths", "0.07", "0.4"], "width = 0.4"),
        ("run", ["sample", "--width", "0"], "width = 0"),
    ],
)
def test_what_no_run_can_tell_is_refused(runs, monkeypatch, capsys, of, asked, said):
    monkeypatch.chdir(runs)
    before = sorted(path.name for path in (runs / of).iterdir())
    assert main([asked[0], str(runs / of), *asked[1:]]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in (runs / of).iterdir()) == before

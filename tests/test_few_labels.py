"""The table of few labels: what it computes, what it starts, what it refuses."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from genjax.fields import load

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script():
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("few_labels", ROOT / "benchmarks" / "few_labels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder, error, nll, calibration):
    folder.mkdir(parents=True)
    values = {"validation/error": 99.0, "test/error": error, "test/nll": nll, "test/calibration": calibration}
    told = {"results": [{"name": name, "value": value} for name, value in values.items()]}
    (folder / "results.json").write_text(json.dumps(told))
    return folder


def test_mean_and_deviation_over_choices_fewest_errors_first(script, tmp_path):
    rows = {
        "worse": [run(tmp_path / f"a{i}", 4.0 + i, 0.5, 1.0) for i in (0, 2)],
        "better": [run(tmp_path / "b", 3.0, 0.25, 2.0)],
    }
    assert script.table(rows).splitlines()[2:] == [
        "| better | 3.00 | 0.25 | 2.00 | 1 |",
        "| worse | 5.00 ± 1.41 | 0.50 | 1.00 | 2 |",  # sqrt 2, not 1
    ]


def test_every_method_is_an_experiment_with_labels_and_choices(script):
    for file, *options in script.METHODS.values():
        fields = {field.name for field in load(ROOT / "experiments" / file).fields}
        assert fields >= {"images", "labels", "choice", "steps", *(name[2:] for name in options[::2])}


def test_an_unknown_method_is_refused():
    command = [sys.executable, str(ROOT / "benchmarks" / "few_labels.py"), "fixmach"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no method 'fixmach'; there are supervised, " in done.stderr

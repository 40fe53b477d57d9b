"""The experiments of few labels in a shortened form: labels that are not known never reach the loss."""

import json

import numpy as np
import pytest

from genjax.cli import main
from genjax.data import digits, few_labels
from genjax.fields import build, load

SHORT = {
    "semi_supervised": {"fixmatch": ["--steps", "60"], "mean_teacher": ["--method", "mean_teacher", "--steps", "60"]},
    "m2": {"m2": ["--steps", "300", "--width", "64"]},
    "jem": {"jem": ["--steps", "300", "--width", "64", "--chains", "100", "--k", "5"]},
    "feature_matching_gan": {"gan": ["--steps", "60"]},
    "ladder": {"ladder": ["--steps", "150", "--widths", "64"]},
}
CASES = [(file, name) for file, cases in SHORT.items() for name in cases]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "name"), CASES)
def test_a_short_run_beats_chance_by_far(request, tmp_path, file, name):
    path = request.config.rootpath / "experiments" / f"{file}.py"
    assert main(["train", str(path), *SHORT[file][name], "--workdir", str(tmp_path / "run")]) == 0
    lines = json.loads((tmp_path / "run/results.json").read_text())["results"]
    found = {line["name"]: line["value"] for line in lines}
    assert found["test/error"] < 60.0  # by chance: 90
    assert found["test/nll"] < np.log(10) and 0 < found["test/calibration"] < 100
    if file == "m2":
        assert found["test/bayes"] < 80.0 and found["test/neg_bound"] < 64 * np.log(17)


@pytest.mark.parametrize("file", SHORT)
def test_only_the_chosen_labels_are_in_what_training_reads(request, file):
    loaded = load(request.config.rootpath / "experiments" / f"{file}.py")
    values = {field.name: field.default for field in loaded.fields} | {"labels": 50, "choice": 3}
    source = build(loaded, values).stages[0].data
    label = digits().train.arrays["label"]
    rows = few_labels(label, 50, 3)
    np.testing.assert_array_equal(source.resident["known"]["label"], label[rows])
    assert set(source.resident["others"]) == {"image"}

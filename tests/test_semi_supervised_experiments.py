"""The experiments of few labels in a shortened form: labels that are not known never reach the loss."""

import numpy as np
import pytest
from resumed import stopped_and_whole
from test_gan_experiments import EXPERIMENTS, KEY, function, trained

from genjax import parallel
from genjax.data import digits, few_labels
from genjax.evaluate import evaluator
from genjax.fields import build, load
from genjax.train import Options

SHORT = {
    "fixmatch": ("semi_supervised", 60, {}),
    "mean_teacher": ("semi_supervised", 60, {"method": "mean_teacher"}),
    "m2": ("m2", 300, {"width": 64}),
    "gan": ("feature_matching_gan", 60, {}),
    "ladder": ("ladder", 150, {"widths": (64,)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_short_run_beats_chance_by_far(name):
    file, updates, fields = SHORT[name]
    experiment = function(file)(steps=updates, **fields)
    state = trained(experiment, updates, chunk=50 if updates > 60 else 1)  # convolutions are slow in a scan
    found = {n: one.value for n, one in evaluator(experiment.evaluations["test"], parallel.mesh(1))(state, KEY).items()}
    assert found["error"] < 60.0  # by chance: 90
    assert found["nll"] < np.log(10) and 0 < found["calibration"] < 100
    if name == "m2":
        assert found["bayes"] < 80.0 and found["neg_bound"] < 64 * np.log(17)


@pytest.mark.parametrize("file", ["semi_supervised", "m2", "jem", "feature_matching_gan", "ladder"])
def test_only_the_chosen_labels_are_in_what_training_reads(file):
    loaded = load(EXPERIMENTS / f"{file}.py")
    values = {field.name: field.default for field in loaded.fields} | {"labels": 50, "choice": 3}
    source = build(loaded, values).stages[0].data
    label = digits().train.arrays["label"]
    rows = few_labels(label, 50, 3)
    np.testing.assert_array_equal(source.resident["known"]["label"], label[rows])
    assert set(source.resident["others"]) == {"image"}


TINY = {
    "feature_matching_gan": {"labels": 50, "latents": 4, "steps": 12, "batch_size": 10},
}


@pytest.mark.slow
@pytest.mark.parametrize("file", TINY)
def test_a_run_goes_on_bit_for_bit(tmp_path, file):
    """Labelled and unlabelled rows, the average that is measured, and the noise of the critic's layers."""
    make = lambda: function(file)(**TINY[file])
    every = Options(checkpoint_every=4, log_every=4, evaluate_every=12)
    assert stopped_and_whole(make, tmp_path, every, 3) >= 1

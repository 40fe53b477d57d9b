"""JEM, a diffusion classifier and a critic on digits: buffers resume exactly, a class that is held out is not seen."""

import jax
import numpy as np
import pytest
from resumed import stopped_and_whole
from test_gan_experiments import trained
from test_train import digests

from genjax import parallel
from genjax.data import digits
from genjax.errors import BadInput
from genjax.evaluate import averaged_state, evaluator
from genjax.fields import load
from genjax.train import Options

TINY = {"width": 8, "chains": 60, "k": 2, "batch_size": 20, "steps": 150}


@pytest.fixture
def function(request):
    return lambda name: load(request.config.rootpath / "experiments" / f"{name}.py").function


@pytest.mark.slow
def test_a_run_with_a_buffer_of_chains_goes_on_exactly(function, tmp_path):
    """Stopped and whole, bit for bit, the buffer being in what is compared, and moved in every part."""
    every = Options(checkpoint_every=50, log_every=50, evaluate_every=1_000)
    assert stopped_and_whole(lambda: function("jem")(**TINY), tmp_path, every, 2) >= 1
    kept = digests(tmp_path / "whole")
    buffers = [next(v for path, v in leaves.items() if "carry" in path) for leaves in kept.values()]
    assert len(set(buffers)) == len(buffers) >= 2


def test_chains_move_only_where_a_round_took_them(function):
    """One update takes 20 chains of 60, and leaves the others where they were."""
    stage = function("jem")(**TINY).stages[0]
    batch = jax.jit(lambda: stage.data.batch(stage.data.resident, jax.random.key(0), 0))()
    state = jax.jit(stage.learner.init)(jax.random.key(0), batch)
    after, _ = jax.jit(stage.learner.update)(state, batch, jax.random.key(1))
    moved = np.any(np.asarray(after.carry != state.carry), axis=1)
    assert state.carry.shape == (60, 64) and moved.sum() == 20


@pytest.mark.parametrize("name", ["jem", "diffusion_classifier", "gan_anomaly"])
def test_a_class_that_is_held_out_is_not_in_what_training_reads(function, name):
    """Images of the digit 4 are in no split but its own; the labels that remain have no gap."""
    experiment = function(name)(held_out=4, **({"labels": 0} if name == "jem" else {}))
    pictures, label = digits().train.arrays["image"], digits().train.arrays["label"]
    feed = experiment.stages[0].data.resident
    read = feed["others"]["image"] if name == "jem" else feed["image"]
    np.testing.assert_array_equal(np.asarray(read), pictures[label != 4])
    known = feed["known"]["label"] if name == "jem" else feed["label"]
    numbers = np.delete(np.arange(10), 4) if name == "gan_anomaly" else np.arange(9)
    assert np.unique(known).tolist() == numbers.tolist()
    assert set(experiment.evaluations["auroc"].split.arrays["label"]) == {4}
    assert len(experiment.evaluations["auroc"].split.arrays["label"]) == 181
    with pytest.raises(BadInput, match="held_out = 10"):
        function(name)(held_out=10)


SHORT = {  # updates, fields, the score that must find a zero
    "jem": (600, {"labels": 0, "learning_rate": 3e-3}, "energy"),
    "diffusion_classifier": (600, {"learning_rate": 3e-3, "times": 8}, "score_middle"),
    "gan_anomaly": (100, {"width": 64}, "nearest"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_short_run_tells_zeros_from_the_rest(function, name):
    """Chance is 0.5, and a zero is like no other digit; a critic of a hundred updates need not know."""
    updates, fields, best = SHORT[name]
    experiment = function(name)(held_out=0, steps=updates, **fields)
    state = trained(experiment, updates)
    found = evaluator(experiment.evaluations["auroc"], parallel.mesh(1))(state, jax.random.key(0))
    assert all(0 <= area.value <= 1 for area in found.values())
    assert found[best].value > 0.9
    if name == "gan_anomaly":  # which way its own score points: noise is no digit
        noise = jax.random.uniform(jax.random.key(1), (50, 8, 8, 1))
        told = experiment.evaluations["auroc"].measure(averaged_state(state), {"image": noise}, jax.random.key(0))
        assert told["critic"].mean() > 0.9

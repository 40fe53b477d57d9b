"""dbn_mnist, dbn_classifier and rbm_mnist on toy pictures: what is inherited, measured, and kept by a resume."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from planted import rejects
from test_train import digests, go
from toy_data import bars

import genjax.data
from genjax.checkpoint import seals
from genjax.errors import BadInput, Preempted
from genjax.fields import load
from genjax.models import greedy as rooms
from genjax.models.centering import machine_of
from genjax.models.dbn import log_weights, top_machine
from genjax.models.rbm import RBM
from genjax.models.visible import bernoulli_units
from genjax.train import Options

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
KEY = jax.random.key(0)
TINY = {"widths": (6, 790), "chains": 8, "steps": 40, "batch_size": 20, "draws": 2, "betas": 200}


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(genjax.data, "binarized_mnist", bars)
    monkeypatch.setattr(genjax.data, "mnist_dynamic", lambda data_dir=None: bars(256))
    monkeypatch.setattr(genjax.data, "mnist", lambda data_dir=None: bars(256))


def function(name):
    return load(EXPERIMENTS / f"{name}.py").function


def trained(stage, updates, previous=None):
    """The state of a stage after some updates."""
    batch = lambda step: stage.data.batch(stage.data.resident, KEY, step)
    fresh = jax.jit(lambda: stage.learner.init(KEY, batch(0)))()
    state = fresh if previous is None or stage.inherit is None else jax.jit(stage.inherit)(previous, fresh)
    update = jax.jit(lambda state: stage.learner.update(state, batch(state.step), KEY))
    for _ in range(updates):
        state, metrics = update(state)
        assert np.isfinite(float(metrics["loss"]))
    return state


def models(*widths):
    pairs = zip((784, *widths), widths, strict=False)
    return [RBM(bernoulli_units(n), m, centred=True) for n, m in pairs]


def check_begin(begun_above):
    """A machine that has not learned yet: the network's bound is -log p of the machine below, image by image, but for
    the small weights of the units to spare."""
    experiment = function("dbn_mnist")(**TINY)
    first, second = models(*TINY["widths"])
    below = trained(experiment.stages[0], 40)
    assert float(jnp.abs(below.params["params"]["weight"]).max()) > 0.1
    stage = experiment.stages[1]
    fresh = stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0))
    begun = begun_above(first, below, fresh)
    dbn, v = rooms.network_of(second, begun), bars().test.arrays["image"].reshape(50, -1).astype(np.float32)
    low = jnp.array([[float(b) for b in f"{i:06b}"] for i in range(64)])
    log_z = lambda of, states: scipy.special.logsumexp(-np.float64(of(states)))
    exact = -np.float64(machine_of(first, below).free_energy(v)) - log_z(
        machine_of(first, below).hidden_free_energy, low
    )
    bound = np.float64(log_weights(dbn, v, KEY)) - log_z(top_machine(dbn).free_energy, low)
    np.testing.assert_allclose(bound, exact, atol=0.3)
    assert np.std(exact) > 0.5 or np.abs(exact).max() > 5
    offsets = begun.carry["offsets"]
    np.testing.assert_allclose(offsets["visible"], below.carry["offsets"]["hidden"], atol=1e-6)
    assert begun.carry["chains"].shape == (8, 6) and set(np.unique(begun.carry["chains"])) <= {0.0, 1.0}


def test_a_machine_begins_where_the_one_below_ended(offline):
    check_begin(rooms.begun_above)

    def forgotten(first, below, fresh):  # parameters of a fresh machine
        return rooms.begun_above(first, below, fresh)._replace(params=fresh.params)

    def not_recentred(first, below, fresh):  # new offsets, parameters of the old ones
        begun = rooms.begun_above(first, below, fresh)
        zeros = jax.tree.map(jnp.zeros_like, begun.carry["offsets"])
        return begun._replace(carry={**begun.carry, "offsets": zeros})

    for mutant in (forgotten, not_recentred):
        rejects(check_begin, mutant)


def test_a_narrow_machine_begins_with_the_means_it_sees(offline):
    stages = function("dbn_mnist")(**TINY | {"widths": (6, 5)}).stages
    below = trained(stages[0], 40)
    begun = trained(stages[1], 0, below)
    mean = jax.nn.sigmoid(begun.params["params"]["visible"])  # about offsets: with small weights, the log-odds
    np.testing.assert_allclose(mean, np.clip(below.carry["offsets"]["hidden"], 1e-3, 1 - 1e-3), atol=0.02)


def test_the_measure_is_the_bound(offline):
    """Six units on top of none: -log p is enumerated; both walks are near it, and so is the importance-weighted one."""
    experiment = function("dbn_mnist")(**TINY | {"widths": (6,)})
    state, split = trained(experiment.stages[0], 40), experiment.evaluations["test_there"].split
    [model] = models(6)
    batch = split.prepare({"image": jnp.asarray(split.arrays["image"][:20])}, KEY)
    low = jnp.array([[float(b) for b in f"{i:06b}"] for i in range(64)])
    of = machine_of(model, state)
    log_z = scipy.special.logsumexp(-np.float64(of.hidden_free_energy(low)))
    exact = np.float64(of.free_energy(batch["image"].reshape(20, -1))) + log_z
    for name in ("there", "back"):
        found = jax.jit(experiment.evaluations[name].measure)(state, batch, KEY)
        error = 5 * float(found["log_z_error"][0]) + 0.05
        np.testing.assert_allclose(found["neg_bound"], exact, atol=error)
        np.testing.assert_allclose(found["neg_iwae"], exact, atol=error)
        assert error < 2


@pytest.mark.slow
def test_a_run_goes_on_between_two_layers_and_within_each(offline, tmp_path):
    """Stopped again and again, within each stage and between them: the same digests as the run that was not."""
    make = lambda: function("dbn_mnist")(**TINY | {"widths": (6, 5)}, up_down=40)
    every = Options(checkpoint_every=20, log_every=20, evaluate_every=40)
    stops = 0
    for _ in range(12):
        try:
            go(make(), tmp_path / "parts", every, 3)
        except Preempted:
            stops += 1
    assert stops >= 4
    go(make(), tmp_path / "whole", every)
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert {place: parts[place] for place in whole} == whole
    assert len({seal.stage for seal in seals(tmp_path / "whole")}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("chains_from", ["last", "fast", "tempered", "data"])
def test_rbm_mnist_in_each_form(offline, chains_from):
    """The exact -log p of six hidden units falls below that of independent pixels by every negative phase."""
    stages = function("rbm_mnist")(
        chains_from=chains_from, hidden=6, chains=10, replicas=3, steps=400, batch_size=20
    ).stages
    state = trained(stages[0], 300)
    [model] = models(6)
    v = bars().test.arrays["image"].reshape(50, -1).astype(np.float32)
    low = jnp.array([[float(b) for b in f"{i:06b}"] for i in range(64)])
    of = machine_of(model, state)
    nll = float(jnp.mean(of.free_energy(v)) + jax.nn.logsumexp(-of.hidden_free_energy(low)))
    mean = np.clip(bars().train.arrays["image"].mean(axis=0).ravel(), 0.01, 0.99)
    alone = -np.mean(v @ np.log(mean) + (1 - v) @ np.log(1 - mean))
    assert nll < 0.75 * alone
    if chains_from == "fast":
        assert float(jnp.abs(state.carry["fast"]["params"]["weight"]).max()) > 0


@pytest.mark.slow
def test_a_classifier_begins_as_the_machines_and_learns(offline):
    build = function("dbn_classifier")
    experiment = build(widths=(30, 790), machine_steps=30, steps=1_000, learning_rate=0.01, batch_size=20)
    _, second = models(30, 790)
    one = trained(experiment.stages[0], 30)
    two = trained(experiment.stages[1], 30, one)
    begun = trained(experiment.stages[2], 0, two)
    dbn = rooms.network_of(second, two)
    np.testing.assert_array_equal(begun.params["params"]["layer_0"]["kernel"], dbn.recognition[0].w)
    np.testing.assert_array_equal(begun.params["params"]["layer_1"]["bias"], dbn.top.c)
    ended = trained(experiment.stages[2], 1_000, two)
    split = experiment.evaluations["test"].split
    batch = split.prepare({name: jnp.asarray(array) for name, array in split.arrays.items()}, KEY)
    answers = experiment.evaluations["test"].measure(ended, batch, KEY)
    assert np.array_equal(np.argmax(answers["logits"], axis=-1), batch["label"])
    told = experiment.evaluations["retrieval"].measure(two, batch, KEY)
    assert float(told["pixels_error"].mean()) == 0.0 and float(told["features_precision"].mean()) > 90


def test_bad_input(offline):
    with pytest.raises(BadInput, match="widths"):
        function("dbn_mnist")(widths=())
    with pytest.raises(BadInput, match="labels = 15"):
        function("dbn_classifier")(labels=15)
    assert "dbn_mnist" in sys.modules

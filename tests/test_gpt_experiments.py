"""The GPT experiments on toy texts: what they measure, that they learn, what they write."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_data import NAMES, TEXT, names, text

import genjax.data
from genjax import parallel
from genjax.errors import BadInput
from genjax.evaluate import evaluator
from genjax.fields import load
from genjax.types import State

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
KEY = jax.random.key(0)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(genjax.data, "tiny_shakespeare", text)
    monkeypatch.setattr(genjax.data, "names", names)


def small(name, **fields):
    """The experiment with a network of one layer."""
    sizes = {"layers": 1, "heads": 2, "width": 16, "batch_size": 8, "steps": 200, "learning_rate": 1e-2}
    return load(EXPERIMENTS / f"{name}.py").function(**sizes | fields)


def trained(experiment, updates):
    """The first and the last loss, and the state."""
    stage = experiment.stages[0]

    @jax.jit
    def run():
        draw = lambda step: stage.data.batch(stage.data.resident, KEY, step)
        one = lambda state, _: stage.learner.update(state, draw(state.step), KEY)
        return jax.lax.scan(one, stage.learner.init(KEY, draw(0)), None, length=updates)

    state, metrics = run()
    return float(metrics["loss"][0]), float(metrics["loss"][-10:].mean()), state


def blank(state):
    """All parameters 0: every character is equally likely."""
    return State(state.step, jax.tree.map(jnp.zeros_like, state.params))


def test_shakespeare(offline):
    experiment = small("gpt_shakespeare", context=8)
    first, last, state = trained(experiment, 150)
    assert abs(first - math.log(10)) < 0.2 and last < 1.0
    measure = evaluator(experiment.evaluations["validation"], parallel.mesh(1))
    guess = measure(blank(state), KEY)
    assert guess["nats"].value == pytest.approx(math.log(10), rel=1e-5)
    assert guess["bits"].value == pytest.approx(math.log2(10), rel=1e-5)
    assert guess["nats"].count == (len(TEXT) // 10 - 1) // 8
    found = measure(state, KEY)
    assert found["nats"].value < 1.0 and found["bits"].value == pytest.approx(found["nats"].value / math.log(2))
    rows = np.asarray(jax.jit(experiment.sample, static_argnums=2)(state, KEY, 4))
    assert rows.shape == (4, 8) and rows.min() >= 0 and rows.max() < 10
    assert experiment.formats[".txt"](rows).decode().count("\n----\n") == 3
    assert experiment.text.decode(experiment.text.encode("to be\n")) == "to be\n"
    with pytest.raises(BadInput, match="'Z'"):
        experiment.text.encode("to Z")


def test_names(offline):
    experiment = small("gpt_names", dropout=0.0, average=0.9)
    first, last, state = trained(experiment, 150)
    letters = np.mean([len(name) + 1 for name in NAMES])  # with the end of each
    assert abs(first - letters * math.log(27)) < 0.2 * letters and last < letters
    measure = evaluator(experiment.evaluations["test"], parallel.mesh(1))
    assert measure(blank(state), KEY)["nats"].value == pytest.approx(math.log(27), rel=1e-5)
    # four names, equally likely: log 4 nats a name; 16 letters and 4 ends in 4 names
    best = math.log(4) / letters
    assert best - 1e-3 < measure(state, KEY)["nats"].value < best + 0.1
    rows = jax.jit(experiment.sample, static_argnums=2)(state, KEY, 40)
    written = experiment.formats[".txt"](np.asarray(rows)).decode().splitlines()
    assert len(written) == 40 and sum(name in NAMES for name in written) > 30
    assert experiment.text.encode("ann") == [0, 1, 14, 14] and experiment.text.decode([0, 1, 14, 14, 0]) == "ann"
    with pytest.raises(BadInput, match=r"'\.' at position 2"):  # the letter of the token that ends a name
        experiment.text.encode("an.")

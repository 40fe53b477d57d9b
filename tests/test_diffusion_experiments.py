"""Diffusion experiments in small: what they learn, and that their numbers are those of the papers' definitions."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import rejects
from quick import quick
from test_gan_experiments import EXPERIMENTS, function, trained

import genjax.data
from genjax import parallel
from genjax.data import Split, make_dataset, scaled
from genjax.denoised import sample_function
from genjax.errors import BadInput
from genjax.evaluate import averaged_state, evaluator
from genjax.fields import load
from genjax.power_averages import exponent, reconstructed
from genjax.saved import SampleOptions, of_width

KEY = jax.random.key(0)


def test_diffusion_points_learns_the_density():
    """By 3,000 updates the model's density is near the truth's, in whose entropy the bound cannot gain anything."""
    log_truth = sys.modules[function("diffusion_points").__module__].log_truth
    experiment = function("diffusion_points")(width=32, learning_rate=3e-3, average=0.99, steps=3_000)
    measure = evaluator(experiment.evaluations["validation"], parallel.mesh(1))
    states = [trained(experiment, updates) for updates in (0, 3_000)]
    begun, done = (measure(state, KEY) for state in states)
    truth, bound = done["true"], done["bound"]
    assert begun["true"].value == truth.value  # 1.125: log of eight normals' entropy
    entropy = np.log(8) + np.log(2 * np.pi * np.e * 0.15**2)
    assert abs(truth.value - entropy) < 4 * truth.standard_error
    assert begun["bound"].value > truth.value + 1
    assert truth.value - 4 * bound.standard_error < bound.value < truth.value + 0.5
    draw = sample_function(experiment.denoising, "points", SampleOptions(steps=40, sampler="heun"))
    surprise = jax.jit(lambda state: -log_truth(draw(state, KEY, 1_000)).mean())  # as `genjax sample` draws them
    assert float(surprise(states[1])) < entropy + 1 < entropy + 5 < float(surprise(states[0]))


def test_points_and_their_density_agree():
    file = sys.modules[function("diffusion_points").__module__]
    places = file.plane()
    area = (4.4 / (file.SIDE - 1)) ** 2
    assert float(jnp.exp(file.log_truth(places)).sum() * area) == pytest.approx(1, abs=0.01)
    top = places[jnp.argmax(places[:, 1])]
    assert float(top[1]) == pytest.approx(2.2) and bool((places[0] == jnp.array([-2.2, 2.2])).all())


def both_stages(experiment):
    """The states of teacher and student after all their updates; and of the student before its first."""
    teacher, student = experiment.stages
    batch = lambda stage, step: stage.data.batch(stage.data.resident, KEY, step)

    def run(stage, state):
        update = lambda state, _: (stage.learner.update(state, batch(stage, state.step), KEY)[0], None)
        return jax.jit(lambda state: jax.lax.scan(update, state, None, stage.steps)[0])(state)

    taught = run(teacher, teacher.learner.init(KEY, batch(teacher, 0)))
    begun = student.inherit(taught, student.learner.init(KEY, batch(student, 0)))
    return taught, begun, run(student, begun)


@pytest.mark.slow
def test_consistency_points_learns_in_a_second_stage():
    """One call of the student is far nearer to the data than one of the teacher, and than before distillation."""
    sizes = {"width": 32, "levels": 20, "learning_rate": 3e-3, "distillation_rate": 1e-3, "average": 0.99}
    experiment = function("consistency_points")(**sizes, steps=1_500, distillation_steps=1_500)
    taught, begun, done = both_stages(experiment)
    average = taught.opt_state[-1].average
    for path in (begun.params, begun.carry["teacher"], begun.carry["target"]):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / (1 - 0.99**1_500), rtol=1e-5), path, average)
    jax.tree.map(np.testing.assert_array_equal, done.carry["teacher"], begun.carry["teacher"])
    measure = evaluator(experiment.evaluations["test"], parallel.mesh(1))
    before, after = (measure(averaged_state(state), KEY) for state in (begun, done))
    assert before["consistency_1"].value > 0.3 and before["ddim_1"].value > 0.3
    assert after["consistency_1"].value < 0.05 > after["consistency_2"].value
    assert abs(after["points"].value) < 4 * after["points"].standard_error
    assert after["ddim_1"] == before["ddim_1"]


def check_averages(path, read):
    """theta_1 .. theta_T [T, ...] and a width's average of them: relative to how far it is from the end."""
    steps = len(jax.tree.leaves(path)[0])
    distance = lambda a, b: optax.tree.norm(jax.tree.map(lambda x, y: x - y, a, b))
    mean = lambda weights: jax.tree.map(lambda p: jnp.tensordot(jnp.float32(weights), p, 1), path)
    end = jax.tree.map(lambda p: p[-1], path)
    for width in (0.05, 0.07, 0.12):
        wanted = mean(np.diff((np.arange(steps + 1) / steps) ** (exponent(width) + 1)))
        assert distance(read(width), wanted) < 0.02 * distance(end, wanted), width


def test_averages_of_a_trained_network_are_those_of_the_path_it_took():
    experiment = function("average_points")(width=8, blocks=1, steps=400, batch_size=32)
    [stage] = experiment.stages
    batch = lambda step: stage.data.batch(stage.data.resident, KEY, step)

    def update(state, _):
        after, _ = stage.learner.update(state, batch(state.step), KEY)
        return after, after.params

    done, path = jax.jit(lambda: jax.lax.scan(update, stage.learner.init(KEY, batch(0)), None, stage.steps))()
    check_averages(path, lambda width: reconstructed(done.opt_state, width))
    rejects(check_averages, path, lambda width: reconstructed(done.opt_state, 0.9 * width))
    rejects(check_averages, path, lambda width: done.params)
    rejects(check_averages, path, lambda width: jax.tree.map(lambda a: a[0], done.opt_state[-1].averages))
    measure = evaluator(experiment.evaluations["validation"], parallel.mesh(1))
    assert 0 < measure(of_width(done, 0.07), KEY)["excess"].value < 3


def test_consistency_digits_in_two_stages():
    """The student begins as its teacher's average; distances are those of what is drawn, in pixels without a judge."""
    sizes = {"width": 16, "blocks": 1, "levels": 6, "batch_size": 32, "average": 0.9}
    with pytest.raises(BadInput, match="levels = 4"):
        function("consistency_digits")(levels=4)
    experiment = function("consistency_digits")(**sizes, steps=60, distillation_steps=60)
    _, begun, done = both_stages(experiment)
    jax.tree.map(np.testing.assert_array_equal, done.carry["teacher"], begun.params)
    state = averaged_state(done)
    found = evaluator(experiment.evaluations["train"], parallel.mesh(1))(state, KEY)
    assert found["ddim_50"].count == len(genjax.data.digits().train.arrays["image"])
    assert 0 < found["held_out"].value < 0.5 * min(found[f"{by}_1"].value for by in ("consistency", "ddim"))
    drawn = np.asarray(jax.jit(experiment.sample, static_argnums=2)(state, KEY, 3))
    assert drawn.shape == (3, 8, 8, 1) and drawn.min() >= 0 and drawn.max() <= 1
    assert np.asarray(jax.jit(experiment.pictures["calls"])(state, KEY)).shape[-3:] == (7 * 9 * 4, 10 * 9 * 4, 1)


def toy():
    """Labelled noise with the deviation of unit pixels, 28x28."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (640, 28, 28, 1)).astype(np.uint8)
    arrays = {"image": images, "label": (np.arange(640) % 10).astype(np.int32)}
    rows = {"train": slice(0, 512), "validation": slice(512, 576), "test": slice(576, 640)}
    cut = lambda part: {name: values[part] for name, values in arrays.items()}
    return make_dataset("toy", {name: Split(cut(part), scaled(256)) for name, part in rows.items()}, 10)


VARIANCE = (256**2 - 1) / 12 / 127.5**2  # of even grey levels in [-1, 1], about 1/3


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setattr(genjax.data, "fashion_mnist", lambda data_dir=None: toy())
    sys.modules.pop("experiment_diffusion_fashion", None)
    make = load(EXPERIMENTS / "diffusion_fashion.py").function
    return lambda name: make("fashion", name, width=8, dropout=0.0, batch_size=256)


def untrained_loss(experiment):
    """The loss of a network that says 0: the mean square of its target under the recipe's weight, a dimension."""
    [stage] = experiment.stages
    batch = stage.data.batch(stage.data.resident, KEY, 0)
    state = quick(lambda: stage.learner.init(KEY, batch))()
    metrics = quick(lambda state: stage.learner.update(state, batch, KEY)[1])(state)
    return float(metrics["loss"])


def check_recipe(loss, wanted):
    assert loss == pytest.approx(wanted, rel=0.03)


@pytest.mark.slow
def test_untrained_recipes_have_the_loss_of_their_targets(recipe):
    """DDPM's eps: 1.  The velocity eps - x: 1 plus the data's variance.  EDM's target, by hand for d = 0.7."""
    check_recipe(untrained_loss(recipe("ddpm")), 1.0)
    check_recipe(untrained_loss(recipe("flow")), 1.0 + VARIANCE)
    s = np.exp(-1.2 + 1.2 * np.random.default_rng(0).normal(size=200_000))
    d2 = 0.49  # (x - c_skip z) / c_out: variance c_out^-2 ((1 - c_skip)^2 var + c_skip^2 s^2)
    skip, out2 = d2 / (s**2 + d2), s**2 * d2 / (s**2 + d2)
    target = (((1 - skip) ** 2 * VARIANCE + skip**2 * s**2) / out2).mean()
    loss = untrained_loss(recipe("edm"))
    check_recipe(loss, target)
    rejects(check_recipe, loss, 1.0)

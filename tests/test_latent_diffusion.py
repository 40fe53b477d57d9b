"""Latent diffusion in two stages: what is frozen, scaled, bounded, drawn and kept between stages; planted bugs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bounds import edited
from planted import rejects
from test_code_experiments import KEY, function, measured, same, updates
from test_train import digests, go

from genjax.checkpoint import seals
from genjax.corruption.gaussian import log_snr
from genjax.corruption.schedules import cosine
from genjax.data import digits
from genjax.errors import BadInput, Preempted
from genjax.models.observation import discretized_logistic
from genjax.models.vae import VAE
from genjax.models.vq import GridDecoder, GridEncoder
from genjax.train import Options

TINY = {
    **{"data": "digits", "dims": 3, "channels": 8, "blocks": 1, "vae_steps": 80, "steps": 20, "batch_size": 20},
    **{"learning_rate": 5e-3, "layers": 1, "heads": 2, "width": 16, "sampling_steps": 6},
}
LATENTS = (4, 4, 3)


@pytest.fixture(scope="module")
def two_stages():
    """The experiment, the states after both stages, and that in which the second begins; metrics of the first."""
    experiment = function("latent_diffusion")(**TINY)
    vae, diffusion = experiment.stages
    first, last, trained = updates(vae, 80)
    _, _, begun = updates_none(diffusion, trained)
    _, _, whole = updates(diffusion, 20, trained)
    return experiment, trained, begun, whole, (first, last)


def updates_none(stage, state):
    fresh = jax.jit(lambda: stage.learner.init(KEY, stage.data.batch(stage.data.resident, KEY, 0)))()
    return None, None, jax.jit(stage.inherit)(state, fresh)


def network(file):
    """The VAE of the tiny form, put together anew."""
    sizes = {"halvings": 1, "channels": 8, "blocks": 1}
    return VAE(file.GridNormal(GridEncoder(6, **sizes)), GridDecoder((8, 8, 1), 2, **sizes))


def posterior(folder, params, rows):
    model, x = network(edited(folder, "latent_diffusion")), digits().train.arrays["image"][:rows] / 16.0
    return [np.float64(part) for part in model.apply(params, jnp.float32(x), method="encode")]


def check_frozen(trained, whole):
    same(whole.carry["vae"], trained.params)


def test_the_first_stage_learns_and_the_second_leaves_it_alone(two_stages):
    _, trained, begun, whole, (first, last) = two_stages
    assert last["loss"] < first["loss"] - 20.0
    check_frozen(trained, whole)
    assert any(
        not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (begun.params, whole.params)), strict=True)
    )
    drift = jax.tree.map(lambda a: a + 1e-6, trained.params)
    rejects(check_frozen, trained, whole._replace(carry={**whole.carry, "vae": drift}))
    rejects(check_frozen, trained, whole._replace(carry={**whole.carry, "vae": trained.opt_state}))


def check_scaled(folder, trained, carry):
    """z ~ q(z | x) of training images, less the shift, by the scale, has mean 0 and variance 1 in each channel."""
    mean, log_var = posterior(folder, trained.params, 1_000)
    z = mean + np.exp(0.5 * log_var) * np.random.default_rng(0).normal(size=mean.shape)
    u = (z - np.asarray(carry["shift"])) / np.asarray(carry["scale"])
    np.testing.assert_allclose(u.mean(axis=(0, 1, 2)), 0.0, atol=0.03)
    np.testing.assert_allclose(u.var(axis=(0, 1, 2)), 1.0, atol=0.03)


def test_latents_have_unit_variance(two_stages, tmp_path):
    _, trained, begun, _, _ = two_stages
    check_scaled(tmp_path, trained, begun.carry)
    for change in (
        {"scale": jnp.ones((1, 1, 1, 3))},
        {"shift": jnp.zeros((1, 1, 1, 3))},
        {"scale": 1.05 * begun.carry["scale"]},
    ):
        rejects(check_scaled, tmp_path, trained, {**begun.carry, **change})
    mean, _ = posterior(tmp_path, trained.params, 1_000)  # of the means alone it is too little
    rejects(check_scaled, tmp_path, trained, {**begun.carry, "scale": jnp.float32(mean.std(axis=(0, 1, 2)))})


def exact_rate(folder, state, rows):
    """What the bound is of an untrained transformer, which says v = 0, so x' = alpha z, right for u ~ N(0, I).

    With s = alpha^2 at both ends and l their log-SNR the three terms have, for each number u, the means
    exp(l_T) u^2 / 2,  (u^2 (s_0 - s_T) + softplus(l_0) - softplus(l_T) - s_0 + s_T) / 2,  (1 - l_0 + log 2 pi) / 2.
    """
    mean, log_var = posterior(folder, state.carry["vae"], rows)
    shift, scale = (np.float64(state.carry[name]) for name in ("shift", "scale"))
    square = ((mean - shift) ** 2 + np.exp(log_var)) / scale**2  # E u^2
    process = cosine(0.01, 0.995)
    l0, lT = (float(log_snr(process, np.array(t))) for t in (process.first, process.last))
    s0, sT = (1 / (1 + math.exp(-l)) for l in (l0, lT))
    soft = np.logaddexp(0.0, l0) - np.logaddexp(0.0, lT)
    nats = 0.5 * (math.exp(lT) * square + square * (s0 - sT) + soft - s0 + sT + 1 - l0 + math.log(2 * math.pi))
    entropy = 0.5 * (log_var + math.log(2 * math.pi * math.e))
    return (nats + np.log(scale) - entropy).sum(axis=(1, 2, 3))


def check_rate(folder, begun, rows=40, draws=300, *edits):
    """Its mean over draws is the exact one, image by image and in all, and is the KL to N(shift, scale^2) or above."""
    experiment = edited(folder, "latent_diffusion", *edits).experiment(**TINY)
    x = jnp.float32(digits().train.arrays["image"][:rows] / 16.0)
    measure = experiment.evaluations["test"].measure
    found = jax.jit(lambda state: jax.lax.map(lambda key: measure(state, {"image": x}, key)["rate"], KEYS[:draws]))
    rates, exact = np.float64(found(begun)), exact_rate(folder, begun, rows)
    error = rates.std(axis=0) / draws**0.5
    assert np.all(np.abs(rates.mean(axis=0) - exact) < 5 * error)
    every = rates.mean(axis=1)
    assert abs(every.mean() - exact.mean()) < 4 * every.std() / draws**0.5
    assert every.std() / draws**0.5 < 0.3


KEYS = jax.random.split(KEY, 300)


@pytest.mark.slow
def test_the_rate_is_the_bound_that_it_says(two_stages, tmp_path):
    _, _, begun, _, _ = two_stages
    check_rate(tmp_path, begun)
    for planted in (
        ('math.prod(latents[:2]) * jnp.sum(jnp.log(state.carry["scale"]))', "0.0"),
        ('math.prod(latents[:2]) * jnp.sum(jnp.log(state.carry["scale"]))', 'jnp.sum(jnp.log(state.carry["scale"]))'),
        ("- entropy\n", "+ entropy\n"),
        ("(log_var + math.log(2.0 * math.pi * math.e))", "(log_var + math.log(2.0 * math.pi))"),
        ("of_reals(process)", "lambda x, z: 0.0"),
        ('(z - carry["shift"]) / carry["scale"]', 'z / carry["scale"]'),
    ):
        rejects(check_rate, tmp_path, begun, 40, 300, planted)


def test_the_rate_is_the_kl_to_the_prior_or_above(two_stages, tmp_path):
    """The closed form of the test itself: KL(q || N(shift, scale^2)) is below it, by little."""
    _, _, begun, _, _ = two_stages
    mean, log_var = posterior(tmp_path, begun.carry["vae"], 40)
    shift, scale = (np.float64(begun.carry[name]) for name in ("shift", "scale"))
    ratio = np.exp(log_var) / scale**2
    kl = 0.5 * (ratio - 1 - np.log(ratio) + ((mean - shift) / scale) ** 2).sum(axis=(1, 2, 3))
    gap = exact_rate(tmp_path, begun, 40) - kl
    assert np.all(gap > 0) and gap.max() < 0.5


def test_the_bound_is_what_latents_and_image_cost(two_stages):
    experiment, _, _, whole, _ = two_stages
    found = measured(experiment.evaluations["test"], whole)
    np.testing.assert_allclose(found["neg_elbo"], found["distortion"] + found["rate"], rtol=1e-5)
    np.testing.assert_allclose(found["bits"], found["neg_elbo"] / (64 * math.log(2)), rtol=1e-5)
    first = measured(experiment.evaluations["reconstruction"], two_stages[1])
    np.testing.assert_allclose(first["neg_elbo"], first["distortion"] + first["rate"], rtol=1e-5)
    kinds = {name: quantity.kind for name, quantity in experiment.evaluations["test"].quantities.items()}
    assert kinds["neg_elbo"].startswith("upper bound of -log p(x)") and kinds["normal_prior"].startswith("upper bound")


def test_what_the_normal_prior_costs(two_stages, tmp_path):
    """The same image and z under N(0, I), whose KL is computed here."""
    experiment, _, _, whole, _ = two_stages
    x = jnp.float32(digits().train.arrays["image"][:40] / 16.0)
    found = jax.jit(experiment.evaluations["test"].measure)(whole, {"image": x}, KEY)
    mean, log_var = posterior(tmp_path, whole.carry["vae"], 40)
    kl = 0.5 * (np.exp(log_var) + mean**2 - 1 - log_var).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found["normal_prior"] - found["distortion"], kl, rtol=1e-3)


def check_drawn(folder, begun, *edits):
    """Of an untrained transformer u ~ N(0, I): pictures have the mean and spread of decoded N(shift, scale^2)."""
    file = edited(folder, "latent_diffusion", *edits)
    experiment, n = file.experiment(**{**TINY, "sampling_steps": 30}), 2_000
    ours = np.float64(jax.jit(experiment.sample, static_argnums=2)(begun, KEY, n)).reshape(n, -1)
    z = np.random.default_rng(0).normal(size=(n, *LATENTS)) * np.asarray(begun.carry["scale"])
    out = network(file).apply(begun.carry["vae"], jnp.float32(z + np.asarray(begun.carry["shift"])), method="decode")
    theirs = np.float64(discretized_logistic(17).mean(out)).reshape(n, -1)
    error = np.hypot(ours.std(axis=0), theirs.std(axis=0)) / n**0.5
    assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error)
    assert abs(np.log(ours.std(axis=0) / theirs.std(axis=0)).mean()) < 0.02


@pytest.mark.slow
def test_samples_are_scaled_back_and_decoded(two_stages, tmp_path):
    _, _, begun, _, _ = two_stages
    check_drawn(tmp_path, begun)
    whole = 'u * state.carry["scale"] + state.carry["shift"])'
    for planted in ((whole, "u)"), (whole, 'u * state.carry["scale"])'), (whole, 'u + state.carry["shift"])')):
        rejects(check_drawn, tmp_path, begun, planted)


@pytest.mark.slow
def test_looks_and_measures_of_samples(two_stages):
    experiment, _, _, whole, _ = two_stages
    images = jax.jit(experiment.sample, static_argnums=2)(whole, KEY, 3)
    assert images.shape == (3, 8, 8, 1) and 0.0 <= float(images.min()) <= float(images.max()) <= 1.0
    assert experiment.pictures["reconstructions"](whole, KEY).shape == (2, 32, 8, 8, 1)
    assert experiment.pictures["normal_prior"](whole, KEY).shape == (64, 8, 8, 1)
    evaluation = experiment.evaluations["test_samples"]
    x = jnp.float32(digits().test.arrays["image"][:60] / 16.0)
    told = evaluation.of_all(jax.device_get(evaluation.measure(whole, {"image": x}, KEY)))
    assert set(told) == set(evaluation.quantities)
    assert set(evaluation.of_all({"real": np.asarray(x), "drawn": np.asarray(x)})) == set(told)


@pytest.mark.parametrize(
    ("change", "told"), [({"width": 10}, "width = 10, heads = 2"), ({"features": "nowhere"}, "nowhere")]
)
def test_what_does_not_fit_is_refused(change, told):
    with pytest.raises(BadInput, match=told):
        stage = function("latent_diffusion")(**{**TINY, **change}).stages[1]
        jax.eval_shape(stage.learner.init, KEY, {"image": jnp.zeros((2, 8, 8, 1))})


@pytest.mark.slow
def test_a_run_of_two_stages_goes_on_bit_for_bit(tmp_path):
    """Stopped in either stage and between them: every checkpoint has the digests of the uninterrupted run."""
    make = lambda: function("latent_diffusion")(**{**TINY, "vae_steps": 12, "steps": 12, "batch_size": 10})
    options = Options(checkpoint_every=4, log_every=4, evaluate_every=12)
    go(make(), tmp_path / "whole", options)
    for stop_after in (7, 14):  # evaluations ask too whether to stop
        with pytest.raises(Preempted):
            go(make(), tmp_path / "parts", options, stop_after)
    go(make(), tmp_path / "parts", options)
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert {place: parts[place] for place in whole} == whole
    assert {stage for stage, step in parts.keys() - whole.keys()} == {0, 1}  # where it was stopped
    ends = {seal.stage_index: seal.leaves for seal in seals(tmp_path / "parts") if seal.step == 12}
    held = [path for path in ends[1] if path.startswith("carry/vae/")]
    assert len(held) > 10
    for path in held:
        assert ends[1][path]["digest"] == ends[0][path.replace("carry/vae/", "params/")]["digest"]

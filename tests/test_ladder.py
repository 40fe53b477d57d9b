"""The Ladder network against NumPy, exact values and a perfect combinator; a stopped run goes on exactly."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from resumed import stopped_and_whole

from genjax.checkpoint import seals
from genjax.errors import BadInput
from genjax.fields import load
from genjax.losses.semi_supervised import denoising_cost
from genjax.models.ladder import Ladder, Moments, combined
from genjax.train import Options

LADDER = Path(__file__).parent.parent / "experiments" / "ladder.py"
KEY = jax.random.key(0)
normal = lambda *shape: np.random.default_rng(0).normal(size=shape)
NOISE, WEIGHTS = 0.5, (3.0, 0.5, 0.2)
logistic = lambda x: 1 / (1 + np.exp(-x))


# --- one layer's cost and the combinator ------------------------------------------------------------------------------


def check_cost(cost):
    (z, guess), mean, deviation = normal(2, 7, 5), np.arange(5.0), 0.5 + np.arange(5.0)
    np.testing.assert_allclose(cost(z, guess, mean, deviation), ((z - (guess - mean) / deviation) ** 2).mean(1), 1e-5)
    np.testing.assert_allclose(cost(z, deviation * z + mean, mean, deviation), 0, atol=1e-10)


def test_the_cost_of_a_layer():
    check_cost(denoising_cost)
    np.testing.assert_allclose(denoising_cost(np.ones((2, 3)), np.zeros((2, 3))), 1.0)  # of a guess that says nothing
    rejects(check_cost, lambda z, guess, mean, deviation: denoising_cost(z, guess))
    rejects(check_cost, lambda z, guess, mean, deviation: denoising_cost(z, guess, mean, deviation**2))
    rejects(check_cost, lambda z, guess, mean, deviation: denoising_cost((z - mean) / deviation, guess))
    rejects(check_cost, lambda z, guess, mean, deviation: z.shape[1] * denoising_cost(z, guess, mean, deviation))


def check_combinator(g):
    z, u = normal(2, 9, 4)
    a = lambda **given: np.zeros((10, 4)) + [[given.get(f"a{i}", 0.0)] for i in range(1, 11)]
    near = lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    near(g(z, u, a(a10=1)), z)  # all weight on what came from below
    near(g(z, u, a(a4=2, a5=1)), 2 * u + 1)  # all on what came from above
    near(g(z, u, a(a4=1, a10=0.25)), 0.25 * z + 0.75 * u)
    near(g(z, u, a(a1=3, a2=2, a3=1)), 3 * logistic(2 * u + 1))
    near(g(z, u, a(a6=3, a7=2, a8=1)), 3 * logistic(2 * u + 1) * z)
    near(g(z, u, a(a9=2)), 2 * u * z)
    each = normal(10, 4)  # units have coefficients of their own
    near(g(z, u, each)[:, 2:3], g(z[:, 2:3], u[:, 2:3], each[:, 2:3]))


def test_special_values_of_the_combinator():
    check_combinator(combined)
    rejects(check_combinator, lambda z, u, a: combined(u, z, a))
    rejects(check_combinator, lambda z, u, a: combined(z, u, np.roll(a, 5, axis=0)))  # mean and weight changed places
    rejects(check_combinator, lambda z, u, a: combined(z, u, a) - combined(0 * z, u, a))  # the mean is lost
    rejects(check_combinator, lambda z, u, a: combined(z, u, a[:, :1] + 0 * a))


def test_it_is_the_posterior_mean_of_a_normal_layer():
    """z given u ~ N(u, 1), z~ = z + N(0, 1/4): the weight 1 / (1 + 1/4) is best, and its error 1/4 of it."""
    u, n, e = np.random.default_rng(1).normal(size=(3, 40_000, 1))
    z = u + n
    error = lambda weight: (combined(z + e / 2, u, np.eye(10)[3][:, None] + weight * np.eye(10)[9][:, None]) - z) ** 2
    best = np.asarray(error(0.8))
    assert abs(best.mean() - 0.2) < 4 * best.std() / 200
    assert min(np.asarray(error(weight)).mean() for weight in (0.7, 0.9)) > best.mean()


# --- the network ------------------------------------------------------------------------------------------------------


def shaken(tree):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + jnp.float32(0.3 * rng.normal(size=leaf.shape)), tree)


def costs_of_a_perfect_combinator(noise, deviation=jnp.sqrt, rows=500):
    """With v = s and m = mu / (1 - s) a guess is s z~ + mu, which the cost turns into z~ again."""
    model, x = Ladder((6, 5, 4), noise), jnp.float32(normal(rows, 6))
    params = shaken(jax.jit(model.init)(KEY, x))
    clean = model.apply(params, x, method="encode")
    moments = [Moments(jnp.zeros(6), jnp.ones(6)), *clean.moments]
    for layer, (mean, variance) in enumerate(moments):
        s = jnp.sqrt(variance)
        a = jnp.zeros((10, len(s))).at[9].set(s).at[4].set(mean / jnp.where(s == 1.0, 1.0, 1.0 - s))
        params["params"][f"a_{layer}"] = a
    noisy = model.apply(params, x, KEY, method="encode")
    guesses = model.apply(params, noisy, method="decode")
    parts = zip(clean.z, guesses, moments, strict=True)
    return [denoising_cost(z, guess, m.mean, deviation(m.variance)) for z, guess, m in parts], noisy


def check_no_noise_costs_nothing(costs):
    assert max(float(jnp.max(cost)) for cost in costs) < 1e-6


def check_noise_costs_its_variance(noise):
    (first, *_), noisy = costs_of_a_perfect_combinator(noise)
    rows = np.asarray(first)  # of the input: mean squares of six numbers of the noise
    assert abs(rows.mean() - 0.3**2) < 4 * rows.std() / len(rows) ** 0.5
    top = np.asarray(noisy.z[-1])  # normalised, then made noisy
    np.testing.assert_allclose(top.var(0), 1 + 0.3**2, rtol=0.2)


def test_a_perfect_combinator_pays_for_the_noise_alone():
    check_no_noise_costs_nothing(costs_of_a_perfect_combinator(0.0)[0])
    rejects(check_no_noise_costs_nothing, costs_of_a_perfect_combinator(0.0, lambda variance: variance)[0])
    rejects(check_no_noise_costs_nothing, costs_of_a_perfect_combinator(0.01)[0])
    check_noise_costs_its_variance(0.3)
    rejects(check_noise_costs_its_variance, 0.3**2)


def check_moments(encode):
    """Each clean layer has mean 0 and variance 1; with the moments of a batch one row alone is what it was in it."""
    x = jnp.float32(normal(30, 6) + np.linspace(-3, 3, 30)[:, None])
    whole = encode(x, None)
    for z in whole.z[1:]:
        np.testing.assert_allclose(
            [z.mean(0), z.var(0)], np.stack([np.zeros(z.shape[1]), np.ones(z.shape[1])]), atol=1e-5
        )
    for row in (0, 29):
        alone = encode(x[row : row + 1], whole.moments).logits
        np.testing.assert_allclose(alone, whole.logits[row : row + 1], rtol=1e-4, atol=1e-5)


def test_moments_are_those_of_the_whole_batch():
    model = Ladder((6, 5, 4))
    params = shaken(jax.jit(model.init)(KEY, jnp.ones((2, 6))))
    encode = lambda x, moments: model.apply(params, x, moments=moments, method="encode")

    def apart(x, moments):
        halves = [encode(half, moments) for half in jnp.split(x, 2 if moments is None else 1)]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *halves)._replace(moments=halves[0].moments)

    check_moments(encode)
    rejects(check_moments, apart)
    rejects(check_moments, lambda x, moments: encode(x, None))


# --- the experiment's loss, its gradient and its carry, by NumPy ------------------------------------------------------


def by_numpy(params, x, label, noise, bug="", clean=None):
    """The loss, the costs of the layers and the clean pass; x and noise are of the labelled and of the other rows."""
    w, v, quiet = params["w"], params["v"], [[0.0 * n for n in part] for part in noise]
    norm = lambda h: (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-10)

    def encode(x, noise):
        z, moments = [x + noise[0]], []
        h = z[0]
        for layer in range(len(w)):
            before = h @ w[layer]
            moments.append((before.mean(0), before.var(0)))
            z.append(norm(before) + noise[layer + 1])
            h = np.maximum(z[-1] + params["beta"][layer], 0)
        return z, params["gamma"] * (z[-1] + params["beta"][-1]), moments

    def both(noise):
        if bug != "together":
            return [encode(*part) for part in zip(x, noise, strict=True)]
        z, logits, moments = encode(np.concatenate(x), [np.concatenate(parts) for parts in zip(*noise, strict=True)])
        halves = slice(len(label)), slice(len(label), None)
        return [([layer[rows] for layer in z], logits[rows], moments) for rows in halves]

    if bug == "noise below alone":
        noise = [[part[0], *still[1:]] for part, still in zip(noise, quiet, strict=True)]
    (calm, clean_one), (said, noisy) = both(quiet), both(noise)
    clean = clean or clean_one
    log_p = lambda logits: logits - np.log(np.exp(logits).sum(1, keepdims=True))
    costs, above = {}, np.exp(log_p(noisy[1]))
    for layer in reversed(range(len(w) + 1)):
        u, a = above if bug == "u as it is" else norm(above), params["a"][layer]
        curve = lambda a, u=u: a[0] * logistic(a[1] * u + a[2]) + a[3] * u + a[4]
        guess = (noisy[0][layer] - curve(a[:5])) * curve(a[5:]) + curve(a[:5])
        above = guess @ v[layer - 1] if layer else above
        if layer and bug != "guess as it is":
            mean, variance = clean[2][layer - 1]
            guess = (guess - mean) / np.sqrt(variance + 1e-10)
        costs[layer] = ((clean[0][layer] - guess) ** 2).mean()
    chosen = log_p((calm if bug == "labels without noise" else said)[1])
    labelled = -chosen[np.arange(len(label)), label].mean()
    return labelled + sum(weight * costs[layer] for layer, weight in enumerate(WEIGHTS)), costs, clean


def gradient_norm(params, *data, clean=None):
    """By central differences of every parameter."""
    squares = 0.0
    for leaf in (
        array.reshape(-1) for part in params.values() for array in (part if isinstance(part, list) else [part])
    ):
        for i in range(len(leaf)):
            kept, ends = leaf[i], []
            for step in (1e-5, -1e-5):
                leaf[i] = kept + step
                ends.append(by_numpy(params, *data, clean=clean)[0])
            leaf[i] = kept
            squares += ((ends[0] - ends[1]) / 2e-5) ** 2
    return squares**0.5


@pytest.fixture(scope="module")
def update():
    """An update of the experiment at random parameters, and what NumPy needs for it."""
    experiment = load(LADDER).function(labels=20, widths=(3,), weights=WEIGHTS, noise=NOISE, average=0.75)
    [stage] = experiment.stages
    batch = stage.data.batch(stage.data.resident, KEY, 0)
    state = jax.jit(stage.learner.init)(KEY, batch)
    state = state._replace(params=shaken(state.params))
    keys = jax.random.split(jax.random.fold_in(KEY, 0))  # of the first update
    noise = [np.split(np.float64(NOISE * jax.random.normal(key, (20, 77))), [64, 67], axis=1) for key in keys]
    x = [np.float64(batch[name]).reshape(20, 64) for name in ("image", "unlabelled")]
    flat = {name: np.float64(leaf) for name, leaf in leaves(state.params)}
    params = {
        "w": [flat["w_0/kernel"], flat["w_1/kernel"]],
        "v": [flat["v_0/kernel"], flat["v_1/kernel"]],
        "beta": [flat["beta_1"], flat["beta_2"]],
        "gamma": flat["gamma"],
        "a": [flat["a_0"], flat["a_1"], flat["a_2"]],
    }
    data = x, np.asarray(batch["label"]), noise
    after, told = jax.jit(stage.learner.update)(state, batch, KEY)
    return params, data, (told, state.carry, after.carry)


def leaves(params):
    found = jax.tree_util.tree_leaves_with_path(params["params"])
    return [("/".join(part.key for part in path), leaf) for path, leaf in found]


def check_loss(update, bug):
    params, data, (told, _, _) = update
    loss, costs, _ = by_numpy(params, *data, bug=bug)
    np.testing.assert_allclose([told[f"denoising_{layer}"] for layer in costs], list(costs.values()), rtol=1e-4)
    np.testing.assert_allclose(told["loss"], loss, rtol=1e-4)


def test_the_loss_is_that_of_numpy(update):
    check_loss(update, "")
    for bug in ("together", "noise below alone", "u as it is", "guess as it is", "labels without noise"):
        rejects(check_loss, update, bug)


def test_the_gradient_goes_through_guesses_and_targets(update):
    params, data, (told, _, _) = update
    np.testing.assert_allclose(told["grad_norm"], gradient_norm(params, *data), rtol=1e-3)
    clean = by_numpy(params, *data)[2]
    assert abs(gradient_norm(params, *data, clean=clean) / told["grad_norm"] - 1) > 0.01  # were targets constants


def test_the_carry_is_the_moving_average_of_clean_moments(update):
    params, data, (_, before, after) = update
    for old, found, new in zip(before, after, by_numpy(params, *data)[2][2], strict=True):
        expected = [0.75 * np.asarray(o) + 0.25 * n for o, n in zip(old, new, strict=True)]
        np.testing.assert_allclose(np.stack(found), expected, rtol=1e-4, atol=1e-5)
        assert not np.allclose(np.stack(found), np.stack(new), rtol=1e-2)


# --- the run ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_resumes_exactly(tmp_path):
    make = lambda: load(LADDER).function(labels=20, widths=(4,), weights=(1.0,), steps=6)
    assert stopped_and_whole(make, tmp_path, Options(checkpoint_every=2, log_every=2, evaluate_every=6), 5) >= 1
    carried = [leaf["digest"] for seal in seals(tmp_path / "whole") for n, leaf in seal.leaves.items() if "carry" in n]
    assert len(set(carried)) == len(carried) >= 4  # moments moved, and stand in the checkpoints


@pytest.mark.parametrize(
    "call",
    [
        lambda: combined(np.ones((2, 3)), np.ones((2, 3)), np.ones((9, 3))),
        lambda: combined(np.ones((2, 3)), np.ones((3, 3)), np.ones((10, 3))),
        lambda: denoising_cost(np.ones((2, 3)), np.ones((2, 2))),
        lambda: Ladder((3,)).init(KEY, jnp.ones((2, 3))),
        lambda: Ladder((3, 2)).init(KEY, jnp.ones((2, 4))),
        lambda: load(LADDER).function(weights=()),
        lambda: load(LADDER).function(widths=(8,), weights=(1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(BadInput):
        call()

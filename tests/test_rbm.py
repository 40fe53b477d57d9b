"""Restricted Boltzmann machines: everything against enumeration of all states in float64 NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from planted import rejects
from small_machines import HIDDEN, KEY, D, H, V, chi_square, exact_samples, law, lively, machine, table
from test_train import digests, go

from genjax.errors import BadInput, Preempted
from genjax.fields import load
from genjax.learners import adjusted, minimize
from genjax.likelihood.ais import enumerated_log_partition
from genjax.losses.energy import phase_difference, sparsity
from genjax.models.centering import followed, recentred
from genjax.models.rbm import RBM, filters, gibbs_step
from genjax.models.visible import bernoulli_units
from genjax.samplers.gibbs import along_chain, block_gibbs, clamped, run_chain, run_on
from genjax.train import Options
from genjax.types import Out, State

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "rbm_digits.py"


# -- energies ----------------------------------------------------------------------------------------------------------


def check_energies(of):
    """Energy, both free energies and both conditionals of every state; log Z by v, by h and by both."""
    for centred in (False, True):
        model, variables = lively(centred)
        exact, (_, log_z) = table(variables), law(variables)
        found = of(model, variables)
        pairs = np.repeat(V, 8, axis=0), np.tile(HIDDEN, (16, 1))
        energy = found.energy(*map(jnp.float32, pairs))
        np.testing.assert_allclose(energy, exact.ravel(), atol=1e-5)
        np.testing.assert_allclose(
            found.free_energy(jnp.float32(V)), -scipy.special.logsumexp(-exact, axis=1), atol=1e-5
        )
        np.testing.assert_allclose(
            found.hidden_free_energy(jnp.float32(HIDDEN)), -scipy.special.logsumexp(-exact, axis=0), atol=1e-5
        )
        joint = np.exp(-exact - log_z)
        given_v, given_h = joint / joint.sum(1, keepdims=True), joint / joint.sum(0, keepdims=True)
        np.testing.assert_allclose(jax.nn.sigmoid(found.hidden_logits(jnp.float32(V))), given_v @ HIDDEN, atol=1e-5)
        np.testing.assert_allclose(
            jax.nn.sigmoid(found.visible_parameters(jnp.float32(HIDDEN))), given_h.T @ V, atol=1e-5
        )
        for log_partition in (
            enumerated_log_partition(found.free_energy, D),
            enumerated_log_partition(found.hidden_free_energy, H),
            jax.nn.logsumexp(-energy),
        ):
            np.testing.assert_allclose(log_partition, log_z, rtol=1e-5)


def test_energies():
    check_energies(machine)


ENERGY_MUTANTS = {
    "no offset of h": lambda of: of._replace(
        free_energy=lambda v: of.free_energy(v) + 0.1 * of.hidden_logits(v).sum(-1)
    ),
    "the other sign": lambda of: of._replace(hidden_free_energy=lambda h: -of.hidden_free_energy(h)),
    "no visible bias": lambda of: of._replace(visible_parameters=lambda h: of.visible_parameters(h) - 0.1),
}


@pytest.mark.parametrize("mutant", ENERGY_MUTANTS.values(), ids=ENERGY_MUTANTS)
def test_energies_reject(mutant):
    rejects(check_energies, lambda *given: mutant(machine(*given)))


def test_enumeration_in_chunks():
    """15 units in 8 chunks: independent units of log-odds b have log Z = sum log(1 + exp(b))."""
    b = np.random.default_rng(0).normal(size=15)
    found = enumerated_log_partition(lambda v: -(v @ jnp.float32(b)), 15)
    np.testing.assert_allclose(found, np.log1p(np.exp(b)).sum(), rtol=1e-5)


def test_enumeration_loses_nothing():
    """25 units of equal states: log Z = 25 log 2 - F, also where F is large."""
    for size in (0.0, 1500.0):
        found = jax.jit(lambda size=size: enumerated_log_partition(lambda v: jnp.full(len(v), -size), 25))()
        assert float(found) - size == pytest.approx(25 * np.log(2), abs=1e-3)


def check_recentred(recentred):
    """p(v) does not move with the offsets."""
    _, variables = lively()
    moved = recentred(variables, jnp.linspace(0.0, 1.0, D), jnp.linspace(1.0, 0.0, H))
    assert np.abs(moved["offsets"]["visible"] - variables["offsets"]["visible"]).max() > 0.1
    np.testing.assert_allclose(law(moved)[0], law(variables)[0], atol=1e-5)


def test_recentred():
    check_recentred(recentred)
    rejects(
        check_recentred, lambda variables, *offsets: recentred(variables, *offsets) | {"params": variables["params"]}
    )
    model, variables = lively()
    params, carry = {"params": variables["params"]}, {"offsets": variables["offsets"], "chains": jnp.zeros((2, D))}
    moved = followed(model, State(jnp.zeros((), jnp.int32), params, (), carry), jnp.float32(V), 0.25)
    new = {**moved.params, "offsets": moved.carry["offsets"]}
    np.testing.assert_allclose(law(new)[0], law(variables)[0], atol=1e-5)
    np.testing.assert_allclose(new["offsets"]["visible"], 0.75 * variables["offsets"]["visible"] + 0.125, rtol=1e-5)
    joint = np.exp(-table(variables))  # lambda: the mean over all v, each as often, of the law of h given v
    mean_h = (joint / joint.sum(1, keepdims=True)).mean(0) @ HIDDEN
    expected = 0.75 * variables["offsets"]["hidden"] + 0.25 * mean_h
    np.testing.assert_allclose(new["offsets"]["hidden"], expected, rtol=1e-5)


# -- gradients ---------------------------------------------------------------------------------------------------------


def check_phases(phase_difference):
    """Its gradient with 200,000 exact samples is that of the exact -log p of three images: within 5 standard errors."""
    model, variables = lively()
    data, samples = jnp.float32(V[[3, 9, 14]]), exact_samples(variables, 200_000)
    offsets = {"offsets": variables["offsets"]}

    def exact(params):
        of = machine(model, {"params": params, **offsets})
        return jnp.mean(of.free_energy(data)) + enumerated_log_partition(of.hidden_free_energy, H)

    def phases(params):
        return jnp.mean(phase_difference(machine(model, {"params": params, **offsets}).free_energy, data, samples))

    expected, found = jax.grad(exact)(variables["params"]), jax.grad(phases)(variables["params"])
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected)) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=5 / np.sqrt(200_000)), expected, found)


def test_the_gradient_is_the_difference_of_phases():
    check_phases(phase_difference)
    rejects(check_phases, lambda free, data, samples: free(data))
    rejects(check_phases, lambda free, data, samples: phase_difference(free, data, samples[:, ::-1]))
    rejects(check_phases, lambda free, data, samples: -phase_difference(free, data, samples))


def test_the_centred_gradient_is_that_of_the_paper():
    """<(v - mu)(h - lambda)'> of the samples less that of the data, h by its probability (algorithm 1)."""
    model, variables = lively()
    data, samples = jnp.float32(V[[3, 9]]), jnp.float32(V[[1, 8, 12]])
    of, mu, lam = machine(model, variables), *(variables["offsets"][name] for name in ("visible", "hidden"))
    phase = lambda v: np.mean(
        [np.outer(x - mu, jax.nn.sigmoid(h) - lam) for x, h in zip(v, of.hidden_logits(v), strict=True)], axis=0
    )
    loss = lambda params: jnp.mean(
        phase_difference(machine(model, {**variables, "params": params}).free_energy, data, samples)
    )
    np.testing.assert_allclose(jax.grad(loss)(variables["params"])["weight"], phase(samples) - phase(data), atol=1e-6)


def check_bias(step_of):
    """The expected gradient of CD-k, by 100,000 chains, nears the exact one: k = 1, 4, 32, of a machine that mixes
    so slowly that the bias of k = 4 stands above the noise, 0.005."""
    model, variables = lively(seed=1, scale=2.0)
    step, data = step_of(machine(model, variables)), jnp.float32(np.tile(V[[3, 9, 14, 6]], (25_000, 1)))

    def weight_gradient(samples):
        loss = lambda params: jnp.mean(
            phase_difference(machine(model, {**variables, "params": params}).free_energy, data[:4], samples)
        )
        return np.asarray(jax.grad(loss)(variables["params"])["weight"])

    exact = weight_gradient(exact_samples(variables, 400_000))
    chains = jax.jit(lambda k: jax.lax.fori_loop(0, k, lambda i, v: step(v, jax.random.fold_in(KEY, i)), data))
    biases = [np.linalg.norm(weight_gradient(chains(k)) - exact) for k in (1, 4, 32)]
    assert biases[0] > 1.5 * biases[1] > 1.5 * biases[2] and biases[2] < 0.02


def test_the_bias_of_cd_falls_with_k():
    check_bias(gibbs_step)


def stays(of):
    return lambda v, key: v


def half_as_cold(of):
    return gibbs_step(of.annealed(0.5, jnp.zeros(4)))


def means_for_samples(of):
    return lambda v, key: of.visible_mean(of.draw_hidden(v, key))


@pytest.mark.parametrize("mutant", [stays, half_as_cold, means_for_samples])
def test_the_bias_rejects(mutant):
    rejects(check_bias, mutant)


# -- chains ------------------------------------------------------------------------------------------------------------


def check_invariance(step_of):
    """40,000 chains that start at p(v) are at p(v) after three steps: chi-square, p > 1e-4."""
    model, variables = lively()
    step, start = step_of(machine(model, variables)), exact_samples(variables, 40_000)
    end = jax.jit(lambda v: run_chain(step, v, KEY, 3))(start)
    assert chi_square(end, law(variables)[0]) > 1e-4
    assert float(jnp.mean(jnp.abs(end - start))) > 0.1


def one_key(of):
    """Both half-steps with the same key."""
    return lambda v, key: block_gibbs(
        lambda v, _: (jax.random.uniform(key, (len(v), D))[:, :H] < jax.nn.sigmoid(of.hidden_logits(v))).astype(
            v.dtype
        ),
        lambda h, _: (jax.random.uniform(key, (len(h), D)) < jax.nn.sigmoid(of.visible_parameters(h))).astype(h.dtype),
    )(v, key)


def test_gibbs_leaves_the_law_where_it_is():
    check_invariance(gibbs_step)
    rejects(check_invariance, one_key)
    rejects(check_invariance, lambda of: gibbs_step(of.annealed(0.9, jnp.zeros(D))))
    rejects(check_invariance, lambda of: lambda v, key: v)


def test_clamped_chains_have_the_conditional_law():
    """p(v_3, v_4 | v_1 = 1, v_2 = 0) by 40,000 chains of 30 steps."""
    model, variables = lively()
    known, mask = jnp.array([[1.0, 0.0, 0.0, 0.0]]), jnp.array([True, True, False, False])
    step = clamped(gibbs_step(machine(model, variables)), known, mask)
    end = jax.jit(lambda v: run_chain(step, v, KEY, 30))(jnp.tile(known, (40_000, 1)))
    wanted = law(variables)[0][8:12]
    counts = np.bincount(np.asarray(end, int)[:, 2:] @ [2, 1], minlength=4)
    assert np.all(np.asarray(end)[:, :2] == [1, 0])
    assert scipy.stats.chisquare(counts, wanted / wanted.sum() * 40_000).pvalue > 1e-4


def check_run_on(run_on):
    """40,000 states from 500 chains of which half stand at 0000, half at 1111: chosen evenly, then a step on."""
    model, variables = lively(scale=2.0)
    ends = jnp.float32(np.repeat([[0.0] * D, [1.0] * D], 250, axis=0))
    joint = np.exp(-table(variables))
    move = (joint / joint.sum(1, keepdims=True)) @ (joint / joint.sum(0, keepdims=True)).T  # v -> h -> v
    step = gibbs_step(machine(model, variables))
    found = jax.jit(lambda chains: run_on(step, chains, 40_000, KEY, 1))(ends)
    assert chi_square(found, 0.5 * move[[0, 15]].sum(axis=0)) > 1e-4


def test_states_run_on():
    check_run_on(run_on)
    rejects(check_run_on, lambda step, chains, n, key, steps: run_on(step, chains[:300], n, key, steps))
    rejects(check_run_on, lambda step, chains, n, key, steps: run_on(step, chains, n, key, steps + 1))
    with pytest.raises(BadInput, match="at least one chain"):
        run_on(lambda v, key: v, jnp.zeros((0, D)), 2, KEY, 1)


def check_filters(filters):
    """Two units of other sizes: each fills its own scale, and rows of pixels stay rows."""
    found = filters(jnp.array([[4.0, 0.0, -2.0, 1.0, 0.0, 0.0], [0.0, 0.1, -0.1, 0.0, 0.0, 0.05]]), (2, 3, 1))
    wanted = [[[1.0, 0.5, 0.25], [0.625, 0.5, 0.5]], [[0.5, 1.0, 0.0], [0.5, 0.5, 0.75]]]
    np.testing.assert_allclose(found[..., 0], wanted, atol=1e-6)


def test_filters():
    check_filters(filters)
    rejects(check_filters, lambda rows, shape: filters(-rows, shape))
    rejects(check_filters, lambda rows, shape: 0.5 + 0.5 * (rows / jnp.abs(rows).max()).reshape(-1, *shape))


def test_looks_are_steps_apart():
    model, variables = lively()
    step, start = gibbs_step(machine(model, variables)), jnp.float32(V)
    seen = along_chain(step, start, KEY, 3, 2)
    first = run_chain(step, start, jax.random.fold_in(KEY, 0), 2)
    np.testing.assert_array_equal(seen[0], first)
    np.testing.assert_array_equal(seen[1], run_chain(step, first, jax.random.fold_in(KEY, 1), 2))


# -- learning ----------------------------------------------------------------------------------------------------------


def test_adjusting_comes_before_every_update():
    """x <- x / 2, then x <- x - d (x^2 / 2) / dx / 4: by 3/8 in each update."""
    learner = minimize(
        lambda p, state, batch, key: Out(p**2 / 2 + 0 * batch["x"]), optax.sgd(0.25), lambda *_: jnp.ones(())
    )
    halved = adjusted(learner, lambda state, batch: state._replace(params=state.params / 2))
    batch = {"x": jnp.zeros(2)}
    state = halved.init(KEY, batch)
    for _ in range(3):
        state, _ = jax.jit(halved.update)(state, batch, KEY)
    assert float(state.params) == pytest.approx(0.375**3) and int(state.step) == 3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"centred": False, "persistent": False, "k": 2}])
def test_a_run_learns_and_goes_on_bit_for_bit(tmp_path, options):
    """Chains and offsets live in the checkpoint: a run that was stopped on the way ends as the one that was not."""
    make = lambda: load(EXPERIMENT).function(hidden=8, betas=100, steps=600, **options)
    every = Options(checkpoint_every=200, log_every=100, evaluate_every=600)
    with pytest.raises(Preempted):
        go(make(), tmp_path / "parts", every, 7)
    go(make(), tmp_path / "parts", every)
    outcome, _ = go(make(), tmp_path / "whole", every)
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert {place: parts[place] for place in whole} == whole
    assert outcome.results["test/nll"].value < 24.0  # independent pixels have 25.2
    exact, there, back = (outcome.results[f"{way}/log_z"] for way in ("exact", "there", "back"))
    assert abs(there.value - exact.value) < 5 * there.standard_error + 0.1
    assert abs(back.value - exact.value) < 1.0 and back.standard_error > 0


# -- bad input ---------------------------------------------------------------------------------------------------------

MODEL, VARIABLES = lively()
of = machine(MODEL, VARIABLES)
BAD = {
    "enumeration of 30 units": lambda: enumerated_log_partition(of.free_energy, 30),
    "k = 0": lambda: run_chain(gibbs_step(of), jnp.float32(V), KEY, 0),
    r"chains of shape \[0, 4\]": lambda: run_chain(gibbs_step(of), jnp.zeros((0, D)), KEY, 1),
    "looks = 0": lambda: along_chain(gibbs_step(of), jnp.float32(V), KEY, 0, 1),
    r"v has shape \[2, 5\]": lambda: of.free_energy(jnp.zeros((2, 5))),
    r"h has shape \[3\]": lambda: of.visible_parameters(jnp.zeros(3)),
    "visible = 0": lambda: RBM(bernoulli_units(0), 2).init(KEY, jnp.zeros((1, 0))),
    r"data \[2, 4\], samples \[0, 4\]": lambda: phase_difference(of.free_energy, jnp.zeros((2, 4)), jnp.zeros((0, 4))),
    "target = 1": lambda: sparsity(jnp.zeros((2, 2)), 1),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_input(message, call):
    with pytest.raises(BadInput, match=message) as error:
        call()
    assert 2 <= len(error.value.lines) <= 3

"""Annealed importance sampling and its reverse: against enumeration, and what a sum of many small weights loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from small_machines import KEY, D, V, exact_samples, law, lively, machine

from genjax.errors import BadInput
from genjax.likelihood.ais import (
    annealed_importance_sampling,
    enumerated_log_partition,
    reverse_annealing,
    temperatures,
)
from genjax.models.partition import annealed_back, annealed_there
from genjax.models.rbm import gibbs_step

BASE = jnp.array([0.3, -0.5, 0.1, 0.8])


def walk(variables, model, step=gibbs_step):
    of = machine(model, variables)
    return (
        of.base_log_partition(BASE),
        lambda v, beta: of.annealed(beta, BASE).free_energy(v),
        lambda v, beta, key: step(of.annealed(beta, BASE))(v, key),
    )


def check_annealing(forward, reverse, runs=200, chains=20):
    """200 runs of 20 chains and 8 temperatures: E w = Z / Z_0, E 1/w = Z_0 / Z (5 standard errors), the means of both
    estimates bracket log Z within 0.2 nats, and within 3 standard errors at least 95 % of the runs do."""
    model, variables = lively(seed=2, scale=3.0)
    betas, (_, log_z) = temperatures((8, 1.0)), law(variables)
    base, free_energy, transition = walk(variables, model)

    def run(key, exact):
        start = jax.random.bernoulli(key, jnp.broadcast_to(jax.nn.sigmoid(BASE), (chains, D))).astype(jnp.float32)
        there = forward(free_energy, transition, start, base, betas, jax.random.fold_in(key, 1))
        return there, reverse(free_energy, transition, exact, base, betas, jax.random.fold_in(key, 2))

    exact = exact_samples(variables, runs * chains).reshape(runs, chains, D)
    low, high = jax.jit(jax.vmap(run))(jax.random.split(KEY, runs), exact)
    for estimate, ratio in ((low, log_z - base), (high, base - log_z)):
        w = np.exp(np.float64(estimate.log_weights) - float(ratio)).ravel()
        assert abs(w.mean() - 1) < 5 * w.std() / np.sqrt(w.size)
        shares = w.reshape(runs, chains) / w.reshape(runs, chains).sum(1, keepdims=True)
        np.testing.assert_allclose(estimate.effective, 1 / (shares**2).sum(1), rtol=1e-3)
        told = np.sqrt(np.mean(np.square(estimate.standard_error)))
        assert 0.7 < told / np.std(estimate.value) < 1.3
    assert log_z - 0.2 < low.value.mean() < log_z < high.value.mean() < log_z + 0.2
    inside = (low.value - 3 * low.standard_error <= log_z) & (log_z <= high.value + 3 * high.standard_error)
    assert inside.mean() >= 0.95


def test_annealing():
    check_annealing(annealed_importance_sampling, reverse_annealing)


def shifted(estimate):
    """The weight looks at the state after the transition: what a loop in the wrong order does."""

    def wrong(free_energy, transition, start, base, betas, key):
        moved = lambda v, beta: free_energy(v, jnp.minimum(1.0, beta + 1 / 8))
        return estimate(moved, transition, start, base, betas, key)

    return wrong


def altered(estimate, **change):
    """An estimate one of whose numbers is another."""

    def wrong(*given):
        found = estimate(*given)
        return found._replace(**{name: of(found) for name, of in change.items()})

    return wrong


ANNEALING_MUTANTS = {
    "energies one temperature late": (shifted(annealed_importance_sampling), reverse_annealing),
    "late on the way back": (annealed_importance_sampling, shifted(reverse_annealing)),
    "the base forgotten": (
        lambda f, t, s, base, *rest: annealed_importance_sampling(f, t, s, 0.0 * base, *rest),
        reverse_annealing,
    ),
    "a chain at another temperature": (
        lambda f, t, *rest: annealed_importance_sampling(f, lambda v, beta, key: t(v, beta**2, key), *rest),
        reverse_annealing,
    ),
    **{
        name: (altered(annealed_importance_sampling, **change), altered(reverse_annealing, **change))
        for name, change in {
            "an error a hundred times too large": {"standard_error": lambda found: 100 * found.standard_error},
            "an error of one chain": {"standard_error": lambda found: found.standard_error * np.sqrt(20)},
            "all chains count": {"effective": lambda found: jnp.full_like(found.effective, 20)},
        }.items()
    },
    "back from the base": (
        annealed_importance_sampling,
        lambda f, t, start, *rest: reverse_annealing(f, t, jnp.zeros_like(start), *rest),
    ),
}


@pytest.mark.parametrize("mutant", ANNEALING_MUTANTS.values(), ids=ANNEALING_MUTANTS)
def test_annealing_rejects(mutant):
    rejects(check_annealing, *mutant)


def test_the_base_is_where_a_walk_begins():
    """At beta = 0: free energies of independent units, log Z exact; at beta = 1 those of the machine."""
    for centred in (False, True):
        model, variables = lively(centred)
        of = machine(model, variables)
        at_zero = enumerated_log_partition(of.annealed(0.0, BASE).free_energy, D)
        np.testing.assert_allclose(of.base_log_partition(BASE), at_zero, rtol=1e-5)
        np.testing.assert_allclose(
            of.annealed(1.0, BASE).free_energy(jnp.float32(V)), of.free_energy(jnp.float32(V)), rtol=1e-6
        )


def test_temperatures_of_the_paper():
    found = temperatures((500, 0.5), (4_000, 0.9), (10_000, 1.0))
    assert len(found) == 14_501 and found[0] == 0 and found[-1] == 1 and found[500] == np.float32(0.5)
    assert np.all(np.diff(found) > 0) and found[4_500] == np.float32(0.9)


def test_many_small_weights_are_added_without_loss():
    """20,000 temperatures of independent units: each term is known, and the sum of float32 would be off by 1e-3."""
    b = jnp.float32(np.full((1, 3), 30.0))
    free_energy = lambda v, beta: -(v @ b[0]) * beta
    stay = lambda v, beta, key: v
    found = annealed_importance_sampling(free_energy, stay, jnp.ones((2, 3)), 0.0, temperatures((20_000, 1.0)), KEY)
    assert float(found.log_weights[0]) == pytest.approx(90.0, abs=2e-4)


def test_walks_of_a_machine():
    """annealed_there and annealed_back of one machine: both within 5 standard errors of the exact log Z."""
    model, variables = lively(seed=2)
    of, log_z, betas = machine(model, variables), law(variables)[1], temperatures((30, 1.0))
    low = annealed_there(of, BASE, 2_000, betas, KEY)
    high = annealed_back(of, BASE, exact_samples(variables, 2_000), betas, KEY)
    for found in (low, high):
        assert abs(float(found.value) - log_z) < 5 * float(found.standard_error) < 0.2


def test_bad_input():
    model, variables = lively()
    with pytest.raises(BadInput, match="temperatures"):
        temperatures((10, 0.5))
    with pytest.raises(BadInput, match="betas that do not rise"):
        _, *path = walk(variables, model)
        annealed_importance_sampling(*path, jnp.float32(V), 0.0, jnp.array([0.0, 0.7]), KEY)
    with pytest.raises(BadInput, match="chains of shape"):
        annealed_there(machine(model, variables), BASE, 0, temperatures((3, 1.0)), KEY)

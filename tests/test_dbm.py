"""Deep Boltzmann machines: everything against enumeration of all states of 3-2-2 units in float64 NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from planted import rejects
from small_machines import KEY, states
from test_train import digests, go

import genjax.data
from genjax.data import Split, make_dataset, scaled
from genjax.errors import BadInput, Preempted
from genjax.fields import load
from genjax.likelihood.ais import enumerated_log_partition
from genjax.losses.energy import phase_difference
from genjax.models.dbm import mean_field, posterior, variational_free_energy
from genjax.models.rbm import Weights, gibbs_step, machine
from genjax.models.visible import bernoulli_units, gaussian_units, joined_units
from genjax.samplers.gibbs import block_gibbs, run_chain
from genjax.train import Options

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "dbm_mnist.py"
D, H1, H2 = 3, 2, 2
V, LOW, HIGH = (states(n) for n in (D, H1, H2))
X = states(D + H2)
UNITS = joined_units(bernoulli_units(D), bernoulli_units(H2))
entropy = lambda m: np.sum(scipy.special.entr(m) + scipy.special.entr(1 - m), axis=-1)
s = scipy.special.expit


def lively(seed=0, scale=1.5, upper=1.0, centred=True):
    """Weights of size `scale`, those between the hidden layers times `upper`; offsets that are no means of anything."""
    draw = np.random.default_rng(seed)
    real = lambda *shape: draw.normal(size=shape).astype(np.float32)
    w = scale * np.concatenate([real(D, H1), upper * real(H2, H1)]).astype(np.float32)
    weights = Weights(np.float32(w), real(D + H2), real(H1))
    even = lambda n: draw.uniform(0.1, 0.9, size=n).astype(np.float32)
    return weights._replace(mu=even(D + H2), mean_h=even(H1)) if centred else weights


def energy(weights, v, h1, h2):
    """E(v, h1, h2) by the definition, layer by layer; the last axes are units, the others broadcast."""
    none = Weights(0, 0, 0, np.zeros(D + H2), np.zeros(H1))
    w, b, c = (np.float64(x) for x in weights[:3])
    mu, mean_h = (np.float64(x) for x in (weights if weights.mu is not None else none)[3:5])
    x, y, z = v - mu[:D], h1 - mean_h, h2 - mu[D:]
    between = np.sum((x @ w[:D]) * y, axis=-1) + np.sum((y @ w[D:].T) * z, axis=-1)
    return -(x @ b[:D]) - y @ c - z @ b[D:] - between


def table(weights):
    """E of all states, [8 of v, 4 of h1, 4 of h2], and log Z."""
    found = energy(weights, V[:, None, None], LOW[None, :, None], HIGH[None, None])
    return found, scipy.special.logsumexp(-found)


def free_energies(weights):
    """F(v) of all 8 v, float64."""
    return -scipy.special.logsumexp(-table(weights)[0], axis=(1, 2))


MACHINES = [lively(), lively(1, centred=False), lively(2, scale=3.0)]


# -- energies ----------------------------------------------------------------------------------------------------------


def check_joined(of_weights):
    """The RBM of [v, h2] has the energies of the two layers; log Z by [v, h2], by h1 and by all three."""
    for weights in MACHINES:
        of, (exact, log_z) = of_weights(weights), table(weights)
        i, j, k = (index.ravel() for index in np.indices(exact.shape))
        found = of.energy(jnp.float32(np.concatenate([V[i], HIGH[k]], axis=1)), jnp.float32(LOW[j]))
        np.testing.assert_allclose(found, exact.ravel(), atol=2e-5)
        wanted = -scipy.special.logsumexp(-exact, axis=1).ravel()  # h2 is the faster index, as in X
        np.testing.assert_allclose(of.free_energy(jnp.float32(X)), wanted, atol=2e-5)
        for log_partition in (
            enumerated_log_partition(of.free_energy, D + H2),
            enumerated_log_partition(of.hidden_free_energy, H1),
            jax.nn.logsumexp(-found),
        ):
            np.testing.assert_allclose(log_partition, log_z, rtol=1e-5)


def test_a_deep_machine_is_one_of_two_sides():
    check_joined(lambda weights: machine(weights, UNITS))
    rejects(check_joined, lambda weights: machine(weights._replace(w=np.roll(weights.w, 1, axis=0)), UNITS))
    rejects(check_joined, lambda weights: machine(weights._replace(mean_h=None), UNITS))


def check_posterior(posterior):
    """p(h1 | v, h2), p(h2 | h1) and p(h2 | v) of all states."""
    for weights in MACHINES:
        joint = np.exp(-table(weights)[0])
        given = joint / joint.sum(axis=1, keepdims=True)
        of_all = posterior(weights, jnp.float32(V))
        for number, h2 in enumerate(HIGH):
            found = jax.nn.sigmoid(of_all.hidden_logits(jnp.broadcast_to(jnp.float32(h2)[None], (8, H2))))
            np.testing.assert_allclose(found, given[:, :, number] @ LOW, atol=1e-5)
        for v, own in zip(V, joint, strict=True):
            of = posterior(weights, jnp.float32(v)[None])
            law = np.asarray(jnp.exp(-of.free_energy(jnp.float32(HIGH))), np.float64)
            np.testing.assert_allclose(law / law.sum(), own.sum(axis=0) / own.sum(), atol=1e-5)
            wanted = own / own.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(of.visible_mean(jnp.float32(LOW)), wanted @ HIGH, atol=1e-5)


def test_the_posterior_is_a_machine():
    check_posterior(posterior)
    rejects(check_posterior, lambda weights, v: posterior(weights, jnp.zeros_like(v)))
    rejects(check_posterior, lambda weights, v: posterior(weights._replace(mu=None), v))
    rejects(check_posterior, lambda weights, v: posterior(weights._replace(mean_h=None), v))
    rejects(check_posterior, lambda weights, v: posterior(weights._replace(w=weights.w[::-1]), v))


# -- the bound ---------------------------------------------------------------------------------------------------------


def check_bound(free_energy, means=lambda weights, v: mean_field(weights, v, 50)):
    """G is E(v, m1, m2) - H(m1) - H(m2) at the best m1, at least F(v) for any m2, near it for those of mean field, and
    equal to it where the layers do not touch; so that sum_v exp(-G) / Z <= 1."""
    for weights in MACHINES:
        of, exact, log_z = machine(weights, UNITS), free_energies(weights), table(weights)[1]
        any_m2 = jnp.float32(np.random.default_rng(0).uniform(size=(8, H2)))
        for m2 in (means(weights, jnp.float32(V)), any_m2, jnp.float32(HIGH[[0, 1, 2, 3] * 2])):
            found = np.float64(free_energy(of.free_energy, jnp.float32(V), m2))
            m1 = np.float64(jax.nn.sigmoid(posterior(weights, jnp.float32(V)).hidden_logits(m2)))
            m2 = np.float64(m2)
            np.testing.assert_allclose(found, energy(weights, V, m1, m2) - entropy(m1) - entropy(m2), atol=1e-4)
            assert np.all(found > exact - 2e-5) and np.exp(-found - log_z).sum() < 1 + 1e-5
        near = np.float64(free_energy(of.free_energy, jnp.float32(V), means(weights, jnp.float32(V))))
        assert 1e-3 < np.mean(near - exact) < 0.5
    apart = lively(upper=0.0)
    found = free_energy(machine(apart, UNITS).free_energy, jnp.float32(V), means(apart, jnp.float32(V)))
    np.testing.assert_allclose(found, free_energies(apart), atol=2e-5)


def test_the_bound():
    check_bound(variational_free_energy)
    rejects(check_bound, lambda free, v, m2: free(jnp.concatenate([v, m2], axis=1)))
    rejects(
        check_bound, lambda free, v, m2: 2 * free(jnp.concatenate([v, m2], 1)) - variational_free_energy(free, v, m2)
    )
    rejects(check_bound, lambda free, v, m2: variational_free_energy(free, v, jnp.round(m2)))
    rejects(check_bound, variational_free_energy, lambda weights, v: jnp.full((8, H2), 0.5))


def test_the_bound_of_real_pixels():
    """Gaussian v: G >= F(v) = -log of the sum over h2 of exp(-F([v, h2])), and mean field is near it."""
    weights, v = lively(3), jnp.float32(np.random.default_rng(1).normal(size=(5, D)))
    of = machine(weights, joined_units(gaussian_units(D), bernoulli_units(H2)))
    pairs = jnp.concatenate([jnp.repeat(v, 4, axis=0), jnp.tile(jnp.float32(HIGH), (5, 1))], axis=1)
    exact = -jax.nn.logsumexp(-of.free_energy(pairs).reshape(5, 4), axis=1)
    gap = variational_free_energy(of.free_energy, v, mean_field(weights, v, 50)) - exact
    assert jnp.all(gap > -1e-5) and 1e-3 < jnp.mean(gap) < 0.5


# -- mean field --------------------------------------------------------------------------------------------------------


def check_mean_field(mean_field):
    """Every sweep is the two updates of the paper, the first from the offsets, and lowers G; the end solves them."""
    for weights in MACHINES:
        w, b, c = (np.float64(x) for x in weights[:3])
        mu = np.zeros(D + H2) if weights.mu is None else np.float64(weights.mu)
        mean_h = np.zeros(H1) if weights.mean_h is None else np.float64(weights.mean_h)
        of, v, m2, last = machine(weights, UNITS), jnp.float32(V), np.tile(mu[D:], (8, 1)), np.inf
        for sweeps in range(1, 7):
            m1 = s(c + (V - mu[:D]) @ w[:D] + (m2 - mu[D:]) @ w[D:])
            m2 = s(b[D:] + (m1 - mean_h) @ w[D:].T)
            found = mean_field(weights, v, sweeps)
            np.testing.assert_allclose(found, m2, atol=1e-5)
            now = np.float64(variational_free_energy(of.free_energy, v, found))
            assert np.all(now < last + 1e-5)
            last = now
        end = np.float64(mean_field(weights, v, 500))
        m1 = s(c + (V - mu[:D]) @ w[:D] + (end - mu[D:]) @ w[D:])
        np.testing.assert_allclose(end, s(b[D:] + (m1 - mean_h) @ w[D:].T), atol=1e-5)


def test_mean_field():
    check_mean_field(mean_field)
    rejects(check_mean_field, lambda weights, v, sweeps: mean_field(weights, v, sweeps + 1))
    rejects(check_mean_field, lambda weights, v, sweeps: mean_field(weights, jnp.zeros_like(v), sweeps))
    rejects(check_mean_field, lambda weights, v, sweeps: 0.9 * mean_field(weights, v, sweeps))
    rejects(check_mean_field, lambda weights, v, sweeps: mean_field(weights._replace(mu=None), v, sweeps))


# -- learning ----------------------------------------------------------------------------------------------------------


def check_gradient(loss_of):
    """The gradient of an update, 200,000 exact samples as its chains, is that of the mean of G + log Z by float64
    differences of the enumeration, mean field carried to its end: within 5 standard errors."""
    weights, data = lively(5, upper=2.0), jnp.float32(V[[1, 4, 6]])
    exact, log_z = table(weights)
    samples = np.random.default_rng(0).choice(32, size=200_000, p=np.exp(-exact - log_z).sum(axis=1).ravel())
    found = jax.grad(lambda moved: jnp.mean(loss_of(weights._replace(w=moved), data, jnp.float32(X[samples]))))

    def bound(w):
        moved = weights._replace(w=w)
        m2 = np.float64(mean_field(weights, data, 500))  # constant: at the fixed point its own change does not count
        x = np.float64(data)
        m1 = s(np.float64(weights.c) + (x - weights.mu[:D]) @ w[:D] + (m2 - weights.mu[D:]) @ w[D:])
        free = energy(moved, x, m1, m2) - entropy(m1) - entropy(m2)
        return np.mean(free) + table(moved)[1]

    steps = 1e-4 * np.eye(weights.w.size).reshape(-1, *weights.w.shape)
    w = np.float64(weights.w)
    slope = np.reshape([(bound(w + step) - bound(w - step)) / 2e-4 for step in steps], w.shape)
    assert np.abs(slope).max() > 0.1
    np.testing.assert_allclose(found(jnp.asarray(weights.w)), slope, atol=5 / np.sqrt(200_000))


def completed(weights, v, sweeps=500):
    return jnp.concatenate([v, mean_field(weights, v, sweeps)], axis=1)


def test_the_gradient_is_that_of_the_bound():
    phases = lambda weights, x, samples: phase_difference(machine(weights, UNITS).free_energy, x, samples)
    check_gradient(lambda weights, v, samples: phases(weights, completed(weights, v), samples))
    rejects(check_gradient, lambda weights, v, samples: phases(weights, completed(weights, v, 1), samples))
    rejects(check_gradient, lambda weights, v, samples: phases(weights, jnp.round(completed(weights, v)), samples))
    rejects(check_gradient, lambda weights, v, samples: phases(weights, completed(weights, v), samples[:, ::-1]))


def check_invariance(step_of):
    """40,000 chains of [v, h2] that start at the law are at the law after three steps: chi-square, p > 1e-4."""
    weights = lively()
    exact, log_z = table(weights)
    law = np.exp(-exact - log_z).sum(axis=1).ravel()
    start = jnp.float32(X[np.random.default_rng(0).choice(32, size=40_000, p=law)])
    end = jax.jit(lambda x: run_chain(step_of(weights), x, KEY, 3))(start)
    counts = np.bincount(np.asarray(end, int) @ [16, 8, 4, 2, 1], minlength=32)
    assert scipy.stats.chisquare(counts, law * 40_000).pvalue > 1e-4
    assert float(jnp.mean(jnp.abs(end - start))) > 0.1


def one_key(weights):
    """v and h2 drawn from h1 with the same random numbers."""
    of = machine(weights, UNITS)

    def draw(h1, key):
        uniform = jnp.tile(jax.random.uniform(key, (len(h1), D)), (1, 2))[:, : D + H2]
        return (uniform < of.visible_mean(h1)).astype(h1.dtype)

    return block_gibbs(of.draw_hidden, draw)


def test_chains_leave_the_law_where_it_is():
    check_invariance(lambda weights: gibbs_step(machine(weights, UNITS)))
    rejects(check_invariance, one_key)
    rejects(check_invariance, lambda weights: gibbs_step(machine(weights._replace(c=weights.c + 0.1), UNITS)))


# -- the experiment ----------------------------------------------------------------------------------------------------


def bars():
    """Four binary patterns of bars, 28x28, a tenth of whose pixels are turned over: 485 nats if pixels were apart."""
    draw = np.random.default_rng(0)
    patterns = draw.integers(0, 2, (4, 28, 1, 1)).astype(np.uint8) * np.ones((1, 1, 28, 1), np.uint8)
    images = patterns[draw.integers(0, 4, 300)]
    images = images ^ (draw.random(images.shape) < 0.1)
    parts = {"train": images[:200], "validation": images[200:250], "test": images[250:]}
    return make_dataset("bars", {name: Split({"image": rows}, scaled(2)) for name, rows in parts.items()}, levels=2)


@pytest.fixture
def tiny(monkeypatch):
    """The experiment on bars, with little annealing."""
    monkeypatch.setattr(genjax.data, "binarized_mnist", lambda data_dir=None: bars())
    function = load(EXPERIMENT).function
    given = {"temperatures": lambda *parts: np.linspace(0, 1, 101, dtype=np.float32), "MIX": 50}
    for name, value in given.items():
        monkeypatch.setitem(function.__globals__, name, value)
    return lambda **fields: function(hidden=8, deep=6, chains=20, batch_size=20, **fields)


def test_an_update_sees_the_means_of_both_sides(tiny):
    """With an offset rate of 0.5, offsets are half way to the means of [v, m2] and of h1 after one update."""
    stage = tiny(offset_rate=0.5, steps=10).stages[0]
    batch = stage.data.batch(stage.data.resident, KEY, 0)
    state = jax.jit(lambda: stage.learner.init(KEY, batch))()
    params, before = state.params["params"], state.carry["offsets"]
    after = jax.jit(stage.learner.update)(state, batch, KEY)[0].carry["offsets"]
    weights = Weights(params["weight"], params["visible"], params["hidden"], before["visible"], before["hidden"])
    x = completed(weights, batch["image"].reshape(20, -1), 5)
    h1 = jax.nn.sigmoid(params["hidden"][None] + (x - before["visible"][None]) @ params["weight"])
    np.testing.assert_allclose(after["visible"], 0.5 * (before["visible"] + x.mean(axis=0)), atol=1e-5)
    np.testing.assert_allclose(after["hidden"], 0.5 * (before["hidden"] + h1.mean(axis=0)), atol=1e-5)


@pytest.mark.slow
def test_a_run_learns_and_goes_on_bit_for_bit(tiny, tmp_path):
    """Chains and offsets live in the checkpoint: a run that was stopped on the way ends as the one that was not."""
    make = lambda: tiny(steps=600, learning_rate=0.02)
    every = Options(checkpoint_every=200, log_every=100, evaluate_every=600)
    with pytest.raises(Preempted):
        go(make(), tmp_path / "parts", every, 7)
    go(make(), tmp_path / "parts", every)
    outcome, _ = go(make(), tmp_path / "whole", every)
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert {place: parts[place] for place in whole} == whole
    assert outcome.results["test_there/bound"].value < 420.0


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD = {
    "sweeps = 0": lambda: mean_field(lively(), jnp.float32(V), 0),
    r"v has shape \[8, 5\]": lambda: posterior(lively(), jnp.zeros((8, D + H2))),
    "deviations": lambda: posterior(lively()._replace(deviation=np.ones(D + H2, np.float32)), jnp.float32(V)),
    r"v has shape \[3\]": lambda: mean_field(lively(), jnp.zeros(D), 1),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_input(message, call):
    with pytest.raises(BadInput, match=message) as error:
        call()
    assert 2 <= len(error.value.lines) <= 3

"""RNN-RBM on rolls so small that all of them can be enumerated: 3 notes, 3 frames; the experiment on toy rolls."""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from planted import rejects
from test_music_experiments import loaded, started
from test_train import digests, go

from genjax.errors import BadInput, Preempted
from genjax.losses.energy import paired_phases
from genjax.models.conditional_rbm import exact_rows, rows_back, rows_there
from genjax.models.rbm import machine
from genjax.models.recurrent import GRU
from genjax.models.rnn_rbm import RNNRBM
from genjax.samplers.frames import sample_frames
from genjax.train import Options

KEY = jax.random.key(0)
NOTES, FRAMES, HIDDEN = 3, 3, 2
states = lambda n: np.float64([*itertools.product((0, 1), repeat=n)])
ROLLS = np.float32(states(NOTES * FRAMES)).reshape(-1, FRAMES, NOTES)
MODEL = RNNRBM(GRU(5), HIDDEN, NOTES)


@functools.cache
def parameters():
    """Large weights: notes far from independent, and frames that depend on those before."""
    rng, shapes = np.random.default_rng(3), jax.eval_shape(MODEL.init, KEY, ROLLS)
    return jax.tree.map(lambda leaf: np.float32(2.0 * rng.normal(size=leaf.shape)), shapes)


def weights_of(rolls, params=None):
    return MODEL.apply(parameters() if params is None else params, jnp.asarray(rolls), method="weights")


def log_prob(rolls, weights_of=weights_of):
    """log p of every frame given those before it, [B, T]."""
    weights, v = weights_of(rolls), jnp.asarray(rolls).reshape(-1, NOTES)
    each = -machine(weights, MODEL.units).free_energy(v) - exact_rows(weights, MODEL.units)
    return each.reshape(rolls.shape[:2])


def laws(rolls):
    """log p of the 8 states of each frame given those before it [B, T, 8], in float64 from all states of v and h; the
    GRU's outputs are taken from the library."""
    own = jax.tree.map(np.float64, parameters()["params"]["rbm"])
    before = np.concatenate([np.zeros((len(rolls), 1, NOTES), np.float32), rolls[:, :-1]], axis=1)
    u = np.float64(GRU(5).apply({"params": parameters()["params"]["body"]}, before)[0])
    b, c = (u @ own[side]["kernel"] + own[side]["bias"] for side in "bc")
    energies = [
        [-(b @ v) - (c @ h) - v @ own["weight"] @ h for h in states(HIDDEN)]  # [B, T]
        for v in states(NOTES)
    ]
    log_p = np.moveaxis(scipy.special.logsumexp(-np.array(energies), axis=1), 0, -1)
    return log_p - scipy.special.logsumexp(log_p, axis=-1, keepdims=True)


def reference(rolls):
    """log p of whole rolls [B]."""
    number = np.int64(rolls @ np.array([4, 2, 1]))[..., None]
    return np.take_along_axis(laws(rolls), number, axis=-1).sum(axis=(1, 2))


# -- probabilities -----------------------------------------------------------------------------------------------------


def check_probabilities(log_prob):
    """Those of all 512 rolls sum to 1, those of the first frames are marginals, and each is the definition's."""
    found = np.float64(jax.jit(log_prob)(ROLLS).sum(axis=1))
    np.testing.assert_allclose(np.exp(found).sum(), 1.0, atol=1e-5)
    np.testing.assert_allclose(found, reference(ROLLS), atol=1e-4)
    firsts = np.exp(np.float64(log_prob(ROLLS[::64, :1]).sum(axis=1)))
    np.testing.assert_allclose(firsts, np.exp(found).reshape(8, 64).sum(axis=1), rtol=1e-4)
    assert np.std(found) > 1.0  # far from uniform


def test_probabilities():
    check_probabilities(log_prob)


def seeing_itself(rolls):
    """u_t in place of u_{t-1}."""
    return weights_of(jnp.concatenate([rolls[:, 1:], rolls[:, -1:]], axis=1))


def moved(rolls, side, shift):
    """One side's biases from another frame."""
    weights = weights_of(rolls)
    apart = getattr(weights, side).reshape(*rolls.shape[:2], -1)
    return weights._replace(**{side: jnp.roll(apart, shift, axis=1).reshape(-1, apart.shape[-1])})


PLANTED = {
    "a frame sees itself": seeing_itself,
    "visible biases one frame late": lambda rolls: moved(rolls, "b", 1),
    "hidden biases one frame late": lambda rolls: moved(rolls, "c", 1),
    "hidden biases of the next frame": lambda rolls: moved(rolls, "c", -1),
    "the hidden biases forgotten": lambda rolls: weights_of(rolls)._replace(c=0 * weights_of(rolls).c),
    "no weights": lambda rolls: weights_of(rolls)._replace(w=0 * weights_of(rolls).w),
    "the biases of one frame for all": lambda rolls: weights_of(rolls)._replace(
        b=0 * weights_of(rolls).b + weights_of(rolls).b[:1]
    ),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_probabilities_reject(planted):
    rejects(check_probabilities, lambda rolls: log_prob(rolls, planted))


def test_probabilities_reject_the_log_z_of_the_first_frame_for_all():
    def planted(rolls):
        log_z = exact_rows(weights_of(rolls), MODEL.units).reshape(rolls.shape[:2])
        return log_prob(rolls) + log_z - log_z[:, :1]

    rejects(check_probabilities, planted)


def test_a_call_is_the_free_energy_of_each_frame():
    free = machine(weights_of(ROLLS), MODEL.units).free_energy(ROLLS.reshape(-1, NOTES))
    np.testing.assert_allclose(MODEL.apply(parameters(), ROLLS).ravel(), free, rtol=1e-6)


# -- samples -----------------------------------------------------------------------------------------------------------


def after(state, frame, key, k=60):
    return MODEL.apply(parameters(), state, frame, key, k, method="after")


def sample(n, key, step=after, first=0.0):
    return sample_frames(step, MODEL.start(n), jnp.full((n, NOTES), first), FRAMES + 1, key)[:, 1:]


def check_samples(sample):
    """Chi-square of 20,000 rolls against the 512 probabilities, and of their last frames against its 8: p > 1e-4."""
    probability = np.exp(reference(ROLLS))
    drawn = np.asarray(jax.jit(sample, static_argnums=0)(20_000, jax.random.key(1)))
    numbers = (drawn.reshape(len(drawn), -1) @ (2 ** np.arange(NOTES * FRAMES)[::-1])).astype(int)
    counts, likely = np.bincount(numbers, minlength=512), probability > 3e-4
    seen = np.append(counts[likely], counts[~likely].sum())
    expected = np.append(probability[likely], probability[~likely].sum())
    assert scipy.stats.chisquare(seen, expected / expected.sum() * 20_000).pvalue > 1e-4
    last = probability.reshape(-1, 8).sum(axis=0)
    assert scipy.stats.chisquare(np.bincount(numbers % 8, minlength=8), last * 20_000).pvalue > 1e-4


def test_samples():
    check_samples(sample)


SAMPLERS = {
    "one key for all frames": lambda n, key: sample(n, key, lambda state, frame, _: after(state, frame, key)),
    "the state not carried": lambda n, key: sample(
        n, key, lambda state, frame, key: (after(state, frame, key)[0], state)
    ),
    "the last frame not read": lambda n, key: sample(n, key, lambda state, frame, key: after(state, 0 * frame, key)),
    "a sounding frame before the first": lambda n, key: sample(n, key, first=1.0),
    "a chain too short": lambda n, key: sample(n, key, functools.partial(after, k=1)),
}


@pytest.mark.parametrize("planted", SAMPLERS.values(), ids=SAMPLERS)
def test_samples_reject(planted):
    rejects(check_samples, planted)


# -- the gradient ------------------------------------------------------------------------------------------------------


def check_gradient(phases):
    """With 40,000 exact samples of each frame of three rolls, the phases' gradient of every parameter is that of the
    exact -log p, within 3 % of the largest of its array, or 0.02."""
    count, rolls = 40_000, ROLLS[[77, 300, 509]]
    draw, law = np.random.default_rng(0), np.exp(laws(rolls)).reshape(-1, 8)
    samples = jnp.float32(np.concatenate([states(NOTES)[draw.choice(8, size=count, p=p)] for p in law]))
    repeated = lambda rows: jnp.repeat(rows, count, axis=0)
    v = repeated(jnp.asarray(rolls).reshape(-1, NOTES))

    def exact(params):
        return -log_prob(rolls, lambda rolls: weights_of(rolls, params)).mean()

    def sampled(params):
        weights = weights_of(rolls, params)
        of = machine(weights._replace(b=repeated(weights.b), c=repeated(weights.c)), MODEL.units)
        return phases(of.free_energy, v, samples).mean()

    expected, found = jax.jit(jax.grad(exact))(parameters()), jax.jit(jax.grad(sampled))(parameters())
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, atol=max(0.02, 0.03 * np.abs(a).max()))
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected)) > 0.2


def test_the_gradient_is_the_difference_of_phases():
    """Through the biases, and through the recurrent network that gives them."""
    check_gradient(paired_phases)
    rejects(check_gradient, lambda free, data, samples: free(data))
    rejects(check_gradient, lambda free, data, samples: paired_phases(free, data, jnp.roll(samples, 40_000, axis=0)))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_bad_input(shape):
    with pytest.raises(BadInput, match=r"allowed: \[B, T, 3\]"):
        MODEL.init(KEY, jnp.zeros(shape))
    with pytest.raises(BadInput, match="k = 0"):
        after(MODEL.start(2), jnp.zeros((2, NOTES)), KEY, 0)


# -- the experiment ----------------------------------------------------------------------------------------------------

TINY = {"width": 8, "hidden": 3, "k": 2, "steps": 30, "frames": 5, "batch_size": 4, "learning_rate": 0.02}


def nll(experiment, name, state):
    """-log p of every toy piece of the test split, by one of its evaluations."""
    evaluation = experiment.evaluations[name]
    batch = {field: jnp.asarray(array) for field, array in evaluation.split.arrays.items()}
    return np.float64(jax.jit(evaluation.measure)(state, batch, KEY)["nll"])


def check_bracket(monkeypatch, **planted):
    """Where hidden units are too many to enumerate, both estimates of every piece are near its exact -log p."""
    exact = loaded(monkeypatch, "rnn_rbm_chorales", **TINY)
    state = started(exact)
    state = state._replace(params=jax.tree.map(lambda leaf: 2.0 * leaf, state.params))  # lively machines
    module = sys.modules["experiment_rnn_rbm_chorales"]
    for name, value in {"ENUMERATED": 2, "WALKS": 100, "BETAS": 500}.items():
        monkeypatch.setattr(module, name, value)
    for name, function in planted.items():
        monkeypatch.setattr(module, name, function)
    annealed = module.experiment(**TINY)
    assert annealed.select in {f"{name}/nll" for name in annealed.evaluations}
    for way in ("there", "back"):
        np.testing.assert_allclose(nll(annealed, f"test_{way}", state), nll(exact, "test", state), atol=0.25)


@pytest.mark.slow
def test_the_bracket_of_many_hidden_units(monkeypatch):
    check_bracket(monkeypatch)
    blind = lambda rows: lambda weights, *rest: rows(weights._replace(c=0 * weights.c), *rest)
    rejects(functools.partial(check_bracket, rows_there=blind(rows_there)), monkeypatch)
    rejects(functools.partial(check_bracket, rows_back=blind(rows_back)), monkeypatch)


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit(monkeypatch, tmp_path):
    """A run that was stopped on the way ends as the one that was not."""
    make = lambda: loaded(monkeypatch, "rnn_rbm_chorales", **TINY)
    every = Options(checkpoint_every=10, log_every=10, evaluate_every=30)
    with pytest.raises(Preempted):
        go(make(), tmp_path / "parts", every, 15)
    go(make(), tmp_path / "parts", every)
    go(make(), tmp_path / "whole", every)
    whole, parts = digests(tmp_path / "whole"), digests(tmp_path / "parts")
    assert len(whole) >= 3 and {place: parts[place] for place in whole} == whole

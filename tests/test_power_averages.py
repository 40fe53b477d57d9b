"""Averages of any width after training: weights in closed form, a random walk's averages given back; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys
from planted import rejects
from test_train import digests, go

from genjax import Experiment, Stage, power_averages
from genjax.data import batches
from genjax.errors import BadInput, Preempted
from genjax.learners import minimize
from genjax.power_averages import WIDEST, PowerState, exponent, profile_weights, reconstructed
from genjax.types import Out

STEPS, SIZE, EVERY, KEPT = 2_000, 300, 100, (0.05, 0.1)
WALK = np.random.default_rng(0).normal(size=(STEPS, SIZE)).cumsum(axis=0) + 3.0


def weights(g, t):
    """What theta_1 .. theta_t weigh in an average of exponent g, float64."""
    edges = (np.arange(t + 1) / t) ** (g + 1)
    return np.diff(edges)


def direct(width, t=STEPS):
    return weights(exponent(width), t) @ WALK[:t]


def walked(make, steps=STEPS, every=EVERY, copies=STEPS // EVERY):
    """The state after parameters have gone along the walk, which begins anywhere."""
    tx, walk = make(every, copies, KEPT), jnp.asarray(WALK[:steps], jnp.float32)

    def step(state, pair):
        before, after = pair
        return tx.update({"theta": after - before}, state, {"theta": before})[1], None

    start = {"theta": jnp.full(SIZE, 9.0)}
    before = jnp.concatenate([start["theta"][None], walk[:-1]])
    return jax.jit(lambda: jax.lax.scan(step, tx.init(start), (before, walk))[0])()


@pytest.fixture(scope="module")
def state():
    return walked(power_averages.power_averages)


# -- the averages themselves -------------------------------------------------------------------------------------------


def check_tracked(state):
    for i, width in enumerate(KEPT):
        np.testing.assert_allclose(state.averages["theta"][i], direct(width), rtol=1e-4, atol=2e-3)
        for t in (EVERY, 7 * EVERY, STEPS):
            slot = int(np.flatnonzero(np.asarray(state.times) == t)[0])
            np.testing.assert_allclose(state.copies["theta"][slot, i], direct(width, t), rtol=1e-4, atol=2e-3)


def planted(decay):
    """The transformation with another b_t."""

    def make(every, copies, widths):
        tx = power_averages.power_averages(every, copies, widths)
        powers = jnp.array([exponent(width) for width in widths])

        def update(updates, state, params):
            count = state.count + 1
            keep = decay(powers, count)[:, None]
            new = keep * state.averages["theta"] + (1 - keep) * (params["theta"] + updates["theta"])[None]
            _, after = tx.update(updates, state, params)
            ring = jnp.where((after.times == count)[:, None, None], new[None], state.copies["theta"])
            return updates, after._replace(averages={"theta": new}, copies={"theta": ring})

        return optax.GradientTransformation(tx.init, update)

    return make


def test_averages_have_the_weights_of_their_exponent(state):
    check_tracked(state)
    check_tracked(walked(planted(lambda g, t: (1 - 1 / t) ** (g + 1))))
    rejects(check_tracked, walked(planted(lambda g, t: (1 - 1 / t) ** g)))
    rejects(check_tracked, walked(planted(lambda g, t: (1 - 1 / (t + 1)) ** (g + 1))))
    rejects(check_tracked, walked(planted(lambda g, t: jnp.full(2, 0.99))))
    rejects(check_tracked, state._replace(times=state.times - EVERY))


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_a_width_is_the_deviation_of_its_weights(width):
    t = 200_000
    place, w = (np.arange(t) + 0.5) / t, weights(exponent(width), t)
    assert np.sqrt(w @ place**2 - (w @ place) ** 2) == pytest.approx(width, rel=1e-4)


def test_the_ring_keeps_the_latest(state):
    few = walked(power_averages.power_averages, steps=1_250, copies=3)
    assert few.times.tolist() == [1_000, 1_100, 1_200]
    again = walked(power_averages.power_averages, steps=1_350, copies=3)
    assert again.times.tolist() == [1_300, 1_100, 1_200]
    np.testing.assert_allclose(again.copies["theta"][0, 1], direct(0.1, 1_300), rtol=1e-4, atol=2e-3)
    assert sorted(state.times.tolist()) == list(range(EVERY, STEPS + 1, EVERY))


# -- any other width ---------------------------------------------------------------------------------------------------


def check_products(product):
    """Eq. 3 against sums over fine pieces of [0, 10]."""
    edges = np.linspace(0.0, 10.0, 200_001)
    middles, length = 0.5 * (edges[1:] + edges[:-1]), 10.0 / 200_000
    profile = lambda g, t: np.where(middles < t, (g + 1) * np.minimum(middles, t) ** g / t ** (g + 1), 0.0)
    for one in ((6.9, 4.0), (17.0, 4.0), (6.9, 10.0)):
        for other in ((17.0, 10.0), (3.0, 7.0), (6.9, 4.0)):
            assert float(product(*one, *other)) == pytest.approx(profile(*one) @ profile(*other) * length, rel=1e-3)


def test_inner_products_of_profiles():
    product = power_averages._product
    check_products(product)
    rejects(check_products, lambda g, t, other_g, other_t: product(other_g, t, g, other_t))
    rejects(check_products, lambda g, t, other_g, other_t: product(g, t, other_g, t))


def check_given_back(solve, state, tolerance=0.01):
    """On a random walk, relative to how far the average is from the walk's end; fixed before the first run."""
    for width in (0.05, 0.06, 0.075, 0.1, 0.12):
        for t in (STEPS, 1_400):
            wanted = direct(width, t)
            error = np.linalg.norm(np.asarray(solve(state, width, t)["theta"]) - wanted)
            assert error < tolerance * np.linalg.norm(WALK[t - 1] - wanted), (width, t)


def solving(change):
    """`reconstructed` with other weights of the copies."""

    def solve(state, width, t):
        at = np.asarray(state.times, np.float64)
        g = np.tile([exponent(kept) for kept in KEPT], len(at))
        w = change(g, np.repeat(at, 2), exponent(width), float(t)).reshape(len(at), 2)
        return {"theta": jnp.tensordot(jnp.float32(w), state.copies["theta"], 2)}

    return solve


def test_averages_of_other_widths_are_given_back(state):
    check_given_back(reconstructed, state)
    check_given_back(solving(profile_weights), state)
    rejects(check_given_back, solving(lambda g, at, wanted, t: profile_weights(g, at, wanted + 1, t)), state)
    rejects(check_given_back, solving(lambda g, at, wanted, t: profile_weights(g + 1, at, wanted, t)), state)
    rejects(check_given_back, solving(lambda g, at, wanted, t: profile_weights(g, at + EVERY, wanted, t)), state)
    rejects(check_given_back, lambda s, width, t: reconstructed(s, width), state)  # always of the end

    def last_two(g, at, wanted, t):  # without the copies in between
        w = np.zeros(len(g))
        w[-2:] = profile_weights(g[-2:], at[-2:], wanted, t)
        return w

    rejects(check_given_back, solving(last_two), state)


def test_parameters_that_stay_are_given_back():
    tx, theta = power_averages.power_averages(5, 4), {"theta": jnp.full(3, 1e3)}
    state = tx.init(theta)
    for _ in range(23):
        _, state = tx.update({"theta": jnp.zeros(3)}, state, theta)
    for width in (0.03, 0.07, 0.2):
        np.testing.assert_allclose(reconstructed(state, width)["theta"], 1e3, rtol=1e-5)
    times = np.repeat([5.0, 10.0, 23.0], 2)
    assert profile_weights(np.tile([7.0, 17.0], 3), times, 3.0, 20.0).sum() == pytest.approx(1.0, abs=1e-9)


def test_it_stands_in_a_chain_and_changes_no_update():
    loss = lambda params, state, batch, key: Out((batch["x"] - params) ** 2)
    batch, key = {"x": jnp.array([1.0, 3.0])}, jax.random.key(0)
    ends = []
    for tx in (optax.adam(0.1), optax.chain(optax.adam(0.1), power_averages.power_averages(4, 5))):
        learner = minimize(loss, tx, lambda key, batch: jnp.zeros(()))
        state = learner.init(key, batch)
        for _ in range(20):
            state, _ = jax.jit(learner.update)(state, batch, key)
        ends.append(state)
    assert float(ends[0].params) == float(ends[1].params)
    found = [float(reconstructed(ends[1].opt_state, width)) for width in (0.04, 0.08, 0.16)]
    assert 0 < found[2] < found[1] < found[0] < float(ends[1].params)  # of what rises, a wider average lags more


def test_checkpoints_hold_averages_and_copies(tmp_path):
    """Stopped and gone on with, a run ends with the copies, and the average of another width, of the whole one."""

    def make():
        tx = optax.chain(optax.adam(0.05), power_averages.power_averages(6, 4))
        learner = minimize(toys.noisy, tx, lambda key, batch: {"mean": jnp.zeros((1, 2))})
        return Experiment([Stage("mean", learner, batches(toys.SPLIT, 8), 40)], data="toy")

    whole, _ = go(make(), tmp_path / "whole")
    with pytest.raises(Preempted):
        go(make(), tmp_path / "parts", stop_after=11)
    parts, _ = go(make(), tmp_path / "parts")
    assert sorted(np.asarray(whole.state.opt_state[1].times).tolist()) == [18, 24, 30, 36]
    seen = digests(tmp_path / "parts")
    assert all(seen[place] == leaves for place, leaves in digests(tmp_path / "whole").items())
    assert any("copies" in path for path in seen[0, 40])
    first, second = (reconstructed(run.state.opt_state, 0.07)["mean"] for run in (whole, parts))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: exponent(0.0), "width = 0.0"),
        (lambda: exponent(WIDEST), "below 0.2887"),
        (lambda: power_averages.power_averages(0, 3), "every 0 updates"),
        (lambda: power_averages.power_averages(3, 3, (0.1, 0.1)), "two different ones"),
        (lambda: reconstructed(optax.adam(0.1).init(jnp.zeros(1)), 0.1), "0 `power_averages`"),
        (lambda: reconstructed(power_averages.power_averages(3, 3).init(jnp.zeros(1)), 0.1), "of 0 updates"),
        (lambda: reconstructed(walked(power_averages.power_averages, copies=3), 0.07, 900), "after 900 updates"),
        (
            lambda: reconstructed(walked(power_averages.power_averages, copies=3), 0.07, 30),
            "copies after 1,800 to 2,000",
        ),
        (
            lambda: power_averages.power_averages(3, 3).update(
                jnp.zeros(1), power_averages.power_averages(3, 3).init(jnp.zeros(1))
            ),
            "without params",
        ),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3


def test_a_state_is_arrays_alone(state):
    assert isinstance(state, PowerState) and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))

"""Learners: every one keeps the contract, and the arithmetic of each is that of a few lines of NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax import BadInput, Out, Player, State, alternate, averaged, ema, minimize, repeat
from genjax.gradient import tracing

KEY = jax.random.key(7)
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
BATCH = {"x": jnp.asarray(X)}


def squares(params, state, batch, key):
    return Out(jnp.sum((batch["x"] - params["mean"]) ** 2, axis=-1))


def noisy(params, state, batch, key):
    noise = jax.random.normal(key, batch["x"].shape)
    return Out(jnp.sum((batch["x"] + noise - params["mean"]) ** 2, axis=-1), {"noise": noise[:, 0]})


def chained(params, state, batch, key):
    """Persistent chains: the carry takes a random walk, the loss looks at where it is."""
    chains = state.carry["chains"] + jax.random.normal(key, state.carry["chains"].shape)
    pulled = jnp.sum((batch["x"] - params["mean"]) ** 2) + jnp.sum((chains - params["mean"]) ** 2)
    return Out(pulled, carry={"chains": chains})


def critic(params, state, batch, key):
    return Out(jnp.mean(params["w"] * batch["x"][:, 0]) + jnp.sum((params["w"] - state.params["generator"]["w"]) ** 2))


def generator(params, state, batch, key):
    return Out(jnp.sum((params["w"] - state.params["critic"]["w"]) ** 2) + params["w"])


def zero_mean(key, batch):
    return {"mean": jnp.zeros((1, 3))}


def two_players(key, batch):
    return {"critic": {"w": jnp.ones(())}, "generator": {"w": jnp.zeros(())}}


def adam():
    return optax.chain(optax.adam(0.1), ema(0.9))


LEARNERS = {
    "minimize": minimize(squares, adam(), zero_mean),
    "minimize, noise": minimize(noisy, adam(), zero_mean),
    "minimize, accumulated": minimize(noisy, adam(), zero_mean, microbatches=4),
    "minimize, clipped": minimize(squares, optax.chain(optax.clip_by_global_norm(0.1), adam()), zero_mean),
    "minimize, chains": minimize(
        chained, adam(), zero_mean, carry=lambda key, params, batch: {"chains": jax.random.normal(key, (5, 3))}
    ),
    "alternate": alternate({"critic": Player(critic, adam(), 4), "generator": Player(generator, adam())}, two_players),
    "repeat": repeat(minimize(noisy, adam(), zero_mean), 4),
    "repeat, alternate": repeat(
        alternate({"critic": Player(critic, adam(), 2), "generator": Player(generator, adam())}, two_players), 2
    ),
}


def leaves_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(params=LEARNERS)
def learner(request):
    return LEARNERS[request.param]


def test_same_inputs_same_outputs(learner):
    state = learner.init(KEY, BATCH)
    update = jax.jit(learner.update)
    assert leaves_equal(state, learner.init(KEY, BATCH))
    assert leaves_equal(update(state, BATCH, KEY), update(state, BATCH, KEY))


def test_one_trace_and_a_stable_state(learner):
    traces = []

    def counted(state, batch, key):
        traces.append(1)
        return learner.update(state, batch, key)

    update, state = jax.jit(counted), learner.init(KEY, BATCH)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    for _ in range(3):
        state, _ = update(state, BATCH, KEY)
    assert sum(traces) == 1
    chex.assert_trees_all_equal_shapes_and_dtypes(state, learner.init(KEY, BATCH))
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == kinds


def test_a_restart_is_exact(learner):
    """The key of a step comes from the step alone: a state that went through NumPy goes on as if nothing happened."""
    update, state = jax.jit(learner.update), learner.init(KEY, BATCH)
    for _ in range(5):
        state, _ = update(state, BATCH, KEY)
    restored = learner.init(KEY, BATCH)
    for _ in range(2):
        restored, _ = update(restored, BATCH, KEY)
    restored = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, restored))
    for _ in range(3):
        restored, _ = update(restored, BATCH, KEY)
    assert leaves_equal(state, restored)


@pytest.mark.parametrize("name", ["minimize, noise", "minimize, accumulated", "repeat"])
def test_noise_differs_from_step_to_step(name):
    """What a stored or reused key would hide: two steps from one state but for its step number."""
    learner = LEARNERS[name]
    state = learner.init(KEY, BATCH)
    _, first = learner.update(state, BATCH, KEY)
    _, second = learner.update(state._replace(step=state.step + 1), BATCH, KEY)
    assert float(first["noise"]) != float(second["noise"])


def numpy_adam(x, steps, rate=0.1, b1=0.9, b2=0.999):
    """Adam (Kingma & Ba 2015, Algorithm 1) on the mean of |x - m|^2, written out; also the debiased average."""
    m = v = mean = np.zeros((1, 3))
    average = np.zeros((1, 3))
    for t in range(1, steps + 1):
        g = np.mean(2 * (mean - x), axis=0, keepdims=True)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        mean = mean - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        average = 0.9 * average + 0.1 * mean
    return mean, average / (1 - 0.9**steps)


def run(learner, steps, batch=BATCH):
    state = learner.init(KEY, batch)
    for _ in range(steps):
        state, metrics = learner.update(state, batch, KEY)
    return state, metrics


def test_adam_and_its_average_are_those_of_numpy():
    state, metrics = run(LEARNERS["minimize"], 7)
    mean, average = numpy_adam(X.astype(np.float64), 7)
    np.testing.assert_allclose(state.params["mean"], mean, rtol=2e-5)
    np.testing.assert_allclose(averaged(state.params, state.opt_state)["mean"], average, rtol=2e-5)
    before, _ = numpy_adam(X.astype(np.float64), 6)
    np.testing.assert_allclose(metrics["loss"], np.mean(np.sum((X - before) ** 2, axis=1)), rtol=1e-5)


def test_the_average_is_a_weighted_mean_of_what_was_visited():
    tx, params, visited = ema(0.7), jnp.array(3.0), []
    state = tx.init(params)
    assert float(averaged(params, state)) == 3.0
    for update in (1.0, -2.5, 0.25):
        updates, state = tx.update(jnp.array(update), state, params)
        params = optax.apply_updates(params, updates)
        visited.append(float(params))
    weights = np.array([0.3 * 0.7**i for i in (2, 1, 0)])
    expected = np.sum(weights * visited) / np.sum(weights)
    np.testing.assert_allclose(averaged(params, state), expected, rtol=1e-6)
    assert abs(np.mean(visited) - expected) > 0.01  # the plain mean, a planted bug, would be seen


def test_the_average_moves_at_a_decay_that_bfloat16_cannot_hold():
    tx, params = ema(0.9999), jnp.zeros((), jnp.bfloat16)
    state = tx.init(params)
    for _ in range(10):
        _, state = tx.update(jnp.ones((), jnp.bfloat16), state, params)
    assert state.average.dtype == jnp.float32
    np.testing.assert_allclose(averaged(jnp.zeros(()), state), 1.0, rtol=1e-3)


def test_groups_of_parameters_may_each_have_an_average():
    params, grads = {"u": jnp.array(1.0), "v": jnp.array(1.0)}, {"u": jnp.array(-1.0), "v": jnp.array(-1.0)}
    chain = lambda decay: optax.chain(optax.sgd(1.0), ema(decay))
    tx = optax.partition({"a": chain(0.5), "b": chain(0.9)}, {"u": "a", "v": "b"})
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    seen = averaged(params, state)
    np.testing.assert_allclose(seen["u"], (0.5 * 2 + 3) / 1.5, rtol=1e-6)
    np.testing.assert_allclose(seen["v"], (0.9 * 2 + 3) / 1.9, rtol=1e-6)


def test_a_named_chain_is_no_set_of_players():
    params, grads = {"u": jnp.array(1.0)}, {"u": jnp.array(-1.0)}
    tx = optax.named_chain(("descent", optax.sgd(1.0)), ("average", ema(0.5)))
    _, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(averaged({"u": jnp.array(2.0)}, state)["u"], 2.0, rtol=1e-6)


def test_players_have_their_own_averages():
    state, _ = run(LEARNERS["alternate"], 3)
    seen = averaged(state.params, state.opt_state)
    assert float(seen["critic"]["w"]) != float(state.params["critic"]["w"])
    assert set(seen) == {"critic", "generator"}


@pytest.mark.parametrize("microbatches", [2, 4, 8])
def test_accumulation_is_the_big_batch(microbatches):
    whole, _ = run(LEARNERS["minimize"], 5)
    parts, metrics = run(minimize(squares, adam(), zero_mean, microbatches=microbatches), 5)
    np.testing.assert_allclose(parts.params["mean"], whole.params["mean"], rtol=1e-5)
    _, expected = run(LEARNERS["minimize"], 5)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=1e-4)


def padded(rows):
    junk = np.full((rows, 3), 1e3, np.float32)
    mask = np.concatenate([np.ones(len(X)), np.zeros(rows)]).astype(np.float32)
    return {"x": jnp.asarray(np.concatenate([X, junk])), "mask": jnp.asarray(mask)}


@pytest.mark.parametrize("microbatches", [1, 2])
def test_padding_rows_change_nothing(microbatches):
    plain, expected = run(LEARNERS["minimize"], 4)
    state, metrics = run(
        minimize(squares, adam(), zero_mean, microbatches=microbatches), 4, padded(8 if microbatches > 1 else 4)
    )
    np.testing.assert_allclose(state.params["mean"], plain.params["mean"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_batch_of_padding_alone_moves_nothing(microbatches):
    learner = minimize(squares, optax.sgd(0.1), zero_mean, microbatches=microbatches)
    batch = {"x": jnp.full((4, 3), 1e3), "mask": jnp.zeros(4)}
    state, metrics = learner.update(learner.init(KEY, batch), batch, KEY)
    assert np.array_equal(state.params["mean"], np.zeros((1, 3))) and float(metrics["loss"]) == 0.0


def test_fractional_masks_are_weights():
    batch = {"x": BATCH["x"], "mask": jnp.linspace(0.01, 0.1, 8)}  # they sum to less than 1
    learner = minimize(squares, optax.sgd(0.5), zero_mean)
    state, _ = learner.update(learner.init(KEY, batch), batch, KEY)
    np.testing.assert_allclose(state.params["mean"][0], np.average(X, axis=0, weights=batch["mask"]), rtol=1e-4)


def test_without_the_mask_padding_would_count():
    plain, _ = run(LEARNERS["minimize"], 4)
    batch = {"x": jnp.concatenate([BATCH["x"], jnp.zeros((4, 3))])}
    state, _ = run(minimize(squares, adam(), zero_mean), 4, batch)
    assert not np.allclose(state.params["mean"], plain.params["mean"], rtol=1e-3)


def test_repeat_is_k_updates():
    """Without noise, so that the rows alone decide: k updates on k parts, in their order."""
    once = minimize(squares, adam(), zero_mean)
    state, metrics = run(repeat(once, 4), 1)
    expected, losses = once.init(KEY, BATCH), []
    for i in range(4):
        expected, m = once.update(expected, {"x": BATCH["x"][2 * i : 2 * i + 2]}, KEY)
        losses.append(float(m["loss"]))
    np.testing.assert_allclose(state.params["mean"], expected.params["mean"], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-6)
    assert int(state.step) == 1


def test_repeat_draws_fresh_noise_each_time():
    once = minimize(noisy, adam(), zero_mean)
    state, _ = run(repeat(once, 4), 1)
    expected = once.init(KEY, BATCH)
    for i in range(4):
        expected, _ = once.update(expected, {"x": BATCH["x"][2 * i : 2 * i + 2]}, KEY)
    np.testing.assert_allclose(state.params["mean"], expected.params["mean"], rtol=1e-5)


def seen_rows(params, state, batch, key):
    """A linear loss: one step of descent at rate 1 adds the mean of the rows that were seen."""
    return Out(-params["w"] * batch["x"][:, 0])


def test_each_critic_step_sees_its_own_rows_and_the_generator_the_newest_critic():
    players = {"critic": Player(seen_rows, optax.sgd(1.0), 4), "generator": Player(generator, optax.sgd(0.5))}
    learner = alternate(players, two_players)
    state, metrics = learner.update(learner.init(KEY, BATCH), BATCH, KEY)
    w = 1.0 + sum(X[2 * i : 2 * i + 2, 0].mean() for i in range(4))
    np.testing.assert_allclose(state.params["critic"]["w"], w, rtol=1e-5)
    np.testing.assert_allclose(state.params["generator"]["w"], 0.0 - 0.5 * (2 * (0.0 - w) + 1), rtol=1e-5)
    np.testing.assert_allclose(metrics["generator/loss"], w**2, rtol=1e-5)
    assert int(state.step) == 1


def test_the_carry_walks_and_no_gradient_touches_it():
    learner = LEARNERS["minimize, chains"]
    state = learner.init(KEY, BATCH)
    after, _ = learner.update(state, BATCH, KEY)
    moved = np.asarray(after.carry["chains"] - state.carry["chains"])
    key = jax.random.fold_in(KEY, 0)
    np.testing.assert_allclose(moved, jax.random.normal(key, (5, 3)), atol=1e-6)


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32():
    seen = []

    def loss(params, state, batch, key):
        seen.append((params["mean"].dtype, state.params["mean"].dtype, batch["x"].dtype))
        return squares(params, state, batch, key)

    learner = minimize(loss, adam(), zero_mean)
    state = learner.init(KEY, BATCH)
    with tracing(compute_dtype=jnp.bfloat16):
        after, metrics = learner.update(state, BATCH, KEY)
    assert seen == [(jnp.bfloat16,) * 3]
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating))
    _, expected = learner.update(state, BATCH, KEY)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=2e-2)
    assert float(metrics["loss"]) != float(expected["loss"])


BROKEN = {
    "an int": (lambda p, s, b, k: Out(jnp.zeros((8,), jnp.int32)), "int32"),
    "None": (lambda p, s, b, k: None, "NoneType"),
    "an array": (lambda p, s, b, k: jnp.zeros(8), "return genjax.Out"),
    "a float": (lambda p, s, b, k: Out(1.0), "float"),
    "wrong length": (lambda p, s, b, k: Out(jnp.zeros(5)), "(5,)"),
    "a matrix": (lambda p, s, b, k: Out(b["x"] * jnp.sum(p["mean"])), "(8, 3)"),
    "a metric of wrong length": (lambda p, s, b, k: Out(jnp.sum(p["mean"]), {"m": jnp.zeros(3)}), "metrics['m']"),
    "a metric that is no array": (lambda p, s, b, k: Out(jnp.sum(p["mean"]), {"m": "text"}), "str"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_loss_that_breaks_its_contract_is_named(case):
    loss, told = BROKEN[case]
    learner = minimize(loss, optax.sgd(0.1), zero_mean)
    with pytest.raises(BadInput) as error:
        learner.update(learner.init(KEY, BATCH), BATCH, KEY)
    assert told in str(error.value) and len(error.value.lines) <= 3
    assert "line" in str(error.value)


def test_rows_that_do_not_divide_are_told():
    learner = repeat(minimize(squares, adam(), zero_mean), 3)
    with pytest.raises(BadInput, match="do not divide into 3 parts"):
        learner.init(KEY, BATCH)


def test_players_and_parameters_must_match():
    learner = alternate({"critic": Player(critic, adam())}, two_players)
    with pytest.raises(BadInput, match=r"the players are \['critic'\]"):
        learner.init(KEY, BATCH)


def test_no_gradient_reaches_the_other_player():
    """A planted bug, differentiating all of state.params, would move the generator in the critic's turn."""
    learner = alternate(
        {"critic": Player(critic, optax.sgd(1.0)), "generator": Player(generator, optax.sgd(0.0))}, two_players
    )
    state, _ = learner.update(learner.init(KEY, BATCH), BATCH, KEY)
    assert float(state.params["generator"]["w"]) == 0.0
    assert float(state.params["critic"]["w"]) != 1.0


def test_state_is_a_pytree_of_arrays():
    state = LEARNERS["minimize, chains"].init(KEY, BATCH)
    assert isinstance(state, State) and all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))

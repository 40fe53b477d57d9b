"""Small experiments that run in a second: one stage, an adversarial pair, chains in the carry, shapes that grow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Evaluation, Experiment, Out, Player, Quantity, Source, Stage, alternate, ema, minimize
from genjax.data import Split, batches

ROWS = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32)
SPLIT = Split({"x": ROWS}, lambda rows, key: rows)


def noisy(params, state, batch, key):
    noise = 0.1 * jax.random.normal(key, batch["x"].shape)
    return Out(jnp.sum((batch["x"] + noise - params["mean"]) ** 2, axis=-1))


def measure(state, batch, key):
    return {"distance": jnp.sum((batch["x"] - state.params["mean"]) ** 2, axis=-1)}


def plain(steps=40, learning_rate=0.05, batch_size=8, steps_per_call=1, decay=0.9):
    tx = optax.chain(optax.adam(learning_rate), ema(decay))
    learner = minimize(noisy, tx, lambda key, batch: {"mean": jnp.zeros((1, 2))})
    stage = Stage("mean", learner, batches(SPLIT, batch_size), steps, steps_per_call=steps_per_call)
    evaluation = Evaluation(measure, SPLIT, 32, {"distance": Quantity("exact", "squared units")})
    return Experiment([stage], {"validation": evaluation}, select="validation/distance", data="toy")


def adversarial(steps=30):
    """A critic and a generator, three critic steps with fresh rows a round."""

    def critic(params, state, batch, key):
        return Out(jnp.mean(params * batch["x"]) + (params - state.params["generator"]) ** 2)

    def generator(params, state, batch, key):
        return Out((params - state.params["critic"]) ** 2 + 0.1 * jax.random.normal(key) * params)

    def tx():
        return optax.chain(optax.adam(0.05), ema(0.9))

    players = {"critic": Player(critic, tx(), 3), "generator": Player(generator, tx())}
    learner = alternate(players, lambda key, batch: {"critic": jnp.ones(()), "generator": jnp.zeros(())})
    return Experiment([Stage("game", learner, batches(SPLIT, 12), steps)], data="toy")


def persistent(steps=30):
    """Chains that walk in the carry, as those of persistent contrastive divergence do."""

    def loss(params, state, batch, key):
        chains = 0.9 * state.carry + jax.random.normal(key, state.carry.shape)
        data = jnp.sum((batch["x"] - params["mean"]) ** 2, axis=-1)
        return Out(data + jnp.mean((chains - params["mean"]) ** 2), carry=chains)

    init = lambda key, batch: {"mean": jax.random.normal(key, (1, 2))}
    learner = minimize(loss, optax.adam(0.05), init, carry=lambda key, params, batch: jax.random.normal(key, (6, 2)))
    return Experiment([Stage("chains", learner, batches(SPLIT, 8), steps)], data="toy")


def growing(steps=20):
    """Three stages whose parameters grow; each takes over what the one before has learnt."""

    def width(n):
        def loss(params, state, batch, key):
            alpha = jnp.minimum(state.step / 10.0, 1.0)  # a fade-in by the step
            features = jnp.tanh(batch["x"] @ params["w"])
            return Out(jnp.mean((features - alpha) ** 2, axis=-1) + 0.01 * jax.random.normal(key) * params["w"].sum())

        init = lambda key, batch: {"w": 0.1 * jax.random.normal(key, (2, n))}
        return minimize(loss, optax.chain(optax.adam(0.02), ema(0.9)), init)

    def inherit(previous, fresh):
        old = previous.params["w"]
        return fresh._replace(params={"w": fresh.params["w"].at[:, : old.shape[1]].set(old)})

    stages = [Stage(f"width-{n}", width(n), batches(SPLIT, 8), steps, inherit if n > 1 else None) for n in (1, 2, 4)]
    return Experiment(stages, data="toy")


def synthetic(steps=20):
    """Data without a data set: the batch is drawn from the key."""
    source = Source(
        lambda feed, key, step: {"x": jax.random.normal(jax.random.fold_in(key, step), (8, 2))}, 8, fingerprint="normal"
    )
    learner = minimize(noisy, optax.adam(0.05), lambda key, batch: {"mean": jnp.zeros((1, 2))})
    return Experiment([Stage("mean", learner, source, steps)], data="toy")


def fetched(steps=20):
    """Rows that are read on the host, step by step."""

    def fetch(seed, step):
        return {"x": np.random.default_rng((seed, step)).normal(size=(8, 2)).astype(np.float32)}

    source = Source(lambda feed, key, step: feed, 8, fetch=fetch, fingerprint="fetched")
    learner = minimize(noisy, optax.adam(0.05), lambda key, batch: {"mean": jnp.zeros((1, 2))})
    return Experiment([Stage("mean", learner, source, steps)], data="toy")


def exploding(steps=40, at=17, what="loss"):
    """A loss, or a gradient, that stops being finite at one step."""

    def loss(params, state, batch, key):
        bad = state.step == at
        value = jnp.sum((batch["x"] - params["mean"]) ** 2, axis=-1)
        if what == "loss":
            return Out(jnp.where(bad, jnp.inf, value))
        # sqrt at zero: a finite value whose gradient is not
        return Out(value + jnp.sqrt(jnp.where(bad, 0.0, 1.0) * jnp.abs(params["mean"][0, 0])))

    learner = minimize(loss, optax.adam(0.05), lambda key, batch: {"mean": jnp.ones((1, 2))})
    return Experiment([Stage("mean", learner, batches(SPLIT, 8), steps)], data="toy")

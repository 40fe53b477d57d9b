"""A worker of gan_steps.py: genjax's own networks, games, learner and compiled call, trained on request."""

import sys
import time

import jax
import numpy as np
import optax
import workers
from gan_steps import BATCH, BETAS, FEATURES, LATENTS, RATE, ROWS, SHAPE, WIDTHS, Row, pictures
from train_steps import images

from genjax import Player, Stage, alternate, parallel
from genjax.compilation import Program, compile_stage, stage_keys
from genjax.data import Split, batches, make_dataset, scaled
from genjax.fields import load
from genjax.losses.games import Game, logistic_game
from genjax.models.gan import ConvCritic, ConvGenerator

EXPERIMENT = workers.HERE.parent / "experiments" / "progressive_fashion.py"
GENERATOR, CRITIC = ConvGenerator(SHAPE, WIDTHS), ConvCritic(WIDTHS[::-1], FEATURES)


def z_of(key, n):
    """Latents."""
    return jax.random.normal(key, (n, LATENTS))


def real(state, batch):
    """Images in [-1, 1]."""
    return 2.0 * batch["image"] - 1.0


def init(key, batch):
    """First parameters of both networks."""
    keys = jax.random.split(key)
    return {"critic": CRITIC.init(keys[0], real(None, batch)), "generator": GENERATOR.init(keys[1], z_of(key, 2))}


def game(gamma: float, z_of=z_of) -> Game:
    """The losses of both players."""
    draw = lambda params, state, batch, key: GENERATOR.apply(params, z_of(key, len(batch["image"])))
    return logistic_game(draw, lambda params, state, batch, x: CRITIC.apply(params, x), real, gamma)


def compiled(stage: Stage, index: int = 0) -> Program:
    """A stage as `genjax train` compiles it."""
    return compile_stage(stage, stage_keys(0, index), 0, parallel.mesh(1), "float32", "jit")


def program(row: Row) -> Program:
    """The compiled stage of a row."""
    tx = lambda: optax.adam(RATE, b1=BETAS[0], b2=BETAS[1])
    losses = game(row.gamma)
    players = {"critic": Player(losses.critic, tx()), "generator": Player(losses.generator, tx())}
    source = batches(Split({"image": pictures()}, scaled(256)), BATCH)
    return compiled(Stage("gan", alternate(players, init), source, steps=10**9))


def levels(count: int = 4) -> dict[str, float]:
    """Processor seconds to compile each of so many stages of progressive_fashion.py."""
    function = load(EXPERIMENT).function
    split = Split({"image": images()[:1_000]}, scaled(256))
    digits = make_dataset("digits_28", {"train": split, "validation": split, "test": split})
    sys.modules[function.__module__].fashion_mnist = lambda: digits
    found = {}
    for index, stage in enumerate(function(levels=count).stages):
        began = time.process_time()
        compiled(stage, index)
        found[stage.name] = time.process_time() - began
    return found


def main() -> None:
    """Argument: the row, or "levels"."""
    if sys.argv[1] == "levels":
        jax.config.update("jax_enable_compilation_cache", False)
        workers.serve(lambda updates: True, compiling=levels())
        return
    run = program(ROWS[sys.argv[1]])
    state, totals = run.fresh(), run.zero()

    def train(updates: int) -> bool:
        nonlocal state, totals
        for _ in range(updates):
            state, (totals, _) = run.call(state, totals, run.feed(0), np.int32(1))
        jax.block_until_ready((state, totals))
        return int(totals.bad) < 0

    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    train(1)
    workers.serve(train, parameters=parameters, compiling=run.seconds)


if __name__ == "__main__":
    main()

"""A worker of rbm_steps.py: the stage of rbm_mnist.py, compiled as `genjax train` compiles it; or its annealing."""

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import workers
from rbm_steps import BATCH, HIDDEN, LEARNING_RATE, ROWS, TEMPERATURES, WALKS, Machine, Row, bits, first

from genjax import parallel
from genjax.compilation import Program, compile_stage, stage_keys
from genjax.data import Dataset, Split, make_dataset, scaled
from genjax.fields import load
from genjax.likelihood.ais import temperatures
from genjax.models.partition import annealed_there
from genjax.models.rbm import Weights, machine
from genjax.models.visible import bernoulli_units

EXPERIMENT = workers.HERE.parent / "experiments" / "rbm_mnist.py"


def dataset() -> Dataset:
    """50,000 images to train, 10,000 that nothing looks at."""
    stored = bits().reshape(-1, 28, 28, 1)
    split = lambda rows: Split({"image": stored[rows]}, scaled(2))
    parts = {"train": split(slice(50_000)), "validation": split(slice(50_000, None))}
    return make_dataset("digits_28", {**parts, "test": parts["validation"]}, levels=2, stored=2)


def program(row: Row) -> tuple[Program, int]:
    """The compiled stage of the experiment, and how many updates it does in a call."""
    file = load(EXPERIMENT)
    sys.modules[f"experiment_{EXPERIMENT.stem}"].binarized_mnist = dataset
    fields = {"chains_from": "last" if row.persistent else "data", "k": row.k, "centred": False}
    fields |= {"learning_rate": LEARNING_RATE, "hidden": HIDDEN, "chains": BATCH, "batch_size": BATCH}
    stage = file.function(steps=10**9, **fields).stages[0]
    return compile_stage(stage, stage_keys(0, 0), 0, parallel.mesh(1), "float32", "jit"), stage.steps_per_call


def training(row: Row) -> Callable[[int], bool]:
    """Updates of the experiment."""
    compiled, a_call = program(row)
    state, totals = compiled.fresh(), compiled.zero()

    def train(updates: int) -> bool:
        nonlocal state, totals
        while updates > 0:
            count = min(updates, a_call)
            state, (totals, _) = compiled.call(state, totals, compiled.feed(0), np.int32(count))
            updates -= count
        jax.block_until_ready((state, totals))
        return int(totals.bad) < 0

    return train


def annealing(begin: Machine, walks: int, count: int) -> Callable[[int], float]:
    """Number of the run -> estimate of log Z."""
    w, b, c, base = map(jnp.asarray, begin)
    weights = Weights(w, b, c, jnp.zeros_like(b), jnp.zeros_like(c))
    betas, units = temperatures((count, 1.0)), bernoulli_units(len(b))

    @jax.jit
    def anneal(weights: Weights, base: jax.Array, number: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            of = machine(weights, units)
            return annealed_there(of, base, walks, betas, jax.random.key(number)).value

    return lambda number: float(anneal(weights, base, number))


def products(row: Row) -> Callable[[], None]:
    """The matrix products of an update, and nothing else."""
    draw = np.random.default_rng(0)
    v, h = (jnp.asarray(draw.integers(0, 2, (2 * BATCH, n)), jnp.float32) for n in (784, HIDDEN))
    w = jnp.asarray(draw.normal(size=(784, HIDDEN)), jnp.float32)
    up, down, both = jax.jit(lambda v, w: v @ w), jax.jit(lambda h, w: h @ w.T), jax.jit(lambda v, h: v.T @ h)
    few_v, few_h = v[:BATCH], h[:BATCH]

    def once() -> None:
        done = [up(few_v, w)] if not row.annealing else []
        for _ in range(row.k):
            done = [up(few_v, w), down(few_h, w)]
        jax.block_until_ready([*done, both(v, h)] if not row.annealing else done)

    return once


def repeated(once: Callable[[], object]) -> Callable[[int], bool]:
    """What `serve` asks for."""

    def train(updates: int) -> bool:
        for _ in range(updates):
            once()
        return True

    return train


def main() -> None:
    """Arguments: the row; "genjax" or "products-jax"."""
    row, name = ROWS[sys.argv[1]], sys.argv[2]
    if name == "products-jax":
        train = repeated(products(row))
    elif row.annealing:
        anneal, number = annealing(first(bits()[:50_000], HIDDEN, 0.05), WALKS, TEMPERATURES), iter(range(10**9))
        train = repeated(lambda: anneal(next(number)))
    else:
        train = training(row)
    train(1)
    workers.serve(train)


if __name__ == "__main__":
    main()

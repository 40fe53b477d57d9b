"""A small experiment file as a reader would write it, for the tests of sweeps: a mean, a float field in its loss."""

import textwrap
from pathlib import Path

from genjax.fields import load
from genjax.sweep import SweepOptions, read_grid

CLOUD = '''
"""The mean of a cloud of points."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
from typing import Literal
from genjax import Count, Evaluation, Experiment, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import Split, batches

SPLIT = Split({"x": np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)}, lambda rows, key: rows)


def experiment(width: Count = 2, learning_rate: Positive = 0.05, shift: float = 0.0, flag: bool = True,
               kind: Literal["a", "b"] = "a", steps: int = 20, per_call: Count = 1, batch_size: Count = 8):
    def loss(params, state, batch, key):
        noise = 0.1 * jax.random.normal(key, batch["x"].shape)
        centre = jnp.sum(params["mean"], axis=0, keepdims=True)
        return Out(jnp.sum((batch["x"] + noise + shift - centre) ** 2, axis=-1))

    def measure(state, batch, key):
        noise = jax.random.normal(key, batch["x"].shape)
        return {"distance": jnp.sum((batch["x"] + noise + shift - jnp.sum(state.params["mean"])) ** 2, axis=-1)}

    tx = optax.chain(optax.adam(learning_rate), ema(0.9))
    learner = minimize(loss, tx, lambda key, batch: {"mean": jax.random.normal(key, (width, 2))})
    stage = Stage("mean", learner, batches(SPLIT, batch_size), steps, steps_per_call=per_call)
    return Experiment([stage], {"test": Evaluation(measure, SPLIT, 16, {"distance": Quantity("exact", "units")})},
                      data="cloud")
'''


def written(text, name="cloud.py"):
    """The experiment of a text, loaded from a file in the current directory."""
    Path(name).write_text(textwrap.dedent(text).lstrip())
    return load(name)


def grid_of(loaded, *arguments):
    """The grid of a sweep's command line."""
    return read_grid("genjax sweep cloud.py", "", SweepOptions, arguments, loaded.fields)

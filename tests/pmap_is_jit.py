"""Started by test_pmap.py on four devices: genjax's own learners, compiled by jit and by pmap, must agree."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Out, Stage, ema, gradient, minimize, parallel
from genjax.compilation import compile_stage, stage_keys
from genjax.data import Split, batches

DRAW = np.random.default_rng(5)
ROWS = {
    "x": DRAW.normal(size=(64, 3)).astype(np.float32),
    "mask": (DRAW.random(64) < 0.4).astype(np.float32),  # the devices hold unequal numbers of real rows
}


def loss(params, state, batch, key):
    return Out(jnp.sum((batch["x"] - params["mean"]) ** 2, axis=-1))


def final(how: str, masked: bool, microbatches: int, steps: int = 6) -> np.ndarray:
    """The parameters and their average after a few updates."""
    rows = ROWS if masked else {"x": ROWS["x"]}
    tx = optax.chain(optax.sgd(0.1), ema(0.5))
    learner = minimize(loss, tx, lambda key, batch: {"mean": jnp.zeros((1, 3))}, microbatches=microbatches)
    stage = Stage("mean", learner, batches(Split(rows, lambda rows, key: rows), 32), steps)
    program = compile_stage(stage, stage_keys(0, 0), 0, parallel.mesh(4), "float32", how)
    state, totals = program.fresh(), program.zero()
    for step in range(steps):
        state, (totals, _) = program.call(state, totals, program.feed(step), np.int32(1))
    return np.concatenate([np.asarray(state.params["mean"]).ravel(), [float(totals.sums["loss"])]])


def main() -> int:
    assert jax.device_count() == 4
    for masked in (False, True):
        for microbatches in (1, 2):
            one, many = final("jit", masked, microbatches), final("pmap", masked, microbatches)
            np.testing.assert_allclose(many, one, rtol=1e-5, err_msg=f"masked={masked}, microbatches={microbatches}")
    expected = final("jit", True, 1)
    gradient._rows_weight = lambda batch: jnp.ones(())  # the planted bug: a mean of the devices' means
    assert not np.allclose(final("pmap", True, 1), expected, rtol=1e-3), "a mean of means was not seen"
    return 0


if __name__ == "__main__":
    sys.exit(main())

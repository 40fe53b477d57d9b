"""A worker of vae_steps.py: an experiment file's own stage, compiled as `genjax train` compiles it."""

import sys

import jax
import numpy as np
import workers
from train_steps import images
from vae_steps import ROWS, Row

from genjax import parallel
from genjax.compilation import Program, compile_stage, stage_keys
from genjax.data import Dataset, Split, make_dataset, resampled, scaled
from genjax.fields import load

EXPERIMENTS = workers.HERE.parent / "experiments"


def dataset(levels: int) -> Dataset:
    """60,000 images, of which the last 10,000 validate; grey, or binarized anew for every batch."""
    stored = images()
    bits = (stored > 127).astype(np.uint8)
    if levels == 256:
        split = lambda rows: Split({"image": stored[rows]}, scaled(256))
        parts = {"train": split(slice(50_000)), "validation": split(slice(50_000, None))}
    else:
        parts = {"train": Split({"image": stored[:50_000]}, resampled(256))}
        parts["validation"] = Split({"image": bits[50_000:]}, scaled(2))
    return make_dataset("digits_28", {**parts, "test": parts["validation"]}, levels=levels, stored=256)


def program(row: Row) -> tuple[Program, int]:
    """The compiled stage of the experiment, and how many updates it does in a call."""
    file = load(EXPERIMENTS / f"{row.experiment}.py")
    module = sys.modules[f"experiment_{row.experiment}"]
    for name, levels in (("mnist", 256), ("fashion_mnist", 256), ("mnist_dynamic", 2), ("fashion_mnist_dynamic", 2)):
        if hasattr(module, name):
            setattr(module, name, lambda levels=levels: dataset(levels))
    stage = file.function(batch_size=row.batch, **row.fields).stages[0]._replace(steps=10**9)
    compiled = compile_stage(stage, stage_keys(0, 0), 0, parallel.mesh(1), "float32", "jit")
    return compiled, stage.steps_per_call


def main() -> None:
    """Argument: the row."""
    compiled, a_call = program(ROWS[sys.argv[1]])
    state, totals = compiled.fresh(), compiled.zero()

    def train(updates: int) -> bool:
        nonlocal state, totals
        while updates > 0:
            count = min(updates, a_call)
            state, (totals, _) = compiled.call(state, totals, compiled.feed(0), np.int32(count))
            updates -= count
        jax.block_until_ready((state, totals))
        return int(totals.bad) < 0

    train(1)
    workers.serve(train, compiling=compiled.seconds)


if __name__ == "__main__":
    main()

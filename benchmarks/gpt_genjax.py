"""A worker of gpt_steps.py: genjax's own GPT, windows, learner and compiled call, trained on request."""

import sys
import time

import jax
import numpy as np
import optax
import workers
from gpt_steps import ROWS, VOCABULARY, Setting, text

from genjax import Out, Stage, minimize, parallel
from genjax.compilation import Program, compile_stage, stage_keys
from genjax.data import windows
from genjax.losses.likelihood import sequence_nll
from genjax.models.transformer import GPT, decay_mask

UPDATES_A_CALL = {"4x4x128": 20, "6x6x384": 4}  # in one call the memory of activations is asked for once


def program(setting: Setting, updates_a_call: int, scan: bool) -> Program:
    """The compiled stage, as `genjax train` compiles it."""
    sizes = {"layers": setting.layers, "heads": setting.heads, "width": setting.width, "context": setting.context}
    net = GPT(VOCABULARY, **sizes, bias=False, dropout=setting.dropout, scan=scan)

    def loss(params, state, batch, key):
        tokens = batch["tokens"]
        logits = net.apply(params, tokens[:, :-1], deterministic=False, rngs={"dropout": key})
        return Out(sequence_nll(logits, tokens[:, 1:]) / setting.context)

    adam = optax.adamw(1e-3, b1=0.9, b2=0.95, weight_decay=0.1, mask=decay_mask)
    tx = optax.chain(optax.clip_by_global_norm(1.0), adam)
    learner = minimize(loss, tx, lambda key, batch: net.init(key, batch["tokens"][:, :-1]))
    source = windows(text(), setting.context, setting.batch)
    stage = Stage("gpt", learner, source, steps=10**9, steps_per_call=updates_a_call)
    return compile_stage(stage, stage_keys(0, 0), 0, parallel.mesh(1), "float32", "jit")


def main() -> None:
    """Arguments: the row, and for `depth` the number of layers and "scan" or "written out"."""
    row, *more = sys.argv[1:]
    setting, scan = ROWS[row], False
    if more:
        setting, scan = setting._replace(layers=int(more[0])), more[1] == "scan"
    began = time.process_time()
    compiled = program(setting, UPDATES_A_CALL[row], scan)
    compiling = time.process_time() - began
    state, totals = compiled.fresh(), compiled.zero()

    def train(updates: int) -> bool:
        nonlocal state, totals
        while updates > 0:
            count = min(updates, UPDATES_A_CALL[row])
            state, (totals, _) = compiled.call(state, totals, compiled.feed(0), np.int32(count))
            updates -= count
        jax.block_until_ready((state, totals))
        return int(totals.bad) < 0

    train(1)
    workers.serve(train, compiling=compiling)


if __name__ == "__main__":
    main()

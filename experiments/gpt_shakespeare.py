"""A GPT of characters on tiny Shakespeare: nanoGPT's small setting for a processor, and its larger one for a GPU.

Paper:    Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (the network); Karpathy, nanoGPT,
          2022, https://github.com/karpathy/nanoGPT (both settings): validation 1.88 and 1.4697 nats a character
Command:  genjax data prepare tiny_shakespeare; genjax train experiments/gpt_shakespeare.py
          on a GPU add --layers 6 --heads 6 --width 384 --context 256 --batch-size 64 --dropout 0.2 --steps 5000
Cost:     1 min 43 s of processor time; 5 min 38 s by the clock on two cores that ten other processes used
Measured: validation 1.905 ± 0.005 nats a character (2.748 bits; windows of 64, N=1,742, raw, step 2,000), 2026-11-24;
          the GPU setting was not run

Validation is the last tenth of the text, as in nanoGPT, and here nearly all of it: every character but the first and
the last few that fill no window is predicted once, in windows of the context's length, from what stands before it in
its window.  The test text is the second half of the validation text, by which the best checkpoint is chosen: report
one of the two.
"""

import jax.numpy as jnp
import numpy as np
import optax

from genjax import (
    Coding,
    Count,
    Evaluation,
    Experiment,
    Fraction,
    Out,
    Positive,
    Quantity,
    Stage,
    Target,
    Text,
    minimize,
)
from genjax.data import pieces, tiny_shakespeare, windows
from genjax.data.tokenizers import character_tokenizer
from genjax.distributions import bits
from genjax.likelihood.coding_models import cached
from genjax.losses.likelihood import sequence_nll
from genjax.models.transformer import GPT, decay_mask
from genjax.samplers.choosing import draw
from genjax.samplers.decode import generate

PAPER = "Karpathy, nanoGPT, 2022, https://github.com/karpathy/nanoGPT"
TARGETS = (
    Target("16-gpt", 1.88, "nats/character", "validation/nats", "tiny_shakespeare", "a", PAPER,
           "4 layers, 4 heads, width 128, context 64, batches of 12, 2,000 updates, best validation", tolerance=0.03),
    Target("16-gpt-large", 1.4697, "nats/character", "validation/nats", "tiny_shakespeare", "b", PAPER,
           "6 layers, 6 heads, width 384, context 256, batches of 64, dropout 0.2, 5,000 updates, best validation",
           options="--layers 6 --heads 6 --width 384 --context 256 --batch-size 64 --dropout 0.2 --steps 5000",
           tolerance=0.015),
)  # fmt: skip


def experiment(
    layers: Count = 4,
    heads: Count = 4,
    width: Count = 128,
    context: Count = 64,
    dropout: Fraction = 0.0,
    learning_rate: Positive = 1e-3,
    decay: Fraction = 0.1,
    steps: int = 2_000,
    batch_size: Count = 12,
) -> Experiment:
    """A decoder-only transformer on the 65 characters of the text.

    Args:
      layers: of the transformer.
      heads: of attention in each layer; they divide the width.
      width: numbers a token.
      context: characters of a window, and of a sample.
      dropout: rate, while training.
      learning_rate: AdamW's, after a warm-up of 100 steps; it decays to a tenth along a cosine.
      decay: AdamW's weight decay, of matrices and embeddings.
      steps: updates.
      batch_size: windows in a batch.
    """
    data = tiny_shakespeare()
    tokenizer = character_tokenizer(data.vocabulary)
    newline = int(tokenizer.encode("\n")[0])
    net = GPT(data.levels, context, layers, heads, width, bias=False, dropout=dropout, scan=layers > 8)

    def nats(params, tokens, **options):
        return sequence_nll(net.apply(params, tokens[:, :-1], **options), tokens[:, 1:])

    def loss(params, state, batch, key):
        each = nats(params, batch["tokens"], deterministic=False, rngs={"dropout": key}) / context
        return Out(each, {"bits_per_character": bits(each)})

    def measure(state, batch, key):
        total = nats(state.params, batch["tokens"])
        return {"nats": total, "bits": bits(total), "characters": jnp.full_like(total, context)}

    def sample(state, key, n):
        start = jnp.full((n, 1), newline)
        return generate(net.decoder(state.params), start, np.ones(n, np.int32), key, context, draw)[0]

    def written(rows):
        return "\n----\n".join(tokenizer.decode(row).strip("\n") for row in rows).encode() + b"\n"

    warm = min(100, steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warm, max(steps, 1), learning_rate / 10)
    adam = optax.adamw(rate, b2=0.99, weight_decay=decay, mask=decay_mask)
    tx = optax.chain(optax.clip_by_global_norm(1.0), adam)
    learner = minimize(loss, tx, lambda key, batch: net.init(key, batch["tokens"][:, :-1]))
    exact = Quantity(f"exact -log p(x), windows of {context}", "nats/character", per="characters")
    quantities = {"nats": exact, "bits": exact._replace(unit="bits/character")}
    source = windows(data.train, context, batch_size)
    return Experiment(
        stages=[Stage("gpt", learner, source, steps, steps_per_call=20)],
        evaluations={
            "validation": Evaluation(measure, pieces(data.validation, context), 128, quantities),
            "test": Evaluation(measure, pieces(data.test, context), 128, quantities, final=True),
        },
        sample=sample,
        shown=8,
        formats={".txt": written},
        text=Text(tokenizer.encode, tokenizer.decode, net.decoder, context),
        select="validation/nats",
        data=data.name,
        coding=Coding(cached(net.decoder, data.levels, context, newline), first=newline),
    )

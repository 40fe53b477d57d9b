"""A GPT of letters on given names: 200,000 parameters that make up names.

Paper:    Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (the network); Karpathy, makemore,
          2022, https://github.com/karpathy/makemore (the set; a transformer of this size): 1.92 nats a letter
Command:  genjax data prepare names; genjax train experiments/gpt_names.py
Cost:     8 min 20 s on one CPU core
Measured: test 1.916 ± 0.016 nats a letter (exact; N=1,000 names, ema, step 30,000), validation 1.946, 2026-11-24

A name ends with a token of its own, which counts as a letter.
"""

import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, Target, Text, ema, minimize
from genjax.data import batches, names
from genjax.data.tokenizers import character_tokenizer
from genjax.losses.likelihood import sequence_nll
from genjax.models.transformer import GPT, decay_mask
from genjax.samplers.choosing import draw
from genjax.samplers.decode import generate

TARGETS = (
    Target("17-names", 1.92, "nats/letter", "test/nats", "names", "a",
           "Karpathy, makemore, 2022, https://github.com/karpathy/makemore",
           "a transformer of 200,000 parameters, letters and the end of a name", at_most=1.95),
)  # fmt: skip

END = 0  # begins a name, ends it, and fills its row


def experiment(
    layers: Count = 4,
    heads: Count = 4,
    width: Count = 64,
    dropout: Fraction = 0.1,
    learning_rate: Positive = 2e-3,
    decay: Fraction = 0.1,
    average: Fraction = 0.999,
    steps: int = 30_000,
    batch_size: Count = 64,
) -> Experiment:
    """A decoder-only transformer on the 26 letters.

    Args:
      layers: of the transformer.
      heads: of attention in each layer; they divide the width.
      width: numbers a token.
      dropout: rate, while training.
      learning_rate: AdamW's, after a warm-up of 2 % of the steps; it decays to zero along a cosine.
      decay: AdamW's weight decay, of matrices and embeddings.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: names in a batch.
    """
    data = names()
    context = data.train.arrays["tokens"].shape[1] - 1
    net = GPT(data.levels, context, layers, heads, width, dropout=dropout, scan=layers > 8)

    def nats(params, batch, **options):
        tokens, counted = batch["tokens"], jnp.arange(context)[None] < batch["length"][:, None]
        return sequence_nll(net.apply(params, tokens[:, :-1], **options), tokens[:, 1:], counted)

    def loss(params, state, batch, key):
        total = nats(params, batch, deterministic=False, rngs={"dropout": key})
        return Out(total, {"nats_per_letter": total / batch["length"]})

    def measure(state, batch, key):
        return {"nats": nats(state.params, batch), "letters": batch["length"].astype(jnp.float32)}

    def sample(state, key, n):
        start = jnp.full((n, 1), END)
        return generate(net.decoder(state.params), start, np.ones(n, np.int32), key, context, draw, stop=(END,))[0]

    letters = lambda tokens: "".join(data.vocabulary[token] for token in tokens if token != END)
    tokenizer = character_tokenizer(data.vocabulary[1:])
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 50, max(steps, 1))
    adam = optax.adamw(rate, b2=0.99, weight_decay=decay, mask=decay_mask)
    learner = minimize(loss, optax.chain(adam, ema(average)), lambda key, batch: net.init(key, batch["tokens"][:, :-1]))
    quantities = {"nats": Quantity("exact -log p(x)", "nats/letter", per="letters")}
    return Experiment(
        stages=[Stage("gpt", learner, batches(data.train, batch_size), steps, steps_per_call=20)],
        evaluations={
            "validation": Evaluation(measure, data.validation, 250, quantities),
            "test": Evaluation(measure, data.test, 250, quantities, final=True),
        },
        sample=sample,
        shown=32,
        formats={".txt": lambda rows: "".join(letters(row) + "\n" for row in rows).encode()},
        text=Text(lambda text: [END, *(1 + tokenizer.encode(text))], letters, net.decoder, context, stop=(END,)),
        select="validation/nats",
        data=data.name,
    )

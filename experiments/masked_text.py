"""Masked diffusion of characters on tiny Shakespeare: the GPT's network, its windows, without its direction.

Paper:    Sahoo et al., Simple and Effective Masked Diffusion Language Models, 2024, arXiv:2406.07524; Hoogeboom et al.,
          2022, arXiv:2110.02037: text8, 1.43 +- 0.01 bits a character, where an autoregressive transformer has 1.35
Command:  genjax data prepare tiny_shakespeare; genjax train experiments/masked_text.py --evaluate-every 3000
          genjax train experiments/masked_text.py --steps 20000 --k 64        (all numbers of masked characters)
Cost:     5 min 33 s of processor time
Measured: validation <= 2.151 ± 0.006 nats a character (3.104 bits; k=8, windows of 64, N=1,742, ema, step 3,000), test
          2.180 ± 0.008, one core of an AMD EPYC, shared, 2026-11-27; the longer form: not run

The windows are those of `gpt_shakespeare.py`: the first character is given, the 64 after it are measured, so that the
numbers stand beside its 1.905 nats (exact).  These are upper bounds: of -log p(x) of a model that fills the window in
a random order.  There the GPT reads what stands before a character, this network what is there on both sides.  Its
positions are rotary: with learned ones it predicted little more than frequencies for 1,500 updates (3.06 nats).
"""

import jax
import jax.numpy as jnp
import optax

from genjax import Count, Evaluation, Experiment, File, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import pieces, tiny_shakespeare, windows
from genjax.data.tokenizers import character_tokenizer
from genjax.distributions import bits
from genjax.likelihood.masked import masked_bound
from genjax.losses.masked import masked_counts, order_agnostic_loss
from genjax.models.transformer import GPT, decay_mask
from genjax.samplers.unmasking import one_at_a_time, seen_at, unmask


def experiment(
    layers: Count = 4,
    heads: Count = 4,
    width: Count = 128,
    context: Count = 64,
    learning_rate: Positive = 3e-3,
    decay: Fraction = 0.1,
    average: Fraction = 0.995,
    steps: int = 3_000,
    batch_size: Count = 32,
    k: Count = 8,
) -> Experiment:
    """A transformer that looks both ways, on the 65 characters of the text.

    Args:
      layers: of the transformer.
      heads: of attention in each layer; they divide the width.
      width: numbers a token.
      context: characters of a window that are measured, after one that is given.
      learning_rate: AdamW's, after a warm-up of 100 steps; it decays to a tenth along a cosine.
      decay: AdamW's weight decay, of matrices and embeddings.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: windows in a batch.
      k: numbers of masked characters that a window is measured by, up to the context: then the sum is exact.
    """
    data = tiny_shakespeare()
    tokenizer, mask = character_tokenizer(data.vocabulary), data.levels
    sizes = (mask + 1, context + 1, layers, heads, width)
    net = GPT(*sizes, positions="rotary", bias=False, scan=layers > 8, causal=False)

    def logits(params, first):  # of the characters after the first, which is given
        return lambda z: net.apply(params, jnp.concatenate([first, z], axis=1))[:, 1:, :mask]

    def loss(params, state, batch, key):
        count_key, key = jax.random.split(key)
        first, rest = batch["tokens"][:, :1], batch["tokens"][:, 1:]
        count = masked_counts(count_key, len(rest), context)
        each = order_agnostic_loss(logits(params, first), mask, rest, count, key) / context
        return Out(each, {"bits_per_character": bits(each)})

    def measure(state, batch, key):
        first, rest = batch["tokens"][:, :1], batch["tokens"][:, 1:]
        total = masked_bound(logits(state.params, first), mask, rest, key, min(k, context))
        return {"nats": total, "bits": bits(total), "characters": jnp.full_like(total, context)}

    def filled(state, key, rows):  # of characters, masks among them; the first of each row is known
        return unmask(lambda z: net.apply(state.params, z)[..., :mask], rows, mask, one_at_a_time(context), key)

    def blank(n):
        line = tokenizer.encode("\n")[0]
        return jnp.full((n, context + 1), mask).at[:, 0].set(line)

    def sample(state, key, n):
        return filled(state, key, blank(n)).tokens

    def trajectory(state, key):  # three windows, each at seven moments
        found = filled(state, key, blank(3))
        moments = jnp.linspace(0, context, 7).astype(int)
        return jax.vmap(lambda i: seen_at(found, mask, i - 1))(moments)

    def completed(state, key):  # windows of the validation text of which every other eight characters are lost
        rows = jnp.asarray(pieces(data.validation, context).arrays["tokens"][:8], jnp.int32)
        lost = (jnp.arange(context + 1)[None] // 8) % 2 == 1
        start = jnp.where(lost, mask, rows)
        return jnp.stack([rows, start, filled(state, key, start).tokens])

    def text(row):
        return "".join("_" if token == mask else tokenizer.decode([token]) for token in row).replace("\n", "/")

    def lines(rows):
        return "\n".join(text(row) for row in rows)

    def written(rows):
        return "\n----\n".join(tokenizer.decode(row).strip("\n") for row in rows).encode() + b"\n"

    def spread(stack):
        return "\n\n".join(lines(stack[:, i]) for i in range(stack.shape[1])).encode() + b"\n"

    warm = min(100, steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warm, max(steps, 1), learning_rate / 10)
    adam = optax.adamw(rate, b2=0.99, weight_decay=decay, mask=decay_mask)
    tx = optax.chain(optax.clip_by_global_norm(1.0), adam, ema(average))
    learner = minimize(loss, tx, lambda key, batch: net.init(key, batch["tokens"]))
    upper = Quantity(f"upper bound of -log p(x), k={min(k, context)}, windows of {context}", "nats/character")
    quantities = {name: upper._replace(unit=f"{name}/character", per="characters") for name in ("nats", "bits")}
    source = windows(data.train, context, batch_size)
    return Experiment(
        stages=[Stage("masked", learner, source, steps, steps_per_call=20)],
        evaluations={
            "validation": Evaluation(measure, pieces(data.validation, context), 128, quantities),
            "test": Evaluation(measure, pieces(data.test, context), 128, quantities, final=True),
        },
        sample=sample,
        shown=8,
        formats={".txt": written},
        files={"trajectory.txt": File(trajectory, spread), "completed.txt": File(completed, spread)},
        select="validation/nats",
        data=data.name,
    )

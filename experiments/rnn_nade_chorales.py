"""Bach's chorales by RNN-NADE: a GRU over the frames, a NADE over the 88 notes of each.

Paper:    Boulanger-Lewandowski, Bengio and Vincent, Modeling Temporal Dependencies in High-Dimensional Sequences, 2012,
          arXiv:1206.6392, Table 1: 5.56 nats a frame (with Hessian-free training)
Command:  genjax data prepare jsb_chorales --from DIR; genjax train experiments/rnn_nade_chorales.py
Cost:     154 s of updates on two CPU cores that other work shared
Measured: test 6.05 ± 0.11 nats a frame (exact, the first frame included; N=77 chorales, ema, step 5,000), 2026-11-24
"""

import jax.numpy as jnp
import optax

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, Target, ema, minimize
from genjax.data import batches, jsb_chorales
from genjax.distributions import bernoulli_log_prob, nats_per_frame
from genjax.models.recurrent import GRU
from genjax.models.rnn_nade import RNNNADE
from genjax.report.midi import midi_file, piano_roll
from genjax.samplers.frames import sample_frames

TARGETS = (
    Target("19-rnn-nade", 5.56, "nats/frame", "test/nll", "jsb_chorales", "b",
           "Boulanger-Lewandowski et al., 2012, arXiv:1206.6392, table 1; 5.56 to 5.83, from memory, unchecked",
           "a NADE as the head of one recurrent network", at_most=6.2),
)  # fmt: skip


def experiment(
    width: Count = 256,
    units: Count = 128,
    dropout: Fraction = 0.5,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 6_000,
    batch_size: Count = 1,
    frames: Count = 64,
) -> Experiment:
    """The exact probability of whole chorales, the first frame included.

    Args:
      width: units of the GRU.
      units: of the NADE's hidden layer.
      dropout: of the GRU's outputs.
      learning_rate: Adam's; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: chorales in a batch.
      frames: of a sampled chorale.
    """
    data = jsb_chorales()
    model = RNNNADE(GRU(width), units, dropout=dropout)

    def nll(params, batch, rngs=None):
        roll = batch["roll"].astype(jnp.float32)
        notes = bernoulli_log_prob(roll, model.apply(params, roll, rngs=rngs))
        inside = jnp.arange(roll.shape[1])[None] < batch["length"][:, None]
        return -jnp.where(inside, notes.sum(axis=-1), 0.0).sum(axis=-1)

    def loss(params, state, batch, key):
        nats = nll(params, batch, {"dropout": key})
        return Out(nats, {"nats_per_frame": nats_per_frame(nats, batch["length"])})

    def measure(state, batch, key):
        return {"nll": nll(state.params, batch), "frames": batch["length"]}

    def sample(state, key, n):
        step = lambda memory, frame, key: model.apply(state.params, memory, frame, key, method="after")
        silence = jnp.zeros((n, model.notes))
        return sample_frames(step, model.start(n), silence, frames + 1, key)[:, 1:].astype(jnp.uint8)

    def beside(state, key):
        chorales = jnp.asarray(data.train.arrays["roll"][:6, :frames])
        return jnp.stack([piano_roll(chorales), piano_roll(sample(state, key, len(chorales)))])

    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    tx = optax.chain(optax.clip_by_global_norm(100.0), adam, ema(average))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["roll"].astype(jnp.float32)))
    quantities = {"nll": Quantity("exact -log p(x), the first frame included", "nats/frame", per="frames")}
    return Experiment(
        stages=[Stage("rnn_nade", learner, batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(measure, data.validation, 38, quantities),
            "test": Evaluation(measure, data.test, 39, quantities, final=True),
        },
        sample=sample,
        formats={".mid": midi_file},
        shown=8,
        pictures={"chorales_and_samples": beside},
        select="validation/nll",
        data=data.name,
    )

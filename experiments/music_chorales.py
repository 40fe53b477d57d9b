"""Bach's chorales, the next frame from all before: a temporal convolutional network, an RNN, a GRU, an LSTM.

Paper:    Bai, Kolter and Koltun, An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
          Modeling, 2018, arXiv:1803.01271, Table 1: 8.10, 8.91, 8.43, 8.45 nats a frame
Command:  genjax data prepare jsb_chorales --from DIR
          genjax train experiments/music_chorales.py --evaluate-every 500 --checkpoint-every 500
          and the same with --network rnn --steps 3000, --network gru --steps 6000, --network lstm --steps 9000
Cost:     62, 21, 33, 43 s of updates (TCN, RNN, GRU, LSTM) on two CPU cores that other work shared
Measured: test 8.19 ± 0.12 (TCN, step 13,500), 8.88 ± 0.10 (RNN, 2,000), 8.51 ± 0.10 (GRU, 2,500), 8.54 ± 0.10 (LSTM,
          3,500) nats a frame (exact, the first frame given; N=77 chorales, raw), 2026-11-24; notes independent: 11.09

The state that is best on the validation chorales is measured.  The TCN has two blocks of three taps, 270,000 weights;
with --levels 4 --taps 5 --dropout 0.25, 883,000, it overfits: 8.44 after 4,580 updates, and worse from there.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, Target, minimize
from genjax.data import batches, jsb_chorales
from genjax.distributions import bernoulli_log_prob, nats_per_frame, sample_bernoulli
from genjax.models.frames import NextFrame
from genjax.models.recurrent import GRU, LSTM, RNN
from genjax.models.tcn import TCN
from genjax.report.midi import midi_file, piano_roll
from genjax.samplers.frames import sample_frames

PAPER = "Bai, Kolter and Koltun, 2018, arXiv:1803.01271, table 1, as quoted elsewhere"
PROTOCOL = "about 300,000 parameters, frames from the second on, Adam 1e-3, best validation; the TCN best of the four"
TARGETS = (
    Target("18-rnn", 8.91, "nats/frame", "test/nll", "jsb_chorales", "a", PAPER, PROTOCOL,
           options="--network rnn --steps 3000 --evaluate-every 500 --checkpoint-every 500", tolerance=0.15),
    Target("18-gru", 8.43, "nats/frame", "test/nll", "jsb_chorales", "a", PAPER, PROTOCOL,
           options="--network gru --steps 6000 --evaluate-every 500 --checkpoint-every 500", tolerance=0.15),
    Target("18-lstm", 8.45, "nats/frame", "test/nll", "jsb_chorales", "a", PAPER, PROTOCOL,
           options="--network lstm --steps 9000 --evaluate-every 500 --checkpoint-every 500", tolerance=0.15),
    Target("18-tcn", 8.10, "nats/frame", "test/nll", "jsb_chorales", "a", PAPER, PROTOCOL,
           options="--evaluate-every 500 --checkpoint-every 500", tolerance=0.15),
)  # fmt: skip


def experiment(
    network: Literal["tcn", "rnn", "gru", "lstm"] = "tcn",
    levels: Count = 2,
    taps: Count = 3,
    dropout: Fraction = 0.5,
    learning_rate: Positive = 1e-3,
    clip: Positive = 0.2,
    steps: int = 23_000,
    batch_size: Count = 1,
    frames: Count = 64,
) -> Experiment:
    """Each note of a frame is a Bernoulli variable given the frames before; the first frame is given.

    Args:
      network: each has 270,000 to 300,000 parameters.
      levels: blocks of the TCN, of 150 channels each.
      taps: of the TCN's convolutions.
      dropout: of the TCN's layers; of the outputs of the others.
      learning_rate: Adam's; it decays to zero along a cosine.
      clip: the largest norm of the gradient of a chorale's negative log-likelihood, summed over its frames: nearly
        every gradient is longer, so that all chorales weigh the same.
      steps: updates; the default is the TCN's hundred passes, the recurrent networks overfit long before.
      batch_size: chorales in a batch.
      frames: of a sampled chorale, the first of which is the first of a training chorale.
    """
    data = jsb_chorales()
    bodies = {"tcn": TCN((150,) * levels, taps, dropout), "rnn": RNN(464), "gru": GRU(260), "lstm": LSTM(222)}
    model = NextFrame(bodies[network], dropout=0.0 if network == "tcn" else dropout)
    rolls, lengths = jnp.asarray(data.train.arrays["roll"]), np.asarray(data.train.arrays["length"])
    played = np.sum(data.train.arrays["roll"], axis=(0, 1), dtype=np.float64)
    marginal = jnp.asarray(np.log((played + 1) / (lengths.sum() - played + 1)), jnp.float32)  # log-odds, one added

    def nll(logits, batch):
        notes = bernoulli_log_prob(batch["roll"][:, 1:], logits)
        return -jnp.where(_predicted(batch), notes.sum(axis=-1), 0.0).sum(axis=-1)

    def loss(params, state, batch, key):
        logits, _ = model.apply(params, batch["roll"][:, :-1].astype(jnp.float32), rngs={"dropout": key})
        nats = nll(logits, batch)
        return Out(nats, {"nats_per_frame": nats_per_frame(nats, jnp.maximum(_predicted(batch).sum(axis=-1), 1))})

    def measure(state, batch, key):
        logits, _ = model.apply(state.params, batch["roll"][:, :-1].astype(jnp.float32))
        alone = nll(jnp.broadcast_to(marginal, logits.shape), batch)
        return {"nll": nll(logits, batch), "factorised": alone, "frames": _predicted(batch).sum(axis=-1)}

    def continued(state, first, key):
        def step(memory, frame, key):
            logits, memory = model.apply(state.params, frame[:, None], memory)
            return sample_bernoulli(logits[:, 0], key), memory

        return sample_frames(step, model.start(len(first)), first.astype(jnp.float32), frames, key).astype(jnp.uint8)

    def sample(state, key, n):
        first_key, key = jax.random.split(key)
        return continued(state, rolls[jax.random.randint(first_key, (n,), 0, len(rolls)), 0], key)

    def beside(state, key):
        chorales = rolls[:6, :frames]
        return jnp.stack([piano_roll(chorales), piano_roll(continued(state, chorales[:, 0], key))])

    rate = optax.cosine_decay_schedule(learning_rate, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(clip), optax.adam(rate))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["roll"][:, :-1].astype(jnp.float32)))
    exact = Quantity("exact -log p(x | first frame)", "nats/frame", per="frames")
    quantities = {"nll": exact, "factorised": exact._replace(kind="exact, notes independent of all")}
    return Experiment(
        stages=[Stage(network, learner, batches(data.train, batch_size), steps)],
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


def _predicted(batch):
    return jnp.arange(1, batch["roll"].shape[1])[None] < batch["length"][:, None]

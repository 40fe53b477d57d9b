"""Bach's chorales by RNN-RBM: a GRU over the frames, a restricted Boltzmann machine over the 88 notes of each.

Paper:    Boulanger-Lewandowski, Bengio and Vincent, Modeling Temporal Dependencies in High-Dimensional Sequences, 2012,
          arXiv:1206.6392, Table 1: 6.27 nats a frame (from memory; there by annealed importance sampling)
Command:  genjax data prepare jsb_chorales --from DIR; genjax train experiments/rnn_rbm_chorales.py
Cost:     132 s of processor time on one CPU core, start, compilation and evaluation included
Measured: test 6.405 ± 0.14 nats a frame (exact, the first frame included; N=77 chorales, ema, step 12,000), 2026-11-24;
          16 chorales of the validation split 6.212 exact, and by annealing of the same machines 6.197 there, 6.215 back
          --hidden 150 (6 min): test 5.47 ± 0.13 there, 5.66 ± 0.13 back (estimates, N=77, ema, step 12,000), 2026-11-27

Every frame has a machine and a log Z of its own.  Up to 16 hidden units it is a sum over all their states, and every
number below is exact.  With more (`--hidden 150`) it is annealed, from the visible biases of the frame to its machine
and back from chains that start at the frame: the first -log p is in expectation a lower bound, the second an upper one
where those chains have mixed.
"""

import jax
import jax.numpy as jnp
import optax

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import Split, batches, jsb_chorales
from genjax.likelihood.ais import temperatures
from genjax.losses.energy import paired_phases
from genjax.models.conditional_rbm import each_row, exact_rows, rows_back, rows_there
from genjax.models.rbm import gibbs_step, machine
from genjax.models.recurrent import GRU
from genjax.models.rnn_rbm import RNNRBM
from genjax.report.midi import midi_file, piano_roll
from genjax.samplers.frames import sample_frames
from genjax.samplers.gibbs import run_chain

ENUMERATED, WATCHED = 16, 16  # hidden units at most; chorales of the validation split that are measured in training
WALKS, BETAS, MIX = 10, 200, 100  # of a frame; temperatures; Gibbs steps before a walk back, and of a sampled frame


def experiment(
    hidden: Count = 12,
    width: Count = 256,
    k: Count = 15,
    dropout: Fraction = 0.7,
    learning_rate: Positive = 0.01,
    average: Fraction = 0.999,
    steps: int = 12_000,
    batch_size: Count = 1,
    frames: Count = 64,
) -> Experiment:
    """Contrastive divergence in every frame, whose chain starts at the frame itself.

    Args:
      hidden: units of each machine; up to 16 log Z is exact.
      width: units of the GRU.
      k: Gibbs steps of an update.
      dropout: of the GRU's outputs.
      learning_rate: Adam's; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: chorales in a batch.
      frames: of a sampled chorale.
    """
    data, betas = jsb_chorales(), temperatures((BETAS, 1.0))
    model = RNNRBM(GRU(width), hidden, dropout=dropout)
    units = model.units

    def machines(params, batch, rngs=None):  # of all frames, a row each, and what they are asked about
        roll = batch["roll"].astype(jnp.float32)
        return model.apply(params, roll, rngs=rngs, method="weights"), roll.reshape(-1, model.notes)

    def of_pieces(each, batch):  # [B T] -> [B]
        each = each.reshape(batch["roll"].shape[:2])
        return jnp.where(jnp.arange(each.shape[1])[None] < batch["length"][:, None], each, 0.0).sum(axis=1)

    def loss(params, state, batch, key):
        drop_key, key = jax.random.split(key)
        weights, v = machines(params, batch, {"dropout": drop_key})
        samples = run_chain(gibbs_step(machine(jax.lax.stop_gradient(weights), units)), v, key, k)
        phases = of_pieces(paired_phases(machine(weights, units).free_energy, v, samples), batch)
        moved = of_pieces(jnp.abs(samples - v).sum(axis=1), batch)  # notes that the chain has changed
        return Out(phases, {"moved_per_frame": moved / batch["length"]})

    def measure(log_z):
        def measured(state, batch, key):
            weights, v = machines(state.params, batch)
            each = machine(weights, units).free_energy(v) + log_z(weights, v, key)
            return {"nll": of_pieces(each, batch), "frames": batch["length"]}

        return measured

    def back(weights, v, key):
        mix_key, key = jax.random.split(key)
        chains = lambda own, v, key: run_chain(gibbs_step(machine(own, units)), jnp.tile(v, (WALKS, 1)), key, MIX)
        mixed = each_row(chains, weights, v, jax.random.split(mix_key, len(v)))
        return rows_back(weights, units, mixed, betas, key).value

    def measured_by(way, log_z, kind):
        quantities = {"nll": Quantity(f"{kind}, the first frame included", "nats/frame", per="frames")}
        few = Split({name: array[:WATCHED] for name, array in data.validation.arrays.items()}, data.validation.prepare)
        return {
            f"validation{way}": Evaluation(measure(log_z), few, WATCHED, quantities),
            f"test{way}": Evaluation(measure(log_z), data.test, 39, quantities, final=True),
        }

    exact = lambda weights, v, key: exact_rows(weights, units)
    there = lambda weights, v, key: rows_there(weights, units, WALKS, betas, key).value
    bracket = lambda: {
        **measured_by("_there", there, "estimate of -log p(x), in expectation a lower bound"),
        **measured_by("_back", back, "estimate of -log p(x), an upper bound where chains have mixed"),
    }

    def sample(state, key, n):
        step = lambda memory, frame, key: model.apply(state.params, memory, frame, key, MIX, method="after")
        silence = jnp.zeros((n, model.notes))
        return sample_frames(step, model.start(n), silence, frames + 1, key)[:, 1:].astype(jnp.uint8)

    def beside(state, key):
        chorales = jnp.asarray(data.train.arrays["roll"][:6, :frames])
        return jnp.stack([piano_roll(chorales), piano_roll(sample(state, key, len(chorales)))])

    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    tx = optax.chain(optax.clip_by_global_norm(100.0), adam, ema(average))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["roll"].astype(jnp.float32)))
    enumerated = hidden <= ENUMERATED
    return Experiment(
        stages=[Stage("rnn_rbm", learner, batches(data.train, batch_size), steps)],
        evaluations=measured_by("", exact, "exact -log p(x)") if enumerated else bracket(),
        sample=sample,
        formats={".mid": midi_file},
        shown=8,
        pictures={"chorales_and_samples": beside},
        select="validation/nll" if enumerated else "validation_back/nll",
        data=data.name,
    )

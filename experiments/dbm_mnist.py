"""A deep Boltzmann machine of 500 and 1,000 hidden units on static binary MNIST, both layers trained at once.

Paper:    Salakhutdinov and Hinton, Deep Boltzmann Machines, 2009: lower bound of log p(x), test, -84.62 nats, log Z by
          annealing; there layers are pretrained.  Montavon and Mueller, Deep Boltzmann Machines and the Centering
          Trick, 2012; Melchior, Fischer and Wiskott, How to Center Deep Boltzmann Machines, 2016, JMLR 17(99)
Command:  genjax data prepare binarized_mnist; genjax train experiments/dbm_mnist.py
Cost:     22 min on one core of an AMD EPYC; --steps 250000: 1 min 38 s on one H200 (jax 0.11.2)
Measured: test: upper bound of -log p(x) 87.57 ± 0.25 nats there, 87.40 ± 0.24 back (estimates, N=10,000, raw, step
          80,000), log Z 1,014 by both, 2026-11-24; --steps 250000: 86.59 ± 0.26 there, 86.41 ± 0.24 back (at most 87
          was wanted), log Z 888.5 and 888.3, 2026-11-27.  --learning-rate 0.1 gave 87.15 back after 150,000 updates;
          after 250,000 it had fallen to the base rate, 205.8

With pixels and second layer as one side this is an RBM, so that chains, offsets and annealing are those of
rbm_mnist.py; mean field tells what the second layer would be.  The bound of -log p(x) is as good as its log Z: from
the base rate that is in expectation too small, and back from chains too large where the chains have mixed, which nobody
knows.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from genjax import (
    Count,
    Evaluation,
    Experiment,
    Fraction,
    Learner,
    NonNegative,
    Out,
    Positive,
    Quantity,
    Stage,
    Target,
    adjusted,
    minimize,
)
from genjax.data import batches, binarized_mnist
from genjax.distributions import sample_bernoulli
from genjax.likelihood.ais import published_temperatures, temperatures
from genjax.losses.energy import phase_difference
from genjax.models.centering import OFFSETS, first_carry, followed, machine_of, weights_of
from genjax.models.dbm import mean_field, variational_free_energy
from genjax.models.observation import bernoulli, check_support, logit_of_mean
from genjax.models.partition import annealed_back, annealed_there, told
from genjax.models.rbm import RBM, filters, gibbs_step
from genjax.models.visible import bernoulli_units, joined_units
from genjax.samplers.gibbs import along_chain, run_chain, run_on
from genjax.samplers.latents import tiles

TARGETS = (
    Target("12-dbm", 84.62, "nats", "test_there/bound", "binarized_mnist", "b", "Salakhutdinov and Hinton, 2009",
           "500-1000, PCD and mean field, lower bound by AIS; there pretrained", options="--steps 250000",
           at_most=87.0),
)  # fmt: skip

SIDE, D, WALKS, MIX = 28, 784, 100, 1_000  # pixels; walks of annealing, Gibbs steps before those that go back


def experiment(
    hidden: Count = 500,
    deep: Count = 1_000,
    k: Count = 1,
    sweeps: Count = 5,
    chains: Count = 100,
    offset_rate: Fraction = 0.01,
    learning_rate: Positive = 0.05,
    weight_decay: NonNegative = 0.0,
    steps: int = 80_000,
    batch_size: Count = 100,
) -> Experiment:
    """Persistent contrastive divergence with mean field.

    Args:
      hidden: units of the first layer.
      deep: units of the second.
      k: Gibbs steps of an update.
      sweeps: of mean field, in training; measures take 50.
      chains: that live on from update to update.
      offset_rate: how far the offsets move towards the means of a batch in an update.
      learning_rate: of gradient descent at the start; it falls to zero along a line.
      weight_decay: lambda of the penalty lambda / 2 |W|^2.
      steps: updates.
      batch_size: images in a batch.
    """
    data = binarized_mnist()
    check_support(data, bernoulli())
    pixels = jnp.asarray(logit_of_mean(data.train.arrays["image"], 2).reshape(-1))
    first = jnp.concatenate([pixels, jnp.zeros(deep)])
    units = joined_units(bernoulli_units(D), bernoulli_units(deep))
    model = RBM(units, hidden, centred=True, visible_init=nn.initializers.constant(first))
    at = functools.partial(machine_of, model)

    def carry(key, params, batch):
        return first_carry(model, params, sample_bernoulli(jnp.broadcast_to(first, (chains, D + deep)), key))

    def inferred(state, batch, sweeps):
        v = flat(batch["image"])
        return jnp.concatenate([v, mean_field(weights_of(model, state), v, sweeps)], axis=1)

    def follow(state, batch):
        return followed(model, state, batch["units"], offset_rate)

    def loss(params, state, batch, key):
        samples = run_chain(gibbs_step(at(state)), state.carry["chains"], key, k)
        difference = phase_difference(at(state, params).free_energy, batch["units"], samples)
        return Out(difference, carry={**state.carry, "chains": samples})

    def update(state, batch, key):  # one mean field serves both: p(h1, h2 | v) does not move with the offsets
        return centred.update(state, {**batch, "units": inferred(state, batch, sweeps)}, key)

    def base(state):  # log-odds of mean units, each on its own
        mean = jnp.clip(state.carry[OFFSETS]["visible"][D:], 0.001, 0.999)
        return jnp.concatenate([pixels, jnp.log(mean) - jnp.log1p(-mean)])

    def mixed(state, key, n):  # chains of the model, run on
        return run_on(gibbs_step(at(state)), state.carry["chains"], n, key, MIX)

    def measure(there, betas):
        def measured(state, batch, key):
            of, units = at(state), inferred(state, batch, 50)
            mix_key, key = jax.random.split(key)
            back = lambda: annealed_back(of, base(state), mixed(state, mix_key, WALKS), betas, key)
            found = annealed_there(of, base(state), WALKS, betas, key) if there else back()
            parts = told(found, variational_free_energy(of.free_energy, units[:, :D], units[:, D:]))
            return {"bound": parts.pop("nll"), **parts}

        return measured

    def sample(state, key, n):
        return pictures(mixed(state, key, n))

    def mixing(state, key):  # ten chains from left to right, 100 steps between two pictures
        seen = along_chain(gibbs_step(at(state)), state.carry["chains"][:10], key, 16, 100)
        return tiles(pictures(seen[..., :D].swapaxes(0, 1).reshape(-1, D)), 16)

    def reconstruction(state, key):
        images = data.test.arrays["image"]  # sorted by digit
        real = jnp.asarray(images[:: max(1, len(images) // 16)][:16], jnp.float32)
        h1 = nn.sigmoid(at(state).hidden_logits(inferred(state, {"image": real}, 50)))
        return jnp.stack([real, pictures(at(state).visible_mean(h1))])

    def weights(state, key):
        return filters(state.params["params"]["weight"][:D].T[:100], (SIDE, SIDE, 1))

    falling = optax.linear_schedule(learning_rate, 0.0, max(steps, 1))
    decay = optax.add_decayed_weights(weight_decay, lambda params: jax.tree.map(lambda p: p.ndim == 2, params))
    init = lambda key, batch: {"params": model.init(key, jnp.zeros((1, D + deep)))["params"]}
    centred = adjusted(minimize(loss, optax.chain(decay, optax.sgd(falling)), init, carry), follow)
    learner = Learner(centred.init, update)
    short, long = temperatures((1_000, 1.0)), published_temperatures(14_500)
    low, high = (quantities(way) for way in ("from the base rate, in expectation a lower bound", "back from chains"))
    return Experiment(
        stages=[Stage("dbm", learner, batches(data.train, batch_size), steps, steps_per_call=50)],
        evaluations={
            "there": Evaluation(measure(True, short), data.validation, 10_000, low),
            "back": Evaluation(measure(False, short), data.validation, 10_000, high),
            "test_there": Evaluation(measure(True, long), data.test, 10_000, low, final=True),
            "test_back": Evaluation(measure(False, long), data.test, 10_000, high, final=True),
        },
        sample=sample,
        pictures={"chains": mixing, "reconstruction": reconstruction, "filters": weights},
        data=data.name,
    )


def quantities(way):
    return {
        "bound": Quantity(
            f"estimate of an upper bound of -log p(x), mean field, log Z by annealing {way}", error="log_z_error"
        ),
        "log_z": Quantity(f"estimate of log Z by {WALKS} walks {way}", error="log_z_error"),
        "effective": Quantity(f"effective number of walks, of {WALKS}", "walks", "higher"),
    }


def flat(images):
    return images.reshape(len(images), -1)


def pictures(x):
    return x[..., :D].reshape(*x.shape[:-1], SIDE, SIDE, 1)

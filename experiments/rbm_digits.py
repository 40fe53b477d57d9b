"""A restricted Boltzmann machine on scikit-learn's handwritten digits, its log Z exact, and AIS beside it; offline.

Paper:    Melchior, Fischer and Wiskott, How to Center Deep Boltzmann Machines, 2016, JMLR 17(99) (centering); Tieleman,
          Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient, 2008
Command:  genjax train experiments/rbm_digits.py; with all 17 grey levels: --grey
Cost:     12 s on one CPU core, start, compilation from a filled cache and evaluation included
Measured: test -log p(x) = 17.59 ± 0.31 nats (exact, N=250, raw, step 60,000); log Z 65.41 exact, 65.41 ± 0.02 by AIS,
          65.40 ± 0.02 by its reverse, 2026-11-24

A pixel is 1 where its level is above 7 of 16; with `--grey` it is a unit of one of 17 levels (Potts), so that its
likelihood stands beside those of vae_digits.py and others.  With 16 hidden units log Z is a sum over 65,536 states, so
that every number below is exact; annealed importance sampling and its reverse are told beside it, as they have to serve
where nothing can be enumerated.  The reverse walk starts at the persistent chains, run on: an estimate, as they may not
have mixed.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import BadInput, Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, adjusted, minimize
from genjax.data import Split, batches, digits, make_dataset, scaled
from genjax.likelihood.ais import MOST_UNITS, enumerated_log_partition, temperatures
from genjax.losses.energy import phase_difference
from genjax.models.centering import first_carry, followed, machine_of
from genjax.models.observation import logit_of_mean
from genjax.models.partition import annealed_back, annealed_there, told
from genjax.models.rbm import RBM, filters, gibbs_step
from genjax.models.visible import bernoulli_units, categorical_units, one_hot
from genjax.samplers.gibbs import along_chain, run_chain, run_on
from genjax.samplers.latents import tiles

SIDE, LEVELS, ANNEALED = 8, 17, 100  # pixels, their grey levels; chains of annealing


def experiment(
    grey: bool = False,
    hidden: Count = 16,
    centred: bool = True,
    persistent: bool = True,
    k: Count = 1,
    chains: Count = 100,
    offset_rate: Fraction = 0.01,
    learning_rate: Positive = 0.1,
    steps: int = 60_000,
    batch_size: Count = 100,
    betas: Count = 1_000,
) -> Experiment:
    """Contrastive divergence, persistent or from the data.

    Args:
      grey: pixels of 17 levels.
      hidden: units, at most 25: log Z is enumerated over them.
      centred: whether visible and hidden units are seen from their means, which follow the data.
      persistent: chains that live on from update to update; else they start at the data.
      k: Gibbs steps of an update.
      chains: how many live on.
      offset_rate: how far the offsets move towards the means of a batch in an update.
      learning_rate: of gradient descent at the start; it falls to zero along a cosine.
      steps: updates.
      batch_size: images in a batch.
      betas: temperatures of annealed importance sampling.
    """
    data = digits() if grey else binary_digits()
    if hidden > MOST_UNITS:
        raise BadInput(
            f"hidden = {hidden}", f"allowed: 1 to {MOST_UNITS}, as log Z is enumerated", "more: rbm_mnist.py"
        )
    units = categorical_units(SIDE * SIDE, LEVELS) if grey else bernoulli_units(SIDE * SIDE)
    base = jnp.asarray((log_shares if grey else binary_base)(data.train.arrays["image"]))
    flat, pictures = (levels_apart, grey_pictures) if grey else (rows, binary_pictures)
    model = RBM(units, hidden, centred, visible_init=nn.initializers.constant(base))
    path = temperatures((betas, 1.0))

    at = functools.partial(machine_of, model)

    def carry(key, params, batch):
        return first_carry(model, params, units.sample(jnp.broadcast_to(base, (chains, units.width)), key))

    def follow(state, batch):
        return followed(model, state, flat(batch["image"]), offset_rate)

    def loss(params, state, batch, key):
        v = flat(batch["image"])
        samples = run_chain(gibbs_step(at(state)), state.carry["chains"] if persistent else v, key, k)
        told = {"activity": nn.sigmoid(at(state).hidden_logits(v)).mean(axis=1)}
        carry = {**state.carry, "chains": samples if persistent else state.carry["chains"]}
        return Out(phase_difference(at(state, params).free_energy, v, samples), told, carry)

    def measure(state, batch, key):
        of = at(state)
        return {"nll": of.free_energy(flat(batch["image"])) + enumerated_log_partition(of.hidden_free_energy, hidden)}

    def exact_log_z(state, batch, key):
        return {"log_z": enumerated_log_partition(at(state).hidden_free_energy, hidden)[None]}

    def there(state, batch, key):
        return told(annealed_there(at(state), base, ANNEALED, path, key), jnp.zeros(1))

    def back(state, batch, key):
        mix_key, key = jax.random.split(key)
        last = jnp.resize(state.carry["chains"], (ANNEALED, units.width))
        mixed = run_chain(gibbs_step(at(state)), last, mix_key, 1_000)
        return told(annealed_back(at(state), base, mixed, path, key), jnp.zeros(1))

    def sample(state, key, n):
        return pictures(run_on(gibbs_step(at(state)), state.carry["chains"], n, key, 1_000))

    def mixing(state, key):  # eight chains from left to right, 20 steps between two pictures
        seen = along_chain(gibbs_step(at(state)), state.carry["chains"][:8], key, 16, 20)  # [16, 8, D]
        apart = jnp.pad(pictures(seen.swapaxes(0, 1).reshape(-1, units.width)), ((0, 0), (0, 1), (0, 1), (0, 0)))
        return tiles(apart, 16, scale=4)

    def weights(state, key):
        w = state.params["params"]["weight"].T
        if grey:  # how much brighter a hidden unit makes a pixel
            w = w.reshape(hidden, -1, LEVELS) @ jnp.linspace(-1.0, 1.0, LEVELS)
        return filters(w, (SIDE, SIDE, 1))

    tx = optax.sgd(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    init = lambda key, batch: {"params": model.init(key, flat(batch["image"]))["params"]}
    learner = adjusted(minimize(loss, tx, init, carry), follow)
    exact, once = (
        {"nll": Quantity("exact -log p(x)")},
        Split({"image": np.zeros((1, SIDE, SIDE, 1), np.uint8)}, scaled(data.levels)),
    )
    by = lambda way: {
        "log_z": Quantity(f"estimate of log Z by {ANNEALED} walks {way}", error="log_z_error"),
        "effective": Quantity("effective number of walks", "walks", "higher"),
    }
    return Experiment(
        stages=[Stage("rbm", learner, batches(data.train, batch_size), steps, steps_per_call=50)],
        evaluations={
            "validation": Evaluation(measure, data.validation, 250, exact),
            "exact": Evaluation(exact_log_z, once, 1, {"log_z": Quantity("exact log Z")}),  # depends on no image
            "there": Evaluation(there, once, 1, by("from the base rate, in expectation a lower bound")),
            "back": Evaluation(back, once, 1, by("back from the chains, an upper bound if they have mixed")),
            "test": Evaluation(measure, data.test, 250, exact, final=True),
        },
        sample=sample,
        pictures={"chains": mixing, "filters": weights},
        select="validation/nll",
        data=data.name,
    )


def binary_digits():
    """The digits with a pixel 1 where its level is above 7."""
    grey = digits()
    of = lambda split: Split({"image": (split.arrays["image"] > 7).astype(np.uint8)}, scaled(2))
    splits = {name: of(split) for name, split in zip(("train", "validation", "test"), grey[1:4], strict=True)}
    return make_dataset("digits_binary", splits, levels=2, about=f"{grey.about} Pixels above level 7 are 1.")


def rows(images):
    return images.reshape(len(images), -1)


def levels_apart(images):
    return one_hot(jnp.round(rows(images) * (LEVELS - 1)).astype(jnp.int32), LEVELS)


def binary_base(images):
    return logit_of_mean(images, 2)


def log_shares(images):
    """How often each pixel has each level, as logarithms; a level that never occurs counts as half of one image."""
    seen = np.eye(LEVELS)[rows(images)].sum(axis=0)
    return np.log(np.maximum(seen, 0.5) / len(images)).astype(np.float32).reshape(-1)


def binary_pictures(v):
    return v.reshape(*v.shape[:-1], SIDE, SIDE, 1)


def grey_pictures(v):
    levels = jnp.argmax(v.reshape(*v.shape[:-1], SIDE, SIDE, 1, LEVELS), axis=-1)
    return levels / (LEVELS - 1.0)

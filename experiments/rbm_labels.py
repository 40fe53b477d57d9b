"""A machine of pixels and a label: it tells the digit exactly, draws the digit it is asked for, and may be sparse.

Paper:    Larochelle and Bengio, Classification using Discriminative Restricted Boltzmann Machines, 2008; Lee, Ekanadham
          and Ng, Sparse deep belief net model for visual area V2, 2008 (the penalty)
Command:  genjax train experiments/rbm_labels.py
          and with --generative 0; with --generative 1 --labelled 0; with --sparse 0.01
Cost:     20 to 29 s on two CPU cores, compilation and evaluation included
Measured: test (exact, N=250, raw, step 10,000), 2026-11-27; the rate was chosen among 0.03 to 1 by validation images
                                        errors        -log p(y | x)          hidden units on
            as it is                    3.6 ± 1.2 %   0.165 ± 0.062 nats     33 %
            --generative 0              6.0 ± 1.5 %   0.246 ± 0.071 nats     38 %
            --generative 1 --labelled 0 4.0 ± 1.2 %   0.142 ± 0.056 nats     12 %
            --sparse 0.01               3.2 ± 1.1 %   0.131 ± 0.047 nats     15 %

The visible units are 64 pixels, 1 where a level is above 7 of 16, and the label as one unit of ten levels.  With the
hidden units summed out,

    p(y | x) = exp(-F(x, y)) / sum_y' exp(-F(x, y')),

a sum over ten labels, so that the classifier and its -log p(y | x) are exact though log Z is not known.  The loss
weighs the difference of phases of -log p(x, y) and this exact -log p(y | x).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import (
    BadInput,
    Count,
    Evaluation,
    Experiment,
    Fraction,
    NonNegative,
    Out,
    Positive,
    Quantity,
    Stage,
    adjusted,
    minimize,
)
from genjax.data import Split, batches, digits, make_dataset, scaled
from genjax.losses.energy import phase_difference, sparsity
from genjax.models.centering import first_carry, followed, machine_of
from genjax.models.observation import bernoulli, check_support, logit_of_mean
from genjax.models.rbm import RBM, filters, gibbs_step
from genjax.models.visible import bernoulli_units, categorical_units, joined_units, one_hot
from genjax.samplers.gibbs import clamped, run_chain, run_on
from genjax.samplers.latents import tiles

SIDE, D, CLASSES, EACH = 8, 64, 10, 12  # pixels, labels; pictures of each label


def experiment(
    hidden: Count = 100,
    generative: NonNegative = 0.1,
    labelled: NonNegative = 1.0,
    sparse: NonNegative = 0.0,
    target: Fraction = 0.1,
    k: Count = 1,
    chains: Count = 100,
    offset_rate: Fraction = 0.01,
    learning_rate: Positive = 1.0,
    steps: int = 10_000,
    batch_size: Count = 100,
) -> Experiment:
    """Persistent contrastive divergence of pixels and label, and the exact likelihood of the label.

    Args:
      hidden: units.
      generative: weight of -log p(x, y), by its difference of phases.
      labelled: weight of -log p(y | x), exact.
      sparse: weight of the penalty on hidden units that are active more or less often than the target.
      target: the share of images that a hidden unit should answer to.
      k: Gibbs steps of an update.
      chains: that live on from update to update.
      offset_rate: how far the offsets move towards the means of a batch in an update.
      learning_rate: of gradient descent at the start; it falls to zero along a cosine.
      steps: updates.
      batch_size: images in a batch.
    """
    if generative + labelled == 0:
        raise BadInput("generative = labelled = 0", "allowed: one of the two weights above 0")
    data = labelled_digits()
    check_support(data, bernoulli())
    pixels = jnp.asarray(logit_of_mean(data.train.arrays["image"], 2).reshape(-1))
    base = jnp.concatenate([pixels, jnp.zeros(CLASSES)])
    units = joined_units(bernoulli_units(D), categorical_units(1, CLASSES))
    model = RBM(units, hidden, visible_init=nn.initializers.constant(base))
    at = functools.partial(machine_of, model)

    def carry(key, params, batch):
        return first_carry(model, params, units.sample(jnp.broadcast_to(base, (chains, len(base))), key))

    def follow(state, batch):
        return followed(model, state, visible(batch), offset_rate)

    def loss(params, state, batch, key):
        v, of = visible(batch), at(state, params)
        samples = run_chain(gibbs_step(at(state)), state.carry["chains"], key, k)
        joint = phase_difference(of.free_energy, v, samples)
        nll = of_label(log_posterior(of.free_energy, flat(batch["image"])), batch["label"])
        busy = nn.sigmoid(of.hidden_logits(v))
        total = generative * joint + labelled * nll + sparse * sparsity(busy, target)
        return Out(total, {"activity": busy.mean(axis=1)}, {**state.carry, "chains": samples})

    def measure(state, batch, key):
        of = at(state)
        log_p = log_posterior(of.free_energy, flat(batch["image"]))
        busy = nn.sigmoid(of.hidden_logits(visible(batch))).mean(axis=1)
        wrong = jnp.argmax(log_p, axis=1) != batch["label"]
        return {"error": 100.0 * wrong, "nll": of_label(log_p, batch["label"]), "activity": 100.0 * busy}

    def asked(state, label, key):  # chains in which the label is held
        known = jnp.concatenate([jnp.zeros((len(label), D)), one_hot(label[:, None], CLASSES)], axis=1)
        start_key, key = jax.random.split(key)
        start = units.sample(jnp.broadcast_to(base, known.shape), start_key)
        held = jnp.arange(len(base)) >= D
        start = jnp.where(held[None], known, start)
        return pictures(run_chain(clamped(gibbs_step(at(state)), known, held[None]), start, key, 1_000))

    def labels(state, key):  # a row a digit
        label = jnp.repeat(jnp.arange(CLASSES), EACH)
        apart = jnp.pad(asked(state, label, key), ((0, 0), (0, 1), (0, 1), (0, 0)))
        return tiles(apart, EACH, scale=4)

    def sample(state, key, n):
        return pictures(run_on(gibbs_step(at(state)), state.carry["chains"], n, key, 1_000))

    def weights(state, key):
        return filters(state.params["params"]["weight"][:D].T[:100], (SIDE, SIDE, 1))

    tx = optax.sgd(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    init = lambda key, batch: {"params": model.init(key, visible(batch))["params"]}
    exact = {
        "error": Quantity("exact, share of wrong answers", "%"),
        "nll": Quantity("exact -log p(label | x)"),
        "activity": Quantity("mean probability of hidden units", "%"),
    }
    return Experiment(
        stages=[
            Stage(
                "rbm",
                adjusted(minimize(loss, tx, init, carry), follow),
                batches(data.train, batch_size),
                steps,
                steps_per_call=50,
            )
        ],
        evaluations={
            "validation": Evaluation(measure, data.validation, 250, exact),
            "test": Evaluation(measure, data.test, 250, exact, final=True),
        },
        sample=sample,
        pictures={"labels": labels, "filters": weights},
        select="validation/nll",
        data=data.name,
    )


def log_posterior(free_energy, x):
    """log p(y | x) [B, 10] of pixels x [B, D]: minus the free energies of all labels, normalised."""
    of = lambda label: free_energy(jnp.concatenate([x, jnp.broadcast_to(label[None], (len(x), CLASSES))], axis=1))
    return jax.nn.log_softmax(-jax.vmap(of, out_axes=1)(jnp.eye(CLASSES)), axis=1)


def of_label(log_p, label):
    return -jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]


def labelled_digits():
    """The digits with a pixel 1 where its level is above 7, and their labels."""
    grey = digits()
    arrays = lambda split: {**split.arrays, "image": (split.arrays["image"] > 7).astype(np.uint8)}
    splits = {
        name: Split(arrays(split), scaled(2))
        for name, split in zip(("train", "validation", "test"), grey[1:4], strict=True)
    }
    return make_dataset("digits_binary", splits, CLASSES, levels=2, about=f"{grey.about} Pixels above level 7 are 1.")


def visible(batch):
    return jnp.concatenate([flat(batch["image"]), one_hot(batch["label"][:, None], CLASSES)], axis=1)


def flat(images):
    return images.reshape(len(images), -1)


def pictures(v):
    return v[..., :D].reshape(*v.shape[:-1], SIDE, SIDE, 1)

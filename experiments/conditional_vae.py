"""A conditional VAE on scikit-learn's handwritten digits: draw a digit of a given class; offline, in a minute.

Paper:    Sohn, Lee and Yan, Learning Structured Output Representation using Deep Conditional Generative Models, 2015;
          Kingma et al., Semi-supervised Learning with Deep Generative Models, 2014, arXiv:1406.5298 (its model M2 where
          every label is known)
Command:  genjax train experiments/conditional_vae.py           (--data mnist: in 256 grey levels)
Cost:     23 s of processor time, start, compilation and evaluation included
Measured: digits, test (N=250, ema, step 3,000): -log p(x | y) <= 79.85 ± 0.85 nats (k=1,000), ELBO 83.30 ± 0.93,
          agreement 1.000, nearest 0.992 ± 0.006, 2026-11-24; by Bayes' rule (k=100 a label) 2.0 ± 0.9 % errors,
          0.31 ± 0.16 nats, calibration error 2.0 %, 2026-11-28; mnist was not run

The bound is one of log p(x | y), the label being given, and is not to be compared with bounds of log p(x); with the
prior P(y) of ten equally likely classes, -log p(x, y) is log 10 = 2.30 nats more.  `agreement` is the share of samples
to which the nearest training image (squared distance of pixels) gives the class that they were drawn for, `nearest` the
same share of the real images of the split.  `bayes` classifies test images: the label of the largest bound is the
answer, and the noise that z is made of is the same for all labels.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import (
    Count,
    Evaluation,
    Experiment,
    File,
    Fraction,
    NonNegative,
    Out,
    Positive,
    Quantity,
    Stage,
    ema,
    minimize,
)
from genjax.data import batches, digits, fashion_mnist, mnist
from genjax.distributions import kl_normal_standard, sample_normal
from genjax.likelihood.by_label import of_each_label
from genjax.likelihood.iwae import importance_sampling, normal_log_weights
from genjax.losses.quantization import nearest_code
from genjax.losses.variational import negative_elbo
from genjax.metrics.calibration import CLASSIFICATION, classification
from genjax.metrics.latents import Layer, diagnoses
from genjax.models.blocks import MLP
from genjax.models.conditional import ConditionalVAE, check_labels, one_hot
from genjax.models.observation import check_support, discretized_logistic
from genjax.models.vae import DenseDecoder, DenseEncoder
from genjax.samplers.latents import interpolate_spherical

BAYES_SAMPLES = 100  # importance samples of each label, for p(label | x)
REFERENCES = 2_000  # training images that the samples are compared with, at most


def experiment(
    data: Literal["digits", "mnist", "fashion_mnist"] = "digits",
    latents: Count = 8,
    width: Count = 256,
    beta: NonNegative = 1.0,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 3_000,
    batch_size: Count = 100,
    samples: Count = 1_000,
) -> Experiment:
    """A dense VAE that is told the class of every image.

    Args:
      data: images with labels; the digits are always at hand.
      latents: dimensions of z.
      width: units of each of the two hidden layers of encoder and decoder.
      beta: weight of the rate; 1 is the ELBO.
      learning_rate: Adam's, after a warm-up of 2 % of the steps; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: images in a batch.
      samples: importance samples of the final estimate.
    """
    images = {"digits": digits, "mnist": mnist, "fashion_mnist": fashion_mnist}[data]()
    likelihood, classes = discretized_logistic(images.levels), check_labels(images)
    check_support(images, likelihood)
    shape, hidden = images.train.arrays["image"].shape[1:], lambda: MLP((width, width), nn.relu)
    decoder = DenseDecoder(shape, likelihood.multiplier, hidden())
    model = ConditionalVAE(DenseEncoder(latents, hidden()), decoder, classes)
    known = {name: rows[:REFERENCES] for name, rows in images.train.arrays.items()}

    def encode(params, batch):
        return model.apply(params, batch["image"], batch["label"], method="encode")

    def decode(params, z, label):
        return model.apply(params, z, label, method="decode")

    def loss(params, state, batch, key):
        mean, log_var = encode(params, batch)
        out = decode(params, sample_normal(mean, log_var, key), batch["label"])
        fit, rate = likelihood.log_prob(out, batch["image"]), kl_normal_standard(mean, log_var).sum(axis=-1)
        return Out(negative_elbo(fit, rate, beta), {"rate": rate, "distortion": -fit})

    def bound(state, batch, key):
        out = loss(state.params, state, batch, key)
        return {"neg_elbo": out.metrics["rate"] + out.metrics["distortion"], **out.metrics}

    def drawn(state, label, key):  # an image of each label: the decoder's mean
        z = jax.random.normal(key, (len(label), latents))
        return likelihood.mean(decode(state.params, z, label))

    def classified(x):  # the label of the nearest training image
        flat = lambda rows: rows.reshape(len(rows), -1)
        nearest = nearest_code(flat(x), flat(jnp.asarray(known["image"] / (images.levels - 1), jnp.float32)))
        return jnp.asarray(known["label"])[nearest]

    def estimate(state, batch, key):
        key, own = jax.random.split(key)
        mean, log_var = encode(state.params, batch)
        fit = lambda z: likelihood.log_prob(decode(state.params, z, batch["label"]), batch["image"])
        weights = lambda key, n: normal_log_weights(fit, mean, log_var, key, n)
        tight = importance_sampling(weights, key, samples, chunk=100).bound
        right = lambda x: (classified(x) == batch["label"]).astype(jnp.float32)
        found = {"agreement": right(drawn(state, batch["label"], own)), "nearest": right(batch["image"])}
        return {**bound(state, batch, key), "neg_iwae": -tight, **found}

    def answers(state, batch, key):  # by the bounds of all labels, with the same z of N(0, I) before they are scaled
        def bound(x, label, key):
            mean, log_var = encode(state.params, {"image": x, "label": label})
            fit = lambda z: likelihood.log_prob(decode(state.params, z, label), x)
            weights = lambda key, n: normal_log_weights(fit, mean, log_var, key, n)
            return importance_sampling(weights, key, BAYES_SAMPLES, chunk=BAYES_SAMPLES).bound

        return {"logits": of_each_label(bound, classes, batch["image"], key), "label": batch["label"]}

    def sample(state, key, n):  # rows of ten of one class
        return drawn(state, jnp.arange(n) // 10 % classes, key)

    def styles(state, key):  # each row one z, each column one class
        z = jnp.repeat(jax.random.normal(key, (10, latents)), classes, axis=0)
        return likelihood.mean(decode(state.params, z, jnp.tile(jnp.arange(classes), 10)))

    def held_out(rows):
        arrays = {name: jnp.asarray(array[rows]) for name, array in images.validation.arrays.items()}
        return images.validation.prepare(arrays, jax.random.key(0))

    def reconstruct(state, key):
        batch = held_out(slice(32))
        return jnp.stack([batch["image"], likelihood.mean(model.apply(state.params, batch["image"], batch["label"]))])

    label = images.validation.arrays["label"]
    two = np.stack([np.resize(np.flatnonzero(label == each), 2) for each in np.unique(label)[:8]])

    def interpolation(state, key):  # each row of one class, from one image of it to another
        first, last = (encode(state.params, held_out(rows))[0] for rows in two.T)
        z = jnp.swapaxes(interpolate_spherical(first, last, 8), 0, 1).reshape(-1, latents)
        return likelihood.mean(decode(state.params, z, jnp.repeat(jnp.asarray(label[two[:, 0]]), 8)))

    def carried(state, key):  # the variance of the means within a class: what the label says is no work of z
        batch = held_out(slice(1_000))
        mean, log_var = encode(state.params, batch)
        own = one_hot(batch["label"], classes)
        centres = own.T @ mean / jnp.maximum(own.sum(axis=0), 1.0)[:, None]
        spread = jnp.square(mean - own @ centres).mean(axis=0)
        return {"z given the label": Layer(spread, kl_normal_standard(mean, log_var).sum(axis=-1))}

    shape_of = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 50, max(steps, 1))
    adam = optax.adam(lambda step: learning_rate * shape_of(step))
    tx = optax.chain(optax.clip_by_global_norm(100.0), adam, ema(average))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["image"], batch["label"]))
    upper = Quantity("upper bound of -log p(x | label)")
    parts = {"neg_elbo": upper, "rate": Quantity("exact KL"), "distortion": Quantity("estimate")}
    tight = Quantity(f"upper bound of -log p(x | label), k={samples:,}")
    share = Quantity(f"nearest of {len(known['label']):,} training images", "of samples", "higher")
    by_bayes = f"estimate, by Bayes' rule from bounds of log p(x | label), k={BAYES_SAMPLES}, even odds"
    told = {name: Quantity(by_bayes, unit) for name, (_, unit) in CLASSIFICATION.items()}
    shares = {"agreement": share, "nearest": share._replace(unit="of real images")}
    return Experiment(
        stages=[Stage("vae", learner, batches(images.train, batch_size), steps, steps_per_call=100)],
        evaluations={
            "validation": Evaluation(bound, images.validation, 250, parts),
            "test": Evaluation(estimate, images.test, 250, {"neg_iwae": tight, **parts, **shares}, final=True),
            "bayes": Evaluation(
                answers, images.test, 250, told, True, of_all=lambda rows: classification(rows["logits"], rows["label"])
            ),
        },
        sample=sample,
        shown=100,
        pictures={"styles": styles, "reconstructions": reconstruct, "interpolation": interpolation},
        files={"diagnostics.txt": File(carried, lambda layers: diagnoses(layers).encode())},
        select="validation/neg_elbo",
        data=images.name,
    )

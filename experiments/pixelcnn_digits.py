"""A gated PixelCNN on scikit-learn's handwritten digits: exact likelihoods of grey images, offline, in minutes.

Paper:    van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, arXiv:1606.05328 (network);
          Salimans et al., PixelCNN++, 2017, arXiv:1701.05517 (the mixture of logistics); no published number
Command:  genjax train experiments/pixelcnn_digits.py
          genjax train experiments/pixelcnn_digits.py --likelihood mixture
Cost:     2 minutes on 2 CPU cores that other work shared, of which 26 s compilation
Measured: test -log p(x) = 78.50 ± 0.64 nats, 1.769 bits/dim (categorical, exact, N=250, ema, step 1,600); mixture of 5
          logistics 79.80 ± 0.64 nats, 1.799 bits/dim (step 1,200), 2026-11-24; a VAE's bound: 82.39 (vae_digits.py)
"""

from typing import Literal

import jax.numpy as jnp
import optax

from genjax import Coding, Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import batches, digits
from genjax.distributions import bits_per_dim
from genjax.likelihood.coding_models import full_pass
from genjax.models.observation import categorical, check_support, level_log_probs, logistic_mixture
from genjax.models.pixelcnn import GatedPixelCNN, sample_images


def experiment(
    likelihood: Literal["categorical", "mixture"] = "categorical",
    layers: Count = 4,
    channels: Count = 24,
    components: Count = 5,
    learning_rate: Positive = 2e-3,
    average: Fraction = 0.99,
    steps: int = 2_000,
    batch_size: Count = 64,
) -> Experiment:
    """A gated PixelCNN of 8x8 pixels with 17 grey levels.

    Args:
      likelihood: of a pixel: a free probability for each level, or a mixture of logistics rounded to the levels.
      layers: gated layers after the first.
      channels: of each of the two stacks.
      components: of the mixture.
      learning_rate: Adam's, after a warm-up of 2 % of the steps; it falls to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: digits in a batch.
    """
    data, pixels = digits(), categorical(17) if likelihood == "categorical" else logistic_mixture(17, components)
    check_support(data, pixels)
    model = GatedPixelCNN(pixels.multiplier, layers, channels, first=5)

    def neg_log_prob(params, images):
        return -pixels.log_prob(model.apply(params, images), images)

    def exact(state, batch, key):
        nats = neg_log_prob(state.params, batch["image"])
        return {"nll": nats, "bits": bits_per_dim(nats, 64)}

    def sample(state, key, n):
        return sample_images(model, state.params, pixels.sample, (n, 8, 8, 1), key)

    def levels(params, symbols):
        images = symbols.reshape(-1, 8, 8, 1) / jnp.float32(16)
        return level_log_probs(pixels, model.apply(params, images))

    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 50, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(schedule), ema(average))
    loss = lambda params, state, batch, key: Out(neg_log_prob(params, batch["image"]))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["image"]))
    measures = {"nll": Quantity("exact -log p(x)", "nats"), "bits": Quantity("exact", "bits/dim")}
    return Experiment(
        stages=[Stage("pixelcnn", learner, batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(exact, data.validation, 250, measures),
            "test": Evaluation(exact, data.test, 250, measures, final=True),
        },
        sample=sample,
        select="validation/nll",
        data=data.name,
        coding=Coding(full_pass(levels, 17, range(64)), (8, 8, 1)),
    )

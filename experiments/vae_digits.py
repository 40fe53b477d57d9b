"""A variational autoencoder on scikit-learn's handwritten digits: the first run, offline, in under two minutes.

Paper:    Kingma and Welling, Auto-Encoding Variational Bayes, 2014, arXiv:1312.6114
Command:  genjax train experiments/vae_digits.py
Cost:     13 s on 2 CPU cores, start, compilation and evaluation included
Measured: test -log p(x) <= 82.39 ± 0.68 nats (k=1,000, N=250, ema, step 2,400), 2026-11-23
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from genjax import (
    Coding,
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
from genjax.data import batches, digits
from genjax.distributions import kl_normal_standard, sample_normal
from genjax.likelihood.bits_back import Autoencoder
from genjax.likelihood.iwae import importance_sampling, normal_log_weights
from genjax.losses.variational import negative_elbo
from genjax.metrics.latents import diagnosis
from genjax.models.blocks import MLP
from genjax.models.observation import check_support, discretized_logistic, level_log_probs
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder
from genjax.samplers.latents import interpolate_spherical, tiles, traverse


def experiment(
    latents: Count = 16,
    width: Count = 256,
    beta: NonNegative = 1.0,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 3_000,
    batch_size: Count = 100,
    samples: Count = 1_000,
) -> Experiment:
    """A dense VAE whose decoder gives each pixel a logistic distribution, rounded to its 17 grey levels.

    Args:
      latents: dimensions of z.
      width: units of each of the two hidden layers of encoder and decoder.
      beta: weight of the rate; 1 is the ELBO.
      learning_rate: Adam's, after a warm-up of 2 % of the steps; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: digits in a batch.
      samples: importance samples of the final estimate.
    """
    data, likelihood = digits(), discretized_logistic(17)
    check_support(data, likelihood)
    hidden = lambda: MLP((width, width), nn.relu)
    model = VAE(DenseEncoder(latents, hidden()), DenseDecoder((8, 8, 1), likelihood.multiplier, hidden()))

    def loss(params, state, batch, key):
        mean, log_var = model.apply(params, batch["image"], method="encode")
        z = sample_normal(mean, log_var, key)
        fit = likelihood.log_prob(model.apply(params, z, method="decode"), batch["image"])
        rate = kl_normal_standard(mean, log_var).sum(axis=-1)
        return Out(negative_elbo(fit, rate, beta), {"rate": rate, "distortion": -fit})

    def bound(state, batch, key):
        out = loss(state.params, state, batch, key)
        return {"neg_elbo": out.metrics["rate"] + out.metrics["distortion"], **out.metrics}

    def estimate(state, batch, key):
        mean, log_var = model.apply(state.params, batch["image"], method="encode")
        fit = lambda z: likelihood.log_prob(model.apply(state.params, z, method="decode"), batch["image"])
        weights = lambda key, n: normal_log_weights(fit, mean, log_var, key, n)
        return {**bound(state, batch, key), "neg_iwae": -importance_sampling(weights, key, samples, chunk=100).bound}

    def sample(state, key, n):
        code_key, pixel_key = jax.random.split(key)
        z = jax.random.normal(code_key, (n, latents))
        return likelihood.sample(model.apply(state.params, z, method="decode"), pixel_key)

    def posterior(params, symbols):
        return model.apply(params, symbols.reshape(-1, 8, 8, 1) / jnp.float32(16), method="encode")

    def levels(params, z):
        return level_log_probs(likelihood, model.apply(params, z, method="decode"))

    def decoded(state, z):
        return likelihood.mean(model.apply(state.params, z, method="decode"))

    def means(state, key):
        return decoded(state, jax.random.normal(key, (64, latents)))

    def held_out(rows):
        return jnp.asarray(data.validation.arrays["image"][:rows] / 16, jnp.float32)

    def reconstruct(state, key):
        return jnp.stack([held_out(32), likelihood.mean(model.apply(state.params, held_out(32)))])

    def traversal(state, key):  # a row for each latent, which goes from -3 to 3 while the others stay
        z = model.apply(state.params, held_out(1), method="encode")[0][0]
        return tiles(traverse(lambda z: decoded(state, z), z, range(latents), steps=9), 9, scale=4)

    def interpolation(state, key):  # eight rows, each from one digit to another
        first, last = jnp.split(model.apply(state.params, held_out(16), method="encode")[0], 2)
        return decoded(state, jnp.swapaxes(interpolate_spherical(first, last, 8), 0, 1).reshape(-1, latents))

    def posteriors(state, key):
        mean, log_var = model.apply(state.params, held_out(None), method="encode")
        return mean, log_var, jax.random.normal(key, mean.shape)

    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 50, max(steps, 1))
    adam = optax.adam(lambda step: learning_rate * shape(step))  # a product, so that `sweep --vmap` can vary it
    tx = optax.chain(optax.clip_by_global_norm(100.0), adam, ema(average))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["image"]))
    upper = Quantity("upper bound of -log p(x)")
    parts = {"neg_elbo": upper, "rate": Quantity("exact KL"), "distortion": Quantity("estimate")}
    tight = Quantity(f"upper bound of -log p(x), k={samples:,}")
    return Experiment(
        stages=[Stage("vae", learner, batches(data.train, batch_size), steps, steps_per_call=100)],
        evaluations={
            "validation": Evaluation(bound, data.validation, 250, parts),
            "test": Evaluation(estimate, data.test, 250, {"neg_iwae": tight, **parts}, final=True),
        },
        sample=sample,
        pictures={
            "means": means,
            "reconstructions": reconstruct,
            "traversal": traversal,
            "interpolation": interpolation,
        },
        files={"diagnostics.txt": File(posteriors, lambda arrays: diagnosis(*arrays).encode())},
        select="validation/neg_elbo",
        data=data.name,
        coding=Coding(Autoencoder(17, latents, posterior, levels), (8, 8, 1)),
    )

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

from genjax import Count, Evaluation, Experiment, Fraction, NonNegative, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import batches, digits
from genjax.distributions import kl_normal_standard, sample_normal
from genjax.likelihood.iwae import importance_sampling, normal_log_weights
from genjax.losses.variational import negative_elbo
from genjax.models.blocks import MLP
from genjax.models.observation import check_support, discretized_logistic
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder


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

    def means(state, key):
        z = jax.random.normal(key, (64, latents))
        return likelihood.mean(model.apply(state.params, z, method="decode"))

    def reconstruct(state, key):
        images = jnp.asarray(data.validation.arrays["image"][:32] / 16, jnp.float32)
        return jnp.stack([images, likelihood.mean(model.apply(state.params, images))])

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
        pictures={"means": means, "reconstructions": reconstruct},
        select="validation/neg_elbo",
        data=data.name,
    )

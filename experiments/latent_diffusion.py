"""Latent diffusion: a VAE with a grid of latents, then a diffusion transformer as their prior; samples and a bound.

Paper:    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022, arXiv:2112.10752 (the two
          stages); Vahdat, Kreis and Kautz, Score-based Generative Modeling in Latent Space, 2021, arXiv:2106.05931 (the
          bound); no published number on these data
Command:  genjax train experiments/latent_diffusion.py
          genjax train experiments/latent_diffusion.py --data digits
          distances in the features of a classifier: --features RUN, a run of classifier_mnist.py on the same images
Cost:     29 min of a shared core of an AMD EPYC, 5 of them compiling, 4 evaluating; about 6 min of processor time
Measured: Fashion-MNIST, test: -log p(x) <= 1,988.5 ± 5.5 nats, 3.659 ± 0.010 bits/dim (continuous, 4 times, N=10,000,
          raw autoencoder, ema of the transformer, steps 2,000 and 1,500), of which 107.0 ± 1.2 are the rate; with the
          prior N(0, I) <= 2,062.3 ± 5.4; samples in a classifier's features (N=2,500): Frechet distance 119.9, kernel
          57.6 ± 4.1, precision 0.585, recall 0.103, coverage 0.164; with N(0, I) 256.2, 75.0 ± 4.5, 0.502, 0.001,
          0.020, 2026-11-27

Stage 1 learns q(z | x), a normal for each number of a grid of latents, and p(x | z), the KL to N(0, I) weighing less
than it should.  Stage 2 learns a diffusion of u = (z - shift) / scale, of mean 0 and variance 1 in each channel over
training images; encoder and decoder stand in its carry, outside of what is trained.  With z ~ q(z | x), in nats,

    -log p(x) <= E[-log p(x | z)] - H(q(z | x)) + E[-log p(u)] + sum log scale,    -log p(u) <= the diffusion's bound,

an upper bound in expectation over z and the noise, which stands beside the VAE's own, of the prior N(0, I).
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.corruption.predictions import denoiser, v
from genjax.corruption.schedules import cosine
from genjax.corruption.times import uniform_times
from genjax.data import batches, digits, fashion_mnist, mnist, take
from genjax.distributions import bits_per_dim, event_sum, kl_normal_standard, sample_normal
from genjax.feature_net import classifier_features
from genjax.likelihood.diffusion import continuous_bound, of_reals
from genjax.losses.denoising import denoising_loss, v_error
from genjax.metrics.features import about, pixels
from genjax.metrics.samples import DISTANCES, distances
from genjax.models.dit import DiT
from genjax.models.observation import check_support, discretized_logistic
from genjax.models.vae import VAE
from genjax.models.vq import GridDecoder, GridEncoder, grid_shape
from genjax.samplers.ddim import dpm_solver_2m
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform

TIMES, JUDGED, WATCHED, SCALED_BY = 4, 2_500, 1_000, 1_000


class GridNormal(nn.Module):
    """Mean and log-variance of q(z | x), [B, h, w, D] each, from one grid of 2 D numbers."""

    grid: GridEncoder

    def __call__(self, x):
        mean, log_var = jnp.split(self.grid(x), 2, axis=-1)
        return mean, jnp.clip(log_var, -12.0, 2.0)


def experiment(
    data: Literal["fashion_mnist", "mnist", "digits"] = "fashion_mnist",
    features: str = "",
    dims: Count = 4,
    channels: Count = 32,
    blocks: Count = 1,
    beta: Positive = 0.5,
    vae_steps: int = 2_000,
    layers: Count = 3,
    heads: Count = 4,
    width: Count = 64,
    sampling_steps: Count = 20,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.995,
    steps: int = 1_500,
    batch_size: Count = 64,
) -> Experiment:
    """A convolutional VAE with latents on a quarter of the image's sides (of the digits: a half), and their diffusion.

    Args:
      data: images; the digits are always at hand.
      features: a run of classifier_mnist.py; empty: distances are those of pixels.
      dims: D, numbers of a place of the grid.
      channels: of the convolutions.
      blocks: residual blocks in encoder and decoder.
      beta: weight of the KL in stage 1; in the bounds it is 1.
      vae_steps: updates of encoder and decoder.
      layers: of the diffusion transformer.
      heads: of attention in each layer; they divide the width.
      width: numbers a place.
      sampling_steps: of DPM-Solver++(2M).
      learning_rate: Adam's in both stages, after a warm-up of 5 % of the steps; it falls to zero along a cosine.
      average: decay of the moving average of the transformer that evaluation and sampling use.
      steps: updates of the transformer.
      batch_size: images in a batch.
    """
    images = {"fashion_mnist": fashion_mnist, "mnist": mnist, "digits": digits}[data]()
    halvings, likelihood = 1 if data == "digits" else 2, discretized_logistic(images.levels)
    check_support(images, likelihood)
    shape = images.train.arrays["image"].shape[1:]
    latents, size = (*grid_shape(shape[:2], halvings), dims), math.prod(shape)
    sizes = {"halvings": halvings, "channels": channels, "blocks": blocks}
    vae = VAE(GridNormal(GridEncoder(2 * dims, **sizes)), GridDecoder(shape, likelihood.multiplier, **sizes))
    net, process = DiT(layers, width, heads, patch=1), cosine(0.01, 0.995)
    judge = classifier_features(features, images.name) if features else pixels()
    path, reals = uniform(process, sampling_steps), of_reals(process)

    def encode(params, x):
        return vae.apply(params, x, method="encode")

    def distortion(params, z, x):
        return -likelihood.log_prob(vae.apply(params, z, method="decode"), x)

    def decoded(params, z):
        return likelihood.mean(vae.apply(params, z, method="decode"))

    def vae_loss(params, state, batch, key):
        mean, log_var = encode(params, batch["image"])
        nats = distortion(params, sample_normal(mean, log_var, key), batch["image"])
        rate = event_sum(kl_normal_standard(mean, log_var))
        return Out(nats + beta * rate, {"distortion": nats, "rate": rate})

    def autoencoder(state, batch, key):
        mean, log_var = encode(state.params, batch["image"])
        nats = distortion(state.params, sample_normal(mean, log_var, key), batch["image"])
        rate = event_sum(kl_normal_standard(mean, log_var))
        return {"neg_elbo": nats + rate, "bits": bits_per_dim(nats + rate, size), "distortion": nats, "rate": rate}

    def frozen(key, params, batch):  # of the first stage: here only shapes count
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(vae.init, key, batch["image"]))
        return {"vae": zeros, "shift": jnp.zeros((1, 1, 1, dims)), "scale": jnp.ones((1, 1, 1, dims))}

    def inherit(previous, fresh):  # mean and deviation of z, by the law of total variance
        rows = take(images.train.arrays, slice(SCALED_BY))
        mean, log_var = encode(previous.params, images.train.prepare(rows, jax.random.key(0))["image"])
        over = {"axis": (0, 1, 2), "keepdims": True}
        variance = jnp.var(mean, **over) + jnp.mean(jnp.exp(log_var), **over)
        carry = {"vae": previous.params, "shift": jnp.mean(mean, **over), "scale": jnp.sqrt(variance)}
        return fresh._replace(carry=carry)

    def drawn(carry, x, key):  # u of an image, and what goes with it
        mean, log_var = encode(carry["vae"], x)
        z = sample_normal(mean, log_var, key)
        return (z - carry["shift"]) / carry["scale"], z, mean, log_var

    def loss(params, state, batch, key):
        latent_key, time_key, noise_key = jax.random.split(key, 3)
        u, *_ = drawn(state.carry, batch["image"], latent_key)
        t, noise = uniform_times(process, time_key, len(u)), jax.random.normal(noise_key, u.shape)
        network = lambda z, t: net.apply(params, z, 1000.0 * t)
        return Out(denoising_loss(process, v, v_error, network, u, t, noise) / math.prod(latents))

    def model(params):
        return denoiser(process, v, lambda z, t: net.apply(params, z, 1000.0 * t))

    def whole(state, batch, key):
        latent_key, key = jax.random.split(key)
        u, z, mean, log_var = drawn(state.carry, batch["image"], latent_key)
        prior = continuous_bound(process, model(state.params), reals, TIMES, u, key).total()
        entropy = event_sum(0.5 * (log_var + math.log(2.0 * math.pi * math.e)))
        rate = prior + math.prod(latents[:2]) * jnp.sum(jnp.log(state.carry["scale"])) - entropy
        nats = distortion(state.carry["vae"], z, batch["image"])
        old = nats + event_sum(kl_normal_standard(mean, log_var))
        bits = bits_per_dim(nats + rate, size)
        return {"neg_elbo": nats + rate, "bits": bits, "rate": rate, "distortion": nats, "normal_prior": old}

    def sample(state, key, n):
        u = sampled(process, model(state.params), dpm_solver_2m(), path, key, (n, *latents))
        return decoded(state.carry["vae"], u * state.carry["scale"] + state.carry["shift"])

    def plain(state, key, n):  # by the prior that the VAE was trained with
        return decoded(state.carry["vae"], jax.random.normal(key, (n, *latents)))

    def measured(draw):
        return lambda state, batch, key: {"real": batch["image"], "drawn": draw(state, key, len(batch["image"]))}

    def judged(rows):
        return distances(*(judge.apply(rows[name]) for name in ("real", "drawn")), min(500, len(rows["real"]) // 2))

    def reconstructions(state, key):
        x = jnp.asarray(images.validation.arrays["image"][:32] / (images.levels - 1), jnp.float32)
        return jnp.stack([x, decoded(state.carry["vae"], encode(state.carry["vae"], x)[0])])

    def adam(updates):
        return optax.adam(optax.warmup_cosine_decay_schedule(0.0, learning_rate, updates // 20, max(updates, 1)))

    clipped = lambda most, *rest: optax.chain(optax.clip_by_global_norm(most), *rest)
    first = minimize(vae_loss, clipped(1e3, adam(vae_steps)), lambda key, batch: vae.init(key, batch["image"]))
    begin = lambda key, batch: net.init(key, jnp.zeros((1, *latents)), jnp.ones(1))
    second = minimize(loss, clipped(1.0, adam(steps), ema(average)), begin, frozen)
    upper = Quantity("upper bound of -log p(x)")
    ours = Quantity(f"upper bound of -log p(x), continuous, {TIMES} times, raw autoencoder")
    terms = {"distortion": Quantity("E -log p(x | z), a term"), "rate": Quantity("KL to N(0, I), a term")}
    of_normal = {"neg_elbo": upper, "bits": upper._replace(unit="bits/dim"), **terms}
    of_whole = {
        **{"neg_elbo": ours, "bits": ours._replace(unit="bits/dim"), "distortion": terms["distortion"]},
        "rate": Quantity("upper bound of the KL to the diffusion, a term"),
        "normal_prior": Quantity("upper bound of -log p(x) by the prior N(0, I), raw autoencoder"),
    }
    few = lambda split, count: split._replace(arrays=take(split.arrays, slice(count)))
    some, judges = few(images.validation, WATCHED), few(images.test, JUDGED)
    kinds = {name: Quantity(f"{kind}; {about(judge)}", "", better) for name, (kind, better) in DISTANCES.items()}
    source = batches(images.train, batch_size)
    return Experiment(
        stages=[
            Stage("autoencoder", first, source, vae_steps),
            Stage("diffusion", second, source, steps, inherit),
        ],
        evaluations={
            "reconstruction": Evaluation(autoencoder, some, 250, of_normal, stage="autoencoder"),
            "validation": Evaluation(whole, some, 250, of_whole),
            "test": Evaluation(whole, images.test, 250, of_whole, final=True),
            "test_samples": Evaluation(measured(sample), judges, 250, kinds, final=True, of_all=judged),
            "normal_samples": Evaluation(measured(plain), judges, 250, kinds, final=True, of_all=judged),
        },
        sample=sample,
        pictures={"reconstructions": reconstructions, "normal_prior": lambda state, key: plain(state, key, 64)},
        data=images.name,
    )

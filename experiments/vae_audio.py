"""A convolutional VAE of spoken digits, as spectrograms; what it draws can be heard.

Paper:    Kingma and Welling, Auto-Encoding Variational Bayes, 2014, arXiv:1312.6114; sound from spectrograms: Griffin
          and Lim 1984, doi:10.1109/TASSP.1984.1164317
Command:  genjax train experiments/vae_audio.py --data fsdd.tar.xz
          (recordings: https://github.com/Jakobovski/free-spoken-digit-dataset, a folder of .wav or a tar of it)
Cost:     7 min on one CPU core
Measured: test -log p(spectrogram) <= 4.121 ± 0.061 bits/dim (N=300, ema, step 3,000), 32 of 32 units active, 2026-11-24

The numbers are of the pictures, 128 frequencies x 80 frames of 256 levels: -log p of a spectrogram rounded to levels,
and not of the waveform, of which the phase is left out.  The sounds in samples.wav are the means of the decoder for z
from the prior, with phases found by Griffin and Lim's search; reconstructions.wav has each recording, from its own
spectrogram by the same search, before its reconstruction; interpolation.wav goes from one recording to another, the
first row of the picture of that name.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import (
    BadInput,
    Count,
    Evaluation,
    Experiment,
    File,
    Fraction,
    Out,
    Positive,
    Quantity,
    Stage,
    ema,
    minimize,
)
from genjax.data import batches
from genjax.data.audio import sounds
from genjax.data.spectrogram import sounds_of
from genjax.distributions import kl_normal_standard, sample_normal
from genjax.distributions.units import bits
from genjax.losses.variational import negative_elbo
from genjax.losses.warm_up import check_warm_up, linear_warm_up
from genjax.metrics.latents import diagnosis
from genjax.models.observation import discretized_logistic
from genjax.models.vae import VAE, ConvolutionalDecoder, ConvolutionalEncoder
from genjax.report.wav import wav_file
from genjax.samplers.latents import interpolate_spherical

HEARD, RATE = 8, 8_000


def experiment(
    data: str = "fsdd.tar.xz",
    latents: Count = 32,
    channels: Count = 16,
    width: Count = 256,
    warm_up: int = 500,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 3_000,
    batch_size: Count = 32,
    frames: Count = 80,
) -> Experiment:
    """Each pixel of a spectrogram has a logistic distribution, rounded to its 256 levels.

    Args:
      data: a folder or a tar archive of .wav files at 8,000 Hz.
      latents: dimensions of z.
      channels: of the largest layer of encoder and decoder.
      width: units of their dense layer.
      warm_up: updates over which the weight of the rate rises from 0 to 1.
      learning_rate: Adam's; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: recordings in a batch.
      frames: columns of a picture, 8 ms each; a multiple of 16.
    """
    check_warm_up(warm_up, steps)
    if frames % 16:
        raise BadInput(f"frames = {frames}", "allowed: multiples of 16, which the convolutions halve four times")
    recordings, likelihood = sounds(data, frames, RATE), discretized_logistic(256)
    shape = recordings.train.arrays["image"].shape[1:]
    encoder = ConvolutionalEncoder(latents, channels, width)
    model = VAE(encoder, ConvolutionalDecoder(shape, likelihood.multiplier, channels, width))

    def terms(params, batch, key):
        mean, log_var = model.apply(params, batch["image"], method="encode")
        z = sample_normal(mean, log_var, key)
        fit = likelihood.log_prob(model.apply(params, z, method="decode"), batch["image"])
        return fit, kl_normal_standard(mean, log_var).sum(axis=-1)

    def loss(params, state, batch, key):
        fit, rate = terms(params, batch, key)
        return Out(negative_elbo(fit, rate, linear_warm_up(state.step, warm_up)), {"rate": rate, "distortion": -fit})

    def bound(state, batch, key):
        fit, rate = terms(state.params, batch, key)
        nats = negative_elbo(fit, rate)
        pixels = jnp.full_like(nats, np.prod(shape))
        return {"neg_elbo": nats, "bits": bits(nats), "rate": rate, "distortion": -fit, "pixels": pixels}

    def means(state, z):
        return likelihood.mean(model.apply(state.params, z, method="decode"))

    def sample(state, key, n):
        code_key, pixel_key = jax.random.split(key)
        out = model.apply(state.params, jax.random.normal(code_key, (n, latents)), method="decode")
        return likelihood.sample(out, pixel_key)

    def drawn(state, key):
        return means(state, jax.random.normal(key, (HEARD, latents)))

    def shown(most):  # evenly spaced: the names are in order, zeros first
        images = recordings.validation.arrays["image"]
        return jnp.asarray(images[:: max(len(images) // most, 1)][:most] / 255, jnp.float32)

    def reconstruct(state, key):
        images = shown(HEARD)
        return jnp.stack([images, means(state, model.apply(state.params, images, method="encode")[0])])

    def heard_in_turn(pairs):  # each recording, then its reconstruction
        return wav_file(sounds_of(np.swapaxes(pairs, 0, 1).reshape(-1, *shape)), RATE)

    def interpolation(state, key):  # four rows, each from one recording to another
        first, last = jnp.split(model.apply(state.params, shown(8), method="encode")[0], 2)
        z = interpolate_spherical(first, last, HEARD)
        return means(state, jnp.swapaxes(z, 0, 1).reshape(-1, latents))

    def posteriors(state, key):
        mean, log_var = model.apply(state.params, shown(1_000), method="encode")
        return mean, log_var, jax.random.normal(key, mean.shape)

    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    tx = optax.chain(optax.clip_by_global_norm(1_000.0), adam, ema(average))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["image"]))
    upper = Quantity("upper bound of -log p(spectrogram)")
    quantities = {
        "neg_elbo": upper,
        "bits": upper._replace(unit="bits/dim", per="pixels"),
        "rate": Quantity("exact KL"),
        "distortion": Quantity("estimate"),
    }
    return Experiment(
        stages=[Stage("audio_vae", learner, batches(recordings.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(bound, recordings.validation, 100, quantities),
            "test": Evaluation(bound, recordings.test, 100, quantities, final=True),
        },
        sample=sample,
        shown=16,
        pictures={"means": drawn, "reconstructions": reconstruct, "interpolation": interpolation},
        files={
            "samples.wav": File(drawn, lambda images: wav_file(sounds_of(images), RATE)),
            "reconstructions.wav": File(reconstruct, heard_in_turn),
            "interpolation.wav": File(interpolation, lambda images: wav_file(sounds_of(images[:HEARD]), RATE)),
            "diagnostics.txt": File(posteriors, lambda arrays: diagnosis(*arrays).encode()),
        },
        select="validation/neg_elbo",
        data=recordings.name,
    )

"""Diffusion of scikit-learn's handwritten digits: a bound, a density and guided samples of one network, offline.

Paper:    Kingma et al., Variational Diffusion Models, 2021, arXiv:2107.00630 (the bound); Ho and Salimans, 2022,
          arXiv:2207.12598 (guidance); Song et al., 2021, arXiv:2011.13456 (the density); no published number
Command:  genjax train experiments/diffusion_digits.py
Cost:     17 min on one core of an AMD EPYC, 72 s of it compiling, 169 s evaluating
Measured: test -log p <= 97.5 ± 1.1 nats, 2.197 bits/dim (continuous bound, 16 times an image; N=250, ema, step 6,000),
          <= 100.8 ± 0.9 in 1,000 steps; 88.6 ± 0.8 of dequantised pixels by the equation (50 steps, an estimate);
          samples with guidance of 2: precision 0.964, recall 0.788, density 1.15, coverage 0.956, in pixels, 2026-11-27
          with --steps 1500: the 250 test digits coded: 4,156 bytes, 2.078 bits/dim, and 5,376 initial bits, where
          the bound of these 16 steps is 2.099 ± 0.010 (draws of noise), the continuous one 2.380 ± 0.022, 2026-11-28

The bound is that of the discrete grey levels without a label, so that it stands beside vae_digits.py's and
pixelcnn_digits.py's numbers; the density is of dequantised pixels, by the probability-flow equation.  Samples are drawn
class by class with guidance, and are judged in pixels as those of gan_digits.py are.
`genjax compress` codes by 16 steps that end where the levels still overlap: there the network tells them apart better
than its steps at less noise do, so that the file is shorter than the continuous bound.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import (
    Coding,
    Count,
    Denoising,
    Evaluation,
    Experiment,
    Fraction,
    NonNegative,
    Out,
    Positive,
    Quantity,
    Stage,
    ema,
    minimize,
)
from genjax.corruption.gaussian import times_of
from genjax.corruption.predictions import denoiser, v
from genjax.corruption.schedules import cosine
from genjax.corruption.times import uniform_times
from genjax.data import batches, digits
from genjax.distributions import bits_per_dim
from genjax.likelihood.bits_back_diffusion import diffusion_chain, of_denoised
from genjax.likelihood.diffusion import continuous_bound, of_levels, stepwise_bound
from genjax.likelihood.probability_flow import dequantized, hutchinson, log_density
from genjax.losses.couplings import drop_labels
from genjax.losses.denoising import denoising_loss, likelihood_weight, v_error
from genjax.metrics.samples import NEIGHBOURHOODS, neighbourhoods
from genjax.models.unet import UNet
from genjax.samplers.ddim import ancestral, dpm_solver_2m
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.diffusion import sample_from, trajectory
from genjax.samplers.grids import uniform, uniform_log_snr
from genjax.samplers.guidance import labelled
from genjax.samplers.latents import tiles
from genjax.samplers.projection import projected, repeated, shrunk
from genjax.samplers.restoring import encode, inpaint

D, LEVELS, NONE = 64, 17, 10
TIMES, T, FLOW_STEPS = 16, 1_000, 50
CODED = (-1.0, 5.75, 16)  # log-SNR of the times that files are coded by, after the last one; chosen on validation


def experiment(
    width: Count = 32,
    objective: Literal["v", "likelihood"] = "v",
    guidance: NonNegative = 2.0,
    sampling_steps: Count = 30,
    unlabelled: Fraction = 0.2,
    learning_rate: Positive = 2e-3,
    average: Fraction = 0.999,
    steps: int = 6_000,
    batch_size: Count = 64,
) -> Experiment:
    """A U-Net of two levels that predicts v, with labels or without.

    Args:
      width: channels of the first level.
      objective: the weight of the error: that of v, or that of the likelihood.
      guidance: w of the samples: 0 without a label, 1 the label alone.
      sampling_steps: of DPM-Solver++(2M), two calls of the network each with guidance.
      unlabelled: share of the labels that are left out in training.
      learning_rate: Adam's, after a warm-up of 5 % of the steps; it falls to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: digits in a batch.
    """
    data, process = digits(), cosine(0.01, 0.995)
    net = UNet(width, (1, 2), attention=(1,), classes=NONE)
    weight = {"v": v_error, "likelihood": likelihood_weight}[objective]
    network = lambda params, label: lambda z, t: net.apply(params, z, 1000.0 * t, label)
    denoise = lambda params, label: denoiser(process, v, network(params, label))
    none = lambda x: jnp.full(len(x), NONE)
    values, grid = jnp.linspace(-1.0, 1.0, LEVELS), uniform(process, sampling_steps)
    levels, blind = of_levels(process, values), lambda params: lambda z, t: denoise(params, none(z))(z, t)
    coded = np.append(process.last, times_of(process, np.linspace(*CODED)))

    def loss(params, state, batch, key):
        time_key, noise_key, label_key = jax.random.split(key, 3)
        x, label = scaled(batch["image"]), drop_labels(batch["label"], NONE, unlabelled, label_key)
        t, noise = uniform_times(process, time_key, len(x)), jax.random.normal(noise_key, x.shape)
        return Out(denoising_loss(process, v, weight, network(params, label), x, t, noise))

    def bound(state, batch, key):
        x = scaled(batch["image"])
        found = continuous_bound(process, denoise(state.params, none(x)), levels, TIMES, x, key)
        return {"bound": found.total(), "bits": bits_per_dim(found.total(), D)}

    def likelihoods(state, batch, key):
        x, model = scaled(batch["image"]), denoise(state.params, none(batch["image"]))
        keys = jax.random.split(key, 4)
        found = stepwise_bound(process, model, levels, uniform(process, T + 1), x, keys[0])
        real, added = dequantized(batch["image"], LEVELS, keys[1])
        flow = -log_density(process, model, uniform_log_snr(process, FLOW_STEPS), hutchinson(keys[2]), real)
        few = in_few_steps(state, batch, keys[3])
        nats = {"stepwise": found.total(), "few": few, "flow": flow + added, **found._asdict()}
        return {**bound(state, batch, key), **nats}

    def in_few_steps(state, batch, key):  # what a file is as long as
        model, cut = blind(state.params), process._replace(first=coded[-1])
        return stepwise_bound(cut, model, of_denoised(cut, model, values), coded, scaled(batch["image"]), key).total()

    def model_of(state, label):
        by_label = lambda z, t, label: denoise(state.params, label)(z, t)
        return labelled(by_label, label, jnp.asarray(NONE), guidance)

    def draw(state, key, label):
        return pictures(sampled(process, model_of(state, label), dpm_solver_2m(), grid, key, (len(label), 8, 8, 1)))

    def sample(state, key, n):  # one class after the other
        return draw(state, key, jnp.arange(n) % NONE)

    def measure(state, batch, key):
        return {"real": batch["image"], "drawn": draw(state, key, batch["label"])}

    def judged(rows):
        real, drawn = (rows[name].reshape(-1, D) for name in ("real", "drawn"))
        return neighbourhoods(real, drawn)

    def by_class(state, key):
        return tiles(apart(draw(state, key, jnp.repeat(jnp.arange(NONE), 10))), 10, scale=4)

    def restored(state, key):  # test digits, what is known of them, and five ways to go on
        x = scaled(jnp.asarray(data.test.arrays["image"][:8], jnp.float32) / (LEVELS - 1))
        mask = jnp.broadcast_to((jnp.arange(8) < 4).reshape(1, 8, 1, 1), x.shape)
        model = denoise(state.params, none(x))
        found = [inpaint(process, model, uniform(process, 50), k, x, mask, 5) for k in jax.random.split(key, 5)]
        rows = jnp.stack([x, jnp.where(mask, x, -1.0), *found], axis=1).reshape(-1, 8, 8, 1)
        return tiles(apart(pictures(rows)), 7, scale=4)

    def enlarged(state, key):  # test digits; as 4x4 and as 2x2 means, after each three digits of these means
        x = jnp.repeat(scaled(jnp.asarray(data.test.arrays["image"][:8], jnp.float32) / (LEVELS - 1)), 3, axis=0)
        model, columns = denoise(state.params, none(x)), [x[::3, None]]
        for factor in (2, 4):
            seen, steps = shrunk(factor), uniform(process, 50)
            fixed, again = projected(model, seen, seen.measure(x)), repeated(ancestral(), 5)
            drawn = sampled(process, fixed, again, steps, jax.random.fold_in(key, factor), x.shape)
            columns += [seen.back(seen.measure(x[::3]))[:, None], drawn.reshape(8, 3, 8, 8, 1)]
        return tiles(apart(pictures(jnp.concatenate(columns, axis=1).reshape(-1, 8, 8, 1))), 9, scale=4)

    def preview(state, key):  # what the network takes the digits to be, along the steps
        label = jnp.arange(NONE)
        seen = trajectory(process, model_of(state, label), dpm_solver_2m(), uniform(process, 12), key, (NONE, 8, 8, 1))
        return tiles(apart(pictures(jnp.swapaxes(seen, 0, 1).reshape(-1, 8, 8, 1))), 12, scale=4)

    def between(state, key):  # from a test digit to another by way of their noise
        x = scaled(jnp.asarray(data.test.arrays["image"][:12], jnp.float32) / (LEVELS - 1))
        path, model = uniform_log_snr(process, 40), denoise(state.params, none(x))
        z = encode(process, model, path, x)
        angles = jnp.linspace(0.0, jnp.pi / 2, 10).reshape(1, -1, 1, 1, 1)  # along the arc: both are nearly N(0, I)
        mixed = (jnp.cos(angles) * z[:6, None] + jnp.sin(angles) * z[6:, None]).reshape(-1, 8, 8, 1)
        walk = sample_from(process, denoise(state.params, none(mixed)), dpm_solver_2m(), path, key, mixed)
        return tiles(apart(pictures(walk)), 10, scale=4)

    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule), ema(average))
    init = lambda key, batch: net.init(key, batch["image"], jnp.zeros(len(batch["image"])), batch["label"])
    first = {
        "bound": Quantity(f"upper bound of -log p(x), continuous, {TIMES} times", "nats"),
        "bits": Quantity(f"upper bound, continuous, {TIMES} times", "bits/dim"),
    }
    more = {
        "stepwise": Quantity(f"upper bound of -log p(x), {T:,} steps", "nats"),
        "few": Quantity(f"upper bound of -log p(x), {CODED[2]} steps, of the model that codes", "nats"),
        "flow": Quantity(f"estimate of a bound: dequantised, probability-flow equation, {FLOW_STEPS} steps", "nats"),
        "prior": Quantity("term of the stepwise bound", "nats"),
        "diffusion": Quantity("term of the stepwise bound", "nats"),
        "reconstruction": Quantity("term of the stepwise bound", "nats"),
    }
    about = f"pixels, w = {guidance:g}"
    kinds = {name: Quantity(f"{kind}, {about}", "", better) for name, (kind, better) in NEIGHBOURHOODS.items()}
    return Experiment(
        stages=[Stage("diffusion", minimize(loss, tx, init), batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(bound, data.validation, 250, first),
            "test": Evaluation(likelihoods, data.test, 250, {**first, **more}, final=True),
            "test_samples": Evaluation(measure, data.test, 250, kinds, final=True, of_all=judged),
        },
        sample=sample,
        pictures={
            "classes": by_class,
            "steps": preview,
            "lower_halves": restored,
            "enlarged": enlarged,
            "walk": between,
        },
        data=data.name,
        denoising=Denoising(process, denoise, (8, 8, 1), scaled, pictures, NONE),
        coding=Coding(diffusion_chain(process, blind, values, coded, (8, 8, 1)), (8, 8, 1)),
    )


def scaled(images):
    return 2.0 * images - 1.0


def pictures(x):
    return jnp.clip(0.5 * x + 0.5, 0.0, 1.0)


def apart(images):
    return jnp.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))

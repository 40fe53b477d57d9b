"""A variational diffusion model of grey MNIST with a learned noise schedule: bits per dimension by the bound.

Paper:    Kingma, Salimans, Poole and Ho, Variational Diffusion Models, 2021, arXiv:2107.00630; no number on these data
Command:  genjax data prepare mnist; genjax train experiments/vdm_mnist.py
Cost:     6 min for --steps 600 on one core of an AMD EPYC, shared; the default would take about 30;
          --network unet --width 64 --steps 100000 is meant for a GPU, unmeasured
Measured: with --steps 600: test <= 3.503 ± 0.022 bits/dim, 1,904 ± 12 nats (continuous bound, 8 times
          an image, N=2,000, ema, step 600): prior 0.0040, diffusion 3.487, reconstruction 0.0116;
          ends of the schedule -13.15 and 5.12, far from done, 2026-11-27

The bound is that of the pixels' 256 grey levels, without dequantisation.  The ends of the schedule are trained by the
bound, its shape by the variance of the bound's estimate; `schedule.png` has gamma(t) in black over the straight line in
grey.  The network is told gamma, never t, so that samples may be drawn along any schedule: here one that is straight
between the ends at which training begins.  Each pixel's own features are added to what the network says, and the
features have more frequencies than the paper's 2^7 and 2^8, because the network is small.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from genjax import Count, Denoising, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.corruption.gaussian import log_snr
from genjax.corruption.predictions import denoiser, noise
from genjax.corruption.times import low_discrepancy
from genjax.data import batches, mnist, take
from genjax.distributions import bits_per_dim
from genjax.likelihood.diffusion import of_levels
from genjax.likelihood.learned_schedule import between_ends, gamma_and_rate, learned_bound, trained_bound
from genjax.models.dit import DiT
from genjax.models.noise_schedule import NoisePredictor, NoiseSchedule, schedule_of
from genjax.models.unet import UNet
from genjax.samplers.ddim import ancestral
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform

SHAPE, D, LEVELS, WATCHED, SIDE = (28, 28, 1), 784, 256, 500, 200


def experiment(
    network: Literal["transformer", "unet"] = "transformer",
    width: Count = 64,
    layers: Count = 3,
    patch: Count = 4,
    frequencies: Count = 4,
    sigmoids: Count = 64,
    k: Count = 8,
    sampling_steps: Count = 50,
    learning_rate: Positive = 2e-3,
    schedule_rate: Positive = 3e-3,
    average: Fraction = 0.995,
    steps: int = 4_000,
    batch_size: Count = 32,
) -> Experiment:
    """A small transformer of patches, or a U-Net of three levels, that predicts the noise; no labels.

    Args:
      network: what predicts the noise.
      width: numbers a patch, divisible by 4; channels of the U-Net's first level.
      layers: of the transformer.
      patch: pixels of a patch's side, a divisor of 28.
      frequencies: of the Fourier features, 2^8 the greatest; 2 in the paper.
      sigmoids: of the schedule; 1,024 in the paper.
      k: times an image at which the bound is measured.
      sampling_steps: of the ancestral sampler.
      learning_rate: Adam's, after a warm-up of 5 % of the steps; it falls to zero along a cosine.
      schedule_rate: Adam's for the schedule, along the same course.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: images in a batch.
    """
    data, values = mnist(), (2.0 * jnp.arange(LEVELS) + 1.0) / LEVELS - 1.0
    inner = UNet(width, (1, 2, 2)) if network == "unet" else DiT(layers, width, 4, patch)
    net, clock = NoisePredictor(inner, 9 - frequencies, 8), NoiseSchedule(sigmoids)
    grey = lambda process: of_levels(process, values)
    straight = between_ends(clock.gamma_0, clock.gamma_1)

    def parts(params):
        return schedule_of(clock, params["schedule"]), lambda z, gamma: net.apply(params["network"], z, gamma)

    def loss(params, state, batch, key):
        time_key, noise_key = jax.random.split(key)
        t, x = low_discrepancy(time_key, len(batch["image"])), encode(batch["image"])
        found = trained_bound(*parts(params), grey, x, t, noise_key)
        ends = {"gamma_0": parts(params)[0].gamma_0, "gamma_1": parts(params)[0].gamma_1}
        return Out(found.total(), {**found._asdict(), **ends})

    def once(state, x, key):
        time_key, noise_key = jax.random.split(key)
        return learned_bound(*parts(state.params), grey, x, low_discrepancy(time_key, len(x)), noise_key)

    def bound(state, batch, key):
        x = encode(batch["image"])
        found = jax.lax.map(lambda key: once(state, x, key), jax.random.split(key, k))
        terms = {name: bits_per_dim(term.mean(0), D) for name, term in found._asdict().items()}
        return {"bits": bits_per_dim(found.total().mean(0), D), "bound": found.total().mean(0), **terms}

    def denoise(params, label):  # of the straight schedule: the network is told -log SNR
        told = lambda z, t: parts(params)[1](z, -log_snr(straight, t))
        return denoiser(straight, noise, told)

    def sample(state, key, n):
        grid = uniform(straight, sampling_steps)
        return decode(sampled(straight, denoise(state.params, None), ancestral(), grid, key, (n, *SHAPE)))

    def drawn(state, key):
        t = jnp.linspace(0.0, 1.0, SIDE)
        gamma, _ = gamma_and_rate(parts(state.params)[0], t)
        return graph(gamma, gamma[0] + (gamma[-1] - gamma[0]) * t)

    def init(key, batch):
        keys = jax.random.split(key)
        x = encode(batch["image"])
        return {"network": net.init(keys[0], x, jnp.zeros(len(x))), "schedule": clock.init(keys[1], jnp.zeros(1))}

    course = lambda rate: optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, max(steps, 1))
    descent = {
        "network": optax.chain(optax.clip_by_global_norm(1_000.0), optax.adam(course(learning_rate))),
        "schedule": optax.adam(course(schedule_rate)),
    }
    tx = optax.chain(optax.partition(descent, {name: name for name in descent}), ema(average))
    kinds = {
        "bits": Quantity(f"upper bound, continuous, {k} times", "bits/dim"),
        "bound": Quantity(f"upper bound of -log p(x), continuous, {k} times", "nats"),
        "prior": Quantity("term of the bound", "bits/dim"),
        "diffusion": Quantity("term of the bound", "bits/dim"),
        "reconstruction": Quantity("term of the bound", "bits/dim"),
    }
    few = lambda split, count: split._replace(arrays=take(split.arrays, slice(count)))
    return Experiment(
        stages=[Stage("diffusion", minimize(loss, tx, init), batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(bound, few(data.validation, WATCHED), 250, kinds),
            "test": Evaluation(bound, few(data.test, 4 * WATCHED), 250, kinds, final=True),
        },
        sample=sample,
        pictures={"schedule": drawn},
        data=data.name,
        shown=36,
        denoising=Denoising(straight, denoise, SHAPE, encode, decode),
    )


def encode(images):  # level l of 0 .. 255 -> (2 l + 1) / 256 - 1
    return (2.0 * (LEVELS - 1) * images + 1.0) / LEVELS - 1.0


def decode(x):
    return jnp.clip((LEVELS * (x + 1.0) - 1.0) / (2.0 * (LEVELS - 1)), 0.0, 1.0)


def graph(curve, line):
    """Two curves [SIDE] over one range as a picture [1, SIDE, SIDE, 1], the first in black and the second in grey."""
    places = jnp.linspace(line[-1], line[0], SIDE)[:, None]
    near = lambda y, px: jnp.abs(places - y[None]) < px * (line[-1] - line[0]) / SIDE
    return jnp.where(near(curve, 1.5), 0.0, jnp.where(near(line, 0.8), 0.7, 1.0))[None, :, :, None]

"""Diffusion of CIFAR-10 by a U-Net: DDPM, and the same network under EDM's process; a recipe for a GPU.

Paper:    Ho, Jain and Abbeel, DDPM, 2020, arXiv:2006.11239: FID 3.17, at most 3.75 bits/dim (table 1); Karras et al.,
          EDM, 2022, arXiv:2206.00364: FID 1.97 without labels in 35 calls of a network of 56 M parameters (table 2)
Command:  genjax data prepare cifar10; genjax train experiments/ddpm_cifar10.py
          and with --recipe edm --learning-rate 1e-3 --warm-up 19500 --batch-size 512 --dropout 0.13 --average 0.9993
          --sampling-steps 18 --steps 390000
          for a look on a CPU: --width 32 --steps 2000 --average 0.999 --compute float32 --sampling-steps 50
Cost:     not yet measured
Measured: not yet; a recipe

The U-Net has four levels of 128, 256, 256, 256 channels, two blocks each, attention at 16x16; all 50,000 published
training images are trained on, each mirrored half of the time.  Of 1,000 steps of noise the limit is taken: times are
real numbers, and the sampler takes 1,000 steps of them.  EDM's own network is another, its augmentation is left out.

The Frechet distance in the report is of pixels, and stands beside no paper's.  FID is that of 50,000 samples in the
features of Inception, against all training images: draw them in parts, with

    for i in $(seq 0 99); do genjax sample RUN --n 500 --seed $i --out samples-$i.npz; done

and give the features of both, by whichever network is to be named, to `genjax.metrics.frechet`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from genjax import (
    Count,
    Denoising,
    Evaluation,
    Experiment,
    Fraction,
    Out,
    Positive,
    Quantity,
    Stage,
    ema,
    minimize,
)
from genjax.corruption.predictions import denoiser, noise, preconditioned
from genjax.corruption.schedules import edm, linear
from genjax.corruption.times import lognormal_times, uniform_times
from genjax.data import batches, cifar10, joined, take
from genjax.distributions import bits_per_dim
from genjax.likelihood.diffusion import continuous_bound, of_levels
from genjax.losses.augmentation import mirrored
from genjax.losses.denoising import denoising_loss, edm_weight, simple
from genjax.metrics.features import about, pixels
from genjax.metrics.samples import DISTANCES, distances
from genjax.models.unet import UNet
from genjax.samplers.ddim import ancestral
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import karras, uniform
from genjax.samplers.latents import tiles
from genjax.samplers.ode import heun

SHAPE, D, JUDGED, WATCHED, TIMES = (32, 32, 3), 3_072, 2_500, 500, 8
DEVIATION = 0.5  # of the pixels in [-1, 1]


def experiment(
    recipe: Literal["ddpm", "edm"] = "ddpm",
    width: Count = 128,
    dropout: Fraction = 0.1,
    compute: Literal["bfloat16", "float32"] = "bfloat16",
    sampling_steps: Count = 1_000,
    learning_rate: Positive = 2e-4,
    warm_up: int = 5_000,
    average: Fraction = 0.9999,
    steps: int = 800_000,
    batch_size: Count = 128,
) -> Experiment:
    """DDPM's U-Net without labels.

    Args:
      recipe: process, prediction, weight, times and sampler: DDPM's or EDM's.
      width: channels of the first level.
      dropout: in the blocks.
      compute: what the network computes in; parameters, noise and losses are float32.
      sampling_steps: of ancestral sampling, or of Heun's method: two calls of the network each.
      learning_rate: Adam's.
      warm_up: updates over which it rises from 0.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: images in a batch.
    """
    data, karras_et_al = cifar10(), recipe == "edm"
    process = edm() if karras_et_al else linear()
    prediction = preconditioned(DEVIATION) if karras_et_al else noise
    weight, times = (edm_weight(DEVIATION), lognormal_times) if karras_et_al else (simple, uniform_times)
    solver, grid = (heun(), karras) if karras_et_al else (ancestral(), uniform)
    grid, levels = grid(process, sampling_steps), of_levels(process, jnp.linspace(-1.0, 1.0, 256))
    net = UNet(width, (1, 2, 2, 2), attention=(1,), dropout=dropout, dtype=jnp.dtype(compute))

    def network(params, key=None):
        drawn = {} if key is None else {"deterministic": False, "rngs": {"dropout": key}}
        if karras_et_al:
            scaled = lambda z, t: ((t**2 + DEVIATION**2) ** -0.5).reshape(-1, 1, 1, 1) * z
            return lambda z, t: net.apply(params, scaled(z, t), 0.25 * jnp.log(t), None, **drawn)
        return lambda z, t: net.apply(params, z, 1000.0 * t, None, **drawn)

    denoise = lambda params, label: denoiser(process, prediction, network(params))

    def loss(params, state, batch, key):
        time_key, noise_key, drop_key, side_key = jax.random.split(key, 4)
        x = mirrored(2.0 * batch["image"] - 1.0, side_key)
        t, drawn = times(process, time_key, len(x)), jax.random.normal(noise_key, x.shape)
        return Out(denoising_loss(process, prediction, weight, network(params, drop_key), x, t, drawn) / D)

    def bound(state, batch, key):
        x, model = 2.0 * batch["image"] - 1.0, denoise(state.params, None)
        nats = continuous_bound(process, model, levels, TIMES, x, key).total()
        return {"bound": nats, "bits": bits_per_dim(nats, D)}

    def sample(state, key, n):
        return pictures(sampled(process, denoise(state.params, None), solver, grid, key, (n, *SHAPE)))

    def measure(state, batch, key):
        return {"real": batch["image"], "drawn": sample(state, key, len(batch["image"]))}

    def judged(rows):
        return distances(*(pixels().apply(rows[name]) for name in ("real", "drawn")))

    schedule = optax.linear_schedule(0.0, learning_rate, max(warm_up, 1))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule), ema(average))
    init = lambda key, batch: net.init(key, batch["image"], jnp.ones(len(batch["image"])))
    bounds = {
        "bound": Quantity(f"upper bound of -log p(x), continuous, {TIMES} times", "nats"),
        "bits": Quantity(f"upper bound, continuous, {TIMES} times", "bits/dim"),
    }
    kinds = {name: Quantity(f"{kind}; {about(pixels())}", "", better) for name, (kind, better) in DISTANCES.items()}
    few = lambda split, count: split._replace(arrays=take(split.arrays, slice(count)))
    train = joined(data.train, data.validation)
    return Experiment(
        stages=[Stage("diffusion", minimize(loss, tx, init), batches(train, batch_size), steps)],
        evaluations={
            "test": Evaluation(bound, few(data.test, WATCHED), 250, bounds),
            "test_all": Evaluation(bound, data.test, 250, bounds, final=True),
            "test_samples": Evaluation(measure, few(data.test, JUDGED), 250, kinds, final=True, of_all=judged),
        },
        sample=sample,
        pictures={"large": lambda state, key: tiles(sample(state, key, 16), 4, scale=4)},
        data=data.name,
        denoising=Denoising(process, denoise, SHAPE, lambda x: 2.0 * x - 1.0, pictures),
    )


def pictures(x):
    return jnp.clip(0.5 * x + 0.5, 0.0, 1.0)

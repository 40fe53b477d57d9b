"""Diffusion of CIFAR-10 by a transformer, DiT-S/2, with labels and guidance; a recipe for a GPU.

Paper:    Peebles and Xie, Scalable Diffusion Models with Transformers, 2023, arXiv:2212.09748; its numbers are of
          ImageNet's latents: none is published on these data
Command:  genjax data prepare cifar10; genjax train experiments/dit_cifar10.py
          for a look on a CPU: --layers 4 --width 64 --heads 2 --steps 2000 --average 0.999 --compute float32
Cost:     not yet measured
Measured: not yet; a recipe

Twelve layers of 384 numbers, 256 patches of 2x2 pixels, 33 M parameters; the learning rate does not change, and there
is no decay of weights, as in the paper.  Besides: pixels instead of latents, the velocity of a rectified flow with
logit-normal times instead of DDPM's noise (Ma et al., SiT, 2024, arXiv:2401.08740; Esser et al., 2024,
arXiv:2403.03206), and no variance is learned.  All 50,000 published training images are trained on, each mirrored half
of the time.

The Frechet distance in the report is of pixels; how FID is taken is told in ddpm_cifar10.py.
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
    NonNegative,
    Out,
    Positive,
    Quantity,
    Stage,
    ema,
    minimize,
)
from genjax.corruption.predictions import denoiser, velocity
from genjax.corruption.schedules import rectified_flow
from genjax.corruption.times import logit_normal_times
from genjax.data import batches, cifar10, joined, take
from genjax.distributions import bits_per_dim
from genjax.likelihood.diffusion import continuous_bound, of_levels
from genjax.losses.augmentation import mirrored
from genjax.losses.couplings import drop_labels
from genjax.losses.denoising import denoising_loss, flow_matching
from genjax.metrics.features import about, pixels
from genjax.metrics.samples import DISTANCES, distances
from genjax.models.conditional import check_labels
from genjax.models.dit import DiT
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform
from genjax.samplers.guidance import labelled
from genjax.samplers.latents import tiles
from genjax.samplers.ode import heun

SHAPE, D, JUDGED, WATCHED, TIMES = (32, 32, 3), 3_072, 2_500, 500, 8


def experiment(
    layers: Count = 12,
    width: Count = 384,
    heads: Count = 6,
    patch: Count = 2,
    compute: Literal["bfloat16", "float32"] = "bfloat16",
    guidance: NonNegative = 1.5,
    sampling_steps: Count = 50,
    unlabelled: Fraction = 0.1,
    learning_rate: Positive = 1e-4,
    average: Fraction = 0.9999,
    steps: int = 800_000,
    batch_size: Count = 256,
) -> Experiment:
    """DiT that predicts the velocity.

    Args:
      layers: of attention and MLP.
      width: numbers a patch.
      heads: of attention.
      patch: pixels of its side.
      compute: what the network computes in; parameters, noise and losses are float32.
      guidance: w of the samples: 0 without a label, 1 the label alone.
      sampling_steps: of Heun's method, four calls of the network each with guidance.
      unlabelled: share of the labels that are left out in training.
      learning_rate: AdamW's, without decay of weights.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: images in a batch.
    """
    data, process = cifar10(), rectified_flow(0.002, 0.998)
    classes = check_labels(data)
    net = DiT(layers, width, heads, patch, classes, dtype=jnp.dtype(compute))
    network = lambda params, label: lambda z, t: net.apply(params, z, 1000.0 * t, label)
    denoise = lambda params, label: denoiser(process, velocity, network(params, label))
    grid, levels = uniform(process, sampling_steps), of_levels(process, jnp.linspace(-1.0, 1.0, 256))

    def loss(params, state, batch, key):
        time_key, noise_key, label_key, side_key = jax.random.split(key, 4)
        x = mirrored(2.0 * batch["image"] - 1.0, side_key)
        label = drop_labels(batch["label"], classes, unlabelled, label_key)
        t, noise = logit_normal_times(process, time_key, len(x)), jax.random.normal(noise_key, x.shape)
        return Out(denoising_loss(process, velocity, flow_matching, network(params, label), x, t, noise) / D)

    def bound(state, batch, key):
        x, model = 2.0 * batch["image"] - 1.0, denoise(state.params, jnp.full(len(batch["image"]), classes))
        nats = continuous_bound(process, model, levels, TIMES, x, key).total()
        return {"bound": nats, "bits": bits_per_dim(nats, D)}

    def draw(state, key, label):
        by_label = lambda z, t, label: denoise(state.params, label)(z, t)
        model = denoise(state.params, label)
        if guidance != 1:
            model = labelled(by_label, label, jnp.asarray(classes), guidance)
        return pictures(sampled(process, model, heun(), grid, key, (len(label), *SHAPE)))

    def sample(state, key, n):  # one class after the other
        return draw(state, key, jnp.arange(n) % classes)

    def measure(state, batch, key):
        return {"real": batch["image"], "drawn": draw(state, key, batch["label"])}

    def judged(rows):
        return distances(*(pixels().apply(rows[name]) for name in ("real", "drawn")))

    def by_class(state, key):
        return tiles(draw(state, key, jnp.repeat(jnp.arange(classes), 4)), 4, scale=2)

    tx = optax.chain(optax.adam(learning_rate), ema(average))
    init = lambda key, batch: net.init(key, batch["image"], jnp.ones(len(batch["image"])), batch["label"])
    bounds = {
        "bound": Quantity(f"upper bound of -log p(x), continuous, {TIMES} times", "nats"),
        "bits": Quantity(f"upper bound, continuous, {TIMES} times", "bits/dim"),
    }
    of = f"{about(pixels())}; w = {guidance:g}"
    kinds = {name: Quantity(f"{kind}; {of}", "", better) for name, (kind, better) in DISTANCES.items()}
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
        pictures={"classes": by_class},
        data=data.name,
        denoising=Denoising(process, denoise, SHAPE, lambda x: 2.0 * x - 1.0, pictures, classes),
    )


def pictures(x):
    return jnp.clip(0.5 * x + 0.5, 0.0, 1.0)

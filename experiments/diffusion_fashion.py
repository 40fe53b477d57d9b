"""Diffusion of Fashion-MNIST or MNIST by three recipes: DDPM, EDM, flow matching; one U-Net, samples and a bound.

Paper:    Ho, Jain and Abbeel, DDPM, 2020, arXiv:2006.11239; Karras et al., EDM, 2022, arXiv:2206.00364; Lipman et al.,
          Flow Matching, 2023, arXiv:2210.02747; no published number on these data
Command:  genjax data prepare fashion_mnist; genjax train experiments/diffusion_fashion.py
          and with --recipe edm; --recipe flow; --images mnist
          distances in the features of a classifier: --features RUN, a run of classifier_mnist.py on the same images
Cost:     the default is meant for a GPU; --width 32 --steps 1000 --batch-size 32 --evaluate-every 1000: 12 min of
          training, 12 of measuring, on one core of an AMD EPYC, shared
Measured: with those and --features RUN, --recipe edm, commit ee633df, 2026-11-28: test -log p(x) <= 2,237 ± 11 nats,
          4.117 ± 0.020 bits/dim (continuous bound, 8 times an image, N=2,000, ema, step 1,000); 2,500 samples of 20
          Heun steps, w = 1: Frechet distance 58.0, precision 0.562, recall 0.517 in the features of classifier_mnist.py
          (--images fashion, 8.6 % errors); the other recipes and the default: not run

    recipe   process          predicts   weight          times          sampler
    ddpm     linear           noise      SNR             uniform        ancestral steps, as many as --sampling-steps
    edm      EDM              c_out F    EDM             log-normal     Heun on Karras's grid
    flow     rectified flow   velocity   of velocity     logit-normal   Heun

The bound of -log p is that of the pixels' 256 levels, without steps; without `--features` distances are of pixels.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

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
from genjax.corruption import predictions, schedules
from genjax.corruption.gaussian import Process
from genjax.corruption.predictions import Prediction, denoiser
from genjax.corruption.times import logit_normal_times, lognormal_times, uniform_times
from genjax.data import batches, fashion_mnist, mnist, take
from genjax.distributions import bits_per_dim
from genjax.feature_net import classifier_features
from genjax.likelihood.diffusion import continuous_bound, of_levels
from genjax.losses.couplings import drop_labels
from genjax.losses.denoising import denoising_loss, edm_weight, flow_matching, simple
from genjax.metrics.features import about, pixels
from genjax.metrics.samples import DISTANCES, distances
from genjax.models.conditional import check_labels
from genjax.models.unet import UNet
from genjax.samplers.ddim import ancestral
from genjax.samplers.diffusion import Solver, trajectory
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import karras, uniform
from genjax.samplers.guidance import labelled
from genjax.samplers.latents import tiles
from genjax.samplers.ode import heun

SHAPE, JUDGED, WATCHED, D, LEVELS, TIMES = (28, 28, 1), 2_500, 500, 784, 256, 8
DEVIATION = 0.7  # of the pixels in [-1, 1]


class Recipe(NamedTuple):
    """What a paper chose."""

    process: Process
    prediction: Prediction
    weight: Callable
    times: Callable
    level: Callable  # t -> what the network is told
    scale: Callable  # t -> what z is multiplied by
    solver: Solver
    grid: Callable


one: Any = lambda t: jnp.ones_like(t)
RECIPES = {
    "ddpm": lambda: Recipe(
        schedules.linear(), predictions.noise, simple, uniform_times, lambda t: 1000.0 * t, one, ancestral(), uniform
    ),
    "edm": lambda: Recipe(
        schedules.edm(),
        predictions.preconditioned(DEVIATION),
        edm_weight(DEVIATION),
        lognormal_times,
        lambda t: 0.25 * jnp.log(t),
        lambda t: (t**2 + DEVIATION**2) ** -0.5,
        heun(),
        karras,
    ),
    "flow": lambda: Recipe(
        schedules.rectified_flow(0.002, 0.998),
        predictions.velocity,
        flow_matching,
        logit_normal_times,
        lambda t: 1000.0 * t,
        one,
        heun(),
        uniform,
    ),
}


def experiment(
    images: Literal["fashion", "mnist"] = "fashion",
    recipe: Literal["ddpm", "edm", "flow"] = "edm",
    features: str = "",
    width: Count = 64,
    dropout: Fraction = 0.1,
    guidance: NonNegative = 1.0,
    sampling_steps: Count = 20,
    unlabelled: Fraction = 0.1,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 20_000,
    batch_size: Count = 64,
) -> Experiment:
    """A U-Net of three levels with labels.

    Args:
      images: the data set.
      recipe: process, prediction, weight, times and sampler.
      features: a run of classifier_mnist.py; empty: distances are those of pixels.
      width: channels of the first level.
      dropout: in the blocks.
      guidance: w of the samples: 1 the label alone.
      sampling_steps: of the sampler; one of DDPM needs hundreds.
      unlabelled: share of the labels that are left out in training.
      learning_rate: Adam's, after a warm-up of 5 % of the steps; it falls to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: images in a batch.
    """
    data = {"fashion": fashion_mnist, "mnist": mnist}[images]()
    classes, how = check_labels(data), RECIPES[recipe]()
    net = UNet(width, (1, 2, 2), attention=(2,), classes=classes, dropout=dropout)
    judge = classifier_features(features, data.name) if features else pixels()
    grid, levels = how.grid(how.process, sampling_steps), of_levels(how.process, jnp.linspace(-1.0, 1.0, LEVELS))
    none = lambda rows: jnp.full(len(rows), classes)

    def network(params, label, key=None):
        drawn = {} if key is None else {"deterministic": False, "rngs": {"dropout": key}}
        scaled = lambda z, t: how.scale(t).reshape(-1, 1, 1, 1) * z
        return lambda z, t: net.apply(params, scaled(z, t), how.level(t), label, **drawn)

    denoise = lambda params, label: denoiser(how.process, how.prediction, network(params, label))

    def loss(params, state, batch, key):
        time_key, noise_key, label_key, drop_key = jax.random.split(key, 4)
        x, label = 2.0 * batch["image"] - 1.0, drop_labels(batch["label"], classes, unlabelled, label_key)
        t, noise = how.times(how.process, time_key, len(x)), jax.random.normal(noise_key, x.shape)
        error = denoising_loss(how.process, how.prediction, how.weight, network(params, label, drop_key), x, t, noise)
        return Out(error / D)

    def bound(state, batch, key):
        x, model = 2.0 * batch["image"] - 1.0, denoise(state.params, none(batch["image"]))
        nats = continuous_bound(how.process, model, levels, TIMES, x, key).total()
        return {"bound": nats, "bits": bits_per_dim(nats, D)}

    def model_of(state, label):
        if guidance == 1:
            return denoise(state.params, label)
        by_label = lambda z, t, label: denoise(state.params, label)(z, t)
        return labelled(by_label, label, jnp.asarray(classes), guidance)

    def draw(state, key, label):
        shape = (len(label), *SHAPE)
        return pictures(sampled(how.process, model_of(state, label), how.solver, grid, key, shape))

    def sample(state, key, n):  # one class after the other
        return draw(state, key, jnp.arange(n) % classes)

    def measure(state, batch, key):
        return {"real": batch["image"], "drawn": draw(state, key, batch["label"])}

    def judged(rows):
        x, y = (judge.apply(rows[name]) for name in ("real", "drawn"))
        return distances(x, y)

    def by_class(state, key):
        return tiles(draw(state, key, jnp.repeat(jnp.arange(classes), 10)), 10, scale=2)

    def preview(state, key):  # what the network takes the pictures to be, along ten steps
        label = jnp.arange(8) % classes
        few = how.grid(how.process, 10)
        seen = trajectory(how.process, model_of(state, label), how.solver, few, key, (8, *SHAPE))
        return tiles(pictures(jnp.swapaxes(seen, 0, 1).reshape(-1, *SHAPE)), 10, scale=2)

    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule), ema(average))
    init = lambda key, batch: net.init(key, batch["image"], jnp.ones(len(batch["image"])), batch["label"])
    bounds = {
        "bound": Quantity(f"upper bound of -log p(x), continuous, {TIMES} times", "nats"),
        "bits": Quantity(f"upper bound, continuous, {TIMES} times", "bits/dim"),
    }
    kinds = {
        name: Quantity(f"{kind}; {about(judge)}; w = {guidance:g}", "", better)
        for name, (kind, better) in DISTANCES.items()
    }
    few = lambda split, count: split._replace(arrays=take(split.arrays, slice(count)))
    return Experiment(
        stages=[Stage("diffusion", minimize(loss, tx, init), batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(bound, few(data.validation, WATCHED), 250, bounds),
            "test": Evaluation(bound, few(data.test, 4 * WATCHED), 250, bounds, final=True),
            "test_samples": Evaluation(measure, few(data.test, JUDGED), 250, kinds, final=True, of_all=judged),
        },
        sample=sample,
        pictures={"classes": by_class, "steps": preview},
        data=data.name,
        denoising=Denoising(how.process, denoise, SHAPE, lambda x: 2.0 * x - 1.0, pictures, classes),
    )


def pictures(x):
    return jnp.clip(0.5 * x + 0.5, 0.0, 1.0)

"""Diffusion of points in the plane whose density is known: likelihoods and samples against the truth.

Paper:    Song et al., Score-Based Generative Modeling through SDEs, 2021, arXiv:2011.13456 (the density by an ODE);
          Kingma et al., Variational Diffusion Models, 2021, arXiv:2107.00630 (the bound); no published number
Command:  genjax train experiments/diffusion_points.py
Cost:     3 min on one core of an AMD EPYC, compilation and evaluation included
Measured: test -log p 1.134 ± 0.014 nats by the equation (N=5,000, ema, step 20,000), of the truth 1.120 ± 0.014; the
          bound 1.154 ± 0.024 (128 times a point); -log p of the truth of samples by 8 and 64 calls of the network:
          DDIM 1.40, 1.11, 2M 1.63, 1.18, Heun 3.26, 1.16, each ± 0.02 to 0.04, 2026-11-27

Eight normals of deviation 0.15 on a circle of radius 1.5.  Of test points the report has the exact -log p of the truth,
the model's by its probability-flow equation with an exact divergence, and the model's bound; of samples the -log p of
the truth, by each sampler and number of steps: at best it is the entropy of the truth, 8 steps of a low order are not.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Denoising, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.corruption import predictions
from genjax.corruption.schedules import cosine, rectified_flow
from genjax.corruption.times import uniform_times
from genjax.data import Split, batches, unchanged
from genjax.likelihood.diffusion import continuous_bound, of_reals
from genjax.likelihood.probability_flow import exact_divergence, log_density
from genjax.losses.couplings import paired_noise
from genjax.losses.denoising import denoising_loss, flow_matching, v_error
from genjax.models.points import PointDenoiser
from genjax.samplers.ddim import ddim, dpm_solver_2m
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform, uniform_log_snr
from genjax.samplers.ode import heun

MODES, RADIUS, DEVIATION, TRAIN, HELD_OUT = 8, 1.5, 0.15, 100_000, 5_000
FEW, MANY, TIMES, STEPS = 8, 64, 128, 100  # steps of samplers; times of the bound; steps of the density
SOLVERS = {"ddim": ddim(), "2m": dpm_solver_2m(), "heun": heun()}


def experiment(
    noising: Literal["cosine", "flow"] = "cosine",
    paired: bool = False,
    width: Count = 128,
    blocks: Count = 3,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 20_000,
    batch_size: Count = 256,
) -> Experiment:
    """A perceptron that predicts v along a quarter of a circle, or the velocity of straight lines.

    Args:
      noising: the forward process: variance preserving, or a rectified flow.
      paired: whether noise is paired with the points of a batch by optimal transport: then the bound is loose.
      width: of the perceptron.
      blocks: residual blocks.
      learning_rate: Adam's; it falls to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: points in a batch.
    """
    forward, prediction, weight = {
        "cosine": (cosine(0.01, 0.995), predictions.v, v_error),
        "flow": (rectified_flow(0.01, 0.995), predictions.velocity, flow_matching),
    }[noising]
    net, points = PointDenoiser(width, blocks), mixture(TRAIN + 2 * HELD_OUT)
    cuts = np.split(points, [TRAIN, TRAIN + HELD_OUT])
    train, validation, test = (Split({"x": part}, unchanged) for part in cuts)
    network = lambda params: lambda z, t: net.apply(params, z, 1000.0 * t)
    denoise = lambda params: predictions.denoiser(forward, prediction, network(params))

    def loss(params, state, batch, key):
        time_key, noise_key = jax.random.split(key)
        x, noise = batch["x"], jax.random.normal(noise_key, batch["x"].shape)
        noise = paired_noise(x, noise) if paired else noise
        t = uniform_times(forward, time_key, len(x))
        return Out(denoising_loss(forward, prediction, weight, network(params), x, t, noise))

    def bound(state, batch, key):
        found = continuous_bound(forward, denoise(state.params), of_reals(forward), TIMES, batch["x"], key)
        return {"bound": found.total(), "true": -log_truth(batch["x"])}

    def density(params, x):
        grid = uniform_log_snr(forward, STEPS)
        return log_density(forward, denoise(params), grid, exact_divergence, x)

    def exact(state, batch, key):
        found = {**bound(state, batch, key), "flow": -density(state.params, batch["x"])}
        for name, solver in SOLVERS.items():
            for n in (FEW, MANY):  # a step of Heun's asks the network twice
                grid = uniform(forward, n // 2 if name == "heun" else n)
                drawn = sampled(forward, denoise(state.params), solver, grid, key, batch["x"].shape)
                found[f"drawn_{name}_{n}"] = -log_truth(drawn)
        return found

    def sample(state, key, n):
        return sampled(forward, denoise(state.params), dpm_solver_2m(), uniform(forward, MANY), key, (n, 2))

    def densities(state, key):  # of the truth above, of the model below
        places = plane()
        both = (log_truth(places), density(state.params, places))
        return jnp.stack([jnp.exp(one - 0.5).clip(0.0, 1.0).reshape(1, SIDE, SIDE, 1) for one in both])

    tx = optax.chain(optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1))), ema(average))
    learner = minimize(loss, tx, lambda key, batch: net.init(key, batch["x"], jnp.zeros(len(batch["x"]))))
    kinds = {
        "bound": Quantity(f"upper bound of -log p(x), {TIMES} times", "nats"),
        "true": Quantity("exact, of the truth", "nats"),
    }
    more = {
        "flow": Quantity(f"estimate by the probability-flow equation, {STEPS} steps, exact divergence", "nats"),
        **{
            f"drawn_{name}_{n}": Quantity(f"exact -log p of the truth, of samples by {n} calls of the network", "nats")
            for name in SOLVERS
            for n in (FEW, MANY)
        },
    }
    return Experiment(
        stages=[Stage("diffusion", learner, batches(train, batch_size), steps, steps_per_call=50)],
        evaluations={
            "validation": Evaluation(bound, validation, 1_000, kinds),
            "test": Evaluation(exact, test, 1_000, {**kinds, **more}, final=True),
        },
        sample=sample,
        pictures={"density": densities},
        formats={".csv": lambda points: "\n".join(f"{x:.6f},{y:.6f}" for x, y in points).encode() + b"\n"},
        data=f"{MODES} normals on a circle",
        denoising=Denoising(forward, lambda params, label: denoise(params), (2,), jnp.asarray, jnp.asarray),
    )


SIDE = 64


def centres():
    angles = 2 * np.pi * np.arange(MODES) / MODES
    return RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def mixture(count):
    """Points [count, 2], float32, the same in every run."""
    rng = np.random.default_rng(0)
    return (centres()[rng.integers(MODES, size=count)] + DEVIATION * rng.normal(size=(count, 2))).astype(np.float32)


def log_truth(x):
    """log p of points [B, 2], nats."""
    away = jnp.sum((x[:, None] - jnp.float32(centres())[None]) ** 2, axis=2)
    each = -0.5 * away / DEVIATION**2 - np.log(2 * np.pi * DEVIATION**2 * MODES)
    return jax.nn.logsumexp(each, axis=1)


def plane():
    """The points of a picture [SIDE^2, 2], from the upper left."""
    line = np.linspace(-2.2, 2.2, SIDE, dtype=np.float32)
    return jnp.asarray(np.stack(np.meshgrid(line, line[::-1]), axis=-1).reshape(-1, 2))

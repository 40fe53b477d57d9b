"""Points in the plane again: one run at a constant learning rate, whose average's width is chosen when it is over.

Paper:    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, 2024, arXiv:2312.02696,
          section 3; of pictures, so that no published number applies here
Command:  genjax train experiments/average_points.py --workdir runs/average
          then: genjax evaluate runs/average --widths 0.01 0.03 0.05 0.1 0.2
          and: genjax sample runs/average --width 0.1 --out points.csv
Cost:     about 90 s of processor time of one core of an AMD EPYC that thirty other processes shared, 20 for five widths
Measured: test, divergence from the truth (estimated) 0.0914 ± 0.0056 nats by the last parameters, by averages of width
          0.01, 0.03, 0.05, 0.1, 0.2 0.0433, 0.0383, 0.0367, 0.0350, 0.0410, each ± 0.003, by the same points (N=5,000,
          step 10,000); by the validation points 0.1 is the best too, 0.0314, 2026-11-28

The data and their density are those of diffusion_points.py.  The step size never falls, so that the parameters end on a
noisy path about what they have learned; an average smooths it, a wide one smooths more and lags more.  Two averages are
kept and copied along the way, and those of other widths are solved for afterwards (`genjax.power_averages`).  What is
measured is how much the model's -log p of test points, by its probability-flow equation, exceeds that of the truth.
"""

import jax
import numpy as np
import optax
from diffusion_points import HELD_OUT, MODES, TRAIN, log_truth, mixture

from genjax import Count, Evaluation, Experiment, Out, Positive, Quantity, Stage, minimize
from genjax.corruption import predictions
from genjax.corruption.schedules import cosine
from genjax.corruption.times import uniform_times
from genjax.data import Split, batches, unchanged
from genjax.likelihood.probability_flow import exact_divergence, log_density
from genjax.losses.denoising import denoising_loss, v_error
from genjax.models.points import PointDenoiser
from genjax.power_averages import power_averages
from genjax.samplers.ddim import dpm_solver_2m
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform, uniform_log_snr

FORWARD, COPIES, STEPS, CALLS = cosine(0.01, 0.995), 20, 50, 64  # of averages; of the density; of the sampler


def experiment(
    width: Count = 128,
    blocks: Count = 3,
    learning_rate: Positive = 1e-3,
    steps: int = 10_000,
    batch_size: Count = 256,
) -> Experiment:
    """A perceptron that predicts v along a quarter of a circle; the run's own numbers are those of its last parameters.

    Args:
      width: of the perceptron.
      blocks: residual blocks.
      learning_rate: Adam's, constant.
      steps: updates.
      batch_size: points in a batch.
    """
    net = PointDenoiser(width, blocks)
    cuts = np.split(mixture(TRAIN + 2 * HELD_OUT), [TRAIN, TRAIN + HELD_OUT])
    train, validation, test = (Split({"x": part}, unchanged) for part in cuts)
    network = lambda params: lambda z, t: net.apply(params, z, 1000.0 * t)
    denoise = lambda params: predictions.denoiser(FORWARD, predictions.v, network(params))

    def loss(params, state, batch, key):
        time_key, noise_key = jax.random.split(key)
        x, noise = batch["x"], jax.random.normal(noise_key, batch["x"].shape)
        t = uniform_times(FORWARD, time_key, len(x))
        return Out(denoising_loss(FORWARD, predictions.v, v_error, network(params), x, t, noise))

    def excess(state, batch, key):
        grid = uniform_log_snr(FORWARD, STEPS)
        found = log_density(FORWARD, denoise(state.params), grid, exact_divergence, batch["x"])
        return {"excess": log_truth(batch["x"]) - found}

    def sample(state, key, n):
        return sampled(FORWARD, denoise(state.params), dpm_solver_2m(), uniform(FORWARD, CALLS), key, (n, 2))

    tx = optax.chain(optax.adam(learning_rate), power_averages(max(steps // COPIES, 1), COPIES))
    learner = minimize(loss, tx, lambda key, batch: net.init(key, batch["x"], jax.numpy.zeros(len(batch["x"]))))
    kind = f"estimate of the divergence of the model from the truth, probability-flow equation, {STEPS} steps"
    kinds = {"excess": Quantity(kind, "nats")}
    return Experiment(
        stages=[Stage("diffusion", learner, batches(train, batch_size), steps, steps_per_call=50)],
        evaluations={
            "validation": Evaluation(excess, validation, 1_000, kinds),
            "test": Evaluation(excess, test, 1_000, kinds, final=True),
        },
        sample=sample,
        formats={".csv": lambda points: "\n".join(f"{x:.6f},{y:.6f}" for x, y in points).encode() + b"\n"},
        data=f"{MODES} normals on a circle",
    )

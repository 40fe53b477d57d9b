"""Points in the plane by one, two or four calls: a diffusion model, then its consistency distillation.

Paper:    Song, Dhariwal, Chen and Sutskever, Consistency Models, 2023, arXiv:2303.01469; of pictures, so that no
          published number applies here
Command:  genjax train experiments/consistency_points.py
Cost:     3 min 6 of processor time on one core of an AMD EPYC that other work shared, compilation included
Measured: test energy distance from the data by 1, 2, 4 calls of the student 0.0002 ± 0.0011, 0.0008 ± 0.0013,
          -0.0001 ± 0.0006, of the teacher by DDIM 1.061, 0.182, 0.0140, by 64 calls 0.0004 ± 0.0011; of other points of
          the data -0.0010 ± 0.0005 (N=5,000, ema, step 10,000 of both stages), 2026-11-27

The data and their density are those of diffusion_points.py.  The first stage trains the teacher, with EDM's predictions
along a quarter of a circle.  The second begins with the teacher's weights and learns to go along the teacher's paths at
once; teacher and target network are carried along.  What is drawn is compared with test points by the energy distance,
beside the teacher's own DDIM at as many calls of the network, and at many more.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffusion_points import DEVIATION, HELD_OUT, MODES, RADIUS, TRAIN, mixture

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, averaged, ema, minimize
from genjax.corruption.predictions import denoiser, preconditioned
from genjax.corruption.schedules import cosine
from genjax.corruption.times import uniform_times
from genjax.data import Split, batches, unchanged
from genjax.losses.consistency import (
    adjacent_times,
    consistency_function,
    distillation_loss,
    follow,
    heun_step,
    pseudo_huber,
)
from genjax.losses.denoising import denoising_loss, v_error
from genjax.metrics.energy_distance import energy_distance
from genjax.models.points import PointDenoiser
from genjax.samplers.consistency import multistep
from genjax.samplers.ddim import ddim
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform

CALLS, MANY, JUDGED = (1, 2, 4), 64, 1_000  # calls of the network; of the teacher alone; points of a subset
FORWARD = cosine(0.01, 0.995)
UNIT = float(np.sqrt(RADIUS**2 / 2 + DEVIATION**2))  # deviation of a coordinate of the data


def experiment(
    width: Count = 128,
    blocks: Count = 3,
    levels: Count = 40,
    decay: Fraction = 0.95,
    huber: Positive = 0.03,
    learning_rate: Positive = 1e-3,
    distillation_rate: Positive = 5e-4,
    average: Fraction = 0.999,
    steps: int = 10_000,
    distillation_steps: int = 10_000,
    batch_size: Count = 256,
) -> Experiment:
    """A teacher, and a student that does in one call what the teacher does in `levels` steps.

    Args:
      width: of both perceptrons.
      blocks: residual blocks.
      levels: times of the grid that the student is distilled on.
      decay: of the target network.
      huber: c of the pseudo-Huber distance.
      learning_rate: Adam's for the teacher; it falls to zero along a cosine.
      distillation_rate: for the student.
      average: decay of the moving averages that are distilled, evaluated and sampled from.
      steps: updates of the teacher.
      distillation_steps: updates of the student.
      batch_size: points in a batch.
    """
    net, prediction = PointDenoiser(width, blocks), preconditioned(UNIT)
    cuts = np.split(mixture(TRAIN + 2 * HELD_OUT), [TRAIN, TRAIN + HELD_OUT])
    train, validation, test = (Split({"x": part}, unchanged) for part in cuts)
    grid, distance = uniform(FORWARD, levels), pseudo_huber(huber)
    network = lambda params: lambda z, t: net.apply(params, z, 1000.0 * t)
    denoise = lambda params: denoiser(FORWARD, prediction, network(params))
    consistent = lambda params: consistency_function(FORWARD, UNIT, network(params))

    def denoising(params, state, batch, key):
        time_key, noise_key = jax.random.split(key)
        x, noise = batch["x"], jax.random.normal(noise_key, batch["x"].shape)
        t = uniform_times(FORWARD, time_key, len(x))
        return Out(denoising_loss(FORWARD, prediction, v_error, network(params), x, t, noise))

    def distillation(params, state, batch, key):
        time_key, noise_key = jax.random.split(key)
        x, noise = batch["x"], jax.random.normal(noise_key, batch["x"].shape)
        t, earlier = adjacent_times(FORWARD, grid, time_key, len(x))
        teacher, target = state.carry["teacher"], follow(state.carry["target"], params, decay)
        walk = lambda z, t, earlier: heun_step(FORWARD, denoise(teacher), z, t, earlier)
        student, frozen = consistent(params), consistent(target)
        loss = distillation_loss(FORWARD, walk, student, frozen, distance, x, t, earlier, noise)
        return Out(loss, carry={"teacher": teacher, "target": target})

    def inherit(previous, fresh):
        teacher = averaged(previous.params, previous.opt_state)
        return fresh._replace(params=teacher, carry={"teacher": teacher, "target": teacher})

    def few(solver, f, calls, key, n):
        return sampled(FORWARD, f, solver, uniform(FORWARD, calls + 1)[:-1], key, (n, 2))

    def students(state, batch, key):
        n = len(batch["x"])
        drawn = {f"consistency_{c}": few(multistep(), consistent(state.params), c, key, n) for c in CALLS}
        return {"real": batch["x"], **drawn}

    def everything(state, batch, key):
        teacher, n = denoise(state.carry["teacher"]), len(batch["x"])
        drawn = {f"ddim_{c}": few(ddim(), teacher, c, key, n) for c in (*CALLS, MANY)}
        again = jnp.asarray(validation.arrays["x"])[: len(batch["x"])]
        return {**students(state, batch, key), **drawn, "points": again}

    def judged(rows):
        return {name: energy_distance(rows["real"], drawn, JUDGED) for name, drawn in rows.items() if name != "real"}

    def tx(rate, updates):
        return optax.chain(optax.adam(optax.cosine_decay_schedule(rate, max(updates, 1))), ema(average))

    init = lambda key, batch: net.init(key, batch["x"], jnp.zeros(len(batch["x"])))
    first = minimize(denoising, tx(learning_rate, steps), init)
    frozen = lambda key, params, batch: {"teacher": params, "target": params}
    second = minimize(distillation, tx(distillation_rate, distillation_steps), init, frozen)
    estimate = lambda of: Quantity(f"estimate of the energy distance from the split, {of}", "")
    of_student = {f"consistency_{c}": estimate(f"calls of the student: {c}") for c in CALLS}
    of_teacher = {f"ddim_{c}": estimate(f"calls of the teacher: {c}") for c in (*CALLS, MANY)}
    of_all = {**of_student, **of_teacher, "points": estimate("of other points of the data")}
    source = batches(train, batch_size)
    return Experiment(
        stages=[
            Stage("teacher", first, source, steps, steps_per_call=50),
            Stage("student", second, source, distillation_steps, inherit, steps_per_call=50),
        ],
        evaluations={
            "validation": Evaluation(students, validation, HELD_OUT, of_student, of_all=judged),
            "test": Evaluation(everything, test, HELD_OUT, of_all, final=True, of_all=judged),
        },
        sample=lambda state, key, n: few(multistep(), consistent(state.params), CALLS[-1], key, n),
        formats={".csv": lambda points: "\n".join(f"{x:.6f},{y:.6f}" for x, y in points).encode() + b"\n"},
        data=f"{MODES} normals on a circle",
    )

"""Handwritten digits by one, two or four calls: a diffusion model with labels, then its consistency distillation.

Paper:    Song, Dhariwal, Chen and Sutskever, Consistency Models, 2023, arXiv:2303.01469; on other pictures, so that no
          published number applies here
Command:  genjax train experiments/classifier_mnist.py --images digits --steps 1500 --workdir runs/judge
          then: genjax train experiments/consistency_digits.py --features runs/judge
Cost:     about 2 min of processor time of one core of an AMD EPYC that other work shared
Measured: Frechet distance of 1,297 samples from the training digits in the features of that classifier (0.8 % errors):
          by 1, 2, 4 calls of the student 12.3, 13.0, 13.0; of the teacher by DDIM 76.4, 25.1, 13.3, by 50 calls 10.8;
          of held-out digits 3.6 (ema, step 6,000 of both stages), 2026-11-28

Both networks are perceptrons of the 64 pixels, trained offline in minutes.  The student goes along the teacher's paths
at once, as in consistency_points.py.  The loss is divided by c_out, so that the network weighs the same at all levels
of noise, as in EDM (Karras et al., 2022, arXiv:2206.00364): with equal weights what is learned about little noise was
lost, and by 1, 2, 4 calls the distances were 25.0, 34.2, 41.1, by the same seed.

Digits are drawn class by class and compared with the training digits by the Frechet distance in a classifier's
features, beside the teacher's own DDIM at as many calls and at 50, and beside the held-out digits, of which there are
fewer: their distance is too large by that, and so no lower bound of the others.
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
    Fraction,
    Out,
    Positive,
    Quantity,
    Stage,
    averaged,
    ema,
    minimize,
)
from genjax.corruption.predictions import denoiser, preconditioned
from genjax.corruption.schedules import cosine
from genjax.corruption.times import uniform_times
from genjax.data import batches, digits
from genjax.feature_net import classifier_features
from genjax.losses.consistency import (
    adjacent_times,
    consistency_function,
    distillation_loss,
    follow,
    heun_step,
    pseudo_huber,
)
from genjax.losses.denoising import denoising_loss, v_error
from genjax.metrics.features import about, pixels
from genjax.metrics.frechet import frechet_distance, moments
from genjax.models.points import PointDenoiser
from genjax.samplers.consistency import multistep
from genjax.samplers.ddim import ddim
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform
from genjax.samplers.latents import tiles

CALLS, MANY, D, CLASSES = (1, 2, 4), 50, 64, 10  # calls of the network; of the teacher alone
FORWARD, DEVIATION = cosine(0.01, 0.995), 0.75  # of the pixels in [-1, 1]


def experiment(
    features: str = "",
    width: Count = 128,
    blocks: Count = 3,
    levels: Count = 18,
    decay: Fraction = 0.95,
    huber: Positive = 0.03,
    learning_rate: Positive = 1e-3,
    distillation_rate: Positive = 5e-4,
    average: Fraction = 0.999,
    steps: int = 6_000,
    distillation_steps: int = 6_000,
    batch_size: Count = 64,
) -> Experiment:
    """A teacher, and a student that does in one call what the teacher does in `levels` steps.

    Args:
      features: a run of classifier_mnist.py of these digits; empty: distances are those of pixels.
      width: of both perceptrons.
      blocks: residual blocks.
      levels: times of the grid that the student is distilled on, at least 5: it is asked at four of them.
      decay: of the target network.
      huber: c of the pseudo-Huber distance.
      learning_rate: Adam's for the teacher; it falls to zero along a cosine.
      distillation_rate: for the student.
      average: decay of the moving averages that are distilled, evaluated and sampled from.
      steps: updates of the teacher.
      distillation_steps: updates of the student.
      batch_size: digits in a batch.
    """
    if levels <= CALLS[-1]:  # of fewer, calls would fall on one time
        raise BadInput(f"levels = {levels}", f"allowed: whole numbers from {CALLS[-1] + 1}")
    data, net, prediction = digits(), PointDenoiser(width, blocks, CLASSES), preconditioned(DEVIATION)
    judge = classifier_features(features, data.name) if features else pixels()
    grid, distance = uniform(FORWARD, levels), pseudo_huber(huber)
    network = lambda params, label: lambda z, t: net.apply(params, z, 1000.0 * t, label)
    denoise = lambda params, label: denoiser(FORWARD, prediction, network(params, label))
    consistent = lambda params, label: consistency_function(FORWARD, DEVIATION, network(params, label))
    c_out = lambda t: consistency_function(FORWARD, DEVIATION, lambda z, t: 1.0 + 0.0 * z)(jnp.zeros((len(t), 1)), t)

    def noised(batch, key):
        x = points(batch["image"])
        return x, batch["label"], jax.random.normal(key, x.shape)

    def denoising(params, state, batch, key):
        time_key, noise_key = jax.random.split(key)
        x, label, noise = noised(batch, noise_key)
        t = uniform_times(FORWARD, time_key, len(x))
        return Out(denoising_loss(FORWARD, prediction, v_error, network(params, label), x, t, noise))

    def distillation(params, state, batch, key):
        time_key, noise_key = jax.random.split(key)
        x, label, noise = noised(batch, noise_key)
        t, earlier = adjacent_times(FORWARD, grid, time_key, len(x))
        teacher, target = state.carry["teacher"], follow(state.carry["target"], params, decay)
        walk = lambda z, t, earlier: heun_step(FORWARD, denoise(teacher, label), z, t, earlier)
        f, frozen = consistent(params, label), consistent(target, label)
        loss = distillation_loss(FORWARD, walk, f, frozen, distance, x, t, earlier, noise)
        return Out(loss / c_out(t)[:, 0], carry={"teacher": teacher, "target": target})

    def inherit(previous, fresh):
        teacher = averaged(previous.params, previous.opt_state)
        return fresh._replace(params=teacher, carry={"teacher": teacher, "target": teacher})

    def student(state, key, label, c):  # at times of its grid: between them it has learned nothing
        at = grid[np.linspace(0, levels - 1, c + 1).round().astype(int)[:-1]]
        return pictures(sampled(FORWARD, consistent(state.params, label), multistep(), at, key, (len(label), D)))

    def teacher(state, key, label, c):
        f, at = denoise(state.carry["teacher"], label), uniform(FORWARD, c + 1)[:-1]
        return pictures(sampled(FORWARD, f, ddim(), at, key, (len(label), D)))

    def by_student(state, key, label):
        return {f"consistency_{c}": student(state, key, label, c) for c in CALLS}

    def by_teacher(state, key, label):
        return {f"ddim_{c}": teacher(state, key, label, c) for c in (*CALLS, MANY)}

    def students(state, batch, key):
        return {"real": batch["image"], **by_student(state, key, batch["label"])}

    def everything(state, batch, key):
        return {**students(state, batch, key), **by_teacher(state, key, batch["label"])}

    def judged(rows):
        found = {name: moments(judge.apply(images)) for name, images in rows.items()}
        return {name: frechet_distance(found["real"], of) for name, of in found.items() if name != "real"}

    def with_held_out(rows):
        rest = np.concatenate([split.arrays["image"] for split in (data.validation, data.test)])
        return judged({**rows, "held_out": rest.astype(np.float32) / (data.levels - 1)})

    def calls(state, key):  # a line each: 1, 2, 4 calls of the student, then 1, 2, 4, 50 of the teacher
        label = jnp.arange(CLASSES)
        rows = [*by_student(state, key, label).values(), *by_teacher(state, key, label).values()]
        return tiles(jnp.pad(jnp.concatenate(rows), ((0, 0), (0, 1), (0, 1), (0, 0))), CLASSES, scale=4)

    def sample(state, key, n):  # one class after the other
        return student(state, key, jnp.arange(n) % CLASSES, CALLS[-1])

    def tx(rate, updates):
        return optax.chain(optax.adam(optax.cosine_decay_schedule(rate, max(updates, 1))), ema(average))

    init = lambda key, batch: net.init(key, points(batch["image"]), jnp.zeros(len(batch["label"])), batch["label"])
    frozen = lambda key, params, batch: {"teacher": params, "target": params}
    first = minimize(denoising, tx(learning_rate, steps), init)
    second = minimize(distillation, tx(distillation_rate, distillation_steps), init, frozen)
    frechet = lambda of: Quantity(f"Frechet distance; {about(judge)}; {of}", "")
    of_student = {f"consistency_{c}": frechet(f"calls of the student: {c}") for c in CALLS}
    of_teacher = {f"ddim_{c}": frechet(f"calls of the teacher: {c}") for c in (*CALLS, MANY)}
    of_all = {**of_student, **of_teacher, "held_out": frechet("of the 500 held-out digits")}
    source = batches(data.train, batch_size)
    return Experiment(
        stages=[
            Stage("teacher", first, source, steps, steps_per_call=20),
            Stage("student", second, source, distillation_steps, inherit, steps_per_call=20),
        ],
        evaluations={
            "validation": Evaluation(students, data.validation, 250, of_student, of_all=judged),
            "train": Evaluation(everything, data.train, 500, of_all, final=True, of_all=with_held_out),
        },
        sample=sample,
        pictures={"calls": calls},
        data=data.name,
    )


def points(images):
    return 2.0 * images.reshape(-1, D) - 1.0


def pictures(x):
    return jnp.clip(0.5 * x + 0.5, 0.0, 1.0).reshape(-1, 8, 8, 1)

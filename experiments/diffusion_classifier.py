"""A diffusion model of digits and their labels as a classifier, and as a judge of a digit that it never saw; offline.

Paper:    Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier, 2023, arXiv:2303.16203; Mahmood, Oliva and
          Styner, Multiscale Score Matching for Out-of-Distribution Detection, 2021, arXiv:2010.13132; no number of both
          on these digits
Command:  genjax train experiments/diffusion_classifier.py
          genjax sweep experiments/diffusion_classifier.py held_out=0:6 --steps 3000 --times 16
Cost:     62 s of a shared core, 56 s more compiling, 53 s evaluating
Measured: digits, all labels, test (N=250, ema, step 8,000): 1.2 ± 0.7 % errors, 0.043 ± 0.029 nats, calibration error
          1.0 %; with random numbers of its own for each label 2.4 ± 1.0 % errors; -log p <= 144.7 ± 1.3 nats, which the
          U-Net of diffusion_digits.py shows to be far from the best (97.5), 2026-11-28; AUROC of a digit held out (six
          of ten tried, ema, step 3,000, 177 to 183 anomalies against 220 to 230 others, standard errors at most 0.019):

    digit            0     1     2     3     4     5    mean
    bound          0.954 0.765 0.976 0.849 0.976 0.967  0.914
    score_low      0.968 0.744 0.990 0.865 0.994 0.979  0.923
    score_middle   0.990 0.844 0.992 0.919 0.993 0.984  0.954
    score_high     0.992 0.911 0.984 0.898 0.986 0.977  0.958
    nearest        0.999 0.967 0.999 0.987 0.998 0.993  0.991

The label whose bound of log p(x | y) is the largest is the answer, all labels being even.  The bounds of all labels are
estimated by the same times and noise, which cancel in their differences; `apart` says what becomes of the errors when
each label has times and noise of its own: with 16 times, without zeros, 20.5 ± 2.7 % in place of 1.8 ± 0.9.

With a digit held out, AUROC of scores that are larger for what is less normal, by the model without a label: the upper
bound of -log p(x), the norm of the score at three levels of noise, and, what they have to beat and do not, the distance
to the nearest training image.
"""

import jax
import jax.numpy as jnp
import optax
from vae_anomaly import divided_if, told_apart

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.corruption.predictions import denoiser, v
from genjax.corruption.schedules import cosine
from genjax.corruption.times import uniform_times
from genjax.data import batches, digits
from genjax.likelihood.by_label import of_each_label
from genjax.likelihood.diffusion import continuous_bound, of_levels
from genjax.losses.couplings import drop_labels
from genjax.losses.denoising import denoising_loss, v_error
from genjax.metrics.anomaly import diffusion_score_norm, nearest_square
from genjax.metrics.calibration import CLASSIFICATION, classification
from genjax.models.conditional import check_labels
from genjax.models.points import PointDenoiser
from genjax.samplers.ddim import dpm_solver_2m
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform

D, LEVELS, STEPS = 64, 17, 30  # steps of the sampler
LOOKS = {"score_low": 0.1, "score_middle": 0.3, "score_high": 0.6}  # times


def experiment(
    held_out: int = -1,
    width: Count = 192,
    blocks: Count = 3,
    unlabelled: Fraction = 0.2,
    times: Count = 64,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 8_000,
    batch_size: Count = 100,
) -> Experiment:
    """A residual perceptron that predicts v, with labels or without.

    Args:
      held_out: a digit that is not trained on: its images, of all splits, are anomalies among the rest; -1: none.
      width: of the perceptron.
      blocks: residual blocks.
      unlabelled: share of the labels that are left out in training.
      times: of each bound.
      learning_rate: Adam's, after a warm-up of 5 % of the steps; it falls to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: digits in a batch.
    """
    data, process = digits(), cosine(0.01, 0.995)
    train, validation, test, anomalies = divided_if(data, held_out)
    classes = check_labels(data) - (held_out >= 0)
    net = PointDenoiser(width, blocks, classes)
    network = lambda params, label: lambda z, t: net.apply(params, z, 1000.0 * t, label)
    denoise = lambda params, label: denoiser(process, v, network(params, label))
    none = lambda x: jnp.full(len(x), classes)
    levels = of_levels(process, jnp.linspace(-1.0, 1.0, LEVELS))

    def loss(params, state, batch, key):
        time_key, noise_key, label_key = jax.random.split(key, 3)
        x, label = scaled(batch["image"]), drop_labels(batch["label"], classes, unlabelled, label_key)
        t, noise = uniform_times(process, time_key, len(x)), jax.random.normal(noise_key, x.shape)
        return Out(denoising_loss(process, v, v_error, network(params, label), x, t, noise))

    def bound(params, x, label, key):  # upper, of -log p(x | label)
        return continuous_bound(process, denoise(params, label), levels, times, x, key).total()

    def answers(state, batch, key):
        x, keys = scaled(batch["image"]), jax.random.split(key)
        lower = lambda x, label, key: -bound(state.params, x, label, key)
        own = lambda x, label, key: lower(x, label, jax.random.fold_in(key, label[0]))
        logits = of_each_label(lower, classes, x, keys[0])
        blind = bound(state.params, x, none(x), keys[1])
        found = {"logits": logits, "own": of_each_label(own, classes, x, keys[0]), "bound": blind}
        return {**found, "label": batch["label"]}

    def of_all(rows):
        told = classification(rows["logits"], rows["label"])
        e = rows["bound"].astype(float)
        apart = classification(rows["own"], rows["label"])["error"]
        return {**told, "apart": apart, "bound": (float(e.mean()), float(e.std(ddof=1) / len(e) ** 0.5))}

    def scores(state, x, key):
        params, x = state.params, scaled(x)
        by = {name: diffusion_score_norm(process, denoise(params, none(x)), t, x) for name, t in LOOKS.items()}
        seen = scaled(jnp.asarray(train.arrays["image"], jnp.float32) / (LEVELS - 1))
        return {"bound": bound(params, x, none(x), key), **by, "nearest": nearest_square(seen, x)}

    def sample(state, key, n):  # one class after the other
        model = denoise(state.params, jnp.arange(n) % classes)
        z = sampled(process, model, dpm_solver_2m(), uniform(process, STEPS), key, (n, D))
        return jnp.clip(0.5 * z + 0.5, 0.0, 1.0).reshape(n, 8, 8, 1)

    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule), ema(average))
    init = lambda key, batch: net.init(key, scaled(batch["image"]), jnp.zeros(len(batch["image"])), batch["label"])
    by_bayes = f"estimate, by Bayes' rule from bounds of log p(x | label), {times} times, even odds"
    told = {name: Quantity(by_bayes, unit) for name, (_, unit) in CLASSIFICATION.items()}
    told["apart"] = Quantity("estimate, share of wrong answers, each label with random numbers of its own", "%")
    told["bound"] = Quantity(f"upper bound of -log p(x), continuous, {times} times", "nats")
    evaluations = {
        "validation": Evaluation(answers, validation, 250, told, of_all=of_all),
        "test": Evaluation(answers, test, 250, told, final=True, of_all=of_all),
    }
    if held_out >= 0:
        area = Quantity(f"digit {held_out} against {len(test.arrays['label'])} of the others", "AUROC", "higher")
        areas = dict.fromkeys(("bound", *LOOKS, "nearest"), area)
        evaluations["auroc"] = Evaluation(told_apart(test, scores), anomalies, 250, areas, final=True)
    return Experiment(
        stages=[Stage("diffusion", minimize(loss, tx, init), batches(train, batch_size), steps, steps_per_call=50)],
        evaluations=evaluations,
        sample=sample,
        data=data.name if held_out < 0 else f"{data.name} without {held_out}",
    )


def scaled(images):
    return 2.0 * images.reshape(len(images), -1) - 1.0

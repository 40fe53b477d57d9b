"""JEM: a classifier whose outputs are energies of image and label, so that images without labels teach it log p(x).

Paper:    Grathwohl et al., Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One, 2020,
          arXiv:1912.03263; no published number with few labels
Command:  genjax sweep experiments/jem.py choice=1:6
          and with --weight 0, the labels alone
          genjax sweep experiments/jem.py held_out=0:10 --labels 0
Cost:     21 to 88 s of a shared core a choice, 6 to 62 s more compiling; labels alone 6 s
Measured: digits, 100 labels, five choices, test (N=250, ema, step 2,000), mean ± deviation: 5.92 ± 1.91 % errors,
          0.37 ± 0.11 nats, calibration error 4.65 ± 1.54 %; labels alone, worse in each of the five: 8.64 ± 1.99 %,
          0.43 ± 0.14 nats, 6.09 ± 1.81 %, 2026-11-28; mnist was not run; AUROC of a digit held out, all labels of the
          rest (174 to 183 anomalies against 220 to 230 others, standard errors at most 0.009):

    digit            0     1     2     3     4     5     6     7     8     9    mean
    energy         0.996 0.968 0.996 0.968 0.997 0.987 0.996 0.997 0.962 0.970  0.984
    slope          0.985 0.897 0.988 0.953 0.996 0.982 0.958 0.981 0.963 0.944  0.965
    unsure         0.968 0.922 0.945 0.922 0.929 0.963 0.982 0.976 0.958 0.964  0.953

    p(x, y) = exp(f(x)[y]) r(x) / Z,    r: independent normals with the means and variances of the pixels

Labelled images give the cross-entropy, which r does not touch; all images give log p(x) by the difference of phases,
its samples drawn by a Langevin chain whose ends live in a buffer of the carry.  Both see images with noise added, and
p(x) is the law of those.  Nothing is selected by labels that are not trained on: the last update counts.

Training of this kind is known to blow up: energies run away, and a chain that has left the images never comes back.
What is done against it here, and is not the paper's: a small network of dense layers with smooth units and nothing
normalised by the batch, so that an energy is a function of one image; the reference r, which the model is at the start
and which holds the chains; noise of deviation 0.5 (the paper's: 0.03, in the same scale of [-1, 1]), which makes
valleys wide enough for chains at temperature 1, where the paper's chains are cold (--step-size 0.5 --temperature 1e-4
--blur 0.03 are its choices); a penalty on the energies' squares; clipped gradients; a learning rate that falls to zero;
a moving average.  log Z is not known: the energy ranks images, and is no likelihood.

With a class held out its images, of all splits, are to be told from test images of the rest by scores that are larger
for what is less normal: the energy, the norm of its slope, and the classifier's doubt, its largest p(y | x), negative.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from vae_anomaly import divided_if, told_apart

from genjax import Count, Evaluation, Experiment, Fraction, NonNegative, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import digits, fashion_mnist, few_labels, mnist, with_unlabelled
from genjax.distributions import categorical_log_prob
from genjax.losses.joint_energy import bounded_phases, joint_energy
from genjax.metrics.anomaly import score_norm
from genjax.metrics.calibration import CLASSIFICATION, classification
from genjax.models.blocks import MLP
from genjax.models.conditional import check_labels
from genjax.samplers.gibbs import run_chain, run_on
from genjax.samplers.langevin import langevin, taken


def experiment(
    images: Literal["digits", "mnist", "fashion"] = "digits",
    labels: int = 100,
    choice: int = 0,
    held_out: int = -1,
    weight: NonNegative = 1.0,
    width: Count = 256,
    blur: NonNegative = 0.5,
    k: Count = 20,
    chains: Count = 1_000,
    fresh: Fraction = 0.05,
    step_size: Positive = 0.04,
    temperature: Positive = 1.0,
    penalty: NonNegative = 0.001,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.99,
    steps: int = 2_000,
    batch_size: Count = 100,
) -> Experiment:
    """Cross-entropy on the labelled images, the difference of phases on all.

    Args:
      images: the data set.
      labels: known, as many of each class; 0: all.
      choice: which: 0 the first of each class, any other number a draw of its own.
      held_out: a class that is not trained on: its images, of all splits, are anomalies among the rest; -1: none.
      weight: of log p(x); 0: the labels alone.
      width: units of each of the two hidden layers.
      blur: standard deviation of the noise on images, in their scale of [-1, 1].
      k: Langevin steps of an update.
      chains: whose ends the buffer holds.
      fresh: probability that a chain begins anew, from r.
      step_size: of the chains, against the slope of the energy; half of what the paper calls alpha.
      temperature: of the chains; their noise has the variance of twice step size and temperature.
      penalty: on the squares of the network's energies, of images and of samples.
      learning_rate: Adam's at the start; it falls to zero along a cosine.
      average: decay of the moving average of the parameters, which is what is measured.
      steps: updates.
      batch_size: images in a batch, of both kinds; of fewer labels than that, all.
    """
    data = {"digits": digits, "mnist": mnist, "fashion": fashion_mnist}[images]()
    train, validation, test, anomalies = divided_if(data, held_out)
    classes, shape = check_labels(data) - (held_out >= 0), train.arrays["image"].shape[1:]
    flat = lambda x: x.reshape(len(x), -1)
    net = nn.Sequential([MLP((width, width), nn.silu), nn.Dense(classes)])
    known = few_labels(train.arrays["label"], labels, choice)
    pixels = scaled(flat(train.arrays["image"]) / (data.levels - 1.0))
    mean, deviation = (jnp.float32(x) for x in (pixels.mean(axis=0), (pixels.var(axis=0) + blur**2) ** 0.5))
    learned = lambda params, v: joint_energy(net.apply(params, v))
    energy = lambda params, v: learned(params, v) + 0.5 * jnp.sum(((v - mean[None]) / deviation[None]) ** 2, axis=1)
    chain = lambda params: langevin(lambda v: energy(params, v), step_size, (2.0 * step_size * temperature) ** 0.5)
    begin = lambda key, n: mean[None] + deviation[None] * jax.random.normal(key, (n, len(mean)))
    noisy = lambda v, key: v + blur * jax.random.normal(key, v.shape)

    def loss(params, state, batch, key):
        keys = jax.random.split(key, 5)
        seen, others = (flat(scaled(batch[name])) for name in ("image", "unlabelled"))
        cost = -categorical_log_prob(batch["label"], net.apply(params, noisy(seen, keys[0])))
        if not weight:
            return Out(cost)
        rows, start = taken(state.carry, begin(keys[2], len(others)), fresh, keys[3])
        samples = run_chain(chain(state.params), start, keys[4], k)
        phases = bounded_phases(lambda v: learned(params, v), noisy(others, keys[1]), samples, penalty)
        return Out(cost + weight * phases, {"labelled": cost, "phases": phases}, state.carry.at[rows].set(samples))

    def answers(state, batch, key):
        v = flat(scaled(batch["image"]))
        return {"logits": net.apply(state.params, v), "label": batch["label"], "energy": energy(state.params, v)}

    def of_all(rows):
        e = rows["energy"].astype(float)
        told = (float(e.mean()), float(e.std(ddof=1) / len(e) ** 0.5))
        return {**classification(rows["logits"], rows["label"]), "energy": told}

    def scores(state, x, key):
        params, v = state.params, flat(scaled(x))
        sure = jnp.max(jax.nn.softmax(net.apply(params, v)), axis=1)
        return {"energy": energy(params, v), "slope": score_norm(lambda v: energy(params, v), v), "unsure": -sure}

    def sample(state, key, n):
        v = run_on(chain(state.params), state.carry, n, key, k)
        return jnp.clip(0.5 * v.reshape(n, *shape) + 0.5, 0.0, 1.0)

    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule), ema(average))
    init = lambda key, batch: net.init(key, flat(batch["image"]))
    learner = minimize(loss, tx, init, lambda key, params, batch: begin(key, chains))
    told = {name: Quantity(*about) for name, about in CLASSIFICATION.items()}
    told["energy"] = Quantity("-log p(x) but for a constant", "nats")
    evaluations = {
        "validation": Evaluation(answers, validation, 500, told, of_all=of_all),
        "test": Evaluation(answers, test, 500, told, final=True, of_all=of_all),
    }
    if held_out >= 0:
        area = Quantity(f"class {held_out} against {len(test.arrays['label'])} of the others", "AUROC", "higher")
        areas = dict.fromkeys(("energy", "slope", "unsure"), area)
        evaluations["auroc"] = Evaluation(told_apart(test, scores), anomalies, 250, areas, final=True)
    return Experiment(
        stages=[Stage("jem", learner, with_unlabelled(train, known, batch_size), steps, steps_per_call=50)],
        evaluations=evaluations,
        sample=sample,
        data=data.name if held_out < 0 else f"{data.name} without {held_out}",
    )


def scaled(x):
    return 2.0 * x - 1.0

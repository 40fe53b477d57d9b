"""A small convolutional classifier of MNIST, Fashion-MNIST or scikit-learn's digits; its features compare samples.

Paper:    Simonyan and Zisserman, Very Deep Convolutional Networks, 2015, arXiv:1409.1556 (the blocks)
Command:  genjax data prepare mnist; genjax train experiments/classifier_mnist.py
          offline: --images digits --steps 1500
Cost:     13 min on one shared core of an AMD EPYC; --images digits --steps 1500: 27 s
Measured: test errors (exact, ema, best step by validation), 2026-11-27: mnist 0.56 ± 0.08 % (N=10,000), digits
          0.8 ± 0.6 % (N=250)

A run of it is what GAN experiments take by `--features RUN`.  Training images are shifted by up to two pixels.  Its
report holds the table of confusions and the expected calibration error on test images.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from genjax import (
    BadInput,
    Count,
    Evaluation,
    Experiment,
    File,
    Fraction,
    NonNegative,
    Out,
    Positive,
    Quantity,
    Stage,
    ema,
    minimize,
)
from genjax.data import batches, digits, fashion_mnist, mnist
from genjax.distributions import categorical_log_prob
from genjax.metrics.calibration import reliability, reliability_text
from genjax.models.classifier import Classifier
from genjax.models.conditional import check_labels


def experiment(
    images: Literal["mnist", "fashion", "digits"] = "mnist",
    features: Count = 128,
    shift: int = 2,
    learning_rate: Positive = 2e-3,
    weight_decay: NonNegative = 0.05,
    average: Fraction = 0.99,
    steps: int = 4_000,
    batch_size: Count = 100,
) -> Experiment:
    """Cross-entropy by AdamW.

    Args:
      images: the data set.
      features: units of the layer before the logits.
      shift: pixels by which training images are moved at most, at random in each direction.
      learning_rate: AdamW's at the start; it falls to zero along a cosine.
      weight_decay: AdamW's.
      average: decay of the moving average of the parameters, which is what is measured.
      steps: updates.
      batch_size: images in a batch.
    """
    data = {"mnist": mnist, "fashion": fashion_mnist, "digits": digits}[images]()
    most = min(data.train.arrays["image"].shape[1:3]) // 2
    if not 0 <= shift <= most:
        raise BadInput(f"shift = {shift}", f"allowed: 0 to {most} pixels, half of the image")
    model = Classifier(check_labels(data), features=features)
    split = data.test

    def loss(params, state, batch, key):
        logits = model.apply(params, moved(batch["image"], key, shift))
        wrong = jnp.argmax(logits, axis=-1) != batch["label"]
        return Out(-categorical_log_prob(batch["label"], logits), {"error": 100.0 * wrong})

    def measure(state, batch, key):
        logits = model.apply(state.params, batch["image"])
        wrong = jnp.argmax(logits, axis=-1) != batch["label"]
        return {"error": 100.0 * wrong, "nll": -categorical_log_prob(batch["label"], logits)}

    def answers(state, key):  # of 2,000 test images at most
        rows = {name: jnp.asarray(array[:2_000]) for name, array in split.arrays.items()}
        return {"logits": model.apply(state.params, split.prepare(rows, key)["image"]), "label": rows["label"]}

    tx = optax.adamw(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), weight_decay=weight_decay)
    learner = minimize(loss, optax.chain(tx, ema(average)), lambda key, batch: model.init(key, batch["image"]))
    exact = {"error": Quantity("exact, share of wrong answers", "%"), "nll": Quantity("exact -log p(label | x)")}
    table = lambda found: reliability_text(reliability(found["logits"], found["label"])).encode()
    return Experiment(
        stages=[Stage("classifier", learner, batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(measure, data.validation, 500, exact),
            "test": Evaluation(measure, data.test, 500, exact, final=True),
        },
        files={"confusion.txt": File(answers, table)},
        select="validation/nll",
        data=data.name,
    )


def moved(x, key, most):
    """Images moved by -most to most pixels in each direction, black behind them."""
    if most == 0:
        return x
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (most, most), (most, most), (0, 0)))
    start = jax.random.randint(key, (len(x), 2), 0, 2 * most + 1)
    cut = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (height, width, x.shape[-1]))
    return jax.vmap(cut)(padded, start)

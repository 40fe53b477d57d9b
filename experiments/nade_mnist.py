"""NADE on statically binarized MNIST: 500 hidden units, one fixed order of the pixels.

Paper:    Larochelle and Murray, The neural autoregressive distribution estimator, 2011; -log p(x) 88.33 nats as quoted
          by Uria et al., Neural Autoregressive Distribution Estimation, 2016, arXiv:1605.02226
Command:  genjax train experiments/nade_mnist.py
Cost:     0.065 s an update on one free CPU core: 55 minutes for all 50,000
Measured: with --steps 6000: test -log p(x) = 96.15 ± 0.23 nats (exact, N=10,000, raw, step 6,000), 2026-11-24; all
          50,000 updates were not run

The order is a random permutation of the pixels, from NumPy's generator of seed 0.  Adam with a learning rate that falls
along a cosine replaces the paper's stochastic gradient descent.  The best state on the validation set is evaluated.
"""

import flax.linen as nn
import numpy as np
import optax

from genjax import Count, Evaluation, Experiment, Out, Positive, Quantity, Stage, Target, minimize
from genjax.data import batches, binarized_mnist
from genjax.distributions import bernoulli_log_prob, event_sum
from genjax.models.nade import NADE
from genjax.models.observation import bernoulli, check_support, logit_of_mean

TARGETS = (
    Target("13-nade", 88.33, "nats", "test/nll", "binarized_mnist", "b",
           "Larochelle and Murray, 2011, as quoted by Uria et al., 2016, arXiv:1605.02226",
           "500 units, one fixed order", tolerance=0.5),
)  # fmt: skip


def experiment(
    units: Count = 500,
    learning_rate: Positive = 1e-3,
    steps: int = 50_000,
    batch_size: Count = 100,
) -> Experiment:
    """The neural autoregressive distribution estimator of binary pixels.

    Args:
      units: of the hidden layer.
      learning_rate: Adam's at the start; it falls to zero along a cosine.
      steps: updates.
      batch_size: images in a batch.
    """
    data = binarized_mnist()
    check_support(data, bernoulli())
    order = tuple(np.random.default_rng(0).permutation(28 * 28).tolist())
    at_mean = nn.initializers.constant(logit_of_mean(data.train.arrays["image"], 2))
    model = NADE(28 * 28, units, order, bias_init=at_mean)

    def neg_log_prob(params, images):
        x = images.reshape(len(images), -1)
        return -event_sum(bernoulli_log_prob(x, model.apply(params, x)))

    def exact(state, batch, key):
        return {"nll": neg_log_prob(state.params, batch["image"])}

    def sample(state, key, n):
        return model.apply(state.params, key, n, method="sample").reshape(n, 28, 28, 1)

    def init(key, batch):
        return model.init(key, batch["image"].reshape(len(batch["image"]), -1))

    tx = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    learner = minimize(lambda params, state, batch, key: Out(neg_log_prob(params, batch["image"])), tx, init)
    nll = {"nll": Quantity("exact -log p(x)", "nats")}
    return Experiment(
        stages=[Stage("nade", learner, batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(exact, data.validation, 250, nll),
            "test": Evaluation(exact, data.test, 250, nll, final=True),
        },
        sample=sample,
        select="validation/nll",
        data=data.name,
    )

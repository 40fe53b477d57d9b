"""MADE on statically binarized MNIST: one hidden layer of 500 units in one order, or an ensemble over many orders.

Paper:    Germain, Gregor, Murray and Larochelle, MADE, 2015, arXiv:1502.03509: -log p(x) of 500 units in one order 94.5
          (figure 2), of 2 x 8,000 units and 32 maskings 86.64 nats
Command:  genjax train experiments/made_mnist.py
          genjax train experiments/made_mnist.py --hidden 8000 8000 --maskings 32 --direct --steps 150000   (GPU)
Cost:     11 minutes for 50,000 updates of the first command on 2 CPU cores that other work shared
Measured: test -log p(x) = 94.48 ± 0.25 nats (exact, one order, N=10,000, raw, step 50,000), 2026-11-24
          ensemble: not run

A masking is an order of the pixels and the degrees of the hidden units, both random, from NumPy's generator of seed 0.
As published: rectifiers, batches of 100, an ensemble whose maskings take turns in training, and the best state on the
validation set.  Adam with a learning rate that falls along a cosine replaces the paper's AdaGrad, Flax's default
initialisation its orthogonal one.  The ensemble averages probabilities of whole images: public code that averages
logits over orders reports far lower numbers, which are no likelihoods.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import BadInput, Coding, Count, Evaluation, Experiment, Out, Positive, Quantity, Stage, Target, minimize
from genjax.data import batches, binarized_mnist
from genjax.distributions import bernoulli_log_prob, event_sum, sample_bernoulli
from genjax.likelihood.coding_models import full_pass
from genjax.models.made import MADE, ensemble_log_prob, pick, random_maskings
from genjax.models.observation import bernoulli, check_support, level_log_probs, logit_of_mean
from genjax.samplers.ancestral import ancestral

TARGETS = (
    Target("14-made", 94.5, "nats", "test/nll", "binarized_mnist", "a",
           "Germain et al., 2015, arXiv:1502.03509, figure 2", "500 units, one order", tolerance=1.0),
    Target("14-made-ensemble", 86.64, "nats", "test/nll", "binarized_mnist", "b",
           "Germain et al., 2015, arXiv:1502.03509: from memory, unchecked",
           "2 x 8,000 units, 32 maskings, probabilities averaged",
           options="--hidden 8000 8000 --maskings 32 --direct --steps 150000", tolerance=0.5),
)  # fmt: skip


def experiment(
    hidden: tuple[int, ...] = (500,),
    maskings: Count = 1,
    per_step: Count = 1,
    direct: bool = False,
    learning_rate: Positive = 1e-3,
    steps: int = 50_000,
    batch_size: Count = 100,
) -> Experiment:
    """A masked autoencoder of binary pixels.

    Args:
      hidden: units of each hidden layer.
      maskings: members of the ensemble, which share their weights; 1 is one order.
      per_step: maskings in one update, each for its part of the batch; they take turns.
      direct: whether pixels also reach outputs by weights of their own, as in the paper's network of 86.64.
      learning_rate: Adam's at the start; it falls to zero along a cosine.
      steps: updates.
      batch_size: images in a batch, a multiple of `per_step`.
    """
    if batch_size % per_step:
        raise BadInput(f"per_step = {per_step}", f"allowed: a divisor of batch_size = {batch_size}")
    data = binarized_mnist()
    check_support(data, bernoulli())
    members = random_maskings(0, maskings, 28 * 28, hidden)
    at_mean = nn.initializers.constant(logit_of_mean(data.train.arrays["image"], 2))
    model = MADE(hidden, direct=direct, bias_init=at_mean)

    def neg_log_prob(params, images, masking):
        x = images.reshape(len(images), -1)
        return -event_sum(bernoulli_log_prob(x, model.apply(params, x, masking)))

    def loss(params, state, batch, key):
        turns = pick(members, (state.step * per_step + jnp.arange(per_step)) % maskings)
        parts = batch["image"].reshape(per_step, -1, *batch["image"].shape[1:])
        return Out(jax.vmap(lambda images, masking: neg_log_prob(params, images, masking))(parts, turns).reshape(-1))

    def exact(state, batch, key):
        log_prob = lambda masking: -neg_log_prob(state.params, batch["image"], masking)
        return {"nll": -ensemble_log_prob(log_prob, members)}

    def sample(state, key, n):
        which, key = jax.random.split(key)
        masking = pick(members, jax.random.randint(which, (), 0, maskings))  # one order for all pictures of a call
        logits = lambda x: model.apply(state.params, x, masking)
        pixels = ancestral(logits, sample_bernoulli, jnp.zeros((n, 28 * 28)), jnp.argsort(masking.order), key)
        return pixels.reshape(n, 28, 28, 1)

    def levels(params, symbols):  # of one order: an ensemble averages over orders that see different pixels first
        logits = model.apply(params, symbols.astype(jnp.float32), pick(members, 0))
        return level_log_probs(bernoulli(), logits.reshape(-1, 28, 28, 1, 1))

    def init(key, batch):
        return model.init(key, batch["image"].reshape(len(batch["image"]), -1), pick(members, 0))

    order = np.argsort(members.order[0])
    tx = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    nll = {"nll": Quantity("exact -log p(x)", "nats")}
    return Experiment(
        stages=[Stage("made", minimize(loss, tx, init), batches(data.train, batch_size), steps, steps_per_call=20)],
        evaluations={
            "validation": Evaluation(exact, data.validation, 500, nll),
            "test": Evaluation(exact, data.test, 500, nll, final=True),
        },
        sample=sample,
        select="validation/nll",
        data=data.name,
        coding=Coding(full_pass(levels, 2, order), (28, 28, 1), order) if maskings == 1 else None,
    )

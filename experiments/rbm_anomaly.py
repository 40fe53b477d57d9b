"""Anomalies by an RBM's free energy: a digit that training never saw; offline, in seconds.

Paper:    none; the protocol is that of vae_anomaly.py
Command:  genjax train experiments/rbm_anomaly.py
          genjax sweep experiments/rbm_anomaly.py held_out=0,1,2,3,4,5,6,7,8,9
Cost:     12 s of processor time a digit, compilation included
Measured: AUROC (174 to 183 anomalies of each digit against 220 to 230 others, raw, step 20,000), 2026-11-24

    digit              0     1     2     3     4     5     6     7     8     9    mean
    free_energy      0.949 0.630 0.964 0.850 0.967 0.950 0.893 0.950 0.872 0.853  0.888
    independent      0.669 0.502 0.712 0.550 0.874 0.625 0.638 0.747 0.279 0.629  0.623

F(v) is -log p(v) but for log Z, which all images share, so that nothing needs to be estimated to rank them.  Beside it
stands -log p of independent pixels with the means of the training images: what a machine has to beat.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import optax
from vae_anomaly import divided, told_apart

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, adjusted, minimize
from genjax.data import Split, batches, digits
from genjax.distributions import bernoulli_log_prob, sample_bernoulli
from genjax.losses.energy import phase_difference
from genjax.models.centering import first_carry, followed, machine_of
from genjax.models.observation import logit_of_mean
from genjax.models.rbm import RBM, gibbs_step
from genjax.models.visible import bernoulli_units
from genjax.samplers.gibbs import run_chain, run_on

SIDE = 8


def experiment(
    held_out: int = 8,
    hidden: Count = 64,
    k: Count = 1,
    chains: Count = 100,
    offset_rate: Fraction = 0.01,
    learning_rate: Positive = 0.05,
    steps: int = 20_000,
    batch_size: Count = 100,
) -> Experiment:
    """The machine of rbm_digits.py without one of the digits.

    Args:
      held_out: the digit, 0 to 9, that is not trained on.
      hidden: units.
      k: Gibbs steps of an update.
      chains: that live on from update to update.
      offset_rate: how far the offsets move towards the means of a batch in an update.
      learning_rate: of gradient descent at the start; it falls to zero along a line.
      steps: updates.
      batch_size: images in a batch.
    """
    data = digits()
    train, _, test, anomalies = (
        Split({**split.arrays, "image": split.arrays["image"] > 7}, bits) for split in divided(data, held_out)
    )
    base = jnp.asarray(logit_of_mean(train.arrays["image"].astype("uint8"), 2).reshape(-1))
    model = RBM(bernoulli_units(SIDE * SIDE), hidden, centred=True, visible_init=nn.initializers.constant(base))
    model.units.check(train.arrays["image"].reshape(-1, SIDE * SIDE))
    at = functools.partial(machine_of, model)

    def carry(key, params, batch):
        return first_carry(model, params, sample_bernoulli(jnp.broadcast_to(base, (chains, SIDE * SIDE)), key))

    def follow(state, batch):
        return followed(model, state, batch["image"], offset_rate)

    def loss(params, state, batch, key):
        samples = run_chain(gibbs_step(at(state)), state.carry["chains"], key, k)
        difference = phase_difference(at(state, params).free_energy, batch["image"], samples)
        return Out(difference, carry={**state.carry, "chains": samples})

    def scores(state, v, key):
        alone = -bernoulli_log_prob(v, jnp.broadcast_to(base, v.shape)).sum(axis=-1)
        return {"free_energy": at(state).free_energy(v), "independent": alone}

    def sample(state, key, n):
        v = run_on(gibbs_step(at(state)), state.carry["chains"], n, key, 1_000)
        return v.reshape(n, SIDE, SIDE, 1)

    falling = optax.linear_schedule(learning_rate, 0.0, max(steps, 1))
    init = lambda key, batch: {"params": model.init(key, batch["image"])["params"]}
    learner = adjusted(minimize(loss, optax.sgd(falling), init, carry), follow)
    area = Quantity(f"digit {held_out} against {len(test.arrays['label'])} of the others", "AUROC", "higher")
    told = {"free_energy": area, "independent": area._replace(kind=f"{area.kind}, independent pixels")}
    return Experiment(
        stages=[Stage("rbm", learner, batches(train, batch_size), steps, steps_per_call=50)],
        evaluations={"auroc": Evaluation(told_apart(test, scores), anomalies, 250, told, final=True)},
        sample=sample,
        data=f"{data.name} without {held_out}",
    )


def bits(batch, key):
    image = jnp.asarray(batch["image"], jnp.float32)
    return {**batch, "image": image.reshape(len(image), -1)}

"""A small VAE on the digits, for tests with several processes: compiles in seconds, draws noise in every step.

Paper:    Kingma and Welling, Auto-Encoding Variational Bayes, 2014, arXiv:1312.6114
Command:  genjax train tests/peer_experiment.py
Cost:     seconds
Measured: nothing
"""

import jax
import jax.numpy as jnp
import optax

from genjax import Evaluation, Experiment, Out, Quantity, Stage, ema, minimize
from genjax.data import batches, digits
from genjax.distributions import kl_normal_standard, sample_normal
from genjax.types import State


def experiment(learning_rate: float = 1e-3, steps: int = 150, width: int = 256) -> Experiment:
    """One hidden layer each way.

    Args:
      learning_rate: Adam's.
      steps: updates.
      width: of the hidden layers; 64 x 256 numbers are just enough to be cut over devices.
    """
    data = digits()

    def init(key, batch):
        shapes = {"in": (64, width), "code": (width, 16), "out": (8, width), "pixels": (width, 64)}
        keys = jax.random.split(key, len(shapes))
        return {n: jax.random.normal(k, s) / s[0] ** 0.5 for k, (n, s) in zip(keys, shapes.items(), strict=True)}

    def loss(params, state, batch, key):
        x = batch["image"].reshape(len(batch["image"]), 64) - 0.3
        mean, log_var = jnp.split(jnp.tanh(x @ params["in"]) @ params["code"], 2, axis=-1)
        z = sample_normal(mean, log_var, key)
        error = jnp.sum((jnp.tanh(z @ params["out"]) @ params["pixels"] - x) ** 2, axis=-1)
        return Out(10 * error + kl_normal_standard(mean, log_var).sum(axis=-1))

    def bound(state: State, batch, key):
        return {"loss": loss(state.params, state, batch, key).loss}

    learner = minimize(loss, optax.chain(optax.adam(learning_rate), ema(0.9)), init)
    return Experiment(
        stages=[Stage("vae", learner, batches(data.train, 64), steps, steps_per_call=5)],
        evaluations={"validation": Evaluation(bound, data.validation, 128, {"loss": Quantity("estimate")})},
        data=data.name,
    )

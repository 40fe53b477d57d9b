"""A worker of train_steps.py: genjax's own learner, batches, models and compiled call, trained on request."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import workers
from train_steps import images

from genjax import Out, Stage, minimize, parallel
from genjax.compilation import Program, compile_stage, stage_keys
from genjax.data import Split, batches, resampled
from genjax.distributions import event_sum, kl_normal_standard, sample_normal
from genjax.losses.variational import negative_elbo
from genjax.models.blocks import MLP
from genjax.models.observation import bernoulli
from genjax.models.vae import VAE, ConvolutionalDecoder, ConvolutionalEncoder, DenseDecoder, DenseEncoder

SHAPE, LATENTS = (28, 28, 1), 50
UPDATES_A_CALL = {"mlp": 100, "convolutional": 1}


def model(network: str) -> VAE:
    """784-200-200-50 tanh units, or 32 and 64 channels and 256 units, and their mirror image."""
    if network == "convolutional":
        return VAE(ConvolutionalEncoder(LATENTS), ConvolutionalDecoder(SHAPE, 1))
    hidden = lambda: MLP((200, 200), nn.tanh)
    return VAE(DenseEncoder(LATENTS, hidden()), DenseDecoder(SHAPE, 1, hidden()))


def program(network: str, batch_size: int) -> Program:
    """The compiled stage, as `genjax train` compiles it."""
    vae, likelihood = model(network), bernoulli()

    def loss(params, state, batch, key):
        mean, log_var = vae.apply(params, batch["image"], method="encode")
        z = sample_normal(mean, log_var, key)
        fit = likelihood.log_prob(vae.apply(params, z, method="decode"), batch["image"])
        return Out(negative_elbo(fit, event_sum(kl_normal_standard(mean, log_var))))

    learner = minimize(loss, optax.adam(1e-3), lambda key, batch: vae.init(key, batch["image"]))
    source = batches(Split({"image": images()}, resampled(256)), batch_size)
    stage = Stage("vae", learner, source, steps=10**9, steps_per_call=UPDATES_A_CALL[network])
    return compile_stage(stage, stage_keys(0, 0), 0, parallel.mesh(1), "float32", "jit")


def main() -> None:
    """Arguments: the network, the rows of a batch."""
    network, batch_size = sys.argv[1], int(sys.argv[2])
    compiled = program(network, batch_size)
    state, totals = compiled.fresh(), compiled.zero()

    def train(updates: int) -> bool:
        nonlocal state, totals
        while updates > 0:
            count = min(updates, UPDATES_A_CALL[network])
            state, (totals, _) = compiled.call(state, totals, compiled.feed(0), np.int32(count))
            updates -= count
        jax.block_until_ready((state, totals))
        return bool(jnp.isfinite(totals.sums["loss"]))

    train(1)
    workers.serve(train)


if __name__ == "__main__":
    main()

"""A VAE on scikit-learn's handwritten digits whose posterior is an inverse autoregressive flow; offline, in a minute.

Paper:    Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016, arXiv:1606.04934
Command:  genjax train experiments/iaf_digits.py              (--flows 0: the normal posterior of vae_digits.py)
Cost:     27 s on 2 CPU cores that others used too, start, compilation and evaluation included
Measured: test -log p(x) <= 81.72 ± 0.71 nats (k=1,000, N=250, ema, step 3,000), 2026-11-24; the normal posterior of
          vae_digits.py: 82.39 ± 0.68
"""

import flax.linen as nn
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
    Out,
    Positive,
    Quantity,
    Stage,
    ema,
    minimize,
)
from genjax.data import batches, digits
from genjax.distributions.flows import flowed
from genjax.distributions.latent import diagonal_normal, standard_normal
from genjax.likelihood.iwae import importance_sampling
from genjax.losses.variational import negative_elbo
from genjax.metrics.latents import Layer, diagnoses
from genjax.models.blocks import MLP
from genjax.models.iaf import iaf, iaf_nets, init_iaf
from genjax.models.observation import check_support, discretized_logistic
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder
from genjax.samplers.latents import interpolate_spherical, tiles, traverse


def experiment(
    flows: int = 4,
    latents: Count = 16,
    width: Count = 256,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 3_000,
    batch_size: Count = 100,
    samples: Count = 1_000,
) -> Experiment:
    """The VAE of vae_digits.py with a posterior that need not be normal.

    Args:
      flows: steps of the flow, at least 0; each has one hidden layer of `width` units.
      latents: dimensions of z, at least 2.
      width: units of each of the two hidden layers of encoder and decoder.
      learning_rate: Adam's, after a warm-up of 2 % of the steps; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: digits in a batch.
      samples: importance samples of the final estimate.
    """
    if flows < 0:
        raise BadInput(f"flows = {flows}", "allowed: whole numbers from 0")
    data, likelihood, prior = digits(), discretized_logistic(17), standard_normal(latents)
    check_support(data, likelihood)
    hidden = lambda: MLP((width, width), nn.relu)
    vae = VAE(DenseEncoder(latents, hidden()), DenseDecoder((8, 8, 1), likelihood.multiplier, hidden()))
    nets = iaf_nets(flows, latents, (width,))

    def posterior(params, x):  # the flow's context: mean and log-variance of where it starts
        mean, log_var = vae.apply(params["vae"], x, method="encode")
        context = jnp.concatenate([mean, log_var], axis=-1)
        return flowed(diagonal_normal(mean, log_var), iaf(nets, params["flow"], context))

    def init(key, batch):
        vae_key, flow_key = jax.random.split(key)
        context = jnp.zeros((len(batch["image"]), 2 * latents))
        return {"vae": vae.init(vae_key, batch["image"]), "flow": init_iaf(nets, flow_key, context)}

    def terms(params, x, key, *n):
        z, log_q = posterior(params, x).draw(key, *n)
        fit = likelihood.log_prob(vae.apply(params["vae"], z, method="decode"), x)
        return z, fit, log_q - prior.log_prob(z)

    def loss(params, state, batch, key):
        _, fit, rate = terms(params, batch["image"], key)
        return Out(negative_elbo(fit, rate), {"rate": rate, "distortion": -fit})

    def bound(state, batch, key):
        out = loss(state.params, state, batch, key)
        return {"neg_elbo": out.loss, **out.metrics}

    def estimate(state, batch, key):
        def log_weights(key, n):
            _, fit, rate = terms(state.params, batch["image"], key, n)
            return fit - rate

        return {
            **bound(state, batch, key),
            "neg_iwae": -importance_sampling(log_weights, key, samples, chunk=100).bound,
        }

    def sample(state, key, n):
        code_key, pixel_key = jax.random.split(key)
        return likelihood.sample(vae.apply(state.params["vae"], prior.sample(code_key, n), method="decode"), pixel_key)

    def held_out(rows):
        return jnp.asarray(data.validation.arrays["image"][:rows] / 16, jnp.float32)

    def decoded(state, z):
        return likelihood.mean(vae.apply(state.params["vae"], z, method="decode"))

    def drawn(state, rows, key):  # one draw for each image
        return posterior(state.params, held_out(rows)).sample(key)

    def reconstruct(state, key):
        return jnp.stack([held_out(32), decoded(state, drawn(state, 32, key))])

    def traversal(state, key):  # a row for each latent, which goes from -3 to 3 while the others stay
        z = drawn(state, 1, key)[0]
        return tiles(traverse(lambda z: decoded(state, z), z, range(latents), steps=9), 9, scale=4)

    def interpolation(state, key):  # eight rows, each from one digit to another
        first, last = jnp.split(drawn(state, 16, key), 2)
        return decoded(state, jnp.swapaxes(interpolate_spherical(first, last, 8), 0, 1).reshape(-1, latents))

    def carried(state, key):  # a flow's mean is known from draws alone: 1,000 leave at most 0.001 of a variance of 1
        keys, x = jax.random.split(key, 1_000), held_out(None)
        means = jax.lax.map(lambda own: drawn(state, None, own), keys).mean(axis=0)
        return {"z": Layer(means.var(axis=0), terms(state.params, x, key)[2])}

    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 50, max(steps, 1))
    adam = optax.adam(lambda step: learning_rate * shape(step))
    tx = optax.chain(optax.clip_by_global_norm(100.0), adam, ema(average))
    upper = Quantity("upper bound of -log p(x)")
    parts = {"neg_elbo": upper, "rate": Quantity("estimate"), "distortion": Quantity("estimate")}
    tight = Quantity(f"upper bound of -log p(x), k={samples:,}")
    stage = Stage("vae", minimize(loss, tx, init), batches(data.train, batch_size), steps, steps_per_call=100)
    return Experiment(
        stages=[stage],
        evaluations={
            "validation": Evaluation(bound, data.validation, 250, parts),
            "test": Evaluation(estimate, data.test, 250, {"neg_iwae": tight, **parts}, final=True),
        },
        sample=sample,
        pictures={"reconstructions": reconstruct, "traversal": traversal, "interpolation": interpolation},
        files={"diagnostics.txt": File(carried, lambda layers: diagnoses(layers).encode())},
        select="validation/neg_elbo",
        data=data.name,
    )

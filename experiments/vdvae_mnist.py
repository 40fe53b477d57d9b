"""A small very deep VAE on statically binarized MNIST: 13 layers of latents, from one position to 28x28, top-down.

Paper:    Child, Very Deep VAEs, 2021, arXiv:2011.10650 (the blocks; it has no number of MNIST); Sonderby et al., Ladder
          Variational Autoencoders, 2016, arXiv:1602.02282.  A convolutional ladder: 78.30 nats (importance sampling)
Command:  genjax train experiments/vdvae_mnist.py                                                             (GPU)
          genjax train experiments/vdvae_mnist.py --width 16 --latents 4 --blocks 1 2 2 1 --steps 5000        (CPU)
Cost:     the CPU form: 42 min on one CPU core that was shared at times; the other: not measured
Measured: the CPU form: test -log p(x) <= 92.59 ± 0.21 nats (k=100), ELBO 97.77 ± 0.23 (N=10,000, ema, step 5,000),
          2026-11-24

As published: bottlenecks of two 3x3 between two 1x1 convolutions behind GELUs, priors that start as N(0, 1), what a
block adds scaled by sqrt(1 / layers) at the start, AdamW with decays 0.9 and 0.9, gradients clipped at norm 200, and a
moving average of the parameters.  Not as published: the sizes, a learning rate that falls along a cosine, no skipping
of updates with large gradients.  The best state on the validation set is evaluated.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Evaluation, Experiment, File, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import batches, binarized_mnist
from genjax.likelihood.iwae import importance_sampling
from genjax.losses.variational import negative_elbo
from genjax.metrics.latents import Layer, diagnoses
from genjax.models.observation import bernoulli, check_support
from genjax.models.top_down import VeryDeepVAE
from genjax.samplers.latents import interpolate

SHAPE, SIDES = (28, 28, 1), (1, 7, 14, 28)


def experiment(
    width: Count = 64,
    latents: Count = 8,
    blocks: tuple[int, int, int, int] = (2, 4, 5, 2),
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 50_000,
    batch_size: Count = 100,
    samples: Count = 100,
) -> Experiment:
    """A hierarchical VAE of convolutions.

    Args:
      width: channels of the state on the way down and of the features on the way up.
      latents: numbers a position in each layer.
      blocks: layers of latents on the grids of 1, 7, 14 and 28 positions a side.
      learning_rate: AdamW's, after a warm-up of 2 % of the steps; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: images in a batch.
      samples: importance samples of the final estimate.
    """
    data, likelihood = binarized_mnist(), bernoulli()
    check_support(data, likelihood)
    model, names = VeryDeepVAE(SHAPE, 1, SIDES, blocks, width, latents), [f"rate_{side}x{side}" for side in SIDES]

    def descend(params, features, key, n, **how):
        return model.apply(params, features, key, n, method="descend", **how)

    def by_grid(rate):  # [L, B] nats a layer -> nats a grid
        ends = np.cumsum(blocks)
        return {name: rate[a:b].sum(axis=0) for name, (a, b) in zip(names, itertools.pairwise([0, *ends]), strict=True)}

    def loss(params, state, batch, key):
        down = model.apply(params, batch["image"], key)
        fit, rate = likelihood.log_prob(down.out, batch["image"]), down.rate.sum(axis=0)
        return Out(negative_elbo(fit, rate), {"rate": rate, "distortion": -fit, **by_grid(down.rate)})

    def bound(state, batch, key):
        out = loss(state.params, state, batch, key)
        return {"neg_elbo": out.loss, **out.metrics}

    def estimate(state, batch, key):
        images = batch["image"]
        features, rows = model.apply(state.params, images, method="ascend"), len(images)

        def log_weights(key, n):
            several = jax.tree.map(lambda f: jnp.tile(f, (n, 1, 1, 1)), features)
            down = descend(state.params, several, key, n * rows)
            fit = likelihood.log_prob(down.out.reshape(n, rows, *down.out.shape[1:]), images)
            return fit + down.log_ratio.sum(axis=0).reshape(n, rows)

        return {**bound(state, batch, key), "neg_iwae": -importance_sampling(log_weights, key, samples, chunk=5).bound}

    def sample(state, key, n):
        return likelihood.mean(descend(state.params, None, key, n).out)

    def shown(count):
        return jnp.asarray(np.resize(data.validation.arrays["image"], (count, *SHAPE)), jnp.float32)

    def reconstruct(state, key):
        return jnp.stack([shown(32), likelihood.mean(model.apply(state.params, shown(32), key).out)])

    def grids(
        state, key
    ):  # of each image: latents of one grid alone, of two, three, four; the rest near the prior's mean
        features = model.apply(state.params, shown(16), method="ascend")
        parts = [descend(state.params, features, key, 16, informed=int(n), temperature=0.1) for n in np.cumsum(blocks)]
        return jnp.stack([likelihood.mean(part.out) for part in parts], axis=1).reshape(-1, *SHAPE)

    def interpolation(
        state, key
    ):  # eight rows, each from one image to another, through the latents of the first two grids
        pairs = model.apply(state.params, shown(16), method="ascend")
        features = jax.tree.map(lambda f: jnp.concatenate([jnp.tile(f[:8], (7, 1, 1, 1)), f[8:]]), pairs)

        def between(z):  # the rows are steps x pairs; of their own latents those of the first and the last step remain
            ends = z.reshape(8, 8, *z.shape[1:])
            return interpolate(ends[0], ends[-1], 8).reshape(z.shape)

        how = {"informed": sum(blocks[:2]), "temperature": 0.1, "mix": between}
        images = likelihood.mean(descend(state.params, features, key, 64, **how).out)
        return jnp.swapaxes(images.reshape(8, 8, *SHAPE), 0, 1).reshape(-1, *SHAPE)

    def carried(state, key):  # by each layer; all images are given the latents of one above it, of four in turn
        rows = min(200, len(data.validation.arrays["image"]))
        features = model.apply(state.params, shown(rows), method="ascend")
        rates = descend(state.params, features, key, rows).rate

        def spreads(image):
            follow = lambda z: jnp.broadcast_to(z[image][None], z.shape)
            means = descend(state.params, features, key, rows, mix=follow).mean
            return [mean.reshape(rows, -1).var(axis=0) for mean in means]

        spread = [each.mean(axis=0) for each in jax.lax.map(spreads, jnp.arange(4))]
        titles = [f"layer {i:2} ({side}x{side})" for i, side in enumerate(np.repeat(SIDES, blocks), 1)]
        return {title: Layer(*found) for title, *found in zip(titles, spread, rates, strict=True)}

    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 50, max(steps, 1))
    adam = optax.adamw(lambda step: learning_rate * shape(step), b1=0.9, b2=0.9, weight_decay=0.01)
    tx = optax.chain(optax.clip_by_global_norm(200.0), adam, ema(average))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["image"], key))
    upper = lambda k: Quantity(f"upper bound of -log p(x), k={k:,}")
    rates = {name: Quantity("estimate") for name in ("rate", *names)}
    parts = {"neg_elbo": upper(1), "distortion": Quantity("estimate"), **rates}
    return Experiment(
        stages=[Stage("vdvae", learner, batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(bound, data.validation, 200, parts),
            "test": Evaluation(estimate, data.test, 200, {"neg_iwae": upper(samples), **parts}, final=True),
        },
        sample=sample,
        pictures={"reconstructions": reconstruct, "grids": grids, "interpolation": interpolation},
        files={"diagnostics.txt": File(carried, lambda layers: diagnoses(layers).encode())},
        select="validation/neg_elbo",
        data=data.name,
    )

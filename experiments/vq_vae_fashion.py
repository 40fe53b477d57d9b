"""A VQ-VAE on Fashion-MNIST, then a GPT on its codes: images are drawn from the second and decoded by the first.

Paper:    van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937
          (the model; no number on these data)
Command:  genjax train experiments/vq_vae_fashion.py
          genjax train experiments/vq_vae_fashion.py --data digits --codes 64
Cost:     18 min 40 s on one CPU core; digits, as measured, 75 s
Measured: Fashion-MNIST, test: -log p(x) <= 1,879 ± 5 nats (3.457 ± 0.010 bits/dim), 3.474 ± 0.010 bits/code of 8, PSNR
          22.22 dB (N=10,000, ema of the prior, step 5,000 of each stage), 2026-11-24
          digits, --codes 64 --steps 1500 --prior-steps 1000, test: <= 98.31 ± 0.88 nats (2.216 bits/dim), 3.492 ± 0.039
          bits/code of 6, PSNR 23.23 dB, code perplexity 56.3 of 64 (N=250, ema of the prior), 2026-11-24

Stage 1 learns encoder and decoder, while code vectors follow the encoder as moving averages.  Stage 2 learns P(c) of
the codes of the encoder, which no longer changes: it stands in the carry, outside of what is trained.  Encoding is
deterministic, so -log p(x | c) - log P(c) is an upper bound of -log p(x) for every image; the decoder's distribution of
the grey levels is a discretised logistic, normalised over the levels.  In stage 1 the bound is that of uniform P(c).
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from genjax import (
    BadInput,
    Count,
    Evaluation,
    Experiment,
    Fraction,
    NonNegative,
    Out,
    Positive,
    Quantity,
    Stage,
    ema,
    minimize,
)
from genjax.data import batches, digits, fashion_mnist
from genjax.distributions import bits_per_dim
from genjax.losses.codebook import code_vectors, first_codebook, moved, revived
from genjax.losses.quantization import code_perplexity, commitment, usage
from genjax.metrics.psnr import psnr
from genjax.models.code_prior import gpt_prior
from genjax.models.observation import check_support, discretized_logistic
from genjax.models.vq import VQVAE, GridDecoder, GridEncoder, grid_shape, quantized


def experiment(
    data: Literal["fashion_mnist", "digits"] = "fashion_mnist",
    codes: Count = 256,
    dims: Count = 16,
    channels: Count = 32,
    blocks: Count = 2,
    beta: NonNegative = 0.25,
    decay: Fraction = 0.99,
    least: Fraction = 0.05,
    learning_rate: Positive = 1e-3,
    steps: int = 5_000,
    prior_layers: Count = 3,
    prior_heads: Count = 4,
    prior_width: Count = 96,
    prior_dropout: Fraction = 0.1,
    prior_steps: int = 5_000,
    average: Fraction = 0.999,
    batch_size: Count = 64,
) -> Experiment:
    """A VQ-VAE whose codes form a grid of a quarter of the image's sides (of the digits: a half), and their prior.

    Args:
      data: images; the digits are always at hand.
      codes: entries of the codebook.
      dims: numbers of a code vector.
      channels: of the convolutions.
      blocks: residual blocks in encoder and decoder.
      beta: weight of the commitment, nats a squared unit of the encoder's vectors.
      decay: of the moving averages of the codebook.
      least: vectors a batch below which a code counts as dead and is given a new place; 0: never.
      learning_rate: Adam's in both stages, after a warm-up of 2 % of the steps; it decays to zero along a cosine.
      steps: updates of encoder and decoder.
      prior_layers: of the transformer.
      prior_heads: of attention in each layer; they divide the width.
      prior_width: numbers a code.
      prior_dropout: rate, while training.
      prior_steps: updates of the prior.
      average: decay of the moving average of the prior's parameters that evaluation and sampling use.
      batch_size: images in a batch.
    """
    images, halvings = (digits(), 1) if data == "digits" else (fashion_mnist(), 2)
    likelihood = discretized_logistic(images.levels)
    check_support(images, likelihood)
    shape = images.train.arrays["image"].shape[1:]
    grid = grid_shape(shape[:2], halvings)
    pixels, places = math.prod(shape), math.prod(grid)
    sizes = {"halvings": halvings, "channels": channels, "blocks": blocks}
    model = VQVAE(GridEncoder(dims, **sizes), GridDecoder(shape, likelihood.multiplier, **sizes))
    if prior_width % prior_heads:
        told = f"prior_width = {prior_width}, prior_heads = {prior_heads}"
        raise BadInput(told, "allowed: heads that divide the width")
    prior = gpt_prior(codes, grid, prior_layers, prior_heads, prior_width, prior_dropout)

    def init(key, batch):
        return model.init(key, batch["image"])

    def encoded(params, book, x):
        return quantized(model.apply(params, x, method="encode"), book)

    def distortion(params, q, x):
        return -likelihood.log_prob(model.apply(params, q, method="decode"), x)

    def first_book(key, params, batch):
        return first_codebook(model.apply(params, batch["image"], method="encode"), codes, key)

    def reconstruction_loss(params, state, batch, key):
        z = model.apply(params, batch["image"], method="encode")
        chosen = quantized(z, state.carry)
        nats, committed = distortion(params, chosen.through, batch["image"]), commitment(z, chosen.vectors)
        book, dead = revived(moved(state.carry, z, chosen.codes, decay), z, key, least)
        in_use = {"perplexity": code_perplexity(book.counts), "used": jnp.mean(usage(chosen.codes, codes) > 0)}
        told = {"distortion": nats, "commitment": committed, **in_use, "revived": jnp.sum(dead, dtype=jnp.float32)}
        return Out(nats + beta * committed, told, book)

    def seen(params, book, x):  # what is measured of encoder and decoder, and the codes
        found = encoded(params, book, x)
        out = model.apply(params, found.vectors, method="decode")
        told = {"distortion": -likelihood.log_prob(out, x), "psnr": psnr(likelihood.mean(out), x)}
        return told, found.codes

    def reconstruction(state, batch, key):
        told, _ = seen(state.params, state.carry, batch["image"])
        bound = told["distortion"] + places * math.log(codes)
        in_use = jnp.broadcast_to(code_perplexity(state.carry.counts), bound.shape)
        return {"neg_elbo": bound, **told, "perplexity": in_use}

    def frozen(key, params, batch):  # its shapes: the numbers come from the first stage
        vae = jax.eval_shape(init, key, batch)
        book = jax.eval_shape(first_book, key, vae, batch)
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), {"vae": vae, "book": book})

    def inherit(previous, fresh):
        return fresh._replace(carry={"vae": previous.params, "book": previous.carry})

    def prior_loss(params, state, batch, key):
        nats = prior.nll(params, encoded(state.carry["vae"], state.carry["book"], batch["image"]).codes, key)
        return Out(nats, {"bits_per_code": bits_per_dim(nats, places)})

    def whole(state, batch, key):
        told, found = seen(state.carry["vae"], state.carry["book"], batch["image"])
        told["perplexity"] = jnp.broadcast_to(code_perplexity(state.carry["book"].counts), (len(found),))
        nats = prior.nll(state.params, found)
        bound = told["distortion"] + nats
        rates = {"rate": nats, "bits_per_code": bits_per_dim(nats, places)}
        return {"neg_elbo": bound, "bits_per_dim": bits_per_dim(bound, pixels), **rates, **told}

    def decoded(state, found):
        q = code_vectors(state.carry["book"])[found]
        return likelihood.mean(model.apply(state.carry["vae"], q, method="decode"))

    def sample(state, key, n):
        return decoded(state, prior.sample(state.params, key, n))

    def reconstruct(state, key):
        x = jnp.asarray(images.validation.arrays["image"][:32] / (images.levels - 1), jnp.float32)
        return jnp.stack([x, decoded(state, encoded(state.carry["vae"], state.carry["book"], x).codes)])

    def adam(updates):
        return optax.adam(optax.warmup_cosine_decay_schedule(0.0, learning_rate, updates // 50, max(updates, 1)))

    first = minimize(reconstruction_loss, optax.chain(optax.clip_by_global_norm(1e3), adam(steps)), init, first_book)
    tx = optax.chain(optax.clip_by_global_norm(1e2), adam(prior_steps), ema(average))
    second = minimize(prior_loss, tx, lambda key, batch: prior.init(key), frozen)
    upper, source = Quantity("upper bound of -log p(x)"), batches(images.train, batch_size)
    of_images = {
        "distortion": Quantity("exact -log p(x | codes)"),
        "psnr": Quantity("exact, of the decoder's mean", "dB", "higher"),
    }
    of_codes = {"rate": Quantity("exact -log P(codes)"), "bits_per_code": Quantity("exact", "bits/code")}
    uniform = {"neg_elbo": upper._replace(kind="upper bound of -log p(x), uniform codes"), **of_images}
    in_use = {"perplexity": Quantity("moving average over training batches", "codes", "higher")}
    raw = {name: each._replace(kind=f"{each.kind}, raw autoencoder") for name, each in (of_images | in_use).items()}
    measures = {"neg_elbo": upper, "bits_per_dim": upper._replace(unit="bits/dim"), **of_codes, **raw}
    return Experiment(
        stages=[Stage("vq_vae", first, source, steps), Stage("prior", second, source, prior_steps, inherit)],
        evaluations={
            "reconstruction": Evaluation(reconstruction, images.validation, 250, uniform | in_use, stage="vq_vae"),
            "validation": Evaluation(whole, images.validation, 250, measures),
            "test": Evaluation(whole, images.test, 250, measures, final=True),
        },
        sample=sample,
        pictures={"reconstructions": reconstruct},
        select="validation/neg_elbo",
        data=images.name,
    )

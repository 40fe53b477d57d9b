"""Noisy, masked and low-resolution digits restored by a VAE, against a filter made for each; offline, in a minute.

Paper:    Im, Ahn, Memisevic and Bengio, Denoising Criterion for Variational Auto-Encoding Framework, 2017,
          arXiv:1511.06406 (the objective)
Command:  genjax train experiments/denoising_vae.py
Cost:     28 s of processor time, start, compilation and evaluation included
Measured: PSNR in dB, test (N=250, ema, step 3,000), damaged / filter / restored: noise 12.01 / 15.46 / 15.81, mask
          9.47 / 13.20 / 15.13, low 13.20 / 13.49 / 16.11; gains over the filter 0.35 ± 0.13, 1.92 ± 0.15,
          2.62 ± 0.13, 2026-11-24

The encoder sees a damaged image d and which of its pixels were measured, the decoder gives the clean image x.  Any law
of z may stand in the bound of log p(x), so q(z | d) may: E_q[log p(x | z)] - KL(q(z | d) || p(z)) <= log p(x), whatever
d is.  One network restores all three damages, each as often as the others in training:

    noise   normal noise of standard deviation `noise` is added
    mask    a share `hidden` of the pixels is not measured
    low     blocks of 2x2 pixels are replaced by their mean

The filters: the local Wiener filter of 3x3 windows, which is told the variance of the noise; the median of the measured
pixels of the 3x3 window where a pixel is missing; cubic interpolation between the means of the blocks.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Evaluation, Experiment, File, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import Split, batches, digits
from genjax.distributions import kl_normal_standard, sample_normal
from genjax.losses.variational import negative_elbo
from genjax.metrics.latents import Layer, diagnoses
from genjax.metrics.psnr import psnr
from genjax.models.blocks import MLP
from genjax.models.observation import check_support, discretized_logistic
from genjax.models.vae import DenseDecoder, DenseEncoder

KINDS = ("noise", "mask", "low")


def experiment(
    noise: Positive = 0.25,
    hidden: Fraction = 0.5,
    latents: Count = 16,
    width: Count = 256,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 3_000,
    batch_size: Count = 100,
    samples: Count = 64,
) -> Experiment:
    """A dense VAE from damaged digits to clean ones.

    Args:
      noise: standard deviation of the noise, in units of the range of grey.
      hidden: share of the pixels that the mask hides.
      latents: dimensions of z.
      width: units of each of the two hidden layers of encoder and decoder.
      learning_rate: Adam's, after a warm-up of 2 % of the steps; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: digits in a batch.
      samples: of z, whose decoded means are averaged to the restored image.
    """
    data, likelihood = digits(), discretized_logistic(17)
    check_support(data, likelihood)
    layers = lambda: MLP((width, width), nn.relu)
    encoder, decoder = DenseEncoder(latents, layers()), DenseDecoder((8, 8, 1), likelihood.multiplier, layers())

    def init(key, batch):
        seen, keys = damaged(batch["image"], key, noise, hidden)["noise"], jax.random.split(key)
        return {"encoder": encoder.init(keys[0], seen), "decoder": decoder.init(keys[1], jnp.zeros((1, latents)))}

    def terms(params, seen, x, key):
        mean, log_var = encoder.apply(params["encoder"], seen)
        out = decoder.apply(params["decoder"], sample_normal(mean, log_var, key))
        return likelihood.log_prob(out, x), kl_normal_standard(mean, log_var).sum(axis=-1)

    def loss(params, state, batch, key):
        which, how, own = jax.random.split(key, 3)
        seen = jnp.stack([*damaged(batch["image"], how, noise, hidden).values()])
        kind = jax.random.randint(which, (len(batch["image"]),), 0, len(KINDS))
        fit, rate = terms(params, seen[kind, jnp.arange(len(kind))], batch["image"], own)
        return Out(negative_elbo(fit, rate), {"rate": rate, "distortion": -fit})

    def bound(state, batch, key):
        out = loss(state.params, state, batch, key)
        return {"neg_elbo": out.loss, **out.metrics}

    def restored(state, seen, key):
        mean, log_var = (jnp.broadcast_to(a, (samples, *a.shape)) for a in encoder.apply(state.params["encoder"], seen))
        out = decoder.apply(state.params["decoder"], sample_normal(mean, log_var, key))
        return likelihood.mean(out).mean(axis=0)

    def compared(state, batch, key):
        x, others = batch["image"], {"filter": batch["filtered"], "damaged": batch["seen"][..., :1]}
        found = {name: psnr(x, image) for name, image in others.items()}
        ours = psnr(x, restored(state, batch["seen"], key))
        return {"restored": ours, "gain": ours - found["filter"], **found}

    def sample(state, key, n):
        z = jax.random.normal(key, (n, latents))
        return likelihood.mean(decoder.apply(state.params["decoder"], z))

    def before_and_after(split):
        def draw(state, key):
            seen = jnp.asarray(split.arrays["seen"][:32])
            return jnp.stack([seen[..., :1], restored(state, seen, key)])

        return draw

    def carried(state, key):  # by kind; means over 100 damages of each image, since what they do says nothing of it
        x = jnp.asarray(data.validation.arrays["image"] / 16, jnp.float32)
        law = lambda seen: encoder.apply(state.params["encoder"], seen)
        laws = lambda own: {kind: law(seen) for kind, seen in damaged(x, own, noise, hidden).items()}
        rate = lambda mean, log_var: kl_normal_standard(mean[0], log_var[0]).sum(axis=-1)  # of the first damage
        several = jax.lax.map(laws, jax.random.split(key, 100))
        return {kind: Layer(each[0].mean(axis=0).var(axis=0), rate(*each)) for kind, each in several.items()}

    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 50, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate), ema(average))
    tests = damaged_splits(data.test, noise, hidden)
    upper, decibels = Quantity("upper bound of -log p(x), q(z | damaged)"), Quantity("mean of images", "dB", "higher")
    parts = {"neg_elbo": upper, "rate": Quantity("exact KL"), "distortion": Quantity("estimate")}
    ratios = {"restored": decibels, "filter": decibels, "damaged": decibels, "gain": decibels}
    measured = {name: Evaluation(compared, split, 250, ratios, final=True) for name, split in tests.items()}
    stage = Stage("vae", minimize(loss, tx, init), batches(data.train, batch_size), steps, steps_per_call=100)
    return Experiment(
        stages=[stage],
        evaluations={"validation": Evaluation(bound, data.validation, 250, parts), **measured},
        sample=sample,
        files={"diagnostics.txt": File(carried, lambda layers: diagnoses(layers).encode())},
        pictures={name: before_and_after(split) for name, split in tests.items()},
        select="validation/neg_elbo",
        data=data.name,
    )


def damaged(x, key, noise, hidden):
    """Each damage of images [B, H, W, 1]: [B, H, W, 2], the values and whether they were measured.

    >>> low = damaged(jnp.array([[0.0, 1.0], [0.0, 1.0]]).reshape(1, 2, 2, 1), jax.random.key(0), 0.1, 0.5)["low"]
    >>> low[0, :, :, 0].tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    noise_key, mask_key = jax.random.split(key)
    measured = jax.random.bernoulli(mask_key, 1.0 - hidden, x.shape).astype(x.dtype)
    rows, height, width, _ = x.shape
    means = x.reshape(rows, height // 2, 2, width // 2, 2, 1).mean(axis=(2, 4))
    values = {
        "noise": x + noise * jax.random.normal(noise_key, x.shape),
        "mask": x * measured,
        "low": means.repeat(2, axis=1).repeat(2, axis=2),
    }
    known = {"noise": jnp.ones_like(x), "mask": measured, "low": jnp.ones_like(x)}
    return {kind: jnp.concatenate([values[kind], known[kind]], axis=-1) for kind in KINDS}


def damaged_splits(split, noise, hidden):
    """The split under each damage, the same in every run, and what the filter made for it gives."""
    key = jax.random.key(0)
    x = split.prepare({"image": jnp.asarray(split.arrays["image"])}, key)["image"]
    seen = {kind: np.asarray(images) for kind, images in damaged(x, key, noise, hidden).items()}
    filtered = {"noise": wiener(seen["noise"], noise), "mask": median(seen["mask"]), "low": cubic(seen["low"])}
    rows = lambda kind: {"image": split.arrays["image"], "seen": seen[kind], "filtered": filtered[kind]}
    return {kind: Split(rows(kind), split.prepare) for kind in KINDS}


def windows(images, outside):
    """The 3x3 windows of images [N, H, W], [N, H, W, 9]; `outside` stands beyond their edges."""
    wide = np.pad(images, ((0, 0), (1, 1), (1, 1)), constant_values=outside)
    return np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(1, 2)).reshape(*images.shape, 9)


def wiener(seen, noise):
    """The local Wiener filter: m + (v - noise^2)_+ / v (x - m), with mean m and variance v of the 3x3 window.

    Zeros stand outside.  Lim, Two-Dimensional Signal and Image Processing, 1990, p. 548, as in scipy.signal.wiener.

    >>> float(wiener(np.ones((1, 3, 3, 2)), 0.1)[0, 1, 1, 0])  # no variance: the mean
    1.0
    """
    x = np.float64(seen[..., 0])
    near = windows(x, 0.0)
    mean, variance = near.mean(axis=-1), near.var(axis=-1)
    share = np.maximum(variance - noise**2, 0.0) / np.maximum(variance, 1e-12)
    return np.float32(np.clip(mean + share * (x - mean), 0.0, 1.0))[..., None]


def median(seen):
    """The median of what was measured in the 3x3 window of a missing pixel; 0, the ground, where nothing was.

    >>> median(np.float32([[[1, 1], [0, 0], [0.5, 1]]]).reshape(1, 1, 3, 2))[0, 0, :, 0].tolist()
    [1.0, 0.75, 0.5]
    """
    values, measured = seen[..., 0], seen[..., 1] > 0
    near = windows(np.where(measured, values, np.nan), np.nan)
    nothing = np.isnan(near).all(axis=-1, keepdims=True)
    found = np.nanmedian(np.where(nothing, 0.0, near), axis=-1)
    return np.float32(np.where(measured, values, found))[..., None]


def cubic(seen):
    """Cubic interpolation between the means of 2x2 blocks."""
    means = jnp.asarray(seen[:, ::2, ::2, :1])
    return np.clip(np.asarray(jax.image.resize(means, (*seen.shape[:3], 1), "cubic")), 0.0, 1.0)

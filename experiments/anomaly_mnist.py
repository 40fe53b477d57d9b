"""MNIST against Fashion-MNIST, both ways: what a VAE trained on one says of the other, by seven scores.

Paper:    Nalisnick et al., Do Deep Generative Models Know What They Don't Know?, 2019, arXiv:1810.09136 (the failure of
          likelihood), and Detecting Out-of-Distribution Inputs ... Using Typicality, 2019, arXiv:1906.02994; Xiao, Yan
          and Amit, Likelihood Regret, 2020, arXiv:2003.02977; Serra et al., 2020, arXiv:1909.11480 (complexity)
Command:  genjax data prepare mnist; genjax data prepare fashion_mnist
          genjax train experiments/anomaly_mnist.py;  and with --normal mnist
Cost:     1 min of training, 40 s of measuring, on one core of an AMD EPYC
Measured: AUROC, 1,000 of each kind (ema, step 5,000), commit 6e4b36a, 2026-11-28; standard errors at most 0.012, over
          the anomalies

    normal     neg_iwae   typicality   regret   complexity   reconstruction   rate    size
    fashion    0.143      0.728        0.950    0.980        0.151            0.425   0.991
    mnist      0.999      0.998        1.000    0.993        0.999            0.262   0.009

Normal are the test images of the set that is trained on, anomalies those of the other; every score is larger for what
is less normal, and is judged by the area under the ROC curve:

    neg_iwae         an upper bound of -log p(x), k samples of z
    typicality       |neg_iwae - its mean over validation images|: what is too likely is not typical either
    regret           the negative ELBO less what it becomes when q(z | x) is fitted to this image alone
    complexity       neg_iwae less the image's size in nats as a PNG, which knows nothing of either set
    reconstruction   E_q[-log p(x | z)]
    rate             KL(q(z | x) || p(z))
    size             the size of the PNG alone, negative: what a score has to beat

The famous failure is neg_iwae with Fashion-MNIST as normal: digits, being simple, are the likelier ones.
"""

import io
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import Split, batches, fashion_mnist, mnist
from genjax.distributions import kl_normal_standard, log_mean_exp, sample_normal
from genjax.distributions.latent import diagonal_normal, standard_normal
from genjax.fields import Limits
from genjax.losses.variational import negative_elbo
from genjax.metrics.anomaly import placements
from genjax.models.blocks import MLP
from genjax.models.observation import check_support, discretized_logistic
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder

SHAPE, TYPICAL = (28, 28, 1), 2_000  # validation images that tell what is typical


def experiment(
    normal: Literal["fashion", "mnist"] = "fashion",
    latents: Count = 32,
    width: Count = 400,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 5_000,
    batch_size: Count = 100,
    judged: Annotated[int, Limits(2, 10_000)] = 1_000,
    samples: Count = 32,
    fitting: Count = 50,
) -> Experiment:
    """A dense VAE of 256 grey levels.

    Args:
      normal: the set that is trained on; the other one's images are the anomalies.
      latents: dimensions of z.
      width: units of each of the two hidden layers of encoder and decoder.
      learning_rate: Adam's, after a warm-up of 2 % of the steps; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation uses.
      steps: updates.
      batch_size: images in a batch.
      judged: test images of each set, spread over the whole of it.
      samples: of z, for the scores of each image.
      fitting: updates of an image's own q(z | x), for the regret.
    """
    data, other = (fashion_mnist(), mnist()) if normal == "fashion" else (mnist(), fashion_mnist())
    likelihood, prior = discretized_logistic(256), standard_normal(latents)
    check_support(data, likelihood)
    hidden = lambda: MLP((width, width), nn.relu)
    model = VAE(DenseEncoder(latents, hidden()), DenseDecoder(SHAPE, likelihood.multiplier, hidden()))
    encode = lambda params, x: model.apply(params, x, method="encode")
    decode = lambda params, z: model.apply(params, z, method="decode")

    def loss(params, state, batch, key):
        mean, log_var = encode(params, batch["image"])
        fit = likelihood.log_prob(decode(params, sample_normal(mean, log_var, key)), batch["image"])
        rate = kl_normal_standard(mean, log_var).sum(axis=-1)
        return Out(negative_elbo(fit, rate), {"rate": rate, "distortion": -fit})

    def bound(state, batch, key):
        out = loss(state.params, state, batch, key)
        return {"neg_elbo": out.loss, **out.metrics}

    def neg_elbo(params, x, mean, log_var, key):  # one z an image
        fit = likelihood.log_prob(decode(params, sample_normal(mean, log_var, key)), x)
        return -fit + kl_normal_standard(mean, log_var).sum(axis=-1)

    def regret(params, x, key):  # Xiao et al., 2020, section 3: the same noise before and after
        start, adam = encode(params, x), optax.adam(0.05)
        keys = jax.random.split(key, fitting + 1)
        cost = lambda law, key: neg_elbo(params, x, *law, key).sum()

        def fit(carry, key):
            law, moments = carry
            updates, moments = adam.update(jax.grad(cost)(law, key), moments)
            return (optax.apply_updates(law, updates), moments), None

        (law, _), _ = jax.lax.scan(fit, (start, adam.init(start)), keys[1:])
        told = lambda law: jnp.mean(
            jnp.stack([neg_elbo(params, x, *law, k) for k in jax.random.split(keys[0], 4)]), axis=0
        )
        return told(start) - told(law)

    def scores(state, batch, key):
        x, own = batch["image"], jax.random.split(key)
        mean, log_var = encode(state.params, x)
        z, log_q = diagonal_normal(mean, log_var).draw(own[0], samples)
        fit = likelihood.log_prob(decode(state.params, z), x)
        found = {"neg_iwae": -log_mean_exp(fit + prior.log_prob(z) - log_q), "reconstruction": -fit.mean(axis=0)}
        found["rate"] = kl_normal_standard(mean, log_var).sum(axis=-1)
        return {**found, "regret": regret(state.params, x, own[1]), "image": x, "set": batch["set"]}

    def areas(rows):
        size = np.array([png_nats(image) for image in np.round(255 * rows["image"]).astype(np.uint8)])
        typical = rows["neg_iwae"][rows["set"] == 2].mean()
        told = {name: rows[name] for name in ("neg_iwae", "regret", "reconstruction", "rate")}
        told |= {"typicality": np.abs(rows["neg_iwae"] - typical), "complexity": rows["neg_iwae"] - size, "size": -size}
        return {name: area(score[rows["set"] == 0], score[rows["set"] == 1]) for name, score in told.items()}

    def sample(state, key, n):
        return likelihood.mean(decode(state.params, prior.sample(key, n)))

    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 50, max(steps, 1))
    tx = optax.chain(
        optax.clip_by_global_norm(100.0), optax.adam(lambda step: learning_rate * shape(step)), ema(average)
    )
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["image"]))
    parts = {
        "neg_elbo": Quantity("upper bound of -log p(x)"),
        "rate": Quantity("exact KL"),
        "distortion": Quantity("estimate"),
    }
    told = Quantity(f"{judged:,} of {other.name} against as many of {data.name}", "AUROC", "higher")
    names = ("neg_iwae", "typicality", "regret", "complexity", "reconstruction", "rate", "size")
    rows = mixed(data, other, judged)
    return Experiment(
        stages=[Stage("vae", learner, batches(data.train, batch_size), steps, steps_per_call=50)],
        evaluations={
            "validation": Evaluation(bound, data.validation, 500, parts),
            "auroc": Evaluation(scores, rows, 250, dict.fromkeys(names, told), True, of_all=areas),
        },
        sample=sample,
        select="validation/neg_elbo",
        data=f"{data.name} against {other.name}",
    )


def mixed(data, other, judged):
    """Test images of both sets, spread over each, and validation images of the first: set 0, 1, 2."""
    spread = lambda images, count: images[np.unique(np.linspace(0, len(images) - 1, count).astype(int))]
    counts = ((data.test, judged), (other.test, judged), (data.validation, TYPICAL))
    parts = [spread(split.arrays["image"], min(count, len(split.arrays["image"]))) for split, count in counts]
    number = np.concatenate([np.full(len(part), i, np.int32) for i, part in enumerate(parts)])
    scale = lambda rows, key: {**rows, "image": rows["image"].astype(jnp.float32) / 255}
    return Split({"image": np.concatenate(parts), "set": number}, scale)


def area(normal, anomalous):
    """The AUROC and its standard error over the anomalies."""
    found = np.asarray(placements(normal, anomalous), np.float64)
    return float(found.mean()), float(found.std(ddof=1) / len(found) ** 0.5)


def png_nats(image):
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image[..., 0]).save(data, "PNG", optimize=True)
    return 8.0 * np.log(2.0) * len(data.getvalue())

"""Bounds that no importance weights accompany: denoising, spoken digits, training with exemplars; against integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from binary_images import IMAGES
from bounds import KEY, Setting, check_means, check_sums, drawn, every_image, opened, pictures
from planted import rejects

from genjax.distributions.latent import diagonal_normal, standard_normal
from genjax.models.blocks import MLP
from genjax.models.observation import discretized_logistic
from genjax.models.vae import VAE, ConvolutionalDecoder, ConvolutionalEncoder, DenseDecoder, DenseEncoder

LAWS = {"mean/kernel": lambda leaf: 0.4 * leaf, "log_var/kernel": lambda leaf: 0.1 * leaf}
LOGISTIC = {"output/kernel": lambda leaf: 0.3 * leaf, "output/bias": lambda leaf: np.resize([0.0, 1.0], leaf.shape)}
WIDE = {"log_var/bias": lambda leaf: 0.2 * leaf + 0.5}


def expectation(mean, log_var, function):
    """E of a function of one latent, z [n, B] -> [n, B], under N(mean, exp(log_var)) [B]: float64, on a grid."""
    eps = np.linspace(-8.0, 8.0, 801)
    weight = scipy.stats.norm.pdf(eps) * (eps[1] - eps[0])
    return weight @ np.float64(function(mean[None] + np.exp(0.5 * log_var)[None] * eps[:, None]))


def log_normal(z, mean, log_var):
    return scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * log_var))


# -- denoising: all images of 2x2 pixels of three levels, whatever the encoder saw of them -----------------------------

DENOISING = Setting(
    {"image": every_image(3, (2, 2, 1))},
    {"digits": lambda: pictures(3, (2, 2, 1))},
    {"latents": 2, "width": 4, "batch_size": 4},
    {**LAWS, **LOGISTIC, **WIDE},
    edits=(("(8, 8, 1)", "(2, 2, 1)"), ("discretized_logistic(17)", "discretized_logistic(3)")),
)


def weights_of_damaged(folder, sampled=lambda seen, clean: seen):
    """-log w [draws, X] of each damage, one z each: w = p(x | z) p(z) / q(z | what was seen), for z of that law."""
    module, _, state = opened(folder, "denoising_vae", DENOISING)
    likelihood, x = discretized_logistic(3), jnp.asarray(DENOISING.batch["image"])
    encoder, decoder = DenseEncoder(2, MLP((4, 4))), DenseDecoder((2, 2, 1), likelihood.multiplier, MLP((4, 4)))
    law = lambda seen: diagonal_normal(*encoder.apply(state.params["encoder"], seen))
    clean = jnp.concatenate([x, jnp.ones_like(x)], axis=-1)

    def one(seen, key):
        z = law(sampled(seen, clean)).sample(key)
        fit = likelihood.log_prob(decoder.apply(state.params["decoder"], z), x)
        return law(seen).log_prob(z) - standard_normal(2).log_prob(z) - fit

    def draw(key):
        how, own = jax.random.split(key)
        return {kind: one(seen, own) for kind, seen in module.damaged(x, how, 0.25, 0.5).items()}

    found = jax.jit(lambda keys: jax.lax.map(draw, keys, batch_size=100))(jax.random.split(KEY, 2_000))
    return {kind: np.float64(values) for kind, values in found.items()}


def check_damages(weights):
    for values in weights.values():
        check_sums(values)


def check_denoising(folder, weights, *edits):
    """The validation and the loss are the bound of each damage as often as of the others; its probabilities miss 1."""
    found = drawn(folder, "denoising_vae", DENOISING, edits, ("elbo", "loss"), draws=2_000)
    check_means(found["elbo"], sum(weights.values()) / len(weights))
    check_means(found["loss"][:, None], found["elbo"].mean(axis=1, keepdims=True))
    assert np.exp(-found["elbo"].mean(axis=0)).sum() < 0.9


@pytest.mark.slow
def test_any_damage_gives_a_bound_of_the_clean_image(tmp_path):
    weights = weights_of_damaged(tmp_path)
    check_damages(weights)
    rejects(check_damages, weights_of_damaged(tmp_path, sampled=lambda seen, clean: clean))
    check_denoising(tmp_path, weights)
    for edit in (
        ("kl_normal_standard(mean, log_var)", "0.5 * kl_normal_standard(mean, log_var)"),
        ("sample_normal(mean, log_var, key))\n        return like", "mean)\n        return like"),
        ("0, len(KINDS))", "0, len(KINDS) - 1)"),
        (
            'seen[kind, jnp.arange(len(kind))], batch["image"]',
            "(shown := seen[kind, jnp.arange(len(kind))]), shown[..., :1]",
        ),
    ):
        rejects(check_denoising, tmp_path, weights, edit)


# -- spoken digits: the ELBO of a few pictures by integration over the one latent --------------------------------------

PICTURE = (8, 8, 1)
SOUNDS = Setting(
    {"image": every_image(2, (2, 1, 1)).repeat(4, axis=1).repeat(8, axis=2)},
    {"sounds": lambda data, frames, rate: pictures(256, PICTURE)},
    {"latents": 1, "channels": 2, "width": 4, "batch_size": 4, "warm_up": 1, "steps": 1},
    {
        **LAWS,
        **WIDE,
        "decoder/conv_0/kernel": lambda leaf: 0.02 * leaf,
        "decoder/conv_0/bias": lambda leaf: np.float32([0.0, 1.0]),
    },
)


def elbo_of_sounds(folder):
    _, _, state = opened(folder, "vae_audio", SOUNDS)
    likelihood, x = discretized_logistic(256), SOUNDS.batch["image"]
    model = VAE(ConvolutionalEncoder(1, 2, 4), ConvolutionalDecoder(PICTURE, 2, 2, 4))
    mean, log_var = (np.float64(a[:, 0]) for a in model.apply(state.params, x, method="encode"))
    fit = jax.jit(lambda z: likelihood.log_prob(model.apply(state.params, z[..., None], method="decode"), x))
    distortion = -expectation(mean, log_var, lambda z: fit(np.float32(z)))
    return distortion + 0.5 * (mean**2 + np.exp(log_var) - 1.0 - log_var)


def check_sounds(folder, exact, *edits):
    found = drawn(folder, "vae_audio", SOUNDS, edits, ("elbo", "bits", "loss"), draws=4_000)
    check_means(found["elbo"], exact)
    check_means(found["bits"] * np.log(2.0), exact)
    check_means(found["loss"][:, None], exact.mean(keepdims=True))


def test_spoken_digits(tmp_path):
    exact = elbo_of_sounds(tmp_path)
    check_sounds(tmp_path, exact)
    for edit in (
        ("return fit, kl_normal", "return fit, 0.5 * kl_normal"),
        ("z = sample_normal(mean, log_var, key)", "z = mean"),
        ("rate, linear_warm_up", "rate, 0.9 * linear_warm_up"),
        ("bits(nats)", "nats"),
    ):
        rejects(check_sounds, tmp_path, exact, edit)


# -- exemplars: an image that is trained on is not its own exemplar ----------------------------------------------------

ROWS, OWN = np.array([6, 3, 0, 5, 7]), np.array([3, 1, 0, 7, 2, 6])  # of the exemplars, and of the examples


def with_exemplars(module, state):
    images = np.random.default_rng(3).random((8, 2, 3, 1), np.float32)
    images[OWN] = EXEMPLARS.batch["image"]
    return {"exemplar": images[ROWS], "exemplar_row": ROWS, "row": OWN}, state


EXEMPLARS = Setting(
    {"image": IMAGES[[3, 12, 22, 41, 63, 0]]},
    {"SHAPE": (2, 3, 1), "fashion_mnist_dynamic": lambda: pictures(2, (2, 3, 1), stored=256)},
    {"prior": "exemplar", "latents": 1, "width": 4, "batch_size": 4, "warm_up": 1, "epochs": 1, "exemplars": 5},
    {
        "log_var/kernel": lambda leaf: 0.1 * leaf,
        "log_var/bias": lambda leaf: leaf - 2.0,
        "prior": lambda leaf: leaf - 2.0,
    },
    more=with_exemplars,
)


def rate_without_itself(folder, own=OWN):
    """[B] E_q of log q - log 1/M sum over the exemplars that are not the example itself."""
    module, _, state = opened(folder, "vae_fashion", EXEMPLARS)
    encode = lambda x: [
        np.float64(a[:, 0]) for a in module.network(1, 1, 4).apply(state.params["vae"], x, method="encode")
    ]
    means, _ = encode(with_exemplars(module, state)[0]["exemplar"])
    mean, log_var = encode(EXEMPLARS.batch["image"])

    def log_prior(z):
        each = log_normal(z[..., None], means, float(state.params["prior"]))
        others = ROWS[None, None] != own[None, :, None]
        return scipy.special.logsumexp(each, axis=-1, b=others) - np.log(others.sum(axis=-1))

    return expectation(mean, log_var, lambda z: log_normal(z, mean[None], log_var[None]) - log_prior(z))


def check_rate(folder, exact, *edits):
    found = drawn(folder, "vae_fashion", EXEMPLARS, edits, ("rate",))
    check_means(found["rate"][:, None], exact.mean(keepdims=True))


def test_an_image_is_not_its_own_exemplar(tmp_path):
    exact = rate_without_itself(tmp_path)
    check_rate(tmp_path, exact)
    for edit in (
        (', batch["exemplar_row"], batch["row"])', ")"),
        ('batch["exemplar_row"], batch["row"])', 'batch["exemplar_row"], jnp.arange(6))'),
        ("q - p for q, p", "0.5 * (q - p) for q, p"),
    ):
        rejects(check_rate, tmp_path, exact, edit)

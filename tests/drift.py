"""Every experiment in a few updates, and its number: results/drift.json, by `python tests/drift.py [NAME...]`.

What a loss, an initialisation, an optimizer, a stream of random numbers or a measure does to an experiment shows in its
first numbers, long before it shows in those of a whole run.  A new experiment takes a line in SHORT, in the order of
the alphabet, and `python tests/drift.py NAME`.  Every stage does its few updates and takes up what it inherits.  Data
are the experiment's own where it runs offline, else those of toy_data.py; networks are tiny, as compiling costs the
most, and where measuring compiles for long the number is what training logs.  U-Nets are of one level here.

Tolerances are relative, and of float32 on different machines: sums in another order differ by about 1e-6, and a few
dozen updates let that grow.  How far was measured by updates longer by 1e-5, ten times such a difference: of most they
move the number by less than 1e-5, at most by 6e-5 (FixMatch), so that 1e-3 leaves room for another jaxlib; by 4e-6 and
less where 1e-4 is allowed.  A generator and its critic over 20 updates move by 2e-4 (2e-3 is allowed), two Boltzmann
machines by 2e-3 and 6e-3 (5e-3 and 2e-2): their states are drawn bit by bit and a small difference flips some, for
which the others have 5e-3 or 1e-2.  So do the signs by which few_images_fashion steers (5e-3; 2e-4 was seen between
two processes).  A mode is found or not, so that counts move by steps (1e-2).  Updates longer by a tenth move numbers by
more than is allowed, from 1.1 times (variants of a protein) to a thousand times (a schedule that is learned).
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from quick import quick
from toy_data import offline

from genjax import Stage, State, parallel
from genjax.evaluate import evaluator
from genjax.fields import load
from genjax.models.unet import UNet

ROOT = Path(__file__).parent.parent
NUMBERS = ROOT / "results" / "drift.json"
KEY = jax.random.key(0)


class Short(NamedTuple):
    """An experiment in a few updates of each of its stages."""

    name: str
    updates: int = 4
    fields: dict[str, Any] = {}
    measure: str = "train/loss"  # of an evaluation; or of training, the mean of what the last update of each stage logs
    tolerance: float = 1e-3  # relative
    smaller: dict[str, Any] = {}  # names of its file that stand for something else meanwhile


SMALL_UNET = {"UNet": lambda width, *_, classes=0, **how: UNet(width, (1,), 1, (), classes, how.get("dropout", 0.0))}

SHORT = (
    Short("anomaly_mnist", 20, {"width": 8, "latents": 2, "batch_size": 20, "learning_rate": 0.05}),
    Short("average_points", 20, {"width": 8, "blocks": 1, "batch_size": 32, "learning_rate": 0.03}),
    Short("bits_back_mnist", 20, {"width": 8, "latents": 2, "batch_size": 20, "learning_rate": 0.05}),
    Short("classifier_mnist", 12, {"images": "digits", "features": 16, "learning_rate": 0.01, "batch_size": 20}),
    Short("conditional_vae", 20, {"samples": 5}, measure="test/neg_iwae"),
    Short("consistency_digits", 20, {"width": 8, "blocks": 1, "levels": 5, "batch_size": 20, "learning_rate": 0.03}),
    Short("consistency_points", 20, {"width": 8, "blocks": 1, "levels": 4, "batch_size": 32, "learning_rate": 0.03}),
    Short("dbm_mnist", 20, {"hidden": 6, "deep": 5, "chains": 8, "batch_size": 20}, tolerance=0.01),
    Short("dbn_classifier", 20, {"widths": (6, 5), "batch_size": 20}, tolerance=0.01),
    Short("dbn_mnist", 20, {"widths": (6, 5), "chains": 8, "up_down": 20, "batch_size": 20}, tolerance=0.01),
    Short("dcgan_fashion", 4, {"latents": 4, "batch_size": 8, "learning_rate": 0.01}, measure="train/critic/loss"),
    Short("ddpm_cifar10", 4, {"width": 8, "warm_up": 1, "compute": "float32", "batch_size": 8, "learning_rate": 0.03},
          smaller=SMALL_UNET),
    Short("denoising_vae", 20, {"samples": 2}, measure="validation/neg_elbo"),
    Short("diffusion_classifier", 20, {"width": 8, "blocks": 1, "steps": 20, "batch_size": 20, "learning_rate": 0.03}),
    Short("diffusion_digits", 6, {"width": 8, "batch_size": 16, "learning_rate": 0.03, "steps": 20},
          smaller=SMALL_UNET),
    Short("diffusion_fashion", 6, {"width": 8, "batch_size": 8, "learning_rate": 0.03, "steps": 20},
          smaller=SMALL_UNET),
    Short("diffusion_points", 20, measure="validation/bound"),
    Short("diffwave_digits", 20, {"data": "spoken", "samples": 1024, "channels": 8, "layers": 1, "cycle": 1,
          "batch_size": 8, "learning_rate": 0.01, "steps": 60},
          tolerance=0.0002),
    Short("dit_cifar10", 8, {"layers": 1, "width": 16, "heads": 2, "patch": 8, "compute": "float32", "batch_size": 8,
          "learning_rate": 0.05}),
    Short("dmm_chorales", 20, {"latents": 2, "width": 8, "transition": 4, "emission": 4, "warm_up": 5, "frames": 5,
          "batch_size": 4, "learning_rate": 0.03}),
    Short("feature_matching_gan", 4, {"labels": 50, "batch_size": 10, "learning_rate": 0.02},
          measure="train/critic/loss"),
    Short("few_images_fashion", 4, {"examples": 24, "latents": 4, "width": 2, "batch_size": 8, "learning_rate": 0.02},
          measure="train/critic/loss", tolerance=0.005),
    Short("forecast_airline", 4, measure="fit/log_likelihood", tolerance=0.0001),
    Short("forecast_sunspots", 4, measure="fit/log_likelihood", tolerance=0.0001),
    Short("gan_anomaly", 10, {"latents": 2, "width": 8, "batch_size": 20, "learning_rate": 0.01},
          measure="train/critic/loss"),
    Short("gan_digits", 20, measure="validation/real", tolerance=0.002),
    Short("gan_gaussians", 40, {"width": 50, "units": 20}, measure="modes/reverse_kl", tolerance=0.01),
    Short("gpt_names", 20, {"layers": 1, "heads": 2, "width": 16, "batch_size": 8, "learning_rate": 0.03, "steps": 20}),
    Short("gpt_proteins", 20, {"layers": 1, "heads": 2, "width": 16, "context": 16, "batch_size": 8,
          "learning_rate": 0.03, "steps": 20}),
    Short("gpt_shakespeare", 20, {"layers": 1, "heads": 2, "width": 32, "context": 16}, measure="validation/nats"),
    Short("iaf_digits", 20, {"samples": 5}, measure="test/neg_iwae"),
    Short("iwae_mnist", 20, {"k": 5, "latents": 2, "width": 8, "held_out": 50, "learning_rate": 0.05}),
    Short("jem", 10, {"labels": 50, "width": 8, "k": 2, "chains": 20, "steps": 20, "batch_size": 10,
          "learning_rate": 0.03}),
    Short("ladder", 10, {"labels": 50, "widths": (8,), "batch_size": 10, "learning_rate": 0.02}),
    Short("latent_diffusion", 6, {"data": "digits", "dims": 2, "channels": 4, "layers": 1, "heads": 2, "width": 8,
          "batch_size": 16, "learning_rate": 0.03, "vae_steps": 20, "steps": 20}),
    Short("m2", 10, {"latents": 2, "width": 8, "labels": 50, "batch_size": 10, "learning_rate": 0.03}),
    Short("made_mnist", 20, {"hidden": (50,)}, measure="test/nll"),
    Short("masked_mnist", 20, {"hidden": (16,), "batch_size": 20, "learning_rate": 0.03}, tolerance=0.0001),
    Short("masked_text", 20, {"layers": 1, "heads": 2, "width": 16, "context": 8, "batch_size": 8,
          "learning_rate": 0.03, "steps": 20}),
    Short("music_chorales", 20, {"network": "gru"}, measure="test/nll"),
    Short("nade_mnist", 10, {"units": 4, "batch_size": 20, "learning_rate": 0.03}),
    Short("pixelcnn_digits", 4, {"layers": 2, "channels": 8, "batch_size": 20, "learning_rate": 0.03, "steps": 20}),
    Short("pixelcnn_mnist", 4, {"blocks": 1, "channels": 4, "learning_rate": 0.03, "steps": 20}),
    Short("progressive_emoji", 4, {"data": "pictures.npy", "latents": 4, "steps": 8, "batch_size": 4,
          "learning_rate": 0.02},
          measure="train/critic/loss", smaller={"WIDTHS": (8, 8)}),
    Short("progressive_fashion", 4, {"levels": 2, "latents": 4, "steps": 8, "batch_size": 4, "learning_rate": 0.02},
          measure="train/critic/loss", smaller={"WIDTHS": (8, 8)}),
    Short("progressive_mnist_rgb", 4, {"features": "RUN", "resolution": 8, "critic_steps": 1, "steps": 100,
          "batch_size": 4, "learning_rate": 0.02},
          measure="train/critic/loss"),
    Short("protein_families", 20, {"data": "family.fasta", "motif": "", "hidden": 3, "k": 2, "steps": 20,
          "batch_size": 10, "learning_rate": 0.03},
          tolerance=0.005),
    Short("protein_landscape", 20, {"shots": 50, "hidden": 3, "learning_rate": 0.1}, measure="validation/loss"),
    Short("rbm_anomaly", 20, {"hidden": 8, "chains": 20, "batch_size": 20}, tolerance=0.01),
    Short("rbm_digits", 200, {"hidden": 8, "learning_rate": 1.0}, measure="test/nll", tolerance=0.005),
    Short("rbm_labels", 100, measure="test/nll", tolerance=0.02),
    Short("rbm_mnist", 20, {"hidden": 6, "chains": 8, "batch_size": 20}, tolerance=0.01),
    Short("rbm_mnist_exact", 20, {"hidden": 6, "chains": 8, "batch_size": 20, "learning_rate": 0.1},
          measure="test/log_likelihood", tolerance=0.005),
    Short("rnn_nade_chorales", 10, {"width": 8, "units": 4, "frames": 5, "batch_size": 4, "learning_rate": 0.03}),
    Short("rnn_rbm_chorales", 10, {"width": 8, "hidden": 3, "k": 2, "frames": 5, "batch_size": 4,
          "learning_rate": 0.03},
          tolerance=0.01),
    Short("semi_supervised", 8, {"labels": 50, "batch_size": 10, "learning_rate": 0.03}),
    Short("stacked_mnist", 4, {"features": "RUN", "latents": 4, "batch_size": 4, "learning_rate": 0.01},
          measure="train/critic/loss"),
    Short("vae_anomaly", 20, {"samples": 2}, measure="validation/neg_elbo"),
    Short("vae_audio", 4, {"data": "spoken", "latents": 2, "channels": 2, "width": 4, "frames": 16, "batch_size": 4,
          "learning_rate": 0.03}),
    Short("vae_digits", 30, {"samples": 5}, measure="test/neg_iwae"),
    Short("vae_fashion", 20, {"latents": 2, "width": 8, "warm_up": 1, "epochs": 1, "batch_size": 20,
          "learning_rate": 0.005}),
    Short("vae_text", 10, {"latents": 2, "embedding": 4, "width": 8, "warm_up": 5, "batch_size": 8,
          "learning_rate": 0.03}),
    Short("vdm_mnist", 6, {"width": 8, "layers": 1, "patch": 14, "sigmoids": 4, "batch_size": 8, "learning_rate": 0.03,
          "steps": 20}),
    Short("vdvae_mnist", 4, {"width": 4, "latents": 2, "blocks": (1, 1, 1, 1), "batch_size": 8, "learning_rate": 0.03,
          "steps": 20},
          tolerance=0.0005),
    Short("video_moving_mnist", 4, {"content": 2, "motion_units": 2, "width": 2, "batch_size": 4,
          "learning_rate": 0.003},
          measure="train/critic/loss"),
    Short("vq_vae_fashion", 6, {"data": "digits", "codes": 16, "dims": 4, "channels": 4, "blocks": 1, "prior_layers": 1,
          "prior_heads": 1, "prior_width": 8, "learning_rate": 0.03, "batch_size": 20, "steps": 20, "prior_steps": 20}),
)  # fmt: skip


def number(short: Short, **changes: Any) -> float:
    """The measure of an experiment after its few updates."""
    with offline():
        function = load(ROOT / "experiments" / f"{short.name}.py").function
        function.__globals__.update(short.smaller)
        experiment = function(**{**short.fields, **changes})
        state, logged = None, []
        for stage in experiment.stages:
            state, told = trained(stage, state, short.updates)
            logged.append(told)
        split, _, name = short.measure.partition("/")
        if split == "train":
            return float(np.mean([metrics[name] for metrics in jax.device_get(logged)], dtype=np.float64))
        return float(evaluator(experiment.evaluations[split], parallel.mesh(1))(state, KEY)[name].value)


def trained(stage: Stage, previous: State | None, updates: int) -> tuple[State, Any]:
    """A stage's state after some updates from what it inherits, and what the last one logged."""
    start = quick(lambda feed: stage.learner.init(KEY, stage.data.batch(feed, KEY, 0)))
    update = quick(lambda state, feed: stage.learner.update(state, stage.data.batch(feed, KEY, state.step), KEY))
    state, logged = start(stage.data.resident), {}
    if previous is not None and stage.inherit is not None:
        state = quick(stage.inherit)(previous, state)
    for _ in range(updates):
        state, logged = update(state, stage.data.resident)
    return state, logged


def known() -> dict[str, float]:
    """The numbers of results/drift.json."""
    return json.loads(NUMBERS.read_text(encoding="utf-8"))


def write(names: Sequence[str] = ()) -> None:
    """Write results/drift.json: the numbers of the named experiments anew, or of all."""
    numbers = known() if NUMBERS.exists() else {}
    for short in SHORT:
        if not names or short.name in names:
            numbers[short.name] = round(number(short), 6)
    ordered = {short.name: numbers[short.name] for short in SHORT if short.name in numbers}
    NUMBERS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1:])

"""How many of 1,000 modes a GAN with a crippled critic finds: three digits of MNIST as colours, grown or not.

Paper:    Karras, Aila, Laine and Lehtinen, Progressive Growing of GANs, 2018, arXiv:1710.10196, the test of discrete
          modes in its appendix (from memory): WGAN-GP 772 modes with K/2, 640 with K/4; with all changes 920, 860
Command:  genjax data prepare mnist; genjax train experiments/classifier_mnist.py --workdir classifier
          genjax train experiments/progressive_mnist_rgb.py --features classifier                            (GPU)
          the ladder: --training baseline, normalised, stddev, progressive; --divisor 2
Cost:     --training baseline --steps 100: one minute of processor time on a busy core of an AMD EPYC
Measured: partial, --training baseline --steps 100, K/4, 32,000 of 10 million images (0.3 %): 845 modes, KL 1.41 nats
          (25,600 samples, ema, step 100; digits named by a classifier_mnist.py of 0.56 % errors), 2026-11-27.  Its
          samples are coloured blobs and no digits: so early the count says what the classifier calls blobs.
          --training progressive --steps 100 ran to its end and was not counted; the rest not yet

The baseline normalises nothing, where the published one has batch normalisation: its count is not the paper's.  The
critic learns five times for one update of the generator.  Of all updates 4, 8, 8 and 80 % are those of 4, 8, 16 and 32
pixels, and a level fades in over 4 % of them: 10 million images in all, as published.  Digits of 28 pixels stand in a
frame of 32.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import (
    BadInput,
    Count,
    Evaluation,
    Experiment,
    Fraction,
    NonNegative,
    Player,
    Positive,
    Quantity,
    Stage,
    alternate,
    ema,
)
from genjax.data import Split, mnist, stacked, unchanged
from genjax.feature_net import classifier_labels
from genjax.losses.games import wasserstein_game
from genjax.metrics.modes import stacked_modes
from genjax.models.gan_layers import doubled, halved
from genjax.models.progressive import faded, inherited, side
from genjax.models.small_progressive import CrippledCritic, SmallGenerator, level_of

FRAME, LATENTS, FADE = 2, 64, 0.04  # pixels around a digit; of z; share of all updates in which a level fades in
SHARES = {0: FADE, 1: 2 * FADE, 2: 2 * FADE}  # of all updates, of the levels below the top


def experiment(
    features: str,
    training: Literal["baseline", "normalised", "stddev", "progressive"] = "progressive",
    divisor: Count = 4,
    resolution: Count = 32,
    critic_steps: Count = 5,
    penalty: NonNegative = 10.0,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 31_250,
    batch_size: Count = 64,
    samples: Count = 25_600,
) -> Experiment:
    """WGAN-GP, and what the paper adds to it, one after the other.

    Args:
      features: a run of classifier_mnist.py on MNIST.
      training: each contains those before it.
      divisor: K: the critic has a K-th of the generator's channels, 2 or 4.
      resolution: pixels of a side, 4 to 32, a power of two.
      critic_steps: updates of the critic for one of the generator, each on fresh images.
      penalty: weight of the gradient penalty.
      learning_rate: Adam's, of both networks, constant.
      average: decay of the moving average of the generator.
      steps: updates of the generator, of all levels together.
      batch_size: images in a batch.
      samples: whose modes are counted.
    """
    top = level_of(resolution)
    if side(top) > 28 + 2 * FRAME:
        raise BadInput(f"resolution = {resolution}", f"allowed: 4 to {28 + 2 * FRAME}")
    if not features:
        raise BadInput("features is empty", "allowed: a run of classifier_mnist.py", "--features RUN")
    digits = mnist()
    named, data = classifier_labels(features, digits.name), stacked(digits.train, critic_steps * batch_size, FRAME)
    levels = range(top + 1) if training == "progressive" else (top,)
    spent = [max(round(SHARES[level] * steps), 1) for level in levels[:-1]]
    lengths = [*spent, max(steps - sum(spent), 0)]
    fade = max(round(FADE * steps), 1)
    settings = (training, top, divisor, critic_steps, penalty, learning_rate, average, fade)
    stages = [
        Stage(f"pixels_{side(level)}", learner(level, *settings), data, length, grown if level != levels[0] else None)
        for level, length in zip(levels, lengths, strict=True)
    ]
    generator = SmallGenerator(top, normalised=training != "baseline")

    def sample(state, key, n):
        images = generator.apply(state.params["generator"], jax.random.normal(key, (n, LATENTS)))
        return 0.5 * unframed(images) + 0.5

    def measure(state, batch, key):  # levels as bytes: tens of thousands of colour pictures
        return {"drawn": jnp.round(255 * sample(state, key, len(batch["number"]))).astype(jnp.uint8)}

    def counted(rows):
        return stacked_modes(rows["drawn"], named.apply)._asdict()

    kinds = {
        "count": Quantity(f"modes found of 1,000; {named.name}", "modes", "higher"),
        "reverse_kl": Quantity(f"estimate of KL(modes of samples || even); {named.name}"),
    }
    drawn = Split({"number": np.arange(samples, dtype=np.int32)}, unchanged)
    return Experiment(
        stages=stages,
        evaluations={"modes": Evaluation(measure, drawn, min(samples, 512), kinds, True, of_all=counted)},
        sample=sample,
        data="stacked mnist",
    )


def learner(level, training, top, divisor, critic_steps, penalty, rate, average, fade):
    """Both networks at a level."""
    normalised, growing = training != "baseline", training == "progressive" and level > 0
    generator = SmallGenerator(level, normalised=normalised)
    critic = CrippledCritic(level, top, divisor, 3, normalised, training in ("stddev", "progressive"))
    alpha = lambda state: jnp.minimum(state.step / fade, 1.0) if growing else None
    at_start = 1.0 if growing else None

    def real(state, batch):
        x = 2.0 * at_level(batch["image"], level) - 1.0
        return faded(x, alpha(state)) if growing else x

    def init(key, batch):
        x, z = at_level(batch["image"], level), jnp.ones((1, LATENTS))
        keys = jax.random.split(key)
        return {"critic": critic.init(keys[0], x, at_start), "generator": generator.init(keys[1], z, at_start)}

    def draw(params, state, batch, key):
        return generator.apply(params, jax.random.normal(key, (len(batch["image"]), LATENTS)), alpha(state))

    score = lambda params, state, batch, x: critic.apply(params, x, alpha(state))
    game = wasserstein_game(draw, score, real, penalty)
    tx = functools.partial(optax.adam, rate, b1=0.0, b2=0.99)
    players = {
        "critic": Player(game.critic, tx(), critic_steps),
        "generator": Player(game.generator, optax.chain(tx(), ema(average))),
    }
    return alternate(players, init)


def grown(previous, fresh):
    """The next level's state: layers of the same name and shape are those of the level below."""
    return fresh._replace(params={n: inherited(previous.params[n], fresh.params[n]) for n in fresh.params})


def at_level(images, level):
    """Images of 32 pixels, halved to those of a level."""
    while images.shape[1] > side(level):
        images = halved(images)
    return images


def unframed(images):
    """Images of 28 pixels, without the frame; smaller ones are doubled first."""
    while images.shape[1] < 28 + 2 * FRAME:
        images = doubled(images)
    return images[:, FRAME:-FRAME, FRAME:-FRAME]

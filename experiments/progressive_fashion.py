"""Progressive growing on Fashion-MNIST: from 4x4 to 32x32 pixels, a stage a level, by WGAN-GP.

Paper:    Karras, Aila, Laine and Lehtinen, Progressive Growing of GANs, 2018, arXiv:1710.10196; on this data no number
Command:  genjax data prepare fashion_mnist; genjax train experiments/progressive_fashion.py
Cost:     --steps 1500: 68 min on one shared core of an AMD EPYC
Measured: --steps 1500: sliced Wasserstein distance x 1,000 to 10,000 test images (7x7 patches, 16 an image, ema, step
          1,500 of the last level) 22.1 at 32 pixels, 26.3 at 16; of 10,000 training images 4.65 and 4.82, 2026-11-27.
          3,000 updates a level, stopped at step 2,404 of the last, took 195 s on one H200 that another run shared

Every level is a stage: while its newest block fades in, over the first half of its updates, real images fade as well.
What the level below learned is where the next one begins; Adam's moments begin anew unless `--keep-moments`.  Then old
blocks keep their moments, and new ones begin at zero without the correction of their bias: their first steps are long.
The 28x28 pixels stand in a frame of 32x32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import (
    BadInput,
    Count,
    Evaluation,
    Experiment,
    File,
    Fraction,
    NonNegative,
    Picture,
    Player,
    Positive,
    Quantity,
    Stage,
    alternate,
    ema,
)
from genjax.data import Split, batches, fashion_mnist, scaled
from genjax.losses.games import wasserstein_game
from genjax.metrics.sliced_wasserstein import pyramid_distances
from genjax.models.gan_layers import halved
from genjax.models.progressive import Discriminator, Generator, faded, inherited, side
from genjax.report.gif import gif_file
from genjax.samplers.latents import interpolate_spherical, tiles

WIDTHS, FRAME = (128, 128, 64, 32), 2  # channels of the levels; pixels around the image


def experiment(
    levels: Count = 4,
    latents: Count = 128,
    learning_rate: Positive = 1e-3,
    penalty: NonNegative = 10.0,
    drift: NonNegative = 1e-3,
    average: Fraction = 0.999,
    keep_moments: bool = False,
    steps: int = 6_000,
    batch_size: Count = 64,
    patches: Count = 16,
) -> Experiment:
    """A generator and a critic that grow.

    Args:
      levels: 1 to 4: of 4, 8, 16 and 32 pixels.
      latents: dimensions of z.
      learning_rate: Adam's, of both networks, constant.
      penalty: weight of the gradient penalty.
      drift: weight of the critic's squared score of real images, which keeps it near zero.
      average: decay of the moving average of the generator, which begins anew at every level.
      keep_moments: whether Adam's moments of old blocks go on at the next level.
      steps: updates of each network at every level.
      batch_size: images in a batch; groups of 4 share their standard deviation.
      patches: of each image and scale, for the sliced Wasserstein distance; 128 in the paper.
    """
    if levels > len(WIDTHS):
        raise BadInput(f"levels = {levels}", f"allowed: 1 to {len(WIDTHS)}, up to {side(len(WIDTHS) - 1)} pixels")
    if batch_size % min(4, batch_size):
        raise BadInput(f"batch_size = {batch_size}", "allowed: multiples of 4, the group whose deviation is told")
    data = framed(fashion_mnist())
    top = levels - 1
    stages = [
        Stage(
            f"pixels_{side(level)}",
            learner(level, latents, learning_rate, penalty, drift, average, steps),
            batches(data["train"], batch_size),
            steps,
            functools.partial(grown, keep_moments) if level else None,
        )
        for level in range(levels)
    ]

    def make(state, z, level=top):  # as far as the newest block has faded in
        images = Generator(WIDTHS, level, 1).apply(state.params["generator"], z, fading(state, level, steps))
        return pictures(images)

    draw = lambda state, key, n: make(state, jax.random.normal(key, (n, latents)))
    seen = jnp.asarray(data["test"].arrays["image"][:32] / np.float32(255))

    def beside(level):  # real images above drawn ones, both at the size of a level
        drawn = lambda state, key: make(state, jax.random.normal(key, (len(seen), latents)), level)
        return Picture(lambda state, key: jnp.stack([at_level(seen, level), drawn(state, key)]), stages[level].name)

    def measure(state, batch, key):
        return {"real": at_level(batch["image"], top), "fake": draw(state, key, len(batch["image"]))}

    def distances(rows):
        rng = np.random.default_rng(0)
        smallest = min(side(top), 16)
        found = pyramid_distances(rows["real"], rows["fake"], rng, smallest, patches)
        train = np.asarray(at_level(data["train"].arrays["image"][: len(rows["real"])] / np.float32(255), top))
        floor = pyramid_distances(rows["real"], train, rng, smallest, patches)
        return {
            f"{name}_{pixels}": 1_000 * distance
            for name, by_scale in (("swd", found), ("swd_of_training_images", floor))
            for pixels, distance in by_scale.items()
        }

    def between(state, key, points):  # eight walks from a latent to another, along the arc: [points, 8, ...]
        ends = jax.random.normal(key, (2, 8, latents))
        z = interpolate_spherical(ends[0], ends[1], points)
        return jax.vmap(lambda z: make(state, z))(z)

    def walk(state, key):
        seen = between(state, key, 10).swapaxes(0, 1)
        return tiles(seen.reshape(-1, *seen.shape[2:]), 10, scale=2)

    def moving(state, key):
        return jax.vmap(lambda images: tiles(images, 8)[0])(between(state, key, 24))

    kind = f"sliced Wasserstein distance x 1,000 of 7x7 patches, {patches} an image, no feature net"
    names = [f"{name}_{side(k)}" for name in ("swd", "swd_of_training_images") for k in range(top, min(top, 2) - 1, -1)]
    measured = {name: Quantity(kind, "") for name in names}
    return Experiment(
        stages=stages,
        evaluations={"test": Evaluation(measure, data["test"], 500, measured, final=True, of_all=distances)}
        if top
        else {},
        sample=draw,
        pictures={"walk": walk} | {f"pixels_{side(k)}": beside(k) for k in range(levels)},
        files={"walk.gif": File(moving, functools.partial(gif_file, scale=2))},
        data="fashion_mnist",
    )


def learner(level, latents, rate, penalty, drift, average, steps):
    """Both networks at a level, a critic's update and then a generator's."""
    generator, critic = Generator(WIDTHS, level, 1), Discriminator(WIDTHS, level)
    fade = lambda state: fading(state, level, steps)

    def init(key, batch):
        x, z = at_level(batch["image"], level), jnp.ones((len(batch["image"]), latents))
        keys = jax.random.split(key)
        return {"critic": critic.init(keys[0], x, 1.0), "generator": generator.init(keys[1], z, 1.0)}

    def drawn(params, state, batch, key):
        return generator.apply(params, jax.random.normal(key, (len(batch["image"]), latents)), fade(state))

    def real(state, batch):
        x = 2.0 * at_level(batch["image"], level) - 1.0
        return faded(x, fade(state)) if level else x

    score = lambda params, state, batch, images: critic.apply(params, images, fade(state))
    game = wasserstein_game(drawn, score, real, penalty, drift)
    tx = lambda: optax.adam(rate, b1=0.0, b2=0.99, eps=1e-8)
    players = {
        "critic": Player(game.critic, tx()),
        "generator": Player(game.generator, optax.chain(tx(), ema(average))),
    }
    return alternate(players, init)


def fading(state, level, steps):
    """alpha: from 0 to 1 over the first half of a level's updates."""
    return jnp.minimum(2.0 * state.step / max(steps, 1), 1.0) if level else 1.0


def grown(keep_moments, previous, fresh):
    """The next level's state: layers of the same name and shape are those of the level below."""
    params = {name: inherited(previous.params[name], fresh.params[name]) for name in fresh.params}
    if not keep_moments:
        return fresh._replace(params=params)
    critic = inherited(previous.opt_state["critic"], fresh.opt_state["critic"])
    moments, average = fresh.opt_state["generator"]
    moments = inherited(previous.opt_state["generator"][0], moments)
    return fresh._replace(params=params, opt_state={"critic": critic, "generator": (moments, average)})


def at_level(images, level):
    """Real images of 32 pixels, halved to those of a level."""
    images = jnp.asarray(images)
    while images.shape[1] > side(level):
        images = halved(images)
    return images


def framed(data):
    """The splits with two dark pixels around each image."""
    frame = ((0, 0), (FRAME, FRAME), (FRAME, FRAME), (0, 0))
    of = lambda split: Split({"image": np.pad(split.arrays["image"], frame)}, scaled(256))
    return {name: of(getattr(data, name)) for name in ("train", "test")}


def pictures(images):
    return jnp.clip(0.5 * images + 0.5, 0.0, 1.0)

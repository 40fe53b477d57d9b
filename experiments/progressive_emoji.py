"""Progressive growing on 64-pixel emoji in colour: from 4x4 pixels, a stage a level, by WGAN-GP.

Paper:    Karras, Aila, Laine and Lehtinen, Progressive Growing of GANs, 2018, arXiv:1710.10196; on this data no number
Command:  genjax train experiments/progressive_emoji.py --data FOLDER                                       (GPU)
Cost:     see Measured
Measured: nothing yet in full; 2,500 updates a level had reached 32 pixels after 200 s on one H200 that it shared

The folder holds square pictures of 64 pixels, such as the Twemoji; where they have an alpha channel they are laid on
white.  Pictures are mirrored at random: a few thousand are few for a critic.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Experiment, File, Fraction, NonNegative, Picture, Player, Positive, Stage, alternate, ema
from genjax.data import Split, batches, from_file, scaled
from genjax.errors import BadInput
from genjax.losses.augmentation import augmented
from genjax.losses.augmented_games import changed_game
from genjax.losses.games import wasserstein_game
from genjax.models.gan_layers import halved
from genjax.models.progressive import Discriminator, Generator, faded, inherited, side
from genjax.report.gif import gif_file
from genjax.samplers.latents import interpolate_spherical, tiles

WIDTHS = (256, 256, 128, 64, 32)  # channels of the levels


def experiment(
    data: str,
    latents: Count = 256,
    learning_rate: Positive = 1e-3,
    penalty: NonNegative = 10.0,
    drift: NonNegative = 1e-3,
    average: Fraction = 0.999,
    augment: Fraction = 0.0,
    steps: int = 10_000,
    batch_size: Count = 64,
) -> Experiment:
    """A generator and a critic that grow.

    Args:
      data: folder of pictures, or an array of them, [N, 64, 64, C].
      latents: dimensions of z.
      learning_rate: Adam's, of both networks, constant.
      penalty: weight of the gradient penalty.
      drift: weight of the critic's squared score of real images.
      average: decay of the moving average of the generator, which begins anew at every level.
      augment: probability of each change of what the critic sees: colour, translation, cutout.
      steps: updates of each network at every level.
      batch_size: images in a batch; groups of 4 share their standard deviation.
    """
    if batch_size % min(4, batch_size):
        raise BadInput(f"batch_size = {batch_size}", "allowed: multiples of 4, the group whose deviation is told")
    pictures_of, top = on_white(bytes_of(data)), len(WIDTHS) - 1
    stages = [
        Stage(
            f"pixels_{side(level)}",
            learner(level, latents, learning_rate, penalty, drift, average, augment, steps),
            batches(Split({"image": pictures_of}, scaled(256)), batch_size),
            steps,
            grown if level else None,
        )
        for level in range(top + 1)
    ]

    def make(state, z, level=top):  # as far as the newest block has faded in
        images = Generator(WIDTHS, level, 3).apply(state.params["generator"], z, fading(state, level, steps))
        return pictures(images)

    seen = jnp.asarray(pictures_of[:32] / np.float32(255))

    def beside(level):  # real pictures above drawn ones, both at the size of a level
        drawn = lambda state, key: make(state, jax.random.normal(key, (len(seen), latents)), level)
        return Picture(lambda state, key: jnp.stack([at_level(seen, level), drawn(state, key)]), stages[level].name)

    def moving(state, key):  # eight walks from a latent to another, along the arc
        ends = jax.random.normal(key, (2, 8, latents))
        z = interpolate_spherical(ends[0], ends[1], 24)
        return jax.vmap(lambda z: tiles(make(state, z), 8)[0])(z)

    return Experiment(
        stages=stages,
        sample=lambda state, key, n: make(state, jax.random.normal(key, (n, latents))),
        pictures={f"pixels_{side(k)}": beside(k) for k in range(top + 1)},
        files={"walk.gif": File(moving, gif_file)},
        data=data,
    )


def learner(level, latents, rate, penalty, drift, average, augment, steps):
    """Both networks at a level, a critic's update and then a generator's."""
    generator, critic = Generator(WIDTHS, level, 3), Discriminator(WIDTHS, level)
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
    play = lambda score: wasserstein_game(drawn, score, real, penalty, drift)
    changed = lambda state, images, key: augmented(images, key, augment)
    game = changed_game(play, score, changed) if augment else play(score)
    tx = lambda: optax.adam(rate, b1=0.0, b2=0.99, eps=1e-8)
    players = {
        "critic": Player(game.critic, tx()),
        "generator": Player(game.generator, optax.chain(tx(), ema(average))),
    }
    return alternate(players, init)


def fading(state, level, steps):
    """alpha: from 0 to 1 over the first half of a level's updates."""
    return jnp.minimum(2.0 * state.step / max(steps, 1), 1.0) if level else 1.0


def grown(previous, fresh):
    """The next level's state: layers of the same name and shape are those of the level below."""
    return fresh._replace(params={n: inherited(previous.params[n], fresh.params[n]) for n in fresh.params})


def at_level(images, level):
    """Real images, halved to those of a level."""
    while images.shape[1] > side(level):
        images = halved(images)
    return images


def bytes_of(path):
    """The pictures of a folder or an array of bytes; numbers that are no levels from 0 to 255 would all be dark."""
    arrays = from_file(path).train.arrays
    images = arrays.get("image", np.zeros(0))
    if images.dtype != np.uint8 or images.max() <= 1:
        told = f"{path} holds {', '.join(f'{name} {array.dtype}' for name, array in arrays.items())}"
        raise BadInput(told, "allowed: pictures as bytes, levels from 0 to 255", "np.round(255 * x).astype(np.uint8)")
    return images


def on_white(images):
    """uint8 [N, 64, 64, 3] of pictures in grey, in colour, or with an alpha channel; a second half mirrored."""
    if images.shape[1:3] != (side(len(WIDTHS) - 1),) * 2:
        raise BadInput(f"pictures of {images.shape[2]}x{images.shape[1]} pixels", "allowed: 64x64")
    colour = np.repeat(images[..., :1], 3, axis=-1) if images.shape[-1] < 3 else images[..., :3]
    if images.shape[-1] == 4:
        alpha = images[..., 3:].astype(np.float32) / 255
        colour = np.round(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.concatenate([colour, colour[:, :, ::-1]])


def pictures(images):
    return jnp.clip(0.5 * images + 0.5, 0.0, 1.0)

"""Films of moving digits from a GAN with two critics: one of single frames, one of whole clips.

Paper:    Tulyakov, Liu, Yang and Kautz, MoCoGAN, 2018, arXiv:1707.04993 (content and motion, the two critics); Clark,
          Donahue and Simonyan, 2019, arXiv:1907.06571 (the critic of clips sees halved frames); Mescheder, Geiger and
          Nowozin, 2018, arXiv:1801.04406 (the logistic game with R1); the data: Srivastava et al., 2015,
          arXiv:1502.04681, generated
Command:  genjax data prepare mnist; genjax train experiments/video_moving_mnist.py
          larger, and not yet run: --side 64 --digits 2 --width 128 --batch-size 64 --average 0.999
          --learning-rate 5e-4 --steps 100000                                                            (GPU)
Cost:     22 min on one core of an AMD EPYC that others used too; an update took 0.30 s when it was quieter: 9 min
Measured: 1,000 drawn clips against 1,000 test clips (ema, step 1,800), and of as many validation clips, 2026-11-27:
          Frechet distance of frames in pixels 3.05 (2.19); Kolmogorov-Smirnov distance of speeds 0.340 (0.011), of
          turns 0.583 (0.016), of flicker 1 (0); mean speed 2.20 pixels a frame (1.80).  Spots of a digit's size move
          smoothly and in all directions; their shapes are not yet digits and change from frame to frame

The generator's loss is the sum of what it owes to either critic, and the critics' that of their own two games: they
share no parameter, so one player descends both, each with its own R1.  The critic of frames sees one frame of a clip,
taken at random, for which the generator draws no other; real and drawn frames are of the same times.

Of one digit the truth is known: it goes on at 1.8 pixels a frame but where it bounces, and neither grows nor fades, so
that the distance of flicker is 1 for any drawn clips whose brightness changes at all; its mean tells more.
Beside each distance of drawn clips from test clips stands that of as many validation clips.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import (
    Count,
    Evaluation,
    Experiment,
    File,
    Fraction,
    NonNegative,
    Out,
    Player,
    Positive,
    Quantity,
    Stage,
    alternate,
    ema,
)
from genjax.data import batches, moving_mnist, take
from genjax.losses.games import logistic_game
from genjax.metrics.features import about, pixels
from genjax.metrics.frechet import frechet_distance, moments
from genjax.metrics.motion import motion, motion_distances
from genjax.models.gan import ConvCritic
from genjax.models.gan_layers import halved
from genjax.models.video import ClipCritic, ClipGenerator
from genjax.report.gif import gif_file
from genjax.samplers.latents import tiles

FRAMES, JUDGED = 16, 1_000  # test clips, and as many samples


def experiment(
    side: Literal[32, 64] = 32,
    digits: Count = 1,
    content: Count = 32,
    motion_units: Count = 32,
    width: Count = 32,
    frame_penalty: NonNegative = 0.1,
    clip_penalty: NonNegative = 0.1,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.995,
    steps: int = 1_800,
    batch_size: Count = 16,
) -> Experiment:
    """A generator of clips, and critics of frames and of clips.

    Args:
      side: pixels.
      digits: of a clip.
      content: dimensions of z, which all frames of a clip share.
      motion_units: of the recurrent network, and dimensions of the noise that moves it in every frame.
      width: channels of all three networks at half of the size; twice as many at a quarter.
      frame_penalty: weight of R1 of the critic of frames.
      clip_penalty: weight of R1 of the critic of clips.
      learning_rate: Adam's, of all networks, constant.
      average: decay of the moving average of the generator.
      steps: updates of each network.
      batch_size: clips in a batch.
    """
    data, net = moving_mnist(side, digits, FRAMES), pixels()
    generator = ClipGenerator((side, side, 1), motion_units, (2 * width, width))
    critics = {"frames": ConvCritic((width, 2 * width)), "clips": ClipCritic((width, 2 * width))}

    def noise(key, n):
        keys = jax.random.split(key)
        return jax.random.normal(keys[0], (n, content)), jax.random.normal(keys[1], (n, FRAMES, motion_units))

    def times(state, n):  # of the frames that the critic sees in this update
        return jax.random.randint(jax.random.fold_in(jax.random.key(0), state.step), (n,), 0, FRAMES)

    def draw_clips(params, state, batch, key):
        return smaller(generator.apply(params, *noise(key, len(batch["clip"]))))

    def draw_frames(params, state, batch, key):
        latents = generator.apply(params, *noise(key, len(batch["clip"])), method="latents")
        return generator.apply(params, at(latents, times(state, len(latents))), method="images")

    score = lambda name: lambda params, state, batch, x: critics[name].apply(params[name], x)
    real_clips = lambda state, batch: smaller(2.0 * batch["clip"] - 1.0)
    real_frames = lambda state, batch: at(2.0 * batch["clip"] - 1.0, times(state, len(batch["clip"])))
    games = {
        "frames": logistic_game(draw_frames, score("frames"), real_frames, frame_penalty),
        "clips": logistic_game(draw_clips, score("clips"), real_clips, clip_penalty),
    }

    def init(key, batch):
        keys, x = jax.random.split(key, 3), 2.0 * batch["clip"] - 1.0
        seen = {"frames": critics["frames"].init(keys[0], x[:, 0]), "clips": critics["clips"].init(keys[1], smaller(x))}
        return {"critic": seen, "generator": generator.init(keys[2], *noise(key, len(x)))}

    def clips(state, key, n):
        return pictures(generator.apply(state.params["generator"], *noise(key, n)))

    def outputs(state, batch, key):
        given, told = state.params, {}
        drawn = {"frames": draw_frames, "clips": draw_clips}
        for name, real in (("frames", real_frames), ("clips", real_clips)):
            of = lambda x, name=name: score(name)(given["critic"], state, batch, x)
            told |= {f"{name}_real": of(real(state, batch))}
            told |= {f"{name}_drawn": of(drawn[name](given["generator"], state, batch, key))}
        return told

    def measure(state, batch, key):
        return {"real": batch["clip"], "drawn": clips(state, key, len(batch["clip"]))}

    def judged(rows):
        other = np.asarray(data.validation.arrays["clip"][: len(rows["real"])], np.float32) / 255
        best = {f"{name}_of_held_out": value for name, value in against(rows["real"], other, net).items()}
        found = {name: motion(rows[name]) for name in DRAWN}
        means = {f"{what}_{name}": float(getattr(found[name], what).mean()) for what in MEANS for name in found}
        return {**against(rows["real"], rows["drawn"], net), **best, **means}

    def beside(state, key):  # four test clips, and below six drawn ones; a row a clip
        real = jnp.asarray(data.test.arrays["clip"][:4], jnp.float32) / 255
        return strips(jnp.concatenate([real, clips(state, key, 6)]))

    def recombined(state, key):  # three contents with each of two motions
        z, e = noise(key, 3)
        given = jnp.tile(z, (2, 1)), jnp.repeat(e[:2], 3, axis=0)
        return strips(pictures(generator.apply(state.params["generator"], *given)))

    def film(state, key):  # test clips above, drawn ones below
        real = jnp.asarray(data.test.arrays["clip"][:8], jnp.float32) / 255
        rows = framed(jnp.concatenate([real, clips(state, key, 16)])).swapaxes(0, 1)
        return jax.vmap(lambda now: tiles(now, 8)[0])(rows)

    tx = lambda: optax.adam(learning_rate, b1=0.0, b2=0.99)
    players = {
        "critic": Player(both(games["frames"].critic, games["clips"].critic), tx()),
        "generator": Player(both(games["frames"].generator, games["clips"].generator), optax.chain(tx(), ema(average))),
    }
    kinds = {name: Quantity(kind, "", "lower") for name, kind in MEASURES.items()}
    kinds["frechet"] = kinds["frechet"]._replace(kind=f"Frechet distance of frames; {about(net)}")
    best = {f"{name}_of_held_out": quantity for name, quantity in kinds.items()}
    means = {
        f"{what}_{name}": Quantity(f"mean {what} of {name} clips", MEANS[what]) for what in MEANS for name in DRAWN
    }
    said = [f"{part}_{name}" for part in ("frames", "clips") for name in DRAWN]
    few = lambda split, count: split._replace(arrays=take(split.arrays, slice(count)))
    return Experiment(
        stages=[Stage("video", alternate(players, init), batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(
                outputs, few(data.validation, 500), 100, {name: Quantity("a critic's mean output", "") for name in said}
            ),
            "test": Evaluation(
                measure, few(data.test, JUDGED), 100, {**kinds, **best, **means}, final=True, of_all=judged
            ),
        },
        sample=lambda state, key, n: jax.vmap(lambda clip: tiles(clip, FRAMES)[0])(framed(clips(state, key, n))),
        pictures={"real_and_drawn": beside, "recombined": recombined},
        files={"clips.gif": File(film, functools.partial(gif_file, scale=2, back=False))},
        data=data.name,
        shown=16,
    )


DRAWN = ("real", "drawn")
MEANS = {"speed": "pixels a frame", "turn": "pixels a frame squared", "flicker": ""}
MEASURES = {
    "frechet": "Frechet distance of frames",
    "speed": "Kolmogorov-Smirnov distance of the speed of a clip's centre",
    "turn": "Kolmogorov-Smirnov distance of the change of its velocity",
    "flicker": "Kolmogorov-Smirnov distance of the relative change of brightness in a clip",
}


def against(real, other, net):
    """How clips stand to real ones, [N, T, H, W, C] both; of frames one a clip, their times in turn."""
    one = lambda clips: net.apply(clips[np.arange(len(clips)), np.arange(len(clips)) % clips.shape[1]])
    return {"frechet": frechet_distance(moments(one(real)), moments(one(other)))} | motion_distances(
        real, other
    )._asdict()


def both(frames, clips):
    """The sum of the losses of two games, with their own keys; what they log under their names."""

    def loss(params, state, batch, key):
        keys = jax.random.split(key)
        outs = {"frames": frames(params, state, batch, keys[0]), "clips": clips(params, state, batch, keys[1])}
        told = {f"{name}_{what}": value for name, out in outs.items() for what, value in out.metrics.items()}
        return Out(outs["frames"].loss + outs["clips"].loss, told)

    return loss


def smaller(clips):
    return halved(clips.reshape(-1, *clips.shape[2:])).reshape(*clips.shape[:2], *(n // 2 for n in clips.shape[2:4]), 1)


def at(rows, times):
    return jnp.take_along_axis(rows, times.reshape(-1, *[1] * (rows.ndim - 1)), axis=1)[:, 0]


def framed(clips):
    return jnp.pad(clips, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=0.5)


def strips(clips):
    return tiles(framed(clips).reshape(-1, *framed(clips).shape[2:]), clips.shape[1])


def pictures(images):
    return 0.5 * images + 0.5

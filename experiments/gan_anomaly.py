"""Anomalies by a GAN's critic: a digit that training never saw; offline.

Paper:    none; the protocol is that of vae_anomaly.py, the game that of gan_digits.py
Command:  genjax sweep experiments/gan_anomaly.py held_out=0:10
Cost:     about 20 s of a shared core a digit, 35 s more compiling
Measured: AUROC (174 to 183 anomalies of each digit against 220 to 230 others, ema, step 5,000), 2026-11-28

    digit              0     1     2     3     4     5     6     7     8     9    mean
    critic           0.986 0.876 0.987 0.953 0.976 0.966 0.994 0.929 0.974 0.960  0.960
    nearest          0.999 0.967 0.999 0.987 0.998 0.993 0.994 0.999 0.987 0.984  0.991

The standard error is at most 0.012.  The critic knows more than a VAE's bound does on average (vae_anomaly.py: 0.927),
and less than the training images themselves.

`critic` is what the critic says of an image, negative: its output is larger for what looks real.  The more it has won
or lost against its generator, the less it knows of images that neither training nor generator show, so that nothing
promises that it ranks those.  `nearest` is the squared distance of pixels to the nearest training image: what a score
has to beat.
"""

import jax
import jax.numpy as jnp
import optax
from gan_digits import Critic, Generator, pictures
from vae_anomaly import divided, told_apart

from genjax import (
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
from genjax.data import batches, digits
from genjax.losses.games import relativistic_game
from genjax.metrics.anomaly import nearest_square


def experiment(
    held_out: int = 8,
    latents: Count = 16,
    width: Count = 256,
    gamma: NonNegative = 0.1,
    learning_rate: Positive = 5e-4,
    average: Fraction = 0.999,
    steps: int = 5_000,
    batch_size: Count = 100,
) -> Experiment:
    """The generator and critic of gan_digits.py without one of the digits.

    Args:
      held_out: the digit, 0 to 9, that is not trained on.
      latents: dimensions of z.
      width: units of the two hidden layers of each network.
      gamma: weight of the penalties on the critic's slope at real and at drawn images.
      learning_rate: Adam's, of both networks; it falls to zero along a cosine.
      average: decay of the moving averages of both networks.
      steps: updates of each network.
      batch_size: images in a batch.
    """
    data = digits()
    train, validation, test, anomalies = divided(data, held_out)
    generator, critic = Generator(width), Critic(width)
    z_of = lambda key, n: jax.random.normal(key, (n, latents))
    draw = lambda params, state, batch, key: generator.apply(params, z_of(key, len(batch["image"])))
    score = lambda params, state, batch, x: critic.apply(params, x)
    game = relativistic_game(draw, score, lambda state, batch: scaled(batch["image"]), gamma)

    def init(key, batch):
        keys = jax.random.split(key)
        return {
            "critic": critic.init(keys[0], scaled(batch["image"])),
            "generator": generator.init(keys[1], z_of(key, 1)),
        }

    def scores(state, x, key):
        x = scaled(x)
        seen = scaled(jnp.asarray(train.arrays["image"], jnp.float32) / 16)
        return {"critic": -critic.apply(state.params["critic"], x), "nearest": nearest_square(seen, x)}

    def outputs(state, batch, key):
        of = lambda x: critic.apply(state.params["critic"], x)
        return {"real": of(scaled(batch["image"])), "drawn": of(draw(state.params["generator"], state, batch, key))}

    tx = lambda: optax.chain(
        optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), b1=0.0, b2=0.99), ema(average)
    )
    players = {"critic": Player(game.critic, tx()), "generator": Player(game.generator, tx())}
    area = Quantity(f"digit {held_out} against {len(test.arrays['label'])} of the others", "AUROC", "higher")
    said = {
        "real": Quantity("the critic's mean output, known up to a constant"),
        "drawn": Quantity("the critic's mean output of drawn images"),
    }
    return Experiment(
        stages=[Stage("gan", alternate(players, init), batches(train, batch_size), steps, steps_per_call=50)],
        evaluations={
            "validation": Evaluation(outputs, validation, 250, said),
            "auroc": Evaluation(
                told_apart(test, scores), anomalies, 250, {"critic": area, "nearest": area}, final=True
            ),
        },
        sample=lambda state, key, n: pictures(generator.apply(state.params["generator"], z_of(key, n))),
        data=f"{data.name} without {held_out}",
    )


def scaled(images):
    return 2.0 * images.reshape(len(images), -1) - 1.0

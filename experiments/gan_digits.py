"""A relativistic GAN with two gradient penalties on scikit-learn's handwritten digits; dense layers, offline.

Paper:    Huang et al., The GAN is dead; long live the GAN!, 2024, arXiv:2501.05441 (the loss)
Command:  genjax train experiments/gan_digits.py
Cost:     54 s on one core of an AMD EPYC, compilation and evaluation included
Measured: 250 samples against 250 test images, in pixels (ema, step 20,000), and of as many training images, 2026-11-27:
          precision 0.916 (0.884), recall 0.892 (0.924), density 1.13 (0.95), coverage 0.976 (0.980), told apart by a
          nearest neighbour 0.558 (0.490); a sample is nearer to training images than a held-out image is with
          probability 0.45; the critic says 1.60 of training images, 1.03 of held-out and 0.85 of drawn ones; latents
          scaled by psi = 0.3, 0.5, 0.7, 1: precision 0.956, 0.976, 0.968, 0.916, recall 0.080, 0.376, 0.684, 0.892

What the critic says of training images, of held-out ones and of drawn ones stands in the report's curves: where the
first two part, it has learned the training set by heart.  Samples are judged in pixels by their neighbours: precision
and recall, whether a nearest neighbour tells the two sets apart, whether samples are nearer to training images than
held-out images are.  What 250 training images reach against the same 250 test images stands beside it.  Latents scaled
towards their mean draw fewer kinds of digits: recall falls all the way, precision rises to psi = 0.5 and not beyond.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

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
from genjax.metrics.neighbours import memorisation, nearest
from genjax.metrics.precision_recall import precision_recall
from genjax.metrics.samples import NEIGHBOURHOODS, neighbourhoods
from genjax.metrics.two_sample import neighbour_test
from genjax.models.blocks import MLP
from genjax.samplers.editing import inverted
from genjax.samplers.latents import interpolate_spherical, tiles
from genjax.samplers.truncation import towards_mean

SIDE, D = 8, 64
LADDER = (0.3, 0.5, 0.7)  # psi; 1 are the samples themselves


def experiment(
    latents: Count = 16,
    width: Count = 256,
    gamma: NonNegative = 0.1,
    learning_rate: Positive = 5e-4,
    average: Fraction = 0.999,
    steps: int = 20_000,
    batch_size: Count = 100,
) -> Experiment:
    """A generator and a critic, an update each in turn.

    Args:
      latents: dimensions of z.
      width: units of the two hidden layers of each network.
      gamma: weight of the penalties on the critic's slope at real and at drawn images.
      learning_rate: Adam's, of both networks; it falls to zero along a cosine.
      average: decay of the moving average of the generator.
      steps: updates of each network.
      batch_size: images in a batch.
    """
    data = digits()
    generator, critic = Generator(width), Critic(width)
    z_of = lambda key, n: jax.random.normal(key, (n, latents))

    def draw(params, state, batch, key):
        return generator.apply(params, z_of(key, len(batch["image"])))

    score = lambda params, state, batch, x: critic.apply(params, x)
    real = lambda state, batch: 2.0 * batch["image"].reshape(-1, D) - 1.0
    game = relativistic_game(draw, score, real, gamma)

    def init(key, batch):
        keys = jax.random.split(key)
        return {"critic": critic.init(keys[0], real(None, batch)), "generator": generator.init(keys[1], z_of(key, 1))}

    def sample(state, key, n):
        return pictures(generator.apply(state.params["generator"], z_of(key, n)))

    def outputs(state, batch, key):
        drawn = draw(state.params["generator"], state, batch, key)
        of = lambda x: score(state.params["critic"], state, batch, x)
        return {"real": of(real(state, batch)), "drawn": of(drawn)}

    def measure(state, batch, key):
        z = z_of(key, len(batch["image"]))
        of = lambda psi: pictures(generator.apply(state.params["generator"], towards_mean(z, psi)))
        return {"real": batch["image"], "drawn": of(1.0), **{f"psi_{psi}": of(psi) for psi in LADDER}}

    def judged(rows):
        train = np.asarray(data.train.arrays["image"], np.float64).reshape(-1, D) / 16
        held_out, drawn = (rows[name].reshape(-1, D) for name in ("real", "drawn"))
        seen = train[np.random.default_rng(0).permutation(len(train))[: len(held_out)]]
        far = nearest(held_out, train).distance[:, 0]
        copies = memorisation(nearest(drawn, train).distance[:, 0], far)
        of = lambda samples: against(held_out, samples)
        best = {f"{name}_of_training_images": value for name, value in of(seen).items()}
        nearer = {psi: precision_recall(held_out, rows[f"psi_{psi}"].reshape(-1, D))._asdict() for psi in LADDER}
        fewer = {f"{name}_psi_{psi}": value for psi, both in nearer.items() for name, value in both.items()}
        return {**of(drawn), "memorisation": copies.score, **fewer, **best}

    def walk(state, key):  # eight walks from a latent to another, along the arc
        ends = jax.random.normal(key, (2, 8, latents))
        z = interpolate_spherical(ends[0], ends[1], 12).swapaxes(0, 1).reshape(-1, latents)
        apart = jnp.pad(pictures(generator.apply(state.params["generator"], z)), ((0, 0), (0, 1), (0, 1), (0, 0)))
        return tiles(apart, 12, scale=4)

    def truncation(state, key):  # the same twelve latents; from top to bottom they come back from their mean
        z = jnp.concatenate([towards_mean(z_of(key, 12), psi) for psi in (*LADDER, 1.0)])
        apart = jnp.pad(pictures(generator.apply(state.params["generator"], z)), ((0, 0), (0, 1), (0, 1), (0, 0)))
        return tiles(apart, 12, scale=4)

    def inversion(state, key):  # test digits, and below what their latents draw
        make = lambda z: generator.apply(state.params["generator"], z)
        x = 2.0 * jnp.asarray(data.test.arrays["image"][:16], jnp.float32).reshape(-1, D) / 16 - 1.0
        found = inverted(make, x, latents, key, optax.adam(0.05), weight=0.1)
        return jnp.stack([pictures(x), pictures(make(found.z))])

    tx = lambda: optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), b1=0.0, b2=0.99)
    players = {
        "critic": Player(game.critic, tx()),
        "generator": Player(game.generator, optax.chain(tx(), ema(average))),
    }
    said = {
        "real": Quantity("the critic's mean output, known up to a constant"),
        "drawn": Quantity("the critic's mean output of drawn images"),
    }
    kinds = {name: Quantity(f"{kind}, pixels", "", better) for name, (kind, better) in MEASURES.items()}
    best = {f"{name}_of_training_images": quantity for name, quantity in kinds.items()}
    ladder = {f"{name}_psi_{psi}": kinds[name] for psi in LADDER for name in ("precision", "recall")}
    near = {"memorisation": Quantity("probability that a sample is nearer to training images than a held-out one", "")}
    return Experiment(
        stages=[Stage("gan", alternate(players, init), batches(data.train, batch_size), steps, steps_per_call=50)],
        evaluations={
            "train": Evaluation(outputs, data.train, 500, said),
            "validation": Evaluation(outputs, data.validation, 250, said),
            "test": Evaluation(measure, data.test, 250, {**kinds, **near, **ladder, **best}, final=True, of_all=judged),
        },
        sample=sample,
        pictures={"walk": walk, "inverted": inversion, "truncation": truncation},
        data=data.name,
    )


MEASURES = {
    **NEIGHBOURHOODS,
    "neighbour": ("accuracy of a nearest neighbour; 1/2: samples cannot be told from real images, below: copies", ""),
}


def against(real, samples):
    """How samples stand to real images, [N, D] both."""
    test = neighbour_test(real, samples, np.random.default_rng(0), orders=1)
    return {**neighbourhoods(real, samples), "neighbour": test.accuracy}


class Generator(nn.Module):
    """z [B, Z] -> [B, 64] in [-1, 1]."""

    width: int

    @nn.compact
    def __call__(self, z):
        return nn.tanh(nn.Dense(D)(MLP((self.width, self.width), activation=leaky)(z)))


class Critic(nn.Module):
    """x [B, 64] -> [B]."""

    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(MLP((self.width, self.width), activation=leaky)(x))[:, 0]


def leaky(x):
    return nn.leaky_relu(x, 0.2)


def pictures(x):
    return (0.5 * x + 0.5).reshape(-1, SIDE, SIDE, 1)

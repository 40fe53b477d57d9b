"""Modes that a GAN finds among 25 normals on a grid, or 8 on a ring, with and without packing.

Paper:    Lin, Khetan, Fanti and Oh, PacGAN, 2018, arXiv:1712.04086, table 1: of 25 modes GAN 17.3, PacGAN2 23.8,
          PacGAN3 24.6, PacGAN4 24.8, mean of 10 runs, 400 epochs of 100,000 points in batches of 100
Command:  genjax train experiments/gan_gaussians.py --pack 4; ten seeds: genjax sweep FILE seed=0:10 --vmap
Cost:     14 ms an update of two networks with --pack 2 on one core of an AMD EPYC: 97 min
Measured: nothing in full; a tenth of it, --pack 1 --steps 40000 (9 min): 22 modes of 25, 37 % of samples within 3
          deviations of one, reverse KL 0.215; --pack 4 at 32,000 updates (25 ms each): 19 modes, 2 %, 0.076, 2026-11-27

As published: latents of two dimensions, a generator of four layers of 400 rectifiers with batch normalisation, a
discriminator of three layers of 200 units, each the largest of 5, Adam of rate 1e-4 and b1 0.8.  A pack is m points
side by side; a batch holds 100 packs.  2,500 samples are judged: a mode is found if a sample lies within 3 deviations
of it.  Normalisation is by the batch also where samples are drawn, so that they are drawn 100 or more at a time.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Evaluation, Experiment, Fraction, Player, Positive, Quantity, Stage, Target, alternate
from genjax.data import Split, batches, unchanged
from genjax.losses.games import logistic_game
from genjax.losses.penalties import packed
from genjax.metrics.modes import gaussian_modes

PAPER = "Lin, Khetan, Fanti and Oh, 2018, arXiv:1712.04086, table 1"
PROTOCOL = (
    "100,000 points, sd 0.05, 400 epochs, batches of 100, G 400, D 200 maxout 5, rate 1e-4; published mean of 10 runs"
)
TARGETS = (
    Target("22-gan", 17.3, "modes", "modes/count", "25 normals", "a", PAPER, PROTOCOL, options="--pack 1",
           tolerance=1.5),
    Target("22-pacgan4", 24.8, "modes", "modes/count", "25 normals", "a", PAPER, PROTOCOL, options="--pack 4",
           tolerance=1.5),
)  # fmt: skip

POINTS, JUDGED, LATENTS = 100_000, 2_500, 2


def experiment(
    modes: Literal["grid", "ring"] = "grid",
    pack: Count = 1,
    width: Count = 400,
    units: Count = 200,
    learning_rate: Positive = 1e-4,
    b1: Fraction = 0.8,
    steps: int = 400_000,
    batch_size: Count = 100,
) -> Experiment:
    """The non-saturating game of packs.

    Args:
      modes: 5 x 5 normals of deviation 0.05 on a grid of step 2, or 8 of deviation 0.01 on the unit circle.
      pack: m, points that the discriminator sees at once.
      width: units of the generator's layers.
      units: of the discriminator's layers.
      learning_rate: Adam's, of both networks.
      b1: Adam's.
      steps: updates of each network.
      batch_size: packs in a batch.
    """
    centres, deviation = places(modes)
    points = mixture(centres, deviation, POINTS + JUDGED)
    train, judged = (Split({"x": part}, unchanged) for part in (points[:POINTS], points[POINTS:]))
    source = batches(train, pack * batch_size)
    packs = source._replace(batch=lambda feed, key, step: {"x": packed(source.batch(feed, key, step)["x"], pack)})
    generator, critic = Generator(width), Critic(units)
    made = lambda params, key, n: generator.apply(params, jax.random.normal(key, (n, LATENTS)))

    def draw(params, state, batch, key):
        return packed(made(params, key, pack * len(batch["x"])), pack)

    def init(key, batch):
        keys = jax.random.split(key)
        drawn = jnp.ones((2, LATENTS))
        return {"critic": critic.init(keys[0], batch["x"]), "generator": generator.init(keys[1], drawn)}

    game = logistic_game(draw, lambda params, state, batch, x: critic.apply(params, x), lambda state, batch: batch["x"])
    sample = lambda state, key, n: made(state.params["generator"], key, max(n, batch_size))[:n]
    found = lambda rows: gaussian_modes(rows["drawn"], centres, deviation)._asdict()

    def measure(state, batch, key):
        return {"drawn": made(state.params["generator"], key, len(batch["x"]))}

    def scattered(state, key):  # data above, samples below
        return jnp.stack([density(points[-JUDGED:], centres)[None], density(sample(state, key, JUDGED), centres)[None]])

    players = {
        "critic": Player(game.critic, optax.adam(learning_rate, b1=b1)),
        "generator": Player(game.generator, optax.adam(learning_rate, b1=b1)),
    }
    measured = {
        "count": Quantity(f"modes found of {len(centres)}, by {JUDGED:,} samples", "modes", "higher"),
        "high_quality": Quantity("share of samples within 3 deviations of a mode", "", "higher"),
        "reverse_kl": Quantity("estimate of KL(modes of samples || even)"),
    }
    return Experiment(
        stages=[Stage("gan", alternate(players, init), packs, steps, steps_per_call=50)],
        evaluations={"modes": Evaluation(measure, judged, JUDGED, measured, of_all=found)},
        sample=sample,
        pictures={"points": scattered},
        formats={".csv": lambda points: "\n".join(f"{x:.6f},{y:.6f}" for x, y in points).encode() + b"\n"},
        data=f"{len(centres)} normals",
    )


class Generator(nn.Module):
    """z [B, 2] -> points [B, 2]."""

    width: int

    @nn.compact
    def __call__(self, x):
        for number in range(4):
            x = jax.nn.standardize(nn.Dense(self.width)(x), axis=0)
            scale = self.param(f"scale_{number}", nn.initializers.ones, (self.width,))
            shift = self.param(f"shift_{number}", nn.initializers.zeros, (self.width,))
            x = nn.relu(x * scale[None] + shift[None])
        return nn.Dense(2)(x)


class Critic(nn.Module):
    """Packs [B, 2 m] -> logits [B]."""

    units: int

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.Dense(5 * self.units)(x).reshape(len(x), self.units, 5).max(axis=-1)
        return nn.Dense(1)(x)[:, 0]


def places(modes):
    """Centres [K, 2] and the deviation around them."""
    if modes == "grid":
        return np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], np.float64), 0.05
    angles = 2 * np.pi * np.arange(8) / 8
    return np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.01


def mixture(centres, deviation, count):
    """Points [count, 2], float32, the same in every run."""
    rng = np.random.default_rng(0)
    drawn = centres[rng.integers(len(centres), size=count)] + deviation * rng.normal(size=(count, 2))
    return drawn.astype(np.float32)


def density(points, centres, side=96):
    """Counts of points as a picture [side, side, 1]: half the range of the centres wider than they are."""
    extent = 1.25 * np.abs(centres).max()
    cells = jnp.clip(((jnp.asarray(points) / extent + 1) * side / 2).astype(jnp.int32), 0, side - 1)
    counts = jnp.zeros((side, side)).at[side - 1 - cells[:, 1], cells[:, 0]].add(1.0)
    return jnp.minimum(counts / 8.0, 1.0)[..., None]

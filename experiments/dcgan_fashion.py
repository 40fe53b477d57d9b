"""A convolutional GAN on Fashion-MNIST or MNIST, by the logistic game with R1, WGAN-GP or R3GAN; with labels or not.

Paper:    Radford, Metz and Chintala, DCGAN, 2016, arXiv:1511.06434 (the networks); Mescheder, Geiger and Nowozin, 2018,
          arXiv:1801.04406 (R1); Miyato and Koyama, 2018, arXiv:1802.05637 (labels by projection); Huang et al., 2024,
          arXiv:2501.05441 (residual networks)
Command:  genjax data prepare fashion_mnist; genjax train experiments/dcgan_fashion.py
          and with --game wasserstein; --game relativistic; --conditional; --images mnist; --network residual
          distances in the features of a classifier: --features RUN, a run of classifier_mnist.py on the same images;
          of EfficientNet-Lite0: --features FILE.pth, see genjax/feature_net.py
Cost:     --steps 5000: 14 min on one core of an AMD EPYC
Measured: --images mnist --conditional --steps 5000, 5,000 samples against 5,000 test images in the features of a
          classifier of 0.56 % errors (ema): 2.26 % of samples called another class, Frechet distance 14.1, precision
          0.774, recall 0.767, density 0.713, coverage 0.744, 2026-11-27
          Fashion-MNIST, in the features of one of 8.6 % errors: --steps 5000 Frechet distance 210.6, precision 0.770,
          recall 0.490; --game relativistic --steps 4000 72.0, 0.702, 0.601; --game wasserstein --penalty 10
          --critic-steps 5 --steps 1000 124.2, 0.615, 0.119 (10 to 13 min of one shared core each); --network residual,
          a smoke test stopped at step 545: 275.5, 0.742, 0.009, 2026-11-27
          edits by the second of these (relativistic): of 90 to another class the classifier calls 64 by that class

Without `--features` distances are those of pixels, and their names say so.  With a classifier, and without labels, the
report shows edits: the first test image of each class, what its latent draws, and that moved towards each class, along
the direction to the latents of those samples that the classifier calls by it.  What the critic says of training images,
of held-out and of drawn ones stands in the report's curves: where the first two part, it has learned images by heart.
"""

from typing import Literal

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
from genjax.data import batches, fashion_mnist, mnist, take
from genjax.feature_net import classifier_label, classifier_labels, features_of, is_run
from genjax.losses.games import logistic_game, relativistic_game, wasserstein_game
from genjax.metrics.features import about, pixels
from genjax.metrics.samples import DISTANCES, distances
from genjax.models.conditional import check_labels
from genjax.models.gan import ConvCritic, ConvGenerator
from genjax.models.residual_gan import ResidualCritic, ResidualGenerator
from genjax.samplers.editing import inverted, label_direction
from genjax.samplers.latents import interpolate_spherical, tiles
from genjax.samplers.truncation import towards_mean

SHAPE, JUDGED = (28, 28, 1), 5_000  # test images, and as many samples
LADDER = (0.3, 0.5, 0.7, 1.0)  # psi, rows of the picture of truncation
STRENGTH, CALLED = 5.0, 2_000  # of an edit, in standard deviations of z; samples that its directions are found by
NETWORKS = {"convolutional": (ConvGenerator, ConvCritic), "residual": (ResidualGenerator, ResidualCritic)}


def experiment(
    images: Literal["fashion", "mnist"] = "fashion",
    game: Literal["logistic", "wasserstein", "relativistic"] = "logistic",
    conditional: bool = False,
    features: str = "",
    network: Literal["convolutional", "residual"] = "convolutional",
    latents: Count = 64,
    penalty: NonNegative = 0.1,
    critic_steps: Count = 1,
    learning_rate: Positive = 5e-4,
    b1: float = 0.0,
    average: Fraction = 0.999,
    steps: int = 20_000,
    batch_size: Count = 64,
) -> Experiment:
    """A generator and a critic.

    Args:
      images: the data set.
      game: which losses the two descend.
      conditional: whether both networks see the label.
      features: a run of classifier_mnist.py, or weights of EfficientNet-Lite0 (.pth); empty: pixels are compared.
      network: transposed and strided convolutions, or blocks that begin as their shortcuts, without normalisation.
      latents: dimensions of z.
      penalty: weight of R1, of R1 + R2, or of the gradient penalty of `wasserstein`: there 10 is usual.
      critic_steps: updates of the critic for one of the generator, each on fresh images; 5 is usual for `wasserstein`.
      learning_rate: Adam's, of both networks, constant.
      b1: Adam's.
      average: decay of the moving average of the generator.
      steps: updates of the generator.
      batch_size: images in a batch.
    """
    data = {"fashion": fashion_mnist, "mnist": mnist}[images]()
    classes = check_labels(data)
    known = classes if conditional else 0
    Generator, Critic = NETWORKS[network]
    generator, critic = Generator(SHAPE, classes=known), Critic(classes=known)
    net = features_of(features, data.name) if features else pixels()
    named = bool(features) and is_run(features)  # it knows the classes of these images
    label_of = classifier_label(features, data.name) if named and not conditional else None
    z_of = lambda key, n: jax.random.normal(key, (n, latents))
    labels = lambda batch: (batch["label"],) if conditional else ()

    def draw(params, state, batch, key):
        return generator.apply(params, z_of(key, len(batch["image"])), *labels(batch))

    def real(state, batch):
        return 2.0 * batch["image"] - 1.0

    def init(key, batch):
        keys = jax.random.split(key)
        x, z = real(None, batch), z_of(key, len(batch["image"]))
        given = labels(batch)
        return {"critic": critic.init(keys[0], x, *given), "generator": generator.init(keys[1], z, *given)}

    def score(params, state, batch, x):
        return critic.apply(params, x, *labels(batch))

    games = {"logistic": logistic_game, "wasserstein": wasserstein_game, "relativistic": relativistic_game}
    played = games[game](draw, score, real, penalty)

    def sample(state, key, n):  # with labels: one class after the other
        given = (jnp.arange(n) % classes,) if conditional else ()
        return pictures(generator.apply(state.params["generator"], z_of(key, n), *given))

    def outputs(state, batch, key):
        drawn = draw(state.params["generator"], state, batch, key)
        of = lambda x: score(state.params["critic"], state, batch, x)
        return {"real": of(real(state, batch)), "drawn": of(drawn)}

    def measure(state, batch, key):
        drawn = pictures(draw(state.params["generator"], state, batch, key))
        return {"real": batch["image"], "drawn": drawn, "label": batch["label"]}

    def judged(rows):
        x, y = (net.apply(rows[name]) for name in ("real", "drawn"))
        found = distances(x, y)
        if conditional and named:
            called = classifier_labels(features, data.name).apply(rows["drawn"])[:, 0]
            found["wrong_label"] = 100.0 * float(np.mean(called != rows["label"]))
        return found

    def walk(state, key):  # eight walks from a latent to another, along the arc; with labels each of one class
        ends = jax.random.normal(key, (2, 8, latents))
        z = interpolate_spherical(ends[0], ends[1], 10).swapaxes(0, 1).reshape(-1, latents)
        given = (jnp.repeat(jnp.arange(8), 10),) if conditional else ()
        return tiles(pictures(generator.apply(state.params["generator"], z, *given)), 10, scale=2)

    def by_class(state, key):  # a row a class
        label = jnp.repeat(jnp.arange(classes), 10)
        return tiles(pictures(generator.apply(state.params["generator"], z_of(key, len(label)), label)), 10, scale=2)

    def truncation(state, key):  # the same ten latents; from top to bottom they come back from their mean
        z = jnp.concatenate([towards_mean(z_of(key, 10), psi) for psi in LADDER])
        given = (jnp.tile(jnp.arange(10) % classes, len(LADDER)),) if conditional else ()
        return tiles(pictures(generator.apply(state.params["generator"], z, *given)), 10, scale=2)

    def edits(state, key):  # a row a class: its first test image, what its latent draws, and that towards each class
        make = lambda z: generator.apply(state.params["generator"], z)
        z = z_of(key, CALLED)
        called = jax.lax.map(lambda z: label_of(pictures(make(z))), z.reshape(-1, 250, latents)).reshape(-1)
        both = lambda here: jnp.any(here) & ~jnp.all(here)  # else there is no direction, and nothing moves
        towards = jnp.stack([label_direction(z, called == k) * both(called == k) for k in range(classes)])
        first = [int(np.argmax(data.test.arrays["label"] == k)) for k in range(classes)]
        x = 2.0 * jnp.asarray(data.test.arrays["image"][first], jnp.float32) / 255 - 1.0
        found = inverted(make, x, latents, key, optax.adam(0.05), steps=200, weight=0.1).z[:, None]
        moved = jnp.concatenate([found, found + STRENGTH * towards[None]], axis=1)
        drawn = make(moved.reshape(-1, latents)).reshape(classes, -1, *SHAPE)
        return tiles(pictures(jnp.concatenate([x[:, None], drawn], axis=1)).reshape(-1, *SHAPE), 2 + classes, scale=2)

    tx = lambda: optax.adam(learning_rate, b1=b1, b2=0.99)
    players = {
        "critic": Player(played.critic, tx(), critic_steps),
        "generator": Player(played.generator, optax.chain(tx(), ema(average))),
    }
    said = {name: Quantity(f"the critic's mean output of {name} images", "") for name in ("real", "drawn")}
    kinds = {name: Quantity(f"{kind}; {about(net)}", "", better) for name, (kind, better) in DISTANCES.items()}
    if conditional and named:
        kinds["wrong_label"] = Quantity(f"share of samples that {about(net)} calls another class", "%")
    more = {"classes": by_class} if conditional else {"edits": edits} if label_of else {}
    few = lambda split, count: split._replace(arrays=take(split.arrays, slice(count)))
    return Experiment(
        stages=[Stage("gan", alternate(players, init), batches(data.train, critic_steps * batch_size), steps)],
        evaluations={
            "train": Evaluation(outputs, few(data.train, 1_000), 500, said),
            "validation": Evaluation(outputs, few(data.validation, 1_000), 500, said),
            "test": Evaluation(measure, few(data.test, JUDGED), 500, kinds, True, of_all=judged),
        },
        sample=sample,
        pictures={"walk": walk, "truncation": truncation, **more},
        data=data.name,
    )


def pictures(images):
    return 0.5 * images + 0.5

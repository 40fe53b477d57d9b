"""A convolutional GAN on 1,000 images of Fashion-MNIST, with adaptive discriminator augmentation or without.

Paper:    Karras et al., Training Generative Adversarial Networks with Limited Data, 2020, arXiv:2006.06676; no number
          on this data
Command:  genjax data prepare fashion_mnist; genjax train experiments/few_images_fashion.py
          and with --no-adaptive; --examples 500
          distances in the features of a classifier: --features RUN, a run of classifier_mnist.py on the same images
Cost:     --steps 1327: 14 to 16 min of a core of an AMD EPYC that seven others shared
Measured: --examples 500 --steps 2000 --features RUN, stopped at step 1,327 (170 passes), with augmentation and
          without; one seed, 5,000 samples against 5,000 test images in the features of a classifier of 8.6 % errors
          (ema), 2026-11-27. The critic says 2.12 of training images, 1.54 of held-out ones, -1.93 of drawn ones;
          without 2.83, 1.55, -2.74. Frechet distance 177.7; 193.0. Precision 0.638; 0.721. Recall 0.089; 0.050.
          Memorisation 0.137; 0.183. p rose to 0.37 by step 800 and then stayed between 0.34 and 0.38, r_t near 0.6.
          The critic's gap between training and held-out images falls from 1.28 to 0.58; that samples are better, one
          seed does not show: recall is higher, precision lower

Of few images a critic learns each by heart, and what it then tells the generator is no longer about the law that they
come from.  What it says of training images, of held-out and of drawn ones stands in the report's curves: held-out
images fall to the level of drawn ones while those of training rise.  With `--adaptive` the critic sees changed images,
and p, the probability of a change, follows the share of training images that it calls real; the curve of
`critic/probability` shows it.  The changes are colour, translation and cutout; the paper's are more.
"""

import jax
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
from genjax.data import batches, fashion_mnist, take
from genjax.errors import BadInput
from genjax.feature_net import classifier_features
from genjax.losses.augmented_games import adaptive_game, unchanged_at_first
from genjax.losses.games import logistic_game
from genjax.metrics.features import about, pixels
from genjax.metrics.neighbours import memorisation, nearest
from genjax.metrics.samples import DISTANCES, distances
from genjax.models.gan import ConvCritic, ConvGenerator

SHAPE, JUDGED = (28, 28, 1), 5_000  # test images, and as many samples


def experiment(
    examples: Count = 1_000,
    adaptive: bool = True,
    target: Fraction = 0.6,
    horizon: Positive = 50_000.0,
    features: str = "",
    latents: Count = 64,
    width: Count = 32,
    penalty: NonNegative = 0.1,
    learning_rate: Positive = 5e-4,
    average: Fraction = 0.999,
    steps: int = 3_000,
    batch_size: Count = 64,
) -> Experiment:
    """A generator and a critic, an update each in turn.

    Args:
      examples: training images, the first of the training split.
      adaptive: whether the critic sees changed images, by a probability that follows it.
      target: mean sign of the critic's logits of training images that the probability steers to.
      horizon: images over which the probability could go from 0 to 1; 500,000 in the paper, of 25 million.
      features: a run of classifier_mnist.py; empty: distances are those of pixels.
      latents: dimensions of z.
      width: channels of both networks at half of the size; twice as many at a quarter.
      penalty: weight of R1.
      learning_rate: Adam's, of both networks, constant.
      average: decay of the moving average of the generator.
      steps: updates of each network.
      batch_size: images in a batch.
    """
    data = fashion_mnist()
    few = lambda split, count: split._replace(arrays=take(split.arrays, slice(count)))
    train = few(data.train, examples)
    if len(train.arrays["image"]) < max(examples, batch_size):
        raise BadInput(f"examples = {examples}", f"allowed: {batch_size} to {len(train.arrays['image'])}")
    generator, critic = ConvGenerator(SHAPE, (2 * width, width)), ConvCritic((width, 2 * width), 4 * width)
    net = classifier_features(features, data.name) if features else pixels()
    z_of = lambda key, n: jax.random.normal(key, (n, latents))

    def draw(params, state, batch, key):
        return generator.apply(params, z_of(key, len(batch["image"])))

    score = lambda params, state, batch, x: critic.apply(params, x)
    real = lambda state, batch: 2.0 * batch["image"] - 1.0

    def init(key, batch):
        keys = jax.random.split(key)
        return {"critic": critic.init(keys[0], real(None, batch)), "generator": generator.init(keys[1], z_of(key, 1))}

    play = lambda score: logistic_game(draw, score, real, penalty)
    game = adaptive_game(play, score, target, horizon) if adaptive else play(score)

    def sample(state, key, n):
        return pictures(generator.apply(state.params["generator"], z_of(key, n)))

    def outputs(state, batch, key):  # of images as they are, unchanged
        drawn = draw(state.params["generator"], state, batch, key)
        of = lambda x: score(state.params["critic"], state, batch, x)
        return {"real": of(real(state, batch)), "drawn": of(drawn)}

    def measure(state, batch, key):
        return {"real": batch["image"], "drawn": sample(state, key, len(batch["image"]))}

    def judged(rows):
        known = net.apply(np.asarray(train.arrays["image"], np.float32) / 255)
        held_out, drawn = net.apply(rows["real"]), net.apply(rows["drawn"])
        near, far = (nearest(x, known).distance[:, 0] for x in (drawn, held_out))
        return {**distances(held_out, drawn), "memorisation": memorisation(near, far).score}

    tx = lambda: optax.adam(learning_rate, b1=0.0, b2=0.99)
    players = {
        "critic": Player(game.critic, tx()),
        "generator": Player(game.generator, optax.chain(tx(), ema(average))),
    }
    learner = alternate(players, init, unchanged_at_first if adaptive else None)
    said = {name: Quantity(f"the critic's mean output of {name} images", "") for name in ("real", "drawn")}
    kinds = {name: Quantity(f"{kind}; {about(net)}", "", better) for name, (kind, better) in DISTANCES.items()}
    kinds["memorisation"] = Quantity(
        f"probability that a sample is nearer to training images than a held-out one; {about(net)}", ""
    )
    return Experiment(
        stages=[Stage("gan", learner, batches(train, batch_size), steps)],
        evaluations={
            "train": Evaluation(outputs, few(train, 1_000), 500, said),
            "validation": Evaluation(outputs, few(data.validation, 1_000), 500, said),
            "test": Evaluation(measure, few(data.test, JUDGED), 500, kinds, True, of_all=judged),
        },
        sample=sample,
        data=data.name,
    )


def pictures(images):
    return 0.5 * images + 0.5

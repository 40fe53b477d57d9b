"""PixelCNN on statically binarized MNIST: a 7x7 convolution, residual blocks of 3x3 masked convolutions.

Paper:    van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, arXiv:1601.06759, table 4:
          -log p(x) 81.30 nats
Command:  genjax train experiments/pixelcnn_mnist.py     (starts on CPU)
          genjax train experiments/pixelcnn_mnist.py --batch-size 256 --steps 60000   (GPU)
Cost:     0.1 s of processor time an update of 16 images (gradient alone) on one CPU core
Measured: not run

15 blocks of 16 channels (32 between blocks), two layers of 32 units of 1x1, batches of 16, as published.  Adam with a
warm-up and a cosine, and a moving average of the parameters, replace the paper's RMSProp.  The best state on the
validation set is evaluated.
"""

import optax

from genjax import Count, Evaluation, Experiment, Fraction, Out, Positive, Quantity, Stage, Target, ema, minimize
from genjax.data import batches, binarized_mnist
from genjax.models.observation import bernoulli, check_support
from genjax.models.pixelcnn import PixelCNN, sample_images

TARGETS = (
    Target("15-pixelcnn", 81.30, "nats", "test/nll", "binarized_mnist", "b",
           "van den Oord, Kalchbrenner and Kavukcuoglu, 2016, arXiv:1601.06759, table 4, as quoted elsewhere",
           "15 residual blocks of 16 channels; batches of 256", options="--batch-size 256 --steps 60000",
           tolerance=0.6),
)  # fmt: skip


def experiment(
    blocks: Count = 15,
    channels: Count = 16,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.999,
    steps: int = 20_000,
    batch_size: Count = 16,
) -> Experiment:
    """A PixelCNN of binary pixels.

    Args:
      blocks: residual blocks.
      channels: of the 3x3 convolutions; twice as many between the blocks.
      learning_rate: Adam's, after a warm-up of 2 % of the steps; it falls to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: images in a batch.
    """
    data, likelihood = binarized_mnist(), bernoulli()
    check_support(data, likelihood)
    model = PixelCNN(likelihood.multiplier, blocks, channels)

    def neg_log_prob(params, images):
        return -likelihood.log_prob(model.apply(params, images), images)

    def exact(state, batch, key):
        return {"nll": neg_log_prob(state.params, batch["image"])}

    def sample(state, key, n):
        return sample_images(model, state.params, likelihood.sample, (n, 28, 28, 1), key)

    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 50, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(schedule), ema(average))
    loss = lambda params, state, batch, key: Out(neg_log_prob(params, batch["image"]))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["image"]))
    nll = {"nll": Quantity("exact -log p(x)", "nats")}
    return Experiment(
        stages=[Stage("pixelcnn", learner, batches(data.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(exact, data.validation, 250, nll),
            "test": Evaluation(exact, data.test, 250, nll, final=True),
        },
        sample=sample,
        select="validation/nll",
        data=data.name,
    )

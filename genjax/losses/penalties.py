r"""What keeps a discriminator smooth, and what keeps a generator from one mode: gradient penalties, packing, features.

A penalty is a function of a discriminator d: x [B, ...] -> [B] that treats its rows alike, so that the gradient of the
sum over rows holds every row's own.  It returns one number per example, to be weighed and added to the discriminator's
loss.  With y from the generator:

    gradient penalty   (|grad d(u)| - 1)^2,  u = e x + (1 - e) y,  e ~ U(0, 1)    weight lambda, the paper's 10
    R1                 |grad d(x)|^2 / 2                                          weight gamma, for the logit losses
    R2                 |grad d(y)|^2 / 2                                          weight gamma

The first sends the slope to 1 between the data and the samples, as a Lipschitz critic's best slope is 1 there; R1 and
R2 send it to 0, which is where the discriminator of a generator that has arrived should be.  Gradients are in the unit
of the pixels: the weights of the papers hold for images in [-1, 1].  d must not be a network whose rows meet in batch
statistics; minibatch standard deviation is let pass, as its authors do.

Sources: Gulrajani et al., Improved Training of Wasserstein GANs, 2017, https://arxiv.org/abs/1704.00028; Mescheder,
Geiger and Nowozin, Which Training Methods for GANs do actually Converge?, 2018, https://arxiv.org/abs/1801.04406;
Karras et al., Analyzing and Improving the Image Quality of StyleGAN, 2020, https://arxiv.org/abs/1912.04958; Lin et
al., PacGAN, 2018, https://arxiv.org/abs/1712.04086; Salimans et al., Improved Techniques for Training GANs, 2016,
https://arxiv.org/abs/1606.03498.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.distributions import event_sum, upcast
from genjax.errors import BadInput
from genjax.types import Array, Key

Discriminator = Callable[[jax.Array], jax.Array]
"""x [B, ...] -> [B] logits or scores."""


def gradient_penalty(d: Discriminator, real: Array, fake: Array, key: Key) -> jax.Array:
    """(|grad d(u)| - 1)^2 at a point u between a real and a generated example.

    Args:
      d: the critic.
      real: x [B, ...].
      fake: y [B, ...]; it counts as a constant.
      key: of the B places between x and y.

    Returns:
      [B] >= 0; the norm's derivative counts as 0 where the gradient is 0.

    Raises:
      BadInput: unequal shapes; a critic that does not return [B].

    Source: Gulrajani et al., 2017, eq. 3, algorithm 1.

    >>> x = jnp.ones((2, 3))
    >>> gradient_penalty(lambda u: 2.0 * u[:, 0], x, 0 * x, jax.random.key(0)).tolist()  # (2 - 1)^2
    [1.0, 1.0]
    """
    real, fake = jnp.asarray(real), jax.lax.stop_gradient(jnp.asarray(fake))
    if real.shape != fake.shape:
        raise BadInput(f"real {list(real.shape)}, generated {list(fake.shape)}", "allowed: one shape, [B, ...]")
    place = jax.random.uniform(key, (len(real),), real.dtype).reshape(-1, *[1] * (real.ndim - 1))
    squared = _squared_slope(d, place * real + (1 - place) * fake)
    flat = squared == 0.0
    return jnp.square(jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, squared))) - 1.0)


def r1(d: Discriminator, real: Array) -> jax.Array:
    """|grad d(x)|^2 / 2 at the data.

    Args:
      d: the discriminator, in logits.
      real: x [B, ...].

    Returns:
      [B] >= 0, squared logits over squared units of x.

    Raises:
      BadInput: a discriminator that does not return [B].

    Source: Mescheder, Geiger and Nowozin, 2018, eq. 9.

    >>> r1(lambda x: 3.0 * x[:, 0], jnp.ones((2, 4))).tolist()
    [4.5, 4.5]
    """
    return 0.5 * _squared_slope(d, real)


def r2(d: Discriminator, fake: Array) -> jax.Array:
    """|grad d(y)|^2 / 2 at what the generator makes.

    Args:
      d: the discriminator, in logits.
      fake: y [B, ...]; it counts as a constant.

    Returns:
      [B] >= 0, squared logits over squared units of y.

    Raises:
      BadInput: a discriminator that does not return [B].

    Source: Mescheder, Geiger and Nowozin, 2018, eq. 10.

    >>> r2(lambda x: jnp.sum(x**2, axis=1), jnp.ones((1, 4))).tolist()  # |2 y|^2 / 2
    [8.0]
    """
    return 0.5 * _squared_slope(d, jax.lax.stop_gradient(fake))


def lazily(penalty: Callable[[], jax.Array], step: Array | int, every: int) -> jax.Array:
    """n times the penalty in every n-th step and nothing in between: the same in the mean, at 1/n of the cost.

    Args:
      penalty: () -> [B], computed only where it counts.
      step: `state.step`.
      every: n, updates from one penalty to the next, at least 1.

    Returns:
      [B].

    Raises:
      BadInput: n below 1.

    Source: Karras et al., 2020, section 3.1.

    >>> [float(lazily(lambda: jnp.ones(1), step, 3)[0]) for step in range(4)]
    [3.0, 0.0, 0.0, 3.0]
    """
    if every < 1:
        raise BadInput(f"a penalty every {every} updates", "allowed: whole numbers from 1", "1 for every update")
    if every == 1:
        return penalty()
    shape = jax.eval_shape(penalty)
    zeros = lambda: jnp.zeros(shape.shape, shape.dtype)
    return jax.lax.cond(jnp.asarray(step) % every == 0, lambda: every * penalty(), zeros)


def packed(x: Array, m: int) -> jax.Array:
    """m examples side by side in their last axis: a discriminator that sees several at once sees a lack of variety.

    Args:
      x: [m B, ..., C]; rows m i .. m i + m - 1 become pack i.
      m: examples a pack, at least 1.

    Returns:
      [B, ..., m C]: the features of the first example of a pack, then those of the second.

    Raises:
      BadInput: rows that do not divide by m; examples without an axis of features.

    Source: Lin et al., 2018, section 3.

    >>> packed(jnp.arange(8.0).reshape(4, 2), 2).tolist()
    [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
    """
    x = jnp.asarray(x)
    if m < 1 or x.ndim < 2 or len(x) % m:
        raise BadInput(
            f"packs of {m} from an array {list(x.shape)}",
            "allowed: [m B, ..., C], m at least 1",
            "choose a batch size that the examples of a pack divide",
        )
    packs = jnp.moveaxis(x.reshape(-1, m, *x.shape[1:]), 1, -2)
    return packs.reshape(*packs.shape[:-2], m * x.shape[-1])


def feature_matching(real: Array, fake: Array) -> jax.Array:
    """|mean of h(x) - mean of h(y)|^2, h inner features of the discriminator: a generator's loss of whole batches.

    Args:
      real: h(x) [B, ...] of real data; constants here.
      fake: h(y) [M, ...] of generated data.

    Returns:
      Scalar, squared units of the features, summed over them.

    Raises:
      BadInput: features of other shapes, empty batches.

    Source: Salimans et al., 2016, section 3.1.

    >>> float(feature_matching(jnp.array([[1.0, 0.0], [3.0, 0.0]]), jnp.array([[0.0, 1.0]])))  # 2^2 + 1^2
    5.0
    """
    x, y = upcast(jax.lax.stop_gradient(real)), upcast(fake)
    if x.shape[1:] != y.shape[1:] or x.ndim < 2 or not len(x) or not len(y):
        raise BadInput(f"features {list(x.shape)} and {list(y.shape)}", "allowed: [B, ...] and [M, ...], not empty")
    return jnp.sum(jnp.square(jnp.mean(x, axis=0) - jnp.mean(y, axis=0)))


def _squared_slope(d: Discriminator, x: Array) -> jax.Array:
    def total(x: jax.Array) -> jax.Array:
        scores = d(x)
        if scores.shape != x.shape[:1]:
            raise BadInput(
                f"the discriminator returned {list(scores.shape)} for inputs {list(x.shape)}",
                "allowed: one number an example, [B]",
                "return logits[:, 0] from a network whose last layer has one unit",
            )
        return jnp.sum(scores)

    return event_sum(jnp.square(upcast(jax.grad(total)(jnp.asarray(x)))))

r"""Losses of adversarial training: functions of what a discriminator says of real and of generated data.

A discriminator D gives one real number (a logit, or the score of a critic) an example.  With r = D(x), x ~ p of the
data, and f = D(y), y ~ q of the generator, s(l) = 1 / (1 + exp(-l)) and softplus(l) = log(1 + exp(l)):

                      discriminator descends              generator descends     at the best D: the discriminator's mean
    minimax           softplus(-r) + softplus(f)          -softplus(f)           log 4 - 2 JSD(p, q),  D = log p - log q
    non-saturating    the same                            softplus(-f)           the same
    least squares     (r - 1)^2 / 2 + f^2 / 2             (f - 1)^2 / 2          sum p q / (p + q) / 2,  D = p / (p + q)
    hinge             max(0, 1 - r) + max(0, 1 + f)       -f                     2 - 2 TV(p, q),  D = sign(p - q)
    Wasserstein       f - r, D Lipschitz                  -f                     -W(p, q)
    relativistic      softplus(f - r)                     softplus(r - f)        D = log p - log q + any constant

The minimax loss of the discriminator is -V of Goodfellow's game: V = E log s(r) + E log s(-f).  Its generator's
gradient vanishes where D is sure of itself; that of the non-saturating loss does not.  The relativistic loss compares
pairs, so it knows no lone logit, and a generator cannot win by one mode alone.

All functions return one number per example, differentiable in r and f.  In the generator's turn r is a constant or
left out; in the discriminator's turn what made y is.

Sources: Goodfellow et al., Generative Adversarial Networks, 2014, https://arxiv.org/abs/1406.2661; Mao et al., Least
Squares Generative Adversarial Networks, 2017, https://arxiv.org/abs/1611.04076; Lim and Ye, Geometric GAN, 2017,
https://arxiv.org/abs/1705.02894; Arjovsky, Chintala and Bottou, Wasserstein GAN, 2017,
https://arxiv.org/abs/1701.07875; Jolicoeur-Martineau, The relativistic discriminator, 2018,
https://arxiv.org/abs/1807.00734; Huang et al., The GAN is dead; long live the GAN!, 2024,
https://arxiv.org/abs/2501.05441.
"""

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array


def minimax_discriminator(real: Array, fake: Array) -> jax.Array:
    """softplus(-r) + softplus(f): the cross-entropy of telling real from generated, also of the non-saturating game.

    Args:
      real: r [B] logits of real data.
      fake: f [B] logits of generated data.

    Returns:
      [B] nats; log 4 where D knows nothing.

    Raises:
      BadInput: other shapes.

    Source: Goodfellow et al., 2014, eq. 1.

    >>> round(float(minimax_discriminator(jnp.zeros(1), jnp.zeros(1))[0]), 4)  # log 4
    1.3863
    """
    r, f = _logits(real, fake)
    return jax.nn.softplus(-r) + jax.nn.softplus(f)


def minimax_generator(fake: Array) -> jax.Array:
    """-softplus(f) = log(1 - s(f)): what the discriminator gains by, lost.

    Args:
      fake: f [B] logits of generated data.

    Returns:
      [B] nats.

    Raises:
      BadInput: another shape.

    Source: Goodfellow et al., 2014, eq. 1.

    >>> round(float(minimax_generator(jnp.zeros(1))[0]), 4)  # -log 2
    -0.6931
    """
    (f,) = _logits(fake)
    return -jax.nn.softplus(f)


def non_saturating_generator(fake: Array) -> jax.Array:
    """softplus(-f) = -log s(f): strong gradients where the discriminator is sure.

    Args:
      fake: f [B] logits of generated data.

    Returns:
      [B] nats.

    Raises:
      BadInput: another shape.

    Source: Goodfellow et al., 2014, section 3.

    >>> round(float(non_saturating_generator(jnp.zeros(1))[0]), 4)  # log 2
    0.6931
    """
    (f,) = _logits(fake)
    return jax.nn.softplus(-f)


def least_squares_discriminator(real: Array, fake: Array) -> jax.Array:
    """(r - 1)^2 / 2 + f^2 / 2: real data are sent to 1, generated ones to 0.

    Args:
      real: r [B] scores of real data, no logits.
      fake: f [B] scores of generated data.

    Returns:
      [B] squared units of D.

    Raises:
      BadInput: other shapes.

    Source: Mao et al., 2017, eq. 9.

    >>> least_squares_discriminator(jnp.array([3.0]), jnp.array([1.0])).tolist()
    [2.5]
    """
    r, f = _logits(real, fake)
    return 0.5 * jnp.square(r - 1.0) + 0.5 * jnp.square(f)


def least_squares_generator(fake: Array) -> jax.Array:
    """(f - 1)^2 / 2.

    Args:
      fake: f [B] scores of generated data.

    Returns:
      [B] squared units of D.

    Raises:
      BadInput: another shape.

    Source: Mao et al., 2017, eq. 9.

    >>> least_squares_generator(jnp.array([3.0])).tolist()
    [2.0]
    """
    (f,) = _logits(fake)
    return 0.5 * jnp.square(f - 1.0)


def hinge_discriminator(real: Array, fake: Array) -> jax.Array:
    """max(0, 1 - r) + max(0, 1 + f); its generator descends `wasserstein_generator`.

    Args:
      real: r [B] scores of real data.
      fake: f [B] scores of generated data.

    Returns:
      [B] units of D; 2 where D knows nothing.

    Raises:
      BadInput: other shapes.

    Source: Lim and Ye, 2017.

    >>> hinge_discriminator(jnp.array([0.5, 7.0]), jnp.array([0.5, -7.0])).tolist()
    [2.0, 0.0]
    """
    r, f = _logits(real, fake)
    return jax.nn.relu(1.0 - r) + jax.nn.relu(1.0 + f)


def wasserstein_discriminator(real: Array, fake: Array) -> jax.Array:
    """f - r: minus the distance of the two laws, as long as a penalty or a norm keeps D Lipschitz.

    Args:
      real: r [B] scores of real data.
      fake: f [B] scores of generated data.

    Returns:
      [B] units of D: those of the data where D has slope 1.

    Raises:
      BadInput: other shapes.

    Source: Arjovsky, Chintala and Bottou, 2017, eq. 2.

    >>> wasserstein_discriminator(jnp.array([3.0]), jnp.array([1.0])).tolist()
    [-2.0]
    """
    r, f = _logits(real, fake)
    return f - r


def wasserstein_generator(fake: Array) -> jax.Array:
    """-f.

    Args:
      fake: f [B] scores of generated data.

    Returns:
      [B] units of D.

    Raises:
      BadInput: another shape.

    Source: Arjovsky, Chintala and Bottou, 2017, eq. 2; of the hinge game Lim and Ye, 2017.

    >>> wasserstein_generator(jnp.array([3.0])).tolist()
    [-3.0]
    """
    (f,) = _logits(fake)
    return -f


def relativistic_discriminator(real: Array, fake: Array) -> jax.Array:
    """softplus(f - r): a real example should be more real than the generated one that stands beside it.

    Args:
      real: r [B] logits of real data.
      fake: f [B] logits of generated data; the pairs are (r_i, f_i).

    Returns:
      [B] nats; log 2 where D knows nothing.  R3GAN adds gamma (`r1` + `r2`).

    Raises:
      BadInput: other shapes.

    Source: Jolicoeur-Martineau, 2018 (RSGAN); Huang et al., 2024.

    >>> round(float(relativistic_discriminator(jnp.ones(1), jnp.ones(1))[0]), 4)  # log 2
    0.6931
    """
    r, f = _logits(real, fake)
    return jax.nn.softplus(f - r)


def relativistic_generator(real: Array, fake: Array) -> jax.Array:
    """softplus(r - f): a generated example should be more real than the real one that stands beside it.

    Args:
      real: r [B] logits of real data, constants here.
      fake: f [B] logits of generated data; the pairs are (r_i, f_i).

    Returns:
      [B] nats.

    Raises:
      BadInput: other shapes.

    Source: Jolicoeur-Martineau, 2018 (RSGAN); Huang et al., 2024.

    >>> round(float(relativistic_generator(jnp.zeros(1), jnp.zeros(1))[0]), 4)  # log 2
    0.6931
    """
    r, f = _logits(real, fake)
    return jax.nn.softplus(r - f)


def _logits(*values: Array) -> list[jax.Array]:
    shapes = [list(jnp.shape(value)) for value in values]
    if jnp.ndim(values[0]) != 1 or any(shape != shapes[0] for shape in shapes):
        raise BadInput(
            f"a discriminator's outputs have shapes {', '.join(map(str, shapes))}",
            "allowed: one number an example, [B], and as many real as generated examples",
            "return logits[:, 0] from a network whose last layer has one unit",
        )
    return [upcast(value) for value in values]

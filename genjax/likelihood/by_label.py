r"""Classification by a generative model: how likely the example is under each label, and Bayes' rule.

    p(y | x)  is proportional to  p(x | y) P(y),    y' = argmax_y [L(x, y) + log P(y)]                           (1)

where L(x, y) is log p(x | y), a bound or an estimate of it: what a VAE or a diffusion model of each class has to say.
Then the answer is an estimate too, right only as far as the bounds of different labels are loose by the same amount.

Most of the noise of an estimate, z of a VAE or times and noise of a diffusion, does the same to all labels.  With the
SAME random numbers for every label it cancels in differences: if L = l_y + c with c of variance v, differences have
none of it, and 2 v with numbers of their own.  A diffusion model so becomes a classifier by few times an image.

Sources: Li, Prabhudesai, Duggal, Brown and Pathak, Your Diffusion Model is Secretly a Zero-Shot Classifier, 2023,
https://arxiv.org/abs/2303.16203, section 3; Kingma et al., Semi-supervised Learning with Deep
Generative Models, 2014, https://arxiv.org/abs/1406.5298 (of a VAE).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array, Key

LabelBound = Callable[[jax.Array, jax.Array, Key], jax.Array]
"""(x [B, ...], label [B], key) -> L(x, y) [B] nats, random numbers from the key alone."""


def of_each_label(bound: LabelBound, classes: int, x: Array, key: Key) -> jax.Array:
    """L(x, y) of every label, all with the same random numbers.

    `log_posterior` of losses/semi_supervised.py makes p(y | x) of it.

    Args:
      bound: (x, label, key) -> [B] nats, of log p(x | y): negative what is called an upper bound of -log p.
      classes: K, at least 1; the labels are 0 .. K-1, asked one after the other.
      x: examples [B, ...].
      key: of the random numbers.

    Returns:
      [B, K] nats.

    Raises:
      BadInput: no classes; a bound that gives no number for each row.

    Source: Li et al., 2023, section 3.

    >>> noisy = lambda x, label, key: -((x - label) ** 2) + jax.random.normal(key, (len(x),))
    >>> found = of_each_label(noisy, 3, jnp.array([2.0, 0.0]), jax.random.key(0))
    >>> (found - found[:, :1]).tolist()  # the noise has gone
    [[0.0, 3.0, 4.0], [0.0, -1.0, -4.0]]
    """
    if not classes >= 1 or classes != int(classes):
        raise BadInput(f"classes = {classes}", "allowed: whole numbers from 1")
    x = jnp.asarray(x)

    def one(label: jax.Array) -> jax.Array:
        found = bound(x, jnp.full(len(x), label), key)
        if jnp.shape(found) != x.shape[:1]:
            raise BadInput(f"the bound of {len(x)} rows has shape {list(jnp.shape(found))}", "allowed: [B]")
        return upcast(found)

    return jax.lax.map(one, jnp.arange(int(classes))).T

r"""Augmentation that a generator can be trained through: what the critic sees of real and of drawn images is changed.

Of few images a critic learns each by heart.  Where both real and drawn images pass a random change T before the critic,
and gradients pass T on their way to the generator, the critic sees more and the generator still aims at the data:

    critic      score(T(x)), score(T(y))            generator   score(T(y)),  d/dy through T

T moves colours, shifts the image by up to an eighth of its side, and sets a square of half its side to 0, the grey in
the middle.  With a probability p each image passes each change; as long as p < 1, the law of the changed images tells
that of the images apart, so that a generator that matches the first has the second.  p may follow how sure the critic
is:

    r_t = E[sign(score(T(x)))],        p <- p + sign(r_t - target) B / horizon,   in [0, 0.8]

Sources: Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, 2020,
https://arxiv.org/abs/2006.10738, section 3; Karras et al., Training Generative Adversarial Networks with Limited Data,
2020, https://arxiv.org/abs/2006.06676, sections 2.2 and 3.
"""

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.types import Array, Key

MOST = 0.8  # of p, above which changes leak into what is drawn


def augmented(x: Array, key: Key, probability: Array | float = 1.0) -> jax.Array:
    """Images after colour, translation and cutout, each with a probability, image by image.

    Args:
      x: [B, H, W, C] in [-1, 1].
      key: of the changes.
      probability: p in [0, 1] of each change; 1: DiffAugment.

    Returns:
      [B, H, W, C], differentiable in x.

    Raises:
      BadInput: anything but [B, H, W, C]; a probability out of [0, 1] that is no traced number.

    Source: Zhao et al., 2020, section 3; Karras et al., 2020, section 2.2 (the probability).

    >>> x = jnp.ones((2, 8, 8, 1))
    >>> bool((augmented(x, jax.random.key(0), 0.0) == x).all())
    True
    """
    x = jnp.asarray(x)
    if x.ndim != 4:
        raise BadInput(f"images have shape {list(x.shape)}", "allowed: [B, H, W, C]")
    if isinstance(probability, int | float) and not 0 <= probability <= 1:
        raise BadInput(f"probability = {probability}", "allowed: numbers in [0, 1]")
    for number, change in enumerate((coloured, translated, cut_out)):
        own, coin = jax.random.split(jax.random.fold_in(key, number))
        chosen = jax.random.bernoulli(coin, probability, (len(x), 1, 1, 1))
        x = jnp.where(chosen, change(x, own), x)
    return x


def coloured(x: Array, key: Key) -> jax.Array:
    """Another brightness, saturation and contrast for each image.

    x + u_1 - 1/2; then 2 u_2 times the distance from the mean over channels; then (u_3 + 1/2) times that from the mean
    of the image, u ~ U(0, 1).

    Args:
      x: [B, H, W, C].
      key: of u.

    Returns:
      [B, H, W, C], not cut to [-1, 1].

    Source: Zhao et al., 2020, section 3.

    >>> float(coloured(jnp.zeros((1, 2, 2, 1)), jax.random.key(0)).std())  # an even image stays even
    0.0
    """
    x = jnp.asarray(x)
    u = jax.random.uniform(key, (3, len(x), 1, 1, 1), x.dtype)
    x = x + u[0] - 0.5
    grey = jnp.mean(x, axis=-1, keepdims=True)
    x = grey + 2.0 * u[1] * (x - grey)
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    return mean + (u[2] + 0.5) * (x - mean)


def translated(x: Array, key: Key, ratio: float = 0.125) -> jax.Array:
    """Images moved by up to a share of their sides in each direction; zeros come in.

    Args:
      x: [B, H, W, C].
      key: of the shifts, whole pixels, even over -m .. m.
      ratio: m over the side, rounded.

    Returns:
      [B, H, W, C].

    Source: Zhao et al., 2020, section 3.

    >>> float(translated(jnp.ones((1, 8, 8, 1)), jax.random.key(1)).mean()) <= 1
    True
    """
    x = jnp.asarray(x)
    _, height, width, channels = x.shape
    most = round(ratio * height), round(ratio * width)
    padded = jnp.pad(x, ((0, 0), (most[0], most[0]), (most[1], most[1]), (0, 0)))
    keys = jax.random.split(key)
    starts = [jax.random.randint(k, (len(x),), 0, 2 * m + 1) for k, m in zip(keys, most, strict=True)]
    cut = lambda image, i, j: jax.lax.dynamic_slice(image, (i, j, 0), (height, width, channels))
    return jax.vmap(cut)(padded, *starts)


def cut_out(x: Array, key: Key, ratio: float = 0.5) -> jax.Array:
    """Zeros in a square of each image, whose centre is anywhere in it; what lies outside is cut off.

    Args:
      x: [B, H, W, C].
      key: of the places.
      ratio: sides of the square over those of the image, rounded.

    Returns:
      [B, H, W, C].

    Source: Zhao et al., 2020, section 3.

    >>> 0.5 <= float(cut_out(jnp.ones((1, 8, 8, 1)), jax.random.key(0)).mean()) < 1
    True
    """
    x = jnp.asarray(x)
    keys, inside = jax.random.split(key), jnp.ones((len(x), 1, 1, 1), bool)
    for axis, (k, side) in enumerate(zip(keys, x.shape[1:3], strict=True), 1):
        length = round(ratio * side)
        first = jax.random.randint(k, (len(x), 1), 0, side + 1 - length % 2) - length // 2
        place = jnp.arange(side)[None]
        covered = (place >= first) & (place < first + length)
        inside = inside & jnp.expand_dims(covered, tuple({1, 2, 3} - {axis}))
    return jnp.where(inside, jnp.zeros((), x.dtype), x)


def mirrored(x: Array, key: Key, probability: float = 0.5) -> jax.Array:
    """Images of which each is mirrored left to right, or not.

    Args:
      x: [B, H, W, C].
      key: of the choice.
      probability: of being mirrored, in [0, 1].

    Returns:
      [B, H, W, C].

    Raises:
      BadInput: anything but [B, H, W, C]; a probability out of [0, 1].

    Source: Ho et al., Denoising Diffusion Probabilistic Models, 2020, https://arxiv.org/abs/2006.11239, appendix B.

    >>> mirrored(jnp.arange(3.0).reshape(1, 1, 3, 1), jax.random.key(0), 1.0).ravel().tolist()
    [2.0, 1.0, 0.0]
    """
    x = jnp.asarray(x)
    if x.ndim != 4 or not 0 <= probability <= 1:
        raise BadInput(
            f"images of shape {list(x.shape)}, probability = {probability}", "allowed: [B, H, W, C], numbers in [0, 1]"
        )
    return jnp.where(jax.random.bernoulli(key, probability, (len(x), 1, 1, 1)), x[:, :, ::-1], x)


def adapted(probability: Array, scores: Array, target: float = 0.6, horizon: float = 500_000.0) -> jax.Array:
    """The probability after an update, larger where the critic is too sure of real images.

    Args:
      probability: p, scalar.
      scores: [B] logits of augmented real images.
      target: of E[sign(score)]; 0.6 in the paper.
      horizon: images over which p could go from 0 to 1; 500,000 in the paper.

    Returns:
      Scalar in [0, 0.8].

    Raises:
      BadInput: a horizon that is not above 0, a target out of [-1, 1].

    Source: Karras et al., 2020, section 3.

    >>> float(adapted(jnp.float32(0.5), jnp.ones(10), horizon=100.0)), float(adapted(jnp.float32(0.0), -jnp.ones(10)))
    (0.6000000238418579, 0.0)
    """
    if not horizon > 0:
        raise BadInput(f"horizon = {horizon}", "allowed: a number of images above 0")
    if not -1 <= target <= 1:
        raise BadInput(f"target = {target}", "allowed: numbers in [-1, 1], as a mean of signs is")
    scores = jnp.asarray(scores)
    step = jnp.sign(jnp.mean(jnp.sign(scores)) - target) * len(scores) / horizon
    return jnp.clip(probability + step, 0.0, MOST)

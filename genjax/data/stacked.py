"""Stacked digits: three grey images, drawn at random, as the red, green and blue of one.

With ten digits there are 1,000 triples, so that the modes of the data are known and can be counted in samples
(`genjax.metrics.modes`).  A triple is three rows of one batch of three times the size: there is no end to them, and
nothing is stored.

Sources: Srivastava et al., VEEGAN, 2017, section 4.2, https://arxiv.org/abs/1705.07761; Metz, Poole, Pfau and
Sohl-Dickstein, Unrolled Generative Adversarial Networks, 2017, https://arxiv.org/abs/1611.02163.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.data.batches import batches
from genjax.data.split import Split
from genjax.errors import BadInput
from genjax.types import Batch, Key, Source


def stacked(split: Split, batch_size: int, frame: int = 0) -> Source:
    """Batches of colour images whose channels are three images of a split.

    Args:
      split: grey images, field `image` [N, H, W, 1]; other fields are left out.
      batch_size: B, triples; 3 B is at most N.
      frame: dark pixels around each image.

    Returns:
      A source of {"image": [B, H + 2 frame, W + 2 frame, 3]}; triple i holds rows 3 i, 3 i + 1, 3 i + 2 of a batch of
      3 B images.  An epoch uses every image once.

    Raises:
      BadInput: images that are not grey, a negative frame, a batch that does not fit.

    Source: Srivastava et al., 2017, section 4.2.

    >>> from genjax.data import digits
    >>> source = stacked(digits().train, 5, frame=4)
    >>> source.batch(source.resident, jax.random.key(0), 3)["image"].shape
    (5, 16, 16, 3)
    """
    shape = np.shape(split.arrays["image"])
    if len(shape) != 4 or shape[-1] != 1:
        raise BadInput(f"images {list(shape)} to be stacked", "allowed: grey ones, [N, H, W, 1]")
    if frame < 0:
        raise BadInput(f"frame = {frame}", "allowed: whole numbers from 0")
    source = batches(Split({"image": split.arrays["image"]}, split.prepare), 3 * batch_size)

    def batch(feed: Batch, key: Key, step: jax.Array) -> Batch:
        grey = jnp.asarray(source.batch(feed, key, step)["image"])
        colour = jnp.moveaxis(grey.reshape(-1, 3, *shape[1:3]), 1, -1)
        return {"image": jnp.pad(colour, ((0, 0), (frame, frame), (frame, frame), (0, 0)))}

    return source._replace(batch=batch)

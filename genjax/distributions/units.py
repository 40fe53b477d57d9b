"""Units: from nats to what a table prints.  Each conversion is defined here and only here.

Losses, bounds and estimates are in nats, summed over an example.  A unit divides them by how much data the example
holds.  Over a whole split, where examples differ in length, the number is sum(nats) / sum(count), the ratio of the
totals, and not the mean of the ratios: `Quantity(per="count")` pools that way, given `bits(nats)` and the counts.
"""

import math

import jax
import jax.numpy as jnp

from genjax.distributions.arrays import upcast
from genjax.errors import BadInput
from genjax.types import Array


def bits(nats: Array | float) -> jax.Array:
    """nats / log 2: the length of an ideal code in bits.

    Args:
      nats: [...] negative log-probability, or an upper bound of it.

    Returns:
      [...] bits.

    >>> float(bits(math.log(8.0)))
    3.0
    """
    return upcast(nats) / math.log(2.0)


def bits_per_dim(nats: Array | float, dims: Array | int) -> jax.Array:
    """nats / (D log 2): a negative log-probability of D discrete dimensions in bits per dimension.

    It is right for probabilities of *discrete* data; a density of data that were rescaled or dequantised first needs
    the logarithm of its Jacobian added in nats.

    Args:
      nats: [...] negative log-probability, or an upper bound of it.
      dims: D >= 1, e.g. H * W * C.

    Returns:
      [...] bits per dimension.

    >>> round(float(bits_per_dim(784 * math.log(256.0), 784)), 3)  # the uniform model over 256 levels
    8.0
    """
    return _ratio(bits(nats), dims, "dims", "data dimensions")


def bits_per_byte(nats: Array | float, size: Array | int) -> jax.Array:
    """nats / (bytes log 2): of a text, whatever its tokens are, so that tokenizers can be compared.

    Args:
      nats: [...] negative log-probability of the text, summed over its tokens.
      size: bytes of the text in UTF-8, >= 1.  For ASCII text these are its characters.

    Returns:
      [...] bits per byte.

    >>> round(float(bits_per_byte(3 * math.log(50_257), len("genjax".encode()))), 3)  # six bytes as three tokens
    7.809
    """
    return _ratio(bits(nats), size, "size", "bytes of the text")


def bits_per_residue(nats: Array | float, residues: Array | int) -> jax.Array:
    """nats / (residues log 2): of a protein; the nats of its end are counted, the end token itself is no residue.

    Args:
      nats: [...] negative log-probability of the protein, its end token included.
      residues: amino acids of the protein, >= 1.

    Returns:
      [...] bits per residue.

    >>> round(float(bits_per_residue(100 * math.log(20.0), 100)), 3)  # the uniform model over 20 amino acids
    4.322
    """
    return _ratio(bits(nats), residues, "residues", "amino acids")


def nats_per_frame(nats: Array | float, frames: Array | int) -> jax.Array:
    """nats / frames: of a piece of music, a frame being the set of notes that sound at one time step.

    Args:
      nats: [...] negative log-probability of the frames that were predicted, summed over pitches.
      frames: how many these are, >= 1; without the first frame where a model is given it.

    Returns:
      [...] nats per frame.

    >>> round(float(nats_per_frame(10 * 88 * math.log(2.0), 10)), 2)  # every pitch by a fair coin
    61.0
    """
    return _ratio(upcast(nats), frames, "frames", "predicted frames")


def perplexity(nats: Array | float, tokens: Array | int) -> jax.Array:
    """exp(nats / tokens): how many equally likely tokens would be as hard to guess.

    Args:
      nats: [...] negative log-probability of the sequence.
      tokens: how many tokens were predicted, >= 1.

    Returns:
      [...] perplexity, >= 1.

    >>> round(float(perplexity(7 * math.log(20.0), 7)), 3)
    20.0
    """
    return jnp.exp(_ratio(upcast(nats), tokens, "tokens", "predicted tokens"))


def _ratio(amount: jax.Array, count: Array | int, name: str, what: str) -> jax.Array:
    if isinstance(count, int | float) and count < 1:
        raise BadInput(f"{name} = {count}", f"allowed: the number of {what}, at least 1")
    return amount / upcast(count)

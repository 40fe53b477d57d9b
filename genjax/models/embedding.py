"""Tables of vectors, looked up by integers: tokens, positions, classes."""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.models.blocks import flat
from genjax.types import Array

BY_PRODUCT = 1024  # rows of a table up to which a lookup may be a matrix product


def looked_up(table: jax.Array, index: Array) -> jax.Array:
    """table[index]; of a small table by a product with one-hot vectors, whose gradient is a product too.

    The gradient of a gather adds rows at repeated indices, which XLA's GPU backend does one after the other.  An index
    outside of the table gives NaN.

    Args:
      table: [V, C].
      index: [B, T] integers.

    >>> looked_up(jnp.array([[1.0], [2.0]]), jnp.array([[1, 0, 2]]))[0, :, 0].tolist()
    [2.0, 1.0, nan]
    """
    known = (index >= 0) & (index < table.shape[0])
    if table.shape[0] <= min(BY_PRODUCT, index.size):
        rows = flat(
            lambda ones: jnp.matmul(ones, table, precision=jax.lax.Precision.HIGHEST),
            jax.nn.one_hot(index, table.shape[0], dtype=table.dtype),
        )
    else:
        rows = table.at[index].get(mode="clip")
    return jnp.where(known[..., None], rows, jnp.nan)


def check_tokens(tokens: Array, vocabulary: int) -> None:
    """Refuse what are no rows of integers; and tokens outside of the vocabulary, where known: not in compiled code.

    >>> check_tokens(np.array([[3, 65]]), 65)
    Traceback (most recent call last):
    genjax.errors.BadInput: token 65 at row 0, position 1
    allowed: 0 to 64, the numbers of the vocabulary
    """
    if tokens.ndim != 2:
        raise BadInput(f"tokens have the shape {list(tokens.shape)}", "allowed: rows by positions, [B, T]")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise BadInput(f"tokens are {tokens.dtype}", "allowed: integers, the numbers of the vocabulary")
    if isinstance(tokens, jax.core.Tracer):
        return
    wrong = np.argwhere((np.asarray(tokens) < 0) | (np.asarray(tokens) >= vocabulary))
    if len(wrong):
        row, position = wrong[0]
        raise BadInput(
            f"token {tokens[row, position]} at row {row}, position {position}",
            f"allowed: 0 to {vocabulary - 1}, the numbers of the vocabulary",
        )

r"""Independent columns of aligned sequences: how often each letter occurs, everywhere or in each column.

    p(x) = prod_i p_i(x_i)

Columns have closed forms.  With n_ik the times that letter k stands in column i of N rows,

    (1)  q_k = (sum_i n_ik + 1) / (N L + K),        p_ik = (n_ik + a q_k) / (N + a)

the means of the posterior under a uniform Dirichlet prior, and under one of a pseudo-observations shared out by q.

Source: Durbin, Eddy, Krogh and Mitchison, Biological Sequence Analysis, 1998, section 5.6 (pseudocounts).
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.models.aligned import Density, picked
from genjax.types import Array, Key, Out, Params, State


def unigram(tokens: np.ndarray, levels: int) -> np.ndarray:
    """How often each letter occurs, wherever it stands: q of eq. 1.

    Args:
      tokens: [N, L] integers 0 .. K-1, of training rows.
      levels: K.

    Returns:
      log q in every column, [L, K] nats, float64.

    Source: this file's head.

    >>> np.exp(unigram(np.array([[0, 0], [0, 1]]), 2))[0].round(4).tolist()  # (3 + 1) / (4 + 2)
    [0.6667, 0.3333]
    """
    counts = np.bincount(np.reshape(tokens, -1), minlength=levels) + 1.0
    return np.tile(np.log(counts / counts.sum()), (np.shape(tokens)[1], 1))


def profile(tokens: np.ndarray, levels: int, pseudocount: float) -> np.ndarray:
    """How often each letter stands in each column: p of eq. 1.

    Args:
      tokens: [N, L] integers 0 .. K-1, of training rows.
      levels: K.
      pseudocount: a, positive: so many rows are thought to have been seen before.

    Returns:
      log p [L, K] nats, float64.

    Source: this file's head.

    >>> np.exp(profile(np.array([[0, 0], [0, 1]]), 2, 2.0)).round(4).tolist()  # (2 + 2 * 2/3) / (2 + 2), ...
    [[0.8333, 0.1667], [0.5833, 0.4167]]
    """
    tokens = np.asarray(tokens)
    shares = pseudocount * np.exp(unigram(tokens, levels))
    counts = np.stack([np.bincount(column, minlength=levels) for column in tokens.T])
    return np.log((counts + shares) / (len(tokens) + pseudocount))


def columns(log_p: Array) -> Density:
    """Independent columns.

    Args:
      log_p: [L, K] nats, where they start: `unigram`, `profile`.

    Returns:
      Density.  Kind: exact.

    >>> density = columns(jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]])))
    >>> state = State(jnp.zeros((), jnp.int32), density.init(jax.random.key(0)))
    >>> nats = density.nats(state, jnp.array([[1, 0]]), jax.random.key(0))
    >>> round(float(jnp.exp(-nats[0])), 4)
    0.375
    """
    length = len(log_p)

    def nats(params: Params, tokens: jax.Array) -> jax.Array:
        return -picked(jax.nn.log_softmax(params["columns"]), tokens)

    def sample(state: State, key: Key, n: int) -> jax.Array:
        return jax.random.categorical(key, state.params["columns"], shape=(n, length))

    return Density(
        lambda key: {"columns": jnp.asarray(log_p, jnp.float32)},
        lambda params, state, tokens, key: Out(nats(params, tokens)),
        lambda state, tokens, key: nats(state.params, tokens),
        "exact -log p(x)",
        sample,
    )

"""Frames of binary notes, one after the other: a sequence network, and the log-odds of the next frame's notes."""

from typing import Any

import flax.linen as nn
import jax

from genjax.models.blocks import flat
from genjax.types import Array

SILENT = -3.0  # log-odds of a note before any training: one in 21 sounds; from 0, Adam would need 3,000 steps to there


class NextFrame(nn.Module):
    """Log-odds of each note of frame t + 1 from the frames up to t; given these, the notes are independent.

    p(v_{t+1} | v_1 .. v_t) = prod_i Bernoulli(v_{t+1, i}; sigmoid(l_{t, i})),   l_t = V h_t + c: the output layer of
    recurrent networks in Boulanger-Lewandowski et al. 2012, https://arxiv.org/abs/1206.6392.

    Args:
      body: (frames [B, T, notes], state) -> (h [B, T, H], state): `RNN`, `GRU`, `LSTM`, `TCN`.
      notes: of a frame.
      dropout: rate at which numbers of h are dropped where an rng `dropout` is given, as in training.

    Called with frames [B, T, notes] and the state before them (None: the start); returns log-odds [B, T, notes] of the
    frames 2 .. T+1, and the state after.  V starts normal with variance 1 / H, c at `SILENT`.

    >>> from genjax.models.recurrent import GRU
    >>> net, frames = NextFrame(GRU(8), notes=5), jax.numpy.ones((2, 3, 5))
    >>> logits, state = net.apply(net.init(jax.random.key(0), frames), frames)
    >>> logits.shape
    (2, 3, 5)
    """

    body: nn.Module
    notes: int = 88
    dropout: float = 0.0

    @nn.compact
    def __call__(self, frames: Array, state: Any = None) -> tuple[jax.Array, Any]:
        h, state = self.body(frames, state)
        h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(h)
        return flat(nn.Dense(self.notes, bias_init=nn.initializers.constant(SILENT), name="notes"), h), state

    def start(self, rows: int) -> Any:
        """The state before the first frame, of `rows` sequences."""
        return self.body.start(rows, self.notes)

"""RNN-NADE: frames of notes that depend on the frames before, through a recurrent network, and on each other.

Independent notes given the past cannot tell two chords from their mixture.  Here each frame has a NADE of its own over
its notes: its weights W, V are those of all frames, its biases are read off the network that has seen the past,

    u_t = body(u_{t-1}, v_t),   b_t = b + B u_{t-1},   c_t = c + C u_{t-1},
    p(v_1 .. v_T) = prod_t p_NADE(v_t; W, V, b_t, c_t)

which is an exact probability.  The first frame has a past too, a silent frame that stands before every piece.

Source: Boulanger-Lewandowski, Bengio and Vincent, Modeling Temporal Dependencies in High-Dimensional Sequences:
Application to Polyphonic Music Generation and Transcription, 2012, https://arxiv.org/abs/1206.6392.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.blocks import flat
from genjax.models.frames import SILENT
from genjax.models.nade import nade_logits, sample_nade
from genjax.types import Array, Key

CHUNK = 8  # notes at once; 88 at 28 would take twice the time: a chunk's product grows with its square


class RNNNADE(nn.Module):
    """The conditionals of all notes of all frames.

    Args:
      body: (frames [B, T, notes], state) -> (u [B, T, H], state): `RNN`, `GRU`, `LSTM`, `TCN`.
      units: of the hidden layer of the NADE.
      notes: of a frame, taken in this order, from the lowest to the highest.
      dropout: rate at which numbers of u are dropped where an rng `dropout` is given, as in training.

    Called with frames [B, T, notes] of zeros and ones; returns log-odds [B, T, notes], those of note i of frame t given
    the frames before t and the notes before i.  `model.apply(params, state, frame [n, notes], key, method="after")`
    draws the frame after, and returns it with the state.

    W, V, B and C start normal with variance 1 over the number of inputs of their layer (for V and C that of its units),
    b at `SILENT`, c at zero.

    >>> from genjax.models.recurrent import GRU
    >>> model, frames = RNNNADE(GRU(8), units=6, notes=5), jnp.ones((2, 3, 5))
    >>> params = model.init(jax.random.key(0), frames)
    >>> model.apply(params, frames).shape
    (2, 3, 5)
    >>> model.apply(params, model.start(7), jnp.zeros((7, 5)), jax.random.key(0), method="after")[0].shape
    (7, 5)
    """

    body: nn.Module
    units: int
    notes: int = 88
    dropout: float = 0.0

    def setup(self) -> None:
        self.b = nn.Dense(self.notes, bias_init=nn.initializers.constant(SILENT))
        self.c = nn.Dense(self.units)
        self.w = self.param("w", nn.initializers.lecun_normal(), (self.notes, self.units))
        self.v = self.param("v", nn.initializers.lecun_normal(in_axis=1, out_axis=0), (self.notes, self.units))
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, frames: Array) -> jax.Array:
        if frames.ndim != 3 or frames.shape[-1] != self.notes:
            raise BadInput(f"frames have shape {list(frames.shape)}", f"allowed: [B, T, {self.notes}]")
        before = jnp.concatenate([jnp.zeros_like(frames[:, :1]), frames[:, :-1]], axis=1)
        b, c, _ = self._biases(before, None)
        rows = lambda array: array.reshape(-1, array.shape[-1])
        return nade_logits(rows(frames), self.w, self.v, rows(b), rows(c), CHUNK).reshape(frames.shape)

    def after(self, state: Any, frame: Array, key: Key) -> tuple[jax.Array, Any]:
        """(state, v_t [n, notes], key) -> (v_{t+1} [n, notes], state); v_0 is silent."""
        b, c, state = self._biases(frame[:, None], state)
        return sample_nade(self.w, self.v, b[:, 0], c[:, 0], key), state

    def start(self, rows: int) -> Any:
        """The state before the first frame, of `rows` sequences."""
        return self.body.start(rows, self.notes)

    def _biases(self, frames: Array, state: Any) -> tuple[jax.Array, jax.Array, Any]:
        u, state = self.body(frames, state)
        u = self.drop(u, deterministic=not self.has_rng("dropout"))
        return flat(self.b, u), flat(self.c, u), state

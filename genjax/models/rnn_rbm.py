"""RNN-RBM: frames of notes that depend on the frames before, through a recurrent network, and on each other.

Independent notes given the past cannot tell two chords from their mixture.  Here each frame has an RBM over its notes:
its weights W are those of all frames, its biases are read off the network that has seen the past,

    u_t = body(u_{t-1}, v_t),   b_t = b + u_{t-1} B,   c_t = c + u_{t-1} C,
    p(v_1 .. v_T) = prod_t p_RBM(v_t; W, b_t, c_t) = prod_t exp(-F_t(v_t)) / Z_t

that is a conditional RBM whose condition is u_{t-1}.  Each frame has a Z of its own, which a sum over 2^H states of the
hidden units gives exactly where these are few; the gradient needs none: it is a difference of two phases in each frame.
The first frame has a past too, a silent frame that stands before every piece.

Source: Boulanger-Lewandowski, Bengio and Vincent, Modeling Temporal Dependencies in High-Dimensional Sequences:
Application to Polyphonic Music Generation and Transcription, 2012, https://arxiv.org/abs/1206.6392.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.conditional_rbm import ConditionalRBM
from genjax.models.frames import SILENT
from genjax.models.rbm import Weights, gibbs_step, machine
from genjax.models.visible import Visible, bernoulli_units
from genjax.samplers.gibbs import run_chain
from genjax.types import Array, Key


class RNNRBM(nn.Module):
    """The machines of all frames.

    Args:
      body: (frames [B, T, notes], state) -> (u [B, T, U], state): `RNN`, `GRU`, `LSTM`, `TCN`.
      hidden: H, units of each RBM that are not seen.
      notes: of a frame.
      dropout: rate at which numbers of u are dropped where an rng `dropout` is given, as in training.

    Called with frames [B, T, notes] of zeros and ones; returns F_t(v_t) [B, T] nats, the free energy of each frame
    given those before it.  `model.apply(params, frames, method="weights")` are the arrays of the B x T machines, a row
    each, frames of a piece one after the other; their units are `model.units`.  `model.apply(params, state, frame
    [n, notes], key, k, method="after")` draws the frame after by k Gibbs steps from the frame itself, and returns it
    with the state.

    B and C start normal with variance 1 over the width of u, b at `SILENT`, c at zero, W normal with variance 3 / H:
    half of the hidden units then move a note by about 1.2, whatever H; from 0.01 they would stay asleep long.

    >>> from genjax.models.recurrent import GRU
    >>> model, frames = RNNRBM(GRU(8), hidden=6, notes=5), jnp.ones((2, 3, 5))
    >>> params = model.init(jax.random.key(0), frames)
    >>> model.apply(params, frames).shape, model.apply(params, frames, method="weights").c.shape
    ((2, 3), (6, 6))
    >>> model.apply(params, model.start(7), jnp.zeros((7, 5)), jax.random.key(0), 9, method="after")[0].shape
    (7, 5)
    """

    body: nn.Module
    hidden: int
    notes: int = 88
    dropout: float = 0.0

    def setup(self) -> None:
        self.rbm = ConditionalRBM(
            self.units,
            self.hidden,
            weight_init=nn.initializers.variance_scaling(3.0, "fan_out", "normal"),
            visible_init=nn.initializers.constant(SILENT),
            condition_init=nn.initializers.lecun_normal(),
        )
        self.drop = nn.Dropout(self.dropout)

    @property
    def units(self) -> Visible:
        """The notes of a frame."""
        return bernoulli_units(self.notes)

    def __call__(self, frames: Array) -> jax.Array:
        weights = self.weights(frames)
        return machine(weights, self.units).free_energy(frames.reshape(-1, self.notes)).reshape(frames.shape[:2])

    def weights(self, frames: Array) -> Weights:
        """The machine of each frame, from the frames before it: b [B T, notes], c [B T, H]."""
        if frames.ndim != 3 or frames.shape[-1] != self.notes:
            raise BadInput(f"frames have shape {list(frames.shape)}", f"allowed: [B, T, {self.notes}]")
        before = jnp.concatenate([jnp.zeros_like(frames[:, :1]), frames[:, :-1]], axis=1)
        return self._machines(before, None)[0]

    def after(self, state: Any, frame: Array, key: Key, k: int) -> tuple[jax.Array, Any]:
        """(state, v_t [n, notes], key, k) -> (v_{t+1} [n, notes], state); v_0 is silent."""
        weights, state = self._machines(frame[:, None], state)
        return run_chain(gibbs_step(machine(weights, self.units)), frame, key, k), state

    def start(self, rows: int) -> Any:
        """The state before the first frame, of `rows` sequences."""
        return self.body.start(rows, self.notes)

    def _machines(self, frames: Array, state: Any) -> tuple[Weights, Any]:
        u, state = self.body(frames, state)
        u = self.drop(u, deterministic=not self.has_rng("dropout"))
        return self.rbm.weights(u.reshape(-1, u.shape[-1])), state

r"""Deep Markov model: a chain of normal latents that moves by a gated network and emits frames of binary notes.

    gate      g = sigmoid(W2 relu(W1 z)),    proposal  h = W4 relu(W3 z)
    p(z_t | z_{t-1}):  mean (1 - g) * (W5 z) + g * h,    variance softplus(W6 relu(h))        z = z_{t-1}
    p(x_t | z_t):      notes i independent, Bernoulli(sigmoid(l_i)),  l = W9 relu(W8 relu(W7 z_t))
    q(z_t | z_{t-1}, x_t .. x_T):  c = (tanh(W10 z_{t-1}) + r_t) / 2,  mean W11 c,  variance softplus(W12 c)

(every product with its bias).  r_t is the state of a recurrent network that reads the frames backwards, from x_T to
x_t: with z_{t-1} it knows all that the exact posterior of z_t depends on (the paper's ST-R).  W5 starts as the
identity.  The bound on log p(x) that these make is in genjax/losses/markov.py.

Source: Krishnan, Shalit and Sontag, Structured Inference Networks for Nonlinear State Space Models, 2017, section 5 and
appendix, https://arxiv.org/abs/1609.09869.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.blocks import MLP, flat
from genjax.models.frames import SILENT
from genjax.types import Array

LEAST = 1e-6  # of a variance: where softplus underflows, its logarithm would not be finite


def identity(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """An initializer: the identity matrix.

    >>> identity(jax.random.key(0), (2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    del key
    return jnp.eye(*shape, dtype=dtype)


def softplus_log_var(x: Array) -> jax.Array:
    """log(softplus(x) + 1e-6): the log-variance where the variance is a softplus.

    >>> softplus_log_var(jnp.array([0.5413248, -1000.0])).round(3).tolist()  # softplus = 1; log 1e-6
    [0.0, -13.81...]
    """
    return jnp.log(nn.softplus(x) + LEAST)


class GatedTransition(nn.Module):
    """p(z_t | z_{t-1}): see the head of this file.

    Args:
      latents: D.
      width: units of the hidden layers of gate and proposal.

    Called with z [..., D]; returns (mean, log_var), [..., D] each.

    >>> net, z = GatedTransition(3, 8), jnp.ones((2, 5, 3))
    >>> mean, log_var = net.apply(net.init(jax.random.key(0), z), z)
    >>> mean.shape, log_var.shape
    ((2, 5, 3), (2, 5, 3))
    """

    latents: int
    width: int

    @nn.compact
    def __call__(self, z: Array) -> tuple[jax.Array, jax.Array]:
        dense = lambda x, units, name, **given: nn.Dense(units, name=name, **given)(x)
        rows = z.reshape(-1, z.shape[-1])  # of one matrix: see blocks.py
        gate = nn.sigmoid(dense(nn.relu(dense(rows, self.width, "gate_hidden")), self.latents, "gate"))
        proposal = dense(nn.relu(dense(rows, self.width, "proposal_hidden")), self.latents, "proposal")
        linear = dense(rows, self.latents, "linear", kernel_init=identity)
        log_var = softplus_log_var(dense(nn.relu(proposal), self.latents, "variance"))
        mean = (1.0 - gate) * linear + gate * proposal
        return mean.reshape(z.shape), log_var.reshape(z.shape)


class Combiner(nn.Module):
    """q(z_t | z_{t-1}, x_t .. x_T) from z_{t-1} and r_t: see the head of this file.

    Args:
      latents: D.

    Called with z [B, D] and r [B, H]; returns (mean, log_var), [B, D] each.

    >>> net, z, r = Combiner(3), jnp.ones((2, 3)), jnp.ones((2, 8))
    >>> net.apply(net.init(jax.random.key(0), z, r), z, r)[0].shape
    (2, 3)
    """

    latents: int

    @nn.compact
    def __call__(self, z: Array, r: Array) -> tuple[jax.Array, jax.Array]:
        combined = 0.5 * (jnp.tanh(nn.Dense(r.shape[-1], name="before")(z)) + r)
        both = nn.Dense(2 * self.latents, name="law")(combined)  # W11 and W12 side by side: one product a step
        return both[:, : self.latents], softplus_log_var(both[:, self.latents :])


class DeepMarkov(nn.Module):
    """Transition, emission, reader and combiner under one set of parameters, with the learned start z_0.

    `model.apply(params, ..., method=name)` gives the parts that `genjax.losses.markov` takes: `read(frames, mask)`,
    `posterior(z, r)`, `transition(z)`, `emit(z)`, `start(rows)`.

    Args:
      reader: (frames [B, T, notes], state, mask) -> (r [B, T, H], state): `RNN`, `GRU`, `LSTM`.
      latents: D.
      transition_width: units of the hidden layers of the transition.
      emission_width: units of the two hidden layers of the emission.
      notes: of a frame.

    The call itself, with frames [B, T, notes], is what `model.init(key, frames)` traces: log-odds of the frames given
    the posterior means, each as if the latent before it were z_0.

    >>> from genjax.models.recurrent import GRU
    >>> model, frames = DeepMarkov(GRU(8), 3, 6, 6, notes=5), jnp.ones((2, 4, 5))
    >>> params = model.init(jax.random.key(0), frames)
    >>> model.apply(params, frames, jnp.ones((2, 4)), method="read").shape
    (2, 4, 8)
    >>> model.apply(params, jnp.ones((2, 4, 3)), method="emit").shape
    (2, 4, 5)
    """

    reader: nn.Module
    latents: int
    transition_width: int
    emission_width: int
    notes: int = 88

    def setup(self) -> None:
        self.moves = GatedTransition(self.latents, self.transition_width)
        self.combiner = Combiner(self.latents)
        self.hidden = MLP((self.emission_width, self.emission_width))
        self.output = nn.Dense(self.notes, bias_init=nn.initializers.constant(SILENT))
        self.z_0 = self.param("z_0", nn.initializers.zeros, (self.latents,))

    def read(self, frames: Array, mask: Array) -> jax.Array:
        """Frames [B, T, notes] and the mask of those that are no padding -> r [B, T, H]; r_t knows x_t .. x_T.

        Read backwards, padding comes first, and leaves the state as it starts.
        """
        if frames.ndim != 3 or frames.shape[-1] != self.notes:
            raise BadInput(f"frames have shape {list(frames.shape)}", f"allowed: [B, T, {self.notes}]")
        r, _ = self.reader(jnp.flip(frames, axis=1), None, jnp.flip(mask, axis=1))
        return jnp.flip(r, axis=1)

    def posterior(self, z: Array, r: Array) -> tuple[jax.Array, jax.Array]:
        """(z_{t-1} [B, D], r_t [B, H]) -> mean and log_var of q(z_t | z_{t-1}, x), [B, D] each."""
        return self.combiner(z, r)

    def transition(self, z: Array) -> tuple[jax.Array, jax.Array]:
        """z_{t-1} [..., D] -> mean and log_var of p(z_t | z_{t-1}), [..., D] each."""
        return self.moves(z)

    def emit(self, z: Array) -> jax.Array:
        """z [..., D] -> log-odds of the notes [..., notes]."""
        return flat(self.output, self.hidden(z))

    def start(self, rows: int) -> jax.Array:
        """z_0 of `rows` sequences, [rows, D]."""
        return jnp.broadcast_to(self.z_0, (rows, self.latents))

    def __call__(self, frames: Array) -> jax.Array:
        r = self.read(frames, jnp.ones(frames.shape[:2]))
        r = r.reshape(-1, r.shape[-1])
        mean, _ = self.posterior(self.start(len(r)), r)
        self.transition(mean)
        return self.emit(mean).reshape(frames.shape)

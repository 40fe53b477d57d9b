"""The vocabulary: what the training loop knows, and nothing else.

A training algorithm is a `Learner`, two pure functions over a `State`.  A `Stage` gives a learner its data and its
number of steps.  Greedy layer-wise training, progressive growing, a VAE followed by a diffusion in its latents are
sequences of stages; adversarial training and persistent chains are other learners.  The loop never grows an option.

Shapes in this code base: B rows of a batch, N rows of a data set, k importance samples, D dimensions, H x W x C pixels.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
Key = jax.Array  # a typed scalar key: jax.random.key(seed)
Params = Any  # a pytree of float32 arrays
Batch = Mapping[str, jax.Array]  # {"image": [B, H, W, C], "label": [B], ...}
Metrics = Mapping[str, jax.Array]  # scalars, or [B] before the mean


class State(NamedTuple):
    """All that a training run carries from step to step; a pytree of arrays, and all that a checkpoint holds."""

    step: jax.Array  # int32 scalar: updates done in this stage
    params: Params  # what gradients touch
    opt_state: Any = ()  # optax's, the moving average of the parameters included
    carry: Any = ()  # what no gradient touches: chains, batch statistics, an EMA codebook


class Out(NamedTuple):
    """What a loss returns."""

    loss: jax.Array  # [B] nats per example, or a scalar; only the update takes the mean
    metrics: Metrics = {}  # further [B] arrays or scalars to log
    carry: Any = None  # the new carry; None: unchanged


Loss = Callable[[Params, State, Batch, Key], Out]
"""(params, state, batch, key) -> Out.  `params` is the only differentiated argument, `state` is read-only."""


class Learner(NamedTuple):
    """A training algorithm: two pure functions."""

    init: Callable[[Key, Batch], State]  # from a key and an example batch
    update: Callable[[State, Batch, Key], tuple[State, Metrics]]  # `key` is the stage's; the update folds in the step


class Source(NamedTuple):
    """The batches of a stage by random access: batch t is a pure function of (key, t), on any number of hosts.

    `batch(feed, key, step)` is traced into the compiled update.  `feed` is `resident` (arrays that are placed on the
    devices once), or, where a set does not fit in memory, what `fetch(seed, step)` read on the host for that step.
    """

    batch: Callable[[Any, Key, jax.Array], Batch]
    batch_size: int  # rows of the global batch
    resident: Any = ()
    fetch: Callable[[int, int], Any] | None = None
    rows: int | None = None  # rows of the data set; None: endless
    fingerprint: str = ""  # a digest of the data: a checkpoint records it, a resume compares it


class Stage(NamedTuple):
    """One compilation: a learner, its data, its number of updates."""

    name: str
    learner: Learner
    data: Source
    steps: int
    inherit: Callable[[State, State], State] | None = None  # (previous final state, fresh state) -> state
    steps_per_call: int = 1  # updates in one compiled call: for small models; never for convolutions on CPU

"""An experiment: what one small Python file defines, and what the commands need of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from genjax.evaluate import Evaluation
from genjax.types import Key, Stage, State

Images = Any  # float32 in [0, 1]: [n, H, W, C], or [2, n, H, W, C] for pairs shown one above the other


class Experiment(NamedTuple):
    """Stages of training, and how their result is measured and looked at.

    Every function gets a `State` whose params are the moving average where the optimizer keeps one (`ema`).
    """

    stages: Sequence[Stage]
    evaluations: Mapping[str, Evaluation] = {}  # split name -> what is measured on it
    sample: Callable[[State, Key, int], Images] | None = None  # of the last stage's state
    pictures: Mapping[str, Callable[[State, Key], Images]] = {}  # further pictures: reconstructions, ...
    select: str | None = None  # "validation/neg_elbo": the measure by which the best checkpoint is kept
    data: str = ""  # the data set's name, for the result lines


def parameter_count(params: Any) -> int:
    """The number of parameters of a pytree of arrays or of their shapes."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))

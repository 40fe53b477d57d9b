"""genjax: deep generative models in JAX, by one functional training loop.

The names that an experiment file uses.  They are imported when first asked for, so that the command line starts fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from genjax.averages import averaged as averaged
    from genjax.averages import ema as ema
    from genjax.errors import BadInput as BadInput
    from genjax.evaluate import Evaluation as Evaluation
    from genjax.evaluate import Quantity as Quantity
    from genjax.experiment import Coding as Coding
    from genjax.experiment import Denoising as Denoising
    from genjax.experiment import Experiment as Experiment
    from genjax.experiment import File as File
    from genjax.experiment import Picture as Picture
    from genjax.experiment import Text as Text
    from genjax.fields import Count as Count
    from genjax.fields import Fraction as Fraction
    from genjax.fields import NonNegative as NonNegative
    from genjax.fields import Positive as Positive
    from genjax.learners import Player as Player
    from genjax.learners import adjusted as adjusted
    from genjax.learners import alternate as alternate
    from genjax.learners import minimize as minimize
    from genjax.learners import repeat as repeat
    from genjax.targets import Target as Target
    from genjax.types import (
        Batch as Batch,
    )
    from genjax.types import (
        Key as Key,
    )
    from genjax.types import (
        Learner as Learner,
    )
    from genjax.types import (
        Loss as Loss,
    )
    from genjax.types import (
        Out as Out,
    )
    from genjax.types import (
        Params as Params,
    )
    from genjax.types import (
        Source as Source,
    )
    from genjax.types import (
        Stage as Stage,
    )
    from genjax.types import (
        State as State,
    )

# in reading order
_HOMES = {
    "types": ("State", "Out", "Loss", "Learner", "Stage", "Source", "Batch", "Key", "Params"),
    "learners": ("minimize", "alternate", "Player", "repeat", "adjusted"),
    "averages": ("ema", "averaged"),
    "evaluate": ("Evaluation", "Quantity"),
    "experiment": ("Experiment", "File", "Picture", "Text", "Denoising", "Coding"),
    "targets": ("Target",),
    "fields": ("Positive", "NonNegative", "Fraction", "Count"),
    "errors": ("BadInput",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'genjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"genjax.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

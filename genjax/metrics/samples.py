"""How a set of samples stands to a set of real examples, by the usual measures together.

`neighbourhoods` needs no covariance and serves small sets; `distances` adds the Frechet and the kernel distance.  What
the numbers are is said by `NEIGHBOURHOODS` and `DISTANCES`: of each measure its kind, and which way is better.  All
depend on the features, on N and on the split, which whoever prints them must name.

Sources: see `precision_recall.py`, `frechet.py` and `kernel.py`.
"""

import numpy as np

from genjax.metrics.frechet import frechet_distance, moments
from genjax.metrics.kernel import kernel_distance
from genjax.metrics.precision_recall import density_coverage, precision_recall
from genjax.types import Array

NEIGHBOURHOODS = {
    "precision": ("share of samples among real images, k=3", "higher"),
    "recall": ("share of real images among samples, k=3", "higher"),
    "density": ("density, k=5", "higher"),
    "coverage": ("coverage, k=5", "higher"),
}
DISTANCES = {
    "frechet": ("Frechet distance", "lower"),
    "kernel": ("kernel distance, cubic, unbiased", "lower"),
    **NEIGHBOURHOODS,
}


def neighbourhoods(real: Array, drawn: Array) -> dict[str, float]:
    """Precision and recall, density and coverage.

    Args:
      real: features [N, D].
      drawn: features of samples [M, D].

    Returns:
      A number for each of `NEIGHBOURHOODS`.

    Raises:
      BadInput: fewer rows than neighbours, features of other widths.

    Source: Kynkaanniemi et al., 2019, https://arxiv.org/abs/1904.06991; Naeem et al., 2020,
    https://arxiv.org/abs/2002.09797.

    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> found = neighbourhoods(x, x)
    >>> found["precision"], found["recall"], found["coverage"]
    (1.0, 1.0, 1.0)
    """
    return precision_recall(real, drawn)._asdict() | density_coverage(real, drawn)._asdict()


def distances(real: Array, drawn: Array, size: int = 500) -> dict[str, float | tuple[float, float]]:
    """The Frechet and the kernel distance, and the neighbourhoods.

    Args:
      real: features [N, D].
      drawn: features of samples [M, D].
      size: of the disjoint subsets of the kernel distance, at most N / 2 and M / 2.

    Returns:
      A number for each of `DISTANCES`; of `kernel` the value and its standard error.

    Raises:
      BadInput: too few rows, features of other widths.

    Source: Heusel et al., 2017, https://arxiv.org/abs/1706.08500; Binkowski et al., 2018,
    https://arxiv.org/abs/1801.01401.

    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> round(distances(x, x + 3.0, 50)["frechet"], 3)  # the square of the shift
    18.0
    """
    near = kernel_distance(real, drawn, np.random.default_rng(0), size=size)
    far = frechet_distance(moments(real), moments(drawn))
    return {"frechet": far, "kernel": (near.value, near.standard_error), **neighbourhoods(real, drawn)}

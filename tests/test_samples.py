"""Measures of samples together: each is its own file's, under its own name; planted bugs."""

import numpy as np
import pytest
from planted import rejects

from genjax.metrics import samples
from genjax.metrics.frechet import frechet_distance, moments
from genjax.metrics.kernel import kernel_distance
from genjax.metrics.precision_recall import density_coverage, precision_recall

RNG = np.random.default_rng(0)
REAL, DRAWN = RNG.normal(size=(120, 3)), 0.6 * RNG.normal(size=(100, 3)) + 0.3


def check_together(distances):
    """A name for each number, and the number of that name: real and drawn are not each other."""
    found = distances(REAL, DRAWN, 50)
    assert list(found) == list(samples.DISTANCES)
    near = kernel_distance(REAL, DRAWN, np.random.default_rng(0), size=50)
    assert found["frechet"] == frechet_distance(moments(REAL), moments(DRAWN))
    assert found["kernel"] == (near.value, near.standard_error)
    shares, other = precision_recall(REAL, DRAWN), density_coverage(REAL, DRAWN)
    assert (found["precision"], found["recall"]) == (shares.precision, shares.recall)
    assert (found["density"], found["coverage"]) == (other.density, other.coverage)
    assert found["precision"] > found["recall"]  # narrow samples are all inside, and leave much out


def test_measures_together():
    check_together(samples.distances)
    rejects(check_together, lambda real, drawn, size: samples.distances(drawn, real, size))
    swapped = lambda real, drawn, size: (
        lambda found: found | {"precision": found["recall"], "recall": found["precision"]}
    )(samples.distances(real, drawn, size))
    rejects(check_together, swapped)


@pytest.mark.parametrize("name", samples.DISTANCES)
def test_which_way_is_better(name):
    """Samples of the data's own law are better than narrow ones, as is told."""
    own = samples.distances(REAL, RNG.normal(size=(120, 3)), 50)[name]
    other = samples.distances(REAL, 0.2 * RNG.normal(size=(120, 3)) + 2.0, 50)[name]
    first, second = (value[0] if isinstance(value, tuple) else value for value in (own, other))
    assert first < second if samples.DISTANCES[name][1] == "lower" else first > second

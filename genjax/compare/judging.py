"""What is measured of every member alike, whatever its experiment measures of itself: likelihood, samples, cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax.compare.evidence import Likelihood, likelihood_of
from genjax.compare.members import Member, lines_of, tested_on
from genjax.errors import BadInput, GenjaxError
from genjax.listing import read_object
from genjax.metrics.samples import neighbourhoods
from genjax.saved import Opened, open_run, samples_of

ENOUGH = 12  # of each kind of image: the fifth neighbour of each needs at least so many


class Judged(NamedTuple):
    """What a row of the comparison shows."""

    name: str
    directory: Path
    title: str  # the first line of the experiment's docstring
    data: str
    tested: str  # digest of the test examples
    likelihood: Likelihood | None
    dims: int  # numbers an example; 0: sequences
    samples: np.ndarray | None  # [n, H, W, C] in [0, 1]
    scores: Mapping[str, float]  # precision, recall, density, coverage, in pixels; empty without images
    outcome: Mapping[str, Any]  # results.json: parameters, seconds, ...
    config: Mapping[str, Any]
    line: Mapping[str, Any] | None = None  # of results.json: the likelihood with all that it is of


def judge(member: Member, count: int) -> Judged:
    """Read a finished run, draw samples and measure them.

    Args:
      member: its run is finished.
      count: samples, at most; as many as there are test images if those are fewer.

    Raises:
      BadInput: its samples cannot be drawn, or are not finite.
      Damaged: no checkpoint can be read.
    """
    run, lines = open_run(str(member.directory), None, None, None), lines_of(member)
    config, outcome = (read_object(member.directory / f"{name}.json") for name in ("config", "results"))
    real = _test_images(run.experiment, count)
    drawn = None if real is None else _samples(member.name, run, len(real))
    alike = real is not None and drawn is not None and drawn.shape == real.shape and len(drawn) >= ENOUGH
    scores = neighbourhoods(_flat(real), _flat(drawn)) if alike else {}
    title = str((config.get("experiment") or {}).get("title", ""))
    dims = real[0].size if real is not None else 0
    known = likelihood_of(lines)
    line = next((line for line in lines if known is not None and line["name"] == known.name), None)
    return Judged(
        member.name, member.directory, title, run.experiment.data, tested_on(run.experiment),
        known, dims, drawn, scores, outcome, config, line,
    )  # fmt: skip


def _test_images(experiment: Any, count: int) -> np.ndarray | None:
    """Test images as a loss sees them, spread over the whole split: [n, H, W, C] in [0, 1]."""
    split = next(e.split for name, e in sorted(experiment.evaluations.items()) if name.startswith("test"))
    images = split.arrays.get("image")
    if images is None or np.ndim(images) != 4:
        return None
    rows = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    batch = {name: array[rows] for name, array in split.arrays.items()}
    return np.asarray(split.prepare(batch, jax.random.key(0))["image"])


def _samples(name: str, run: Opened, count: int) -> np.ndarray | None:
    if run.experiment.sample is None:
        return None
    try:
        drawn = samples_of(run, run.experiment.sample, count)
    except GenjaxError as error:
        what, allowed, _ = (*error.lines, "", "")[:3]
        raise BadInput(f"samples of {name}: {what}", allowed, "leave it out") from error
    return drawn if drawn.ndim == 4 else None


def _flat(images: Any) -> np.ndarray:
    return np.asarray(images, np.float64).reshape(len(images), -1)

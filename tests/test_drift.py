"""Experiments in a few updates give the numbers that they gave: see drift.py, which also writes them."""

import inspect
import json
import math

import pytest
from drift import NUMBERS, ROOT, SHORT, known, number

from genjax.fields import load

NAMED = {short.name: short for short in SHORT}
CHEAP = ("rbm_digits", "made_mnist", "gan_gaussians")


def within(short, value):
    """Whether a number is the known one within the tolerance of its experiment."""
    return math.isclose(value, known()[short.name], rel_tol=short.tolerance, abs_tol=0.0)


def test_every_experiment_has_its_number():
    """A new one needs a line of its own in SHORT, and `python tests/drift.py NAME`."""
    experiments = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
    assert [short.name for short in SHORT] == experiments
    assert list(known()) == experiments
    assert all(math.isfinite(value) and abs(value) > 1e-3 for value in known().values())  # relative to something
    assert NUMBERS.read_text(encoding="utf-8") == json.dumps(known(), indent=1) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("short", SHORT, ids=lambda short: short.name)
def test_numbers_do_not_drift(short):
    assert within(short, number(short))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEAP)
def test_a_tenth_more_of_the_learning_rate_is_seen(name):
    signature = inspect.signature(load(ROOT / "experiments" / f"{name}.py").function)
    rate = NAMED[name].fields.get("learning_rate", signature.parameters["learning_rate"].default)
    assert not within(NAMED[name], number(NAMED[name], learning_rate=1.1 * rate))

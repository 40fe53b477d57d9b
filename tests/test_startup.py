"""The benchmark of start-up times: what it makes of its measurements; it runs on demand, and not here."""

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def startup():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
        yield importlib.import_module("startup")
    for name in ("startup", "workers"):
        sys.modules.pop(name, None)


def test_a_line_has_the_median_the_range_and_what_is_wanted(startup):
    spent = [startup.Spent(clock, clock / 2) for clock in (0.6, 0.2, 0.4)]
    words = startup._line("genjax --help", spent, 0.5).split()
    assert words == [
        "genjax",
        "--help",
        "0.400",
        "(0.200-0.600)",
        "0.200",
        "(0.100-0.300)",
        "wanted",
        "<",
        "0.5:",
        "yes",
    ]
    assert startup._line("a", spent, 0.4).endswith("NO") and "wanted" not in startup._line("a", spent)


def test_pairs_are_compared_with_their_own(startup):
    assert startup.percents([10.0, 20.0], [11.0, 18.0]) == pytest.approx([10.0, -10.0])


def test_the_first_row_of_training_is_the_first_update(startup):
    rows = '{"kind": "evaluation", "time": 4.0}\n{"kind": "train", "time": 9.5}\n{"kind": "train", "time": 11}\n'
    assert startup.first_update(rows, 2.0) == 7.5


def test_the_first_round_does_not_count(startup):
    told = []
    count = lambda name: lambda: told.append(name) or startup.Spent(float(len(told)), 0.0)
    found = startup.interleaved({"a": count("a"), "b": count("b")}, 3)
    assert len(told) == 8 and {*told[:2]} == {*told[2:4]} == {*told[4:6]} == {*told[6:]} == {"a", "b"}
    assert [len(spent) for spent in found.values()] == [3, 3] and min(s.clock for s in found["a"] + found["b"]) == 3.0


def test_a_command_that_fails_is_told(startup):
    with pytest.raises(SystemExit, match=r"ended with 3: sorry"):
        startup.timed([sys.executable, "-c", "import sys; sys.stderr.write('sorry'); sys.exit(3)"], {})
    spent = startup.timed([sys.executable, "-c", "sum(range(10**6))"], {})
    assert 0 < spent.processor and 0 < spent.clock

"""What a run has cost, over all its processes: counted on, written now and then, whatever results.json holds."""

import json

import pytest

from genjax import record
from genjax.record import open_results
from genjax.train import Cost


@pytest.fixture
def run(tmp_path):
    config = {"run_id": "a", "facts": {"seed": 0}}
    told = {"name": "a", "file": "a.py", "folder": ".", "fields": {}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "experiment": told}))
    return tmp_path


def on_disk(run):
    return json.loads((run / "results.json").read_text())


def test_the_cost_goes_on_from_process_to_process(run):
    for number in (1, 2, 3):
        results = open_results(run, leader=True)
        results.spend(Cost(compile_seconds=0.5))
        results.spend(Cost(2.0, 0.0, 10, 80))
        results.spend(Cost(evaluate_seconds=0.25))
        results.write({"state": "preempted"})
        told = on_disk(run)
        assert Cost(*(told[name] for name in Cost._fields)) == Cost(
            2.0 * number, 0.5 * number, 10 * number, 80 * number, 0.25 * number
        )
        assert (told["processes"], told["examples_per_second"], told["state"]) == (number, 40.0, "preempted")
        assert told["facts"] == {"seed": 0}


def test_it_is_written_when_some_seconds_have_passed(run, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    results = open_results(run, leader=True)
    results.write({"state": "running"})
    for seconds, written in ((3.0, 0), (9.9, 0), (10.0, 3), (12.0, 3), (25.0, 5)):
        now[0] = seconds
        results.spend(Cost(1.0, 0.0, 1, 8))
        assert on_disk(run)["updates"] == written
    assert on_disk(run)["state"] == "running"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"seconds": "x", "updates": null, "processes": -1}', '{"seconds": NaN}']
)
def test_results_that_are_damaged_count_as_nothing(run, text):
    (run / "results.json").write_text(text)
    told = open_results(run, leader=True).write({"state": "running"})
    assert (told["seconds"], told["updates"], told["processes"]) == (0, 0, 1) and told["examples_per_second"] is None


def test_only_the_first_process_writes(run):
    results = open_results(run, leader=False)
    results.write({"state": "finished"})
    assert not (run / "results.json").exists()

"""`genjax reproduce`: what rows are, what a number is worth, what is refused, what README shows."""

import json
import platform
import re
from pathlib import Path

import pytest

from genjax.cli import main
from genjax.errors import BadInput, Damaged
from genjax.fields import load
from genjax.reproduce.command import asked
from genjax.reproduce.records import judge, read_records, record_of, write_record
from genjax.reproduce.rows import pick_rows, read_rows, run_name, values_of, words_of
from genjax.reproduce.table import BEGIN, END, readme_table, with_table
from genjax.targets import Target, interval, read_targets, wanted_text

ROOT = Path(__file__).parent.parent
BASE = Target("14-made", 94.5, "nats", "test/nll", "digits", "a", "A, 2020", "as published", tolerance=1.0)
TOY = '''"""Independent pixels."""
import jax, jax.numpy as jnp, optax
from genjax import Evaluation, Experiment, Out, Quantity, Stage, Target, minimize
from genjax.data import batches, digits

PAPER = "A, 2020"
TARGETS = (
    Target("1-pixels", 120.0, "nats", "test/nll", "digits", "a", PAPER, "64 pixels", tolerance=30.0),
    Target("1-spread", 2.5, "nats", "test/spread", "digits", "a", PAPER, "64 pixels", at_most=1.0),
    Target("2-slow", 150.0, "nats", "test/nll", "digits", "b", PAPER, "slower",
           options="--learning-rate 0.01 --no-warm", at_least=0.0, versus="1-pixels"),
)

def experiment(learning_rate: float = 0.1, steps: int = 30, warm: bool = True, hidden: tuple[int, ...] = (8,),
               notes: str = ""):
    data = digits()
    def nll(params, batch):
        level = jnp.round(batch["image"].reshape(-1, 64) * 16).astype(jnp.int32)
        return -jnp.take_along_axis(jax.nn.log_softmax(params)[None], level[:, :, None], 2).sum((1, 2))
    learner = minimize(lambda params, state, batch, key: Out(nll(params, batch)), optax.adam(learning_rate),
        lambda key, batch: jnp.zeros((64, 17)))
    measure = lambda state, batch, key: {"nll": nll(state.params, batch), "spread": nll(state.params, batch) * 0 + 2.0}
    told = {"nll": Quantity("exact -log p(x)"), "spread": Quantity("estimate")}
    return Experiment([Stage("pixels", learner, batches(data.train, 50), steps)],
        {"test": Evaluation(measure, data.test, 50, told, True)}, data=data.name)
'''
FIELDS = {"learning_rate": 0.1, "steps": 30, "warm": True, "hidden": [8], "notes": ""}
LINE = {
    "name": "test/nll", "value": 140.0, "standard_error": 0.5, "unit": "nats", "kind": "exact -log p(x)", "count": 250,
    "weights": "raw", "step": 30, "data": "digits", "trained": "float32", "code": "0.1.0+abc", "config": "f00d",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one experiment, from which the command is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/pixels.py").write_text(TOY)
    return tmp_path


def finished(folder, line=LINE, fields=FIELDS, **config):
    """A run directory as training leaves it."""
    run = folder / "runs/some"
    run.mkdir(parents=True, exist_ok=True)
    told = {"file": "pixels.py", "folder": str(folder), "name": "pixels", "fields": fields, "defaults": FIELDS}
    state = config.pop("state", "finished")
    config = {"run_id": "a", "facts": {}, "experiment": told, "seed": 0, "precision": "float32", **config}
    (run / "config.json").write_text(json.dumps(config))
    (run / "results.json").write_text(json.dumps({"state": state, "results": [line], "seconds": 3.14159}))
    place = {"platform": "cpu", "device_kind": "cpu", "cpus": 2, "jax": "0.10.2", "started": "2026-11-27T10:00:00+0000"}
    (run / "environment.json").write_text(json.dumps({**place, "system": platform.platform()}))
    return run


def recorded(folder, name="1-pixels", **changes):
    row = read_rows(folder / "experiments")[name]
    return record_of(row, load(row.path), finished(folder, **changes), {})


# What a number is worth

CASES = [
    (BASE, 94.48, (), None, "reproduced"),
    (BASE, 95.5, (), None, "reproduced"),  # the end belongs to it
    (BASE, 93.5, (), None, "reproduced"),
    (BASE, 95.51, (), None, "missed"),
    (BASE, 93.49, (), None, "missed"),  # better than published counts only as what it is
    (BASE, 94.48, ("--steps 9",), None, "partial"),
    (BASE, 99.0, ("--steps 9",), None, "partial"),
    (BASE._replace(figure=8.43, tolerance=0.15), 8.58, (), None, "reproduced"),  # 0.15000000000000036 apart
    (BASE._replace(figure=-200.0, tolerance=1e-3, relative=True), -200.2, (), None, "reproduced"),
    (BASE._replace(figure=-200.0, tolerance=1e-3, relative=True), -200.3, (), None, "missed"),
    (BASE._replace(tolerance=None, at_most=95.0), 60.0, (), None, "reproduced"),
    (BASE._replace(tolerance=None, at_most=95.0), 95.1, (), None, "missed"),
    (BASE._replace(tolerance=None, at_least=995.0), 1000.0, (), None, "reproduced"),
    (BASE._replace(tolerance=None, at_least=995.0), 994.0, (), None, "missed"),
    (BASE._replace(tolerance=None, at_least=-0.5, at_most=-0.1, versus="1-a"), 84.5, (), 84.8, "reproduced"),
    (BASE._replace(tolerance=None, at_least=-0.5, at_most=-0.1, versus="1-a"), 84.8, (), 84.8, "missed"),
    (BASE._replace(tolerance=None, at_least=15.0, versus="1-a"), 101.0, (), 87.1, "missed"),
]


def verdicts_hold(judge):
    for target, value, departs, other, wanted in CASES:
        assert judge(target, value, departs, other) == wanted, (target, value)


def one_sided(target, value, departs, other=None):
    return judge(target, min(value, target.figure), departs, other)


def better_counts(target, value, departs, other=None):
    return judge(target, max(value, interval(target)[0]), departs, other)


def forgiving(target, value, departs, other=None):
    return judge(target, value, (), other)


def never_partial_where_missed(target, value, departs, other=None):
    plain = judge(target, value, (), other)
    return plain if plain == "missed" else judge(target, value, departs, other)


def alone(target, value, departs, other=None):
    return judge(target, value, departs, None)


def absolute(target, value, departs, other=None):
    return judge(target._replace(relative=False), value, departs, other)


def twice_as_wide(target, value, departs, other=None):
    wide = target._replace(tolerance=target.tolerance and 2 * target.tolerance)
    return judge(wide, value, departs, other)


def open_ends(target, value, departs, other=None):
    low, high = interval(target)
    return "missed" if value in (low, high) else judge(target, value, departs, other)


def test_verdicts():
    verdicts_hold(judge)


MUTANTS = [one_sided, better_counts, forgiving, never_partial_where_missed, alone, absolute, twice_as_wide, open_ends]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_verdict_is_found(mutant):
    with pytest.raises(AssertionError):
        verdicts_hold(mutant)


# Rows, as their files declare them


def test_rows_are_read_as_text_and_nothing_runs(folder):
    path = folder / "experiments/pixels.py"
    path.write_text(TOY + "\nraise SystemExit('it was run')\n")
    targets = read_targets(path)
    assert [target.row for target in targets] == ["1-pixels", "1-spread", "2-slow"]
    assert targets[0] == Target(
        "1-pixels", 120.0, "nats", "test/nll", "digits", "a", "A, 2020", "64 pixels", tolerance=30.0
    )
    assert read_targets(ROOT / "experiments/vae_digits.py") == () and read_targets(folder / "nothing.py") == ()


GOOD = '"1-a", 1.0, "nats", "test/nll", "digits", "a", "A, 2020", "so", tolerance=1.0'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[]", "no tuple"),
        ("(1,)", "is no Target"),
        ("(Other(1),)", "is no Target"),
        (f"(Target({GOOD}, colour=1),)", "colour"),
        (f"(Target({GOOD.replace('1.0, ', 'float(1), ', 1)}),)", "malformed"),
        (f"(Target({GOOD.replace('1.0, ', 'UNKNOWN, ', 1)}),)", "malformed"),
        (f"(Target({GOOD.replace('1-a', 'a')}),)", "not like 14-made"),
        (f"(Target({GOOD.replace('1-a', '1-../../a')}),)", "not like 14-made"),
        (f"(Target({GOOD.replace('1.0, ', '1e999, ', 1)}),)", "figure is no number"),
        (f"(Target({GOOD.replace('1.0, ', 'True, ', 1)}),)", "figure is no number"),
        (f"(Target({GOOD.replace('A, 2020', '')}),)", "no source"),
        ("(Target(" + GOOD.replace('"a"', '"d"') + "),)", "cost 'd'"),
        (f"(Target({GOOD.replace(', tolerance=1.0', '')}),)", "no tolerance"),
        (f"(Target({GOOD}, at_most=2.0),)", "or two"),
        (f"(Target({GOOD}, versus='1-b'),)", "compares a tolerance"),
        (f"(Target({GOOD}, options=3),)", "options is no text"),
    ],
)
def test_a_row_that_is_wrong_is_named_with_its_line(tmp_path, text, what):
    (tmp_path / "x.py").write_text(f"TARGETS = {text}\n")
    with pytest.raises(BadInput) as refused:
        read_targets(tmp_path / "x.py")
    assert what in refused.value.lines[0] and "line 1" in refused.value.lines[0] and len(refused.value.lines) <= 3


def test_rows_are_found_by_name_and_class(folder):
    rows = read_rows(folder / "experiments")
    names = lambda picked: [row.target.row for row in picked]
    assert names(pick_rows(rows, ["2-slow", "1-pixels", "2-slow"], None)) == [
        "1-pixels",
        "2-slow",
    ]  # what it needs first
    assert names(pick_rows(rows, [], "a")) == ["1-pixels", "1-spread"] and pick_rows(rows, [], None) == []
    assert [run_name(rows, row) for row in rows.values()] == ["1-pixels", "1-pixels", "2-slow"]  # one run, two numbers
    with pytest.raises(BadInput, match="did you mean 1-pixels"):
        pick_rows(rows, ["1-pixel"], None)
    with pytest.raises(BadInput, match="no row is of class c"):
        pick_rows(rows, [], "c")
    (folder / "experiments/other.py").write_text(TOY)
    with pytest.raises(BadInput, match="stands in"):
        read_rows(folder / "experiments")
    (folder / "experiments/other.py").write_text(
        TOY.replace('("1-', '("3-').replace('("2-', '("4-').replace('s="1-', 's="9-')
    )
    with pytest.raises(BadInput, match="compared with 9-pixels"):
        read_rows(folder / "experiments")


def test_given_options_take_the_place_of_declared_ones():
    target = BASE._replace(options="--learning-rate 0.01 --no-warm --hidden 8 8")
    assert words_of(target) == ["--learning-rate", "0.01", "--no-warm", "--hidden", "8", "8"]
    assert words_of(target, ["--warm", "--hidden", "4"]) == ["--learning-rate", "0.01", "--warm", "--hidden", "4"]
    assert words_of(target, ["--learning-rate=1"]) == ["--no-warm", "--hidden", "8", "8", "--learning-rate=1"]


# Records of runs


def test_a_run_is_recorded_with_what_its_number_is(folder):
    record = recorded(folder)
    assert (record.status, record.value, record.standard_error, record.examples) == ("reproduced", 140.0, 0.5, 250)
    assert (record.kind, record.weights, record.step, record.precision) == ("exact -log p(x)", "raw", 30, "float32")
    assert (record.date, record.machine, record.jax, record.seconds) == ("2026-11-27", "cpu, 2 cores", "0.10.2", 3.1)
    assert (record.commit, record.config, record.transcribed) == ("0.1.0+abc", "f00d", False)
    assert record.command == "genjax train experiments/pixels.py" and record.departs == ()
    path = write_record(folder / "results", record)
    assert read_records(folder / "results") == {"1-pixels": record}
    assert platform.node() not in path.read_text() and str(folder) not in path.read_text()


@pytest.mark.parametrize(
    ("changes", "departs", "command"),
    [
        ({"fields": {**FIELDS, "steps": 300}}, ("--steps 300",), " --steps 300"),
        ({"fields": {**FIELDS, "hidden": [4, 4]}}, ("--hidden 4 4",), " --hidden 4 4"),
        ({"fields": {**FIELDS, "warm": False}}, ("--no-warm",), " --no-warm"),
        ({"precision": "bfloat16"}, ("--precision bfloat16",), " --precision bfloat16"),
        ({"seed": 3}, (), " --seed 3"),
        ({"fields": {**FIELDS, "notes": "/some/where/else"}}, (), " --notes NOTES"),
    ],
)
def test_another_command_makes_a_number_partial(folder, changes, departs, command):
    record = recorded(folder, **changes)
    assert (record.departs, record.status) == (departs, "partial" if departs else "reproduced")
    assert record.command == f"genjax train experiments/pixels.py{command}"


def test_declared_options_are_no_departure(folder):
    fields = {**FIELDS, "learning_rate": 0.01, "warm": False}
    row = read_rows(folder / "experiments")["2-slow"]
    known = {"1-pixels": recorded(folder)}
    record = record_of(row, load(row.path), finished(folder, {**LINE, "value": 140.5}, fields), known)
    assert (record.departs, record.status) == ((), "reproduced")
    assert record_of(row, load(row.path), finished(folder, {**LINE, "value": 139.5}, fields), known).status == "missed"


@pytest.mark.parametrize(
    ("row", "changes", "what"),
    [
        ("1-pixels", {"line": {**LINE, "data": "mnist"}}, "was measured on mnist"),
        ("1-pixels", {"line": {**LINE, "data": "Digits"}, "fields": {**FIELDS, "data": "a.csv"}}, "call it digits"),
        ("1-pixels", {"line": {**LINE, "unit": "bits"}}, "in bits"),
        ("1-pixels", {"line": {**LINE, "name": "test/other"}}, "does not tell test/nll"),
        ("1-pixels", {"line": {**LINE, "value": None}}, "does not tell test/nll"),
        ("1-spread", {}, "does not tell test/spread"),
        ("1-pixels", {"state": "running"}, "is not finished: running"),
        ("1-pixels", {"state": "preempted"}, "is not finished: preempted"),
    ],
)
def test_a_number_that_shows_nothing_is_refused(folder, capsys, row, changes, what):
    run = finished(folder, **changes)
    assert main(["reproduce", row, "--run", str(run)]) == 2
    told = capsys.readouterr().err
    assert what in told and len(told.splitlines()) <= 3
    assert not (folder / "results").exists()


def test_what_will_be_refused_is_refused_before_anything_is_trained(folder, capsys):
    assert main(["reproduce", "1-pixels", "--workdir", "x"]) == main(["reproduce", "1-pixels", "--readme", "x.md"]) == 2
    assert main(["reproduce", "1-pixels", "--learning-rate", "-1"]) == 2
    assert main(["reproduce", "2-slow"]) == 2 and main(["reproduce", "2-slow", "--run", str(finished(folder))]) == 2
    told = capsys.readouterr().err
    assert told.count("of which there is no result") == 2 and "genjax reproduce 1-pixels 2-slow" in told
    assert not (folder / "runs/reproduce").exists() and not (folder / "results").exists()


def test_a_run_of_another_experiment_is_refused(folder):
    run = finished(folder)
    text = (run / "config.json").read_text().replace('"name": "pixels"', '"name": "vae"')
    (run / "config.json").write_text(text)
    row = read_rows(folder / "experiments")["1-pixels"]
    with pytest.raises(BadInput, match=r"is a run of vae\.py"):
        record_of(row, load(row.path), run, {})
    with pytest.raises(BadInput, match="is not a run directory"):
        record_of(row, load(row.path), folder, {})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"row": "1-pixels", "departs": []}'])
def test_a_damaged_record_is_named(folder, text):
    (folder / "results").mkdir()
    (folder / "results/1-pixels.json").write_text(text)
    with pytest.raises(Damaged, match=r"1-pixels\.json"):
        read_records(folder / "results")


def test_a_record_under_another_name_is_damage(folder):
    path = write_record(folder / "results", recorded(folder))
    path.rename(path.with_name("3-other.json"))
    with pytest.raises(Damaged, match="no record of row 3-other"):
        read_records(folder / "results")


# The command and the page


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--class", "z"], "--class z"),
        (["--class"], "--class"),
        (["1-a", "2-b", "--steps", "3"], "--steps is an option of training"),
        (["--class", "a", "--steps", "3"], "--steps is an option of training"),
        (["1-a", "--run", "x", "--steps", "3"], "--steps is an option of training"),
        (["--steps", "3"], "--steps is an option of training"),
        (["--run", "x"], "--run x"),
        (["1-a", "--jobs", "0"], "--jobs 0"),
        (["1-a", "--jobs", "many"], "--jobs"),
    ],
)
def test_options_that_make_no_sense(words, what):
    with pytest.raises(BadInput) as refused:
        asked(words)
    assert what in refused.value.lines[0] and len(refused.value.lines) <= 3


def test_words_are_told_apart():
    wish = asked(["1-a", "--steps", "3", "--jobs", "2", "--no-warm", "--hidden", "4", "4", "--run=x"][:-1])
    assert (wish.names, wish.cost, wish.options.jobs) == (["1-a"], None, 2)
    assert wish.given == ["--steps", "3", "--no-warm", "--hidden", "4", "4"]
    assert asked(["--class=b", "--readme", "R.md"]).cost == "b"


def test_the_list_and_the_page(folder, capsys):
    assert main(["reproduce"]) == 0
    assert "3 rows: 3 not measured" in capsys.readouterr().out
    assert main(["reproduce", "1-pixels", "--run", str(finished(folder))]) == 0
    (folder / "README.md").write_text(f"# A\n\n{BEGIN}\n{END}\n\nkept\n")
    assert main(["reproduce", "--readme", "README.md"]) == 0
    page = (folder / "README.md").read_text()
    assert "test/nll 140 ± 0.50 nats (exact -log p(x); N=250, raw, step 30)" in page and page.endswith(
        f"{END}\n\nkept\n"
    )
    assert main(["reproduce", "--readme", "README.md"]) == 0 and (folder / "README.md").read_text() == page
    capsys.readouterr()
    assert main(["reproduce"]) == 0
    listed = capsys.readouterr().out
    assert re.search(
        r"1-pixels +120 ± 30 nats +a +140 ± 0.50 +2026-11-27 +cpu, 2 cores +0.1.0\+abc +reproduced", listed
    )
    assert "1 reproduced, 2 not measured" in listed


@pytest.mark.parametrize("page", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_page_without_its_marks_is_left_alone(page):
    with pytest.raises(BadInput, match="lacks the two marks"):
        with_table(page, "table")


def test_a_record_of_no_row_is_refused(folder):
    rows, record = read_rows(folder / "experiments"), recorded(folder)
    with pytest.raises(BadInput, match="9-gone"):
        readme_table(rows, {"9-gone": record._replace(row="9-gone")})


@pytest.mark.slow
def test_rows_are_trained_judged_and_kept(folder, capfd):
    assert main(["reproduce", "--class", "a"]) == 0
    records = read_records(Path("results"))
    results = json.loads(Path("runs/reproduce/1-pixels/results.json").read_text())
    assert records["1-pixels"].value == results["results"][0]["value"] and records["1-pixels"].status == "reproduced"
    assert (records["1-spread"].value, records["1-spread"].status) == (2.0, "missed")
    assert not Path("runs/reproduce/1-spread").exists()  # one run shows both
    assert main(["reproduce", "1-pixels", "--steps", "40"]) == 0
    assert read_records(Path("results")) == records  # what is partial does not take the place of what is not
    assert "keeps the number that was reproduced" in capfd.readouterr().out
    Path("results/1-pixels.json").unlink()
    assert main(["reproduce", "1-pixels", "--steps", "40"]) == 0  # the run is there already
    record = read_records(Path("results"))["1-pixels"]
    assert (record.status, record.departs, record.step) == ("partial", ("--steps 40",), 40)
    assert Path("runs/reproduce/1-pixels-steps_40/results.json").exists()
    assert main(["reproduce", "2-slow", "--step", "3"]) == 2
    assert "unknown option --step" in capfd.readouterr().err


# What this repository declares and shows

ROWS = read_rows(ROOT / "experiments")


@pytest.mark.parametrize("path", sorted({row.path for row in ROWS.values()}), ids=lambda path: path.stem)
def test_declared_rows_have_options_and_measures_that_exist(path):
    loaded = load(path)
    text = path.read_text() + (ROOT / "experiments/forecast_sunspots.py").read_text() * (
        path.stem == "forecast_airline"
    )
    needed = [f"--{field.name}" for field in loaded.fields if field.name == "features"]
    for target in read_targets(path):
        values_of(loaded, [*words_of(target), *(word for name in needed for word in (name, "RUN"))])
        split, _, measure = target.measure.partition("/")
        assert f'"{split}": Evaluation' in text.replace('evaluations = {"', '"') and measure.rstrip("12") in text
        assert target.unit or target.cost == "a"


def test_statuses_of_this_repository_follow_from_their_numbers():
    records = read_records(ROOT / "results")
    for name, record in records.items():
        other = records[ROWS[name].target.versus].value if ROWS[name].target.versus else None
        assert record.status == judge(ROWS[name].target, record.value, record.departs, other), name
        assert (record.unit, record.measure, record.data) == (
            ROWS[name].target.unit, ROWS[name].target.measure, ROWS[name].target.data
        )  # fmt: skip
        assert record.kind and record.date and record.machine and record.commit


def test_readme_shows_what_results_hold():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page == with_table(page, readme_table(ROWS, read_records(ROOT / "results")))


def test_what_is_from_memory_says_so():
    unsure = {"7-bits-back", "10-cd1", "10-cd3", "11-dbn-bound", "14-made-ensemble", "19-rnn-nade"}
    assert {name for name, row in ROWS.items() if "memory, unchecked" in row.target.source} - {"11-dbn-error"} == unsure
    assert wanted_text(ROWS["27-ar2-mean"].target) == "49.746 ± 0.1 %"

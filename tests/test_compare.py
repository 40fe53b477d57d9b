"""`genjax compare`: which number shows what, which runs may stand side by side, and what the table holds."""

import json
import re
import shlex

import numpy as np
import pytest

from genjax.cli import main
from genjax.compare.command import compare_options
from genjax.compare.evidence import Likelihood, findings, likelihood_of, not_dominated, shown_better
from genjax.compare.judging import Judged
from genjax.compare.members import check_same_data, read_members
from genjax.compare.published import check_published, read_published
from genjax.compare.table import conclusions, suggestion, table_text
from genjax.errors import BadInput

HEAD = "name,value,kind,data,source\n"
LEVELS = '''"""Independent pixels of {name}."""
import jax, jax.numpy as jnp, numpy as np, optax
from genjax import Evaluation, Experiment, Out, Quantity, Stage, minimize
from genjax.data import batches, digits, take

def experiment(slack: float = {slack}, steps: int = 30, few: bool = False, select: bool = True):
    data = digits()
    level = lambda batch: jnp.round(batch["image"].reshape(-1, 64) * 16).astype(jnp.int32)
    def nll(params, batch):
        log_p = jax.nn.log_softmax(params["logits"])
        return slack - jnp.take_along_axis(log_p[None], level(batch)[:, :, None], 2).sum((1, 2))
    loss = lambda params, state, batch, key: Out(nll(params, batch))
    def sample(state, key, n):
        drawn = jax.random.categorical(key, state.params["logits"], shape=(n, 64))
        return drawn.reshape(n, 8, 8, 1) / 16.0
    learner = minimize(loss, optax.adam(0.1), lambda key, batch: {{"logits": jnp.zeros((64, 17))}})
    test = data.test._replace(arrays=take(data.test.arrays, slice(100))) if few else data.test
    measure = lambda state, batch, key: {{"nll": nll(state.params, batch)}}
    told = {{"nll": Quantity("{kind} -log p(x)")}}
    chosen = Evaluation(measure, data.validation, 50, told)
    return Experiment([Stage("pixels", learner, batches(data.train, 50), steps)],
        {{"test": Evaluation(measure, test, 50, told, True), "validation": chosen}}, sample,
        select="validation/nll" if select else None, data=data.name)
'''


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, kind, slack in (("tight", "exact", 0.0), ("loose", "upper bound of", 3.0)):
        text = LEVELS.format(name=name, kind=kind, slack=slack)
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.mark.slow
def test_experiments_are_trained_measured_alike_and_told_with_their_kinds(files, capfd):
    (files / "list.txt").write_text("tight.py  # exact\n\nloose.py --steps 40\n")
    (files / "papers.csv").write_text(f"{HEAD}other,150.5,exact -log p(x),digits,A 2020\n")
    command = ["compare", "@list.txt", "--workdir", "runs/all", "--published", "papers.csv", "--n", "100"]
    assert main(command) == 0
    out = capfd.readouterr().out
    told = json.loads((files / "runs/all/compare.json").read_text())
    first, second = told["runs"]
    assert (first["name"], second["name"]) == ("tight", "loose-steps_40")
    results = json.loads((files / "runs/all/tight/results.json").read_text())
    assert first["likelihood"]["value"] == next(r["value"] for r in results["results"] if r["name"] == "test/nll")
    assert (first["likelihood"]["sort"], second["likelihood"]["sort"]) == ("exact", "upper bound")
    assert first["parameters"] == 64 * 17 and first["samples"] == 100 and 0 <= first["scores"]["precision"] <= 1
    assert "loose-steps_40 is an upper bound" in out or "may be loose" in out
    assert "[other]" in out and "<= " in out and "to train: 2" in out
    assert "steps=60,120" in told["next"]  # its last step is its best
    assert (files / "runs/all/compare.png").stat().st_size > 1000
    page = (files / "runs/all/compare.html").read_text()
    assert "tight" in page and "data:image/png" in page and "150.50" in page
    assert all(f"{run['name']}: test/nll" in page and run["line"]["count"] == 250 for run in told["runs"])
    assert page.count("digits, N=250, raw, float32, step ") == 2 and page.count(f"code {first['line']['code']}") == 2

    assert main(command) == 0  # nothing is trained twice
    assert "to train: 0" in capfd.readouterr().out
    assert main(["compare", "runs/all/tight", "runs/all/loose-steps_40"]) == 0
    assert main(["compare", "runs/all/tight", "tight.py --few", "--workdir", "runs/few"]) == 2
    error = capfd.readouterr().err
    assert "tight and tight-few are tested on different data" in error and len(error.splitlines()) <= 3
    assert not (files / "runs/few").exists()  # refused before anything is trained
    (files / "runs/same").symlink_to("all/tight")
    assert main(["compare", "runs/all/tight", "runs/same"]) == 2
    assert "tight and same are one run" in capfd.readouterr().err


EXACT, BOUND = Likelihood(80.0, 0.3, "exact", ""), Likelihood(82.0, 0.3, "upper bound", "")


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        (EXACT, EXACT._replace(value=81.0), True),
        (EXACT, EXACT._replace(value=80.8), False),  # within two standard errors of the difference, 0.85
        (EXACT._replace(value=81.0), EXACT, False),
        (EXACT, BOUND, False),  # the bound may be loose
        (BOUND, EXACT._replace(value=84.0), True),  # it is at most 82
        (BOUND, BOUND._replace(value=99.0), False),
        (BOUND, EXACT._replace(value=84.0, sort="lower bound"), True),
        (EXACT, EXACT._replace(value=99.0, sort="estimate"), False),
        (EXACT._replace(sort="estimate"), EXACT._replace(value=99.0), False),
        (EXACT._replace(error=None), EXACT._replace(value=99.0), False),  # whose error nobody knows
        (EXACT, EXACT._replace(value=99.0, error=None), False),
    ],
)
def test_what_shows_that_a_model_is_better(first, second, shown):
    assert shown_better(first, second) is shown


def test_every_claim_holds_for_all_truths_that_the_numbers_allow():
    rng = np.random.default_rng(0)
    sorts = ("exact", "upper bound", "lower bound", "estimate")
    claims = 0
    for _ in range(4_000):
        truth = rng.uniform(70, 90, 2)
        known = []
        for value in truth:
            sort = sorts[rng.integers(4)]
            off = {"exact": 0.0, "upper bound": rng.exponential(5), "lower bound": -rng.exponential(5)}
            known.append(Likelihood(value + off.get(sort, rng.normal(0, 10)), 1e-9, sort, ""))
        if shown_better(*known):
            claims += 1
            assert truth[0] < truth[1]
    assert claims > 300  # it is not silence that makes it right


def test_the_most_telling_number_of_a_run_is_taken():
    line = {"name": "test/nll", "standard_error": 0.5, "unit": "nats", "value": 82.0}
    bound = {**line, "kind": "upper bound of -log p(x)"}
    assert likelihood_of([bound, {**bound, "value": 81.0, "name": "test/iwae"}]).value == 81.0
    assert likelihood_of([bound, {**line, "value": 90.0, "kind": "exact -log p(x)"}]).sort == "exact"
    assert likelihood_of([{**bound, "name": "validation/nll"}]) is None
    assert likelihood_of([{**bound, "unit": "bits/dim"}]) is None
    assert likelihood_of([{**line, "kind": "exact log Z"}]) is None
    assert likelihood_of([{**line, "kind": "estimate, by Bayes' rule from bounds of log p(x | label)"}]) is None
    there, back = ({**line, "value": v, "kind": f"estimate of -log p(x), {v}"} for v in (80.0, 81.0))
    assert likelihood_of([there, back]).value == likelihood_of([back, there]).value == 81.0
    other = {**there, "name": "test/neg_iwae", "value": 70.0}  # another measure is no end of the bracket
    assert likelihood_of([there, other, back]).lowest == 80.0 and likelihood_of([bound]).lowest is None
    rows = [
        Judged("a", None, "", "", "", likelihood_of(both), 0, None, {}, {}, {}) for both in ([there, back], [there])
    ]
    assert [told.count("; the lowest is 80.00") for told in table_text(rows).splitlines()] == [0, 0, 1]  # by value
    flipped = likelihood_of([{**line, "value": -140.0, "kind": "exact log p(x)"}])
    assert (flipped.value, flipped.sort) == (140.0, "exact")
    assert likelihood_of([{**line, "value": -140.0, "kind": "lower bound of log p(x)"}]).sort == "upper bound"
    assert likelihood_of([{**bound, "kind": "estimate of an upper bound of -log p(x)"}]).sort == "estimate"
    assert likelihood_of([{**bound, "standard_error": 0.0}]).error is None  # none was measured
    assert likelihood_of([{**bound, "value": float("nan")}]) is None
    letters = likelihood_of([{**bound, "unit": "bits/letter", "value": 2.0}])
    assert (letters.unit, letters.of) == ("nats/letter", "x")
    assert (letters.value, letters.error) == pytest.approx((2 * np.log(2), np.log(2) / 2))
    given = {**line, "kind": "exact -log p(x | codes)"}
    assert likelihood_of([given, bound]).sort == "upper bound" and likelihood_of([given]).of == "x | codes"


def test_bits_of_the_same_measure_stand_beside_the_nats_of_whole_examples():
    line = {"name": "test/nll", "standard_error": 0.5, "unit": "nats", "value": 82.0, "kind": "exact -log p(x)"}
    beside = {**line, "name": "test/bits", "unit": "bits/residue", "value": 1.8}
    told = lambda *lines: (found := likelihood_of(lines)) and (found.value, found.unit, found.bits)
    assert told(line, beside) == told(beside, line) == (82.0, "nats", "1.800/residue")
    unlike = [{"name": "test_other/bits"}, {"kind": "upper bound of -log p(x)"}, {"value": float("nan")}]
    for change in unlike:
        assert told(line, {**beside, **change}) == (82.0, "nats", "")
    row = lambda one, dims: Judged("a", None, "", "", "", one, dims, None, {}, {}, {})
    residue = EXACT._replace(bits="1.800/residue")
    assert "1.800/residue" in table_text([row(residue, 0)])
    assert "1.803" in table_text([row(residue, 64)]) and "residue" not in table_text([row(residue, 64)])


def test_the_findings_name_who_is_shown_and_what_is_open():
    told = findings({"a": EXACT, "b": BOUND, "c": EXACT._replace(value=99.0), "d": BOUND._replace(sort="estimate")})
    assert told[0] == "a guarantees the fewest nats: 80.00 ± 0.30."
    assert told[1] == "a is shown to be better than c."
    assert [line.partition(" is open")[0] for line in told[2:4]] == ["a against b", "a against d"]
    assert told[4:] == ["b is shown to be better than c."]
    assert "guarantees a likelihood" in findings({"d": BOUND._replace(sort="estimate")})[0]


def test_numbers_of_different_things_say_nothing_of_each_other():
    frame, given = (EXACT._replace(value=8.0, unit="nats/frame", of=of) for of in ("x", "x | first frame"))
    assert not shown_better(frame, EXACT) and not shown_better(given, frame._replace(value=99.0))
    told = findings({"a": EXACT, "b": frame, "c": frame._replace(value=12.0), "d": given})
    assert told[0].endswith(
        "compared: -log p(x), nats: a; -log p(x), nats/frame: b, c; -log p(x | first frame), nats/frame: d."
    )
    assert told[1:] == ["b guarantees the fewest nats/frame: 8.00 ± 0.30.", "b is shown to be better than c."]


def test_likelihoods_of_sequences_are_told_as_those_of_images(request):
    """Else `genjax compare` would say that none is known."""
    texts = [path.read_text() for path in sorted((request.config.rootpath / "experiments").glob("*.py"))]
    pattern = r'Quantity\(\s*f?"([^"]*)",\s*f?"(?:nats|bits)/(?:frame|letter|character)"'
    kinds = {kind for text in texts for kind in re.findall(pattern, text)}
    other = {"exact KL", "estimate", "{kind}, the first frame included"}
    assert len(kinds - other) >= 6
    assert [kind for kind in sorted(kinds - other) if not re.search(r"-log p\(x( \| [\w ]+)?\)", kind)] == []


def test_what_stays_open_is_told_by_its_own_reason():
    why = lambda other: findings({"a": EXACT, "b": other})[1]
    assert "within 2 standard errors" in why(EXACT._replace(value=80.5))
    assert "no known error" in why(EXACT._replace(value=99.0, error=None))
    low = why(EXACT._replace(value=60.0, sort="lower bound"))
    assert "lower bound of b" in low and "within" not in low


def judged(fields, select, step):
    told = {"experiment": {"file": "f.py", "fields": fields, "defaults": {"steps": 10, "width": 8, "rate": 1}}}
    lines = {"results": [{"step": step}]}
    config = {**told, "select": select}
    return Judged("a", None, "", "", "", EXACT, 0, None, {}, lines, config)


def test_what_is_suggested_keeps_the_options_and_claims_no_more_than_is_known():
    fields = {"steps": 20, "width": 4, "learning_rate": 0.3}
    kept = suggestion([judged({**fields, "steps": 100, "name": "a b"}, "validation/nll", 9)])
    assert shlex.split(kept)[-2:] == ["--name", "a b"]
    longer = suggestion([judged(fields, "validation/nll", 19)])
    assert longer.startswith("genjax sweep f.py steps=40,80 --width 4 --learning-rate 0.3") and "near its end" in longer
    assert shlex.split(longer, comments=True)[-2:] == ["--learning-rate", "0.3"]  # what is said besides is a comment
    rates = "genjax sweep f.py learning_rate=0.1,0.3,0.9 seed=0:2 --steps 20 --width 4"
    assert suggestion([judged(fields, "validation/nll", 9)]) == rates
    assert suggestion([judged(fields, None, 20)]) == rates  # the last step, which nothing selected


def test_what_single_runs_support_is_said_with_what_they_do_not():
    scored = [
        judged({}, None, 1)._replace(name=name, scores={"precision": p, "recall": r}, samples=np.zeros((100, 1)))
        for name, p, r in (("a", 0.9, 0.5), ("b", 0.8, 0.7), ("c", 0.8, 0.4))
    ]
    assert "in pixels, none surpasses a, b; ± 0.05 each." in conclusions(scored)[-2]
    assert "in pixels, none surpasses another in both; ± 0.05" in conclusions(scored[:2])[-2]
    assert conclusions(scored)[-1].startswith("Each is one run, of one seed")


def test_scores_that_nobody_dominates():
    assert not_dominated({"a": (0.5, 0.5), "b": (0.5, 0.5), "c": (0.4, 0.6), "d": (0.4, 0.5)}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["tight.py"], "1 to compare"),
        ([], "0 to compare"),
        (["tight.py", "tight.py"], "tight is named twice"),
        (["tight.py --workdir x", "loose.py"], "--workdir of tight.py"),
        (["tight.py --step 3", "loose.py"], "unknown option --step"),
        (["'tight.py", "loose.py"], "No closing quotation"),
        (["@nothing.txt"], "the list nothing.txt cannot be read"),
        (["missing.py", "loose.py"], "missing.py"),
        ([".", "loose.py"], "is not a run directory"),
    ],
)
def test_what_cannot_be_compared_is_refused(files, words, what):
    with pytest.raises(BadInput) as refused:
        read_members(words, files / "runs")
    assert what in refused.value.lines[0] and len(refused.value.lines) <= 3
    assert not (files / "runs").exists()


def test_what_an_experiment_refuses_is_told_by_its_name(files):
    members = read_members(["tight.py", "loose.py --steps -1"], files / "runs")
    with pytest.raises(BadInput, match="loose-steps__1: --steps -1"):
        check_same_data(members)


def test_an_unfinished_run_is_refused(files):
    (files / "run").mkdir()
    told = {"run_id": "a", "facts": {}, "experiment": {"name": "a", "file": "a.py", "folder": ".", "fields": {}}}
    (files / "run/config.json").write_text(json.dumps(told))
    with pytest.raises(BadInput, match="run is not finished"):
        read_members(["run", "tight.py"], files / "runs")


@pytest.mark.parametrize("given", [["--jobs", "0"], ["--n", "3"], ["--what"]])
def test_options_outside_their_range(given):
    with pytest.raises(BadInput):
        compare_options(["a", "b", *given])


@pytest.mark.parametrize(
    "text", ["", "a,b\n", f"{HEAD}x,1,exact,d\n", f"{HEAD}x,nan,exact,d,A\n", f"{HEAD}x,one,exact,d,A\n",
             f"{HEAD}x,1,guess,d,A\n"]
)  # fmt: skip
def test_a_damaged_table_of_papers_is_refused(tmp_path, text):
    (tmp_path / "papers.csv").write_text(text)
    with pytest.raises(BadInput):
        read_published(tmp_path / "papers.csv")


def test_the_published_table_reads(request):
    found = read_published(request.config.rootpath / "experiments" / "published_binarized_mnist.csv")
    assert len(found) == 16 and found == sorted(found, key=lambda one: one.value)
    check_published(found, "binarized_mnist")
    with pytest.raises(BadInput, match="was measured on binarized_mnist"):  # the three binary MNISTs are three sets
        check_published(found, "mnist_dynamic")


@pytest.mark.slow
def test_families_on_the_digits_in_a_shortened_form(request, tmp_path, capfd):
    folder = request.config.rootpath / "experiments"
    listed = [line.split()[0] for line in (folder / "families_digits.txt").read_text().splitlines() if line[0] != "#"]
    short = {
        "vae_digits.py": "--steps 60 --samples 20",
        "rbm_digits.py": "--grey --steps 200 --hidden 4 --betas 20",
        "gan_digits.py": "--steps 40",
    }
    assert set(short) <= set(listed) and all((folder / file).is_file() for file in listed)
    lines = [f"{folder / file} {options}" for file, options in short.items()]
    assert main(["compare", *lines, "--workdir", str(tmp_path / "all"), "--jobs", "2", "--n", "60"]) == 0
    told = json.loads((tmp_path / "all/compare.json").read_text())
    sorts = {run["name"].partition("-")[0]: run["likelihood"] and run["likelihood"]["sort"] for run in told["runs"]}
    assert sorts == {"vae_digits": "upper bound", "rbm_digits": "exact", "gan_digits": None}
    assert all(run["samples"] == 60 and len(run["scores"]) == 4 for run in told["runs"])
    assert len({run["tested"] for run in told["runs"]}) == 1
    values = [run["likelihood"]["value"] for run in told["runs"] if run["likelihood"]]
    assert all(90 < value < 64 * np.log(17) for value in values)  # better than uniform, after seconds
    assert "gan_digits-steps_40: no likelihood is known" in " ".join(told["conclusions"])

"""The pages: coordinates of known curves, nothing from outside, hostile text, and runs in every state."""

import base64
import hashlib
import html.parser
import json
import math
import re

import numpy as np
import pytest

from genjax.report import open_log, save_png, write_comparison, write_report
from genjax.report.charts import grouped, series_of, stage_charts
from genjax.report.comparison import ranked
from genjax.report.contents import read_contents
from genjax.report.curves import MOST, Dot, Series, dot_chart, line_chart, round_ticks, thin
from genjax.report.layout import measured
from genjax.report.markup import element
from genjax.report.source import coloured

HOSTILE = "<script>alert('x')</script>\"><img src=https://evil.example/ onerror=alert(1)>&amp;"
EMPTY = {"img", "meta", "input", "br"}


def parsed(text):
    """The elements of a page, (name, attributes, text inside); raises where elements are not closed in order."""
    found, open_elements = [], []

    def start(name, attributes):
        entry = (name, dict(attributes), [])
        found.append(entry)
        if name not in EMPTY:
            open_elements.append(entry)

    def end(name):
        assert open_elements.pop()[0] == name

    parser = html.parser.HTMLParser()
    parser.handle_starttag, parser.handle_endtag = start, end
    parser.handle_data = lambda data: open_elements[-1][2].append(data) if open_elements else None
    parser.feed(text)
    parser.close()
    assert open_elements == []
    return [(name, attributes, "".join(inside)) for name, attributes, inside in found]


def complaints(text):
    """What a self-contained page must not have: references to elsewhere, and scripts that are not its own."""
    found = []
    elements = parsed(text)
    policy = next(a["content"] for name, a, _ in elements if name == "meta" and "http-equiv" in a)
    for name, attributes, inside in elements:
        if name in ("script", "style"):
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            found += [] if f"{name}-src 'sha256-{digest}'" in policy else [f"{name} that the policy does not name"]
        found += [f"handler {key}" for key in attributes if key.startswith("on") or key == "style"]
        found += [
            f"src {attributes['src'][:40]}" for _ in "x" if not attributes.get("src", "data:").startswith("data:")
        ]
        href = attributes.get("href", "https://arxiv.org/")
        found += [f"{name} to {href}"] if name != "a" and "href" in attributes else []
        found += [] if href.startswith("https://arxiv.org/") else [f"link {href}"]
        found += [f"element {name}"] if name in ("link", "iframe", "object", "base", "form") else []
        found += ["image without words"] if name == "img" and not attributes.get("alt") else []
    found += ["url() in the style"] if re.search(r"url\(|@import", text.split("</style>")[0]) else []
    found += [] if sum(name == "script" for name, _, _ in elements) == 1 else ["not one script"]
    return found


def texts(text, name):
    return [inside for element_name, _, inside in parsed(text) if element_name == name]


def words(text):
    """All text of a page that is no script or style, with single spaces."""
    return " ".join(" ".join(inside for name, _, inside in parsed(text) if name not in ("script", "style")).split())


def result(**changes):
    line = {
        "name": "test/neg_elbo", "value": 92.1374, "standard_error": 0.8712, "unit": "nats", "kind": "upper bound",
        "better": "lower", "count": 250, "weights": "ema", "precision": "float32", "stage": "vae", "step": 20,
        "data": "digits",
    }  # fmt: skip
    return line | changes


def make_run(directory, name="vae_digits", metric="rate"):
    """A small finished run directory."""
    log = open_log(directory, [20])
    for step in (10, 20):
        row = {"stage": name, "stage_index": 0, "step": step, "time": 1765000000.0}
        log.write({**row, "kind": "train", "loss": 100.0 - step, metric: 1.0, "updates_per_second": 5.0})
        log.write({**row, "kind": "evaluation", "validation/nll": 90.0, "validation/nll_standard_error": 0.5})
        log.picture("samples", name, 0, step, np.full([4, 4, 3], step, np.uint8))
    log.close()
    fields = {"latents": 10, "rate": 3e-4, name: name}
    experiment = {
        "file": f"experiments/{name}.py",
        "name": name,
        "fields": fields,
        "defaults": {**fields, "rate": 1e-3},
    }
    config = {"experiment": experiment, "seed": 7, "precision": name, "select": "validation/nll", "run_id": "abc"}
    results = {
        "state": "finished", "results": [result(kind=f"upper bound {name}"), result(name=name)], "parameters": 123456,
        "seconds": 75, "compile_seconds": 6.21, "examples_per_second": 4123.4, "peak_bytes": 2**20, "updates": 4321,
        "processes": 3,
    }  # fmt: skip
    environment = {"jax": "0.10.2", "device_kind": name, "device_count": 2, "variables": {"A": name}}
    for file, value in (("config", config), ("results", results), ("environment", environment)):
        (directory / f"{file}.json").write_text(json.dumps(value))
    (directory / "experiment.py").write_text(f'"""{name}\n\nPaper: x"""\nx = 1  # {name}\n')
    return directory


# --- the page of a run -----------------------------------------------------------------------------------------------


def test_the_page_says_what_was_reached(tmp_path):
    text = write_report(make_run(tmp_path)).read_text()
    assert complaints(text) == []
    said = words(text)
    for part in (
        *("Finished", "test neg_elbo", "92.14 ± 0.87", "upper bound vae_digits · digits · N = 250 · averaged weights"),
        *("default 0.001", "123,456", "4,321", "1 min 15 s", "6.2 s", "4,123", "1 MiB", "2 × vae_digits", "step 20"),
        *("one after the other 3",),
        *("genjax evaluate", "upper bound: the true value is at most this", "last entry 2025-12-06 05:46 UTC"),
    ):
        assert part in said, part
    assert texts(text, "h4") == ["loss", "rate"]  # neither the speed nor a standard error is a curve
    assert "run id abc" in said.partition("Environment")[2] and "run id" not in said.partition("Environment")[0]


def test_only_what_differs_from_its_default_is_marked(tmp_path):
    assert texts(write_report(make_run(tmp_path)).read_text(), "strong") == ["0.0003"]


def test_pictures_are_inside_in_the_order_of_steps(tmp_path):
    make_run(tmp_path)
    images = [a for name, a, _ in parsed(write_report(tmp_path).read_text()) if name == "img"]
    assert [image["alt"] for image in images] == ["samples at step 10", "samples at step 20"]
    assert [(image["width"], image["height"]) for image in images] == [("4", "4")] * 2
    data = [base64.b64decode(image["src"].partition(",")[2]) for image in images]
    assert data == [path.read_bytes() for path in sorted((tmp_path / "pictures").iterdir())]


def test_of_many_snapshots_the_first_and_the_last_are_shown(tmp_path):
    (tmp_path / "pictures").mkdir()
    for step in range(100):
        save_png(tmp_path / "pictures" / f"samples-00-{step:09d}.png", np.zeros([2, 2, 3], np.uint8))
    text = write_report(tmp_path).read_text()
    steps = [int(image["alt"].split()[-1]) for name, image, _ in parsed(text) if name == "img"]
    assert steps == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    assert "12 of 100 snapshots" in words(text)


def test_of_large_pictures_fewer_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("genjax.report.reels.HEAVY", 300)
    (tmp_path / "pictures").mkdir()
    for step in range(10):
        path = save_png(tmp_path / "pictures" / f"samples-00-{step:09d}.png", np.zeros([2, 2, 3], np.uint8))
    count = sum(name == "img" for name, _, _ in parsed(write_report(tmp_path).read_text()))
    assert count == max(2, 300 // path.stat().st_size) < 10


def test_hostile_text_stays_text(tmp_path):
    make_run(tmp_path)
    for file in ("config.json", "results.json", "environment.json"):
        path = tmp_path / file
        path.write_text(path.read_text().replace("vae_digits", HOSTILE.replace('"', '\\"')))
    log = open_log(tmp_path, [20])
    for step in (15, 16):
        row = {"stage": HOSTILE, "stage_index": 0, "step": step, "kind": HOSTILE}
        log.write({**row, HOSTILE: 1.0, f"a/{HOSTILE}": 2.0})
    log.close()
    (tmp_path / "experiment.py").write_text(f"r'''{HOSTILE} arXiv:1312.6114 {HOSTILE}'''\n# {HOSTILE}\n")
    (tmp_path / "pictures" / "<img src=x>-00-000000001.png").write_bytes(b"\x89PNG\r\n" + bytes(30))
    text = write_report(tmp_path).read_text()
    assert complaints(text) == []
    assert words(text).count(HOSTILE) > 10  # said, letter by letter
    assert texts(text, "h1") == [HOSTILE] and texts(text, "title") == [f"{HOSTILE} · genjax"]
    assert texts(text, "h4") == ["loss", HOSTILE.rpartition("/")[2], "rate"]  # a slash parts split and measure


@pytest.mark.parametrize(
    "planted",
    [
        lambda text: text.replace("<h1>", '<img src="https://evil.example/x.png" alt="x"><h1>'),
        lambda text: text.replace("<h1>", "<script>alert(1)</script><h1>"),
        lambda text: text.replace("<h1>", '<h1 onclick="x()">'),
        lambda text: text.replace("<h1>", '<a href="javascript:x()">x</a><h1>'),
        lambda text: text.replace("</style>", "body{background:url(//evil.example)}</style>"),
    ],
)
def test_the_check_finds_what_is_planted(tmp_path, planted):
    text = write_report(make_run(tmp_path)).read_text()
    assert complaints(text) == [] and complaints(planted(text)) != []


def test_a_run_that_has_just_started(tmp_path):
    text = write_report(tmp_path).read_text()
    assert complaints(text) == [] and "Started; nothing logged yet" in words(text)
    assert texts(text, "h1") == [tmp_path.name]


def test_a_run_that_goes_on_and_one_that_failed(tmp_path):
    make_run(tmp_path)
    (tmp_path / "results.json").write_text('{"state": "running"}')
    assert "Running when this page was written" in words(write_report(tmp_path).read_text())
    (tmp_path / "results.json").write_text('{"state": "non-finite", "message": "decoder/kernel at step 12"}')
    said = words(write_report(tmp_path).read_text())
    assert "Stopped: a value was not finite" in said and "decoder/kernel at step 12" in said and "genjax resume" in said


@pytest.mark.parametrize("damage", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"null", b'{"results": 3, "experiment": []}'])
def test_damaged_files_are_told_and_the_rest_is_shown(tmp_path, damage):
    make_run(tmp_path)
    for file in ("config.json", "results.json", "environment.json"):
        (tmp_path / file).write_bytes(damage)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b"not a row\n{}\n")
    (tmp_path / "experiment.py").write_bytes(b"def broken(:\n\xff'''")
    (tmp_path / "pictures" / "samples-00-000000030.png").write_bytes(b"no picture")
    text = write_report(tmp_path).read_text()
    assert complaints(text) == []
    assert "line 5 of" in words(text) and "step 20" in words(text) and "broken" in words(text)


def test_reading_executes_nothing(tmp_path):
    (tmp_path / "experiment.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    write_report(tmp_path)
    assert read_contents(tmp_path).source and not (tmp_path / "ran").exists()


# --- curves ----------------------------------------------------------------------------------------------------------


def paths(chart, kind="line"):
    return [a["d"] for name, a, _ in parsed(f"<p>{chart.text}</p>") if name == "path" and a["class"].startswith(kind)]


def test_a_known_line_has_known_coordinates():
    # The frame: x from 33.8 (14 + 6.6 for each of 3 characters) to 426, y from 204 (-0.08) up to 12 (2.08).
    chart = line_chart([Series("a", [0, 1, 2], [0.0, 1.0, 2.0])], "a")
    assert paths(chart) == ["M33.8,196.9L229.9,108.0L426.0,19.1"]
    logarithmic = line_chart([Series("a", [0, 1, 2], [0.0, 1.0, 2.0])], "a", log_x=True)
    middle = 33.8 + (426 - 33.8) * math.log10(2) / math.log10(3)
    assert paths(logarithmic) == [f"M33.8,196.9L{middle:.1f},108.0L426.0,19.1"]


def test_what_is_not_finite_interrupts_the_line():
    chart = line_chart([Series("a", [0, 1, 2, 3, 4], [0.0, 2.0, math.nan, math.inf, 1.0])], "a")
    assert paths(chart) == ["M33.8,196.9L131.8,19.1M426.0,108.0"]
    places = json.loads(next(a["data-places"] for _, a, _ in parsed(chart.text) if "data-places" in a))
    assert places == [[[33.8, 196.9], [131.8, 19.1], None, None, [426.0, 108.0]]]
    assert "no finite value" in line_chart([Series("a", [1], [math.nan])], "a").text


def test_one_value_and_equal_values_have_a_place():
    for values in ([5.0], [5.0, 5.0], [0.0, 0.0], [-3.0, -3.0]):
        (path,) = paths(line_chart([Series("a", list(range(len(values))), values)], "a"))
        assert all(y == "108.0" for y in re.findall(r",([\d.]+)", path))


def test_the_first_moments_leave_the_frame_and_are_told():
    values = [1000.0] + [float(v) for v in np.linspace(20, 10, 30)]
    text = line_chart([Series("a", list(range(31)), values)], "a").text
    assert "▲ 1,000 at step 0" in text
    assert float(re.search(r"L[\d.]+,([\d.]+)", text)[1]) < 100  # the rest fills the frame


def test_errors_are_a_band():
    chart = line_chart([Series("a", [0, 2], [0.0, 2.0], [0.5, 0.5])], "a")
    (band,) = paths(chart, "band")
    numbers = [float(n) for n in re.findall(r"[\d.]+", band)]
    assert numbers[0::2] == [20.6, 426.0, 426.0, 20.6]
    unit = 192 / 3.24  # the band goes from -0.5 to 2.5, and 4 % of that on both sides
    assert np.allclose(np.diff(numbers[1::2]), [-2 * unit, unit, 2 * unit], atol=0.11)  # along, across, and back
    assert 12 < min(numbers[1::2]) and max(numbers[1::2]) < 204  # all of it inside the frame


def test_long_series_are_averaged():
    long = thin(Series("a", list(range(6000)), [float(x) for x in range(6000)]))
    assert len(long.x) == MOST and long.x[-1] == 5999
    assert long.y[0] == 4.5 and long.y[-1] == 5994.5


@pytest.mark.parametrize(("low", "high"), [(0, 1), (93.2, 148), (-3e-7, 2e-7), (1e9, 3e9), (5, 5), (0, 0), (-1, -1)])
def test_ticks_are_round_equal_and_enclose(low, high):
    values = [value for value, _ in round_ticks(low, high)]
    assert values[0] <= low and values[-1] >= high and 2 <= len(values) <= 9
    assert np.allclose(np.diff(values), values[1] - values[0], rtol=1e-6)


def test_dots_of_one_setting_stand_side_by_side():
    chart = dot_chart([Dot(1, 5.0, 0.5), Dot(1, 4.0, 0.5, best=True), Dot(2, 6.0)], "a", [(1, "one"), (2, "two")])
    dots = [a for name, a, _ in parsed(chart.text) if name == "circle"]
    assert [dot["class"] for dot in dots] == ["dot major", "dot minor", "dot minor"]
    xs = [float(dot["cx"]) for dot in dots]
    assert xs[1] - xs[0] == pytest.approx(9.0, abs=0.11) and xs[2] > xs[1] + 100


def test_curves_of_stages_and_kinds():
    train = {"kind": "train", "loss": 2.0, "grad": 1.0, "updates_per_second": 9.0}
    test = {"kind": "evaluation", "test/loss": 4.0, "test/grad_standard_error": 1.0, "note": "x", "flag": None}
    rows = [{"stage": "ab"[i], "stage_index": i, "step": step, **train} for i in (0, 1) for step in (1, 2)]
    rows += [{"stage": "b", "stage_index": 1, "step": step, **test} for step in (1, 2)]
    assert list(series_of(rows[:2])) == ["loss", "grad"]
    found = [(line.name, line.style, line.y) for line in grouped(series_of(rows[2:]))["loss"]]
    assert found == [("train", "minor", [2.0, 2.0]), ("test", "major", [4.0, 4.0])]
    text = stage_charts(rows, "", []).text
    assert texts(text, "h3") == ["Stage a", "Stage b"] and texts(text, "h4") == ["loss", "grad", "loss", "grad"]
    assert stage_charts([], "", []) is None
    assert stage_charts([{"stage_index": 0, "step": 1, "loss": 2.0}], "", []) is None  # one point is no curve


def test_the_selected_measure_is_drawn_over_the_loss_on_every_split():
    lines = {name: Series(name, [1, 2], [1.0, 1.0]) for name in ("loss", "test/nll", "validation/nll", "test/rate")}
    groups = grouped(lines, "validation/nll")
    assert {name: [line.name for line in group] for name, group in groups.items()} == {
        "loss": ["train", "test nll", "validation nll"],
        "rate": ["test"],
    }


def test_the_last_line_of_a_repeated_step_counts():
    rows = [{"stage_index": 0, "step": 1, "kind": "train", "loss": value} for value in (2.0, 3.0)]
    assert series_of(rows)["loss"].y == [3.0]


# --- the page of a sweep ---------------------------------------------------------------------------------------------


def sweep_row(value, kind="upper bound", **fields):
    line = result(value=value, kind=kind) if value is not None else None
    return {"run": "runs/1", "fields": {"width": 200, **fields}, "state": "finished", "seconds": 5.0, "result": line}


def test_runs_are_ranked_within_their_kind(tmp_path):
    rows = [
        *(sweep_row(93.0, rate=1e-3), sweep_row(92.0, rate=1e-4), sweep_row(50.0, "estimate", rate=1e-2)),
        *(sweep_row(math.nan, rate=1.0), sweep_row(None, rate=2.0)),
    ]
    ranking = ranked(rows)
    assert [key[1] for key in ranking] == ["upper bound", "estimate"]
    assert [row["result"]["value"] for row in ranking["test/neg_elbo", "upper bound"]] == [92.0, 93.0]
    text = write_comparison(rows, tmp_path / "sweep.html", "vae").read_text()
    assert complaints(text) == []
    assert texts(text, "strong") == ["92.00 ± 0.87", "50.00 ± 0.87"]
    assert "Without a value" in words(text) and "width" not in words(text)


def test_settings_are_ranked_by_their_mean(tmp_path):
    rows = [sweep_row(value, rate=rate, seed=seed) for rate, seed, value in ((1, 0, 4.0), (1, 1, 2.0), (2, 0, 5.0))]
    settings = [
        {"fields": {"rate": 2}, "result": result(value=5.0), "deviation": None, "repeats": 1},
        {"fields": {"rate": 1}, "result": result(value=3.0), "deviation": 1.41, "repeats": 2},
    ]
    text = write_comparison(rows, tmp_path / "sweep.html", "vae", settings).read_text()
    assert complaints(text) == []
    assert texts(text, "strong") == ["3.0 ± 1.4", "2.00 ± 0.87"]  # the best setting, then the best run
    cells = texts(text, "td")
    assert cells[:8] == ["1", "", "1", "2", "2", "5", "2", "1"]  # the value that is missing is in its strong


def test_higher_may_be_better():
    rows = [{"fields": {}, "result": result(value=value, better="higher")} for value in (1.0, 3.0, 2.0)]
    assert [row["result"]["value"] for row in ranked(rows)["test/neg_elbo", "upper bound"]] == [3.0, 2.0, 1.0]


def test_hostile_and_odd_settings(tmp_path):
    rows = [sweep_row(1.0, **{HOSTILE: value}) for value in (HOSTILE, None, True, [1, 2], {"a": 1}, 0.5)]
    assert complaints(write_comparison(rows, tmp_path / "sweep.html", HOSTILE).read_text()) == []
    assert complaints(write_comparison([], tmp_path / "empty.html", "none").read_text()) == []


# --- the pieces ------------------------------------------------------------------------------------------------------


def test_text_and_attributes_are_escaped():
    text = element("p", HOSTILE, title=HOSTILE).text
    ((name, attributes, inside),) = parsed(text)
    assert (name, attributes, inside) == ("p", {"title": HOSTILE}, HOSTILE)
    assert element("p", "\x00\ud800ok").text == "<p>\ufffd\ufffdok</p>"


@pytest.mark.parametrize(
    "source",
    [
        "x = 'é' # ü\n",
        "if a:\n\treturn f'{b} {{c}}' \\\n f'{{}}'\n",
        "a = 'b\x0cc'\nif d: e\n",
        "'''open",
        "\x00",
        "",
        "a\n\n",
    ],
)
def test_colours_change_no_character(source):
    inside = parsed(f"<p>{coloured(source).text}</p>")
    assert sum(len(text) for _, _, text in inside) == len(source)
    stripped = re.sub(r"<[^>]*>", "", coloured(source).text)
    assert html.unescape(stripped).replace("\ufffd", "\x00") == source


def test_values_show_the_digits_that_their_error_supports():
    assert measured(92.0, 0.05) == "92.000 ± 0.050"
    assert measured(1234.5, 12.3) == "1,234 ± 12"
    assert measured(0.5, math.nan) == "0.5"
    assert measured(0.5, 0.0) == "0.5"

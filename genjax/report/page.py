"""The page of a run, `report.html`: what was reached, how it looks, how it went, what it cost, what to do next."""

import base64
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genjax.report import record as run
from genjax.report.charts import stage_charts
from genjax.report.files import write_whole
from genjax.report.layout import byte_text, counted, fact_list, measured, page, plain, section, table
from genjax.report.markup import Html, element, join
from genjax.report.progress import duration
from genjax.report.record import Record, Snapshot, mapping
from genjax.report.source import coloured, linked

MOST = 12  # snapshots of a picture on the page; the others stay in pictures/
MEANING = {
    "upper bound": "the true value is at most this",
    "lower bound": "the true value is at least this",
    "exact": "computed, neither bounded nor sampled",
    "estimate": "may miss the true value on either side",
}
STATES = {
    "finished": "Finished",
    "running": "Running when this page was written",
    "started": "Started; nothing logged yet",
    "preempted": "Preempted: the state is saved; the same command goes on",
    "non-finite": "Stopped: a value was not finite; the last good checkpoint stands",
}


def write_report(directory: str | Path) -> Path:
    """Writes `report.html` of a run, finished or not.

    Args:
      directory: the run directory; whatever is missing in it is left out of the page.

    Returns:
      The page's path.

    Raises:
      Damaged: the page cannot be written.
    """
    record = run.read_record(directory)
    body = join(
        _head(record),
        _results(record),
        _pictures(record),
        stage_charts(record.rows, str(record.config.get("select") or ""), run.results(record)),
        _configuration(record),
        _cost(record),
        _next(record),
        _environment(record),
        _source(record),
    )
    return write_whole(record.directory / "report.html", page(run.name_of(record), body))


def _head(record: Record) -> Html:
    about, state = run.description(record), run.state(record)
    last = max((row["time"] for row in record.rows if isinstance(row.get("time"), int | float)), default=None)
    heard = f"last entry {time.strftime('%Y-%m-%d %H:%M', time.gmtime(last))} UTC" if last else None
    badge = element("span", STATES.get(state, f"Stopped: {state}"), class_="state", data_state=state)
    return element(
        "header",
        element("p", badge, element("span", heard) if heard else None, class_="over"),
        element("h1", run.name_of(record)),
        element("p", linked(about), class_="lede") if about else None,
        *[element("p", note, class_="note", role="note") for note in record.notes],
    )


def _results(record: Record) -> Html | None:
    lines = run.results(record)
    if not lines:
        return None
    chosen = next((line for line in lines if str(line["name"]).startswith("test")), lines[0])
    unit = element("span", str(chosen.get("unit", "")), class_="unit")
    hero = element(
        "div",
        element("p", _measure(chosen["name"]), class_="what"),
        element("p", measured(chosen["value"], chosen.get("standard_error")), " ", unit, class_="value"),
        element("p", _circumstances(chosen), class_="kind"),
        class_="hero",
    )
    kinds = {
        kind: text for kind, text in MEANING.items() if any(str(line.get("kind")).startswith(kind) for line in lines)
    }
    legend = "; ".join(f"{kind}: {text}" for kind, text in kinds.items())
    rows = [_result_row(line) for line in lines]
    head = ["measure", "value", "unit", "kind", "N", "weights", "precision", "at step"]
    more = table(head, rows, numeric=(1, 4, 7)) if len(lines) > 1 else None
    return section("Result", hero, more, element("p", legend, class_="quiet") if legend else None, class_="results")


def _result_row(line: Mapping[str, Any]) -> list[Html | str]:
    texts = [str(line.get(name, "")) for name in ("unit", "kind")]
    value = measured(line["value"], line.get("standard_error"))
    place = f"{line.get('stage', '')} {counted(line.get('step'))}".strip()
    return [
        _measure(line["name"]),
        value,
        *texts,
        counted(line.get("count")),
        str(line.get("weights", "")),
        str(line.get("precision", "")),
        place,
    ]


def _circumstances(line: Mapping[str, Any]) -> str:
    count = line.get("count")
    weights = {"ema": "averaged weights (ema)", "raw": "raw weights"}.get(str(line.get("weights")), line.get("weights"))
    parts = [
        line.get("kind"),
        line.get("data"),
        f"N = {counted(count)}" if count else None,
        weights,
        line.get("precision"),
    ]
    return " · ".join(str(part) for part in parts if part)


def _pictures(record: Record) -> Html | None:
    reels = [_reel(name, snapshots, record) for name, snapshots in record.pictures.items()]
    return section("Pictures through training", element("div", *reels, class_="reels")) if reels else None


def _reel(name: str, snapshots: Sequence[Snapshot], record: Record) -> Html:
    """A film strip of one picture; the script turns it into one frame with a slider."""
    last = len(snapshots) - 1
    count = min(MOST, len(snapshots))
    shown = [snapshots[round(i * last / max(count - 1, 1))] for i in range(count)] if last else list(snapshots)
    stages = {row.get("stage_index"): str(row.get("stage")) for row in record.rows}
    several = len({s.stage_index for s in snapshots}) > 1
    frames = []
    for snapshot in shown:
        when = f"step {snapshot.step:,}" + (
            f" of {stages.get(snapshot.stage_index, snapshot.stage_index)}" if several else ""
        )
        data = "data:image/png;base64," + base64.b64encode(snapshot.png).decode()
        width, height = (int.from_bytes(snapshot.png[i : i + 4], "big") for i in (16, 20))
        image = element("img", src=data, alt=f"{_spaced(name)} at {when}", width=width, height=height)
        frames.append(element("figure", image, element("figcaption", when)))
    hint = "originals above, reconstructions below" if "reconstruct" in name else None
    left_out = f"{len(shown)} of {len(snapshots)} snapshots" if len(shown) < len(snapshots) else None
    about = " · ".join(part for part in (hint, left_out) if part)
    title = element("h3", _spaced(name), element("small", about) if about else None)
    return element("div", title, element("div", *frames, class_="strip", tabindex=0), class_="reel")


def _configuration(record: Record) -> Html | None:
    experiment = mapping(record.config.get("experiment"))
    fields, defaults = mapping(experiment.get("fields")), mapping(experiment.get("defaults"))
    rows: list[Sequence[Html | str]] = []
    for name, value in fields.items():
        default = defaults.get(name, value)
        changed = value != default
        text = element("strong", plain(value)) if changed else plain(value)
        rows.append([element("code", name), text, f"default {plain(default)}" if changed else ""])
    options = {k: v for k, v in record.config.items() if not isinstance(v, dict | list) and v is not None}
    return section(
        "Configuration",
        table(["field", "value", ""], rows, numeric=(1,), class_="fields") if rows else None,
        fact_list({_spaced(name): plain(value) for name, value in options.items()}) if options else None,
    )


def _cost(record: Record) -> Html | None:
    known, place = record.outcome, record.environment
    seconds, compiling = known.get("seconds"), known.get("compile_seconds")
    device = place.get("device_kind") or place.get("platform")
    tiles = {
        "parameters": counted(known.get("parameters")),
        "training and evaluation": duration(seconds) if isinstance(seconds, int | float) else "",
        "compilation": duration(compiling) if isinstance(compiling, int | float) else "",
        "examples a second": counted(known.get("examples_per_second")),
        "peak memory": byte_text(known.get("peak_bytes")),
        "device": f"{place.get('device_count', 1)} × {device}" if device else "",
    }
    found = {name: text for name, text in tiles.items() if text}
    return section("Cost", fact_list(found, "tiles")) if found else None


def _next(record: Record) -> Html | None:
    where, file = shlex.quote(str(record.directory)), mapping(record.config.get("experiment")).get("file")
    lines = {
        f"genjax resume {where}": "goes on where the last checkpoint stands",
        f"genjax evaluate {where}": "measures the best checkpoint again",
        f"genjax sample {where} --n 64 --out grid.png": "draws new samples",
    }
    if run.state(record) == "finished":
        lines.pop(f"genjax resume {where}")
        if file:
            lines[f"genjax sweep {shlex.quote(str(file))} seed=0:3"] = "the same with other seeds"
    rows = [element("div", element("code", line), element("span", why)) for line, why in lines.items()]
    return section("What next", element("div", *rows, class_="commands"))


def _environment(record: Record) -> Html | None:
    facts = {_spaced(name): plain(value) for name, value in record.environment.items() if value not in (None, "")}
    return section("Environment", fact_list(facts)) if facts else None


def _source(record: Record) -> Html | None:
    if not record.source:
        return None
    code = element("pre", element("code", coloured(record.source)), tabindex=0)
    lines = len(record.source.splitlines())
    return section("Source", element("details", element("summary", f"experiment.py, {lines} lines"), code))


def _measure(name: Any) -> str:
    return str(name).replace("/", " ")


def _spaced(name: Any) -> str:
    return str(name).replace("_", " ")

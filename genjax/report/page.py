"""The page of a run, `report.html`: what was reached, how it looks, how it went, what it cost, what to do next."""

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genjax.report import contents
from genjax.report.charts import stage_charts
from genjax.report.contents import Contents, mapping
from genjax.report.files import write_whole
from genjax.report.layout import byte_text, counted, fact_list, measured, page, plain, section, table
from genjax.report.markup import Html, element, join
from genjax.report.progress import duration
from genjax.report.reels import reels
from genjax.report.source import coloured, linked

MEANING = {
    "upper bound": "the true value is at most this",
    "lower bound": "the true value is at least this",
    "exact": "computed, neither bounded nor sampled",
    "estimate": "may miss the true value on either side",
}
IDENTITY = ("run_id", "source")  # in the configuration, but nobody chose them
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
    run = contents.read_contents(directory)
    body = join(
        _head(run),
        _results(run),
        reels(run),
        stage_charts(run.rows, str(run.config.get("select") or ""), contents.results(run)),
        _configuration(run),
        _cost(run),
        _next(run),
        _environment(run),
        _source(run),
    )
    return write_whole(run.directory / "report.html", page(contents.name_of(run), body))


def _head(run: Contents) -> Html:
    about, state = contents.description(run), contents.state(run)
    heard = _clock(run.rows[-1].get("time")) if run.rows else None
    message = run.outcome.get("message")
    notes = [*([str(message)] if message else []), *run.notes]
    badge = element("span", STATES.get(state, f"Stopped: {state}"), class_="state", data_state=state)
    return element(
        "header",
        element("p", badge, element("span", f"last entry {heard}") if heard else None, class_="over"),
        element("h1", contents.name_of(run)),
        element("p", linked(about), class_="lede") if about else None,
        *[element("p", note, class_="note", role="note") for note in notes],
    )


def _results(run: Contents) -> Html | None:
    lines = contents.results(run)
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


def _configuration(run: Contents) -> Html | None:
    experiment = mapping(run.config.get("experiment"))
    fields, defaults = mapping(experiment.get("fields")), mapping(experiment.get("defaults"))
    rows: list[Sequence[Html | str]] = []
    for name, value in fields.items():
        default = defaults.get(name, value)
        changed = value != default
        text = element("strong", plain(value)) if changed else plain(value)
        rows.append([element("code", name), text, f"default {plain(default)}" if changed else ""])
    options = {
        k: v for k, v in run.config.items() if not isinstance(v, dict | list) and v is not None and k not in IDENTITY
    }
    parts = [
        table(["field", "value", ""], rows, numeric=(1,), class_="fields") if rows else None,
        fact_list({_spaced(name): plain(value) for name, value in options.items()}) if options else None,
    ]
    return section("Configuration", element("div", *parts, class_="halves")) if any(parts) else None


def _cost(run: Contents) -> Html | None:
    known, place = run.outcome, run.environment
    names = ("seconds", "compile_seconds", "evaluate_seconds")
    seconds, compiling, evaluating = (known.get(name) for name in names)
    processes = known.get("processes")
    tiles = {
        "parameters": counted(known.get("parameters")),
        "updates": counted(known.get("updates")),
        "training": duration(seconds) if isinstance(seconds, int | float) else "",
        "compilation": duration(compiling) if isinstance(compiling, int | float) else "",
        "evaluation": duration(evaluating) if isinstance(evaluating, int | float) else "",
        "processes, one after the other": counted(processes) if processes != 1 else "",
        "examples a second": counted(known.get("examples_per_second")),
        "peak memory": byte_text(known.get("peak_bytes")),
        "device": _devices(place.get("device_count"), place.get("device_kind") or place.get("platform")),
    }
    found = {name: text for name, text in tiles.items() if text}
    return section("Cost", fact_list(found, "tiles")) if found else None


def _devices(count: Any, kind: Any) -> str:
    return "" if not kind else f"{count} × {kind}" if isinstance(count, int) and count > 1 else str(kind)


def _next(run: Contents) -> Html | None:
    where, file = shlex.quote(str(run.directory)), mapping(run.config.get("experiment")).get("file")
    out = next((f"--n 8 --out {name}" for name in run.files if name.startswith("samples.")), "--n 64 --out grid.png")
    lines = {
        f"genjax resume {where}": "goes on where the last checkpoint stands",
        f"genjax evaluate {where}": "measures the best checkpoint again",
        f"genjax sample {where} {out}": "draws new samples",
    }
    if contents.state(run) == "finished":
        lines.pop(f"genjax resume {where}")
        if file:
            lines[f"genjax sweep {shlex.quote(str(file))} seed=0:3"] = "the same with other seeds"
    rows = [element("div", _command(line), element("span", why)) for line, why in lines.items()]
    return section("What next", element("div", *rows, class_="commands"))


def _command(line: str) -> Html:
    """A command that breaks between words only, and not at the hyphens of an option."""
    return element("code", *[join(element("span", word), " ") for word in line.split(" ")])


def _environment(run: Contents) -> Html | None:
    known = {**run.environment, **{name: str(run.config[name])[:16] for name in IDENTITY if name in run.config}}
    facts = {_spaced(name): plain(value) for name, value in known.items() if value not in (None, "", {}, [])}
    return section("Environment", fact_list(facts)) if facts else None


def _source(run: Contents) -> Html | None:
    if not run.source:
        return None
    code = element("pre", element("code", coloured(run.source)), tabindex=0)
    lines = len(run.source.splitlines())
    return section("Source", element("details", element("summary", f"experiment.py, {lines} lines"), code))


def _clock(seconds: Any) -> str | None:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _measure(name: Any) -> str:
    return str(name).replace("/", " ")


def _spaced(name: Any) -> str:
    return str(name).replace("_", " ")

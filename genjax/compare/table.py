"""The table of a comparison, what its numbers support, and what to try next: on the terminal, as JSON, as a page."""

import base64
import io
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genjax.compare.evidence import Likelihood, findings, not_dominated, thing
from genjax.compare.judging import Judged
from genjax.compare.published import Published
from genjax.metrics.samples import NEIGHBOURHOODS
from genjax.record import result_text
from genjax.report import duration, grid, number, save_png, write_whole
from genjax.report.layout import measured, page, section, table
from genjax.report.markup import Html, element, join

SHOWN = 40  # samples of each run on the page
ONE = "Each is one run, of one seed and of the cost that the table tells: they are judged here, not their families."
HEAD = ("run", "-log p(x), nats", "bits/dim", "kind", *NEIGHBOURHOODS, "parameters", "training", "in all")


def conclusions(rows: Sequence[Judged]) -> list[str]:
    """What the numbers support, sentence by sentence."""
    known = {row.name: row.likelihood for row in rows if row.likelihood is not None}
    told = findings(known) if known else ["No run tells a likelihood."]
    silent = [row.name for row in rows if row.likelihood is None]
    if silent:
        told.append(f"{', '.join(silent)}: no likelihood is known; it is no worse and no better for that.")
    scores = {row.name: [row.scores[name] for name in ("precision", "recall")] for row in rows if row.scores}
    if scores:
        count = max(len(row.samples) for row in rows if row.samples is not None)
        error = 0.5 / math.sqrt(count)
        best = not_dominated(scores)
        none = f"none surpasses {', '.join(best)}"
        said = "none surpasses another in both" if 1 < len(best) == len(scores) else none
        told.append(
            f"In precision and recall of {count} samples, as each experiment draws them, in pixels, {said}; "
            f"± {error:.2f} each."
        )
    return [*told, ONE]


def suggestion(rows: Sequence[Judged]) -> str:
    """The command to try next, for the run that guarantees most: longer where its best step is near its end."""
    sure = [row for row in rows if row.likelihood is not None and row.likelihood.sort in ("exact", "upper bound")]
    if not sure:
        return ""
    things = [thing(row.likelihood) for row in sure]  # type: ignore[arg-type]
    most = max(things, key=things.count)
    sure = [row for row, own in zip(sure, things, strict=True) if own == most]
    best = min(sure, key=lambda row: row.likelihood.value)  # type: ignore[union-attr]
    told = best.config.get("experiment") or {}
    fields, usual, file = told.get("fields") or {}, told.get("defaults") or {}, told.get("file", "FILE")
    steps, rate = fields.get("steps"), fields.get("learning_rate")
    last = max((line.get("step", 0) for line in best.outcome.get("results") or []), default=0)

    def command(grid: str, swept: str = "") -> str:
        changed = [_option(k, v) for k, v in fields.items() if k != swept and v != usual.get(k)]
        return " ".join(["genjax sweep", shlex.quote(file), grid, *changed])

    # where nothing selects, the last step is what was measured, whether it was the best or not
    if best.config.get("select") and isinstance(steps, int) and last >= 0.9 * steps:
        return command(f"steps={2 * steps},{4 * steps}", "steps") + "  # its best step is near its end"
    if isinstance(rate, float):
        rates = ",".join(f"{rate * factor:.2g}" for factor in (1 / 3, 1.0, 3.0))
        return command(f"learning_rate={rates} seed=0:2", "learning_rate")
    return command("seed=0:3")


def table_text(rows: Sequence[Judged], published: Sequence[Published] = ()) -> str:
    """The table for the terminal; exact numbers and bounds first, by what they guarantee."""
    cells = [list(HEAD), *(_cells(row) for row in _ordered(rows)), *(_paper(one) for one in published)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def write_table(directory: Path, rows: Sequence[Judged], published: Sequence[Published] = ()) -> Path:
    """`compare.json`, `compare.html` and `compare.png`, whose rows are runs; returns the page's path."""
    rows = _ordered(rows)
    told: dict[str, Any] = {"runs": [_record(row) for row in rows], "published": [one._asdict() for one in published]}
    told |= {"conclusions": conclusions(rows), "next": suggestion(rows)}
    write_whole(directory / "compare.json", json.dumps(told, indent=1))
    drawn = [row.samples[:10] for row in rows if row.samples is not None and len(row.samples) >= 10]
    if drawn and len({part.shape for part in drawn}) == 1:
        save_png(directory / "compare.png", grid(np.concatenate(drawn), columns=10))
    return write_whole(directory / "compare.html", page(f"{rows[0].data}: {len(rows)} runs", _body(rows, published)))


def _body(rows: Sequence[Judged], published: Sequence[Published]) -> Html:
    lines = [_cells(row) for row in rows] + [_paper(one) for one in published]
    right = (1, 2, *range(4, len(HEAD)))
    plain = "An upper bound is what the test set costs at most; models are ordered by what is guaranteed."
    said = element("ul", *[element("li", line) for line in conclusions(rows)])
    after = suggestion(rows)
    command = element("p", element("code", after)) if after else None
    whole = [element("li", f"{row.name}: {result_text(row.line)}") for row in rows if row.line is not None]
    pictures = [_picture(row) for row in rows if row.samples is not None]
    return join(
        element("header", element("h1", f"{rows[0].data}: {len(rows)} runs")),
        section("Table", table(HEAD, lines, right), element("p", plain, class_="quiet"), element("ul", *whole)),
        section("What the numbers support", said),
        section("Samples", *pictures) if pictures else None,
        section("What next", command) if command else None,
    )


def _picture(row: Judged) -> Html:
    from PIL import Image

    data, picture = io.BytesIO(), grid(np.asarray(row.samples)[:SHOWN], columns=10)
    Image.fromarray(picture).save(data, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    image = element("img", src=source, alt=f"samples of {row.name}", width=picture.shape[1], height=picture.shape[0])
    return element("figure", element("figcaption", element("h3", row.name, element("small", row.title))), image)


def _ordered(rows: Sequence[Judged]) -> list[Judged]:
    rank = {"exact": 0, "upper bound": 0, "estimate": 1, "lower bound": 2}

    def place(row: Judged) -> tuple[bool, tuple[str, str], int, float]:
        one = row.likelihood
        return (True, ("", ""), 0, 0.0) if one is None else (False, thing(one), rank[one.sort], one.value)

    return sorted(rows, key=place)


def _cells(row: Judged) -> list[str]:
    one = row.likelihood
    bits = f"{one.value / math.log(2) / row.dims:.3f}" if one is not None and row.dims and one.unit == "nats" else ""
    value = ["", "", "none"]
    if one is not None:
        per = "" if one.unit == "nats" else f" {one.unit}"
        value = [f"{_sign(one.sort)}{measured(one.value, one.error)}{per}", bits or one.bits, _kind(one)]
    scores = [f"{row.scores[name]:.3f}" if row.scores else "" for name in NEIGHBOURHOODS]
    seconds = [_number(row.outcome.get(name)) for name in ("seconds", "compile_seconds", "evaluate_seconds")]
    cost = [number(_number(row.outcome.get("parameters"))), duration(seconds[0]), duration(sum(seconds))]
    return [row.name, *value, *scores, *cost]


def _kind(one: Likelihood) -> str:
    """As the run says it; of several estimates of one thing with the lowest beside, since none is known to be right."""
    several = one.lowest is not None and one.lowest < one.value
    return f"{one.kind}; the lowest is {one.lowest:.2f}" if several else one.kind


def _paper(one: Published) -> list[str]:
    told = f"{one.kind} ({one.source})"
    return [f"[{one.name}]", f"{_sign(one.kind)}{one.value:.2f}", "", told, *[""] * (len(HEAD) - 4)]


def _sign(kind: str) -> str:
    return {"upper bound": "<= ", "lower bound": ">= ", "estimate": "~ "}.get(
        next((sort for sort in ("upper bound", "lower bound", "estimate") if kind.startswith(sort)), ""), ""
    )


def _record(row: Judged) -> dict[str, Any]:
    one, kept = row.likelihood, ("parameters", "seconds", "compile_seconds", "evaluate_seconds")
    return {
        "name": row.name, "run": str(row.directory), "title": row.title, "data": row.data, "tested": row.tested,
        "likelihood": None if one is None else one._asdict(), "line": row.line, "scores": dict(row.scores),
        "samples": 0 if row.samples is None else len(row.samples), **{name: row.outcome.get(name) for name in kept},
        "config": row.config.get("run_id"), "fields": (row.config.get("experiment") or {}).get("fields"),
    }  # fmt: skip


def _option(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    return shlex.join([flag, *map(str, value if isinstance(value, list) else [value])])


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0

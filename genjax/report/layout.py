"""The pieces that pages are made of: a whole page, sections, tables, lists of facts, and numbers for people.

A page needs no network, no script from elsewhere, and no other file.  A policy in its head names the digests of its own
style and script; the browser refuses anything else.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from genjax.report.markup import Html, element, join
from genjax.report.progress import number


def page(title: str, body: Html) -> str:
    """A whole page around its content, with the style and the script inside."""
    style, script = (
        resources.files("genjax.report").joinpath(f"page.{end}").read_text("utf-8") for end in ("css", "js")
    )
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    )
    head = join(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · genjax"),
        element("style", Html(style)),
    )
    content = join(element("main", body), element("script", Html(script)))
    return "<!doctype html>\n" + element("html", element("head", head), element("body", content), lang="en").text + "\n"


def section(title: str, *children: Html | str | None, **attributes: object) -> Html | None:
    """A part of the page; None if it has nothing to say."""
    return element("section", element("h2", title), *children, **attributes) if any(children) else None


def table(
    head: Sequence[str], rows: Sequence[Sequence[Html | str]], numeric: Sequence[int] = (), **attributes: object
) -> Html:
    """A table; the columns of `numeric` are aligned to the right.

    >>> table(["name"], [["a < b"]]).text.partition("<tbody>")[2]
    '<tr><td>a &lt; b</td></tr></tbody></table></div>'
    """
    style = lambda i: "number" if i in numeric else None
    titles = [element("th", title, scope="col", class_=style(i)) for i, title in enumerate(head)]
    lines = [element("tr", *[element("td", cell, class_=style(i)) for i, cell in enumerate(row)]) for row in rows]
    whole = element("table", element("thead", element("tr", *titles)), element("tbody", *lines), **attributes)
    return element("div", whole, class_="scroll")


def measured(value: float, error: Any) -> str:
    """A mean with its standard error, both to the error's second digit.

    >>> measured(92.1374, 0.8712), measured(0.98765, 0.00231), measured(92.1374, None)
    ('92.14 ± 0.87', '0.9877 ± 0.0023', '92.14')
    """
    if not isinstance(error, int | float) or not 0 < error < float("inf"):
        return number(value)
    places = max(0, 1 - int(f"{error:e}".split("e")[1]))
    return f"{value:,.{places}f} ± {error:,.{places}f}"


def fact_list(facts: Mapping[str, str], style: str = "facts") -> Html:
    """Names with their values; `style` is its class."""
    return element("dl", *[element("div", element("dt", k), element("dd", v)) for k, v in facts.items()], class_=style)


def counted(value: Any) -> str:
    """A count or a speed, nothing if there is none.

    >>> counted(123456), counted(52317.8), counted(None)
    ('123,456', '52,318', '')
    """
    return number(value, 3) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def byte_text(value: Any) -> str:
    """An amount of memory, nothing if there is none.

    >>> byte_text(432_013_312), byte_text(0)
    ('412 MiB', '')
    """
    if not isinstance(value, int | float) or value <= 0:
        return ""
    power = min(4, (int(value).bit_length() - 1) // 10)
    return f"{number(value / 1024**power, 3)} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def plain(value: Any) -> str:
    """A value of a configuration.

    >>> plain(1e-3), plain(True), plain([64, 32])
    ('0.001', 'true', '64, 32')
    """
    if isinstance(value, dict):
        return ", ".join(f"{name} = {plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

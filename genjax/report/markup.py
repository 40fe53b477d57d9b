"""HTML and SVG by one function: text is escaped unless it is already `Html`, so that nothing can be forgotten."""

import html
from typing import NamedTuple

_EMPTY = {"img", "meta", "input", "br"}  # elements that HTML closes itself


class Html(NamedTuple):
    """Markup, as opposed to text."""

    text: str


Child = Html | str | None


def element(name: str, /, *children: Child, **attributes: object) -> Html:
    """An element of HTML or SVG.

    Args:
      name: the element's name, written in the program, never taken from data.
      children: text (escaped), `Html` (as it is), None (nothing).
      attributes: `class_` stands for `class`, `data_x` for `data-x`; None and False leave an attribute out, True
        writes it without a value.

    Returns:
      The element.

    >>> element("p", "a < b", element("br"), class_="note", hidden=True, title=None).text
    '<p class="note" hidden>a &lt; b<br></p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    inside = join(*children).text
    return Html(f"<{name}{written}>" if name in _EMPTY else f"<{name}{written}>{inside}</{name}>")


def join(*children: Child) -> Html:
    """Children one after the other, without an element around them.

    >>> join("1 & ", Html("<b>2</b>"), None).text
    '1 &amp; <b>2</b>'
    """
    return Html("".join(_child(child) for child in children if child is not None))


def _child(child: Html | str) -> str:
    return child.text if isinstance(child, Html) else html.escape(_printable(child))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{html.escape(_printable(str(value)))}"'


def _printable(text: str) -> str:
    """Without what a page cannot hold: control characters and lone surrogates."""
    return "".join(c if c in "\n\t\r\f" or (ord(c) >= 32 and not 0xD800 <= ord(c) < 0xE000) else "\ufffd" for c in text)

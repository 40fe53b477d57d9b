"""Text of an experiment on a page: Python with quiet colours, and papers as links."""

import io
import keyword
import re
import tokenize

from genjax.report.markup import Html, element, join

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+/\d{7})")


def coloured(source: str) -> Html:
    """Python with its comments, strings and keywords marked; text that is not Python stays plain.

    >>> coloured("if x:  # why\\n    pass\\n").text
    '<span class="keyword">if</span> x:  <span class="comment"># why</span>\\n    <span class="keyword">pass</span>\\n'
    """
    starts = [0]
    for line in source.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    parts: list[Html | str] = []
    at = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            style = _style(token)
            if style:
                begin, end = (max(at, starts[row - 1] + column) for row, column in (token.start, token.end))
                parts += [source[at:begin], element("span", source[begin:end], class_=style)]
                at = end
    except (tokenize.TokenError, SyntaxError, ValueError, IndexError):
        return join(source)
    return join(*parts, source[at:])


def linked(text: str) -> Html:
    """Text whose arXiv numbers lead to their papers.

    >>> linked("Kingma & Welling, arXiv:1312.6114").text
    'Kingma &amp; Welling, <a href="https://arxiv.org/abs/1312.6114">arXiv:1312.6114</a>'
    """
    parts: list[Html | str] = []
    at = 0
    for match in ARXIV.finditer(text):
        parts += [text[at : match.start()], element("a", match[0], href=f"https://arxiv.org/abs/{match[1]}")]
        at = match.end()
    return join(*parts, text[at:])


def _style(token: tokenize.TokenInfo) -> str | None:
    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type == tokenize.STRING or tokenize.tok_name[token.type].startswith("FSTRING"):
        return "string"
    return "keyword" if token.type == tokenize.NAME and keyword.iskeyword(token.string) else None

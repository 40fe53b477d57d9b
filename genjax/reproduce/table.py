"""Rows and their last numbers, as a list on the terminal and as the table of a page.

The page keeps what stands around two marks, and what stands between them is written anew from results/.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from genjax.errors import BadInput
from genjax.report import write_whole
from genjax.reproduce.records import Record
from genjax.reproduce.rows import Row
from genjax.targets import wanted_text

BEGIN, END = "<!-- written by: genjax reproduce --readme README.md -->", "<!-- end of what is written from results/ -->"
HEAD = ("row", "wanted", "class", "measured", "date", "machine", "commit", "status")
SIGNS = (("upper bound", "<= "), ("lower bound", ">= "))


def list_text(rows: Mapping[str, Row], records: Mapping[str, Record]) -> str:
    """Every row with its target and its last number, in columns."""
    lines = [HEAD, *(_cells(row, records.get(name)) for name, row in rows.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    counts = [f"{sum(one.status == state for one in records.values())} {state}" for state in _states(records)]
    return "\n".join(
        [*table, "", f"{len(rows)} rows: {', '.join([*counts, f'{_without(rows, records)} not measured'])}"]
    )


def readme_table(rows: Mapping[str, Row], records: Mapping[str, Record]) -> str:
    """The rows that have a number, as a table of Markdown.

    Raises:
      BadInput: a record of a row that no experiment declares.
    """
    lost = next((name for name in records if name not in rows), None)
    if lost is not None:
        raise BadInput(f"results/{lost}.json is of a row that no experiment declares", f"rows: {', '.join(rows)}"[:300])
    head = ["| row and command | wanted | measured | status |", "|---|---|---|---|"]
    return "\n".join([*head, *(_line(row, records[name]) for name, row in rows.items() if name in records)])


def write_readme(path: Path, table: str) -> None:
    """Put the table between the marks of a page.

    Raises:
      BadInput: no such page, or not both marks, once each and in order.
    """
    write_whole(Path(path), with_table(_page(path), table))


def check_readme(path: Path) -> None:
    """Refuse a page that the table cannot be put into.

    Raises:
      BadInput: as `write_readme`.
    """
    with_table(_page(path), "")


def with_table(page: str, table: str) -> str:
    """A page with the table between its marks.

    >>> with_table(f"before {BEGIN} old {END} after", "new").splitlines()[1:-1]
    ['', 'new', '']
    """
    begin, end = page.find(BEGIN), page.find(END)
    if page.count(BEGIN) != 1 or page.count(END) != 1 or begin > end:
        raise BadInput("the page lacks the two marks of the table", f"two lines: {BEGIN}", END)
    return f"{page[: begin + len(BEGIN)]}\n\n{table}\n\n{page[end:]}"


def measured_text(record: Record) -> str:
    """A record's number with what it is.

    >>> base = dict(row="14-made", status="reproduced", value=94.48, standard_error=0.25, unit="nats", departs=())
    >>> more = dict(measure="test/nll", kind="exact -log p(x)", examples=10_000, weights="raw", step=50_000)
    >>> rest = dict(data="", command="", date="2026-11-24", machine="cpu", jax=None, commit="", precision="float32")
    >>> measured_text(Record(**base, **more, **rest, config=None, seconds=None))
    'test/nll 94.48 ± 0.25 nats (exact -log p(x); N=10,000, raw, step 50,000)'
    """
    told = [
        *([f"N={record.examples:,}"] if record.examples and record.examples > 1 else []),
        record.weights,
        *([f"step {record.step:,}"] if record.step is not None else []),
        *([record.precision] if record.precision != "float32" else []),
    ]
    sort = "; ".join(part for part in (record.kind, ", ".join(filter(None, told))) if part)
    return f"{record.measure} {_number(record)}{f' {record.unit}' if record.unit else ''} ({sort})"


def _page(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--readme {path} cannot be read: {error}"[:200], "a page in Markdown") from None


def _line(row: Row, record: Record) -> str:
    target = row.target
    departs = f"; here {', '.join(f'`{word}`' if word.startswith('--') else word for word in record.departs)}"
    command = f"`{' '.join(filter(None, [row.path.name, target.options]))}`{departs if record.departs else ''}"
    where = f"{record.date}, {record.machine}, commit {record.commit}"
    note = f"; {record.note}" if record.note else ""
    cells = (
        f"{target.row}: {command}", f"{wanted_text(target)} ({target.source})",
        f"{measured_text(record)}; {where}{note}", record.status,
    )  # fmt: skip
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _cells(row: Row, record: Record | None) -> Sequence[str]:
    target = row.target
    if record is None:
        return (target.row, wanted_text(target), target.cost, "-", "-", "-", "-", "not measured")
    return (
        target.row, wanted_text(target), target.cost, _number(record), record.date, record.machine, record.commit,
        record.status,
    )  # fmt: skip


def _number(record: Record) -> str:
    sign = next((sign for sort, sign in SIGNS if record.kind.startswith(sort)), "")
    if (
        not record.standard_error
    ):  # one number of a whole series is exact; distances of sets have no error that is known
        return f"{sign}{record.value:.{8 if record.examples == 1 else 5}g}"
    return f"{sign}{record.value:.4g} ± {f'{record.standard_error:#.2g}'.rstrip('.')}"


def _states(records: Mapping[str, Record]) -> list[str]:
    return [state for state in ("reproduced", "partial", "missed") if any(r.status == state for r in records.values())]


def _without(rows: Mapping[str, Row], records: Mapping[str, Record]) -> int:
    return sum(name not in records for name in rows)

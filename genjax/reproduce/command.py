"""The command `genjax reproduce`: the rows of papers listed, trained, judged; README's table written from results/."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from genjax.arguments import parse
from genjax.checkpoint import lock
from genjax.errors import BadInput
from genjax.fields import Loaded, load
from genjax.reproduce.records import Record, check_compared, read_records, record_of, write_record
from genjax.reproduce.rows import Row, pick_rows, read_rows, run_name, values_of, words_of
from genjax.reproduce.table import check_readme, list_text, measured_text, readme_table, write_readme
from genjax.sweep.processes import CODES, Job, by_jobs
from genjax.targets import CLASSES, wanted_text

ABOUT = """Rows of papers: what was wanted, what was measured, whether it was reproduced.

genjax reproduce                        lists the rows that experiments/ declares, with their last numbers
genjax reproduce ROW... [--jobs 2]      trains rows in runs/reproduce, judges them, writes results/ROW.json
genjax reproduce ROW --steps 100        with options of genjax train: partial, never in place of a whole one
genjax reproduce --class a              all rows of a class: a, two CPU cores; b, one GPU; c, more
genjax reproduce ROW --run RUN          takes a finished run instead of training
genjax reproduce --readme README.md     writes the table of the page from results/"""
EXPERIMENTS, RESULTS, RUNS = Path("experiments"), Path("results"), Path("runs/reproduce")


class ReproduceOptions(NamedTuple):
    """Options of `genjax reproduce`; others are those of `genjax train`, for one row."""

    run: str | None = None
    """A finished run of the rows' experiment: it is judged and nothing is trained."""
    readme: str | None = None
    """A page whose table of rows is written anew, between its two marks."""
    jobs: int = 1
    """How many rows are trained at a time, each in its own process."""
    debug: bool = False
    """Whole tracebacks instead of three lines."""


class Asked(NamedTuple):
    """What the command line asks for."""

    names: list[str]
    cost: str | None  # all rows of a class
    options: ReproduceOptions
    given: list[str]  # options of genjax train


def asked(arguments: Sequence[str]) -> Asked:
    """Read the command line.

    Raises:
      BadInput: a class that there is not, options of training without one row, or beside a run.
    """
    words = list(arguments)
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    names, rest = words[:count], words[count:]
    cost, rest = _class(rest)
    own: list[str] = []
    given: list[str] = []
    kept = given
    for word in rest:
        if word.startswith("-"):
            name = word.partition("=")[0].removeprefix("--").replace("no-", "", 1)
            kept = own if name in (*ReproduceOptions._fields, "help", "-h") else given
        kept.append(word)
    options, _ = parse("genjax reproduce [ROW...]", ABOUT, ReproduceOptions, own)
    if given and (len(names) != 1 or cost or options.run):
        raise BadInput(
            f"{given[0]} is an option of training", "one row that is trained", "genjax reproduce ROW OPTIONS"
        )
    if options.jobs < 1:
        raise BadInput(f"--jobs {options.jobs}", "allowed: whole numbers from 1")
    if options.run and not names:
        raise BadInput(f"--run {options.run[:100]}", "the row that it shows", "genjax reproduce ROW --run RUN")
    return Asked(names, cost, options, given)


def command(arguments: Sequence[str]) -> int:
    """`genjax reproduce`: list, or train and judge, or record a run, and then write a page.

    Returns:
      0, or the exit code of the training that ended worst; what others reached is recorded.
    """
    wish = asked(arguments)
    rows, records = read_rows(EXPERIMENTS), read_records(RESULTS)
    picked = pick_rows(rows, wish.names, wish.cost)
    if wish.options.readme:
        check_readme(Path(wish.options.readme))  # before hours of training
    code = 0
    if picked:
        check_compared(picked, records)
    if picked and wish.options.run:
        for row in picked:
            _keep(row, load(row.path), Path(wish.options.run), records)
    elif picked:
        code = _train(rows, picked, wish, records)
    if wish.options.readme:
        write_readme(Path(wish.options.readme), readme_table(rows, read_records(RESULTS)))
    elif not picked:
        print(list_text(rows, records))
    return code


def _train(rows: Mapping[str, Row], picked: Sequence[Row], wish: Asked, records: dict[str, Record]) -> int:
    loaded = {row.path: load(row.path) for row in picked}
    names = {row.target.row: _directory(rows, row, loaded[row.path], wish.given) for row in picked}
    jobs: dict[str, Job] = {}
    for row in picked:  # rows of one run make one job
        name, arguments = names[row.target.row], (str(row.path), *words_of(row.target, wish.given))
        jobs.setdefault(name, Job(name, name, arguments))
    jax.config.update("jax_platforms", "cpu")  # an accelerator is the children's
    with lock(RUNS):
        _tell(f"to train: {len(jobs)}, in {RUNS}")
        ended = by_jobs(list(jobs.values()), wish.options.jobs, RUNS, _tell)
        codes = [one.code for one in ended.values()]
        for row in picked:
            if ended[names[row.target.row]].code == 0:
                try:
                    _keep(row, loaded[row.path], RUNS / names[row.target.row], records)
                except BadInput as error:  # the others are judged all the same
                    _tell("\n  ".join(error.lines))
                    codes.append(error.exit_code)
    return max(codes, key=CODES.index, default=0)


def _directory(rows: Mapping[str, Row], row: Row, loaded: Loaded, given: Sequence[str]) -> str:
    """The name of a row's run; with options of one's own, a run of its own.

    Raises:
      BadInput: options that `genjax train` would refuse.
    """
    values_of(loaded, words_of(row.target, given))
    if not given:
        return run_name(rows, row)
    return f"{row.target.row}-{re.sub(r'[^A-Za-z0-9._]+', '_', '_'.join(given)).strip('_.')}"[:100]


def _keep(row: Row, loaded: Loaded, run: Path, records: dict[str, Record]) -> None:
    """Judge a run and write its record; a partial one does not take the place of one by the declared command."""
    record = record_of(row, loaded, run, records)
    told = f"{record.row}: {measured_text(record)}; {wanted_text(row.target)}: {record.status}"
    before = records.get(record.row)
    if record.status == "partial" and before is not None and before.status != "partial":
        _tell(f"{told}  ({RESULTS / record.row}.json keeps the number that was {before.status})")
        return
    records[record.row] = record
    _tell(f"{told}  ({write_record(RESULTS, record)})")


def _class(words: list[str]) -> tuple[str | None, list[str]]:
    """`--class a`, which no field can be called, and the other words."""
    for i, word in enumerate(words):
        if word == "--class" or word.startswith("--class="):
            value = word.partition("=")[2] or next(iter(words[i + 1 :]), "")
            if value not in CLASSES:
                raise BadInput(f"--class {value}"[:60], f"allowed: {', '.join(CLASSES)}")
            return value, [*words[:i], *words[i + (1 if "=" in word else 2) :]]
    return None, words


def _tell(text: str) -> None:
    print(text, flush=True)

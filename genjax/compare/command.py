"""The command `genjax compare`: trains what is not finished, measures all alike, writes one table and one page."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from genjax.arguments import parse
from genjax.checkpoint import lock
from genjax.checkpoint.seal import STAGE_NAME
from genjax.compare.judging import ENOUGH, judge
from genjax.compare.members import check_same_data, read_members
from genjax.compare.published import check_published, read_published
from genjax.compare.table import conclusions, suggestion, table_text, write_table
from genjax.errors import BadInput
from genjax.sweep.processes import CODES, by_jobs

ABOUT = """Compares runs on one data set: likelihoods with their kinds, samples, parameters, cost.

Each WHAT is a run directory, or an experiment file with its options in one word, which is trained first; @LIST stands
for a file of them, one a line."""


class CompareOptions(NamedTuple):
    """Options of `genjax compare`."""

    workdir: str | None = None
    """Where experiments are trained and the page is written; default: below runs/, found again by the same command."""
    jobs: int = 1
    """How many runs are trained at a time, each in its own process."""
    n: int = 250
    """Samples of each run that are measured, against as many test images."""
    published: str | None = None
    """A CSV file of published numbers (name,value,kind,data,source), shown beside the runs."""
    debug: bool = False
    """Whole tracebacks instead of three lines."""


def compare_options(arguments: Sequence[str]) -> tuple[list[str], CompareOptions]:
    """What is compared, and the options.

    Raises:
      BadInput: an unknown option, a value out of its range.
    """
    count = next((i for i, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    options, _ = parse("genjax compare WHAT...", ABOUT, CompareOptions, list(arguments[count:]))
    for name, least in (("jobs", 1), ("n", ENOUGH)):
        if getattr(options, name) < least:
            raise BadInput(f"--{name} {getattr(options, name)}", f"allowed: whole numbers from {least}")
    return list(arguments[:count]), options


def compare(words: Sequence[str], options: CompareOptions) -> int:
    """Train what is not finished, then write and tell the table.

    Args:
      words: runs, experiments with their options, lists.
      options: of the command.

    Returns:
      0, or the exit code of the run that ended worst: then nothing is compared.

    Raises:
      BadInput: fewer than two, different data, an option that cannot be used.
      Preempted: asked to stop; the same command goes on.
    """
    published = read_published(options.published) if options.published else []
    directory = _directory(words, options)
    members = read_members(words, directory)
    jobs = [member.job for member in members if member.job is not None]
    if jobs:  # an accelerator is the children's; once all are finished, the same command draws its samples there
        jax.config.update("jax_platforms", "cpu")
    check_published(published, check_same_data(members))
    with lock(directory):
        _tell(f"compare  {directory}\nruns     {len(members)}; to train: {len(jobs)}")
        ended = by_jobs(jobs, options.jobs, directory, _tell)
        code = max((one.code for one in ended.values()), key=CODES.index, default=0)
        if code:
            return code
        rows = []
        for member in members:
            _tell(f"measuring {member.name}")
            rows.append(judge(member, options.n))
        path = write_table(directory, rows, published)
    after = suggestion(rows)
    _tell("\n".join(["", table_text(rows, published), "", *conclusions(rows), "", f"page     {path}"]))
    if after:
        _tell(f"next     {after}")
    return 0


def _directory(words: Sequence[str], options: CompareOptions) -> Path:
    if options.workdir is None:
        return Path("runs") / f"compare-{hashlib.sha256(repr(sorted(words)).encode()).hexdigest()[:8]}"
    directory = Path(options.workdir)
    if not STAGE_NAME.fullmatch(directory.name) or (directory / "config.json").exists():
        allowed = "a directory for the whole comparison, no run's own; letters, digits, '.', '_', '-', at most 100"
        raise BadInput(f"--workdir {options.workdir[:120]}", allowed, "--workdir runs/families")
    return directory


def _tell(text: str) -> None:
    print(text, flush=True)

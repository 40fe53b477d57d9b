"""Runs as processes, each a `genjax train` of its own, some at a time: the points of a sweep, or any others."""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import NamedTuple

import genjax
from genjax.errors import Preempted
from genjax.fields import Loaded
from genjax.stopping import stop_requests
from genjax.sweep.grid import Grid, Point, described
from genjax.sweep.ranking import Ended, run_row

OWN = ("--workdir", "--jobs", "--vmap", "--no-vmap")  # options of the sweep, which `train` does not get
FORBIDDEN = ("workdir", "coordinator", "processes", "process", "debug", "allow_change")  # whoever makes a job chooses
CODES = (0, 75, 3, 2, 1, 4)  # the exit codes of `train`, the worst last


class Job(NamedTuple):
    """One run to train."""

    name: str  # of its directory, inside the whole's
    about: str  # how the terminal names it
    arguments: tuple[str, ...]  # of `genjax train`, without --workdir


def by_processes(
    loaded: Loaded, grid: Grid, points: Sequence[Point], directory: Path, tell: Callable[[str], None]
) -> dict[str, Ended]:
    """Train points in processes, `jobs` at a time; one that fails does not stop the others."""
    shared = (str(loaded.path), *without(grid.fixed, OWN))
    jobs = [Job(point.name, described(point.swept), (*shared, *point.arguments)) for point in points]
    return by_jobs(jobs, grid.options.jobs, directory, tell)


def by_jobs(jobs: Sequence[Job], at_once: int, directory: Path, tell: Callable[[str], None]) -> dict[str, Ended]:
    """Train runs in processes; one that fails does not stop the others.

    Args:
      jobs: the runs; each goes on where it stopped.
      at_once: how many at a time.
      directory: of the whole: each run and its log stand in it.
      tell: gets a line whenever a run has ended.

    Raises:
      Preempted: asked to stop; the runs have saved their states.
    """
    waiting, running, ended = deque(jobs), dict[str, _Child](), dict[str, Ended]()
    with stop_requests((SIGTERM, SIGINT)) as asked, _cores(at_once) as cores:
        while running or (waiting and not asked()):
            while waiting and len(running) < at_once and not asked():
                job = waiting.popleft()
                running[job.name] = _start(job, directory, cores, at_once > 1)
            for name, child in list(running.items()):
                if asked() and not child.told:
                    child.process.send_signal(SIGTERM)
                    running[name] = child._replace(told=True)
                elif child.process.poll() is not None:
                    ended[name] = _end(running.pop(name), directory, cores)
                    tell(_line(directory, child.job, ended[name], f"{len(ended)}/{len(jobs)}"))
            time.sleep(0.05)
    left = len(jobs) - sum(end.code == 0 for end in ended.values())
    if asked() and left:
        what = f"stopped with {left} of {len(jobs)} points to go on with"
        raise Preempted(what, "each run's state is saved", "run the same command again")
    return ended


class _Child(NamedTuple):
    job: Job
    process: subprocess.Popen
    log: Path
    since: tuple[float, int]  # when it started, the size of its log then
    core: frozenset[int] | None
    told: bool = False


def _start(job: Job, directory: Path, cores: deque, several: bool) -> _Child:
    log, run = directory / f"{job.name}.log", directory / job.name
    command = [sys.executable, "-P", "-m", "genjax", "train", *job.arguments, "--workdir", str(run)]
    # the children run this library, wherever it stands, and nothing that happens to lie in the current directory
    home = os.pathsep.join(filter(None, [str(Path(genjax.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": home}
    if several:  # else the first of them takes most of a GPU's memory
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with open(log, "ab") as file:
        size = file.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
            start_new_session=True,  # the terminal's Ctrl-C comes to us alone, and we pass it on once
        )  # fmt: skip
    core = cores.popleft() if cores else None
    if core:  # before its first thread: two pools of threads on the same cores slow each other down
        os.sched_setaffinity(process.pid, core)
    return _Child(job, process, log, (time.monotonic(), size), core)


def _end(child: _Child, directory: Path, cores: deque) -> Ended:
    if child.core:
        cores.append(child.core)
    code = child.process.returncode
    message = "" if code == 0 else last_error(child.log, child.since[1])
    if child.told and code == -SIGTERM:  # it was still starting
        code = 75
    message = message or ("" if code == 0 else f"exit {code}")
    return Ended(code if code in CODES else 1, message, time.monotonic() - child.since[0])


@contextmanager
def _cores(jobs: int) -> Iterator[deque]:
    """Disjoint sets of this process's cores, one a job; none for a single job, or where there are fewer cores."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    yield deque(frozenset(own[job::jobs]) for job in range(jobs)) if 1 < jobs <= len(own) else deque()


def without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """A command line without some options and their values.

    >>> without(["--jobs", "2", "--steps", "5", "--vmap", "--workdir=x"], ("--jobs", "--vmap", "--workdir"))
    ['--steps', '5']
    """
    kept: list[str] = []
    skipping = False
    for text in arguments:
        option = text.startswith("--")
        skipping = text.partition("=")[0] in names and "=" not in text if option else skipping
        if not (skipping or (option and text.partition("=")[0] in names)):
            kept.append(text)
    return kept


def last_error(log: Path, start: int = 0) -> str:
    """The last lines that a process wrote to its log from byte `start` on: its error, at most three."""
    with open(log, "rb") as file:
        file.seek(max(start, os.fstat(file.fileno()).st_size - 20_000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    begins = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    found = lines[begins[-1] :][:3] if begins else lines[-1:]
    return "\n".join(found).removeprefix("error: ")


def _line(directory: Path, job: Job, ended: Ended, count: str) -> str:
    result = run_row(directory / job.name, {})["result"]
    what = f"{result['name']} {result['value']:.5g}" if ended.code == 0 and result else f"exit {ended.code}"
    lines = [f"{count}  {job.about}: {what} ({ended.seconds:.0f} s)"]
    return "\n  ".join(lines + (ended.message.splitlines() if ended.code else []))

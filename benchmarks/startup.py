"""What a user waits for: the start of a command, the first update, and what checkpoints add to a run.

    python benchmarks/startup.py                      all three tables
    python benchmarks/startup.py --runs 9 start       one table: start, first or checkpoints

Every figure is that of a whole process, in rounds: in each round each candidate runs once, in an order drawn anew, and
the first round warms the disk's cache and does not count.  `first` is the time from the start of a process until its
first update is done: of `genjax train` on the digits, which evaluates and draws pictures before that update, and of
the same dense VAE (784-200-200-50, B 100) as a bare loop in genjax and in PyTorch.  A cold compilation cache is an
empty one; all caches and runs lie in a temporary folder.

`checkpoints` compares pairs of whole runs of the digits' VAE, at the default interval and with one save at the end.
What sealing adds to Orbax is then measured alone, on the same state: digests, reading back, syncing, the seal.

PyTorch is an optional extra: pip install 'genjax-research[benchmarks]'.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from workers import HERE, machine

FILE = HERE.parent / "experiments" / "vae_digits.py"
CHECKPOINTS, STEPS = 5, 3_000  # of a run at the default interval, and its updates
WANTED = {"genjax --help": 0.5, "genjax train FILE --help": 1.5}  # seconds
WANTED_SEALING = 2.0  # percent of the processor time of a run


class Spent(NamedTuple):
    """Seconds of a process."""

    clock: float  # until it ended, or did what was waited for
    processor: float  # of it and its children, until it ended


def timed(command: Sequence[str], environment: Mapping[str, str]) -> Spent:
    """Run a command to its end."""
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    clock, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    return Spent(clock, user + system)


def interleaved(candidates: Mapping[str, Callable[[], Spent]], runs: int) -> dict[str, list[Spent]]:
    """`runs` rounds of all candidates, after one that does not count."""
    found: dict[str, list[Spent]] = {name: [] for name in candidates}
    for number in range(runs + 1):
        for name in random.Random(number).sample(list(candidates), len(candidates)):
            spent = candidates[name]()
            if number:
                found[name].append(spent)
    return found


def summary(values: Sequence[float], digits: int = 3) -> str:
    """Median and range.

    >>> summary([0.3, 0.1, 0.2])
    '0.200 (0.100-0.300)'
    """
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def percents(base: Sequence[float], other: Sequence[float]) -> list[float]:
    """How much more each of the others is than its pair, in percent.

    >>> percents([10.0, 20.0], [11.0, 20.0])
    [10.0, 0.0]
    """
    return [100.0 * (b - a) / a for a, b in zip(base, other, strict=True)]


def first_update(log: str, began: float) -> float:
    """Seconds from `began` (since 1970) to the first row of training in a metrics.jsonl.

    >>> first_update('{"kind": "evaluation", "time": 7.0}\\n{"kind": "train", "time": 9.5}\\n', 6.0)
    3.5
    """
    rows = [json.loads(line) for line in log.splitlines()]
    return next(row["time"] for row in rows if row["kind"] == "train") - began


def environment(cache: Path) -> dict[str, str]:
    """This process's environment, with the library of this checkout and a compilation cache of one's own."""
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    return {**kept, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}


def cached(cache: Path) -> dict[str, str]:
    """The same for a worker, which does not turn the cache on by itself as the command line does."""
    settings = {"DIR": cache / "jax", "MIN_COMPILE_TIME_SECS": 0, "MIN_ENTRY_SIZE_BYTES": -1}
    told = {
        f"JAX_{'COMPILATION' if name == 'DIR' else 'PERSISTENT'}_CACHE_{name}": str(v) for name, v in settings.items()
    }
    return environment(cache) | told


def start(runs: int, place: Path) -> list[str]:
    """The start of the command line, beside Python's own."""
    script = Path(sys.executable).with_name("genjax")
    genjax = [str(script)] if script.exists() else [sys.executable, "-m", "genjax"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import genjax": [sys.executable, "-c", "import genjax"],
        "genjax --help": [*genjax, "--help"],
        "genjax train FILE --help": [*genjax, "train", str(FILE), "--help"],
    }
    settings = environment(place)
    found = interleaved({name: lambda c=command: timed(c, settings) for name, command in commands.items()}, runs)
    return [_line(name, spent, WANTED.get(name)) for name, spent in found.items()]


def first(runs: int, place: Path) -> list[str]:
    """From the start of a process to the end of its first update."""
    peers = {
        "genjax_steps.py": ["genjax_steps.py", "mlp", "100"],
        "torch_steps.py, eager": ["torch_steps.py", "mlp", "100", "eager"],
    }
    candidates: dict[str, Callable[[], Spent]] = {}
    for kind in ("cold", "warm"):
        candidates[f"genjax train vae_digits.py, {kind} cache"] = lambda k=kind: _first_of_train(place, k)
        candidates[f"genjax_steps.py, {kind} cache"] = lambda k=kind: _first_of_worker(
            peers["genjax_steps.py"], place, k
        )
    name = "torch_steps.py, eager"
    candidates[name] = lambda: _first_of_worker(peers[name], place, "warm")
    found = interleaved(candidates, runs)
    mine, theirs = found["genjax_steps.py, warm cache"], found[name]
    ratios = [a.clock / b.clock for a, b in zip(mine, theirs, strict=True)]
    return [_line(name, spent) for name, spent in found.items()] + [
        f"genjax, warm cache / PyTorch: {summary(ratios, 2)}"
    ]


def _first_of_train(place: Path, kind: str) -> Spent:
    run = _empty(place / "run")
    cache = _empty(place / "cold") if kind == "cold" else place / "warm"
    few = ["--steps", "1", "--samples", "100", "--log-every", "1", "--workdir", str(run)]
    began = time.time()
    spent = timed([sys.executable, "-m", "genjax", "train", str(FILE), *few], environment(cache))
    return spent._replace(clock=first_update((run / "metrics.jsonl").read_text(), began))


def _first_of_worker(script: Sequence[str], place: Path, kind: str) -> Spent:
    cache = _empty(place / "cold") if kind == "cold" else place / "warm"
    command, before, began = [sys.executable, str(HERE / script[0]), *script[1:]], os.times(), time.perf_counter()
    with subprocess.Popen(command, env=cached(cache), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if not process.stdout.readline():
            raise SystemExit(f"{script[0]} did not start: {process.wait()}")
        clock = time.perf_counter() - began
        process.stdin.close()
    after = os.times()
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    return Spent(clock, user + system)


def checkpoints(runs: int, place: Path) -> list[str]:
    """Whole runs at the default interval against runs that save once, and the part of sealing."""
    train = [sys.executable, "-m", "genjax", "train", str(FILE), "--workdir", str(place / "run")]
    often, once = f"{CHECKPOINTS} checkpoints", "one, at the end"

    def run(*options: str) -> Spent:
        _empty(place / "run")
        return timed([*train, *options], environment(place / "warm"))

    found = interleaved({often: run, once: lambda: run("--checkpoint-every", str(STEPS))}, runs)
    lines = [_line(f"run with {name}", spent) for name, spent in found.items()]
    for index, what in enumerate(("clock", "processor time")):
        more = percents([spent[index] for spent in found[once]], [spent[index] for spent in found[often]])
        lines.append(f"{CHECKPOINTS - 1} checkpoints more: {summary(more, 1)} % of the {what}")
    told = subprocess.run(
        [sys.executable, __file__, "--saves", str(runs)],
        env=environment(place / "warm"),
        capture_output=True,
        text=True,
    )
    if told.returncode:
        raise SystemExit(f"the saves ended with {told.returncode}: {told.stderr[-500:]}")
    plain, sealed = json.loads(told.stdout.splitlines()[-1])
    added = [b - a for a, b in zip(plain, sealed, strict=True)]
    share = 100 * CHECKPOINTS * statistics.median(added) / statistics.median(s.processor for s in found[often])
    lines.append(f"a save, processor time [ms]: Orbax {summary([1e3 * x for x in plain], 0)}, "
                 f"sealed {summary([1e3 * x for x in sealed], 0)}")  # fmt: skip
    verdict = "as wanted" if share < WANTED_SEALING else "TOO MUCH"
    return [*lines, f"sealing, {CHECKPOINTS} times: {share:.1f} % of a run's processor time ({verdict})"]


def saves(count: int) -> tuple[list[float], list[float]]:
    """Processor seconds of saving the state of the VAE: by Orbax alone, and sealed; the first save does not count."""
    import jax

    from genjax import digest, parallel
    from genjax.checkpoint import Identity, arrays, open_store
    from genjax.compilation import compile_stage, stage_keys
    from genjax.fields import build, load

    loaded = load(FILE)
    (stage,) = build(loaded, {field.name: field.default for field in loaded.fields}).stages
    state = compile_stage(stage, stage_keys(0, 0), 0, parallel.mesh(1), "float32", "jit").fresh()
    jax.block_until_ready(state)
    plain, sealed = [], []
    with tempfile.TemporaryDirectory() as place:
        store = open_store(place, Identity("benchmark", {}, "", "", ""), keep=1)
        for step in range(count + 1):
            began = time.process_time()
            arrays.begin_write(Path(place, f"plain-{step}"), digest.named(state)).result()
            middle = time.process_time()
            store.save(state, stage=stage.name, stage_index=0, step=step)
            store.wait()
            plain, sealed = [*plain, middle - began], [*sealed, time.process_time() - middle]
        store.close()
    return plain[1:], sealed[1:]


def _empty(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    return directory


def _line(name: str, spent: Sequence[Spent], wanted: float | None = None) -> str:
    clock = [one.clock for one in spent]
    line = f"{name:40} {summary(clock):>24} {summary([one.processor for one in spent]):>24}"
    if wanted is None:
        return line
    return f"{line}   wanted < {wanted:g}: {'yes' if statistics.median(clock) < wanted else 'NO'}"


TABLES = {"start": start, "first": first, "checkpoints": checkpoints}


def main() -> None:
    """Measure the tables that are asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; none: all")
    parser.add_argument("--runs", type=int, default=7, help="rounds that count")
    parser.add_argument("--saves", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.saves:
        print(json.dumps(saves(asked.saves)))
        return
    unknown = [name for name in asked.tables if name not in TABLES]
    if unknown or asked.runs < 1:
        parser.error(f"no table {unknown[0]!r}; there are {', '.join(TABLES)}" if unknown else "--runs from 1")
    print(machine(sorted(os.sched_getaffinity(0))))
    for name in asked.tables or TABLES:
        print(f"\n{name + ': seconds, median (range)':40} {'clock':>24} {'processor':>24}", flush=True)
        with tempfile.TemporaryDirectory() as place:
            print("\n".join(TABLES[name](asked.runs, Path(place))), flush=True)


if __name__ == "__main__":
    main()

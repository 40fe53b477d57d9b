"""Workers: processes that train on request, timed in turns; what the step benchmarks share.

Each peer is a process of its own, so that thread pools do not mix.  It says one line of JSON when it has done its first
update; then each line of its input is a number of updates, which it does and answers with its seconds.  In every round
each peer works for about the same time, in an order that is drawn anew; a ratio is taken within a round, against the
peer whose median is best.  The time is the processor's, which other programs on the machine disturb less than the
clock's; the clock's is shown too.  Ratios within 0.1 of 1 are ties.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
HEADER = f"{'row':17} {'peer':23} {'ms':>8} {'rounds':>17} {'clock ms':>9} {'first s':>8}"


class Times(NamedTuple):
    """Seconds an update."""

    processor: float
    clock: float


class Peer(NamedTuple):
    """A worker process."""

    name: str
    process: subprocess.Popen
    first: float  # seconds from its start to the end of its first update, compilation included
    told: dict[str, Any]  # what it said then

    def run(self, updates: int) -> Times:
        """Train so many updates, now."""
        self.process.stdin.write(f"{updates}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended: {self.process.wait()}")
        told = json.loads(line)
        return Times(told["processor"] / updates, told["clock"] / updates)

    def end(self) -> None:
        """Let it go."""
        self.process.stdin.close()
        self.process.wait()


def start(
    name: str, script: str, arguments: Sequence[Any], cores: int, environment: Mapping[str, str] | None = None
) -> Peer:
    """Start a worker with so many threads, and wait for its first update."""
    threads = str(cores)
    settings = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])),
        "JAX_PLATFORMS": "cpu",
    }
    if cores == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        settings["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **settings, **(environment or {})}, **pipes)
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{name} did not start: {process.wait()}")
    return Peer(name, process, time.perf_counter() - began, json.loads(line))


def serve(train: Callable[[int], bool], **told: Any) -> None:
    """The worker's side: `train(updates)` blocks until all is done, and says whether the loss is finite.

    What is `told` is said after the first update, with the processor's seconds `spent` until then.
    """
    spent = sum(os.times()[:4])  # of this process and of the compilers that it started
    print(json.dumps({"ready": True, "spent": spent, **told}), flush=True)
    for line in sys.stdin:
        processor, clock = time.process_time(), time.perf_counter()
        finite = train(int(line))
        seconds = {"processor": time.process_time() - processor, "clock": time.perf_counter() - clock}
        assert finite, "training diverged"
        print(json.dumps(seconds), flush=True)


def serve_steps(step: Callable[[], Any], **told: Any) -> None:
    """`serve` of a peer whose update is one call that returns its loss: NumPy's, PyTorch's."""

    def train(updates: int) -> bool:
        for _ in range(updates):
            value = step()
        return math.isfinite(float(value))

    train(1)
    serve(train, **told)


def interleaved(peers: Sequence[Peer], rounds: int, seconds: float, warm: int = 20) -> dict[str, list[Times]]:
    """`rounds` blocks of about `seconds` of each peer, in an order drawn anew, after `warm` updates of each."""
    counts = {peer.name: max(1, round(seconds / peer.run(warm).clock)) for peer in peers}
    times: dict[str, list[Times]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        for peer in random.Random(number).sample(list(peers), len(peers)):
            times[peer.name].append(peer.run(counts[peer.name]))
    return times


def compared(row: str, own: str, peers: Sequence[Peer], times: dict[str, list[Times]]) -> list[str]:
    """The lines of a row: medians, ranges, and the ratios of `own` to the best of the others within each round."""
    typical = {name: statistics.median(t.processor for t in measured) for name, measured in times.items()}
    best = min((peer.name for peer in peers if peer.name != own), key=typical.__getitem__)
    lines = []
    for peer in peers:
        clock = statistics.median(t.clock for t in times[peer.name])
        spread = f"{min(times[peer.name]).processor * 1e3:.3f}-{max(times[peer.name]).processor * 1e3:.3f}"
        line = f"{row:17} {peer.name:23} {typical[peer.name] * 1e3:8.3f} {spread:>17} {clock * 1e3:9.3f}"
        lines.append(f"{line} {peer.first:8.1f}" + ("   best peer" if peer.name == best else ""))
    ratios = [[mine[i] / theirs[i] for mine, theirs in zip(times[own], times[best], strict=True)] for i in (0, 1)]
    middle = [f"{statistics.median(r):.2f} (rounds {min(r):.2f}-{max(r):.2f})" for r in ratios]
    return [*lines, f"{row:17} {own} / {best}: {middle[0]} of processor time, {middle[1]} of the clock's", ""]


def asked(
    about: str,
    rows: Sequence[str],
    peers: Sequence[str],
    rounds: int,
    options: Mapping[str, tuple[float, str]] | None = None,
) -> argparse.Namespace:
    """What a benchmark's command line asks for; the cores are bound, and the machine and the table's head are told.

    Args:
      about: the benchmark's docstring.
      rows: that there are; all of them where none is asked for.
      peers: that `own` can be compared with.
      rounds: by default.
      options: more options, {name: (default, help)}, all numbers.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(rows)}; none: all")
    parser.add_argument("--cores", type=int, default=1, help="how many, from the last on")
    parser.add_argument("--rounds", type=int, default=rounds)
    for name, (default, text) in (options or {}).items():
        parser.add_argument(f"--{name}", type=float, default=default, help=text)
    parser.add_argument("--peers", default=",".join(peers), help=f"of {', '.join(peers)}")
    found = parser.parse_args()
    unknown = [name for name in found.rows if name not in rows]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; there are {', '.join(rows)}")
    found.rows, found.peers = found.rows or list(rows), found.peers.split(",")
    print(machine(pinned(found.cores)))
    print(HEADER, flush=True)
    return found


def pinned(cores: int) -> list[int]:
    """Bind this process, and the workers it starts, to so many cores, from the last on."""
    chosen = sorted(os.sched_getaffinity(0))[-cores:]
    os.sched_setaffinity(0, chosen)
    return chosen


def machine(cores: Sequence[int]) -> str:
    """Processor, versions, commit and date."""
    info = Path("/proc/cpuinfo")
    model = next((x for x in info.read_text().splitlines() if "model name" in x), "") if info.exists() else ""
    told = [model.partition(":")[2].strip() or platform.processor(), f"cores {','.join(map(str, cores))}"]
    known = {one.name for one in distributions()}
    told += [f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "optax", "torch") if name in known]
    git = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return "; ".join([*told, f"commit {git.stdout.strip()}", f"{date.today()}", f"load average {load}"])

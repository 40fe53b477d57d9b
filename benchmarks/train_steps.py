"""Times of one update of a VAE, genjax's against PyTorch's, in one interleaved run.

    python benchmarks/train_steps.py                 one pinned core, the table below
    python benchmarks/train_steps.py --cores 2       two cores
    python benchmarks/train_steps.py mlp_100         one row

Each peer is a process of its own (genjax_steps.py, torch_steps.py), so that thread pools do not mix.  In every round
each peer trains for about the same time, in an order that is drawn anew; a ratio is taken within a round, against the
peer whose median is best.  All draw a fresh batch from 60,000 images that stay resident as uint8, binarize it, and do
a whole update with Adam: the same network, float32, one sample of z, analytic KL.  The time is the processor's, which
other programs on the machine disturb less than the clock's; the clock's is shown too.  Ratios within 0.1 of 1 are ties.

PyTorch is an optional extra: pip install 'genjax-research[benchmarks]'.
"""

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
GENJAX = "genjax"
ROWS = {  # row -> what genjax's worker is told, what PyTorch's workers are told
    "mlp_100": ("mlp", 100),
    "mlp_512": ("mlp", 512),
    "convolutional_64": ("convolutional", 64),
}
TORCH = ("eager", "eager-foreach", "eager-channels-last", "compiled", "compiled-channels-last", "compiled-step")


class Times(NamedTuple):
    """Seconds an update."""

    processor: float
    clock: float


class Peer(NamedTuple):
    """A worker process that trains on request."""

    name: str
    process: subprocess.Popen
    first: float  # seconds from its start to the end of its first update, compilation included

    def run(self, updates: int) -> Times:
        """Train so many updates, now."""
        self.process.stdin.write(f"{updates}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended: {self.process.wait()}")
        told = json.loads(line)
        return Times(told["processor"] / updates, told["clock"] / updates)


def images() -> np.ndarray:
    """60,000 images [28, 28, 1]: scikit-learn's handwritten digits, three times as large, somewhere in the frame.

    Real ones, because a model of noise soon has units that are dead, and numbers so small that arithmetic is slow.
    """
    from sklearn.datasets import load_digits

    draw, digits = np.random.default_rng(0), load_digits().images
    frames = np.zeros((60_000, 28, 28, 1), np.uint8)
    for frame, digit, (row, column) in zip(
        frames, itertools.cycle(digits), draw.integers(0, 5, (60_000, 2)), strict=False
    ):
        frame[row : row + 24, column : column + 24, 0] = (digit * 255 / 16).repeat(3, axis=0).repeat(3, axis=1)
    return frames


def start(name: str, network: str, batch: int, cores: int) -> Peer:
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
    script, *variant = ["genjax_steps.py"] if name == GENJAX else ["torch_steps.py", name]
    command = [sys.executable, str(HERE / script), network, str(batch), *variant]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | settings, **pipes)
    if not process.stdout.readline():
        raise SystemExit(f"{name} did not start: {process.wait()}")
    return Peer(name, process, time.perf_counter() - began)


def interleaved(peers: list[Peer], rounds: int, seconds: float) -> dict[str, list[Times]]:
    """`rounds` blocks of about `seconds` of each peer, in an order drawn anew."""
    counts = {peer.name: max(1, round(seconds / peer.run(20).clock)) for peer in peers}  # warm after this
    times: dict[str, list[Times]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        for peer in random.Random(number).sample(peers, len(peers)):
            times[peer.name].append(peer.run(counts[peer.name]))
    return times


def row(name: str, cores: int, variants: list[str], rounds: int, seconds: float) -> list[str]:
    """Measure one row; the lines of its table."""
    network, batch = ROWS[name]
    names = [GENJAX, *(v for v in variants if network == "convolutional" or "channels" not in v)]
    peers = [start(peer, network, batch, cores) for peer in names]
    times = interleaved(peers, rounds, seconds)
    for peer in peers:
        peer.process.stdin.close()
        peer.process.wait()
    typical = {peer: statistics.median(t.processor for t in times[peer]) for peer in names}
    best = min(names[1:], key=typical.__getitem__)
    lines = []
    for peer in peers:
        clock = statistics.median(t.clock for t in times[peer.name])
        spread = f"{min(times[peer.name]).processor * 1e3:.3f}-{max(times[peer.name]).processor * 1e3:.3f}"
        line = f"{name:17} {peer.name:23} {typical[peer.name] * 1e3:8.3f} {spread:>17} {clock * 1e3:9.3f}"
        lines.append(f"{line} {peer.first:8.1f}" + ("   best peer" if peer.name == best else ""))
    ratios = [[mine[i] / theirs[i] for mine, theirs in zip(times[GENJAX], times[best], strict=True)] for i in (0, 1)]
    middle = [f"{statistics.median(r):.2f} (rounds {min(r):.2f}-{max(r):.2f})" for r in ratios]
    return [*lines, f"{name:17} genjax / {best}: {middle[0]} of processor time, {middle[1]} of the clock's", ""]


def machine(cores: list[int]) -> str:
    """Processor, versions, commit and date."""
    info = Path("/proc/cpuinfo")
    model = next((x for x in info.read_text().splitlines() if "model name" in x), "") if info.exists() else ""
    told = [model.partition(":")[2].strip() or platform.processor(), f"cores {','.join(map(str, cores))}"]
    told += [f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "optax", "torch")]
    git = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return "; ".join([*told, f"commit {git.stdout.strip()}", f"{date.today()}", f"load average {load}"])


def main() -> None:
    """Measure the rows that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--cores", type=int, default=1, help="how many, from the last on")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each peer in each round")
    parser.add_argument("--peers", default=",".join(TORCH), help="PyTorch variants")
    asked = parser.parse_args()
    unknown = [name for name in asked.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    cores = sorted(os.sched_getaffinity(0))[-asked.cores :]
    os.sched_setaffinity(0, cores)  # the workers inherit it
    print(machine(cores))
    print(f"{'row':17} {'peer':23} {'ms':>8} {'rounds':>17} {'clock ms':>9} {'first s':>8}", flush=True)
    for name in asked.rows or ROWS:
        print("\n".join(row(name, asked.cores, asked.peers.split(","), asked.rounds, asked.seconds)), flush=True)


if __name__ == "__main__":
    main()

"""Times of one update of a restricted Boltzmann machine, genjax's against its peers', in one run (see workers.py).

    python benchmarks/rbm_steps.py               one pinned core, the table below
    python benchmarks/rbm_steps.py cd1 --cores 2
    python benchmarks/rbm_steps.py pcd1 --peers numpy,sklearn

784 binary visible and 500 binary hidden units, batches of 100 of 50,000 images that stay resident as uint8, float32,
plain gradient descent on W, b and c, no centering.  The images are scikit-learn's digits, enlarged and thresholded.
genjax's side is the experiment file itself, rbm_mnist.py.  The rows:

    cd1, cd10   contrastive divergence: chains of 1 and 10 steps v -> h -> v from the batch
    pcd1        persistent chains, 100 of them, 1 step an update; this alone is what scikit-learn's BernoulliRBM does
    ais         annealed importance sampling with 100 walks; the times are those of one temperature

Hidden units are probabilities, not samples, where the gradient is taken.  The peers are NumPy, scikit-learn, `rbms`
and PyTorch without autograd.  NumPy's OpenBLAS picks its kernels by the processor's model, and on one that it does not
know, as in many virtual machines, it takes slower ones than could run: "avx512" names peers whose environment has
OPENBLAS_CORETYPE=SkylakeX.

The floor of a row is the time of those matrix products alone that no peer can do without, by the library that does
them fastest in the same run: for CD-k and PCD-k 1 + k times v W, k times h W', and the gradient's v' h of both phases.

The peers are optional extras: pip install 'genjax-research[benchmarks]'.
"""

import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np
import workers

HIDDEN, BATCH, LEARNING_RATE = 500, 100, 0.05
WALKS, TEMPERATURES = 100, 200  # of annealing; a worker's update is all temperatures


class Row(NamedTuple):
    """What an update does."""

    k: int  # Gibbs steps
    persistent: bool  # whether chains go on where the last update left them
    annealing: bool = False
    seconds: float = 1.0  # of each peer in each round


ROWS = {
    "cd1": Row(1, False),
    "cd10": Row(10, False, seconds=3.0),
    "pcd1": Row(1, True),
    "ais": Row(TEMPERATURES, True, annealing=True, seconds=2.0),
}
GENJAX, AVX512 = "genjax", "-avx512"
PEERS = {
    "numpy": "rbm_peers.py",
    "numpy-avx512": "rbm_peers.py",
    "sklearn": "rbm_peers.py",
    "sklearn-avx512": "rbm_peers.py",
    "rbms": "rbm_torch.py",
    "torch": "rbm_torch.py",
    "torch-compiled": "rbm_torch.py",
}
FLOOR = {"products-jax": "rbm_genjax.py", "products-numpy": "rbm_peers.py", "products-numpy-avx512": "rbm_peers.py"}


class Machine(NamedTuple):
    """The arrays that every peer begins with, float32."""

    w: np.ndarray  # [784, 500]
    b: np.ndarray  # [784]
    c: np.ndarray  # [500]
    base: np.ndarray  # [784], log-odds of the mean image: where annealing starts


def bits() -> np.ndarray:
    """60,000 images as rows of 784 zeros and ones, uint8; the first 50,000 are what peers learn from."""
    from train_steps import images

    return (images().reshape(-1, 784) > 127).astype(np.uint8)


def first(data: np.ndarray, hidden: int, spread: float) -> Machine:
    """Random weights; visible biases as the units' log-odds."""
    mean = np.clip(data.mean(0), 0.01, 0.99)
    w = np.random.default_rng(0).normal(0, spread, (data.shape[1], hidden))
    base = np.log(mean / (1 - mean)).astype(np.float32)
    return Machine(w.astype(np.float32), base.copy(), np.zeros(hidden, np.float32), base)


def chosen(row: Row, name: str) -> bool:
    """Whether a peer does what a row asks for, on this processor."""
    info = Path("/proc/cpuinfo")
    if name.endswith(AVX512) and "avx512f" not in (info.read_text() if info.exists() else ""):
        return False
    if name.startswith("sklearn"):
        return row.persistent and not row.annealing
    return not (row.annealing and name.startswith("torch"))


def start(script: str, name: str, row: str, cores: int) -> workers.Peer:
    """A worker, its OpenBLAS told which kernels to take where its name says so."""
    settings = {"OPENBLAS_CORETYPE": "SkylakeX"} if name.endswith(AVX512) else {}
    return workers.start(name, script, [row, name.removesuffix(AVX512)], cores, settings)


def measured(name: str, cores: int, asked: list[str], rounds: int, scale: float) -> list[str]:
    """Measure one row; the lines of its table, and the floor."""
    row, steps = ROWS[name], TEMPERATURES if ROWS[name].annealing else 1
    scripts = {GENJAX: "rbm_genjax.py", **{peer: PEERS[peer] for peer in asked}, **FLOOR}
    started = [start(script, peer, name, cores) for peer, script in scripts.items() if chosen(row, peer)]
    times = workers.interleaved(started, rounds, scale * row.seconds, warm=1 if row.annealing else 20)
    for peer in started:
        peer.end()
    times = {peer: [workers.Times(*(x / steps for x in t)) for t in found] for peer, found in times.items()}
    compete = [peer for peer in started if peer.name not in FLOOR]
    *lines, _ = workers.compared(name, GENJAX, compete, {peer.name: times[peer.name] for peer in compete})
    return [*lines, *floor(name, times), ""]


def floor(name: str, times: dict[str, list[workers.Times]]) -> list[str]:
    """genjax's time over that of the products alone."""
    typical = {peer: statistics.median(t.processor for t in times[peer]) for peer in times if peer in FLOOR}
    best = min(typical, key=typical.__getitem__)
    ratios = [mine.processor / least.processor for mine, least in zip(times[GENJAX], times[best], strict=True)]
    told = ", ".join(f"{peer.removeprefix('products-')} {1e3 * time:.3f}" for peer, time in typical.items())
    return [f"{name:17} genjax / floor: {statistics.median(ratios):.2f} (ms of the products: {told})"]


def main() -> None:
    """Measure the rows that are asked for and print the table."""
    asked = workers.asked(__doc__, [*ROWS], PEERS, 11, {"scale": (1.0, "of the seconds of each peer in each round")})
    for name in asked.rows:
        print("\n".join(measured(name, asked.cores, asked.peers, asked.rounds, asked.scale)), flush=True)


if __name__ == "__main__":
    main()

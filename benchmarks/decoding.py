"""Tokens a second of decoding with a cache, genjax's GPT against PyTorch's, in one interleaved run (see workers.py).

    python benchmarks/decoding.py                   one pinned core, the table below
    python benchmarks/decoding.py 6x6x384_1         one row: layers x heads x width _ rows of the batch

One update is a whole generation: from one token to a full context of 64 or 256, a draw from the softmax at every
position, float32, the networks of gpt_steps.py without dropout.  Both sides hold one array of keys and one of values a
layer.  PyTorch's variants read the filled part of them by a slice (eager, compiled-slice) or all of them under a mask
(compiled); `compiled-frozen` holds the weights as constants, as PyTorch advises for inference.

A token of a batch of one reads every weight once.  The floor of such a row is the time of that reading alone: products
of one vector with matrices of as many bytes as the network's, by NumPy, in the same run.

PyTorch is an optional extra: pip install 'genjax-research[benchmarks]'.
"""

import statistics
import time

import numpy as np
import workers
from gpt_steps import ROWS as NETWORKS
from gpt_steps import VOCABULARY, Setting

BATCHES = (1, 16)
ROWS = {f"{network}_{batch}": (network, batch) for network in NETWORKS for batch in BATCHES}
GENJAX, TORCH = "genjax", ("eager", "compiled", "compiled-slice", "compiled-frozen")


def weights(setting: Setting) -> int:
    """Weights that one token reads: four matrices a layer, and the output layer."""
    return setting.layers * 12 * setting.width**2 + VOCABULARY * setting.width


def floor(setting: Setting, seconds: float) -> float:
    """Seconds to read the weights once, by products of a vector with matrices [4 C, C]: the best of many passes."""
    draw, width = np.random.default_rng(0), setting.width
    shape = (-(-weights(setting) // (4 * width * width)), 4 * width, width)
    matrices = [matrix for matrix in draw.normal(size=shape).astype(np.float32)]
    vector, best, began = draw.normal(size=width).astype(np.float32), np.inf, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.process_time()
        for _ in range(10):
            for matrix in matrices:
                matrix @ vector
        best = min(best, (time.process_time() - start) / 10)
    return best * weights(setting) / np.prod(shape)


def start(name: str, row: str, cores: int) -> workers.Peer:
    """genjax's worker, or PyTorch's in one of its variants."""
    network, batch = ROWS[row]
    if name == GENJAX:
        return workers.start(name, "decoding_genjax.py", [network, batch], cores)
    return workers.start(name, "decoding_torch.py", [network, batch, name], cores)


def measured(row: str, cores: int, variants: list[str], rounds: int, seconds: float) -> list[str]:
    """Measure one row; the lines of its table, tokens a second, and the floor."""
    network, batch = ROWS[row]
    setting = NETWORKS[network]
    peers = [start(name, row, cores) for name in (GENJAX, *variants)]
    times = workers.interleaved(peers, rounds, seconds, warm=2)
    least = floor(setting, seconds)
    for peer in peers:
        peer.end()
    *lines, _ = workers.compared(row, GENJAX, peers, times)
    count = setting.context - 1
    typical = {name: statistics.median(t.processor for t in measured) for name, measured in times.items()}
    rates = [f"{name} {batch * count / seconds:,.0f}" for name, seconds in typical.items()]
    lines.append(f"{row:17} tokens/s: {', '.join(rates)}")
    if batch == 1:
        size = 4 * weights(setting)
        told = f"{1e-6 * size:.1f} MB of weights in {1e6 * least:.0f} us, {1e-9 * size / least:.1f} GB/s"
        lines.append(f"{row:17} genjax / floor: {typical[GENJAX] / count / least:.2f} ({told})")
    return [*lines, ""]


def main() -> None:
    """Measure the rows that are asked for and print the table."""
    asked = workers.asked(__doc__, [*ROWS], TORCH, 9, {"seconds": (1.5, "of each peer in each round")})
    for name in asked.rows:
        print("\n".join(measured(name, asked.cores, asked.peers, asked.rounds, asked.seconds)), flush=True)


if __name__ == "__main__":
    main()

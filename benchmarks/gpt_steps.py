"""Times of one update of a GPT on characters, genjax's against PyTorch's, in one interleaved run (see workers.py).

    python benchmarks/gpt_steps.py                    one pinned core, the table below
    python benchmarks/gpt_steps.py 4x4x128 --cores 2  one row, two cores
    python benchmarks/gpt_steps.py depth              seconds to compile 2, 4, 8 and 16 layers, with and without scan

The rows are nanoGPT's two settings for tiny Shakespeare: the same network (pre-norm, learned positions, GELU, no
biases, tied output layer), float32, random windows of a resident text, AdamW with decay of matrices only, gradients
clipped to norm 1.  With dropout, both sides drop attention weights, what each part adds, and embeddings.  PyTorch's
attention is its `scaled_dot_product_attention`.

PyTorch is an optional extra: pip install 'genjax-research[benchmarks]'.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
import workers

VOCABULARY = 65


class Setting(NamedTuple):
    """A network and its batches."""

    layers: int
    heads: int
    width: int
    context: int
    batch: int
    dropout: float
    warm: int  # updates before anything is timed
    seconds: float  # of each peer in each round


ROWS = {
    "4x4x128": Setting(4, 4, 128, context=64, batch=12, dropout=0.0, warm=20, seconds=1.5),
    "6x6x384": Setting(6, 6, 384, context=256, batch=64, dropout=0.2, warm=2, seconds=20.0),
}
DEPTHS = (2, 4, 8, 16)
GENJAX, TORCH = "genjax", ("eager", "compiled", "compiled-step")


def text() -> np.ndarray:
    """Characters as tokens [T] uint8: genjax's own source, its 64 most frequent bytes, and all others as one."""
    source = b"".join(path.read_bytes() for path in sorted((workers.HERE.parent / "genjax").rglob("*.py")))
    number = np.full(256, VOCABULARY - 1, np.uint8)
    for token, (byte, _) in enumerate(Counter(source).most_common(VOCABULARY - 1)):
        number[byte] = token
    return number[np.frombuffer(source, np.uint8)]


def start(name: str, row: str, cores: int, *more: str) -> workers.Peer:
    """genjax's worker, or PyTorch's in one of its variants."""
    if name == GENJAX:
        return workers.start(name, "gpt_genjax.py", [row, *more], cores)
    return workers.start(name, "gpt_torch.py", [row, name], cores)


def measured(row: str, cores: int, variants: list[str], rounds: int) -> list[str]:
    """Measure one row; the lines of its table."""
    setting = ROWS[row]
    peers = [start(name, row, cores) for name in (GENJAX, *variants)]
    times = workers.interleaved(peers, rounds, setting.seconds, setting.warm)
    for peer in peers:
        peer.end()
    return workers.compared(row, GENJAX, peers, times)


def depth(cores: int) -> list[str]:
    """Processor seconds that tracing and compiling the small model's update takes, by its number of layers."""
    lines = []
    for how in ("scan", "written out"):
        peers = []
        for layers in DEPTHS:
            peer = start(GENJAX, "4x4x128", cores, str(layers), how)
            peer.end()
            peers.append(peer)
        seconds = " ".join(f"{peer.told['compiling']:7.2f}" for peer in peers)
        lines.append(f"compiling {'/'.join(map(str, DEPTHS))} layers, {how:12} {seconds} s")
    return lines


def main() -> None:
    """Measure the rows that are asked for and print the table."""
    asked = workers.asked(__doc__, [*ROWS, "depth"], TORCH, 7)
    for name in asked.rows:
        whole = name != "depth"
        lines = measured(name, asked.cores, asked.peers, asked.rounds) if whole else depth(asked.cores)
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()

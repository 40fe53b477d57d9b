"""Times of one update of a VAE, genjax's against PyTorch's, in one interleaved run.

    python benchmarks/train_steps.py                 one pinned core, the table below
    python benchmarks/train_steps.py --cores 2       two cores
    python benchmarks/train_steps.py mlp_100         one row

The peers are genjax_steps.py and torch_steps.py; how they are timed stands in workers.py.  All draw a fresh batch from
60,000 images that stay resident as uint8, binarize it, and do a whole update with Adam: the same network, float32, one
sample of z, analytic KL.

PyTorch is an optional extra: pip install 'genjax-research[benchmarks]'.
"""

import itertools

import numpy as np
import workers

GENJAX = "genjax"
ROWS = {  # row -> what genjax's worker is told, what PyTorch's workers are told
    "mlp_100": ("mlp", 100),
    "mlp_512": ("mlp", 512),
    "convolutional_64": ("convolutional", 64),
}
TORCH = ("eager", "eager-foreach", "eager-channels-last", "compiled", "compiled-channels-last", "compiled-step")


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


def row(name: str, cores: int, variants: list[str], rounds: int, seconds: float) -> list[str]:
    """Measure one row; the lines of its table."""
    network, batch = ROWS[name]
    own = workers.start(GENJAX, "genjax_steps.py", [network, batch], cores)
    chosen = [v for v in variants if network == "convolutional" or "channels" not in v]
    peers = [own, *(workers.start(v, "torch_steps.py", [network, batch, v], cores) for v in chosen)]
    times = workers.interleaved(peers, rounds, seconds)
    for peer in peers:
        peer.end()
    return workers.compared(name, GENJAX, peers, times)


def main() -> None:
    """Measure the rows that are asked for and print the table."""
    asked = workers.asked(__doc__, [*ROWS], TORCH, 15, {"seconds": (1.0, "of each peer in each round")})
    for name in asked.rows:
        print("\n".join(row(name, asked.cores, asked.peers, asked.rounds, asked.seconds)), flush=True)


if __name__ == "__main__":
    main()

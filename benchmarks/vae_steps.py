"""Times of one update of the deeper VAEs, genjax's against PyTorch's, in one interleaved run (see workers.py).

    python benchmarks/vae_steps.py                   one pinned core, the table below
    python benchmarks/vae_steps.py hvae_vamp --cores 2

genjax's side is the experiment file itself, iwae_mnist.py, vae_fashion.py or vq_vae_fashion.py, with scikit-learn's
digits, enlarged, in place of its data.  PyTorch's is the same network, float32, with the same batches from 60,000 or
50,000 images that stay resident as uint8, binarized anew but for the last row, and a whole update of the same Adam.
The rows:

    iwae_50_20, iwae_50_100   one stochastic layer, 50 importance samples, batches of 20 (the paper's) and 100
    iwae_50_two               two stochastic layers, 50 importance samples, batches of 20
    vae, hvae_vamp            gated layers of 300, batches of 100: normal prior; two layers and 500 pseudo-inputs
    vq                        the first stage of the VQ-VAE: convolutions and 256 codes, batches of 64

PyTorch is an optional extra: pip install 'genjax-research[benchmarks]'.
"""

from collections.abc import Sequence
from typing import NamedTuple

import workers


class Row(NamedTuple):
    """An experiment file and its fields."""

    experiment: str
    batch: int
    fields: dict
    seconds: float  # of each peer in each round


ROWS = {
    "iwae_50_20": Row("iwae_mnist", 20, {"k": 50}, 2.0),
    "iwae_50_100": Row("iwae_mnist", 100, {"k": 50}, 4.0),
    "iwae_50_two": Row("iwae_mnist", 20, {"k": 50, "layers": 2}, 2.0),
    "vae": Row("vae_fashion", 100, {}, 1.0),
    "hvae_vamp": Row("vae_fashion", 100, {"layers": 2, "prior": "vamp"}, 2.0),
    "vq": Row("vq_vae_fashion", 64, {}, 3.0),
}
GENJAX, TORCH = "genjax", ("eager", "compiled", "compiled-step")
VQ_TORCH = ("eager", "eager-channels-last", "compiled", "compiled-channels-last")


def measured(row: str, cores: int, variants: Sequence[str], rounds: int) -> list[str]:
    """Measure one row; the lines of its table."""
    peer, variants = ("vq_torch.py", VQ_TORCH) if row == "vq" else ("vae_torch.py", variants)
    scripts = {GENJAX: ("vae_genjax.py", [row]), **{name: (peer, [row, name]) for name in variants}}
    peers = [workers.start(name, script, arguments, cores) for name, (script, arguments) in scripts.items()]
    times = workers.interleaved(peers, rounds, ROWS[row].seconds)
    for peer in peers:
        peer.end()
    return workers.compared(row, GENJAX, peers, times)


def main() -> None:
    """Measure the rows that are asked for and print the table."""
    asked = workers.asked(__doc__, [*ROWS], TORCH, 9)
    for name in asked.rows:
        print("\n".join(measured(name, asked.cores, asked.peers, asked.rounds)), flush=True)


if __name__ == "__main__":
    main()

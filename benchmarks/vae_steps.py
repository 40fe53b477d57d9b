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

import argparse
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--cores", type=int, default=1, help="how many, from the last on")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peers", default=",".join(TORCH), help="PyTorch variants")
    asked = parser.parse_args()
    unknown = [name for name in asked.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    print(workers.machine(workers.pinned(asked.cores)))
    print(workers.HEADER, flush=True)
    for name in asked.rows or ROWS:
        print("\n".join(measured(name, asked.cores, asked.peers.split(","), asked.rounds)), flush=True)


if __name__ == "__main__":
    main()

"""Times of one update of a DCGAN of 32x32 pixels, genjax's against PyTorch's, in one interleaved run (see workers.py).

    python benchmarks/gan_steps.py               one pinned core, the table below
    python benchmarks/gan_steps.py dcgan --cores 2
    python benchmarks/gan_steps.py levels        seconds to compile each level of progressive_fashion.py, 4 to 32 pixels

An update is one of the critic and then one of the generator, each with Adam, on a fresh batch of 64 colour images of
20,000 that stay resident as uint8; z is drawn anew for both.  genjax's side is ConvGenerator and ConvCritic of
genjax/models/gan.py by `alternate`; PyTorch's is the same network with as many parameters, and the same losses of
logits, float32.  The rows:

    dcgan       the non-saturating logistic game
    dcgan_r1    with R1, as dcgan_fashion.py trains; torch.compile refuses derivatives of derivatives, so eager alone

What is compiled by "compiled" are the losses of both players, networks included.  "levels" tells processor seconds of
tracing and compiling a stage, from an empty cache, on digits in place of Fashion-MNIST.

Measured: dcgan 1.17 of eager-channels-last in processor time (159 and 136 ms; rounds 1.15 to 1.17), where 1.05 was
wanted; `--rounds 3 --scale 0.5` at a load of 5 on two cores, 2026-11-27; 1.16 in another run at a load of 20.
dcgan_r1 1.09 (196 and 179 ms; rounds 1.02 to 1.10) at a load of 4, `--scale 0.4`.
The levels of 4, 8, 16 and 32 pixels: 11.2, 13.9, 20.1 and 27.0 s, at a load of 6 to 15, which lengthens them.

PyTorch is an optional extra: pip install 'genjax-research[benchmarks]'.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import workers


class Row(NamedTuple):
    """A game."""

    gamma: float  # weight of R1
    seconds: float  # of each peer in each round


ROWS = {"dcgan": Row(0.0, 3.0), "dcgan_r1": Row(0.1, 4.0)}
SHAPE, BATCH, LATENTS, WIDTHS, FEATURES = (32, 32, 3), 64, 64, (128, 64), 256  # the critic's widths stand backwards
RATE, BETAS = 5e-4, (0.0, 0.99)
GENJAX, TORCH = "genjax", ("eager", "eager-channels-last", "compiled", "compiled-channels-last")


def pictures() -> np.ndarray:
    """20,000 colour images [32, 32, 3] uint8: three digits as the colours of one, in a frame."""
    from train_steps import images

    grey = images().reshape(-1, 3, 28, 28)
    return np.pad(grey.transpose(0, 2, 3, 1), ((0, 0), (2, 2), (2, 2), (0, 0)))


def chosen(row: Row, variants: Sequence[str]) -> list[str]:
    """The variants that can do what a row asks for."""
    return [name for name in variants if row.gamma == 0 or name.startswith("eager")]


def measured(name: str, cores: int, variants: Sequence[str], rounds: int, scale: float) -> list[str]:
    """Measure one row; the lines of its table."""
    own = workers.start(GENJAX, "gan_genjax.py", [name], cores)
    peers = [own, *(workers.start(v, "gan_torch.py", [name, v], cores) for v in chosen(ROWS[name], variants))]
    times = workers.interleaved(peers, rounds, scale * ROWS[name].seconds, warm=5)
    for peer in peers:
        peer.end()
    told = ", ".join(sorted({f"{peer.told['parameters']:,}" for peer in peers}))
    return [f"{name:17} {told} parameters", *workers.compared(name, GENJAX, peers, times)]


def levels(cores: int) -> list[str]:
    """Processor seconds that tracing and compiling each level takes, and a level's first update is not in them."""
    peer = workers.start("levels", "gan_genjax.py", ["levels"], cores)
    peer.end()
    told = peer.told["compiling"]
    return [f"{'levels':17} compiling {'/'.join(told)}: {' '.join(f'{s:.1f}' for s in told.values())} s of processor"]


def main() -> None:
    """Measure the rows that are asked for and print the table."""
    asked = workers.asked(
        __doc__, [*ROWS, "levels"], TORCH, 9, {"scale": (1.0, "of the seconds of each peer in each round")}
    )
    for name in asked.rows:
        whole = name != "levels"
        lines = measured(name, asked.cores, asked.peers, asked.rounds, asked.scale) if whole else levels(asked.cores)
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()

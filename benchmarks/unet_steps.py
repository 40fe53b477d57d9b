"""Times of a U-Net of 32x32 pixels, genjax's against diffusers' UNet2DModel, in one interleaved run (see workers.py).

    python benchmarks/unet_steps.py                  one pinned core, the tables below
    python benchmarks/unet_steps.py train_16         one row

Both networks have 64, 128 and 128 channels at 32, 16 and 8 pixels, two residual blocks a level, attention at 16 pixels
and in the middle, scale and shift by the time, GroupNorm, three colours, float32, no dropout.  They differ in what is
their authors' own: genjax halves a picture by a mean before the convolution, diffusers by its stride.  The parameters
of both are counted and printed.  The rows:

    train_16     a whole update: times, noise, the error of the noise, Adam; batches of 16 from resident uint8 images
    sample_16    DDIM without noise from t = 1 down, 16 pictures; one `update` is a sampling of 5 steps

Beside the times stands what a user waits for: the processor's seconds from the start of a process to the end of its
first update, children included, with caches of compiled programs empty on both sides.

PyTorch and diffusers are optional extras: pip install 'genjax-research[benchmarks]'.
"""

import tempfile
from typing import NamedTuple

import numpy as np
import workers


class Setting(NamedTuple):
    """A network, its batches, and what is done with it."""

    training: bool
    width: int
    multipliers: tuple[int, ...]
    attention: int  # the level, counted from 0, that has it
    batch: int
    steps: int = 1  # of a sampling
    seconds: float = 6.0  # of each peer in each round


ROWS = {
    "train_16": Setting(True, 64, (1, 2, 2), 1, 16),
    "sample_16": Setting(False, 64, (1, 2, 2), 1, 16, steps=5),
}
BLOCKS, COLOURS, SIDE, FIRST = 2, 3, 32, 1e-3  # residual blocks a level; FIRST: the smallest time of the process
GENJAX, TORCH = "genjax", ("eager", "eager-channels-last", "compiled", "compiled-channels-last")


def images() -> np.ndarray:
    """10,000 images [32, 32, 3] uint8: scikit-learn's digits, enlarged, in the frame of train_steps.py."""
    from train_steps import images as digits

    framed = np.pad(digits()[:10_000], ((0, 0), (2, 2), (2, 2), (0, 0)))
    return framed.repeat(COLOURS, axis=3)


def process(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma of DDPM's linear schedule in continuous time, genjax.corruption.schedules.linear."""
    log_alpha = -0.25 * 19.9 * t**2 - 0.05 * t
    return np.exp(log_alpha), np.sqrt(-np.expm1(2.0 * log_alpha))


def times(steps: int) -> np.ndarray:
    """At which a sampling asks the network: from 1 down to FIRST."""
    return np.linspace(1.0, FIRST, steps)


def start(name: str, row: str, cores: int) -> workers.Peer:
    """genjax's worker, or PyTorch's in one of its variants; with an empty cache of what PyTorch compiles."""
    script, arguments = ("unet_genjax.py", [row]) if name == GENJAX else ("unet_torch.py", [row, name])
    with tempfile.TemporaryDirectory() as empty:
        return workers.start(name, script, arguments, cores, {"TORCHINDUCTOR_CACHE_DIR": empty})


def waited(row: str, peers: list[workers.Peer]) -> list[str]:
    """Parameters, and the seconds until the first update, genjax's against the quickest that compiles."""
    own, others = peers[0], peers[1:]
    sizes = ", ".join(f"{peer.name} {peer.told['parameters']:,}" for peer in (own, others[0]))
    lines = [f"{row:17} parameters: {sizes} ({own.told['parameters'] / others[0].told['parameters'] - 1:+.1%})"]
    spent = ", ".join(f"{peer.name} {peer.told['spent']:.1f}" for peer in peers)
    compiled = [peer.told["spent"] for peer in others if peer.name.startswith("compiled")]
    ratio = f": genjax / compiled {own.told['spent'] / min(compiled):.2f}" if compiled else ""
    return [*lines, f"{row:17} processor s to the first update: {spent}{ratio}", ""]


def measured(row: str, cores: int, variants: list[str], rounds: int) -> list[str]:
    """Measure one row; the lines of its table."""
    peers = [start(name, row, cores) for name in (GENJAX, *variants)]
    found = workers.interleaved(peers, rounds, ROWS[row].seconds, warm=1)
    for peer in peers:
        peer.end()
    *lines, _ = workers.compared(row, GENJAX, peers, found)
    return [*lines, *waited(row, peers)]


def main() -> None:
    """Measure the rows that are asked for and print the tables."""
    asked = workers.asked(__doc__, [*ROWS], TORCH, 5)
    for name in asked.rows:
        print("\n".join(measured(name, asked.cores, asked.peers, asked.rounds)), flush=True)


if __name__ == "__main__":
    main()

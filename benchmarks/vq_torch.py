"""A worker of vae_steps.py: the VQ-VAE of experiments/vq_vae_fashion.py, its first stage, in PyTorch."""

import os
import sys

import torch
import workers
from torch import nn
from torch.nn import functional
from train_steps import images

CODES, DIMS, CHANNELS, BATCH, LEVELS = 256, 16, 32, 64, 256
BETA, DECAY, LEAST, SMOOTHING = 0.25, 0.99, 0.05, 1e-5


class Residual(nn.Module):
    """h + W relu(V relu(h))."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1), nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.narrow(functional.relu(self.wide(functional.relu(h))))


class VQVAE(nn.Module):
    """Encoder, decoder and a codebook of moving averages; returns the mean loss and the codebook's new numbers."""

    def __init__(self):
        super().__init__()
        c = CHANNELS
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, c, 4, 2, 1), nn.ReLU(), nn.Conv2d(c, c, 4, 2, 1), nn.ReLU(), nn.Conv2d(c, c, 3, 1, 1)),
            *(Residual(), Residual(), nn.ReLU(), nn.Conv2d(c, DIMS, 1)),
        )
        self.decoder = nn.Sequential(
            *(nn.Conv2d(DIMS, c, 3, 1, 1), Residual(), Residual(), nn.ReLU()),
            *(nn.ConvTranspose2d(c, c, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(c, 2, 4, 2, 1)),
        )
        self.register_buffer("counts", torch.ones(CODES))
        self.register_buffer("sums", torch.randn(CODES, DIMS))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z = self.encoder(x)
        rows = z.permute(0, 2, 3, 1).reshape(-1, DIMS)
        with torch.no_grad():
            total = self.counts.sum()
            book = self.sums / ((self.counts + SMOOTHING) / (total + CODES * SMOOTHING) * total)[:, None]
            codes = (0.5 * book.square().sum(1)[None] - rows @ book.T).argmin(1)
            chosen = functional.one_hot(codes, CODES).float()
            counts = DECAY * self.counts + (1 - DECAY) * chosen.sum(0)
            sums = DECAY * self.sums + (1 - DECAY) * chosen.T @ rows
            dead = counts < LEAST
            drawn = rows[torch.randint(len(rows), (CODES,))]
            counts, sums = torch.where(dead, 1.0, counts), torch.where(dead[:, None], drawn, sums)
        nearest = book[codes].reshape(len(x), *z.shape[2:], DIMS).permute(0, 3, 1, 2)
        out = self.decoder(z + (nearest - z).detach())
        committed = (z - nearest).square().sum((1, 2, 3))
        return (distortion(x, out) + BETA * committed).mean(), counts, sums


def distortion(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """-log p(x) of a discretised logistic, summed over pixels."""
    mean, inverse = (out[:, :1] + 0.5) * (LEVELS - 1), torch.exp(-(out[:, 1:] - 2.0).clamp(-30, 30)) / (LEVELS - 1)
    level = torch.round(x * (LEVELS - 1))
    below = functional.logsigmoid((level + 0.5 - mean) * inverse)
    above = functional.logsigmoid(-(level - 0.5 - mean) * inverse)
    inner = below + above + torch.log(-torch.expm1(-inverse))
    inner = torch.where(level <= 0, below, torch.where(level >= LEVELS - 1, above, inner))
    return -inner.sum((1, 2, 3))


def update(variant: str):
    """One update: draw, descend, move the codebook."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    last = torch.channels_last if "channels-last" in variant else torch.contiguous_format
    model = VQVAE().to(memory_format=last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    data = torch.from_numpy(images()).permute(0, 3, 1, 2).contiguous()[:50_000]
    loss = torch.compile(model) if variant.startswith("compiled") else model
    order, position = torch.randperm(len(data)), 0

    def step() -> torch.Tensor:
        nonlocal order, position
        if position + BATCH > len(data):
            order, position = torch.randperm(len(data)), 0
        x = data[order[position : position + BATCH]].float().div_(LEVELS - 1)
        position += BATCH
        optimizer.zero_grad(set_to_none=True)
        value, counts, sums = loss(x.contiguous(memory_format=last))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e3)
        optimizer.step()
        model.counts.copy_(counts)
        model.sums.copy_(sums)
        return value

    return step


def main() -> None:
    """Arguments: the row, of which there is one, and the variant."""
    workers.serve_steps(update(sys.argv[2]))


if __name__ == "__main__":
    main()

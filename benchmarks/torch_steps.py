"""A worker of train_steps.py: the same VAE in PyTorch, in the variants that PyTorch's users choose from."""

import os
import sys

import torch
import workers
from torch import nn
from torch.nn import functional
from train_steps import images

LATENTS = 50


class VAE(nn.Module):
    """The networks of genjax_steps.py; returns the mean loss of a batch."""

    def __init__(self, network: str):
        super().__init__()
        wide = [nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh()]
        back = [nn.Linear(LATENTS, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 784)]
        if network == "convolutional":
            wide = [nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU()]
            wide += [nn.Flatten(), nn.Linear(3136, 256), nn.ReLU()]
            back = [nn.Linear(LATENTS, 256), nn.ReLU(), nn.Linear(256, 3136), nn.ReLU(), nn.Unflatten(1, (64, 7, 7))]
            back += [nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)]
        self.encoder, self.decoder = nn.Sequential(*wide), nn.Sequential(*back)
        units = 256 if network == "convolutional" else 200
        self.mean, self.log_var = nn.Linear(units, LATENTS), nn.Linear(units, LATENTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(x)
        mean, log_var = self.mean(hidden), self.log_var(hidden)
        logits = self.decoder(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean))
        distortion = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        rate = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum()
        return (distortion + rate) / len(x)


def update(network: str, batch_size: int, variant: str):
    """One update: draw, binarize, descend."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model, last = VAE(network), torch.channels_last if "channels-last" in variant else torch.contiguous_format
    convolutional = network == "convolutional"
    if convolutional:
        model = model.to(memory_format=last)
    how = {"foreach": True} if "foreach" in variant else {"fused": True}
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, **how)
    data = torch.from_numpy(images())
    data = data.permute(0, 3, 1, 2).contiguous() if convolutional else data.reshape(-1, 784)
    loss = torch.compile(model) if variant.startswith("compiled") and "step" not in variant else model
    order, position = torch.randperm(len(data)), 0

    def descend(x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(x)
        value.backward()
        optimizer.step()
        return value

    whole = torch.compile(descend) if "step" in variant else descend

    def step() -> torch.Tensor:
        nonlocal order, position
        if position + batch_size > len(data):
            order, position = torch.randperm(len(data)), 0
        chosen = order[position : position + batch_size]
        position += batch_size
        x = torch.bernoulli(data[chosen].float().div_(255.0))
        return whole(x.contiguous(memory_format=last) if convolutional else x)

    return step


def main() -> None:
    """Arguments: the network, the rows of a batch, the variant."""
    workers.serve_steps(update(sys.argv[1], int(sys.argv[2]), sys.argv[3]))


if __name__ == "__main__":
    main()

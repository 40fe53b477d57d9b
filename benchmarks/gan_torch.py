"""A worker of gan_steps.py: the same GAN in PyTorch, in the variants that PyTorch's users choose from."""

import math
import os
import sys

import torch
import workers
from gan_steps import BATCH, BETAS, FEATURES, LATENTS, RATE, ROWS, SHAPE, WIDTHS, pictures
from torch import nn
from torch.nn.functional import softplus

Q, (WIDE, NARROW) = SHAPE[0] // 4, WIDTHS


class PixelNorm(nn.Module):
    """Every pixel by the root mean square of its channels, after a rectifier."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        h = torch.relu(h)
        return h * torch.rsqrt(h.square().mean(1, keepdim=True) + 1e-8)


class Generator(nn.Module):
    """z [B, Z] -> images [B, 3, 32, 32] in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(LATENTS, Q * Q * WIDE)
        self.middle, self.last = (
            nn.ConvTranspose2d(WIDE, NARROW, 4, 2, 1),
            nn.ConvTranspose2d(NARROW, SHAPE[2], 4, 2, 1),
        )
        self.norm = PixelNorm()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.dense(z).view(-1, Q, Q, WIDE).permute(0, 3, 1, 2)  # channels last, as both sides store it
        if self.middle.weight.is_contiguous():
            h = h.contiguous()
        return torch.tanh(self.last(self.norm(self.middle(self.norm(h)))))


class Critic(nn.Module):
    """Images [B, 3, 32, 32] -> logits [B]."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(SHAPE[2], NARROW, 4, 2, 1), nn.Conv2d(NARROW, WIDE, 4, 2, 1)
        self.dense, self.psi = nn.Linear(Q * Q * WIDE, FEATURES), nn.Linear(FEATURES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        leaky = lambda h: nn.functional.leaky_relu(h, 0.2)
        h = leaky(self.second(leaky(self.first(x))))
        return self.psi(leaky(self.dense(h.permute(0, 2, 3, 1).reshape(len(h), -1))))[:, 0]


class Losses(nn.Module):
    """The two players' losses of the logistic game, as means."""

    def __init__(self, generator: Generator, critic: Critic, gamma: float):
        super().__init__()
        self.generator, self.critic, self.gamma = generator, critic, gamma

    def of_critic(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.generator(z)
        r, f = self.critic(x), self.critic(y)
        loss = (softplus(-r) + softplus(f)).mean()
        if not self.gamma:
            return loss
        [slope] = torch.autograd.grad(r.sum(), x, create_graph=True)
        return loss + self.gamma * 0.5 * slope.square().sum((1, 2, 3)).mean()

    def of_generator(self, z: torch.Tensor) -> torch.Tensor:
        return softplus(-self.critic(self.generator(z))).mean()


def update(losses: Losses, variant: str, data: torch.Tensor):
    """One update of the critic and one of the generator."""
    last = torch.channels_last if "channels-last" in variant else torch.contiguous_format
    losses.to(memory_format=last)
    adam = lambda network: torch.optim.Adam(network.parameters(), RATE, BETAS, fused=True)
    generator, critic = losses.generator, losses.critic
    tx_generator, tx_critic = adam(generator), adam(critic)
    of_critic, of_generator = losses.of_critic, losses.of_generator
    if variant.startswith("compiled"):
        of_critic, of_generator = torch.compile(of_critic), torch.compile(of_generator)
    order, position = torch.randperm(len(data)), 0

    def descend(tx: torch.optim.Optimizer, value: torch.Tensor) -> torch.Tensor:
        tx.zero_grad(set_to_none=True)
        value.backward()
        tx.step()
        return value.detach()

    def step() -> torch.Tensor:
        nonlocal order, position
        if position + BATCH > len(data):
            order, position = torch.randperm(len(data)), 0
        x = data[order[position : position + BATCH]].float().div_(127.5).sub_(1.0).contiguous(memory_format=last)
        position += BATCH
        found = descend(tx_critic, of_critic(x.requires_grad_(losses.gamma > 0), torch.randn(BATCH, LATENTS)))
        critic.requires_grad_(False)  # the generator's gradient needs none of the critic's own
        found = found + descend(tx_generator, of_generator(torch.randn(BATCH, LATENTS)))
        critic.requires_grad_(True)
        return found

    return step


def main() -> None:
    """Arguments: the row and the variant."""
    row, variant = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    losses = Losses(Generator(), Critic(), ROWS[row].gamma)
    data = torch.from_numpy(pictures()).permute(0, 3, 1, 2).contiguous()
    step = update(losses, variant, data)
    step()

    def train(updates: int) -> bool:
        for _ in range(updates):
            value = step()
        return math.isfinite(float(value))

    workers.serve(train, parameters=sum(p.numel() for p in losses.parameters()))


if __name__ == "__main__":
    main()

"""A worker of vae_steps.py: the same VAEs in PyTorch, in the variants that PyTorch's users choose from."""

import itertools
import math
import os
import sys

import torch
import workers
from torch import nn
from torch.nn import functional
from train_steps import images
from vae_steps import ROWS

LOG_2PI = math.log(2 * math.pi)


def tanh(*widths: int) -> nn.Sequential:
    """Linear layers with tanh after each."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.Tanh())))


class Gated(nn.Module):
    """A linear layer times the logistic of another."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.value, self.gate = nn.Linear(before, after), nn.Linear(before, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value(x) * torch.sigmoid(self.gate(x))


class Normal(nn.Module):
    """Mean and log-variance behind hidden layers."""

    def __init__(self, hidden: nn.Module, width: int, latents: int, clipped: bool = False):
        super().__init__()
        self.hidden, self.clipped = hidden, clipped
        self.mean, self.log_var = nn.Linear(width, latents), nn.Linear(width, latents)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.hidden(x)
        log_var = self.log_var(h)
        return self.mean(h), log_var.clamp(-6.0, 2.0) if self.clipped else log_var


def drawn(mean: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """A reparameterised sample."""
    return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)


def density(z: torch.Tensor, mean: torch.Tensor | float, log_var: torch.Tensor) -> torch.Tensor:
    """log N(z; mean, exp(log_var)), summed over dimensions."""
    return -0.5 * (LOG_2PI + log_var + (z - mean).square() * torch.exp(-log_var)).sum(-1)


def fit(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """log p(x | z), summed over pixels."""
    losses = functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    return -losses.sum(-1)


class IWAE(nn.Module):
    """Burda et al.'s networks; returns the mean negative bound of k samples."""

    def __init__(self, k: int, layers: int):
        super().__init__()
        self.k, self.layers = k, layers
        lower = 50 if layers == 1 else 100
        self.encoder = Normal(tanh(784, 200, 200), 200, lower)
        self.decoder = nn.Sequential(tanh(lower, 200, 200), nn.Linear(200, 784))
        if layers == 2:
            self.top_encoder, self.top_decoder = (
                Normal(tanh(100, 100, 100), 100, 50),
                Normal(tanh(50, 100, 100), 100, 100),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, log_var = (part.expand(self.k, *part.shape) for part in self.encoder(x))
        z = drawn(mean, log_var)
        log_w = fit(self.decoder(z), x) - density(z, mean, log_var)
        if self.layers == 2:
            top = self.top_encoder(z)
            z2 = drawn(*top)
            log_w = log_w + density(z, *self.top_decoder(z2)) - density(z2, *top)
            z = z2
        log_w = log_w + density(z, 0.0, torch.zeros_like(z))
        return -(torch.logsumexp(log_w, 0) - math.log(self.k)).mean()


class Fashion(nn.Module):
    """Tomczak and Welling's networks; returns the mean negative ELBO."""

    def __init__(self, two_layers: bool, width: int = 300, latents: int = 40, pseudo_inputs: int = 500):
        super().__init__()
        chain = lambda before: nn.Sequential(Gated(before, width), Gated(width, width))
        self.two_layers = two_layers
        self.encoder = Normal(chain(784), width, latents, clipped=True)
        if two_layers:
            self.q_x, self.q_z, self.p_z, self.p_top = (Gated(n, width) for n in (784, latents, latents, latents))
            self.low = Normal(Gated(2 * width, width), width, latents, clipped=True)
            self.top = Normal(chain(latents), width, latents, clipped=True)
            self.decoder = nn.Sequential(Gated(2 * width, width), nn.Linear(width, 784))
            self.pseudo = nn.Parameter(0.05 + 0.01 * torch.randn(pseudo_inputs, 784))
        else:
            self.decoder = nn.Sequential(chain(latents), nn.Linear(width, 784))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        posterior = self.encoder(x)
        z = drawn(*posterior)
        if not self.two_layers:
            rate = density(z, *posterior) - density(z, 0.0, torch.zeros_like(z))
            return (rate - fit(self.decoder(z), x)).mean()
        low = self.low(torch.cat([self.q_x(x), self.q_z(z)], 1))
        z1 = drawn(*low)
        mean, log_var = self.encoder(self.pseudo.clamp(0.0, 1.0))
        each = density(z[:, None], mean[None], log_var[None])
        log_prior = torch.logsumexp(each, 1) - math.log(len(mean))
        rate = density(z, *posterior) - log_prior + density(z1, *low) - density(z1, *self.top(z))
        return (rate - fit(self.decoder(torch.cat([self.p_z(z1), self.p_top(z)], 1)), x)).mean()


def update(row: str, variant: str):
    """One update: draw, binarize, descend."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    batch, fields, is_iwae = ROWS[row].batch, ROWS[row].fields, ROWS[row].experiment == "iwae_mnist"
    model = IWAE(fields["k"], fields.get("layers", 1)) if is_iwae else Fashion(fields.get("layers", 1) == 2)
    rate, eps = (1e-3, 1e-4 / batch) if is_iwae else (5e-4, 1e-8)
    optimizer = torch.optim.Adam(model.parameters(), rate, eps=eps, fused=True)
    data = torch.from_numpy(images()).reshape(-1, 784)[: 59_600 if is_iwae else 50_000]
    loss = torch.compile(model) if variant == "compiled" else model
    order, position = torch.randperm(len(data)), 0

    def descend(x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(x)
        value.backward()
        if not is_iwae:
            gradients = [p.grad for p in model.parameters()]
            torch._foreach_div_(gradients, torch._foreach_add(torch._foreach_norm(gradients), 1e-7))
        optimizer.step()
        return value

    whole = torch.compile(descend) if variant == "compiled-step" else descend

    def step() -> torch.Tensor:
        nonlocal order, position
        if position + batch > len(data):
            order, position = torch.randperm(len(data)), 0
        chosen = order[position : position + batch]
        position += batch
        return whole(torch.bernoulli(data[chosen].float().div_(255.0)))

    return step


def main() -> None:
    """Arguments: the row and the variant."""
    workers.serve_steps(update(*sys.argv[1:]))


if __name__ == "__main__":
    main()

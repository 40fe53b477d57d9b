"""A worker of unet_steps.py: diffusers' UNet2DModel of the same widths, trained and sampled in PyTorch."""

import os
import sys
from collections.abc import Callable

import numpy as np
import torch
import workers
from torch.nn import functional
from unet_steps import BLOCKS, COLOURS, FIRST, ROWS, SIDE, Setting, images, process, times


def network(setting: Setting) -> torch.nn.Module:
    """UNet2DModel; heads of 64 channels, groups of 4, scale and shift, as in genjax's."""
    from diffusers import UNet2DModel

    kinds = ["Attn" if i == setting.attention else "" for i in range(len(setting.multipliers))]
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=COLOURS,
        out_channels=COLOURS,
        block_out_channels=tuple(setting.width * m for m in setting.multipliers),
        layers_per_block=BLOCKS,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=min(64, setting.width),
        norm_num_groups=max(1, setting.width // 4),
        resnet_time_scale_shift="scale_shift",
    )


def parameter_count(model: torch.nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in model.parameters())


def updater(setting: Setting, model: torch.nn.Module, data: np.ndarray, variant: str) -> Callable[[], torch.Tensor]:
    """One update: draw, add noise, descend."""
    last = torch.channels_last if "channels-last" in variant else torch.contiguous_format
    noise_of = torch.compile(model) if variant.startswith("compiled") else model
    optimizer = torch.optim.Adam(model.parameters(), 2e-4, fused=True)
    resident = torch.from_numpy(data).permute(0, 3, 1, 2).contiguous()
    order, position = torch.randperm(len(resident)), 0

    def step() -> torch.Tensor:
        nonlocal order, position
        if position + setting.batch > len(resident):
            order, position = torch.randperm(len(resident)), 0
        chosen = order[position : position + setting.batch]
        position += setting.batch
        x = (resident[chosen].float() / 127.5 - 1.0).contiguous(memory_format=last)
        t = FIRST + (1.0 - FIRST) * torch.rand(len(x))
        alpha, sigma = (torch.from_numpy(part).float()[:, None, None, None] for part in process(t.double().numpy()))
        noise = torch.randn_like(x)
        optimizer.zero_grad(set_to_none=True)
        value = functional.mse_loss(noise_of(alpha * x + sigma * noise, 1000.0 * t).sample, noise)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


@torch.no_grad()
def ddim(noise_of: Callable[[torch.Tensor, float], torch.Tensor], steps: int, z: torch.Tensor) -> torch.Tensor:
    """A sampling of so many steps, from z at t = 1 to the data."""
    grid = times(steps)
    alpha, sigma = process(grid)
    next_alpha, next_sigma = np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    for i, t in enumerate(grid):
        eps = noise_of(z, float(t))
        x = (z - float(sigma[i]) * eps) / float(alpha[i])
        z = float(next_alpha[i]) * x + float(next_sigma[i]) * eps
    return z


def sampler(setting: Setting, model: torch.nn.Module, variant: str) -> Callable[[], torch.Tensor]:
    """One sampling, and the mean of its pixels."""
    last = torch.channels_last if "channels-last" in variant else torch.contiguous_format
    called = torch.compile(model.eval()) if variant.startswith("compiled") else model.eval()
    noise_of = lambda z, t: called(z, torch.full((len(z),), 1000.0 * t)).sample

    def step() -> torch.Tensor:
        z = torch.randn(setting.batch, COLOURS, SIDE, SIDE).contiguous(memory_format=last)
        return ddim(noise_of, setting.steps, z).mean()

    return step


def main() -> None:
    """Arguments: the row and the variant."""
    setting, variant = ROWS[sys.argv[1]], sys.argv[2]
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = network(setting)
    if "channels-last" in variant:
        model = model.to(memory_format=torch.channels_last)
    step = updater(setting, model, images(), variant) if setting.training else sampler(setting, model, variant)
    workers.serve_steps(step, parameters=parameter_count(model))


if __name__ == "__main__":
    main()

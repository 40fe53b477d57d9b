"""A worker of gpt_steps.py: the same GPT in PyTorch, in the variants that PyTorch's users choose from."""

import math
import os
import sys

import torch
import workers
from gpt_steps import ROWS, VOCABULARY, Setting, text
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Attention and a multilayer perceptron, each behind its norm, each added."""

    def __init__(self, setting: Setting):
        super().__init__()
        width, self.heads, self.rate = setting.width, setting.heads, setting.dropout
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv, self.mix = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.drop = nn.Dropout(setting.dropout)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        rows, length, width = h.shape
        parts = self.qkv(self.attention_norm(h)).split(width, dim=2)
        q, k, v = (part.view(rows, length, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.rate, is_causal=True)
        h = h + self.drop(self.mix(mixed.transpose(1, 2).reshape(rows, length, width)))
        return h + self.drop(self.down(functional.gelu(self.up(self.mlp_norm(h)), approximate="tanh")))


class GPT(nn.Module):
    """Returns the mean loss of rows of tokens."""

    def __init__(self, setting: Setting):
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, setting.width)
        self.place = nn.Embedding(setting.context, setting.width)
        self.blocks = nn.ModuleList(Block(setting) for _ in range(setting.layers))
        self.norm, self.drop = nn.LayerNorm(setting.width, bias=False), nn.Dropout(setting.dropout)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                added = name.endswith(("mix.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * setting.layers) if added else 1.0))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        tokens, targets = rows[:, :-1], rows[:, 1:]
        h = self.drop(self.token(tokens) + self.place.weight[: tokens.shape[1]])
        for block in self.blocks:
            h = block(h)
        logits = functional.linear(self.norm(h), self.token.weight)
        return functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))


def update(setting: Setting, variant: str):
    """One update: draw, descend."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = GPT(setting)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-3, betas=(0.9, 0.95), fused=True)
    loss = torch.compile(model) if variant == "compiled" else model
    data, offsets = torch.from_numpy(text()), torch.arange(setting.context + 1)

    def descend(rows: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(rows)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value

    whole = torch.compile(descend) if variant == "compiled-step" else descend

    def step() -> torch.Tensor:
        starts = torch.randint(len(data) - setting.context, (setting.batch, 1))
        return whole(data[starts + offsets].long())

    return step


def main() -> None:
    """Arguments: the row and the variant."""
    workers.serve_steps(update(ROWS[sys.argv[1]], sys.argv[2]))


if __name__ == "__main__":
    main()

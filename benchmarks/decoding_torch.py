"""A worker of decoding.py: the same GPT in PyTorch, with a cache of its own."""

import os
import sys

import torch
import torch._inductor.config as inductor
import workers
from gpt_steps import ROWS, VOCABULARY, Setting
from gpt_torch import GPT, Block
from torch.nn import functional


class Decoder(torch.nn.Module):
    """One token a row at a position -> one drawn token a row; keys and values of each layer are allocated once."""

    def __init__(self, setting: Setting, batch: int, sliced: bool):
        super().__init__()
        self.net, self.sliced = GPT(setting), sliced
        shape = (batch, setting.heads, setting.context, setting.width // setting.heads)
        self.keys = [torch.zeros(shape) for _ in range(setting.layers)]
        self.values = [torch.zeros(shape) for _ in range(setting.layers)]
        self.places = torch.arange(setting.context)

    def forward(self, tokens: torch.Tensor, position) -> torch.Tensor:
        h = self.net.token(tokens) + self.net.place.weight[position].view(1, -1)
        for block, keys, values in zip(self.net.blocks, self.keys, self.values, strict=True):
            h = h + self.attended(block, block.attention_norm(h), keys, values, position)
            h = h + block.down(functional.gelu(block.up(block.mlp_norm(h)), approximate="tanh"))
        logits = functional.linear(self.net.norm(h), self.net.token.weight)
        shares = torch.softmax(logits, dim=-1)
        return torch.argmax(shares / torch.empty_like(shares).exponential_(1.0), dim=-1)  # a draw, without a search

    def attended(self, block: Block, x: torch.Tensor, keys, values, position) -> torch.Tensor:
        """x [B, C] attends to what the cache holds up to its own position, which is written first."""
        q, k, v = (part.view(len(x), block.heads, 1, -1) for part in block.qkv(x).split(x.shape[1], dim=1))
        if self.sliced:
            keys[:, :, position : position + 1], values[:, :, position : position + 1] = k, v
            seen = functional.scaled_dot_product_attention(q, keys[:, :, : position + 1], values[:, :, : position + 1])
        else:
            keys.index_copy_(2, position, k)
            values.index_copy_(2, position, v)
            mask = (self.places <= position).view(1, 1, 1, -1)
            seen = functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return block.mix(seen.reshape(len(x), -1))


def main() -> None:
    """Arguments: the network, rows of the batch, the variant."""
    setting, batch, variant = ROWS[sys.argv[1]], int(sys.argv[2]), sys.argv[3]
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sliced = variant in ("eager", "compiled-slice")
    decoder = Decoder(setting._replace(dropout=0.0), batch, sliced).eval()
    inductor.freezing = variant == "compiled-frozen"
    step = decoder if variant == "eager" else torch.compile(decoder, dynamic=True if sliced else None)
    positions = [i if sliced else torch.tensor([i]) for i in range(setting.context - 1)]

    @torch.no_grad()
    def train(updates: int) -> bool:
        for _ in range(updates):
            drawn = [torch.zeros(batch, dtype=torch.long)]
            for position in positions:
                drawn.append(step(drawn[-1], position))
            tokens = torch.stack(drawn, dim=1)
        return len(tokens.unique()) > 10 and 0 <= int(tokens.min()) <= int(tokens.max()) < VOCABULARY

    train(1)
    workers.serve(train)


if __name__ == "__main__":
    main()

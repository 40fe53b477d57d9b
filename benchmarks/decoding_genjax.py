"""A worker of decoding.py: genjax's GPT and its generation, as `genjax sample` compiles them."""

import sys

import jax
import numpy as np
import workers
from gpt_steps import ROWS, VOCABULARY

from genjax.models.transformer import GPT
from genjax.samplers.choosing import draw
from genjax.samplers.decode import generate


def main() -> None:
    """Arguments: the network, rows of the batch."""
    setting, batch = ROWS[sys.argv[1]], int(sys.argv[2])
    sizes = {"layers": setting.layers, "heads": setting.heads, "width": setting.width, "context": setting.context}
    net = GPT(VOCABULARY, **sizes, bias=False)
    prompts, lengths = np.zeros((batch, 1), np.int32), np.ones(batch, np.int32)
    params = jax.jit(net.init)(jax.random.key(0), prompts)
    run = jax.jit(lambda params, key: generate(net.decoder(params), prompts, lengths, key, setting.context, draw)[0])
    number = 0

    def train(updates: int) -> bool:
        nonlocal number
        for _ in range(updates):
            number += 1
            tokens = run(params, jax.random.key(number))
        tokens = np.asarray(tokens)
        return len(np.unique(tokens)) > 10 and 0 <= tokens.min() <= tokens.max() < VOCABULARY

    train(1)
    workers.serve(train)


if __name__ == "__main__":
    main()

"""A worker of rbm_steps.py: the same machines in PyTorch, without autograd, and those of the package `rbms`.

Learners change the arrays of the machine that they begin with.
"""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import workers
from rbm_steps import BATCH, HIDDEN, LEARNING_RATE, ROWS, TEMPERATURES, WALKS, Machine, Row, bits, first

Step = Callable[[], torch.Tensor]


def shuffled(data: torch.Tensor, rows: int) -> Iterator[torch.Tensor]:
    """Batches of uint8 rows, epoch after epoch."""
    while True:
        yield from torch.randperm(len(data))[: len(data) // rows * rows].view(-1, rows).unbind()


def torch_learner(row: Row, data: torch.Tensor, begin: Machine, batch: int, rate: float, compiled: bool) -> Step:
    """The update of rbm_peers.py: persistent chains live on as hidden units, both phases are one product."""
    w, b, c = (torch.from_numpy(x) for x in begin[:3])
    chains, order = torch.zeros(batch, len(c)), shuffled(data, batch)

    def update(v: torch.Tensor) -> torch.Tensor:
        h_mean = torch.sigmoid(torch.addmm(c, v, w))
        h = chains if row.persistent else torch.bernoulli(h_mean)
        for i in range(row.k):
            v_model = torch.bernoulli(torch.sigmoid(torch.addmm(b, h, w.T)))
            h_model = torch.sigmoid(torch.addmm(c, v_model, w))
            if row.persistent or i < row.k - 1:
                h = torch.bernoulli(h_model)
        if row.persistent:
            chains.copy_(h)
        both_h = torch.cat([h_mean, -h_model])
        w.addmm_(torch.cat([v, v_model]).T, both_h, alpha=rate / batch)
        b.add_(v.sum(0) - v_model.sum(0), alpha=rate / batch)
        c.add_(both_h.sum(0), alpha=rate / batch)
        return c[0]

    whole = torch.compile(update) if compiled else update
    return lambda: whole(data[next(order)].float())


def rbms_machine(begin: Machine) -> Any:
    """The package's own machine."""
    from rbms.bernoulli_bernoulli.classes import BBRBM

    return BBRBM(*(torch.from_numpy(x) for x in (begin.w, begin.b, begin.c)))


def rbms_learner(row: Row, data: torch.Tensor, begin: Machine, batch: int, rate: float) -> Step:
    """What the loop of the package's `train` does with a batch."""
    from rbms.training.pcd import fit_batch_pcd

    model, order, even = rbms_machine(begin), shuffled(data, batch), torch.ones(batch)
    model.init_grad()
    optimizer = torch.optim.SGD(model.parameters(), rate, maximize=True)
    chains = model.init_chains(batch)

    def step() -> torch.Tensor:
        nonlocal chains
        v = data[next(order)].float()
        if not row.persistent:
            chains = model.init_chains(batch, weights=even, start_v=v)
        optimizer.zero_grad(set_to_none=False)
        chains, _ = fit_batch_pcd((v, even), chains, model, row.k, 1.0, centered=False)
        optimizer.step()
        return model.hbias[0]

    return step


def rbms_annealing(begin: Machine, walks: int, count: int) -> float:
    """The package's estimate of log Z; its walks begin at p(v) of W = 0, c = 0."""
    from rbms.partition_function.ais import compute_partition_function_ais

    return compute_partition_function_ais(walks, count + 1, rbms_machine(begin))


def main() -> None:
    """Arguments: the row; "torch", "torch-compiled" or "rbms"."""
    row, name = ROWS[sys.argv[1]], sys.argv[2]
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    stored = bits()[:50_000]
    data, begin = torch.from_numpy(stored), first(stored, HIDDEN, 0.05 if row.annealing else 0.01)
    if row.annealing:
        step = lambda: rbms_annealing(begin, WALKS, TEMPERATURES)
    elif name == "rbms":
        step = rbms_learner(row, data, begin, BATCH, LEARNING_RATE)
    else:
        step = torch_learner(row, data, begin, BATCH, LEARNING_RATE, name == "torch-compiled")
    with torch.no_grad():
        workers.serve_steps(step)


if __name__ == "__main__":
    main()

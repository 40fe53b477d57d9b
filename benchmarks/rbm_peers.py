"""A worker of rbm_steps.py: restricted Boltzmann machines in NumPy, written for speed, and scikit-learn's.

Learners change the arrays of the machine that they begin with.
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterator

import numpy as np
import workers
from rbm_steps import BATCH, HIDDEN, LEARNING_RATE, ROWS, TEMPERATURES, WALKS, Machine, Row, bits, first

Step = Callable[[], float]


def shuffled(data: np.ndarray, rows: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of uint8 rows, epoch after epoch."""
    while True:
        order = draw.permutation(len(data))
        for begin in range(0, len(data) - rows + 1, rows):
            yield data[order[begin : begin + rows]]


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), in place."""
    np.negative(x, out=x)
    np.exp(x, out=x)
    x += 1
    return np.reciprocal(x, out=x)


def numpy_learner(row: Row, data: np.ndarray, begin: Machine, batch: int, rate: float) -> Step:
    """An update in place.  Both phases share one array, so that the gradient of W is one product; persistent chains
    live on as hidden units, which the next update need not draw again."""
    w, b, c, _ = begin
    draw = np.random.default_rng(0)
    batches, (visible, hidden) = shuffled(data, batch, draw), w.shape
    both_v, both_h = (np.empty((2 * batch, n), np.float32) for n in (visible, hidden))
    v, v_model, h_mean, h_model = both_v[:batch], both_v[batch:], both_h[:batch], both_h[batch:]
    h, noise_v, noise_h = (np.zeros((batch, n), np.float32) for n in (hidden, visible, hidden))
    gradient = np.empty_like(w)

    def means(x: np.ndarray, w: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
        np.matmul(x, w, out=out)
        out += bias
        logistic(out)

    def drawn(mean: np.ndarray, noise: np.ndarray, out: np.ndarray) -> None:
        draw.random(out=noise, dtype=np.float32)
        np.less(noise, mean, out=out, casting="unsafe")

    def step() -> float:
        np.copyto(v, next(batches))
        means(v, w, c, h_mean)
        if not row.persistent:
            drawn(h_mean, noise_h, h)
        for i in range(row.k):
            means(h, w.T, b, v_model)
            drawn(v_model, noise_v, v_model)
            means(v_model, w, c, h_model)
            if row.persistent or i < row.k - 1:
                drawn(h_model, noise_h, h)
        np.negative(h_model, out=h_model)
        np.matmul(both_v.T, both_h, out=gradient)
        np.multiply(gradient, rate / batch, out=gradient)
        np.add(w, gradient, out=w)
        np.add(b, rate / batch * (v.sum(0) - v_model.sum(0)), out=b)
        np.add(c, rate / batch * both_h.sum(0), out=c)
        return float(c[0])

    return step


def numpy_annealing(begin: Machine, walks: int, count: int, draw: np.random.Generator) -> float:
    """An estimate of log Z; v W serves both free energies and the next Gibbs step, and one logarithm their difference:
    with x = beta a, log (1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))."""
    w, b, c, base = begin
    uniform = lambda shape: draw.random(shape, dtype=np.float32)
    v = (uniform((walks, len(b))) < logistic(base.copy())).astype(np.float32)
    log_w, betas = np.zeros(walks), np.linspace(0, 1, count + 1, dtype=np.float32)
    for last, beta in itertools.pairwise(betas):
        a = v @ w
        a += c
        size = np.abs(a)
        old, new = np.exp(-last * size), np.exp(-beta * size)
        old += 1
        new += 1
        change = np.log(new / old)
        change += (beta - last) * np.maximum(a, 0)
        log_w += change.sum(1) + (beta - last) * (v @ (b - base))
        a *= beta
        h = (uniform(a.shape) < logistic(a)).astype(np.float32)
        g = h @ w.T
        g *= beta
        g += (1 - beta) * base + beta * b
        v = (uniform(g.shape) < logistic(g)).astype(np.float32)
    most = log_w.max()
    start = np.logaddexp(0, base.astype(float)).sum() + len(c) * math.log(2)
    return float(start + most + math.log(np.exp(log_w - most).mean()))


def sklearn_learner(data: np.ndarray, begin: Machine, batch: int, rate: float) -> Step:
    """BernoulliRBM's own update of one batch, in float32."""
    from sklearn.neural_network import BernoulliRBM

    model = BernoulliRBM(len(begin.c), learning_rate=rate, batch_size=batch, n_iter=0, random_state=0)
    model.fit(data[:batch].astype(np.float32))
    model.components_, model.intercept_visible_, model.intercept_hidden_ = begin.w.T, begin.b, begin.c
    batches, draw = shuffled(data, batch, np.random.default_rng(0)), np.random.RandomState(0)

    def step() -> float:
        model._fit(next(batches).astype(np.float32), draw)
        return float(model.intercept_hidden_[0])

    return step


def products(row: Row) -> Step:
    """The matrix products of an update, and nothing else."""
    draw = np.random.default_rng(0)
    v, h = (draw.integers(0, 2, (2 * BATCH, n)).astype(np.float32) for n in (784, HIDDEN))
    w = draw.normal(size=(784, HIDDEN)).astype(np.float32)
    few_v, few_h, up, down, gradient = v[:BATCH], h[:BATCH], h[:BATCH].copy(), v[:BATCH].copy(), w.copy()

    def step() -> float:
        for _ in range(row.k):
            np.matmul(few_v, w, out=up)
            np.matmul(few_h, w.T, out=down)
        if not row.annealing:
            np.matmul(few_v, w, out=up)
            np.matmul(v.T, h, out=gradient)
        return 0.0

    return step


def main() -> None:
    """Arguments: the row; "numpy", "sklearn" or "products-numpy"."""
    row, name, data = ROWS[sys.argv[1]], sys.argv[2], bits()[:50_000]
    draw = np.random.default_rng(0)
    if name == "products-numpy":
        step = products(row)
    elif row.annealing:
        begin = first(data, HIDDEN, 0.05)
        step = lambda: numpy_annealing(begin, WALKS, TEMPERATURES, draw)
    elif name == "sklearn":
        step = sklearn_learner(data, first(data, HIDDEN, 0.01), BATCH, LEARNING_RATE)
    else:
        step = numpy_learner(row, data, first(data, HIDDEN, 0.01), BATCH, LEARNING_RATE)
    workers.serve_steps(step)


if __name__ == "__main__":
    main()

"""The benchmark of restricted Boltzmann machines: its peers learn, and estimate log Z, as they should."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from planted import rejects

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
STATES = (np.arange(2**8)[:, None] >> np.arange(8) & 1).astype(float)
FLIPPED = np.random.default_rng(0).random((4_000, 8)) < 0.1
DATA = (np.repeat(STATES[[15, 240, 51, 204]], 1_000, axis=0) != FLIPPED).astype(np.uint8)  # four patterns and noise


@pytest.fixture(scope="module")
def load():
    """Modules of the benchmarks by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def log_weights(begin):
    """-F(v) of all states, float64."""
    w, b, c = (x.astype(float) for x in begin[:3])
    return STATES @ b + np.logaddexp(0, c + STATES @ w).sum(1)


def check_learns(load, make, name):
    """The divergence from the data, 1.7 nats for independent units, falls below 0.15."""
    steps = load("rbm_steps")
    row, begin = steps.ROWS[name], steps.first(DATA, 6, 0.1)
    step = make(row, DATA, begin, 100, 0.02)
    for _ in range(4_000):
        step()
    shares = np.bincount(DATA @ 2 ** np.arange(8), minlength=256) / len(DATA)
    every = log_weights(begin)
    assert scipy.special.logsumexp(every) - shares @ every - scipy.special.entr(shares).sum() < 0.15


def torch_make(load, name):
    torch = pytest.importorskip("torch")
    if name == "rbms":
        pytest.importorskip("rbms")
    module = load("rbm_torch")
    torch.manual_seed(0)

    def make(row, data, begin, batch, rate):
        data = torch.from_numpy(data)
        if name == "rbms":
            return module.rbms_learner(row, data, begin, batch, rate)
        return module.torch_learner(row, data, begin, batch, rate, False)

    return make


def makers(load, name):
    peers = load("rbm_peers")
    if name == "sklearn":
        return lambda row, *rest: peers.sklearn_learner(*rest)
    return peers.numpy_learner if name == "numpy" else torch_make(load, name)


CASES = [("numpy", "cd10"), *((peer, row) for peer in ("numpy", "torch", "rbms") for row in ("cd1", "pcd1"))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # rbms compiles its functions by torch.jit
@pytest.mark.parametrize(("peer", "row"), [*CASES, ("sklearn", "pcd1")])
def test_peers_learn(load, peer, row):
    check_learns(load, makers(load, peer), row)


def test_learning_rejects(load):
    make = makers(load, "numpy")
    rejects(check_learns, load, lambda row, data, begin, batch, rate: make(row, data, begin, batch, 0.1 * rate), "cd1")
    rejects(check_learns, load, lambda row, data, *rest: make(row, data[:1_000], *rest), "cd1")


def check_annealing(load, anneal):
    """log Z of a machine whose states are known: within 0.1 nats."""
    steps = load("rbm_steps")
    begin = steps.first(DATA, 6, 1.0)
    assert abs(anneal(begin, 200, 300) - scipy.special.logsumexp(log_weights(begin))) < 0.1


def annealers(load, name):
    if name == "numpy":
        return lambda *given: load("rbm_peers").numpy_annealing(*given, np.random.default_rng(0))
    if name == "genjax":
        return lambda *given: load("rbm_genjax").annealing(*given)(0)
    pytest.importorskip("torch").manual_seed(0)
    pytest.importorskip("rbms")
    return load("rbm_torch").rbms_annealing


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("peer", ["numpy", "genjax", "rbms"])
def test_peers_anneal(load, peer):
    check_annealing(load, annealers(load, peer))


def test_annealing_rejects(load):
    anneal = annealers(load, "numpy")
    rejects(check_annealing, load, lambda begin, *given: anneal(begin._replace(w=0.9 * begin.w), *given))
    rejects(check_annealing, load, lambda begin, *given: anneal(begin._replace(c=begin.c + 0.1), *given))


def test_who_does_what(load):
    steps = load("rbm_steps")
    does = {row: [name for name in steps.PEERS if steps.chosen(steps.ROWS[row], name)] for row in steps.ROWS}
    plain = {row: [name for name in names if not name.endswith(steps.AVX512)] for row, names in does.items()}
    assert plain["cd1"] == plain["cd10"] == ["numpy", "rbms", "torch", "torch-compiled"]
    assert plain["pcd1"] == ["numpy", "sklearn", "rbms", "torch", "torch-compiled"]
    assert plain["ais"] == ["numpy", "rbms"]


def test_the_floor_is_the_fastest_products(load):
    steps, workers = load("rbm_steps"), load("workers")
    seconds = {"genjax": [0.003, 0.004], "products-jax": [0.002, 0.002], "products-numpy": [0.004, 0.001]}
    times = {name: [workers.Times(t, t) for t in found] for name, found in seconds.items()}
    assert steps.floor("cd1", times) == [
        f"{'cd1':17} genjax / floor: 1.75 (ms of the products: jax 2.000, numpy 2.500)"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("row", ["cd1", "ais"])
def test_the_smallest_run(row):
    command = [sys.executable, str(BENCHMARKS / "rbm_steps.py"), row]
    command += ["--rounds", "1", "--scale", "0.01", "--peers", "numpy"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "genjax / numpy: " in told and "genjax / floor: " in told

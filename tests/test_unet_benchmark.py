"""The benchmark of the U-Net: both sides do the same work, and what is said of it is what was measured."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.corruption.gaussian import draw_last
from genjax.experiment import parameter_count

BENCHMARKS, KEY = Path(__file__).parent.parent / "benchmarks", jax.random.key(0)


@pytest.fixture(scope="module")
def load():
    """Modules of the benchmarks by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def torch_side(load):
    """The other side, where PyTorch and diffusers are installed."""
    pytest.importorskip("diffusers")
    pytest.importorskip("torch").manual_seed(0)
    return load("unet_torch")


def check_process(found, process):
    t = np.linspace(process.first, process.last, 50)
    np.testing.assert_allclose(found(t), (process.alpha(t), process.sigma(t)), rtol=1e-12)


def test_the_noise_is_the_same(load):
    found, process = load("unet_steps").process, load("unet_genjax").PROCESS
    check_process(found, process)
    rejects(check_process, lambda t: found(1.001 * t), process)
    assert load("unet_steps").times(5)[[0, -1]].tolist() == [process.last, process.first]


def check_sampling(sampling, load):
    """DDIM with what predicts the noise in data N(0.3, 0.25), from the same beginning."""
    ours, numbers = load("unet_genjax"), load("unet_steps")

    def noise(z, t):
        alpha, sigma = numbers.process(np.float64(t))
        return float(sigma) * (z - 0.3 * float(alpha)) / float(alpha**2 * 0.25 + sigma**2)

    def traced(z, t):
        alpha, sigma = ours.PROCESS.alpha(t)[:, None], ours.PROCESS.sigma(t)[:, None]
        return sigma * (z - 0.3 * alpha) / (alpha**2 * 0.25 + sigma**2)

    z = draw_last(ours.PROCESS, jax.random.split(KEY)[0], (6, 2))
    drawn = ours.drawn(traced, 7, KEY, (6, 2))
    np.testing.assert_allclose(sampling(noise, 7, np.asarray(z)), drawn, atol=1e-4)


def test_sampling_is_the_same(load, torch_side):
    torch = pytest.importorskip("torch")
    sampling = lambda noise, steps, z: torch_side.ddim(noise, steps, torch.from_numpy(z.copy())).numpy()
    check_sampling(sampling, load)
    rejects(check_sampling, lambda noise, steps, z: sampling(noise, steps + 1, z), load)
    rejects(check_sampling, lambda noise, steps, z: sampling(lambda z, t: noise(z, 0.99 * t), steps, z), load)


def test_networks_are_of_one_size(load, torch_side):
    numbers, ours = load("unet_steps"), load("unet_genjax")
    for setting in numbers.ROWS.values():
        net, _ = ours.network(setting)
        pictures = jnp.zeros((1, numbers.SIDE, numbers.SIDE, numbers.COLOURS))
        mine = parameter_count(jax.eval_shape(net.init, KEY, pictures, jnp.zeros(1)))
        theirs = torch_side.parameter_count(torch_side.network(setting))
        assert abs(mine / theirs - 1) < 0.03, (mine, theirs)


def tiny(load):
    return load("unet_steps").Setting(True, 16, (1, 2), 1, 8)


@pytest.mark.slow
def test_genjax_learns(load):
    """Of one picture: the noise's error, 1 at first, falls below 0.5 on average over updates 101 to 200."""
    pytest.importorskip("diffusers")  # it serves the comparison alone, and compiles for a minute
    data = np.broadcast_to(load("unet_steps").images()[:1], (16, 32, 32, 3)).copy()
    train, parameters, mean = load("unet_genjax").trainer(tiny(load), data)
    assert train(100) and parameters > 0
    first = mean()
    assert train(100) and 2 * mean() - first < 0.5


@pytest.mark.slow
def test_torch_learns(load, torch_side):
    torch = pytest.importorskip("torch")
    data = np.broadcast_to(load("unet_steps").images()[:1], (16, 32, 32, 3)).copy()
    torch.manual_seed(0)
    step = torch_side.updater(tiny(load), torch_side.network(tiny(load)), data, "eager-channels-last")
    losses = [float(step()) for _ in range(200)]
    assert np.mean(losses[100:]) < 0.5 < losses[0]


def test_what_was_waited_for(load):
    peer = lambda name, spent, size: SimpleNamespace(name=name, told={"spent": spent, "parameters": size})
    numbers = load("unet_steps")
    peers = [peer("genjax", 12.0, 1_020), peer("eager", 4.0, 1_000), peer("compiled", 80.0, 1_000)]
    sizes, spent, _ = numbers.waited("train", [*peers, peer("compiled-channels-last", 60.0, 1_000)])
    assert sizes.endswith("parameters: genjax 1,020, eager 1,000 (+2.0%)")
    assert spent.endswith("compiled 80.0, compiled-channels-last 60.0: genjax / compiled 0.20")
    assert numbers.waited("train", peers[:2])[1].endswith("genjax 12.0, eager 4.0")


@pytest.mark.slow
def test_the_smallest_run():
    pytest.importorskip("diffusers")
    command = [sys.executable, str(BENCHMARKS / "unet_steps.py"), "sample_16", "--rounds", "1", "--peers", "eager"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "genjax / eager: " in told and "parameters: genjax" in told

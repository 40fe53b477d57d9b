"""The benchmark of GANs: both sides are the same networks and losses, and each does what its row asks for."""

import functools
import importlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import rejects

from genjax.types import State

BENCHMARKS, KEY = Path(__file__).parent.parent / "benchmarks", jax.random.key(0)


@pytest.fixture(scope="module")
def load():
    """Modules of the benchmarks by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_what_each_row_asks_for(load):
    steps = load("gan_steps")
    assert steps.chosen(steps.ROWS["dcgan"], steps.TORCH) == list(steps.TORCH)
    assert steps.chosen(steps.ROWS["dcgan_r1"], steps.TORCH) == ["eager", "eager-channels-last"]


def test_images(load):
    """Three digits in a dark frame; each colour is one of the images that other rows learn from."""
    pictures, grey = load("gan_steps").pictures(), load("train_steps").images()
    assert pictures.shape == (20_000, 32, 32, 3) and pictures[:, :2].max() == 0 == pictures[:, :, -2:].max()
    np.testing.assert_array_equal(pictures[7, 2:-2, 2:-2, 1], grey[22, :, :, 0])


def moved(torch, module, kernel, bias):
    """A layer of Flax in PyTorch's form: transposed kernels are turned, channels come first."""
    kernel = np.asarray(kernel)
    if kernel.ndim == 2:
        kernel = kernel.T
    elif isinstance(module, torch.nn.ConvTranspose2d):
        kernel = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
    else:
        kernel = kernel.transpose(3, 2, 0, 1)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.array(kernel)))
        module.bias.copy_(torch.from_numpy(np.array(bias)))


@functools.cache
def own_side(load, gamma):
    """genjax's parameters, losses and gradients at some images and latents."""
    ours = load("gan_genjax")
    rng = np.random.default_rng(0)
    z, image = rng.normal(size=(8, ours.LATENTS)), rng.random((8, *ours.SHAPE))
    shapes = jax.eval_shape(ours.init, KEY, {"image": image})
    params = jax.tree.map(lambda x: rng.normal(size=x.shape) / max(np.prod(x.shape[:-1]), 9) ** 0.5, shapes)
    game = ours.game(gamma, lambda key, n: jnp.asarray(z))
    mean = lambda loss: lambda p, params, x: jnp.mean(loss(p, State(0, params), {"image": x}, KEY).loss)
    losses = {"critic": game.critic, "generator": game.generator}
    with jax.enable_x64(True):
        own = [jax.jit(jax.value_and_grad(mean(loss)))(params[name], params, image) for name, loss in losses.items()]
        assert own[0][0].dtype == jnp.float64
        own = [(float(value), float(optax.tree.norm(slope))) for value, slope in own]
    return params, own, z, image


def sides(load, gamma):
    """Losses and gradients of both sides at the same parameters, images and latents."""
    torch = pytest.importorskip("torch")
    theirs, (params, own, z, image) = load("gan_torch"), own_side(load, gamma)
    losses = theirs.Losses(theirs.Generator(), theirs.Critic(), gamma).double()
    g, c = params["generator"]["params"], params["critic"]["params"]
    places = {
        losses.generator.dense: g["Dense_0"],
        losses.generator.middle: g["ConvTranspose_0"],
        losses.generator.last: g["ConvTranspose_1"],
        losses.critic.first: c["Conv_0"],
        losses.critic.second: c["Conv_1"],
        losses.critic.dense: c["Dense_0"],
        losses.critic.psi: c["psi"],
    }
    for module, layer in places.items():
        moved(torch, module, layer["kernel"], layer["bias"])
    return torch, params, own, losses, torch.from_numpy(z), torch.from_numpy(image)


def check_same(load, gamma, change=lambda losses: None):
    """As many parameters, the same losses and norms of gradients; float64, as roundings pass a rectifier's kink."""
    torch, params, own, losses, z, image = sides(load, gamma)
    assert sum(x.size for x in jax.tree.leaves(params)) == sum(p.numel() for p in losses.parameters())
    change(losses)
    x = (2 * image - 1).permute(0, 3, 1, 2).requires_grad_(gamma > 0)
    values = losses.of_critic(x, z), losses.of_generator(z)
    for (value, slope), found, network in zip(own, values, (losses.critic, losses.generator), strict=True):
        assert value == pytest.approx(float(found.detach()), rel=1e-6)
        theirs = torch.autograd.grad(found, list(network.parameters()), materialize_grads=True, allow_unused=True)
        assert slope == pytest.approx(float(sum(part.square().sum() for part in theirs)) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_both_sides_are_the_same(load, gamma):
    check_same(load, gamma)


def test_sameness_rejects(load):
    torch = pytest.importorskip("torch")
    rejects(check_same, load, 0.1, lambda losses: setattr(losses, "gamma", 0.2))
    rejects(check_same, load, 0.0, lambda losses: setattr(losses.generator, "norm", torch.nn.ReLU()))
    rejects(check_same, load, 0.0, lambda losses: setattr(losses.critic.first, "padding", (3, 3)) or _cut(losses))


def _cut(losses):
    """Wider padding, whose outermost pixels are cut off: the same sizes, two pixels away."""
    losses.critic.first.register_forward_hook(lambda module, given, h: h[:, :, :16, :16])


@pytest.mark.parametrize("variant", ["eager", "eager-channels-last"])
def test_the_peer_learns(load, variant):
    """All parameters of both networks move, losses stay finite, and the critic's parameters are left trainable."""
    torch = pytest.importorskip("torch")
    theirs = load("gan_torch")
    torch.manual_seed(0)
    losses = theirs.Losses(theirs.Generator(), theirs.Critic(), 0.1)
    data = torch.zeros((64, 3, 32, 32), dtype=torch.uint8)
    step, before = theirs.update(losses, variant, data), [p.detach().clone() for p in losses.parameters()]
    first = float(step())
    for _ in range(5):
        value = float(step())
    assert np.isfinite(value) and value != first
    assert all(not torch.equal(a, b) for a, b in zip(before, losses.parameters(), strict=True))
    assert all(p.requires_grad for p in losses.parameters())


@pytest.mark.slow
def test_the_smallest_run():
    pytest.importorskip("torch")
    command = [sys.executable, str(BENCHMARKS / "gan_steps.py"), "dcgan"]
    command += ["--rounds", "1", "--scale", "0.01", "--peers", "eager"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "genjax / eager: " in told and " parameters" in told


@pytest.mark.slow
def test_levels_are_compiled(load):
    found = load("gan_genjax").levels(1)
    assert list(found) == ["pixels_4"] and found["pixels_4"] > 0.1

"""Residual GAN networks: blocks begin as their shortcuts, values by NumPy, labels by projection; planted bugs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from planted import rejects

from genjax.errors import BadInput
from genjax.models.gan_layers import doubled, halved
from genjax.models.residual_gan import FixupBlock, ResidualCritic, ResidualGenerator

KEY = jax.random.key(0)
X, LABEL = jax.random.normal(KEY, (6, 8, 8, 3)), jnp.array([0, 1, 2, 0, 1, 2])


def by_numpy(x, resample):
    """Every pixel four times, or the mean of four, in float64."""
    x = np.asarray(x, np.float64)
    if resample == "up":
        return np.kron(x, np.ones((1, 2, 2, 1)))
    if resample == "down":
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    return x


RESAMPLES = {"up": doubled, "down": halved, "none": None}


def check_start(block_of):
    """At first a block is P resample(x) by NumPy, and x itself, bit for bit, where widths and sizes stay."""
    for name, resample in RESAMPLES.items():
        y, params = block_of(5, resample).init_with_output(KEY, X)
        p = np.asarray(params["params"]["shortcut"]["kernel"], np.float64)[0, 0]
        np.testing.assert_allclose(y, by_numpy(X, name) @ p, atol=1e-5)
        y, params = block_of(3, resample).init_with_output(KEY, X)
        assert "shortcut" not in params["params"]
        np.testing.assert_allclose(y, by_numpy(X, name), atol=1e-6)
    np.testing.assert_array_equal(y, X)


class Planted(nn.Module):
    """A block with a bug: what it does to the true block, or to its input."""

    width: int
    resample: object
    after: object = staticmethod(lambda y: y)
    before: object = staticmethod(lambda x: x)
    others: object = None

    @nn.compact
    def __call__(self, x):
        resample = self.resample if self.others is None or self.resample is None else self.others
        block = FixupBlock(self.width, resample)
        nn.share_scope(self, block)
        return self.after(block(self.before(x)))


MUTANTS = (
    {"after": lambda y: 2 * y},  # the branch begins as the shortcut
    {"after": nn.relu},
    {"before": lambda x: x[:, ::-1]},
    {"others": lambda x: jnp.asarray(x)[:, ::2, ::2]},  # every second pixel
    {"others": lambda x: jax.image.resize(x, (len(x), 16, 16, 3), "linear")},
)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_block_begins_as_its_shortcut(mutant):
    check_start(FixupBlock)
    rejects(check_start, lambda width, resample: Planted(width, resample, **mutant))


def check_values(apply, groups):
    """With W_3 drawn at random: s + W_3 a(W_2 * a(W_1 s)) by SciPy's correlation, group by group."""
    block = FixupBlock(4, halved, expansion=2, groups=groups)
    params = block.init(KEY, X)
    last = jax.random.normal(KEY, params["params"]["last"]["kernel"].shape)
    biased = jax.tree.map(lambda p: p + 0.1 * (p.ndim == 1), params["params"])
    params = {"params": {**biased, "last": {"kernel": last}}}
    w = jax.tree.map(lambda p: np.asarray(p, np.float64), params["params"])
    leaky = lambda y: np.where(y > 0, y, 0.2 * y)
    s = by_numpy(X, "down") @ w["shortcut"]["kernel"][0, 0]
    y = leaky(s @ w["first"]["kernel"][0, 0] + w["first"]["bias"])
    kernel, size = w["second"]["kernel"], 8 // groups
    plane = lambda row, d: sum(
        scipy.signal.correlate2d(row[:, :, d // size * size + c], kernel[:, :, c, d], "same") for c in range(size)
    )
    second = np.stack([np.stack([plane(row, d) for d in range(8)], axis=-1) for row in y]) + w["second"]["bias"]
    np.testing.assert_allclose(apply(block, params, X), s + leaky(second) @ w["last"]["kernel"][0, 0], atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_values(groups):
    true = lambda block, params, x: block.apply(params, x)
    check_values(true, groups)
    without = lambda block, params, x: block.apply(params, x) - true(block.copy(), no_branch(params), x)
    rejects(check_values, without, groups)
    rejects(check_values, lambda block, params, x: block.apply(halved_bias(params), x), groups)


def no_branch(params):
    own = params["params"]
    return {"params": {**own, "last": jax.tree.map(jnp.zeros_like, own["last"])}}


def halved_bias(params):
    return jax.tree.map(lambda p: p / 2 if p.ndim == 1 else p, params)


def check_scale(blocks):
    """W_1 and W_2 have deviation L^(-1/4) sqrt(2 / fan-in): products of two, L^(-1/2), of L blocks."""
    params = FixupBlock(64, blocks=blocks).init(KEY, jnp.ones((1, 4, 4, 64)))["params"]
    for name, fan_in in (("first", 64), ("second", 9 * 64)):
        assert abs(np.std(params[name]["kernel"]) / np.sqrt(2 / fan_in) - 16**-0.25) < 0.02
    assert not np.any(params["last"]["kernel"])


def test_scale_at_the_start():
    check_scale(16)
    for mutant in (1, 4, 256):
        rejects(check_scale, mutant)


def check_projection(score):
    """The label adds v_y . phi and nothing else: phi from psi's own gradient, rows of v by hand."""
    params = ResidualCritic((4, 6, 5), 7, classes=3).init(KEY, X, LABEL)
    plain, own = ResidualCritic((4, 6, 5), 7), {k: v for k, v in params["params"].items() if k != "v"}
    psi = lambda kernel: plain.apply({"params": {**own, "psi": {**own["psi"], "kernel": kernel}}}, X)
    phi = jax.jacobian(psi)(own["psi"]["kernel"])[..., 0]
    added = np.sum(phi * np.asarray(params["params"]["v"]["kernel"])[np.asarray(LABEL)], axis=1)
    np.testing.assert_allclose(score(params, X, LABEL), plain.apply({"params": own}, X) + added, atol=1e-5)
    assert np.abs(added).max() > 0.05


def test_projection():
    score = ResidualCritic((4, 6, 5), 7, classes=3).apply
    check_projection(score)
    rejects(check_projection, lambda params, x, y: score(params, x, (y + 1) % 3))
    rejects(check_projection, lambda params, x, y: score(params, x, y) + 0.1 * y)
    rejects(check_projection, lambda params, x, y: score(params, x[::-1], y))


def test_generator_sees_latents_and_labels():
    model, z = ResidualGenerator((8, 12, 2), (6, 4, 4), classes=3), jax.random.normal(KEY, (6, 5))
    params = model.init(KEY, z, LABEL)
    images = model.apply(params, z, LABEL)
    assert images.shape == (6, 8, 12, 2) and float(jnp.abs(images).max()) < 1
    moved = lambda z, label: np.abs(model.apply(params, z, label) - images).max(axis=(1, 2, 3))
    for other, row in ((moved(z, LABEL.at[0].set(1)), 0), (moved(z.at[2].add(1.0), LABEL), 2)):
        assert other[row] > 1e-3 and np.delete(other, row).max() < 1e-6  # rows do not meet


@pytest.mark.parametrize(
    ("told", "call"),
    [
        ("30 x 28", lambda: ResidualGenerator((30, 28, 1)).init(KEY, jnp.ones((2, 3)))),
        ("6 x 8", lambda: ResidualCritic().init(KEY, X[:, :6])),
        ("no labels for a network of classes = 3", lambda: ResidualCritic(classes=3).init(KEY, X)),
        ("labels for a network of classes = 0", lambda: ResidualCritic().init(KEY, X, LABEL)),
        ("3 groups of 4 channels", lambda: FixupBlock(4, groups=3).init(KEY, X)),
    ],
)
def test_bad_input(told, call):
    with pytest.raises(BadInput, match=told):
        call()

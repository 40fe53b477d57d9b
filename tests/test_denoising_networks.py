"""Networks of diffusion: untrained they say nothing, trained they see all that they are told; planted bugs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.models import level as levels
from genjax.models.group_norm import group_norm
from genjax.models.level import sinusoids
from genjax.models.points import PointDenoiser
from genjax.models.unet import PixelAttention, ResidualBlock, UNet

KEY = jax.random.key(0)
NET = UNet(8, (1, 2, 2), blocks=1, attention=(1,), classes=3, dropout=0.2)
Z, LEVEL, LABEL = jax.random.normal(KEY, (2, 8, 8, 2)), jnp.array([3.0, 700.0]), jnp.array([0, 3])


def moved(params, scale=0.3):
    """Parameters as training leaves them: nothing zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return tree.unflatten([x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


PARAMS = jax.jit(lambda key: NET.init(key, Z, LEVEL, LABEL))(KEY)
TRAINED = moved(PARAMS)
APPLY = jax.jit(lambda params, *args: NET.apply(params, *args))


def check_sinusoids(embed):
    """w_j = 10000^(-2 j / F): the table of the paper, in float64."""
    t, j = np.array([0.0, 1.0, 17.5, 999.0]), np.arange(8)
    angles = t[:, None] / 10_000 ** (2 * j / 16)
    np.testing.assert_allclose(embed(jnp.float32(t), 16), np.hstack([np.cos(angles), np.sin(angles)]), atol=1e-4)


def test_levels_as_sinusoids():
    check_sinusoids(sinusoids)
    rejects(check_sinusoids, lambda t, n: sinusoids(t, n, 1000.0))
    rejects(check_sinusoids, lambda t, n: sinusoids(t, n)[:, ::-1])


def check_group_norm(norm):
    """Against means and variances in float64 of groups of neighbours; its gradients against those of Flax's."""
    x = 3 + 2 * jax.random.normal(KEY, (2, 3, 5, 12)) * jnp.arange(1.0, 13.0).reshape(1, 1, 1, 12)
    scale, bias = jax.random.normal(jax.random.key(1), (2, 12))
    grouped = np.float64(x).reshape(2, 15, 4, 3)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    wanted = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape) * np.float64(scale) + np.float64(bias)
    np.testing.assert_allclose(norm(x, scale, bias, 4), wanted, atol=2e-5)
    flax = lambda x, scale, bias, groups: nn.GroupNorm(groups).apply({"params": {"scale": scale, "bias": bias}}, x)
    slopes = lambda f: jax.grad(lambda *args: jnp.sum(f(*args, 4) ** 3), argnums=(0, 1, 2))(x, scale, bias)
    for found, known in zip(slopes(norm), slopes(flax), strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-3, atol=1e-3)


def test_group_norm_by_hand():
    check_group_norm(group_norm)
    rejects(check_group_norm, lambda x, s, b, g: group_norm(x, s, b, 3))
    rejects(check_group_norm, lambda x, s, b, g: group_norm(x.reshape(1, -1, 12), s, b, g).reshape(x.shape))
    rejects(check_group_norm, lambda x, s, b, g: group_norm(jax.lax.stop_gradient(x), s, b, g))
    interleaved = lambda x: jnp.swapaxes(x.reshape(*x.shape[:-1], 3, 4), -1, -2).reshape(x.shape)
    rejects(check_group_norm, lambda x, s, b, g: group_norm(interleaved(x), s, b, g))
    constant = group_norm(jnp.full((1, 4, 4), 7.0), jnp.ones(4), jnp.full(4, 0.5), 2)  # a variance of 0 is no trouble
    np.testing.assert_allclose(constant, 0.5, atol=1e-2)


def test_no_label_is_one_label_more():
    """With a zero vector for label 3 = K, the network says with it what it says without labels."""
    plain = UNet(8, (1, 2, 2), blocks=1, attention=(1,))
    condition = dict(TRAINED["params"]["condition"])
    table = condition.pop("labels")
    without = jax.jit(plain.apply)({"params": TRAINED["params"] | {"condition": condition}}, Z, LEVEL)
    zeroed = {"condition": condition | {"labels": table.at[3].set(0.0)}}
    label = lambda k: APPLY({"params": TRAINED["params"] | zeroed}, Z, LEVEL, jnp.full(2, k))
    np.testing.assert_allclose(label(3), without, atol=1e-3)
    assert float(jnp.abs(label(2) - without).max()) > 0.01


def test_untrained_networks_say_nothing():
    assert not APPLY(PARAMS, Z, LEVEL, LABEL).any()
    assert PARAMS["params"]["in"]["kernel"].any()  # which is not because all is zero
    h = jax.random.normal(KEY, (1, 4, 4, 8))
    for layer, args in ((ResidualBlock(8), (h, jnp.ones((1, 4)))), (PixelAttention(2), (h,))):
        found, params = layer.init_with_output(KEY, *args)
        assert (found == h).all()
        assert (layer.apply(moved(params), *args) != h).any()


def test_all_that_a_network_is_told_matters():
    base = APPLY(TRAINED, Z, LEVEL, LABEL)
    assert bool(jnp.isfinite(base).all()) and base.dtype == jnp.float32
    for other in ((Z, LEVEL + 50, LABEL), (Z, LEVEL, jnp.array([1, 3])), (Z + 0.1, LEVEL, LABEL)):
        assert float(jnp.abs(APPLY(TRAINED, *other) - base)[0].max()) > 1e-3
    rows = APPLY(TRAINED, Z.at[1].set(0.0), LEVEL.at[1].set(0.0), LABEL.at[1].set(1))
    np.testing.assert_allclose(rows[0], base[0], atol=1e-4)  # each row by itself


def test_every_pixel_sees_every_pixel():
    def seen(params):
        slope = jax.grad(lambda z: NET.apply(params, z, LEVEL, LABEL)[0, 0, 0, 0])(Z)
        return (jnp.abs(slope[0]) > 0).mean(), jnp.abs(slope[1]).max()

    share, others = seen(TRAINED)
    assert float(share) == 1.0 and float(others) == 0.0


def test_gradients_reach_every_parameter():
    slopes = jax.grad(lambda p: jnp.sum(NET.apply(p, Z, LEVEL, LABEL) ** 2))(TRAINED)
    silent = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(slopes) if not g.any()]
    assert silent == []


def test_sizes_that_divide():
    """Digits, MNIST with two halvings, CIFAR, 64 pixels, and pictures that are no squares; every size at every step."""
    net = UNet(8, (1, 2, 2), blocks=1)
    for size in ((8, 8), (28, 28), (32, 32), (64, 64), (4, 12)):
        z = jnp.zeros((1, *size, 2))
        found, params = jax.eval_shape(net.init_with_output, KEY, z, LEVEL[:1])
        assert found.shape == z.shape and "half_1" in params["params"] and "half_2" not in params["params"]


def test_dropout_draws_where_it_is_asked_to():
    run = lambda key: NET.apply(TRAINED, Z, LEVEL, LABEL, False, rngs={"dropout": key})
    assert (run(KEY) == run(KEY)).all() and (run(KEY) != run(jax.random.key(1))).any()
    assert (APPLY(TRAINED, Z, LEVEL, LABEL) == APPLY(TRAINED, Z, LEVEL, LABEL)).all()


def check_attention(layer):
    """Softmax of q k / sqrt(d) over all pixels, heads apart, in float64; pixels in another order give the same."""
    h = jax.random.normal(KEY, (1, 2, 3, 8))
    params = moved(layer.init(KEY, h))
    p = jax.tree.map(np.float64, params["params"])
    x = np.float64(h).reshape(6, 8)
    groups = x.reshape(6, 2, 4)
    x = ((groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(groups.var((0, 2), keepdims=True) + 1e-6)).reshape(
        6, 8
    )
    qkv = (x * p["norm"]["scale"] + p["norm"]["bias"]) @ p["qkv"]["kernel"] + p["qkv"]["bias"]
    q, k, v = (part.reshape(6, 2, 4) for part in np.split(qkv, 3, axis=1))
    odds = np.exp(np.einsum("iha,jha->hij", q, k) / 2)
    mixed = np.einsum("hij,jha->iha", odds / odds.sum(2, keepdims=True), v).reshape(6, 8)
    wanted = np.float64(h).reshape(6, 8) + mixed @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(np.asarray(layer.apply(params, h)).reshape(6, 8), wanted, rtol=2e-4, atol=2e-4)


def test_attention_by_hand():
    check_attention(PixelAttention(2))
    rejects(check_attention, PixelAttention(1))
    rejects(check_attention, PixelAttention(4))


def test_half_precision_inside_single_outside():
    half = UNet(8, (1, 2, 2), blocks=1, attention=(1,), classes=3, dtype=jnp.bfloat16)
    found = half.apply(TRAINED, Z, LEVEL, LABEL)
    exact = APPLY(TRAINED, Z, LEVEL, LABEL)
    assert found.dtype == jnp.float32
    assert float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)) < 0.05


def test_ddpms_network_is_as_large_as_published():
    """35.7 million parameters for CIFAR-10, and in each block a scale beside the shift: 513 numbers more a channel."""
    net = UNet(128, (1, 2, 2, 2), attention=(1,))
    shapes = jax.eval_shape(lambda: net.init(KEY, jnp.zeros((1, 32, 32, 3)), jnp.zeros(1)))
    count = sum(x.size for x in jax.tree.leaves(shapes))
    channels = 2 * (128 + 3 * 256) + 2 * 256 + 3 * (3 * 256 + 128)  # of the blocks down, in the middle, up
    assert count - 513 * channels == pytest.approx(35.7e6, rel=0.01)


def test_points():
    net = PointDenoiser(16, classes=2)
    z, level, label = jax.random.normal(KEY, (4, 2)), jnp.arange(4.0), jnp.array([0, 1, 2, 0])
    params = net.init(KEY, z, level, label)
    assert not net.apply(params, z, level, label).any()
    base = net.apply(moved(params), z, level, label)
    for other in ((z + 0.1, level, label), (z, level + 1, label), (z, level, label.at[0].set(1))):
        assert float(jnp.abs(net.apply(moved(params), *other) - base)[0].max()) > 1e-4
    slopes = jax.grad(lambda p: jnp.sum(net.apply(p, z, level, label) ** 2))(moved(params))
    assert all(g.any() for g in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: UNet(8, (1, 2, 2)).init(KEY, jnp.ones((1, 6, 8, 1)), LEVEL[:1]), "divisible by 4"),
        (lambda: UNet(8).init(KEY, jnp.ones((8, 8, 1)), LEVEL[:1]), "[B, H, W, C]"),
        (lambda: UNet(8, (1,)).init(KEY, jnp.ones((1, 8, 8, 1)), LEVEL[:1], LABEL[:1]), "without classes"),
        (lambda: UNet(8, (1,), classes=3).init(KEY, jnp.ones((1, 8, 8, 1)), LEVEL[:1]), "label = 3 stands for none"),
        (lambda: UNet(8, (1, 2, 2, 2)).init(KEY, jnp.ones((1, 28, 28, 1)), LEVEL[:1]), "divisible by 8"),
        (lambda: PixelAttention(3).init(KEY, jnp.ones((1, 2, 2, 8))), "3 heads for 8"),
        (lambda: PointDenoiser(8).init(KEY, jnp.ones((2, 2, 1)), LEVEL), "[B, D]"),
        (lambda: sinusoids(LEVEL, 3), "3 sinusoids"),
        (lambda: levels.Condition(8).init(KEY, jnp.ones((2, 1))), "levels [2, 1]"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3

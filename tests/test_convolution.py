"""Convolutions against their definition in NumPy, against Flax's layers, and the planted bugs that both must find."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.errors import BadInput
from genjax.models import convolution, depthwise, trilinear
from genjax.models.convolution import Conv, ConvTranspose, convolve, convolve_transpose

FLOAT32, FLOAT64 = 1e-4, 1e-10  # allowed errors, relative to the greatest absolute value, fixed beforehand


class Case(NamedTuple):
    image: tuple[int, int, int, int]  # B, H, W, C
    kernel: tuple[int, int]
    features: int
    strides: tuple[int, int] = (1, 1)
    padding: convolution.Padding = "SAME"
    groups: int = 1


CASES = [
    Case((4, 14, 14, 8), (4, 4), 16, (2, 2)),  # the convolutional VAE's, smaller
    Case((2, 7, 7, 3), (3, 3), 5),
    Case((1, 9, 8, 3), (3, 3), 1, (2, 2)),
    Case((3, 5, 6, 1), (2, 3), 4, (1, 2), "VALID"),
    Case((2, 6, 7, 4), (3, 2), 4, (2, 1), ((2, 0), (1, 3))),
    Case((2, 6, 6, 3), (3, 3), 3, (1, 1), 2),
    Case((2, 6, 5, 6), (5, 5), 2),  # fewer channels out than in: the other image slides
    Case((2, 8, 8, 2), (2, 2), 3, (3, 3)),  # gaps: strides beyond the kernel
    Case((2, 7, 7, 2), (4, 4), 3, (3, 2), "VALID"),  # rows at the end that no window reaches
    Case((6, 32, 32, 2), (3, 3), 24),  # several chunks
    Case((7, 24, 24, 2), (3, 3), 24),  # a batch that does not divide by the chunk
    Case((2, 5, 5, 4), (1, 1), 6),
    Case((2, 5, 6, 4), (1, 1), 6, (2, 2)),
    Case((2, 5, 5, 4), (1, 1), 6, (1, 1), 1),
]
DEPTHWISE = [
    Case((3, 8, 7, 4), (3, 3), 4, groups=4),
    Case((2, 9, 9, 3), (4, 2), 3, (2, 3), groups=3),
    Case((2, 6, 6, 5), (3, 3), 5, (1, 2), ((2, 0), (0, 1)), 5),
]
TRANSPOSED = [
    Case((4, 7, 7, 16), (4, 4), 8, (2, 2)),
    Case((2, 5, 6, 3), (3, 3), 1, (2, 2)),
    Case((1, 4, 5, 2), (5, 4), 3, (3, 2)),
    Case((2, 4, 4, 3), (2, 2), 3, (3, 3)),
    Case((2, 4, 5, 3), (3, 2), 2, (2, 1), "VALID"),
    Case((2, 4, 4, 2), (2, 3), 3, (3, 4), "VALID"),
    Case((2, 5, 5, 3), (3, 3), 4, (2, 2), ((1, 2), (3, 0))),
    Case((2, 6, 6, 3), (3, 3), 3, (1, 1), 0),
    Case((6, 16, 16, 24), (4, 4), 2, (2, 2)),
]


def numpy_pads(case: Case) -> list[tuple[int, int]]:
    if case.padding == "VALID":
        return [(0, 0), (0, 0)]
    if case.padding == "SAME":
        sizes = zip(case.image[1:3], case.kernel, case.strides, strict=True)
        totals = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in sizes]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) if isinstance(p, int) else p for p in np.broadcast_to(case.padding, (2, 2)).tolist()]


def numpy_pads_transposed(case: Case) -> list[tuple[int, int]]:
    """From jax.lax.conv_transpose's definition: SAME gives s H rows, VALID all that the input reaches."""
    if not isinstance(case.padding, str):
        return numpy_pads(case)
    pads = []
    for k, s in zip(case.kernel, case.strides, strict=True):
        if case.padding == "VALID":
            pads.append((k - 1, max(k, s) - 1))
        else:
            below = k - 1 if s >= k else (k + s - 1) // 2
            pads.append((below, k + s - 2 - below))
    return pads


def numpy_windows(x: np.ndarray, case: Case, transposed: bool) -> np.ndarray:
    """What the kernel sees: [a, b, B, h, w, C]."""
    strides, pads = case.strides, numpy_pads(case)
    if transposed:
        pads = numpy_pads_transposed(case)
        wide = np.zeros((len(x), *(s * (n - 1) + 1 for s, n in zip(strides, x.shape[1:3], strict=True)), x.shape[3]))
        wide[:, :: strides[0], :: strides[1]] = x
        x, strides = wide, (1, 1)
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    h, w = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], case.kernel, strides, strict=True))
    down, across = strides[0] * (h - 1) + 1, strides[1] * (w - 1) + 1
    return np.stack([
        np.stack([x[:, a : a + down : strides[0], b : b + across : strides[1]] for b in range(case.kernel[1])])
        for a in range(case.kernel[0])
    ])  # fmt: skip


def definition(x, w, y, case: Case, transposed: bool):
    """The convolution and the gradients of its product with y in x and w, from the definition.

    The gradient in x is the convolution's matrix, found by convolving every unit image, transposed.
    """
    windows = numpy_windows(x, case, transposed)
    if case.groups > 1:
        out, dw = np.einsum("abnijc,abzc->nijc", windows, w), np.einsum("abnijc,nijc->abc", windows, y)[:, :, None]
    else:
        out, dw = np.einsum("abnijc,abcd->nijd", windows, w), np.einsum("abnijc,nijd->abcd", windows, y)
    index = np.arange(1.0, x.size + 1).reshape(x.shape)  # where each seen number comes from; 0: padding
    source = numpy_windows(index, case, transposed).astype(int)
    flow = np.einsum("nijc,abzc->abnijc", y, w) if case.groups > 1 else np.einsum("nijd,abcd->abnijc", y, w)
    dx = np.bincount(source.ravel(), flow.ravel(), minlength=x.size + 1)[1:].reshape(x.shape)
    return out, dx, dw


def ours(case: Case, transposed: bool):
    if transposed:
        return lambda x, w: convolve_transpose(x, w, case.strides, case.padding)
    return lambda x, w: convolve(x, w, case.strides, case.padding, case.groups)


def arrays(case: Case, transposed: bool, seed: int = 0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=case.image)
    w = draw.normal(size=(*case.kernel, case.image[3] // case.groups, case.features))
    shape = (*numpy_windows(x, case, transposed).shape[2:5], case.features)
    return x, w, draw.normal(size=shape)


def assert_near(found, expected, tolerance: float):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def check(case: Case, transposed: bool, dtype=np.float32, tolerance: float = FLOAT32):
    """Value and both gradients, compiled as one."""

    def all_three(x, w, y):
        value, pull = jax.vjp(ours(case, transposed), x, w)
        return value, *pull(y)

    inputs = arrays(case, transposed)
    found = jax.jit(all_three)(*(jnp.asarray(a, dtype) for a in inputs))
    assert all(a.dtype == dtype for a in found)
    for a, b in zip(found, definition(*inputs, case, transposed), strict=True):
        assert_near(a, b, tolerance)


@pytest.mark.parametrize("case", CASES + DEPTHWISE, ids=str)
def test_convolution_and_gradients_are_those_of_the_definition(case):
    check(case, transposed=False)


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_transposed_convolution_and_gradients_are_those_of_the_definition(case):
    check(case, transposed=True)


@pytest.mark.parametrize("case, transposed", [(CASES[4], False), (DEPTHWISE[2], False), (TRANSPOSED[6], True)])
def test_float64(case, transposed):
    with jax.enable_x64(True):
        check(case, transposed, np.float64, FLOAT64)


# -- planted bugs --------------------------------------------------------------------------------------------------


def unflipped(window, y, w):
    return GENUINE["spread"](window, y, w[::-1, ::-1])


def shifted_padding(window, x, y):
    (below, above), across = window.padding
    return GENUINE["_correlate"](window._replace(padding=((below + 1, above - 1), across)), x, y)


def first_chunk_only(window, x, y):
    return GENUINE["_correlate"](window, x[: len(x) // 2], y[: len(y) // 2])


def unturned(window, x, y):
    """The sliding image swapped, its kernel not flipped back."""
    if window.strides == (1, 1) and y.shape[-1] < x.shape[-1]:
        return GENUINE["correlate"](window, x, y)[::-1, ::-1]
    return GENUINE["correlate"](window, x, y)


def odd_row_after(k, s, padding):
    below, above = GENUINE["_transposed_pads"](k, s, padding)
    return (above, below)


def one_less(x, y, kernel, strides, padding):
    return GENUINE["shifted_product"](x[:-1], y[:-1], kernel, strides, padding)


def undilated(x, w, strides, padding, size, dilation=(1, 1)):
    return GENUINE["shifted_sum"](x, w[::-1], strides, padding, size, dilation)


GENUINE = {
    "spread": trilinear.spread,
    "correlate": trilinear.correlate,
    "_correlate": trilinear._correlate,
    "_transposed_pads": convolution._transposed_pads,
    "shifted_product": depthwise.shifted_product,
    "shifted_sum": depthwise.shifted_sum,
}


@pytest.mark.parametrize(
    "place, name, mutant, case, transposed",
    [
        (trilinear, "spread", unflipped, CASES[0], False),
        (convolution, "spread", unflipped, TRANSPOSED[0], True),
        (trilinear, "_correlate", shifted_padding, CASES[0], False),
        (trilinear, "_correlate", shifted_padding, TRANSPOSED[6], True),
        (trilinear, "_correlate", first_chunk_only, CASES[9], False),
        (trilinear, "correlate", unturned, CASES[6], False),
        (convolution, "_transposed_pads", odd_row_after, TRANSPOSED[1], True),
        (depthwise, "shifted_product", one_less, DEPTHWISE[0], False),
        (depthwise, "shifted_sum", undilated, DEPTHWISE[0], False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_planted_bug_is_found(place, name, mutant, case, transposed, monkeypatch):
    monkeypatch.setattr(place, name, mutant)
    with pytest.raises(AssertionError):
        check(case, transposed)


# -- as Flax's layers ----------------------------------------------------------------------------------------------

LAYERS = [
    (Conv, nn.Conv, {"features": 6, "kernel_size": (4, 4), "strides": (2, 2)}),
    (Conv, nn.Conv, {"features": 4, "kernel_size": (3, 3), "padding": ((2, 1), (0, 3)), "use_bias": False}),
    (Conv, nn.Conv, {"features": 6, "kernel_size": (3, 3), "feature_group_count": 3}),
    (Conv, nn.Conv, {"features": 6, "kernel_size": (3, 3), "feature_group_count": 3, "strides": 2}),
    (Conv, nn.Conv, {"features": 4, "kernel_size": (1, 1), "strides": 2}),
    (Conv, nn.Conv, {"features": 4, "kernel_size": (9, 3), "padding": "VALID"}),  # larger than the image: no output
    (ConvTranspose, nn.ConvTranspose, {"features": 5, "kernel_size": (4, 4), "strides": (2, 2)}),
    (ConvTranspose, nn.ConvTranspose, {"features": 1, "kernel_size": (3, 3), "strides": (2, 2), "padding": "VALID"}),
    (ConvTranspose, nn.ConvTranspose, {"features": 3, "kernel_size": (5, 2), "padding": 1, "use_bias": False}),
]


@pytest.mark.parametrize("layer, flax_layer, options", LAYERS)
def test_layers_are_flax_layers(layer, flax_layer, options):
    x = jax.random.normal(jax.random.key(0), (2, 3, 7, 8, 3))
    mine, theirs = layer(**options), flax_layer(**options)
    params, own = jax.jit(lambda x: (theirs.init(jax.random.key(1), x), mine.init(jax.random.key(1), x)))(x)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), own, params))
    found, expected = jax.jit(lambda p, x: (mine.apply(p, x), theirs.apply(p, x)))(params, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=FLOAT32)
    np.testing.assert_array_equal(mine.apply(params, x[:0]), expected[:0])
    one = mine.apply(params, x[0, 0])  # no leading axis at all
    np.testing.assert_allclose(one, expected[0, 0], atol=FLOAT32)


def test_names_inside_a_network_are_those_of_flax():
    def network(conv, transposed):
        class Network(nn.Module):
            @nn.compact
            def __call__(self, x):
                return transposed(2, (3, 3))(conv(3, (3, 3))(x))

        return jax.jit(Network().init)(jax.random.key(0), jnp.ones((1, 5, 5, 1)))

    mine, theirs = network(Conv, ConvTranspose), network(nn.Conv, nn.ConvTranspose)
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), mine, theirs))


@pytest.mark.parametrize(
    "layer", [Conv(8, (3, 3)), Conv(4, (3, 3), feature_group_count=4), ConvTranspose(2, (4, 4), 2)]
)
def test_bfloat16(layer):
    """Two rounded factors are wrong by 2^-8 together, a sum of 24,000 products is not worse: it is kept in float32."""
    x = jax.random.normal(jax.random.key(0), (24, 32, 32, 4))
    params = jax.jit(layer.init)(jax.random.key(1), x)
    half = layer.clone(dtype=jnp.bfloat16)
    scale = lambda module: lambda p, x: module.apply(p, x).astype(jnp.float32).var()
    wide, narrow = (jax.jit(jax.grad(scale(module)))(params, x) for module in (layer, half))
    assert jax.jit(half.apply)(params, x).dtype == jnp.bfloat16
    assert_near(narrow["params"]["kernel"], wide["params"]["kernel"], 2.0**-6)


# -- transformations -----------------------------------------------------------------------------------------------


def flax_maps(case: Case, transposed: bool):
    layer = nn.ConvTranspose if transposed else nn.Conv
    layer = layer(case.features, case.kernel, case.strides, case.padding, use_bias=False)
    return lambda x, w: layer.apply({"params": {"kernel": w}}, x)


@pytest.mark.parametrize("case, transposed", [(CASES[0], False), (CASES[6], False), (TRANSPOSED[1], True)])
def test_gradients_of_gradients(case, transposed):
    """A gradient penalty: d/dw and d/dx of |d/dx sum tanh(conv(x, w))|^2 + |d/dw ...|^2, all three maps twice."""
    x, w, _ = (jnp.asarray(a, jnp.float32) for a in arrays(case, transposed))

    def penalty(convolution):
        inner = lambda x, w: jnp.tanh(0.1 * convolution(x, w)).sum()
        return lambda x, w: sum((g**2).sum() for g in jax.grad(inner, (0, 1))(x, w))

    found = jax.jit(jax.grad(penalty(ours(case, transposed)), (0, 1)))(x, w)
    expected = jax.jit(jax.grad(penalty(flax_maps(case, transposed)), (0, 1)))(x, w)
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b, FLOAT32)


@pytest.mark.parametrize("case, transposed", [(CASES[2], False), (TRANSPOSED[1], True)])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap(case, transposed, axes):
    def gradients(function):
        loss = lambda x, w: jnp.tanh(function(x, w)).sum()
        return jax.jit(jax.vmap(jax.grad(loss, (0, 1)), in_axes=axes))

    samples = [arrays(case, transposed, seed)[:2] for seed in range(3)]
    stacked = [np.stack(s).astype(np.float32) for s in zip(*samples, strict=True)]
    inputs = [jnp.asarray(a if axis == 0 else a[0]) for a, axis in zip(stacked, axes, strict=True)]
    found, expected = (gradients(f(case, transposed))(*inputs) for f in (ours, flax_maps))
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b, FLOAT32)


def layouts(layer_of_conv, layer_of_transpose) -> set[str]:
    """The axis orders of all convolutions in the compiled gradient of a small network, trained inside a scan."""

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layer_of_transpose(1, (4, 4), (2, 2))(nn.relu(layer_of_conv(4, (3, 3))(x)))

    def train(params, x):
        loss = lambda params: jnp.square(Network().apply(params, x)).mean()
        step = lambda params, _: (jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params)), None)
        return jax.lax.scan(step, params, length=3)[0]

    x = jnp.ones((2, 6, 6, 3))
    params = jax.jit(Network().init)(jax.random.key(0), x)
    text = jax.jit(train).lower(params, x).as_text()
    return set(re.findall(r"dim_numbers = (\[.*?\]->\[.*?\])", text))


def test_every_convolution_has_the_layout_that_is_fast_in_loops():
    fast = {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    assert layouts(Conv, ConvTranspose) == fast
    assert layouts(nn.Conv, nn.ConvTranspose) > fast


def test_elsewhere_it_is_the_plain_convolution(monkeypatch):
    case = Case((2, 7, 6, 4), (3, 3), 4, (2, 2))
    x, w, _ = (jnp.asarray(a, jnp.float32) for a in arrays(case, False))
    own, own_transposed = convolve(x, w, (2, 2)), convolve_transpose(x, w, (2, 2))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for function, expected in [(convolve, own), (convolve_transpose, own_transposed)]:
        plain = lambda x, w, function=function: function(x, w, (2, 2))
        assert "custom_vjp" not in str(jax.make_jaxpr(plain)(x, w))
        assert_near(plain(x, w), expected, FLOAT32)
        jax.jvp(plain, (x, w), (x, w))  # forward mode too


def test_forward_mode_is_refused_on_cpu():
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: convolve(x, jnp.ones((3, 3, 1, 1))), (jnp.ones((1, 5, 5, 1)),), (jnp.ones((1, 5, 5, 1)),))


@pytest.mark.parametrize(
    "layer, word",
    [(Conv(4, (3, 3), padding="CIRCULAR"), "padding"), (Conv(4, (3, 3), feature_group_count=2), "feature_group_count")],
)
def test_bad_input(layer, word):
    with pytest.raises(BadInput, match=word):
        layer.init(jax.random.key(0), jnp.ones((1, 5, 5, 3)))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from genjax.models.convolution import Conv
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
layer, x = Conv(24, (3, 3)), jax.random.normal(jax.random.key(0), (8, 32, 32, 2))
params = jax.jit(layer.init)(jax.random.key(1), x)
gradient = jax.jit(jax.grad(lambda p, x: jnp.tanh(layer.apply(p, x)).sum()))
one = gradient(params, x)
four = gradient(jax.device_put(params, NamedSharding(mesh, P())), jax.device_put(x, NamedSharding(mesh, P("data"))))
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
print("equal")
"""


@pytest.mark.slow
def test_four_devices_give_the_same_gradient():
    settings = {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=os.environ | settings, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr

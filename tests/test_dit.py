"""DiT: a layer by hand in float64, cutting by indices, the sizes of the paper's networks; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.models.attention import attend, attend_all
from genjax.models.dit import DiT, DiTBlock, assembled, patches, places

KEY = jax.random.key(0)
NET = DiT(layers=2, width=16, heads=2, classes=3, dropout=0.2)
Z, LEVEL, LABEL = jax.random.normal(KEY, (2, 4, 6, 3)), jnp.array([3.0, 700.0]), jnp.array([0, 3])
INIT = jax.jit(lambda key: NET.init(key, Z, LEVEL, LABEL))
APPLY = jax.jit(lambda params, *args: NET.apply(params, *args))


def moved(params, scale=0.3):
    """Parameters as training leaves them: nothing zero."""
    leaves, tree = jax.tree.flatten(params)
    draw = np.random.default_rng(7)
    return tree.unflatten([x + scale * jnp.asarray(draw.normal(size=x.shape), x.dtype) for x in leaves])


PARAMS = INIT(KEY)
TRAINED = moved(PARAMS)


# -- patches and places ------------------------------------------------------------------------------------------------


def check_patches(cut, put):
    """Number (a p + b) C + c of patch (i, j) is channel c of pixel (p i + a, p j + b); and back, exactly."""
    z = np.arange(2 * 6 * 9 * 2).reshape(2, 6, 9, 2)
    wanted = np.stack([z[:, 3 * i + a, 3 * j + b, c] for i, j, a, b, c in np.ndindex(2, 3, 3, 3, 2)], axis=1).reshape(
        2, 2, 3, 18
    )
    found = np.asarray(cut(z, 3))
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(put(found, 3), z)


def test_pictures_are_cut_and_put_together():
    check_patches(patches, assembled)
    columns = lambda z, p: patches(np.swapaxes(z, 1, 2), p).swapaxes(1, 2)  # columns of pixels instead of lines
    rejects(check_patches, columns, assembled)
    rejects(check_patches, lambda z, p: jnp.reshape(z, (2, 2, 3, 18)), assembled)
    rejects(check_patches, patches, lambda cut, p: jnp.reshape(cut, (2, 6, 9, 2)))


def check_places(table):
    """The inner product of two places is sum over both axes of cos(w distance): by the distance alone, in each axis."""
    found = np.float64(table(3, 5, 16))
    for i, j, k, l in np.ndindex(3, 5, 3, 5):
        waves = 10_000.0 ** (-np.arange(4) / 4)
        wanted = np.cos(waves * (i - k)).sum() + np.cos(waves * (j - l)).sum()
        np.testing.assert_allclose(found[i, j] @ found[k, l], wanted, atol=1e-5)
    row, column = found[..., :8], found[..., 8:]
    assert (row == row[:, :1]).all() and (column == column[:1]).all()


def test_places_know_row_and_column():
    check_places(places)
    rejects(check_places, lambda h, w, f: places(w, h, f).swapaxes(0, 1))
    rejects(check_places, lambda h, w, f: jnp.roll(places(h, w, f), 1, axis=1))
    rejects(check_places, lambda h, w, f: places(1, h * w, f).reshape(h, w, f))


# -- a layer -----------------------------------------------------------------------------------------------------------


def by_hand(params, h, c, heads):
    """A layer in float64, from the equations at the head of the file."""
    p = jax.tree.map(np.float64, params["params"])
    h, (rows, length, width) = np.float64(h), h.shape
    dense = lambda x, name: x @ p[name]["kernel"] + p[name]["bias"]
    norm = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    b1, s1, g1, b2, s2, g2 = np.split(dense(np.float64(c), "modulation")[:, None], 6, axis=-1)
    q, k, v = (x.reshape(rows, length, heads, -1) for x in np.split(dense(norm(h) * (1 + s1) + b1, "qkv"), 3, axis=-1))
    odds = np.exp(np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(width / heads))
    mixed = np.einsum("bhij,bjhd->bihd", odds / odds.sum(-1, keepdims=True), v).reshape(rows, length, width)
    h = h + g1 * dense(mixed, "mix")
    x = dense(norm(h) * (1 + s2) + b2, "up")
    gelu = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return h + g2 * dense(gelu, "down")


BLOCK = DiTBlock(2)
H, C = jax.random.normal(KEY, (2, 5, 8)), jax.random.normal(jax.random.key(1), (2, 6))
LAYER = moved(BLOCK.init(KEY, H, C, True))


def check_layer(layer):
    np.testing.assert_allclose(layer(LAYER, H, C), by_hand(LAYER, H, C, 2), rtol=1e-3, atol=1e-3)


def reordered(order):
    """A layer that takes the six parts of the modulation in another order."""

    def layer(params, h, c):
        swap = lambda x: jnp.concatenate([jnp.split(x, 6, axis=-1)[i] for i in order], axis=-1)
        own = params["params"]
        own = own | {"modulation": jax.tree.map(swap, own["modulation"])}
        return BLOCK.apply({"params": own}, h, c, True)[0]

    return layer


def test_a_layer_by_hand(monkeypatch):
    plain = lambda params, h, c: BLOCK.apply(params, h, c, True)[0]
    check_layer(plain)
    rejects(check_layer, reordered((1, 0, 2, 3, 4, 5)))  # scale for shift
    rejects(check_layer, reordered((0, 1, 5, 3, 4, 2)))  # each other's gates
    rejects(check_layer, lambda params, h, c: DiTBlock(4).apply(params, h, c, True)[0])
    for name, planted in (("attend_all", attend), ("_modulated", lambda h, shift, scale: h * (1 + scale) + shift)):
        with monkeypatch.context() as patch:
            patch.setattr(f"genjax.models.dit.{name}", planted)  # a causal layer; one without norms
            rejects(check_layer, plain)


def check_order(layer):
    """Patches in another order give the same in that order: only `places` tells them apart."""
    order = np.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(layer(H[:, order]), layer(H)[:, order], atol=1e-4)


def test_patches_have_no_order_but_their_places():
    check_order(lambda h: BLOCK.apply(LAYER, h, C, True)[0])
    rejects(check_order, lambda h: h + attend(*[h.reshape(2, 5, 2, 4)] * 3).reshape(h.shape))
    attention = lambda h: attend_all(*[h.reshape(2, 5, 2, 4)] * 3).reshape(h.shape)
    fused = lambda h: jax.nn.dot_product_attention(*[h.reshape(2, 5, 2, 4)] * 3).reshape(h.shape)
    np.testing.assert_allclose(attention(H), fused(H), atol=1e-5)  # what other machines compute
    turned = APPLY(TRAINED, Z[:, ::-1], LEVEL, LABEL)[:, ::-1] - APPLY(TRAINED, Z, LEVEL, LABEL)
    assert float(jnp.abs(turned).max()) > 0.01


# -- the network -------------------------------------------------------------------------------------------------------


def check_start(params):
    """The untrained network says 0, because its layers do nothing: not because all is zero."""
    assert not APPLY(params, Z, LEVEL, LABEL).any()
    layers = params["params"]["blocks"]
    assert not layers["modulation"]["kernel"].any() and not layers["modulation"]["bias"].any()
    assert all(layers[name]["kernel"].any() for name in ("qkv", "mix", "up", "down"))
    assert (layers["qkv"]["kernel"][0] != layers["qkv"]["kernel"][1]).any()  # layers of their own


def test_untrained_it_says_nothing():
    check_start(PARAMS)
    rejects(check_start, moved(PARAMS))
    rejects(check_start, jax.tree.map(jnp.zeros_like, PARAMS))
    assert (BLOCK.init_with_output(KEY, H, C, True)[0][0] == H).all()


def test_layers_follow_one_another():
    """With the layers' parameters swapped the output is another: they are not one layer run twice, nor in parallel."""
    blocks = {"blocks": jax.tree.map(lambda x: x[::-1], TRAINED["params"]["blocks"])}
    swapped = APPLY({"params": TRAINED["params"] | blocks}, Z, LEVEL, LABEL)
    assert float(jnp.abs(swapped - APPLY(TRAINED, Z, LEVEL, LABEL)).max()) > 0.01


def test_all_that_it_is_told_matters():
    base = APPLY(TRAINED, Z, LEVEL, LABEL)
    assert bool(jnp.isfinite(base).all()) and base.dtype == jnp.float32 and base.shape == Z.shape
    for other in ((Z, LEVEL + 50, LABEL), (Z, LEVEL, jnp.array([1, 3])), (Z + 0.1, LEVEL, LABEL)):
        assert float(jnp.abs(APPLY(TRAINED, *other) - base)[0].max()) > 1e-3
    slope = jax.grad(lambda z: NET.apply(TRAINED, z, LEVEL, LABEL)[0, 0, 0, 0])(Z)
    assert (slope[0] != 0).all() and not slope[1].any()  # every pixel of its own picture, and no other's


def test_gradients_reach_every_parameter():
    def silent(label):
        slopes = jax.grad(lambda p: jnp.sum(NET.apply(p, Z, LEVEL, label) ** 2))(TRAINED)
        return slopes["params"]["condition"].pop("labels"), slopes

    table, slopes = silent(LABEL)
    assert table.any(axis=1).tolist() == [True, False, False, True]  # the rows of the labels that were there
    quiet = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(slopes)
        if not g.reshape(-1, g.shape[-1]).any(axis=0).all() and "qkv" not in str(path)
    ]
    assert quiet == []
    attention = slopes["params"]["blocks"]["qkv"]
    query, _, value = jnp.split(attention["bias"], 3, axis=1)  # the same added to all keys changes no softmax
    assert attention["kernel"].any(axis=1).all() and query.all() and value.all()


def test_no_label_is_one_label_more():
    """A network whose row K of the table is zero says with label K what the same network says without labels."""
    plain = DiT(layers=2, width=16, heads=2)
    condition = dict(TRAINED["params"]["condition"])
    table = condition.pop("labels")
    without = plain.apply({"params": TRAINED["params"] | {"condition": condition}}, Z, LEVEL)
    zeroed = {"condition": condition | {"labels": table.at[3].set(0.0)}}
    label = lambda k: APPLY({"params": TRAINED["params"] | zeroed}, Z, LEVEL, jnp.full(2, k))
    np.testing.assert_allclose(label(3), without, atol=1e-4)
    assert float(jnp.abs(label(2) - without).max()) > 0.01


def test_dropout_draws_where_it_is_asked_to():
    run = lambda key: NET.apply(TRAINED, Z, LEVEL, LABEL, False, rngs={"dropout": key})
    assert (run(KEY) == run(KEY)).all() and (run(KEY) != run(jax.random.key(1))).any()
    assert (run(KEY) != APPLY(TRAINED, Z, LEVEL, LABEL)).any()


def test_half_precision_inside_single_outside():
    half = DiT(layers=2, width=16, heads=2, classes=3, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda: half.init(KEY, Z, LEVEL, LABEL))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    found, exact = half.apply(TRAINED, Z, LEVEL, LABEL), APPLY(TRAINED, Z, LEVEL, LABEL)
    assert found.dtype == jnp.float32 and (found != exact).any()
    assert float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)) < 0.05


@pytest.mark.parametrize(
    ("layers", "width", "heads", "published"),
    [(12, 384, 6, 33e6), (12, 768, 12, 130e6), (24, 1024, 16, 458e6), (28, 1152, 16, 675e6)],
)
def test_it_is_as_large_as_published(layers, width, heads, published):
    """Table 1's S/2, B/2, L/2, XL/2, of 32x32x4 latents and 1,000 labels, and each number's account.

    Besides: the paper's levels are 256 sinusoids, here as many as the width; its output has a variance to each number;
    its count has the fixed places in it.
    """
    net = DiT(layers, width, heads, classes=1000)
    shapes = jax.eval_shape(lambda: net.init(KEY, jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), jnp.zeros(1, int)))
    count = sum(x.size for x in jax.tree.leaves(shapes))
    theirs = count - (width - 256) * width + 16 * (width + 1) + 256 * width
    layer = 18 * width**2 + 15 * width  # of which 4 + 2 for attention and modulation to each 1 of a square
    ends = 17 * width + (256 + width + 2) * width + 1001 * width + 2 * (width + 1) * width + 32 * (width + 1)
    assert theirs == layers * layer + ends + 256 * width
    assert abs(theirs / published - 1) < 0.005


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DiT(1, 8, 2).init(KEY, jnp.ones((1, 7, 8, 1)), LEVEL[:1]), "divisible by 2"),
        (lambda: DiT(1, 8, 2, patch=3).init(KEY, jnp.ones((1, 9, 8, 1)), LEVEL[:1]), "patches of 3 x 3"),
        (lambda: DiT(1, 8, 2).init(KEY, jnp.ones((8, 8, 1)), LEVEL[:1]), "[B, H, W, C]"),
        (lambda: DiT(1, 12, 5).init(KEY, jnp.ones((1, 8, 8, 1)), LEVEL[:1]), "width = 12, heads = 5"),
        (lambda: DiT(1, 6, 2).init(KEY, jnp.ones((1, 8, 8, 1)), LEVEL[:1]), "divisible by heads and by 4"),
        (lambda: DiT(1, 8, 2, classes=3).init(KEY, jnp.ones((1, 8, 8, 1)), LEVEL[:1]), "label = 3 stands for none"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3

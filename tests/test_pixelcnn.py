"""PixelCNN: what each pixel sees; densities; rows that are remembered; each check must find planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_images import IMAGES, KEY, bernoulli_sum, check_is_a_density, check_samples, dependence, wild
from planted import rejects

from genjax.errors import BadInput
from genjax.models import pixelcnn
from genjax.models.observation import bernoulli, logistic_mixture
from genjax.models.pixelcnn import CausalConv, GatedPixelCNN, PixelCNN, causal_mask, row_by_row, sample_images
from genjax.samplers.ancestral import ancestral

PLAIN = PixelCNN(1, blocks=2, channels=6, features=8)
GATED = GatedPixelCNN(1, layers=1, channels=6, features=8)
MODELS = {"plain": PLAIN, "gated": GATED}


def parameters(model, shape=(2, 3, 1), scale=0.7):
    return wild(model, jnp.zeros((1, *shape)), scale=scale)


def applied(model, params, images):
    return jax.jit(lambda params, images: model.apply(params, images))(
        params, images
    )  # traced anew: masks may be planted


# the plain network has one layer more: at the scale of the other, one image would have nearly all of the probability
SCALES = {"plain": 0.5, "gated": 0.7}
PARAMS = {name: parameters(model, scale=SCALES[name]) for name, model in MODELS.items()}

# -- what a pixel sees -------------------------------------------------------------------------------------------------

ABOVE_7 = {(-a, b) for a in (1, 2, 3) for b in range(-3, 4)}  # moves from a pixel to those that a layer reads: (rows,
LEFT_7 = {(0, -3), (0, -2), (0, -1)}  # columns).  Written by hand: they are not taken from the masks
ABOVE_3 = {(-1, -1), (-1, 0), (-1, 1)}
LEFT_3 = {(0, -1)}
HERE = {(0, 0)}


def reach(height, width, *layers):
    """Which pixel sees which after layers of moves, [H W, H W] booleans."""
    seen = np.eye(height * width, dtype=bool)
    for moves in layers:
        step = np.zeros_like(seen)
        for i in range(height):
            for j in range(width):
                for a, b in moves:
                    if 0 <= i + a < height and 0 <= j + b < width:
                        step[i * width + j, (i + a) * width + j + b] = True
        seen = (seen.astype(int) @ step.astype(int)) > 0
    return seen


def earlier(height, width):
    return np.tril(np.ones((height * width, height * width), bool), -1)


def seen_by(model, shape=(3, 5)):
    """[H W, H W]: what the outputs at each pixel depend on."""
    params = parameters(model, (*shape, 1), 0.5)
    return dependence(lambda x: model.apply(params, x), (*shape, 1))


def check_plain():
    expected = reach(3, 5, ABOVE_7 | LEFT_7, *[ABOVE_3 | LEFT_3 | HERE] * 2)
    np.testing.assert_array_equal(seen_by(PLAIN), expected)


def check_gated():
    np.testing.assert_array_equal(seen_by(GATED), earlier(3, 5))


def test_a_plain_stack_sees_what_its_masks_let_it():
    check_plain()


def test_a_gated_stack_sees_all_earlier_pixels_and_no_other():
    check_gated()


@pytest.mark.slow
def test_blind_spot():
    """Deep stacks on 5 x 9 pixels: the plain one never sees (i - a, j + b) with b > a + 2, the gated one sees it."""
    plain = seen_by(PixelCNN(1, blocks=6, channels=6, features=8), (5, 9))
    gated = seen_by(GatedPixelCNN(1, layers=5, channels=6, features=8), (5, 9))
    np.testing.assert_array_equal(gated, earlier(5, 9))
    pixels = [(i, j) for i in range(5) for j in range(9)]
    blind = {(p, q) for p in pixels for q in pixels if q[0] < p[0] and q[1] - p[1] > p[0] - q[0] + 2}
    missing = {(pixels[p], pixels[q]) for p, q in np.argwhere(earlier(5, 9) & ~plain)}
    assert missing == blind and not np.any(plain & ~earlier(5, 9))
    of_the_last_row = {q for p, q in blind if p == (4, 0)}
    assert of_the_last_row == {(3, j) for j in range(4, 9)} | {(2, j) for j in range(5, 9)} | {
        *((1, 6), (1, 7), (1, 8), (0, 7), (0, 8))
    }


def exchanged(**kinds):
    """`causal_mask` with some kinds taken for others."""
    return lambda size, kind: causal_mask(size, kinds.get(kind, kind))


SEEN_MUTANTS = {
    "mask A never": (exchanged(A="B"), check_plain, check_gated),
    "the own row to its end": (exchanged(B="rows"), check_plain, check_gated),
    "no pixel to the left": (exchanged(A="above"), check_plain, check_gated),
    "the vertical stack not shifted": (exchanged(above="rows"), check_gated),
    "the vertical stack not shifted, half": (exchanged(above="B"), check_gated),
    "the vertical stack shifted in each layer": (exchanged(rows="above"), check_gated),
}


@pytest.mark.parametrize("mutant", SEEN_MUTANTS.values(), ids=SEEN_MUTANTS)
def test_what_a_pixel_sees_rejects(monkeypatch, mutant):
    mask, *checks = mutant
    monkeypatch.setattr(pixelcnn, "causal_mask", mask)
    for check in checks:
        rejects(check)


# -- which weights exist -----------------------------------------------------------------------------------------------

A7 = np.array([[1, 1, 1, 1, 1, 1, 1]] * 3 + [[1, 1, 1, 0, 0, 0, 0]])
KERNELS = {
    "plain": {"first": A7, "conv_0": np.array([[1, 1, 1], [1, 1, 0]]), "conv_1": np.array([[1, 1, 1], [1, 1, 0]])},
    "gated": {
        "vertical_0": np.array([[1] * 7] * 3 + [[0] * 7]),
        "horizontal_0": np.array([[1, 1, 1, 0, 0, 0, 0]]),
        "vertical_1": np.array([[1, 1, 1], [1, 1, 1]]),
        "horizontal_1": np.array([[1, 1, 0]]),
    },
}


def check_weights(name):
    """A weight has a gradient if and only if the published mask has it: residual links hide a mask A too many."""
    model, shape = MODELS[name], (5, 9, 1)
    params = parameters(model, shape, 0.5)
    x = jax.random.normal(KEY, (4, *shape))
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(jnp.sin(model.apply(params, x)))))(params)["params"]
    for layer, expected in KERNELS[name].items():
        np.testing.assert_array_equal(np.any(gradient[layer]["kernel"] != 0.0, axis=(2, 3)), expected == 1)


@pytest.mark.parametrize("name", MODELS)
def test_weights(name, monkeypatch):
    check_weights(name)
    for mutant in (exchanged(B="A"), exchanged(A="B")):  # mask A in every layer; in none
        monkeypatch.setattr(pixelcnn, "causal_mask", mutant)
        rejects(check_weights, name)


# -- densities ---------------------------------------------------------------------------------------------------------


def check_density(name):
    check_is_a_density(bernoulli_sum(applied(MODELS[name], PARAMS[name], IMAGES), IMAGES))


@pytest.mark.parametrize("name", MODELS)
def test_sums_to_one(name, monkeypatch):
    check_density(name)
    leaks = [exchanged(A="B"), exchanged(B="rows")] + [exchanged(above="rows")] * (name == "gated")
    for mutant in leaks:
        monkeypatch.setattr(pixelcnn, "causal_mask", mutant)
        rejects(check_density, name)


def test_three_channels_sum_to_one():
    """Two pixels of three channels in two levels: the network binds pixels, the likelihood the channels of a pixel."""
    likelihood = logistic_mixture(2, 3, channels=3)
    model = GatedPixelCNN(likelihood.multiplier, layers=1, channels=4, features=8)
    images = IMAGES.reshape(64, 1, 2, 3)
    params = parameters(model, (1, 2, 3))
    log_prob = jax.jit(lambda params, images: likelihood.log_prob(model.apply(params, images), images))
    check_is_a_density(log_prob(params, images))
    sees = dependence(lambda x: model.apply(params, x).sum(-1), (1, 2, 3))
    expected = np.zeros((6, 6), bool)
    expected[3:, :3] = True  # every channel of the second pixel, every channel of the first
    np.testing.assert_array_equal(sees, expected)


# -- row by row --------------------------------------------------------------------------------------------------------


def outputs_by_rows(step, above, images):
    rows = []
    for i in range(images.shape[1]):
        out, above = step(images[:, i : i + 1], above)
        rows.append(out)
    return jnp.concatenate(rows, axis=1)


def check_rows(name, change=lambda above, fresh: above):
    """Outputs from remembered rows equal those of the whole image within 1e-5; `change` is planted after each row."""
    model, shape = MODELS[name], (3, 6, 5, 1)
    params, images = parameters(model, shape[1:], 0.5), jax.random.normal(KEY, shape)
    step, fresh = row_by_row(model, params, shape)

    def changed(row, above):
        out, above = step(row, above)
        return out, change(above, fresh)

    whole = applied(model, params, images)
    by_rows = jax.jit(lambda images: outputs_by_rows(changed, fresh, images))(images)
    np.testing.assert_allclose(by_rows, whole, atol=1e-5)
    assert float(jnp.std(whole)) > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_row_by_row_is_the_whole_image(name):
    check_rows(name)
    rejects(check_rows, name, lambda above, fresh: fresh)  # nothing is remembered
    rejects(check_rows, name, lambda above, fresh: jax.tree.map(lambda rows: rows[:, ::-1], above))  # upside down


@pytest.mark.parametrize("name", MODELS)
def test_samples(name):
    model, likelihood, params = MODELS[name], bernoulli(), PARAMS[name]
    log_p = bernoulli_sum(applied(model, params, IMAGES), IMAGES)

    def sample(n, key):
        return jax.jit(lambda key: sample_images(model, params, likelihood.sample, (n, 2, 3, 1), key))(key)

    def whole(n, key, order=range(6)):
        logits = lambda x: model.apply(params, x.reshape(n, 2, 3, 1)).reshape(n, 6)
        draw = lambda logits, key: likelihood.sample(logits.reshape(n, 1, 1, 1, 1), key).reshape(n, 1)
        order = jnp.array(order)
        return jax.jit(lambda key: ancestral(logits, draw, jnp.zeros((n, 6)), order, key))(key)

    check_samples(sample, log_p)
    np.testing.assert_array_equal(sample(200, KEY).reshape(200, 6), whole(200, KEY))
    rejects(check_samples, lambda n, key: whole(n, key, range(5, -1, -1)), log_p)  # from the last pixel to the first


def test_one_key_for_all_pixels_is_found():
    """A key that does not change from pixel to pixel gives other frequencies."""
    model, likelihood, params = PLAIN, bernoulli(), PARAMS["plain"]
    log_p = bernoulli_sum(applied(model, params, IMAGES), IMAGES)
    fixed = lambda out, key: likelihood.sample(out, KEY)

    sample = jax.jit(lambda n, key: sample_images(model, params, fixed, (n, 2, 3, 1), key), static_argnums=0)
    rejects(check_samples, sample, log_p)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals():
    with pytest.raises(BadInput, match=r"kernel_size = \(3, 4\)"):
        CausalConv(1, (3, 4), "A").init(KEY, jnp.zeros((1, 3, 3, 1)))

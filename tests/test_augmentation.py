"""Augmentation: laws of shifts and squares by counting, gradients, probabilities; each with planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.losses.augmentation import adapted, augmented, coloured, cut_out, translated

KEY = jax.random.key(0)


def check_shifts(move):
    """One bright pixel of 8,000 images of 16x24 lands evenly on 5 x 7 places: up to 2 rows and 3 columns away."""
    x = jnp.zeros((8_000, 16, 24, 1)).at[:, 8, 12].set(1.0)
    moved = np.asarray(move(x, KEY))[..., 0]
    assert np.all(moved.sum(axis=(1, 2)) == 1)
    counts = moved.sum(axis=0)[6:11, 9:16]
    assert counts.sum() == 8_000 and scipy.stats.chisquare(counts.ravel()).pvalue > 1e-4
    edge = np.asarray(move(jnp.ones((500, 16, 24, 1)), KEY))
    assert edge.min() == 0 and edge[:, 2:-2, 3:-3].min() == 1  # zeros come in at the edges only


def test_shifts():
    check_shifts(translated)
    rejects(check_shifts, lambda x, key: translated(x, key, 0.25))
    rejects(check_shifts, lambda x, key: jnp.roll(x, 1, axis=1))
    rejects(check_shifts, lambda x, key: jnp.roll(translated(x, key), 1, axis=2))


def check_squares(cut):
    """Centres are even over the image: a pixel of row i is covered as often as centres lie within half a square."""
    for side in (12, 15):
        x = jnp.ones((20_000, side, side, 1))
        covered = 1 - np.asarray(cut(x, KEY))[..., 0]
        length, half = round(side / 2), round(side / 2) // 2
        centres = np.arange(side + 1 - length % 2)
        share = np.array([np.mean((i >= centres - half) & (i < centres - half + length)) for i in range(side)])
        np.testing.assert_allclose(covered.mean(axis=0), np.outer(share, share), atol=0.02)
        rows = covered.any(axis=2).sum(axis=1)
        assert rows.max() == length and rows.min() >= 1 and set(np.unique(covered)) == {0, 1}


def test_squares():
    check_squares(cut_out)
    rejects(check_squares, lambda x, key: cut_out(x, key, 0.4))
    rejects(check_squares, lambda x, key: cut_out(x, key)[:, ::-1] * 0.5)
    rejects(check_squares, lambda x, key: jnp.broadcast_to(cut_out(x[:1], key), x.shape))


def check_colours(change):
    """Moments over 20,000 draws by hand: means move by U(-1/2, 1/2), contrasts by 2 u (u' + 1/2) within channels."""
    image = jnp.array([[[0.2, -0.4, 0.8], [0.6, 0.0, -0.2]]])
    out = np.asarray(change(jnp.broadcast_to(image[None], (20_000, 1, 2, 3)), KEY), np.float64)
    moved = out.mean(axis=(1, 2, 3)) - float(image.mean())
    assert scipy.stats.kstest(moved, scipy.stats.uniform(-0.5, 1.0).cdf).pvalue > 1e-3
    grey = out.mean(axis=-1)  # saturation leaves it alone, contrast does not
    contrast = (grey[:, 0, 0] - grey[:, 0, 1]) / (image.mean(axis=-1)[0, 0] - image.mean(axis=-1)[0, 1])
    assert scipy.stats.kstest(np.asarray(contrast), scipy.stats.uniform(0.5, 1.0).cdf).pvalue > 1e-3
    saturation = (out[:, 0, 0, 2] - out[:, 0, 0, 1]) / 1.2 / contrast
    assert scipy.stats.kstest(np.asarray(saturation), scipy.stats.uniform(0.0, 2.0).cdf).pvalue > 1e-3


def test_colours():
    check_colours(coloured)
    rejects(check_colours, lambda x, key: coloured(x, key) + 0.05)
    rejects(check_colours, lambda x, key: 1.1 * coloured(x, key))
    rejects(check_colours, lambda x, key: coloured(x[..., :1], key) + 0 * x)


def check_probability(change):
    """None at 0; of even images, which only a new brightness moves, p of them at p; gradients pass."""
    x = jnp.full((4_000, 8, 8, 1), 0.5)
    np.testing.assert_array_equal(change(x, KEY, 0.0), x)
    centre = np.asarray(change(x, KEY, 0.3))
    same = np.mean(np.all(centre == 0.5, axis=(1, 2, 3)))  # a shift by no pixel in both directions: 1 of 9
    assert abs(same - 0.7 * 0.7 * (1 - 0.3 * 8 / 9)) < 0.03
    slope = jax.grad(lambda x: jnp.sum(change(x, KEY, 1.0)))(jnp.full((64, 8, 8, 1), 0.5))
    assert np.isfinite(slope).all() and float(jnp.mean(slope != 0)) > 0.4


def test_probability():
    check_probability(augmented)
    rejects(check_probability, lambda x, key, p: augmented(x, key, 0.5 * p))
    rejects(check_probability, lambda x, key, p: augmented(augmented(x, key, p), jax.random.key(9), p))
    rejects(check_probability, lambda x, key, p: jax.lax.stop_gradient(augmented(x, key, p)))


def check_adapted(step):
    """Towards the target from both sides, by B / horizon, inside [0, 0.8]."""
    sure, unsure = jnp.where(jnp.arange(100) < 90, 1.0, -3.0), jnp.where(jnp.arange(100) < 70, 5.0, -0.1)  # 0.8, 0.4
    assert float(step(jnp.float32(0.2), sure, 0.6, 1_000.0)) == pytest.approx(0.3)
    assert float(step(jnp.float32(0.2), unsure, 0.6, 1_000.0)) == pytest.approx(0.1)
    assert float(step(jnp.float32(0.05), unsure, 0.6, 1_000.0)) == 0.0
    assert float(step(jnp.float32(0.79), sure, 0.6, 1_000.0)) == pytest.approx(0.8)


def test_adapted():
    check_adapted(adapted)
    rejects(check_adapted, lambda p, scores, target, horizon: adapted(p, -scores, target, horizon))
    rejects(check_adapted, lambda p, scores, target, horizon: adapted(p, scores, 0.3, horizon))
    rejects(
        check_adapted,
        lambda p, scores, target, horizon: adapted(p, jnp.mean(scores)[None].repeat(100), target, horizon),
    )


def test_bad_input():
    with pytest.raises(BadInput, match="shape"):
        augmented(jnp.ones((8, 8, 1)), KEY)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(BadInput, match="probability"):
            augmented(jnp.ones((1, 8, 8, 1)), KEY, wrong)
    with pytest.raises(BadInput, match="target = nan"):
        adapted(jnp.float32(0), jnp.ones(2), target=float("nan"))
    with pytest.raises(BadInput, match="horizon = 0"):
        adapted(jnp.float32(0), jnp.ones(2), horizon=0)

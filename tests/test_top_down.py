"""The very deep VAE on 2x2 binary pixels: KL of each layer against Monte Carlo, probabilities that sum to one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_images import scattered
from planted import rejects

from genjax.distributions import kl_normal, sample_normal
from genjax.errors import BadInput
from genjax.models import top_down
from genjax.models.observation import bernoulli
from genjax.models.top_down import Bottleneck, TopDownBlock, VeryDeepVAE

KEY = jax.random.key(0)
IMAGES = np.float32(list(itertools.product((0, 1), repeat=4))).reshape(16, 2, 2, 1)
SAMPLES = 4_000  # of each of the 16 images


@functools.cache
def small():
    """Three layers: one number on the first grid, two layers of 2x2 on the second; every weight far from its start.

    Posteriors that are far from their priors would give weights without a variance: the layers' last convolutions are
    scaled, so that the rates are 0.1 to 0.3 nats and p(x) is known within a few per cent.
    """
    model = VeryDeepVAE((2, 2, 1), 1, sides=(1, 2), blocks=(1, 2), width=4, latents=1)
    params = scattered(jax.jit(model.init)(KEY, jnp.asarray(IMAGES), KEY), 0.5)

    def scaled(path, leaf):
        names = [entry.key for entry in path]  # params, down_1, prior, conv_3, kernel
        laws = names[-2] == "conv_3" and names[2] in ("prior", "posterior")
        return leaf * (2.0 if names[1] == "down_0" else 0.15) if laws else leaf

    return model, jax.tree_util.tree_map_with_path(scaled, params)


def descents(model, params, key=KEY):
    """fit [n, 16], rate and log_ratio [L, n, 16] of many ways down of each image."""

    @jax.jit
    def run(params, key):
        features = model.apply(params, jnp.asarray(IMAGES), method="ascend")
        several = jax.tree.map(lambda f: jnp.tile(f, (SAMPLES, 1, 1, 1)), features)
        down = model.apply(params, several, key, SAMPLES * 16, method="descend")
        fit = bernoulli().log_prob(down.out.reshape(SAMPLES, 16, 2, 2, 1, 1), jnp.asarray(IMAGES))
        return fit, down.rate.reshape(-1, SAMPLES, 16), down.log_ratio.reshape(-1, SAMPLES, 16)

    return [np.float64(part) for part in run(params, key)]


def check_descents(fit, rate, log_ratio):
    """The mean of exp(fit + sum log_ratio) is p(x): over all images it sums to 1, within 4 standard errors.

    Given the layers above, the mean of -log_ratio is the KL: the difference of both averages to 0 in every layer and
    image, within 5 standard errors; no KL is negative, and all of them are far from 0.  sum_x exp(ELBO) <= 1.
    """
    weights = np.exp(fit + log_ratio.sum(0))
    total, error = weights.mean(0).sum(), np.sqrt((weights.var(0) / SAMPLES).sum())
    assert error < 0.02 and abs(total - 1.0) < 4 * error
    difference = rate + log_ratio
    assert np.all(np.abs(difference.mean(1)) < 5 * difference.std(1) / np.sqrt(SAMPLES))
    assert np.all(rate >= -1e-5) and np.all(rate.mean(1).mean(-1) > 0.05)
    elbo = (fit - rate.sum(0)).mean(0)
    assert np.exp(elbo).sum() <= 1.0 + 4 * error
    assert np.all(elbo <= np.log(weights.mean(0)) + 0.05)


def test_layers():
    check_descents(*descents(*small()))


PATCHES = {
    "KL of exchanged arguments": {"kl_normal": lambda mq, vq, mp, vp: kl_normal(mp, vp, mq, vq)},
    "KL of deviations for variances": {"kl_normal": lambda mq, vq, mp, vp: kl_normal(mq, vq / 2, mp, vp / 2)},
    "noise of another scale": {"sample_normal": lambda m, v, key: sample_normal(m, 2 * v, key)},
    "one noise in all layers": {"sample_normal": lambda m, v, key: sample_normal(m, v, KEY)},
    "noise of a standard normal": {"sample_normal": lambda m, v, key: sample_normal(m, 0 * v, key)},
}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
def test_layers_reject(patch, monkeypatch):
    for name, planted in patch.items():
        monkeypatch.setattr(top_down, name, planted)
    rejects(check_descents, *descents(*small()))


def test_layers_reject_lost_terms():
    fit, rate, log_ratio = descents(*small())
    for layer in range(3):
        others = (np.arange(3) != layer).reshape(3, 1, 1)
        rejects(check_descents, fit, rate, log_ratio * others)
        rejects(check_descents, fit, rate * others, log_ratio)
    rejects(check_descents, fit, rate, -log_ratio)
    rejects(check_descents, fit / 4, rate, log_ratio)


def test_where_the_posterior_is_the_prior_every_rate_is_zero():
    """With last convolutions of zeros in both, both are N(0, 1) in every layer: no rate, no log ratio."""
    model, params = small()

    def silenced(path, leaf):
        names = [entry.key for entry in path]
        return 0.0 * leaf if names[-2] == "conv_3" and names[2] in ("prior", "posterior") else leaf

    fit, rate, log_ratio = descents(model, jax.tree_util.tree_map_with_path(silenced, params))
    np.testing.assert_array_equal(rate, 0.0)
    np.testing.assert_array_equal(log_ratio, 0.0)
    assert np.ptp(fit) > 1.0


@pytest.mark.slow
def test_twenty_two_layers_start_finite():
    """The first rates and gradients of a deep model are finite, every KL above 0 and below 10 nats a latent."""
    model = VeryDeepVAE((2, 2, 1), 1, sides=(1, 2), blocks=(11, 11), width=8, latents=2)
    x = jnp.asarray(IMAGES[5:9])
    params = model.init(KEY, x, KEY)  # not jitted: layers of one shape share what is compiled

    def loss(params):
        down = model.apply(params, x, KEY)
        return (down.rate.sum(0) - bernoulli().log_prob(down.out, x)).mean(), down.rate

    (value, rate), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    assert rate.shape == (22, 4) and np.isfinite(value)
    sizes = np.repeat([1, 4], [11, 11]) * 2
    assert np.all(rate >= 0.0) and np.all(np.asarray(rate).mean(1) > 0.0)
    assert np.all(np.asarray(rate).mean(1) / sizes < 10.0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_informed_layers_and_temperature():
    """Layers beyond the informed ones come from the prior: no rate, and at temperature 0 no noise."""
    model, params = small()
    features = model.apply(params, jnp.asarray(IMAGES), method="ascend")
    run = lambda key, **how: jax.jit(lambda key: model.apply(params, features, key, 16, method="descend", **how))(key)
    part = run(KEY, informed=1)
    assert np.all(part.rate[0] > 0.0) and not np.any(part.rate[1:]) and not np.any(part.log_ratio[1:])
    np.testing.assert_allclose(part.rate[0], run(KEY).rate[0], rtol=1e-5)
    free = model.apply(params, None, KEY, 3, method="descend")
    assert free.out.shape == (3, 2, 2, 1, 1) and not np.any(free.rate)
    warm = jax.jit(lambda key, t: model.apply(params, None, key, 3, temperature=t, method="descend").out)
    cold = [warm(jax.random.key(i), 0.0) for i in (1, 2)]
    np.testing.assert_allclose(cold[0], cold[1], atol=1e-6)
    assert not np.allclose(warm(KEY, 1.0), warm(jax.random.key(1), 1.0))


def test_samples_of_the_prior_have_the_images_probabilities():
    """40,000 samples against p(x) from the ways down of the posterior: another path to the same 16 numbers."""
    model, params = small()
    fit, _, log_ratio = descents(model, params)
    weights = np.exp(fit + log_ratio.sum(0))
    out = jax.jit(lambda p: model.apply(p, None, KEY, 40_000, method="descend").out)(params)
    drawn = np.asarray(bernoulli().sample(out, jax.random.key(1))).reshape(-1, 4) @ np.array([8, 4, 2, 1])
    share = np.bincount(drawn.astype(int), minlength=16) / 40_000
    error = np.sqrt(weights.var(0) / SAMPLES + share * (1 - share) / 40_000)
    assert np.all(np.abs(share - weights.mean(0)) < 4.5 * error)


def test_starts():
    """Zero weights where the paper asks for them, and uniform ones of the right scale elsewhere."""
    block = TopDownBlock(8, 4, 2, gain=0.5)
    x = jnp.ones((1, 7, 7, 8))
    params = jax.jit(block.init)(KEY, x, x, KEY)["params"]
    assert not np.any(params["prior"]["conv_3"]["kernel"])
    for name, fan_in, gain in (("latents", 2, 0.5), ("resnet", 4, 0.5), ("posterior", 4, 1.0)):
        kernel = params[name]["kernel"] if name == "latents" else params[name]["conv_3"]["kernel"]
        bound = gain / np.sqrt(fan_in)
        assert 0.7 * bound < float(jnp.abs(kernel).max()) <= bound * 1.0001
    assert params["resnet"]["conv_1"]["kernel"].shape == (3, 3, 4, 4)
    flat = jax.jit(Bottleneck(4, 8).init)(KEY, jnp.ones((1, 1, 1, 8)))["params"]
    assert flat["conv_1"]["kernel"].shape == (1, 1, 4, 4)


def test_bad_input():
    for sides, blocks, message in (
        ((2, 3, 4), (1, 1, 1), "ascending, each a divisor"),
        ((1, 2), (1, 1), "4x4 pixels"),
        ((1, 4), (1, 0), "one a grid"),
        ((1, 4), (1,), "2 whole numbers"),
    ):
        model = VeryDeepVAE((4, 4, 1), 1, sides, blocks, width=4)
        with pytest.raises(BadInput, match=message):
            jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32), KEY)
    with pytest.raises(BadInput, match="axis of channels"):
        jax.eval_shape(small()[0].init, KEY, jax.ShapeDtypeStruct((4, 2, 2), jnp.float32), KEY)


def check_mixed(mix):
    """Where all rows follow one, images and states are its own, and means differ by the features alone."""
    model, params = small()
    features = model.apply(params, jnp.asarray(IMAGES), method="ascend")
    down = model.apply(params, features, KEY, 16, mix=mix, method="descend")
    plain = model.apply(params, features, KEY, 16, method="descend")
    np.testing.assert_allclose(down.out, np.broadcast_to(plain.out[:1], down.out.shape), rtol=1e-5, atol=1e-5)
    alike = model.apply(params, [f[:1].repeat(16, 0) for f in features], KEY, 16, mix=mix, method="descend")
    for own, together, same in zip(plain.mean, down.mean, alike.mean, strict=True):
        np.testing.assert_allclose(together[0], own[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(same, np.broadcast_to(own[:1], same.shape), rtol=1e-5, atol=1e-5)
    assert float(down.mean[1].var(axis=0).max()) > 1e-8


def test_rows_that_follow_the_first():
    check_mixed(lambda z: jnp.broadcast_to(z[:1], z.shape))
    rejects(check_mixed, lambda z: z)
    rejects(check_mixed, lambda z: jnp.broadcast_to(z[1:2], z.shape))
    rejects(check_mixed, lambda z: jnp.broadcast_to(z.mean(axis=0, keepdims=True), z.shape))


def test_what_comes_from_the_prior_is_not_mixed():
    model, params = small()
    nothing = model.apply(params, None, KEY, 3, mix=lambda z: 0.0 * z, method="descend")
    assert float(jnp.abs(nothing.out[0] - nothing.out[1]).max()) > 1e-3

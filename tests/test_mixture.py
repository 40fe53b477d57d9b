"""The discretised mixture of logistics: normalised at every scale, for one to three channels; against planted bugs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from planted import check_frequencies, rejects

from genjax import distributions as d
from genjax.errors import BadInput
from genjax.models.observation import check_support, logistic_mixture

LOG_PROB = jax.jit(d.logistic_mixture_log_prob, static_argnums=5)
SCALES = np.float32(np.log([1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 1e2, 1e3]))  # in units of the whole range of grey


def mixture(channels, components=3, seed=0, log_scales=None):
    """logits, locations, log_scales, coefficients of one pixel, or of one for each of `log_scales`."""
    rng = np.random.default_rng(seed)
    lead = () if log_scales is None else log_scales.shape
    shapes = (
        (components,),
        (channels, components),
        (channels, components),
        (channels * (channels - 1) // 2, components),
    )
    logits, locations, spread, coefficients = (rng.normal(size=shape) for shape in shapes)
    scales = 0.3 * spread - 2.0 + (0.0 if log_scales is None else 2.0 + log_scales[..., None, None])
    parts = (logits, 0.5 + 0.5 * locations, scales, np.tanh(2 * coefficients))
    return tuple(
        np.float32(np.broadcast_to(part, lead + part.shape[-len(shape) :]))
        for part, shape in zip(parts, shapes, strict=True)
    )


def colours(levels, channels):
    """Every value of a pixel, [levels^channels, channels]."""
    return np.float32(list(itertools.product(range(levels), repeat=channels))) / (levels - 1)


def at_each(log_prob, parts, levels):
    """[colours, ...]: the log-probability of every value of a pixel under every mixture."""
    channels, lead = parts[1].shape[-2], parts[0].shape[:-1]
    grid = colours(levels, channels)
    x = np.broadcast_to(grid.reshape(len(grid), *(1,) * len(lead), channels), (len(grid), *lead, channels))
    spread = [np.broadcast_to(part[None], (len(grid), *part.shape)) for part in parts]
    return np.float64(log_prob(x, *spread, levels))


def check_is_normalised(log_prob):
    """The sum over all values is 1 within 2e-5: 256 levels of one channel, 4 and 3 levels of three, at every scale."""
    for channels, levels in ((1, 256), (3, 4), (2, 3), (3, 2)):
        totals = np.exp(at_each(log_prob, mixture(channels, log_scales=SCALES), levels)).sum(0)
        np.testing.assert_allclose(totals, 1.0, atol=2e-5)


def exact(x, logits, locations, log_scales, coefficients, levels, middle=0.5):
    """log p from the definition: float64, differences of the logistic function where they do not cancel."""
    x, logits, locations, log_scales, coefficients = map(np.float64, (x, logits, locations, log_scales, coefficients))
    log_p = scipy.special.log_softmax(logits, -1)
    half = 0.5 / (levels - 1)
    number = 0
    for c in range(x.shape[-1]):
        centre = locations[..., c, :]
        for e in range(c):
            centre = centre + coefficients[..., number, :] * (x[..., e, None] - middle)
            number += 1
        value, scale = x[..., c, None], np.exp(log_scales[..., c, :])
        upper = np.where(value > 1 - half, np.inf, (value + half - centre) / scale)
        lower = np.where(value < half, -np.inf, (value - half - centre) / scale)
        right = centre < value  # take the tail that is small: nothing is lost to 1 - tiny
        mass = np.where(
            right,
            scipy.special.expit(-lower) - scipy.special.expit(-upper),
            scipy.special.expit(upper) - scipy.special.expit(lower),
        )
        log_p = log_p + np.log(mass)
    return scipy.special.logsumexp(log_p, -1)


def check_is_the_definition(log_prob):
    """Every value of a pixel within 1e-4 nats of the definition, for moderate scales."""
    for channels, levels in ((1, 17), (2, 5), (3, 4)):
        parts = mixture(channels, seed=channels)
        np.testing.assert_allclose(at_each(log_prob, parts, levels), at_each(exact, parts, levels), atol=1e-4)


def test_sums_to_one_at_every_scale():
    check_is_normalised(LOG_PROB)


def test_is_the_definition():
    check_is_the_definition(LOG_PROB)


def no_edges(x, logits, locations, log_scales, coefficients, levels):
    """The inner formula at black and white too: the mass outside of [0, 1] is lost."""
    centres = jnp.broadcast_to(jnp.float32(locations), (*x.shape, logits.shape[-1]))
    value = jnp.broadcast_to(jnp.float32(x)[..., None], centres.shape)
    inside = jnp.clip(value, 1.0 / (levels - 1), 1.0 - 1.0 / (levels - 1))
    each = d.discretized_logistic_log_prob(inside, centres + inside - value, log_scales, levels).sum(-2)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + each, axis=-1)


def looking_ahead(x, logits, locations, log_scales, coefficients, levels):
    """The first channel leans on the last: the factors no longer sum to 1 in turn."""
    lean = 0.6 * (x[..., -1:, None] - 0.5)
    locations = locations + np.pad(lean, [(0, 0)] * (lean.ndim - 2) + [(0, x.shape[-1] - 1), (0, 0)])
    return LOG_PROB(x, logits, locations, log_scales, coefficients, levels)


def of_channels(x, logits, locations, log_scales, coefficients, levels):
    """A component for each channel: normalised, but another distribution."""
    parts = [
        LOG_PROB(
            x[..., c : c + 1],
            logits,
            locations[..., c : c + 1, :],
            log_scales[..., c : c + 1, :],
            coefficients[..., :0, :],
            levels,
        )
        for c in range(x.shape[-1])
    ]
    return sum(parts)


def changed(**how):
    """The library's function with some arguments changed."""

    def log_prob(x, *parts):
        names = ("logits", "locations", "log_scales", "coefficients", "levels")
        given = dict(zip(names, parts, strict=True))
        return LOG_PROB(x, *{**given, **{name: change(given) for name, change in how.items()}}.values())

    return log_prob


NOT_NORMALISED = {
    "no edges": no_edges,
    "looks ahead": looking_ahead,
    "weights not normalised": lambda x, l, *rest: LOG_PROB(x, l, *rest) + jax.nn.logsumexp(l, axis=-1),
}
OTHERS = {
    "no dependence of channels": changed(coefficients=lambda given: 0 * given["coefficients"]),
    "coefficients in another order": changed(coefficients=lambda given: given["coefficients"][..., ::-1, :]),
    "channels not centred": lambda *parts: exact(*parts, middle=0.0),
    "a component a channel": of_channels,
    "equal weights": changed(logits=lambda given: 0 * given["logits"]),
    "scales for their logarithms": changed(log_scales=lambda given: np.exp(given["log_scales"])),
}


@pytest.mark.parametrize("mutant", NOT_NORMALISED.values(), ids=NOT_NORMALISED)
def test_normalisation_rejects(mutant):
    rejects(check_is_normalised, mutant)


@pytest.mark.parametrize("mutant", OTHERS.values(), ids=OTHERS)
def test_definition_rejects(mutant):
    rejects(check_is_the_definition, mutant)


def test_gradients_are_finite_at_every_scale():
    parts = mixture(3, log_scales=SCALES)
    x = np.broadcast_to(np.float32([0.0, 1.0, 1 / 255]), (len(SCALES), 3))
    gradients = jax.jit(jax.grad(lambda *p: LOG_PROB(x, *p, 256).sum(), argnums=(0, 1, 2, 3)))(*parts)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


# -- samples and mean --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "levels"), [(1, 17), (3, 3)])
def test_samples(channels, levels):
    """Chi-square of 20,000 pixels against the probabilities of all values."""
    parts = mixture(channels, seed=5)
    log_p = at_each(LOG_PROB, parts, levels)
    code = levels ** np.arange(channels)[::-1]

    def sampler(parts):
        def sample(n, key):
            spread = [np.broadcast_to(part[None], (n, *part.shape)) for part in parts]
            drawn = np.asarray(jax.jit(d.sample_logistic_mixture, static_argnums=4)(*spread, levels, key))
            return np.rint(drawn * (levels - 1)) @ code[:, None]

        return sample

    log_prob = lambda value: log_p[value : value + 1]
    check_frequencies(sampler(parts), log_prob, range(levels**channels))
    logits, locations, log_scales, coefficients = parts
    rejects(check_frequencies, sampler((0 * logits, *parts[1:])), log_prob, range(levels**channels))
    rejects(
        check_frequencies,
        sampler((logits, locations, log_scales + 0.3, coefficients)),
        log_prob,
        range(levels**channels),
    )
    if channels > 1:
        rejects(check_frequencies, sampler((*parts[:3], 0 * coefficients)), log_prob, range(levels**channels))


def test_mean():
    """Exact for one channel; for three, within 2e-4 where the scale is near a level and no mass lies at the edges."""
    parts = mixture(1)
    expected = np.exp(at_each(exact, parts, 17)) @ colours(17, 1)[:, 0]
    np.testing.assert_allclose(d.logistic_mixture_mean(*parts, 17)[0], expected, atol=1e-5)
    logits, locations, log_scales, coefficients = mixture(3)
    parts = (logits, 0.5 + 0.1 * (locations - 0.5), log_scales - 1.3, 0.3 * coefficients)
    p = np.exp(at_each(exact, parts, 20))
    assert p.reshape(20, 20, 20)[[0, -1]].sum() < 1e-4
    np.testing.assert_allclose(d.logistic_mixture_mean(*parts, 20), p @ colours(20, 3), atol=2e-4)


# -- the likelihood ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "components"), [(1, 4), (3, 5), (3, 3)])
def test_likelihood_of_an_image(channels, components):
    """Images of 1 x 2 pixels: the sum over all of them is 1, and pixels are independent."""
    likelihood = logistic_mixture(3, components, channels)
    assert likelihood.multiplier * channels >= components * (1 + 2 * channels + channels * (channels - 1) // 2)
    out = jax.random.normal(jax.random.key(1), (1, 1, 2, channels, likelihood.multiplier))
    grid = colours(3, 2 * channels).reshape(-1, 1, 2, channels)
    log_p = jax.jit(likelihood.log_prob)(jnp.broadcast_to(out, (len(grid), *out.shape[1:])), grid)
    assert log_p.shape == (len(grid),)
    assert np.exp(np.float64(log_p)).sum() == pytest.approx(1.0, abs=1e-5)
    drawn, mean = jax.jit(likelihood.sample)(out, jax.random.key(2)), jax.jit(likelihood.mean)(out)
    assert drawn.shape == mean.shape == (1, 1, 2, channels)
    assert set(np.rint(2 * np.asarray(drawn)).reshape(-1)) <= {0.0, 1.0, 2.0}


def test_samples_of_the_likelihood_have_its_mean():
    likelihood = logistic_mixture(17, 3)
    out = jax.random.normal(jax.random.key(1), (1, 2, 2, 1, likelihood.multiplier))
    drawn = jax.jit(likelihood.sample)(jnp.broadcast_to(out, (20_000, *out.shape[1:])), jax.random.key(2))
    np.testing.assert_allclose(drawn.mean(0), jax.jit(likelihood.mean)(out)[0], atol=0.01)


def test_components_start_apart():
    """With numbers that are all zero the mean is mid-grey and no component is another's copy."""
    likelihood = logistic_mixture(256, 4)
    out = jnp.zeros((1, 1, 1, 1, likelihood.multiplier))
    assert float(jax.jit(likelihood.mean)(out)[0, 0, 0, 0]) == pytest.approx(0.5, abs=1e-3)
    slope = jax.jit(jax.grad(lambda out: likelihood.log_prob(out, jnp.full((1, 1, 1, 1), 0.2))[0]))(out).reshape(3, 4)
    assert np.unique(np.round(slope[1], 5)).size == 4


def test_refusals():
    parts = mixture(2)
    with pytest.raises(BadInput, match="2 locations and 1 coefficients for 3 channels"):
        LOG_PROB(np.zeros(3, np.float32), *parts, 4)
    with pytest.raises(BadInput, match="levels = 1"):
        logistic_mixture(1)
    with pytest.raises(BadInput, match="mixture of 5 logistics"):
        check_support(type("set", (), {"name": "digits", "levels": 17}), logistic_mixture(256))

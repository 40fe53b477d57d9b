"""Mixture priors: densities that integrate to one, brute-force sums, exemplars that leave the example itself out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from planted import rejects

from genjax.data import Split, resampled, scaled
from genjax.data.exemplars import with_exemplars
from genjax.distributions.latent import (
    component_log_probs,
    diagonal_normal,
    independent_bernoulli,
    normal_mixture,
    path_log_probs,
    standard_normal,
)
from genjax.errors import BadInput
from genjax.models.blocks import MLP
from genjax.models.priors import PseudoInputs, check_components, exemplar_prior
from genjax.models.vae import DenseEncoder

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
MEAN, LOG_VAR = RANDOM.normal(size=(5, 2)) * 2, RANDOM.uniform(-2, 1, (5, 2))  # five components in the plane
LINE = np.linspace(-14.0, 14.0, 561)


def exact(z, mean, log_var):
    """log 1/K sum_k N(z; ...) in float64: z [n, D] -> [n]."""
    each = scipy.stats.norm.logpdf(z[:, None], mean[None], np.exp(log_var / 2)[None]).sum(-1)
    return scipy.special.logsumexp(each, axis=1) - np.log(len(mean))


def check_mixture(build):
    """Equal to the brute-force sum within 1e-4 nats at 200 points; its integral over line and plane is 1."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(200, 2)) * 3
    law = build(jnp.float32(MEAN), jnp.float32(LOG_VAR))
    np.testing.assert_allclose(law.log_prob(jnp.float32(z)), exact(z, MEAN, LOG_VAR), atol=1e-4)
    step = LINE[1] - LINE[0]
    plane = np.stack(np.meshgrid(LINE, LINE, indexing="ij"), -1)
    assert abs(np.exp(np.float64(law.log_prob(jnp.float32(plane)))).sum() * step**2 - 1.0) < 1e-4
    line = build(jnp.float32(MEAN[:, :1]), jnp.float32(LOG_VAR[:, :1]))
    assert abs(np.exp(np.float64(line.log_prob(jnp.float32(LINE[:, None])))).sum() * step - 1.0) < 1e-4
    np.testing.assert_allclose(
        line.log_prob(jnp.zeros((4, 3, 1))),
        np.full((4, 3), exact(np.zeros((1, 1)), MEAN[:, :1], LOG_VAR[:, :1])[0]),
        atol=1e-4,
    )


def check_samples(build):
    """10,000 samples of the first coordinate against its distribution function: Kolmogorov-Smirnov, p > 1e-4."""
    drawn = np.float64(build(jnp.float32(MEAN), jnp.float32(LOG_VAR)).sample(KEY, 100, 100))
    assert drawn.shape == (100, 100, 2)
    cdf = lambda x: scipy.stats.norm.cdf(x[:, None], MEAN[None, :, 0], np.exp(LOG_VAR[None, :, 0] / 2)).mean(-1)
    assert scipy.stats.kstest(drawn[..., 0].reshape(-1), cdf).pvalue > 1e-4
    both = drawn.reshape(-1, 2).prod(-1)  # the coordinates of one sample belong to one component
    assert abs(both.mean() - MEAN.prod(-1).mean()) < 5 * both.std() / 100


def test_normal_mixture():
    check_mixture(normal_mixture)
    check_samples(normal_mixture)


def changed(**parts):
    """A mixture with one function replaced, given (law, mean, log_var, ...)."""

    def build(mean, log_var):
        law = normal_mixture(mean, log_var)
        return law._replace(**{name: part(law, mean, log_var) for name, part in parts.items()})

    return build


MIXTURES = {
    "no 1/K": changed(log_prob=lambda law, m, v: lambda z: law.log_prob(z) + np.log(len(m))),
    "mean of logarithms": changed(log_prob=lambda law, m, v: lambda z: component_log_probs(z, m, v).mean(-1)),
    "the nearest component": changed(log_prob=lambda law, m, v: lambda z: component_log_probs(z, m, v).max(-1)),
    "log_var taken for log of the deviation": lambda m, v: normal_mixture(m, 2 * v),
    "one component lost": lambda m, v: normal_mixture(m[1:], v[1:]),
    "dimensions averaged": changed(log_prob=lambda law, m, v: lambda z: law.log_prob(z) / 2),
}
SAMPLERS = {
    "always one component": lambda m, v: normal_mixture(m[:1], v[:1]),
    "without noise": lambda m, v: normal_mixture(m, v - 20.0),
    "a component a dimension": changed(
        sample=lambda law, m, v: (
            lambda key, *n: jnp.stack(
                [
                    normal_mixture(m[:, i : i + 1], v[:, i : i + 1]).sample(jax.random.fold_in(key, i), *n)[..., 0]
                    for i in (0, 1)
                ],
                -1,
            )
        )
    ),
}


@pytest.mark.parametrize("mutant", MIXTURES.values(), ids=MIXTURES)
def test_normal_mixture_rejects(mutant):
    rejects(check_mixture, mutant)


@pytest.mark.parametrize("mutant", SAMPLERS.values(), ids=SAMPLERS)
def test_samples_of_mixtures_reject(mutant):
    rejects(check_samples, mutant)


def test_components_by_one_product_in_float32():
    """500 components of 40 dimensions, as a VampPrior has them: within 1e-3 nats of float64."""
    rng = np.random.default_rng(1)
    mean, log_var = rng.normal(size=(500, 40)), rng.uniform(-4, 0, (500, 40))
    z = mean[:50] + np.exp(log_var[:50] / 2) * rng.normal(size=(50, 40))
    near = np.arange(50)  # the component that each was drawn from: where the density is
    found = component_log_probs(jnp.float32(z), jnp.float32(mean), jnp.float32(log_var))[near, near]
    z, mean, log_var = (np.float64(np.float32(a)) for a in (z, mean, log_var))
    single = scipy.stats.norm.logpdf(z, mean[:50], np.exp(log_var[:50] / 2)).sum(-1)
    np.testing.assert_allclose(found, single, atol=1e-3)


def test_gradient_of_a_mixture():
    """d log p / d z = sum_k r_k (m_k - z) / v_k, r_k the responsibility of each component."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(20, 2))
    law = normal_mixture(jnp.float32(MEAN), jnp.float32(LOG_VAR))
    found = jax.grad(lambda z: law.log_prob(z).sum())(jnp.float32(z))
    each = scipy.stats.norm.logpdf(z[:, None], MEAN[None], np.exp(LOG_VAR / 2)[None]).sum(-1)
    share = scipy.special.softmax(each, axis=1)
    slope = (share[..., None] * (MEAN[None] - z[:, None]) / np.exp(LOG_VAR)[None]).sum(1)
    np.testing.assert_allclose(found, slope, rtol=1e-3, atol=1e-4)


# -- exemplars ---------------------------------------------------------------------------------------------------------

CENTRES = RANDOM.normal(size=(6, 2)) * 3
ROWS = np.array([40, 7, 3, 19, 25, 11])  # of a training set
OWN = np.array([7, 25, 8])  # the third is no exemplar
SCALE = -0.7


def check_exemplars(prior):
    """Each example against the other exemplars' average by brute force, within 1e-4 nats, for [B, D] and [k, B, D]."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(4, 3, 2)) * 3
    law = prior(jnp.float32(CENTRES), jnp.float32(SCALE), jnp.array(ROWS), jnp.array(OWN))
    found = law.log_prob(jnp.float32(z))
    np.testing.assert_allclose(found[2], law.log_prob(jnp.float32(z[2])), atol=1e-5)
    for b, own in enumerate(OWN):
        others = CENTRES[own != ROWS]
        assert len(others) == (6 if own == 8 else 5)
        np.testing.assert_allclose(found[:, b], exact(z[:, b], others, np.full_like(others, SCALE)), atol=1e-4)
    step = LINE[1] - LINE[0]
    points = jnp.broadcast_to(jnp.float32(LINE)[:, None, None], (len(LINE), 3, 1))
    line = prior(jnp.float32(CENTRES[:, :1]), jnp.float32(SCALE), jnp.array(ROWS), jnp.array(OWN)).log_prob(points)
    np.testing.assert_allclose(np.exp(np.float64(line)).sum(0) * step, 1.0, atol=1e-4)
    new = prior(jnp.float32(CENTRES), jnp.float32(SCALE)).log_prob(jnp.float32(z[0]))
    np.testing.assert_allclose(new, exact(z[0], CENTRES, np.full_like(CENTRES, SCALE)), atol=1e-4)


def test_exemplar_prior():
    check_exemplars(exemplar_prior)


def test_without_leaving_out_the_likelihood_rises():
    """The bug that the leave-one-out prevents: an image that is its own exemplar is far more probable near itself."""
    mean, rows = jnp.float32(CENTRES), jnp.array(ROWS)
    left_out = exemplar_prior(mean, jnp.float32(-4.0), rows, rows).log_prob(mean)
    counted = exemplar_prior(mean, jnp.float32(-4.0)).log_prob(mean)
    assert np.all(counted > left_out + 1.0)


def over_all(mean, log_var, rows=None, own=None):
    """The sum without the example, divided by M instead of M - 1."""
    law = exemplar_prior(mean, log_var, rows, own)
    if own is None:
        return law
    short = jnp.where(jnp.isin(own, rows), np.log(5 / 6), 0.0)
    return law._replace(log_prob=lambda z: law.log_prob(z) + jnp.broadcast_to(short, z.shape[:-1]))


EXEMPLARS = {
    "itself not left out": lambda m, v, rows=None, own=None: exemplar_prior(m, v),
    "average over all M": over_all,
    "the place in the batch for the row": lambda m, v, rows=None, own=None: (
        exemplar_prior(m, v) if own is None else exemplar_prior(m, v, jnp.arange(6), jnp.arange(3))
    ),
    "all but itself left out": lambda m, v, rows=None, own=None: (
        exemplar_prior(m, v) if own is None else exemplar_prior(m, v, jnp.where(rows == 7, 0, 7), own)
    ),
    "log of the deviation": lambda m, v, rows=None, own=None: exemplar_prior(m, 2 * v, rows, own),
}


@pytest.mark.parametrize("mutant", EXEMPLARS.values(), ids=EXEMPLARS)
def test_exemplar_prior_rejects(mutant):
    rejects(check_exemplars, mutant)


def images(rows):
    """Image i of constant grey level i."""
    return np.broadcast_to(np.arange(rows, dtype=np.uint8).reshape(-1, 1, 1, 1), (rows, 2, 2, 1)).copy()


def test_exemplars_are_rows_of_the_set():
    """Distinct rows with their own images, in an epoch of draws every row once; the batch is that of `batches`."""
    source = with_exemplars(Split({"image": images(60)}, scaled(256)), 4, 20)
    draw = jax.jit(source.batch)
    seen = []
    for step in range(3):
        batch = draw(source.resident, KEY, step)
        rows = np.asarray(batch["exemplar_row"])
        assert len(set(rows.tolist())) == 20
        np.testing.assert_allclose(batch["exemplar"][:, 0, 0, 0], rows / 255, rtol=1e-6)
        np.testing.assert_allclose(batch["image"][:, 0, 0, 0], batch["row"] / 255, rtol=1e-6)
        seen += rows.tolist()
    assert sorted(seen) == list(range(60))
    assert batch["row"].tolist() != rows[:4].tolist()  # another order than the batch's


def test_exemplars_are_not_binarized():
    source = with_exemplars(Split({"image": images(200)}, resampled(256)), 4, 150)
    batch = source.batch(source.resident, KEY, 0)
    assert set(np.unique(batch["image"])) <= {0.0, 1.0}
    assert len(np.unique(batch["exemplar"])) == 150


# -- pseudo-inputs -----------------------------------------------------------------------------------------------------


def test_vamp_prior_is_the_average_posterior_of_its_inputs():
    rng = np.random.default_rng(1)
    encoder, inputs = DenseEncoder(2, MLP((8,))), PseudoInputs(4, (3, 3, 1))
    params = inputs.init(KEY)
    pixels = params["params"]["images"]
    assert abs(float(pixels.mean()) - 0.05) < 0.01 and 0.005 < float(pixels.std()) < 0.015
    weights = encoder.init(KEY, jnp.ones((1, 3, 3, 1)))
    params["params"]["images"] = pixels.at[0, 0].set(1.5).at[1, 1].set(-0.5)
    shown = inputs.apply(params)
    assert shown.shape == (4, 3, 3, 1) and float(shown[0, 0, 0, 0]) == 1.0 and float(shown[1, 0, 1, 0]) == 0.0
    mean, log_var = (np.float64(a) for a in encoder.apply(weights, shown))
    z = rng.normal(size=(10, 2))
    vamp = lambda params: normal_mixture(*encoder.apply(weights, inputs.apply(params))).log_prob(jnp.float32(z))
    np.testing.assert_allclose(vamp(params), exact(z, mean, log_var), atol=1e-4)
    slope = jax.grad(lambda params: vamp(params).sum())(params)["params"]["images"]
    assert float(slope[0, 0]) == float(slope[1, 1]) == 0.0 and float(jnp.abs(slope).sum()) > 0.0


# -- laws in general ---------------------------------------------------------------------------------------------------


def test_laws_follow_axes_of_samples_and_of_a_batch():
    rng = np.random.default_rng(1)
    mean, log_var = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    law = diagonal_normal(jnp.float32(mean), jnp.float32(log_var))
    z, log_prob = law.draw(KEY, 4, 5)
    assert z.shape == (4, 5, 3, 2)
    np.testing.assert_allclose(
        log_prob, scipy.stats.norm.logpdf(np.float64(z), mean, np.exp(log_var / 2)).sum(-1), rtol=1e-4
    )
    np.testing.assert_allclose(
        standard_normal(2).log_prob(z), scipy.stats.norm.logpdf(np.float64(z)).sum(-1), rtol=1e-4
    )
    bits = independent_bernoulli(jnp.float32(mean))
    assert set(np.unique(bits.sample(KEY, 50))) == {0.0, 1.0}
    p = scipy.special.expit(mean)
    np.testing.assert_allclose(bits.log_prob(jnp.ones((3, 2))), np.log(p).sum(-1), rtol=1e-5)
    assert abs(np.asarray(bits.sample(KEY, 4_000)).mean(0) - p).max() < 5 * 0.5 / np.sqrt(4_000)


def test_bad_input():
    for count, rows, message in ((0, 100, "pseudo-inputs = 0"), (101, 100, "1 to 100")):
        with pytest.raises(BadInput, match=message):
            check_components("pseudo-inputs", count, 1, rows)
    with pytest.raises(BadInput, match="pseudo-inputs = 0"):
        PseudoInputs(0, (3, 3, 1)).init(KEY)
    split = Split({"image": images(10)}, scaled(256))
    for count in (1, 11):
        with pytest.raises(BadInput, match=rf"exemplars = {count}\nallowed: whole numbers from 2 to 10"):
            with_exemplars(split, 4, count)
    with pytest.raises(BadInput, match="exemplars = 1"):
        exemplar_prior(jnp.zeros((1, 2)), jnp.zeros(()))
    with pytest.raises(BadInput, match="without rows"):
        exemplar_prior(jnp.zeros((3, 2)), jnp.zeros(()), own=jnp.arange(2))
    with pytest.raises(BadInput, match=r"rows \[2\] of 3 exemplars"):
        exemplar_prior(jnp.zeros((3, 2)), jnp.zeros(()), jnp.arange(2), jnp.arange(2))
    for mean, log_var in (((0, 2), (0, 2)), ((3, 2), (3, 1)), ((3,), (3,))):
        with pytest.raises(BadInput, match=r"\[K, D\]"):
            normal_mixture(jnp.zeros(mean), jnp.zeros(log_var))
    with pytest.raises(BadInput, match="1 latents for 2 layers"):
        path_log_probs([lambda: standard_normal(1)] * 2, [jnp.zeros(1)])

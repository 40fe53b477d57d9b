"""Bits back: the stack's length is the bound, the initial bits come back, and planted bugs show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forgetful import plant
from scipy.stats import norm

from genjax.distributions import kl_normal_standard, sample_normal
from genjax.errors import BadInput
from genjax.likelihood import bits_back
from genjax.likelihood.bits_back import Autoencoder, centres, decode, encode, interval_probabilities

LOG2 = np.log(2)
LATENTS, WIDTH = 3, 12


def posterior(params, x):
    h = jnp.tanh(x.astype(jnp.float32) @ params["in"])
    return h @ params["mean"], h @ params["log_var"] - 2.0


def logits(params, z):
    return (jnp.tanh(z @ params["out"]) @ params["pixels"]).reshape(len(z), WIDTH, 3)


RANDOM = Autoencoder(3, LATENTS, posterior, logits)


def random_params(seed):
    shapes = {"in": (WIDTH, 8), "mean": (8, LATENTS), "log_var": (8, LATENTS), "out": (LATENTS, 8)}
    shapes["pixels"] = (8, WIDTH * 3)
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {n: 0.7 * jax.random.normal(k, s) for (n, s), k in zip(shapes.items(), keys, strict=True)}


def rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, 3, (count, WIDTH)).astype(np.int32)


def net_bits(coded):
    return 32 * len(coded.words) - coded.initial_bits


@pytest.mark.parametrize("count", [0, 1, 2, 100])
@pytest.mark.parametrize("precision", [1, 8, 12])
def test_what_is_coded_comes_back_at_its_length(count, precision):
    model, params = RANDOM._replace(precision=precision), random_params(count)
    coded = encode(model, params, rows(count))
    np.testing.assert_array_equal(decode(model, params, coded.words, (count, WIDTH)), rows(count))
    assert abs(net_bits(coded) - coded.nats / LOG2) <= 0.005 * coded.nats / LOG2 + 64


def test_the_length_is_the_elbo():
    """Against a Monte-Carlo estimate of the bound with continuous latents, 2,000 rows: within 1 %."""
    params, x = random_params(0), rows(2_000)
    params["mean"] = 0.3 * params["mean"]  # posteriors where the prior is, as training makes them

    @jax.jit
    def negative_elbo(key):
        mean, log_var = posterior(params, x)
        log_p = jax.nn.log_softmax(logits(params, sample_normal(mean, log_var, key)))
        fit = jnp.take_along_axis(log_p, x[..., None], axis=-1).sum()
        return kl_normal_standard(mean, log_var).sum() - fit

    bound = np.mean([float(negative_elbo(jax.random.key(i))) for i in range(20)]) / LOG2
    assert abs(net_bits(encode(RANDOM, params, x)) / bound - 1) < 0.01


def blind(mean, log_var):
    """A decoder that does not look at its latents: the ELBO is log p(x) less a divergence that is known."""
    fixed = lambda params, x: (jnp.full((1, LATENTS), mean), jnp.full((1, LATENTS), log_var))
    return Autoencoder(3, LATENTS, fixed, lambda params, z: params[None])


def test_latents_that_say_nothing_cost_nothing():
    table, x = jax.random.normal(jax.random.key(0), (WIDTH, 3)), rows(500)
    free = net_bits(encode(blind(0.0, 0.0), table, x))
    assert abs(free - exact_bits(table, x)) <= 0.005 * exact_bits(table, x) + 64  # posterior = prior


def exact_bits(table, x):
    log_p = jax.nn.log_softmax(table)[None]
    return -float(jnp.take_along_axis(log_p, x[..., None], axis=-1).sum()) / LOG2


def beyond_the_divergence():
    """What 3,000 rows that are always the same cost too much, as a share of KL(Q || P); its deviation is 1.1 %."""
    certain, x = jnp.tile(jnp.array([30.0, 0.0, 0.0]), (WIDTH, 1)), np.zeros((3_000, WIDTH), np.int32)
    divergence = float(kl_normal_standard(jnp.array(0.0), jnp.array(-2.0)))
    return net_bits(encode(blind(0.0, -2.0), certain, x)) * LOG2 / (LATENTS * len(x) * divergence) - 1


def test_posteriors_unlike_the_prior_cost_their_divergence():
    assert abs(beyond_the_divergence()) < 0.03


def test_bits_that_are_not_fair_are_caught(monkeypatch):
    """Without the shift a row draws its z from the z of the row before: a third too much."""
    none = lambda count, latents, precision: np.zeros((count, latents), np.int32)
    monkeypatch.setattr(bits_back, "shifts", none)
    assert beyond_the_divergence() > 0.1


@pytest.mark.parametrize("mean, log_var", [(0.0, 0.0), (0.5, -4.0), (-3.0, -8.0), (3.5, 1.0), (12.0, -6.0)])
def test_intervals(mean, log_var):
    found = interval_probabilities(np.array([mean]), np.array([log_var]), 6)[0]
    edges = norm.ppf(np.arange(65) / 64)
    cdf, upper = norm.cdf(edges, mean, np.exp(log_var / 2)), norm.sf(edges, mean, np.exp(log_var / 2))
    expected = np.where(edges[:-1] < mean, np.diff(cdf), -np.diff(upper))
    assert (found >= 0).all() and abs(found.sum() - 1) < 1e-12
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)
    assert (np.diff(centres(6)) > 0).all() and ((centres(6) > edges[:-1]) & (centres(6) < edges[1:])).all()


def test_a_sharp_posterior_far_out_still_codes():
    params = {**random_params(1), "mean": 300.0 * random_params(1)["mean"]}
    coded = encode(RANDOM, params, rows(20))
    np.testing.assert_array_equal(decode(RANDOM, params, coded.words, (20, WIDTH)), rows(20))


# --- planted bugs ----------------------------------------------------------------------------------------------------


def test_latents_that_are_not_returned_are_caught(monkeypatch):
    params, x = random_params(0), rows(10)
    words = encode(RANDOM, params, x).words
    plant(monkeypatch, lambda tables, call: tables == 1)
    with pytest.raises(BadInput, match="initial bits"):
        decode(RANDOM, params, words, x.shape)


def test_a_prior_that_is_left_out_is_caught(monkeypatch):
    params, x = random_params(0), rows(100)
    plant(monkeypatch, lambda tables, call: tables == 0)
    coded = encode(RANDOM, params, x)
    assert abs(net_bits(coded) - coded.nats / LOG2) > 0.005 * coded.nats / LOG2 + 64


@pytest.mark.parametrize("name", ["mean", "pixels"])
def test_another_model_is_caught(name):
    params, x = random_params(0), rows(30)
    words = encode(RANDOM, params, x).words
    other = {**params, name: params[name] * 1.0001}
    with pytest.raises(BadInput, match="initial bits"):
        decode(RANDOM, other, words, x.shape)


@pytest.mark.parametrize(
    "damage", [lambda w: w[:-1], lambda w: w[1:], lambda w: w ^ (np.arange(len(w)) == 9), lambda w: w[:0]]
)
def test_a_damaged_stack_is_caught(damage):
    params, x = random_params(0), rows(30)
    words = damage(encode(RANDOM, params, x).words)
    with pytest.raises(BadInput):
        decode(RANDOM, params, words, x.shape)

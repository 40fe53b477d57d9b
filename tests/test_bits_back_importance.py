"""Bits back with several samples: the stack grows by the importance-weighted bound, and planted bugs show."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.distributions import normal_log_prob, sample_normal
from genjax.errors import BadInput
from genjax.likelihood import bits_back_importance
from genjax.likelihood.bits_back_importance import Ensemble, decode, encode

LOG2 = np.log(2)
LATENTS, WIDTH = 2, 8


def posterior(params, x):
    h = jnp.tanh((x - 1.0) @ params["in"])
    return 0.5 * h @ params["mean"], h @ params["log_var"] - 1.0


def logits(params, z):
    return (jnp.tanh(z @ params["out"]) @ params["pixels"]).reshape(len(z), WIDTH, 3)


MODEL = Ensemble(3, LATENTS, posterior, logits, samples=6)


@functools.cache
def weights():
    sizes = {"in": (WIDTH, 6), "mean": (6, LATENTS), "log_var": (6, LATENTS), "out": (LATENTS, 6)}
    sizes["pixels"] = (6, WIDTH * 3)
    rng = np.random.default_rng(0)
    scale = {"pixels": 1.5, "out": 1.5}
    return {name: (scale.get(name, 0.3) * rng.normal(size=size)).astype("f4") for name, size in sizes.items()}


def rows(count):
    return np.random.default_rng(1).integers(0, 3, (count, WIDTH)).astype(np.int32)


def net_nats(coded):
    return (32 * len(coded.words) - coded.initial_bits) * LOG2


@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("samples", [2, 6])
def test_what_is_coded_comes_back_at_its_length(count, samples):
    model = MODEL._replace(samples=samples)
    coded = encode(model, weights(), rows(count))
    np.testing.assert_array_equal(decode(model, weights(), coded.words, (count, WIDTH)), rows(count))
    assert abs(net_nats(coded) - coded.nats) <= 0.005 * coded.nats + 64 * LOG2


@functools.cache
def bounds(count=400):
    """By densities, of all rows: -log mean w of 6 samples, of one, and of many, which is nearly -log p(x)."""
    x = rows(count)

    @functools.partial(jax.jit, static_argnums=1)
    def negative(key, samples):
        law = posterior(weights(), x)
        z = sample_normal(*(jnp.broadcast_to(part[None], (samples, *part.shape)) for part in law), key)
        log_p = jax.nn.log_softmax(jax.vmap(lambda one: logits(weights(), one))(z))
        fit = jnp.take_along_axis(log_p, jnp.broadcast_to(x[None, ..., None], (samples, *x.shape, 1)), -1).sum((-2, -1))
        standard = normal_log_prob(z, jnp.zeros_like(z), jnp.zeros_like(z)).sum(-1)
        own = normal_log_prob(z, law[0][None], law[1][None]).sum(-1)
        return (jnp.log(samples) - jax.nn.logsumexp(fit + standard - own, axis=0)).sum()

    keys = jax.random.split(jax.random.key(0), 60)
    six, one = (np.array([float(negative(key, s)) for key in keys]) for s in (6, 1))
    return six.mean(), six.std(), one.mean(), float(negative(keys[0], 2_000))


def test_the_length_is_the_bound_of_several_samples():
    six, deviation, one, many = bounds()
    assert one - six > 8 * deviation and six > many  # so that the test can tell them apart
    assert abs(net_nats(encode(MODEL, weights(), rows(400))) - six) < 4 * deviation


# --- planted bugs ----------------------------------------------------------------------------------------------------


def differs():
    """By how many deviations the stream is longer than the bound."""
    six, deviation, *_ = bounds()
    return (net_nats(encode(MODEL, weights(), rows(400))) - six) / deviation


def test_weights_that_do_not_count_are_caught(monkeypatch):
    """Any of the six, alike: the bound of one sample."""
    monkeypatch.setattr(bits_back_importance, "_odds", lambda log_w: np.full((1, len(log_w)), 1 / len(log_w)))
    assert differs() > 6


def test_weights_without_the_posterior_are_caught(monkeypatch):
    exact = bits_back_importance._weights
    flat = lambda model, params, x, z, q: exact(model, params, x, z, np.full_like(q, 2.0**-model.precision))
    monkeypatch.setattr(bits_back_importance, "_weights", flat)
    coded = encode(MODEL, weights(), rows(100))
    assert abs(net_nats(coded) - coded.nats) > 0.005 * abs(coded.nats) + 64 * LOG2


def caught(words, params=None, model=MODEL):
    with pytest.raises(BadInput):
        decode(model, weights() if params is None else params, words, (20, WIDTH))


def test_latents_put_back_in_another_order_are_caught(monkeypatch):
    words = encode(MODEL, weights(), rows(20)).words
    exact = np.insert
    with monkeypatch.context() as context:
        context.setattr(np, "insert", lambda others, j, one, axis: exact(others, 0, one, axis=axis))
        caught(words)
    decode(MODEL, weights(), words, (20, WIDTH))


@pytest.mark.parametrize("name", ["mean", "pixels"])
def test_another_model_is_caught(name):
    words = encode(MODEL, weights(), rows(20)).words
    caught(words, {**weights(), name: 1.0001 * weights()[name]})
    caught(words, model=MODEL._replace(samples=5))


@pytest.mark.parametrize(
    "damage", [lambda w: w[:-1], lambda w: w[1:], lambda w: w ^ (np.arange(len(w)) == 9), lambda w: w[:0]]
)
def test_a_damaged_stack_is_caught(damage):
    caught(damage(encode(MODEL, weights(), rows(20)).words).astype(np.uint32))


def test_one_sample_is_the_other_file():
    with pytest.raises(BadInput, match="bits_back"):
        encode(MODEL._replace(samples=1), weights(), rows(2))

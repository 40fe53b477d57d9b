"""Bits back through several layers: one layer is the autoencoder's stream, several cost their bound, bugs show."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forgetful import plant

from genjax.corruption.gaussian import times_of
from genjax.corruption.schedules import cosine
from genjax.distributions import kl_normal, sample_normal
from genjax.errors import BadInput
from genjax.likelihood import bits_back, bits_back_chain, bits_back_diffusion
from genjax.likelihood.bits_back import Autoencoder
from genjax.likelihood.bits_back_chain import Chain, Layer, decode, encode
from genjax.likelihood.bits_back_diffusion import diffusion_chain, of_denoised
from genjax.likelihood.diffusion import of_levels, stepwise_bound

LOG2 = np.log(2)
SIZES, WIDTH = (2, 3), 10


def dense(name, out):
    """A small network of a name's own weights."""
    return lambda params, *h: jnp.tanh(jnp.concatenate(h, axis=1) @ params[name][0]) @ params[name][1]


def layer(i, size):
    def prior(params, state, _):
        return jnp.split(dense(f"p{i}", 2 * size)(params, state), 2, axis=1)

    def posterior(params, x, state, _):
        mean, log_var = jnp.split(dense(f"q{i}", 2 * size)(params, x, state), 2, axis=1)
        return mean, log_var - 1.5

    return Layer(size, prior, posterior, lambda params, state, z, _: state + dense(f"f{i}", 4)(params, z, state))


def logits(params, state):
    return dense("out", WIDTH * 3)(params, state).reshape(-1, WIDTH, 3)


CHAIN = Chain(
    3,
    [layer(i, size) for i, size in enumerate(SIZES)],
    lambda params: jnp.ones((1, 4)),
    lambda params, x: x.astype(jnp.float32) - 1.0,
    logits,
)


@functools.cache
def weights(seed=0):
    sizes = {"out": (4, WIDTH * 3)}
    for i, size in enumerate(SIZES):
        sizes |= {f"p{i}": (4, 2 * size), f"q{i}": (WIDTH + 4, 2 * size), f"f{i}": (size + 4, 4)}
    rng = np.random.default_rng(seed)
    scales = {"q": 0.3, "p": 0.2, "f": 0.6, "o": 0.6}  # posteriors inside of the priors, as training makes them
    draw = lambda name, *size: scales[name[0]] * rng.normal(size=size).astype("f4")
    return {name: [draw(name, a, 6), draw(name, 6, b)] for name, (a, b) in sizes.items()}


def rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, 3, (count, WIDTH)).astype(np.int32)


def net_bits(coded):
    return 32 * len(coded.words) - coded.initial_bits


@pytest.mark.parametrize("count", [0, 1, 2, 60])
@pytest.mark.parametrize("precision", [1, 10])
def test_what_is_coded_comes_back_at_its_length(count, precision):
    model = CHAIN._replace(precision=precision)
    coded = encode(model, weights(), rows(count))
    np.testing.assert_array_equal(decode(model, weights(), coded.words, (count, WIDTH)), rows(count))
    assert abs(net_bits(coded) - coded.nats / LOG2) <= 0.005 * coded.nats / LOG2 + 64
    assert 0 <= coded.initial_bits <= 24 * sum(SIZES) + 96


def test_one_layer_is_the_autoencoder():
    """Word by word the stream of another file, but for the initial bits that are left out, and how many these are."""
    posterior = lambda params, x: jnp.split(dense("q0", 4)(params, x - 1.0, jnp.ones((1, 4))), 2, axis=1)
    pixels = lambda params, z: logits(params, jnp.concatenate([z, z], axis=1))
    plain = lambda params, state, i: (jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    single = Layer(2, plain, lambda params, x, state, i: posterior(params, x), lambda params, state, z, i: z)
    chain = Chain(3, [single], lambda params: jnp.zeros((1, 2)), lambda params, x: x, pixels)
    # the state is z, so that the network gets what the autoencoder's gets
    one = encode(chain, weights(), rows(50))
    other = bits_back.encode(Autoencoder(3, 2, posterior, pixels), weights(), rows(50))
    left_out = (other.initial_bits - one.initial_bits) // 32
    np.testing.assert_array_equal(one.words[:-2], other.words[left_out : left_out + len(one.words) - 2])
    assert one.nats == other.nats and len(one.words) >= 30


def negative_elbo(params, x, key):
    """By densities, of all rows together."""
    seen, state, total = CHAIN.observe(params, x), jnp.ones((len(x), 4)), 0.0
    for i, one in enumerate(CHAIN.layers):
        q, p = one.posterior(params, seen, state, i), one.prior(params, state, i)
        total += kl_normal(*q, *p).sum()
        state = one.follow(params, state, sample_normal(*q, jax.random.fold_in(key, i)), i)
    log_p = jax.nn.log_softmax(CHAIN.logits(params, state))
    return total - jnp.take_along_axis(log_p, x[..., None], axis=-1).sum()


def beyond_the_bound(count=1_000):
    """The stream over 200 draws of the bound by densities, less 1; three deviations of one draw are 0.8 %."""
    x = rows(count)
    own = jax.jit(lambda key: negative_elbo(weights(), x, key))
    bound = np.mean([float(own(jax.random.key(i))) for i in range(200)])
    return net_bits(encode(CHAIN, weights(), x)) * LOG2 / bound - 1


def test_the_length_is_the_bound():
    assert abs(beyond_the_bound()) < 0.01


# --- diffusion -------------------------------------------------------------------------------------------------------

VALUES = np.array([-1.0, 0.0, 1.0])
ODDS = np.array([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.4, 0.1, 0.5], [0.02, 0.03, 0.95]])
PROCESS = cosine(0.01, 0.995)
GRID = np.append(PROCESS.last, times_of(PROCESS, np.linspace(-2.0, 4.0, 9)))
CUT = PROCESS._replace(first=GRID[-1])


def exactly(params):
    """E[x | z] of four independent pixels with known odds of three levels."""

    def denoise(z, t):
        alpha, sigma = (f(t).reshape(-1, 1, 1) for f in (PROCESS.alpha, PROCESS.sigma))
        far = -0.5 * ((z[..., None] - alpha * VALUES.reshape(1, 1, -1)) / sigma) ** 2
        return jax.nn.softmax(far + jnp.log(ODDS)[None], axis=-1) @ jnp.asarray(VALUES, jnp.float32)

    return denoise


def pixels(count):
    u, edges = np.random.default_rng(0).random((count, 4, 1)), ODDS.cumsum(axis=1)[None]
    return (u > edges[..., :-1]).sum(-1).astype(np.int32)


DIFFUSION = diffusion_chain(PROCESS, exactly, VALUES, GRID, (4,), 8)


@functools.cache
def stepwise():
    """The file of the bound, 100 draws of each row; a deviation of one draw is about 2.5 %."""
    x = jnp.asarray(VALUES, jnp.float32)[pixels(600)]
    last = of_denoised(CUT, exactly(None), VALUES)
    one = jax.jit(lambda key: stepwise_bound(CUT, exactly(None), last, GRID, x, key).total().sum())
    draws = np.array([float(one(jax.random.key(i))) for i in range(100)])
    return draws.mean(), draws.std()


def beyond_the_stepwise_bound(model=DIFFUSION):
    """How many deviations of a draw the coded length is away from the mean."""
    mean, deviation = stepwise()
    return (net_bits(encode(model, None, pixels(600))) * LOG2 - mean) / deviation


def test_diffusion_costs_its_bound():
    mean, deviation = stepwise()
    assert deviation < 0.03 * mean
    assert abs(beyond_the_stepwise_bound()) < 4
    entropy = -600 * (ODDS * np.log(ODDS)).sum()
    assert 0 < mean / entropy - 1 < 1  # a bound, in nine steps


def test_diffusion_comes_back():
    coded = encode(DIFFUSION, None, pixels(20))
    np.testing.assert_array_equal(decode(DIFFUSION, None, coded.words, (20, 4)), pixels(20))


def test_what_the_network_says_beats_each_pixel_by_itself():
    """At the end of a grid that stops early; and where no noise is left both are certain."""
    key, x = jax.random.key(0), jnp.asarray(VALUES, jnp.float32)[pixels(600)]
    bounds = [stepwise_bound(CUT, exactly(None), f, GRID, x, key).reconstruction.sum() for f in (
        of_denoised(CUT, exactly(None), VALUES), of_levels(CUT, VALUES))]  # fmt: skip
    assert bounds[0] < bounds[1]
    assert float(of_denoised(PROCESS, lambda z, t: z, VALUES)(x, x).max()) < 1e-6


def test_what_is_no_level_has_no_likelihood():
    """It would get that of the level next to it."""
    x, f = jnp.full((1, 4), -1.0), of_denoised(CUT, exactly(None), VALUES)
    assert np.isfinite(f(x, x)).all() and np.isinf(f(x.at[0, 2].set(-1.1), x)).all()


@pytest.mark.parametrize("grid", [GRID[1:], GRID[::-1], [2.0, 1.0]])
def test_grids_that_are_refused(grid):
    with pytest.raises(BadInput, match="allowed"):
        diffusion_chain(PROCESS, exactly, VALUES, np.asarray(grid), (4,))
    for values, said in ((VALUES[:1], "at least two"), (VALUES[[0, 1, 0]], "different")):
        with pytest.raises(BadInput, match=said):
            diffusion_chain(PROCESS, exactly, values, GRID, (4,))


# --- planted bugs ----------------------------------------------------------------------------------------------------


def narrow(process, grid):
    keep, own, data, log_var = PLAN(process, grid)
    return keep, own, data, log_var - 1.0


def unscaled(process, grid):
    """x' and x as they are in the place of alpha_s (sigma_{t|s} / sigma_t)^2 times them."""
    keep, own, data, log_var = PLAN(process, grid)
    return keep, np.ones_like(own), np.ones_like(data), log_var


def late(params):
    """A network that is told another time."""
    return lambda z, t: exactly(params)(z, 0.6 * t)


PLAN = bits_back_diffusion._plan


@pytest.mark.parametrize("plan", [narrow, unscaled])
def test_another_process_costs_another_length(monkeypatch, plan):
    monkeypatch.setattr(bits_back_diffusion, "_plan", plan)
    assert abs(beyond_the_stepwise_bound(diffusion_chain(PROCESS, exactly, VALUES, GRID, (4,), 8))) > 6


def test_a_network_that_is_told_another_time_costs_more():
    assert beyond_the_stepwise_bound(diffusion_chain(PROCESS, late, VALUES, GRID, (4,), 8)) > 6


def test_intervals_that_are_too_coarse_cost_more():
    """Two intervals leave z at two places, which is no noise that the network knows."""
    assert beyond_the_stepwise_bound(DIFFUSION._replace(precision=1)) > 6


def test_a_prior_that_is_left_out_is_caught(monkeypatch):
    plant(monkeypatch, lambda tables, call: tables == 0)
    coded = encode(CHAIN, weights(), rows(60))
    assert abs(net_bits(coded) - coded.nats / LOG2) > 0.005 * coded.nats / LOG2 + 64


def test_a_log_variance_taken_for_a_log_deviation_is_caught(monkeypatch):
    exact = bits_back_chain.interval_probabilities
    monkeypatch.setattr(bits_back_chain, "interval_probabilities", lambda mean, v, bits: exact(mean, 2 * v, bits))
    assert beyond_the_bound() > 0.03


def caught(words, model=CHAIN, params=None, count=30):
    with pytest.raises(BadInput):
        decode(model, weights() if params is None else params, words, (count, WIDTH))


def test_a_layer_that_is_not_returned_is_caught(monkeypatch):
    words = encode(CHAIN, weights(), rows(30)).words
    plant(monkeypatch, lambda tables, call: tables == 1 and call % 2 == 0)
    caught(words)


def test_layers_returned_in_the_wrong_order_are_caught(monkeypatch):
    words = encode(CHAIN, weights(), rows(30)).words
    with monkeypatch.context() as context:
        context.setattr(bits_back_chain, "_told", lambda z: lambda given: z[given.layer][::-1])
        caught(words)
    decode(CHAIN, weights(), words, (30, WIDTH))


@pytest.mark.parametrize("name", ["p1", "q0", "f0", "out"])
def test_another_model_is_caught(name):
    words = encode(CHAIN, weights(), rows(30)).words
    caught(words, params={**weights(), name: [1.0001 * part for part in weights()[name]]})


DAMAGES = {
    "cut": lambda w: w[:-1],
    "without its first word": lambda w: w[1:],
    "flipped": lambda w: w ^ (np.arange(len(w)) == 9),
    "nothing": lambda w: w[:0],
    "another number of initial bits": lambda w: np.append(w[:-1], w[-1] + 1),
    "no last word": lambda w: np.append(w[:-1], 0),
    "another row": lambda w: np.append(w, np.uint32(5)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_stack_is_caught(damage):
    caught(damage(encode(CHAIN, weights(), rows(30)).words).astype(np.uint32))

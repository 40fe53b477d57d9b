"""Deep Markov models whose log p(x) is known: linear Gaussian by the Kalman filter, two notes by enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import rejects

from genjax.distributions import bernoulli_log_prob, normal_log_prob
from genjax.errors import BadInput
from genjax.likelihood.kalman import StateSpace, kalman_filter
from genjax.losses import markov
from genjax.losses.markov import draw_chain, draw_prior, inside, sum_inside
from genjax.models.markov import Combiner, DeepMarkov, GatedTransition
from genjax.models.recurrent import RNN

KEY = jax.random.key(0)

# -- linear Gaussian: two independent series of four steps, z_t = A z_{t-1} + N(0, Q), x_t = C z_t + N(0, R) ----------

A, Q, C, R = (np.array(v) for v in ([0.8, -0.5], [0.7, 1.3], [1.2, 0.6], [0.5, 0.9]))
Z_0, B, T, D = np.array([0.4, -1.0]), 3, 4, 2
X = np.random.default_rng(0).normal(size=(B, T, D)) * 1.5


def constant(values, like):
    return jnp.broadcast_to(jnp.asarray(values, like.dtype), like.shape)


def linear_transition(z):
    return z * constant(A, z), constant(np.log(Q), z)


def messages(x):
    """What the future says of z_t, exp(-J z^2 / 2 + h z): J [T, D] and h [T, D], backwards from the last step."""
    j, h = np.zeros_like(x), np.zeros_like(x)
    for t in reversed(range(len(x))):
        after = (j[t + 1], h[t + 1]) if t + 1 < len(x) else (0 * A, 0 * A)
        passed = 1 + Q * after[0]
        j[t] = C**2 / R + A**2 * after[0] / passed
        h[t] = C * x[t] / R + A * after[1] / passed
    return j, h


EXACT = np.stack([np.concatenate(messages(x), axis=-1) for x in X])  # [B, T, 2 D]


def linear_posterior(z, read):
    """q(z_t | z_{t-1}, x_t .. x_T) by the messages: precision 1 / Q + J, mean (A z / Q + h) / precision."""
    j, h = jnp.split(read, 2, axis=-1)
    precision = constant(1 / Q, z) + j
    return (z * constant(A / Q, z) + h) / precision, -jnp.log(precision)


def log_p(x):
    """By the Kalman filter, [B]."""
    series = lambda x, d: kalman_filter(
        StateSpace(
            C[d : d + 1], np.diag(A[d : d + 1]), np.diag(Q[d : d + 1]), R[d], (A * Z_0)[d : d + 1], Q[d, None, None]
        ),
        x[:, d],
    ).log_density.sum()
    return np.array([[float(series(row, d)) for d in range(D)] for row in x]).sum(-1)


def cubature(dims):
    """Points [2 n, T, D] whose mean integrates every polynomial of degree 3 over N(0, I) exactly: +-sqrt(n) e_i."""
    n = math.prod(dims)
    return np.concatenate([np.eye(n), -np.eye(n)]).reshape(-1, *dims) * math.sqrt(n)


def linear_chain(draw, posterior, read):
    """The chain and log p(x | z) at every point of the cubature, [points, B, ...] each, in float64."""
    noise = cubature((T, D))
    rows = lambda a: jnp.asarray(np.broadcast_to(a, (len(noise), *a.shape)).reshape(-1, *a.shape[1:]))
    start = jnp.asarray(np.broadcast_to(Z_0, (len(noise) * B, D)))
    chain = draw(linear_transition, posterior, start, rows(read), jnp.asarray(noise.repeat(B, axis=0)))
    fit = normal_log_prob(rows(X), chain.z * constant(C, chain.z), constant(np.log(R), chain.z))
    total = lambda a: np.asarray(a.sum((1, 2))).reshape(len(noise), B)
    return total(fit), total(chain.rate), total(chain.log_ratio)


def other_posterior(z, read):
    mean, log_var = linear_posterior(z, read)
    return 0.7 * mean + 0.3 + 0.2 * z, log_var - 0.5


def gap(x):
    """KL between `other_posterior` and the exact posterior as normal laws of T numbers, series by series, [B]."""
    total, (j, h) = np.zeros(len(x)), (np.stack(both) for both in zip(*map(messages, x), strict=True))
    for b, d in itertools.product(range(len(x)), range(D)):
        chained = lambda slope: np.linalg.inv(np.eye(T) - np.diag(slope[1:], -1))
        prior = chained(np.full(T, A[d]))
        prior_precision = np.linalg.inv(Q[d] * prior @ prior.T)
        precision = prior_precision + np.eye(T) * C[d] ** 2 / R[d]
        first = np.zeros(T)
        first[0] = A[d] * Z_0[d]
        mean = np.linalg.solve(precision, prior_precision @ prior @ first + C[d] * x[b, :, d] / R[d])
        each = 1 / Q[d] + j[b, :, d]
        slope, offset = 0.7 * A[d] / Q[d] / each + 0.2, 0.7 * h[b, :, d] / each + 0.3
        moves = chained(slope)
        offset[0] += slope[0] * Z_0[d]
        covariance, shift = moves @ np.diag(np.exp(-0.5) / each) @ moves.T, moves @ offset - mean
        logs = -np.linalg.slogdet(precision)[1] - np.linalg.slogdet(covariance)[1]
        total[b] += 0.5 * (np.trace(precision @ covariance) + shift @ precision @ shift - T + logs)
    return total


def check_linear_gaussian(draw):
    """At the exact posterior bound and every weight are log p(x); elsewhere the gap is the KL of the two laws."""
    with jax.enable_x64(True):
        exact = log_p(X)
        fit, rate, log_ratio = linear_chain(draw, linear_posterior, EXACT)
        np.testing.assert_allclose((fit - rate).mean(0), exact, rtol=1e-9)
        np.testing.assert_allclose(fit + log_ratio, np.broadcast_to(exact, fit.shape), rtol=1e-9)
        fit, rate, log_ratio = linear_chain(draw, other_posterior, EXACT)
        np.testing.assert_allclose(exact - (fit - rate).mean(0), gap(X), rtol=1e-9)
        np.testing.assert_allclose((fit + log_ratio).mean(0), (fit - rate).mean(0), rtol=1e-9)


def test_linear_gaussian():
    check_linear_gaussian(draw_chain)


def changed(**parts):
    def draw(*given):
        chain = draw_chain(*given)
        return chain._replace(**{name: change(chain) for name, change in parts.items()})

    return draw


def other_kl(kl):
    def draw(*given):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(markov, "kl_normal", kl)
            return draw_chain(*given)

    return draw


CHAIN_MUTANTS = {
    "sign of the rate": changed(rate=lambda chain: -chain.rate),
    "the first step costs nothing": changed(rate=lambda chain: chain.rate.at[:, 0].set(0.0)),
    "one latent is counted": changed(rate=lambda chain: chain.rate * jnp.array([1.0, 0.0]).reshape(1, 1, 2)),
    "sign of the ratio": changed(log_ratio=lambda chain: -chain.log_ratio),
    "rate of exchanged laws": other_kl(lambda m, v, n, w: markov.normal_log_prob(m, m, v) * 0 + _kl(n, w, m, v)),
    "the start is zero": lambda move, law, start, *rest: draw_chain(move, law, 0 * start, *rest),
    "from z_t and not from before": lambda move, law, *rest: draw_chain(
        lambda z: move(jnp.roll(z, -1, axis=0)), law, *rest
    ),
    "read of the next step": lambda move, law, start, read, noise: draw_chain(
        move, law, start, jnp.roll(read, -1, axis=1), noise
    ),
    "read forwards": lambda move, law, start, read, noise: draw_chain(move, law, start, jnp.flip(read, 1), noise),
}
_kl = markov.kl_normal


@pytest.mark.parametrize("draw", CHAIN_MUTANTS.values(), ids=CHAIN_MUTANTS)
def test_linear_gaussian_rejects(draw):
    rejects(check_linear_gaussian, draw)


def check_prior(draw):
    """Mean A^t z_0 and variance Q sum_s A^2s of z_t, exact by the cubature."""
    with jax.enable_x64(True):
        noise = cubature((T, D))
        z = np.asarray(draw(linear_transition, np.broadcast_to(Z_0, (len(noise), D)), noise))
    powers = A ** np.arange(1, T + 1)[:, None]
    variance = Q * np.cumsum(A ** (2 * np.arange(T)[:, None]), axis=0)
    np.testing.assert_allclose(z.mean(0), powers * Z_0, rtol=1e-9)
    np.testing.assert_allclose(z.var(0), variance, rtol=1e-9)


def test_draws_from_the_prior():
    check_prior(draw_prior)
    rejects(check_prior, lambda move, start, noise: draw_prior(move, 0 * start, noise))
    rejects(check_prior, lambda move, start, noise: draw_prior(move, start, noise**2))
    rejects(check_prior, lambda move, start, noise: draw_prior(move, start, np.repeat(noise[:, :1], T, axis=1)))


# -- three frames of two notes: all 64 sequences ----------------------------------------------------------------------

MODEL = DeepMarkov(RNN(4), latents=1, transition_width=4, emission_width=4, notes=2)
FRAMES, NODES = 3, 14
EVERY = np.array([*itertools.product((0.0, 1.0), repeat=2 * FRAMES)], np.float32).reshape(-1, FRAMES, 2)


def part(params, name):
    return lambda *given: MODEL.apply(params, *given, method=name)


def terms(params, frames, mask, noise, draw=draw_chain):
    """log p(x | z), rate and log_ratio of each row, [rows]."""
    read = MODEL.apply(params, frames, mask, method="read")
    start = MODEL.apply(params, len(frames), method="start")
    chain = draw(part(params, "transition"), part(params, "posterior"), start, read, noise)
    fit = bernoulli_log_prob(frames, MODEL.apply(params, chain.z, method="emit"))
    return [sum_inside(values, mask) for values in (fit, chain.rate, chain.log_ratio)]


@pytest.fixture(scope="module")
def trained():
    """Parameters after 400 steps on ten of the sequences: q is informed and p is far from uniform."""
    data = jnp.asarray(EVERY[np.random.default_rng(0).choice(32, 10)])
    mask, tx, params = jnp.ones(data.shape[:2]), optax.adam(0.02), jax.jit(MODEL.init)(KEY, data)
    params["params"]["z_0"] = jnp.array([0.5])

    def loss(params, key):
        fit, rate, _ = terms(params, data, mask, jax.random.normal(key, (*data.shape[:2], 1)))
        return (0.5 * rate - fit).mean()

    def step(state, key):
        updates, moments = tx.update(jax.grad(loss)(state[0], key), state[1])
        return (optax.apply_updates(state[0], updates), moments), None

    train = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), jax.random.split(KEY, 400)))
    return train(params)[0][0]


def quadrature():
    x, w = np.polynomial.hermite_e.hermegauss(NODES)
    grid = np.stack(np.meshgrid(*[x] * FRAMES, indexing="ij"), -1).reshape(-1, FRAMES, 1)
    return np.float32(grid), np.stack(np.meshgrid(*[w / w.sum()] * FRAMES, indexing="ij"), -1).reshape(-1, FRAMES).prod(
        -1
    )


@pytest.fixture(scope="module")
def enumerated(trained):
    """Of all sequences: log p(x), E log p(x | z), rate, and log_ratio, by quadrature over the noise of every step."""
    noise, weight = quadrature()

    def exact(params, noise):
        start = MODEL.apply(params, len(noise), method="start")
        logits = MODEL.apply(params, draw_prior(part(params, "transition"), start, noise), method="emit")
        return jax.lax.map(lambda x: bernoulli_log_prob(jnp.broadcast_to(x, logits.shape), logits).sum((1, 2)), EVERY)

    def expected(params, noise, weight):
        def one(x):
            rows = jnp.broadcast_to(x, (len(noise), *x.shape))
            return jnp.stack(terms(params, rows, jnp.ones(rows.shape[:2]), noise)) @ weight

        return jax.lax.map(one, EVERY)

    log_p = np.log(np.exp(np.float64(jax.jit(exact)(trained, noise))) @ weight)
    return log_p, *np.float64(jax.jit(expected)(trained, noise, np.float32(weight))).T


def check_enumeration(log_p, fit, rate, log_ratio):
    """sum exp(bound) <= 1 and bound <= log p(x) for each x, and the ratio's mean is the rate: quadrature to 2e-3."""
    bound = fit - rate
    assert np.exp(bound).sum() <= 1.0 + 2e-3
    assert np.all(bound <= log_p + 2e-3)
    assert np.exp(log_p) @ (log_p - bound) < 1.0  # no bound of minus infinity
    np.testing.assert_allclose(-log_ratio, rate, atol=2e-3 * np.abs(rate).max())


def test_the_model_is_normalised_and_the_bound_is_one(enumerated):
    log_p, fit, rate, _ = enumerated
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-4)
    assert np.ptp(log_p) > 2.0 and np.ptp(fit) > 2.0 and rate.max() > 0.2  # it has learnt something
    check_enumeration(*enumerated)


ENUMERATION_MUTANTS = {
    "no rate": lambda log_p, fit, rate, ratio: (log_p, fit, 0 * rate, ratio),
    "half of the rate": lambda log_p, fit, rate, ratio: (log_p, fit, rate / 2, ratio),
    "sign of the rate": lambda log_p, fit, rate, ratio: (log_p, fit, -rate, ratio),
    "fit averaged over frames": lambda log_p, fit, rate, ratio: (log_p, fit / FRAMES, rate, ratio),
    "sign of the ratio": lambda log_p, fit, rate, ratio: (log_p, fit, rate, -ratio),
}


@pytest.mark.parametrize("mutant", ENUMERATION_MUTANTS.values(), ids=ENUMERATION_MUTANTS)
def test_enumeration_rejects(enumerated, mutant):
    rejects(check_enumeration, *mutant(*enumerated))


# -- masks, and what the reader may see -------------------------------------------------------------------------------


@jax.jit
@jax.value_and_grad
def all_terms(params, frames, mask):
    noise = jax.random.normal(KEY, (len(frames), FRAMES + 2, 1))[:, : frames.shape[1]]
    return sum(term.sum() for term in terms(params, frames, mask, noise))


def check_masks(params, mask_of):
    """Two frames of whatever after the end change neither the terms nor their gradient: float32, 1e-5."""
    short, length = EVERY[::9], np.full(8, FRAMES)
    rubbish = np.full((len(short), 2, 2), 7.0, np.float32)
    expected = all_terms(params, short, inside(length, FRAMES))
    found = all_terms(params, np.concatenate([short, rubbish], axis=1), mask_of(length, FRAMES + 2))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(np.abs(b).max())))


def test_padding_changes_nothing(trained):
    check_masks(trained, inside)
    rejects(check_masks, trained, lambda length, steps: jnp.ones((len(length), steps), bool))
    rejects(check_masks, trained, lambda length, steps: inside(length - 1, steps))
    rejects(check_masks, trained, lambda length, steps: jnp.flip(inside(length, steps), axis=1))


def check_reader(read):
    """d r_t / d x_s is zero exactly where s < t, and nowhere zero altogether from t on."""
    slopes = np.abs(jax.jit(jax.jacrev(lambda x: read(x[None])[0]))(EVERY[37])).sum((1, 3))  # [t, s]
    assert np.all((slopes > 0) == np.triu(np.ones((FRAMES, FRAMES), bool)))


def test_the_posterior_reads_the_present_and_the_future(trained):
    check_reader(lambda x: MODEL.apply(trained, x, jnp.ones(x.shape[:2]), method="read"))
    rejects(check_reader, lambda x: RNN(4).apply({"params": trained["params"]["reader"]}, x)[0])  # forwards
    flipped = lambda x: MODEL.apply(trained, jnp.flip(x, 1), jnp.ones(x.shape[:2]), method="read")
    rejects(check_reader, flipped)


# -- the networks against a few lines of NumPy ------------------------------------------------------------------------


def drawn(params):
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda a: a + 0.4 * rng.normal(size=a.shape).astype(np.float32), params)


def check_transition(apply):
    """float32 against float64: 1e-5."""
    net, z = GatedTransition(2, 3), np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    params = drawn(jax.jit(net.init)(KEY, z))
    dense = lambda x, name: (
        x @ np.float64(params["params"][name]["kernel"]) + np.float64(params["params"][name]["bias"])
    )
    relu = lambda x: np.maximum(x, 0)
    gate = 1 / (1 + np.exp(-dense(relu(dense(z, "gate_hidden")), "gate")))
    proposal = dense(relu(dense(z, "proposal_hidden")), "proposal")
    mean, log_var = apply(net, params, z)
    np.testing.assert_allclose(mean, (1 - gate) * dense(z, "linear") + gate * proposal, atol=1e-5)
    np.testing.assert_allclose(np.exp(log_var), np.log1p(np.exp(dense(relu(proposal), "variance"))), rtol=1e-4)


def exchanged(first, second):
    def apply(net, params, z):
        inner = dict(params["params"])
        inner[first], inner[second] = inner[second], inner[first]
        return net.apply({"params": inner}, z)

    return apply


def test_gated_transition():
    check_transition(lambda net, params, z: net.apply(params, z))
    for pair in (("gate", "proposal"), ("gate_hidden", "proposal_hidden"), ("linear", "variance")):
        rejects(check_transition, exchanged(*pair))
    start = jax.jit(GatedTransition(2, 3).init)(KEY, jnp.ones((5, 2)))["params"]["linear"]
    np.testing.assert_array_equal(start["kernel"], np.eye(2))


def check_combiner(apply):
    """float32 against float64: 1e-5."""
    net, rng = Combiner(2), np.random.default_rng(2)
    z, r = rng.normal(size=(5, 2)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)
    params = drawn(jax.jit(net.init)(KEY, z, r))
    dense = lambda x, name: (
        x @ np.float64(params["params"][name]["kernel"]) + np.float64(params["params"][name]["bias"])
    )
    both = dense((np.tanh(dense(z, "before")) + r) / 2, "law")
    mean, log_var = apply(net, params, z, r)
    np.testing.assert_allclose(mean, both[:, :2], atol=1e-5)
    np.testing.assert_allclose(np.exp(log_var), np.log1p(np.exp(both[:, 2:])), rtol=1e-4)


def test_combiner():
    check_combiner(lambda net, params, z, r: net.apply(params, z, r))
    rejects(check_combiner, lambda net, params, z, r: net.apply(params, z, 2 * r))
    rejects(check_combiner, lambda net, params, z, r: net.apply(params, 0 * z, r))
    rejects(check_combiner, lambda net, params, z, r: net.apply(params, z, r)[::-1])


def test_bad_shapes():
    law = lambda z, *read: (z, z)
    with pytest.raises(BadInput, match=r"start \[2, 1\], read \[2, 3, 1\], noise \[2, 4, 1\]"):
        draw_chain(law, law, jnp.zeros((2, 1)), jnp.zeros((2, 3, 1)), jnp.zeros((2, 4, 1)))
    with pytest.raises(BadInput, match=r"frames have shape \[1, 3, 5\]"):
        MODEL.init(KEY, jnp.zeros((1, 3, 5)))

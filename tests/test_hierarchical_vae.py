"""Two layers of latents, all of whose paths are enumerated or integrated over; the six-pixel bound for each of them."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from binary_images import IMAGES, ROWS, check_is_a_density, scattered
from planted import check_frequencies, rejects

from genjax.distributions.latent import (
    diagonal_normal,
    draw_path,
    independent_bernoulli,
    path_log_probs,
    standard_normal,
)
from genjax.errors import BadInput
from genjax.losses.importance import doubly_reparameterized, reparameterized, sticking_the_landing
from genjax.losses.variational import negative_iwae
from genjax.models.blocks import MLP, GatedMLP
from genjax.models.hierarchical import BottomUpVAE, DenseNormal, TopDownVAE
from genjax.models.observation import bernoulli
from genjax.models.vae import DenseDecoder, DenseEncoder

KEY = jax.random.key(0)

# -- binary latents: two layers of two bits, six pixels; 16 paths, all of them enumerated ------------------------------

BITS = np.float32(list(itertools.product((0, 1), repeat=2)))  # [4, 2]
TABLE = np.random.default_rng(3)
UP, TOP, DOWN, OUT = (TABLE.normal(size=s).astype(np.float32) * 1.5 for s in ((6, 2), (2, 2), (2, 2), (2, 6)))
ACROSS = TABLE.normal(size=(6, 2)).astype(np.float32)
BIAS, SHADE = TABLE.normal(size=2).astype(np.float32), TABLE.normal(size=6).astype(np.float32)
CENTRED = ROWS - 0.5


def law(logits):
    return independent_bernoulli(jnp.asarray(logits))


def bottom_up(x):
    """q(z1 | x) q(z2 | z1); p(z2) p(z1 | z2); the prior in the opposite order."""
    posterior = [lambda: law(CENTRED[x] @ UP), lambda z1: law((z1 - 0.5) @ TOP)]
    return posterior, [lambda: law(BIAS), lambda z2: law((z2 - 0.5) @ DOWN)], True


def top_down(x):
    """q(z2 | x) q(z1 | x, z2); p(z2) p(z1 | z2); both in one order."""
    low = CENTRED[x] @ ACROSS
    posterior = [
        lambda: law(CENTRED[x] @ UP),
        lambda z2: law((z2 - 0.5) @ TOP + jnp.broadcast_to(low, (*z2.shape[:-1], 2))),
    ]
    return posterior, [lambda: law(BIAS), lambda z2: law((z2 - 0.5) @ DOWN)], False


def layer_terms(model, x, first, second):
    """log q and log p of both layers of every path, in the posterior's order, as the experiments compose them."""
    posterior, prior, opposite = model(x)
    latents = (first, second)
    log_q = path_log_probs(posterior, latents)
    log_p = path_log_probs(prior, latents[::-1])[::-1] if opposite else path_log_probs(prior, latents)
    return log_q, log_p


def fit(x, z1):
    """log p(x | z1) [...], from the lower layer."""
    logits = np.float64((z1 - 0.5) @ OUT * 2.0 + SHADE)
    return -np.logaddexp(0.0, np.where(ROWS[x] == 1.0, -logits, logits)).sum(-1)


def paths():
    first, second = (np.stack(a) for a in zip(*itertools.product(BITS, BITS), strict=True))
    return first, second  # [16, 2] each, in the order in which they are drawn


def log_bernoulli(z, logits):
    return -np.logaddexp(0.0, np.where(z == 1.0, -np.float64(logits), np.float64(logits))).sum(-1)


def exact_terms(name, x, first, second):
    """The same four numbers in float64 NumPy, written anew."""
    if name == "bottom-up":
        z1, z2 = first, second
        log_q = log_bernoulli(z1, CENTRED[x] @ UP), log_bernoulli(z2, (z1 - 0.5) @ TOP)
        return log_q, (log_bernoulli(z1, (z2 - 0.5) @ DOWN), log_bernoulli(z2, BIAS)), z1
    z2, z1 = first, second
    log_q = log_bernoulli(z2, CENTRED[x] @ UP), log_bernoulli(z1, (z2 - 0.5) @ TOP + CENTRED[x] @ ACROSS)
    return log_q, (log_bernoulli(z2, BIAS), log_bernoulli(z1, (z2 - 0.5) @ DOWN)), z1


CODES = np.float32([8, 4, 2, 1])
BINARY = {"bottom-up": bottom_up, "top-down": top_down}


def check_paths(name, terms):
    """Every bound of every image from all paths: sum_x exp <= 1, bound <= exact, L_1 <= L_2, gap = KL(q || posterior).

    Also the rate of each layer against float64, and in the top-down model its sign.
    """
    first, second = paths()
    log_p_x, elbo, double = np.zeros(64), np.zeros(64), np.zeros(64)
    for x in range(64):
        log_q, log_p = (np.float64(part) for part in terms(BINARY[name], x, first, second))
        (q1, q2), (p1, p2), z1 = exact_terms(name, x, first, second)
        joint = fit(x, z1) + p1 + p2
        q = np.exp(q1 + q2)
        assert abs(q.sum() - 1.0) < 1e-6
        log_p_x[x] = scipy.special.logsumexp(joint)
        log_w = fit(x, z1) + log_p.sum(0) - log_q.sum(0)
        elbo[x] = q @ log_w
        posterior = np.exp(joint - log_p_x[x])
        gap = q @ (np.log(q) - np.log(posterior))
        assert abs(log_p_x[x] - elbo[x] - gap) < 1e-4
        double[x] = q @ (np.logaddexp(log_w[:, None], log_w[None, :]) - math.log(2)) @ q
        rates = q @ (log_q - log_p).T
        np.testing.assert_allclose(rates, [q @ (q1 - p1), q @ (q2 - p2)], atol=1e-4)
        assert rates.sum() >= 0.0 and (name == "bottom-up" or np.all(rates >= 0.0))
    check_is_a_density(log_p_x)
    for bound in (elbo, double):
        assert np.exp(bound).sum() <= 1.0 + 1e-6
        assert np.all(bound <= log_p_x + 1e-5)
    assert np.all(double >= elbo - 1e-6) and (double - elbo).mean() > 1e-2


@pytest.mark.parametrize("name", BINARY)
def test_all_paths(name):
    check_paths(name, layer_terms)


def planted(change):
    return lambda model, x, first, second: change(*layer_terms(model, x, first, second), model, x, first, second)


PATHS = {
    "the prior's layers in the posterior's order": lambda model, x, a, b: (
        path_log_probs(model(x)[0], (a, b)),
        path_log_probs(model(x)[1], (a, b) if model(x)[2] else (b, a)),
    ),
    "log p of the layers exchanged": planted(lambda q, p, *_: (q, p[::-1])),
    "the lower layer's prior lost": planted(lambda q, p, *_: (q, (p[0], 0.0 * p[1]))),
    "log q of the second layer lost": planted(lambda q, p, *_: ((q[0], 0.0 * q[1]), p)),
    "log q and log p exchanged": planted(lambda q, p, *_: (p, q)),
    "averaged over dimensions": planted(lambda q, p, *_: ([v / 2 for v in q], [v / 2 for v in p])),
    "a layer conditioned on itself": lambda model, x, a, b: layer_terms(model, x, b, b),
}


@pytest.mark.parametrize("name", BINARY)
def test_all_paths_reject(name):
    for told, mutant in PATHS.items():
        print(told)
        rejects(check_paths, name, mutant)


def test_drawn_paths_have_their_probabilities():
    """20,000 paths of two images against the 16 probabilities: chi-square; log q of each as `path_log_probs` has it."""
    for model in BINARY.values():
        posterior, *_ = model(np.array([5, 42]))

        def sample(n, key, posterior=posterior):
            latents, log_q = draw_path(posterior, key, n)
            for drawn, asked in zip(log_q, path_log_probs(posterior, latents), strict=True):
                np.testing.assert_allclose(drawn, asked, atol=1e-5)
            return np.concatenate(latents, axis=-1) @ CODES

        def log_prob(code, posterior=posterior):
            bits = np.float32([(int(code) >> i) & 1 for i in (3, 2, 1, 0)])
            pair = [jnp.broadcast_to(part, (2, 2)) for part in (bits[:2], bits[2:])]
            return sum(np.float64(v) for v in path_log_probs(posterior, pair))

        check_frequencies(sample, log_prob, range(16))
        reused = lambda n, key, sample=sample: np.concatenate([sample(n // 2, key)] * 2)
        rejects(check_frequencies, reused, lambda code, f=log_prob: f(15 - code), range(16))


def test_where_the_posterior_is_the_prior_every_rate_is_zero():
    _, prior, _ = top_down(np.arange(64))
    latents, log_q = draw_path(prior, KEY, 100)
    for q, p in zip(log_q, path_log_probs(prior, latents), strict=True):
        np.testing.assert_array_equal(q, p)


# -- the dense networks: one normal latent a layer, integrated over by quadrature --------------------------------------

tanh = lambda: MLP((5,), nn.tanh)


def networks(name):
    nothing = GatedMLP(())
    if name == "bottom-up":
        decoder = DenseDecoder((2, 3, 1), 1, tanh())
        model = BottomUpVAE(DenseEncoder(1, tanh()), DenseNormal(1, tanh()), DenseNormal(1, tanh()), decoder)
    else:
        decoder, gated = DenseDecoder((2, 3, 1), 1, nothing), GatedMLP((5,))
        model = TopDownVAE(DenseEncoder(1, GatedMLP((5,))), DenseNormal(1, nothing), DenseNormal(1, gated), decoder, 5)
    # log-variances near zero, means of size one: quadrature over standard normal noise is then accurate
    return model, scattered(model.init(KEY, jnp.asarray(IMAGES)), 0.6)


def conditionals(model, params, x):
    normal = lambda method: lambda *z: diagonal_normal(*model.apply(params, *z, method=method))
    if isinstance(model, BottomUpVAE):
        return [lambda: normal("encode")(x), normal("encode_top")], [lambda: standard_normal(1), normal("decode_top")]
    posterior = [lambda: normal("encode")(x), lambda z2: normal("encode_low")(x, z2)]
    return posterior, [lambda: standard_normal(1), normal("decode_top")]


def log_weights(model, params, x, latents, params_of_q=None):
    """log w [k, B], as the experiments compose it."""
    posterior = conditionals(model, params if params_of_q is None else params_of_q, x)[0]
    prior = conditionals(model, params, x)[1]
    up = isinstance(model, BottomUpVAE)
    log_p = path_log_probs(prior, latents[::-1] if up else latents)
    out = model.apply(params, *(latents[:1] if up else latents), method="decode")
    return bernoulli().log_prob(out, x) + sum(log_p) - sum(path_log_probs(posterior, latents))


def quadrature(model, params, x, nodes=41):
    """log p(x) and the expected log weight of every image, by the trapezoidal rule over both layers' noise.

    float64 NumPy writes the densities anew; the network gives means, log-variances and logits.
    """
    eps = np.linspace(-6.0, 6.0, nodes)
    first, second = (a.reshape(-1, 1, 1) for a in np.meshgrid(eps, eps, indexing="ij"))
    weight = scipy.stats.norm.pdf(first) * scipy.stats.norm.pdf(second) * (eps[1] - eps[0]) ** 2
    up, apply = isinstance(model, BottomUpVAE), jax.jit(model.apply, static_argnames="method")

    def conditional(method, *given):
        return [np.float64(a) for a in apply(params, *map(jnp.float32, given), method=method)]

    def logits(z1, z2):
        given = (z1,) if up else (z2, z1)
        return np.float64(apply(params, *map(jnp.float32, given), method="decode"))[..., 0]

    def log_likelihood(z1, z2):
        out = logits(z1, z2)
        return -np.logaddexp(0.0, np.where(np.asarray(x) == 1.0, -out, out)).sum((-3, -2, -1))

    m, v = conditional("decode_top", first)  # z2 = first, from the prior
    log_p = scipy.special.logsumexp(log_likelihood(m + np.exp(v / 2) * second, first), axis=0, b=weight[..., 0])
    (qm, qv), shape = conditional("encode", x), (len(weight), len(x), 1)
    a = np.broadcast_to(qm + np.exp(qv / 2) * first, shape)
    rm, rv = conditional("encode_top", a) if up else conditional("encode_low", x, a)
    b = rm + np.exp(rv / 2) * second
    z1, z2 = (a, b) if up else (b, a)
    pm, pv = conditional("decode_top", z2)
    log_w = (
        log_likelihood(z1, z2)
        + (normal(z1, pm, pv) + normal(z2, 0.0, 0.0) - normal(a, qm, qv) - normal(b, rm, rv))[..., 0]
    )
    return log_p, (weight[..., 0] * log_w).sum(0), (jnp.float32(a), jnp.float32(b)), weight[..., 0]


def normal(z, mean, log_var):
    return scipy.stats.norm.logpdf(z, mean, np.exp(np.float64(log_var) / 2))


@pytest.mark.parametrize("name", ["bottom-up", "top-down"])
def test_two_normal_layers(name):
    """p sums to 1 over the 64 images; log weights average to the ELBO; sum_x exp(ELBO) <= 1, ELBO <= log p."""
    model, params = networks(name)
    log_p, exact, latents, weight = quadrature(model, params, IMAGES)
    check_is_a_density(log_p)

    def check(log_w):
        elbo = (weight * np.float64(log_w(model, params, jnp.asarray(IMAGES), latents))).sum(0)
        np.testing.assert_allclose(elbo, exact, atol=1e-3)
        assert np.exp(elbo).sum() <= 1.0 + 1e-5 and np.all(elbo <= log_p + 1e-4)

    check(jax.jit(log_weights, static_argnums=0))
    exchanged = lambda model, params, x, z: log_weights(model, params, x, z[::-1])
    rejects(check, exchanged)
    doubled = lambda model, params, x, z: log_weights(model, params, x, (z[0], z[0]))
    rejects(check, doubled)
    no_image = lambda model, params, x, z: log_weights(model, params, jnp.zeros_like(x), z)
    rejects(check, no_image)


@pytest.mark.parametrize("name", ["bottom-up", "top-down"])
def test_gradients_of_two_layers(name):
    """Three gradients of one bound: equal values, equal gradients of the model, different ones of the encoder."""
    model, params = networks(name)
    x = jnp.asarray(IMAGES[::9])

    @jax.jit
    def each(params):
        def value(params, bound):
            latents, _ = draw_path(conditionals(model, params, x)[0], KEY, 4)
            weight = lambda params_of_q, z: log_weights(model, params, x, z, params_of_q)
            return bound(weight, params, latents).mean()

        def drawn(params, _):
            latents, log_q = draw_path(conditionals(model, params, x)[0], KEY, 4)
            rest = log_weights(model, params, x, latents) + sum(
                path_log_probs(conditionals(model, params, x)[0], latents)
            )
            return negative_iwae(rest - sum(log_q)).mean()

        bounds = (reparameterized, doubly_reparameterized, sticking_the_landing)
        return [jax.value_and_grad(drawn)(params, None), *(jax.value_and_grad(value)(params, b) for b in bounds)]

    drawn, plain, *better = each(params)
    for value, _ in (plain, *better):
        np.testing.assert_allclose(value, drawn[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), drawn[1], plain[1])
    for _, gradient in better:
        own, other = gradient["params"], plain[1]["params"]
        for part in ("decoder", "top_decoder"):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), own[part], other[part])
        same = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-3), own["encoder"], other["encoder"])
        assert not any(jax.tree.leaves(same))


def test_wrong_images_stop_before_init():
    for name in ("bottom-up", "top-down"):
        model, _ = networks(name)
        with pytest.raises(BadInput, match="axis of channels"):
            jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((4, 2, 3), jnp.float32))

"""Adversarial losses and penalties: by hand, at the best discriminator of discrete laws, at known D; planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.losses import adversarial as adv
from genjax.losses import penalties as pen

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
P, Q = RNG.dirichlet(np.ones(6), 2)  # laws of the data and of the generator on six points, float64
R, F = np.array([0.0, np.log(3.0), -2.0, 40.0, -200.0]), np.array([np.log(4.0), 0.0, 1.5, -200.0, 200.0])


# -- by hand -----------------------------------------------------------------------------------------------------------


def softplus(x):
    return np.logaddexp(0.0, x)


BY_HAND = {
    "minimax_discriminator": lambda r, f: softplus(-r) + softplus(f),
    "minimax_generator": lambda r, f: -softplus(f),
    "non_saturating_generator": lambda r, f: softplus(-f),
    "least_squares_discriminator": lambda r, f: ((r - 1) ** 2 + f**2) / 2,
    "least_squares_generator": lambda r, f: (f - 1) ** 2 / 2,
    "hinge_discriminator": lambda r, f: np.where(r < 1, 1 - r, 0) + np.where(f > -1, 1 + f, 0),
    "wasserstein_discriminator": lambda r, f: f - r,
    "wasserstein_generator": lambda r, f: -f,
    "relativistic_discriminator": lambda r, f: softplus(f - r),
    "relativistic_generator": lambda r, f: softplus(r - f),
}
LONE = {"minimax_generator", "non_saturating_generator", "least_squares_generator", "wasserstein_generator"}


def check_by_hand(name, loss):
    """Float32 within a few roundings, at logits of either sign, and finite where exp overflows."""
    arguments = [jnp.float32(F)] if name in LONE else [jnp.float32(R), jnp.float32(F)]
    np.testing.assert_allclose(loss(*arguments), BY_HAND[name](R, F), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", BY_HAND)
def test_losses_at_known_logits(name):
    loss = getattr(adv, name)
    check_by_hand(name, loss)
    rejects(check_by_hand, name, lambda *values: -loss(*values))
    rejects(check_by_hand, name, lambda *values: loss(*[-value for value in values]))
    rejects(check_by_hand, name, lambda *values: 2.0 * loss(*values))
    if name not in LONE:
        rejects(check_by_hand, name, lambda r, f: loss(f, r))
    rejects(check_by_hand, name, lambda *values: jnp.log(jnp.exp(loss(*values))))  # it overflows


def test_probabilities_at_two_logits():
    """D(x) = 3/4 and D(y) = 4/5: -log(3/4) - log(1/5), log(1/5), -log(4/5)."""
    r, f = jnp.log(jnp.array([3.0])), jnp.log(jnp.array([4.0]))
    assert float(adv.minimax_discriminator(r, f)[0]) == pytest.approx(-np.log(3 / 4) - np.log(1 / 5), rel=1e-6)
    assert float(adv.minimax_generator(f)[0]) == pytest.approx(np.log(1 / 5), rel=1e-6)
    assert float(adv.non_saturating_generator(f)[0]) == pytest.approx(-np.log(4 / 5), rel=1e-6)


def test_half_precision_is_computed_in_single():
    r, f = jnp.bfloat16(R), jnp.bfloat16(F)
    assert adv.minimax_discriminator(r, f).dtype == jnp.float32
    assert adv.wasserstein_generator(f).dtype == jnp.float32


# -- at the best discriminator of two discrete laws --------------------------------------------------------------------


def kl(p, q):
    return np.sum(p * np.log(p / q))


def jsd(p, q):
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def game(loss, scores):
    """E over independent x ~ P and y ~ Q of a discriminator's loss, D given by its score at every point; float64."""
    x, y = (index.ravel() for index in np.meshgrid(range(len(P)), range(len(Q)), indexing="ij"))
    return jnp.sum(jnp.outer(P, Q).ravel() * loss(scores[x], scores[y]))


BEST = {
    "minimax_discriminator": (np.log(P / Q), np.log(4) - 2 * jsd(P, Q)),
    "least_squares_discriminator": (P / (P + Q), np.sum(P * Q / (P + Q)) / 2),
    "hinge_discriminator": (np.sign(P - Q), 2 - np.abs(P - Q).sum()),
    "relativistic_discriminator": (np.log(P / Q) + 5.0, None),
}


def check_best(name, loss):
    """The value at D* is that of the divergence; no other D does better, and D* is stationary where D is smooth."""
    best, value = BEST[name]
    with jax.enable_x64(True):
        found, scores = float(game(loss, jnp.asarray(best))), jnp.asarray(best)
        if value is not None:
            assert found == pytest.approx(value, rel=1e-9)
        steps = 0.3 * np.random.default_rng(1).normal(size=(200, len(P)))
        assert found <= float(jax.vmap(lambda step: game(loss, scores + step))(steps).min()) + 1e-12
        if name != "hinge_discriminator":
            slope = jax.grad(lambda s: game(loss, s))(scores)
            np.testing.assert_allclose(slope, 0.0, atol=1e-9)


@pytest.mark.parametrize("name", BEST)
def test_value_at_the_best_discriminator(name):
    loss = getattr(adv, name)
    check_best(name, loss)
    rejects(check_best, name, lambda r, f: loss(f, r))
    rejects(check_best, name, lambda r, f: loss(r, f) + 0.1 * r)
    rejects(check_best, name, lambda r, f: loss(r, 2.0 * f))


def check_wasserstein(loss):
    """On a line the best D of slope 1 has the slope sign(F_q - F_p); its loss is -W_1 = -sum |F_p - F_q|."""
    gap = np.cumsum(Q - P)[:-1]
    best = np.concatenate([[0.0], np.cumsum(np.sign(gap))])
    distance = scipy.stats.wasserstein_distance(np.arange(6), np.arange(6), P, Q)
    with jax.enable_x64(True):
        assert float(game(loss, jnp.asarray(best))) == pytest.approx(-distance, rel=1e-9)


def test_wasserstein_distance_on_a_line():
    check_wasserstein(adv.wasserstein_discriminator)
    rejects(check_wasserstein, lambda r, f: r - f)
    rejects(check_wasserstein, lambda r, f: 0.5 * (f - r))


def law(theta):
    return jnp.exp(jax.nn.log_softmax(theta))


def generator_slope(loss):
    """d/d theta of E over y ~ q_theta of the generator's loss at the D that is best for this theta and held fixed."""
    theta = jnp.log(Q)
    return jax.grad(lambda t: jnp.sum(law(t) * loss(jnp.log(P / Q))))(theta)


def check_minimax_slope(loss):
    """It descends 2 JSD(p, q) (Goodfellow et al. 2014, theorem 1)."""

    def divergence(theta):
        q = law(theta)
        middle = (P + q) / 2
        return jnp.sum(P * jnp.log(P / middle)) + jnp.sum(q * jnp.log(q / middle))

    with jax.enable_x64(True):
        np.testing.assert_allclose(generator_slope(loss), jax.grad(divergence)(jnp.log(Q)), atol=1e-10)


def check_non_saturating_slope(loss):
    """It descends KL(q || p) - 2 JSD(p, q) (Arjovsky and Bottou 2017, arXiv:1701.04862, theorem 2.5)."""

    def divergence(theta):
        q = law(theta)
        middle = (P + q) / 2
        twice_jsd = jnp.sum(P * jnp.log(P / middle)) + jnp.sum(q * jnp.log(q / middle))
        return jnp.sum(q * jnp.log(q / P)) - twice_jsd

    with jax.enable_x64(True):
        np.testing.assert_allclose(generator_slope(loss), jax.grad(divergence)(jnp.log(Q)), atol=1e-10)


def test_what_generators_descend_at_the_best_discriminator():
    check_minimax_slope(adv.minimax_generator)
    rejects(check_minimax_slope, adv.non_saturating_generator)
    rejects(check_minimax_slope, adv.wasserstein_generator)
    rejects(check_minimax_slope, lambda f: -adv.minimax_generator(f))
    check_non_saturating_slope(adv.non_saturating_generator)
    rejects(check_non_saturating_slope, adv.minimax_generator)
    rejects(check_non_saturating_slope, lambda f: adv.non_saturating_generator(-f))


def check_saturation(minimax, other):
    """Slopes in f: -s(f) and -s(-f). Equal, -1/2, where D knows nothing; 0 and -1 where it is sure of a fake."""
    slopes = lambda loss: np.asarray(jax.vmap(jax.grad(lambda f: loss(f[None])[0]))(jnp.array([0.0, -30.0])))
    np.testing.assert_allclose(slopes(minimax), [-0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(slopes(other), [-0.5, -1.0], atol=1e-6)


def test_saturation():
    check_saturation(adv.minimax_generator, adv.non_saturating_generator)
    rejects(check_saturation, adv.non_saturating_generator, adv.non_saturating_generator)
    rejects(check_saturation, adv.minimax_generator, adv.wasserstein_generator)


# -- penalties at known D ----------------------------------------------------------------------------------------------

B, D = 2_000, 5
X, Y = RNG.normal(size=(2, B, D)).astype(np.float32)
W, A = RNG.normal(size=D).astype(np.float32), RNG.normal(size=(D, D)).astype(np.float32)


def linear(x):
    return x @ W + 1.0


def quadratic(x):
    return 0.5 * jnp.sum(x * (x @ (A + A.T) / 2), axis=1)  # its gradient is x (A + A^T) / 2


def squared_slopes(x):
    return np.sum((np.float64(x) @ (A + A.T) / 2) ** 2, axis=1)


def check_slopes(penalty, at):
    """|w|^2 / 2 of w x + 1, and |A x|^2 / 2 of x A x / 2, at `at` alone."""
    np.testing.assert_allclose(penalty(linear), np.sum(np.float64(W) ** 2) / 2, rtol=1e-5)
    np.testing.assert_allclose(penalty(quadratic), squared_slopes(at) / 2, rtol=1e-4)


def test_zero_centred_penalties():
    check_slopes(lambda d: pen.r1(d, X), X)
    check_slopes(lambda d: pen.r2(d, Y), Y)
    rejects(check_slopes, lambda d: pen.r1(d, Y), X)
    rejects(check_slopes, lambda d: 2.0 * pen.r1(d, X), X)
    rejects(check_slopes, lambda d: jnp.square(jax.vmap(jax.grad(lambda x: d(x[None])[0]))(X)).mean(1) / 2, X)
    rejects(check_slopes, lambda d: jnp.sum(jnp.square(jax.grad(lambda x: d(x).mean())(X)), axis=1) / 2, X)
    rejects(check_slopes, lambda d: jnp.sqrt(2.0 * pen.r1(d, X)), X)


def check_places(penalty):
    """D = 0.2 |x|^2 has the slope 0.4 |u|, u = e x + (1 - e) y: with x = 1 and y = 0 in five dimensions 0.4 e sqrt(5).

    e is uniform (Kolmogorov-Smirnov, p > 1e-4), one for all dimensions of an example and another for each example.
    """
    d = lambda x: 0.2 * jnp.sum(x**2, axis=1)
    slopes = 1.0 - np.sqrt(penalty(d, np.ones((B, D), np.float32), np.zeros((B, D), np.float32)))  # all are below 1
    places = slopes / (0.4 * np.sqrt(5.0))
    assert scipy.stats.kstest(places, "uniform").pvalue > 1e-4
    assert len(np.unique(places)) > 0.9 * B


def check_gradient_penalty(penalty):
    """(|w| - 1)^2 everywhere; between x and itself (|A x| - 1)^2."""
    np.testing.assert_allclose(penalty(linear, X, Y), (np.linalg.norm(W) - 1) ** 2, rtol=1e-4)
    np.testing.assert_allclose(penalty(quadratic, X, X), (np.sqrt(squared_slopes(X)) - 1) ** 2, rtol=1e-3, atol=1e-4)
    check_places(penalty)


def planted_penalty(place):
    def penalty(d, real, fake):
        shape = {"elements": real.shape, "batch": (1, 1), "ends": (B, 1)}[place]
        e = jax.random.uniform(KEY, shape)
        e = jnp.round(e) if place == "ends" else e
        u = e * real + (1 - e) * fake
        return (jnp.linalg.norm(jax.vmap(jax.grad(lambda x: d(x[None])[0]))(u), axis=1) - 1.0) ** 2

    return penalty


def test_gradient_penalty():
    check_gradient_penalty(lambda d, x, y: pen.gradient_penalty(d, x, y, KEY))
    for place in ("elements", "batch", "ends"):
        rejects(check_gradient_penalty, planted_penalty(place))
        rejects(check_places, planted_penalty(place))
    rejects(check_gradient_penalty, lambda d, x, y: 2.0 * pen.r1(d, x))  # centred at zero
    rejects(check_gradient_penalty, lambda d, x, y: jnp.square(2.0 * pen.r1(d, x) - 1.0))  # of the squared norm


def test_penalties_train_the_discriminator():
    """Their gradients in w by hand: w for R1, 2 (|w| - 1) w / |w| for the gradient penalty; 0 and finite at w = 0."""
    mean = lambda penalty, w: jnp.mean(penalty(lambda x: x @ w))
    r1 = jax.grad(lambda w: mean(lambda d: pen.r1(d, X), w))
    gp = jax.grad(lambda w: mean(lambda d: pen.gradient_penalty(d, X, Y, KEY), w))
    norm = np.linalg.norm(W)
    np.testing.assert_allclose(r1(W), W, rtol=1e-4)
    np.testing.assert_allclose(gp(W), 2 * (norm - 1) * W / norm, rtol=1e-4)
    np.testing.assert_array_equal(gp(jnp.zeros(D)), np.zeros(D))
    assert float(pen.gradient_penalty(lambda x: 0.0 * x[:, 0], X, Y, KEY).min()) == 1.0


def test_no_gradient_reaches_what_made_the_samples():
    at = lambda shift: (
        jnp.sum(pen.r2(quadratic, Y + shift)) + jnp.sum(pen.gradient_penalty(quadratic, X, Y + shift, KEY))
    )
    np.testing.assert_array_equal(jax.grad(at)(jnp.zeros((1, D))), np.zeros((1, D)))


def check_lazily(lazy):
    """The mean over n steps is the penalty, its gradient too, and it is computed in one of them only."""
    counted = []

    def penalty(w):
        jax.debug.callback(lambda: counted.append(1))
        return w * jnp.arange(3.0)

    at = jax.jit(lambda step, w: jax.value_and_grad(lambda w: jnp.sum(lazy(lambda: penalty(w), step, 4)))(w))
    found = np.array([at(step, 2.0) for step in range(8)])
    np.testing.assert_allclose(found.mean(axis=0), [6.0, 3.0])
    jax.effects_barrier()
    assert len(counted) == 2


def test_lazy_penalties():
    check_lazily(pen.lazily)
    rejects(check_lazily, lambda penalty, step, n: pen.lazily(lambda: penalty() / n, step, n))
    rejects(check_lazily, lambda penalty, step, n: penalty())
    rejects(check_lazily, lambda penalty, step, n: jnp.where(step % n == 0, n * penalty(), 0.0))
    rejects(check_lazily, lambda penalty, step, n: pen.lazily(penalty, step + jnp.zeros((), int), n + 1))
    np.testing.assert_array_equal(pen.lazily(lambda: jnp.ones(2), 3, 1), [1.0, 1.0])


# -- packing, features -------------------------------------------------------------------------------------------------


def check_packed(pack):
    """Entry [i, ..., j C + c] is entry c of example m i + j, for points and for images."""
    for shape in ((12, 2), (12, 4, 3, 5)):
        x, m = RNG.normal(size=shape), 3
        found = np.asarray(pack(x, m), np.float64)
        assert found.shape == (4, *shape[1:-1], m * shape[-1])
        for i, j, c in np.ndindex(4, m, shape[-1]):
            np.testing.assert_allclose(found[i, ..., j * shape[-1] + c], x[m * i + j, ..., c], rtol=1e-6)


def test_packing():
    check_packed(pen.packed)
    rejects(check_packed, lambda x, m: x.reshape(-1, *x.shape[1:-1], m * x.shape[-1]))
    rejects(check_packed, lambda x, m: jnp.concatenate(jnp.split(jnp.asarray(x), m), axis=-1))
    rejects(check_packed, lambda x, m: jnp.concatenate([x[::m]] * m, axis=-1))
    np.testing.assert_array_equal(pen.packed(X, 1), X)


def check_features(match):
    """|mean - mean|^2 in float64, batches of two sizes; no gradient in the real features."""
    x, y = RNG.normal(size=(7, 3, 2)), RNG.normal(size=(5, 3, 2))
    expected = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    np.testing.assert_allclose(match(jnp.float32(x), jnp.float32(y)), expected, rtol=1e-5)
    real, fake = jax.grad(match, argnums=(0, 1))(jnp.float32(x), jnp.float32(y))
    np.testing.assert_array_equal(real, np.zeros_like(real))
    np.testing.assert_allclose(fake[0], 2 * (y.mean(0) - x.mean(0)) / 5, rtol=1e-4)


def test_feature_matching():
    check_features(pen.feature_matching)
    rejects(check_features, lambda x, y: jnp.mean(jnp.square(x.mean(0) - y.mean(0))))
    rejects(check_features, lambda x, y: jnp.sum(jnp.square(jnp.square(x).mean(0) - jnp.square(y).mean(0))))
    rejects(check_features, lambda x, y: jnp.sum(jnp.square(x.mean(0) - y.mean(0))))


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD = {
    r"outputs have shapes \[4, 1\], \[4, 1\]": lambda: adv.minimax_discriminator(jnp.zeros((4, 1)), jnp.zeros((4, 1))),
    r"outputs have shapes \[4\], \[3\]": lambda: adv.relativistic_generator(jnp.zeros(4), jnp.zeros(3)),
    r"outputs have shapes \[\]": lambda: adv.minimax_generator(jnp.zeros(())),
    r"returned \[2, 1\] for inputs \[2, 3\]": lambda: pen.r1(lambda x: x[:, :1], jnp.ones((2, 3))),
    r"real \[2, 3\], generated \[3, 3\]": lambda: pen.gradient_penalty(linear, jnp.ones((2, 3)), jnp.ones((3, 3)), KEY),
    "a penalty every 0 updates": lambda: pen.lazily(lambda: jnp.ones(2), 0, 0),
    r"packs of 3 from an array \[4, 2\]": lambda: pen.packed(jnp.ones((4, 2)), 3),
    "packs of 0": lambda: pen.packed(jnp.ones((4, 2)), 0),
    r"packs of 2 from an array \[4\]": lambda: pen.packed(jnp.ones(4), 2),
    r"features \[2, 3\] and \[2, 4\]": lambda: pen.feature_matching(jnp.ones((2, 3)), jnp.ones((2, 4))),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_input(message, call):
    with pytest.raises(BadInput, match=message) as error:
        call()
    assert 2 <= len(error.value.lines) <= 3

"""Vector quantisation: brute force, gradients, moving averages in NumPy, k-means, revival, enumeration of all codes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.cluster.vq
import scipy.stats
from planted import rejects

from genjax import distributions
from genjax.errors import BadInput
from genjax.losses.codebook import Codebook, code_vectors, first_codebook, moved, revived
from genjax.losses.likelihood import sequence_nll
from genjax.losses.quantization import (
    code_perplexity,
    codebook_loss,
    commitment,
    nearest_code,
    straight_through,
    usage,
)
from genjax.models import code_prior
from genjax.models.code_prior import gpt_prior
from genjax.models.observation import bernoulli
from genjax.models.vq import VQVAE, GridDecoder, GridEncoder, grid_shape, quantized

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
Z, E = RNG.normal(size=(4, 5, 3)), RNG.normal(size=(7, 3))


# -- the nearest code --------------------------------------------------------------------------------------------------


def check_nearest(nearest):
    """Brute force in float64, near the origin and 3,000 away from it, where float32 has steps of 0.0002."""
    for offset in (0.0, 3_000.0):
        z, e = np.float32(Z + offset), np.float32(E + offset)
        distance = np.square(np.float64(z)[..., None, :] - np.float64(e)).sum(-1)
        found = nearest(z, e)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, distance.argmin(-1))


def test_nearest_is_brute_force():
    check_nearest(nearest_code)
    assert nearest_code(jnp.zeros((1, 2)), jnp.ones((3, 2))).tolist() == [0]  # the first of equals


def scores(of):
    return lambda z, e: jnp.argmin(of(jnp.asarray(z), jnp.asarray(e)), axis=-1).astype(jnp.int32)


norms = lambda e: jnp.square(e).sum(-1).reshape(1, 1, -1)
NEAREST_MUTANTS = {
    "the farthest": scores(lambda z, e: z @ e.T - 0.5 * norms(e)),
    "the norm twice": scores(lambda z, e: norms(e) - z @ e.T),
    "the largest product": scores(lambda z, e: -z @ e.T),
    "far from the origin products cancel": scores(lambda z, e: 0.5 * norms(e) - z @ e.T),
}


@pytest.mark.parametrize("mutant", NEAREST_MUTANTS.values(), ids=NEAREST_MUTANTS)
def test_nearest_rejects(mutant):
    rejects(check_nearest, mutant)


def test_what_is_no_codebook():
    for z, e in [((2, 3), (7, 2)), ((2, 3), (1, 3)), ((2, 3), (3,))]:
        with pytest.raises(BadInput, match="K at least 2"):
            nearest_code(jnp.zeros(z), jnp.zeros(e))


# -- gradients ---------------------------------------------------------------------------------------------------------


def check_straight_through(through):
    """Forwards the decoder sees q to the last bit; the gradient in z is the decoder's gradient at q, and in q zero."""
    z = jnp.float32(1e4 * Z)  # large, so that z + (q - z) would not give q back
    q = jnp.float32(E)[nearest_code(z, jnp.float32(E))]
    decoder = lambda x: jnp.sum(jnp.sin(x) * jnp.arange(3.0).reshape(1, 1, 3))
    np.testing.assert_array_equal(through(z, q), q)
    in_z, in_q = jax.grad(lambda z, q: decoder(through(z, q)), (0, 1))(z, q)
    np.testing.assert_array_equal(in_z, jax.grad(decoder)(q))
    np.testing.assert_array_equal(in_q, jnp.zeros_like(q))


def test_straight_through():
    check_straight_through(straight_through)
    half = straight_through(jnp.ones(3, jnp.bfloat16), jnp.zeros(3))
    assert half.dtype == jnp.bfloat16


stop = jax.lax.stop_gradient
THROUGH_MUTANTS = {
    "the code alone": lambda z, q: stop(q),
    "the vector itself": lambda z, q: z,
    "rounded": lambda z, q: z + stop(q - z),
    "the code learns too": lambda z, q: q + z - stop(z),
    "half of the gradient": lambda z, q: stop(q) + 0.5 * (z - stop(z)),
}


@pytest.mark.parametrize("mutant", THROUGH_MUTANTS.values(), ids=THROUGH_MUTANTS)
def test_straight_through_rejects(mutant):
    rejects(check_straight_through, mutant)


def check_pulls(committed, pulled):
    """sum over the grid and over D of (z - q)^2, one number per example; the gradient 2 (z - q) reaches one side."""
    z, q = jnp.float32(Z), jnp.float32(E)[nearest_code(jnp.float32(Z), jnp.float32(E))]
    away = np.float32(2 * (np.float64(z) - np.float64(q)))
    for loss, sides in ((committed, (away, 0 * away)), (pulled, (0 * away, -away))):
        np.testing.assert_allclose(loss(z, q), np.square(away / 2).sum((1, 2)), rtol=1e-5)
        for found, exact in zip(jax.grad(lambda z, q, loss=loss: loss(z, q).sum(), (0, 1))(z, q), sides, strict=True):
            np.testing.assert_allclose(found, exact, atol=1e-5)


def test_commitment_and_codebook_losses():
    check_pulls(commitment, codebook_loss)
    with pytest.raises(BadInput, match="one shape for both"):
        commitment(jnp.zeros((2, 3)), jnp.zeros((2, 1)))


free = lambda z, q: jnp.square(z - q).sum(axis=(1, 2))
PULL_MUTANTS = {
    "exchanged": (codebook_loss, commitment),
    "both sides are pulled": (free, codebook_loss),
    "a mean over the grid": (lambda z, q: commitment(z, q) / 5, codebook_loss),
    "a mean over dimensions": (commitment, lambda z, q: codebook_loss(z, q) / 3),
    "distances": (lambda z, q: jnp.linalg.norm(z - stop(q), axis=-1).sum(axis=1), codebook_loss),
}


@pytest.mark.parametrize("mutants", PULL_MUTANTS.values(), ids=PULL_MUTANTS)
def test_pulls_reject(mutants):
    rejects(check_pulls, *mutants)


# -- moving averages ---------------------------------------------------------------------------------------------------


def check_moving_averages(move, vectors_of):
    """After T steps N = g^T N_0 + (1 - g) sum_t g^(T-t) n_t, and m alike: weights written out, in float64."""
    g, steps = 0.7, 6
    batches = RNG.normal(size=(steps, 20, 3))
    chosen = np.random.default_rng(1).integers(0, 3, (steps, 20))  # the fourth code is never chosen
    book = Codebook(jnp.ones(4), jnp.float32(E[:4]))
    for z, c in zip(batches, chosen, strict=True):
        book = move(book, jnp.float32(z), jnp.asarray(c), g)
    ones = np.eye(4)[chosen]
    weight = (1 - g) * g ** np.arange(steps - 1, -1, -1.0)
    counts = g**steps + np.einsum("t,tik->k", weight, ones)
    sums = g**steps * E[:4] + np.einsum("t,tik,tid->kd", weight, ones, batches)
    np.testing.assert_allclose(book.counts, counts, rtol=1e-5)
    np.testing.assert_allclose(book.sums, sums, atol=1e-5)
    smooth = (counts + 1e-5) / (counts.sum() + 4e-5) * counts.sum()
    np.testing.assert_allclose(vectors_of(book), sums / smooth[:, None], atol=1e-5)


def test_moving_averages_are_weighted_means():
    check_moving_averages(moved, code_vectors)


def averages(counts, sums):
    def move(book, z, c, g):
        ones = jax.nn.one_hot(c, len(book.counts))
        return Codebook(*(a * old + b * new for (a, b), old, new in zip(
            (counts(g), sums(g)), book, (ones.sum(0), ones.T @ z), strict=True
        )))  # fmt: skip

    return move


AVERAGE_MUTANTS = {
    "decay exchanged": (averages(lambda g: (1 - g, g), lambda g: (1 - g, g)), code_vectors),
    "sums without 1 - g": (averages(lambda g: (g, 1 - g), lambda g: (g, 1.0)), code_vectors),
    "counts that stay": (averages(lambda g: (1.0, 0.0), lambda g: (g, 1 - g)), code_vectors),
    "not divided": (moved, lambda book: book.sums),
    "a smoothed total of one": (moved, lambda b: b.sums / ((b.counts + 1e-5) / (b.counts.sum() + 4e-5))[:, None]),
}


@pytest.mark.parametrize("mutants", AVERAGE_MUTANTS.values(), ids=AVERAGE_MUTANTS)
def test_moving_averages_reject(mutants):
    rejects(check_moving_averages, *mutants)


def check_k_means(step):
    """On three clouds the moving averages end where Lloyd's algorithm does."""
    rng = np.random.default_rng(3)
    points = np.float32(np.array([[0, 0], [4, 0], [0, 5]])[rng.integers(0, 3, 300)] + rng.normal(size=(300, 2)))
    start = points[[np.argmin(points.sum(1)), np.argmax(points[:, 0]), np.argmax(points[:, 1])]]
    centres, _ = scipy.cluster.vq.kmeans2(np.float64(points), np.float64(start), 100, minit="matrix")
    one = jax.jit(lambda i, book: step(book, jnp.asarray(points)))
    book = jax.lax.fori_loop(0, 300, one, Codebook(jnp.ones(3), jnp.asarray(start)))
    np.testing.assert_allclose(code_vectors(book), centres, atol=1e-3)


def followed(book, points, nearest=nearest_code, move=moved):
    return move(book, points, nearest(points, code_vectors(book)), 0.9)


def test_moving_averages_are_k_means():
    check_k_means(followed)


K_MEANS_MUTANTS = {
    "the farthest": lambda book, points: followed(book, points, lambda z, e: nearest_code(-z, e)),
    "one code moves": lambda book, points: followed(book, points, lambda z, e: 0 * nearest_code(z, e)),
    "nothing moves": lambda book, points: followed(book, points, move=lambda book, z, c, g: book),
}


@pytest.mark.parametrize("mutant", K_MEANS_MUTANTS.values(), ids=K_MEANS_MUTANTS)
def test_k_means_rejects(mutant):
    rejects(check_k_means, mutant)


# -- dead codes --------------------------------------------------------------------------------------------------------

BOOK = Codebook(jnp.array([3.0, 0.05, 0.0499, 0.0]), jnp.arange(8.0).reshape(4, 2))
ROWS = jnp.float32(RNG.normal(size=(3, 5, 2)) + 100.0)


def check_revival(revive):
    """Codes below the limit, and no others, become rows of the batch with the weight of one vector."""
    new, dead = revive(BOOK, ROWS, KEY, 0.05)
    assert dead.tolist() == [False, False, True, True]
    np.testing.assert_array_equal(new.counts[:2], BOOK.counts[:2])
    np.testing.assert_array_equal(new.sums[:2], BOOK.sums[:2])
    np.testing.assert_array_equal(new.counts[2:], 1.0)
    rows = {tuple(row) for row in np.asarray(ROWS).reshape(-1, 2)}
    assert {tuple(row) for row in np.asarray(new.sums[2:])} <= rows
    untouched, none = revive(BOOK, ROWS, KEY, 0.0)
    assert not none.any() and np.array_equal(untouched.sums, BOOK.sums)
    places = {tuple(np.asarray(revive(BOOK, ROWS, key, 0.05)[0].sums[3])) for key in jax.random.split(KEY, 20)}
    assert len(places) > 5  # drawn, not always the first row


def test_revival():
    check_revival(revived)
    for least in (-0.1, 1.0):
        with pytest.raises(BadInput, match="vectors a batch"):
            revived(BOOK, ROWS, KEY, least)


def every(dead_of, rows_of=lambda rows, key: rows[jax.random.randint(key, (4,), 0, 15)], weight=1.0):
    def revive(book, z, key, least):
        dead, rows = dead_of(book.counts, least), rows_of(z.reshape(-1, 2), key)
        sums = jnp.where(dead[:, None], rows, book.sums)
        return Codebook(jnp.where(dead, weight, book.counts), sums), dead

    return revive


REVIVAL_MUTANTS = {
    "all codes": every(lambda n, least: n < 1e9),
    "the living": every(lambda n, least: n > least),
    "the limit too": every(lambda n, least: n <= least),
    "no weight": every(lambda n, least: n < least, weight=0.0),
    "zeros": every(lambda n, least: n < least, lambda rows, key: 0.0 * rows[:4]),
    "always the first rows": every(lambda n, least: n < least, lambda rows, key: rows[:4]),
}


@pytest.mark.parametrize("mutant", REVIVAL_MUTANTS.values(), ids=REVIVAL_MUTANTS)
def test_revival_rejects(mutant):
    rejects(check_revival, mutant)


def test_a_code_that_nothing_chooses_is_revived_when_its_count_has_decayed():
    """0.9^28 = 0.0523, 0.9^29 = 0.0471: the 29th batch is the first below 0.05, and from then on the code is in use."""
    points = jnp.float32(np.random.default_rng(4).normal(size=(30, 2)))
    book, when = Codebook(jnp.ones(2), jnp.array([[0.0, 0.0], [1e3, 1e3]])), []
    for step in range(1, 61):
        codes = nearest_code(points, code_vectors(book))
        book, dead = revived(moved(book, points, codes, 0.9), points, jax.random.fold_in(KEY, step), 0.05)
        when += [step] * int(dead.sum())
    assert when == [29]
    assert usage(nearest_code(points, code_vectors(book)), 2).min() > 3


# -- how many codes are in use -----------------------------------------------------------------------------------------


def check_perplexity(perplexity):
    for size in (2, 7, 512):
        assert float(perplexity(jnp.full(size, 3.0))) == pytest.approx(size, rel=1e-5)
        assert float(perplexity(5.0 * jnp.eye(size)[1])) == pytest.approx(1.0)
    counts = np.array([5.0, 0.0, 2.0, 1.0])
    assert float(perplexity(jnp.float32(counts))) == pytest.approx(math.exp(scipy.stats.entropy(counts)), rel=1e-5)


def test_perplexity_of_codes():
    check_perplexity(code_perplexity)
    assert float(code_perplexity(jnp.zeros(4))) == 1.0
    assert usage(jnp.array([[0, 2], [2, 2]]), 3).tolist() == [1.0, 0.0, 3.0]


entropy = lambda n: -jnp.sum(n / n.sum() * jnp.log(jnp.where(n > 0, n, n.sum()) / n.sum()))
PERPLEXITY_MUTANTS = {
    "a power of two": lambda n: 2 ** entropy(n),
    "the entropy": entropy,
    "codes that occur": lambda n: jnp.sum(n > 0),
    "counts as shares": lambda n: jnp.exp(-jnp.sum(n * jnp.log(jnp.where(n > 0, n, 1.0)))),
}


@pytest.mark.parametrize("mutant", PERPLEXITY_MUTANTS.values(), ids=PERPLEXITY_MUTANTS)
def test_perplexity_rejects(mutant):
    rejects(check_perplexity, mutant)


# -- the first codebook, networks --------------------------------------------------------------------------------------


def test_the_first_code_vectors_are_different_rows():
    rows = jnp.arange(12.0).reshape(2, 3, 2)
    for size in (2, 6):
        book = first_codebook(rows, size, KEY)
        assert book.counts.dtype == book.sums.dtype == jnp.float32 and book.counts.tolist() == [1.0] * size
        found = {tuple(row) for row in np.asarray(code_vectors(book)).round(3).tolist()}
        assert len(found) == size and found <= {tuple(row) for row in np.asarray(rows).reshape(-1, 2).tolist()}
    for size in (0, 1, 7):
        with pytest.raises(BadInput, match="from 2 to 6"):
            first_codebook(rows, size, KEY)


def test_codes_are_a_grid_of_integers():
    model = VQVAE(GridEncoder(3, 2, 4, 1), GridDecoder((8, 12, 1), 2, 2, 4, 1))
    images = jnp.float32(RNG.uniform(size=(2, 8, 12, 1)))
    params = jax.jit(model.init)(KEY, images)
    z = model.apply(params, images, method="encode")
    found = quantized(z, Codebook(jnp.ones(7), jnp.float32(E)))
    assert found.codes.shape == (2, 2, 3) and found.codes.dtype == jnp.int32
    np.testing.assert_array_equal(found.vectors, found.through)
    assert model.apply(params, found.through, method="decode").shape == (2, 8, 12, 1, 2)
    with pytest.raises(BadInput, match="halvings = 3"):
        grid_shape((8, 12), 3)
    with pytest.raises(BadInput, match=r"image has shape \[2, 8, 8, 1\]"):
        model.apply(params, images[:, :, :8], method="encode")


# -- the prior and the bound, by enumeration of all grids of codes -----------------------------------------------------

GRIDS = np.int32(list(itertools.product(range(2), repeat=6))).reshape(-1, 2, 3)


@pytest.fixture(scope="module")
def prior():
    """A prior of 2x3 binary codes that is far from uniform, and its parameters."""
    found = gpt_prior(2, (2, 3), layers=1, heads=2, width=8)
    return found, jax.tree.map(lambda a: 12.0 * a, found.init(jax.random.key(3)))


def check_normalised(nats):
    assert np.exp(-np.float64(nats)).sum() == pytest.approx(1.0, abs=1e-5)
    assert nats.max() - nats.min() > 1.0


def test_the_prior_is_normalised(prior, monkeypatch):
    found, params = prior
    check_normalised(found.nll(params, GRIDS))

    def with_the_token_before(logits, tokens):
        return sequence_nll(jnp.concatenate([logits, logits[..., :1]], axis=-1), tokens)

    monkeypatch.setattr(code_prior, "sequence_nll", with_the_token_before)
    rejects(check_normalised, found.nll(params, GRIDS))


def check_grids(codes, nats):
    """Chi-square of 4,000 grids against the 64 probabilities: p > 1e-4."""
    counts = np.bincount(np.asarray(codes).reshape(-1, 6) @ 2 ** np.arange(5, -1, -1), minlength=64)
    expected = 4_000 * np.exp(-np.float64(nats))
    rare = expected < 3
    seen, wanted = (np.append(a[~rare], a[rare].sum()) for a in (counts, expected))
    assert scipy.stats.chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue > 1e-4


def test_grids_are_drawn_from_the_prior(prior):
    found, params = prior
    codes = jax.jit(found.sample, static_argnums=2)(params, KEY, 4_000)
    nats = found.nll(params, GRIDS)
    check_grids(codes, nats)
    rejects(check_grids, codes.transpose(0, 2, 1).reshape(-1, 2, 3), nats)  # read by columns
    rejects(check_grids, 1 - codes, nats)


def check_bound(distortion, rate, exact):
    """-log p(x | c) - log P(c) is above -log p(x) for every one of the 64 images, and sum exp(bound) <= 1."""
    bound = -np.float64(distortion + rate)
    assert np.all(bound <= exact + 1e-5) and np.exp(bound).sum() <= 1.0 + 1e-5
    assert np.exp(exact) @ (exact - bound) < 8.0  # and it says something


def test_the_bound_by_enumeration(prior):
    """Six binary pixels, six binary codes: p(x) = sum of P(c) p(x | c) over 64 grids."""
    found, params = prior[0], jax.tree.map(lambda a: a / 3.0, prior[1])
    model, likelihood = VQVAE(GridEncoder(2, 0, 4, 1), GridDecoder((2, 3, 1), 1, 0, 4, 1)), bernoulli()
    images = jnp.float32(GRIDS)[..., None]
    vae = jax.tree.map(lambda a: 2.0 * a, jax.jit(model.init)(jax.random.key(5), images))
    z = model.apply(vae, images, method="encode")
    book = first_codebook(z, 2, KEY)
    decode = lambda q: model.apply(vae, q, method="decode")
    each_by_all = jnp.broadcast_to(images[:, None], (64, *images.shape))
    every_fit = likelihood.log_prob(jnp.stack([decode(code_vectors(book)[GRIDS])] * 64), each_by_all)
    nats = found.nll(params, GRIDS)
    exact = jax.nn.logsumexp(every_fit - nats[None], axis=1)
    assert float(jnp.exp(exact).sum()) == pytest.approx(1.0, abs=1e-5)
    chosen = quantized(z, book)
    distortion, rate = -likelihood.log_prob(decode(chosen.through), images), found.nll(params, chosen.codes)
    check_bound(distortion, rate, exact)
    check_bound(distortion, 6 * math.log(2.0), jax.nn.logsumexp(every_fit, axis=1) - 6 * math.log(2.0))
    for planted in ((distortion, 0 * rate), (distortion / 6, rate), (distortion, rate / 6), (distortion, -rate)):
        rejects(check_bound, *planted, exact)
    assert float(distributions.bits_per_dim(rate, 6)[0]) == pytest.approx(float(rate[0]) / (6 * math.log(2.0)))

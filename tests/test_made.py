"""MADE: every order is a density, its Jacobian is exactly that of the order; each check must find planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_images import KEY, ROWS, bernoulli_sum, check_is_a_density, check_samples, dependence, wild
from planted import rejects

from genjax.distributions import bernoulli_log_prob, log_mean_exp, sample_bernoulli
from genjax.errors import BadInput
from genjax.models import made
from genjax.models.made import MADE, Masking, ensemble_log_prob, pick, random_maskings
from genjax.samplers.ancestral import ancestral

WIDTHS, COUNT = (20, 24), 5
MASKINGS = random_maskings(0, COUNT, 6, WIDTHS)
NETWORKS = {"hidden layers": MADE(WIDTHS, jnp.tanh), "direct too": MADE(WIDTHS, jnp.tanh, direct=True)}


def built(model):
    params = wild(model, ROWS, jax.tree.map(lambda array: array[0], MASKINGS), scale=1.0)
    return lambda x, masking: model.apply(params, x, masking)


LOGITS = {name: built(model) for name, model in NETWORKS.items()}


def joint(logits, masking):
    return bernoulli_log_prob(ROWS, logits(ROWS, masking)).sum(-1)


# -- densities ---------------------------------------------------------------------------------------------------------


def check_every_order(logits):
    for m in range(COUNT):
        check_is_a_density(bernoulli_sum(logits(ROWS, pick(MASKINGS, m)), ROWS))


@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_every_order_is_a_density(logits):
    check_every_order(logits)


def check_ensemble(combine, logits=LOGITS["hidden layers"]):
    """The ensemble is a density, and exactly the mean of its members' probabilities."""
    log_p = combine(logits)
    check_is_a_density(log_p)
    members = [np.exp(bernoulli_sum(logits(ROWS, pick(MASKINGS, m)), ROWS)) for m in range(COUNT)]
    np.testing.assert_allclose(log_p, np.log(np.mean(members, 0)), atol=1e-4)


def of_members(combined):
    """An ensemble by another rule: from the members' logits [M, B, D] to log p [B]."""
    return lambda logits: combined(jnp.stack([logits(ROWS, pick(MASKINGS, m)) for m in range(COUNT)]))


def test_ensemble_averages_probabilities():
    check_ensemble(lambda logits: ensemble_log_prob(lambda masking: joint(logits, masking), MASKINGS))


# what is no density, or another one
ENSEMBLE_MUTANTS = {
    "logits averaged": of_members(lambda l: bernoulli_log_prob(ROWS, l.mean(0)).sum(-1)),
    "conditionals averaged": of_members(lambda l: jnp.log(jnp.exp(bernoulli_log_prob(_rows(l), l)).mean(0)).sum(-1)),
    "log-probabilities averaged": of_members(lambda l: bernoulli_log_prob(_rows(l), l).sum(-1).mean(0)),
    "no 1/M": of_members(lambda l: log_mean_exp(bernoulli_log_prob(_rows(l), l).sum(-1)) + np.log(COUNT)),
    "the best member": of_members(lambda l: bernoulli_log_prob(_rows(l), l).sum(-1).max(0)),
}


def _rows(logits):
    return jnp.broadcast_to(ROWS, logits.shape)


@pytest.mark.parametrize("mutant", ENSEMBLE_MUTANTS.values(), ids=ENSEMBLE_MUTANTS)
def test_ensemble_rejects(mutant):
    rejects(check_ensemble, mutant)


def test_averaged_logits_are_no_density():
    """Two coins that always agree, seen in both orders: each order gives either outcome 1/2, and so does the ensemble.

    The averaged logits look at each coin to predict the other, and claim probability 1 for both outcomes: a sum of 2.
    The same sum over the 64 images of a MADE is not 1 either.
    """
    outcomes, certain = np.float32([[0, 0], [0, 1], [1, 0], [1, 1]]), 40.0
    given = certain * (2 * outcomes[:, ::-1] - 1)  # the logit of each coin, given the other
    orders = np.stack([given * np.float32([[0, 1]]), given * np.float32([[1, 0]])])  # the first coin of each: logit 0
    members = bernoulli_log_prob(np.stack([outcomes] * 2), orders).sum(-1)
    np.testing.assert_allclose(jnp.exp(log_mean_exp(members)), [0.5, 0, 0, 0.5], atol=1e-6)
    averaged = bernoulli_log_prob(outcomes, orders.mean(0)).sum(-1)
    np.testing.assert_allclose(jnp.exp(averaged), [1, 0, 0, 1], atol=1e-6)
    for rule in ("logits averaged", "conditionals averaged"):
        total = np.exp(np.float64(ENSEMBLE_MUTANTS[rule](LOGITS["hidden layers"]))).sum()
        assert abs(total - 1.0) > 1e-3  # a hundred times what `check_is_a_density` allows


# -- orders ------------------------------------------------------------------------------------------------------------


def check_dependence(logits):
    """For each order: output d depends on exactly those dimensions at positions before its own."""
    for m in range(COUNT):
        masking = pick(MASKINGS, m)
        order = np.asarray(masking.order)
        expected = order[None, :] < order[:, None]
        np.testing.assert_array_equal(dependence(lambda x, masking=masking: logits(x, masking), (6,)), expected)


@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_dependence_is_the_order(logits):
    check_dependence(logits)


def in_steps(before, after):
    return before[:, None] < after[None, :]


def with_itself(before, order):
    return before[:, None] <= order[None, :]


MASK_MUTANTS = {
    "output sees itself": ("output_mask", with_itself),
    "hidden layers see too little": ("hidden_mask", in_steps),
    "mask transposed": ("hidden_mask", lambda before, after: before[:, None] >= after[None, :]),
    "no hidden mask": ("hidden_mask", lambda before, after: before[:, None] <= after[None, :] + 9),
    "outputs in raster order": ("output_mask", lambda b, order: b[:, None] < jnp.arange(len(order))[None, :]),
}


@pytest.mark.parametrize(("name", "mutant"), MASK_MUTANTS.values(), ids=MASK_MUTANTS)
def test_dependence_rejects(monkeypatch, name, mutant):
    monkeypatch.setattr(made, name, mutant)
    rejects(check_dependence, LOGITS["hidden layers"])


@pytest.mark.parametrize("rule", ["output sees itself", "mask transposed", "no hidden mask", "outputs in raster order"])
def test_density_rejects_a_leak(monkeypatch, rule):
    monkeypatch.setattr(made, *MASK_MUTANTS[rule])
    rejects(check_every_order, LOGITS["hidden layers"])


def test_direct_connections_do_not_leak(monkeypatch):
    monkeypatch.setattr(made, "output_mask", with_itself)
    rejects(check_dependence, LOGITS["direct too"])


def test_orders_and_degrees_are_random_and_allowed():
    """Orders are permutations, all five are different; degrees lie between the least of the layer before and D - 2."""
    assert all(sorted(order) == list(range(6)) for order in MASKINGS.order)
    assert len({tuple(order) for order in MASKINGS.order}) == COUNT
    first, second = MASKINGS.degrees
    assert first.min() == 0 and max(first.max(), second.max()) == 4
    assert np.all(second.min(1) >= first.min(1))
    many = random_maskings(1, 2_000, 6, (3,)).degrees[0]
    assert np.abs(np.bincount(many.reshape(-1)) / many.size - 0.2).max() < 0.03  # uniform over 0 .. 4


def test_a_given_order_is_kept():
    fixed = random_maskings(0, 3, 4, (5,), order=[3, 1, 0, 2])
    assert np.all(fixed.order == np.array([[3, 1, 0, 2]])) and not np.all(fixed.degrees[0] == fixed.degrees[0][:1])


def test_several_maskings_in_one_step():
    """A batch in two parts under two maskings by vmap gives what each part gives alone."""
    logits, pair = LOGITS["direct too"], pick(MASKINGS, jnp.array([3, 1]))
    together = jax.vmap(logits)(ROWS.reshape(2, 32, 6), pair)
    apart = [logits(rows, pick(MASKINGS, m)) for rows, m in zip(ROWS.reshape(2, 32, 6), (3, 1), strict=True)]
    np.testing.assert_allclose(together, jnp.stack(apart), atol=1e-5)


# -- samples -----------------------------------------------------------------------------------------------------------


def sampler(order_of):
    """Samples of the masking of number 2."""
    masking = pick(MASKINGS, 2)
    parameters = lambda x: LOGITS["hidden layers"](x, masking)
    order = order_of(jnp.argsort(masking.order))
    return jax.jit(
        lambda n, key: ancestral(parameters, sample_bernoulli, jnp.zeros((n, 6)), order, key), static_argnums=0
    )


def test_samples():
    log_p = joint(LOGITS["hidden layers"], pick(MASKINGS, 2))
    check_samples(sampler(lambda order: order), log_p)
    rejects(check_samples, sampler(lambda order: jnp.arange(6)), log_p)  # raster order instead of the model's


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals():
    with pytest.raises(BadInput, match="at least 2 dimensions"):
        random_maskings(0, 1, 1, (4,))
    with pytest.raises(BadInput, match="no permutation"):
        random_maskings(0, 1, 3, (4,), order=[0, 1, 1])
    with pytest.raises(BadInput, match="hidden layers of"):
        MADE((8,)).init(KEY, ROWS, Masking(np.arange(6), (np.zeros(7, int),)))

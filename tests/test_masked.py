"""Masked and uniform diffusion of tokens against enumeration of masks, orders and paths; laws of samples; mutants."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.corruption import discrete, survival
from genjax.corruption.times import low_discrepancy
from genjax.errors import BadInput
from genjax.likelihood import masked as likelihood
from genjax.losses import masked as losses
from genjax.samplers import unmasking

KEY = jax.random.key(0)
SCHEDULES = {"linear": survival.linear(), "cosine": survival.cosine(), "polynomial": survival.polynomial(2.0)}
D, K = 3, 2
ALL = np.array(list(itertools.product(range(K), repeat=D)), np.int32)  # [8, 3]
JOINT = np.random.default_rng(0).dirichlet(np.full(len(ALL), 0.7))
TABLE = np.random.default_rng(1).normal(0.0, 1.5, (*(K + 1,) * D, D, K))  # a network of no joint law


def network(tokens):
    """Logits that are any function of what is seen: conditionals that contradict each other, as a network's do."""
    return jnp.asarray(TABLE, jnp.float32)[tuple(tokens[:, d] for d in range(D))]


def conditionals():
    """[3, 3, 3, D, K]: log p(x_d | seen) of JOINT, by summing."""
    found = np.zeros((*(K + 1,) * D, D, K))
    for seen in itertools.product(range(K + 1), repeat=D):
        fits = np.array([all(s in (K, a) for s, a in zip(seen, x, strict=True)) for x in ALL])
        for d, a in itertools.product(range(D), range(K)):
            found[(*seen, d, a)] = np.log(JOINT[fits & (ALL[:, d] == a)].sum() / JOINT[fits].sum() + 1e-30)
    return found


EXACT = conditionals()


def truth(tokens):
    return jnp.asarray(EXACT, jnp.float32)[tuple(tokens[:, d] for d in range(D))]


def by_orders(table, x):
    """log p_o(x) of every order, from the table of logits by hand."""
    logs = table - np.log(np.exp(table).sum(-1, keepdims=True))
    found = []
    for order in itertools.permutations(range(D)):
        seen, total = [K] * D, 0.0
        for d in order:
            total += logs[(*seen, d, x[d])]
            seen[d] = x[d]
        found.append(total)
    return np.array(found)


BOUNDS = np.array([-by_orders(TABLE, x).mean() for x in ALL])  # masked ELBO = order-averaged AR
NLL = np.array([-np.log(np.exp(by_orders(TABLE, x)).mean()) for x in ALL])


# -- the processes -----------------------------------------------------------------------------------------------------


def chain(process, t_from, t_to):
    """[S, S] of one step of the chain, eq. 2, by hand."""
    a = float(process.schedule.kept(np.float64(t_to)) / process.schedule.kept(np.float64(t_from)))
    return a * np.eye(len(process.law)) + (1 - a) * np.asarray(process.law)[None, :]


def check_posterior(posterior, make, schedule):
    """q(z_s | z_t, x) by Bayes' rule from products of small steps of the chain."""
    process, s, t = make(schedule, 3), 0.3, 0.8
    small = lambda a, b: np.linalg.multi_dot([chain(process, *p) for p in itertools.pairwise(np.linspace(a, b, 6))])
    to_s, to_t = small(0.0, s), small(s, t)
    for x, z in itertools.product(range(3), range(len(process.law))):
        joint = to_s[x] * to_t[:, z]
        if joint.sum() > 0:
            found = posterior(process, jax.nn.one_hot(jnp.array([[x]]), 3), jnp.array([[z]]), s, t)[0, 0]
            np.testing.assert_allclose(found, joint / joint.sum(), atol=2e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("make", [discrete.absorbing, discrete.uniform])
def test_the_posterior_is_bayes_rule(make, schedule):
    check_posterior(discrete.posterior, make, SCHEDULES[schedule])


def test_planted_posteriors_are_caught():
    right, linear = discrete.posterior, survival.linear()
    for make in (discrete.absorbing, discrete.uniform):
        rejects(check_posterior, lambda p, x, z, s, t: right(p, x, z, s * 0.9, t), make, linear)
        rejects(check_posterior, lambda p, x, z, s, t: discrete.marginal(p, x, s), make, linear)
        rejects(check_posterior, lambda p, x, z, s, t: right(p, 0.9 * x + 0.1 / 3, z, s, t), make, linear)
    other = lambda p, x, z, s, t: right(discrete.uniform(survival.polynomial(2.0), 3), x, z, s, t)
    rejects(check_posterior, other, discrete.uniform, linear)


def check_corruption(corrupt, make):
    process, n, t = make(survival.cosine(), 3), 40_000, 0.6
    z = np.asarray(corrupt(process, jnp.ones((n, 2), jnp.int32), jnp.full(n, t), KEY))
    kept = float(process.schedule.kept(np.float64(t)))
    law = kept * np.eye(len(process.law))[1] + (1 - kept) * np.asarray(process.law)
    pairs = np.bincount(z[:, 0] * len(law) + z[:, 1], minlength=len(law) ** 2)
    expected = n * np.outer(law, law).ravel()
    assert (pairs[expected == 0] == 0).all()
    assert scipy.stats.chisquare(pairs[expected > 0], expected[expected > 0]).pvalue > 1e-4


@pytest.mark.parametrize("make", [discrete.absorbing, discrete.uniform])
def test_corruption(make):
    check_corruption(discrete.corrupt, make)
    rejects(check_corruption, lambda p, x, t, key: discrete.corrupt(p, x, 0.97 * t, key), make)
    column = lambda p, x, t, key: discrete.corrupt(p, x[:, :1], t, key).repeat(2, axis=1)  # one draw for both tokens
    rejects(check_corruption, column, make)


# -- the bound ---------------------------------------------------------------------------------------------------------


def check_bound(bound):
    """Its mean over masks is the average over all orders, of each of the eight x."""
    n = 20_000
    compiled = jax.jit(lambda x: bound(network, jnp.broadcast_to(x[None], (n, D)), KEY))
    for x, exact in zip(ALL, BOUNDS, strict=True):
        found = np.asarray(compiled(jnp.asarray(x)), np.float64)
        assert abs(found.mean() - exact) < 4 * found.std() / n**0.5, (x, found.mean(), exact)


def continuous(schedule):
    def bound(logits, x, key):
        time_key, key = jax.random.split(key)
        return losses.continuous_loss(logits, schedule, K, x, losses.masking_times(time_key, len(x)), key)

    return bound


def agnostic(logits, x, key):
    count_key, key = jax.random.split(key)
    return losses.order_agnostic_loss(logits, K, x, losses.masked_counts(count_key, *x.shape), key)


def independent(logits, x, key, masked_by=lambda m: m):
    share_key, key = jax.random.split(key)
    return losses.independent_loss(logits, K, x, masked_by(low_discrepancy(share_key, len(x))), key)


def test_tokens_masked_each_by_itself_give_the_average_over_orders():
    check_bound(independent)
    rejects(check_bound, lambda *args: D / (D + 1) * independent(*args))  # as though no row were without a mask
    rejects(check_bound, lambda logits, x, key: independent(logits, x, key, lambda m: m**2))  # few are masked
    rejects(check_bound, lambda logits, x, key: independent(logits, x, key, lambda m: jnp.ones_like(m)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_integral_over_time_is_the_average_over_orders(schedule):
    """By every schedule: its form changes the variance alone."""
    check_bound(continuous(SCHEDULES[schedule]))


def test_the_sum_over_numbers_is_the_average_over_orders():
    check_bound(agnostic)
    for k in (1, 2, D):
        check_bound(lambda logits, x, key, k=k: likelihood.masked_bound(logits, K, x, key, k))
    check_bound(lambda logits, x, key: likelihood.timed_bound(logits, survival.cosine(), K, x, key, 4))


def test_planted_bounds_are_caught(monkeypatch):
    rejects(check_bound, lambda *args: 1.05 * agnostic(*args))
    seen = lambda logits, x, key: losses.order_agnostic_loss(logits, K, x, jnp.full(len(x), D), key)  # all masked
    rejects(check_bound, seen)
    few = lambda logits, x, key: losses.order_agnostic_loss(logits, K, x, 1 + jnp.arange(len(x)) % (D - 1), key)
    rejects(check_bound, few)
    rejects(check_bound, lambda logits, x, key: agnostic(lambda z: logits(jnp.roll(z, 1, axis=1)), x, key))
    fixed = jnp.arange(D)[None]  # always the same order
    monkeypatch.setattr(likelihood, "ranks", lambda key, rows, dims: jnp.broadcast_to(fixed, (rows, dims)))
    rejects(check_bound, lambda logits, x, key: likelihood.masked_bound(logits, K, x, key, D))
    monkeypatch.setattr(losses, "hazard", lambda schedule, t: 1.0 / t)  # the linear one, for every schedule
    rejects(check_bound, continuous(survival.cosine()))
    monkeypatch.setattr(losses, "hazard", lambda schedule, t: jnp.ones_like(t))
    rejects(check_bound, continuous(survival.linear()))


def check_orders(over):
    found = over(network, K, jnp.asarray(ALL), likelihood.every_order(D))
    np.testing.assert_allclose(found.bound, BOUNDS, rtol=2e-5)
    np.testing.assert_allclose(found.nll, NLL, rtol=2e-5)


def test_all_orders_and_the_bound_of_a_law():
    """Bounds are above -log p, both are laws, and of a consistent model, whose conditionals are one joint's, equal."""
    check_orders(likelihood.over_orders)
    assert (BOUNDS > NLL).all() and np.exp(-NLL).sum() == pytest.approx(1) and np.exp(-BOUNDS).sum() < 1
    exact = likelihood.over_orders(truth, K, jnp.asarray(ALL), likelihood.every_order(D))
    np.testing.assert_allclose(exact.bound, -np.log(JOINT), rtol=1e-4)
    np.testing.assert_allclose(exact.nll, -np.log(JOINT), rtol=1e-4)
    rejects(check_orders, lambda f, k, x, orders: likelihood.over_orders(f, k, x, orders[:5]))
    rejects(check_orders, lambda *args: likelihood.over_orders(*args)._replace(nll=likelihood.over_orders(*args).bound))
    unsorted = lambda f, k, x, orders: likelihood.over_orders(f, k, x, np.tile(orders[:1], (6, 1)))
    rejects(check_orders, unsorted)


def test_one_number_fewer_is_not_the_sum():
    """k = D takes every n once: of a network that ignores what it sees the estimate has no noise."""
    blind = lambda tokens: jnp.broadcast_to(jnp.asarray(TABLE[K, K, K], jnp.float32)[None, :1], (len(tokens), D, K))
    x = jnp.zeros((50, D), jnp.int32)
    found = likelihood.masked_bound(blind, K, x, KEY, D)
    assert float(found.std()) < 1e-5
    assert float(found[0]) == pytest.approx(-float(jax.nn.log_softmax(blind(x)[0, 0])[0]) * D, rel=1e-5)


# -- uniform diffusion, every path -------------------------------------------------------------------------------------


def check_paths(posterior):
    """Of one token in T steps: -log p by all paths of the model, the bound by all paths of q, and both in order."""
    process, grid = discrete.uniform(survival.linear(), 3), np.linspace(0.0, 1.0, 4)
    guess = jax.nn.softmax(jnp.asarray(np.random.default_rng(2).normal(size=(3, 3)), jnp.float32))  # p(x | z)
    z = jnp.arange(3)[:, None]
    back = [np.asarray(posterior(process, guess[:, None], z, s, t)[:, 0]) for s, t in itertools.pairwise(grid)]
    probability, bound = np.zeros(3), np.zeros(3)
    ways = [chain(process, s, min(t, 1 - 1e-12)) for s, t in itertools.pairwise(grid)]
    for x, *path in itertools.product(range(3), repeat=4):  # x = z_0, z_1, z_2, z_3
        states = [x, *path]
        model = np.prod([back[i][states[i + 1], states[i]] for i in range(3)]) / 3
        given = np.prod([ways[i][states[i], states[i + 1]] for i in range(3)])
        probability[x] += model
        bound[x] += given * (np.log(given) - np.log(model))
    assert probability.sum() == pytest.approx(1, abs=1e-5)
    assert (bound >= -np.log(probability)).all() and np.exp(-bound).sum() <= 1
    for x in range(3):  # the same bound as a sum of divergences between (3) with x and with the network's guess
        total, at_x = 0.0, jnp.broadcast_to(jax.nn.one_hot(x, 3)[None, None], (3, 1, 3))
        for i, (s, t) in enumerate(itertools.pairwise(grid)):
            q_t = np.asarray(discrete.marginal(process, at_x[:1], t)[0, 0])
            q = np.asarray(posterior(process, at_x, z, s, t)[:, 0])
            kl = np.where(q > 0, q * (np.log(np.where(q > 0, q, 1)) - np.log(back[i])), 0).sum(-1)
            total += q_t @ kl
        assert total == pytest.approx(bound[x], abs=1e-4)


def test_every_path_of_uniform_diffusion():
    check_paths(discrete.posterior)
    rejects(check_paths, lambda p, x, z, s, t: discrete.marginal(p, x, s))
    rejects(check_paths, lambda p, x, z, s, t: 1.01 * discrete.posterior(p, x, z, s, t))


# -- samples -----------------------------------------------------------------------------------------------------------

N = 40_000


def fit(tokens, law):
    """p-value of the eight x against their probabilities."""
    counts = np.bincount(np.asarray(tokens) @ K ** np.arange(D)[::-1], minlength=len(ALL))
    return scipy.stats.chisquare(counts, len(tokens) * law).pvalue


def check_law(draw, law=JOINT, logits=truth):
    assert fit(draw(logits, jnp.full((N, D), K), K, KEY).tokens, law) > 1e-4


def one(logits, tokens, mask, key):
    return unmasking.unmask(logits, tokens, mask, unmasking.one_at_a_time(D), key)


def many(steps, schedule):
    return lambda logits, tokens, mask, key: unmasking.unmask(
        logits, tokens, mask, unmasking.parallel(schedule, steps), key
    )


def test_one_at_a_time_is_the_joint_law():
    """With the joint's own conditionals the joint; with any network's the average over orders."""
    check_law(one)
    check_law(one, np.exp(-NLL), network)


def test_planted_samplers_are_caught(monkeypatch):
    rejects(check_law, many(1, survival.linear()))  # all at once: independent tokens
    three = lambda logits, tokens, mask, key: many(3, survival.linear())(logits, tokens, mask, key)
    rejects(check_law, three)
    rejects(check_law, lambda f, z, m, key: unmasking.unmask(f, z, m, unmasking.confident(survival.linear(), D), key))
    rejects(check_law, one, np.exp(-BOUNDS) / np.exp(-BOUNDS).sum(), network)
    shared = lambda axis: (
        lambda logits, key: jnp.argmax(  # one draw for all rows, or for all tokens of a row
            logits + jax.random.gumbel(key, [1 if a == axis else n for a, n in enumerate(logits.shape)]), axis=-1
        )
    )
    for axis in (0, 1):
        monkeypatch.setattr(unmasking, "sample_categorical", shared(axis))
        rejects(check_law, one if axis == 0 else many(3, survival.linear()), np.exp(-NLL), network)


def test_one_key_for_all_steps_would_do_too(monkeypatch):
    """Every token is drawn once, each with its own part of the noise: what must not be shared are rows and tokens."""
    fold = jax.random.fold_in
    monkeypatch.setattr(jax.random, "fold_in", lambda key, i: fold(key, 0))
    check_law(one, np.exp(-NLL), network)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_many_parallel_steps_approach_the_joint(schedule):
    check_law(many(300, SCHEDULES[schedule]))


def check_known(draw):
    """Known tokens stay, and the rest follows the conditional law: the second is 1."""
    start = jnp.broadcast_to(jnp.array([[K, 1, K]]), (N, D))
    found = np.asarray(draw(truth, start, K, KEY).tokens)
    assert (found[:, 1] == 1).all()
    law = np.where(ALL[:, 1] == 1, JOINT, 0)
    counts = np.bincount(found @ K ** np.arange(D)[::-1], minlength=len(ALL))
    fits = law > 0
    assert scipy.stats.chisquare(counts[fits], N * law[fits] / law.sum()).pvalue > 1e-4


def test_inpainting():
    check_known(one)
    rejects(check_known, lambda f, z, m, key: one(f, jnp.full_like(z, m), m, key))
    rejects(check_known, many(1, survival.linear()))


def test_every_rule_ends_and_says_when():
    wide, mask = jnp.full((40, 12), 3).at[:, 0].set(1), 3
    half = lambda tokens: jnp.zeros((*tokens.shape, 3))
    for rule in (unmasking.one_at_a_time(12), unmasking.parallel(survival.cosine(), 5)):
        found = unmasking.unmask(half, wide, mask, rule, KEY)
        assert int(found.tokens.max()) < 3 and (found.step[:, 0] == -1).all() and int(found.step.max()) < rule.steps
        assert (unmasking.seen_at(found, mask, -1) == wide).all()
    single = unmasking.unmask(half, wide, mask, unmasking.one_at_a_time(12), KEY)
    np.testing.assert_array_equal(np.sort(single.step, axis=1), np.tile(np.arange(-1, 11), (40, 1)))
    sure = unmasking.unmask(half, wide, mask, unmasking.confident(survival.linear(), 5), KEY)
    left = [int((unmasking.seen_at(sure, mask, i) == mask).sum(1)[0]) for i in range(5)]
    assert left == [math.floor(11 * (4 - i) / 5) for i in range(5)]


def test_the_surest_come_first():
    """Logits whose certainty rises from left to right: revealed from right to left."""
    sharp = lambda tokens: jnp.broadcast_to(jnp.array([[[i * 9.0, 0.0] for i in range(1, 5)]]), (*tokens.shape, 2))
    found = unmasking.unmask(sharp, jnp.full((3, 4), 2), 2, unmasking.confident(survival.linear(), 4), KEY)
    assert (np.diff(found.step, axis=1) < 0).all()


def test_what_is_no_token_has_no_likelihood():
    """It would be free: a row of none of the network's tokens cost 0 nats."""
    x = jnp.array([[0, 1, 1], [0, 2, 1], [0, -1, 1]])
    sums = likelihood.masked_bound(lambda z: jnp.zeros((3, 3, 2)), 2, x, KEY, 3)
    assert np.isnan(sums).tolist() == [False, True, True] and float(sums[0]) == pytest.approx(3 * np.log(2), rel=1e-5)
    seen = losses.masked_nats(lambda z: jnp.zeros((3, 3, 2)), 2, x, jnp.zeros((3, 3), bool))
    assert not np.asarray(seen).any()


RISING = survival.Schedule(lambda t: 1 - t + np.sin(6 * np.pi * t) / 2, lambda t: t - np.sin(6 * np.pi * t) / 2)
TOKENS = jnp.zeros((2, 3), jnp.int32)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: survival.polynomial(0.0), "power = 0"),
        (lambda: survival.check_schedule(RISING), "rises at t = "),
        (lambda: survival.check_schedule(survival.Schedule(lambda t: 1 - t, lambda t: t**2)), "add up"),
        (lambda: discrete.uniform(survival.linear(), 1), "categories = 1"),
        (lambda: discrete.marginal(discrete.uniform(survival.linear(), 3), jnp.ones((1, 1, 2)), 0.5), "K = 3"),
        (lambda: losses.masked_nats(lambda z: jnp.zeros((2, 3, 3)), 2, TOKENS, TOKENS == 0), "the mask left out"),
        (lambda: losses.masked_nats(network, 2, jnp.zeros((2, 3)), TOKENS == 0), "integers"),
        (lambda: likelihood.masked_bound(network, 2, TOKENS, KEY, 0), "k = 0"),
        (lambda: likelihood.masked_bound(network, 2, TOKENS, KEY, 4), "3 is the exact sum"),
        (lambda: likelihood.masked_bound(network, 2, TOKENS, KEY, 1.5), "k = 1.5"),
        (lambda: likelihood.timed_bound(network, survival.linear(), 2, TOKENS, KEY, 2.5), "k = 2.5"),
        (lambda: unmasking.parallel(survival.linear(), 2.5), "2.5 steps"),
        (lambda: likelihood.timed_bound(network, survival.linear(), 2, TOKENS, KEY, 0), "k = 0"),
        (lambda: likelihood.order_log_prob(network, 2, TOKENS, np.arange(4)), "order of 4"),
        (lambda: likelihood.every_order(9), "all orders of 9"),
        (lambda: unmasking.one_at_a_time(0), "0 tokens"),
        (lambda: unmasking.parallel(survival.linear(), 0), "0 steps"),
        (lambda: one(truth, jnp.zeros((2, 3)), 2, KEY), "masks among them"),
        (lambda: one(lambda z: jnp.zeros((2, 3, 3)), TOKENS + 2, 2, KEY), "never drawn"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3

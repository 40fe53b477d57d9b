"""Learning from few labels: exact values, bounds against enumeration, constants in place; each with planted bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.data import digits, few_labels, with_unlabelled
from genjax.errors import BadInput
from genjax.losses.semi_supervised import (
    agreement,
    drawn,
    log_posterior,
    marginal_bound,
    own_label,
    ramp_up,
    real_unlabelled,
)
from genjax.metrics.calibration import classification


def normal(shape, seed, scale=2.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def own_label_is_right(of):
    teacher, student = normal((200, 4), 0), normal((200, 4), 1)
    q, p = (np.asarray(jax.nn.softmax(x), np.float64) for x in (teacher, student))
    rows = np.arange(200)
    expected = np.where(q.max(1) >= 0.7, -np.log(p[rows, q.argmax(1)]), 0.0)
    near = np.allclose(of(teacher, student, 0.7), expected, atol=1e-5)
    still = not np.any(jax.grad(lambda t: of(t, student, 0.7).sum())(teacher))
    moves = np.any(jax.grad(lambda s: of(teacher, s, 0.7).sum())(student))
    return near and still and moves and 0.2 < np.mean(expected == 0) < 0.8


OWN_LABEL = {
    "the student says which": lambda t, s, tau: own_label(s, s, tau),
    "no threshold": lambda t, s, tau: own_label(t, s, 0.0),
    "the soft label": lambda t, s, tau: -jnp.sum(jax.nn.softmax(t) * jax.nn.log_softmax(s), -1),
    "the unsure ones": lambda t, s, tau: own_label(t, s, 0.0) - own_label(t, s, tau),
    "through the teacher": lambda t, s, tau: own_label(t, s, tau) + t[:, 0] - jax.lax.stop_gradient(t[:, 0]),
}  # fmt: skip


def test_a_networks_own_label_counts_where_it_is_sure():
    assert own_label_is_right(own_label)


@pytest.mark.parametrize("bug", OWN_LABEL)
def test_planted_bugs_of_own_labels(bug):
    assert not own_label_is_right(OWN_LABEL[bug])


def test_agreement_is_the_squared_difference_of_probabilities_and_moves_the_student_alone():
    teacher, student = normal((50, 3), 2), normal((50, 3), 3)
    gap = np.asarray(jax.nn.softmax(teacher)) - np.asarray(jax.nn.softmax(student))
    np.testing.assert_allclose(agreement(teacher, student), (gap**2).mean(1), rtol=1e-5)
    assert not np.any(jax.grad(lambda t: agreement(t, student).sum())(teacher))
    assert np.any(jax.grad(lambda s: agreement(teacher, s).sum())(student))


def k_plus_one_is_a_softmax(real, false):
    logits = normal((100, 5), 4, 20.0)
    whole = jax.nn.log_softmax(jnp.pad(logits, ((0, 0), (0, 1))))  # the last class has the logit 0
    known = jax.nn.logsumexp(whole[:, :-1], axis=-1)
    return np.allclose(real(logits), -known, atol=1e-4) and np.allclose(false(logits), -whole[:, -1], atol=1e-4)


def test_the_class_of_what_is_drawn_has_the_logit_zero():
    assert k_plus_one_is_a_softmax(real_unlabelled, drawn)
    extreme = jnp.array([[300.0, -300.0], [-300.0, -300.0]])
    assert np.isfinite(jax.grad(lambda x: (real_unlabelled(x) + drawn(x)).sum())(extreme)).all()


@pytest.mark.parametrize(
    "bug",
    [
        (drawn, real_unlabelled),
        (lambda x: real_unlabelled(jnp.max(x, -1, keepdims=True)), drawn),
        (real_unlabelled, lambda x: drawn(jnp.mean(x, -1, keepdims=True))),
        (lambda x: real_unlabelled(x) - jnp.log(x.shape[-1]), drawn),
    ],
)
def test_planted_bugs_of_the_critic(bug):
    assert not k_plus_one_is_a_softmax(*bug)


def bounds_the_marginal(of):
    joint = jnp.log(jax.nn.softmax(normal((60, 12), 5), axis=-1)).reshape(60, 3, 4)[:, :, 0] - 1.0  # no distribution
    exact = jax.nn.logsumexp(joint, axis=-1)
    others = [of(joint, normal((60, 3), seed)) for seed in range(6, 10)]
    below = all(np.all(np.asarray(other) <= np.asarray(exact) + 1e-5) for other in others)
    gaps = [float(jnp.mean(exact - other)) for other in others]
    return below and min(gaps) > 0.1 and np.allclose(of(joint, joint), exact, atol=1e-5)


MARGINAL = {
    "no entropy": lambda joint, logits: jnp.sum(jax.nn.softmax(logits) * joint, -1),
    "its sign": lambda joint, logits: jnp.sum(jax.nn.softmax(logits) * (joint + jax.nn.log_softmax(logits)), -1),
    "the mean over labels": lambda joint, logits: jnp.mean(joint, -1),
    "the exact sum": lambda joint, logits: jax.nn.logsumexp(joint, axis=-1),
    "logits for log q": lambda joint, logits: jnp.sum(jax.nn.softmax(logits) * (joint - logits), -1),
}


def test_m2s_bound_is_below_the_marginal_and_tight_at_the_posterior():
    assert bounds_the_marginal(marginal_bound)


@pytest.mark.parametrize("bug", MARGINAL)
def test_planted_bugs_of_m2s_bound(bug):
    assert not bounds_the_marginal(MARGINAL[bug])


def test_bayes_rule_on_normals_of_known_posterior():
    x = jnp.linspace(-3, 3, 31)
    means, prior = jnp.array([-1.0, 1.0]), jnp.array([0.2, 0.8])
    fit = -0.5 * (x[:, None] - means[None]) ** 2
    expected = jax.nn.sigmoid(2 * x + jnp.log(4.0))  # logit of P(y=1 | x)
    np.testing.assert_allclose(jnp.exp(log_posterior(fit, jnp.log(prior)))[:, 1], expected, atol=1e-6)
    assert not np.allclose(jnp.exp(log_posterior(fit, jnp.zeros(2)))[:, 1], expected, atol=1e-2)


def test_the_weight_rises_to_one_and_stays():
    weights = [float(ramp_up(step, 10.0)) for step in (0, 5, 10, 99)]
    np.testing.assert_allclose(weights, [np.exp(-5), np.exp(-1.25), 1, 1], rtol=1e-6)


def test_labelled_rows_are_balanced_and_choices_differ():
    label = digits().train.arrays["label"]
    rows = [few_labels(label, 50, choice) for choice in (0, 1, 1, 2)]
    assert all((np.bincount(label[each], minlength=10) == 5).all() for each in rows)
    assert np.array_equal(rows[1], rows[2]) and not np.array_equal(rows[1], rows[3])
    assert rows[0].tolist() == sorted(np.concatenate([np.flatnonzero(label == k)[:5] for k in range(10)]))


def test_batches_bring_unlabelled_rows_of_the_whole_set():
    train = digits().train
    rows = few_labels(train.arrays["label"], 50)
    source = with_unlabelled(train, rows, 100, ratio=3)
    one = source.batch(source.resident, jax.random.key(0), 4)
    again = source.batch(source.resident, jax.random.key(0), 4)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    known = {
        image.tobytes(): label
        for image, label in zip(train.arrays["image"][rows], train.arrays["label"][rows], strict=True)
    }
    seen = np.round(np.asarray(one["image"]) * 16).astype(np.uint8)
    assert [known[image.tobytes()] for image in seen] == one["label"].tolist()
    others = np.round(np.asarray(one["unlabelled"]) * 16).astype(np.uint8)
    assert others.shape == (150, 8, 8, 1) and np.mean([image.tobytes() in known for image in others]) < 0.2


@pytest.mark.parametrize(
    "call",
    [
        lambda: few_labels([0, 1, 1], 3),
        lambda: few_labels([0, 1, 1], 4),
        lambda: few_labels([0, 1, 1], -2),
        lambda: few_labels([0, 1, 1], 2, -1),
        lambda: with_unlabelled(digits().train, np.arange(5), 5, 0),
        lambda: with_unlabelled(digits().train, np.arange(0), 5),
        lambda: own_label(jnp.zeros((2, 3)), jnp.zeros((2, 2))),
        lambda: own_label(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 1.5),
        lambda: ramp_up(0, 0.0),
        lambda: log_posterior(jnp.zeros((2, 3)), jnp.zeros(2)),
        lambda: marginal_bound(jnp.zeros(3), jnp.zeros(3)),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(BadInput):
        call()


def test_the_measures_of_a_classifier():
    logits, label = np.asarray(normal((300, 4), 6)), np.arange(300) % 4
    found = classification(logits, label)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    nll = -log_p[np.arange(300), label]
    assert found["nll"] == pytest.approx((nll.mean(), nll.std(ddof=1) / 300**0.5), rel=1e-5)
    assert found["error"][0] == pytest.approx(100 * np.mean(logits.argmax(1) != label))

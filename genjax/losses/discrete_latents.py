"""Discrete latents: gradients of bounds by score functions, and bounds of relaxed models.

A sample z ~ q(z | x; phi) that is discrete passes no gradient to phi.  With w(z) = p(x, z) / q(z | x) and the score
s(z) = d log q(z | x; phi) / d phi, whose mean is zero,

    d/dphi E_q[log w]            = E[(log w(z) - b) s(z)]                          b independent of z        (REINFORCE)
    d/dphi E[log 1/k sum_i w_i]  = E[sum_i (L - L_{-i}) s(z_i) + sum_i v_i d log w_i / d phi]                    (VIMCO)

L = log 1/k sum_i w_i, v_i = w_i / sum_j w_j, and L_{-i} is L with w_i replaced by the geometric mean of the others:
what the i-th sample added.  The baseline b takes variance out and no bias in, as long as it does not know z: the mean
of the other samples (`leave_one_out`), a number remembered from earlier steps (`running_baseline`, kept in `carry`), or
a network of x (`baseline_error` is its loss).

The functions return the bound as a value whose gradient is the estimator: `minimize` needs nothing else.  Log-weights
and scores are [k, B]; samples must be drawn without a gradient, as `sample_bernoulli` and `sample_categorical` do.

The other way is to relax z: a Concrete variable of positive temperature is reparameterised, and the bound is one of the
relaxed model, whose prior is Concrete too.  It says nothing about the model with discrete z.

Sources: Williams, Simple Statistical Gradient-Following Algorithms, 1992, https://doi.org/10.1007/BF00992696; Mnih and
Gregor, Neural Variational Inference and Learning in Belief Networks, 2014, https://arxiv.org/abs/1402.0030; Mnih and
Rezende, Variational Inference for Monte Carlo Objectives, 2016, https://arxiv.org/abs/1602.06725; Maddison, Mnih and
Teh, The Concrete Distribution, 2017, https://arxiv.org/abs/1611.00712; Jang, Gu and Poole, Categorical
Reparameterization with Gumbel-Softmax, 2017, https://arxiv.org/abs/1611.01144.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.distributions import concrete_log_prob, event_sum, log_mean_exp, sample_concrete, upcast
from genjax.errors import BadInput
from genjax.losses.variational import samples_by_examples
from genjax.types import Array, Key


def negative_elbo_reinforce(log_joint: Array, log_posterior: Array, baseline: Array | float = 0.0) -> jax.Array:
    """-E_q[log p(x, z) - log q(z | x)], with theta's gradient by the samples and phi's by the score: (REINFORCE).

    Args:
      log_joint: [k, B] nats, log p(x, z_i), differentiable in theta.
      log_posterior: [k, B] nats, log q(z_i | x), differentiable in phi.
      baseline: b, a scalar, [B] or [k, B] nats that do not depend on the z_i they are subtracted for; no gradient
        flows through it.

    Returns:
      [B] nats, averaged over k.  Kind: in expectation an upper bound of -log p(x), the negative ELBO.

    Raises:
      BadInput: anything but two times [k, B] with k >= 1; a baseline of another shape.

    Source: Williams, 1992; Mnih and Gregor, 2014.

    >>> loss = lambda log_q: negative_elbo_reinforce(jnp.array([[-90.0]]), log_q, -85.0).sum()
    >>> value, slope = jax.value_and_grad(loss)(jnp.array([[-3.0]]))
    >>> float(value), float(slope[0, 0])  # -(log w - b) = -(-87 + 85): less of this sample
    (87.0, 2.0)
    """
    log_joint, log_posterior = samples_by_examples(log_joint=log_joint, log_posterior=log_posterior)
    log_weights = log_joint - log_posterior
    signal = jax.lax.stop_gradient(log_weights - _of_samples(baseline, log_weights.shape))
    return -jnp.mean(_with_gradient(log_weights, log_joint + signal * log_posterior), axis=0)


def leave_one_out(log_weights: Array) -> jax.Array:
    """b_i = 1/(k-1) sum_{j != i} log w_j: the other samples of the same example as a baseline.

    Args:
      log_weights: [k, B] nats, k at least 2.

    Returns:
      [k, B] nats.

    Raises:
      BadInput: anything but [k, B] with k >= 2.

    Source: Mnih and Rezende, 2016; Kool, van Hoof and Welling, 2019, https://openreview.net/forum?id=r1lgTGL5DE.

    >>> leave_one_out(jnp.array([[1.0], [2.0], [6.0]]))[:, 0].tolist()
    [4.0, 3.5, 1.5]
    """
    (log_weights,) = samples_by_examples(2, log_weights=log_weights)
    others = jnp.sum(log_weights, axis=0, keepdims=True) - log_weights
    return others / (log_weights.shape[0] - 1)


def running_baseline(previous: Array, log_weights: Array, decay: float) -> jax.Array:
    """decay b + (1 - decay) mean log w: what `carry` remembers for the next step.

    The baseline of a step is the one carried into it; this is the one carried out.

    Args:
      previous: scalar nats, b.
      log_weights: [k, B] nats of this step.
      decay: in [0, 1).

    Returns:
      scalar nats, without gradient.

    Raises:
      BadInput: a decay outside of [0, 1), anything but [k, B] with k >= 1.

    Source: Mnih and Gregor, 2014, on centring the learning signal.

    >>> float(running_baseline(jnp.float32(-100.0), jnp.array([[-80.0, -60.0]]), 0.9))
    -97.0
    """
    (log_weights,) = samples_by_examples(log_weights=log_weights)
    if not 0 <= decay < 1:
        raise BadInput(f"decay = {decay}", "allowed: how much of the past remains, at least 0 and below 1")
    return jax.lax.stop_gradient(decay * upcast(previous) + (1 - decay) * jnp.mean(log_weights))


def baseline_error(log_weights: Array, baseline: Array) -> jax.Array:
    """1/k sum_i (log w_i - b(x))^2: added to the loss, it teaches a network to be the baseline, and nothing else.

    Args:
      log_weights: [k, B] nats; no gradient flows through them.
      baseline: [B] nats, a network's output of x.

    Returns:
      [B] nats squared.

    Raises:
      BadInput: shapes that do not fit.

    Source: Mnih and Gregor, 2014, on centring the learning signal.

    >>> baseline_error(jnp.array([[-90.0], [-80.0]]), jnp.array([-85.0])).tolist()
    [25.0]
    """
    (log_weights,) = samples_by_examples(log_weights=log_weights)
    if jnp.shape(baseline) != log_weights.shape[1:]:
        raise BadInput(
            f"baseline has shape {list(jnp.shape(baseline))}, log_weights {list(log_weights.shape)}",
            "allowed: one baseline per example, [B], for log_weights [k, B]",
        )
    return jnp.mean(jnp.square(jax.lax.stop_gradient(log_weights) - upcast(baseline)[None]), axis=0)


def negative_vimco(log_joint: Array, log_posterior: Array) -> jax.Array:
    """-log 1/k sum_i w_i with a signal for each sample: (VIMCO).

    Args:
      log_joint: [k, B] nats, log p(x, z_i), differentiable in theta; k at least 2.
      log_posterior: [k, B] nats, log q(z_i | x), differentiable in phi.

    Returns:
      [B] nats, `negative_iwae` of the weights.  Kind: in expectation an upper bound of -log p(x).  Memory: k^2 B.

    Raises:
      BadInput: anything but two times [k, B] with k >= 2.

    Source: Mnih and Rezende, 2016, on local learning signals.

    >>> loss = lambda log_q: negative_vimco(jnp.array([[-90.0], [-90.0]]), log_q).sum()
    >>> value, slope = jax.value_and_grad(loss)(jnp.array([[-3.0], [-3.0]]))
    >>> float(value), slope[:, 0].tolist()  # equal samples: no signal, what remains is v_i
    (87.0, [0.5, 0.5])
    """
    log_joint, log_posterior = samples_by_examples(2, log_joint=log_joint, log_posterior=log_posterior)
    log_weights = log_joint - log_posterior
    bound = log_mean_exp(log_weights, axis=0)
    others = leave_one_out(log_weights)  # the logarithm of the geometric mean
    own = jnp.eye(log_weights.shape[0], dtype=bool)[:, :, None]
    without = log_mean_exp(jnp.where(own, others[:, None], log_weights[None]), axis=1)  # row i: the bound without z_i
    signal = jax.lax.stop_gradient(bound[None] - without)
    return -_with_gradient(bound, bound + jnp.sum(signal * log_posterior, axis=0))


def concrete_log_weights(
    log_likelihood: Callable[[jax.Array], jax.Array],
    logits: Array,
    prior_logits: Array,
    temperature: Array | float,
    prior_temperature: Array | float,
    key: Key,
    k: int,
) -> jax.Array:
    """log w_i of k relaxed samples: log p(x | y) + log p(y) - log q(y | x), all densities Concrete.

    `negative_iwae` of them is a bound of the *relaxed* model p(x) = int p(x | y) p(y) dy.  A KL divergence of the
    discrete variables in place of log p(y) - log q(y | x) (Jang et al. 2017) would make it no bound of any model.

    Args:
      log_likelihood: y [k, B, J, K] -> log p(x | y) [k, B] nats; y are points of the simplex.
      logits: [B, J, K] of the posterior: J variables of K categories.
      prior_logits: [J, K] or [B, J, K] of the prior.
      temperature, prior_temperature: scalars > 0, of q and p.
      key: the key of the samples.
      k: samples per example, at least 1.

    Returns:
      [k, B] nats, differentiable in logits, prior and whatever `log_likelihood` depends on.

    Raises:
      BadInput: k < 1, a temperature that is not positive, other shapes.

    Source: Maddison, Mnih and Teh, 2017, section 3 and appendix C.

    >>> same = jnp.zeros((2, 1, 3))  # posterior = prior: every weight is the likelihood
    >>> fit = lambda y: jnp.full(y.shape[:2], -5.0)
    >>> concrete_log_weights(fit, same, same, 0.5, 0.5, jax.random.key(0), k=1).tolist()
    [[-5.0, -5.0]]
    """
    if k < 1:
        raise BadInput(f"k = {k}", "allowed: the number of samples, at least 1")
    shape, prior_shape = jnp.shape(logits), jnp.shape(prior_logits)
    if len(shape) != 3 or prior_shape not in (shape, shape[1:]):
        raise BadInput(
            f"logits have shape {list(shape)}, prior_logits {list(prior_shape)}",
            "allowed: logits [B, J, K], J variables of K categories; prior_logits the same, or [J, K]",
        )
    logits, prior_logits = (jnp.broadcast_to(upcast(a), (k, *shape)) for a in (logits, prior_logits))
    log_y = sample_concrete(logits, temperature, key)
    log_prior = event_sum(concrete_log_prob(log_y, prior_logits, prior_temperature), leading=2)
    log_posterior = event_sum(concrete_log_prob(log_y, logits, temperature), leading=2)
    return upcast(log_likelihood(jnp.exp(log_y))) + log_prior - log_posterior


def straight_through(hard: Array, soft: Array) -> jax.Array:
    """The value of `hard`, the gradient of `soft`.  Kind: a BIASED gradient, of whatever is computed from it.

    Args:
      hard: [...] what is used forward: a one-hot vector, a nearest code.
      soft: [...] the same shape; what gradients flow to.

    Returns:
      [...] `hard`, exactly.

    Raises:
      BadInput: shapes that differ.

    Source: Bengio, Leonard and Courville, 2013, https://arxiv.org/abs/1308.3432; Jang, Gu and Poole, 2017, section 2.2.

    >>> soft = jnp.array([0.3, 0.7])
    >>> one_hot = lambda soft: jax.nn.one_hot(jnp.argmax(soft), 2)
    >>> value, slope = jax.value_and_grad(lambda soft: straight_through(one_hot(soft), soft)[1])(soft)
    >>> float(value), slope.tolist()
    (1.0, [0.0, 1.0])
    """
    if jnp.shape(hard) != jnp.shape(soft):
        raise BadInput(f"hard {list(jnp.shape(hard))}, soft {list(jnp.shape(soft))}", "allowed: one shape")
    return _with_gradient(jnp.asarray(hard), jnp.asarray(soft))


def _of_samples(baseline: Array | float, shape: tuple[int, ...]) -> jax.Array:
    values = upcast(baseline)
    if values.shape not in ((), shape[1:], shape):
        told = f"baseline {list(values.shape)}, log weights {list(shape)}"
        raise BadInput(told, f"allowed: a scalar, {list(shape[1:])}, a number an example, or {list(shape)}")
    return jnp.broadcast_to(values, shape)


def _with_gradient(value: jax.Array, surrogate: jax.Array) -> jax.Array:
    zero = surrogate - jax.lax.stop_gradient(surrogate)  # exactly
    return jax.lax.stop_gradient(value) + zero

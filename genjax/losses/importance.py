"""Bounds of several importance samples, and better gradients of them.

With weights w_i = p(x, z_i) / q(z_i | x) of samples z_i = g(eps_i, phi) ~ q(z | x; phi),

    L_k = E log 1/k sum_i w_i                           at most log p(x), rises with k                          (IWAE)
    L_{m,k} = E 1/m sum_l log 1/k sum_i w_{l,i}         equals L_k; its gradient is steadier                    (MIWAE)
    beta L_1 + (1 - beta) L_k                           0 <= beta <= 1                                          (CIWAE)
    theta ascends L_{mk}, phi ascends L_{m,k}           two objectives, the same samples                        (PIWAE)

How phi moves along L_k.  With shares v_i = w_i / sum_j w_j, differentiation through the samples gives

    d L_k / d phi = sum_i v_i (d log w_i / d z_i  d z_i / d phi  -  d log q(z_i | x; phi) / d phi),             (plain)

where the last term is the score, the derivative at fixed z_i.  Its mean is zero for k = 1 only; it is noise even where
q is the exact posterior, and it drowns the signal as k grows (Rainforth et al. 2018).  Two ways out:

    sum_i v_i    d log w_i / d z_i  d z_i / d phi      the score is left out: unbiased for k = 1, biased for k > 1 (STL)
    sum_i v_i^2  d log w_i / d z_i  d z_i / d phi      the score is reparameterised once more: unbiased for all k (DReG)

DReG in two lines: for f(z) that does not depend on the phi of the score, E_q[f(z) d log q(z; phi)/d phi] =
E_eps[df/dz dz/dphi].  With f = -v_i and the other samples fixed, df/dz_i = -(v_i - v_i^2) d log w_i/dz_i, which added
to the path term v_i leaves v_i^2.  Both vanish, sample by sample, where q is the exact posterior: w is then constant in
z.  theta, the model's parameters, always gets sum_i v_i d log w_i / d theta.

The three gradients are three functions of one signature, so that an experiment chooses by one line:

    bound = {"iwae": reparameterized, "stl": sticking_the_landing, "dreg": doubly_reparameterized}[gradient]
    negative_bound = bound(log_weight, (mean, log_var), z)                                                      # [B]

Sources: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016, https://arxiv.org/abs/1509.00519;
Roeder, Wu and Duvenaud, Sticking the Landing, 2017, https://arxiv.org/abs/1703.09194; Rainforth et al., Tighter
Variational Bounds are Not Necessarily Better, 2018, https://arxiv.org/abs/1802.04537; Tucker et al., Doubly
Reparameterized Gradient Estimators for Monte Carlo Objectives, 2019, section 3, https://arxiv.org/abs/1810.04152.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax.distributions import log_mean_exp
from genjax.errors import BadInput
from genjax.losses.variational import negative_iwae, same_shape, samples_by_examples
from genjax.types import Array

LogWeight = Callable[[Any, Any], jax.Array]
"""(posterior, z) -> log p(x, z) - log q(z | posterior), [k, B] nats."""


def reparameterized(log_weight: LogWeight, posterior: Any, z: Any) -> jax.Array:
    """-L_k, differentiated through the samples and through log q: equation (plain) above.

    Args:
      log_weight: (posterior, z) -> [k, B] nats, log p(x, z) - log q(z | posterior).  It reads phi only through its
        first argument; of theta it may close over what it likes.
      posterior: what log q reads besides z, a pytree of arrays that depends on phi: (mean, log_var), or the encoder's
        parameters where a layer of latents conditions another.
      z: the samples, a pytree of [k, B, ...], reparameterised: z = mean + exp(log_var / 2) eps.

    Returns:
      [B] nats, `negative_iwae` of the log weights.  Kind: in expectation an upper bound of -log p(x).

    Source: Burda, Grosse and Salakhutdinov, 2016, eq. 8 and 14.

    >>> log_weight = lambda mean, z: (z - mean)[..., 0]
    >>> reparameterized(log_weight, jnp.zeros((2, 3, 1)), jnp.full((2, 3, 1), -7.0)).tolist()
    [7.0, 7.0, 7.0]
    """
    return negative_iwae(log_weight(posterior, z))


def sticking_the_landing(log_weight: LogWeight, posterior: Any, z: Any) -> jax.Array:
    """-L_k whose gradient leaves out the score of q: equation (STL) above.

    Unbiased for k = 1.  For k > 1 it is a biased gradient of L_k (Tucker et al. 2019): the score, weighted by v_i, has
    a mean.  Where q is the exact posterior it is exactly zero, sample by sample.

    Args:
      log_weight, posterior, z: as `reparameterized`.

    Returns:
      [B] nats, the same values as `reparameterized`.

    Source: Roeder, Wu and Duvenaud, 2017.

    >>> log_weight = lambda mean, z: (z - mean)[..., 0]
    >>> gradient = jax.grad(lambda mean: sticking_the_landing(log_weight, mean, mean + 1.0).sum())
    >>> gradient(jnp.zeros((2, 1, 1)))[:, 0, 0].tolist()  # -v_i: of z - mean only z counts
    [-0.5, -0.5]
    """
    return negative_iwae(log_weight(jax.lax.stop_gradient(posterior), z))


def doubly_reparameterized(log_weight: LogWeight, posterior: Any, z: Any) -> jax.Array:
    """-L_k whose gradient weighs the path of each sample by v_i^2: equation (DReG) above, at no further cost.

    Unbiased for every k; where q is the exact posterior it is exactly zero.  The square arises on the way back: what
    arrives at the samples carries v_i already, and is multiplied there by v_i once more.  Parameters that `log_weight`
    reads without z (theta, those of a learned prior) are not touched by it.  With several layers of latents, sample all
    of them first and pass them together: the square belongs to the joint sample.

    Args:
      log_weight, posterior, z: as `reparameterized`.

    Returns:
      [B] nats, the same values as `reparameterized`; reverse-mode differentiation only.

    Raises:
      BadInput: samples or log weights whose first two axes are not the same [k, B].

    Source: Tucker, Lawson, Gu and Maddison, 2019, section 3.

    >>> log_weight = lambda mean, z: (z - mean)[..., 0]
    >>> gradient = jax.grad(lambda mean: doubly_reparameterized(log_weight, mean, mean + 1.0).sum())
    >>> gradient(jnp.zeros((2, 1, 1)))[:, 0, 0].tolist()  # -v_i^2
    [-0.25, -0.25]
    """
    layers = {f"z[{i}]": layer for i, layer in enumerate(jax.tree.leaves(z))}
    zeros = same_shape(**{name: jnp.zeros(layer.shape[:2], layer.dtype) for name, layer in layers.items()})[0]
    z, zeros = _times_share(z, zeros)
    log_weights, zeros = same_shape(log_weights=log_weight(jax.lax.stop_gradient(posterior), z), samples=zeros)
    return negative_iwae(log_weights + zeros)


def negative_miwae(log_weights: Array) -> jax.Array:
    """-1/m sum_l log 1/k sum_i w_{l,i}: the mean of m bounds of k samples each.

    m = 1 is `negative_iwae`; k = 1 is the negative ELBO, averaged over m samples.

    Args:
      log_weights: [m, k, B] nats.

    Returns:
      [B] nats.  Kind: in expectation an upper bound of -log p(x), that of `negative_iwae` with k samples.

    Raises:
      BadInput: anything but [m, k, B] with m, k >= 1.

    Source: Rainforth et al., 2018.

    >>> negative_miwae(jnp.array([[[-90.0], [-90.0]], [[-80.0], [-80.0]]])).tolist()
    [85.0]
    """
    (log_weights,) = _groups(log_weights=log_weights)
    return -jnp.mean(log_mean_exp(log_weights, axis=1), axis=0)


def negative_ciwae(log_weights: Array, beta: Array | float) -> jax.Array:
    """-(beta mean_i log w_i + (1 - beta) log 1/k sum_i w_i): between the ELBO and the importance-weighted bound.

    Args:
      log_weights: [k, B] nats.
      beta: scalar in [0, 1]; 0 is `negative_iwae`, 1 the negative ELBO averaged over k samples.

    Returns:
      [B] nats.  Kind: in expectation an upper bound of -log p(x), for beta in [0, 1] and no other.

    Raises:
      BadInput: anything but [k, B] with k >= 1; a beta outside of [0, 1], where it is a Python number.

    Source: Rainforth et al., 2018.

    >>> negative_ciwae(jnp.array([[-90.0], [-90.0]]), 0.5).tolist()
    [90.0]
    """
    (log_weights,) = samples_by_examples(log_weights=log_weights)
    if isinstance(beta, int | float) and not 0 <= beta <= 1:
        raise BadInput(f"beta = {beta}", "allowed: the share of the ELBO, from 0 (IWAE) to 1 (ELBO)")
    share = jnp.asarray(beta, log_weights.dtype)
    return -(share * jnp.mean(log_weights, axis=0) + (1 - share) * log_mean_exp(log_weights, axis=0))


def negative_piwae(model_log_weights: Array, posterior_log_weights: Array) -> jax.Array:
    """Value and theta's gradient of -L_{mk}, phi's gradient of -L_{m,k}: two objectives in one scalar for `minimize`.

    The same log weights are given twice, once seen by each side.  With `log_weight(theta, phi)` on fixed noise:

        negative_piwae(log_weight(theta, stop_gradient(phi)), log_weight(stop_gradient(theta), phi))

    The forward pass is shared under `jit`.  As a game, `alternate` takes `negative_iwae` of all mk samples as the loss
    of the model's player and `negative_miwae` as that of the posterior's; each then draws samples of its own.

    Args:
      model_log_weights: [m, k, B] nats, differentiable in theta alone.
      posterior_log_weights: [m, k, B] nats, the same numbers, differentiable in phi alone.

    Returns:
      [B] nats, `negative_iwae` of all mk samples.  Kind: in expectation an upper bound of -log p(x).

    Raises:
      BadInput: anything but two times [m, k, B] with m, k >= 1.

    Source: Rainforth et al., 2018.

    >>> same = jnp.array([[[-90.0], [-90.0]], [[-90.0], [-90.0]]])
    >>> negative_piwae(same, same).tolist()
    [90.0]
    """
    model, posterior = _groups(model_log_weights=model_log_weights, posterior_log_weights=posterior_log_weights)
    surrogate = negative_miwae(posterior)
    return negative_iwae(model.reshape(-1, model.shape[-1])) + (surrogate - jax.lax.stop_gradient(surrogate))


def _groups(**arrays: Array) -> list[jax.Array]:
    checked = same_shape(**arrays)
    for name, array in zip(arrays, checked, strict=True):
        if array.ndim != 3 or 0 in array.shape[:2]:
            raise BadInput(
                f"{name} has shape {list(array.shape)}",
                "allowed: [m, k, B], m groups of k samples by examples, m and k at least 1",
            )
    return checked


@jax.custom_vjp
def _times_share(z: Any, zeros: jax.Array) -> tuple[Any, jax.Array]:
    """The identity; backwards, what arrives at the samples is multiplied by v_i.

    `zeros` [k, B] are added to the log weights, so that -(d loss / d L_k) v_i arrives there, for each example: divided
    by its sum over i this is v_i, whatever the weight of the example in the mean over the batch.
    """
    return z, zeros


def _forward(z: Any, zeros: jax.Array) -> tuple[tuple[Any, jax.Array], None]:
    return (z, zeros), None


def _backward(_: None, arriving: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
    samples, weighted = arriving
    total = jnp.sum(weighted, axis=0, keepdims=True)
    share = weighted / jnp.where(total == 0, 1.0, total)  # an example of weight 0, a padding row: nothing arrives
    scaled = lambda a: (a * share.reshape(*share.shape, *(1,) * (a.ndim - 2))).astype(a.dtype)
    return jax.tree.map(scaled, samples), jnp.zeros_like(weighted)


_times_share.defvjp(_forward, _backward)

"""Machines of 4 x 3 units whose every state is enumerated in float64 NumPy, and what tests ask of chains."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from genjax.models.rbm import RBM
from genjax.models.rbm import machine as machine_of_weights
from genjax.models.visible import bernoulli_units

KEY, D, H = jax.random.key(0), 4, 3
states = lambda n: np.array([*itertools.product((0.0, 1.0), repeat=n)])
V, HIDDEN = states(D), states(H)


def lively(centred=True, seed=0, scale=1.0):
    """A machine of 4 x 3 units with weights of size `scale` and offsets that are no means of anything."""
    draw = np.random.default_rng(seed)
    real = lambda *shape: draw.normal(size=shape).astype(np.float32)
    variables = {"params": {"weight": np.float32(scale) * real(D, H), "visible": real(D), "hidden": real(H)}}
    if centred:
        even = lambda n: draw.uniform(0.1, 0.9, size=n).astype(np.float32)
        variables["offsets"] = {"visible": even(D), "hidden": even(H)}
    return RBM(bernoulli_units(D), H, centred), variables


def machine(model, variables):
    """The functions of a model at its variables."""
    return machine_of_weights(model.apply(variables, method="weights"), model.units)


def table(variables):
    """E(v, h) of all states, [16, 8], by the definition."""
    w, b, c = (np.float64(variables["params"][name]) for name in ("weight", "visible", "hidden"))
    offsets = variables.get("offsets", {"visible": np.zeros(D), "hidden": np.zeros(H)})
    v, h = V - np.float64(offsets["visible"]), HIDDEN - np.float64(offsets["hidden"])
    return -(v @ b)[:, None] - (h @ c)[None] - v @ w @ h.T


def law(variables):
    """p(v) of all 16 states, and log Z."""
    log_p = scipy.special.logsumexp(-table(variables), axis=1)
    return np.exp(log_p - scipy.special.logsumexp(log_p)), scipy.special.logsumexp(log_p)


def exact_samples(variables, count, seed=0):
    """v [count, 4] drawn from the exact law."""
    return jnp.float32(V[np.random.default_rng(seed).choice(16, size=count, p=law(variables)[0])])


def chi_square(samples, probability):
    """The p-value of samples [n, 4] under the probabilities of all 16 states."""
    counts = np.bincount(np.asarray(samples, int) @ [8, 4, 2, 1], minlength=16)
    return scipy.stats.chisquare(counts, probability * len(samples)).pvalue

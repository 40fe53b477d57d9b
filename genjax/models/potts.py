r"""A Potts RBM of aligned sequences: columns that depend on each other through binary hidden units.

It begins at a profile of the columns: what it learns is how they depend on each other.  The offsets of rbm.py are that
profile and, of the hidden units, 1/2.  They stay, so that parameters of different updates mean the same and may be
averaged.

    log p(x) = -F(x) - log Z

Kinds: log Z is a sum over the states of up to 25 hidden units, and -log p EXACT; beyond that an ESTIMATE, by annealing
from the profile (in expectation a lower bound of log Z, so that the model looks too good) and back from the chains (an
upper bound if these have mixed).

Sources: Tubiana, Cocco and Monasson, Learning protein constitutive motifs from sequence data, 2019,
https://doi.org/10.7554/eLife.39397; Tieleman, Training Restricted Boltzmann Machines using Approximations to the
Likelihood Gradient, 2008, https://doi.org/10.1145/1390156.1390290; Salakhutdinov and Murray, On the Quantitative
Analysis of Deep Belief Networks, 2008, https://doi.org/10.1145/1390156.1390266.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.likelihood.ais import MOST_UNITS, enumerated_log_partition, temperatures
from genjax.losses.energy import phase_difference
from genjax.models.aligned import Density
from genjax.models.partition import annealed_back, annealed_there, told
from genjax.models.rbm import RBM, Machine, Weights, gibbs_step, machine
from genjax.models.visible import categorical_units, one_hot
from genjax.samplers.gibbs import run_chain, run_on
from genjax.types import Array, Key, Out, Params, State

WALKS, MIXING = 100, 500  # of annealing; Gibbs steps before a chain is a sample


class Annealed(NamedTuple):
    """The density, and -log p(x) by estimates of log Z: {"nll", "log_z", "log_z_error", "effective"}, each [B]."""

    density: Density
    there: Callable[[State, jax.Array, Key], dict[str, jax.Array]]  # from the profile to the machine
    back: Callable[[State, jax.Array, Key], dict[str, jax.Array]]  # from the chains, run on, to the profile


def potts(log_p: Array, hidden: int, k: int, chains: int, betas: int) -> Annealed:
    """A Potts RBM, by persistent contrastive divergence.

    Args:
      log_p: [L, K] nats, the profile at which it begins, its offsets, and where annealing starts.
      hidden: units; up to 25 its log Z is enumerated, and `nats` are exact.
      k: Gibbs steps of an update.
      chains: how many live on from update to update.
      betas: temperatures of annealing.

    Returns:
      Annealed.  Kind: exact where log Z is enumerated, else estimates.

    Source: Tubiana, Cocco and Monasson, 2019; Tieleman, 2008 (persistent chains); Salakhutdinov and Murray, 2008.

    >>> [potts(jnp.zeros((3, 4)), hidden, 1, 10, 10).density.kind for hidden in (25, 26)]
    ['exact -log p(x)', 'estimate of -log p(x), log Z by annealing there']
    """
    length, levels = np.shape(log_p)
    base = jnp.asarray(log_p, jnp.float32).reshape(-1)
    units, path, exact = categorical_units(length, levels), temperatures((betas, 1.0)), hidden <= MOST_UNITS
    rbm = RBM(units, hidden, visible_init=nn.initializers.constant(base))
    seen_from = (jnp.exp(base), jnp.full(hidden, 0.5))

    def at(params: Params) -> Machine:
        return machine(Weights(params["weight"], params["visible"], params["hidden"], *seen_from), units)

    def loss(params: Params, state: State, tokens: jax.Array, key: Key) -> Out:
        samples = run_chain(gibbs_step(at(state.params)), state.carry, key, k)
        return Out(phase_difference(at(params).free_energy, one_hot(tokens, levels), samples), {}, samples)

    def enumerated(state: State, tokens: jax.Array, key: Key) -> jax.Array:
        of = at(state.params)
        return of.free_energy(one_hot(tokens, levels)) + enumerated_log_partition(of.hidden_free_energy, hidden)

    def there(state: State, tokens: jax.Array, key: Key) -> dict[str, jax.Array]:
        of = at(state.params)
        return told(annealed_there(of, base, WALKS, path, key), of.free_energy(one_hot(tokens, levels)))

    def back(state: State, tokens: jax.Array, key: Key) -> dict[str, jax.Array]:
        mix_key, key = jax.random.split(key)
        of = at(state.params)
        mixed = run_on(gibbs_step(of), state.carry, WALKS, mix_key, MIXING)
        return told(annealed_back(of, base, mixed, path, key), of.free_energy(one_hot(tokens, levels)))

    def sample(state: State, key: Key, n: int) -> jax.Array:
        v = run_on(gibbs_step(at(state.params)), state.carry, n, key, MIXING)
        return jnp.argmax(v.reshape(n, length, levels), axis=-1)

    def carry(key: Key, params: Params) -> jax.Array:
        return units.sample(jnp.broadcast_to(base, (chains, units.width)), key)

    return Annealed(
        Density(
            lambda key: rbm.init(key, jnp.zeros((1, units.width)))["params"],
            loss,
            enumerated if exact else lambda state, tokens, key: there(state, tokens, key)["nll"],
            "exact -log p(x)" if exact else "estimate of -log p(x), log Z by annealing there",
            sample,
            carry,
        ),
        there,
        back,
    )

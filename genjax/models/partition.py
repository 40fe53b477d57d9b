r"""log Z of a machine by annealing from its base rate and back: two estimates, one told beside the other.

Sources: Salakhutdinov and Murray, On the Quantitative Analysis of Deep Belief Networks, 2008,
https://doi.org/10.1145/1390156.1390266; Burda, Grosse and Salakhutdinov, Accurate and Conservative Estimates of MRF
Log-likelihood using Reverse Annealing, 2015, https://arxiv.org/abs/1412.8566.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.likelihood.ais import LogPartition, annealed_importance_sampling, reverse_annealing
from genjax.models.rbm import Machine, gibbs_step
from genjax.types import Array, Key


def annealed_there(of: Machine, base: Array, chains: int, betas: Array, key: Key) -> LogPartition:
    """log Z by walks from the base rate to the machine.  Kind: in expectation a LOWER BOUND.

    Args:
      of: the machine.
      base: b_0 [D], the natural parameters of independent units: the log-odds of the mean image.
      chains: how many walks.
      betas: [K + 1] from 0 to 1, see `temperatures`.
      key: of the walks.

    Returns:
      LogPartition.

    Raises:
      BadInput: no chains, betas that do not rise from 0 to 1.

    Source: Salakhutdinov and Murray, 2008, section 4.1.

    >>> from genjax.likelihood.ais import temperatures
    >>> from genjax.models.rbm import Weights, machine
    >>> from genjax.models.visible import bernoulli_units
    >>> of = machine(Weights(jnp.zeros((2, 1)), jnp.zeros(2), jnp.zeros(1)), bernoulli_units(2))
    >>> found = annealed_there(of, jnp.zeros(2), 4, temperatures((3, 1.0)), jax.random.key(0))
    >>> round(float(found.value), 4)  # 3 log 2
    2.0794
    """
    start_key, key = jax.random.split(key)
    start = of.draw_base(base, chains, start_key)
    return annealed_importance_sampling(*_path(of, base), start, of.base_log_partition(base), betas, key)


def annealed_back(of: Machine, base: Array, chains: Array, betas: Array, key: Key) -> LogPartition:
    """log Z by walks from samples of the machine back to the base rate.

    Kind: in expectation an UPPER BOUND where the chains are exact samples, else an estimate.

    Args:
      of, base, betas, key: as in `annealed_there`.
      chains: v [B, D] of the machine, as well mixed as can be.

    Returns:
      LogPartition.

    Raises:
      BadInput: as `annealed_there`.

    Source: Burda, Grosse and Salakhutdinov, 2015.

    >>> from genjax.likelihood.ais import temperatures
    >>> from genjax.models.rbm import Weights, machine
    >>> from genjax.models.visible import bernoulli_units
    >>> of = machine(Weights(jnp.zeros((2, 1)), jnp.zeros(2), jnp.zeros(1)), bernoulli_units(2))
    >>> found = annealed_back(of, jnp.zeros(2), jnp.zeros((4, 2)), temperatures((3, 1.0)), jax.random.key(0))
    >>> round(float(found.value), 4)  # 3 log 2
    2.0794
    """
    return reverse_annealing(*_path(of, base), chains, of.base_log_partition(base), betas, key)


def told(found: LogPartition, free_energy: Array) -> dict[str, jax.Array]:
    """What a result says of images under an estimated log Z.

    Args:
      found: the estimate.
      free_energy: F(v) [B] nats.

    Returns:
      {"nll": F + log Z, "log_z", "log_z_error": its standard error, "effective": its effective number of walks}, each
      [B].

    >>> each = LogPartition(jnp.array(1.0), jnp.zeros(2), jnp.array(2.0), jnp.array(0.0))
    >>> told(each, jnp.array([0.5]))["nll"].tolist()
    [1.5]
    """
    values = {"log_z": found.value, "log_z_error": found.standard_error, "effective": found.effective}
    whole = {name: jnp.broadcast_to(value, jnp.shape(free_energy)) for name, value in values.items()}
    return {"nll": jnp.asarray(free_energy) + found.value, **whole}


def _path(of: Machine, base: Array) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    return (
        lambda v, beta: of.annealed(beta, base).free_energy(v),
        lambda v, beta, key: gibbs_step(of.annealed(beta, base))(v, key),
    )

r"""Conditional RBMs: a machine for each condition, whose biases are read off it; and log Z row by row.

A condition y [C] — a label as `one_hot`, what a recurrent network remembers — moves the biases of both sides,

    E(v, h | y) = e(v) - v . (b + y B) - h . (c + y C) - v W h,        p(v | y) = sum_h exp(-E(v, h | y)) / Z(y)

so that W, B and C are shared, and every condition has a Z of its own: a batch of B conditions is a batch of B machines,
which `each_row` takes one by one.  Hidden units are few where Z is to be exact (`exact_rows`); else `rows_there` and
`rows_back` anneal chains of every row from the independent units of its own visible biases to its machine, and back.
With these biases as the base, of log-odds b + y B at every temperature, the walk has only W and c + y C to bring in.

Sources: Taylor, Hinton and Roweis, Modeling Human Motion Using Binary Latent Variables, 2007; Mnih, Larochelle and
Hinton, Conditional Restricted Boltzmann Machines for Structured Output Prediction, 2011,
https://arxiv.org/abs/1202.3748; Salakhutdinov and Murray, On the Quantitative Analysis of Deep Belief Networks, 2008,
https://doi.org/10.1145/1390156.1390266.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.likelihood.ais import LogPartition, enumerated_log_partition
from genjax.models.blocks import Initializer
from genjax.models.partition import annealed_back, annealed_there
from genjax.models.rbm import Weights, machine
from genjax.models.visible import Visible
from genjax.types import Array, Key

TOGETHER = 32  # rows at once: their arrays stay in the cache of a core, and memory does not grow with the batch


class ConditionalRBM(nn.Module):
    """The variables of machines whose biases depend on a condition.

    Args:
      units: the visible ones: `bernoulli_units(784)`, ...
      hidden: H, binary units that are not seen.
      weight_init, visible_init, hidden_init: of W, b, c.
      condition_init: of B and C.

    Called with v [B, D] and y [B, C], returns F(v | y) [B] in nats.  `machine(model.apply(variables, y,
    method="weights"), model.units)` are the machines of B conditions, each function of which takes B rows.

    Raises:
      BadInput: no units; a v of another width; conditions that are not [B, C].

    >>> from genjax.models.visible import bernoulli_units, one_hot
    >>> model = ConditionalRBM(bernoulli_units(3), 2)
    >>> y = one_hot(jnp.array([[0], [4]]), 5)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((2, 3)), y)
    >>> model.apply(variables, y, method="weights").b.shape
    (2, 3)
    """

    units: Visible
    hidden: int
    weight_init: Initializer = nn.initializers.normal(0.01)
    visible_init: Initializer = nn.initializers.zeros
    hidden_init: Initializer = nn.initializers.zeros
    condition_init: Initializer = nn.initializers.normal(0.01)

    def setup(self) -> None:
        if self.hidden < 1:
            raise BadInput(f"hidden = {self.hidden}", "allowed: whole numbers of units, from 1")
        self.weight = self.param("weight", self.weight_init, (self.units.width, self.hidden))
        self.b = nn.Dense(self.units.width, kernel_init=self.condition_init, bias_init=self.visible_init)
        self.c = nn.Dense(self.hidden, kernel_init=self.condition_init, bias_init=self.hidden_init)

    def __call__(self, v: Array, y: Array) -> jax.Array:
        return machine(self.weights(y), self.units).free_energy(v)

    def weights(self, y: Array) -> Weights:
        """The arrays of the machines of conditions y [B, C]: W for all, b and c by row."""
        if jnp.ndim(y) != 2:
            raise BadInput(f"conditions of shape {list(jnp.shape(y))}", "allowed: [B, C], a row for each example")
        return Weights(self.weight, self.b(y), self.c(y))


def each_row(of_one: Callable[..., Any], weights: Weights, *rows: Any) -> Any:
    """What a function of one machine makes of each row's: chains, samples, estimates.

    Args:
      of_one: (Weights of one row, b [D] and c [H], what else the row has) -> tree of arrays.
      weights: b [B, D], c [B, H].
      rows: trees of arrays [B, ...]; keys [B], one a row, are one.

    Returns:
      The tree, its arrays [B, ...].

    Source: this file's head.

    >>> flat = Weights(jnp.zeros((3, 2)), jnp.ones((5, 3)), jnp.zeros((5, 2)))
    >>> each_row(lambda own, y: own.b.sum() + y, flat, jnp.arange(5.0)).tolist()
    [3.0, 4.0, 5.0, 6.0, 7.0]
    """
    one = lambda row: of_one(weights._replace(b=row[0], c=row[1]), *row[2:])
    return jax.lax.map(one, (jnp.asarray(weights.b), jnp.asarray(weights.c), *rows), batch_size=TOGETHER)


def exact_rows(weights: Weights, units: Visible) -> jax.Array:
    """log Z(y) of every row by enumeration of its hidden units.  Kind: EXACT.

    Args:
      weights: b [B, D], c [B, H], H at most 25.
      units: the kind of visible units.

    Returns:
      [B] nats.

    Raises:
      BadInput: more hidden units, with the estimate to use.

    Source: by definition.

    >>> from genjax.models.visible import bernoulli_units
    >>> free = Weights(jnp.zeros((3, 2)), jnp.zeros((5, 3)), jnp.zeros((5, 2)))
    >>> [round(float(z), 4) for z in exact_rows(free, bernoulli_units(3))[:2]]  # 5 log 2
    [3.4657, 3.4657]
    """
    hidden = weights.w.shape[1]
    return each_row(lambda own: enumerated_log_partition(machine(own, units).hidden_free_energy, hidden), weights)


def rows_there(weights: Weights, units: Visible, chains: int, betas: Array, key: Key) -> LogPartition:
    """log Z(y) of every row by walks of its own, from independent units to its machine.

    Kind: in expectation a LOWER BOUND for each row, and so for every sum of rows.

    Args:
      weights: b [B, D], c [B, H]; b is the base b_0 of each row.
      units: the kind of visible units.
      chains: n, walks of a row.
      betas: [K + 1] from 0 to 1, see `temperatures`.
      key: of all walks.

    Returns:
      LogPartition whose numbers are [B] and whose log-weights are [B, n].

    Raises:
      BadInput: no chains, betas that do not rise from 0 to 1.

    Source: Salakhutdinov and Murray, 2008, section 4.1.

    >>> from genjax.likelihood.ais import temperatures
    >>> from genjax.models.visible import bernoulli_units
    >>> free = Weights(jnp.zeros((3, 2)), jnp.zeros((5, 3)), jnp.zeros((5, 2)))
    >>> found = rows_there(free, bernoulli_units(3), 4, temperatures((2, 1.0)), jax.random.key(0))
    >>> found.log_weights.shape, round(float(found.value[0]), 4)  # 5 log 2
    ((5, 4), 3.4657)
    """
    walk = lambda own, key: annealed_there(machine(own, units), own.b, chains, betas, key)
    return each_row(walk, weights, jax.random.split(key, len(weights.b)))


def rows_back(weights: Weights, units: Visible, chains: Array, betas: Array, key: Key) -> LogPartition:
    """log Z(y) of every row by walks back from samples of its machine.

    Kind: in expectation an UPPER BOUND where the chains are exact samples, else an estimate.

    Args:
      weights, units, betas, key: as in `rows_there`.
      chains: v [B, n, D] of the machine of each row, as well mixed as can be.

    Returns:
      As `rows_there`.

    Raises:
      BadInput: as `rows_there`.

    Source: Burda, Grosse and Salakhutdinov, Accurate and Conservative Estimates of MRF Log-likelihood using Reverse
    Annealing, 2015, https://arxiv.org/abs/1412.8566.

    >>> from genjax.likelihood.ais import temperatures
    >>> from genjax.models.visible import bernoulli_units
    >>> free = Weights(jnp.zeros((3, 2)), jnp.zeros((5, 3)), jnp.zeros((5, 2)))
    >>> found = rows_back(free, bernoulli_units(3), jnp.zeros((5, 4, 3)), temperatures((2, 1.0)), jax.random.key(0))
    >>> found.effective.shape, round(float(found.value[0]), 4)  # 5 log 2
    ((5,), 3.4657)
    """
    walk = lambda own, v, key: annealed_back(machine(own, units), own.b, v, betas, key)
    return each_row(walk, weights, chains, jax.random.split(key, len(weights.b)))

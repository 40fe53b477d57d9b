r"""Restricted Boltzmann machines: energy, free energies, conditionals; binary hidden units, visible units of any kind.

With offsets mu [D], lambda [H] and parameters W [D, H], b [D], c [H],

    E(v, h) = e(v) - (v - mu) . b - (h - lambda) . c - (v - mu) W (h - lambda),       p(v, h) = exp(-E(v, h)) / Z

where e is that of the kind of visible units (zero for binary ones, see visible.py).  Units of a side are independent
given the other side; hidden ones have the log-odds a, visible ones the natural parameters g, and either side can be
summed over, which leaves its free energy:

    a(v) = c + (v - mu) W                    F(v) = e(v) - (v - mu) . b + sum_j [lambda_j a_j - log(1 + exp(a_j))]
    g(h) = b + W (h - lambda)                F(h) = -(h - lambda) . c + mu . g - log_partition(g)

Offsets of zero give the usual machine; any others express the same distributions with other gradients (centering.py).

Gaussian units may learn their deviations: with sigma_i = exp(s_i / 2), v / sigma stands for v in all of the above, and
p(v | h) is normal of mean sigma g and variance sigma^2.  Z is that of v itself, so that densities of v come out.

AIS and tempering need the machines between a base of independent units and this one: `annealed(beta, b_0)` is the
machine of beta W, (1 - beta) b_0 + beta b and beta c, with the same offsets.

Sources: Smolensky, Information processing in dynamical systems, 1986; Hinton, Training Products of Experts by
Minimizing Contrastive Divergence, 2002, https://doi.org/10.1162/089976602760128018; Hinton, A Practical Guide to
Training Restricted Boltzmann Machines, 2012 (deviations); Melchior, Fischer and Wiskott, How to Center Deep Boltzmann
Machines, 2016, https://jmlr.org/papers/v17/14-237.html; Salakhutdinov and Murray, On the Quantitative Analysis of Deep
Belief Networks, 2008, https://doi.org/10.1145/1390156.1390266 (the base rate).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.distributions import sample_bernoulli, softplus, upcast
from genjax.errors import BadInput
from genjax.models.blocks import Initializer
from genjax.models.visible import Visible
from genjax.samplers.gibbs import Step, block_gibbs
from genjax.types import Array, Key

OFFSETS = "offsets"  # the collection of variables beside "params"


class Weights(NamedTuple):
    """The arrays of a machine.  b and c may have a row for each example, as where they depend on a label or a past."""

    w: Array  # [D, H]
    b: Array  # [D], or [B, D]
    c: Array  # [H], or [B, H]
    mu: Array | None = None  # [D]; None: 0
    mean_h: Array | None = None  # lambda, [H]; None: 0
    deviation: Array | None = None  # sigma [D]; None: 1


class Machine(NamedTuple):
    """An RBM as losses, samplers and estimators see it: pure functions of v [B, D] and h [B, H]."""

    energy: Callable[[Array, Array], jax.Array]  # v, h -> E(v, h) [B] nats
    free_energy: Callable[[Array], jax.Array]  # v -> F(v) [B] nats: log p(v) = -F(v) - log Z
    hidden_free_energy: Callable[[Array], jax.Array]  # h -> F(h) [B] nats: log p(h) = -F(h) - log Z
    hidden_logits: Callable[[Array], jax.Array]  # v -> log-odds of h [B, H]
    visible_parameters: Callable[[Array], jax.Array]  # h -> natural parameters of v [B, D]
    visible_mean: Callable[[Array], jax.Array]  # h -> E[v | h] [B, D]
    draw_hidden: Callable[[Array, Key], jax.Array]  # v, key -> h
    draw_visible: Callable[[Array, Key], jax.Array]  # h, key -> v
    annealed: Callable[[Any, Array], Any]  # beta in [0, 1], b_0 [D] -> Machine
    base_log_partition: Callable[[Array], jax.Array]  # b_0 -> log Z at beta = 0, exact, nats
    draw_base: Callable[[Array, int, Key], jax.Array]  # b_0, n, key -> v [n, D] at beta = 0


def machine(weights: Weights, units: Visible, beta: Array | float = 1.0) -> Machine:
    """The functions of a machine of these arrays.

    Args:
      weights: see `Weights`.
      units: the kind of visible units, of width D.
      beta: what W and c are multiplied with, in [0, 1]: see `Machine.annealed`, which also mixes b, and sets beta.

    Returns:
      A Machine.

    Raises:
      BadInput: units of another width; while tracing, a v or h of another width.

    Source: this file's head.

    >>> from genjax.models.visible import bernoulli_units
    >>> of = machine(Weights(jnp.zeros((2, 1)), jnp.zeros(2), jnp.zeros(1)), bernoulli_units(2))
    >>> round(float(of.free_energy(jnp.zeros((1, 2)))[0]), 4)  # -log 2: the hidden unit is free
    -0.6931
    """
    w, beta = jnp.asarray(weights.w), jnp.asarray(beta)
    width, hidden = w.shape
    if units.width != width:
        raise BadInput(f"W of shape {[width, hidden]}, units of width {units.width}", "allowed: W of [D, H], D of both")
    given = lambda offset, count: jnp.zeros(count, w.dtype) if offset is None else jnp.asarray(offset)
    mu, mean_h = given(weights.mu, width), given(weights.mean_h, hidden)
    deviation = None if weights.deviation is None else jnp.asarray(weights.deviation)
    rows = lambda bias: jnp.asarray(bias) if jnp.ndim(bias) == 2 else jnp.asarray(bias)[None]
    b, c = rows(weights.b), rows(weights.c)
    alike = lambda v: upcast(v) if deviation is None else upcast(v) / deviation[None]
    seen = lambda v: alike(_checked("v", v, width)) - mu[None]
    unseen = lambda h: _checked("h", h, hidden) - mean_h[None]
    log_deviation = 0.0 if deviation is None else jnp.sum(jnp.log(deviation))

    def hidden_logits(v: Array) -> jax.Array:
        return beta * (c + seen(v) @ w)

    def visible_parameters(h: Array) -> jax.Array:
        return b + beta * (unseen(h) @ w.T)

    def energy(v: Array, h: Array) -> jax.Array:
        own = units.energy(alike(v))
        x, y = seen(v), unseen(h)
        return own - jnp.sum(x * b, axis=-1) - beta * jnp.sum((c + x @ w) * y, axis=-1)

    def free_energy(v: Array) -> jax.Array:
        a = hidden_logits(v)
        return units.energy(alike(v)) - _dot(seen(v), b) - jnp.sum(softplus(a) - mean_h[None] * a, axis=-1)

    def hidden_free_energy(h: Array) -> jax.Array:
        g = visible_parameters(h)
        return -beta * _dot(unseen(h), c) + g @ mu - units.log_partition(g) - log_deviation

    def visible_mean(h: Array) -> jax.Array:
        return _unlike(units.mean(visible_parameters(h)))

    def _unlike(v: jax.Array) -> jax.Array:
        return v if deviation is None else v * deviation[None]

    def annealed(inverse: Array | float, base: Array) -> Machine:
        mixed = (1.0 - inverse) * rows(base) + inverse * b
        return machine(weights._replace(b=mixed), units, inverse)

    def base_log_partition(base: Array) -> jax.Array:
        g = rows(base)
        return (units.log_partition(g) - g @ mu)[0] + hidden * jnp.log(2.0) + log_deviation

    return Machine(
        energy,
        free_energy,
        hidden_free_energy,
        hidden_logits,
        visible_parameters,
        visible_mean,
        lambda v, key: sample_bernoulli(hidden_logits(v), key),
        lambda h, key: _unlike(units.sample(visible_parameters(h), key)),
        annealed,
        base_log_partition,
        lambda base, n, key: _unlike(units.sample(jnp.broadcast_to(jnp.asarray(base), (n, width)), key)),
    )


class RBM(nn.Module):
    """The variables of a machine: `machine(model.apply(variables, method="weights"), model.units)`.

    Args:
      units: the visible ones: `bernoulli_units(784)`, ...
      hidden: H, binary units that are not seen.
      centred: whether there are offsets, in the collection "offsets" beside "params".  Their first values are the
        means that the first biases stand for: mu that of the visible units, lambda = s(c), s the logistic function.
      scaled: whether deviations are learned, for Gaussian units.
      weight_init, visible_init, hidden_init: of W, b, c; the log-variances start at zero.

    Called with v [B, D], returns F(v) [B] in nats.

    Raises:
      BadInput: no units; a v of another width.

    >>> from genjax.models.visible import bernoulli_units
    >>> model = RBM(bernoulli_units(3), 2)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> jax.tree.map(jnp.shape, variables)
    {'params': {'hidden': (2,), 'visible': (3,), 'weight': (3, 2)}}
    """

    units: Visible
    hidden: int
    centred: bool = False
    scaled: bool = False
    weight_init: Initializer = nn.initializers.normal(0.01)
    visible_init: Initializer = nn.initializers.zeros
    hidden_init: Initializer = nn.initializers.zeros

    def setup(self) -> None:
        width = self.units.width
        if self.hidden < 1:
            raise BadInput(f"hidden = {self.hidden}", "allowed: whole numbers of units, from 1")
        self.weight = self.param("weight", self.weight_init, (width, self.hidden))
        self.b = self.param("visible", self.visible_init, (width,))
        self.c = self.param("hidden", self.hidden_init, (self.hidden,))
        if self.scaled:
            self.log_variance = self.param("log_variance", nn.initializers.zeros, (width,))
        if self.centred:
            self.mu = self.variable(OFFSETS, "visible", lambda: self.units.mean(self.b[None])[0]).value
            self.mean_h = self.variable(OFFSETS, "hidden", lambda: nn.sigmoid(self.c)).value

    def __call__(self, v: Array) -> jax.Array:
        return machine(self.weights(), self.units).free_energy(v)

    def weights(self) -> Weights:
        """The arrays of the machine."""
        deviation = jnp.exp(0.5 * self.log_variance) if self.scaled else None
        mu, mean_h = (self.mu, self.mean_h) if self.centred else (None, None)
        return Weights(self.weight, self.b, self.c, mu, mean_h, deviation)


def gibbs_step(of: Machine) -> Step:
    """v -> h -> v of a machine: p(v) is invariant.

    Args:
      of: the machine, annealed or not.

    Returns:
      (v [B, D], key) -> v [B, D].

    Source: Hinton, 2002, section 5; Salakhutdinov and Murray, 2008, section 4.1.

    >>> from genjax.models.visible import bernoulli_units
    >>> always = Weights(jnp.zeros((2, 1)), jnp.full(2, 200.0), jnp.zeros(1))
    >>> gibbs_step(machine(always, bernoulli_units(2)))(jnp.zeros((1, 2)), jax.random.key(1)).tolist()
    [[1.0, 1.0]]
    """
    return block_gibbs(of.draw_hidden, of.draw_visible)


def filters(rows: Array, shape: Sequence[int]) -> jax.Array:
    """Weights as pictures: what moves a unit up is bright, what moves it down is dark, each on its own scale.

    Args:
      rows: [n, D], a unit's weights in each.
      shape: H x W x C, of product D.

    Returns:
      [n, H, W, C] in [0, 1]; 1/2 where a weight is zero.

    Source: Hinton, 2012, section 16.2.

    >>> filters(jnp.array([[2.0, -1.0]]), (1, 2, 1)).ravel().tolist()
    [1.0, 0.25]
    """
    w = jnp.asarray(rows)
    largest = jnp.max(jnp.abs(w), axis=1, keepdims=True)
    return (0.5 + 0.5 * w / jnp.maximum(largest, 1e-6)).reshape(len(w), *shape)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return x @ y[0] if len(y) == 1 else jnp.sum(x * y, axis=-1)


def _checked(name: str, units: Array, width: int) -> jax.Array:
    if jnp.ndim(units) != 2 or jnp.shape(units)[-1] != width:
        raise BadInput(f"{name} has shape {list(jnp.shape(units))}", f"allowed: [B, {width}]")
    return upcast(units)

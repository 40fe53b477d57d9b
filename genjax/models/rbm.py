r"""Restricted Boltzmann machines of binary units: energy, free energies, conditionals, and centering.

With offsets mu [D], lambda [H] and parameters W [D, H], b [D], c [H],

    E(v, h) = -(v - mu) . b - (h - lambda) . c - (v - mu) W (h - lambda),       p(v, h) = exp(-E(v, h)) / Z

Units of a side are independent given the other side, with log-odds

    of h given v    a(v) = c + (v - mu) W           of v given h    g(h) = b + W (h - lambda)

and either side can be summed over, which leaves its free energy:

    F(v) = -log sum_h exp(-E(v, h)) = -(v - mu) . b + sum_j [lambda_j a_j - log(1 + exp(a_j))]
    F(h) = -log sum_v exp(-E(v, h)) = -(h - lambda) . c + sum_i [mu_i g_i - log(1 + exp(g_i))]

Offsets of zero give the usual machine.  With any others the same distributions can be expressed, but gradients differ:
those at the means of the data train faster and do not care which of its two values a unit calls 1.  `recentred` moves
the offsets and leaves the distribution where it is.

AIS and tempering need the machines between a base of independent units and this one.  A `beta` in [0, 1] and a base
rate b_0 [D] mean, in every function, the machine of beta W, (1 - beta) b_0 + beta b and beta c, with the same offsets.

Sources: Smolensky, Information processing in dynamical systems, 1986; Hinton, Training Products of Experts by
Minimizing Contrastive Divergence, 2002, https://doi.org/10.1162/089976602760128018; Melchior, Fischer and Wiskott, How
to Center Deep Boltzmann Machines, 2016, https://jmlr.org/papers/v17/14-237.html (centering); Salakhutdinov and Murray,
On the Quantitative Analysis of Deep Belief Networks, 2008, https://doi.org/10.1145/1390156.1390266 (the base rate).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.distributions import sample_bernoulli, upcast
from genjax.errors import BadInput
from genjax.models.blocks import Initializer
from genjax.samplers.gibbs import Step, block_gibbs
from genjax.types import Array, Params, State

OFFSETS = "offsets"  # the collection of variables beside "params"


class RBM(nn.Module):
    """A restricted Boltzmann machine: `model.apply(variables, v, method="free_energy")` and so on.

    Args:
      visible: D, binary units that are seen.
      hidden: H, binary units that are not.
      centred: whether there are offsets, in the collection "offsets" beside "params".  Their first values are the
        probabilities that the first biases stand for: mu = s(b), lambda = s(c), s the logistic function.
      weight_init, visible_init, hidden_init: of W, b, c.

    Called with v [B, D], returns F(v) [B] in nats, as `free_energy`.

    Raises:
      BadInput: no units; a v or h of another width.

    >>> model = RBM(3, 2)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> jax.tree.map(jnp.shape, variables)
    {'params': {'hidden': (2,), 'visible': (3,), 'weight': (3, 2)}}
    """

    visible: int
    hidden: int
    centred: bool = False
    weight_init: Initializer = nn.initializers.normal(0.01)
    visible_init: Initializer = nn.initializers.zeros
    hidden_init: Initializer = nn.initializers.zeros

    def setup(self) -> None:
        if self.visible < 1 or self.hidden < 1:
            raise BadInput(f"visible = {self.visible}, hidden = {self.hidden}", "allowed: whole numbers from 1")
        self.weight = self.param("weight", self.weight_init, (self.visible, self.hidden))
        self.b = self.param("visible", self.visible_init, (self.visible,))
        self.c = self.param("hidden", self.hidden_init, (self.hidden,))
        if self.centred:
            self.mu = self.variable(OFFSETS, "visible", lambda: nn.sigmoid(self.b)).value
            self.mean_h = self.variable(OFFSETS, "hidden", lambda: nn.sigmoid(self.c)).value

    def __call__(self, v: Array) -> jax.Array:
        return self.free_energy(v)

    def energy(self, v: Array, h: Array) -> jax.Array:
        """E(v, h) [B] nats, v [B, D], h [B, H]."""
        v, h = self._seen(v), self._unseen(h)
        return -(v @ self.b) - h @ self.c - jnp.sum((v @ self.weight) * h, axis=-1)

    def free_energy(self, v: Array, beta: Array | float = 1.0, base: Array | None = None) -> jax.Array:
        """F(v) [B] nats, v [B, D]: log p(v) = -F(v) - log Z."""
        a, centred = self.hidden_logits(v, beta), self._seen(v)
        return -(centred @ self._visible_bias(beta, base)) - jnp.sum(nn.softplus(a) - self._lambda()[None] * a, axis=-1)

    def hidden_free_energy(self, h: Array) -> jax.Array:
        """F(h) [B] nats, h [B, H]: log p(h) = -F(h) - log Z."""
        g = self.visible_logits(h)
        return -(self._unseen(h) @ self.c) - jnp.sum(nn.softplus(g) - self._mu()[None] * g, axis=-1)

    def hidden_logits(self, v: Array, beta: Array | float = 1.0) -> jax.Array:
        """Log-odds [B, H] of h given v [B, D]."""
        return jnp.asarray(beta) * (self.c[None] + self._seen(v) @ self.weight)

    def visible_logits(self, h: Array, beta: Array | float = 1.0, base: Array | None = None) -> jax.Array:
        """Log-odds [B, D] of v given h [B, H]."""
        return self._visible_bias(beta, base)[None] + beta * (self._unseen(h) @ self.weight.T)

    def base_log_partition(self, base: Array) -> jax.Array:
        """log Z of the machine at beta = 0, exact: independent units of log-odds b_0, and H free ones."""
        return jnp.sum(nn.softplus(base) - self._mu() * base) + self.hidden * jnp.log(2.0)

    def _visible_bias(self, beta: Array | float, base: Array | None) -> jax.Array:
        beta = jnp.asarray(beta)
        return beta * self.b if base is None else (1.0 - beta) * base + beta * self.b

    def _mu(self) -> jax.Array:
        return self.mu if self.centred else jnp.zeros_like(self.b)

    def _lambda(self) -> jax.Array:
        return self.mean_h if self.centred else jnp.zeros_like(self.c)

    def _seen(self, v: Array) -> jax.Array:
        return _checked("v", v, self.visible) - self._mu()[None]

    def _unseen(self, h: Array) -> jax.Array:
        return _checked("h", h, self.hidden) - self._lambda()[None]


class Machine(NamedTuple):
    """An RBM with its variables, as losses, samplers and estimators see it: the functions of `RBM`."""

    free_energy: Callable[..., jax.Array]  # v [B, D] (, beta, base) -> F(v) [B] nats
    hidden_free_energy: Callable[[Array], jax.Array]  # h [B, H] -> F(h) [B] nats
    hidden_logits: Callable[..., jax.Array]  # v (, beta) -> [B, H]
    visible_logits: Callable[..., jax.Array]  # h (, beta, base) -> [B, D]
    base_log_partition: Callable[[Array], jax.Array]  # base [D] -> log Z at beta = 0, nats


def machine(model: RBM, variables: Params) -> Machine:
    """The functions of a model at its variables.

    Args:
      model: an RBM.
      variables: {"params": ...}, with "offsets" where it is centred.

    Returns:
      A Machine.

    Source: this file's head.

    >>> model = RBM(2, 1, weight_init=nn.initializers.zeros)
    >>> of = machine(model, model.init(jax.random.key(0), jnp.zeros((1, 2))))
    >>> round(float(of.free_energy(jnp.zeros((1, 2)))[0]), 4)  # -log 2: the hidden unit is free
    -0.6931
    """
    call: Any = lambda method: lambda *given: model.apply(variables, *given, method=method)
    return Machine(**{name: call(name) for name in Machine._fields})


def gibbs_step(of: Machine, beta: Array | float = 1.0, base: Array | None = None) -> Step:
    """v -> h -> v of the machine, or of the one between it and the base: p_beta(v) is invariant.

    Args:
      of: the machine.
      beta: inverse temperature in [0, 1].
      base: b_0 [D], log-odds; None: zero.

    Returns:
      (v [B, D], key) -> v [B, D] of zeros and ones.

    Source: Hinton, 2002, section 5; Salakhutdinov and Murray, 2008, section 4.1.

    >>> model = RBM(2, 1, visible_init=nn.initializers.constant(200.0))
    >>> of = machine(model, model.init(jax.random.key(0), jnp.zeros((1, 2))))
    >>> gibbs_step(of)(jnp.zeros((1, 2)), jax.random.key(1)).tolist()
    [[1.0, 1.0]]
    """
    return block_gibbs(
        lambda v, key: sample_bernoulli(of.hidden_logits(v, beta), key),
        lambda h, key: sample_bernoulli(of.visible_logits(h, beta, base), key),
    )


def first_carry(model: RBM, params: Params, chains: Array) -> dict[str, Any]:
    """What no gradient touches: persistent chains, and mu = s(b), lambda = s(c) of a centred model, as `init` has them.

    Args:
      model: an RBM.
      params: {"params": ...}.
      chains: v [M, D].

    Returns:
      {"chains": v}, with "offsets" where the model is centred: a `State.carry`.

    Source: this file's head.

    >>> model = RBM(2, 1, centred=True)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> carry = first_carry(model, {"params": variables["params"]}, jnp.zeros((3, 2)))
    >>> carry["offsets"]["hidden"].tolist() == variables["offsets"]["hidden"].tolist() == [0.5]
    True
    """
    means = {name: nn.sigmoid(params["params"][name]) for name in ("visible", "hidden")}
    return {"chains": chains, **({OFFSETS: means} if model.centred else {})}


def machine_of(model: RBM, state: State, params: Params | None = None) -> Machine:
    """The machine of a training state, whose carry is that of `first_carry`.

    Args:
      model: an RBM.
      state: of training.
      params: in place of the state's: what a loss differentiates.

    Returns:
      A Machine.

    Source: this file's head.

    >>> model = RBM(2, 1)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> state = State(jnp.zeros((), jnp.int32), params, (), first_carry(model, params, jnp.zeros((1, 2))))
    >>> machine_of(model, state).hidden_logits(jnp.zeros((1, 2))).tolist()
    [[0.0]]
    """
    offsets = {OFFSETS: state.carry[OFFSETS]} if model.centred else {}
    return machine(model, {**(state.params if params is None else params), **offsets})


def followed(model: RBM, state: State, v: Array, rate: float) -> State:
    """Offsets that move towards a batch: mu += rate (mean v - mu), lambda += rate (mean p(h = 1 | v) - lambda).

    Args:
      model: an RBM; without offsets the state stays as it is.
      state: of training, whose carry is that of `first_carry`.
      v: [B, D] of the data.
      rate: in [0, 1).

    Returns:
      The state of the same distribution, see `recentred`.

    Source: Melchior, Fischer and Wiskott, 2016, algorithm 1.

    >>> model = RBM(1, 1, centred=True)
    >>> params = {"params": model.init(jax.random.key(0), jnp.zeros((1, 1)))["params"]}
    >>> state = State(jnp.zeros((), jnp.int32), params, (), first_carry(model, params, jnp.zeros((1, 1))))
    >>> followed(model, state, jnp.ones((4, 1)), 0.5).carry["offsets"]["visible"].tolist()
    [0.75]
    """
    if not model.centred:
        return state
    old = state.carry[OFFSETS]
    mean_h = nn.sigmoid(machine_of(model, state).hidden_logits(v)).mean(axis=0)
    towards = lambda offset, mean: offset + rate * (mean - offset)
    moved = recentred(
        {**state.params, OFFSETS: old}, towards(old["visible"], v.mean(axis=0)), towards(old["hidden"], mean_h)
    )
    return state._replace(params={"params": moved["params"]}, carry={**state.carry, OFFSETS: moved[OFFSETS]})


def recentred(variables: Params, visible: Array, hidden: Array) -> Any:
    """The same distribution about other offsets: W stays, b += W (lambda' - lambda), c += (mu' - mu) W.

    Args:
      variables: {"params": ..., "offsets": ...} of an `RBM`.
      visible: mu' [D].
      hidden: lambda' [H].

    Returns:
      Variables of the same structure; every difference of energies is as it was.

    Source: Melchior, Fischer and Wiskott, 2016, algorithm 1.

    >>> model = RBM(1, 1, centred=True, weight_init=nn.initializers.ones, visible_init=nn.initializers.ones)
    >>> before = model.init(jax.random.key(0), jnp.zeros((1, 1)))
    >>> after = recentred(before, jnp.ones(1), jnp.zeros(1))
    >>> at = lambda variables: model.apply(variables, jnp.array([[0.0], [1.0]]))
    >>> [round(float(at(each)[1] - at(each)[0]), 4) for each in (before, after)]
    [-0.9436, -0.9436]
    """
    params, offsets = variables["params"], variables[OFFSETS]
    weight, mu, mean_h = params["weight"], offsets["visible"], offsets["hidden"]
    moved = {
        "weight": weight,
        "visible": params["visible"] + weight @ (hidden - mean_h),
        "hidden": params["hidden"] + (visible - mu) @ weight,
    }
    return {"params": moved, OFFSETS: {"visible": jnp.asarray(visible), "hidden": jnp.asarray(hidden)}}


def _checked(name: str, units: Array, width: int) -> jax.Array:
    if jnp.ndim(units) != 2 or jnp.shape(units)[-1] != width:
        raise BadInput(f"{name} has shape {list(jnp.shape(units))}", f"allowed: [B, {width}]")
    return upcast(units)

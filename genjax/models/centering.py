r"""The training state of an RBM, and offsets that follow the data.

The offsets mu and lambda of a machine say from where its units are seen.  Whatever they are, the same distributions can
be expressed; with those at the means of the data, gradients do not care which of its two values a unit calls 1, and
training is faster.  `recentred` moves offsets and leaves the distribution where it is; `followed` does so before an
update, towards the means of a batch.

Source: Melchior, Fischer and Wiskott, How to Center Deep Boltzmann Machines, 2016, algorithm 1,
https://jmlr.org/papers/v17/14-237.html.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from genjax.models.rbm import OFFSETS, RBM, Machine, Weights, machine
from genjax.types import Array, Params, State


def first_carry(model: RBM, params: Params, chains: Array) -> dict[str, Any]:
    """What no gradient touches: persistent chains, and the offsets of a centred model, as `init` has them.

    Args:
      model: an RBM.
      params: {"params": ...}.
      chains: v [M, D].

    Returns:
      {"chains": v}, with "offsets" where the model is centred: a `State.carry`.

    Source: this file's head.

    >>> import jax
    >>> from genjax.models.visible import bernoulli_units
    >>> model = RBM(bernoulli_units(2), 1, centred=True)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> carry = first_carry(model, {"params": variables["params"]}, jnp.zeros((3, 2)))
    >>> carry["offsets"]["hidden"].tolist() == variables["offsets"]["hidden"].tolist() == [0.5]
    True
    """
    own = params["params"]
    means = {"visible": model.units.mean(own["visible"][None])[0], "hidden": nn.sigmoid(own["hidden"])}
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

    >>> import jax
    >>> from genjax.models.visible import bernoulli_units
    >>> model = RBM(bernoulli_units(2), 1)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> state = State(jnp.zeros((), jnp.int32), params, (), first_carry(model, params, jnp.zeros((1, 2))))
    >>> machine_of(model, state).hidden_logits(jnp.zeros((1, 2))).tolist()
    [[0.0]]
    """
    return machine(weights_of(model, state, params), model.units)


def weights_of(model: RBM, state: State, params: Params | None = None) -> Weights:
    """The arrays of `machine_of`.

    Args:
      model, state, params: as there.

    Returns:
      Weights.

    Source: this file's head.

    >>> import jax
    >>> from genjax.models.visible import bernoulli_units
    >>> model = RBM(bernoulli_units(2), 1)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> state = State(jnp.zeros((), jnp.int32), params, (), first_carry(model, params, jnp.zeros((1, 2))))
    >>> weights_of(model, state).c.tolist()
    [0.0]
    """
    offsets = {OFFSETS: state.carry[OFFSETS]} if model.centred else {}
    weights: Any = model.apply({**(state.params if params is None else params), **offsets}, method="weights")
    return weights


def uncentred(weights: Weights) -> Weights:
    """The same distribution without offsets: b - W lambda, c - mu W.

    Args:
      weights: with or without offsets.

    Returns:
      Weights without.

    Source: Melchior, Fischer and Wiskott, 2016, section 3.

    >>> ones = jnp.ones(1)
    >>> uncentred(Weights(jnp.full((1, 1), 2.0), ones, ones, 0.5 * ones, 0.25 * ones)).b.tolist()
    [0.5]
    """
    b, c, w = (jnp.asarray(x) for x in (weights.b, weights.c, weights.w))
    b = b if weights.mean_h is None else b - jnp.asarray(weights.mean_h) @ w.T
    c = c if weights.mu is None else c - jnp.asarray(weights.mu) @ w
    return Weights(w, b, c, deviation=weights.deviation)


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

    >>> import jax
    >>> from genjax.models.visible import bernoulli_units
    >>> model = RBM(bernoulli_units(1), 1, centred=True)
    >>> params = {"params": model.init(jax.random.key(0), jnp.zeros((1, 1)))["params"]}
    >>> state = State(jnp.zeros((), jnp.int32), params, (), first_carry(model, params, jnp.zeros((1, 1))))
    >>> followed(model, state, jnp.ones((4, 1)), 0.5).carry["offsets"]["visible"].tolist()
    [0.75]
    """
    if not model.centred:
        return state
    old = state.carry[OFFSETS]
    mean_h = nn.sigmoid(machine_of(model, state).hidden_logits(v)).mean(axis=0)
    mean_v = jnp.mean(v, axis=0)
    if model.scaled:
        mean_v = mean_v * jnp.exp(-0.5 * state.params["params"]["log_variance"])
    towards = lambda offset, mean: offset + rate * (mean - offset)
    moved = recentred({**state.params, OFFSETS: old}, towards(old["visible"], mean_v), towards(old["hidden"], mean_h))
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

    >>> import jax
    >>> from genjax.models.visible import bernoulli_units
    >>> model = RBM(bernoulli_units(1), 1, True, weight_init=nn.initializers.ones, visible_init=nn.initializers.ones)
    >>> before = model.init(jax.random.key(0), jnp.zeros((1, 1)))
    >>> after = recentred(before, jnp.ones(1), jnp.zeros(1))
    >>> at = lambda variables: model.apply(variables, jnp.array([[0.0], [1.0]]))
    >>> [round(float(at(each)[1] - at(each)[0]), 4) for each in (before, after)]
    [-0.9436, -0.9436]
    """
    params, offsets = variables["params"], variables[OFFSETS]
    weight, mu, mean_h = params["weight"], offsets["visible"], offsets["hidden"]
    moved = {
        **params,
        "visible": params["visible"] + weight @ (hidden - mean_h),
        "hidden": params["hidden"] + (visible - mu) @ weight,
    }
    return {"params": moved, OFFSETS: {"visible": jnp.asarray(visible), "hidden": jnp.asarray(hidden)}}

"""Learners: a loss and an optimizer become two pure functions, `init` and `update`.

`minimize` is gradient descent on one loss.  `alternate` lets several players descend their own losses in turn
(Goodfellow et al. 2014, Algorithm 1).  `repeat` does k updates in one compiled scan, and `adjusted` changes the
state before each.

Three rules hold for every learner.  The key of an update is fold_in(stage key, state.step), so that a restart needs no
stored key.  The loss gives one number per example and the update takes the mean, weighted by batch["mask"] where there
is one.  Under mixed precision the loss sees parameters and batch in bfloat16, while parameters, gradients, optimizer
and every sum over pixels or rows stay in float32.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax.errors import BadInput
from genjax.gradient import accumulated, gradient, mapped, split, step_key
from genjax.types import Batch, Key, Learner, Loss, Metrics, Params, State


def minimize(
    loss: Loss,
    tx: optax.GradientTransformation,
    init: Callable[[Key, Batch], Params],
    carry: Callable[[Key, Params, Batch], Any] | None = None,
    microbatches: int = 1,
) -> Learner:
    """Stochastic gradient descent on one loss: params <- params + tx(grad E[loss]).

    Args:
      loss: (params, state, batch, key) -> Out, its loss in nats per example [B] or a scalar.
      tx: an optax transformation; put `ema` last in its chain.
      init: (key, batch) -> params.
      carry: (key, params, batch) -> the first carry (chains, batch statistics); None: none.
      microbatches: gradient accumulation: the batch is cut into this many parts, whose gradients are averaged before
        the one update.  Equal to the whole batch for a loss that treats rows alike; memory falls, time does not.

    Returns:
      A Learner whose update logs `loss`, `grad_norm` (of the raw gradient) and the metrics of the loss.

    Raises:
      BadInput: while tracing, where the loss breaks its contract.

    Example:
      >>> import jax, optax
      >>> from genjax.types import Out
      >>> def loss(params, state, batch, key):
      ...     return Out((batch["x"] - params["mean"]) ** 2)
      >>> learner = minimize(loss, optax.sgd(0.5), lambda key, batch: {"mean": jnp.zeros(())})
      >>> batch = {"x": jnp.array([1.0, 3.0])}
      >>> state = learner.init(jax.random.key(0), batch)
      >>> state, metrics = learner.update(state, batch, jax.random.key(1))
      >>> float(state.params["mean"]), float(metrics["loss"])
      (2.0, 5.0)
    """

    def start(key: Key, batch: Batch) -> State:
        params_key, carry_key = jax.random.split(key)
        params = init(params_key, batch)
        first = () if carry is None else carry(carry_key, params, batch)
        return State(jnp.zeros((), jnp.int32), params, tx.init(params), first)

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        key = step_key(key, state)
        if microbatches == 1:
            grads, metrics, new_carry = gradient(loss, state.params, state, batch, key)
        else:
            grads, metrics, new_carry = accumulated(loss, state, batch, key, microbatches)
        params, opt_state = _descend(tx, grads, state.opt_state, state.params)
        return State(state.step + 1, params, opt_state, new_carry), metrics

    return Learner(start, update)


class Player(NamedTuple):
    """One side of an alternating game: its loss, its optimizer, its updates a round."""

    loss: Loss  # its `params` are this player's own; the others' stand in state.params
    tx: optax.GradientTransformation
    steps: int = 1


def alternate(
    players: Mapping[str, Player],
    init: Callable[[Key, Batch], Mapping[str, Params]],
    carry: Callable[[Key, Params, Batch], Any] | None = None,
) -> Learner:
    """Players descend their own losses in turn (Goodfellow et al. 2014, arXiv:1406.2661, Algorithm 1).

    In a round each player, in the order of the mapping, does `steps` updates of its own parameters, all others fixed
    at their newest values.  With n = max steps the batch holds n x B rows: the i-th update of a player sees the i-th B
    rows, so a critic with 5 steps sees fresh data each time.

    Args:
      players: name -> Player.
      init: (key, batch) -> {name: params}.
      carry: (key, params, batch) -> the first carry; None: none.

    Returns:
      A Learner; `state.params` and `state.opt_state` are keyed by player, metrics are named `player/metric`.

    Raises:
      BadInput: while tracing, where rows do not divide by n, `init` names other players, or a loss breaks its contract.

    Example:
      >>> import jax, optax
      >>> from genjax.types import Out
      >>> def bilinear(sign, other):  # min over x, max over y of x * y
      ...     return lambda params, state, batch, key: Out(sign * params * state.params[other])
      >>> game = {"x": Player(bilinear(1.0, "y"), optax.sgd(0.1)), "y": Player(bilinear(-1.0, "x"), optax.sgd(0.1))}
      >>> learner = alternate(game, lambda key, batch: {"x": jnp.array(1.0), "y": jnp.array(1.0)})
      >>> batch = {"z": jnp.zeros((4,))}
      >>> state, _ = learner.update(learner.init(jax.random.key(0), batch), batch, jax.random.key(1))
      >>> [round(float(state.params[name]), 3) for name in "xy"]  # y answers the new x
      [0.9, 1.09]
    """
    rounds = max(player.steps for player in players.values())

    def start(key: Key, batch: Batch) -> State:
        params_key, carry_key = jax.random.split(key)
        params = dict(init(params_key, batch))
        if set(params) != set(players):
            raise BadInput(
                f"alternate: init returned parameters of {sorted(params)}",
                f"the players are {sorted(players)}",
                "return one entry a player from init",
            )
        first = () if carry is None else carry(carry_key, params, batch)
        opt_state = {name: player.tx.init(params[name]) for name, player in players.items()}
        return State(jnp.zeros((), jnp.int32), params, opt_state, first)

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        key, step = step_key(key, state), state.step
        logged: dict[str, jax.Array] = {}
        parts = split(batch, rounds)
        for number, (name, player) in enumerate(players.items()):
            collected = []
            # a Python loop, not lax.scan: XLA's CPU backend runs convolution gradients in loops many times slower
            for turn in range(player.steps):
                turn_key = jax.random.fold_in(jax.random.fold_in(key, number), turn)
                part = jax.tree.map(lambda x, turn=turn: x[turn], parts)
                state, metrics = _turn(name, player, state, part, turn_key)
                collected.append(metrics)
            mean = jax.tree.map(lambda *xs: sum(xs) / len(xs), *collected)
            logged |= {f"{name}/{metric}": value for metric, value in mean.items()}
        return state._replace(step=step + 1), logged

    return Learner(start, update)


def repeat(learner: Learner, k: int) -> Learner:
    """k updates of a learner in one compiled scan, each on its own 1/k of the batch's rows.

    Args:
      learner: any Learner whose update keeps shapes and dtypes.
      k: updates, at least 1; the batch holds k x B rows.

    Returns:
      A Learner whose update counts as one step and logs the mean of the k metrics.  Within it `state.step` counts
      single updates, k times the outer step onwards, so that keys and schedules are those of k separate updates.

    Example:
      >>> import jax, optax
      >>> from genjax.types import Out
      >>> loss = lambda params, state, batch, key: Out((batch["x"] - params) ** 2)
      >>> once = minimize(loss, optax.sgd(0.25), lambda key, batch: jnp.zeros(()))
      >>> batch = {"x": jnp.array([1.0, 1.0, 2.0, 2.0])}
      >>> twice = repeat(once, 2)
      >>> state, _ = twice.update(twice.init(jax.random.key(0), batch), batch, jax.random.key(1))
      >>> int(state.step), float(state.params)
      (1, 1.25)
    """

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        inner = state._replace(step=state.step * k)
        inner, metrics = jax.lax.scan(lambda s, part: learner.update(s, part, key), inner, split(batch, k))
        return inner._replace(step=state.step + 1), jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

    return Learner(lambda key, batch: learner.init(key, jax.tree.map(lambda x: x[0], split(batch, k))), update)


def adjusted(learner: Learner, adjust: Callable[[State, Batch], State]) -> Learner:
    """The same learner, whose state is changed before every update by what is no gradient: offsets, for example.

    Args:
      learner: whose updates follow.
      adjust: (state, batch) -> state of the same structure, shapes and dtypes.

    Returns:
      A Learner.

    Raises:
      BadInput: under `--parallel pmap`, where each device would adjust by its own part of the batch.

    Example:
      >>> import jax
      >>> count = Learner(lambda key, batch: State(0, 1.0), lambda state, batch, key: (state, {}))
      >>> doubled = adjusted(count, lambda state, batch: state._replace(params=2 * state.params))
      >>> doubled.update(State(0, 1.0), {}, jax.random.key(0))[0].params
      2.0
    """

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        if mapped():
            raise BadInput("a learner that is adjusted by the batch under pmap", "use --parallel jit")
        return learner.update(adjust(state, batch), batch, key)

    return Learner(learner.init, update)


def _turn(name: str, player: Player, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    own = state.params[name]
    grads, metrics, carry = gradient(player.loss, own, state, batch, key)
    params, opt_state = _descend(player.tx, grads, state.opt_state[name], own)
    state = state._replace(
        params={**state.params, name: params}, opt_state={**state.opt_state, name: opt_state}, carry=carry
    )
    return state, metrics


def _descend(tx: optax.GradientTransformation, grads: Any, opt_state: Any, params: Params) -> tuple[Params, Any]:
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

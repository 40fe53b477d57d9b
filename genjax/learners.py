"""Learners: a loss and an optimizer become two pure functions, `init` and `update`.

`minimize` is gradient descent on one loss.  `alternate` lets several players descend their own losses in turn
(Goodfellow et al. 2014, Algorithm 1).  `repeat` does k updates in one compiled scan.  `ema` keeps a moving average of
the parameters inside the optimizer state, where checkpoints and shardings find it.

Three rules hold for every learner.  The key of an update is fold_in(stage key, state.step), so that a restart needs no
stored key.  The loss gives one number per example and the update takes the mean, weighted by batch["mask"] where there
is one.  Under mixed precision the loss sees parameters and batch in bfloat16, while parameters, gradients, optimizer
and every sum over pixels or rows stay in float32.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax.errors import BadInput
from genjax.types import Batch, Key, Learner, Loss, Metrics, Out, Params, State


class Tracing(NamedTuple):
    """What the command, not the experiment, decides about a compiled update; read while it is traced."""

    compute_dtype: Any = None  # jnp.bfloat16: mixed precision; None: the parameters' own
    axis: str | None = None  # the name of the mapped device axis under pmap; None under jit


_tracing: ContextVar[Tracing] = ContextVar("tracing", default=Tracing())


@contextmanager
def tracing(compute_dtype: Any = None, axis: str | None = None) -> Iterator[None]:
    """Trace learners for a compute precision and, under pmap, a device axis.

    Args:
      compute_dtype: `jnp.bfloat16` for mixed precision, None to compute in the parameters' own dtype.
      axis: name of the mapped device axis; gradients and metrics are then averaged over it.
    """
    token = _tracing.set(Tracing(compute_dtype, axis))
    try:
        yield
    finally:
        _tracing.reset(token)


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
        key = _step_key(key, state)
        if microbatches == 1:
            grads, metrics, new_carry = _gradient(loss, state.params, state, batch, key)
        else:
            grads, metrics, new_carry = _accumulated(loss, state, batch, key, microbatches)
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
        key, step, logged = _step_key(key, state), state.step, {}
        parts = _split(batch, rounds)
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
      A Learner whose update advances `state.step` by k and logs the mean of the k metrics.

    Example:
      >>> import jax, optax
      >>> from genjax.types import Out
      >>> loss = lambda params, state, batch, key: Out((batch["x"] - params) ** 2)
      >>> once = minimize(loss, optax.sgd(0.25), lambda key, batch: jnp.zeros(()))
      >>> batch = {"x": jnp.array([1.0, 1.0, 2.0, 2.0])}
      >>> twice = repeat(once, 2)
      >>> state, _ = twice.update(twice.init(jax.random.key(0), batch), batch, jax.random.key(1))
      >>> int(state.step), float(state.params)
      (2, 1.25)
    """

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        state, metrics = jax.lax.scan(lambda s, part: learner.update(s, part, key), state, _split(batch, k))
        return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

    return Learner(lambda key, batch: learner.init(key, jax.tree.map(lambda x: x[0], _split(batch, k))), update)


class EmaState(NamedTuple):
    """The moving average of the parameters, biased towards its start at zero until it is read by `averaged`."""

    count: jax.Array  # int32 scalar
    decay: jax.Array  # float32 scalar
    average: Params  # float32


def ema(decay: float) -> optax.GradientTransformation:
    """Exponential moving average of the *parameters*; the last link of a chain.

    a_t = decay a_{t-1} + (1 - decay) theta_t with a_0 = 0, read as a_t / (1 - decay^t) (Kingma & Ba 2015,
    arXiv:1412.6980, section 3): a weighted mean of theta_1..theta_t, exact from the first step on.  The average is
    kept in float32, because in bfloat16 a decay of 0.9999 would never move it.

    Args:
      decay: in [0, 1); 0.999 averages over about 1,000 steps.

    Returns:
      An optax transformation that passes updates through unchanged.

    Raises:
      BadInput: for a decay outside [0, 1).

    Example:
      >>> import optax
      >>> tx = optax.chain(optax.sgd(1.0), ema(0.5))
      >>> state = tx.init(jnp.array(0.0))
      >>> updates, state = tx.update(jnp.array(-1.0), state, jnp.array(0.0))  # theta_1 = 1
      >>> updates, state = tx.update(jnp.array(-1.0), state, jnp.array(1.0))  # theta_2 = 2
      >>> round(float(averaged(jnp.array(2.0), state)), 4)  # (0.5 * 1 + 1 * 2) / 1.5
      1.6667
    """
    if not 0 <= decay < 1:
        raise BadInput(f"ema: decay = {decay}", "allowed: 0 <= decay < 1", "0.999 averages over about 1,000 steps")

    def init(params: Params) -> EmaState:
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return EmaState(jnp.zeros((), jnp.int32), jnp.asarray(decay, jnp.float32), zeros)

    def update(updates: Any, state: EmaState, params: Params | None = None) -> tuple[Any, EmaState]:
        if params is None:
            raise BadInput("ema: update called without params", "", "call tx.update(grads, opt_state, params)")
        average = jax.tree.map(
            lambda a, p, u: state.decay * a + (1 - state.decay) * (p + u).astype(jnp.float32),
            state.average,
            params,
            updates,
        )
        return updates, EmaState(state.count + 1, state.decay, average)

    return optax.GradientTransformation(init, update)


def averaged(params: Params, opt_state: Any) -> Params:
    """The averaged parameters where the optimizer keeps an `ema`, the parameters themselves elsewhere.

    Args:
      params: the raw parameters.
      opt_state: the optimizer state that belongs to them; for `alternate` a dict by player, as `params` is.

    Returns:
      Parameters of the same structure, shapes and dtypes; before the first update the raw ones.
    """
    if isinstance(opt_state, dict):
        return {name: averaged(value, opt_state[name]) for name, value in params.items()}
    found = _ema_states(opt_state)
    if not found:
        return params
    state = found[-1]
    weight = 1 - state.decay ** state.count.astype(jnp.float32)
    safe = jnp.where(state.count > 0, weight, 1.0)

    def read(parameter: jax.Array, average: Any) -> jax.Array:
        if isinstance(average, optax.MaskedNode):  # left out of the average by optax.masked
            return parameter
        return jnp.where(state.count > 0, average / safe, parameter).astype(parameter.dtype)

    return jax.tree.map(read, params, state.average)


def has_ema(opt_state: Any) -> bool:
    """Whether `averaged` reads a moving average from this optimizer state."""
    return bool(_ema_states(opt_state))


def _ema_states(opt_state: Any) -> list[EmaState]:
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, EmaState))
    return [leaf for leaf in leaves if isinstance(leaf, EmaState)]


def _turn(name: str, player: Player, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    own = state.params[name]
    grads, metrics, carry = _gradient(player.loss, own, state, batch, key)
    params, opt_state = _descend(player.tx, grads, state.opt_state[name], own)
    state = state._replace(
        params={**state.params, name: params}, opt_state={**state.opt_state, name: opt_state}, carry=carry
    )
    return state, metrics


def _descend(tx: optax.GradientTransformation, grads: Any, opt_state: Any, params: Params) -> tuple[Params, Any]:
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _step_key(key: Key, state: State) -> Key:
    key = jax.random.fold_in(key, state.step)
    axis = _tracing.get().axis
    return key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))


def _gradient(loss: Loss, params: Params, state: State, batch: Batch, key: Key) -> tuple[Any, Metrics, Any]:
    dtype, axis = _tracing.get()

    def objective(params: Params) -> tuple[jax.Array, tuple[Metrics, Any]]:
        seen = state._replace(params=_cast(state.params, dtype))
        out = _checked(loss, loss(_cast(params, dtype), seen, _cast(batch, dtype), key), batch)
        mean = _masked_mean(out.loss, batch)
        metrics = {"loss": mean} | {name: _masked_mean(value, batch) for name, value in out.metrics.items()}
        return mean, (metrics, state.carry if out.carry is None else out.carry)

    grads, (metrics, carry) = jax.grad(objective, has_aux=True)(params)
    if axis is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis)
    return grads, {**metrics, "grad_norm": optax.global_norm(grads)}, carry


def _accumulated(loss: Loss, state: State, batch: Batch, key: Key, parts: int) -> tuple[Any, Metrics, Any]:
    def one(carried: tuple[Any, Any], xs: tuple[jax.Array, Batch]) -> tuple[tuple[Any, Any], tuple[Metrics, jax.Array]]:
        total, carry = carried
        number, part = xs
        weight = _rows_weight(part)
        grads, metrics, carry = _gradient(
            loss, state.params, state._replace(carry=carry), part, jax.random.fold_in(key, number)
        )
        return (jax.tree.map(lambda t, g: t + weight * g, total, grads), carry), (metrics, weight)

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (total, carry), (metrics, weights) = jax.lax.scan(
        one, (zeros, state.carry), (jnp.arange(parts), _split(batch, parts))
    )
    scale = weights / jnp.sum(weights)
    grads = jax.tree.map(lambda t: t / jnp.sum(weights), total)
    metrics = jax.tree.map(lambda m: jnp.sum(m * scale), metrics)
    return grads, {**metrics, "grad_norm": optax.global_norm(grads)}, carry


def _rows_weight(batch: Batch) -> jax.Array:
    return jnp.sum(batch["mask"], dtype=jnp.float32) if "mask" in batch else jnp.ones((), jnp.float32)


def _masked_mean(values: jax.Array, batch: Batch) -> jax.Array:
    values = values.astype(jnp.float32)
    if values.ndim == 0:
        return values
    if "mask" not in batch:
        return jnp.mean(values)
    mask = batch["mask"].astype(jnp.float32)
    kept = jnp.where(mask > 0, values, 0.0)  # a padding row may hold anything, NaN included
    return jnp.sum(mask * kept) / jnp.maximum(jnp.sum(mask), 1.0)


def _cast(tree: Any, dtype: Any) -> Any:
    if dtype is None:
        return tree
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, tree)


def _split(batch: Batch, parts: int) -> Batch:
    rows = {x.shape[0] for x in jax.tree.leaves(batch)}
    if any(n % parts for n in rows):
        raise BadInput(
            f"the batch has {sorted(rows)} rows, which do not divide into {parts} parts",
            "the rows of a batch must be a multiple of the parts",
            f"choose a batch size that {parts} divides",
        )
    return jax.tree.map(lambda x: x.reshape((parts, x.shape[0] // parts, *x.shape[1:])), batch)


def _checked(loss: Loss, out: Any, batch: Batch) -> Out:
    where = f"{getattr(loss, '__name__', 'the loss')} (line {_line(loss)})"
    contract = "a loss returns Out(loss), loss floating in nats of shape [B] (one number per example) or a scalar"
    if not isinstance(out, Out):
        raise BadInput(f"{where} returned {type(out).__name__}", contract, "return genjax.Out(loss, {...})")
    values = {"loss": out.loss, **{f"metrics[{name!r}]": value for name, value in out.metrics.items()}}
    rows = {x.shape[0] for x in jax.tree.leaves(batch) if x.ndim}
    for name, value in values.items():
        if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
            kind = getattr(value, "dtype", type(value).__name__)
            if name == "loss" or not hasattr(value, "dtype"):
                raise BadInput(f"{where}: {name} is {kind}", contract, "return a float32 array from jax.numpy")
        if value.shape != () and rows and value.shape not in {(n,) for n in rows}:
            raise BadInput(
                f"{where}: {name} has shape {value.shape} on a batch of {sorted(rows)} rows",
                contract,
                "sum over pixels and dimensions, keep the axis of examples",
            )
    return out


def _line(function: Any) -> Any:
    code = getattr(function, "__code__", None)
    return code.co_firstlineno if code else "?"

"""The moving average of the parameters, kept inside the optimizer state, where checkpoints and shardings find it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax.errors import BadInput
from genjax.types import Params


class EmaState(NamedTuple):
    """The moving average of the parameters, biased towards its start at zero until it is read by `averaged`."""

    count: jax.Array  # type: ignore[assignment]  # int32 scalar
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
    if isinstance(decay, int | float) and not 0 <= decay < 1:  # a traced decay was checked before it was traced
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
    if isinstance(opt_state, dict) and isinstance(params, dict) and opt_state.keys() == params.keys():
        return {name: averaged(value, opt_state[name]) for name, value in params.items()}
    for state in _ema_states(opt_state):  # several where optax.partition gives each group its own
        params = _read(params, state)
    return params


def _read(params: Params, state: EmaState) -> Params:
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

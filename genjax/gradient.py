"""The gradient of a loss of the contract (params, state, batch, key) -> Out: mean over rows, precision, devices.

The mean stands here and only here: losses give one number per example, and rows whose batch["mask"] is 0 weigh
nothing, as long as they are finite.  Under mixed precision the loss sees parameters and batch in bfloat16; gradients
come back in float32, because the cast is part of what is differentiated (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.1).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax.errors import BadInput
from genjax.types import Batch, Key, Loss, Metrics, Out, Params, State


class Tracing(NamedTuple):
    """What the command, not the experiment, decides about a compiled update; read while it is traced."""

    compute_dtype: Any = None  # jnp.bfloat16: mixed precision; None: the parameters' own
    axis: str | None = None  # the name of the mapped device axis under pmap; None under jit


_PLAIN = Tracing()
_tracing: ContextVar[Tracing] = ContextVar("tracing", default=_PLAIN)


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


def step_key(key: Key, state: State) -> Key:
    """The key of this update: fold_in(stage key, state.step), and the device under pmap."""
    key = jax.random.fold_in(key, state.step)
    axis = _tracing.get().axis
    return key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))


def gradient(loss: Loss, params: Params, state: State, batch: Batch, key: Key) -> tuple[Any, Metrics, Any]:
    """The gradient of the mean loss in `params`, its metrics as means, and the new carry.

    Args:
      loss: (params, state, batch, key) -> Out.
      params: what is differentiated; float32.
      state: read-only; its params are cast like `params`.
      batch: [B, ...] leaves; "mask" [B] weights the rows.
      key: of this update.

    Returns:
      (gradient shaped like `params`, {"loss", "grad_norm", ...} float32 scalars, carry).

    Raises:
      BadInput: where the loss breaks its contract.
    """
    axis = _tracing.get().axis
    grads, (metrics, carry) = jax.grad(objective(loss, state, batch, key), has_aux=True)(params)
    if axis is not None:
        weight = _rows_weight(batch)
        share = weight / _positive(jax.lax.psum(weight, axis))  # devices may hold different numbers of unmasked rows
        grads, metrics = jax.lax.psum(jax.tree.map(lambda x: share * x, (grads, metrics)), axis)
    return grads, {**metrics, "grad_norm": optax.tree.norm(grads)}, carry


def objective(
    loss: Loss, state: State, batch: Batch, key: Key
) -> Callable[[Params], tuple[jax.Array, tuple[Metrics, Any]]]:
    """What `gradient` differentiates: params -> (mean loss, (metrics, carry)), of the rows that this device holds."""
    dtype = _tracing.get().compute_dtype

    def mean_loss(params: Params) -> tuple[jax.Array, tuple[Metrics, Any]]:
        seen = state._replace(params=_cast(state.params, dtype))
        out = _checked(loss, loss(_cast(params, dtype), seen, _cast(batch, dtype), key), batch)
        mean = _masked_mean(out.loss, batch)
        metrics = {"loss": mean} | {name: _masked_mean(value, batch) for name, value in out.metrics.items()}
        return mean, (metrics, state.carry if out.carry is None else out.carry)

    return mean_loss


def mapped() -> bool:
    """Whether a device axis is mapped (pmap): a batch is then a part of the global one."""
    return _tracing.get().axis is not None


def accumulated(loss: Loss, state: State, batch: Batch, key: Key, parts: int) -> tuple[Any, Metrics, Any]:
    """`gradient` of a batch in `parts` pieces one after the other: the same mean, a fraction of the memory."""

    def one(carried: tuple[Any, Any], xs: tuple[jax.Array, Batch]) -> tuple[tuple[Any, Any], tuple[Metrics, jax.Array]]:
        total, carry = carried
        number, part = xs
        weight = _rows_weight(part)
        if _tracing.get().axis is not None:  # the gradient of a part is already that of all devices' rows
            weight = jax.lax.psum(weight, _tracing.get().axis)
        grads, metrics, carry = gradient(
            loss, state.params, state._replace(carry=carry), part, jax.random.fold_in(key, number)
        )
        return (jax.tree.map(lambda t, g: t + weight * g, total, grads), carry), (metrics, weight)

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (total, carry), (metrics, weights) = jax.lax.scan(
        one, (zeros, state.carry), (jnp.arange(parts), split(batch, parts))
    )
    rows = _positive(jnp.sum(weights))
    scale = weights / rows
    grads = jax.tree.map(lambda t: t / rows, total)
    metrics = jax.tree.map(lambda m: jnp.sum(m * scale), metrics)
    return grads, {**metrics, "grad_norm": optax.tree.norm(grads)}, carry


def _rows_weight(batch: Batch) -> jax.Array:
    return jnp.sum(batch["mask"], dtype=jnp.float32) if "mask" in batch else jnp.ones((), jnp.float32)


def _masked_mean(values: jax.Array, batch: Batch) -> jax.Array:
    values = values.astype(jnp.float32)
    if values.ndim == 0:
        return values
    if "mask" not in batch:
        return jnp.mean(values)
    mask = batch["mask"].astype(jnp.float32)
    # padding rows must hold finite values, copies of real rows for example: backwards, 0 times NaN is NaN
    return jnp.sum(mask * values) / _positive(jnp.sum(mask))


def _positive(total: jax.Array) -> jax.Array:
    return jnp.where(total > 0, total, 1.0)  # no row counts: the mean of nothing is zero


def _cast(tree: Any, dtype: Any) -> Any:
    if dtype is None:
        return tree
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, tree)


def split(batch: Batch, parts: int) -> Batch:
    """[parts x B, ...] leaves as [parts, B, ...]; BadInput where the rows do not divide."""
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
    names = list(out.metrics) if isinstance(out.metrics, Mapping) else [out.metrics]
    wrong = [name for name in names if not isinstance(name, str) or name in ("loss", "grad_norm")]
    if wrong:
        raise BadInput(
            f"{where}: metrics hold {wrong[0]!r}",
            "metrics are a mapping of names; 'loss' and 'grad_norm' are logged without asking",
            "return Out(loss, {'another_name': [B] or scalar})",
        )
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

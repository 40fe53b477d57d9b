"""Evaluation: masked means of per-example measures over a split, with their standard errors.

A measure returns one number per example, so that the mean over N examples has the standard error
sqrt(sum (x - mean)^2 / (N (N - 1))).  Where examples differ in length, a quantity names the count that it is measured
by: the value is then the ratio R = sum x / sum w, so many nats a frame, and its standard error that of the residuals
x - R w (Cochran, Sampling Techniques, 1977, eq. 6.13).  What all examples share, such as an estimated log Z, does not
show in their spread: a quantity names the measure of its own standard error, which is added in squares.  The last batch
is padded, its padding rows weigh nothing, and the same numbers come out on any number of devices.  Likelihoods are
evaluated at the highest matrix-product precision.

Some measures are of a set and no mean over it: the distance of generated pictures from real ones.  There the measure
returns an array per example, a picture's features for example, and `of_all` gets those of all examples on the host.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax import parallel
from genjax.averages import averaged
from genjax.errors import BadInput, NonFinite, Preempted
from genjax.types import Batch, Key, State


class Quantity(NamedTuple):
    """What a measured number is; exact values, bounds and estimates never share a ranking without their kind."""

    kind: str  # "exact", "upper bound", "lower bound", "estimate", ...
    unit: str = "nats"
    better: str = "lower"  # or "higher"; "": neither, it only tells
    per: str = ""  # the measure that counts what the value is per: frames, tokens; "": examples
    error: str = ""  # the measure that is a standard error which all examples share; "": none


OfAll = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
"""{name: [N, ...] of all examples} -> {quantity: a number, or (number, standard error)}; it must draw nothing anew."""


class Evaluation(NamedTuple):
    """A measure on a split."""

    measure: Callable[[State, Batch, Key], Mapping[str, jax.Array]]  # state.params: averaged where there is an EMA
    split: Any  # arrays and prepare: genjax.data.Split
    batch_size: int
    quantities: Mapping[str, Quantity]
    final: bool = False  # only when the run ends: for measures of the last stage that cost minutes
    stage: str | None = None  # the stage whose state it measures; None: the last
    of_all: OfAll | None = None  # then `measure` returns arrays [B, ...], and this the quantities of all of them


class Measured(NamedTuple):
    """A mean over a split with its standard error; 0 where a measure of a set tells none."""

    value: float
    standard_error: float
    count: int  # type: ignore[assignment]


def averaged_state(state: State) -> State:
    """The state as evaluation and sampling see it: the moving average in place of the raw parameters."""
    return state._replace(params=averaged(state.params, state.opt_state))


def evaluator(
    evaluation: Evaluation, mesh: Any, stop: Callable[[], bool] | None = None
) -> Callable[[State, Key], dict[str, Measured]]:
    """Compile an evaluation once; the result maps (state, key) to {measure: Measured}.

    Args:
      evaluation: what to measure on what.
      mesh: the devices; the batch is laid over them, the batch size rounded up to a multiple of their number.

      stop: asked before every batch; True ends the evaluation.

    Returns:
      A function of (state, key).  Example i of the split is measured in batch i // batch_size, whose key is
      fold_in(key, batch), so that a repeated evaluation gives the same numbers.

    Raises:
      BadInput: for an empty split, or a measure that does not return [B] numbers.
      NonFinite: where a measured mean is not finite.
    """
    arrays = {name: np.asarray(value) for name, value in evaluation.split.arrays.items()}
    rows = len(next(iter(arrays.values())))
    size = -(-min(evaluation.batch_size, rows) // mesh.size) * mesh.size
    one = _compiled(evaluation, mesh)

    def run(state: State, key: Key) -> dict[str, Measured]:
        seen, parts = averaged_state(state), []
        with jax.default_matmul_precision("highest"):
            for number, start in enumerate(range(0, rows, size)):
                if stop is not None and stop():
                    raise Preempted("stopped during an evaluation", "the state of the last checkpoint is saved")
                feed, mask = _padded(arrays, start, size)
                feed, mask = parallel.feed(mesh, (_own_rows(feed), _own_rows(mask)))
                parts.append(one(seen, feed, mask, jax.random.fold_in(key, number)))
        columns = _columns(jax.device_get(parts))
        if evaluation.of_all is not None:
            return _of_set(evaluation, {name: np.concatenate(parts)[:rows] for name, parts in columns.items()}, rows)
        ordered = [name for name in evaluation.quantities if name in columns]  # a compiled function sorts its names
        ordered += sorted({*columns} - {*ordered})
        return _with_shared_errors({name: _pooled(name, np.stack(columns[name])) for name in ordered}, evaluation)

    return run


def check_measure(evaluation: Evaluation, state: State) -> None:
    """Trace a measure that is needed only at the end, so that what is wrong with it shows before training.

    Args:
      evaluation: what to measure on what.
      state: abstract: shapes and dtypes.

    Raises:
      BadInput: the measure does not return [B] numbers, with the names of the quantities.
    """
    arrays = {name: np.asarray(value) for name, value in evaluation.split.arrays.items()}
    size = min(evaluation.batch_size, len(next(iter(arrays.values()))))
    rows = {name: jax.ShapeDtypeStruct((size, *value.shape[1:]), value.dtype) for name, value in arrays.items()}
    mask, key = jax.ShapeDtypeStruct((size,), jnp.float32), jax.eval_shape(lambda: jax.random.key(0))
    jax.eval_shape(_measured(evaluation), jax.eval_shape(averaged_state, state), rows, mask, key)


def _compiled(evaluation: Evaluation, mesh: Any) -> Callable[..., Any]:
    return jax.jit(_measured(evaluation), out_shardings=parallel.replicated(mesh))


def _measured(evaluation: Evaluation) -> Callable[..., Any]:
    def one(state: State, rows: Batch, mask: jax.Array, key: Key) -> dict[str, jax.Array]:
        data_key, measure_key = jax.random.split(key)
        batch = evaluation.split.prepare(rows, data_key)
        measured = evaluation.measure(state, batch, measure_key)
        if evaluation.of_all is not None:
            return _rows_of(measured, len(mask))
        _check_names(measured, evaluation)
        for name, values in measured.items():
            if getattr(values, "shape", None) != mask.shape:
                raise BadInput(
                    f"measure {name!r} has shape {getattr(values, 'shape', type(values).__name__)}",
                    f"a measure returns one number per example: shape {mask.shape}",
                    "sum over pixels and dimensions, keep the axis of examples",
                )
        per = {name: evaluation.quantities[name].per for name in measured if name in evaluation.quantities}
        ones = jnp.ones_like(mask)
        weights = {name: measured[per[name]] if per.get(name) else ones for name in measured}
        return {name: _moments(values, weights[name], mask) for name, values in measured.items()}

    return one


def _rows_of(measured: Any, count: int) -> dict[str, jax.Array]:
    arrays = dict(measured) if isinstance(measured, Mapping) else {"": measured}
    for name, values in arrays.items():
        if getattr(values, "shape", ())[:1] != (count,):
            raise BadInput(
                f"measure {name!r} of a set has shape {getattr(values, 'shape', type(values).__name__)}",
                f"a mapping of names to arrays with a row for each of the {count} examples of the batch",
            )
    return arrays


def _of_set(evaluation: Evaluation, rows: dict[str, np.ndarray], count: int) -> dict[str, Measured]:
    """The quantities of all rows; padding is left out already."""
    assert evaluation.of_all is not None
    found = evaluation.of_all(rows)
    _check_names(found, evaluation)
    told = {name: (value if isinstance(value, tuple) else (value, 0.0)) for name, value in found.items()}
    for name, (value, _) in told.items():
        if not np.isfinite(value):
            raise NonFinite(f"{name} is {value}", "a measure of a set is finite", "look at what the model draws")
    return {name: Measured(float(told[name][0]), float(told[name][1]), count) for name in evaluation.quantities}


def _moments(values: jax.Array, weights: jax.Array, mask: jax.Array) -> jax.Array:
    """[6]: rows, sums of values and weights, and their squares and products around the means of the batch."""
    x, w = (jnp.where(mask > 0, a.astype(jnp.float32), 0.0) for a in (values, weights))
    count = jnp.sum(mask)
    dx, dw = (mask * (a - jnp.sum(a) / jnp.maximum(count, 1.0)) for a in (x, w))
    return jnp.stack([count, jnp.sum(x), jnp.sum(w), jnp.sum(dx * dx), jnp.sum(dw * dw), jnp.sum(dx * dw)])


def _check_names(measured: Any, evaluation: Evaluation) -> None:
    found = list(measured) if isinstance(measured, Mapping) else []
    named = [name for quantity in evaluation.quantities.values() for name in (quantity.per, quantity.error) if name]
    wanted = [*dict.fromkeys([*evaluation.quantities, *named])]
    missing = [name for name in wanted if name not in found]
    if missing or not isinstance(measured, Mapping):
        raise BadInput(
            f"the measure returned {found if isinstance(measured, Mapping) else type(measured).__name__}",
            f"a mapping of names to [B] numbers, with every name of the quantities: {', '.join(wanted)}",
            f"return {{{', '.join(f'{name!r}: ...' for name in wanted)}}}",
        )


def _padded(arrays: Mapping[str, np.ndarray], start: int, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    real = min(size, len(next(iter(arrays.values()))) - start)
    take = np.arange(start, start + size) % (start + real)  # padding repeats real rows: valid input for any model
    take[real:] = start
    return {name: value[take] for name, value in arrays.items()}, (np.arange(size) < real).astype(np.float32)


def _own_rows(tree: Any) -> Any:
    index, count = jax.process_index(), jax.process_count()
    return jax.tree.map(lambda x: x[len(x) * index // count : len(x) * (index + 1) // count], tree)


def _columns(parts: list[dict[str, np.ndarray]]) -> dict[str, list[np.ndarray]]:
    return {name: [part[name] for part in parts] for name in parts[0]}


def _with_shared_errors(results: dict[str, Measured], evaluation: Evaluation) -> dict[str, Measured]:
    shared = {name: q.error for name, q in evaluation.quantities.items() if q.error}
    joint = {
        name: float(np.hypot(results[name].standard_error, results[error].value)) for name, error in shared.items()
    }
    return {name: own._replace(standard_error=joint.get(name, own.standard_error)) for name, own in results.items()}


def _pooled(name: str, batches: np.ndarray) -> Measured:
    """The moments of batches [n, 6] as one ratio, in float64 (Chan et al. 1979, pairwise update)."""
    count, x, w, xx, ww, xw = np.asarray(batches, np.float64).T
    rows, total = count.sum(), w.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = x.sum() / total
    if not np.isfinite(ratio):
        raise NonFinite(
            f"{name} is {ratio}", "a measure is finite on every example", "look at the measure on single batches"
        )
    dx, dw = x / count - x.sum() / rows, w / count - total / rows
    xx, ww, xw = (a.sum() + np.sum(count * b) for a, b in ((xx, dx * dx), (ww, dw * dw), (xw, dx * dw)))
    residuals = max(xx - 2.0 * ratio * xw + ratio * ratio * ww, 0.0)
    return Measured(float(ratio), float(np.sqrt(residuals * rows / max(rows - 1, 1)) / total), int(rows))

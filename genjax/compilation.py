"""From a stage to one compiled call: draw the batch, update, guard, sum up the metrics.

The call is compiled once a stage, ahead of time, so shapes can only change between stages.  It donates the state and
the totals.  A non-finite loss, gradient or parameter is seen inside the call: the update that made it is not kept,
the totals remember the first bad leaf, and later calls in flight repeat the same update from the same key and keep
nothing, until the loop reads the totals.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax import parallel
from genjax.errors import BadInput
from genjax.explaining import explained
from genjax.gradient import tracing
from genjax.types import Batch, Key, Metrics, Stage, State

OF_THE_LOG = ("stage", "stage_index", "step", "kind", "time", "updates_per_second")  # keys of its rows, not metrics
MOST_BYTES = 2**46  # of a state: 64 TiB
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")


class Totals(NamedTuple):
    """Sums over the updates since the last log line; small arrays that stay on the devices."""

    sums: Metrics
    count: jax.Array  # type: ignore[assignment]  # updates kept
    bad: jax.Array  # index of the first non-finite leaf, -1: none


class Keys(NamedTuple):
    """The keys of a stage, a pure function of (seed, stage index)."""

    init: Key
    update: Key
    evaluate: Key
    data: Key


class Program(NamedTuple):
    """A compiled stage."""

    call: Callable[..., Any]  # (state, totals, feed, count) -> (state, (totals, tick)); the tick is never donated
    zero: Callable[[], Totals]
    fresh: Callable[[], State]  # the state at step 0
    feed: Callable[[int], Any]  # step -> the resident arrays, or the fetched rows of that step
    abstract: State  # shapes, dtypes and shardings
    leaves: tuple[str, ...]  # names, by the index in Totals.bad
    seconds: float  # spent compiling
    executable: Any  # cost_analysis(), memory_analysis(); under pmap the function


def stage_keys(seed: int, index: int) -> Keys:
    """The four keys of stage `index`."""
    return Keys(*jax.random.split(jax.random.fold_in(jax.random.key(seed), index), 4))


def check_seed(seed: int) -> None:
    """Refuse a seed that would be another one's: JAX takes its low 32 bits."""
    if not 0 <= seed < 2**32:
        raise BadInput(f"--seed {seed}", "allowed: whole numbers from 0 to 4294967295", "larger seeds collide")


def compile_stage(stage: Stage, keys: Keys, seed: int, mesh: Any, precision: str, how: str) -> Program:
    """Compile a stage.

    Args:
      stage: learner, data, updates in a call.
      keys: from `stage_keys`.
      seed: for `Source.fetch`.
      mesh: the devices.
      precision: one of PRECISIONS; bfloat16 computes in bfloat16 with float32 parameters and reductions.
      how: "jit" replicated, "fsdp" fully sharded state, "pmap".

    Raises:
      BadInput: where the learner breaks its contract, naming what and where.
    """
    source, began = stage.data, time.perf_counter()
    parallel.check_batch(source.batch_size, mesh.size)
    if source.fetch is not None and stage.steps_per_call != 1:
        raise BadInput(
            f"stage {stage.name!r}: steps_per_call = {stage.steps_per_call} with data that is read step by step",
            "several updates a call need resident data",
            "leave steps_per_call at 1",
        )
    resident = parallel.place(source.resident, parallel.replicated(mesh))

    def feed(step: int) -> Any:
        return resident if source.fetch is None else parallel.feed(mesh, source.fetch(seed, step))

    example = feed(0)
    whole = parallel.replicated(mesh)
    placed = parallel.place(keys, whole)

    def draw(rows: Any, step: Any, keys: Keys) -> Batch:
        return source.batch(rows, keys.data, step)

    def fresh(rows: Any, keys: Keys) -> State:
        return stage.learner.init(keys.init, draw(rows, 0, keys))

    with traced_as(stage, precision, how):
        shapes = jax.eval_shape(fresh, example, keys)
        _check_size(shapes)
        shardings = parallel.state_shardings(mesh, shapes, fully_sharded=how == "fsdp")
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        metrics = check_update(stage, shapes, jax.eval_shape(draw, example, 0, keys), keys.update, how)
        zero = jax.jit(lambda: _zero(metrics), out_shardings=whole)
        call: Any = parallel.compile_update(fused_update(stage, draw, mesh, how), mesh, shardings, _split_mode(how))
        if how != "pmap":
            call = call.lower(abstract, zero(), example, placed, np.int32(1)).compile()
        start = jax.jit(fresh, out_shardings=shardings).lower(example, placed).compile(compiler_options=_once(mesh))
    seconds = time.perf_counter() - began
    names = leaf_names(shapes, metrics)

    def update(state: State, totals: Totals, feed: Any, count: Any) -> Any:
        return call(state, totals, feed, placed, count)

    def mapped(*arguments: Any) -> Any:  # pmap compiles at its first call: under the same settings
        with traced_as(stage, precision, how):
            return update(*arguments)

    run = mapped if how == "pmap" else update
    return Program(run, zero, lambda: start(example, placed), feed, abstract, names, seconds, call)


def _once(mesh: Any) -> dict[str, str | bool]:
    """Options for a program that runs once: on CPU a U-Net's initial values cost more to optimise than to compute.

    At level 1 compiling takes half the time and gives the same bits; at level 0 a third, and the last bits differ.
    """
    return {"xla_backend_optimization_level": "1"} if mesh.devices.flat[0].platform == "cpu" else {}


def fused_update(stage: Stage, draw: Callable[..., Batch], mesh: Any, how: str) -> Callable[..., Any]:
    """The function that is compiled: (state, totals, feed, keys, count) -> (state, (totals, tick)).

    Args:
      stage: learner, updates in a call.
      draw: (feed, step, keys) -> the batch.
      mesh: the devices that the rows of the batch are laid over.
      how: "jit", "fsdp" or "pmap".
    """

    def one(state: State, totals: Totals, feed: Any, keys: Keys) -> tuple[State, Totals]:
        batch = parallel.split_rows(draw(feed, state.step, keys), mesh, _split_mode(how))
        new, metrics = stage.learner.update(state, batch, keys.update)
        bad = _first_bad(_guarded(new, metrics))
        good = (bad < 0) & (totals.bad < 0)
        state = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
        sums = jax.tree.map(lambda s, m: s + jnp.where(good, m.astype(jnp.float32), 0.0), totals.sums, dict(metrics))
        return state, Totals(sums, totals.count + good, jnp.where(totals.bad < 0, bad, totals.bad))

    def fused(state: State, totals: Totals, feed: Any, keys: Keys, count: Any) -> tuple[State, tuple[Totals, Any]]:
        if stage.steps_per_call == 1:
            state, totals = one(state, totals, feed, keys)
        else:  # a traced count: one program hits every boundary of logging, evaluation and checkpoint
            state, totals = jax.lax.fori_loop(0, count, lambda _, c: one(c[0], c[1], feed, keys), (state, totals))
        return state, (totals, totals.count + 0)

    return fused


def _split_mode(how: str) -> parallel.How:
    return "pmap" if how == "pmap" else "jit"


def _guarded(state: State, metrics: Metrics) -> Any:
    """What must be finite, the cause before its effects: losses, then parameters, then the norms of gradients.

    Not the optimizer's moments: a gradient that is not finite shows in its norm.
    """
    norms = {name: value for name, value in metrics.items() if name.endswith("grad_norm")}
    others = {name: value for name, value in metrics.items() if name not in norms}
    return others, state._replace(opt_state=()), norms


def _first_bad(tree: Any) -> jax.Array:
    """Index of the first leaf that holds a NaN or an infinity, -1 where all are finite."""
    bad = [
        # 0 x is NaN where x is not finite; this sum takes a third of the time of all(isfinite(x))
        jnp.isnan(jnp.sum(0 * x)) if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.zeros((), bool)
        for x in jax.tree.leaves(tree)
    ]
    flags = jnp.stack(bad)
    return jnp.where(jnp.any(flags), jnp.argmax(flags).astype(jnp.int32), jnp.int32(-1))


def check_update(stage: Stage, abstract: State, batch: Batch, key: Key, how: str) -> Metrics:
    """The metrics of an update, abstract; BadInput where it changes the state or a metric is no scalar."""
    if how == "pmap":
        if jax.tree.leaves(abstract.carry):
            raise BadInput(
                f"stage {stage.name!r} carries state outside the parameters, --parallel pmap",
                "chains and batch statistics would differ from device to device",
                "use --parallel jit",
            )
        with tracing():  # outside the mapped function its axis has no name
            new, metrics = jax.eval_shape(stage.learner.update, abstract, batch, key)
    else:
        new, metrics = jax.eval_shape(stage.learner.update, abstract, batch, key)
    before, after = _kinds(abstract), _kinds(new)
    changed = [name for name in [*before, *(after.keys() - before.keys())] if before.get(name) != after.get(name)]
    if changed:
        told = [f"{name} {before.get(name, 'absent')} -> {after.get(name, 'absent')}" for name in changed]
        raise BadInput(
            f"stage {stage.name!r}: the update changes the state: {'; '.join(told[:3])}",
            "an update keeps structure, shapes and dtypes of params, opt_state and carry",
            "return the carry with the shapes and dtypes it started with",
        )
    for name, value in metrics.items():
        if value.shape != ():
            raise BadInput(f"stage {stage.name!r}: metric {name!r} has shape {value.shape}", "metrics are scalars")
        if name in OF_THE_LOG:
            raise BadInput(
                f"stage {stage.name!r}: metric {name!r} has the name of a part of the log's rows",
                f"these are taken: {', '.join(OF_THE_LOG)}",
                "give the metric another name",
            )
    return dict(metrics)


def _kinds(tree: Any) -> dict[str, str]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for path, leaf in paths}


def _name(path: Any) -> str:
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _zero(metrics: Metrics) -> Totals:
    return Totals({name: jnp.zeros((), jnp.float32) for name in metrics}, jnp.int32(0), jnp.int32(-1))


def leaf_names(state: State, metrics: Metrics) -> tuple[str, ...]:
    """The names of the leaves that `Totals.bad` counts."""
    paths, _ = jax.tree_util.tree_flatten_with_path(_guarded(state, metrics))
    return tuple(_name(path).partition("/")[2] for path, _ in paths)


@contextmanager
def traced_as(stage: Stage, precision: str, how: str = "jit") -> Iterator[None]:
    """Trace a stage's functions for a precision and a layout of devices; what goes wrong is `explained`."""
    matmul = {"float32": "float32", "tensorfloat32": "tensorfloat32", "bfloat16": "default"}[precision]
    compute, axis = (jnp.bfloat16 if precision == "bfloat16" else None), (parallel.AXIS if how == "pmap" else None)
    told = explained(f"stage {stage.name!r}", stage.data.batch_size)
    with told, jax.default_matmul_precision(matmul), tracing(compute, axis):
        yield


def _check_size(shapes: State) -> None:
    """Refuse what no machine holds before a compiler sees it: that of jaxlib 0.12 ends the process on such sizes."""
    arrays = [leaf for leaf in jax.tree.leaves(shapes) if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)]
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in arrays)
    if size > MOST_BYTES:
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: the state alone takes {size:,} bytes")

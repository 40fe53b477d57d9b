"""A sweep in one compiled program: `genjax sweep --vmap` trains every point at once, each in a lane of its own.

The experiment's function is called inside the program, its swept float fields being traced numbers, and the update is
mapped over the lanes.  A lane has the keys of a plain run with its seed, so it sees the same batches and the same noise
and ends, up to rounding, with the same parameters.  What decides shapes or Python's control flow cannot be swept so.

A lane whose update is not finite is frozen before that update, and the others go on.  A lane is measured at its last
step, and leaves a checkpoint of it.  There is none before: an interrupted sweep begins again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.compilation import Keys, Totals, check_update, fused_update, leaf_names, stage_keys, traced_as
from genjax.data.split import fingerprint
from genjax.errors import BadInput, GenjaxError
from genjax.evaluate import Measured, evaluator
from genjax.experiment import Experiment
from genjax.explaining import explained
from genjax.fields import Loaded, build
from genjax.sweep.grid import Grid, Point
from genjax.types import State


class Lanes(NamedTuple):
    """The compiled program of all lanes; every leaf of states, totals and keys has the lanes as its first axis."""

    start: Callable[[Any], State]  # feed -> states
    call: Callable[..., Any]  # (states, totals, feed, count) -> (states, (totals, tick))
    zero: Callable[[Any], Totals]  # bad [L] -> totals
    keys: Keys
    leaves: tuple[str, ...]  # names, by the index in Totals.bad
    rebuilt: Callable[[Any], Experiment]  # lane number, traced -> that lane's experiment
    seconds: float  # spent compiling


def check_lanes(loaded: Loaded, grid: Grid, points: Sequence[Point]) -> Experiment:
    """The experiment of the first point, if all points can be trained in one program; see `by_lanes` for its errors."""
    types = {field.name: field.type for field in loaded.fields}
    for name in grid.swept:
        if name != "seed" and types.get(name) is not float:
            raise BadInput(
                f"field {name!r} cannot be swept with --vmap",
                "allowed: seed, and fields of type float; others change shapes or control flow",
                "leave --vmap out: every point is then a process of its own",
            )
    if grid.options.jobs != 1 or grid.options.parallel != "jit":
        raise BadInput("--vmap with --jobs or --parallel", "all lanes are one program on one device", "leave them out")
    every = grid.options.log_every
    if every is not None and every < 1:
        raise BadInput(f"--log-every {every}", "allowed: whole numbers of updates from 1")
    settings = {repr(sorted(point.values.items())): point.values for point in points}
    first, *others = [build(loaded, values) for values in settings.values()]
    if len(first.stages) != 1 or first.stages[0].data.fetch is not None:
        raise BadInput(
            f"{loaded.path.name} has {len(first.stages)} stages, or data that are read step by step",
            "--vmap trains one stage on resident data",
            "leave --vmap out",
        )
    if any(_shared(other) != _shared(first) for other in others):
        raise BadInput(
            f"the swept fields ({', '.join(grid.swept)}) change the data, the batch size or the steps",
            "the lanes of --vmap share them",
            "leave --vmap out",
        )
    for name in grid.swept:
        if name != "seed":
            _check_traceable(loaded, points[0].values, name)
    return first


def compile_lanes(
    loaded: Loaded, points: Sequence[Point], experiment: Experiment, mesh: Any, feed: Any, precision: str
) -> Lanes:
    """Compile initialisation and update of all lanes.

    Args:
      loaded: the experiment file, whose function is called while tracing.
      points: one a lane.
      experiment: of the first point.
      mesh: one device.
      feed: the resident arrays, which all lanes share.
      precision: as in `compile_stage`.
    """
    began, count = time.perf_counter(), len(points)
    stage, numbers = experiment.stages[0], jnp.arange(count)
    keys = jax.tree.map(lambda *keys: jnp.stack(keys), *[stage_keys(point.seed, 0) for point in points])

    def rebuilt(lane: jax.Array) -> Experiment:
        return loaded.function(**_traced(points, lane))

    def draw(lane: jax.Array) -> Callable[..., Any]:
        data = rebuilt(lane).stages[0].data
        return lambda rows, step, keys: data.batch(rows, keys.data, step)

    def fresh(lane: jax.Array, keys: Keys, rows: Any) -> State:
        return rebuilt(lane).stages[0].learner.init(keys.init, draw(lane)(rows, 0, keys))

    def update(lane: jax.Array, state: State, totals: Totals, rows: Any, keys: Keys, count: Any) -> Any:
        own = stage._replace(learner=rebuilt(lane).stages[0].learner)
        return fused_update(own, draw(lane), mesh, "jit")(state, totals, rows, keys, count)

    with traced_as(stage, precision):
        one = jax.eval_shape(fresh, numbers[0], stage_keys(0, 0), feed)
        batch = jax.eval_shape(lambda rows, keys: draw(numbers[0])(rows, 0, keys), feed, stage_keys(0, 0))
        metrics = check_update(stage, one, batch, stage_keys(0, 0).update, "jit")
        start = jax.jit(jax.vmap(fresh, in_axes=(0, 0, None))).lower(numbers, keys, feed).compile()
        shapes = jax.eval_shape(jax.vmap(fresh, in_axes=(0, 0, None)), numbers, keys, feed)
        zero = lambda bad: Totals({name: jnp.zeros(count) for name in metrics}, jnp.zeros(count, jnp.int32), bad)
        mapped = jax.jit(jax.vmap(update, in_axes=(0, 0, 0, None, 0, None)), donate_argnums=(1, 2))
        totals = jax.eval_shape(zero, jnp.zeros(count, jnp.int32))
        call = mapped.lower(numbers, shapes, totals, feed, keys, np.int32(1)).compile()
    return Lanes(
        lambda rows: start(numbers, keys, rows),
        lambda states, totals, rows, count: call(numbers, states, totals, rows, keys, count),
        zero, keys, leaf_names(one, metrics), rebuilt, time.perf_counter() - began,
    )  # fmt: skip


def measure_lanes(
    experiment: Experiment, lanes: Lanes, states: State, mesh: Any, wanted: Sequence[bool]
) -> list[dict[str, Measured]]:
    """All evaluations of the lanes that are wanted, by one compiled function each; {} for the others."""
    results: list[dict[str, Measured]] = [{} for _ in wanted]
    for number, (name, evaluation) in enumerate(sorted(experiment.evaluations.items())):

        def measure(state: State, batch: Any, key: Any, name: str = name) -> Mapping[str, jax.Array]:
            lane, carry = state.carry  # the lane's number travels with its state, so that all lanes share a program
            return lanes.rebuilt(lane).evaluations[name].measure(state._replace(carry=carry), batch, key)

        run = evaluator(evaluation._replace(measure=measure), mesh)
        for lane in np.flatnonzero(wanted):
            state = jax.tree.map(lambda leaf, lane=lane: leaf[lane], states)
            with explained(f"evaluation {name}"):
                key = jax.random.fold_in(lanes.keys.evaluate[lane], number)
                measured = run(state._replace(carry=(jnp.asarray(lane), state.carry)), key)
            results[lane] |= {f"{name}/{measure}": value for measure, value in measured.items()}
    return results


def _traced(points: Sequence[Point], lane: jax.Array) -> dict[str, Any]:
    """The fields of a lane; by `where` over Python's numbers, which leaves them as weakly typed as in a plain run."""
    values = dict(points[0].values)
    for name in values:
        column = [point.values[name] for point in points]
        if any(value != column[0] for value in column):
            pick = lambda found, entry: jnp.where(lane == entry[0], entry[1], found)
            values[name] = reduce(pick, enumerate(column[1:], 1), column[0])
    return values


def _shared(experiment: Experiment) -> Any:
    stage = experiment.stages[0]
    splits = {name: fingerprint(e.split) for name, e in experiment.evaluations.items()}
    return (
        len(experiment.stages),
        stage.steps,
        stage.steps_per_call,
        stage.data.batch_size,
        stage.data.fingerprint,
        splits,
    )


def _check_traceable(loaded: Loaded, values: Mapping[str, Any], name: str) -> None:
    def built(value: jax.Array) -> jax.Array:
        loaded.function(**{**values, name: value})
        return value

    try:
        with explained(loaded.name):
            jax.eval_shape(built, jnp.asarray(values[name]))
    except Exception as error:
        told = error.lines[0] if isinstance(error, GenjaxError) else f"{type(error).__name__}: {error}"
        raise BadInput(
            f"field {name!r} cannot be swept with --vmap: {told[:160]}",
            f"{loaded.path.name} uses it in Python's control flow or in NumPy; jax.numpy can use a traced number",
            "leave --vmap out: every point is then a process of its own",
        ) from error

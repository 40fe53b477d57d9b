"""What must hold on eight devices.  Started by test_parallel.py as a process of its own; prints {check: complaint}.

The toy problem is a regression whose rows carry a mask, so that the devices hold unequal numbers of real rows: a mean
of the devices' means is then wrong, as is every confusion about which device works on which rows.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import parallel
from genjax.errors import BadInput

ROWS, INPUTS, OUTPUTS, BATCH = 256, 256, 128, 64
TOLERANCE = 2e-6  # float32 sums in another order; the parameters are of order 0.1
TX = optax.adam(1e-2)


class Toy(NamedTuple):
    step: jax.Array
    params: Any
    opt_state: Any


def toy_state() -> Toy:
    params = {
        "kernel": jax.random.normal(jax.random.key(0), (INPUTS, OUTPUTS)) / 16,
        "bias": jnp.zeros((OUTPUTS,)),
        "scale": jnp.ones(()),
    }
    return Toy(jnp.int32(0), params, TX.init(params))


def toy_rows() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {
        "x": draw.normal(size=(ROWS, INPUTS)).astype(np.float32),
        "y": draw.normal(size=(ROWS, OUTPUTS)).astype(np.float32),
        "mask": (np.arange(ROWS) % 16 < draw.integers(1, 16, ROWS)).astype(np.float32),
    }


def whole_sum(value: jax.Array, how: str) -> jax.Array:
    return jax.lax.psum(value, parallel.AXIS) if how == "pmap" else value


def own_mean(value: jax.Array, how: str) -> jax.Array:
    """A planted bug: each device divides by its own number of rows."""
    return jax.lax.pmean(value, parallel.AXIS) if how == "pmap" else value


def toy_update(
    mesh: Any,
    how: str,
    total: Callable = whole_sum,
    split: Callable = parallel.split_rows,
    traces: list | None = None,
) -> Callable:
    """What a loop compiles: draw, add noise, split, one Adam step on the masked mean, count times."""

    def one(state: Toy, totals: dict, feed: Any, key: jax.Array) -> tuple[Toy, dict]:
        index = (state.step * BATCH + jnp.arange(BATCH)) % ROWS
        batch = {name: rows[index] for name, rows in feed.items()}
        batch["x"] = batch["x"] + 0.1 * jax.random.normal(jax.random.fold_in(key, state.step), batch["x"].shape)
        batch = split(batch, mesh, how)

        def loss(params: dict) -> jax.Array:
            answer = params["scale"] * (batch["x"] @ params["kernel"]) + params["bias"][None, :]
            each = jnp.mean((answer - batch["y"]) ** 2, axis=1)
            if total is own_mean:
                return jnp.sum(batch["mask"] * each) / jnp.sum(batch["mask"])
            return jnp.sum(batch["mask"] * each) / total(jnp.sum(batch["mask"]), how)

        value, slope = jax.value_and_grad(loss)(state.params)
        value, slope = jax.tree.map(lambda x: total(x, how), (value, slope))
        change, opt_state = TX.update(slope, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        return Toy(state.step + 1, params, opt_state), {"loss": totals["loss"] + value}

    def update(state: Toy, totals: dict, feed: Any, key: jax.Array, count: jax.Array) -> tuple[Toy, dict]:
        if traces is not None:
            traces.append(1)
        return jax.lax.fori_loop(0, count, lambda _, c: one(*c, feed, key), (state, totals))

    return update


class Trained(NamedTuple):
    state: Toy
    loss: float
    first: Toy  # the state that was donated


def train(devices: int, how: str = "jit", fully_sharded: bool = False, calls: int = 3, **planted: Any) -> Trained:
    """Seven updates on a mesh of `devices`, in calls of 1, 2 and 4."""
    mesh = parallel.mesh(devices)
    shardings = parallel.state_shardings(mesh, jax.eval_shape(toy_state), fully_sharded)
    call = parallel.compile_update(toy_update(mesh, how, **planted), mesh, shardings, how)
    state = first = parallel.place(toy_state(), shardings)
    totals = parallel.place({"loss": jnp.float32(0)}, parallel.replicated(mesh))
    rows = parallel.place(toy_rows(), parallel.replicated(mesh))
    for number in range(calls):
        state, totals = call(state, totals, rows, jax.random.key(7), np.int32(2**number))
    return Trained(state, float(totals["loss"]), first)


def distance(a: Any, b: Any) -> float:
    gaps = jax.tree.map(lambda x, y: float(np.max(np.abs(np.asarray(x) - np.asarray(y)))), a, b)
    return max(jax.tree.leaves(gaps))


def expect_equal(run: Trained, truth: Trained) -> None:
    gap = distance(run.state.params, truth.state.params)
    assert gap < TOLERANCE, f"parameters differ by {gap}"
    assert abs(run.loss - truth.loss) < 1e-5 * abs(truth.loss), f"losses {run.loss} and {truth.loss}"
    assert int(run.state.step) == int(truth.state.step) == 7


def same_rows_everywhere(batch: Any, mesh: Any, how: str) -> Any:
    """A planted bug: every device works on the first device's rows."""
    return jax.tree.map(lambda rows: rows[: rows.shape[0] // mesh.size], batch)


def neighbours_overlap(batch: Any, mesh: Any, how: str) -> Any:
    """A planted bug: blocks begin one row too early, so one row is seen twice and one never."""
    own = parallel.split_rows(jax.tree.map(lambda rows: jnp.roll(rows, 1, axis=0), batch), mesh, how)
    return jax.tree.map(lambda rows: rows.at[0].set(rows[1]), own)


@contextmanager
def must_fail(what: str) -> Iterator[None]:
    try:
        yield
    except AssertionError:
        return
    raise AssertionError(f"the oracle does not see {what}")


def one_device_is_eight() -> None:
    truth = train(1)
    assert distance(truth.state.params, toy_state().params) > 1e-2, "nothing was learned, nothing is compared"
    expect_equal(train(8), truth)
    expect_equal(train(4), truth)
    with must_fail("one update less"):
        expect_equal(train(8, calls=2), truth)


def fully_sharded_is_replicated() -> None:
    expect_equal(train(8, fully_sharded=True), train(1))


def pmap_is_jit() -> None:
    truth = train(8)
    expect_equal(train(8, "pmap"), truth)
    expect_equal(train(1, "pmap"), truth)
    for planted in ({"split": same_rows_everywhere}, {"split": neighbours_overlap}, {"total": own_mean}):
        with must_fail(str(planted)):
            expect_equal(train(8, "pmap", **planted), truth)


def expect_sharded(state: Toy) -> None:
    kernels = [state.params["kernel"], state.opt_state[0].mu["kernel"], state.opt_state[0].nu["kernel"]]
    for kernel in kernels:
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(INPUTS // 8, OUTPUTS)}
        assert len({str(shard.index) for shard in kernel.addressable_shards}) == 8
    assert all(state.params[name].is_fully_replicated for name in ("bias", "scale"))
    on_one = sum(leaf.addressable_shards[3].data.nbytes for leaf in jax.tree.leaves(state))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert on_one < whole / 7, f"a device holds {on_one} of {whole} bytes"


def fully_sharded_holds_an_eighth() -> None:
    run = train(8, fully_sharded=True)
    expect_sharded(run.state)
    with must_fail("a replicated state"):
        expect_sharded(train(8).state)


def the_largest_divisible_axis() -> None:
    mesh = parallel.mesh(8)
    shapes = [(64, 256), (256, 64), (128, 128), (4096, 8, 7), (4099, 64), (4099, 7), (16383,), (16384,), (), (2**20,)]
    leaves = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    found = [tuple(s.spec) for s in parallel.state_shardings(mesh, leaves, fully_sharded=True)]
    data, none = "data", None
    assert found == [
        *((none, data), (data, none), (data, none), (data, none, none), (none, data)),
        *((), (), (data,), (), (data,)),
    ], found
    assert all(s.is_fully_replicated for s in parallel.state_shardings(mesh, leaves, fully_sharded=False))


def state_is_donated() -> None:
    for how in ("jit", "pmap"):
        run = train(8, how)
        gone = [leaf.is_deleted() for leaf in jax.tree.leaves(run.first)]
        assert all(gone), f"{how}: {gone}"


def place_makes_its_own_buffers() -> None:
    """What was placed is donated; what it was placed from is alive and unchanged, wherever it lay."""
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    for devices in (1, 4, 8):
        for target in (parallel.replicated(parallel.mesh(devices)), parallel.batch_sharding(parallel.mesh(devices))):
            sources = [np.ones((64, 256), np.float32), jnp.ones((64, 256))]
            sources += [parallel.place(sources[0], parallel.replicated(parallel.mesh(n))) for n in (1, 4, 8)]
            for source in sources:
                placed = parallel.place(source, target)
                assert placed.sharding == target and np.array_equal(placed, np.ones((64, 256)))
                jax.block_until_ready(add(placed))
                assert placed.is_deleted() and np.array_equal(source, np.ones((64, 256)))
    key = parallel.place(jax.random.key(3), parallel.replicated(parallel.mesh(8)))
    assert np.array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(3)))


def rows_go_to_their_devices() -> None:
    mesh = parallel.mesh(8)
    host = np.arange(32, dtype=np.float32).reshape(16, 2)
    for rows in (parallel.feed(mesh, {"x": host})["x"], parallel.place(host, parallel.batch_sharding(mesh))):
        for number, device in enumerate(mesh.devices.flat):
            (mine,) = [shard.data for shard in rows.addressable_shards if shard.device == device]
            assert np.array_equal(mine, host[2 * number : 2 * number + 2])
    split = jax.jit(lambda rows: parallel.split_rows(rows, mesh))(host)
    assert split.sharding.is_equivalent_to(parallel.batch_sharding(mesh), 2), split.sharding


def rows_read_on_the_host() -> None:
    """A feed that is split over the devices gives what the resident data gives, under jit and under pmap."""
    for how in ("jit", "pmap"):
        mesh = parallel.mesh(8)
        shardings = parallel.state_shardings(mesh, jax.eval_shape(toy_state))
        call = parallel.compile_update(toy_update(mesh, how), mesh, shardings, how)
        state = parallel.place(toy_state(), shardings)
        totals = parallel.place({"loss": jnp.float32(0)}, parallel.replicated(mesh))
        state, _ = call(state, totals, parallel.feed(mesh, toy_rows()), jax.random.key(7), np.int32(7))
        assert distance(state.params, train(1).state.params) < TOLERANCE


def one_trace_one_compilation() -> None:
    for how in ("jit", "pmap"):
        mesh, traces, compilations = parallel.mesh(8), [], []
        shardings = parallel.state_shardings(mesh, jax.eval_shape(toy_state), fully_sharded=how == "jit")
        call = parallel.compile_update(toy_update(mesh, how, traces=traces), mesh, shardings, how)
        state = parallel.place(toy_state(), shardings)
        totals = parallel.place({"loss": jnp.float32(0)}, parallel.replicated(mesh))
        rows = parallel.place(toy_rows(), parallel.replicated(mesh))
        key = parallel.place(jax.random.key(7), parallel.replicated(mesh))
        state, totals = call(state, totals, rows, key, np.int32(1))
        jax.monitoring.register_event_duration_secs_listener(
            lambda name, _, seen=compilations, **__: seen.append(name) if "compile" in name else None
        )
        for count in (2, 1, 5, 3):
            state, totals = call(state, totals, rows, key, np.int32(count))
        jax.block_until_ready(state)
        assert len(traces) == 1, f"{how}: {len(traces)} traces"
        assert not compilations, f"{how}: {compilations}"


def a_state_elsewhere_is_refused() -> None:
    """A state in another layout than compiled for is an error, never a silent second compilation."""
    mesh = parallel.mesh(8)
    sharded = parallel.state_shardings(mesh, jax.eval_shape(toy_state), fully_sharded=True)
    call = parallel.compile_update(toy_update(mesh, "jit"), mesh, sharded, "jit")
    state, totals, rows = parallel.place((toy_state(), {"loss": jnp.float32(0)}, toy_rows()), parallel.replicated(mesh))
    try:
        call(state, totals, rows, jax.random.key(7), np.int32(1))
    except ValueError:
        return
    raise AssertionError("accepted")


def impossible_meshes() -> None:
    assert parallel.mesh().size == 8 and parallel.mesh(3).size == 3
    for count in (0, -1, 9):
        try:
            parallel.mesh(count)
        except BadInput as error:
            assert f"devices={count}" in error.lines[0] and "8 of kind cpu" in error.lines[1], error.lines
        else:
            raise AssertionError(f"{count} devices accepted")


def pmap_needs_a_replicated_state() -> None:
    mesh = parallel.mesh(8)
    sharded = parallel.state_shardings(mesh, jax.eval_shape(toy_state), fully_sharded=True)
    try:
        parallel.compile_update(toy_update(mesh, "pmap"), mesh, sharded, "pmap")
    except BadInput as error:
        assert "--parallel jit" in error.lines[2]
    else:
        raise AssertionError("accepted")


CHECKS = (
    *(one_device_is_eight, fully_sharded_is_replicated, pmap_is_jit, fully_sharded_holds_an_eighth),
    *(the_largest_divisible_axis, state_is_donated, place_makes_its_own_buffers, rows_go_to_their_devices),
    *(rows_read_on_the_host, one_trace_one_compilation, a_state_elsewhere_is_refused, impossible_meshes),
    *(pmap_needs_a_replicated_state,),
)


def complaint(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    json.dump({check.__name__: complaint(check) for check in CHECKS}, sys.stdout)

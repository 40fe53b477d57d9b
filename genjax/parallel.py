"""Devices: one mesh, where each array of a state lies, and the compilation of an update over it.

One axis, "data".  A batch is split over it.  A state is either replicated, or fully sharded (FSDP): each large leaf
is cut along one of its axes and the compiler gathers it where it is used.  Both are one `jit`; `pmap` is kept for
those who ask for it, and is tested equal.  How several processes find each other stands in `hosts.py`.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from genjax.errors import BadInput
from genjax.hosts import meet

AXIS = "data"
How = Literal["jit", "pmap"]

# Fully sharded, a leaf pays one gather a use.  Biases, scales and small heads lie below this number of elements: to
# cut them would save less than 64 KiB each and cost the latency of a collective.  Counted in elements, not in bytes,
# so that a parameter and its optimizer moments are cut alike whatever their dtypes.
SMALLEST_SHARDED = 2**14


def mesh(devices: int | None = None) -> Mesh:
    """The mesh of the devices of all processes, one axis "data", in the order of the processes.

    Args:
      devices: how many, an equal number of every process's; None: all.

    Raises:
      BadInput: there are not as many, they do not divide among the processes, or the asked kind is absent.

    >>> dict(mesh(1).shape)
    {'data': 1}
    """
    found, hosts = _devices(), jax.process_count()
    count = len(found) if devices is None else devices
    _check_count(count, found, hosts)
    each = [[device for device in found if device.process_index == host][: count // hosts] for host in range(hosts)]
    chosen = Mesh(np.array(each).flatten(), (AXIS,), axis_types=(AxisType.Auto,))
    if hosts > 1:
        _connect(chosen)
    return chosen


def _check_count(count: int, found: list[jax.Device], hosts: int) -> None:
    if not 1 <= count <= len(found):
        cpu = found[0].platform == "cpu" and count > 1
        raise BadInput(
            f"devices={count} asked for",
            f"1 to {len(found)}: there {'is' if len(found) == 1 else 'are'} {len(found)} of kind {found[0].platform}",
            f"leave --devices out to use all{f', or set JAX_NUM_CPU_DEVICES={count} to imitate them' if cpu else ''}",
        )
    if count % hosts:
        raise BadInput(
            f"devices={count} asked for on {hosts} processes",
            f"a multiple of {hosts}: every process uses as many",
            f"use --devices {count - count % hosts or hosts}",
        )
    sizes = [sum(device.process_index == host for device in found) for host in range(hosts)]
    if min(sizes) < count // hosts:
        raise BadInput(
            f"devices={count} asked for, but the {hosts} processes have {sizes}",
            "an equal number of every process's",
            f"use --devices {min(sizes) * hosts}",
        )


def _connect(mesh: Mesh) -> None:
    """Connect the devices now.  XLA lets CPUs wait 30 s for each other at their first common operation only, and one
    process may load what another compiles for minutes: it keeps compiled programs for the first process alone."""
    meet("mesh")
    rows = feed(mesh, np.zeros((len(mesh.local_devices), 1), np.float32))
    jax.block_until_ready(jax.jit(lambda rows: rows.sum(), out_shardings=replicated(mesh))(rows))


def _devices() -> list[jax.Device]:
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the second: the plugin of that kind is not installed
        raise BadInput(
            f"no device of the asked kind: {(str(error).splitlines() or ['JAX knows none'])[0]}",
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS')!r}",
            "unset JAX_PLATFORMS, or install the JAX build of that device; see genjax doctor",
        ) from error


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The rows, axis 0, are split over the devices."""
    return NamedSharding(mesh, P(AXIS))


def state_shardings(mesh: Mesh, abstract_state: Any, fully_sharded: bool = False) -> Any:
    """Where each leaf of a state lies.

    Args:
      mesh: from `mesh`.
      abstract_state: a pytree of arrays or `jax.ShapeDtypeStruct`.
      fully_sharded: FSDP: a leaf of at least `SMALLEST_SHARDED` elements is cut along its largest axis that the
        number of devices divides (the first of equals).  Optimizer moments and moving averages have the shapes of
        their parameters, so they follow.  All else is replicated.

    Returns:
      A pytree of NamedSharding of the same structure.

    >>> leaf = jax.ShapeDtypeStruct((8, 256, 128), "float32")
    >>> tuple(state_shardings(mesh(1), leaf, fully_sharded=True).spec)
    (None, 'data', None)
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf.shape, mesh.size, fully_sharded)), abstract_state)


def _spec(shape: tuple[int, ...], devices: int, fully_sharded: bool) -> P:
    fits = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if not fully_sharded or not fits or np.prod(shape) < SMALLEST_SHARDED:
        return P()
    chosen = max(fits, key=lambda axis: shape[axis])
    return P(*(AXIS if axis == chosen else None for axis in range(len(shape))))


def place(tree: Any, shardings: Any) -> Any:
    """Arrays of the host or of other devices -> new global arrays.

    Args:
      tree: a pytree of arrays; with several processes each has the same full values.
      shardings: one sharding, or a pytree of them.

    Returns:
      The same values on the mesh: donating them later leaves the arguments alone.
    """
    if jax.process_count() == 1:
        return jax.device_put(jax.tree.map(_own, tree), shardings)
    if isinstance(shardings, NamedSharding):
        return jax.tree.map(partial(_place_global, sharding=shardings), tree)
    return jax.tree.map(_place_global, tree, shardings)


def _own(array: Any) -> Any:
    """A copy where it lies: from one device to several, `device_put` shares the buffer even when told not to.  Memory
    of NumPy may be shared: a donated array leaves it as it is."""
    return jax.device_put(array, array.sharding, may_alias=False) if isinstance(array, jax.Array) else array


def _place_global(array: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return jax.jit(lambda x: x, out_shardings=sharding)(array)
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _place_global(jax.random.key_data(array), NamedSharding(sharding.mesh, P(*sharding.spec, None)))
        return jax.jit(partial(jax.random.wrap_key_data, impl=jax.random.key_impl(array)))(data)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def feed(mesh: Mesh, tree: Any) -> Any:
    """The rows which each process has read -> global arrays whose axis 0 is split over "data".

    Args:
      mesh: from `mesh`.
      tree: a pytree of NumPy arrays: this process's rows.  Process p of P brings the p-th of P equal parts of the
        global batch.  If every process holds the whole batch, use `place(tree, batch_sharding(mesh))`.
    """
    return jax.tree.map(partial(jax.make_array_from_process_local_data, batch_sharding(mesh)), tree)


def check_batch(batch_size: int, device_count: int) -> None:
    """Refuse a batch that the devices do not divide.

    >>> check_batch(100, 8)
    Traceback (most recent call last):
    genjax.errors.BadInput: batch_size=100 does not divide among 8 devices
    a multiple of 8, such as 96 or 104
    use --batch-size 96, or --devices 5
    """
    if batch_size % device_count == 0 and batch_size > 0:
        return
    below = max(batch_size // device_count, 0) * device_count
    sizes = [size for size in (below, below + device_count) if size > 0]
    fewer = next((n for n in range(min(device_count, batch_size), 0, -1) if batch_size % n == 0), None)
    raise BadInput(
        f"batch_size={batch_size} does not divide among {device_count} devices",
        f"a multiple of {device_count}, such as {' or '.join(map(str, sizes))}",
        f"use --batch-size {sizes[0]}" + (f", or --devices {fewer}" if fewer else ""),
    )


def split_rows(batch: Any, mesh: Mesh, how: How = "jit") -> Any:
    """Inside a compiled update: the rows of a global batch that this device works on.

    Under `jit` the batch stays global [B, ...] and axis 0 is split over the devices; under `pmap` each device cuts out
    its own [B / devices, ...] rows.  Call it after whatever draws random numbers for the whole batch, so that the
    rows are the same on any number of devices.
    """
    if how == "jit":
        return lax.with_sharding_constraint(batch, batch_sharding(mesh))

    def own(rows: jax.Array) -> jax.Array:
        size = rows.shape[0] // mesh.size
        return lax.dynamic_slice_in_dim(rows, lax.axis_index(AXIS) * size, size)

    return jax.tree.map(own, batch)


def compile_update(update: Callable, mesh: Mesh, state_shardings: Any, how: How = "jit") -> Callable:
    """Compile `(state, totals, feed, key, count) -> (state, totals)` over the mesh, its state and totals donated.

    Args:
      update: traced once for each set of shapes.  `feed` is replicated or split over "data", `count` an int32.
        It splits its batch by `split_rows` with the same `how`; under `pmap` it averages gradients and metrics over
        the axis "data" and must return the same values on every device.
      mesh: from `mesh`.
      state_shardings: of the state that enters and leaves; totals are replicated.
      how: "jit", or "pmap" for one process and a replicated state.

    Returns:
      The compiled callable.  The state and the totals that enter it are gone afterwards.

    Raises:
      BadInput: `pmap` with several processes or with a fully sharded state.
    """
    if how == "pmap":
        return _compile_pmap(update, mesh, state_shardings)
    whole = replicated(mesh)
    return jax.jit(
        update,
        donate_argnums=(0, 1),
        in_shardings=(state_shardings, whole, None, whole, whole),
        out_shardings=(state_shardings, whole),
    )


def _compile_pmap(update: Callable, mesh: Mesh, state_shardings: Any) -> Callable:
    sharded = any(not sharding.is_fully_replicated for sharding in jax.tree.leaves(state_shardings))
    if sharded or jax.process_count() > 1:
        raise BadInput(
            f"parallel=pmap with {'a fully sharded state' if sharded else 'several processes'}",
            "pmap replicates the state over the devices of one process",
            "use --parallel jit",
        )

    def on_device(index: jax.Array, *arguments: Any) -> Any:
        return update(*arguments)

    # pmap wants one mapped argument; with all others replicated, its arrays are the mesh's own and nothing is stacked.
    mapped = jax.pmap(
        on_device,
        axis_name=AXIS,
        in_axes=(0, None, None, None, None, None),
        out_axes=None,
        devices=list(mesh.devices.flat),
        donate_argnums=(1, 2),
    )
    index = jax.device_put(np.arange(mesh.size, dtype=np.int32), batch_sharding(mesh))

    def call(state: Any, totals: Any, feed: Any, key: jax.Array, count: Any) -> Any:
        return mapped(index, state, totals, jax.device_put(feed, replicated(mesh)), key, count)

    return call

"""The arrays of a checkpoint: the only file that knows Orbax.

Orbax gets a flat dictionary {"0000": array, ...}, numbered by the sorted paths of the leaves: its own names of nested
trees let `a.b` and `a/b` collide.  It refuses arrays without elements, and typed keys: the first are not stored but
made anew, of the second the key data are stored.  It compresses nothing: weights would shrink by 8 %, and a save take
twice as long.
"""

import asyncio
import itertools
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

Leaves = Mapping[str, Any]  # path -> array, or its jax.ShapeDtypeStruct

PATIENCE = 3600  # seconds to wait for a slow disk of another process; a dead process ends all of them much earlier
_meetings = itertools.count()  # alike on all processes, because all make the same calls in the same order


def begin_write(directory: Path, leaves: Leaves) -> Any:
    """Start to write arrays, on all processes.  When this returns, the arrays may be donated.

    On accelerators Orbax returns when the bytes are on the host; on CPU these would be a view, so it gets a copy.

    Returns:
      What to ask for its `.result()`: nothing is complete before that returns.
    """
    ocp = _orbax()
    stored = {
        name: leaf if _on_accelerator(leaf) else jax.device_put(leaf, leaf.sharding, may_alias=False)
        for name, leaf in _numbered(_all_data(leaves)).items()
    }
    context = ocp.Context()
    context.array.saving.use_compression = False
    context.asynchronous.create_directories_asynchronously = False  # else an ending process waits minutes for them
    with context:
        return ocp.save_async(directory, stored)


def read(directory: Path, targets: Leaves) -> dict[str, jax.Array]:
    """Read arrays onto the devices that the shardings of the targets name, whatever they were saved from.

    Args:
      directory: what `begin_write` wrote.
      targets: shape, dtype and sharding of every leaf; without a sharding: the first device.
    """
    home = SingleDeviceSharding(jax.local_devices()[0])
    abstract = {
        path: jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=targets[path].sharding or home)
        for path, data in stored_form(targets).items()
    }
    arrays = _orbax().load(directory, _numbered(abstract))
    names = _names(abstract)
    return {path: _typed(arrays.get(names[path]), abstract[path], targets[path].dtype) for path in targets}


def stored_form(leaves: Leaves) -> dict[str, jax.ShapeDtypeStruct]:
    """The shape and dtype in which each leaf is stored: its own, or that of the data of a typed key."""
    return jax.eval_shape(_all_data, dict(leaves))


def read_share(directory: Path, stored: Leaves) -> dict[str, np.ndarray]:
    """Read to the host this process's share of the arrays; all processes together read each array once."""
    blank = {path: np.broadcast_to(np.zeros((), x.dtype), x.shape) for path, x in stored.items()}
    paths = [path for path in sorted(blank) if blank[path].size]
    names, mine = _names(blank), paths[jax.process_index() :: jax.process_count()] or paths[:1]
    ocp = _orbax()
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        arrays = ocp.load(directory, {names[path]: blank[path] for path in mine})
    return {path: arrays[names[path]] for path in mine}


def meet() -> None:
    """Wait until all processes are here.  Unlike JAX's own barrier it needs no device, so threads may call it."""
    if jax.process_count() > 1:
        name = f"meeting {next(_meetings)}"
        asyncio.run(_orbax().multihost.sync_global_processes("genjax", operation_id=name, timeout=PATIENCE))


def system_error(error: BaseException) -> int | None:
    """The system's number for an error, which Orbax wraps in text; None where the system reported none."""
    told = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    return number if isinstance(number, int) else None


def first_line(error: BaseException) -> str:
    """What a library said, without the pages that Orbax adds."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _names(leaves: Leaves) -> dict[str, str]:
    return {path: f"{index:04d}" for index, path in enumerate(sorted(leaves))}


def _numbered(leaves: Leaves) -> dict[str, Any]:
    return {name: leaves[path] for path, name in _names(leaves).items() if leaves[path].size}


def _all_data(leaves: Leaves) -> dict[str, jax.Array]:
    return {path: _data(leaf) for path, leaf in leaves.items()}


def _data(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _typed(data: jax.Array | None, abstract: jax.ShapeDtypeStruct, dtype: Any) -> jax.Array:
    if data is None:
        return jax.device_put(np.zeros(abstract.shape, abstract.dtype), abstract.sharding)
    for implementation in ("threefry2x32", "rbg", "unsafe_rbg"):
        if dtype == jax.eval_shape(lambda name=implementation: jax.random.key(0, impl=name)).dtype:
            return jax.random.wrap_key_data(data, impl=implementation)
    return data


def _on_accelerator(leaf: jax.Array) -> bool:
    devices: set[Any] = leaf.sharding.device_set
    return all(device.platform != "cpu" for device in devices)


def _orbax() -> Any:
    import orbax.checkpoint.experimental.v1 as ocp

    logging.getLogger("absl").addFilter(_not_from_orbax)  # adding it twice changes nothing
    return ocp


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Orbax's threads log the traceback of every error that we raise in three lines."""
    return "orbax" not in record.pathname

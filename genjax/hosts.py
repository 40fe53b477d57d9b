"""Several processes as one run: how they find each other, agree, stop together, and end when one of them fails.

JAX's own detection reads what Slurm, Open MPI, Cloud TPU, GKE and Kubernetes say about a job; explicit numbers win.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from genjax.errors import BadInput, Preempted
from genjax.roll_call import call_roll

# Seconds without a sign of life after which a peer counts as dead and the others end.  JAX's own 100 s is money on a
# large slice; below 20 s a long compilation or a slow file system on a crowded host looks like death.
HEARTBEAT = 25
# Seconds that the first process to finish waits for the others, who have all reached the same step.
SHUTDOWN = 30
FLAGS = "--coordinator HOST:PORT --processes N --process I"


class Place(NamedTuple):
    """Where this process stands among its peers."""

    coordinator: str  # host:port of process 0
    processes: int
    process: int
    devices: list[int] | None  # the local devices that are this process's; None: all


def start(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None, timeout: float = 300.0
) -> None:
    """Join the other processes of this run; nothing happens where there is only one.

    Call it before anything that touches a device.

    Args:
      coordinator: "host:port" of process 0, the port free there.  None: from the launcher, likewise the next two.
      processes: how many there are.
      process: which one this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      BadInput: peers are missing (it names them), two have one number, the port is taken, or numbers are incomplete.

    >>> start()
    >>> jax.distributed.is_initialized()
    False
    """
    if processes == 1 or jax.distributed.is_initialized():
        return
    here = _find_place(coordinator, processes, process)
    if here is None or here.processes == 1:
        return
    call_roll(here.coordinator, here.processes, here.process, timeout)
    jax.distributed.initialize(
        here.coordinator,
        here.processes,
        here.process,
        local_device_ids=here.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=60,  # all are there
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=SHUTDOWN,
    )
    meet("start")  # connections between CPUs must be made within 30 s of each other: now all are here


def meet(name: str) -> None:
    """Wait until all processes are at the meeting of this name; nothing happens where there is only one."""
    from jax.experimental.multihost_utils import sync_global_devices

    if jax.process_count() > 1:
        sync_global_devices(name)


def _find_place(coordinator: str | None, processes: int | None, process: int | None) -> Place | None:
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    *numbers, devices = _detect(coordinator, processes, process)
    if all(number is None for number in numbers):
        _refuse_unseen_launcher()
        return None
    coordinator, processes, process = numbers
    if coordinator is None or processes is None or process is None:
        raise BadInput(
            f"coordinator={coordinator}, processes={processes}, process={process}",
            "all three, or a launcher that JAX knows (Slurm's srun, Open MPI 4, Cloud TPU, GKE)",
            f"pass {FLAGS}",
        )
    if processes < 1 or not 0 <= process < processes:
        raise BadInput(f"process={process} of processes={processes}", f"0 to {processes - 1}", f"pass {FLAGS}")
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdigit():
        raise BadInput(f"coordinator={coordinator}", "host:port, such as 10.0.0.1:8476", f"pass {FLAGS}")
    return Place(coordinator, processes, process, None if "JAX_LOCAL_DEVICE_IDS" in os.environ else devices)


def _detect(coordinator: str | None, processes: int | None, process: int | None) -> tuple:
    """JAX's detection without JAX's start.  It has no public name: we need its answer before JAX acts on it."""
    from jax._src.clusters import ClusterEnv

    given = (coordinator, processes, process, None)
    if "KUBERNETES_SERVICE_HOST" in os.environ and not {"TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"} & {
        *os.environ
    }:
        if None not in given[:3] or "JOB_COMPLETION_INDEX" not in os.environ:
            return given  # all is known, or a lone pod: JAX would ask the cluster for a job, or warn that it cannot
    if os.environ.get("SLURM_NTASKS") == "1" or os.environ.get("OMPI_COMM_WORLD_SIZE") == "1":
        return given
    try:
        return ClusterEnv.auto_detect_unset_distributed_params(*given, None, 60)
    except Exception as error:
        raise BadInput(
            f"what the launcher says about this job cannot be read: {error}",
            "Slurm's srun, Open MPI 4, Cloud TPU, GKE, or explicit numbers",
            f"pass {FLAGS}; or --processes 1",
        ) from error


def _refuse_unseen_launcher() -> None:
    """Processes that do not know of each other would all train the same run."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if int(os.environ.get(name, 1)) > 1:
            raise BadInput(
                f"an MPI launcher started {os.environ[name]} processes ({name}) and says not where the first one is",
                "Open MPI 4's mpirun, Slurm's srun, or explicit numbers",
                f"pass {FLAGS}; or --processes 1",
            )


def agree(facts: Any) -> None:
    """Refuse to go on where processes differ in code or configuration; every process calls it, and all raise.

    Args:
      facts: what must be the same: a hash, or better a dictionary that JSON can hold, whose fields are then named.

    Raises:
      BadInput: names the processes that differ from most, their host, and the first fields.

    >>> agree({"learning_rate": 1e-3})
    """
    if jax.process_count() == 1:
        return
    mine = json.dumps({"host": socket.gethostname(), "facts": facts}, sort_keys=True, default=str).encode()
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).digest()
    if len(set(_gather(digest))) == 1:
        return
    everyone = [json.loads(text) for text in _gather(mine)]
    texts = [json.dumps(one["facts"], sort_keys=True) for one in everyone]
    most = texts.index(Counter(texts).most_common(1)[0][0])
    odd = [index for index, text in enumerate(texts) if text != texts[most]]
    names = _differences(everyone[odd[0]]["facts"], everyone[most]["facts"])
    raise BadInput(
        f"process {odd[0]} on {everyone[odd[0]]['host']} differs from process {most}: {'; '.join(names[:3])}"
        + (f" (also processes {odd[1:9]})" if odd[1:] else ""),
        "the same code, file and options on every host",
        "copy the same checkout to every host, and start all with the same command",
    )


def _gather(text: bytes) -> list[bytes]:
    from jax.experimental.multihost_utils import process_allgather

    sizes = process_allgather(np.int32(len(text)))
    padded = np.frombuffer(text.ljust(int(sizes.max()), b"\0"), np.uint8)
    rows = process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def _differences(there: Any, here: Any) -> list[str]:
    there, here = (facts if isinstance(facts, Mapping) else {"facts": facts} for facts in (there, here))
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    deeper = [name for name in names if isinstance(there.get(name), Mapping) and isinstance(here.get(name), Mapping)]
    inner = [f"{name}.{line}" for name in deeper for line in _differences(there[name], here[name])]
    return inner + [f"{name}={there.get(name)} against {here.get(name)}" for name in names if name not in deeper]


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals by which a training loop may be asked to stop, for which it installs handlers of its own.

    With several processes SIGTERM is not among them: JAX holds it, and tells the other processes.
    """
    return (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM)


def agree_to_stop(call: int, asked: bool) -> bool:
    """Whether to stop now: all processes answer alike, at the same call.  It costs less than a microsecond.

    Args:
      call: the number of this call, which grows by exactly one, alike on all processes, and never starts again within
        a run.  Not the step where a compiled call does several updates: the agreed number would be jumped over.
      asked: whether this process was asked to stop.

    >>> agree_to_stop(0, False), agree_to_stop(1, True)
    (False, True)
    """
    if jax.process_count() == 1:
        return asked
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    if asked:  # by another way than SIGTERM, such as Ctrl-C: pass it on as one, to JAX's handler
        os.kill(os.getpid(), signal.SIGTERM)
    return reached_preemption_sync_point(call)


def exit_all(code: int) -> NoReturn:
    """End this process such that its peers end too, and none waits for it in a collective operation.

    A run that is done or preempted ends everywhere, so the processes wait for each other.  After anything else this
    process leaves at once: an ordinary exit would wait for peers that wait for us.  They end within `HEARTBEAT`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if not jax.distributed.is_initialized():
        sys.exit(code)
    if code in (0, Preempted.exit_code):
        jax.distributed.shutdown()
        sys.exit(code)
    time.sleep(1)  # the others end with process 0: if they have failed too, let them print their own reason
    os._exit(code)

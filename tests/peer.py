"""One process of several.  Started by test_hosts.py: `python peer.py CHECK [ARGUMENT ...]`; its numbers come from the
environment, JAX_PEER = "coordinator processes process" or what a launcher would say.  Prints one line of JSON.
"""

import json
import os
import signal
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax import hosts, parallel
from genjax.errors import BadInput, GenjaxError, Preempted


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def join(timeout: float = 60.0) -> None:
    coordinator, processes, process = os.environ["JAX_PEER"].split() if "JAX_PEER" in os.environ else (None, None, None)
    hosts.start(coordinator, processes and int(processes), process and int(process), timeout)


def refused(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except BadInput as error:
        return " | ".join(error.lines)
    return ""


def joined() -> None:
    """Only who we are, and one number that every process contributed to."""
    join()
    mesh = parallel.mesh()
    rows = parallel.feed(mesh, np.full((jax.local_device_count(), 1), jax.process_index() + 1.0, np.float32))
    mean = jax.jit(jnp.mean, out_shardings=parallel.replicated(mesh))(rows)
    say(process=jax.process_index(), processes=jax.process_count(), devices=mesh.size, mean=float(mean))


def together() -> None:
    """Place, feed and train over 2 x 4 devices, replicated and fully sharded; agree and disagree."""
    import on_devices as toy

    join()
    me, mesh = jax.process_index(), parallel.mesh()
    facts: dict[str, Any] = {"order": [device.process_index for device in mesh.devices.flat]}
    facts["digests"] = []
    for fully_sharded in (False, True):
        shardings = parallel.state_shardings(mesh, jax.eval_shape(toy.toy_state), fully_sharded)
        call = parallel.compile_update(toy.toy_update(mesh, "jit"), mesh, shardings, "jit")
        state = parallel.place(toy.toy_state(), shardings)
        totals = parallel.place({"loss": np.float32(0)}, parallel.replicated(mesh))
        host = toy.toy_rows()
        half = slice(me * toy.ROWS // 2, (me + 1) * toy.ROWS // 2)
        feed = parallel.feed(mesh, {name: rows[half] for name, rows in host.items()})
        if fully_sharded:
            feed = parallel.place(host, parallel.replicated(mesh))
        state, totals = call(state, totals, feed, jax.random.key(7), np.int32(7))
        whole = parallel.place(state, parallel.replicated(mesh))
        sums = [float(jnp.sum(leaf.addressable_data(0) ** 2)) for leaf in jax.tree.leaves(whole.params)]
        facts["digests"].append(sums)
        facts[f"bytes_{fully_sharded}"] = sum(x.addressable_data(0).nbytes for x in jax.tree.leaves(state))
    key = parallel.place(jax.random.key(3), parallel.replicated(mesh))
    facts["key"] = np.asarray(jax.random.key_data(key).addressable_data(0)).tolist()
    facts["same"] = refused(hosts.agree, {"learning_rate": 1e-3, "host": {"code": "abc"}})
    facts["other"] = refused(hosts.agree, {"learning_rate": 1e-3 * (me + 1), "code": {"genjax": "abc"}})
    facts["other_hash"] = refused(hosts.agree, "abc" * (me + 1))
    facts["three"], facts["two"] = refused(parallel.mesh, 3), parallel.mesh(2).size
    facts["pmap"] = refused(parallel.compile_update, None, mesh, parallel.replicated(mesh), "pmap")
    say(**facts)
    hosts.exit_all(0)


def apart(seconds: str) -> None:
    """Process 1 compiles for longer than XLA lets CPUs wait for their first common operation."""
    join()
    mesh = parallel.mesh()
    if jax.process_index() == 1:
        time.sleep(float(seconds))
    rows = parallel.feed(mesh, np.full((jax.local_device_count(), 1), jax.process_index() + 1.0, np.float32))
    mean = jax.jit(jnp.mean, out_shardings=parallel.replicated(mesh))(rows)
    refusal = refused(hosts.agree, "same")
    say(mean=float(mean), refusal=refusal)
    hosts.exit_all(0)


def stopping(how: str) -> None:
    """Process 1 alone is asked to stop; all leave at the same call with the code of a preempted run."""
    join()
    asked = []
    for number in hosts.stop_signals():
        signal.signal(number, lambda *_: asked.append(1))
    jax.block_until_ready(parallel.place(np.zeros(8), parallel.replicated(parallel.mesh())))
    for call in range(100_000):
        time.sleep(0.002 if jax.process_index() else 0.003)
        if call == 100 and jax.process_index() == 1:
            os.kill(os.getpid(), {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}[how])
        if hosts.agree_to_stop(call, bool(asked)):
            say(stopped=call, asked=len(asked))
            hosts.exit_all(Preempted.exit_code)
    say(stopped=None)


def dying(who: str, how: str) -> None:
    """One process is killed or raises; the other works on by itself, or waits for it in a collective operation."""
    join()
    mesh = parallel.mesh()
    mean = jax.jit(jnp.mean, out_shardings=parallel.replicated(mesh))
    rows = parallel.feed(mesh, np.ones((jax.local_device_count(), 1), np.float32))
    mean(rows).block_until_ready()
    say(ready=True)
    if jax.process_index() == int(who):
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        hosts.exit_all(GenjaxError.exit_code)
    began = time.monotonic()
    while time.monotonic() < began + 120:
        time.sleep(0.1)
    say(hung=True)


def unjoined(timeout: str) -> None:
    """A start that cannot succeed."""
    try:
        join(float(timeout))
    except BadInput as error:
        say(refused=list(error.lines))
        hosts.exit_all(error.exit_code)
    say(refused=None)


if __name__ == "__main__":
    {check.__name__: check for check in (joined, together, apart, stopping, dying, unjoined)}[sys.argv[1]](
        *sys.argv[2:]
    )

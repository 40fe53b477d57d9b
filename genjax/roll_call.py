"""The roll call: every process of a run learns who is missing, before JAX starts.

JAX aborts a process with a stack trace where a peer never comes, and crashes where its port is taken.  So process 0
first listens at the coordinator's address by itself, the others report there, and all get one answer: start, or what
is wrong.  A report and an answer are one line of JSON each.  Then the port is free again, for JAX.
"""

import json
import select
import socket
import time

from genjax.errors import BadInput


def call_roll(coordinator: str, processes: int, process: int, timeout: float) -> None:
    """Return on every process when all have reported.

    Args:
      coordinator: "host:port" of process 0.
      processes: how many there are.
      process: which one this is, from 0.
      timeout: seconds to wait.

    Raises:
      BadInput: on all that did report: who is missing, who is there twice, who counts otherwise, a port that is taken.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    if process == 0:
        problem = _hear(int(port), processes, deadline)
    else:
        problem = _report((host.strip("[]"), int(port)), [process, processes, socket.gethostname()], deadline)
    if problem:
        raise BadInput(*problem)


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise BadInput(
            f"process 0 cannot listen on port {port} of {socket.gethostname()}: {error.strerror}",
            "a free port of the host of process 0",
            "end the run that holds it, or choose another by --coordinator or JAX_COORDINATOR_PORT",
        ) from error


def _hear(port: int, processes: int, deadline: float) -> list[str]:
    """Process 0: collect one report of each peer, and answer them all alike."""
    peers: dict[int, socket.socket] = {}
    problem: list[str] = []
    with _listen(port) as server:
        server.settimeout(0.5)
        while len(peers) < processes - 1 and not problem and time.monotonic() < deadline:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            problem = _admit(connection, peers, processes)
        missing = sorted(set(range(1, processes)) - peers.keys())
        if missing and not problem:
            problem = [
                f"of {processes} processes {_listed(missing)} did not come",
                f"all, at port {port} of {socket.gethostname()}, within the time",
                "look at their logs, and whether a firewall is between; then start all of them again",
            ]
        for connection in peers.values():
            _say(connection, problem)
    return problem


def _admit(connection: socket.socket, peers: dict[int, socket.socket], processes: int) -> list[str]:
    """Take one report; return what is wrong with it."""
    try:
        connection.settimeout(5)
        process, count, host = json.loads(_line(connection))["genjax"]
        if not (isinstance(process, int) and isinstance(count, int) and isinstance(host, str)):
            raise TypeError("not a report")
    except (OSError, ValueError, KeyError, TypeError):  # not one of ours
        connection.close()
        return []
    before = peers.get(process)
    peers[process] = connection
    if count != processes or not 0 < process < processes:
        return [
            f"the process on {host} is number {process} of {count}, and process 0 expects {processes}",
            f"the same --processes everywhere, and numbers 0 to {processes - 1}",
            "give every process the same --processes and its own --process",
        ]
    if before is not None and not select.select([before], [], [], 0)[0]:
        _say(before, problem := _twice(process, host))
        return problem
    return []


def _twice(process: int, host: str) -> list[str]:
    return [f"two processes are number {process}, one on {host}", "one each", "give each its own --process"]


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"{'number' if len(numbers) == 1 else 'numbers'} {shown}"


def _say(connection: socket.socket, problem: list[str]) -> None:
    try:
        connection.settimeout(5)
        connection.sendall(json.dumps({"genjax": problem}).encode() + b"\n")
        connection.recv(1)  # the peer hangs up first: the side that does keeps the port busy for a minute
    except OSError:
        pass
    connection.close()


def _report(address: tuple[str, int], report: list, deadline: float) -> list[str]:
    """Any other process: report to process 0, and wait for its answer."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=2) as connection:
                connection.sendall(json.dumps({"genjax": report}).encode() + b"\n")
                connection.settimeout(max(deadline - time.monotonic(), 0) + 10)  # process 0 knows who is missing
                return json.loads(_line(connection))["genjax"]
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.2)
    return [
        f"process 0 does not answer at {address[0]}:{address[1]}; this is process {report[0]} on {report[2]}",
        "the address of process 0, reachable from here",
        "look at the log of process 0, and whether a firewall is between; then start all of them again",
    ]


def _line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        return stream.readline(4096)

"""Several processes: who is missing, who differs, when to stop, and that nobody is left hanging.

The roll call is tested with threads; detection with the variables that launchers set; the rest, marked slow, with two
real processes of four CPU devices each on the loopback interface.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import on_devices as toy
import pytest

from genjax import hosts
from genjax.errors import BadInput
from genjax.roll_call import call_roll

HERE = Path(__file__).parent
LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "JAX_PEER", "JAX_COORDINATOR", "KUBERNETES_", "JOB_COMPLETION", "TPU_")


def free_port(low: int = 20_000, high: int = 60_000) -> int:
    for port in range(low + os.getpid() * 7 % (high - low), high):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)


# --- the roll call ---------------------------------------------------------------------------------------------------


def roll(*reports: tuple[int, int], port: int, timeout: float = 20.0) -> list[tuple[str, ...]]:
    """Call the roll in a thread for each (process, processes); what each was told, () if all is well."""
    told: list[tuple[str, ...]] = [("no answer",)] * len(reports)

    def one(index: int, process: int, processes: int) -> None:
        try:
            call_roll(f"127.0.0.1:{port}", processes, process, timeout)
            told[index] = ()
        except BadInput as error:
            told[index] = error.lines

    threads = [threading.Thread(target=one, args=(i, *report)) for i, report in enumerate(reports)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_roll_call_of_all_leaves_the_port_free():
    port = free_port()
    assert roll((3, 4), (0, 4), (2, 4), (1, 4), port=port) == [()] * 4
    socket.create_server(("", port)).close()
    assert roll((0, 2), (1, 2), port=port) == [(), ()]


def test_roll_call_names_the_missing():
    began = time.monotonic()
    told = roll((0, 5), (2, 5), port=free_port(), timeout=1.5)
    assert told[0] == told[1] and "of 5 processes numbers 1, 3, 4 did not come" in told[0][0]
    assert time.monotonic() - began < 6


def test_roll_call_names_process_0():
    (told,) = roll((3, 5), port=(port := free_port()), timeout=1)
    assert f"process 0 does not answer at 127.0.0.1:{port}; this is process 3" in told[0]


def test_roll_call_finds_one_number_twice():
    told = roll((0, 3), (1, 3), (1, 3), port=free_port(), timeout=3)
    assert all("two processes are number 1" in lines[0] for lines in told)


def test_roll_call_finds_another_count():
    told = roll((0, 2), (1, 3), port=free_port(), timeout=3)
    assert all("number 1 of 3, and process 0 expects 2" in lines[0] for lines in told)


def test_roll_call_finds_a_taken_port():
    with socket.create_server(("", port := free_port())):
        (told,) = roll((0, 2), port=port, timeout=1)
    assert f"cannot listen on port {port}" in told[0]


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"genjax": 3}\n', b"\xff" * 5000])
def test_roll_call_ignores_strangers(noise):
    port = free_port()

    def stranger() -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    return connection.sendall(noise)
            except OSError:
                time.sleep(0.01)

    thread = threading.Thread(target=stranger)
    thread.start()
    late = threading.Timer(0.3, lambda: told.extend(roll((1, 2), port=port)))
    told: list[tuple[str, ...]] = []
    late.start()
    assert roll((0, 2), port=port) == [()]
    thread.join()
    late.join()
    assert told == [()]


# --- detection -------------------------------------------------------------------------------------------------------

SLURM = {"SLURM_JOB_ID": "70000", "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
URI = "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"


@pytest.fixture
def started(monkeypatch):
    """What `start` would hand to JAX."""
    calls: list[tuple] = []
    monkeypatch.setattr(hosts, "call_roll", lambda *_: None)
    record = lambda *place, local_device_ids, **_: calls.append((*place, local_device_ids))
    monkeypatch.setattr(jax.distributed, "initialize", record)
    return calls


@pytest.mark.parametrize(
    "variables, expected",
    [
        (SLURM | {"SLURM_STEP_NODELIST": "node[007,009-12],other3"}, ("node007:61808", 4, 2, [0])),
        (SLURM | {"SLURM_STEP_NODELIST": "a1,b2"}, ("a1:61808", 4, 2, [0])),
        (SLURM | {"SLURM_STEP_NODELIST": "n1", "JAX_COORDINATOR_PORT": "1234"}, ("n1:1234", 4, 2, [0])),
        (SLURM | {"SLURM_STEP_NODELIST": "n1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, ("n1:61808", 4, 2, None)),
        (OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": URI}, ("10.96.0.1:62624", 4, 3, [1])),
    ],
)
def test_launchers_are_detected(variables, expected, started, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.start()
    assert started == [expected]


def test_explicit_numbers_win(started, monkeypatch):
    for name, value in (SLURM | {"SLURM_STEP_NODELIST": "a1"}).items():
        monkeypatch.setenv(name, value)
    hosts.start("10.0.0.9:99", 8, 7)
    assert started == [("10.0.0.9:99", 8, 7, [0])]
    hosts.start(processes=1)
    assert len(started) == 1


def test_explicit_numbers_need_no_cluster_to_ask(started, monkeypatch):
    """In a Kubernetes job JAX would warn that a package is missing, which is an error here."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    hosts.start("first:8476", 2, 1)
    assert started == [("first:8476", 2, 1, None)]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        SLURM | {"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},  # a shell of one task
        SLURM,  # in a batch script, outside srun
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_MCA_orte_hnp_uri": URI, "OMPI_COMM_WORLD_RANK": "0"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # a pod of no job
        {"PMI_SIZE": "1"},
    ],
)
def test_a_single_process_starts_nothing(variables, started, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.start()
    assert started == []


@pytest.mark.parametrize(
    "arguments, variables, complaint",
    [
        (("10.0.0.1:99", None, None), {}, "coordinator=10.0.0.1:99, processes=None, process=None"),
        ((None, 2, 0), {}, "coordinator=None, processes=2, process=0"),
        (("10.0.0.1:99", 2, 2), {}, "process=2 of processes=2"),
        (("10.0.0.1:99", 2, -1), {}, "process=-1 of processes=2"),
        (("10.0.0.1:99", 0, 0), {}, "process=0 of processes=0"),
        (("10.0.0.1", 2, 0), {}, "coordinator=10.0.0.1"),
        (("10.0.0.1:port", 2, 0), {}, "coordinator=10.0.0.1:port"),
        ((None, None, None), {"OMPI_COMM_WORLD_SIZE": "4"}, "an MPI launcher started 4 processes"),
        ((None, None, None), {"PMI_SIZE": "2"}, "an MPI launcher started 2 processes"),
        ((None, None, None), OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;nonsense"}, "cannot be read"),
        ((None, None, None), {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99"}, "processes=None"),
    ],
)
def test_numbers_that_do_not_fit(arguments, variables, complaint, started, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as refused:
        hosts.start(*arguments)
    assert complaint in refused.value.lines[0] and "--coordinator HOST:PORT" in refused.value.lines[2]
    assert started == []


def test_one_process_agrees_with_itself():
    hosts.agree({"anything": 1})
    assert [hosts.agree_to_stop(call, asked) for call, asked in enumerate((False, True))] == [False, True]
    with pytest.raises(SystemExit) as left:
        hosts.exit_all(3)
    assert left.value.code == 3


# --- two real processes ----------------------------------------------------------------------------------------------


def launch(check: str, *arguments: str, environments: list[Mapping[str, str]]) -> list[subprocess.Popen]:
    settings = {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "peer.py"), check, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(command, env=os.environ | settings | dict(own), **pipes) for own in environments]


def numbered(processes: int = 2) -> list[dict[str, str]]:
    port = free_port()
    return [{"JAX_PEER": f"127.0.0.1:{port} {processes} {process}"} for process in range(processes)]


def finish(peers: list[subprocess.Popen], timeout: float = 120.0) -> list[tuple[int, dict, str]]:
    """(exit code, the JSON it printed, its stderr) of each; none is left behind."""
    try:
        ends = [(peer, peer.communicate(timeout=timeout)) for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
    said = [[line for line in out.splitlines() if line.startswith("{")] for _, (out, _) in ends]
    return [
        (peer.returncode, json.loads(lines[-1]) if lines else {}, err)
        for (peer, (_, err)), lines in zip(ends, said, strict=True)
    ]


@pytest.mark.slow
def test_two_processes_train_as_one():
    ends = finish(launch("together", environments=numbered()))
    assert [code for code, _, _ in ends] == [0, 0], ends
    first, second = (said for _, said, _ in ends)
    assert first["order"] == [0] * 4 + [1] * 4
    truth = [float((leaf**2).sum()) for leaf in jax.tree.leaves(toy.train(1).state.params)]
    for found in (*first["digests"], *second["digests"]):
        assert found == pytest.approx(truth, rel=1e-5)
    assert first["bytes_True"] < first["bytes_False"] / 7
    assert first["key"] == second["key"] == jax.random.key_data(jax.random.key(3)).tolist()
    for said in (first, second):
        assert said["same"] == ""
        assert (
            f"process 1 on {socket.gethostname()} differs from process 0: learning_rate=0.002 against 0.001"
            in (said["other"])
        )
        assert "code" not in said["other"].split("|")[0]
        assert "facts=abcabc against abc" in said["other_hash"]
        assert "devices=3 asked for on 2 processes" in said["three"] and said["two"] == 2
        assert "pmap with several processes" in said["pmap"]


@pytest.mark.slow
def test_one_compiles_for_longer_than_the_others_wait():
    ends = finish(launch("apart", "34", environments=numbered()))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert [said for _, said, _ in ends] == [{"mean": 1.5, "refusal": ""}] * 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_one_is_asked_and_both_stop_at_the_same_call(how):
    ends = finish(launch("stopping", how, environments=numbered()))
    assert [code for code, _, _ in ends] == [75, 75], ends
    assert ends[0][1]["stopped"] == ends[1][1]["stopped"] > 100
    assert [said["asked"] for _, said, _ in ends] == [0, int(how == "SIGINT")]


@pytest.mark.slow
@pytest.mark.parametrize("who, how", [(0, "killed"), (1, "killed"), (1, "failed")])
def test_the_other_ends_with_it(who, how):
    began = time.monotonic()
    ends = finish(launch("dying", str(who), how, environments=numbered()))
    assert ends[who][0] == (-9 if how == "killed" else 1)
    other = ends[1 - who]
    assert other[0] not in (0, None) and "hung" not in other[1]
    assert time.monotonic() - began < hosts.HEARTBEAT + 30


@pytest.mark.slow
def test_slurm_starts_two():
    port = free_port(61_440, 65_536)
    common = {"SLURM_JOB_ID": str(port - 61_440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    own = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    expect_joined(finish(launch("joined", environments=[common | one for one in own])))


@pytest.mark.slow
def test_open_mpi_starts_two():
    port = free_port(61_440, 65_536)
    uri = f"{(port - 61_440) * 4096}.0;tcp://127.0.0.1:34911"
    common = {"OMPI_MCA_orte_hnp_uri": uri, "OMPI_COMM_WORLD_SIZE": "2"}
    own = [{"OMPI_COMM_WORLD_RANK": str(i), "OMPI_COMM_WORLD_LOCAL_RANK": str(i)} for i in range(2)]
    expect_joined(finish(launch("joined", environments=[common | one for one in own])))


def expect_joined(ends: list[tuple[int, dict, str]]) -> None:
    assert [code for code, _, _ in ends] == [0, 0], ends
    said = [{"process": i, "processes": 2, "devices": 8, "mean": 1.5} for i in range(2)]
    assert [facts for _, facts, _ in ends] == said


@pytest.mark.slow
def test_a_missing_peer_is_named_and_none_aborts():
    ends = finish(launch("unjoined", "4", environments=numbered(3)[:2]))
    assert [code for code, _, _ in ends] == [2, 2], ends
    assert all("of 3 processes number 2 did not come" in said["refused"][0] for _, said, _ in ends)

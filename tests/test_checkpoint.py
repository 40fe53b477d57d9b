"""The store, with real files, real kills, a real full disk: what is sealed comes back bit for bit, or not at all."""

import contextlib
import errno
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import digest
from genjax.checkpoint import Identity, lock, newest, open_store, restore, saving, seal, seals
from genjax.checkpoint import arrays as edge
from genjax.errors import BadInput, Damaged
from genjax.types import State

HERE = Path(__file__).parent
RUN = Identity("run", {"width": 8, "seed": 0}, "0.1.0", "data", "threefry2x32")


def script(name):
    """A benchmark as a module: its trials are tests, in small."""
    spec = importlib.util.spec_from_file_location(name, HERE.parent / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


trials = script("checkpoint_damage")


def small(step, width=8):
    """A state that is a function of its step."""
    kernel = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (width, 5))
    return State(jnp.int32(step), {"kernel": kernel, "bias": jnp.zeros(5)}, ({"kernel": kernel**2},))


def abstract(tree):
    """Its shapes and dtypes, on the first device."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), jax.eval_shape(lambda: tree))


def save_steps(directory, steps, scores=(), stage_index=0, stage="train", final=(), make=small, **options):
    store = open_store(directory, RUN, **options)
    for number, step in enumerate(steps):
        score = scores[number] if scores else None
        where = {"stage": stage, "stage_index": stage_index, "final": step in final}
        store.save(make(step), step=step, score=score, metrics={"loss": score}, **where)
    store.close()


def listed(directory):
    return [one.step for one in reversed(seals(directory))]


def equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    return digest.digests(left) == digest.digests(right)


def place_of(directory, step, stage_index=0):
    (found,) = (Path(directory) / "checkpoints").glob(f"{stage_index:02d}-*-{step:09d}")
    return found


# --- saving -------------------------------------------------------------------------------------------------------


def every_kind():
    bits = jax.random.bits(jax.random.key(1), (6, 4), jnp.uint32)
    carry = {
        "bool": bits > 2**30,
        "uint8": bits.astype(jnp.uint8),
        "uint32": bits,
        "int32": bits.astype(jnp.int32),
        "bfloat16": (bits % 7).astype(jnp.bfloat16),
        "float16": (bits % 7).astype(jnp.float16),
        "complex64": jax.lax.complex(jnp.float32(1), jnp.float32(-0.0)),
        "nan": jax.lax.bitcast_convert_type(jnp.array([0x7FC00001, 0x80000000], jnp.uint32), jnp.float32),
        "no rows": jnp.zeros((0, 3)),
        "key": jax.random.key(5),
        "keys": jax.random.split(jax.random.key(5, impl="rbg"), 3),
        "a.b": jnp.ones(1),
        "a/b": jnp.zeros(1),
        "a": {"b": jnp.full((1,), 2)},
        "nothing": (None, (), {}),
    }
    return State(jnp.int32(3), {}, (), carry)


def test_every_kind_of_leaf_comes_back(tmp_path):
    store = open_store(tmp_path, RUN)
    store.save(every_kind(), stage="all", stage_index=0, step=3)
    sealed = store.wait()
    store.close()
    state, found = restore(tmp_path, abstract(every_kind()))
    assert equal(state, every_kind()) and found == sealed
    kinds = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    assert kinds(state) == kinds(every_kind())
    assert {path: leaf["digest"] for path, leaf in sealed.leaves.items()} == digest.digests(every_kind())
    assert sealed.leaves["carry/a~1b"] != sealed.leaves["carry/a/b"]
    assert sealed.leaves["carry/uint8"]["shape"] == [6, 4] and sealed.leaves["carry/uint8"]["dtype"] == "uint8"


def test_leaves_that_jax_would_narrow_are_refused(tmp_path):
    store = open_store(tmp_path, RUN)
    with pytest.raises(BadInput, match="params is float64"):
        store.save(State(0, np.zeros(3)), stage="train", stage_index=0, step=0)
    store.save(State(0, np.zeros(3, np.float32)), stage="train", stage_index=0, step=0)
    assert store.wait().leaves["step"]["dtype"] == "int32"
    store.close()


def test_the_state_may_be_donated_at_once(tmp_path):
    update = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    large = lambda step: State(jnp.int32(step), jnp.full((512, 512), step, jnp.float32), jnp.arange(9.0) * step)
    store, said = open_store(tmp_path, RUN, keep=9), []
    state = large(1)
    for step in range(1, 6):
        state = jax.tree.map(lambda x, step=step: x * 0 + step, state)._replace(opt_state=jnp.arange(9.0) * step)
        store.save(state, stage="t", stage_index=0, step=step, on_saved=lambda one: said.append(one.step))
        for _ in range(3):
            state = update(state)
    store.close()
    assert said == [1, 2, 3, 4, 5]
    for step in said:
        assert equal(restore(tmp_path, abstract(large(0)), step=step)[0], large(step))


def test_the_order_of_a_commit(tmp_path, monkeypatch):
    """Saved is said after the seal, the seal follows the bytes that were read back, and deletion comes last."""
    events = []

    def watch(name, module=saving):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **more: (events.append(name), original(*given, **more))[1])

    save_steps(tmp_path, [1])
    for name in ("_read_back", "sync_tree", "write_seal", "publish", "discard"):
        watch(name)
    store = open_store(tmp_path, RUN, keep=1)
    told = lambda one: events.append(f"saved {one.step}, seals {listed(tmp_path)}")
    store.save(small(2), stage="train", stage_index=0, step=2, on_saved=told)
    store.close()
    assert events == ["_read_back", "sync_tree", "write_seal", "publish", "saved 2, seals [1, 2]", "discard"]


def test_saving_does_not_wait_and_one_save_waits_for_the_other(tmp_path, monkeypatch):
    gate, running = threading.Event(), []
    original = saving._read_back

    def slow(job, sealed):
        running.append(sealed.step)
        assert gate.wait(30)
        original(job, sealed)

    monkeypatch.setattr(saving, "_read_back", slow)
    store = open_store(tmp_path, RUN)
    store.save(small(1), stage="train", stage_index=0, step=1)
    assert listed(tmp_path) == []  # and we are here
    second = threading.Thread(target=lambda: store.save(small(2), stage="train", stage_index=0, step=2))
    second.start()
    second.join(0.3)
    assert second.is_alive() and running == [1]
    gate.set()
    second.join()
    assert store.wait().step == 2 and listed(tmp_path) == [1, 2]
    store.close()


def test_the_same_step_again_replaces(tmp_path):
    save_steps(tmp_path, [1, 2])
    save_steps(tmp_path, [2], final=[2], make=lambda step: small(step)._replace(params={"new": jnp.ones(3)}))
    state, found = restore(tmp_path, abstract(small(2)._replace(params={"new": jnp.ones(3)})))
    assert found.final and listed(tmp_path) == [1, 2] and np.array_equal(state.params["new"], np.ones(3))


def test_newest_best_and_final_are_kept(tmp_path):
    save_steps(tmp_path, range(6), scores=[float("nan"), 1.0, 3.0, float("nan"), 2.0, 5.0], keep=2)
    assert listed(tmp_path) == [1, 4, 5]
    save_steps(tmp_path, [7, 8, 9], stage_index=1, stage="next", final=[8], keep=1, better="higher", scores=[3.0, 1, 2])
    assert [(one.stage_index, one.step) for one in seals(tmp_path)] == [(1, 9), (1, 8), (1, 7), (0, 5)]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_going_back_to_an_earlier_step_sets_the_later_ones_aside(tmp_path):
    save_steps(tmp_path, [1, 2, 3])
    assert restore(tmp_path, abstract(small(0)), step=1)[1].step == 1
    save_steps(tmp_path, [2])
    assert listed(tmp_path) == [1, 2] and (tmp_path / "quarantine" / "00-train-000000003").exists()


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"best": -1}, {"better": "largest"}])
def test_numbers_that_make_no_sense(tmp_path, wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))}="):
        open_store(tmp_path, RUN, **wrong)


def test_a_run_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        open_store(tmp_path / "file", RUN)


# --- disks that fail ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tiny_disk(directory, size):
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def large(step):
    return State(jnp.int32(step), jax.random.normal(jax.random.key(step), (600_000,)))  # 2.4 MB


def test_a_full_disk_keeps_the_older_checkpoints(tmp_path, capfd):
    with tiny_disk(tmp_path / "disk", "6m") as disk:
        store = open_store(disk, RUN)
        for step in (1, 2):
            store.save(large(step), stage="train", stage_index=0, step=step)
        store.wait()
        store.save(large(3), stage="train", stage_index=0, step=3)
        with pytest.raises(Damaged, match=r"00-train-000000003 could not be saved .*No space left") as caught:
            store.save(large(4), stage="train", stage_index=0, step=4)
        assert len(caught.value.lines) == 3 and "free space" in caught.value.lines[2]
        assert sorted(path.name for path in (disk / "checkpoints").iterdir()) == [
            "00-train-000000001",
            "00-train-000000002",
        ]
        assert equal(restore(disk, abstract(large(0)))[0], large(2))
        shutil.rmtree(place_of(disk, 1))  # the user makes room
        store.save(large(5), stage="train", stage_index=0, step=5)
        assert store.wait().step == 5
        store.close()
        assert equal(restore(disk, abstract(large(0)))[0], large(5))
    assert capfd.readouterr() == ("", "")  # three lines to the user, and no traceback of a library before them


def test_a_disk_that_is_full_before_the_start(tmp_path):
    with tiny_disk(tmp_path / "disk", "1m") as disk:
        with contextlib.suppress(OSError):
            (disk / "other").write_bytes(bytes(2**21))
        with pytest.raises(BadInput, match="No space left"), lock(disk / "run"):
            open_store(disk / "run", RUN)


LIMITED = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from test_checkpoint import *
save_steps(sys.argv[1], [1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_steps(sys.argv[1], [2], make=large)
except Damaged as error:
    print("|".join(error.lines))
print(listed(sys.argv[1]), equal(restore(sys.argv[1], abstract(small(1)))[0], small(1)))
"""


def test_a_limit_on_the_size_of_files(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told, after = done.stdout.splitlines()
    assert "File too large" in told and "ulimit -f" in told and after == "[1] True"
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_disk_that_lies_is_found_out_before_the_seal(tmp_path, monkeypatch):
    """Planted: what arrives on the disk differs by one bit from what was written, and nobody reports an error."""
    honest = edge.begin_write

    def lying(directory, leaves):
        bits = jax.lax.bitcast_convert_type(leaves["params/kernel"], jnp.uint32)
        other = jax.lax.bitcast_convert_type(bits ^ (jnp.zeros_like(bits).at[3, 3].set(1)), jnp.float32)
        return honest(directory, {**leaves, "params/kernel": other})

    save_steps(tmp_path, [1])
    monkeypatch.setattr(edge, "begin_write", lying)
    store = open_store(tmp_path, RUN)
    store.save(small(2), stage="train", stage_index=0, step=2)
    with pytest.raises(Damaged, match="params/kernel did not read back as it was written"):
        store.wait()
    store.close()
    assert listed(tmp_path) == [1] and not list((tmp_path / "checkpoints").glob(".*"))


# --- damage -------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_set_aside_with_one_line(tmp_path, capfd):
    save_steps(tmp_path, [1, 2, 3])
    for path in (place_of(tmp_path, 3) / "state").rglob("manifest.ocdbt"):
        path.write_bytes(path.read_bytes()[:-5])
    state, found = restore(tmp_path, abstract(small(0)))
    out, err = capfd.readouterr()
    assert found.step == 2 and equal(state, small(2))
    assert out == "" and err.count("\n") == 1
    assert "00-train-000000003 is damaged" in err and "moved to quarantine/" in err
    assert listed(tmp_path) == [1, 2] and (tmp_path / "quarantine" / "00-train-000000003").is_dir()
    assert restore(tmp_path, abstract(small(0)))[1].step == 2  # and now in silence
    assert capfd.readouterr() == ("", "")


def damage_large_arrays(directory, count):
    """Flip one bit within the bytes of a large array, which no library checks; what restoring says of each."""
    save_steps(directory / "whole", [1, 2], make=large)
    (data,) = [
        p for p in (place_of(directory / "whole", 2) / "state").rglob("*") if p.is_file() and p.stat().st_size > 2e6
    ]
    draw, outcomes = np.random.default_rng(0), []
    for _ in range(count):
        run = Path(shutil.copytree(directory / "whole", directory / "run"))
        with open(run / data.relative_to(directory / "whole"), "r+b") as file:
            file.seek(int(draw.integers(data.stat().st_size)))
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1 << int(draw.integers(8))]))
        state, found = restore(run, abstract(large(0)), tell=lambda line: None)
        outcomes.append(found.step if equal(state, large(found.step)) else "WRONG")
        shutil.rmtree(run)
    return outcomes


def test_a_flipped_bit_within_an_array(tmp_path):
    assert damage_large_arrays(tmp_path, 8) == [1] * 8


def test_planted_bug_restoring_without_digests(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "text", lambda lane, shape, dtype: "")
    monkeypatch.setattr(sys.modules[__name__], "equal", lambda a, b: np.array_equal(a.params, b.params))
    assert "WRONG" in damage_large_arrays(tmp_path, 8)


@pytest.mark.parametrize("kind", trials.DAMAGES, ids=lambda kind: kind.__name__)
def test_no_damage_of_any_file_gives_wrong_bits(tmp_path, kind):
    """Each file of the newest checkpoint in turn: either all bits are right, or the checkpoint before is used."""
    whole, draw = trials.make_run(tmp_path / "whole", (3, 6)), trials.random.Random(0)
    newer = place_of(whole, 6)
    for path in sorted(path.relative_to(whole) for path in newer.rglob("*") if path.is_file()):
        run, told = Path(shutil.copytree(whole, tmp_path / "run")), []
        kind(run / path, draw, place_of(run, 3) / (run / path).relative_to(place_of(run, 6)))
        state, found = restore(run, jax.eval_shape(trials.start), tell=told.append)
        assert trials.same(state, trials.truth(found.step))
        assert (found.step, len(told)) in ((6, 0), (3, 1))
        shutil.rmtree(run)


def test_when_all_are_damaged_it_stops_with_the_list(tmp_path):
    save_steps(tmp_path, [1, 2])
    (place_of(tmp_path, 1) / "SEAL.json").unlink()
    (place_of(tmp_path, 2) / "SEAL.json").write_text("{}")
    with pytest.raises(Damaged, match=r"00-train-000000002: .*00-train-000000001: "):
        newest(tmp_path)
    told = []
    with pytest.raises(Damaged) as caught:
        restore(tmp_path, abstract(small(0)), tell=told.append)
    assert "00-train-000000002: SEAL.json is damaged; 00-train-000000001: SEAL.json is missing" in caught.value.lines[0]
    assert len(told) == 2
    with pytest.raises(Damaged, match="quarantine/00-train-000000001"):  # never from zero, the next time neither
        restore(tmp_path, abstract(small(0)))


def test_an_empty_run_is_no_error(tmp_path):
    assert restore(tmp_path, abstract(small(0))) is None
    open_store(tmp_path, RUN).close()
    assert restore(tmp_path, abstract(small(0))) is None and newest(tmp_path) is None


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.EMFILE, "Too many open files"), ValueError("RESOURCE_EXHAUSTED: memory")]
)
def test_what_is_not_the_fault_of_the_checkpoint_leaves_it_alone(tmp_path, monkeypatch, error):
    save_steps(tmp_path, [1, 2])

    def fail(*_):
        raise error

    monkeypatch.setattr(edge, "read", fail)
    with pytest.raises(Damaged, match="00-train-000000002 cannot be read") as caught:
        restore(tmp_path, abstract(small(0)))
    assert "left where it is" in caught.value.lines[1] and listed(tmp_path) == [1, 2]


def test_a_checkpoint_that_its_writer_deletes_meanwhile(tmp_path, monkeypatch):
    save_steps(tmp_path, [1])
    honest = edge.read

    def too_late(directory, targets):
        if listed(tmp_path) == [1]:
            save_steps(tmp_path, [2], keep=1)
        return honest(directory, targets)

    monkeypatch.setattr(edge, "read", too_late)
    state, found = restore(tmp_path, abstract(small(0)), tell=pytest.fail)
    assert found.step == 2 and equal(state, small(2)) and not (tmp_path / "quarantine").exists()


# --- structure, steps, formats ------------------------------------------------------------------------------------


def test_another_structure_is_the_users_change(tmp_path):
    save_steps(tmp_path, [1, 2])
    with pytest.raises(BadInput) as caught:
        restore(tmp_path, abstract(small(0, width=9)), config={"width": 9, "seed": 0})
    assert "params/kernel float32[8,5] -> float32[9,5]" in caught.value.lines[0]
    assert caught.value.lines[1] == "configuration: width 8 -> 9"
    assert listed(tmp_path) == [1, 2] and not (tmp_path / "quarantine").exists()


def test_at_most_ten_leaves_are_named(tmp_path):
    save_steps(tmp_path, [1])
    wide = small(0)._replace(carry={f"x{n}": jnp.zeros(n) for n in range(30)})
    with pytest.raises(BadInput) as caught:
        restore(tmp_path, abstract(wide))
    assert caught.value.lines[0].count("->") == 1 + 10 and "and 20 more" in caught.value.lines[0]
    assert "carry/x0 absent -> float32[0]" in caught.value.lines[0]
    assert "no field of the configuration differs" in caught.value.lines[1]


def test_a_dtype_is_never_cast(tmp_path):
    save_steps(tmp_path, [1])
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, small(0))
    with pytest.raises(BadInput, match=r"params/bias float32\[5\] -> bfloat16\[5\]"):
        restore(tmp_path, abstract(half))


def test_a_step_that_is_not_kept(tmp_path):
    save_steps(tmp_path, [1, 2, 3, 4], keep=2)
    with pytest.raises(BadInput, match=r"step 2 of .* is not kept") as caught:
        restore(tmp_path, abstract(small(0)), step=2)
    assert caught.value.lines[1] == "kept: 3, 4"
    assert restore(tmp_path, abstract(small(0)), step=3)[1].step == 3
    (place_of(tmp_path, 3) / "SEAL.json").unlink()
    with pytest.raises(Damaged, match="asked checkpoint is damaged"):  # and no other one in its place
        restore(tmp_path, abstract(small(0)), step=3, tell=lambda line: None)


def test_a_newer_format_stops(tmp_path):
    save_steps(tmp_path, [1, 2])
    path = place_of(tmp_path, 2)
    seal.write_seal(path, seal.read_seal(path)._replace(version=seal.VERSION + 1))
    with pytest.raises(BadInput, match="format 2"):
        restore(tmp_path, abstract(small(0)))
    assert path.exists()


def test_one_stage_at_a_time(tmp_path):
    save_steps(tmp_path, [5], final=[5])
    save_steps(tmp_path, [1], stage_index=1, stage="next")
    assert restore(tmp_path, abstract(small(0)))[1].stage == "next"
    assert restore(tmp_path, abstract(small(0)), stage_index=0)[1].step == 5
    (place_of(tmp_path, 1, stage_index=1) / "SEAL.json").unlink()
    assert restore(tmp_path, abstract(small(0)), stage_index=1, tell=lambda line: None) is None
    assert newest(tmp_path).stage_index == 0


# --- devices and processes ----------------------------------------------------------------------------------------

ELSEWHERE = """
import json, os, sys
sys.path.insert(0, sys.argv[3])
import jax
if "PEER" in os.environ:
    jax.distributed.initialize(os.environ["COORDINATOR"], 2, int(os.environ["PEER"]))
from test_checkpoint import *
from genjax import parallel
mesh = parallel.mesh()
tree = State(jnp.int32(4), {"w": jnp.arange(512 * 64.0).reshape(512, 64), "b": jnp.ones(7), "e": jnp.zeros((0, 2))})
sharded = parallel.state_shardings(mesh, jax.eval_shape(lambda: tree), True)
target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, sharded)
if sys.argv[1] == "save":
    with lock(sys.argv[2]):
        store = open_store(sys.argv[2], RUN, keep=1)
        state = parallel.place(tree, sharded)
        for step in (3, 4):
            store.save(state, stage="train", stage_index=0, step=step, final=step == 4)
        store.close()
state, found = restore(sys.argv[2], target)
print(json.dumps([len(state.params["w"].sharding.device_set), found.step, digest.digests(state)]))
"""


def elsewhere(what, directory, devices, **environment):
    flags = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", **environment}
    command = [sys.executable, "-c", ELSEWHERE, what, str(directory), str(HERE)]
    return subprocess.Popen(command, env=flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def here():
    return State(jnp.int32(4), {"w": jnp.arange(512 * 64.0).reshape(512, 64), "b": jnp.ones(7), "e": jnp.zeros((0, 2))})


def test_four_devices_take_up_what_one_has_saved(tmp_path):
    save_steps(tmp_path, [4], make=lambda step: here())
    devices, step, digests = answer(elsewhere("restore", tmp_path, 4))
    assert (devices, step) == (4, 4) and digests == digest.digests(here())


def test_one_device_takes_up_what_four_have_saved(tmp_path):
    devices, _, digests = answer(elsewhere("save", tmp_path, 4))
    state, found = restore(tmp_path, abstract(here()))
    assert devices == 4 and equal(state, here()) and digests == digest.digests(here())
    assert len(state.params["w"].sharding.device_set) == 1 and found.final


@pytest.mark.slow
def test_two_processes_save_together(tmp_path):
    with socket.create_server(("localhost", 0)) as free:
        coordinator = f"localhost:{free.getsockname()[1]}"
    peers = [elsewhere("save", tmp_path, 4, COORDINATOR=coordinator, PEER=str(peer)) for peer in range(2)]
    try:
        answers = [answer(peer) for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
    assert answers == [[8, 4, digest.digests(here())]] * 2
    assert equal(restore(tmp_path, abstract(here()))[0], here()) and listed(tmp_path) == [4]


# --- kills --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_killed_at_any_moment_loses_nothing_that_was_saved(tmp_path):
    counts = trials.kill_trials(12, seed=1, directory=tmp_path / "run")
    assert counts["kills"] == 12
    for trouble in ("unreadable", "wrong content", "reported as saved and lost", "lost beyond one interval"):
        assert counts[trouble] == 0, counts


@pytest.mark.slow
def test_random_damages(tmp_path):
    counts = trials.damage_trials(120, seed=1, directory=tmp_path)
    assert sum(counts[outcome] for outcome in trials.OUTCOMES) == 120
    assert sum(counts[outcome] for outcome in trials.OUTCOMES[:3]) == 120, counts

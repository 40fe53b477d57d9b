"""The store: what is sealed comes back bit for bit, on any number of devices; what is kept, and what is refused."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_states import RUN, abstract, equal, large, listed, place_of, save_steps, small

from genjax import digest
from genjax.checkpoint import open_store, restore, saving, seal, seals
from genjax.errors import BadInput, Damaged
from genjax.types import State

HERE = Path(__file__).parent


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


FORGETFUL = """
import sys
sys.path.insert(0, sys.argv[2])
from saved_states import *
store = open_store(sys.argv[1], RUN)
store.save(large(2), stage="train", stage_index=0, step=2)
raise SystemExit(3)
"""


def test_a_process_that_ends_without_close_saves_or_says_that_it_cannot(tmp_path):
    command = [sys.executable, "-c", FORGETFUL, str(tmp_path), str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    open_store(tmp_path, RUN).close()
    if listed(tmp_path):
        assert done.stderr == "" and equal(restore(tmp_path, abstract(large(0)))[0], large(2))
    else:
        assert sys.version_info >= (3, 12) and "call close() before the process ends" in done.stderr
    assert not list((tmp_path / "checkpoints").glob(".*"))


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
    assert [one.stage_index for one in seals(tmp_path)] == [0]


# --- devices and processes ----------------------------------------------------------------------------------------

ELSEWHERE = """
import json, os, sys
sys.path.insert(0, sys.argv[3])
import jax
if "PEER" in os.environ:
    jax.distributed.initialize(os.environ["COORDINATOR"], 2, int(os.environ["PEER"]))
from genjax import parallel
from genjax.checkpoint import lock, restore
from saved_states import *
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

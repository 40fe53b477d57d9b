"""Locks, seals, and what is kept of a run's checkpoints: everything that needs no arrays."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genjax.checkpoint import Identity, config_hash, lock, places, seal, seals
from genjax.checkpoint.lock import unless_locked
from genjax.directory import _check_same
from genjax.errors import BadInput, Damaged

RUN = Identity("run", {"width": 200, "data": {"name": "digits"}}, "0.1.0", "data", "threefry2x32")
LEAVES = {"params/w": {"shape": [2, 3], "dtype": "float32", "digest": "0" * 32}}


def sealed(step=7, stage_index=0, stage="vae", score=None, final=False, **metrics):
    where = {"stage": stage, "stage_index": stage_index, "step": step, "final": final}
    return seal.make_seal(RUN, metrics, score, leaves=LEAVES, **where)


def put(root: Path, one, prefix=""):
    directory = root / "checkpoints" / (prefix + seal.place(one))
    directory.mkdir(parents=True)
    seal.write_seal(directory, one)
    return directory


# --- the lock -----------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from genjax.checkpoint import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def refusal(directory):
    begin = time.monotonic()
    with pytest.raises(BadInput) as caught, lock(directory):
        pass
    assert time.monotonic() - begin < 2
    return caught.value.lines


def test_a_second_writer_of_the_same_process_is_refused(tmp_path):
    with lock(tmp_path / "run"):
        lines = refusal(tmp_path / "run")
    assert f"in use by process {os.getpid()} on {socket.gethostname()}, started 2" in lines[0]
    assert len(lines) == 3
    with lock(tmp_path / "run"):  # free again
        pass


def test_another_process_is_refused_until_the_holder_dies(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert f"process {holder.pid} on {socket.gethostname()}" in refusal(tmp_path)[0]
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with lock(tmp_path):  # the text of the dead holder still stands there
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()


def test_a_holder_that_has_not_written_its_name_yet(tmp_path, monkeypatch):
    with lock(tmp_path):
        os.truncate(tmp_path / "LOCK", 0)
        assert "another process" in refusal(tmp_path)[0]


def test_a_reader_may_move_things_unless_another_process_writes(tmp_path):
    with unless_locked(tmp_path) as hindrance:
        assert hindrance is None
        assert "in use by" in refusal(tmp_path)[0]  # nobody begins meanwhile
    with lock(tmp_path), unless_locked(tmp_path) as hindrance:
        assert hindrance is None  # the writer itself
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with unless_locked(tmp_path) as hindrance:
            assert f"process {holder.pid} on {socket.gethostname()}" in hindrance
    finally:
        holder.kill()
        holder.communicate()
    with unless_locked(tmp_path) as hindrance:
        assert hindrance is None
    with unless_locked(tmp_path / "nowhere") as hindrance:
        assert "No such file" in hindrance


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_directories_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written") as caught, lock(tmp_path / place):
        pass
    assert len(caught.value.lines) == 3


# --- the seal -----------------------------------------------------------------------------------------------------


def test_a_seal_is_read_as_it_was_made(tmp_path):
    one = sealed(score=0.25, final=True, loss=1.5, accuracy=float("nan"), rate=float("inf"))
    assert one.metrics == {"loss": 1.5, "accuracy": None, "rate": None}
    assert (one.config_hash, one.version) == (config_hash(RUN.config), 1)
    assert seal.read_seal(put(tmp_path, one)) == one
    assert seals(tmp_path) == [one]
    body = json.loads((tmp_path / "checkpoints" / "00-vae-000000007" / "SEAL.json").read_text())
    assert (body["step"], body["stage"], body["leaves"]) == (7, "vae", LEAVES)


def verdict(directory: Path, one) -> str:
    try:
        return "same" if seal.read_seal(directory) == one else "WRONG"
    except ValueError:
        return "refused"
    except BadInput:
        return "newer"
    except TypeError:
        return "crash"


def damaged_verdicts(tmp_path, one):
    """What reading says of a seal with one flipped bit, for each byte, and of each cut."""
    directory = put(tmp_path, one)
    whole = (directory / "SEAL.json").read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 7
        for content in (flipped, whole[:position]):
            (directory / "SEAL.json").write_bytes(content)
            yield verdict(directory, one)


def test_no_damage_of_a_seal_is_believed(tmp_path):
    found = list(damaged_verdicts(tmp_path, sealed(score=0.5, loss=2.0)))
    assert len(found) > 1000 and set(found) <= {"refused", "same"}  # the same: blanks changed


def test_planted_bug_a_seal_without_its_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(seal, "_digest", lambda body: "constant")
    assert "WRONG" in set(damaged_verdicts(tmp_path, sealed(score=0.5, loss=2.0)))


def test_a_seal_of_another_directory_is_refused(tmp_path):
    directory = put(tmp_path, sealed(step=7))
    directory.rename(directory.with_name("00-vae-000000009"))
    with pytest.raises(seal.Broken, match="that of 00-vae-000000007"):
        seal.read_seal(directory.with_name("00-vae-000000009"))
    assert seals(tmp_path) == []


def test_a_newer_format_is_not_damage(tmp_path):
    put(tmp_path, sealed()._replace(version=2))
    with pytest.raises(BadInput, match="format 2") as caught:
        seals(tmp_path)
    assert "up to 1" in caught.value.lines[1]


@pytest.mark.parametrize("name", ["a/b", "", ".hidden", "..", "x" * 101, "ä"])
def test_stage_names_that_are_no_file_names(name):
    with pytest.raises(BadInput, match="stage name"):
        sealed(stage=name)


def test_names_sort_by_stage_and_step(tmp_path):
    for stage_index, step in ((0, 900), (1, 5), (0, 1_000_000_000), (1, 40)):
        put(tmp_path, sealed(step=step, stage_index=stage_index))
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert [(one.stage_index, one.step) for one in seals(tmp_path)] == [(1, 40), (1, 5), (0, 10**9), (0, 900)]


def whole_files(tmp_path):
    """Files as they were sealed: a small one, and one whose content is compared only where it matters."""
    (tmp_path / "state" / "d").mkdir(parents=True)
    (tmp_path / "state" / "manifest").write_bytes(b"small")
    (tmp_path / "state" / "d" / "large").write_bytes(bytes(seal.SMALL + 1))
    return tmp_path / "state", sealed()._replace(files=seal.inventory(tmp_path / "state"))


CHANGES = {
    "a small file is another": (lambda state: (state / "manifest").write_bytes(b"smalk"), "manifest is another file"),
    "a small file is cut": (lambda state: (state / "manifest").write_bytes(b"smal"), "manifest is another file"),
    "a large file is cut": (lambda state: (state / "d" / "large").write_bytes(bytes(seal.SMALL)), "large is another"),
    "a file is gone": (lambda state: (state / "manifest").unlink(), "manifest is missing"),
    "all are gone": (shutil.rmtree, "is missing"),
    "a file is a directory": (
        lambda state: ((state / "manifest").unlink(), (state / "manifest").mkdir()), "manifest is another"
    ),
    "a directory is a file": (
        lambda state: (shutil.rmtree(state / "d"), (state / "d").write_bytes(b"")), "large is missing"
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_are_not_those_that_were_sealed(tmp_path, change):
    state, one = whole_files(tmp_path)
    seal.check_files(state, one)
    seal.check_files(state, one, whole=True)
    CHANGES[change][0](state)
    for whole in (False, True):
        with pytest.raises(seal.Broken, match=CHANGES[change][1]):
            seal.check_files(state, one, whole)


def test_the_content_of_large_files_is_compared_when_asked_for(tmp_path):
    state, one = whole_files(tmp_path)
    (state / "d" / "large").write_bytes(bytes(seal.SMALL) + b"\1")
    seal.check_files(state, one)  # restoring compares the digests of what is in it
    with pytest.raises(seal.Broken, match="large is another"):
        seal.check_files(state, one, whole=True)


def test_a_file_system_that_does_not_answer_is_not_damage(tmp_path, monkeypatch):
    state, one = whole_files(tmp_path)

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Stale"):
        patch.setattr(os, "stat", stale)
        seal.check_files(state, one)


# --- another configuration ----------------------------------------------------------------------------------------


def test_a_changed_configuration_is_refused_field_by_field():
    old = {"seed": 0, "sizes": (1, 2), "rate": 1.0, "nan": float("nan"), "data": {"name": "digits", "levels": 17}}
    _check_same(old, {**old, "sizes": [1, 2], "rate": 1, "nan": float("nan")}, ())
    new = {**old, "seed": 1, "data": {"name": "mnist", "levels": 17}, "extra": True}
    with pytest.raises(BadInput) as caught:
        _check_same(old, new, ())
    assert "data.name digits -> mnist; extra (absent) -> True; seed 0 -> 1" in caught.value.lines[0]
    with pytest.raises(BadInput) as caught:
        _check_same(old, new, ["seed", "data"])
    assert caught.value.lines[0].endswith(": extra (absent) -> True")
    _check_same(old, new, ["seed", "data", "extra"])


# --- what is kept -------------------------------------------------------------------------------------------------


def steps_kept(keeper, scores, keep=2, best=1, better="lower", final=()):
    found = [sealed(step=step, score=score, final=step in final) for step, score in enumerate(scores)][::-1]
    return [step for step, one in enumerate(found[::-1]) if seal.place(one) in keeper(found, keep, best, better)]


def check_kept(keeper):
    """The newest k, the best m, and NaN is never the best."""
    nan = float("nan")
    assert steps_kept(keeper, [3.0, 1.0, 2.0, 4.0, 5.0]) == [1, 3, 4]
    assert steps_kept(keeper, [3.0, 1.0, 2.0, 4.0, 5.0], better="higher", keep=1, best=2) == [3, 4]
    assert steps_kept(keeper, [nan, 2.0, 3.0, 4.0]) == [1, 2, 3]
    assert steps_kept(keeper, [nan, 2.0, 3.0, 4.0], better="higher", keep=1, best=2) == [2, 3]
    assert steps_kept(keeper, [None, 0.0, None, None]) == [1, 2, 3]
    assert steps_kept(keeper, [-1.0, 0.0, 3.0, None]) == [0, 2, 3]
    assert steps_kept(keeper, [1.0, 2.0, 3.0, 4.0], best=0) == [2, 3]
    assert steps_kept(keeper, [1.0, 2.0, 3.0, 4.0, 5.0], keep=1, final=[2]) == [0, 2, 4]


def nan_is_best(found, keep, best, better):
    scored = sorted(found, key=lambda one: -1e9 if one.score is None else one.score * (1 if better == "lower" else -1))
    return {seal.place(one) for one in [*found[:keep], *scored[:best], *(one for one in found if one.final)]}


def zero_is_no_score(found, keep, best, better):
    return places.kept([one._replace(score=one.score or None) for one in found], keep, best, better)


def oldest_are_kept(found, keep, best, better):
    return places.kept(found[::-1], keep, best, better)


def finals_are_deleted(found, keep, best, better):
    return places.kept([one._replace(final=False) for one in found], keep, best, better)


def always_lower(found, keep, best, better):
    return places.kept(found, keep, best, "lower")


def test_kept():
    check_kept(places.kept)


@pytest.mark.parametrize("mutant", [nan_is_best, zero_is_no_score, oldest_are_kept, finals_are_deleted, always_lower])
def test_planted_bugs_in_keeping(mutant):
    with pytest.raises(AssertionError):
        check_kept(mutant)


def test_the_best_of_each_stage_is_kept():
    found = [sealed(step=n, stage_index=s, score=float(x)) for s, n, x in ((1, 2, 9), (1, 1, 8), (0, 3, 5), (0, 2, 1))]
    assert places.kept(found, 1, 1, "lower") == {seal.place(found[i]) for i in (0, 1, 3)}


# --- what a killed process leaves ---------------------------------------------------------------------------------


def test_tidy_names_what_was_sealed_and_removes_the_rest(tmp_path):
    put(tmp_path, sealed(step=1))
    put(tmp_path, sealed(step=2), prefix=".tmp-")
    half = put(tmp_path, sealed(step=3), prefix=".tmp-")
    (half / "SEAL.json").write_text((half / "SEAL.json").read_text()[:-9])
    put(tmp_path, sealed(step=4), prefix=".trash-")
    places.tidy(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "00-vae-000000001",
        "00-vae-000000002",
    ]
    assert seals(tmp_path)[0].step == 2


def test_a_deletion_that_was_interrupted_is_not_listed(tmp_path, monkeypatch):
    directory = put(tmp_path, sealed(step=1))
    put(tmp_path, sealed(step=2))

    def interrupted(path, **_):
        next(path.rglob("SEAL.json"))  # all of it is still there
        raise KeyboardInterrupt

    monkeypatch.setattr(places.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        places.discard(directory)
    assert [one.step for one in seals(tmp_path)] == [2]


def test_setting_aside_twice_keeps_both(tmp_path):
    for text in ("first", "second"):
        directory = put(tmp_path, sealed(step=1))
        (directory / "note").write_text(text)
        places.set_aside(directory)
    notes = sorted(path.read_text() for path in (tmp_path / "quarantine").rglob("note"))
    assert notes == ["first", "second"] and seals(tmp_path) == []


def test_every_file_and_name_reaches_the_disk(tmp_path, monkeypatch):
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    places.sync_tree(tmp_path)
    assert sorted(synced) == sorted(map(str, [tmp_path, *tmp_path.rglob("*")]))
    assert synced[-1] == str(tmp_path)  # names after what they name
    assert (
        synced.index(str(tmp_path / "a/b/c")) < synced.index(str(tmp_path / "a/b")) < synced.index(str(tmp_path / "a"))
    )


def test_a_run_of_ruins_is_no_new_run(tmp_path):
    places.refuse_ruins(tmp_path, [])
    places.set_aside(put(tmp_path, sealed(step=1)))
    with pytest.raises(Damaged, match="quarantine/00-vae-000000001"):
        places.refuse_ruins(tmp_path, [])

"""Full disks, damaged files, killed processes, for real: what is sealed comes back bit for bit, or not at all."""

import asyncio
import concurrent.futures
import contextlib
import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_states import RUN, abstract, equal, large, listed, place_of, save_steps, small

from genjax import digest
from genjax.checkpoint import Ruined, lock, open_store, restore, restoring
from genjax.checkpoint import arrays as edge
from genjax.errors import BadInput, Damaged

HERE = Path(__file__).parent


def script(name):
    """A benchmark as a module: its trials are tests, in small."""
    spec = importlib.util.spec_from_file_location(name, HERE.parent / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


trials = script("checkpoint_damage")


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
from genjax.checkpoint import restore
from genjax.errors import Damaged
from saved_states import *
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
    assert restore(tmp_path, abstract(small(0))) is None


INNOCENT = (
    *(MemoryError(), TypeError("load() got an unexpected keyword"), AttributeError("no attribute load")),
    *(ImportError("cannot import name"), NotImplementedError(), RuntimeError("version 3 is not known"), KeyError("a")),
    *(ValueError("RESOURCE_EXHAUSTED: memory"), ValueError("UNAVAILABLE: try again"), UnicodeError("utf-8")),
    *(asyncio.CancelledError(), concurrent.futures.CancelledError(), TimeoutError()),
    *(OSError(number, os.strerror(number)) for number in (errno.EMFILE, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT)),
    *(OSError(number, os.strerror(number)) for number in (errno.EINTR, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)),
    ValueError("UNKNOWN: Error reading file [os_error_code='116']"),  # ESTALE, as Orbax wraps it
    OSError("no number"),
)
GUILTY = (
    OSError(errno.EIO, "Input/output error"),
    ValueError("UNKNOWN: Error reading file [os_error_code='5']"),
)
name_of = lambda error: f"{type(error).__name__}-{getattr(error, 'errno', None)}-{str(error)[:12]}"


def failing_for(step, error):
    """A reader that raises for one step, and reads the others."""

    def read(directory, targets, honest=edge.read):
        if directory.parent.name.endswith(f"{step:09d}"):
            raise error
        return honest(directory, targets)

    return read


@pytest.fixture(scope="module")
def sealed_twice(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sealed")
    save_steps(directory, [1, 2])
    return directory


@pytest.fixture
def run(sealed_twice, tmp_path):
    return Path(shutil.copytree(sealed_twice, tmp_path / "run"))


@pytest.mark.parametrize("error", INNOCENT, ids=name_of)
def test_what_is_not_the_fault_of_the_checkpoint_leaves_it_alone(run, monkeypatch, error):
    monkeypatch.setattr(edge, "read", failing_for(2, error))
    with pytest.raises(Damaged, match=r"00-train-000000002 cannot be read") as caught:
        restore(run, abstract(small(0)), tell=pytest.fail)
    assert type(error).__name__ in caught.value.lines[0] and "left where it is" in caught.value.lines[1]
    assert "as they were sealed;" in caught.value.lines[1]
    assert listed(run) == [1, 2] and not (run / "quarantine").exists()
    monkeypatch.undo()
    assert restore(run, abstract(small(0)), tell=pytest.fail)[1].step == 2


@pytest.mark.parametrize("error", GUILTY, ids=name_of)
def test_a_disk_that_cannot_read_is_damage(run, monkeypatch, error):
    monkeypatch.setattr(edge, "read", failing_for(2, error))
    assert restore(run, abstract(small(0)), tell=lambda line: None)[1].step == 1
    assert listed(run) == [1] and (run / "quarantine" / "00-train-000000002").is_dir()


@pytest.mark.parametrize("error", [TypeError("whatever is raised"), OSError(errno.ESTALE, "Stale file handle")])
def test_any_error_over_bytes_that_differ_is_damage(tmp_path, monkeypatch, error):
    """One bit within a large file, which only a comparison of its content finds."""
    save_steps(tmp_path, [1, 2], make=large)
    (data,) = [p for p in (place_of(tmp_path, 2) / "state").rglob("*") if p.is_file() and p.stat().st_size > 2e6]
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    monkeypatch.setattr(edge, "read", failing_for(2, error))
    told = []
    assert restore(tmp_path, abstract(large(0)), tell=told.append)[1].step == 1
    assert "is another file than was sealed" in told[0] and listed(tmp_path) == [1]


def test_planted_bug_every_unknown_error_is_damage(run, monkeypatch):
    monkeypatch.setattr(restoring, "_against_the_bytes", lambda error: True)
    with pytest.raises(pytest.fail.Exception):
        test_what_is_not_the_fault_of_the_checkpoint_leaves_it_alone(run, monkeypatch, TypeError("an API changed"))


def test_files_that_cannot_be_looked_at_are_left_alone(run, monkeypatch):
    def unanswered(*_, **__):
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(restoring, "check_files", unanswered)
    with pytest.raises(Damaged, match="cannot be read") as caught:
        restore(run, abstract(small(0)), tell=pytest.fail)
    assert "cannot be told: " in caught.value.lines[1] and "timed out; it was left" in caught.value.lines[1]
    assert listed(run) == [1, 2]


HOLD = """
import sys, time
from genjax.checkpoint import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_reader_moves_nothing_while_another_process_writes(run, monkeypatch):
    """It tells, and takes the checkpoint before; who holds the lock, or comes when nobody does, sets it aside."""
    (place_of(run, 2) / "SEAL.json").write_text("{}")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        told = []
        assert restore(run, abstract(small(0)), tell=told.append)[1].step == 1
        assert len(told) == 1 and f"left where it is: process {holder.pid} on " in told[0]
        with pytest.raises(Ruined) as caught:
            restore(run, abstract(small(0)), step=2, tell=told.append)
        assert caught.value.lines[1].startswith("it was left where it is: process ")
        (place_of(run, 1) / "SEAL.json").write_text("{}")
        with pytest.raises(Damaged, match=r"no checkpoint .*000000002: .*000000001: "):  # not: there is none
            restore(run, abstract(small(0)), tell=told.append)
        assert place_of(run, 1).is_dir() and place_of(run, 2).is_dir() and not (run / "quarantine").exists()
    finally:
        holder.kill()
        holder.communicate()
    with lock(run), pytest.raises(Damaged, match="no checkpoint"):
        restore(run, abstract(small(0)), tell=told.append)
    assert sorted(path.name[-1] for path in (run / "quarantine").iterdir()) == ["1", "2"]


def test_a_checkpoint_that_cannot_be_moved_is_not_forgotten(run, monkeypatch):
    def refused(path):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(restoring, "set_aside", refused)
    for step in (1, 2):
        (place_of(run, step) / "SEAL.json").unlink()
    told = []
    with pytest.raises(Damaged, match="no checkpoint"):
        restore(run, abstract(small(0)), tell=told.append)
    assert all("left where it is: Read-only file system" in line for line in told) and len(told) == 2


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


# --- kills --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_killed_at_any_moment_loses_nothing_that_was_saved(tmp_path):
    counts = trials.kill_trials(12, seed=1, directory=tmp_path / "run")
    assert counts["kills"] == 12
    for trouble in ("unreadable", "wrong content", "reported as saved and lost", "lost beyond one interval"):
        assert counts[trouble] == 0, counts


def test_the_judge_of_kills_finds_planted_bugs(tmp_path):
    """What a bad store would leave: a state under another step's name, less than was reported, nothing readable."""
    judge = lambda saved, begun: +trials._after_kill(tmp_path, jax.eval_shape(trials.start), saved, begun)
    trials.make_run(tmp_path, (3, 6))
    assert judge(6, 6) == judge(3, 9) == {}
    assert judge(9, 9) == {"reported as saved and lost": 1}
    assert judge(6, 12) == {"lost beyond one interval": 1}
    trials.make_run(tmp_path, (9,), content=8)
    assert judge(9, 9) == {"wrong content": 1}
    for path in (tmp_path / "checkpoints").rglob("SEAL.json"):
        path.unlink()
    assert judge(None, None)["unreadable"] == 2  # its line, and the refusal


def test_the_judge_of_damages_finds_planted_bugs(tmp_path):
    judge = lambda abstract, last: trials._outcome(tmp_path, abstract, last)
    trials.make_run(tmp_path, (3, 6))
    assert judge(jax.eval_shape(trials.start), 6) == "harmless, all bits are right"
    assert judge(jax.eval_shape(trials.start), 9) == "FELL BACK SILENTLY"
    assert judge(abstract(small(0)), 6) == "CRASHED"  # anything but Damaged
    trials.make_run(tmp_path, (9,), content=8)
    assert judge(jax.eval_shape(trials.start), 9) == "SILENTLY WRONG"


@pytest.mark.slow
def test_random_damages(tmp_path):
    counts = trials.damage_trials(120, seed=1, directory=tmp_path)
    assert sum(counts[outcome] for outcome in trials.OUTCOMES) == 120
    assert sum(counts[outcome] for outcome in trials.OUTCOMES[:3]) == 120, counts

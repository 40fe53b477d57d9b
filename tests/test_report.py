"""The log of a run and its progress line: exact bytes after a kill, exact events, exact lines at known times."""

import io
import json
import math
import struct

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from genjax.errors import BadInput, Damaged
from genjax.report import open_log, open_progress, read_log, truncate_after
from genjax.report.progress import LIVE_EVERY, duration, number

ROW = {"stage": "vae", "stage_index": 0, "kind": "train", "time": 1.0}


def rows_of(steps, stage_index=0):
    return [{**ROW, "stage_index": stage_index, "step": step, "loss": float(step)} for step in steps]


def write(directory, rows, **options):
    log = open_log(directory, options.pop("stage_steps", [100, 100]), **options)
    for row in rows:
        log.write(row)
    log.close()


def events(directory):
    """The scalars, images and session starts of all event files: (what, tag, step, value)."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((directory / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                found.append(("start", "", event.step, None))
            for value in event.summary.value:
                image = value.HasField("image")
                found.append(("image" if image else "scalar", value.tag, event.step, value.simple_value))
    return found


# --- metrics.jsonl ---------------------------------------------------------------------------------------------------


def test_a_row_is_one_line_in_a_fixed_order(tmp_path):
    write(tmp_path, [{"loss": jnp.float32(1.5), "step": 3, **ROW, "count": np.int64(2)}])
    line = '{"stage": "vae", "stage_index": 0, "step": 3, "kind": "train", "time": 1.0, "loss": 1.5, "count": 2}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == line


def test_a_row_is_in_the_file_when_write_returns(tmp_path):
    log = open_log(tmp_path, [10])
    log.write({**ROW, "step": 1})
    assert len(read_log(tmp_path)) == 1
    log.close()
    log.close()  # once more does no harm


def test_time_is_added(tmp_path):
    write(tmp_path, [{"stage": "a", "stage_index": 0, "step": 1, "kind": "train"}])
    assert read_log(tmp_path)[0]["time"] > 1.7e9


def test_what_is_not_finite_is_valid_json_and_comes_back(tmp_path):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float32("nan")}
    write(tmp_path, [{**ROW, "stage": "NaN", "step": 1, **values}])

    def refuse(constant):
        raise ValueError(constant)

    raw = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert [raw[name] for name in "abcd"] == ["NaN", "Infinity", "-Infinity", "NaN"]
    row = read_log(tmp_path)[0]
    assert (row["b"], row["c"], row["stage"]) == (math.inf, -math.inf, "NaN")
    assert math.isnan(row["a"]) and math.isnan(row["d"])


def test_a_metric_of_many_numbers_is_refused_by_name(tmp_path):
    log = open_log(tmp_path, [10])
    with pytest.raises(BadInput, match=r"'loss' has shape \[3\]"):
        log.write({**ROW, "step": 1, "loss": np.zeros(3)})
    log.close()
    assert read_log(tmp_path) == []


def test_a_torn_tail_is_left_out_and_then_removed(tmp_path):
    write(tmp_path, rows_of([1, 2]))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for cut in range(start + 1, len(whole), 7):
        path.write_bytes(whole[:cut])
        assert [row["step"] for row in read_log(tmp_path)] == [1]
        write(tmp_path, rows_of([7]))
        assert path.read_bytes().startswith(whole[:start])
        assert [row["step"] for row in read_log(tmp_path)] == [1, 7]


def test_zeros_after_a_power_cut_are_removed(tmp_path):
    write(tmp_path, rows_of([1]))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b"\0" * 50)
    write(tmp_path, rows_of([2]))
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", [b"not json\n", b"[1]\n", b"\xff\xfe\n", b"\n"])
def test_a_damaged_line_inside_is_named(tmp_path, line):
    write(tmp_path, rows_of([1, 2]))
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + second)
    with pytest.raises(Damaged, match="line 2 of"):
        read_log(tmp_path)


def test_truncation_keeps_bytes_and_counts_stages_first(tmp_path):
    write(tmp_path, rows_of([5, 100]) + rows_of([0, 5, 10, 15], stage_index=1))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[0] = lines[0].replace(b'"vae", ', b'"vae",   ')  # kept as it is, spaces included
    path.write_bytes(b"".join(lines))
    before = path.stat().st_ino
    truncate_after(tmp_path, 1, 15)
    assert path.stat().st_ino == before  # nothing to drop: not written again
    truncate_after(tmp_path, 1, 5)
    assert path.read_bytes() == b"".join(lines[:4])
    truncate_after(tmp_path, 0, 99)
    assert path.read_bytes() == lines[0]


def test_a_resumed_run_logs_each_step_once(tmp_path):
    write(tmp_path, rows_of([10, 20, 30]))
    write(tmp_path, rows_of([30, 40]), after=(0, 20))
    assert [row["step"] for row in read_log(tmp_path)] == [10, 20, 30, 40]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    log = open_log(tmp_path, [10])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genjax.report.log._write_all", full)
    with pytest.raises(Damaged, match="No space left"):
        log.write({**ROW, "step": 1})
    log.close()


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def test_tensorboard_counts_steps_through_the_stages(tmp_path):
    measured = {**ROW, "stage_index": 1, "step": 5, "kind": "evaluation", "test/nll": 2.5, "x": math.nan}
    write(tmp_path, [*rows_of([100]), measured])
    assert events(tmp_path) == [("scalar", "train/loss", 100, 100.0), ("scalar", "test/nll", 105, 2.5)]


def test_tensorboard_forgets_what_a_resumed_run_logs_again(tmp_path):
    write(tmp_path, rows_of([1], stage_index=1), after=(1, 20))
    assert ("start", "", 121, None) in events(tmp_path)


def test_pictures_are_files_and_events(tmp_path):
    log = open_log(tmp_path, [100, 100])
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    path = log.picture("samples", "vae", 1, 20, pixels)
    log.close()
    assert path == tmp_path / "pictures" / "samples-01-000000020.png"
    with PIL.Image.open(path) as image:
        assert np.array_equal(np.asarray(image), pixels)
        assert (image.text["step"], image.text["stage"]) == ("20", "vae")
    assert [(what, step) for what, _, step, _ in events(tmp_path)] == [("image", 120)]


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a" * 65, "a\n"])
def test_a_picture_stays_in_its_folder(tmp_path, name):
    log = open_log(tmp_path, [10])
    with pytest.raises(BadInput, match="picture name"):
        log.picture(name, "vae", 0, 1, np.zeros([2, 2, 3], np.uint8))
    log.close()
    assert not (tmp_path / "pictures").exists()


# --- the progress line -----------------------------------------------------------------------------------------------


def terminal(is_terminal=True):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    return stream


def clock(*times):
    left = iter(times)
    return lambda: next(left)


def test_plain_lines_are_rare_and_messages_are_not():
    out = terminal(False)
    progress = open_progress(out, clock(0.0, 1.0, 4.9, 5.0, 6.0, 9.0))
    for step in (0, 10, 49, 50, 60):
        progress.step("vae", step, 100, loss=2.0, best=1.25, batch_size=8)
    progress.say("evaluation: 1.25")
    progress.step("vae", 100, 100)  # the last is always told
    progress.close()
    assert out.getvalue().splitlines() == [
        "vae  0/100  loss 2  best 1.25",
        "vae  50/100  50%  loss 2  best 1.25  10 updates/s  80 examples/s  5 s left",
        "evaluation: 1.25",
        "vae  100/100  100%  11.1 updates/s",
    ]


def test_speed_is_that_of_the_last_half_minute_and_of_one_stage():
    out = terminal(False)
    progress = open_progress(out, clock(0.0, 100.0, 140.0, 200.0, 210.0))
    progress.step("a", 0, 1000)
    progress.step("a", 100, 1000)  # 1 a second until here
    progress.step("a", 200, 1000)  # then 2.5
    progress.step("b", 0, 1000)
    progress.step("b", 50, 1000)
    speeds = [line.split("%")[1].split()[0] for line in out.getvalue().splitlines() if "updates" in line]
    assert speeds == ["1", "2.5", "5"]


def test_the_live_line_is_rewritten_and_fits(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out = terminal()
    progress = open_progress(out, clock(0.0, LIVE_EVERY / 2, 10.0), width=80)
    progress.step("vae", 0, 100)
    progress.step("vae", 5, 100)  # too soon
    progress.step("vae", 50, 100, loss=2.0)
    progress.say("checkpoint")
    progress.close()
    first = "vae  0/100  " + "░" * 24
    second = "vae  50/100  " + "█" * 12 + "░" * 12 + "  50%  loss 2  5 updates/s  10 s left"
    assert out.getvalue() == f"\r{first}\x1b[K\r{second}\x1b[K\r\x1b[Kcheckpoint\n{second}\n"


def test_the_live_line_is_never_wider_than_the_terminal(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for width in range(1, 140):
        out = terminal()
        progress = open_progress(out, clock(0.0, 10.0), width=width)
        progress.step("変分オートエンコーダ", 0, 10**6)
        progress.step("変分オートエンコーダ", 1234, 10**6, loss=123.456, best=1e-7, batch_size=100)
        for line in out.getvalue().split("\x1b[K"):
            assert sum(2 if ord(c) > 0x3000 else 1 for c in line.lstrip("\r")) < max(width, 2)


def test_colour_only_where_it_is_wanted(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = terminal(), terminal(False)
    for out in (coloured, plain):
        open_progress(out, clock(0.0), width=80).step("vae", 1, 2)
    assert "\x1b[36m" in coloured.getvalue() and "\x1b" not in plain.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    dumb = terminal()
    open_progress(dumb, clock(0.0), width=80).step("vae", 1, 2)
    assert dumb.getvalue() == "vae  1/2  50%\n"


def test_a_name_cannot_steer_the_terminal():
    out = terminal(False)
    progress = open_progress(out, clock(0.0))
    progress.step("\x1b[2Jvae\n", 0, 1)
    progress.say("a\x1b]0;title\x07\nb")
    assert out.getvalue() == "?[2Jvae?  0/1\na?]0;title?\nb\n"


def test_an_ascii_terminal_gets_ascii(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    data = io.BytesIO()
    out = io.TextIOWrapper(data, encoding="ascii")
    out.isatty = lambda: True
    open_progress(out, clock(0.0), width=60).step("vae", 1, 2)
    assert b"############............" in data.getvalue()


def test_numbers_and_times_for_people():
    assert [number(x) for x in (0, 3, 101.34567, 12345.6, 1e7 + 0.5, 1.23456e-5, -math.inf)] == [
        *("0", "3", "101.3", "12,346", "1e+07", "1.235e-05", "-inf")
    ]
    assert [duration(s) for s in (0, 9.94, 9.96, 59.6, 3599.6, math.nan)] == [
        *("0 s", "9.9 s", "10 s", "1 min 00 s", "1 h 00 min", "?")
    ]

"""MIDI files: a strict reader, written against the standard and not against the writer, gives the roll back."""

import struct

import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.report import midi
from genjax.report.midi import REST, TICKS, midi_file


class Bytes:
    """Bytes that are read from the front; reading past the end is an error."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        assert self.at + count <= len(self.data), "ends too soon"
        self.at += count
        return self.data[self.at - count : self.at]

    def varying(self):
        value = 0
        for length in range(1, 5):  # the standard allows four bytes
            (byte,) = self.take(1)
            assert not (length == 1 and byte == 0x80), "a leading zero"
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise AssertionError("a time of more than four bytes")


def read(data):
    """(ticks of a quarter note, microseconds of one, markers, notes (pitch, start, end), tick of the end)."""
    file, ticks, tempo, markers, notes, ends = Bytes(data), 0, [], [], [], []
    assert file.take(4) == b"MThd"
    length, form, tracks, ticks = struct.unpack(">IHHH", file.take(10))
    assert (length, form) == (6, 1) and 0 < ticks < 0x8000
    for number in range(tracks):
        assert file.take(4) == b"MTrk"
        track = Bytes(file.take(struct.unpack(">I", file.take(4))[0]))
        now, sounding, ended = 0, {}, False
        while track.at < len(track.data):
            assert not ended, "events after the end of the track"
            now += track.varying()
            (status,) = track.take(1)
            assert status >= 0x80, "data where an event begins"
            if status == 0xFF:
                (kind,) = track.take(1)
                content = track.take(track.varying())
                if kind == 0x51:
                    assert len(content) == 3 and number == 0, "the tempo belongs to the first track of a format 1 file"
                    tempo.append(int.from_bytes(content, "big"))
                elif kind == 0x06:
                    markers.append((now, content.decode("ascii")))
                else:
                    assert (kind, content) == (0x2F, b""), "an unknown event"
                    ended = True
            else:
                assert status in (0x80, 0x90), "only notes of the first channel"
                pitch, loudness = track.take(2)
                assert pitch < 128 and loudness < 128
                if status == 0x90 and loudness > 0:
                    assert pitch not in sounding, "begins while it sounds"
                    sounding[pitch] = now
                else:
                    assert pitch in sounding, "ends before it begins"
                    notes.append((pitch, sounding.pop(pitch), now))
                    assert notes[-1][2] > notes[-1][1], "a note without length"
        assert ended and not sounding, "a track that does not end, or a note"
        ends.append(now)
    assert file.at == len(data), "bytes after the last track"
    assert len(tempo) == 1 and len(set(ends)) == 1
    return ticks, tempo[0], markers, notes, ends[0]


def roll_of(notes, ticks, frames):
    """The roll that notes make, [frames, 88]."""
    roll = np.zeros([frames, 88], np.uint8)
    for pitch, start, end in notes:
        assert start % ticks == end % ticks == 0
        assert not roll[start // ticks : end // ticks, pitch - 21].any()
        roll[start // ticks : end // ticks, pitch - 21] = 1
    return roll


def check_file(write):
    """Random pieces come back, frame by frame; each run of ones is one note; tempo, markers and length fit."""
    rolls = (np.random.default_rng(0).random((3, 40, 88)) < 0.4).astype(np.uint8)
    rolls[:, :, [0, 87]] = 1  # the lowest and the highest key, through all frames
    rolls[1, -5:] = 0
    ticks, tempo, markers, notes, end = read(write(rolls, 0.25))
    with_rests = np.concatenate([rolls, np.zeros([3, REST, 88], np.uint8)], axis=1).reshape(-1, 88)[:-REST]
    np.testing.assert_array_equal(roll_of(notes, ticks, len(with_rests)), with_rests)
    runs = np.diff(np.concatenate([np.zeros([1, 88]), with_rests]), axis=0) > 0
    assert len(notes) == runs.sum()
    assert tempo == 250_000 and end == len(with_rests) * ticks
    assert markers == [(number * (40 + REST) * ticks, f"sample {number + 1}") for number in range(3)]
    one = read(write(rolls[0], 0.25))
    np.testing.assert_array_equal(roll_of(one[3], one[0], 40), rolls[0])


def test_midi_file():
    check_file(midi_file)


def every_frame(pieces, span):
    """Note by note, frame by frame: nothing is tied."""
    events = []
    for piece, frame, key in np.argwhere(pieces).tolist():
        tick = piece * span + frame * TICKS
        events += [(tick, bytes([0x90, 21 + key, 80])), (tick + TICKS, bytes([0x80, 21 + key, 0]))]
    return sorted(events)


PLANTED = {
    "a wrong lowest pitch": ("LOWEST", 20),
    "times of seven bits": ("_varying", lambda number: bytes([number & 0x7F])),
    "times from the start": ("pairwise", lambda ticks: [(0, tick) for tick in ticks[1:]]),
    "every frame a note": ("_notes", every_frame),
    "no rest": ("REST", 0),
}


@pytest.mark.parametrize("name, planted", PLANTED.values(), ids=PLANTED)
def test_midi_file_rejects(monkeypatch, name, planted):
    monkeypatch.setattr(midi, name, planted)
    rejects(check_file, midi_file)


def test_silence_is_a_file():
    ticks, _, _, notes, end = read(midi_file(np.zeros([3, 88], bool)))
    assert notes == [] and end == 3 * ticks


@pytest.mark.parametrize(
    "roll, told",
    [
        (np.zeros([4, 87]), "[4, 87]"),
        (np.zeros([88]), "[88]"),
        (np.zeros([0, 88]), "[0, 88]"),
        (np.zeros([0, 4, 88]), "[0, 4, 88]"),
        (np.full([4, 88], 0.5), "0.5"),
        (np.full([4, 88], np.nan), "nan"),
        (np.full([4, 88], 2, np.uint8), "2"),
        (np.full([4, 88], -1), "-1"),
    ],
)
def test_bad_rolls(roll, told):
    with pytest.raises(BadInput) as error:
        midi_file(roll)
    assert told in error.value.lines[0] and 2 <= len(error.value.lines) <= 3


@pytest.mark.parametrize("seconds", [0, -1.0, 17.0, float("nan"), float("inf"), "fast", None])
def test_bad_lengths(seconds):
    with pytest.raises(BadInput):
        midi_file(np.zeros([4, 88]), seconds)

"""Piano rolls as pictures, and as standard MIDI files.

A file (The MIDI Association, Standard MIDI Files 1.0, 1988) is a header chunk and track chunks, each of four letters, a
length of 32 bits and its content.  A track is a list of events, each after a time in ticks written in groups of seven
bits.  Here track 0 holds the tempo and a marker at every piece, track 1 the notes; a frame of the roll is one quarter
note, so that the tempo says how long a frame sounds.
"""

import struct
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.types import Array

LOWEST = 21  # the pitch of the first of a piano's 88 keys, an A
TICKS = 480  # ticks of a quarter note, here of a frame
REST = 4  # frames of silence between two pieces
LOUDNESS = 80  # 1 to 127

Event = tuple[int, bytes]  # (tick from the start, what happens)


def midi_file(roll: Array, seconds: float = 0.5) -> bytes:
    """A standard MIDI file of format 1; a note that sounds in frames one after the other is one note.

    Args:
      roll: [T, 88] zeros and ones: frames of the keys of a piano, pitch 21 to 108; or [n, T, 88], pieces that are
        played one after the other, with a rest of `REST` frames between them.
      seconds: the length of a frame, at most 16.

    Returns:
      The bytes of the file.

    Raises:
      BadInput: an array of another shape, empty or with values other than 0 and 1; a length that is not allowed.

    >>> roll = np.zeros([2, 88], np.uint8)
    >>> roll[:, 39] = 1  # a middle C of two frames
    >>> midi_file(roll)[-16:].hex(" ")  # C on, after 960 ticks (87 40) off, the end of the track
    '00 00 0d 00 90 3c 50 87 40 80 3c 00 00 ff 2f 00'
    """
    pieces = _checked(roll)
    if not (isinstance(seconds, int | float) and 1e-3 <= seconds <= 16.0):
        raise BadInput(f"seconds = {seconds!r}", "allowed: seconds a frame, from 0.001 to 16")
    tempo = b"\xff\x51\x03" + struct.pack(">I", round(seconds * 1e6))[1:]  # microseconds of a quarter note, 24 bits
    span = (pieces.shape[1] + REST) * TICKS
    markers = [(number * span, _text(6, f"sample {number + 1}")) for number in range(len(pieces))]
    end = len(pieces) * span - REST * TICKS
    header = b"MThd" + struct.pack(">IHHH", 6, 1, 2, TICKS)
    return header + _track([(0, tempo), *markers], end) + _track(_notes(pieces, span), end)


def piano_roll(rolls: Array) -> jax.Array:
    """Pictures of piano rolls: time from left to right, the highest key on top, 2 x 2 pixels for a key and frame.

    Args:
      rolls: [n, T, 88] zeros and ones.

    Returns:
      [n, 176, 2 T, 1] float32, 1 where a key sounds.

    >>> picture = piano_roll(jnp.zeros((1, 3, 88)).at[0, 1, 87].set(1))
    >>> picture.shape, picture[0, 0, :, 0].tolist()
    ((1, 176, 6, 1), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    """
    notes = jnp.flip(jnp.swapaxes(jnp.asarray(rolls, jnp.float32), 1, 2), axis=1)
    return jnp.repeat(jnp.repeat(notes, 2, axis=1), 2, axis=2)[..., None]


def _notes(pieces: np.ndarray, span: int) -> list[Event]:
    """Each key's changes from silence and back; what ends at a tick stands before what begins there."""
    silent = np.zeros_like(pieces[:, :1], np.int8)
    changes = np.diff(np.concatenate([silent, pieces.astype(np.int8), silent], axis=1), axis=1)
    found = [
        (int(piece) * span + int(frame) * TICKS, int(changes[piece, frame, key]), LOWEST + int(key))
        for piece, frame, key in np.argwhere(changes)
    ]
    return [
        (tick, bytes([0x90, pitch, LOUDNESS]) if change > 0 else bytes([0x80, pitch, 0]))
        for tick, change, pitch in sorted(found)
    ]


def _track(events: list[Event], end: int) -> bytes:
    ticks = [0, *(tick for tick, _ in events), end]
    times = [after - before for before, after in pairwise(ticks)]
    content = [event for _, event in events] + [b"\xff\x2f\x00"]  # the last one ends the track
    body = b"".join(_varying(time) + event for time, event in zip(times, content, strict=True))
    return b"MTrk" + struct.pack(">I", len(body)) + body


def _text(kind: int, text: str) -> bytes:
    return bytes([0xFF, kind]) + _varying(len(text)) + text.encode("ascii")


def _varying(number: int) -> bytes:
    """Groups of seven bits, the highest first; all but the last carry an eighth bit."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))


def _checked(roll: Array) -> np.ndarray:
    roll = np.asarray(roll)
    pieces = roll[None] if roll.ndim == 2 else roll
    if pieces.ndim != 3 or pieces.shape[-1] != 88 or pieces.size == 0:
        told = f"cannot write an array of shape {list(roll.shape)} as MIDI"
        raise BadInput(told, "allowed: [T, 88] or [n, T, 88], frames of 88 keys, at least one")
    if not np.isin(pieces, (0, 1)).all():
        bad = pieces[~np.isin(pieces, (0, 1))][0]
        raise BadInput(f"a piano roll holds the value {bad}", "allowed: 0, silent, and 1, sounding")
    return pieces

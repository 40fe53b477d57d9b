"""Sounds as .wav files: a host function of NumPy arrays, with the standard library's `wave`."""

import io
import wave

import numpy as np

from genjax.errors import BadInput
from genjax.types import Array

REST = 0.25  # seconds of silence between two sounds


def wav_file(sounds: Array, rate: int = 8_000) -> bytes:
    """A .wav file of one channel and 16 bits.

    Args:
      sounds: [T] numbers in [-1, 1], louder ones are cut to it; or [n, T], sounds that are played one after the other,
        with a rest of `REST` seconds between them.
      rate: samples a second, 1,000 to 192,000.

    Returns:
      The bytes of the file; a number x is the sample round(32,767 x).

    Raises:
      BadInput: an array of another shape, empty or with numbers that are not finite; a rate that is not allowed.

    >>> file = wav_file(np.array([0.0, 1.0, -2.0]))
    >>> file[:4], file[8:12], np.frombuffer(file[-6:], "<i2").tolist()
    (b'RIFF', b'WAVE', [0, 32767, -32767])
    """
    sounds = np.asarray(sounds)
    clips = sounds[None] if sounds.ndim == 1 else sounds
    if clips.ndim != 2 or not clips.size:
        raise BadInput(f"cannot write an array of shape {list(sounds.shape)} as sound", "allowed: [T] or [n, T]")
    if not np.isfinite(clips).all():
        raise BadInput(f"{int(np.sum(~np.isfinite(clips))):,} samples are not finite", "allowed: numbers in [-1, 1]")
    if not 1_000 <= rate <= 192_000:
        raise BadInput(f"rate = {rate}", "allowed: samples a second, from 1,000 to 192,000")
    quiet = np.zeros((len(clips), round(REST * rate)))
    row = np.concatenate([np.clip(np.float64(clips), -1, 1), quiet], axis=1).reshape(-1)[: -quiet.shape[1]]
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(int(rate))
        file.writeframes(np.rint(32_767 * row).astype("<i2").tobytes())
    return content.getvalue()

"""Recorded sounds: a folder or an archive of .wav files, as they are or as spectrograms of 256 grey levels.

A file is uncompressed PCM of one channel and 16 bits, at one rate for all: nothing is resampled or mixed here.  An
archive (.tar, .tar.gz, .tar.xz, ...) is read in memory, from its beginning to its end; nothing of it is written
anywhere, and no more of it is unpacked than a limit of bytes.

Where all files are named as those of the Free Spoken Digit Dataset (Jackson et al. 2016,
https://github.com/Jakobovski/free-spoken-digit-dataset), `7_jackson_32.wav`: digit, speaker, take, the digit is the
label, and the sets are its authors': takes 0 to 4 test, the others train, of which takes 5 to 9 validate here.
"""

import io
import lzma
import re
import struct
import tarfile
import wave
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genjax.data.files import FRACTIONS
from genjax.data.spectrogram import HOP, spectrogram
from genjax.data.split import Dataset, Prepare, Split, carve, make_dataset, scaled, take, unchanged
from genjax.errors import BadInput

SPOKEN_DIGIT = re.compile(r"(\d)_[a-z]+_(\d{1,3})\.wav")
FORM = "A recording is a .wav file: PCM, one channel, 16 bits."
MOST = 2**28  # bytes of all recordings


class Clip(NamedTuple):
    """One recording."""

    name: str
    samples: np.ndarray  # int16 [T]


def sounds(path: str | Path, frames: int = 80, rate: int = 8_000, fractions: Sequence[float] = FRACTIONS) -> Dataset:
    """Recordings as pictures: see genjax/data/spectrogram.py.

    Each is scaled to a loudest sample of 1, cut after 64 `frames` samples (8 ms a frame at 8 kHz), or filled up with
    silence.

    Args:
      path: a folder or a tar archive of .wav files.
      frames: T, columns of a picture, at least 1.
      rate: samples a second that every file must have.
      fractions: of train, validation and test, where the names do not divide the files (see the head of this file).
    Returns:
      `image` uint8 [N, 128, T, 1], prepared as level / 255, and for spoken digits `label` int32 [N]; `about` says how
      many were cut.
    Raises:
      BadInput: no such path, no recording, one that cannot be read, of another rate, width or number of channels,
        truncated, empty or silent, named by its file; or an archive that is damaged or too large.
    """
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise BadInput(f"sounds: frames = {frames!r}.", "Allowed are whole numbers from 1.")
    path = Path(path).expanduser()
    clips, length = read_clips(path, rate), frames * HOP
    image = spectrogram(np.stack([fitted(clip, length) for clip in clips]))
    return _divided(path, clips, {"image": image}, scaled(256), 256, fractions, (length, rate))


def waves(path: str | Path, length: int = 8_000, rate: int = 8_000, fractions: Sequence[float] = FRACTIONS) -> Dataset:
    """Recordings as they are, each scaled to a loudest sample of 1, cut after `length` samples, or filled with silence.

    Args:
      path, rate, fractions: as of `sounds`.
      length: T, samples of each, at least 1.
    Returns:
      `wave` float32 [N, T] in [-1, 1], and for spoken digits `label` int32 [N]; divided as by `sounds`.
    Raises:
      BadInput: as `sounds`.
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise BadInput(f"waves: length = {length!r}.", "Allowed are whole numbers from 1.")
    path = Path(path).expanduser()
    clips = read_clips(path, rate)
    wave = np.stack([fitted(clip, length) for clip in clips])
    return _divided(path, clips, {"wave": wave}, unchanged, 0, fractions, (length, rate))


def _divided(
    path: Path,
    clips: Sequence[Clip],
    arrays: dict[str, np.ndarray],
    prepare: Prepare,
    levels: int,
    fractions: Sequence[float],
    cut: tuple[int, int],
) -> Dataset:
    """The three splits, with labels, of recordings that were cut after `cut` samples, at so many a second."""
    named = [SPOKEN_DIGIT.fullmatch(Path(clip.name).name) for clip in clips]
    digits = all(named)
    if digits:
        arrays = {**arrays, "label": np.array([int(name[1]) for name in named if name], np.int32)}
        takes = np.array([int(name[2]) for name in named if name])
        parts = tuple(np.flatnonzero(chosen) for chosen in (takes >= 10, (takes >= 5) & (takes < 10), takes < 5))
    else:
        parts = carve(len(clips), fractions)
    pairs = zip(("train", "validation", "test"), parts, strict=True)
    splits = {split: Split(take(arrays, rows), prepare) for split, rows in pairs}
    length, rate = cut
    longer = sum(len(clip.samples) > length for clip in clips)
    about = (
        f"{len(clips):,} recordings of {path.name} at {rate:,} Hz, {longer:,} of them cut after {length / rate:.2f} s."
    )
    name = "spoken_digits" if digits else path.name.partition(".")[0]
    return make_dataset(name, splits, 10 if digits else None, levels, about)


def fitted(clip: Clip, length: int) -> np.ndarray:
    """A recording as float32 [length], its loudest sample scaled to 1, cut or filled up with silence.

    >>> fitted(Clip("a.wav", np.array([0, -200, 100], np.int16)), 4).tolist()
    [0.0, -1.0, 0.5, 0.0]
    """
    samples = clip.samples[:length].astype(np.float32)
    loudest = np.abs(samples).max(initial=0.0)
    if not loudest:
        told = "is empty" if not len(clip.samples) else f"is silent for {len(samples):,} samples"
        raise BadInput(f"{clip.name} {told}.", "A recording has a sound.", "Remove it.")
    return np.pad(samples / loudest, (0, length - len(samples)))


def read_clips(path: Path, rate: int = 8_000, most: int = MOST) -> list[Clip]:
    """The recordings of a folder or an archive, in the order of their names.

    Args:
      path: a folder, searched with its subfolders, or a tar archive.
      rate: samples a second.
      most: bytes that are read, or unpacked, at most.
    Raises:
      BadInput: see `sounds`.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist.", "Allowed are a folder or a tar archive of .wav files.")
    files = _of_folder(path, most) if path.is_dir() else _of_archive(path, most)
    clips = [Clip(name, read_wav(content, name, rate)) for name, content in files]
    if not clips:
        raise BadInput(f"{path} holds no recording.", FORM, "Give a folder or a tar archive of .wav files.")
    return sorted(clips, key=lambda clip: clip.name)


def read_wav(content: bytes, name: str, rate: int) -> np.ndarray:
    """The samples of a .wav file, int16 [T]; raises BadInput that names the file and what is wrong with it.

    >>> read_wav(b"RIFF", "a.wav", 8_000)
    Traceback (most recent call last):
    genjax.errors.BadInput: a.wav cannot be read as a recording: it ends early
    A recording is a .wav file: PCM, one channel, 16 bits.
    Repair, convert or remove it.
    """
    try:
        with wave.open(io.BytesIO(content)) as sound:
            channels, width, found, count = sound.getparams()[:4]
            data = sound.readframes(count)
    except (wave.Error, EOFError, RuntimeError, ValueError, struct.error) as error:
        what = f"{name} cannot be read as a recording: {str(error) or 'it ends early'}"
        raise BadInput(what, FORM, "Repair, convert or remove it.") from error
    if (channels, width, found) != (1, 2, rate):
        what = f"{name} has {channels} channels of {8 * width} bits at {found:,} Hz."
        raise BadInput(what, f"Allowed here is one channel of 16 bits at {rate:,} Hz.", "Convert or remove it.")
    if len(data) != 2 * count:
        what = f"{name} is truncated: its header tells of {count:,} samples, it holds {len(data) // 2:,}."
        raise BadInput(what, "A recording is whole.", "Get it again, or remove it.")
    return np.frombuffer(data, "<i2").astype(np.int16)


def _of_folder(folder: Path, most: int) -> Iterator[tuple[str, bytes]]:
    left = most
    for file in sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".wav" and file.is_file()):
        left = _spent(left, file.stat().st_size, folder, most)
        try:
            yield str(file.relative_to(folder)), file.read_bytes()
        except OSError as error:
            raise BadInput(f"{file} cannot be read: {error.strerror}.", "", "Check its permissions.") from error


def _of_archive(archive: Path, most: int) -> Iterator[tuple[str, bytes]]:
    left = most
    try:
        with tarfile.open(archive, "r|*") as stream:  # a stream: nothing is unpacked twice, or ahead
            for member in stream:
                left = _spent(left, member.size, archive, most)
                tarfile.data_filter(member, "/archive")  # as for unpacking into a folder: refuses what would leave it
                content = stream.extractfile(member) if member.isreg() else None
                if content is not None and member.name.lower().endswith(".wav"):
                    yield member.name, content.read()
    except tarfile.FilterError as error:
        what = f"{archive} holds a member that is not allowed: {error}"
        raise BadInput(what, "Allowed are files and folders inside of the archive.", "Pack it again.") from error
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        what = f"{archive} cannot be read as an archive: {error}"
        raise BadInput(what, "Allowed are a folder or a tar archive of .wav files.", "Get it again.") from error


def _spent(left: int, size: int, path: Path, most: int) -> int:
    if size > left:
        raise BadInput(f"{path} holds more than {most:,} bytes.", f"At most {most:,} are read.", "Give fewer files.")
    return left - size

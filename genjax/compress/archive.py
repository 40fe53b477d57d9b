"""The archive of `genjax compress`: a container that is read whole and right, or refused.

    8 bytes    magic, which a transfer in text mode breaks, as PNG's does
    2, 4, 8    version of the format; bytes of the header; bytes of the stream (little-endian)
    ...        header: JSON in UTF-8
    ...        stream: words of 32 bits, little-endian
    4 bytes    CRC-32 of all before

Any cut changes the length that the first bytes tell, and a CRC-32 finds every single flipped bit and every burst of up
to 32 bits with certainty, and what else may happen but for one case in 2^32 (Peterson and Brown, Cyclic codes for error
detection, 1961).  The content has checksums of its own in the header: they are of what the model decoded, not of the
file.
"""

import json
import math
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from genjax.errors import BadInput

MAGIC = b"\x93gjx\r\n\x1a\n"
VERSION = 1
FRONT = struct.Struct("<8sHIQ")
NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}")  # none that is hidden, or leaves the folder
KINDS = ("npy", "png", "text")
MOST = 2**31  # symbols of an archive: a short forged one must not ask for more than a machine has


def is_name(name: str) -> bool:
    """Whether an archive may hold a file of this name: one that every file system of today can hold.

    >>> is_name("a.npy"), is_name("../a"), is_name(".profile"), is_name("a" * 256)
    (True, False, False, False)
    """
    try:
        return NAME.fullmatch(name) is not None and len(name.encode()) <= 255
    except UnicodeEncodeError:  # bytes that are no UTF-8, as Python keeps them
        return False


class Member(NamedTuple):
    """A file of an archive."""

    name: str
    kind: str  # of KINDS
    shape: tuple[int, ...]  # of its array; of a text: (tokens,)
    crc: int  # CRC-32 of the array's or the text's bytes


class Head(NamedTuple):
    """What an archive says of itself."""

    model: str  # digest of the parameters, and of how they are used
    probe: int  # CRC-32 of the first probabilities: another machine or library may come to others
    software: str
    members: tuple[Member, ...]


def pack(head: Head, words: np.ndarray) -> bytes:
    """The bytes of an archive.

    >>> found = unpack(pack(Head("m", 1, "jax", (Member("a", "text", (3,), 7),)), np.array([1, 2], np.uint32)), "f")
    >>> found[0].members[0].name, found[1].tolist()
    ('a', [1, 2])
    """
    told = {**head._asdict(), "members": [member._asdict() for member in head.members]}
    header = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    stream = np.asarray(words, "<u4").tobytes()
    body = FRONT.pack(MAGIC, VERSION, len(header), len(stream)) + header + stream
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(data: bytes, name: str) -> tuple[Head, np.ndarray]:
    """What `pack` was given.

    Args:
      data: all bytes of a file.
      name: of it, for messages.

    Raises:
      BadInput: no archive, one of another version, cut, damaged.

    >>> unpack(b"PK", "a.zip")
    Traceback (most recent call last):
    genjax.errors.BadInput: a.zip is no archive of genjax
    it must begin with the 8 bytes that `genjax compress` writes
    """
    if data[:8] != MAGIC:
        raise BadInput(
            f"{name} is no archive of genjax", "it must begin with the 8 bytes that `genjax compress` writes"
        )
    if len(data) < FRONT.size + 4:
        raise _damaged(f"{name} ends after {len(data)} bytes", "it is cut")
    _, version, header_size, stream_size = FRONT.unpack_from(data)
    if version != VERSION:
        told = f"{name} is an archive of version {version}"
        raise BadInput(told, f"this genjax reads version {VERSION}", "use the genjax that wrote it, or compress again")
    expected = FRONT.size + header_size + stream_size + 4
    if len(data) != expected:
        raise _damaged(f"{name} has {len(data):,} bytes, and should have {expected:,}", "it is cut, or damaged")
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise _damaged(f"{name} is damaged: its checksum does not fit", "")
    middle = FRONT.size + header_size
    try:
        return _head(json.loads(data[FRONT.size : middle])), np.frombuffer(data[middle:-4], "<u4").astype(np.uint32)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(f"the header of {name} cannot be read: {error}"[:200], "") from error


def _head(told: Mapping[str, Any]) -> Head:
    members = tuple(_member(**one) for one in told["members"])
    names = [member.name for member in members]
    if not members or len({*names}) != len(names):
        raise ValueError("its files are none, or share a name")
    if sum(math.prod(member.shape) for member in members) > MOST:
        raise ValueError(f"its files have more than {MOST:,} symbols")
    return Head(str(told["model"]), int(told["probe"]), str(told["software"]), members)


def _member(name: str, kind: str, shape: list[int], crc: int) -> Member:
    if not isinstance(name, str) or not is_name(name):
        raise ValueError(f"a file of it is called {name!r}")
    if kind not in KINDS or not all(type(n) is int and n >= 0 for n in [*shape, crc]):
        raise ValueError(f"what it says of {name!r} makes no sense")
    if len(shape) > 8 or max([0, *shape]) > MOST:
        raise ValueError(f"{name!r} of the shape {shape[:8]}")
    return Member(name, kind, tuple(shape), crc)


def _damaged(what: str, why: str) -> BadInput:
    return BadInput(what, why, "get another copy of it; nothing was written")

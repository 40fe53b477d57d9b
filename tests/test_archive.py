"""The container: every cut and flipped bit is refused, and so is a header that makes no sense."""

import json
import struct
import zlib

import numpy as np
import pytest

from genjax.compress.archive import FRONT, MAGIC, VERSION, Head, Member, pack, unpack
from genjax.errors import BadInput

HEAD = Head("0123abcd", 77, "jaxlib", (Member("a.npy", "npy", (2, 3), 5), Member("ü.txt", "text", (9,), 6)))
WORDS = np.arange(40, dtype=np.uint32) * 2_654_435_761
DATA = pack(HEAD, WORDS)


def test_what_is_packed_is_unpacked():
    head, words = unpack(DATA, "a")
    assert head == HEAD and words.dtype == np.uint32 and words.tolist() == WORDS.tolist()


def test_every_cut_is_refused():
    for size in range(len(DATA)):
        with pytest.raises(BadInput):
            unpack(DATA[:size], "a")
    with pytest.raises(BadInput):
        unpack(DATA + b"\0", "a")


def test_every_flipped_bit_is_refused():
    for bit in range(8 * len(DATA)):
        damaged = bytearray(DATA)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadInput):
            unpack(bytes(damaged), "a")


def test_a_version_that_is_not_known_is_named():
    with pytest.raises(BadInput, match="version 2"):
        unpack(MAGIC + b"\2\0" + DATA[10:], "a")


def forged(header):
    """An archive whose checksum fits, with a header of somebody's own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = FRONT.pack(MAGIC, VERSION, len(text), 4) + text + b"abcd"
    return body + struct.pack("<I", zlib.crc32(body))


GOOD = {"model": "m", "probe": 1, "software": "s", "members": [{"name": "a", "kind": "npy", "shape": [1], "crc": 0}]}


def with_member(**changed):
    return {**GOOD, "members": [{**GOOD["members"][0], **changed}]}


def test_the_forged_header_is_read_when_it_is_good():
    assert unpack(forged(GOOD), "a")[0].members[0].shape == (1,)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff\xfe",
        b"[" * 5000,
        [],
        {},
        {**GOOD, "members": []},
        {**GOOD, "members": GOOD["members"] * 2},
        {**GOOD, "members": [3]},
        {**GOOD, "probe": "x"},
        with_member(name="../a"),
        with_member(name="/etc/passwd"),
        with_member(name=".."),
        with_member(name=".profile"),
        with_member(name=""),
        with_member(name="a\n"),
        with_member(name=3),
        with_member(name="\ud800"),
        with_member(name="\u2603" * 100),  # 300 bytes
        with_member(shape=[10**400]),
        json.dumps(GOOD).replace('"probe": 1', '"probe": 1e999').encode(),
        with_member(kind="pickle"),
        with_member(shape=[-1]),
        with_member(shape=[1.5]),
        with_member(shape=[10**9, 10**9]),
        with_member(shape=[1] * 9),
        {**GOOD, "members": [{**GOOD["members"][0], "name": name, "shape": [2**30]} for name in "abc"]},
        with_member(shape="ab"),
        with_member(crc=None),
        with_member(more=1),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(header):
    with pytest.raises(BadInput, match="header"):
        unpack(forged(header), "a")

"""Weights of PyTorch files, written by hand: read exactly, and refused where they are damaged or ask for more."""

import hashlib
import io
import struct
import sys
import zipfile

import numpy as np
import pytest
from planted import rejects

from genjax.data import pth, pth_program
from genjax.data.pth import read_pth
from genjax.data.pth_program import DICTIONARY, MADE, PUSHED, RECALLED, WRITTEN, _Name, run
from genjax.errors import BadInput

RNG = np.random.default_rng(0)
ARRAYS = {
    "a.weight": RNG.normal(size=(2, 3)).astype("<f4"),
    "a.steps": np.array(7, "<i8"),
    "b": RNG.normal(size=(4,)).astype("<f8"),
}
KINDS = {"f4": "Float", "i8": "Long", "f8": "Double"}
RUN = {"seen": None}  # what an audit hook saw while a file was read
WATCHED = ("pickle.find_class", "os.system", "exec", "compile", "subprocess.Popen", "import", "marshal.loads")


def watch(event, arguments):
    """Hooks stay for good; this one looks only while a file is read."""
    if RUN["seen"] is not None and event in WATCHED:
        RUN["seen"].append((event, arguments))


sys.addaudithook(watch)
"".encode("cp437")  # zipfile imports this codec when it first meets such a name


def text(word):
    return b"X" + struct.pack("<i", len(word)) + word.encode()


def number(n):
    return b"J" + struct.pack("<i", n)


def tensor(key, array, offset=0, strides=None, function=b"ctorch._utils\n_rebuild_tensor_v2\n", legacy=False):
    """The instructions that rebuild a tensor from a storage."""
    strides = strides or [step // array.itemsize for step in array.strides]
    row = lambda numbers: b"(" + b"".join(map(number, numbers)) + b"t"
    kind = b"ctorch\n" + KINDS[array.dtype.str[1:]].encode() + b"Storage\n"
    place = b"(" + text("storage") + kind + text(key) + text("cpu") + number(array.size) + b"N" * legacy + b"tQ"
    rest = number(offset) + row(array.shape) + row(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return function + b"(" + place + rest + b"tR"


def program(values):
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + b"".join(text(k) + v for k, v in values.items()) + b"u."


def archived(code, arrays=ARRAYS, compression=zipfile.ZIP_STORED, order=b"little"):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        archive.writestr("model/data.pkl", code)
        archive.writestr("model/byteorder", order)
        for key, array in enumerate(arrays.values()):
            archive.writestr(f"model/data/{key}", array.tobytes())
    return target.getvalue()


def in_sequence(code, arrays=ARRAYS):
    head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03."
    head += b"\x80\x02}(" + text("little_endian") + b"\x88u."
    keys = b"\x80\x02](" + b"".join(text(str(key)) for key in range(len(arrays))) + b"e."
    return head + code + keys + b"".join(struct.pack("<q", a.size) + a.tobytes() for a in arrays.values())


def twice(content):
    """An archive whose last member is listed twice; of no bytes: one that holds no weights."""
    target = io.BytesIO(content)
    with zipfile.ZipFile(target, "a" if content else "w") as archive:
        archive.writestr("note", b"")
        archive.filelist += archive.filelist[-2:-1] if content else []
    return target.getvalue()


def plain(arrays=ARRAYS, legacy=False, **more):
    return program({k: tensor(str(i), a, legacy=legacy, **more) for i, (k, a) in enumerate(arrays.items())})


@pytest.fixture
def read(tmp_path):
    def of(content):
        (tmp_path / "w.pth").write_bytes(content)
        return read_pth(tmp_path / "w.pth")

    return of


FILES = {"archive": archived(plain()), "sequence": in_sequence(plain(legacy=True))}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_exact(read, content):
    found = read(content)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_strides_and_offsets(read):
    """A transposed tensor, and one that begins within its storage."""
    whole = np.arange(12, dtype="<f4")
    seen = whole.reshape(3, 4).T
    assert seen.strides == (4, 16)
    found = read(archived(program({"t": tensor("0", seen)}), {"t": whole}))["t"]
    np.testing.assert_array_equal(found, seen)
    part = tensor("0", np.zeros((2, 3), "<f4"), offset=5).replace(number(6), number(12))
    np.testing.assert_array_equal(read(archived(program({"t": part}), {"t": whole}))["t"], whole[5:11].reshape(2, 3))


CALLS = {
    "a shell": b"\x80\x02cposix\nsystem\n(" + text("true") + b"tR.",
    "a name within the dictionary": program({"a": b"cbuiltins\nlist\n"}),
    "another function of torch": plain(function=b"ctorch._utils\n_rebuild_device_tensor\n"),
    "a class": b"\x80\x02(" + text("true") + b"iposix\nsystem\n.",
    "a class of words": b"\x80\x02" + text("posix") + text("system") + b"\x93(" + text("true") + b"tR.",
    "an object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "a dictionary with arguments": b"\x80\x02ccollections\nOrderedDict\n(]tR.",
    "a storage that is called": b"\x80\x02ctorch\nFloatStorage\n(" + number(9) + b"tR.",
    "a word that is called": b"\x80\x02" + text("posix system") + b"(" + text("true") + b"tR.",
}


@pytest.mark.parametrize("code", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("wrapped", [archived, in_sequence])
def test_nothing_else_is_called(read, code, wrapped):
    RUN["seen"] = []
    try:
        with pytest.raises(BadInput, match="cannot be read as PyTorch weights") as told:
            read(wrapped(code))
        assert RUN["seen"] == []
    finally:
        RUN["seen"] = None
    assert len(told.value.lines) == 3


def test_instructions():
    """All bytes but those of the table at the head of the file are refused, whatever stands behind them."""
    known = set(b"N\x88\x89)}](KMJ\x8aXcqrhjt\x85\x86\x87suaeQRb.")
    assert len(known) == 29 and {bytes([code]) for code in known - {ord(".")}} == {*PUSHED, *WRITTEN, *RECALLED, *MADE}
    for code in set(range(256)) - known:
        with pytest.raises(ValueError, match="the instruction"):
            run(io.BytesIO(b"\x80\x02K\x01K\x01" + bytes([code]) + b"a\nb\n" + b"\x00" * 9 + b"."))


def asked(allowed):
    """A reader of names that lets in whatever `allowed` says."""

    def name(stream):
        told = " ".join(stream.readline().decode().strip("\n") for _ in range(2))
        if not allowed(told):
            raise ValueError(told)
        return _Name(told)

    return name


def check_names(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PUSHED, b"c", name)
        for told in ("posix system", "builtins eval", "torch._utils _rebuild_parameter", "collections OrderedDict x"):
            try:
                run(io.BytesIO(b"\x80\x02c" + told.replace(" ", "\n", 1).encode() + b"\n."))
            except ValueError:
                continue
            raise AssertionError(f"{told} is let in")


def test_names():
    check_names(PUSHED[b"c"])
    rejects(check_names, asked(lambda told: True))
    rejects(check_names, asked(lambda told: told.startswith("torch")))
    rejects(check_names, asked(lambda told: told.startswith(DICTIONARY)))


ONE = np.arange(6, dtype="<f4").reshape(2, 3)
BROKEN = {
    "beyond its storage": (archived(program({"t": tensor("0", ONE, offset=1)}), {"t": ONE}), "beyond"),
    "a wide stride": (archived(program({"t": tensor("0", ONE, strides=(4, 1))}), {"t": ONE}), "beyond"),
    "a bomb": (
        archived(program({"t": tensor("0", ONE, strides=(0, 0)).replace(number(3), number(10**6))}), {"t": ONE}),
        "beyond",
    ),
    "a negative stride": (archived(program({"t": tensor("0", ONE, strides=(-3, 1))}), {"t": ONE}), "broken"),
    "a short storage": (archived(program({"t": tensor("0", ONE)}), {"t": ONE[:1]}), "truncated"),
    "another place": (archived(program({"t": tensor("../x", ONE)}), {"t": ONE}), "storage is broken"),
    "a storage that is missing": (archived(program({"t": tensor("9", ONE)}), {"t": ONE}), "truncated"),
    "numbers to be negated": (archived(program({"t": tensor("0", ONE)[:-2] + b"}tR"}), {"t": ONE}), "tensor is broken"),
    "17 axes": (archived(program({"t": tensor("0", ONE.reshape(2, 3, *[1] * 15))}), {"t": ONE}), "tensor is broken"),
    "a view": (archived(plain(legacy=True).replace(b"NtQ", b")tQ")), "storage is broken"),
    "more behind its program": (archived(plain() + b"."), "behind its program"),
    "two of one name": (twice(archived(plain())), "overlap"),
    "another archive": (twice(b""), "an archive of something else"),
    "compressed": (archived(plain(), compression=zipfile.ZIP_DEFLATED), "compressed"),
    "big-endian": (archived(plain(), order=b"big"), "little-endian"),
    "no tensors": (archived(program({"a": number(1)})), "something else"),
    "more behind it": (FILES["sequence"] + b"x", "behind"),
    "no such format": (b"hello", "cannot be read"),
    "empty": (b"", "cannot be read"),
}


@pytest.mark.parametrize(("content", "told"), BROKEN.values(), ids=BROKEN)
def test_broken(read, content, told):
    with pytest.raises(BadInput, match=told):
        read(content)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(BadInput, match="cannot be read"):
            read_pth(path)


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_truncated(read, content):
    for size in range(0, len(content), 5):
        with pytest.raises(BadInput):
            read(content[:size])


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_flipped_bytes_execute_nothing(read, content):
    """Every third byte, and 300 times five of them: arrays or a refusal, and nothing is looked up or run."""
    places = [[i] for i in range(0, len(content), 3)] + [list(RNG.integers(0, len(content), 5)) for _ in range(300)]
    refused = 0
    RUN["seen"] = []
    try:
        for at in places:
            damaged = bytearray(content)
            for i in at:
                damaged[i] ^= int(RNG.integers(1, 256))
            try:
                found = read(bytes(damaged))
            except BadInput:
                refused += 1
            else:
                assert all(type(value) is np.ndarray for value in found.values())
        assert RUN["seen"] == []
    finally:
        RUN["seen"] = None
    assert refused > 0.3 * len(places)


def test_limits(read, monkeypatch):
    """Words, programs and files that are longer than weights need are refused before they are read."""
    for size in (1025, 2**31 - 1):
        with pytest.raises(ValueError, match=f"a word of {size:,} bytes"):
            run(io.BytesIO(b"\x80\x02X" + struct.pack("<i", size) + b"a" * 1025 + b"."))
    assert run(io.BytesIO(b"\x80\x02X" + struct.pack("<i", 1024) + b"a" * 1024 + b".")) == "a" * 1024
    monkeypatch.setattr(pth_program, "LARGEST", 20)
    with pytest.raises(ValueError, match="longer than 20 bytes"):
        run(io.BytesIO(b"\x80\x02" + b"N" * 20 + b"."))
    monkeypatch.setattr(pth, "MOST", 100)
    with pytest.raises(BadInput, match="bytes are more than 100"):
        read(FILES["archive"])


def test_the_digest_in_a_name(tmp_path):
    content = FILES["archive"]
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name, good in ((f"a-{digest}.pth", True), ("a-00000000.pth", False), ("a-lite0.pth", True)):
        (tmp_path / name).write_bytes(content)
        if good:
            assert list(read_pth(tmp_path / name)) == list(ARRAYS)
        else:
            with pytest.raises(BadInput, match="its SHA-256 does not begin with 00000000"):
                read_pth(tmp_path / name)

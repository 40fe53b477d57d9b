"""CIFAR-10 from the archive of its binary version: pixels where they belong, and every damage named; planted bugs."""

from pathlib import Path

import numpy as np
import pytest
import tiny_sets as tiny
from planted import rejects

from genjax.data import commands, joined, sets
from genjax.data.formats import labelled_pixels, read_members
from genjax.data.prepared import check_set
from genjax.errors import BadInput

ROWS, ARCHIVE = tiny.CIFAR_ROWS, "cifar-10-binary.tar.gz"
SIZE = 3_073 * ROWS


def check_pixels(read):
    """Byte 1 + 1,024 c + 32 i + j of a record is colour c of the pixel in row i and column j; byte 0 is the label."""
    content = np.random.default_rng(0).integers(0, 10, (3, 3_073), np.uint8)
    image, label = read(content.tobytes(), "a.bin")
    assert (image.shape, image.dtype, label.dtype) == ((3, 32, 32, 3), np.uint8, np.int32)
    np.testing.assert_array_equal(label, content[:, 0])
    for n, i, j, c in [(0, 0, 0, 0), (1, 0, 1, 0), (2, 1, 0, 0), (0, 0, 0, 2), (1, 31, 30, 1), (2, 31, 31, 2)]:
        assert image[n, i, j, c] == content[n, 1 + 1_024 * c + 32 * i + j]
    np.testing.assert_array_equal(image.reshape(3, -1, 3).swapaxes(1, 2).reshape(3, -1), content[:, 1:])


def test_pixels_are_where_they_belong():
    check_pixels(labelled_pixels)
    image = lambda change: lambda content, where: (change(labelled_pixels(content, where)[0]), labels(content))
    labels = lambda content: labelled_pixels(content, "")[1]
    check_pixels(image(lambda x: x))
    rejects(check_pixels, image(lambda x: x.swapaxes(1, 2)))  # columns for rows
    rejects(check_pixels, image(lambda x: x[..., ::-1]))  # blue for red
    rejects(check_pixels, image(lambda x: x[:, ::-1]))
    rejects(check_pixels, image(lambda x: np.ascontiguousarray(x).reshape(3, 3, 32, 32).transpose(0, 2, 3, 1)))
    rejects(check_pixels, lambda content, where: (labelled_pixels(content, where)[0], np.zeros(3, np.int32)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, recipe = tmp_path_factory.mktemp("data"), tiny.cifar(tiny.cifar_files())
    folder = tiny.put(root / "from", tiny.cifar_files())
    commands.prepare("cifar10", folder, root / "sets", lambda line: None, tiny.known(recipe))
    return root / "sets"


def test_the_set_comes_back(prepared: Path) -> None:
    recipe = tiny.cifar(tiny.cifar_files())
    data = sets.grey(recipe, prepared, 10)
    parts = (data.train, slice(0, 18)), (data.validation, slice(18, 20)), (data.test, slice(20, 24))
    for split, rows in parts:  # the files in their order, a tenth of the training rows last
        np.testing.assert_array_equal(split.arrays["image"], tiny.PHOTOGRAPHS[rows])
        np.testing.assert_array_equal(split.arrays["label"], tiny.THINGS[rows])
    assert (data.name, data.classes, data.levels) == ("cifar10", 10, 256)
    whole = joined(data.train, data.validation)
    np.testing.assert_array_equal(whole.arrays["image"], tiny.PHOTOGRAPHS[:20])
    assert len(check_set(recipe, prepared)) == 3
    with pytest.raises(BadInput, match="genjax data prepare cifar10"):
        sets.cifar10(prepared / "elsewhere")


def whole() -> list[tuple[str, bytes]]:
    return [*tiny.cifar_members().items()]


def changed(name: str, content: bytes) -> list[tuple[str, bytes]]:
    return [(n, content if n.endswith(name) else c) for n, c in whole()]


def record(label: int) -> bytes:
    first = tiny.cifar_members()[tiny.CIFAR_NAMES[2]]
    return first[:3_073] + bytes([label]) + first[3_074:]


ARCHIVES = {
    "cut": (lambda: tiny.tar_gz(whole())[:-900], "cut or damaged"),
    "nothing": (lambda: b"", "cut or damaged"),
    "not gzip": (lambda: b"BZh9" + bytes(500), "cut or damaged"),
    "not tar": (lambda: tiny.gzip.compress(b"some text " * 200), "cut or damaged"),
    "its checksum is wrong": (lambda: tiny.tar_gz(whole())[:-8] + bytes(8), "cut or damaged"),
    "a file is missing": (lambda: tiny.tar_gz(whole()[:-1]), "test_batch.bin is not there"),
    "a file is there twice": (lambda: tiny.tar_gz([*whole(), whole()[3]]), "data_batch_3.bin is there twice"),
    "a file is short": (lambda: tiny.tar_gz(changed("batch_2.bin", bytes(SIZE - 1))), "data_batch_2.bin"),
    "a file is long": (lambda: tiny.tar_gz(changed("batch_2.bin", bytes(SIZE + 3_073))), f"{SIZE + 3_073:,} bytes"),
    "a label is too large": (lambda: tiny.tar_gz(changed("batch_3.bin", record(10))), "record 1: label 10"),
    "a way out": (lambda: tiny.tar_gz([*whole(), ("../a.bin", b"x")]), "not allowed"),
    "a way to the root": (lambda: tiny.tar_gz([("/etc/a.bin", b"x"), *whole()][:1]), "is not there"),
    "links for files": (lambda: tiny.tar_gz([(n, b"") for n, _ in whole()], b"3"), "not allowed"),
}


@pytest.mark.parametrize(("archive", "said"), ARCHIVES.values(), ids=ARCHIVES)
def test_damage_is_named(archive, said: str, tmp_path: Path) -> None:
    """The digest is that of the damaged file, so that the reader, and not the digest, has to find it."""
    files = {ARCHIVE: archive()}
    folder, recipe = tiny.put(tmp_path / "from", files), tiny.cifar(files)
    with pytest.raises(BadInput) as caught:
        commands.prepare("cifar10", folder, tmp_path / "sets", lambda line: None, tiny.known(recipe))
    assert said in str(caught.value) and len(caught.value.lines) <= 3
    assert [*(tmp_path / "sets").iterdir()] == [] and not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
def test_another_digest_is_refused_first(place: float, tmp_path: Path) -> None:
    content = bytearray(tiny.cifar_files()[ARCHIVE])
    content[int(place * len(content))] ^= 1
    folder, recipe = tiny.put(tmp_path / "from", {ARCHIVE: bytes(content)}), tiny.cifar(tiny.cifar_files())
    with pytest.raises(BadInput, match="damaged or another file"):
        commands.prepare("cifar10", folder, tmp_path / "sets", lambda line: None, tiny.known(recipe))


def test_the_limit_counts_what_is_skipped(tmp_path: Path) -> None:
    """An archive cannot hide its size in a file that nobody wants, nor behind its end."""
    folder = tiny.put(tmp_path, {"a.tar.gz": tiny.tar_gz([("zeros", bytes(2**21)), ("a", b"x")])})
    assert read_members(folder / "a.tar.gz", {"a": 1}, 2**21 + 1) == {"a": b"x"}
    with pytest.raises(BadInput, match=r"too many bytes, in zeros"):
        read_members(folder / "a.tar.gz", {"a": 1}, 2**20)
    end = tiny.gzip.decompress(tiny.tar_gz([("a", b"x")])) + bytes(2**22)
    tiny.put(tmp_path, {"b.tar.gz": tiny.gzip.compress(end)})
    with pytest.raises(BadInput, match="goes on behind"):
        read_members(folder / "b.tar.gz", {"a": 1})


def test_records_that_are_none():
    with pytest.raises(BadInput, match=r"a.bin has 3072 bytes"):
        labelled_pixels(bytes(3_072), "a.bin")
    with pytest.raises(BadInput, match=r"a.bin has 0 bytes"):
        labelled_pixels(b"", "a.bin")

"""Published sets: originals verified, prepared by our TFDS builder without TensorFlow, sealed; damage is named."""

import functools
import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jax
import numpy as np
import pytest

from genjax.data import batches, commands, originals, sets
from genjax.data.commands import Entry
from genjax.data.formats import amat_text
from genjax.data.originals import Original
from genjax.data.prepared import Recipe, check_set, folder_of, load_arrays
from genjax.errors import BadInput, Damaged, GenjaxError

RANDOM = np.random.default_rng(0)
IMAGES = {split: RANDOM.integers(0, 256, (rows, 28, 28), np.uint8) for split, rows in (("train", 30), ("test", 12))}
LABELS = {split: RANDOM.integers(0, 10, len(images), np.uint8) for split, images in IMAGES.items()}
BITS = {
    split: RANDOM.integers(0, 2, (rows, 784), np.uint8) for split, rows in (("train", 9), ("valid", 4), ("test", 5))
}


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes(), mtime=0)


def scans_files() -> dict[str, bytes]:
    names = {"train": "train", "test": "t10k"}
    return {
        file: idx(arrays[split])
        for split in ("train", "test")
        for file, arrays in (
            (f"{names[split]}-images-idx3-ubyte.gz", IMAGES),
            (f"{names[split]}-labels-idx1-ubyte.gz", LABELS),
        )
    }


def bits_files() -> dict[str, bytes]:
    return {f"binarized_mnist_{split}.amat": amat_text(bits).tobytes() for split, bits in BITS.items()}


def facts(files: dict[str, bytes], address: str = "http://127.0.0.1:9/") -> tuple[Original, ...]:
    return tuple(
        Original(file, address + file, len(data), hashlib.sha256(data).hexdigest()) for file, data in files.items()
    )


def scans(files: dict[str, bytes], address: str = "http://127.0.0.1:9/") -> Recipe:
    read = functools.partial(sets.read_scans, "mnist", facts(files, address))
    return sets.MNIST._replace(read=read, rows={"train": 30, "test": 12})


def bits(files: dict[str, bytes]) -> Recipe:
    read = functools.partial(sets.read_bits, "binarized_mnist", facts(files))
    return sets.BINARIZED_MNIST._replace(read=read, rows={"train": 9, "validation": 4, "test": 5})


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return folder


def known(*recipes: Recipe) -> dict[str, Entry]:
    return {recipe.name: Entry(sets.mnist, recipe) for recipe in recipes}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with tiny editions of both kinds of sets."""
    root = tmp_path_factory.mktemp("data")
    both = known(scans(scans_files()), bits(bits_files()))
    for name, files in (("mnist", scans_files()), ("binarized_mnist", bits_files())):
        commands.prepare(name, put(root / f"from-{name}", files), root / "sets", lambda line: None, both)
    return root / "sets"


def test_grey_scans_come_back(prepared: Path) -> None:
    data = sets.grey(scans(scans_files()), prepared)
    np.testing.assert_array_equal(data.train.arrays["image"][..., 0], IMAGES["train"][:25])
    np.testing.assert_array_equal(data.validation.arrays["image"][..., 0], IMAGES["train"][25:])
    np.testing.assert_array_equal(data.test.arrays["label"], LABELS["test"])
    assert (data.name, data.classes, data.levels) == ("mnist", 10, 256)
    image = data.train.prepare({"image": data.train.arrays["image"][:2]}, jax.random.key(0))["image"]
    np.testing.assert_allclose(image[..., 0], IMAGES["train"][:2] / 255, rtol=1e-6)


def test_three_binarizations_are_three_data_sets(prepared: Path) -> None:
    recipe = scans(scans_files())
    grey, dynamic, thresholded = (make(recipe, prepared) for make in (sets.grey, sets.dynamic, sets.thresholded))
    assert len({grey.fingerprint, dynamic.fingerprint, thresholded.fingerprint}) == 3
    assert [data.name for data in (dynamic, thresholded)] == ["mnist_dynamic", "mnist_thresholded"]
    np.testing.assert_array_equal(thresholded.train.arrays["image"][..., 0], IMAGES["train"][:25] > 127.5)
    once = np.random.RandomState(777)
    for split, images in (("validation", IMAGES["train"][25:]), ("test", IMAGES["test"])):
        expected = once.binomial(1, (images / np.float32(255)))
        np.testing.assert_array_equal(getattr(dynamic, split).arrays["image"][..., 0], expected)
    source = batches(dynamic.train, 25)
    draws = [jax.jit(source.batch)(source.resident, jax.random.key(0), step)["image"] for step in range(2)]
    assert all(set(np.unique(draw)) == {0.0, 1.0} for draw in draws)
    assert not np.array_equal(np.sort(draws[0].reshape(25, -1), 0), np.sort(draws[1].reshape(25, -1), 0))


@pytest.mark.parametrize("packed", [False, True])
def test_static_bits_come_back(packed: bool, tmp_path: Path) -> None:
    recipe, folder = bits(bits_files()), tmp_path / "from"
    if packed:
        folder.mkdir()
        np.savez(folder / "any_name.npz", **{split: np.packbits(rows, axis=1) for split, rows in BITS.items()})
    commands.prepare("binarized_mnist", put(folder, {} if packed else bits_files()), tmp_path, print, known(recipe))
    data = sets.static(recipe, tmp_path)
    for split, name in ((data.train, "train"), (data.validation, "valid"), (data.test, "test")):
        np.testing.assert_array_equal(split.arrays["image"].reshape(-1, 784), BITS[name])
    assert (data.levels, data.classes, len(data.train.arrays)) == (2, None, 1)


def test_neither_tensorflow_nor_noise(tmp_path: Path) -> None:
    """A fresh process prepares and reads a set: nothing printed, no warning, no TensorFlow; private folders."""
    put(tmp_path / "from", bits_files())
    code = """
import sys, test_data_prepare as t
from genjax.data import commands
commands.prepare("binarized_mnist", sys.argv[1], sys.argv[2], lambda line: None, t.known(t.bits(t.bits_files())))
assert "tensorflow" not in sys.modules
"""
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "from"), str(tmp_path / "sets")]
    done = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "sets").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["published"]


def test_prepared_twice_is_prepared_once(prepared: Path) -> None:
    said: list[str] = []
    commands.prepare("mnist", None, prepared, said.append, known(scans(scans_files())))
    assert said == [f"mnist is prepared already, in {prepared}/published/mnist/1.0.0."]
    rows = commands.list_sets(prepared, {**known(scans(scans_files())), "other": commands.SETS["fashion_mnist"]})
    assert [(row.state, row.rows) for row in rows] == [("prepared", "30 + 12"), ("not prepared", "60,000 + 10,000")]
    found = commands.check("mnist", prepared, known(scans(scans_files())))
    assert found[1:] == ["train: 30 rows, records equal to arrays", "test: 12 rows, records equal to arrays"]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "flipped": _flip,
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
}
FILES = ["SEAL.json", "arrays/train-image.npy", "published-train.array_record-00000-of-00001", "dataset_info.json"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_damage_is_found_and_repaired(file: str, damage: str, prepared: Path, tmp_path: Path) -> None:
    recipe = scans(scans_files())
    here = folder_of(recipe, tmp_path)
    here.parent.mkdir(parents=True)
    subprocess.run(["cp", "-r", str(folder_of(recipe, prepared)), str(here)], check=True)
    DAMAGE[damage](here / file)
    if file == "SEAL.json" and damage == "flipped":  # a digest or a name in it is another: whatever it is, it is seen
        seal = json.loads(folder_of(recipe, prepared).joinpath(file).read_text())
        seal["files"]["arrays/train-image.npy"]["sha256"] = "0" * 64
        (here / file).write_text(json.dumps(seal))
    with pytest.raises(Damaged) as caught:
        check_set(recipe, tmp_path)
    assert file.replace("SEAL.json", "") in caught.value.lines[0] and "genjax data prepare mnist" in str(caught.value)
    if file.startswith(("arrays", "SEAL")):
        with pytest.raises(Damaged):
            load_arrays(recipe, tmp_path)
        assert commands.state(recipe, tmp_path) == "damaged" or damage == "flipped"
        commands.prepare("mnist", put(tmp_path / "from", scans_files()), tmp_path, print, known(recipe))
        assert len(check_set(recipe, tmp_path)) == 3


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server on this machine, and the files it gives: the test changes them."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path[1:])
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args: object) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/", files
    served.shutdown()
    thread.join()
    served.server_close()


def test_download(server: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    address, served = server
    served.update(scans_files())
    recipe = scans(scans_files(), address)
    commands.prepare("mnist", None, tmp_path, print, known(recipe))
    np.testing.assert_array_equal(load_arrays(recipe, tmp_path)["test"]["label"], LABELS["test"])


@pytest.mark.parametrize("wrong", ["missing", "longer", "shorter", "changed"])
def test_download_of_something_else(wrong: str, server: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    address, served = server
    served.update(scans_files())
    file = "t10k-images-idx3-ubyte.gz"
    content = served.pop(file)
    if wrong != "missing":
        served[file] = {"longer": content + b"0" * 10**6, "shorter": content[:-1], "changed": content[:-1] + b"!"}[
            wrong
        ]
    with pytest.raises(BadInput, match=file) as caught:
        commands.prepare("mnist", None, tmp_path, print, known(scans(scans_files(), address)))
    assert len(caught.value.lines) == 3 and list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk; nothing half-made is left behind."""
    code = """
import resource, signal, sys, test_data_prepare as t
from genjax.data import commands
from genjax.errors import Damaged
import genjax.data.builders
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    commands.prepare("mnist", sys.argv[1], sys.argv[2], lambda line: None, t.known(t.scans(t.scans_files())))
except Damaged as error:
    sys.exit(0 if len(error.lines) <= 3 else str(error))
sys.exit("nothing was raised")
"""
    put(tmp_path / "from", scans_files())
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", code, str(tmp_path / "from"), str(tmp_path / "sets")]
    done = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "sets").iterdir()) == []


def test_the_published_facts_are_those_of_tfds() -> None:
    import tensorflow_datasets

    root = Path(tensorflow_datasets.__file__).parent
    for files, path in (
        (originals.MNIST_FILES, "url_checksums/mnist.txt"),
        (originals.FASHION_MNIST_FILES, "url_checksums/fashion_mnist.txt"),
        (originals.BINARIZED_MNIST_FILES, "datasets/binarized_mnist/checksums.tsv"),
    ):
        pinned = {tuple(line.split("\t")[:3]) for line in (root / path).read_text().splitlines() if line}
        assert {(original.url, str(original.size), original.sha256) for original in files} == pinned


def test_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENJAX_DATA_DIR", str(tmp_path / "there"))
    with pytest.raises(GenjaxError, match="there"):
        sets.mnist()
    with pytest.raises(GenjaxError, match="here"):
        sets.mnist(tmp_path / "here")
    monkeypatch.delenv("GENJAX_DATA_DIR")
    with pytest.raises(GenjaxError, match=r"\.cache/genjax/data"):
        sets.mnist()

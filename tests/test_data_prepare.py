"""Published sets: originals verified, prepared by our TFDS builder without TensorFlow, sealed, and read back."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_sets import BITS, IMAGES, LABELS, bits, bits_files, known, put, scans, scans_files

from genjax.data import batches, commands, originals, sets
from genjax.errors import GenjaxError


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
import sys, tiny_sets as t
from genjax.data import commands
commands.prepare("binarized_mnist", sys.argv[1], sys.argv[2], lambda line: None, t.known(t.bits(t.bits_files())))
assert "tensorflow" not in sys.modules
"""
    here = Path(__file__).parent  # and not sys.path, which holds the folders of experiments that other tests loaded
    path = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
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


def test_the_published_facts_are_those_of_tfds() -> None:
    import tensorflow_datasets

    root = Path(tensorflow_datasets.__file__).parent
    for files, path in (
        (originals.MNIST_FILES, "url_checksums/mnist.txt"),
        (originals.FASHION_MNIST_FILES, "url_checksums/fashion_mnist.txt"),
        (originals.CIFAR10_FILES, "url_checksums/cifar10.txt"),
        (originals.BINARIZED_MNIST_FILES, "datasets/binarized_mnist/checksums.tsv"),
        (originals.TINY_SHAKESPEARE_FILES, "datasets/tiny_shakespeare/checksums.tsv"),
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

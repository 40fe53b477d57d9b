"""Splits: digits as shipped, validation carved the same everywhere, the user's own files read as they were written."""

import csv
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from genjax.data import batches, carve, digits, from_file
from genjax.data.digits import _table
from genjax.data.formats import read_amat, read_idx


def rows_of(array: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in array)


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    published = load_digits()
    table = _table()
    np.testing.assert_array_equal(table[:, :64], published.data)
    np.testing.assert_array_equal(table[:, 64], published.target)
    data = digits()
    image = np.concatenate([split.arrays["image"] for split in data[1:4]])
    assert rows_of(image) == rows_of(published.data.astype(np.uint8))
    assert [len(split.arrays["label"]) for split in data[1:4]] == [1_297, 250, 250]
    assert (data.name, data.classes, data.levels) == ("digits", 10, 17)
    by_image = {row.tobytes(): label for row, label in zip(table[:, :64], table[:, 64], strict=True)}
    for split in data[1:4]:
        assert [by_image[row.tobytes()] for row in split.arrays["image"]] == split.arrays["label"].tolist()


def test_digits_are_the_same_on_every_machine() -> None:
    """The digest of the first release: a change of it makes every result on digits another data set's."""
    assert digits().fingerprint == "be080d03dfcdefd61285ca3c889ec01989be593c7241bf23a0b107a2a15b033c"


def test_prepared_pixels_are_levels_over_sixteen() -> None:
    source = batches(digits().train, 200)
    image = np.asarray(source.batch(source.resident, jax.random.key(0), 0)["image"])
    assert image.dtype == np.float32 and set(np.unique(image)) == {level / 16 for level in range(17)}


@pytest.mark.parametrize("rows, fractions", [(3, (0.4, 0.3, 0.3)), (10, (0.8, 0.1, 0.1)), (1_797, (0.7, 0.15, 0.15))])
def test_carved_parts_are_all_rows_once(rows: int, fractions: tuple[float, float, float]) -> None:
    parts = carve(rows, fractions)
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
    again = carve(rows, fractions)
    assert all(np.array_equal(part, same) for part, same in zip(parts, again, strict=True))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - rows * fraction) <= 1


def test_carved_parts_are_drawn_from_the_whole() -> None:
    _, validation, test = carve(10_000)
    for part in (validation, test):  # 1,000 of 10,000: the mean row is 4,999.5 with a deviation of about 87
        assert abs(part.mean() - 4_999.5) < 4 * 87


@pytest.mark.parametrize("packed", [False, True])
def test_images_in_numpy_files(packed: bool, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 5, 6, 3), np.uint8)
    label = np.arange(20) % 4
    path = tmp_path / ("mine.npz" if packed else "mine.npy")
    np.savez(path, image=image, label=label) if packed else np.save(path, image)
    data = from_file(path)
    assert rows_of(np.concatenate([split.arrays["image"] for split in data[1:4]])) == rows_of(image)
    assert [len(split.arrays["image"]) for split in data[1:4]] == [16, 2, 2]
    assert (data.levels, data.classes, data.name) == (256, 4 if packed else None, "mine")
    if packed:
        place = {row.tobytes(): number for row, number in zip(image, label, strict=True)}
        assert [place[row.tobytes()] for row in data.test.arrays["image"]] == data.test.arrays["label"].tolist()


@pytest.mark.parametrize(
    "array, field, levels, shape",
    [
        (np.zeros([10, 4, 4], np.uint8), "image", 2, (4, 4, 1)),
        (np.full([10, 4, 4], 200, np.int64), "image", 256, (4, 4, 1)),
        (np.zeros([10, 4, 4, 3], np.float64), "image", 0, (4, 4, 3)),
        (np.ones([10, 4, 4, 1], bool), "image", 2, (4, 4, 1)),
        (np.linspace(-5, 5, 30).reshape(10, 3), "x", 0, (3,)),
        (np.arange(30).reshape(10, 3), "tokens", 30, (3,)),
    ],
)
def test_what_an_array_is(array: np.ndarray, field: str, levels: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", array)
    data = from_file(tmp_path / "mine.npy")
    found = data.train.arrays[field]
    assert (list(data.train.arrays), data.levels, found.shape[1:]) == ([field], levels, shape)
    assert found.dtype == {"image": np.float32 if levels == 0 else np.uint8, "x": np.float32, "tokens": np.int32}[field]


@pytest.mark.parametrize("classes", [False, True])
def test_a_folder_of_images(classes: bool, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 5, 6, 3), np.uint8)
    for row, pixels in enumerate(image):
        folder = tmp_path / ("odd" if row % 2 else "even") if classes else tmp_path
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{row:02d}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    data = from_file(tmp_path, (0.5, 0.25, 0.25))
    assert rows_of(np.concatenate([split.arrays["image"] for split in data[1:4]])) == rows_of(image)
    if classes:
        even = set(rows_of(image[::2]))
        for split in data[1:4]:
            found = [0 if row.tobytes() in even else 1 for row in split.arrays["image"]]
            assert found == split.arrays["label"].tolist()


@pytest.mark.parametrize("header", [False, True])
def test_a_table(header: bool, tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(20, 3)).round(3)
    label = np.arange(20) % 3
    with open(tmp_path / "mine.csv", "w", newline="", encoding="utf-8-sig") as stream:
        lines = csv.writer(stream)
        if header:
            lines.writerow(["a", "label", "b", "c"])
        for row, number in zip(table.tolist(), label.tolist(), strict=True):
            lines.writerow([row[0], number, *row[1:]] if header else row)
    data = from_file(tmp_path / "mine.csv")
    x = np.concatenate([split.arrays["x"] for split in data[1:4]])
    assert rows_of(x) == rows_of(table.astype(np.float32))
    assert data.classes == (3 if header else None) and ("label" in data.train.arrays) == header


def test_a_text_is_cut_where_it_stands(tmp_path: Path) -> None:
    text = "".join(chr(ord("a") + i % 7) for i in range(100)) + "é"
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    data = from_file(tmp_path / "mine.txt", (0.5, 0.25, 0.25), length=10)
    tokens = np.concatenate([split.arrays["tokens"] for split in data[1:4]])
    assert "".join(data.vocabulary[token] for token in tokens.ravel()) == text[:100]
    assert (data.vocabulary, data.levels) == ("abcdefgé", 8)
    assert [len(split.arrays["tokens"]) for split in data[1:4]] == [6, 2, 2]


def test_formats_read_what_was_written(tmp_path: Path) -> None:
    import gzip

    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    head = bytes([0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5])
    (tmp_path / "a.gz").write_bytes(gzip.compress(head + array.tobytes()))
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz", 3), array)
    (tmp_path / "a.amat").write_bytes(b"0 1 1\n1 0 0\n")
    np.testing.assert_array_equal(read_amat(tmp_path / "a.amat", 3), [[0, 1, 1], [1, 0, 0]])

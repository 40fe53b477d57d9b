"""Streams of records: exact order after a resume, on 1, 2 and 4 processes, and damage that is named."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from genjax.data import resampled, streamed
from genjax.data.builders import open_records, write_records
from genjax.errors import BadInput, Damaged
from genjax.types import Source

STEPS = (0, 1, 6, 7, 13, 14, 700_001)  # of 7 a epoch


def rows_of(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.int32(row)} for row in range(count)]


def make(process: tuple[int, int] = (0, 1), rows: int = 31) -> Source:
    return streamed(rows_of(rows), 4, process=process)


def read(source: Source, steps: list[int] | range, seed: int = 5) -> list[list[int]]:
    return [source.fetch(seed, step)["x"].tolist() for step in steps]


def check_resume(make: Callable[[], Source]) -> None:
    """Steps read in order, from any step on, and one at a time are the same."""
    straight = read(make(), range(20))
    for start in (0, 1, 6, 7, 13, 19):
        assert read(make(), range(start, 20)) == straight[start:], f"resumed at step {start}"
    source = make()
    jumps = [19, 3, 3, 4, 0, 12]
    assert read(source, jumps) == [straight[step] for step in jumps]


def test_resume_at_any_step() -> None:
    check_resume(make)


def test_the_check_of_resume_sees_a_reader_that_is_not_moved() -> None:
    def forgetful() -> Source:
        source, count = make(), iter(range(10**6))
        return source._replace(fetch=lambda seed, step: source.fetch(seed, next(count)))

    with pytest.raises(AssertionError):
        check_resume(forgetful)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_together_read_the_batch(processes: int) -> None:
    whole = make()
    parts = [make((index, processes)) for index in range(processes)]
    for step in STEPS:
        rows = [part.fetch(5, step)["x"] for part in parts]
        assert {part.shape for part in rows} == {(4 // processes,)}
        np.testing.assert_array_equal(np.concatenate(rows), whole.fetch(5, step)["x"])


def test_epochs_and_seeds_differ_and_rows_come_once() -> None:
    epochs = np.array(read(make(), range(42))).reshape(6, 28)
    assert all(len(set(epoch)) == 28 for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6
    assert set(epochs.ravel().tolist()) == set(range(31))
    assert np.ravel(read(make(), range(7), seed=6)).tolist() not in epochs.tolist()


def test_seeds_are_no_shifted_epochs() -> None:
    second = read(make(), range(7, 14), seed=0)
    assert read(make(), range(7), seed=1) != second


def test_preparation_is_traced_and_of_the_step() -> None:
    records = [{"image": np.full([2, 2, 1], 128, np.uint8)} for _ in range(8)]
    source = streamed(records, 4, prepare=resampled(256))
    draw = jax.jit(source.batch)
    first, second, again = (draw(source.fetch(0, 0), jax.random.key(0), step)["image"] for step in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second) and set(np.unique(first)) == {0.0, 1.0}


def test_record_files(tmp_path: Path) -> None:
    """Rows of TFDS record files come back as they were written, and cut files are named."""
    image = np.random.default_rng(0).integers(0, 256, (50, 28, 28, 1), dtype=np.uint8)
    label = np.arange(50, dtype=np.int32)
    folder = write_records("scans", "", {"train": {"image": image, "label": label}}, tmp_path)
    source = streamed(open_records(folder, "train"), 10)
    batches = [source.fetch(0, step) for step in range(5)]
    assert sorted(np.concatenate([batch["label"] for batch in batches])) == list(range(50))
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], image[batch["label"]])
    (file,) = folder.glob("*.array_record-*")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Damaged, match="cannot be read"):
        streamed(open_records(folder, "train"), 10)


@pytest.mark.parametrize("lost", [[7], range(16, 24)])
def test_lost_records_are_not_left_out(lost: list[int] | range) -> None:
    """TFDS gives None for a record that it cannot read, and Grain would leave it out."""
    records = [None if row in lost else {"x": np.int32(row)} for row in range(200)]
    source = streamed([{"x": np.int32(0)}] * 200, 2)
    assert source.fetch(0, 0)["x"].shape == (2,)

    def decode(record: dict | None) -> dict:
        return {"x": np.int32(0)} if record is None and not reading else dict(record)

    reading: list[int] = []
    source = streamed(records, 2, decode)
    reading.append(1)
    with pytest.raises(Damaged, match="cannot be read"):
        for step in range(100):
            source.fetch(0, step)


def test_a_reader_goes_on_after_damage() -> None:
    records = rows_of(40)
    source = streamed(records, 4)
    expected = read(streamed(rows_of(40), 4), range(10))
    lost = expected[5][0]
    records[lost] = None
    with pytest.raises(Damaged):
        read(source, range(10))
    records[lost] = {"x": np.int32(lost)}
    assert read(source, range(5, 10)) == expected[5:]


@pytest.mark.parametrize("batch_size, processes", [(0, 1), (32, 1), (True, 1), (6, 4), ("4", 1)])
def test_a_batch_size_that_does_not_fit(batch_size: object, processes: int) -> None:
    with pytest.raises(BadInput, match="batch_size"):
        streamed(rows_of(31), batch_size, process=(0, processes))


def test_without_grain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="Grain") as caught:
        streamed(rows_of(31), 4)
    assert "pip install 'genjax-research[grain]'" in caught.value.lines[-1]


def test_fingerprints_see_the_rows() -> None:
    changed = rows_of(31)
    changed[30] = {"x": np.int32(-1)}
    found = {streamed(rows, 4).fingerprint for rows in (rows_of(31), rows_of(30), changed)}
    assert len(found) == 3 and make().fingerprint in found

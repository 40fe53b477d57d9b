"""Batches of a set that is larger than memory: read from record files by Grain, in an order that is random access.

The order is Grain's global shuffle, a bijection of the row numbers that is evaluated a row at a time, so the rows of
step t are known without reading those before it. Each process reads its own share of them.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from genjax.data.batches import noise_key
from genjax.data.split import Prepare, Split, fingerprint, unchanged
from genjax.errors import BadInput, Damaged
from genjax.types import Batch, Key, Source

SAMPLE = 64  # rows that the fingerprint reads: the whole set may take hours
THREADS = 4  # that read ahead, one batch each


class Records(Protocol):
    """Rows by random access: a TFDS `as_data_source`, Grain's `ArrayRecordDataSource`, a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Any: ...


def streamed(
    records: Records,
    batch_size: int,
    decode: Callable[[Any], Mapping[str, np.ndarray]] = dict,
    prepare: Prepare = unchanged,
    process: tuple[int, int] | None = None,
) -> Source:
    """Shuffled batches of records that stay on disk.

    An epoch has floor(N / B) batches; each epoch is a new order of all rows, and the N mod B that come last in it are
    left out. Step t is the same rows whatever was read before it, and on any number of processes together.

    Args:
      records: `len(records)` and `records[row]`, safe to call from several threads.
      batch_size: B, rows of the global batch: from 1 to N, divisible by the number of processes.
      decode: a record -> field -> array of one row. Rows must agree in fields, shapes and types.
      prepare: traced; the rows [B, ...] and a key -> what a loss sees.
      process: (index, count) of this process; None: JAX's.
    Returns:
      A source whose `fetch(seed, step)` gives this process's rows, field -> [B / count, ...]; process p of P has the
      p-th part of the batch.
    Raises:
      BadInput: Grain is not installed, or a batch size that does not fit.
      Damaged: from `fetch`, where a record cannot be read.

    >>> source = streamed([{"x": np.float32(row)} for row in range(10)], 4)
    >>> first, second, again = (source.fetch(0, step)["x"].tolist() for step in (0, 1, 0))
    >>> first == again, len({*first, *second})
    (True, 8)
    """
    index, count = (jax.process_index(), jax.process_count()) if process is None else process
    check_stream(records, batch_size, count)
    reading: dict[str, Any] = {"seed": None, "step": -1, "rows": iter(())}  # one reader, moved when the step jumps

    def fetch(seed: int, step: int) -> dict[str, np.ndarray]:
        if (seed, step) != (reading["seed"], reading["step"]):
            reading["rows"] = read_from(records, decode, batch_size, (index, count), seed, step)
        reading.update(seed=seed, step=None)  # after an error the next call starts a new reader
        rows = next_rows(reading["rows"], step)
        reading["step"] = step + 1
        return rows

    def batch(feed: Batch, key: Key, step: jax.Array) -> Batch:
        return prepare(feed, noise_key(key, step))

    digest = fingerprint(Split(sample_rows(records, decode), prepare))
    return Source(
        batch, batch_size, fetch=fetch, rows=len(records), fingerprint=f"{len(records)} rows, sample {digest}"
    )


def read_from(
    records: Records,
    decode: Callable[[Any], Mapping[str, np.ndarray]],
    batch_size: int,
    process: tuple[int, int],
    seed: int,
    step: int,
) -> Iterator[dict[str, np.ndarray]]:
    """This process's batches from a step on; Grain's threads read ahead."""
    import grain

    index, count = process
    rows = grain.MapDataset.source(records).seed(seed).shuffle()
    rows = rows[: len(records) // batch_size * batch_size].map(decode)
    parts = rows.batch(batch_size // count)[index::count].repeat()
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS)  # in batches
    # A batch of lost records would be None: without `allow_nones` it is left out, and every later step is another's.
    reader = iter(parts.to_iter_dataset(options, allow_nones=True))
    reader.set_state({"next_index": step})
    return reader


def next_rows(reader: Iterator[dict[str, np.ndarray]], step: int) -> dict[str, np.ndarray]:
    """The next batch; what a reader, Grain or the decoding raises becomes Damaged."""
    try:
        rows = next(reader)
        if rows is None:
            raise ValueError("it is None")
        return rows
    except Exception as error:  # TFDS gives None for a lost record, array_record raises RuntimeError, `decode` anything
        what = f"Step {step}: a record cannot be read: {type(error).__name__}: {error}"
        raise Damaged(what, "The record files are cut or damaged, or `decode` does not fit them.") from error


def check_stream(records: Records, batch_size: int, processes: int) -> None:
    """Raises BadInput unless Grain is there and the batch size fits."""
    if importlib.util.find_spec("grain") is None:
        what = "Grain, which reads sets larger than memory, is not installed."
        raise BadInput(what, "It is an optional extra.", "Run: python -m pip install 'genjax-research[grain]'")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= len(records):
        what = f"batch_size = {batch_size!r} does not fit a set of {len(records)} rows."
        raise BadInput(what, f"Allowed are whole numbers from 1 to {len(records)}.")
    if batch_size % processes:
        near = max(processes, batch_size // processes * processes)
        what = f"batch_size = {batch_size} is not divisible by {processes} processes."
        raise BadInput(what, "Each process reads an equal share.", f"Use --batch-size {near} or {near + processes}.")


def sample_rows(records: Records, decode: Callable[[Any], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Evenly spaced rows, first and last included, as arrays."""
    chosen = np.unique(np.linspace(0, len(records) - 1, SAMPLE).astype(int))
    try:
        rows = [decode(records[int(row)]) for row in chosen]
        return {field: np.stack([row[field] for row in rows]) for field in rows[0]}
    except Exception as error:
        what = f"The first records cannot be read: {type(error).__name__}: {error}"
        raise Damaged(what, "The record files are cut or damaged, or `decode` does not fit them.") from error

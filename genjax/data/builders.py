"""Our own TFDS builder: it writes and reads `array_record` files without TensorFlow.

The stock builders encode pictures with TensorFlow, so preparing them needs it. This one stores bytes. It is given
arrays that are read and verified already, keeps the published order, and is read by `as_data_source`.
Importing this module imports tensorflow_datasets (0.4 s): only functions that need it do.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from genjax.data.split import Arrays
from genjax.errors import Damaged


class Published(tfds.core.GeneratorBasedBuilder):
    """A published data set, as arrays; the configuration names it."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look beside this file for checksums, by a package that it does not itself require

    def __init__(self, splits: Mapping[str, Arrays], **settings: Any):
        self.splits = splits
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        arrays = next(iter(self.splits.values()))
        features = tfds.features.FeaturesDict({field: _feature(array) for field, array in arrays.items()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(arrays) for split, arrays in self.splits.items()}

    def _generate_examples(self, arrays: Arrays) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for row in range(min(len(array) for array in arrays.values())):
            yield row, {field: array[row] for field, array in arrays.items()}


def _feature(array: np.ndarray) -> Any:
    if array.ndim == 1:
        return tfds.features.Scalar(dtype=array.dtype)
    return tfds.features.Tensor(shape=array.shape[1:], dtype=array.dtype, encoding=tfds.features.Encoding.BYTES)


def write_records(name: str, description: str, splits: Mapping[str, Arrays], root: Path) -> Path:
    """Writes a set's record files below `root` and returns their folder, root / published / name / version."""
    try:
        with quiet():
            config = tfds.core.BuilderConfig(name=name, description=description)
            builder = Published(splits, config=config, data_dir=root, file_format="array_record")
            settings = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_dir=root / "downloads", download_config=settings)
    except Exception as error:  # a full disk is an OSError or a RuntimeError, by the layer that meets it
        raise Damaged(
            f"Writing data set {name} failed: {error}", "Is the disk full?", "Use --data-dir FOLDER."
        ) from error
    return Path(builder.data_dir)


def open_records(folder: Path, split: str) -> Any:
    """The rows of a split by random access: `len(records)`, and `records[row]`, a dictionary of arrays."""
    with quiet():
        return tfds.builder_from_directory(folder).as_data_source(split)


def read_records(folder: Path, split: str) -> dict[str, np.ndarray]:
    """A whole split as arrays.

    Raises:
      Damaged: a record file is cut, changed or missing.
    """
    try:
        records = open_records(folder, split)
        rows = records.__getitems__(list(range(len(records))))
    except (
        Exception
    ) as error:  # TFDS and array_record raise whatever their layers do: RuntimeError, ValueError, OSError
        what = f"{folder}, split {split}: the records cannot be read: {error}"
        raise Damaged(what, "The files are cut or damaged.", "Prepare the set again.") from error
    lost = [row for row, example in enumerate(rows) if example is None]  # TFDS's answer to a record that it cannot read
    if lost or not rows:
        what = (
            f"{folder}, split {split}: {len(lost)} of {len(rows)} records cannot be read, the first in row {lost[:1]}."
        )
        raise Damaged(what, "The files are cut or damaged.", "Prepare the set again.")
    return {field: np.stack([example[field] for example in rows]) for field in rows[0]}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS: no progress bars, no prints, no warnings about custom configurations."""
    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

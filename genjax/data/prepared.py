"""Data sets prepared on disk: TFDS record files, the same rows as arrays, and a seal of digests over all of them.

    <data directory>/published/<name>/<version>/    *.array_record-*  dataset_info.json  features.json    (TFDS)
                                                    arrays/<split>-<field>.npy     read by training: 0.1 s, not 2 s
                                                    SEAL.json                      bytes and sha256 of each file

A set is prepared in a temporary folder and moved into place by one rename, so it is there whole or not at all. The
record files cannot notice that they were cut until a reader meets the hole, and `.npy` files carry no checksum: what is
read is compared with the seal.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genjax.data.checks import check_arrays
from genjax.data.originals import make_private, no_space
from genjax.data.split import Arrays
from genjax.errors import BadInput, Damaged

VERSION = "1.0.0"  # of the layout: the builder's
Tell = Callable[[str], None]


class Recipe(NamedTuple):
    """How a published set is made."""

    name: str
    read: Callable[
        [Path | None, Path, Tell], dict[str, Arrays]
    ]  # (folder of originals or None, downloads, tell) -> splits
    rows: Mapping[str, int]  # split -> rows, as published
    classes: int | None
    levels: int  # values that a stored pixel or token takes
    licence: str
    about: str  # source and citation
    size: str = ""  # how `genjax data list` tells the size; its rows, where this is empty


def data_directory(given: str | Path | None = None) -> Path:
    """The folder of prepared sets: the one given, else $GENJAX_DATA_DIR, else ~/.cache/genjax/data."""
    chosen = given or os.environ.get("GENJAX_DATA_DIR") or Path.home() / ".cache" / "genjax" / "data"
    return Path(chosen).expanduser().absolute()


def folder_of(recipe: Recipe, given: str | Path | None = None) -> Path:
    """Where a prepared set is, or would be."""
    return data_directory(given) / "published" / recipe.name / VERSION


def prepare_set(recipe: Recipe, from_dir: str | Path | None, given: str | Path | None, tell: Tell) -> Path:
    """Reads the originals, writes records and arrays, reads them back, seals them and moves them into place.

    Args:
      recipe: the set.
      from_dir: a folder of the originals; None: download them.
      given: the data directory; None: the default.
      tell: told of each stage.
    Returns:
      The folder of the prepared set.
    Raises:
      BadInput: originals missing or not the published ones, or the data directory is not writable.
      Damaged: what was written is not what is read back, or writing failed.
    """
    root = make_private(data_directory(given))
    for left in root.glob(".preparing-*"):
        if time.time() - left.stat().st_mtime > 86_400:  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=".preparing-", dir=root))
    try:
        splits = recipe.read(None if from_dir is None else Path(from_dir).expanduser(), work, tell)
        check_splits(recipe, splits)
        counts = " + ".join(f"{rows:,}" for rows in recipe.rows.values())
        tell(f"Writing {recipe.size or f'{counts} rows'}.")
        folder = _write(recipe, splits, work)
        target = folder_of(recipe, root)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.exists():  # damaged, or prepared meanwhile by another process
            target.rename(work / "replaced")
        folder.rename(target)
        return target
    except OSError as error:
        raise no_space(error, root) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_splits(recipe: Recipe, splits: Mapping[str, Arrays]) -> None:
    """Raises BadInput unless the splits have the published numbers of rows and values in range."""
    for split, rows in recipe.rows.items():
        check_arrays(splits[split], f"{recipe.name}, split {split}", recipe.classes, recipe.levels)
        found = len(next(iter(splits[split].values())))
        if found != rows:
            raise BadInput(
                f"{recipe.name}, split {split}: {found} rows.", f"Published are {rows}.", "Get the originals."
            )


def _write(recipe: Recipe, splits: Mapping[str, Arrays], work: Path) -> Path:
    from genjax.data.builders import read_records, write_records

    folder = write_records(recipe.name, recipe.about, splits, work)
    (folder / "arrays").mkdir()
    for split, arrays in splits.items():
        back = read_records(folder, split)
        for field, array in arrays.items():
            if not np.array_equal(back[field], array):
                raise Damaged(f"{recipe.name}, split {split}, field {field}: the records read back differ.")
            np.save(folder / "arrays" / f"{split}-{field}.npy", array, allow_pickle=False)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    seal = {"version": 1, "name": recipe.name, "files": {str(p.relative_to(folder)): _digest(p) for p in files}}
    (folder / "SEAL.json").write_text(json.dumps(seal, indent=1))
    return folder


def read_seal(recipe: Recipe, given: str | Path | None = None) -> dict[str, Any]:
    """The seal of a prepared set.

    Raises:
      BadInput: the set is not prepared.
      Damaged: its folder is there and its seal is not, or is not readable.
    """
    folder = folder_of(recipe, given)
    if not folder.exists():
        what = f"Data set {recipe.name} is not prepared in {data_directory(given)}."
        raise BadInput(what, "With its originals in a folder, add: --from FOLDER", f"Run: {command(recipe, given)}")
    try:
        seal = json.loads((folder / "SEAL.json").read_text())
        if seal["name"] != recipe.name or not isinstance(seal["files"], dict):
            raise ValueError(f"it is of {seal['name']}")
        return seal
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(recipe, given, f"{folder / 'SEAL.json'} cannot be read: {error}") from error


def load_arrays(recipe: Recipe, given: str | Path | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of a prepared set, split -> field -> [N, ...], each compared with its digest.

    Raises:
      BadInput: the set is not prepared.
      Damaged: a file is missing or is not what was sealed.
    """
    folder, seal = folder_of(recipe, given), read_seal(recipe, given)
    splits: dict[str, dict[str, np.ndarray]] = {split: {} for split in recipe.rows}
    for name in seal["files"]:
        if name.startswith("arrays/"):
            split, field = Path(name).stem.split("-")
            content = verified(recipe, given, name, seal["files"][name])
            splits[split][field] = np.load(io.BytesIO(content), allow_pickle=False)
    for split, rows in recipe.rows.items():
        found = {len(array) for array in splits[split].values()}
        if found != {rows}:
            raise damaged(recipe, given, f"{folder}, split {split}: rows {sorted(found)}, published are {rows}")
    return splits


def verified(recipe: Recipe, given: str | Path | None, name: str, sealed: Mapping[str, Any]) -> bytes:
    """The content of one file; raises Damaged unless it is what was sealed."""
    path = folder_of(recipe, given) / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise damaged(recipe, given, f"{path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sealed["sha256"]:
        found = f"{len(content)} bytes, sha256 {digest[:16]}..."
        raise damaged(recipe, given, f"{path} holds {found}, sealed were {sealed['bytes']}, {sealed['sha256'][:16]}...")
    return content


def check_set(recipe: Recipe, given: str | Path | None = None) -> list[str]:
    """Compares every file with the seal, the records with the arrays, and the values with their ranges.

    Returns:
      What was found right, one line each.
    Raises:
      BadInput: the set is not prepared.
      Damaged: the first thing that is wrong.
    """
    from genjax.data.builders import read_records

    seal = read_seal(recipe, given)
    for name, sealed in seal["files"].items():
        verified(recipe, given, name, sealed)
    splits = load_arrays(recipe, given)
    check_splits(recipe, splits)
    for split, arrays in splits.items():
        records = read_records(folder_of(recipe, given), split)
        if any(not np.array_equal(records[field], array) for field, array in arrays.items()):
            raise damaged(recipe, given, f"{recipe.name}, split {split}: records and arrays differ")
    return [f"{len(seal['files'])} files as sealed", *_counts(splits.items())]


def _counts(splits: Iterable[tuple[str, Arrays]]) -> list[str]:
    return [f"{split}: {len(next(iter(arrays.values()))):,} rows, records equal to arrays" for split, arrays in splits]


def damaged(recipe: Recipe, given: str | Path | None, what: str) -> Damaged:
    """What is raised for a damaged set: it says how to prepare it again."""
    return Damaged(f"Data set {recipe.name}: {what}.", "It is damaged.", f"Run: {command(recipe, given)}")


def command(recipe: Recipe, given: str | Path | None) -> str:
    """The command that prepares a set."""
    return f"genjax data prepare {recipe.name}" + ("" if given is None else f" --data-dir {given}")


def _digest(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

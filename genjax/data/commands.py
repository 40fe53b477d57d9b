"""What `genjax data list`, `genjax data prepare` and `genjax data check` do."""

import difflib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from genjax.data import rolls, sets, texts
from genjax.data.digits import ABOUT, digits
from genjax.data.prepared import Recipe, check_set, folder_of, load_arrays, prepare_set, read_seal
from genjax.data.split import Dataset
from genjax.errors import BadInput, Damaged

Where = str | Path | None


class Entry(NamedTuple):
    """A data set that the library gives."""

    load: Callable[..., Dataset]
    recipe: Recipe | None  # what prepares it; None: nothing to prepare


class Row(NamedTuple):
    """One line of `genjax data list`."""

    name: str
    state: str  # ready | prepared | not prepared | damaged
    rows: str  # as published; of a text, its characters
    licence: str
    about: str  # source and citation


SETS: Mapping[str, Entry] = {
    "digits": Entry(digits, None),
    "mnist": Entry(sets.mnist, sets.MNIST),
    "mnist_dynamic": Entry(sets.mnist_dynamic, sets.MNIST),
    "mnist_thresholded": Entry(sets.mnist_thresholded, sets.MNIST),
    "binarized_mnist": Entry(sets.binarized_mnist, sets.BINARIZED_MNIST),
    "fashion_mnist": Entry(sets.fashion_mnist, sets.FASHION_MNIST),
    "fashion_mnist_dynamic": Entry(sets.fashion_mnist_dynamic, sets.FASHION_MNIST),
    "cifar10": Entry(sets.cifar10, sets.CIFAR10),
    "tiny_shakespeare": Entry(texts.tiny_shakespeare, texts.TINY_SHAKESPEARE),
    "names": Entry(texts.names, texts.NAMES),
    "jsb_chorales": Entry(rolls.jsb_chorales, rolls.JSB_CHORALES),
    "jsb_chorales_16th": Entry(functools.partial(rolls.jsb_chorales, "16th"), rolls.JSB_CHORALES_16TH),
}


def list_sets(data_dir: Where = None, known: Mapping[str, Entry] = SETS) -> list[Row]:
    """Every data set, and whether it is prepared; sizes of files are compared, `check` compares their content."""
    rows = []
    for name, entry in known.items():
        if entry.recipe is None:
            rows.append(Row(name, "ready", "1,797", "CC BY 4.0", ABOUT))
        else:
            recipe = entry.recipe
            counts = recipe.size or " + ".join(f"{count:,}" for count in recipe.rows.values())
            rows.append(Row(name, state(recipe, data_dir), counts, recipe.licence, recipe.about))
    return rows


def state(recipe: Recipe, data_dir: Where = None) -> str:
    """`prepared`, `not prepared` or `damaged`, by the seal and the sizes of the files."""
    try:
        files, folder = read_seal(recipe, data_dir)["files"], folder_of(recipe, data_dir)
        whole = all((folder / name).stat().st_size == sealed["bytes"] for name, sealed in files.items())
    except BadInput:
        return "not prepared"
    except (Damaged, OSError):
        return "damaged"
    return "prepared" if whole else "damaged"


def prepare(
    name: str,
    from_dir: Where = None,
    data_dir: Where = None,
    tell: Callable[[str], None] = print,
    known: Mapping[str, Entry] = SETS,
) -> None:
    """Prepares a data set, unless it is there and whole.

    Args:
      name: a key of `known`; binarizations of one set are prepared together.
      from_dir: a folder of the published files; None: download them.
      data_dir: folder of prepared sets; None: $GENJAX_DATA_DIR, else ~/.cache/genjax/data.
      tell: told of each stage.
      known: the sets there are.
    Raises:
      BadInput: an unknown name, originals missing or not the published ones, no network, no place to write.
      Damaged: writing failed.
    """
    recipe = find(name, known).recipe
    if recipe is None:
        return tell(f"{name} needs no preparation.")
    try:
        load_arrays(recipe, data_dir)
        return tell(f"{recipe.name} is prepared already, in {folder_of(recipe, data_dir)}.")
    except Damaged as damage:
        tell(f"{damage.lines[0]} Preparing it again.")
    except BadInput:
        pass  # not prepared yet
    folder = prepare_set(recipe, from_dir, data_dir, tell)
    tell(f"{recipe.name} is prepared, in {folder}.")


def check(name: str, data_dir: Where = None, known: Mapping[str, Entry] = SETS) -> list[str]:
    """Compares a prepared set with its seal, and its values with their ranges.

    Returns:
      What was found right, one line each.
    Raises:
      BadInput: an unknown name, or a set that is not prepared.
      Damaged: the first thing that is wrong.
    """
    entry = find(name, known)
    if entry.recipe is not None:
        return check_set(entry.recipe, data_dir)
    data = entry.load()
    counts = " + ".join(f"{len(split.arrays['image']):,}" for split in (data.train, data.validation, data.test))
    return [f"{counts} rows, values in range, fingerprint {data.fingerprint}"]


def find(name: str, known: Mapping[str, Entry] = SETS) -> Entry:
    """The data set of a name; raises BadInput with the three nearest names."""
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    raise BadInput(f"There is no data set {name!r}.", f"The nearest are {', '.join(near)}.", "Run: genjax data list")

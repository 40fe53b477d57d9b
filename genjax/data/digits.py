"""Handwritten digits that need no download: scikit-learn ships them."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from genjax.data.split import Dataset, Split, carve, make_dataset, scaled, take
from genjax.errors import BadInput

ABOUT = (
    "1,797 scans of 8x8 pixels, 17 grey levels, 13 writers: the test part of 'Optical Recognition of Handwritten "
    "Digits' (Alpaydin and Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0), as scikit-learn ships it."
)


def digits() -> Dataset:
    """scikit-learn's 1,797 real scans of digits: 1,297 to train, 250 to validate, 250 to test.

    The rows of each split are drawn from the whole set by a fixed pseudo-random order, the same on every machine.

    Returns:
      `image`: uint8 levels 0 .. 16 [N, 8, 8, 1], prepared as float32 level / 16 in [0, 1]; `label`: int32 [N].
    Raises:
      BadInput: scikit-learn is not installed.

    >>> [len(split.arrays["label"]) for split in digits()[1:4]]
    [1297, 250, 250]

    Alpaydin and Kaynak (1998), https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits.
    """
    table = _table()
    arrays = {"image": table[:, :64].reshape(-1, 8, 8, 1), "label": table[:, 64].astype(np.int32)}
    share = 250 / len(table)
    parts = zip(("train", "validation", "test"), carve(len(table), (1 - 2 * share, share, share)), strict=True)
    splits = {name: Split(take(arrays, rows), scaled(17)) for name, rows in parts}
    return make_dataset("digits", splits, classes=10, levels=17, about=ABOUT)


def _table() -> np.ndarray:
    """[1797, 65] uint8: 64 pixels and the label. Read without `sklearn.datasets`, which takes a second to import."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        what = "Data set digits: scikit-learn, which ships it, is not installed."
        raise BadInput(what, "", "Run: python -m pip install scikit-learn")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        from sklearn.datasets import load_digits

        loaded = load_digits()
        return np.column_stack([loaded.data, loaded.target]).astype(np.uint8)
    with gzip.open(path, "rt") as lines:
        return np.loadtxt(lines, dtype=np.uint8, delimiter=",")

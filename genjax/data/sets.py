"""The published data sets: their recipes, and the functions that give them as `Dataset`s.

Dynamic, static and thresholded binarization of MNIST are three data sets, and a likelihood on one says nothing about
another: a report names the one it used.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from genjax.data.formats import labelled_pixels, read_amat, read_idx, read_members, read_packed
from genjax.data.originals import (
    BINARIZED_MNIST_FILES,
    CIFAR10_FILES,
    FASHION_MNIST_FILES,
    MNIST_FILES,
    Original,
    gather,
)
from genjax.data.prepared import Recipe, load_arrays
from genjax.data.split import Arrays, Dataset, Split, make_dataset, resampled, scaled, take

Where = str | Path | None


def read_scans(
    name: str, originals: Sequence[Original], folder: Path | None, downloads: Path, tell: Callable[[str], None]
) -> dict[str, Arrays]:
    """Images and labels, train and test, from four idx files in the order of `MNIST_FILES`."""
    files = gather(name, originals, folder, downloads, tell)
    paths = [files[original.file] for original in originals]
    images = [read_idx(path, axes=3)[..., None] for path in paths[::2]]
    labels = [read_idx(path, axes=1).astype(np.int32) for path in paths[1::2]]
    splits = zip(("train", "test"), images, labels, strict=True)
    return {split: {"image": image, "label": label} for split, image, label in splits}


def read_bits(
    name: str, originals: Sequence[Original], folder: Path | None, downloads: Path, tell: Callable[[str], None]
) -> dict[str, Arrays]:
    """Bits of 28x28 from three text files in the order of `BINARIZED_MNIST_FILES`, or from one packed `.npz`."""
    splits = ("train", "validation", "test")
    packed = sorted(folder.glob("*.npz")) if folder else []
    if packed:
        named = dict(zip(("train", "valid", "test"), originals, strict=True))
        rows = list(read_packed(packed[0], named).values())
    else:
        files = gather(name, originals, folder, downloads, tell)
        rows = [read_amat(files[original.file]) for original in originals]
    return {split: {"image": bits.reshape(-1, 28, 28, 1)} for split, bits in zip(splits, rows, strict=True)}


def read_cifar10(
    originals: Sequence[Original], rows: int, folder: Path | None, downloads: Path, tell: Callable[[str], None]
) -> dict[str, Arrays]:
    """Images and labels from the archive of the binary version: five files of `rows` records to train, one to test."""
    [original] = originals
    path = gather("cifar10", originals, folder, downloads, tell)[original.file]
    names = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    member = lambda name: f"cifar-10-batches-bin/{name}"
    content = read_members(path, {member(name): 3_073 * rows for files in names.values() for name in files})
    splits: dict[str, Arrays] = {}
    for split, files in names.items():
        parts = [labelled_pixels(content[member(name)], f"{path}, {name}") for name in files]
        image, label = (np.concatenate(part) for part in zip(*parts, strict=True))
        splits[split] = {"image": image, "label": label}
    return splits


MNIST = Recipe(
    name="mnist",
    read=functools.partial(read_scans, "mnist", MNIST_FILES),
    rows={"train": 60_000, "test": 10_000},
    classes=10,
    levels=256,
    licence="none stated",
    about="70,000 scans of digits, 28x28: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied "
    " to document recognition, https://doi.org/10.1109/5.726791; files: http://yann.lecun.com/exdb/mnist/",
)
FASHION_MNIST = Recipe(
    name="fashion_mnist",
    read=functools.partial(read_scans, "fashion_mnist", FASHION_MNIST_FILES),
    rows={"train": 60_000, "test": 10_000},
    classes=10,
    levels=256,
    licence="MIT",
    about="70,000 pictures of clothes, 28x28: Xiao, Rasul and Vollgraf (2017), Fashion-MNIST, "
    "https://arxiv.org/abs/1708.07747; files: https://github.com/zalandoresearch/fashion-mnist",
)
BINARIZED_MNIST = Recipe(
    name="binarized_mnist",
    read=functools.partial(read_bits, "binarized_mnist", BINARIZED_MNIST_FILES),
    rows={"train": 50_000, "validation": 10_000, "test": 10_000},
    classes=None,
    levels=2,
    licence="MIT",
    about="MNIST binarized once: Larochelle and Murray (2011), The neural autoregressive distribution estimator, "
    "https://proceedings.mlr.press/v15/larochelle11a.html; after Salakhutdinov and Murray (2008)",
)
CIFAR10 = Recipe(
    name="cifar10",
    read=functools.partial(read_cifar10, CIFAR10_FILES, 10_000),
    rows={"train": 50_000, "test": 10_000},
    classes=10,
    levels=256,
    licence="none stated",
    about="60,000 photographs of ten kinds of things, 32x32, in colour: Krizhevsky (2009), Learning multiple layers of "
    "features from tiny images; files: https://www.cs.toronto.edu/~kriz/cifar.html",
)


def mnist(data_dir: Where = None) -> Dataset:
    """MNIST in 256 grey levels: 50,000 rows to train, 10,000 to validate, 10,000 to test.

    The last 10,000 of the published training rows validate.

    Args:
      data_dir: folder of prepared sets; None: $GENJAX_DATA_DIR, else ~/.cache/genjax/data.
    Returns:
      `image`: uint8 [N, 28, 28, 1], prepared as float32 level / 255 in [0, 1]; `label`: int32 [N].
    Raises:
      BadInput: not prepared; the message has the command.
      Damaged: the files are not what was prepared.

    LeCun, Bottou, Bengio and Haffner (1998), https://doi.org/10.1109/5.726791.
    """
    return grey(MNIST, data_dir)


def mnist_dynamic(data_dir: Where = None) -> Dataset:
    """MNIST binarized anew for every training batch, x ~ Bernoulli(level / 255); validation and test once.

    The one sample of validation and test is NumPy's `RandomState(777).binomial(1, level / 255)`, validation first: the
    protocol of the VampPrior and of what compares with it. Rows and arguments as `mnist`.

    Returns:
      `image`: prepared as float32 0 or 1, [N, 28, 28, 1]; `label`: int32 [N].
    Raises:
      BadInput, Damaged: as `mnist`.

    Burda, Grosse and Salakhutdinov (2015), https://arxiv.org/abs/1509.00519; Tomczak and Welling (2018),
    https://arxiv.org/abs/1705.07120.
    """
    return dynamic(MNIST, data_dir)


def mnist_thresholded(data_dir: Where = None) -> Dataset:
    """MNIST with each pixel set to 1 where level / 255 > 0.5, else 0. Rows and arguments as `mnist`.

    Returns:
      `image`: uint8 0 or 1 [N, 28, 28, 1], prepared as float32; `label`: int32 [N].
    Raises:
      BadInput, Damaged: as `mnist`.
    """
    return thresholded(MNIST, data_dir)


def binarized_mnist(data_dir: Where = None) -> Dataset:
    """The static binarization of MNIST, as published: 50,000 to train, 10,000 to validate, 10,000 to test, no labels.

    Args, Raises: as `mnist`.
    Returns:
      `image`: uint8 0 or 1 [N, 28, 28, 1], prepared as float32.

    Larochelle and Murray (2011), https://proceedings.mlr.press/v15/larochelle11a.html.
    """
    return static(BINARIZED_MNIST, data_dir)


def fashion_mnist(data_dir: Where = None) -> Dataset:
    """Fashion-MNIST in 256 grey levels; rows, arguments and fields as `mnist`.

    Xiao, Rasul and Vollgraf (2017), https://arxiv.org/abs/1708.07747.
    """
    return grey(FASHION_MNIST, data_dir)


def fashion_mnist_dynamic(data_dir: Where = None) -> Dataset:
    """Fashion-MNIST binarized anew for every training batch, validation and test once; all as `mnist_dynamic`.

    Xiao, Rasul and Vollgraf (2017), https://arxiv.org/abs/1708.07747.
    """
    return dynamic(FASHION_MNIST, data_dir)


def cifar10(data_dir: Where = None) -> Dataset:
    """CIFAR-10: 45,000 rows to train, 5,000 to validate, 10,000 to test.

    The last 5,000 of the published training rows validate; who trains on all of them takes `joined`.

    Args:
      data_dir: as of `mnist`.
    Returns:
      `image`: uint8 [N, 32, 32, 3], prepared as float32 level / 255 in [0, 1]; `label`: int32 [N].
    Raises:
      BadInput, Damaged: as `mnist`.

    Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    return grey(CIFAR10, data_dir, 10)


def grey(recipe: Recipe, data_dir: Where, share: int = 6) -> Dataset:
    """The levels of a set of scans, whose last `share`-th of the published training rows validates."""
    arrays = _three(recipe, data_dir, share)
    splits = {split: Split(rows, scaled(recipe.levels)) for split, rows in arrays.items()}
    return make_dataset(recipe.name, splits, recipe.classes, recipe.levels, _about(recipe))


def dynamic(recipe: Recipe, data_dir: Where) -> Dataset:
    """The dynamic binarization of a set of scans."""
    arrays = _three(recipe, data_dir)
    draw = np.random.RandomState(777)
    splits = {"train": Split(arrays["train"], resampled(recipe.levels))}
    for split in ("validation", "test"):
        probability = arrays[split]["image"].astype(np.float32) / (recipe.levels - 1)
        bits = draw.binomial(1, probability).astype(np.uint8)
        splits[split] = Split({**arrays[split], "image": bits}, scaled(2))
    name = f"{recipe.name}_dynamic"
    return make_dataset(name, splits, recipe.classes, 2, _about(recipe), stored=recipe.levels)


def thresholded(recipe: Recipe, data_dir: Where) -> Dataset:
    """The scans with each pixel set to 1 above half of the range."""
    splits = {}
    for split, arrays in _three(recipe, data_dir).items():
        bits = (arrays["image"] > (recipe.levels - 1) // 2).astype(np.uint8)
        splits[split] = Split({**arrays, "image": bits}, scaled(2))
    return make_dataset(f"{recipe.name}_thresholded", splits, recipe.classes, 2, _about(recipe))


def static(recipe: Recipe, data_dir: Where) -> Dataset:
    """A set that is published in bits and in three splits."""
    splits = {split: Split(arrays, scaled(2)) for split, arrays in load_arrays(recipe, data_dir).items()}
    return make_dataset(recipe.name, splits, recipe.classes, 2, _about(recipe))


def _three(recipe: Recipe, data_dir: Where, share: int = 6) -> Mapping[str, Arrays]:
    """Train, validation and test: the last sixth, or `share`-th, of the published training rows validates."""
    published = load_arrays(recipe, data_dir)
    last = recipe.rows["train"] - recipe.rows["train"] // share
    train, validation = take(published["train"], slice(last)), take(published["train"], slice(last, None))
    return {"train": train, "validation": validation, "test": published["test"]}


def _about(recipe: Recipe) -> str:
    return f"{recipe.about}. Licence: {recipe.licence}."

"""The published files of the data sets: where they are, what they must be, how they are got.

TFDS would download them too, but without a limit of time or of size: a file is fetched here by the standard library,
and believed only once its sha256 digest is the published one. Sizes and digests are those that TFDS pins, where it
has the set.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from genjax.errors import BadInput, Damaged

SECONDS = 20  # without a byte from the server before a download is given up


class Original(NamedTuple):
    """One published file."""

    file: str
    url: str
    size: int  # bytes
    sha256: str  # hexadecimal


def _originals(address: str, files: Sequence[tuple[str, int, str]]) -> tuple[Original, ...]:
    return tuple(Original(file, address + file, size, digest) for file, size, digest in files)


MNIST_FILES = _originals(
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    [
        ("train-images-idx3-ubyte.gz", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        ("train-labels-idx1-ubyte.gz", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        ("t10k-images-idx3-ubyte.gz", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        ("t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ],
)
FASHION_MNIST_FILES = _originals(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    [
        ("train-images-idx3-ubyte.gz", 26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        ("train-labels-idx1-ubyte.gz", 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        ("t10k-images-idx3-ubyte.gz", 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        ("t10k-labels-idx1-ubyte.gz", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ],
)
BINARIZED_MNIST_FILES = _originals(
    "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    [
        ("binarized_mnist_train.amat", 78400000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
        ("binarized_mnist_valid.amat", 15680000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
        ("binarized_mnist_test.amat", 15680000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    ],
)
CIFAR10_FILES = _originals(
    "https://www.cs.toronto.edu/~kriz/",
    [
        (
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    ],
)
TINY_SHAKESPEARE_FILES = _originals(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
    [("input.txt", 1115394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed")],
)
# TFDS has none of the sets below: these are the digests of the files that their authors publish.
NAMES_FILES = _originals(
    "https://raw.githubusercontent.com/karpathy/makemore/master/",
    [("names.txt", 228145, "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d")],
)
JSB_CHORALES_FILES = _originals(
    "https://raw.githubusercontent.com/czhuang/JSB-Chorales-dataset/master/",
    [
        ("jsb-chorales-quarter.json", 407200, "2db9329f1881a1d3f49703ec556bf1d6f84b4f6c1d702c156536e93cf31e1c91"),
        ("jsb-chorales-16th.json", 1741172, "8730aca7b64e7d29493733d1cf19fad4a5b351d8f1845e57dac27728104fd39f"),
    ],
)


def gather(
    name: str, originals: Sequence[Original], folder: Path | None, downloads: Path, tell: Callable[[str], None]
) -> dict[str, Path]:
    """The verified originals of a data set, from a folder or else from the network.

    Args:
      name: the data set, for messages.
      originals: what is wanted.
      folder: where the user keeps them (`--from`); None: download.
      downloads: where downloads go, each under its final name only once it is verified.
      tell: told of each download.
    Returns:
      File name -> path.
    Raises:
      BadInput: a missing folder or file, no network, or a digest that is not the published one.
    """
    if folder is None:
        return {original.file: download(name, original, originals, downloads, tell) for original in originals}
    if not folder.is_dir():
        raise BadInput(f"--from {folder} is not a folder.", *where_to_get(name, originals))
    missing = [original.file for original in originals if not (folder / original.file).is_file()]
    if missing:
        raise BadInput(f"--from {folder} lacks {', '.join(missing)}.", *where_to_get(name, originals))
    for original in originals:
        verify(name, folder / original.file, original)
    return {original.file: folder / original.file for original in originals}


def verify(name: str, path: Path, original: Original) -> None:
    """Raises BadInput unless a file is the published one, to the byte."""
    try:
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(
            f"Data set {name}: {path} cannot be read: {error.strerror}.", "", "Check its permissions."
        ) from error
    if digest != original.sha256:
        raise BadInput(
            f"Data set {name}: {path} is damaged or another file: {path.stat().st_size} bytes, sha256 {digest}.",
            f"Published are {original.size} bytes, sha256 {original.sha256}.",
            f"Get it again from {original.url}",
        )


def download(
    name: str, original: Original, originals: Sequence[Original], downloads: Path, tell: Callable[[str], None]
) -> Path:
    """One original from the network, verified; no more bytes than published are ever read."""
    path, part = downloads / original.file, downloads / f"{original.file}.part-{os.getpid()}"
    tell(f"Downloading {original.url} ({original.size:,} bytes).")
    try:
        with urllib.request.urlopen(original.url, timeout=SECONDS) as answer, open(part, "wb") as out:
            copied = 0
            while copied <= original.size and (block := answer.read(min(2**20, original.size + 1 - copied))):
                copied += out.write(block)
        verify(name, part, original)
        part.replace(path)
    except BadInput:
        raise
    except (OSError, http.client.HTTPException) as error:  # OSError: no network, a time-out, an answer such as 404
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is also the server's answer, with a socket
        reason = getattr(error, "reason", None) or error
        what = f"Data set {name}: {original.file} could not be downloaded ({reason})."
        raise BadInput(what, *where_to_get(name, originals)) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def where_to_get(name: str, originals: Sequence[Original]) -> tuple[str, str]:
    """The two lines that say what to put into a folder and what to run then."""
    address = originals[0].url.removesuffix(originals[0].file)
    files = ", ".join(original.file for original in originals)
    return f"Put these into one folder, from {address} : {files}", f"Then run: genjax data prepare {name} --from FOLDER"


def make_private(folder: Path) -> Path:
    """Creates a folder that only its owner reads, mode 0700, where there is none."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write into {folder}")
    except OSError as error:
        what = f"The data directory {folder} cannot be used: {error.strerror or error}."
        raise BadInput(what, "It must be a folder that you can write to.", "Give another: --data-dir FOLDER") from error
    return folder


def no_space(error: OSError, folder: Path) -> Damaged:
    """What is raised when writing into the data directory fails."""
    return Damaged(
        f"Writing into {folder} failed: {error.strerror or error}.", "", "Make room there, or use --data-dir."
    )

"""Strict readers of the formats that image sets are published in."""

import gzip
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from genjax.data.originals import Original
from genjax.errors import BadInput

UNSIGNED_BYTE = 8  # the only element type in use


def read_idx(path: Path, axes: int, most: int = 2**30) -> np.ndarray:
    """The array in a gzip-compressed idx file.

    The format: two zero bytes, the element type, the number of axes, one big-endian 32-bit size an axis, the elements.

    Args:
      path: the file.
      axes: how many axes it must have.
      most: bytes that are decompressed at most.
    Returns:
      uint8 of the sizes that the file states.
    Raises:
      BadInput: not gzip, another magic number, fewer or more bytes than stated.

    LeCun, Cortes and Burges (1998), "The MNIST database of handwritten digits", http://yann.lecun.com/exdb/mnist/.
    """
    try:
        with gzip.open(path, "rb") as stream:
            head = stream.read(4 + 4 * axes)
            shape = _idx_shape(path, head, axes)
            if prod(shape) > most:
                raise BadInput(f"{path} states {prod(shape):,} bytes, shape {shape}.", f"At most {most:,} are read.")
            body = stream.read(prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(
            f"{path} is not a whole gzip file: {error}.", "It is cut or damaged.", "Get it again."
        ) from error
    if len(body) != prod(shape):
        found = f"more than {prod(shape)}" if len(body) > prod(shape) else str(len(body))
        what = f"{path} states shape {shape}, {prod(shape)} bytes, and holds {found}."
        raise BadInput(what, "It is cut, damaged or another file.", "Get it again.")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _idx_shape(path: Path, head: bytes, axes: int) -> tuple[int, ...]:
    """The sizes in the header of an idx file."""
    magic = bytes([0, 0, UNSIGNED_BYTE, axes])
    if len(head) < 4 + 4 * axes or head[:4] != magic:
        what = f"{path} begins with {head[:4].hex()}."
        raise BadInput(what, f"An idx file of bytes on {axes} axes begins with {magic.hex()}.", "Get the right file.")
    return tuple(int(size) for size in np.frombuffer(head, ">u4", offset=4))


def read_amat(path: Path, columns: int = 784) -> np.ndarray:
    """The bits [N, columns], uint8 0 or 1, of a text file: one row a line, `0` and `1` with single spaces between.

    Raises:
      BadInput: any other byte, named by its line.
    """
    text = np.frombuffer(path.read_bytes(), np.uint8)
    width = 2 * columns
    if len(text) == 0 or len(text) % width:
        what = f"{path} has {len(text)} bytes, which are not lines of {columns} digits."
        raise BadInput(what, f"Each line has {width} bytes.", "It is cut, damaged or another file: get it again.")
    lines = text.reshape(-1, width)
    bits = lines[:, ::2] - np.uint8(ord("0"))
    between = np.full(columns, ord(" "), np.uint8)
    between[-1] = ord("\n")
    bad = (bits > 1).any(axis=1) | (lines[:, 1::2] != between).any(axis=1)
    if bad.any():
        what = f"{path}, line {int(np.argmax(bad)) + 1}, is not {columns} digits 0 or 1 with single spaces between."
        raise BadInput(what, "It is damaged or another file.", "Get it again.")
    return bits


def amat_text(bits: np.ndarray) -> np.ndarray:
    """The bytes [N, 2 * columns] of the text form of bits [N, columns].

    >>> amat_text(np.array([[0, 1, 1]], np.uint8)).tobytes()
    b'0 1 1\\n'
    """
    text = np.full([len(bits), 2 * bits.shape[1]], ord(" "), np.uint8)
    text[:, ::2] = bits + np.uint8(ord("0"))
    text[:, -1] = ord("\n")
    return text


def read_packed(path: Path, originals: Mapping[str, Original], columns: int = 784) -> dict[str, np.ndarray]:
    """The bits of an `.npz` that packs each split with `np.packbits` over the columns.

    They are believed because their text form has the published digest of the `.amat` file.

    Args:
      path: the `.npz`.
      originals: array name, such as `train` -> the published text file.
      columns: bits of a row.
    Returns:
      Array name -> bits [N, columns], uint8.
    Raises:
      BadInput: no such array, or another digest.
    """
    try:
        with np.load(path, allow_pickle=False) as packed:
            rows = {key: packed[key] for key in originals}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        what = f"{path} cannot be read: {error}."
        raise BadInput(what, f"It must hold the arrays {', '.join(originals)}, of np.packbits.") from error
    for key, array in rows.items():
        if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != -(-columns // 8):
            raise BadInput(f"{path}, array {key}: {array.dtype} {array.shape}.", f"Rows are {columns} packed bits.")
    bits = {key: np.unpackbits(array, axis=1, count=columns) for key, array in rows.items()}
    for key, original in originals.items():
        digest = hashlib.sha256(amat_text(bits[key]).data).hexdigest()
        if digest != original.sha256:
            what = f"{path}, array {key}: written as {original.file} its sha256 is {digest}."
            raise BadInput(what, f"Published is {original.sha256}.", f"Get the original from {original.url}")
    return bits


def read_members(path: Path, wanted: Mapping[str, int], most: int = 2**28) -> dict[str, bytes]:
    """Some files of a gzip-compressed tar archive, read in memory: nothing is unpacked into a folder.

    Args:
      path: the archive.
      wanted: name of a member -> the bytes that it must have.
      most: bytes of all members at most, of those that are not wanted too.
    Returns:
      Name -> content, of all that are wanted.
    Raises:
      BadInput: not such an archive, cut or damaged; a member that would leave its folder; one that is wanted and is
        missing, there twice, no file or of another size; more bytes than `most`.
    """
    found: dict[str, bytes] = {}
    try:
        with gzip.open(path, "rb") as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as stream:
            for member in stream:
                most -= member.size
                if most < 0:
                    raise BadInput(f"{path} holds too many bytes, in {member.name}.", "It is another file.")
                tarfile.data_filter(member, "/archive")  # as for unpacking into a folder: refuses what would leave it
                if member.name in wanted:
                    content = stream.extractfile(member) if member.isreg() else None
                    if content is None or member.size != wanted[member.name] or member.name in found:
                        raise _unlike(path, member.name, f"is there twice, or has {member.size:,} bytes", wanted)
                    found[member.name] = content.read()
            if len(unpacked.read(2**20)) == 2**20:  # to the end, where gzip's checksum is compared
                raise BadInput(f"{path} goes on behind its last member.", "It is another file.")
    except tarfile.FilterError as error:
        raise BadInput(f"{path} holds a member that is not allowed: {error}", "It is another file.") from error
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        what = f"{path} is not a whole gzip-compressed tar archive: {error}"
        raise BadInput(what, "It is cut or damaged.", "Get it again.") from error
    for name in wanted:
        if name not in found:
            raise _unlike(path, name, "is not there", wanted)
    return found


def _unlike(path: Path, name: str, found: str, wanted: Mapping[str, int]) -> BadInput:
    return BadInput(f"{path}: {name} {found}.", f"It is a file of {wanted[name]:,} bytes, once.", "Get it again.")


def labelled_pixels(
    content: bytes, where: str, shape: Sequence[int] = (32, 32, 3), classes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Records of CIFAR's binary form: one byte of label, then the pixels, a colour after the other, row by row.

    Args:
      content: whole records.
      where: how messages name it.
      shape: height, width and colours.
      classes: labels lie below.
    Returns:
      uint8 [N, H, W, C] and int32 [N].
    Raises:
      BadInput: bytes that are no whole records; a label out of range, named by its record.

    Krizhevsky (2009), Learning multiple layers of features from tiny images,
    https://www.cs.toronto.edu/~kriz/cifar.html.

    >>> image, label = labelled_pixels(bytes([7, 1, 2, 3, 4, 5, 6]), "a.bin", (1, 2, 3))
    >>> image.tolist(), label.tolist()
    ([[[[1, 3, 5], [2, 4, 6]]]], [7])
    """
    height, width, colours = shape
    size = 1 + height * width * colours
    if not content or len(content) % size:
        raise BadInput(f"{where} has {len(content)} bytes.", f"Records have {size}.", "It is cut, or another file.")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    label = records[:, 0].astype(np.int32)
    if (label >= classes).any():
        row = int(np.argmax(label >= classes))
        raise BadInput(
            f"{where}, record {row}: label {label[row]}.", f"Labels are 0 to {classes - 1}.", "Get it again."
        )
    image = records[:, 1:].reshape(-1, colours, height, width).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(image), label

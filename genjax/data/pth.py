"""Weights of a PyTorch file (.pth) as NumPy arrays, without PyTorch and without unpickling anything.

Both containers are read: a zip archive (PyTorch from 1.6), and what came before it, five programs with the storages
behind them.  The programs are run by the machine of `pth_program.py`, which can call nothing.  Of an archive every part
has a checksum; of the older container nothing has, but where the file is named as PyTorch's hub names it, with the
beginning of its SHA-256 (`NAME-57934424.pth`), that is checked.

Source: PyTorch, Serialization semantics, 2020 on, https://docs.pytorch.org/docs/stable/notes/serialization.html.
"""

import hashlib
import io
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genjax.data.pth_program import MOST, Tensor, run
from genjax.errors import BadInput

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of files that are no archive


def read_pth(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file that holds one dictionary of them, as `torch.save(model.state_dict(), path)` writes.

    Args:
      path: the file, at most 2 GiB.

    Returns:
      Arrays by name, not to be written to.

    Raises:
      BadInput: no such file, one that is damaged, truncated or too large, or holds anything but tensors by name.

    Source: see the head of this file.
    """
    try:
        content = _content(Path(path))
        found, parts = _archive(content) if content.startswith(b"PK") else _sequence(content)
        return {name: _array(tensor, parts) for name, tensor in _tensors(found).items()}
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} cannot be read as PyTorch weights: {error}",
            "allowed: a dictionary of tensors by name, as torch.save(model.state_dict(), path) writes",
            "Obtain the file anew.",
        ) from error


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError("there is no such file")
    if (size := path.stat().st_size) > MOST:
        raise ValueError(f"{size:,} bytes are more than {MOST:,}")
    content = path.read_bytes()
    told = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    if told and not hashlib.sha256(content).hexdigest().startswith(told[1]):
        raise ValueError(f"its SHA-256 does not begin with {told[1]}, as its name says")
    return content


def _archive(content: bytes) -> tuple[Any, dict[str, bytes]]:
    parts = _parts(content)
    programs = [name for name in parts if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise ValueError("it is an archive of something else")
    root = programs[0].removesuffix("data.pkl")
    if parts.get(f"{root}byteorder", b"little") != b"little":
        raise ValueError("its numbers are not little-endian")
    stream = io.BytesIO(parts[programs[0]])
    found, rest = run(stream), stream.read(1)
    if rest:
        raise ValueError("something stands behind its program")
    head = f"{root}data/"
    return found, {name.removeprefix(head): part for name, part in parts.items() if name.startswith(head)}


def _parts(content: bytes) -> dict[str, bytes]:
    """The members by name; as none is compressed, together they are no larger than the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("its parts are compressed")
            if sum(member.file_size for member in members) > len(content) or len(members) > len({*archive.namelist()}):
                raise ValueError("its parts overlap")
            return {member.filename: archive.read(member) for member in members}
    except Exception as error:  # zipfile raises a dozen kinds, by what is broken
        raise ValueError(f"its archive is broken: {error}") from error


def _sequence(content: bytes) -> tuple[Any, dict[str, bytes]]:
    stream = io.BytesIO(content)
    if (run(stream), run(stream)) != (MAGIC, VERSION):
        raise ValueError("it does not begin as such a file")
    system, found, keys = run(stream), run(stream), run(stream)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")
    wanted = {tensor.storage.key: tensor.storage for tensor in _tensors(found).values()}
    if type(keys) is not list or sorted(keys) != sorted(wanted):
        raise ValueError("its storages are others than its tensors'")
    parts = {}
    for key in keys:
        size = int.from_bytes(stream.read(8), "little") * np.dtype(wanted[key].dtype).itemsize
        parts[key] = stream.read(min(size, MOST))
    if stream.read(1):
        raise ValueError("something stands behind its storages")
    return found, parts


def _tensors(found: Any) -> dict[str, Tensor]:
    if type(found) is not dict or not found or not all(type(value) is Tensor for value in found.values()):
        raise ValueError("it holds something else")
    return found


def _array(tensor: Tensor, parts: Mapping[str, bytes]) -> np.ndarray:
    """A view; no element may lie outside, nor may there be more of them than the storage has."""
    key, dtype, length = tensor.storage
    part, size = parts.get(key, b""), np.dtype(dtype).itemsize
    if len(part) != length * size:
        raise ValueError(f"storage {key[:40]} has {len(part):,} bytes, not {length * size:,}: it is truncated")
    count = math.prod(tensor.shape)
    if not count:
        return np.zeros(tensor.shape, dtype)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if count > length or last >= length:
        raise ValueError("a tensor reaches beyond its storage")
    steps = [stride * size for stride in tensor.strides]
    row = np.frombuffer(part, dtype)[tensor.offset :]
    return np.lib.stride_tricks.as_strided(row, tensor.shape, steps, writeable=False)

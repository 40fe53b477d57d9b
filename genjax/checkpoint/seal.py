"""The seal of a checkpoint: whose state it is, what every array must be, and whether the seal itself is whole."""

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from genjax.errors import BadInput

VERSION = 1
SMALL = 2**20  # bytes: all but the arrays themselves, whose own digests are compared when they are read
STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Broken(ValueError):
    """What lies on the disk is not what was sealed."""


class Identity(NamedTuple):
    """What every seal of a run repeats."""

    run_id: str
    config: dict[str, Any]  # of JSON's types
    code: str  # version of the code
    data: str  # fingerprint of the data
    prng: str  # implementation of the random numbers


class Seal(NamedTuple):
    """What is known of one checkpoint without reading its arrays."""

    run_id: str
    stage: str
    stage_index: int
    step: int  # updates done in the stage
    config: dict[str, Any]
    config_hash: str
    code: str
    data: str
    prng: str
    metrics: dict[str, float | None]  # None: it was not finite
    score: float | None  # by which the best is kept
    leaves: dict[str, dict[str, Any]]  # path -> {"shape", "dtype", "digest"}
    final: bool  # the last state of its stage
    files: dict[str, dict[str, Any]] = {}  # path -> {"size", "sha256"}
    version: int = VERSION


def config_hash(config: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that name a configuration, whatever the order of its fields.

    >>> config_hash({"width": 200, "seed": 0}) == config_hash({"seed": 0, "width": 200})
    True
    """
    return hashlib.sha256(_canonical(config).encode()).hexdigest()[:16]


def make_seal(identity: Identity, metrics: Mapping[str, Any], score: Any, **rest: Any) -> Seal:
    """A seal exactly as it will be read again: of JSON's types, with None for what is not finite.

    Raises:
      BadInput: the name of the stage cannot be part of a file name.
    """
    if not STAGE_NAME.fullmatch(rest["stage"]):
        raise BadInput(
            f"stage name {rest['stage']!r}", "1 to 100 letters, digits, '.', '_', '-'; a letter or digit first"
        )
    known: dict[str, Any] = {
        "metrics": {name: _finite(value) for name, value in metrics.items()},
        "score": _finite(score),
    }
    seal = Seal(**identity._asdict(), config_hash=config_hash(identity.config), **known, **rest)
    return Seal(**json.loads(_canonical(seal._asdict())))


def place(seal: Seal) -> str:
    """The name of a checkpoint's directory.

    >>> run = Identity("5f0c", {"width": 200}, code="0.1.0", data="", prng="threefry2x32")
    >>> place(make_seal(run, {}, None, stage="vae", stage_index=0, step=7, leaves={}, final=True))
    '00-vae-000000007'
    """
    return f"{seal.stage_index:02d}-{seal.stage}-{seal.step:09d}"


def write_seal(directory: Path, seal: Seal) -> None:
    """Write SEAL.json, with the digest of its own content; its bytes are on the disk when this returns."""
    body = seal._asdict()
    body["digest"] = _digest(body)
    with open(directory / "SEAL.json", "w") as file:
        file.write(json.dumps(body, indent=1))
        file.flush()
        os.fsync(file.fileno())


def read_seal(directory: Path) -> Seal:
    """Read and check a seal.

    Raises:
      Broken: it is missing, damaged, or that of another directory.
      BadInput: it is whole, and of a newer format.
    """
    try:
        body = json.loads((directory / "SEAL.json").read_text())
        whole = body.pop("digest") == _digest(body)
        version = body["version"]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Broken("SEAL.json is missing") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise Broken("SEAL.json is damaged")
    if version > VERSION:
        raise BadInput(
            f"checkpoint {directory.name} has format {version}",
            f"this version of genjax reads formats up to {VERSION}",
            "use the version of genjax that wrote it, or a newer one",
        )
    seal = Seal(**body)
    if place(seal) != directory.name.removeprefix(".tmp-"):
        raise Broken(f"SEAL.json is that of {place(seal)}")
    return seal


def inventory(directory: Path) -> dict[str, dict[str, Any]]:
    """The size and the digest of every file below a directory."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files}


def check_files(directory: Path, seal: Seal, whole: bool = False) -> None:
    """Compare the files below a directory with the seal.

    It spares Orbax damaged metadata, of which it makes noise: only damage within arrays gets past it, to the digests.

    Args:
      directory: of the arrays.
      seal: what they must be.
      whole: read the large files too, of which else only the size is compared.

    Raises:
      Broken: names the first file that is missing or another.
    """
    for name, known in seal.files.items():
        try:
            found = os.stat(directory / name)  # not is_file(), which hides what else may be wrong with a file system
        except (FileNotFoundError, NotADirectoryError):
            raise Broken(f"{name} is missing") from None
        same = stat.S_ISREG(found.st_mode) and found.st_size == known["size"]
        if same and "sha256" in known and (whole or found.st_size <= SMALL):
            same = _sha256(directory / name) == known["sha256"]
        if not same:
            raise Broken(f"{name} is another file than was sealed")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The fields in which two configurations differ, by dotted name.

    >>> differences({"width": 200, "data": {"name": "digits"}}, {"width": 200, "data": {"name": "mnist"}})
    {'data.name': 'data.name digits -> mnist'}
    """
    old, new = (json.loads(_canonical(config)) for config in (old, new))  # tuples are lists there
    found: dict[str, str] = {}
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, "(absent)"), new.get(name, "(absent)")
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{prefix}{name}.")
        elif before != after and _canonical(before) != _canonical(after):  # the second: NaN equals NaN
            found[prefix + name] = f"{prefix}{name} {before} -> {after}"
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body).encode()).hexdigest()


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None

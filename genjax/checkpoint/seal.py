"""The seal of a checkpoint: whose state it is, what every array must be, and whether the seal itself is whole."""

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from genjax.errors import BadInput

VERSION = 1
SMALL = 2**20  # bytes: all but the arrays themselves, which have their own digests
STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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
    files: dict[str, dict[str, Any]] = {}  # path -> {"size", "sha256"}; large files have no "sha256"
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
      ValueError: it is missing, damaged, or that of another directory.
      BadInput: it is whole, and of a newer format.
    """
    try:
        body = json.loads((directory / "SEAL.json").read_text())
        whole = body.pop("digest") == _digest(body)
        version = body["version"]
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError("SEAL.json is missing") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise ValueError("SEAL.json is damaged")
    if version > VERSION:
        raise BadInput(
            f"checkpoint {directory.name} has format {version}",
            f"this version of genjax reads formats up to {VERSION}",
            "use the version of genjax that wrote it, or a newer one",
        )
    seal = Seal(**body)
    if place(seal) != directory.name.removeprefix(".tmp-"):
        raise ValueError(f"SEAL.json is that of {place(seal)}")
    return seal


def inventory(directory: Path) -> dict[str, dict[str, Any]]:
    """The sizes of all files below a directory, and the digests of the small ones.

    It spares Orbax damaged metadata, of which it makes noise: only damage within arrays gets past it, to the digests.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            size = path.stat().st_size
            content = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} if size <= SMALL else {}
            found[str(path.relative_to(directory))] = {"size": size, **content}
    return found


def check_files(directory: Path, seal: Seal) -> None:
    """Compare the files below a directory with the seal.

    Raises:
      ValueError: names the first file that is missing or another.
    """
    found = inventory(directory)
    for name, known in seal.files.items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        if found[name] != known:
            raise ValueError(f"{name} is another file than was sealed")


def check_same(saved: Mapping[str, Any], config: Mapping[str, Any], allow: Collection[str] = ()) -> None:
    """Refuse to go on with another configuration.

    Args:
      saved: the configuration in the seal.
      config: that of this command.
      allow: fields that may differ.

    Raises:
      BadInput: names each other field that differs, with both values.

    >>> check_same({"width": 200, "seed": 0}, {"width": 200, "seed": 1}, allow=["seed"])
    >>> check_same({"width": 200, "seed": 0}, {"width": 400, "seed": 0})
    Traceback (most recent call last):
    genjax.errors.BadInput: this run was started with another configuration: width 200 -> 400
    ...
    """
    changed = {
        name: line
        for name, line in differences(saved, config).items()
        if name not in allow and name.split(".")[0] not in allow
    }
    if changed:
        raise BadInput(
            "this run was started with another configuration: " + "; ".join(changed.values()),
            "a run goes on with the values it was started with, but for fields that you name as allowed to differ",
            "give the old values, or start in a new directory",
        )


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


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body).encode()).hexdigest()


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None

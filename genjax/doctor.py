"""The command `genjax doctor`: whether this machine can train, in plain words; no network is used.

Every finding is ok, warn or fail, and what is not ok says what to do.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal, NamedTuple

from genjax.arguments import parse

REQUIRED = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "array_record", "chex", "numpy"),
    *("tyro", "typing-extensions", "pillow", "tensorboardX", "scikit-learn", "scipy"),
)
LITTLE, FULL = 5e9, 2e8  # free bytes: a warning, a failure
HERE = Path(__file__).parent


class DoctorOptions(NamedTuple):
    """Options of `genjax doctor`."""

    data_dir: str | None = None
    """The folder of prepared data sets; default: $GENJAX_DATA_DIR, else ~/.cache/genjax/data."""
    debug: bool = False
    """Whole tracebacks."""


class Finding(NamedTuple):
    """One line of the report."""

    level: Literal["ok", "warn", "fail"]
    what: str
    remedy: str = ""


def command(arguments: Sequence[str]) -> int:
    """`genjax doctor`: 0 if nothing fails, else 4."""
    options, _ = parse("genjax doctor", "Checks the installation; uses no network.", DoctorOptions, arguments)
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        python, packages, import_name, devices, computation, cache,
        lambda: places(options.data_dir),
    )  # fmt: skip
    levels = []
    for check in checks:
        for finding in _safely(check):
            levels.append(finding.level)
            print(
                f"{finding.level:5} {finding.what}" + (f"\n      {finding.remedy}" if finding.remedy else ""),
                flush=True,
            )
    failed, warned = levels.count("fail"), levels.count("warn")
    print(f"\n{failed} failed, {warned} to look at, {levels.count('ok')} fine")
    return 4 if failed else 0


def python() -> Iterator[Finding]:
    """The interpreter."""
    where = f"python {platform.python_version()} in {sys.prefix}"
    if sys.prefix == sys.base_prefix:
        yield Finding("warn", where, "not a virtual environment: other projects' packages may get in the way")
    else:
        yield Finding("ok", where)


def packages() -> Iterator[Finding]:
    """The versions of what genjax stands on."""
    from genjax import __version__

    found, missing = [f"genjax {__version__}"], []
    for name in REQUIRED:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("ok", ", ".join(found))
    if missing:
        command = f"{sys.executable} -m pip install {' '.join(missing)}"
        yield Finding("fail", f"not installed: {', '.join(missing)}", command)


def import_name() -> Iterator[Finding]:
    """Whether `import genjax` gives this library: another project on PyPI has the same import name."""
    other = foreign_distribution()
    from_here = sys.path[:1] and sys.path[0] in ("", os.getcwd())  # python -m puts the current directory first
    given = imported_from(sys.path[1:] if from_here else sys.path)
    pip = f"{sys.executable} -m pip"
    if other is not None:
        version, files_here = other
        mixed = " and has written into this library's own folder" if files_here else ""
        yield Finding(
            "fail",
            f"the other project named genjax ({version}) is installed{mixed}; outside this directory `import genjax` "
            f"gives {given or 'nothing'}, this library is in {HERE}",
            f"{pip} uninstall genjax, then install this library again: its distribution is genjax-research",
        )
    elif given is not None and given.resolve() != HERE.resolve():
        yield Finding("fail", f"`import genjax` gives {given}, not {HERE}", f"remove {given.parent} from PYTHONPATH")
    elif given is None:
        yield Finding("warn", f"genjax is found only from {Path.cwd()}", f"{pip} install -e {HERE.parent}")
    else:
        yield Finding("ok", f"`import genjax` gives {given}; no other project of that name")


def foreign_distribution() -> tuple[str, bool] | None:
    """The version of PyPI's `genjax`, and whether files of it lie in this library's folder; None: not installed."""
    try:
        found = metadata.distribution("genjax")
    except metadata.PackageNotFoundError:
        return None
    files = [Path(str(found.locate_file(file))) for file in found.files or ()]
    return found.version, any(HERE.resolve() in path.resolve().parents for path in files)


def imported_from(path: Sequence[str]) -> Path | None:
    """The folder of the package that `import genjax` gives on a search path."""
    spec = PathFinder.find_spec("genjax", list(path))
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def devices() -> Iterator[Finding]:
    """What JAX computes on."""
    import jax

    try:
        found = jax.devices()
    except RuntimeError as error:
        asked = os.environ.get("JAX_PLATFORMS")
        remedy = f"JAX_PLATFORMS is {asked!r}: unset it" if asked else "install the JAX build of this device"
        yield Finding("fail", f"no device: {str(error).splitlines()[0]}", remedy)
        return
    kind = found[0]
    what = f"{len(found)} x {kind.device_kind} ({kind.platform}), {os.cpu_count()} processor cores"
    if kind.platform == "cpu" and Path("/proc/driver/nvidia/version").exists() and not os.environ.get("JAX_PLATFORMS"):
        pip = f"{sys.executable} -m pip install 'jax[cuda13]'"
        yield Finding("warn", f"{what}; an NVIDIA driver is here, but JAX does not use it", pip)
    else:
        yield Finding("ok", what)


def computation() -> Iterator[Finding]:
    """One small compiled computation with a known result."""
    import jax
    import jax.numpy as jnp

    n = 64
    product = jax.jit(lambda x: jnp.trace(x @ x.T))(jnp.ones((n, n)))
    if float(product) == n * n:
        yield Finding("ok", "a compiled matrix product gives the right number")
    else:
        yield Finding("fail", f"a compiled matrix product gives {float(product)}, not {n * n}", "reinstall jaxlib")


def cache() -> Iterator[Finding]:
    """The compilation cache: where, how large, and whether it is private."""
    import jax

    from genjax.cache import cache_directory

    other = getattr(jax.config, "jax_compilation_cache_dir", None)
    directory = Path(other) if other else cache_directory()
    if not directory.exists():
        yield Finding("ok", f"compilation cache {directory}: not made yet")
        return
    mode, owner = directory.stat().st_mode & 0o777, directory.stat().st_uid
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    what = f"compilation cache {directory}: {size / 1e6:,.0f} MB, mode {mode:04o}"
    if owner != os.getuid() or mode & 0o022:
        yield Finding("fail", f"{what}: others can replace the programs that you run", f"remove {directory}")
    elif mode != 0o700:
        yield Finding("warn", what, f"chmod 700 {directory}")
    else:
        yield Finding("ok", what)


def places(data_dir: str | None) -> Iterator[Finding]:
    """Home, runs/ and the data directory: can they be written, is there room?"""
    from genjax.data.prepared import data_directory

    home = os.environ.get("HOME")
    if not home or not Path(home).is_dir():
        yield Finding("warn", f"HOME is {home!r}, no directory", "set HOME, or XDG_CACHE_HOME and GENJAX_DATA_DIR")
    for what, path in (("runs", Path("runs").absolute()), ("data sets", data_directory(data_dir))):
        place = next(parent for parent in (path, *path.parents) if parent.exists())
        told = f"{what} go to {path}" + ("" if place == path else ", not made yet")
        yield _place(told, place)


def _place(told: str, place: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"genjax")
    except OSError as error:
        return Finding("fail", f"{told}: {place} cannot be written: {error.strerror}", f"make {place} writable")
    free = shutil.disk_usage(place).free
    level: Literal["ok", "warn", "fail"] = "ok" if free > LITTLE else "warn" if free > FULL else "fail"
    return Finding(level, f"{told}: {free / 1e9:,.1f} GB free", "" if level == "ok" else "free some space")


def _safely(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that itself breaks is a finding: the doctor ends with a report, not with an error."""
    try:
        yield from check()
    except Exception as error:
        name = getattr(check, "__name__", "check")
        yield Finding("fail", f"{name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")

"""Strict JAX for every test: CPU only, warnings are errors (setup.cfg), silent broadcasting of ranks raises.

The settings are environment variables, set before JAX is imported, so that the processes a test starts inherit them.
"""

import hashlib
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest


def _cache_directory() -> Path:
    """One compilation cache a user, jaxlib and processor: an executable of another CPU may use missing instructions."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")] if cpuinfo.exists() else []
    machine = hashlib.sha256("".join([platform.machine(), *flags[:1]]).encode()).hexdigest()[:8]
    name = f"genjax-tests-{os.getuid()}-{version('jaxlib')}-{machine}"
    directory = Path(tempfile.gettempdir()) / name
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid() or directory.stat().st_mode & 0o077:
        raise RuntimeError(f"{directory} is not a private directory of this user: remove it")
    return directory


os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_NUMPY_RANK_PROMOTION="raise",
    JAX_NUMPY_DTYPE_PROMOTION="standard",
    JAX_DEBUG_NANS="false",  # losses are tested with NaN on purpose
    JAX_COMPILATION_CACHE_DIR=str(_cache_directory()),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
)


def pytest_configure(config: pytest.Config) -> None:
    """Gives each xdist worker its own core: XLA starts a thread a core, and two pools on one set of cores fight."""
    worker = getattr(config, "workerinput", None)
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    index, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    os.sched_setaffinity(0, cores[index % len(cores) :: min(count, len(cores))])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts the slow tests first, so that no worker is left alone with the longest at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def no_user_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the developer's home: runs, data sets and caches go to a temporary one."""
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))

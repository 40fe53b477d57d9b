"""The persistent compilation cache: a second start compiles nothing.

The cache is private (mode 0700), because an executable that others could replace would run as us, and it belongs to
one jaxlib and one processor, because an executable of another processor may use instructions that this one lacks.
"""

import hashlib
import os
import platform
from pathlib import Path

import jax


def cache_directory() -> Path:
    """Where compiled programs are kept: below XDG_CACHE_HOME, or ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cpu = Path("/proc/cpuinfo")
    flags = next((x for x in cpu.read_text().splitlines() if x.startswith("flags")), "") if cpu.exists() else ""
    machine = hashlib.sha256((platform.machine() + flags).encode()).hexdigest()[:8]
    return base / "genjax" / "compiled" / f"{jax.lib.__version__}-{machine}"


def use_compilation_cache() -> None:
    """Turn the cache on, unless JAX was told of one already; without a place to write, go on without."""
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    directory = cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)
    except OSError:
        return
    if directory.stat().st_uid != os.getuid():
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

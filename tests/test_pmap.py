"""`--parallel pmap` computes what jit computes, with the library's own learners, masks and gradient accumulation."""

import os
import subprocess
import sys
from pathlib import Path


def test_pmap_is_jit():
    script = Path(__file__).with_name("pmap_is_jit.py")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

"""Damage to prepared sets, wrong downloads, full disks: each is found, named and repaired; nothing is left behind."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from tiny_sets import LABELS, known, put, scans, scans_files

from genjax.data import commands
from genjax.data.prepared import check_set, folder_of, load_arrays
from genjax.errors import BadInput, Damaged


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a tiny MNIST."""
    root = tmp_path_factory.mktemp("data")
    commands.prepare(
        "mnist", put(root / "from", scans_files()), root / "sets", lambda line: None, known(scans(scans_files()))
    )
    return root / "sets"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "flipped": _flip,
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
}
FILES = ["SEAL.json", "arrays/train-image.npy", "published-train.array_record-00000-of-00001", "dataset_info.json"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_damage_is_found_and_repaired(file: str, damage: str, prepared: Path, tmp_path: Path) -> None:
    recipe = scans(scans_files())
    here = folder_of(recipe, tmp_path)
    here.parent.mkdir(parents=True)
    subprocess.run(["cp", "-r", str(folder_of(recipe, prepared)), str(here)], check=True)
    DAMAGE[damage](here / file)
    if file == "SEAL.json" and damage == "flipped":  # a digest or a name in it is another: whatever it is, it is seen
        seal = json.loads(folder_of(recipe, prepared).joinpath(file).read_text())
        seal["files"]["arrays/train-image.npy"]["sha256"] = "0" * 64
        (here / file).write_text(json.dumps(seal))
    with pytest.raises(Damaged) as caught:
        check_set(recipe, tmp_path)
    assert file.replace("SEAL.json", "") in caught.value.lines[0] and "genjax data prepare mnist" in str(caught.value)
    if file.startswith(("arrays", "SEAL")):
        with pytest.raises(Damaged):
            load_arrays(recipe, tmp_path)
        assert commands.state(recipe, tmp_path) == "damaged" or damage == "flipped"
        commands.prepare("mnist", put(tmp_path / "from", scans_files()), tmp_path, print, known(recipe))
        assert len(check_set(recipe, tmp_path)) == 3


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server on this machine, and the files it gives: the test changes them."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path[1:])
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args: object) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/", files
    served.shutdown()
    thread.join()
    served.server_close()


def test_download(server: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    address, served = server
    served.update(scans_files())
    recipe = scans(scans_files(), address)
    commands.prepare("mnist", None, tmp_path, print, known(recipe))
    np.testing.assert_array_equal(load_arrays(recipe, tmp_path)["test"]["label"], LABELS["test"])


@pytest.mark.parametrize("wrong", ["missing", "longer", "shorter", "changed"])
def test_download_of_something_else(wrong: str, server: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    address, served = server
    served.update(scans_files())
    file = "t10k-images-idx3-ubyte.gz"
    content = served.pop(file)
    if wrong != "missing":
        served[file] = {"longer": content + b"0" * 10**6, "shorter": content[:-1], "changed": content[:-1] + b"!"}[
            wrong
        ]
    with pytest.raises(BadInput, match=file) as caught:
        commands.prepare("mnist", None, tmp_path, print, known(scans(scans_files(), address)))
    assert len(caught.value.lines) == 3 and list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk; nothing half-made is left behind."""
    code = """
import resource, signal, sys, tiny_sets as t
from genjax.data import commands
from genjax.errors import Damaged
import genjax.data.builders
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    commands.prepare("mnist", sys.argv[1], sys.argv[2], lambda line: None, t.known(t.scans(t.scans_files())))
except Damaged as error:
    sys.exit(0 if len(error.lines) <= 3 else str(error))
sys.exit("nothing was raised")
"""
    put(tmp_path / "from", scans_files())
    here = Path(__file__).parent  # and not sys.path, which holds the folders of experiments that other tests loaded
    path = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, "-c", code, str(tmp_path / "from"), str(tmp_path / "sets")]
    done = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "sets").iterdir()) == []

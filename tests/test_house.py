"""The rules of the house hold in every file, and each rule finds what is planted against it."""

import ast
import functools
import json
import re
import subprocess
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import house
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import genjax
from genjax import doctor

ROOT = Path(__file__).parent.parent


@functools.cache
def tracked() -> tuple[str, ...]:
    """Every file that git keeps or would keep."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return tuple(name for name in names if (ROOT / name).exists())


def python_source(path: str) -> str:
    """A Python file, or the code cells of a notebook."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if not path.endswith(".ipynb"):
        return text
    cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(cell) for cell in cells)


@functools.cache
def trees() -> dict[str, ast.Module]:
    return {path: ast.parse(python_source(path), path) for path in tracked() if path.endswith((".py", ".ipynb"))}


def texts() -> dict[str, str]:
    binary = (".png", ".npy", ".npz", ".jpg", ".gz")
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in tracked() if not path.endswith(binary)}


def complaints(rule, prefix: str = "") -> list[str]:
    return [line for path, tree in trees().items() if path.startswith(prefix) for line in rule(path, tree)]


@pytest.mark.parametrize("rule", [house.upward_imports, house.unsafe, house.foreign, house.undocumented])
def test_every_file_keeps(rule):
    assert complaints(rule) == []


def test_experiments_tell_what_they_are():
    assert any(path.startswith("experiments/") for path in trees())
    assert complaints(house.header, "experiments/") == []


def test_imports_have_no_circle():
    library = {path: tree for path, tree in trees().items() if path.startswith("genjax/")}
    assert house.circles(house.import_graph(library)) == []


def test_files_are_short_and_named():
    python = {path: text for path, text in texts().items() if path.endswith(".py")}
    limits = {path: 450 if path.startswith("tests/") else 300 for path in python}  # a test's tables may run on
    assert [line for path, text in python.items() for line in house.too_long(path, text, limits[path])] == []
    assert [line for path in tracked() for line in house.grab_bag(path)] == []


def test_no_trace_of_a_machine():
    assert [line for path, text in texts().items() for line in house.traces(path, text)] == []


def test_no_large_file():
    assert [path for path in tracked() if (ROOT / path).stat().st_size > 2**20] == []


def test_public_names_exist():
    shown = {name.rpartition(".")[2] for _, name in house.imports(trees()["genjax/__init__.py"]) if "genjax" in name}
    assert sorted(genjax.__all__) == sorted(shown), "what editors see differs from what is imported when asked for"
    assert [name for name in genjax.__all__ if not hasattr(genjax, name)] == []


# --- each rule finds what is planted against it ----------------------------------------------------------------------

PLANTED = [
    (house.upward_imports, "genjax/losses/x.py", "from genjax.learners import minimize"),
    (house.upward_imports, "genjax/losses/x.py", "def f():\n    import genjax.train"),
    (house.upward_imports, "genjax/data/x.py", "from genjax import run"),
    (house.upward_imports, "genjax/types.py", "from .losses import variational"),
    (house.upward_imports, "genjax/helper.py", ""),
    (house.unsafe, "genjax/x.py", "import pickle"),
    (house.unsafe, "tests/x.py", "from joblib import dump"),
    (house.unsafe, "experiments/x.py", "eval('1')"),
    (house.unsafe, "experiments/x.py", "exec(source)"),
    (house.unsafe, "experiments/x.py", "compile(source, 'f', 'exec')"),
    (house.unsafe, "genjax/data/x.py", "np.load(path, allow_pickle=True)"),
    (house.unsafe, "genjax/data/x.py", "np.load(path, allow_pickle=trust)"),
    (house.unsafe, "genjax/data/x.py", "archive.extractall(folder)"),
    (house.unsafe, "benchmarks/x.py", "os.system('ls')"),
    (house.unsafe, "benchmarks/x.py", "subprocess.run('ls', shell=True)"),
    (house.unsafe, "genjax/x.py", "from importlib import import_module"),
    (house.unsafe, "genjax/x.py", "import importlib\nimportlib.import_module(name)"),
    (house.unsafe, "genjax/x.py", "from jax.experimental import serialize_executable"),
    (house.foreign, "genjax/x.py", "import torch"),
    (house.foreign, "experiments/x.py", "from tensorflow_probability.substrates import jax"),
    (house.foreign, "genjax/losses/x.py", "import flax.linen as nn"),
    (house.foreign, "genjax/models/x.py", "from flax.training import train_state"),
    (house.foreign, "genjax/data/x.py", "import sklearn.datasets"),
    (house.foreign, "genjax/data/x.py", "from genjax.data.builders import write_records"),
    (house.undocumented, "genjax/run.py", '"""File."""\ndef f():\n    pass'),
    (house.undocumented, "genjax/run.py", "def _f():\n    pass"),
    (house.undocumented, "genjax/losses/x.py", '"""Ada 2014."""\ndef f(x):\n    """One."""'),
    (
        house.undocumented,
        "genjax/losses/x.py",
        '"""No year."""\ndef f():\n    """One.\n\n    Returns: 1\n    >>> f()"""',
    ),
    (house.header, "experiments/x.py", '"""VAE.\n\nPaper: one\nCommand: train\nCost: low\nMeasured:"""'),
]
KEPT = [
    (house.upward_imports, "genjax/learners.py", "from genjax.types import State\nimport jax"),
    (house.unsafe, "genjax/data/x.py", "re.compile('x'); np.load(path, allow_pickle=False)"),
    (house.unsafe, "genjax/data/x.py", "archive.extractall(folder, filter='data')"),
    (house.unsafe, "genjax/fields.py", "import importlib.util\nimportlib.util.spec_from_file_location('x', path)"),
    (house.foreign, "genjax/models/x.py", "from flax import linen"),
    (house.foreign, "genjax/data/x.py", "def f():\n    import sklearn.datasets"),
    (
        house.undocumented,
        "genjax/losses/x.py",
        '"""Ada 2014."""\ndef f():\n    """One.\n\n    Returns: 1\n    >>> f()"""',
    ),
    (house.header, "experiments/x.py", '"""VAE.\n\nPaper: one\nCommand: train\nCost: low\nMeasured: 1"""'),
]


@pytest.mark.parametrize("rule, path, source", PLANTED)
def test_a_rule_finds_what_is_planted(rule, path, source):
    assert rule(path, ast.parse(source))


@pytest.mark.parametrize("rule, path, source", KEPT)
def test_a_rule_lets_honest_code_pass(rule, path, source):
    assert rule(path, ast.parse(source)) == []


def test_rules_of_text_find_what_is_planted():
    assert house.traces("a.md", "see /" + "home/ada/run") and house.traces("a.md", "open('/" + "tmp/x')")
    assert house.traces("a.txt", "--index" + "-url x")
    assert not house.traces("a.md", "https://x.org/a/wo" + "rk/b, a/t" + "mp/b")
    assert house.too_long("a.py", "\n" * 301) and not house.too_long("a.py", "\n" * 300)
    assert house.grab_bag("genjax/utils.py") and house.grab_bag("genjax/common/x.py")
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) and not house.circles(
        {"a": {"b"}, "b": set()}
    )
    sources = {"genjax/a.py": "from genjax.b import f", "genjax/b.py": "import genjax.a"}
    assert len(house.circles(house.import_graph({path: ast.parse(text) for path, text in sources.items()}))) == 2


# --- dependencies ----------------------------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements" / "lock.txt").read_text()


def distributions(path_prefix: tuple[str, ...]) -> set[str]:
    """The distributions that a part of the tree imports."""
    names = {name for path, tree in trees().items() if path.startswith(path_prefix) for name in house.third_party(tree)}
    owners = packages_distributions()
    beside = {Path(path).stem for path in trees() if path.startswith("experiments/")}  # one file may build on another
    return {canonicalize_name(owners.get(name, [name])[0]) for name in names - beside}


def test_every_dependency_is_used_and_every_import_declared():
    extras = PROJECT["optional-dependencies"]
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    parts = ("grain", "text", "ode", "coding")
    optional = {canonicalize_name(Requirement(line).name) for part in parts for line in extras[part]}
    used = distributions(("genjax/", "experiments/"))
    assert used - declared - optional == set(), "imported, not declared in pyproject.toml"
    assert (declared | optional) - used - {"array-record"} == set(), "declared, imported nowhere"  # TFDS imports it


def test_the_doctor_looks_for_every_dependency():
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert {canonicalize_name(name) for name in doctor.REQUIRED} >= declared
    assert {canonicalize_name(name) for name in doctor.REQUIRED} - declared <= {"jaxlib"}  # JAX brings it


def test_every_dependency_has_its_reason():
    block = re.search(r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert block and all(re.search(r'",\s+# \w', line) for line in block.group(1).splitlines())


@pytest.mark.parametrize("python, jax_minor", [("3.11", "0.10"), ("3.12", "0.12"), ("3.13", "0.12")])
def test_the_lock_pins_what_is_asked_for(python, jax_minor):
    environment = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux"}
    pins = {}
    for line in (line.split("  #")[0].strip() for line in LOCK.splitlines() if line[0] not in "# "):
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(environment):
            assert canonicalize_name(pin.name) not in pins, f"{pin.name} is pinned twice"
            pins[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    asked = [
        Requirement(line)
        for part in ("grain", "text", "coding", "dev")
        for line in PROJECT["optional-dependencies"][part]
    ]
    asked = [r for r in asked if r.name != PROJECT["name"]] + [Requirement(line) for line in PROJECT["dependencies"]]
    assert [str(r) for r in asked if not r.specifier.contains(pins[canonicalize_name(r.name)])] == []
    assert pins["jax"].startswith(jax_minor) and "tensorflow" not in pins and "torch" not in pins
    assert "//" not in LOCK

"""The rules of the house as pure functions: each takes a file's path and its parsed source and returns complaints.

`test_house.py` applies them to every file, and to planted violations, which each rule must find.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping

# The rooms from the ground up.  A file imports from rooms that stand before its own, or from its own room.
MATHEMATICS = ("distributions", "corruption", "losses", "samplers", "likelihood", "metrics")
ROOMS = (
    *("errors", "types", *MATHEMATICS, "models", "gradient", "averages", "power_averages", "learners", "quasi_newton"),
    *("data", "roll_call", "hosts", "parallel", "explaining", "compilation", "digest", "checkpoint"),
    *("evaluate", "report"),
    "targets",
    *("experiment", "kinds", "fields", "arguments", "view", "train", "stopping", "record", "directory", "run", "saved"),
    *("prompted", "denoised", "edited", "feature_net", "compress"),
    *("listing", "sweep", "compare", "reproduce", "cache", "show", "doctor", "prepare", "cli", "__main__"),
)

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "runpy"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {
    *("os.system", "os.popen", "tempfile.mktemp", "shutil.unpack_archive", "yaml.load"),
    *("jax.experimental.serialize_executable", "importlib.import_module", "importlib.util.spec_from_file_location"),
}
MAY_IMPORT_BY_NAME = ("genjax/fields.py", "genjax/__init__.py", "tests/")  # the user's experiment; lazy public names

REFUSED = {
    *("clu", "distrax", "tensorflow", "tensorflow_probability", "hydra", "omegaconf", "ml_collections", "jmp", "ray"),
    *("aim", "torch"),
}
HEAVY = (
    *("orbax", "sklearn", "tensorflow_datasets", "array_record", "tensorboardX", "PIL", "grain", "tyro"),
    "tokenizers",
)
BEHIND_A_DOOR = ("genjax.data.builders",)  # as heavy as what it imports, because it subclasses it

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work|farm|tmp|var/tmp)/\w|\b[A-Z]:\\Users")
REGISTRY = re.compile(r"pythonhoste[d]|index-ur[l]|find-link[s]")
YEAR = re.compile(r"\b(?:1[89]|20)\d\d\b")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every imported dotted name, wherever it stands, with its line; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def room(path: str) -> str:
    """The room of a library file: `genjax/losses/variational.py` stands in `losses`."""
    return path.removeprefix("genjax/").removesuffix(".py").split("/")[0]


def upward_imports(path: str, tree: ast.AST) -> list[str]:
    """Imports inside the library that do not run downwards."""
    if not path.startswith("genjax/") or path == "genjax/__init__.py":
        return []
    own = room(path)
    if own not in ROOMS:
        return [f"{path}: `{own}` stands on no floor of ROOMS in tests/house.py"]
    below = ROOMS[: ROOMS.index(own) + 1]
    found = [(line, name.split(".")) for line, name in imports(tree) if name.split(".")[0] in ("genjax", "")]
    found = [(line, parts) for line, parts in found if len(parts) > 1 and parts[1] not in (*below, "__version__")]
    return [f"{path}:{line}: imports {'.'.join(parts)}, which is not below `{own}`" for line, parts in found]


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """What remains of a graph of imports when files that import nothing, or that nothing imports, are taken away."""
    rest = set(graph)
    while True:
        imported = {target for node in rest for target in graph[node] & rest}
        kept = {node for node in rest if graph[node] & rest and node in imported}
        if kept == rest:
            return [f"{node}: is part of a circle of imports, or between two" for node in sorted(rest)]
        rest = kept


def import_graph(trees: Mapping[str, ast.AST]) -> dict[str, set[str]]:
    """The library's files and the files of the library that they import, inside their functions too."""
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in trees}
    names.pop("genjax", None)  # it imports a name when it is asked for, never on its own import
    edges: dict[str, set[str]] = {}
    for path, tree in trees.items():
        found = {name if name in names else name.rpartition(".")[0] for _, name in imports(tree)}
        edges[path] = {names[name] for name in found & set(names)} - {path}
    return edges


def unsafe(path: str, tree: ast.AST) -> list[str]:
    """Pickle and its kin, `eval` and its kin, shells, archives without a filter, code named by a string."""
    by_name = path.startswith(MAY_IMPORT_BY_NAME)
    modules = [(line, name) for line, name in imports(tree) if name != "yaml.safe_load"]
    found = [(line, name) for line, name in modules if name.split(".")[0] in UNSAFE_MODULES]
    found += [(line, name) for line, name in imports(tree) if name in UNSAFE_ATTRIBUTES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found += [(node.lineno, ast.unparse(node))] if ast.unparse(node) in UNSAFE_ATTRIBUTES else []
        elif isinstance(node, ast.Call):
            found += [(node.lineno, what) for what in _unsafe_call(node)]
    found = [(line, what) for line, what in found if not (by_name and what.startswith("importlib."))]
    return [f"{path}:{line}: {what} is not allowed" for line, what in found]


def _unsafe_call(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    keywords = {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}
    found = [name] if name in UNSAFE_CALLS else []
    found += [
        f"{word}={keywords[word]}" for word in ("allow_pickle", "shell") if keywords.get(word, "False") != "False"
    ]
    if name.endswith((".extractall", ".extract")) and keywords.get("filter") != "'data'":
        found.append(f"{name} without filter='data'")
    return found


def foreign(path: str, tree: ast.AST) -> list[str]:
    """Refused packages, Flax outside the networks and the experiments, heavy packages at module level."""
    if not path.startswith(("genjax/", "experiments/", "notebooks/")):
        return []
    found = [(line, name, "is refused") for line, name in imports(tree) if name.split(".")[0] in REFUSED]
    found += [(line, name, "is refused") for line, name in imports(tree) if name.startswith("flax.training")]
    if path.startswith("genjax/"):
        top = [
            entry
            for node in getattr(tree, "body", [])
            if not isinstance(node, ast.FunctionDef)
            for entry in imports(node)
        ]
        if path not in {name.replace(".", "/") + ".py" for name in BEHIND_A_DOOR}:
            heavy = [
                (line, name) for line, name in top if name.split(".")[0] in HEAVY or name.startswith(BEHIND_A_DOOR)
            ]
            found += [(line, name, "belongs inside its function") for line, name in heavy]
        if room(path) != "models":
            found += [
                (i, n, "belongs to models/ and experiments/") for i, n in imports(tree) if n.split(".")[0] == "flax"
            ]
    return [f"{path}:{line}: {name} {why}" for line, name, why in found]


def third_party(tree: ast.AST) -> set[str]:
    """The top-level names of the packages that a file imports."""
    names = {name.split(".")[0] for _, name in imports(tree)}
    return names - set(sys.stdlib_module_names) - {"genjax", ""}


def undocumented(path: str, tree: ast.Module) -> list[str]:
    """Public things without a docstring; in the mathematics also without Args, Returns, an example and a source."""
    if not path.startswith("genjax/"):
        return []
    head = ast.get_docstring(tree) or ""
    found = [] if head else [f"{path}: the file has no docstring"]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node) or ""
            found += [f"{path}:{node.lineno}: {node.name} lacks {part}" for part in _lacks(path, node, text, head)]
    return found


def _lacks(path: str, node: ast.FunctionDef | ast.ClassDef, text: str, head: str) -> list[str]:
    if not text:
        return ["a docstring"]
    if isinstance(node, ast.ClassDef) or room(path) not in MATHEMATICS:
        return []
    arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    lacks = ["Args:"] if arguments and "Args:" not in text else []
    lacks += [part for part in ("Returns:", ">>>") if part not in text]
    sourced = room(path) == "distributions" or YEAR.search(text + head)  # a normal density needs no citation
    return lacks if sourced else [*lacks, "a source with its year"]


def header(path: str, tree: ast.Module) -> list[str]:
    """What an experiment's first lines must tell."""
    text = ast.get_docstring(tree) or ""
    wanted = ("Paper:", "Command:", "Cost:", "Measured:")
    return [f"{path}: its header has no line `{word}`" for word in wanted if not re.search(rf"^{word} *\S", text, re.M)]


def traces(path: str, text: str) -> list[str]:
    """Paths of one machine, and registries: neither belongs in a repository."""
    lines = enumerate(text.splitlines(), 1)
    return [
        f"{path}:{i}: {line.strip()[:80]}" for i, line in lines if MACHINE_PATH.search(line) or REGISTRY.search(line)
    ]


def too_long(path: str, text: str, limit: int = 300) -> list[str]:
    """A file is one room; past `limit` lines it is two."""
    lines = text.count("\n")
    return [f"{path}: {lines} lines, more than {limit}"] if lines > limit else []


def grab_bag(path: str) -> list[str]:
    """A helper lives beside its only user or earns a name."""
    names = set(path.removesuffix(".py").split("/"))
    return [f"{path}: what is in it?" for _ in names & {"utils", "util", "common", "helpers", "misc", "tools"}]

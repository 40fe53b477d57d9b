"""The command `genjax show`: an experiment's configuration, its parameters, and what one update costs, untrained."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from genjax import parallel
from genjax.arguments import first_argument, parse
from genjax.compilation import PRECISIONS, Program, compile_stage, stage_keys
from genjax.errors import BadInput
from genjax.experiment import parameter_count
from genjax.fields import Loaded, build, load
from genjax.report import number
from genjax.run import resume_arguments
from genjax.types import Stage

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class ShowOptions(NamedTuple):
    """Options of `genjax show FILE`."""

    devices: int | None = None
    """How many devices to compile for; default: all."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """bfloat16 computes in bfloat16 with float32 parameters and reductions."""
    parallel: Literal["jit", "fsdp", "pmap"] = "jit"
    """jit: replicated state; fsdp: state sharded over the devices; pmap: one program a device."""
    debug: bool = False
    """Whole tracebacks."""


class Cost(NamedTuple):
    """What the compiler says of one update on one device; None where it says nothing."""

    flops: float | None  # floating-point operations
    accessed: float | None  # bytes read and written
    arguments: float | None  # bytes of state and data
    temporary: float | None  # bytes besides, while the update runs


def command(arguments: Sequence[str]) -> int:
    """`genjax show FILE [--field value]`, `genjax show RUN`."""
    path, rest = first_argument(arguments, "genjax show FILE", ShowOptions, "an experiment file or a run directory")
    is_run = (Path(path) / "config.json").exists()
    loaded, kept = resume_arguments(Path(path)) if is_run else (load(path), {})
    defaults: dict[str, Any] = {name: kept[name] for name in ("devices", "precision", "parallel") if name in kept}
    options, values = parse(f"genjax show {path}", loaded.about, ShowOptions, rest, loaded.fields, defaults)
    if options.precision not in PRECISIONS:
        raise BadInput(f"--precision {options.precision}", f"allowed: {', '.join(PRECISIONS)}")
    original = load(Path(path) / "experiment.py") if is_run else loaded
    print(f"{loaded.title}\n\n{configuration_text(original, values)}", flush=True)
    experiment, mesh = build(loaded, values), parallel.mesh(options.devices)
    for index, stage in enumerate(experiment.stages):
        single = stage._replace(steps_per_call=1)  # the compiler's counts are then those of one update
        keys = stage_keys(0, index)
        program = compile_stage(single, keys, 0, mesh, options.precision, options.parallel)
        print(f"\n{stage_text(stage, program)}", flush=True)
    return 0


def configuration_text(loaded: Loaded, values: Mapping[str, Any]) -> str:
    """The fields, what differs from its default marked with the default."""
    lines = []
    for field in loaded.fields:
        value = values[field.name]
        changed = field.default is not inspect.Parameter.empty and value != field.default
        note = f"default {field.default}" if changed else ""
        lines.append([f"  {field.name}", str(value), note, field.help])
    return "\n".join(["configuration", *_columns(lines)])


def stage_text(stage: Stage, program: Program) -> str:
    """A stage: its data, its parameters by module, and the cost of one update."""
    source, state, cost = stage.data, program.abstract, cost_of(program.executable)
    epoch = f"{source.rows:,} rows, {source.rows // source.batch_size:,} batches an epoch" if source.rows else "endless"
    epochs = stage.steps * source.batch_size / source.rows if source.rows else None
    sizes = {name: tree_bytes(getattr(state, name)) for name in ("params", "opt_state", "carry")}
    count = parameter_count(state.params)
    facts = {
        "updates": f"{stage.steps:,}" + (f", {stage.steps_per_call} a call" if stage.steps_per_call > 1 else "")
        + (f", {number(epochs, 3)} epochs" if epochs else ""),
        "data": f"{epoch}; batches of {source.batch_size:,}",
        "state": f"parameters {byte_text(sizes['params'])}, optimizer {byte_text(sizes['opt_state'])}"
        + (f", carry {byte_text(sizes['carry'])}" if sizes["carry"] else ""),
        "an update": f"{scaled(cost.flops)} floating-point operations, {byte_text(cost.accessed)} accessed",
        "memory": f"{byte_text(cost.arguments)} for state and data, {byte_text(cost.temporary)} while it runs",
        "compiled": f"in {program.seconds:.2f} s",
    }  # fmt: skip
    told = [f"  {name:10} {text}" for name, text in facts.items()]
    table = parameter_table(state.params)
    return "\n".join([f"stage {stage.name}", *told, "", f"  {count:,} parameters", *_columns(table)])


def parameter_table(params: Any) -> list[list[str]]:
    """Path, shape and count of each leaf, under a line with the total of its module.

    >>> import jax.numpy as jnp
    >>> encoder = {"w": jnp.zeros((4, 2)), "b": jnp.zeros(2)}
    >>> for line in parameter_table({"params": {"encoder": encoder, "scale": jnp.ones(())}}):
    ...     print(line)
    ['  encoder', '', '10']
    ['    b', '2', '2']
    ['    w', '4 x 2', '8']
    ['  scale', '', '1']
    ['    scale', 'scalar', '1']
    """
    leaves = [(_path(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]]
    if leaves and all(path[0] == "params" and len(path) > 1 for path, _ in leaves):
        leaves = [(path[1:], leaf) for path, leaf in leaves]  # Flax's collection says nothing here
    lines: list[list[str]] = []
    for module in dict.fromkeys(path[0] for path, _ in leaves):
        own = [(path, leaf) for path, leaf in leaves if path[0] == module]
        lines.append([f"  {module}", "", f"{sum(int(leaf.size) for _, leaf in own):,}"])
        for path, leaf in own:
            shape = " x ".join(map(str, leaf.shape)) or "scalar"
            lines.append([f"    {'/'.join(path[1:] or path)}", shape, f"{int(leaf.size):,}"])
    return lines


def cost_of(executable: Any) -> Cost:
    """The compiler's own counts; a backend, or pmap, may give none of them."""
    counts = _asked(executable, "cost_analysis") or {}
    counts = counts[0] if isinstance(counts, list | tuple) and counts else counts
    memory = _asked(executable, "memory_analysis")
    find = lambda name: counts.get(name) if isinstance(counts, dict) else None
    size = lambda name: getattr(memory, f"{name}_size_in_bytes", None)
    return Cost(find("flops"), find("bytes accessed"), size("argument"), size("temp"))


def tree_bytes(tree: Any) -> int:
    """The bytes of all leaves of a pytree of arrays or their shapes; keys count as their data."""
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def byte_text(count: float | None) -> str:
    """Bytes for people.

    >>> byte_text(512), byte_text(3_500_000), byte_text(None)
    ('512 B', '3.5 MB', 'an unknown number of bytes')
    """
    return "an unknown number of bytes" if count is None else f"{scaled(count)}B"


def scaled(count: float | None) -> str:
    """A count with the prefix of its size, ready for a unit.

    >>> scaled(1_234_567), scaled(12), scaled(None)
    ('1.23 M', '12 ', 'an unknown number of')
    """
    if count is None or count < 0:
        return "an unknown number of"
    size, prefix = next(((size, prefix) for size, prefix in PREFIXES if count >= size), (1.0, ""))
    return f"{count / size:.3g} {prefix}"


def _asked(executable: Any, name: str) -> Any:
    try:
        return getattr(executable, name)()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None


def _path(path: Sequence[Any]) -> list[str]:
    return [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path] or ["params"]


def _columns(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))] if lines else []
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]

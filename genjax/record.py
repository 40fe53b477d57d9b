"""What a run directory says in words: configuration, environment, results.

`config.json` holds the experiment's fields beside the command's options, and `facts`: the part that must not change
when a run goes on.  `results.json` holds the run's state, what it has cost over all its processes, and each result with
its kind: a bound and an exact value never look alike.
"""

import dataclasses
import hashlib
import inspect
import json
import math
import operator
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

import genjax
from genjax.averages import has_ema
from genjax.checkpoint.seal import Identity, config_hash
from genjax.data.split import fingerprint
from genjax.errors import BadInput, Damaged
from genjax.experiment import Experiment
from genjax.fields import Loaded
from genjax.report import write_whole
from genjax.train import Cost

RECORDED = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_NNODES", "TPU_NAME")
COST_EVERY = 10.0  # seconds after which the cost so far is written again: a kill loses the count of no more


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` of a run directory.

    Raises:
      BadInput: not a run directory, or its configuration cannot be read.
    """
    path = Path(directory) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        parts = {**config, **config["experiment"]}
        strings, mappings = ("run_id", "name", "file", "folder"), ("facts", "fields")
        if not all(isinstance(parts[n], str) for n in strings) or not all(isinstance(parts[n], dict) for n in mappings):
            raise ValueError("a value is of another type")
        return config
    except (FileNotFoundError, NotADirectoryError):
        run = next((place for place in Path(directory).absolute().parents if (place / "config.json").exists()), None)
        raise BadInput(
            f"{directory} is not a run directory: it has no config.json",
            f"it is a part of the run {run}" if run else "a run directory is made by genjax train",
            f"name {run}" if run else "genjax list runs shows those there are",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(
            f"{path} cannot be read: {type(error).__name__}: {error}"[:300],
            "it is the JSON file written when the run began; each checkpoint's SEAL.json repeats its facts",
            "put it back from a copy",
        ) from error


def configuration(loaded: Loaded, values: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json`: the experiment's file, fields and defaults, the command's options, the digest of the source."""
    own = inspect.signature(loaded.function).parameters  # a run that is gone on with has its values for defaults
    defaults = {name: one.default for name, one in own.items() if one.default is not inspect.Parameter.empty}
    experiment = {
        "file": str(loaded.path), "folder": str(loaded.folder), "name": loaded.name, "title": loaded.title,
        "fields": jsonable(values), "defaults": jsonable(defaults),
    }  # fmt: skip
    kept = {name: value for name, value in options.items() if name not in NOT_KEPT}
    return {"experiment": experiment, **kept, "source": source_digest(loaded)}


def source_digest(loaded: Loaded) -> str:
    """Twelve hexadecimal digits of the experiment file's content."""
    return hashlib.sha256(loaded.source).hexdigest()[:12]


NOT_KEPT = ("workdir", "debug", "allow_change", "coordinator", "processes", "process")


def facts_of(config: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """What must not change when a run goes on: fields, seed, precision, the experiment's source, the data."""
    told = config["experiment"]
    own = {"experiment-name": told["name"], "source-code": config["source"], "data-set": fingerprints(experiment)}
    return {**told["fields"], "seed": config["seed"], "precision": config["precision"], **own}  # no field has a dash


def fingerprints(experiment: Experiment) -> str:
    """A digest of the data of all stages and evaluations."""
    trained = [stage.data.fingerprint for stage in experiment.stages]
    measured = [f"{name} {fingerprint(e.split)}" for name, e in sorted(experiment.evaluations.items())]
    return hashlib.sha256("\n".join([*trained, *measured]).encode()).hexdigest()[:16]


def identity_of(directory: Path, experiment: Experiment) -> Identity:
    """What every checkpoint of a run repeats."""
    config, prng = read_config(directory), str(jax.random.key_impl(jax.random.key(0)))
    return Identity(config["run_id"], config["facts"], code_version(), fingerprints(experiment), prng)


def shared_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What else must be alike on all processes of a run: the command's options, the library's version, JAX's."""
    options = {name: value for name, value in config.items() if name != "experiment"}
    return {"options": jsonable(options), "code": code_version(), "jax": jax.__version__}


def environment() -> dict[str, Any]:
    """`environment.json`: versions, devices, and the few variables that change numbers."""
    device = jax.devices()[0]
    return {
        "genjax": genjax.__version__, "commit": code_version(), "jax": jax.__version__, "jaxlib": jax.lib.__version__,
        "python": platform.python_version(), "platform": device.platform, "device_kind": device.device_kind,
        "device_count": jax.device_count(), "host_count": jax.process_count(), "system": platform.platform(),
        "cpus": os.cpu_count(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "variables": {name: os.environ[name] for name in RECORDED if name in os.environ},
    }  # fmt: skip


def code_version() -> str:
    """The library's version, with the commit where it runs from a checkout."""
    where = Path(genjax.__file__).parent
    command = ["git", "-C", str(where), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return genjax.__version__
    commit = found.stdout.strip() if found.returncode == 0 and (where.parent / ".git").exists() else ""
    return f"{genjax.__version__}+{commit}" if commit else genjax.__version__


def peak_bytes() -> int:
    """The most memory used: the device's where it counts, else the process's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON will give them back."""
    return json.loads(json.dumps(dict(values), default=lambda v: dataclasses.asdict(v)))


def read_results(directory: Path) -> dict[str, Any]:
    """`results.json`; nothing where it is not there, or damaged: it is made again."""
    try:
        results = json.loads((Path(directory) / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def finished(directory: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the directory holds the finished run of these facts."""
    results = read_results(directory)
    return results.get("state") == "finished" and results.get("facts") == jsonable(facts)


def holds(directory: Path, loaded: Loaded, values: Mapping[str, Any], seed: int, precision: str) -> bool:
    """Whether a directory holds just this run, finished: its fields, seed, precision and the experiment's source."""
    if read_results(directory).get("state") != "finished":
        return False
    wanted = configuration(loaded, values, {"seed": seed, "precision": precision})
    try:
        found = read_config(directory)
    except (BadInput, Damaged):
        return False
    same = all(found.get(name) == wanted[name] for name in ("seed", "precision", "source"))
    return same and found["experiment"]["fields"] == wanted["experiment"]["fields"]


def write_results(directory: Path, leader: bool, values: Mapping[str, Any]) -> None:
    """`results.json`, by the first process only."""
    if leader:
        facts = read_config(directory)["facts"]
        write_whole(directory / "results.json", json.dumps({**values, "facts": facts}, indent=1))


class Results(NamedTuple):
    """`results.json` of a run that is being worked on."""

    write: Callable[[Mapping[str, Any]], dict[str, Any]]  # state, message, ...; the cost is added; returns it all
    spend: Callable[[Cost], None]  # counts it; writes it when COST_EVERY seconds have passed since the last writing


def open_results(directory: Path, leader: bool) -> Results:
    """The results of a run, whose cost goes on from what the processes before this one have left.

    Args:
      directory: of the run, locked.
      leader: whether this is the first process, which alone writes.
    """
    before = read_results(directory)
    number, written = int(_count(before, "processes")) + 1, time.monotonic()
    total = Cost(*(type(zero)(_count(before, name)) for name, zero in Cost()._asdict().items()))

    def write(values: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal written
        written = time.monotonic()
        rate = total.examples / total.seconds if total.seconds > 0 else None
        told = {**values, **total._asdict(), "examples_per_second": rate, "processes": number}
        write_results(directory, leader, told)
        return told

    def spend(cost: Cost) -> None:
        nonlocal total
        total = Cost(*map(operator.add, total, cost))
        if time.monotonic() - written >= COST_EVERY:
            write({"state": "running"})

    return Results(write, spend)


def _count(results: Mapping[str, Any], name: str) -> float:
    """A number of results.json, which may be damaged, or of an older version."""
    value = results.get(name)
    return value if isinstance(value, int | float) and 0 <= value < math.inf else 0


def result_lines(
    experiment: Experiment, results: Mapping[str, Any], state: Any, step: int, config: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Measurements as `results.json` keeps them: value, error, unit, kind of bound, count, ema or raw, and of what.

    Args:
      experiment, results, state, step: what was measured, on the state of which step.
      config: the run's `config.json`.
    """
    stage = experiment.stages[-1].name
    weights = "ema" if has_ema(state.opt_state) else "raw"
    lines = []
    for name, measured in results.items():
        split, _, measure = name.partition("/")
        quantity = experiment.evaluations[split].quantities.get(measure)
        if quantity is None:
            continue
        lines.append({
            "name": name, "value": measured.value, "standard_error": measured.standard_error, "unit": quantity.unit,
            "kind": quantity.kind, "better": quantity.better, "count": measured.count, "weights": weights,
            "precision": "float32", "trained": config["precision"], "code": code_version(),
            "config": config_hash(config["facts"]), "stage": stage, "step": step, "data": experiment.data,
        })  # fmt: skip
    return lines


def result_text(line: Mapping[str, Any]) -> str:
    """One result as a line that says what kind of number it is."""
    trained = "" if line["trained"] == line["precision"] else f"trained in {line['trained']}"
    told = (
        *(line["data"], f"N={line['count']:,}", line["weights"], line["precision"], trained),
        *(f"step {line['step']:,}", f"config {line['config'][:8]}", f"code {line['code']}"),
    )
    error = line["standard_error"]
    digits = 7 if line["count"] == 1 else 4  # a coefficient of a whole series is one exact number
    told_error = f" ± {error:.2g}" if error > 0 else ""  # a distance of two sets has none
    value = f"{line['value']:.{4 if told_error else digits}g}{told_error}"
    unit = f" {line['unit']}" if line["unit"] else ""
    return f"{line['name']} {value}{unit} ({line['kind']}; {', '.join(filter(None, told))})"


def evaluation_line(row: Mapping[str, Any], experiment: Experiment) -> str:
    """What an evaluation measured, on one line of the terminal."""
    parts = []
    for name, value in row.items():
        split, _, measure = name.partition("/")
        evaluation = experiment.evaluations.get(split)
        if evaluation is not None and measure in evaluation.quantities:
            parts.append(f"{name} {value:.4g}")
    return f"{row['stage']} step {row['step']:,}: " + "  ".join(parts)

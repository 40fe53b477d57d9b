"""The command `genjax sweep`: its options, its directory, what is left to do, and how it ends."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from genjax.arguments import CheckpointEvery, Devices, EvaluateEvery, LogEvery, Parallel, Precision
from genjax.checkpoint import lock
from genjax.checkpoint.seal import STAGE_NAME
from genjax.errors import BadInput, Preempted
from genjax.fields import Loaded
from genjax.record import holds
from genjax.sweep.grid import Grid, Point
from genjax.sweep.lane_runs import by_lanes
from genjax.sweep.processes import CODES, by_processes
from genjax.sweep.ranking import Ended, best_run, point_row, ranking_text, write_sweep


class SweepOptions(NamedTuple):
    """Options of `genjax sweep FILE field=value,value field=low:high`."""

    workdir: str | None = None
    """The sweep's own directory; default: one below runs/ that the same command finds again."""
    jobs: int = 1
    """How many runs at a time, each in its own process."""
    vmap: bool = False
    """One compiled program trains all points at once, for seeds and float fields: on accelerators, or small models.
    Each point leaves one checkpoint, of its last step, and is measured there."""
    seed: int = 0
    """The seed of every point, where it is not swept."""
    devices: Devices = None
    checkpoint_every: CheckpointEvery = None
    log_every: LogEvery = None
    evaluate_every: EvaluateEvery = None
    precision: Precision = "float32"
    parallel: Parallel = "jit"
    keep: int = 3
    """Newest checkpoints of a run to keep."""
    debug: bool = False
    """Whole tracebacks instead of three lines."""


def sweep(loaded: Loaded, grid: Grid) -> int:
    """Train what is not finished of a grid, then rank all points.

    Args:
      loaded: the experiment file.
      grid: its points, and the options of the command.

    Returns:
      The exit code of the point that ended worst.

    Raises:
      BadInput: an option cannot be used, or the directory is in use.
      Preempted: asked to stop; the same command goes on.
    """
    if grid.options.jobs < 1:
        raise BadInput(f"--jobs {grid.options.jobs}", "allowed: whole numbers from 1", "--jobs 1")
    directory, train_points = sweep_directory(loaded, grid), by_lanes if grid.options.vmap else by_processes
    if not grid.options.vmap:
        jax.config.update("jax_platforms", "cpu")  # this process computes nothing: an accelerator is the children's
    with lock(directory):
        open_points = [point for point in grid.points if not is_finished(directory, loaded, point, grid.options)]
        sizes = " x ".join(f"{len(values)} {name}" for name, values in grid.swept.items())
        finished = len(grid.points) - len(open_points)
        _tell(f"{loaded.title}\nsweep    {directory}\npoints   {sizes}; {finished} of {len(grid.points)} finished")
        try:
            done = train_points(loaded, grid, open_points, directory, _tell)
        except (Preempted, KeyboardInterrupt):
            _finish(directory, loaded, grid, {})
            raise
        _finish(directory, loaded, grid, done)
    return max((ended.code for ended in done.values()), key=CODES.index, default=0)


def sweep_directory(loaded: Loaded, grid: Grid) -> Path:
    """The sweep's directory: the one given, or one whose name is a digest of all that its points share.

    Raises:
      BadInput: its name is none for a directory of runs.
    """
    if grid.options.workdir is not None:
        directory = Path(grid.options.workdir)
        if not STAGE_NAME.fullmatch(directory.name) or (directory / "config.json").exists():
            raise BadInput(
                f"--workdir {grid.options.workdir[:120]}",
                "a directory for the whole sweep, no run's own; its name: letters, digits, '.', '_', '-', at most 100",
                f"for example --workdir runs/{loaded.name}-sweep",
            )
        return directory
    swept = sorted(grid.swept)
    shared = {name: value for name, value in grid.points[0].values.items() if name not in swept}
    seed = None if "seed" in swept else grid.options.seed
    told = repr((loaded.source, swept, sorted(shared.items()), seed, grid.options.precision))
    return Path("runs") / f"{loaded.name[:80]}-sweep-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def is_finished(directory: Path, loaded: Loaded, point: Point, options: SweepOptions) -> bool:
    """Whether a point's run directory holds just this run, finished."""
    return holds(directory / point.name, loaded, point.values, point.seed, options.precision)


def _finish(directory: Path, loaded: Loaded, grid: Grid, ended: Mapping[str, Ended]) -> None:
    rows = [point_row(directory, point, ended.get(point.name)) for point in grid.points]
    page = write_sweep(directory, loaded, grid, rows)
    best = next((point for point in grid.points if str(directory / point.name) == best_run(rows)), None)
    lines = ["", ranking_text(rows), f"page     {page}"]
    if best is not None:
        lines.append(f"next     genjax sample {directory / best.name} --n 64")
    _tell("\n".join(lines))


def _tell(text: str) -> None:
    print(text, flush=True)

"""Sweeps: a grid of runs of one experiment, and their ranking.

    DIR/sweep.json  sweep.html  LOCK
    DIR/<point>/      a run directory, as `genjax train` makes it
    DIR/<point>.log   what its process said

A point that is finished is not trained again: a sweep is gone on with by its own command, and grows by more values.
"""

from genjax.sweep.command import SweepOptions, sweep
from genjax.sweep.grid import Grid, Point, read_grid

__all__ = ["Grid", "Point", "SweepOptions", "read_grid", "sweep"]

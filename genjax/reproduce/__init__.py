"""Rows of papers: listed, trained, judged by a tolerance that was fixed before, and kept as small files.

results/ROW.json        the last number of a row, with what it is and where it comes from
runs/reproduce/ROW/     a run directory, as `genjax train` makes it
runs/reproduce/ROW.log  what its process said
"""

from genjax.reproduce.command import command

__all__ = ["command"]

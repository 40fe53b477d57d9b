"""All families side by side: runs on one data set in one table, and what its numbers support.

DIR/compare.json  compare.html  compare.png  LOCK
DIR/<run>/        a run directory, as `genjax train` makes it
DIR/<run>.log     what its process said
"""

from genjax.compare.command import CompareOptions, compare, compare_options

__all__ = ["CompareOptions", "compare", "compare_options"]

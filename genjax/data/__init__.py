"""Data sets, and batches by random access: batch t is a pure function of (key, t)."""

from genjax.data.batches import batches
from genjax.data.digits import digits
from genjax.data.split import Dataset, Split, carve, make_dataset, resampled, scaled, unchanged

__all__ = ["Dataset", "Split", "batches", "carve", "digits", "make_dataset", "resampled", "scaled", "unchanged"]

"""Checkpoints that lose nothing: Orbax writes the arrays, a seal written last says what they must be.

Measured of Orbax 0.12.8: array data carry no checksum (one flipped bit came back silently in 197 of 200 trials), a
dtype mismatch is cast silently, two writers in one directory can destroy everything, a deletion that was interrupted
leaves a step that still looks valid, metadata and renames are not synced.  Hence, around it:

    RUN/LOCK                                                 held by the one process that may write
    RUN/checkpoints/<stage index>-<stage>-<step>/state/      the arrays
    RUN/checkpoints/<stage index>-<stage>-<step>/SEAL.json   written last: where a valid one is, all is complete
    RUN/checkpoints/.tmp-*, .trash-*                         being written, being deleted: never read
    RUN/quarantine/                                          set aside: damaged, or later than a step gone back to

A checkpoint gets its name by one rename, after the seal has reached the disk, and loses it by one rename, before its
deletion begins.  A process killed anywhere leaves complete checkpoints and rubbish, and the name tells which is which.
"""

from genjax.checkpoint.lock import lock
from genjax.checkpoint.places import seals
from genjax.checkpoint.restoring import Ruined, restore
from genjax.checkpoint.saving import Store, open_store
from genjax.checkpoint.seal import Identity, Seal, config_hash

__all__ = [
    "Identity",
    "Ruined",
    "Seal",
    "Store",
    "config_hash",
    "lock",
    "open_store",
    "restore",
    "seals",
]

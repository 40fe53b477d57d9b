"""Protein families: sequences of one length whose columns correspond, from an alignment or around a motif.

A file that is an alignment has rows of one length, with `-` or `.` for a gap: the 21st letter.  Columns in which more
than half of the rows have a gap are left out, as most of what they say is how the alignment was made.

From a file of whole proteins a motif cuts a block without gaps: a regular expression on their letters, whose leftmost
match is the row, `.{16}G.{4}GK[ST].{40}` for the loop that binds phosphates and what stands around it.

Related sequences are no independent examples.  Of rows that share a given part of their letters only the first of the
file is kept: no row of one split is then nearer than that to one of another, and none needs a weight.

Sources: Walker, Saraste, Runswick and Gay, Distantly related sequences in the alpha- and beta-subunits of ATP synthase,
myosin, kinases and other ATP-requiring enzymes and a common nucleotide binding fold, 1982,
https://doi.org/10.1002/j.1460-2075.1982.tb01276.x (the motif); Ekeberg, Lovkvist, Lan, Weigt and Aurell, Improved
contact prediction in proteins: Using pseudolikelihoods to infer Potts models, 2013, https://arxiv.org/abs/1211.1281
(21 letters, and weights for sequences that are more than 80 % alike).
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genjax.data.proteins import ALPHABET, Record, read_fasta
from genjax.data.split import Dataset, Split, carve, make_dataset, wide_tokens
from genjax.errors import BadInput

LETTERS = "ACDEFGHIKLMNPQRSTVWY-"  # token k is letter k; without gaps there are twenty
FRACTIONS = (0.7, 0.1, 0.2)
P_LOOP = ".{16}G.{4}GK[ST][ALNSTV].{39}"  # 64 residues


def family(path: str | Path, motif: str = "", alike: float = 0.8, fractions: Sequence[float] = FRACTIONS) -> Dataset:
    """The rows of an alignment, or one block of each protein that has a motif.

    Args:
      path: a FASTA file, plain or compressed by gzip.
      motif: a regular expression whose matches all have one length; "": the file is an alignment.
      alike: a row that shares this part of its letters, in (0, 1], with an earlier one is left out; 1: only repeats.
      fractions: of train, validation and test; they sum to 1.

    Returns:
      `tokens` [N, L], prepared as int32 0 .. K-1, of which `vocabulary` has the letters; K is `levels`, 21 where there
      are gaps, else 20.  Rows with other letters (X, B, ...) are left out; `about` counts them.

    Raises:
      BadInput: what `proteins` refuses; rows of unequal length; a motif that is no expression or is nowhere found;
        fewer rows than splits.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".fasta") as file:
    ...     _ = file.write("".join(f">p\\nMV{letter}GKSTLA\\n" for letter in "ACDEFGHIKL"))
    ...     _ = file.flush()
    ...     data = family(file.name, "..GK[ST].", alike=1.0)
    >>> data.levels, data.train.arrays["tokens"].shape
    (20, (7, 6))
    """
    path = Path(path).expanduser()
    if not 0.0 < alike <= 1.0:
        raise BadInput(f"family: alike = {alike}", "allowed: a part of the letters, in (0, 1]")
    records = read_fasta(path, gaps=not motif)
    found = _blocks(path, records, motif) if motif else _columns(path, records)
    legal = found[(found < len(LETTERS)).all(axis=1)]
    kept = legal[_unlike(legal, alike)]
    about = (
        f"The user's own {path.name}: {len(kept):,} rows of {kept.shape[1]} letters, from {len(records):,} sequences; "
        f"{len(found) - len(legal):,} with other letters and {len(legal) - len(kept):,} alike were left out."
    )
    if len(kept) < 10:
        raise BadInput(f"{path}: {len(kept)} different rows.", "A family has 10 at least.", about)
    parts = zip(("train", "validation", "test"), carve(len(kept), fractions), strict=True)
    splits = {name: Split({"tokens": kept[rows]}, wide_tokens) for name, rows in parts}
    levels = len(LETTERS) - (0 if (kept == len(LETTERS) - 1).any() else 1)
    return make_dataset(path.name.split(".")[0], splits, levels=levels, about=about, vocabulary=LETTERS[:levels])


def _blocks(path: Path, records: Sequence[Record], motif: str) -> np.ndarray:
    try:
        pattern = re.compile(motif)
    except re.error as error:
        told = "A motif is a regular expression on one-letter codes, such as G.{4}GK[ST]."
        raise BadInput(f"motif {motif[:80]!r}: {error}.", told) from None
    letters = np.frombuffer(ALPHABET.encode(), np.uint8)
    texts = (letters[record.tokens].tobytes().decode() for record in records)
    matches = [match.group() for text in texts if (match := pattern.search(text))]
    lengths = sorted({len(match) for match in matches})
    if not lengths or lengths[0] == 0:
        raise BadInput(f"{path}: motif {motif[:80]!r} matches nothing.", "Some sequences must have it.")
    if len(lengths) > 1:
        raise BadInput(
            f"motif {motif[:80]!r} matches {lengths[0]} to {lengths[-1]} letters.",
            "All matches have one length, so that columns correspond.",
            "Write x{3} in place of x+ or x{2,4}.",
        )
    place = np.full(256, 255, np.uint8)
    place[letters] = np.arange(len(letters))
    return _tokens(place[np.frombuffer("".join(matches).encode(), np.uint8)].reshape(len(matches), -1))


def _columns(path: Path, records: Sequence[Record]) -> np.ndarray:
    length = len(records[0].tokens)
    odd = next((record for record in records if len(record.tokens) != length), None)
    if odd is not None:
        raise BadInput(
            f"{path}, line {odd.line}: {odd.name!r} has {len(odd.tokens)} letters, the first has {length}.",
            "The rows of an alignment have one length.",
            "Give a motif that cuts a block: --motif '.{20}G.{4}GK[ST].{20}'.",
        )
    rows = np.stack([record.tokens for record in records])
    rows = rows[:, (rows == 0).mean(axis=0) <= 0.5]
    if not rows.shape[1]:
        raise BadInput(f"{path}: every column is mostly gaps.", "A column counts where half of the rows have a letter.")
    return _tokens(rows)


def _tokens(rows: np.ndarray) -> np.ndarray:
    """Places in ALPHABET, a gap being 0, as places in LETTERS; 255 for U, O, B, J, Z and X."""
    gap = len(LETTERS) - 1
    return np.where(rows == 0, gap, np.where(rows > gap, 255, rows - 1)).astype(np.uint8)


def _unlike(rows: np.ndarray, alike: float) -> list[int]:
    """The rows, in their order, that share less than this part with every one kept before."""
    kept = np.empty_like(rows)
    chosen: list[int] = []
    for number, row in enumerate(rows):
        near = (kept[: len(chosen)] == row).mean(axis=1, dtype=np.float32) >= alike - 1e-6
        if not near.any():
            kept[len(chosen)] = row
            chosen.append(number)
    return chosen

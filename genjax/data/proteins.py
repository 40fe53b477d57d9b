"""Proteins from FASTA files: one sequence a row, one token a residue.

    >name and description
    MKVLAT...            one or more lines of letters

The letters are those of IUPAC and UniProt: twenty residues, selenocysteine U and pyrrolysine O, and the uncertain B (D
or N), J (I or L), Z (E or Q) and X (any). All 26 are tokens of their own: a likelihood is then one of the file as it
stands, with nothing guessed or left out. Small letters, which mark low complexity, are read as capitals; one `*` at the
end of a sequence, which marks its end, is dropped.

Pearson and Lipman (1988), https://doi.org/10.1073/pnas.85.8.2444; IUPAC-IUB (1983),
https://doi.org/10.1111/j.1432-1033.1984.tb07877.x.
"""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genjax.data.files import FRACTIONS
from genjax.data.split import Dataset, Split, carve, make_dataset, take, wide_tokens
from genjax.errors import BadInput

RESIDUES = "ACDEFGHIKLMNPQRSTVWYUOBJZX"
ALPHABET = "." + RESIDUES  # token 0 begins a protein, ends it, and fills its row
CODES = np.full(256, 255, np.uint8)
CODES[np.frombuffer((RESIDUES + RESIDUES.lower()).encode(), np.uint8)] = [*range(1, len(ALPHABET))] * 2
GAPPED = CODES.copy()
GAPPED[np.frombuffer(b"-.", np.uint8)] = 0
LINE = 60  # letters of a line that is written


class Record(NamedTuple):
    """One sequence of a FASTA file."""

    name: str  # the first word after `>`
    line: int  # of its `>`
    tokens: np.ndarray  # uint8 [L], 1 .. 26; 0 a gap of an alignment


def proteins(path: str | Path, longest: int = 512, fractions: Sequence[float] = FRACTIONS) -> Dataset:
    """The sequences of a FASTA file that have at most `longest` residues, each different sequence once.

    Rows are assigned to the splits by a fixed pseudo-random order, the same on every machine. No sequence stands in two
    splits, but relatives may: where that matters, cluster the file first and give one sequence of each cluster.

    Args:
      path: a FASTA file, plain or compressed by gzip.
      longest: residues of the longest row, at least 1; longer sequences are left out, `about` says how many.
      fractions: of train, validation and test; they sum to 1.
    Returns:
      `tokens` [N, longest + 2], prepared as int32: token 0, the residues, token 0, and zeros to fill the row; `length`
      int32 [N], predictions of a row: its residues and the token 0 that ends them. Of `tokens[:, 1:]` the first
      `length` count. `vocabulary` is the letter of each token, "." for token 0.
    Raises:
      BadInput: no such file, not FASTA, an empty record or an illegal letter, named by record, line and position; or
        fewer sequences than splits.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".fasta") as file:
    ...     _ = file.write("".join(f">p{i}\\n{'ACDEFGHIKL'[i:]}\\n" for i in range(10)))
    ...     _ = file.flush()
    ...     data = proteins(file.name, longest=9)
    >>> data.about, data.train.arrays["tokens"].shape
    ("The user's own ...: 10 sequences, 0 of them repeated, 1 longer than 9 residues.", (7, 11))
    """
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
        raise BadInput(f"proteins: longest = {longest!r}.", "Allowed are whole numbers from 1.")
    path = Path(path).expanduser()
    records = read_fasta(path)
    different = {record.tokens.tobytes(): record.tokens for record in records}
    kept = [tokens for tokens in different.values() if len(tokens) <= longest]
    if len(kept) < 3:
        what = f"{path}: {len(kept)} different sequences of at most {longest} residues, of {len(records)} records."
        raise BadInput(what, "Train, validation and test need one each.", "Give more sequences, or a larger `longest`.")
    tokens = np.zeros([len(kept), longest + 2], np.uint8)
    for row, sequence in enumerate(kept):
        tokens[row, 1 : len(sequence) + 1] = sequence
    length = np.array([len(sequence) + 1 for sequence in kept], np.int32)
    parts = zip(("train", "validation", "test"), carve(len(kept), fractions), strict=True)
    splits = {split: Split(take({"tokens": tokens, "length": length}, rows), wide_tokens) for split, rows in parts}
    repeated, longer = len(records) - len(different), len(different) - len(kept)
    about = f"{len(records):,} sequences, {repeated:,} of them repeated, {longer:,} longer than {longest:,} residues."
    about = f"The user's own {path.name}: {about}"
    return make_dataset(path.name.split(".")[0], splits, levels=len(ALPHABET), about=about, vocabulary=ALPHABET)


def read_fasta(path: Path, most: int = 2**30, gaps: bool = False) -> list[Record]:
    """The records of a FASTA file, in its order.

    Args:
      path: plain or gzip; which of them is seen from its first two bytes.
      most: bytes that are read, or decompressed, at most.
      gaps: whether `-` and `.` are read, as token 0; else they are refused.
    Raises:
      BadInput: see `proteins`.
    """
    records: list[Record] = []
    name, begun, parts = "", 0, list[bytes]()
    for number, line in enumerate(_content(path, most).splitlines(), 1):
        line = line.strip()
        if line.startswith(b">"):
            if begun:
                records.append(_record(path, name, begun, parts, gaps))
            words = line[1:].split(maxsplit=1)
            name, begun, parts = words[0].decode("utf-8", "replace")[:60] if words else "", number, []
        elif line and not begun:
            what = f"{path}, line {number}: {line[:40].decode('utf-8', 'replace')!r} stands before the first record."
            raise BadInput(what, "FASTA begins with a line such as: >name", "Is it another format?")
        elif begun:
            parts.append(line)
    if not begun:
        raise BadInput(f"{path} holds no record.", "FASTA is lines such as >name, each followed by lines of letters.")
    return [*records, _record(path, name, begun, parts, gaps)]


def _record(path: Path, name: str, begun: int, parts: list[bytes], gaps: bool) -> Record:
    """One record; raises BadInput that names the line and the residue of the first illegal letter."""
    letters = b"".join(parts).removesuffix(b"*")
    if not letters:
        what = f"{path}, line {begun}: record {name!r} is empty."
        raise BadInput(what, "Each record has one residue at least.", "Remove it.")
    tokens = (GAPPED if gaps else CODES)[np.frombuffer(letters, np.uint8)]
    if (bad := tokens == 255).any():
        place = int(np.argmax(bad))
        ends = np.cumsum([len(part) for part in parts])
        line = begun + 1 + int(np.searchsorted(ends, place, side="right"))
        what = f"{path}, line {line}, record {name!r}: {chr(letters[place])!r} is residue {place + 1}."
        hint = "An alignment has gaps: remove them." if letters[place] in b"-." else "Repair or remove this record."
        raise BadInput(what, f"Allowed are the letters {RESIDUES}.", hint)
    return Record(name, begun, tokens)


def _content(path: Path, most: int) -> bytes:
    """The bytes of a file, decompressed where it is gzip; no more than `most` are ever held."""
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            content = gzip.GzipFile(fileobj=plain).read(most + 1) if packed else plain.read(most + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = f"{path} is not a whole gzip file: {error}."
        raise BadInput(what, "It is cut or damaged.", "Get it again.") from error
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror or error}."
        raise BadInput(
            what, "It must be a FASTA file, plain or gzip.", "Check the path and its permissions."
        ) from error
    if len(content) > most:
        raise BadInput(f"{path} has more than {most:,} bytes.", f"At most {most:,} are read.", "Split the file.")
    return content


def fasta_text(sequences: Sequence[str], name: str = "sample") -> str:
    """Sequences as FASTA, numbered from 1, in lines of 60 letters; empty ones are left out, as FASTA has none.

    >>> print(fasta_text(["MKV", "", "AC"]), end="")
    >sample_1
    MKV
    >sample_3
    AC
    """
    records = []
    for number, sequence in enumerate(sequences, 1):
        lines = [sequence[start : start + LINE] for start in range(0, len(sequence), LINE)]
        records += [f">{name}_{number}", *lines] if lines else []
    return "".join(f"{line}\n" for line in records)

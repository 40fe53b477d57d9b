"""How new a sampled sequence is: what of it stands in one sequence of the training set, and whether all of it does.

A k-mer is a run of k tokens.  For a sample s and training sequences t, with K(s) the set of the k-mers of s,

    share(s) = max over t of |K(s) and K(t)| / |K(s)|

is 1 where every k-mer of the sample stands in one training sequence: a copy, or a part of one.  It needs no alignment,
and between related proteins falls with their identity (Edgar, Local homology recognition and distance measures in
linear time using compressed amino acid alphabets, 2004, https://doi.org/10.1093/nar/gkh180).  Unrelated sequences share
some k-mers by chance, the more of them the larger the training set: compare with the share of held-out sequences.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput

TOKENS = 32  # a token is a digit of base 32 in the number of a k-mer


class Index(NamedTuple):
    """The k-mers of the training sequences."""

    k: int
    sequences: int  # N
    entries: np.ndarray  # int64, sorted: number of the k-mer * N + number of the sequence, each pair once
    whole: frozenset[bytes]  # the sequences


class Nearest(NamedTuple):
    """The training sequence that has most of a sample's k-mers."""

    share: float  # of the sample's different k-mers, 0 .. 1; 0 where it is shorter than k
    sequence: int  # its number, the first of several; -1: none has any
    copy: bool  # the sample is one of the training sequences


def kmer_index(sequences: Sequence[np.ndarray], k: int = 5) -> Index:
    """The index of a training set; as large as eight bytes a token.

    Args:
      sequences: N arrays of tokens 0 .. 31, of any lengths.
      k: tokens of a k-mer, 1 to 8.

    Returns:
      What `nearest` looks into.

    Raises:
      BadInput: k outside 1 .. 8, or a token outside 0 .. 31.

    >>> index = kmer_index([np.array([1, 2, 3, 1, 2])], k=2)
    >>> [(entry // 32, entry % 32) for entry in index.entries.tolist()]
    [(1, 2), (2, 3), (3, 1)]
    """
    if not 1 <= k <= 8:
        raise BadInput(f"k = {k}", "allowed: 1 to 8 tokens a k-mer")
    pairs = [kmers(tokens, k) * len(sequences) + number for number, tokens in enumerate(sequences)]
    entries = np.sort(np.concatenate([np.zeros(0, np.int64), *pairs]))  # np.unique would hash them, many times slower
    entries = entries[np.diff(entries, prepend=-1) > 0]
    return Index(k, len(sequences), entries, frozenset(_bytes(tokens) for tokens in sequences))


def nearest(index: Index, sample: np.ndarray) -> Nearest:
    """The training sequence that has most of a sample's k-mers.

    Args:
      index: of the training set.
      sample: tokens 0 .. 31.

    Returns:
      Nearest(share, sequence, copy).

    Raises:
      BadInput: a token outside 0 .. 31.

    >>> index = kmer_index([np.array([1, 2, 3, 1, 2]), np.array([4, 5])], k=2)
    >>> nearest(index, np.array([1, 2, 3, 4]))  # of 12, 23, 34 the first has two
    Nearest(share=0.6666666666666666, sequence=0, copy=False)
    """
    copy = _bytes(sample) in index.whole
    codes = np.unique(kmers(sample, index.k))
    first, last = (np.searchsorted(index.entries, edge * index.sequences) for edge in (codes, codes + 1))
    owners = [index.entries[a:b] % index.sequences for a, b in zip(first, last, strict=True)]
    found = np.concatenate([np.zeros(0, np.int64), *owners])
    if not len(found):
        return Nearest(0.0, -1, copy)
    counts = np.bincount(found)
    best = int(np.argmax(counts))
    return Nearest(float(counts[best] / len(codes)), best, copy)


def kmers(tokens: np.ndarray, k: int) -> np.ndarray:
    """The numbers of the k-mers of a sequence, in its order.

    Args:
      tokens: [L], 0 .. 31.
      k: tokens of a k-mer.

    Returns:
      int64 [max(L - k + 1, 0)], sum_i token_i 32^(k - 1 - i).

    Raises:
      BadInput: a token outside 0 .. 31.

    >>> kmers(np.array([1, 0, 2]), 2).tolist()
    [32, 2]
    """
    tokens = np.asarray(tokens, np.int64)
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < TOKENS:
        raise BadInput(f"tokens from {tokens.min()} to {tokens.max()}", f"allowed: 0 to {TOKENS - 1}")
    count = max(len(tokens) - k + 1, 0)
    return sum((tokens[i : i + count] * TOKENS ** (k - 1 - i) for i in range(k)), np.zeros(count, np.int64))


def _bytes(tokens: np.ndarray) -> bytes:
    return np.asarray(tokens, np.uint8).tobytes()

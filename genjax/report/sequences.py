"""What a model of sequences draws and foresees, as tables of text: how new its samples are, how good its guesses."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genjax.distributions.units import bits, perplexity
from genjax.errors import BadInput
from genjax.metrics.novelty import Index, nearest


class Known(NamedTuple):
    """The training set as samples are compared with it."""

    runs: Index
    names: Sequence[str]  # of its sequences
    letters: str  # the letter of each token
    shares: np.ndarray  # [tokens] how often each token occurs in it


def novelty_table(
    samples: Sequence[np.ndarray], ended: Sequence[bool], held_out: Sequence[np.ndarray], known: Known
) -> str:
    """How long, how new, and how composed samples are, beside held-out sequences, and each by itself.

    Args:
      samples: N arrays of tokens, the first of which is number 1.
      ended: whether each ended by itself, before its room did.
      held_out: sequences of the same source that were not trained on, no longer than samples may be.
      known: the training set.

    Returns:
      Lines of text.

    Raises:
      BadInput: no samples or no held-out sequences.
    """
    if not len(samples) or not len(held_out):
        raise BadInput(f"{len(samples)} samples, {len(held_out)} held-out sequences", "at least one of each")
    both = {"samples": samples, "held out": held_out}
    found = {name: [nearest(known.runs, sequence) for sequence in one] for name, one in both.items()}
    spread = lambda name: [f"{q:.2f}" for q in np.quantile([n.share for n in found[name]], (0.5, 0.9))]
    rows = {
        "sequences": {name: f"{len(one):,}" for name, one in both.items()},
        "median length": {name: f"{np.median([len(s) for s in one]):,.0f}" for name, one in both.items()},
        "median share in the nearest": {name: spread(name)[0] for name in both},
        "the same, 90 % below": {name: spread(name)[1] for name in both},
        "copies": {name: str(sum(n.copy for n in found[name])) for name in both},
        "composition apart from training's": {name: f"{_apart(one, known.shares):.3f}" for name, one in both.items()},
    }
    runs = f"{known.runs.sequences:,} training sequences; runs of {known.runs.k}"
    lines = [f"{runs:34}{''.join(f'{name:>10}' for name in both)}"]
    lines += [f"{what:34}{''.join(f'{cells[name]:>10}' for name in both)}" for what, cells in rows.items()]
    lines += ["", f"{'sample':>6} {'length':>6} {'ended':>5} {'share':>5} {'copy':>4}  nearest, most frequent"]
    for number, (sample, end, near) in enumerate(zip(samples, ended, found["samples"], strict=True), 1):
        name = known.names[near.sequence] if near.sequence >= 0 else "none"
        told = f"{number:6} {len(sample):6} {_word(end):>5} {near.share:5.2f} {_word(near.copy):>4}"
        lines.append(f"{told}  {name}, {_frequent(sample, known.letters)}".rstrip(", "))
    return "\n".join(lines) + "\n"


def guess_table(nats: np.ndarray, unigram: np.ndarray, tokens: np.ndarray, ranks: np.ndarray, letters: str) -> str:
    """How well the next token is foreseen: over all, and of each letter, beside the frequencies alone.

    Args:
      nats: [n] -log p(token | those before), by the model.
      unigram: [n] the same by the frequencies of the training set.
      tokens: [n] what came.
      ranks: [n] how many tokens the model held for more likely than what came.
      letters: the letter of each token.

    Returns:
      Lines of text: bits and perplexity a token, and how often what came was the first guess, or among the first five.

    Raises:
      BadInput: no tokens.

    >>> half, one = np.full(4, np.log(2.0)), np.ones(4, int)
    >>> print(guess_table(half, 2 * half, one, one, ".A"), end="")
    token      count    bits perplexity frequencies: bits perplexity   first    of 5
    all            4   1.000       2.00             2.000       4.00   0.0 % 100.0 %
    A              4   1.000       2.00             2.000       4.00   0.0 % 100.0 %
    """
    tokens = np.asarray(tokens, np.int64)
    if not tokens.size:
        raise BadInput("no tokens were foreseen", "at least one")
    head = f"{'token':6} {'count':>9} {'bits':>7} {'perplexity':>10} {'frequencies: bits':>17} {'perplexity':>10}"
    lines = [f"{head} {'first':>7} {'of 5':>7}"]
    counts = np.bincount(tokens, minlength=len(letters))
    order = [int(token) for token in np.argsort(-counts, kind="stable") if counts[token]]
    for name, chosen in [("all", tokens >= 0), *((letters[token], tokens == token) for token in order)]:
        n = int(chosen.sum())
        model, alone = float(nats[chosen].sum()), float(unigram[chosen].sum())
        cells = f"{float(bits(model / n)):7.3f} {float(perplexity(model, n)):10.2f} {float(bits(alone / n)):17.3f}"
        hits = " ".join(f"{100 * float(np.mean(ranks[chosen] < first)):5.1f} %" for first in (1, 5))
        lines.append(f"{name:6} {n:9,} {cells} {float(perplexity(alone, n)):10.2f} {hits}")
    return "\n".join(lines) + "\n"


def _apart(sequences: Sequence[np.ndarray], shares: np.ndarray) -> float:
    """Half the sum of the differences of frequencies: 0 the same, 1 nothing in common."""
    counts = np.bincount(np.concatenate([*sequences, np.zeros(0, np.int64)]).astype(np.int64), minlength=len(shares))
    return float(np.abs(counts / max(counts.sum(), 1) - shares).sum() / 2)


def _frequent(sample: np.ndarray, letters: str) -> str:
    """The three most frequent letters."""
    counts = np.bincount(sample.astype(np.int64), minlength=len(letters))
    order = [token for token in np.argsort(-counts, kind="stable")[:3] if counts[token]]
    return " ".join(f"{letters[token]} {100 * counts[token] / len(sample):.0f} %" for token in order)


def _word(value: bool) -> str:
    return "yes" if value else "no"

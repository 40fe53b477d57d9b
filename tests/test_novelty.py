"""Novelty of samples against a brute-force count, and the tables and charts that show it."""

import re

import numpy as np
import pytest
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics.novelty import Nearest, kmer_index, kmers, nearest
from genjax.report.frequencies import frequencies_svg
from genjax.report.sequences import Known, guess_table, novelty_table

RNG = np.random.default_rng(0)
TRAIN = [RNG.integers(1, 5, size).astype(np.uint8) for size in (40, 3, 60, 60, 1, 25)]
TRAIN.append(TRAIN[2][5:50])  # a part of another
SAMPLES = [
    TRAIN[0],  # a copy
    TRAIN[3][10:40],  # a part
    np.concatenate([TRAIN[2][:20], TRAIN[5][:20]]),  # of two
    np.repeat(TRAIN[0][:3], 5),  # the same k-mers many times
    RNG.integers(1, 5, 50),
    np.array([9, 9, 9, 9, 9, 9]),  # unknown
    TRAIN[1],  # shorter than k, and a copy
    np.zeros(0, np.uint8),
]


def brute(sample, k):
    """The same by sets of tuples."""
    runs = lambda tokens: {tuple(tokens[i : i + k].tolist()) for i in range(len(tokens) - k + 1)}
    own = runs(sample)
    shares = [len(own & runs(other)) / len(own) if own else 0.0 for other in TRAIN]
    best = int(np.argmax(shares))
    copy = any(np.array_equal(sample, other) for other in TRAIN)
    return Nearest(shares[best], best if shares[best] > 0 else -1, copy)


def check_nearest(index_of, nearest):
    for k in (1, 2, 4, 5, 8):
        index = index_of(TRAIN, k)
        for sample in SAMPLES:
            found, expected = nearest(index, sample), brute(sample, k)
            assert found.share == pytest.approx(expected.share) and found[1:] == expected[1:]


def test_nearest_is_the_brute_force_count():
    check_nearest(kmer_index, nearest)


def _counted(index, sample):
    """Runs counted as often as they stand in the sample."""
    codes = kmers(sample, index.k)
    found = [index.entries[index.entries // index.sequences == code] % index.sequences for code in codes]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *found]).astype(int), minlength=1)
    return Nearest(counts.max() / max(len(codes), 1), int(counts.argmax()) if counts.max() else -1, False)


def _pooled(index, sample):
    """Runs that any sequence has, not one."""
    codes = np.unique(kmers(sample, index.k))
    share = np.isin(codes, index.entries // index.sequences).mean() if len(codes) else 0.0
    return nearest(index, sample)._replace(share=float(share))


MUTANTS = {
    "runs counted each time": (kmer_index, _counted),
    "runs of all sequences together": (kmer_index, _pooled),
    "no copies": (kmer_index, lambda index, sample: nearest(index, sample)._replace(copy=False)),
    "a share of 1 taken for a copy": (
        kmer_index,
        lambda index, sample: (n := nearest(index, sample))._replace(copy=n.share == 1.0),
    ),
    "the last sequence left out": (lambda train, k: kmer_index([*train[:-2], train[-1][:0], train[-1]], k), nearest),
    "another k": (lambda train, k: kmer_index(train, max(1, k - 1)), nearest),
    "tokens without their order": (lambda train, k: kmer_index([np.sort(t) for t in train], k), nearest),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_count_rejects(mutant):
    rejects(check_nearest, *mutant)


def test_bad_input():
    for call, told in [
        (lambda: kmer_index(TRAIN, 0), "k = 0"),
        (lambda: kmer_index(TRAIN, 9), "k = 9"),
        (lambda: kmer_index([np.array([32])], 1), "to 32"),
        (lambda: nearest(kmer_index(TRAIN), np.array([-1, 2])), "from -1"),
        (lambda: frequencies_svg("AC", {}, ""), "allowed"),
        (lambda: frequencies_svg("AC", {"a": np.array([1.0])}, ""), "allowed"),
        (lambda: frequencies_svg("AC", {"a": np.array([1.0, np.nan])}, ""), "allowed"),
        (lambda: novelty_table([], [], TRAIN, KNOWN), "0 samples"),
        (lambda: guess_table(*np.zeros((4, 0)), "AC"), "no tokens"),
    ]:
        with pytest.raises(BadInput, match=told):
            call()


KNOWN = Known(kmer_index(TRAIN, 5), [f"p{i}" for i in range(len(TRAIN))], ".ACDEFGHIK", np.full(10, 0.1))


def test_the_table_tells_each_sample_and_all():
    drawn = [np.asarray(sample) for sample in SAMPLES[:7]]
    text = novelty_table(drawn, [True, *[False] * 6], TRAIN[:2], KNOWN)
    rows = {line[:34].strip(): line[34:].split() for line in text.splitlines()[1:7]}
    assert rows["sequences"] == ["7", "2"] and rows["copies"] == ["2", "2"]
    shares = [brute(sample, 5).share for sample in drawn]
    assert rows["median share in the nearest"] == [f"{np.median(shares):.2f}", "0.50"]
    lines = [line for line in text.splitlines() if re.match(r" +\d+ +\d+ ", line)]
    assert [line.split()[:5] for line in lines[:2]] == [
        ["1", "40", "yes", "1.00", "yes"],
        ["2", "30", "no", "1.00", "no"],
    ]
    assert "p3" in lines[1] and "none, K 100 %" in lines[5]


def test_composition_apart_is_the_total_variation():
    known = KNOWN._replace(shares=np.array([0, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0]))
    text = novelty_table([np.array([1, 1, 1, 3])], [True], [np.array([1, 2])], known)
    line = next(line for line in text.splitlines() if line.startswith("composition"))
    assert line.split()[-2:] == ["0.500", "0.000"]


def test_guesses_are_those_of_the_numbers():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    came = np.array([1, 2])
    nats = -logits[np.arange(2), came]
    ranks = (logits > logits[np.arange(2), came][:, None]).sum(1)
    lines = guess_table(nats, np.full(2, np.log(4.0)), came, ranks, "ABC").splitlines()
    bits = np.array([2.0, -np.log2(0.7)])
    expected = [["all", bits.mean(), 50.0], ["B", 2.0, 0.0], ["C", bits[1], 100.0]]
    for line, (name, mean, first) in zip(lines[1:], expected, strict=True):
        cells = line.split()
        assert cells[0] == name and float(cells[2]) == pytest.approx(mean, abs=6e-4)
        assert float(cells[3]) == pytest.approx(2**mean, abs=6e-3) and cells[4:6] == ["2.000", "4.00"]
        assert float(cells[6]) == first and float(cells[8]) == 100.0


def test_bars_are_as_high_as_their_shares():
    svg = frequencies_svg("AC", {"samples": np.array([0.2, 0.4]), "data": np.array([0.1, 0.0])}, "x < y").decode()
    bars = re.findall(
        r'<rect x="[\d.]+" y="([\d.]+)" fill="[^"]+" width="[\d.]+" height="([\d.]+)"><title>([^<]+)', svg
    )
    heights = {title: float(height) for _, height, title in bars}
    assert heights["C in samples: 40.0 %"] == pytest.approx(2 * heights["A in samples: 20.0 %"], abs=0.2)
    assert heights["C in data: 0.0 %"] == 0 and heights["A in data: 10.0 %"] == pytest.approx(
        heights["A in samples: 20.0 %"] / 2, abs=0.2
    )
    assert {round(float(y) + float(height), 1) for y, height, _ in bars} == {232.0}  # all stand on the axis
    assert "x &lt; y" in svg and svg.startswith("<svg ")

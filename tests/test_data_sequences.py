"""Proteins and time series: what a file holds comes back, in splits that share nothing, at times that go on."""

import gzip
from pathlib import Path

import jax
import numpy as np
import pytest
from planted import rejects

from genjax.data import fasta_text, proteins, rolls_file, series
from genjax.data.proteins import RESIDUES, read_fasta
from genjax.data.series import periods_after
from genjax.errors import BadInput


def some_proteins(count: int = 60, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return ["".join(draw.choice(list(RESIDUES), draw.integers(1, 90))) for _ in range(count)]


def written(folder: Path, sequences: list[str], name: str = "some.fasta") -> Path:
    content = fasta_text(sequences).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def read_back(data) -> list[set[str]]:
    """The sequences of each split, by the prepared rows."""
    found = []
    for split in data[1:4]:
        batch = split.prepare(split.arrays, jax.random.key(0))
        rows = batch["tokens"].tolist()
        assert batch["tokens"].dtype == np.int32
        for row, length in zip(rows, batch["length"].tolist(), strict=True):
            assert row[0] == row[length] == 0 and 0 not in row[1:length] and set(row[length:]) == {0}
        found.append({"".join(data.vocabulary[token] for token in row if token) for row in rows})
        assert len(found[-1]) == len(rows), "a sequence stands in a split twice"
    return found


def check_proteins(proteins, folder: Path) -> None:
    """Every different sequence that is short enough, once, in one split."""
    sequences = some_proteins()
    path = written(folder, [*sequences, *sequences[::3], "M" * 41, "K" * 40])
    train, validation, test = read_back(proteins(path, longest=40))
    assert train | validation | test == {s for s in sequences if len(s) <= 40} | {"K" * 40}
    assert not (train & validation or train & test or validation & test)


def test_each_protein_once(tmp_path: Path) -> None:
    check_proteins(proteins, tmp_path)
    data = proteins(tmp_path / "some.fasta", longest=40)
    assert data.vocabulary == "." + RESIDUES and data.levels == 27 and data.name == "some"
    assert "82 sequences, 20 of them repeated" in data.about and "longer than 40 residues" in data.about


def test_the_check_of_proteins_finds(tmp_path: Path) -> None:
    def planted(change):
        def make(path, longest):
            data = proteins(path, longest)
            return data._replace(**change(data))

        return make

    rows = lambda split, part: split._replace(arrays={f: a[part] for f, a in split.arrays.items()})
    moved = lambda split, field, by: split._replace(arrays={**split.arrays, field: by(split.arrays[field])})
    rejects(check_proteins, planted(lambda d: {"test": d.validation}), tmp_path)  # a split twice
    rejects(check_proteins, planted(lambda d: {"train": rows(d.train, slice(1, None))}), tmp_path)  # one is lost
    rejects(check_proteins, planted(lambda d: {"train": moved(d.train, "length", lambda x: x - 1)}), tmp_path)
    rejects(check_proteins, planted(lambda d: {"train": moved(d.train, "tokens", lambda x: x[:, 1:])}), tmp_path)
    rejects(check_proteins, lambda path, longest: proteins(path, longest - 1), tmp_path)
    rejects(check_proteins, planted(lambda d: {"vocabulary": d.vocabulary[0] + d.vocabulary[:0:-1]}), tmp_path)


def test_gzip_and_plain_are_one_data_set(tmp_path: Path) -> None:
    plain = proteins(written(tmp_path, some_proteins()))
    assert proteins(written(tmp_path, some_proteins(), "some.fasta.gz")).fingerprint == plain.fingerprint
    assert proteins(written(tmp_path, some_proteins(seed=1))).fingerprint != plain.fingerprint


def test_fasta_as_others_write_it(tmp_path: Path) -> None:
    path = tmp_path / "a.fa"
    path.write_bytes(b"\n>sp|P1|A first one\r\nMkv \r\n\r\n  LAT*\r\n>\nACDUOBZXJ\n>p3 x>y\nW")
    records = read_fasta(path)
    letters = ["".join(RESIDUES[token - 1] for token in record.tokens) for record in records]
    assert letters == ["MKVLAT", "ACDUOBZXJ", "W"]
    assert [(record.name, record.line) for record in records] == [("sp|P1|A", 2), ("", 6), ("p3", 8)]


def test_what_is_decompressed_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b">a\n" + b"A" * 100_000))
    with pytest.raises(BadInput, match="more than 5,000 bytes"):
        read_fasta(path, most=5_000)
    path.write_bytes(b">a\n" + b"A" * 100_000)
    with pytest.raises(BadInput, match="more than 5,000 bytes"):
        read_fasta(path, most=5_000)


def test_fasta_text_is_read_back(tmp_path: Path) -> None:
    sequences = some_proteins(9)
    path = written(tmp_path, [*sequences, ""])
    assert ["".join(RESIDUES[t - 1] for t in record.tokens) for record in read_fasta(path)] == sequences
    assert max(map(len, path.read_text().splitlines())) <= 60


SERIES = {  # file, column -> first and last time, step, the period after the last
    "years": ("YEAR,SUN\n1700,5\n1701,11\n1702,16", None, ("1700", "1702", 1, "1703")),
    "no name for the time": (",0\n1821,5\n1823,11\n1825,16", None, ("1821", "1825", 2, "1827")),
    "months": ("Date,Sold\n1949-11,5\n1949-12,11\n1950-01,16", "Sold", ("1949-11", "1950-01", 1, "1950-02")),
    "quarters": ("t,x\n1949Q3,5\n1949Q4,11\n1950-Q1,16", None, ("1949-07", "1950-01", 3, "1950-04")),
    "year and quarter": ("year,quarter,x\n1949,3,5\n1949,4,11\n1950,1,16", None, ("1949-07", "1950-01", 3, "1950-04")),
    "year and month": ("Year,Month,x\n1949,9,5\n1949,10,11\n1949,11,16", None, ("1949-09", "1949-11", 1, "1949-12")),
    "days": ("t,x\n2000-02-28,5\n2000-02-29,11\n2000-03-01,16", None, ("2000-02-28", "2000-03-01", 1, "2000-03-02")),
    "weeks": ("t,x\n19580329,5\n19580405,11\n19580412,16", None, ("1958-03-29", "1958-04-12", 7, "1958-04-19")),
    "a counter": ("t,x\n20250131,5\n20250132,11\n20250133,16", None, ("20250131", "20250133", 1, "20250134")),
    "a counter of which two are days": (
        "t,x\n20250130,5\n20250131,11\n20250132,16",
        None,
        ("20250130", "20250132", 1, "20250133"),
    ),
    "firsts of months": ("t,x\n2001-01-01,5\n2001-02-01,11\n2001-03-01,16", None, ("2001-01", "2001-03", 1, "2001-04")),
    "ends of months": ("t,x\n2001-01-31,5\n2001-02-28,11\n2001-03-31,16", None, ("2001-01", "2001-03", 1, "2001-04")),
    "ends of quarters": ("t,x\n2000-12-31,5\n2001-03-31,11\n2001-06-30,16", None, ("2000-12", "2001-06", 3, "2001-09")),
    "hours": (
        "t,x\n2016-07-01 22:00,5\n2016-07-01 23:00,11\n2016-07-02 00:00,16",
        None,
        ("2016-07-01T22:00:00", "2016-07-02T00:00:00", 3600, "2016-07-02T01:00:00"),
    ),
    "seconds": (
        "t,x\n2016-07-01T22:00:00,5\n2016-07-01T22:00:10,11\n2016-07-01T22:00:20,16",
        None,
        ("2016-07-01T22:00:00", "2016-07-01T22:00:20", 10, "2016-07-01T22:00:30"),
    ),
    "one column": ("x\n5\n11\n16", None, ("0", "2", 1, "3")),
    "one column, no header": ("5\n11\n16", "1", ("0", "2", 1, "3")),
    "no header": ("1949-11,5\n1949-12,11\n1950-01,16", "2", ("1949-11", "1950-01", 1, "1950-02")),
    "another column": ("t,y,x\n1,0,5\n2,0,11\n3,,16", "x", ("1", "3", 1, "4")),
    "quoted, with a mark, other line ends": (
        '\ufeff"t","x, y"\r\n1,"5"\r\n\r\n2, 11\r\n3,1.6e1\r\n',
        None,
        ("1", "3", 1, "4"),
    ),
}


@pytest.mark.parametrize("name", SERIES)
def test_series_of_all_kinds(name: str, tmp_path: Path) -> None:
    content, column, expected = SERIES[name]
    (tmp_path / "some.csv").write_text(content, encoding="utf-8", newline="")
    found = series(tmp_path / "some.csv", column)
    assert found.values.dtype == np.float64 and found.values.tolist() == [5.0, 11.0, 16.0]
    ahead = periods_after(found.times[-1], found.step, np.arange(1, 3))
    assert (str(found.times[0]), str(found.times[-1]), found.step, str(ahead[0])) == expected


def test_a_series_has_the_digest_of_its_content(tmp_path: Path) -> None:
    found = set()
    for content in ("1,5\n2,6", "1,5\n2,7", "2,5\n3,6", "1,5\n3,6", "1949-01,5\n1949-02,6"):
        (tmp_path / "some.csv").write_text("t,x\n" + content)
        found.add(series(tmp_path / "some.csv").fingerprint)
    assert len(found) == 5


def test_the_same_roll_has_the_same_digest(tmp_path: Path) -> None:
    found = []
    for content in ("[[60, 64]]", "[[64.0, 60, 64]]", "[[60, 64], []]", "[[60, 65]]"):
        (tmp_path / "a.json").write_text(f'{{"train": [{content}], "valid": [[[], []]], "test": [[[61]]]}}')
        found.append(rolls_file(tmp_path / "a.json").fingerprint)
    assert found[0] == found[1] and len(set(found)) == 3

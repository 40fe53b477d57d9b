"""Bad texts, proteins, series, music, tokens, one line a case: at most three lines that name place, value, remedy."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_sets import MERGES, pair_files

from genjax.data import (
    Split,
    batches,
    bpe_tokenizer,
    byte_tokenizer,
    character_tokenizer,
    commands,
    from_file,
    gpt2_tokenizer,
    jsb_chorales,
    make_dataset,
    names,
    pieces,
    proteins,
    rolls_file,
    series,
    text_file,
    tiny_shakespeare,
    unchanged,
    windows,
)
from genjax.data.texts import name_rows
from genjax.errors import BadInput

Case = tuple[Callable[[Path], object], tuple[str, ...]]


def file(read: Callable[..., object], content: bytes | str, *settings: object) -> Callable[[Path], object]:
    """Writes a file and reads it."""

    def call(folder: Path) -> object:
        path = folder / "mine.any"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read(path, *settings)

    return call


def tokens(train: list[int] | np.ndarray, levels: int = 5) -> Callable[[Path], object]:
    split = Split({"tokens": np.array(train)}, unchanged)
    return lambda _: make_dataset("mine", {"train": split, "validation": split, "test": split}, levels=levels)


def pairs(vocabulary: str | None = None, merges: str | None = None) -> Callable[[Path], object]:
    """GPT-2's two files, one of them changed."""

    def call(folder: Path) -> object:
        pair_files(folder, MERGES)
        for name, content in (("encoder.json", vocabulary), ("vocab.bpe", merges)):
            if content is not None:
                (folder / name).write_text(content)
        return gpt2_tokenizer(folder)

    return call


STREAM = np.arange(20) % 5
GAP = "t,x\n1949-01,1\n1949-02,2\n1949-04,3\n1949-05,4\n1949-06,5\n"
ROLL = '{{"train": {}, "valid": [[[60]]], "test": [[[60]]]}}'

CASES: dict[str, Case] = {
    # texts
    "no such text": (lambda folder: text_file(folder / "no.txt"), ("no.txt", "does not exist")),
    "a folder": (text_file, ("cannot be read", "directory")),
    "an empty text": (file(text_file, ""), ("mine.any", "is empty")),
    "nothing but a byte order mark": (file(text_file, b"\xef\xbb\xbf"), ("is empty",)),
    "text not UTF-8": (file(text_file, b"caf\xe9 " * 99), ("mine.any", "0xe9", "offset 3", "iconv")),
    "text cut inside a character": (file(text_file, "é".encode() * 50 + b"\xc3"), ("0xc3", "offset 100")),
    "text of ten characters": (file(text_file, "0123456789"), ("10 characters", "at least 11")),
    "text outside of a vocabulary": (
        file(text_file, "to be or not to be?", character_tokenizer(" beornt")),
        ("'?'", "position 18", "7 characters"),
    ),
    "one long stream as rows": (
        lambda folder: (np.save(folder / "a.npy", STREAM), from_file(folder / "a.npy")),
        ("a.npy", "(20,)", "genjax.data.windows"),
    ),
    # windows
    "shorter than a window": (lambda _: windows(STREAM, 20, 4), ("length = 20", "20 tokens", "1 to 19")),
    "shorter than a piece": (lambda _: pieces(STREAM, 64), ("length = 64", "1 to 19", "longer text")),
    "empty stream": (lambda _: windows(STREAM[:0], 4, 4), ("length = 4", "0 tokens")),
    "window of nothing": (lambda _: windows(STREAM, 0, 4), ("length = 0",)),
    "window of True": (lambda _: windows(STREAM, True, 4), ("length = True",)),
    "batch of nothing": (lambda _: windows(STREAM, 4, 0), ("batch_size = 0", "from 1")),
    "windows of rows": (lambda _: windows(STREAM.reshape(4, 5), 2, 4), ("(4, 5)", "one axis", "batches")),
    "windows of pictures": (lambda _: windows(Split({"image": np.zeros([2, 2])}, unchanged), 1, 1), ("image (2, 2)",)),
    "windows of fractions": (lambda _: windows(STREAM / 2, 2, 4), ("float64", "astype(np.int32)")),
    "negative token": (lambda _: windows(STREAM - 1, 2, 4), ("-1 in row 0", "out of range")),
    # tokens
    "token outside of the vocabulary": (tokens(STREAM, 4), ("mine, split train", "4 in row 4", "0 .. 3")),
    "a token below zero": (tokens(STREAM - 1), ("-1 in row 0", "0 .. 4")),
    "tokens on three axes": (tokens(STREAM.reshape(1, 4, 5)), ("(1, 4, 5)", "3 axes")),
    "a larger batch than names": (lambda _: batches(Split(name_rows(["ada"], ""), unchanged), 2), ("batch_size = 2",)),
    "character: unknown": (lambda _: character_tokenizer("abc").encode("abd"), ("'d'", "position 2", "abc")),
    "character: far beyond": (lambda _: character_tokenizer("abc").encode("a🎵"), ("'🎵'", "position 1")),
    "character: token": (lambda _: character_tokenizer("abc").decode([0, 3]), ("Token 3", "position 1", "0 .. 2")),
    "character: token below": (lambda _: character_tokenizer("abc").decode([-1]), ("Token -1", "0 .. 2")),
    "character: twice": (lambda _: character_tokenizer("abca"), ("'a'", "twice")),
    "character: none": (lambda _: character_tokenizer(""), ("empty",)),
    "bytes: token": (lambda _: byte_tokenizer().decode([256]), ("Token 256", "0 .. 255")),
    "bytes: half a character": (lambda _: byte_tokenizer().encode("a\ud800"), ("surrogate", "position 1")),
    "pairs: half a character": (lambda _: bpe_tokenizer("abab" * 9, 257).encode("\udc80"), ("surrogate", "position 0")),
    "pairs: size": (lambda _: bpe_tokenizer("abab", 256), ("size = 256", "from 257")),
    "pairs: empty text": (lambda _: bpe_tokenizer("", 300), ("empty",)),
    "pairs: without the library": (lambda _: bpe_tokenizer("abab", 300), ("tokenizers", "genjax-research[text]")),
    "gpt2: without the library": (pairs(), ("tokenizers", "genjax-research[text]")),
    "gpt2: no files": (gpt2_tokenizer, ("lacks encoder.json and vocab.bpe",)),
    "gpt2: token": (lambda folder: gpt2_tokenizer(pair_files(folder, MERGES)).decode([266]), ("Token 266", "0 .. 265")),
    "gpt2: not JSON": (pairs(vocabulary="{"), ("encoder.json", "is not JSON")),
    "gpt2: a list": (pairs(vocabulary='["a"]'), ("encoder.json", "list", "token text -> number")),
    "gpt2: numbers": (pairs(vocabulary='{"a": 0, "b": 2}'), ("2 numbers are not 0 .. 1",)),
    "gpt2: a byte is missing": (pairs(vocabulary='{"a": 0, "b": 1}'), ("byte 0x00",)),
    "gpt2: not a pair": (pairs(merges="#version: 0.2\nt h\nt h e\n"), ("vocab.bpe, line 3", "'t h e'")),
    "gpt2: another set's pairs": (pairs(merges="q u\n"), ("vocab.bpe, line 1", "'q u'", "encoder.json")),
    # proteins
    "illegal letter": (
        file(proteins, ">p1\nMKV\n>p2 two\nMKV\nLA1T\n>p3\nM\n"),
        ("mine.any, line 5", "record 'p2'", "'1' is residue 6", "ACDEF"),
    ),
    "a gap of an alignment": (file(proteins, ">p1\nMK-V\n"), ("line 2", "'-' is residue 3", "alignment")),
    "a stop inside": (file(proteins, ">p1\nMK*V\n"), ("'*' is residue 3",)),
    "letters of no alphabet": (file(proteins, ">p1\nMK\xe9\n"), ("line 2", "residue 3")),
    "an empty record": (file(proteins, ">p1\nMKV\n>p2\n\n>p3\nM\n"), ("line 3", "'p2' is empty")),
    "an empty last record": (file(proteins, ">p1\nMKV\n>p2"), ("line 3", "'p2' is empty")),
    "a record of one star": (file(proteins, ">p1\n*\n"), ("line 1", "'p1' is empty")),
    "an empty FASTA file": (file(proteins, ""), ("mine.any", "no record")),
    "no FASTA file": (file(proteins, "\nMKV\n"), ("line 2", "'MKV'", "before the first record")),
    "two proteins": (file(proteins, ">a\nMK\n>b\nMKV\n>c\nMK\n"), ("2 different sequences", "3 records")),
    "proteins too long": (file(proteins, ">a\nMK\n>b\nMKV\n>c\nM\n", 2), ("2 different sequences of at most 2",)),
    "longest": (file(proteins, ">a\nMK\n", 0), ("longest = 0", "from 1")),
    "proteins: cut gzip": (file(proteins, gzip.compress(b">a\nMKV\n" * 99)[:-9]), ("mine.any", "gzip")),
    "proteins: broken gzip": (file(proteins, b"\x1f\x8b\x08" + b"0" * 99), ("mine.any", "gzip")),
    "proteins: no such file": (lambda folder: proteins(folder / "no.fa"), ("no.fa", "No such file")),
    # series
    "no such series": (lambda folder: series(folder / "no.csv"), ("no.csv", "does not exist")),
    "an empty series": (file(series, ""), ("mine.any", "is empty")),
    "a series of one": (file(series, "t,x\n1,2\n"), ("1 periods", "two")),
    "series not UTF-8": (file(series, b"t,caf\xe9\n1,2\n"), ("0xe9", "offset 5")),
    "a missing period": (file(series, GAP), ("line 4", "1949-04 follows 1949-02", "most of them 1 months")),
    "a missing year": (file(series, "t,x\n1,1\n2,2\n3,1\n5,2\n"), ("line 5", "5 follows 3", "most of them 1")),
    "a missing hour": (
        file(series, "t,x\n2016-07-01 00:00,1\n2016-07-01 01:00,1\n2016-07-01 02:00,1\n2016-07-01 04:00,2\n"),
        ("line 5", "2016-07-01 04:00 follows 2016-07-01 02:00", "3600 seconds"),
    ),
    "a period twice": (file(series, "t,x\n1,1\n2,2\n2,3\n3,4\n4,5\n"), ("line 4", "2 follows 2")),
    "falling times": (file(series, "t,x\n3,1\n2,2\n1,3\n"), ("line 3", "2 follows 3", "rise", "sort")),
    "an empty cell": (file(series, "t,x\n1,1\n2,\n3,2\n"), ("line 3", "column x", "empty", "no gaps")),
    "a cell that is NaN": (file(series, "t,x\n1,1\n2,NaN\n3,2\n"), ("line 3", "column x", "'NaN'")),
    "a cell that is infinite": (file(series, "t,x\n1,1\n2,inf\n3,2\n"), ("line 3", "'inf'")),
    "a cell of words": (file(series, "t,x\n1,1\n2,n/a\n3,2\n"), ("line 3", "'n/a'")),
    "a ragged line": (file(series, "t,x\n1,1\n2\n3,2\n"), ("line 3", "1 cells", "2")),
    "an unknown column": (file(series, "t,realgdp,cpi\n1,1,1\n2,2,2\n", "realgpd"), ("'realgpd'", "realgdp, cpi")),
    "the time as column": (file(series, "t,x\n1,1\n2,2\n", "t"), ("no column 't'", "x")),
    "no column named": (file(series, "t,realgdp,cpi\n1,1,1\n2,2,2\n"), ("2 series", "realgdp, cpi", "column=")),
    "a column twice": (file(series, "t,x,x\n1,1,1\n2,2,2\n", "x"), ("2 columns are 'x'",)),
    "no time": (file(series, "t,x\n1949-01,1\n1949-02,2\nmarch,3\n"), ("line 4", "'march'", "1949-01")),
    "month 13": (file(series, "t,x\n1949-12,1\n1949-13,2\n"), ("line 3", "'1949-13'")),
    "February 30": (file(series, "t,x\n20010228,1\n20010230,2\n"), ("line 3", "'20010230'")),
    "quarter 5": (file(series, "year,quarter,x\n1949,4,1\n1949,5,2\n"), ("line 3", "'1949Q5'")),
    "two kinds of time": (file(series, "t,x\n1949,1\n1950-01,2\n"), ("line 3", "'1950-01'", "another kind")),
    # music
    "no such music": (lambda folder: rolls_file(folder / "no.json"), ("no.json", "does not exist")),
    "an empty JSON file": (file(rolls_file, ""), ("mine.any", "is not JSON", "empty")),
    "JSON cut": (file(rolls_file, '{"train": [[[60'), ("is not JSON",)),
    "JSON without end": (file(rolls_file, "[" * 100_000), ("is not JSON",)),
    "JSON of another form": (file(rolls_file, '{"notes": []}'), ("an object with notes", "a frame a list of pitches")),
    "a JSON list": (file(rolls_file, "[1, 2]"), ("holds [1, 2]", "a frame a list of pitches")),
    "no pieces": (file(rolls_file, ROLL.format("[]")), ("train", "an empty list", "pieces should be")),
    "pieces by name": (file(rolls_file, ROLL.format('{"a": [[60]]}')), ("train", "pieces should be")),
    "a piece without frames": (file(rolls_file, ROLL.format("[[[60]], []]")), ("piece 1", "frames should be")),
    "a frame without brackets": (file(rolls_file, ROLL.format("[[[60], 62]]")), ("piece 0, frame 1: 62",)),
    "a pitch that no key has": (file(rolls_file, ROLL.format("[[[60], [109]]]")), ("frame 1: 109", "21 .. 108")),
    "half a pitch": (file(rolls_file, ROLL.format("[[[60.5]]]")), ("frame 0: 60.5", "21 .. 108")),
    "a pitch that is NaN": (file(rolls_file, ROLL.format("[[[NaN]]]")), ("frame 0: nan",)),
    "a pitch that is true": (file(rolls_file, ROLL.format("[[[true]]]")), ("frame 0: True",)),
    "another grid": (lambda _: jsb_chorales("8th"), ("grid = '8th'", "quarter, 16th")),
    # names, and sets that are not prepared
    "no name": (lambda _: name_rows(["ada", "Eve"], "list"), ("list, line 2", "'Eve'", "a .. z")),
    "an empty line": (lambda _: name_rows(["ada", "", "eve"], "list"), ("line 2", "''")),
    "a long name": (lambda _: name_rows(["a" * 16], "list"), ("line 1", "1 to 15")),
    "no Shakespeare": (tiny_shakespeare, ("tiny_shakespeare is not prepared", "genjax data prepare tiny_shakespeare")),
    "no names": (names, ("genjax data prepare names",)),
    "no chorales": (lambda f: jsb_chorales("16th", f), ("genjax data prepare jsb_chorales_16th",)),
    "another set's name": (lambda _: commands.prepare("tiny_shakespear"), ("tiny_shakespeare", "genjax data list")),
    "files missing": (
        lambda folder: commands.prepare("tiny_shakespeare", folder, folder),
        ("lacks input.txt", "karpathy/char-rnn"),
    ),
    "another text": (
        lambda folder: ((folder / "input.txt").write_text("x"), commands.prepare("tiny_shakespeare", folder, folder)),
        ("input.txt", "1115394 bytes", "86c4e6aa"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call, said = CASES[name]
    if "without the library" in name:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput) as caught:
        call(tmp_path)
    lines = caught.value.lines
    assert 2 <= len(lines) <= 3 and all(len(line) < 400 for line in lines), lines
    for part in said:
        assert part in str(caught.value), f"{part!r} is not in: {caught.value}"

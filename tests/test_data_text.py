"""Texts, names and tokenizers: divided as published, and every text comes back from its tokens."""

import itertools
import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from planted import rejects
from tiny_sets import (
    CHORALES,
    MERGES,
    NAMES,
    TEXT,
    chorales,
    known,
    names,
    pair_files,
    put,
    text,
    texts_files,
)

from genjax.data import (
    Tokenizer,
    bpe_tokenizer,
    byte_tokenizer,
    character_tokenizer,
    commands,
    gpt2_tokenizer,
    rolls,
    text_file,
    texts,
)
from genjax.data.tokenizers import byte_symbols


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with tiny editions of a text, of names and of chorales."""
    root = tmp_path_factory.mktemp("data")
    folder, sets = put(root / "from", texts_files()), known(text(), names(), chorales())
    for name in sets:
        commands.prepare(name, folder, root / "sets", lambda line: None, sets)
    return root / "sets"


# -- prepared sets -----------------------------------------------------------------------------------------------------


def test_a_text_is_divided_as_nanogpt_divides_it(prepared: Path) -> None:
    data = texts.stream_of(text(), prepared)
    cut = int(len(TEXT) * 0.9)
    decode = character_tokenizer(data.vocabulary).decode
    assert decode(data.train.arrays["tokens"]) == TEXT[:cut]
    assert decode(data.validation.arrays["tokens"]) == TEXT[cut:]
    assert decode(data.test.arrays["tokens"]) == TEXT[cut:][int(len(TEXT[cut:]) * 0.5) :]
    assert (data.vocabulary, data.levels) == ("".join(sorted(set(TEXT))), len(set(TEXT)))
    assert data.train.arrays["tokens"].dtype == np.uint8


def test_a_text_in_other_tokens(prepared: Path) -> None:
    data = texts.stream_of(text(), prepared, byte_tokenizer())
    assert (data.levels, data.vocabulary) == (256, "")
    assert bytes(data.validation.arrays["tokens"]).decode() == TEXT[int(len(TEXT) * 0.9) :]
    assert data.fingerprint != texts.stream_of(text(), prepared).fingerprint


def test_names_come_back(prepared: Path) -> None:
    data = texts.rows_of_names(names(), prepared, apart=2)
    found: list[str] = []
    for split in data[1:4]:
        batch = split.prepare(split.arrays, jax.random.key(0))
        for row, length in zip(batch["tokens"].tolist(), batch["length"].tolist(), strict=True):
            assert row[0] == row[length] == 0 and 0 not in row[1:length] and set(row[length:]) == {0}
            found.append("".join(data.vocabulary[token] for token in row[1:length]))
        assert batch["tokens"].shape[1] == 17 and batch["tokens"].dtype == np.int32
    assert sorted(found) == sorted(NAMES) and [len(split.arrays["length"]) for split in data[1:4]] == [
        len(NAMES) - 4,
        2,
        2,
    ]


def test_chorales_come_back(prepared: Path) -> None:
    data = rolls.rolls_of(chorales(), prepared)
    longest = max(len(piece) for pieces in CHORALES.values() for piece in pieces)
    for name, split in zip(("train", "valid", "test"), data[1:4], strict=True):
        assert split.arrays["roll"].shape[1:] == (longest, 88)
        for roll, length, piece in zip(split.arrays["roll"], split.arrays["length"], CHORALES[name], strict=True):
            assert [(np.flatnonzero(frame) + 21).tolist() for frame in roll[:length]] == [sorted(f) for f in piece]
            assert roll[length:].sum() == 0 and length == len(piece)
    assert (data.levels, data.classes) == (2, None)


def test_prepared_texts_are_listed_and_checked(prepared: Path) -> None:
    sets = known(text(), names(), chorales())
    found = {row.name: (row.state, row.rows) for row in commands.list_sets(prepared, sets)}
    assert found["tiny_shakespeare"] == ("prepared", "1,115,394 characters")
    assert found["names"] == ("prepared", str(len(NAMES))) and found["jsb_chorales"] == ("prepared", "2 + 1 + 1")
    for name in sets:
        assert commands.check(name, prepared, sets)[0].endswith("files as sealed")


def test_a_users_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("\ufeff" + "naïve café, 100 °C\r\n" * 9, encoding="utf-8", newline="")
    data = text_file(tmp_path / "mine.txt")
    decode = character_tokenizer(data.vocabulary).decode
    assert (
        decode(data.train.arrays["tokens"]) + decode(data.validation.arrays["tokens"]) == "naïve café, 100 °C\r\n" * 9
    )


# -- tokenizers --------------------------------------------------------------------------------------------------------


def any_text(seed: int, count: int = 300) -> str:
    """Characters of all planes of Unicode, and runs of letters, digits, signs and spaces."""
    draw = np.random.default_rng(seed)
    wide = [chr(code) for code in draw.integers(0, 0x110000, count) if not 0xD800 <= code < 0xE000]
    plain = draw.choice(list(" \n\t'.,!?abcdeABCDE01239é日🎵ा\u200d\1"), count).tolist()
    return "".join(draw.permutation([*wide, *plain, "<|endoftext|>", "don't  we'll", "\r\n\r\n   "]))


def check_round_trip(tokenizer: Tokenizer) -> None:
    """decode(encode(text)) = text, by tokens of the vocabulary."""
    for content in ("", "\0", " a  b ", "naïve", *(any_text(seed) for seed in range(5))):
        tokens = tokenizer.encode(content)
        assert tokens.dtype == np.int32 and tokens.ndim == 1
        assert len(tokens) == 0 or (0 <= tokens.min() and tokens.max() < tokenizer.size)
        assert tokenizer.decode(tokens) == content == tokenizer.decode(tokens.tolist())


def test_bytes_and_characters_round_trip() -> None:
    check_round_trip(byte_tokenizer())
    check_round_trip(
        character_tokenizer("".join(sorted({c for s in range(5) for c in any_text(s)} | set(" abïvne\0"))))
    )


def test_the_check_of_round_trips_finds() -> None:
    good = byte_tokenizer()
    rejects(check_round_trip, good._replace(encode=lambda text: good.encode(text.strip())))
    rejects(check_round_trip, good._replace(encode=lambda text: good.encode(text).astype(np.int64)))
    rejects(check_round_trip, good._replace(size=200))
    rejects(check_round_trip, good._replace(decode=lambda tokens: good.decode(tokens).replace("\r\n", "\n")))


def test_characters_are_numbered_in_their_order() -> None:
    tokenizer = character_tokenizer("zaé日🎵")
    assert tokenizer.encode("🎵日éaz").tolist() == [4, 3, 2, 1, 0] and tokenizer.vocabulary == "zaé日🎵"


BANDANA = "banana bandana, a band of bananas ran; the bandana began to ban bananas. " * 20


def test_trained_pairs(prepared: Path) -> None:
    tokenizer, again = (bpe_tokenizer(BANDANA, 270) for _ in range(2))
    check_round_trip(tokenizer)
    tokens = tokenizer.encode(BANDANA)
    np.testing.assert_array_equal(tokens, again.encode(BANDANA))
    assert tokenizer.size == 270 and tokens.max() >= 256 and len(tokens) < len(BANDANA) / 3
    assert bpe_tokenizer("abcdefg", 300).size == 256  # no pair occurs twice
    data = texts.stream_of(text(), prepared, tokenizer)
    assert tokenizer.decode(data.train.arrays["tokens"]) == TEXT[: int(len(TEXT) * 0.9)]
    assert data.levels == 270 and data.train.arrays["tokens"].dtype == np.uint16


WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")  # of ASCII


def by_hand(text: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding, word by word: join the pair that stands first in the list, everywhere, until none is left."""
    rank, symbols, out = {pair: i for i, pair in enumerate(merges)}, byte_symbols(), []
    for word in WORDS.findall(text):
        parts = [symbols[byte] for byte in word.encode()]
        while (best := min(itertools.pairwise(parts), key=lambda p: rank.get(p, 99), default=None)) in rank:
            joined, i = [], 0
            while i < len(parts):
                pair = tuple(parts[i : i + 2]) == best
                joined.append("".join(best) if pair else parts[i])
                i += 2 if pair else 1
            parts = joined
        out += parts
    return out


def check_pairs(encode, folder: Path) -> None:
    """Tokens of random text over few letters equal those of the algorithm by hand."""
    number = json.loads((folder / "encoder.json").read_text())
    for seed in range(20):
        draw = np.random.default_rng(seed)
        content = "".join(draw.choice(list("tthheeaanndrr  '.s0\n"), 200))
        assert encode(content).tolist() == [number[part] for part in by_hand(content, MERGES)]


def test_pairs_are_joined_in_their_order(tmp_path: Path) -> None:
    folder = pair_files(tmp_path, MERGES)
    tokenizer = gpt2_tokenizer(folder)
    check_pairs(tokenizer.encode, folder)
    check_round_trip(tokenizer)
    assert (tokenizer.size, tokenizer.end, tokenizer.name) == (256 + 9 + 1, 265, tmp_path.name)
    assert tokenizer.decode([265, 0, 265]) == f"<|endoftext|>{tokenizer.decode([0])}<|endoftext|>"
    assert 265 not in tokenizer.encode("a<|endoftext|>b")
    bare = gpt2_tokenizer(pair_files(tmp_path / "bare", MERGES, end=False))
    assert (bare.size, bare.end) == (265, None)


def test_the_check_of_pairs_finds_another_order(tmp_path: Path) -> None:
    folder = pair_files(tmp_path, MERGES)
    other = gpt2_tokenizer(pair_files(tmp_path / "other", [MERGES[2], MERGES[1], MERGES[0], *MERGES[3:]], end=False))
    number = json.loads((folder / "encoder.json").read_text())
    names_of = {i: token for token, i in json.loads((tmp_path / "other" / "encoder.json").read_text()).items()}
    rejects(check_pairs, lambda text: np.array([number[names_of[i]] for i in other.encode(text).tolist()]), folder)


@pytest.mark.skipif("GENJAX_GPT2_DIR" not in os.environ, reason="GENJAX_GPT2_DIR names no folder of GPT-2's two files")
def test_gpt2() -> None:
    """Token numbers that are widely known, of OpenAI's files."""
    tokenizer = gpt2_tokenizer(os.environ["GENJAX_GPT2_DIR"])
    assert (tokenizer.size, tokenizer.end, tokenizer.name) == (50_257, 50_256, "gpt2")
    assert tokenizer.encode("Hello world").tolist() == [15496, 995]
    assert tokenizer.encode("Hello, I'm a language model,").tolist() == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert 50_256 not in tokenizer.encode("<|endoftext|>")
    check_round_trip(tokenizer)

r"""Tokenizers: from text to whole numbers and back.

bytes        256 tokens, the bytes of UTF-8; any text
characters   one token a character, in a given order; text of these characters only
BPE          byte-pair encoding: the bytes, and further tokens that stand for runs of bytes which are frequent together.
             Training starts from 256 bytes and joins the most frequent pair of neighbours again and again; encoding
             joins in the same order. Any text is encoded, and decode(encode(text)) = text.

Gage (1994), "A new algorithm for data compression"; Sennrich, Haddow and Birch (2016), https://arxiv.org/abs/1508.07909;
over bytes: Radford et al. (2019), "Language models are unsupervised multitask learners", whose two files `gpt2` reads.
The library `tokenizers` (extra `text`) does the joining; it is imported where it is used.
"""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genjax.data.files import read_utf8
from genjax.errors import BadInput

GPT2_FILES = {  # sha256 of what OpenAI published
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
END = "<|endoftext|>"  # GPT-2's mark between documents
Tokens = Sequence[int] | np.ndarray
BLOCK = 2**16  # characters of one example that BPE is trained on


class Tokenizer(NamedTuple):
    """A pair of functions, and what a network must know of them."""

    name: str
    size: int  # V: tokens are 0 .. V-1
    encode: Callable[[str], np.ndarray]  # text -> int32 [n]; raises BadInput that names what it cannot encode
    decode: Callable[[Tokens], str]  # raises BadInput that names a token outside of 0 .. V-1
    end: int | None = None  # the token that stands between documents; text never encodes to it
    vocabulary: str = ""  # the character of each token, where each is one


def byte_tokenizer() -> Tokenizer:
    """The bytes of UTF-8. Bytes that are no text, as a network may sample them, decode to U+FFFD.

    >>> byte_tokenizer().encode("né").tolist(), byte_tokenizer().decode([110, 195, 169])
    ([110, 195, 169], 'né')
    """

    def encode(text: str) -> np.ndarray:
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32)

    def decode(tokens: Tokens) -> str:
        return bytes(checked(tokens, 256, "bytes")).decode("utf-8", errors="replace")

    return Tokenizer("bytes", 256, encode, decode)


def character_tokenizer(vocabulary: str) -> Tokenizer:
    """One token a character: token i is the i-th of `vocabulary`, for example `dataset.vocabulary`.

    >>> tokenizer = character_tokenizer("abc")
    >>> tokenizer.encode("cab").tolist(), tokenizer.decode([2, 0, 1])
    ([2, 0, 1], 'cab')
    """
    number = {character: token for token, character in enumerate(vocabulary)}
    if not vocabulary or len(number) < len(vocabulary):
        twice = next((c for i, c in enumerate(vocabulary) if c in vocabulary[:i]), "")
        what = f"vocabulary: {twice!r} stands twice in it." if twice else "vocabulary: it is empty."
        raise BadInput(what, "Each character is one token.", 'For the characters of a text: "".join(sorted(set(text)))')
    codes = np.array([ord(character) for character in vocabulary], np.uint32)
    table = np.full(int(codes.max()) + 2, -1, np.int32)  # the last entry answers for every larger code
    table[codes] = np.arange(len(codes))

    def encode(text: str) -> np.ndarray:
        found = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        tokens = table[np.minimum(found, len(table) - 1)]
        if (tokens < 0).any():
            place = int(np.argmax(tokens < 0))
            known = repr(vocabulary[:60])[1:-1] + ("..." if len(vocabulary) > 60 else "")
            what = f"The character {text[place]!r} at position {place} is not in the vocabulary."
            raise BadInput(what, f"Allowed are the {len(vocabulary)} characters {known}")
        return tokens

    def decode(tokens: Tokens) -> str:
        return "".join(vocabulary[token] for token in checked(tokens, len(vocabulary), "characters"))

    return Tokenizer("characters", len(vocabulary), encode, decode, vocabulary=vocabulary)


def bpe_tokenizer(text: str, size: int) -> Tokenizer:
    """Byte-pair encoding trained on a text; the same text and size give the same tokenizer.

    Args:
      text: what to train on; a data set's training part.
      size: V, at least 257: 256 bytes and V - 256 joined pairs; fewer where no pair occurs twice.
    Raises:
      BadInput: a size below 257, an empty text, or the library `tokenizers` is not installed.

    >>> tokenizer = bpe_tokenizer("banana bandana " * 9, 258)
    >>> tokenizer.size, len(tokenizer.encode("banana"))
    (258, 3)
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 257 <= size < 2**31:
        raise BadInput(f"BPE: size = {size!r}.", "Allowed are whole numbers from 257: 256 bytes and joined pairs.")
    if not text:
        raise BadInput("BPE: the text to train on is empty.", "It learns which bytes are frequent together.")
    utf8(text)
    library = _library()
    machine = _machine(library, library.models.BPE())
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    settings = {"initial_alphabet": alphabet, "min_frequency": 2, "show_progress": False}
    trainer = library.trainers.BpeTrainer(vocab_size=size, **settings)
    machine.train_from_iterator(_blocks(text), trainer)
    return _byte_pairs("bpe", machine, machine.get_vocab_size())


def gpt2_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of GPT-2 from its two published files, `encoder.json` and `vocab.bpe`: 50,257 tokens.

    Other files of the same form are read too; the name is `gpt2` only where both are the published ones, by sha256.
    The mark <|endoftext|> is token `end`; text that spells it out is encoded as text, never as the mark.

    Args:
      folder: where the two files are.
    Raises:
      BadInput: a file is missing or of another form, or the library `tokenizers` is not installed.
    """
    folder = Path(folder).expanduser()
    paths = {file: folder / file for file in GPT2_FILES}
    missing = [file for file, path in paths.items() if not path.is_file()]
    if missing:
        what = f"{folder} lacks {' and '.join(missing)}."
        raise BadInput(what, "GPT-2's tokenizer is encoder.json and vocab.bpe.", "Give the folder that holds both.")
    vocabulary = read_vocabulary(paths["encoder.json"])
    merges = read_merges(paths["vocab.bpe"], vocabulary)
    end = vocabulary.pop(END, None)
    library = _library()
    machine = _machine(library, library.models.BPE(vocab=vocabulary, merges=merges))
    whole = len(vocabulary) + (end is not None)
    published = all(hashlib.sha256(paths[file].read_bytes()).hexdigest() == d for file, d in GPT2_FILES.items())
    return _byte_pairs("gpt2" if published else folder.name, machine, whole, end)


def read_vocabulary(path: Path) -> dict[str, int]:
    """The token numbers of `encoder.json`: 0 .. V-1, once each, all 256 bytes among them."""
    try:
        found = json.loads(read_utf8(path))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}.", "It is cut, damaged or another file.") from error
    form = "It is a JSON object, token text -> number, of the numbers 0 .. V-1."
    if not isinstance(found, dict) or not found:
        raise BadInput(f"{path} holds {type(found).__name__}, not a vocabulary.", form)
    numbers = list(found.values())
    if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(len(numbers))):
        raise BadInput(f"{path}: its {len(numbers)} numbers are not 0 .. {len(numbers) - 1}, once each.", form)
    lacking = [byte for byte, symbol in enumerate(byte_symbols()) if symbol not in found]
    if lacking:  # the library would leave such bytes out in silence
        raise BadInput(
            f"{path}: no token for byte 0x{lacking[0]:02x}.", "All 256 bytes need one, as GPT-2 writes them."
        )
    return found


def read_merges(path: Path, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of `vocab.bpe`, one a line, in the order in which they are joined."""
    merges = []
    for number, line in enumerate(read_utf8(path).split("\n"), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or any(part not in vocabulary for part in (*pair, "".join(pair))):
            what = f"{path}, line {number}: {line[:60]!r} is not a pair of tokens whose join is a token."
            raise BadInput(
                what, "One pair a line, a space between, all in encoder.json.", "Give the two files of one set."
            )
        merges.append((pair[0], pair[1]))
    return merges


def byte_symbols() -> list[str]:
    """The character that stands for each byte in GPT-2's files: its own where it is printable, else one from U+0100.

    >>> byte_symbols()[65], byte_symbols()[32], len(set(byte_symbols()))
    ('A', 'Ġ', 256)
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def checked(tokens: Tokens, size: int, name: str) -> list[int]:
    """The tokens as integers; raises BadInput for the first that is outside of 0 .. V-1."""
    numbers = [int(token) for token in tokens]
    for place, token in enumerate(numbers):
        if not 0 <= token < size:
            what = f"Token {token} at position {place} is not in the vocabulary of tokenizer {name}."
            raise BadInput(what, f"Allowed is 0 .. {size - 1}.")
    return numbers


def utf8(text: str) -> bytes:
    """The bytes of a text; raises BadInput for half of a surrogate pair, which no UTF-8 holds."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"The text has the lone surrogate {text[error.start]!r} at position {error.start}."
        raise BadInput(what, "Allowed is text that can be written in UTF-8.", "Remove this character.") from error


def _library() -> Any:
    if importlib.util.find_spec("tokenizers") is None:
        what = "The library `tokenizers`, which does byte-pair encoding, is not installed."
        raise BadInput(what, "It is an optional extra.", "Run: python -m pip install 'genjax-research[text]'")
    import tokenizers

    return tokenizers


def _machine(library: Any, model: Any) -> Any:
    """Byte-pair encoding as GPT-2 does it: a regular expression cuts words and keeps their space, bytes are joined."""
    machine = library.Tokenizer(model)
    machine.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    machine.decoder = library.decoders.ByteLevel()
    return machine


def _byte_pairs(name: str, machine: Any, size: int, end: int | None = None) -> Tokenizer:
    def encode(text: str) -> np.ndarray:
        utf8(text)
        return np.array(machine.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(tokens: Tokens) -> str:
        parts: list[list[int]] = [[]]  # between marks
        for token in checked(tokens, size, name):
            parts.append([]) if token == end else parts[-1].append(token)
        return END.join(machine.decode(part, skip_special_tokens=False) for part in parts)

    return Tokenizer(name, size, encode, decode, end)


def _blocks(text: str) -> Iterator[str]:
    """The text in parts that the library takes one by one."""
    for start in range(0, len(text), BLOCK):
        yield text[start : start + BLOCK]

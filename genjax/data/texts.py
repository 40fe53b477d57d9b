"""Texts: one long stream of tokens to learn from by windows; and names, one a row.

A text is divided where it stands, because neighbouring pieces are nearly copies: its first nine tenths train, the last
tenth validates, as nanoGPT divides it. A `Dataset` has a third split: `test` is the second half of the last tenth, the
test text of TFDS. It is part of the validation text, so choose by `validation` or report `test`, and not both as news.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from genjax.data.files import read_utf8
from genjax.data.originals import NAMES_FILES, TINY_SHAKESPEARE_FILES, Original, gather
from genjax.data.prepared import Recipe, load_arrays
from genjax.data.split import Arrays, Dataset, Split, carve, make_dataset, take, wide_tokens
from genjax.data.tokenizers import Tokenizer, character_tokenizer
from genjax.errors import BadInput

Where = str | Path | None
LETTERS = ".abcdefghijklmnopqrstuvwxyz"  # token 0 begins a name, ends it, and fills its row
LONGEST = 15  # letters of a name


def read_whole(
    name: str, originals: Sequence[Original], folder: Path | None, downloads: Path, tell: Callable[[str], None]
) -> dict[str, Arrays]:
    """The bytes of one text, [1, T]: one record, which `load_arrays` gives back."""
    files = gather(name, originals, folder, downloads, tell)
    return {"train": {"text": np.frombuffer(files[originals[0].file].read_bytes(), np.uint8)[None]}}


def read_names(
    name: str, originals: Sequence[Original], folder: Path | None, downloads: Path, tell: Callable[[str], None]
) -> dict[str, Arrays]:
    """The names of a list, one a line, as rows of tokens."""
    path = gather(name, originals, folder, downloads, tell)[originals[0].file]
    return {"train": name_rows(read_utf8(path).split("\n"), str(path))}


TINY_SHAKESPEARE = Recipe(
    name="tiny_shakespeare",
    read=functools.partial(read_whole, "tiny_shakespeare", TINY_SHAKESPEARE_FILES),
    rows={"train": 1},
    classes=None,
    levels=256,
    licence="public domain",
    about="40,000 lines of Shakespeare's plays, 1,115,394 characters, 65 different ones: Karpathy (2015), The "
    "unreasonable effectiveness of recurrent neural networks, https://karpathy.github.io/2015/05/21/rnn-effectiveness/",
    size="1,115,394 characters",
)
NAMES = Recipe(
    name="names",
    read=functools.partial(read_names, "names", NAMES_FILES),
    rows={"train": 32_033},
    classes=None,
    levels=len(LETTERS),
    licence="MIT",
    about="32,033 given names of the year 2018, from https://www.ssa.gov/oact/babynames/, as published with makemore "
    "(Karpathy 2022), https://github.com/karpathy/makemore",
)


def tiny_shakespeare(data_dir: Where = None, tokenizer: Tokenizer | None = None) -> Dataset:
    """Tiny Shakespeare: 1,003,854 characters to train, the last 111,540 to validate, and of these 55,770 to test.

    Args:
      data_dir: folder of prepared sets; None: $GENJAX_DATA_DIR, else ~/.cache/genjax/data.
      tokenizer: None: one token for each of the 65 characters that occur, in the order of Unicode, as nanoGPT.
    Returns:
      `tokens` [T], one stream a split (see `windows`, `pieces`); `vocabulary` and `levels` are the tokenizer's.
    Raises:
      BadInput: not prepared; the message has the command.
      Damaged: the files are not what was prepared.

    Karpathy (2015), https://karpathy.github.io/2015/05/21/rnn-effectiveness/.
    """
    return stream_of(TINY_SHAKESPEARE, data_dir, tokenizer)


def names(data_dir: Where = None) -> Dataset:
    """32,033 given names, divided at random as makemore does: 30,033 to train, 1,000 to validate, 1,000 to test.

    makemore keeps 1,000 names apart and trains on all others; a second thousand is kept apart here, so that what is
    reported was not chosen by. As there, a name that the list has more than once (2,539 are) may stand in two splits:
    13 % of the names kept apart are also trained on.

    Args:
      data_dir: folder of prepared sets; None: $GENJAX_DATA_DIR, else ~/.cache/genjax/data.
    Returns:
      `tokens` [N, 17], prepared as int32: token 0, the letters (1 = a ... 26 = z), token 0, and zeros to fill the row;
      `length` int32 [N], predictions of a row: its letters and the token 0 that ends them. Of `tokens[:, 1:]` the first
      `length` count.
    Raises:
      BadInput, Damaged: as `tiny_shakespeare`.

    Karpathy (2022), https://github.com/karpathy/makemore.
    """
    return rows_of_names(NAMES, data_dir)


def stream_of(recipe: Recipe, data_dir: Where, tokenizer: Tokenizer | None = None) -> Dataset:
    """The streams of a prepared text."""
    content = load_arrays(recipe, data_dir)["train"]["text"].tobytes()
    return divide(recipe.name, content.decode("utf-8"), f"{recipe.about}. Licence: {recipe.licence}.", tokenizer)


def rows_of_names(recipe: Recipe, data_dir: Where, apart: int = 1_000) -> Dataset:
    """The rows of a prepared list of names, `apart` of them to validate and as many to test."""
    rows = load_arrays(recipe, data_dir)["train"]
    total = len(rows["tokens"])
    parts = carve(total, (1 - 2 * apart / total, apart / total, apart / total))
    splits = {
        split: Split(take(rows, part), wide_tokens)
        for split, part in zip(("train", "validation", "test"), parts, strict=True)
    }
    about = f"{recipe.about}. Licence: {recipe.licence}."
    return make_dataset(recipe.name, splits, levels=len(LETTERS), about=about, vocabulary=LETTERS)


def text_file(path: str | Path, tokenizer: Tokenizer | None = None) -> Dataset:
    """The user's own text as streams of tokens, divided as `tiny_shakespeare`.

    Args:
      path: a text in UTF-8.
      tokenizer: None: one token for each character that occurs, in the order of Unicode.
    Returns:
      `tokens` [T], one stream a split.
    Raises:
      BadInput: no such file, one that is empty, too short or not UTF-8, or a text that the tokenizer cannot encode.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    ...     _ = file.write("to be or not to be, " * 5)
    ...     _ = file.flush()
    ...     data = text_file(file.name)
    >>> data.vocabulary, [len(split.arrays["tokens"]) for split in data[1:4]]
    (' ,benort', [90, 10, 5])
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise BadInput(f"{path} does not exist.", "It must be a text in UTF-8.")
    text = read_utf8(path).removeprefix("\ufeff")
    if not text:
        raise BadInput(f"{path} is empty.", "A text needs at least one window of characters.", "Give another file.")
    return divide(path.stem, text, f"The user's own {path.name}.", tokenizer)


def divide(name: str, text: str, about: str, tokenizer: Tokenizer | None = None) -> Dataset:
    """A text as three streams: nine tenths of its characters, the last tenth, and the second half of that."""
    cut = len(text) * 9 // 10
    if len(text) - cut < 2 or cut < 2:
        what = f"{name}: the text has {len(text)} characters."
        raise BadInput(what, "Nine tenths train and the last tenth validates: at least 11 are needed.")
    tokenizer = tokenizer or character_tokenizer("".join(sorted(set(text))))
    held = text[cut:]
    parts = {"train": text[:cut], "validation": held, "test": held[len(held) // 2 :]}
    small = np.min_scalar_type(tokenizer.size - 1)
    try:
        tokens = {split: tokenizer.encode(part).astype(small) for split, part in parts.items()}
    except BadInput:
        tokenizer.encode(text)  # raises it again, with the position in the whole text
        raise
    splits = {split: Split({"tokens": array}, wide_tokens) for split, array in tokens.items()}
    return make_dataset(name, splits, levels=tokenizer.size, about=about, vocabulary=tokenizer.vocabulary)


def name_rows(lines: Sequence[str], where: str) -> dict[str, np.ndarray]:
    """Names as rows: `tokens` uint8 [N, 17], `length` int32 [N]; raises BadInput that names the first bad line."""
    while lines and not lines[-1]:
        lines = lines[:-1]
    tokens = np.zeros([len(lines), LONGEST + 2], np.uint8)
    number = {letter: token for token, letter in enumerate(LETTERS[1:], 1)}
    for row, name in enumerate(lines):
        if not 1 <= len(name) <= LONGEST or any(letter not in number for letter in name):
            what = f"{where}, line {row + 1}: {name[:40]!r} is not a name."
            raise BadInput(what, f"Allowed are 1 to {LONGEST} letters a .. z, one name a line.")
        tokens[row, 1 : len(name) + 1] = [number[letter] for letter in name]
    return {"tokens": tokens, "length": np.array([len(name) + 1 for name in lines], np.int32)}

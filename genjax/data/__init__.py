"""Data sets, tokenizers, and batches by random access: batch t is a pure function of (key, t)."""

from genjax.data.batches import batches
from genjax.data.digits import digits
from genjax.data.files import from_file
from genjax.data.labelled import few_labels, with_unlabelled
from genjax.data.moving import moving_mnist
from genjax.data.proteins import fasta_text, proteins
from genjax.data.rolls import jsb_chorales, rolls_file
from genjax.data.series import Series, series
from genjax.data.sets import (
    binarized_mnist,
    cifar10,
    fashion_mnist,
    fashion_mnist_dynamic,
    mnist,
    mnist_dynamic,
    mnist_thresholded,
)
from genjax.data.split import (
    Dataset,
    Split,
    carve,
    joined,
    make_dataset,
    resampled,
    scaled,
    take,
    unchanged,
    wide_tokens,
)
from genjax.data.stacked import stacked
from genjax.data.stream import streamed
from genjax.data.texts import names, text_file, tiny_shakespeare
from genjax.data.tokenizers import Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer, gpt2_tokenizer
from genjax.data.windows import pieces, windows

__all__ = [  # noqa: RUF022 (in reading order)
    "Split",
    "Dataset",
    "batches",
    "stacked",
    "windows",
    "with_unlabelled",
    "pieces",
    "streamed",
    "digits",
    "mnist",
    "mnist_dynamic",
    "mnist_thresholded",
    "binarized_mnist",
    "fashion_mnist",
    "fashion_mnist_dynamic",
    "cifar10",
    "moving_mnist",
    "tiny_shakespeare",
    "names",
    "jsb_chorales",
    "few_labels",
    "from_file",
    "text_file",
    "rolls_file",
    "proteins",
    "fasta_text",
    "series",
    "Series",
    "Tokenizer",
    "byte_tokenizer",
    "character_tokenizer",
    "bpe_tokenizer",
    "gpt2_tokenizer",
    "make_dataset",
    "carve",
    "take",
    "joined",
    "scaled",
    "resampled",
    "unchanged",
    "wide_tokens",
]

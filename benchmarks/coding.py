"""Files compressed by a model's likelihood, against gzip, bz2, lzma, PNG and WebP on the same data.

    python benchmarks/coding.py digits --run runs/pixelcnn
    python benchmarks/coding.py binarized_mnist --run runs/bits_back
    python benchmarks/coding.py tiny_shakespeare --run runs/gpt

Each coder codes the whole test split at once, at its strongest setting, in the form that suits it best: general ones
get bytes, packed bits where there are two grey levels, and the better of both counts; PNG and WebP one picture of all.
The model's line is of its stream, decoded and compared, without the archive's header (about 300 bytes), and the model
itself, which the receiver needs too, is not counted: it was trained on other data.  --each codes every example alone.
"""

import argparse
import bz2
import gzip
import io
import lzma
import math

import numpy as np
from PIL import Image

from genjax import data
from genjax.compress.command import Model, decode, encode, open_model

SETS = {"digits": data.digits, "binarized_mnist": data.binarized_mnist, "tiny_shakespeare": data.tiny_shakespeare}
GENERAL = {
    "gzip -9": lambda content: len(gzip.compress(content, 9, mtime=0)),
    "bz2 -9": lambda content: len(bz2.compress(content, 9)),
    "lzma -9e": lambda content: len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--run", required=True, help="a run directory")
    parser.add_argument("--rows", type=int, help="only the first rows, or tokens")
    parser.add_argument("--each", action="store_true", help="every example as a stream of its own, too")
    given = parser.parse_args()
    dataset, model = SETS[given.set](), open_model(given.run, None, "compress")
    text = not model.coding.shape
    symbols = np.asarray(dataset.test.arrays["tokens" if text else "image"])[: given.rows]
    forms = text_forms(model, symbols) if text else picture_forms(symbols, model.coding.model.symbols)
    print(f"{given.set}, test split: {len(symbols):,} {'tokens' if text else 'images'}, {symbols.size:,} symbols")
    for name, size in sizes(forms).items():
        line(name, 8 * size, symbols.size)
    rows = symbols.reshape(-1) if text else ordered(model, symbols)
    own(model, rows)
    if given.each:
        each(model, rows)


def picture_forms(images: np.ndarray, levels: int) -> dict[str, bytes]:
    """The pictures as the coders may get them."""
    side = math.ceil(math.sqrt(len(images)))
    height, width = images.shape[1:3]
    padded = np.concatenate([images[..., 0], np.zeros((side * side - len(images), height, width), images.dtype)])
    sheet = padded.reshape(side, side, height, width).swapaxes(1, 2).reshape(side * height, side * width)
    tall = images[..., 0].reshape(-1, width)
    grey = lambda x: Image.fromarray(np.rint(x * (255 / (levels - 1))).astype(np.uint8))
    forms = {"bytes": images.astype(np.uint8).tobytes()}
    if levels == 2:
        forms["bits"] = np.packbits(images.astype(np.uint8)).tobytes()
    for name, x in (("sheet", sheet), ("tall", tall)):
        forms[f"PNG {name}"] = saved(grey(x).convert("1") if levels == 2 else grey(x), "PNG", optimize=True)
        if max(x.shape) < 16_384:  # WebP's largest
            forms[f"WebP {name}"] = saved(grey(x).convert("RGB"), "WEBP", lossless=True, quality=100, method=6)
    return forms


def text_forms(model: Model, tokens: np.ndarray) -> dict[str, bytes]:
    """The text in UTF-8."""
    return {"bytes": model.text.decode(tokens.reshape(-1).tolist()).encode()}


def sizes(forms: dict[str, bytes]) -> dict[str, int]:
    """Bytes by coder, in the form that suits it best."""
    plain = [content for name, content in forms.items() if " " not in name]
    found = {"plain": min(len(content) for content in plain)}
    found |= {name: min(coder(content) for content in plain) for name, coder in GENERAL.items()}
    for kind in ("PNG", "WebP"):
        if own := [len(content) for name, content in forms.items() if name.startswith(kind)]:
            found[kind] = min(own)
    return found


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def ordered(model: Model, images: np.ndarray) -> np.ndarray:
    rows = images.reshape(len(images), -1).astype(np.int32)
    return rows[:, list(model.coding.order)] if len(model.coding.order) else rows


def own(model: Model, rows: np.ndarray) -> None:
    """The model's stream: its length beside its own likelihood, and whether it comes back."""
    coded = encode(model, rows)
    back = decode(model, coded.words, [rows.shape if rows.ndim == 1 else (rows.size,)])
    size, nats = 32 * len(coded.words), coded.nats / math.log(2)
    line("model", size - coded.initial_bits, rows.size)
    line("  says", nats, rows.size)
    print(f"  {'right' if np.array_equal(back, rows) else 'WRONG'}, {coded.initial_bits} initial bits besides")


def each(model: Model, rows: np.ndarray) -> None:
    """Every example alone: how much its stream is above 1.005 times its own likelihood, at worst."""
    worst, total, wrong = -math.inf, 0, 0
    for row in rows:
        coded = encode(model, row[None])
        wrong += not np.array_equal(decode(model, coded.words, [row.shape])[0], row)
        bits = 32 * len(coded.words) - coded.initial_bits
        worst, total = max(worst, bits - 1.005 * coded.nats / math.log(2)), total + bits
    line("each alone", total, rows.size)
    print(f"  {wrong} wrong; at most {worst:.0f} bits above 1.005 x -log2 p(x)")


def line(name: str, bits: float, symbols: int) -> None:
    print(f"{name:12} {bits / 8:12,.0f} bytes {bits / symbols:9.4f} bits a symbol", flush=True)


if __name__ == "__main__":
    main()

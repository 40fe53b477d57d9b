"""`genjax compress FILE... --run RUN` and `genjax decompress ARCHIVE --run RUN`: files without loss, by a run's model.

The size of an archive is what the model says of its content, -log2 p(x) or the bound, and a header.  `compress` decodes
what it coded and compares, before it writes; `decompress` writes nothing unless everything is right: the archive whole,
made by this model, whose first probabilities come out as they did there, and every file's checksum.  Where they come
out otherwise (another jaxlib, another kind of processor, another number of threads) it says so.
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax.compress.archive import MOST, Head, Member, pack, unpack
from genjax.compress.symbols import read_member, shape_fits, written
from genjax.digest import digests
from genjax.errors import BadInput
from genjax.evaluate import averaged_state
from genjax.experiment import Coding, Text
from genjax.explaining import explained
from genjax.likelihood import bits_back, bits_back_chain, bits_back_importance, coding
from genjax.likelihood.bits_back import Autoencoder
from genjax.likelihood.bits_back_chain import Chain
from genjax.likelihood.bits_back_importance import Ensemble
from genjax.likelihood.coding import Autoregression, Coded, rows_at_once
from genjax.likelihood.coding_models import in_rows, joined, streams
from genjax.report import write_whole
from genjax.saved import Opened, check_out, open_run
from genjax.types import Params

PROBED = 8  # positions


class CompressOptions(NamedTuple):
    """Options of `genjax compress FILE...`."""

    run: str = ""
    """The run directory of the model."""
    out: str = "archive.gjx"
    """Where the archive is written (.gjx)."""
    step: int | None = None
    """The checkpoint of this step; default: the best where the experiment selects one, else the newest."""
    debug: bool = False
    """Whole tracebacks."""


class DecompressOptions(NamedTuple):
    """Options of `genjax decompress ARCHIVE`."""

    run: str = ""
    """The run directory of the model that compressed it."""
    out: str = "."
    """The folder that its files are written to; made where it is missing."""
    step: int | None = None
    """The checkpoint of this step; default: the best where the experiment selects one, else the newest."""
    debug: bool = False
    """Whole tracebacks."""


class Model(NamedTuple):
    """A run's model as these commands use it."""

    coding: Coding
    text: Text | None
    params: Params
    step: int
    digest: str


def compress_files(files: Sequence[str], options: CompressOptions) -> int:
    """Code files into one archive.

    Raises:
      BadInput: no run, one whose model declares no coding, files that it does not know, a place that cannot be written.
    """
    out = Path(options.out)
    check_out(out, [".gjx"])
    names = [Path(file).name for file in files]
    if len({*names}) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise BadInput(f"two files are called {twice}", "an archive keeps names without folders", "rename one")
    model = open_model(options.run, options.step, "compress")
    read = [read_member(Path(file), model.coding, model.text) for file in files]
    members, symbols = [member for member, _ in read], np.concatenate([part for _, part in read])
    if symbols.size > MOST:
        raise BadInput(f"{symbols.size:,} symbols in all", f"an archive has at most {MOST:,}", "make several archives")
    with explained("coding"):
        coded = encode(model, symbols)
        back = decode(model, coded.words, [member.shape for member in members])
        first = probe(model, len(symbols))
    if not np.array_equal(back, symbols):
        raise BadInput(
            "what was coded does not decode to itself: the model gives other probabilities the second time",
            "a step must depend on the symbols before it alone, and draw nothing",
            "nothing was written",
        )
    archive = pack(Head(model.digest, first, software(), tuple(members)), coded.words)
    write_whole(out, archive)
    _tell(files, len(archive), symbols.size, coded, out)
    return 0


def decompress_file(archive: str, options: DecompressOptions) -> int:
    """Write the files of an archive.

    Raises:
      BadInput: no archive, a damaged one, one of another model or machine, files that are there already.
    """
    path, folder = Path(archive), Path(options.out)
    if not path.is_file():
        raise BadInput(f"no archive at {path}", "a file that `genjax compress` wrote")
    head, words = unpack(path.read_bytes(), str(path))
    _check_folder(folder, head.members)
    model = open_model(options.run, options.step, "decompress")
    if head.model != model.digest:
        raise BadInput(
            f"{path} is of another model: {head.model[:12]}, and step {model.step:,} of {options.run} is "
            f"{model.digest[:12]}",
            "a model is its parameters and the way in which it codes",
            "give the run, and the --step, that compressed it",
        )
    contents = _contents(model, head, words, path)
    folder.mkdir(parents=True, exist_ok=True)
    for member, content in zip(head.members, contents, strict=True):
        write_whole(folder / member.name, content)
    print(f"{len(contents)} file{'s' * (len(contents) > 1)} of {path} in {folder}")
    return 0


def open_model(run: str, step: int | None, command: str) -> Model:
    """The model of a run, if its experiment says how it codes.

    Raises:
      BadInput: no run is given, or its model has no coding.
    """
    if not run:
        raise BadInput("--run is missing", "the run directory of a trained model", f"genjax {command} FILE --run RUN")
    opened = open_run(run, step, 1, None)
    told = opened.experiment.coding
    if told is None:
        raise BadInput(
            f"the model of {run} cannot {command}: its experiment declares no likelihood to code with",
            "Experiment(coding=Coding(model, shape)): autoregressive, masked, variational or diffusion models",
            "for example a run of vae_digits.py, pixelcnn_digits.py, diffusion_digits.py or gpt_shakespeare.py",
        )
    if not told.shape and opened.experiment.text is None:
        raise BadInput(
            f"the model of {run} codes neither pictures nor text", "Coding(shape=...), or Experiment(text=...)"
        )
    params = averaged_state(opened.state).params
    return Model(told, opened.experiment.text, params, opened.step, _digest(opened, params))


def encode(model: Model, symbols: np.ndarray) -> Coded:
    """The stream of rows of symbols, or of a text's tokens."""
    used = model.coding.model
    if not isinstance(used, Autoregression):
        return _by_latents(used).encode(used, model.params, symbols)
    if model.coding.shape:
        return coding.encode(used, model.params, symbols)
    return coding.encode(used, model.params, in_rows(symbols), streams(len(symbols))[2])


def decode(model: Model, words: np.ndarray, shapes: Sequence[Sequence[int]]) -> np.ndarray:
    """The symbols of a stream, of files of these shapes one after the other."""
    used, total, width = model.coding.model, sum(math.prod(one) for one in shapes), math.prod(model.coding.shape)
    if not isinstance(used, Autoregression):
        return _by_latents(used).decode(used, model.params, words, (total // width, width))
    if model.coding.shape:
        return coding.decode(used, model.params, words, (total // width, width))
    rows, length, last = streams(total)
    return joined(coding.decode(used, model.params, words, (rows, length), last), total)


def probe(model: Model, count: int) -> int:
    """A checksum of the model's first probabilities for symbols that are always the same.

    Args:
      model: of a run.
      count: rows of symbols, or tokens: what is computed at once depends on it.
    """
    used, width = model.coding.model, math.prod(model.coding.shape)
    if isinstance(used, Autoregression):
        rows = rows_at_once(count if model.coding.shape else streams(count)[0])
        symbols = np.arange(rows * PROBED).reshape(rows, PROBED)[:, : width or PROBED] % used.symbols
        return zlib.crc32(coding.encode(used, model.params, symbols).words.tobytes())
    row = np.arange(width)[None] % used.symbols
    return zlib.crc32(_by_latents(used).encode(used, model.params, row).words.tobytes())


def software() -> str:
    """What computes: its versions and the device, for a message."""
    return f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {os.cpu_count()} processors"


def _by_latents(used: Autoencoder | Ensemble | Chain) -> Any:
    """What codes by bits back: latents in one layer, several draws of them, or several layers."""
    if isinstance(used, Ensemble):
        return bits_back_importance
    return bits_back_chain if isinstance(used, Chain) else bits_back


def _contents(model: Model, head: Head, words: np.ndarray, path: Path) -> list[bytes]:
    symbols_of = [math.prod(member.shape) for member in head.members]
    known = {"npy", "png"} if model.coding.shape else {"text"}
    width = math.prod(model.coding.shape)
    odd = any(not shape_fits(member, model.coding) for member in head.members if member.kind != "text")
    if odd or any(member.kind not in known for member in head.members):
        raise BadInput(f"{path} holds files that the model does not know", "it is damaged; nothing was written")
    total = sum(symbols_of) // (width or 1)
    with explained("coding"):
        if probe(model, total) != head.probe:
            raise _elsewhere(path, head)
        try:
            symbols = decode(model, words, [member.shape for member in head.members])
            parts = np.split(symbols, np.cumsum([n // (width or 1) for n in symbols_of])[:-1])
            return [written(*pair, model.coding, model.text) for pair in zip(head.members, parts, strict=True)]
        except BadInput as error:
            raise _elsewhere(path, head, "it is damaged, or ") from error


def _elsewhere(path: Path, head: Head, other: str = "") -> BadInput:
    return BadInput(
        f"{path}: {other}the model's probabilities come out otherwise here, so that it cannot be decoded",
        f"it was written by {head.software}; here is {software()}",
        "decompress it there; nothing was written",
    )


def _digest(opened: Opened, params: Params) -> str:
    told, text = opened.experiment.coding, opened.experiment.text
    assert told is not None
    plain = {name: value for name, value in told.model._asdict().items() if isinstance(value, int)}
    if plain.get("at_once") == 1:
        del plain["at_once"]  # archives are older than it
    order, context = [int(i) for i in told.order], text.context if text else 0
    layers = [layer.latents for layer in told.model.layers] if isinstance(told.model, Chain) else []
    way = [type(told.model).__name__, plain, list(told.shape), order, told.first, context, *layers]
    return hashlib.sha256(json.dumps([digests(params), way], sort_keys=True).encode()).hexdigest()[:32]


def _check_folder(folder: Path, members: Sequence[Member]) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--out {folder} is a file", "a folder, which is made where it is missing")
    for member in members:
        if (folder / member.name).exists():
            told = f"{folder / member.name} is there already"
            raise BadInput(told, "nothing is written over", "give another folder by --out")


def _tell(files: Sequence[str], size: int, symbols: int, coded: Coded, out: Path) -> None:
    before, bits = sum(os.path.getsize(file) for file in files), coded.nats / math.log(2)
    initial = f", and {coded.initial_bits} initial bits" if coded.initial_bits else ""
    print(f"{len(files)} file{'s' * (len(files) > 1)} of {before:,} bytes in {out}: {size:,} bytes")
    print(f"the model says {bits / 8:,.0f} bytes, {bits / max(symbols, 1):.4f} bits a symbol{initial}")

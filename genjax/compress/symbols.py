"""Files as rows of symbols that a model knows, and back: arrays and pictures of grey levels, texts of tokens.

An array (`.npy`) holds grey levels as the model counts them, 0 .. L-1.  A picture (`.png`) holds grey values in 0 ..
255 of which level l is round(255 l / (L - 1)), as pictures are drawn here.  Any other value is refused, since it would
be lost.  Arrays come back number by number, pictures pixel by pixel (as a PNG written anew), texts byte by byte.
"""

import io
import zlib
from pathlib import Path

import numpy as np

from genjax.compress.archive import Member, is_name
from genjax.data.files import read_utf8
from genjax.data.images import read_image
from genjax.errors import BadInput
from genjax.experiment import Coding, Text


def read_member(path: Path, coding: Coding, text: Text | None) -> tuple[Member, np.ndarray]:
    """A file: what an archive says of it, and its symbols.

    Args:
      path: `.npy` or `.png` where the model is one of pictures; any file in UTF-8 where it is one of text.
      coding: the experiment's.
      text: the experiment's.

    Returns:
      The member, and its symbols [N, H W C] in the model's order, or tokens [n].

    Raises:
      BadInput: no such file, another kind, size or range, a character that the model does not know.
    """
    if not path.is_file():
        raise BadInput(f"no file at {path}", f"allowed: {_allowed(coding)}")
    if not is_name(path.name):
        allowed = "allowed: UTF-8, 1 to 200 characters, no '.' first, none of them a control character"
        raise BadInput(f"the name of {str(path)!r}", allowed)
    if not coding.shape:
        assert text is not None
        return _read_text(path, text)
    if path.suffix not in (".npy", ".png"):
        raise BadInput(f"{path} is no array or picture", f"the model codes {_allowed(coding)}")
    array = _read_array(path, coding) if path.suffix == ".npy" else _read_picture(path, coding)
    rows = array.reshape(-1, int(np.prod(coding.shape)))
    return Member(path.name, path.suffix[1:], array.shape, zlib.crc32(array.tobytes())), rows[:, _order(coding)]


def written(member: Member, symbols: np.ndarray, coding: Coding, text: Text | None) -> bytes:
    """The content of a file, from its symbols.

    Args:
      member: what the archive says of it.
      symbols: as `read_member` gave them.
      coding: the experiment's.
      text: the experiment's.

    Raises:
      BadInput: its checksum does not fit: the symbols are not those that were coded.
    """
    if member.kind == "text":
        assert text is not None
        content = text.decode(symbols.tolist()).encode("utf-8", "surrogatepass")
        return _checked(member, content, content)
    rows = np.empty(symbols.shape, np.uint8)
    rows[:, _order(coding)] = symbols
    array = rows.reshape(member.shape)
    file = io.BytesIO()
    if member.kind == "npy":
        np.save(file, array, allow_pickle=False)
    else:
        _save_picture(file, array, coding.model.symbols)
    return _checked(member, array.tobytes(), file.getvalue())


def shape_fits(member: Member, coding: Coding) -> bool:
    """Whether a model of pictures can have coded an array or a picture of this shape."""
    shape, own = member.shape, tuple(coding.shape)
    if not own or member.kind == "png":
        return bool(own) and shape == own
    fits = [own, own[:2]] if own[-1] == 1 else [own]
    return any(shape[len(shape) - len(one) :] == one and len(shape) - len(one) in (0, 1) for one in fits)


def _read_text(path: Path, text: Text) -> tuple[Member, np.ndarray]:
    content = read_utf8(path)
    try:
        tokens = np.asarray(text.encode(content), np.int32).reshape(-1)
    except BadInput as error:
        raise BadInput(f"{path}: {error.lines[0]}", *error.lines[1:]) from error
    if text.decode(tokens.tolist()) != content:
        raise BadInput(f"{path} does not come back from the tokens of this model", "it knows less than the text says")
    return Member(path.name, "text", (len(tokens),), zlib.crc32(content.encode())), tokens


def _read_array(path: Path, coding: Coding) -> np.ndarray:
    try:
        with open(path, "rb") as stream:
            array = np.load(stream, allow_pickle=False)
    except Exception as error:  # NumPy raises ValueError, EOFError, SyntaxError, by what is broken
        told = f"{path} cannot be read: {error}"
        raise BadInput(told[:300], "allowed: an array of numbers; pickled objects never are") from error
    about = Member(path.name, "npy", getattr(array, "shape", ()), 0)
    there = getattr(array, "dtype", None) == np.uint8 and shape_fits(about, coding)
    if not there or array.size == 0:
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "several arrays"
        raise BadInput(f"{path} holds {found}", f"allowed: {_allowed(coding)}")
    if array.max() >= coding.model.symbols:
        raise BadInput(f"{path}: a grey level of {array.max()}", f"allowed: 0 to {coding.model.symbols - 1}")
    return np.ascontiguousarray(array)


def _read_picture(path: Path, coding: Coding) -> np.ndarray:
    pixels, most = read_image(path), coding.model.symbols - 1
    if coding.shape[-1] == 1 and pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]  # grey in colour's clothes
    if pixels.shape != coding.shape:
        height, width, channels = pixels.shape
        told = f"{path} is {width}x{height} with {channels} channel{'s' * (channels > 1)}"
        raise BadInput(told, f"allowed: {_allowed(coding)}")
    levels = np.rint(pixels.astype(np.float64) * most / 255).astype(np.uint8)
    lost = _grey(levels, most) != pixels
    if lost.any():
        told = f"{path}: a grey value of {pixels[lost][0]}, which is none of the model's {most + 1} levels"
        raise BadInput(told, f"allowed: round(255 l / {most}) for l = 0 to {most}: the others would be lost")
    return levels


def _save_picture(file: io.BytesIO, levels: np.ndarray, symbols: int) -> None:
    from PIL import Image

    pixels = _grey(levels, symbols - 1)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG", optimize=True)


def _grey(levels: np.ndarray, most: int) -> np.ndarray:
    return np.rint(levels.astype(np.float64) * 255 / most).astype(np.uint8)


def _order(coding: Coding) -> np.ndarray:
    return np.asarray(coding.order if len(coding.order) else range(int(np.prod(coding.shape))))


def _checked(member: Member, content: bytes, file: bytes) -> bytes:
    if zlib.crc32(content) != member.crc:
        raise BadInput(f"{member.name} does not come back right", "its checksum is another")
    return file


def _allowed(coding: Coding) -> str:
    if not coding.shape:
        return "texts in UTF-8"
    height, width, channels = coding.shape
    most = coding.model.symbols - 1
    return f".npy of uint8 [n, {height}, {width}, {channels}] in 0 to {most}, .png of {width}x{height} pixels"

r"""The program in a PyTorch file, run by a machine that knows 30 instructions and can call nothing.

Where a dictionary of tensors is stored, each is told by a program for a machine with a stack, a pickle.  Python's own
machine looks up any name that the program gives and calls it.  This one reads the bytes by hand, and a name stands for
nothing but itself: OrderedDict() becomes an empty dictionary, _rebuild_tensor_v2(storage, offset, size, stride, ...) a
row of numbers.  Any other name, instruction or argument is refused, and so is a word, a number or a program that is
longer than weights need.

    pushed      N None   \x88 True   \x89 False   ) } ] empty   ( a mark   K M J \x8a a number   X a word   c a name
    written     q r: the top of the stack, under a number      h j: pushed again from there
    made        t \x85 \x86 \x87 a tuple   s u a dictionary filled   a e a list filled   Q a storage   R see above
                b what PyTorch notes about the modules: dropped
    ended       .

Sources: Python, pickletools, 2003 on, https://docs.python.org/3/library/pickletools.html (the instructions); PyTorch,
Serialization semantics, 2020 on, https://docs.pytorch.org/docs/stable/notes/serialization.html (what they tell).
"""

import io
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

LONGEST, LARGEST = 2**10, 2**22  # bytes of a word or a name; of a program: that of 20,000 tensors
MOST, AXES = 2**31, 16  # of a tensor: elements, and so offset and strides; axes
DTYPES = {
    **{"torch FloatStorage": "<f4", "torch DoubleStorage": "<f8", "torch HalfStorage": "<f2"},
    **{"torch LongStorage": "<i8", "torch IntStorage": "<i4", "torch ByteStorage": "|u1"},
}
DICTIONARY, TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"


class Storage(NamedTuple):
    """A row of numbers that stands elsewhere in the file."""

    key: str
    dtype: str
    length: int


class Tensor(NamedTuple):
    """Which numbers of a storage are a tensor; strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    name: str


MARK = _Name("(")


def run(stream: io.BytesIO) -> Any:
    """What a program leaves on the stack.

    Args:
      stream: at the program's first byte; at its end afterwards.

    Returns:
      None, a truth value, a whole number, a word, a tuple, list or dictionary of such, a `Storage` or a `Tensor`.

    Raises:
      ValueError: it is damaged, too long, or asks for more than a dictionary of tensors needs.

    >>> run(io.BytesIO(bytes([0x80, 2]) + b"}X" + bytes([1, 0, 0, 0]) + b"aK" + bytes([7]) + b"s."))
    {'a': 7}
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    start = stream.tell()
    if stream.read(2) != b"\x80\x02":
        raise ValueError("it does not begin as such a file")
    while (code := _bytes(stream, 1)) != b".":
        if code in PUSHED:
            stack.append(PUSHED[code](stream))
        elif code in WRITTEN:
            _remember(stack, memo, _number(stream, WRITTEN[code]))
        elif code in RECALLED:
            stack.append(_recalled(memo, _number(stream, RECALLED[code])))
        elif code in MADE:
            stack.append(MADE[code](stack))
        else:
            raise ValueError(f"it holds the instruction {code!r}")
        if stream.tell() - start > LARGEST:
            raise ValueError(f"its program is longer than {LARGEST:,} bytes")
    [found] = _taken(stack, len(stack)) if len(stack) == 1 else _broken("stack")
    return found


def _broken(what: str) -> NoReturn:
    raise ValueError(f"its {what} is broken")


def _bytes(stream: io.BytesIO, size: int) -> bytes:
    if size > LONGEST:
        raise ValueError(f"it holds a word of {size:,} bytes")
    found = stream.read(size)
    if len(found) < size:
        raise ValueError("it is truncated")
    return found


def _number(stream: io.BytesIO, size: int, signed: bool = False) -> int:
    return int.from_bytes(_bytes(stream, size), "little", signed=signed)


def _word(stream: io.BytesIO) -> str:
    return _bytes(stream, _number(stream, 4)).decode()


def _name(stream: io.BytesIO) -> _Name:
    module, name = (stream.readline(LONGEST).decode() for _ in range(2))
    asked = f"{module.removesuffix(chr(10))} {name.removesuffix(chr(10))}"
    if asked not in (DICTIONARY, TENSOR, *DTYPES):
        raise ValueError(f"it asks for {asked[:80]!r}, which no tensor needs")
    return _Name(asked)


def _remember(stack: list[Any], memo: dict[int, Any], place: int) -> None:
    if not stack:
        _broken("stack")
    memo[place] = stack[-1]


def _recalled(memo: dict[int, Any], place: int) -> Any:
    return memo[place] if place in memo else _broken("memory")


def _taken(stack: list[Any], count: int) -> list[Any]:
    """The last `count` of the stack, none of which is a mark."""
    rows = stack[len(stack) - count :] if count <= len(stack) else _broken("stack")
    if any(row is MARK for row in rows):
        _broken("stack")
    del stack[len(stack) - count :]
    return rows


def _above(stack: list[Any]) -> list[Any]:
    """All above the last mark, which goes too."""
    for count, row in enumerate(reversed(stack)):
        if row is MARK:
            rows = _taken(stack, count)
            stack.pop()
            return rows
    _broken("stack")


def _filled(rows: list[Any], found: Any) -> Any:
    if type(found) is not dict or len(rows) % 2 or not all(type(key) is str for key in rows[::2]):
        _broken("dictionary")
    found.update(zip(rows[::2], rows[1::2], strict=True))
    return found


def _extended(rows: list[Any], found: Any) -> Any:
    if type(found) is not list or not all(type(row) is str for row in rows):
        _broken("list")
    found.extend(rows)
    return found


def _noted(found: Any, notes: Any) -> Any:
    return found if type(found) is dict and type(notes) is dict else _broken("notes")


def _storage(told: Any) -> Storage:
    if type(told) is not tuple or len(told) not in (5, 6) or told[5:] not in ((), (None,)):  # no view of another
        _broken("storage")
    word, kind, key, _, count = told[:5]
    words = type(word) is str and word == "storage" and type(key) is str and key.isalnum() and key.isascii()
    if not words or type(kind) is not _Name or kind.name not in DTYPES or not _whole((count,)):
        _broken("storage")
    return Storage(key, DTYPES[kind.name], count)


def _called(function: Any, told: Any) -> Any:
    """What stands for a call; a seventh argument of a tensor would say that its numbers are to be changed."""
    if type(function) is not _Name or type(told) is not tuple:
        _broken("call")
    if function.name == DICTIONARY and not told:
        return {}
    if function.name != TENSOR or len(told) != 6 or type(told[0]) is not Storage:
        _broken("tensor")
    storage, offset, shape, strides, gradient, hooks = told
    if not all(map(_whole, ((offset,), shape, strides))) or len(shape) != len(strides):
        _broken("tensor")
    return Tensor(storage, offset, shape, strides) if type(gradient) is bool and hooks == {} else _broken("tensor")


def _whole(row: Any) -> bool:
    return type(row) is tuple and len(row) <= AXES and all(type(n) is int and 0 <= n <= MOST for n in row)


PUSHED: dict[bytes, Callable[[io.BytesIO], Any]] = {
    **{b"N": lambda _: None, b"\x88": lambda _: True, b"\x89": lambda _: False, b"(": lambda _: MARK},
    **{b")": lambda _: (), b"}": lambda _: {}, b"]": lambda _: []},
    **{b"K": lambda stream: _number(stream, 1), b"M": lambda stream: _number(stream, 2)},
    b"J": lambda stream: _number(stream, 4, signed=True),
    b"\x8a": lambda stream: _number(stream, _number(stream, 1), signed=True),
    **{b"X": _word, b"c": _name},
}
WRITTEN, RECALLED = {b"q": 1, b"r": 4}, {b"h": 1, b"j": 4}  # bytes of the place
MADE: dict[bytes, Callable[[list[Any]], Any]] = {
    b"t": lambda stack: tuple(_above(stack)),
    b"\x85": lambda stack: tuple(_taken(stack, 1)),
    b"\x86": lambda stack: tuple(_taken(stack, 2)),
    b"\x87": lambda stack: tuple(_taken(stack, 3)),
    b"s": lambda stack: _filled(_taken(stack, 2), *_taken(stack, 1)),
    b"u": lambda stack: _filled(_above(stack), *_taken(stack, 1)),
    b"a": lambda stack: _extended(_taken(stack, 1), *_taken(stack, 1)),
    b"e": lambda stack: _extended(_above(stack), *_taken(stack, 1)),
    b"Q": lambda stack: _storage(*_taken(stack, 1)),
    b"R": lambda stack: _called(*_taken(stack, 2)),
    b"b": lambda stack: _noted(*_taken(stack, 2)),
}

"""The command `genjax data`: which data sets there are, preparing one, checking one."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

from genjax.arguments import parse
from genjax.errors import BadInput

ABOUT = """Data sets.

genjax data list                         every set, and whether it is prepared
genjax data prepare NAME [--from DIR]    download the published files, or take them from a folder; prepare them
genjax data check NAME                   compare a prepared set with its digests and its ranges"""
ACTIONS = ("list", "prepare", "check")


def command(arguments: Sequence[str]) -> int:
    """`genjax data list`, `genjax data prepare NAME`, `genjax data check NAME`."""
    given = list(arguments)
    words = [given.pop(0) for _ in range(2) if given and not given[0].startswith("-")]
    if not words:
        parse("genjax data", ABOUT, _options(), given)
        raise BadInput("genjax data: what to do is missing", f"allowed: {', '.join(ACTIONS)}", "genjax data --help")
    if words[0] not in ACTIONS:
        near = difflib.get_close_matches(words[0], ACTIONS, 1, 0.4)
        raise BadInput(
            f"genjax data: unknown action {words[0]!r}",
            f"did you mean {near[0]}?" if near else f"allowed: {', '.join(ACTIONS)}",
            "genjax data --help",
        )
    options, _ = parse(f"genjax data {words[0]}", ABOUT, _options(), given)
    return _act(words, options)


def _act(words: Sequence[str], options: Any) -> int:
    from genjax.data import commands

    if words[0] == "list":
        if len(words) > 1 or options.from_dir:
            raise BadInput("genjax data list takes no name and no --from", "", "genjax data list")
        rows = [("name", "state", "rows", "licence"), *(row[:4] for row in commands.list_sets(options.data_dir))]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        print("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows))
        return 0
    if len(words) == 1:
        raise BadInput(
            f"genjax data {words[0]}: the name of a set is missing",
            f"allowed: {', '.join(commands.SETS)}",
            f"genjax data {words[0]} mnist",
        )
    if words[0] == "prepare":
        commands.prepare(words[1], options.from_dir, options.data_dir)
        return 0
    if options.from_dir:
        raise BadInput(
            "genjax data check takes no --from", "it reads what is prepared", f"genjax data check {words[1]}"
        )
    print("\n".join(commands.check(words[1], options.data_dir)))
    return 0


def _options() -> type:
    from typing import Annotated

    from tyro.conf import arg

    class DataOptions(NamedTuple):
        """Options of `genjax data`."""

        from_dir: Annotated[str | None, arg(name="from")] = None
        """With prepare: a folder that holds the published files; default: download them."""
        data_dir: str | None = None
        """The folder of prepared sets; default: $GENJAX_DATA_DIR, else ~/.cache/genjax/data."""
        debug: bool = False
        """Whole tracebacks."""

    return DataOptions

"""The command line: `genjax COMMAND ...`.  Each command is imported when it is used, so that `--help` is instant.

Exit codes: 0 done; 1 an unexpected error; 2 bad input; 3 non-finite; 4 damaged or input/output; 75 preempted.
"""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from genjax.errors import BadInput, GenjaxError


class Command(NamedTuple):
    """A command of `genjax`."""

    usage: str
    about: str
    main: Callable[[list[str]], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what goes wrong is told in at most three lines, or as a traceback with --debug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        code = _dispatch(given)
    except GenjaxError as error:
        if debug and error.exit_code != 75:
            raise
        return _leave(error.exit_code, error.lines)
    except KeyboardInterrupt:
        return _leave(130, ("interrupted",))
    except MemoryError as error:
        told = f"out of memory on the host: {error}"[:300]
        return _leave(2, (told, "the data set, one batch and one checkpoint must fit", "use a smaller batch or model"))
    except BrokenPipeError:  # whoever read our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _leave(4, ())
    except OSError as error:
        if debug:
            raise
        return _leave(4, (f"{type(error).__name__}: {error}", "", "run again with --debug for the whole traceback"))
    except Exception as error:
        if debug:
            raise
        return _leave(1, _unexpected(error))
    return _leave(code, ())


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if given[0] in ("-V", "--version"):
        from genjax import __version__

        print(f"genjax {__version__}")
        return 0
    name, rest = given[0], given[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
        raise BadInput(
            f"unknown command {name!r}",
            f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}",
            "genjax --help",
        )
    return COMMANDS[name].main(rest)


def _overview() -> str:
    lines = ["usage: genjax COMMAND ...", "", "Deep generative models in JAX, by one functional training loop.", ""]
    width = max(len(command.usage) for command in COMMANDS.values())
    lines += [f"  genjax {command.usage:{width}}  {command.about}" for command in COMMANDS.values()]
    return "\n".join([*lines, "", "genjax COMMAND --help tells its options; --debug shows whole tracebacks."])


def _train(arguments: list[str]) -> int:
    from genjax.arguments import first_argument, parse
    from genjax.fields import load
    from genjax.run import TrainOptions, start_run

    path, rest = first_argument(arguments, "genjax train FILE", TrainOptions, "an experiment file")
    loaded = load(path)
    options, values = parse(f"genjax train {path}", loaded.about, TrainOptions, rest, loaded.fields)
    _prepare()
    return start_run(loaded, values, options)


def _resume(arguments: list[str]) -> int:
    from pathlib import Path

    from genjax.arguments import first_argument, parse
    from genjax.run import TrainOptions, resume_arguments, start_run

    path, rest = first_argument(arguments, "genjax resume RUN", TrainOptions, "a run directory")
    loaded, options = resume_arguments(Path(path))
    about = f"Goes on with {path}.\n\n{loaded.about}"
    chosen, values = parse(f"genjax resume {path}", about, TrainOptions, rest, loaded.fields, options)
    _prepare()
    return start_run(loaded, values, chosen)


def _evaluate(arguments: list[str]) -> int:
    from genjax.arguments import first_argument, parse
    from genjax.saved import EvaluateOptions, evaluate_run

    path, rest = first_argument(arguments, "genjax evaluate RUN", EvaluateOptions, "a run directory")
    options, _ = parse(f"genjax evaluate {path}", "Measures a checkpoint of a run.", EvaluateOptions, rest)
    _prepare()
    return evaluate_run(path, options)


def _sample(arguments: list[str]) -> int:
    from genjax.arguments import first_argument, parse
    from genjax.denoised import asks_for_a_sampler, sample_function
    from genjax.prompted import prompt_run
    from genjax.saved import SampleOptions, sample_run

    path, rest = first_argument(arguments, "genjax sample RUN", SampleOptions, "a run directory")
    options, _ = parse(f"genjax sample {path}", "Draws samples from a checkpoint of a run.", SampleOptions, rest)
    _prepare()
    if options.prompt is not None:
        return prompt_run(path, options)
    if not asks_for_a_sampler(options):
        return sample_run(path, options)
    return sample_run(path, options, lambda experiment: sample_function(experiment.denoising, path, options))


def _edit(arguments: list[str]) -> int:
    from genjax.arguments import first_argument, parse
    from genjax.edited import EditOptions, edit_run

    path, rest = first_argument(arguments, "genjax edit RUN", EditOptions, "a run directory")
    about = "Redraws, finishes, enlarges or cleans a picture with a diffusion model, or leads it over into another."
    options, _ = parse(f"genjax edit {path}", about, EditOptions, rest)
    _prepare()
    return edit_run(path, options)


def _compress(arguments: list[str]) -> int:
    from genjax.arguments import first_argument, parse
    from genjax.compress.command import CompressOptions, compress_files

    usage, about = "genjax compress FILE", "Codes files without loss, by the model of a run."
    first, rest = first_argument(arguments, usage, CompressOptions, "a file")
    count = next((i for i, argument in enumerate(rest) if argument.startswith("-")), len(rest))
    options, _ = parse("genjax compress FILE...", about, CompressOptions, rest[count:])
    _prepare()
    return compress_files([first, *rest[:count]], options)


def _decompress(arguments: list[str]) -> int:
    from genjax.arguments import first_argument, parse
    from genjax.compress.command import DecompressOptions, decompress_file

    usage, about = "genjax decompress ARCHIVE", "Writes the files of an archive, by the model that compressed them."
    path, rest = first_argument(arguments, usage, DecompressOptions, "an archive")
    options, _ = parse(f"genjax decompress {path}", about, DecompressOptions, rest)
    _prepare()
    return decompress_file(path, options)


def _sweep(arguments: list[str]) -> int:
    from genjax.arguments import first_argument
    from genjax.fields import load
    from genjax.sweep import SweepOptions, read_grid, sweep

    path, rest = first_argument(arguments, "genjax sweep FILE", SweepOptions, "an experiment file")
    loaded = load(path)
    grid = read_grid(f"genjax sweep {path}", loaded.about, SweepOptions, rest, loaded.fields)
    _prepare()
    return sweep(loaded, grid)


def _compare(arguments: list[str]) -> int:
    from genjax.compare import compare, compare_options

    words, options = compare_options(arguments)
    _prepare()
    return compare(words, options)


def _reproduce(arguments: list[str]) -> int:
    from genjax.reproduce import command

    return command(arguments)


def _list(arguments: list[str]) -> int:
    from genjax.listing import command

    return command(arguments)


def _show(arguments: list[str]) -> int:
    from genjax.show import command

    _prepare()
    return command(arguments)


def _data(arguments: list[str]) -> int:
    from genjax.prepare import command

    return command(arguments)


def _doctor(arguments: list[str]) -> int:
    from genjax.doctor import command

    return command(arguments)


def _prepare() -> None:
    from genjax.cache import use_compilation_cache

    use_compilation_cache()


def _unexpected(error: Exception) -> tuple[str, str, str]:
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1]
    text = (str(error).splitlines() or [""])[0][:300]
    return (
        f"unexpected {type(error).__name__}: {text}",
        f"in {last.filename}, line {last.lineno}",
        "run again with --debug for the whole traceback",
    )


def _leave(code: int, lines: Sequence[str]) -> int:
    if lines:
        first = lines[0] if code == 75 else "error: " + lines[0]
        print("\n".join([first, *("  " + line for line in lines[1:] if line)]), file=sys.stderr)
    if "jax" in sys.modules and "genjax.hosts" in sys.modules:
        from genjax.hosts import exit_all

        if sys.modules["jax"].distributed.is_initialized():
            exit_all(code)
    return code


COMMANDS = {
    "train": Command("train FILE [--field value]", "train an experiment; again in its directory: go on", _train),
    "resume": Command("resume RUN", "go on with a run", _resume),
    "evaluate": Command("evaluate RUN", "measure a checkpoint", _evaluate),
    "sample": Command("sample RUN --n 64 --out grid.png", 'draw samples; --prompt "..." goes on with a text', _sample),
    "edit": Command("edit RUN --image FILE", "redraw, finish, enlarge or clean a picture by diffusion", _edit),
    "compress": Command("compress FILE... --run RUN", "code files without loss, by a model", _compress),
    "decompress": Command("decompress ARCHIVE --run RUN", "and back", _decompress),
    "sweep": Command("sweep FILE field=a,b seed=0:3", "train a grid of runs and rank them", _sweep),
    "compare": Command("compare RUN RUN | @LIST", "one table of runs and experiments on the same data", _compare),
    "reproduce": Command(
        "reproduce [ROW...]", "rows of papers: listed, trained, judged by their tolerance", _reproduce
    ),
    "list": Command("list [FOLDER] | list runs [FOLDER]", "experiments with paper and measured number; runs", _list),
    "show": Command("show FILE | show RUN", "configuration, parameters, cost of an update", _show),
    "data": Command("data list | prepare NAME | check NAME", "data sets", _data),
    "doctor": Command("doctor", "check the installation", _doctor),
}

"""`genjax sample RUN --prompt "..."`: a text that goes on, written to the terminal as it is drawn."""

import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from genjax.errors import BadInput
from genjax.evaluate import averaged_state
from genjax.experiment import Text
from genjax.explaining import explained
from genjax.samplers.choosing import draw, repetition_penalty, temperature, top_k, top_p
from genjax.samplers.decode import Choose, stream
from genjax.saved import SampleOptions, of_width, open_run
from genjax.types import Key, Params

Tokens = Sequence[int] | np.ndarray
PIECE = 8  # tokens between two writes
RULE = "-" * 40  # between the texts of --n
UNKNOWN = "\ufffd"  # what bytes decode to that are no character, or not yet


def prompt_run(path: str, options: SampleOptions) -> int:
    """Write the texts that a checkpoint goes on with: one as it is drawn, more of them one after another.

    Args:
      path: the run directory.
      options: with a prompt.

    Raises:
      BadInput: a setting out of its range, a model that reads no text, a prompt that is empty, too long, or holds what
        the model does not know; a width of averages that the run did not keep.
    """
    for name in ("sampler", "steps", "guidance", "label"):
        if getattr(options, name) is not None:
            told = f"--{name} {getattr(options, name)} with --prompt"
            raise BadInput(told, "it is of a diffusion, which goes on with no text", "leave one of them out")
    n = 1 if options.n is None else options.n
    _check_settings(n, options)
    run = open_run(path, options.step, options.devices, options.seed)
    text = run.experiment.text
    if text is None:
        raise BadInput(
            f"--prompt: the model of {path} goes on with no text",
            "Experiment(text=Text(encode, decode, decoder, context)) defines how one does",
            f"genjax sample {path} --n 64",
        )
    prompt = _encoded(text, str(options.prompt))
    told = f"step {run.step:,}, {n} text{'s' * (n > 1)}, at most {options.tokens:,} tokens after {len(prompt):,}"
    print(told, file=sys.stderr)
    key, prompts = run.sampling, np.tile(prompt, (n, 1))
    state = run.state if options.width is None else of_width(run.state, options.width)
    params = averaged_state(state).params
    pieces = going_on(text, params, prompts, key, options.tokens, _choose(options))
    parts = written(text, prompt, (piece[0] for piece in pieces)) if n == 1 else _whole(text, prompt, pieces)
    for part in _told(parts):
        _say(part)
    _say("\n")
    return 0


def going_on(
    text: Text, params: Params, prompts: np.ndarray, key: Key, tokens: int, choose: Choose
) -> Iterator[np.ndarray]:
    """Tokens after prompts of one length, in pieces, also beyond what the model's context holds.

    Where the context is full, the newest half of it is read again as a prompt, and drawing goes on: every token is
    drawn from at least half a context.  The i-th time draws with fold_in(key, i).  The counts that `choose` sees are of
    what the model still reads: a penalty on repetition forgets what it forgets.

    Args:
      text: the model's.
      params: of the network.
      prompts: [B, P] integers, P from 1 to the context.
      key: of all that is drawn.
      tokens: how many for each row, at most.
      choose: (logits [V], counts [V], key) -> token, of one row.

    Returns:
      An iterator over [B, n] int32; what stands in a row after a stop token means nothing.
    """
    rows, width = prompts.shape
    total = min(text.context, width + tokens)
    run = stream(text.decoder, total, choose, text.stop, PIECE)
    known, ended, left = prompts, np.zeros(rows, bool), tokens
    for turn in itertools.count():
        for piece in run(params, known, jax.random.fold_in(key, turn)):
            piece = piece[:, :left]
            yield piece
            known, left = np.concatenate([known, piece], axis=1), left - piece.shape[1]
            ended |= np.isin(piece, text.stop).any(axis=1)
            if left == 0 or ended.all():
                return
        known = known[:, -(total // 2) :]


def written(text: Text, prompt: Tokens, pieces: Iterable[Tokens]) -> Iterator[str]:
    """The text of a prompt and of the pieces after it, in parts; a part holds only what no later token can change.

    A character may be several tokens, where these are bytes: until the last one is there, the others decode to U+FFFD.

    Args:
      text: the model's.
      prompt: tokens.
      pieces: tokens; those from the first stop token on are left out.

    Returns:
      An iterator over strings; together they are the decoded whole.

    >>> letters = Text(None, lambda tokens: bytes(tokens).decode(errors="replace"), None, 9, stop=(0,))
    >>> [*written(letters, [97], [[98, 206], [177, 99], [0, 100]])]
    ['a', 'b', 'αc', '', '']
    """
    tokens, shown = [int(token) for token in prompt], 0
    for piece in itertools.chain([prompt[:0]], pieces):
        new = [int(token) for token in piece]
        end = next((i for i, token in enumerate(new) if token in text.stop), None)
        tokens += new[:end]
        settled = text.decode(tokens).rstrip(UNKNOWN)
        yield settled[shown:]
        shown = max(shown, len(settled))
        if end is not None:
            break
    yield text.decode(tokens)[shown:]


def _whole(text: Text, prompt: np.ndarray, pieces: Iterable[np.ndarray]) -> Iterator[str]:
    """The texts of all rows, one after another, with a rule between."""
    for number, row in enumerate(np.concatenate([*pieces], axis=1)):
        yield (f"\n{RULE}\n" if number else "") + "".join(written(text, prompt, [row]))


def _told(parts: Iterator[str]) -> Iterator[str]:
    """The parts; what goes wrong in a function of the experiment is told as such, and what the terminal does is not."""
    while True:
        with explained("text"):
            part = next(parts, None)
        if part is None:
            return
        yield part


def _choose(options: SampleOptions) -> Choose:
    def choose(logits: jax.Array, counts: jax.Array, key: Key) -> jax.Array:
        logits = repetition_penalty(logits, counts, options.repetition_penalty)
        logits = temperature(logits, options.temperature)
        logits = logits if options.top_k is None else top_k(logits, options.top_k)
        return draw(top_p(logits, options.top_p), counts, key)

    return choose


def _encoded(text: Text, prompt: str) -> np.ndarray:
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:  # bytes of the command line that are no UTF-8 arrive as lone surrogates
        byte = f"byte 0x{ord(prompt[error.start]) & 0xFF:02x} at character {error.start}"
        raise BadInput(f"--prompt is not UTF-8: {byte}", "allowed: text in UTF-8") from error
    with explained("text"):
        tokens = np.asarray(text.encode(prompt), np.int32).reshape(-1)
    if len(tokens) == 0:
        told = f"--prompt {prompt!r} holds no token"
        raise BadInput(told, "this model goes on from at least one", "give the first characters of a text")
    if len(tokens) > text.context or text.context < 2:
        told = f"--prompt of {len(tokens):,} tokens; the model's context holds {text.context:,}"
        raise BadInput(told, f"allowed: 1 to {text.context:,} tokens", "shorten the prompt")
    return tokens


def _check_settings(n: int, options: SampleOptions) -> None:
    parts = (
        ("n", n, n >= 1, "whole numbers from 1"),
        ("tokens", options.tokens, options.tokens >= 1, "whole numbers from 1"),
        ("temperature", options.temperature, 0 <= options.temperature < math.inf, "numbers from 0, the most likely"),
        ("top-k", options.top_k, options.top_k is None or options.top_k >= 1, "whole numbers from 1"),
        ("top-p", options.top_p, 0 < options.top_p <= 1, "numbers above 0, up to 1: all tokens"),
        (
            *("repetition-penalty", options.repetition_penalty, 0 < options.repetition_penalty < math.inf),
            "numbers above 0; 1 changes nothing",
        ),
        ("out", options.out, options.out is None, "no file: a text goes to standard output, for example | tee FILE"),
    )
    for name, value, fits, allowed in parts:
        if not fits:
            raise BadInput(f"--{name} {value}", f"allowed: {allowed}")


def _say(text: str) -> None:
    """Write at once, with what the terminal's encoding cannot say replaced."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()

"""`genjax sample RUN --prompt`: what is written and when, beyond the context too, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import prompted
from genjax.cli import main
from genjax.experiment import Text
from genjax.prompted import RULE, going_on, written
from genjax.samplers.choosing import draw
from genjax.samplers.decode import Decoder, generate

EXPERIMENT = '''"""Which byte follows which, as a table: a, b, c, lambda, and a again; x, y, and the end."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import BadInput, Experiment, Out, Stage, Text, minimize
from genjax.data import Split, batches
from genjax.samplers.decode import Decoder

CYCLE, KNOWN = "abcλ".encode(), "abcλxyz"
PAIRS = np.array([*zip(CYCLE, CYCLE[1:] + CYCLE[:1]), *zip(b"xy", b"y\\n"), *zip(b"zz", b"ab")], np.int32)


def encode(text):
    for position, character in enumerate(text):
        if character not in KNOWN:
            raise BadInput(f"character {character!r} at position {position} is not known", f"allowed: {KNOWN}")
    return list(text.encode())


def loss(params, state, batch, key):
    before, after = batch["pair"][:, 0], batch["pair"][:, 1]
    return Out(-jax.nn.log_softmax(params[before])[jnp.arange(len(before)), after])


def decoder(params):
    return Decoder(lambda rows, positions: (), lambda cache, tokens, position: (params[tokens], cache))


def experiment(steps: int = 2) -> Experiment:
    table = np.full((256, 256), -20.0, np.float32)
    table[PAIRS[:, 0], PAIRS[:, 1]] = 9.0
    learner = minimize(loss, optax.sgd(0.1), lambda key, batch: jnp.asarray(table))
    split = Split({"pair": PAIRS}, lambda rows, key: rows)
    return Experiment(
        [Stage("table", learner, batches(split, 8), steps)],
        sample=lambda state, key, n: jnp.tile(jnp.asarray(PAIRS[0]), (n, 1)),
        shown=2,
        formats={".txt": lambda samples: "\\n".join(bytes(row.tolist()).decode() for row in samples).encode()},
        text=Text(encode, lambda tokens: bytes(tokens).decode("utf-8", "replace"), decoder, context=9, stop=(10,)),
    )
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of a model of text, and one of another model."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "letters.py").write_text(EXPERIMENT)
    other = EXPERIMENT.replace("        text=Text(", "        files={} and (")
    assert other.count("context=9") == 1
    other = other.replace("context=9, stop=(10,)", "9")
    (folder / "numbers.py").write_text(other.replace('formats={".txt"', 'formats={} and {".txt"'))
    for name in ("letters", "numbers"):
        assert main(["train", str(folder / f"{name}.py"), "--workdir", str(folder / name)]) == 0
    return folder


@pytest.fixture
def sampled(runs, capsys, tmp_path, monkeypatch):
    """What `genjax sample` says with such options."""
    monkeypatch.chdir(tmp_path)

    def run(*options, of="letters", code=0):
        capsys.readouterr()
        assert main(["sample", str(runs / of), *map(str, options)]) == code
        told = capsys.readouterr()
        return told.err if code else told.out

    return run


CYCLE = "abcλ" * 10


def test_a_text_goes_on_beyond_the_context(sampled):
    for prompt, tokens in [("a", 8), ("abcλab", 2), ("a", 40), ("bcλabcλ", 21)]:
        start = CYCLE.index(prompt)
        whole = CYCLE[start:].encode()[: len(prompt.encode()) + tokens]
        assert sampled("--prompt", prompt, "--tokens", tokens) == whole.decode(errors="replace") + "\n"


def test_what_is_written_does_not_change_any_more(sampled, monkeypatch):
    parts = []
    monkeypatch.setattr(prompted, "_say", parts.append)
    monkeypatch.setattr(prompted, "PIECE", 4)  # now and then between the two bytes of lambda
    sampled("--prompt", "a", "--tokens", 29, "--temperature", 0)
    assert "".join(parts) == CYCLE[:24] + "\n" and len(parts) >= 8 and not any("\ufffd" in part for part in parts)


def test_the_end_of_a_text_is_not_written(sampled):
    assert sampled("--prompt", "x") == "xy\n"
    assert sampled("--prompt", "x", "--n", 2) == f"xy\n{RULE}\nxy\n"


def test_texts_differ_by_row_and_by_seed_alone(sampled):
    options = ("--prompt", "z", "--n", 12, "--tokens", 1)
    texts = sampled(*options)
    rows = texts.strip("\n").split(f"\n{RULE}\n")
    assert len(rows) == 12 and set(rows) == {"za", "zb"}
    assert sampled(*options) == texts and sampled(*options, "--seed", 5) != texts
    assert set(sampled(*options, "--temperature", 0).split()) == {"za", RULE}
    assert set(sampled(*options, "--top-k", 1, "--temperature", 50).split()) <= {"za", "zb", RULE}
    assert sampled("--prompt", "z", "--tokens", 1) == rows[0] + "\n"  # the first row is the text of one


def test_settings_reach_the_draw(sampled):
    others = sampled("--prompt", "az", "--n", 12, "--tokens", 1, "--repetition-penalty", 1e9)
    assert set(others.split()) == {"azb", RULE}  # a, as likely before, stands in the prompt
    flat = sampled("--prompt", "a", "--tokens", 3, "--temperature", 1e4)
    assert flat != "abc\ufffd\n"
    assert sampled("--prompt", "a", "--tokens", 2, "--temperature", 3, "--top-p", 0.05) == "abc\n"


ATTENTIVE_WEIGHT = 2 * np.random.default_rng(3).normal(size=(16, 6, 6)).astype(np.float32)


def attentive(params):
    """Logits of all tokens so far, by their distance."""

    def step(cache, tokens, position):
        cache = jax.lax.dynamic_update_slice(cache, tokens, (jnp.int32(0), position))
        distance = position + jnp.arange(tokens.shape[1])[:, None] - jnp.arange(cache.shape[1])[None]
        seen = params[jnp.clip(distance, 0)[None], cache[:, None]]
        return jnp.sum(jnp.where((distance >= 0)[None, :, :, None], seen, 0.0), axis=2), cache

    return Decoder(lambda rows, positions: jnp.zeros((rows, positions), jnp.int32), step)


def test_each_turn_beyond_the_context_reads_half_of_it_again():
    model, key = Text(None, None, attentive, context=8), jax.random.key(1)
    params, prompts = jnp.asarray(ATTENTIVE_WEIGHT), np.array([[1, 2, 3], [3, 2, 5]])
    drawn = np.concatenate([*going_on(model, params, prompts, key, 11, draw)], axis=1)
    whole = jax.jit(lambda b, n, key: generate(attentive(params), b, n, key, 8, draw)[0])
    expected, turn = prompts, 0
    while expected.shape[1] < 3 + 11:
        head = expected if turn == 0 else expected[:, -4:]
        row = whole(head, np.full(2, head.shape[1], np.int32), jax.random.fold_in(key, turn))
        expected, turn = np.concatenate([expected, np.asarray(row)[:, head.shape[1] :]], axis=1), turn + 1
    assert turn == 3 and np.array_equal(np.concatenate([prompts, drawn], axis=1), expected[:, :14])


def test_rows_that_have_ended_end_the_turns():
    model = Text(None, None, attentive, context=8, stop=(0, 1, 2))
    pieces = [*going_on(model, jnp.asarray(ATTENTIVE_WEIGHT), np.array([[5], [4]]), jax.random.key(2), 10_000, draw)]
    drawn = np.concatenate(pieces, axis=1)
    assert np.isin(drawn, (0, 1, 2)).any(axis=1).all() and drawn.shape[1] < 100


def test_bytes_that_are_no_character_are_written_at_the_end():
    model = Text(None, lambda tokens: bytes(tokens).decode("utf-8", "replace"), None, 9, stop=(0,))
    assert [*written(model, [97], [[206], [98], [206]])] == ["a", "", "\ufffdb", "", "\ufffd"]
    assert [*written(model, [206], [[177, 0, 98], [99]])] == ["", "α", ""]  # and what follows the end is not
    assert "".join(written(model, [0, 97], [[98]])) == "\x00ab"  # an end inside the prompt is a part of it


BAD = {
    "an unknown character": (("--prompt", "abq"), ("'q'", "position 2", "abcλxyz")),
    "no text": (("--prompt", ""), ("holds no token",)),
    "a long prompt": (("--prompt", "abcλabcλ"), ("10 tokens", "holds 9")),
    "not UTF-8": (("--prompt", "ab\udcff"), ("not UTF-8", "0xff", "character 2")),
    "0 tokens": (("--prompt", "a", "--tokens", 0), ("--tokens 0", "from 1")),
    "0 texts": (("--prompt", "a", "--n", 0), ("--n 0", "from 1")),
    "a negative temperature": (("--prompt", "a", "--temperature", -1), ("--temperature -1", "from 0")),
    "no temperature": (("--prompt", "a", "--temperature", "nan"), ("--temperature nan", "from 0")),
    "k = 0": (("--prompt", "a", "--top-k", 0), ("--top-k 0", "from 1")),
    "p = 0": (("--prompt", "a", "--top-p", 0), ("--top-p 0", "up to 1")),
    "p = 2": (("--prompt", "a", "--top-p", 2), ("--top-p 2", "up to 1")),
    "no penalty": (("--prompt", "a", "--repetition-penalty", 0), ("--repetition-penalty 0", "above 0")),
    "a width of no averages": (("--prompt", "a", "--width", 0.1), ("0 `power_averages`",)),
    "a file": (("--prompt", "a", "--out", "a.txt"), ("--out a.txt", "standard output")),
    "no prompt": (("--tokens", 5), ("--tokens 5 without --prompt",)),
    "a temperature of nothing": (("--temperature", 0.5), ("--temperature 0.5 without --prompt",)),
    "no such format": (("--out", "a.gif"), ("--out a.gif", ".txt or .npz", "--out samples.txt")),
    "no picture": (("--out", "a.png"), ("--out a.png", ".txt or .npz")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_done_is_refused(name, sampled, tmp_path):
    options, told = BAD[name]
    lines = sampled(*options, code=2).strip().splitlines()
    assert all(word in "\n".join(lines) for word in told), lines
    assert sum(not line.startswith(("step", "/")) for line in lines) <= 3 and not list(tmp_path.iterdir())


def test_a_full_disk_is_no_error_of_the_experiment(sampled, monkeypatch):
    def full(part):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prompted, "_say", full)
    told = sampled("--prompt", "a", code=4)
    assert "No space left" in told and "experiment" not in told


def test_a_model_of_something_else_is_given_no_prompt(sampled):
    lines = sampled("--prompt", "a", of="numbers", code=2).splitlines()
    assert "goes on with no text" in lines[0] and "Text(" in lines[1] and len(lines) == 3


def test_samples_in_the_formats_of_the_experiment(sampled, tmp_path):
    assert "2 samples of step 2 in samples.txt" in sampled("--n", 2)
    assert (tmp_path / "samples.txt").read_text() == "ab\nab"
    sampled("--n", 3, "--out", "three.npz")
    with np.load(tmp_path / "three.npz") as file:
        assert file["samples"].tolist() == [[97, 98]] * 3
    sampled("--out", "other.txt")
    assert (tmp_path / "other.txt").read_text().count("ab") == 64

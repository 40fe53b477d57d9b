"""Windows of a stream: uniform starts, the same for the same step, none across the end; pieces predict a token once."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.data import Split, pieces, text_file, windows
from genjax.data.split import wide_tokens
from genjax.data.windows import starts

KEY = jax.random.key(3)
TOTAL, LENGTH, ROWS, STEPS = 50, 9, 64, 250


def drawn(starts):
    """The starts of many steps, [STEPS, ROWS]."""
    return np.asarray(jax.vmap(lambda step: starts(KEY, step, TOTAL, LENGTH, ROWS))(jnp.arange(STEPS)))


def check_starts(starts):
    """Each of the T - L places is equally likely, whatever the step and the row: three chi-squares, p > 1e-4."""
    found = drawn(starts)
    places = TOTAL - LENGTH
    assert found.min() == 0 and found.max() == places - 1
    assert scipy.stats.chisquare(np.bincount(found.ravel(), minlength=places)).pvalue > 1e-4
    follows = np.bincount((found[1:] - found[:-1]).ravel() % places, minlength=places)  # independent of the last step
    assert scipy.stats.chisquare(follows).pvalue > 1e-4
    beside = np.bincount((found[:, 1:] - found[:, :-1]).ravel() % places, minlength=places)  # and of the row above
    assert scipy.stats.chisquare(beside).pvalue > 1e-4


def test_windows_start_anywhere():
    check_starts(starts)


def _draw(key, low, high, rows=ROWS):
    return jax.random.randint(key, (rows,), low, high)


START_MUTANTS = {
    "the last place is never drawn": lambda key, step, t, n, b: _draw(jax.random.fold_in(key, step), 0, t - n - 1),
    "one place too many": lambda key, step, t, n, b: _draw(jax.random.fold_in(key, step), 0, t - n + 1),
    "one too many, cut to fit": lambda key, step, t, n, b: jnp.minimum(
        _draw(jax.random.fold_in(key, step), 0, t - n + 4), t - n - 1
    ),
    "the first place is never drawn": lambda key, step, t, n, b: _draw(jax.random.fold_in(key, step), 1, t - n),
    "the same every step": lambda key, step, t, n, b: _draw(key, 0, t - n),
    "one number, shifted by the step": lambda key, step, t, n, b: (_draw(key, 0, t - n) + step) % (t - n),
    "neighbours in a row": lambda key, step, t, n, b: (
        (_draw(jax.random.fold_in(key, step), 0, t - n, 1) + jnp.arange(ROWS)) % (t - n)
    ),
    "a float, rounded": lambda key, step, t, n, b: jnp.round(
        jax.random.uniform(jax.random.fold_in(key, step), (ROWS,)) * (t - n - 1)
    ).astype(jnp.int32),
}


@pytest.mark.parametrize("name", START_MUTANTS)
def test_the_law_of_starts_finds(name):
    rejects(check_starts, START_MUTANTS[name])


def check_windows(windows):
    """A window is the stream from its start, int32; the same (key, step) gives the same, another gives others."""
    stream = np.random.default_rng(0).integers(0, 65, 50).astype(np.uint8)
    source = windows(Split({"tokens": stream}, wide_tokens), LENGTH, ROWS)
    batch = jax.jit(source.batch)
    first, second, again = (np.asarray(batch(source.resident, KEY, step)["tokens"]) for step in (0, 1, 0))
    assert first.dtype == np.int32 and first.shape == (ROWS, LENGTH + 1)
    place = np.asarray(starts(KEY, 0, 50, LENGTH, ROWS))
    np.testing.assert_array_equal(first, stream[place[:, None] + np.arange(LENGTH + 1)])
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, source.batch(source.resident, KEY, jnp.uint32(0))["tokens"])
    other = np.asarray(batch(source.resident, jax.random.key(4), 0)["tokens"])
    assert not np.array_equal(first, second) and not np.array_equal(first, other)


def test_a_window_is_the_stream_from_its_start():
    check_windows(windows)


WINDOW_MUTANTS = {
    "targets are the inputs": lambda out: jnp.concatenate([out[:, :1], out[:, :-1]], 1),
    "the stored type": lambda out: out.astype(jnp.uint8),
    "one token short": lambda out: out[:, :-1],
    "reversed": lambda out: out[:, ::-1],
    "rows exchanged": lambda out: out[::-1],
}


@pytest.mark.parametrize("name", WINDOW_MUTANTS)
def test_the_check_of_windows_finds(name):
    def planted(split, length, batch_size):
        source = windows(split, length, batch_size)
        return source._replace(
            batch=lambda feed, key, step: {"tokens": WINDOW_MUTANTS[name](source.batch(feed, key, step)["tokens"])}
        )

    rejects(check_windows, planted)


def test_the_longest_window_is_the_whole_stream():
    source = windows(np.arange(7), 6, 3)
    np.testing.assert_array_equal(source.batch(source.resident, KEY, 0)["tokens"], np.tile(np.arange(7), (3, 1)))


DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from genjax.data import windows
source, key = windows(np.random.default_rng(0).integers(0, 65, 999).astype(np.uint8), 16, 8), jax.random.key(7)
alone = np.stack([np.asarray(source.batch(source.resident, key, t)["tokens"]) for t in range(3)])
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
resident = jax.device_put(source.resident, NamedSharding(mesh, P()))
many = lambda feed: jax.lax.scan(lambda c, t: (c, source.batch(feed, key, t)["tokens"]), 0, jnp.arange(3))[1]
found = jax.jit(many, out_shardings=NamedSharding(mesh, P(None, "data")))(resident)
assert found.addressable_shards[0].data.shape == (3, 2, 17)
np.testing.assert_array_equal(found, alone)
"""


def test_the_same_windows_in_a_scan_on_four_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", DEVICES], env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_pieces(pieces):
    """Each token but the first is predicted once, from the tokens before it; what is left is shorter than a row."""
    for total in (2, 5, 9, 10, 11, 100):
        for length in (1, 2, 4, 9):
            if length < total:
                stream = np.random.default_rng(total).integers(0, 99, total)
                rows = pieces(stream, length).arrays["tokens"]
                predicted = rows[:, 1:].ravel()
                assert rows.shape[1] == length + 1 and len(predicted) > total - 1 - length
                np.testing.assert_array_equal(predicted, stream[1 : len(predicted) + 1])
                np.testing.assert_array_equal(rows[:, 0], stream[: len(predicted) : length])


def test_pieces_predict_each_token_once():
    check_pieces(pieces)


def _cut(stream, length, step):
    rows = [stream[start : start + length + 1] for start in range(0, len(stream) - length, step)]
    return Split({"tokens": np.stack(rows)}, wide_tokens)


PIECE_MUTANTS = {
    "rows that share no token": lambda stream, length: _cut(stream, length, length + 1),
    "rows that share two": lambda stream, length: _cut(stream, length, max(length - 1, 1)),
    "the last row is left out": lambda stream, length: (
        split := pieces(stream, length),
        split._replace(arrays={"tokens": split.arrays["tokens"][:-1]}),
    )[1],
}


@pytest.mark.parametrize("name", PIECE_MUTANTS)
def test_the_check_of_pieces_finds(name):
    rejects(check_pieces, PIECE_MUTANTS[name])


def test_fingerprints_see_every_token(tmp_path):
    text = "the quick brown fox jumps over the lazy dog. " * 3
    found = set()
    for place in (None, 0, 60, len(text) - 1):
        changed = text if place is None else text[:place] + ("q" if text[place] != "q" else "z") + text[place + 1 :]
        (tmp_path / "a.txt").write_text(changed)
        data = text_file(tmp_path / "a.txt")
        found |= {data.fingerprint, windows(data.train, 5, 2).fingerprint}
    assert len(found) == 4 + 3  # the last character is not in the training text
    assert windows(np.arange(9), 2, 1).fingerprint == windows(np.arange(9), 5, 8).fingerprint

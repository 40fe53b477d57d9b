"""Batches by random access: every row once an epoch, exact after a restart, the same on any number of devices."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from genjax.data import Split, batches, digits, make_dataset, resampled, unchanged
from genjax.data.batches import noise_key, rows_of_batch
from genjax.data.permutation import ROUNDS, permute
from genjax.data.split import fingerprint
from genjax.errors import BadInput
from genjax.types import Source

KEY = jax.random.key(7)


def numbered(rows: int) -> Split:
    """A split whose row i holds i."""
    return Split({"x": np.arange(rows, dtype=np.int32)}, unchanged)


def rows_at(source: Source, key: jax.Array, step: int) -> np.ndarray:
    return np.asarray(jax.jit(source.batch)(source.resident, key, step)["x"])


def check_epochs(make: Callable[[Split, int], Source]) -> None:
    """Floor(N / B) batches hold distinct rows; epochs, seeds and positions differ."""
    source = make(numbered(23), 5)
    epochs = np.array([[rows_at(source, KEY, 4 * epoch + t) for t in range(4)] for epoch in range(3)]).reshape(3, 20)
    assert all(len(set(epoch)) == 20 for epoch in epochs.tolist()), "a row came twice in an epoch"
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3, "two epochs have one order"
    assert not np.array_equal(epochs[0], np.sort(epochs[0])), "the rows come in order"
    assert set(epochs.ravel().tolist()) == set(range(23)), "a row never comes"
    other = np.array([rows_at(source, jax.random.key(8), t) for t in range(4)]).ravel()
    assert not np.array_equal(other, epochs[0]), "two seeds have one order"


def test_an_epoch_holds_each_row_once() -> None:
    check_epochs(batches)


def _mutant(rows_of: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[Split, int], Source]:
    def make(split: Split, batch_size: int) -> Source:
        def batch(feed: dict, key: jax.Array, step: jax.Array) -> dict:
            return {"x": feed["x"][rows_of(key, step)]}

        return batches(split, batch_size)._replace(batch=batch)

    return make


PLANTED = {
    "in order": _mutant(lambda key, step: (step * 5 + jnp.arange(5)) % 20),
    "with replacement": _mutant(lambda key, step: jax.random.randint(jax.random.fold_in(key, step), (5,), 0, 23)),
    "the key is not used": _mutant(lambda key, step: rows_of_batch(KEY, step, 23, 5)),
    "one order for ever": _mutant(lambda key, step: rows_of_batch(key, step % 4, 23, 5)),
    "the same rows are always left out": _mutant(
        lambda key, step: permute(rows_of_batch(key, step, 20, 5), 20, jnp.arange(ROUNDS, dtype=jnp.uint32))
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_check_of_epochs_sees_planted_bugs(planted: str) -> None:
    with pytest.raises(AssertionError):
        check_epochs(PLANTED[planted])


def test_batches_are_the_permutation_in_numpy() -> None:
    rows, size, epoch, within = 1_297, 100, 3, 7
    found = rows_of_batch(KEY, jnp.int32(epoch * (rows // size) + within), rows, size)
    words = jax.random.bits(jax.random.fold_in(jax.random.fold_in(KEY, 2**32 - 1), epoch), (ROUNDS,), "uint32")
    positions = np.arange(within * size, (within + 1) * size, dtype=np.uint32)
    np.testing.assert_array_equal(found, permute(positions, rows, np.asarray(words)))


def test_orders_are_uniform_through_the_whole_chain() -> None:
    """60,000 epochs of 5 rows by 60,000 folded keys: each of the 120 orders as often as any other (p fixed at 1e-4)."""
    orders = np.asarray(jax.jit(jax.vmap(lambda step: rows_of_batch(KEY, step, 5, 5)))(jnp.arange(60_000)))
    counts = np.unique(orders.astype(np.int64) @ 5 ** np.arange(5), return_counts=True)[1]
    assert len(counts) == 120
    assert chi2.sf(((counts - 500) ** 2 / 500).sum(), 119) > 1e-4


@pytest.mark.parametrize("rows, size", [(23, 5), (50_000, 512), (2**31 - 1, 20)])
def test_the_last_step_is_as_right_as_the_first(rows: int, size: int) -> None:
    """No 32-bit overflow: the last int32 step gives the rows that NumPy's arithmetic in 64 bits gives."""
    step = 2**31 - 1
    epoch, within = divmod(step, rows // size)
    words = jax.random.bits(jax.random.fold_in(jax.random.fold_in(KEY, 2**32 - 1), epoch), (ROUNDS,), "uint32")
    positions = within * size + np.arange(size)
    assert positions.max() < rows
    expected = permute(positions.astype(np.uint32), rows, np.asarray(words))
    np.testing.assert_array_equal(rows_of_batch(KEY, jnp.int32(step), rows, size), expected)


def test_noise_is_of_the_step_and_apart_from_the_order() -> None:
    split = Split({"image": np.full([8, 4, 4, 1], 128, np.uint8)}, resampled(256))
    source = batches(split, 8)
    draw = jax.jit(source.batch)
    first, second, again = (np.asarray(draw(source.resident, KEY, step)["image"]) for step in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert set(np.unique(first)) == {0.0, 1.0} and not np.array_equal(first, second)
    same = [jax.random.key_data(key) for key in (noise_key(KEY, 0), jax.random.fold_in(KEY, 0))]
    assert not np.array_equal(*same), "the noise of a batch would be the noise of its loss"


def test_dynamic_binarization_has_the_pixel_as_its_mean() -> None:
    level = np.array([0, 26, 128, 230, 255], np.uint8)
    split = Split({"image": np.tile(level.reshape(1, 1, 5, 1), (1_000, 1, 1, 1))}, resampled(256))
    source = batches(split, 1_000)
    mean = jax.jit(lambda step: source.batch(source.resident, KEY, step)["image"].mean((0, 1, 3)))
    means = np.mean([mean(step) for step in range(20)], axis=0)
    deviation = np.sqrt(level / 255 * (1 - level / 255) / 20_000)
    assert (np.abs(means - level / 255) <= 4 * deviation).all()


def test_restart_and_scan_give_the_same_batches() -> None:
    source = batches(digits().train, 100)
    draw = jax.jit(source.batch)
    alone = [draw(source.resident, KEY, t)["image"] for t in range(30)]

    @jax.jit
    def scanned(key: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, t: (c, source.batch(source.resident, key, t)["image"]), 0, jnp.arange(30))[1]

    np.testing.assert_array_equal(scanned(KEY), np.stack(alone))
    again = batches(digits().train, 100)
    np.testing.assert_array_equal(jax.jit(again.batch)(again.resident, KEY, 29)["image"], alone[29])


def test_seeds_are_mapped_in_one_program() -> None:
    source = batches(numbered(23), 5)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together = jax.jit(jax.vmap(source.batch, (None, 0, None)))(source.resident, keys, 9)["x"]
    np.testing.assert_array_equal(together, [rows_at(source, key, 9) for key in keys])


DEVICES = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from genjax.data import batches, digits
source = batches(digits().train, 64)
alone = [np.asarray(jax.jit(source.batch)(source.resident, jax.random.key(7), t)["image"]) for t in (0, 19, 20, 1000)]
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
resident = jax.device_put(source.resident, NamedSharding(mesh, P()))
sharded = jax.jit(source.batch, out_shardings=NamedSharding(mesh, P("data")))
for step, expected in zip((0, 19, 20, 1000), alone, strict=True):
    found = sharded(resident, jax.random.key(7), step)["image"]
    assert len(found.addressable_shards) == 4 and found.addressable_shards[0].data.shape == (16, 8, 8, 1)
    np.testing.assert_array_equal(found, expected)
"""


def test_the_same_batches_on_four_devices() -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", DEVICES], env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PROCESS = """
import sys, jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
index, count = int(sys.argv[2]), int(sys.argv[3])
jax.distributed.initialize(sys.argv[1], count, index)
from genjax.data import batches, digits
source = batches(digits().train, 64)
mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
whole, shared = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
place = lambda a: jax.make_array_from_callback(a.shape, whole, lambda i: a[i])
feed = {field: place(array) for field, array in source.resident.items()}
draw = jax.jit(lambda feed, seed, step: source.batch(feed, jax.random.key(seed), step), out_shardings=shared)
for step in (0, 19, 20, 1000):
    mine = draw(feed, 7, step)["image"].addressable_shards[0].data
    assert mine.shape[0] == 64 // count
    np.save(f"{sys.argv[4]}/{step}-{index}.npy", mine)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_same_batches_in_several_processes(processes: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    commands = [[sys.executable, "-c", PROCESS, address, str(i), str(processes), tmp_path] for i in range(processes)]
    peers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        said = [peer.communicate(timeout=180)[1] for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
    assert [peer.returncode for peer in peers] == [0] * processes, said
    source = batches(digits().train, 64)
    for step in (0, 19, 20, 1000):
        parts = [np.load(tmp_path / f"{step}-{index}.npy") for index in range(processes)]
        np.testing.assert_array_equal(np.concatenate(parts), source.batch(source.resident, KEY, step)["image"])


@pytest.mark.parametrize("batch_size", [0, -1, 24, 2.0, True, "8"])
def test_a_batch_size_that_does_not_fit(batch_size: object) -> None:
    with pytest.raises(BadInput, match="batch_size") as caught:
        batches(numbered(23), batch_size)
    assert repr(batch_size) in caught.value.lines[0] and len(caught.value.lines) == 3


def test_fingerprints_name_what_is_seen() -> None:
    first = numbered(23)
    changed = Split({"x": np.where(np.arange(23) == 11, 0, first.arrays["x"]).astype(np.int32)}, unchanged)
    wider = Split({"x": first.arrays["x"].astype(np.int64)}, unchanged)
    renamed = Split({"y": first.arrays["x"]}, unchanged)
    pixels = {"image": np.zeros([4, 2, 2, 1], np.uint8)}
    prepared = [Split(pixels, resampled(256)), Split(pixels, resampled(17))]
    found = [fingerprint(split) for split in (first, changed, wider, renamed, *prepared)]
    assert len(set(found)) == 6
    assert batches(first, 5).fingerprint == found[0] == fingerprint(numbered(23))
    sets = [make_dataset("a", dict.fromkeys(("train", "validation", "test"), split), levels=256) for split in prepared]
    assert sets[0].fingerprint != sets[1].fingerprint

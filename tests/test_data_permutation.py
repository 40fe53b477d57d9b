"""The permutation of the rows: a bijection, the same in NumPy and JAX, and without order; with planted bugs."""

from collections.abc import Callable
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from genjax.data import permutation
from genjax.data.permutation import ROUNDS, factors, network, permute

P_VALUE = 1e-4  # fixed before any run; the keys are fixed too, so no test can fail by chance later
EPOCHS = 100_000


def keys(epochs: int, seed: int = 0) -> np.ndarray:
    """Independent words for many epochs: [ROUNDS, epochs, 1]."""
    return np.random.default_rng(seed).integers(0, 2**32, (ROUNDS, epochs, 1), dtype=np.uint32)


def check_bijection(permute: Callable, rows: int) -> None:
    order = permute(np.arange(rows, dtype=np.uint32), rows, keys(1)[:, 0, 0])
    assert np.array_equal(np.sort(order), np.arange(rows)), f"{rows} rows: not a permutation"


def check_uniform(counts: np.ndarray) -> None:
    """Chi-square: every cell has the same probability."""
    expected = counts.sum() / counts.size
    p_value = chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.size - 1)
    assert p_value > P_VALUE, f"p = {p_value:.1e}"


def check_orders(permute: Callable, rows: int) -> None:
    """Over many epochs, each of the N! orders is as frequent as any other."""
    orders = permute(np.arange(rows, dtype=np.uint32)[None], rows, keys(EPOCHS)).astype(np.int64)
    codes, counts = np.unique(orders @ rows ** np.arange(rows), return_counts=True)
    check_uniform(np.pad(counts, (0, factorial(rows) - len(codes))))


def check_pairs(permute: Callable, rows: int, first: int, second: int) -> None:
    """Over many epochs, each ordered pair of distinct rows is as frequent as any other at two positions."""
    pairs = permute(np.array([[first, second]], np.uint32), rows, keys(EPOCHS, 1)).astype(np.int64)
    counts = np.bincount(pairs[:, 0] * rows + pairs[:, 1], minlength=rows**2)
    check_uniform(counts[~np.eye(rows, dtype=bool).ravel()])


def check_neighbours(permute: Callable, rows: int, blocks: int = 8) -> None:
    """Inside one epoch, rows at neighbouring positions come from independent blocks of the data."""
    order = permute(np.arange(rows, dtype=np.uint32), rows, keys(1)[:, 0, 0]).astype(np.int64)
    block = order[: rows // 2 * 2].reshape(-1, 2) * blocks // rows
    check_uniform(np.bincount(block[:, 0] * blocks + block[:, 1], minlength=blocks**2))


def check_epochs_differ(permute: Callable, rows: int) -> None:
    """No more rows stand at the same position in two epochs than by chance (one on average)."""
    orders = permute(np.arange(rows, dtype=np.uint32)[None], rows, keys(2))
    assert (orders[0] == orders[1]).sum() < 10, "two epochs have one order"


CHECKS = {
    "bijection": lambda permute: [check_bijection(permute, rows) for rows in (1, 2, 3, 5, 97, 1_297)],
    "orders": lambda permute: [check_orders(permute, rows) for rows in (2, 3, 4, 5, 6)],
    "pairs": lambda permute: [check_pairs(permute, *case) for case in ((7, 0, 1), (16, 3, 12), (30, 0, 29))],
    "neighbours": lambda permute: check_neighbours(permute, 50_000),
    "epochs": lambda permute: check_epochs_differ(permute, 1_297),
}


@pytest.mark.parametrize("check", CHECKS)
def test_permutation(check: str) -> None:
    CHECKS[check](permute)


@pytest.mark.parametrize("rows", [*range(1, 301), 50_000, 59_999, 65_536])
def test_is_a_bijection(rows: int) -> None:
    check_bijection(permute, rows)


def test_rows_of_the_largest_set_stay_in_range() -> None:
    rows = 2**31 - 1
    positions = np.array([0, 1, rows // 2, rows - 1], np.uint32)
    found = permute(positions, rows, keys(1)[:, 0, 0])
    assert len(set(found.tolist())) == 4 and found.max() < rows
    a, b = factors(rows)
    assert rows <= a * b < 2**32


@pytest.mark.parametrize("rows", [1, 2, 97, 1_297, 50_000, 2**31 - 1])
def test_numpy_is_jax(rows: int) -> None:
    positions = np.arange(min(rows, 2_000), dtype=np.uint32)
    words = keys(1)[:, 0, 0]
    found = jax.jit(permute, static_argnums=1)(jnp.asarray(positions), rows, jnp.asarray(words))
    np.testing.assert_array_equal(found, permute(positions, rows, words))


def _not_walked(positions: np.ndarray, rows: int, words: np.ndarray) -> np.ndarray:
    return network(positions, *factors(rows), words) % np.uint32(rows)


def _few_rounds(positions: np.ndarray, rows: int, words: np.ndarray) -> np.ndarray:
    still = np.where(np.arange(ROUNDS).reshape(-1, *[1] * (words.ndim - 1)) < ROUNDS // 2, words, np.uint32(0))
    return permute(positions, rows, still)


def _one_key(positions: np.ndarray, rows: int, words: np.ndarray) -> np.ndarray:
    return permute(positions, rows, words[[0] * ROUNDS])


def _one_epoch(positions: np.ndarray, rows: int, words: np.ndarray) -> np.ndarray:
    return permute(positions, rows, words[:, :1]) + np.zeros_like(words[0])


def _rotation(positions: np.ndarray, rows: int, words: np.ndarray) -> np.ndarray:
    return (positions + words[0] % np.uint32(rows)) % np.uint32(rows)


PLANTED = {  # a wrong permutation, and the check that must see it
    "does not walk on": (_not_walked, "bijection"),
    "one epoch for ever": (_one_epoch, "epochs"),
    "rotation": (_rotation, "orders"),
    "rotation, in pairs": (_rotation, "pairs"),
    "rotation, neighbours": (_rotation, "neighbours"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_checks_see_planted_bugs(planted: str) -> None:
    mutant, check = PLANTED[planted]
    with pytest.raises(AssertionError):
        CHECKS[check](mutant)


@pytest.mark.parametrize("check", ["orders", "pairs"])
@pytest.mark.parametrize("rounds", [4, 12])
def test_checks_see_too_few_rounds(check: str, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "ROUNDS", rounds)
    with pytest.raises(AssertionError):
        CHECKS[check](permute)


@pytest.mark.parametrize("check", ["orders", "pairs"])
def test_checks_see_a_hash_that_does_not_mix(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "mix", lambda word: word >> np.uint32(7))
    with pytest.raises(AssertionError):
        CHECKS[check](permute)

"""What the experiments on sequences print as bounds: all chorales of two frames and three notes, all names of a, b."""

import itertools
import math

import numpy as np
import pytest
from bounds import Setting, check_bounds, check_means, check_sums, drawn
from planted import rejects

from genjax.data import Split, make_dataset, unchanged, wide_tokens

# -- chorales ----------------------------------------------------------------------------------------------------------

NOTES = (40, 41, 42)  # of the 88; the others never sound


def rolls():
    """Every roll of two frames, and every roll of one, behind which anything may stand."""
    bits = np.uint8(list(itertools.product((0, 1), repeat=6))).reshape(64, 2, 3)
    roll = np.zeros((72, 2, 88), np.uint8)
    roll[:64, :, NOTES] = bits
    roll[64:, 0, NOTES] = bits[:8, 1]
    roll[64:, 1] = 1
    return {"roll": roll, "length": np.repeat(np.int32([2, 1]), [64, 8])}


def silent(leaf, silence):
    return np.where(np.isin(np.arange(88), NOTES), leaf, silence)


CHORALES = Setting(
    rolls(),
    {"jsb_chorales": lambda: dataset(rolls(), unchanged, levels=2)},
    {"latents": 2, "width": 4, "transition": 4, "emission": 4, "batch_size": 8, "warm_up": 1, "steps": 1},
    {
        "output/kernel": lambda leaf: silent(leaf, 0.0),
        "output/bias": lambda leaf: silent(leaf, -50.0),
        "law/bias": lambda leaf: leaf + np.float32([0.0, 0.0, 2.0, 2.0]),
    },
    0.6,
    group=np.repeat([0, 1], [64, 8]),
)

# -- names -------------------------------------------------------------------------------------------------------------


def every_name(longest=3):
    """What the first tokens of a name may be, up to its end or, where it goes on, to the third."""
    rows = [
        row for n in range(1, longest + 1) for row in itertools.product(range(3), repeat=n)
        if 0 not in row[:-1] and (row[-1] == 0 or n == longest)
    ]  # fmt: skip
    tokens = np.uint8([[0, *row, *[1] * (longest - len(row))] for row in rows])  # behind the end anything may stand
    return {"tokens": tokens, "length": np.int32([len(row) for row in rows])}


def dataset(rows, prepare, **more):
    return make_dataset("tiny", dict.fromkeys(("train", "validation", "test"), Split(rows, prepare)), **more)


NAMES = Setting(
    {**every_name(), "tokens": every_name()["tokens"].astype(np.int32)},
    {"LETTERS": ".ab", "names": lambda: dataset(every_name(), wide_tokens, levels=3, vocabulary=".ab")},
    {"latents": 2, "embedding": 3, "width": 4, "word_dropout": 0.0, "batch_size": 8, "warm_up": 1, "steps": 1},
    {
        "mean/kernel": lambda leaf: 0.5 * leaf,
        "mean/bias": lambda leaf: 0.5 * leaf,
        "log_var/kernel": lambda leaf: 0.1 * leaf,
        "log_var/bias": lambda leaf: 0.2 * leaf + 0.8,
    },
    unit=math.log(2.0),
)
CASES = {"dmm_chorales": CHORALES, "vae_text": NAMES}


def found(folder, name, *edits, what=("two", "one", "elbo", "loss")):
    return drawn(folder, name, CASES[name], edits, what, draws=2_000)


@pytest.mark.parametrize("name", CASES)
def test_what_is_reported_bounds_the_probabilities(tmp_path, name):
    check_bounds(found(tmp_path, name), CASES[name].group)


SUMS, ALONE, ELBO, LOSS = ("two",), ("two", "one"), ("elbo", "one"), ("loss", "elbo")
WEIGHTS = "sum_inside(fit, mask) + sum_inside(chain.log_ratio, mask)"
PLANTED = {
    "half a rate of the chain": (
        *("dmm_chorales", ELBO, "rate = sum_inside(fit, mask), sum"),
        "rate = sum_inside(fit, mask), 0.5 * sum",
    ),
    "half a log ratio of the chain": ("dmm_chorales", SUMS, WEIGHTS, WEIGHTS.replace("+", "+ 0.5 *")),
    "frames behind the end": (
        *("dmm_chorales", SUMS, WEIGHTS),
        WEIGHTS.replace("sum_inside(fit, mask)", "fit.sum(axis=(1, 2))"),
    ),
    "samples taken for rolls": ("dmm_chorales", ALONE, ".reshape(n, -1)\n", ".reshape(-1, n).T\n"),
    "a warm-up that does not end at 1": ("dmm_chorales", LOSS, "0.2 + 0.8 * linear", "0.2 + 0.6 * linear"),
    "half a rate of names": ("vae_text", ELBO, "rate = kl_normal", "rate = 0.5 * kl_normal"),
    "half a rate of names in training": ("vae_text", LOSS, "_elbo(log_p, rate", "_elbo(log_p, 0.5 * rate"),
    "half a log weight": ("vae_text", SUMS, "return normal_log", "return 0.5 * normal_log"),
    "nats for bits": ("vae_text", SUMS, "bits(-weights.bound)", "-weights.bound"),
    "the end of a name not counted": ("vae_text", SUMS, "after, inside(length, ", "after, inside(length - 1, "),
    "another name": (
        *("vae_text", ALONE, "jnp.resize(a, (len(z), *a.shape[1:]))"),
        "jnp.repeat(a, len(z) // len(a), axis=0)",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_bounds_reject(tmp_path, planted):
    name, what, *edit = PLANTED[planted]
    values = found(tmp_path, name, tuple(edit), what=what)
    if what == SUMS:
        rejects(check_sums, values["two"], CASES[name].group)
    elif what == ALONE:
        rejects(check_means, np.exp(-values["two"]), np.exp(-values["one"]))
    elif what == ELBO:
        rejects(check_means, values["elbo"], values["one"])
    else:
        rejects(check_means, values["loss"][:, None], values["elbo"].mean(axis=1, keepdims=True))

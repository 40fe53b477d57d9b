"""Experiments on spaces so small that all data are enumerated: is what they report as a bound a bound?

With z ~ q(z | x) the weight w = p(x, z) / q(z | x) has mean p(x), whatever q is, and so has the mean of k weights.  The
sum over all x of exp(-neg_iwae) therefore has mean 1 for every k, and a wrong weight has another.  The mean of -log w
is the negative ELBO, and what training minimises has the mean of the bound that it claims to be.
"""

import itertools
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.data import Split, make_dataset, scaled
from genjax.fields import load

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
KEY = jax.random.key(0)


class TooNoisyError(Exception):
    """The draws are too few to tell: no failure of what is checked, so that no planted bug is credited with it."""


def edited(folder, name, *edits):
    """An experiment file as a module of its own, with strings of its source replaced; each must be there."""
    source = (EXPERIMENTS / f"{name}.py").read_text()
    for old, new in edits:
        if old not in source:
            raise LookupError(f"{name}.py does not contain {old!r}")
        source = source.replace(old, new)
    path = folder / f"{name}_{len(list(folder.iterdir()))}.py"
    path.write_text(source)
    load(path, EXPERIMENTS)
    return sys.modules[f"experiment_{path.stem}"]


def every_image(levels, shape):
    """All images with the values level / (levels - 1): [levels^(H W C), H, W, C]."""
    pixels = itertools.product(range(levels), repeat=math.prod(shape))
    return np.float32(list(pixels)).reshape(-1, *shape) / (levels - 1)


def pictures(levels, shape, rows=8, stored=None, **more):
    """A data set of a few random images, in as many splits as it takes; what it holds does not matter."""
    images = np.random.default_rng(0).integers(0, stored or levels, (rows, *shape)).astype(np.uint8)
    split = Split({"image": images, **more}, scaled(levels))
    classes = len(set(more["label"].tolist())) if "label" in more else None
    parts = dict.fromkeys(("train", "validation", "test"), split)
    return make_dataset("tiny", parts, classes=classes, levels=levels, stored=stored)


def lively(params, scale, rules):
    """Random parameters; of those whose path ends in a name of the rules, what the last such rule makes of them.

    A proposal should be at least as wide as the prior, or its weights have no variance: the rules see to that.
    """

    def tuned(path, leaf):
        name = "/".join(str(getattr(part, "key", part)) for part in path)
        found = [rule for end, rule in rules.items() if name.endswith(end)]
        return np.float32(found[-1](leaf)) if found else leaf

    random = np.random.default_rng(7)
    values = jax.tree.map(lambda leaf: np.float32(scale * random.normal(size=leaf.shape)), params)
    return jax.tree_util.tree_map_with_path(tuned, values)


class Setting(NamedTuple):
    """All data of an experiment made tiny."""

    batch: Mapping[str, Any]  # every x there is, as the measures see them
    names: Mapping[str, Any]  # what stands in place of names in the experiment's module
    fields: Mapping[str, Any]
    rules: Mapping[str, Callable] = {}
    scale: float = 1.0
    group: Any = 0  # [X] the number of the distribution that each x belongs to; 0: one for all
    unit: float = 1.0  # nats of the unit
    edits: tuple = ()  # of the experiment's source, before others: sizes that are written out there
    test: str = "test"  # the evaluation that has neg_iwae
    more: Callable = lambda module, state: ({}, state)  # what a training batch has besides, and the state it goes with


def opened(folder, name, setting, edits=(), **fields):
    """The module, the experiment, and a lively state after its warm-up."""
    module = edited(folder, name, *setting.edits, *edits)
    vars(module).update(setting.names)
    experiment = module.experiment(**{**setting.fields, **fields})
    stage = experiment.stages[0]
    batch = jax.eval_shape(lambda: stage.data.batch(stage.data.resident, KEY, 0))
    state = jax.eval_shape(stage.learner.init, KEY, batch)
    params = lively(state.params, setting.scale, setting.rules)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    return module, experiment, zeros._replace(step=np.int32(10_000), params=params)


def drawn(folder, name, setting, edits=(), what=("two", "one", "elbo", "loss"), draws=1_000, **fields):
    """Draws of what is reported of every x [draws, X], and of an update [draws].

    two, one: `neg_iwae` of the test with so many samples; elbo: `neg_elbo` of the validation; final: that of the test;
    loss, rate: those of an update; others: by their names in the validation.
    """
    samples = lambda k: {"samples": k} if {"two", "one", "final"} & set(what) else {}  # not every experiment has them
    module, one, state = opened(folder, name, setting, edits, **samples(1), **fields)
    two = module.experiment(**{**setting.fields, **samples(2), **fields})
    batch = {field: jnp.asarray(rows) for field, rows in setting.batch.items()}
    extra, state = setting.more(module, state)

    def draw(state, key):
        keys = jax.random.split(key, 4)
        known = lambda name: one.evaluations["validation"].measure(state, batch, keys[2])[name]
        update = lambda name: one.stages[0].learner.update(state, {**batch, **extra}, keys[3])[1][name]
        measures = {
            "two": lambda: two.evaluations[setting.test].measure(state, batch, keys[0])["neg_iwae"],
            "one": lambda: one.evaluations[setting.test].measure(state, batch, keys[1])["neg_iwae"],
            "elbo": lambda: known("neg_elbo"),
            "final": lambda: one.evaluations[setting.test].measure(state, batch, keys[1])["neg_elbo"],
            "loss": lambda: update("loss"),
            "rate": lambda: update("rate"),
        }
        return {name: measures[name]() if name in measures else known(name) for name in what}

    every = jax.jit(
        lambda state, keys: jax.lax.map(lambda key: draw(state, key), keys, batch_size=100),
        compiler_options={"xla_backend_optimization_level": 0},  # half of the time: compiling takes most of it
    )
    found = every(state, jax.random.split(KEY, draws))
    return {name: setting.unit ** (values.ndim == 2) * np.float64(values) for name, values in found.items()}


def error_of(values):
    return values.std(axis=0) / math.sqrt(len(values))


def check_sums(values, group=0, limit=0.03):
    """The sum over all x of exp(-bound) [draws, X] is 1, for each distribution, within four standard errors."""
    group = np.broadcast_to(group, values.shape[1:])
    for number in np.unique(group):
        total = np.exp(-values[:, group == number]).sum(axis=1)
        error = error_of(total)
        assert abs(total.mean() - 1.0) < 4 * error, f"the sum is {total.mean():.4f} +- {error:.4f}"
        if not error < limit:
            raise TooNoisyError(f"standard error {error:.3f}")


def check_means(ours, theirs, limit=0.05):
    """The same mean of two sets of draws [draws, X], or of draws and an exact value [X]: for each x within five
    standard errors, and on average over x within four."""
    exact = theirs.ndim < ours.ndim
    for a, b, most in ((ours, theirs, 5.0), (ours.mean(axis=-1), theirs.mean(axis=-1), 4.0)):
        error = np.hypot(error_of(a), 0.0 if exact else error_of(b))
        gap = np.abs(a.mean(axis=0) - (b if exact else b.mean(axis=0)))
        assert np.all(gap < most * error + 1e-4), (
            f"{np.max(gap / (error + 1e-9)):.1f} standard errors, {np.max(gap):.4f}"
        )
    if not np.all(error < limit):
        raise TooNoisyError(f"standard error {error:.3f}")


def check_bounds(found, group=0, loss="elbo"):
    """The weights average to probabilities, their logarithms to the ELBO, and training minimises the bound it says."""
    check_sums(found["two"], group)
    check_sums(found["one"], group)
    check_means(np.exp(-found["two"]), np.exp(-found["one"]))  # each x its own probability, whatever k is
    check_means(found["elbo"], found["one"])
    below = np.exp(-found["elbo"].mean(axis=0))
    assert all(below[np.broadcast_to(group, below.shape) == number].sum() < 1.0 for number in np.unique(group))
    assert found["elbo"].mean() > found["two"].mean() + 0.1  # q is not the exact posterior, for which all are equal
    check_means(found["loss"][:, None], found[loss].mean(axis=1, keepdims=True))

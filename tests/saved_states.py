"""States that are functions of their step, and how the tests of checkpoints save and find them."""

from pathlib import Path

import jax
import jax.numpy as jnp

from genjax import digest
from genjax.checkpoint import Identity, open_store, seals
from genjax.types import State

RUN = Identity("run", {"width": 8, "seed": 0}, "0.1.0", "data", "threefry2x32")


def small(step, width=8):
    """A state that is a function of its step."""
    kernel = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (width, 5))
    return State(jnp.int32(step), {"kernel": kernel, "bias": jnp.zeros(5)}, ({"kernel": kernel**2},))


def abstract(tree):
    """Its shapes and dtypes, on the first device."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), jax.eval_shape(lambda: tree))


def save_steps(directory, steps, scores=(), stage_index=0, stage="train", final=(), make=small, **options):
    store = open_store(directory, RUN, **options)
    for number, step in enumerate(steps):
        score = scores[number] if scores else None
        where = {"stage": stage, "stage_index": stage_index, "final": step in final}
        store.save(make(step), step=step, score=score, metrics={"loss": score}, **where)
    store.close()


def listed(directory):
    return [one.step for one in reversed(seals(directory))]


def equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    return digest.digests(left) == digest.digests(right)


def place_of(directory, step, stage_index=0):
    (found,) = (Path(directory) / "checkpoints").glob(f"{stage_index:02d}-*-{step:09d}")
    return found


def large(step):
    """A state whose array fills a file that the seal knows by its digest alone."""
    return State(jnp.int32(step), jax.random.normal(jax.random.key(step), (600_000,)))  # 2.4 MB

"""Kills, damages and the cost of checkpoints, counted.

    python benchmarks/checkpoint_damage.py --kills 200 --damages 500 --seed 0

A kill: a process trains and saves as fast as it can, in a directory that earlier kills have left; SIGKILL comes at a
random moment of opening, restoring, training, saving or deleting.  Then the run must restore, what was reported as
saved must be there, and every bit must be what that step's state is by a recursion repeated in NumPy.
A damage: one file of a copied run (or of each of its checkpoints) is flipped, cut, emptied, overwritten, mixed up or
deleted; restoring must then give the right bits of some step, or refuse.  Everything runs on CPU.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.checkpoint import Identity, lock, open_store, restore
from genjax.errors import Damaged, GenjaxError
from genjax.types import State

INTERVAL = 3  # updates between two saves of the process that is killed
WORDS = 2**14
RUN = Identity("benchmark", {"words": WORDS}, "0", "", "threefry2x32")


def start(xp: Any = jnp) -> State:
    """The state before the first update; `xp` is jax.numpy or numpy."""
    word = xp.arange(WORDS, dtype=xp.uint32)
    return State(
        xp.asarray(0, dtype=xp.int32), {"word": word, "unit": _unit(word)}, {"total": word[:7]}, word[:3] > np.uint32(1)
    )


def update(state: State) -> State:
    """A linear congruential step of every word: exact, and no state can be reached but through all before it."""
    word = state.params["word"] * np.uint32(1664525) + np.uint32(1013904223)
    total = state.opt_state["total"] + word[:7]
    return State(
        state.step + np.int32(1), {"word": word, "unit": _unit(word)}, {"total": total}, word[:3] > np.uint32(2**31)
    )


def truth(step: int) -> State:
    """The state after so many updates, by NumPy."""
    state = start(np)
    for _ in range(step):
        state = update(state)
    return state


def _unit(word: Any) -> Any:
    return (word >> np.uint32(8)).astype(np.float32)


def same(left: State, right: State) -> bool:
    """Whether all leaves are equal in dtype and value."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b) for a, b in pairs)


def train_forever(directory: Path) -> None:
    """What is killed; it says how far it is."""
    say = partial(print, flush=True)
    say("open")
    step_once = jax.jit(update, donate_argnums=0)
    with lock(directory):
        store = open_store(directory, RUN, keep=2)
        found = restore(directory, jax.eval_shape(start))
        state, step = (found[0], found[1].step) if found else (jax.jit(start)(), 0)
        say(f"restored {step}")
        while True:
            for _ in range(INTERVAL):
                state, step = step_once(state), step + 1
            store.save(state, stage="train", stage_index=0, step=step, on_saved=lambda seal: say(f"saved {seal.step}"))
            say(f"begun {step}")


def kill_trials(count: int, seed: int, directory: Path) -> Counter:
    """Kill one training process after the other in the same run directory, and check what each leaves."""
    draw, counts, abstract = random.Random(seed), Counter(), jax.eval_shape(start)
    for _ in range(count):
        said = _train_and_kill(directory, draw)
        saved, begun = _last(said, "saved"), _last(said, "begun")
        left = [path.name for path in (directory / "checkpoints").glob(".*")] if directory.exists() else []
        counts["kills"] += 1
        counts["  while opening or restoring"] += not any(line.startswith("restored") for line in said)
        counts["  with a save in flight"] += begun != saved
        counts["  that left a partial or half deleted checkpoint"] += bool(left)
        counts.update(_after_kill(directory, abstract, saved, begun))
    return counts


def _train_and_kill(directory: Path, draw: random.Random) -> list[str]:
    """Kill it at most 0.4 s after it opened the run, restored, or began its first or a later save."""
    command = [sys.executable, __file__, "--train", str(directory)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    moment, said = draw.choice(["open", "restored", "begun", "saved"]), [""]
    while not said[-1].startswith(moment) and child.poll() is None:
        said.append(child.stdout.readline())
    time.sleep(draw.uniform(0, 0.4))
    child.kill()
    rest = child.communicate()[0]
    if child.returncode != -signal.SIGKILL:
        raise RuntimeError("the training process ended by itself")
    return "".join([*said, rest]).splitlines()


def _last(said: list[str], word: str) -> int | None:
    return max((int(line.split()[1]) for line in said if line.startswith(word + " ")), default=None)


def _after_kill(directory: Path, abstract: State, saved: int | None, begun: int | None) -> Counter:
    problems = Counter(
        {"unreadable": 0, "wrong content": 0, "reported as saved and lost": 0, "lost beyond one interval": 0}
    )
    try:
        found = restore(directory, abstract, tell=lambda line: problems.update(["unreadable"]))
    except GenjaxError:
        problems["unreadable"] += 1
        return problems
    step = int(found[1].step) if found else 0
    problems["wrong content"] += found is not None and not same(found[0], truth(step))
    problems["reported as saved and lost"] += step < (saved or 0)
    problems["lost beyond one interval"] += step < (begun or 0) - INTERVAL
    return problems


def flip(path: Path, draw: random.Random, other: Path) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def cut(path: Path, draw: random.Random, other: Path) -> None:
    """The end is missing."""
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data) or 1)])


def overwrite(path: Path, draw: random.Random, other: Path) -> None:
    """A block of zeros or noise somewhere."""
    data = bytearray(path.read_bytes())
    begin, size = draw.randrange(len(data) or 1), draw.choice([1, 16, 512, 4096])
    block = bytes(size) if draw.random() < 0.5 else draw.randbytes(size)
    data[begin : begin + size] = block[: len(data) - begin]
    path.write_bytes(data)


def lengthen(path: Path, draw: random.Random, other: Path) -> None:
    """Something more at the end."""
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randint(1, 64)))


def mix_up(path: Path, draw: random.Random, other: Path) -> None:
    """The file of another checkpoint."""
    path.write_bytes(other.read_bytes() if other.exists() else b"")


def delete(path: Path, draw: random.Random, other: Path) -> None:
    """The file is gone."""
    path.unlink()


DAMAGES: tuple[Callable[[Path, random.Random, Path], None], ...] = (flip, cut, overwrite, lengthen, mix_up, delete)


OUTCOMES = (
    "noticed with one line each, the checkpoint before restored",
    "refused, as all are damaged",
    "harmless, all bits are right",
    "SILENTLY WRONG",
    "FELL BACK SILENTLY",
    "CRASHED",
)


def damage_trials(count: int, seed: int, directory: Path) -> Counter:
    """Damage copies of one run and count how restoring ends."""
    draw, abstract, steps = random.Random(seed), jax.eval_shape(start), (3, 6, 9)
    counts = Counter(
        {f"damages: {kind.__doc__.rstrip('.').lower()}": 0 for kind in DAMAGES} | dict.fromkeys(OUTCOMES, 0)
    )
    whole = make_run(directory / "whole", steps)
    for trial in range(count):
        run = Path(shutil.copytree(whole, directory / "damaged"))
        places = sorted((run / "checkpoints").iterdir(), reverse=True)
        kind = DAMAGES[trial % len(DAMAGES)]
        for place in places if trial % 8 == 7 else places[:1]:  # sometimes all of them
            path = _victim(place, draw)
            kind(path, draw, places[-1] / path.relative_to(place) if place != places[-1] else path)
        counts[f"damages: {kind.__doc__.rstrip('.').lower()}"] += 1
        counts[_outcome(run, abstract, steps[-1])] += 1
        shutil.rmtree(run)
    return counts


def _victim(place: Path, draw: random.Random) -> Path:
    """Any file, or any byte: metadata are many small files, arrays few large ones."""
    files = [path for path in sorted(place.rglob("*")) if path.is_file()]
    return (
        draw.choice(files) if draw.random() < 0.5 else draw.choices(files, [path.stat().st_size for path in files])[0]
    )


def make_run(directory: Path, steps: tuple[int, ...], content: int | None = None) -> Path:
    """A run with a checkpoint of each of these steps; for a planted bug: with the content of another one."""
    store = open_store(directory, RUN, keep=len(steps))
    for step in steps:
        store.save(jax.tree.map(jnp.asarray, truth(content or step)), stage="train", stage_index=0, step=step)
    store.close()
    return directory


def _outcome(run: Path, abstract: State, last: int) -> str:
    told: list[str] = []
    try:
        found = restore(run, abstract, tell=told.append)
    except GenjaxError as error:
        return OUTCOMES[1] if isinstance(error, Damaged) else OUTCOMES[5]
    except Exception:  # a traceback for the user
        return OUTCOMES[5]
    if found is None or not same(found[0], truth(found[1].step)):
        return OUTCOMES[3]
    if found[1].step == last:
        return OUTCOMES[2]
    return OUTCOMES[0] if told else OUTCOMES[4]


def cost(directory: Path, parameters: int = 1_000_000, saves: int = 8) -> dict[str, float]:
    """Milliseconds of a save of Adam's state (12 bytes a parameter): of Orbax alone, and as it is done here."""
    import orbax.checkpoint.experimental.v1 as ocp

    side = int(parameters**0.5)
    draw = lambda seed: {"a": jax.random.normal(jax.random.key(seed), (side, side)), "b": jnp.zeros((side,))}
    state = State(jnp.int32(1), draw(0), (draw(1), draw(2)))
    flat = dict(enumerate(jax.tree.leaves(state)))
    store = open_store(directory / "sealed", RUN, keep=1)
    plain, sealed, blocked = [], [], []
    for step in range(saves):
        begin = time.process_time()
        ocp.save(directory / "plain" / str(step), {str(name): leaf for name, leaf in flat.items()})
        middle, clock = time.process_time(), time.perf_counter()
        store.save(state, stage="train", stage_index=0, step=step)
        blocked.append(time.perf_counter() - clock)
        store.wait()
        plain, sealed = [*plain, middle - begin], [*sealed, time.process_time() - middle]
    store.close()
    found = {"processor time, Orbax alone": plain, "processor time, sealed": sealed, "the loop waits": blocked}
    first = {"first sealed save, processor time": 1e3 * sealed[0]}
    return {name: 1e3 * sorted(times[1:])[len(times) // 2] for name, times in found.items()} | first


def main() -> None:
    """Run all trials and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damages", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train_forever(options.train)
    with tempfile.TemporaryDirectory() as place:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{place}/cache")
        for trial in (
            lambda: kill_trials(options.kills, options.seed, Path(place, "killed")),
            lambda: damage_trials(options.damages, options.seed, Path(place, "damages")),
            lambda: {f"{name} [ms]": round(value, 1) for name, value in cost(Path(place, "cost")).items()},
        ):
            begin = time.perf_counter()
            for name, number in trial().items():
                print(f"{number:8}  {name}")
            print(f"          ({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

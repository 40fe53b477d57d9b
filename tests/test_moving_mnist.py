"""Moving digits: reflections, speed and edges against a simulation by steps; which digits a clip is made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

import genjax.data.moving as file
from genjax.data import Split, batches, make_dataset, moving_mnist, scaled
from genjax.errors import BadInput

KEY, RNG = jax.random.key(0), np.random.default_rng(0)


def simulated(start, velocity, room, frames):
    """By steps: what has passed an edge comes back as far, and turns round."""
    place, velocity, seen = start.copy(), velocity.copy(), []
    for _ in range(frames):
        seen.append(place.copy())
        place = place + velocity
        for edge, outside in ((0.0, place < 0), (room, place > room)):
            place = np.where(outside, 2 * edge - place, place)
            velocity = np.where(outside, -velocity, velocity)
    return np.stack(seen, axis=-2)


def check_paths(paths):
    room, frames = 18.0, 60
    start, angle = room * RNG.random((200, 2)), 2 * np.pi * RNG.random(200)
    velocity = 0.1 * room * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    wanted = simulated(start, velocity, room, frames)
    np.testing.assert_allclose(paths(start, angle, room, frames), wanted, atol=1e-9)
    single = paths(jnp.asarray(start, jnp.float32), jnp.asarray(angle, jnp.float32), room, frames)
    np.testing.assert_allclose(single, wanted, atol=2e-4)
    turned = np.any(np.diff(np.sign(np.diff(wanted, axis=1)), axis=1) != 0, axis=(1, 2))
    assert turned.mean() > 0.9  # the walls are met


def test_paths(monkeypatch):
    check_paths(file.paths)
    rejects(check_paths, lambda p, a, room, t: file.paths(p, a, room + 1, t))
    rejects(check_paths, lambda p, a, room, t: file.paths(p, a + 0.01, room, t))
    rejects(check_paths, lambda p, a, room, t: file.paths(p[..., ::-1], a, room, t))
    for wrong in (lambda u, room: np.clip(u, 0, room), lambda u, room: u % room, lambda u, room: abs(u) % (2 * room)):
        monkeypatch.setattr(file, "fold", wrong)
        rejects(check_paths, file.paths)


def check_laid(laid):
    """Every digit stands whole at its corner, pixel by pixel; the brighter one over the other."""
    digits = RNG.integers(1, 256, (3, 2, 5, 5))
    corners = RNG.integers(0, 8, (3, 2, 4, 2))
    wanted = np.zeros((3, 4, 12, 12))
    for b, n, t in np.ndindex(3, 2, 4):
        r, c = corners[b, n, t]
        part = wanted[b, t, r : r + 5, c : c + 5]
        np.maximum(part, digits[b, n], out=part)
    np.testing.assert_array_equal(laid(digits, corners + RNG.uniform(-0.4, 0.4, corners.shape), 12)[..., 0], wanted)


def test_laid():
    check_laid(file.laid)
    rejects(check_laid, lambda d, c, side: file.laid(d, c[..., ::-1], side))
    rejects(check_laid, lambda d, c, side: file.laid(d, np.floor(c), side))
    rejects(check_laid, lambda d, c, side: file.laid(d[:, :1], c[:, :1], side) + file.laid(d[:, 1:], c[:, 1:], side))


@pytest.fixture
def scans(monkeypatch):
    """White squares whose level is their split's: 100 to train, 150 to validate, 200 to test, and up to 9 more."""
    splits = {}
    for name, level in (("train", 100), ("validation", 150), ("test", 200)):
        levels = (level + np.arange(40) % 10).astype(np.uint8)
        image = np.broadcast_to(levels[:, None, None, None], (40, 28, 28, 1)).copy()
        splits[name] = Split({"image": image}, scaled(256))
    monkeypatch.setattr(file, "mnist", lambda data_dir=None: make_dataset("squares", splits))


def clips_of(data, name):
    """Training clips of one batch, or all that are stored: grey levels, [N, T, S, S]."""
    if name != "train":
        return np.asarray(getattr(data, name).arrays["clip"])[..., 0]
    source = batches(data.train, 20)
    made = jax.jit(source.batch)(source.resident, KEY, 3)["clip"]
    return np.rint(255 * np.asarray(made))[..., 0].astype(int)


def check_clip_law(clips, levels, side, digit):
    """One square a clip: of its split's levels, always whole, going on at the one speed but for rounding and walls."""
    assert set(np.unique(clips)) <= {0, *range(levels, levels + 10)}
    np.testing.assert_array_equal((clips > 0).sum(axis=(2, 3)), digit**2)
    room = side - digit
    corner = np.stack([np.argmax(clips.max(axis=axis) > 0, axis=2) for axis in (3, 2)], axis=-1)
    steps = np.diff(corner, axis=1)
    inside = np.all((corner[:, :-1] > 0.1 * room) & (corner[:, :-1] < 0.9 * room), axis=-1)
    length = np.linalg.norm(steps, axis=-1)
    assert np.abs(length[inside] - 0.1 * room).max() <= 2**0.5
    assert abs(np.sqrt((length[inside] ** 2).mean() - 1 / 6) - 0.1 * room) < 0.1  # each rounding: variance 1/6 a step
    assert corner.min() == 0 and corner.max() == room


@pytest.mark.parametrize(("side", "digit"), [(32, 14), (64, 28)])
def test_clips_follow_the_law(scans, monkeypatch, side, digit):
    monkeypatch.setattr(file, "HELD_OUT", 300)
    data = moving_mnist(side, digits=1)
    for name, levels in (("validation", 150), ("test", 200)):
        check_clip_law(clips_of(data, name), levels, side, digit)
    train = clips_of(data, "train")
    assert set(np.unique(train)) <= {0, *range(100, 110)}
    np.testing.assert_array_equal((train > 0).sum(axis=(2, 3)), digit**2)
    test = clips_of(data, "test")
    rejects(check_clip_law, test, 150, side, digit)  # digits of another split
    rejects(check_clip_law, test[:, ::2], 200, side, digit)  # twice the speed
    rejects(check_clip_law, np.roll(test, digit, axis=2), 200, side, digit)  # cut at the edge, the rest above
    rejects(check_clip_law, test[:, :1].repeat(16, axis=1), 200, side, digit)  # still


def test_training_clips_are_pure_and_new(scans, monkeypatch):
    """The same (key, step) gives the same clips; another step other motion; the second digit is the next image's."""
    monkeypatch.setattr(file, "HELD_OUT", 2)
    source = batches(moving_mnist(digits=2).train, 40)
    make = jax.jit(source.batch)
    first, again, later = (np.asarray(make(source.resident, KEY, step)["clip"]) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (40, 16, 32, 32, 1) and np.mean(np.any(first != later, axis=(1, 2, 3, 4))) > 0.9
    image = np.arange(1, 4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    prepare = functools.partial(file._moving, side=40, digits=2, frames=8)
    made = np.rint(255 * np.asarray(prepare({"image": image}, KEY)["clip"]))
    assert [set(np.unique(clip)) - {0} for clip in made] == [{1, 2}, {2, 3}, {1, 3}]


def test_held_out_clips_stay(scans, monkeypatch):
    monkeypatch.setattr(file, "HELD_OUT", 4)
    assert moving_mnist().fingerprint == moving_mnist().fingerprint != moving_mnist(digits=1).fingerprint


@pytest.mark.parametrize("wrong", [{"side": 28}, {"digits": 0}, {"frames": 0}])
def test_bad_input(scans, wrong):
    with pytest.raises(BadInput, match=" = ".join(map(str, *wrong.items()))):
        moving_mnist(**wrong)
    if "digits" in wrong:
        with pytest.raises(BadInput, match="batch_size = 1"):
            file._moving({"image": np.zeros((1, 2, 2, 1), np.uint8)}, KEY, side=8, digits=2, frames=3)

"""Networks of clips: what frames share, what the past decides, who sees order; motion of clips that are known."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from planted import rejects

from genjax.errors import BadInput
from genjax.metrics.motion import motion, motion_distances
from genjax.models.gan import ConvCritic
from genjax.models.video import ClipCritic, ClipGenerator
from genjax.report.gif import gif_file

KEY = jax.random.key(0)
Z, NOISE = jax.random.normal(KEY, (3, 5)), jax.random.normal(jax.random.key(1), (3, 6, 4))
GENERATOR = ClipGenerator((8, 8, 1), 7, (6, 4))
PARAMS = GENERATOR.init(KEY, Z, NOISE)


def changed(draw, z, noise):
    """How much each frame of each clip moves, [B, T], when the latents become these."""
    return np.abs(draw(z, noise) - draw(Z, NOISE)).max(axis=(2, 3, 4))


def check_dependence(draw):
    """Content moves all frames of its clip; noise of frame t those from t on; clips do not meet."""
    content = changed(draw, Z.at[1].add(1.0), NOISE)
    assert content[1].min() > 1e-3 and content[[0, 2]].max() < 1e-6
    noise = changed(draw, Z, NOISE.at[1, 3].add(3.0))
    assert noise[1, 3:].min() > 1e-4 and noise[1, :3].max() < 1e-6 and noise[[0, 2]].max() < 1e-6


def test_generator_dependence():
    draw = lambda z, noise: GENERATOR.apply(PARAMS, z, noise)
    check_dependence(draw)
    rejects(check_dependence, lambda z, noise: draw(z, noise[:, ::-1]))  # the future decides
    rejects(check_dependence, lambda z, noise: draw(z, noise - noise.mean(axis=1, keepdims=True)))  # all times do
    rejects(check_dependence, lambda z, noise: draw(z - z.mean(axis=0, keepdims=True), noise))  # clips meet
    rejects(check_dependence, lambda z, noise: jnp.concatenate([draw(Z, NOISE)[:, :1], draw(z, noise)[:, 1:]], 1))


def test_frames_alone_are_those_of_the_clip():
    """No frame's picture depends on the others but by its latents; equal latents give equal frames."""
    clips = GENERATOR.apply(PARAMS, Z, NOISE)
    latents = GENERATOR.apply(PARAMS, Z, NOISE, method="latents")
    np.testing.assert_array_equal(latents[..., :5], np.broadcast_to(Z[:, None], (3, 6, 5)))
    for t in range(6):
        np.testing.assert_allclose(GENERATOR.apply(PARAMS, latents[:, t], method="images"), clips[:, t], atol=1e-6)
    assert np.abs(np.diff(clips, axis=1)).max(axis=(2, 3, 4)).min() > 1e-3


def check_order(score):
    """Frames in another order are another clip, for most clips by more than rounding."""
    x = jax.random.normal(KEY, (8, 8, 8, 8, 1))
    order = jnp.array([3, 1, 0, 2, 6, 7, 4, 5])
    assert np.median(np.abs(score(x[:, order]) - score(x))) > 1e-3
    assert np.median(np.abs(score(x[:, ::-1]) - score(x))) > 1e-3


def test_only_the_critic_of_clips_sees_order():
    x = jax.random.normal(KEY, (8, 8, 8, 8, 1))
    critic = ClipCritic((4, 8), 16)
    params = critic.init(KEY, x)
    check_order(lambda x: critic.apply(params, x))
    frames = ConvCritic((4, 8), 16)
    of_frames = frames.init(KEY, x[:, 0])
    alone = lambda x: frames.apply(of_frames, x.reshape(-1, 8, 8, 1)).reshape(8, 8).mean(axis=1)
    rejects(check_order, alone)
    rejects(check_order, lambda x: critic.apply(params, jnp.sort(x, axis=1)))
    one = critic.apply(params, x.at[2].add(1.0)) - critic.apply(params, x)  # rows alone, as penalties need
    assert abs(one[2]) > 1e-4 and np.abs(np.delete(one, 2)).max() < 1e-6


def test_every_frame_counts_for_the_critic():
    x = jax.random.normal(KEY, (2, 16, 8, 8, 1))
    critic = ClipCritic((4, 8), 16)
    params = critic.init(KEY, x)
    slope = jax.grad(lambda x: jnp.sum(critic.apply(params, x)))(x)
    assert np.abs(slope).max(axis=(2, 3, 4)).min() > 1e-4


def walking(velocity, flicker=0.0, frames=8, side=40):
    """A square of four pixels that goes straight on by whole pixels."""
    clips = np.zeros((len(velocity), frames, side, side, 1))
    for n, (dy, dx) in enumerate(velocity):
        for t in range(frames):
            clips[n, t, 3 + dy * t : 5 + dy * t, 3 + dx * t : 5 + dx * t] = 0.6 + flicker * (-1) ** t
    return clips


def check_motion(measure):
    found = measure(walking([(3, 4), (0, 2)], 0.2))
    np.testing.assert_allclose(found.speed, [[5.0] * 7, [2.0] * 7])
    np.testing.assert_allclose(found.turn, 0, atol=1e-9)
    np.testing.assert_allclose(found.flicker, 1 / 3, atol=1e-6)
    hazy = measure(np.maximum(walking([(3, 4)]), 0.1))
    np.testing.assert_allclose(hazy.speed, 5.0)
    bounce = walking([(1, 1)])[:, [0, 1, 2, 3, 2, 1, 0]]
    np.testing.assert_allclose(measure(bounce).turn, np.array([[0, 0, 8**0.5, 0, 0]]), atol=1e-9)


def test_motion():
    check_motion(motion)
    rejects(check_motion, lambda clips: motion(clips[:, ::2]))
    rejects(check_motion, lambda clips: motion(clips.swapaxes(2, 3)[:, :, ::2]))
    rejects(check_motion, lambda clips: motion(np.maximum(clips, 0.26)))
    assert motion_distances(walking([(1, 1)] * 4), walking([(2, 2)] * 4)) == (1.0, 0.0, 0.0)
    assert motion_distances(walking([(1, 1)] * 4), walking([(1, 1), (2, 2)] * 2)).speed == 0.5
    assert motion(np.zeros((1, 3, 4, 4, 1))).speed.tolist() == [[0.0, 0.0]]


def test_a_film_goes_forwards():
    from PIL import ImageSequence

    frames = np.linspace(0, 1, 5)[:, None, None, None] * np.ones((1, 4, 6, 1))
    for back, wanted in ((False, [0, 64, 128, 191, 255]), (True, [0, 64, 128, 191, 255, 191, 128, 64])):
        with Image.open(io.BytesIO(gif_file(frames, back=back))) as picture:
            levels = [np.asarray(frame.convert("L"))[0, 0] for frame in ImageSequence.Iterator(picture)]
        np.testing.assert_allclose(levels, wanted, atol=2)


@pytest.mark.parametrize(
    ("told", "call"),
    [
        (r"noise \[2, 6, 4\]", lambda: GENERATOR.apply(PARAMS, Z, NOISE[:2])),
        (r"content \[3, 6, 5\]", lambda: GENERATOR.apply(PARAMS, jnp.ones((3, 6, 5)), NOISE)),
        (r"clips \[2, 8, 8, 1\]", lambda: ClipCritic().init(KEY, jnp.ones((2, 8, 8, 1)))),
        (r"clips \[1, 2, 3, 3, 1\]", lambda: motion(np.zeros((1, 2, 3, 3, 1)))),
    ],
)
def test_bad_input(told, call):
    with pytest.raises(BadInput, match=told):
        call()

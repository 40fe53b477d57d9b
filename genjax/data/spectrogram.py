r"""Sounds as pictures of 256 grey levels, and back: the logarithm of a short-time Fourier transform, on the host.

A sound x of 64 T samples, with 96 zeros on either side, is cut into T frames of 256 samples, 64 apart, and

    S_{k,t} = sum_n w_n x_{64 t + n} exp(-2 pi i k n / 256),       w Hann's window,      k = 0 .. 128
    level   = round(255 max(0, 1 + 20 log10(|S| / S_0) / 80)),     S_0 = sum_n w_n / 2, that of a sine of amplitude 1

so that level 255 is a full sine, and 0 is 80 decibels below it or less.  The last frequency, k = 128, is left out.  A
picture is [128, T], the highest frequency on top.

The phase is lost, and found again by turns (Griffin and Lim): the sound whose transform is nearest to the magnitudes
with the phase of the last sound,

    x  <-  sum_t w s_t / sum_t w^2,     s_t the inverse transform of |S| S(x) / |S(x)|

The distance sum (|S(x)| - |S|)^2 falls, or stays, at every turn; it does not reach zero, since few pictures are those
of a sound.

Source: Griffin and Lim, Signal estimation from modified short-time Fourier transform, 1984,
https://doi.org/10.1109/TASSP.1984.1164317, eq. 6 and section III.
"""

import numpy as np

from genjax.errors import BadInput
from genjax.types import Array

WINDOW, HOP = 256, 64  # samples; at 8 kHz 32 ms and 8 ms
BANDS = WINDOW // 2
DECIBELS = 80.0  # between level 0 and level 255
EDGE = (WINDOW - HOP) // 2  # zeros before and after a sound: T frames then reach over all of it
HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
FULL = HANN.sum() / 2
TURNS = 60


def spectrogram(sounds: Array) -> np.ndarray:
    """The pictures of sounds.

    Args:
      sounds: [N, 64 T] in [-1, 1].

    Returns:
      uint8 [N, 128, T, 1].

    Raises:
      BadInput: another shape, or a number that is not finite.

    >>> sine = np.sin(2 * np.pi * 1000 / 8000 * np.arange(640))[None]
    >>> picture = spectrogram(sine)
    >>> picture.shape, int(picture[0, :, 5].argmax()), int(picture.max())  # 1000 Hz is k = 32, row 127 - 32
    ((1, 128, 10, 1), 95, 255)
    """
    sounds = np.asarray(sounds)
    if sounds.ndim != 2 or not sounds.size or sounds.shape[1] % HOP or not np.isfinite(sounds).all():
        raise BadInput(f"sounds of shape {list(sounds.shape)}", f"allowed: [N, {HOP} T], finite numbers")
    pictures = np.empty((len(sounds), BANDS, sounds.shape[1] // HOP, 1), np.uint8)
    for row, sound in enumerate(sounds):  # one at a time: all frames of a data set would be 30 times its size
        magnitude = np.abs(transform(np.pad(np.float64(sound), EDGE)))
        decibels = 20 * np.log10(np.maximum(magnitude[:, :BANDS], 1e-9) / FULL)
        levels = np.rint(255 * np.clip(1 + decibels / DECIBELS, 0, 1))
        pictures[row, :, :, 0] = levels.T[::-1]
    return pictures


def sounds_of(pictures: Array, turns: int = TURNS) -> np.ndarray:
    """Sounds whose pictures are near those given: an estimate, since the phase is not in them.

    Args:
      pictures: [N, 128, T, 1] floats level / 255 in [0, 1], or uint8 levels.
      turns: of Griffin and Lim's search, at least 1; the phases start at random, by a fixed seed.

    Returns:
      float32 [N, 64 T], the loudest sample of each scaled to 1 where it is above.

    Raises:
      BadInput: another shape, or a number that is not finite.

    >>> sine = np.sin(2 * np.pi * 1000 / 8000 * np.arange(640))[None]
    >>> again = sounds_of(spectrogram(sine))
    >>> int(np.abs(np.fft.rfft(again[0])).argmax())  # 1000 Hz is 80 periods of 640 samples
    80
    """
    pictures = np.asarray(pictures)
    shares = pictures / 255 if pictures.dtype == np.uint8 else pictures.astype(np.float64)
    if shares.ndim != 4 or shares.shape[1] != BANDS or shares.shape[3] != 1 or not shares.size:
        raise BadInput(f"pictures of shape {list(pictures.shape)}", f"allowed: [N, {BANDS}, T, 1]")
    if not np.isfinite(shares).all() or turns < 1:
        raise BadInput(f"{np.sum(~np.isfinite(shares))} pixels are not finite, turns = {turns}", "finite, at least 1")
    sounds = np.stack([_sound(magnitudes(share[::-1, :, 0].T), turns) for share in shares])
    return (sounds / np.maximum(np.abs(sounds).max(axis=1, keepdims=True), 1.0)).astype(np.float32)


def magnitudes(shares: np.ndarray) -> np.ndarray:
    """|S| [T, 129] of shares level / 255 [T, 128], those below half a level silent, and the last frequency too.

    >>> magnitudes(np.ones((1, 128)))[0, [0, -1]].tolist()
    [64.0, 0.0]
    """
    found = FULL * 10 ** ((np.clip(shares, 0, 1) - 1) * DECIBELS / 20)
    return np.pad(np.where(shares < 0.5 / 255, 0.0, found), ((0, 0), (0, 1)))


def transform(padded: np.ndarray) -> np.ndarray:
    """S [T, 129], complex, of a sound [64 T + 192], its edges included.

    >>> float(transform(np.ones(WINDOW))[0, 0].real)
    128.0
    """
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.fft.rfft(frames * HANN, axis=1)


def inverse(spectrum: np.ndarray) -> np.ndarray:
    """The sound [64 T + 192] whose transform is nearest to S [T, 129]; of S itself, where that is of a sound.

    >>> sound = np.random.default_rng(0).normal(size=WINDOW + 9 * HOP)
    >>> bool(np.allclose(inverse(transform(sound))[1:], sound[1:]))  # Hann's window begins with 0
    True
    """
    frames = np.fft.irfft(spectrum, WINDOW, axis=1) * HANN
    total, weight = (np.zeros(WINDOW + (len(spectrum) - 1) * HOP) for _ in range(2))
    for number, frame in enumerate(frames):
        here = slice(number * HOP, number * HOP + WINDOW)
        total[here] += frame
        weight[here] += HANN**2
    return total / np.where(weight > 1e-12, weight, 1.0)


def turned(padded: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """One turn of Griffin and Lim's search: the sound nearest to the magnitudes with the phase of the last sound.

    >>> sound = np.random.default_rng(0).normal(size=WINDOW + 9 * HOP)
    >>> bool(np.allclose(turned(sound, np.abs(transform(sound)))[1:], sound[1:]))  # a sound of these magnitudes stays
    True
    """
    spectrum = transform(padded)
    size = np.abs(spectrum)
    phase = np.where(size > 1e-12, spectrum / np.where(size > 1e-12, size, 1.0), 1.0)
    return inverse(magnitude * phase)


def _sound(magnitude: np.ndarray, turns: int) -> np.ndarray:
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, magnitude.shape)
    padded = inverse(magnitude * np.exp(1j * angles))
    for _ in range(turns):
        padded = turned(padded, magnitude)
    return padded[EDGE : len(padded) - EDGE]

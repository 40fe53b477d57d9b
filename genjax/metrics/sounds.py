r"""How drawn sounds stand to recorded ones: loudness, spectrum, and whether they are what they are said to be.

A sound is cut into frames of 256 samples, 128 apart, P_{k,t} the power of frame t at frequency k under Hann's window,
and into a grid of equal bands of frequency and equal stretches of time:

    level_{b,s} = 10 log10(mean of P over band b and stretch s + floor)                        [decibels]

The levels are features, and three things are told from them and from the sounds:

    loudness    the Kolmogorov-Smirnov distance of the laws of the root mean square of a sound, in [0, 1]
    spectrum    the root mean square over bands of how far the mean levels of two sets are apart, in decibels
    labels      by least squares with a penalty: g minimises sum_n |g(f_n) + mean of e - e_{label n}|^2 + ridge |g|^2,
                features at unit variance, |g| the norm of the kernel exp(-|f - f'|^2 / (2 width^2 F)), so that
                g(f) = sum_n k(f, f_n) w_n, (K + ridge) w = e - its mean; a sound is called by the largest of g(f)

None of them is what a person hears; the last says whether a digit is told from nine others, by a judge that is named
with the share of recordings that it gets wrong.

Sources: Massey, The Kolmogorov-Smirnov Test for Goodness of Fit, 1951, https://doi.org/10.2307/2280095; Hastie,
Tibshirani and Friedman, The Elements of Statistical Learning, 2009, sections 4.2 (least squares of indicators) and 5.8
(kernels); Ravuri and Vinyals, Classification Accuracy Score, 2019, https://arxiv.org/abs/1905.10887, on classifiers as
judges of samples.
"""

from collections.abc import Callable

import numpy as np

from genjax.errors import BadInput
from genjax.metrics.features import checked
from genjax.types import Array

FRAME, HOP = 256, 128
HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
FLOOR = 1e-6 * (HANN**2).sum()  # the power of white noise of deviation 1e-3


def band_levels(sounds: Array, bands: int = 16, stretches: int = 6) -> np.ndarray:
    """Levels in decibels over bands of frequency and stretches of time.

    Args:
      sounds: [N, T] in [-1, 1], T at least 256.
      bands: of equal width from 0 to half of the rate, at most 128.
      stretches: of time, at most as many as there are frames, 1 + (T - 256) // 128.

    Returns:
      [N, bands, stretches] float64, the lowest band first.

    Raises:
      BadInput: other shapes, numbers that are not finite, more parts than there are frequencies or frames.

    Source: see the head of this file; Hastie, Tibshirani and Friedman, 2009, section 5.2.3, for sounds of speech as
    log-spectra.

    >>> silence = band_levels(np.zeros((1, 512)), 2, 1)
    >>> silence.shape, bool(np.allclose(silence, 10 * np.log10(FLOOR)))
    ((1, 2, 1), True)
    """
    sounds = np.asarray(sounds, np.float64)
    if sounds.ndim != 2 or not len(sounds) or sounds.shape[1] < FRAME or not np.isfinite(sounds).all():
        raise BadInput(f"sounds of shape {list(sounds.shape)}", f"allowed: finite [N, T], T at least {FRAME}")
    frames = 1 + (sounds.shape[1] - FRAME) // HOP
    if not (1 <= bands <= FRAME // 2 and 1 <= stretches <= frames):
        raise BadInput(
            f"bands = {bands}, stretches = {stretches}", f"allowed: 1 to {FRAME // 2}, and 1 to {frames} frames"
        )
    found = np.empty((len(sounds), bands, stretches))
    for row, sound in enumerate(sounds):  # one at a time: all frames of a set would be many times its size
        cut = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP]
        power = np.abs(np.fft.rfft(cut * HANN, axis=1)[:, : FRAME // 2]) ** 2
        parts = [part.mean(axis=0) for part in np.array_split(power, stretches)]
        pooled = [[band.mean() for band in np.array_split(part, bands)] for part in parts]
        found[row] = 10 * np.log10(np.array(pooled).T + FLOOR)
    return found


def loudness_distance(real: Array, drawn: Array) -> float:
    """The Kolmogorov-Smirnov distance of the laws of loudness, the root mean square of a sound.

    Args:
      real, drawn: sounds [N, T] and [M, T].

    Returns:
      In [0, 1].  Kind: an estimate, biased upwards: of two sets of one law it is not 0.

    Raises:
      BadInput: other shapes, or numbers that are not finite.

    Source: Massey, 1951.

    >>> x = np.random.default_rng(0).normal(size=(20, 50))
    >>> loudness_distance(x, x), loudness_distance(x, 0.01 * x)
    (0.0, 1.0)
    """
    from scipy.stats import ks_2samp

    loud = [np.sqrt(np.mean(part**2, axis=1)) for part in checked(real, drawn)]
    return float(ks_2samp(*loud).statistic)


def spectrum_distance(real: Array, drawn: Array) -> float:
    """How far the mean levels of two sets are apart: the root mean square over bands and stretches.

    Args:
      real, drawn: levels [N, bands, stretches] and [M, bands, stretches], as of `band_levels`.

    Returns:
      Decibels, at least 0.  Kind: an estimate, biased upwards.

    Raises:
      BadInput: levels that cannot be compared.

    Source: Gray and Markel, Distance Measures for Speech Processing, 1976,
    https://doi.org/10.1109/TASSP.1976.1162849, section II (the rms log spectral distance), of means.

    >>> spectrum_distance(np.zeros((3, 2, 1)), np.full((5, 2, 1), 6.0))
    6.0
    """
    x, y = checked(_rows(real), _rows(drawn))
    return float(np.sqrt(np.mean((x.mean(axis=0) - y.mean(axis=0)) ** 2)))


def judge_of_labels(
    features: Array, labels: Array, classes: int, width: float = 1.0, ridge: float = 0.01
) -> Callable[[np.ndarray], np.ndarray]:
    """A judge of labels by least squares with a Gaussian kernel, fitted in closed form.

    Args:
      features: [N, F], or more axes, which are flattened; N up to some thousands, since N x N numbers are held.
      labels: [N] integers in [0, classes).
      classes: K, at least 2.
      width: of the kernel, in deviations of a feature, > 0.
      ridge: penalty, > 0.

    Returns:
      features [M, F] -> the labels that they are given, [M].

    Raises:
      BadInput: labels out of range, or not one a row; fewer than two classes; a width or ridge that is not positive.

    Source: Hastie, Tibshirani and Friedman, 2009, sections 4.2 and 5.8.

    >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> judge_of_labels(x, np.array([0, 0, 1, 1]), 2)(np.array([[-1.5], [0.5]])).tolist()
    [0, 1]
    """
    (x,), labels = checked(_rows(features)), np.asarray(labels)
    if not (ridge > 0 and width > 0) or classes < 2:
        raise BadInput(
            f"width = {width}, ridge = {ridge}, classes = {classes}", "allowed: numbers above 0; at least 2 classes"
        )
    whole = np.issubdtype(labels.dtype, np.integer)
    if labels.shape != (len(x),) or not whole or labels.min() < 0 or labels.max() >= classes:
        raise BadInput(
            f"labels of shape {list(labels.shape)} and {labels.dtype} for {len(x)} rows",
            f"allowed: one a row, whole numbers in 0 .. {classes - 1}",
        )
    middle, scale = x.mean(axis=0), x.std(axis=0)
    scaled = lambda rows: (rows - middle) / np.where(scale > 0, scale, 1.0)
    known, target = scaled(x), np.eye(classes)[labels]
    share = target.mean(axis=0)
    weights = np.linalg.solve(_kernel(known, known, width) + ridge * np.eye(len(x)), target - share)

    def judge(rows: np.ndarray) -> np.ndarray:
        (new,) = checked(_rows(rows))
        return (_kernel(scaled(new), known, width) @ weights + share).argmax(axis=1)

    return judge


def _rows(features: Array) -> np.ndarray:
    return np.reshape(features, (len(features), -1))


def _kernel(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
    return np.exp(-np.maximum(squares, 0) / (2 * width**2 * x.shape[1]))

"""Measures of sounds: levels of known tones, known distances, a judge against the best one there is; planted bugs."""

import numpy as np
import pytest
from planted import rejects
from scipy.stats import norm

from genjax.errors import BadInput
from genjax.metrics.sounds import FLOOR, HANN, band_levels, judge_of_labels, loudness_distance, spectrum_distance

RNG = np.random.default_rng(0)
T = 256 + 11 * 128


def tone(k, loudness=1.0):
    """A sine of exactly frequency k of a frame."""
    return loudness * np.sin(2 * np.pi * k * np.arange(T) / 256 + 0.3)


def check_levels(levels):
    """Of a sine at frequency k Hann's window leaves three lines, (sum w / 2)^2 and twice a quarter of that, in band k.

    So the mean of a band of eight lines is (64^2 + 2 * 32^2) / 8; silence is the floor; what is four times as loud is
    12.04 decibels above; what sounds in the first half of the time alone is in the first half of the stretches.
    """
    quiet = 10 * np.log10(FLOOR)
    for k, band in ((12, 1), (92, 11), (124, 15)):
        found = levels(np.stack([tone(k), tone(k, 0.25)]))
        assert found.shape == (2, 16, 6)
        np.testing.assert_allclose(found[0, band], 10 * np.log10((64**2 + 2 * 32**2) / 8 + FLOOR), atol=1e-6)
        np.testing.assert_allclose(found[0, band] - found[1, band], 20 * np.log10(4), atol=1e-4)
        np.testing.assert_allclose(np.delete(found[0], band, axis=0), quiet, atol=0.01)
    half = levels((tone(12) * (np.arange(T) < T // 2))[None])[0, 1]
    assert (half[:2] > 25).all() and np.allclose(half[4:], quiet)
    noise = levels(1e-3 * RNG.normal(size=(200, T)))  # white noise of deviation 1e-3 is as strong as the floor
    assert abs(noise.mean() - quiet - 10 * np.log10(2)) < 0.2


def test_levels():
    check_levels(band_levels)
    rejects(check_levels, lambda x: band_levels(x)[:, ::-1])
    rejects(check_levels, lambda x: band_levels(x)[:, :, ::-1])
    rejects(check_levels, lambda x: band_levels(x) / 2)
    rejects(check_levels, lambda x: band_levels(x + 1e-2))
    rejects(
        check_levels, lambda x: band_levels(x, 6, 16).swapaxes(1, 2) if x.shape[1] > 4_000 else band_levels(x, 15, 6)
    )
    assert (HANN**2).sum() == pytest.approx(96)


def check_loudness(distance):
    """Of normal samples of deviation 1 and 1.05 root mean squares over n are apart by the law of a mean of squares."""
    n, rows = 800, 4_000
    x, y = RNG.normal(size=(rows, n)), 1.05 * RNG.normal(size=(rows, n))
    # sqrt(mean of squares) is nearly N(s, s^2 / 2n): sup of the difference of the two
    grid = np.linspace(0.8, 1.3, 20_001)
    wanted = np.abs(norm.cdf(grid, 1, 1 / np.sqrt(2 * n)) - norm.cdf(grid, 1.05, 1.05 / np.sqrt(2 * n))).max()
    assert abs(distance(x, y) - wanted) < 3 / np.sqrt(rows)
    assert distance(x, x) == 0 and distance(x, 1e-3 * y) == 1
    assert distance(x, RNG.normal(size=(rows, n))) < 2 / np.sqrt(rows)  # one law


def test_loudness():
    check_loudness(loudness_distance)
    rejects(check_loudness, lambda x, y: loudness_distance(x**2, y**2) / 2)
    rejects(check_loudness, lambda x, y: loudness_distance(x[:, :50], y[:, :50]))
    rejects(check_loudness, lambda x, y: abs(x.std() - y.std()))


def test_spectrum():
    x = RNG.normal(size=(500, 4, 3))
    shift = RNG.normal(size=(4, 3))
    assert spectrum_distance(x, x[::-1] + shift) == pytest.approx(np.sqrt((shift**2).mean()), rel=1e-9)
    assert spectrum_distance(x, x) == 0
    assert spectrum_distance(x, RNG.normal(size=(500, 4, 3))) < 0.15


CENTRES = 1.2 * np.eye(3)


def drawn(rows):
    label = np.arange(rows) % 3
    return CENTRES[label] + 0.6 * RNG.normal(size=(rows, 3)), label


def check_judge(fit):
    """Three normals: the judge is wrong as often as the nearest centre, the best there is, to 3 %; a ring is learnt."""
    (x, label), (y, truth) = drawn(900), drawn(3_000)
    best = (np.square(y[:, None] - CENTRES[None]).sum(axis=2).argmin(axis=1) != truth).mean()
    assert 0.05 < best < 0.25
    found = (fit(x, label, 3)(y) != truth).mean()
    assert best - 0.03 < found < best + 0.03
    z = RNG.normal(size=(800, 2))
    ring = (np.square(z).sum(axis=1) > 1.4).astype(int)  # no line divides these
    assert (fit(z[:500], ring[:500], 2)(z[500:]) == ring[500:]).mean() > 0.95
    units = np.array([1e3, 1e-3, 1.0])  # features of any unit
    np.testing.assert_array_equal(fit(x * units, label, 3)(y * units), fit(x, label, 3)(y))


def test_judge():
    smooth = lambda x, label, classes: judge_of_labels(x, label, classes, ridge=1.0)
    check_judge(smooth)
    rejects(check_judge, lambda x, label, classes: judge_of_labels(x, label, classes, width=100.0, ridge=1.0))
    rejects(check_judge, lambda x, label, classes: smooth(x, np.roll(label, 1), classes))
    rejects(check_judge, lambda x, label, classes: lambda rows: (smooth(x, label, classes)(rows) + 1) % classes)
    rejects(check_judge, lambda x, label, classes: judge_of_labels(x, label, classes, width=0.01))
    shaped = judge_of_labels(RNG.normal(size=(10, 2, 3)), np.arange(10) % 2, 2)
    assert shaped(np.zeros((4, 2, 3))).shape == (4,)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: band_levels(np.zeros((2, 255))), "T at least 256"),
        (lambda: band_levels(np.zeros(300)), r"shape [300]"),
        (lambda: band_levels(np.full((1, 300), np.nan)), "finite"),
        (lambda: band_levels(np.zeros((1, 300)), stretches=2), "1 to 1 frames"),
        (lambda: band_levels(np.zeros((1, 300)), bands=129), "1 to 128"),
        (lambda: loudness_distance(np.zeros((2, 3)), np.zeros((2, 4))), "the same F"),
        (lambda: spectrum_distance(np.zeros((2, 3, 1)), np.zeros((2, 4, 1))), "the same F"),
        (lambda: judge_of_labels(np.zeros((2, 3)), np.array([0, 2]), 2), "0 .. 1"),
        (lambda: judge_of_labels(np.zeros((2, 3)), np.array([0]), 2), "one a row"),
        (lambda: judge_of_labels(np.zeros((2, 3)), np.array([0.0, 1.0]), 2), "float64"),
        (lambda: judge_of_labels(np.zeros((2, 3)), np.array([0, 1]), 2, ridge=0.0), "ridge = 0.0"),
        (lambda: judge_of_labels(np.zeros((2, 3)), np.array([0, 0]), 1), "classes = 1"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3

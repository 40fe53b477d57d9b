"""Sounds: .wav files read and written, spectrograms of known sounds, the search for phases, bad recordings."""

import io
import lzma
import struct
import tarfile
import wave

import numpy as np
import pytest
import scipy.io.wavfile
from planted import rejects

from genjax.data import spectrogram
from genjax.data.audio import Clip, fitted, read_clips, read_wav, sounds
from genjax.data.spectrogram import DECIBELS, EDGE, HANN, HOP, WINDOW, inverse, magnitudes, sounds_of, transform, turned
from genjax.errors import BadInput
from genjax.report.wav import REST, wav_file

RATE = 8_000


def tone(frequency, length=2_560, loudness=1.0):
    return loudness * np.sin(2 * np.pi * frequency / RATE * np.arange(length))


# -- .wav files -------------------------------------------------------------------------------------------------------


def check_round_trip(write):
    """What is written is read again, by this library and by SciPy, sample by sample; two sounds have a rest between."""
    noise = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 500))
    expected = np.rint(32_767 * noise).astype(np.int16)
    np.testing.assert_array_equal(read_wav(write(noise[0]), "a.wav", RATE), expected[0])
    rate, samples = scipy.io.wavfile.read(io.BytesIO(write(noise)))
    quiet = np.zeros(round(REST * RATE), np.int16)
    assert rate == RATE
    np.testing.assert_array_equal(samples, np.concatenate([expected[0], quiet, expected[1]]))
    loud = read_wav(write(np.array([3.0, -3.0, 0.0])), "a.wav", RATE)
    np.testing.assert_array_equal(loud, [32_767, -32_767, 0])


def swapped(content):
    return content[:44] + np.frombuffer(content[44:], "<i2").astype(">i2").tobytes()


def test_wav_round_trip():
    check_round_trip(wav_file)
    rejects(check_round_trip, lambda sounds: wav_file(sounds * 32_768 / 32_767))
    rejects(check_round_trip, lambda sounds: swapped(wav_file(sounds)))
    rejects(check_round_trip, lambda sounds: wav_file(np.asarray(sounds).reshape(-1)))
    rejects(check_round_trip, lambda sounds: wav_file(np.where(np.abs(sounds) > 1, 0.0, sounds)))


# -- spectrograms -----------------------------------------------------------------------------------------------------


def check_levels(draw):
    """A tone of 31.25 k hertz and loudness -d decibels is in row 127 - k, at level 255 (1 - d / 80), to half a level.

    Noise a thousand times softer than level 0 is level 0; a click lights up the frames that hold it and no others.
    """
    for k, down in ((16, 0.0), (32, 20.0), (100, 50.0)):
        picture = draw(tone(k * RATE / WINDOW, loudness=10 ** (-down / 20))[None])[0, :, 5:-5, 0]
        assert np.all(picture.argmax(0) == 127 - k)
        assert np.abs(picture.max(0) - 255 * (1 - down / DECIBELS)).max() <= 0.51
    assert draw(1e-7 * np.random.default_rng(0).normal(size=(1, 640))).max() == 0
    click = np.zeros((1, 2_560))
    click[0, 1_000] = 1.0
    lit = np.flatnonzero(draw(click)[0, :, :, 0].any(axis=0))
    held = [t for t in range(40) if t * HOP - EDGE < 1_000 < t * HOP - EDGE + WINDOW]
    np.testing.assert_array_equal(lit, held)


def test_levels():
    check_levels(spectrogram.spectrogram)
    rejects(check_levels, lambda s: spectrogram.spectrogram(s)[:, ::-1])
    rejects(check_levels, lambda s: 255 - spectrogram.spectrogram(s))
    rejects(check_levels, lambda s: spectrogram.spectrogram(s / 2))
    rejects(check_levels, lambda s: spectrogram.spectrogram(np.roll(s, HOP, axis=1)))
    rejects(check_levels, lambda s: np.minimum(spectrogram.spectrogram(s), 190))


def test_magnitudes_are_those_of_the_levels():
    """Round to levels, and back: within half a level, 0.16 decibels, where there is a sound at all."""
    sound = np.random.default_rng(1).normal(size=640) * 0.1
    exact = np.abs(transform(np.pad(sound, EDGE)))
    found = magnitudes(spectrogram.spectrogram(sound[None])[0, ::-1, :, 0].T / 255)
    decibels = 20 * np.log10(found[:, :128] / exact[:, :128])
    assert np.abs(decibels).max() < DECIBELS / 255 / 2 + 1e-9
    assert np.all(found[:, 128] == 0)


def check_search(turn, back=inverse):
    """The distance of a picture that is no sound's never rises, and falls by half in 30 turns; a sound's own stays.

    Where the phases are known, the sound comes back: 1e-10.
    """
    rng = np.random.default_rng(2)
    sound = rng.normal(size=2 * EDGE + 20 * HOP)
    spectrum = transform(sound)
    np.testing.assert_allclose(back(spectrum)[1:], sound[1:], atol=1e-10)
    np.testing.assert_allclose(turn(sound, np.abs(spectrum))[1:], sound[1:], atol=1e-10)
    wanted = rng.uniform(0.0, 1.0, spectrum.shape) ** 3
    guess, distances = rng.normal(size=len(sound)), []
    for _ in range(30):
        guess = turn(guess, wanted)
        both = np.abs(transform(guess)) - wanted
        weight = np.where(np.isin(np.arange(129), (0, 128)), 1.0, 2.0)  # each frequency between stands for two
        distances.append(float((both**2 * weight).sum()))
    assert np.all(np.diff(distances) <= 1e-9 * distances[0])
    assert distances[-1] < 0.7 * distances[0]


def anew(padded, magnitude):
    phase = np.exp(2j * np.pi * np.random.default_rng(int(abs(padded[7]) * 1e6)).uniform(size=magnitude.shape))
    return inverse(magnitude * phase)


def unweighted(spectrum):
    frames = np.fft.irfft(spectrum, WINDOW, axis=1)
    total = np.zeros(WINDOW + (len(frames) - 1) * HOP)
    for number, frame in enumerate(frames):
        total[number * HOP : number * HOP + WINDOW] += frame * HANN
    return total


def test_search_for_phases():
    check_search(turned)
    rejects(check_search, anew)
    rejects(check_search, lambda padded, magnitude: inverse(magnitude * np.exp(-1j * np.angle(transform(padded)))))
    rejects(check_search, lambda padded, magnitude: padded)
    rejects(check_search, turned, unweighted)


def test_tones_are_heard_again():
    """Two tones one after the other: the strongest frequency of each half, to half a band; the picture to 20 levels."""
    both = np.concatenate([tone(500), tone(1_500, loudness=0.5)])[None]
    picture = spectrogram.spectrogram(both)
    again = sounds_of(picture)
    assert again.shape == both.shape and again.dtype == np.float32 and np.abs(again).max() <= 1.0
    for half, frequency in zip(np.split(again[0], 2), (500, 1_500), strict=True):
        assert np.abs(np.fft.rfft(half)).argmax() * RATE / len(half) == pytest.approx(
            frequency, abs=0.5 * RATE / WINDOW
        )
    shares = sounds_of(np.float32(picture / 255), turns=2)
    np.testing.assert_allclose(shares, sounds_of(picture, turns=2), atol=1e-5)
    apart = np.abs(np.float64(spectrogram.spectrogram(again)) - picture)
    strong = picture > 150
    assert apart[strong].mean() < 20
    assert sounds_of(np.zeros((1, 128, 5, 1), np.uint8)).max() == 0.0


# -- recordings -------------------------------------------------------------------------------------------------------


def pcm(samples, rate=RATE, channels=1, width=2):
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return content.getvalue()


GOOD = pcm((20_000 * tone(440, 700)).astype("<i2"))
SPOKEN = {
    f"{digit}_{who}_{take}.wav": pcm((20_000 * tone(300 + 100 * digit + take, 300)).astype("<i2"))
    for digit in range(2)
    for who in ("ann", "bob")
    for take in (0, 4, 5, 9, 10, 49)
}


def folder_of(path, files):
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def archive_of(path, files, mode="w:xz", kind=tarfile.REGTYPE):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            archive.addfile(member, io.BytesIO(content))
    return path


def test_spoken_digits_are_divided_as_published(tmp_path):
    folder = folder_of(tmp_path / "some", {f"recordings/{name}": content for name, content in SPOKEN.items()})
    data = sounds(folder, frames=6)
    assert data.name == "spoken_digits" and data.classes == 10 and data.levels == 256
    assert [len(split.arrays["label"]) for split in data[1:4]] == [8, 8, 8]
    for split, takes in zip(data[1:4], ((10, 49), (5, 9), (0, 4)), strict=True):
        for image, label in zip(split.arrays["image"], split.arrays["label"], strict=True):
            of_these = [tone(300 + 100 * label + take, 300) for take in takes]
            pictures = [spectrogram.spectrogram(fitted(Clip("", np.int16(20_000 * t)), 384)[None])[0] for t in of_these]
            assert any(np.array_equal(image, picture) for picture in pictures)
    packed = archive_of(tmp_path / "some.tar.xz", {f"recordings/{n}": SPOKEN[n] for n in sorted(SPOKEN)[::-1]})
    assert sounds(packed, frames=6).fingerprint == data.fingerprint


def test_other_recordings_are_divided_at_random(tmp_path):
    files = {f"{i}.WAV": pcm((9_000 * tone(300 + i, 900)).astype("<i2")) for i in range(10)} | {
        "notes.txt": b"no sound"
    }
    data = sounds(archive_of(tmp_path / "mine.tar.gz", files, "w:gz"), frames=5)
    assert data.name == "mine" and data.classes is None
    assert [split.arrays["image"].shape for split in data[1:4]] == [(8, 128, 5, 1), (1, 128, 5, 1), (1, 128, 5, 1)]
    assert data.about == "10 recordings of mine.tar.gz at 8,000 Hz, 10 of them cut after 0.04 s."


def test_fitted():
    clip = Clip("a.wav", np.array([1, -32_768, 3], np.int16))
    np.testing.assert_array_equal(fitted(clip, 5), np.float32([1 / 32_768, -1, 3 / 32_768, 0, 0]))
    np.testing.assert_array_equal(fitted(clip, 1), [1.0])


BAD = {
    "other rate": ({"a.wav": pcm(np.ones(9, "<i2"), 16_000)}, ("a.wav", "16,000 Hz", "8,000 Hz")),
    "8 bits": ({"a.wav": pcm(np.ones(9, "u1"), width=1)}, ("a.wav", "8 bits", "16 bits")),
    "two channels": ({"a.wav": pcm(np.ones(8, "<i2"), channels=2)}, ("a.wav", "2 channels", "one channel")),
    "truncated": ({"b.wav": GOOD, "a.wav": GOOD[:-200]}, ("a.wav is truncated", "700", "600")),
    "cut in its header": ({"a.wav": GOOD[:20]}, ("a.wav cannot be read",)),
    "no wav": ({"a.wav": b"ID3 this is something else"}, ("a.wav cannot be read", "PCM")),
    "compressed": ({"a.wav": GOOD[:20] + struct.pack("<H", 85) + GOOD[22:]}, ("a.wav cannot be read", "PCM")),
    "no byte": ({"a.wav": b""}, ("a.wav cannot be read",)),
    "no sample": ({"a.wav": pcm(np.ones(0, "<i2"))}, ("a.wav is empty",)),
    "silent": ({"a.wav": pcm(np.zeros(9, "<i2"))}, ("a.wav is silent",)),
    "nothing": ({}, ("holds no recording",)),
    "other files": ({"a.mp3": b"x"}, ("holds no recording", ".wav")),
}


@pytest.mark.parametrize("files, told", BAD.values(), ids=BAD)
@pytest.mark.parametrize("place", ["folder", "archive"])
def test_bad_recordings(tmp_path, files, told, place):
    path = folder_of(tmp_path / "in", files) if place == "folder" else archive_of(tmp_path / "in.tar.xz", files)
    (tmp_path / "in").mkdir(exist_ok=True)
    with pytest.raises(BadInput) as caught:
        sounds(path)
    assert len(caught.value.lines) <= 3 and all(part in str(caught.value) for part in told)


def test_bad_paths_and_settings(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere does not exist\.\nAllowed are a folder or a tar archive"):
        sounds(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="frames = 0"):
        sounds(tmp_path, frames=0)
    with pytest.raises(BadInput, match="rate = 10"):
        wav_file(np.zeros(3), 10)
    with pytest.raises(BadInput, match="2 samples are not finite"):
        wav_file(np.array([0.0, np.nan, np.inf]))
    with pytest.raises(BadInput, match=r"shape \[0\] as sound"):
        wav_file(np.zeros(0))
    with pytest.raises(BadInput, match=r"sounds of shape \[2, 65\]"):
        spectrogram.spectrogram(np.zeros((2, 65)))
    with pytest.raises(BadInput, match=r"pictures of shape \[1, 64, 2, 1\]"):
        sounds_of(np.zeros((1, 64, 2, 1)))


def test_bad_archives(tmp_path):
    whole = archive_of(tmp_path / "a.tar.xz", {"a.wav": GOOD, "b.wav": GOOD}).read_bytes()
    (tmp_path / "cut.tar.xz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.tar.xz").write_bytes(whole[:100] + bytes([whole[100] ^ 255]) + whole[101:])
    (tmp_path / "text.tar").write_text("not an archive " * 100)
    (tmp_path / "empty.xz").write_bytes(lzma.compress(b""))
    for name in ("cut.tar.xz", "flipped.tar.xz", "text.tar"):
        with pytest.raises(BadInput, match=rf"{name} cannot be read as an archive"):
            read_clips(tmp_path / name)
    with pytest.raises(BadInput, match=r"empty.xz"):
        read_clips(tmp_path / "empty.xz")
    with pytest.raises(BadInput, match=r"a.tar.xz holds more than 2,000 bytes"):
        read_clips(tmp_path / "a.tar.xz", most=2_000)
    with pytest.raises(BadInput, match=r"in holds more than 2,000 bytes"):
        read_clips(folder_of(tmp_path / "in", {"a.wav": GOOD, "b.wav": GOOD}), most=2_000)
    outside = archive_of(tmp_path / "outside.tar", {"../a.wav": GOOD}, "w")
    with pytest.raises(BadInput, match="holds a member that is not allowed"):
        read_clips(outside)
    device = archive_of(tmp_path / "device.tar", {"a.wav": b""}, "w", tarfile.CHRTYPE)
    with pytest.raises(BadInput, match="holds a member that is not allowed"):
        read_clips(device)
    assert not [*tmp_path.parent.glob("a.wav")]


def test_the_limit_counts_what_is_skipped(tmp_path):
    """An archive cannot hide its size in another kind of file."""
    path = archive_of(tmp_path / "a.tar.xz", {"zeros.bin": bytes(2**21), "a.wav": GOOD})
    with pytest.raises(BadInput, match="more than"):
        read_clips(path, most=2**20)

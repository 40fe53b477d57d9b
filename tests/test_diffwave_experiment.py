"""diffwave_digits in small: it learns, its sounds are sounds, its measures are those of their names; bad input."""

import io
import sys
import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from test_gan_experiments import EXPERIMENTS, trained
from toy_data import RATE, tone, write_digits

from genjax import parallel
from genjax.cli import main
from genjax.data.audio import waves
from genjax.errors import BadInput
from genjax.evaluate import evaluator
from genjax.experiment import check_experiment
from genjax.fields import load
from genjax.report import draw, save_png
from genjax.report.wav import wav_file

KEY, T = jax.random.key(0), 1_024
SMALL = {"samples": T, "patch": 16, "channels": 32, "layers": 2, "cycle": 2, "sampling_steps": 4, "batch_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits")
    write_digits(path)
    return path


def made(folder, **settings):
    file = load(EXPERIMENTS / "diffwave_digits.py")
    return file.function(str(folder), **{**SMALL, "steps": 300, "learning_rate": 5e-3, "average": 0.95, **settings})


def module():
    return sys.modules["experiment_diffwave_digits"]


def test_waves_are_the_recordings(folder):
    """The samples of the files, scaled to a loudest one of 1 and followed by silence; takes divide them."""
    data = waves(folder, T)
    assert [len(split.arrays["label"]) for split in data[1:4]] == [40, 20, 20]
    assert (data.name, data.classes, data.levels) == ("spoken_digits", 10, 0)
    for split, takes in ((data.train, (10, 11, 12, 13)), (data.validation, (5, 6)), (data.test, (0, 1))):
        for number, (row, label) in enumerate(zip(split.arrays["wave"], split.arrays["label"], strict=True)):
            told = np.rint(32_767 * tone(label, takes[number % len(takes)]))
            np.testing.assert_allclose(row[:900], told / np.abs(told).max(), atol=1e-6)
            assert row.dtype == np.float32 and not row[900:].any()
    assert "80 recordings" in data.about and " 0 of them cut" in data.about
    with pytest.raises(BadInput, match="length = 0"):
        waves(folder, 0)
    assert waves(folder, 500).fingerprint != data.fingerprint


NAMES = ("error_tenth", "error_third", "error_equal", "error_triple")


@pytest.mark.slow
def test_it_learns(folder):
    """The tones are learnt: less is left than of the best guess sample by sample, by five standard errors."""
    experiment = made(folder)
    check_experiment(experiment)
    measure = evaluator(experiment.evaluations["validation"], parallel.mesh(1))
    begun, done = (measure(trained(experiment, updates), KEY) for updates in (0, 300))
    for name in NAMES:
        assert abs(begun[name].value - 1) < 0.1
        assert done[name].value + 5 * done[name].standard_error < begun[name].value
    assert done["error"].value < 0.8
    assert done["error"].value == pytest.approx(np.mean([done[name].value for name in NAMES]), rel=1e-5)


def check_levels(errors, rows, deviation):
    """A network that says 0 guesses c_skip z: of a sound of mean square m, as the network knows it, noise s leaves

        ((1 - c_skip)^2 m + c_skip^2 s^2) / c_out^2,   c_skip = d^2 / (s^2 + d^2),  c_out^2 = s^2 d^2 / (s^2 + d^2)

    a sample, d = 1/2: exactly 1 on average over sounds of that deviation.  1,024 samples: within a fifth, and the mean
    of forty sounds within 3 %.
    """
    square = np.square(rows["wave"] * 0.5 / deviation).mean(axis=1)
    for name, s in zip(NAMES, (0.05, 0.15, 0.5, 1.5), strict=True):
        skip, out2 = 0.25 / (s**2 + 0.25), 0.25 * s**2 / (s**2 + 0.25)
        wanted = ((1 - skip) ** 2 * square + skip**2 * s**2) / out2
        np.testing.assert_allclose(errors[name], wanted, rtol=0.2)
        assert abs(np.mean(errors[name] / wanted) - 1) < 0.03


def test_an_untrained_network_has_the_error_of_a_guess(folder):
    experiment = made(folder)
    data = waves(folder, T)
    rows = data.train.arrays
    state = jax.jit(lambda: experiment.stages[0].learner.init(KEY, rows))()
    errors = jax.device_get(jax.jit(experiment.evaluations["validation"].measure)(state, rows, KEY))
    deviation = rows["wave"].std()
    check_levels(errors, rows, deviation)
    rejects(check_levels, errors, rows, 1.2 * deviation)
    rejects(
        check_levels, {name: errors[other] for name, other in zip(NAMES, NAMES[::-1], strict=True)}, rows, deviation
    )
    rejects(check_levels, {name: 10 * np.log10(errors[name]) for name in NAMES}, rows, deviation)


def test_samples_are_judged(folder):
    """Recordings in place of samples are called by their label and are as loud; silence and other labels are not."""
    experiment = made(folder)
    judged = experiment.evaluations["test_samples"].of_all
    arrays = waves(folder, T).test.arrays
    real, label = arrays["wave"], arrays["label"]

    def check(drawn, said):
        found = judged({"real": real, "drawn": drawn, "label": said})
        assert found["called_drawn"] > 95 and found["called_real"] > 95
        assert found["loudness"] < 0.3 and found["spectrum"] < 1

    check(real, label)
    for planted in ((0 * real, label), (np.roll(real, 2, axis=0), label), (0.1 * real, label)):
        rejects(check, *planted)
    rejects(check, real, (label + 1) % 10)


def test_sounds_are_written(folder):
    experiment = made(folder)
    state = trained(experiment, 0)
    drawn = jax.device_get(jax.jit(experiment.sample, static_argnums=2)(state, KEY, 11))
    assert drawn.shape == (11, T) and np.abs(drawn).max() <= 1
    with wave.open(io.BytesIO(experiment.formats[".wav"](drawn))) as sound:
        assert sound.getparams()[:3] == (1, 2, RATE)
        assert sound.getnframes() == 11 * T + 10 * RATE // 4
    told = experiment.denoising
    assert told.shape == (T,) and told.classes == 10
    real = waves(folder, T).test.arrays["wave"]
    np.testing.assert_allclose(told.decode(told.encode(real)), real, atol=1e-6)
    assert np.std(told.encode(waves(folder, T).train.arrays["wave"])) == pytest.approx(0.5, rel=1e-4)
    assert np.abs(told.decode(jnp.array([-90.0, 90.0]))).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 1_001}, "multiples of patch = 16"),
        ({"samples": 256, "patch": 1}, "from 800 on"),
        ({"samples": 0, "patch": 1}, "samples = 0"),
    ],
)
def test_lengths_that_do_not_fit(folder, settings, said):
    with pytest.raises(BadInput) as refusal:
        made(folder, **settings)
    assert said in str(refusal.value)


def test_other_recordings_are_refused(folder, tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.wav").write_bytes(wav_file(tone(number, 0)))
    with pytest.raises(BadInput, match=r"7_jackson_32\.wav"):
        made(tmp_path)
    with pytest.raises(BadInput, match="does not exist"):
        made(tmp_path / "nowhere")


@pytest.mark.slow
def test_from_the_command_line(folder, tmp_path, capsys):
    """Train, then draw a digit by another sampler into a .wav file; a picture cannot be edited into a sound."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**SMALL, "steps": 2}.items()]
    run, out = str(tmp_path / "run"), tmp_path / "seven.wav"
    assert (
        main(["train", str(EXPERIMENTS / "diffwave_digits.py"), "--data", str(folder), "--workdir", run, *options]) == 0
    )
    assert "data:audio/wav;base64," in (tmp_path / "run" / "report.html").read_text()
    asked = ["--sampler", "heun", "--steps", "3", "--label", "7", "--guidance", "2", "--n", "2"]
    assert main(["sample", run, *asked, "--out", str(out)]) == 0
    with wave.open(str(out)) as sound:
        assert sound.getframerate() == RATE and sound.getnframes() == 2 * T + RATE // 4
    capsys.readouterr()
    assert main(["sample", run, "--label", "10", "--out", str(out)]) == 2
    assert "allowed: 0 to 9" in capsys.readouterr().err
    assert main(["sample", run, "--out", str(tmp_path / "a.png")]) == 2
    assert ".wav or .npz" in capsys.readouterr().err
    save_png(tmp_path / "picture.png", draw(np.zeros((1, 8, 8, 1))))
    assert main(["edit", run, "--image", str(tmp_path / "picture.png")]) == 2
    assert "draws no pictures" in capsys.readouterr().err

"""What a run leaves besides pictures: samples in their own formats, and files, in the folder and on the page."""

import base64

import pytest

from genjax.cli import main
from genjax.report.contents import read_contents

EXPERIMENT = '''"""A model of nothing that writes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Experiment, File, Out, Stage, minimize
from genjax.data import Split, batches

ROWS = np.arange(8, dtype=np.float32)


def experiment(steps: int = 4) -> Experiment:
    def loss(params, state, batch, key):
        return Out((batch["x"] - params) ** 2)

    def sample(state, key, n):
        return jnp.arange(n) + state.step

    def text(samples):
        return "\\n".join(f"sample {int(s)} < & >" for s in samples).encode()

    learner = minimize(loss, optax.sgd(0.1), lambda key, batch: jnp.zeros(()))
    return Experiment(
        [Stage("write", learner, batches(Split({"x": ROWS}, lambda rows, key: rows), 4), steps)],
        sample=sample,
        shown=3,
        formats={".txt": text, ".mid": lambda samples: b"MThd" + bytes(samples.astype(np.uint8))},
        files={
            "chart.svg": File(lambda state, key: state.params, lambda value: SVG % float(value)),
            "tone.wav": File(lambda state, key: jnp.zeros(2), lambda tone: b"RIFF" + bytes(len(tone))),
        },
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text>%.3f</text></svg>'
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "writes.py").write_text(EXPERIMENT)
    assert main(["train", str(folder / "writes.py"), "--workdir", str(folder / "run"), "--evaluate-every", "2"]) == 0
    return folder / "run"


def test_each_look_leaves_the_samples_of_its_step(run):
    texts = {path.name: path.read_text() for path in (run / "files").glob("samples-*.txt")}
    expected = {f"samples-00-{step:09d}.txt": step for step in (0, 2, 4)}
    assert texts == {name: "\n".join(f"sample {step + i} < & >" for i in range(3)) for name, step in expected.items()}
    assert (run / "files" / "samples-00-000000004.mid").read_bytes() == b"MThd" + bytes([4, 5, 6])
    assert not (run / "pictures").exists(), "an array of three numbers is no picture"


def test_files_are_read_back_in_order(run):
    files = read_contents(run).files
    assert sorted(files) == ["chart.svg", "samples.mid", "samples.txt", "tone.wav"]
    assert [snapshot.step for snapshot in files["chart.svg"]] == [0, 2, 4]
    assert b"0.000" in files["chart.svg"][0].data and b"0.000" not in files["chart.svg"][-1].data


def test_the_page_shows_each_in_its_way(run):
    page = (run / "report.html").read_text("utf-8")
    assert "sample 6 &lt; &amp; &gt;" in page and "sample 6 < &" not in page, "text is escaped"
    picture = base64.b64encode((run / "files" / "chart-00-000000004.svg").read_bytes()).decode()
    assert f"data:image/svg+xml;base64,{picture}" in page
    assert "data:audio/wav;base64," in page and "media-src data:" in page
    assert 'href="files/samples-00-000000004.mid"' in page


BAD = {
    "text": (".encode()\n\n    learner", "\n\n    learner", "samples.txt"),
    "failing": ("float(value)", "float(value.nothing)", "chart.svg"),
    "no suffix": ('"chart.svg"', '"chart"', "files="),
    "a path": ('"chart.svg"', '"../chart.svg"', "files="),
    "no function": ('lambda tone: b"RIFF" + bytes(len(tone))', "None", "files="),
    "no sample": ("sample=sample,", "", "formats="),
    "shown": ("shown=3", "shown=0", "shown=0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_written_is_named(name, tmp_path, capsys):
    old, new, told = BAD[name]
    assert old in EXPERIMENT
    source = EXPERIMENT.replace(old, new)
    (tmp_path / "writes.py").write_text(source)
    assert main(["train", str(tmp_path / "writes.py"), "--workdir", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert told in "\n".join(lines[-3:]) and "Traceback" not in "\n".join(lines)


def test_steps_that_the_experiment_chooses(tmp_path, capsys):
    """A field `steps` left at None: the run ends as any other, without a number to double in what next."""
    source = EXPERIMENT.replace("steps: int = 4", "steps: int | None = None").replace(
        ", 4), steps)", ", 4), steps or 4)"
    )
    (tmp_path / "writes.py").write_text(source)
    assert main(["train", str(tmp_path / "writes.py"), "--workdir", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "4 updates" in told and "--steps" not in told

"""`genjax compress` and `decompress`: files come back from four kinds of models, and nothing else is ever written."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from genjax.cli import main
from genjax.compress import command as compressed
from genjax.compress.archive import pack, unpack
from genjax.experiment import Coding
from genjax.likelihood.coding import Autoregression
from genjax.likelihood.coding_models import full_pass

PICTURES = '''
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Coding, Experiment, Out, Stage, minimize
from genjax.data import Split, batches, unchanged
from genjax.likelihood.bits_back import Autoencoder
from genjax.likelihood.bits_back_chain import Chain, Layer
from genjax.likelihood.coding_models import full_pass


def experiment(kind: str = "KIND", steps: int = 2):
    """Pictures of 3x4 with five grey levels, each near the one before in an order, or given latents."""
    order = tuple(np.random.default_rng(0).permutation(12).tolist())

    def levels(params, x):
        before = jnp.zeros_like(x).at[:, jnp.array(order[1:])].set(x[:, jnp.array(order[:-1])])
        return -jnp.abs(before[..., None] - jnp.arange(5.0)[None, None]) + params[None, None]

    posterior = lambda params, x: (jnp.stack([x.mean(axis=1), x[:, 0]], axis=1) - 2.0, jnp.full((1, 2), -1.0))
    grey = lambda params, z: -jnp.abs(2 + z[:, :1, None] - jnp.arange(5.0)[None, None]) + params[None, None]
    pixels = lambda params, z: grey(params, z) + jnp.zeros((1, 12, 1))
    above = lambda params, state, i: (0.5 * state, jnp.zeros((1, 1)))
    below = lambda params, x, state, i: (x.mean(axis=1, keepdims=True) - 2.0, jnp.full((1, 1), -1.0))
    layer = Layer(1, above, below, lambda params, state, z, i: z)
    chain = Chain(5, [layer, layer], lambda params: jnp.zeros((1, 1)), lambda params, x: x, pixels)
    latent = Autoencoder(5, 2, posterior, pixels)
    model = {"ordered": full_pass(levels, 5, order), "chain": chain}.get(kind, latent)
    loss = lambda params, state, batch, key: Out(jnp.full(len(batch["x"]), jnp.sum(params**2)))
    data = Split({"x": np.zeros((8, 1), np.float32)}, unchanged)
    learner = minimize(loss, optax.sgd(0.1), lambda key, batch: jnp.arange(5.0))
    coding = None if kind == "none" else Coding(model, (3, 4, 1), order if kind == "ordered" else ())
    return Experiment([Stage("one", learner, batches(data, 4), steps)], coding=coding)
'''
TEXT = '''
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Coding, Experiment, Out, Stage, Text, minimize
from genjax.data import Split, batches, unchanged
from genjax.data.tokenizers import character_tokenizer
from genjax.likelihood.coding_models import cached
from genjax.samplers.decode import Decoder


def experiment(steps: int = 1):
    """Letters, each given the one before."""
    letters = character_tokenizer("abcλ \\n")
    decoder = lambda params: Decoder(lambda rows, positions: (), lambda cache, x, position: (params[x], cache))
    loss = lambda params, state, batch, key: Out(jnp.full(len(batch["x"]), jnp.sum(params**2)))
    data = Split({"x": np.zeros((8, 1), np.float32)}, unchanged)
    table = 4.0 * jnp.eye(6)[jnp.array([1, 2, 3, 4, 5, 0])]
    learner = minimize(loss, optax.sgd(0.1), lambda key, batch: table)
    text = Text(lambda x: [*letters.encode(x)], letters.decode, decoder, context=8)
    return Experiment([Stage("one", learner, batches(data, 4), steps)], text=text, coding=Coding(cached(decoder, 6, 8)))
'''
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Five runs, files for them, and an archive."""
    folder = tmp_path_factory.mktemp("compressed")
    for kind in ("ordered", "latent", "chain", "none"):
        (folder / f"{kind}.py").write_text(PICTURES.replace("KIND", kind))
    (folder / "letters.py").write_text(TEXT)
    for kind in ("ordered", "latent", "chain", "none", "letters"):
        assert main(["train", str(folder / f"{kind}.py"), "--workdir", str(folder / kind)]) == 0
    assert main(["train", str(folder / "latent.py"), "--steps", "3", "--workdir", str(folder / "other")]) == 0
    np.save(folder / "many.npy", RANDOM.integers(0, 5, (30, 3, 4, 1)).astype(np.uint8))
    np.save(folder / "flat.npy", RANDOM.integers(0, 5, (7, 3, 4)).astype(np.uint8))
    levels = np.array([0, 64, 128, 191, 255], np.uint8)  # round(255 l / 4)
    Image.fromarray(levels[RANDOM.integers(0, 5, (3, 4))]).save(folder / "one.png")
    Image.fromarray(np.full((3, 4), 64, np.uint8)).convert("RGB").save(folder / "grey.png")
    (folder / "a.txt").write_text("abcλ abc\n" * 400, encoding="utf-8")
    (folder / "b.txt").write_text("cab\r".replace("\r", "\n"), encoding="utf-8")
    (folder / "empty.txt").write_text("")
    assert main(["compress", *paths(folder, "many.npy", "one.png"), *at(folder, "latent", "ready.gjx")]) == 0
    return folder


def paths(folder, *names):
    return [str(folder / name) for name in names]


def at(folder, run, out):
    return ["--run", str(folder / run), "--out", str(folder / out)]


@pytest.mark.parametrize("kind", ["ordered", "latent", "chain"])
def test_pictures_come_back(runs, tmp_path, capsys, kind):
    names = ["many.npy", "flat.npy", "one.png", "grey.png"]
    assert main(["compress", *paths(runs, *names), *at(runs, kind, f"{kind}.gjx")]) == 0
    assert "4 files" in capsys.readouterr().out
    assert main(["decompress", str(runs / f"{kind}.gjx"), "--run", str(runs / kind), "--out", str(tmp_path / "b")]) == 0
    for name in names[:2]:
        assert (tmp_path / "b" / name).read_bytes() == (runs / name).read_bytes()
    for name in names[2:]:
        with Image.open(runs / name) as given, Image.open(tmp_path / "b" / name) as back:
            np.testing.assert_array_equal(np.asarray(given.convert("L")), np.asarray(back))


def test_texts_come_back(runs, tmp_path):
    names = ["a.txt", "b.txt", "empty.txt"]
    assert main(["compress", *paths(runs, *names), *at(runs, "letters", "text.gjx")]) == 0
    assert main(["decompress", str(runs / "text.gjx"), "--run", str(runs / "letters"), "--out", str(tmp_path)]) == 0
    for name in names:
        assert (tmp_path / name).read_bytes() == (runs / name).read_bytes()
    assert main(["compress", *paths(runs, "empty.txt"), *at(runs, "letters", "none.gjx")]) == 0
    assert main(["decompress", str(runs / "none.gjx"), *at(runs, "letters", "nothing")]) == 0
    assert (runs / "nothing" / "empty.txt").read_bytes() == b""


def test_an_archive_is_as_short_as_its_model_says(runs):
    np.save(runs / "dark.npy", np.zeros((2_000, 3, 4), np.uint8))
    assert main(["compress", str(runs / "dark.npy"), *at(runs, "ordered", "dark.gjx")]) == 0
    params = np.arange(5.0, dtype=np.float32) * 0.8**2
    logits = params - np.arange(5.0)
    bits = -24_000 * np.log2(np.exp(logits[0]) / np.exp(logits).sum())
    header = 400
    assert bits / 8 < (runs / "dark.gjx").stat().st_size < 1.005 * bits / 8 + 8 + header


def refused(arguments, capsys, said=""):
    capsys.readouterr()
    code, told = main(arguments), capsys.readouterr()
    assert code == 2 and len(told.err.strip().splitlines()) <= 3 and "Traceback" not in told.err, told.err
    assert said in told.err, told.err


def test_cuts_and_flipped_bits_are_refused(runs, tmp_path, capsys):
    data = (runs / "ready.gjx").read_bytes()
    flips = [int(bit) for bit in np.random.default_rng(0).choice(8 * len(data), 200, replace=False)]
    damaged = [data[:size] for size in range(0, len(data), 9)]  # each of them: test_archive.py
    damaged += [data[: b // 8] + bytes([data[b // 8] ^ 1 << b % 8]) + data[b // 8 + 1 :] for b in flips]
    for content in [*damaged, data + b"\0", data * 2]:
        (tmp_path / "x.gjx").write_bytes(content)
        refused(["decompress", str(tmp_path / "x.gjx"), *at(runs, "latent", "never")], capsys)
    assert not (runs / "never").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["decompress", "ready.gjx", "--run", "other", "--out", "x"], "is of another model"),
        (["decompress", "ready.gjx", "--run", "ordered", "--out", "x"], "is of another model"),
        (["decompress", "ready.gjx", "--run", "chain", "--out", "x"], "is of another model"),
        (["decompress", "ready.gjx", "--run", "none", "--out", "x"], "declares no likelihood"),
        (["decompress", "ready.gjx", "--out", "x"], "--run is missing"),
        (["decompress", "none.py", "--run", "latent"], "no archive of genjax"),
        (["decompress", "gone.gjx", "--run", "latent"], "no archive at"),
        (["decompress", "ready.gjx", "--run", "latent", "--out", "a.txt"], "is a file"),
        (["decompress", "ready.gjx", "--run", "latent", "--out", "."], "is there already"),
        (["decompress", "ready.gjx", "--run", "latent", "--out", "x", "--step", "99"], "99"),
        (["compress", "one.png", "--run", "none"], "declares no likelihood"),
        (["compress", "one.png"], "--run is missing"),
        (["compress", "one.png", "--run", "gone"], "gone"),
        (["compress", "gone.png", "--run", "latent"], "no file at"),
        (["compress", "a.txt", "--run", "latent"], "no array or picture"),
        (["compress", "one.png", "one.png", "--run", "latent"], "two files are called one.png"),
        (["compress", "one.png", "--run", "latent", "--out", "x.zip"], ".gjx"),
        (["compress", "one.png", "--run", "latent", "--out", "no/x.gjx"], "cannot be written"),
        (["compress", "wide.npy", "--run", "latent"], "uint8 [2, 3, 5]"),
        (["compress", "high.npy", "--run", "latent"], "a grey level of 5"),
        (["compress", "real.npy", "--run", "latent"], "float32"),
        (["compress", "object.npy", "--run", "latent"], "cannot be read"),
        (["compress", "cut.npy", "--run", "latent"], "cannot be read"),
        (["compress", "wide.png", "--run", "latent"], "5x3"),
        (["compress", "blue.png", "--run", "latent"], "3 channels"),
        (["compress", "between.png", "--run", "latent"], "a grey value of 65"),
        (["compress", "cut.png", "--run", "latent"], "cut.png cannot be read"),
        (["compress", "latin.txt", "--run", "letters"], "not UTF-8"),
        (["compress", "other.txt", "--run", "letters"], "other.txt"),
        (["compress"], "a file is missing"),
        (["decompress"], "an archive is missing"),
        (["compress", "one.png", "--rum", "latent"], "did you mean --run"),
    ],
)
def test_refusals(runs, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(runs)
    if not (runs / "cut.png").exists():
        np.save("wide.npy", np.zeros((2, 3, 5), np.uint8))
        np.save("high.npy", np.full((3, 4), 5, np.uint8))
        np.save("real.npy", np.zeros((3, 4), np.float32))
        np.save("object.npy", np.array([{}], object))
        (runs / "cut.npy").write_bytes((runs / "many.npy").read_bytes()[:-3])
        Image.fromarray(np.zeros((3, 5), np.uint8)).save("wide.png")
        Image.fromarray(np.full((3, 4), 65, np.uint8)).save("between.png")
        Image.fromarray(np.full((3, 4, 3), (0, 0, 255), np.uint8)).save("blue.png")
        (runs / "latin.txt").write_bytes(b"ab\xe9")
        (runs / "other.txt").write_text("abx")
        (runs / "cut.png").write_bytes((runs / "one.png").read_bytes()[:50])
    before = {path: path.stat().st_mtime_ns for path in runs.iterdir() if path.is_file()}
    refused(arguments, capsys, said)
    assert before == {path: path.stat().st_mtime_ns for path in runs.iterdir() if path.is_file()}


def test_a_machine_that_sums_otherwise_is_told(runs, capsys, monkeypatch):
    """First probabilities that differ are seen at once, later ones by the checksum of the content."""
    arguments = ["decompress", str(runs / "ready.gjx"), *at(runs, "latent", "elsewhere")]
    with monkeypatch.context() as context:
        context.setattr(compressed, "probe", lambda model, count: 0)
        refused(arguments, capsys, "probabilities come out otherwise")
    from genjax.likelihood import bits_back

    exact = bits_back.softmax
    with monkeypatch.context() as context:
        context.setattr(bits_back, "softmax", lambda x: exact(np.asarray(x) * (1 + 1e-6)))
        context.setattr(
            compressed,
            "probe",
            lambda model, count: compressed.unpack((runs / "ready.gjx").read_bytes(), "").__getitem__(0).probe,
        )
        refused(arguments, capsys, "probabilities come out otherwise")
    assert not (runs / "elsewhere").exists()


def test_a_model_that_draws_is_found_before_an_archive_is_written(runs, tmp_path, capsys, monkeypatch):
    exact = compressed.decode
    monkeypatch.setattr(compressed, "decode", lambda *given: exact(*given)[::-1])
    refused(
        ["compress", *paths(runs, "many.npy"), *at(runs, "latent", "drawn.gjx")], capsys, "does not decode to itself"
    )
    assert not (runs / "drawn.gjx").exists()


def test_a_run_that_went_on_is_another_model(runs, tmp_path, capsys):
    shutil.copytree(runs / "latent", tmp_path / "more")
    assert main(["resume", str(tmp_path / "more"), "--steps", "4", "--allow-change", "steps"]) == 0
    archive = str(runs / "ready.gjx")
    refused(["decompress", archive, "--run", str(tmp_path / "more"), "--out", str(tmp_path / "x")], capsys, "step 4")
    step = ["--step", "2"]
    assert main(["decompress", archive, "--run", str(tmp_path / "more"), "--out", str(tmp_path / "x"), *step]) == 0


def test_positions_at_once_make_another_model():
    """Also where the first probabilities are the same, those of one pass; one at once is what older archives name."""

    def digest(model):
        experiment = SimpleNamespace(coding=Coding(model, (3, 4, 1)), text=None)
        return compressed._digest(SimpleNamespace(experiment=experiment), np.zeros(2))

    models = [full_pass(lambda params, x: x, 5, range(12), 0, at_once) for at_once in (1, 9, 10)]
    assert len({digest(model) for model in models}) == 3
    assert digest(models[0]) == digest(Autoregression(5, None, None))


@pytest.mark.parametrize("kind", ["ordered", "latent", "chain"])
def test_a_stream_whose_checksum_was_made_to_fit_is_refused(runs, capsys, kind):
    """Somebody else's words, or more files than were coded, under a header that is right: the content's checksum."""
    assert main(["compress", *paths(runs, "many.npy", "one.png"), *at(runs, kind, "right.gjx")]) == 0
    head, words = unpack((runs / "right.gjx").read_bytes(), "")
    rng = np.random.default_rng(0)
    streams = [words[:0], words[:-1], words[1:], np.append(words, 7), words[::-1], 0 * words, ~words]
    streams += [
        words ^ (1 << rng.integers(0, 32)) * (np.arange(len(words)) == rng.integers(0, len(words))) for _ in range(20)
    ]
    streams += [rng.integers(0, 2**32, len(words)) for _ in range(5)]
    many, one = head.members
    heads = [head] * len(streams)
    for members in [
        (one, many),
        (many,),
        (one,),
        (many, one._replace(kind="text")),
        (many._replace(shape=(31, 3, 4, 1)),),
        (many, one._replace(shape=(5, 7))),
        (many._replace(shape=(0, 3, 4, 1)), one),
        (many._replace(shape=(4, 3, 30)), one),  # as many numbers in another form
        (many, one._replace(shape=(4, 3, 1))),
    ]:
        heads.append(head._replace(members=members))
        streams.append(words)
    harmless = 0  # the last bits of a stream may say nothing: then what comes back is right
    for forged, stream in zip(heads, streams, strict=True):
        (runs / "forged.gjx").write_bytes(pack(forged, np.asarray(stream).astype(np.uint32)))
        arguments = ["decompress", str(runs / "forged.gjx"), *at(runs, kind, "forged")]
        if forged is head and main(arguments) == 0:
            harmless += 1
            assert (runs / "forged" / "many.npy").read_bytes() == (runs / "many.npy").read_bytes()
            shutil.rmtree(runs / "forged")
        else:
            refused(arguments, capsys)
    assert harmless <= 3 and not (runs / "forged").exists()

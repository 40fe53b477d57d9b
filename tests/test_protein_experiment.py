"""gpt_proteins on a toy file: what it measures, that it learns, what it writes."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_data import CYCLE, PROTEINS, write_proteins

from genjax import parallel
from genjax.data.proteins import ALPHABET, read_fasta
from genjax.errors import BadInput
from genjax.evaluate import evaluator
from genjax.fields import load
from genjax.types import State

FILE = Path(__file__).parent.parent / "experiments" / "gpt_proteins.py"
KEY = jax.random.key(0)
CONTEXT = 16


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    path = tmp_path_factory.mktemp("proteins") / "toy.fasta"
    write_proteins(path)
    return path


@pytest.fixture(scope="module")
def experiment(fasta):
    sizes = {"layers": 1, "heads": 2, "width": 16, "context": CONTEXT, "batch_size": 16, "learning_rate": 1e-2}
    return load(FILE).function(str(fasta), steps=200, **sizes)


@pytest.fixture(scope="module")
def state(experiment):
    stage = experiment.stages[0]

    @jax.jit
    def run():
        batch = lambda step: stage.data.batch(stage.data.resident, KEY, step)
        one = lambda state, _: (stage.learner.update(state, batch(state.step), KEY)[0], None)
        return jax.lax.scan(one, stage.learner.init(KEY, batch(0)), None, length=200)[0]

    return run()


def test_bits_a_residue_are_those_of_the_stream(experiment, state):
    evaluation = experiment.evaluations["validation"]
    measure = evaluator(evaluation, parallel.mesh(1))
    rows = evaluation.split.arrays["tokens"]
    assert rows.shape[1] == CONTEXT + 1 and np.array_equal(rows[1:, 0], rows[:-1, -1])
    after = rows[:, 1:]
    residues = (after != 0).sum()
    blank = measure(State(state.step, jax.tree.map(jnp.zeros_like, state.params)), KEY)
    assert blank["model"].value == pytest.approx(math.log2(27) * after.size / residues, rel=1e-5)
    train = experiment.stages[0].data.resident["tokens"]
    counts = np.maximum(np.bincount(train, minlength=27), 1)
    expected = -np.log2(counts / counts.sum())[after].sum() / residues
    assert blank["frequencies"].value == pytest.approx(expected, rel=1e-5)
    learnt = measure(state, KEY)
    assert learnt["frequencies"].value == pytest.approx(expected, rel=1e-5)
    assert learnt["model"].value < 0.75 < 2.0 < expected  # the residues are certain, the ends are not


def test_every_protein_stands_once_in_one_stream(experiment):
    splits = [experiment.evaluations[name].split.arrays["tokens"] for name in ("validation", "test")]
    held_out = sum(int((rows[:, 1:] == 0).sum()) for rows in splits)
    train = experiment.stages[0].data.resident["tokens"]
    assert train[0] == 0 == train[-1]
    proteins = "".join(ALPHABET[token] for token in train).strip(".").split(".")
    assert len(set(proteins)) == len(proteins) == len(PROTEINS) - 4 and set(proteins) <= set(PROTEINS)
    assert held_out <= 4


def test_what_it_writes(experiment, state, tmp_path):
    rows = np.asarray(jax.jit(experiment.files["novelty.txt"].draw)(state, KEY))
    assert rows.shape == (experiment.shown, CONTEXT) and np.all(rows[:, 0] == 0)
    path = tmp_path / "samples.fasta"
    path.write_bytes(experiment.formats[".fasta"](rows))
    written = ["".join(ALPHABET[token] for token in record.tokens) for record in read_fasta(path)]
    assert len(written) == sum(bool((row != 0).any()) for row in rows)
    assert np.mean([protein in CYCLE for protein in written]) > 0.9
    table = experiment.files["novelty.txt"].encode(rows).decode()
    assert f"{len(PROTEINS) - 4} training sequences" in table and len(table.splitlines()) == 9 + len(rows)
    assert experiment.files["residues.svg"].encode(rows).startswith(b"<svg")
    arrays = jax.device_get(jax.jit(experiment.files["guesses.txt"].draw)(state, KEY))
    guesses = {
        line.split()[0]: line.split() for line in experiment.files["guesses.txt"].encode(arrays).decode().splitlines()
    }
    assert float(guesses["all"][-4]) > 85 and set(guesses) == {"token", "all", *"ACDW."}


def test_prompts_begin_a_protein(experiment):
    assert experiment.text.encode("ACD") == experiment.text.encode("aCd") == [0, 1, 2, 3]
    assert experiment.text.encode("") == [0]
    assert experiment.text.decode([0, 1, 2, 3]) == "ACD" and experiment.text.stop == (0,)
    for text, told in (("AC1", "'1' at position 2"), ("A.C", "'.' at position 1")):
        with pytest.raises(BadInput, match=told):
            experiment.text.encode(text)


def test_no_such_file():
    with pytest.raises(BadInput, match=r"nowhere\.fasta cannot be read"):
        load(FILE).function("nowhere.fasta")

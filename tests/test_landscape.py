"""Fitness landscapes: what the reader refuses, Spearman's rho by hand and by law, generators on a known landscape."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_data import write_landscape

from genjax.cli import main
from genjax.data.landscape import landscape
from genjax.errors import BadInput
from genjax.fields import build, load
from genjax.metrics.rank_correlation import rank_correlation


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no column 'Variants'"),
        ("Variants,Fit\nAC,1\n", "no column 'Fitness'"),
        ("Variants,Fitness\n", "holds no variant"),
        ("Variants,Fitness\nAC,1\nAX,1\n", "line 3: 'AX' is no variant"),
        ("Variants,Fitness\nAC,1\nACD,1\n", "variant 2 has 3 residues"),
        ("Variants,Fitness\nAC,one\n", "line 2: 'one' is no fitness"),
        ("Variants,Fitness\nAC,nan\n", "line 2: 'nan' is no fitness"),
        ("Variants,Fitness\nAC\n", "line 2: 1 cells"),
    ],
)
def test_a_landscape_that_cannot_be_read_names_its_line(tmp_path, text, what):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(BadInput) as refused:
        landscape(tmp_path / "x.csv")
    assert what in refused.value.lines[0] and len(refused.value.lines) <= 3


def test_a_landscape_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        landscape(tmp_path / "none.csv")


def by_hand(x, y):  # for ranks without ties: 1 - 6 sum d^2 / (n (n^2 - 1))
    rank = lambda v: np.argsort(np.argsort(v))
    n = len(x)
    return 1 - 6 * np.sum((rank(x) - rank(y)) ** 2.0) / (n * (n**2 - 1))


def is_rank_correlation(of):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=40), rng.normal(size=40) ** 3
    y = y + x
    return abs(of(x, y) - by_hand(x, y)) < 1e-9 and abs(of(x, np.exp(5 * x)) - 1) < 1e-9 and of(x, -x) < -0.99


def test_spearmans_rho_is_the_formula_of_squared_differences():
    assert is_rank_correlation(lambda x, y: rank_correlation(x, y).value)
    tied = rank_correlation([1, 1, 2, 3], [5, 5, 6, 7])
    assert tied.value == 1.0 and rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).value == 0.0


@pytest.mark.parametrize(
    "bug",
    [
        lambda x, y: np.corrcoef(x, y)[0, 1],
        lambda x, y: abs(rank_correlation(x, y).value),
        lambda x, y: np.corrcoef(np.argsort(x), np.argsort(y))[0, 1],
    ],
)
def test_planted_bugs_of_the_correlation(bug):
    assert not is_rank_correlation(bug)


def test_its_standard_error_is_the_spread_over_samples():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(1_000):
        x, noise = rng.normal(size=(2, 100))
        found.append(rank_correlation(x, x + noise))
    spread, told = np.std([one.value for one in found]), np.mean([one.standard_error for one in found])
    assert told == pytest.approx(spread, rel=0.12)


@pytest.mark.parametrize("pair", [([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2]), ([1, 2, 3, np.inf], [1, 2, 3, 4])])
def test_numbers_that_have_no_rank_correlation(pair):
    with pytest.raises(BadInput):
        rank_correlation(*pair)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two sites that must agree in their group of residues: no site alone tells what is fit."""
    path = tmp_path_factory.mktemp("landscape") / "pairs.csv"
    write_landscape(path)
    return path


def trained(request, pairs, tmp_path, *options):
    path = request.config.rootpath / "experiments" / "protein_landscape.py"
    common = ["--data", str(pairs), "--shots", "150", "--evaluate-every", "100", "--workdir", str(tmp_path / "run")]
    assert main(["train", str(path), *common, *options]) == 0
    lines = json.loads((tmp_path / "run/results.json").read_text())["results"]
    return {line["name"]: line["value"] for line in lines}


@pytest.mark.slow
def test_pairs_are_learned_by_the_rbm_and_not_by_independent_sites(request, pairs, tmp_path):
    fast = ("--learning-rate", "0.03", "--steps", "600")
    potts = trained(request, pairs, tmp_path / "a", "--model", "potts", "--hidden", "6", *fast)
    profile = trained(request, pairs, tmp_path / "b", "--model", "profile", "--steps", "300")
    perfect = 3 * 0.2 * 0.8  # of 250 variants 50 are fit: orders that agree on who is, and on nothing else
    assert 0.8 * perfect < potts["test/spearman"] < 1.2 * perfect and profile["test/spearman"] < 0.1
    assert potts["test/nll"] < profile["test/nll"] - 0.3
    assert potts["test/nll"] > np.log(200) - 0.05  # the best there is


@pytest.mark.parametrize("model", ["profile", "potts", "gpt"])
def test_the_probabilities_of_all_variants_sum_to_one(request, pairs, model):
    """By the measure itself, at random parameters: exp(score) summed over all 400 variants."""
    loaded = load(request.config.rootpath / "experiments" / "protein_landscape.py")
    values = {field.name: field.default for field in loaded.fields}
    made = build(loaded, {**values, "data": str(pairs), "model": model, "shots": 20, "hidden": 3})
    source = made.stages[0].data
    learner = made.stages[0].learner
    state = learner.init(jax.random.key(0), source.batch(source.resident, jax.random.key(1), 0))
    moved = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(2), jnp.shape(p)), state.params)
    tokens = jnp.array(list(itertools.product(range(20), repeat=2)))
    batch = {"tokens": tokens, "fitness": jnp.zeros(400)}
    score = made.evaluations["test"].measure(state._replace(params=moved), batch, jax.random.key(0))["score"]
    assert float(jnp.exp(score).sum()) == pytest.approx(1.0, abs=2e-4)
    assert float(jnp.std(score)) > 0.05


def test_few_measured_variants_beside_a_density(request, pairs):
    """By the measure itself: residues alone cannot tell which pairs agree, a score that does orders all others."""
    loaded = load(request.config.rootpath / "experiments" / "protein_landscape.py")
    values = {field.name: field.default for field in loaded.fields}
    test = build(loaded, {**values, "data": str(pairs), "model": "vae", "shots": 20}).evaluations["test"]
    fitness = test.split.arrays["fitness"]
    random = np.random.default_rng(0)
    told = test.of_all({"score": np.log(fitness), "fitness": fitness, "shared": random.integers(0, 3, len(fitness))})
    assert set(told) == set(test.quantities) >= {"ridge_24", "augmented_96"} and "ridge_384" not in told
    assert told["nll"][0] == pytest.approx(-np.log(fitness[fitness >= 1]).mean(), rel=1e-5)
    for count in (24, 96):
        assert abs(told[f"ridge_{count}"][0]) < 0.3 and told[f"augmented_{count}"][0] > 0.8
    blind = test.of_all({"score": random.normal(size=len(fitness)), "fitness": fitness, "shared": fitness})
    assert blind["ridge_96"] == told["ridge_96"] and blind["augmented_96"][0] < 0.3  # a score that says nothing


@pytest.mark.parametrize("change", [{"shots": 9}, {"shots": 200}, {"hidden": 26}])
def test_what_the_landscape_cannot_give(request, pairs, change):
    loaded = load(request.config.rootpath / "experiments" / "protein_landscape.py")
    values = {field.name: field.default for field in loaded.fields}
    values |= {"data": str(pairs), "shots": 50} | change
    with pytest.raises(BadInput, match=next(iter(change))):
        build(loaded, values)

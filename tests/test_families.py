"""Families of proteins: what is one row of them, six densities against enumeration on a tiny alphabet, one table."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import check_frequencies, rejects

from genjax.cli import main
from genjax.compare.members import check_same_data, read_members
from genjax.data.families import LETTERS, family
from genjax.errors import BadInput
from genjax.fields import build, load
from genjax.likelihood.masked import every_order, over_orders
from genjax.losses.likelihood import sequence_nll
from genjax.models.aligned import Filler, autoregressive, masked, variational
from genjax.models.blocks import MLP
from genjax.models.columns import columns, profile, unigram
from genjax.models.potts import potts
from genjax.models.transformer import GPT
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder
from genjax.types import State

LENGTH, LEVELS = 3, 3
ALL = jnp.array(list(itertools.product(range(LEVELS), repeat=LENGTH)))
SEEN = np.array([[0, 1, 2], [0, 1, 1], [0, 2, 2], [1, 1, 2], [0, 1, 2]])
LOG_P = profile(SEEN, LEVELS, 2.0)
SIZES = (1, 2, 8)  # layers, heads and width of a transformer
POTTS = potts(LOG_P, 3, 1, 50, 100)
DENSITIES = {
    "unigram": columns(unigram(SEEN, LEVELS)),
    "profile": columns(LOG_P),
    "gpt": autoregressive(LOG_P, *SIZES, 0.0),
    "vae": variational(LOG_P, 1, 8, 5_000),
    "potts": POTTS.density,
    "masked": masked(LOG_P, 8),
}
KEY = jax.random.key(0)


def state_of(density):
    """Random parameters, so that nothing holds only where a model begins."""

    def moved(key):
        params = density.init(key)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [leaf + 0.5 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
        return State(jnp.zeros((), jnp.int32), jax.tree.unflatten(tree, leaves), (), density.carry(key, params))

    return jax.jit(moved)(KEY)


@pytest.fixture(scope="module")
def states():
    return {name: state_of(density) for name, density in DENSITIES.items()}


@pytest.fixture(scope="module")
def nats(states):
    """-log p of all 27 sequences, or what a density tells in its place."""
    return {name: jax.jit(density.nats)(states[name], ALL, KEY) for name, density in DENSITIES.items()}


def total(nats):
    return float(jnp.exp(-nats).sum())


def is_density(nats):
    assert total(nats) == pytest.approx(1.0, abs=1e-4) and float(nats.std()) > 0.05


@pytest.mark.parametrize("name", ["unigram", "profile", "gpt", "potts"])
def test_exact_probabilities_of_all_sequences_sum_to_one(nats, name):
    assert DENSITIES[name].kind == "exact -log p(x)"
    is_density(nats[name])


def test_planted_bugs_of_exact_kinds_are_no_densities(states, nats):
    net, state = GPT(LEVELS + 1, LENGTH + 1, *SIZES, bias=False), states["gpt"]
    of = jax.jit(lambda before: sequence_nll(net.apply(state.params, before)[..., :LEVELS], ALL))
    rejects(is_density, of(ALL))  # it sees what it predicts
    rejects(is_density, of(jnp.roll(ALL, 1, axis=1)))  # the last letter stands before the first
    rejects(is_density, nats["potts"] + 0.01)  # log Z of another machine
    rejects(is_density, nats["masked"])


def test_the_bound_of_masking_is_the_mean_over_orders_and_above_the_exact_number(states):
    state, net = states["masked"], Filler(LEVELS, (8, 8))
    logits = lambda z: net.apply(state.params, z) + jnp.asarray(LOG_P, jnp.float32)[None]
    with jax.default_matmul_precision("highest"):
        orders = jax.jit(lambda: over_orders(logits, LEVELS, ALL, every_order(LENGTH)))()
    is_density(orders.nll)
    keys = jax.random.split(KEY, 300)
    found = np.asarray(jax.jit(lambda: jax.lax.map(lambda key: DENSITIES["masked"].nats(state, ALL, key), keys))())

    def unbiased(found):
        error = found.std(axis=0, ddof=1) / len(found) ** 0.5
        assert np.all(np.abs(found.mean(axis=0) - orders.bound) < 4.5 * error + 1e-5)

    unbiased(found)
    rejects(unbiased, found * (LENGTH - 1) / LENGTH)  # one number of masked letters forgotten
    averaged = masked(LOG_P, 8, every_order(LENGTH))
    assert averaged.kind == "exact -log p(x) of the average over 6 orders"
    assert np.allclose(jax.jit(averaged.nats)(state, ALL, KEY), orders.nll, atol=1e-5)
    assert np.all(orders.bound >= orders.nll - 1e-5) and total(orders.bound) < 1 - 1e-3
    occurs_as_often("masked", state, -orders.nll)


@pytest.fixture(scope="module")
def autoencoder(states):
    """-log p of all sequences by quadrature over the one latent; one draw of E_q[-log p(x | z)] as distortion."""
    params, hidden = states["vae"].params, lambda: MLP((8, 8))
    model = VAE(DenseEncoder(1, hidden()), DenseDecoder((LENGTH, LEVELS, 1), 1, hidden()))

    def fit(z):  # [n, 1] -> log p(x | z) [n, 27]
        log_p = jax.nn.log_softmax(model.apply(params, z, method="decode")[..., 0, 0])
        return jnp.einsum("nlk,xlk->nx", log_p, jax.nn.one_hot(ALL, LEVELS))

    def numbers():
        z = jnp.linspace(-8.0, 8.0, 4_001)[:, None]
        weight = -0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi) + jnp.log(16.0 / 4_000)
        mean, log_var = model.apply(params, jax.nn.one_hot(ALL, LEVELS)[..., None], method="encode")
        drawn = mean + jnp.exp(0.5 * log_var) * jax.random.normal(KEY, mean.shape)
        return -jax.nn.logsumexp(fit(z) + weight, axis=0), -jnp.diagonal(fit(drawn))

    with jax.default_matmul_precision("highest"):
        return jax.jit(numbers)()


def test_the_bound_of_the_autoencoder_is_above_the_exact_number_and_tight_with_many_samples(states, nats, autoencoder):
    exact, distortion = autoencoder
    is_density(exact)
    one = variational(LOG_P, 1, 8, 1)
    keys = jax.random.split(KEY, 200)
    loose = jax.jit(lambda: jax.lax.map(lambda key: one.nats(states["vae"], ALL, key), keys))()

    def bounds(loose, tight):
        error = loose.std(axis=0, ddof=1) / len(loose) ** 0.5
        assert np.all(loose.mean(axis=0) > exact - 4.5 * error - 1e-4) and total(loose.mean(axis=0)) < 0.99
        assert np.all(np.abs(tight - exact) < 0.1)

    bounds(loose, nats["vae"])
    rejects(bounds, loose, loose[0])
    rejects(bounds, loose - loose.mean(axis=0)[None] + distortion[None], nats["vae"])  # its rate forgotten
    occurs_as_often("vae", states["vae"], -exact)


def codes(tokens):
    return np.asarray(tokens @ jnp.array([9, 3, 1]))[:, None]


def occurs_as_often(name, state, log_p, turned=slice(None)):
    draw = jax.jit(lambda key: DENSITIES[name].sample(state, key, 20_000))
    check_frequencies(lambda n, key: codes(draw(key)[:, turned]), lambda code: log_p[int(code)][None], range(len(ALL)))


@pytest.mark.parametrize("name", ["profile", "gpt", "potts"])
def test_samples_occur_as_often_as_they_are_likely(states, nats, name):
    occurs_as_often(name, states[name], -nats[name])
    if name == "profile":
        rejects(occurs_as_often, name, states[name], -nats[name], slice(None, None, -1))


def test_annealing_there_and_back_agrees_with_the_enumeration(states, nats):
    found = [jax.jit(way)(states["potts"], ALL, KEY) for way in (POTTS.there, POTTS.back)]

    def agrees(found, exact):
        for one in found:
            assert np.all(np.abs(one["nll"] - exact) < 4 * one["log_z_error"] + 2e-3)

    agrees(found, nats["potts"])
    rejects(agrees, found, nats["potts"] + 3 * np.log(2))  # the free hidden units of the base forgotten
    assert potts(LOG_P, 26, 1, 50, 20).density.kind == "estimate of -log p(x), log Z by annealing there"


def test_closed_forms_of_columns():
    counts = {letter: int((SEEN == letter).sum()) for letter in range(LEVELS)}

    def as_counted(one, each):
        for column, letter in itertools.product(range(LENGTH), range(LEVELS)):
            q = (counts[letter] + 1) / (SEEN.size + LEVELS)
            assert np.exp(one[column, letter]) == pytest.approx(q)
            here = int((SEEN[:, column] == letter).sum())
            assert np.exp(each[column, letter]) == pytest.approx((here + 2.0 * q) / (len(SEEN) + 2.0))

    as_counted(unigram(SEEN, LEVELS), profile(SEEN, LEVELS, 2.0))
    rejects(as_counted, unigram(SEEN, LEVELS), profile(SEEN, LEVELS, 3.0))
    rejects(as_counted, unigram(SEEN, LEVELS), profile(SEEN[:, ::-1], LEVELS, 2.0))
    rejects(as_counted, profile(SEEN, LEVELS, 1e6), unigram(SEEN, LEVELS))
    state = State(jnp.zeros((), jnp.int32), DENSITIES["profile"].init(KEY))
    by_hand = -sum(LOG_P[column, SEEN[0, column]] for column in range(LENGTH))
    assert float(DENSITIES["profile"].nats(state, jnp.asarray(SEEN[:1]), KEY)[0]) == pytest.approx(by_hand, rel=1e-5)


def test_a_profile_without_pseudocounts_is_where_training_would_end():
    density = DENSITIES["profile"]
    slope = jax.grad(lambda params: density.loss(params, None, jnp.asarray(SEEN), KEY).loss.mean())
    steep = lambda pseudocount: float(jnp.abs(slope({"columns": profile(SEEN, LEVELS, pseudocount)})["columns"]).max())
    assert steep(1e-4) < 1e-4 < 0.05 < steep(2.0)


def fasta(path, rows):
    path.write_text("".join(f">p{i}\n{row}\n" for i, row in enumerate(rows)))
    return path


def random_rows(count, length, letters="ACDEFGHIKLMNPQRSTVWY", seed=0):
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list(letters), length)) for _ in range(count)]


def test_a_motif_cuts_rows_that_no_other_split_has_near(tmp_path):
    heads, tails = random_rows(60, 7), random_rows(60, 9, seed=1)
    rows = [head + "GGKS" + tail for head, tail in zip(heads, tails, strict=True)]
    near = [row[:-2] + "WW" for row in rows]  # of the six letters that are cut behind the motif none has changed
    found = family(
        fasta(tmp_path / "x.fasta", ["MM" + row for row in rows + near] + ["MKV", "AAUAGGKSAAAAAA"]), ".{3}GGKS.{6}"
    )
    parts = [split.arrays["tokens"] for split in found[1:4]]
    texts = {"".join(LETTERS[token] for token in row) for row in np.concatenate(parts)}
    assert texts == {row[4:17] for row in rows} and found.levels == 20  # U is no letter and no gap
    assert "1 with other letters and 60 alike" in found.about

    def apart(parts):
        for a, b in itertools.combinations(parts, 2):
            assert (a[:, None] == b[None]).mean(axis=2).max() < 0.8

    apart(parts)
    rejects(apart, [parts[0], np.concatenate([parts[1], parts[0][:1]]), parts[2]])


def test_an_alignment_keeps_its_columns_and_gaps(tmp_path):
    rows = [row[:4] + ("-" if i % 3 else row[4]) + row[5:] for i, row in enumerate(random_rows(30, 12))]
    rows[1] = "." + rows[1][1:]
    found = family(fasta(tmp_path / "x.fasta", rows), alike=1.0)
    kept = {"".join(LETTERS[token] for token in row) for part in found[1:4] for row in part.arrays["tokens"]}
    assert kept == {(row[:4] + row[5:]).replace(".", "-") for row in rows}  # the fifth is mostly gaps
    assert found.levels == 21 and found.vocabulary == LETTERS


@pytest.mark.parametrize(
    ("rows", "options", "what"),
    [
        (["ACD", "AC"], {}, "line 3: 'p1' has 2 letters"),
        (["A-D"] * 12, {}, "1 different rows"),
        (["A--"] * 12, {"motif": "A"}, "'-' is residue 2"),
        (["ACD"] * 12, {"motif": "(A"}, "motif '(A'"),
        (["ACD"] * 12, {"motif": "W"}, "matches nothing"),
        (["ACD"] * 12, {"motif": "W*"}, "matches nothing"),
        (["ACD", "ACCD"], {"motif": "AC+"}, "matches 2 to 3 letters"),
        (["---"] * 12, {}, "every column is mostly gaps"),
        (["ACD"] * 12, {"alike": 0.0}, "alike = 0.0"),
    ],
)
def test_what_is_no_family(tmp_path, rows, options, what):
    with pytest.raises(BadInput) as refused:
        family(fasta(tmp_path / "x.fasta", rows), **options)
    assert what in refused.value.lines[0] and len(refused.value.lines) <= 3


def listed(request):
    lines = (request.config.rootpath / "experiments" / "families_proteins.txt").read_text().splitlines()
    return [line for line in lines if line and line[0] != "#"]


@pytest.fixture
def proteins(tmp_path, monkeypatch):
    rows = [
        head + "GAAAAGKSS" + tail for head, tail in zip(random_rows(40, 16), random_rows(40, 39, seed=1), strict=True)
    ]
    fasta(tmp_path / "proteins.fasta", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_is_six_models_of_the_same_examples_in_the_same_units(request, proteins):
    folder = request.config.rootpath / "experiments"
    members = read_members([f"{folder}/{line}" for line in listed(request)], proteins / "runs")
    assert {member.values["model"] for member in members} == set(DENSITIES)
    check_same_data(members)
    for member in members:
        told = build(member.loaded, member.values).evaluations["test"].quantities
        assert (told["nll"].unit, told["bits"].unit) == ("nats", "bits/residue")
        assert told["nll"].kind == told["bits"].kind
    wide = build(members[0].loaded, {**members[0].values, "model": "potts", "hidden": 26}).evaluations
    assert {*wide} == {"validation", "test_there", "test_back"}  # no number without the error of log Z
    assert wide["test_back"].quantities["nll"].error == "log_z_error"


@pytest.mark.slow
def test_six_models_in_one_table(request, proteins, capfd):
    folder = request.config.rootpath / "experiments"
    short = "--steps 4 --width 8 --hidden 3 --betas 10 --samples 10 --batch-size 8"
    lines = [f"{folder}/protein_families.py --model {model} {short}" for model in DENSITIES]
    assert main(["compare", *lines, "--workdir", "all"]) == 0
    told = json.loads((proteins / "all/compare.json").read_text())
    sorts = {run["fields"]["model"]: run["likelihood"]["sort"] for run in told["runs"]}
    assert sorts == dict.fromkeys(DENSITIES, "exact") | {"vae": "upper bound", "masked": "upper bound"}
    assert len({run["tested"] for run in told["runs"]}) == 1
    for run in told["runs"]:
        one = run["likelihood"]
        assert one["unit"] == "nats" and one["bits"] == f"{one['value'] / 64 / np.log(2):.3f}/residue"
    assert capfd.readouterr().out.count("/residue  ") == 6
    run = next(str(proteins / run["run"]) for run in told["runs"] if run["fields"]["model"] == "profile")
    assert main(["sample", run, "--n", "3", "--out", "x.fasta"]) == 0
    assert (proteins / "x.fasta").read_text().count(">") == 3


@pytest.mark.parametrize("change", [{"data": "none.fasta"}, {"motif": "("}, {"motif": "WWWWWW"}])
def test_what_an_experiment_cannot_read(request, proteins, change):
    loaded = load(request.config.rootpath / "experiments" / "protein_families.py")
    with pytest.raises(BadInput):
        build(loaded, {field.name: field.default for field in loaded.fields} | change)

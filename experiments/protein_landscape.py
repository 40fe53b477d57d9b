"""Generator against predictor on a protein's fitness landscape: does log p order variants as measured fitness does?

Paper:    Wu et al., 2016, doi:10.7554/eLife.16965 (the landscape: four sites of GB1, 149,361 variants); Tubiana et al.,
          2019, doi:10.7554/eLife.39397 (RBMs of proteins); Hsu et al., 2022, doi:10.1038/s41587-021-01146-5 (augmented
          regression); no published number under this protocol
Command:  genjax sweep experiments/protein_landscape.py --data GB1.csv --evaluate-every 20 --checkpoint-every 20
          model=profile,potts,gpt,vae,masked,regression choice=0:3
Cost:     20 to 40 s of processor time a run, start and compilation included
Measured: 500 shots, of all other 148,861 variants (ema; means and deviations over three choices of shots, 2026-11-28):
          Spearman's rho of the score, which of fitness knows only that its shots are fit; of augmented regressions on n
          measured variants beside it; and -log p of the 3,144 that are as fit as the wild type, in nats
                                zero-shot      n = 24         n = 96         n = 384        nats
            independent sites   0.529 ± 0.002  0.490 ± 0.063  0.526 ± 0.003  0.516 ± 0.012  9.82 ± 0.01
            Potts RBM           0.537 ± 0.010  0.522 ± 0.020  0.534 ± 0.011  0.514 ± 0.014  9.46 ± 0.02
            transformer         0.534 ± 0.008  0.509 ± 0.027  0.528 ± 0.008  0.515 ± 0.014  9.28 ± 0.02
            VAE                 0.521 ± 0.010  0.498 ± 0.031  0.517 ± 0.013  0.501 ± 0.011  <= 9.26 ± 0.03 (k=100)
            masked diffusion    0.536 ± 0.011  0.496 ± 0.071  0.532 ± 0.015  0.520 ± 0.013  9.17 ± 0.02
            none                               0.161 ± 0.002  0.277 ± 0.008  0.379 ± 0.005
          the predictor 0.449 ± 0.007 (2026-11-27); residues shared with the wild type 0.143

A generator sees `shots` variants that are at least as fit as the wild type (fitness >= 1), and never a fitness; its
score of a variant is log p, exact but for the VAE's bound: independent sites, an RBM of Potts units that descends its
exact negative log-likelihood (log Z is a sum over the hidden states), a transformer, masked diffusion averaged over all
orders of four sites (its bound by masks drawn at random orders far worse, 0.424: noise).  The predictor sees as many
variants drawn from all, with their fitness, and is linear in residues and pairs of residues.  Both are asked to order
all other variants: Spearman's correlation.  Beside it stands the order by the number of residues shared with the wild
type, the first variant of the file.  A fifth of the shots is not trained on and chooses the step.

With few measured variants a ridge regression on residues, with and without the score beside them, orders the rest; ten
draws.  Here the score alone orders best: most variants are dead, and what a few hundred tell of single residues does
not improve on it.  (GB1.csv is four_mutations_full_data.csv of FLIP, https://github.com/J-SNACKKB/FLIP.)
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import BadInput, Count, Evaluation, Experiment, NonNegative, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import Split, batches, unchanged
from genjax.data.landscape import RESIDUES, landscape
from genjax.likelihood.ais import MOST_UNITS, enumerated_log_partition
from genjax.likelihood.masked import every_order
from genjax.losses.likelihood import sequence_nll
from genjax.metrics.few_shot import few_shot
from genjax.metrics.rank_correlation import rank_correlation
from genjax.models.aligned import masked, variational
from genjax.models.rbm import RBM, Weights, machine
from genjax.models.transformer import GPT
from genjax.models.visible import categorical_units, one_hot

K, ORDERS = len(RESIDUES), {"spearman": "score", "shared": "shared"}
FEW, DRAWS = (24, 96, 384), 10  # measured variants; how often they are drawn


def experiment(
    data: str = "gb1.csv",
    model: Literal["profile", "potts", "gpt", "vae", "masked", "regression"] = "potts",
    shots: int = 500,
    choice: int = 0,
    hidden: Count = 12,
    weight_decay: NonNegative = 0.01,
    learning_rate: Positive = 3e-3,
    steps: int = 1_000,
    batch_size: Count = 100,
) -> Experiment:
    """A density of fit variants, or a regression on measured ones.

    Args:
      data: a CSV file with the columns Variants and Fitness; its first variant is the wild type.
      model: independent sites, an RBM, a transformer, a VAE, masked diffusion; or the predictor.
      shots: variants that are known, at least 10; a fifth of them chooses the step.
      choice: which, a draw of its own for each number.
      hidden: units of the RBM, at most 25.
      weight_decay: lambda of AdamW, which pulls towards equal probabilities.
      learning_rate: AdamW's at the start; it falls to zero along a cosine.
      steps: updates.
      batch_size: variants in a batch; of fewer shots than that, all.
    """
    known = landscape(data)
    sites, order = known.tokens.shape[1], np.random.default_rng(choice).permutation(len(known.tokens))
    fit = order if model == "regression" else order[known.fitness[order] >= 1.0]
    if not 10 <= shots < len(fit):
        raise BadInput(f"shots = {shots}", f"allowed: 10 to {len(fit) - 1:,}")
    if hidden > MOST_UNITS:
        raise BadInput(f"hidden = {hidden}", f"allowed: 1 to {MOST_UNITS}, as log Z is enumerated")
    rows = lambda chosen: Split({"tokens": known.tokens[chosen], "fitness": known.fitness[chosen]}, unchanged)
    cut, others = shots - shots // 5, rows(np.setdiff1d(order, fit[:shots]))
    wild, start = known.tokens[0], jnp.zeros((1, sites), jnp.int32)
    rbm, net = RBM(categorical_units(sites, K), hidden), GPT(K + 1, sites, 2, 2, 32)
    orders = every_order(sites) if sites <= 4 else None
    bounded = {
        "vae": variational(jnp.zeros((sites, K)), 4, 64, 100),
        "masked": masked(jnp.zeros((sites, K)), 64, orders),
    }
    density = bounded.get(model)
    few = [count for count in FEW if 2 * count <= len(others.arrays["tokens"])]

    def init(key, batch):
        if density:
            return density.init(key)
        if model == "gpt":
            return net.init(key, start)
        if model == "potts":
            return rbm.init(key, one_hot(start, K))["params"]
        return {"site": jnp.zeros((sites, K)), "pair": jnp.zeros((sites * K, sites * K)), "mean": jnp.zeros(())}

    def log_p(params, tokens):  # exact, [B] nats
        tokens = tokens.astype(jnp.int32)
        if model == "gpt":
            before = jnp.concatenate([jnp.full((len(tokens), 1), K), tokens[:, :-1]], axis=1)
            return -sequence_nll(net.apply(params, before)[..., :K], tokens)
        if model == "potts":
            of = machine(Weights(params["weight"], params["visible"], params["hidden"]), rbm.units)
            log_z = enumerated_log_partition(of.hidden_free_energy, hidden)
            return -of.free_energy(one_hot(tokens, K)) - log_z
        return jnp.sum(one_hot(tokens, K) * jax.nn.log_softmax(params["site"]).reshape(1, -1), axis=-1)

    def predicted(params, tokens):
        x = one_hot(tokens.astype(jnp.int32), K)
        return params["mean"] + x @ params["site"].reshape(-1) + jnp.sum((x @ params["pair"]) * x, axis=-1)

    def loss(params, state, batch, key):
        if model == "regression":
            return Out(jnp.square(predicted(params, batch["tokens"]) - batch["fitness"]))
        if density:
            return density.loss(params, state, batch["tokens"].astype(jnp.int32), key)
        return Out(-log_p(params, batch["tokens"]))

    def scored(state, tokens, key):
        if density:
            return -density.nats(state, tokens.astype(jnp.int32), key)
        return (predicted if model == "regression" else log_p)(state.params, tokens)

    def held_out(state, batch, key):
        if density:
            return {"loss": -scored(state, batch["tokens"], key)}
        return {"loss": loss(state.params, state, batch, key).loss}

    def scores(state, batch, key):
        shared = jnp.sum(batch["tokens"] == jnp.asarray(wild)[None], axis=-1)
        return {"score": scored(state, batch["tokens"], key), "fitness": batch["fitness"], "shared": shared}

    def judged(found):
        told = {name: tuple(rank_correlation(found[of], found["fitness"])) for name, of in ORDERS.items()}
        if model != "regression":
            nll = -found["score"][found["fitness"] >= 1.0].astype(float)
            told["nll"] = (float(nll.mean()), float(nll.std(ddof=1) / len(nll) ** 0.5))
            residues = np.eye(K)[others.arrays["tokens"]].reshape(len(others.arrays["tokens"]), -1)
            for count in few:
                told[f"ridge_{count}"] = tuple(few_shot(residues, found["fitness"], count, DRAWS))
                told[f"augmented_{count}"] = tuple(few_shot(residues, found["fitness"], count, DRAWS, found["score"]))
        return told

    tx = optax.adamw(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), weight_decay=weight_decay)
    kinds = {
        "spearman": Quantity("exact, Spearman's correlation of score and fitness", "", "higher"),
        "shared": Quantity("exact, of residues shared with the wild type and fitness", "", "higher"),
    }
    if model != "regression":
        count = int((others.arrays["fitness"] >= 1.0).sum())
        kind = density.kind if density else "exact -log p(x)"
        kinds["nll"] = Quantity(f"{kind}, of the {count:,} as fit as the wild type")
        for count in few:
            by = f"estimate, Spearman's correlation of all but {count} with their ridge regression, {DRAWS} draws"
            kinds[f"ridge_{count}"] = Quantity(by, "", "higher")
            kinds[f"augmented_{count}"] = Quantity(f"{by}, the score beside residues", "", "higher")
    lost = {"loss": Quantity("exact, squared error", "") if model == "regression" else Quantity(kind)}
    source = batches(rows(fit[:cut]), min(batch_size, cut))
    return Experiment(
        stages=[Stage(model, minimize(loss, optax.chain(tx, ema(0.9)), init), source, steps, steps_per_call=10)],
        evaluations={
            "validation": Evaluation(held_out, rows(fit[cut:shots]), 500, lost),
            "test": Evaluation(scores, others, 5_000, kinds, True, of_all=judged),
        },
        select="validation/loss",
        data="landscape",
    )

"""Six densities of one family of proteins on the same held-out rows, from letter frequencies to masked diffusion.

Paper:    Tubiana, Cocco and Monasson, 2019, doi:10.7554/eLife.39397 (RBMs of families); Riesselman, Ingraham and Marks,
          2018, doi:10.1038/s41592-018-0138-4 (VAEs of families); no published number of these rows
Command:  genjax compare @experiments/families_proteins.txt
          an alignment of your own: genjax train experiments/protein_families.py --data X.fasta --motif ''
Cost:     9 minutes for all six on one core of an AMD EPYC that others used too
Measured: test, bits/residue (N=119, ema, 2026-11-28): unigram 4.109 ± 0.011, profile 3.566 ± 0.041, GPT 3.258 ± 0.069
          (step 960), Potts RBM 3.179 ± 0.067 (step 1,500), exact; VAE <= 3.172 ± 0.083 (k=1,000, step 800), masked
          diffusion <= 3.073 ± 0.076 (all 64 numbers, step 900); the RBM's nats 141.02 exact, 141.00 by annealing there,
          140.94 back, each ± 2.98

The file `proteins.fasta` is DB.fasta of MMseqs2's examples, https://github.com/soedinglab/MMseqs2 (Debian's package
mmseqs2-examples): 20,000 UniProt sequences.  A row is what stands around the first loop that binds phosphates (Walker's
motif A), 64 residues without gaps; of rows that are 80 % alike one is kept, so that no held-out row shares as much
with one that was trained on.  597 rows are left, 418 of them to train on: a small family, and of what is trained the
best look is kept.

Frequencies have closed forms.  All that is trained begins at the profile.  The kinds differ: the RBM's log Z is a sum
over the states of up to 25 hidden units, so that its number is exact; estimates by annealing there and back stand
beside it, as they have to serve where there are more.  Those of the VAE and of masked diffusion are upper bounds, and
what is behind them may be better.  Sizes, rates and decays were chosen by the validation rows, a few tries each.
"""

from typing import Literal

import optax

from genjax import Count, Evaluation, Experiment, Fraction, NonNegative, Positive, Quantity, Stage, ema, minimize
from genjax.data import batches
from genjax.data.families import P_LOOP, family
from genjax.data.proteins import fasta_text
from genjax.distributions.units import bits_per_residue
from genjax.models.aligned import autoregressive, masked, variational
from genjax.models.columns import columns, profile, unigram
from genjax.models.potts import potts

CLOSED = ("unigram", "profile")
CHAINS = 100


def experiment(
    data: str = "proteins.fasta",
    motif: str = P_LOOP,
    model: Literal["unigram", "profile", "gpt", "vae", "potts", "masked"] = "potts",
    pseudocount: Positive = 8.0,
    layers: Count = 2,
    heads: Count = 4,
    width: Count = 64,
    dropout: Fraction = 0.2,
    latents: Count = 8,
    hidden: Count = 16,
    k: Count = 5,
    learning_rate: Positive = 3e-3,
    weight_decay: NonNegative = 0.1,
    average: Fraction = 0.99,
    steps: int = 1_000,
    batch_size: Count = 64,
    samples: Count = 1_000,
    betas: Count = 300,
) -> Experiment:
    """A density of aligned sequences.

    Args:
      data: a FASTA file, plain or gzip.
      motif: a regular expression that cuts a row out of each protein; '': the file is an alignment.
      model: frequencies of all residues or of each column, a transformer, a VAE, an RBM, masked diffusion.
      pseudocount: rows that the profile thinks to have seen before.
      layers: of the transformer.
      heads: of attention in each layer; they divide the width.
      width: numbers a residue of the transformer; units of the hidden layers of VAE and masked diffusion.
      dropout: rate of the transformer, while training.
      latents: dimensions of the VAE's z; the weight of its rate rises to one over all updates.
      hidden: units of the RBM; up to 25 its likelihood is exact.
      k: Gibbs steps of an update of the RBM, of persistent chains.
      learning_rate: AdamW's, after a warm-up of 5 % of the steps; it falls to zero along a cosine.
      weight_decay: lambda of AdamW.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates; of frequencies none.
      batch_size: rows in a batch; of fewer rows than that, all.
      samples: importance samples of the VAE's bound.
      betas: temperatures of annealing.
    """
    known = family(data, motif)
    rows = known.train.arrays["tokens"]
    length, levels = rows.shape[1], known.levels
    log_p = profile(rows, levels, pseudocount)
    annealed = potts(log_p, hidden, k, CHAINS, betas)
    density = {
        "unigram": lambda: columns(unigram(rows, levels)),
        "profile": lambda: columns(log_p),
        "gpt": lambda: autoregressive(log_p, layers, heads, width, dropout),
        "vae": lambda: variational(log_p, latents, width, samples, warm_up=steps),
        "potts": lambda: annealed.density,
        "masked": lambda: masked(log_p, width),
    }[model]()

    def told(nats):
        return {"nll": nats, "bits": bits_per_residue(nats, length)}

    def loss(params, state, batch, key):
        return density.loss(params, state, batch["tokens"], key)

    def measure(state, batch, key):
        return told(density.nats(state, batch["tokens"], key))

    def by(way):
        def measured(state, batch, key):
            found = way(state, batch["tokens"], key)
            return {**found, **told(found["nll"]), "bits_error": bits_per_residue(found["log_z_error"], length)}

        return measured

    def both(kind, *errors):
        of_nats, of_bits = errors or ("", "")
        return {"nll": Quantity(kind, error=of_nats), "bits": Quantity(kind, "bits/residue", error=of_bits)}

    def estimates(way):
        return {
            **both(f"estimate of -log p(x), log Z by annealing {way}", "log_z_error", "bits_error"),
            "log_z": Quantity(f"estimate of log Z by annealing {way}", error="log_z_error"),
            "effective": Quantity("effective number of walks", "walks", "higher"),
        }

    def written(rows):
        return fasta_text(["".join(known.vocabulary[token] for token in row) for row in rows]).encode()

    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(rate, weight_decay=weight_decay), ema(average))
    init, carry = lambda key, batch: density.init(key), lambda key, params, batch: density.carry(key, params)
    source, updates = batches(known.train, min(batch_size, len(rows))), 0 if model in CLOSED else steps
    evaluations = {"validation": Evaluation(measure, known.validation, 500, both(density.kind))}
    if not density.kind.startswith("estimate"):  # an estimate's error is told by the walks, below
        evaluations["test"] = Evaluation(measure, known.test, 500, both(density.kind), final=True)
    ways = {"there": annealed.there, "back": annealed.back} if model == "potts" else {}
    for name, way in ways.items():
        evaluations[f"test_{name}"] = Evaluation(by(way), known.test, 500, estimates(name), final=True)
    return Experiment(
        stages=[Stage(model, minimize(loss, tx, init, carry), source, updates, steps_per_call=10)],
        evaluations=evaluations,
        sample=density.sample,
        formats={".fasta": written},
        select="validation/nll",
        data=known.name,
    )

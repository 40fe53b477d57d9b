"""A GPT that reads and writes proteins: the next residue from those before, and whole proteins drawn from it.

Paper:    Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (the network); Ferruz, Schmidt and
          Hoecker, ProtGPT2, 2022, doi:10.1038/s41467-022-32007-7 (one for proteins, of a thousand times the size)
Command:  genjax train experiments/gpt_proteins.py --data sequences.fasta
Cost:     41 minutes on 2 CPU cores that others used too; 1.1 s an update at best
Measured: test 4.134 ± 0.005 bits/residue, frequencies alone 4.210 (N=625 windows, raw, step 1,000), 2026-11-24

The file is any FASTA file, plain or gzip; the numbers above are of 20,000 UniProt sequences (mmseqs2's example data),
18,801 of them different, of which the small network of the defaults drew half as many residues as there are.
Proteins stand one after the other in one stream, with a token between them that ends one and begins the next; a window
of it holds parts of several, each of which is read for itself.  Evaluation cuts the stream into windows too, so what
stands before a window is not known in it.  Relatives of a held-out protein may have been trained on: the table of
novelty shows how much of the held-out proteins themselves stands in their nearest training protein.
"""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Evaluation, Experiment, File, Fraction, Out, Positive, Quantity, Stage, Text, minimize
from genjax.data import Split, carve, make_dataset, pieces, wide_tokens, windows
from genjax.data.proteins import ALPHABET, fasta_text, read_fasta
from genjax.data.tokenizers import character_tokenizer
from genjax.distributions.units import bits
from genjax.losses.likelihood import token_nll
from genjax.metrics.novelty import kmer_index
from genjax.models.transformer import GPT, decay_mask
from genjax.report.frequencies import frequencies_svg
from genjax.report.sequences import Known, guess_table, novelty_table
from genjax.samplers.choosing import draw
from genjax.samplers.decode import generate

END = 0  # the token between proteins
RESIDUES = 21  # letters of the chart: the twenty, and X
SHOWN = 32  # proteins that are drawn at every look


def experiment(
    data: str = "proteins.fasta",
    layers: Count = 4,
    heads: Count = 4,
    width: Count = 128,
    context: Count = 256,
    dropout: Fraction = 0.0,
    learning_rate: Positive = 1e-3,
    steps: int = 1_000,
    batch_size: Count = 16,
) -> Experiment:
    """A decoder-only transformer on residues.

    Args:
      data: a FASTA file, plain or gzip.
      layers: of the transformer.
      heads: of attention in each layer; they divide the width.
      width: numbers a token.
      context: tokens of a window, and of a sampled protein.
      dropout: rate, while training.
      learning_rate: AdamW's, after a warm-up of 5 % of the steps; it decays to a tenth along a cosine.
      steps: updates.
      batch_size: windows in a batch.
    """
    proteins, names, train_tokens, others = streams(Path(data).expanduser())
    net = GPT(len(ALPHABET), context, layers, heads, width, positions="rotary", bias=False, dropout=dropout)
    counts = np.bincount(proteins.train.arrays["tokens"], minlength=len(ALPHABET))
    shares = counts / counts.sum()
    residues = np.where(np.arange(len(counts)) == END, 0.0, shares) / (1.0 - shares[END])
    unigram = jnp.asarray(np.log(np.maximum(counts, 1) / np.maximum(counts, 1).sum()), jnp.float32)
    held_out = pieces(proteins.validation, context)

    def nats(params, tokens, **options):
        before, after = tokens[:, :-1], tokens[:, 1:]
        logits = net.apply(params, before, jnp.cumsum(before == END, axis=1), **options)
        return logits, token_nll(logits, after)

    def loss(params, state, batch, key):
        each = nats(params, batch["tokens"], deterministic=False, rngs={"dropout": key})[1]
        return Out(each.mean(axis=1), {"bits_per_token": bits(each.mean(axis=1))})

    def measure(state, batch, key):
        after = batch["tokens"][:, 1:]
        return {
            "model": bits(nats(state.params, batch["tokens"])[1].sum(axis=1)),
            "frequencies": bits(-unigram[after].sum(axis=1)),
            "residues": jnp.sum(after != END, axis=1),
        }

    def sample(state, key, n):
        start, length = jnp.full((n, 1), END), np.ones(n, np.int32)
        return generate(net.decoder(state.params), start, length, key, context, draw, stop=(END,))[0]

    def shown(state, key):
        return sample(state, key, SHOWN)

    def foresee(state, key):
        tokens = jnp.asarray(held_out.arrays["tokens"][:SHOWN], jnp.int32)
        logits, each = nats(state.params, tokens)
        came = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=2)
        return each, -unigram[tokens[:, 1:]], tokens[:, 1:], jnp.sum(logits > came, axis=2)

    known = functools.cache(lambda: Known(kmer_index(train_tokens), names, ALPHABET, residues))

    def novelty(tokens):
        rows = [row[row != END] for row in tokens]
        ended = [bool((row[1:] == END).any()) for row in tokens]
        return novelty_table(rows, ended, [protein[: context - 1] for protein in others], known()).encode()

    def composition(tokens):
        found = np.bincount(tokens[tokens != END], minlength=len(ALPHABET))
        order = [token for token in np.argsort(-shares) if token != END][:RESIDUES]
        both = {"samples": found / max(found.sum(), 1), "training proteins": residues}
        chosen = {name: each[order] for name, each in both.items()}
        return frequencies_svg([ALPHABET[token] for token in order], chosen, "How often each residue occurs")

    def guesses(arrays):
        return guess_table(*(np.asarray(array).reshape(-1) for array in arrays), ALPHABET).encode()

    letters = lambda tokens: "".join(ALPHABET[token] for token in tokens if token != END)
    tokenizer = character_tokenizer(ALPHABET[1:])
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, max(steps, 1), learning_rate / 10)
    adam = optax.adamw(rate, b2=0.95, weight_decay=0.1, mask=decay_mask)
    learner = minimize(
        loss,
        optax.chain(optax.clip_by_global_norm(1.0), adam),
        lambda key, batch: net.init(key, batch["tokens"][:, :-1]),
    )
    exact = Quantity("exact, within windows", "bits/residue", per="residues")
    quantities = {"model": exact, "frequencies": exact._replace(kind="exact, each residue by its frequency")}
    return Experiment(
        stages=[Stage("gpt", learner, windows(proteins.train, context, batch_size), steps)],
        evaluations={
            "validation": Evaluation(measure, held_out, 32, quantities),
            "test": Evaluation(measure, pieces(proteins.test, context), 32, quantities, final=True),
        },
        sample=sample,
        shown=SHOWN,
        formats={".fasta": lambda rows: fasta_text([letters(row) for row in rows]).encode()},
        files={
            "novelty.txt": File(shown, novelty),
            "residues.svg": File(shown, composition),
            "guesses.txt": File(foresee, guesses),
        },
        text=Text(
            lambda text: [END, *(1 + tokenizer.encode(text.upper()))], letters, net.decoder, context, stop=(END,)
        ),
        select="validation/model",
        data=proteins.name,
    )


def streams(path):
    """The different proteins of a file as three streams; names and tokens of those to train on, tokens of others."""
    records = [*{record.tokens.tobytes(): record for record in read_fasta(path)}.values()]
    train, *rest = ([records[row] for row in rows] for rows in carve(len(records), (0.96, 0.02, 0.02)))
    joined = lambda part: np.concatenate([np.zeros(1, np.uint8), *(np.append(r.tokens, np.uint8(END)) for r in part)])
    splits = [Split({"tokens": joined(part)}, wide_tokens) for part in (train, *rest)]
    dataset = make_dataset(
        path.name.partition(".")[0],
        dict(zip(("train", "validation", "test"), splits, strict=True)),
        levels=len(ALPHABET),
        about=f"{len(records):,} different proteins",
        vocabulary=ALPHABET,
    )
    others = [record.tokens for record in rest[0][: 4 * SHOWN]]
    return dataset, [record.name for record in train], [record.tokens for record in train], others

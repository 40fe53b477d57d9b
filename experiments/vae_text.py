"""A VAE of names: one vector for a whole name, word dropout against posterior collapse, walks between two names.

Paper:    Bowman et al., Generating Sentences from a Continuous Space, 2016, arXiv:1511.06349 (the method; other text)
Command:  genjax data prepare names --from DIR; genjax train experiments/vae_text.py
Cost:     3 min 30 s on one CPU core
Measured: test -log p(x) <= 2.909 ± 0.019 bits a letter with k=100, 2.988 ± 0.024 the ELBO's (N=1,000 names, ema, step
          6,000), 16 of 16 units active, 2026-11-24

Letters are counted with the token that ends a name, as makemore counts them.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Count, Evaluation, Experiment, File, Fraction, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import batches, names
from genjax.data.texts import LETTERS
from genjax.distributions import kl_normal_standard, sample_normal
from genjax.distributions.units import bits
from genjax.fields import Limits
from genjax.likelihood.iwae import importance_sampling, normal_log_weights
from genjax.losses.likelihood import sequence_nll
from genjax.losses.markov import inside
from genjax.losses.variational import negative_elbo
from genjax.losses.warm_up import check_warm_up, linear_warm_up
from genjax.metrics.latents import diagnosis
from genjax.models.text_vae import TextVAE, dropped_words
from genjax.samplers.choosing import draw
from genjax.samplers.decode import generate
from genjax.samplers.latents import interpolate_spherical

END, WALKS, POINTS = 0, 12, 8  # the token that begins and ends a name; walks of a file, names of a walk


def experiment(
    latents: Count = 16,
    embedding: Count = 32,
    width: Count = 192,
    word_dropout: Annotated[float, Limits(0.0, 1.0)] = 0.3,
    warm_up: int = 2_000,
    learning_rate: Positive = 2e-3,
    average: Fraction = 0.999,
    steps: int = 6_000,
    batch_size: Count = 128,
    samples: Count = 100,
) -> Experiment:
    """A bound on the probability of a name, letter by letter, given a vector that the name was encoded to.

    Args:
      latents: dimensions of z.
      embedding: numbers a letter.
      width: units of the two GRUs.
      word_dropout: probability that a letter before is hidden from the decoder, while training; 1: all of them.
      warm_up: updates over which the weight of the rate rises from 0 to 1.
      learning_rate: Adam's; it decays to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: names in a batch.
      samples: importance samples of the final estimate.
    """
    check_warm_up(warm_up, steps)
    data, letters = names(), len(LETTERS)
    model = TextVAE(letters, latents, embedding, width)
    longest = data.train.arrays["tokens"].shape[1]

    def encode(params, batch):
        after = batch["tokens"][:, 1:]
        return model.apply(params, after, inside(batch["length"], after.shape[1]), method="encode")

    def fit(params, z, batch, before):  # log p(x | z) [n] of z [n, D], for the names in turn
        after, length = (jnp.resize(a, (len(z), *a.shape[1:])) for a in (batch["tokens"][:, 1:], batch["length"]))
        before = jnp.resize(before, after.shape)
        return -sequence_nll(model.apply(params, z, before, method="decode"), after, inside(length, after.shape[1]))

    def terms(params, batch, before, key):
        mean, log_var = encode(params, batch)
        rate = kl_normal_standard(mean, log_var).sum(axis=-1)
        return fit(params, sample_normal(mean, log_var, key), batch, before), rate

    def loss(params, state, batch, key):
        word_key, key = jax.random.split(key)
        before = dropped_words(batch["tokens"][:, :-1], word_dropout, letters, word_key)
        log_p, rate = terms(params, batch, before, key)
        return Out(
            negative_elbo(log_p, rate, linear_warm_up(state.step, warm_up)), {"rate": rate, "distortion": -log_p}
        )

    def bound(state, batch, key):
        log_p, rate = terms(state.params, batch, batch["tokens"][:, :-1], key)
        return {"neg_elbo": bits(rate - log_p), "rate": bits(rate), "letters": batch["length"]}

    def estimate(state, batch, key):
        def log_weights(key, n):
            mean, log_var = encode(state.params, batch)
            flat = lambda z: fit(state.params, z.reshape(-1, latents), batch, batch["tokens"][:, :-1])
            return normal_log_weights(lambda z: flat(z).reshape(n, -1), mean, log_var, key, n)

        weights = importance_sampling(log_weights, key, samples, chunk=10)
        return {**bound(state, batch, key), "neg_iwae": bits(-weights.bound)}

    def written(params, z, key, choose):
        start = jnp.full((len(z), 1), END)
        return generate(model.decoder(params, z), start, np.ones(len(z), np.int32), key, longest, choose, stop=(END,))[
            0
        ]

    def sample(state, key, n):
        z_key, key = jax.random.split(key)
        return written(state.params, jax.random.normal(z_key, (n, latents)), key, draw)

    held_out = {name: jnp.asarray(array[: 2 * WALKS]) for name, array in data.validation.arrays.items()}

    def likely(logits, counts, key):
        return jnp.argmax(logits)

    def reconstruct(state, key):  # the most likely letters, one after the other, of each name's mean
        return held_out["tokens"], written(state.params, encode(state.params, held_out)[0], key, likely)

    def told_pairs(arrays):
        pairs = zip(*([spelt(row) for row in rows] for rows in arrays), strict=True)
        return ("\n".join(f"{given} -> {found}" for given, found in pairs) + "\n").encode()

    def walk(state, key):  # from the mean of one held-out name to that of another, likely letters of each point
        first, last = jnp.split(encode(state.params, held_out)[0], 2)
        z = jnp.swapaxes(interpolate_spherical(first, last, POINTS), 0, 1).reshape(-1, latents)
        return held_out["tokens"], written(state.params, z, key, likely)

    def told_walks(arrays):
        given, found = ([spelt(row) for row in rows] for rows in arrays)
        walks = [found[i * POINTS : (i + 1) * POINTS] for i in range(WALKS)]
        ends = zip(given[:WALKS], given[WALKS:], strict=True)
        lines = [f"{a} -> {b}: {' '.join(each)}" for (a, b), each in zip(ends, walks, strict=True)]
        return ("\n".join(lines) + "\n").encode()

    def posteriors(state, key):
        mean, log_var = encode(state.params, {n: jnp.asarray(a) for n, a in data.validation.arrays.items()})
        return mean, log_var, jax.random.normal(key, mean.shape)

    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    tx = optax.chain(optax.clip_by_global_norm(5.0), adam, ema(average))
    upper = Quantity("upper bound of -log p(x)", "bits/letter", per="letters")
    quantities = {"neg_elbo": upper, "rate": Quantity("exact KL", "bits/letter", per="letters")}
    tight = upper._replace(kind=f"{upper.kind}, k={samples:,}")
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["tokens"][:, :-1]))
    return Experiment(
        stages=[Stage("text_vae", learner, batches(data.train, batch_size), steps, steps_per_call=20)],
        evaluations={
            "validation": Evaluation(bound, data.validation, 500, quantities),
            "test": Evaluation(estimate, data.test, 250, {"neg_iwae": tight, **quantities}, final=True),
        },
        sample=sample,
        formats={".txt": lambda rows: ("\n".join(map(spelt, rows)) + "\n").encode()},
        files={
            "reconstructions.txt": File(reconstruct, told_pairs),
            "walks.txt": File(walk, told_walks),
            "diagnostics.txt": File(posteriors, lambda arrays: diagnosis(*arrays).encode()),
        },
        select="validation/neg_elbo",
        data=data.name,
    )


def spelt(row):
    """The letters of a row of tokens, up to the token that ends a name."""
    return "".join(LETTERS[token] for token in row[1:]).partition(LETTERS[END])[0]

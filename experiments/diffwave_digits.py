"""Diffusion of spoken digits as waveforms: a second of sound, of the digit that is asked for.

Paper:    Kong et al., DiffWave, 2021, arXiv:2009.09761; no published number on these recordings
Command:  genjax train experiments/diffwave_digits.py --data fsdd.tar.xz
          (recordings: https://github.com/Jakobovski/free-spoken-digit-dataset, a folder of .wav or a tar of it)
          the paper's BASE, for a GPU: --patch 1 --layers 30 --cycle 10 --batch-size 16 --learning-rate 2e-4
          --steps 500000 --sampling-steps 200
Cost:     --steps 500 --learning-rate 2e-3: 10 min by the clock on one core of an AMD EPYC that ten processes shared;
          the default: not yet measured
Measured: --steps 500 --learning-rate 2e-3: test, shares of the squared error of a guess (see below) 0.776, 0.661,
          0.460, 0.427 where noise is 0.1, 0.3, 1, 3 times as loud as sounds, mean 0.581 ± 0.004 (estimates, N=300,
          ema, step 500); samples are bursts of low sound in noise, and not yet digits: 10 of 100 called by their label,
          of recordings 100 (w = 2), 31 dB from the mean spectrum, 2026-11-27; the default: not yet

The network is the paper's, with `--patch 1`; by default it hears time in steps of 16 samples, 2 ms, which makes a
second affordable without a GPU.  Process, prediction, weight and times are EDM's (Karras et al., 2022,
arXiv:2206.00364), of sounds scaled to a deviation of 0.5.  With the paper's own, 200 steps of noise which the network
predicts, the same network learnt little in 1,500 updates: at t = 0.8 it left more noise than a guess of silence
(16.5 against 22.4 dB less than there was), and its samples were noise (10 of 100 called by their label, 28 dB from the
mean spectrum; 2026-11-27).

Nothing here is a likelihood.  What is measured is the squared error of the sound in shares of that of the best guess
which sees one sample at a time and knows only how loud sounds are: 1 is nothing learnt.  Of samples it is how loud they
are, their spectrum, and whether a judge that knows recordings hears the digit that was asked for; for each stands
beside it what real recordings get.  samples.wav has the ten digits, one after the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import (
    BadInput,
    Count,
    Denoising,
    Evaluation,
    Experiment,
    Fraction,
    NonNegative,
    Out,
    Positive,
    Quantity,
    Stage,
    ema,
    minimize,
)
from genjax.corruption.predictions import denoiser, preconditioned
from genjax.corruption.schedules import edm
from genjax.corruption.times import lognormal_times
from genjax.data import batches, take
from genjax.data.audio import waves
from genjax.losses.couplings import drop_labels
from genjax.losses.denoising import denoising_loss, edm_weight
from genjax.metrics.sounds import band_levels, judge_of_labels, loudness_distance, spectrum_distance
from genjax.models.diffwave import DiffWave
from genjax.report.wav import wav_file
from genjax.samplers.ddim import dpm_solver_2m
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import karras
from genjax.samplers.guidance import labelled

RATE, DIGITS, JUDGED = 8_000, 10, 100
DEVIATION = 0.5  # of what the network knows
LEVELS = {"error_tenth": 0.05, "error_third": 0.15, "error_equal": 0.5, "error_triple": 1.5}  # of noise


def experiment(
    data: str = "fsdd.tar.xz",
    samples: Count = 8_000,
    patch: Count = 16,
    channels: Count = 64,
    layers: Count = 12,
    cycle: Count = 6,
    guidance: NonNegative = 2.0,
    sampling_steps: Count = 30,
    unlabelled: Fraction = 0.1,
    learning_rate: Positive = 1e-3,
    average: Fraction = 0.995,
    steps: int = 1_500,
    batch_size: Count = 8,
) -> Experiment:
    """DiffWave with labels.

    Args:
      data: a folder or a tar archive of spoken digits as .wav files at 8,000 Hz, named 7_jackson_32.wav.
      samples: of a sound, 8,000 a second; a multiple of `patch`.
      patch: samples of a step.
      channels: of a layer.
      layers: of the network.
      cycle: layers after which dilations start again at 1.
      guidance: w of the samples: 0 without a label, 1 the label alone.
      sampling_steps: of DPM-Solver++(2M), two calls of the network each with guidance.
      unlabelled: share of the labels that are left out in training.
      learning_rate: Adam's, after a warm-up of 5 % of the steps; it falls to zero along a cosine.
      average: decay of the moving average of the parameters that evaluation and sampling use.
      steps: updates.
      batch_size: recordings in a batch.
    """
    if samples % patch or samples < RATE // 10:
        told = f"allowed: multiples of patch = {patch}, from {RATE // 10:,} on, a tenth of a second"
        raise BadInput(f"samples = {samples}", told)
    recordings = waves(data, samples, RATE)
    if recordings.classes != DIGITS:
        raise BadInput(
            f"the recordings of {data} are not named as spoken digits", "allowed: names such as 7_jackson_32.wav"
        )
    process, net = edm(), DiffWave(channels, layers, cycle, patch, DIGITS, 4 * channels)
    prediction, scale = preconditioned(DEVIATION), DEVIATION / float(recordings.train.arrays["wave"].std())
    grid, heard = karras(process, sampling_steps), lambda x: jnp.clip(x / scale, -1.0, 1.0)

    def network(params, label):
        seen = lambda z, t: ((t**2 + DEVIATION**2) ** -0.5)[:, None] * z
        return lambda z, t: net.apply(params, seen(z, t), 0.25 * jnp.log(t), label)

    denoise = lambda params, label: denoiser(process, prediction, network(params, label))

    def error(params, wave, label, t, key):
        noise = jax.random.normal(key, wave.shape)
        weight = edm_weight(DEVIATION)
        return denoising_loss(process, prediction, weight, network(params, label), scale * wave, t, noise) / samples

    def loss(params, state, batch, key):
        time_key, noise_key, label_key = jax.random.split(key, 3)
        label = drop_labels(batch["label"], DIGITS, unlabelled, label_key)
        return Out(error(params, batch["wave"], label, lognormal_times(process, time_key, len(label)), noise_key))

    def errors(state, batch, key):
        at = lambda t, key: error(state.params, batch["wave"], batch["label"], jnp.full(len(batch["label"]), t), key)
        keys = jax.random.split(key, len(LEVELS))
        found = {name: at(t, k) for (name, t), k in zip(LEVELS.items(), keys, strict=True)}
        return {"error": sum(found.values()) / len(found), **found}

    def draw(state, key, label):
        by_label = lambda z, t, label: denoise(state.params, label)(z, t)
        model = labelled(by_label, label, jnp.asarray(DIGITS), guidance)
        return heard(sampled(process, model, dpm_solver_2m(), grid, key, (len(label), samples)))

    def sample(state, key, n):  # one digit after the other
        return draw(state, key, jnp.arange(n) % DIGITS)

    def measure(state, batch, key):
        return {"real": batch["wave"], "drawn": draw(state, key, batch["label"]), "label": batch["label"]}

    def judged(rows):
        known = recordings.train.arrays
        levels = {"known": levels_of(known["wave"]), "real": levels_of(rows["real"]), "drawn": levels_of(rows["drawn"])}
        judge = judge_of_labels(levels["known"], known["label"], DIGITS)
        other = spread(known)["wave"]
        return {
            **{f"called_{who}": 100.0 * np.mean(judge(levels[who]) == rows["label"]) for who in ("drawn", "real")},
            "loudness": loudness_distance(rows["real"], rows["drawn"]),
            "loudness_real": loudness_distance(rows["real"], other),
            "spectrum": spectrum_distance(levels["real"], levels["drawn"]),
            "spectrum_real": spectrum_distance(levels["real"], levels_of(other)),
        }

    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, max(steps, 1))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule), ema(average))
    init = lambda key, batch: net.init(key, batch["wave"], jnp.zeros(len(batch["wave"])), batch["label"])
    share = "estimate, share of the squared error of the best guess sample by sample"
    quantities = {
        "error": Quantity(f"{share}, mean of {len(LEVELS)} levels", ""),
        **{
            name: Quantity(f"{share}, noise {t / DEVIATION:g} times as loud as sounds", "")
            for name, t in LEVELS.items()
        },
    }
    of = f"w = {guidance:g}, {sampling_steps} steps"
    kinds = {
        "called_drawn": Quantity(f"share of samples that a judge calls by their label, {of}", "%", "higher"),
        "called_real": Quantity("share of recordings that the judge calls by their label", "%", "higher"),
        "loudness": Quantity(f"Kolmogorov-Smirnov distance of loudness, {of}", ""),
        "loudness_real": Quantity("the same of training recordings", ""),
        "spectrum": Quantity(f"distance of mean log spectra, {of}", "dB"),
        "spectrum_real": Quantity("the same of training recordings", "dB"),
    }
    few = lambda split: split._replace(arrays=spread(split.arrays))
    return Experiment(
        stages=[Stage("diffwave", minimize(loss, tx, init), batches(recordings.train, batch_size), steps)],
        evaluations={
            "validation": Evaluation(errors, few(recordings.validation), 50, quantities),
            "test": Evaluation(errors, recordings.test, 50, quantities, final=True),
            "test_samples": Evaluation(measure, few(recordings.test), 50, kinds, final=True, of_all=judged),
        },
        sample=sample,
        shown=DIGITS,
        formats={".wav": lambda sounds: wav_file(sounds, RATE)},
        select="validation/error",
        data=recordings.name,
        denoising=Denoising(process, denoise, (samples,), lambda x: scale * x, heard, DIGITS),
    )


def spread(arrays):
    """About a hundred rows, evenly: the names are in order, zeros first."""
    return take(arrays, slice(None, None, max(len(arrays["label"]) // JUDGED, 1)))


def levels_of(sounds):
    return band_levels(sounds, stretches=min(6, 1 + (sounds.shape[1] - 256) // 128))

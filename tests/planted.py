"""How an oracle proves its worth: it must fail for a planted bug."""

import jax
import numpy as np
import pytest
import scipy.stats


def rejects(check, *planted):
    """The check fails with what is planted in place of the library's function."""
    with pytest.raises(AssertionError):
        check(*planted)


def check_frequencies(sample, log_prob, outcomes):
    """Chi-square of 20,000 samples of each of a few distributions against their probabilities: p > 1e-4."""
    probability = np.stack([np.exp(np.float64(log_prob(outcome))) for outcome in outcomes])
    drawn = np.asarray(sample(20_000, jax.random.key(0)))
    counts = np.stack([(np.abs(drawn - outcome) < 1e-4).sum(0) for outcome in outcomes])
    assert np.all(counts.sum(0) == 20_000), "a sample is none of the outcomes"
    for column in range(probability.shape[1]):
        likely = probability[:, column] > 3e-4  # the rest is one class: a chi-square needs a few counts in each
        expected = np.append(probability[likely, column], probability[~likely, column].sum()) * 20_000
        seen = np.append(counts[likely, column], counts[~likely, column].sum())
        fits = expected > 1e-2
        assert scipy.stats.chisquare(seen[fits], expected[fits] / expected[fits].sum() * seen[fits].sum()).pvalue > 1e-4

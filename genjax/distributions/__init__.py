"""Log-probabilities, Kullback-Leibler divergences and sampling: short pure functions of arrays.

Every log-probability and divergence is in nats and *per element*: it has the shape of its arguments (without the axis
of categories).  `event_sum` makes one number per example of it.  All shapes of one call must agree exactly (or be
scalars): the code base forbids implicit broadcasting between ranks.  Arguments in bfloat16 or float16 are converted to
float32 on entry; results are float32 (float64 for float64 arguments).  Sampling functions take their key last and
return the dtype of their first argument.

Pixels on a grid: an image with L levels holds the values level / (L - 1), level = 0 .. L-1, all in [0, 1].
"""

from genjax.distributions.arrays import event_sum, log_mean_exp, softplus, upcast
from genjax.distributions.discrete import (
    bernoulli_log_prob,
    categorical_log_prob,
    kl_bernoulli,
    kl_categorical,
    sample_bernoulli,
    sample_categorical,
)
from genjax.distributions.logistic import (
    discretized_logistic_log_prob,
    discretized_logistic_mean,
    sample_discretized_logistic,
)
from genjax.distributions.mixture import (
    logistic_mixture_log_prob,
    logistic_mixture_mean,
    sample_logistic_mixture,
)
from genjax.distributions.normal import kl_normal, kl_normal_standard, normal_log_prob, sample_normal
from genjax.distributions.relaxed import (
    concrete_log_prob,
    gumbel_log_prob,
    relaxed_bernoulli_log_prob,
    sample_concrete,
    sample_gumbel,
    sample_relaxed_bernoulli,
)
from genjax.distributions.units import (
    bits,
    bits_per_byte,
    bits_per_dim,
    bits_per_residue,
    nats_per_frame,
    perplexity,
)

__all__ = [
    "bernoulli_log_prob",
    "bits",
    "bits_per_byte",
    "bits_per_dim",
    "bits_per_residue",
    "categorical_log_prob",
    "concrete_log_prob",
    "discretized_logistic_log_prob",
    "discretized_logistic_mean",
    "event_sum",
    "gumbel_log_prob",
    "kl_bernoulli",
    "kl_categorical",
    "kl_normal",
    "kl_normal_standard",
    "log_mean_exp",
    "logistic_mixture_log_prob",
    "logistic_mixture_mean",
    "nats_per_frame",
    "normal_log_prob",
    "perplexity",
    "relaxed_bernoulli_log_prob",
    "sample_bernoulli",
    "sample_categorical",
    "sample_concrete",
    "sample_discretized_logistic",
    "sample_gumbel",
    "sample_logistic_mixture",
    "sample_normal",
    "sample_relaxed_bernoulli",
    "softplus",
    "upcast",
]

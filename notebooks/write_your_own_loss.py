# %% [markdown]
# # Write your own loss
#
# Ten minutes, one file of your own, nothing in the library touched.
#
# The objective built here replaces the Kullback-Leibler divergence of a variational autoencoder by a *maximum mean
# discrepancy* (MMD): the codes of a batch, taken together, shall look like draws from the prior. It is the InfoVAE
# objective with alpha = 1 of Zhao, Song and Ermon (2019, [arXiv:1706.02262](https://arxiv.org/abs/1706.02262),
# section 3),
#
# $$ \mathcal L(x) = -\log p(x \mid z) + \lambda\, \mathrm{MMD}^2\big(q(z), p(z)\big), \qquad z \sim q(z \mid x). $$
#
# You need to know one contract. A loss is a pure function
#
#     (params, state, batch, key) -> Out(loss, metrics)
#
# that returns **one number per example, in nats**. `params` is the only argument that is differentiated; `state` can be
# read (`state.step` for a warm-up); `key` is fresh at every step. The library takes the mean over the batch.

# %% [markdown]
# ## 1. The mathematics, as a function of arrays
#
# With a kernel $k$, and $z_i \sim q$, $e_j \sim p$, the unbiased estimate of the squared discrepancy is (Gretton et al.
# 2012, *A Kernel Two-Sample Test*, JMLR 13, eq. 3)
#
# $$ \mathrm{MMD}^2 = \tfrac{1}{n(n-1)}\sum_{i\ne j} k(z_i, z_j) + \tfrac{1}{n(n-1)}\sum_{i\ne j} k(e_i, e_j)
#    - \tfrac{2}{n^2}\sum_{i,j} k(z_i, e_j). $$
#
# The cell below writes the file; it will grow into the whole experiment.

# %%
import os
import pathlib
import tempfile

os.chdir(tempfile.mkdtemp())
pathlib.Path("mmd.py").write_text('''
import jax.numpy as jnp


def kernel(a, b, scale):
    """exp(-|a - b|^2 / scale) for all pairs: [n, D], [m, D] -> [n, m]."""
    return jnp.exp(-jnp.sum((a[:, None] - b[None, :]) ** 2, axis=-1) / scale)


def mmd(z, e):
    """The unbiased squared discrepancy of two samples [n, D]: a scalar, zero in expectation where the laws agree."""
    n, scale = z.shape[0], 2.0 * z.shape[1]
    apart = 1.0 - jnp.eye(n)
    within = jnp.sum(apart * (kernel(z, z, scale) + kernel(e, e, scale))) / (n * (n - 1))
    return within - 2.0 * jnp.mean(kernel(z, e, scale))
''')

# %% [markdown]
# ## 2. An oracle first
#
# Before a loss trains anything, check it against something known exactly. For $z \sim N(m, I)$ and $e \sim N(0, I)$ in
# $D$ dimensions and this kernel of scale $2D$, integrating Gaussians gives
#
# $$ \mathrm{MMD}^2 = 2\left(\frac{s}{s + 4}\right)^{D/2}\left(1 - e^{-|m|^2 / (s + 4)}\right), \qquad s = 2D. $$
#
# Ten thousand pairs in small batches must reproduce it within five standard errors; a sign error or a forgotten factor
# 2 does not survive that.

# %%
import jax
import numpy as np
from mmd import mmd

D, shift, scale = 3, 0.8, 6.0
exact = 2 * (scale / (scale + 4)) ** (D / 2) * (1 - np.exp(-D * shift**2 / (scale + 4)))

z, e = jax.random.normal(jax.random.key(0), (2, 200, 50, D))
estimates = np.asarray(jax.vmap(mmd)(z + shift, e))
mean, error = estimates.mean(), estimates.std() / np.sqrt(len(estimates))
print(f"exact {exact:.4f}   measured {mean:.4f} ± {error:.4f}")
assert abs(mean - exact) < 5 * error

estimates = np.asarray(jax.vmap(mmd)(z, e))  # the same law: zero, and the unbiased estimate is often negative
assert abs(estimates.mean()) < 5 * estimates.std() / np.sqrt(len(estimates))

# %% [markdown]
# ## 3. The experiment: one file
#
# The signature of `experiment` is the configuration: each argument becomes a typed option of the command line. The loss
# adds a penalty of the whole batch to every example's own distortion, which keeps the contract of one number per
# example.

# %%
with open("mmd.py", "a") as file:
    file.write('''

import flax.linen as nn
import jax
import optax

from genjax import Count, Evaluation, Experiment, NonNegative, Out, Positive, Quantity, Stage, ema, minimize
from genjax.data import batches, digits
from genjax.distributions import sample_normal
from genjax.models.blocks import MLP
from genjax.models.observation import categorical
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder


def experiment(
    weight: NonNegative = 200.0, latents: Count = 8, learning_rate: Positive = 1e-3, steps: int = 1_000
) -> Experiment:
    """InfoVAE with an MMD penalty on handwritten digits.

    Args:
      weight: lambda, nats per unit of squared discrepancy.
      latents: dimensions of z.
      learning_rate: Adam's.
      steps: updates.
    """
    data, likelihood = digits(), categorical(17)
    hidden = lambda: MLP((128, 128), nn.relu)
    model = VAE(DenseEncoder(latents, hidden()), DenseDecoder((8, 8, 1), likelihood.multiplier, hidden()))

    def loss(params, state, batch, key):
        code_key, prior_key = jax.random.split(key)
        z = sample_normal(*model.apply(params, batch["image"], method="encode"), code_key)
        distortion = -likelihood.log_prob(model.apply(params, z, method="decode"), batch["image"])
        penalty = mmd(z, jax.random.normal(prior_key, z.shape))
        return Out(distortion + weight * penalty, {"distortion": distortion, "mmd": penalty})

    def measure(state, batch, key):
        return {"distortion": loss(state.params, state, batch, key).metrics["distortion"]}

    def sample(state, key, n):
        z = jax.random.normal(key, (n, latents))
        return likelihood.mean(model.apply(state.params, z, method="decode"))

    tx = optax.chain(optax.adam(learning_rate), ema(0.99))
    learner = minimize(loss, tx, lambda key, batch: model.init(key, batch["image"]))
    return Experiment(
        stages=[Stage("vae", learner, batches(data.train, 100), steps, steps_per_call=50)],
        evaluations={"validation": Evaluation(measure, data.validation, 250, {"distortion": Quantity("estimate")})},
        sample=sample,
        data="digits",
    )
''')

# %% [markdown]
# ## 4. Train it
#
# The same command as for the experiments of the library. `--help` would list `weight`, `latents`, `learning_rate` and
# `steps` with their types and defaults.

# %%
import subprocess
import sys


def genjax(*arguments):
    done = subprocess.run([sys.executable, "-m", "genjax", *arguments], capture_output=True, text=True)
    print(done.stdout[-1500:], done.stderr[-500:] if done.returncode else "")
    assert done.returncode == 0


genjax("train", "mmd.py", "--workdir", "run", "--steps", "1000")

# %%
genjax("sample", "run", "--n", "40", "--out", "samples.png")

from IPython.display import Image

Image("samples.png")

# %% [markdown]
# ## 5. Did the penalty do its work?
#
# Without it nothing draws the codes towards the prior, and the discrepancy of the trained encoder shows it. The log of
# a run is a file of JSON lines.

# %%
import json

genjax("train", "mmd.py", "--workdir", "without", "--steps", "1000", "--weight", "0")


def last(run, metric):
    rows = [json.loads(line) for line in open(f"{run}/metrics.jsonl")]
    return [row[metric] for row in rows if row["kind"] == "train"][-1]


for run in ("run", "without"):
    print(f"{run:8} distortion {last(run, 'distortion'):6.2f} nats   squared discrepancy {last(run, 'mmd'):.4f}")
assert last("run", "mmd") < 0.2 * last("without", "mmd")

# %% [markdown]
# ## What to change next
#
# * Another penalty or bound: a function of arrays in your file; give it an oracle as in step 2.
# * Two networks against each other: `genjax.alternate` takes one loss and one optimizer a player.
# * Persistent chains, an EMA codebook, batch statistics: return them as `Out(loss, carry=...)`, read `state.carry`.
# * Several phases: `Experiment(stages=[...])`; `Stage(inherit=...)` says what the next phase takes over.

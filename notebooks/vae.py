# %% [markdown]
# # Variational autoencoders
#
# One network on scikit-learn's digits, offline, in about a minute: what its bound is made of, how loose it is, and
# what lies between two codes. With $z \sim q(z \mid x)$ and the prior $p(z) = N(0, I)$,
#
# $$ -\log p(x) \;\le\; \underbrace{\mathrm{E}[-\log p(x \mid z)]}_{\text{distortion}}
#    + \underbrace{\mathrm{KL}(q(z \mid x) \,\|\, p(z))}_{\text{rate}} $$
#
# (Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014, [arXiv:1312.6114](https://arxiv.org/abs/1312.6114)). The
# right side is a number of nats that certainly suffice; by how much it is above the left side is not known from it.
#
# ## 1. Train one
#
# The experiment is [vae_digits.py](../experiments/vae_digits.py), shortened. Its results say what each number is.

# %%
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

EXPERIMENTS = pathlib.Path("../experiments").resolve()
os.chdir(tempfile.mkdtemp())


def genjax(command):
    done = subprocess.run([sys.executable, "-m", "genjax", *shlex.split(command)], capture_output=True, text=True)
    print(done.stdout[-1500:], done.stderr[-500:] if done.returncode else "")
    assert done.returncode == 0


def results(run):
    return {line["name"]: line["value"] for line in json.load(open(f"{run}/results.json"))["results"]}


genjax(f"train '{EXPERIMENTS}/vae_digits.py' --workdir vae --steps 1000 --samples 100 --evaluate-every 1000")

found = results("vae")
assert abs(found["test/rate"] + found["test/distortion"] - found["test/neg_elbo"]) < 1e-3
assert found["test/neg_iwae"] < found["test/neg_elbo"]

# %% [markdown]
# ## 2. Rate against distortion
#
# A weight $\beta$ on the rate (Higgins et al., *beta-VAE*, 2017) chooses a point between two ends: codes that say all
# of the image, and codes that say nothing. Every point is a model; the one with $\beta = 1$ is trained for the bound.
# `sweep --vmap` trains all three in one compiled program.

# %%
genjax(f"sweep '{EXPERIMENTS}/vae_digits.py' beta=0.25,1,4 --vmap --workdir betas --steps 600 --samples 20")
points = []
for run in pathlib.Path("betas").glob("*/results.json"):
    beta = json.load(open(run.parent / "config.json"))["experiment"]["fields"]["beta"]
    points.append((beta, results(run.parent)["test/rate"], results(run.parent)["test/distortion"]))
points.sort()
for beta, rate, distortion in points:
    print(f"beta {beta:4}   rate {rate:5.1f}   distortion {distortion:5.1f}   sum {rate + distortion:6.1f} nats")
betas, rates, distortions = zip(*points, strict=True)
assert betas == (0.25, 1.0, 4.0)
assert rates[0] > rates[1] > rates[2] and distortions[0] < distortions[1] < distortions[2]

# %% [markdown]
# ## 3. How loose is the bound?
#
# With $k$ codes of each image the average of the weights $w_i = p(x, z_i) / q(z_i \mid x)$ gives
# $L_k = \mathrm{E} \log \frac1k \sum_i w_i$, which is minus the bound above for $k = 1$ and rises to $\log p(x)$
# (Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
# [arXiv:1509.00519](https://arxiv.org/abs/1509.00519), theorem 1). Losses and estimates take functions of arrays; here
# they are those of the run, whose network is built again and given the trained parameters.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.data import digits
from genjax.evaluate import averaged_state
from genjax.likelihood.iwae import importance_sampling, normal_log_weights
from genjax.models.blocks import MLP
from genjax.models.observation import discretized_logistic
from genjax.models.vae import VAE, DenseDecoder, DenseEncoder
from genjax.saved import open_run

pixels = discretized_logistic(17)
hidden = lambda: MLP((256, 256), nn.relu)
model = VAE(DenseEncoder(16, hidden()), DenseDecoder((8, 8, 1), pixels.multiplier, hidden()))
params = averaged_state(open_run("vae", None, None, None).state).params
x = jnp.asarray(digits().test.arrays["image"] / 16, jnp.float32)

mean, log_var = model.apply(params, x, method="encode")
log_p = lambda z: pixels.log_prob(model.apply(params, z, method="decode"), x)
log_weights = lambda key, n: normal_log_weights(log_p, mean, log_var, key, n)
bounds = {}
for k in (1, 10, 100):
    estimate = importance_sampling(log_weights, jax.random.key(0), k)
    bounds[k], carry = -np.asarray(estimate.bound), float(estimate.effective.mean())
    print(f"k = {k:3}   -log p(x) <= {bounds[k].mean():.2f} nats   {carry:5.1f} of {k} samples carry the estimate")


def rise(few, many):
    gain = bounds[few] - bounds[many]  # of the same images, so that hard and easy ones cancel
    return gain.mean() / (gain.std() / np.sqrt(len(gain)))


assert rise(1, 10) > 5 and rise(10, 100) > 5  # standard errors

# %% [markdown]
# ## 4. Between two codes
#
# Draws of $N(0, I)$ in $D$ dimensions have a norm near $\sqrt D$. Half-way between two of them the straight line has
# $\sqrt{1/2}$ of it, where the decoder was hardly ever trained; the arc keeps the norm (White, *Sampling Generative
# Networks*, 2016, [arXiv:1609.04468](https://arxiv.org/abs/1609.04468)). The picture shows arcs between the codes of
# test digits, a row each.

# %%
from IPython.display import Image

from genjax.report import grid, save_png
from genjax.samplers.latents import interpolate, interpolate_spherical

first, last = jax.random.normal(jax.random.key(1), (2, 5000, 16))
norm = lambda z: float(jnp.linalg.norm(z, axis=1).mean())
straight, arc = (norm(walk(first, last, 3)[1]) / norm(first) for walk in (interpolate, interpolate_spherical))
print(f"norm half-way, against the ends: straight {straight:.3f}, arc {arc:.3f}")
assert abs(straight - np.sqrt(0.5)) < 0.02 and abs(arc - 1) < 0.02

walks = interpolate_spherical(mean[:6], mean[6:12], 9)  # [9, 6, 16]
images = pixels.mean(model.apply(params, walks.swapaxes(0, 1).reshape(-1, 16), method="decode"))
Image(save_png("walks.png", grid(images, columns=9)).read_bytes())

# %% [markdown]
# ## What to change next
#
# * Fewer latents, or a larger weight of the rate: `genjax train experiments/vae_digits.py --latents 2 --beta 2`; the
#   run's `diagnostics.txt` says how many latents are used.
# * A posterior that bends: `genjax train experiments/iaf_digits.py`; the bound in training itself by many samples:
#   `genjax train experiments/iwae_mnist.py --k 50`.
# * The bound in bytes: `genjax compress FILE --run RUN` codes pictures by bits back, to the size that the bound says.
# * Another penalty in place of the rate: the page [Write your own loss](write_your_own_loss.ipynb).

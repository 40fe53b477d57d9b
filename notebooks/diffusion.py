# %% [markdown]
# # Diffusion
#
# Points in the plane whose density is known, offline, in about a minute. A forward process
# $z_t = \alpha_t x + \sigma_t \epsilon$ turns data into noise; a network is trained once, to say what the data were;
# how samples are drawn from it is chosen afterwards. Here the truth is at hand, so that samplers and densities are
# measured against it.
#
# ## 1. Train one: a file
#
# The network predicts $v = \alpha \epsilon - \sigma x$ along a quarter of a circle; `denoiser` turns that into
# $\mathrm{E}[x \mid z_t]$, which is all that samplers and likelihoods ask of a model.

# %%
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

os.chdir(tempfile.mkdtemp())
pathlib.Path("points.py").write_text('''
"""Diffusion of four normals in the plane."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Experiment, Out, Positive, Stage, ema, minimize
from genjax.corruption import predictions
from genjax.corruption.schedules import cosine
from genjax.corruption.times import uniform_times
from genjax.data import Split, batches, unchanged
from genjax.losses.denoising import denoising_loss, v_error
from genjax.models.points import PointDenoiser
from genjax.samplers.ddim import dpm_solver_2m
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform

CENTRES, DEVIATION = 1.4 * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]), 0.3
forward, net = cosine(0.01, 0.995), PointDenoiser(64, 2)


def points(count, seed):
    """[count, 2] of the truth."""
    rng = np.random.default_rng(seed)
    return (CENTRES[rng.integers(4, size=count)] + DEVIATION * rng.normal(size=(count, 2))).astype(np.float32)


def log_truth(x):
    """log p of points [B, 2], nats."""
    away = jnp.sum((x[:, None] - jnp.float32(CENTRES)[None]) ** 2, axis=2)
    return jax.nn.logsumexp(-0.5 * away / DEVIATION**2, axis=1) - np.log(4 * 2 * np.pi * DEVIATION**2)


def network(params):
    return lambda z, t: net.apply(params, z, 1000.0 * t)


def denoise(params):
    return predictions.denoiser(forward, predictions.v, network(params))


def experiment(learning_rate: Positive = 3e-3, steps: int = 3_000) -> Experiment:
    """A perceptron that sees the level of noise in every layer.

    Args:
      learning_rate: Adam's; it falls to zero along a cosine.
      steps: updates.
    """

    def loss(params, state, batch, key):
        time_key, noise_key = jax.random.split(key)
        t = uniform_times(forward, time_key, len(batch["x"]))
        noise = jax.random.normal(noise_key, batch["x"].shape)
        return Out(denoising_loss(forward, predictions.v, v_error, network(params), batch["x"], t, noise))

    def sample(state, key, n):
        return sampled(forward, denoise(state.params), dpm_solver_2m(), uniform(forward, 50), key, (n, 2))

    init = lambda key, batch: net.init(key, batch["x"], jnp.zeros(len(batch["x"])))
    tx = optax.chain(optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1))), ema(0.99))
    data = batches(Split({"x": points(50_000, 0)}, unchanged), 256)
    return Experiment([Stage("points", minimize(loss, tx, init), data, steps, steps_per_call=50)], sample=sample)
''')


def genjax(command):
    done = subprocess.run([sys.executable, "-m", "genjax", *shlex.split(command)], capture_output=True, text=True)
    print(done.stdout[-1000:], done.stderr[-500:] if done.returncode else "")
    assert done.returncode == 0


genjax("train points.py --workdir run --evaluate-every 3000")

# %% [markdown]
# ## 2. The same network by several samplers
#
# Each has fifty steps; a step of Heun's asks the network twice. The mean of $-\log p$ of the truth at samples of the
# truth is its entropy: samples whose mean is higher lie where the truth is thin, lower, where it is dense. That number
# alone would praise a sampler that draws one point over and over; the share of each mode stands beside it.

# %%
import jax
import numpy as np
from points import CENTRES, denoise, forward, log_truth, points

from genjax.evaluate import averaged_state
from genjax.samplers.ddim import ancestral, ddim, dpm_solver_2m
from genjax.samplers.diffusion import sample, sample_from
from genjax.samplers.grids import uniform, uniform_log_snr
from genjax.samplers.ode import heun
from genjax.saved import open_run

model = denoise(averaged_state(open_run("run", None, None, None).state).params)
solvers = {"DDPM": ancestral(), "DDIM": ddim(), "DPM-Solver++(2M)": dpm_solver_2m(), "Heun": heun()}
shares = lambda x: np.bincount(((x[:, None] - CENTRES[None]) ** 2).sum(axis=2).argmin(axis=1), minlength=4) / len(x)

test = points(4000, 1)
entropy = float(-log_truth(test).mean())
print(f"{'the truth':17} {entropy:.3f} nats   {np.round(shares(test), 2)}")
for name, solver in solvers.items():
    draw = jax.jit(lambda key, solver=solver: sample(forward, model, solver, uniform(forward, 50), key, (4000, 2)))
    drawn = np.asarray(draw(jax.random.key(0)))
    nats = float(-log_truth(drawn).mean())
    print(f"{name:17} {nats:.3f} nats   {np.round(shares(drawn), 2)}")
    assert abs(nats - entropy) < 0.2 and np.abs(shares(drawn) - 0.25).max() < 0.05

# %% [markdown]
# ## 3. Steps against error
#
# DDIM, DPM-Solver++(2M) and Heun follow one equation without noise, so that from one draw of noise they come to one
# point, each with an error $N^{-p}$ of its order $p$: 1, 2 and 2. The error is the distance to where Heun comes in 400
# steps. Of the truth $\mathrm{E}[x \mid z_t]$ is known in closed form, and with it the solvers show their orders; with
# the network in its place the second order ends sooner, since a trained network is not as smooth in $t$.

# %%
import jax.numpy as jnp
from points import DEVIATION

from genjax.corruption.gaussian import point


def truth(z, t):
    at = point(forward, t)
    alpha, sigma = at.alpha[:, None], at.sigma[:, None]
    variance = (alpha * DEVIATION) ** 2 + sigma**2
    away = z[:, None] - alpha[:, None] * jnp.float32(CENTRES)[None]  # [B, 4, 2]
    share = jax.nn.softmax(-0.5 * (away**2).sum(axis=2) / variance, axis=1)[:, :, None]
    return (share * (CENTRES[None] + (alpha * DEVIATION**2 / variance)[:, None] * away)).sum(axis=1)


def ends(known, solver, steps):
    grid, key = uniform(forward, steps), jax.random.key(0)
    return np.asarray(jax.jit(lambda z: sample_from(forward, known, solver, grid, key, z))(z))


z, orders = jax.random.normal(jax.random.key(1), (1000, 2)), {}
for of, known in {"truth": truth, "network": model}.items():
    limit = ends(known, heun(), 400)
    for name in ("DDIM", "DPM-Solver++(2M)", "Heun"):
        counts = (10, 20, 40) if name == "Heun" else (20, 40, 80)  # of 20, 40 and 80 calls
        errors = [np.linalg.norm(ends(known, solvers[name], n) - limit, axis=1).mean() for n in counts]
        orders[of, name] = np.log2(errors[1] / errors[2])
        shown = "   ".join(f"{error:.4f}" for error in errors)
        print(f"{of:7} {name:17} {shown}   order {orders[of, name]:4.1f}")
        assert errors[2] < errors[0]
assert 0.8 < orders["truth", "DDIM"] < 1.2
assert all(1.7 < orders["truth", name] < 2.3 for name in ("DPM-Solver++(2M)", "Heun"))

# %% [markdown]
# ## 4. The density, by the same equation
#
# Followed from the data to the noise, the equation is a change of variables, and $\log p(x)$ is what its divergence
# sums up to (Song et al., 2021, [arXiv:2011.13456](https://arxiv.org/abs/2011.13456), section 4.3). In the plane the
# divergence is exact, the steps are the only error, and two things must hold: the density integrates to 1, and on
# average over test points it is no better than the truth. The picture shows the truth, left, and the model.

# %%
from IPython.display import Image

from genjax.likelihood.probability_flow import exact_divergence, log_density
from genjax.report import grid, save_png

log_model = jax.jit(lambda x: log_density(forward, model, uniform_log_snr(forward, 80), exact_divergence, x))
line = np.linspace(-3, 3, 60, dtype=np.float32)
plane = np.stack(np.meshgrid(line, line[::-1]), axis=-1).reshape(-1, 2)
total = float(np.exp(log_model(plane)).sum() * (line[1] - line[0]) ** 2)
worse = np.asarray(log_truth(test) - log_model(test))
print(f"integral {total:.4f}")
print(f"test -log p(x): truth {entropy:.3f}, model {entropy + worse.mean():.3f} nats, ", end="")
print(f"difference {worse.mean():.3f} ± {worse.std() / np.sqrt(len(worse)):.3f}")
assert abs(total - 1) < 0.02
assert -4 * worse.std() / np.sqrt(len(worse)) < worse.mean() < 0.15

both = np.exp(np.stack([log_truth(plane), log_model(plane)])).reshape(2, 60, 60, 1)
Image(save_png("densities.png", grid(both / both.max(), columns=2, scale=3)).read_bytes())

# %% [markdown]
# ## What to change next
#
# * Another process, noise paired with data by optimal transport, the bound beside the density:
#   `genjax train experiments/diffusion_points.py --noising flow --paired`.
# * One step in place of fifty: `genjax train experiments/consistency_points.py` distils a student.
# * Digits, and then the sampler, its steps and the guidance as options:
#   `genjax train experiments/diffusion_digits.py --workdir digits`, then
#   `genjax sample digits --sampler heun --steps 20 --guidance 2 --label 7`.
# * Missing pixels: `genjax edit digits --image digit.png --mask mask.png`.
# * Discrete data: `genjax train experiments/masked_mnist.py`, `genjax train experiments/masked_text.py`.

# %% [markdown]
# # Boltzmann machines
#
# A restricted Boltzmann machine on scikit-learn's digits in black and white, offline, in about a minute. It has
#
# $$ p(v, h) = \frac{e^{-E(v, h)}}{Z}, \qquad E(v, h) = -v \cdot b - h \cdot c - v W h, $$
#
# and everything about it is easy but $Z$, a sum over all states. Here the machines are small enough for the exact sum,
# so that estimates can be checked before one has to trust them.
#
# ## 1. log Z three ways
#
# Either side can be summed by hand, which leaves the free energies $F(v)$ and $F(h)$. So $Z$ is a sum over $v$, a sum
# over $h$, or a sum over both; on a random machine of six visible and three hidden units they must agree.

# %%
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from genjax.likelihood.ais import enumerated_log_partition, temperatures
from genjax.models.rbm import RBM, Weights, gibbs_step, machine
from genjax.models.visible import bernoulli_units

EXPERIMENTS = pathlib.Path("../experiments").resolve()
os.chdir(tempfile.mkdtemp())

w, b, c = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(6, 3), (6,), (3,)]))
small = machine(Weights(w, b, c), bernoulli_units(6))
states = lambda n: jnp.asarray(np.arange(2**n)[:, None] >> np.arange(n)[None] & 1, jnp.float32)
pairs = jnp.repeat(states(6), 8, axis=0), jnp.tile(states(3), (64, 1))
ways = {
    "over v": enumerated_log_partition(small.free_energy, 6),
    "over h": enumerated_log_partition(small.hidden_free_energy, 3),
    "over both": jax.nn.logsumexp(-small.energy(*pairs)),
}
print({name: round(float(value), 4) for name, value in ways.items()})
assert max(ways.values()) - min(ways.values()) < 1e-4

# %% [markdown]
# ## 2. Train one
#
# [rbm_digits.py](../experiments/rbm_digits.py), shortened: 64 pixels, 16 hidden units, persistent chains. With 65,536
# states of the hidden side its likelihood is exact.


# %%
def genjax(command):
    done = subprocess.run([sys.executable, "-m", "genjax", *shlex.split(command)], capture_output=True, text=True)
    print(done.stdout[-2500:], done.stderr[-500:] if done.returncode else "")
    assert done.returncode == 0


genjax(f"train '{EXPERIMENTS}/rbm_digits.py' --workdir rbm --steps 10000 --betas 100 --evaluate-every 10000")

# %% [markdown]
# ## 3. log Z by annealing, there and back
#
# Annealed importance sampling walks from independent pixels to the machine; in expectation it ends below $\log Z$
# (Neal, 2001). The same path walked back from samples of the machine ends above (Burda, Grosse and Salakhutdinov, 2015,
# [arXiv:1412.8566](https://arxiv.org/abs/1412.8566)), *if* the samples are exact. Here they can be: a hidden state is
# drawn from the list of all, the pixels given it. Both ends close in on the exact number as temperatures are added.

# %%
from genjax.distributions import bernoulli_log_prob, event_sum
from genjax.models.centering import machine_of
from genjax.models.partition import annealed_back, annealed_there
from genjax.saved import open_run

sys.path.insert(0, str(EXPERIMENTS))
from rbm_digits import binary_base, binary_digits, binary_pictures

state = open_run("rbm", None, None, None).state
of = machine_of(RBM(bernoulli_units(64), 16, centred=True), state)
data = binary_digits()
base = jnp.asarray(binary_base(data.train.arrays["image"]))
exact = float(enumerated_log_partition(of.hidden_free_energy, 16))


def exact_samples(n, key):
    choice_key, pixel_key = jax.random.split(key)
    every = states(16)
    share = jax.nn.softmax(-of.hidden_free_energy(every))
    return of.draw_visible(jax.random.choice(choice_key, every, (n,), p=share), pixel_key)


gaps = []
for count in (3, 30, 300):
    betas = temperatures((count, 1.0))
    there = annealed_there(of, base, 200, betas, jax.random.key(1))
    back = annealed_back(of, base, exact_samples(200, jax.random.key(2)), betas, jax.random.key(3))
    (low, low_error), (high, high_error) = ((float(w.value), float(w.standard_error)) for w in (there, back))
    print(f"{count:4} temperatures   {low:.3f} ± {low_error:.3f}   exact {exact:.3f}   {high:.3f} ± {high_error:.3f}")
    gaps.append(high - low)
assert low - 5 * low_error < exact < high + 5 * high_error
assert abs(gaps[2]) < abs(gaps[0])

test = jnp.asarray(data.test.arrays["image"].reshape(250, -1), jnp.float32)
nats = np.asarray(of.free_energy(test)) + exact
alone = -np.asarray(event_sum(bernoulli_log_prob(test, base[None])))
print(f"test -log p(x), exact: {nats.mean():.2f} nats, of independent pixels {alone.mean():.2f}")
assert nats.mean() < alone.mean()

# %% [markdown]
# ## 4. Gibbs chains
#
# A step draws all hidden units given the pixels, then all pixels given those. It must leave the law of the machine as
# it is: exact samples stay samples, however long. A chain that starts elsewhere comes to that law, in as many steps as
# the machine needs to mix; the mean free energy tells how far it is. The picture shows eight chains that start blank,
# 20 steps from one picture to the next.

# %%
from IPython.display import Image

from genjax.report import grid, save_png
from genjax.samplers.gibbs import along_chain, run_chain

step, n = gibbs_step(of), 2000
truth = np.asarray(of.free_energy(exact_samples(n, jax.random.key(4))))
print(f"free energy of exact samples {truth.mean():.3f} ± {truth.std() / np.sqrt(n):.3f}")
starts = {"exact": exact_samples(n, jax.random.key(5)), "blank": jnp.zeros((n, 64))}
away = {}
for name, v in starts.items():
    for count in (1, 10, 100):
        now = np.asarray(of.free_energy(run_chain(step, v, jax.random.key(6), count)))
        error = np.hypot(now.std(), truth.std()) / np.sqrt(n)
        away[name, count] = abs(now.mean() - truth.mean()) / error
        print(f"{name:5} after {count:3} steps {now.mean():8.3f}   {away[name, count]:6.1f} standard errors away")
assert max(away["exact", count] for count in (1, 10, 100)) < 5
assert away["blank", 1] > 5 and away["blank", 100] < away["blank", 1]

seen = along_chain(step, jnp.zeros((8, 64)), jax.random.key(7), 12, 20)  # [12, 8, 64]
Image(save_png("chains.png", grid(binary_pictures(seen.swapaxes(0, 1).reshape(-1, 64)), columns=12)).read_bytes())

# %% [markdown]
# ## What to change next
#
# * Chains from the data in place of persistent ones, more steps an update, no centering:
#   `genjax train experiments/rbm_digits.py --no-persistent --k 5`, `--no-centred`.
# * All 17 grey levels, beside the likelihoods of other families: `genjax train experiments/rbm_digits.py --grey`.
# * Machines whose $Z$ nobody can sum: `genjax train experiments/rbm_mnist.py`; there and back stand in its results, and
#   where they disagree, the chains have not mixed.
# * Deeper: `genjax train experiments/dbn_mnist.py`, `genjax train experiments/dbm_mnist.py`.

# %% [markdown]
# # Families side by side
#
# Which architecture for my data? `genjax compare` trains, or takes, a member of each family on one data set and writes
# one table: what is known of $-\log p(x)$, with its kind; how samples stand to test images, measured alike; what it
# cost. And it says which conclusions the numbers support. Here are three tiny runs on scikit-learn's digits, offline,
# in about a minute: they show the command, and nothing about the families, which are trained far too briefly.

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


def genjax(*words):
    done = subprocess.run([sys.executable, "-m", "genjax", *words], capture_output=True, text=True)
    print(done.stdout[-4000:], done.stderr[-500:] if done.returncode else "")
    assert done.returncode == 0


pathlib.Path("pixels.py").write_text('''
"""Independent pixels: how often each has each of its 17 levels."""

import jax
import jax.numpy as jnp
import optax

from genjax import Evaluation, Experiment, Out, Quantity, Stage, minimize
from genjax.data import batches, digits
from genjax.distributions import categorical_log_prob, event_sum


def experiment(learning_rate: float = 0.1, steps: int = 300):
    data = digits()

    def nll(params, batch):
        levels = jnp.round(batch["image"].reshape(-1, 64) * 16)
        return -event_sum(categorical_log_prob(levels, params["logits"][None]))

    def sample(state, key, n):
        return jax.random.categorical(key, state.params["logits"], shape=(n, 64)).reshape(n, 8, 8, 1) / 16.0

    loss = lambda params, state, batch, key: Out(nll(params, batch))
    measure = lambda state, batch, key: {"nll": nll(state.params, batch)}
    learner = minimize(loss, optax.adam(learning_rate), lambda key, batch: {"logits": jnp.zeros((64, 17))})
    test = Evaluation(measure, data.test, 250, {"nll": Quantity("exact -log p(x)")}, final=True)
    stages = [Stage("pixels", learner, batches(data.train, 100), steps)]
    return Experiment(stages, {"test": test}, sample, data=data.name)
''')

ours = shlex.quote(str(EXPERIMENTS))
genjax(
    *("compare", "pixels.py", f"{ours}/vae_digits.py --steps 600 --samples 50", f"{ours}/gan_digits.py --steps 500"),
    *("--workdir", "three", "--n", "200"),
)

# %% [markdown]
# ## What the numbers are
#
# Independent pixels have an exact likelihood, a variational autoencoder an upper bound of
# $-\log p(x)$, a GAN none. An upper bound is what the test set costs at most: runs are ordered by what is guaranteed.

# %%
told = json.load(open("three/compare.json"))
table = {run["name"].partition("-")[0]: run for run in told["runs"]}
for name, run in table.items():
    known = run["likelihood"]
    nats = f"{known['value']:.2f} ± {known['error']:.2f} nats, {known['kind']}" if known else "no likelihood"
    print(f"{name:11} {nats}; precision {run['scores']['precision']:.3f}, recall {run['scores']['recall']:.3f}")
sorts = {name: run["likelihood"] and run["likelihood"]["sort"] for name, run in table.items()}
assert sorts == {"vae_digits": "upper bound", "pixels": "exact", "gan_digits": None}
assert len({run["tested"] for run in table.values()}) == 1  # the same test examples

# %% [markdown]
# ## What they support
#
# That model A is better than B is shown only where a number that A certainly reaches is below one that B certainly does
# not: $l_B - u_A > 2 \sqrt{s_A^2 + s_B^2}$, with $s$ the standard errors. An upper bound that is higher than another
# number shows nothing, because it may be loose, and a run without a likelihood is no worse and no better for that. Say
# all that could be known of three models, and ask:

# %%
from genjax.compare.evidence import Likelihood, findings, shown_better

exact, bound = Likelihood(80.0, 0.5, "exact", ""), Likelihood(82.0, 0.5, "upper bound", "")
far = Likelihood(90.0, 0.5, "exact", "")
assert not shown_better(exact, bound)  # the bound's model may be better than 80
assert shown_better(bound, far) and not shown_better(far, bound)
print("\n".join(findings({"exact": exact, "bound": bound, "far": far})))

# %% [markdown]
# The sentences of the three runs, and the command that is suggested next:

# %%
known = {name: Likelihood(**run["likelihood"]) for name, run in table.items() if run["likelihood"]}
print("\n".join(told["conclusions"]))
print(told["next"])
assert shown_better(known["vae_digits"], known["pixels"])  # its bound is below an exact number
assert any("gan_digits" in line and "no likelihood is known" in line for line in told["conclusions"])

# %% [markdown]
# ## Samples
#
# Ten of each run, a row each, in the order of the table. The page `three/compare.html` has forty, with the table and
# the sentences.

# %%
from IPython.display import Image

Image("three/compare.png")

# %% [markdown]
# ## What to change next
#
# * The families in full, in minutes: `genjax compare @experiments/families_digits.txt --jobs 2`.
# * Beside published numbers, with binarized MNIST prepared (`--published` takes a table of papers):
#   `genjax compare @experiments/families_binarized_mnist.txt --published experiments/published_binarized_mnist.csv`.
# * Runs that are there: `genjax compare RUN RUN`; runs on different data are refused by name.
# * One family, several settings: `genjax sweep experiments/vae_digits.py latents=4,16,64 seed=0:2`.
# * Whether a published number is reached: `genjax reproduce` lists the rows of papers, and `genjax reproduce ROW`
#   trains and judges one.

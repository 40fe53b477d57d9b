# %% [markdown]
# # Generative adversarial networks
#
# A generator and a critic on scikit-learn's digits, offline, in about a minute. There is no likelihood: samples are
# judged as a set, and two numbers are needed, because a model may draw well and little, or all kinds and badly.
#
# ## 1. Two numbers, on sets whose answers are known
#
# A set is covered by a ball around each of its points that reaches its third neighbour. *Precision* is the share of
# samples inside the balls of real points, *recall* the share of real points inside the balls of samples (Kynkäänniemi
# et al., 2019, [arXiv:1904.06991](https://arxiv.org/abs/1904.06991)). Below, the real points have two modes, and three
# models are judged: the truth, one that has lost a mode, and one that blurs.

# %%
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import numpy as np

from genjax.metrics.samples import neighbourhoods

EXPERIMENTS = pathlib.Path("../experiments").resolve()
os.chdir(tempfile.mkdtemp())
rng = np.random.default_rng(0)


def two_modes(count, spread=1.0):
    return spread * rng.normal(size=(count, 2)) + np.where(rng.random(count) < 0.5, -10.0, 10.0)[:, None]


real = two_modes(500)
models = {
    "the truth": two_modes(500),
    "one mode of two": rng.normal(size=(500, 2)) + 10.0,
    "blurred": two_modes(500, spread=4.0),
}
judged = {name: neighbourhoods(real, drawn) for name, drawn in models.items()}
for name, found in judged.items():
    print(f"{name:16} " + "   ".join(f"{measure} {value:.2f}" for measure, value in found.items()))
assert judged["one mode of two"]["precision"] > 0.9 and judged["one mode of two"]["recall"] < 0.6
assert judged["blurred"]["precision"] < 0.6 and judged["blurred"]["recall"] > 0.9

# %% [markdown]
# ## 2. Train one
#
# [gan_digits.py](../experiments/gan_digits.py), shortened: a relativistic game with penalties on the critic's slope at
# real and at drawn images (Huang et al., 2024, [arXiv:2501.05441](https://arxiv.org/abs/2501.05441)), an update of each
# network in turn (`genjax.alternate`). Beside the model's numbers the results have those of 250 training images: what a
# perfect model could reach.


# %%
def genjax(command):
    done = subprocess.run([sys.executable, "-m", "genjax", *shlex.split(command)], capture_output=True, text=True)
    print(done.stdout[-2500:], done.stderr[-500:] if done.returncode else "")
    assert done.returncode == 0


genjax(f"train '{EXPERIMENTS}/gan_digits.py' --workdir gan --steps 3000 --evaluate-every 3000")

lines = json.load(open("gan/results.json"))["results"]
found = {line["name"].removeprefix("test/"): line["value"] for line in lines}
for measure in ("precision", "recall", "density", "coverage"):
    print(f"{measure:10} {found[measure]:.3f}   of training images {found[f'{measure}_of_training_images']:.3f}")
assert 0.5 < found["precision"] and 0.3 < found["recall"]

# %% [markdown]
# ## 3. Truncation
#
# Latents nearer to their mean, $z' = \psi z$ (Karras, Laine and Aila, 2019,
# [arXiv:1812.04948](https://arxiv.org/abs/1812.04948)), trade variety for a typical picture. Recall must fall with
# $\psi$; whether precision rises is a question to the model, and is printed. The picture shows the same latents in
# every column, from $\psi = 0.3$ above to 1 below.

# %%
import jax
from IPython.display import Image

from genjax.data import digits
from genjax.evaluate import averaged_state
from genjax.report import grid, save_png
from genjax.samplers.truncation import towards_mean
from genjax.saved import open_run

sys.path.insert(0, str(EXPERIMENTS))
from gan_digits import Generator, pictures

params = averaged_state(open_run("gan", None, None, None).state).params["generator"]
draw = jax.jit(lambda z: pictures(Generator(256).apply(params, z)))
flat = lambda images: np.asarray(images, np.float64).reshape(len(images), -1)
test = flat(digits().test.arrays["image"]) / 16

z = jax.random.normal(jax.random.key(0), (250, 16))
ladder = {psi: flat(draw(towards_mean(z, psi))) for psi in (0.3, 0.5, 0.7, 1.0)}
judged = {psi: neighbourhoods(test, drawn) for psi, drawn in ladder.items()}
spread = {psi: drawn.var(axis=0).sum() for psi, drawn in ladder.items()}
print(f"variance of test images, summed over pixels: {test.var(axis=0).sum():.2f}")
for psi, found in judged.items():
    print(f"psi {psi}   variance {spread[psi]:.2f}   precision {found['precision']:.3f}   recall {found['recall']:.3f}")
assert spread[0.3] < spread[0.5] < spread[0.7] < spread[1.0]
recalls = [judged[psi]["recall"] for psi in ladder]
assert recalls[0] < recalls[1] < recalls[-1]

rows = np.concatenate([draw(towards_mean(z[:12], psi)) for psi in ladder])
Image(save_png("truncation.png", grid(rows, columns=12)).read_bytes())

# %% [markdown]
# ## 4. Has it learned the training set by heart?
#
# Samples of a model that copies are nearer to training images than held-out images are. The score is the probability of
# that: near 1/2 is what new data have, near 1 are copies, below 1/2 samples lie further away than data do (Meehan,
# Chaudhuri and Dasgupta, 2020, [arXiv:2004.05675](https://arxiv.org/abs/2004.05675)). Training images with a little
# noise stand beside the samples, to show that the score finds copies.

# %%
from genjax.metrics.neighbours import memorisation, nearest

train = flat(digits().train.arrays["image"]) / 16
held_out = nearest(test, train).distance[:, 0]
copies = train[:250] + 0.02 * rng.normal(size=(250, 64))
scores = {
    name: memorisation(nearest(rows, train).distance[:, 0], held_out).score
    for name, rows in {"samples": ladder[1.0], "copies with noise": copies}.items()
}
print({name: round(score, 3) for name, score in scores.items()})
assert scores["copies with noise"] > 0.95 > scores["samples"]

# %% [markdown]
# ## What to change next
#
# * The whole run, with what the critic says of training, held-out and drawn images as curves:
#   `genjax train experiments/gan_digits.py`; a weaker penalty: `--gamma 0.01`.
# * Modes that can be counted, several seeds at once:
#   `genjax sweep experiments/gan_gaussians.py seed=0:10 --steps 40000 --vmap`; samples shown to the critic in packs:
#   `--pack 4`.
# * Pictures: `genjax train experiments/dcgan_fashion.py --game wasserstein --penalty 10 --critic-steps 5`; from 4 to 32
#   pixels: `genjax train experiments/progressive_fashion.py`.
# * Another game: `genjax/losses/games.py` has three in the same form, a loss a player.

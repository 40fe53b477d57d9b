"""A worker of unet_steps.py: genjax's own U-Net, loss, sampler and compiled call, on request."""

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import workers
from unet_steps import BLOCKS, COLOURS, FIRST, ROWS, SIDE, Setting, images, times

from genjax import Out, Stage, minimize, parallel
from genjax.compilation import Program, compile_stage, stage_keys
from genjax.corruption import predictions
from genjax.corruption.schedules import linear
from genjax.corruption.times import uniform_times
from genjax.data import Split, batches, scaled
from genjax.experiment import parameter_count
from genjax.losses.denoising import denoising_loss, simple
from genjax.models.unet import UNet
from genjax.samplers.ddim import ddim
from genjax.samplers.diffusion import sample

PROCESS = linear(first=FIRST)


def network(setting: Setting) -> tuple[UNet, Callable]:
    """The U-Net, and parameters -> (z, t) -> noise."""
    net = UNet(setting.width, setting.multipliers, BLOCKS, (setting.attention,))
    return net, lambda params: lambda z, t: net.apply(params, z, 1000.0 * t)


def program(setting: Setting, data: np.ndarray) -> Program:
    """The compiled stage, as `genjax train` compiles it."""
    net, noise_of = network(setting)

    def loss(params, state, batch, key):
        x, (time_key, noise_key) = 2.0 * batch["image"] - 1.0, jax.random.split(key)
        t, noise = uniform_times(PROCESS, time_key, len(x)), jax.random.normal(noise_key, x.shape)
        error = denoising_loss(PROCESS, predictions.noise, simple, noise_of(params), x, t, noise)
        return Out(error / x[0].size)

    start = lambda key, batch: net.init(key, batch["image"], jnp.zeros(len(batch["image"])))
    source = batches(Split({"image": data}, scaled(256)), setting.batch)
    stage = Stage("unet", minimize(loss, optax.adam(2e-4), start), source, steps=10**9)
    return compile_stage(stage, stage_keys(0, 0), 0, parallel.mesh(1), "float32", "jit")


def trainer(setting: Setting, data: np.ndarray) -> tuple[Callable[[int], bool], int, Callable[[], float]]:
    """Updates on request; the number of parameters; the mean loss of all updates so far."""
    compiled = program(setting, data)
    state, totals = compiled.fresh(), compiled.zero()

    def train(updates: int) -> bool:
        nonlocal state, totals
        for _ in range(updates):
            state, (totals, _) = compiled.call(state, totals, compiled.feed(0), np.int32(1))
        jax.block_until_ready((state, totals))
        return int(totals.bad) < 0

    mean = lambda: float(totals.sums["loss"] / totals.count)
    return train, parameter_count(state.params), mean


def drawn(noise: Callable, steps: int, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A sampling of so many steps of DDIM with what predicts the noise."""
    denoise = predictions.denoiser(PROCESS, predictions.noise, noise)
    return sample(PROCESS, denoise, ddim(), times(steps), key, shape)


def sampler(setting: Setting) -> tuple[Callable[[int], bool], int]:
    """Samplings on request; the number of parameters."""
    net, noise_of = network(setting)
    shape = (setting.batch, SIDE, SIDE, COLOURS)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(shape), jnp.zeros(setting.batch))
    draw = jax.jit(lambda params, key: drawn(noise_of(params), setting.steps, key, shape))

    def samplings(number: int) -> bool:
        for i in range(number):
            x = draw(params, jax.random.key(i))
        return bool(jnp.isfinite(x).all())

    return samplings, parameter_count(params)


def main() -> None:
    """Argument: the row."""
    setting = ROWS[sys.argv[1]]
    work, parameters, *_ = trainer(setting, images()) if setting.training else sampler(setting)
    work(1)
    workers.serve(work, parameters=parameters)


if __name__ == "__main__":
    main()

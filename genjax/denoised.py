"""A diffusion run at the command line: `genjax sample RUN --sampler`, and what `genjax edit` shares with it.

Both use what `Experiment(denoising=...)` says of the model: its process, its denoiser, how pictures and data go into
each other.  They choose how many steps are taken, by which solver and with how much guidance, without training again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.predictions import Denoise
from genjax.errors import BadInput
from genjax.experiment import Denoising
from genjax.samplers import ddim, ode
from genjax.samplers.diffusion import Solver
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform, uniform_log_snr
from genjax.samplers.guidance import labelled
from genjax.saved import SampleOptions
from genjax.types import Key, Params, State

SOLVERS: dict[str, Callable[[], Solver]] = {
    "ddim": ddim.ddim,
    "ddpm": ddim.ancestral,
    "2m": ddim.dpm_solver_2m,
    "euler": ode.euler,
    "heun": ode.heun,
    "churn": ode.churn,
}
STEPS, MOST = 50, 100_000


def asks_for_a_sampler(options: SampleOptions) -> bool:
    """Whether `genjax sample` is told how to denoise, rather than to draw as the experiment does.

    >>> asks_for_a_sampler(SampleOptions()), asks_for_a_sampler(SampleOptions(steps=20))
    (False, True)
    """
    return any(getattr(options, name) is not None for name in ("sampler", "steps", "guidance", "label"))


def sample_function(denoising: Denoising | None, path: str, options: SampleOptions) -> Callable[[State, Key, int], Any]:
    """(state, key, n) -> pictures, by the sampler, steps, guidance and label that are asked for.

    Raises:
      BadInput: a model that does not denoise, a label or guidance that it has no use for, no steps.
    """
    told = told_of(denoising, path)
    steps = STEPS if options.steps is None else options.steps
    solver, grid = SOLVERS[options.sampler or "2m"](), grid_of(told, steps)
    solver.plan(told.process, grid)  # a solver that does not fit is refused before anything is compiled
    label, weight = guidance_of(told, options.label, options.guidance)

    def sample(state: State, key: Key, n: int) -> Any:
        model = model_of(told, state.params, labels_of(told, label, n), weight)
        return told.decode(sampled(told.process, model, solver, grid, key, (n, *told.shape)))

    return sample


def grid_of(denoising: Denoising, steps: int) -> np.ndarray:
    """Times at equal distances of the log-SNR where it is finite, else of t.

    Raises:
      BadInput: no steps, or more than 100,000.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> same = lambda x: x
    >>> grid_of(Denoising(rectified_flow(), None, (2,), same, same), 2).tolist()
    [1.0, 0.5]
    """
    if not 1 <= steps <= MOST:
        raise BadInput(f"--steps {steps}", f"allowed: 1 to {MOST:,}; 20 to 100 are usual", "--steps 50")
    process = denoising.process
    with np.errstate(divide="ignore"):
        ends = [process.alpha(np.array(process.last)), process.sigma(np.array(process.first))]
    return uniform(process, steps) if 0 in ends else uniform_log_snr(process, steps)


def told_of(denoising: Denoising | None, path: str) -> Denoising:
    """What an experiment says of its diffusion.

    Raises:
      BadInput: it says nothing.
    """
    if denoising is None:
        raise BadInput(
            f"the model of {path} takes no --sampler, --steps, --guidance or --label, and edits no picture",
            "a diffusion of pictures, points or sounds does, by Experiment(denoising=Denoising(process, denoise, ...))",
            f"genjax sample {path} --n 64",
        )
    return denoising


def guidance_of(told: Denoising, label: int | None, weight: float | None) -> tuple[int | None, float]:
    """The label, None for none, and w.

    Raises:
      BadInput: a model without labels, a label that it does not have, a w below 0 or none.
    """
    if told.classes == 0 and (label is not None or weight is not None):
        raise BadInput("--label or --guidance for a model without labels", "it was trained without", "leave them out")
    if label is not None and not 0 <= label < told.classes:
        raise BadInput(f"--label {label}", f"allowed: 0 to {told.classes - 1}", "leave it out for all classes in turn")
    if weight is not None and not 0 <= weight < float("inf"):
        raise BadInput(f"--guidance {weight}", "allowed: from 0 on; 1 is the label alone, 2 to 5 are usual")
    return label, 1.0 if weight is None else weight


def labels_of(told: Denoising, label: int | None, n: int) -> jax.Array | None:
    """Labels of n rows: one, or all classes in turn; None of a model without labels."""
    if told.classes == 0:
        return None
    return jnp.arange(n) % told.classes if label is None else jnp.full(n, label)


def model_of(told: Denoising, params: Params, label: jax.Array | None, weight: float) -> Denoise:
    """The model with guidance."""
    if label is None or weight == 1:
        return told.denoise(params, label)
    by_label = lambda z, t, label: told.denoise(params, label)(z, t)
    return labelled(by_label, label, jnp.asarray(told.classes), weight)

"""A diffusion run at the command line: `genjax sample RUN --sampler`, and `genjax edit RUN --image X`.

A picture is redrawn from a noisy copy, finished where a mask is white, or enlarged.  Both commands use what
`Experiment(denoising=...)` says of the model: its process, its denoiser, how pictures and data go into each other.
They choose how many steps are taken, by which solver and with how much guidance, without training again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.predictions import Denoise
from genjax.data.images import read_image
from genjax.errors import BadInput, Damaged
from genjax.evaluate import averaged_state
from genjax.experiment import Denoising
from genjax.explaining import explained
from genjax.report import draw, save_png
from genjax.samplers import ddim, ode
from genjax.samplers.diffusion import Solver
from genjax.samplers.diffusion import sample as sampled
from genjax.samplers.grids import uniform, uniform_log_snr
from genjax.samplers.guidance import labelled
from genjax.samplers.projection import masked, projected, repeated, shrunk
from genjax.samplers.restoring import inpaint, redraw
from genjax.saved import SampleOptions, check_out, open_run
from genjax.types import Key, Params, State

SOLVERS: dict[str, Callable[[], Solver]] = {
    "ddim": ddim.ddim,
    "ddpm": ddim.ancestral,
    "2m": ddim.dpm_solver_2m,
    "euler": ode.euler,
    "heun": ode.heun,
    "churn": ode.churn,
}
STEPS, REPEATS, STRENGTH = 50, 10, 0.5


class EditOptions(NamedTuple):
    """Options of `genjax edit RUN`."""

    image: str = ""
    """A picture of the size that the model draws; with --enlarge, smaller by that factor."""
    mask: str | None = None
    """A grey picture of the same size: what is white is drawn anew; default: all, from the picture made noisy."""
    enlarge: int | None = None
    """A factor: pixels of the picture are taken for means of squares with so long a side; not with --mask."""
    strength: float | None = None
    """Of a picture that is redrawn: the share of the steps that is taken; at 1 nothing is left of it; default: 0.5."""
    n: int = 8
    """How many results."""
    out: str = "edited.png"
    """A picture (.png): the given one, then the results."""
    label: int | None = None
    """Of models with labels: which class; default: none."""
    guidance: float | None = None
    """w: 0 without the label, 1 the label alone, above 1 beyond it; needs --label; default: 1 where it is given."""
    steps: int = STEPS
    """Of the sampler."""
    sampler: Literal["ddim", "ddpm", "2m", "euler", "heun", "churn"] | None = None
    """Default: 2m; with --mask or --enlarge ddpm, whose steps are taken ten times each; there not 2m."""
    step: int | None = None
    """The checkpoint of this step; default: the best where the experiment selects one, else the newest."""
    seed: int = 0
    """Of the noise."""
    devices: int | None = None
    """How many devices to use; default: all."""
    debug: bool = False
    """Whole tracebacks."""


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
    told = _told(denoising, path)
    steps = STEPS if options.steps is None else options.steps
    solver, grid = SOLVERS[options.sampler or "2m"](), grid_of(told, steps)
    solver.plan(told.process, grid)  # a solver that does not fit is refused before anything is compiled
    label, weight = _guidance(told, options.label, options.guidance)

    def sample(state: State, key: Key, n: int) -> Any:
        model = _model(told, state.params, _labels(told, label, n), weight)
        return told.decode(sampled(told.process, model, solver, grid, key, (n, *told.shape)))

    return sample


def grid_of(denoising: Denoising, steps: int) -> np.ndarray:
    """Times at equal distances of the log-SNR where it is finite, else of t.

    Raises:
      BadInput: no steps.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> same = lambda x: x
    >>> grid_of(Denoising(rectified_flow(), None, (2,), same, same), 2).tolist()
    [1.0, 0.5]
    """
    if steps < 1:
        raise BadInput(f"--steps {steps}", "allowed: whole numbers from 1; 20 to 100 are usual", "--steps 50")
    process = denoising.process
    with np.errstate(divide="ignore"):
        ends = [process.alpha(np.array(process.last)), process.sigma(np.array(process.first))]
    return uniform(process, steps) if 0 in ends else uniform_log_snr(process, steps)


def edit_run(path: str, options: EditOptions) -> int:
    """Finish or redraw a picture with a diffusion run, into one file.

    Raises:
      BadInput: a model that does not denoise, a picture or mask of another size, settings out of range.
      Damaged: results that are not finite; nothing is written.
    """
    if options.n < 1:
        raise BadInput(f"--n {options.n}", "allowed: whole numbers from 1", "for example --n 8")
    if not options.image:
        raise BadInput("no picture to edit", "a .png or .jpg file", f"genjax edit {path} --image picture.png")
    out = Path(options.out)
    check_out(out, [".png"])
    run = open_run(path, options.step, options.devices, options.seed)
    told = _told(run.experiment.denoising, path)
    label, weight = _guidance(told, options.label, options.guidance)
    if label is None and options.guidance is not None:
        raise BadInput(
            f"--guidance {options.guidance} without --label", "it says how much a label counts", "add --label"
        )
    label = told.classes if label is None else label  # none
    factor = _factor(told, options)
    image = _read(told, options.image, told.shape[-1], factor)
    mask = None if options.mask is None else _read(told, options.mask, 1) >= 0.5
    shown = np.asarray(shrunk(factor).back(jnp.asarray(image)[None]))
    known = jnp.repeat(told.encode(jnp.asarray(shown)), options.n, axis=0)
    way = _way(told, options, known, mask)

    def edited(state: State, key: Key) -> jax.Array:
        model = _model(told, state.params, _labels(told, label, options.n), weight)
        return told.decode(way(model, key))

    with explained("edit"):
        drawn = np.asarray(jax.jit(edited)(averaged_state(run.state), run.sampling))
    if not np.isfinite(drawn).all():
        raise Damaged("what was drawn is not finite", "", "less --guidance, or an earlier checkpoint with --step")
    save_png(out, draw(np.concatenate([shown, drawn])))
    print(f"{options.n} results of step {run.step:,} beside {options.image} in {out}")
    return 0


def _way(
    told: Denoising, options: EditOptions, known: jax.Array, mask: np.ndarray | None
) -> Callable[[Denoise, Key], jax.Array]:
    """(model, key) -> data: redrawn, finished or enlarged; what does not fit is refused before anything is compiled."""
    process, grid, plain = told.process, grid_of(told, options.steps), mask is None and options.enlarge is None
    name = options.sampler or ("2m" if plain else "ddpm")
    if name == "2m" and not plain:
        raise BadInput(
            "--sampler 2m with --mask or --enlarge",
            "it looks back at the step before, and steps are repeated here; allowed: ddim, ddpm, euler, heun, churn",
        )
    solver = SOLVERS[name]()
    solver.plan(process, grid)
    strength = STRENGTH if options.strength is None else options.strength
    if not 0 < strength <= 1:
        raise BadInput(f"--strength {strength}", "allowed: above 0, at most 1", "--strength 0.5")
    if plain:
        return lambda model, key: redraw(process, model, solver, grid, key, known, strength)
    if options.strength is not None:
        raise BadInput(
            f"--strength {strength} with --mask or --enlarge", "all steps are taken there", "leave one of them out"
        )
    keep = None if mask is None else jnp.broadcast_to(jnp.asarray(~mask)[None], known.shape)
    if keep is not None and options.sampler is None:
        return lambda model, key: inpaint(process, model, grid, key, known, keep, REPEATS)
    seen = shrunk(options.enlarge or 1) if keep is None else masked(keep)
    again = repeated(solver, REPEATS)
    fixed = lambda model: projected(model, seen, seen.measure(known))
    return lambda model, key: sampled(process, fixed(model), again, grid, key, known.shape)


def _told(denoising: Denoising | None, path: str) -> Denoising:
    if denoising is None:
        raise BadInput(
            f"the model of {path} is no diffusion: it has no --sampler, --steps, --guidance or --label, and no edit",
            "Experiment(denoising=Denoising(process, denoise, shape, encode, decode)) says how one denoises",
            f"genjax sample {path} --n 64",
        )
    return denoising


def _guidance(told: Denoising, label: int | None, weight: float | None) -> tuple[int | None, float]:
    if told.classes == 0 and (label is not None or weight is not None):
        raise BadInput("--label or --guidance for a model without labels", "it was trained without", "leave them out")
    if label is not None and not 0 <= label < told.classes:
        raise BadInput(f"--label {label}", f"allowed: 0 to {told.classes - 1}", "leave it out for all classes in turn")
    if weight is not None and not 0 <= weight < float("inf"):
        raise BadInput(f"--guidance {weight}", "allowed: from 0 on; 1 is the label alone, 2 to 5 are usual")
    return label, 1.0 if weight is None else weight


def _labels(told: Denoising, label: int | None, n: int) -> jax.Array | None:
    if told.classes == 0:
        return None
    return jnp.arange(n) % told.classes if label is None else jnp.full(n, label)


def _model(told: Denoising, params: Params, label: jax.Array | None, weight: float) -> Denoise:
    if label is None or weight == 1:
        return told.denoise(params, label)
    by_label = lambda z, t, label: told.denoise(params, label)(z, t)
    return labelled(by_label, label, jnp.asarray(told.classes), weight)


def _factor(told: Denoising, options: EditOptions) -> int:
    """How many times larger the picture is to become; 1: it is of the model's size."""
    factor = options.enlarge
    if factor is None:
        return 1
    if options.mask is not None:
        raise BadInput("--enlarge with --mask", "a picture is enlarged or finished", "leave one of them out")
    sides = told.shape[:2] if len(told.shape) == 3 else (1,)
    fits = [f for f in range(2, min(sides) + 1) if not any(side % f for side in sides)]
    if factor not in fits:
        raise BadInput(
            f"--enlarge {factor}",
            f"allowed: {', '.join(map(str, fits)) or 'none'}, which divide both sides of what the model draws",
        )
    return factor


def _read(told: Denoising, name: str, channels: int, factor: int = 1) -> np.ndarray:
    """A picture as numbers in [0, 1], of the size that the model draws, or smaller by a factor."""
    if len(told.shape) != 3:
        raise BadInput("the model draws no pictures", f"an example of it has the shape {list(told.shape)}")
    if not Path(name).is_file():
        raise BadInput(f"no picture at {name}", "a .png or .jpg file")
    pixels = read_image(Path(name))
    if pixels.shape[2] == 4 and channels < 4 and (pixels[..., 3] == 255).all():
        pixels = pixels[..., :3]  # opaque
    if channels == 1 and pixels.shape[2] == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., :1]  # grey in colour's clothes
    wanted = (told.shape[0] // factor, told.shape[1] // factor, channels)
    if pixels.shape != wanted:
        where = f"the model draws {told.shape[1]}x{told.shape[0]}"
        size = f"{where}, {factor} times enlarged from {wanted[1]}x{wanted[0]}" if factor > 1 else where
        raise BadInput(
            f"{name} is {pixels.shape[1]}x{pixels.shape[0]} with {_channels(pixels.shape[2])}",
            f"{size}, here with {_channels(channels)}",
            "resize or convert it"
            if pixels.shape[2] in (1, 3)
            else "it is transparent in places: fill these, or resize",
        )
    return pixels.astype(np.float32) / 255.0


def _channels(number: int) -> str:
    return f"{number} channel{'s' * (number > 1)}"

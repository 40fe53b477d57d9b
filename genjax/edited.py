"""`genjax edit RUN --image X`: what a diffusion model makes of a picture.

It is redrawn from a noisy copy, finished where a mask is white, enlarged, freed of noise, or led over into another one;
by the model, the sampler, the steps and the guidance of `denoised.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.predictions import Denoise
from genjax.data.images import read_image
from genjax.denoised import SOLVERS, STEPS, grid_of, guidance_of, labels_of, model_of, told_of
from genjax.errors import BadInput, Damaged
from genjax.evaluate import averaged_state
from genjax.experiment import Denoising
from genjax.explaining import explained
from genjax.report import draw, save_png
from genjax.samplers.diffusion import sample
from genjax.samplers.projection import masked, projected, repeated, shrunk
from genjax.samplers.restoring import cleaned, inpaint, redraw, walked
from genjax.saved import arrays_of, check_out, open_run
from genjax.types import Key, State

REPEATS, STRENGTH = 10, 0.5
TASKS = ("mask", "enlarge", "noise", "to")  # what is done with a picture; none of them: it is redrawn


class EditOptions(NamedTuple):
    """Options of `genjax edit RUN`."""

    image: str = ""
    """A picture of the size that the model draws; with --enlarge, smaller by that factor."""
    mask: str | None = None
    """A grey picture of the same size: what is white is drawn anew; default: all, from the picture made noisy."""
    enlarge: int | None = None
    """A factor: pixels of the picture are taken for means of squares with so long a side."""
    noise: float | None = None
    """Of a noisy picture: the deviation of its noise, black being 0 and white 1; what is drawn is free of it."""
    to: str | None = None
    """Another picture: the results lead from the one to the other, by way of their noise."""
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
    """Default: 2m; with --noise ddpm; with --mask or --enlarge ddpm, whose steps are taken ten times each, not 2m."""
    step: int | None = None
    """The checkpoint of this step; default: the best where the experiment selects one, else the newest."""
    seed: int = 0
    """Of the noise."""
    devices: int | None = None
    """How many devices to use; default: all."""
    debug: bool = False
    """Whole tracebacks."""


Edit = Callable[[Denoise, Key, jax.Array], jax.Array]  # (model, key, the picture n times, as data) -> data


def edit_run(path: str, options: EditOptions) -> int:
    """Make pictures of a picture with a diffusion run, into one file.

    Raises:
      BadInput: a model that does not denoise, a picture or mask of another size, settings out of range.
      Damaged: results that are not finite; nothing is written.
    """
    _check(path, options)
    out = Path(options.out)
    run = open_run(path, options.step, options.devices, options.seed)
    told = told_of(run.experiment.denoising, path)
    label, weight = guidance_of(told, options.label, options.guidance)
    if label is None and options.guidance is not None:
        what = f"--guidance {options.guidance} without --label"
        raise BadInput(what, "it says how much a label counts", "add --label")
    label = told.classes if label is None else label  # none
    factor = _factor(told, options)
    image = _read(told, options.image, told.shape[-1], factor)
    shown = np.asarray(shrunk(factor).back(jnp.asarray(image)[None]))
    edit = _edit(told, options)

    def edited(state: State, key: Key) -> jax.Array:
        model = model_of(told, state.params, labels_of(told, label, options.n), weight)
        return told.decode(edit(model, key, jnp.repeat(told.encode(jnp.asarray(shown)), options.n, axis=0)))

    with explained("edit", n=options.n):
        drawn = arrays_of(jax.jit(edited)(averaged_state(run.state), run.sampling))
    if not np.isfinite(drawn).all():
        raise Damaged("what was drawn is not finite", "", "less --guidance, or an earlier checkpoint with --step")
    save_png(out, draw(np.concatenate([shown, drawn])))
    print(f"{options.n} results of step {run.step:,} beside {options.image} in {out}")
    return 0


def _check(path: str, options: EditOptions) -> None:
    """What can be refused before a checkpoint is read."""
    if options.n < 1:
        raise BadInput(f"--n {options.n}", "allowed: whole numbers from 1", "for example --n 8")
    if not options.image:
        raise BadInput("no picture to edit", "a .png or .jpg file", f"genjax edit {path} --image picture.png")
    _check_files(options)
    asked = [name for name in TASKS if getattr(options, name) is not None]
    if len(asked) > 1:
        told = "a picture is finished, enlarged, freed of noise or led to another"
        raise BadInput(f"--{asked[0]} with --{asked[1]}", told, "leave one of them out")
    strength = options.strength
    if asked and strength is not None:
        raise BadInput(
            f"--strength {strength} with --{asked[0]}", "it is of a redrawn picture", "leave one of them out"
        )
    if strength is not None and not 0 < strength <= 1:
        raise BadInput(f"--strength {strength}", "allowed: above 0, at most 1", "--strength 0.5")
    for name in ("n", "steps"):  # there are two ends, of pictures and of the way to their noise
        if options.to is not None and getattr(options, name) < 2:
            raise BadInput(
                f"--{name} {getattr(options, name)} with --to", "allowed: whole numbers from 2", f"--{name} 8"
            )


def _check_files(options: EditOptions) -> None:
    """That what is read is there, and is not written over."""
    check_out(Path(options.out), [".png"])
    for option, name in {"image": options.image, "mask": options.mask, "to": options.to}.items():
        if name is not None and not Path(name).is_file():
            raise BadInput(f"--{option}: no picture at {name}", "a .png or .jpg file")
        if name is not None and Path(options.out).exists() and Path(name).samefile(options.out):
            told = f"--out {options.out} is the picture of --{option}"
            raise BadInput(told, "it would be written over", "another name with --out")


def _edit(told: Denoising, options: EditOptions) -> Edit:
    """What is asked for; what does not fit is refused before anything is compiled."""
    process, grid = told.process, grid_of(told, options.steps)
    fixed = options.mask is not None or options.enlarge is not None  # of some pixels, or of their means
    name = options.sampler or ("ddpm" if fixed or options.noise is not None else "2m")
    if name == "2m" and fixed:
        raise BadInput(
            "--sampler 2m with --mask or --enlarge",
            "it looks back at the step before, and steps are repeated here; allowed: ddim, ddpm, euler, heun, churn",
        )
    solver = SOLVERS[name]()
    solver.plan(process, grid)
    if options.to is not None:
        other = told.encode(jnp.asarray(_read(told, options.to, told.shape[-1]))[None])[0]
        return lambda model, key, x: walked(process, model, solver, grid, key, x[0], other, options.n)
    if options.noise is not None:
        deviation = options.noise * _white(told, grid, options.noise)
        return lambda model, key, x: cleaned(process, model, solver, grid, key, x, deviation)
    if not fixed:
        strength = STRENGTH if options.strength is None else options.strength
        return lambda model, key, x: redraw(process, model, solver, grid, key, x, strength)
    shape = (options.n, *told.shape)
    keep = None if options.mask is None else jnp.broadcast_to(jnp.asarray(_read(told, options.mask, 1) < 0.5), shape)
    if keep is not None and options.sampler is None:
        return lambda model, key, x: inpaint(process, model, grid, key, x, keep, REPEATS)
    seen = shrunk(options.enlarge or 1) if keep is None else masked(keep)
    again = repeated(solver, REPEATS)
    return lambda model, key, x: sample(process, projected(model, seen, seen.measure(x)), again, grid, key, shape)


def _white(told: Denoising, grid: np.ndarray, noise: float) -> float:
    """How far the data of white are from those of black, if the model knows so little noise."""
    black, white = (np.asarray(told.encode(jnp.full((1, *told.shape), level))) for level in (0.0, 1.0))
    length, last = float(np.abs(white - black).mean()), np.array(grid[-1])
    least = float(told.process.sigma(last) / told.process.alpha(last)) / length
    if not least <= noise <= 1:
        raise BadInput(f"--noise {noise}", f"allowed: from {least:.3g} to 1, black being 0 and white 1", "--noise 0.2")
    return length


def _factor(told: Denoising, options: EditOptions) -> int:
    """How many times larger the picture is to become; 1: it is of the model's size."""
    factor = options.enlarge
    if factor is None:
        return 1
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

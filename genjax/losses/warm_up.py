"""Warm-up of the rate: a weight beta as a function of the step, for `negative_elbo(fit, rate, beta)`.

A VAE whose rate counts in full from the first step may switch its latents off before the decoder has learnt to use
them.  A weight that starts at 0 and reaches 1 gives the decoder time.  While beta < 1 the loss is no bound: measure the
ELBO with beta = 1, and pick the best checkpoint by that.

The step is `state.step`, inside the compiled update, so that a restart continues where it was.

Sources: Bowman et al., Generating Sentences from a Continuous Space, 2016, section 3.1,
https://arxiv.org/abs/1511.06349; Sonderby et al., Ladder Variational Autoencoders, 2016,
https://arxiv.org/abs/1602.02282; Fu et al., Cyclical Annealing Schedule, 2019,
https://arxiv.org/abs/1903.10145.
"""

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.types import Array


def linear_warm_up(step: Array | int, steps: int) -> jax.Array:
    """beta = min(1, step / steps): from 0 at the first update to 1 after `steps` of them.

    Args:
      step: integer scalar, `state.step`.
      steps: length of the warm-up in updates, at least 0; 0: no warm-up.

    Returns:
      scalar in [0, 1].

    Raises:
      BadInput: negative steps.

    Source: Bowman et al., 2016; Sonderby et al., 2016.

    >>> [float(linear_warm_up(step, 4)) for step in (0, 1, 4, 9)], float(linear_warm_up(0, 0))
    ([0.0, 0.25, 1.0, 1.0], 1.0)
    """
    if steps < 0:
        raise BadInput(
            f"a warm-up of {steps} steps", "allowed: updates until beta is 1, at least 0", "0 for no warm-up"
        )
    return jnp.ones(()) if steps == 0 else jnp.minimum(1.0, jnp.asarray(step, jnp.float32) / steps)


def check_warm_up(warm_up: int, training: int) -> None:
    """Refuse a warm-up that training would not see the end of: no update would then descend the bound itself.

    Args:
      warm_up: its length, in updates or in passes over the data.
      training: that of training, in the same unit; 0: nothing is trained, and any warm-up will do.

    Returns:
      Nothing.

    Raises:
      BadInput: a warm-up below 0 or longer than training.

    >>> check_warm_up(2_000, 20)
    Traceback (most recent call last):
    genjax.errors.BadInput: warm_up = 2,000
    allowed: 0 to 20, as long as training is
    give a shorter warm-up, or train longer
    """
    if warm_up < 0 or 0 < training < warm_up:
        most = f" to {training:,}" if training > 0 else ""
        raise BadInput(
            f"warm_up = {warm_up:,}",
            f"allowed: 0{most}, as long as training is",
            "give a shorter warm-up, or train longer",
        )


def cyclical_warm_up(step: Array | int, period: int, rising: float = 0.5) -> jax.Array:
    """beta = min(1, tau / rising), tau = (step mod period) / period: the linear warm-up, again and again.

    Args:
      step: integer scalar, `state.step`.
      period: updates of one cycle, at least 1.
      rising: the part of a cycle in which beta rises, in (0, 1].

    Returns:
      scalar in [0, 1].

    Raises:
      BadInput: a period below 1, `rising` outside of (0, 1].

    Source: Fu et al., 2019.

    >>> [float(cyclical_warm_up(step, 8)) for step in (0, 2, 4, 7, 8, 10)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """
    if period < 1 or not 0 < rising <= 1:
        raise BadInput(
            f"period = {period}, rising = {rising}",
            "allowed: a period of at least 1 update, a rising part above 0 and at most 1",
        )
    within = jnp.asarray(jnp.asarray(step, jnp.int32) % period, jnp.float32) / period
    return jnp.minimum(1.0, within / rising)

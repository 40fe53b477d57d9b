r"""From masks to tokens: one compiled loop, in which a rule says what is revealed.

In every step the network gives p(x_d | what is seen) at every masked d, a token is drawn there, and a rule chooses
which of them stay:

    one_at_a_time   one masked token, any with the same probability.  Exact: a draw from the average, over all orders,
                    of the autoregressive models that the network makes (Hoogeboom et al., 2022, algorithm 1)
    parallel        each with probability (alpha_s - alpha_t) / (1 - alpha_t), t > s a grid of T steps: the backward
                    step of masked diffusion (Sahoo et al., 2024, section 3.2).  Tokens revealed in one step are drawn
                    independently of each other, an error that goes to 0 as T / D grows
    confident       those of which the network is surest, as many as the schedule says.  A heuristic (Chang et al.,
                    2022, section 3.2): it draws from no law that its authors, or we, can write down, and varies less
                    than the data

What is not masked at the start is never touched: inpainting, and completion of a text, are a start with known tokens.
They are then exact for `one_at_a_time` in the sense above, every conditional of the model being asked for directly.

The i-th step has the key fold_in(key, i).  `step` of the result says when each token came, so that the picture of any
moment is `seen_at(result, mask, i)`.

Sources: Hoogeboom et al., Autoregressive Diffusion Models, 2022, https://arxiv.org/abs/2110.02037; Sahoo et al., Simple
and Effective Masked Diffusion Language Models, 2024, https://arxiv.org/abs/2406.07524; Chang et al., MaskGIT, 2022,
https://arxiv.org/abs/2202.04200.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.survival import Schedule, check_schedule
from genjax.distributions import categorical_log_prob, sample_categorical
from genjax.errors import BadInput
from genjax.losses.masked import Logits
from genjax.types import Array, Key


class Look(NamedTuple):
    """What a rule sees."""

    step: jax.Array  # int32 scalar, from 0
    masked: jax.Array  # [B, D] booleans
    begun: jax.Array  # [B] how many were masked at the start
    confidence: jax.Array  # [B, D] log-probability of what was drawn; only masked tokens count


class Rule(NamedTuple):
    """Which tokens are revealed in a step."""

    steps: int  # after so many nothing is masked
    reveal: Callable[[Look, Key], jax.Array]  # [B, D] booleans; only masked tokens count


class Unmasked(NamedTuple):
    """Tokens, and when they came."""

    tokens: jax.Array  # [B, D] int32
    step: jax.Array  # [B, D] int32: the step that revealed each; -1: it was known


def one_at_a_time(dims: int) -> Rule:
    """One token a step, in a random order of each row.

    Args:
      dims: D, the most tokens that are masked in a row.

    Returns:
      Rule of D steps; the loop ends earlier where fewer are masked.

    Raises:
      BadInput: no tokens.

    Source: Hoogeboom et al., 2022, algorithm 1.

    >>> one_at_a_time(784).steps
    784
    """

    def reveal(look: Look, key: Key) -> jax.Array:
        priority = jnp.where(look.masked, jax.random.uniform(key, look.masked.shape), -1.0)
        return jnp.arange(look.masked.shape[1])[None] == jnp.argmax(priority, axis=1)[:, None]

    return Rule(_check_steps(dims, "tokens of a row"), reveal)


def parallel(schedule: Schedule, steps: int) -> Rule:
    """Each masked token with probability (alpha_s - alpha_t) / (1 - alpha_t), from t = 1 to 0 in equal steps.

    Args:
      schedule: alpha; with many steps it does not matter.
      steps: T, at least 1.

    Returns:
      Rule of T steps.

    Raises:
      BadInput: no steps, a schedule that is none.

    Source: Sahoo et al., 2024, section 3.2.

    >>> from genjax.corruption.survival import linear
    >>> parallel(linear(), 50).steps
    50
    """
    lost = _lost(schedule, steps)
    chance = jnp.asarray(1.0 - lost[1:] / lost[:-1], jnp.float32)  # the last is 1

    def reveal(look: Look, key: Key) -> jax.Array:
        return jax.random.uniform(key, look.masked.shape) < chance[look.step]

    return Rule(steps, reveal)


def confident(schedule: Schedule, steps: int) -> Rule:
    """The surest tokens first, so that after each step a part 1 - alpha_s of all stays masked.  A heuristic.

    Args:
      schedule: alpha; `cosine` in the paper.
      steps: T, at least 1; 8 to 12 in the paper.

    Returns:
      Rule of T steps.

    Raises:
      BadInput: no steps, a schedule that is none.

    Source: Chang et al., 2022, section 3.2, without its temperatures.

    >>> from genjax.corruption.survival import cosine
    >>> confident(cosine(), 8).steps
    8
    """
    left = jnp.asarray(_lost(schedule, steps)[1:], jnp.float32)

    def reveal(look: Look, key: Key) -> jax.Array:
        keep = jnp.floor(left[look.step] * look.begun).astype(jnp.int32)[:, None]
        keep = jnp.minimum(keep, jnp.maximum(jnp.sum(look.masked, axis=1, keepdims=True) - 1, 0))  # one at least
        surest_last = jnp.argsort(jnp.argsort(jnp.where(look.masked, look.confidence, jnp.inf), axis=1), axis=1)
        return surest_last >= keep

    return Rule(steps, reveal)


def unmask(logits: Logits, tokens: Array, mask: int, rule: Rule, key: Key) -> Unmasked:
    """Draw what is masked.

    Args:
      logits: tokens [B, D] -> [B, D, K], with K <= mask.
      tokens: [B, D] int32: known tokens, and `mask`.
      mask: the token that stands for none, K.
      rule: what is revealed in each step.
      key: of the sample.

    Returns:
      Unmasked.

    Raises:
      BadInput: tokens that are no [B, D] integers, logits of another shape.

    Source: Hoogeboom et al., 2022, algorithm 1; Sahoo et al., 2024, section 3.2.

    Example: a model in which all tokens are like the first; it is known.
      >>> first = lambda tokens: jax.nn.one_hot(tokens[:, :1], 3)
      >>> same = lambda tokens: 99.0 * jnp.broadcast_to(first(tokens), (*tokens.shape, 3))
      >>> unmask(same, jnp.array([[2, 3, 3, 3]]), 3, one_at_a_time(4), jax.random.key(0)).tokens.tolist()
      [[2, 2, 2, 2]]
    """
    tokens = _check_tokens(tokens)
    begun = jnp.sum(tokens == mask, axis=1)

    def unfinished(carried: tuple[jax.Array, Unmasked]) -> jax.Array:
        return (carried[0] < rule.steps) & jnp.any(carried[1].tokens == mask)

    def one(carried: tuple[jax.Array, Unmasked]) -> tuple[jax.Array, Unmasked]:
        i, now = carried
        draw_key, reveal_key = jax.random.split(jax.random.fold_in(key, i))
        found = logits(now.tokens)
        _check_logits(found, now.tokens, mask)
        drawn, masked = sample_categorical(found, draw_key), now.tokens == mask
        look = Look(i, masked, begun, categorical_log_prob(drawn, found))
        shown = masked & rule.reveal(look, reveal_key)
        return i + 1, Unmasked(jnp.where(shown, drawn, now.tokens), jnp.where(shown, i, now.step))

    start = Unmasked(tokens, jnp.where(tokens == mask, rule.steps, -1))
    return jax.lax.while_loop(unfinished, one, (jnp.int32(0), start))[1]


def seen_at(result: Unmasked, mask: int, step: int | Array) -> jax.Array:
    """The tokens after a step, masks where nothing was revealed yet.

    Args:
      result: of `unmask`.
      mask: the token that stands for none.
      step: from 0; -1: the start.

    Returns:
      [B, D] int32.

    Source: Hoogeboom et al., 2022, algorithm 1.

    >>> seen_at(Unmasked(jnp.array([[0, 1, 0]]), jnp.array([[-1, 1, 0]])), 2, 0).tolist()
    [[0, 2, 0]]
    """
    return jnp.where(result.step <= step, result.tokens, mask)


def _lost(schedule: Schedule, steps: int) -> np.ndarray:
    """1 - alpha at T + 1 times from 1 to 0, float64."""
    return np.asarray(check_schedule(schedule).lost(np.linspace(1.0, 0.0, _check_steps(steps, "steps") + 1)))


def _check_steps(steps: int, what: str) -> int:
    if not steps >= 1 or steps != int(steps):
        raise BadInput(f"{steps} {what} to be unmasked", "allowed: whole numbers from 1")
    return steps


def _check_tokens(tokens: Array) -> jax.Array:
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise BadInput(f"tokens {list(tokens.shape)} of {tokens.dtype}", "allowed: [B, D] integers, masks among them")
    return tokens.astype(jnp.int32)


def _check_logits(found: jax.Array, tokens: jax.Array, mask: int) -> None:
    if found.shape[:-1] != tokens.shape or found.shape[-1] > mask:
        raise BadInput(
            f"logits {list(found.shape)} for tokens {list(tokens.shape)} with the mask {mask}",
            f"allowed: {[*tokens.shape, mask]}: the mask itself is never drawn",
        )

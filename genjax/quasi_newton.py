"""A learner for small smooth problems: L-BFGS with a line search, in place of gradient steps of a fixed length.

A loss that is a deterministic function of the parameters, such as the likelihood of one series, has a curvature that
can be learnt from its gradients: after m of them, H approximates the inverse of its second derivatives, and the step
-H g with a length that meets the strong Wolfe conditions converges faster than any linear rate.  A few dozen updates do
what gradient descent needs thousands for, without a learning rate.  On losses that are random (sampled batches, noise,
dropout) the differences of gradients are noise: use `minimize`.

Source: Liu and Nocedal, On the limited memory BFGS method for large scale optimization, 1989,
https://doi.org/10.1007/BF01589116; Nocedal and Wright, Numerical Optimization, 2006, algorithms 7.4, 3.5 and 3.6.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from genjax.errors import BadInput
from genjax.gradient import gradient, mapped, objective, step_key
from genjax.types import Batch, Key, Learner, Loss, Metrics, Params, State


def quasi_newton(
    loss: Loss, init: Callable[[Key, Batch], Params], memory: int = 10, tolerance: float = 1e-8
) -> Learner:
    """L-BFGS on one loss; every update is one step along -H g, of a length found by a line search.

    Args:
      loss: (params, state, batch, key) -> Out; smooth, and the same for every key and every batch of the stage's data:
        the data are one batch.
      init: (key, batch) -> params.
      memory: pairs of differences that H is made from, at least 1; as many as there are parameters is full BFGS.
      tolerance: the parameters rest where g' H g, twice the decrease that a step can bring, is not above it.  For the
        negative log-likelihood of all data in nats, its root is the distance from the minimum in standard errors.

    Returns:
      A Learner whose update logs `loss` and `grad_norm` before its step, and the metrics of the loss.  Updates after
      convergence change nothing but the count, and cost one gradient.

    Raises:
      BadInput: memory < 1, tolerance < 0; under pmap, where every device would search by its own rows.

    Example:
      >>> import jax
      >>> from genjax.types import Out
      >>> def rosenbrock(params, state, batch, key):
      ...     x, y = params
      ...     return Out((1 - x) ** 2 + 100 * (y - x**2) ** 2)
      >>> learner = quasi_newton(rosenbrock, lambda key, batch: jnp.array([-1.0, 1.0]))
      >>> batch, update = {"x": jnp.zeros(1)}, jax.jit(learner.update)
      >>> state = learner.init(jax.random.key(0), batch)
      >>> for _ in range(40):
      ...     state, metrics = update(state, batch, jax.random.key(0))
      >>> state.params.round(3).tolist()
      [1.0, 1.0]
    """
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 1:
        raise BadInput(f"quasi_newton: memory = {memory!r}", "allowed: pairs of differences, a whole number from 1")
    if not tolerance >= 0:
        raise BadInput(f"quasi_newton: tolerance = {tolerance!r}", "allowed: numbers from 0, in the unit of the loss")
    direction = optax.scale_by_lbfgs(memory_size=memory)
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")

    def start(key: Key, batch: Batch) -> State:
        params = init(key, batch)
        return State(jnp.zeros((), jnp.int32), params, (direction.init(params), search.init(params)))

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        if mapped():
            raise BadInput(
                "quasi_newton under --parallel pmap",
                "its line search asks for the loss of the whole batch",
                "use --parallel jit",
            )
        key = step_key(key, state)
        grads, metrics, carry = gradient(loss, state.params, state, batch, key)
        mean_loss = objective(loss, state, batch, key)
        uphill, pairs = direction.update(grads, state.opt_state[0], state.params)

        def step() -> tuple[Params, tuple]:
            downhill = jax.tree.map(jnp.negative, uphill)
            value_of = lambda params: mean_loss(params)[0]
            updates, found = search.update(
                downhill, state.opt_state[1], state.params, value=metrics["loss"], grad=grads, value_fn=value_of
            )
            return optax.apply_updates(state.params, updates), (pairs, found)

        decrease = optax.tree.vdot(grads, uphill)
        rests = (decrease >= 0) & (decrease <= tolerance)
        params, opt_state = jax.lax.cond(rests, lambda: (state.params, state.opt_state), step)
        return State(state.step + 1, params, opt_state, carry), metrics

    return Learner(start, update)

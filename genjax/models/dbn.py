r"""Deep belief networks of binary units: directed layers under a restricted Boltzmann machine.

    p(v, h_1, ..., h_{L-1}) = p(v | h_1) p(h_1 | h_2) ... p(h_{L-2} | h_{L-1}) exp(-F(h_{L-1})) / Z

Each directed layer is p(h_{l-1} = 1 | h_l) = s(G_l h_l + g_l), s the logistic function; F and Z are those of the
machine between h_{L-1} and h_L.  The recognition q(h_l = 1 | h_{l-1}) = s(R_l h_{l-1} + r_l) stands for the posterior.

**Greedy training.**  The first machine learns v.  A machine above learns the h_1 that the one below infers, the weights
of the one below stay: W is G and R at once.  `stacked` makes the network of such machines.  If the machine above begins
as the machine below turned upside down, the network has the law of the machine below, and its bound is tight; learning
then raises the bound (Hinton, Osindero and Teh 2006, section 4).  `upside_down` begins so, with units to spare.

**The bound.**  With h drawn by q and log w = log p(v | h_1) + ... - F(h_{L-1}) - log q(h_1 | v) - ...,

    log p(v) >= E log mean_k w - log Z,           k = 1 the variational bound, larger k tighter;   E w / Z = p(v)

Sources: Hinton, Osindero and Teh, A Fast Learning Algorithm for Deep Belief Nets, 2006,
https://doi.org/10.1162/neco.2006.18.7.1527; Salakhutdinov and Murray, On the Quantitative Analysis of Deep Belief
Networks, 2008, https://doi.org/10.1145/1390156.1390266.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.distributions import sample_bernoulli
from genjax.errors import BadInput
from genjax.losses.wake_sleep import layers_nll
from genjax.models.rbm import Machine, Weights, machine
from genjax.models.visible import bernoulli_units
from genjax.types import Array, Key


class Layer(NamedTuple):
    """One direction between two layers of units: log-odds x w + bias."""

    w: Array  # [n, m]
    bias: Array  # [m]


class DBN(NamedTuple):
    """The arrays of a deep belief network, from the lowest layer on; a pytree, so that it can be what is trained."""

    recognition: tuple[Layer, ...]  # v -> h_1, ..., h_{L-2} -> h_{L-1}
    generation: tuple[Layer, ...]  # h_1 -> v, ..., h_{L-1} -> h_{L-2}
    top: Weights  # of the machine between h_{L-1} and h_L, without offsets


def stacked(*machines: Weights) -> DBN:
    """The network of machines that were trained one on the other.

    Args:
      machines: at least one, without offsets (`uncentred`), from the lowest on.

    Returns:
      A DBN whose directed layers use W in both directions.

    Raises:
      BadInput: no machines, one with offsets or deviations, or one that has not as many visible units as the one below
        has hidden ones.

    Source: Hinton, Osindero and Teh, 2006, section 4.

    >>> zeros = lambda n, m: Weights(jnp.zeros((n, m)), jnp.zeros(n), jnp.zeros(m))
    >>> [layer.w.shape for layer in stacked(zeros(4, 3), zeros(3, 2)).generation]
    [(3, 4)]
    """
    if not machines:
        raise BadInput("a stack of no machines", "allowed: at least one")
    _plain(*machines)
    for number, (below, above) in enumerate(itertools.pairwise(machines), start=2):
        if below.w.shape[1] != above.w.shape[0]:
            told = (
                f"layer {number} has {above.w.shape[0]} visible units, the layer below {below.w.shape[1]} hidden ones"
            )
            raise BadInput(told, "a layer sees the hidden units of the one below")
    *directed, top = machines
    up, down = (tuple(pair) for pair in zip(*map(_both_ways, directed), strict=True)) if directed else ((), ())
    return DBN(up, down, top)


def upside_down(below: Weights, hidden: int) -> Weights:
    """A machine for the hidden units of another, of the law that the other gives them.

    Args:
      below: W [D, H], b [D], c [H], without offsets.
      hidden: units of the new machine, at least D; those beyond D have no weights, and say nothing yet.

    Returns:
      Weights of W' [H, hidden]: its first D hidden units are the visible ones of `below`.

    Raises:
      BadInput: fewer hidden units than D; offsets or deviations.

    Source: Hinton, Osindero and Teh, 2006, section 3.

    >>> upside_down(Weights(jnp.ones((2, 3)), jnp.zeros(2), jnp.ones(3)), 4).w.shape
    (3, 4)
    """
    _plain(below)
    w, b, c = (jnp.asarray(x) for x in (below.w, below.b, below.c))
    spare = hidden - len(b)
    if spare < 0:
        raise BadInput(f"hidden = {hidden} above {len(b)} visible units", f"allowed: whole numbers from {len(b)}")
    return Weights(jnp.pad(w.T, ((0, 0), (0, spare))), c, jnp.pad(b, (0, spare)))


def top_machine(dbn: DBN) -> Machine:
    """The machine on top, over h_{L-1}.

    Args:
      dbn: the network.

    Returns:
      A Machine.

    >>> zeros = Weights(jnp.zeros((3, 2)), jnp.zeros(3), jnp.zeros(2))
    >>> top_machine(stacked(zeros)).hidden_logits(jnp.zeros((1, 3))).shape
    (1, 2)
    """
    return machine(dbn.top, bernoulli_units(dbn.top.w.shape[0]))


def logits_of(layers: Sequence[Layer]) -> list[Callable[[jax.Array], jax.Array]]:
    """Directed layers as functions from units to log-odds.

    Args:
      layers: of either direction.

    Returns:
      One function a layer.

    >>> [of] = logits_of([Layer(jnp.ones((2, 1)), jnp.ones(1))])
    >>> of(jnp.ones((1, 2))).tolist()
    [[3.0]]
    """
    return [functools.partial(_log_odds, layer) for layer in layers]


def draw_up(dbn: DBN, v: Array, key: Key) -> list[jax.Array]:
    """Units drawn by the recognition.

    Args:
      dbn: the network.
      v: [B, D] zeros and ones.
      key: of the draws.

    Returns:
      [v, h_1, ..., h_{L-1}].

    Source: Hinton, Osindero and Teh, 2006, section 5.

    >>> zeros = lambda n, m: Weights(jnp.zeros((n, m)), jnp.zeros(n), jnp.zeros(m))
    >>> [h.shape for h in draw_up(stacked(zeros(4, 3), zeros(3, 2)), jnp.zeros((5, 4)), jax.random.key(0))]
    [(5, 4), (5, 3)]
    """
    return _drawn(dbn.recognition, v, key)


def draw_down(dbn: DBN, h: Array, key: Key) -> list[jax.Array]:
    """Units drawn by the directed layers from states of the uppermost of them.

    Args:
      dbn: the network.
      h: h_{L-1} [M, n] zeros and ones, as a chain of `top_machine` gives them.
      key: of the draws.

    Returns:
      [v, h_1, ..., h_{L-1}].

    Source: Hinton, Osindero and Teh, 2006, section 5.

    >>> zeros = lambda n, m: Weights(jnp.zeros((n, m)), jnp.zeros(n), jnp.zeros(m))
    >>> [h.shape for h in draw_down(stacked(zeros(4, 3), zeros(3, 2)), jnp.zeros((5, 3)), jax.random.key(0))]
    [(5, 4), (5, 3)]
    """
    return _drawn(dbn.generation[::-1], h, key)[::-1]


def log_weights(dbn: DBN, v: Array, key: Key) -> jax.Array:
    """log w = log p(v, h) + log Z - log q(h | v), h drawn by the recognition, so that E w = Z p(v).

    Args:
      dbn: the network.
      v: [B, D] zeros and ones.
      key: of the draws.

    Returns:
      [B] nats, without log Z: subtract it.

    Source: Salakhutdinov and Murray, 2008, eq. 22.

    >>> one = stacked(Weights(jnp.zeros((3, 2)), jnp.zeros(3), jnp.zeros(2)))
    >>> round(float(log_weights(one, jnp.zeros((1, 3)), jax.random.key(0))[0]), 4)  # -F(v) = 2 log 2
    1.3863
    """
    units = draw_up(dbn, v, key)
    log_q = -layers_nll(units, logits_of(dbn.recognition))
    log_p = -layers_nll(units[::-1], logits_of(dbn.generation[::-1]))
    return log_p - top_machine(dbn).free_energy(units[-1]) - log_q


def features(dbn: DBN, v: Array) -> list[jax.Array]:
    """Probabilities of all hidden layers, each from those below it: what the network says of data.

    Args:
      dbn: the network.
      v: [B, D] in [0, 1].

    Returns:
      [h_1, ..., h_L], each [B, n] in (0, 1).

    Source: Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, 2006,
    https://doi.org/10.1126/science.1127647.

    >>> zeros = lambda n, m: Weights(jnp.zeros((n, m)), jnp.zeros(n), jnp.zeros(m))
    >>> [float(h[0, 0]) for h in features(stacked(zeros(4, 3), zeros(3, 2)), jnp.zeros((1, 4)))]
    [0.5, 0.5]
    """
    found = [jnp.asarray(v)]
    for of in [*logits_of(dbn.recognition), top_machine(dbn).hidden_logits]:
        found.append(jax.nn.sigmoid(of(found[-1])))
    return found[1:]


def _plain(*machines: Weights) -> None:
    if any(extra is not None for weights in machines for extra in (weights.mu, weights.mean_h, weights.deviation)):
        raise BadInput("a machine with offsets or deviations in a stack", "allowed: binary ones without", "uncentred")


def _log_odds(layer: Layer, x: jax.Array) -> jax.Array:
    return x @ layer.w + jnp.asarray(layer.bias)[None]


def _both_ways(weights: Weights) -> tuple[Layer, Layer]:
    w = jnp.asarray(weights.w)
    return Layer(w, weights.c), Layer(w.T, weights.b)


def _drawn(layers: Sequence[Layer], first: Array, key: Key) -> list[jax.Array]:
    units = [jnp.asarray(first)]
    for number, of in enumerate(logits_of(layers)):
        units.append(sample_bernoulli(of(units[-1]), jax.random.fold_in(key, number)))
    return units

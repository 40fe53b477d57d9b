r"""The training state of a machine that stands on others: what it sees, and how it begins.

The machines below do not change.  They stand in the carry as `Weights` without offsets, from the lowest on, and the
machine sees the hidden units that they infer from an image, drawn anew.  It begins as the machine below it turned
upside down (dbn.py), about the offsets of that one; units beyond the visible ones of that machine begin with the small
random weights of a fresh machine, so that they differ.  A machine with fewer hidden units cannot begin so: it begins
fresh, with the log-odds of the means that it sees.

Source: Hinton, Osindero and Teh, A Fast Learning Algorithm for Deep Belief Nets, 2006,
https://doi.org/10.1162/neco.2006.18.7.1527.
"""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.centering import machine_of, recentred, uncentred, weights_of
from genjax.models.dbn import DBN, draw_up, features, stacked, upside_down
from genjax.models.rbm import OFFSETS, RBM, Weights
from genjax.types import Array, Key, State

BELOW = "below"  # the machines below, in a state's carry


def empty_below(widths: Sequence[int]) -> tuple[Weights, ...]:
    """Machines of zeros: the shapes of what `begun_above` fills.

    Args:
      widths: units of all layers up to the visible ones of the machine, from the images on.

    Returns:
      One machine less than there are widths, each without offsets.

    >>> [below.w.shape for below in empty_below((4, 3, 2))]
    [(4, 3), (3, 2)]
    """
    return tuple(Weights(jnp.zeros((n, m)), jnp.zeros(n), jnp.zeros(m)) for n, m in itertools.pairwise(widths))


def network_of(model: RBM, state: State) -> DBN:
    """The network of a machine and of those below it.

    Args:
      model: the machine on top.
      state: of its training, whose carry has the machines below.

    Returns:
      A DBN.

    Raises:
      BadInput: layers that do not fit.

    >>> from genjax.models.centering import first_carry
    >>> from genjax.models.visible import bernoulli_units
    >>> model = RBM(bernoulli_units(3), 2)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> carry = first_carry(model, params, jnp.zeros((1, 3))) | {"below": empty_below((4, 3))}
    >>> len(network_of(model, State(jnp.zeros((), jnp.int32), params, (), carry)).generation)
    1
    """
    return stacked(*state.carry[BELOW], uncentred(weights_of(model, state)))


def seen_above(model: RBM, state: State, v: Array, key: Key | None) -> jax.Array:
    """What the machine sees of images: the hidden units of the machines below.

    Args:
      model, state: as in `network_of`.
      v: [B, D] zeros and ones.
      key: of the draws; None: probabilities, each layer from those of the one below.

    Returns:
      [B, n]; v itself for the lowest machine.

    Source: Hinton, Osindero and Teh, 2006, section 4.

    >>> from genjax.models.centering import first_carry
    >>> from genjax.models.visible import bernoulli_units
    >>> model = RBM(bernoulli_units(3), 2)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> carry = first_carry(model, params, jnp.zeros((1, 3))) | {"below": empty_below((4, 3))}
    >>> seen_above(model, State(jnp.zeros((), jnp.int32), params, (), carry), jnp.zeros((1, 4)), None).tolist()
    [[0.5, 0.5, 0.5]]
    """
    network = network_of(model, state)
    return [jnp.asarray(v), *features(network, v)][-2] if key is None else draw_up(network, v, key)[-1]


def begun_above(below: RBM, previous: State, fresh: State) -> State:
    """How the next machine begins: `inherit` of its stage.

    Args:
      below: the machine whose training has ended, centred.
      previous: its state.
      fresh: of the next machine, as initialised, centred, with chains [M, n].

    Returns:
      The fresh state with the machines below in its carry, the parameters of the machine below turned upside down, its
      offsets, and chains where those of the machine below have most probable hidden units.

    Raises:
      BadInput: another number of chains.

    Source: this file's head.

    >>> from genjax.models.centering import first_carry
    >>> from genjax.models.visible import bernoulli_units
    >>> def state_of(n, m, widths):
    ...     model = RBM(bernoulli_units(n), m, centred=True)
    ...     params = {"params": model.init(jax.random.key(0), jnp.zeros((1, n)))["params"]}
    ...     carry = first_carry(model, params, jnp.zeros((5, n))) | {"below": empty_below(widths)}
    ...     return model, State(jnp.zeros((), jnp.int32), params, (), carry)
    >>> (model, first), (_, second) = state_of(3, 2, (3,)), state_of(2, 4, (3, 2))
    >>> begun = begun_above(model, first, second)
    >>> len(begun.carry["below"]), begun.carry["chains"].shape
    (1, (5, 2))
    """
    own, old = uncentred(weights_of(below, previous)), previous.carry[OFFSETS]
    chains = jnp.round(jax.nn.sigmoid(machine_of(below, previous).hidden_logits(previous.carry["chains"])))
    if chains.shape != fresh.carry["chains"].shape:
        told = f"chains {list(fresh.carry['chains'].shape)} above chains {list(chains.shape)}"
        raise BadInput(told, "as many chains in every layer, of as many units as the layer below has hidden ones")
    begun, mean_h = _turned(own, old, fresh.params["params"]["weight"])
    plain = {"visible": jnp.zeros_like(begun.b), "hidden": jnp.zeros_like(begun.c)}
    params = {"weight": begun.w, "visible": begun.b, "hidden": begun.c}
    moved = recentred({"params": params, OFFSETS: plain}, old["hidden"], mean_h)
    carry = {**fresh.carry, "chains": chains, OFFSETS: moved[OFFSETS], BELOW: (*previous.carry[BELOW], own)}
    return fresh._replace(params={"params": moved["params"]}, carry=carry)


def _turned(own: Weights, old: Mapping[str, Array], small: Array) -> tuple[Weights, jax.Array]:
    small = jnp.asarray(small)
    hidden, visible = small.shape[1], own.w.shape[0]
    if hidden < visible:
        odds = jax.scipy.special.logit(jnp.clip(jnp.asarray(old["hidden"]), 1e-3, 1 - 1e-3))
        return Weights(small, odds, jnp.zeros(hidden)), jnp.full(hidden, 0.5)
    turned = upside_down(own, hidden)
    spare = jnp.full(hidden - visible, 0.5)
    return turned._replace(w=turned.w + small.at[:, :visible].set(0.0)), jnp.concatenate([old["visible"], spare])

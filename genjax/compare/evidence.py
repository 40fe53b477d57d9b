"""What likelihoods of unequal kinds say of each other, and what they do not.

The negative log-likelihood of a model on a test set, L nats an example, is known exactly, or bounded on one side, or
estimated with an unknown error.  So L <= u, where it is exact (u = L) or u is an upper bound, and L >= l, where it is
exact or l is a lower bound.  That model A is better than model B is shown only by

    l_B - u_A > 2 sqrt(s_A^2 + s_B^2),

s the standard errors over the same test examples; their correlation, which is positive where hard examples are hard
for both, is left out, so that the rule errs towards silence.  Where an error is not known, nothing is shown.  A bound
that is worse than another number shows nothing: it may be loose.  What a bound does show is that the test set fits into
so many nats; by this models can be ordered.

Numbers of different things say nothing of each other: -log p(x) an example, a frame or a letter, and -log p(x | c) with
something given.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genjax.report.layout import measured

SORTS = ("exact", "upper bound", "lower bound", "estimate")
FLIPPED = {"upper bound": "lower bound", "lower bound": "upper bound"}  # from log p to -log p
DEVIATIONS = 2.0
ABOUT, UNIT = re.compile(r"[^,]*?(-)?log p\((x[^)]*)\)"), re.compile(r"(nats)|(nats|bits)/(?!dim\b)(\w+)")


class Likelihood(NamedTuple):
    """What is known of -log p(x)."""

    value: float  # the mean over the test set, in `unit`
    error: float | None  # its standard error; None: not known
    sort: str  # one of SORTS
    kind: str  # as the run says it, such as "upper bound of -log p(x), k=1,000"
    name: str = ""  # of the run's result, such as "test/neg_iwae"
    unit: str = "nats"  # an example, or nats/frame, nats/letter, ...
    of: str = "x"  # or "x | first frame": -log p of this is known
    lowest: float | None = None  # of an estimate: the lowest of the same measure, as walks there and back give two
    bits: str = ""  # the same number in bits of a part, where the run tells it beside: "3.073/residue"


def likelihood_of(lines: Sequence[Mapping[str, Any]]) -> Likelihood | None:
    """The most telling number of -log p(x) among a run's results on the test set.

    Args:
      lines: of results.json: each {"name": "test/...", "value", "standard_error", "unit", "kind", ...}.

    Returns:
      An exact number where there is one, else the lowest upper bound, else the highest estimate (of walks there
      and back the one that flatters less), else the highest lower bound, of -log p(x) before -log p(x | c), of whole
      examples before frames or letters, an estimate with the lowest of its measure beside; None where no line tells
      of either in nats, or in bits a letter.

    >>> line = {"name": "test/nll", "value": 80.0, "standard_error": 0.5, "unit": "nats", "kind": "exact -log p(x)"}
    >>> likelihood_of([line, {**line, "value": 79.0, "kind": "estimate of -log p(x)"}]).value
    80.0
    """
    found = [read._replace(bits=_beside(line, lines)) for line in lines if (read := _read(line)) is not None]
    cost = lambda one: -one.value if one.sort in ("lower bound", "estimate") else one.value
    order = ("exact", "upper bound", "estimate", "lower bound")
    best = min(
        found, key=lambda one: (one.of != "x", order.index(one.sort), one.unit != "nats", cost(one)), default=None
    )
    if best is None or best.sort != "estimate":
        return best
    measure = lambda one: (one.sort, thing(one), one.name.partition("/")[2])
    return best._replace(lowest=min(one.value for one in found if measure(one) == measure(best)))


def shown_better(first: Likelihood, second: Likelihood) -> bool:
    """Whether the numbers show that the first model is the better one: see the head of this file.

    >>> exact, bound = Likelihood(80.0, 0.5, "exact", ""), Likelihood(82.0, 0.5, "upper bound", "")
    >>> shown_better(exact, bound), shown_better(bound, exact)  # the bound may be loose
    (False, False)
    >>> shown_better(bound, Likelihood(90.0, 0.5, "exact", ""))
    True
    """
    above, below = first.sort in ("exact", "upper bound"), second.sort in ("exact", "lower bound")
    if first.error is None or second.error is None or thing(first) != thing(second):
        return False
    gap = second.value - first.value
    return above and below and gap > DEVIATIONS * math.hypot(first.error, second.error)


def thing(one: Likelihood) -> tuple[str, str]:
    """Of what a likelihood is, and of how much of it: only numbers of one thing are compared."""
    return one.of, one.unit


def findings(known: Mapping[str, Likelihood]) -> list[str]:
    """What likelihoods support, in sentences: who guarantees least, who is shown worse than whom, what stays open.

    Args:
      known: by the name of a run.

    >>> known = {"a": Likelihood(80.0, 0.5, "exact", ""), "b": Likelihood(82.0, 0.5, "upper bound", "")}
    >>> for line in findings(known): print(line)
    a guarantees the fewest nats: 80.00 ± 0.50.
    a against b is open: 82.00 ± 0.50 is an upper bound of b, which may be loose.
    """
    things: dict[tuple[str, str], dict[str, Likelihood]] = {}
    for name, one in known.items():
        things.setdefault(thing(one), {})[name] = one
    if len(things) == 1:
        return _findings(known)
    parts = "; ".join(f"-log p({of}), {unit}: {', '.join(names)}" for (of, unit), names in sorted(things.items()))
    told = [f"Numbers of different things are not compared: {parts}."]
    return told + [line for _, part in sorted(things.items()) if len(part) > 1 for line in _findings(part)]


def _findings(known: Mapping[str, Likelihood]) -> list[str]:
    sure = {name: one for name, one in known.items() if one.sort in ("exact", "upper bound")}
    if not sure:
        return ["No run guarantees a likelihood: there is no exact number and no upper bound of -log p(x)."]
    best = min(sure, key=lambda name: sure[name].value)
    told = [f"{best} guarantees the fewest {sure[best].unit}: {_text(sure[best])}."]
    others = sorted((name for name in known if name != best), key=lambda name: known[name].value)
    worse = [name for name in others if shown_better(sure[best], known[name])]
    if worse:
        told.append(f"{best} is shown to be better than {', '.join(worse)}.")
    for name in (name for name in others if name not in worse):
        told.append(f"{best} against {name} is open: {_why(sure[best], known[name], name)}.")
    beaten = [(a, b) for a in others for b in others if shown_better(known[a], known[b])]
    return [*told, *(f"{a} is shown to be better than {b}." for a, b in beaten)]


def not_dominated(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """The names whose scores, higher being better, no other reaches in all and surpasses in one.

    >>> not_dominated({"a": (0.9, 0.5), "b": (0.8, 0.7), "c": (0.8, 0.4)})
    ['a', 'b']
    """
    beats = lambda x, y: all(i >= j for i, j in zip(x, y, strict=True)) and tuple(x) != tuple(y)
    return [name for name, own in scores.items() if not any(beats(other, own) for other in scores.values())]


def _read(line: Mapping[str, Any]) -> Likelihood | None:
    kind, value, error = str(line.get("kind", "")), _finite(line.get("value")), _finite(line.get("standard_error"))
    about, unit = ABOUT.match(kind), UNIT.fullmatch(str(line.get("unit")))
    sort = next((sort for sort in SORTS if kind.startswith(sort)), None)
    name = str(line.get("name", ""))
    if not about or not sort or not name.startswith("test") or not unit or value is None:
        return None
    sort = "estimate" if "estimate" in kind else sort
    error = error or None  # 0: none was measured
    value, sort = (value, sort) if about[1] else (-value, FLIPPED.get(sort, sort))
    scale, per = math.log(2) if unit[2] == "bits" else 1.0, f"nats/{unit[3]}" if unit[3] else "nats"
    return Likelihood(value * scale, error and error * scale, sort, kind, name, per, about[2])


def _beside(line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """What a run tells in bits of the same measure, known by its evaluation and kind, where this line is in nats."""
    measure = lambda one: (str(one.get("name", "")).partition("/")[0], one.get("kind"))
    alike = [one for one in lines if measure(one) == measure(line) and str(one.get("unit", "")).startswith("bits/")]
    value = _finite(alike[0].get("value")) if alike and line.get("unit") == "nats" else None
    return "" if value is None else f"{abs(value):.3f}/{str(alike[0]['unit']).partition('/')[2]}"


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _why(best: Likelihood, other: Likelihood, name: str) -> str:
    if other.sort == "upper bound":
        return f"{_text(other)} is an upper bound of {name}, which may be loose"
    if other.sort == "estimate":
        return f"{_text(other)} of {name} is an estimate, which may err to either side"
    if best.error is None or other.error is None:
        return f"of {_text(best)} and {_text(other)}, one at least has no known error"
    if other.sort == "lower bound" and other.value < best.value:
        return f"{_text(other)} is a lower bound of {name}, which may be far below what it is"
    return f"{_text(best)} and {_text(other)} are within {DEVIATIONS:g} standard errors of each other"


def _text(one: Likelihood) -> str:
    return measured(one.value, one.error)

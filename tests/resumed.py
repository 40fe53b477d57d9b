"""A run that is stopped again and again, against the same one that never was."""

from test_train import digests, go

from genjax.errors import Preempted

MOST = 12  # starts


def stopped_and_whole(make, folder, options, stop_after):
    """Train an experiment in parts and at once, and demand the same digests of every checkpoint of the whole.

    Args:
      make: () -> Experiment.
      folder: of both runs, `parts` and `whole`.
      options: of training.
      stop_after: how often a part is asked whether to stop before it does.

    Returns:
      How often it was stopped.
    """
    stops = 0
    for _ in range(MOST):
        try:
            go(make(), folder / "parts", options, stop_after)
            break
        except Preempted:
            stops += 1
    go(make(), folder / "whole", options)
    whole, parts = digests(folder / "whole"), digests(folder / "parts")
    assert whole and {place: parts[place] for place in whole} == whole
    return stops

"""What ends a run early, and how it is told: at most three lines and an exit code."""


class GenjaxError(Exception):
    """A message for the user: what happened, where or what is allowed, what to do next.

    Args:
      what: one line that names the field or file and its value.
      allowed: one line: what is allowed, or the nearest name.
      remedy: one line: the next command or change.
    """

    exit_code = 1

    def __init__(self, what: str, allowed: str = "", remedy: str = ""):
        self.lines = tuple(" ".join(line.split()) for line in (what, allowed, remedy) if line)
        super().__init__("\n".join(self.lines))


class BadInput(GenjaxError):
    """The user's input cannot be used; nothing was changed (exit 2)."""

    exit_code = 2


class NonFinite(GenjaxError):
    """A loss, gradient or parameter is not finite; the last good checkpoint is kept (exit 3)."""

    exit_code = 3


class Damaged(GenjaxError):
    """Stored data is damaged, or reading or writing failed (exit 4)."""

    exit_code = 4


class Preempted(GenjaxError):
    """Asked to stop: the state was saved, run the same command again (exit 75)."""

    exit_code = 75

"""A planted bug of bits back: a stack that forgets what is pushed by some law."""

from types import SimpleNamespace

from genjax.likelihood import bits_back_stack


class Forgetful:
    """A stack of which some pushes are lost: latents are not returned, or their prior is left out."""

    def __init__(self, stack, forgets):
        self.stack, self.forgets, self.calls = stack, forgets, 0

    def encode_reverse(self, symbols, law, *table):
        self.calls += 1
        if not self.forgets(len(table), self.calls):
            self.stack.encode_reverse(symbols, law, *table)

    def __getattr__(self, name):
        return getattr(self.stack, name)


def plant(monkeypatch, forgets):
    """Stacks of the library lose the pushes that `forgets`: of so many tables, the so manieth call."""
    library = bits_back_stack.coder()
    stacks = SimpleNamespace(AnsCoder=lambda *given: Forgetful(library.stack.AnsCoder(*given), forgets))
    monkeypatch.setattr(bits_back_stack, "coder", lambda: SimpleNamespace(stack=stacks, model=library.model))

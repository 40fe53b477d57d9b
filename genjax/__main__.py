"""`python -m genjax` is the command `genjax`."""

import sys

from genjax.cli import main

if __name__ == "__main__":
    sys.exit(main())

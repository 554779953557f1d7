"""`python -m sdd_core`: one trajectory in this process."""

import sys

from sdd_core.commands.trajectory import main

if __name__ == "__main__":
    sys.exit(main())

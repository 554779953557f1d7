"""`python -m sdd_core.doctor`: what this machine can do."""

import sys

from sdd_core.commands.doctor import main

if __name__ == "__main__":
    sys.exit(main())

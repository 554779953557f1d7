"""`python -m sdd_core.download`: fetch published data sets."""

import sys

from sdd_core.commands.download import main

if __name__ == "__main__":
    sys.exit(main())

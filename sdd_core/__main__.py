"""`python -m sdd_core`: one trajectory in this process, or what the first word names.

trajectory    what runs without a name
verify        whether a store is what it says it is
doctor        what this machine can do
cost          what a level costs
download      the published data sets
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

COMMANDS: Final = ("trajectory", "verify", "doctor", "cost", "download")


def main(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names, a trajectory when it names none; returns the exit status."""
    named = bool(arguments) and arguments[0] in COMMANDS
    name, rest = (arguments[0], arguments[1:]) if named else ("trajectory", arguments)
    status: int = importlib.import_module(f"sdd_core.commands.{name}").main(rest)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m sdd_core`: one trajectory in this process; `python -m sdd_core doctor`: what this machine can do.

The other commands can be named likewise: `trajectory` (what runs without a name), `cost` and `download`.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

COMMANDS: Final = ("trajectory", "cost", "download", "doctor")


def main(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names, a trajectory when it names none; returns the exit status."""
    named = bool(arguments) and arguments[0] in COMMANDS
    name, rest = (arguments[0], arguments[1:]) if named else ("trajectory", arguments)
    status: int = importlib.import_module(f"sdd_core.commands.{name}").main(rest)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m sdd_core`: one trajectory in this process, or what the first word names."""

import sys

from sdd_core.commands import trajectory, verify

COMMANDS = {"trajectory": trajectory.main, "verify": verify.main}

if __name__ == "__main__":
    words = sys.argv[1:]
    named = bool(words) and words[0] in COMMANDS
    sys.exit(COMMANDS[words[0] if named else "trajectory"](words[named:]))

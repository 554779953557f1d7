"""What share of deliberate faults the tests catch, file by file: `make test-mutants` prints it.

mutmut changes one thing at a time in each pure room (an operator, a number, a word, an argument left out) and runs
that room's own test files on each change (`tool.mutmut` in pyproject.toml). A change that no test notices is named:
`mutmut show NAME` prints it. Many of those change nothing that anybody could notice, as the words of a message do.
"""

import json
from collections import Counter
from pathlib import Path

AIM = 0.9
SURVIVED, UNTESTED = 0, 33  # exit statuses of the tests, and mutmut's own of what no test calls


def main(folder=Path("mutants")):
    """Print each file's share and the names of what was not caught; the exit status says whether the aim is met."""
    total = Counter()
    for meta in sorted(folder.rglob("*.py.meta")):
        statuses = json.loads(meta.read_text())["exit_code_by_key"]
        known = {name: status for name, status in statuses.items() if status is not None}
        if not known:
            continue
        missed = [name for name, status in known.items() if status in (SURVIVED, UNTESTED)]
        found = Counter(made=len(known), caught=len(known) - len(missed))
        total += found
        print(line(str(meta.relative_to(folder)).removesuffix(".meta"), found))
        for name in missed:
            print(f"    {name}")
    print(line("all", total))
    return 0 if total["made"] and total["caught"] >= AIM * total["made"] else 1


def line(name, found):
    """One file's share."""
    return f"{name}: {found['caught']} of {found['made']} caught, {100 * found['caught'] / max(1, found['made']):.1f} %"


if __name__ == "__main__":
    raise SystemExit(main())

"""The import order of the design's rooms, read from the source of every file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("sdd_core", "sweeps", "cluster", "analysis")

# Who may import whom inside sdd_core (design.md, "Rooms"). Whatever is named here by no one is a front
# end, which may import everything. `models.*` may import what `models` may.
SCIENCE = {
    "spec": set(),
    "recipes": {"spec"},
    "curve": {"spec"},
    "noise": set(),
    "blobs": set(),
    "sources": {"noise"},
    "augmentation": set(),
    "data": {"spec", "noise", "sources", "augmentation"},
    "models": {"spec"},
    "pruning": {"spec"},
    "losses": set(),
    "steps": {"spec", "losses"},
    "training": {"spec", "data", "augmentation", "pruning", "losses", "steps"},
    "retraining": {"spec", "training"},
    "cost": {"spec", "models", "pruning"},
    "energy": set(),
    "store": {"spec", "curve", "blobs"},
    "calibration": {"spec", "data", "models", "pruning", "steps", "training", "cost", "energy"},
    "trajectory": {
        *("spec", "recipes", "curve", "noise", "sources", "augmentation", "data", "models", "pruning", "losses"),
        *("steps", "training", "retraining", "cost", "energy", "blobs", "store"),
    },
}
FRONT_ENDS = {"__init__", "__main__", "cli", "download"}

# room -> what none of its files imports
NEVER = {
    "sdd_core": {"ray", "optuna", "mlflow", "pandas", "sweeps", "cluster", "analysis"},
    "cluster": {"sweeps"},
    "analysis": {"torch", "ray", "sweeps", "cluster"},
}
# package -> the only files that import it
ONLY = {
    "sklearn": {"sdd_core/data.py"},
    "carbontracker": {"sdd_core/energy.py"},
    "pynvml": {"sdd_core/energy.py"},
    "ray": {"sweeps/driver.py", "cluster/connect.py"},
    "optuna": {"sweeps/search.py", "sweeps/joint_study.py"},
    "mlflow": {"sweeps/mirror.py", "analysis/runs.py"},
}
# Modules that import, even through others, no torch.
WITHOUT_TORCH = ("spec", "recipes", "curve", "blobs", "store", "energy")
# Modules that are a command too, and what reading its flags needs.
COMMANDS = {"cost": {"cli"}}


def imports(source, path):
    """The full names that a file imports anywhere in it, inside functions too."""
    package = list(Path(path).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from sdd_core import spec` is sdd_core.spec; `from sdd_core.spec import x` is sdd_core.spec.x
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return found


def science_module(path):
    """`spec` of sdd_core/spec.py, `models` of every file in sdd_core/models."""
    return Path(path).parts[1].removesuffix(".py")


def violations(source, path):
    """What a file imports against the law, in words."""
    room = Path(path).parts[0]
    names = imports(source, path)
    packages = {name.split(".")[0] for name in names}
    for package in sorted(packages & NEVER.get(room, set())):
        yield f"{path} imports {package}: {room} never does"
    for package in sorted(packages & ONLY.keys()):
        if path not in ONLY[package]:
            yield f"{path} imports {package}: only {', '.join(sorted(ONLY[package]))} does"
    science = {name.split(".")[1] for name in names if name.startswith("sdd_core.")}
    if room == "sdd_core":
        own = science_module(path)
        if own not in FRONT_ENDS:
            allowed = SCIENCE.get(own, set()) | COMMANDS.get(own, set()) | {own}
            for module in sorted(science - allowed):
                lower = ", ".join(sorted(allowed - {own})) or "none"
                yield f"{path} imports sdd_core.{module}: {own} may import {lower}"
    if room == "analysis":
        for module in sorted(science - set(WITHOUT_TORCH)):
            yield f"{path} imports sdd_core.{module}, which may import torch: analysis never does"
    if room == "sdd_core" and science_module(path) in WITHOUT_TORCH and packages & {"torch", "torchvision"}:
        yield f"{path} imports torch: it must be importable without"


def files():
    return [p.relative_to(ROOT).as_posix() for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", files())
def test_every_file_keeps_the_import_order(path):
    assert list(violations((ROOT / path).read_text(), path)) == []


def test_the_law_names_every_module_of_the_science():
    present = {science_module(path) for path in files() if path.startswith("sdd_core/")}
    assert present - SCIENCE.keys() - FRONT_ENDS == set(), "give a new module its place in SCIENCE"
    assert len(present & SCIENCE.keys()) >= 10


def test_the_law_has_no_circle():
    def below(module, above=()):
        assert module not in above, f"{' -> '.join([*above, module])} is a circle"
        for lower in SCIENCE[module]:
            below(lower, (*above, module))

    for module in SCIENCE:
        below(module)
    for module in WITHOUT_TORCH:
        assert SCIENCE[module] <= set(WITHOUT_TORCH)


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("sdd_core/store.py", "import ray", "sdd_core never does"),
        ("sdd_core/store.py", "import pandas as pd", "imports pandas"),
        ("sdd_core/cli.py", "from sweeps import driver", "imports sweeps: sdd_core never does"),
        ("sdd_core/spec.py", "from sdd_core import curve", "imports sdd_core.curve: spec may import none"),
        ("sdd_core/spec.py", "from .curve import dip", "imports sdd_core.curve: spec may import none"),
        ("sdd_core/spec.py", "from . import curve", "imports sdd_core.curve: spec may import none"),
        ("sdd_core/curve.py", "import sdd_core.store", "imports sdd_core.store: curve may import spec"),
        ("sdd_core/training.py", "from sdd_core.store import Store", "training may import augmentation, data, losses"),
        ("sdd_core/models/vit.py", "from sdd_core.training import train", "models may import spec"),
        ("sdd_core/store.py", "def f():\n    import torch", "must be importable without"),
        ("sdd_core/training.py", "from sklearn.datasets import load_digits", "only sdd_core/data.py does"),
        ("sdd_core/cost.py", "import carbontracker.tracker", "only sdd_core/energy.py does"),
        ("sweeps/lambda_opt.py", "from ray import tune", "only cluster/connect.py, sweeps/driver.py does"),
        ("sweeps/driver.py", "import optuna", "only sweeps/joint_study.py, sweeps/search.py does"),
        ("sweeps/driver.py", "import importlib\nimportlib.import_module('mlflow')", "only analysis/runs.py"),
        ("cluster/connect.py", "from sweeps.driver import run", "cluster never does"),
        ("analysis/plots.py", "import torch", "analysis never does"),
        ("analysis/runs.py", "try:\n    import ray\nexcept ImportError:\n    pass", "analysis never does"),
        ("analysis/runs.py", "from sdd_core import trajectory", "which may import torch"),
    ],
)
def test_the_checker_catches_a_violation(path, source, words):
    found = list(violations(source, path))
    assert any(words in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sdd_core/store.py", "import json\nfrom sdd_core.curve import LevelRecord\nfrom sdd_core import spec"),
        ("sdd_core/models/__init__.py", "from sdd_core.models.lenet import lenet\nimport torch"),
        ("sdd_core/data.py", "from sklearn.datasets import load_digits"),
        ("sweeps/driver.py", "import ray\nfrom sdd_core import trajectory\nfrom cluster import connect"),
        ("sweeps/mirror.py", "import mlflow"),
        ("analysis/runs.py", "import mlflow\nimport pandas\nfrom sdd_core.store import Store"),
    ],
)
def test_the_checker_lets_the_lawful_pass(path, source):
    assert list(violations(source, path)) == []


def test_what_reads_a_store_is_imported_without_torch():
    modules = ", ".join(f"sdd_core.{name}" for name in WITHOUT_TORCH)
    heavy = ("torch", "sklearn", "pandas", "ray", "carbontracker")
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")

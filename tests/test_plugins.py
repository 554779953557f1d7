"""A user's own data sets, models and criteria: registered by a plugin, in the keys that they influence."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave

from sdd_core import recipes, registry
from sdd_core.fields import SpecError
from sdd_core.flags import Parser
from sdd_core.spec import TrialSpec, level_keys

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = """
from dataclasses import dataclass
from typing import Annotated
from annotated_types import Ge
from typing_extensions import Doc
from sdd_core.models import Model
from sdd_core.registry import CRITERIA, MODELS

@MODELS.register("own")
@dataclass(frozen=True, kw_only=True)
class Own(Model):
    hidden: Annotated[int, Ge(1), Doc("units")] = 4

CRITERIA["own"] = None
"""


@pytest.fixture(autouse=True)
def clean():
    """Forget what a test registers."""
    before = dict(recipes.RECIPES)
    yield
    registry._loaded.clear()
    for known in (registry.MODELS, registry.CRITERIA, registry.DATASETS):
        for name in list(known.sources):
            del known[name], known.sources[name]
    recipes.RECIPES.clear()
    recipes.RECIPES.update(before)


def keys(spec):
    found = level_keys(spec)
    return [next(found), next(found)]


def load(tmp_path, text=PLUGIN, name="own.py"):
    (tmp_path / name).write_text(text)
    registry.load([str(tmp_path / name)])


def test_a_plugins_model_is_known_with_its_options(tmp_path):
    with pytest.raises(SpecError, match="model 'own': allowed are lenet"):
        TrialSpec(model="own")
    load(tmp_path)
    assert TrialSpec(model="own").options == {"hidden": 4}
    with pytest.raises(SpecError, match="model_options hidden=0: must be a whole number from 1"):
        TrialSpec(model="own", model_options=(("hidden", 0),))
    assert recipes.for_setting("digits", "own") == TrialSpec(model="own")  # no recipe: the plain defaults
    assert recipes.for_setting("mnist", "resnet18") is None


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({}, [True, True]),
        ({"model": "own"}, [False, False]),
        ({"criterion": "own"}, [True, False]),  # the dense level does not know how it will be pruned
    ],
)
def test_a_plugins_source_is_in_the_keys_that_it_can_influence(tmp_path, fields, same):
    found = []
    for text in (PLUGIN, PLUGIN + "# changed"):
        load(tmp_path, text)
        found.append((keys(TrialSpec(**fields)), TrialSpec(**fields).trial_id))
        registry._loaded.clear()
        for known in (registry.MODELS, registry.CRITERIA):
            del known["own"], known.sources["own"]
    (first, first_id), (second, second_id) = found
    assert [a == b for a, b in zip(first, second, strict=True)] == same
    assert (first_id == second_id) == all(same)


def test_what_is_loaded_here_can_be_loaded_where_the_file_is_not(tmp_path):
    load(tmp_path)
    shipped, key = [list(pair) for pair in registry.loaded_plugins()], keys(TrialSpec(model="own"))
    del registry.MODELS["own"], registry.CRITERIA["own"]
    registry._loaded.clear()
    (tmp_path / "own.py").unlink()
    registry.load(shipped)
    assert keys(TrialSpec(model="own")) == key
    registry.load(shipped)  # again is nothing


def test_a_module_is_loaded_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "own_module.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    registry.load(["own_module"])
    assert "own" in registry.MODELS


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1 / 0", "cannot be run (ZeroDivisionError: division by zero)"),
        ("this is no Python", "cannot be run (SyntaxError"),
        ("from sdd_core.registry import MODELS\nMODELS['lenet'] = 3", "'lenet' is registered already"),
    ],
)
def test_a_plugin_that_cannot_be_run_is_told(tmp_path, text, fault):
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    assert fault in str(caught.value)


def test_the_flag_loads_before_words_are_read(tmp_path):
    (tmp_path / "own.py").write_text(PLUGIN)
    (tmp_path / "a.yaml").write_text(f"plugin: {tmp_path / 'own.py'}\nmodel: own\n")
    parser = Parser(prog="test", description="")
    parser.add(TrialSpec, "all", only=("model",))
    reader = parser.read(["--config", str(tmp_path / "a.yaml")])
    assert (reader.given(TrialSpec), reader.faults) == ({"model": "own"}, [])


def test_a_missing_plugin_is_told():
    reader = Parser(prog="test", description="").read(["--plugin", "/nowhere/a.py"])
    assert reader.faults[0].startswith("plugin '/nowhere/a.py': is no module, and no file that can be read")


# --- the page ---------------------------------------------------------------------------------


def test_the_page_of_ones_own_images_and_network_works(tmp_path):
    page = (ROOT / "docs" / "own.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 5)):
        for number, name in enumerate(("cats", "dogs")):
            (tmp_path / "my_images" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (8, 8, 3)) + 100 * number
                imsave(tmp_path / "my_images" / part / name / f"{i:03}.png", pixels.astype(np.uint8))
    (commands,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    cost, trajectory, *_ = commands.splitlines()
    quick = "--epochs 2 --target-sparsity 0.3 --plugin my_criterion.py --criterion largest --no-energy"
    for command, said in ((cost, "small_cnn on mine: 5,"), (f"{trajectory} {quick}", "3 levels")):
        done = subprocess.run(
            [sys.executable, *command.split()[1:]],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout

"""The flags of a grid: which cells they mean, and which are refused."""

import json

import jsonschema
import pytest
import yaml

from sdd_core.spec import TrialSpec
from sweeps.kinds.grid.flags import EXAMPLES, read_options

FAST = ["--plan", "--seeds", "1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def arms_of(*arguments, file=None, tmp_path=None):
    if file is not None:
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
        arguments = (*arguments, "--config", str(tmp_path / "grid.yaml"))
    return read_options([*FAST, *arguments]).settings.arms


# --- cells ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vary", "fields"),
    [
        (["label_noise=0.2,0.5"], [{"label_noise": 0.2}, {"label_noise": 0.5}]),
        (["label_noise=0.20,2e-1"], [{"label_noise": 0.2}]),  # one cell, written twice
        (["criterion=random,gradient"], [{"criterion": "random"}, {"criterion": "gradient"}]),
        (
            ["epochs=1,2", "optimizer=sgd,adamw"],
            [{"epochs": e, "optimizer": o} for e in (1, 2) for o in ("sgd", "adamw")],
        ),
        (["model_options.hidden1=30,300"], [{"model_options.hidden1": 30}, {"model_options.hidden1": 300}]),
        (["lr_milestones=0.5 0.75,0.3"], [{"lr_milestones": (0.5, 0.75)}, {"lr_milestones": (0.3,)}]),
        (["teacher=none,dense,3"], [{"teacher": None}, {"teacher": "dense"}, {"teacher": 3}]),
        (
            ["teacher=none,dense", "teacher.weight_decay=0.001,0.01"],  # without a teacher both are one cell
            [
                {"teacher": None, "teacher.weight_decay": None},
                {"teacher": "dense", "teacher.weight_decay": 0.001},
                {"teacher": "dense", "teacher.weight_decay": 0.01},
            ],
        ),
        (["rewind_epoch=none"], [{"rewind_epoch": None}]),
        ([], [{}]),
    ],
)
def test_what_is_varied(vary, fields):
    arms = arms_of(*(word for text in vary for word in ("--vary", text)))
    assert [arm.fields for arm in arms] == fields


def test_a_cell_is_its_recipe_then_what_is_fixed_then_its_own_values():
    arms = arms_of(
        "--vary", "weight_decay=0.1,0.2", "--epochs", "3", "--teacher", "dense", "--teacher-with", "epochs=7"
    )
    assert [(arm.trials[0].weight_decay, arm.trials[0].epochs, arm.trials[0].alpha) for arm in arms] == [
        (0.1, 3, 0.8),
        (0.2, 3, 0.8),
    ]
    assert {arm.trials[0].label_noise for arm in arms} == {0.5}  # the recipe's
    assert {arm.trials[0].teacher.trial.epochs for arm in arms} == {7}


def test_a_pair_of_data_set_and_model_takes_its_recipe(monkeypatch):
    from sweeps.kinds.grid import flags

    monkeypatch.setattr(flags, "trial_faults", lambda spec, common: [])  # their files are not here
    arms = arms_of("--vary", "model=resnet18,vit", "--dataset", "cifar10")
    assert [(arm.trials[0].model, arm.trials[0].optimizer) for arm in arms] == [("resnet18", "sgd"), ("vit", "adamw")]


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [
        (["--seeds", "2"], [(0, 0), (1, 1)]),
        (["--seeds", "4", "7"], [(4, 4), (7, 7)]),
        (["--seeds", "2", "--data-seed", "5"], [(0, 5), (1, 5)]),
        (["--seeds", "2", "--vary", "teacher=none,dense"], [(0, 0), (1, 0)]),  # one teacher for all
    ],
)
def test_an_arm_has_one_trial_a_seed(arguments, seeds):
    for arm in read_options(["--plan", *arguments]).settings.arms:
        assert [(trial.seed, trial.data_seed) for trial in arm.trials] == seeds


def test_what_only_a_file_can_say(tmp_path):
    file = {
        "vary": {"label_noise": [0.2, 0.5]},
        "zip": [{"optimizer": ["sgd", "adamw"], "learning_rate": [0.1, 0.001]}],
        "exclude": [{"label_noise": "0.50", "optimizer": ["adamw"]}],
        "arms": {"taught": {"teacher": "dense", "alpha": 0.5, "teacher.weight_decay": 0.0178}},
    }
    arms = arms_of(file=file, tmp_path=tmp_path)
    assert [tuple(arm.fields.values()) for arm in arms] == [
        (0.2, "sgd", 0.1),
        (0.2, "adamw", 0.001),
        (0.5, "sgd", 0.1),
        (0.5, "sgd", 0.1, "taught"),
    ]
    taught = arms[-1].trials[0]
    assert (taught.alpha, taught.teacher.level, taught.teacher.trial.weight_decay) == (0.5, "dense", 0.0178)


def test_arms_alone_need_no_grid(tmp_path):
    arms = arms_of(file={"arms": {"a": {"epochs": 2}, "b": {}}}, tmp_path=tmp_path)
    assert [(arm.fields, arm.trials[0].epochs) for arm in arms] == [({"arm": "a"}, 2), ({"arm": "b"}, 30)]


def test_the_written_file_means_the_same_grid(tmp_path):
    first = read_options([*FAST, "--vary", "label_noise=0.2,0.5", "--vary", "teacher=none,dense", "--alpha", "0.5"][:7])
    (tmp_path / "again.yaml").write_text(first.common.config)
    again = read_options(["--plan", "--config", "again.yaml"])
    assert again.settings == first.settings
    assert again.common.sweep == first.common.sweep


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        (["--seeds", "5"], True),
        (["--data-seed", "3"], True),
        (["--vary", "label_noise=0.2"], False),
        (["--vary", "weight_decay=0.2"], False),
        (["--epochs", "3"], False),
    ],
)
def test_a_grids_name_is_its_cells_whatever_the_seeds(arguments, same):
    plain = ["--plan", "--vary", "criterion=random,gradient"]
    assert (read_options([*plain, *arguments]).common.sweep == read_options(plain).common.sweep) == same


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        (["--vary", "label_noise=0.2,2"], ["label_noise 2.0: must be in [0, 1]"]),
        (
            ["--vary", "lebel_noise=0.2"],
            ["vary lebel_noise: is no field that can be varied; did you mean label_noise?"],
        ),
        (["--vary", "seed=1,2"], ["vary seed: is no field that can be varied; give --seeds"]),
        (["--vary", "epochs"], ["vary 'epochs': must be FIELD=V1,V2,..."]),
        (["--vary", "epochs=1", "epochs=2"], ["vary epochs: is an axis already"]),
        (["--vary", "teacher.dataset=mnist"], ["vary teacher.dataset: a teacher has its student's data"]),
        (
            ["--vary", "teacher=none,dense", "--vary", "alpha=0.5,1"],
            [
                "teacher=none alpha=0.5: alpha 0.5: needs a teacher",
                "teacher=none alpha=1.0: alpha 1.0: needs a teacher",
            ],
        ),
        (
            ["--vary", "teacher=best,99"],
            ["teacher=best: teacher: teacher level 'best'", "teacher=99: teacher's level 99: its trajectory ends"],
        ),
        (["--vary", "model=lenet,vit"], ["model=vit: dataset 'digits' with model 'vit': does not run yet"]),
        (["--vary", "model_options.hidden1=0,5"], ["model_options.hidden1=0: model_options hidden1=0: must be"]),
        (
            ["--vary", "epochs=0", "--label-noise", "3", "--patience", "0"],
            ["epochs 0", "label_noise 3.0", "patience 0"],
        ),
    ],
)
def test_every_bad_cell_is_named_at_once(arguments, faults, capsys):
    with pytest.raises(SystemExit) as ended:
        read_options([*FAST, *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ablation.py: {len(faults)} fault")
    assert all(fault in said for fault in faults), said


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ({"zip": [{"epochs": [1, 2], "batch_size": [3]}]}, "must be lists of one length"),
        ({"zip": {"epochs": [1, 2]}}, "must be a list of mappings"),
        ({"exclude": [{"epochs": 30}], "vary": {"epochs": [30]}}, "exclude: leaves no cell"),
        ({"arms": ["a"]}, "must be names with their fields' values"),
        ({"arms": {"a": {"epochs": "x"}}}, "epochs 'x': must be a whole number from 1"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(file, fault, tmp_path, capsys):
    with pytest.raises(SystemExit):
        arms_of(file=file, tmp_path=tmp_path)
    assert fault in capsys.readouterr().err


def test_help_shows_a_whole_example(capsys):
    with pytest.raises(SystemExit):
        read_options(["--help"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("a whole grid.yaml", "vary:", "zip:", "exclude:", "arms:"))


def test_the_default_is_one_cell_of_the_embedded_recipe():
    (arm,) = arms_of()
    assert arm.trials == (TrialSpec(label_noise=0.5),)


def test_the_example_in_the_help_is_valid_by_the_schema_for_editors(capsys):
    with pytest.raises(SystemExit) as ended:
        read_options(["--schema"])
    assert ended.value.code == 0
    schema = json.loads(capsys.readouterr().out)
    lines = EXAMPLES.split("with what no flag can say:\n")[1].split("\n\n")[0]
    example = yaml.safe_load(lines)
    assert set(example) == {"epochs", "seeds", "vary", "zip", "exclude", "arms"}
    jsonschema.validate(example, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(example | {"epoch": 3}, schema)

"""The distillation sweep: who is compared, what it costs, its answer, and the whole command in miniature."""

import io
import json
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sdd_core.reading import Reading
from sdd_core.spec import TrialSpec, setting_id, to_json
from sdd_core.store import Store
from sweeps import distill
from sweeps.kinds.distill.flags import read_options
from sweeps.kinds.distill.plan import VANILLA, Approach, DistillSettings
from sweeps.kinds.distill.report import headline, report
from sweeps.kinds.figures import costs, shared_levels
from sweeps.run import launch
from sweeps.run.outcome import Outcome
from sweeps.sweep import Task
from tests.fakes import fake_levels, fake_record

ROOT = Path(__file__).resolve().parent.parent
READING = Reading()
# Five levels each: four prunings of 30 % leave less than a quarter.
STUDENT = TrialSpec(prune_fraction=0.3, target_sparsity=0.75, label_noise=0.5)
TEACHER = STUDENT.replace(weight_decay=0.01)
DIPPING, FALLING = [0.8, 0.5, 0.4, 0.6, 0.7], [0.85, 0.9, 0.8, 0.7, 0.6]
BETTER = [0.86, 0.91, 0.8, 0.7, 0.6]


def settings(**changes):
    given = {"levels": ("dense", "pruned"), "alphas": (0.5,), "temperatures": (4.0,), "seeds": (0, 1)}
    return DistillSettings(**({"student": STUDENT, "teacher": TEACHER} | given | changes))


# --- who is compared ------------------------------------------------------------------------

COMPARED = [
    ({}, [("dense", 0.5, 4.0), ("pruned", 0.5, 4.0)]),
    ({"alphas": (0.0, 0.5), "levels": (3,)}, [(3, 0.5, 4.0)]),  # alpha 0 is the vanilla student, once
    ({"alphas": (0.0,)}, []),
    (
        {"alphas": (0.5, 1.0), "temperatures": (1.0, 4.0), "levels": ("dense",)},
        [("dense", a, t) for a in (0.5, 1.0) for t in (1.0, 4.0)],
    ),
]


@pytest.mark.parametrize(("changes", "distilled"), COMPARED)
def test_every_alpha_with_every_tau_and_level_and_vanilla_once(changes, distilled):
    assert settings(**changes).approaches == [VANILLA, *(Approach(*values) for values in distilled)]


def test_students_of_all_seeds_share_the_data_and_the_teacher(store):
    chosen = settings(seeds=(3, 5))
    for approach in chosen.approaches:
        trials = chosen.trials(approach)
        assert [(trial.seed, trial.data_seed) for trial in trials] == [(3, 0), (5, 0)]
        assert {trial.distilled for trial in trials} == {approach != VANILLA}
        assert all(trial.teacher is None or trial.teacher.trial == TEACHER for trial in trials)
    # The first seed of every approach comes before the second of any.
    first, second = zip(*(chosen.trials(approach) for approach in chosen.approaches), strict=True)
    assert chosen.plan().step(store).tasks == tuple(Task(trial) for trial in (*first, *second))


def test_a_finished_student_is_not_asked_for_again(store):
    plan = settings().plan()
    fake_levels(store, TEACHER, FALLING)
    first, *others = (task.spec for task in plan.step(store).tasks)
    fake_levels(store, first, DIPPING)
    assert [task.spec for task in plan.step(store).tasks] == others
    assert plan.step(store).answer is None
    for spec in others:
        fake_levels(store, spec, FALLING)
    assert plan.step(store).tasks == ()
    assert plan.step(store).trials == (first, *others)
    assert plan.step(store).answer == plan.arms


def test_a_teacher_that_is_a_vanilla_student_too_is_one_trial(store):
    chosen = settings(teacher=STUDENT)
    fake_levels(store, STUDENT, FALLING)
    for spec in chosen.plan().trials():
        fake_levels(store, spec, FALLING)
    results = report(store, chosen, "s", READING, 0.035).results
    assert Counter(result.spec.trial_id for result in results)[STUDENT.trial_id] == 1
    assert results[0].tags["approach"] == "vanilla, teacher"


# --- what it costs --------------------------------------------------------------------------


def of_energy(kwh, reason=None):
    """What a record measured."""
    return {"energy": {"kwh": kwh, "source": "none" if kwh is None else "estimated", "reason": reason}}


def test_the_modes_pay_up_to_where_they_end(make_record):
    values = [0.7, 0.9, 0.8, 0.8, 0.8, 0.95, 0.6, 0.6]
    cost = {"pflop": 1.0, "pflop_teacher": 0.25, "measured": of_energy(0.5)}
    levels = [make_record(i, val_accuracy=value, **cost) for i, value in enumerate(values)]
    teacher = [(make_record(0, pflop=20.0, measured=of_energy(8.0)), 2)]
    found = costs(levels, Reading(intensity=100.0), teacher)
    # Early stopping ends at level 4, three below the best so far; the best of all is level 5.
    assert {mode: (cost.levels, cost.pflop, cost.pflop_full) for mode, cost in found.items()} == {
        "run_to_end": (8, 8.0, 20.0),
        "to_best": (6, 6.0, 17.5),
        "early_stopping": (5, 5.0, 16.25),
    }
    best = found["to_best"]
    assert (best.energy_kwh, best.energy_kwh_full, best.co2_g, best.co2_g_full) == (3.0, 7.0, 300.0, 700.0)
    assert (best.energy_source, best.energy_note) == ("estimated", None)


def test_an_unknown_energy_is_none_with_its_reason(make_record):
    known, unknown = make_record(0, measured=of_energy(0.5)), make_record(1, measured=of_energy(None, "no meter"))
    cost = costs([known], READING, [(unknown, 2)])["run_to_end"]
    assert (cost.energy_kwh, cost.energy_kwh_full, cost.co2_g_full) == (0.5, None, None)
    assert (cost.energy_source, cost.energy_note) == ("none", "1 of 2 levels: no meter")
    assert costs([known, unknown], READING, [])["run_to_end"].co2_g is None


def test_each_level_of_a_teacher_is_shared_by_those_who_need_it(make_record):
    """Two students of the dense teacher and one of the pruned: all pay for level 0, one for the rest."""
    teacher = [make_record(i) for i in range(3)]
    shared = shared_levels(teacher, {"a": 1, "b": 1, "c": 3})
    assert {name: [(record.level, students) for record, students in part] for name, part in shared.items()} == {
        "a": [(0, 3)],
        "b": [(0, 3)],
        "c": [(0, 3), (1, 1), (2, 1)],
    }


@given(st.integers(1, 8), st.lists(st.integers(1, 8), min_size=1, max_size=6))
def test_the_parts_of_a_teacher_add_up_to_what_was_trained_for_them(trained, needs):
    teacher = [fake_record(TEACHER, i, 0.5) for i in range(trained)]
    shared = shared_levels(teacher, {str(i): need for i, need in enumerate(needs)})
    paid = sum(Fraction(1, students) for part in shared.values() for _, students in part)
    assert paid == min(trained, max(needs))


# --- the answer, on curves that were never trained ------------------------------------------


@pytest.fixture
def answer(store):
    """A finished sweep with the given accuracies; students of the pruned teacher are the best."""

    def make(vanilla=DIPPING, dense=FALLING, pruned=BETTER, teacher=FALLING, *, student=STUDENT, kwh=None, **changes):
        chosen = settings(student=student, teacher=student.replace(weight_decay=0.01), **changes)
        fake_levels(store, chosen.teacher, teacher, kwh=kwh)
        curves = {None: vanilla, "dense": dense, "pruned": pruned}
        for approach in chosen.approaches:
            for trial in chosen.trials(approach):
                fake_levels(store, trial, curves[approach.level], kwh=kwh)
        return report(store, chosen, "a-sweep", READING, 0.035)

    return make


def shown(answer):
    out = io.StringIO()
    answer.show(Console(file=out, width=110))
    return out.getvalue()


def test_the_table_says_what_was_found_and_how_it_is_counted(answer):
    said = shown(answer())
    for text in (
        "vanilla: a dip of 30.0 points on validation; distilled: none beyond 3.5 points for 2 of 2 approaches",
        "best on validation: pruned teacher, α = 0.5, τ = 4: dip 0.0 points, test accuracy 9.0 % at 30.0 % sparsity",
        "dense: level 0 (0.0 % sparse, test 15.0 %), pruned: level 1 (30.0 % sparse, test 10.0 %)",
        "test is only reported",
        "its teacher left out, as the paper does",
        "shared equally by those of the 4 students here that need it",
        "No energy and no CO2: 5 of 5 levels: nothing was recorded.",
    ):
        assert text in said, said
    rows = [line.split() for line in said.splitlines()]
    assert ["pruned", "0.5", "4", "run", "to", "the", "end", "0.0", "/", "4.0"] in [row[:10] for row in rows]
    # Level 1 is the best of five. The teacher's five levels: the first for four students, the others for two.
    assert ["to", "its", "best", "level", "9.0", "±", "0.0", "30.0", "2.0", "2.00e-03", "4.25e-03"] in rows
    assert all(len(line) <= 110 for line in said.splitlines() if "±" in line)


def test_co2_is_shown_where_it_is_known(answer):
    made = answer(kwh=0.01)
    said = shown(made)
    rows = [line.split() for line in said.splitlines()]
    # Two levels of its own, a quarter of the teacher's first and halves of its other four: 4.25 times 4.45 g.
    assert ["to", "its", "best", "level", "9.0", "±", "0.0", "30.0", "2.0", "2.00e-03", "4.25e-03", "19"] in rows
    assert "that part of the teacher's trainings; estimated, at 445 g/kWh." in said
    assert all(len(line) <= 110 for line in said.splitlines() if "±" in line)
    (best,) = [row for approach, row in made.rows() if row.mode == "to_best" and approach.level == "pruned"]
    assert (best.co2_g, best.co2_g_full) == (pytest.approx(8.9), pytest.approx(4.25 * 4.45))
    assert made.figures()[0]["best_co2_g_full"] == pytest.approx(7.25 * 4.45)


def test_without_a_dip_nothing_needs_avoiding_and_the_sparser_of_equals_is_best(answer):
    made = answer(vanilla=FALLING, dense=FALLING, pruned=[0.85, 0.8, 0.9, 0.8, 0.6])
    assert "nothing needs avoiding" in headline(made)[0]
    assert "for 1 of 2 approaches" in headline(made)[0]
    assert made.best == Approach("pruned", 0.5, 4.0)


def test_a_pruned_teacher_whose_best_level_is_the_dense_one_is_said(answer):
    made = answer(teacher=[0.9, 0.8, 0.7, 0.7, 0.6])
    assert "two references mean the same level of the teacher, so their students are the same" in headline(made)
    assert "two references mean the same level" not in " ".join(headline(answer(student=STUDENT.replace(epochs=7))))


def test_one_seed_has_no_deviation_and_no_teacher_no_cost_of_one(answer):
    made = answer(alphas=(0.0,), seeds=(0,))
    said = shown(made)
    assert "1 seed: no deviation." in said
    assert "±" not in said
    assert "teacher:" not in said
    form = made.as_json()["settings"][0]
    assert (form["teacher"], form["best"]) == (None, None)
    assert {row["pflop"] == row["pflop_full"] for row in form["summary"]} == {True}


def test_papers_protocol_is_marked(answer):
    said = shown(answer(student=STUDENT.replace(protocol="paper")))
    assert "PAPER PROTOCOL" in said
    assert "best on test" in said
    assert "only reported" not in said


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        (["--alpha", "1.5"], ["alpha 1.5: must be in [0, 1]"]),
        (["--alpha", "-0.1", "half"], ["alpha -0.1: must be in [0, 1]", "alpha 'half': must be a number"]),
        (["--alpha", "0.5", "0.50"], ["alpha 0.5 0.5: must be different values"]),
        (["--temperature", "0"], ["temperature 0.0: must be above 0"]),
        (["--temperature", "inf"], ["temperature inf: must be a finite number above 0"]),
        (["--teacher", "sparse"], ["1 fault", "teacher level 'sparse': allowed are dense, pruned and numbers from 0"]),
        (["--teacher", "dense", "0"], ["teacher 0 0: must be different levels"]),
        (["--teacher", "99"], ["1 fault", "teacher's level 99: its trajectory ends at level 28"]),
        (["--teacher-with", "data_seed=7"], ["1 fault", "teacher_with 'data_seed=7': allowed are"]),
        (["--teacher-with", "dataset=mnist"], ["1 fault", "teacher_with 'dataset=mnist'"]),
        (["--teacher-model", "vgg"], ["teacher: ", "'digits' with model 'vgg'"]),
        (["--teacher-model-options", "hidden1=0"], ["1 fault", "teacher: model_options hidden1=0"]),
        (["--seeds", "0"], ["seeds 0: must be at least 1"]),
        (["--seeds", "1", "1"], ["seeds 1 1: must be different seeds"]),
        (["--seeds", "-1"], ["seeds -1: must be a whole number from 0"]),
        (["--data-seed", "-1"], ["data_seed -1: must be a whole number from 0"]),
        (["--tolerance", "-1"], ["tolerance -1.0: must be at least 0"]),
        (["--seed", "1"], ["--seed: unknown flag (did you mean --seeds?)"]),
        (
            ["--alpha", "2", "--temperature", "-1", "--teacher", "x", "--label-noise", "3", "--store", "/dev/null/s"],
            ["5 faults", "alpha 2.0", "temperature -1.0", "level 'x'", "label_noise 3.0", "store '/dev/null/s'"],
        ),
    ],
)
def test_bad_input_is_one_message_with_every_fault(arguments, faults, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        distill.main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert all(fault in said for fault in faults), said
    assert "Traceback" not in said
    assert not (tmp_path / "store" / "levels").exists()


def test_what_the_flags_mean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = read_options([])
    assert plain.settings.teacher == plain.settings.student  # the student's own recipe, its seed and data
    assert (plain.settings.seeds, plain.settings.student.data_seed) == ((0, 1, 2), 0)
    named = read_options(
        [
            *("--alpha", "0", "1", "--temperature", "2", "4", "--teacher", "dense", "7", "--seeds", "4", "6"),
            *("--weight-decay", "0.001", "--data-seed", "5", "--teacher-with", "weight_decay=0.01"),
        ]
    ).settings
    assert (named.alphas, named.temperatures, named.levels, named.seeds) == ((0, 1), (2, 4), ("dense", 7), (4, 6))
    assert (named.student.weight_decay, named.teacher.weight_decay) == (0.001, 0.01)
    assert (named.student.data_seed, named.teacher.data_seed) == (5, 5)


SAME, OTHER = True, False
NAMES = [
    (["--seeds", "1"], SAME),
    (["--data-seed", "3"], SAME),
    (["--alpha", "0.5", "--temperature", "1", "--teacher", "dense"], SAME),
    (["--teacher-with", "weight_decay=0.01"], OTHER),
    (["--weight-decay", "0.01"], OTHER),
    (["--label-noise", "0.2"], OTHER),
]


@pytest.mark.parametrize(("arguments", "same"), NAMES)
def test_a_sweeps_name_is_its_students_and_teachers(arguments, same, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (read_options(arguments).common.sweep == read_options([]).common.sweep) == same


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        distill.main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for word in ("--alpha", "--teacher-with", "--weight-decay", "--data-seed", "examples:", "resume", "exit status"):
        assert word in said


def test_a_failed_teacher_is_said_with_the_students_that_it_holds_back(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    held_back = {"0123456789ab": "ba9876543210"}
    failed = Outcome(failures={"ba9876543210": "RuntimeError: no more memory"}, held_back=held_back)
    monkeypatch.setattr(launch.Running, "_drive", lambda self: failed)
    assert distill.main(["--json", "answer.json"]) == 1
    said = capsys.readouterr().out
    assert "trial ba9876543210: RuntimeError: no more memory" in said
    assert "trial 0123456789ab: held back by its teacher, trial ba9876543210" in said
    assert not Path("answer.json").exists()


# --- the whole command, in miniature --------------------------------------------------------

TINY = ("hidden1=32", "hidden2=16")
COMMAND = [
    *("--epochs", "1", "--target-sparsity", "0.5", "--model-options", *TINY, "--learning-rate", "0.3"),
    *("--teacher-model-options", *TINY, "--teacher-with", "epochs=2", "target_sparsity=0.5", "weight_decay=0.01"),
    *("--alpha", "0", "0.5", "--temperature", "4", "--teacher", "dense", "pruned", "--seeds", "2"),
]
ENERGIES = ("energy_kwh", "energy_kwh_full", "co2_g", "co2_g_full")
KNOWN_OR_NULL = {"type": ["number", "null"], "minimum": 0}
FRACTION = {"type": "number", "minimum": 0, "maximum": 1}
LEVEL = {"enum": ["dense", "pruned", None]}
COST = {
    "type": "object",
    "required": [
        *("levels", "pflop", "pflop_full", "energy_source", "energy_note"),
        *ENERGIES,
    ],
    "properties": {
        "energy_source": {"enum": ["measured", "estimated", "none"]},
        "energy_note": {"type": ["string", "null"]},
        "levels": {"type": "integer", "minimum": 1},
        "pflop": {"exclusiveMinimum": 0},
        "pflop_full": {"exclusiveMinimum": 0},
    }
    | dict.fromkeys(ENERGIES, KNOWN_OR_NULL),
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "required": [
        *("setting_id", "setting", "sweep", "weight_decay", "seeds", "data_seed", "decided_on", "deciding_labels"),
        *("tolerance", "carbon_intensity", "teacher", "best", "summary", "trials"),
    ],
    "additionalProperties": False,
    "properties": {
        "setting_id": {"pattern": "^[0-9a-f]{12}$"},
        "setting": {"type": "object"},
        "sweep": {"type": "string"},
        "weight_decay": {"const": 1e-4},
        "seeds": {"const": [0, 1]},
        "data_seed": {"const": 0},
        "decided_on": {"const": "validation"},
        "deciding_labels": {"const": "clean"},
        "tolerance": FRACTION,
        "carbon_intensity": {"type": "number"},
        "teacher": {
            "required": [
                *("trial_id", "spec", "levels_trained", "pflop", "energy_kwh", "energy_source", "energy_note", "co2_g"),
                "levels",
            ],
            "properties": {
                "levels": {
                    "minItems": 2,
                    "items": {
                        "required": ["teacher", "level", "key", "sparsity", "val_accuracy", "test_accuracy"],
                        "properties": {"val_accuracy": FRACTION, "test_accuracy": FRACTION, "sparsity": FRACTION},
                    },
                }
            },
        },
        "best": {"required": ["teacher", "alpha", "temperature"], "properties": {"teacher": LEVEL}},
        "summary": {
            "minItems": 8,
            "maxItems": 8,
            "items": {
                "additionalProperties": False,
                "required": [
                    *("teacher", "alpha", "temperature", "setting_id", "mode", "dip", "test_dip", "accuracy"),
                    *("test_accuracy", "test_accuracy_std", "sparsity", "levels", "pflop", "pflop_full", "trial_ids"),
                    *("energy_source", "energy_note", *ENERGIES),
                ],
                "properties": {
                    "teacher": LEVEL,
                    "mode": {"enum": ["run_to_end", "to_best", "early_stopping"]},
                    "alpha": FRACTION,
                    "temperature": {"enum": [4, None]},
                    "setting_id": {"pattern": "^[0-9a-f]{12}$"},
                    "trial_ids": {"minItems": 2, "maxItems": 2},
                    "energy_source": {"enum": ["measured", "estimated", "none"]},
                    "energy_note": {"type": ["string", "null"]},
                }
                | dict.fromkeys(("dip", "test_dip", "accuracy", "test_accuracy", "sparsity"), FRACTION)
                | {name: {"minimum": 0} for name in ("test_accuracy_std", "levels", "pflop", "pflop_full")}
                | dict.fromkeys(ENERGIES, KNOWN_OR_NULL),
            },
        },
        "trials": {
            "minItems": 6,
            "maxItems": 6,
            "items": {
                "required": [
                    *("trial_id", "weight_decay", "seed", "data_seed", "teacher", "alpha", "temperature"),
                    *("teacher_level", "teacher_key", "dip", "rebound", "test_dip", "test_rebound", "levels"),
                    *("stopped_early", "best_val_accuracy", "test_accuracy_at_best", "sparsity_at_best", "pflop"),
                    *("pflop_teacher", "pflop_teacher_share", "costs", "early_stop"),
                ],
                "properties": {
                    "stopped_early": {"const": False},
                    "costs": {
                        "required": ["run_to_end", "to_best", "early_stopping"],
                        "additionalProperties": COST,
                    },
                },
            },
        },
    },
}


def test_a_plan_counts_the_students_and_their_teacher_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert distill.main([*COMMAND, "--plan", "--device-rate", "0.01", "--json", "plan.json"]) == 0
    assert "PLAN: nothing is run" in capsys.readouterr().out
    form = json.loads(Path("plan.json").read_text())["plan"]
    assert (form["trials"], form["levels"]) == ({"low": 7, "high": 7}, {"low": 35, "high": 35})
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def run(folder):
    return subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "distill.py"), *COMMAND, "--json", str(folder / "answer.json")],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which the command has run, its answer, and what it said."""
    folder = tmp_path_factory.mktemp("distill")
    ended = run(folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    form = json.loads((folder / "answer.json").read_text())
    assert form["schema"] == 1
    (setting,) = form["settings"]
    return folder, setting, ended.stdout


def test_the_json_is_the_documented_one_and_the_stores(done):
    folder, form, _ = done
    jsonschema.validate(form, SCHEMA)
    store = Store(str(folder / "store"))
    specs = {spec.trial_id: spec for spec in store.trials(form["sweep"])}
    assert specs.keys() == {trial["trial_id"] for trial in form["trials"]} | {form["teacher"]["trial_id"]}
    teacher = store.curve(specs[form["teacher"]["trial_id"]])
    assert form["teacher"]["spec"] == json.loads(json.dumps(to_json(specs[form["teacher"]["trial_id"]])))
    assert (form["teacher"]["levels_trained"], len(teacher)) == (5, 5)
    best = max(teacher, key=lambda record: (record.val_accuracy, record.level))
    assert [(level["teacher"], level["key"]) for level in form["teacher"]["levels"]] == [
        ("dense", teacher[0].key),
        ("pruned", best.key),
    ]
    for trial in form["trials"]:
        levels = store.curve(specs[trial["trial_id"]])
        assert {record.teacher for record in levels} == {trial["teacher_key"]}
        assert trial["levels"] == trial["costs"]["run_to_end"]["levels"] == len(levels) == 5
        full = sum(record.pflop + record.pflop_teacher for record in levels) + trial["pflop_teacher_share"]
        assert trial["costs"]["run_to_end"]["pflop_full"] == pytest.approx(full)
        assert (trial["pflop_teacher"] > 0) == (trial["teacher"] is not None)
    paid = sum(trial["pflop_teacher_share"] for trial in form["trials"])
    assert paid == pytest.approx(form["teacher"]["pflop"])
    assert {row["setting_id"] for row in form["summary"]} == {
        setting_id(specs[trial["trial_id"]]) for trial in form["trials"]
    }


def test_what_is_said_and_drawn(done):
    folder, _, said = done
    table = [line for line in said.splitlines() if "/" in line and line.startswith(("vanilla ", "dense ", "pruned "))]
    assert len(table) == 3, said
    assert "run to the end" in said
    assert "early stopping" in said
    (picture,) = (folder / "results").glob("distill-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture.relative_to(folder)) in said
    # Where the pruned teacher's best level is its dense one, its students' levels are those of the dense one.
    held = len(list((folder / "store" / "levels").rglob("*.json")))
    assert f"\n  {held} levels trained now, 35 in the answer" in said


def test_mlflow_holds_the_students_with_their_teacher(done):
    from mlflow.tracking import MlflowClient

    folder, form, _ = done
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.data.tags["sdd.trial_id"]: r.data for r in runs if r is not parent}
    assert parent.data.metrics["vanilla_pflop"] == parent.data.metrics["vanilla_pflop_full"]
    assert parent.data.tags["best"].endswith("teacher, α = 0.5, τ = 4")
    assert len(children) == 7
    teacher = children[form["teacher"]["trial_id"]]
    assert (teacher.tags["approach"], teacher.params["weight_decay"]) == ("teacher", "0.01")
    for trial in form["trials"]:
        child = children[trial["trial_id"]]
        assert child.params["alpha"] == str(trial["alpha"])
        full = {mode: trial["costs"][mode]["pflop_full"] for mode in ("run_to_end", "to_best", "early_stopping")}
        named = {"run_to_end": "pflop_full", "to_best": "to_best_pflop_full", "early_stopping": "early_stop_pflop_full"}
        assert {mode: child.metrics[name] for mode, name in named.items()} == pytest.approx(full)
        if trial["teacher"] is not None:
            assert child.params["teacher.level"] == trial["teacher"]
            assert child.params["teacher.trial.weight_decay"] == "0.01"
            assert child.tags["teacher_level"] == str(trial["teacher_level"])
            assert child.tags["approach"] == f"{trial['teacher']} teacher, α = 0.5, τ = 4"


def test_the_same_command_again_trains_nothing(done):
    folder, _, _ = done
    before = (folder / "answer.json").read_text()
    again = run(folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "\n  0 levels trained now, 35 in the answer" in again.stdout
    assert (folder / "answer.json").read_text() == before

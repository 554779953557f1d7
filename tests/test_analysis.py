"""Frames and trade-offs, on hand-made curves: what is chosen, what counts, what is printed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from analysis import frames
from analysis.choices import SettingTradeoff, tradeoffs
from analysis.tradeoff import CSV_COLUMNS, main
from sdd_core.reading import Reading, Trial
from sdd_core.record import LevelRecord
from sdd_core.spec import TeacherRef, TrialSpec, level_keys, setting_id
from sdd_core.store import Store

ROOT = Path(__file__).resolve().parent.parent
# Half of the weights go at each level: three prunings reach 0.8, so a complete curve has 4 levels.
BASE = TrialSpec(prune_fraction=0.5, target_sparsity=0.8, label_noise=0.5)


def records(
    spec: TrialSpec, val: Sequence[float], test: Sequence[float] | None = None, noisy: Sequence[float] | None = None
) -> list[LevelRecord]:
    """The ten-line fake: a level per accuracy, of 1000 prunable weights and 2 PFLOP each."""
    paper = spec.protocol == "paper"
    shared = {"prunable": 1000, "emptied_layers": (), "train_accuracy": 1.0, "train_loss": 0.0, "val_loss": None,
              "val_noisy_loss": None, "test_loss": 1.0, "label_noise": 0.499, "train_size": 80, "val_size": 20,
              "test_size": 50, "chance": 0.1, "pflop": 2.0, "pflop_teacher": 0.0, "pflop_real": 4.0,
              "pflop_real_teacher": 0.0, "pflop_real_evaluation": 0.5, "sparse_multiply_adds": 80,
              "parent": None, "teacher": None, "weights": None,
              "measured": {}}  # fmt: skip
    return [
        LevelRecord(
            key=key,
            level=i,
            remaining=1000 >> i,
            sparsity=1 - (1000 >> i) / 1000,
            val_accuracy=None if paper else value,
            val_noisy_accuracy=None if paper else (noisy or val)[i],
            test_accuracy=(test or val)[i],
            **shared,
        )
        for i, (value, key) in enumerate(zip(val, level_keys(spec), strict=False))
    ]


def trial(val, test=None, noisy=None, **fields):
    fields.setdefault("data_seed", fields.get("seed", 0))
    spec = BASE.replace(**fields)
    return Trial(spec, records(spec, val, test, noisy))


def answer(*trials, **options) -> SettingTradeoff:
    (only,) = tradeoffs(trials, Reading(**{"patience": 2, **options}))
    return only


def test_chooses_lambda_and_level_on_validation_and_reports_test():
    found = answer(
        trial([0.5, 0.6, 0.9, 0.5], test=[0.1, 0.2, 0.3, 0.4], weight_decay=1e-3),
        trial([0.5, 0.6, 0.8, 0.5], test=[0.9, 0.9, 0.9, 0.9], weight_decay=1e-2),
    ).run_to_end
    assert (found.weight_decay, found.deciding_accuracy, found.test_accuracy) == (1e-3, 0.9, 0.3)
    assert (found.sparsity, found.each.levels, found.each.pflop, found.lambdas) == (0.75, 4, 8.0, 2)


def test_noisy_labels_decide_when_asked():
    trials = [
        trial([0.9] * 4, noisy=[0.3] * 4, weight_decay=1e-3),
        trial([0.8] * 4, noisy=[0.4] * 4, weight_decay=1e-2),
    ]
    assert answer(*trials).run_to_end.weight_decay == 1e-3
    noisy = answer(*trials, labels="noisy")
    assert (noisy.run_to_end.weight_decay, noisy.deciding_labels) == (1e-2, "noisy")


@pytest.mark.parametrize(
    ("curve", "min_drop", "early", "levels", "stopped"),
    [
        # The rule ends the dip and never sees the second peak.
        ([0.7, 0.5, 0.5, 0.9], 0.02, 0.7, 3, 1),
        # It does not fire on one bad level, so the whole curve is paid for.
        ([0.7, 0.5, 0.7, 0.6], 0.02, 0.7, 4, 0),
        # A drop of exactly min_drop is none.
        ([0.75, 0.5, 0.5, 0.5], 0.25, 0.75, 4, 0),
    ],
)
def test_early_stopping_pays_for_the_levels_up_to_where_the_rule_ended(curve, min_drop, early, levels, stopped):
    found = answer(trial(curve), min_drop=min_drop).early_stopping
    assert (found.deciding_accuracy, found.stopped) == (early, stopped)
    assert (found.each.levels, found.each.pflop) == (levels, 2.0 * levels)


def test_run_to_end_needs_a_complete_curve_and_early_stopping_only_a_fired_rule():
    found = answer(trial([0.7, 0.5, 0.5]))
    assert found.run_to_end is None
    assert found.early_stopping.each.levels == 3
    assert found.reason == (
        "run to the end: none of 1 λ has the curves of all its seeds complete (0 of 1 curves are complete)."
    )


def test_a_curve_that_may_still_rise_answers_nothing():
    found = answer(trial([0.7, 0.6]))
    assert found.run_to_end is None
    assert found.early_stopping is None
    assert "early stopping: none of 1 λ" in found.reason


def test_one_lucky_seed_does_not_beat_a_lambda_with_all_its_seeds():
    lucky = [trial([0.99] * 4, weight_decay=1e-2, seed=0), trial([0.99] * 2, weight_decay=1e-2, seed=1)]
    known = [trial([0.8] * 4, weight_decay=1e-3, seed=seed) for seed in (0, 1)]
    found = answer(*lucky, *known)
    assert found.run_to_end.weight_decay == 1e-3
    assert (found.run_to_end.lambdas, found.lambdas, found.trials) == (1, 2, 4)
    unstarted = answer(*known, trial([0.99] * 4, weight_decay=1e-2), trial([], weight_decay=1e-2, seed=1))
    assert unstarted.run_to_end.weight_decay == 1e-3


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        # Equal means: the sparser one, also when the sums differ in their last bit.
        ([[0.9, 0.8, 0.8, 0.8]], [[0.8, 0.9, 0.8, 0.8]], 1e-2),
        ([[0.55, 0, 0, 0], [0.1, 0, 0, 0]], [[0, 0.35, 0, 0], [0, 0.3, 0, 0]], 1e-2),
        # Equal in everything: the smaller lambda.
        ([[0.9] * 4], [[0.9] * 4], 1e-3),
    ],
)
def test_ties(first, second, winner):
    trials = [trial(c, weight_decay=w, seed=s) for w, cs in ((1e-3, first), (1e-2, second)) for s, c in enumerate(cs)]
    assert answer(*trials).run_to_end.weight_decay == winner
    assert answer(*reversed(trials)).run_to_end.weight_decay == winner


def test_seeds_give_a_mean_and_a_sample_deviation_and_one_seed_gives_none():
    pair = answer(trial([0.8] * 4, seed=0), trial([0.6] * 4, seed=1)).run_to_end
    assert pair.test_accuracy == pytest.approx(0.7)
    assert pair.test_accuracy_std == pytest.approx(0.1 * 2**0.5)
    assert (pair.seeds, pair.each.levels, pair.total.levels) == (2, 4, 8)
    assert (pair.each.pflop, pair.total.pflop) == (8.0, 16.0)
    single = answer(trial([0.8] * 4)).run_to_end
    assert (single.test_accuracy_std, single.sparsity_std, single.deciding_accuracy_std) == (None, None, None)


def test_lambda_zero_is_a_lambda():
    assert answer(trial([0.9] * 4, weight_decay=0.0), trial([0.8] * 4, weight_decay=1e-3)).run_to_end.weight_decay == 0


def test_settings_and_approaches_are_answered_apart():
    teacher = TeacherRef(trial=BASE, level="dense")
    distilled = BASE.replace(teacher=teacher, alpha=0.8)
    trials = [
        trial([0.9] * 4),
        trial([0.9] * 4, label_noise=0.2),
        trial([0.9] * 4, label_noise=0.2, epochs=7),
        Trial(distilled, records(BASE, [0.7] * 4)),
    ]
    found = {setting.label: setting for setting in tradeoffs(trials, Reading())}
    assert list(found) == [
        "lenet on digits, ε=20 %, epochs=30",
        "lenet on digits, ε=20 %, epochs=7",
        "lenet on digits, ε=50 %",
        "lenet on digits, ε=50 %, distilled from dense lenet (α=0.8, τ=10)",
    ]
    assert {setting.setting_id for setting in found.values()} == {setting_id(spec) for spec, _ in trials}


# (seeds of the vanilla student, a teacher's level asked for, how many levels it has, seeds that the answer is over)
TEACHING = [
    ((0, 1), "dense", 1, 2),  # nobody waits for the rest of a teacher that needs no more
    ((0, 1), 2, 3, 2),
    ((0, 1), "dense", 2, None),  # it has gone on, so it is a seed like the others
    ((0, 1), "pruned", 3, None),  # its students wait for its end
    ((0, 1), "dense", 4, 3),  # complete, it is one of the seeds
    ((), "dense", 1, None),
]


@pytest.mark.parametrize(("seeds", "level", "levels", "over"), TEACHING)
def test_a_trial_that_was_only_run_as_a_teacher_is_no_seed_to_wait_for(seeds, level, levels, over):
    teacher = BASE.replace(seed=9)
    student = BASE.replace(teacher=TeacherRef(trial=teacher, level=level), alpha=0.8)
    trials = [trial([0.8] * 4, seed=seed) for seed in seeds]
    trials += [Trial(teacher, records(teacher, [0.9] * levels)), Trial(student, records(BASE, [0.7] * 4))]
    found = {setting.setting_id: setting for setting in tradeoffs(trials, Reading())}
    assert found[setting_id(student)].run_to_end is not None
    vanilla = found[setting_id(BASE)]
    if over is None:
        assert vanilla.run_to_end is None
        assert "run to the end: none of 1 λ has the curves of all its seeds complete" in vanilla.reason
        assert ("1 only as long as a teacher's has to be" in vanilla.reason) == (seeds == ())
    else:
        assert (vanilla.run_to_end.seeds, vanilla.reason) == (over, None)
        assert vanilla.run_to_end.deciding_accuracy == pytest.approx(0.8 if over == 2 else 2.5 / 3)


def test_papers_protocol_decides_on_test_and_says_so():
    found = answer(
        trial([0.5] * 4, test=[0.7] * 4, protocol="paper", weight_decay=1e-3),
        trial([0.9] * 4, test=[0.6] * 4, protocol="paper", weight_decay=1e-2),
    )
    assert (found.run_to_end.weight_decay, found.decided_on, found.deciding_labels) == (1e-3, "test", None)
    assert "decided on test" in found.label


# --- frames and the command, on a store -----------------------------------------------------


def fill(folder: Path, trials, sweep: str | None = None) -> Store:
    store = Store(str(folder))
    for spec, curve in trials:
        store.add_trial(spec, sweep)
        for record in curve:
            store.commit(record, {})
    return store


@pytest.fixture
def store(tmp_path) -> Store:
    trials = [trial([0.7, 0.5, 0.5, 0.9], weight_decay=w, seed=s) for w in (0.0, 1e-3) for s in (0, 1)]
    return fill(tmp_path / "store", [*trials, trial([0.8], weight_decay=1e-2), trial([], weight_decay=3e-2)], "demo")


def test_level_frame_has_a_row_per_level(store):
    frame = frames.level_frame(store, "demo")
    assert list(frame.columns) == list(frames.LEVEL_COLUMNS)
    assert len(frame) == 4 * 4 + 1
    whole = frame[frame["weight_decay"] == 0.0]
    assert list(whole["pflop_total"])[:4] == [2.0, 4.0, 6.0, 8.0]
    assert (whole["label_noise"] == 0.5).all()
    assert (whole["realised_noise"] == 0.499).all()
    assert whole["complete"].all()
    assert not frame[frame["weight_decay"] == 1e-2]["complete"].any()
    assert frame["val_loss"].isna().all()


def test_trial_frame_has_a_row_per_trial_also_without_levels(store):
    frame = frames.trial_frame(store, reading=Reading(patience=2)).set_index(["weight_decay", "seed"])
    assert {*frame.index.names, *frame.columns} == set(frames.TRIAL_COLUMNS)
    assert len(frame) == 6
    row = frame.loc[(1e-3, 1)]
    assert (row["levels"], row["best_accuracy"], row["best_sparsity"]) == (4, 0.9, 0.875)
    assert (row["early_stop_accuracy"], row["early_stop_levels"], row["early_stop_pflop"]) == (0.7, 3, 6.0)
    assert row["dip"] == pytest.approx(0.2)
    empty = frame.loc[(3e-2, 0)]
    assert empty["levels"] == 0
    assert empty[["dip", "best_accuracy", "early_stop_triggered"]].isna().all()


def test_frames_of_an_empty_store_have_their_columns(tmp_path):
    assert list(frames.level_frame(Store(str(tmp_path))).columns) == list(frames.LEVEL_COLUMNS)
    assert list(frames.trial_frame(Store(str(tmp_path))).columns) == list(frames.TRIAL_COLUMNS)


def test_a_level_that_trials_share_is_read_once(tmp_path, monkeypatch):
    specs = [BASE, BASE.replace(retraining="finetune")]
    fill(tmp_path, [(spec, records(spec, [0.9])) for spec in specs])
    opened: list[str] = []
    fresh, read = Store(str(tmp_path)), Store._read
    monkeypatch.setattr(Store, "_read", lambda self, name: opened.append(name) or read(self, name))
    assert len(frames.level_frame(fresh)) == 2
    found = [name for name in opened if name.startswith("levels") and (tmp_path / name).exists()]
    assert len(found) == 1


def command(*args: str, cwd: Path = ROOT, env=None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "analysis" / "tradeoff.py"), *args]
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", timeout=60)


def test_command_json(store):
    done = command("--store", store.url, "--format", "json", "--patience", "2")
    assert (done.returncode, done.stderr) == (0, "")
    form = json.loads(done.stdout)
    assert form["schema"] == 1
    (setting,) = form["settings"]
    assert (setting["label"], setting["decided_on"], setting["trials"]) == ("lenet on digits, ε=50 %", "validation", 6)
    assert setting["setting"]["dataset"] == "digits"
    assert setting["reason"] is None
    assert (setting["run_to_end"]["weight_decay"], setting["run_to_end"]["deciding_accuracy"]) == (0.0, 0.9)
    assert (setting["early_stopping"]["deciding_accuracy"], setting["early_stopping"]["levels_total"]) == (0.7, 6)
    costs = form["costs"]
    assert (costs["levels"], costs["pflop"], costs["pflop_real"]) == (17, 34.0, 68.0)
    assert (costs["energy_kwh"], costs["co2_g"], costs["seconds"], costs["energy_levels"]) == (None, None, None, 0)


MEASURED = {"seconds": 10.0, "energy": {"kwh": 0.5, "source": "estimated", "reason": None}}


@pytest.mark.parametrize(("flags", "intensity"), [([], 445), (["--carbon-intensity", "20"], 20)])
def test_co2_is_the_stored_energy_at_an_intensity_given_afterwards(tmp_path, flags, intensity):
    curves = [trial([0.9] * 4, seed=s) for s in (0, 1)]
    measured = [(spec, [dataclasses.replace(r, measured=MEASURED) for r in curve]) for spec, curve in curves]
    store = fill(tmp_path / "store", measured, "demo")
    form = json.loads(command("--store", store.url, "--format", "json", *flags).stdout)
    found = form["settings"][0]["run_to_end"]
    assert (found["energy_kwh"], found["seconds"], found["carbon_intensity"]) == (2.0, 40.0, intensity)
    assert (found["co2_g"], found["energy_source"], found["energy_reason"]) == (2.0 * intensity, "estimated", None)
    assert (form["costs"]["energy_kwh"], form["costs"]["co2_g"]) == (4.0, 4.0 * intensity)
    table = command("--store", store.url, *flags).stdout
    assert f"2 kWh (estimated), {2 * intensity:g} gCO2e at {intensity} g/kWh" in " ".join(table.split())
    levels = frames.level_frame(store, reading=Reading(intensity=intensity))
    assert set(levels["co2_g"]) == {0.5 * intensity}
    trials = frames.trial_frame(store, reading=Reading(intensity=intensity))
    assert set(trials["co2_g"]) == set(trials["best_co2_g"]) == {2.0 * intensity}
    assert set(trials["energy_source"]) == {"estimated"}


def test_a_level_that_trials_share_is_paid_for_once():
    specs = [BASE, BASE.replace(retraining="finetune")]
    first, second = (records(spec, [0.9, 0.9]) for spec in specs)
    assert first[0].key == second[0].key
    found = frames.distinct_costs([Trial(specs[0], first), Trial(specs[1], second)])
    assert (found.levels, found.pflop) == (3, 6.0)


def test_command_csv(store):
    done = command("--store", store.url, "--format", "csv", "--sweep", "demo")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["mode"] for row in rows] == ["run_to_end", "early_stopping"]
    assert tuple(rows[0]) == CSV_COLUMNS
    assert (rows[0]["test_accuracy"], rows[0]["seeds"], rows[0]["reason"]) == ("0.9", "2", "")


def test_command_table_fits_100_columns_and_any_encoding(store, tmp_path):
    spec, curve = trial([0.7, 0.6], protocol="paper", test=[0.7, 0.6])
    fill(Path(store.url), [(spec, curve)])
    done = command("--store", store.url, "--patience", "2")
    assert done.returncode == 0, done.stderr
    # A setting's own name may be longer; nothing else is.
    assert max(len(line) for line in done.stdout.splitlines() if "(setting " not in line) <= 100
    told = " ".join(done.stdout.split())
    assert "All 19 levels read, each once: 38 PFLOP by the paper's convention, 76 in real operations" in told
    assert "energy unknown (19 of 19 levels: nothing was recorded)" in told
    for text in ("run to the end", "90.00", "70.00", "87.50", "6 trials over 4 λ; chosen", "Missing: run to the end"):
        assert text in done.stdout
    assert "Paper's protocol: test data decided" in done.stdout
    assert "\x1b" not in done.stdout
    plain = command("--store", store.url, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii", "PATH": ""})
    assert plain.returncode == 0, plain.stderr


def test_command_help_teaches():
    done = command("--help")
    assert done.returncode == 0
    for text in ("--deciding-labels", "How it chooses", "example:", "trains"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--store", "nowhere"], ["store 'nowhere'", "no such folder"]),
        (["--patience", "0", "--min-drop", "-1"], ["patience 0", "min_drop -1.0", "[0, 1)"]),
        (["--patience", "x", "--min-drop", "nan"], ["patience 'x'", "min_drop nan"]),
        (
            ["--format", "xml", "--deciding-labels", "dirty", "--fast"],
            ["'xml'", "table, json, csv", "'dirty'", "--fast: unknown flag"],
        ),
        (["--carbon-intensity", "-1", "--patience", "0"], ["carbon_intensity -1.0", "at least 0", "patience 0"]),
        (["--carbon-intensity", "green"], ["carbon_intensity 'green'"]),
        (["--carbon-intensity", "inf"], ["carbon_intensity inf"]),
        (["--patience"], ["--patience", "expected one argument"]),
        (["--store", "{empty}"], ["no trial has a finished level"]),
        (["--store", "{empty}", "--sweep", "demo"], ["sweep 'demo'", "no sweeps"]),
        (["--store", "nothing://x"], ["store 'nothing://x'", "cannot be read"]),
    ],
)
def test_command_answers_bad_input_in_one_message(args, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([arg.format(empty=tmp_path) for arg in args])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "nothing was run" in said.err
    for text in told:
        assert text in said.err


def test_command_exits_with_2_and_no_traceback(tmp_path):
    done = command("--patience", "0", "--min-drop", "-1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    for text in ("patience 0", "min_drop -1.0", "store './store'"):
        assert text in done.stderr


def test_analysis_never_imports_torch_ray_or_other_rooms():
    code = (
        "import sys, analysis.frames, analysis.choices, analysis.tradeoff, analysis.pictures.curves;"
        "print([m for m in ('torch', 'ray', 'optuna', 'sweeps', 'cluster', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr

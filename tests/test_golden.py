"""What users see, pinned in `tests/golden/`: answers, plans, MLflow, refusals, level keys.

Each test runs a command over a store of made-up levels in which everything that it asks for is finished, so that
nothing is trained and Ray is never started. A run with SDD_GOLDEN=write writes the files anew; look at what changed
before you commit them. Only commands, the store, specs and recipes are used here, and none of what lies behind them.
"""

import contextlib
import difflib
import io
import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import analysis.tradeoff
import sdd_core.commands.cost
import sdd_core.commands.trajectory
from sdd_core import recipes
from sdd_core.spec import TeacherRef, level_keys, setting_id, to_json
from sdd_core.store import Store
from sweeps import distill, joint, lambda_opt
from tests.golden_world import fill

GOLDEN = Path(__file__).resolve().parent / "golden"
COMMANDS = {
    "lambda_opt.py": lambda_opt.main,
    "distill.py": distill.main,
    "joint.py": joint.main,
    "python -m sdd_core": sdd_core.commands.trajectory.main,
    "python -m sdd_core.cost": sdd_core.commands.cost.main,
    "tradeoff.py": analysis.tradeoff.main,
}
SMALL = ("--prune-fraction", "0.3", "--target-sparsity", "0.9")
"""Eight levels."""
BASE = recipes.digits_lenet().replace(prune_fraction=0.3, target_sparsity=0.9)
TEACHER = recipes.digits_lenet()
"""A teacher is pruned as its own recipe says, however its student is."""
FOUR = (1e-4, 1e-3, 1e-2, 1e-1)
"""The λs of a search with one point a decade."""
SEVEN = (1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1)
"""The λs of a search with two points a decade."""


# --- running and comparing ------------------------------------------------------------------


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path):
    """An empty working directory, where MLflow cannot be imported: it takes seconds, and a command goes on without."""
    with pytest.MonkeyPatch.context() as patch:
        _settle(patch, tmp_path)
        patch.setitem(sys.modules, "mlflow", None)
        yield tmp_path


def _settle(patch, folder):
    """Make a folder the working directory, in an environment that says nothing."""
    patch.chdir(folder)
    patch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "MLFLOW_TRACKING_URI", "SDD_CPU_WATTS", "SDD_GPU_WATTS"):
        patch.delenv(name, raising=False)
    patch.setenv("SDD_DATA", os.environ["SDD_DATA"])  # a flag writes to it
    # What is not in the store fails at once instead of being trained.
    if sys.modules.get("ray") is not None:
        patch.setattr(sys.modules["ray"], "init", None)
    patch.setitem(sys.modules, "ray", None)


def run(command, *arguments):
    """Run a command in this process; what it said has neither this machine's paths nor its Python in it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = COMMANDS[command](list(arguments))
        except SystemExit as stop:
            status = stop.code
    return Said(status, _everywhere(out.getvalue()), _everywhere(err.getvalue()))


def _everywhere(text):
    """A text as it is on every machine, without the spaces that fill a table's last column."""
    text = text.replace(str(Path.cwd()), "<here>").replace(os.environ["SDD_DATA"], "<data>")
    text = re.sub(r"probes/[0-9a-f]{32}|tmp/[0-9a-f]{32}", "<probe>", text)
    text = re.sub(r"\(ModuleNotFoundError: [^)]*\)", "(it is not there)", text)
    text = re.sub(r"\S+ -m mlflow ui", "<python> -m mlflow ui", text)
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def check(name, text):
    """Compare a text with the golden file of this name, or write it."""
    path = GOLDEN / name
    if os.environ.get("SDD_GOLDEN") == "write":
        path.write_text(text)
    held = path.read_text() if path.exists() else ""
    if text != held:
        lines = difflib.unified_diff(held.splitlines(), text.splitlines(), f"golden/{name}", "now", n=2, lineterm="")
        shown = "\n".join(itertools.islice(lines, 60))
        pytest.fail(f"not what tests/golden/{name} says; if it is right, SDD_GOLDEN=write\n{shown}", pytrace=False)


def check_json(name, text):
    """Compare JSON, and numbers in it to 12 digits, since sums may be made in another order."""
    check(name, json.dumps(_rounded(json.loads(text)), indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def check_answer(name, command, *arguments):
    """Run a sweep's command over the store, and compare its JSON file and what it says."""
    said = run(command, *arguments, "--json", "answer.json")
    assert said.err == ""
    assert said.status == 0
    text = Path("answer.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
    check_json(f"{name}.json", text)
    check(f"{name}.txt", said.out)
    (picture,) = re.findall(r"picture +(\S+)", said.out)
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


# --- the search for lambda_opt --------------------------------------------------------------


def fill_lambdas(kinds, *, base=BASE, seeds=(0, 1, 2), data_seed=None, store="store", **how):
    """A trial of each seed at each λ of `kinds`, which has a letter a seed."""
    place = Store(str(Path(store).absolute()))
    for weight_decay, letters in kinds.items():
        for seed, kind in zip(seeds, letters, strict=True):
            trial = base.replace(
                weight_decay=weight_decay, seed=seed, data_seed=seed if data_seed is None else data_seed
            )
            fill(place, trial, kind, **how)


def lambdas(values, kinds):
    """`kinds` names the kinds of each λ's trials, a word a λ."""
    return dict(zip(values, kinds.split(), strict=True))


ONE_A_DECADE = (*SMALL, "--points-per-decade", "1")
TWO_A_DECADE = (*SMALL, "--points-per-decade", "2")


def test_lambda_opt_found(here):
    fill_lambdas(lambdas(SEVEN, "pdp DDD DDc cpc ccc ccx xxx"))
    check_answer("lambda_found", "lambda_opt.py", *TWO_A_DECADE)


def test_lambda_opt_no_dip_at_base(here):
    """Also: seeds by number, one data seed, places of one's own, no energy."""
    kinds = lambdas(FOUR, "cdc ccc ccc xxx")
    fill_lambdas(kinds, seeds=(4, 7, 9), data_seed=2, store="elsewhere", energy=False)
    where = ("--store", "elsewhere", "--sweep", "mine", "--picture", "p/curves.png", "--optuna", "sqlite:///o.db")
    seeds = ("--seeds", "4", "7", "9", "--data-seed", "2")
    check_answer("lambda_no_dip_at_base", "lambda_opt.py", *ONE_A_DECADE, *seeds, *where)


def test_lambda_opt_none_dip_free(here):
    fill_lambdas(lambdas(SEVEN, "ddd ddd ddd ccc ddd ddd ddd"))
    check_answer("lambda_none_dip_free", "lambda_opt.py", *TWO_A_DECADE)


def test_lambda_opt_all_collapsed(here):
    fill_lambdas(lambdas(FOUR, "ddd ddd xxx xxx"))
    check_answer("lambda_all_collapsed", "lambda_opt.py", *ONE_A_DECADE)


def test_lambda_opt_never_learned(here):
    fill_lambdas(lambdas(FOUR, "nnn nnn nnn nnn"))
    check_answer("lambda_never_learned", "lambda_opt.py", *ONE_A_DECADE)


def test_lambda_opt_base_diverged(here):
    fill_lambdas(lambdas(FOUR, "vvv vvv vvv vvv"))
    check_answer("lambda_base_diverged", "lambda_opt.py", *ONE_A_DECADE)


def test_lambda_opt_diverged_above(here):
    fill_lambdas(lambdas(FOUR, "ddd DDD ccc vvv"))
    check_answer("lambda_diverged_above", "lambda_opt.py", *ONE_A_DECADE)


def test_lambda_opt_rebound(here):
    fill_lambdas(lambdas(FOUR, "rrr RRR ccc xxx"))
    check_answer("lambda_rebound", "lambda_opt.py", *ONE_A_DECADE, "--shape", "rebound")


def test_lambda_opt_noisy_labels(here):
    """What dips on clean labels need not dip on noisy ones. Also: another early stopping."""
    fill_lambdas(lambdas(SEVEN, "ddd ddd ddd ddd ddd ccc xxx"))
    how = ("--deciding-labels", "noisy", "--patience", "2", "--min-drop", "0.05")
    check_answer("lambda_noisy_labels", "lambda_opt.py", *TWO_A_DECADE, *how)


def test_lambda_opt_paper_protocol(here):
    fill_lambdas(lambdas(FOUR, "ppd DDD cpc ccc"), base=BASE.replace(protocol="paper"))
    check_answer("lambda_paper", "lambda_opt.py", *ONE_A_DECADE, "--protocol", "paper")


def test_lambda_opt_of_a_distilled_student(here):
    fill(Store(str(here / "store")), TEACHER, "d", levels=1)
    student = BASE.replace(teacher=TeacherRef(trial=TEACHER, level="dense"), alpha=0.5)
    fill_lambdas(lambdas(FOUR, "dcd ccc ccc xxx"), base=student, data_seed=0)
    check_answer("lambda_teacher", "lambda_opt.py", *ONE_A_DECADE, "--teacher", "dense", "--alpha", "0.5")


def test_lambda_opt_one_seed(here):
    """Also: a range and a tolerance of one's own, four λs at once."""
    values = (3e-4, 3.16e-4, 5.62e-4, 1e-3, 1.78e-3, 3.16e-3, 5.62e-3, 1e-2, 1.78e-2, 3e-2)
    fill_lambdas(lambdas(values, "d d d d c c c c x x"), seeds=(0,))
    how = ("--weight-decay-range", "0.0003", "0.03", "--lambdas-at-once", "4", "--tolerance", "0.05")
    check_answer("lambda_one_seed", "lambda_opt.py", *SMALL, "--seeds", "1", *how)


# --- the joint search -----------------------------------------------------------------------

# What Optuna's sampler asks for: ten points of its start, then two that depend on what it was told of those.
JOINT = {
    (0.01, 0.75, 10.0): "c",
    (0.01, 0.45, 10.0): "c",
    (0.001, 0.9, 20): "c",
    (0.001, 0.8, 5.62): "c",
    (0.01, 0.95, 1): "c",
    (0.0001, 0.05, 17.8): "p",
    (0.1, 0.9, 20): "x",
    (0.1, 0.5, 17.8): "x",
    (0.0001, 0.65, 1.78): "c",
    (0.1, 0.55, 3.16): "x",
    (0.01, 0.1, 1): "c",
    (0.0001, 0.45, 17.8): "p",
}


def fill_joint(kinds):
    place, teacher = Store(str(Path("store").absolute())), TeacherRef(trial=TEACHER, level="dense")
    fill(place, BASE, "d")
    for (weight_decay, alpha, temperature), kind in kinds.items():
        point = {"weight_decay": weight_decay, "alpha": alpha, "temperature": temperature}
        fill(place, BASE.replace(teacher=teacher, **point), kind)


def test_joint(here):
    fill_joint(JOINT)
    check_answer("joint", "joint.py", *ONE_A_DECADE, "--seeds", "1", "--teacher", "dense", "--points", "12")


def test_joint_without_a_clean_point(here):
    """Also: on noisy labels, as a rebound, one point at once."""
    fill_joint(dict.fromkeys(JOINT, "r"))
    how = ("--shape", "rebound", "--deciding-labels", "noisy", "--lambdas-at-once", "1")
    arguments = ("--seeds", "1", "--teacher", "dense", "--points", "4")
    check_answer("joint_none_clean", "joint.py", *ONE_A_DECADE, *arguments, *how)


# --- distillation ---------------------------------------------------------------------------


def fill_students(student, teacher, kinds, *, seeds=(0, 1, 2), temperatures=(10.0,), **how):
    """The vanilla students, and those of each (α, level of the teacher) of `kinds`, with a letter a seed."""
    place = Store(str(Path("store").absolute()))
    for approach, letters in kinds.items():
        for seed, kind in zip(seeds, letters, strict=True):
            own = student.replace(seed=seed, data_seed=student.data_seed)
            if approach == "vanilla":
                fill(place, own, kind, **how)
                continue
            alpha, level = approach
            for temperature in temperatures:
                reference = TeacherRef(trial=teacher, level=level)
                fill(place, own.replace(teacher=reference, alpha=alpha, temperature=temperature), kind, **how)


STUDENTS = {"vanilla": "dpp", (0.8, "dense"): "dpc", (0.8, "pruned"): "cpc", (0.95, "dense"): "ccc"}
STUDENTS |= {(0.95, "pruned"): "ccd"}


def test_distill(here):
    fill(Store(str(here / "store")), TEACHER, "d")
    fill_students(BASE, TEACHER, STUDENTS)
    check_answer("distill", "distill.py", *SMALL)


def test_distill_from_numbered_levels_under_the_paper_protocol(here):
    """Also: a teacher of its own size, seed and λ, two temperatures, seeds by number."""
    student = BASE.replace(protocol="paper", data_seed=5, model_options=(("hidden1", 100), ("hidden2", 30)))
    teacher = recipes.digits_lenet().replace(
        protocol="paper", weight_decay=0.0178, seed=6, data_seed=5, model_options=(("hidden1", 1000), ("hidden2", 300))
    )
    teacher = teacher.replace(target_sparsity=0.9, prune_fraction=0.4)
    fill(Store(str(here / "store")), teacher, "c")
    kinds = {"vanilla": "dd", (0.5, 2): "dc", (0.5, "pruned"): "cc"}
    fill_students(student, teacher, kinds, seeds=(1, 2), temperatures=(4.0, 20.0))
    how = ("--protocol", "paper", "--data-seed", "5", "--seeds", "1", "2", "--model-options", "hidden1=100")
    student_size, own = (*how, "hidden2=30"), ("weight_decay=0.0178", "seed=6", "target_sparsity=0.9")
    size = ("--teacher-model-options", "hidden1=1000", "hidden2=300")
    approaches = ("--teacher", "2", "pruned", "--alpha", "0.5", "--temperature", "4", "20", *size)
    whose = (*approaches, "--teacher-with", *own, "prune_fraction=0.4")
    check_answer("distill_paper", "distill.py", *SMALL, *student_size, *whose)


def test_distill_without_a_teacher(here):
    fill_students(BASE, BASE, {"vanilla": "c"}, seeds=(0,))
    check_answer("distill_vanilla", "distill.py", *SMALL, "--alpha", "0", "--seeds", "1")


def test_distill_with_students_that_diverged(here):
    teacher = TEACHER.replace(model_options=(("hidden1", 500),))  # a dense level of its own
    fill(Store(str(here / "store")), teacher, "c", levels=1)
    fill_students(BASE, teacher, {"vanilla": "v", (0.8, "dense"): "v", (0.95, "dense"): "c"}, seeds=(0,))
    how = ("--alpha", "0.8", "0.95", "--teacher", "dense", "--teacher-model-options", "hidden1=500", "--seeds", "1")
    check_answer("distill_diverged", "distill.py", *SMALL, *how)


def test_distill_on_noisy_labels_without_energy(here):
    """Also: the dense level and the pruned one are the same, and nothing that is said is the default."""
    teacher = TEACHER.replace(model_options=(("hidden1", 500),), data_seed=3)
    fill(Store(str(here / "store")), teacher, "d", energy=False)
    student = BASE.replace(data_seed=3)
    kinds = {"vanilla": "ddd", (0.8, "pruned"): "ccc", (0.8, 0): "ccd"}
    fill_students(student, teacher, kinds, energy=False)
    how = ("--deciding-labels", "noisy", "--patience", "2", "--min-drop", "0.01", "--carbon-intensity", "56")
    whose = ("--data-seed", "3", "--teacher", "pruned", "0", "--alpha", "0.8", "--tolerance", "0.2")
    size = ("--teacher-model-options", "hidden1=500", "--sweep", "other")
    check_answer("distill_noisy_labels", "distill.py", *SMALL, *whose, *size, *how)


# --- MLflow ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A folder with an MLflow database of two small sweeps, and what their commands said.

    The teacher of the second is its vanilla student too.
    """
    import mlflow  # noqa: F401  the commands do not wait for it as long as a busy machine can take

    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        _settle(patch, folder)
        fill_lambdas(lambdas(FOUR, "p D c x"), seeds=(0,))
        search = run("lambda_opt.py", *ONE_A_DECADE, "--seeds", "1", "--sweep", "search")
        fill_students(BASE, BASE, {"vanilla": "p", (0.8, "pruned"): "c"}, seeds=(0,), energy=False)
        fill_students(BASE, BASE, {(0.8, 3): "p"}, seeds=(0,), energy=False)
        approaches = ("--teacher", "pruned", "3", "--alpha", "0.8", "--seeds", "1", "--sweep", "comparison")
        teacher = ("--teacher-with", "prune_fraction=0.3", "target_sparsity=0.9")
        comparison = run("distill.py", *SMALL, *approaches, *teacher)
    return folder, {"search": search, "comparison": comparison}


@pytest.mark.parametrize("sweep", ["search", "comparison"])
def test_mlflow(tracked, sweep):
    from mlflow import MlflowClient

    folder, said = tracked
    check(f"mlflow_{sweep}.txt", said[sweep].out)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
    runs = client.search_runs([experiment.experiment_id], f"tags.`sdd.sweep` = '{sweep}'")
    (parent,) = [found for found in runs if "mlflow.parentRunId" not in found.data.tags]
    children = [found for found in runs if found is not parent]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    children = sorted(children, key=lambda child: child.data.tags["sdd.trial_id"])
    rows = client.get_metric_history(children[0].info.run_id, "val_accuracy")
    form = {
        "experiment": experiment.name,
        "parent": _content(parent) | {"artifacts": [file.path for file in client.list_artifacts(parent.info.run_id)]},
        "children": [_content(child) | {"end_time": child.info.end_time} for child in children],
        "val_accuracy of the first child": [[row.step, row.timestamp, row.value] for row in rows],
    }
    check_json(f"mlflow_{sweep}.json", json.dumps(form))


def _content(found):
    """What a run holds, without what differs from machine to machine."""
    volatile = re.compile(r"sdd\.version\.|sdd\.git_commit|mlflow\.source\.git|mlflow\.user|mlflow\.parentRunId")
    tags = {name: value for name, value in found.data.tags.items() if not volatile.match(name)}
    parts = {"params": found.data.params, "metrics": found.data.metrics, "tags": tags}
    return {"status": found.info.status} | {name: dict(sorted(part.items())) for name, part in parts.items()}


# --- plans ----------------------------------------------------------------------------------


def check_plan(name, command, *arguments):
    """Compare a plan for people and for machines."""
    stated = ("--plan", "--device-rate", "0.01", "0.02", "--device-watts", "50")
    text, form = run(command, *arguments, *stated), run(command, *arguments, *stated, "--json", "-")
    assert (text.status, text.err, form.status, form.err) == (0, "", 0, "")
    check(f"plan_{name}.txt", text.out)
    check_json(f"plan_{name}.json", form.out)


def lose_weights(spec, *levels):
    store = Store(str(Path("store").absolute()))
    for record in store.curve(spec):
        if record.level in levels:
            store.drop_weights(record)


def test_plan_of_the_default_search(here):
    check_plan("lambda_empty", "lambda_opt.py")


def test_plan_of_a_search_that_has_begun(here):
    kinds = lambdas(FOUR[:3], "ddd DDc ccc")
    fill_lambdas(kinds, weights=True)
    fill_lambdas({0.1: "ccc"}, weights=True, levels=3)
    seeds = {seed: BASE.replace(weight_decay=0.1, seed=seed, data_seed=seed) for seed in range(3)}
    lose_weights(seeds[1], 2)
    lose_weights(seeds[2], 0, 1, 2)
    check_plan("lambda_half", "lambda_opt.py", *ONE_A_DECADE)


def test_plan_of_a_search_that_rewinds(here):
    base = BASE.replace(retraining="rewind_weights", rewind_epoch=3)
    fill_lambdas({1e-4: "ddd"}, base=base, levels=2, weights=True)
    how = ("--retraining", "rewind_weights", "--rewind-epoch", "3", "--seeds", "3", "--carbon-intensity", "56")
    check_plan("lambda_rewind", "lambda_opt.py", *ONE_A_DECADE, *how)


def test_plan_of_a_joint_search(here):
    check_plan("joint_empty", "joint.py", *SMALL, "--teacher", "pruned", "--points", "12")


def test_plan_of_the_default_distillation(here):
    check_plan("distill_empty", "distill.py")


def test_plan_of_a_distillation_that_has_begun(here):
    fill(Store(str(here / "store")), TEACHER, "d", weights=True)
    kinds = {"vanilla": "dd", (0.8, "dense"): "cc", (0.8, "pruned"): "cc"}
    fill_students(BASE, TEACHER, kinds, seeds=(0, 1), levels=2, weights=True)
    lose_weights(TEACHER, *range(1, 20))
    check_plan("distill_half", "distill.py", *SMALL)


# --- trade-offs, one trajectory, costs ------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("tradeoff.txt", ()),
        ("tradeoff.json", ("--format", "json")),
        ("tradeoff.csv", ("--format", "csv")),
        ("tradeoff_noisy.txt", ("--sweep", "one", "--deciding-labels", "noisy", "--patience", "1")),
        ("tradeoff_two.json", ("--sweep", "two", "--format", "json", "--min-drop", "0.1", "--carbon-intensity", "56")),
    ],
)
def test_tradeoff(here, name, how):
    """Two settings without a teacher and one with, curves that are not complete, a trial that only teaches."""
    store, data = Store(str(here / "store")), BASE.replace(data_seed=0)
    for weight_decay, kinds in lambdas(FOUR, "dd dp cc cp").items():
        for seed, kind in enumerate(kinds):
            short = 4 if (weight_decay, seed) == (0.1, 1) else None
            own = data.replace(weight_decay=weight_decay, seed=seed)
            fill(store, own, kind, levels=short, sweep="one")
            paper = own.replace(protocol="paper")
            fill(store, paper, kind, levels=None if weight_decay == 1e-3 else 3, energy=False, sweep="two")
    teacher = data.replace(model_options=(("hidden1", 1000),))
    fill(store, teacher, "c", levels=1, sweep="one")
    for seed in range(2):
        student = data.replace(seed=seed, alpha=0.8, teacher=TeacherRef(trial=teacher, level="dense"))
        fill(store, student, "c", sweep="one")
    said = run("tradeoff.py", *how)
    assert (said.status, said.err) == (0, "")
    if name.endswith(".json"):
        check_json(name, said.out)
    else:  # numbers to 12 digits here too
        check(name, re.sub(r"\d+\.\d{12,}(e-\d+)?", lambda number: f"{float(number[0]):.12g}", said.out))


def test_a_trajectory_that_is_there(here):
    store = Store(str(here / "store"))
    fill(store, BASE, "d", weights=True)
    fill(store, TEACHER, "d", weights=True)
    fill(store, BASE.replace(teacher=TeacherRef(trial=TEACHER, level="pruned"), alpha=0.8), "c", weights=True)
    vanilla = run("python -m sdd_core", *SMALL, "--device", "cpu", "--no-energy")
    distilled = run("python -m sdd_core", *SMALL, "--device", "cpu", "--teacher", "pruned", "--carbon-intensity", "56")
    assert (vanilla.status, distilled.status) == (0, 0)
    check("trajectory.txt", vanilla.out + distilled.out)


def test_costs_of_a_setting(here):
    vgg = ("--dataset", "cifar10", "--model", "vgg", "--images", "40000")
    lenet = ("--teacher", "dense", "--teacher-model-options", "hidden1=1000", "--target-sparsity", "0.9")
    texts = [run("python -m sdd_core.cost", *arguments).out for arguments in ((), vgg, lenet)]
    check("cost.txt", "\n".join(texts))
    check_json("cost.json", run("python -m sdd_core.cost", "--json", *vgg).out)


# --- refusals -------------------------------------------------------------------------------

REFUSED = {
    "lambda_opt.py": (
        "--weight-decay-range 0.1 0.001 --label-noise 1.5 --epoch 3 --shape hump --patience 0 --min-drop -1",
        "--label-noise nan --epochs 0 --criterion gradients --momentum 1 --batch-size 1.5",
        "--dataset imagenet --seeds 2 --tolerance -1 --weight-decay-range 0.1 zebra",
        "--dataset cifar10 --model resnet18",
        "--dataset cifar100 --model vit --data-dir somewhere --seeds 1 2 2",
        "--model resnet18",
        "--alpha 0.5 --teacher-with seed=1",
        "--teacher dense --teacher-model vit --teacher-with epochs=0 weight_decay=x epoch=3",
        "--teacher 29",
        "--teacher best --temperature 0",
        "--teacher dense --alpha 1.5 --teacher-with label_noise=0",
        "--joint 5 --alpha 0.5",
        "--joint 0 --teacher dense",
        "--joint 5 --teacher dense --alpha 0.5 --temperature 4 --json -",
        "--device-rate 3 1 --device-watts x --carbon-intensity -1 --budget-pflop 0 --budget-gco2 x --workers 0",
        "--device-rate 1 2 3 --threads 0 --cpus-per-trial 0 --gpus-per-trial -1",
        "--store nowhere://x --sweep a/b --json /nowhere/a.json --keep-weights none --deciding-labels dirty",
        "--store /dev/null/store",
        "--noise-kind human --noisy-labels aggre --retraining rewind_weights",
        "--validation-fraction 0.001",
        "--lr-milestones 0.8 0.5 --model-options hidden1=0 width=3 --learning-rate x",
        "--model-options hidden1",
        "--plan --label-noise 2 --device-watts 5",
        "--plan --rewind-epoch 3 --noisy-labels worse --lambdas-at-once 0 --points-per-decade x",
        "--label-noise",
    ),
    "distill.py": (
        "--alpha 1.5 x --temperature 0 --teacher best dense dense --seeds 0",
        "--teacher dense 0 --alpha 0.5 0.5 --temperature 4 4 --seeds 1 1",
        "--teacher 40 --teacher-with target_sparsity=0.5",
        "--teacher-model vit --tolerance x --seed 3",
        "--teacher-model-options hidden1=0 --teacher-with seed=-1 label_noise=0",
        "--dataset mnist --data-seed -1 --budget-pflop many",
        "--alpha",
    ),
    "python -m sdd_core": (
        "--seed -1 --threads 0 --carbon-intensity x --keep-weights some",
        "--alpha 0.5 --weight-decay -1 --target-sparsity 1 --what now",
        "--alpha 0.5",
        "--teacher pruned --teacher-model vit",
        "--dataset mnist --store /dev/null/store",
        "--store nowhere://x --threads many",
        "--precision float16 --optimizer adam --lr-schedule step --augmentation crop --retraining rewind",
        "--optimizer adamw --precision bfloat16 --lr-decay 0 --prune-fraction 1 --weight-decays 3",
    ),
    "python -m sdd_core.cost": (
        "--images 0 --model vgg --dataset cifar10 --model-options gamma=13",
        "--images many --label-noise 2 --fast",
        "--dataset cifar10 --model vit --model-options heads=7 dropout=1",
        "--model resnet",
        "--dataset mnist --model vgg",
    ),
    "tradeoff.py": (
        "--store nowhere --format xml --patience 0 --min-drop 2 --carbon-intensity x --deciding-labels dirty --stor x",
        "--store .",
        "--store . --sweep nothing",
        "--store filled --sweep nothing",
        "--store nowhere://x",
        "--patience",
    ),
}


@pytest.mark.parametrize("command", REFUSED)
def test_refusals(here, command):
    fill(Store(str(here / "filled")), BASE, "d", levels=1, sweep="one")
    parts = []
    for line in REFUSED[command]:
        said = run(command, *line.split())
        assert (said.status, said.out) == (2, ""), line
        parts.append(f"$ {command} {line}\n{said.err}")
    check(f"refusals_{re.sub('[^a-z]+', '_', command)}.txt", "\n".join(parts))


# --- level keys -----------------------------------------------------------------------------


def specs():
    """Every recipe, and whatever can stand in a key."""
    found = {f"{dataset} {model}": recipe() for (dataset, model), recipe in recipes.RECIPES.items()}
    digits, cifar10, cifar100 = found["digits lenet"], found["cifar10 resnet18"], found["cifar100 resnet18"]
    changes = {
        **{f"criterion {name}": {"criterion": name} for name in ("layer_magnitude", "random", "gradient")},
        **{f"retraining {name}": {"retraining": name} for name in ("finetune", "from_scratch")},
        **{f"rewinds to {n}": {"retraining": "rewind_weights", "rewind_epoch": n} for n in (0, 5)},
        **{f"noise kind {name}": {"noise_kind": name} for name in ("asymmetric", "pair_flip")},
        "no noise": {"label_noise": 0.0},
        "no noise, of another kind": {"label_noise": 0.0, "noise_kind": "pair_flip"},
        "all noise": {"label_noise": 1.0},
        "paper protocol": {"protocol": "paper"},
        "paper protocol without noise": {"protocol": "paper", "label_noise": 0.0, "data_seed": 4},
        "validation fraction": {"validation_fraction": 0.1},
        **{f"precision {name}": {"precision": name} for name in ("tf32", "bfloat16")},
        "adamw": {"optimizer": "adamw", "learning_rate": 1e-3, "momentum": 0.5},
        "momentum": {"momentum": 0.5},
        **{f"schedule {name}": {"lr_schedule": name, "lr_decay": 0.5} for name in ("cosine", "constant")},
        "milestones": {"lr_milestones": (0.25, 0.5, 0.9), "lr_decay": 0.3},
        "no milestones": {"lr_milestones": (), "lr_decay": 0.3},
        "a rate of 1": {"learning_rate": 1.0},
        "model options": {"model_options": (("hidden2", 30), ("hidden1", 100))},
        "model options that are the default": {"model_options": (("hidden1", 300),)},
        "augmentation": {"augmentation": "flip_crop"},
        "batches": {"batch_size": 64, "epochs": 8},
        "pace of pruning": {"prune_fraction": 0.5},
        "target": {"target_sparsity": 0.5},
        "no decay": {"weight_decay": 0.0},
        "seed": {"seed": 3, "data_seed": 3},
        "data seed": {"seed": 3, "data_seed": 7},
        "alpha 0": {"teacher": TeacherRef(trial=digits, level="dense"), "alpha": 0.0},
    }
    found |= {f"digits lenet, {name}": digits.replace(**change) for name, change in changes.items()}
    human = {"label_noise": 0.0, "noise_kind": "human"}
    for name in ("aggre", "random1", "random2", "random3", "worse"):
        found[f"cifar10 resnet18, human {name}"] = cifar10.replace(**human, noisy_labels=name)
    found["cifar100 resnet18, human noisy"] = cifar100.replace(**human, noisy_labels="noisy")
    found["cifar10 resnet18, pool"] = cifar10.replace(model_options=(("stem", "pool"), ("width", 32)))
    found["cifar10 vgg, gamma 6"] = found["cifar10 vgg"].replace(model_options=(("gamma", 6),))
    found["cifar10 vit, small"] = found["cifar10 vit"].replace(model_options=(("depth", 2), ("dropout", 0.0)))
    large = digits.replace(
        model_options=(("hidden1", 1000), ("hidden2", 300)), weight_decay=0.0178, seed=1, data_seed=0
    )
    for level in ("dense", "pruned", 3):
        found[f"distilled, {level}"] = digits.replace(teacher=TeacherRef(trial=large, level=level), alpha=0.8)
    taught = found["distilled, pruned"]
    found["distilled, other alpha and temperature"] = taught.replace(alpha=1.0, temperature=4.0)
    short = TeacherRef(trial=large.replace(target_sparsity=0.9), level="pruned")
    found["distilled, pruned, of a shorter teacher"] = taught.replace(teacher=short)
    chain = TeacherRef(trial=taught, level="dense")
    found["distilled, of a distilled teacher"] = digits.replace(seed=2, data_seed=0, teacher=chain, alpha=0.5)
    found["distilled, a pruned student"] = taught.replace(criterion="gradient", retraining="finetune")
    return found


def first_keys(spec, count):
    """A trial's first keys; the best level of a teacher is taken to be its second."""
    taught_by = None
    if spec.distilled:
        level = {"dense": 0, "pruned": 1}.get(spec.teacher.level, spec.teacher.level)
        taught_by = first_keys(spec.teacher.trial, level + 1)[-1]
    return list(itertools.islice(level_keys(spec, taught_by), count))


def test_level_keys():
    """A level that was trained is found by its key alone: whoever changes one loses every store."""
    form = {
        name: {"trial_id": spec.trial_id, "setting_id": setting_id(spec), "keys": first_keys(spec, 3)}
        for name, spec in specs().items()
    }
    check_json("level_keys.json", json.dumps(form))


def test_specs_as_json():
    names = ("digits lenet", "cifar10 vit", "cifar10 resnet18, human worse", "distilled, of a distilled teacher")
    found = specs()
    check_json("specs.json", json.dumps({name: to_json(found[name]) for name in names}))

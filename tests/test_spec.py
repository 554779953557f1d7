"""Specs: what is refused and how, and what the keys of levels depend on."""

import itertools
import json
import pickle

import pytest
import torch.nn.utils.prune
from hypothesis import given, settings
from hypothesis import strategies as st

from sdd_core import recipes, spec
from sdd_core.spec import FIELD_NAMES, FIELDS, SpecError, TeacherRef, TrialSpec, level_key, level_keys

TEACHER_KEY = "ab" * 32
SMALL = (("hidden1", 32), ("hidden2", 16))


def keys(trial, count=3):
    """The first keys of a trial, with a fixed teacher key where it is distilled."""
    return list(itertools.islice(level_keys(trial, TEACHER_KEY if trial.distilled else None), count))


@st.composite
def specs(draw):
    """Valid trials over every field, without a teacher."""
    epochs = draw(st.integers(1, 300))
    retraining = draw(st.sampled_from(list(FIELDS["retraining"].words)))
    stones = draw(st.sets(st.floats(0.01, 0.99), max_size=3))
    unit = st.floats(0, 1)
    inside = st.floats(0.001, 0.999)
    return TrialSpec(
        dataset=draw(st.sampled_from(list(FIELDS["dataset"].words))),
        label_noise=draw(unit),
        noise_kind=draw(st.sampled_from([k for k in list(FIELDS["noise_kind"].words) if k != "human"])),
        validation_fraction=draw(inside),
        augmentation=draw(st.sampled_from(list(FIELDS["augmentation"].words))),
        protocol=draw(st.sampled_from(list(FIELDS["protocol"].words))),
        model=draw(st.sampled_from(list(FIELDS["model"].words))),
        optimizer=draw(st.sampled_from(list(FIELDS["optimizer"].words))),
        learning_rate=draw(st.floats(1e-6, 10)),
        momentum=draw(st.floats(0, 0.999)),
        lr_schedule=draw(st.sampled_from(list(FIELDS["lr_schedule"].words))),
        lr_milestones=tuple(sorted(stones)),
        lr_decay=draw(st.floats(0.001, 1)),
        epochs=epochs,
        batch_size=draw(st.integers(1, 4096)),
        precision=draw(st.sampled_from(list(FIELDS["precision"].words))),
        criterion=draw(st.sampled_from(list(FIELDS["criterion"].words))),
        prune_fraction=draw(inside),
        retraining=retraining,
        rewind_epoch=draw(st.integers(0, epochs - 1)) if retraining == "rewind_weights" else None,
        weight_decay=draw(st.floats(0, 10)),
        temperature=draw(st.floats(0.01, 100)),
        seed=draw(st.integers(0, 2**40)),
        data_seed=draw(st.none() | st.integers(0, 2**40)),
        target_sparsity=draw(st.floats(0, 0.9999)),
    )


# --- defaults and the recipe ----------------------------------------------------------------


def test_the_defaults_are_the_papers_protocol_on_digits():
    trial = TrialSpec()
    assert (trial.dataset, trial.model, trial.optimizer, trial.momentum) == ("digits", "lenet", "sgd", 0.9)
    assert (trial.weight_decay, trial.prune_fraction, trial.target_sparsity) == (1e-4, 0.2, 0.998)
    assert (trial.criterion, trial.retraining, trial.precision) == ("global_magnitude", "rewind_lr", "float32")
    assert (trial.alpha, trial.teacher, trial.label_noise) == (0.0, None, 0.0)
    assert trial.options == {"hidden1": 300, "hidden2": 100}
    assert (trial.seed, trial.data_seed) == (0, 0)


@pytest.mark.parametrize(("seed", "data_seed", "expected"), [(7, None, 7), (7, 0, 0), (0, 3, 3)])
def test_the_data_seed_is_the_seed_unless_given(seed, data_seed, expected):
    assert TrialSpec(seed=seed, data_seed=data_seed).data_seed == expected


@pytest.mark.parametrize(("protocol", "expected"), [("validation", "validation"), ("paper", "test")])
def test_the_split_that_decides(protocol, expected):
    assert TrialSpec(protocol=protocol).decided_on == expected


def test_the_embedded_recipe():
    trial = recipes.digits_lenet()
    assert (trial.label_noise, trial.epochs, trial.weight_decay) == (0.5, 30, 1e-4)
    assert recipes.for_setting("digits", "lenet") == trial
    assert recipes.for_setting("digits", "vit") is None


def test_a_trial_cannot_be_changed_and_takes_keywords_only():
    with pytest.raises(AttributeError):
        TrialSpec().epochs = 3
    with pytest.raises(TypeError):
        TrialSpec("digits")


# --- what is refused ------------------------------------------------------------------------

FAULTS = [
    ({"dataset": "digts"}, ["dataset 'digts'", "did you mean digits?"]),
    ({"model": "lenet5"}, ["model 'lenet5'"]),
    ({"noise_kind": "both"}, ["noise_kind 'both'"]),
    ({"augmentation": "cutmix"}, ["augmentation 'cutmix'"]),
    ({"protocol": "test"}, ["protocol 'test'"]),
    ({"optimizer": "adam"}, ["optimizer 'adam'", "did you mean adamw?"]),
    ({"lr_schedule": "linear"}, ["lr_schedule 'linear'"]),
    ({"precision": "float16"}, ["precision 'float16'"]),
    ({"criterion": "magnitude"}, ["criterion 'magnitude'"]),
    ({"retraining": "none"}, ["retraining 'none'"]),
    ({"label_noise": 1.2}, ["label_noise 1.2", "in [0, 1]"]),
    ({"label_noise": -0.1}, ["label_noise -0.1", "in [0, 1]"]),
    ({"validation_fraction": 0.0}, ["validation_fraction 0.0", "in (0, 1)"]),
    ({"validation_fraction": 1.0}, ["validation_fraction 1.0", "in (0, 1)"]),
    ({"learning_rate": 0}, ["learning_rate 0", "above 0"]),
    ({"momentum": 1.0}, ["momentum 1.0", "in [0, 1)"]),
    ({"lr_decay": 0}, ["lr_decay 0", "in (0, 1]"]),
    ({"prune_fraction": 1.0}, ["prune_fraction 1.0", "in (0, 1)"]),
    ({"prune_fraction": 0}, ["prune_fraction 0", "in (0, 1)"]),
    ({"weight_decay": -1e-9}, ["weight_decay -1e-09", "at least 0"]),
    ({"weight_decay": float("nan")}, ["weight_decay nan", "a finite number"]),
    ({"weight_decay": float("inf")}, ["weight_decay inf", "a finite number"]),
    ({"weight_decay": "1e-4"}, ["weight_decay '1e-4'", "a finite number"]),
    ({"weight_decay": True}, ["weight_decay True", "a finite number"]),
    ({"weight_decay": None}, ["weight_decay None", "a finite number"]),
    ({"alpha": 1.5, "teacher": TeacherRef(trial=TrialSpec(), level=0)}, ["alpha 1.5", "in [0, 1]"]),
    ({"alpha": 0.5}, ["alpha 0.5", "needs a teacher"]),
    ({"temperature": 0}, ["temperature 0", "above 0"]),
    ({"target_sparsity": 1}, ["target_sparsity 1", "in [0, 1)"]),
    ({"epochs": 0}, ["epochs 0", "a whole number from 1"]),
    ({"epochs": 1.5}, ["epochs 1.5", "a whole number from 1"]),
    ({"epochs": None}, ["epochs None", "a whole number from 1"]),
    ({"batch_size": None}, ["batch_size None", "a whole number from 1"]),
    ({"batch_size": True}, ["batch_size True", "a whole number from 1"]),
    ({"seed": -1}, ["seed -1", "a whole number from 0"]),
    ({"seed": None}, ["seed None", "a whole number from 0"]),
    ({"data_seed": "x"}, ["data_seed 'x'", "a whole number from 0"]),
    ({"lr_milestones": (0.75, 0.5)}, ["lr_milestones [0.75, 0.5]", "rise within (0, 1)"]),
    ({"lr_milestones": (0.5, 0.5)}, ["lr_milestones [0.5, 0.5]", "rise within (0, 1)"]),
    ({"lr_milestones": (80.0, 120.0)}, ["lr_milestones [80.0, 120.0]", "as fractions of the epochs"]),
    ({"model_options": (("hidden3", 5),)}, ["model_options hidden3=5", "lenet has hidden1, hidden2"]),
    ({"model_options": (("hidden1", 0),)}, ["model_options hidden1=0", "a whole number from 1"]),
    ({"model": "vit", "model_options": (("dropout", 1.0),)}, ["model_options dropout=1.0", "in [0, 1)"]),
    ({"model": "resnet18", "model_options": (("stem", "big"),)}, ["model_options stem='big'", "no_pool, pool"]),
    ({"noise_kind": "human"}, ["noisy_labels None", "digits has no human labels"]),
    (
        {"dataset": "cifar10", "noise_kind": "human", "noisy_labels": "worst"},
        ["noisy_labels 'worst'", "cifar10 has aggre, random1, random2, random3, worse"],
    ),
    (
        {"dataset": "cifar10", "noise_kind": "human", "noisy_labels": "worse", "label_noise": 0.2},
        ["label_noise 0.2", "give 0"],
    ),
    ({"noisy_labels": "worse"}, ["noisy_labels 'worse'", "only with noise_kind human"]),
    ({"retraining": "rewind_weights"}, ["rewind_epoch None", "[0, epochs), here [0, 30)"]),
    ({"retraining": "rewind_weights", "rewind_epoch": 30}, ["rewind_epoch 30", "[0, epochs), here [0, 30)"]),
    ({"retraining": "rewind_weights", "rewind_epoch": "1"}, ["rewind_epoch '1'", "a whole number from 0"]),
    ({"rewind_epoch": 0}, ["rewind_epoch 0", "only with retraining rewind_weights"]),
]


@pytest.mark.parametrize(
    ("fields", "words"), FAULTS, ids=[" ".join(map(str, fields)) + f"-{i}" for i, (fields, _) in enumerate(FAULTS)]
)
def test_a_fault_names_the_value_and_what_is_allowed(fields, words):
    with pytest.raises(SpecError) as caught:
        TrialSpec(**fields)
    assert len(caught.value.faults) == 1
    named = words[0].split()[0]
    allowed = FIELDS[named].words if named in FIELDS else None
    for word in [*words, *(allowed or ())]:
        assert word in str(caught.value)


def test_all_faults_come_at_once():
    with pytest.raises(SpecError) as caught:
        TrialSpec(dataset="imagenet", epochs=0, weight_decay=-1, lr_milestones=(2.0,), noisy_labels="worse", alpha=0.5)
    named = {fault.split()[0] for fault in caught.value.faults}
    assert named == {"dataset", "epochs", "weight_decay", "lr_milestones", "noisy_labels", "alpha"}
    assert len(caught.value.faults) == 6
    assert all(fault in str(caught.value) for fault in caught.value.faults)


def test_values_at_the_edge_of_what_is_allowed():
    TrialSpec(label_noise=0, momentum=0, weight_decay=0, alpha=0, target_sparsity=0, seed=0, data_seed=0)
    TrialSpec(label_noise=1, lr_decay=1, epochs=1, batch_size=1, lr_milestones=())
    TrialSpec(retraining="rewind_weights", rewind_epoch=0)
    TrialSpec(retraining="rewind_weights", rewind_epoch=29)
    TrialSpec(dataset="cifar100", noise_kind="human", noisy_labels="noisy")
    TrialSpec(alpha=1, teacher=TeacherRef(trial=TrialSpec(), level=0))


def test_replace_checks_too():
    with pytest.raises(SpecError, match="epochs 0"):
        TrialSpec().replace(epochs=0)


@pytest.mark.parametrize("level", [-1, "best", 1.5, True, None])
def test_a_teachers_level_is_checked(level):
    with pytest.raises(SpecError, match="allowed are dense, pruned and numbers from 0"):
        TeacherRef(trial=TrialSpec(), level=level)


@pytest.mark.parametrize(
    ("level", "whole", "needed"), [("dense", 5, 1), ("pruned", 5, 5), (0, 5, 1), (3, 5, 4), ("dense", 1, 1)]
)
def test_how_much_of_a_teacher_a_reference_needs(level, whole, needed):
    assert TeacherRef(trial=TrialSpec(), level=level).levels_needed(whole) == needed


def test_a_spec_error_survives_pickling():
    error = pickle.loads(pickle.dumps(SpecError(["a 1: b", "c 2: d"])))
    assert isinstance(error, SpecError)
    assert error.faults == ("a 1: b", "c 2: d")
    assert str(error) == "a 1: b; c 2: d"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "mnist"),
        ("label_noise", 0.2),
        ("noise_kind", "pair_flip"),
        ("validation_fraction", 0.3),
        ("protocol", "paper"),
        ("data_seed", 7),
    ],
)
def test_a_teacher_agrees_with_its_student_in_every_data_field(field, value):
    teacher = TrialSpec().replace(**{field: value})
    with pytest.raises(SpecError) as refusal:
        TrialSpec(alpha=0.5, teacher=TeacherRef(trial=teacher, level="dense"))
    student = getattr(TrialSpec(), field)
    assert refusal.value.faults == (f"teacher's {field} {value!r}: must be its student's, {student!r}",)
    assert TrialSpec().replace(**{field: value}, alpha=0.5, teacher=TeacherRef(trial=teacher, level="dense")).distilled


def test_a_teachers_human_labels_are_its_students():
    worse = TrialSpec(dataset="cifar10", noise_kind="human", noisy_labels="worse")
    with pytest.raises(SpecError, match="noisy_labels 'worse': must be its student's, 'aggre'"):
        worse.replace(noisy_labels="aggre", alpha=1, teacher=TeacherRef(trial=worse, level=0))


def test_the_data_seed_that_must_agree_is_the_one_that_counts():
    teacher = TeacherRef(trial=TrialSpec(seed=3), level="dense")
    assert TrialSpec(seed=3, alpha=0.5, teacher=teacher).data_seed == 3
    with pytest.raises(SpecError, match="teacher's data_seed 3: must be its student's, 4"):
        TrialSpec(seed=4, alpha=0.5, teacher=teacher)


def test_a_teacher_that_refers_to_itself_is_refused():
    form = spec.to_json(TrialSpec(alpha=0.5, teacher=TeacherRef(trial=TrialSpec(), level="dense")))
    form["teacher"]["trial"]["alpha"] = 0.5
    form["teacher"]["trial"]["teacher"] = {"trial": form, "level": "dense"}
    with pytest.raises(SpecError, match="refers to itself in a circle"):
        spec.from_json(form)


def test_one_teacher_may_teach_two_in_a_chain():
    first = TrialSpec(alpha=0.5, teacher=TeacherRef(trial=TrialSpec(), level="dense"))
    second = TrialSpec(alpha=0.2, teacher=TeacherRef(trial=first, level="dense"))
    assert spec.from_json(spec.to_json(second)) == second


# --- keys: none of these should change ------------------------------------------------------

GOLDEN = [
    (
        {},
        "65e3dd2907fe",
        "cef518d14f9f5cc9fa3a29db529659fafe13487d160e13d7f93f630c4b31ba2a",
        "1cdf9dc2768d6304fac00643d734aeb0f93ad7c42d7826685ad2d739965b6679",
    ),
    (
        {"weight_decay": 0.0},
        "db82ec7b4a07",
        "69f1e58b600d9738ed5c872a6a4c46591fc18d52e564442c16e41423056e072e",
        "76ac5bfa8d28ef07be9a507a6e4444ad0f1f43d9cc4459389182f8a11afcbbe6",
    ),
    (
        {"label_noise": 0},
        "d465d63d2197",
        "116be330dbfa4f08859eebae7165f4e969a3cef0618c0aee7faf786090726108",
        "41603243e858e4950126c4cac126dde7470f5ee0792ae337ea8096151b4a3ca5",
    ),
    (
        {"optimizer": "adamw"},
        "6a625fac2379",
        "bc3c24624d41a21a11a37b22b62af709844a67403610151632f1351004a87926",
        "62202e60a0a884c8a47e8b3468b2293cc48ff4a84d0528195f849495a850317a",
    ),
    (
        {"lr_schedule": "cosine"},
        "d4f3653e3828",
        "986c5ef7769c3dafebfd24af4597eea2d71c2617a59fd40424864bd8a575232f",
        "704180f6bf151d104eb03041f83a32fc5855f3ae9a618cf5d43ee8d27789c67a",
    ),
    (
        {"protocol": "paper"},
        "1e1dda525ca2",
        "9e778eede51815e2c7b1d0a864273e65dd0331eeed756518d2591575a655af8a",
        "2dee69710102baf9eb405e3b696b753218f639fc233280229fa57756c5651c74",
    ),
    (
        {"seed": 1, "data_seed": 1},
        "912761018f60",
        "15a206cddbf41fb4fd4dd91dffa2a14a19a5829eef0acbabb8720311e45a489b",
        "ae107541e2153754fab25f5cc32cd52231d14c0270d1086552acdf6355db6134",
    ),
    (
        {"model_options": SMALL, "epochs": 1},
        "65ae9554f77f",
        "443ab43ba7c969dfb47d1266ffaf54c43a813c8fb40e345d2878155399d8d13a",
        "319db791f104d304ae7392714c24f5a924893423cfcac78267adb7b0c50f5956",
    ),
    (
        {"prune_fraction": 0.5},
        "5a3252c0e36d",
        "cef518d14f9f5cc9fa3a29db529659fafe13487d160e13d7f93f630c4b31ba2a",
        "330105f17491fd8d3322851c039b8c7595d3af3ec5c67c89d26da596df4dd5ef",
    ),
]


@pytest.mark.parametrize(("fields", "trial_id", "level_0", "level_2"), GOLDEN, ids=[str(row[0]) for row in GOLDEN])
def test_golden_keys_none_of_these_should_change(fields, trial_id, level_0, level_2):
    trial = recipes.digits_lenet().replace(**fields)
    assert (trial.trial_id, keys(trial)[0], keys(trial)[2]) == (trial_id, level_0, level_2)


def test_a_golden_key_of_an_early_epochs_weights():
    assert spec.snapshot_key(TEACHER_KEY, 3) == "29f78a5582de820d7656c42565a7bd45550cd909758ab965c0e3351e293d6690"
    own = spec.environment_key(TEACHER_KEY, "cpu, torch 2.15, 1 thread")
    assert own == "d04bd632663950c3d16bfb6450c42ce4be777d77ec013471df4f7b344beff73c"


# --- keys: what can influence a level, and nothing else -------------------------------------

HUMAN = {"dataset": "cifar10", "noise_kind": "human", "label_noise": 0}
REWOUND = {"retraining": "rewind_weights", "epochs": 30}
TAUGHT = {"teacher": TeacherRef(trial=TrialSpec(), level="dense"), "alpha": 0.5}
UNTAUGHT = TAUGHT | {"alpha": 0}


def changed(base, changes):
    """`base` with changes; a teacher among them is the dense level of `base` itself, whose data it shares."""
    if changes.get("teacher") is not None:
        changes = changes | {"teacher": TeacherRef(trial=base, level="dense")}
    return base.replace(**changes)


def by_name(field, a, b, **context):
    return context | {field: a}, context | {field: b}


# (one trial, another, the first level whose key differs; None when no level can)
INFLUENCE = {
    "dataset": (*by_name("dataset", "digits", "mnist"), 0),
    "label_noise": (*by_name("label_noise", 0.2, 0.5), 0),
    "label_noise from none": (*by_name("label_noise", 0, 0.5), 0),
    "noise_kind": (*by_name("noise_kind", "symmetric", "pair_flip", label_noise=0.2), 0),
    "noise_kind at noise 0": (*by_name("noise_kind", "symmetric", "pair_flip", label_noise=0), None),
    "noisy_labels": (*by_name("noisy_labels", "worse", "aggre", **HUMAN), 0),
    "validation_fraction": (*by_name("validation_fraction", 0.1, 0.2, protocol="validation"), 0),
    "validation_fraction under paper": (*by_name("validation_fraction", 0.1, 0.2, protocol="paper"), None),
    "train_images": (*by_name("train_images", 100, 200), 0),
    "train_images from all": (*by_name("train_images", None, 200), 0),
    "augmentation": (*by_name("augmentation", "none", "flip_crop"), 0),
    "protocol": (*by_name("protocol", "validation", "paper"), 0),
    "model": (*by_name("model", "lenet", "vgg", model_options=()), 0),
    "model_options": (*by_name("model_options", (("hidden1", 300),), SMALL, model="lenet"), 0),
    "model_options at their defaults": (
        *by_name("model_options", (), (("hidden2", 100), ("hidden1", 300)), model="lenet"),
        None,
    ),
    "model_options in another order": (*by_name("model_options", SMALL, SMALL[::-1], model="lenet"), None),
    "optimizer": (*by_name("optimizer", "sgd", "adamw"), 0),
    "learning_rate": (*by_name("learning_rate", 0.1, 0.01), 0),
    "momentum": (*by_name("momentum", 0.9, 0.8, optimizer="sgd"), 0),
    "momentum under adamw": (*by_name("momentum", 0.9, 0.8, optimizer="adamw"), None),
    "lr_schedule": (*by_name("lr_schedule", "cosine", "constant"), 0),
    "lr_milestones": (*by_name("lr_milestones", (0.5,), (0.5, 0.75), lr_schedule="steps"), 0),
    "lr_milestones under cosine": (*by_name("lr_milestones", (0.5,), (0.5, 0.75), lr_schedule="cosine"), None),
    "lr_decay": (*by_name("lr_decay", 0.1, 0.2, lr_schedule="steps", lr_milestones=(0.5,)), 0),
    "lr_decay under constant": (*by_name("lr_decay", 0.1, 0.2, lr_schedule="constant"), None),
    "epochs": (*by_name("epochs", 300, 301), 0),
    "batch_size": (*by_name("batch_size", 64, 128), 0),
    "precision": (*by_name("precision", "float32", "tf32"), 0),
    "criterion": (*by_name("criterion", "global_magnitude", "random"), 1),
    "prune_fraction": (*by_name("prune_fraction", 0.2, 0.5), 1),
    "retraining": (*by_name("retraining", "rewind_lr", "finetune", rewind_epoch=None), 1),
    "rewind_epoch": (*by_name("rewind_epoch", 1, 2, **REWOUND), 1),
    "weight_decay": (*by_name("weight_decay", 0, 1e-12), 0),
    "alpha": (TAUGHT, TAUGHT | {"alpha": 0.8}, 0),
    "alpha 0 with a teacher": ({"teacher": None, "alpha": 0}, UNTAUGHT, None),
    "temperature": (*by_name("temperature", 4, 10, **TAUGHT), 0),
    "temperature without a teacher": (*by_name("temperature", 4, 10), None),
    "temperature at alpha 0": (*by_name("temperature", 4, 10, **UNTAUGHT), None),
    "seed": (*by_name("seed", 0, 1, data_seed=5), 0),
    "data_seed": (*by_name("data_seed", 0, 1, protocol="validation"), 0),
    "data_seed under paper": (*by_name("data_seed", 0, 1, protocol="paper", label_noise=0.2), 0),
    "data_seed under paper at noise 0": (*by_name("data_seed", 0, 1, protocol="paper", label_noise=0), None),
    "data_seed under paper of some images": (
        *by_name("data_seed", 0, 1, protocol="paper", label_noise=0, train_images=100),
        0,
    ),
    "data_seed under paper with human labels": (
        *by_name("data_seed", 0, 1, protocol="paper", noisy_labels="worse", **HUMAN),
        None,
    ),
    "target_sparsity": (*by_name("target_sparsity", 0.5, 0.998), None),
}
# A teacher is in a level's key through its own level's key, which `level_key` is given.
FIELDS_ELSEWHERE = {"teacher"}


def test_the_table_of_influence_has_every_field():
    assert {row.split()[0] for row in INFLUENCE} | FIELDS_ELSEWHERE == FIELD_NAMES


@pytest.mark.parametrize("row", INFLUENCE)
@settings(max_examples=15, deadline=None)
@given(base=specs())
def test_a_key_depends_on_what_can_influence_its_level(row, base):
    one, other, first = INFLUENCE[row]
    if "retraining" not in one:
        base = base.replace(retraining="rewind_lr", rewind_epoch=None)
    if "model" not in one or "model_options" in one:
        base = base.replace(model="lenet", model_options=())
    left, right = changed(base, one), changed(base, other)
    differs = [a != b for a, b in zip(keys(left, 4), keys(right, 4), strict=True)]
    assert differs == [first is not None and level >= first for level in range(4)]
    assert (left.trial_id != right.trial_id) == (first is not None)


def test_seed_alone_leaves_the_data_alone_when_it_is_given():
    assert keys(TrialSpec(seed=1))[0] != keys(TrialSpec(seed=1, data_seed=0))[0]


@settings(max_examples=30, deadline=None)
@given(trial=specs())
def test_a_key_is_a_chain_of_its_predecessors(trial):
    chain = keys(trial, 5)
    assert len(set(chain)) == 5
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in chain)
    parent = None
    for level, key in enumerate(chain):
        assert level_key(trial, level, parent) == key
        parent = key
    assert level_key(trial, 2, chain[0]) != chain[2]
    assert level_key(trial, 3, chain[1]) != chain[2]


def test_a_level_key_needs_what_its_level_has():
    trial = TrialSpec()
    with pytest.raises(ValueError, match="level 0 needs no parent key"):
        level_key(trial, 0, "x")
    with pytest.raises(ValueError, match="level 2 needs a parent key"):
        level_key(trial, 2, None)
    with pytest.raises(ValueError, match="teacher key"):
        level_key(trial, 0, None, TEACHER_KEY)
    with pytest.raises(ValueError, match="teacher key None"):
        level_key(trial.replace(**TAUGHT), 0, None)


def test_a_distilled_level_depends_on_its_teachers_level_and_a_vanilla_one_does_not():
    taught = TrialSpec(**TAUGHT)
    assert level_key(taught, 0, None, "a" * 64) != level_key(taught, 0, None, "b" * 64)
    assert level_key(taught, 0, None, "a" * 64) != level_key(TrialSpec(), 0, None)
    other_name = TrialSpec(alpha=0.5, teacher=TeacherRef(trial=TrialSpec(), level=0))
    assert level_key(taught, 0, None, "a" * 64) == level_key(other_name, 0, None, "a" * 64)


@pytest.mark.parametrize(
    ("level", "teacher_changes", "same"),
    [
        ("dense", {"target_sparsity": 0.5}, True),
        (3, {"target_sparsity": 0.5}, True),
        ("pruned", {"target_sparsity": 0.5}, False),  # decides which level is its best
        ("dense", {"weight_decay": 0.01}, False),
    ],
)
def test_what_of_a_teacher_is_in_the_trial_id(level, teacher_changes, same):
    def taught(teacher):
        return TrialSpec(alpha=0.5, teacher=TeacherRef(trial=teacher, level=level)).trial_id

    assert (taught(TrialSpec()) == taught(TrialSpec().replace(**teacher_changes))) == same


def test_setting_is_shared_by_lambdas_and_seeds_only():
    base = TrialSpec(label_noise=0.2)
    for same in ({"weight_decay": 0.5}, {"seed": 3}, {"data_seed": 3}, {"target_sparsity": 0.5}):
        assert spec.setting_id(base.replace(**same)) == spec.setting_id(base)
    for other in ({"label_noise": 0.5}, {"epochs": 3}, {"criterion": "random"}, TAUGHT):
        assert spec.setting_id(changed(base, other)) != spec.setting_id(base)


def test_distilled_trials_of_all_data_seeds_are_of_one_setting():
    taught = [changed(TrialSpec(seed=seed), TAUGHT | {"seed": 9, "data_seed": seed}) for seed in (0, 1)]
    same_teacher = [
        trial.replace(teacher=TeacherRef(trial=trial.teacher.trial.replace(seed=5), level="dense")) for trial in taught
    ]
    assert len({spec.setting_id(trial) for trial in same_teacher}) == 1
    assert len({trial.trial_id for trial in same_teacher}) == 2


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": 5}, False),
        ({"weight_decay": 0.5}, False),
        ({"epochs": 7}, False),
        ({"data_seed": 5}, True),  # it is its student's
        ({"target_sparsity": 0.5}, True),  # of a teacher whose dense level teaches
    ],
)
def test_the_teacher_is_a_part_of_the_setting(changes, same):
    """Students of two teachers have two λ_opts."""

    def taught(**of_both):
        own = {name: value for name, value in of_both.items() if name == "data_seed"}
        teacher = TrialSpec(label_noise=0.2, data_seed=0).replace(**of_both)
        student = TrialSpec(label_noise=0.2, data_seed=0).replace(**own)
        return spec.setting_id(student.replace(alpha=0.5, teacher=TeacherRef(trial=teacher, level="dense")))

    assert (taught(**changes) == taught()) == same


# --- JSON -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (1, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        ({"b": 1, "a": (1.0, [2.0, True])}, '{"a":[1,[2,true]],"b":1}'),
        (None, "null"),
        ("1", '"1"'),
    ],
)
def test_canonical_json_has_one_spelling(value, text):
    assert spec.canonical_json(value) == text


def test_canonical_json_has_no_nan():
    with pytest.raises(ValueError, match="JSON"):
        spec.canonical_json(float("nan"))


@pytest.mark.parametrize("field", ["weight_decay", "learning_rate", "temperature"])
def test_one_and_one_point_zero_are_one_value(field):
    whole, real = TrialSpec().replace(**{field: 1}), TrialSpec().replace(**{field: 1.0})
    assert whole.trial_id == real.trial_id
    assert keys(whole) == keys(real)


@settings(max_examples=50, deadline=None)
@given(trial=specs(), level=st.sampled_from(["dense", "pruned", 0, 7]), alpha=st.floats(0, 1), taught=st.booleans())
def test_json_round_trip(trial, level, alpha, taught):
    if taught:
        trial = trial.replace(alpha=alpha, teacher=TeacherRef(trial=trial, level=level))
    again = spec.from_json(json.loads(json.dumps(spec.to_json(trial), allow_nan=False)))
    assert again == trial
    assert again.trial_id == trial.trial_id
    assert hash(again) == hash(trial)


def test_json_names_every_unknown_field():
    with pytest.raises(SpecError) as caught:
        spec.from_json(spec.to_json(TrialSpec()) | {"lambda": 1, "epsilon": 2})
    assert caught.value.faults == ("epsilon: not a field of a trial", "lambda: not a field of a trial")


def test_json_values_are_checked():
    with pytest.raises(SpecError, match="epochs 0"):
        spec.from_json({"epochs": 0})


def test_specs_survive_pickling():
    trial = TrialSpec(**TAUGHT)
    assert pickle.loads(pickle.dumps(trial)) == trial


# --- how long a trajectory is ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "fraction", "target", "expected"),
    [
        (266_200, 0.2, 0.998, 28),  # the paper's: 29 trainings
        (9_466_880, 0.2, 0.998, 28),
        (1000, 0.2, 0.0, 0),
        (1000, 0.2, 0.2, 1),  # exactly at the target ends it
        (1000, 0.2, 0.36, 2),
        (1000, 0.2, 0.488, 3),
        (1000, 0.2, 0.21, 2),
        (1000, 0.5, 0.75, 2),
        (10, 0.2, 0.99, 6),  # 10 8 6 5 4 3 2, and round(0.4) = 0 are left to prune
        (2, 0.2, 0.99, 0),  # nothing can be pruned at all
    ],
)
def test_last_level(total, fraction, target, expected):
    assert spec.last_level(total, fraction, target) == expected


@settings(max_examples=100, deadline=None)
@given(total=st.integers(1, 10**7), fraction=st.floats(0.01, 0.9), target=st.floats(0, 0.9999))
def test_last_level_is_the_first_that_reaches_the_target(total, fraction, target):
    last = spec.last_level(total, fraction, target)
    left = [total]
    for _ in range(last):
        left.append(left[-1] - round(fraction * left[-1]))
    assert all(a > b for a, b in itertools.pairwise(left))
    assert all((total - n) / total < target for n in left[:-1])
    assert (total - left[-1]) / total >= target or round(fraction * left[-1]) == 0


@settings(max_examples=300, deadline=None)
@given(left=st.integers(1, 10**8), fraction=st.floats(0.001, 0.999))
def test_prune_count_is_what_torch_prunes(left, fraction):
    assert spec.prune_count(left, fraction) == torch.nn.utils.prune._compute_nparams_toprune(fraction, left)


def test_prune_count_of_every_small_layer_is_what_torch_prunes():
    for left in range(1, 2000):
        assert spec.prune_count(left, 0.2) == torch.nn.utils.prune._compute_nparams_toprune(0.2, left)


# --- streams --------------------------------------------------------------------------------


def test_golden_streams_none_of_these_should_change():
    assert spec.stream("init", 0) == 5696364089584488662
    assert spec.stream("order", 0, 3, 1) == 9143588658651573518


def test_streams_differ_and_fit_a_generator():
    names = [("order", s, level, e) for s in range(5) for level in range(5) for e in range(5)] + [("init", 0)]
    seeds = {spec.stream(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert spec.stream("a", 1, 2) != spec.stream("a", 12)

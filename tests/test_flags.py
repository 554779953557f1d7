"""Flags from annotated fields: what text means, what is refused, files beside flags."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import jsonschema
import pytest
import yaml
from annotated_types import Ge, Interval
from typing_extensions import Doc

from sdd_core import flags
from sdd_core.fields import Count, Flag, Pairs, Positive, SpecError, Words, fields_of
from sdd_core.flags import Parser
from sdd_core.reading import Reading
from sdd_core.spec import TrialSpec
from sweeps.flags import CostOptions, Workers
from sweeps.kinds.distill import flags as distill
from sweeps.kinds.grid import flags as grid
from sweeps.kinds.lambda_opt.flags import Search

COLOURS = {"red": 1, "green": 2}


@dataclass(frozen=True, kw_only=True)
class Options:
    size: Annotated[Count, Doc("how large")] = 3
    share: Annotated[float, Interval(gt=0, le=1), Doc("how much, in %")] = 0.5
    rates: Annotated[tuple[Positive, ...] | None, Flag("device_rate"), Doc("paces")] = None
    ends: Annotated[tuple[float, float] | None, Flag(metavar=("LOW", "HIGH")), Doc("two")] = None
    shape: Annotated[Literal["dip", "rebound"], Doc("what")] = "dip"
    colour: Annotated[str, Words(COLOURS), Doc("which")] = "red"
    name: Annotated[str | None, Doc("a name")] = None
    options: Annotated[Pairs, Doc("pairs")] = ()
    plan: Annotated[bool, Doc("nothing runs")] = False
    limit: Annotated[int | None, Ge(0), Doc("most")] = None


@pytest.fixture
def read():
    def read(*arguments, **more):
        parser = Parser(prog="test", description="", **more)
        parser.add(Options, "all")
        return parser.read(arguments)

    return read


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ([], "size", 3),
        (["--size", "7"], "size", 7),
        (["--share", "1"], "share", 1),
        (["--share", "1e-3"], "share", 0.001),
        (["--device-rate", "1", "2.5"], "rates", (1, 2.5)),
        (["--ends", "-1", "2"], "ends", (-1, 2)),
        (["--shape", "rebound"], "shape", "rebound"),
        (["--colour", "green"], "colour", "green"),
        (["--name", "29"], "name", "29"),
        (["--options", "a=1", "b=x", "c=0.5"], "options", (("a", 1), ("b", "x"), ("c", 0.5))),
        (["--plan"], "plan", True),
        (["--limit", "0"], "limit", 0),
    ],
)
def test_what_text_means(read, arguments, field, value):
    reader = read(*arguments)
    assert getattr(reader.read(Options), field) == value
    assert reader.faults == []


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        (["--size", "0"], ["size 0: must be a whole number from 1"]),
        (["--size", "2.5"], ["size '2.5': must be a whole number from 1"]),
        (["--share", "2"], ["share 2.0: must be in (0, 1]"]),
        (["--share", "nan"], ["share nan: must be a finite number in (0, 1]"]),
        (["--share", "much"], ["share 'much': must be a number in (0, 1]"]),
        (["--device-rate", "0", "x"], ["device_rate 'x': must be a number above 0"]),
        (
            ["--device-rate", "0", "inf"],
            ["device_rate 0.0: must be above 0", "device_rate inf: must be a finite number above 0"],
        ),
        (["--ends", "1", "nan"], ["ends nan: must be a finite number"]),
        (["--shape", "dips"], ["shape 'dips': allowed are dip, rebound; did you mean dip?"]),
        (["--colour", "blue"], ["colour 'blue': allowed are red, green"]),
        (["--options", "a"], ["options 'a': must be NAME=VALUE"]),
        (["--sise", "3"], ["--sise: unknown flag (did you mean --size?)", "3: unknown flag"]),
        (["--size", "0", "--share", "2", "--colour", "x"], ["size 0", "share 2.0", "colour 'x'"]),
    ],
)
def test_every_fault_is_told_and_what_has_one_has_its_default(read, arguments, faults):
    reader = read(*arguments)
    assert reader.read(Options) == Options()
    assert len(reader.faults) == len(faults)
    assert all(said.startswith(fault) for said, fault in zip(reader.faults, faults, strict=True)), reader.faults


@pytest.mark.parametrize("kind", [TrialSpec, Reading, CostOptions, Workers, Search, distill.Sweep, grid.Grid])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_no_number_of_any_command_is_other_than_finite(kind, text):
    """With nan every comparison is false, and infinity is above every lower limit."""
    numbers = [field for field in fields_of(kind).values() if field.type is float]
    assert numbers
    for field in numbers:
        pair = isinstance(field.flag.metavar, tuple)
        with pytest.raises(SpecError, match="must"):
            field.read([text] * (2 if pair else 1) if field.many else text)


def test_a_command_ends_with_every_fault_in_one_message(read, capsys):
    reader = read("--size", "0", "--share", "2")
    reader.read(Options)
    with pytest.raises(SystemExit) as ended:
        reader.refuse()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "test: 2 faults, nothing was run\n"
        "  - size 0: must be a whole number from 1\n  - share 2.0: must be in (0, 1]\nTry test --help.\n"
    )


def test_help_says_range_words_and_default(read, capsys):
    with pytest.raises(SystemExit):
        read("--help")
    said = " ".join(capsys.readouterr().out.split())
    for text in (
        "--size N how large, a whole number from 1 [3]",
        "--share X how much, in %, in (0, 1] [0.5]",
        "--colour NAME which, one of red, green [red]",
        "--ends LOW HIGH",
        "--plan nothing runs",
    ):
        assert text in said


# --- files ----------------------------------------------------------------------------------

YAML = "size: 7\nshare: 0.10\ndevice-rate: [1, 2]\noptions: {a: 1}\nplan: true\nends: [0, 1e-3]\nname:\n"
TOML = "size = 7\nshare = 0.10\ndevice_rate = [1, 2]\nplan = true\nends = [0, 1e-3]\n[options]\na = 1\n"


@pytest.mark.parametrize(("file", "content"), [("a.yaml", YAML), ("a.toml", TOML)])
def test_a_file_holds_what_flags_say_and_flags_win(read, tmp_path, file, content):
    (tmp_path / file).write_text(content)
    found = read("--config", str(tmp_path / file), "--size", "9").read(Options)
    assert found == Options(size=9, share=0.1, rates=(1, 2), options=(("a", 1),), plan=True, ends=(0, 0.001))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("sise: 3", "sise: unknown name; did you mean size?"),
        ("size: [1, 2]", "takes one value"),
        ("- 3", "must hold names and their values"),
        ("a: [", "not valid"),
        ("size: 0", "size 0: must be a whole number from 1"),
        ("ends: [1]", "ends"),
        ("arms: {}", "arms: unknown name"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(read, tmp_path, content, fault):
    (tmp_path / "a.yaml").write_text(content)
    reader = read("--config", str(tmp_path / "a.yaml"))
    reader.read(Options)
    assert len(reader.faults) == 1
    assert fault in reader.faults[0]


def test_a_missing_file_is_told(read, tmp_path):
    assert "cannot be read" in read("--config", str(tmp_path / "none.yaml")).faults[0]


def test_what_was_given_is_written_as_the_file_that_gives_it_again(read, tmp_path):
    first = read("--size", "7", "--share", "0.10", "--device-rate", "1", "2", "--options", "a=1", "--name", "1e3")
    text = flags.reproducing(first.namespace)
    assert yaml.load(text, yaml.BaseLoader)["share"] == "0.10"
    (tmp_path / "again.yaml").write_text(text)
    again = read("--config", str(tmp_path / "again.yaml"))
    assert again.read(Options) == first.read(Options)
    assert flags.reproducing(again.namespace) == text


def test_the_schema_is_for_editors(read, capsys):
    with pytest.raises(SystemExit) as ended:
        read("--schema", only_in_file={"arms": "named arms"})
    assert ended.value.code == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.validate({"size": 7, "colour": "green", "device-rate": [1], "options": {"a": 1}, "arms": {}}, schema)
    for wrong in ({"size": 0}, {"colour": "blue"}, {"sise": 1}, {"share": 2}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


# --- fields of a trial ----------------------------------------------------------------------


def test_every_field_of_a_trial_has_help_and_a_flag():
    parser = Parser(prog="test", description="")
    flags.add_spec(parser)
    assert set(fields_of(TrialSpec)) <= set(parser.fields)
    assert all(field.help for field in parser.fields.values())


def test_a_trial_is_its_recipe_and_what_is_given():
    parser = Parser(prog="test", description="")
    flags.add_spec(parser)
    reader = parser.read(["--teacher", "3", "--teacher-with", "seed=4", "--seed", "2", "--label-noise", "0.10"])
    spec = flags.read_spec(reader)
    assert (spec.alpha, spec.seed, spec.data_seed, spec.label_noise) == (0.8, 2, 2, 0.1)
    assert (spec.teacher.level, spec.teacher.trial.seed, spec.teacher.trial.data_seed) == (3, 4, 2)


def test_faults_keep_what_was_found_before():
    parser = Parser(prog="test", description="")
    reader = parser.read([])

    def fail():
        raise SpecError(["a", "b"])

    assert reader.collect(fail) is None
    assert reader.faults == ["a", "b"]

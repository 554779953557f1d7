"""`python -m sdd_core doctor`: what it finds out on this machine, and what it says when something is wrong."""

import json

import pytest
import torch

from sdd_core import __main__ as entry
from sdd_core import checkup
from sdd_core.commands import doctor
from sdd_core.training import captured, kernels, steps

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without the seconds in which a meter gets ready."""
    monkeypatch.setattr(checkup.pace, "await_sample", lambda meter: None)


@pytest.fixture(autouse=True)
def asked_anew():
    kernels.update_fault.cache_clear()
    yield
    kernels.update_fault.cache_clear()


def test_it_says_what_this_machine_can_do(capsys, tmp_path):
    assert doctor.main(["--store", str(tmp_path / "store"), "--json", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["wrong"] == []
    assert found["versions"]["torch"] is not None
    assert found["data_sets"]["digits"] is None
    assert "lacks train-images-idx3-ubyte" in found["data_sets"]["mnist"]
    assert found["store"]["fault"] is None
    (cpu, *_) = found["devices"]
    ran = {(check["precision"], check["optimizer"]): check["runs"] for check in cpu["steps"]}
    assert ran == {(p, o): p != "tf32" for p in ("float32", "tf32", "bfloat16") for o in ("sgd", "adamw")}
    for words in (
        "float32 sgd     runs; engine's backward agrees, fused update agrees",
        "tf32 sgd        does not run: precision 'tf32': needs a GPU",
        "nothing is captured here: only a GPU has CUDA graphs",
        "digits          whole",
        "writing         works",
        "all that should work here does",
    ):
        assert words in said, words


def test_as_json_alone(capsys):
    assert doctor.main(["--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert found["store"] is None


def test_a_kernel_that_does_not_agree_is_what_it_ends_with(capsys, monkeypatch):
    monkeypatch.delattr(torch, "_fused_sgd_")
    assert doctor.main([]) == 1
    *_, heading, float32, bfloat16 = capsys.readouterr().out.splitlines()
    assert heading == "what should work here and does not"
    assert float32.startswith("  cpu, float32 sgd: runs; engine's backward agrees, fused update IS NOT USED (Attribute")
    assert bfloat16.startswith("  cpu, bfloat16 sgd: ")


def test_a_store_that_cannot_be_written_is_wrong(capsys):
    assert doctor.main(["--store", "/dev/null/store"]) == 1
    assert "store '/dev/null/store': cannot be written to" in capsys.readouterr().out


def test_a_fault_in_the_flags_is_refused_before_anything_is_tried(capsys):
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--json", "/nowhere/at/all.json", "--stor", "x"])
    assert ended.value.code == 2
    assert "there is no folder /nowhere/at" in capsys.readouterr().err


def test_the_meaning_of_a_device_without_a_meter(monkeypatch):
    monkeypatch.setattr(
        checkup.machine.Meter, "energy", lambda *_: {"source": "none", "method": None, "reason": "no RAPL"}
    )
    assert checkup.energy(CPU)["reason"] == "no RAPL"


# --- a GPU, stood in for --------------------------------------------------------------------


def as_on_a_gpu(*_):
    return steps.StepPlan(captured=True, channels_last=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_captured_step_that_agrees(monkeypatch, optimizer):
    monkeypatch.setattr(steps, "step_plan", as_on_a_gpu)
    monkeypatch.setattr(captured, "cuda_graph", lambda step: step)
    check = checkup.step_check(CPU, "float32", optimizer)
    assert (check.runs, check.wrong) == (True, False)
    assert check.ways == dict.fromkeys(("channels_last", "engine", "fused", "captured"))


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_replay_that_goes_wrong_sooner_or_later(monkeypatch, after):
    """The first is compared at once; the later ones by the weights that they leave."""
    done = []

    def capture(step):
        def replay():
            done.append(0)
            if len(done) <= after:
                step()

        return replay

    monkeypatch.setattr(steps, "step_plan", as_on_a_gpu)
    monkeypatch.setattr(captured, "cuda_graph", capture)
    check = checkup.step_check(CPU, "float32", "sgd")
    assert check.wrong
    assert " apart after a step" in check.ways["captured"]


def test_a_device_on_which_nothing_runs(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(checkup.training, "train", broken)
    check = checkup.step_check(CPU, "float32", "sgd")
    assert (check.runs, check.wrong) == (False, True)
    assert check.reason == "RuntimeError: CUDA error: no kernel image is available"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_real_gpu(precision, optimizer):
    check = checkup.step_check(torch.device("cuda", 0), precision, optimizer)
    assert not check.wrong, check
    assert not check.runs or check.ways["captured"] is None


# --- how it is called -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "command", "rest"),
    [
        (["doctor", "--json", "-"], "doctor", ["--json", "-"]),
        (["verify", "--sample", "5"], "verify", ["--sample", "5"]),
        (["cost", "--json"], "cost", ["--json"]),
        (["trajectory", "--epochs", "1"], "trajectory", ["--epochs", "1"]),
        (["--epochs", "1"], "trajectory", ["--epochs", "1"]),
        ([], "trajectory", []),
    ],
)
def test_the_first_word_names_the_command(monkeypatch, arguments, command, rest):
    seen = []
    monkeypatch.setattr(f"sdd_core.commands.{command}.main", lambda given: seen.append(given) or 0)
    assert entry.main(arguments) == 0
    assert seen == [rest]

"""A training that does not fit into a GPU: what was needed and what to set, in one line."""

import pickle

import pytest
import torch
from torch import nn

from sdd_core.commands import trajectory as command
from sdd_core.spec import TrialSpec
from sdd_core.training import kernels, memory
from sdd_core.training.memory import OutOfMemory
from sweeps.run.outcome import reason_of

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 0.50 GiB is free."
)


@pytest.mark.parametrize(
    ("error", "free", "words"),
    [
        (CUDA, (2**29, 79 * 2**30), "could not allocate 2.00 GiB, 0.50 GiB of 79.00 GiB free"),
        (CUDA, None, "could not allocate 2.00 GiB, how much is free is not known"),
        ("something else", (0, 2**30), "how much was asked for is not known, 0.00 GiB of 1.00 GiB free"),
    ],
)
def test_the_message_has_what_was_needed_and_what_to_set(error, free, words):
    spec = TrialSpec(batch_size=4096, precision="bfloat16", model_options=(("hidden1", 32),))
    said = memory.message(spec, "cuda:0", error, free)
    assert "\n" not in said
    for part in (
        words,
        "cuda:0",
        "lenet hidden1=32",
        "batch_size 4096",
        "bfloat16",
        "--batch-size",
        "--gpus-per-trial",
    ):
        assert part in said


@pytest.fixture
def full(monkeypatch):
    """The first backward pass finds no memory."""

    def make(device, found=None):
        def backward(logits, gradient):
            raise torch.OutOfMemoryError(CUDA)

        return backward

    monkeypatch.setattr(kernels, "make_backward", make)


def test_the_command_says_it_without_a_traceback(full, capsys, tmp_path):
    tiny = ["--epochs", "1", "--model-options", "hidden1=16", "hidden2=8", "--batch-size", "96", "--no-energy"]
    assert command.main([*tiny, "--store", str(tmp_path / "store")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "python -m sdd_core: out of memory on cpu: a training step of model lenet hidden1=16 hidden2=8"
    )
    assert "batch_size 96" in said
    assert "Traceback" not in said


def test_it_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(OutOfMemory("all of it")))
    assert (type(error), str(error)) == (OutOfMemory, "all of it")


def test_in_a_sweep_it_is_the_trials_reason():
    raised = "\n".join(["ray::ImplicitFunc.train() (pid=1)", *['  File "x.py", line 1'] * 9])
    text = f"{raised}\nsdd_core.training.memory.OutOfMemory: out of memory on cuda:0: a step\n"
    assert reason_of(text) == "out of memory on cuda:0: a step"
    assert f"{OutOfMemory.__module__}.{OutOfMemory.__qualname__}" in text


def test_other_errors_keep_their_last_lines():
    assert reason_of("\n".join("abcdefgh")) == "\n".join("cdefgh")
    assert reason_of("") == "no message"


def test_a_check_that_finds_no_memory_is_no_reason_to_end(monkeypatch):
    """Only what the plain step itself needs counts."""
    from sdd_core.training.agreement import State, judged

    def fast():
        raise torch.OutOfMemoryError(CUDA)

    weight = nn.Parameter(torch.zeros(2))
    state = State([weight], lambda: {"parameters": [weight]}, torch.device("cpu"))
    reason = judged(lambda: fast, lambda: weight.detach().add_(1), state, 0.1)
    assert reason.startswith("OutOfMemoryError: CUDA out of memory")
    assert weight.tolist() == [1, 1]

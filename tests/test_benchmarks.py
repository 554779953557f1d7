"""The speed benchmark runs, on a tenth of a second of work."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = str(Path(__file__).resolve().parent.parent / "benchmarks" / "training_speed.py")


@pytest.fixture
def run(monkeypatch, capsys):
    """The benchmark's table as rows of words, and its line of JSON."""
    threads = torch.get_num_threads()

    def call(*options):
        monkeypatch.setattr(sys, "argv", [SCRIPT, "--images", "200", "--repeats", "1", *options])
        runpy.run_path(SCRIPT, run_name="__main__")
        *table, last = capsys.readouterr().out.splitlines()
        return [line.split() for line in table[2:]], json.loads(last)

    yield call
    torch.set_num_threads(threads)


def test_every_loop_is_measured_once_a_turn(run):
    rows, measured = run("--model-options", "hidden1=32", "hidden2=16", "--teacher", "lenet")
    assert [row[0] for row in rows] == ["train()", "distilled", "bare", "common"]
    assert rows[0][3] == "1.00"  # itself
    assert {name: len(seconds) for name, seconds in measured["seconds"].items()} == {row[0]: 1 for row in rows}
    assert all(seconds > 0 for (seconds,) in measured["seconds"].values())
    assert measured["operations_per_image"] == 6 * (64 * 32 + 32 * 16 + 16 * 10)


def test_a_convolving_student_with_another_teacher_on_augmented_images(run):
    options = ("--dataset", "synthetic-cifar10", "--model", "vgg", "--model-options", "gamma=1", "delta=2")
    teacher = ("--teacher", "resnet18", "--teacher-options", "width=2", "--augmentation", "flip_crop")
    rows, _ = run(*options, *teacher, "--skip-common", "--precision", "bfloat16")
    assert [row[0] for row in rows] == ["train()", "distilled", "bare"]


def test_an_option_that_the_model_does_not_have_is_refused(run):
    with pytest.raises(ValueError, match="model_options width=3"):
        run("--model-options", "width=3")


def test_overhead_measures_the_queue_and_ray(tmp_path):
    """Very small: the figures are there and have their units' size; nothing is judged by time here."""
    script = str(Path(SCRIPT).with_name("overhead.py"))
    made = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, script, "--sizes", "20", "--trials", "4", "--json", str(made)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    form = json.loads(made.read_text())
    (alone,), (through_ray,) = form["queue alone"], form["through Ray, nothing trained"]
    assert (alone["trials"], through_ray["trials"]) == (20, 4)
    assert 0 < alone["bytes_a_level"] < 1000
    assert through_ray["milliseconds_a_trial"] > 0
    assert form["real trials"] == []

"""What loading and training need beyond the interpreter and torch: at most twice the data, and the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Files of CIFAR-10's size and layout are read, split, trained on and evaluated by a small LeNet. What torch
# and scikit-learn set up when they are first used counts to them: digits come first.
PROGRAM = """
import gc, json, sys, torch
from pathlib import Path
from sdd_core import models, recipes, training
from sdd_core.data import sources, splits as data
from sdd_core.training import pruning

def status(name):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return 1024 * int(line.split()[1])

def level(splits, spec):
    model = models.build(spec, splits.image_shape, splits.classes)
    training.train(model, pruning.dense_masks(model), splits.train, spec, 0)
    training.evaluate(model, splits.val, {"clean": splits.val.clean_labels})
    return model

torch.set_num_threads(1)
spec = recipes.digits_lenet().replace(epochs=1, model_options=(("hidden1", 32), ("hidden2", 16)))
level(data.load(spec, torch.device("cpu")), spec)
gc.collect()
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew

files = {name: sources.File(file.size) for name, file in sources.CIFAR10_BINARY.items()}
published = sources.cifar10(Path(sys.argv[1]), files)
raw = data.RawData(*published, classes=10, mean=(0.5,) * 3, std=(0.25,) * 3, pixel_range=255)
spec = spec.replace(dataset="cifar10", label_noise=0.1, augmentation="flip_crop")
model = level(data.make_splits(raw, spec, torch.device("cpu")), spec)
print(json.dumps({
    "peak": status("VmHWM") - before,
    "data": sum(array.nbytes for array in published),
    "model": sum(parameter.nbytes for parameter in model.parameters()),
}))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's high-water mark of memory")
def test_peak_memory_is_within_twice_the_data_and_the_model_with_its_optimiser_state(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(6):
        name = f"data_batch_{number + 1}.bin" if number < 5 else "test_batch.bin"
        with (folder / name).open("wb") as file:
            file.truncate(30_730_000)  # zeros, which take no room on the disk: black images of class 0
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout.splitlines()[-1])
    assert measured["data"] == 60_000 * (3072 + 8)
    assert measured["data"] < measured["peak"] <= 2 * measured["data"] + 3 * measured["model"], measured

"""How fast `training.train` is, beside a bare PyTorch loop and the usual loop with a DataLoader.

    python benchmarks/training_speed.py                                            # digits, LeNet: 20 s
    python benchmarks/training_speed.py --dataset mnist --data-dir DIR             # 3 minutes
    python benchmarks/training_speed.py --device cuda --model resnet18 --dataset synthetic-cifar10
    python benchmarks/training_speed.py --model vgg --model-options gamma=3 delta=3 --teacher resnet18 \
        --teacher-options width=8 --augmentation flip_crop --dataset synthetic-cifar10 --images 640

The loops train the same pruned model with the same batches' size, optimiser, precision and switches of
arithmetic, one after another in turn; a ratio is the median over the turns, `least` that of each loop's
fastest turn. `bare`: float images normalised beforehand and in memory, default SGD, masks multiplied in.
`common`: a torchvision-style data set of PIL images with ToTensor and Normalize behind a DataLoader in
this process, otherwise as bare. Neither augments. `distilled`, with --teacher: train() with that
network's logits (Eq. 1, alpha 0.8, temperature 10). `peak MB` is the most that a loop's first turn held
beyond what the process held before the data; on a GPU, the most that was allocated.
On a CPU the clock is this process's CPU seconds (one thread, no worker processes), which other
programs disturb less than the wall's; `--clock wall` takes the wall's. `of matmul` is
the share of the rate of a large float32 product measured in the same run that the step's arithmetic
(2 operations for each of `sdd_core.cost`'s, forward once and backward twice) reaches.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sdd_core import cost, models, recipes, training
from sdd_core.data import splits
from sdd_core.registry import AUGMENTATIONS, MODELS
from sdd_core.spec import FIELDS, TeacherRef, TrialSpec
from sdd_core.training import pruning, steps

Loop = Callable[[nn.Module, pruning.Masks], object]


def _mnist(folder: Path) -> splits.Split:
    """MNIST's training images from its published idx files."""

    def read(name: str, header: int) -> np.ndarray:
        (path,) = [p for p in folder.rglob(f"{name}*") if p.is_file()][:1]
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return np.frombuffer(raw, np.uint8, offset=header).copy()

    images = read("train-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    return _split(images, read("train-labels-idx1-ubyte", 8).astype(np.int64), 0.1307, 0.3081)


def _split(images: np.ndarray, labels: np.ndarray, mean: float, std: float) -> splits.Split:
    stats = {"scale": torch.tensor(1 / (255 * std)), "shift": torch.tensor(-mean / std)}
    pixels, classes = torch.from_numpy(images), torch.from_numpy(labels)
    return splits.Split(pixels, classes, classes, **{n: v.view(1, 1, 1, 1) for n, v in stats.items()})


def _load(arguments: argparse.Namespace, spec: TrialSpec, device: torch.device) -> splits.Split:
    if arguments.dataset == "digits":
        split = splits.load(spec, device).train
    elif arguments.dataset == "mnist":
        split = _mnist(arguments.data_dir)
    else:
        rng = np.random.default_rng(0)
        split = _split(rng.integers(0, 256, (10_000, 3, 32, 32), np.uint8), rng.integers(0, 10, 10_000), 0.47, 0.25)
    split = splits.Split(**{name: value[: arguments.images or None] for name, value in vars(split).items()})
    return splits.Split(**{name: value.to(device) for name, value in vars(split).items()})


def _plain_loop(model: nn.Module, masks: pruning.Masks, spec: TrialSpec, batches: Callable[[], object]) -> None:
    optimizer = torch.optim.SGD(
        model.parameters(), lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay
    )
    weights = {name: p for name, p in model.named_parameters() if name in masks}
    factors = {name: masks[name].float() for name in weights}
    device = next(model.parameters()).device
    model.train()
    for _ in range(spec.epochs):
        for inputs, labels in batches():  # type: ignore[attr-defined]
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
                loss = F.cross_entropy(model(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.mul_(factors[name])


def _bare(split: splits.Split, spec: TrialSpec) -> Loop:
    inputs, labels = split.inputs(slice(None)), split.labels

    def batches() -> object:
        order = torch.randperm(len(labels), device=labels.device)
        return ((inputs[part], labels[part]) for part in order.split(spec.batch_size))

    return lambda model, masks: _plain_loop(model, masks, spec, batches)


def _common(split: splits.Split, spec: TrialSpec) -> Loop:
    from PIL import Image
    from torchvision import transforms  # type: ignore[import-untyped]

    pixels, labels = split.images.cpu(), split.labels.cpu()
    top = 16 if pixels.shape[-1] == 8 else 255
    mean = (-split.shift / split.scale / top).flatten().tolist()
    std = (1 / split.scale / top).flatten().tolist()
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])

    class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
        """As torchvision's MNIST gives them."""

        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            image, label = pixels[index], int(labels[index])
            array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
            return transform(Image.fromarray(array)), label

    loader = torch.utils.data.DataLoader(Images(), batch_size=spec.batch_size, shuffle=True)
    return lambda model, masks: _plain_loop(model, masks, spec, lambda: loader)


def _matmul_rate(device: torch.device, clock: Callable[[], float]) -> float:
    """Operations a second of a large float32 product (bf16 peaks are another figure)."""
    size = 1024 if device.type == "cpu" else 8192
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    seconds = []
    for _ in range(8):
        started = clock()
        a @ b
        seconds.append(clock() - started)
    return float(2 * size**3 / min(seconds))


_HIGH_WATER = Path("/proc/self/clear_refs")  # Linux: writing 5 makes the process's high-water mark begin anew


def _begin_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _HIGH_WATER.exists():
        _HIGH_WATER.write_text("5")


def _held(device: torch.device, peak: bool) -> float:
    """MB: on a GPU what is allocated, or was at most; of the whole process on a CPU, NaN where that is not told."""
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)) / 1e6
    if not _HIGH_WATER.exists():
        return math.nan
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024 / 1e6


def _options(pairs: list[str]) -> tuple[tuple[str, int | float | str], ...]:
    """Model options from NAME=VALUE words."""

    def value(word: str) -> int | float | str:
        for kind in (int, float):
            try:
                return kind(word)
            except ValueError:
                continue
        return word

    return tuple((name, value(word)) for name, _, word in (pair.partition("=") for pair in pairs))


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=tuple(MODELS), default="lenet")
    parser.add_argument("--model-options", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--teacher", choices=tuple(MODELS), help="measure a distilled step too")
    parser.add_argument("--teacher-options", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--augmentation", choices=tuple(AUGMENTATIONS), default="none", help="of train() alone")
    parser.add_argument("--dataset", choices=("digits", "mnist", "synthetic-cifar10"), default="digits")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST's idx files are")
    parser.add_argument("--precision", choices=FIELDS["precision"].words, default="float32")
    parser.add_argument("--images", type=int, default=0, help="only the first so many")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--skip-common", action="store_true")
    return parser


def main() -> None:
    """Measure and print one table and one line of JSON."""
    arguments = _parser().parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            return time.perf_counter()
        return time.process_time() if arguments.clock == "cpu" else time.perf_counter()

    spec = recipes.digits_lenet().replace(
        model=arguments.model,
        model_options=_options(arguments.model_options),
        augmentation=arguments.augmentation,
        learning_rate=0.01,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
    )
    matmul = _matmul_rate(device, clock)
    # What scikit-learn and torch set up when they are first used is not the loops' memory.
    first = recipes.digits_lenet().replace(epochs=1)
    network = models.build(first, (1, 8, 8), 10).to(device)
    training.train(network, pruning.dense_masks(network), splits.load(first, device).train, first, 0)
    before = _held(device, peak=False)
    split = _load(arguments, spec, device)
    shape = tuple(split.images.shape[1:])
    model = models.build(spec, shape, 10).to(device)  # type: ignore[arg-type]
    weights = pruning.prunable_weights(model)
    masks = pruning.prune(weights, pruning.dense_masks(model), spec.prune_fraction, spec.criterion)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    operations = 6 * cost.operations(model, shape).paper  # type: ignore[arg-type]
    plan = steps.step_plan(device.type, steps.capability(device), model, spec)

    def make(name: str) -> Loop:
        if name == "train()":
            return lambda model, kept: training.train(model, kept, split, spec, 1)
        if name != "distilled":
            return _bare(split, spec) if name == "bare" else _common(split, spec)
        teaching = spec.replace(model=arguments.teacher, model_options=_options(arguments.teacher_options))
        teacher = models.build(teaching, shape, 10).to(device)  # type: ignore[arg-type]
        student = spec.replace(teacher=TeacherRef(trial=teaching, level=0), alpha=0.8, temperature=10.0)
        return lambda model, kept: training.train(model, kept, split, student, 1, teacher=teacher)

    names = ["train()", *(["distilled"] if arguments.teacher else []), "bare"]
    names += [] if arguments.skip_common else ["common"]
    loops: dict[str, Loop] = {}
    peak: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    images = len(split) * spec.epochs
    for turn in range(-1, arguments.repeats):  # turn -1 warms up, and sees each loop's memory before the next is made
        for name in names:
            if turn < 0:
                _begin_peak(device)
                loops[name] = make(name)
            model.load_state_dict(initial)
            started = clock()
            with steps.arithmetic(plan):
                loops[name](model, masks)
            if turn < 0:
                peak[name] = _held(device, peak=True) - before
            else:
                times.setdefault(name, []).append(clock() - started)

    print(f"{arguments.model} on {arguments.dataset}: {len(split)} images {shape}, batch {spec.batch_size}, ", end="")
    print(f"{spec.precision}, torch {torch.__version__}, {device}, {arguments.repeats} turns, ", end="")
    print(f"large product {matmul / 1e9:.1f} GFLOP/s, {operations / 1e6:.3f} MFLOP per image")
    print("loop       images/s   ms/step   train() is   least   of matmul   peak MB")
    taken = spec.epochs * math.ceil(len(split) / spec.batch_size)
    for name, seconds in times.items():
        median, own = statistics.median(seconds), times["train()"]
        ratio = statistics.median(other / ours for other, ours in zip(seconds, own, strict=True))
        print(
            f"{name:9s} {images / median:9.0f} {1e3 * median / taken:9.3f} {ratio:6.2f} times"
            f"{min(seconds) / min(own):8.2f}{operations * images / median / matmul:12.2f} {peak[name]:9.0f}"
        )
    print(json.dumps({"seconds": times, "matmul": matmul, "operations_per_image": operations, "peak_mb": peak}))


if __name__ == "__main__":
    main()

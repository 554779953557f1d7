"""The first epochs of a recipe at several learning rates: at which does the network learn at all?

    python benchmarks/learning_rates.py --data-dir DIR                      the VGG-like on CIFAR-10: 20 min on a core
    python benchmarks/learning_rates.py --dataset digits --model lenet --rates 10 0.1 --images 1000    seconds

Each row is one training of level 0 with the recipe's own seed 0, cut off after `--epochs` epochs of the recipe's
schedule: after each the mean loss on the training labels, noise included, and the accuracy on the validation images, of
2,000 images each. A uniform guess has the loss ln(classes). The rate of the VGG-like's recipe was chosen with it; see
README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from sdd_core import recipes, training
from sdd_core.data import sources, splits
from sdd_core.spec import TrialSpec
from sdd_core.training import pruning
from sdd_core.trajectory.state import new_model


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--model", default="vgg")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001])
    parser.add_argument("--images", type=int, default=5_000, help="training images, drawn by class")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--data-dir", help="where the data set's files are")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    sources.set_data_dir(options.data_dir)
    torch.set_num_threads(1)
    for rate in options.rates:
        given = {"dataset": options.dataset, "model": options.model, "learning_rate": rate}
        follow(recipes.make(given | {"train_images": options.images}), options.epochs, torch.device(options.device))


def follow(spec: TrialSpec, epochs: int, device: torch.device) -> None:
    """Train level 0 for some epochs and print a line after each."""
    data = splits.load(spec, device)
    assert data.val is not None
    some, others, model = data.train.first(2_000), data.val.first(2_000), new_model(spec, data)
    title = f"rate {spec.learning_rate:g}  epoch"

    def show(epoch: int) -> None:
        loss = training.evaluate(model, some, {"train": some.labels})["train"].loss
        accuracy = training.evaluate(model, others, {"val": others.clean_labels})["val"].accuracy
        model.train()
        print(f"{title} {epoch + 1}  loss {loss:.4g}  validation {100 * accuracy:.1f} %", flush=True)

    schedule = training.full_schedule(spec)[:epochs]
    diverged = training.train(model, pruning.dense_masks(model), data.train, spec, 0, schedule, show)
    if diverged is not None:
        print(f"{title} {diverged}  diverged", flush=True)


if __name__ == "__main__":
    main()

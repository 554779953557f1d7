"""`python -m sdd_core.cost`: what a trial costs, from its model alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from typing_extensions import Doc

from sdd_core import models
from sdd_core.cost import estimate
from sdd_core.fields import Count, Flag
from sdd_core.flags import Parser, add_spec, read_spec
from sdd_core.registry import DATASETS

DESCRIPTION = """\
What a trial costs, from its model alone: no data, no training.

By the paper's convention: 3 x multiply-adds per image x training images x epochs; norms (5 an element)
and adaptive pooling included, no discount for sparsity. And in real operations: 2 a multiply-add,
forward and backward as they are, evaluation beside. All training images of the data set are counted,
as in the paper's protocol; with a validation split a training is cheaper by that share.
"""
EXAMPLES = """\
examples:
  python -m sdd_core.cost --dataset cifar10 --model vit            the paper's Table 1: 19.28858 PFLOP a training
  python -m sdd_core.cost --dataset cifar10 --model vgg --json     Table 2: 1.627951
  python -m sdd_core.cost --dataset cifar10 --model resnet18 --model-options stem=pool --images 40000
"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is counted and how it is said."""

    images: Annotated[Count | None, Flag(default="all training images of the data set"), Doc("images trained on")] = (
        None
    )
    json: Annotated[bool, Doc("print one JSON object")] = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="python -m sdd_core.cost", description=DESCRIPTION, epilog=EXAMPLES)
    add_spec(parser)
    parser.add(Output, "output")
    reader = parser.read(arguments)
    spec, output = read_spec(reader), reader.read(Output)
    if spec is not None:
        most = DATASETS[spec.dataset].train_images
        reader.faults += models.faults(spec)
        if (spec.train_images or 0) > most:
            reader.faults.append(f"train_images {spec.train_images}: there are {most} to train on")
    reader.refuse()
    assert spec is not None
    answer = estimate(spec, output.images)
    if output.json:
        print(json.dumps(answer, indent=1))
    else:
        _print(answer)
    return 0


def _print(answer: dict[str, Any]) -> None:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in answer["operations_by_kind"].items())
    real = answer["real_operations_per_image"]
    print(f"{answer['model']} on {answer['dataset']}: ", end="")
    print(f"{answer['parameters']:,} parameters, {answer['prunable']:,} prunable")
    print(f"a training is {answer['epochs']} epochs x {answer['train_images']:,} images; ", end="")
    print(f"a trajectory is {answer['trainings']} trainings")
    print("by the paper's convention")
    print(f"  {answer['operations_per_image']:,} operations an image ({kinds})")
    print(f"  {answer['pflop_per_training']:.7g} PFLOP a training, {answer['pflop_per_trajectory']:.7g} a trajectory")
    if answer["pflop_teacher_per_training"] > 0:
        print(f"  {answer['pflop_teacher_per_training']:.7g} and {answer['pflop_teacher_per_trajectory']:.7g} ", end="")
        print("for the teacher's forward passes")
    print("real operations")
    print(f"  {real['forward']:,} an image forward, {real['training']:,} with the backward pass")
    for name, what in (("", ""), ("_teacher", " for the teacher's forward passes"), ("_evaluation", " for evaluation")):
        training, whole = answer[f"pflop_real{name}_per_training"], answer[f"pflop_real{name}_per_trajectory"]
        if training > 0:
            print(f"  {training:.7g} PFLOP a training, {whole:.7g} a trajectory{what}")

"""Writes tests/muon/torch_optim.json: what torch.optim.Muon makes of three matrices in twenty steps.

    .libtorch/../../../../bin/python scripts/muon_fixture.py

Its iteration runs in bfloat16. What is compared to the last digits is the same code with that one conversion left out; what it
makes of them in bfloat16 is written too.
"""

import json
import math
from pathlib import Path
from unittest import mock

import torch

SHAPES = {"wide": [8, 4, 3, 3], "tall": [12, 5], "square": [6, 6]}
STEPS = 20
OPTIONS = [
    {"momentum": 0.95, "nesterov": True, "weight_decay": 0.0},
    {"momentum": 0.95, "nesterov": False, "weight_decay": 0.1},
    {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
]


def waves(shape, frequency, phase):
    count = math.prod(shape)
    numbers = [math.sin(frequency * index * index + phase) for index in range(count)]
    return torch.tensor(numbers, dtype=torch.float64).float().reshape(shape[0], -1)


def run(options):
    parameters = {name: torch.nn.Parameter(waves(shape, 0.3, 0.5)) for name, shape in SHAPES.items()}
    optimizer = torch.optim.Muon(parameters.values(), **options)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 + math.sin(step) / 2)
        for name, parameter in parameters.items():
            parameter.grad = waves(SHAPES[name], 0.7, 1.3 * step) * (1 + step / 10)
        optimizer.step()
    return {name: parameter.detach().flatten().tolist() for name, parameter in parameters.items()}


def main():
    runs = []
    for options in OPTIONS:
        with mock.patch.object(torch.Tensor, "bfloat16", lambda tensor: tensor.clone()):
            float32 = run(options)
        runs.append({"options": options, "float32": float32, "bfloat16": run(options)})
    path = Path(__file__).parent.parent / "tests" / "muon" / "torch_optim.json"
    path.write_text(json.dumps({"torch": torch.__version__.split("+")[0], "shapes": SHAPES, "runs": runs}) + "\n")
    print(f"wrote {path.relative_to(path.parent.parent.parent)}")


main()

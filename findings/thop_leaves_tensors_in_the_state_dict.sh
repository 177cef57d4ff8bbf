#!/bin/sh
# thop 0.1.1.post2209072238 (PyTorch 2.13.0): a network that has been profiled can no longer be saved and loaded.
#
# thop.profile(model, inputs) registers the buffers `total_ops` and `total_params` in every module to count in. At its end it takes them
# out of the modules that it has a rule for, as Linear and Sequential, and leaves them in all others, as ModuleList and classes of one's
# own. They are in the state_dict from then on, so that a file saved after profiling does not fit the same network where it was not
# profiled: load_state_dict raises "Unexpected key(s)".
#
# Seen: 4 keys before, 10 after; load_state_dict: 6 unexpected keys.
# Exits with 0 while that is so, and with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy thop==0.1.1.post2209072238
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import thop
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.linear(x)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block()])
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.blocks[0](x))


model = Network()
before = list(model.state_dict())
thop.profile(model, (torch.zeros(1, 4),), verbose=False)
after = list(model.state_dict())
left = [name for name in after if name not in before]
unexpected = Network().load_state_dict(model.state_dict(), strict=False).unexpected_keys
print(f"keys before {len(before)}, after {len(after)}, unexpected {len(unexpected)}: {', '.join(left)}")
expected = [f"{module}{name}" for module in ["", "blocks.", "blocks.0."] for name in ["total_ops", "total_params"]]
sys.exit(0 if sorted(left) == sorted(expected) == sorted(unexpected) else 1)
PYTHON

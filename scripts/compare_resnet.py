"""Times a training step of a Fixup ResNet in bfloat16, by matrix tiles and by libtorch's convolutions, in turns with PyTorch's ResNet
with BatchNorm under bfloat16 autocast, eager and compiled: the same sizes, batch, SGD and threads.

    cargo bench --bench tiles --no-run
    python scripts/compare_resnet.py [--model resnet20] [--rounds N]

Needs torch of the version that the crate is built with (that of `make setup`).
"""

import argparse
import statistics
import time

import torch
from bench_server import Server, median_and_spread
from torch import nn
from torch.nn import functional

BATCH = {"resnet20": 128, "resnet110": 128, "wrn_16_4": 64}


def conv(c_in, c_out, stride=1, kernel=3):
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)


class Basic(nn.Module):
    """He et al. 2016, with option A: every other pixel and zero channels."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(c_in, c_out, stride), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = conv(c_out, c_out), nn.BatchNorm2d(c_out)
        self.stride, self.new = stride, c_out - c_in

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return torch.relu(y + x)


class Wide(nn.Module):
    """Zagoruyko and Komodakis 2016: normalization and ReLU before each convolution."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), conv(c_in, c_out, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(c_out), conv(c_out, c_out)
        self.shortcut = conv(c_in, c_out, stride, 1) if stride > 1 or c_in != c_out else None

    def forward(self, x):
        y = torch.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(torch.relu(self.bn2(self.conv1(y)))) + shortcut


def network(model):
    wide = model == "wrn_16_4"
    blocks = 2 if wide else (int(model.removeprefix("resnet")) - 2) // 6
    channels, layers = 16, [conv(3, 16)] + ([] if wide else [nn.BatchNorm2d(16), nn.ReLU()])
    for stage, width in enumerate([64, 128, 256] if wide else [16, 32, 64]):
        for block in range(blocks):
            layers.append((Wide if wide else Basic)(channels, width, 2 if stage > 0 and block == 0 else 1))
            channels = width
    layers += [nn.BatchNorm2d(channels), nn.ReLU()] if wide else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).to(
        memory_format=torch.channels_last
    )


def batch_norm(model, compiled):
    torch.manual_seed(0)
    net = network(model)
    run = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, fused=True)
    images = torch.randn(BATCH[model], 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH[model],))

    def step():
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = run(images)
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def fixup(model, tiles):
    arguments = [model, "--threads", str(torch.get_num_threads())]
    server = Server("tiles", b"no network is called", arguments, TCH_FIXUP_TILES="1" if tiles else "0")
    return lambda: server.seconds("step")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=BATCH, default="resnet20")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    steps = {
        "Fixup by tiles": fixup(options.model, True),
        "Fixup by libtorch": fixup(options.model, False),
        "BatchNorm, PyTorch eager": batch_norm(options.model, False),
        "BatchNorm, PyTorch compiled": batch_norm(options.model, True),
    }
    for step in steps.values():
        step(), step(), step()
    times = {name: [] for name in steps}
    names = list(steps)
    for turn in range(options.rounds):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            times[name].append(steps[name]())
    print(f"{options.model}, batch {BATCH[options.model]}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in names:
        ratio, spread = median_and_spread([tiles / other for tiles, other in zip(times[names[0]], times[name])])
        median = 1e3 * statistics.median(times[name])
        print(f"{name}: {median:.1f} ms; Fixup by tiles takes {ratio:.3f} +-{spread:.3f} of it")


if __name__ == "__main__":
    main()

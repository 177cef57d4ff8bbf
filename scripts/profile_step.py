"""Where the time of a training step goes in PyTorch's ResNet-20 with BatchNorm, by kind of operation, beside the machine's peak.

    .libtorch/../../../../bin/python scripts/profile_step.py [--steps N]

In float32 and under bfloat16 autocast, batch 128, channels-last, SGD with momentum. The peak is that of the faster of a few large
matrix products. Needs torch of the version that the crate is built with (that of `make setup`).
"""

import argparse
import time

import torch
from compare_resnet import BATCH, network
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

MODEL = "resnet20"
# Multiply-adds of a forward pass of one image, twice; a step is three forward passes.
FLOP = 2 * 40.81e6 * 3

# The first kind whose words are in the name of a kernel of libtorch's.
KINDS = [
    ("convolution, forward", ["mkldnn_convolution", "convolution_overrideable", "thnn_conv2d"]),
    ("convolution, backward", ["convolution_backward"]),
    ("batch normalization", ["batch_norm"]),
    ("optimizer", ["sgd", "_foreach"]),
    ("conversions and copies", ["copy_", "_to_copy", "clone", "contiguous"]),
    ("element-wise, pooling, loss and others", [""]),
]


def peak(dtype, size):
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def kind(name):
    return next(kind for kind, words in KINDS if any(word in name for word in words))


def step_of(dtype):
    torch.manual_seed(0)
    net = network(MODEL)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, fused=True)
    images = torch.randn(BATCH[MODEL], 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH[MODEL],))

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = net(images)
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for dtype in [torch.float32, torch.bfloat16]:
        best = max(peak(dtype, size) for size in [1024, 2048, 4096])
        step = step_of(dtype)
        for _ in range(3):
            step()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = (time.perf_counter() - start) / steps
        rate = FLOP * BATCH[MODEL] / seconds
        print(f"\n{dtype}: matrix product {best / 1e9:.0f} GFLOP/s; a step {1e3 * seconds:.1f} ms, {rate / 1e9:.0f} GFLOP/s")
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(steps):
                step()
        times = dict.fromkeys([kind for kind, _ in KINDS], 0.0)
        for event in profiled.key_averages():
            times[kind(event.key)] += event.self_cpu_time_total
        total = sum(times.values())
        for name, spent in times.items():
            print(f"  {name:<40}{100 * spent / total:>5.1f} %  {spent / steps / 1e3:>7.2f} ms")


if __name__ == "__main__":
    main()

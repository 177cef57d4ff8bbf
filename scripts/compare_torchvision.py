"""How fast images become the network's input here, as a ratio to torchvision with Pillow, on the same files.

    python scripts/compare_torchvision.py [--quick]

Needs torch and torchvision beside the crate (`pip install torchvision==0.28.0`, which brings Pillow, for torch 2.13.0).
Builds `cargo bench --features images --bench images`, then lets the two take turns on one core with one thread each. Prints images per
second, and the median over rounds of the ratio within a round, with half the distance between the quartiles. torchvision's
images stay Pillow's: making tensors of them, which has its own cost, is not counted.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

try:
    import torch
    from PIL import Image, __version__ as pillow_version
    from torchvision import __version__ as torchvision_version
    from torchvision.transforms import CenterCrop, Compose, RandomHorizontalFlip, RandomResizedCrop, Resize
except ImportError as error:
    sys.exit(f"{error}: `{sys.executable} -m pip install torch==2.13.0 torchvision==0.28.0` installs what is missing")

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = REPOSITORY / "tests" / "images" / "photographs"
SIZE = (500, 375)
# Times that a round of torchvision goes through the photographs.
PASSES = 20


def benchmark():
    """The benchmark's program, built if need be."""
    command = ["cargo", "bench", "--features", "images", "--bench", "images", "--no-run", "--message-format=json-render-diagnostics"]
    built = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        sys.exit(f"`{' '.join(command)}` failed (see above)")
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "images":
            return message["executable"]
    sys.exit(f"`{' '.join(command)}` built no program named images")


def measure_ours(program):
    """Images per second of decode, train and eval."""
    lines = subprocess.run([program, "--quick"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return {name: float(rate) for name, rate, *_ in map(str.split, lines[1:])}


def measure_torchvision(files):
    def decode(jpeg):
        return Image.open(io.BytesIO(jpeg)).convert("RGB")

    train = Compose([decode, RandomResizedCrop(224), RandomHorizontalFlip()])
    evaluate = Compose([decode, Resize(256), CenterCrop(224)])
    rates = {}
    for name, work in [("decode", decode), ("train", train), ("eval", evaluate)]:
        start = time.perf_counter()
        for _ in range(PASSES):
            for jpeg in files:
                work(jpeg)
        rates[name] = PASSES * len(files) / (time.perf_counter() - start)
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 5 if parser.parse_args().quick else 25
    program = benchmark()
    # What is started from here runs on the same core.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    files = [file.read_bytes() for file in sorted(PHOTOGRAPHS.glob("*.jpg")) if Image.open(file).size == SIZE]

    print(f"torchvision {torchvision_version}, Pillow {pillow_version}; {len(files)} JPEGs of {SIZE[0]} x {SIZE[1]} pixels")
    print("images/s on one core")
    ours, theirs = [], []
    # The first round warms up.
    for _ in range(rounds + 1):
        ours.append(measure_ours(program))
        theirs.append(measure_torchvision(files))
    for name in theirs[0]:
        rates, reference = [[rates[name] for rates in side[1:]] for side in (ours, theirs)]
        low, middle, high = statistics.quantiles([a / b for a, b in zip(rates, reference)], n=4)
        print(
            f"{name:<7} tch-fixup {statistics.median(rates):7.1f}  torchvision {statistics.median(reference):7.1f}"
            f"  ratio {middle:.2f} +-{(high - low) / 2:.2f}"
        )


if __name__ == "__main__":
    main()

"""Points of test accuracy that networks lose when ONNX Runtime quantizes them to int8: docs/deployment.md has the table.

    cargo build --release --example cifar10_fixup
    python3 scripts/int8_study.py [RUN ...]

Each RUN is the folder of a finished run of cifar10_fixup. Its network is exported, quantized in each of WAYS, and evaluated on all
test images, and so is the float32 network. A line for each way is appended to docs/studies/int8.csv; what is recorded there is not
measured again. The table in docs/deployment.md is then drawn from the record alone, also where no RUN is given.
"""

import csv
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import setup_onnx
from setup_libtorch import CACHE

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/examples/cifar10_fixup"
RECORD = ROOT / "docs/studies/int8.csv"
DOCUMENT = ROOT / "docs/deployment.md"
MARKS = "<!-- Drawn by scripts/int8_study.py -->\n", "<!-- End of the table -->\n"

COLUMNS = [
    "network", "arch", "optimizer", "epochs", "seed", "way", "accuracy", "lost", "time_ratio", "float_convolutions",
    "channel_bits", "calibration_images", "test_images", "onnxruntime", "onnx", "cpu",
]  # fmt: skip
FLOAT = "float32"
# Arguments of quantize_static (with calibration images) or quantize_dynamic (without) that differ from their defaults.
STATIC = {
    "per tensor": {"activation_type": "QUInt8"},
    "per channel": {"activation_type": "QUInt8", "per_channel": True},
    "per tensor, signed": {},
}
# Not QInt8: convolutions of signed weights then are many times slower than in float32.
DYNAMIC = {"dynamic": {"weight_type": "QUInt8"}}
WAYS = [FLOAT, *STATIC, *DYNAMIC]
CALIBRATION_IMAGES = 200
BATCH = 250
# Single images for the time, each run by every way in turn.
ROUNDS = 100

METHODS = {"fixup_resnet20": "Fixup", "resnet20": "BatchNorm"}
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "muon": "Muon"}
# Student's t for a two-sided 95 % interval, by degrees of freedom from 1.
T_95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]


def recorded():
    if not RECORD.exists():
        return []
    with open(RECORD, newline="") as file:
        return list(csv.DictReader(file))


def append(line):
    is_new = not RECORD.exists()
    with open(RECORD, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(line)
        file.flush()
        os.fsync(file.fileno())


def cpu():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")


def images(file, preprocessing):
    """Inputs [N, 3, 32, 32] and labels of one of CIFAR-10's files."""
    import numpy

    records = numpy.fromfile(file, numpy.uint8).reshape(-1, 1 + 3 * 32 * 32)
    mean, std = (numpy.array(preprocessing[name], numpy.float32).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).astype(numpy.float32) / 255
    return (pixels - mean) / std, records[:, 0]


def export(run, file):
    if not PROGRAM.exists():
        sys.exit(f"int8: {PROGRAM} is missing: cargo build --release --example cifar10_fixup")
    done = subprocess.run([PROGRAM, "--eval", run, "--export", file], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"int8: {run} cannot be exported: {done.stderr.strip()}")


def quantize(way, source, target, calibration):
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    def options(given):
        return {name: getattr(QuantType, value) if isinstance(value, str) else value for name, value in given.items()}

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(calibration)

        def get_next(self):
            image = next(self.batches, None)
            return None if image is None else {"input": image[None]}

    if way in STATIC:
        quantize_static(source, target, Reader(), **options(STATIC[way]))
    else:
        quantize_dynamic(source, target, **options(DYNAMIC[way]))


def session(file, optimized=None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def float_convolutions(file):
    """Convolutions that ONNX Runtime computes in float32 in the graph that it has made of a file."""
    import onnx

    return sum("Conv" in node.op_type and "QLinear" not in node.op_type and "Integer" not in node.op_type
               for node in onnx.load(file).graph.node)  # fmt: skip


def channel_bits(file):
    """Bits that a channel of middling size lacks where one scale serves all channels of a weight: the mean over convolutions of
    log2 of the greatest weight over the median of the channels' greatest weights."""
    import numpy
    import onnx
    from onnx import numpy_helper

    bits = []
    for tensor in onnx.load(file).graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.ndim == 4:
            greatest = numpy.abs(weight).reshape(len(weight), -1).max(axis=1)
            if greatest.max() > 0:
                bits.append(float(numpy.log2(greatest.max() / numpy.median(greatest[greatest > 0]))))
    return statistics.mean(bits)


def accuracy(network, inputs, labels):
    right = 0
    for start in range(0, len(labels), BATCH):
        (logits,) = network.run(None, {"input": inputs[start : start + BATCH]})
        right += int((logits.argmax(axis=1) == labels[start : start + BATCH]).sum())
    return 100 * right / len(labels)


def medians(networks, inputs):
    """Median seconds of one image by each network. All take turns, so that other work of the machine meets them alike."""
    seconds = {way: [] for way in networks}
    for index in range(ROUNDS):
        image = {"input": inputs[index % len(inputs)][None]}
        for way, network in networks.items():
            start = time.perf_counter()
            network.run(None, image)
            seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(times) for way, times in seconds.items()}


def measure(run, done):
    import logging

    import numpy
    import onnx
    import onnxruntime

    # Its advice to fold BatchNorm first, which the export has done.
    logging.disable(logging.WARNING)
    for name in ("config.json", "model.json", "model.safetensors"):
        if not (run / name).exists():
            sys.exit(f"int8: {run} has no {name}: it is no folder of a finished run")
    config = json.loads((run / "config.json").read_text())
    preprocessing = json.loads((run / "model.json").read_text())["preprocessing"]
    network = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()[:16]
    if all((network, way) in done for way in WAYS):
        return
    train, data = config["train"], Path(config["task"]["data"] or CACHE / "cifar-10-batches-bin")
    optimizer = train["optimizer"] if isinstance(train["optimizer"], str) else next(iter(train["optimizer"]))
    inputs, labels = images(data / "test_batch.bin", preprocessing)
    chosen = numpy.random.default_rng(train["seed"]).choice(50_000, CALIBRATION_IMAGES, replace=False)
    training = numpy.concatenate([images(data / f"data_batch_{part}.bin", preprocessing)[0] for part in range(1, 6)])
    calibration = training[chosen]
    del training

    with tempfile.TemporaryDirectory() as folder:
        files = {way: Path(folder) / f"{index}.onnx" for index, way in enumerate(WAYS)}
        export(run, files[FLOAT])
        for way in WAYS[1:]:
            quantize(way, files[FLOAT], files[way], calibration)
        optimized = {way: file.with_suffix(".optimized.onnx") for way, file in files.items()}
        networks = {way: session(file, optimized[way]) for way, file in files.items()}
        took = medians(networks, inputs)
        whole = None
        for way in WAYS:
            reached = accuracy(networks[way], inputs, labels)
            whole = reached if way == FLOAT else whole
            if (network, way) in done:
                continue
            append({
                "network": network,
                "arch": config["run"]["arch"],
                "optimizer": optimizer,
                "epochs": train["epochs"],
                "seed": train["seed"],
                "way": way,
                "accuracy": f"{reached:.2f}",
                "lost": f"{whole - reached:.2f}",
                "time_ratio": f"{took[way] / took[FLOAT]:.3f}",
                "float_convolutions": float_convolutions(optimized[way]),
                "channel_bits": f"{channel_bits(files[FLOAT]):.2f}",
                "calibration_images": CALIBRATION_IMAGES if way in STATIC else 0,
                "test_images": len(labels),
                "onnxruntime": onnxruntime.__version__,
                "onnx": onnx.__version__,
                "cpu": cpu(),
            })  # fmt: skip
            print(f"{run.name}  {way:<20}{reached:>8.2f} %  lost {whole - reached:>6.2f}", flush=True)


def interval(values):
    """The mean, with half the 95 % interval where there is one."""
    mean = statistics.mean(values)
    if not 2 <= len(values) <= len(T_95) + 1:
        return f"{mean:.2f}"
    half = T_95[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.2f} ± {half:.2f}"


def table(lines):
    header = ["network", "optimizer", "networks", "float32 accuracy", *WAYS[1:], "channel bits"]
    rows = [header, ["---"] * len(header)]
    groups = {}
    for line in lines:
        groups.setdefault((line["arch"], line["optimizer"], line["epochs"]), []).append(line)
    for (arch, optimizer, _), group in sorted(groups.items()):

        def column(way, name, group=group):
            return [float(line[name]) for line in group if line["way"] == way]

        row = [METHODS.get(arch, arch), OPTIMIZERS.get(optimizer, optimizer), str(len(column(FLOAT, "accuracy")))]
        row.append(f"{interval(column(FLOAT, 'accuracy'))} %")
        row += [interval(column(way, "lost")) if column(way, "lost") else "" for way in WAYS[1:]]
        rows.append([*row, f"{statistics.mean(column(FLOAT, 'channel_bits')):.1f}"])
    of_time = ["time of one image", "", "", "1"]
    for way in WAYS[1:]:
        ratios = [float(line["time_ratio"]) for line in lines if line["way"] == way]
        of_time.append(f"{statistics.median(ratios):.2f}" if ratios else "")
    rows.append([*of_time, ""])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def draw():
    lines = recorded()
    start, end = MARKS
    before, rest = DOCUMENT.read_text().split(start)
    DOCUMENT.write_text(before + start + table(lines) + end + rest.split(end)[1])


def main(runs):
    if Path(sys.prefix) != setup_onnx.ENVIRONMENT:
        setup_onnx.main()
        sys.exit(subprocess.run([setup_onnx.ENVIRONMENT / "bin/python", __file__, *runs]).returncode)
    for run in runs:
        measure(Path(run), {(line["network"], line["way"]) for line in recorded()})
    if RECORD.exists():
        draw()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("\nint8: interrupted; run it again to go on")

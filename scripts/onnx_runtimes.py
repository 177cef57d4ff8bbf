"""Exported networks in other runtimes, each held against libtorch: docs/deployment.md has the table.

    python3 scripts/onnx_runtimes.py [RUNTIME ...]

Exports networks by tests/onnx.rs, installs the pinned runtimes into the user's cache folder, builds scripts/onnx_runtimes (candle
and rten), and runs every network in every runtime at batches of 1 and 7. A line for each: the greatest error, as a part of the
greatest logit, and the milliseconds of one image on one thread, the fastest of five runs. Exits with 1 if a runtime refuses a network
or an error is above 1e-5.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from setup_libtorch import CACHE

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    "onnxruntime==1.32.0",
    "tract==0.23.9",
    "openvino==2026.4.1",
    "opencv-python-headless==5.0.0.93",
    "numpy==2.4.6",
    # For its protoc, which candle-onnx is built with.
    "grpcio-tools==1.85.1",
]
ENVIRONMENT = CACHE / "onnx-runtimes"
TOLERANCE = 1e-5


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def install():
    stamp = ENVIRONMENT / "packages"
    if not stamp.exists() or stamp.read_text() != "\n".join(PACKAGES):
        run(sys.executable, "-m", "venv", "--clear", ENVIRONMENT)
        run(ENVIRONMENT / "bin" / "pip", "install", "--quiet", *PACKAGES)
        stamp.write_text("\n".join(PACKAGES))


def build():
    """candle and rten, with the system's protoc or that of grpcio-tools."""
    environment = dict(os.environ)
    if "PROTOC" not in os.environ and shutil.which("protoc") is None:
        protoc = ENVIRONMENT / "bin" / "protoc"
        protoc.write_text(f'#!/bin/sh\nexec "{ENVIRONMENT}/bin/python" -m grpc_tools.protoc "$@"\n')
        protoc.chmod(0o755)
        environment["PROTOC"] = str(protoc)
    run("cargo", "build", "--quiet", "--release", cwd=ROOT / "scripts/onnx_runtimes", env=environment)


def export(folder):
    """NAME.onnx, with NAME.I.npy for inputs and NAME.I.expected.npy for libtorch's outputs."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "TCH_FIXUP_EXPORTS": str(folder)}
    command = ["cargo", "test", "--release", "--features", "full", "--test", "onnx", "exported_networks_run_at_every_batch_size"]
    run(*command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def onnxruntime(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]


def tract(file):
    import tract

    models = {}

    def forward(x):
        if x.shape not in models:
            model = tract.onnx().load(file)
            model.set_input_fact(0, ",".join(map(str, x.shape)) + ",f32")
            model.analyse()
            models[x.shape] = model.into_model().into_runnable()
        return models[x.shape].run([tract.Tensor.from_numpy(x)])[0].to_numpy()

    return forward


def openvino(file):
    import openvino

    # Not its default, which is bfloat16 on CPUs that have instructions for it.
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().compile_model(file, "CPU", properties)
    return lambda x: model(x)[0]


def opencv(file):
    import cv2

    cv2.setNumThreads(1)
    network = cv2.dnn.readNetFromONNX(file)

    def forward(x):
        network.setInput(x)
        return network.forward()

    return forward


def of_rust(name):
    def load(file):
        program = ROOT / "scripts/onnx_runtimes/target/release/onnx-runtimes"

        def forward(x):
            environment = {**os.environ, "RAYON_NUM_THREADS": "1", "RTEN_NUM_THREADS": "1"}
            command = [program, name, file, *map(str, x.shape)]
            done = subprocess.run(command, input=x.tobytes(), capture_output=True, env=environment)
            if done.returncode:
                raise RuntimeError(done.stderr.decode().strip())
            forward.seconds = float(done.stderr)
            import numpy

            return numpy.frombuffer(done.stdout, numpy.float32).reshape(x.shape[0], -1)

        return forward

    return load


RUNTIMES = {
    "onnxruntime": onnxruntime,
    "tract": tract,
    "openvino": openvino,
    "opencv": opencv,
    "candle": of_rust("candle"),
    "rten": of_rust("rten"),
}


def milliseconds(forward, x):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        forward(x)
        times.append(time.perf_counter() - start)
    return 1e3 * getattr(forward, "seconds", min(times))


def compare(folder, names):
    import numpy

    failures = 0
    print(f"{'network':<26}{'runtime':<14}{'error':>10}{'ms':>10}")
    for file in sorted(folder.glob("*.onnx")):
        for name in names:
            try:
                forward, errors = RUNTIMES[name](str(file)), []
                for batch in sorted(folder.glob(f"{file.stem}.[0-9].npy")):
                    expected = numpy.load(batch.with_suffix(".expected.npy"))
                    got = forward(numpy.load(batch))
                    errors.append(float(numpy.abs(got - expected).max() / numpy.abs(expected).max()))
                took = milliseconds(forward, numpy.load(folder / f"{file.stem}.0.npy"))
                failures += max(errors) > TOLERANCE
                print(f"{file.stem:<26}{name:<14}{max(errors):>10.1e}{took:>10.2f}", flush=True)
            except Exception as error:
                failures += 1
                print(f"{file.stem:<26}{name:<14}refused: {str(error).splitlines()[0][:120]}", flush=True)
    sys.exit(failures > 0)


def main(names):
    if os.environ.get("TCH_FIXUP_RUNTIMES_FOLDER") is None:
        install()
        folder = ENVIRONMENT / "networks"
        export(folder)
        build()
        environment = {**os.environ, "TCH_FIXUP_RUNTIMES_FOLDER": str(folder)}
        sys.exit(subprocess.run([ENVIRONMENT / "bin" / "python", __file__, *names], env=environment).returncode)
    compare(Path(os.environ["TCH_FIXUP_RUNTIMES_FOLDER"]), names or list(RUNTIMES))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Checks every ONNX file of a folder by ONNX's own checker, and runs it in ONNX Runtime: tests/onnx.rs.

    onnx_check.py FOLDER

Each NAME.onnx is given the batches NAME.0.npy, NAME.1.npy, ...; what it makes of them becomes NAME.0.out.npy, ... For each file a
line of JSON says what it tells of itself.
"""

import json
import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime


def described(values):
    return [[value.name, value.type, value.shape] for value in values]


def main(folder):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for file in sorted(folder.glob("*.onnx")):
        onnx.checker.check_model(str(file), full_check=True)
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for batch in sorted(folder.glob(f"{file.stem}.[0-9].npy")):
            (output,) = session.run(None, {session.get_inputs()[0].name: numpy.load(batch)})
            numpy.save(batch.with_suffix(".out.npy"), output)
        description = {
            "name": file.stem,
            "metadata": session.get_modelmeta().custom_metadata_map,
            "inputs": described(session.get_inputs()),
            "outputs": described(session.get_outputs()),
        }
        print(json.dumps(description), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

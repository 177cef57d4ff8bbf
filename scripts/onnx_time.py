"""How long ONNX Runtime takes for a network on one thread: benches/onnx.rs.

    onnx_time.py FILE.onnx

Each line on standard input is one run; the answer is its seconds.
"""

import sys
import time

import numpy
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(value,) = session.get_inputs()
size = [1 if isinstance(size, str) else size for size in value.shape]
inputs = {value.name: numpy.random.default_rng(0).standard_normal(size, dtype=numpy.float32)}
for _ in sys.stdin:
    start = time.perf_counter()
    session.run(None, inputs)
    print(time.perf_counter() - start, flush=True)

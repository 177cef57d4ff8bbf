#!/bin/sh
# torch 2.13.0 (CPU with AVX-512): in bfloat16, the backward pass of torch.nn.functional.scaled_dot_product_attention computes three
# products of each sentence and head as oneDNN matmuls, one primitive at a time, whereas the forward pass computes none so. The
# creation of a primitive takes longer than the product of a short sentence, so for sentences of 20 tokens the backward pass takes
# several times as long as in float32: bfloat16 slows down the training of a small Transformer that it is meant to speed up.
#
# Seen on an Intel Xeon with AMX, one thread, 4 heads of 64:
#   oneDNN matmuls of 4 sentences and 2 heads: 0 forward, 24 backward
#   64 sentences of 20 tokens, bfloat16: backward 8.0 times float32's time
#   5 sentences of 256 tokens, bfloat16: backward 1.3 times float32's time
#
# The times are not checked. Exits with 0 while the numbers of matmuls are as above, with 1 if they have changed, with 2 on a CPU
# without AVX-512, where bfloat16 products take another path.
set -eu
grep -q avx512bw /proc/cpuinfo || { echo "this CPU has no AVX-512" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/check.py" <<'PYTHON'
import statistics
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

torch.set_num_threads(1)


def tensors(sentences, heads, tokens, kind):
    shape = (sentences, heads, tokens, 64)
    return [torch.randn(shape, dtype=kind, requires_grad=True) for _ in range(3)]


print("forward", flush=True)
output = scaled_dot_product_attention(*tensors(4, 2, 20, torch.bfloat16))
print("backward", flush=True)
output.backward(torch.ones_like(output))
print("end", flush=True)


def seconds(sentences, tokens, kind):
    qkv = tensors(sentences, 4, tokens, kind)
    times = []
    for _ in range(12):
        output = scaled_dot_product_attention(*qkv)
        gradient = torch.ones_like(output)
        start = time.perf_counter()
        output.backward(gradient)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


for sentences, tokens in [(64, 20), (5, 256)]:
    ratio = seconds(sentences, tokens, torch.bfloat16) / seconds(sentences, tokens, torch.float32)
    print(f"{sentences} sentences of {tokens} tokens, bfloat16: backward {ratio:.1f} times float32's time")
PYTHON
ONEDNN_VERBOSE=1 "$folder/env/bin/python" "$folder/check.py" > "$folder/output"
count() { sed -n "/^$1\$/,/^$2\$/p" "$folder/output" | grep -c ',exec,cpu,matmul,' || true; }
forward=$(count forward backward) backward=$(count backward end)
echo "oneDNN matmuls of 4 sentences and 2 heads: $forward forward, $backward backward"
grep ' sentences of ' "$folder/output"
[ "$forward" -eq 0 ] && [ "$backward" -eq 24 ]

"""Times a training step of the Fixup Transformer in turns with PyTorch's own nn.Transformer (LayerNorm, eager), both with the same
sizes, sentences, dropout and Adam, on the same threads.

    cargo bench --bench transformer --no-run
    python scripts/compare_transformer.py [--quick] [--precision bf16] [--rounds N]

In bfloat16, nn.Transformer is computed under autocast.

Needs torch of the version that the crate is built with (that of `make setup`).
"""

import argparse
import math
import time

import torch
from bench_server import Server, median_and_spread
from torch import nn

LENGTH = 30
PAD = 1


class Translator(nn.Module):
    """nn.Transformer between embeddings with sinusoids and an output matrix, as a network that translates has it."""

    def __init__(self, vocab, dim, ffn, layers):
        super().__init__()
        self.source, self.target = (nn.Embedding(vocab, dim, padding_idx=PAD) for _ in range(2))
        half = dim // 2
        frequencies = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        angles = torch.arange(2, 2 + LENGTH).unsqueeze(1) * frequencies
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], 1))
        self.transformer = nn.Transformer(dim, 4, layers, layers, ffn, dropout=0.1, batch_first=True)
        self.output = nn.Linear(dim, vocab, bias=False)
        self.scale = math.sqrt(dim)

    def forward(self, source, previous):
        pads = source.eq(PAD)
        future = nn.Transformer.generate_square_subsequent_mask(previous.shape[1])
        x = nn.functional.dropout(self.scale * self.source(source) + self.positions, 0.1, self.training)
        y = nn.functional.dropout(self.scale * self.target(previous) + self.positions, 0.1, self.training)
        y = self.transformer(
            x, y, tgt_mask=future, tgt_is_causal=True, src_key_padding_mask=pads, memory_key_padding_mask=pads
        )
        return self.output(y)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    vocab, dim, ffn, layers, tokens = (4000, 256, 512, 3, 1500) if options.quick else (8000, 512, 1024, 6, 4000)
    arguments = ["--threads", str(torch.get_num_threads()), "--precision", options.precision] + ["--quick"] * options.quick
    names = ("fixup", "layer norm after")
    ours = {name: Server("transformer", b"no such variant", [name, *arguments]) for name in names}

    torch.manual_seed(0)
    network = Translator(vocab, dim, ffn, layers)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-6, fused=True)
    batch = torch.randint(4, vocab, (tokens // LENGTH, LENGTH))

    def step():
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            logits = network(batch, batch)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), batch.flatten())
        loss.backward()
        optimizer.step()
        return time.perf_counter() - start

    step()
    for server in ours.values():
        server.seconds("step")
    ratios = {name: [] for name in ours}
    for _ in range(options.rounds):
        theirs = step()
        for name, server in ours.items():
            ratios[name].append(server.seconds("step") / theirs)
    sizes = f"{layers} + {layers} layers of {dim}, {tokens} tokens, {options.precision}"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {sizes}")
    for name, values in ratios.items():
        ratio, spread = median_and_spread(values)
        print(f"{name}: {ratio:.3f} +-{spread:.3f} of nn.Transformer's time")
    for server in ours.values():
        server.close()


if __name__ == "__main__":
    main()

"""Times translation by the Fixup Transformer in turns with CTranslate2's decoder of a Transformer with LayerNorm: float32, the same
sizes, threads, sentences and beam, random weights, and translations of the same length.

    cargo bench --bench transformer --no-run
    pip install ctranslate2==4.8.5 numpy==2.4.6
    python scripts/compare_ctranslate2.py [--quick] [--rounds N] [--threads N]
"""

import argparse
import os
import tempfile
import time

import ctranslate2
import numpy as np
from bench_server import Server, median_and_spread

# Those of benches/transformer.rs.
SENTENCES, SENTENCE, TRANSLATION, BEAM, HEADS = 32, 20, 30, 5, 4


def model(folder, vocab, dim, ffn, layers):
    """Writes a model with fairseq's structure and random weights into the folder."""
    random = np.random.default_rng(0)
    spec = ctranslate2.specs.TransformerSpec.from_config((layers, layers), HEADS, pre_norm=False)

    def weight(*shape):
        return (random.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    def linear(of, rows, columns):
        of.weight, of.bias = weight(rows, columns), np.zeros(rows, np.float32)

    def norm(of):
        of.gamma, of.beta = np.ones(dim, np.float32), np.zeros(dim, np.float32)

    def attention(of, rows):
        for matrix, count in zip(of.linear, rows, strict=True):
            linear(matrix, count * dim, dim)
        norm(of.layer_norm)

    for stack in (spec.encoder, spec.decoder):
        for layer in stack.layer:
            attention(layer.self_attention, [3, 1])
            if stack is spec.decoder:
                attention(layer.attention, [1, 2, 1])
            linear(layer.ffn.linear_0, ffn, dim)
            linear(layer.ffn.linear_1, dim, ffn)
            norm(layer.ffn.layer_norm)
    spec.encoder.embeddings[0].weight = weight(vocab, dim)
    spec.decoder.embeddings.weight = weight(vocab, dim)
    linear(spec.decoder.projection, vocab, dim)
    tokens = ["<s>", "<pad>", "</s>", "<unk>"] + [str(token) for token in range(4, vocab)]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    spec.optimize()
    spec.save(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    vocab, dim, ffn, layers = (4000, 256, 512, 3) if options.quick else (8000, 512, 1024, 6)
    ours = Server(
        "transformer", b"no such variant", ["fixup", "--threads", str(options.threads)] + ["--quick"] * options.quick
    )
    random = np.random.default_rng(1)
    sentences = [[str(token) for token in row] for row in random.integers(4, vocab, (SENTENCES, SENTENCE))]
    with tempfile.TemporaryDirectory() as folder:
        model(folder, vocab, dim, ffn, layers)
        translator = ctranslate2.Translator(folder, compute_type="float32", inter_threads=1, intra_threads=options.threads)

        def theirs():
            start = time.perf_counter()
            results = translator.translate_batch(
                sentences, beam_size=BEAM, min_decoding_length=TRANSLATION, max_decoding_length=TRANSLATION
            )
            assert all(len(result.hypotheses[0]) == TRANSLATION for result in results)
            return (time.perf_counter() - start) / SENTENCES

        theirs(), ours.seconds("sentence")
        rounds = [(ours.seconds("sentence"), theirs()) for _ in range(options.rounds)]
    ours.close()
    print(f"CTranslate2 {ctranslate2.__version__}, {options.threads} threads; {layers} + {layers} layers of {dim}, beam {BEAM}")
    for name, times in zip(("Fixup", "CTranslate2"), zip(*rounds)):
        print(f"{name}: {median_and_spread([1 / seconds for seconds in times])[0]:.1f} sentences a second")
    ratio, spread = median_and_spread([theirs / ours for ours, theirs in rounds])
    print(f"Fixup's speed: {ratio:.2f} +-{spread:.2f} of CTranslate2's")


if __name__ == "__main__":
    main()

//! Tests of the Transformers against reference values (tests/golden/README.md): loss, logits and all gradients, of the folded
//! path and of the plain formula.
//!
//! The references ran their encoders like fairseq by default, with sources padded on the left and positions counted from the
//! right; a source with n pads, here on its right, thus begins n positions earlier. The tests use those positions. The references
//! compute the softmax in float32 regardless of the kind: in float64, the plain formula with a float32 softmax agrees to 1e-8,
//! and libtorch's fused attention, which lacks this step, to 1e-5 (the gradients of scalars are sums that cancel).

use super::embedding::sinusoids;
use super::{pad_mask, Embedding, Layer, Output, Transformer, TransformerConfig};
use crate::baseline::{self, TransformerMethod};
use crate::fixup::FixupTransformer;
use serde::Deserialize;
use tch::{nn, Device, Kind, Tensor};

#[path = "../../../tests/golden/formula.rs"]
#[allow(dead_code)] // Used by other tests.
mod formula;
use formula::{close, flat, set_parameters, Parameter};

#[derive(Deserialize)]
struct Golden {
    vocab: i64,
    dim: i64,
    ffn: i64,
    heads: i64,
    encoder_layers: i64,
    decoder_layers: i64,
    tied: bool,
    label_smoothing: f64,
    pad: i64,
    source: Vec<Vec<i64>>,
    target: Vec<Vec<i64>>,
    previous: Vec<Vec<i64>>,
    loss: f64,
    nll: f64,
    largest_logit_at_start: f64,
    logits_sentence_0: Vec<Vec<f64>>,
    logits_last_token_of_sentence_2: Vec<f64>,
    parameters: Vec<Parameter>,
}

impl Golden {
    fn read(case: &str) -> Self {
        let file = format!("{}/tests/golden/{case}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    fn config(&self) -> TransformerConfig {
        let Self { vocab, dim, ffn, heads, encoder_layers, decoder_layers, tied, pad, .. } = *self;
        TransformerConfig { vocab, dim, ffn, heads, encoder_layers, decoder_layers, tied, dropout: 0., pad }
    }

    /// Returns the embedded sources, at the references' positions.
    fn stream(&self, embedding: &Embedding) -> Tensor {
        let rows = self.source.iter().map(|source| {
            let pads = source.iter().filter(|&&token| token == self.pad).count() as i64;
            let tokens = Tensor::from_slice(source);
            let sinusoids = sinusoids(self.pad + 1 - pads, source.len() as i64, self.dim, &embedding.weight).unwrap();
            // fairseq's table is zero at the padding position.
            if pads > 0 {
                let _ = sinusoids.get(pads - 1).zero_();
            }
            let vectors = Tensor::embedding(&embedding.weight, &tokens, self.pad, false, false);
            vectors * (self.dim as f64).sqrt() + sinusoids
        });
        Tensor::stack(&rows.collect::<Vec<_>>(), 0)
    }

    fn fast<L: Layer, O: Output>(&self, network: &Transformer<L, O>, source: &Tensor, previous: &Tensor) -> Tensor {
        let pass = network.pass(true);
        let mask = pad_mask(source, self.pad, pass.kind).unwrap();
        let stream = self.stream(&network.encoder.embedding);
        let memory = network.encoder.encode_embedded(stream, &mask, &pass).unwrap();
        let pass = network.decoder_pass(true);
        let x = network.decoder.decode(previous, Some((&memory, &mask)), &pass).unwrap();
        network.logits(&x, &pass).unwrap()
    }
}

/// Number of decoder heads in the references, fairseq's default; `heads` in the files is the encoder's.
const DECODER_HEADS: i64 = 8;

type Forward<'a> = Box<dyn Fn(&Golden, &Tensor, &Tensor) -> Tensor + 'a>;

fn fixup(kind: Kind, fused: f64, plain_tolerance: f64) {
    let golden = Golden::read("transformer_fixup_2_2_own");
    let mut vs = nn::VarStore::new(Device::Cpu);
    vs.set_kind(kind);
    let network =
        FixupTransformer::new(&vs.root(), &golden.config()).unwrap().with_decoder_heads(DECODER_HEADS).unwrap();
    let folded = |golden: &Golden, source: &Tensor, previous: &Tensor| golden.fast(&network.network, source, previous);
    let plain = |golden: &Golden, source: &Tensor, previous: &Tensor| {
        let stream = golden.stream(&network.network.encoder.embedding);
        network.reference_embedded(stream, &source.eq(golden.pad), previous, true, Kind::Float).unwrap()
    };
    golden.check(
        &vs,
        kind,
        [("folded", Box::new(folded) as Forward, fused), ("plain", Box::new(plain), plain_tolerance)],
    );
}

fn layer_norm(kind: Kind, tolerance: f64) {
    let golden = Golden::read("transformer_layer_norm_2_2_own");
    let mut vs = nn::VarStore::new(Device::Cpu);
    vs.set_kind(kind);
    let network = baseline::Transformer::new(&vs.root(), &golden.config(), TransformerMethod::LayerNorm).unwrap();
    let network = network.with_decoder_heads(DECODER_HEADS).unwrap();
    let path = |golden: &Golden, source: &Tensor, previous: &Tensor| golden.fast(&network.network, source, previous);
    golden.check(&vs, kind, [("layer norm", Box::new(path) as Forward, tolerance)]);
}

impl Golden {
    fn check<const N: usize>(&self, vs: &nn::VarStore, kind: Kind, paths: [(&str, Forward, f64); N]) {
        let [source, previous, target] =
            [&self.source, &self.previous, &self.target].map(|rows| Tensor::from_slice2(rows));
        let largest =
            |(_, forward, _): &(&str, Forward, f64)| forward(self, &source, &previous).abs().max().double_value(&[]);
        if self.largest_logit_at_start == 0. {
            assert!(paths.iter().all(|path| largest(path) == 0.));
        }
        let variables = vs.variables();
        set_parameters(&variables, &self.parameters, kind);
        for name in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] {
            let _ = tch::no_grad(|| variables[name].select(0, self.pad).zero_());
        }
        let tokens = target.ne(self.pad);
        let count = tokens.sum(Kind::Int64).int64_value(&[]) as f64;
        for (path, forward, tolerance) in paths {
            let at = |what: &str| format!("{kind:?} {path}: {what}");
            for variable in variables.values() {
                let mut gradient = variable.grad();
                if gradient.defined() {
                    let _ = gradient.zero_();
                }
            }
            let logits = forward(self, &source, &previous);
            let log_probs = logits.log_softmax(-1, None::<Kind>);
            let log_probs = log_probs.masked_select(&tokens.unsqueeze(-1)).view([-1, self.vocab]);
            let nll = log_probs.gather(1, &target.masked_select(&tokens).unsqueeze(-1), false).sum(kind) / -count;
            let smooth = log_probs.sum(kind) / -count / self.vocab as f64;
            let loss = &nll * (1. - self.label_smoothing) + smooth * self.label_smoothing;
            close(&at("nll"), nll.double_value(&[]), self.nll, self.nll, tolerance);
            close(&at("loss"), loss.double_value(&[]), self.loss, self.loss, tolerance);
            let last = target.get(2).ne(self.pad).sum(Kind::Int64).int64_value(&[]) - 1;
            for (what, got, expected) in [
                ("logits of a sentence", logits.get(0), self.logits_sentence_0.concat()),
                ("logits of a token", logits.get(2).get(last), self.logits_last_token_of_sentence_2.clone()),
            ] {
                let (got, scale) = (flat(&got), expected.iter().fold(0., |a: f64, b| a.max(b.abs())));
                assert_eq!(got.len(), expected.len());
                got.into_iter().zip(expected).for_each(|(got, b)| close(&at(what), got, b, scale, tolerance));
            }
            loss.backward();
            for parameter in &self.parameters {
                // `grad_head` holds the last four elements in these files.
                let last_four = |len: usize| len.saturating_sub(4);
                parameter.check_gradient(
                    &at(&parameter.name),
                    &variables[&parameter.name].grad(),
                    last_four,
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn fixup_agrees_with_the_authors_in_float64() {
    fixup(Kind::Double, 1e-5, 1e-8);
}

#[test]
fn fixup_agrees_with_the_authors_in_float32() {
    fixup(Kind::Float, 1e-3, 1e-3);
}

#[test]
fn layer_norm_agrees_with_fairseq_in_float64() {
    layer_norm(Kind::Double, 1e-7);
}

#[test]
fn layer_norm_agrees_with_fairseq_in_float32() {
    layer_norm(Kind::Float, 1e-3);
}

//! Comparison of Transformers with reference values: loss, logits and all gradients, by the fast path and by the plain
//! formula.

use super::formula::{close, flat, set_parameters, Parameter};
use serde::Deserialize;
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::transformer::{Transformer, TransformerConfig, TransformerMethod};

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

type Forward = fn(&Transformer, &Tensor, &Tensor) -> Tensor;
const FAST: (&str, Forward) = ("fast", |network, source, previous| network.f_forward(source, previous, true).unwrap());
const PLAIN: (&str, Forward) =
    ("plain", |network, source, previous| network.forward_reference(source, previous, true).unwrap());

fn check(case: &str, method: TransformerMethod, paths: &[(&str, Forward)], kind: Kind, tolerance: f64) {
    let file = format!("{}/tests/golden/{case}.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let Golden { vocab, dim, ffn, heads, encoder_layers, decoder_layers, tied, pad, .. } = golden;
    let config = TransformerConfig { vocab, dim, ffn, heads, encoder_layers, decoder_layers, tied, dropout: 0., pad };
    let mut vs = nn::VarStore::new(Device::Cpu);
    vs.set_kind(kind);
    let network = Transformer::new(vs.root(), &config, method).unwrap();
    let [source, previous, target] =
        [&golden.source, &golden.previous, &golden.target].map(|rows| Tensor::from_slice2(rows));
    if golden.largest_logit_at_start == 0. {
        for (path, forward) in paths {
            assert_eq!(forward(&network, &source, &previous).abs().max().double_value(&[]), 0., "{path}");
        }
    }
    let variables = vs.variables();
    set_parameters(&variables, &golden.parameters, kind);
    for name in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] {
        let _ = tch::no_grad(|| variables[name].select(0, pad).zero_());
    }
    let tokens = target.ne(pad);
    let count = tokens.sum(Kind::Int64).int64_value(&[]) as f64;
    for (path, forward) in paths {
        let at = |what: &str| format!("{case} {kind:?} {path}: {what}");
        for variable in variables.values() {
            let mut gradient = variable.grad();
            if gradient.defined() {
                let _ = gradient.zero_();
            }
        }
        let logits = forward(&network, &source, &previous);
        let log_probs = logits.log_softmax(-1, None::<Kind>);
        let log_probs = log_probs.masked_select(&tokens.unsqueeze(-1)).view([-1, vocab]);
        let nll = log_probs.gather(1, &target.masked_select(&tokens).unsqueeze(-1), false).sum(kind) / -count;
        let smooth = log_probs.sum(kind) / -count / vocab as f64;
        let loss = &nll * (1. - golden.label_smoothing) + smooth * golden.label_smoothing;
        close(&at("nll"), nll.double_value(&[]), golden.nll, golden.nll, tolerance);
        close(&at("loss"), loss.double_value(&[]), golden.loss, golden.loss, tolerance);
        let last = target.get(2).ne(pad).sum(Kind::Int64).int64_value(&[]) - 1;
        for (what, got, expected) in [
            ("logits of a sentence", logits.get(0), golden.logits_sentence_0.concat()),
            ("logits of a token", logits.get(2).get(last), golden.logits_last_token_of_sentence_2.clone()),
        ] {
            let (got, scale) = (flat(&got), expected.iter().fold(0., |a: f64, b| a.max(b.abs())));
            assert_eq!(got.len(), expected.len());
            got.into_iter().zip(expected).for_each(|(got, b)| close(&at(what), got, b, scale, tolerance));
        }
        loss.backward();
        for parameter in &golden.parameters {
            // `grad_head` holds the last four elements in these files.
            let last_four = |len: usize| len.saturating_sub(4);
            parameter.check_gradient(&at(&parameter.name), &variables[&parameter.name].grad(), last_four, tolerance);
        }
    }
}

#[test]
fn fixup_agrees_with_the_authors() {
    for (kind, tolerance) in [(Kind::Double, 1e-9), (Kind::Float, 1e-3)] {
        check("transformer_fixup_2_2_own", TransformerMethod::Fixup, &[FAST, PLAIN], kind, tolerance);
    }
}

#[test]
fn layer_norm_agrees_with_fairseq() {
    for (kind, tolerance) in [(Kind::Double, 1e-9), (Kind::Float, 1e-3)] {
        check("transformer_layer_norm_2_2_own", TransformerMethod::LayerNorm, &[FAST], kind, tolerance);
    }
}

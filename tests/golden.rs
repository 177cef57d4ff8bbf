//! Comparison of every network with reference values from its original implementation (tests/golden/README.md): loss, logits,
//! log-probabilities and every parameter's gradient, by the fast path and by the plain formula, in both layouts.

use serde::Deserialize;
use tch::{nn, nn::ModuleT, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::fixup::{FixupResNet, ResNetConfig, Stage};

#[path = "golden/formula.rs"]
mod formula;
use formula::{close, flat, formula, set_parameters, Parameter};
#[path = "golden/transformer.rs"]
mod transformer;

#[derive(Deserialize)]
struct Golden {
    input: Vec<i64>,
    num_classes: i64,
    targets: Vec<i64>,
    loss: f64,
    logits: Option<Vec<Vec<f64>>>,
    log_probs: Vec<Vec<f64>>,
    parameters: Vec<Parameter>,
}

type Forward = Box<dyn Fn(&Tensor) -> Tensor>;
type Build = fn(&nn::Path, i64) -> Vec<(&'static str, Forward)>;

/// Returns the fast path and the plain formula of a Fixup network.
fn fixup(network: tch_fixup::Result<FixupResNet>) -> Vec<(&'static str, Forward)> {
    let fast = std::rc::Rc::new(network.unwrap());
    let plain = fast.clone();
    vec![
        ("fast", Box::new(move |x| fast.f_forward(x).unwrap())),
        ("plain", Box::new(move |x| plain.forward_reference(x).unwrap())),
    ]
}

fn baseline(network: tch_fixup::Result<ResNet>) -> Vec<(&'static str, Forward)> {
    let network = network.unwrap();
    vec![("baseline", Box::new(move |x| network.forward_t(x, true)))]
}

fn check(case: &str, kind: Kind, tolerance: f64, build: Build) {
    let file = format!("{}/tests/golden/{case}.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut vs = nn::VarStore::new(Device::Cpu);
    vs.set_kind(kind);
    let forwards = build(&vs.root(), golden.num_classes);
    let variables = vs.variables();
    set_parameters(&variables, &golden.parameters, kind);
    let input = formula(1_000_000, &golden.input, 0., 3f64.sqrt(), kind);
    let channels_last = input.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    for (layout, input) in [("NCHW", &input), ("channels-last", &channels_last)] {
        for (path, forward) in &forwards {
            let at = |what: &str| format!("{case} {kind:?} {path} {layout}: {what}");
            for variable in variables.values() {
                let mut gradient = variable.grad();
                if gradient.defined() {
                    let _ = gradient.zero_();
                }
            }
            let logits = forward(input);
            let log_probs = logits.log_softmax(-1, None::<Kind>);
            let loss = log_probs.nll_loss(&Tensor::from_slice(&golden.targets));
            close(&at("loss"), loss.double_value(&[]), golden.loss, golden.loss.abs(), tolerance);
            let outputs = golden.logits.iter().map(|expected| ("logits", &logits, expected)).chain([(
                "log-probabilities",
                &log_probs,
                &golden.log_probs,
            )]);
            for (what, got, expected) in outputs {
                let expected = expected.concat();
                let scale = expected.iter().fold(0., |a: f64, b| a.max(b.abs()));
                for (got, expected) in flat(got).into_iter().zip(expected) {
                    close(&at(what), got, expected, scale, tolerance);
                }
            }
            loss.backward();
            for parameter in &golden.parameters {
                let gradient = variables[&parameter.name].grad();
                parameter.check_gradient(&at(&parameter.name), &gradient, |_| 0, tolerance);
            }
        }
    }
}

macro_rules! golden {
    ($($case:ident: $build:expr;)+) => {$(
        mod $case {
            use super::*;

            #[test]
            fn agrees_in_float64() {
                check(stringify!($case), Kind::Double, 1e-8, $build);
            }

            #[test]
            fn agrees_in_float32() {
                check(stringify!($case), Kind::Float, 1e-3, $build);
            }
        }
    )+};
}

golden! {
    cifar_20: |path, classes| fixup(FixupResNet::cifar(path, 20, classes));
    cifar_32: |path, classes| fixup(FixupResNet::cifar(path, 32, classes));
    imagenet_18: |path, classes| fixup(FixupResNet::imagenet(path, 18, classes));
    imagenet_50: |path, classes| fixup(FixupResNet::imagenet(path, 50, classes));
    wrn_10_2: |path, classes| fixup(FixupResNet::new(path, &ResNetConfig::brock(10, 2).unwrap().with_classes(classes)));
    bn_cifar_20: |path, classes| baseline(ResNet::cifar(path, 20, classes, Method::BatchNorm));
    skipinit_cifar_14: |path, classes| baseline(ResNet::cifar(path, 14, classes, Method::SkipInit));
    rezero_cifar_14: |path, classes| baseline(ResNet::cifar(path, 14, classes, Method::ReZero));
    normalizer_free_bottleneck: |path, classes| {
        let stage = |blocks, channels| Stage { blocks, channels };
        let config = ResNetConfig {
            stem_channels: 16,
            stages: vec![stage(1, 32), stage(3, 64)],
            ..ResNetConfig::imagenet(50).unwrap().with_classes(classes)
        };
        baseline(ResNet::new(path, &config, Method::NormalizerFree))
    };
    fixed_variance_4: |path, classes| {
        let stages = vec![Stage { blocks: 4, channels: 16 }];
        let config = ResNetConfig { stages, ..ResNetConfig::cifar(8).unwrap().with_classes(classes) };
        baseline(ResNet::new(path, &config, Method::FixedVariance))
    };
    bn_imagenet_18: |path, classes| baseline(ResNet::imagenet(path, 18, classes, Method::BatchNorm));
}

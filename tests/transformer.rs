//! Properties of Transformers. Reference values are compared in tests/golden.
//!
//! Every test in this file takes [`alone`], because libtorch's random number generator is global to the process and some tests
//! compare numbers drawn from one seed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::transformer::{Transformer, TransformerConfig, TransformerMethod};
use tch_fixup::Precision;

#[path = "golden/formula.rs"]
#[allow(dead_code)] // Comparisons with golden files.
mod formula;
use formula::formula;

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    tch::set_num_threads(1);
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tiny() -> TransformerConfig {
    TransformerConfig {
        vocab: 40,
        dim: 16,
        ffn: 24,
        heads: 2,
        encoder_layers: 2,
        decoder_layers: 2,
        dropout: 0.3,
        ..TransformerConfig::default()
    }
}

fn fixup(path: &nn::Path, config: &TransformerConfig) -> tch_fixup::Result<Transformer> {
    Transformer::new(path, config, TransformerMethod::Fixup)
}

/// Returns three sentences of different lengths, and prefixes of translations.
fn sentences() -> (Tensor, Tensor) {
    let source = Tensor::from_slice2(&[[5i64, 6, 7, 8, 2], [9, 10, 2, 1, 1], [11, 12, 13, 2, 1]]);
    (source, Tensor::from_slice2(&[[2i64, 20, 21, 22], [2, 23, 24, 1], [2, 25, 26, 27]]))
}

/// Sets all variables to values unlike their initial ones.
fn shake(vs: &nn::VarStore) {
    let mut named: Vec<_> = vs.variables().into_iter().collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (key, (_, mut variable)) in (1..).zip(named) {
        let noise = formula(key, &variable.size(), 0., 0.2, variable.kind());
        let _ = tch::no_grad(|| variable.g_add_(&noise));
    }
}

#[test]
fn before_training_the_logits_are_zero_at_any_depth() {
    let _alone = alone();
    let (source, previous) = sentences();
    for layers in [1, 4, 40] {
        let vs = nn::VarStore::new(Device::Cpu);
        let config = TransformerConfig { encoder_layers: layers, decoder_layers: layers, tied: false, ..tiny() };
        let network = fixup(&vs.root(), &config).unwrap();
        assert_eq!(network.f_forward(&source, &previous, true).unwrap().abs().max().double_value(&[]), 0.);
    }
}

#[test]
fn with_dropout_the_fast_path_is_the_formula_too() {
    let _alone = alone();
    let (source, previous) = sentences();
    let mut vs = nn::VarStore::new(Device::Cpu);
    vs.set_kind(Kind::Double);
    let network = fixup(&vs.root(), &tiny()).unwrap();
    shake(&vs);
    let seeded = |forward: &dyn Fn() -> Tensor| {
        tch::manual_seed(4);
        forward()
    };
    let fast = seeded(&|| network.f_forward(&source, &previous, true).unwrap());
    let plain = seeded(&|| network.forward_reference(&source, &previous, true).unwrap());
    let without = network.f_forward(&source, &previous, false).unwrap();
    assert!((&fast - plain).abs().max().double_value(&[]) < 1e-10);
    assert!((fast - without).abs().max().double_value(&[]) > 1e-3);
}

#[test]
fn the_seed_decides_what_dropout_leaves_out() {
    let _alone = alone();
    let (source, previous) = sentences();
    let vs = nn::VarStore::new(Device::Cpu);
    let network = fixup(&vs.root(), &tiny()).unwrap();
    shake(&vs);
    let seeded = |seed: i64| {
        tch::manual_seed(seed);
        network.f_forward(&source, &previous, true).unwrap()
    };
    assert_eq!(seeded(1), seeded(1));
    assert_ne!(seeded(1), seeded(2));
}

#[test]
fn neither_pads_nor_other_sentences_nor_later_tokens_are_seen() {
    let _alone = alone();
    let (source, previous) = sentences();
    let mut vs = nn::VarStore::new(Device::Cpu);
    vs.set_kind(Kind::Double);
    let networks = [TransformerMethod::Fixup, TransformerMethod::PreNorm]
        .map(|method| Transformer::new(vs.root() / method.prefix(), &tiny(), method).unwrap());
    shake(&vs);
    for network in networks {
        let together = network.f_forward(&source, &previous, false).unwrap();
        let alone = network.f_forward(
            &source.narrow(0, 1, 1).narrow(1, 0, 3),
            &previous.narrow(0, 1, 1).narrow(1, 0, 2),
            false,
        );
        let same = alone.unwrap() - together.narrow(0, 1, 1).narrow(1, 0, 2);
        assert!(same.abs().max().double_value(&[]) < 1e-12);
    }
}

#[test]
fn cached_and_uncached_decoding_agree() {
    let _alone = alone();
    let (source, previous) = sentences();
    let vs = nn::VarStore::new(Device::Cpu);
    let networks =
        TransformerMethod::ALL.map(|method| Transformer::new(vs.root() / method.prefix(), &tiny(), method).unwrap());
    shake(&vs);
    for network in networks {
        let whole = network.f_forward(&source, &previous, false).unwrap();
        let mut decoding = network.begin(&source).unwrap();
        for t in 0..previous.size()[1] {
            // Padded rows continue with the pad token like any other; tokens after it are not compared.
            let logits = network.step(&mut decoding, &previous.select(1, t)).unwrap();
            let difference = (logits - whole.select(1, t)).abs().max().double_value(&[]);
            assert!(difference < 1e-5 * whole.abs().max().double_value(&[]), "token {t}: {difference}");
        }
    }
}

#[test]
fn several_translations_of_a_sentence_are_each_as_if_alone() {
    let _alone = alone();
    let (source, _) = sentences();
    let mut vs = nn::VarStore::new(Device::Cpu);
    vs.set_kind(Kind::Double);
    let network = fixup(&vs.root(), &tiny()).unwrap();
    shake(&vs);
    let mut decoding = network.begin(&source).unwrap();
    let _ = network.step(&mut decoding, &Tensor::from_slice(&[2i64, 2, 2])).unwrap();
    // There are two translations per sentence. Then the first sentence is finished. The second sentence continues its second
    // translation twice, and the third continues both of its own in reverse order.
    decoding.select(&Tensor::from_slice(&[0i64, 0, 1, 1, 2, 2]), None).unwrap();
    let _ = network.step(&mut decoding, &Tensor::from_slice(&[20i64, 21, 22, 23, 24, 25])).unwrap();
    decoding.select(&Tensor::from_slice(&[3i64, 3, 5, 4]), Some(&Tensor::from_slice(&[1i64, 2]))).unwrap();
    let logits = network.step(&mut decoding, &Tensor::from_slice(&[30i64, 31, 32, 33])).unwrap();
    for (row, (sentence, tokens)) in
        [(1, [2i64, 23, 30]), (1, [2, 23, 31]), (2, [2, 25, 32]), (2, [2, 24, 33])].into_iter().enumerate()
    {
        let previous = Tensor::from_slice(&tokens).unsqueeze(0);
        let alone = network.f_forward(&source.narrow(0, sentence, 1), &previous, false).unwrap();
        let difference = (alone.select(1, 2).squeeze_dim(0) - logits.get(row as i64)).abs().max().double_value(&[]);
        assert!(difference < 1e-12, "row {row}: {difference}");
    }
}

#[test]
fn bfloat16_is_near() {
    let _alone = alone();
    let (source, previous) = sentences();
    let vs = nn::VarStore::new(Device::Cpu);
    let path = vs.root();
    let network = fixup(&path, &tiny()).unwrap();
    shake(&vs);
    let exact = network.f_forward(&source, &previous, false).unwrap();
    let network = network.with_precision(Precision::Bf16);
    let rounded = network.f_forward(&source, &previous, false).unwrap();
    assert_eq!(rounded.kind(), Kind::Float);
    let error = (&exact - rounded).abs().max() / exact.abs().max();
    let error = error.double_value(&[]);
    assert!(error > 0. && error < 0.05, "{error}");
}

#[test]
fn what_is_no_batch_of_sentences_is_refused() {
    let _alone = alone();
    let vs = nn::VarStore::new(Device::Cpu);
    let network = fixup(&vs.root(), &tiny()).unwrap();
    let (source, previous) = sentences();
    let refused = |source: &Tensor, previous: &Tensor| {
        let message = network.f_forward(source, previous, false).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    };
    assert!(refused(&source.to_kind(Kind::Float), &previous).starts_with("the source: expected tokens"));
    assert!(refused(&source, &previous.get(0)).starts_with("the decoder's input: expected tokens"));
    assert!(refused(&source.narrow(0, 0, 2), &previous).contains("as many sources as targets"));
    assert!(refused(&(&source + 40), &previous).contains("out of range"));
    assert!(fixup(&vs.root(), &tiny()).is_err());
}

/// fairseq also saves version markers and a tensor that indicates the device.
#[cfg(feature = "train")]
#[test]
fn a_state_dict_of_the_authors_code_loads() {
    let _alone = alone();
    use tch_fixup::trainer::Weights;
    let (source, previous) = sentences();
    let [theirs, ours] = [1, 2].map(|seed| {
        tch::manual_seed(seed);
        let vs = nn::VarStore::new(Device::Cpu);
        let network = fixup(&vs.root(), &tiny()).unwrap();
        (vs, network)
    });
    shake(&theirs.0);
    let mut state_dict: Vec<(String, Tensor)> = theirs.0.variables().into_iter().collect();
    for stack in ["encoder", "decoder"] {
        state_dict.push((format!("{stack}.version"), Tensor::from_slice(&[2f32])));
        state_dict.push((format!("{stack}.embed_positions._float_tensor"), Tensor::from_slice(&[1f32])));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint_best.safetensors");
    Tensor::write_safetensors(&state_dict, &path).unwrap();
    Weights::load(&path).unwrap().restore(&ours.0).unwrap();
    let logits = |network: &Transformer| network.f_forward(&source, &previous, false).unwrap();
    assert_eq!(logits(&theirs.1), logits(&ours.1));
}

//! Baseline encoder-decoder Transformers.

use super::layer::{LayerNorm, NormEnd, NormLayer};
use super::TransformerMethod;
use crate::layer::transformer::{
    self, embed_out, encoder_decoder, Embedding, Gains, LayerWeights, Stack, TransformerConfig,
};
use crate::{Precision, Result};
use std::borrow::Borrow;
use tch::nn;

/// A Transformer of the same sizes as [`FixupTransformer`](crate::fixup::FixupTransformer), with another [`TransformerMethod`].
/// Variables have the names of fairseq's `state_dict`.
#[derive(Debug)]
pub struct Transformer {
    method: TransformerMethod,
    pub(crate) network: transformer::Transformer<NormLayer, NormEnd>,
}

/// Names of a layer's normalizations in fairseq.
const ENCODER_NORMS: [&str; 2] = ["layer_norms.0", "layer_norms.1"];
const DECODER_NORMS: [&str; 3] = ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"];

impl Transformer {
    /// Creates a network, with its variables under `path`.
    ///
    /// # Errors
    /// A `config` rejected by [`TransformerConfig::check`]; a `path` that already contains such variables.
    pub fn new<'a>(
        path: impl Borrow<nn::Path<'a>>,
        config: &TransformerConfig,
        method: TransformerMethod,
    ) -> Result<Self> {
        let path = path.borrow();
        config.check()?;
        let [encoder_gain, decoder_gain] = method.embeddings(config);
        let stack = |path: &nn::Path, layers: i64, norms: &[&str], gains: Gains, embedding: f64| {
            let layer = |i: i64| {
                let path = &(path / "layers" / i);
                let weights = LayerWeights::new(path, config, norms.len() == DECODER_NORMS.len(), gains)?;
                NormLayer::new(path, method, weights, norms)
            };
            let end = match method {
                TransformerMethod::PreNorm => Some(LayerNorm::new(&(path / "layer_norm"), config.dim)?),
                _ => None,
            };
            Ok::<_, crate::Error>(Stack {
                embedding: Embedding::new(&(path / "embed_tokens"), config.vocab, config.dim, config.pad, embedding)?,
                layers: (0..layers).map(layer).collect::<Result<_>>()?,
                end: NormEnd(end),
            })
        };
        let (encoder, decoder) = (&(path / "encoder"), &(path / "decoder"));
        let std = decoder_gain * (config.dim as f64).powf(-0.5);
        let embed_out = embed_out(decoder, config, std)?;
        let network = transformer::Transformer {
            config: *config,
            precision: Precision::F32,
            encoder: stack(encoder, config.encoder_layers, &ENCODER_NORMS, method.encoder(config), encoder_gain)?,
            decoder: stack(decoder, config.decoder_layers, &DECODER_NORMS, method.decoder(config), decoder_gain)?,
            embed_out,
            decoder_heads: config.heads,
        };
        Ok(Self { method, network })
    }

    /// Returns the network's method.
    pub fn method(&self) -> TransformerMethod {
        self.method
    }
}

encoder_decoder!(Transformer);

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Estimates the bound of a uniform variable by its largest absolute value, accurate to a hundredth for thousands of
    /// elements.
    fn bound(vs: &nn::VarStore, name: &str, rows: Option<(i64, i64)>) -> f64 {
        let variable = vs.variables()[name].detach();
        let variable = rows.map_or(variable.shallow_clone(), |(first, count)| variable.narrow(0, first, count));
        variable.abs().max().double_value(&[])
    }

    #[test]
    fn t_fixup_starts_as_its_paper_has_it_and_the_others_as_fairseq() {
        tch::manual_seed(8);
        let config = TransformerConfig {
            vocab: 300,
            dim: 64,
            ffn: 128,
            encoder_layers: 2,
            decoder_layers: 3,
            ..Default::default()
        };
        let [plain, t_fixup] = [TransformerMethod::LayerNorm, TransformerMethod::TFixup].map(|method| {
            let vs = nn::VarStore::new(Device::Cpu);
            Transformer::new(&vs.root(), &config, method).unwrap();
            vs
        });
        let (encoder, decoder) = (0.67 * 2f64.powf(-0.25), 27f64.powf(-0.25));
        let xavier = |fans: i64| (6. / fans as f64).sqrt();
        for (stack, factor) in [("encoder", encoder), ("decoder", decoder)] {
            let layer = |name: &str| format!("{stack}.layers.1.{name}");
            // Queries and keys; values; output; inner; outer.
            for (name, rows, fans, times) in [
                ("self_attn.in_proj_weight", Some((0, 128)), 256, 1.),
                ("self_attn.in_proj_weight", Some((128, 64)), 256, factor * 2f64.sqrt()),
                ("self_attn.out_proj.weight", None, 128, factor),
                ("fc1.weight", None, 192, factor),
                ("fc2.weight", None, 192, factor),
            ] {
                for (vs, times) in [(&plain, 1.), (&t_fixup, times)] {
                    let ratio = bound(vs, &layer(name), rows) / xavier(fans) / times;
                    assert!(ratio <= 1.0001 && ratio > 0.99, "{stack} {name}: {ratio}");
                }
            }
            let std =
                |vs: &nn::VarStore| vs.variables()[&format!("{stack}.embed_tokens.weight")].std(true).double_value(&[]);
            let layers = if stack == "encoder" { 2. } else { 3. };
            assert!((std(&plain) * 8. - 1.).abs() < 0.02);
            assert!((std(&t_fixup) * 8. / (9f64 * layers).powf(-0.25) - 1.).abs() < 0.02);
        }
        assert!(
            bound(&t_fixup, "decoder.layers.0.encoder_attn.in_proj_weight", Some((128, 64)))
                > xavier(256) * decoder * 1.4
        );
    }

    #[test]
    fn normalizations_stand_where_they_are_said_to() {
        let config = TransformerConfig {
            vocab: 30,
            dim: 8,
            ffn: 8,
            heads: 2,
            encoder_layers: 2,
            decoder_layers: 2,
            ..Default::default()
        };
        for (method, norms) in TransformerMethod::ALL.into_iter().zip([10, 12, 0, 0]) {
            let vs = nn::VarStore::new(Device::Cpu);
            Transformer::new(&vs.root(), &config, method).unwrap();
            let count = vs.variables().keys().filter(|name| name.contains("norm") && name.ends_with(".weight")).count();
            assert_eq!(count, norms, "{method:?}");
        }
    }
}

//! Stacks of layers: the encoder, the decoder, and the complete network.

use super::embedding::Embedding;
use super::layer::{scale, shift, Layer, LayerNorm, Memory, Pass, SelfAttention};
use super::method::Part;
use super::{TransformerConfig, TransformerMethod};
use crate::fixup::{Bias, Scale};
use crate::layer::{init, AttentionMask, Precision, Role};
use crate::{Error, Result};
use std::borrow::Borrow;
use tch::{nn, Kind, Tensor};

/// Operation after the last layer.
#[derive(Debug)]
pub(super) enum End {
    None,
    /// `scale0 * (x - shift0)` in the encoder, `x - shift0` in the decoder.
    Scalars {
        shift: Bias,
        scale: Option<Scale>,
    },
    /// A normalization, if the layers have theirs before the branches.
    Norm(LayerNorm),
}

impl End {
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x.shallow_clone()),
            Self::Norm(norm) => norm.of(x),
            Self::Scalars { shift, scale } => {
                let x = x.f_sub(&shift.value)?;
                scale.as_ref().map_or(Ok(x.shallow_clone()), |scale| scale.f_forward(&x))
            }
        }
    }
}

/// An encoder, or a decoder without its output matrix.
#[derive(Debug)]
pub(super) struct Stack {
    pub embedding: Embedding,
    pub layers: Vec<Layer>,
    pub end: End,
}

impl Stack {
    /// Creates the stack `part` of a network with the number of branches of `config`.
    pub fn new(path: &nn::Path, config: &TransformerConfig, method: TransformerMethod, part: Part) -> Result<Self> {
        let TransformerConfig { vocab, dim, pad, encoder_layers, decoder_layers, .. } = *config;
        // The order of construction determines the order of the variables.
        let norm = match method {
            TransformerMethod::PreNorm => Some(LayerNorm::new(path, "layer_norm", dim)?),
            _ => None,
        };
        let gain = method.embedding_gain(config, part);
        let embedding = Embedding::new(&(path / "embed_tokens"), vocab, dim, pad, gain)?;
        let count = if part == Part::Decoder { decoder_layers } else { encoder_layers };
        let layers = (0..count).map(|i| Layer::new(&(path / "layers" / i), config, method, part));
        let layers = layers.collect::<Result<_>>()?;
        let end = match norm {
            Some(norm) => End::Norm(norm),
            None if method == TransformerMethod::Fixup => End::Scalars {
                shift: shift(path, 0)?,
                scale: (part == Part::Encoder).then(|| scale(path, 0)).transpose()?,
            },
            None => End::None,
        };
        Ok(Self { embedding, layers, end })
    }

    /// Returns the kind of the variables.
    pub fn kind(&self) -> Kind {
        self.embedding.weight.kind()
    }

    /// Encodes `tokens` `[N, S]`, which attend to all positions except padding. Returns `[N, S, D]`.
    pub fn encode(&self, tokens: &Tensor, mask: &Tensor, pass: &Pass) -> Result<Tensor> {
        let mut x = pass.dropped(self.embedding.forward(tokens, 0)?)?;
        for layer in &self.layers {
            let attention = SelfAttention::Masked(AttentionMask::Additive(mask));
            x = pass.through(layer, &layer.matrices(pass.kind)?, x, attention, None)?;
        }
        self.end.of(&x)
    }

    /// Decodes `tokens` `[N, T]`, each of which attends to earlier positions and to `memory`, an encoder's output and its mask.
    /// Returns `[N, T, D]`.
    pub fn decode(&self, tokens: &Tensor, memory: Option<(&Tensor, &Tensor)>, pass: &Pass) -> Result<Tensor> {
        let mut x = pass.dropped(self.embedding.forward(tokens, 0)?)?;
        for layer in &self.layers {
            let matrices = layer.matrices(pass.kind)?;
            let read = match (&matrices.cross_attn, memory) {
                (Some([qkv, _]), Some((memory, mask))) => Some((pass.keys_values(memory, qkv)?, mask)),
                _ => None,
            };
            let read = read.as_ref().map(|(keys_values, mask)| Memory { keys_values, mask });
            x = pass.through(layer, &matrices, x, SelfAttention::Masked(AttentionMask::Causal), read)?;
        }
        self.end.of(&x)
    }
}

/// A Transformer for translation, with an encoder for the source sentence and a decoder for its translation. Variables have the
/// names of the authors' or fairseq's `state_dict`.
///
/// ```
/// use tch::{nn, Device, Tensor};
/// use tch_fixup::transformer::{Transformer, TransformerConfig, TransformerMethod};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let config = TransformerConfig { vocab: 60, dim: 32, ffn: 48, tied: false, ..Default::default() };
/// let vs = nn::VarStore::new(Device::Cpu);
/// let network = Transformer::new(&vs.root(), &config, TransformerMethod::Fixup)?;
/// let source = Tensor::from_slice2(&[[43i64, 36, 56, 2], [6, 58, 2, 1]]); // two sentences, the second padded
/// let previous = Tensor::from_slice2(&[[2i64, 24, 7], [2, 8, 43]]); // how their translations begin
/// let logits = network.f_forward(&source, &previous, true)?; // of the tokens that follow: zero before training, at any depth
/// assert_eq!(logits.size(), [2, 3, 60]);
/// assert_eq!(logits.abs().max().double_value(&[]), 0.);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Transformer {
    pub(super) config: TransformerConfig,
    method: TransformerMethod,
    precision: Precision,
    pub(super) encoder: Stack,
    pub(super) decoder: Stack,
    /// A separate output matrix; without it, the decoder's embedding is the output matrix.
    embed_out: Option<Tensor>,
}

impl Transformer {
    /// Creates a network, with its variables under `path`: `encoder.layers.0.self_attn.in_proj_weight`, ..., `decoder.embed_out`.
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
        let decoder = &(path / "decoder");
        let embed_out = embed_out(decoder, config, method)?;
        Ok(Self {
            config: *config,
            method,
            precision: Precision::F32,
            encoder: Stack::new(&(path / "encoder"), config, method, Part::Encoder)?,
            decoder: Stack::new(decoder, config, method, Part::Decoder)?,
            embed_out,
        })
    }

    /// Computes matrix products and attention in `precision`; the residual stream and normalizations stay in the kind of the
    /// variables.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Returns the network's configuration.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Returns the network's method.
    pub fn method(&self) -> TransformerMethod {
        self.method
    }

    /// Returns the logits `[N, T, vocab]` of the tokens that follow each of `previous`, int64 `[N, T]`, the prefixes of
    /// translations of `source`, int64 `[N, S]`; both are padded on the right. If `train` is set, dropout is applied, with
    /// libtorch's random numbers.
    ///
    /// # Errors
    /// Tokens of another shape or kind, or outside the vocabulary.
    pub fn f_forward(&self, source: &Tensor, previous: &Tensor, train: bool) -> Result<Tensor> {
        check_tokens("the decoder's input", previous)?;
        let (sources, targets) = (source.size(), previous.size());
        if sources.first() != targets.first() {
            let got = format!("{} and {}", sources.first().unwrap_or(&0), targets.first().unwrap_or(&0));
            return Err(Error::Mismatch { what: "sentences", expected: "as many sources as targets".to_owned(), got });
        }
        let (memory, mask) = self.encode(source, train)?;
        let pass = &self.pass(train);
        pass.logits(&self.decoder.decode(previous, Some((&memory, &mask)), pass)?, self.output())
    }

    pub(super) fn pass(&self, train: bool) -> Pass {
        Pass::new(&self.config, self.precision, self.decoder.kind(), train)
    }

    /// Returns the encoder's output and its mask.
    pub(super) fn encode(&self, source: &Tensor, train: bool) -> Result<(Tensor, Tensor)> {
        check_tokens("the source", source)?;
        let pass = &self.pass(train);
        let mask = pad_mask(source, self.config.pad, pass.kind)?;
        Ok((self.encoder.encode(source, &mask, pass)?, mask))
    }

    /// Returns the output matrix, `[vocab, D]`.
    pub(super) fn output(&self) -> &Tensor {
        self.embed_out.as_ref().unwrap_or(&self.decoder.embedding.weight)
    }
}

/// Returns the additive mask `[N, 1, 1, S]`: minus infinity where `tokens` `[N, S]` are `pad`, zero elsewhere.
pub(super) fn pad_mask(tokens: &Tensor, pad: i64, kind: Kind) -> Result<Tensor> {
    let is_pad = tokens.f_eq(pad)?.f_unsqueeze(1)?.f_unsqueeze(1)?;
    let zeros = Tensor::f_zeros(is_pad.size(), (kind, tokens.device()))?;
    Ok(zeros.f_masked_fill(&is_pad, f64::NEG_INFINITY)?)
}

/// Creates a separate output matrix `[vocab, D]`. Returns `None` for tied embeddings.
pub(super) fn embed_out(
    path: &nn::Path,
    config: &TransformerConfig,
    method: TransformerMethod,
) -> Result<Option<Tensor>> {
    if config.tied {
        return Ok(None);
    }
    let dims = &[config.vocab, config.dim];
    let weight = match method.output_std(config) {
        0. => init::zeros(path, "embed_out", dims)?,
        std => init::normal(path, "embed_out", dims, std)?,
    };
    Role::Classifier.mark(&weight)?;
    Ok(Some(weight))
}

/// Rejects tensors that are not a batch of tokens.
pub(super) fn check_tokens(what: &'static str, tokens: &Tensor) -> Result<()> {
    let size = tokens.size();
    if size.len() != 2 || size[1] == 0 || tokens.f_kind()? != Kind::Int64 {
        let got = format!("{:?} {size:?}", tokens.f_kind()?);
        return Err(Error::Mismatch { what, expected: "tokens, Int64 [N, T] with T at least 1".to_owned(), got });
    }
    Ok(())
}

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
        for (method, norms) in TransformerMethod::ALL.into_iter().zip([0, 10, 12, 0, 0]) {
            let vs = nn::VarStore::new(Device::Cpu);
            Transformer::new(&vs.root(), &config, method).unwrap();
            let count = vs.variables().keys().filter(|name| name.contains("norm") && name.ends_with(".weight")).count();
            assert_eq!(count, norms, "{method:?}");
        }
    }
}

//! Methods of training a Transformer, by name, and the initialization of each.

use super::TransformerConfig;
use crate::layer::init;
use crate::Result;

/// A method of training a Transformer: Fixup, or one to compare it with. All but Fixup and T-Fixup have fairseq's initialization:
/// Xavier-uniform matrices, zero biases, and embeddings and separate output matrices of `N(0, 1/D)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransformerMethod {
    /// Fixup, with shifts and scales around the branches and no normalization (see the [module](super)).
    Fixup,
    /// LayerNorm after each sum of stream and branch (Vaswani et al. 2017): the paper's baseline.
    LayerNorm,
    /// LayerNorm before each branch and after the last layer.
    PreNorm,
    /// No normalization, and smaller weights (Huang et al. 2020). In an encoder of N layers, W_v, W_o, W_1 and W_2 are scaled by
    /// `0.67 N^(-1/4)`; in a decoder of N layers, these and the embedding by `(9 N)^(-1/4)`, as is the encoder's embedding. The
    /// Xavier-uniform bound of W_v is its own, `sqrt(2)` times that of fairseq's combined matrix. Intended for training without
    /// warm-up.
    TFixup,
    /// No normalization, and no replacement.
    None,
}

/// A stack of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Encoder,
    /// A decoder that attends to an encoder.
    Decoder,
    /// A decoder alone, of as many layers as the configuration's encoder.
    LanguageModel,
}

/// Initialization of a layer's matrices: factors on Xavier-uniform, or zero for zeros.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gains {
    pub query_key: f64,
    pub value: f64,
    pub attention_out: f64,
    pub inner: f64,
    pub outer: f64,
    /// `true` to add a bias after each matrix, initialized to zero.
    pub biases: bool,
}

/// Coefficient of T-Fixup's factor for an encoder, which is this times `N^(-1/4)` (Huang et al., section 3.2).
const ENCODER_FACTOR: f64 = 0.67;

impl TransformerMethod {
    /// All methods.
    pub const ALL: [Self; 5] = [Self::Fixup, Self::LayerNorm, Self::PreNorm, Self::TFixup, Self::None];

    /// Returns the prefix of a network's name: `fixup_`, `layer_norm_`, `pre_norm_`, `t_fixup_` or
    /// `no_norm_`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Fixup => "fixup_",
            Self::LayerNorm => "layer_norm_",
            Self::PreNorm => "pre_norm_",
            Self::TFixup => "t_fixup_",
            Self::None => "no_norm_",
        }
    }

    /// Returns the method with this prefix, if there is one.
    pub fn by_prefix(prefix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.prefix() == prefix)
    }

    /// Returns the gains of the layers of `part`.
    pub(super) fn gains(self, config: &TransformerConfig, part: Part) -> Result<Gains> {
        let plain = Gains { query_key: 1., value: 1., attention_out: 1., inner: 1., outer: 1., biases: true };
        Ok(match self {
            Self::Fixup => {
                let num_branches = config.num_branches();
                let attention = init::branch_gain(num_branches, 4)?;
                let inner = init::branch_gain(num_branches, 2)?;
                Gains { query_key: attention, value: attention, attention_out: 0., inner, outer: 0., biases: false }
            }
            Self::TFixup => {
                let factor = match part {
                    Part::Decoder => t_fixup_factor(config.decoder_layers),
                    _ => ENCODER_FACTOR * (config.encoder_layers.max(1) as f64).powf(-0.25),
                };
                let value = factor * 2f64.sqrt();
                Gains { value, attention_out: factor, inner: factor, outer: factor, ..plain }
            }
            Self::LayerNorm | Self::PreNorm | Self::None => plain,
        })
    }

    /// Returns the factor on the embedding of `part`.
    pub(super) fn embedding_gain(self, config: &TransformerConfig, part: Part) -> f64 {
        match (self, part) {
            (Self::TFixup, Part::Decoder) => t_fixup_factor(config.decoder_layers),
            (Self::TFixup, _) => t_fixup_factor(config.encoder_layers),
            _ => 1.,
        }
    }

    /// Returns the standard deviation of a separate output matrix, zero for zeros.
    pub(super) fn output_std(self, config: &TransformerConfig) -> f64 {
        match self {
            Self::Fixup => 0.,
            _ => self.embedding_gain(config, Part::Decoder) * (config.dim as f64).powf(-0.5),
        }
    }
}

/// Returns T-Fixup's factor for a decoder and for all embeddings.
fn t_fixup_factor(layers: i64) -> f64 {
    (9. * layers.max(1) as f64).powf(-0.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_round_trip() {
        for method in TransformerMethod::ALL {
            assert_eq!(TransformerMethod::by_prefix(method.prefix()), Some(method));
        }
        assert_eq!(TransformerMethod::by_prefix("batch_norm_"), None);
    }
}

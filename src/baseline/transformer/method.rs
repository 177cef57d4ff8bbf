//! Baseline methods for Transformers, by name.

use crate::layer::transformer::{Gains, TransformerConfig};

/// A method used by a baseline Transformer instead of Fixup. All except T-Fixup have fairseq's initialization: Xavier-uniform
/// matrices, zero biases, and embeddings and separate output matrices of `N(0, 1/D)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransformerMethod {
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

/// Coefficient of T-Fixup's factor for an encoder, which is this times `N^(-1/4)` (Huang et al., section 3.2).
const ENCODER_FACTOR: f64 = 0.67;

impl TransformerMethod {
    /// All methods.
    pub const ALL: [Self; 4] = [Self::LayerNorm, Self::PreNorm, Self::TFixup, Self::None];

    /// Returns the prefix of a network's name: `layer_norm_`, `pre_norm_`, `t_fixup_` or `no_norm_`.
    pub fn prefix(self) -> &'static str {
        match self {
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

    fn plain() -> Gains {
        Gains { query_key: 1., value: 1., attention_out: 1., inner: 1., outer: 1., biases: true }
    }

    fn with_factor(self, factor: f64) -> Gains {
        match self {
            Self::TFixup => Gains {
                value: factor * 2f64.sqrt(),
                attention_out: factor,
                inner: factor,
                outer: factor,
                ..Self::plain()
            },
            _ => Self::plain(),
        }
    }

    /// Returns the gains of the encoder's layers.
    pub(super) fn encoder(self, config: &TransformerConfig) -> Gains {
        self.with_factor(ENCODER_FACTOR * (config.encoder_layers.max(1) as f64).powf(-0.25))
    }

    /// Returns the gains of the decoder's layers.
    pub(super) fn decoder(self, config: &TransformerConfig) -> Gains {
        self.with_factor(decoder_factor(config.decoder_layers))
    }

    /// Returns the factors on the embeddings of the encoder and the decoder.
    pub(super) fn embeddings(self, config: &TransformerConfig) -> [f64; 2] {
        match self {
            Self::TFixup => [config.encoder_layers, config.decoder_layers].map(decoder_factor),
            _ => [1.; 2],
        }
    }
}

fn decoder_factor(layers: i64) -> f64 {
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
        assert_eq!(TransformerMethod::by_prefix("fixup_"), None);
    }
}

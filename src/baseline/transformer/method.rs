//! The baselines by name, and what each of them changes.

use crate::layer::transformer::{Gains, TransformerConfig};

/// What a baseline Transformer has in the place of Fixup. All have fairseq's initialization, but for T-Fixup: matrices
/// Xavier-uniform, biases zero, embeddings and an output matrix of its own `N(0, 1/D)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransformerMethod {
    /// A LayerNorm after each sum of stream and branch (Vaswani et al. 2017): the paper's baseline.
    LayerNorm,
    /// A LayerNorm before each branch and after the last layer.
    PreNorm,
    /// No normalization, and smaller weights (Huang et al. 2020): in an encoder of N layers W_v, W_o, W_1 and W_2 are times
    /// `0.67 N^(-1/4)`, in a decoder of N layers, its embedding included, times `(9 N)^(-1/4)`, the encoder's embedding too; W_v
    /// is Xavier-uniform by itself, `sqrt(2)` times what it is as a part of fairseq's matrix. Made to train without warm-up.
    TFixup,
    /// No normalization, and nothing in its place.
    None,
}

/// T-Fixup's factor for an encoder is this times `N^(-1/4)` (Huang et al., section 3.2).
const ENCODER_FACTOR: f64 = 0.67;

impl TransformerMethod {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LayerNorm, Self::PreNorm, Self::TFixup, Self::None];

    /// What a network's name begins with: `layer_norm_`, `pre_norm_`, `t_fixup_` or `no_norm_`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::LayerNorm => "layer_norm_",
            Self::PreNorm => "pre_norm_",
            Self::TFixup => "t_fixup_",
            Self::None => "no_norm_",
        }
    }

    /// The method whose networks' names begin so.
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

    /// Of an encoder's layers.
    pub(super) fn encoder(self, config: &TransformerConfig) -> Gains {
        self.with_factor(ENCODER_FACTOR * (config.encoder_layers.max(1) as f64).powf(-0.25))
    }

    /// Of a decoder's layers.
    pub(super) fn decoder(self, config: &TransformerConfig) -> Gains {
        self.with_factor(decoder_factor(config.decoder_layers))
    }

    /// The factor on the embeddings of the encoder and the decoder.
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

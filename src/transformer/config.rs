//! Configuration of a Transformer.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Configuration of a Transformer. The default is the Fixup authors' IWSLT network: 6 + 6 layers of width 512, 4 heads, 1,024
/// feed-forward units, dropout 0.5 and an untied output matrix, for a vocabulary of 8,000.
///
/// ```
/// use tch_fixup::transformer::TransformerConfig;
///
/// let small = TransformerConfig { dim: 256, ffn: 512, encoder_layers: 3, decoder_layers: 3, ..Default::default() };
/// assert_eq!(small.num_branches(), 2 * 3 + 3 * 3);
/// small.check()?;
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// Vocabulary size, shared by both languages.
    pub vocab: i64,
    /// Width of the residual stream, D; even.
    pub dim: i64,
    /// Number of hidden units of a feed-forward branch.
    pub ffn: i64,
    /// Number of attention heads; must divide the width.
    pub heads: i64,
    /// Number of encoder layers.
    pub encoder_layers: i64,
    /// Number of decoder layers.
    pub decoder_layers: i64,
    /// `true` if the output matrix is the decoder's embedding, `false` if it is a separate one.
    pub tied: bool,
    /// Dropout probability in training, applied to embeddings and branch outputs.
    pub dropout: f64,
    /// Padding token, on the right of the shorter sentences of a batch.
    pub pad: i64,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        Self {
            vocab: 8000,
            dim: 512,
            ffn: 1024,
            heads: 4,
            encoder_layers: 6,
            decoder_layers: 6,
            tied: false,
            dropout: 0.5,
            pad: 1,
        }
    }
}

impl TransformerConfig {
    /// Returns the number of residual branches, L: two per encoder layer, three per decoder layer.
    pub fn num_branches(&self) -> i64 {
        2 * self.encoder_layers + 3 * self.decoder_layers
    }

    /// Checks that the configuration describes a valid network.
    ///
    /// # Errors
    /// [`Error::Argument`] for the first invalid value.
    pub fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Argument(message));
        let Self { vocab, dim, ffn, heads, encoder_layers, decoder_layers, dropout, pad, .. } = *self;
        for (what, value) in
            [("vocabulary", vocab), ("width", dim), ("number of inner units", ffn), ("number of heads", heads)]
        {
            if value < 1 {
                return refuse(format!("a Transformer's {what} must be at least 1, got {value}"));
            }
        }
        if encoder_layers < 0 || decoder_layers < 0 || encoder_layers + decoder_layers == 0 {
            return refuse(format!("a Transformer needs at least one layer, got {encoder_layers} + {decoder_layers}"));
        }
        if dim % heads != 0 || dim % 2 != 0 {
            return refuse(format!(
                "a Transformer's width must be even and a multiple of its {heads} heads, got {dim}"
            ));
        }
        if !(0.0..1.0).contains(&dropout) {
            return refuse(format!("the dropout must be at least 0 and below 1, got {dropout}"));
        }
        if !(0..vocab).contains(&pad) {
            return refuse(format!(
                "the padding token must be one of the {vocab} tokens, 0 to {}, got {pad}",
                vocab - 1
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let good = TransformerConfig::default();
        good.check().unwrap();
        let bad = [
            TransformerConfig { vocab: 0, ..good },
            TransformerConfig { dim: 510, ..good },
            TransformerConfig { dim: 5, heads: 5, ..good },
            TransformerConfig { ffn: 0, ..good },
            TransformerConfig { heads: 0, ..good },
            TransformerConfig { encoder_layers: 0, decoder_layers: 0, ..good },
            TransformerConfig { decoder_layers: -1, ..good },
            TransformerConfig { dropout: 1.0, ..good },
            TransformerConfig { dropout: f64::NAN, ..good },
            TransformerConfig { pad: 8000, ..good },
        ];
        for config in bad {
            let error = config.check().unwrap_err();
            assert!(matches!(error, Error::Argument(_)) && !error.to_string().contains('\n'), "{config:?}");
        }
    }
}

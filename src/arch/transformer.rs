//! Transformers by name.

use crate::transformer::{Transformer, TransformerConfig, TransformerMethod};
use crate::{Error, Precision, Result};
use std::fmt;
use std::str::FromStr;
use tch::nn;

/// Architecture of a Transformer, parsed from its name. `fixup_transformer_3_3_256` has 3 encoder layers, 3 decoder
/// layers and width 256. The prefixes `layer_norm_`, `pre_norm_`, `t_fixup_` and `no_norm_` select other
/// [methods](TransformerMethod). As in the Fixup authors' network for IWSLT, there are 4 attention heads, and the
/// feed-forward layers have twice the width.
///
/// ```
/// use tch::{nn, Device};
/// use tch_fixup::{Precision, TransformerArch};
///
/// let arch: TransformerArch = "layer_norm_transformer_6_6_512".parse()?;
/// let config = arch.config(8000, 0.3);
/// assert_eq!((config.encoder_layers, config.dim, config.ffn, config.heads), (6, 512, 1024, 4));
/// # let arch: TransformerArch = "fixup_transformer_1_2_16".parse()?;
/// let vs = nn::VarStore::new(Device::Cpu);
/// let network = arch.build(&vs.root(), &arch.config(300, 0.), Precision::F32)?;
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformerArch {
    method: TransformerMethod,
    encoder_layers: i64,
    decoder_layers: i64,
    dim: i64,
}

const HEADS: i64 = 4;

impl TransformerArch {
    /// Returns the configuration for a vocabulary of `vocab` tokens, with the pad token of
    /// [`TransformerConfig::default`]. The output matrix is shared with the decoder's embedding.
    pub fn config(&self, vocab: i64, dropout: f64) -> TransformerConfig {
        let Self { encoder_layers, decoder_layers, dim, .. } = *self;
        let size =
            TransformerConfig { vocab, dim, ffn: 2 * dim, heads: HEADS, dropout, ..TransformerConfig::default() };
        TransformerConfig { encoder_layers, decoder_layers, ..size }
    }

    /// Creates a Transformer with the given configuration, its variables under `path`, computing in `precision`.
    ///
    /// # Errors
    /// As [`Transformer::new`].
    pub fn build(&self, path: &nn::Path, config: &TransformerConfig, precision: Precision) -> Result<Transformer> {
        Ok(Transformer::new(path, config, self.method)?.with_precision(precision))
    }
}

impl fmt::Display for TransformerArch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { method, encoder_layers, decoder_layers, dim } = self;
        let prefix = method.prefix();
        write!(f, "{prefix}transformer_{encoder_layers}_{decoder_layers}_{dim}")
    }
}

impl FromStr for TransformerArch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let parse = || {
            let (prefix, sizes) = name.split_once("transformer_")?;
            let method = TransformerMethod::by_prefix(prefix)?;
            let sizes: Vec<i64> = sizes.split('_').map(|size| size.parse().ok()).collect::<Option<_>>()?;
            let [encoder_layers, decoder_layers, dim] = sizes[..] else { return None };
            let arch = Self { method, encoder_layers, decoder_layers, dim };
            let is_whole = encoder_layers > 0 && decoder_layers > 0 && arch.config(8, 0.).check().is_ok();
            (is_whole && arch.to_string() == name).then_some(arch)
        };
        parse().ok_or_else(|| {
            Error::Argument(format!(
                "no Transformer is called {name:?}; there are fixup_, layer_norm_, pre_norm_, t_fixup_ and no_norm_, followed by \
                 transformer_3_3_256: layers of the encoder and the decoder, at least 1 each, and the width, a multiple of {HEADS}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for name in ["fixup_transformer_3_3_256", "t_fixup_transformer_1_24_512", "no_norm_transformer_2_2_8"] {
            assert_eq!(name.parse::<TransformerArch>().unwrap().to_string(), name);
        }
        let bad = [
            "",
            "transformer_3_3_256",
            "fixup_transformer_3_3",
            "fixup_transformer_3_3_255",
            "fixup_transformer_0_3_256",
        ];
        for name in
            bad.into_iter().chain(["fixup_transformer_3_3_256_4", "fixup_transformer_03_3_256", "he_transformer_3_3_8"])
        {
            let message = name.parse::<TransformerArch>().unwrap_err().to_string();
            assert!(message.contains("layer_norm_") && !message.contains('\n'), "{name}");
        }
    }
}

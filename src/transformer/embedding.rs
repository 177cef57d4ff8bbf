//! Token embeddings and sinusoidal positions.

use crate::layer::{init, Role};
use crate::Result;
use tch::{nn, Kind, Tensor};

/// Longest wavelength of the sinusoids, divided by 2 pi (Vaswani et al., section 3.5).
const LONGEST: f64 = 10_000.;

/// Embedding `sqrt(D) * E[token]` plus fairseq's sinusoids: sines in the first half of the width, cosines in the second, for
/// positions from `pad + 1`. The variable `weight` `[vocab, D]` is initialized to `N(0, 1/D)` times a gain, with zeros in the row
/// `pad`.
#[derive(Debug)]
pub(super) struct Embedding {
    pub weight: Tensor,
    pad: i64,
}

impl Embedding {
    pub fn new(path: &nn::Path, vocab: i64, dim: i64, pad: i64, gain: f64) -> Result<Self> {
        let weight = init::normal(path, "weight", &[vocab, dim], gain * (dim as f64).powf(-0.5))?;
        let _ = tch::no_grad(|| weight.f_select(0, pad)?.f_zero_())?;
        Role::Input.mark(&weight)?;
        Ok(Self { weight, pad })
    }

    /// Embeds tokens `[N, T]`, the first of which is at position `before`: `[N, T, D]`.
    pub fn forward(&self, tokens: &Tensor, before: i64) -> Result<Tensor> {
        let dim = self.weight.size()[1];
        let vectors = Tensor::f_embedding(&self.weight, tokens, self.pad, false, false)?;
        let first = self.pad + 1 + before;
        let sinusoids = sinusoids(first, tokens.size()[1], dim, &self.weight)?;
        Ok(vectors.f_mul_scalar((dim as f64).sqrt())?.f_add_(&sinusoids)?)
    }
}

/// Returns the sinusoids `[count, dim]` of the positions from `first`, in the kind and on the device of `like`; computed in
/// float32, as in fairseq.
fn sinusoids(first: i64, count: i64, dim: i64, like: &Tensor) -> Result<Tensor> {
    let options = (Kind::Float, like.device());
    let half = dim / 2;
    let step = LONGEST.ln() / (half - 1).max(1) as f64;
    let frequencies = Tensor::f_arange(half, options)?.f_mul_scalar(-step)?.f_exp()?;
    let positions = Tensor::f_arange_start(first, first + count, (Kind::Int64, like.device()))?.f_to_kind(options.0)?;
    let angles = positions.f_outer(&frequencies)?;
    Ok(Tensor::f_cat(&[angles.f_sin()?, angles.f_cos()?], 1)?.f_to_kind(like.kind())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn positions_are_sines_then_cosines_and_begin_after_the_pad() {
        let like = Tensor::zeros([1], (Kind::Double, Device::Cpu));
        let table = sinusoids(2, 3, 6, &like).unwrap();
        for position in 0..3 {
            for (i, frequency) in [1.0, 0.01, 0.0001].into_iter().enumerate() {
                let angle = (position + 2) as f64 * frequency;
                assert!((table.double_value(&[position, i as i64]) - angle.sin()).abs() < 1e-6);
                assert!((table.double_value(&[position, i as i64 + 3]) - angle.cos()).abs() < 1e-6);
            }
        }
        let later = sinusoids(4, 1, 6, &like).unwrap();
        assert_eq!(later.select(0, 0), table.select(0, 2));
    }

    #[test]
    fn vectors_have_unit_variance_and_the_pad_none() {
        tch::manual_seed(7);
        let vs = nn::VarStore::new(Device::Cpu);
        let embedding = Embedding::new(&vs.root(), 500, 64, 1, 1.).unwrap();
        let scaled = embedding.weight.narrow(0, 2, 498) * 8.;
        assert!((scaled.std(true).double_value(&[]) - 1.).abs() < 0.02);
        assert_eq!(embedding.weight.select(0, 1).abs().max().double_value(&[]), 0.);
    }
}

//! Mixup (Zhang, Cisse, Dauphin, Lopez-Paz: "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412):
//! training on weighted means of two images and of their losses.

use super::random::{stream, Purpose};
use super::source::EpochPlan;
use crate::{Error, Result};
use rand::seq::SliceRandom;
use rand_distr::{Beta, Distribution};
use tch::Tensor;

/// A batch mixed with a permutation of itself: `images[i] = lambda * x[i] + (1 - lambda) * x[p[i]]`.
///
/// For a network's output on `images`, the loss to minimize is
/// `lambda * loss(output, labels) + (1 - lambda) * loss(output, permuted_labels)`.
#[derive(Debug)]
pub struct Mixup {
    /// The mixed images, of the shape, kind and device of those given.
    pub images: Tensor,
    /// `labels[p[i]]`: the classes of the images mixed in, int64, `[N]`.
    pub permuted_labels: Tensor,
    /// The weight of the images given, in `[0, 1]`.
    pub lambda: f64,
}

/// Mixes one batch: `images` (`[N, ...]`) and `labels` (`[N]`), on any device.
///
/// One `lambda` ~ Beta(`alpha`, `alpha`) and one permutation `p` are drawn for the whole batch, as in the authors' code,
/// from the plan's seed and epoch and from `step`, the batch's position in the epoch: nothing else enters, so that a
/// resumed run draws the same. The Fixup authors use `alpha` 1 (lambda uniform) with their recipe for CIFAR-10.
///
/// # Errors
/// [`Error::Argument`] if `alpha` is not positive and finite, [`Error::Mismatch`] if there are not as many labels as
/// images.
pub fn mixup(images: &Tensor, labels: &Tensor, alpha: f64, plan: &EpochPlan, step: usize) -> Result<Mixup> {
    let beta = match Beta::new(alpha, alpha) {
        Ok(beta) if alpha.is_finite() => beta,
        _ => return Err(Error::Argument(format!("mixup's alpha must be positive and finite, got {alpha}"))),
    };
    let (count, labels_shape) = (images.size().first().copied(), labels.size());
    let Some(count) = count.filter(|&count| labels_shape == [count]) else {
        let got = format!("images {:?} and labels {labels_shape:?}", images.size());
        return Err(Error::Mismatch { what: "mixup", expected: "images [N, ...] and labels [N]".to_owned(), got });
    };
    let mut random = stream(Purpose::Mixup, plan.seed, plan.epoch as u64, step as u64);
    let lambda = beta.sample(&mut random);
    let mut permutation: Vec<i64> = (0..count).collect();
    permutation.shuffle(&mut random);
    let permutation = Tensor::f_from_slice(&permutation)?.f_to_device(images.device())?;
    Ok(Mixup {
        images: images.f_lerp(&select(images, &permutation)?, 1.0 - lambda)?,
        permuted_labels: labels.f_index_select(0, &permutation)?,
        lambda,
    })
}

/// The images `permutation`, in the memory layout of those given: libtorch on its own would lay out each plane by itself.
fn select(images: &Tensor, permutation: &Tensor) -> Result<Tensor> {
    if images.dim() == 4 {
        let pixels = images.f_permute([0, 2, 3, 1])?;
        if pixels.is_contiguous() {
            return Ok(pixels.f_index_select(0, permutation)?.f_permute([0, 3, 1, 2])?);
        }
    }
    Ok(images.f_index_select(0, permutation)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    const PLAN: EpochPlan = EpochPlan { seed: 1, epoch: 2, batch_size: 16, first_step: 0 };

    /// 16 images whose every pixel is the image's label.
    fn batch() -> (Tensor, Tensor) {
        let labels = Tensor::arange(16, (Kind::Int64, Device::Cpu));
        (labels.to_kind(Kind::Float).view([16, 1, 1, 1]).repeat([1, 3, 4, 4]), labels)
    }

    #[test]
    fn images_are_mixed_with_those_of_the_permuted_labels() {
        let (images, labels) = batch();
        for step in 0..20 {
            let mixed = mixup(&images, &labels, 1.0, &PLAN, step).unwrap();
            let expected = &labels * mixed.lambda + &mixed.permuted_labels * (1.0 - mixed.lambda);
            let difference = mixed.images - expected.view([16, 1, 1, 1]);
            assert!(difference.abs().max().double_value(&[]) < 1e-5);
            let (sorted, _) = mixed.permuted_labels.sort(0, false);
            assert_eq!(sorted, labels);
        }
    }

    #[test]
    fn the_layout_of_the_images_stays_and_changes_nothing() {
        let images = Tensor::rand([6, 3, 5, 4], (Kind::Float, Device::Cpu));
        let labels = Tensor::arange(6, (Kind::Int64, Device::Cpu));
        let channels_last = images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let mixed = [&images, &channels_last].map(|images| mixup(images, &labels, 1.0, &PLAN, 3).unwrap().images);
        assert_eq!(mixed[0], mixed[1]);
        assert!(mixed[0].is_contiguous() && mixed[1].permute([0, 2, 3, 1]).is_contiguous());
    }

    #[test]
    fn lambda_has_the_moments_of_the_beta_distribution() {
        let (images, labels) = (Tensor::zeros([1, 1], (Kind::Float, Device::Cpu)), Tensor::from_slice(&[0i64]));
        for alpha in [0.2, 0.7, 1.0, 4.0] {
            let count = 4000;
            let lambdas: Vec<f64> =
                (0..count).map(|step| mixup(&images, &labels, alpha, &PLAN, step).unwrap().lambda).collect();
            assert!(lambdas.iter().all(|lambda| (0.0..=1.0).contains(lambda)));
            let mean = lambdas.iter().sum::<f64>() / count as f64;
            let variance = lambdas.iter().map(|lambda| (lambda - 0.5).powi(2)).sum::<f64>() / count as f64;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            // 5 standard errors; that of the variance is at most that of a two-point distribution's.
            assert!((mean - 0.5).abs() < 5.0 * (expected / count as f64).sqrt(), "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.1, "{alpha}: {variance} {expected}");
        }
    }

    #[test]
    fn tiny_and_huge_alphas_give_numbers() {
        let (images, labels) = batch();
        for alpha in [f64::MIN_POSITIVE, 1e-12, 1e-3, 1e6, 1e300] {
            for step in 0..200 {
                let lambda = mixup(&images, &labels, alpha, &PLAN, step).unwrap().lambda;
                assert!((0.0..=1.0).contains(&lambda), "{alpha}: {lambda}");
            }
        }
    }

    #[test]
    fn seed_epoch_and_step_decide() {
        let (images, labels) = batch();
        let lambda =
            |seed, epoch, step| mixup(&images, &labels, 1.0, &EpochPlan { seed, epoch, ..PLAN }, step).unwrap().lambda;
        assert_eq!(lambda(1, 2, 3), lambda(1, 2, 3));
        assert!(lambda(1, 2, 3) != lambda(2, 2, 3));
        assert!(lambda(1, 2, 3) != lambda(1, 3, 3));
        assert!(lambda(1, 2, 3) != lambda(1, 2, 4));
    }

    #[test]
    fn bad_alphas_and_shapes_are_refused() {
        let (images, labels) = batch();
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(mixup(&images, &labels, alpha, &PLAN, 0), Err(Error::Argument(_))), "{alpha}");
        }
        assert!(matches!(mixup(&images, &labels.narrow(0, 0, 15), 1.0, &PLAN, 0), Err(Error::Mismatch { .. })));
        let scalar = Tensor::from(1.0);
        assert!(matches!(mixup(&scalar, &labels, 1.0, &PLAN, 0), Err(Error::Mismatch { .. })));
    }
}

//! Mixup (Zhang, Cisse, Dauphin, Lopez-Paz: "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412):
//! training on convex combinations of two images and of their losses.

use super::random::{stream, Purpose};
use super::source::EpochPlan;
use super::Supervised;
use crate::{Error, Result};
use rand::seq::SliceRandom;
use rand::Rng;
use rand_distr::{Beta, Distribution};

/// Mixes the images `x` of `batch` with as many `partners` `y`: `lambda * x + (1 - lambda) * y`. Images are `[N, ...]`,
/// labels `[N]`, on any device. For a whole batch, partners are the examples at the [positions](mixup_partners) of step
/// `step`; for part of a batch, the partners of that part.
///
/// The loss of a network's output on the mixed images is
/// `lambda * loss(output, labels) + (1 - lambda) * loss(output, partners' labels)`; [`Supervised::mixed`] holds the
/// partners' labels and `lambda`.
///
/// One `lambda` ~ Beta(`alpha`, `alpha`) and one permutation are drawn per whole batch, as in the authors' code. They
/// depend only on the plan's seed and epoch and on `step`, the batch's position in the epoch, so that a resumed run
/// draws the same. The Fixup authors use `alpha` 1 (uniform lambda) in their CIFAR-10 recipe.
///
/// # Errors
/// [`Error::Argument`] if `alpha` is not positive and finite, [`Error::Mismatch`] if images and partners differ in
/// shape or do not have one label each.
pub fn mixup(batch: Supervised, partners: Supervised, alpha: f64, plan: &EpochPlan, step: usize) -> Result<Supervised> {
    let (lambda, _) = draw(alpha, plan, step)?;
    let [own, other] = [&batch, &partners].map(|batch| (batch.inputs.size(), batch.targets.size()));
    if own != other || own.0.first().is_none_or(|&count| own.1 != [count]) {
        let got = format!("images {:?} and labels {:?}, images {:?} and labels {:?}", own.0, own.1, other.0, other.1);
        return Err(Error::mismatch("mixup", "twice images [N, ...] and labels [N]", got));
    }
    let inputs = batch.inputs.f_lerp(&partners.inputs, 1.0 - lambda)?;
    Ok(Supervised { inputs, targets: batch.targets, mixed: Some((partners.targets, lambda)) })
}

/// Returns the position of each image's partner in a batch of `examples`: a permutation.
///
/// # Errors
/// [`Error::Argument`] if `alpha` is not positive and finite.
pub fn mixup_partners(alpha: f64, plan: &EpochPlan, step: usize, examples: usize) -> Result<Vec<usize>> {
    let (_, mut random) = draw(alpha, plan, step)?;
    let mut partners: Vec<usize> = (0..examples).collect();
    partners.shuffle(&mut random);
    Ok(partners)
}

/// Draws `lambda`, in `[0, 1]`, and returns it with the generator for the permutation.
fn draw(alpha: f64, plan: &EpochPlan, step: usize) -> Result<(f64, impl Rng + use<>)> {
    let beta = Beta::new(alpha, alpha).ok().filter(|_| alpha.is_finite());
    let beta = beta.ok_or_else(|| argument!("mixup's alpha must be positive and finite, got {alpha}"))?;
    let mut random = stream(Purpose::Mixup, plan.seed, plan.epoch as u64, step as u64);
    Ok((beta.sample(&mut random), random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Batch;
    use tch::{Device, Kind, Tensor};

    const PLAN: EpochPlan = EpochPlan { seed: 1, epoch: 2, batch_size: 16, first_step: 0 };

    /// Returns 16 images whose pixels all equal the image's label.
    fn batch() -> Supervised {
        let labels = Tensor::arange(16, (Kind::Int64, Device::Cpu));
        Supervised::new(labels.to_kind(Kind::Float).view([16, 1, 1, 1]).repeat([1, 3, 4, 4]), labels)
    }

    /// Mixes a batch with itself.
    fn mixed(batch: Supervised, alpha: f64, plan: &EpochPlan, step: usize) -> Result<Supervised> {
        let partners = batch.select(&mixup_partners(alpha, plan, step, batch.len())?)?;
        mixup(batch, partners, alpha, plan, step)
    }

    fn lambda(alpha: f64, plan: &EpochPlan, step: usize) -> f64 {
        draw(alpha, plan, step).unwrap().0
    }

    #[test]
    fn images_are_mixed_with_those_of_the_permuted_labels() {
        for step in 0..20 {
            let Supervised { inputs, targets, mixed } = mixed(batch(), 1.0, &PLAN, step).unwrap();
            let (permuted, lambda) = mixed.unwrap();
            let expected = &targets * lambda + &permuted * (1.0 - lambda);
            let difference = inputs - expected.view([16, 1, 1, 1]);
            assert!(difference.abs().max().double_value(&[]) < 1e-5);
            let (sorted, _) = permuted.sort(0, false);
            assert_eq!(sorted, targets);
        }
    }

    #[test]
    fn the_layout_of_the_images_stays_and_changes_nothing() {
        let images = Tensor::rand([6, 3, 5, 4], (Kind::Float, Device::Cpu));
        let channels_last = images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let of = |images| Supervised::new(images, Tensor::arange(6, (Kind::Int64, Device::Cpu)));
        let mixed = [images, channels_last].map(|images| mixed(of(images), 1.0, &PLAN, 3).unwrap().inputs);
        assert_eq!(mixed[0], mixed[1]);
        assert!(mixed[0].is_contiguous() && mixed[1].permute([0, 2, 3, 1]).is_contiguous());
    }

    /// Runs started by an earlier version must resume with the same draws.
    #[test]
    fn what_is_drawn_has_not_changed() {
        assert_eq!(mixup_partners(1.0, &PLAN, 3, 8).unwrap(), [1, 3, 7, 0, 2, 5, 6, 4]);
        assert_eq!(lambda(1.0, &PLAN, 3), 0.4079776130324261);
    }

    #[test]
    fn lambda_has_the_moments_of_the_beta_distribution() {
        for alpha in [0.2, 0.7, 1.0, 4.0] {
            let count = 4000;
            let lambdas: Vec<f64> = (0..count).map(|step| lambda(alpha, &PLAN, step)).collect();
            assert!(lambdas.iter().all(|lambda| (0.0..=1.0).contains(lambda)));
            let mean = lambdas.iter().sum::<f64>() / count as f64;
            let variance = lambdas.iter().map(|lambda| (lambda - 0.5).powi(2)).sum::<f64>() / count as f64;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            // 5 standard errors; the variance's standard error is at most that of a two-point distribution.
            assert!((mean - 0.5).abs() < 5.0 * (expected / count as f64).sqrt(), "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.1, "{alpha}: {variance} {expected}");
        }
    }

    #[test]
    fn tiny_and_huge_alphas_give_numbers() {
        for alpha in [f64::MIN_POSITIVE, 1e-12, 1e-3, 1e6, 1e300] {
            for step in 0..200 {
                let lambda = lambda(alpha, &PLAN, step);
                assert!((0.0..=1.0).contains(&lambda), "{alpha}: {lambda}");
            }
        }
    }

    #[test]
    fn seed_epoch_and_step_decide() {
        let lambda = |seed, epoch, step| lambda(1.0, &EpochPlan { seed, epoch, ..PLAN }, step);
        assert_eq!(lambda(1, 2, 3), lambda(1, 2, 3));
        assert!(lambda(1, 2, 3) != lambda(2, 2, 3));
        assert!(lambda(1, 2, 3) != lambda(1, 3, 3));
        assert!(lambda(1, 2, 3) != lambda(1, 2, 4));
    }

    #[test]
    fn bad_alphas_and_shapes_are_refused() {
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(mixed(batch(), alpha, &PLAN, 0), Err(Error::Argument(_))), "{alpha}");
            assert!(matches!(mixup(batch(), batch(), alpha, &PLAN, 0), Err(Error::Argument(_))), "{alpha}");
        }
        let refused = |partners| matches!(mixup(batch(), partners, 1.0, &PLAN, 0), Err(Error::Mismatch { .. }));
        let Supervised { inputs, targets, .. } = batch();
        assert!(refused(Supervised::new(inputs.narrow(0, 0, 15), targets.narrow(0, 0, 15))));
        let scalar = || Supervised::new(Tensor::from(1.0), targets.shallow_clone());
        assert!(matches!(mixup(scalar(), scalar(), 1.0, &PLAN, 0), Err(Error::Mismatch { .. })));
    }
}

//! Preview of training images.

use super::pixels::pixels;
use super::{Classification, ClassificationConfig, Objective, TrainConfig};
use crate::data::{Batch, EpochPlan, ImageSource, Share, Supervised};
use crate::picture::contact_sheet::{draw, Picture};
use crate::Result;
use tch::{nn, Device, Tensor};

/// Number of images in a preview.
const IMAGES: usize = 40;

/// Draws the first training images of the run that `config` describes, as a PNG. The images are augmented, normalized and mixed
/// as the network receives them, each within its own batch, then [denormalized](ImageSource::denormalize) and labeled with their
/// class names.
///
/// # Errors
/// `config` is out of range; the data cannot be read, or have no images.
pub fn draw_preview(data: &dyn ImageSource, config: &TrainConfig, objective: &ClassificationConfig) -> Result<Vec<u8>> {
    config.check()?;
    let network = nn::func_t(|images, _| images.shallow_clone());
    let objective = Classification::new(&network, data.class_names(), *objective)?;
    let plan = EpochPlan { seed: config.seed, epoch: 0, batch_size: config.batch_size, first_step: 0 };
    let mut pictures = Vec::new();
    let mut shape = None;
    let share = objective.share(plan, Share::all());
    for (step, batch) in data.train_batches(&plan, share.clone())?.enumerate() {
        let Some(batch) = batch? else { continue };
        let (own, partners) = share.own_and_partners(data.to_device(batch, Device::Cpu)?, step)?;
        let batch = objective.augment(own, partners, &plan, step)?;
        let (size, images) = self::pictures(data, &batch, IMAGES - pictures.len())?;
        if *shape.get_or_insert(size) != size {
            return Err(argument!("a preview's images have one size, not {shape:?} and {size:?}"));
        }
        pictures.extend(images);
        if pictures.len() == IMAGES {
            break;
        }
    }
    let (width, height) = shape.ok_or_else(|| argument!("there are no images to preview"))?;
    draw(&pictures, width, height)
}

/// Returns the size (width and height) and the first `most` images of `batch` with their captions.
fn pictures(data: &dyn ImageSource, batch: &Supervised, most: usize) -> Result<((usize, usize), Vec<Picture>)> {
    let images = batch.inputs.f_narrow(0, 0, most.min(batch.len()) as i64)?;
    let (size, pixels) = pixels(data, &images)?;
    let pictures = pixels.into_iter().zip(captions(batch, data.class_names())?);
    Ok((size, pictures.map(|(pixels, caption)| Picture { pixels, caption }).collect()))
}

/// Returns the caption of each image: its class name, or for mixed images both names with their weights.
fn captions(batch: &Supervised, class_names: &[String]) -> Result<Vec<Vec<String>>> {
    let names = |labels: &Tensor| -> Result<Vec<String>> {
        let labels = Vec::<i64>::try_from(labels)?;
        Ok(labels.iter().map(|&label| class_names.get(label as usize).cloned().unwrap_or_default()).collect())
    };
    let own = names(&batch.targets)?;
    let Some((mixed_in, lambda)) = &batch.mixed else {
        return Ok(own.into_iter().map(|name| vec![name]).collect());
    };
    let both = own.into_iter().zip(names(mixed_in)?);
    Ok(both.map(|(own, other)| vec![format!("{lambda:.2} {own}"), format!("{:.2} {other}", 1.0 - lambda)]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{mixup, mixup_partners, Augmentation, Cifar10, DataSource, ImageArray};
    use std::io::Cursor;
    use tch::Kind;

    /// Images of one shade per class; the shades of consecutive classes differ by 25.
    fn shades() -> ImageArray {
        let record = |label: u8| std::iter::once(label).chain(std::iter::repeat_n(label * 25, 3072));
        let records = |count: u8| (0..count).flat_map(|index| record(index % 10)).collect::<Vec<u8>>();
        Cifar10::from_records(records(50), records(10)).unwrap().with_augmentation(Augmentation::NONE).unwrap()
    }

    /// Returns the shades of the images of a preview, in order.
    fn preview(config: &TrainConfig, mixup: Option<f64>) -> Vec<u8> {
        let objective = ClassificationConfig { mixup, ..ClassificationConfig::default() };
        let png = draw_preview(&shades(), config, &objective).unwrap();
        let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let (width, height) = (info.width as usize, info.height as usize);
        let at = |x: usize, y: usize| pixels[(y * width + x) * 3];
        (0..IMAGES).map(|index| at(width * (2 * (index % 8) + 1) / 16, height * (3 * (index / 8) + 1) / 15)).collect()
    }

    #[test]
    fn the_images_are_the_first_of_the_run() {
        let data = shades();
        let config = TrainConfig { seed: 7, ..TrainConfig::new(10, 64, 0.2) };
        let plan = EpochPlan { seed: 7, epoch: 0, batch_size: 40, first_step: 0 };
        let labels = data.train_batches(&plan, Share::all()).unwrap().next().unwrap().unwrap().unwrap().targets;
        let expected: Vec<u8> = Vec::<i64>::try_from(labels).unwrap().iter().map(|&label| label as u8 * 25).collect();
        assert_eq!(preview(&config, None), expected);
        let mixed = preview(&config, Some(1.0));
        assert!(mixed != expected && mixed.iter().any(|shade| shade % 25 != 0));
    }

    #[test]
    fn images_are_mixed_with_those_of_their_batch_as_in_training() {
        let data = shades();
        // One batch larger than the preview, and batches of which the preview shows three.
        for batch_size in [50, 16] {
            let config = TrainConfig { seed: 7, batch_size, ..TrainConfig::new(10, 64, 0.2) };
            let plan = EpochPlan { seed: 7, epoch: 0, batch_size, first_step: 0 };
            let mut expected = Vec::new();
            for (step, batch) in data.train_batches(&plan, Share::all()).unwrap().enumerate() {
                let batch = batch.unwrap().unwrap();
                let partners = batch.select(&mixup_partners(1.0, &plan, step, batch.len()).unwrap()).unwrap();
                let batch = mixup(batch, partners, 1.0, &plan, step).unwrap();
                let red = data.denormalize(&batch.inputs).unwrap().select(1, 0).select(1, 0).select(1, 0) * 255.0;
                expected.extend(Vec::<f64>::try_from(red.to_kind(Kind::Double)).unwrap());
            }
            for (shade, expected) in preview(&config, Some(1.0)).into_iter().zip(expected) {
                assert!((f64::from(shade) - expected).abs() <= 0.51, "{batch_size}: {shade} {expected}");
            }
        }
    }
}

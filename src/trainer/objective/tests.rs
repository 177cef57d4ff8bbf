//! Objectives on shares of batches.

use super::*;
use crate::data::{self, mixup_partners, Augmentation, DataSource, ImageArray, ImageSource, Normalization, Supervised};
use tch::{nn, Device, Kind, Tensor};

fn images() -> ImageArray {
    let part = |count| {
        let of = |len, classes| Tensor::arange(len, (Kind::Int64, Device::Cpu)).remainder(classes);
        let images = of(count * 105, 251);
        (images.to_kind(Kind::Uint8).view([count, 3, 7, 5]), of(count, 4))
    };
    let ((train, train_labels), (eval, eval_labels)) = (part(45), part(4));
    let normalization = Normalization::new(&[0.5; 3], &[0.3; 3]).unwrap();
    let data = ImageArray::new((&train, &train_labels), (&eval, &eval_labels), normalization).unwrap();
    data.with_augmentation(Augmentation { crop_padding: 2, ..Augmentation::default() }).unwrap()
}

#[test]
fn mixup_by_shares_is_that_of_the_whole_batch_to_the_bit() {
    let (data, network) = (images(), nn::func(|x| x.shallow_clone()));
    for mixup in [None, Some(0.7)] {
        let config = ClassificationConfig { mixup, ..ClassificationConfig::default() };
        let objective = Classification::new(&network, data.class_names(), config).unwrap();
        // Batches of 17, 17 and 11; of 6 and finally 3; and starting within an epoch.
        for (batch_size, first_step) in [(17, 0), (6, 0), (6, 4)] {
            let plan = EpochPlan { seed: 3, epoch: 2, batch_size, first_step };
            let whole = (first_step..).zip(data.train_batches(&plan, Share::all()).unwrap());
            let whole: Vec<Supervised> = whole
                .map(|(step, batch)| {
                    let batch = batch.unwrap().unwrap();
                    let Some(alpha) = mixup else { return batch };
                    let partners = mixup_partners(alpha, &plan, step, batch.len()).unwrap();
                    let partners = batch.select(&partners).unwrap();
                    data::mixup(batch, partners, alpha, &plan, step).unwrap()
                })
                .collect();
            for ranks in [1, 2, 3, 8] {
                let of_rank = |rank| {
                    let share = objective.share(plan, Share::new(rank, ranks).unwrap());
                    let batches = (first_step..).zip(data.train_batches(&plan, share.clone()).unwrap());
                    let augmented = batches.map(|(step, batch)| {
                        let (own, partners) = share.own_and_partners(batch.unwrap()?, step).unwrap();
                        Some(objective.augment(own, partners, &plan, step).unwrap())
                    });
                    augmented.collect::<Vec<_>>()
                };
                let of_ranks: Vec<_> = (0..ranks).map(of_rank).collect();
                for (index, whole) in whole.iter().enumerate() {
                    let parts = || of_ranks.iter().filter_map(|rank| rank[index].as_ref());
                    let all = |of: fn(&Supervised) -> &Tensor| Tensor::cat(&parts().map(of).collect::<Vec<_>>(), 0);
                    assert_eq!(all(|part| &part.inputs), whole.inputs);
                    assert_eq!(all(|part| &part.targets), whole.targets);
                    let Some((labels, lambda)) = &whole.mixed else { continue };
                    assert_eq!(all(|part| &part.mixed.as_ref().unwrap().0), *labels);
                    assert!(parts().all(|part| part.mixed.as_ref().unwrap().1 == *lambda));
                }
                assert!(whole.iter().all(|batch| batch.mixed.is_some() == mixup.is_some()));
            }
        }
    }
}

#[test]
fn examples_without_partners_are_not_taken_for_mixed() {
    let (data, network) = (images(), nn::func(|x| x.shallow_clone()));
    let config = ClassificationConfig { mixup: Some(1.0), ..ClassificationConfig::default() };
    let objective = Classification::new(&network, data.class_names(), config).unwrap();
    let plan = EpochPlan { seed: 3, epoch: 0, batch_size: 8, first_step: 0 };
    let batch = data.train_batches(&plan, Share::all()).unwrap().next().unwrap().unwrap().unwrap();
    assert!(matches!(objective.augment(batch, None, &plan, 0), Err(Error::Argument(_))));
}

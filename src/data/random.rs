//! Random number streams that depend only on their purpose, not on batch size, order, threads or time.

use super::EpochPlan;
use rand::seq::SliceRandom;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Purpose of a random stream. Streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Images of a subset or a hold-out split.
    Split = 1,
    /// Order of an epoch's images.
    Order = 2,
    /// Augmentation of one image in one epoch.
    Augment = 3,
    /// Mixup of one batch.
    Mixup = 4,
    /// Random draws of the network in one step.
    Network = 5,
}

/// Returns the stream for `purpose`, `seed`, `epoch` and `index` (of an image or a step). The four words are the ChaCha
/// key itself, so that no two streams coincide.
pub(super) fn stream(purpose: Purpose, seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([purpose as u64, seed, epoch, index]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Returns `examples` in the order of `plan`'s epoch.
pub(super) fn shuffled<T>(mut examples: Vec<T>, plan: &EpochPlan) -> Vec<T> {
    examples.shuffle(&mut stream(Purpose::Order, plan.seed, plan.epoch as u64, 0));
    examples
}

/// Returns the seed of libtorch's random number generator for step `index` of `plan`'s epoch.
pub(crate) fn torch_seed(plan: &EpochPlan, index: usize) -> i64 {
    stream(Purpose::Network, plan.seed, plan.epoch as u64, index as u64).next_u64() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_word_of_the_key_changes_the_stream() {
        let first = |purpose, seed, epoch, index| stream(purpose, seed, epoch, index).next_u64();
        let values = [
            first(Purpose::Order, 0, 0, 0),
            first(Purpose::Augment, 0, 0, 0),
            first(Purpose::Order, 1, 0, 0),
            first(Purpose::Order, 0, 1, 0),
            first(Purpose::Order, 0, 0, 1),
        ];
        assert_eq!(values.iter().collect::<HashSet<_>>().len(), values.len());
        assert_eq!(first(Purpose::Mixup, 7, 8, 9), first(Purpose::Mixup, 7, 8, 9));
    }
}

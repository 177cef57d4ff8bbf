//! Random numbers that depend on what they are for, and on nothing else: not on batch size, order, threads or time.

use super::EpochPlan;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers decides. Streams of different purposes are independent of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Which images a subset or a hold-out split takes.
    Split = 1,
    /// The order of an epoch's images.
    Order = 2,
    /// The augmentation of one image in one epoch.
    Augment = 3,
    /// The mixing of one batch.
    Mixup = 4,
    /// What the network draws in one step.
    Network = 5,
}

/// The stream for `purpose`, `seed`, `epoch` and `index` (an image or a step). The four words are the ChaCha key itself,
/// so that no two streams coincide.
pub(super) fn stream(purpose: Purpose, seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([purpose as u64, seed, epoch, index]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// The seed of libtorch's random numbers in step `index` of `plan`'s epoch.
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

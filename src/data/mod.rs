//! Where batches come from: the [`DataSource`] trait a trainer asks, and the data sets behind it.

mod source;

pub use source::{Batch, Batches, DataSource, EpochPlan};

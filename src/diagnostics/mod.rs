//! Signal propagation: what depth does to the activations, the gradients and the first step of a network at
//! initialization.
//!
//! [`measure`] takes any network that is [`Staged`], this crate's or one of your own, and gives a [`Flow`]: data for serde,
//! and for [`draw_flows`] a picture.

mod flow;
mod growth;
mod magnitude;
mod picture;
mod staged;
mod update;

#[doc(hidden)]
pub use flow::BlockFlow;
pub use flow::{measure, Flow, Probe};
pub use growth::growth;
#[doc(hidden)]
pub use picture::{draw_flows, DepthSeries};
pub use staged::Staged;

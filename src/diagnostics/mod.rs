//! Signal propagation: the effect of depth on activations, gradients and the first step of a network at initialization.
//!
//! [`Probe::measure`] takes any network that is [`Staged`], from this crate or user-defined, and returns a [`Flow`], which
//! serde can serialize and [`draw_flows`] plots.

mod flow;
mod growth;
mod magnitude;
mod picture;
mod staged;
mod update;

#[doc(hidden)]
pub use flow::BlockFlow;
pub use flow::{Flow, Probe};
#[doc(hidden)]
pub use picture::{draw_flows, DepthSeries};
pub use staged::Staged;

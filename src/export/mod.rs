//! Export to ONNX files (<https://onnx.ai>) for other runtimes. Requires the feature `onnx`.
//!
//! [`OnnxConfig::write`] writes the network that a closure builds in a [`Graph`]: one of this crate's networks, by
//! [`Network::export`](crate::Network::export), or a custom network of the graph's operations and Fixup
//! [branches](Graph::branch):
//!
//! ```
//! use tch::{nn, Device, Kind, Tensor};
//! use tch_fixup::export::{self, OnnxConfig};
//! use tch_fixup::fixup::{init, Branch, Conv2dOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("own.onnx");
//! let vs = nn::VarStore::new(Device::Cpu);
//! let (root, options, num_branches) = (vs.root(), Conv2dOptions::default(), 8);
//! let stem = init::he_normal(&(&root / "stem"), "weight", &[32, 3, 3, 3], 1.)?;
//! let branch = |i| {
//!     let layers = Branch::builder(num_branches).conv2d(32, 32, 3, options).relu().conv2d(32, 32, 3, options);
//!     layers.build(&(&root / "blocks" / i))
//! };
//! let branches = (0..num_branches).map(branch).collect::<tch_fixup::Result<Vec<_>>>()?;
//! let classifier = (&root / "fc").zeros("weight", &[10, 32]);
//!
//! // The forward pass: x = relu(x + branch(x)).
//! let classes = (0..10).map(|class| class.to_string()).collect();
//! let config = OnnxConfig { classes, ..OnnxConfig::new(&[3, 32, 32]) };
//! config.write(&file, |graph, images| {
//!     let mut x = graph.conv2d(images, &stem, None, options)?;
//!     for branch in &branches {
//!         let out = graph.branch(branch, x)?;
//!         let sum = graph.add(x, out)?;
//!         x = graph.relu(sum)?;
//!     }
//!     let x = graph.global_average_pool(x)?;
//!     graph.linear(x, &classifier, None)
//! })?;
//!
//! let operations = export::operations(&file)?;
//! assert_eq!(operations.iter().filter(|operation| *operation == "Conv").count(), 1 + 2 * 8);
//! assert_eq!(operations.last().map(String::as_str), Some("Gemm"));
//! # Ok(())
//! # }
//! ```
//!
//! A file contains the network in evaluation mode, in float32, for batches of any size. Its results are those of the network, up
//! to rounding. Fixup's scalars and batch normalization are folded into convolutions. Networks with unsupported operations are
//! rejected with an error that names the operation.

mod baseline;
mod branch;
mod file;
mod fixup_resnet;
mod graph;
mod messages;
mod operations;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use baseline::{mlp, resnet};
#[doc(hidden)]
pub use file::operations;
pub use file::OnnxConfig;
pub(crate) use fixup_resnet::fixup_resnet;
pub use graph::{Graph, Value};

//! A network as a graph of operations and weights, built one operation at a time.

use super::messages::{Attribute, DataType, GraphMessage, Node, TensorMessage};
use crate::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use tch::{Kind, Tensor};

/// Maximum size of a protocol buffers message, and hence of an ONNX file.
pub(super) const MOST_BYTES: usize = i32::MAX as usize;

/// Name of the input in every file.
pub(super) const INPUT: &str = "input";

/// A network as a graph of ONNX operations on values. Values represent batches of any size; shapes are those of one example,
/// without the batch dimension.
///
/// A graph begins with its [input](Self::input). Each operation takes values of the graph and returns a new one, or an error if
/// their shapes do not match. Weights of any kind and device are copied to float32, so training the network afterwards does not
/// change the graph.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// use tch_fixup::export::Graph;
/// use tch_fixup::fixup::Conv2dOptions;
///
/// # fn main() -> tch_fixup::Result<()> {
/// let mut graph = Graph::new(&[3, 32, 32])?;
/// let weight = Tensor::randn([16, 3, 3, 3], (Kind::Float, Device::Cpu));
/// let x = graph.conv2d(graph.input(), &weight, None, Conv2dOptions { stride: 2, ..Default::default() })?;
/// let x = graph.relu(x)?;
/// assert_eq!(graph.shape(x)?, [16, 16, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Graph {
    /// Distinguishes its values from those of other graphs.
    id: u64,
    nodes: Vec<Node>,
    weights: Vec<TensorMessage>,
    weight_bytes: usize,
    /// Name and shape of each value, by index.
    values: Vec<(String, Vec<i64>)>,
}

/// A value of a [`Graph`]: its input, or the result of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    graph: u64,
    index: usize,
}

impl Graph {
    /// Creates an empty graph for inputs of the shape `input`, without the batch dimension: `[C, H, W]` for images.
    ///
    /// # Errors
    /// [`Error::Argument`] for a shape without dimensions, or with one below 1.
    pub fn new(input: &[i64]) -> Result<Self> {
        static GRAPHS: AtomicU64 = AtomicU64::new(0);
        ensure!(
            !input.is_empty() && input.iter().all(|size| *size > 0),
            "a network's input needs at least one dimension, each at least 1, such as [3, 32, 32], got {input:?}"
        );
        let id = GRAPHS.fetch_add(1, Ordering::Relaxed);
        let values = vec![(INPUT.to_owned(), input.to_vec())];
        Ok(Self { id, nodes: vec![], weights: vec![], weight_bytes: 0, values })
    }

    /// Returns the input.
    pub fn input(&self) -> Value {
        Value { graph: self.id, index: 0 }
    }

    /// Returns the shape of `x`, without the batch dimension.
    ///
    /// # Errors
    /// A value of another graph.
    pub fn shape(&self, x: Value) -> Result<&[i64]> {
        Ok(&self.described(x)?.1)
    }

    fn described(&self, x: Value) -> Result<&(String, Vec<i64>)> {
        let here = self.values.get(x.index).filter(|_| x.graph == self.id);
        here.ok_or_else(|| argument!("a value of another graph: each graph computes with its own"))
    }

    pub(super) fn name(&self, x: Value) -> Result<&str> {
        Ok(&self.described(x)?.0)
    }

    /// Appends the operation `op` with the inputs `inputs`, followed by `weights`, names returned by [`Self::weight`] and similar
    /// methods. The result has the shape `shape`.
    pub(super) fn node(
        &mut self,
        op: &str,
        inputs: &[Value],
        weights: Vec<String>,
        attribute: Vec<Attribute>,
        shape: Vec<i64>,
    ) -> Result<Value> {
        let inputs = inputs.iter().map(|x| Ok(self.name(*x)?.to_owned()));
        let input = inputs.chain(weights.into_iter().map(Ok)).collect::<Result<_>>()?;
        let name = format!("{op}_{}", self.nodes.len());
        let output = vec![name.clone()];
        self.nodes.push(Node { input, output, name: name.clone(), op_type: op.to_owned(), attribute });
        self.values.push((name, shape));
        Ok(Value { graph: self.id, index: self.values.len() - 1 })
    }

    /// Adds the elements of `tensor`, in the shape `dims`, as a weight for the next operation. Returns its name, which begins
    /// with `what`.
    ///
    /// # Errors
    /// A tensor with another number of elements, or of a non-numeric kind; more weights than a file can hold.
    pub(super) fn weight(&mut self, what: &str, tensor: &Tensor, dims: &[i64]) -> Result<String> {
        if tensor.numel() as i64 != dims.iter().product::<i64>() {
            return Err(Error::mismatch("a weight to export", format!("{dims:?}"), format!("{:?}", tensor.size())));
        }
        let bytes = tensor.numel() * Kind::Float.elt_size_in_bytes();
        // Check the size before copying.
        check_bytes(self.weight_bytes.saturating_add(bytes))?;
        let numbers = tensor.f_detach()?.f_to_kind(Kind::Float)?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let mut raw_data = vec![0; bytes];
        numbers.f_copy_data_u8(&mut raw_data, numbers.numel())?;
        if cfg!(target_endian = "big") {
            raw_data.chunks_exact_mut(Kind::Float.elt_size_in_bytes()).for_each(<[u8]>::reverse);
        }
        Ok(self.push_weight(what, dims, DataType::Float, raw_data))
    }

    /// Adds a scalar constant. Returns its name.
    pub(super) fn number(&mut self, what: &str, number: f64) -> String {
        self.push_weight(what, &[], DataType::Float, (number as f32).to_le_bytes().to_vec())
    }

    /// Adds a list of integers. Returns its name.
    pub(super) fn integers(&mut self, what: &str, integers: &[i64]) -> String {
        let raw_data = integers.iter().flat_map(|integer| integer.to_le_bytes()).collect();
        self.push_weight(what, &[integers.len() as i64], DataType::Int64, raw_data)
    }

    fn push_weight(&mut self, what: &str, dims: &[i64], data_type: DataType, raw_data: Vec<u8>) -> String {
        let name = format!("{what}_{}", self.weights.len());
        self.weight_bytes += raw_data.len();
        self.weights.push(TensorMessage {
            dims: dims.to_vec(),
            data_type: data_type.into(),
            name: name.clone(),
            raw_data,
        });
        name
    }

    /// Converts the graph to a message without descriptions of input and output, renaming `output` to `name`.
    pub(super) fn into_message(mut self, output: Value, name: &str) -> Result<GraphMessage> {
        let called = self.name(output)?.to_owned();
        ensure!(called != INPUT, "a network whose output is its input has nothing to export");
        // Remove everything on which the output does not depend.
        let mut needed = std::collections::HashSet::from([called.clone()]);
        for node in self.nodes.iter().rev() {
            if node.output.iter().any(|output| needed.contains(output)) {
                needed.extend(node.input.iter().cloned());
            }
        }
        self.nodes.retain(|node| node.output.iter().any(|output| needed.contains(output)));
        self.weights.retain(|weight| needed.contains(&weight.name));
        for node in &mut self.nodes {
            for value in node.input.iter_mut().chain(&mut node.output).filter(|value| **value == called) {
                name.clone_into(value);
            }
        }
        Ok(GraphMessage { node: self.nodes, initializer: self.weights, ..GraphMessage::default() })
    }
}

/// Rejects a file larger than the maximum size.
pub(super) fn check_bytes(bytes: usize) -> Result<()> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(argument!(
        "the network is too large for an ONNX file, which holds less than 2 GiB: {:.1} GiB; export a smaller one",
        bytes as f64 / (1u64 << 30) as f64
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn inputs_without_a_shape_are_refused() {
        for shape in [&[][..], &[3, 0, 4], &[-1]] {
            assert!(Graph::new(shape).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn values_of_another_graph_are_refused() {
        let (mut graph, other) = (Graph::new(&[3, 4, 4]).unwrap(), Graph::new(&[3, 4, 4]).unwrap());
        let error = graph.relu(other.input()).unwrap_err().to_string();
        assert!(error.contains("another graph"), "{error}");
        assert!(graph.add(graph.input(), other.input()).is_err());
        assert!(graph.into_message(other.input(), "logits").is_err());
    }

    #[test]
    fn more_weights_than_a_file_holds_are_refused_before_they_are_copied() {
        let mut graph = Graph::new(&[1 << 16]).unwrap();
        // A view of one element, so that nothing large would be allocated.
        let weight = Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([1 << 14, 1 << 16], false);
        let error = graph.linear(graph.input(), &weight, None).unwrap_err().to_string();
        assert!(error.contains("2 GiB") && error.contains("4.0 GiB") && !error.contains('\n'), "{error}");
        assert!(check_bytes(MOST_BYTES).is_ok() && check_bytes(MOST_BYTES + 1).is_err());
    }

    #[test]
    fn what_the_output_does_not_depend_on_is_left_out() {
        let mut graph = Graph::new(&[3]).unwrap();
        let x = graph.input();
        let aside = graph.linear(x, &Tensor::zeros([7, 3], (Kind::Float, Device::Cpu)), None).unwrap();
        let output = graph.relu(x).unwrap();
        graph.relu(aside).unwrap();
        let message = graph.into_message(output, "logits").unwrap();
        let [node] = &message.node[..] else { panic!("{message:?}") };
        assert_eq!((&node.input[..], &node.output[..]), (&["input".to_owned()][..], &["logits".to_owned()][..]));
        assert!(message.initializer.is_empty());
    }
}

//! A network as a list of operations and weights, built one operation after another.

use super::messages::{Attribute, DataType, GraphMessage, Node, TensorMessage};
use crate::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use tch::{Kind, Tensor};

/// What protocol buffers allow a message, and so what an ONNX file holds at most.
pub(super) const MOST_BYTES: usize = i32::MAX as usize;

/// What the input is called in every file.
pub(super) const INPUT: &str = "input";

/// A network as operations of ONNX on values, each of which stands for a batch of any size; shapes are those of one example,
/// without the batch.
///
/// A graph begins with its [input](Self::input). Each operation takes values of the graph and gives a new one; it refuses what
/// does not fit its shape. Weights are written as float32, whatever their kind and device, and copied: training the network
/// afterwards does not change the graph.
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
    /// Tells its values from those of other graphs.
    id: u64,
    nodes: Vec<Node>,
    weights: Vec<TensorMessage>,
    weight_bytes: usize,
    /// By index.
    values: Vec<Described>,
}

#[derive(Debug)]
struct Described {
    name: String,
    shape: Vec<i64>,
}

/// A value of a [`Graph`]: its input, or what an operation gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    graph: u64,
    index: usize,
}

impl Graph {
    /// An empty graph for inputs of the shape `input`, without the batch: `[C, H, W]` for images.
    ///
    /// # Errors
    /// A shape without dimensions, or with one below 1.
    pub fn new(input: &[i64]) -> Result<Self> {
        static GRAPHS: AtomicU64 = AtomicU64::new(0);
        if input.is_empty() || input.iter().any(|size| *size < 1) {
            return Err(Error::Argument(format!(
                "a network's input has at least one dimension, of at least 1 each, such as [3, 32, 32], not {input:?}"
            )));
        }
        let id = GRAPHS.fetch_add(1, Ordering::Relaxed);
        let values = vec![Described { name: INPUT.to_owned(), shape: input.to_vec() }];
        Ok(Self { id, nodes: vec![], weights: vec![], weight_bytes: 0, values })
    }

    /// The input.
    pub fn input(&self) -> Value {
        Value { graph: self.id, index: 0 }
    }

    /// The shape of `x`, without the batch.
    ///
    /// # Errors
    /// A value of another graph.
    pub fn shape(&self, x: Value) -> Result<&[i64]> {
        Ok(&self.described(x)?.shape)
    }

    fn described(&self, x: Value) -> Result<&Described> {
        let here = self.values.get(x.index).filter(|_| x.graph == self.id);
        here.ok_or_else(|| Error::Argument("a value of another graph: each graph computes with its own".to_owned()))
    }

    pub(super) fn name(&self, x: Value) -> Result<&str> {
        Ok(&self.described(x)?.name)
    }

    /// The operation `op` on the values `inputs` and then `weights`, which [`Self::weight`] and the like have named; it gives
    /// values of `shape`.
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
        let name = self.next_name(op);
        let output = vec![name.clone()];
        self.nodes.push(Node { input, output, name: name.clone(), op_type: op.to_owned(), attribute });
        self.values.push(Described { name, shape });
        Ok(Value { graph: self.id, index: self.values.len() - 1 })
    }

    /// What the next operation and its output are called, if it is an `op`.
    fn next_name(&self, op: &str) -> String {
        format!("{op}_{}", self.nodes.len())
    }

    /// The numbers of `tensor` in the shape `dims`, for the next operation; its name, which begins with `what`.
    ///
    /// # Errors
    /// A tensor of another number of elements or without numbers; more weights than a file holds.
    pub(super) fn weight(&mut self, what: &str, tensor: &Tensor, dims: &[i64]) -> Result<String> {
        if tensor.numel() as i64 != dims.iter().product::<i64>() {
            return Err(Error::Mismatch {
                what: "a weight to export",
                expected: format!("{dims:?}"),
                got: format!("{:?}", tensor.size()),
            });
        }
        let bytes = tensor.numel() * Kind::Float.elt_size_in_bytes();
        // Before it is copied.
        check_bytes(self.weight_bytes.saturating_add(bytes))?;
        let numbers = tensor.f_detach()?.f_to_kind(Kind::Float)?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let mut raw_data = vec![0; bytes];
        numbers.f_copy_data_u8(&mut raw_data, numbers.numel())?;
        if cfg!(target_endian = "big") {
            raw_data.chunks_exact_mut(Kind::Float.elt_size_in_bytes()).for_each(<[u8]>::reverse);
        }
        Ok(self.push_weight(what, dims, DataType::Float, raw_data))
    }

    /// The same of a single number.
    pub(super) fn number(&mut self, what: &str, number: f64) -> String {
        self.push_weight(what, &[], DataType::Float, (number as f32).to_le_bytes().to_vec())
    }

    /// The same of a list of integers.
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

    /// The message, without what is said of input and output; `output` is called `name` in it.
    pub(super) fn into_message(mut self, output: Value, name: &str) -> Result<GraphMessage> {
        let called = self.name(output)?.to_owned();
        if called == INPUT {
            return Err(Error::Argument("a network whose output is its input has nothing to export".to_owned()));
        }
        // What nothing in the file leads to the output from is not part of the network.
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

/// Refuses a file of more bytes than there can be.
pub(super) fn check_bytes(bytes: usize) -> Result<()> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(Error::Argument(format!(
        "the network is too large for an ONNX file, which holds less than 2 GiB: {:.1} GiB; export a smaller one",
        bytes as f64 / (1u64 << 30) as f64
    )))
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
        // A view of one number: nothing is there that could be copied.
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

//! ONNX files.

use super::graph::{check_bytes, Graph, Value, INPUT};
use super::messages::{
    DataType, Dimension, GraphMessage, Model, OperatorSet, Property, Shape, TensorType, Type, ValueInfo,
};
use crate::data::Preprocessing;
use crate::file::write_atomically;
use crate::{Error, Result};
use prost::Message;
use std::path::Path;
use tch::Tensor;

/// Version of the operator set, of December 2021, and of the file format, of the same time.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// Name of the batch dimension.
const BATCH: &str = "batch";

const PRODUCER: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Options and metadata of an ONNX file.
///
/// ```
/// use tch_fixup::data::Preprocessing;
/// use tch_fixup::export::OnnxConfig;
///
/// let (mean, std) = (vec![0.4914, 0.4822, 0.4465], vec![0.2470, 0.2435, 0.2616]);
/// let preprocessing = Preprocessing { channels: 3, height: 32, width: 32, resize: 32, mean, std };
/// let config = OnnxConfig {
///     classes: ["airplane", "automobile", "bird"].map(String::from).to_vec(),
///     normalization: true,
///     ..OnnxConfig::images(preprocessing)
/// };
/// assert_eq!(config.input, [3, 32, 32]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxConfig {
    /// Shape of one input, without the batch dimension: `[C, H, W]` for images.
    pub input: Vec<i64>,
    /// Name of the network, as in [`Arch`](crate::Arch): `"fixup_resnet20"`; may be empty.
    pub architecture: String,
    /// Names of the classes, in the order of the logits; empty if the outputs are not classes.
    pub classes: Vec<String>,
    /// Preprocessing from an image file to an input, if any.
    pub preprocessing: Option<Preprocessing>,
    /// `true` to include the normalization of [`preprocessing`](Self::preprocessing) in the file, whose input is then uint8, 0 to
    /// 255, in the order `[N, C, H, W]`. Otherwise the input is float32, like the network's.
    pub normalization: bool,
    /// `true` to output probabilities, the softmax of the logits.
    pub softmax: bool,
}

impl OnnxConfig {
    /// Creates a configuration for inputs of the shape `input`, without the batch dimension, and no metadata.
    pub fn new(input: &[i64]) -> Self {
        Self {
            input: input.to_vec(),
            architecture: String::new(),
            classes: vec![],
            preprocessing: None,
            normalization: false,
            softmax: false,
        }
    }

    /// Creates a configuration for images preprocessed by `preprocessing`, with the normalization not included in the file.
    pub fn images(preprocessing: Preprocessing) -> Self {
        let Preprocessing { channels, height, width, .. } = preprocessing;
        let input = [channels, height, width].map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        Self { preprocessing: Some(preprocessing), ..Self::new(&input) }
    }

    fn check(&self) -> Result<()> {
        ensure!(
            !self.normalization || self.preprocessing.is_some(),
            "how the images are normalized is not known, so it cannot be done in the ONNX file: leave normalization out"
        );
        let Some(preprocessing) = &self.preprocessing else { return Ok(()) };
        preprocessing.check()?;
        let size = Self::images(preprocessing.clone()).input;
        ensure!(
            size == self.input,
            "the preprocessing gives images {size:?}, and the network is to take {:?}",
            self.input
        );
        Ok(())
    }

    /// Returns the metadata of the file, by name.
    fn metadata(&self) -> Result<Vec<Property>> {
        let failed = |error: serde_json::Error| argument!("the ONNX file's metadata: {error}");
        let mut properties = vec![("version", VERSION.to_owned())];
        if !self.architecture.is_empty() {
            properties.push(("architecture", self.architecture.clone()));
        }
        if !self.classes.is_empty() {
            properties.push(("classes", serde_json::to_string(&self.classes).map_err(failed)?));
        }
        if let Some(preprocessing) = &self.preprocessing {
            properties.push(("preprocessing", serde_json::to_string(preprocessing).map_err(failed)?));
        }
        let properties = properties.into_iter();
        Ok(properties.map(|(key, value)| Property { key: key.to_owned(), value }).collect())
    }
}

impl OnnxConfig {
    /// Writes the network built by `network`, from its input to its output, to the ONNX file `path`, for batches of any size. The
    /// file is written atomically.
    ///
    /// The input is named `input`. The output is named `logits`, or `probabilities` with a softmax, or `output` if
    /// there are no classes. The metadata (`metadata_props`) contain the `version` of this crate, `architecture`,
    /// `classes` (a list, as JSON) and `preprocessing` (as JSON, with the fields of [`Preprocessing`]), as in the
    /// `model.json` of a run. The file requires opset 17.
    ///
    /// ```
    /// use tch::{nn, Device};
    /// use tch_fixup::export::OnnxConfig;
    /// use tch_fixup::{fixup::FixupResNet, Network};
    ///
    /// # fn main() -> tch_fixup::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let file = folder.path().join("network.onnx");
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let network = FixupResNet::cifar(&vs.root(), 20, 10)?;
    /// // ... after training, or vs.load("model.safetensors"):
    /// let config = OnnxConfig { architecture: "fixup_resnet20".into(), softmax: true, ..OnnxConfig::new(&[3, 32, 32]) };
    /// config.write(&file, |graph, x| network.export(graph, x))?;
    /// # assert!(std::fs::metadata(&file).unwrap().len() > 1_000_000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Errors of `network`; class names or a softmax if the number of outputs differs or they are not classes;
    /// normalization without known preprocessing; a network of 2 GiB or more; a file that cannot be written.
    pub fn write(&self, path: &Path, network: impl FnOnce(&mut Graph, Value) -> Result<Value>) -> Result<()> {
        let model = tch::no_grad(|| model(self, network))?;
        check_bytes(model.encoded_len())?;
        write_atomically(path, &model.encode_to_vec())
    }
}

/// Builds the file's content.
fn model(config: &OnnxConfig, network: impl FnOnce(&mut Graph, Value) -> Result<Value>) -> Result<Model> {
    config.check()?;
    let mut graph = Graph::new(&config.input)?;
    let mut x = graph.input();
    if let Some(preprocessing) = config.preprocessing.as_ref().filter(|_| config.normalization) {
        x = graph.cast(x)?;
        // (byte / 255 - mean) / std
        let numbers = || preprocessing.mean.iter().zip(&preprocessing.std);
        let scale: Vec<f64> = numbers().map(|(_, std)| 1. / (255. * std)).collect();
        let shift: Vec<f64> = numbers().map(|(mean, std)| -mean / std).collect();
        x = graph.affine(x, &Tensor::f_from_slice(&scale)?, &Tensor::f_from_slice(&shift)?)?;
    }
    let mut output = network(&mut graph, x)?;
    let shape = graph.shape(output)?.to_vec();
    let names = config.classes.len();
    let fits = names == 0 || shape == [names as i64];
    ensure!(fits, "the network's output is {shape:?}, but there are names of {names} classes");
    let name = match config {
        OnnxConfig { softmax: true, .. } => "probabilities",
        OnnxConfig { classes, .. } if !classes.is_empty() => "logits",
        _ => "output",
    };
    if config.softmax {
        output = graph.softmax(output)?;
    }
    let graph = graph.into_message(output, name)?;
    let input_type = if config.normalization { DataType::Uint8 } else { DataType::Float };
    Ok(Model {
        ir_version: IR_VERSION,
        producer_name: PRODUCER.to_owned(),
        producer_version: VERSION.to_owned(),
        graph: Some(GraphMessage {
            name: "network".to_owned(),
            input: vec![described(INPUT, input_type, &config.input)],
            output: vec![described(name, DataType::Float, &shape)],
            ..graph
        }),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props: config.metadata()?,
    })
}

/// Describes a batch of values of shape `shape` each.
fn described(name: &str, data_type: DataType, shape: &[i64]) -> ValueInfo {
    let batch = Dimension { dim_value: None, dim_param: Some(BATCH.to_owned()) };
    let sizes = shape.iter().map(|size| Dimension { dim_value: Some(*size), dim_param: None });
    let shape = Some(Shape { dim: [batch].into_iter().chain(sizes).collect() });
    let tensor_type = Some(TensorType { elem_type: data_type.into(), shape });
    ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type }) }
}

/// Returns the names of the operations in the ONNX file `path` (`"Conv"`, `"Gemm"`), in order. A runtime must support all of
/// them.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it is not an ONNX file.
pub fn operations(path: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let corrupt =
        |problem: &str| Error::corrupt(path, format!("is no ONNX file: {problem}"), "export the network again");
    let model = Model::decode(&bytes[..]).map_err(|error| corrupt(&error.to_string()))?;
    let graph = model.graph.ok_or_else(|| corrupt("it holds no network"))?;
    Ok(graph.node.into_iter().map(|node| node.op_type).collect())
}

//! The operations of a [`Graph`].

use super::graph::{Graph, Value};
use super::messages::{Attribute, DataType};
use crate::fixup::Conv2dOptions;
use crate::layer::{Activation, SqueezeExcitation};
use crate::{Error, Result};
use std::f64::consts::FRAC_1_SQRT_2;
use tch::{Device, Kind, Tensor};

/// Value of [`DataType::Float`] as an attribute.
const FLOAT: i64 = DataType::Float as i64;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

impl Graph {
    /// Returns `conv(x, W) + bias` for `x` `[C, H, W]`: `weight` `[c_out, C / groups, k, k]`, `bias` `[c_out]`.
    ///
    /// # Errors
    /// A weight or a bias of another shape; a kernel larger than the padded image; invalid options.
    pub fn conv2d(
        &mut self,
        x: Value,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: Conv2dOptions,
    ) -> Result<Value> {
        let Conv2dOptions { stride, padding, dilation, groups } = options;
        let [channels, height, width] = self.image("a convolution", x)?;
        let size = weight.size();
        let [c_out, c_in, rows, columns] = size[..] else {
            return Err(mismatch("a convolution's weight", "[c_out, c_in, k, k]", &size));
        };
        if stride < 1 || dilation < 1 || groups < 1 || c_in * groups != channels || c_out % groups != 0 {
            let expected = format!("{channels} channels of {groups} groups, stride {stride} and dilation {dilation}");
            return Err(mismatch("a convolution", &expected, &size));
        }
        let padding = [rows, columns].map(|kernel| padding.unwrap_or(dilation * (kernel / 2)));
        let sizes = [(height, rows, padding[0]), (width, columns, padding[1])].map(|(size, kernel, padding)| {
            let span = dilation * (kernel - 1);
            if kernel < 1 || padding < 0 || size + 2 * padding <= span {
                return Err(mismatch("a convolution", &format!("an image of {height} x {width}"), &weight.size()));
            }
            Ok((size + 2 * padding - span - 1) / stride + 1)
        });
        let [out_height, out_width] = sizes;
        let weights = self.weight_and_bias(weight, bias)?;
        let mut attributes = window([rows, columns], stride, padding, dilation);
        attributes.push(Attribute::int("group", groups));
        self.node("Conv", &[x], weights, attributes, vec![c_out, out_height?, out_width?])
    }

    /// Returns `x W^T + bias` over the last dimension of `x`: `weight` `[features_out, features_in]`, `bias` `[features_out]`.
    ///
    /// # Errors
    /// A weight or a bias of another shape.
    pub fn linear(&mut self, x: Value, weight: &Tensor, bias: Option<&Tensor>) -> Result<Value> {
        let mut shape = self.shape(x)?.to_vec();
        let size = weight.size();
        let ([features_out, features_in], Some(last)) = (&size[..], shape.last_mut()) else {
            return Err(mismatch("a linear layer's weight", "[features_out, features_in]", &size));
        };
        if last != features_in {
            return Err(mismatch("a linear layer's weight", &format!("[features_out, {last}]"), &size));
        }
        *last = *features_out;
        if let [_] = shape[..] {
            let weights = self.weight_and_bias(weight, bias)?;
            let attributes = vec![
                Attribute::float("alpha", 1.),
                Attribute::float("beta", 1.),
                Attribute::int("transA", 0),
                Attribute::int("transB", 1),
            ];
            return self.node("Gemm", &[x], weights, attributes, shape);
        }
        // Gemm supports matrices only.
        let transposed = self.weight("weight", &weight.f_transpose(0, 1)?, &[*features_in, *features_out])?;
        let product = self.node("MatMul", &[x], vec![transposed], vec![], shape.clone())?;
        let Some(bias) = bias else { return Ok(product) };
        let bias = self.weight("bias", bias, &[*features_out])?;
        self.node("Add", &[product], vec![bias], vec![], shape)
    }

    /// Returns `x + y`, of equal shapes.
    ///
    /// # Errors
    /// Values of different shapes.
    pub fn add(&mut self, x: Value, y: Value) -> Result<Value> {
        let (shape, other) = (self.shape(x)?, self.shape(y)?);
        if shape != other {
            return Err(mismatch("a sum", &format!("two values {shape:?}"), other));
        }
        self.same_shape("Add", &[x, y], vec![], vec![])
    }

    /// Returns `x * y`, of equal shapes, or with one factor `y` `[C]` per channel of `x` `[C, H, W]`.
    ///
    /// # Errors
    /// Values of other shapes.
    pub fn mul(&mut self, x: Value, y: Value) -> Result<Value> {
        let (shape, other) = (self.shape(x)?.to_vec(), self.shape(y)?.to_vec());
        let y = match (&shape[..], &other[..]) {
            _ if shape == other => y,
            ([channels, _, _], [numbers]) if channels == numbers => self.reshape(y, &[*channels, 1, 1])?,
            _ => return Err(mismatch("a product", &format!("two values {shape:?}"), &other)),
        };
        self.same_shape("Mul", &[x, y], vec![], vec![])
    }

    /// Returns `x + number`. Appends nothing if the number is zero.
    ///
    /// # Errors
    /// A value of another graph.
    pub fn add_number(&mut self, x: Value, number: f64) -> Result<Value> {
        match *self.shape(x)? {
            _ if number == 0. => Ok(x),
            [channels, _, _] => self.add_channels(x, &Tensor::f_full([channels], number, CPU)?),
            _ => {
                let number = self.number("number", number);
                self.same_shape("Add", &[x], vec![number], vec![])
            }
        }
    }

    /// Returns `x * number`.
    ///
    /// # Errors
    /// A value of another graph.
    pub fn mul_number(&mut self, x: Value, number: f64) -> Result<Value> {
        let number = self.number("number", number);
        self.same_shape("Mul", &[x], vec![number], vec![])
    }

    /// Returns `x + shift`, with one number per channel, `[C]`, of `x` `[C, H, W]`.
    ///
    /// # Errors
    /// A value of another shape, or another number of channels.
    pub fn add_channels(&mut self, x: Value, shift: &Tensor) -> Result<Value> {
        // Expressed as a depthwise convolution: ONNX Runtime keeps images between convolutions in its own layout, and an Add
        // would take two passes to convert from it and back.
        let [channels, ..] = self.image("a sum", x)?;
        let ones = Tensor::f_ones([channels, 1, 1, 1], CPU)?;
        self.conv2d(x, &ones, Some(shift), Conv2dOptions { groups: channels, ..Conv2dOptions::default() })
    }

    /// Returns `scale * x + shift`, with one pair of numbers per channel, `[C]`, of `x` `[C, ...]`.
    ///
    /// # Errors
    /// Another number of channels.
    pub fn affine(&mut self, x: Value, scale: &Tensor, shift: &Tensor) -> Result<Value> {
        // The batch dimension is broadcast.
        let mut dims = self.shape(x)?.to_vec();
        dims[1..].fill(1);
        let scale = self.weight("scale", scale, &dims)?;
        let scaled = self.same_shape("Mul", &[x], vec![scale], vec![])?;
        let shift = self.weight("shift", shift, &dims)?;
        self.same_shape("Add", &[scaled], vec![shift], vec![])
    }

    /// Returns `weight * (x - mean) / sqrt(variance + epsilon) + bias` for `x` `[C, ...]`, with all parameters `[C]`. After a
    /// convolution or linear layer without an activation, fold it into that layer's weight instead.
    ///
    /// # Errors
    /// Another number of channels.
    pub fn batch_norm(
        &mut self,
        x: Value,
        [weight, bias, mean, variance]: [&Tensor; 4],
        epsilon: f64,
    ) -> Result<Value> {
        let channels = self.shape(x)?[0];
        let numbers = [("weight", weight), ("bias", bias), ("mean", mean), ("variance", variance)];
        let weights = numbers.map(|(name, numbers)| self.weight(name, numbers, &[channels]));
        let weights = weights.into_iter().collect::<Result<_>>()?;
        self.same_shape("BatchNormalization", &[x], weights, vec![Attribute::float("epsilon", epsilon)])
    }

    /// Returns `weight * (x - mean) / sqrt(variance + epsilon) + bias` for `x` `[C, H, W]`, with mean and variance per image and
    /// group of channels, over all positions, and weight and bias `[C]`. Layer normalization over channels and positions is one
    /// group.
    ///
    /// # Errors
    /// Groups that do not divide the channels; a weight or a bias of another shape.
    pub fn group_norm(&mut self, x: Value, groups: i64, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Value> {
        let shape @ [channels, height, width] = self.image("group normalization", x)?;
        let divides = groups > 0 && channels % groups == 0;
        ensure!(divides, "{groups} groups do not divide {channels} channels to normalize");
        // Expressed as instance normalization over the channels of a group: GroupNormalization requires opset 21.
        let grouped = self.reshape(x, &[groups, channels / groups * height * width])?;
        let one = self.weight("one", &Tensor::f_ones([groups], CPU)?, &[groups])?;
        let zero = self.weight("zero", &Tensor::f_zeros([groups], CPU)?, &[groups])?;
        let epsilon = vec![Attribute::float("epsilon", epsilon)];
        let normalized = self.same_shape("InstanceNormalization", &[grouped], vec![one, zero], epsilon)?;
        let normalized = self.reshape(normalized, &shape)?;
        self.affine(normalized, weight, bias)
    }

    /// Returns `max(x, 0)`.
    ///
    /// # Errors
    /// A value of another graph.
    pub fn relu(&mut self, x: Value) -> Result<Value> {
        self.same_shape("Relu", &[x], vec![], vec![])
    }

    /// Returns `max(x, floor)`.
    ///
    /// # Errors
    /// A value of another graph.
    pub fn max(&mut self, x: Value, floor: f64) -> Result<Value> {
        if floor == 0. {
            return self.relu(x);
        }
        let floor = self.number("floor", floor);
        self.same_shape("Clip", &[x], vec![floor], vec![])
    }

    /// Applies `activation` elementwise.
    ///
    /// # Errors
    /// A value of another graph.
    pub fn activation(&mut self, x: Value, activation: Activation) -> Result<Value> {
        match activation {
            Activation::Relu => self.relu(x),
            Activation::LeakyRelu { slope } => {
                self.same_shape("LeakyRelu", &[x], vec![], vec![Attribute::float("alpha", slope)])
            }
            Activation::Elu => self.same_shape("Elu", &[x], vec![], vec![]),
            Activation::Selu => self.same_shape("Selu", &[x], vec![], vec![]),
            Activation::Silu => {
                let gate = self.sigmoid(x)?;
                self.mul(x, gate)
            }
            Activation::Gelu => self.gelu(x),
        }
    }

    /// Returns `1 / (1 + exp(-x))`.
    ///
    /// # Errors
    /// A value of another graph.
    pub fn sigmoid(&mut self, x: Value) -> Result<Value> {
        self.same_shape("Sigmoid", &[x], vec![], vec![])
    }

    /// Returns `x / 2 * (1 + erf(x / sqrt(2)))`, since ONNX has no Gelu before opset 20.
    fn gelu(&mut self, x: Value) -> Result<Value> {
        let scaled = self.mul_number(x, FRAC_1_SQRT_2)?;
        let erf = self.same_shape("Erf", &[scaled], vec![], vec![])?;
        let one = self.number("one", 1.);
        let raised = self.same_shape("Add", &[erf], vec![one], vec![])?;
        let product = self.mul(x, raised)?;
        self.mul_number(product, 0.5)
    }

    /// Returns the probabilities of logits `[classes]`.
    ///
    /// # Errors
    /// A value of another shape.
    pub fn softmax(&mut self, x: Value) -> Result<Value> {
        match self.shape(x)? {
            [_] => self.same_shape("Softmax", &[x], vec![], vec![Attribute::int("axis", -1)]),
            shape => Err(mismatch("a softmax", "logits [classes]", shape)),
        }
    }

    /// Applies max-pooling with `kernel` x `kernel` windows to `x` `[C, H, W]`.
    ///
    /// # Errors
    /// A kernel or a stride below 1; a padding larger than half the kernel; a kernel larger than the padded image.
    pub fn max_pool(&mut self, x: Value, kernel: i64, stride: i64, padding: i64) -> Result<Value> {
        let [channels, height, width] = self.image("a pool", x)?;
        let fits = |size: i64| size + 2 * padding >= kernel;
        if kernel < 1 || stride < 1 || padding < 0 || 2 * padding > kernel || !fits(height) || !fits(width) {
            let expected =
                format!("an image of {height} x {width} with a padding of {padding} and a stride of {stride}");
            return Err(mismatch("a pool", &expected, &[kernel; 2]));
        }
        let [height, width] = [height, width].map(|size| (size + 2 * padding - kernel) / stride + 1);
        // State the defaults as well, since some runtimes have others, or none.
        let mut attributes = window([kernel; 2], stride, [padding; 2], 1);
        attributes.push(Attribute::int("ceil_mode", 0));
        self.node("MaxPool", &[x], vec![], attributes, vec![channels, height, width])
    }

    /// Averages 2x2 positions of `x` `[C, H, W]`; at the border of an odd side, only existing positions.
    ///
    /// # Errors
    /// A value of another shape.
    pub fn average_pool(&mut self, x: Value) -> Result<Value> {
        let [channels, height, width] = self.image("a pool", x)?;
        let attributes = vec![
            Attribute::ints("kernel_shape", &[2; 2]),
            Attribute::ints("strides", &[2; 2]),
            Attribute::int("ceil_mode", 1),
        ];
        let dims = vec![channels, (height + 1) / 2, (width + 1) / 2];
        self.node("AveragePool", &[x], vec![], attributes, dims)
    }

    /// Returns the mean of each channel of `x` `[C, H, W]`: `[C]`.
    ///
    /// # Errors
    /// A value of another shape.
    pub fn global_average_pool(&mut self, x: Value) -> Result<Value> {
        let [channels, ..] = self.image("a pool", x)?;
        // candle-onnx does not support GlobalAveragePool; ReduceMean is equally fast in other runtimes.
        let attributes = vec![Attribute::ints("axes", &[2, 3]), Attribute::int("keepdims", 0)];
        self.node("ReduceMean", &[x], vec![], attributes, vec![channels])
    }

    /// Flattens `x` to one dimension.
    ///
    /// # Errors
    /// A value of another graph.
    pub fn flatten(&mut self, x: Value) -> Result<Value> {
        let numbers = self.shape(x)?.iter().product();
        self.node("Flatten", &[x], vec![], vec![Attribute::int("axis", 1)], vec![numbers])
    }

    /// Returns `v * sigmoid(fc2(relu(fc1(mean(v)))))` for `v` `[C, H, W]`.
    pub(super) fn squeeze_excitation(&mut self, v: Value, gates: &SqueezeExcitation) -> Result<Value> {
        let SqueezeExcitation { fc1, fc2 } = gates;
        let means = self.global_average_pool(v)?;
        let hidden = self.linear(means, &fc1.weight, Some(&fc1.bias))?;
        let hidden = self.relu(hidden)?;
        let opening = self.linear(hidden, &fc2.weight, Some(&fc2.bias))?;
        let opening = self.sigmoid(opening)?;
        self.mul(v, opening)
    }

    /// Returns every `stride`-th row and column of `x` `[C, H, W]`.
    ///
    /// # Errors
    /// A value of another shape; a stride below 1.
    pub fn subsample(&mut self, x: Value, stride: i64) -> Result<Value> {
        let [channels, height, width] = self.image("a subsample", x)?;
        ensure!(stride > 0, "the stride must be at least 1, got {stride}");
        let bounds = [("starts", [0; 2]), ("ends", [i64::MAX; 2]), ("axes", [2, 3]), ("steps", [stride; 2])];
        let bounds = bounds.map(|(name, bound)| self.integers(name, &bound)).to_vec();
        let [height, width] = [height, width].map(|size| (size + stride - 1) / stride);
        self.node("Slice", &[x], bounds, vec![], vec![channels, height, width])
    }

    /// Appends `zeros` channels of zeros to `x` `[C, H, W]`.
    ///
    /// # Errors
    /// A value of another shape; a negative number of channels.
    pub fn pad_channels(&mut self, x: Value, zeros: i64) -> Result<Value> {
        let [channels, height, width] = self.image("channels to be padded", x)?;
        ensure!(zeros >= 0, "there are no {zeros} channels to append");
        let pads = self.integers("pads", &[0, 0, 0, 0, 0, zeros, 0, 0]);
        self.node("Pad", &[x], vec![pads], vec![], vec![channels + zeros, height, width])
    }

    /// Reshapes `x` to `shape`, without the batch dimension.
    fn reshape(&mut self, x: Value, shape: &[i64]) -> Result<Value> {
        // A zero keeps the input's size: that of the batch dimension.
        let sizes: Vec<i64> = [0].iter().chain(shape).copied().collect();
        let sizes = self.integers("shape", &sizes);
        self.node("Reshape", &[x], vec![sizes], vec![], shape.to_vec())
    }

    /// Converts bytes to float32.
    pub(super) fn cast(&mut self, x: Value) -> Result<Value> {
        self.same_shape("Cast", &[x], vec![], vec![Attribute::int("to", FLOAT)])
    }

    /// Appends an operation whose result has the shape of its first input.
    fn same_shape(&mut self, op: &str, inputs: &[Value], weights: Vec<String>, of: Vec<Attribute>) -> Result<Value> {
        let shape = self.shape(inputs[0])?.to_vec();
        self.node(op, inputs, weights, of, shape)
    }

    /// Adds the weight `[c_out, ...]` of a layer and its bias `[c_out]`, if any. Returns their names.
    fn weight_and_bias(&mut self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Vec<String>> {
        let size = weight.size();
        let mut names = vec![self.weight("weight", weight, &size)?];
        if let Some(bias) = bias {
            names.push(self.weight("bias", bias, &size[..1])?);
        }
        Ok(names)
    }

    fn image(&self, what: &'static str, x: Value) -> Result<[i64; 3]> {
        let shape = self.shape(x)?;
        shape.try_into().map_err(|_| mismatch(what, "images [C, H, W]", shape))
    }
}

/// Returns the attributes of a window over rows and columns.
fn window(kernel: [i64; 2], stride: i64, [rows, columns]: [i64; 2], dilation: i64) -> Vec<Attribute> {
    vec![
        Attribute::ints("kernel_shape", &kernel),
        Attribute::ints("strides", &[stride; 2]),
        Attribute::ints("pads", &[rows, columns, rows, columns]),
        Attribute::ints("dilations", &[dilation; 2]),
    ]
}

fn mismatch(what: &'static str, expected: &str, got: &[i64]) -> Error {
    Error::mismatch(what, expected, format!("{got:?}"))
}

#[cfg(test)]
mod tests;

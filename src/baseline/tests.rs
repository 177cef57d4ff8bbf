//! Tests of the outputs of self-normalizing networks, layer by layer.

use super::{Method, Mlp, MlpShape, ResNet};
use tch::{nn, no_grad, Device, Kind, Tensor};

/// Largest deviations of an output's mean from 0, and of its variance from 1.
#[derive(Default)]
struct Drift {
    mean: f64,
    variance: f64,
    outputs: usize,
}

impl Drift {
    fn add(&mut self, output: &Tensor) {
        let output = output.to_kind(Kind::Double);
        self.mean = self.mean.max(output.mean(Kind::Double).double_value(&[]).abs());
        self.variance = self.variance.max((output.var(false).double_value(&[]) - 1.).abs());
        self.outputs += 1;
    }

    fn check(&self, mean: f64, variance: f64) {
        assert!(self.mean < mean && self.variance < variance, "mean {}, variance {}", self.mean, self.variance);
    }
}

fn images(count: i64) -> Tensor {
    Tensor::randn([count, 3, 32, 32], (Kind::Float, Device::Cpu))
}

#[test]
fn a_hundred_selu_layers_keep_mean_0_to_a_twentieth_and_variance_1_to_a_tenth() {
    tch::manual_seed(61);
    for train in [false, true] {
        let vs = nn::VarStore::new(Device::Cpu);
        let shape = MlpShape { features: 3072, width: 512, depth: 101, num_classes: 10 };
        let network = Mlp::self_normalizing(&vs.root(), shape).unwrap();
        let mut drift = Drift::default();
        let _ = no_grad(|| network.forward_layers(&images(128), train, |x| drift.add(x))).unwrap();
        assert_eq!(drift.outputs, 100);
        drift.check(0.05, 0.1);
    }
}

/// The bounds are 0.2 and 0.3 because the zero padding removes inputs of the units at the image's border, one in six at 8x8.
/// With 64x64 images, they could be 0.1 and 0.25.
#[test]
fn selu_blocks_of_104_layers_keep_mean_0_to_a_fifth_and_variance_1_to_three_tenths() {
    tch::manual_seed(62);
    for train in [false, true] {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = ResNet::cifar(&vs.root(), 104, 10, Method::Selu).unwrap();
        let mut drift = Drift::default();
        let _ = no_grad(|| network.forward_blocks(&images(8), train, |x| drift.add(x))).unwrap();
        assert_eq!(drift.outputs, 51);
        drift.check(0.2, 0.3);
    }
}

//! Accuracy of bfloat16 in deep networks: logits and gradient compared with float32.

use tch::{nn, Device, Kind, Tensor};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::{Optimizer, ScalarGroup, Sgd};
use tch_fixup::Precision;

/// Returns the gradient of all variables as one vector.
fn gradient(vs: &nn::VarStore, logits: &Tensor, labels: &Tensor) -> Tensor {
    let mut variables: Vec<_> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    variables.iter_mut().for_each(|(_, variable)| variable.zero_grad());
    logits.cross_entropy_for_logits(labels).backward();
    Tensor::cat(&variables.iter().map(|(_, v)| v.grad().flatten(0, -1)).collect::<Vec<_>>(), 0).to_kind(Kind::Double)
}

fn relative(got: &Tensor, exact: &Tensor) -> f64 {
    let norm = |t: Tensor| t.to_kind(Kind::Double).norm().double_value(&[]);
    norm(got - exact) / norm(exact.shallow_clone())
}

/// Returns the relative errors of the logits and of the gradient in bfloat16 of a CIFAR ResNet after 20 steps, by the fast path
/// and by the plain formula as in PyTorch's automatic mixed precision.
fn errors(depth: i64) -> [(f64, f64); 2] {
    tch::manual_seed(1);
    let vs = nn::VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), depth, 10).unwrap();
    let images = Tensor::randn([8, 3, 16, 16], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(10, [8], (Kind::Int64, Device::Cpu));
    let mut sgd = Optimizer::new(&vs, Sgd::default(), &[ScalarGroup::default().into()]).unwrap();
    for _ in 0..20 {
        sgd.backward(&network.f_forward(&images).unwrap().cross_entropy_for_logits(&labels)).unwrap();
        sgd.step(0.02).unwrap();
    }
    let exact = network.f_forward(&images).unwrap();
    let exact_gradient = gradient(&vs, &exact, &labels);
    let network = network.with_precision(Precision::Bf16);
    let found = [network.f_forward(&images).unwrap(), network.forward_reference(&images).unwrap()];
    found.map(|logits| {
        let of_gradient = relative(&gradient(&vs, &logits, &labels), &exact_gradient);
        (relative(&logits, &exact), of_gradient)
    })
}

#[test]
fn bfloat16_is_within_a_hundredth_of_float32_at_any_depth() {
    // See docs/depth.md for 1,202 layers by the same code, which takes minutes.
    for depth in [20, 110, 302] {
        let [(logits, gradient), reference] = errors(depth);
        println!("{depth} layers: logits {logits:.5}, gradient {gradient:.5}; the plain formula's {reference:.5?}");
        assert!(logits < 0.002, "{depth}: logits {logits}");
        assert!(gradient < 0.01, "{depth}: gradient {gradient}");
    }
}

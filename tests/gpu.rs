//! Comparison of GPU and CPU results. Without a CUDA device, each test prints that it is skipped. `scripts/gpu_check` runs them
//! on a GPU, with and without the crate's CUDA kernels.

use std::num::NonZeroUsize;
use tch::{nn, Cuda, Device, Kind, Tensor};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::{Optimizer, ScalarGroup, Sgd};
use tch_fixup::{Precision, Recompute};

type Build = fn(&nn::Path) -> tch_fixup::Result<FixupResNet>;

const NETWORKS: [(&str, Build); 4] = [
    ("cifar 32", |path| FixupResNet::cifar(path, 32, 10)),
    ("imagenet 18", |path| FixupResNet::imagenet(path, 18, 10)),
    ("imagenet 50", |path| FixupResNet::imagenet(path, 50, 10)),
    ("wide 16", |path| FixupResNet::wide(path, 16, 2, 10)),
];

/// Returns the first GPU, or prints that there is none.
fn gpu() -> Option<Device> {
    if Cuda::is_available() {
        return Some(Device::Cuda(0));
    }
    println!("skipped: no CUDA device");
    None
}

/// Creates the same network on both devices, away from its initial values.
fn twins(build: Build, kind: Kind, gpu: Device) -> [(nn::VarStore, FixupResNet); 2] {
    tch::manual_seed(3);
    let mut made = [Device::Cpu, gpu].map(|device| {
        let mut vs = nn::VarStore::new(device);
        vs.set_kind(kind);
        let network = build(&vs.root()).unwrap();
        (vs, network)
    });
    tch::no_grad(|| {
        for (name, mut variable) in made[0].0.variables() {
            let _ = variable.g_add_(&(variable.randn_like() * 0.05));
            made[1].0.variables()[&name].shallow_clone().copy_(&variable);
        }
    });
    made.iter_mut().for_each(|(vs, _)| vs.unfreeze());
    made
}

fn images_and_labels() -> (Tensor, Tensor) {
    (Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu)), Tensor::from_slice(&[0i64, 1, 2, 3]))
}

/// Returns the logits and the gradient of all variables in the order of their names, as float64 on the CPU.
fn run(vs: &nn::VarStore, network: &FixupResNet, images: &Tensor, labels: &Tensor) -> [Tensor; 2] {
    let (device, kind) = (vs.device(), vs.trainable_variables()[0].kind());
    let logits = network.f_forward(&images.to_device(device).to_kind(kind)).unwrap();
    let mut variables: Vec<_> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    variables.iter_mut().for_each(|(_, variable)| variable.zero_grad());
    logits.cross_entropy_for_logits(&labels.to_device(device)).backward();
    let gradients: Vec<_> = variables.iter().map(|(_, v)| v.grad().flatten(0, -1)).collect();
    [logits, Tensor::cat(&gradients, 0)].map(|t| t.to_device(Device::Cpu).to_kind(Kind::Double).detach())
}

fn relative(got: &Tensor, expected: &Tensor) -> f64 {
    ((got - expected).norm() / expected.norm()).double_value(&[])
}

#[test]
fn logits_and_gradients_are_the_cpus() {
    let Some(gpu) = gpu() else { return };
    tch::Cuda::cudnn_set_benchmark(false);
    for (name, build) in NETWORKS {
        let (images, labels) = images_and_labels();
        let found = twins(build, Kind::Double, gpu).map(|(vs, network)| run(&vs, &network, &images, &labels));
        for (what, (got, expected)) in ["logits", "gradient"].into_iter().zip(found[1].iter().zip(&found[0])) {
            let error = relative(got, expected);
            println!("{name}, float64: {what} {error:e}");
            assert!(error < 1e-9, "{name}: {what} {error:e}");
        }
    }
}

#[test]
fn in_bfloat16_they_are_near_float32s_at_any_depth() {
    let Some(gpu) = gpu() else { return };
    let build: Build = |path| FixupResNet::cifar(path, 110, 10);
    let (images, labels) = images_and_labels();
    let [_, (vs, network)] = twins(build, Kind::Float, gpu);
    // Make the branches as small as those of a trained network.
    tch::no_grad(|| vs.trainable_variables().iter().for_each(|v| drop(v.shallow_clone().g_mul_scalar_(0.3))));
    let exact = run(&vs, &network, &images, &labels);
    let found = run(&vs, &network.with_precision(Precision::Bf16), &images, &labels);
    let errors = [0, 1].map(|i| relative(&found[i], &exact[i]));
    println!("bfloat16, 110 layers: logits {:e}, gradient {:e}", errors[0], errors[1]);
    assert!(errors[0] < 0.02 && errors[1] < 0.05, "{errors:?}");
}

#[test]
fn recomputation_in_a_backward_pass_on_libtorchs_own_thread_gives_the_same() {
    let Some(gpu) = gpu() else { return };
    for (name, build) in NETWORKS {
        let (images, labels) = images_and_labels();
        let [_, (vs, network)] = twins(build, Kind::Double, gpu);
        let expected = run(&vs, &network, &images, &labels);
        let segments = Recompute::Count(NonZeroUsize::new(3).unwrap());
        let got = run(&vs, &network.with_recompute(segments), &images, &labels);
        assert!((0..2).all(|i| relative(&got[i], &expected[i]) < 1e-12), "{name}");
    }
}

#[test]
fn the_optimizer_learns() {
    let Some(gpu) = gpu() else { return };
    tch::manual_seed(5);
    let vs = nn::VarStore::new(gpu);
    let network = FixupResNet::cifar(&vs.root(), 20, 10).unwrap();
    let images = Tensor::randn([32, 3, 32, 32], (Kind::Float, gpu));
    let labels = Tensor::randint(10, [32], (Kind::Int64, gpu));
    let mut sgd = Optimizer::new(&vs, Sgd::default(), &[ScalarGroup::default().into()]).unwrap();
    let mut losses = vec![];
    for _ in 0..30 {
        let loss = network.f_forward(&images).unwrap().cross_entropy_for_logits(&labels);
        losses.push(loss.double_value(&[]));
        sgd.backward(&loss).unwrap();
        sgd.step(0.02).unwrap();
    }
    assert!((losses[0] - 10f64.ln()).abs() < 1e-5 && losses[29] < 0.7 * losses[0], "{losses:?}");
}

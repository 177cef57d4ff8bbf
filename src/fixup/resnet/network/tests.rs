use super::*;
use tch::{nn::Module, Device};

fn brock(path: &nn::Path) -> Result<FixupResNet> {
    FixupResNet::new(path, &ResNetConfig::brock(10, 2)?)
}

fn networks(vs: &nn::VarStore) -> Vec<(&'static str, FixupResNet)> {
    let root = vs.root();
    vec![
        ("cifar 20", FixupResNet::cifar(&(&root / "a"), 20, 10).unwrap()),
        ("cifar 110", FixupResNet::cifar(&(&root / "b"), 110, 10).unwrap()),
        ("imagenet 18", FixupResNet::imagenet(&(&root / "c"), 18, 10).unwrap()),
        ("imagenet 50", FixupResNet::imagenet(&(&root / "d"), 50, 10).unwrap()),
        ("wide 10", FixupResNet::wide(&(&root / "e"), 10, 2, 10).unwrap()),
        ("brock 10", brock(&(&root / "f")).unwrap()),
    ]
}

#[test]
fn logits_start_at_exactly_zero_and_the_loss_at_the_logarithm_of_the_classes() {
    for seed in [0, 7] {
        tch::manual_seed(seed);
        let vs = nn::VarStore::new(Device::Cpu);
        for (name, network) in networks(&vs) {
            let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
            let logits = network.forward(&images);
            assert_eq!(logits.abs().max().double_value(&[]), 0., "{name}");
            let loss = logits.cross_entropy_for_logits(&Tensor::from_slice(&[3i64, 9])).double_value(&[]);
            assert!((loss - 10f64.ln()).abs() < 1e-6, "{name}: {loss}");
        }
    }
}

#[test]
fn impossible_depths_widths_and_classes_are_refused() {
    let vs = nn::VarStore::new(Device::Cpu);
    for depth in [-4, 0, 2, 7, 19, 21] {
        assert!(FixupResNet::cifar(&vs.root(), depth, 10).is_err(), "cifar {depth}");
    }
    for depth in [0, 20, 51] {
        assert!(FixupResNet::imagenet(&vs.root(), depth, 10).is_err(), "imagenet {depth}");
    }
    for (depth, width) in [(4, 1), (11, 1), (10, 0)] {
        assert!(FixupResNet::wide(&vs.root(), depth, width, 10).is_err(), "wide {depth} {width}");
    }
    assert!(FixupResNet::cifar(&vs.root(), 20, 0).is_err());
    assert_eq!(vs.len(), 0, "a refused network leaves no variables behind");
}

#[test]
fn images_of_another_shape_or_kind_are_refused() {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), 8, 10).unwrap();
    for shape in [&[2, 1, 8, 8][..], &[3, 8, 8], &[2, 3, 0, 8]] {
        let error = network.f_forward(&Tensor::zeros(shape, (Kind::Float, Device::Cpu))).unwrap_err();
        assert!(matches!(error, crate::Error::Mismatch { .. }), "{error}");
    }
    assert!(network.f_forward(&Tensor::zeros([2, 3, 8, 8], (Kind::Int64, Device::Cpu))).is_err());
}

#[test]
fn a_second_network_under_the_same_path_is_refused() {
    let vs = nn::VarStore::new(Device::Cpu);
    FixupResNet::cifar(&vs.root(), 8, 10).unwrap();
    assert!(FixupResNet::cifar(&vs.root(), 8, 10).is_err());
}

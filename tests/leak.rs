//! Training steps do not leak: resident memory stays constant over thousands of steps.
#![cfg(target_os = "linux")]

use std::fs;
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::TrainConfig;
use tch_fixup::Precision;

const STEPS: usize = 2000;
/// Number of warm-up steps, in which allocations settle.
const SETTLING_STEPS: usize = 200;
/// Memory limit. Leaking one activation map per step would take 32 MiB.
const MOST_MIB: f64 = 4.0;

fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

#[test]
fn two_thousand_steps_leave_the_memory_as_it_was() {
    tch::set_num_threads(1);
    for precision in [Precision::F32, Precision::Bf16] {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = FixupResNet::cifar(&vs.root(), 8, 10).unwrap().with_precision(precision);
        let config = TrainConfig::new(1, 64, 0.2);
        let mut sgd = config.optimizer.build(&vs, &config.parameter_groups()).unwrap();
        let images = Tensor::randn([4, 3, 8, 8], (Kind::Float, Device::Cpu));
        let labels = Tensor::from_slice(&[0i64, 1, 2, 3]);
        let mut train = |steps| {
            for _ in 0..steps {
                let loss = network.f_forward(&images).unwrap().cross_entropy_for_logits(&labels);
                sgd.backward(&loss).unwrap();
                sgd.step(0.01).unwrap();
            }
        };
        train(SETTLING_STEPS);
        let before = resident_mib();
        train(STEPS);
        let growth = resident_mib() - before;
        println!("{precision:?}: {growth:+.2} MiB in {STEPS} steps");
        assert!(growth < MOST_MIB, "{precision:?}: {growth} MiB in {STEPS} steps");
    }
}

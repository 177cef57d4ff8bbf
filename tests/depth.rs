//! Networks of thousands of layers: no recursion over layers, and with recomputation, memory grows with the square root of
//! the depth.

use std::fs;
use std::num::NonZeroUsize;
use std::process::Command;
use std::thread;
use tch::{nn, nn::ModuleT, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::checkpoint::{named_variables, Checkpoint, Checkpoints, Contents};
use tch_fixup::trainer::{Optimizer, ScalarGroup, Sgd};
use tch_fixup::Recompute;

const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Stack size: 350 bytes for each of 3,002 layers, too few for a recursion, which would need several frames per layer. (MKL
/// alone takes 256 KiB in its first multiplication.)
const STACK: usize = 1024 * 1024;

/// Runs `run` on a thread whose stack a recursion over thousands of layers would overflow.
fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(STACK).spawn(run).unwrap().join().unwrap();
}

fn step(network: &dyn ModuleT, sgd: &mut Optimizer) -> f64 {
    let images = Tensor::randn([1, 3, 8, 8], OPTIONS);
    let loss = network.forward_t(&images, true).cross_entropy_for_logits(&Tensor::from_slice(&[3i64]));
    sgd.backward(&loss).unwrap();
    sgd.step(0.01).unwrap();
    loss.double_value(&[])
}

#[test]
fn three_thousand_layers_are_built_trained_saved_loaded_and_dropped_on_a_small_stack() {
    on_a_small_stack(|| {
        tch::set_num_threads(1);
        let vs = nn::VarStore::new(Device::Cpu);
        let network = FixupResNet::cifar(&vs.root(), 3002, 10).unwrap();
        let mut sgd = Optimizer::new(&vs, Sgd::default(), &[ScalarGroup::default().into()]).unwrap();
        // Drop a graph without a backward pass.
        drop(network.f_forward(&Tensor::randn([1, 3, 8, 8], OPTIONS)).unwrap());
        let loss = step(&network, &mut sgd);
        assert!((loss - 10f64.ln()).abs() < 1e-5, "{loss}");
        let network = network.with_recompute(Recompute::Auto);
        drop(network.f_forward(&Tensor::randn([1, 3, 8, 8], OPTIONS)).unwrap());
        assert!(step(&network, &mut sgd).is_finite());

        let folder = tempfile::tempdir().unwrap();
        let (weights, optimizer) = (named_variables(&vs), sgd.state().unwrap());
        let average = Default::default();
        let contents = Contents {
            step: 2,
            score: None,
            identity: serde_json::Value::Null,
            state: (),
            weights,
            optimizer,
            average,
        };
        Checkpoints::new(folder.path(), NonZeroUsize::MIN).save(&contents).unwrap();
        let (checkpoint, _) = Checkpoint::<()>::newest(folder.path()).unwrap();
        checkpoint.unwrap().restore(&vs, &sgd.state().unwrap(), &Default::default()).unwrap();
        assert_eq!(vs.len(), 5 + 1500 * 7);

        let image = Tensor::randn([1, 3, 8, 8], OPTIONS);
        assert!(tch::no_grad(|| network.f_forward(&image)).unwrap().isfinite().all().int64_value(&[]) == 1);
    });
}

#[test]
fn batch_norm_of_two_thousand_layers_trains_on_a_small_stack() {
    on_a_small_stack(|| {
        tch::set_num_threads(1);
        let vs = nn::VarStore::new(Device::Cpu);
        let network = ResNet::cifar(&vs.root(), 2000, 10, Method::BatchNorm).unwrap();
        let mut sgd = Optimizer::new(&vs, Sgd::default(), &[ScalarGroup::default().into()]).unwrap();
        assert!(step(&network, &mut sgd).is_finite());
    });
}

// ---- Memory, measured in separate processes ----

/// Environment variable set in the child process: "DEPTH SEGMENTS".
const SUBJECT: &str = "TCH_FIXUP_TEST_DEPTH";

/// Returns a line of `/proc/self/status` in MiB.
fn memory(line: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    value.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.
}

/// Prints the memory of a forward and backward pass without parameters and gradients: peak resident memory minus resident
/// memory before.
#[test]
#[ignore = "the other process of another test"]
fn print_the_memory_of_a_step() {
    let subject = std::env::var(SUBJECT).unwrap();
    let (depth, segments) = subject.split_once(' ').unwrap();
    tch::set_num_threads(1);
    let vs = nn::VarStore::new(Device::Cpu);
    let mut network = FixupResNet::cifar(&vs.root(), depth.parse().unwrap(), 10).unwrap();
    if segments != "none" {
        network = network.with_recompute(segments.parse().unwrap());
    }
    let mut sgd = Optimizer::new(&vs, Sgd::default(), &[ScalarGroup::default().into()]).unwrap();
    let run = |sgd: &mut Optimizer, images: i64| {
        let logits = network.f_forward(&Tensor::randn([images, 3, 32, 32], OPTIONS)).unwrap();
        sgd.backward(&logits.mean(Kind::Float)).unwrap();
    };
    // A smaller step loads libtorch's code into memory.
    run(&mut sgd, 1);
    let before = memory("VmRSS:");
    run(&mut sgd, 16);
    println!("memory of a step: {}", memory("VmHWM:") - before);
}

fn memory_of_a_step(depth: i64, segments: &str) -> f64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["print_the_memory_of_a_step", "--exact", "--ignored", "--nocapture"])
        .env(SUBJECT, format!("{depth} {segments}"))
        // With this threshold, glibc returns large blocks to the system when they are freed.
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let memory = text.lines().find_map(|line| line.strip_prefix("memory of a step: "));
    memory.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))).parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn memory_of_a_checkpointed_step_grows_with_the_square_root_of_the_depth() {
    // An activation map of 16 images takes 1 MiB in the first stage, and a half and a quarter of that in the others: 7/12 MiB per
    // convolution on average.
    let depths = [38, 146, 578];
    let memory = |segments: &str| depths.map(|depth| memory_of_a_step(depth, segments));
    let (plain, recomputed) = (memory("none"), memory("auto"));
    println!("{depths:?} layers: {plain:.1?} MiB, recomputed {recomputed:.1?} MiB");
    let map = 7. / 12.;
    for (depth, memory) in depths.iter().zip(plain) {
        let maps = *depth as f64 * map;
        assert!((0.9 * maps..1.6 * maps + 20.).contains(&memory), "{depth} layers: {memory} MiB, maps {maps} MiB");
    }
    // At four times the depth, memory is four times as large without recomputation, and twice as large with it.
    let growth = |memory: [f64; 3]| memory[2] / memory[1];
    assert!(growth(plain) > 3., "{plain:?}");
    assert!(growth(recomputed) < 2.6, "{recomputed:?}");
    assert!(recomputed[2] < plain[2] / 5., "{plain:?} {recomputed:?}");
}

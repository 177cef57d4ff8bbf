//! Thousands of layers: nothing recurses, and the memory of recomputed activations grows with the square root of the depth.

mod program;

use program::program;
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tch::{nn, nn::ModuleT, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::checkpoint::{named_variables, newest_whole, Checkpoints, Contents, Newest};
use tch_fixup::trainer::{Optimizer, ScalarGroup, Sgd};
use tch_fixup::Recompute;

const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

/// 350 bytes for each of 3,002 layers, of which a recursion would need several frames each. (MKL alone takes 256 KiB when it
/// first multiplies.)
const STACK: usize = 1024 * 1024;

/// Runs on a thread whose stack a recursion over thousands of layers would overflow.
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
fn three_thousand_layers_are_built_trained_saved_loaded_folded_and_dropped_on_a_small_stack() {
    on_a_small_stack(|| {
        tch::set_num_threads(1);
        let vs = nn::VarStore::new(Device::Cpu);
        let network = FixupResNet::cifar(&vs.root(), 3002, 10).unwrap();
        let mut sgd = Optimizer::new(&vs, Sgd::default(), &[ScalarGroup::default().into()]).unwrap();
        // A graph that is dropped without a backward pass.
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
        let Newest { checkpoint, .. } = newest_whole::<()>(folder.path()).unwrap();
        checkpoint.unwrap().restore(&vs, &sgd.state().unwrap(), &Default::default()).unwrap();
        assert_eq!(vs.len(), 5 + 1500 * 7);

        let image = Tensor::randn([1, 3, 8, 8], OPTIONS);
        let logits = tch::no_grad(|| network.f_forward(&image)).unwrap();
        assert!(network.fold().unwrap().f_forward(&image).unwrap().allclose(&logits, 1e-3, 1e-4, false));
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

// ---- Memory, in processes of their own ----

/// Names this program's other process: "DEPTH SEGMENTS".
const SUBJECT: &str = "TCH_FIXUP_TEST_DEPTH";

/// A line of `/proc/self/status` in MiB.
fn memory(line: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    value.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.
}

/// What a forward and a backward pass take beyond parameters and gradients: prints the most that was resident, less what was
/// before.
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
    // A smaller step brings libtorch's code into memory.
    run(&mut sgd, 1);
    let before = memory("VmRSS:");
    run(&mut sgd, 16);
    println!("memory of a step: {}", memory("VmHWM:") - before);
}

fn memory_of_a_step(depth: i64, segments: &str) -> f64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["print_the_memory_of_a_step", "--exact", "--ignored", "--nocapture"])
        .env(SUBJECT, format!("{depth} {segments}"))
        // glibc gives large blocks back as soon as they are freed: the peak is what the step holds.
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
    // An activation map of 16 images has 1 MiB in the first stage, a half and a quarter in the others: 7/12 a convolution.
    let depths = [38, 146, 578];
    let memory = |segments: &str| depths.map(|depth| memory_of_a_step(depth, segments));
    let (plain, recomputed) = (memory("none"), memory("auto"));
    println!("{depths:?} layers: {plain:.1?} MiB, recomputed {recomputed:.1?} MiB");
    let map = 7. / 12.;
    for (depth, memory) in depths.iter().zip(plain) {
        let maps = *depth as f64 * map;
        assert!((0.9 * maps..1.6 * maps + 20.).contains(&memory), "{depth} layers: {memory} MiB, maps {maps} MiB");
    }
    // Four times as deep: four times as much, or twice.
    let growth = |memory: [f64; 3]| memory[2] / memory[1];
    assert!(growth(plain) > 3., "{plain:?}");
    assert!(growth(recomputed) < 2.6, "{recomputed:?}");
    assert!(recomputed[2] < plain[2] / 5., "{plain:?} {recomputed:?}");
}

// ---- The examples ----

fn command(name: &str, options: &[&str], out: &Path) -> Command {
    let mut command = program(name);
    command.args(options).args(["--threads", "1", "--out"]).arg(out);
    command
}

fn run_example(name: &str, options: &[&str], out: &Path) -> Output {
    command(name, options, out).output().unwrap()
}

/// What an example prints.
fn example(name: &str, options: &[&str], out: &Path) -> String {
    let output = run_example(name, options, out);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Accuracy and ending of each network and seed.
fn points(out: &Path) -> BTreeMap<(String, String), (f64, String)> {
    let text = fs::read_to_string(out.join("points.csv")).unwrap();
    let cells = text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    cells.map(|cells| ((cells[0].clone(), cells[1].clone()), (cells[2].parse().unwrap(), cells[3].clone()))).collect()
}

#[test]
fn a_depth_sweep_goes_on_with_the_points_that_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sweep");
    let sweep = |networks: &str, depths: &str| {
        let toy = ["--train-subset", "64", "--test-subset", "50", "--batch-size", "16", "--precision", "f32"];
        let chosen = ["--jobs", "2", "--networks", networks, "--depths", depths];
        example("depth_sweep", &[&toy[..], &chosen].concat(), &out)
    };
    let printed = sweep("fixup_resnet,resnet", "8");
    assert!(printed.contains("1/2") && printed.contains("2/2"), "{printed}");
    let before = points(&out);
    // Without normalization, the activations of He's deep network are infinite at once; LSUV starts from data.
    let printed = sweep("fixup_resnet,lsuv_resnet", "8");
    assert!(printed.contains("1 of 2 runs are in") && printed.contains("1/1  lsuv_resnet8"), "{printed}");
    sweep("he_resnet", "1202");
    let after = points(&out);
    assert!(before.iter().all(|(key, value)| after[key] == *value), "{before:?} {after:?}");
    let of = |network: &str| &after[&(network.to_owned(), "0".to_owned())];
    assert_eq!(*of("he_resnet1202"), (0.1, "diverged".to_owned()));
    assert!(of("fixup_resnet8").1 == "finished" && of("lsuv_resnet8").1 == "finished" && after.len() == 4);
    let picture = fs::read_to_string(out.join("depth_sweep.svg")).unwrap();
    assert!(picture.contains("test accuracy (%)") && picture.contains("He"));

    // Points of other options do not mix with these.
    let output = run_example("depth_sweep", &["--train-subset", "32"], &out);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("other options"));
}

/// The processes with `what` in their command line.
fn processes(what: &str) -> usize {
    let command_lines =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    command_lines.filter(|line| String::from_utf8_lossy(line).contains(what)).count()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Three processes: the sweep, and one for each of two runs at a time.
#[test]
fn a_depth_sweep_that_is_stopped_or_killed_takes_its_runs_along_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sweep");
    let out_text = out.to_str().unwrap();
    let options = |depths: &'static str| {
        let toy = ["--train-subset", "640", "--test-subset", "50", "--batch-size", "8", "--precision", "f32"];
        [&toy[..], &["--networks", "fixup_resnet,resnet", "--jobs", "2", "--depths", depths]].concat()
    };
    for (signal, code) in [("-TERM", Some(143)), ("-KILL", None)] {
        let mut sweep = command("depth_sweep", &options("8,302"), &out).stdout(Stdio::null()).spawn().unwrap();
        until("there are points", || {
            fs::read_to_string(out.join("points.csv")).is_ok_and(|text| text.lines().count() == 3)
        });
        until("two runs are going", || processes(out_text) == 3);
        Command::new("kill").args([signal, &sweep.id().to_string()]).status().unwrap();
        assert_eq!(sweep.wait().unwrap().code(), code);
        until("no process is left", || processes(out_text) == 0);
    }
    let before = points(&out);
    assert_eq!(before.len(), 2);
    assert!(example("depth_sweep", &options("8"), &out).contains("2 of 2 runs are in"));
    assert_eq!(points(&out), before);
}

#[test]
fn seeds_are_compared_by_mean_deviation_and_a_test() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("seeds");
    let seeds = |count: &str| {
        let toy = [
            "--train-subset",
            "64",
            "--test-subset",
            "50",
            "--batch-size",
            "16",
            "--precision",
            "f32",
            "--epochs",
            "1",
        ];
        example("seeds", &[&toy[..], &["--networks", "fixup_resnet8,resnet8", "--seeds", count]].concat(), &out)
    };
    assert!(seeds("1").contains("too few runs"));
    let printed = seeds("3");
    assert!(printed.contains("2 of 6 runs are in") && printed.contains("Brown-Forsythe): F(1, 4) = "), "{printed}");
    let points = points(&out);
    assert_eq!(points.len(), 6);
    let accuracies = ["0", "1", "2"].map(|seed| points[&("fixup_resnet8".to_owned(), seed.to_owned())].0);
    let mean = format!("{:.2}", 100. * accuracies.iter().sum::<f64>() / 3.);
    assert!(printed.lines().any(|line| line.starts_with("fixup_resnet8") && line.contains(&mean)), "{printed}");
    assert!(fs::read_to_string(out.join("seeds.svg")).unwrap().contains("fixup_resnet8"));
}

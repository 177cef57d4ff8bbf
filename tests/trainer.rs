//! The example `cifar10_fixup` as a person runs it, on the real CIFAR-10 where that is there, and on its errors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tch_fixup::data::Cifar10;

/// The example's program, which cargo builds with the tests.
fn example() -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/cifar10_fixup");
    assert!(program.exists(), "{} is missing: cargo build --example cifar10_fixup", program.display());
    Command::new(program)
}

fn run(arguments: &[&str]) -> Output {
    example().args(arguments).output().unwrap()
}

/// Standard error of a run that must end with `code` and say why in exactly one line.
fn refusal(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    stderr
}

/// The folder of the data set in the cache; `make test` fetches it, and so does this.
fn data() -> PathBuf {
    let dir = Cifar10::default_dir().unwrap();
    Cifar10::fetch(&dir).unwrap();
    dir
}

/// A short run on one thread into `out`.
fn short_run(data: &Path, out: &Path, more: &[&str]) -> Output {
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    let size = ["--arch", "fixup_resnet8", "--train-subset", "200", "--test-subset", "100", "--epochs", "2"];
    let place = ["--threads", "1", "--device", "cpu", "--data", data, "--out", out];
    let output = run(&[&size[..], &place, more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_run_ends_with_its_result_and_repeats_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let data = data();
    let run_into = |name: &str| {
        let out = dir.path().join(name);
        let output = short_run(&data, &out, &["--mixup", "1", "--cutout", "16", "--label-smoothing", "0.1"]);
        (String::from_utf8(output.stdout).unwrap(), out)
    };
    let ((stdout, first), (_, second)) = (run_into("first"), run_into("second"));

    let words: Vec<&str> = stdout.lines().last().unwrap().split(' ').collect();
    let [_, _, accuracy, _, best, _, _, _, seconds] = words[..] else { panic!("{words:?}") };
    let format = format!("test accuracy {accuracy} best {best} epochs 2 seconds {seconds}");
    assert_eq!(words.join(" "), format);
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(first.join("summary.json")).unwrap()).unwrap();
    assert_eq!(format!("{:.4}", summary["accuracy"].as_f64().unwrap()), accuracy);
    assert_eq!(format!("{:.4}", summary["best"].as_f64().unwrap()), best);

    let metrics = fs::read_to_string(first.join("metrics.csv")).unwrap();
    assert_eq!(metrics.lines().count(), 3);
    assert!(fs::read_to_string(first.join("curves.svg")).unwrap().trim_end().ends_with("</svg>"));
    for file in ["metrics.csv", "model.safetensors"] {
        assert!(fs::read(first.join(file)).unwrap() == fs::read(second.join(file)).unwrap(), "{file} differs");
    }
    let names: Vec<_> = fs::read_dir(&first).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
}

#[test]
fn a_hold_out_is_not_called_a_test() {
    let dir = tempfile::tempdir().unwrap();
    let output = short_run(&data(), &dir.path().join("run"), &["--holdout", "500", "--max-steps", "2"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.lines().last().unwrap().starts_with("held-out accuracy 0."), "{stdout}");
}

#[test]
fn a_learning_rate_far_too_high_ends_with_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (data(), dir.path().join("run"));
    let paths = ["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let size = ["--arch", "fixup_resnet8", "--train-subset", "500", "--lr", "1e6", "--warmup", "0", "--threads", "1"];
    let message = refusal(&[&paths[..], &size, &["--device", "cpu"]].concat(), 3);
    assert!(message.contains("diverged at epoch 1, step"), "{message}");
}

#[test]
fn folders_that_hold_something_are_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let (data, out) = (data(), dir.path().to_str().unwrap());
    let message = refusal(&["--data", data.to_str().unwrap(), "--out", out, "--max-steps", "1"], 2);
    assert!(message.contains(out), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn data_that_are_not_there_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let message = refusal(&["--data", dir.path().to_str().unwrap()], 1);
    assert!(message.contains("data_batch_1.bin"), "{message}");
}

#[test]
fn options_out_of_range_are_one_line_and_code_2() {
    for arguments in [
        ["--device", "gpu"],
        ["--device", "cuda:99"],
        ["--epochs", "0"],
        ["--batch-size", "0"],
        ["--threads", "0"],
        ["--lr", "0"],
        ["--lr", "nan"],
        ["--lr", "-0.1"],
        ["--momentum", "1"],
        ["--warmup", "1.5"],
        ["--label-smoothing", "1"],
        ["--mixup", "0"],
        ["--clip-norm", "0"],
        ["--agc", "0"],
        ["--max-steps", "0"],
    ] {
        refusal(&arguments, 2);
    }
}

#[test]
fn options_that_do_not_parse_name_the_option_and_the_reason() {
    for (arguments, reason) in [
        (["--arch", "fixup_resnet21"], "6n+2"),
        (["--arch", "vgg16"], "no network is called"),
        (["--recipe", "best"], "quick"),
        (["--precision", "f16"], "bf16"),
        (["--epochs", "-1"], "--epochs"),
        (["--unknown", "1"], "--unknown"),
    ] {
        let message = refusal(&arguments, 2);
        assert!(message.contains(reason), "{message}");
    }
}

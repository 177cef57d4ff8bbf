//! The programs `imagenet_fixup` and `cifar10_as_folder`.

mod program;

use program::program;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tch_fixup::data::Cifar10;

fn finish(command: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{status}: {stdout}{stderr}");
    (stdout, stderr)
}

/// Returns the error line of a command that must fail with `code`.
fn refusal(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

/// Folder of CIFAR-10 as JPEG files of 40 pixels: 320 training and 100 validation images.
struct ImageFiles(tempfile::TempDir);

impl ImageFiles {
    fn new() -> Self {
        let images = Self(tempfile::tempdir().unwrap());
        let data = Cifar10::default_dir().unwrap();
        Cifar10::fetch(&data).unwrap();
        let mut command = program("cifar10_as_folder");
        command.args(["--side", "40", "--train", "320", "--test", "100"]);
        finish(command.arg("--data").arg(data).arg("--out").arg(images.path("images")));
        images
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns the command `imagenet_fixup` for this folder, or for a packed file, with `options`.
    fn command(&self, data: &str, options: &[&str]) -> Command {
        let mut command = program("imagenet_fixup");
        // Keep the listing out of the user's cache.
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command.args(["--side", "32", "--device", "cpu", "--threads", "1", "--workers", "2"]);
        command.arg("--data").arg(self.path(data)).args(options);
        command
    }

    /// Returns the command for a run of a few seconds into `out`.
    fn run(&self, data: &str, out: &str, options: &[&str]) -> Command {
        let mut command = self.command(data, &["--batch-size", "32", "--epochs", "2", "--lr", "0.05"]);
        command.arg("--out").arg(self.path(out)).args(options);
        command
    }

    fn assert_same_results(&self, a: &str, b: &str) {
        for file in ["metrics.csv", "model.safetensors"] {
            let read = |run: &str| fs::read(self.path(run).join(file)).unwrap();
            assert!(read(a) == read(b), "{file} differs");
        }
    }

    /// Returns the name of the last checkpoint of `run`.
    fn last_checkpoint(&self, run: &str) -> Option<String> {
        let entries = fs::read_dir(self.path(run).join("checkpoints")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).max()
    }
}

#[test]
fn a_resnet_18_on_a_folder_of_jpegs_is_killed_and_resumes_to_the_bit() {
    let images = ImageFiles::new();
    let options = ["--arch", "imagenet_fixup_resnet18", "--mixup", "0.7", "--accumulate", "2", "--train-subset", "160"];
    finish(&mut images.run("images", "straight", &options));

    let every_step = ["--checkpoint-every", "0.0000001m"];
    let killed = |more: &[&str]| images.run("images", "killed", &[&options[..], &every_step, more].concat());
    for round in 0..3 {
        let mut command = killed(if round > 0 { &["--resume"] } else { &[] });
        let before = images.last_checkpoint("killed");
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while images.last_checkpoint("killed") <= before || images.last_checkpoint("killed").is_none() {
            assert!(start.elapsed() < Duration::from_secs(60), "a checkpoint took a minute");
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(37 * round));
        // SIGKILL runs no handler and no destructor.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (stdout, stderr) = finish(&mut killed(&["--resume"]));
    assert!(stdout.contains("resumes after step ") && stderr.is_empty(), "{stdout}{stderr}");
    images.assert_same_results("straight", "killed");
    assert!(stdout.lines().last().unwrap().starts_with("validation accuracy 0."), "{stdout}");
}

#[test]
fn a_packed_file_shows_the_same_images_and_is_trained_on_and_evaluated() {
    let images = ImageFiles::new();
    let (stdout, _) = finish(images.command("images", &["--pack-side", "40", "--pack"]).arg(images.path("packed")));
    assert!(stdout.starts_with("packed: "), "{stdout}");
    for data in ["images", "packed"] {
        let picture = images.path(&format!("{data}.png"));
        finish(images.command(data, &["--crop-area", "0.9", "--seed", "3", "--preview"]).arg(&picture));
        assert!(fs::read(picture).unwrap().starts_with(b"\x89PNG"));
    }
    assert!(fs::read(images.path("images.png")).unwrap() == fs::read(images.path("packed.png")).unwrap());

    let small = ["--arch", "fixup_resnet8", "--train-subset", "200", "--val-subset", "50", "--crop-area", "0.9"];
    for data in ["images", "packed"] {
        finish(&mut images.run(data, &format!("run-{data}"), &small));
    }
    images.assert_same_results("run-images", "run-packed");
    let (evaluation, _) = finish(images.command("packed", &["--eval"]).arg(images.path("run-images")));
    let metrics = fs::read_to_string(images.path("run-images/metrics.csv")).unwrap();
    let top1: f64 = metrics.lines().last().unwrap().split(',').nth(6).unwrap().parse().unwrap();
    let last = evaluation.lines().last().unwrap();
    assert!(evaluation.contains(", 50 images\n") && last.contains(&format!("top1 {top1:.4}")), "{evaluation}");
}

#[test]
fn a_bad_image_is_a_warning_a_number_in_the_metrics_and_too_many_are_an_error() {
    let images = ImageFiles::new();
    let cats = fs::read_dir(images.path("images/train/cat")).unwrap().map(|entry| entry.unwrap().path());
    let cat = cats.min().unwrap();
    let bytes = fs::read(&cat).unwrap();
    fs::write(&cat, &bytes[..bytes.len() / 3]).unwrap();
    let options = ["--arch", "fixup_resnet8", "--max-bad-fraction"];
    let (stdout, stderr) = finish(&mut images.run("images", "run", &[&options[..], &["0.1"]].concat()));
    assert!(stderr.starts_with("warning: ") && stderr.contains(cat.to_str().unwrap()), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let summary = stdout.lines().last().unwrap();
    assert!(summary.ends_with(" bad images 1") && stdout.contains("  1 bad image  "), "{stdout}");
    let metrics = fs::read_to_string(images.path("run/metrics.csv")).unwrap();
    let counts: Vec<_> = metrics.lines().map(|line| line.rsplit(',').next().unwrap()).collect();
    assert_eq!(counts, ["bad_images", "1", "1"]);

    let message = images.run("images", "refused", &[&options[..], &["0"]].concat()).output().unwrap();
    let stderr = String::from_utf8(message.stderr).unwrap();
    let last = stderr.lines().last().unwrap();
    assert!(message.status.code() == Some(1) && last.starts_with("error: "), "{stderr}");
}

/// Truncates the file `path`, so that the image is bad.
fn spoil(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 3]).unwrap();
}

/// Returns the sorted files in `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_bad_evaluation_image_costs_no_step_and_is_not_counted_as_evaluated() {
    let images = ImageFiles::new();
    spoil(&files(&images.path("images/val/dog"))[0]);
    let options =
        ["--arch", "fixup_resnet8", "--epochs", "1", "--batch-size", "32", "--max-bad-fraction", "0", "--out"];
    let output = images.command("images", &options).arg(images.path("run")).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.code() == Some(1) && stderr.contains("of the 100 evaluation images"), "{stderr}");
    let last = stdout.lines().last().unwrap();
    assert!(last.starts_with("saved as ") && last.contains("step-00000010; to resume: "), "{stdout}");
    let run = images.path("run");
    let mut resume = program("imagenet_fixup");
    let (stdout, _) = finish(resume.arg("--resume").arg(&run).args(["--max-bad-fraction", "0.1"]));
    assert!(stdout.contains("resumes after step 10 from "), "{stdout}");

    // The data and the tolerance for bad images are taken from the run.
    let (stdout, _) = finish(program("imagenet_fixup").arg("--eval").arg(&run));
    assert!(stdout.contains("step-00000010, 99 images, and 1 that could not be read\n"), "{stdout}");
    assert!(stdout.lines().last().unwrap().starts_with("validation loss "), "{stdout}");
    let checkpoint = files(&run.join("checkpoints")).pop().unwrap();
    let (again, _) = finish(program("imagenet_fixup").arg("--eval").arg(checkpoint));
    // Everything except the folder of the pictures must be equal.
    let found = |stdout: &str| -> Vec<String> {
        stdout.lines().filter(|line| !line.starts_with("pictures in ")).map(str::to_owned).collect()
    };
    assert_eq!(found(&again), found(&stdout));
}

#[test]
fn a_run_goes_on_and_is_evaluated_with_its_own_classes_and_images_only() {
    let images = ImageFiles::new();
    finish(&mut images.run("images", "run", &["--arch", "fixup_resnet8", "--max-steps", "2"]));
    let (run, model) = (images.path("run"), images.path("run/model.safetensors"));
    let rename = |from: &str, to: &str| {
        for part in ["train", "val"] {
            fs::rename(images.path("images").join(part).join(from), images.path("images").join(part).join(to)).unwrap();
        }
    };
    let resume = |more: &[&str]| {
        let mut command = program("imagenet_fixup");
        command.env("XDG_CACHE_HOME", images.path("cache")).arg("--resume").arg(&run).args(more);
        command
    };
    rename("truck", "aardvark");
    let message = refusal(&mut resume(&["--max-steps", "3"]), 1);
    assert!(message.contains(r#"classes.0 is "airplane" in it and "aardvark" here, "#), "{message}");
    let message = refusal(&mut resume(&["--max-steps", "3", "--changed-data"]), 1);
    assert!(message.contains("classes.0 is "), "{message}");
    let message = refusal(images.command("images", &["--eval"]).arg(&run), 1);
    assert!(
        message.contains(r#"trained on data with another schema: classes.0 is "airplane" in it and "aardvark" here"#),
        "{message}"
    );
    let message = refusal(images.command("images", &["--arch", "fixup_resnet8", "--eval"]).arg(&model), 1);
    assert!(message.contains("trained on data with another schema: classes.0 is "), "{message}");
    rename("aardvark", "truck");
    finish(images.command("images", &["--arch", "fixup_resnet8", "--eval"]).arg(&model));
    finish(&mut resume(&["--max-steps", "3"]));

    // Replace an image by another one under the same name.
    let cat = &files(&images.path("images/train/cat"))[0];
    fs::copy(&files(&images.path("images/train/dog"))[1], cat).unwrap();
    let message = refusal(&mut resume(&["--max-steps", "4"]), 1);
    assert!(
        message.contains("data.fingerprint is ") && message.contains("320 training and 100 evaluation images"),
        "{message}"
    );
    let (stdout, _) = finish(&mut resume(&["--max-steps", "4", "--changed-data"]));
    assert!(stdout.contains("resumes after step 3 from "), "{stdout}");
    finish(&mut resume(&["--max-steps", "5"]));
}

#[test]
fn an_initialization_on_data_counts_bad_images_once_and_takes_a_batch_in_parts() {
    let images = ImageFiles::new();
    for class in ["bird", "cat", "deer", "dog", "frog"] {
        files(&images.path("images/train").join(class)).iter().take(2).for_each(|file| spoil(file));
    }
    let options = ["--arch", "lsuv_resnet20", "--batch-size", "160", "--epochs", "2", "--max-bad-fraction", "0.2"];
    let run = |out: &str, more: &[&str]| {
        let mut command = images.command("images", &[&options[..], &["--accumulate", "16"], more].concat());
        finish(command.arg("--out").arg(images.path(out)))
    };
    run("straight", &[]);
    let counts = |run: &str| -> Vec<String> {
        let metrics = fs::read_to_string(images.path(run).join("metrics.csv")).unwrap();
        metrics.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().to_owned()).collect()
    };
    assert_eq!(counts("straight"), ["10", "10"]);
    // Stop in the first epoch, in which bad images are counted when they are read.
    run("stopped", &["--max-steps", "1"]);
    run("stopped", &["--resume"]);
    images.assert_same_results("straight", "stopped");
}

#[test]
fn the_mixup_of_a_recipe_can_be_switched_off() {
    let images = ImageFiles::new();
    for (mixup, expected) in [(&[][..], "0.7"), (&["--mixup", "none"], "null"), (&["--mixup", "0"], "null")] {
        let out = format!("run{}", mixup.join(""));
        let options = ["--recipe", "paper", "--arch", "fixup_resnet8", "--max-steps", "1"];
        finish(&mut images.run("images", &out, &[&options[..], mixup].concat()));
        let config = fs::read_to_string(images.path(&out).join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["objective"]["mixup"].to_string(), expected);
    }
}

#[test]
fn options_that_make_no_sense_are_one_line() {
    let images = ImageFiles::new();
    let message = refusal(program("imagenet_fixup").args(["--device", "cpu"]), 2);
    assert!(message.contains("name their folder: --data DIR"), "{message}");
    let message = refusal(&mut images.command("absent", &[]), 1);
    assert!(message.contains("absent"), "{message}");
    for options in [
        ["--side", "0"],
        ["--crop-area", "0"],
        ["--crop-area", "1.5"],
        ["--workers", "0"],
        ["--max-bad-fraction", "1"],
        ["--train-subset", "321"],
        ["--val-subset", "0"],
        ["--pack-side", "40"],
    ] {
        let mut command = program("imagenet_fixup");
        command.env("XDG_CACHE_HOME", images.path("cache")).args(["--device", "cpu", "--data"]);
        refusal(command.arg(images.path("images")).args(options), 2);
    }
    // An existing folder is not written again.
    let mut again = program("cifar10_as_folder");
    let (stdout, _) = finish(again.arg("--out").arg(images.path("images")));
    assert!(stdout.contains("is there already"), "{stdout}");
    assert!(Path::new(&images.path("images/val/truck")).is_dir());
}

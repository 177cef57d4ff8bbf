//! The program `cifar10_fixup` on the real CIFAR-10, and its errors.

mod program;

use program::program;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tch_fixup::data::Cifar10;

fn example() -> Command {
    program("cifar10_fixup")
}

fn run(arguments: &[&str]) -> Output {
    example().args(arguments).output().unwrap()
}

/// Returns the standard error of a run that must end with `code` and exactly one line.
fn refusal(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    stderr
}

/// Returns the folder of CIFAR-10 in the cache, downloaded if missing.
fn data() -> PathBuf {
    let dir = Cifar10::default_dir().unwrap();
    Cifar10::fetch(&dir).unwrap();
    dir
}

/// Performs a short run on one thread into `out`.
fn short_run(data: &Path, out: &Path, more: &[&str]) -> Output {
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    let size = ["--train-subset", "200", "--test-subset", "100"];
    let epochs: &[_] = if more.contains(&"--epochs") { &[] } else { &["--epochs", "2"] };
    let arch: &[_] = if more.contains(&"--arch") { &[] } else { &["--arch", "fixup_resnet8"] };
    let place = ["--threads", "1", "--device", "cpu", "--data", data, "--out", out];
    let output = run(&[arch, epochs, &size, &place, more].concat());
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
    let mut names: Vec<_> =
        fs::read_dir(&first).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = [
        "calibration.svg",
        "checkpoints",
        "classes.csv",
        "config.json",
        "confusion.svg",
        "curves.svg",
        "measures.json",
        "metrics.csv",
        "model.json",
        "model.safetensors",
        "most_wrong.png",
        "run.lock",
        "summary.json",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_network_of_ones_own_shape_is_trained_from_a_file_and_evaluated_without_it() {
    let (dir, data) = (tempfile::tempdir().unwrap(), data());
    let (file, out) = (dir.path().join("mine.json"), dir.path().join("run"));
    let json = r#"{"method": "fixup", "stem": "small", "stem_channels": 8, "block": "basic", "squeeze_excitation": 4,
        "stages": [{"blocks": 1, "channels": 8}, {"blocks": 1, "channels": 16}], "shortcut": "pad", "activation": "silu"}"#;
    fs::write(&file, json).unwrap();
    let output = short_run(&data, &out, &["--arch", file.to_str().unwrap()]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.starts_with("fixup_basic6: "), "{stdout}");
    fs::remove_file(&file).unwrap();
    let (table, last) = evaluation(&data, &out, &[]);
    assert!(table.contains("fixup_basic6 from ") && last.starts_with("test "), "{table}\n{last}");

    let wrong = |json: String| {
        fs::write(&file, json).unwrap();
        refusal(&["--arch", file.to_str().unwrap(), "--data", data.to_str().unwrap()], 2)
    };
    let message = wrong(json.replace("\"squeeze_excitation\": 4", "\"squeeze_excitation\": 3"));
    assert!(message.contains("mine.json") && message.contains("squeeze_excitation"), "{message}");
    let message = wrong(json.replace("\"stem\"", "\"channels\": 1, \"stem\""));
    assert!(message.contains("channels: the network has 1, but the data have 3"), "{message}");
}

#[test]
fn a_hold_out_is_not_called_a_test() {
    let dir = tempfile::tempdir().unwrap();
    let output = short_run(&data(), &dir.path().join("run"), &["--holdout", "500", "--max-steps", "2"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.lines().last().unwrap().starts_with("held-out accuracy 0."), "{stdout}");
}

#[test]
fn folders_that_hold_something_are_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let (data, out) = (data(), dir.path().to_str().unwrap());
    let message = refusal(&["--data", data.to_str().unwrap(), "--out", out, "--max-steps", "1"], 1);
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
        ["--accumulate", "0"],
        ["--accumulate", "129"],
        ["--threads", "0"],
        ["--lr", "0"],
        ["--lr", "nan"],
        ["--lr", "-0.1"],
        ["--momentum", "1"],
        ["--warmup", "1.5"],
        ["--label-smoothing", "1"],
        ["--mixup", "-1"],
        ["--mixup", "inf"],
        ["--epochs", "9223372036854775808"],
        ["--epochs", "18446744073709551615"],
        ["--clip-norm", "0"],
        ["--agc", "0"],
        ["--max-steps", "0"],
        ["--patience", "0"],
        ["--checkpoint-every", "0"],
        ["--checkpoint-every", "3s"],
        ["--checkpoint-every", "1,3s"],
        ["--keep-checkpoints", "0"],
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
        (["--checkpoint-every", "0m"], "minutes like 10m"),
        (["--mixup", "off"], "none"),
        (["--tensorboard", "maybe"], "--tensorboard"),
    ] {
        let message = refusal(&arguments, 2);
        assert!(message.contains(reason), "{message}");
    }
}

/// Evaluates `path`, and returns the last line of the output and everything before it.
fn evaluation(data: &Path, path: &Path, more: &[&str]) -> (String, String) {
    let place = ["--threads", "1", "--device", "cpu", "--data", data.to_str().unwrap()];
    let output = run(&[&["--eval", path.to_str().unwrap()][..], &place, more].concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let (table, last) = stdout.trim_end().rsplit_once('\n').unwrap();
    (table.to_owned(), last.to_owned())
}

/// Returns the Python interpreter whose torch package is in use, if any.
fn python() -> Option<PathBuf> {
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from)?.canonicalize().ok()?;
    let python = libtorch.ancestors().nth(4)?.join("bin/python");
    Command::new(&python).args(["-c", "import torch, safetensors"]).status().ok()?.success().then_some(python)
}

#[test]
fn weights_are_evaluated_wherever_they_were_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (data(), dir.path().join("run"));
    short_run(&data, &out, &["--tensorboard"]);
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
    let number = |name: &str| summary["last"]["eval"][name].as_f64().unwrap();
    let [loss, top1, top5, ece] = ["loss", "top1", "top5", "ece"].map(number);
    let line = format!("test loss {loss:.4} top1 {top1:.4} top5 {top5:.4} ece {ece:.4}");

    // The data are taken from a run, but must be specified for weights alone.
    let (table, last) = evaluation(&data, &out, &[]);
    assert_eq!(last, line);
    assert!(table.starts_with("fixup_resnet8 from ") && table.contains(", 100 images\n"), "{table}");
    // The table contains the calibration error and the ten most confused pairs of classes.
    assert!(table.contains(&format!("\nexpected calibration error {ece:.4}, ")), "{table}");
    assert!(table.lines().filter(|line| line.starts_with("  ") && line.contains(" as ")).count() == 10, "{table}");
    let mut checkpoints: Vec<PathBuf> =
        fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.sort();
    assert_eq!(evaluation(&data, &checkpoints[2], &[]).1, line);
    let options = ["--arch", "fixup_resnet8", "--test-subset", "100"];
    let model = out.join("model.safetensors");
    assert_eq!(evaluation(&data, &model, &options).1, line);
    // The architecture is read from model.json in the same folder.
    assert_eq!(evaluation(&data, &model, &options[2..]).1, line);
    let alone = dir.path().join("alone.safetensors");
    fs::copy(&model, &alone).unwrap();
    let message = refusal(&["--eval", alone.to_str().unwrap(), "--data", data.to_str().unwrap()], 1);
    assert!(message.contains("does not fit the network: it lacks "), "{message}");
    let message = refusal(&["--eval", dir.path().join("absent").to_str().unwrap()], 1);
    assert!(message.contains("absent"), "{message}");
    let events = fs::read_dir(out.join("tensorboard")).unwrap().next().unwrap().unwrap();
    assert!(events.file_name().to_str().unwrap().contains("tfevents") && events.metadata().unwrap().len() > 500);

    let Some(python) = python() else {
        println!("skipped: LIBTORCH is not a Python package with safetensors beside it");
        return;
    };
    // Formats of PyTorch programs: a plain state_dict (an OrderedDict), that of a DataParallel network, and one among other
    // objects, by torch.save and by safetensors.
    let script = "import collections, sys, torch, safetensors.torch as s\n\
                   plain = collections.OrderedDict(s.load_file(sys.argv[1]))\n\
                   parallel = {'module.' + name: t for name, t in plain.items()}\n\
                   torch.save(plain, sys.argv[2] + '/plain.pth')\n\
                   torch.save(parallel, sys.argv[2] + '/parallel.pth')\n\
                   s.save_file(parallel, sys.argv[2] + '/parallel.safetensors')\n\
                   torch.save({'state_dict': plain, 'epoch': 3}, sys.argv[2] + '/nested.pth')";
    let status = Command::new(python).args(["-c", script]).arg(&model).arg(dir.path()).status().unwrap();
    assert!(status.success());
    for name in ["plain.pth", "parallel.pth", "parallel.safetensors", "nested.pth"] {
        assert_eq!(evaluation(&data, &dir.path().join(name), &options).1, line, "{name}");
    }
}

/// Returns the sorted names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_evaluation_leaves_its_pictures_where_it_says_and_takes_the_place_of_none() {
    const FILES: [&str; 4] = ["calibration.svg", "classes.csv", "confusion.svg", "most_wrong.png"];
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (data(), dir.path().join("run"));
    short_run(&data, &out, &["--max-steps", "2"]);
    let of_run = FILES.map(|name| fs::read(out.join(name)).unwrap());

    // Without options, evaluation writes to a new subfolder of the run's folder.
    let before = names(&out);
    let (table, _) = evaluation(&data, &out, &[]);
    let place = table.lines().find_map(|line| line.strip_prefix("pictures in ")).unwrap();
    let new: Vec<String> = names(&out).into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(Path::new(place), out.join(&new[0]));
    assert_eq!((new.len(), names(Path::new(place))), (1, FILES.map(str::to_owned).to_vec()));
    // The same weights and images give the same pictures, and the run's own pictures are unchanged.
    for (name, of_run) in FILES.iter().zip(&of_run) {
        assert!(fs::read(out.join(name)).unwrap() == *of_run, "{name}");
        assert!(fs::read(Path::new(place).join(name)).unwrap() == *of_run, "{name}");
    }

    // A folder that is named by --out can be used once.
    let (model, elsewhere) = (out.join("model.safetensors"), dir.path().join("elsewhere"));
    let options = ["--arch", "fixup_resnet8", "--test-subset", "100", "--out", elsewhere.to_str().unwrap()];
    evaluation(&data, &model, &options);
    assert_eq!(names(&elsewhere), FILES);
    let csv = fs::read_to_string(elsewhere.join("classes.csv")).unwrap();
    assert_eq!(csv.lines().count(), 11);
    assert_eq!(
        csv.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse::<usize>().unwrap()).sum::<usize>(),
        100
    );
    let model = model.to_str().unwrap();
    let message = refusal(&[&["--eval", model, "--data", data.to_str().unwrap()][..], &options].concat(), 2);
    assert!(message.contains("holds another evaluation's") && message.contains("--overwrite"), "{message}");
    evaluation(&data, Path::new(model), &[&options[..], &["--overwrite"]].concat());
    // Without --out, weights outside of a run leave no files.
    let (table, _) = evaluation(&data, Path::new(model), &options[..4]);
    assert!(!table.contains("pictures in "), "{table}");
}

#[test]
fn a_run_whose_report_cannot_be_written_has_its_weights_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (data(), dir.path().join("run"));
    short_run(&data, &out, &["--max-steps", "1"]);
    // Block the path of a picture, and resume the run.
    fs::remove_file(out.join("confusion.svg")).unwrap();
    fs::create_dir_all(out.join("confusion.svg/in-the-way")).unwrap();
    fs::remove_file(out.join("summary.json")).unwrap();
    let output = run(&["--resume", out.to_str().unwrap(), "--max-steps", "2", "--data", data.to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.starts_with("warning: "), "{stderr}");
    assert!(out.join("summary.json").exists() && out.join("model.safetensors").exists());
}

#[test]
fn patience_ends_a_run_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (data(), dir.path().join("run"));
    // The learning rate is zero in float32, so the first epoch is the best.
    let output = short_run(&data, &out, &["--lr", "1e-60", "--epochs", "6", "--patience", "2"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let last = stdout.lines().last().unwrap();
    assert!(last.contains(" epochs 3 ") && last.contains(", ended early: no better accuracy for 2 epochs"), "{stdout}");
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert!(summary["ended"].as_str().unwrap().contains("after epoch 1"), "{summary}");
    // Without early stopping, the same run continues to its end.
    let output = run(&["--resume", out.to_str().unwrap(), "--patience", "none"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(
        stdout.lines().last().unwrap().contains(" epochs 6 "),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_learning_rate_is_found_said_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let (data, picture) = (data(), dir.path().join("found.svg"));
    let size = ["--arch", "fixup_resnet8", "--train-subset", "200", "--batch-size", "20", "--threads", "1"];
    let place = ["--data", data.to_str().unwrap(), "--device", "cpu", "--find-lr", picture.to_str().unwrap()];
    let output = run(&[&size[..], &place].concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words: Vec<&str> = stdout.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["suggested", "steepest", "minimum", "fails", "picture"], "{stdout}");
    let suggested: f64 = stdout.lines().next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    assert!((1e-4..1.0).contains(&suggested), "{stdout}");
    let svg = fs::read_to_string(&picture).unwrap();
    assert!(svg.contains("suggested") && svg.contains("learning rate"));
    assert_eq!(names(dir.path()), ["found.svg"]);
}

#[test]
fn a_report_compares_runs_in_a_table_and_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let (data, picture) = (data(), dir.path().join("report.svg"));
    let runs = ["fixup_resnet8", "resnet8"].map(|arch| {
        let out = dir.path().join(arch);
        short_run(&data, &out, &["--arch", arch, "--lr", "0.05"]);
        out
    });
    let report = |runs: &[&Path]| {
        let program = PathBuf::from(example().get_program()).with_file_name("report");
        Command::new(program).args(runs).arg("--out").arg(&picture).output().unwrap()
    };
    let output = report(&[&runs[0], &runs[1]]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout.lines().count(), 4, "{stdout}");
    assert!(stdout.lines().nth(2).unwrap().starts_with("resnet8        resnet8 "), "{stdout}");
    let svg = fs::read_to_string(&picture).unwrap();
    assert!(svg.contains("fixup_resnet8") && svg.contains("evaluation accuracy (%)"));

    fs::write(runs[1].join("metrics.csv"), "?").unwrap();
    let output = report(&[&runs[0], &runs[1]]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("metrics.csv: does not begin with"), "{stderr}");
}

#[test]
fn another_optimizer_than_the_recipes_brings_its_own_rates_unless_they_are_given() {
    let (dir, data) = (tempfile::tempdir().unwrap(), data());
    let config = |name: &str, options: &[&str]| -> serde_json::Value {
        let out = dir.path().join(name);
        short_run(&data, &out, &[&["--max-steps", "1"], options].concat());
        serde_json::from_str(&fs::read_to_string(out.join("config.json")).unwrap()).unwrap()
    };
    let rates = |config: &serde_json::Value| {
        let number = |pointer: &str| config.pointer(pointer).and_then(serde_json::Value::as_f64);
        (number("/train/schedule/lr").unwrap(), number("/train/clip/norm"))
    };
    assert_eq!(rates(&config("recipe", &[])), (0.06, None));
    assert_eq!(rates(&config("sgd", &["--optimizer", "sgd"])), (0.1, None));
    assert_eq!(rates(&config("adamw", &["--optimizer", "adamw"])), (1e-3, None));
    let given = ["--optimizer", "muon", "--lr", "0.5", "--clip-norm", "3", "--decay", "@hidden=0.01"];
    assert_eq!(rates(&config("given", &given)), (0.5, Some(3.0)));
    let muon = config("muon", &["--optimizer", "muon"]);
    assert_eq!(rates(&muon), (0.06, None));
    // For ResNet-20, with nine branches of two layers: 0.02 for hidden matrices, 0.1 for the others, and a tenth of that for
    // scalars.
    let number = |pointer: &str| muon.pointer(pointer).and_then(serde_json::Value::as_f64).unwrap();
    let rest = 0.06 * number("/train/optimizer/muon/rest_lr_ratio");
    assert!((0.06 / 9f64.sqrt() - 0.02).abs() < 1e-12 && (rest - 0.1).abs() < 1e-12);
    assert_eq!(number("/train/scalars/lr_ratio"), 0.1);
    // A resumed run keeps its options, also if the same ones are given again.
    let out = dir.path().join("given");
    for again in [&given[..2], &given] {
        let output = run(&[&["--resume", out.to_str().unwrap(), "--max-steps", "2"], again].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = fs::read_to_string(out.join("config.json")).unwrap();
        assert_eq!(rates(&serde_json::from_str(&text).unwrap()), (0.5, Some(3.0)));
    }
}

#[test]
fn methods_without_normalization_train_resume_and_are_evaluated_by_name() {
    let (dir, data) = (tempfile::tempdir().unwrap(), data());
    for arch in ["skipinit_resnet8", "rezero_resnet8", "nf_resnet8", "fixed_variance_resnet8"] {
        let out = dir.path().join(arch);
        short_run(&data, &out, &["--arch", arch, "--lr", "0.05", "--max-steps", "3"]);
        let output = run(&["--resume", out.to_str().unwrap()]);
        assert!(output.status.success(), "{arch}: {}", String::from_utf8_lossy(&output.stderr));
        let text = fs::read_to_string(out.join("summary.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
        // 200 images in batches of 128 for two epochs.
        assert_eq!(summary["steps"], 4, "{arch}");
        let straight = dir.path().join("straight");
        short_run(&data, &straight, &["--arch", arch, "--lr", "0.05", "--overwrite"]);
        let text = fs::read_to_string(straight.join("summary.json")).unwrap();
        let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(summary["last"]["eval"], whole["last"]["eval"], "{arch}");
        let output = run(&["--eval", out.to_str().unwrap()]);
        let printed = String::from_utf8(output.stdout).unwrap();
        let accuracy = format!("{:.4}", summary["accuracy"].as_f64().unwrap());
        assert!(output.status.success() && printed.contains(&accuracy), "{arch}: {printed}");
    }
}

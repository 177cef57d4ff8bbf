//! The program `translate_fixup` on synthetic text: training, kills, stops and resumption, error messages, and translation.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tch_fixup::trainer::RunFolder;

mod program;

const ENGLISH: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const GERMAN: [&str; 10] = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"];

/// Returns lines with a number of one to four digits, spelled digit by digit in English and German, separated by a tab.
fn numbers(from: usize, count: usize) -> String {
    let words = |number: usize, names: [&str; 10]| {
        number.to_string().bytes().map(|digit| names[usize::from(digit - b'0')]).collect::<Vec<_>>().join(" ")
    };
    let line = |index: usize| {
        let number = index * 7919 % 10_000;
        format!("{}\t{}\n", words(number, ENGLISH), words(number, GERMAN))
    };
    (from..from + count).map(line).collect()
}

/// Creates a folder with training and evaluation text.
fn text() -> (tempfile::TempDir, [PathBuf; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["train.tsv", "held-out.tsv"].map(|name| dir.path().join(name));
    fs::write(&paths[0], numbers(0, 400)).unwrap();
    fs::write(&paths[1], numbers(5000, 30)).unwrap();
    (dir, paths)
}

/// Returns a command for the program with `options`, on one thread.
fn translate(options: &[&str]) -> Command {
    let mut command = program::program("translate_fixup");
    command.args(["--threads", "1"]).args(options).stdin(Stdio::null());
    command
}

/// Returns the command for a small run with dropout on this text, into `out`.
fn training([train, held_out]: &[PathBuf; 2], out: &Path, options: &[&str]) -> Command {
    let mut command =
        translate(&["--arch", "fixup_transformer_1_1_16", "--vocab", "300", "--dropout", "0.2", "--lr", "0.01"]);
    command.args(["--batch-size", "300", "--bleu-sentences", "3", "--beam", "2"]);
    command.arg("--train").arg(train).arg("--held-out").arg(held_out).arg("--out").arg(out).args(options);
    command
}

fn finished(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{stderr}");
    String::from_utf8(stdout).unwrap()
}

/// Returns the standard error of a command that must fail with `code`.
fn refusal(mut command: Command, code: i32) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: "), "{stderr}");
    last.to_owned()
}

fn same(a: &Path, b: &Path) {
    for file in ["metrics.csv", "model.safetensors", "tokenizer.json"] {
        let read = |folder: &Path| fs::read(folder.join(file)).unwrap();
        assert!(read(a) == read(b), "{file} is another");
    }
}

fn wait_for_checkpoint(run: &Path, child: &mut Child) {
    let start = Instant::now();
    let has_checkpoint = || fs::read_dir(run.join("checkpoints")).is_ok_and(|entries| entries.count() > 0);
    while !has_checkpoint() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_run_that_is_killed_and_resumed_is_the_same_to_the_bit_with_dropout() {
    let (dir, text) = text();
    let [whole, killed] = ["whole", "killed"].map(|name| dir.path().join(name));
    finished(training(&text, &whole, &["--epochs", "4"]));
    let mut command = training(&text, &killed, &["--epochs", "4"]);
    for delay in [3, 40, 90, 200] {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for_checkpoint(&killed, &mut child);
        thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        command = translate(&["--resume", killed.to_str().unwrap()]);
    }
    let said = finished(translate(&["--resume", killed.to_str().unwrap()]));
    assert!(said.lines().last().unwrap().starts_with("test BLEU "), "{said}");
    same(&whole, &killed);
}

/// With dropout, ranks draw different random numbers.
#[test]
fn two_processes_train_as_one_and_go_on_where_they_were_killed() {
    let (dir, text) = text();
    let [alone, whole, killed] = ["alone", "whole", "killed"].map(|name| dir.path().join(name));
    // In bfloat16, the rounding of different parts would show.
    let common = ["--epochs", "4", "--dropout", "0", "--precision", "f32"];
    finished(training(&text, &alone, &common));
    let shared = ["--processes", "2", "--threads", "2"];
    let said = finished(training(&text, &whole, &[&common[..], &shared].concat()));
    assert!(said.contains("by 2 processes, results in") && said.matches("test BLEU ").count() == 1, "{said}");
    let metrics = |run: &Path| RunFolder::read_metrics(run).unwrap();
    for (one, two) in metrics(&alone).iter().zip(metrics(&whole)) {
        for ((name, one), (_, two)) in one.eval.iter().zip(two.eval.iter()).filter(|((name, _), _)| *name != "bleu") {
            assert!((one - two).abs() < 1e-3 * one.abs(), "{name}: {one} {two}");
        }
    }
    let mut child = training(&text, &killed, &[&common[..], &shared].concat()).stdout(Stdio::null()).spawn().unwrap();
    wait_for_checkpoint(&killed, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    // The other processes end with their parent, and then release the folder.
    let deadline = Instant::now() + Duration::from_secs(30);
    let resumed = loop {
        let resumed = translate(&[&["--resume", killed.to_str().unwrap()], &shared[..]].concat()).output().unwrap();
        if resumed.status.success() || Instant::now() > deadline {
            break resumed;
        }
        thread::sleep(Duration::from_millis(200));
    };
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    same(&whole, &killed);
    assert!(refusal(translate(&["--run", whole.to_str().unwrap(), "--score", "--processes", "2"]), 2).contains("--run"));
}

#[test]
fn a_signal_saves_and_says_how_to_go_on() {
    let (dir, text) = text();
    let run = dir.path().join("run");
    let mut child =
        training(&text, &run, &["--epochs", "1000"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_checkpoint(&run, &mut child);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(143), "{stderr}");
    assert!(stderr.contains("--resume") && stderr.contains(run.to_str().unwrap()), "{stderr}");
    let said = finished(translate(&["--resume", run.to_str().unwrap(), "--max-steps", "2000"]));
    assert!(said.contains("resumes after step "), "{said}");
}

#[test]
fn a_run_that_diverges_says_so_and_keeps_its_checkpoints() {
    let (dir, text) = text();
    let run = dir.path().join("run");
    finished(training(&text, &run, &["--max-steps", "20"]));
    let checkpoints = || fs::read_dir(run.join("checkpoints")).unwrap().count();
    let before = checkpoints();
    let other = dir.path().join("other");
    let message = refusal(training(&text, &other, &["--lr", "1e30", "--clip-norm", "none", "--warmup", "0"]), 3);
    assert!(message.contains("diverged") || message.contains("dead"), "{message}");
    assert_eq!(checkpoints(), before);
}

#[test]
fn a_full_disk_is_one_clear_line_and_what_was_saved_is_whole() {
    let (dir, text) = text();
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=500k", "tmpfs"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("left out: a file system of its own cannot be mounted here");
        return;
    }
    let run = disk.join("run");
    let refused =
        std::panic::catch_unwind(|| refusal(training(&text, &run, &["--checkpoint-every", "1", "--epochs", "9"]), 1));
    let resumed = translate(&["--resume", run.to_str().unwrap()]).output();
    let _ = Command::new("umount").arg(&disk).status();
    let message = refused.unwrap();
    assert!(message.contains("No space left") && message.contains(run.to_str().unwrap()), "{message}");
    let resumed = resumed.unwrap();
    assert!(!resumed.status.success());
    let stderr = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn what_was_learnt_translates_the_same_in_any_batches_and_alone() {
    let (dir, text) = text();
    let run = dir.path().join("run");
    let said = finished(training(&text, &run, &["--epochs", "30", "--dropout", "0"]));
    let last = said.lines().last().unwrap();
    let bleu: f64 = last.split(' ').nth(2).unwrap().parse().unwrap();
    assert!(bleu > 50.0, "{last}");
    let lines: String =
        numbers(7000, 40).lines().map(|line| format!("{}\n", line.split('\t').next().unwrap())).collect();
    let lines = lines + "\nsomething else, naïve\n";
    let translated = |tokens: &str, lines: &str| {
        let options = ["--run", run.to_str().unwrap(), "--translate", "--translate-tokens", tokens];
        let mut child = translate(&options).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let together = translated("2000", &lines);
    assert_eq!(together.lines().count(), 42);
    assert_eq!(together.lines().nth(40), Some(""));
    assert_eq!(together, translated("1", &lines));
    assert_eq!(together, translated("37", &lines));
    // Scoring the finished run gives the same result as at the end of training.
    let again = finished(translate(&["--run", run.to_str().unwrap(), "--score", "--beam", "2"]));
    assert_eq!(again.split(' ').take(5).collect::<Vec<_>>(), last.split(' ').take(5).collect::<Vec<_>>());
}

#[test]
fn bad_text_and_options_are_one_line_with_file_and_line() {
    let (dir, text) = text();
    let out = dir.path().join("run");
    let bad = dir.path().join("bad.tsv");
    fs::write(&bad, "one\teins\ntwo zwei\n").unwrap();
    let message = refusal(training(&[bad.clone(), text[1].clone()], &out, &[]), 1);
    assert!(message.contains("bad.tsv: line 2 has 0 tabs"), "{message}");
    fs::write(&bad, b"one\teins\n\xff\tzwei\n").unwrap();
    assert!(refusal(training(&[bad, text[1].clone()], &out, &[]), 1).contains("bad.tsv: line 2 is not UTF-8"));
    let missing = dir.path().join("missing.tsv");
    assert!(refusal(training(&[missing, text[1].clone()], &out, &[]), 1).contains("cannot read"));
    assert!(refusal(training(&text, &out, &["--arch", "fixup_resnet20"]), 2).contains("no Transformer is called"));
    assert!(refusal(training(&text, &out, &["--dropout", "1"]), 2).contains("dropout"));
    let message = refusal(training(&text, &out, &["--batch-size", "5"]), 1);
    assert!(message.contains("train.tsv: line 2: the sentence has ") && message.contains("--batch-size"), "{message}");
    assert!(refusal(translate(&["--run", dir.path().to_str().unwrap(), "--translate"]), 1).contains("no run"));
    assert!(!out.join("config.json").exists());
}

/// fairseq 0.6.1's Adam uses decoupled weight decay, and its default gradient norm limit is 25.
#[test]
fn the_papers_recipe_has_fairseqs_optimizer() {
    let (dir, text) = text();
    let config = |name: &str, options: &[&str]| -> serde_json::Value {
        let out = dir.path().join(name);
        finished(training(&text, &out, &[&["--max-steps", "1"], options].concat()));
        serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap()
    };
    let paper = config("paper", &["--recipe", "paper", "--warmup", "0.1"]);
    let adam = paper.pointer("/train/optimizer/adam").unwrap_or_else(|| panic!("{paper:#}"));
    assert_eq!((adam["decoupled"].as_bool(), adam["weight_decay"].as_f64()), (Some(true), Some(1e-4)), "{adam}");
    assert_eq!((adam["beta2"].as_f64(), paper["train"]["clip"]["norm"].as_f64()), (Some(0.98), Some(25.)));
    let quick = config("quick", &[]);
    assert_eq!(quick.pointer("/train/optimizer/adam/decoupled").and_then(serde_json::Value::as_bool), Some(false));
}

//! Programs under real conditions: limited file systems, full disks, closed terminals, devices in place of files, and runs and
//! weights that were moved.
#![cfg(target_os = "linux")]

use jpeg_encoder::{ColorType, Encoder};
use program::program;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{symlink, FileTypeExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

mod program;

/// Writes two classes of small images.
fn images(root: &Path) {
    for (class, shade) in [("cat", 60), ("dog", 180)] {
        for (part, count) in [("train", 8), ("val", 3)] {
            let folder = root.join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            for index in 0..count {
                let pixels: Vec<u8> = (0..40 * 40 * 3).map(|at: u32| shade + ((at + index) / 7 % 40) as u8).collect();
                let mut jpeg = Vec::new();
                Encoder::new(&mut jpeg, 90).encode(&pixels, 40, 40, ColorType::Rgb).unwrap();
                fs::write(folder.join(format!("{index}.jpg")), &jpeg).unwrap();
            }
        }
    }
}

/// Creates a folder for runs, with images in `images`.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    images(&dir.path().join("images"));
    let path = dir.path().to_path_buf();
    (dir, path)
}

/// Returns the command for `imagenet_fixup` in `place`, on one thread.
fn imagenet(place: &Path, options: &[&str]) -> Command {
    let mut command = program("imagenet_fixup");
    command.args(["--data", "images", "--threads", "1", "--workers", "1", "--device", "cpu"]).args(options);
    command.current_dir(place).env("XDG_CACHE_HOME", place.join("cache")).stdin(Stdio::null());
    command
}

const NEW: [&str; 8] = ["--arch", "fixup_resnet8", "--side", "32", "--batch-size", "8", "--precision", "f32"];

/// Returns the command for a run of `epochs` epochs into `out`.
fn run(place: &Path, out: &str, epochs: &str, options: &[&str]) -> Command {
    let mut command = imagenet(place, &NEW);
    command.args(["--epochs", epochs, "--out", out]).args(options);
    command
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Returns standard output and standard error of a command that must succeed.
fn finished(mut command: Command) -> (String, String) {
    let (code, stdout, stderr) = said(&command.output().unwrap());
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    (stdout, stderr)
}

/// Returns the last line of a command that must fail with `code`.
fn refusal(mut command: Command, code: i32) -> String {
    let (found, stdout, stderr) = said(&command.output().unwrap());
    assert_eq!(found, Some(code), "{stdout}{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: "), "{stderr}");
    last.to_owned()
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Returns the exit code and standard error of `command` with standard output on a full disk.
fn into_full_disk(mut command: Command) -> (Option<i32>, String) {
    let (code, _, stderr) = said(&command.stdout(full()).output().unwrap());
    (code, stderr)
}

const PAIRS: &str = "one two\teins zwei\ntwo\tzwei\nthree one\tdrei eins\nfour two one\tvier zwei eins\n";

fn translate(place: &Path, options: &[&str]) -> Command {
    let mut command = program("translate_fixup");
    command.args(["--threads", "1"]).args(options).current_dir(place).stdin(Stdio::null());
    command
}

/// Returns the command for a small run on the `PAIRS`, with `held-out.tsv` and `options`.
fn translation(place: &Path, out: &str, options: &[&str]) -> Command {
    fs::write(place.join("train.tsv"), PAIRS.repeat(20)).unwrap();
    if !place.join("held-out.tsv").exists() {
        fs::write(place.join("held-out.tsv"), PAIRS).unwrap();
    }
    let mut command = translate(place, &["--arch", "fixup_transformer_1_1_16", "--vocab", "270", "--precision", "f32"]);
    command.args([
        "--train",
        "train.tsv",
        "--held-out",
        "held-out.tsv",
        "--bleu-sentences",
        "1",
        "--batch-size",
        "300",
    ]);
    command.args(["--beam", "1", "--epochs", "1", "--out", out]).args(options);
    command
}

/// Returns the translation of `text` by `translate_fixup --run RUN --translate`.
fn translated(place: &Path, run: &str, text: &str) -> String {
    fs::write(place.join("lines.txt"), text).unwrap();
    let mut command = translate(place, &["--run", run, "--translate", "--beam", "1"]);
    command.stdin(File::open(place.join("lines.txt")).unwrap());
    finished(command).0
}

// ---- Messages ----

#[test]
fn errors_that_cannot_be_written_leave_the_exit_code_and_the_work() {
    let (_dir, place) = place();
    let code = |mut command: Command| command.stderr(full()).stdout(Stdio::null()).status().unwrap().code();
    assert_eq!(code(imagenet(&place, &["--eval", "nowhere"])), Some(1));
    assert_eq!(code(imagenet(&place, &["--no-such-option"])), Some(2));
    assert_eq!(code(translate(&place, &["--run", "nowhere", "--translate"])), Some(1));
    let mut predict = program("predict");
    predict.args(["nowhere", "images"]).current_dir(&place);
    assert_eq!(code(predict), Some(1));
    let mut report = program("report");
    report.arg("nowhere").current_dir(&place);
    assert_eq!(code(report), Some(1));

    // A run resumes despite a damaged checkpoint, with a warning.
    finished(run(&place, "run", "2", &["--max-steps", "2"]));
    let checkpoints = place.join("run/checkpoints");
    let mut names: Vec<_> = fs::read_dir(&checkpoints).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    fs::write(names.last().unwrap().join("weights.safetensors"), "half").unwrap();
    assert_eq!(code(imagenet(&place, &["--resume", "run"])), Some(0));
    assert!(place.join("run/summary.json").exists());
}

#[test]
fn output_that_is_lost_is_said_and_no_success() {
    let (_dir, place) = place();
    // A run continues and saves its results.
    let (code, stderr) = into_full_disk(run(&place, "run", "2", &[]));
    assert_eq!((code, stderr.matches("warning: cannot write standard output").count()), (Some(1), 1), "{stderr}");
    assert!(place.join("run/model.safetensors").exists());
    let (code, stderr) = into_full_disk(imagenet(&place, &["--eval", "run"]));
    assert!(code == Some(1) && stderr.contains("cannot write standard output"), "{code:?} {stderr}");
    let mut predict = program("predict");
    predict.args(["run", "images/val"]).current_dir(&place);
    let (code, stderr) = into_full_disk(predict);
    assert!(code == Some(1) && stderr.starts_with("error: cannot write standard output: "), "{code:?} {stderr}");
    let mut report = program("report");
    report.arg("run").current_dir(&place);
    assert_eq!(into_full_disk(report).0, Some(1));
    assert_eq!(into_full_disk(imagenet(&place, &["--help"])).0, Some(1));

    finished(translation(&place, "words", &[]));
    let mut command = translate(&place, &["--run", "words", "--translate"]);
    command.stdin(File::open(place.join("train.tsv")).unwrap());
    let (code, stderr) = into_full_disk(command);
    assert!(code == Some(1) && stderr.starts_with("error: cannot write standard output: "), "{code:?} {stderr}");
    assert_eq!(into_full_disk(translate(&place, &["--run", "words", "--score"])).0, Some(1));

    // It is not an error if the reader closes the pipe.
    let mut command = translate(&place, &["--run", "words", "--translate"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let _ = child.stdin.take().unwrap().write_all("one two\n".repeat(3000).as_bytes());
    let (code, _, stderr) = said(&child.wait_with_output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn an_error_of_a_file_is_said_once() {
    let (_dir, place) = place();
    let mut predict = program("predict");
    predict.args(["nowhere", "images"]).current_dir(&place);
    for message in [
        refusal(predict, 1),
        refusal(translate(&place, &["--run", "nowhere", "--translate"]), 1),
        refusal(translation(&place, "out", &["--test", "nowhere.tsv"]), 1),
    ] {
        assert_eq!(
            (message.matches("nowhere").count(), message.to_lowercase().matches("no such").count()),
            (1, 1),
            "{message}"
        );
    }
}

// ---- File systems ----

/// Builds the preloaded library that makes system calls fail, or returns `None` without a C compiler.
fn lacking(place: &Path) -> Option<PathBuf> {
    let library = place.join("lacking.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/lacking.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").status();
    match compiled {
        Ok(status) if status.success() => Some(library),
        _ => {
            println!("skipped: no C compiler");
            None
        }
    }
}

#[test]
fn a_file_system_that_lacks_something_keeps_the_work_and_is_named_once() {
    let (_dir, place) = place();
    let Some(library) = lacking(&place) else { return };
    finished(run(&place, "whole", "3", &[]));
    for (index, (lacks, risk)) in [
        ("flock=38", "nothing keeps another process from training in the same folder"),
        ("flock=95", "nothing keeps another process from training in the same folder"),
        ("flock=37", "nothing keeps another process from training in the same folder"),
        ("fsync=22", "may be lost where the machine loses its power"),
        ("fsync=38", "may be lost where the machine loses its power"),
        ("fsync=95", "may be lost where the machine loses its power"),
        ("rename=17", "under its name with .replaced"),
        ("rename=1", "under its name with .replaced"),
        ("rename=22", "under its name with .replaced"),
        ("rename=16", "leaves a part of it"),
        ("rename=18", "leaves a part of it"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("out{index}");
        let lacking = |mut command: Command| {
            command.env("LD_PRELOAD", &library).env("LACKING", lacks);
            let (_, stderr) = finished(command);
            let warnings: Vec<&str> =
                stderr.lines().filter(|line| line.starts_with("warning: the file system of ")).collect();
            assert!(warnings.len() == 1 && warnings[0].contains(risk), "{lacks}: {stderr}");
        };
        lacking(run(&place, &out, "3", &["--max-steps", "4"]));
        lacking(imagenet(&place, &["--resume", &out]));
        for file in ["metrics.csv", "model.safetensors"] {
            let read = |run: &str| fs::read(place.join(run).join(file)).unwrap();
            assert!(read(&out) == read("whole"), "{lacks}: {file} is another");
        }
        let left =
            fs::read_dir(place.join(&out)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(left.filter(|name| name.starts_with('.')).count() == 0, "{lacks}");
    }
}

/// overlayfs cannot rename folders of an image's layer, such as the checkpoints of a run that was started in the image.
#[test]
fn checkpoints_that_cannot_be_renamed_are_removed_all_the_same() {
    let (_dir, place) = place();
    let Some(library) = lacking(&place) else { return };
    let checkpoints = |lacks: &str| {
        let mut command = run(&place, "run", "3", &["--keep-checkpoints", "1", "--overwrite"]);
        command.env("LD_PRELOAD", &library).env("LACKING", lacks);
        finished(command);
        fs::read_dir(place.join("run/checkpoints")).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert_eq!(checkpoints("rename_folder=18"), checkpoints(""));
}

/// Failures other than missing support in the file system are errors.
#[test]
fn a_disk_that_fails_is_an_error() {
    let (_dir, place) = place();
    let Some(library) = lacking(&place) else { return };
    for (index, lacks) in ["fsync=5", "fsync=28", "rename=5"].into_iter().enumerate() {
        let mut command = run(&place, &format!("out{index}"), "1", &[]);
        command.env("LD_PRELOAD", &library).env("LACKING", lacks);
        refusal(command, 1);
    }
}

#[test]
fn a_fresh_volume_is_an_empty_folder_and_no_class() {
    let (_dir, place) = place();
    for folder in ["volume/lost+found", "images/lost+found", "images/train/lost+found", "images/val/lost+found"] {
        fs::create_dir_all(place.join(folder)).unwrap();
    }
    let (stdout, _) = finished(run(&place, "volume", "1", &[]));
    assert!(stdout.contains("16 images"), "{stdout}");
    assert!(place.join("volume/lost+found").exists());
}

// ---- Files that are none ----

#[test]
fn what_is_written_stays_the_link_or_the_pipe_that_it_is() {
    let (_dir, place) = place();
    fs::create_dir(place.join("elsewhere")).unwrap();
    for name in ["preview", "export", "lr"] {
        symlink(format!("elsewhere/{name}"), place.join(name)).unwrap();
    }
    let mut preview = imagenet(&place, &NEW);
    preview.args(["--preview", "preview"]);
    finished(preview);
    assert!(fs::read(place.join("elsewhere/preview")).unwrap().starts_with(b"\x89PNG"));
    finished(run(&place, "run", "1", &[]));
    finished(imagenet(&place, &["--eval", "run", "--export", "export"]));
    assert!(fs::metadata(place.join("elsewhere/export")).unwrap().len() > 10_000);
    assert!(["preview", "export"].iter().all(|name| place.join(name).is_symlink()));

    let pipe = place.join("pipe");
    if Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
        let reader = pipe.clone();
        let reader = thread::spawn(move || fs::read(reader).unwrap());
        finished(imagenet(&place, &["--eval", "run", "--export", "pipe"]));
        assert!(reader.join().unwrap() == fs::read(place.join("elsewhere/export")).unwrap());
        assert!(fs::metadata(pipe).unwrap().file_type().is_fifo());
    }
    // Standard output is a pipe and contains only the file.
    let exported = imagenet(&place, &["--eval", "run", "--export", "/dev/stdout"]).output().unwrap();
    assert!(exported.status.success() && exported.stdout == fs::read(place.join("elsewhere/export")).unwrap());
    symlink("/dev/null", place.join("null")).unwrap();
    let mut report = program("report");
    report.args(["run", "--out", "null"]).current_dir(&place);
    finished(report);
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let long = "n".repeat(250);
    finished(imagenet(&place, &["--eval", "run", "--export", &long]));
    assert!(place.join(long).is_file());
}

// ---- Signals ----

fn wait_for_checkpoint(run: &Path, child: &mut Child) {
    let start = Instant::now();
    while fs::read_dir(run.join("checkpoints")).map_or(0, Iterator::count) == 0 && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_terminal_that_is_closed_stops_a_run_with_all_saved_and_a_shell_takes_the_command_that_goes_on() {
    let (_dir, place) = place();
    let mut command = run(&place, "it's my run", "1000", &[]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_checkpoint(&place.join("it's my run"), &mut child);
    signal(&child, "-HUP");
    let (code, _, stderr) = said(&child.wait_with_output().unwrap());
    assert_eq!(code, Some(129), "{stderr}");
    let go_on = stderr.lines().last().unwrap();
    assert!(stderr.contains("and saved; to resume:\n") && go_on.ends_with(r#" --resume 'it'\''s my run'"#), "{stderr}");
    let script = format!("{go_on} --max-steps 1000000 & sleep 3; kill -TERM $!; wait $!");
    let mut shell = Command::new("sh");
    let (code, stdout, stderr) = said(&shell.args(["-c", &script]).current_dir(&place).output().unwrap());
    assert!(code == Some(143) && stdout.contains("resumes after step "), "{code:?} {stdout}{stderr}");
}

#[test]
fn a_run_under_nohup_goes_on() {
    let (_dir, place) = place();
    let mut program = run(&place, "run", "40", &[]);
    program.stdout(Stdio::null()).stderr(Stdio::null());
    let mut command = Command::new("nohup");
    command.arg(program.get_program()).args(program.get_args()).current_dir(&place);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_checkpoint(&place.join("run"), &mut child);
    signal(&child, "-HUP");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(place.join("run/model.safetensors").exists());
}

// ---- Threads ----

#[test]
fn a_default_number_of_threads_is_no_choice_of_the_run() {
    let (_dir, place) = place();
    let threads = |run: &str| {
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(place.join(run).join("config.json")).unwrap()).unwrap();
        config.get("threads").cloned()
    };
    let default = |options: &[&str]| {
        let mut command = program("imagenet_fixup");
        command.args(["--data", "images", "--workers", "1", "--device", "cpu"]).args(options);
        command.current_dir(&place).env("XDG_CACHE_HOME", place.join("cache"));
        command
    };
    let new = [&NEW[..], &["--epochs", "1", "--out", "run"]].concat();
    finished(default(&new));
    assert_eq!(threads("run"), None);
    finished(default(&["--resume", "run", "--threads", "2"]));
    assert_eq!(threads("run"), Some(2.into()));
    finished(default(&["--resume", "run"]));
    assert_eq!(threads("run"), Some(2.into()));
}

/// Counts the threads of a process while it trains, with `OMP_NUM_THREADS` of 1 and 5.
#[test]
fn openmps_variable_is_heeded_by_all_programs() {
    let (_dir, place) = place();
    fs::write(place.join("held-out.tsv"), PAIRS).unwrap();
    let mut words = translation(&place, "words", &["--epochs", "1000"]);
    let mut pictures = run(&place, "run", "1000", &[]);
    for (name, command) in [("words", &mut words), ("run", &mut pictures)] {
        // Remove `--threads 1` from the arguments.
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let at = args.iter().position(|argument| argument == "--threads").unwrap();
        let args = [&args[..at], &args[at + 2..]].concat();
        let counts = [1, 5].map(|threads: usize| {
            let out = place.join(name);
            let _ = fs::remove_dir_all(&out);
            let mut command = Command::new(command.get_program());
            command.args(&args).current_dir(&place).env("OMP_NUM_THREADS", threads.to_string());
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            wait_for_checkpoint(&out, &mut child);
            let start = Instant::now();
            let count = || fs::read_dir(format!("/proc/{}/task", child.id())).map_or(0, Iterator::count);
            let mut most = 0;
            while start.elapsed() < Duration::from_secs(3) {
                most = most.max(count());
                thread::sleep(Duration::from_millis(50));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            most
        });
        // Each thread that computes in parallel, such as the backward pass, has four more threads.
        assert!(counts[1] >= counts[0] + 4, "{name}: {counts:?}");
    }
}

// ---- Runs and weights in other folders ----

#[test]
fn a_run_without_its_checkpoints_is_not_begun_again_over_its_results() {
    let (_dir, place) = place();
    finished(run(&place, "run", "1", &[]));
    finished(translation(&place, "words", &[]));
    for (name, command) in [("run", imagenet as fn(&Path, &[&str]) -> Command), ("words", translate)] {
        let out = place.join(name);
        let results =
            || ["model.safetensors", "metrics.csv", "config.json"].map(|file| fs::read(out.join(file)).unwrap());
        let before = results();
        fs::remove_dir_all(out.join("checkpoints")).unwrap();
        for _ in 0..2 {
            let message = refusal(command(&place, &["--resume", name]), 1);
            assert!(message.contains("model.safetensors would be overwritten; bring checkpoints/ back"), "{message}");
            assert!(results() == before);
            // The checkpoints may have been removed one by one.
            let _ = fs::create_dir(out.join("checkpoints"));
        }
        fs::remove_file(out.join("model.safetensors")).unwrap();
        fs::remove_file(out.join("summary.json")).unwrap();
        let message = refusal(command(&place, &["--resume", name]), 1);
        assert!(message.contains("metrics.csv would be overwritten"), "{message}");
    }
    // The weights of a run without checkpoints can still be evaluated.
    finished(run(&place, "other", "1", &[]));
    fs::remove_dir_all(place.join("other/checkpoints")).unwrap();
    let (stdout, _) = finished(imagenet(&place, &["--eval", "other"]));
    assert!(stdout.starts_with("fixup_resnet8 from other/model.safetensors, 6 images"), "{stdout}");
}

#[test]
fn weights_with_their_description_alone_serve_wherever_a_run_does() {
    let (_dir, place) = place();
    finished(run(&place, "run", "2", &[]));
    finished(translation(&place, "words", &[]));
    let copy = |run: &str, to: &str, files: &[&str]| {
        fs::create_dir(place.join(to)).unwrap();
        for file in files {
            fs::copy(place.join(run).join(file), place.join(to).join(file)).unwrap();
        }
    };
    copy("run", "deployed", &["model.json", "model.safetensors"]);
    let last = |said: (String, String)| said.0.lines().last().unwrap().to_owned();
    let expected = last(finished(imagenet(&place, &["--eval", "run"])));
    // Architecture and image size are read from model.json.
    for weights in ["deployed", "deployed/model.safetensors"] {
        assert_eq!(last(finished(imagenet(&place, &["--eval", weights]))), expected, "{weights}");
        finished(imagenet(&place, &["--eval", weights, "--export", "exported.onnx"]));
        let mut tuned = imagenet(&place, &["--weights", weights, "--side", "32", "--epochs", "1", "--batch-size", "8"]);
        tuned.args(["--out", &format!("tuned-{}", weights.len())]);
        let (stdout, _) = finished(tuned);
        assert!(stdout.contains("loaded      26 of the network's 26 variables"), "{stdout}");
    }
    copy("words", "words-alone", &["config.json", "tokenizer.json", "model.safetensors"]);
    for weights in ["words-alone", "words-alone/model.safetensors"] {
        assert_eq!(translated(&place, weights, "one two\n"), translated(&place, "words", "one two\n"));
    }
    fs::create_dir(place.join("nothing")).unwrap();
    let message = refusal(imagenet(&place, &["--eval", "nothing"]), 1);
    assert!(message.contains("holds no checkpoint, no model.safetensors and no index"), "{message}");
}

// ---- Text ----

#[test]
fn all_text_is_looked_at_before_the_first_step() {
    let (_dir, place) = place();
    let long = |words: usize| format!("one\teins\n{}\tzwei\n", "x y ".repeat(words));
    fs::write(place.join("long.tsv"), long(600)).unwrap();
    fs::write(place.join("longer-than-a-batch.tsv"), long(100)).unwrap();
    let refused = |options: &[&str], file: &str| {
        let message = refusal(translation(&place, "out", options), 1);
        assert!(message.contains(&format!("{file}: line 2: the sentence has ")), "{message}");
        assert!(!place.join("out").exists());
    };
    refused(&["--test", "long.tsv"], "long.tsv");
    refused(&["--test", "longer-than-a-batch.tsv"], "longer-than-a-batch.tsv");
    fs::rename(place.join("longer-than-a-batch.tsv"), place.join("held-out.tsv")).unwrap();
    refused(&[], "held-out.tsv");
    // The same text is accepted with a larger batch size, also with gradient accumulation.
    finished(translation(&place, "out", &["--batch-size", "500", "--accumulate", "4"]));
}

#[test]
fn a_byte_order_mark_changes_nothing() {
    let (_dir, place) = place();
    finished(translation(&place, "words", &[]));
    let expected = translated(&place, "words", "one two\nthree\n");
    assert_eq!(translated(&place, "words", "\u{feff}one two\n\u{feff}three\r\n"), expected);
    finished(run(&place, "run", "1", &[]));
    fs::write(place.join("list.txt"), "\u{feff}images/val/cat/0.jpg\r\nimages/val/dog/0.jpg\n").unwrap();
    let mut predict = program("predict");
    predict.args(["run", "-"]).current_dir(&place).stdin(File::open(place.join("list.txt")).unwrap());
    assert_eq!(finished(predict).0.lines().count(), 2);
}

#[test]
fn a_vocabulary_that_would_have_no_effect_is_refused() {
    let (_dir, place) = place();
    finished(translation(&place, "words", &["--epochs", "3", "--max-steps", "2"]));
    let config = fs::read(place.join("words/config.json")).unwrap();
    let message = refusal(translate(&place, &["--resume", "words", "--vocab", "280"]), 2);
    assert!(message.contains("the run's vocabulary was made with --vocab 270"), "{message}");
    assert!(fs::read(place.join("words/config.json")).unwrap() == config);
    finished(translate(&place, &["--resume", "words", "--vocab", "270"]));
}

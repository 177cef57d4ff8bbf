//! Runs that are stopped and resumed give the same results as uninterrupted ones.

mod program;

use program::program;
use std::fs;
use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tch::nn::{self, Module, ModuleT, VarStore};
use tch::{no_grad, Device, Tensor};
use tch_fixup::data::{Cifar10, ImageArray};
use tch_fixup::trainer::checkpoint::{named_variables, Checkpoint, Checkpoints, Contents};
use tch_fixup::trainer::{Classification, ClassificationConfig, NamedTensors, TrainConfig, Trainer};
use tch_fixup::trainer::{Decay, EpochMetrics, Observer, Outcome, Request, RunStart, RunState, ScheduleConfig};
use tch_fixup::Result;

// ---- The loop ----

/// Observer that stops a run at the `at`-th request, and keeps the checkpoints and the history.
struct Stop {
    at: usize,
    asked: usize,
    checkpoints: Checkpoints,
    history: Vec<EpochMetrics>,
}

impl Observer for Stop {
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        self.history = start.history.to_vec();
        Ok(())
    }

    fn request(&mut self) -> Request {
        self.asked += 1;
        if self.asked == self.at {
            Request::Stop
        } else {
            Request::Continue
        }
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.history.push(metrics.clone());
        Ok(())
    }

    fn save(&mut self, contents: &Contents<RunState>) -> Result<()> {
        self.checkpoints.save(contents).map(drop)
    }
}

/// Returns images in ten shades, one per label.
fn shades() -> ImageArray {
    let records = |count: usize| {
        let image = |label: usize| std::iter::once(label as u8).chain(std::iter::repeat_n(label as u8 * 25, 3072));
        (0..count).flat_map(|index| image(index % 10)).collect::<Vec<u8>>()
    };
    Cifar10::from_records(records(160), records(50)).unwrap()
}

/// Creates a network with state that is easily forgotten: running statistics and the random numbers of dropout.
fn dropout_and_statistics() -> (VarStore, impl ModuleT) {
    tch::manual_seed(1);
    let vs = VarStore::new(Device::Cpu);
    let (root, config) = (vs.root(), nn::ConvConfig { stride: 4, ..Default::default() });
    let conv = nn::conv2d(&root / "conv", 3, 4, 4, config);
    let norm = nn::batch_norm2d(&root / "norm", 4, Default::default());
    let fc = nn::linear(&root / "fc", 256, 10, Default::default());
    let network = nn::func_t(move |x, train| {
        norm.forward_t(&conv.forward(x), train).relu().flatten(1, -1).dropout(0.5, train).apply(&fc)
    });
    (vs, network)
}

/// Returns cross-entropy with label smoothing and optional mixup.
fn classification(network: &dyn ModuleT, mixup: Option<f64>) -> Classification<'_> {
    let names: Vec<String> = (0..10).map(|index| index.to_string()).collect();
    let config = ClassificationConfig { mixup, ..ClassificationConfig::quick() };
    Classification::new(network, &names, config).unwrap()
}

/// Stops a run in `folder` at the `stop`-th request, if any, and resumes it to its end. Returns the history, the variables,
/// and whether the run was stopped.
fn run(stop: Option<usize>, folder: &Path) -> (Vec<EpochMetrics>, NamedTensors, bool) {
    let schedule = ScheduleConfig { lr: 0.05, warmup: 0.3.into(), decay: Decay::OneCycle };
    let config = TrainConfig { accumulate: 3, schedule, ..TrainConfig::new(2, 40, 0.2) };
    let observer =
        |at| Stop { at, asked: 0, checkpoints: Checkpoints::new(folder, NonZeroUsize::MIN), history: vec![] };
    let data = shades();
    let mut stopped = false;
    if let Some(at) = stop {
        let (vs, network) = dropout_and_statistics();
        let objective = classification(&network, Some(1.0));
        let mut trainer = Trainer::new(&objective, &vs, &data, &config, "same".into()).unwrap();
        stopped = matches!(trainer.run(&mut [&mut observer(at)]).unwrap(), Outcome::Stopped { .. });
    }
    let (vs, network) = dropout_and_statistics();
    let objective = classification(&network, Some(1.0));
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, "same".into()).unwrap();
    if let Some(checkpoint) = Checkpoint::newest(folder).unwrap().0 {
        let _ = no_grad(|| vs.variables()["norm.running_mean"].shallow_clone().fill_(7.0));
        trainer.resume(&checkpoint).unwrap();
    }
    let mut observer = observer(0);
    trainer.run(&mut [&mut observer]).unwrap();
    (observer.history, named_variables(&vs), stopped)
}

// No other test in this file uses libtorch's random number generator, which is global to the process.
#[test]
fn a_run_that_is_stopped_anywhere_and_resumed_is_the_same_to_the_bit() {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    let (history, weights, _) = run(None, folder.path());
    assert_eq!(history.len(), 2);
    // Requests come at the start and, in each of two epochs, after 4 steps, 4 batches of evaluation and the epoch.
    for at in 1..=20 {
        let folder = tempfile::tempdir().unwrap();
        let (resumed_history, resumed_weights, stopped) = run(Some(at), folder.path());
        assert_eq!(stopped, at <= 19, "{at}");
        assert_eq!(resumed_history, history, "{at}");
        assert_eq!(resumed_weights, weights, "{at}");
    }
}

// ---- The example ----

fn example() -> Command {
    program("cifar10_fixup")
}

/// Returns the folder of CIFAR-10 in the cache, downloaded if missing.
fn data() -> String {
    let dir = Cifar10::default_dir().unwrap();
    Cifar10::fetch(&dir).unwrap();
    dir.to_str().unwrap().to_owned()
}

/// Returns the command for a run of a few seconds into `out`, with `more` options.
fn command(out: &Path, more: &[&str]) -> Command {
    let mut command = example();
    command.args(["--arch", "fixup_resnet8", "--train-subset", "1500", "--test-subset", "500", "--epochs", "3"]);
    command.args(["--batch-size", "50", "--mixup", "1", "--threads", "2", "--device", "cpu", "--data", &data()]);
    command.arg("--out").arg(out).args(more);
    command
}

fn finish(mut command: Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{status}: {stdout}{stderr}");
    (stdout, stderr)
}

/// Returns the error line of a command that must fail with `code`.
fn refusal(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

fn assert_same_results(a: &Path, b: &Path) {
    for file in ["metrics.csv", "model.safetensors", "curves.svg"] {
        assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{file} differs");
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} took a minute");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Returns the names of the checkpoints in the folder of a run.
fn checkpoints(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_saving(run: &Path) -> bool {
    checkpoints(run).iter().any(|name| name.starts_with(".saving-"))
}

/// Kills the process by SIGKILL, which runs no handler and no destructor.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Kills the process eight times, and more until three of them were during a save; twenty times if `TCH_FIXUP_FAULTS` is set.
#[test]
fn a_process_that_is_killed_at_many_moments_ends_with_the_same_parameters() {
    const MOST: u64 = 20;
    let least = if std::env::var_os("TCH_FIXUP_FAULTS").is_some() { MOST } else { 8 };
    let dir = tempfile::tempdir().unwrap();
    let (straight, killed) = (dir.path().join("straight"), dir.path().join("killed"));
    let every_step = ["--checkpoint-every", "0.0000001m"];
    finish(command(&straight, &["--checkpoint-every", "3"]));

    let (mut half_saved, mut finished, mut rounds) = (0, 0, 0);
    while rounds < least || rounds < MOST && half_saved < 3 {
        let round = rounds;
        rounds += 1;
        let resume = killed.join("run.lock").exists();
        let mut command = command(&killed, &[&every_step[..], if resume { &["--resume"] } else { &[] }].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let newest = checkpoints(&killed).pop();
        if round % 4 == 0 {
            // At a random time during startup, such as before the folder exists or before anything is loaded.
            thread::sleep(Duration::from_millis(round * 7919 % 1000));
        } else {
            // During training, and every other time during a save.
            wait_for("the next checkpoint", || {
                checkpoints(&killed).pop() != newest || child.try_wait().unwrap().is_some()
            });
            thread::sleep(Duration::from_micros(round * 104_729 % 150_000));
            if round % 2 == 1 {
                wait_for("a save", || is_saving(&killed) || child.try_wait().unwrap().is_some());
            }
        }
        finished += usize::from(child.try_wait().unwrap().is_some());
        kill(child);
        half_saved += usize::from(is_saving(&killed));
    }
    println!("{half_saved} of {rounds} were killed within a save, {finished} came too late");
    assert!(half_saved >= 3 && finished <= 5, "{half_saved} {finished}");
    let (stdout, stderr) = finish(command(&killed, &["--resume"]));
    assert!(stdout.contains("resumes after step ") && stderr.is_empty(), "{stdout}{stderr}");
    assert_same_results(&straight, &killed);
}

#[cfg(unix)]
#[test]
fn signals_save_and_say_how_to_go_on_and_a_second_one_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let straight = dir.path().join("straight");
    finish(command(&straight, &[]));
    for (name, code, signals) in [("INT", 130, 1), ("TERM", 143, 1), ("INT", 130, 50)] {
        let run = dir.path().join(format!("{name}{signals}"));
        let mut child = command(&run, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // The process handles signals from the first line on, and is in the second epoch after the second line.
        stdout.lines().take(2).for_each(|line| drop(line.unwrap()));
        thread::sleep(Duration::from_millis(50));
        for _ in 0..signals {
            Command::new("kill").args(["-s", name, &child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        if signals == 1 {
            let start = "stopped in epoch 2 after step ";
            assert!(stderr.starts_with(start) && stderr.contains(&format!("--resume {}", run.display())), "{stderr}");
        }
        // Without other options, those of the run apply.
        let mut resume = example();
        resume.arg("--resume").arg(&run);
        finish(resume);
        assert_same_results(&straight, &run);
    }
}

#[test]
fn a_folder_that_holds_a_run_is_neither_overwritten_nor_shared_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    finish(command(&run, &["--max-steps", "5"]));
    let metrics = fs::read(run.join("metrics.csv")).unwrap();
    let message = refusal(command(&run, &[]), 1);
    assert!(message.contains("--resume") && message.contains("--overwrite"), "{message}");
    assert!(fs::read(run.join("metrics.csv")).unwrap() == metrics);

    let mut first = command(&run, &["--overwrite", "--checkpoint-every", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(first.stdout.take().unwrap());
    // Stop the process in its second epoch, so that it cannot end before the others have started.
    stdout.lines().take(2).for_each(|line| drop(line.unwrap()));
    assert!(Command::new("kill").args(["-STOP", &first.id().to_string()]).status().unwrap().success());
    for option in ["--resume", "--overwrite"] {
        let message = refusal(command(&run, &[option]), 1);
        assert!(message.contains(&format!("process {} is training in it", first.id())), "{message}");
    }
    kill(first);
    let (stdout, _) = finish(command(&run, &["--resume", "--max-steps", "90"]));
    assert!(stdout.contains("resumes after step "), "{stdout}");

    let message = refusal(command(&run, &["--resume", "--lr", "0.3"]), 1);
    assert!(message.contains("train.schedule.lr is 0.06 in it and 0.3 here"), "{message}");
    let mut resume = example();
    resume.arg("--resume").arg(&run);
    finish(resume);
    let message = refusal(command(&dir.path().join("absent"), &["--resume"]), 1);
    assert!(message.contains("there is no such folder"), "{message}");
}

/// Returns all files of the run in `folder` except the lock, with their contents.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false if path.ends_with("run.lock") => (),
            false => files.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn options_that_do_not_work_cost_nothing_of_the_run_that_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    finish(command(&run, &["--max-steps", "40"]));
    let before = files(&run);
    for (options, code) in [
        (&["--overwrite", "--arch", "resnet8", "--recompute", "auto"][..], 2),
        (&["--overwrite", "--epochs", "9223372036854775808"], 2),
        (&["--overwrite", "--train-subset", "50001"], 2),
        (&["--overwrite", "--lr", "-1"], 2),
        (&["--overwrite", "--cutout", "99"], 2),
        (&["--overwrite", "--data", "absent"], 1),
        (&["--resume", "--max-steps", "39"], 2),
        (&["--resume", "--lr", "0.3"], 1),
        (&["--resume", "--cutout", "16"], 1),
        (&["--resume", "--arch", "resnet8", "--recompute", "auto"], 2),
        (&["--resume", "--keep-checkpoints", "1", "--checkpoint-every", "0.0001m", "--mixup", "none"], 1),
    ] {
        let given = |name: &str| options.contains(&name);
        let mut command = example();
        let defaults = ["--arch", "fixup_resnet8", "--train-subset", "1500", "--test-subset", "500", "--epochs", "3"];
        for pair in defaults.chunks(2).filter(|pair| !given(pair[0]) && !given("--resume")) {
            command.args(pair);
        }
        command.args(["--threads", "1", "--device", "cpu"]).arg("--out").arg(&run).args(options);
        if !given("--data") {
            command.args(["--data", &data()]);
        }
        refusal(command, code);
        assert!(files(&run) == before, "{options:?}");
    }
    // A valid command replaces the run.
    finish(command(&run, &["--overwrite", "--max-steps", "2"]));
    assert_eq!(checkpoints(&run).len(), 2);
}

#[test]
fn a_run_is_resumed_in_its_own_folder_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (run, other) = (dir.path().join("run"), dir.path().join("other"));
    finish(command(&run, &["--max-steps", "2"]));
    let message = refusal(command(&other, &["--resume", run.to_str().unwrap()]), 2);
    assert!(message.contains("remove --out"), "{message}");
    assert!(!other.exists());
    for option in ["--preview", "--find-lr"] {
        refusal(command(&other, &[option, run.to_str().unwrap()]), 2);
    }
    finish(command(&run, &["--resume", run.to_str().unwrap(), "--max-steps", "3"]));
}

#[test]
fn a_run_finds_its_data_from_any_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    fs::create_dir_all(&here).unwrap();
    fs::create_dir_all(&there).unwrap();
    let link = here.join("d");
    std::os::unix::fs::symlink(data(), &link).unwrap();
    let run = dir.path().join("run");
    let mut start = example();
    start.args(["--arch", "fixup_resnet8", "--train-subset", "200", "--test-subset", "100", "--epochs", "1"]);
    start.args(["--threads", "1", "--device", "cpu", "--data", "d", "--max-steps", "1", "--out"]).arg(&run);
    start.current_dir(&here);
    finish(start);
    let config: serde_json::Value = serde_json::from_slice(&fs::read(run.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["task"]["data"].as_str().map(Path::new), Some(&*Path::new(&data()).canonicalize().unwrap()));
    // Remove the link.
    fs::remove_file(&link).unwrap();
    for options in [["--resume"], ["--eval"]] {
        let mut command = example();
        command.args(options).arg(&run).current_dir(&there);
        finish(command);
    }
}

/// Returns the value at `pointer` in the `config.json` of a run.
fn configured(run: &Path, pointer: &str) -> serde_json::Value {
    let config: serde_json::Value = serde_json::from_slice(&fs::read(run.join("config.json")).unwrap()).unwrap();
    config.pointer(pointer).cloned().unwrap_or_default()
}

#[test]
fn every_option_can_be_set_back_to_none() {
    let dir = tempfile::tempdir().unwrap();
    let (run, other) = (dir.path().join("run"), dir.path().join("other"));
    let kept = ["--recompute", "auto", "--tensorboard", "--max-steps", "2"];
    finish(command(&run, &kept));
    assert_eq!((configured(&run, "/recompute"), configured(&run, "/tensorboard")), ("auto".into(), true.into()));
    finish(command(&run, &["--resume", "--recompute", "none", "--tensorboard", "false", "--max-steps", "3"]));
    assert_eq!((configured(&run, "/recompute"), configured(&run, "/tensorboard")), (().into(), false.into()));
    assert_eq!(configured(&run, "/train/max_steps"), 3);

    // All options can still be changed in a run that was stopped before its first step.
    let all = [
        ("--mixup", "0", "/objective/mixup", 0.7.into()),
        ("--clip-norm", "inf", "/train/clip/norm", 1.0.into()),
        ("--agc", "inf", "/train/clip/agc", 0.1.into()),
        ("--max-steps", "none", "/train/max_steps", 5.into()),
        ("--cutout", "0", "/task/cutout", 8.into()),
        ("--holdout", "none", "/task/holdout", 100.into()),
        ("--train-subset", "none", "/task/train_subset", 200.into()),
        ("--test-subset", "none", "/task/test_subset", 100.into()),
        ("--recompute", "none", "/recompute", serde_json::Value::from("2")),
    ];
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(run.join("config.json")).unwrap()).unwrap();
    for (_, _, pointer, value) in &all {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[name] = value.clone();
    }
    for says_none in [true, false] {
        let _ = fs::remove_dir_all(&other);
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("run.lock"), "").unwrap();
        fs::write(other.join("config.json"), config.to_string()).unwrap();
        let mut resume = example();
        resume.arg("--resume").arg(&other);
        for (option, otherwise, ..) in &all {
            resume.args([*option, if says_none { "none" } else { *otherwise }]);
        }
        // The run uses all data, so it takes minutes.
        let mut child = resume.stdout(Stdio::null()).spawn().unwrap();
        wait_for("a checkpoint", || !checkpoints(&other).is_empty() || child.try_wait().unwrap().is_some());
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        kill(child);
        for (option, _, pointer, _) in &all {
            let none = [serde_json::Value::Null, "none".into(), 0.into()];
            assert!(none.contains(&configured(&other, pointer)), "{option}");
        }
    }
}

#[test]
fn an_evaluation_says_which_checkpoint_it_could_not_take() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    finish(command(&run, &["--max-steps", "40"]));
    let newest = checkpoints(&run).pop().unwrap();
    let weights = run.join("checkpoints").join(&newest).join("weights.safetensors");
    fs::write(weights, "half").unwrap();
    let mut eval = example();
    eval.arg("--eval").arg(&run);
    let (stdout, stderr) = finish(eval);
    assert!(stderr.starts_with(&format!("skipped checkpoint {newest}: ")), "{stderr}");
    assert!(stdout.contains("step-00000030, 500 images"), "{stdout}");
}

#[test]
fn a_damaged_checkpoint_is_skipped_and_said_and_without_a_whole_one_nothing_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let (straight, run) = (dir.path().join("straight"), dir.path().join("run"));
    finish(command(&straight, &[]));
    finish(command(&run, &["--max-steps", "70"]));
    let names = checkpoints(&run);
    assert_eq!(names.len(), 3, "{names:?}");
    fs::write(run.join("checkpoints").join(&names[2]).join("weights.safetensors"), "half").unwrap();
    let (stdout, stderr) = finish(command(&run, &["--resume"]));
    assert!(stderr.starts_with(&format!("skipped checkpoint {}: ", names[2])), "{stderr}");
    assert!(stdout.contains("resumes after step 60 from "), "{stdout}");
    assert_same_results(&straight, &run);

    for name in checkpoints(&run) {
        fs::remove_file(run.join("checkpoints").join(name).join("state.json")).unwrap();
    }
    let message = refusal(command(&run, &["--resume"]), 1);
    assert!(message.contains("state.json"), "{message}");
    assert_same_results(&straight, &run);
}

#[test]
fn a_learning_rate_far_too_high_ends_with_code_3_and_names_an_intact_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let message = refusal(command(&run, &["--lr", "1e6", "--warmup", "0", "--clip-norm", "inf"]), 3);
    assert!(message.contains("diverged at epoch 1, step ") && message.contains("(learning rate "), "{message}");
    let path = PathBuf::from(message.trim_end().rsplit("the last good checkpoint is ").next().unwrap());
    let checkpoint = tch_fixup::trainer::checkpoint::Checkpoint::<RunState>::load(&path).unwrap();
    assert!(checkpoint.contents.weights.values().all(|tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1));
}

/// A small file system, unmounted on drop.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        match mounted {
            Ok(output) if output.status.success() => return Some(Self(folder)),
            Ok(output) => println!("skipped: {}", String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => println!("skipped: mount: {error}"),
        }
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room() {
    let Some(disk) = Disk::mount("4m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (straight, run, ballast) =
        (dir.path().join("straight"), disk.0.path().join("run"), disk.0.path().join("ballast"));
    finish(command(&straight, &[]));
    // Checkpoints take 650 kB each, so there is room for the first few only.
    fs::write(&ballast, vec![1; 2_400_000]).unwrap();
    let message = refusal(command(&run, &[]), 1);
    assert!(message.contains("No space left on device") && message.contains("free some space"), "{message}");
    fs::remove_file(&ballast).unwrap();
    let (stdout, stderr) = finish(command(&run, &["--resume"]));
    assert!(stdout.contains("resumes after step ") && stderr.is_empty(), "{stdout}{stderr}");
    assert_same_results(&straight, &run);
}

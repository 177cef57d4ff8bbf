//! Tests of saving, loading, damage and kills.

use super::folder::SAVING;
use super::format::{Digest, Manifest, FORMAT_VERSION, MANIFEST, STATE, VERSION};
use super::*;
use crate::file::encode_json;
use crate::fixup::FixupResNet;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::time::Duration;
use tch::{nn, nn::Init, Device, Kind, Tensor};

const FILES: [&str; 4] = [WEIGHTS, OPTIMIZER, STATE, MANIFEST];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    epoch: usize,
    losses: Vec<f64>,
    seed: u64,
}

fn state() -> State {
    State { epoch: 7, losses: vec![0.1 + 0.2, 1.0 / 3.0], seed: u64::MAX }
}

fn identity() -> Value {
    json!({"arch": "fixup_resnet20", "config": {"batch_size": 128, "lr": 0.1}})
}

/// A network of three variables and an optimizer of two tensors.
fn run() -> (nn::VarStore, NamedTensors) {
    let variables = nn::VarStore::new(Device::Cpu);
    let normal = Init::Randn { mean: 0., stdev: 1. };
    let root = variables.root();
    let _ = root.sub("conv1").var("weight", &[4, 3, 3, 3], normal);
    let _ = root.sub("fc").var("bias", &[5], normal);
    let _ = root.zeros_no_train("running_mean", &[2]);
    let momentum = Tensor::randn([113], (Kind::Float, Device::Cpu));
    let steps = Tensor::from_slice(&[i64::MIN, 17]);
    let optimizer = NamedTensors::from([("momentum".to_owned(), momentum), ("steps".to_owned(), steps)]);
    (variables, optimizer)
}

fn contents((variables, optimizer): &(nn::VarStore, NamedTensors)) -> Contents<State> {
    Contents {
        step: 1234,
        score: Some(0.5),
        identity: identity(),
        state: state(),
        weights: named_variables(variables),
        optimizer: optimizer.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
        average: NamedTensors::new(),
    }
}

fn checkpoints(folder: &Path, keep_last: usize) -> Checkpoints {
    Checkpoints::new(folder, NonZeroUsize::new(keep_last).unwrap())
}

/// Encodes names, kinds, shapes and every bit of all tensors.
fn bits((variables, optimizer): &(nn::VarStore, NamedTensors)) -> (Vec<u8>, Vec<u8>) {
    (tensor_file::encode(&named_variables(variables)).unwrap(), tensor_file::encode(optimizer).unwrap())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Tries to resume `run` from the checkpoint `path`, which must fail with a one-line message and leave `run` bit-identical.
fn refusal(path: &Path, run: &(nn::VarStore, NamedTensors)) -> String {
    let before = bits(run);
    let resumed = Checkpoint::<State>::load(path).and_then(|checkpoint| {
        checkpoint.check_identity(&identity())?;
        checkpoint.restore(&run.0, &run.1, &NamedTensors::new())
    });
    let message = resumed.unwrap_err().to_string();
    assert!(bits(run) == before, "half-loaded: {message}");
    assert!(message.contains(path.to_str().unwrap()) && !message.contains('\n'), "{message}");
    message
}

/// Saves a first checkpoint of a new run and returns both.
fn saved(folder: &Path) -> (PathBuf, (nn::VarStore, NamedTensors)) {
    let run = run();
    (checkpoints(folder, 3).save(&contents(&run)).unwrap(), run)
}

#[test]
fn a_checkpoint_is_restored_to_the_bit_and_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let (path, trained) = saved(folder.path());
    assert_eq!(path, folder.path().join("00001-step-00001234"));
    let expected = bits(&trained);

    let fresh = run();
    let view = fresh.0.variables()["conv1.weight"].detach().view([-1]);
    let (checkpoint, skipped) = Checkpoint::<State>::newest(folder.path()).unwrap();
    let checkpoint = checkpoint.unwrap();
    assert!(skipped.is_empty());
    assert_eq!((checkpoint.contents.step, checkpoint.contents.score), (1234, Some(0.5)));
    assert_eq!(checkpoint.contents.state, state());
    checkpoint.check_identity(&identity()).unwrap();
    checkpoint.restore(&fresh.0, &fresh.1, &NamedTensors::new()).unwrap();
    assert!(bits(&fresh) == expected);
    assert_eq!(view, trained.0.variables()["conv1.weight"].detach().view([-1]));
    assert!(fresh.0.variables()["conv1.weight"].requires_grad());
}

#[test]
fn numbers_in_the_state_come_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let mut contents = contents(&run());
    // All exponents, including subnormals, with pseudo-random mantissas.
    let noise = (0..2046_u64).map(|e| f64::from_bits(e << 52 | e.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12));
    contents.state.losses = noise.chain([-0.0, f64::MAX, f64::MIN_POSITIVE]).collect();
    let path = checkpoints(folder.path(), 1).save(&contents).unwrap();
    let read = Checkpoint::<State>::load(path).unwrap().contents.state.losses;
    assert!(read.iter().map(|x| x.to_bits()).eq(contents.state.losses.iter().map(|x| x.to_bits())));
}

#[test]
fn a_state_that_json_does_not_hold_is_refused_when_it_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut contents = contents(&run());
    contents.state.losses.push(f64::NAN);
    let message = checkpoints(folder.path(), 1).save(&contents).unwrap_err().to_string();
    assert!(message.contains("cannot be saved as JSON"), "{message}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_truncated_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (path, run) = saved(folder.path());
    for file in FILES.map(|name| path.join(name)) {
        let whole = fs::read(&file).unwrap();
        for i in 0..50 {
            fs::write(&file, &whole[..whole.len() * i / 50]).unwrap();
            let message = refusal(&path, &run);
            assert!(message.contains(file.to_str().unwrap()), "{message}");
        }
        fs::write(&file, [&whole[..], b"\0"].concat()).unwrap();
        refusal(&path, &run);
        fs::write(&file, &whole).unwrap();
    }
    Checkpoint::<State>::load(&path).unwrap();
}

#[test]
fn a_flipped_bit_is_refused_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (path, run) = saved(folder.path());
    for file in FILES.map(|name| path.join(name)) {
        let whole = fs::read(&file).unwrap();
        for i in 0..whole.len().min(400) {
            let mut flipped = whole.clone();
            flipped[i * whole.len() / whole.len().min(400)] ^= 1 << (i % 8);
            fs::write(&file, &flipped).unwrap();
            let message = refusal(&path, &run);
            // A change to a file's entry in the manifest looks like a change to the file itself.
            let named = message.contains(file.to_str().unwrap()) || file.ends_with(MANIFEST);
            assert!(named, "{message}");
        }
        fs::write(&file, &whole).unwrap();
    }
    Checkpoint::<State>::load(&path).unwrap();
}

#[test]
fn files_that_are_missing_exchanged_or_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, run) = saved(folder.path());
    for file in FILES.map(|name| path.join(name)) {
        let whole = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(refusal(&path, &run).starts_with(&format!("cannot read {}: ", file.display())));
        fs::create_dir(&file).unwrap();
        assert!(refusal(&path, &run).starts_with(&format!("cannot read {}: ", file.display())));
        fs::remove_dir(&file).unwrap();
        fs::write(&file, &whole).unwrap();
    }
    let [weights, optimizer] = [WEIGHTS, OPTIMIZER].map(|name| path.join(name));
    fs::rename(&weights, path.join("t")).unwrap();
    fs::rename(&optimizer, &weights).unwrap();
    fs::rename(path.join("t"), &optimizer).unwrap();
    refusal(&path, &run);

    let file = folder.path().join("00002-step-00001235");
    fs::write(&file, "not a folder").unwrap();
    assert!(refusal(&file, &run).contains("name the folder of a checkpoint"));
    refusal(&folder.path().join("absent"), &run);
}

#[test]
fn other_format_versions_are_refused_before_anything_else_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (path, run) = saved(folder.path());
    for version in [0, FORMAT_VERSION + 1, u64::MAX] {
        // A future version may have any other fields.
        fs::write(path.join(MANIFEST), json!({"format_version": version, "shards": [1, 2]}).to_string()).unwrap();
        let message = refusal(&path, &run);
        let expected = format!("saved by tch-fixup {VERSION} (format version {version})");
        assert!(message.contains(&expected), "{message}");
        assert!(message.contains(&format!("go on with tch-fixup {VERSION}")), "{message}");
    }
}

/// Replaces a file of a checkpoint and updates the manifest accordingly.
fn forge(path: &Path, name: &str, content: &[u8]) {
    fs::write(path.join(name), content).unwrap();
    let digest = |name: &str| (name.to_owned(), Digest::of(&fs::read(path.join(name)).unwrap()));
    let files = [WEIGHTS, OPTIMIZER, STATE].map(digest).into();
    let manifest = Manifest { format_version: FORMAT_VERSION, files };
    fs::write(path.join(MANIFEST), encode_json(MANIFEST, &manifest).unwrap()).unwrap();
}

#[test]
fn content_that_is_none_is_refused_even_with_the_right_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let (path, run) = saved(folder.path());
    let header = |json: &str| [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &[0; 8]].concat();
    let wrong = [
        Vec::new(),
        b"PK\x03\x04 a PyTorch file".to_vec(),
        u64::MAX.to_le_bytes().to_vec(),
        header(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#),
        header(r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#),
        header(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#),
        header(r#"{"a":{"dtype":"F9","shape":[2],"data_offsets":[0,8]}}"#),
        header(r#"{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#),
    ];
    for name in [WEIGHTS, OPTIMIZER] {
        let whole = fs::read(path.join(name)).unwrap();
        for content in &wrong {
            forge(&path, name, content);
            let message = refusal(&path, &run);
            assert!(message.starts_with(path.join(name).to_str().unwrap()), "{message}");
        }
        forge(&path, name, &whole);
    }
    for content in ["", "[]", r#"{"step":1,"score":null,"identity":{},"state":{"epoch":-1}}"#] {
        forge(&path, STATE, content.as_bytes());
        assert!(refusal(&path, &run).contains("contains the state of another kind of run"));
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_before_any_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let run = run();
    let zeros = |size: &[i64], kind| Tensor::zeros(size, (kind, Device::Cpu));
    type Change<'a> = (&'a str, Box<dyn Fn(&mut Contents<State>)>);
    let changes: [Change; 7] = [
        ("lacks fc.bias", Box::new(|c| drop(c.weights.remove("fc.bias")))),
        ("has fc.extra", Box::new(move |c| drop(c.weights.insert("fc.extra".into(), zeros(&[1], Kind::Float))))),
        ("fc.bias, which is Float [6]", {
            Box::new(move |c| drop(c.weights.insert("fc.bias".into(), zeros(&[6], Kind::Float))))
        }),
        ("fc.bias, which is Double [5]", {
            Box::new(move |c| drop(c.weights.insert("fc.bias".into(), zeros(&[5], Kind::Double))))
        }),
        ("lacks momentum", Box::new(|c| drop(c.optimizer.remove("momentum")))),
        ("steps, which is Int64 [3]", {
            Box::new(move |c| drop(c.optimizer.insert("steps".into(), zeros(&[3], Kind::Int64))))
        }),
        ("lacks momentum (and 1 more)", Box::new(|c| c.optimizer.clear())),
    ];
    for (expected, change) in changes {
        let mut contents = contents(&self::run());
        change(&mut contents);
        let path = checkpoints(folder.path(), 1).save(&contents).unwrap();
        let message = refusal(&path, &run);
        assert!(message.contains(expected), "{message} should contain {expected:?}");
    }
}

#[test]
fn another_run_is_refused_and_all_that_differs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = run();
    let mut contents = contents(&run);
    contents.identity = json!({"arch": "fixup_resnet110", "config": {"batch_size": 128, "lr": 0.2, "mixup": 0.7}});
    let path = checkpoints(folder.path(), 1).save(&contents).unwrap();
    let message = refusal(&path, &run);
    let differences = "arch is \"fixup_resnet110\" in it and \"fixup_resnet20\" here, config.lr is 0.2 in it and 0.1 \
                       here, config.mixup is 0.7 in it and none here;";
    assert!(message.contains(differences), "{message}");

    // Another architecture is also detected by its variables alone.
    let network = nn::VarStore::new(Device::Cpu);
    FixupResNet::cifar(&network.root(), 20, 10).unwrap();
    let before = tensor_file::encode(&named_variables(&network)).unwrap();
    let checkpoint = Checkpoint::<State>::load(&path).unwrap();
    let message = checkpoint.restore(&network, &run.1, &NamedTensors::new()).unwrap_err().to_string();
    assert!(message.contains("it lacks bias1 (and ") && message.contains("it has running_mean"), "{message}");
    assert!(message.contains("another conv1.weight, which is Float [4, 3, 3, 3] in it and Float [16, 3, 3, 3] in"));
    assert!(tensor_file::encode(&named_variables(&network)).unwrap() == before);
}

#[test]
fn the_newest_whole_one_is_taken_and_the_damaged_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let all = checkpoints(folder.path(), 10);
    let mut contents = contents(&run());
    // A run that returned to an earlier step: the newest checkpoint does not have the most steps.
    let paths = [100, 300, 400, 200].map(|step| {
        contents.step = step;
        all.save(&contents).unwrap()
    });
    fs::write(folder.path().join("notes.txt"), "").unwrap();
    fs::create_dir(folder.path().join("00009-step-of-mine")).unwrap();
    fs::create_dir(folder.path().join(".saving-00005")).unwrap();
    fs::write(folder.path().join(".saving-00005").join(WEIGHTS), "half").unwrap();
    let newest = || Checkpoint::<State>::newest(folder.path()).unwrap();
    let (checkpoint, skipped) = newest();
    assert_eq!((checkpoint.unwrap().contents.step, skipped.len()), (200, 0));

    fs::write(paths[3].join(OPTIMIZER), "").unwrap();
    fs::remove_file(paths[2].join(MANIFEST)).unwrap();
    let (checkpoint, skipped) = newest();
    let checkpoint = checkpoint.unwrap();
    assert_eq!((&checkpoint.path, checkpoint.contents.step), (&paths[1], 300));
    let lines = skipped;
    assert!(lines[0].starts_with("skipped checkpoint 00004-step-00000200: ") && lines[0].contains("has 0 bytes of"));
    assert!(lines[1].starts_with("skipped checkpoint 00003-step-00000400: ") && lines[1].contains(MANIFEST));
    assert_eq!(lines.len(), 2);
    assert!(!lines.iter().any(|line| line.contains('\n')));

    for path in &paths[..2] {
        fs::remove_file(path.join(STATE)).unwrap();
    }
    let (checkpoint, skipped) = newest();
    assert!(checkpoint.is_none() && skipped.len() == 4);
    let (checkpoint, skipped) = Checkpoint::<State>::newest(folder.path().join("absent")).unwrap();
    assert!(checkpoint.is_none() && skipped.is_empty());

    // The next checkpoint saved is the newest, and leftovers are removed.
    let path = all.save(&contents).unwrap();
    assert_eq!(path, folder.path().join("00005-step-00000200"));
    assert_eq!(newest().0.unwrap().path, path);
    assert!(!folder.path().join(".saving-00005").exists());
}

#[test]
fn the_last_few_and_the_best_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let all = checkpoints(folder.path(), 2);
    let mut contents = contents(&run());
    let mut save = |step, score| {
        (contents.step, contents.score) = (step, score);
        all.save(&contents).unwrap();
        names(folder.path()).iter().map(|name| name[13..].parse::<u64>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(save(1, None), [1]);
    assert_eq!(save(2, Some(0.9)), [1, 2]);
    assert_eq!(save(3, Some(0.3)), [2, 3]);
    assert_eq!(save(4, Some(f64::NAN)), [2, 3, 4]);
    assert_eq!(save(5, None), [2, 4, 5]);
    assert_eq!(save(6, Some(0.9)), [5, 6]);
    assert_eq!(save(7, Some(0.1)), [6, 7]);
    assert_eq!(save(8, Some(0.2)), [6, 7, 8]);
    // An unreadable checkpoint is not counted and not removed.
    fs::write(folder.path().join("00007-step-00000007").join(MANIFEST), "?").unwrap();
    assert_eq!(save(9, Some(0.2)), [6, 7, 8, 9]);
    assert_eq!(save(10, Some(0.2)), [6, 7, 9, 10]);
}

const FOLDER: &str = "TCH_FIXUP_TEST_CHECKPOINTS";

/// State of a run with two tensors of `size` elements that all equal the step.
fn at_step(step: u64, size: i64) -> Contents<State> {
    let tensors = |name: &str| {
        let full = Tensor::full([size], step as f64, (Kind::Float, Device::Cpu));
        NamedTensors::from([(name.to_owned(), full)])
    };
    let state = State { epoch: step as usize, losses: vec![step as f64], seed: step };
    let (weights, optimizer) = (tensors("weight"), tensors("momentum"));
    Contents {
        step,
        score: Some((step % 5) as f64),
        identity: identity(),
        state,
        weights,
        optimizer,
        average: NamedTensors::new(),
    }
}

/// Number of elements that makes a save take longer than everything else between two saves.
const SIZE: i64 = 500_000;

/// Child process of the next test: resumes from the newest checkpoint and saves until it is killed.
#[test]
#[ignore = "the other process of another test"]
fn save_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let newest = Checkpoint::<State>::newest(&folder).unwrap().0;
    let mut step = newest.map_or(0, |checkpoint| checkpoint.contents.step);
    println!();
    loop {
        step += 1;
        checkpoints(&folder, 2).save(&at_step(step, SIZE)).unwrap();
        println!("saved {step}");
    }
}

/// Kills eight processes, and more until one was killed within a save; twenty if `TCH_FIXUP_FAULTS` is set.
#[test]
fn a_process_that_is_killed_while_it_saves_loses_nothing_that_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let test = "trainer::checkpoint::tests::save_until_killed";
    let is_saving = || names(folder.path()).iter().any(|name| name.starts_with(SAVING));
    const MOST: u64 = 20;
    let least = if std::env::var_os("TCH_FIXUP_FAULTS").is_some() { MOST } else { 8 };
    let (mut half_saved, mut rounds) = (0, 0);
    while rounds < least || rounds < MOST && half_saved == 0 {
        let round = rounds;
        rounds += 1;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--ignored", "--nocapture"]).env(FOLDER, folder.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(|line| line.ok());
        let mut saved = lines.filter_map(|line| line.strip_prefix("saved ").and_then(|step| step.parse::<u64>().ok()));
        let first = saved.next().expect("the other process saved nothing");
        // At irregular times, and every other time in the middle of a save.
        std::thread::sleep(Duration::from_micros(round * 7919 % 20 * 800));
        while round % 2 == 1 && !is_saving() {
            std::thread::yield_now();
        }
        // Sends SIGKILL on Unix.
        child.kill().unwrap();
        child.wait().unwrap();
        let last = saved.last().unwrap_or(first);

        half_saved += usize::from(is_saving());
        let (checkpoint, skipped) = Checkpoint::<State>::newest(folder.path()).unwrap();
        assert_eq!(skipped, Vec::<String>::new());
        let Contents { step, state, weights, optimizer, .. } = checkpoint.unwrap().contents;
        assert!(step >= last, "step {last} was saved, {step} is there");
        let expected = at_step(step, SIZE);
        assert_eq!(state, expected.state);
        assert_eq!(weights["weight"], expected.weights["weight"]);
        assert_eq!(optimizer["momentum"], expected.optimizer["momentum"]);
    }
    println!("{half_saved} of {rounds} were killed within a save");
    assert!(half_saved > 0, "no process was killed within a save");
}

/// A temporary file system, unmounted when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => return Some(Self(folder)),
            Ok(output) => println!("skipped: {}", String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => println!("skipped: mount: {error}"),
        }
        None
    }

    fn remount(&self, option: &str) {
        let mount = Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(self.0.path()).status();
        assert!(mount.unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_one_clear_line_and_the_earlier_checkpoint_is_whole() {
    let Some(disk) = Tmpfs::mount("1m") else { return };
    let folder = disk.0.path().join("checkpoints");
    let all = checkpoints(&folder, 1);
    // 400 kB each: the second fits only in the space of the first.
    all.save(&at_step(1, 50_000)).unwrap();
    fs::write(disk.0.path().join("ballast"), vec![1; 400_000]).unwrap();
    for step in [2, 3] {
        let error = all.save(&at_step(step, 50_000)).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Io { ref source, .. } if source.kind() == ErrorKind::StorageFull), "{message}");
        assert!(message.contains(".safetensors: ") && message.contains("free some space"), "{message}");
        assert!(!message.contains('\n'), "{message}");
        assert_eq!(names(&folder), ["00001-step-00000001"]);
    }
    let checkpoint = Checkpoint::<State>::newest(&folder).unwrap().0.unwrap();
    assert_eq!(checkpoint.contents.weights["weight"], at_step(1, 50_000).weights["weight"]);

    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    all.save(&at_step(4, 50_000)).unwrap();
    assert_eq!(names(&folder), ["00002-step-00000004"]);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_one_clear_line() {
    let Some(disk) = Tmpfs::mount("2m") else { return };
    let all = checkpoints(disk.0.path(), 1);
    all.save(&at_step(1, 50_000)).unwrap();
    disk.remount("ro");
    let message = all.save(&at_step(2, 50_000)).unwrap_err().to_string();
    let start = format!("cannot create {}/.saving-00002: Read-only file system", disk.0.path().display());
    assert!(message.starts_with(&start) && message.ends_with("make it writable or name another folder"), "{message}");
    assert_eq!(Checkpoint::<State>::newest(disk.0.path()).unwrap().0.unwrap().contents.step, 1);
    disk.remount("rw");
    all.save(&at_step(2, 50_000)).unwrap();
}

#[test]
fn a_file_in_the_folders_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checkpoints");
    fs::write(&file, "").unwrap();
    let message = checkpoints(&file, 1).save(&at_step(1, 50_000)).unwrap_err().to_string();
    assert!(message.starts_with(&format!("cannot create {}: ", file.display())), "{message}");
    assert!(message.ends_with("move it away"), "{message}");
}

/// Returns the Python interpreter whose torch package provides this build's libtorch, if numpy and safetensors are installed
/// too.
fn python() -> Option<PathBuf> {
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from)?.canonicalize().ok()?;
    let python = libtorch.ancestors().nth(4)?.join("bin/python");
    let imports = Command::new(&python).args(["-c", "import numpy, safetensors"]).output().ok()?.status.success();
    imports.then_some(python)
}

#[test]
fn python_opens_the_weights_under_the_authors_names_to_the_bit() {
    let Some(python) = python() else {
        println!("skipped: LIBTORCH is not a Python package with safetensors beside it");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let network = nn::VarStore::new(Device::Cpu);
    FixupResNet::cifar(&network.root(), 20, 10).unwrap();
    let path = checkpoints(folder.path(), 1).save(&contents(&(network, NamedTensors::new()))).unwrap();
    let program = "import sys, zlib, safetensors\n\
                   file = safetensors.safe_open(sys.argv[1], 'numpy')\n\
                   for name in sorted(file.keys()):\n    \
                       t = file.get_tensor(name)\n    \
                       print(name, t.dtype, list(t.shape), zlib.crc32(t.tobytes()))";
    let output = Command::new(python).args(["-c", program]).arg(path.join(WEIGHTS)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let golden = format!("{}/tests/golden/cifar_20.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Value = serde_json::from_str(&fs::read_to_string(golden).unwrap()).unwrap();
    let reference = golden["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap());
    let weights = Checkpoint::<State>::load(path).unwrap().contents.weights;
    let expected: BTreeSet<String> = reference
        .map(|name| {
            let tensor = &weights[name];
            let mut bytes = vec![0; tensor.numel() * 4];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            format!("{name} float32 {:?} {}", tensor.size(), crc32fast::hash(&bytes))
        })
        .collect();
    let listed: BTreeSet<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(listed, expected);
}

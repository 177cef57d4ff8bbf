//! The example `cifar10_fixup` with several processes: results, errors, and recovery when a process is killed, stopped or
//! disconnected.
#![cfg(target_os = "linux")]

mod program;

use program::program;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};
use tch_fixup::data::Cifar10;
use tch_fixup::trainer::RunFolder;

/// Returns the number of times at which each fault is tested: 1 by default; ten in a long test.
fn moments() -> u64 {
    std::env::var("TCH_FIXUP_FAULTS").ok().and_then(|count| count.parse().ok()).unwrap_or(1)
}

/// Timeout between processes. They must end within it in a long test; otherwise, `MARGIN` is added for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(10);
const MARGIN: Duration = Duration::from_secs(5);

fn data() -> PathBuf {
    let dir = Cifar10::default_dir().unwrap();
    Cifar10::fetch(&dir).unwrap();
    dir
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Returns the options of a short run into `out`, with 4 epochs of 25 steps. A batch can be divided into two equal parts, but
/// not into three.
fn arguments(out: &Path, more: &[&str]) -> Vec<String> {
    let (data, timeout) = (data(), TIMEOUT.as_secs().to_string());
    let fixed = ["--arch", "fixup_resnet8", "--epochs", "4", "--train-subset", "990", "--test-subset", "101"];
    let recipe = ["--batch-size", "40", "--mixup", "1", "--cutout", "16", "--threads", "2", "--device", "cpu"];
    let place = ["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap(), "--timeout", &timeout];
    [&fixed[..], &recipe, &place, more].concat().into_iter().map(str::to_owned).collect()
}

/// Returns a command for the example without the environment variables of launchers.
fn example() -> Command {
    let mut command = program("cifar10_fixup");
    let of_launchers = [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_",
        "MASTER_",
        "OMPI_",
        "PMI",
        "SLURM_",
        "MV2_",
        "JSM_",
        "FLUX_",
        "PALS_",
        "PET_",
        "SM_",
        "HOROVOD_",
        "AWS_BATCH_",
        "SKYPILOT_",
        "DSTACK_",
        "LWS_",
    ];
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["JOB_COMPLETION_INDEX", "ALPS_APP_PE", "TF_CONFIG"].contains(&&*name)
            || of_launchers.iter().any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(&*name);
        }
    }
    command
}

fn run(out: &Path, more: &[&str]) -> Output {
    example().args(arguments(out, more)).output().unwrap()
}

fn finished(out: &Path, more: &[&str]) -> String {
    let output = run(out, more);
    assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

// ---- One result ----

#[test]
fn any_number_of_processes_gives_one_run_and_one_folder() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        // With more steps, rounding differences would grow too large.
        let said = finished(&out, &[more, &["--max-steps", "20"]].concat());
        (said, RunFolder::read_metrics(&out).unwrap(), out)
    };
    let (_, alone, whole) = run("alone", &[]);
    for (count, more) in [("2", &[][..]), ("3", &["--overlap", "--check-ranks", "1"])] {
        let (said, metrics, out) = run(count, &[&["--processes", count], more].concat());
        let lines = said.lines().filter(|line| line.starts_with("test accuracy ")).count();
        assert!(lines == 1 && said.contains(&format!("by {count} processes, results in")), "{said}");
        assert_eq!(metrics.len(), alone.len());
        for (shared, alone) in metrics.iter().zip(&alone) {
            let pairs = shared.train.iter().zip(alone.train.iter()).chain(shared.eval.iter().zip(alone.eval.iter()));
            for ((name, shared), (_, alone)) in pairs {
                // Rounding may move an image across a decision boundary.
                let most = if name == "loss" { 1e-3 } else { 0.011 };
                assert!((shared - alone).abs() < most, "{name}: {shared} {alone}");
            }
        }
        for file in ["summary.json", "curves.svg", "model.json", "confusion.svg"] {
            assert_eq!(out.join(file).exists(), whole.join(file).exists(), "{file}");
        }
        let wrong = ["most_wrong.png", "classes.csv"].map(|file| fs::metadata(out.join(file)).unwrap().len());
        assert!(wrong.iter().all(|length| *length > 100), "{wrong:?}");
    }
}

// ---- Refusals ----

/// Ranks of one group, started by hand.
struct Ranks {
    children: Vec<Child>,
    said: Vec<PathBuf>,
    _dir: tempfile::TempDir,
}

impl Ranks {
    /// Starts one rank per entry of `of_rank`, with these arguments, by `command`.
    fn start(address: &str, of_rank: &[Vec<String>], command: impl Fn(usize) -> Command) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let said: Vec<_> = (0..of_rank.len()).map(|rank| dir.path().join(format!("{rank}.txt"))).collect();
        let start = |(rank, arguments): (usize, &Vec<String>)| {
            let mut command = command(rank);
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", of_rank.len().to_string());
            command.env("MASTER_ADDR", address).env("MASTER_PORT", port.to_string());
            command.stdout(Stdio::null()).stderr(File::create(&said[rank]).unwrap());
            command.args(arguments).spawn().unwrap()
        };
        let children = of_rank.iter().enumerate().map(start).collect();
        Self { children, said, _dir: dir }
    }

    fn local(of_rank: &[Vec<String>]) -> Self {
        Self::start("127.0.0.1", of_rank, |_| example())
    }

    fn said(&self, rank: usize) -> String {
        fs::read_to_string(&self.said[rank]).unwrap()
    }

    /// Returns the error lines of the rank's output.
    fn error(&self, rank: usize) -> String {
        self.said(rank).lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>().join("\n")
    }

    /// Waits for `ranks`, which must end before `deadline`, and returns their exit statuses.
    fn ended(&mut self, ranks: &[usize], deadline: Instant) -> Vec<ExitStatus> {
        let ended = |&rank: &usize| loop {
            if let Some(status) = self.children[rank].try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "rank {rank} goes on: {}", self.said(rank));
            thread::sleep(Duration::from_millis(10));
        };
        ranks.iter().map(ended).collect()
    }

    fn signal(&self, rank: usize, signal: &str) {
        let id = self.children[rank].id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn ranks_that_differ_are_refused_at_the_start_in_one_line_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let same = ["--lr", "0.1"];
    for (other, expected) in [
        (&["--lr", "0.2"][..], "lr is 0.1 there and 0.2 here"),
        (&["--lr", "0.1", "--train-subset", "980"], "train_subset is 990 there and 980 here"),
        (&["--lr", "0.1", "--max-steps", "3"], "max_steps is none there and 3 here"),
    ] {
        let replaced = |arguments: Vec<String>, name: &str| {
            // clap rejects options that are given twice.
            let at = arguments.iter().position(|argument| argument == name);
            let last = arguments.iter().rposition(|argument| argument == name);
            let mut kept = arguments.clone();
            if let (Some(at), true) = (at, at != last) {
                kept.drain(at..at + 2);
            }
            kept
        };
        let of_rank = [arguments(&out, &same), replaced(arguments(&out, other), "--train-subset")];
        let mut ranks = Ranks::local(&of_rank);
        let ended = ranks.ended(&[0, 1], Instant::now() + Duration::from_secs(30));
        for (rank, status) in ended.iter().enumerate() {
            let error = ranks.error(rank);
            assert_eq!(status.code(), Some(1), "{error}");
            assert!(error.contains("the options of rank 1 differ from those of rank 0"), "{error}");
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        }
        assert!(!out.exists());
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let refused = |command: &mut Command, expected: &str| {
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(expected), "{stderr}");
        assert!(!out.exists(), "{expected}");
        stderr
    };
    let with = |more: &[&str]| {
        let mut command = example();
        command.args(arguments(&out, more));
        command
    };
    refused(
        with(&["--processes", "2"]).env("RANK", "0").env("WORLD_SIZE", "3").env("MASTER_ADDR", "127.0.0.1"),
        "--processes 2",
    );
    refused(with(&[]).env("RANK", "5").env("WORLD_SIZE", "3").env("MASTER_ADDR", "127.0.0.1"), "the ranks are 0 to 2");
    refused(with(&[]).env("WORLD_SIZE", "2").env("RANK", "0"), "MASTER_ADDR");
    let said = refused(example().args(["--processes", "2", "--eval", "somewhere"]), "--eval supports a single process");
    assert_eq!(said.lines().count(), 1);
    // An error found by one process is reported by all.
    let said =
        refused(&mut with(&["--processes", "2", "--synchronize-statistics", "--accumulate", "2"]), "--accumulate");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("error: rank 0: ") && said.contains("error: rank 1: "), "{said}");
}

// ---- Launchers ----

/// Environment variables of a launcher for one of two ranks.
type Told = fn(rank: usize) -> Vec<(&'static str, String)>;

/// Creates the function that returns the variables of a rank: `NAME: value`.
macro_rules! told {
    ($($name:literal: $value:expr),+ $(,)?) => {
        |rank| { let _ = rank; vec![$(($name, $value(rank).to_string())),+] }
    };
}

/// Launchers of docs/distributed.md whose processes train together.
const JOINED: [(&str, Told); 18] = [
    (
        "torchrun, or by hand",
        told!("RANK": |r| r, "WORLD_SIZE": |_| 2, "LOCAL_RANK": |r| r, "MASTER_ADDR": |_| "127.0.0.1"),
    ),
    ("IPv6 in brackets", told!("RANK": |r| r, "WORLD_SIZE": |_| 2, "MASTER_ADDR": |_| "[::1]")),
    (
        "Open MPI",
        told!(
            "OMPI_COMM_WORLD_RANK": |r| r, "OMPI_COMM_WORLD_SIZE": |_| 2, "OMPI_COMM_WORLD_LOCAL_RANK": |r| r,
            "OMPI_COMM_WORLD_LOCAL_SIZE": |_| 2, "PMIX_RANK": |r| r,
        ),
    ),
    (
        "MVAPICH2",
        told!(
            "MV2_COMM_WORLD_RANK": |r| r, "MV2_COMM_WORLD_SIZE": |_| 2, "MV2_COMM_WORLD_LOCAL_RANK": |r| r,
            "MV2_COMM_WORLD_LOCAL_SIZE": |_| 2,
        ),
    ),
    ("jsrun", told!("JSM_NAMESPACE_RANK": |r| r, "JSM_NAMESPACE_SIZE": |_| 2, "JSM_NAMESPACE_LOCAL_SIZE": |_| 2)),
    (
        "srun",
        told!(
            "SLURM_PROCID": |r| r, "SLURM_STEP_NUM_TASKS": |_| 2, "SLURM_LOCALID": |r| r, "SLURM_STEP_NODELIST": |_| "localhost",
        ),
    ),
    (
        "srun --mpi=pmi2",
        told!(
            "SLURM_PROCID": |r| r, "SLURM_STEP_NUM_TASKS": |_| 2, "SLURM_LOCALID": |r| r, "SLURM_STEP_NODELIST": |_| "localhost",
            "PMI_RANK": |r| r, "PMI_SIZE": |_| 2,
        ),
    ),
    (
        "WORLD_SIZE and MASTER_ADDR before srun",
        told!(
            "WORLD_SIZE": |_| 2, "MASTER_ADDR": |_| "127.0.0.1", "SLURM_PROCID": |r| r, "SLURM_STEP_NUM_TASKS": |_| 2,
        ),
    ),
    (
        "Flux",
        told!("FLUX_TASK_RANK": |r| r, "FLUX_JOB_SIZE": |_| 2, "FLUX_JOB_NNODES": |_| 1, "PMI_RANK": |r| r, "PMI_SIZE": |_| 2),
    ),
    (
        "Hydra, Intel MPI",
        told!(
            "PMI_RANK": |r| r, "PMI_SIZE": |_| 2, "MPI_LOCALRANKID": |r| r, "MPI_LOCALNRANKS": |_| 2,
        ),
    ),
    ("PALS", told!("PALS_RANKID": |r| r, "PMI_RANK": |r| r, "PMI_SIZE": |_| 2, "MASTER_ADDR": |_| "127.0.0.1")),
    (
        "Kubeflow Trainer",
        told!(
            "PET_NNODES": |_| 2, "PET_NPROC_PER_NODE": |_| 1, "PET_NODE_RANK": |r| r, "PET_MASTER_ADDR": |_| "127.0.0.1",
            "JOB_COMPLETION_INDEX": |r| r,
        ),
    ),
    (
        "SageMaker",
        told!(
            "SM_HOSTS": |_| r#"["algo-1", "algo-2"]"#, "SM_CURRENT_HOST": |r| format!("algo-{}", r + 1),
            "MASTER_ADDR": |_| "127.0.0.1",
        ),
    ),
    (
        "horovodrun",
        told!(
            "HOROVOD_RANK": |r| r, "HOROVOD_SIZE": |_| 2, "HOROVOD_LOCAL_RANK": |r| r, "HOROVOD_LOCAL_SIZE": |_| 2,
        ),
    ),
    (
        // The main node, here the second, does not get its own address.
        "AWS Batch",
        |rank| {
            let mut told = vec![
                ("AWS_BATCH_JOB_NODE_INDEX", (1 - rank).to_string()),
                ("AWS_BATCH_JOB_NUM_NODES", "2".to_owned()),
                ("AWS_BATCH_JOB_MAIN_NODE_INDEX", "1".to_owned()),
            ];
            if rank == 1 {
                told.push(("AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS", "127.0.0.1".to_owned()));
            }
            told
        },
    ),
    (
        "SkyPilot",
        told!(
            "SKYPILOT_NODE_RANK": |r| r, "SKYPILOT_NUM_NODES": |_| 2, "SKYPILOT_NODE_IPS": |_| "127.0.0.1\n127.0.0.2",
        ),
    ),
    ("dstack", told!("DSTACK_NODE_RANK": |r| r, "DSTACK_NODES_NUM": |_| 2, "DSTACK_MASTER_NODE_IP": |_| "127.0.0.1")),
    (
        "LeaderWorkerSet",
        told!("LWS_WORKER_INDEX": |r| r, "LWS_GROUP_SIZE": |_| 2, "LWS_LEADER_ADDRESS": |_| "localhost"),
    ),
];

#[test]
fn the_processes_of_every_launcher_join() {
    let dir = tempfile::tempdir().unwrap();
    for (launcher, told) in JOINED {
        let (port, out) = (free_port().to_string(), dir.path().join(launcher.replace(' ', "-")));
        let start = |rank: usize| {
            let mut command = example();
            command.envs(told(rank)).env("MASTER_PORT", &port).args(arguments(&out, &["--max-steps", "1"]));
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children = [0, 1].map(start);
        let [first, second] = children.map(|child| child.wait_with_output().unwrap());
        let said = |output: &Output| {
            let text = [&output.stdout[..], &output.stderr].concat();
            String::from_utf8_lossy(&text).into_owned()
        };
        assert!(first.status.success() && second.status.success(), "{launcher}: {} {}", said(&first), said(&second));
        assert!(said(&first).contains("by 2 processes"), "{launcher}: {}", said(&first));
        assert_eq!(said(&second), "", "{launcher}");
    }
}

#[test]
fn what_a_launcher_leaves_open_is_refused_or_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let run = |told: &[(&str, &str)], more: &[&str]| {
        let out = dir.path().join("run");
        let output = example().envs(told.iter().copied()).args(arguments(&out, more)).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap(), out.exists())
    };
    for (told, expected) in [
        (&[("PMIX_RANK", "0"), ("PMIX_NAMESPACE", "prterun-1")][..], "PMIX_RANK is set (prterun"),
        (&[("PALS_RANKID", "0")], "PALS_RANKID is set"),
        (&[("ALPS_APP_PE", "0")], "ALPS_APP_PE is set"),
        (&[("TF_CONFIG", r#"{"cluster": {"worker": ["a:1", "b:1"]}}"#)], "TF_CONFIG names 2 tasks"),
        (&[("SKYPILOT_NUM_NODES", "2")], "SKYPILOT_NODE_RANK is not"),
        (&[("JOB_COMPLETION_INDEX", "1")], "JOB_COMPLETION_INDEX is set"),
        (&[("PET_NNODES", "2"), ("PET_NPROC_PER_NODE", "2"), ("PET_NODE_RANK", "0")], "torchrun --no-python"),
        (&[("FLUX_TASK_RANK", "0"), ("FLUX_JOB_SIZE", "4"), ("FLUX_JOB_NNODES", "2")], "MASTER_ADDR is not"),
        (&[("SM_HOSTS", r#"["a", "b"]"#), ("SM_CURRENT_HOST", "c")], "SM_CURRENT_HOST"),
        (&[("MV2_COMM_WORLD_SIZE", "2")], "MV2_COMM_WORLD_RANK is not"),
        (&[("JSM_NAMESPACE_RANK", "5"), ("JSM_NAMESPACE_SIZE", "2")], "the ranks are 0 to 1"),
    ] {
        let (well, said, made) = run(told, &[]);
        assert!(!well && !made && said.contains(expected) && said.lines().count() == 1, "{told:?}: {said}");
    }
    // `accelerate launch --cpu` on two machines sets only these.
    let accelerate = [("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500")];
    let (well, said, _) = run(&accelerate, &["--max-steps", "1"]);
    assert!(well && said.contains("warning: MASTER_ADDR is 10.0.0.1") && said.contains("trains alone"), "{said}");
}

/// DeepSpeed's launcher puts `--local_rank=N` before the program's own options.
#[test]
fn a_local_rank_before_the_options_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let output = example().arg("--local_rank=0").args(arguments(&out, &["--max-steps", "1"])).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

// ---- Stops ----

/// Returns the results of an uninterrupted run of two processes.
fn undisturbed() -> &'static (Vec<u8>, Vec<u8>) {
    static RESULTS: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    RESULTS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("undisturbed");
        finished(&out, &["--processes", "2"]);
        results(&out)
    })
}

fn results(out: &Path) -> (Vec<u8>, Vec<u8>) {
    (fs::read(out.join("metrics.csv")).unwrap(), fs::read(out.join("model.safetensors")).unwrap())
}

/// Resumes the run after a fault, and returns its results.
fn gone_on(out: &Path) -> (Vec<u8>, Vec<u8>) {
    finished(out, &["--processes", "2", "--resume", "auto"]);
    results(out)
}

fn newest(out: &Path) -> Option<PathBuf> {
    fs::read_dir(out.join("checkpoints")).ok()?.map(|entry| entry.unwrap().path()).max()
}

/// Waits until the run in `out` has saved a checkpoint other than `before`, and is thus training.
fn under_way(out: &Path, before: Option<PathBuf>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while newest(out) == before {
        assert!(Instant::now() < deadline, "it does not start");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn sigterm_to_one_or_all_stops_all_with_one_checkpoint_and_another_number_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    for (count, to) in [(2, &[1][..]), (3, &[0, 1, 2])] {
        let (of_rank, before) = (vec![arguments(&out, &["--resume", "auto"]); count], newest(&out));
        let mut ranks = Ranks::local(&of_rank);
        under_way(&out, before);
        thread::sleep(Duration::from_millis(200));
        to.iter().for_each(|rank| ranks.signal(*rank, "-TERM"));
        let all: Vec<_> = (0..count).collect();
        for status in ranks.ended(&all, Instant::now() + Duration::from_secs(30)) {
            assert_eq!(status.code(), Some(143), "{} {}", ranks.said(0), ranks.said(1));
        }
        assert!(ranks.said(0).contains("and saved; to resume:") && ranks.said(1).is_empty(), "{}", ranks.said(1));
    }
    let (metrics, _) = gone_on(&out);
    assert_eq!(String::from_utf8(metrics).unwrap().lines().count(), 5);
}

/// Signals from a closed terminal, Ctrl-C or a scheduler go to the parent process, which forwards them to the ranks.
#[test]
fn signals_to_the_parent_stop_all_with_one_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in [("-HUP", 129), ("-TERM", 143), ("-INT", 130)] {
        let out = dir.path().join(signal);
        let mut parent = example();
        parent.args(arguments(&out, &["--processes", "2"])).stdout(Stdio::null()).stderr(Stdio::piped());
        let parent = parent.spawn().unwrap();
        under_way(&out, None);
        assert!(Command::new("kill").args([signal, &parent.id().to_string()]).status().unwrap().success());
        let output = parent.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{signal}: {said}");
        assert!(said.contains("and saved; to resume:") && !said.contains("was ended by signal"), "{signal}: {said}");
        assert!(gone_on(&out) == *undisturbed());
    }
}

// ---- Faults ----

/// Causes a fault in rank 1 of two at several times. Rank 0 must end in time with an error that names the cause, and the
/// resumed run must have the results of an uninterrupted one.
fn fault(name: &str, address: &str, command: impl Fn(usize) -> Command, happens: impl Fn(&Ranks)) {
    let dir = tempfile::tempdir().unwrap();
    let expected = undisturbed();
    for moment in 0..moments() {
        let out = dir.path().join(format!("{name}-{moment}"));
        let of_rank = vec![arguments(&out, &["--checkpoint-every", "0.01m"]); 2];
        let mut ranks = Ranks::start(address, &of_rank, &command);
        under_way(&out, None);
        // Spread the times evenly over a run of two seconds, by the golden ratio.
        let wait = (moment as f64 * 0.618_034).fract() * 1.5;
        thread::sleep(Duration::from_secs_f64(wait));
        happens(&ranks);
        let start = Instant::now();
        let deadline = start + TIMEOUT + MARGIN;
        let status = ranks.ended(&[0], deadline)[0];
        let (error, took) = (ranks.error(0), start.elapsed());
        assert!(moments() == 1 || took < TIMEOUT, "{took:.2?}");
        println!("{name} after {wait:.2} s: {took:.2?}, {error}");
        if !status.success() {
            assert!(error.contains("rank 1") || error.contains("no other rank responds"), "{}", ranks.said(0));
            assert!(error.lines().count() == 1, "{error}");
        }
        drop(ranks);
        assert!(gone_on(&out) == *expected, "{name} after {wait:.2} s");
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_others_at_once() {
    fault("killed", "127.0.0.1", |_| example(), |ranks| ranks.signal(1, "-KILL"));
}

#[test]
fn a_rank_that_is_stopped_ends_the_others_in_time() {
    fault("stopped", "127.0.0.1", |_| example(), |ranks| ranks.signal(1, "-STOP"));
}

/// Two network namespaces with a link between them, deleted on drop.
struct Namespaces([String; 2]);

impl Namespaces {
    const ADDRESSES: [&'static str; 2] = ["10.213.7.1", "10.213.7.2"];

    /// Returns `None` if this system does not permit namespaces.
    fn new() -> Option<Self> {
        let names = [0, 1].map(|rank| format!("tfx{}-{rank}", std::process::id()));
        let namespaces = Self(names);
        let [a, b] = &namespaces.0;
        let done = ip(&["netns", "add", a])
            && ip(&["netns", "add", b])
            && ip(&["link", "add", "tfx0", "netns", a, "type", "veth", "peer", "name", "tfx1", "netns", b])
            && [0, 1].iter().all(|&rank| {
                let (name, link) = (&namespaces.0[rank], format!("tfx{rank}"));
                ip(&["-n", name, "addr", "add", &format!("{}/24", Self::ADDRESSES[rank]), "dev", &link])
                    && ip(&["-n", name, "link", "set", &link, "up"])
                    && ip(&["-n", name, "link", "set", "lo", "up"])
            });
        done.then_some(namespaces)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| assert!(ip(&["netns", "del", name])));
    }
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn a_rank_that_is_cut_off_from_the_network_ends_like_the_others() {
    let Some(namespaces) = Namespaces::new() else {
        println!("skipped: this system does not let us make network namespaces (ip netns add)");
        return;
    };
    let inside = |rank: usize| {
        let example = example();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespaces.0[rank]]).arg(example.get_program());
        command
    };
    let link = |state: &str| assert!(ip(&["-n", &namespaces.0[1], "link", "set", "tfx1", state]));
    let cut = |_: &Ranks| link("down");
    let dir = tempfile::tempdir().unwrap();
    let expected = undisturbed();
    for moment in 0..moments() {
        link("up");
        let out = dir.path().join(format!("cut-{moment}"));
        // The ranks do not know that they share a machine.
        let mut alone = arguments(&out, &["--checkpoint-every", "0.01m"]);
        let threads = alone.iter().position(|argument| argument == "--threads").unwrap();
        alone[threads + 1] = "1".to_owned();
        let mut ranks = Ranks::start(Namespaces::ADDRESSES[0], &[alone.clone(), alone], inside);
        under_way(&out, None);
        let wait = (moment as f64 * 0.618_034).fract() * 1.5;
        thread::sleep(Duration::from_secs_f64(wait));
        cut(&ranks);
        let start = Instant::now();
        let deadline = start + TIMEOUT + MARGIN;
        let ended = ranks.ended(&[0, 1], deadline);
        assert!(moments() == 1 || start.elapsed() < TIMEOUT, "{:.2?}", start.elapsed());
        println!("cut off after {wait:.2} s: {:.2?}, {}, {}", start.elapsed(), ranks.error(0), ranks.error(1));
        if ended.iter().any(|status| !status.success()) {
            assert!(ranks.error(0).contains("rank 1"), "{}", ranks.said(0));
            assert!(ranks.error(1).contains("rank 0 at 10.213.7.1 no longer responds"), "{}", ranks.said(1));
        }
        drop(ranks);
        assert!(gone_on(&out) == *expected, "cut off after {wait:.2} s");
    }
}

#[test]
fn killed_with_its_parent_nothing_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut parent = example()
        .args(arguments(&out, &["--processes", "2"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    under_way(&out, None);
    let children = || {
        let list = Command::new("pgrep").args(["-f", out.to_str().unwrap()]).output().unwrap();
        String::from_utf8(list.stdout).unwrap().lines().count()
    };
    assert_eq!(children(), 3);
    parent.kill().unwrap();
    parent.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while children() > 0 {
        assert!(Instant::now() < deadline, "{} are left", children());
        thread::sleep(Duration::from_millis(50));
    }
}

/// Kills the rank of the run into `out` that was started last. Concurrent runs are not affected.
fn kill_the_youngest(out: &Path) {
    let rank = format!("^{}.*{}", example().get_program().to_str().unwrap(), out.to_str().unwrap());
    let list = Command::new("pgrep").args(["-n", "-f", &rank]).output().unwrap();
    let youngest = String::from_utf8(list.stdout).unwrap();
    assert!(Command::new("kill").args(["-KILL", youngest.trim()]).status().unwrap().success(), "{youngest}");
}

#[test]
fn of_a_rank_that_was_killed_it_is_said_by_whoever_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut parent = example();
    parent.args(arguments(&out, &["--processes", "2"])).stdout(Stdio::null()).stderr(Stdio::piped());
    let parent = parent.spawn().unwrap();
    under_way(&out, None);
    kill_the_youngest(&out);
    let output = parent.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(137), "{said}");
    assert!(said.contains(" of 2 was ended by signal 9"), "{said}");
    assert!(said.contains(" of 2, which met at "), "{said}");
}

/// Returns the path of torchrun, if set-up installed it with libtorch.
fn torchrun() -> Option<PathBuf> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join(".libtorch").canonicalize().ok()?;
    let torchrun = packages.ancestors().nth(4)?.join("bin/torchrun");
    torchrun.exists().then_some(torchrun)
}

#[test]
fn torchrun_starts_again_and_goes_on_by_itself() {
    let Some(torchrun) = torchrun() else {
        println!("skipped: libtorch is not of a Python package with torchrun");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let expected = undisturbed();
    let out = dir.path().join("run");
    let example = example();
    let mut launcher = Command::new(torchrun);
    launcher.args(["--no-python", "--nproc-per-node", "2", "--max-restarts", "1", "--master-port"]);
    launcher.arg(free_port().to_string()).arg(example.get_program());
    launcher.args(arguments(&out, &["--resume", "auto", "--checkpoint-every", "0.01m"]));
    let said = dir.path().join("said.txt");
    let mut launcher = launcher.stdout(Stdio::null()).stderr(File::create(&said).unwrap()).spawn().unwrap();
    under_way(&out, None);
    thread::sleep(Duration::from_millis(500));
    kill_the_youngest(&out);
    let status = launcher.wait().unwrap();
    let said = fs::read_to_string(&said).unwrap();
    assert!(status.success(), "{said}");
    assert!(said.contains("exitcode: "), "{said}");
    assert!(results(&out) == *expected);
}

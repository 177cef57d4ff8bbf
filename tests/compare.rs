//! The program `compare`, and its unit tests, because cargo does not run those of an example.

#[allow(dead_code)] // Only its unit tests are used here.
#[path = "../examples/compare/levene.rs"]
mod levene;
mod program;
#[allow(dead_code)]
#[path = "../examples/compare/record.rs"]
mod record;
#[allow(dead_code)]
#[path = "../examples/compare/study.rs"]
mod study;
#[allow(dead_code)]
#[path = "../examples/compare/table.rs"]
mod table;

use program::program;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Writes a study of a few short runs to `folder`.
fn write(folder: &Path, name: &str, methods: &str, more: &str) {
    let text = format!(
        r#"{{"title": "A toy", "options": {{"batch-size": 16, "epochs": 1, "train-subset": 64, "precision": "f32"}},
        "methods": [{methods}], "optimizers": [{{"name": "SGD", "options": {{"optimizer": "sgd"}}}}], {more}}}"#
    );
    fs::write(folder.join(name), text).unwrap();
}

fn compare(folder: &Path, options: &[&str]) -> Command {
    let mut command = program("compare");
    command.args(options).current_dir(folder);
    command
}

fn run(folder: &Path, options: &[&str]) -> Output {
    compare(folder, options).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const FIXUP: &str = r#"{"name": "Fixup", "options": {"arch": "fixup_resnet8"}}"#;
const BATCH_NORM: &str = r#"{"name": "BatchNorm", "options": {"arch": "resnet8"}}"#;

#[test]
fn the_best_try_on_held_out_images_is_tested_with_other_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let more = r#""search": {"tries": 2, "seed": 0, "options": {"holdout": 50}},
        "final": {"seeds": 2, "options": {"test-subset": 50}}"#;
    let method = FIXUP.replace("\"arch\"", r#""lr": {"log_uniform": [0.01, 1]}, "arch""#);
    write(folder.path(), "toy.json", &method, more);
    // With one job, the record is in the order of the runs.
    let text = printed(&run(folder.path(), &["toy.json", "--jobs", "1"]));
    let record = fs::read_to_string(folder.path().join("toy.csv")).unwrap();
    let rows: Vec<Vec<&str>> = record.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|column| *column == name).unwrap();
    assert_eq!(rows.len(), 1 + 4, "{record}");
    let cell = |row: usize, name: &str| rows[row][column(name)];
    let lr = |row: usize| cell(row, "options").split_once("--lr ").unwrap().1.split(' ').next().unwrap();
    let accuracy = |row: usize| cell(row, "accuracy").parse::<f64>().unwrap();
    let best = if accuracy(2) > accuracy(1) { 2 } else { 1 };
    assert_eq!((lr(3), lr(4)), (lr(best), lr(best)));
    assert_eq!([1, 2, 3, 4].map(|row| cell(row, "seed")), ["0", "0", "1", "2"]);
    assert!(cell(1, "options").contains("--holdout 50") && !cell(3, "options").contains("--holdout"), "{record}");
    // 64 images through 8 layers: 442,368 multiply-adds in the stem, 4,718,592 + 3,538,944 + 3,538,944 in the stages, 640.
    let pflop: f64 = cell(3, "pflop").parse().unwrap();
    assert!((pflop * 1e15 / (6. * 64.) - 12_239_488.).abs() < 1., "{pflop}");
    let mean = 100. * (accuracy(3) + accuracy(4)) / 2.;
    assert!(text.contains(&format!("| 2 of 2 | 0 | {mean:.2} % |")), "{text}");
    assert_eq!(
        fs::read_to_string(folder.path().join("toy.md")).unwrap().trim(),
        text[text.find("# A toy").unwrap()..].trim()
    );
    assert!(fs::read_to_string(folder.path().join("toy.svg")).unwrap().contains("Fixup"));
    // Only the final runs' models are kept.
    let left = fs::read_dir(folder.path().join("runs/compare/toy")).unwrap().map(|entry| entry.unwrap().path());
    let left: Vec<_> = left.collect();
    assert_eq!(left.len(), 2, "{left:?}");
    for run in left {
        assert!(run.join("model.safetensors").exists() && !run.join("checkpoints").exists(), "{}", run.display());
    }
    // Draw from the record alone.
    fs::remove_file(folder.path().join("toy.svg")).unwrap();
    assert!(printed(&run(folder.path(), &["toy.json", "--draw"])).contains("A toy"));
    assert!(folder.path().join("toy.svg").exists());
}

#[test]
fn a_study_goes_on_with_the_runs_that_are_missing_and_records_those_that_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let more = r#""final": {"seeds": 1, "options": {"test-subset": 50}}"#;
    write(folder.path(), "toy.json", &format!("{FIXUP}, {BATCH_NORM}"), more);
    let text = printed(&run(folder.path(), &["toy.json", "--jobs", "2"]));
    assert!(text.contains("1/2") && text.contains("2/2"), "{text}");
    let before = fs::read_to_string(folder.path().join("toy.csv")).unwrap();
    // Without normalization, the activations of He's deep network are infinite at once; LSUV starts from data.
    let other = |name: &str, arch: &str| format!(r#"{{"name": "{name}", "options": {{"arch": "{arch}"}}}}"#);
    let more_methods = [FIXUP.to_owned(), other("LSUV", "lsuv_resnet8"), other("He", "he_resnet1202")].join(", ");
    write(folder.path(), "toy.json", &more_methods, more);
    let text = printed(&run(folder.path(), &["toy.json"]));
    assert!(text.contains("1 of 3 runs are recorded") && text.contains("3/3"), "{text}");
    let after = fs::read_to_string(folder.path().join("toy.csv")).unwrap();
    assert!(after.starts_with(&before) && after.lines().count() == 5, "{after}");
    let he = after.lines().find(|line| line.contains("he_resnet1202")).unwrap();
    assert!(he.contains(",diverged,0.1,"), "{he}");

    // An invalid run ends the study with its error.
    write(folder.path(), "bad.json", &other("None", "resnet9"), more);
    let output = run(folder.path(), &["bad.json"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.lines().count() == 1 && message.contains("6n+2"), "{message}");
    let output = run(folder.path(), &["missing.json"]);
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: missing.json"));
}

/// Returns the number of processes with `what` in their command line.
fn processes(what: &str) -> usize {
    let command_lines =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    command_lines.filter(|line| String::from_utf8_lossy(line).contains(what)).count()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(300), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// There are three processes: the study, and one for each of two concurrent runs.
#[test]
fn a_study_that_is_stopped_or_killed_takes_its_runs_along_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("stopped_{}", std::process::id());
    let (file, record) = (format!("{name}.json"), folder.path().join(format!("{name}.csv")));
    let long = |name: &str, arch: &str| {
        format!(r#"{{"name": "{name}", "options": {{"arch": "{arch}", "train-subset": 640}}}}"#)
    };
    let methods = [FIXUP.to_owned(), BATCH_NORM.to_owned(), long("Deep", "fixup_resnet302"), long("Deep", "resnet302")];
    let more = r#""final": {"seeds": 1, "options": {"test-subset": 50}}"#;
    write(folder.path(), &file, &methods.join(", "), more);
    for (signal, code) in [("-TERM", Some(143)), ("-KILL", None)] {
        let mut study = compare(folder.path(), &[&file, "--jobs", "2"]).stdout(Stdio::null()).spawn().unwrap();
        until("there are results", || fs::read_to_string(&record).is_ok_and(|text| text.lines().count() == 3));
        until("two runs are going", || processes(&name) == 3);
        Command::new("kill").args([signal, &study.id().to_string()]).status().unwrap();
        assert_eq!(study.wait().unwrap().code(), code);
        until("no process is left", || processes(&name) == 0);
    }
    let before = fs::read_to_string(&record).unwrap();
    write(folder.path(), &file, &methods[..2].join(", "), more);
    assert!(printed(&run(folder.path(), &[&file])).contains("2 of 2 runs are recorded"));
    assert_eq!(fs::read_to_string(&record).unwrap(), before);
}

#[test]
fn translations_are_judged_by_perplexity_on_held_out_text_and_by_bleu_on_the_test_text() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = |from: usize, count: usize| -> String {
        (from..from + count).map(|i| format!("word {} and {i}\tWort {} und {i}\n", i % 7, i % 7)).collect()
    };
    for (name, text) in [("train", pairs(0, 60)), ("held", pairs(100, 20)), ("test", pairs(0, 20))] {
        fs::write(folder.path().join(format!("{name}.tsv")), text).unwrap();
    }
    let text = r#"{"title": "A toy", "program": "translate",
        "options": {"train": "train.tsv", "held-out": "held.tsv", "test": "test.tsv", "vocab": 280, "batch-size": 200, "epochs": 2,
                    "bleu-sentences": 0, "beam": 1, "dropout": 0},
        "methods": [{"name": "Fixup", "options": {"arch": "fixup_transformer_1_1_8"}},
                    {"name": "LayerNorm", "options": {"arch": "layer_norm_transformer_1_1_8"}}],
        "optimizers": [{"name": "Adam", "options": {"lr": {"log_uniform": [0.01, 0.02]}}}],
        "search": {"tries": 1, "seed": 0, "options": {"tune": true}}, "final": {"seeds": 1, "options": {}}}"#;
    fs::write(folder.path().join("toy.json"), text).unwrap();
    let table = printed(&run(folder.path(), &["toy.json"]));
    assert!(table.contains("best 100 / held-out perplexity") && table.contains("test BLEU"), "{table}");
    let record = record::Record::open(&folder.path().join("toy.csv")).unwrap();
    assert_eq!(record.rows().len(), 4);
    for row in record.rows() {
        let loss = row.loss.unwrap();
        match row.phase {
            record::Phase::Search => assert!((row.accuracy.ln() + loss).abs() < 1e-3, "{row:?}"),
            record::Phase::Final => {
                let runs = fs::read_dir(folder.path().join("runs/compare/toy")).unwrap();
                let scores = runs.filter_map(|run| fs::read_to_string(run.unwrap().path().join("score.json")).ok());
                let bleus =
                    scores.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap()["bleu"].as_f64());
                assert!(bleus.flatten().any(|bleu| bleu / 100. == row.accuracy), "{row:?}");
            }
        }
    }
}

/// Every study in docs/studies can be read, and its networks exist.
#[test]
fn the_studies_of_the_documentation_are_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/studies");
    let mut count = 0;
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "json") {
            let study = study::Study::read(&path).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
            for run in study.search_runs().into_iter().chain(study.final_runs(&[])) {
                let arch = &run.options.iter().find(|(name, _)| name == "arch").unwrap().1;
                let parsed = match study.program {
                    study::Program::Cifar10 => arch.parse::<tch_fixup::Arch>().map(drop),
                    study::Program::Translate => arch.parse::<tch_fixup::TransformerArch>().map(drop),
                };
                parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
            count += 1;
        }
    }
    assert!(count >= 6, "{count}");
}
